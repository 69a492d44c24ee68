"""Comparison of lrgate with other inference engines: the command ``lrgate bench``."""

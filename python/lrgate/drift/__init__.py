"""Drift: how rows of later times differ from those that gates were fitted on."""

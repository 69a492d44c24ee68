"""Conversion of models from other frameworks, which are imported only when they are used."""

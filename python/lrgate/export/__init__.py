"""Conversion of models to other frameworks. Each framework is imported only when it is used."""

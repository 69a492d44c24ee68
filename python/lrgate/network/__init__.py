"""The class `Network`: construction, compilation to an engine, quantisation and checks."""

from lrgate.network.network import Network

__all__ = ["Network"]

"""Networks: `Network`, what it is built from, its engine, and its checks."""

from lrgate.network.network import Network

__all__ = ["Network"]

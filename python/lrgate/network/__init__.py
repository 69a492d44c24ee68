"""The class `Network`: construction, compilation to an engine, quantisation and checks."""

from lrgate.network.changes import (
    declared_classes,
    declared_task,
    replaced,
    with_declared,
    with_engine_plan,
)
from lrgate.network.network import Network

__all__ = [
    "Network",
    "declared_classes",
    "declared_task",
    "replaced",
    "with_declared",
    "with_engine_plan",
]

"""Networks with other parts than the methods of `Network` change, for the other packages."""

from __future__ import annotations

from typing import Any, TypeVar

from lrgate import _core
from lrgate.network.network import Network
from lrgate.network.tasks import declared

__all__ = ["declared_classes", "declared_task", "replaced", "with_declared", "with_engine_plan"]

N = TypeVar("N", bound=Network)


def declared_task(net: Network) -> str | None:
    """The task that a file or a caller declared; None if it was left open."""
    return net._model.task


def declared_classes(net: Network) -> Any:
    """The labels that a file or a caller declared; None if there are none."""
    return net._model.classes


def with_declared(net: N, task: str | None, classes: Any) -> N:
    """The network with a task and labels, unless they are None or differ from its own."""
    if task is None and classes is None:
        return net
    model = declared(net._model, task, classes)
    return replaced(net, task=model.task, classes=model.classes)


def replaced(net: N, **changes: Any) -> N:
    """The network with other fields of its `Model`, except the plan of the same layers.

    The weights of other layers are packed again.
    """
    return net._with(None if "layers" in changes else net.engine, **changes)


def with_engine_plan(net: N, engine: _core.Engine) -> N:
    """The network with an engine of the same layers and another plan."""
    return net._with_engine_plan(engine)

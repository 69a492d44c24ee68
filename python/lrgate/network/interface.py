"""The parts of `Network` that the functions behind its methods use."""

from __future__ import annotations

from typing import Any, Protocol, Self

from lrgate import _core
from lrgate.model.layer import Layer
from lrgate.model.model import Model
from lrgate.model.plan import BatchPlan
from lrgate.types import Float32Array

__all__ = ["Net"]


class Net(Protocol):
    """A `Network`, for modules that `network.py` imports."""

    _model: Model

    @property
    def engine(self) -> _core.Engine: ...

    @property
    def layers(self) -> tuple[Layer, ...]: ...

    @property
    def plan(self) -> tuple[BatchPlan, ...]: ...

    @property
    def task(self) -> str: ...

    @property
    def input_scale(self) -> Float32Array | None: ...

    @property
    def least_margin(self) -> float: ...

    @property
    def output_size(self) -> int: ...

    def __call__(self, x: Any, /) -> Float32Array: ...

    def layer_inputs(self, x: Any) -> list[Float32Array]: ...

    def dense(self) -> Self: ...

    def with_least_margin(self, least: float, /) -> Self: ...

    def with_strategies(self, strategies: list[str], precision: list[str] = ..., /) -> Self: ...

    def _with(self, engine: _core.Engine | None, **changes: Any) -> Self: ...

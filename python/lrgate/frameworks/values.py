"""Values of a graph of tensor operations, as elementwise, linear and selected outputs of stages.

A `Stage` is the network's input, or the result of a function that is not affine. All values between
two stages are `Rows`: affine functions of one stage, with the shape that the tensor has behind the
batch axis. Rows are ``scale * core + offset``, element by element, and a core is linear in its
stage:

- `Outputs`: the stage itself;
- `Taken`: elements of rows, in any order, some more than once;
- `Product`: a matrix times rows;
- `Stacked`: rows one after another;
- `Total`: the sum of rows.

Nothing is computed before a layer needs it, so that the order of operations does not matter, and a
matrix that nothing changes is never copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate.model.activation import Activation
from lrgate.types import Float64Array

__all__ = ["Core", "Function", "Outputs", "Product", "Rows", "Stacked", "Stage", "Taken", "Total"]

Indices = npt.NDArray[np.intp]
# From values (..., elements) to values of the same shape.
Function = Callable[[Float64Array], Float64Array]


@dataclass(frozen=True, eq=False)
class Stage:
    """The input, or a function of rows that is not affine.

    Parameters
    ----------
    size : int
        Number of elements of a row.
    inputs : Rows, optional
        Its argument; None for the input of the network.
    function : callable, optional
        The function, if it is elementwise.
    activation : Activation, optional
        The same function, if it is known as an activation.
    variants : tuple of Rows
        Other rows of the core of `inputs` on which the function was computed. A spelled-out
        activation may have one of them as its argument.
    events : tuple of callable
        Functions of the same values as `function`, which may have a kink or a jump where one of
        them changes its sign.
    where : str
        The node that made the stage, for messages.
    cost : int
        Number of elementwise operations that `function` computes.
    """

    size: int
    inputs: Rows | None = None
    function: Function | None = None
    activation: Activation | None = None
    variants: tuple[Rows, ...] = ()
    events: tuple[Function, ...] = ()
    where: str = ""
    cost: int = 1

    @cached_property
    def outputs(self) -> Outputs:
        return Outputs(self)


@dataclass(frozen=True, eq=False)
class Outputs:
    """The elements of a stage."""

    stage: Stage

    @property
    def size(self) -> int:
        return self.stage.size


@dataclass(frozen=True, eq=False)
class Taken:
    """The elements `index` of a core."""

    of: Core
    index: Indices

    @property
    def size(self) -> int:
        return len(self.index)

    @property
    def stage(self) -> Stage:
        return self.of.stage


@dataclass(frozen=True, eq=False)
class Product:
    """`matrix` (elements, elements of `of`) times rows."""

    of: Rows
    matrix: npt.NDArray[Any]

    @property
    def size(self) -> int:
        return len(self.matrix)

    @property
    def stage(self) -> Stage:
        return self.of.stage


@dataclass(frozen=True, eq=False)
class Stacked:
    """The elements of several rows of one stage; None stands for zeros."""

    parts: tuple[tuple[Rows | None, int], ...]
    stage: Stage

    @property
    def size(self) -> int:
        return sum(size for _, size in self.parts)


@dataclass(frozen=True, eq=False)
class Total:
    """The sum of rows of one stage."""

    parts: tuple[Rows, ...]

    @property
    def size(self) -> int:
        return self.parts[0].size

    @property
    def stage(self) -> Stage:
        return self.parts[0].stage


Core = Outputs | Taken | Product | Stacked | Total


@dataclass(frozen=True, eq=False)
class Rows:
    """``scale * core + offset`` for each row of a batch.

    Parameters
    ----------
    core : Core
    shape : tuple of int
        Shape behind the batch axis, or of the whole tensor without one.
    scale, offset : array (elements,) of float64, optional
        None for 1 and 0.
    batch : int or None
        The number of rows: `chain.BATCH` if any, a number if the graph fixes it, None if the tensor
        has no batch axis.
    """

    core: Core
    shape: tuple[int, ...]
    scale: Float64Array | None = None
    offset: Float64Array | None = None
    batch: int | None = None

    @property
    def stage(self) -> Stage:
        return self.core.stage

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def full_shape(self) -> tuple[int, ...]:
        return self.shape if self.batch is None else (self.batch, *self.shape)

    @property
    def is_plain(self) -> bool:
        return self.scale is None and self.offset is None

    def with_map(
        self, scale: Float64Array | None, offset: Float64Array | None, shape: tuple[int, ...]
    ) -> Rows:
        return Rows(self.core, shape, scale, offset, self.batch)

    def reshaped(self, shape: tuple[int, ...]) -> Rows:
        return self.with_map(self.scale, self.offset, shape)

    def scaled(self, factor: Float64Array) -> Rows:
        scale = factor if self.scale is None else self.scale * factor
        offset = None if self.offset is None else self.offset * factor
        return self.with_map(scale, offset, self.shape)

    def shifted(self, summand: Float64Array) -> Rows:
        offset = summand if self.offset is None else self.offset + summand
        return self.with_map(self.scale, offset, self.shape)

    def taken(self, index: Indices, shape: tuple[int, ...]) -> Rows:
        """The elements `index`, which become a tensor of `shape`."""
        if len(index) == self.size and np.array_equal(index, np.arange(self.size)):
            return self.reshaped(shape)
        core = self.core
        inner = (core.of, core.index[index]) if isinstance(core, Taken) else (core, index)
        scale = None if self.scale is None else self.scale[index]
        offset = None if self.offset is None else self.offset[index]
        return Rows(Taken(*inner), shape, scale, offset, self.batch)

    def apply(self, core: Float64Array) -> Float64Array:
        """The rows' values for values (..., elements) of the core."""
        values = core if self.scale is None else core * self.scale
        return values if self.offset is None else values + self.offset

    def undo(self, values: Float64Array) -> Float64Array:
        """The values of the core that give `values`; any values where the scale is zero."""
        core = values if self.offset is None else values - self.offset
        return core if self.scale is None else core / np.where(self.scale == 0.0, 1.0, self.scale)

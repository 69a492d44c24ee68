"""Rows that are stored with a model, and its outputs on them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrgate.inputs import checked_number
from lrgate.model.arrays import as_float32, as_rows, check_shape, check_type, set_field
from lrgate.model.layer import ReadOnlyArrays
from lrgate.model.plan import BatchPlan, without, words
from lrgate.types import Float32Array

__all__ = ["PlannedOutputs", "Probe"]


@dataclass(frozen=True, eq=False)
class PlannedOutputs(ReadOnlyArrays):
    """Outputs of a network on its probe rows with a plan that has gates, factors or int8 layers.

    Parameters
    ----------
    strategies : tuple of str
        One per layer: ``dense``, ``gate``, ``factor`` or ``factor-gate``. They also cover the
        strategies that skip, which give the same outputs.
    precisions : tuple of str
        ``f32`` or ``int8``, one per layer.
    y : array of shape (n, k)
        Raw outputs of the last layer.
    tolerance : float
        Largest allowed difference from `y` on another machine, or with skip instead of dense,
        relative to the largest output; finite and at least 0.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid.
    """

    strategies: tuple[str, ...]
    precisions: tuple[str, ...]
    y: Float32Array
    tolerance: float

    def __post_init__(self) -> None:
        plan = BatchPlan(1, self.strategies, self.precisions)
        for i, word in enumerate(plan.strategies):
            if "skip" in words(word):
                raise ValueError(f"strategies[{i}] must be {without(word, 'skip')}, got {word!r}")
        set_field(self, "strategies", plan.strategies)
        set_field(self, "precisions", plan.precisions)
        set_field(self, "y", as_float32(self.y, "y", "(n, k)"))
        tolerance = checked_number(self.tolerance, "tolerance")
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"tolerance must be finite and at least 0, got {tolerance}")
        set_field(self, "tolerance", tolerance)


@dataclass(frozen=True, eq=False)
class Probe(ReadOnlyArrays):
    """A few real input rows with the network's outputs, for timing and for checks after loading.

    Parameters
    ----------
    x : array of shape (n, d)
        Raw input rows, before the network's scale and shift. uint8 stays uint8, other dtypes become
        float32.
    y : array of shape (n, k)
        Raw outputs of the last layer for these rows, dense in f32.
    planned : tuple of PlannedOutputs, optional
        Outputs with plans that have gates, factors or int8 layers, one for each combination. None
        if they were not computed, as in files of format version 1.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid.
    """

    x: npt.NDArray[np.uint8] | Float32Array
    y: Float32Array
    planned: tuple[PlannedOutputs, ...] | None = None

    def __post_init__(self) -> None:
        set_field(self, "x", as_rows(self.x, "x", "(n, d)"))
        set_field(self, "y", as_float32(self.y, "y", "(n, k)"))
        check_shape("y", self.y, (self.x.shape[0], self.y.shape[1]))
        if self.planned is None:
            return
        if not isinstance(self.planned, tuple | list):
            raise TypeError(f"planned must be a tuple or None, got {type(self.planned).__name__}")
        set_field(self, "planned", tuple(self.planned))
        for i, outputs in enumerate(self.planned):
            check_type(f"planned[{i}]", outputs, PlannedOutputs)
            check_shape(f"planned[{i}].y", outputs.y, self.y.shape)

    def __repr__(self) -> str:
        rows, width = self.x.shape
        return f"Probe({rows} rows, {width} -> {self.y.shape[1]}, {self.x.dtype})"

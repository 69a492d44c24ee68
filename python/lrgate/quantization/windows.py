"""Windows: the ranges of values that the bytes of a layer's inputs represent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.model.layer import Quantization
from lrgate.quantization.rows import chunks
from lrgate.types import BoolArray, Float32Array, Float64Array

__all__ = [
    "Windows",
    "largest_good",
    "low_at",
    "outside",
    "placed",
    "some_step",
    "step_at",
]


# Smallest step: the inverse of a smaller step is hardly finite in float32.
LEAST_STEP: Final = 1e-36
# Step of an input whose weights are all 0: every value fits.
UNUSED_STEP: Final = 1e37


def outside(values: Any, quantization: Quantization, *, first: bool) -> BoolArray:
    """Find the rows outside the windows of a layer's inputs, which the engine recomputes.

    Parameters
    ----------
    values : array of shape (n, in), or CSR
        Inputs of the layer: raw rows for a network's first layer.
    quantization : Quantization
    first : bool
        Whether the layer is the first layer of a network. Its values may be up to one step outside
        the range of the bytes. Bytes of other layers must be below 255 and, if the offset is not 0,
        above 0. The engine recomputes rows with byte 255, or more than half a step below byte 0.

    Returns
    -------
    bool array of shape (n,)
    """
    d = values.shape[1]
    inverse = np.broadcast_to(1 / quantization.scale, (d,))
    offset = np.broadcast_to(quantization.offset, (d,))
    low, high = _usable(offset, first)
    if hasattr(values, "tocsr"):
        with np.errstate(over="ignore", invalid="ignore"):
            q = values.data * inverse[values.indices] + offset[values.indices]
        bad = (q < low[values.indices]) | (q > high[values.indices])
        result = np.zeros(values.shape[0], bool)
        entry_rows = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
        result[entry_rows[bad]] = True
        zero = (offset < low) | (offset > high)
        if zero.any():
            given = np.bincount(entry_rows[zero[values.indices]], minlength=len(result))
            result |= given < zero.sum()
        return result
    result = np.empty(len(values), bool)
    for at in chunks(len(values), d):
        with np.errstate(over="ignore", invalid="ignore"):
            q = values[at] * inverse + offset
            result[at] = ((q < low) | (q > high)).any(axis=1)
    return result


@dataclass
class Windows:
    """Windows of a layer's inputs, from `low` to `low + step * levels`."""

    low: Float64Array
    step: Float64Array

    def with_zero(self, levels: int) -> BoolArray:
        return (self.low <= 0) & (self.low + self.step * levels >= 0)


def _usable(offset: Float32Array, first: bool) -> tuple[Float32Array, Float32Array]:
    """Lowest and highest values, before rounding, that are inside the window."""
    if first:
        return np.full_like(offset, -1), np.full_like(offset, 256)
    # The engine's range is -0.5 to 254.5; one step at the lower end is a reserve. With an offset of
    # 0, no value is negative.
    low = np.where(offset == 0, -np.inf, np.nextafter(np.float32(0.5), np.float32(1)))
    return low.astype(np.float32), np.full_like(offset, 254.5)


def step_at(low: Float64Array, high: Float64Array, offset: float) -> Float64Array:
    """Steps of a later layer's inputs from `low` to `high`, with zero at the byte `offset`."""
    top = high / (254 - offset)
    return top if offset == 0 else np.maximum(top, -low / (offset - 1))


def low_at(step: Float64Array, offset: float) -> Float64Array:
    return -step * max(offset - 1, 0.0)


def some_step(low: Float64Array) -> Float64Array | float:
    """The default step of an input that never varies."""
    return np.maximum(np.abs(low), 1.0) / 127


def placed(values: npt.NDArray[Any], width: float) -> float:
    """The start of the window of this width that holds the most of the sorted `values`.

    The start is 0 if possible.
    """
    values = values.astype(np.float64)
    ends = np.searchsorted(values, values + width, side="right")
    counts = ends - np.arange(len(values))
    k = int(counts.argmax())
    begin, end = float(values[k]), float(values[ends[k] - 1])
    if begin >= 0 and end <= width:
        return 0.0
    return begin - (width - (end - begin)) / 2


def largest_good(good: Callable[[float], bool], start: float) -> float:
    """The largest level that is `good`, within a few percent; all lower levels are good, too."""
    low, high = start, start
    for _ in range(100):
        if good(low):
            break
        low, high = low / 4, low
    else:
        return low
    for _ in range(50):
        if low < high or not good(4 * low):
            break
        low, high = 4 * low, 4 * low
    high = max(high, 4 * low) if low == high else high
    for _ in range(6):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if good(middle) else (low, middle)
    return low

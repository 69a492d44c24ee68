"""Weights too small to matter, which are computed as zero.

Weight decay shrinks the weights of units that are off until they are subnormal in float32. Their
products with inputs are subnormal, too, and most processors take over a hundred cycles for each.
Without such weights a small network can be several times as fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from lrgate.model.activation import Activation
from lrgate.model.arrays import read_only
from lrgate.model.layer import Layer
from lrgate.types import BoolArray, Float32Array, Float64Array

__all__ = ["REACH", "SMALL", "count_small", "without_small"]


# Only smaller weights and biases are set to zero.
SMALL: Final = 2.0**-100

# Inputs may be this many times as large as those of the rows given, and the outputs then change by
# less than this share of their spread: a roundoff of float32 is 65,536 times as large.
REACH: Final = 2.0**20
_SHARE: Final = 2.0**-40

# Activations whose outputs may change by any multiple of a change of the pre-activation. The
# derivatives of the others are at most 2, or the largest of their parameters.
_STEEP: Final = frozenset({"thresholded_relu", "squared_relu", "exp"})


def count_small(layers: Sequence[Layer]) -> int:
    """Weights and biases that are not zero and smaller than `SMALL`."""
    arrays = [array for layer in layers for array in (layer.weight, layer.bias)]
    return sum(int(np.count_nonzero(_is_small(array))) for array in arrays)


def without_small(
    layers: Sequence[Layer], largest: Float64Array, spread: Float64Array
) -> list[Layer] | None:
    """The layers with all weights and biases below `SMALL` set to zero, if that changes nothing.

    It changes nothing if the outputs of rows up to `REACH` times as large as those given change by
    less than 2^-40 of their spread. The change is bounded by norms, layer by layer.

    Parameters
    ----------
    layers : sequence of Layer
        Without gates, factors and quantization.
    largest : array (d,)
        Largest magnitude of each of the first layer's inputs, over the rows.
    spread : array (k,)
        Standard deviation of each output, over the rows.

    Returns
    -------
    list of Layer, or None
        None if the bound of the change is not below the limit.

    Examples
    --------
    >>> layer = Layer([[1.0, 1e-40]], [1.0], Activation("identity"))
    >>> [made] = without_small([layer], np.ones(2), np.ones(1))
    >>> made.weight.tolist()
    [[1.0, 0.0]]
    """
    made = []
    size, change = REACH * largest, np.zeros(len(largest))
    for layer in layers:
        steepest = _steepest(layer.activation)
        if not math.isfinite(steepest):
            return None
        kept = Layer(_flushed(layer.weight), _flushed(layer.bias), layer.activation)
        size, change = _bounds(layer, kept, size, change, steepest)
        made.append(kept)
    return made if np.all(change < _SHARE * spread) else None


def _bounds(
    layer: Layer, made: Layer, size: Float64Array, change: Float64Array, steepest: float
) -> tuple[Float64Array, Float64Array]:
    """Bounds of the magnitude and of the change of a layer's outputs, from those of its inputs."""
    weight, bias = (np.abs(each.astype(np.float64)) for each in (layer.weight, layer.bias))
    small_weight, small_bias = (
        np.where(after == 0, before, 0.0)
        for before, after in ((weight, made.weight), (bias, made.bias))
    )
    with np.errstate(over="ignore", invalid="ignore"):
        most = weight @ size + bias
        change = steepest * (weight @ change + small_weight @ size + small_bias)
        low, high = layer.activation.bounds(-most, most)
        return np.maximum(np.abs(low), np.abs(high)), change


def _is_small(values: Float32Array) -> BoolArray:
    small: BoolArray = (values != 0) & (np.abs(values) < SMALL)
    return small


def _flushed(values: Float32Array) -> Float32Array:
    return read_only(np.where(_is_small(values), np.float32(0), values))


def _steepest(activation: Activation) -> float:
    """A bound of the derivative's magnitude."""
    if activation.name in _STEEP:
        return math.inf
    return max([2.0, *(float(np.max(np.abs(each))) for each in activation.values)])

"""Weights too small to matter, which are computed as zero.

Weight decay shrinks the weights of units that are off until they are subnormal in float32. Their
products with inputs are subnormal, too, which is slow on most processors. Without such weights a
small network can be several times as fast.
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

# Rows may be this many times as large as the rows given.
REACH: Final = 2.0**20

# The largest change of an output, in its standard deviations. A rounding error of float32 is
# 65,536 times as large.
_SHARE: Final = 2.0**-40

# Activations without a bound of the slope: a small change of the pre-activation may change the
# output by much more.
_STEEP: Final = frozenset({"thresholded_relu", "squared_relu", "exp"})

# The slopes of the others are at most 2, or for these the magnitude of a parameter.
_SLOPES: Final = frozenset({"leaky_relu", "prelu", "elu"})


def count_small(layers: Sequence[Layer]) -> int:
    """Weights and biases that are not zero and smaller than `SMALL`."""
    arrays = [array for layer in layers for array in (layer.weight, layer.bias)]
    return sum(int(np.count_nonzero(_is_small(array))) for array in arrays)


def without_small(
    layers: Sequence[Layer], largest: Float64Array, spread: Float64Array
) -> list[Layer] | None:
    """The layers with weights and biases below `SMALL` set to zero, if outputs hardly change.

    On rows up to `REACH` times as large as those given, each output must change by less than 2^-40
    of its standard deviation. The change is bounded by sums of magnitudes, layer by layer.

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
        made.append(_flushed(layer))
        size, change = _bounds(layer, made[-1], size, change)
    return made if np.all(change < _SHARE * spread) else None


def _bounds(
    layer: Layer, made: Layer, size: Float64Array, change: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Bounds of the magnitude and of the change of a layer's outputs, from those of its inputs."""
    weight, bias = (np.abs(each.astype(np.float64)) for each in (layer.weight, layer.bias))
    with np.errstate(over="ignore", invalid="ignore"):
        most = weight @ size + bias
        change = weight @ change
        if made is not layer:
            change += np.where(made.weight == 0, weight, 0.0) @ size
            change += np.where(made.bias == 0, bias, 0.0)
        change *= _steepest(layer.activation)
        if layer.activation.mixes_units:
            change = np.full_like(change, change.max())
        low, high = layer.activation.bounds(-most, most)
        return np.maximum(np.abs(low), np.abs(high)), change


def _is_small(values: Float32Array) -> BoolArray:
    small: BoolArray = (values != 0) & (np.abs(values) < SMALL)
    return small


def _flushed(layer: Layer) -> Layer:
    """The layer without small values; the same object if it has none."""
    small = [_is_small(values) for values in (layer.weight, layer.bias)]
    if not any(each.any() for each in small):
        return layer
    weight, bias = (
        read_only(np.where(each, np.float32(0), values))
        for each, values in zip(small, (layer.weight, layer.bias), strict=True)
    )
    return Layer(weight, bias, layer.activation)


def _steepest(activation: Activation) -> float:
    """A bound of the slope's magnitude."""
    if activation.name in _STEEP:
        return math.inf
    slopes = activation.values if activation.name in _SLOPES else ()
    return max([2.0, *(float(np.max(np.abs(each))) for each in slopes)])

"""Recognition of activations from their values.

Exporters spell activations out: ``x * sigmoid(x)``, ``min(max(x, 0), 6)``, or
``where(x > 20, x, log(1 + exp(x)))``. The forms are many, but each is a function of one
pre-activation. So the function is computed on a grid and compared with each activation, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import numpy as np

from lrgate.frameworks.values import Function
from lrgate.model.activation import Activation
from lrgate.types import Float64Array

__all__ = ["Recognised", "recognised"]

# The activation, and the scale and offset (elements,) behind it.
Recognised = tuple[Activation, Float64Array, Float64Array]

# Constants of graphs are float32, and some have fewer digits.
_TOLERANCE: Final = 2e-6
_FAR: Final = 100.0
_FIXED: Final = (
    "identity",
    "relu",
    "tanh",
    "sigmoid",
    "silu",
    "gelu",
    "gelu_tanh",
    "hard_swish",
    "hard_sigmoid",
    "softplus",
    "mish",
    "elu",
    "selu",
    "squared_relu",
    "exp",
)


def recognised(function: Function, size: int, breaks: tuple[float, ...] = ()) -> Recognised | None:
    """The activation that equals an elementwise function up to a scale and an offset.

    Parameters
    ----------
    function : callable
        From values (n, size) to values of the same shape.
    size : int
        Number of elements.
    breaks : tuple of float
        Constants in the function, near which it may change.

    Returns
    -------
    (Activation, scale, offset) or None
        ``scale * activation(z) + offset`` is the function. None if no activation fits.
    """
    z = _grid(breaks)
    values = _on(function, z, size)
    if not np.isfinite(values).all():
        return None
    for activation in _candidates(z, values, function):
        found = _fitted(activation, z, values)
        if found is not None:
            return found
    return None


def _grid(breaks: tuple[float, ...]) -> Float64Array:
    far = np.array([15.0, 20.5, 30.0, 50.0, _FAR])
    near = np.array([1e-3, 1e-2, 1.0])
    steps = np.linspace(-10.0, 10.0, 401)
    inside = np.array([b for b in breaks if abs(b) <= _FAR])
    beside = 1e-4 * (1.0 + np.abs(inside))
    parts = (steps, far, -far, near, -near, [0.0], inside - beside, inside + beside)
    return np.unique(np.concatenate(parts))


def _on(function: Function, z: Float64Array, size: int) -> Float64Array:
    """The function's values (len(z), size)."""
    return np.asarray(function(np.broadcast_to(z[:, None], (len(z), size))))


def _fitted(activation: Activation, z: Float64Array, values: Float64Array) -> Recognised | None:
    """Scale and offset with which the activation equals the values; None if it does not."""
    units = values.shape[1]
    a = activation.apply(np.broadcast_to(z[:, None], values.shape))
    # Values far from zero may be huge, as those of exp: the fit is on the middle of the grid.
    middle = np.abs(z) <= 10.0
    mean_a, mean_v = a[middle].mean(0), values[middle].mean(0)
    centred = a[middle] - mean_a
    spread = (centred * centred).sum(0)
    if not spread.all():
        return None
    scale = (centred * (values[middle] - mean_v)).sum(0) / spread
    offset = mean_v - scale * mean_a
    scale[np.abs(scale - 1.0) <= _TOLERANCE] = 1.0
    limit = np.abs(scale) * np.abs(mean_a) + 1.0
    offset[np.abs(offset) <= _TOLERANCE * limit] = 0.0
    difference = np.abs(scale * a + offset - values)
    close = difference <= _TOLERANCE * (np.abs(scale) + np.abs(values))
    if not close.all() or not scale.all():
        return None
    return activation, scale.reshape(units), offset.reshape(units)


def _candidates(z: Float64Array, values: Float64Array, function: Function) -> Iterator[Activation]:
    for name in _FIXED:
        yield from _made(name)
    size = values.shape[1]

    def at(point: float) -> Float64Array:
        values: Float64Array = _on(function, np.array([point]), size)[0]
        return values

    low, below, one, high = at(-_FAR), at(-1.0), at(1.0), at(_FAR)
    # Without an offset, the value at 1 is the scale of every function that is linear there.
    scale = np.where(one == 0.0, 1.0, one)
    slope = -below / scale
    if _alike(slope):
        yield from _made("leaky_relu", float(slope[0]))
    else:
        yield from _made("prelu", slope.astype(np.float32))
    alpha = -low / scale
    if _alike(alpha):
        yield from _made("elu", float(alpha[0]))
    if not (_alike(low) and _alike(high)):
        return
    steepest = _steepest(z, values)
    if steepest:
        lower, upper = sorted((float(low[0]) / steepest, float(high[0]) / steepest))
        # Of two names of one function, the one with a hard zero.
        yield from _made("clipped_relu", upper)
        yield from _made("hard_tanh", lower, upper)
    threshold = _threshold(at)
    if threshold is not None:
        yield from _made("thresholded_relu", threshold)


def _made(name: str, *parameters: Any) -> Iterator[Activation]:
    """The activation, if it takes these parameters."""
    with suppress(ValueError):
        yield Activation(name, *parameters)


def _alike(values: Float64Array) -> bool:
    spread = float(np.ptp(values))
    return spread <= _TOLERANCE * (1.0 + float(np.abs(values).max()))


def _steepest(z: Float64Array, values: Float64Array) -> float:
    """The slope of the first unit where it is steepest, on steps that no constant cuts."""
    width = np.diff(z)
    slopes = np.diff(values[:, 0]) / width
    whole = slopes[width > 0.04]
    return float(whole[np.abs(whole).argmax()])


def _threshold(at: Callable[[float], Float64Array]) -> float | None:
    """The point up to which a function is 0, found by halving; None if it has none."""
    low, high = -_FAR, _FAR
    if at(low).any() or not at(high).all():
        return None
    for _ in range(80):
        middle = 0.5 * (low + high)
        if at(middle).any():
            high = middle
        else:
            low = middle
    return float(np.float32(low))

"""The functions of activations: an entry for each, with all that Python knows about it.

A new activation is an entry here, and in the core a variant in ``model/activation.rs`` and a
formula in ``kernels/activation.rs``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.types import Float64Array

__all__ = ["FUNCTIONS", "Function", "Parameter"]


Bounds = tuple[Float64Array, Float64Array]


@dataclass(frozen=True)
class Parameter:
    """A parameter of an activation.

    Attributes
    ----------
    label : str
    default : float, optional
        None if it must be given.
    above : float or str
        A value must be larger than this number, or than the earlier parameter of this label.
    by_unit : bool
        Whether each unit may have its own value.
    """

    label: str
    default: float | None = None
    above: float | str = -math.inf
    by_unit: bool = False


@dataclass(frozen=True)
class Function:
    """An activation function.

    Attributes
    ----------
    formula : callable
        Outputs of pre-activations (..., units) and the parameters. With a hard zero, outputs have
        the dtype of the pre-activations.
    bounds : callable
        Bounds of the outputs from bounds of the pre-activations and the parameters. They also hold
        for the engine's float32 outputs.
    parameters : tuple of Parameter
    has_hard_zero : bool
        Whether a half-line of pre-activations becomes exactly 0. Parameters are then in units of
        the pre-activation.
    may_be_negative : callable
        Whether an output can be below 0, from the parameters.
    mixes_units : bool
        Whether a unit's output depends on other units.
    """

    formula: Callable[..., Any]
    bounds: Callable[..., Bounds]
    parameters: tuple[Parameter, ...] = ()
    has_hard_zero: bool = False
    may_be_negative: Callable[..., bool] = lambda *_: True
    mixes_units: bool = False


def _never(*_: float) -> bool:
    return False


# Relative error of the engine's functions, with room, and a few units of the smallest float32.
_ERROR: Final = 2.0**-20
_TINY: Final = 2.0**-140


def _widened(low: Float64Array, high: Float64Array) -> Bounds:
    return low - _ERROR * np.abs(low) - _TINY, high + _ERROR * np.abs(high) + _TINY


def _rising(formula: Callable[..., Any], *, exact: bool = False) -> Callable[..., Bounds]:
    """The bounds of a function that never falls; `exact` if the engine does not round."""

    def bounds(low: Float64Array, high: Float64Array, *parameters: Any) -> Bounds:
        ends = formula(low, *parameters), formula(high, *parameters)
        return ends if exact else _widened(*ends)

    return bounds


def _bent(formula: Callable[..., Any]) -> Callable[..., Bounds]:
    """The bounds of a function that is 0 at 0, and rises or falls on either side."""

    def bounds(low: Float64Array, high: Float64Array, *parameters: Any) -> Bounds:
        ends = formula(low, *parameters), formula(high, *parameters)
        inside = (low < 0) & (high > 0)
        least, most = np.minimum(*ends), np.maximum(*ends)
        least = np.where(inside, np.minimum(least, 0.0), least)
        return _widened(least, np.where(inside, np.maximum(most, 0.0), most))

    return bounds


def _share(least: float) -> Callable[..., Bounds]:
    """The bounds of z times a share from 0 to 1; no output is below `least`."""

    def bounds(low: Float64Array, high: Float64Array) -> Bounds:
        return np.minimum(np.maximum(low, least), 0.0), np.maximum(high, 0.0)

    return bounds


def _within(least: float, most: float) -> Callable[..., Bounds]:
    def bounds(low: Float64Array, high: Float64Array) -> Bounds:
        return np.full_like(low, least), np.full_like(high, most)

    return bounds


def _identity(z: Any) -> Any:
    return z


def _relu(z: Any) -> Any:
    return np.maximum(z, 0.0)


def _clipped(z: Any, upper: float) -> Any:
    return np.clip(z, 0.0, upper)


def _thresholded(z: npt.NDArray[Any], threshold: float) -> Any:
    return np.where(z <= threshold, z.dtype.type(0), z)


def _thresholded_bounds(low: Float64Array, high: Float64Array, threshold: float) -> Bounds:
    # Zero, or between the threshold and the upper bound.
    on = high > threshold
    least = np.where(low > threshold, low, np.minimum(0.0, threshold))
    return np.where(on, least, 0.0), np.where(on, np.maximum(high, 0.0), 0.0)


def _squared(z: Any) -> Any:
    positive = np.maximum(z, 0.0)
    return positive * positive


def _squared_bounds(low: Float64Array, high: Float64Array) -> Bounds:
    # Relative margins alone, so that 0 stays 0.
    return _squared(low) * (1 - _ERROR), _squared(high) * (1 + _ERROR)


def _leaky(z: Any, slope: Any) -> Any:
    return np.where(z > 0, z, slope * z)


def _hard_tanh(z: Any, lower: float, upper: float) -> Any:
    return np.clip(z, lower, upper)


def _hard_sigmoid(z: Any) -> Any:
    return np.clip(z / 6 + 0.5, 0.0, 1.0)


def _hard_swish(z: Any) -> Any:
    z = np.maximum(z, -3.0)  # avoids minus infinity times 0
    return z * _hard_sigmoid(z)


def _sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


_erfc = np.vectorize(math.erfc, otypes=[float])

# Of functions with the limit 0 at minus infinity, which would become minus infinity times 0.
_LOWEST: Final = -1e300


def _gelu(z: Any) -> Any:
    z = np.maximum(z, _LOWEST)
    return 0.5 * z * _erfc(-z / math.sqrt(2))


def _gelu_tanh(z: Any) -> Any:
    z = np.maximum(z, _LOWEST)
    return z * _sigmoid(2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))


def _silu(z: Any) -> Any:
    z = np.maximum(z, _LOWEST)
    return z * _sigmoid(z)


def _softplus(z: Any) -> Any:
    return np.logaddexp(0.0, z)


def _mish(z: Any) -> Any:
    z = np.maximum(z, _LOWEST)
    return z * np.tanh(_softplus(z))


def _elu(z: Any, alpha: float) -> Any:
    return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0.0)))


def _selu(z: Any) -> Any:
    return 1.0507009873554805 * _elu(z, 1.6732632423543772)


def _softmax(z: Any) -> Any:
    powers = np.exp(z - z.max(axis=-1, keepdims=True, initial=-math.inf))
    return powers / powers.sum(axis=-1, keepdims=True)


def _log_softmax(z: Any) -> Any:
    distances = z - z.max(axis=-1, keepdims=True, initial=-math.inf)
    return distances - np.log(np.exp(distances).sum(axis=-1, keepdims=True))


FUNCTIONS: Final = {
    "identity": Function(_identity, _rising(_identity, exact=True)),
    "relu": Function(_relu, _rising(_relu, exact=True), has_hard_zero=True, may_be_negative=_never),
    "clipped_relu": Function(
        _clipped,
        _rising(_clipped, exact=True),
        (Parameter("upper", above=0.0),),
        has_hard_zero=True,
        may_be_negative=_never,
    ),
    "thresholded_relu": Function(
        _thresholded,
        _thresholded_bounds,
        (Parameter("threshold"),),
        has_hard_zero=True,
        may_be_negative=lambda threshold: threshold < 0,
    ),
    "squared_relu": Function(_squared, _squared_bounds, has_hard_zero=True, may_be_negative=_never),
    "leaky_relu": Function(_leaky, _bent(_leaky), (Parameter("slope", 0.01),)),
    "prelu": Function(_leaky, _bent(_leaky), (Parameter("slope", by_unit=True),)),
    "hard_tanh": Function(
        _hard_tanh,
        _rising(_hard_tanh, exact=True),
        (Parameter("lower", -1.0), Parameter("upper", 1.0, above="lower")),
        may_be_negative=lambda lower, _: lower < 0,
    ),
    "hard_sigmoid": Function(_hard_sigmoid, _rising(_hard_sigmoid), may_be_negative=_never),
    "hard_swish": Function(_hard_swish, _share(-0.376)),
    "tanh": Function(np.tanh, _within(-1.0, 1.0)),
    "sigmoid": Function(_sigmoid, _within(0.0, 1.0), may_be_negative=_never),
    "gelu": Function(_gelu, _share(-0.17)),
    "gelu_tanh": Function(_gelu_tanh, _share(-0.1701)),
    "silu": Function(_silu, _share(-0.2785)),
    "mish": Function(_mish, _share(-0.309)),
    "softplus": Function(_softplus, _rising(_softplus), may_be_negative=_never),
    "exp": Function(np.exp, _rising(np.exp), may_be_negative=_never),
    "elu": Function(_elu, _bent(_elu), (Parameter("alpha", 1.0),)),
    "selu": Function(_selu, _bent(_selu)),
    "softmax": Function(_softmax, _within(0.0, 1.0), may_be_negative=_never, mixes_units=True),
    "log_softmax": Function(_log_softmax, _within(-math.inf, 0.0), mixes_units=True),
}

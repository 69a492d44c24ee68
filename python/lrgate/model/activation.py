"""Activations: names, parameters, bounds, and conversion from and to the forms of users and files.

Fitters and the planner ask `Activation` for bounds, signs and thresholds. The differences between
activations are in the table of `lrgate.model.functions`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate.model.arrays import as_float32, check_shape, joined, set_field
from lrgate.model.functions import FUNCTIONS, Function
from lrgate.types import Float32Array, Float64Array, IntArray

__all__ = ["Activation"]


_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Activation:
    """The function that a layer applies to its pre-activation ``z = x weight.T + bias``.

    ==================  =================================================  ===================
    name                output                                             parameters
    ==================  =================================================  ===================
    identity            z
    relu                ``max(0, z)``
    clipped_relu        ``min(max(0, z), upper)``                          upper (above 0)
    thresholded_relu    z if ``z > threshold``, else 0                     threshold
    squared_relu        ``max(0, z)**2``
    leaky_relu          z if ``z > 0``, else ``slope z``                   slope = 0.01
    prelu               the same, with a slope for each unit or for all    slope
    hard_tanh           ``min(max(lower, z), upper)``                      lower = -1,
                                                                           upper = 1
    hard_sigmoid        ``min(max(0, z / 6 + 1 / 2), 1)``
    hard_swish          ``z hard_sigmoid(z)``
    tanh                hyperbolic tangent
    sigmoid             ``1 / (1 + exp(-z))``
    gelu                z times the normal distribution function of z
    gelu_tanh           its approximation by tanh
    silu                ``z sigmoid(z)``
    mish                ``z tanh(softplus(z))``
    softplus            ``log(1 + exp(z))``
    exp                 ``exp(z)``
    elu                 z if ``z > 0``, else ``alpha (exp(z) - 1)``        alpha = 1
    selu                1.0507 times elu with alpha 1.6733
    softmax             ``exp(z)`` over its sum over the row
    log_softmax         its logarithm
    ==================  =================================================  ===================

    Parameters
    ----------
    name : str
    *parameters : float, or array-like of shape (out,) for the slope of prelu
        In the order of the table. Parameters that are left out have their default.

    Attributes
    ----------
    name : str
    parameters : tuple of float or float32 array (out,)
        All parameters. An array of one value becomes a float.

    Raises
    ------
    ValueError
        If `name` is unknown, or a parameter is missing, out of range, or not supported.
    TypeError
        If `name` is not a str, or a parameter is not a number.

    Examples
    --------
    >>> Activation.parse({"name": "clipped_relu", "upper": 6})
    Activation('clipped_relu', 6.0)
    >>> Activation("hard_tanh", -2).parameters
    (-2.0, 1.0)
    >>> Activation("silu").apply(np.array([-1.0, 1.0])).round(3).tolist()
    [-0.269, 0.731]
    """

    name: str
    parameters: tuple[float | Float32Array, ...]

    def __init__(self, name: str, *parameters: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"activation name must be a str, got {type(name).__name__}")
        if name not in FUNCTIONS:
            raise ValueError(f"activation must be one of {joined(FUNCTIONS)}, got {name!r}")
        set_field(self, "name", name)
        set_field(self, "parameters", _checked(name, parameters))

    @classmethod
    def parse(cls, value: object, name: str = "activation") -> Activation:
        """Parse an activation from any of the forms used by users and files.

        Parameters
        ----------
        value : Activation, str, tuple or mapping
            ``"relu"``, ``("clipped_relu", 6.0)`` or ``{"name": "clipped_relu", "upper": 6.0}``.
        name : str, default "activation"
            Name of the argument in error messages.

        Returns
        -------
        Activation

        Raises
        ------
        ValueError, TypeError
            If `value` has another form or is not a valid activation.
        """
        if isinstance(value, Activation):
            return value
        try:
            if isinstance(value, str):
                return cls(value)
            if isinstance(value, Mapping):
                return cls._from_mapping(value)
            if isinstance(value, tuple | list) and value:
                return cls(*value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
        raise TypeError(
            f"{name} must be a name, a tuple of a name and parameters, or a mapping with a name, "
            f"got {value!r}"
        )

    @classmethod
    def _from_mapping(cls, value: Mapping[Any, Any]) -> Activation:
        if "name" not in value:
            raise ValueError(f"a mapping needs the key 'name', got {sorted(map(str, value))}")
        name = value["name"]
        known = FUNCTIONS[name].parameters if isinstance(name, str) and name in FUNCTIONS else ()
        labels = [parameter.label for parameter in known]
        unknown = sorted(str(key) for key in value if key not in ("name", *labels))
        if unknown:
            raise ValueError(f"{name} has no {joined(unknown)}")
        return cls(name, *(value.get(label) for label in labels))

    @property
    def _function(self) -> Function:
        return FUNCTIONS[self.name]

    @property
    def values(self) -> tuple[Any, ...]:
        """The parameters as the engine stores them: rounded to float32, as float or float64."""
        return tuple(
            p.astype(np.float64) if isinstance(p, np.ndarray) else float(np.float32(p))
            for p in self.parameters
        )

    @property
    def has_hard_zero(self) -> bool:
        """Whether a half-line of pre-activations becomes exactly 0, so that a gate is useful."""
        return self._function.has_hard_zero

    @property
    def threshold(self) -> float:
        """Largest pre-activation whose output is 0, for an activation with a hard zero."""
        return float(self.values[0]) if self.name == "thresholded_relu" else 0.0

    @property
    def may_be_negative(self) -> bool:
        """Whether an output can be below 0."""
        return self._function.may_be_negative(*self.values)

    @property
    def mixes_units(self) -> bool:
        """Whether a unit's output depends on other units, as with softmax."""
        return self._function.mixes_units

    def apply(self, z: npt.ArrayLike) -> Float64Array:
        """Outputs in float64: the reference that the engine's float32 outputs approximate.

        Parameters
        ----------
        z : array-like of shape (..., units)
            Pre-activations. NaN stays NaN.

        Returns
        -------
        float64 array of the same shape
        """
        with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
            output = self._function.formula(np.asarray(z, np.float64), *self.values)
        return np.array(output, np.float64)

    def gated(self, z: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Outputs of an activation with a hard zero, of the shape and dtype of `z`.

        `z` are pre-activations of shape (..., units).
        """
        output: npt.NDArray[Any] = self._function.formula(z, *self.values)
        return output

    def bounds(self, low: Float64Array, high: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Bounds of the outputs from bounds of the pre-activations, each of shape (units,)."""
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return self._function.bounds(low, high, *self.values)

    def of_units(self, units: IntArray | npt.NDArray[np.int32]) -> Activation:
        """The activation of some of a layer's units, by index (k,), in the order given."""
        if not self.unit_parameters():
            return self
        taken = (p[units] if isinstance(p, np.ndarray) else p for p in self.parameters)
        return Activation(self.name, *taken)

    def unit_parameters(self) -> dict[str, Float32Array]:
        """The parameters with a value for each unit, by label. Files store them as arrays."""
        return {
            parameter.label: value
            for parameter, value in zip(self._function.parameters, self.parameters, strict=True)
            if isinstance(value, np.ndarray)
        }

    def check_units(self, units: int) -> None:
        """Raise ValueError if a parameter has another number of values than there are units."""
        for label, value in self.unit_parameters().items():
            check_shape(f"{label} of {self.name}", value, (units,))

    def to_json(self) -> str | dict[str, Any]:
        """The form for files: a str, or a dict with the parameters that are numbers.

        `parse` reads it, together with `unit_parameters`.
        """
        if not self.parameters:
            return self.name
        numbers = {
            parameter.label: value
            for parameter, value in zip(self._function.parameters, self.parameters, strict=True)
            if not isinstance(value, np.ndarray)
        }
        return {"name": self.name, **numbers}

    def _key(self) -> tuple[Any, ...]:
        values = (tuple(p.tolist()) if isinstance(p, np.ndarray) else p for p in self.parameters)
        return self.name, *values

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Activation) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        return Activation, (self.name, *self.parameters)

    def __repr__(self) -> str:
        return f"Activation({', '.join(map(repr, (self.name, *self.parameters)))})"

    def __str__(self) -> str:
        words = (
            f"{len(p)} values" if isinstance(p, np.ndarray) else f"{p:g}" for p in self.parameters
        )
        return f"{self.name}({joined(words)})" if self.parameters else self.name


def _checked(name: str, given: tuple[Any, ...]) -> tuple[float | Float32Array, ...]:
    """All parameters, with defaults for those that are not given or None."""
    known = FUNCTIONS[name].parameters
    if not known and any(value is not None for value in given):
        raise ValueError(f"{name} takes no parameter, got {given[0]!r}")
    if len(given) > len(known) > 0:
        labels = joined(parameter.label for parameter in known)
        raise ValueError(f"{name} takes {labels}, got {len(given)} parameters")
    found: dict[str, float | Float32Array] = {}
    for i, parameter in enumerate(known):
        label = f"{parameter.label} of {name}"
        value = given[i] if i < len(given) and given[i] is not None else parameter.default
        if value is None:
            raise ValueError(f'{name} needs its {parameter.label}: ("{name}", {parameter.label})')
        above = parameter.above
        least = float(np.float32(found[above])) if isinstance(above, str) else above
        found[parameter.label] = (
            _number(value, label, least)
            if isinstance(value, int | float | np.number) or not parameter.by_unit
            else _by_unit(value, label)
        )
    return tuple(found.values())


def _number(value: Any, label: str, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{label} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (abs(number) <= _FLOAT32_MAX and float(np.float32(number)) > least):
        expected = "finite" if least == -math.inf else f"finite and above {least:g}"
        raise ValueError(f"{label} must be {expected}, got {number}")
    return number


def _by_unit(value: Any, label: str) -> float | Float32Array:
    array = as_float32(value, label, "() or (out,)")
    if not np.isfinite(array).all():
        raise ValueError(f"{label} must be finite, got {array[~np.isfinite(array)][0]}")
    return float(array.reshape(-1)[0]) if array.size == 1 else array

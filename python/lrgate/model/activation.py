"""Activations: names, parameters, bounds, and conversion from and to the forms of users and files.

Fitters and the planner ask `Activation` for bounds, signs and thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.model.arrays import joined
from lrgate.types import Float64Array

__all__ = ["Activation"]


# The parameter of each activation that takes one, with its default.
_PARAMETERS: Final[dict[str, tuple[str, float | None]]] = {
    "clipped_relu": ("upper", None),
    "thresholded_relu": ("threshold", None),
    "leaky_relu": ("slope", 0.01),
}
_ACTIVATIONS: Final = (
    "identity",
    "relu",
    "clipped_relu",
    "thresholded_relu",
    "leaky_relu",
    "tanh",
    "sigmoid",
    "gelu",
    "softmax",
)
_HARD_ZERO: Final = ("relu", "clipped_relu", "thresholded_relu")


@dataclass(frozen=True)
class Activation:
    """The function that a layer applies to its pre-activation ``z = x weight.T + bias``.

    Parameters
    ----------
    name : str
        ``identity``, ``relu``, ``clipped_relu`` (``min(max(0, z), upper)``), ``thresholded_relu``
        (z if ``z > threshold``, else 0), ``leaky_relu`` (z if ``z > 0``, else ``slope z``),
        ``tanh``, ``sigmoid``, ``gelu`` (the exact form) or ``softmax``.
    parameter : float, optional
        ``upper`` of clipped_relu (above 0, required), ``threshold`` of thresholded_relu (required)
        or ``slope`` of leaky_relu (default 0.01).

    Raises
    ------
    ValueError
        If `name` is unknown, or `parameter` is missing, out of range, or not supported.
    TypeError
        If `name` is not a str, or `parameter` is not a number.

    Examples
    --------
    >>> Activation.parse({"name": "clipped_relu", "upper": 6})
    Activation(name='clipped_relu', parameter=6.0)
    """

    name: str
    parameter: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"activation name must be a str, got {type(self.name).__name__}")
        if self.name not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {joined(_ACTIVATIONS)}, got {self.name!r}")
        object.__setattr__(self, "parameter", self._checked_parameter())

    def _checked_parameter(self) -> float | None:
        if self.name not in _PARAMETERS:
            if self.parameter is not None:
                raise ValueError(f"{self.name} takes no parameter, got {self.parameter!r}")
            return None
        label, default = _PARAMETERS[self.name]
        value = default if self.parameter is None else self.parameter
        if value is None:
            raise ValueError(f'{self.name} needs its {label}: ("{self.name}", {label})')
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise TypeError(f"{label} of {self.name} must be a number, got {value!r}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        least = 0.0 if label == "upper" else -math.inf
        if not (least < number and abs(number) <= float(np.finfo(np.float32).max)):
            expected = "finite and above 0" if label == "upper" else "finite"
            raise ValueError(f"{label} of {self.name} must be {expected}, got {number}")
        return number

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
            if isinstance(value, tuple | list) and len(value) in (1, 2):
                return cls(*value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
        raise TypeError(
            f"{name} must be a name, a (name, parameter) pair or a mapping with a name, "
            f"got {value!r}"
        )

    @classmethod
    def _from_mapping(cls, value: Mapping[Any, Any]) -> Activation:
        if "name" not in value:
            raise ValueError(f"a mapping needs the key 'name', got {sorted(map(str, value))}")
        name = value["name"]
        label = _PARAMETERS[name][0] if isinstance(name, str) and name in _PARAMETERS else None
        unknown = sorted(str(key) for key in value if key not in ("name", label))
        if unknown:
            raise ValueError(f"{name} has no {joined(unknown)}")
        return cls(name, None if label is None else value.get(label))

    @property
    def has_hard_zero(self) -> bool:
        """Whether a half-line of pre-activations becomes exactly 0, so that a gate is useful."""
        return self.name in _HARD_ZERO

    @property
    def threshold(self) -> float:
        """Largest pre-activation whose output is 0, for an activation with a hard zero."""
        if self.name == "thresholded_relu":
            return float(np.float32(self.parameter or 0.0))
        return 0.0

    @property
    def may_be_negative(self) -> bool:
        """Whether an output can be below 0."""
        if self.name == "thresholded_relu":
            return self.threshold < 0
        return self.name not in ("relu", "clipped_relu", "sigmoid", "softmax")

    def gated(self, z: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Outputs of an activation with a hard zero, in the dtype of the pre-activations `z`."""
        output: npt.NDArray[Any]
        if self.name == "clipped_relu":
            output = np.clip(z, 0.0, float(np.float32(self.parameter or 0.0)))
        elif self.name == "thresholded_relu":
            output = np.where(z > self.threshold, z, z.dtype.type(0))
        else:
            output = np.maximum(z, 0.0)
        return output

    @property
    def parameters(self) -> tuple[float, ...]:
        """Temporary: the parameters."""
        return () if self.parameter is None else (self.parameter,)

    def apply(self, z: npt.NDArray[Any]) -> Float64Array:
        """Temporary: the function in float64."""
        z = np.asarray(z, np.float64)
        erf = np.vectorize(math.erf, otypes=[np.float64])
        match self.name:
            case "identity":
                return z
            case "leaky_relu":
                return np.where(z > 0, z, (self.parameter or 0.0) * z)
            case "tanh":
                return np.tanh(z)
            case "sigmoid":
                return 0.5 + 0.5 * np.tanh(0.5 * z)
            case "gelu":
                return 0.5 * z * (1.0 + erf(z / math.sqrt(2.0)))
            case "softmax":
                e = np.exp(z - z.max(-1, keepdims=True))
                return e / e.sum(-1, keepdims=True)
        return self.gated(z)

    def bounds(self, low: Float64Array, high: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Bounds of the outputs from bounds of the pre-activations."""
        parameter = self.parameter or 0.0
        match self.name:
            case "relu":
                return np.maximum(low, 0.0), np.maximum(high, 0.0)
            case "clipped_relu":
                return np.clip(low, 0.0, parameter), np.clip(high, 0.0, parameter)
            case "thresholded_relu":
                # Zero, or between the threshold and the upper bound.
                on = high > parameter
                least = np.where(low > parameter, low, np.minimum(0.0, parameter))
                return np.where(on, least, 0.0), np.where(on, np.maximum(high, 0.0), 0.0)
            case "leaky_relu":
                ends = [np.where(z > 0, z, parameter * z) for z in (low, high)]
                inside = (low < 0) & (high > 0)
                least = np.where(inside, np.minimum(np.minimum(*ends), 0.0), np.minimum(*ends))
                return least, np.maximum(*ends)
            case "identity":
                return low, high
            case "gelu":
                # z times a share: it has its least value, above -0.17, between -1 and 0.
                return np.minimum(np.maximum(low, -0.17), 0.0), np.maximum(high, 0.0)
            case _:  # tanh, sigmoid, softmax
                return np.full_like(low, -1.0), np.ones_like(high)

    def to_json(self) -> str | dict[str, Any]:
        """The form for files, which `parse` reads: a str, or a dict with the parameter."""
        if self.parameter is None:
            return self.name
        return {"name": self.name, _PARAMETERS[self.name][0]: self.parameter}

    def __str__(self) -> str:
        return self.name if self.parameter is None else f"{self.name}({self.parameter:g})"

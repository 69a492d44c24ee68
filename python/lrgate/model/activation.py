"""Activations: names, parameters, bounds, and conversion from and to the forms of users and files.

Fitters and the planner ask `Activation` for bounds, signs and thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.inputs import checked_number
from lrgate.model.arrays import joined
from lrgate.types import Float64Array

__all__ = ["Activation"]


_Bounds = tuple[Float64Array, Float64Array]


@dataclass(frozen=True)
class _Kind:
    """The properties of an activation as functions of its parameter, 0 if it takes none.

    The core computes the outputs. `gated` computes those of an activation with a hard zero, for
    the fitters of gates.
    """

    # Bounds of the outputs from bounds of the pre-activations.
    bounds: Callable[[Float64Array, Float64Array, float], _Bounds]
    may_be_negative: Callable[[float], bool]
    gated: Callable[[npt.NDArray[Any], float], npt.NDArray[Any]] | None = None
    # Largest pre-activation whose output is 0, for an activation with a hard zero.
    threshold: Callable[[float], float] = lambda _: 0.0
    # Name and default of the parameter, and the value that it must exceed.
    parameter: str | None = None
    default: float | None = None
    above: float = -math.inf


def _always(_: float) -> bool:
    return True


def _never(_: float) -> bool:
    return False


def _within_one(low: Float64Array, high: Float64Array, _: float) -> _Bounds:
    return np.full_like(low, -1.0), np.ones_like(high)


def _bounds_of_thresholded(low: Float64Array, high: Float64Array, threshold: float) -> _Bounds:
    # Zero, or between the threshold and the upper bound.
    on = high > threshold
    least = np.where(low > threshold, low, np.minimum(0.0, threshold))
    return np.where(on, least, 0.0), np.where(on, np.maximum(high, 0.0), 0.0)


def _bounds_of_leaky(low: Float64Array, high: Float64Array, slope: float) -> _Bounds:
    ends = [np.where(z > 0, z, slope * z) for z in (low, high)]
    inside = (low < 0) & (high > 0)
    least = np.where(inside, np.minimum(np.minimum(*ends), 0.0), np.minimum(*ends))
    return least, np.maximum(*ends)


def _bounds_of_gelu(low: Float64Array, high: Float64Array, _: float) -> _Bounds:
    # z times a share: it has its least value, above -0.17, between -1 and 0.
    return np.minimum(np.maximum(low, -0.17), 0.0), np.maximum(high, 0.0)


# All activations of the core. A test compares the names.
_KINDS: Final[dict[str, _Kind]] = {
    "identity": _Kind(lambda low, high, _: (low, high), _always),
    "relu": _Kind(
        lambda low, high, _: (np.maximum(low, 0.0), np.maximum(high, 0.0)),
        _never,
        gated=lambda z, _: np.maximum(z, 0.0),
    ),
    "clipped_relu": _Kind(
        lambda low, high, upper: (np.clip(low, 0.0, upper), np.clip(high, 0.0, upper)),
        _never,
        gated=lambda z, upper: np.clip(z, 0.0, float(np.float32(upper))),
        parameter="upper",
        above=0.0,
    ),
    "thresholded_relu": _Kind(
        _bounds_of_thresholded,
        lambda threshold: threshold < 0,
        gated=lambda z, threshold: np.where(z > float(np.float32(threshold)), z, z.dtype.type(0)),
        threshold=lambda threshold: float(np.float32(threshold)),
        parameter="threshold",
    ),
    "leaky_relu": _Kind(_bounds_of_leaky, _always, parameter="slope", default=0.01),
    "tanh": _Kind(_within_one, _always),
    "sigmoid": _Kind(_within_one, _never),
    "gelu": _Kind(_bounds_of_gelu, _always),
    "softmax": _Kind(_within_one, _never),
}


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
        if self.name not in _KINDS:
            raise ValueError(f"activation must be one of {joined(_KINDS)}, got {self.name!r}")
        object.__setattr__(self, "parameter", self._checked_parameter())

    def _checked_parameter(self) -> float | None:
        kind = _KINDS[self.name]
        label = kind.parameter
        if label is None:
            if self.parameter is not None:
                raise ValueError(f"{self.name} takes no parameter, got {self.parameter!r}")
            return None
        value = kind.default if self.parameter is None else self.parameter
        if value is None:
            raise ValueError(f'{self.name} needs its {label}: ("{self.name}", {label})')
        try:
            number = checked_number(value, f"{label} of {self.name}")
        except OverflowError:
            number = math.inf
        if not (kind.above < number and abs(number) <= float(np.finfo(np.float32).max)):
            finite = math.isfinite(kind.above)
            expected = f"finite and above {kind.above:g}" if finite else "finite"
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
        label = _KINDS[name].parameter if isinstance(name, str) and name in _KINDS else None
        unknown = sorted(str(key) for key in value if key not in ("name", label))
        if unknown:
            raise ValueError(f"{name} has no {joined(unknown)}")
        return cls(name, None if label is None else value.get(label))

    @property
    def has_hard_zero(self) -> bool:
        """Whether a half-line of pre-activations becomes exactly 0, so that a gate is useful."""
        return _KINDS[self.name].gated is not None

    @property
    def threshold(self) -> float:
        """Largest pre-activation whose output is 0, for an activation with a hard zero."""
        return _KINDS[self.name].threshold(self.parameter or 0.0)

    @property
    def may_be_negative(self) -> bool:
        """Whether an output can be below 0."""
        return _KINDS[self.name].may_be_negative(self.parameter or 0.0)

    def gated(self, z: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Outputs of an activation with a hard zero, in the dtype of the pre-activations `z`."""
        gated = _KINDS[self.name].gated
        assert gated is not None, f"{self.name} has no hard zero"
        return gated(z, self.parameter or 0.0)

    def bounds(self, low: Float64Array, high: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Bounds of the outputs from bounds of the pre-activations."""
        return _KINDS[self.name].bounds(low, high, self.parameter or 0.0)

    def to_json(self) -> str | dict[str, Any]:
        """The form for files, which `parse` reads: a str, or a dict with the parameter."""
        if self.parameter is None:
            return self.name
        return {"name": self.name, str(_KINDS[self.name].parameter): self.parameter}

    def __str__(self) -> str:
        return self.name if self.parameter is None else f"{self.name}({self.parameter:g})"

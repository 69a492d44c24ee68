"""A layer as data: weights, activation, gate, factors and quantization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lrgate.model.activation import Activation
from lrgate.model.arrays import (
    as_float32,
    as_units,
    check_bounds,
    check_shape,
    check_type,
    needs_copy,
    read_only,
    set_field,
)
from lrgate.model.plan import words
from lrgate.types import Float32Array, Int32Array

__all__ = [
    "Factors",
    "Gate",
    "Layer",
    "NestedGate",
    "Quantization",
    "ReadOnlyArrays",
    "missing_part",
]


class ReadOnlyArrays:
    """Keeps the arrays of a frozen dataclass read-only after pickle and deepcopy."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            if isinstance(value, np.ndarray):
                # Other objects in the pickle may share the array.
                value.flags.writeable = False
                value = read_only(value.copy() if needs_copy(value, made_here=True) else value)
            self.__dict__[name] = value


@dataclass(frozen=True, eq=False)
class Gate(ReadOnlyArrays):
    """The sign estimate of a layer: a unit is computed if ``x u v + bias > 0``.

    Parameters
    ----------
    u : array of shape (in, rank)
    v : array of shape (rank, out)
    bias : array of shape (out,)
        Bias of the scores, with the thresholds folded in.
    range : array of shape (2, rank), optional
        Minimum and maximum of each of ``x u`` on calibration rows. With it, ``x u`` is quantised to
        bytes, clamped to the range. This is faster and changes a score by about a hundredth of its
        spread. A gate needs it to run in int8.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If a shape is wrong, a finite value does not fit float32, or `range` is not finite or has a
        minimum above the maximum.

    References
    ----------
    Davis and Arel, "Low-Rank Approximations for Conditional Feedforward Computation in Deep Neural
    Networks", arXiv 1312.4461, 2013.
    """

    u: Float32Array
    v: Float32Array
    bias: Float32Array
    range: Float32Array | None = None

    def __post_init__(self) -> None:
        set_field(self, "u", as_float32(self.u, "u", "(in, rank)"))
        set_field(self, "v", as_float32(self.v, "v", "(rank, out)"))
        set_field(self, "bias", as_float32(self.bias, "bias", "(out,)"))
        check_shape("v", self.v, (self.rank, self.v.shape[1]))
        check_shape("bias", self.bias, (self.outputs,))
        if self.range is not None:
            set_field(self, "range", as_float32(self.range, "range", "(2, rank)"))
            check_shape("range", self.range, (2, self.rank))
            check_bounds("range", self.range)

    @property
    def rank(self) -> int:
        """Inner dimension of the factors."""
        return int(self.u.shape[1])

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return int(self.u.shape[0])

    @property
    def outputs(self) -> int:
        """Number of units."""
        return int(self.v.shape[1])

    def __repr__(self) -> str:
        return f"Gate({self.inputs} -> {self.outputs}, rank {self.rank})"


@dataclass(frozen=True, eq=False)
class Quantization(ReadOnlyArrays):
    """Quantisation of the inputs of an int8 layer to bytes.

    An input x becomes the byte ``round(x / scale + offset)``, clamped to 0 to 255; a byte q
    represents ``(q - offset) * scale``. If `offset` is an integer from 0 to 255, 0 is represented
    exactly; if it is 0, bytes of 0 can be skipped. In a network's first layer, x is the raw input,
    before the network's scale and shift, and a row with a value more than one step outside the
    range of the bytes is recomputed in float32. In later layers, byte 255 means out of range: a row
    is recomputed if it has a value with that byte, or a value more than half a step below byte 0.

    Parameters
    ----------
    scale : array of shape () or (d,)
        One value for all inputs, or one per input.
    offset : array of shape () or (d,)
        One value for all inputs or, in a network's first layer, one per input.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If a shape is wrong, a value is not finite in float32, or `scale` is not above 0 or so small
        that ``1 / scale`` is not finite in float32.

    Examples
    --------
    >>> Quantization(6 / 255, 0)
    Quantization(scale 0.0235294, offset 0)
    """

    scale: Float32Array
    offset: Float32Array

    def __post_init__(self) -> None:
        for name in ("scale", "offset"):
            set_field(self, name, as_float32(getattr(self, name), name, "() or (d,)"))
        if self.scale.ndim == self.offset.ndim == 1:
            check_shape("offset", self.offset, self.scale.shape)
        with np.errstate(divide="ignore", over="ignore"):
            good = (self.scale > 0) & np.isfinite(self.scale) & np.isfinite(1 / self.scale)
        if not good.all():
            raise ValueError(
                f"scale must be above 0, and it and 1 / scale finite, got {self.scale[~good][0]}"
            )
        if not np.isfinite(self.offset).all():
            bad = self.offset[~np.isfinite(self.offset)][0]
            raise ValueError(f"offset must be finite, got {bad}")

    @property
    def shape(self) -> tuple[int, ...]:
        """() if all inputs share one scale and offset, otherwise (d,)."""
        return np.broadcast_shapes(self.scale.shape, self.offset.shape)

    def __repr__(self) -> str:
        if self.shape:
            return f"Quantization(of {self.shape[0]} inputs)"
        return f"Quantization(scale {self.scale:g}, offset {self.offset:g})"


@dataclass(frozen=True, eq=False)
class NestedGate(ReadOnlyArrays):
    """The sign estimate of a layer that is computed by its factors.

    A unit is computed if ``h[:k] v + bias > 0``, where ``h = x u`` are the sums of the layer's
    :class:`Factors`, of which the first k are the gate's.

    Parameters
    ----------
    v : array of shape (k, out)
    bias : array of shape (out,)
        Bias of the scores, with the thresholds folded in.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If a shape is wrong, or a finite value does not fit float32.

    Examples
    --------
    >>> NestedGate(np.ones((2, 3)), np.zeros(3))
    NestedGate(-> 3, rank 2)
    """

    v: Float32Array
    bias: Float32Array

    def __post_init__(self) -> None:
        set_field(self, "v", as_float32(self.v, "v", "(k, out)"))
        set_field(self, "bias", as_float32(self.bias, "bias", "(out,)"))
        check_shape("bias", self.bias, (self.v.shape[1],))

    @property
    def rank(self) -> int:
        """Number of the factors' sums from which the scores are computed."""
        return int(self.v.shape[0])

    def __repr__(self) -> str:
        return f"NestedGate(-> {len(self.bias)}, rank {self.rank})"


@dataclass(frozen=True, eq=False)
class Factors(ReadOnlyArrays):
    """A low-rank form of a layer: ``activation(x u v + bias)`` instead of its weight and bias.

    Parameters
    ----------
    u : array of shape (in, rank)
    v : array of shape (rank, out)
    bias : array of shape (out,)
    quantization : Quantization, optional
        Quantisation of the sums ``x u``, with scale and offset of shape () or (rank,). Factors need
        it to run in int8. A row is recomputed with the weight of the layer if it has a sum with
        byte 255 or more than half a step below byte 0.
    gate : NestedGate, optional
        Sign estimate of the layer, from the first of the sums.

    Raises
    ------
    TypeError
        If an array does not hold real numbers, or the quantization or gate has a wrong type.
    ValueError
        If a shape is wrong, or a finite value does not fit float32.

    Examples
    --------
    >>> Factors(np.ones((4, 2)), np.ones((2, 3)), np.zeros(3))
    Factors(4 -> 3, rank 2)
    """

    u: Float32Array
    v: Float32Array
    bias: Float32Array
    quantization: Quantization | None = None
    gate: NestedGate | None = None

    def __post_init__(self) -> None:
        set_field(self, "u", as_float32(self.u, "u", "(in, rank)"))
        set_field(self, "v", as_float32(self.v, "v", "(rank, out)"))
        set_field(self, "bias", as_float32(self.bias, "bias", "(out,)"))
        check_shape("v", self.v, (self.rank, self.outputs))
        check_shape("bias", self.bias, (self.outputs,))
        if self.quantization is not None:
            check_type("quantization", self.quantization, Quantization)
            check_quantization(self.quantization, self.rank)
        if self.gate is not None:
            check_type("gate", self.gate, NestedGate)
            check_shape("gate.v", self.gate.v, (self.gate.rank, self.outputs))
            if self.gate.rank > self.rank:
                raise ValueError(
                    f"gate.v must have at most {self.rank} rows, the rank of the factors, "
                    f"got {self.gate.rank}"
                )

    @property
    def rank(self) -> int:
        """Inner dimension of the factors."""
        return int(self.u.shape[1])

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return int(self.u.shape[0])

    @property
    def outputs(self) -> int:
        """Number of units."""
        return int(self.v.shape[1])

    def __repr__(self) -> str:
        gate = "" if self.gate is None else f", gate of rank {self.gate.rank}"
        int8 = "" if self.quantization is None else ", int8"
        return f"Factors({self.inputs} -> {self.outputs}, rank {self.rank}{gate}{int8})"


def check_quantization(quantization: Quantization, width: int) -> None:
    """Raise ValueError unless there are one scale and offset, or one for each of `width` values."""
    for name in ("scale", "offset"):
        array = getattr(quantization, name)
        if array.shape not in ((), (width,)):
            raise ValueError(
                f"quantization.{name} must have shape () or ({width},), got {array.shape}"
            )


@dataclass(frozen=True, eq=False)
class Layer(ReadOnlyArrays):
    """A fully connected layer: ``activation(x weight.T + bias)``.

    Parameters
    ----------
    weight : array of shape (out, in)
    bias : array of shape (out,)
        None means zeros.
    activation : Activation
    gate : Gate, optional
        Sign estimate of the layer.
    kept_units : array of int of shape (k,), optional
        Distinct indices, from 0 to out - 1, of the units that the engine computes, in the order of
        computation. All other units are treated as constant zero and are never computed, so they
        are allowed only if the activation has a hard zero. All other arrays keep the full width and
        the original order of units. Not supported for softmax, log_softmax and a network's
        last layer.
    quantization : Quantization, optional
        Quantisation of the inputs, which the layer needs to run in int8.
    factors : Factors, optional
        Low-rank form of the layer.

    Raises
    ------
    TypeError
        If an array does not hold real numbers (`kept_units`: integers), or the activation, gate,
        quantization or factors have a wrong type.
    ValueError
        If a shape is wrong (the message says whether `weight` looks transposed), a finite value
        does not fit float32, or `kept_units` is invalid.

    Examples
    --------
    >>> Layer(np.ones((3, 2)), np.zeros(3), Activation("relu"))
    Layer(2 -> 3, relu)
    """

    weight: Float32Array
    bias: Float32Array
    activation: Activation
    gate: Gate | None = None
    kept_units: Int32Array | None = None
    quantization: Quantization | None = None
    factors: Factors | None = None

    def __post_init__(self) -> None:
        set_field(self, "weight", as_float32(self.weight, "weight", "(out, in)"))
        bias = np.zeros(self.outputs, np.float32) if self.bias is None else self.bias
        set_field(self, "bias", as_float32(bias, "bias", "(out,)"))
        if self.bias.shape == (self.inputs,) != (self.outputs,):
            raise ValueError(
                f"weight has shape {self.weight.shape} and bias {self.bias.shape}: this looks like "
                "(in, out): pass weight.T"
            )
        check_shape("bias", self.bias, (self.outputs,))
        check_type("activation", self.activation, Activation)
        self.activation.check_units(self.outputs)
        if self.gate is not None:
            check_type("gate", self.gate, Gate)
            check_shape("gate.u", self.gate.u, (self.inputs, self.gate.rank))
            check_shape("gate.v", self.gate.v, (self.gate.rank, self.outputs))
        if self.kept_units is not None:
            set_field(self, "kept_units", as_units(self.kept_units, "kept_units", self.outputs))
            self._check_kept_units(len(self.kept_units))
        if self.quantization is not None:
            check_type("quantization", self.quantization, Quantization)
            check_quantization(self.quantization, self.inputs)
        if self.factors is not None:
            check_type("factors", self.factors, Factors)
            check_shape("factors.u", self.factors.u, (self.inputs, self.factors.rank))
            check_shape("factors.v", self.factors.v, (self.factors.rank, self.outputs))

    def _check_kept_units(self, computed: int) -> None:
        if self.activation.mixes_units:
            name = self.activation.name
            raise ValueError(f"kept_units must be None for {name}, got {computed} units")
        if computed < self.outputs and not self.activation.has_hard_zero:
            raise ValueError(
                f"kept_units must have all {self.outputs} units for {self.activation.name}, "
                f"which has no hard zero, got {computed}"
            )

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return int(self.weight.shape[1])

    @property
    def outputs(self) -> int:
        """Number of units."""
        return int(self.weight.shape[0])

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds per row if nothing is skipped."""
        return self.inputs * self.outputs

    def __repr__(self) -> str:
        gate = "" if self.gate is None else f", gate of rank {self.gate.rank}"
        kept = "" if self.kept_units is None else f", {len(self.kept_units)} units kept"
        int8 = "" if self.quantization is None else ", int8"
        factors = "" if self.factors is None else f", factors of rank {self.factors.rank}"
        parts = f"{self.activation}{gate}{factors}{kept}{int8}"
        return f"Layer({self.inputs} -> {self.outputs}, {parts})"


def missing_part(layer: Layer, name: str, strategy: str, precision: str = "f32") -> str | None:
    """The part that a layer lacks for a strategy in a precision, in words; None if it has all.

    Examples
    --------
    >>> layer = Layer(np.ones((3, 2)), None, Activation("relu"))
    >>> missing_part(layer, "layers[0]", "gate")
    'layers[0] has no gate'
    """
    used, factors = words(strategy), layer.factors
    if "factor" in used:
        if factors is None:
            return f"{name} has no factors"
        if "gate" in used and factors.gate is None:
            return f"the factors of {name} have no gate"
    elif "gate" in used and layer.gate is None:
        return f"{name} has no gate"
    if precision != "int8":
        return None
    if layer.quantization is None:
        return f"{name} has no quantization"
    if "factor" in used and factors is not None and factors.quantization is None:
        return f"the factors of {name} have no quantization"
    if used == {"gate"} and layer.gate is not None and layer.gate.range is None:
        return f"the gate of {name} has no range"
    return None

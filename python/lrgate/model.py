"""The model as plain data: what files hold, what the engine is built from.

Everything here is immutable and knows neither the engine nor a file format. Arrays are taken over
as read-only, C-contiguous float32 (an array that its owner could still write to is copied), and
their kinds and shapes are checked; whether widths chain, values are finite and gates sit where they
may is the engine's to check, once, for every source of models.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate import inputs

__all__ = [
    "Activation",
    "ClassPlan",
    "Gate",
    "Layer",
    "Model",
    "PlannedOutputs",
    "Probe",
    "Quantization",
]

Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]
Machine = dict[str, str | int | None]

TASKS: Final = ("classification", "regression", "multilabel")
STRATEGIES: Final = ("dense", "skip", "gate")
PRECISIONS: Final = ("f32", "int8")
# What `lrgate.machine.fingerprint` tells.
MACHINE_KEYS: Final = ("isa", "cpu", "l1d", "l2", "l3")
MAX_MACHINE_CHARACTERS: Final = 200

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

# Numbers of dimensions by the text that messages give for the shape.
_DIMENSIONS: Final[dict[str, tuple[int, ...]]] = {
    "(out, in)": (2,),
    "(in, rank)": (2,),
    "(rank, out)": (2,),
    "(2, rank)": (2,),
    "(n, d)": (2,),
    "(n, k)": (2,),
    "(out,)": (1,),
    "() or (d,)": (0, 1),
}

_JSON_DEPTH: Final = 100
_MAX_ROWS: Final = 2**31 - 1


@dataclass(frozen=True)
class Activation:
    """What a layer applies to its pre-activation ``z = x weight.T + bias``.

    Parameters
    ----------
    name : str
        ``identity``, ``relu``, ``clipped_relu`` (``min(max(0, z), upper)``), ``thresholded_relu``
        (z where ``z > threshold``, else 0), ``leaky_relu`` (z where ``z > 0``, else ``slope z``),
        ``tanh``, ``sigmoid``, ``gelu`` (the exact form) or ``softmax``.
    parameter : float, optional
        ``upper`` (above 0, required), ``threshold`` (required) or ``slope`` (default 0.01) of the
        three activations that have one.

    Raises
    ------
    ValueError
        For an unknown name, or a parameter that is missing, out of range, or not wanted.
    TypeError
        For a name that is not a str, or a parameter that is not a number.

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
            raise ValueError(f"activation must be one of {_words(_ACTIVATIONS)}, got {self.name!r}")
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
        """An activation from any of the forms that users and files write it in.

        Parameters
        ----------
        value : Activation, str, tuple or mapping
            ``"relu"``, ``("clipped_relu", 6.0)`` or ``{"name": "clipped_relu", "upper": 6.0}``.
        name : str, default "activation"
            What messages call the argument.

        Returns
        -------
        Activation

        Raises
        ------
        ValueError, TypeError
            With `name`, what was expected and what came.
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
            raise ValueError(f"{name} has no {_words(unknown)}")
        return cls(name, None if label is None else value.get(label))

    @property
    def has_hard_zero(self) -> bool:
        """Whether a whole half-line of pre-activations becomes exactly 0, so a gate makes sense."""
        return self.name in _HARD_ZERO

    def to_json(self) -> str | dict[str, Any]:
        """The form that files hold and that `parse` reads: a str, or a dict with the parameter."""
        if self.parameter is None:
            return self.name
        return {"name": self.name, _PARAMETERS[self.name][0]: self.parameter}

    def __str__(self) -> str:
        return self.name if self.parameter is None else f"{self.name}({self.parameter:g})"


class _ReadOnlyArrays:
    """Keeps the arrays of a frozen dataclass read-only through pickle and deepcopy."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            if isinstance(value, np.ndarray):
                # What else is in the pickle may have the same array.
                value.flags.writeable = False
                value = sealed(value.copy() if _needs_copy(value, made_here=True) else value)
            self.__dict__[name] = value


@dataclass(frozen=True, eq=False)
class Gate(_ReadOnlyArrays):
    """The sign estimate of one layer: a unit is computed where ``x u v + bias > 0``.

    Parameters
    ----------
    u : array of shape (in, rank)
    v : array of shape (rank, out)
    bias : array of shape (out,)
        Thresholds are folded into it.
    range : array of shape (2, rank), optional
        The least and the greatest of each of ``x u`` on calibration rows. With it, scores are
        computed from bytes of these sums, which is faster and moves a score by about a hundredth of
        its spread; sums beyond count as the ends. A gate needs it to run in int8.

    Raises
    ------
    TypeError
        For an array that does not hold real numbers.
    ValueError
        For a wrong shape, a finite value beyond float32, or a `range` that is not finite or has a
        least value above the greatest.

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
        _set(self, "u", as_float32(self.u, "u", "(in, rank)"))
        _set(self, "v", as_float32(self.v, "v", "(rank, out)"))
        _set(self, "bias", as_float32(self.bias, "bias", "(out,)"))
        _check_shape("v", self.v, (self.rank, self.v.shape[1]))
        _check_shape("bias", self.bias, (self.outputs,))
        if self.range is not None:
            _set(self, "range", as_float32(self.range, "range", "(2, rank)"))
            _check_shape("range", self.range, (2, self.rank))
            _check_bounds("range", self.range)

    @property
    def rank(self) -> int:
        """Inner width of the factors."""
        return int(self.u.shape[1])

    @property
    def inputs(self) -> int:
        """Width of a row going in."""
        return int(self.u.shape[0])

    @property
    def outputs(self) -> int:
        """Number of units estimated."""
        return int(self.v.shape[1])

    def __repr__(self) -> str:
        return f"Gate({self.inputs} -> {self.outputs}, rank {self.rank})"


@dataclass(frozen=True, eq=False)
class Quantization(_ReadOnlyArrays):
    """How the inputs of an int8 layer become bytes.

    An input x becomes the byte ``round(x / scale + offset)``, brought within 0 to 255; a byte q
    stands for ``(q - offset) * scale``. So 0 stays exactly 0 where `offset` is an integer from 0 to
    255; where it is 0, a byte of 0 can be skipped. For a network's first layer x is the raw input,
    before the network's scale and shift. A row with a value more than a step beyond the bytes is
    recomputed in float32. In later layers byte 255 means out of range: a row with such a value, or
    with one more than half a step below byte 0, is recomputed.

    Parameters
    ----------
    scale : array of shape () or (d,)
        One for all inputs, or one each.
    offset : array of shape () or (d,)
        One for all inputs, or, in a network's first layer, one each.

    Raises
    ------
    TypeError
        For an array that does not hold real numbers.
    ValueError
        For a wrong shape, a value that is not finite in float32, or a `scale` that is not above 0,
        or so small that ``1 / scale`` is not finite in float32.

    Examples
    --------
    >>> Quantization(6 / 255, 0)
    Quantization(scale 0.0235294, offset 0)
    """

    scale: Float32Array
    offset: Float32Array

    def __post_init__(self) -> None:
        for name in ("scale", "offset"):
            _set(self, name, as_float32(getattr(self, name), name, "() or (d,)"))
        if self.scale.ndim == self.offset.ndim == 1:
            _check_shape("offset", self.offset, self.scale.shape)
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
        """() where all inputs have one scale and one offset, (d,) where they have one each."""
        return np.broadcast_shapes(self.scale.shape, self.offset.shape)

    def __repr__(self) -> str:
        if self.shape:
            return f"Quantization(of {self.shape[0]} inputs)"
        return f"Quantization(scale {self.scale:g}, offset {self.offset:g})"


@dataclass(frozen=True, eq=False)
class Layer(_ReadOnlyArrays):
    """One fully connected layer: ``activation(x weight.T + bias)``.

    Parameters
    ----------
    weight : array of shape (out, in)
    bias : array of shape (out,)
        None stands for zeros.
    activation : Activation
    gate : Gate, optional
        Its sign estimate.
    order : array of int of shape (k,), optional
        The units that the engine computes, in its order: distinct, from 0 to out - 1. The others
        count as constant zero and are never computed, so only an activation with a hard zero may
        lack any. All else here keeps the full width and the user's order of units. Not for softmax,
        nor for a network's last layer.
    quantization : Quantization, optional
        How its inputs become bytes, so that it can run in int8.

    Raises
    ------
    TypeError
        For an array that does not hold real numbers (integers in `order`), or an activation, gate
        or quantization of another type.
    ValueError
        For a wrong shape (where it looks like a weight of shape (in, out), the message says so), a
        finite value beyond float32, or an `order` that is not such a one.

    Examples
    --------
    >>> Layer(np.ones((3, 2)), np.zeros(3), Activation("relu"))
    Layer(2 -> 3, relu)
    """

    weight: Float32Array
    bias: Float32Array
    activation: Activation
    gate: Gate | None = None
    order: Int32Array | None = None
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        _set(self, "weight", as_float32(self.weight, "weight", "(out, in)"))
        bias = np.zeros(self.outputs, np.float32) if self.bias is None else self.bias
        _set(self, "bias", as_float32(bias, "bias", "(out,)"))
        if self.bias.shape == (self.inputs,) != (self.outputs,):
            raise ValueError(
                f"weight has shape {self.weight.shape} and bias {self.bias.shape}: this looks like "
                "(in, out): pass weight.T"
            )
        _check_shape("bias", self.bias, (self.outputs,))
        _check_type("activation", self.activation, Activation)
        if self.gate is not None:
            _check_type("gate", self.gate, Gate)
            _check_shape("gate.u", self.gate.u, (self.inputs, self.gate.rank))
            _check_shape("gate.v", self.gate.v, (self.gate.rank, self.outputs))
        if self.order is not None:
            _set(self, "order", as_order(self.order, "order", self.outputs))
            self._check_order(len(self.order))
        if self.quantization is not None:
            _check_type("quantization", self.quantization, Quantization)
            for name in ("scale", "offset"):
                array = getattr(self.quantization, name)
                if array.shape not in ((), (self.inputs,)):
                    raise ValueError(
                        f"quantization.{name} must have shape () or ({self.inputs},), "
                        f"got {array.shape}"
                    )

    def _check_order(self, computed: int) -> None:
        if self.activation.name == "softmax":
            raise ValueError(f"order must be None for softmax, got {computed} units")
        if computed < self.outputs and not self.activation.has_hard_zero:
            raise ValueError(
                f"order must have all {self.outputs} units for {self.activation.name}, which has "
                f"no hard zero, got {computed}"
            )

    @property
    def inputs(self) -> int:
        """Width of a row going in."""
        return int(self.weight.shape[1])

    @property
    def outputs(self) -> int:
        """Number of units."""
        return int(self.weight.shape[0])

    def __repr__(self) -> str:
        gate = "" if self.gate is None else f", gate of rank {self.gate.rank}"
        order = "" if self.order is None else f", order of {len(self.order)} units"
        int8 = "" if self.quantization is None else ", int8"
        return f"Layer({self.inputs} -> {self.outputs}, {self.activation}{gate}{order}{int8})"


@dataclass(frozen=True)
class ClassPlan:
    """How each layer is computed for calls of about this many rows.

    Parameters
    ----------
    rows : int
        The number of rows that the plan was made for, from 1 to 2147483647.
    strategies : tuple of str
        ``dense``, ``skip`` or ``gate``, one a layer.
    precisions : tuple of str
        ``f32`` or ``int8``, one a layer.

    Raises
    ------
    ValueError, TypeError
        For a value that is none of these, or tuples of unequal length.
    """

    rows: int
    strategies: tuple[str, ...]
    precisions: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.rows, bool) or not isinstance(self.rows, int):
            raise TypeError(f"rows must be an integer, got {self.rows!r}")
        if not 1 <= self.rows <= _MAX_ROWS:
            raise ValueError(f"rows must be from 1 to {_MAX_ROWS}, got {self.rows}")
        for name, known in (("strategies", STRATEGIES), ("precisions", PRECISIONS)):
            words = getattr(self, name)
            if isinstance(words, str) or not isinstance(words, tuple | list):
                raise TypeError(f"{name} must be a tuple of str, got {words!r}")
            for i, word in enumerate(words):
                if word not in known:
                    raise ValueError(f"{name}[{i}] must be one of {_words(known)}, got {word!r}")
            _set(self, name, tuple(words))
        if len(self.precisions) != len(self.strategies):
            raise ValueError(
                f"precisions must have {len(self.strategies)} entries, one for each of strategies, "
                f"got {len(self.precisions)}"
            )


@dataclass(frozen=True, eq=False)
class PlannedOutputs(_ReadOnlyArrays):
    """What a network gives on its probe's rows under a plan that is not dense in f32.

    Parameters
    ----------
    strategies : tuple of str
        ``gate`` where the plan has gates, else ``dense``: skip gives the same outputs.
    precisions : tuple of str
        ``f32`` or ``int8``, one a layer.
    y : array of shape (n, k)
        The last layer's raw outputs.
    tolerance : float
        How far outputs may be from `y` on another machine or with skip for dense, relative to the
        largest; finite and at least 0.

    Raises
    ------
    ValueError, TypeError
        As for `ClassPlan` and `Layer`; for another strategy, or another tolerance.
    """

    strategies: tuple[str, ...]
    precisions: tuple[str, ...]
    y: Float32Array
    tolerance: float

    def __post_init__(self) -> None:
        plan = ClassPlan(1, self.strategies, self.precisions)
        for i, word in enumerate(plan.strategies):
            if word == "skip":
                raise ValueError(f"strategies[{i}] must be dense or gate, got {word!r}")
        _set(self, "strategies", plan.strategies)
        _set(self, "precisions", plan.precisions)
        _set(self, "y", as_float32(self.y, "y", "(n, k)"))
        tolerance = self.tolerance
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
            raise TypeError(f"tolerance must be a number, got {tolerance!r}")
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"tolerance must be finite and at least 0, got {tolerance}")


@dataclass(frozen=True, eq=False)
class Probe(_ReadOnlyArrays):
    """A few real input rows with the network's outputs, for measuring and checking after a load.

    Parameters
    ----------
    x : array of shape (n, d)
        Raw input rows, before the network's scale and shift; uint8 stays uint8, all else becomes
        float32.
    y : array of shape (n, k)
        The last layer's raw outputs for them, dense in f32.
    planned : tuple of PlannedOutputs, optional
        The same under plans with gates or in int8, each with other gates or precisions. None where
        nobody computed them, as for files of format version 1.

    Raises
    ------
    ValueError, TypeError
        As for `Layer`.
    """

    x: npt.NDArray[np.uint8] | Float32Array
    y: Float32Array
    planned: tuple[PlannedOutputs, ...] | None = None

    def __post_init__(self) -> None:
        _set(self, "x", as_rows(self.x, "x", "(n, d)"))
        _set(self, "y", as_float32(self.y, "y", "(n, k)"))
        _check_shape("y", self.y, (self.x.shape[0], self.y.shape[1]))
        if self.planned is None:
            return
        if not isinstance(self.planned, tuple | list):
            raise TypeError(f"planned must be a tuple or None, got {type(self.planned).__name__}")
        _set(self, "planned", tuple(self.planned))
        for i, outputs in enumerate(self.planned):
            _check_type(f"planned[{i}]", outputs, PlannedOutputs)
            _check_shape(f"planned[{i}].y", outputs.y, self.y.shape)

    def __repr__(self) -> str:
        rows, width = self.x.shape
        return f"Probe({rows} rows, {width} -> {self.y.shape[1]}, {self.x.dtype})"


@dataclass(frozen=True, eq=False)
class Model(_ReadOnlyArrays):
    """A trained network with all that a file keeps beside its weights.

    Parameters
    ----------
    layers : tuple of Layer
        In order; at least one.
    task : {"classification", "regression", "multilabel"}, optional
    classes : 1-D array of int, str, bool or float, optional
        A classifier's labels: one for each output, or two where there is one output.
    input_scale, input_shift : array of shape () or (d,), optional
        The first layer sees ``x * input_scale + input_shift``.
    plan : tuple of ClassPlan, optional
        By batch class; each names a strategy and a precision for every layer: int8 only where the
        layer has a quantization, and its gate, if it is used, a range.
    probe : Probe, optional
    metadata : dict, optional
        JSON values: None, bool, int, finite float, str, list, and dict with str keys. NumPy scalars
        and tuples are turned into these.
    input_range : (low, high), optional
        What callers promise about raw inputs, each a number or an array (d,). Units that no row in
        the range can switch on may be left out of an `order`; rows outside it may then give other
        results. Stored as an array of shape (2,) or (2, d).
    machine : dict, optional
        Where the plan was measured, as `lrgate.machine.fingerprint` tells it; None where it was
        not. The keys are ``isa``, ``cpu``, ``l1d``, ``l2`` and ``l3``, the values str of up to 200
        characters, int from 0 to 2**63 - 1, or None.
    report : dict, optional
        JSON values, as `metadata`: what was done to make the network fast.

    Raises
    ------
    ValueError, TypeError
        With the argument's name, what was expected and what came.
    """

    layers: tuple[Layer, ...]
    task: str | None = None
    classes: npt.NDArray[Any] | None = None
    input_scale: Float32Array | None = None
    input_shift: Float32Array | None = None
    plan: tuple[ClassPlan, ...] | None = None
    probe: Probe | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    input_range: Float32Array | None = None
    machine: Machine | None = None
    report: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self._check_layers()
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"task must be one of {_words(TASKS)} or None, got {self.task!r}")
        if self.task == "multilabel" and self.layers[-1].activation.name == "softmax":
            raise ValueError(
                'task must be "classification" where the last activation is softmax, '
                'got "multilabel"'
            )
        if self.classes is not None:
            _set(self, "classes", as_classes(self.classes))
            self._check_classes(len(self.classes))
        for name in ("input_scale", "input_shift"):
            if getattr(self, name) is not None:
                _set(self, name, as_float32(getattr(self, name), name, "() or (d,)"))
        if self.plan is not None:
            self._check_plan(self.plan)
        if self.probe is not None:
            _check_type("probe", self.probe, Probe)
            _check_shape("probe.x", self.probe.x, (len(self.probe.x), self.layers[0].inputs))
            _check_shape("probe.y", self.probe.y, (len(self.probe.x), self.layers[-1].outputs))
            for i, planned in enumerate(self.probe.planned or ()):
                self._check_planned(f"probe.planned[{i}]", planned)
        if self.input_range is not None:
            _set(self, "input_range", as_range(self.input_range))
            self._check_range(self.input_range.shape)
        if self.machine is not None:
            _set(self, "machine", as_machine(self.machine))
        _set(self, "metadata", _json_object(self.metadata, "metadata"))
        if self.report is not None:
            _set(self, "report", _json_object(self.report, "report"))

    def _check_layers(self) -> None:
        if not isinstance(self.layers, tuple | list):
            raise TypeError(f"layers must be a tuple of Layer, got {type(self.layers).__name__}")
        _set(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ValueError("layers must have at least one layer, got 0")
        for i, layer in enumerate(self.layers):
            _check_type(f"layers[{i}]", layer, Layer)
        if self.layers[-1].order is not None:
            raise ValueError(
                f"layers[{len(self.layers) - 1}].order must be None: it is the last layer, whose "
                "units are the outputs"
            )
        for i, layer in enumerate(self.layers[1:], start=1):
            if layer.quantization is not None and layer.quantization.offset.shape != ():
                raise ValueError(
                    f"layers[{i}].quantization.offset must have shape (), "
                    f"got {layer.quantization.offset.shape}: only the first layer has one for each "
                    "input"
                )

    def _check_classes(self, got: int) -> None:
        if self.task in ("regression", "multilabel"):
            raise ValueError(f'classes must be None where task is "{self.task}"')
        outputs = self.layers[-1].outputs
        expected = 2 if outputs == 1 else outputs
        if got != expected:
            raise ValueError(
                f"classes must have shape ({expected},) for {outputs} "
                f"output{'s' * (outputs != 1)}, got ({got},)"
            )

    def _check_range(self, got: tuple[int, ...]) -> None:
        inputs = self.layers[0].inputs
        if got not in ((2,), (2, inputs)):
            raise ValueError(f"input_range must have shape (2,) or (2, {inputs}), got {got}")

    def _check_plan(self, plan: object) -> None:
        if not isinstance(plan, tuple | list):
            raise TypeError(f"plan must be a tuple of ClassPlan, got {type(plan).__name__}")
        _set(self, "plan", tuple(plan))
        if not plan:
            raise ValueError("plan must have at least one class, got 0")
        for i, entry in enumerate(plan):
            _check_type(f"plan[{i}]", entry, ClassPlan)
            if len(entry.strategies) != len(self.layers):
                raise ValueError(
                    f"plan[{i}].strategies must have {len(self.layers)} entries, one a layer, "
                    f"got {len(entry.strategies)}"
                )
            self._check_precisions(f"plan[{i}].precisions", entry)

    def _check_planned(self, name: str, planned: PlannedOutputs) -> None:
        if len(planned.strategies) != len(self.layers):
            raise ValueError(
                f"{name}.strategies must have {len(self.layers)} entries, one a layer, "
                f"got {len(planned.strategies)}"
            )
        for i, layer in enumerate(self.layers):
            if planned.strategies[i] == "gate" and layer.gate is None:
                raise ValueError(
                    f"{name}.strategies[{i}] must be dense, since layers[{i}] has no gate"
                )
        self._check_precisions(f"{name}.precisions", planned)

    def _check_precisions(self, name: str, plan: ClassPlan | PlannedOutputs) -> None:
        for i, layer in enumerate(self.layers):
            if plan.precisions[i] != "int8":
                continue
            if layer.quantization is None:
                raise ValueError(f"{name}[{i}] must be f32, since layers[{i}] has no quantization")
            if plan.strategies[i] == "gate" and layer.gate and layer.gate.range is None:
                raise ValueError(
                    f"{name}[{i}] must be f32, since the gate of layers[{i}] has no range"
                )

    def __repr__(self) -> str:
        widths = [self.layers[0].inputs, *(layer.outputs for layer in self.layers)]
        parts = ["-".join(map(str, widths))]
        if self.task is not None:
            parts.append(self.task)
        gates = sum(layer.gate is not None for layer in self.layers)
        if gates:
            parts.append(f"{gates} gate{'s' * (gates != 1)}")
        quantized = sum(layer.quantization is not None for layer in self.layers)
        if quantized:
            parts.append(f"{quantized} layer{'s' * (quantized != 1)} in int8")
        return f"Model({', '.join(parts)})"


def as_float32(value: object, name: str, shape: str) -> Float32Array:
    """`value` as a read-only, C-contiguous float32 array, copied only where that takes a copy.

    Parameters
    ----------
    value : array_like
        bool, integers or floats.
    name : str
        What messages call it.
    shape : str
        The shape expected, as messages say it: ``(out, in)``, ``(out,)`` or ``() or (d,)``.

    Returns
    -------
    float32 array

    Raises
    ------
    TypeError
        For another kind of value.
    ValueError
        For another number of dimensions, or a finite value that float32 cannot hold.
    """
    array = _real_array(value, name, shape)
    with np.errstate(over="ignore"):
        result = array.astype(np.float32, order="C", copy=_needs_copy(array))
    _check_overflow(array, result, name)
    return sealed(result)


def as_rows(value: object, name: str, shape: str) -> npt.NDArray[np.uint8] | Float32Array:
    """As `as_float32`, but uint8 stays uint8.

    Parameters
    ----------
    value : array_like
    name, shape : str
        As for `as_float32`.

    Returns
    -------
    uint8 or float32 array

    Raises
    ------
    ValueError, TypeError
        As `as_float32`.
    """
    array = _real_array(value, name, shape)
    if array.dtype != np.uint8:
        return as_float32(array, name, shape)
    return sealed(array.astype(np.uint8, order="C", copy=_needs_copy(array)))


def as_classes(value: object, name: str = "classes") -> npt.NDArray[Any]:
    """`value` as a read-only 1-D array of distinct int64, str, bool or finite float64 labels.

    Parameters
    ----------
    value : array_like
        int, str, bool or float; all str or all numbers. Integers of any width become int64.
    name : str, default "classes"
        What messages call it.

    Returns
    -------
    array of shape (k,)

    Raises
    ------
    TypeError
        For another kind of value, str mixed with numbers, or labels in no order.
    ValueError
        For another number of dimensions, repeated labels, labels that are not finite, integers that
        float64 would round beside floats, or text that ends in a NUL character.
    """
    array = inputs.label_array(value, name)
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (k,), got {array.shape}")
    if array.dtype.kind == "O":
        raise _mixed(array, name)
    if array.dtype.kind == "U":
        array = array.astype(np.str_)
    elif array.dtype.kind in "iu":
        if array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise ValueError(f"{name} must fit int64, got {array.max()}")
        array = array.astype(np.int64)
    elif array.dtype.kind == "f":
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    elif array.dtype.kind == "b":
        array = array.astype(np.bool_)
    else:
        raise TypeError(f"{name} must be int, str, bool or float, got dtype {array.dtype}")
    labels, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name} must be distinct, got {labels[counts > 1][0].item()!r} twice")
    array.flags.writeable = False
    return array


def as_order(value: object, name: str, units: int) -> Int32Array:
    """`value` as a read-only 1-D int32 array of distinct units.

    Parameters
    ----------
    value : array_like of int
    name : str
        What messages call it.
    units : int
        How many there are to name.

    Returns
    -------
    int32 array of shape (k,), k from 1 to `units`

    Raises
    ------
    TypeError
        For another kind of value.
    ValueError
        For another number of dimensions, no unit, one that is not there, or one named twice.
    """
    array = inputs.plain_array(value, name, "integers")
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must have shape (k,) with k > 0, got {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an array of integers, got dtype {array.dtype}")
    outside = array[(array < 0) | (array >= units)]
    if outside.size:
        raise ValueError(f"{name} must name units from 0 to {units - 1}, got {outside[0]}")
    order = array.astype(np.int32, order="C", copy=_needs_copy(array))
    # By sorting: a file may state more units than memory has room to count.
    ascending = np.sort(order)
    repeated = ascending[1:][ascending[1:] == ascending[:-1]]
    if repeated.size:
        raise ValueError(f"{name} must name distinct units, got {repeated[0]} twice")
    return sealed(order)


def as_range(value: Any, name: str = "input_range") -> Float32Array:
    """A pair of bounds as one read-only float32 array.

    Parameters
    ----------
    value : (low, high)
        Each a number or an array (d,); or both in one array of shape (2,) or (2, d).
    name : str, default "input_range"
        What messages call it.

    Returns
    -------
    float32 array of shape (2,) or (2, d)

    Raises
    ------
    TypeError
        For a value that is no pair, or bounds that are not real numbers.
    ValueError
        For another shape, bounds that are not finite, or a low bound above the high one.
    """
    if isinstance(value, np.ndarray) and (value.ndim not in (1, 2) or len(value) != 2):
        raise ValueError(f"{name} must have shape (2,) or (2, d), got {value.shape}")
    try:
        low, high = value
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a pair (low, high), got {reprlib.repr(value)}") from None
    low, high = (
        as_float32(bound, f"{name}[{i}]", "() or (d,)") for i, bound in enumerate((low, high))
    )
    if low.ndim == high.ndim == 1 and low.shape != high.shape:
        raise ValueError(f"{name}[1] must have shape () or {low.shape}, got {high.shape}")
    result = np.stack(np.broadcast_arrays(low, high))
    _check_bounds(name, result)
    return sealed(result)


def as_machine(value: Any, name: str = "machine") -> Machine:
    """A copy of what `lrgate.machine.fingerprint` tells, checked, its keys in their order.

    Parameters
    ----------
    value : dict
    name : str, default "machine"
        What messages call it.

    Returns
    -------
    dict

    Raises
    ------
    TypeError
        For another type, or a value that is no str, int or None.
    ValueError
        For other keys, a str that is too long, or an int out of range.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be a dict, got {type(value).__name__}")
    if set(value) != set(MACHINE_KEYS):
        raise ValueError(
            f"{name} must have the keys {_words(MACHINE_KEYS)}, got {reprlib.repr(list(value))}"
        )
    for key in MACHINE_KEYS:
        _check_machine_value(f"{name}[{key!r}]", value[key])
    return {key: value[key] for key in MACHINE_KEYS}


def _check_machine_value(name: str, value: object) -> None:
    if isinstance(value, str):
        if len(value) > MAX_MACHINE_CHARACTERS:
            raise ValueError(
                f"{name} must have at most {MAX_MACHINE_CHARACTERS} characters, got {len(value)}"
            )
    elif isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < 2**63:
            raise ValueError(f"{name} must be from 0 to 2**63 - 1, got {reprlib.repr(value)}")
    elif value is not None:
        raise TypeError(f"{name} must be a str, an int or None, got {type(value).__name__}")


def _mixed(labels: npt.NDArray[Any], name: str) -> TypeError:
    """What to raise for labels that no dtype holds: the first that does not fit."""
    text = [isinstance(label, str) for label in labels]
    fits = text if any(text) else [_is_label(label) for label in labels]
    at = fits.index(False)
    return TypeError(
        f"{name} must be all str, or all numbers within int64 or float64, "
        f"got {labels[at]!r} at index {at}"
    )


def _is_label(value: object) -> bool:
    if isinstance(value, int | np.integer):
        return -(2**63) <= int(value) < 2**63
    return isinstance(value, float | np.floating | np.bool_)


def _real_array(value: object, name: str, shape: str) -> npt.NDArray[Any]:
    array = inputs.plain_array(value, name)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be an array of real numbers, got dtype {array.dtype}")
    if array.ndim not in _DIMENSIONS[shape]:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return array


def _needs_copy(array: npt.NDArray[Any], made_here: bool = False) -> bool:
    # What its owner can write to, or make writable again, would change under us and the engine,
    # which needs alignment besides. What was `made_here` and owns its memory has no other owner.
    if not array.flags.aligned:
        return True
    base: object = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return True
        base = base.base
    return not (base is None and made_here) and not isinstance(base, bytes | _Sealed)


class _Sealed:
    """Owns an array's memory, which nothing else writes to: see `sealed`."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = array.__array_interface__ | {"data": (address, True)}
        self._array = array


def sealed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array of the same memory that cannot be made writable.

    For memory that nothing else writes to from now on: models, and engines, which read weights
    where they are, copy whatever else somebody might write to.
    """
    return array if isinstance(array.base, _Sealed) else np.asarray(_Sealed(array))


def _check_overflow(array: npt.NDArray[Any], result: Float32Array, name: str) -> None:
    if array.dtype.kind != "f" or array.dtype.itemsize <= 4:
        return
    overflow = np.isinf(result) & np.isfinite(array)
    if overflow.any():
        index = tuple(int(i) for i in np.argwhere(overflow)[0])
        where = index[0] if len(index) == 1 else index
        raise ValueError(f"{name} must fit float32, got {array[index]} at index {where}")


def _check_shape(name: str, array: npt.NDArray[Any], expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise ValueError(f"{name} must have shape {expected}, got {array.shape}")


def _check_bounds(name: str, bounds: Float32Array) -> None:
    if not np.isfinite(bounds).all():
        raise ValueError(f"{name} must be finite, got {bounds[~np.isfinite(bounds)][0]}")
    low, high = bounds.reshape(2, -1)
    above = low > high
    if above.any():
        raise ValueError(f"{name} must have low <= high, got {low[above][0]} > {high[above][0]}")


def _check_type(name: str, value: object, expected: type) -> None:
    if not isinstance(value, expected):
        raise TypeError(f"{name} must be of type {expected.__name__}, got {type(value).__name__}")


def _json_object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be a dict, got {type(value).__name__}")
    copy: dict[str, Any] = _json_copy(value, name, 0)
    return copy


def _json_copy(value: Any, name: str, depth: int) -> Any:
    """A deep copy that holds nothing but JSON values; `depth` bounds the recursion."""
    if depth > _JSON_DEPTH:
        raise ValueError(f"{name.partition('[')[0]} must be nested at most {_JSON_DEPTH} deep")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{name} must have str keys, got {key!r}")
        return {str(k): _json_copy(v, f"{name}[{k!r}]", depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_copy(item, f"{name}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a JSON value, got {value}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} must be a JSON value, got {type(value).__name__}")


def _set(instance: object, name: str, value: object) -> None:
    """Sets a field of a frozen dataclass, for `__post_init__` alone."""
    object.__setattr__(instance, name, value)


def _words(words: Any) -> str:
    return ", ".join(words)

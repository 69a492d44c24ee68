"""Converts arrays by key and a JSON header to a model."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from lrgate.files.errors import FileFormatError, naming
from lrgate.files.header import as_json, check_count, check_fields, entry
from lrgate.files.keys import LAYER_KEY, required
from lrgate.model.activation import Activation
from lrgate.model.arrays import as_classes, check_shape
from lrgate.model.functions import FUNCTIONS
from lrgate.model.json import Machine, as_machine
from lrgate.model.layer import Factors, Gate, Layer, NestedGate, Quantization
from lrgate.model.model import Model
from lrgate.model.plan import BatchPlan
from lrgate.model.probe import PlannedOutputs, Probe
from lrgate.types import Array

__all__ = [
    "to_model",
]


_MAX_LABEL_BYTES: Final = 64 << 20

# JSON does not distinguish 1 from 1.0, so the kind of the labels is stored.
_CLASS_KINDS: Final[dict[str, type]] = {"int": int, "str": str, "bool": bool, "float": float}

_DTYPE_OF_KIND: Final = {"int": np.int64, "str": np.str_, "bool": np.bool_, "float": np.float64}


def to_model(arrays: dict[str, Array], header: dict[str, Any]) -> Model:
    parts = _by_layer(arrays)
    activations = _activations(header, parts)
    layers = tuple(_layer(parts[i], i, activation) for i, activation in enumerate(activations))
    _check_ranks(header, layers)
    plans = entry(header, "plans", list)
    classes = entry(header, "classes", dict)
    machine = entry(header, "machine", dict)
    with naming(""):
        return Model(
            layers=layers,
            task=entry(header, "task", str),
            classes=None if classes is None else _classes(classes),
            input_scale=arrays.get("input.scale"),
            input_shift=arrays.get("input.shift"),
            plan=None if plans is None else tuple(_plan(plan, i) for i, plan in enumerate(plans)),
            probe=_probe(arrays, header),
            metadata=entry(header, "metadata", dict) or {},
            input_range=arrays.get("input.range"),
            machine=None if machine is None else _machine(machine),
            report=entry(header, "report", dict),
            least_margin=entry(header, "least_margin", float) or 0.0,
        )


def _by_layer(arrays: dict[str, Array]) -> dict[int, dict[str, Array]]:
    """The arrays of each layer, by the part of the key after ``layers.{i}.``; checks for gaps."""
    parts: dict[int, dict[str, Array]] = {}
    for key, array in arrays.items():
        if match := LAYER_KEY.fullmatch(key):
            parts.setdefault(int(match[1]), {})[match[2]] = array
    for i in range(max(parts, default=0) + 1):
        if i not in parts:
            others = f": it has layers up to {max(parts)}" if parts else ""
            raise FileFormatError(f"layers.{i}.weight is missing{others}")
    return parts


def _layer(parts: dict[str, Array], i: int, activation: Activation) -> Layer:
    name = f"layers.{i}."
    weight = required(parts, "weight", name)
    bias = parts.get("bias")
    if weight.size == 0:  # the biases of the stated number of units may not fit in memory
        raise FileFormatError(
            f"{name}weight must have at least one row and one column, got {weight.shape}"
        )
    with naming(name):
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        gate = _gate(parts, name)
        quantization = _quantization(parts, name)
        kept, factors = _kept_units(parts, name), _factors(parts, name)
        return Layer(weight, bias, activation, gate, kept, quantization, factors)


def _kept_units(parts: dict[str, Array], name: str) -> Array | None:
    """The kept units; ``order`` is the key that earlier versions wrote."""
    if "kept_units" in parts and "order" in parts:
        raise FileFormatError(f"{name}order is the old key of kept_units: expected one of them")
    return parts.get("kept_units", parts.get("order"))


def _gate(parts: dict[str, Array], name: str) -> Gate | None:
    if not any(key.startswith("gate.") for key in parts):
        return None
    u, v, bias = (required(parts, f"gate.{part}", name) for part in ("u", "v", "bias"))
    with naming(f"{name}gate."):
        return Gate(u, v, bias, parts.get("gate.range"))


def _factors(parts: dict[str, Array], name: str) -> Factors | None:
    own = {key[len("factors.") :]: parts[key] for key in parts if key.startswith("factors.")}
    if not own:
        return None
    name = f"{name}factors."
    u, v, bias = (required(own, part, name) for part in ("u", "v", "bias"))
    gate = None
    if any(key.startswith("gate.") for key in own):
        scores = (required(own, f"gate.{part}", name) for part in ("v", "bias"))
        with naming(f"{name}gate."):
            gate = NestedGate(*scores)
    quantization = _quantization(own, name)
    with naming(name):
        return Factors(u, v, bias, quantization, gate)


def _quantization(parts: dict[str, Array], name: str) -> Quantization | None:
    if not any(key.startswith("quantization.") for key in parts):
        return None
    scale, offset = (required(parts, f"quantization.{part}", name) for part in ("scale", "offset"))
    with naming(f"{name}quantization."):
        return Quantization(scale, offset)


def _probe(arrays: dict[str, Array], header: dict[str, Any]) -> Probe | None:
    plans = entry(header, "probe_plans", list)
    if plans is None and not any(key.startswith("probe.") for key in arrays):
        return None
    x, y = required(arrays, "probe.x"), required(arrays, "probe.y")
    planned: tuple[PlannedOutputs, ...] | None = None
    if plans or "probe.planned" in arrays:
        planned = _planned(arrays, plans or [], y)
    elif plans is not None:
        planned = ()
    with naming("probe."):
        return Probe(x, y, planned)


def _planned(arrays: dict[str, Array], plans: list[Any], y: Array) -> tuple[PlannedOutputs, ...]:
    stored = required(arrays, "probe.planned")
    if not plans:
        raise FileFormatError("lrgate.probe_plans is missing, though the file has probe.planned")
    if stored.shape != (len(plans) * y.shape[0], y.shape[1]):
        raise FileFormatError(
            f"probe.planned must have shape ({len(plans) * y.shape[0]}, {y.shape[1]}) for "
            f"{len(plans)} plans, got {stored.shape}"
        )
    fields = ("strategies", "precisions", "tolerance")
    planned = []
    for i, (plan, outputs) in enumerate(zip(plans, np.split(stored, len(plans)), strict=True)):
        name = f"lrgate.probe_plans[{i}]"
        check_fields(name, plan, fields)
        with naming(f"{name}."):
            planned.append(
                PlannedOutputs(plan["strategies"], plan["precisions"], outputs, plan["tolerance"])
            )
    return tuple(planned)


def _activations(header: dict[str, Any], parts: dict[int, dict[str, Array]]) -> list[Activation]:
    values = entry(header, "activations", list)
    if values is None:
        values = ["relu"] * (len(parts) - 1) + ["identity"]
    check_count("activations", values, len(parts))
    return [_activation(value, parts[i], i) for i, value in enumerate(values)]


def _activation(value: Any, parts: dict[str, Array], i: int) -> Activation:
    """Parse an activation. Parameters with a value for each unit are arrays of the file."""
    prefix = "activation."
    stored = {key[len(prefix) :]: parts[key] for key in parts if key.startswith(prefix)}
    if stored:
        given = value if isinstance(value, dict) else {"name": value}
        name = given.get("name")
        known = FUNCTIONS[name].parameters if isinstance(name, str) and name in FUNCTIONS else ()
        labels = [one.label for one in known if one.by_unit and one.label not in given]
        for label, array in stored.items():
            if label not in labels:
                raise FileFormatError(
                    f"layers.{i}.{prefix}{label} does not belong to lrgate.activations[{i}], "
                    f"{as_json(value)}"
                )
            with naming(""):
                units = len(required(parts, "weight", f"layers.{i}."))
                check_shape(f"layers.{i}.{prefix}{label}", array, (units,))
        value = {**given, **stored}
    with naming("lrgate."):
        return Activation.parse(value, f"activations[{i}]")


def _check_ranks(header: dict[str, Any], layers: tuple[Layer, ...]) -> None:
    """Check that the ranks, which are stored for human readers, match the gates."""
    ranks = entry(header, "ranks", list)
    if ranks is None:
        return
    check_count("ranks", ranks, len(layers))
    for i, (rank, layer) in enumerate(zip(ranks, layers, strict=True)):
        expected = None if layer.gate is None else layer.gate.rank
        if type(rank) is not type(expected) or rank != expected:
            raise FileFormatError(
                f"lrgate.ranks[{i}] must be {as_json(expected)}, the rank of layers.{i}.gate, "
                f"got {as_json(rank)}"
            )


def _classes(value: dict[str, Any]) -> Array:
    check_fields("lrgate.classes", value, ("kind", "values"))
    kind, values = value["kind"], value["values"]
    expected = _CLASS_KINDS.get(kind) if isinstance(kind, str) else None
    if expected is None:
        raise FileFormatError(
            f"lrgate.classes.kind must be one of {', '.join(_CLASS_KINDS)}, got {as_json(kind)}"
        )
    if not isinstance(values, list):
        raise FileFormatError(f"lrgate.classes.values must be a list, got {as_json(values)}")
    for i, label in enumerate(values):
        if type(label) is not expected:
            raise FileFormatError(
                f"lrgate.classes.values[{i}] must be of kind {kind}, got {as_json(label)}"
            )
    if kind == "str":
        # An array of str pads each label to the length of the longest.
        size = 4 * len(values) * max(map(len, values), default=0)
        if size > _MAX_LABEL_BYTES:
            raise FileFormatError(f"lrgate.classes.values is too large: {size} bytes")
    try:
        labels: Array = np.array(values, _DTYPE_OF_KIND[kind])
    except OverflowError:
        raise FileFormatError("lrgate.classes.values must fit int64") from None
    with naming("lrgate."):
        return as_classes(labels)


def _machine(value: dict[str, Any]) -> Machine:
    with naming("lrgate."):
        return as_machine(value)


def _plan(value: Any, i: int) -> BatchPlan:
    name = f"lrgate.plans[{i}]"
    fields: tuple[str, ...] = ("rows", "strategies", "precisions")
    margins = ("least_margin", "int8_margin")
    if isinstance(value, dict):
        fields = (*fields, *(margin for margin in margins if margin in value))
    check_fields(name, value, fields)
    for margin in margins:
        if value.get(margin, 0.0) is None:
            raise FileFormatError(f"{name}.{margin} must be a number, got null")
    with naming(f"{name}."):
        return BatchPlan(**value)

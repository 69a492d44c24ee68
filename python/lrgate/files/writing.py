"""Converts a model to arrays by key and a JSON header."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from lrgate.files.header import FORMAT_VERSION
from lrgate.model.layer import Factors
from lrgate.model.model import Model
from lrgate.model.plan import BatchPlan
from lrgate.model.probe import PlannedOutputs
from lrgate.types import Array

__all__ = [
    "header_of",
    "to_arrays",
]


def to_arrays(model: Model) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for i, layer in enumerate(model.layers):
        arrays[f"layers.{i}.weight"] = layer.weight
        arrays[f"layers.{i}.bias"] = layer.bias
        for label, values in layer.activation.unit_parameters().items():
            arrays[f"layers.{i}.activation.{label}"] = values
        if layer.gate is not None:
            arrays[f"layers.{i}.gate.u"] = layer.gate.u
            arrays[f"layers.{i}.gate.v"] = layer.gate.v
            arrays[f"layers.{i}.gate.bias"] = layer.gate.bias
            if layer.gate.range is not None:
                arrays[f"layers.{i}.gate.range"] = layer.gate.range
        if layer.kept_units is not None:
            arrays[f"layers.{i}.kept_units"] = layer.kept_units
        if layer.quantization is not None:
            arrays[f"layers.{i}.quantization.scale"] = layer.quantization.scale
            arrays[f"layers.{i}.quantization.offset"] = layer.quantization.offset
        if layer.factors is not None:
            arrays |= _factors_to_arrays(f"layers.{i}.factors.", layer.factors)
    if model.input_scale is not None:
        arrays["input.scale"] = model.input_scale
    if model.input_shift is not None:
        arrays["input.shift"] = model.input_shift
    if model.input_range is not None:
        arrays["input.range"] = model.input_range
    if model.probe is not None:
        arrays["probe.x"] = model.probe.x
        arrays["probe.y"] = model.probe.y
        if model.probe.planned:
            arrays["probe.planned"] = np.concatenate([one.y for one in model.probe.planned])
    return arrays


def _factors_to_arrays(prefix: str, factors: Factors) -> dict[str, Array]:
    arrays = {"u": factors.u, "v": factors.v, "bias": factors.bias}
    if factors.gate is not None:
        arrays |= {"gate.v": factors.gate.v, "gate.bias": factors.gate.bias}
    if factors.quantization is not None:
        arrays["quantization.scale"] = factors.quantization.scale
        arrays["quantization.offset"] = factors.quantization.offset
    return {prefix + part: array for part, array in arrays.items()}


def header_of(model: Model) -> dict[str, Any]:
    """Everything except arrays: the object that is stored as JSON in the key ``lrgate``."""
    gates = [layer.gate for layer in model.layers]
    planned = None if model.probe is None else model.probe.planned
    optional = {"least_margin": model.least_margin} if model.least_margin else {}
    return optional | {
        "checksum": "",
        "format_version": FORMAT_VERSION,
        "activations": [layer.activation.to_json() for layer in model.layers],
        "ranks": [None if gate is None else gate.rank for gate in gates],
        "task": model.task,
        "classes": None if model.classes is None else _classes_to_json(model.classes),
        "plans": None if model.plan is None else [_plan_to_json(plan) for plan in model.plan],
        "metadata": model.metadata,
        "machine": model.machine,
        "report": model.report,
        "probe_plans": None if planned is None else [_planned_to_json(one) for one in planned],
    }


def _planned_to_json(planned: PlannedOutputs) -> dict[str, Any]:
    return {
        "strategies": list(planned.strategies),
        "precisions": list(planned.precisions),
        "tolerance": planned.tolerance,
    }


def _plan_to_json(plan: BatchPlan) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "rows": plan.rows,
        "strategies": list(plan.strategies),
        "precisions": list(plan.precisions),
    }
    margins = {"least_margin": plan.least_margin, "int8_margin": plan.int8_margin}
    return entry | {name: value for name, value in margins.items() if value is not None}


_KIND_OF_DTYPE: Final = {"i": "int", "U": "str", "b": "bool", "f": "float"}


def _classes_to_json(classes: Array) -> dict[str, Any]:
    return {"kind": _KIND_OF_DTYPE[classes.dtype.kind], "values": classes.tolist()}

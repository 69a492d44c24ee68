"""Compilation of a model to an engine.

A model keeps the full width of every layer and the user's order of units. An engine has only the
kept units, in the order of computation. `units_before` and `_taken` select and order the entries of
gates, factors and scales; the compiled engine does so for weights and biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrgate import _core
from lrgate.model.arrays import read_only
from lrgate.model.layer import Factors, Gate, Layer
from lrgate.model.model import Model
from lrgate.model.plan import BatchPlan
from lrgate.results.profile import LayerProfile
from lrgate.types import Float32Array, Int32Array

__all__ = [
    "batch_plans",
    "build_engine",
    "engine_factors",
    "engine_gates",
    "engine_quantization",
    "full_width",
    "has_same_units",
    "layer_profile",
    "units_before",
]


def build_engine(model: Model) -> _core.Engine:
    """Compile a model to an engine with the kept units in their order. Checks all values."""
    layers = []
    for i, layer in enumerate(model.layers):
        if layer.kept_units is not None:
            # The engine checks only the biases of kept units.
            _check_finite(f"layers[{i}].bias", layer.bias)
        activation = layer.activation
        parameters = [np.atleast_1d(np.float32(value)) for value in activation.parameters]
        layers.append((layer.weight, layer.bias, activation.name, parameters))
    engine = _core.Engine(
        layers,
        kept_units=[layer.kept_units for layer in model.layers],
        input_scale=None if model.input_scale is None else model.input_scale.reshape(-1),
        input_shift=None if model.input_shift is None else model.input_shift.reshape(-1),
    )
    if any(layer.gate is not None for layer in model.layers):
        engine = engine.with_gates(engine_gates(model.layers))
    if any(layer.factors is not None for layer in model.layers):
        engine = engine.with_factors(engine_factors(model.layers))
    if any(layer.quantization is not None for layer in model.layers):
        engine = engine.with_quantization(engine_quantization(model.layers))
    if model.least_margin:
        assert model.task is not None
        engine = engine.with_least_margin(model.task, model.least_margin)
    return engine if model.plan is None else _planned(engine, model.plan)


def _planned(engine: _core.Engine, plan: tuple[BatchPlan, ...]) -> _core.Engine:
    return engine.with_plan(
        [(p.rows, list(p.strategies), list(p.precisions)) for p in plan],
        [(p.least_margin, p.int8_margin) for p in plan],
    )


def engine_gates(layers: Sequence[Layer]) -> list[Any]:
    """The gates for an engine, with only the kept units, in their order."""
    return [
        None if layer.gate is None else _gate_arrays(layer, layer.gate, before, i)
        for i, (layer, before) in enumerate(zip(layers, units_before(layers), strict=True))
    ]


def _gate_arrays(layer: Layer, gate: Gate, before: Int32Array | None, i: int) -> Any:
    if before is None and layer.kept_units is None:
        return gate.u, gate.v, gate.bias, gate.range
    for part in ("u", "v", "bias"):
        _check_finite(f"gates[{i}].{part}", getattr(gate, part))
    u, v = _taken(gate.u, before, 0), _taken(gate.v, layer.kept_units, 1)
    most = min(len(u), v.shape[1])
    if gate.rank > most:
        raise ValueError(
            f"layers[{i}]: rank of the gate must be at most {most}, the smaller number of inputs "
            f"and units that are kept, got {gate.rank}"
        )
    return u, v, _taken(gate.bias, layer.kept_units, 0), gate.range


def engine_factors(layers: Sequence[Layer]) -> list[Any]:
    """The factors for an engine, with only the kept units, in their order."""
    return [
        None if layer.factors is None else _factor_arrays(layer, layer.factors, before, i)
        for i, (layer, before) in enumerate(zip(layers, units_before(layers), strict=True))
    ]


def _factor_arrays(layer: Layer, factors: Factors, before: Int32Array | None, i: int) -> Any:
    kept, gate, sums = layer.kept_units, factors.gate, factors.quantization
    arrays = {"u": factors.u, "v": factors.v, "bias": factors.bias}
    if gate is not None:
        arrays |= {"gate.v": gate.v, "gate.bias": gate.bias}
    if before is not None or kept is not None:
        for part, array in arrays.items():
            _check_finite(f"factors[{i}].{part}", array)
        inputs = layer.inputs if before is None else len(before)
        most = min(inputs, layer.outputs if kept is None else len(kept))
        if factors.rank > most:
            raise ValueError(
                f"layers[{i}]: rank of the factors must be at most {most}, the smaller number of "
                f"inputs and units that are kept, got {factors.rank}"
            )
    nested = None if gate is None else (_taken(gate.v, kept, 1), _taken(gate.bias, kept, 0))
    quantization = None if sums is None else (sums.scale.reshape(-1), sums.offset.reshape(-1))
    u, v, bias = _taken(factors.u, before, 0), _taken(factors.v, kept, 1), factors.bias
    return u, v, _taken(bias, kept, 0), quantization, nested


def engine_quantization(layers: Sequence[Layer]) -> list[Any]:
    """Scales and offsets for an engine, with only the kept inputs, in their order."""
    pairs: list[Any] = []
    for layer, before in zip(layers, units_before(layers), strict=True):
        quantization = layer.quantization
        if quantization is None:
            pairs.append(None)
            continue
        scale = quantization.scale
        if scale.ndim:
            scale = _taken(scale, before, 0)
        pairs.append((scale.reshape(-1), quantization.offset.reshape(-1)))
    return pairs


def units_before(layers: Sequence[Layer]) -> list[Int32Array | None]:
    """The indices of each layer's inputs in the engine: the kept units of the previous layer."""
    return [None, *(layer.kept_units for layer in layers[:-1])]


def _taken(array: Float32Array, order: Int32Array | None, axis: int) -> Float32Array:
    return array if order is None else read_only(array.take(order, axis))


def has_same_units(one: Layer, other: Layer) -> bool:
    """Whether two layers compute the same units in the same order."""
    a, b = one.kept_units, other.kept_units
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def full_width(values: Float32Array, order: Int32Array | None, width: int) -> Float32Array:
    """Expand an engine's signals (n, k) to (n, width), in the user's order of units."""
    if order is None:
        return values
    result = np.zeros((len(values), width), np.float32)
    result[:, order] = values
    return result


def layer_profile(layer: Layer, before: Int32Array | None, values: dict[str, Any]) -> LayerProfile:
    """Convert an engine's statistics of a layer to shares of the full layer."""
    inputs = 1.0 if before is None else len(before) / layer.inputs
    outputs = 1.0 if layer.kept_units is None else len(layer.kept_units) / layer.outputs
    done, dense = values.pop("multiply_adds"), values.pop("dense_multiply_adds")
    values["density_in"] *= inputs
    values["density_out"] *= outputs
    values["computed_share"] *= outputs
    share = done / dense * inputs * outputs
    return LayerProfile(inputs=layer.inputs, outputs=layer.outputs, flop_share=share, **values)


def _check_finite(name: str, array: Float32Array) -> None:
    # A finite sum shows that all values are finite. The sum of finite values may overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):
            return
    bad = ~np.isfinite(array)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        value = "NaN" if np.isnan(array[index]) else array[index]
        where = index[0] if len(index) == 1 else index
        raise ValueError(f"{name} must be finite, got {value} at index {where}")


def batch_plans(engine: _core.Engine) -> tuple[BatchPlan, ...]:
    return tuple(
        BatchPlan(n, tuple(s), tuple(p), *margins)
        for (n, s, p), margins in zip(engine.plan(), engine.margins(), strict=True)
    )

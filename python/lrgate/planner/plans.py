"""Networks under other plans, and of other units: nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lrgate.model.arrays import read_only
from lrgate.model.layer import Factors, Gate, Layer
from lrgate.model.plan import with_skip, without, words
from lrgate.network import Network, replaced, with_engine_plan
from lrgate.types import IntArray

__all__ = [
    "approximate_layers",
    "distinct_sizes",
    "is_dense",
    "is_exact",
    "is_int8",
    "least_margin_of",
    "of_layers",
    "only_plan",
    "plan_key",
    "plan_of",
    "plans_of",
    "uniform",
    "with_always_on",
    "with_kept_units",
    "with_parts_in_use",
    "with_plan",
    "with_tight_margin",
    "without_gates",
    "without_unused",
]


_BatchPlan = tuple[int, list[str], list[str], float | None]
"""Rows per call, the strategy and the precision of each layer, and the least margin.

The least margin is None for an exact plan, and where that of the network is meant.
"""


def without_gates(model: Network, input_range: Any) -> Network:
    """The network of all units without gates, factors and plan, with the input range asked for.

    It shares the packed weights of `model`, unless `model` leaves out or reorders units.
    """
    layers = tuple(Layer(layer.weight, layer.bias, layer.activation) for layer in model.layers)
    engine = None
    if all(layer.kept_units is None for layer in model.layers):
        nothing = [None] * len(layers)
        bare = model.engine.with_gates(nothing).with_factors(nothing).with_quantization(nothing)
        engine = bare.with_plan([(1, ["dense"] * len(layers), ["f32"] * len(layers))])
    changes: dict[str, Any] = {} if input_range is None else {"input_range": input_range}
    made = model._with(
        engine,
        layers=layers,
        task=model.task,
        plan=None,
        probe=None,
        machine=None,
        report=None,
        **changes,
    )
    return made._with(made.engine, probe=model.probe).with_least_margin(0.0)


def with_kept_units(network: Network, units: Sequence[IntArray]) -> Network:
    """The network of which the engine computes these units alone, in this order."""
    kept = [
        None if np.array_equal(order, np.arange(layer.outputs)) else order
        for order, layer in zip(units, network.layers, strict=True)
    ]
    return network._with_units(kept)


def with_plan(network: Network, plan: Sequence[_BatchPlan]) -> Network:
    """The network under another plan, whose least margins are at most that of the network."""
    layers = [(rows, names, precisions) for rows, names, precisions, _ in plan]
    engine = network.engine.with_plan(layers, [least for *_, least in plan])
    return with_engine_plan(network, engine)


def with_tight_margin(network: Network) -> Network:
    """The network with the smallest least margin that its batch plans need."""
    plan = plans_of(network)
    most = max((least for *_, least in plan if least is not None), default=0.0)
    return with_plan(network.with_least_margin(most), plan)


def uniform(network: Network, name: str) -> Network:
    """The network with one strategy in all layers and batch plans, at the precisions it has."""
    plan = [
        (rows, [name] * len(names), precisions, None)
        for rows, names, precisions, _ in plans_of(network)
    ]
    return with_plan(network, plan)


def with_always_on(gate: Gate, units: IntArray) -> Gate:
    """The gate with these units on for every row: they need no score."""
    if len(units) == 0:
        return gate
    v, bias = gate.v.copy(), gate.bias.copy()
    v[:, units], bias[units] = 0.0, 1.0
    return replace(gate, v=read_only(v), bias=read_only(bias))


def of_layers(network: Network, layers: Sequence[Layer], input_range: Any) -> Network:
    """A network of other layers and another range; all else is that of `network`."""
    return replaced(
        network,
        layers=tuple(layers),
        task=network.task,
        input_range=input_range,
        plan=None,
        machine=None,
        report=None,
    )


def with_parts_in_use(plain: Network, parts: Mapping[int, Gate | Factors]) -> Network:
    """The network with these gates and factors in every batch plan, at the precisions there.

    All batch plans have the least margin of the network.
    """
    plan = [
        (rows, [_used(name, parts.get(i)) for i, name in enumerate(names)], precisions, None)
        for rows, names, precisions, _ in plans_of(plain)
    ]
    gates = {i: part for i, part in parts.items() if isinstance(part, Gate)}
    factors = {i: part for i, part in parts.items() if isinstance(part, Factors)}
    return with_plan(plain.with_gates(gates).with_factors(factors), plan)


def _used(exact: str, part: Gate | Factors | None) -> str:
    """The strategy of a layer with this gate or these factors, instead of an exact one."""
    if part is None:
        return exact
    if isinstance(part, Gate):
        return "gate"
    name = "factor" if part.gate is None else "factor-gate"
    return with_skip(name) if "skip" in words(exact) else name


def without_unused(network: Network) -> Network:
    """The network without gates, factors and quantizations that no batch plan uses."""
    plan = plans_of(network)
    gates: dict[int, None] = {}
    factors: dict[int, Factors | None] = {}
    quantization: dict[int, None] = {}
    for i, layer in enumerate(network.layers):
        used = [words(batch.strategies[i]) for batch in network.plan]
        if layer.gate is not None and {"gate"} not in used:
            gates[i] = None
        if layer.factors is not None and not any("factor" in each for each in used):
            factors[i] = None
        elif layer.factors is not None and not any(each >= {"factor", "gate"} for each in used):
            factors[i] = replace(layer.factors, gate=None)
        is_int8 = any(batch.precisions[i] == "int8" for batch in network.plan)
        if layer.quantization is not None and not is_int8:
            quantization[i] = None
    network = network.with_gates(gates).with_factors(factors).with_quantization(quantization)
    return with_plan(network, plan)


def distinct_sizes(network: Network) -> list[int]:
    """Batch sizes whose plans differ."""
    sizes: dict[str, int] = {}
    for plan in network.plan:
        sizes.setdefault(plan_key(network, plan.rows), plan.rows)
    return list(sizes.values())


def plan_key(network: Network, size: int) -> str:
    """Strategies and precisions of the plan for `size` rows, as text.

    Skip is left out: it changes no results except by rounding in f32. The least margin is added
    where the plan is not exact.
    """
    _, names, precisions, least = plan_of(network, size)
    parts = [*(without(name, "skip") for name in names), *precisions]
    if least:
        parts.append(f"least margin {least!r}")
    return " ".join(parts)


def is_exact(network: Network, size: int) -> bool:
    """Whether calls of `size` rows are in f32 without gates and factors."""
    plan = network.plan_for(size)
    return set(plan.strategies) <= {"dense", "skip"} and set(plan.precisions) == {"f32"}


def is_int8(network: Network, size: int) -> bool:
    """Whether calls of `size` rows are in int8 in some layer."""
    return "int8" in plan_of(network, size)[2]


def approximate_layers(network: Network) -> list[int]:
    """Layers whose gate or factors some batch plan uses."""
    return [
        i
        for i in range(len(network.layers))
        if any(words(plan.strategies[i]) & {"gate", "factor"} for plan in network.plan)
    ]


def only_plan(network: Network, size: int) -> Network:
    """The network with its plan for `size` rows in calls of any size."""
    return with_plan(network, [plan_of(network, size)])


def is_dense(network: Network, size: int) -> bool:
    """Whether calls of `size` rows are dense in f32."""
    plan = network.plan_for(size)
    return set(plan.strategies) == {"dense"} and set(plan.precisions) == {"f32"}


def plan_of(network: Network, size: int) -> _BatchPlan:
    """The plan for calls of `size` rows, with its least margin unless it is exact."""
    plan = network.plan_for(size)
    least = None if is_exact(network, size) else least_margin_of(network, size)
    return size, list(plan.strategies), list(plan.precisions), least


def plans_of(network: Network) -> list[_BatchPlan]:
    """The plans for all batch sizes."""
    return [plan_of(network, plan.rows) for plan in network.plan]


def least_margin_of(network: Network, size: int) -> float:
    """The least margin in calls of `size` rows; without effect if their plan is exact."""
    own = network.plan_for(size).least_margin
    return network.least_margin if own is None else own

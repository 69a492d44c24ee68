"""Networks under other plans, and of other units: nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lrgate.model.arrays import read_only
from lrgate.model.layer import Factors, Gate, Layer
from lrgate.model.plan import BatchPlan, with_skip, without, words
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
    "recomputing",
    "uniform",
    "with_always_on",
    "with_int8_margins",
    "with_kept_units",
    "with_parts_in_use",
    "with_plan",
    "with_tight_margin",
    "without_gates",
    "without_unused",
]


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


def with_plan(network: Network, plan: Sequence[BatchPlan]) -> Network:
    """The network under another plan, whose least margins are at most that of the network."""
    layers = [(each.rows, list(each.strategies), list(each.precisions)) for each in plan]
    margins = [(each.least_margin, each.int8_margin) for each in plan]
    return with_engine_plan(network, network.engine.with_plan(layers, margins))


def with_tight_margin(network: Network) -> Network:
    """The network with the smallest least margin that its batch plans need."""
    plan = plans_of(network)
    most = max((each.least_margin or 0.0 for each in plan), default=0.0)
    return with_plan(network.with_least_margin(most), plan)


def with_int8_margins(network: Network, plain: Network) -> Network:
    """The network that recomputes rows in int8 first, where its plan has int8 and gates or factors.

    Rows with a margin below the least one of `plain`, the network without gates and factors, are
    then recomputed in f32.
    """
    plan = [
        replace(each, int8_margin=least_margin_of(plain, each.rows)) for each in plans_of(network)
    ]
    return with_plan(network, plan)


def recomputing(network: Network, size: int) -> Network:
    """The network that recomputes rows, which itself recomputes none for its margin."""
    plan = plan_of(network, size)
    in_int8 = plan.int8_margin is not None
    exact = BatchPlan(
        size,
        tuple(_exact(name, in_int8) for name in plan.strategies),
        plan.precisions if in_int8 else ("f32",) * len(plan.strategies),
    )
    return with_plan(network.with_least_margin(0.0), [exact])


def _exact(name: str, in_int8: bool) -> str:
    """The strategy that recomputes rows of a layer, as the engine chooses it."""
    used = words(name)
    if not used & {"gate", "factor"}:
        return name
    return "dense" if in_int8 and used & {"factor", "skip"} == {"factor"} else "skip"


def uniform(network: Network, name: str) -> Network:
    """The network with one strategy in all layers and batch plans, at the precisions it has."""
    plan = [
        BatchPlan(each.rows, (name,) * len(each.strategies), each.precisions)
        for each in plans_of(network)
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
        BatchPlan(
            each.rows,
            tuple(_used(name, parts.get(i)) for i, name in enumerate(each.strategies)),
            each.precisions,
        )
        for each in plans_of(plain)
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

    Skip is left out: it changes no results except by rounding in f32. Margins are added where the
    plan is not exact.
    """
    plan = plan_of(network, size)
    parts = [*(without(name, "skip") for name in plan.strategies), *plan.precisions]
    if plan.least_margin:
        parts.append(f"least margin {plan.least_margin!r}")
        if plan.int8_margin is not None:
            parts.append(f"int8 margin {plan.int8_margin!r}")
    return " ".join(parts)


def is_exact(network: Network, size: int) -> bool:
    """Whether calls of `size` rows are in f32 without gates and factors."""
    plan = network.plan_for(size)
    return set(plan.strategies) <= {"dense", "skip"} and set(plan.precisions) == {"f32"}


def is_int8(network: Network, size: int) -> bool:
    """Whether calls of `size` rows are in int8 in some layer."""
    return "int8" in network.plan_for(size).precisions


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


def plan_of(network: Network, size: int) -> BatchPlan:
    """The plan for calls of `size` rows, with its least margin unless it is exact."""
    plan = replace(network.plan_for(size), rows=size)
    if is_exact(network, size):
        return replace(plan, least_margin=None, int8_margin=None)
    return replace(plan, least_margin=least_margin_of(network, size))


def plans_of(network: Network) -> list[BatchPlan]:
    """The plans for all batch sizes."""
    return [plan_of(network, plan.rows) for plan in network.plan]


def least_margin_of(network: Network, size: int) -> float:
    """The least margin in calls of `size` rows; without effect if their plan is exact."""
    own = network.plan_for(size).least_margin
    return network.least_margin if own is None else own

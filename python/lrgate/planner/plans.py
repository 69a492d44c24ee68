"""Networks under other plans, and of other units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lrgate.model.layer import Gate, Layer
from lrgate.model.model import Model
from lrgate.network import Network
from lrgate.quantization.fit import selected
from lrgate.types import IntArray

__all__ = [
    "distinct_sizes",
    "gated_layers",
    "is_dense",
    "is_exact",
    "is_int8",
    "of_layers",
    "only_plan",
    "plan_key",
    "plan_of",
    "reduced",
    "reordered",
    "uniform",
    "used_bytes",
    "widened_gate",
    "with_always_on",
    "with_gates_in_use",
    "without_gates",
]


def without_gates(model: Network, input_range: Any) -> Network:
    """The network without gates, orders and plan, with the input range asked for."""
    layers = [Layer(layer.weight, layer.bias, layer.activation) for layer in model.layers]
    return of_layers(model, layers, model.input_range if input_range is None else input_range)


def reduced(base: Network, orders: list[IntArray]) -> Network:
    """A network of only these units, in this order: what the engine would compute."""
    layers = []
    before: IntArray | None = None
    for layer, order in zip(base.layers, orders, strict=True):
        weight = layer.weight[order]
        weight = weight if before is None else weight[:, before]
        layers.append(Layer(weight, layer.bias[order], layer.activation))
        before = order
    model = Model(
        layers=tuple(layers),
        task=base.task,
        classes=base._model.classes,
        input_scale=base.input_scale,
        input_shift=base.input_shift,
    )
    return Network(model)


def reordered(
    fast: Network, base: Network, orders: list[IntArray], natural: list[IntArray]
) -> Network:
    """The same gates and plan with the units in their natural order."""
    network = reduced(base, natural)
    gates: dict[int, Gate] = {}
    for i, layer in enumerate(fast.layers):
        if layer.gate is not None:
            rows = np.arange(layer.inputs) if i == 0 else np.argsort(orders[i - 1])
            columns = np.argsort(orders[i])
            gate = layer.gate
            gates[i] = replace(gate, u=gate.u[rows], v=gate.v[:, columns], bias=gate.bias[columns])
    bytes_of = [
        layer.quantization if i == 0 else selected(layer.quantization, np.argsort(orders[i - 1]))
        for i, layer in enumerate(fast.layers)
    ]
    network = network.with_quantization(bytes_of)
    if gates:
        network = network.with_gates(gates)
    return network._with_engine_plan(network.engine.with_plan(fast.engine.plan()))


def widened_gate(gate: Gate, before: IntArray, order: IntArray, layer: Layer) -> Gate:
    """A gate of the computed units at full width: the other units are off."""
    u = np.zeros((layer.inputs, gate.rank), np.float32)
    u[before] = gate.u
    v = np.zeros((gate.rank, layer.outputs), np.float32)
    v[:, order] = gate.v
    bias = np.full(layer.outputs, -1.0, np.float32)
    bias[order] = gate.bias
    return replace(gate, u=u, v=v, bias=bias)


def uniform(network: Network, name: str) -> Network:
    """The network with one strategy in all layers and classes, at the precisions it has."""
    plan = [(rows, [name] * len(names), kinds) for rows, names, kinds in network.engine.plan()]
    return network._with_engine_plan(network.engine.with_plan(plan))


def with_always_on(gate: Gate, count: int) -> Gate:
    """The gate with its last units on whatever the row: they need no score."""
    if count == 0:
        return gate
    v, bias = gate.v.copy(), gate.bias.copy()
    v[:, -count:], bias[-count:] = 0.0, 1.0
    return replace(gate, v=v, bias=bias)


def of_layers(network: Network, layers: Sequence[Layer], input_range: Any) -> Network:
    """A network of other layers and range with all else that `network` has."""
    made = Network.from_layers(
        list(layers),
        task=network.task,
        classes=None if network.task == "regression" else network._model.classes,
        input_scale=network.input_scale,
        input_shift=network.input_shift,
        input_range=input_range,
    )
    return made._with(made.engine, probe=network.probe, metadata=network.metadata)


def with_gates_in_use(plain: Network, gates: dict[int, Gate]) -> Network:
    """The network with gates in every class, at the precisions that it has there."""
    network = plain.with_gates(gates)
    plan = [
        (rows, ["gate" if i in gates else name for i, name in enumerate(names)], words)
        for rows, names, words in plain.engine.plan()
    ]
    return network._with_engine_plan(network.engine.with_plan(plan))


def used_bytes(network: Network) -> list[Any]:
    """The quantization of layers that some class runs in int8."""
    return [
        layer.quantization if any(plan.precisions[i] == "int8" for plan in network.plan) else None
        for i, layer in enumerate(network.layers)
    ]


def distinct_sizes(network: Network) -> list[int]:
    """Sizes of classes whose plans differ."""
    sizes: dict[str, int] = {}
    for plan in network.plan:
        sizes.setdefault(plan_key(network, plan.rows), plan.rows)
    return list(sizes.values())


def plan_key(network: Network, size: int) -> str:
    """Strategies and precisions of a class, as text."""
    _, names, words = plan_of(network, size)
    return " ".join([*names, *words])


def is_exact(network: Network, size: int) -> bool:
    """Whether calls of `size` rows are in f32 without gates."""
    _, names, words = plan_of(network, size)
    return "gate" not in names and set(words) == {"f32"}


def is_int8(network: Network, size: int) -> bool:
    """Whether calls of `size` rows are in int8 in some layer."""
    return "int8" in plan_of(network, size)[2]


def gated_layers(network: Network) -> list[int]:
    """Layers whose gate some class uses."""
    return [
        i
        for i in range(len(network.layers))
        if any(plan.strategies[i] == "gate" for plan in network.plan)
    ]


def only_plan(network: Network, size: int) -> Network:
    """The network with its plan for `size` rows in calls of any size."""
    plan = [plan_of(network, size)]
    return network._with_engine_plan(network.engine.with_plan(plan))


def is_dense(network: Network, size: int) -> bool:
    """Whether calls of `size` rows are dense in f32."""
    _, names, precisions = plan_of(network, size)
    return set(names) == {"dense"} and set(precisions) == {"f32"}


def plan_of(network: Network, size: int) -> tuple[int, list[str], list[str]]:
    chosen = network.engine.class_for(size)
    _, names, precisions = next(c for c in network.engine.plan() if c[0] == chosen)
    return size, names, precisions

"""The fastest networks without gates: in f32, and with layers in int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from lrgate.model.layer import Quantization
from lrgate.network import Network
from lrgate.network.engine import engine_quantization
from lrgate.planner.budget import BudgetCheck
from lrgate.planner.clock import Clock
from lrgate.planner.divergence import Divergence
from lrgate.planner.kept import kept_layers
from lrgate.planner.problem import Problem
from lrgate.quantization.fit import fit_layers, widened
from lrgate.quantization.limits import MOST_INPUTS

__all__ = [
    "divergence_from",
    "fastest_exact",
    "fastest_without_gates",
]


# Multiply-adds of the rows on which the divergence of a network is measured.
_DIVERGENCE_WORK: Final = 2e10


def divergence_from(core: Network, problem: Problem) -> Divergence:
    """The divergence from `core`, on rows that choose: fewer of them for a large network."""
    count = max(int(_DIVERGENCE_WORK / max(problem.work, 1)), 64)
    return Divergence(core, problem.split.tune[:count])


def fastest_exact(core: Network, clock: Clock) -> Network:
    """The fastest plan in f32 without gates, dense where nothing is faster."""
    tuned = clock.tuned(core)
    return clock.settled(tuned, dense=core.dense(), exact=tuned)


def fastest_without_gates(
    core: Network, exact: Network, problem: Problem, clock: Clock, check: BudgetCheck
) -> Network:
    """The fastest plan without gates: for each batch size `exact`, or int8 where it may be."""
    problem.step("quantising")
    precision, budget = problem.request.precision, problem.request.budget
    if precision == "int8" and budget == 0:
        problem.notes.append("int8 is not exact: a budget of 0 leaves all layers f32")
    if precision == "f32" or budget == 0:
        return exact
    quantized = _quantized(core, problem, check)
    if quantized is None:
        return exact
    tuned = clock.tuned(quantized)
    if precision == "int8":
        result = clock.settled(quantized, dense=quantized, int8=tuned)
    else:
        result = clock.settled(quantized, exact=exact, int8=tuned)
    if all(set(plan.precisions) == {"f32"} for plan in result.plan):
        problem.notes.append("int8 is not faster here: all layers are f32")
        return exact
    return result


def _quantized(core: Network, problem: Problem, check: BudgetCheck) -> Network | None:
    """As many layers in int8 as are likely to keep the budget; None where there are none.

    Layers go back to f32 one by one, the one with the largest divergence first.
    """
    layers = [i for i, layer in enumerate(core.layers) if layer.inputs <= MOST_INPUTS]
    int8 = _Int8Fit(core, problem.split.fit)
    alone: dict[int, float] = {}
    while layers:
        quantized = int8.network(layers)
        found = check.evidence(quantized)
        if check.likely(found):
            has_int8 = any(quantized.layers[i].quantization is not None for i in layers)
            return quantized if has_int8 else None
        del quantized  # the next one is packed without it
        if not alone:
            divergence = divergence_from(core, problem)
            alone = {i: divergence.of(int8.network([i])) for i in layers}
        worst = max(layers, key=lambda i: alone[i])
        layers.remove(worst)
        problem.notes.append(f"layer {worst} stays f32, not int8: {check.unlikely(found)}")
    return None


class _Int8Fit:
    """Puts layers of a network in int8, fitted to real rows.

    Units that are left out have no part in the fit; quantizations are of all inputs.

    Parameters
    ----------
    network : Network
        Without gates, dense in f32.
    rows : array or CSR (n, d)
        Rows to fit to.
    """

    def __init__(self, network: Network, rows: Any) -> None:
        self._network, self._rows = network, rows
        self._layers = kept_layers(network)

    def network(self, chosen: Sequence[int]) -> Network:
        """The network with the chosen layers in int8, except those that cannot be."""
        network = self._network
        fit = fit_layers(
            self._layers,
            self._rows,
            set(chosen),
            network.dense().engine.layer_inputs,
            network.input_scale,
            network.task == "classification",
        )
        found: dict[int, Quantization] = {}
        for i in chosen:
            quantization = fit.layers[i].quantization
            before = network.layers[i - 1].kept_units if i else None
            if before is not None:
                quantization = widened(quantization, before, network.layers[i].inputs)
            if quantization is not None and self._fits(i, quantization):
                found[i] = quantization
        return network.with_quantization(found)

    def _fits(self, i: int, quantization: Quantization) -> bool:
        """Whether the layer's weights and biases do not overflow in this form."""
        layers = list(self._network.layers)
        layers[i] = replace(layers[i], quantization=quantization)
        try:  # the engine alone: a network would pack the layer
            self._network.engine.with_quantization(engine_quantization(layers))
        except ValueError:
            return False
        return True

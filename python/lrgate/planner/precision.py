"""The fastest networks without gates: in f32, and with layers in int8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from lrgate.model.layer import Layer, Quantization
from lrgate.network import Network
from lrgate.network.engine import engine_quantization
from lrgate.planner.budget import BudgetCheck
from lrgate.planner.clock import Clock
from lrgate.planner.divergence import Divergence
from lrgate.planner.evidence import Evidence
from lrgate.planner.kept import kept_layers
from lrgate.planner.plans import uniform
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

# A layer returns to int8 only if that saves this share of the network's time. Where measuring
# shows less than the least, its divergence is divided by the least.
_LITTLE_TIME: Final = 0.03
_LEAST_GAIN: Final = 1e-3

# Fewer layers in int8, of which no row is recomputed, must be this many times as fast.
_CLEARLY: Final = 1.25


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
) -> list[tuple[str, Network]]:
    """The fastest plans without gates, by name, from the least divergent: the last is used.

    For each batch size they are `exact`, or int8 where that is faster. Where the rows that check
    may not show that the last keeps the budget, one with fewer layers in int8, or one that
    recomputes close rows, is before it.
    """
    problem.step("quantising")
    precision, budget = problem.request.precision, problem.request.budget
    if precision == "int8" and budget == 0:
        problem.notes.append("int8 is not exact: a budget of 0 leaves all layers f32")
    if precision == "f32" or budget == 0:
        return [("f32", exact)]
    found = _Int8Search(core, problem, clock, check).networks()
    results = [
        (name, _fastest_int8(quantized, exact, precision, clock)) for name, quantized in found
    ]
    results = [(name, result) for name, result in results if _has_int8(result)]
    if found and not results:
        problem.notes.append("int8 is not faster here: all layers are f32")
    return results or [("f32", exact)]


def _fastest_int8(quantized: Network, exact: Network, precision: str, clock: Clock) -> Network:
    """The fastest plan of a quantised network, and `exact` where that is allowed and faster.

    A plan with skip must be clearly faster than dense int8, as everywhere.
    """
    tuned = clock.tuned(quantized)
    if precision == "int8":
        return clock.settled(quantized, dense=quantized, int8=tuned)
    return clock.settled(quantized, exact=exact, int8_dense=quantized, int8=tuned)


def _has_int8(network: Network) -> bool:
    return any("int8" in plan.precisions for plan in network.plan)


@dataclass(frozen=True)
class _Int8:
    """A network with some layers in int8, its evidence, and why other layers are not."""

    network: Network
    evidence: list[Evidence]
    layers: list[int]
    dropped: dict[int, str]


class _Int8Search:
    """Finds the layers that are int8 within the budget.

    Layers go back to f32 one by one until the rest is likely to keep the budget. The first is the
    one that diverges most for the time that int8 saves there: the first layer of a network of few
    inputs takes little time in f32, but its rounded inputs disturb all units. With the precision
    ``"int8"`` time does not matter.
    """

    def __init__(self, core: Network, problem: Problem, clock: Clock, check: BudgetCheck) -> None:
        self._core, self._problem, self._clock, self._check = core, problem, clock, check
        self._fit = _Int8Fit(core, problem.split.fit)
        self._layers = [i for i, layer in enumerate(core.layers) if layer.inputs <= MOST_INPUTS]

    def networks(self) -> list[tuple[str, Network]]:
        """The network that is likely to keep the budget, after one with fewer layers in int8.

        The latter is left out where the former is well within the budget. It may instead be one
        that recomputes close rows. None where no layer can be int8.
        """
        found = self._search(may_recompute=True)
        safer: list[tuple[str, Network]] = []
        # Two large networks would take much memory.
        if found.network.least_margin and not (self._is_asked_for or self._problem.is_large):
            close, found = found, self._faster(found, self._search(may_recompute=False))
            safer = [] if found is close else [("int8 that recomputes close rows", close.network)]
        wide = set(range(len(self._core.layers))) - set(self._layers)
        too_wide = dict.fromkeys(wide, f"it has more than {MOST_INPUTS:,} inputs")
        for i, reason in sorted((too_wide | found.dropped).items()):
            self._problem.notes.append(f"layer {i} stays f32, not int8: {reason}")
        quantized, chosen = ("int8", found.network), list(found.layers)
        if not chosen:
            return safer
        if safer or len(chosen) == 1 or self._check.clear(found.evidence):
            return [*safer, quantized]
        chosen.remove(max(chosen, key=self._costs.__getitem__))
        if len(self._fit.refused(chosen)) == len(chosen):
            return [quantized]
        fewer = self._fit.network(chosen).with_least_margin(found.network.least_margin)
        return [("int8 in fewer layers", fewer), quantized]

    def _search(self, may_recompute: bool) -> _Int8:
        """The network with the most int8 that is likely to keep the budget."""
        chosen = list(self._layers)
        dropped: dict[int, str] = {}
        while chosen:
            refused = self._fit.refused(chosen)
            if refused:
                dropped |= refused
                chosen = [i for i in chosen if i not in refused]
                continue
            # The last layer is left to the rows that check if it might pass.
            spare: dict[str, Any] = {} if len(chosen) > 1 else {"spare": 0.0}
            network, evidence = self._with_margin(chosen, may_recompute, **spare)
            if self._check.likely(evidence, **spare):
                break
            del network  # the next one is packed without it
            worst = max(chosen, key=self._costs.__getitem__)
            chosen.remove(worst)
            dropped[worst] = self._check.unlikely(evidence)
        else:
            return _Int8(self._core, [], [], dropped)
        for i in self._worth_returning(dropped):
            layers = sorted([*chosen, i])
            if self._fit.refused(layers):
                continue
            more, seen = self._with_margin(layers, may_recompute)
            if self._check.likely(seen):
                chosen, network, evidence = layers, more, seen
                del dropped[i]
        return _Int8(network, evidence, chosen, dropped)

    def _with_margin(
        self, chosen: list[int], may_recompute: bool, **spare: float
    ) -> tuple[Network, list[Evidence]]:
        network = self._fit.network(chosen)
        if may_recompute:
            return self._check.with_margin(network, **spare)
        return network, self._check.evidence(network)

    def _faster(self, close: _Int8, other: _Int8) -> _Int8:
        """A network that recomputes close rows, unless one that does not is clearly faster.

        The former has fewer errors, and more room for those of gates and factors.
        """
        if other.layers == close.layers:
            return other
        tuned = [self._clock.tuned(found.network) for found in (other, close)]
        return other if self._clock.speed_up(*tuned) >= _CLEARLY else close

    @property
    def _is_asked_for(self) -> bool:
        """Whether int8 is used whatever its time is."""
        return self._problem.request.precision == "int8"

    def _worth_returning(self, dropped: dict[int, str]) -> list[int]:
        """Layers that went back to f32 before others did, and take a share of the time."""
        return [i for i in list(dropped)[:-1][::-1] if self._gains[i] > _LITTLE_TIME]

    @cached_property
    def _costs(self) -> dict[int, float]:
        """For each layer, the divergence that it causes alone; by saved time where that matters."""
        divergence = divergence_from(self._core, self._problem)
        alone = {
            i: math.inf if self._fit.refused([i]) else divergence.of(self._fit.network([i]))
            for i in self._layers
        }
        if self._is_asked_for:
            return alone
        return {i: alone[i] / max(self._gains[i], _LEAST_GAIN) for i in alone}

    @cached_property
    def _gains(self) -> list[float]:
        """The share of the network's time that int8 saves in each layer, over all batch sizes."""
        dense = self._core.dense()
        before = self._clock.layer_seconds(dense)
        after = self._clock.layer_seconds(uniform(self._fit.network(self._layers), "dense"))
        gains = ((before - after) / before.sum(axis=0)).mean(axis=1)
        return [float(gain) for gain in gains]


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
        self._known: dict[tuple[int, ...], dict[int, tuple[Quantization | None, str]]] = {}

    def refused(self, chosen: Sequence[int]) -> dict[int, str]:
        """The chosen layers that cannot be int8 beside the others, with the reason."""
        fitted = self._fitted(chosen)
        return {i: note for i, (found, note) in fitted.items() if found is None}

    def network(self, chosen: Sequence[int]) -> Network:
        """The network with the chosen layers in int8, except those that cannot be."""
        fitted = self._fitted(chosen)
        found = {i: found for i, (found, _) in fitted.items() if found is not None}
        return self._network.with_quantization(found)

    def _fitted(self, chosen: Sequence[int]) -> dict[int, tuple[Quantization | None, str]]:
        """For each of these layers the quantization of all its inputs, or why there is none."""
        key = tuple(chosen)
        if key not in self._known:
            network = self._network
            fit = fit_layers(
                self._layers,
                self._rows,
                set(chosen),
                network.dense().engine.layer_inputs,
                network.input_scale,
                network.task == "classification",
            )
            self._known[key] = {
                report.layer: self._whole(report.layer, fit.layers[report.layer], report.note)
                for report in fit.reports
            }
        return self._known[key]

    def _whole(self, i: int, fitted: Layer, note: str) -> tuple[Quantization | None, str]:
        """The quantization of a fitted layer, for all inputs of the network's layer."""
        found = fitted.quantization
        before = self._network.layers[i - 1].kept_units if i else None
        if before is not None:
            found = widened(found, before, self._network.layers[i].inputs)
        if found is not None and not self._fits(i, found):
            return None, "a product of a scale and a weight overflows"
        return found, note

    def _fits(self, i: int, quantization: Quantization) -> bool:
        """Whether the layer's weights and biases do not overflow in this form."""
        layers = list(self._network.layers)
        layers[i] = replace(layers[i], quantization=quantization)
        try:  # the engine alone: a network would pack the layer
            self._network.engine.with_quantization(engine_quantization(layers))
        except ValueError:
            return False
        return True

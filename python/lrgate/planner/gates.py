"""Gates and factors for the layers: fitted, measured, and combined into choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from lrgate import estimators
from lrgate.estimators import Factoring, registry
from lrgate.inputs.sparse import SparseInputs
from lrgate.model.arrays import read_only
from lrgate.model.layer import Gate
from lrgate.network import Network
from lrgate.planner.candidates import PROMISE, Candidate, Choice, Inputs, choices_on_front, parts_of
from lrgate.planner.clock import Clock
from lrgate.planner.factors import factor_candidates, factor_ranks, has_nested_gate
from lrgate.planner.kept import KeptLayer
from lrgate.planner.plans import with_always_on, with_parts_in_use
from lrgate.planner.precision import divergence_from
from lrgate.planner.problem import Problem
from lrgate.planner.signals import Signals
from lrgate.quantization.fit import gate_range
from lrgate.types import Float64Array, IntArray

__all__ = [
    "GateSearch",
]


_LOST_ENERGIES: Final = (1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3e-2, 6e-2)

# On layers with more weights than this only these of the usual ranks are tried.
_WIDE: Final = 4_000_000
_WIDE_RANKS: Final = (16, 32, 64, 128, 256)
_WIDE_LOST_ENERGIES: Final = (3e-4, 1e-3, 4e-3, 1.6e-2)

# Estimators must cost at most this share of the multiply-adds of skip.
_MOST_ESTIMATE: Final = 0.6

# Layers with a gate within this factor of the exact time get a finer estimator.
_NEAR: Final = 1.15

# The most multiply-adds for the refinement of one estimator, which is 20 epochs.
_REFINEMENT_WORK: Final = 1.5e11
_REFINEMENT_COST: Final = 120

Options = dict[int, list[Candidate]]
"""Candidates by layer."""


class GateSearch:
    """Finds choices of gates and factors for a network.

    Parameters
    ----------
    problem : Problem
    clock : Clock
    core : Network
        The network of the kept units, dense in f32.
    bases : dict from name to Network
        The networks that gates and factors are added to: `core` under plans without them. The first
        one has the quantizations that factors are fitted for.
    signals : pair of Signals
        Inputs of all layers of `problem.base` on the rows that fit, and on those that choose.
    always : list of int arrays
        Positions of the kept units that are always on, by layer.
    """

    def __init__(
        self,
        problem: Problem,
        clock: Clock,
        core: Network,
        bases: Mapping[str, Network],
        signals: tuple[Signals, Signals],
        always: list[IntArray],
    ) -> None:
        self._problem, self._clock = problem, clock
        self._core, self._bases = core, bases
        self._signals, self._always = signals, always
        self._ranks, self._seed = problem.request.ranks, problem.request.seed
        self._coarse: dict[int, estimators.Estimate] = {}

    def choices(self) -> dict[str, list[Choice]]:
        """Choices of gates and factors for each base, from the fastest to the least divergent."""
        exact = {name: self._clock.exact_layer_seconds(base) for name, base in self._bases.items()}
        options = self._fitted()
        self._problem.step("measuring gates")
        measured = {name: self._measured(options, base) for name, base in self._bases.items()}
        refined = self._refined(measured, exact)
        for name, base in self._bases.items():
            for i, more in self._measured(refined, base).items():
                measured[name][i] += more
        self._problem.step("evaluating gates")
        kept = {
            name: {i: _frontier(found, exact[name][i]) for i, found in of_base.items()}
            for name, of_base in measured.items()
        }
        kept = self._evaluated(kept)
        self._problem.step("choosing")
        return {name: choices_on_front(kept[name], exact[name]) for name in kept}

    def _evaluated(self, options: dict[str, Options]) -> dict[str, Options]:
        """The candidates with their divergence, which is the same for all bases."""
        divergence = divergence_from(self._core, self._problem)
        known: dict[int, float] = {}

        def of(i: int, candidate: Candidate) -> Candidate:
            part = candidate.part
            if id(part) not in known:
                known[id(part)] = divergence.of(with_parts_in_use(self._core, {i: part}))
            return replace(candidate, divergence=known[id(part)])

        return {
            name: {i: [of(i, each) for each in found] for i, found in of_base.items()}
            for name, of_base in options.items()
        }

    def _fitted(self) -> Options:
        """Candidates by the coarse estimators, not measured yet."""
        quantized = next(iter(self._bases.values()))
        options: Options = {}
        last = len(self._core.layers) - 1
        for i in range(len(self._core.layers)):
            self._problem.step(f"fitting layer {i}")
            kept = self._kept(i)
            gated = has_nested_gate(kept.layer, self._always[i], i == last)
            gate_ranks = self._ranks_for(kept) if gated else []
            ranks = self._factor_ranks(kept)
            if gate_ranks or ranks:
                options[i] = []
            for coarse in registry.of_stage("coarse") if gate_ranks else ():
                together = [*gate_ranks, *ranks]
                estimate = coarse.fit(kept.layer, kept.fit, together, None, self._seed)
                self._coarse.setdefault(i, estimate)
                options[i] += self._candidates(estimate, gate_ranks, kept, self._always[i])
            if ranks:
                options[i] += factor_candidates(
                    self._factoring(i, kept, max(ranks)),
                    ranks,
                    kept,
                    self._always[i] if gated else None,
                    quantized.layers[i].quantization,
                    len(self._clock.sizes),
                )
        return options

    def _factor_ranks(self, kept: KeptLayer) -> list[int]:
        request = self._problem.request
        if request.factors == "none":
            return []
        return factor_ranks(kept, _density(kept.fit), self._ranks if request.ranks_given else None)

    def _factoring(self, i: int, kept: KeptLayer, rank: int) -> Factoring:
        """The fit of the layer's factors: that of its gates, if they have a fit of this rank."""
        estimate = self._coarse.get(i)
        if estimate is not None and estimate.max_rank >= rank:
            return Factoring(estimate, kept.layer.activation.threshold)
        return estimators.factored(kept.layer, kept.fit, rank)

    def _refined(self, measured: dict[str, Options], exact: dict[str, Float64Array]) -> Options:
        """Candidates by finer estimators, for layers and ranks where a gate may pay in some base.

        They are not measured yet.
        """
        refined: Options = {}
        for i in next(iter(measured.values())):
            self._problem.step(f"refining layer {i}")
            kept = self._kept(i)
            near = {
                c.part.rank
                for name, options in measured.items()
                for c in options[i]
                if isinstance(c.part, Gate) and (c.seconds < _NEAR * exact[name][i]).any()
            }
            ranks = [rank for rank in sorted(near) if _may_refine(kept, rank)]
            if ranks:
                refined[i] = []
                for fine in registry.of_stage("refine"):
                    estimate = fine.fit(kept.layer, kept.fit, ranks, self._coarse[i], self._seed)
                    refined[i] += self._candidates(estimate, ranks, kept, self._always[i])
        return refined

    def _kept(self, i: int) -> KeptLayer:
        return KeptLayer.of(self._core, i, self._signals)

    def _ranks_for(self, kept: KeptLayer) -> list[int]:
        """Ranks whose estimate costs little enough of the layer's multiply-adds under skip."""
        d, h = kept.layer.inputs, kept.layer.outputs
        density = _density(kept.fit)
        work = min(density, 1.0) * d * h
        wide = d * h > _WIDE and not self._problem.request.ranks_given
        tried = [rank for rank in self._ranks if rank in _WIDE_RANKS] if wide else self._ranks
        return [
            rank
            for rank in tried
            if rank <= min(d, h) and rank * (density * d + h) <= _MOST_ESTIMATE * work
        ]

    def _candidates(
        self, estimate: estimators.Estimate, ranks: Sequence[int], kept: KeptLayer, always: IntArray
    ) -> list[Candidate]:
        """Gates of several ranks and thresholds, not measured yet.

        Gates of the same rank share their factors.
        """
        layer = kept.layer
        wide = layer.multiply_adds > _WIDE
        found = []
        for rank in ranks:
            gate = estimate.gate(rank)
            gate = replace(gate, range=gate_range(gate, kept.fit))
            gate = with_always_on(gate, always)
            path = estimators.ThresholdPath(layer, gate, kept.tune)
            whole = kept.in_full(gate)
            for lost in _WIDE_LOST_ENERGIES if wide else _LOST_ENERGIES:
                bias = path.gate(lost_energy=lost).bias.copy()
                bias[always] = 1.0
                tuned = replace(whole, bias=read_only(kept.bias_in_full(bias)))
                times = np.zeros(len(self._clock.sizes))
                found.append(Candidate(tuned, estimate.method, lost, times))
        return found

    def _measured(self, options: Options, base: Network) -> Options:
        """The candidates with their times in a base: one of each layer is measured at once."""
        measured: Options = {i: [] for i in options}
        for at in range(max(map(len, options.values()), default=0)):
            now = {i: found[at] for i, found in options.items() if at < len(found)}
            seconds = self._clock.layer_seconds(with_parts_in_use(base, parts_of(now)))
            for i, candidate in now.items():
                measured[i].append(replace(candidate, seconds=seconds[i]))
        return measured


def _may_refine(kept: KeptLayer, rank: int) -> bool:
    """Whether training an estimate of this rank takes little enough of the time."""
    width = kept.layer.inputs + kept.layer.outputs
    return _REFINEMENT_COST * len(kept.fit) * rank * width <= _REFINEMENT_WORK


def _density(inputs: Inputs) -> float:
    if isinstance(inputs, SparseInputs):
        return inputs.density
    return float((inputs != 0).mean())


def _frontier(found: list[Candidate], exact: Float64Array) -> list[Candidate]:
    """Candidates that are faster than exact somewhere and that no other one beats."""
    fast = [c for c in found if (c.seconds < PROMISE * exact).any()]
    return [c for c in fast if not any(other.beats(c) for other in fast)]

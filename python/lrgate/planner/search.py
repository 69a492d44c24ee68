"""The search for the fastest network within an error budget.

In short:

1. Rows are split in three: estimators are fitted on the first part, thresholds, plans and times
   chosen on the first two, and the promise is checked on the third, which chooses nothing.
2. Linear layers in a row are multiplied out. Units that cannot be on are left out; the others are
   put in an order in which units that are on together sit together. Layers become int8, except
   those that cost too much.
3. Each hidden layer gets candidates: gates of several ranks and thresholds, each with its lost
   energy and its time in every batch size. Those that another one beats in both are dropped; the
   others get their damage: what each alone does to the network's outputs.
4. With a price on damage, the best choice is one of each layer on its own. From no price to a high
   one this gives a path of plans from the fastest to the exact one; on the second part of the rows
   the fastest is taken that the third is likely to show within the budget.
5. Whole calls decide, batch size by batch size, what of it is used, and in which precision.
6. The networks found are tried on the third part, from the least damaging to the fastest, each as
   it would be returned. The first that is not shown to keep the budget ends it (fixed-sequence
   testing: Angelopoulos et al., "Learn then Test", 2021), and the one before it is the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate import estimators
from lrgate.estimators import registry
from lrgate.inputs.sparse import SparseInputs
from lrgate.measure import machine, timing
from lrgate.model.layer import Layer
from lrgate.network import Network
from lrgate.planner import merging, units
from lrgate.planner.arguments import (
    RANKS,
)
from lrgate.planner.calibration import Calibration, calibrated
from lrgate.planner.candidates import (
    PROMISE,
    Candidate,
    Choice,
    Inputs,
    choices_by_price,
    gates_of,
    names_of,
)
from lrgate.planner.divergence import Divergence
from lrgate.planner.evaluation import Evaluator
from lrgate.planner.evidence import Evidence
from lrgate.planner.int8 import Int8Fit
from lrgate.planner.kept import KeptLayer
from lrgate.planner.plans import (
    distinct_sizes,
    gated_layers,
    is_dense,
    is_exact,
    is_int8,
    of_layers,
    only_plan,
    plan_key,
    plan_of,
    uniform,
    with_always_on,
    with_gates_in_use,
    with_kept_units,
    without_unused,
)
from lrgate.planner.split import CHECK_SHARE, MOST_ROWS, Split
from lrgate.quantization.fit import gate_range
from lrgate.quantization.limits import MOST_INPUTS
from lrgate.results.optimization import BatchReport, CheckReport, LayerReport, OptimizeReport
from lrgate.results.profile import LayerProfile
from lrgate.types import Float32Array, Float64Array, IntArray

__all__ = []


Masks = list[npt.NDArray[np.bool_]]


_LOST_ENERGIES: Final = (1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3e-2, 6e-2)

# On layers of more weights than this only these of the usual ranks are tried.
_WIDE: Final = 4_000_000
_WIDE_RANKS: Final = (16, 32, 64, 128, 256)
_WIDE_LOST_ENERGIES: Final = (3e-4, 1e-3, 4e-3, 1.6e-2)

# Units that are on in this share of the rows are computed without being scored.
_ALWAYS_ON: Final = 0.95

# A more complex plan must be this many times as fast in whole calls, in the median over rounds.
_MUST_GAIN: Final = 1.03

# Layers on which a gate within this factor of the exact time could be found get a finer estimator.
_NEAR: Final = 1.15

# Shares of the budget that gates are chosen for, in this order; the first costs less speed where
# the second cannot be shown.
_BUDGET_SHARES: Final = (0.5, 1.0)

# Standard errors that a choice has to spare, so that the rows that check are likely to agree: they
# and the rows that choose, which are half as many, differ by 1.7 of the check's standard errors.
_SPARE: Final = 1.5
_ROW_SPARE: Final = 0.8

_PROBE_ROWS: Final = 64

# The most rows of a call that is measured, for each thread.
_MOST_RACED: Final = 4096

# The most rows that a layer is measured on, in calls of as many at most.
_LAYER_ROWS: Final = 256

# The most rows that the layers' times in the report are of; shares are of all rows held back.
_PROFILE_ROWS: Final = 1024

# Values of the layers' inputs that are held for each part of the rows: 512 MiB.
_MOST_VALUES: Final = 1 << 27

# Multiply-adds. The units of a network of more a row keep their order. Below: what the rows of a
# layer's and a call's measurement take at most, those whose damage is looked at, and the
# refinement of one estimator.
_LARGE: Final = 8_000_000
_LAYER_WORK: Final = 2e9
_MOST_RACED_WORK: Final = 5e9
_DAMAGE_WORK: Final = 2e10
_REFINEMENT_WORK: Final = 1.5e11

# How long things are measured for: a layer, a class's plan, a race of whole calls, the last one,
# the layers that are reported.
_LAYER_SECONDS: Final = 0.008
_PLAN_SECONDS: Final = 0.4
_RACE_SECONDS: Final = 0.3
_LAST_RACE_SECONDS: Final = 0.6
_PROFILE_SECONDS: Final = 0.05


@dataclass(frozen=True)
class Asked:
    """What the caller wants."""

    budget: float
    confidence: float
    max_row_error: float | None
    sizes: tuple[int, ...]
    precision: str
    prune: str
    threads: int
    seed: int


@dataclass(frozen=True, eq=False)
class _Trial:
    """A network as it would be returned, and the same in f32 without gates.

    `shown` holds what the check said, by batch plan.
    """

    name: str
    network: Network
    exact: Network
    choice: Choice
    pruned: bool
    shown: dict[str, Evidence] = field(default_factory=dict)


class Search:
    """One run of `optimize`."""

    def __init__(
        self, user: Network, split: Split, asked: Asked, ranks: tuple[int, ...], bar: Any
    ) -> None:
        self.user, self.split, self.asked = user, split, asked
        self.budget, self.precision = asked.budget, asked.precision
        self.sizes, self.threads = list(asked.sizes), asked.threads
        self.ranks, self.seed = ranks, asked.seed
        self.bar = bar
        self.notes: list[str] = []
        self.tests: list[CheckReport] = []
        layers, spans = merging.merged(user.layers)
        fewer = len(layers) < len(user.layers)
        self.base = of_layers(user, layers, user.input_range) if fewer else user
        named = [f"{first} to {last}" for first, last in spans if first < last]
        if named:
            self.notes.append(
                f"layers {', '.join(named)} are linear in a row and merged: layers are counted "
                "after that"
            )
        self.work = sum(layer.inputs * layer.outputs for layer in layers)
        self.checked = int(split.check.shape[0])
        self.pruned = False
        self.chooser, self.calibration = self._chooser()
        self.checker: Evaluator | None = None
        self.first: _Trial | None = None

    def run(self, begin: float) -> Network:
        """The whole search."""
        self._step("looking at the units")
        signals = self._signals(self.split.fit), self._signals(self.split.tune)
        dead = self._dead()
        silent = self._shown_silent(dead, self._silent(dead))
        kept = [~(a | b) for a, b in zip(dead, silent, strict=True)]
        natural = [np.flatnonzero(mask) for mask in kept]
        orders, always = self._orders(signals[0], kept)

        self._step("measuring dense and skip")
        core = with_kept_units(self.base, orders)
        exact = self._exact(core)
        plain = self._quantized(core, exact)
        plainly = all(np.array_equal(a, b) for a, b in zip(orders, natural, strict=True))
        plainly = plainly or self.work > _LARGE
        speed_up = None if plainly else self._order_speed_up(exact, natural)
        ordered = not plainly and self._order_pays(plain, natural)
        path: list[Choice] | None = None
        chosen: list[tuple[int, int]] = []

        def made(name: str, network: Network, choice: Choice) -> _Trial:
            network = without_unused(network)
            if not ordered:
                network = with_kept_units(network, natural)
            unused = network._with_engine_plan(network.engine.with_plan(exact.engine.plan()))
            return _Trial(name, network, unused, choice, self.pruned)

        def gated(share: float) -> _Trial | None:
            nonlocal path, chosen
            if path is None:
                path = self._choices(core, plain, signals, always)
            choice = self._fastest_within(plain, path, share)
            if not choice or names_of(choice) == chosen:
                return None
            chosen = names_of(choice)
            fast = self._with_choice(plain, choice)
            if not gated_layers(fast):
                return None
            return made(f"gates for {share:.0%} of the budget", fast, choice)

        builders: list[Callable[[], _Trial | None]] = []
        if self.pruned:
            builders.append(lambda: made("units never on left out", exact, {}))
        if any(is_int8(plain, size) for size in self.sizes):
            builders.append(lambda: made("int8 without gates", plain, {}))
        if self.budget > 0:
            builders += [lambda share=share: gated(share) for share in _BUDGET_SHARES]  # type: ignore[misc]
        best = None if self.pruned else made("f32 without gates", exact, {})
        for build in builders:
            trial = build()
            if trial is None:
                continue
            self.first = self.first or trial
            if not self._passes(trial):
                break
            best = trial
        if best is None:
            self.pruned, silent = False, [np.zeros_like(mask) for mask in silent]
            best = self._all_units(dead)
            ordered = False

        self._step("reporting")
        result, batches = self._batch_reports(best)
        report = self._report(best, result, batches, begin)
        report = replace(
            report,
            dead_units=tuple(int(mask.sum()) for mask in dead),
            dropped_units=tuple(int(mask.sum()) for mask in silent),
            order_speed_up=speed_up,
            order_used=ordered,
            notes=(*self.notes, *self._unit_notes(dead, silent), *self._verdict(result, path)),
        )
        return self._finished(result, report)

    def _step(self, text: str) -> None:
        self.bar.update(1)
        self.bar.set_description(text)

    def _chooser(self) -> tuple[Evaluator, Calibration]:
        """What judges on the rows that choose, and what margins mean by the labels so far."""
        split = self.split
        fitted = self.user.forward(split.fit)
        calibration = Calibration()
        if split.tune_targets is not None and self.user.task != "regression":
            outputs = np.concatenate([self.user.forward(split.tune), fitted])
            assert split.fit_targets is not None
            targets = np.concatenate([split.tune_targets, split.fit_targets])
            activation = self.user.layers[-1].activation.name
            calibration = calibrated(outputs, targets, self.user.task, activation)
        judge = Evaluator(
            self.user, split.tune, split.tune_targets, others=fitted, calibration=calibration
        )
        return judge, calibration

    # Units

    def _signals(self, rows: Any) -> list[Float32Array | SparseInputs]:
        """Every layer's inputs on as many of the rows as memory allows.

        Raw rows that are sparse and would be large as dense ones stay sparse.
        """
        widths = [layer.inputs for layer in self.base.layers]
        sparse = hasattr(rows, "toarray") and rows.shape[0] * widths[0] > _MOST_VALUES // 4
        rows = rows[: max(_MOST_VALUES // max(sum(widths[sparse:]), 1), 256)]
        dense = self.base.dense()
        if not sparse:
            return list(dense.layer_inputs(rows))
        first = SparseInputs(rows, self.base.input_scale, self.base.input_shift)
        return [first, *dense.engine.hidden_inputs(rows)]

    def _dead(self) -> Masks:
        """Units that are off on the whole declared input range."""
        layers = self.base.layers
        span = self.base.input_range
        if span is None or self.asked.prune == "none":
            return [np.zeros(layer.outputs, np.bool_) for layer in layers]
        scale = 1.0 if self.base.input_scale is None else self.base.input_scale.astype(np.float64)
        shift = 0.0 if self.base.input_shift is None else self.base.input_shift.astype(np.float64)
        ends = np.stack(np.broadcast_arrays(*(end * scale + shift for end in span)))
        *dead, _ = units.proven_dead(layers, ends.min(axis=0), ends.max(axis=0))
        return [_keep_one(mask) for mask in dead] + [np.zeros(layers[-1].outputs, np.bool_)]

    def _silent(self, dead: Masks) -> Masks:
        """Units that are never on in the rows that fit and choose, other than the dead ones."""
        silent = [np.zeros_like(mask) for mask in dead]
        if self.budget == 0 or self.asked.prune != "never_on":
            return silent
        hidden = self.base.layers[:-1]
        on = [np.zeros(layer.outputs, np.bool_) for layer in hidden]
        engine = self.base.dense().engine
        step = max(1, _MOST_VALUES // 16 // max(sum(layer.outputs for layer in hidden), 1))
        for rows in self.split.fit, self.split.tune:
            for at in range(0, rows.shape[0], step):
                values = engine.hidden_inputs(rows[at : at + step])
                for seen, part in zip(on, values, strict=True):
                    seen |= (part != 0).any(axis=0)
        for i, layer in enumerate(hidden):
            if layer.activation.has_hard_zero:
                silent[i] = _keep_one(~on[i] & ~dead[i], dead[i])
        return silent

    def _shown_silent(self, dead: Masks, silent: Masks) -> Masks:
        """The same where the rows that check are enough to show what leaving them out costs."""
        if self.asked.prune == "never_on" and self.budget == 0:
            self.notes.append("a budget of 0 keeps units that were never on")
        if not any(mask.any() for mask in silent):
            return silent
        trial = with_kept_units(
            self.base, [np.flatnonzero(~(a | b)) for a, b in zip(dead, silent, strict=True)]
        )
        self.pruned = True
        found = self._chosen_evidence(trial)
        if self._likely(found, 1.0):
            return silent
        self.pruned = False
        self.notes.append(f"units that were never on are kept: {self._lacking(found, _SPARE)}")
        return [np.zeros_like(mask) for mask in silent]

    def _orders(self, inputs: Any, kept: Masks) -> tuple[list[IntArray], list[int]]:
        """Each layer's units in order, and how many at the end are always on."""
        orders, always = [], []
        for i, layer in enumerate(self.base.layers):
            order, count = np.flatnonzero(kept[i]), 0
            if i + 1 < len(inputs) and layer.activation.has_hard_zero:
                active = inputs[i + 1][:, order] != 0
                on = active.mean(axis=0) >= _ALWAYS_ON
                count = int(on.sum())
                changing = order[~on]
                if len(changing) and self.work <= _LARGE:
                    changing = changing[units.co_activation_order(active[:, ~on])]
                order = np.concatenate([changing, order[on]])
            orders.append(order)
            always.append(count)
        return orders, always

    def _all_units(self, dead: Masks) -> _Trial:
        """The exact network of all units that are not proven off."""
        natural = [np.flatnonzero(~mask) for mask in dead]
        exact = self._exact(with_kept_units(self.base, natural))
        return _Trial("f32 without gates", exact, exact, {}, False)

    # Precision

    def _exact(self, core: Network) -> Network:
        """The fastest plan in f32 without gates, dense where nothing is faster."""
        tuned, dense = self._tuned(core), core.dense()
        plan = [self._settled(size, dense=dense, exact=tuned) for size in self.sizes]
        return tuned._with_engine_plan(tuned.engine.with_plan(plan))

    def _quantized(self, core: Network, exact: Network) -> Network:
        """The fastest plan without gates: in each class f32, or int8 where it may be."""
        self._step("quantising")
        if self.precision == "int8" and self.budget == 0:
            self.notes.append("int8 is not exact: a budget of 0 leaves all layers f32")
        if self.precision == "f32" or self.budget == 0:
            return exact
        layers = [i for i, layer in enumerate(core.layers) if layer.inputs <= MOST_INPUTS]
        damage = Divergence(core, self._damage_rows())
        int8 = Int8Fit(core, self.split.fit)
        alone: dict[int, float] = {}
        while layers:
            quantized = int8.network(layers)
            found = self._chosen_evidence(quantized)
            if self._likely(found, 1.0):
                break
            if not alone:
                alone = {i: damage.of(int8.network([i])) for i in layers}
            worst = max(layers, key=lambda i: alone[i])
            layers.remove(worst)
            self.notes.append(f"layer {worst} stays f32: int8 {self._lacking(found, _SPARE)}")
        layers = [i for i in layers if quantized.layers[i].quantization is not None]
        if not layers:
            return exact
        tuned = self._tuned(quantized)
        if self.precision == "int8":
            plan = [self._settled(size, dense=quantized, int8=tuned) for size in self.sizes]
        else:
            plan = [self._settled(size, exact=exact, int8=tuned) for size in self.sizes]
        if all(set(words) == {"f32"} for _, _, words in plan):
            self.notes.append("int8 is not faster here: all layers are f32")
            return exact
        return quantized._with_engine_plan(quantized.engine.with_plan(plan))

    # What rows say

    def _chosen_evidence(self, network: Network) -> list[Evidence]:
        """What the rows that choose say of each of the network's batch plans."""
        return [
            self.chooser.evidence(
                only_plan(network, size).forward(self.split.tune), unseen=self.pruned
            )
            for size in distinct_sizes(network)
        ]

    def _likely(self, found: list[Evidence], share: float) -> bool:
        """Whether the rows that check are likely to show a share of the budget kept."""
        most = self.asked.max_row_error
        return all(
            evidence.upper(self.asked.confidence, self.checked, _SPARE) <= share * self.budget
            and (most is None or evidence.worst <= _ROW_SPARE * most)
            for evidence in found
        )

    def _passes(self, trial: _Trial) -> bool:
        """Whether the rows that check show that the network keeps the budget in every class."""
        self._step("checking")
        if self.checker is None:
            seen = self.chooser.all  # the dense outputs on the other rows
            self.checker = Evaluator(
                self.user,
                self.split.check,
                self.split.targets,
                others=seen,
                calibration=self.calibration,
            )
        found = []
        for size in distinct_sizes(trial.network):
            if not trial.pruned and is_exact(trial.network, size):
                continue
            network = only_plan(trial.network, size)
            before = self.chooser.evidence(network.forward(self.split.tune), unseen=trial.pruned)
            evidence = self.checker.evidence(
                network.forward(self.split.check), unseen=trial.pruned, reach=before.largest
            )
            trial.shown[plan_key(trial.network, size)] = evidence
            found.append(evidence)
        level, most = self.asked.confidence, self.asked.max_row_error
        failed = [each for each in found if not each.within(self.budget, level, most)]
        self.tests.append(
            CheckReport(
                network=trial.name,
                increase=max(each.estimate for each in found),
                upper=max(each.upper(level) for each in found),
                worst_row=max(each.worst for each in found),
                passed=not failed,
            )
        )
        if failed:
            self.notes.append(f"{trial.name}: not used, {self._lacking(failed, 0.0)}")
        return not failed

    def _lacking(self, found: list[Evidence], spare: float) -> str:
        """Why a network is not used: what it costs, or how many rows would show that it may be."""
        level, most = self.asked.confidence, self.asked.max_row_error
        worst = max(each.worst for each in found)
        if most is not None and worst > (_ROW_SPARE if spare else 1.0) * most:
            return f"changes its worst row too much ({worst:.3g}, {most:g} allowed)"
        needed = [each.needed(self.budget, level, spare) for each in found]
        known = [count for count in needed if count is not None]
        if len(known) < len(needed) or any(each.lower(level) > self.budget for each in found):
            expected = max(each.estimate for each in found)
            return f"costs too much error, about {100 * expected:.2g} points"
        total = max(known) / CHECK_SHARE
        if total > MOST_ROWS:
            total = max(known) + (1 - CHECK_SHARE) * MOST_ROWS
        return (
            f"cannot be shown to keep the budget by {self.checked} rows held back; "
            f"about {_rounded(total):,} rows in all would show it"
        )

    # Candidates and their choice

    def _choices(
        self, core: Network, plain: Network, signals: Any, always: list[int]
    ) -> list[Choice]:
        """Choices of gates, from the fastest to the least damaging."""
        seconds = self._exact_seconds(plain)
        damage = Divergence(core, self._damage_rows())
        options: dict[int, list[Candidate]] = {}
        fits: dict[int, estimators.Estimate] = {}

        for i in range(len(core.layers) - 1):
            self._step(f"fitting layer {i}")
            layer = KeptLayer.of(core, i, signals)
            if not layer.layer.activation.has_hard_zero or always[i] >= layer.layer.outputs:
                continue
            ranks = self._ranks(layer.layer, layer.fit)
            if ranks:
                options[i] = []
                for coarse in registry.of_stage("coarse"):
                    estimate = coarse.fit(layer.layer, layer.fit, ranks, None, self.seed)
                    fits.setdefault(i, estimate)
                    options[i] += self._candidates(estimate, ranks, layer, always[i])
        self._step("measuring gates")
        options = self._measured(plain, options)
        refined: dict[int, list[Candidate]] = {}
        for i, found in options.items():
            self._step(f"refining layer {i}")
            layer = KeptLayer.of(core, i, signals)
            near = {c.gate.rank for c in found if (c.seconds < _NEAR * seconds[i]).any()}
            ranks = [k for k in sorted(near) if self._may_refine(layer, k)]
            if ranks:
                refined[i] = []
                for fine in registry.of_stage("refine"):
                    estimate = fine.fit(layer.layer, layer.fit, ranks, fits[i], self.seed)
                    refined[i] += self._candidates(estimate, ranks, layer, always[i])
        for i, found in self._measured(plain, refined).items():
            options[i] = options[i] + found
        self._step("judging gates")
        kept = {i: self._frontier(found, seconds[i]) for i, found in options.items()}
        kept = {
            i: [replace(c, damage=damage.of(core.with_gates({i: c.gate}))) for c in found]
            for i, found in kept.items()
        }
        self._step("choosing")
        return choices_by_price(kept, seconds)

    @staticmethod
    def _may_refine(kept: KeptLayer, rank: int) -> bool:
        """Whether training an estimate of this rank, 20 epochs, is a fair share of the time."""
        width = kept.layer.inputs + kept.layer.outputs
        return 120 * len(kept.fit) * rank * width <= _REFINEMENT_WORK

    def _damage_rows(self) -> Any:
        """Rows that choose, as many as a network of this size is looked at often."""
        return self.split.tune[: max(int(_DAMAGE_WORK / max(self.work, 1)), 64)]

    def _ranks(self, layer: Layer, inputs: Inputs) -> list[int]:
        """Ranks whose estimate costs at most 0.6 of what skip would do of the layer."""
        d, h = layer.inputs, layer.outputs
        if isinstance(inputs, SparseInputs):
            density = inputs.density
        else:
            density = float((inputs != 0).mean())
        work = min(density, 1.0) * d * h
        wide = d * h > _WIDE and self.ranks == tuple(k for k in RANKS if k <= max(self.ranks))
        tried = [k for k in self.ranks if k in _WIDE_RANKS] if wide else self.ranks
        return [k for k in tried if k <= min(d, h) and k * (density * d + h) <= 0.6 * work]

    def _candidates(
        self,
        estimate: estimators.Estimate,
        ranks: Sequence[int],
        kept: KeptLayer,
        always: int,
    ) -> list[Candidate]:
        """Gates of several ranks and thresholds, not measured yet."""
        found = []
        layer = kept.layer
        for rank in ranks:
            gate = estimate.gate(rank)
            gate = replace(gate, range=gate_range(gate, kept.fit))
            gate = with_always_on(gate, always)
            path = estimators.ThresholdPath(layer, gate, kept.tune)
            wide = layer.inputs * layer.outputs > _WIDE
            for lost in _WIDE_LOST_ENERGIES if wide else _LOST_ENERGIES:
                tuned = replace(path.gate(lost_energy=lost), range=gate.range)
                tuned = kept.in_full(with_always_on(tuned, always))
                found.append(Candidate(tuned, estimate.method, lost, np.zeros(len(self.sizes))))
        return found

    def _measured(
        self, plain: Network, options: dict[int, list[Candidate]]
    ) -> dict[int, list[Candidate]]:
        """The candidates with their times: one of each layer at once."""
        measured: dict[int, list[Candidate]] = {i: [] for i in options}
        for at in range(max(map(len, options.values()), default=0)):
            now = {i: found[at] for i, found in options.items() if at < len(found)}
            network = with_gates_in_use(plain, {i: candidate.gate for i, candidate in now.items()})
            seconds = self._layer_seconds(network)
            for i, candidate in now.items():
                measured[i].append(replace(candidate, seconds=seconds[i]))
        return measured

    def _exact_seconds(self, plain: Network) -> Float64Array:
        """Each layer's fastest time without gates, (layers, classes), at its precisions."""
        networks = [uniform(plain, name) for name in ("dense", "skip")]
        return np.minimum(*(self._layer_seconds(network) for network in networks))

    def _layer_seconds(self, network: Network) -> Float64Array:
        """Seconds per row of each layer in each class, (layers, classes)."""
        # Each row of a large network takes its time, most of all alone: it streams all weights.
        most = int(np.clip(_LAYER_WORK / max(self.work, 1), 16, _LAYER_ROWS))
        rows = _cycled(self.split.tune, most)
        # Large classes are measured alike, so where their layers are too it is done once.
        found: dict[Any, list[float]] = {}
        columns = []
        for size in self.sizes:
            count = min(size, most)
            _, *plan = plan_of(network, size)
            key = count, repr(plan)
            if key not in found:
                whole = rows[: most // count * count]
                engine = only_plan(network, size).engine
                found[key] = engine.layer_seconds(whole, count, _LAYER_SECONDS)
            columns.append(found[key])
        return np.array(columns).T

    def _frontier(self, found: list[Candidate], exact: Float64Array) -> list[Candidate]:
        """Those that are faster than exact somewhere and that no other one beats."""
        fast = [c for c in found if (c.seconds < PROMISE * exact).any()]
        return [c for c in fast if not any(other.beats(c) for other in fast)]

    def _fastest_within(self, plain: Network, path: list[Choice], share: float) -> Choice:
        """The first choice of a path of less and less damage likely to keep a share of the budget.

        Where none is, a note says what is lacking.
        """
        first, last = 0, len(path)
        while first < last:  # the choices from `last` on are likely to be within the budget
            middle = (first + last) // 2
            if self._likely(
                self._chosen_evidence(with_gates_in_use(plain, gates_of(path[middle]))), share
            ):
                last = middle
            else:
                first = middle + 1
        if last < len(path):
            return path[last]
        if path and share == _BUDGET_SHARES[-1]:
            found = self._chosen_evidence(with_gates_in_use(plain, gates_of(path[-1])))
            self.notes.append(f"no gate is used: the least damaging {self._lacking(found, _SPARE)}")
        return {}

    def _with_choice(self, plain: Network, choice: Choice) -> Network:
        """The plan with gates in the classes in which they pay."""
        fast = with_gates_in_use(plain, gates_of(choice))
        tuned = self._tuned(fast)
        plan = [self._settled(size, plain=plain, fast=tuned) for size in self.sizes]
        return tuned._with_engine_plan(tuned.engine.with_plan(plan))

    # Whole calls

    def _tuned(self, network: Network) -> Network:
        """The network with the fastest plan of every class."""
        rows = _cycled(self.split.tune, 256)
        engine = network.engine.tune(rows, self.sizes, _PLAN_SECONDS, self.threads)
        return network._with_engine_plan(engine)

    def _settled(self, size: int, **networks: Network) -> Any:
        """The batch plan of the first of these networks that no later one clearly beats."""
        names = list(networks)
        plans = {name: plan_of(network, size) for name, network in networks.items()}
        if all(plan == plans[names[0]] for plan in plans.values()):
            return plans[names[0]]
        times = self._race(size, _RACE_SECONDS, **networks)
        best = names[0]
        for name in names[1:]:
            if times[name].speed_up_over(times[best]).median >= _MUST_GAIN:
                best = name
        return plans[best]

    def _race(
        self, size: int, seconds: float, rows: Any = None, **networks: Network
    ) -> dict[str, timing.Timing]:
        """Times of whole calls under the plans for `size` rows, by turns, on rows that choose.

        Large calls are made of tiles, so that a part is as good as the whole.
        """
        rows = self.split.tune if rows is None else rows
        count = min(size, _MOST_RACED * self.threads)
        if count * self.work > _MOST_RACED_WORK:
            count = min(count, max(256, int(_MOST_RACED_WORK / self.work)))
        calls = _batches(_cycled(rows, count), count)
        contestants = {
            name: _caller(only_plan(network, size), self.threads)
            for name, network in networks.items()
        }
        return timing.interleaved(contestants, calls, seconds, min_rounds=3)

    def _order_speed_up(self, exact: Network, natural: list[IntArray]) -> float:
        """What the order of units brings without gates, at the smallest class."""
        unordered = with_kept_units(exact, natural)
        times = self._race(self.sizes[0], _RACE_SECONDS, ordered=exact, unordered=unordered)
        return times["ordered"].speed_up_over(times["unordered"]).median

    def _order_pays(self, plain: Network, natural: list[IntArray]) -> bool:
        """Whether the plan is faster in the order found than in the user's own, and nowhere slower.

        Over all classes together it must gain as much as any other choice.
        """
        unordered = with_kept_units(plain, natural)
        gains = []
        for size in self.sizes:
            times = self._race(size, _RACE_SECONDS, ordered=plain, unordered=unordered)
            gains.append(times["ordered"].speed_up_over(times["unordered"]).median)
        least = _MUST_GAIN ** (1 / len(gains))
        return math.prod(gains) ** (1 / len(gains)) >= least and min(gains) >= 1 / _MUST_GAIN

    # The report

    def _batch_reports(self, trial: _Trial) -> tuple[Network, tuple[BatchReport, ...]]:
        """The reports, and the result: exact in classes in which that is not slower after all.

        The last race is on other rows than those that chose. Only plans without error, or whose
        error was shown before, take the place of what was checked.
        """
        result, reports, plan = trial.network, [], []
        dense = trial.exact.dense()
        for size in self.sizes:
            names = {"dense": dense, "exact": trial.exact, "after": result}
            times = self._race(
                size,
                _LAST_RACE_SECONDS,
                self.split.fit,
                dense=self.user.dense(),
                exact=trial.exact,
                after=result,
            )
            used = "after"
            if self.precision != "int8" and not is_dense(result, size):
                used = max(("after", "exact", "dense"), key=lambda name: _rate(times[name]))
            if used == "after" or plan_of(names[used], size) == plan_of(result, size):
                used = "after"
            plan.append(plan_of(names[used], size))
            final = result._with_engine_plan(result.engine.with_plan([plan[-1]]))
            timed = {"dense": times["dense"], "exact": times["exact"], "after": times[used]}
            reports.append(self._batch_report(size, final, timed, trial.choice))
        return result._with_engine_plan(result.engine.with_plan(plan)), tuple(reports)

    def _batch_report(
        self, size: int, result: Network, times: dict[str, timing.Timing], choice: Choice
    ) -> BatchReport:
        rows = _cycled(self.split.check, min(max(size, 256), _PROFILE_ROWS))
        rows = rows[: MOST_ROWS if self.work <= _LARGE else _PROFILE_ROWS]
        timed: dict[str, Any] = {"batch_size": size, "seconds": _PROFILE_SECONDS}
        # Shares are told of all rows, times of the same few before and after.
        shares = result.profile(rows, batch_size=size, seconds=0.0).layers
        few = rows[: _PROFILE_ROWS if self.work <= _LARGE else _LAYER_ROWS]
        before, after = (
            [layer.seconds_per_row for layer in network.profile(few, **timed).layers]
            for network in (self.base.dense(), result)
        )
        layers = tuple(
            self._layer_report(i, layer, before[i], after[i], choice)
            for i, layer in enumerate(shares)
        )
        costs = [(layer, layer.inputs * layer.outputs) for layer in layers]
        predicted = sum(cost for _, cost in costs) / sum(
            cost * _paper_share(layer) for layer, cost in costs
        )
        return BatchReport(
            rows=size,
            layers=layers,
            seconds_dense=times["dense"].seconds_per_row,
            seconds_exact=times["exact"].seconds_per_row,
            seconds_after=times["after"].seconds_per_row,
            over_dense=times["after"].speed_up_over(times["dense"]),
            over_exact=times["after"].speed_up_over(times["exact"]),
            predicted_speed_up=predicted,
        )

    def _report(
        self, trial: _Trial, result: Network, batches: tuple[BatchReport, ...], begin: float
    ) -> OptimizeReport:
        """The report, of the worst class; what it says of the budget was seen in the check."""
        found = []
        for size in distinct_sizes(result):
            if trial.pruned or not is_exact(result, size):
                found.append(self._stored(trial, result, size))
        level = self.asked.confidence
        for evidence in found:
            if not evidence.within(self.budget, level, self.asked.max_row_error):
                raise RuntimeError("a network would be returned that failed its check")
        judge = self.checker or Evaluator(self.user, self.split.check, self.split.targets)
        worst = max(found, key=lambda each: each.upper(level), default=None)
        error = judge.error(judge.dense) if worst is None else worst.plain
        return OptimizeReport(
            batches=batches,
            measure=judge.measure,
            error_before=error.before,
            error_after=error.after,
            error_increase=error.increase,
            error_increase_low=error.low,
            error_increase_high=error.high,
            expected_increase=0.0 if worst is None else worst.estimate,
            increase_bound=0.0 if worst is None else worst.upper(level),
            confidence=level,
            budget=self.budget,
            worst_row_error=max((each.worst for each in found), default=0.0),
            max_row_error=self.asked.max_row_error,
            tests=tuple(self.tests),
            prune=self.asked.prune,
            rows_fitted=self.split.count,
            rows_tuned=int(self.split.tune.shape[0]),
            rows_checked=self.checked,
            dead_units=(),
            dropped_units=(),
            order_speed_up=None,
            order_used=False,
            num_threads=self.threads,
            machine=machine.fingerprint(),
            seed=self.seed,
            seconds=time.perf_counter() - begin,
            notes=(),
        )

    def _stored(self, trial: _Trial, result: Network, size: int) -> Evidence:
        """What the check said of a batch plan of the result."""
        key = plan_key(result, size)
        if key in trial.shown:
            return trial.shown[key]
        # In f32 without gates, so that only units are left out: the first trial's.
        assert self.first is not None
        return next(iter(self.first.shown.values()))

    def _unit_notes(self, dead: Masks, silent: Masks) -> list[str]:
        notes = []
        if any(mask.any() for mask in dead):
            notes.append(
                "units proven off on input_range are left out: rows outside it may give other "
                "results than the full network"
            )
        if any(mask.any() for mask in silent):
            notes.append(
                "units never on in these rows are left out: rows that switch them on give other "
                'results than the full network, in f32 too; prune="proven" keeps them'
            )
        return notes

    def _layer_report(
        self, i: int, layer: LayerProfile, before: float, after: float, choice: Choice
    ) -> LayerReport:
        gated = layer.strategy == "gate"
        return LayerReport(
            inputs=layer.inputs,
            outputs=layer.outputs,
            computed_units=layer.outputs,
            strategy=layer.strategy,
            precision=layer.precision,
            rank=layer.rank,
            estimator=choice[i].estimator if gated else None,
            computed_share=layer.computed_share,
            recall=layer.recall,
            lost_energy=layer.lost_energy,
            density_in=layer.density_in,
            density_out=layer.density_out,
            flop_share=layer.flop_share,
            seconds_before=before,
            seconds_after=after,
        )

    def _verdict(self, result: Network, path: list[Choice] | None) -> list[str]:
        used = {name for plan in result.plan for name in plan.strategies}
        if all(is_dense(result, size) for size in self.sizes):
            return ["nothing is faster than dense here: the plan is dense"]
        if "gate" not in used and path is not None:
            return ["no gate pays within the budget here"]
        return []

    def _finished(self, result: Network, report: OptimizeReport) -> Network:
        """The result with everything that a file keeps."""
        units_computed = [
            layer.outputs if layer.kept_units is None else len(layer.kept_units)
            for layer in result.layers
        ]
        batches = tuple(
            replace(
                batch,
                layers=tuple(
                    replace(layer, computed_units=count)
                    for layer, count in zip(batch.layers, units_computed, strict=True)
                ),
            )
            for batch in report.batches
        )
        # An older probe's outputs are those of units that may have been left out.
        rows = self.split.check[:_PROBE_ROWS] if result.probe is None else result.probe.x
        result = result.with_probe(rows.toarray() if hasattr(rows, "toarray") else rows)
        return result._with(
            result.engine,
            machine=machine.fingerprint(),
            report=replace(report, batches=batches).to_dict(),
        )


def _rate(times: timing.Timing) -> float:
    return 1.0 / float(np.median(times.rounds))


def _rounded(rows: float) -> int:
    """A number of rows with two digits, not less."""
    step = 10 ** max(int(math.log10(max(rows, 1))) - 1, 0)
    return int(math.ceil(rows / step) * step)


def _keep_one(
    off: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_]:
    """`off` with one unit less where no unit would be left: a layer has at least one."""
    left = ~off if others is None else ~(off | others)
    if not left.any():
        off = off.copy()
        off[np.flatnonzero(off)[:1]] = False
    return off


def _cycled(rows: Any, least: int) -> Any:
    """The rows, over and over until there are `least`."""
    count = rows.shape[0]
    return rows if count >= least else rows[np.arange(least) % count]


def _batches(rows: Any, size: int) -> list[Any]:
    return [rows[at : at + size] for at in range(0, rows.shape[0] - size + 1, size)]


def _caller(network: Network, threads: int) -> Any:
    def call(rows: Any) -> object:
        return network.forward(rows, num_threads=threads)

    return call


def _paper_share(layer: LayerReport) -> float:
    """A layer's cost over dense, by the paper's model."""
    if layer.rank is None:
        return 1.0
    d, h = layer.inputs, layer.outputs
    return layer.rank * (d + h) / (d * h) + layer.computed_share

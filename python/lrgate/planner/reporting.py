"""The result and its report: last times, and the evidence of the check."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.measure import machine, timing
from lrgate.model.plan import BatchPlan
from lrgate.network import Network, replaced
from lrgate.planner.budget import BudgetCheck, Trial
from lrgate.planner.candidates import Choice
from lrgate.planner.clock import LAYER_ROWS, MUST_GAIN, Clock, cycled
from lrgate.planner.evidence import Evidence
from lrgate.planner.plans import (
    approximate_layers,
    distinct_sizes,
    is_dense,
    is_exact,
    is_int8,
    only_plan,
    plan_key,
    plan_of,
    plans_of,
    with_plan,
    with_tight_margin,
    without_unused,
)
from lrgate.planner.problem import Problem
from lrgate.planner.pruning import Masks
from lrgate.planner.signals import bounded_rows
from lrgate.planner.split import MOST_ROWS
from lrgate.results.optimization import BatchReport, LayerReport, OptimizeReport
from lrgate.results.profile import LayerProfile

__all__ = [
    "Found",
    "Reporter",
]


_PROBE_ROWS: Final = 64

# The most rows on which the layers' times in the report are measured; shares are of all rows held
# back.
_PROFILE_ROWS: Final = 1024

# How long the last race of whole calls and the reported layers are measured.
_LAST_RACE_SECONDS: Final = 0.6
_PROFILE_SECONDS: Final = 0.05


@dataclass(frozen=True, eq=False)
class Found:
    """Findings of the search for the report.

    Attributes
    ----------
    proven_off, never_on : Masks
        Units that are left out.
    units_speed_up, units_reordered
        As in `OptimizeReport`.
    gates_tried : bool
        Whether gates were fitted.
    """

    proven_off: Masks
    never_on: Masks
    units_speed_up: float | None
    units_reordered: bool
    gates_tried: bool


class Reporter:
    """Measures the best trial for the last time, and reports it."""

    def __init__(self, problem: Problem, clock: Clock, check: BudgetCheck) -> None:
        self._problem, self._request = problem, problem.request
        self._clock, self._check = clock, check

    def finished(self, best: Trial, tried: Sequence[Trial], found: Found, begin: float) -> Network:
        """The network of the best trial with everything that a file keeps.

        `tried` are all trials that were checked; `begin` is when the run began.
        """
        network, batches = self._last_race(best, tried)
        # Gates that no batch plan uses any more would run without their least margin.
        network = without_unused(with_tight_margin(network))
        report = self._report(best, tried, network, batches, found, begin)
        # Units may have been left out since an older probe's outputs were stored.
        rows = self._probe_rows() if network.probe is None else network.probe.x
        if len(rows):
            network = network.with_probe(rows)
        return replaced(network, machine=machine.fingerprint(), report=report.to_dict())

    def _probe_rows(self) -> npt.NDArray[Any]:
        """Some rows that check, without those on which the network's values are huge."""
        rows = self._problem.split.check[:_PROBE_ROWS]
        rows = rows[bounded_rows(self._problem.user, rows)]
        return np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows)

    # Times

    def _last_race(
        self, best: Trial, tried: Sequence[Trial]
    ) -> tuple[Network, tuple[BatchReport, ...]]:
        """The result and its times: dense or exact where that is not slower after all.

        Dense is timed twice: the caller's network, for the report, and the result's own layers,
        which may be fewer or smaller. This race is on rows that nothing was fitted to or chosen
        on: fewer of those that int8 was fitted to are out of range. Only plans without error, or
        with an error that was shown before, replace the checked ones.
        """
        plan, reports = [], []
        rows = self._problem.split.check[:MOST_ROWS]
        for size in self._request.sizes:
            networks = {
                "own_dense": best.exact.dense(),
                "exact": best.exact,
                "after": best.network,
            }
            dense_int8 = _dense_int8(best, tried, size)
            if dense_int8 is not None:
                networks["int8_dense"] = dense_int8
            times = self._clock.race(
                size,
                _LAST_RACE_SECONDS,
                rows,
                dense=self._problem.user.dense(),
                **networks,
            )
            used = self._fastest(size, networks, times)
            plan.append(plan_of(networks[used], size))
            timed = {"dense": times["dense"], "exact": times["exact"], "after": times[used]}
            final = with_plan(best.network, plan[-1:])
            reports.append(self._batch_report(size, final, timed, best.choice))
        return with_plan(best.network, plan), tuple(reports)

    def _fastest(
        self, size: int, networks: dict[str, Network], times: dict[str, timing.Timing]
    ) -> str:
        """The network whose plan to use; int8 that was asked for stays whatever the time.

        Instead of a plan without error int8 must be clearly faster, as everywhere.
        """
        after, names = networks["after"], ["after"]
        asked_for = self._request.precision == "int8" and is_int8(after, size)
        if not is_dense(after, size) and not asked_for:
            names += ["own_dense", "exact"]
        fastest = max(names, key=lambda name: _rate(times[name]))
        if "int8_dense" in networks:
            gain = times["int8_dense"].speed_up_over(times[fastest]).median
            if gain > (MUST_GAIN if is_exact(networks[fastest], size) else 1.0):
                fastest = "int8_dense"
        same = plan_of(networks[fastest], size) == plan_of(after, size)
        return "after" if same else fastest

    def _batch_report(
        self, size: int, result: Network, times: dict[str, timing.Timing], choice: Choice
    ) -> BatchReport:
        layers = self._layer_reports(size, result, choice)
        return BatchReport(
            rows=size,
            layers=layers,
            seconds_dense=times["dense"].round_seconds_per_row,
            seconds_exact=times["exact"].round_seconds_per_row,
            seconds_after=times["after"].round_seconds_per_row,
            over_dense=times["after"].speed_up_over(times["dense"]),
            over_exact=times["after"].speed_up_over(times["exact"]),
            predicted_speed_up=_predicted_speed_up(layers),
        )

    def _layer_reports(self, size: int, result: Network, choice: Choice) -> tuple[LayerReport, ...]:
        large = self._problem.is_large
        rows = cycled(self._problem.split.check, min(max(size, 256), _PROFILE_ROWS))
        # Single rows of large networks take tens of milliseconds each.
        rows = rows[: min(max(size, LAYER_ROWS), _PROFILE_ROWS) if large else MOST_ROWS]
        few = rows[: LAYER_ROWS if large else _PROFILE_ROWS]
        # Shares are of all rows, times of the same few before and after.
        shares = result.profile(rows, batch_size=size, seconds=0.0).layers
        before, after = (
            network.profile(few, batch_size=size, seconds=_PROFILE_SECONDS).layers
            for network in (self._problem.base.dense(), result)
        )
        return tuple(
            _layer_report(
                shares[i],
                computed=layer.outputs if layer.kept_units is None else len(layer.kept_units),
                estimator=choice[i].estimator if shares[i].rank is not None else None,
                before=before[i].seconds_per_row,
                after=after[i].seconds_per_row,
            )
            for i, layer in enumerate(result.layers)
        )

    # Errors

    def _report(
        self,
        best: Trial,
        tried: Sequence[Trial],
        network: Network,
        batches: tuple[BatchReport, ...],
        found: Found,
        begin: float,
    ) -> OptimizeReport:
        """The report: its errors are those that the check showed, of the worst batch size."""
        request, split = self._request, self._problem.split
        shown = self._shown(best, tried, network)
        level = request.confidence
        worst = max(shown, key=lambda each: each.upper(level), default=None)
        checker = self._check.checker
        error = checker.error(checker.dense) if worst is None else worst.plain
        return OptimizeReport(
            batches=batches,
            measure=checker.measure,
            error_before=error.before,
            error_after=error.after,
            error_increase=error.increase,
            error_increase_low=error.low,
            error_increase_high=error.high,
            expected_increase=0.0 if worst is None else worst.estimate,
            increase_bound=0.0 if worst is None else worst.upper(level),
            confidence=level,
            budget=request.budget,
            worst_row_error=max((each.worst for each in shown), default=0.0),
            max_row_error=request.max_row_error,
            checks=tuple(self._check.checks),
            prune=request.prune,
            rows_fitted=split.rows_fitted,
            rows_tuned=int(split.tune.shape[0]),
            rows_checked=self._check.rows,
            dead_units=tuple(int(mask.sum()) for mask in found.proven_off),
            dropped_units=tuple(int(mask.sum()) for mask in found.never_on),
            units_speed_up=found.units_speed_up,
            units_reordered=found.units_reordered,
            num_threads=request.threads,
            machine=machine.fingerprint(),
            seed=request.seed,
            seconds=time.perf_counter() - begin,
            notes=(
                *self._problem.notes,
                *_unit_notes(found),
                *self._margin_notes(network),
                *_verdict(network, found),
            ),
        )

    def _margin_notes(self, network: Network) -> list[str]:
        """How many rows each least margin recomputes, on the rows that choose."""
        sizes: dict[tuple[float, str], list[int]] = {}
        for plan in plans_of(network):
            if plan.least_margin:
                how = "in f32" if plan.int8_margin is None else "in int8 without gates and factors"
                if plan.int8_margin:
                    how += f", and below {plan.int8_margin:.3g} in f32"
                sizes.setdefault((plan.least_margin, how), []).append(plan.rows)
        notes = []
        for (least, how), of_margin in sizes.items():
            shares = [
                float(only_plan(network, size).engine.recomputed(self._problem.split.tune).mean())
                for size in of_margin
            ]
            everywhere = len(of_margin) == len(network.plan)
            where = "" if everywhere else f", in calls of {_listed(of_margin)}"
            notes.append(
                f"rows with a margin below {least:.3g} are recomputed {how}{where}: "
                f"{max(shares):.2%} of the rows that choose, with those out of range"
            )
        return notes

    def _shown(self, best: Trial, tried: Sequence[Trial], network: Network) -> list[Evidence]:
        """The check's evidence for each batch plan that is not exact."""
        known = _evidence(best, tried)
        shown = [
            known[plan_key(network, size)]
            for size in distinct_sizes(network)
            if best.pruned or not is_exact(network, size)
        ]
        if not all(self._check.keeps(evidence) for evidence in shown):
            raise RuntimeError("a network would be returned that failed its check")
        return shown


def _up_to(best: Trial, tried: Sequence[Trial]) -> list[Trial]:
    """The best trial and those that were shown before it; it alone if it needed no check."""
    return [*tried[: tried.index(best)], best] if best in tried else [best]


def _evidence(best: Trial, tried: Sequence[Trial]) -> dict[str, Evidence]:
    """The evidence of the check for the plans of the best trial and of those before it."""
    known: dict[str, Evidence] = {}
    for trial in _up_to(best, tried):
        known |= trial.evidence
    return known


def _dense_int8(best: Trial, tried: Sequence[Trial], size: int) -> Network | None:
    """The network with a dense plan in int8 for `size` rows, if its error was shown.

    Its layers in int8 are those of a plan that was shown, of the best trial if it has any.
    """
    plan = plan_of(best.network, size)
    if "int8" in plan.precisions and set(plan.strategies) == {"dense"}:
        return None
    known, dense = _evidence(best, tried), ("dense",) * len(plan.strategies)
    trials = _up_to(best, tried)[::-1]
    shown = [(trial, each) for trial in trials for each in plans_of(trial.network)]
    margins = sorted({each.least_margin or 0.0 for _, each in shown})
    for trial, each in shown:
        if "int8" not in each.precisions or not _has_int8_of(best.network, trial.network, each):
            continue
        for least in margins:
            if least <= best.network.least_margin:
                rival = BatchPlan(size, dense, each.precisions, least)
                network = with_plan(best.network, [rival])
                if plan_key(network, size) in known:
                    return network
    return None


def _has_int8_of(network: Network, other: Network, plan: BatchPlan) -> bool:
    """Whether the network has the quantizations that `other` uses under its plan."""
    return all(
        precision != "int8" or mine.quantization is its.quantization
        for precision, mine, its in zip(plan.precisions, network.layers, other.layers, strict=True)
    )


def _listed(sizes: Sequence[int]) -> str:
    """``"1 and 16 rows"``."""
    *first, last = map(str, sizes)
    text = f"{', '.join(first)} and {last}" if first else last
    return f"{text} row" if text == "1" else f"{text} rows"


def _rate(times: timing.Timing) -> float:
    return 1.0 / times.round_seconds_per_row


def _layer_report(
    layer: LayerProfile, *, computed: int, estimator: str | None, before: float, after: float
) -> LayerReport:
    return LayerReport(
        inputs=layer.inputs,
        outputs=layer.outputs,
        computed_units=computed,
        strategy=layer.strategy,
        precision=layer.precision,
        rank=layer.rank,
        estimator=estimator,
        computed_share=layer.computed_share,
        recall=layer.recall,
        lost_energy=layer.lost_energy,
        density_in=layer.density_in,
        density_out=layer.density_out,
        flop_share=layer.flop_share,
        seconds_before=before,
        seconds_after=after,
    )


def _predicted_speed_up(layers: Sequence[LayerReport]) -> float:
    """The speed-up over dense by the paper's model of cost."""
    costs = [layer.inputs * layer.outputs for layer in layers]
    shares = [_paper_share(layer) for layer in layers]
    return sum(costs) / sum(cost * share for cost, share in zip(costs, shares, strict=True))


def _paper_share(layer: LayerReport) -> float:
    """A layer's cost relative to dense, by the paper's model, which knows gates alone."""
    if layer.rank is None or "gate" not in layer.strategy:
        return 1.0
    d, h = layer.inputs, layer.outputs
    return layer.rank * (d + h) / (d * h) + layer.computed_share


def _unit_notes(found: Found) -> list[str]:
    notes = []
    if any(mask.any() for mask in found.proven_off):
        notes.append(
            "units proven off on input_range are left out: rows outside it may give other "
            "results than the full network"
        )
    if any(mask.any() for mask in found.never_on):
        notes.append(
            "units never on in these rows are left out: rows that switch them on give other "
            'results than the full network, in f32 too; prune="proven" keeps them'
        )
    return notes


def _verdict(network: Network, found: Found) -> list[str]:
    if all(is_dense(network, plan.rows) for plan in network.plan):
        return ["nothing is faster than dense here: the plan is dense"]
    if found.gates_tried and not approximate_layers(network):
        return ["no gate or factors pay within the budget here"]
    return []

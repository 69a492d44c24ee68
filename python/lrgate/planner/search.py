"""The search for the fastest network within an error budget.

In short:

1. Rows are split in three: estimators are fitted on the first part, thresholds, plans and times
   chosen on the first two, and the promise is checked on the third, which chooses nothing.
2. Consecutive linear layers are multiplied out, and negligible weights set to zero. Units that
   cannot be on are left out; the others are put in an order in which units that are on together
   are next to each other. Layers become int8, except those that cost too much error.
3. Each layer gets candidates: gates of several ranks and thresholds, and factors of several
   ranks, without and with a nested gate, each with its lost energy and its time at every batch
   size. Those that another one beats in both are dropped; the divergence of the network's outputs
   is measured for each of the others alone.
4. Time and divergence of a choice are taken as sums over the layers. Of all choices, those stay
   that no other one beats in both; on the second part of the rows the fastest of them is taken that
   the third is likely to show within the budget, for several least margins, and with close rows
   recomputed in f32 or in int8. Where int8 is little faster than f32, choices in f32 are tried,
   too.
5. Whole calls decide, for each batch size, which gates and factors are used.
6. The networks found are tried on the third part, from the least divergent to the fastest, each as
   it would be returned. The first that is not shown to keep the budget ends it (fixed-sequence
   testing: Angelopoulos et al., "Learn then Test", 2021), and the one before it is the result.
7. The result is raced on the third part with dense, and with dense int8 whose error was shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np

from lrgate.model.layer import Factors
from lrgate.network import Network
from lrgate.planner.budget import CLOSE_SHARES, BudgetCheck, Trial
from lrgate.planner.candidates import Choice, names_of, parts_of
from lrgate.planner.clock import Clock
from lrgate.planner.evaluation import Recomputed
from lrgate.planner.evidence import Evidence
from lrgate.planner.gates import GateSearch
from lrgate.planner.plans import (
    approximate_layers,
    is_int8,
    plans_of,
    with_int8_margins,
    with_kept_units,
    with_parts_in_use,
    with_plan,
)
from lrgate.planner.precision import fastest_exact, fastest_without_gates
from lrgate.planner.problem import Problem
from lrgate.planner.pruning import (
    Masks,
    co_active_units,
    never_on_units,
    none_of,
    proven_off_units,
    units_without,
)
from lrgate.planner.reporting import Found, Reporter
from lrgate.planner.signals import layer_inputs
from lrgate.types import Float32Array

__all__ = [
    "Search",
]


# Shares of the budget that int8 leaves, for which gates are chosen in this order; the first ones
# cost less speed where the later ones cannot be shown.
_BUDGET_SHARES: Final = (0.2, 0.5, 1.0)


# Gates and factors are also tried in f32 where int8 without them is less than this many times as
# fast as f32.
_INT8_GAIN: Final = 1.6


class _Use(NamedTuple):
    """How a choice of gates and factors is used.

    Attributes
    ----------
    least : float
        The least margin of rows that are not recomputed.
    recomputed : str
        The precision of recomputed rows. ``"int8"``: without gates and factors at the precisions of
        the plan.
    base : str
        ``"plain"``: in the fastest plan without gates and factors; ``"f32"``: in the exact one.
    """

    least: float
    recomputed: str
    base: str = "plain"


class _Outputs(NamedTuple):
    """The outputs of a choice under each distinct batch plan, and its least margins.

    Close rows get the outputs in `recomputed` if the plan without gates recomputes them.
    """

    outputs: list[Float32Array]
    recomputed: list[Recomputed | None]
    margins: list[float]


class Search:
    """One run of `optimize`."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.clock = Clock(problem)
        self.check = BudgetCheck(problem)
        self.units_speed_up: float | None = None
        self.choices: dict[str, list[Choice]] | None = None
        self._known: dict[tuple[int, str], _Outputs] = {}

    def run(self, begin: float) -> Network:
        """The whole search, which began at the time `begin`."""
        self.problem.step("looking at the units")
        self._prune()
        self.problem.step("measuring dense and skip")
        self._plan_without_gates()
        best, tried = self._best_shown()
        self.problem.step("reporting")
        found = Found(
            proven_off=self.proven_off,
            never_on=self.never_on,
            units_speed_up=self.units_speed_up,
            units_reordered=self.reordered,
            gates_tried=self.choices is not None,
        )
        return Reporter(self.problem, self.clock, self.check).finished(best, tried, found, begin)

    # Without gates

    def _prune(self) -> None:
        """Finds the units to leave out and the order of the others."""
        split, base = self.problem.split, self.problem.base
        self.signals = layer_inputs(base, split.fit), layer_inputs(base, split.tune)
        self.proven_off = proven_off_units(self.problem)
        self.never_on = self._likely_never_on()
        self.natural = units_without(self.proven_off, self.never_on)
        self.units, self.always = co_active_units(self.problem, self.signals[0], self.natural)

    def _likely_never_on(self) -> Masks:
        """Units never on, if enough rows check to show the cost of leaving them out."""
        notes, request = self.problem.notes, self.problem.request
        if request.prune == "never_on" and request.budget == 0:
            notes.append("a budget of 0 keeps units that were never on")
        silent = never_on_units(self.problem, self.proven_off)
        if not any(mask.any() for mask in silent):
            return silent
        self.check.pruned = True
        kept = units_without(self.proven_off, silent)
        found = self.check.evidence(with_kept_units(self.problem.base, kept))
        if self.check.likely(found):
            return silent
        self.check.pruned = False
        notes.append(f"units that were never on are kept: {self.check.unlikely(found)}")
        return none_of(silent)

    def _plan_without_gates(self) -> None:
        """Finds the fastest plans without gates, and whether the order of units pays."""
        core = with_kept_units(self.problem.base, self.units)
        exact = fastest_exact(core, self.clock)
        *self.safer, (_, plain) = fastest_without_gates(
            core, exact, self.problem, self.clock, self.check
        )
        self.core, self.exact, self.plain = core, exact, plain
        self.reordered = False
        pairs = zip(self.units, self.natural, strict=True)
        if not self.problem.is_large and not all(np.array_equal(a, b) for a, b in pairs):
            self.units_speed_up = self.clock.units_speed_up(exact, self.natural)
            self.reordered = self.clock.units_pay(plain, self.natural)

    # Trials

    def _best_shown(self) -> tuple[Trial, list[Trial]]:
        """The last trial that is shown to keep the budget, and those that were checked."""
        best = None if self.check.pruned else self._trial("f32 without gates", self.exact, {})
        tried = []
        for trial in self._trials():
            tried.append(trial)
            if not self.check.passes(trial):
                break
            best = trial
        self._known.clear()
        return best or self._all_units(), tried

    def _trials(self) -> Iterator[Trial]:
        """The networks to check, from the least divergent to the fastest, made when needed."""
        if self.check.pruned:
            yield self._trial("units never on left out", self.exact, {})
        for name, network in self.safer:
            yield self._trial(f"{name}, without gates", network, {})
        if any(is_int8(self.plain, size) for size in self.clock.sizes):
            yield self._trial("int8 without gates", self.plain, {})
        if self.problem.request.budget > 0:
            yield from self._gated_trials()

    def _gated_trials(self) -> Iterator[Trial]:
        before: tuple[Choice, _Use] | None = None
        for share, prudent in self._shares():
            found = self._fastest_within(share, before, prudent)
            if found is not None and found is not before:
                before = choice, use = found
                network = self._with_choice(choice, use)
                if approximate_layers(network):
                    name = f"{_kinds(choice)} for {share:.0%} of the budget"
                    name += ", chosen prudently" if prudent else ""
                    yield self._trial(name, network, choice)

    def _shares(self) -> list[tuple[float, bool]]:
        """Shares of the budget for gates and factors, and whether those are chosen prudently.

        The first that fails ends the check. So before the smallest share come prudent choices for
        the same one, which are no more divergent, unless int8 leaves nothing.
        """
        taken = min(self.check.least_share(self.check.evidence(self.plain)), 1.0)
        shares = sorted({1.0 - (1.0 - part) * (1.0 - taken) for part in _BUDGET_SHARES})
        prudent = [(shares[0], True)] if taken < 1.0 else []
        return prudent + [(share, False) for share in shares]

    def _trial(self, name: str, network: Network, choice: Choice) -> Trial:
        """The network as it would be returned: with the units in the order that pays."""
        if not self.reordered:
            network = with_kept_units(network, self.natural)
        exact = with_plan(network, plans_of(self.exact))
        return Trial(name, network, exact, choice, self.check.pruned)

    def _all_units(self) -> Trial:
        """The exact network of all units that are not proven off."""
        self.check.pruned, self.reordered = False, False
        self.never_on = none_of(self.never_on)
        if self.problem.request.precision != "f32":
            self.problem.notes.append('all units are kept, in f32: prune="proven" also tries int8')
        core = with_kept_units(self.problem.base, units_without(self.proven_off))
        exact = fastest_exact(core, self.clock)
        return Trial("f32 without gates", exact, exact, {}, False)

    # Choices of gates and factors

    def _fastest_within(
        self, share: float, before: tuple[Choice, _Use] | None, prudent: bool = False
    ) -> tuple[Choice, _Use] | None:
        """The fastest choice that is likely to keep a share of the budget, and its use.

        `prudent`: allowing for larger perturbations than the rows that choose have.
        It is the one `before`, of a smaller share, if that is not slower. Where there is none, a
        note says why.
        """
        if self.choices is None:
            bases = {way.base: self._base(way.base) for way in self._ways}
            gates = GateSearch(
                self.problem, self.clock, self.core, bases, self.signals, self.always
            )
            self.choices = gates.choices()
        # With larger least margins faster choices are within the budget, but more rows are
        # recomputed. In f32 that repairs more, in int8 it takes less time.
        found: dict[Any, tuple[Choice, _Use]] = {}
        for way in self._ways:
            choices = self.choices[way.base]
            end = len(choices)
            for k in range(1 + len(CLOSE_SHARES) if choices and self.check.may_recompute else 1):
                end = self._first_within(share, k, way, end, prudent)
                if end < len(choices):
                    least = self._outputs(end, way.base).margins[k]
                    use = way if least else way._replace(recomputed="f32")
                    key = names_of(choices[end]), use
                    found.setdefault(key, (choices[end], use._replace(least=least)))
        ways = [way._replace(recomputed="f32") for way in self._ways if self.choices[way.base]]
        if found:
            return self._fastest(list(found.values()), before)
        if ways and share == 1.0:
            self.problem.notes.append(
                "no gate or factors are used, not even the least divergent: "
                f"{self.check.unlikely(self._evidence(-1, -1, ways[-1]))}"
            )
        return before

    @cached_property
    def _ways(self) -> list[_Use]:
        """The ways to use a choice, apart from the least margin."""
        ways = [_Use(0.0, "f32")]
        if any(is_int8(self.plain, size) for size in self.clock.sizes):
            if self.check.may_recompute:
                ways.append(_Use(0.0, "int8"))
            may_be_f32 = self.problem.request.precision != "int8"
            if may_be_f32 and min(self.clock.speed_ups(self.plain, self.exact)) < _INT8_GAIN:
                ways.append(_Use(0.0, "f32", "f32"))
        return ways

    def _base(self, name: str) -> Network:
        """The network that gates and factors are added to."""
        if name == "plain":
            return self.plain
        return with_plan(self.plain.with_least_margin(0.0), plans_of(self.exact))

    def _first_within(self, share: float, k: int, way: _Use, end: int, prudent: bool) -> int:
        """The first choice that is likely to keep a share with its `k`-th least margin.

        With smaller ones, the choices from `end` on are. Bisection looks at few choices: the
        fastest likely one of all would often be likely by chance.
        """
        first = 0
        while first < end:
            middle = (first + end) // 2
            if self.check.likely(self._evidence(middle, k, way), share, prudent=prudent):
                end = middle
            else:
                first = middle + 1
        return end

    def _evidence(self, at: int, k: int, way: _Use) -> list[Evidence]:
        """The evidence for a choice with its `k`-th least margin."""
        of_choice = self._outputs(at, way.base)
        recomputed = of_choice.recomputed if way.recomputed == "int8" else None
        return self.check.evidence_of(of_choice.outputs, of_choice.margins[k], recomputed)

    def _outputs(self, at: int, base: str) -> _Outputs:
        """The outputs of a choice on the rows that choose, and its least margins.

        No least margin is below that of the plan without gates and factors.
        """
        assert self.choices is not None
        choices = self.choices[base]
        at %= len(choices)
        if (at, base) not in self._known:
            plain = self._base(base)
            network = with_parts_in_use(plain, parts_of(choices[at])).with_least_margin(0.0)
            outputs = self.check.outputs(network)
            self._known[at, base] = _Outputs(
                outputs,
                self.check.recomputed(with_int8_margins(network, plain)),
                [max(plain.least_margin, each) for each in self.check.least_margins(outputs)],
            )
        return self._known[at, base]

    def _fastest(
        self, found: list[tuple[Choice, _Use]], before: tuple[Choice, _Use] | None
    ) -> tuple[Choice, _Use]:
        """The choice that is fastest in whole calls with its use, over all batch sizes.

        Where it is slower than the plan without gates, that one will be used.
        """
        ways = {str(i): one for i, one in enumerate(found)}
        if before is not None:
            same = [i for i, one in ways.items() if _is_same(one, before)]
            # The same choice is not raced with itself.
            ways = ways | dict.fromkeys(same, before) if same else {"before": before, **ways}
        if len(ways) == 1 and (before is not None or not found[0][1].least):
            return next(iter(ways.values()))
        networks = {name: self._used(*one) for name, one in ways.items()}
        return ways[self.clock.fastest(networks, self.plain)]

    def _with_choice(self, choice: Choice, use: _Use) -> Network:
        """The plan with gates and factors at the batch sizes at which they pay.

        At the others it is the plan without them, with its own least margin.
        """
        tuned = self.clock.tuned(self._used(choice, use))
        most = max(tuned.least_margin, self.plain.least_margin)
        return self.clock.settled(tuned.with_least_margin(most), plain=self.plain, fast=tuned)

    def _used(self, choice: Choice, use: _Use) -> Network:
        """The plan with gates and factors, and a least margin, at all batch sizes."""
        plain = self._base(use.base)
        network = with_parts_in_use(plain, parts_of(choice)).with_least_margin(use.least)
        return with_int8_margins(network, plain) if use.recomputed == "int8" else network


def _is_same(one: tuple[Choice, _Use], other: tuple[Choice, _Use]) -> bool:
    return (names_of(one[0]), one[1]) == (names_of(other[0]), other[1])


def _kinds(choice: Choice) -> str:
    """``"gates"``, ``"factors"``, or both."""
    factors = [isinstance(part, Factors) for part in parts_of(choice).values()]
    return " and ".join(["gates"] * (not all(factors)) + ["factors"] * any(factors))

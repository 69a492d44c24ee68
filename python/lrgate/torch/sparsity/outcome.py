"""The check of the networks that were found, and the report."""

from __future__ import annotations

from typing import Any, Final

from lrgate.planner.calibration import Calibration
from lrgate.planner.evaluation import Evaluator
from lrgate.results.sparsification import SparseLayer, SparsifyReport
from lrgate.torch.sparsity.costs import sparsity_of
from lrgate.torch.sparsity.problem import Problem
from lrgate.torch.sparsity.search import Search

__all__ = ["Outcome"]

# Each network that is checked takes at least this many times as long as the next one: every check
# can fail by chance, and the first that does ends them.
_APART: Final = 1.5

_MOST_ROWS: Final = 10_000


class Outcome:
    """The network to return, and its report."""

    def __init__(self, problem: Problem, search: Search) -> None:
        self._problem, self._progress = problem, search.progress
        parts = problem.parts
        self._checker = Evaluator(
            problem.net, parts.check, parts.check_targets, calibration=Calibration()
        )
        self.network = problem.net
        self._bound = 0.0
        self._check(search)

    def _check(self, search: Search) -> None:
        """From the slowest to the fastest, until one is not shown to keep the budget.

        The fixed order allows each check at the full level.
        """
        problem = self._problem
        for state in self._candidates():
            network = search.student(state).network(problem.net)
            bound = self._checker.counted_bound(
                network.forward(problem.parts.check), problem.confidence
            )
            if bound > problem.budget:
                problem.notes.append(
                    "a faster network was not shown to keep the budget: the upper bound is "
                    f"{100 * bound:.2g} points, {100 * problem.budget:.2g} allowed"
                )
                break
            self.network, self._bound = network, bound
        if self.network is problem.net:
            problem.notes.append(f"the network is the given one: {self._reason()}")

    def _candidates(self) -> list[dict[str, Any]]:
        """Networks that kept the budget on the rows that choose, from the slowest to the fastest.

        The fastest is one of them.
        """
        times = [each.time for each in self._progress.rounds if each.kept and each.time is not None]
        found: list[dict[str, Any]] = []
        least = 0.0
        for state, time in reversed(list(zip(self._progress.kept, times, strict=True))):
            if time >= least:
                found.insert(0, state)
                least = _APART * time
        return found

    def _reason(self) -> str:
        problem, progress = self._problem, self._progress
        if problem.budget == 0:
            return "with a budget of 0, nothing may change"
        if progress.kept:
            return "the rows that check do not show that a faster one keeps the budget"
        if not progress.rounds and progress.done:
            return "the training did not converge: lower learning_rate"
        if not progress.rounds:
            return "there were no epochs left for a round of training"
        best = min((r.bound for r in progress.rounds if r.bound is not None), default=None)
        if best is None:
            return "the training did not converge: lower learning_rate"
        if best <= problem.budget:
            return "no faster one was found"
        # Where the search has ended, further epochs would not be used.
        more = "rows" if progress.done else "rows or epochs"
        return (
            f"on the rows that choose, the lowest upper bound is {100 * best:.2g} points, "
            f"{100 * problem.budget:.2g} allowed. A larger budget or more {more} may help"
        )

    def report(self) -> SparsifyReport:
        """The report of the call."""
        problem, progress = self._problem, self._progress
        parts = problem.parts
        some = parts.check[:_MOST_ROWS]
        before, after = (sparsity_of(each, some) for each in (problem.net, self.network))
        error = self._checker.error(self.network.forward(parts.check))
        layers = tuple(
            SparseLayer(str(old.activation), str(new.activation), *counts, *densities)
            for old, new, counts, densities in zip(
                problem.net.layers[:-1],
                self.network.layers[:-1],
                zip(before.units[:-1], after.units[:-1], strict=True),
                zip(before.densities, after.densities, strict=True),
                strict=True,
            )
        )
        return SparsifyReport(
            layers=layers,
            measure=self._checker.measure,
            error_before=error.before,
            error_after=error.after,
            error_increase=error.increase,
            error_increase_low=error.low,
            error_increase_high=error.high,
            increase_bound=self._bound,
            confidence=problem.confidence,
            budget=problem.budget,
            work_before=before.work,
            work_after=after.work,
            relufied_increase=progress.relufied_increase,
            rounds=tuple(progress.rounds),
            rows_trained=parts.train.shape[0],
            rows_chosen=parts.choose.shape[0],
            rows_checked=parts.check.shape[0],
            epochs=progress.epochs,
            seed=problem.seed,
            seconds=progress.seconds,
            notes=tuple(problem.notes),
        )

"""The error budget: whether rows show that a network keeps it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from lrgate.model.model import HAVE_MARGINS
from lrgate.model.odds import log_odds, margin_of_share, margins_of_rows
from lrgate.network import Network
from lrgate.planner.calibration import Calibration, calibrated
from lrgate.planner.candidates import Choice
from lrgate.planner.evaluation import Evaluator, Recomputed
from lrgate.planner.evidence import Evidence
from lrgate.planner.plans import (
    distinct_sizes,
    is_exact,
    least_margin_of,
    only_plan,
    plan_key,
    plan_of,
    recomputing,
)
from lrgate.planner.problem import Problem
from lrgate.planner.split import CHECK_SHARE, MOST_ROWS
from lrgate.results.optimization import CheckReport
from lrgate.types import Float32Array

__all__ = [
    "CLOSE_SHARES",
    "COSTS_TOO_MUCH",
    "BudgetCheck",
    "Trial",
]


# Extra standard errors required when choosing, so that the check is likely to pass: its estimate
# and that of the rows that choose, which are half as many, differ by 1.7 of its standard errors.
# Prudent choices also spare as many standard deviations of the largest perturbation.
_SPARE: Final = 1.5
_ROW_SPARE: Final = 0.8

# Shares of the rows that may be recomputed because their label is uncertain.
CLOSE_SHARES: Final = (0.005, 0.01, 0.02, 0.04)

COSTS_TOO_MUCH: Final = "the error grows too much"
"""The reason in notes of the report for parts that would exceed the budget."""


@dataclass(frozen=True, eq=False)
class Trial:
    """A network to check, as it would be returned.

    Attributes
    ----------
    name : str
        For the report.
    network : Network
    exact : Network
        The same units in f32 without gates.
    choice : Choice
        The gates.
    pruned : bool
        Whether units are left out that other rows may switch on.
    evidence : dict from plan key to Evidence
        The result of the check for each batch plan.
    """

    name: str
    network: Network
    exact: Network
    choice: Choice
    pruned: bool
    evidence: dict[str, Evidence] = field(default_factory=dict)


class BudgetCheck:
    """Evaluates networks: on the rows that choose at any time, on those that check in `passes`.

    Attributes
    ----------
    pruned : bool
        Whether the networks leave out units that other rows may switch on.
    rows : int
        Rows that check.
    checks : list of CheckReport
        The checks so far.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._request = problem, problem.request
        self.rows = int(problem.split.check.shape[0])
        self.checks: list[CheckReport] = []
        self.pruned = False
        self.chooser = self._chooser()
        self._checker: Evaluator | None = None

    def _chooser(self) -> Evaluator:
        """The evaluator on the rows that choose, calibrated by all labels but those that check."""
        user, split = self._problem.user, self._problem.split
        fitted = user.forward(split.fit)
        calibration = Calibration()
        if split.tune_targets is not None and user.task != "regression":
            outputs = np.concatenate([user.forward(split.tune), fitted])
            assert split.fit_targets is not None
            targets = np.concatenate([split.tune_targets, split.fit_targets])
            activation = user.layers[-1].activation.name
            calibration = calibrated(outputs, targets, user.task, activation)
        return Evaluator(
            user,
            split.tune,
            split.tune_targets,
            others=fitted,
            other_targets=split.fit_targets,
            calibration=calibration,
        )

    @property
    def checker(self) -> Evaluator:
        """The evaluator on the rows that check."""
        if self._checker is None:
            split = self._problem.split
            fitted, tuned = split.fit_targets, split.tune_targets
            self._checker = Evaluator(
                self._problem.user,
                split.check,
                split.targets,
                others=self.chooser.all,  # the dense outputs on the other rows
                other_targets=None
                if fitted is None or tuned is None
                else np.concatenate([fitted, tuned]),
                calibration=self.chooser.calibration,
            )
        return self._checker

    # The rows that choose

    def evidence(self, network: Network) -> list[Evidence]:
        """The evidence of the rows that choose for each of the network's batch plans."""
        raw, rows = network.with_least_margin(0.0), self._problem.split.tune
        return [
            self.chooser.evidence(
                only_plan(raw, size).forward(rows),
                unseen=self.pruned,
                least_margin=least_margin_of(network, size),
                recomputed=_recomputed(network, size, rows),
            )
            for size in distinct_sizes(network)
        ]

    def outputs(self, network: Network) -> list[Float32Array]:
        """The outputs of each of the network's batch plans, in which no row is recomputed.

        For networks with one least margin.
        """
        rows, network = self._problem.split.tune, network.with_least_margin(0.0)
        return [only_plan(network, size).forward(rows) for size in distinct_sizes(network)]

    def recomputed(self, network: Network) -> list[Recomputed | None]:
        """The outputs of close rows under each of the batch plans; None: the dense outputs.

        For networks without a least margin, so that there is one for each of `outputs`.
        """
        rows = self._problem.split.tune
        return [_recomputed(network, size, rows) for size in distinct_sizes(network)]

    def evidence_of(
        self,
        outputs: list[Float32Array],
        least_margin: float,
        recomputed: list[Recomputed | None] | None = None,
    ) -> list[Evidence]:
        """The evidence for a network with these `outputs`, of each batch plan."""
        named: dict[str, Any] = {"unseen": self.pruned, "least_margin": least_margin}
        again = [None] * len(outputs) if recomputed is None else recomputed
        return [
            self.chooser.evidence(each, recomputed=other, **named)
            for each, other in zip(outputs, again, strict=True)
        ]

    def least_margins(self, outputs: list[Float32Array]) -> list[float]:
        """Least margins with which a few rows are recomputed, from 0 on.

        None is above the largest perturbation: more would only recompute more rows, which may be
        many where later rows have smaller margins than these.
        """
        if not self.may_recompute:
            return [0.0]
        task, last = self.chooser.task, self.chooser.activation
        margins = [margins_of_rows(log_odds(y, last), task, last) for y in outputs]
        reach = max(evidence.largest for evidence in self.evidence_of(outputs, 0.0))
        found = [max(margin_of_share(m, share) for m in margins) for share in CLOSE_SHARES]
        limited = (float(np.float32(max(min(least, reach), 0.0))) for least in found)
        return [0.0, *itertools.accumulate(limited, max)]

    @property
    def may_recompute(self) -> bool:
        """Whether a least margin may be used.

        Not where units are left out: recomputed rows lack them too.
        """
        labels = self.chooser.task != "regression" and self.chooser.activation in HAVE_MARGINS
        return labels and not self.pruned

    def likely(
        self,
        found: list[Evidence],
        share: float = 1.0,
        spare: float = _SPARE,
        prudent: bool = False,
    ) -> bool:
        """Whether the rows that check are likely to show that a share of the budget is kept.

        `spare`: standard errors to spare. `prudent`: allowing for larger perturbations than seen.
        """
        level = self._request.confidence
        return self._rows_fit(found) and all(
            evidence.upper(level, self.rows, spare, prudent) <= share * self._request.budget
            for evidence in found
        )

    def least_share(self, found: list[Evidence]) -> float:
        """The least share of a budget above 0 that is `likely`; infinity if none is."""
        if not self._rows_fit(found):
            return math.inf
        level, budget = self._request.confidence, self._request.budget
        return max(evidence.upper(level, self.rows, _SPARE) for evidence in found) / budget

    def _rows_fit(self, found: list[Evidence]) -> bool:
        """Whether no row is near `max_row_error`."""
        most = self._request.max_row_error
        return most is None or all(evidence.worst <= _ROW_SPARE * most for evidence in found)

    def clear(self, found: list[Evidence]) -> bool:
        """Whether half of the budget is likely to be kept, whatever the noise of other targets."""
        level, half = self._request.confidence, 0.5 * self._request.budget
        return self.likely(found, 0.5) and all(
            evidence.upper(level, self.rows, _SPARE) - float(evidence.expected.mean()) <= half
            for evidence in found
        )

    def unlikely(self, found: list[Evidence]) -> str:
        """Why the rows that check are not likely to show that the budget is kept."""
        return self._reason(found, _SPARE, _ROW_SPARE)

    def with_margin(
        self, network: Network, spare: float = _SPARE
    ) -> tuple[Network, list[Evidence]]:
        """The network with the smallest least margin that makes it likely to keep the budget.

        Where counted errors take more than half of the budget, with a larger one: few rows show
        nothing, but those that check may contradict the bound. With none if none does. Also its
        evidence.
        """
        outputs = self.outputs(network)
        likely = None
        first = self.evidence_of(outputs, 0.0)
        for least in self.least_margins(outputs):
            found = self.evidence_of(outputs, least) if least else first
            if not self.likely(found, spare=spare):
                continue
            likely = likely or (least, found)
            if all(each.plain.increase <= 0.5 * self._request.budget for each in found):
                likely = least, found
                break
        least, found = likely or (0.0, first)
        return network.with_least_margin(least), found

    # The rows that check

    def passes(self, trial: Trial) -> bool:
        """Whether the rows that check show that every batch plan keeps the budget."""
        self._problem.step("checking")
        found = []
        for size in distinct_sizes(trial.network):
            if trial.pruned or not is_exact(trial.network, size):
                evidence = self._checked(trial.network, size, trial.pruned)
                trial.evidence[plan_key(trial.network, size)] = evidence
                found.append(evidence)
        failed = [evidence for evidence in found if not self.keeps(evidence)]
        level = self._request.confidence
        self.checks.append(
            CheckReport(
                network=trial.name,
                increase=max(each.estimate for each in found),
                upper=max(each.upper(level) for each in found),
                worst_row=max(each.worst for each in found),
                passed=not failed,
            )
        )
        if failed:
            reason = self._reason(failed, 0.0, 1.0)
            self._problem.notes.append(f"{trial.name}: not used, {reason}")
        return not failed

    def keeps(self, evidence: Evidence) -> bool:
        """Whether evidence of the rows that check shows that the budget is kept."""
        request = self._request
        return evidence.within(request.budget, request.confidence, request.max_row_error)

    def _checked(self, network: Network, size: int, pruned: bool) -> Evidence:
        split, raw = self._problem.split, only_plan(network.with_least_margin(0.0), size)
        least = least_margin_of(network, size)
        named: dict[str, Any] = {"unseen": pruned, "least_margin": least}
        tune, check = (_recomputed(network, size, rows) for rows in (split.tune, split.check))
        before = self.chooser.evidence(raw.forward(split.tune), recomputed=tune, **named)
        return self.checker.evidence(
            raw.forward(split.check), reach=before.largest, recomputed=check, **named
        )

    def _reason(self, found: list[Evidence], spare: float, row_spare: float) -> str:
        """Why a network is not used: its error, or the number of rows that would be enough."""
        budget, level = self._request.budget, self._request.confidence
        most = self._request.max_row_error
        worst = max(each.worst for each in found)
        if most is not None and worst > row_spare * most:
            return f"the worst row changes too much ({worst:.3g}, {most:g} allowed)"
        needed = [each.needed(budget, level, spare) for each in found]
        known = [count for count in needed if count is not None]
        if len(known) < len(needed) or any(each.lower(level) > budget for each in found):
            expected = max(
                max(each.estimate, each.plain.increase) if each.contradicted else each.estimate
                for each in found
            )
            return f"{COSTS_TOO_MUCH}, by about {_points(expected)}"
        total = max(known) / CHECK_SHARE
        if total > MOST_ROWS:
            total = max(known) + (1 - CHECK_SHARE) * MOST_ROWS
        return (
            f"{self.rows} held-out rows cannot show that the budget is kept; "
            f"about {_rounded(total):,} rows in total would"
        )


def _recomputed(network: Network, size: int, rows: Any) -> Recomputed | None:
    """The outputs of close rows in calls of `size` rows, if they are not recomputed in f32."""
    plan = plan_of(network, size)
    if plan.int8_margin is None:
        return None
    raw = only_plan(network.with_least_margin(0.0), size)
    return Recomputed(
        recomputing(network, size).forward(rows), plan.int8_margin, raw.engine.recomputed(rows)
    )


def _points(share: float) -> str:
    """A share in percentage points."""
    points = f"{100 * share:.2g}"
    return f"{points} point" if points == "1" else f"{points} points"


def _rounded(rows: float) -> int:
    """A number of rows with two digits, rounded up."""
    step = 10 ** max(int(math.log10(max(rows, 1))) - 1, 0)
    return int(math.ceil(rows / step) * step)

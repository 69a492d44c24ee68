"""The search for the strength at which the budget is just kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from lrgate.network import Network
from lrgate.planner.calibration import Calibration
from lrgate.planner.evaluation import Evaluator
from lrgate.results.sparsification import RoundReport
from lrgate.torch.sparsity.costs import Costs, Sparsity, sparsity_of
from lrgate.torch.sparsity.objective import Objective
from lrgate.torch.sparsity.problem import Problem
from lrgate.torch.sparsity.shedding import shed
from lrgate.torch.sparsity.student import Student
from lrgate.torch.sparsity.training import Schedule, Trainer

__all__ = ["Progress", "Search"]

_ROUND_EPOCHS: Final = 5
_RELUFY_ROUNDS: Final = 2

# The first strength, in budgets: a loss in nats is larger than the share of errors.
_FIRST: Final = {"classification": 5.0, "multilabel": 5.0, "regression": 1.0}

# A round that keeps the budget is followed by one of this strength, relative to it.
_GROWTH: Final = 4.0

# The smallest such factor: after it the strength stays, and the first failure ends the search.
_CLOSE: Final = 1.15

# After a round that does not, while none has kept the budget.
_RETREAT: Final = 0.25
_MOST_RETREATS: Final = 4

# Standard errors to spare on the rows that choose, so that the check is likely to pass.
_SPARE: Final = 0.5

# A kept network must take less than this share of the time of the last one.
_FASTER: Final = 0.995


@dataclass
class Progress:
    """The state of a search between two rounds, in JSON values and tensors.

    Attributes
    ----------
    seconds_per_product : tuple of float
        Of `Costs`.
    strength, growth : float
        Strength of the next round, and its factor if the budget is kept.
    base_strength : float
        That of the last kept round; 0 before the first.
    kept : list of dict
        States of the networks that kept the budget, each faster than the one before it.
    start : dict or None
        State of the network with which rounds begin while none has kept the budget; None if it is
        the given one.
    epochs : int
        Epochs so far.
    """

    seconds_per_product: tuple[float, ...]
    strength: float
    growth: float = _GROWTH
    base_strength: float = 0.0
    kept: list[dict[str, Any]] = field(default_factory=list)
    start: dict[str, Any] | None = None
    relufied_increase: float | None = None
    rounds: list[RoundReport] = field(default_factory=list)
    epochs: int = 0
    seconds: float = 0.0
    done: bool = False


class Search:
    """Rounds of training, each with the last network that kept the budget as its start.

    Parameters
    ----------
    problem : Problem
    progress : Progress, optional
        That of an interrupted search.
    """

    def __init__(self, problem: Problem, progress: Progress | None) -> None:
        net, parts = problem.net, problem.parts
        self._problem = problem
        # Counted errors need no calibration.
        self._evaluator = Evaluator(
            net, parts.choose, parts.choose_targets, calibration=Calibration()
        )
        if progress is None:
            costs = Costs.measured(net, parts.choose, sparsity_of(net, parts.choose))
            progress = Progress(costs.seconds, _FIRST[net.task] * problem.budget)
        self.progress = progress
        self._costs = Costs(progress.seconds_per_product)
        teacher = Student.of(net)
        outputs = net.forward(parts.train)
        self._objective = Objective(net.task, teacher, parts.train_targets, outputs)
        self._start = teacher.copy()
        self._replaced = self._start.relufy()
        problem.bar.update(progress.epochs)
        self._trainer = Trainer(
            parts.train, self._objective, problem.augment, lambda: problem.bar.update(1)
        )

    def run(self, save: Callable[[Progress], None]) -> None:
        """Rounds until the strength is found or the epochs are used up; `save` after each."""
        problem, progress = self._problem, self.progress
        each = min(_ROUND_EPOCHS, problem.epochs)
        begin = time.perf_counter()
        if self._replaced and progress.start is None:
            self._relufy(min(_RELUFY_ROUNDS * each, problem.epochs))
        while not progress.done and progress.epochs + each <= problem.epochs:
            now = time.perf_counter()
            progress.seconds += now - begin
            begin = now
            save(progress)
            self._round(each)
        progress.seconds += time.perf_counter() - begin
        save(progress)

    def _schedule(self, epochs: int) -> Schedule:
        return Schedule(epochs, self._problem.batch_size, self._problem.learning_rate)

    def _relufy(self, epochs: int) -> None:
        """Train the network while its activations go to ReLU."""
        self._seed()
        student, progress = self._start, self.progress
        nothing = [0.0] * len(student.units)
        schedule = self._schedule(epochs)
        progress.epochs += epochs
        if not self._trainer.train(student, schedule, nothing, nothing, relufy=True):
            progress.done = True
            return
        progress.start = student.state()
        outputs = self._network(student).forward(self._problem.parts.choose)
        progress.relufied_increase = self._evaluator.error(outputs).increase

    def student(self, state: dict[str, Any] | None) -> Student:
        """The student of a state; that with which the first round begins if it is None."""
        state = self.progress.start if state is None else state
        return self._start.copy() if state is None else self._start.restored(state)

    def _seed(self) -> None:
        seed = (self._problem.seed << 16) + len(self.progress.rounds)
        torch.default_generator.manual_seed(seed % (1 << 63))  # of no other device

    def _network(self, student: Student) -> Network:
        return student.network(self._problem.net)

    def _sparsity(self, student: Student) -> Sparsity:
        return sparsity_of(self._network(student), self._problem.parts.choose)

    def _round(self, epochs: int) -> None:
        self._seed()
        progress = self.progress
        student = self.student(progress.kept[-1] if progress.kept else None)
        strength = progress.strength
        before = self._sparsity(student)
        shed(student, self._objective, self._problem.parts.train, self._costs, before, strength)
        active = [*self._costs.of_active(student.units), 0.0]
        finite = self._trainer.train(
            student,
            self._schedule(epochs),
            [progress.base_strength * each for each in active],
            [strength * each for each in active],
        )
        progress.epochs += epochs
        report = self._judged(student, finite)
        progress.rounds.append(report)
        if report.kept:
            progress.kept.append(student.state())
            progress.base_strength = strength
        elif report.bound is not None and report.bound <= self._problem.budget:
            # It is not faster yet.
            if progress.base_strength == 0:
                progress.start = student.state()
            progress.done = progress.growth == 1
            progress.strength *= progress.growth
            return
        elif progress.base_strength == 0:
            # It has learnt more than the network with which it began.
            progress.start = student.state() if finite else progress.start
            progress.strength *= _RETREAT
            progress.done = len(progress.rounds) >= _MOST_RETREATS
            return
        elif progress.growth == 1:
            progress.done = True
        else:
            growth = math.sqrt(progress.growth)
            progress.growth = growth if growth >= _CLOSE else 1.0
        progress.strength = progress.base_strength * progress.growth

    def _judged(self, student: Student, finite: bool) -> RoundReport:
        """The report of a round that ended with this student."""
        strength, problem = self.progress.strength, self._problem
        if not finite:
            return RoundReport(strength, None, None, None, False)
        network = self._network(student)
        outputs = network.forward(problem.parts.choose)
        rows = problem.parts.check.shape[0]
        bound = self._evaluator.counted_bound(outputs, problem.confidence, rows, _SPARE)
        taken = self._costs.time(sparsity_of(network, problem.parts.choose))
        times = [each.time for each in self.progress.rounds if each.kept]
        least = min((time for time in times if time is not None), default=1.0)
        kept = bound <= problem.budget and taken < _FASTER * least
        increase = self._evaluator.error(outputs).increase
        return RoundReport(strength, taken, increase, bound, kept)

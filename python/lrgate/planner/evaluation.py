"""The error of a network's outputs, compared with the dense network's on the same rows."""

from __future__ import annotations

import math
from functools import cached_property
from statistics import NormalDist
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from lrgate.model.odds import log_odds, margins_of_rows, of_two
from lrgate.network import Network
from lrgate.planner.calibration import Calibration, calibrated, margins_of
from lrgate.planner.divergence import variance_of
from lrgate.planner.evidence import Evidence, Increase, Pairs
from lrgate.types import Float32Array, Float64Array

__all__ = [
    "Evaluator",
    "Recomputed",
]


# A classifier's margins are computed for this many of the nearest other classes.
_RIVALS: Final = 3

# The loss of a regressor's row whose outputs are NaN.
_WORST: Final = float(np.finfo(np.float32).max)


class Recomputed(NamedTuple):
    """The outputs that some rows get instead of those of the plan.

    Attributes
    ----------
    outputs : float32 array (n, k)
        Of all rows, without gates and factors.
    least_margin : float
        Rows with a smaller margin in these outputs get the dense ones.
    out_of_range : bool array (n,)
        Rows that get these outputs whatever their margin is.
    """

    outputs: Float32Array
    least_margin: float
    out_of_range: npt.NDArray[np.bool_]


class Evaluator:
    """Compares networks' outputs with the dense network's on some rows.

    Parameters
    ----------
    dense : Network
    rows : array or CSR (n, d)
        The rows to evaluate.
    targets : int64 (n,) classes, float64 (n, k) values, (n, k) of 0 and 1 for a multilabel network
        None: the dense network's own outputs are the truth.
    others : float32 array (m, k), optional
        The dense network's outputs on other rows of the same kind: more margins.
    other_targets : array, optional
        A regressor's targets of other rows of the same kind: errors are relative to the variance of
        all targets, or if they do not vary to that of the outputs.
    calibration : Calibration, optional
        By default fitted to the rows and their labels.
    """

    def __init__(
        self,
        dense: Network,
        rows: Any,
        targets: npt.NDArray[Any] | None,
        *,
        others: Float32Array | None = None,
        other_targets: npt.NDArray[Any] | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.task = dense.task
        self.classifies = dense.task == "classification"
        self.targets = targets
        self.activation = dense.layers[-1].activation.name
        self._head = dense.engine.head(dense.task)
        self.dense = dense.forward(rows)
        self.all = self.dense if others is None else np.concatenate([self.dense, others])
        self.variance = self.spread = 1.0
        self.calibration = Calibration() if calibration is None else calibration
        if self.task == "regression":
            self.spread = self.variance = variance_of(self.all) or 1.0
            if targets is not None:
                known = [targets] if other_targets is None else [targets, other_targets]
                self.variance = variance_of(np.concatenate(known)) or self.spread
        elif calibration is None and targets is not None:
            self.calibration = calibrated(self.dense, targets, self.task, self.activation)

    @property
    def measure(self) -> str:
        """Name of the error that the budget counts."""
        if self.classifies:
            named = "classification error", "disagreement with the dense network"
        elif self.task == "multilabel":
            named = "share of wrong labels", "share of labels that differ from the dense network's"
        else:
            named = (
                "relative squared error",
                "relative squared difference from the dense network",
            )
        return named[self.targets is None]

    def error(self, outputs: Float32Array) -> Increase:
        """The plain error before and after, and its increase with a 95 % interval."""
        return self._increase(self._losses(self.dense), self._losses(outputs))

    def _increase(self, before: Float64Array, after: Float64Array) -> Increase:
        change = after - before
        n = len(change)
        increase, deviation = float(change.mean()), float(change.std() / math.sqrt(n))
        if self.classifies:
            low, high = _paired_interval(int((change > 0).sum()), int((change < 0).sum()), n)
        else:
            low, high = increase - 1.96 * deviation, increase + 1.96 * deviation
        return Increase(float(before.mean()), float(after.mean()), increase, deviation, low, high)

    def evidence(
        self,
        outputs: Float32Array,
        *,
        unseen: bool = False,
        reach: float = 0.0,
        least_margin: float = 0.0,
        recomputed: Recomputed | None = None,
    ) -> Evidence:
        """The evidence of the rows for these outputs.

        `unseen`: other rows may get any outputs, because units are left out that were never on.
        `reach`: the largest perturbation of other rows. `least_margin`: rows with a smaller margin
        in these outputs get the dense ones, or those that were `recomputed`.
        """
        raw = [(outputs, least_margin)]
        if recomputed is None or least_margin == 0:
            outputs = np.where(self._close(*raw[0])[:, None], self.dense, outputs)
        else:
            raw.append((recomputed.outputs, recomputed.least_margin))
            again = recomputed.out_of_range | self._close(*raw[0])
            outputs = np.where(again[:, None], recomputed.outputs, outputs)
            outputs = np.where((again & self._close(*raw[1]))[:, None], self.dense, outputs)
        before, after = self._losses(self.dense), self._losses(outputs)
        change, worst = after - before, self._worst(outputs)
        named: dict[str, Any] = {"plain": self._increase(before, after), "change": change}
        named["reach"] = reach
        if self.task == "regression":
            # As if the output that is farthest from the mean were lost.
            none = self._farthest_output() / self.variance if unseen else None
            squares = self._squares(outputs)
            return Evidence(
                **named,
                expected=change,
                worst=worst,
                unseen=none,
                perturbations=squares,
                residual=self._residual(before, squares),
            )
        expected, columns, largest = self._changes(outputs, raw)
        none = 0.0 if unseen else None
        return Evidence(
            **named,
            expected=expected,
            worst=worst,
            columns=columns,
            unseen=none,
            perturbations=largest,
        )

    def counted_bound(
        self,
        outputs: Float32Array,
        confidence: float,
        rows: int | None = None,
        spare: float = 0.0,
    ) -> float:
        """Upper bound of the increase, one-sided, from counted errors alone.

        For networks that were trained further: their outputs differ from the dense ones in every
        row and may be better, so margins do not bound the increase. For classes and labels, errors
        and corrections are taken as Poisson counts; the bound is that of the score test of their
        difference, with one error more than counted. `rows`: number of rows like these to give the
        bound for. `spare`: standard errors to spare.
        """
        n = len(outputs) if rows is None else rows
        if self.task == "regression":
            return float(self.evidence(outputs).upper(confidence, n, spare))
        change = self._losses(outputs) - self._losses(self.dense)
        quantile = NormalDist().inv_cdf(confidence) + spare
        step = float(np.abs(change).max()) or 1.0
        least = step * (1 + quantile**2 / 2)
        squares = n * float(np.square(change).mean()) + step**2 * (1 + quantile**2 / 4)
        return float(change.mean()) + (least + quantile * math.sqrt(squares)) / n

    def _squares(self, outputs: Float32Array) -> Float64Array:
        """Each row's squared change of a regressor's outputs; 0 where the dense ones overflow."""
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.square(outputs.astype(np.float64) - self.dense).sum(axis=1)
            squares /= self.variance
        squares = np.where(np.isfinite(squares), np.minimum(squares, _WORST), _WORST)
        return np.where(self._is_finite, squares, 0.0)

    @cached_property
    def _is_finite(self) -> npt.NDArray[np.bool_]:
        """Whether the dense outputs of each row are finite; of others nothing is lost."""
        return np.asarray(np.isfinite(self.dense).all(axis=1))

    def _residual(self, losses: Float64Array, squares: Float64Array) -> float:
        """The mean loss of the dense outputs, or that of the rows with the largest changes."""
        if self.targets is None:
            return 0.0
        known = np.flatnonzero(self._is_finite)
        if len(known) == 0:
            return 0.0
        top = known[np.argsort(squares[known])[-math.isqrt(len(known)) :]]
        return float(max(losses[known].mean(), losses[top].mean()))

    def _farthest_output(self) -> float:
        """The largest squared distance of a regressor's outputs from their mean."""
        outputs = self.all[np.isfinite(self.all).all(axis=1)].astype(np.float64)
        if len(outputs) == 0:
            return self.spread
        return float(np.square(outputs - outputs.mean(axis=0)).sum(axis=1).max())

    def _losses(self, outputs: Float32Array) -> Float64Array:
        """Each row's loss; the largest possible if an output is NaN.

        For a regressor 0 where the dense outputs overflow: any others are as good.
        """
        if self.task == "regression":
            reference = self.dense if self.targets is None else self.targets
            # A row that overflows has the largest possible loss.
            with np.errstate(over="ignore", invalid="ignore"):
                losses = np.square(outputs.astype(np.float64) - reference).sum(axis=1)
                losses /= self.variance
            losses = np.where(np.isfinite(losses), np.minimum(losses, _WORST), _WORST)
            return np.where(self._is_finite, losses, 0.0)
        missing = np.isnan(outputs)
        if self.classifies:
            missing = np.asarray(missing.any(axis=1))
        labels = self._head.labels(self.dense) if self.targets is None else self.targets
        wrong = (self._head.labels(outputs) != labels) | missing
        return np.asarray(wrong if self.classifies else wrong.mean(axis=1), np.float64)

    def _worst(self, outputs: Float32Array) -> float:
        """The worst row's change."""
        regresses = self.task == "regression"
        known = self._is_finite if regresses else ~np.isnan(self.dense).any(axis=1)
        if not known.any():
            return 0.0
        if regresses:
            with np.errstate(over="ignore", invalid="ignore"):
                off = np.square(outputs.astype(np.float64) - self.dense).sum(axis=1)
                sizes = np.sqrt(off / self.spread)[known]
            return float(np.where(np.isfinite(sizes), np.minimum(sizes, _WORST), _WORST).max())
        changes = np.abs(self._probabilities(outputs) - self._probabilities(self.dense))
        return float(np.nan_to_num(changes[known], nan=1.0).max())

    def _probabilities(self, outputs: Float32Array) -> Float64Array:
        return self._head.probabilities(outputs).astype(np.float64)

    def _close(self, outputs: Float32Array, least_margin: float) -> npt.NDArray[np.bool_]:
        """Whether the margin of each row of outputs is below the least one."""
        if least_margin == 0:
            return np.zeros(len(outputs), np.bool_)
        odds = log_odds(outputs, self.activation)
        return margins_of_rows(odds, self.task, self.activation) < least_margin

    def _changes(
        self, outputs: Float32Array, raw: list[tuple[Float32Array, float]]
    ) -> tuple[Float64Array, Any, Float64Array]:
        """Each row's expected change, each column's margins with perturbations, the rows' largest.

        A perturbation is that of the raw outputs, less their least margin: smaller ones change no
        label, or the row is recomputed. It is the largest of those of all raw outputs, because any
        of them may be the row's.
        """
        before, after = (log_odds(y, self.activation) for y in (self.all, outputs))
        moved = [(log_odds(y, self.activation), least) for y, least in raw]
        if self.task == "multilabel" or before.shape[1] == 1:
            count = before.shape[1]
            found = [
                self._boundary(
                    of_two(before[:, c]),
                    of_two(after[:, c]),
                    [(of_two(y[:, c]), least) for y, least in moved],
                    1.0 / count,
                )
                for c in range(count)
            ]
        else:
            found = [self._boundary(before, after, moved, 1.0)]
        expected, columns, largest = zip(*found, strict=True)
        return np.sum(expected, axis=0), columns, np.max(largest, axis=0)

    def _boundary(
        self,
        before: Float64Array,
        after: Float64Array,
        raw: list[tuple[Float64Array, float]],
        weight: float,
    ) -> tuple[Float64Array, tuple[Pairs, ...], Float64Array]:
        n = len(after)
        top = before.argmax(axis=1)
        margins, rivals = margins_of(before, top, _RIVALS)
        gains = weight * self.calibration.gain(before, top, rivals)
        lost = np.asarray(np.isnan(after).any(axis=1))
        unknown = np.asarray(np.isnan(before).any(axis=1))
        moves, largest = np.full((n, margins.shape[1]), -math.inf), np.full(n, -math.inf)
        for outputs, least_margin in raw:
            now = np.take_along_axis(outputs, top[:n, None], axis=1)
            with np.errstate(invalid="ignore"):
                of_these = margins[:n] - (now - np.take_along_axis(outputs, rivals[:n], axis=1))
            of_these = np.where(lost[:, None] | np.isnan(of_these), math.inf, of_these)
            of_these[unknown[:n]] = 0.0
            largest = np.maximum(largest, of_these.max(axis=1))
            moves = np.maximum(moves, of_these - least_margin)
        moves[unknown[:n]] = 0.0
        margins = np.where(unknown[:, None] | np.isnan(margins), math.inf, margins)
        chosen = np.where(lost, -1, after.argmax(axis=1))
        taken = self.calibration.gain(before[:n], top[:n], np.maximum(chosen, 0)[:, None])[:, 0]
        expected = np.where(chosen == top[:n], 0.0, np.where(lost, 1.0, taken)) * weight
        expected[unknown[:n]] = 0.0
        pairs = tuple(
            Pairs(margins[:, k], gains[:, k], moves[:, k], self.calibration, weight)
            for k in range(margins.shape[1])
        )
        return expected, pairs, largest


def _paired_interval(worse: int, better: int, n: int) -> tuple[float, float]:
    """95 % interval of the difference of two paired proportions (Agresti and Min 2005)."""
    b, c, n = worse + 0.5, better + 0.5, n + 2
    difference = (b - c) / n
    deviation = math.sqrt(b + c - (b - c) ** 2 / n) / n
    return difference - 1.96 * deviation, difference + 1.96 * deviation

"""What a faster network may cost: rows to see it on, the error's increase, and how sure that is.

`Judge` compares outputs with the dense network's. The error is what a user's budget counts. Its
plain difference moves in steps of a row, which is too coarse for a budget of a thousandth on some
hundreds of rows. `Evidence` therefore bounds the expected increase by stand-ins with less noise;
docs/guarantees.md explains them and gives their measured bias. `Damage` is a smooth measure for the
search: how far outputs are from the dense network's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.network import Network

__all__ = [
    "CHECK_SHARE",
    "FIT_SHARE",
    "MOST_ROWS",
    "Calibration",
    "Damage",
    "Evidence",
    "Increase",
    "Judge",
    "Split",
]

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Shares of the rows that estimators are fitted on and that thresholds are chosen on; the rest
# checks. More rows than the limit do not make gates better; those beyond it check.
FIT_SHARE: Final = 0.4
_TUNE_SHARE: Final = 0.2
CHECK_SHARE: Final = 1.0 - FIT_SHARE - _TUNE_SHARE
MOST_ROWS: Final = 20_000
_MOST_CHECKED: Final = 100_000

# A classifier's margins are looked at for this many of the nearest other classes.
_RIVALS: Final = 3

# Below this many margins their number is not counted: it is taken as proportional to the distance
# from 0, through the point that has so many.
_COUNTED: Final = 10

# Perturbations that the rows have not shown are taken to be up to this many times the largest.
_BEYOND: Final = 2.0

# Outputs of so many values, at most, calibrate.
_CALIBRATED: Final = 200_000

# Probabilities are taken to be at least this far from 0 and 1.
_LEAST: Final = 1e-12

# The largest float32 below 1: between it and 1 is rounding, which is no move of the odds.
_MOST: Final = 1.0 - 2.0**-24

# What a row costs whose outputs are NaN, for a regressor.
_WORST: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Split:
    """The rows of the three parts, and their targets."""

    fit: Any
    tune: Any
    check: Any
    targets: npt.NDArray[Any] | None
    fit_targets: npt.NDArray[Any] | None = None
    tune_targets: npt.NDArray[Any] | None = None

    @property
    def count(self) -> int:
        """Rows that estimators are fitted on."""
        return int(self.fit.shape[0])

    @classmethod
    def of(cls, rows: Any, targets: npt.NDArray[Any] | None, seed: int) -> Split:
        """The rows in random order; those beyond `MOST_ROWS` check."""
        order = np.random.default_rng(seed).permutation(rows.shape[0])
        used = min(len(order), MOST_ROWS)
        first, second = int(FIT_SHARE * used), int((FIT_SHARE + _TUNE_SHARE) * used)
        fit, tune, check = np.split(order[: second + _MOST_CHECKED], [first, second])
        parts = [None if targets is None else targets[part] for part in (check, fit, tune)]
        return cls(rows[fit], rows[tune], rows[check], *parts)


@dataclass(frozen=True)
class Increase:
    """What a network's outputs cost on some rows: the plain figures."""

    before: float
    after: float
    increase: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """What a classifier's margin says of its chance to be right.

    The class with a margin of m over another is that much more likely to be right than the other:
    ``factor * (p - q)``, with the probabilities p and q at the temperature. Without labels every
    changed class counts as 1.

    Attributes
    ----------
    temperature : float
        What log probabilities are divided by: the least that the labels do not contradict.
    factor : float
        Above 1 where rows near a boundary are right more often than the probabilities say.
    labelled : bool
    """

    temperature: float = 1.0
    factor: float = 1.0
    labelled: bool = False

    @classmethod
    def of(cls, logits: Float64Array, labels: IntArray) -> Calibration:
        """Fitted to log odds (n, k) and classes (n,).

        The temperature is the lower end of its likelihood interval (one-sided, 95 %), so that few
        labels give sharper probabilities, which count a changed class as dearer.
        """
        good = np.isfinite(logits).all(axis=1)
        logits, labels = logits[good], labels[good]
        if len(labels) == 0:
            return cls()
        grid = np.geomspace(0.05, 20.0, 61)
        losses = np.array([_negative_log_likelihood(logits / t, labels) for t in grid])
        best = int(np.argmin(losses))
        allowed = losses[best] + NormalDist().inv_cdf(0.95) ** 2 / 2
        temperature = float(grid[: best + 1][losses[: best + 1] <= allowed][0])
        fitted = cls(temperature, 1.0, labelled=True)
        return cls(temperature, fitted._near_boundaries(logits, labels), labelled=True)

    def _near_boundaries(self, logits: Float64Array, labels: IntArray) -> float:
        """How much more often the third of the rows with the least margins is right than said."""
        margins, rivals = _margins(logits, logits.argmax(axis=1), 1)
        count = min(len(labels), max(len(labels) // 3, 50))
        near = np.argsort(margins[:, 0])[:count]
        top = logits[near].argmax(axis=1)
        said = self.gain(logits[near], top, rivals[near])[:, 0]
        seen = (labels[near] == top) * 1.0 - (labels[near] == rivals[near, 0])
        ratio = (seen.mean() + seen.std() / math.sqrt(count)) / max(said.mean(), 1e-12)
        return float(np.clip(ratio, 1.0, 1e6))

    def gain(self, logits: Float64Array, top: IntArray, others: IntArray) -> Float64Array:
        """How much more likely class `top` (n,) is right than each of `others` (n, r): 0 to 1."""
        if not self.labelled:
            return np.ones(others.shape)
        logs = _normalised(logits / self.temperature)
        first = np.exp(np.take_along_axis(logs, top[:, None], axis=1))
        gains = self.factor * (first - np.exp(np.take_along_axis(logs, others, axis=1)))
        return np.clip(np.nan_to_num(gains, nan=1.0), 0.0, 1.0)

    def most(self, margins: Float64Array) -> Float64Array:
        """The largest gain at these margins."""
        if not self.labelled:
            return np.ones_like(margins)
        return np.minimum(self.factor * np.tanh(margins / (2 * self.temperature)), 1.0)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Margins of many rows and perturbations of the rows that are judged, of one boundary.

    `margins` and `gains` (N,) begin with those of the judged rows, `moves` (n,).
    """

    margins: Float64Array
    gains: Float64Array
    moves: Float64Array
    calibration: Calibration
    weight: float = 1.0

    @cached_property
    def _sorted(self) -> tuple[Float64Array, Float64Array]:
        """Margins by size, and the sums of gains below each."""
        order = np.argsort(self.margins)
        sums = np.append(0.0, np.cumsum(self.gains[order]))
        return self.margins[order], sums / len(order)

    def counted(self, moves: Float64Array) -> Float64Array:
        """What a perturbation costs in the mean over all margins, as these are."""
        margins, sums = self._sorted
        return sums[np.searchsorted(margins, moves, side="left")]

    def lost(self, moves: Float64Array) -> Float64Array:
        """The same, with as many margins near 0 as the least of them let expect."""
        margins, found = self._sorted[0], self.counted(moves)
        counted = min(_COUNTED, len(margins))
        reach = margins[counted - 1]
        if not 0 < reach < math.inf:
            return np.where(moves > 0, found, 0.0)
        inside = np.clip(moves, 0.0, reach)
        near = counted / len(margins) * inside / reach * self.calibration.most(inside)
        near *= self.weight
        return np.where(moves > 0, np.maximum(found, near), 0.0)

    @cached_property
    def moved(self) -> Float64Array:
        """What each row's perturbation costs."""
        return self.lost(self.moves)

    @cached_property
    def share(self) -> Float64Array:
        """What each margin contributes to the mean."""
        below = np.searchsorted(np.sort(self.moves), self.margins, side="right")
        return self.gains * (1.0 - below / len(self.moves))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What some rows say of a network's increase of the error.

    Attributes
    ----------
    plain : Increase
        The error as counted.
    change : float64 array (n,)
        Each row's plain change of the loss.
    expected : float64 array (n,)
        Each row's expected change: the stand-in. For a regressor the same as `change`.
    worst : float
        The worst row: the largest change of a probability; for a regressor the distance of its
        outputs from the dense ones, in standard deviations of the outputs.
    reach : float
        `largest` on other rows, where that is known.
    """

    plain: Increase
    change: Float64Array
    expected: Float64Array
    worst: float
    columns: tuple[tuple[_Pairs, ...], ...] = field(default=(), repr=False)
    unseen: float | None = None
    reach: float = 0.0

    @property
    def rows(self) -> int:
        """How many rows they are."""
        return len(self.change)

    @property
    def pairs(self) -> list[_Pairs]:
        """Of all boundaries."""
        return [pairs for column in self.columns for pairs in column]

    @property
    def estimate(self) -> float:
        """The expected increase: the larger of the direct and the paired estimate."""
        paired = sum(float(pairs.moved.mean()) for pairs in self.pairs)
        return max(float(self.expected.mean()), paired)

    def upper(self, confidence: float, rows: int | None = None, spare: float = 0.0) -> float:
        """Upper bound of the increase, one-sided.

        Parameters
        ----------
        confidence : float
        rows : int, optional
            What the bound would be with so many rows like these.
        spare : float
            Standard errors to spare.
        """
        n = self.rows if rows is None else rows
        quantile = _student(confidence, n - 1) + spare
        reserve = -math.log1p(-confidence) / n
        bound = _skewed(self.expected, n, quantile, bounded=bool(self.pairs))
        if self.pairs:
            bound = max(bound, self._paired(n, quantile))
        if not (self.expected.any() or self.unseen is not None or self._farthest > 0):
            return 0.0
        return bound + reserve * self._beyond

    @property
    def largest(self) -> float:
        """The largest perturbation of a margin; for a regressor the largest change of a row."""
        if self.pairs:
            return max(float(pairs.moves.max()) for pairs in self.pairs)
        return float(self.expected.max())

    @property
    def _farthest(self) -> float:
        return max(self.largest, self.reach, 0.0)

    @property
    def _beyond(self) -> float:
        """What rows cost that these have not shown."""
        if self.pairs:
            reach = np.array([math.inf if self.unseen is not None else _BEYOND * self._farthest])
            return sum(max(float(p.lost(reach)[0]) for p in column) for column in self.columns)
        factor = max(_BEYOND, _tail_factor(self.expected))
        return max(factor * self._farthest, self.unseen or 0.0)

    def _paired(self, n: int, quantile: float) -> float:
        """The paired estimate's upper bound: as if margins and perturbations were independent."""
        moved = np.sum([pairs.moved for pairs in self.pairs], axis=0)
        share = np.sum([pairs.share for pairs in self.pairs], axis=0)
        size = n / self.rows
        judged = share[: self.rows]
        variance = (
            share.var() / (len(share) * size)
            + moved.var() / n
            + 2 * max(float(np.cov(judged, moved)[0, 1]), 0.0) / (len(share) * size)
        )
        if self._is_sparse(size):
            variance = max(variance, moved.mean() ** 2 / _COUNTED)
        step = float(moved.max())
        deviation = math.sqrt(float(variance) + (step / n) ** 2)
        return float(moved.mean()) + quantile * deviation + quantile**2 * step / (2 * n)

    def _is_sparse(self, size: float) -> bool:
        """Whether few margins are within the perturbations."""
        reach = self.largest
        return any((pairs.margins < reach).sum() * size < _COUNTED for pairs in self.pairs)

    def lower(self, confidence: float) -> float:
        """Lower bound of the plain increase, one-sided."""
        deviation = float(self.change.std()) / math.sqrt(self.rows)
        return float(self.change.mean()) - _student(confidence, self.rows - 1) * deviation

    def within(self, budget: float, confidence: float, most: float | None = None) -> bool:
        """Whether the increase is shown to be within the budget, and no row is worse than `most`.

        The bound must be, and the plain figures must not say otherwise.
        """
        fits = most is None or self.worst <= most
        return fits and self.upper(confidence) <= budget and self.lower(confidence) <= budget

    def needed(self, budget: float, confidence: float, spare: float = 0.0) -> int | None:
        """About how many rows like these would show it; None where no number would."""
        rows = self.rows
        if not self.estimate < budget:
            seen = sum(float(pairs.counted(pairs.moves).mean()) for pairs in self.pairs)
            if not max(float(self.expected.mean()), seen) < budget or budget == 0:
                return None
            # Too few margins are small to say how many are smaller still: so many rows would be.
            share = self.rows / len(self.pairs[0].margins)
            return max(2 * rows, math.ceil(_COUNTED / budget * share))
        while self.upper(confidence, rows, spare) > budget:
            if rows > 1 << 40:
                return None
            rows = int(1.1 * rows) + 1
        return rows


class Judge:
    """Compares networks' outputs with the dense network's on some rows.

    Parameters
    ----------
    dense : Network
    rows : array or CSR (n, d)
        The rows that are judged.
    targets : int64 (n,) classes, float64 (n, k) values, (n, k) of 0 and 1 for a multilabel network
        None: the dense network's own outputs are the truth.
    others : float32 array (m, k), optional
        The dense network's outputs on other rows of the same kind: more margins.
    calibration : Calibration, optional
        By default what the rows and their labels say themselves.
    """

    def __init__(
        self,
        dense: Network,
        rows: Any,
        targets: npt.NDArray[Any] | None,
        *,
        others: Float32Array | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.task = dense.task
        self.classifies = dense.task == "classification"
        self.targets = targets
        self.activation = dense.layers[-1].activation.name
        self.dense = dense.forward(rows)
        self.all = self.dense if others is None else np.concatenate([self.dense, others])
        self.variance = self.spread = 1.0
        self.calibration = Calibration() if calibration is None else calibration
        if self.task == "regression":
            self.spread = _variance(self.all.astype(np.float64))
            self.variance = self.spread if targets is None else _variance(targets)
        elif calibration is None and targets is not None:
            self.calibration = calibrated(self.dense, targets, self.task, self.activation)

    @property
    def measure(self) -> str:
        """What the budget counts."""
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
        self, outputs: Float32Array, *, unseen: bool = False, reach: float = 0.0
    ) -> Evidence:
        """What the rows say of these outputs.

        `unseen`: rows that these do not show may get any outputs, as where units are left out that
        were never on. `reach`: the largest perturbation of other rows.
        """
        before, after = self._losses(self.dense), self._losses(outputs)
        change, worst = after - before, self._worst(outputs)
        named: dict[str, Any] = {"plain": self._increase(before, after), "change": change}
        named["reach"] = reach
        if self.task == "regression":
            # As if the output that is farthest from the mean were lost.
            none = self._farthest_output() / self.variance if unseen else None
            return Evidence(**named, expected=change, worst=worst, unseen=none)
        expected, columns = self._changes(outputs)
        none = 0.0 if unseen else None
        return Evidence(**named, expected=expected, worst=worst, columns=columns, unseen=none)

    def _farthest_output(self) -> float:
        """The largest squared distance of a regressor's outputs from their mean."""
        outputs = self.all[np.isfinite(self.all).all(axis=1)].astype(np.float64)
        if len(outputs) == 0:
            return self.spread
        return float(np.square(outputs - outputs.mean(axis=0)).sum(axis=1).max())

    def _losses(self, outputs: Float32Array) -> Float64Array:
        """What each row costs; as much as can be where an output is NaN."""
        if self.task == "regression":
            reference = self.dense if self.targets is None else self.targets
            # A row that overflows costs as much as can be.
            with np.errstate(over="ignore", invalid="ignore"):
                losses = np.square(outputs.astype(np.float64) - reference).sum(axis=1)
                losses /= self.variance
            return np.where(np.isfinite(losses), np.minimum(losses, _WORST), _WORST)
        bad = np.isnan(outputs)
        if self.classifies:
            labels = self._classes(self.dense) if self.targets is None else self.targets
            wrong = (self._classes(outputs) != labels) | bad.any(axis=1)
            return np.asarray(wrong, np.float64)
        labels = self._on(self.dense) if self.targets is None else self.targets != 0
        return np.asarray(((self._on(outputs) != labels) | bad).mean(axis=1), np.float64)

    def _worst(self, outputs: Float32Array) -> float:
        """The worst row's change."""
        known = ~np.isnan(self.dense).any(axis=1)
        if not known.any():
            return 0.0
        if self.task == "regression":
            with np.errstate(over="ignore", invalid="ignore"):
                off = np.square(outputs.astype(np.float64) - self.dense).sum(axis=1)
                sizes = np.sqrt(off / self.spread)[known]
            return float(np.where(np.isfinite(sizes), np.minimum(sizes, _WORST), _WORST).max())
        changes = np.abs(self._probabilities(outputs) - self._probabilities(self.dense))
        return float(np.nan_to_num(changes[known], nan=1.0).max())

    def _probabilities(self, outputs: Float32Array) -> Float64Array:
        return _probabilities(outputs, self.task, self.activation)

    def _changes(self, outputs: Float32Array) -> tuple[Float64Array, Any]:
        """Each row's expected change, and margins with perturbations for each column."""
        before, after = (log_odds(y, self.activation) for y in (self.all, outputs))
        if self.task == "multilabel" or before.shape[1] == 1:
            count = before.shape[1]
            found = [
                self._boundary(_two(before[:, c]), _two(after[:, c]), 1.0 / count)
                for c in range(count)
            ]
        else:
            found = [self._boundary(before, after, 1.0)]
        return np.sum([expected for expected, _ in found], axis=0), tuple(p for _, p in found)

    def _boundary(
        self, before: Float64Array, after: Float64Array, weight: float
    ) -> tuple[Float64Array, tuple[_Pairs, ...]]:
        n = len(after)
        top = before.argmax(axis=1)
        margins, rivals = _margins(before, top, _RIVALS)
        gains = weight * self.calibration.gain(before, top, rivals)
        now = np.take_along_axis(after, top[:n, None], axis=1)
        with np.errstate(invalid="ignore"):
            moves = margins[:n] - (now - np.take_along_axis(after, rivals[:n], axis=1))
        lost = np.asarray(np.isnan(after).any(axis=1))
        unknown = np.asarray(np.isnan(before).any(axis=1))
        moves = np.where(lost[:, None] | np.isnan(moves), math.inf, moves)
        moves[unknown[:n]] = 0.0
        margins = np.where(unknown[:, None] | np.isnan(margins), math.inf, margins)
        chosen = np.where(lost, -1, after.argmax(axis=1))
        taken = self.calibration.gain(before[:n], top[:n], np.maximum(chosen, 0)[:, None])[:, 0]
        expected = np.where(chosen == top[:n], 0.0, np.where(lost, 1.0, taken)) * weight
        expected[unknown[:n]] = 0.0
        pairs = tuple(
            _Pairs(margins[:, k], gains[:, k], moves[:, k], self.calibration, weight)
            for k in range(margins.shape[1])
        )
        return expected, pairs

    def _classes(self, outputs: Float32Array) -> IntArray:
        if outputs.shape[1] == 1:
            return np.asarray(self._on(outputs)[:, 0], np.int64)
        return np.asarray(outputs.argmax(axis=1), np.int64)

    def _on(self, outputs: Float32Array) -> npt.NDArray[np.bool_]:
        return np.asarray(outputs > (0.5 if self.activation == "sigmoid" else 0.0))


def calibrated(
    outputs: Float32Array, targets: npt.NDArray[Any], task: str | None, activation: str
) -> Calibration:
    """The calibration of a dense classifier's outputs (n, k) by their labels."""
    rows = max(_CALIBRATED // outputs.shape[1], 100)
    odds = log_odds(outputs[:rows], activation)
    labels = targets[:rows]
    if task == "multilabel" or odds.shape[1] == 1:
        odds, labels = _two(odds.reshape(-1)), (labels != 0).reshape(-1)
    return Calibration.of(odds, np.asarray(labels, np.int64))


def log_odds(outputs: Float32Array, activation: str) -> Float64Array:
    """What of a classifier's outputs decides: logits, whatever its last activation is."""
    odds = outputs.astype(np.float64)
    if activation == "sigmoid":
        odds = np.clip(odds, _LEAST, _MOST)
        return np.asarray(np.log(odds) - np.log1p(-odds))
    return np.log(np.maximum(odds, _LEAST)) if activation == "softmax" else odds


def _two(odds: Float64Array) -> Float64Array:
    """The log odds (n,) of one label as those of two classes."""
    return np.stack([np.zeros_like(odds), odds], axis=1)


def _margins(odds: Float64Array, top: IntArray, most: int) -> tuple[Float64Array, IntArray]:
    """How far class `top` is above the nearest others, and which these are, (n, r) both."""
    others = odds.copy()
    np.put_along_axis(others, top[:, None], -math.inf, axis=1)
    count = min(most, odds.shape[1] - 1)
    rivals = np.argsort(-others, axis=1, kind="stable")[:, :count]
    with np.errstate(invalid="ignore"):
        margins = np.take_along_axis(odds, top[:, None], axis=1) - np.take_along_axis(
            others, rivals, axis=1
        )
    return margins, rivals


def _normalised(odds: Float64Array) -> Float64Array:
    """Log probabilities."""
    shifted = odds - odds.max(axis=1, keepdims=True)
    logs: Float64Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def _negative_log_likelihood(odds: Float64Array, labels: IntArray) -> float:
    return -float(np.take_along_axis(_normalised(odds), labels[:, None], axis=1).sum())


def _probabilities(outputs: Float32Array, task: str | None, activation: str) -> Float64Array:
    """A classifier's probabilities."""
    values = outputs.astype(np.float64)
    if activation in ("softmax", "sigmoid"):
        return values
    if task == "multilabel" or values.shape[1] == 1:
        return np.asarray(0.5 * (1.0 + np.tanh(values / 2)))
    with np.errstate(invalid="ignore"):
        return np.exp(_normalised(values))


def _variance(values: npt.NDArray[Any]) -> float:
    """Of all columns together; 1 where nothing varies."""
    values = values[np.isfinite(values).all(axis=1)]
    if len(values) == 0:
        return 1.0
    return float(np.square(values - values.mean(axis=0)).sum(axis=1).mean()) or 1.0


def _skewed(values: Float64Array, n: int, quantile: float, bounded: bool) -> float:
    """Upper bound of the mean of n values distributed like these.

    Losses between 0 and 1 of which few are not 0 are nearly compound Poisson: the bound is right
    to 2 % for counts from 0 on, in steps of the mean size of a loss. Other values get the
    correction for skewness of Johnson (1978).
    """
    mean, deviation = float(values.mean()), float(values.std())
    if bounded:
        total = float(values.sum())
        step = float(np.square(values).sum()) / total if total > 0 else 0.0
        spread = math.sqrt(deviation**2 / n + (step / n) ** 2)
        return mean + quantile * spread + quantile**2 * step / (2 * n)
    if deviation == 0:
        return mean
    skewness = float(np.power((values - mean) / deviation, 3).mean())
    bound = mean + quantile * deviation / math.sqrt(n)
    return bound + max(skewness, 0.0) * deviation * (1 + 2 * quantile**2) / (6 * n)


def _tail_factor(values: Float64Array) -> float:
    """The mean beyond the largest value, over it, if the tail is a power of the size (Hill 1975).

    At most 10: heavier tails have no mean.
    """
    count = int(math.sqrt(len(values)))
    top = np.sort(values)[::-1][: count + 1]
    if count < 2 or top[-1] <= 0:
        return _BEYOND
    index = float(np.log(top[:-1] / top[-1]).mean()) * (1 + 1 / math.sqrt(count))
    return 1 / max(1 - index, 0.1)


def _student(confidence: float, freedom: int) -> float:
    """Quantile of Student's t (Abramowitz and Stegun 1964, 26.7.5)."""
    z = NormalDist().inv_cdf(confidence)
    v = max(freedom, 1)
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + terms[0] / v + terms[1] / v**2


def _paired_interval(worse: int, better: int, n: int) -> tuple[float, float]:
    """95 % interval of the difference of two paired proportions (Agresti and Min 2005)."""
    b, c, n = worse + 0.5, better + 0.5, n + 2
    difference = (b - c) / n
    deviation = math.sqrt(b + c - (b - c) ** 2 / n) / n
    return difference - 1.96 * deviation, difference + 1.96 * deviation


class Damage:
    """How far a network's outputs are from the dense network's: a smooth measure of few rows."""

    def __init__(self, dense: Network, rows: Any) -> None:
        self.rows = rows
        self.activation = dense.layers[-1].activation.name
        self.classifies = dense.task != "regression"
        self.labels = dense.task == "multilabel"
        outputs = self._outputs(dense)
        self.dense = self._log_probabilities(outputs) if self.classifies else outputs
        self.variance = _variance(outputs)

    def of(self, network: Network) -> float:
        """Mean Kullback-Leibler divergence of the classes, or relative squared difference."""
        outputs = self._outputs(network)
        if self.classifies:
            logs = self._log_probabilities(outputs)
            return float((np.exp(self.dense) * (self.dense - logs)).sum(axis=1).mean())
        return float(np.square(outputs - self.dense).sum(axis=1).mean() / self.variance)

    def _outputs(self, network: Network) -> Float64Array:
        outputs = network.forward(self.rows).astype(np.float64)
        return outputs.reshape(-1, 1) if self.labels else outputs

    def _log_probabilities(self, outputs: Float64Array) -> Float64Array:
        if self.activation in ("softmax", "sigmoid"):
            outputs = np.clip(outputs, 1e-12, 1 - 1e-12)
            if outputs.shape[1] == 1:
                outputs = np.concatenate([1 - outputs, outputs], axis=1)
            outputs = np.log(outputs)
        elif outputs.shape[1] == 1:
            outputs = np.concatenate([np.zeros_like(outputs), outputs], axis=1)
        return _normalised(outputs)

"""The increase of the error by a faster network, with its uncertainty.

A user's budget limits the error. Its plain difference changes in steps of one row, which is too
coarse for a budget of a thousandth on some hundreds of rows. `Evidence` therefore bounds the
expected increase by substitutes with less noise; docs/guarantees.md explains them and gives their
measured bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from statistics import NormalDist
from typing import Final

import numpy as np

from lrgate.planner.calibration import Calibration
from lrgate.types import Float64Array

__all__ = [
    "Evidence",
    "Increase",
    "Pairs",
    "likely_largest",
]


# Fewer margins than this are not counted: their number is taken as proportional to the distance
# from 0, through the point below which there are this many.
_COUNTED: Final = 10

# Level at which the plain figures count where they are above the substitutes. It is the same for
# every confidence, so that a higher confidence gives a higher bound.
_CONTRADICTION: Final = 0.95

# Unseen perturbations are assumed to be at most this many times the largest one seen.
_BEYOND: Final = 2.0

# Perturbations below this share of the largest one are noise of rounding, and no part of its tail.
_NOISE: Final = 0.01

# The most rows that are said to be needed.
_MOST_NEEDED: Final = 1 << 40

# The most that a tail may give, over the largest value: heavier tails have no mean.
_MOST_BEYOND: Final = 10.0


@dataclass(frozen=True)
class Increase:
    """The error on some rows before and after, as counted."""

    before: float
    after: float
    increase: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Pairs:
    """Margins of many rows, and perturbations of the evaluated rows, at one boundary.

    `margins` and `gains` (N,) begin with those of the evaluated rows; `moves` is (n,).
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
        """The mean cost of a perturbation over all margins, as they are."""
        margins, sums = self._sorted
        return sums[np.searchsorted(margins, moves, side="left")]

    def lost(self, moves: Float64Array) -> Float64Array:
        """The same, with as many margins near 0 as the smallest margins suggest."""
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
        """The cost of each row's perturbation."""
        return self.lost(self.moves)

    @cached_property
    def share(self) -> Float64Array:
        """The contribution of each margin to the mean."""
        below = np.searchsorted(np.sort(self.moves), self.margins, side="right")
        return self.gains * (1.0 - below / len(self.moves))


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence of some rows for a network's increase of the error.

    Attributes
    ----------
    plain : Increase
        The error as counted.
    change : float64 array (n,)
        Each row's plain change of the loss.
    expected : float64 array (n,)
        Each row's expected change: the substitute. For a regressor the same as `change`.
    worst : float
        The worst row: the largest change of a probability; for a regressor the distance of its
        outputs from the dense ones, in standard deviations of the outputs.
    perturbations : float64 array (n,)
        A classifier: each row's largest perturbation of a margin. Those of `columns` are smaller by
        the least margin. A regressor: its squared change of the outputs, relative to the variance.
    reach : float
        `largest` on other rows, if it is known.
    residual : float
        A regressor: the mean squared error of the dense outputs, relative to the variance, on all
        rows or on those that change most, whichever is larger.
    """

    plain: Increase
    change: Float64Array
    expected: Float64Array
    worst: float
    perturbations: Float64Array = field(repr=False)
    columns: tuple[tuple[Pairs, ...], ...] = field(default=(), repr=False)
    unseen: float | None = None
    reach: float = 0.0
    residual: float = 0.0

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.change)

    @property
    def pairs(self) -> list[Pairs]:
        """Of all boundaries."""
        return [pairs for column in self.columns for pairs in column]

    @property
    def estimate(self) -> float:
        """The expected increase: the larger of the direct and the paired estimate."""
        paired = sum(float(pairs.moved.mean()) for pairs in self.pairs)
        return max(float(self.expected.mean()), paired)

    @cached_property
    def contradicted(self) -> bool:
        """Whether the plain increase is above the substitutes, with 95 % confidence.

        For labels this is the sign test with a correction for continuity: one wrong label less than
        counted. Three labels that become wrong, and none that becomes right, may be chance: near a
        boundary both are about as likely, so that this is one case of eight.
        """
        sizes = np.abs(self.change[self.change != 0])
        step = float(sizes.min()) if self.pairs and len(sizes) else 0.0
        return self.lower(_CONTRADICTION) - step / self.rows > self.estimate

    def upper(
        self,
        confidence: float,
        rows: int | None = None,
        spare: float = 0.0,
        prudent: bool = False,
    ) -> float:
        """Upper bound of the increase, one-sided.

        Parameters
        ----------
        confidence : float
        rows : int, optional
            Number of rows like these to give the bound for; by default that of these rows.
        spare : float
            Standard errors to spare.
        prudent : bool
            Whether the rows to give the bound for may have larger perturbations than these: the
            most likely largest one, with as many standard deviations to spare.
        """
        n = self.rows if rows is None else rows
        quantile = _student(confidence, n - 1) + spare
        reserve = -math.log1p(-confidence) / n
        bound = _skewed(self.expected, n, quantile, bounded=bool(self.pairs))
        if self.pairs:
            bound = max(bound, self._paired(n, quantile))
        farthest = max(self.largest, self.reach, 0.0)
        if not (self.expected.any() or self.unseen is not None or farthest > 0):
            return 0.0
        if prudent:
            farthest = max(farthest, likely_largest(self.perturbations, n / self.rows, spare))
        if self.contradicted:
            bound = max(bound, _skewed(self.change, n, quantile, bounded=False))
        return max(bound + reserve * self._beyond(farthest), 0.0)

    @cached_property
    def largest(self) -> float:
        """The largest of `perturbations`."""
        return float(self.perturbations.max())

    def _beyond(self, farthest: float) -> float:
        """The cost of a row unlike those seen, the largest perturbation of which is `farthest`."""
        if self.pairs:
            # The least margin is not subtracted: it would hide perturbations unlike those seen.
            reach = np.array([math.inf if self.unseen is not None else _BEYOND * farthest])
            return sum(max(float(p.lost(reach)[0]) for p in column) for column in self.columns)
        # (f + e - y)^2 - (f - y)^2 = e^2 + 2 e (f - y): such rows change by e, but are no further
        # from their targets than others. Their noise is as often in one direction as in the other.
        square = max(_BEYOND, _tail_factor(self.perturbations)) * farthest
        return max(square + 2 * math.sqrt(square * self.residual), self.unseen or 0.0)

    def _paired(self, n: int, quantile: float) -> float:
        """The paired estimate's upper bound: as if margins and perturbations were independent."""
        moved = np.sum([pairs.moved for pairs in self.pairs], axis=0)
        share = np.sum([pairs.share for pairs in self.pairs], axis=0)
        size = n / self.rows
        evaluated = share[: self.rows]
        variance = (
            share.var() / (len(share) * size)
            + moved.var() / n
            + 2 * max(float(np.cov(evaluated, moved)[0, 1]), 0.0) / (len(share) * size)
        )
        if self._is_sparse(size):
            variance = max(variance, moved.mean() ** 2 / _COUNTED)
        step = float(moved.max())
        deviation = math.sqrt(float(variance) + (step / n) ** 2)
        return float(moved.mean()) + quantile * deviation + quantile**2 * step / (2 * n)

    def _is_sparse(self, size: float) -> bool:
        """Whether few margins are within the perturbations."""
        reach = max(float(pairs.moves.max()) for pairs in self.pairs)
        return any((pairs.margins < reach).sum() * size < _COUNTED for pairs in self.pairs)

    def lower(self, confidence: float) -> float:
        """Lower bound of the plain increase, one-sided."""
        deviation = float(self.change.std()) / math.sqrt(self.rows)
        return float(self.change.mean()) - _student(confidence, self.rows - 1) * deviation

    def within(self, budget: float, confidence: float, most: float | None = None) -> bool:
        """Whether the increase is shown to be within the budget, and no row is worse than `most`.

        The bound must be within it, and the plain figures must not contradict it.
        """
        fits = most is None or self.worst <= most
        return fits and self.upper(confidence) <= budget and self.lower(confidence) <= budget

    def needed(self, budget: float, confidence: float, spare: float = 0.0) -> int | None:
        """About how many rows like these would show it; None if no number would."""
        rows = self.rows
        if self.contradicted and float(self.change.mean()) >= budget:
            return None
        if not self.estimate < budget:
            seen = sum(float(pairs.counted(pairs.moves).mean()) for pairs in self.pairs)
            if not max(float(self.expected.mean()), seen) < budget or budget == 0:
                return None
            # Too few margins are small to estimate how many are smaller: this many rows would do.
            share = self.rows / len(self.pairs[0].margins)
            wanted = max(2.0 * rows, _COUNTED / budget * share)
            return None if wanted > _MOST_NEEDED else math.ceil(wanted)
        while self.upper(confidence, rows, spare) > budget:
            if rows > _MOST_NEEDED:
                return None
            rows = int(1.1 * rows) + 1
        return rows


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


def likely_largest(values: Float64Array, size: float, spare: float) -> float:
    """The most likely largest of `size` times as many values, with standard deviations to spare.

    As if their tail were a power of the size (Hill 1975). At most 10 times the largest value, and
    twice where too few are large to fit the power.
    """
    most = max(float(values.max()), 0.0)
    top = np.sort(values)[::-1][: math.isqrt(len(values)) + 1]
    top = top[top > _NOISE * most]
    count = len(top) - 1
    if count < 2 or math.isinf(most):
        return _BEYOND * most
    index = _tail_index(top)
    # The logarithm of the largest value has a Gumbel distribution.
    above = math.log(max(count * size, 1.0)) + spare * math.pi / math.sqrt(6)
    return min(float(top[-1]) * math.exp(index * above), _MOST_BEYOND * most)


def _tail_factor(values: Float64Array) -> float:
    """The mean beyond the largest value, over it, if the tail is a power of the size."""
    count = math.isqrt(len(values))
    top = np.sort(values)[::-1][: count + 1]
    if count < 2 or top[-1] <= 0 or math.isinf(top[0]):
        return _BEYOND
    return 1 / max(1 - _tail_index(top), 1 / _MOST_BEYOND)


def _tail_index(top: Float64Array) -> float:
    """Hill's estimate from the largest values, in falling order, and a standard error."""
    index = float(np.log(top[:-1] / top[-1]).mean())
    return index * (1 + 1 / math.sqrt(len(top) - 1))


def _student(confidence: float, freedom: int) -> float:
    """Quantile of Student's t (Abramowitz and Stegun 1964, 26.7.5)."""
    z = NormalDist().inv_cdf(confidence)
    v = max(freedom, 1)
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + terms[0] / v + terms[1] / v**2

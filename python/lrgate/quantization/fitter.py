"""Finds the windows of a layer with the least cost in error and recomputed rows."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Final

import numpy as np

from lrgate.model.layer import Quantization
from lrgate.quantization.errors import SPREAD_ROWS, TRIAL_ROWS, Part
from lrgate.quantization.rows import as_dense, at_most_rows, chunks
from lrgate.quantization.typical import Columns
from lrgate.quantization.windows import (
    LEAST_STEP,
    UNUSED_STEP,
    Windows,
    largest_good,
    low_at,
    outside,
    placed,
    some_step,
    step_at,
)
from lrgate.types import BoolArray, Float32Array, Float64Array

__all__ = [
    "Fitter",
    "natural_bounds",
]


# Weights of error and recomputed rows in `_cost_of`. Natural windows, and windows that are cut
# until the error is one of the targets, are compared by their cost.
_ERROR: Final = 0.015
_SHARE: Final = 0.01
_LARGE_ERROR: Final = 0.03
_FINE_ERROR: Final = 0.012
# Additional share of new rows outside cut windows, beyond the share of the fitting rows.
_CUT: Final = 0.005
_TARGETS: Final = (0.03, 0.025, 0.02, 0.015, 0.01, 0.007)
_FINE_TARGETS: Final = (0.03, 0.025, 0.02, 0.0175, 0.015, 0.0135, 0.012, 0.0105, 0.009, 0.007)
# Widening may increase the error by this factor.
_HEADROOM: Final = 1.15
# Target share of new rows outside natural windows.
_FRESH: Final = 2e-4

# One scale for all inputs is preferred to one per input if the error grows at most by the factor
# WORSE (or 2, if the error stays below LITTLE), and the share of recomputed new rows grows at most
# by MORE.
WORSE: Final = 1.25
LITTLE: Final = 0.012
MORE: Final = 1e-3

# An error of a layer's sums that is negligible.
FREE: Final = 0.004
# Minimum number of rows that are split to compare kinds of windows.
LEAST_TO_SPLIT: Final = 60


class Fitter:
    """Candidates for the windows of a layer's inputs, fitted to rows."""

    def __init__(
        self,
        part: Part,
        values: Any,
        bounds: tuple[Float64Array, Float64Array] | None,
        first: bool,
        signed: bool,
        fine: bool,
    ) -> None:
        self.part, self.values, self.first, self.signed = part, values, first, signed
        self.fine = fine
        self.levels = 255 if first else 254
        self.columns = Columns(values)
        self.bounds = self.columns.bounds() if bounds is None else bounds
        self.whole = first and bool(self.columns.whole().all())

    def quantizations(self) -> dict[str, Quantization]:
        """The candidates by kind, from simple to fine."""
        low, high = self.bounds
        found = {}
        if self.whole and low.min() >= 0 and 127 < high.max() <= 255:
            found["identity"] = Quantization(np.ones((), np.float32), np.zeros((), np.float32))
        for kind in ("one", "each"):
            quantization = self._best(kind)
            if quantization is not None:
                found[kind] = quantization
        return found

    @cached_property
    def _excess(self) -> tuple[Float64Array, Float64Array]:
        return self.columns.excess()

    def recomputed(self, quantization: Quantization) -> float:
        return float(outside(self.values, quantization, first=self.first).mean())

    def _best(self, kind: str) -> Quantization | None:
        """The natural or cut windows with the least cost in error and recomputed rows."""
        best, least = None, math.inf
        for offset in self._offsets():
            natural = self._natural(kind, offset)
            error = self.part.error(natural.step, natural.with_zero(self.levels), self.levels)
            options = [(natural, error)]
            options += [
                (self._cut(kind, natural, offset, target), target)
                for target in (_FINE_TARGETS if self.fine else _TARGETS)
                if target < error
            ]
            for k, (windows, error) in enumerate(options):
                try:
                    wide = self._widened(kind, windows)
                    quantization = self._quantization(kind, windows, wide, offset)
                except ValueError:  # does not fit float32
                    continue
                beyond = outside(self.values, quantization, first=self.first)
                error = max(self._measured(quantization, beyond), error / 2)
                share = self._share_of_new(quantization, float(beyond.mean())) if k else 0.0
                cost = _cost_of(error, share, self.fine)
                if cost < least:
                    best, least = quantization, cost
        return best

    def _share_of_new(self, quantization: Quantization, share: float) -> float:
        """The share of new rows outside cut windows, given the share of the fitting rows.

        One standard error is added: of several windows, those with few rows outside are chosen. New
        rows also have values beyond the extreme ones, with exponential excesses.
        """
        n: int = self.values.shape[0]
        low, high = self.columns.bounds()
        scale, offset = quantization.scale.astype(np.float64), quantization.offset
        gaps = np.stack([low + offset * scale, (self.levels - offset) * scale - high])
        excess = np.stack(self._excess)
        near = (gaps >= 0) & (excess > 0)
        edge = float(np.exp(-gaps[near] / excess[near]).sum()) / n
        return share + edge + math.sqrt((share + 1 / n) / n) + _CUT

    def _measured(self, quantization: Quantization, beyond: BoolArray) -> float:
        inside = np.flatnonzero(~beyond)
        if not len(inside):
            return math.inf
        most = at_most_rows(TRIAL_ROWS, self.values.shape[1])
        return self.part.measured(self.values[inside[:: 1 + len(inside) // most]], quantization)

    # Natural windows

    def _natural(self, kind: str, offset: float | None) -> Windows:
        low, high = self._with_room() if kind == "each" else self._pooled()
        if offset is None:
            return Windows(low, (high - low) / self.levels)
        step = step_at(low, high, offset)
        return Windows(low_at(step, offset), step)

    def _with_room(self) -> tuple[Float64Array, Float64Array]:
        return _with_room(self.values, self._excess, self.bounds)

    def _pooled(self) -> tuple[Float64Array, Float64Array]:
        """One window for all columns."""
        low, high = self.bounds
        lower, upper = float(low.min()), float(high.max())
        if not self.first:
            lower, upper = min(lower, 0.0), max(upper, 0.0)
        n = self.values.shape[0]
        room, width = math.log1p(1 / (n * _FRESH)), upper - lower
        k = int(np.clip(n // 10, 1, 10))
        ends = as_dense(self.values.min(axis=1)), as_dense(self.values.max(axis=1))
        smallest, largest = (np.sort(end.astype(np.float64), axis=None) for end in ends)
        below = float(np.mean(smallest[min(k, n - 1)] - smallest[:k]))
        above = float(np.mean(largest[-k:] - largest[max(-k - 1, -n)]))
        if lower < 0:
            lower -= min(room * below, width)
        elif lower > 0:
            lower = max(lower - room * below, 0.0)
        if upper > 0:
            upper += min(room * above, width)
        return np.full(low.shape, lower), np.full(high.shape, upper)

    def _offsets(self) -> list[float | None]:
        """The offsets to try; None if each window has its own offset."""
        if self.first:
            return [None]
        if not self.signed:
            return [0.0]
        bounds = [self._with_room()]
        sample = self.values[:: 1 + len(self.values) // SPREAD_ROWS]
        low, high = np.quantile(sample, [0.005, 0.995], axis=0)
        bounds.append((np.minimum(low, 0.0), np.maximum(high, 0.0)))
        found: list[float | None] = []
        grid = np.arange(2.0, 253.0, 2.0)
        for low, high in bounds:
            costs = [
                float(np.square(self.part.gain * step_at(low, high, offset)).sum())
                for offset in grid
            ]
            found.append(float(grid[int(np.argmin(costs))]))
        return list(dict.fromkeys(found))

    # Cuts and widening

    def _cut(self, kind: str, natural: Windows, offset: float | None, target: float) -> Windows:
        """Narrow the windows until the error of the sums is `target`."""
        zero = natural.with_zero(self.levels)

        def steps(level: float) -> Float64Array:
            if kind == "one":
                return np.minimum(natural.step, level)
            gain = self.part.gain
            limit = np.divide(level, gain, out=np.full_like(gain, np.inf), where=gain > 0)
            return np.minimum(natural.step, limit)

        sizes = natural.step if kind == "one" else natural.step * self.part.gain
        top = float(sizes.max())
        level = largest_good(
            lambda level: self.part.error(steps(level), zero, self.levels) <= target, top
        )
        step = steps(level)
        if offset is not None:
            return Windows(low_at(step, offset), step)
        low = natural.low.copy()
        if kind == "one":
            pooled = np.sort(as_dense(self.values[:: 1 + self.values.shape[0] // 256]), axis=None)
            pooled = pooled[:: 1 + len(pooled) // 65_536]
            low[:] = placed(pooled, step[0] * self.levels)
            return Windows(low, step)
        cut = step < natural.step
        # If most values are 0, the window contains 0, at the same relative position as the values.
        mostly_zero = cut & (2 * self.columns.zeros > self.columns.n)
        least, most = (np.abs(end) for end in self.columns.bounds())
        share = np.divide(least, least + most, out=np.zeros_like(least), where=least + most > 0)
        low = np.where(mostly_zero, -share * step * self.levels, low)
        for j in np.flatnonzero(cut & ~mostly_zero):
            values = self.columns.of(j)
            if self.columns.zeros[j]:
                zeros = np.zeros(self.columns.zeros[j], values.dtype)
                values = np.insert(values, np.searchsorted(values, 0), zeros)
            ranks = np.unique(np.linspace(0, len(values) - 1, 1024).astype(np.intp))
            low[j] = placed(values[ranks], step[j] * self.levels)
        return Windows(low, step)

    def _widened(self, kind: str, windows: Windows) -> Windows:
        """Widen the windows of inputs as far as the error hardly grows."""
        gain, used = self.part.gain, self.part.used
        low, step = windows.low, windows.step
        if kind == "one":
            return windows if step[0] > 0 else Windows(low, np.full_like(step, some_step(low)))
        least = np.maximum(step, LEAST_STEP)
        zero = windows.with_zero(self.levels)
        error = self.part.error(least, zero, self.levels)

        def steps(level: float) -> Float64Array:
            floor = np.divide(level, gain, out=least.copy(), where=gain > 0)
            return np.minimum(np.maximum(least, floor), UNUSED_STEP)

        allowed = max(FREE, min(_HEADROOM * error, max(error, LITTLE)))
        level = largest_good(
            lambda level: self.part.error(steps(level), zero, self.levels) <= allowed,
            max(float((least * gain).max()), 1.0),
        )
        wide = np.where(used, steps(level), UNUSED_STEP)
        wide = np.where((wide <= LEAST_STEP), some_step(low), wide)
        if not self.first:
            return Windows(low, wide)
        extra = (wide - step) * self.levels
        high = low + step * self.levels
        signed = bool((self.bounds[0] < 0).any())
        keeps_low = (low == 0) & ((high > 0) | (not signed))
        keeps_high = (high == 0) & (low < 0)
        share = np.where(keeps_low, 0.0, np.where(keeps_high, 1.0, 0.5))
        lower = low - share * extra
        lower = np.where((low > 0) & (lower < 0), 0.0, lower)
        return Windows(lower, wide)

    def _quantization(
        self, kind: str, narrow: Windows, windows: Windows, offset: float | None
    ) -> Quantization:
        step, low = np.maximum(windows.step, LEAST_STEP), windows.low
        if offset is not None:
            return Quantization(np.array(step[0] if kind == "one" else step), np.array(offset))
        whole = self.columns.whole() if self.first else np.zeros(step.shape, bool)
        if kind == "one":
            whole = np.full(step.shape, bool(whole.all()))
        # Integers are exact if the step is the inverse of an integer.
        most = np.floor(1 / np.maximum(narrow.step, 1e-9) * (1 + 1e-9))
        parts = np.minimum(np.ceil(1 / step * (1 - 1e-9)), most)
        fine = whole & (step <= 1) & (parts >= 1) & (parts < 2**20)
        step = np.where(fine, 1 / np.maximum(parts, 1), step)
        step = step.astype(np.float32).astype(np.float64)
        start = -low / step
        exact = fine | Windows(low, step).with_zero(self.levels)
        start = np.where(exact, np.rint(start), start) + 0.0
        if kind == "one":
            return Quantization(np.array(step[0]), np.array(start[0]))
        with np.errstate(over="ignore"):  # Quantization rejects infinite values
            return Quantization(step.astype(np.float32), start.astype(np.float32))


def natural_bounds(values: Float32Array) -> tuple[Float64Array, Float64Array]:
    """The ranges of the columns of finite values (n, d), with headroom for new rows."""
    columns = Columns(values)
    return _with_room(values, columns.excess(), columns.bounds())


def _with_room(
    values: Any,
    excess: tuple[Float64Array, Float64Array],
    bounds: tuple[Float64Array, Float64Array],
) -> tuple[Float64Array, Float64Array]:
    (low, high), (below, above) = bounds, excess
    room, width = _room(values), high - low
    lower = low - np.minimum(room * below, width)
    upper = high + np.minimum(room * above, width)
    lower = np.where(low < 0, lower, np.maximum(lower, 0.0))
    return lower, np.where(high > 0, upper, np.minimum(upper, 0.0))


def _room(values: Any) -> float:
    """The headroom of windows beyond the extreme values, in mean excesses.

    For exponential excesses, one row in ``n e^-room`` is beyond each end of each column. Correlated
    columns need less headroom, which is estimated by fitting one half of the rows and testing the
    other.
    """
    n, d = values.shape
    most = math.log1p(2 * d / (max(n, 1) * _FRESH))
    if n < 40:
        return most
    order = np.random.default_rng(1).permutation(n)[: 2 * SPREAD_ROWS]
    half = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    passed = []
    for one, other in (half, half[::-1]):
        columns = Columns(values[one])
        low, high = columns.bounds()
        below, above = columns.excess()
        passed.append(_largest_passing(values[other], low, high, below, above))
    rooms = np.concatenate(passed)
    share = max(_FRESH * n / (len(order) / 2), 1 / len(rooms))
    reached = float(np.quantile(rooms, 1 - min(share, 0.5), method="higher"))
    return min(most, max(0.5, reached + math.log(share * len(order) / 2 / (_FRESH * n))))


def _cost_of(error: float, share: float, fine: bool) -> float:
    """The cost of windows with this error of the sums, and this share of rows outside.

    The penalty of large errors exceeds the cost of recomputing a tenth of the rows. In a `fine`
    fit, errors above that of normally distributed columns cost more.
    """
    cost = (error / _ERROR) ** 2 + max(error - _LARGE_ERROR, 0.0) * 2000 + share / _SHARE
    return cost + max(error - _FINE_ERROR, 0.0) * 500 if fine else cost


def _largest_passing(
    values: Any, low: Float64Array, high: Float64Array, below: Float64Array, above: Float64Array
) -> Float64Array:
    """Largest distance of each row beyond `low` or `high`, in units of `below` or `above`."""
    below = np.where(below > 0, below, np.inf)
    above = np.where(above > 0, above, np.inf)
    if hasattr(values, "tocsr"):
        of = values.indices
        beyond = np.maximum(
            (low[of] - values.data) / below[of], (values.data - high[of]) / above[of]
        )
        result = np.zeros(values.shape[0])
        np.maximum.at(result, np.repeat(np.arange(len(result)), np.diff(values.indptr)), beyond)
        return result
    result = np.empty(len(values))
    for at in chunks(*values.shape):
        beyond = np.maximum((low - values[at]) / below, (values[at] - high) / above)
        result[at] = np.maximum(beyond.max(axis=1), 0.0)
    return result

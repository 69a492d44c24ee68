"""Differences between int8 and f32 outputs of a network."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np

from lrgate.model.odds import log_odds, margin_of_share, margins_of_rows
from lrgate.quantization.limits import (
    MOST_CHANGED,
    MOST_MARGIN_ERROR,
    MOST_OUTPUT_ERROR,
    USUALLY_CHANGED,
)
from lrgate.types import BoolArray, Float32Array, Float64Array

__all__ = [
    "Difference",
    "difference",
    "least_margin",
]

# Share of rows, those with the smallest margins, whose errors estimate the labels that change.
_SMALL: Final = 1 / 3

# Halvings of the interval of a least margin.
_BISECTIONS: Final = 30


@dataclass(frozen=True)
class Difference:
    """Difference between int8 and f32 outputs; see `QuantizationReport`."""

    changed: float
    expected_changed: float
    relative: float
    surely_changed: float = 0.0

    def worst(self, other: Difference) -> Difference:
        """The element-wise maximum of both differences."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Difference(*(max(a, b) for a, b in pairs))

    def within(self, part: float = 1.0) -> bool:
        """Whether the difference is within this share of the documented limits."""
        regresses = math.isnan(self.changed)
        most = MOST_OUTPUT_ERROR if regresses else MOST_MARGIN_ERROR
        shares = max(self.surely_changed, self.expected_changed)
        return shares <= part * MOST_CHANGED and self.relative <= part * most


def difference(
    exact: Float32Array,
    got: Float32Array,
    out_of_range: BoolArray,
    task: str | None,
    activation: str,
    least_margin: float = 0.0,
) -> Difference:
    """Compare the outputs of a network in int8 with those in f32.

    Parameters
    ----------
    exact, got : float32 arrays of shape (n, k)
        Outputs in f32 and in int8, without a least margin.
    out_of_range : bool array of shape (n,)
        Rows that were recomputed in f32.
    task : str, optional
        "classification", "multilabel", or any other value for regression.
    activation : str
        Activation of the last layer.
    least_margin : float
        Rows with a smaller margin will be recomputed.
    """
    # For regression, too, errors are measured before a last softmax or sigmoid.
    one, other = log_odds(exact, activation), log_odds(got, activation)
    kept = ~out_of_range
    # A recomputed row is dense, but f32 may use gates. This difference is not caused by int8.
    other = np.where(out_of_range[:, None], one, other)
    if task not in ("classification", "multilabel"):
        variance = one.var(axis=0)
        off = np.square(other - one)[kept].sum(axis=0) / max(len(one), 1)
        relative = np.divide(off, variance, out=np.where(off > 0, np.inf, 0.0), where=variance > 0)
        return Difference(math.nan, 0.0, float(relative.mean()))
    margins, others = _margins(one, other, task)
    close = margins_of_rows(other, task, activation) < least_margin
    changed = float(((others < 0) & ~close[:, None]).mean())
    errors = np.abs(others - margins)
    errors[~kept] = 0.0
    share = _expected_changed(np.sort(margins, axis=None), _small(margins, errors), least_margin)
    usual = float(np.mean(np.square(margins)))
    off = float(np.sum(np.square(errors))) / max(margins.size, 1)
    relative = off / usual if usual > 0 else (math.inf if off > 0 else 0.0)
    count = margins.size
    surely = changed - 1.645 * math.sqrt(changed * (1 - changed) / max(count, 1))
    return Difference(changed, share, relative, surely if changed * count >= 3 else 0.0)


def least_margin(
    exact: Float32Array,
    got: Float32Array,
    out_of_range: BoolArray,
    task: str | None,
    activation: str,
    most_close: float,
) -> float:
    """The least margin with which int8 is expected to change at most `USUALLY_CHANGED` labels.

    It is smaller if about a share `most_close` of the rows would be recomputed, and 0 for
    regression. The other parameters are those of `difference`.
    """
    if task not in ("classification", "multilabel"):
        return 0.0
    one, other = log_odds(exact, activation), log_odds(got, activation)
    other = np.where(out_of_range[:, None], one, other)
    margins, others = _margins(one, other, task)
    errors = _small(margins, np.abs(others - margins))
    ranked = np.sort(margins, axis=None)
    if _expected_changed(ranked, errors, 0.0) <= USUALLY_CHANGED:
        return 0.0
    most = margin_of_share(margins_of_rows(other, task, activation), most_close)
    most = min(most, float(errors.max(initial=0.0)))
    if _expected_changed(ranked, errors, most) > USUALLY_CHANGED:
        return most
    low, high = 0.0, most
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _expected_changed(ranked, errors, middle) > USUALLY_CHANGED:
            low = middle
        else:
            high = middle
    return high


def _margins(
    one: Float64Array, other: Float64Array, task: str | None
) -> tuple[Float64Array, Float64Array]:
    """The margins (n, labels) of the labels of `one`, in both log odds; one column for classes."""
    if task == "multilabel" or one.shape[1] == 1:
        return np.abs(one), np.where(one >= 0, other, -other)
    ranks = np.argsort(-one, axis=1, kind="stable")[:, :2]
    first, second = np.take_along_axis(one, ranks, axis=1).T
    top = np.take_along_axis(other, ranks[:, :1], axis=1)
    rest = other.copy()
    np.put_along_axis(rest, ranks[:, :1], -np.inf, axis=1)
    return (first - second)[:, None], top - rest.max(axis=1, keepdims=True)


def _small(margins: Float64Array, errors: Float64Array) -> Float64Array:
    """The errors of rows with small margins. Probabilities close to 0 or 1 hide errors."""
    return errors[margins <= np.quantile(margins, _SMALL, axis=0, method="lower")]


def _expected_changed(ranked: Float64Array, errors: Float64Array, least: float) -> float:
    """The share of labels that change if any error may meet any margin.

    An error lowers or raises a margin. It must lower it to less than ``-least``, or the row is
    recomputed.
    """
    counts = np.searchsorted(ranked, errors - least, side="left")
    return float(counts.mean()) / ranked.size / 2 if counts.size else 0.0

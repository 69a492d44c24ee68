"""Differences between int8 and f32 outputs of a network."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np

from lrgate.model.odds import log_odds
from lrgate.quantization.limits import MOST_CHANGED, MOST_MARGIN_ERROR, MOST_OUTPUT_ERROR
from lrgate.types import BoolArray, Float32Array

__all__ = [
    "Difference",
    "difference",
]

# Share of rows, those with the smallest margins, whose errors estimate the labels that change.
_SMALL: Final = 1 / 3


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
    recomputed: BoolArray,
    task: str | None,
    activation: str,
) -> Difference:
    """Compare the outputs of a network in int8 with those in f32.

    Parameters
    ----------
    exact, got : float32 arrays of shape (n, k)
        Outputs in f32 and in int8.
    recomputed : bool array of shape (n,)
        Rows that were recomputed in f32.
    task : str, optional
        "classification", "multilabel", or any other value for regression.
    activation : str
        Activation of the last layer.
    """
    # For regression, too, errors are measured before a last softmax or sigmoid.
    one, other = log_odds(exact, activation), log_odds(got, activation)
    kept = ~recomputed
    # A recomputed row is dense, but f32 may use gates. This difference is not caused by int8.
    other = np.where(recomputed[:, None], one, other)
    if task not in ("classification", "multilabel"):
        variance = one.var(axis=0)
        off = np.square(other - one)[kept].sum(axis=0) / max(len(one), 1)
        relative = np.divide(off, variance, out=np.where(off > 0, np.inf, 0.0), where=variance > 0)
        return Difference(math.nan, 0.0, float(relative.mean()))
    if task == "multilabel" or one.shape[1] == 1:
        margins, others = np.abs(one), np.where(one >= 0, other, -other)
    else:
        ranks = np.argsort(-one, axis=1, kind="stable")[:, :2]
        first, second = np.take_along_axis(one, ranks, axis=1).T
        margins = (first - second)[:, None]
        top = np.take_along_axis(other, ranks[:, :1], axis=1)
        rest = other.copy()
        np.put_along_axis(rest, ranks[:, :1], -np.inf, axis=1)
        others = top - rest.max(axis=1, keepdims=True)
    changed = float((others < 0).mean())
    errors = np.abs(others - margins)
    # Combine every margin with every error of a row with a small margin: probabilities close to 0
    # or 1 hide errors. An error may raise or lower a margin.
    small = margins <= np.quantile(margins, _SMALL, axis=0, method="lower")
    errors[~kept] = 0.0
    counts = np.searchsorted(np.sort(margins, axis=None), errors[small], side="left")
    share = float(counts.mean()) / margins.size / 2 if counts.size else 0.0
    usual = float(np.mean(np.square(margins)))
    off = float(np.sum(np.square(errors))) / max(margins.size, 1)
    relative = off / usual if usual > 0 else (math.inf if off > 0 else 0.0)
    count = margins.size
    surely = changed - 1.645 * math.sqrt(changed * (1 - changed) / max(count, 1))
    return Difference(changed, share, relative, surely if changed * count >= 3 else 0.0)

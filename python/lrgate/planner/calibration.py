"""The meaning of a classifier's margins according to labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.model.odds import log_odds, log_probabilities, of_two
from lrgate.types import Float32Array, Float64Array, IntArray

__all__ = [
    "Calibration",
    "calibrated",
    "margins_of",
]


# The most output values used for calibration.
_CALIBRATED: Final = 200_000


@dataclass(frozen=True)
class Calibration:
    """The meaning of a classifier's margin for its chance to be right.

    A class is more likely to be right than another by ``factor * (p - q)``, where p and q are
    their probabilities at the temperature. Without labels every changed class counts as 1.

    Attributes
    ----------
    temperature : float
        Divisor of log probabilities: the smallest that the labels do not contradict.
    factor : float
        Above 1 if rows near a boundary are right more often than the probabilities say.
    labelled : bool
    """

    temperature: float = 1.0
    factor: float = 1.0
    labelled: bool = False

    @classmethod
    def of(cls, logits: Float64Array, labels: IntArray) -> Calibration:
        """Fitted to log odds (n, k) and classes (n,).

        The temperature is the lower end of its likelihood interval (one-sided, 95 %), so that few
        labels give sharper probabilities, at which a changed class is more expensive.
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
        """How much more often rows with margins in the lowest third are right than predicted."""
        margins, rivals = margins_of(logits, logits.argmax(axis=1), 1)
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
        logs = log_probabilities(logits / self.temperature)
        first = np.exp(np.take_along_axis(logs, top[:, None], axis=1))
        gains = self.factor * (first - np.exp(np.take_along_axis(logs, others, axis=1)))
        return np.clip(np.nan_to_num(gains, nan=1.0), 0.0, 1.0)

    def most(self, margins: Float64Array) -> Float64Array:
        """The largest gain at these margins."""
        if not self.labelled:
            return np.ones_like(margins)
        return np.minimum(self.factor * np.tanh(margins / (2 * self.temperature)), 1.0)


def calibrated(
    outputs: Float32Array, targets: npt.NDArray[Any], task: str | None, activation: str
) -> Calibration:
    """The calibration of a dense classifier's outputs (n, k) by their labels."""
    rows = max(_CALIBRATED // outputs.shape[1], 100)
    odds = log_odds(outputs[:rows], activation)
    labels = targets[:rows]
    if task == "multilabel" or odds.shape[1] == 1:
        odds, labels = of_two(odds.reshape(-1)), (labels != 0).reshape(-1)
    return Calibration.of(odds, np.asarray(labels, np.int64))


def _negative_log_likelihood(odds: Float64Array, labels: IntArray) -> float:
    return -float(np.take_along_axis(log_probabilities(odds), labels[:, None], axis=1).sum())


def margins_of(odds: Float64Array, top: IntArray, most: int) -> tuple[Float64Array, IntArray]:
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

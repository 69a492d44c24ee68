"""What a faster network may cost: rows to tell it on, the error's increase, and the damage done.

The error is what a user's budget counts, on rows that nothing was fitted on. It moves in steps of a
row, so that a search needs a finer measure on the rows it may look at as often as it likes: the
damage, which is how far outputs are from the dense network's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.network import Network

__all__ = ["FIT_SHARE", "MOST_ROWS", "Damage", "Increase", "Judge", "Split"]

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Shares of the rows that estimators are fitted on and that thresholds are chosen on; the rest
# checks. More rows than the limit do not make gates better.
FIT_SHARE: Final = 0.4
_TUNE_SHARE: Final = 0.2
MOST_ROWS: Final = 20_000


@dataclass(frozen=True, eq=False)
class Split:
    """The rows of the three parts; targets of the last."""

    fit: Any
    tune: Any
    check: Any
    targets: npt.NDArray[Any] | None

    @property
    def count(self) -> int:
        """Rows that estimators are fitted on."""
        return int(self.fit.shape[0])

    @classmethod
    def of(cls, rows: Any, targets: npt.NDArray[Any] | None, seed: int) -> Split:
        order = np.random.default_rng(seed).permutation(rows.shape[0])[:MOST_ROWS]
        first, second = int(FIT_SHARE * len(order)), int((FIT_SHARE + _TUNE_SHARE) * len(order))
        fit, tune, check = np.split(order, [first, second])
        return cls(rows[fit], rows[tune], rows[check], None if targets is None else targets[check])


@dataclass(frozen=True)
class Increase:
    """What a network's outputs cost on the rows that check."""

    before: float
    after: float
    increase: float
    deviation: float
    low: float
    high: float

    def within(self, budget: float) -> bool:
        """Whether the increase is within the budget, with a standard error to spare."""
        return self.increase + self.deviation <= budget


class Judge:
    """Compares a network's outputs with the dense network's, on rows that nothing was fitted on."""

    def __init__(self, dense: Network, rows: Any, targets: npt.NDArray[Any] | None) -> None:
        self.classifies = dense.task == "classification"
        self.targets = targets
        self.probabilities = dense.layers[-1].activation.name == "sigmoid"
        self.dense = dense.forward(rows)
        self.variance = 1.0
        if not self.classifies:
            reference = self.dense.astype(np.float64) if targets is None else targets
            spread = float(np.square(reference - reference.mean(axis=0)).sum(axis=1).mean())
            self.variance = spread if spread > 0 else 1.0

    @property
    def measure(self) -> str:
        """What the budget counts."""
        if self.classifies:
            named = "classification error", "disagreement with the dense network"
        else:
            named = (
                "relative squared error",
                "relative squared difference from the dense network",
            )
        return named[self.targets is None]

    def error(self, outputs: Float32Array) -> Increase:
        """The error before and after, and its increase."""
        before, after = self._losses(self.dense), self._losses(outputs)
        change = after - before
        n = len(change)
        increase, deviation = float(change.mean()), float(change.std() / math.sqrt(n))
        if self.classifies:
            low, high = _paired_interval(int((change > 0).sum()), int((change < 0).sum()), n)
        else:
            low, high = increase - 1.96 * deviation, increase + 1.96 * deviation
        return Increase(float(before.mean()), float(after.mean()), increase, deviation, low, high)

    def _losses(self, outputs: Float32Array) -> Float64Array:
        """What each row costs; as much as can be where an output is NaN."""
        if self.classifies:
            reference = self._classes(self.dense) if self.targets is None else self.targets
            wrong = (self._classes(outputs) != reference) | np.isnan(outputs).any(axis=1)
            return np.asarray(wrong, np.float64)
        reference = self.dense if self.targets is None else self.targets
        losses = np.square(outputs.astype(np.float64) - reference).sum(axis=1) / self.variance
        return np.where(np.isfinite(losses), losses, np.finfo(np.float32).max)

    def _classes(self, outputs: Float32Array) -> IntArray:
        if outputs.shape[1] == 1:
            boundary = 0.5 if self.probabilities else 0.0
            return np.asarray(outputs[:, 0] > boundary, np.int64)
        return np.asarray(outputs.argmax(axis=1), np.int64)


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
        self.classifies = dense.task == "classification"
        outputs = dense.forward(rows).astype(np.float64)
        self.dense = self._log_probabilities(outputs) if self.classifies else outputs
        self.variance = float(np.square(outputs - outputs.mean(axis=0)).sum(axis=1).mean()) or 1.0

    def of(self, network: Network) -> float:
        """Mean Kullback-Leibler divergence of the classes, or relative squared difference."""
        outputs = network.forward(self.rows).astype(np.float64)
        if self.classifies:
            logs = self._log_probabilities(outputs)
            return float((np.exp(self.dense) * (self.dense - logs)).sum(axis=1).mean())
        return float(np.square(outputs - self.dense).sum(axis=1).mean() / self.variance)

    def _log_probabilities(self, outputs: Float64Array) -> Float64Array:
        if self.activation in ("softmax", "sigmoid"):
            outputs = np.clip(outputs, 1e-12, 1 - 1e-12)
            if outputs.shape[1] == 1:
                outputs = np.concatenate([1 - outputs, outputs], axis=1)
            outputs = np.log(outputs)
        elif outputs.shape[1] == 1:
            outputs = np.concatenate([np.zeros_like(outputs), outputs], axis=1)
        shifted = outputs - outputs.max(axis=1, keepdims=True)
        logs: Float64Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return logs

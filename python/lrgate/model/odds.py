"""Log odds and log probabilities of a classifier's outputs, in float64.

Labels and probabilities come from the core (``Engine.head``). Log odds compare the outputs of two
networks where probabilities are so close to 0 or 1 that their differences vanish.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from lrgate.types import Float32Array, Float64Array

__all__ = [
    "log_odds",
    "log_probabilities",
    "margin_of_share",
    "margins_of_rows",
    "of_two",
]


# Probabilities below this are taken to be this large.
_LEAST: Final = 1e-12

# Margins that probabilities of these activations show are smaller.
_LARGEST: Final = {"sigmoid": 16.0, "softmax": 27.0, "log_softmax": 27.0}

# The largest float32 below 1: between it and 1 is rounding, which is no change of the odds.
_MOST: Final = 1.0 - 2.0**-24


def log_odds(outputs: Float32Array, activation: str) -> Float64Array:
    """The logits of outputs (n, k), whatever the last activation is.

    Those of a softmax are known up to a constant per row: the logs of its probabilities, which
    log_softmax gives.
    """
    odds = outputs.astype(np.float64)
    if activation == "sigmoid":
        odds = np.clip(odds, _LEAST, _MOST)
        return np.asarray(np.log(odds) - np.log1p(-odds))
    if activation == "log_softmax":
        return np.maximum(odds, math.log(_LEAST))
    return np.log(np.maximum(odds, _LEAST)) if activation == "softmax" else odds


def of_two(odds: Float64Array) -> Float64Array:
    """The log odds (n,) of one label as those of two classes, (n, 2)."""
    return np.stack([np.zeros_like(odds), odds], axis=1)


def margins_of_rows(odds: Float64Array, task: str | None, activation: str) -> Float64Array:
    """The margin of each row of log odds (n, k), as the engine computes it; (n,).

    It is infinite where probabilities are too close to 0 or 1 to know it.
    """
    if task == "multilabel" or odds.shape[1] == 1:
        margins = np.abs(odds).min(axis=1)
    else:
        pair = np.partition(odds, -2, axis=1)
        margins = pair[:, -1] - pair[:, -2]
    known = _LARGEST.get(activation, math.inf)
    return np.asarray(np.where(margins < known, margins, math.inf))


def margin_of_share(margins: Float64Array, share: float) -> float:
    """A least margin below which about this share of the rows is, in float32.

    One standard error less, so that few rows do not exceed the share by chance. 0 where it is not
    known, or where no row is below it.
    """
    count = share * len(margins)
    at = min(int(count - math.sqrt(count)), len(margins) - 1)
    if at < 1:
        return 0.0
    ranked = np.partition(margins, at)
    # Rows with the same margin are all recomputed or none, whatever its rounding.
    least = 0.999 * float(ranked[at])
    return float(np.float32(least)) if math.isfinite(least) and ranked[:at].min() < least else 0.0


def log_probabilities(odds: Float64Array) -> Float64Array:
    """The logarithm of the softmax of log odds (n, k)."""
    shifted = odds - odds.max(axis=1, keepdims=True)
    logs: Float64Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs

"""Trains a low-rank estimate of signs with Adam: a weighted logistic loss, all ranks at once.

All arrays are float32 and the loop works in place, because it dominates the time of a fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.types import Float32Array

__all__ = ["batch_size", "train"]


# Step size of Adam, in temperatures. Half or twice as much makes no notable difference.
_STEP: Final = 0.06
_WARM_UP: Final = 20
_DECAYS: Final = (0.9, 0.99)
_EPSILON: Final = 1e-12  # below any relevant gradient: the pull on a unit is about 1
_BATCH: Final = 256
_MIX: Final = 0.2  # share of the difference of two rows that is added to a third
_SAMPLE: Final = 1000  # approximate number of rows for temperatures and weights

_PART: Final = 1 << 20  # values whose squares are in memory at a time

# Lower bound of the lost or computed share. With a smaller share there is nothing to learn.
_LEAST_PULL: Final = 1e-9
# Limits of pulls and gradients, so that their products and squares fit float32. Adam ignores a
# common factor of the gradients, so clamping only shortens the steps.
_MOST_PULL: Final = np.float32(1e15)
_MOST_GRADIENT: Final = np.float32(1e18)


@dataclass(frozen=True)
class _Balance:
    """Temperature and weights of the loss of one rank, from the initial scores at that rank."""

    temperature: float
    gain: float  # weight of a positive unit, per energy
    price: float  # weight of any other unit

    @classmethod
    def of(cls, scores: Float32Array, margins: Float32Array, energy: Float32Array) -> _Balance:
        error = _root_mean_square(scores - margins)
        temperature = max(0.5 * error, 1e-5 * _root_mean_square(margins)) or 1.0
        estimate = _sigmoid(scores / np.float32(temperature))
        missed = float(np.mean(energy * (1 - estimate), dtype=np.float64))
        needless = float(np.mean(np.where(margins > 0, 0, estimate), dtype=np.float64))
        least = _LEAST_PULL * float(np.mean(energy, dtype=np.float64))
        gain = 1 / max(missed, least) if missed > 0 else 0.0
        price = 1 / max(needless, _LEAST_PULL) if needless > 0 else 0.0
        return cls(temperature, gain, price)


def batch_size(n: int) -> int:
    """Number of rows of a minibatch, for `n` rows in total."""
    return max(min(n, 32), min(n // 16, _BATCH))


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def train(
    inputs: Float32Array,
    margins: Float32Array,
    energy: Callable[[Float32Array], Float32Array],
    start: tuple[Float32Array, Float32Array, Float32Array],
    ranks: Sequence[int],
    seed: int,
    epochs: int,
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Train factors and offset so that ``inputs u v + offset`` has the signs of `margins`.

    Parameters
    ----------
    inputs : float32 array of shape (n, in)
        Rows; overwritten.
    margins : float32 array of shape (n, out)
        Values that the scores estimate; their magnitude is at most 1.
    energy : callable
        Energy lost when a unit with this margin is dropped: 0 if the margin is not positive.
    start : float32 arrays of shape (in, rank), (rank, out) and (out,)
        Initial factors and offset.
    ranks : sequence of int
        Ranks in ascending order; the last is the rank of `start`.
    seed, epochs : int

    Returns
    -------
    float32 arrays of shape (in, rank), (rank, out) and (out,)
        Trained factors and offset, or `start` if training leaves the range of float32.
    """
    n, rank = len(inputs), ranks[-1]
    u, v, offset = (part.copy() for part in start)
    # Normalise inputs and components, so that one step size suits all parameters. Inputs that
    # hardly vary stay small; otherwise their rare values would be memorised.
    spread = _deviation(inputs, 0.1)
    inputs /= spread
    u *= spread[:, None]
    deviation = _deviation(inputs @ u, 1e-6)
    u /= deviation
    v *= deviation[:, None]

    sample = slice(None, None, max(1, n // _SAMPLE))
    balances = []
    for k in ranks:
        components: Float32Array = inputs[sample] @ u[:, :k]
        scores = components @ v[:k]
        scores += offset
        balances.append(_Balance.of(scores, margins[sample], energy(margins[sample])))
    batch = batch_size(n)
    turn = np.resize(np.arange(len(ranks)), batch)  # index of the rank of each row
    kept = (np.arange(rank) < np.array(ranks)[turn, None]).astype(np.float32)
    cold, gain, price = (
        np.minimum(values, _MOST_PULL).astype(np.float32)[turn, None]
        for values in (
            [1 / b.temperature for b in balances],
            [b.gain / b.temperature / batch for b in balances],
            [b.price / b.temperature / batch for b in balances],
        )
    )

    # Steps are in units of the temperature, so a nearly exact fit hardly moves. Use the lowest
    # temperature of all ranks, limited so that it does not slow down the others.
    temperatures = [balance.temperature for balance in balances]
    step = _STEP * max(min(temperatures), 0.1 * max(temperatures))
    size = _root_mean_square(margins[sample] - margins[sample].mean(axis=0)) or 1.0
    adam = _Adam((u, v, offset), (4 * step / size * _root_mean_square(u), step, step))
    random = np.random.default_rng(seed)
    starts = range(0, n - batch + 1, batch)
    steps = epochs * len(starts)
    for epoch in range(epochs):
        order = random.permutation(n)
        order = np.append(order, order[:2])
        for i, first in enumerate(starts):
            drawn = order[first : first + batch + 2]
            x, margin = _mixed(inputs[drawn]), _mixed(margins[drawn])
            components = x @ u
            components *= kept
            scores = components @ v
            scores += offset
            scores *= cold
            missed = energy(margin)
            missed *= gain
            # Derivative of the loss with respect to the scores: weight * (estimate - truth).
            pull = _sigmoid(scores)
            pull *= np.where(margin > 0, missed, price)
            pull -= missed
            by_component = pull @ v.T
            by_component *= kept
            at = epoch * len(starts) + i
            adam.step(
                (x.T @ by_component, components.T @ pull, pull.sum(axis=0)),
                min(1.0, (at + 1) / _WARM_UP) * (1 - at / steps),
            )
    u /= spread[:, None]
    finite = all(np.isfinite(part).all() for part in (u, v, offset))
    return (u, v, offset) if finite else start


def _deviation(values: Float32Array, floor: float) -> Float32Array:
    """Standard deviation of each column, at least `floor` times the root mean square of all."""
    deviation: Float32Array = values.std(axis=0)
    return np.maximum(deviation, np.float32(floor * _root_mean_square(deviation) or 1.0))


def _root_mean_square(values: Float32Array) -> float:
    # In parts, because the squares take as much memory as the values.
    parts = np.array_split(values, values.size // _PART + 1)
    total = sum(float(np.sum(np.square(part), dtype=np.float64)) for part in parts)
    return math.sqrt(total / values.size)


def _mixed(rows: Float32Array) -> Float32Array:
    """Each row except the last two, plus a share of the difference of the next two rows."""
    mixed: Float32Array = rows[1:-1] - rows[2:]
    mixed *= np.float32(_MIX)
    mixed += rows[:-2]
    return mixed


def _sigmoid(x: Float32Array) -> Float32Array:
    """``1 / (1 + exp(-x))``, in a form that does not overflow."""
    result: Float32Array = x * np.float32(0.5)
    np.tanh(result, out=result)
    result += 1
    result *= np.float32(0.5)
    return result


class _Adam:
    """Adam (Kingma and Ba, "A Method for Stochastic Optimization", arXiv 1412.6980, 2014)."""

    def __init__(self, parameters: Sequence[Float32Array], lengths: Sequence[float]) -> None:
        self._parameters = parameters
        self._lengths = lengths
        self._means = [np.zeros_like(parameter) for parameter in parameters]
        self._squares = [np.zeros_like(parameter) for parameter in parameters]
        self._steps = 0

    def step(self, gradients: Sequence[npt.NDArray[Any]], rate: float) -> None:
        self._steps += 1
        of_mean, of_square = _DECAYS
        unbiased = np.sqrt(1 - of_square**self._steps) / (1 - of_mean**self._steps)
        for parameter, length, gradient, mean, square in zip(
            self._parameters, self._lengths, gradients, self._means, self._squares, strict=True
        ):
            np.clip(gradient, -_MOST_GRADIENT, _MOST_GRADIENT, out=gradient)
            mean *= np.float32(of_mean)
            mean += np.float32(1 - of_mean) * gradient
            square *= np.float32(of_square)
            gradient *= gradient
            gradient *= np.float32(1 - of_square)
            square += gradient
            change = np.sqrt(square)
            change += np.float32(_EPSILON)
            np.divide(mean, change, out=change)
            change *= np.float32(length * rate * unbiased)
            parameter -= change

"""Units and small outputs that are not worth their time.

The effect of a hidden output `a` on the loss is estimated as ``(g a)**2 / 2``, where `g` is the
gradient of a loss whose labels are drawn from the network's own probabilities. With a price for
time, a unit goes if its mean effect is smaller than the price of the time that it takes (Theis,
Korshunova, Tejani and Huszar 2018, arXiv 1801.05787), and outputs below a threshold become 0 if
their effects together are smaller than the price of their products in the next layer.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch

from lrgate.torch.sparsity.costs import Costs, Sparsity
from lrgate.torch.sparsity.objective import Objective
from lrgate.torch.sparsity.student import Student, rows_of
from lrgate.types import Float32Array, Float64Array

__all__ = ["shed"]

_ROWS: Final = 2048
_PART: Final = 512
_DRAWS: Final = 4

# Most of a layer's units that go at once: their effects are estimated one by one.
_MOST_SHED: Final = 0.3

# Most of a layer's squared outputs that a threshold may drop at once, for the same reason.
_MOST_DROPPED: Final = 0.01


def shed(
    student: Student,
    objective: Objective,
    rows: Any,
    costs: Costs,
    sparsity: Sparsity,
    price: float,
) -> None:
    """Remove units, and raise thresholds of ReLU layers, as this price of time suggests.

    `sparsity` is that of the student. Units that are never on are removed as well.
    """
    layers = student.sparse_layers
    outputs, effects = _effects(student, objective, rows, layers)
    saved = costs.of_units(sparsity)
    active = costs.of_active(sparsity.units)
    kept: list[Any] = [None] * len(student.units)
    for i in layers:
        if student.activations[i].name in ("relu", "thresholded_relu"):
            threshold = _threshold(outputs[i], effects[i], price * active[i])
            if threshold > student.activations[i].threshold:
                student.set_threshold(i, threshold)
        worth = effects[i].mean(axis=0) - price * saved[i]
        kept[i] = _kept(worth, (sparsity.on[i] == 0) & ~(outputs[i] > 0).any(axis=0))
    student.keep(kept)


def _effects(
    student: Student, objective: Objective, rows: Any, layers: list[int]
) -> tuple[dict[int, Float32Array], dict[int, Float32Array]]:
    """Outputs (n, units) of some hidden layers, and their estimated effects on the loss.

    On rows drawn at random, since rows may be sorted.
    """
    order = torch.randperm(rows.shape[0])[:_ROWS].numpy()
    found: dict[int, list[Any]] = {i: [] for i in layers}
    effects: dict[int, list[Any]] = {i: [] for i in layers}
    for at in range(0, len(order), _PART):
        x = rows_of(rows, order[at : at + _PART])
        z, hidden = student(x)
        chosen = [hidden[i] for i in layers]
        squares = [torch.zeros_like(each) for each in chosen]
        for draw in range(_DRAWS):
            last = draw + 1 == _DRAWS
            gradients = torch.autograd.grad(objective.drawn(z), chosen, retain_graph=not last)
            for total, gradient in zip(squares, gradients, strict=True):
                total += gradient.square()
        for i, output, square in zip(layers, chosen, squares, strict=True):
            output = output.detach()
            found[i].append(output.numpy())
            effects[i].append((output.square() * square / (2 * _DRAWS)).numpy())
    return (
        {i: np.concatenate(parts) for i, parts in found.items()},
        {i: np.concatenate(parts) for i, parts in effects.items()},
    )


def _threshold(outputs: Float32Array, effects: Float32Array, price: float) -> float:
    """The threshold that saves most, in the loss: outputs up to it become 0."""
    on = outputs > 0
    values, lost = outputs[on], effects[on].astype(np.float64)
    if len(values) == 0:
        return 0.0
    order = np.argsort(values)
    values, lost = values[order], lost[order]
    squares = np.cumsum(np.square(values, dtype=np.float64))
    gain = price * np.arange(1, len(values) + 1) - np.cumsum(lost)
    allowed = squares <= _MOST_DROPPED * squares[-1]
    best = int(np.argmax(np.where(allowed, gain, -np.inf)))
    return float(values[best]) if allowed[best] and gain[best] > 0 else 0.0


def _kept(worth: Float64Array, never_on: Any) -> Any:
    """Units to keep; None for all."""
    order = np.argsort(np.where(never_on, -np.inf, worth))
    most = max(int(_MOST_SHED * len(worth)), int(never_on.sum()))
    gone = [unit for unit in order[:most] if never_on[unit] or worth[unit] < 0]
    gone = gone[: len(worth) - 1]
    return np.setdiff1d(np.arange(len(worth)), gone) if gone else None

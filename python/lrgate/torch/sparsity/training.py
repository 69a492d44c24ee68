"""Training of a student for some epochs, with a price on its active units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from lrgate.torch.sparsity.objective import Objective
from lrgate.torch.sparsity.student import Student, rows_of

__all__ = ["Schedule", "Trainer"]

# Steps, as a share of all, in which the learning rate rises; it falls along a half cosine.
_WARM_UP: Final = 0.1

# Steps, as a share of all, in which prices rise to their full value.
_RISING: Final = 0.4

# Of the number of active units in the loss. The estimate is a lower bound, and it changes less than
# the number where outputs are small: with its plain price hardly any unit is switched off.
_EMPHASIS: Final = 10.0

_TINY: Final = 1e-12


@dataclass(frozen=True)
class Schedule:
    """Settings of one training.

    Attributes
    ----------
    epochs, batch_size : int
    learning_rate : float
        The highest.
    """

    epochs: int
    batch_size: int
    learning_rate: float

    def rate(self, share: float) -> float:
        """The learning rate after a share of the steps."""
        if share < _WARM_UP:
            return self.learning_rate * share / _WARM_UP
        fallen = (share - _WARM_UP) / (1 - _WARM_UP)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * fallen))


class Trainer:
    """Trains students on the same rows.

    Parameters
    ----------
    rows : uint8 or float32 array (n, d), or CSR
    objective : Objective
    augment : callable, optional
        Changes a batch of raw rows, float32 (n, d).
    step : callable
        Called after each epoch.
    """

    def __init__(
        self,
        rows: Any,
        objective: Objective,
        augment: Callable[[Tensor], Tensor] | None,
        step: Callable[[], None],
    ) -> None:
        self._rows, self._objective = rows, objective
        self._augment, self._step = augment, step
        self._count = rows.shape[0]
        self._taught: Tensor | None = None
        if augment is None:
            index = np.arange(self._count)
            parts = [rows_of(rows, index[at : at + 1024]) for at in range(0, self._count, 1024)]
            self._taught = torch.cat([objective.teach(part) for part in parts])

    def train(
        self,
        student: Student,
        schedule: Schedule,
        before: Sequence[float],
        after: Sequence[float],
        *,
        relufy: bool = False,
    ) -> bool:
        """Train a student in place; returns whether its weights stayed finite.

        The loss includes, for each hidden layer, the price of an active unit times the estimated
        number of active units. Prices rise from `before` to `after`. With `relufy`, the activations
        that are replaced go to ReLU over the first half.
        """
        optimizer = torch.optim.Adam(student.parameters(), lr=0.0, fused=True)
        per_epoch = math.ceil(self._count / schedule.batch_size)
        total, done = per_epoch * schedule.epochs, 0
        for _ in range(schedule.epochs):
            order = torch.randperm(self._count).numpy()
            for at in range(0, self._count, schedule.batch_size):
                share = done / total
                for group in optimizer.param_groups:
                    group["lr"] = schedule.rate(share)
                rising = min(1.0, share / _RISING)
                prices = [a + (b - a) * rising for a, b in zip(before, after, strict=True)]
                student.blend = min(1.0, 2 * share) if relufy else 1.0
                loss = self._loss(student, order[at : at + schedule.batch_size], prices)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                done += 1
            self._step()
        student.blend = 1.0
        return all(bool(each.isfinite().all()) for each in student.parameters())

    def _loss(self, student: Student, index: Any, prices: Sequence[float]) -> Tensor:
        x = rows_of(self._rows, index)
        if self._augment is not None:
            x = self._augmented(x)
        chosen = torch.from_numpy(index)
        taught = self._objective.teach(x) if self._taught is None else self._taught[chosen]
        targets = self._objective.targets
        z, hidden = student(x)
        loss = self._objective.loss(z, taught, None if targets is None else targets[chosen])
        for i in student.sparse_layers:
            if prices[i]:
                loss = loss + _EMPHASIS * prices[i] * _active(hidden[i])
        return loss

    def _augmented(self, x: Tensor) -> Tensor:
        assert self._augment is not None
        changed = self._augment(x)
        if not isinstance(changed, Tensor) or changed.shape != x.shape:
            got = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise ValueError(f"augment must return a tensor of shape {tuple(x.shape)}, got {got}")
        return changed.detach().float()


def _active(outputs: Tensor) -> Tensor:
    """The mean over rows of ``sum(a)**2 / sum(a**2)``, at most the number of active units.

    The scale of the outputs does not matter (Kurtz et al. 2020, "Inducing and exploiting activation
    sparsity for fast inference on deep neural networks").
    """
    sums, squares = outputs.sum(1), outputs.square().sum(1)
    result: Tensor = (sums.square() / (squares + _TINY)).mean()
    return result

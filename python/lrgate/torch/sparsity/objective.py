"""The training loss: distance from the given network's outputs, and from labels."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lrgate.model.activation import Activation
from lrgate.planner.divergence import variance_of
from lrgate.torch.sparsity.student import Student

__all__ = ["Objective"]

# Of the classes' probabilities in distillation: above 1, unlikely classes count too (Hinton,
# Vinyals and Dean 2015, arXiv 1503.02531).
_TEMPERATURE: Final = 2.0

# Of the labels in the loss, if there are any; the rest is that of the given network's outputs.
_LABEL_SHARE: Final = 0.5


class Objective:
    """Losses (n,) per row: nats for classes and labels, relative squared errors for values.

    Parameters
    ----------
    task : str
    teacher : Student
    targets : array of class indices (n,), or of values or labels (n, k), optional
        Of the rows that train.
    outputs : float32 array (n, k)
        The given network's outputs on the rows that train.
    """

    def __init__(self, task: str, teacher: Student, targets: Any, outputs: Any) -> None:
        self._task, self._teacher = task, teacher
        self.targets = None if targets is None else torch.from_numpy(targets)
        self._kind = _kind(task, teacher.activations[-1], teacher.units[-1])
        values = outputs.astype(np.float64) if targets is None else targets
        self._variance = 1.0
        if self._kind == "values":
            self._variance = variance_of(values) or variance_of(outputs) or 1.0
        if self._kind == "binary" and self.targets is not None:
            self.targets = self.targets.reshape(len(self.targets), -1).float()
        elif self._kind == "values" and self.targets is not None:
            self.targets = self.targets.float()

    def _scores(self, z: Tensor) -> Tensor:
        """Logits or values of the last layer's pre-activations."""
        plain = self._teacher.activations[-1].name in ("softmax", "log_softmax", "sigmoid")
        return z if plain and self._kind != "values" else self._teacher.outputs(z)

    @torch.no_grad()
    def teach(self, x: Tensor) -> Tensor:
        """The given network's logits or values (n, k) on raw rows."""
        return self._scores(self._teacher(x)[0])

    def loss(self, z: Tensor, taught: Tensor, targets: Tensor | None) -> Tensor:
        """The mean loss of pre-activations (n, k)."""
        scores, rows = self._scores(z), len(z)
        if self._kind == "values":
            loss = (scores - taught).square().sum() / (rows * self._variance)
            if targets is None:
                return loss
            own = (scores - targets).square().sum() / (rows * self._variance)
            return torch.lerp(loss, own, _LABEL_SHARE)
        heat = _TEMPERATURE
        if self._kind == "classes":
            logs = functional.log_softmax(scores / heat, 1)
            wanted = functional.log_softmax(taught / heat, 1)
            loss = functional.kl_div(logs, wanted, reduction="batchmean", log_target=True)
        else:
            wanted = torch.sigmoid(taught / heat)
            loss = _binary(scores / heat, wanted) / rows - _binary(taught / heat, wanted) / rows
        loss = loss * heat**2
        if targets is None:
            return loss
        own = (
            functional.cross_entropy(scores, targets)
            if self._kind == "classes"
            else _binary(scores, targets) / rows
        )
        return torch.lerp(loss, own, _LABEL_SHARE)

    def drawn(self, z: Tensor) -> Tensor:
        """A sum over rows whose gradients have the loss's Fisher information as covariance.

        Labels are drawn from the network's own probabilities; for values, the outputs' Gauss-Newton
        approximation.
        """
        scores = self._scores(z)
        if self._kind == "values":
            noise = torch.randn_like(scores) * math.sqrt(2 / self._variance)
            return (scores * noise).sum()
        heated = scores / _TEMPERATURE
        if self._kind == "classes":
            labels = torch.multinomial(torch.softmax(heated.detach(), 1), 1)[:, 0]
            loss = functional.cross_entropy(heated, labels, reduction="sum")
        else:
            loss = _binary(heated, torch.bernoulli(torch.sigmoid(heated.detach())))
        return loss * _TEMPERATURE


def _kind(task: str, last: Activation, outputs: int) -> str:
    if task == "regression":
        return "values"
    return "binary" if task == "multilabel" or outputs == 1 else "classes"


def _binary(scores: Tensor, wanted: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(scores, wanted, reduction="sum")

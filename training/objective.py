"""Test errors of estimators at equal computed share, in the loop and after training.

Estimators that let more units through have lower errors, so that errors at threshold 0 do not
compare them. Here one threshold for each layer makes it compute a given share of its units.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from data import DataSet
from loop import Trainer, evaluate
from model import MaskedMLP
from study import test_rows

RANKS = (10, 10, 5)
SHARES = (0.1, 0.2, 0.3)
"""Computed shares of the hidden layers that stand for 1 in `SCALES`."""

SCALES = (0.5, 0.75, 1.0, 1.5, 2.0)
GATE_L1 = 3e-4
"""Weight of open gates for factors that are trained: without it they stay open where it costs no
error, and the computed share rises."""

LIGHT_GATE_L1 = 3e-5
"""The same for a network that computes about as many units as one with the factors of svd."""

ESTIMATORS = ("svd", "whitened", "logistic", "trained")

EPOCHS = 5
RATE = 0.05
MOMENTUM = 0.8
"""Training of factors alone, after that of the network."""


def at_shares(trainer: Trainer, data_set: DataSet) -> dict[str, Any]:
    """The best epoch's errors on the test rows with its own estimator, at each share."""
    return {"at_shares": _errors(trainer, data_set)}


def after_training(trainer: Trainer, data_set: DataSet) -> dict[str, Any]:
    """The same with each estimator fitted to the best epoch's weights at ranks `RANKS`."""
    fitted: dict[str, Any] = {}
    for estimator in ESTIMATORS:
        trainer.fit_factors(estimator, RANKS)
        if estimator == "trained":
            train_factors(trainer)
        x, y = test_rows(data_set)
        figures = trainer.evaluate(x, y)
        fitted[estimator] = {
            "error": figures.error,
            "computed_share": [round(share, 4) for share in figures.computed],
            "at_shares": _errors(trainer, data_set),
        }
    trainer.model.factors = [None] * len(RANKS)
    return {"after_training": fitted}


def train_factors(trainer: Trainer) -> None:
    """Train the factors alone by back-propagation through the mask; the weights stay."""
    factors = [one for one in trainer.model.factors if one is not None]
    parameters = [tensor for one in factors for tensor in (one.down, one.up, one.offset)]
    weights = list(trainer.model.parameters())
    for weight in weights:
        weight.requires_grad_(False)
    optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM)
    batch = trainer.recipe.batch_size
    rows = len(trainer.x_train)
    steps = EPOCHS * -(-rows // batch)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    generator = torch.Generator().manual_seed(trainer.recipe.seed)
    for _ in range(EPOCHS):
        order = torch.randperm(rows, generator=generator)
        for start in range(0, rows, batch):
            some = order[start : start + batch]
            outputs, hidden = trainer.model(trainer.scaling.apply(trainer.x_train[some]))
            loss = functional.cross_entropy(outputs, trainer.y_train[some])
            for layer in hidden:
                if layer.estimate is not None:
                    loss = loss + GATE_L1 * layer.estimate.sum() / len(some)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
    for weight in weights:
        weight.requires_grad_(True)


def _errors(trainer: Trainer, data_set: DataSet) -> list[dict[str, Any]]:
    """Errors at every scale; thresholds are fitted on the validation rows, without labels."""
    model = trainer.model
    x, y = test_rows(data_set)
    own = list(model.factors)
    found = []
    for scale in SCALES:
        shares = tuple(min(1.0, scale * share) for share in SHARES)
        set_shares(model, trainer.scaling.apply(trainer.x_validation), shares)
        figures = evaluate(model, trainer.scaling, x, y)
        found.append(
            {
                "scale": scale,
                "computed_share": [round(share, 4) for share in figures.computed],
                "error": figures.error,
            }
        )
        model.factors = list(own)
    return found


@torch.no_grad()
def set_shares(model: MaskedMLP, rows: Tensor, shares: tuple[float, ...]) -> None:
    """Shift each layer's estimate so that it computes a share of its units on scaled ``rows``."""
    signal = rows
    for layer, share in enumerate(shares):
        factors = model.factors[layer]
        if factors is not None:
            scores = factors.estimate(signal, model.biases[layer]).flatten()
            threshold = scores.kthvalue(max(1, round((1 - share) * len(scores)))).values
            model.factors[layer] = replace(factors, offset=factors.offset - threshold)
        signal = model.hidden(layer, signal).output

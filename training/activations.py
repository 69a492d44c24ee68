"""Hidden activations, and the use of an estimate of the pre-activations with each of them.

The estimate decides which pre-activations are computed. The output of a unit that is not computed
is a constant: 0 where ReLU and its relatives are flat, -1 or 1 where hard tanh is. A maxout unit
(Goodfellow et al. 2013, arXiv 1302.4389) is the largest of several pre-activations, of which the
one with the largest estimate is computed. tanh and gelu are constant nowhere: an estimate of them
saves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PIECES = 3
"""Pre-activations of a maxout unit."""

UPPER = 1.0
"""Largest output of the clipped ReLU."""

THRESHOLD = 0.3
"""Pre-activations up to it give 0 with the thresholded ReLU."""


@dataclass(frozen=True)
class HiddenActivation:
    """The activation of hidden layers.

    ``apply`` gives the outputs (n, units) of pre-activations (n, units times ``pieces``).
    ``needed`` takes estimates of pre-activations, and is 1 where these must be computed, else 0.
    ``masked`` takes pre-activations, that mask and the estimates, and gives the outputs of a layer
    that computes no others. ``signed`` outputs may be negative. ``sides`` says whether an estimate
    is wrong, too, if it gives a unit the constant of the other side. Without ``flat`` there is no
    range in which the outputs are constant.
    """

    apply: Callable[[Tensor], Tensor]
    needed: Callable[[Tensor], Tensor]
    masked: Callable[[Tensor, Tensor, Tensor], Tensor]
    pieces: int = 1
    signed: bool = False
    sides: bool = False
    flat: bool = True


def positive(values: Tensor, limit: float = 0.0) -> Tensor:
    """1 where a value is above ``limit``, else 0, in the dtype of ``values``.

    On a CPU, products with such masks take a fifth of the time of products with boolean ones.
    """
    values = values.detach()
    return torch.gt(values, limit, out=torch.empty_like(values))


def by_name(name: str) -> HiddenActivation:
    """The activation called ``name``, one of `NAMES`."""
    return _ALL[name]


def _flat_at_zero(apply: Callable[[Tensor], Tensor], limit: float = 0.0) -> HiddenActivation:
    """An activation that is 0 up to ``limit``."""
    return HiddenActivation(
        apply,
        lambda values: positive(values, limit),
        lambda values, needed, _: apply(values) * needed,
    )


def _curved(apply: Callable[[Tensor], Tensor]) -> HiddenActivation:
    """An activation that is constant nowhere."""
    return HiddenActivation(
        apply, torch.ones_like, lambda values, *_: apply(values), signed=True, flat=False
    )


def _thresholded(values: Tensor) -> Tensor:
    return values * positive(values, THRESHOLD)


def _not_saturated(values: Tensor) -> Tensor:
    return 1 - positive(values.abs(), 1.0)


def _hard_tanh(values: Tensor, needed: Tensor, estimates: Tensor) -> Tensor:
    return functional.hardtanh(values) * needed + estimates.sign() * (1 - needed)


def _pieces(values: Tensor) -> Tensor:
    return values.unflatten(1, (-1, PIECES))


def _largest(values: Tensor) -> Tensor:
    winners = _pieces(values.detach()).argmax(dim=2, keepdim=True)
    return torch.zeros_like(_pieces(values)).scatter_(2, winners, 1.0).flatten(1)


_ALL = {
    "relu": _flat_at_zero(functional.relu),
    "clipped": _flat_at_zero(lambda values: values.clamp(0.0, UPPER)),
    "thresholded": _flat_at_zero(_thresholded, THRESHOLD),
    "squared": _flat_at_zero(lambda values: functional.relu(values).square()),
    "hard-tanh": HiddenActivation(
        functional.hardtanh, _not_saturated, _hard_tanh, signed=True, sides=True
    ),
    "maxout": HiddenActivation(
        lambda values: _pieces(values).amax(dim=2),
        _largest,
        lambda values, needed, _: _pieces(values * needed).sum(dim=2),
        pieces=PIECES,
        signed=True,
    ),
    "tanh": _curved(torch.tanh),
    "gelu": _curved(functional.gelu),
}

NAMES = tuple(_ALL)
FLAT_NAMES = tuple(name for name, kind in _ALL.items() if kind.flat)
"""Those that an estimator serves."""

"""Factors of a layer's sign estimate: how they are fitted, and how they follow the weights.

The estimate of a layer is ``a U V + b + c`` for the inputs ``a`` and the layer's bias ``b``. Four
methods fit U, V and the offset c:

- **svd**, the paper's: the truncated singular value decomposition of W, with c = 0.
- **whitened**: the smallest mean square error of ``a U V + c`` on real inputs, which is a
  principal component analysis of the pre-activations.
- **logistic**: starts from *whitened* and minimises a logistic loss of the signs, in which a
  positive unit weighs as much as the energy that is lost without it.
- **trained**: U, V and c are parameters of the network and learn from its loss through the mask,
  by a straight-through gradient (`model.HardGate`).

Two cheap updates let the factors of *svd* follow the weights within an epoch: one step of a
warm-started subspace iteration, and a projection on the factors' own input space.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

LOGISTIC_STEPS = 60
LOGISTIC_ROWS = 500
"""Steps of one fit, and rows per step."""

LOGISTIC_RATE = 0.02
"""Adam's learning rate, relative to the root mean square of each factor."""


@dataclass(frozen=True)
class Factors:
    """The estimate of one layer: ``down`` (rank, in), ``up`` (out, rank), ``offset`` (out,)."""

    down: Tensor
    up: Tensor
    offset: Tensor

    def estimate(self, inputs: Tensor, bias: Tensor) -> Tensor:
        """The estimated pre-activations (n, out) of the rows ``inputs`` (n, in)."""
        components = functional.linear(inputs, self.down)
        return functional.linear(components, self.up, bias + self.offset)

    def tensors(self) -> dict[str, Tensor]:
        """The three tensors by name, for a checkpoint."""
        return {field.name: getattr(self, field.name).detach().clone() for field in fields(self)}

    def requires_grad(self) -> Factors:
        """The same factors as leaves that an optimiser can train."""
        return Factors(**{k: v.requires_grad_() for k, v in self.tensors().items()})


@torch.no_grad()
def svd(weight: Tensor, rank: int) -> Factors:
    """The best approximation of ``weight`` (out, in) at ``rank`` in the Frobenius norm.

    From the eigenvectors of the smaller Gram matrix in float64, which takes a third of the time
    of a singular value decomposition. Squaring loses half of the digits of the small singular
    values, but those of the leading ones are kept: the products agree to about 1e-12.
    """
    exact = weight.detach().double()
    if len(exact) <= exact.shape[1]:
        left = _leading_eigenvectors(exact @ exact.T, rank)
        return _factors(left.T @ exact, left)
    right = _leading_eigenvectors(exact.T @ exact, rank)
    return _factors(right.T, exact @ right)


@torch.no_grad()
def subspace_step(weight: Tensor, factors: Factors) -> Factors:
    """One step of subspace iteration for ``weight``, started from the space of ``factors``.

    Two products of the weights with ``rank`` vectors and one QR decomposition of (out, rank).
    """
    left, _ = torch.linalg.qr(weight @ factors.down.T)
    return Factors(left.T @ weight, left, factors.offset)


@torch.no_grad()
def project(weight: Tensor, factors: Factors) -> Factors:
    """The best approximation of ``weight`` whose input space is that of ``factors``.

    ``down`` stays; ``up`` solves the least-squares problem: one product of the weights with
    ``rank`` vectors, and a system of ``rank`` equations.
    """
    gram = factors.down @ factors.down.T
    up = torch.linalg.solve(gram, factors.down @ weight.T).T
    return Factors(factors.down, up.contiguous(), factors.offset)


@torch.no_grad()
def whitened(pre_activations: Tensor, weight: Tensor, bias: Tensor, rank: int) -> Factors:
    """The factors with the smallest mean square error on calibration rows.

    ``pre_activations`` (n, out) are those of the calibration rows. With their leading principal
    directions Q and their mean m, the estimate ``m + (z - m) Q Q^T`` is the best of its rank;
    ``z = a W + b`` makes it ``a (W Q) Q^T`` plus a constant.
    """
    exact = pre_activations.double()
    mean = exact.mean(dim=0)
    centred = exact - mean
    directions = _leading_eigenvectors(centred.T @ centred, rank)
    constant = mean - directions @ (directions.T @ (mean - bias.double()))
    factors = _factors(directions.T @ weight.double(), directions)
    return Factors(factors.down, factors.up, (constant - bias.double()).float())


def logistic(inputs: Tensor, pre_activations: Tensor, bias: Tensor, start: Factors) -> Factors:
    """Train ``start`` on the signs of the calibration rows ``inputs`` (n, in).

    The loss of a score s is ``w log(1 + exp(-t s / T))`` with the sign t of the pre-activation.
    The weight w of a positive unit is its squared output; negative units have one common weight,
    such that the gradients of both kinds are in balance at the start, which keeps the number of
    computed units. T is half the root mean square error of the start. The order of the rows is
    fixed, so that the same rows give the same factors.
    """
    rows = len(inputs)
    with torch.no_grad():
        error = start.estimate(inputs, bias) - pre_activations
        temperature = float(error.square().mean().sqrt()) / 2 or 1.0
        positive = pre_activations > 0
        slope = torch.sigmoid(
            start.estimate(inputs, bias).div_(temperature) * torch.where(positive, -1.0, 1.0)
        )
        energy = pre_activations.clamp(min=0).square()
        negative_weight = float((slope * energy).sum() / slope[~positive].sum().clamp(min=1e-30))
        weights = torch.where(positive, energy, negative_weight)
        weights /= weights.mean()
    # Components of unit size, so that one learning rate serves all factors.
    size = functional.linear(inputs, start.down).std(dim=0).clamp(min=1e-6)
    names = ("down", "up", "offset")
    values = (start.down / size[:, None], start.up * size / temperature, start.offset)
    parameters = dict(zip(names, (value.clone().requires_grad_() for value in values), strict=True))
    groups = [
        {
            "params": [parameter],
            "lr": LOGISTIC_RATE * float(parameter.detach().square().mean().sqrt().clamp(min=1e-3)),
        }
        for parameter in parameters.values()
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, LOGISTIC_STEPS)
    for step in range(LOGISTIC_STEPS):
        some = torch.arange(step * LOGISTIC_ROWS, (step + 1) * LOGISTIC_ROWS) % rows
        scores = functional.linear(
            functional.linear(inputs[some], parameters["down"]),
            parameters["up"],
            (bias + parameters["offset"]) / temperature,
        )
        loss = functional.binary_cross_entropy_with_logits(
            scores, positive[some].float(), weight=weights[some]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    with torch.no_grad():
        up = parameters["up"] * temperature
        return Factors(parameters["down"].detach(), up, parameters["offset"].detach())


def _leading_eigenvectors(gram: Tensor, rank: int) -> Tensor:
    """The eigenvectors (n, rank) of the largest eigenvalues, largest first."""
    return torch.linalg.eigh(gram)[1].flip(1)[:, :rank]


def _factors(down: Tensor, up: Tensor) -> Factors:
    return Factors(down.float().contiguous(), up.float().contiguous(), torch.zeros(len(up)))

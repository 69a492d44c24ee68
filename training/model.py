"""The fully connected network, with a sign estimate that can mask its hidden layers.

A hidden layer computes ``relu(a W + b)``. With the estimator on it computes
``relu(a W + b) * S``, where S is 1 for the units whose estimate ``a U V + b`` is positive and 0
for the others, as a gated network does at inference, so the training sees the units that the gate
will drop. U and V are the truncated singular value decomposition of W (Davis and Arel 2013,
arXiv 1312.4461), recomputed once per epoch; between two of those the weights move on and the
estimate ages, which the log shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from recipe import Recipe


@dataclass(frozen=True)
class Factors:
    """A low-rank stand-in for one weight (out, in): ``down`` (rank, in), ``up`` (out, rank)."""

    down: Tensor
    up: Tensor

    @staticmethod
    def of(weight: Tensor, rank: int) -> Factors:
        """The best approximation of ``weight`` at ``rank`` in the Frobenius norm, by SVD."""
        left, singular, right = torch.linalg.svd(weight.detach().double(), full_matrices=False)
        down = singular[:rank, None] * right[:rank]
        return Factors(down.float().contiguous(), left[:, :rank].float().contiguous())

    def estimate(self, inputs: Tensor, bias: Tensor) -> Tensor:
        """The estimated pre-activations (n, out) of the rows ``inputs`` (n, in)."""
        return functional.linear(functional.linear(inputs, self.down), self.up, bias)


@dataclass(frozen=True)
class HiddenPass:
    """The result of one hidden layer for a batch of n rows; all tensors are (n, units)."""

    pre_activation: Tensor
    estimated_positive: Tensor | None
    output: Tensor


class MaskedMLP(nn.Module):
    """A ReLU network whose hidden layers may be masked by estimated signs.

    Weights are drawn from N(0, ``init_std``) and biases start at 0. ``factors`` has one entry
    per hidden layer: None where the layer is not masked.
    """

    def __init__(self, widths: list[int], init_std: float) -> None:
        super().__init__()
        self.widths = widths
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(units, inputs) * init_std)
            for inputs, units in pairwise(widths)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(units)) for units in widths[1:])
        self.factors: list[Factors | None] = [None] * (len(widths) - 2)

    def refresh_factors(self, ranks: tuple[int, ...]) -> None:
        """Recompute the estimator's factors from the current weights; rank 0 has none."""
        hidden_weights = list(self.weights)[:-1]
        self.factors = [
            Factors.of(weight, rank) if rank else None
            for weight, rank in zip(hidden_weights, ranks, strict=True)
        ]

    def forward(
        self, x: Tensor, dropout: float = 0.0, masked: bool = True
    ) -> tuple[Tensor, list[HiddenPass]]:
        """Raw outputs (n, classes) of the scaled rows ``x`` (n, inputs), and each hidden layer.

        ``dropout`` acts on the hidden outputs. ``masked=False`` leaves the estimator's mask out;
        its estimate is still reported.
        """
        passes: list[HiddenPass] = []
        signal = x
        for layer in range(len(self.weights) - 1):
            hidden = self._hidden(layer, signal, masked)
            passes.append(hidden)
            signal = functional.dropout(hidden.output, dropout, training=dropout > 0)
        return functional.linear(signal, self.weights[-1], self.biases[-1]), passes

    def _hidden(self, layer: int, inputs: Tensor, masked: bool) -> HiddenPass:
        bias = self.biases[layer]
        pre_activation = functional.linear(inputs, self.weights[layer], bias)
        output = functional.relu(pre_activation)
        factors = self.factors[layer]
        if factors is None:
            return HiddenPass(pre_activation, None, output)
        with torch.no_grad():
            estimated_positive = factors.estimate(inputs, bias) > 0
        if masked:
            output = output * estimated_positive
        return HiddenPass(pre_activation, estimated_positive, output)

    @torch.no_grad()
    def limit_norms(self, max_norm: float) -> None:
        """Scale down the incoming weights of every unit whose L2 norm is above ``max_norm``."""
        for weight in self.weights:
            norms = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
            if float(norms.max()) > max_norm:
                weight.mul_(norms.clamp(max=max_norm) / norms)


def build(recipe: Recipe, input_size: int, classes: int) -> MaskedMLP:
    """A fresh network for ``recipe``; draws from PyTorch's global generator."""
    return MaskedMLP([input_size, *recipe.hidden, classes], recipe.init_std)

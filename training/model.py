"""The fully connected network, with a sign estimate that can mask its hidden layers.

A hidden layer computes ``relu(a W + b)``. With the estimator on it computes
``relu(a W + b) * S``, where S is 1 for the units whose estimate is positive and 0 for the others,
as a gated network does at inference, so the training sees the units that the gate will drop
(Davis and Arel 2013, arXiv 1312.4461). `activations` has the other activations, and
their S. `factors` fits the estimate. Between two fits the weights move on and the estimate ages,
which the log shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import activations
import factors
from activations import HiddenActivation, positive
from factors import Factors
from recipe import Recipe

GATE_WIDTH = 1.0
"""Width of the sigmoid whose slope stands for that of the mask, in units of the estimate."""


@dataclass(frozen=True)
class HiddenPass:
    """The result of one hidden layer for a batch of n rows.

    ``output`` is (n, units), and so is ``pre_activation``, but maxout has several for each unit.
    ``estimate``, in the shape of the latter, is 1 for those that are estimated to be needed, with
    ReLU the positive ones, and 0 for the others; None without an estimator. It has the gradient of
    `HardGate` where factors are trained.
    """

    activation: HiddenActivation
    pre_activation: Tensor
    estimate: Tensor | None
    output: Tensor

    @torch.no_grad()
    def wrong_signs(self) -> float:
        """The share of wrong estimates, with ReLU of signs; 0 for a layer without estimate."""
        if self.estimate is None:
            return 0.0
        wrong = self.activation.needed(self.pre_activation)
        torch.ne(wrong, self.estimate, out=wrong)
        if self.activation.sides:
            other = (self.output.sign() != self.pre_activation.sign()) & (self.estimate == 0)
            wrong[other] = 1.0
        return float(wrong.mean())


class HardGate(torch.autograd.Function):
    """1 where a score is above 0, else 0; its gradient is that of a sigmoid (straight-through)."""

    @staticmethod
    def forward(ctx: Any, score: Tensor) -> Tensor:
        """The mask of ``score``, in its dtype."""
        ctx.save_for_backward(score)
        return positive(score)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """``gradient`` times the slope of ``sigmoid(score / GATE_WIDTH)``."""
        (score,) = ctx.saved_tensors
        soft = torch.sigmoid(score / GATE_WIDTH)
        return gradient * soft * (1 - soft) / GATE_WIDTH


class MaskedMLP(nn.Module):
    """A network, of ReLU by default, whose hidden layers may be masked by estimates.

    Weights are drawn from N(0, ``init_std``), a number for all layers or one for each, and biases
    start at 0. ``factors`` has one entry
    per hidden layer: None where the layer is not masked.
    """

    def __init__(
        self, widths: list[int], init_std: float | Sequence[float], activation: str = "relu"
    ) -> None:
        super().__init__()
        self.widths = widths
        self.activation = activations.by_name(activation)
        pieces = [self.activation.pieces] * (len(widths) - 2) + [1]
        rows = [units * count for units, count in zip(widths[1:], pieces, strict=True)]
        stds = [init_std] * len(rows) if isinstance(init_std, float) else init_std
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(units, inputs) * std)
            for inputs, units, std in zip(widths[:-1], rows, stds, strict=True)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(units)) for units in rows)
        self.factors: list[Factors | None] = [None] * (len(widths) - 2)

    def fit_factors(self, estimator: str, ranks: tuple[int, ...], rows: Tensor) -> None:
        """Fit every hidden layer's factors to the weights as they are; rank 0 has none.

        ``rows`` (n, inputs) are scaled calibration rows; ``svd`` does not use them. Later layers
        are fitted on the outputs of masked earlier ones, as they come at inference.
        """
        signal = rows
        for layer, rank in enumerate(ranks):
            self.factors[layer] = self._fit(layer, estimator, rank, signal) if rank else None
            if estimator != "svd":
                with torch.no_grad():
                    signal = self.hidden(layer, signal).output

    def _fit(self, layer: int, estimator: str, rank: int, inputs: Tensor) -> Factors:
        weight, bias = self.weights[layer].detach(), self.biases[layer].detach()
        if estimator == "svd":
            return factors.svd(weight, rank)
        pre_activations = functional.linear(inputs, weight, bias)
        fitted = factors.whitened(pre_activations, weight, bias, rank)
        if estimator == "logistic":
            return factors.logistic(inputs, pre_activations, bias, fitted)
        return fitted.requires_grad() if estimator == "trained" else fitted

    def update_factors(self, method: str) -> None:
        """Let every layer's factors follow the weights, by ``"subspace"`` or ``"projection"``."""
        update = factors.subspace_step if method == "subspace" else factors.project
        for layer, old in enumerate(self.factors):
            if old is not None:
                self.factors[layer] = update(self.weights[layer].detach(), old)

    def factor_tensors(self) -> list[dict[str, Tensor] | None]:
        """Copies of all factors, for a checkpoint."""
        return [one and one.tensors() for one in self.factors]

    @torch.no_grad()
    def load_factors(self, saved: list[dict[str, Tensor] | None]) -> None:
        """The inverse of :meth:`factor_tensors`; factors that are trained keep their identity."""
        for layer, tensors in enumerate(saved):
            old = self.factors[layer]
            if old is not None and tensors is not None and old.down.requires_grad:
                for name, tensor in tensors.items():
                    getattr(old, name).copy_(tensor)
            else:
                self.factors[layer] = Factors(**tensors) if tensors else None

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
            hidden = self.hidden(layer, signal, masked)
            passes.append(hidden)
            signal = drop(hidden.output, dropout) if dropout else hidden.output
        return functional.linear(signal, self.weights[-1], self.biases[-1]), passes

    def hidden(self, layer: int, inputs: Tensor, masked: bool = True) -> HiddenPass:
        """One hidden layer for the rows ``inputs`` (n, in)."""
        bias = self.biases[layer]
        kind = self.activation
        pre_activation = functional.linear(inputs, self.weights[layer], bias)
        fitted = self.factors[layer]
        if fitted is None:
            return HiddenPass(kind, pre_activation, None, kind.apply(pre_activation))
        if masked and fitted.down.requires_grad and torch.is_grad_enabled():
            scores = fitted.estimate(inputs, bias)
            mask = HardGate.apply(scores)
            return HiddenPass(kind, pre_activation, mask, kind.masked(pre_activation, mask, scores))
        with torch.no_grad():
            scores = fitted.estimate(inputs, bias)
            mask = kind.needed(scores)
        if not masked:
            return HiddenPass(kind, pre_activation, mask, kind.apply(pre_activation))
        return HiddenPass(kind, pre_activation, mask, kind.masked(pre_activation, mask, scores))

    @torch.no_grad()
    def limit_norms(self, max_norm: float) -> None:
        """Scale down the incoming weights of every unit whose L2 norm is above ``max_norm``."""
        for weight in self.weights:
            norms = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
            if float(norms.max()) > max_norm:
                weight.mul_(norms.clamp(max=max_norm) / norms)


def drop(values: Tensor, share: float) -> Tensor:
    """Set about ``share`` of ``values`` to zero and scale the others up, for dropout.

    The random numbers have 16 bits, four to one draw of the generator: a tenth of the time of
    `torch.nn.functional.dropout` on a CPU. The share is a multiple of 1/65536.
    """
    draws = torch.empty(math.ceil(values.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
    numbers = draws.view(torch.int16)[: values.numel()].view(values.shape).to(values.dtype)
    limit = round(share * 65536)
    mask = torch.ge(numbers, limit - 32768, out=numbers)
    return values * mask.mul_(65536 / (65536 - limit))


def build(recipe: Recipe, input_size: int, classes: int) -> MaskedMLP:
    """A fresh network for ``recipe``; draws from PyTorch's global generator."""
    widths = [input_size, *recipe.hidden, classes]
    return MaskedMLP(widths, recipe.init_std_by_layer, recipe.activation)

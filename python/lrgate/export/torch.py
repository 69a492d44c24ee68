"""Conversion of a network to a PyTorch module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lrgate.export.layers import dense_layers
from lrgate.model.activation import Activation
from lrgate.model.model import Model

__all__ = ["InputMap", "activation_module", "to_module"]


class InputMap(nn.Module):
    """``x * scale + shift``, as a network applies it to its input.

    Parameters
    ----------
    scale, shift : tensor () or (d,), optional
    """

    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, scale: Tensor | None, shift: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is not None:
            x = x * self.scale
        return x if self.shift is None else x + self.shift


class Exp(nn.Module):
    """The exponential."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class SquaredReLU(nn.Module):
    """``relu(x) ** 2``."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x).square()


def _prelu(slopes: Any) -> nn.Module:
    values = torch.as_tensor(np.atleast_1d(np.asarray(slopes, np.float32)).copy())
    module = nn.PReLU(len(values), dtype=torch.float32)
    with torch.no_grad():
        module.weight.copy_(values)
    return module


_MODULES: Final[dict[str, Callable[..., nn.Module]]] = {
    "clipped_relu": lambda upper: nn.ReLU6() if upper == 6.0 else nn.Hardtanh(0.0, upper),
    "elu": nn.ELU,
    "exp": Exp,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_swish": nn.Hardswish,
    "hard_tanh": nn.Hardtanh,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "log_softmax": lambda: nn.LogSoftmax(-1),
    "mish": nn.Mish,
    "prelu": _prelu,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softmax": lambda: nn.Softmax(-1),
    "softplus": nn.Softplus,
    "squared_relu": SquaredReLU,
    "tanh": nn.Tanh,
    "thresholded_relu": lambda threshold: nn.Threshold(threshold, 0.0),
}


def to_module(model: Model) -> nn.Sequential:
    """The dense network as a float32 module in inference mode, without gradients."""
    parts: list[nn.Module] = []
    if model.input_scale is not None or model.input_shift is not None:
        parts.append(InputMap(_tensor(model.input_scale), _tensor(model.input_shift)))
    for weight, bias, activation in dense_layers(model):
        # On the meta device no random weights are drawn.
        linear = nn.Linear(weight.shape[1], len(weight), device="meta")
        linear.load_state_dict({"weight": _tensor(weight), "bias": _tensor(bias)}, assign=True)
        parts.append(linear)
        if activation.name != "identity":
            parts.append(activation_module(activation))
    return nn.Sequential(*parts).eval().requires_grad_(False)


def activation_module(activation: Activation) -> nn.Module:
    """The module that computes an activation."""
    return _MODULES[activation.name](*activation.parameters)


def _tensor(values: npt.NDArray[np.float32] | None) -> Any:
    # A copy: the network's arrays are read-only.
    return None if values is None else torch.from_numpy(values.copy())

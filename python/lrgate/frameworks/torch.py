"""Conversion of a ReLU network to a PyTorch module."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrgate.frameworks.arrays import Layers

__all__ = [
    "to_module",
]


def to_module(layers: Layers, dtype: Any) -> Any:
    import torch

    parts: list[Any] = []
    for weight, bias in layers:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight.astype(np.float32)))
            linear.bias.copy_(torch.from_numpy(bias.astype(np.float32)))
        parts += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*parts[:-1]).eval().requires_grad_(False).to(dtype)

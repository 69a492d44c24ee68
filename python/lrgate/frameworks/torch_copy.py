"""Copies of PyTorch modules for inference."""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["evaluated_copy"]


def evaluated_copy(module: Any) -> Any:
    """A copy of a module in evaluation mode on the CPU.

    Tensors that the module computed and kept, such as the weight of the older ``weight_norm``, are
    detached, because PyTorch cannot copy them otherwise.
    """
    import torch

    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo).cpu().eval()

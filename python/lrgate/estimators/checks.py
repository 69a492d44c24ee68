"""Checks of the arguments of estimators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.inputs import checked_integer
from lrgate.model.layer import Gate, Layer
from lrgate.types import Float64Array

__all__ = [
    "check_finite",
    "check_gate",
    "check_layer",
    "check_widths",
    "checked_max_rank",
    "checked_offset",
    "checked_ranks",
]


FLOAT32_MAX: Final = float(np.finfo(np.float32).max)


def checked_offset(layer: Layer) -> Float64Array:
    """Check a layer and return its offset: a unit is active if ``x W + offset > 0``."""
    check_layer(layer)
    if not layer.activation.has_hard_zero:
        raise ValueError(
            "a gate needs relu, clipped_relu, thresholded_relu or squared_relu, got "
            + layer.activation.name
        )
    return layer.bias.astype(np.float64) - layer.activation.threshold


def check_layer(layer: Layer) -> None:
    if not isinstance(layer, Layer):
        raise TypeError(f"layer must be of type Layer, got {type(layer).__name__}")
    if layer.weight.size == 0:
        raise ValueError(f"weight must not be empty, got shape {layer.weight.shape}")
    check_finite("weight", layer.weight)
    check_finite("bias", layer.bias)


def check_gate(layer: Layer, gate: Gate) -> None:
    if not isinstance(gate, Gate):
        raise TypeError(f"gate must be of type Gate, got {type(gate).__name__}")
    check_widths("gate", layer, gate.inputs, gate.outputs)


def check_widths(name: str, layer: Layer, inputs: int, outputs: int) -> None:
    if (inputs, outputs) != (layer.inputs, layer.outputs):
        raise ValueError(
            f"{name} must be of {layer.inputs} inputs and {layer.outputs} units, "
            f"got {inputs} and {outputs}"
        )


def check_finite(name: str, values: npt.NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got {values[~np.isfinite(values)][0]}")


def checked_max_rank(layer: Layer, max_rank: int | None) -> int:
    full = min(layer.inputs, layer.outputs)
    return full if max_rank is None else checked_integer(max_rank, "max_rank", 1, full)


def checked_ranks(layer: Layer, ranks: Sequence[int]) -> list[int]:
    """Return the distinct ranks in ascending order."""
    try:
        given = list(ranks)
    except TypeError:
        raise TypeError(f"ranks must be a sequence of integers, got {ranks!r}") from None
    if not given:
        raise ValueError("ranks must have at least one rank, got 0")
    full = min(layer.inputs, layer.outputs)
    return sorted({checked_integer(k, f"ranks[{i}]", 1, full) for i, k in enumerate(given)})

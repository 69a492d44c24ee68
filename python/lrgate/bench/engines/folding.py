"""A ReLU network as plain arrays, with the input's scale and shift folded into the first layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate.network import Network
from lrgate.types import Float64Array

__all__ = [
    "folded",
]


Layers = Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]]


def folded(net: Network) -> list[tuple[Float64Array, Float64Array]]:
    """Weights (out, in) and biases of each layer, with the input's scale and shift folded in.

    Raises
    ------
    ValueError
        If a layer except the last is not relu, or the last is not identity.
    """
    names = [layer.activation.name for layer in net.layers]
    if names != ["relu"] * (len(names) - 1) + ["identity"]:
        raise ValueError(
            "the network must have relu on all layers except the last, and identity on the last, "
            f"got {', '.join(names)}"
        )
    layers = [
        (layer.weight.astype(np.float64), layer.bias.astype(np.float64)) for layer in net.layers
    ]
    weight, bias = layers[0]
    if net.input_shift is not None:
        bias = bias + weight @ np.broadcast_to(net.input_shift.astype(np.float64), weight.shape[1])
    if net.input_scale is not None:
        weight = weight * net.input_scale
    layers[0] = (weight, bias)
    return layers

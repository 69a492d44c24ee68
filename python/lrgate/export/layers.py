"""The layers of the dense network, as other frameworks run them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lrgate.model.activation import Activation
from lrgate.model.model import Model
from lrgate.types import Float32Array, Int32Array

__all__ = ["dense_layers"]


def dense_layers(model: Model) -> Iterator[tuple[Float32Array, Float32Array, Activation]]:
    """Weight (out, in), bias (out,) and activation of each layer, without units left out.

    The units that are kept are in the user's order.
    """
    before: Int32Array | None = None
    for layer in model.layers:
        kept = layer.kept_units
        if kept is not None:
            kept = None if len(kept) == layer.outputs else np.sort(kept)
        weight, bias, activation = layer.weight, layer.bias, layer.activation
        if kept is not None:
            weight, bias, activation = weight[kept], bias[kept], activation.of_units(kept)
        yield (weight if before is None else weight[:, before]), bias, activation
        before = kept

"""Inputs of all layers on many rows, within a limit on memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.inputs.sparse import SparseInputs
from lrgate.network import Network
from lrgate.types import Float32Array

__all__ = [
    "Signals",
    "layer_inputs",
    "units_on",
]


Signals = list[Float32Array | SparseInputs]

# Values of the layers' inputs that are held for each part of the rows: 512 MiB.
_MOST_VALUES: Final = 1 << 27


def layer_inputs(network: Network, rows: Any) -> Signals:
    """Every layer's inputs on as many of the rows as memory allows.

    Sparse rows that would be large as dense ones stay sparse.
    """
    widths = [layer.inputs for layer in network.layers]
    sparse = hasattr(rows, "toarray") and rows.shape[0] * widths[0] > _MOST_VALUES // 4
    rows = rows[: max(_MOST_VALUES // max(sum(widths[sparse:]), 1), 256)]
    dense = network.dense()
    if not sparse:
        return list(dense.layer_inputs(rows))
    first = SparseInputs(rows, network.input_scale, network.input_shift)
    return [first, *dense.engine.hidden_inputs(rows)]


def units_on(network: Network, parts: Sequence[Any]) -> list[npt.NDArray[np.bool_]]:
    """Units of each hidden layer that are not zero on some row of these parts."""
    hidden = network.layers[:-1]
    on = [np.zeros(layer.outputs, np.bool_) for layer in hidden]
    engine = network.dense().engine
    step = max(1, _MOST_VALUES // 16 // max(sum(layer.outputs for layer in hidden), 1))
    for rows in parts:
        for at in range(0, rows.shape[0], step):
            values = engine.hidden_inputs(rows[at : at + step])
            for seen, part in zip(on, values, strict=True):
                seen |= (part != 0).any(axis=0)
    return on

"""Inputs of all layers on many rows, within a limit on memory, and rows that overflow."""

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
    "finite_rows",
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


def finite_rows(network: Network, rows: Any) -> npt.NDArray[np.bool_]:
    """Whether the inputs of all layers and the outputs are finite on each of the rows."""
    finite = np.ones(rows.shape[0], np.bool_)
    if len(finite) == 0 or not _may_overflow(network, rows):
        return finite
    dense = network.dense()
    step = _step(network)
    for at in range(0, len(finite), step):
        part = rows[at : at + step]
        for values in (*dense.engine.hidden_inputs(part), dense.forward(part)):
            finite[at : at + step] &= np.isfinite(values).all(axis=1)
    return finite


def _may_overflow(network: Network, rows: Any) -> bool:
    """Whether a layer's outputs may be beyond float32, from bounds of their size."""
    most = float(np.finfo(np.float32).max)
    sizes = np.full(network.input_size, float(abs(rows).max()))
    if network.input_scale is not None:
        sizes = sizes * np.abs(network.input_scale)
    if network.input_shift is not None:
        sizes = sizes + np.abs(network.input_shift)
    for layer in network.layers:
        if not sizes.max() < most:
            return True
        # By Cauchy and Schwarz, without a copy of the weights.
        squares = np.einsum("ij,ij->i", layer.weight, layer.weight, dtype=np.float64)
        sums = np.sqrt(squares) * np.linalg.norm(sizes) + np.abs(layer.bias)
        if not sums.max() < most:
            return True
        low, high = layer.activation.bounds(-sums, sums)
        sizes = np.maximum(np.abs(low), np.abs(high))
    return not sizes.max() < most


def _step(network: Network) -> int:
    """Rows whose hidden values take little memory."""
    return max(1, _MOST_VALUES // 16 // max(sum(layer.outputs for layer in network.layers), 1))


def units_on(network: Network, parts: Sequence[Any]) -> list[npt.NDArray[np.bool_]]:
    """Units of each hidden layer that are not zero on some row of these parts."""
    hidden = network.layers[:-1]
    on = [np.zeros(layer.outputs, np.bool_) for layer in hidden]
    engine = network.dense().engine
    step = _step(network)
    for rows in parts:
        for at in range(0, rows.shape[0], step):
            values = engine.hidden_inputs(rows[at : at + step])
            for seen, part in zip(on, values, strict=True):
                seen |= (part != 0).any(axis=0)
    return on

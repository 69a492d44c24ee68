"""Inputs of all layers on many rows, within a limit on memory, and rows with huge ones."""

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
    "bounded_rows",
    "layer_inputs",
    "units_on",
]


Signals = list[Float32Array | SparseInputs]

# Values of the layers' inputs that are held for each part of the rows: 512 MiB.
_MOST_VALUES: Final = 1 << 27

# Sums of squares of values up to this fit float32.
_LARGEST: Final = 1e16


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


def bounded_rows(network: Network, rows: Any) -> npt.NDArray[np.bool_]:
    """Whether all inputs of layers and all outputs of a row are small enough to fit to.

    Squares of larger ones, and sums of their squares, are beyond float32.
    """
    bounded = np.ones(rows.shape[0], np.bool_)
    if len(bounded) == 0 or _are_small(network, rows):
        return bounded
    dense = network.dense()
    step = _step(network)
    for at in range(0, len(bounded), step):
        part = rows[at : at + step]
        for values in (*dense.layer_inputs(part), dense.forward(part)):
            # NaN is not below it.
            bounded[at : at + step] &= (np.abs(values) <= _LARGEST).all(axis=1)
    return bounded


def _are_small(network: Network, rows: Any) -> bool:
    """Whether bounds of the values in all layers show that they are small enough."""
    sizes = np.full(network.input_size, float(abs(rows).max()))
    if network.input_scale is not None:
        sizes = sizes * np.abs(network.input_scale)
    if network.input_shift is not None:
        sizes = sizes + np.abs(network.input_shift)
    for layer in network.layers:
        # By Cauchy and Schwarz, without a copy of the weights.
        squares = np.einsum("ij,ij->i", layer.weight, layer.weight, dtype=np.float64)
        sums = np.sqrt(squares) * np.linalg.norm(sizes) + np.abs(layer.bias)
        low, high = layer.activation.bounds(-sums, sums)
        before, sizes = sizes, np.maximum(np.abs(low), np.abs(high))
        if not max(before.max(), sums.max(), sizes.max()) <= _LARGEST:
            return False
    return True


def _step(network: Network) -> int:
    """Rows whose values in all layers take little memory."""
    width = sum(layer.inputs + layer.outputs for layer in network.layers)
    return max(1, _MOST_VALUES // 16 // width)


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

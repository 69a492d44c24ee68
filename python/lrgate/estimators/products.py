"""Products with the weights of a layer: in float64, or in float32 for large weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lrgate.estimators.rows import (
    CHUNK_VALUES,
    WEIGHT_CHUNKS,
    CheckedRows,
    blocks_of,
    centred_rows,
    chunks,
    clipped_float32,
    scaled_rows,
)
from lrgate.inputs.sparse import SparseInputs
from lrgate.model.layer import Layer
from lrgate.types import Float32Array, Float64Array

__all__ = [
    "float32_outputs",
    "folded_back",
    "pre_activations",
    "product_with",
    "row_product",
    "unit_weight",
]


def _is_large(layer: Layer) -> bool:
    """Whether the weights are used in float32, without a copy in float64."""
    return layer.weight.size > WEIGHT_CHUNKS * CHUNK_VALUES


def product_with(layer: Layer) -> Callable[[Float64Array | SparseInputs], Float64Array]:
    """Return a function for ``x W`` in float64; large weights are multiplied in float32."""
    if not _is_large(layer):
        weight = layer.weight.T.astype(np.float64)
        return lambda chunk: chunk @ weight
    near, weight_unit = unit_weight(layer)

    def product(chunk: Float64Array | SparseInputs) -> Float64Array:
        if isinstance(chunk, SparseInputs):
            return _sparse_product(layer, chunk)
        x, unit = scaled_rows(chunk)
        return (x @ near).astype(np.float64) * (unit * weight_unit)

    return product


def _sparse_product(layer: Layer, rows: SparseInputs) -> Float64Array:
    """``x W`` in float64, computed in blocks of units."""
    product = np.empty((len(rows), layer.outputs))
    for some in blocks_of(layer.outputs, layer.inputs):
        product[:, some] = rows @ layer.weight[some].T.astype(np.float64)
    return product


def float32_outputs(layer: Layer, rows: CheckedRows) -> Float32Array:
    """The layer's outputs as float32 computes them, (n, out)."""
    outputs = np.empty((len(rows), layer.outputs), np.float32)
    for some, chunk in chunks(rows, layer.inputs, layer.outputs):
        if isinstance(chunk, SparseInputs):
            z = clipped_float32(_sparse_product(layer, chunk) + layer.bias)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                z = chunk.astype(np.float32) @ layer.weight.T + layer.bias
            z = np.nan_to_num(z, copy=False)  # overflow becomes the largest float32
        with np.errstate(over="ignore"):
            outputs[some] = np.nan_to_num(layer.activation.gated(z), copy=False)
    return outputs


def row_product(layer: Layer, row: Float64Array) -> Float64Array:
    """``x W`` of one row."""
    product = np.empty(layer.outputs)
    for some in blocks_of(layer.outputs, layer.inputs):
        product[some] = layer.weight[some].astype(np.float64) @ row
    return product


def folded_back(layer: Layer, right: Float64Array) -> Float64Array:
    """``W V^T`` for V^T of shape (out, rank)."""
    product = np.empty((layer.inputs, right.shape[1]))
    for some in blocks_of(layer.inputs, layer.outputs):
        product[some] = layer.weight[:, some].T.astype(np.float64) @ right
    return product


def unit_weight(layer: Layer) -> tuple[Float32Array, float]:
    """W in float32, scaled so that sums of products do not overflow, and the scale."""
    weight = layer.weight.T
    largest = max(float(weight.max()), -float(weight.min()))
    if _is_large(layer) and 1e-9 < largest < 1e9:  # avoids a copy
        return weight, 1.0
    return scaled_rows(weight)


def pre_activations(
    layer: Layer, rows: CheckedRows, mean: Float64Array
) -> tuple[Float32Array, float]:
    """Pre-activations (n, out) minus the pre-activations of `mean`, scaled, and the scale."""
    if not isinstance(rows, SparseInputs):
        x, unit = centred_rows(rows, mean)
        near, weight_unit = unit_weight(layer)
        return x @ near, unit * weight_unit
    z = np.empty((len(rows), layer.outputs), np.float32)
    scaled = rows.unshifted()
    centre = row_product(layer, mean - rows.shift())
    unit = (float(np.abs(scaled.data).max(initial=0.0)) or 1.0) * unit_weight(layer)[1]
    for some in blocks_of(layer.outputs, layer.inputs):
        part = scaled @ np.ascontiguousarray(layer.weight[some].T, np.float64)
        part -= centre[some]
        z[:, some] = clipped_float32(part / unit)
    return z, unit

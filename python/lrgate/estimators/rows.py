"""Calibration rows: checks, chunks, means and covariances.

Rows may be arrays or `scipy.sparse` matrices; wide sparse rows are never made dense.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.estimators.checks import FLOAT32_MAX, check_finite
from lrgate.inputs import REAL, plain_array
from lrgate.inputs.sparse import SparseInputs
from lrgate.model.layer import Layer
from lrgate.types import Float32Array, Float64Array

__all__ = [
    "blocks_of",
    "centred_rows",
    "checked_inputs",
    "chunks",
    "clipped_float32",
    "covariance_of",
    "mean_row",
    "scaled_rows",
]

# Weights with more values than this number of chunks are used in float32, without a copy.
WEIGHT_CHUNKS: Final = 8


# Rows as passed by callers: array-like, a CSR matrix, or sparse rows with a scale and shift.
Rows = Any
CheckedRows = npt.NDArray[Any] | SparseInputs

# Rows are processed in chunks of about this many float64 values (8 MiB), so that calibration rows
# are never copied as a whole in float64.
CHUNK_VALUES: Final = 1 << 20

# Weights are converted to float64 in blocks of about this many values (16 MiB).
_BLOCK_VALUES: Final = 2 << 20


def blocks_of(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows or columns of a weight that are small enough to be copied.

    `width` is the other dimension of the weight.
    """
    step = max(1, _BLOCK_VALUES // width)
    return (slice(first, first + step) for first in range(0, count, step))


def checked_inputs(layer: Layer, inputs: Rows, method: str, at_least: int) -> CheckedRows:
    rows: CheckedRows
    if isinstance(inputs, SparseInputs):
        rows, dtype = inputs, inputs.rows.dtype
    elif hasattr(inputs, "tocsr"):
        rows, dtype = SparseInputs(inputs), inputs.dtype
    else:
        rows = plain_array(inputs, "inputs")
        dtype = rows.dtype
    if dtype.kind not in REAL:
        raise TypeError(f"inputs must be an array of real numbers, got dtype {dtype}")
    if len(rows.shape) != 2 or rows.shape[1] != layer.inputs:
        raise ValueError(f"inputs must have shape (n, {layer.inputs}), got {rows.shape}")
    if len(rows) < at_least:
        plural = "s" * (at_least != 1)
        raise ValueError(f"{method} needs at least {at_least} row{plural}, got {len(rows)}")
    if isinstance(rows, SparseInputs):
        _check_sparse(rows)
    return rows


def _check_sparse(rows: SparseInputs) -> None:
    scaled, shift = rows.unshifted(), rows.shift()
    values = scaled.data + shift[scaled.indices]
    bad = np.flatnonzero(~(np.abs(values) <= FLOAT32_MAX))
    if len(bad):
        row = int(np.searchsorted(scaled.indptr, bad[0], side="right")) - 1
        raise ValueError(
            f"inputs must hold finite float32 values, got {values[bad[0]]} in row {row}"
        )
    check_finite("shift", shift)


def mean_row(rows: CheckedRows) -> Float64Array:
    if isinstance(rows, SparseInputs):
        return rows.mean()
    total = np.zeros(rows.shape[1])
    for _, chunk in chunks(rows, len(total)):
        total += np.asarray(chunk).sum(axis=0)
    return total / len(rows)


def covariance_of(rows: CheckedRows, mean: Float64Array) -> Float64Array:
    covariance = np.zeros((len(mean), len(mean)))
    for chunk in _dense_chunks(rows, len(mean)):
        chunk -= mean
        covariance += chunk.T @ chunk
    return covariance / len(rows)


def centred_rows(rows: CheckedRows, mean: Float64Array) -> tuple[Float32Array, float]:
    """The rows minus the mean, divided by their largest absolute value, and that value."""
    centred = np.empty(rows.shape, np.float32)
    first = 0
    for chunk in _dense_chunks(rows, len(mean)):
        centred[first : first + len(chunk)] = clipped_float32(chunk - mean)
        first += len(chunk)
    unit = _largest(centred)
    centred /= np.float32(unit)
    return centred, unit


def scaled_rows(values: npt.NDArray[Any]) -> tuple[Float32Array, float]:
    """Values divided by the largest absolute value, and that value (1 if all values are 0)."""
    unit = _largest(values)
    return (values / unit).astype(np.float32, copy=False), unit


def _largest(values: npt.NDArray[Any]) -> float:
    """The largest absolute value; 1 if all values are 0."""
    return max(float(values.max()), -float(values.min())) or 1.0


def clipped_float32(values: Float64Array) -> Float32Array:
    """Convert to float32; values out of range become the largest float32."""
    return np.clip(values, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)


def chunks(
    rows: CheckedRows, inputs: int, more: int = 0
) -> Iterator[tuple[slice, Float64Array | SparseInputs]]:
    """Iterate over chunks of rows: arrays as float64, sparse rows unchanged.

    The size of a chunk assumes `inputs` values per dense row, and `more` values for the results.
    """
    if isinstance(rows, SparseInputs):
        step = max(1, CHUNK_VALUES // max(more, 1))
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            yield some, rows[some]
        return
    step = max(1, CHUNK_VALUES // (inputs + more))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        chunk = rows[some].astype(np.float64)
        bad = ~(np.abs(chunk) <= FLOAT32_MAX)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"inputs must hold finite float32 values, got {chunk[row, column]} "
                f"in row {start + row}"
            )
        yield some, chunk


def _dense_chunks(rows: CheckedRows, width: int) -> Iterator[Float64Array]:
    """Iterate over chunks of rows in float64; sparse rows are made dense."""
    if isinstance(rows, SparseInputs):
        step = max(1, CHUNK_VALUES // width)
        for start in range(0, len(rows), step):
            yield rows[start : start + step].toarray().astype(np.float64)
        return
    for _, chunk in chunks(rows, width):
        assert isinstance(chunk, np.ndarray)
        yield chunk

"""How a network's signals become bytes: fits of `Quantization`, and of the range of gates.

An int8 layer multiplies bytes. What an input x becomes is the byte ``round(x / scale + offset)``,
within 0 to 255. A larger scale clips fewer of the largest values and rounds all others more
coarsely; the one with the least mean squared error on real rows is taken. Zeros are no part of
that choice: they stay exact, since the offset is a whole number wherever there are any.

>>> of_inputs(np.array([[0.0, 0.5, 2.55]]))
Quantization(scale 0.01, offset 0)
>>> of_inputs(np.array([[-1.27, 0.0, 1.28]]))
Quantization(scale 0.01, offset 127)
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate import _core
from lrgate.model import Float32Array, Gate, Layer, Quantization

__all__ = ["MOST_INPUTS", "gate_range", "of_inputs", "of_rows", "with_bytes"]

Float64Array = npt.NDArray[np.float64]

MOST_INPUTS: Final = 65_536
"""The widest input of an int8 layer: the sums of wider ones might not fit 32 bits."""

# The largest byte.
_MOST: Final = 255
# Shares of the largest value up to which values are kept; the 99.9th percentile is tried too.
_KEPT: Final = tuple(k / 20 for k in range(20, 5, -1))
_QUANTILE: Final = 0.999
_LEAST_KEPT: Final = 1e-3

# Rows, evenly spaced, of about so many values stand for all where scales are compared; so many rows
# where the first layer's sums are.
_SAMPLE: Final = 1 << 20
_SAMPLE_ROWS: Final = 256

# One scale for all raw inputs is taken where sums are at most this many times as inexact (root
# mean square) as with one for each: it makes fewer assumptions about rows to come.
_WORSE: Final = 2.0

# A gate's sums, and columns with scales of their own, get this share of their range as room at
# either end: each has few values to tell its range by, and values beyond it cost more than coarser
# steps. On MNIST networks with gates, and on normal columns, new rows then have little more than
# half the error where 200 rows calibrated, and no more where thousands did; neither half nor twice
# the room is better in both.
_ROOM: Final = 0.1


def of_rows(
    layer: Layer,
    rows: npt.NDArray[Any],
    input_scale: Float32Array | None = None,
    input_shift: Float32Array | None = None,
) -> Quantization:
    """The quantisation of a network's raw input rows.

    Whole numbers from 0 to 255 are taken as the bytes they are, unless that makes the layer's sums
    much less exact than other scales do. Else all inputs get one scale, unless that makes them much
    less exact than one for each, as where the ranges of columns are far apart.

    Parameters
    ----------
    layer : Layer
        The network's first.
    rows : uint8 or float32 array of shape (n, d), or CSR
        Real rows as callers give them, all finite.
    input_scale, input_shift : array of shape () or (d,), optional
        The network's.

    Returns
    -------
    Quantization
    """
    dense: npt.NDArray[Any] = rows.toarray() if hasattr(rows, "toarray") else rows
    candidates = []
    if bool(((dense >= 0) & (dense <= _MOST) & (dense == np.floor(dense))).all()):
        candidates.append(Quantization(np.ones((), np.float32), np.zeros((), np.float32)))
    candidates.append(_of_all(dense, float(dense.min()), float(dense.max())))
    scale = np.float32(1) if input_scale is None else input_scale
    each = _of_each(dense, np.broadcast_to(np.abs(scale), dense.shape[1:]))
    if each is not None:
        candidates.append(each)
    sample = np.ascontiguousarray(dense[:: -(-len(dense) // _SAMPLE_ROWS)])
    errors = _errors(layer, sample, input_scale, input_shift, candidates)
    good = [error <= _WORSE * min(errors) for error in errors]
    return candidates[good.index(True) if any(good) else 0]


def of_inputs(inputs: npt.NDArray[Any]) -> Quantization:
    """The quantisation of the inputs of a layer that is not a network's first.

    Parameters
    ----------
    inputs : float array of shape (n, in)
        As :meth:`lrgate.Network.layer_inputs` gives them, all finite.

    Returns
    -------
    Quantization
        Of one scale and one offset. The offset is 0 where no input is negative.
    """
    return _of_all(inputs, min(0.0, float(inputs.min())), max(0.0, float(inputs.max())))


def with_bytes(layer: Layer, quantization: Quantization, inputs: Float32Array) -> Layer:
    """`layer` with the quantisation of its inputs, its gate with the range of its sums on them."""
    gate = layer.gate
    if gate is not None:
        gate = replace(gate, range=gate_range(gate, inputs))
    return replace(layer, gate=gate, quantization=quantization)


def gate_range(gate: Gate, inputs: Float32Array) -> Float32Array:
    """The least and the greatest of each of ``x u``, with some room: what a gate's `range` is.

    Parameters
    ----------
    gate : Gate
    inputs : float32 array of shape (n, in)
        Rows as they reach the gate's layer, all finite.

    Returns
    -------
    float32 array of shape (2, rank)
    """
    sums = (inputs @ gate.u).astype(np.float64)
    low, high = sums.min(axis=0), sums.max(axis=0)
    room = _ROOM * (high - low)
    bounds: Float64Array = np.stack([low - room, high + room])
    return bounds.astype(np.float32)


def _of_all(values: npt.NDArray[Any], low: float, high: float) -> Quantization:
    """One scale and one offset for values from `low` to `high`."""
    if not _varies(low, high):
        low, high = min(0.0, low), max(0.0, high)
    if not _varies(low, high):
        high = 1.0
    some = _some(values)
    some = some[some != 0]
    scale, offset = _fit(some[:, None].astype(np.float64), np.array([low]), np.array([high]))
    return Quantization(scale[0], offset[0])


def _of_each(rows: npt.NDArray[Any], factor: Float32Array) -> Quantization | None:
    """A scale and an offset for each column; None where none varies.

    `factor` is what the network multiplies the columns with.
    """
    low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
    varying = _varies(low, high)
    if not varying.any():
        return None
    some = _some(rows).astype(np.float64)
    scale, offset = np.empty(low.shape), np.empty(low.shape)
    scale[varying], offset[varying] = _fit(some[:, varying], low[varying], high[varying], _ROOM)
    # How far a constant column would vary is not known. It must not make the weights of the others
    # coarse, so its steps are to the network as large as the others' are.
    constant = ~varying
    factor = np.where(factor > 0, factor, 1.0)
    steps = np.median((scale * factor)[varying]) / factor[constant]
    scale[constant] = steps = np.clip(steps, 1e-30, 1e30)
    inside = (low[constant] >= 0) & (low[constant] <= _MOST * steps)
    offset[constant] = np.where(inside, 0.0, np.round(_MOST / 2) - low[constant] / steps)
    return Quantization(scale, offset)


def _some(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values[:: 1 + values.size // _SAMPLE]


def _varies(low: Any, high: Any) -> Any:
    """Whether a range is wide enough to be divided: beyond rounding, and in float32."""
    return high - low > np.maximum(1e-30, 2.0**-20 * np.maximum(np.abs(low), np.abs(high)))


def _fit(
    values: Float64Array, low: Float64Array, high: Float64Array, room: float = 0.0
) -> tuple[Float64Array, Float64Array]:
    """The scale and offset of each column of `values` (n, m), which are from `low` to `high` (m,).

    A range is shrunk towards 0 where 0 is in it, and towards its middle elsewhere. What is found
    gets this share of it as `room` at either end, but at none where 0 is.
    """
    middle = np.where((low <= 0) & (high >= 0), 0.0, (low + high) / 2)
    shares: list[Any] = list(_KEPT)
    if len(values):
        reach = np.quantile(np.abs(values - middle), _QUANTILE, axis=0)
        widest = np.maximum(high - middle, middle - low)
        shares.append(np.clip(reach / widest, _LEAST_KEPT, 1.0))
    least = np.full(low.shape, np.inf)
    best_bottom, best_top = low, high
    for share in shares:
        bottom, top = middle + share * (low - middle), middle + share * (high - middle)
        scale, offset = _steps(bottom, top)
        taken = (np.clip(np.round(values / scale + offset), 0, _MOST) - offset) * scale
        error = np.square(values - taken).sum(axis=0)
        better = error < least
        least = np.where(better, error, least)
        best_bottom = np.where(better, bottom, best_bottom)
        best_top = np.where(better, top, best_top)
    more = room * (best_top - best_bottom)
    lower, upper = best_bottom - more, best_top + more
    lower = np.where(low < 0, lower, np.maximum(lower, 0.0))
    upper = np.where(high > 0, upper, np.minimum(upper, 0.0))
    return _steps(lower, upper)


def _steps(bottom: Float64Array, top: Float64Array) -> tuple[Float64Array, Float64Array]:
    """The scale and offset of bytes from `bottom` to `top`; 0 is one of them where it is between.

    They are rounded to float32, as the engine has them.
    """
    scale = ((top - bottom) / _MOST).astype(np.float32).astype(np.float64)
    offset = -bottom / scale
    offset = np.where((bottom <= 0) & (top >= 0), np.round(offset), offset) + 0.0
    return scale, offset.astype(np.float32).astype(np.float64)


def _errors(
    layer: Layer,
    rows: npt.NDArray[Any],
    input_scale: Float32Array | None,
    input_shift: Float32Array | None,
    candidates: list[Quantization],
) -> list[float]:
    """How far the layer's sums are from those in f32, root mean square, with each candidate."""
    engine = _core.Engine(
        [(layer.weight, layer.bias, "identity", None)],
        input_scale=None if input_scale is None else input_scale.reshape(-1),
        input_shift=None if input_shift is None else input_shift.reshape(-1),
    )
    exact = _core.Network(engine, "regression", None)(rows).astype(np.float64)
    errors = []
    for candidate in candidates:
        pair = candidate.scale.reshape(-1), candidate.offset.reshape(-1)
        try:
            int8 = _core.Network(engine.with_quantization([pair]), "regression", None)
        except ValueError:  # it makes weights or biases overflow
            errors.append(math.inf)
            continue
        with np.errstate(invalid="ignore"):  # where the sums overflow
            errors.append(float(np.sqrt(np.mean(np.square(int8(rows) - exact)))))
    return errors

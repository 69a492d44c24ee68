"""Quantisation of the sums of factors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from lrgate.inputs.sparse import SparseInputs
from lrgate.model.layer import Factors, Quantization
from lrgate.quantization.fitter import FREE, natural_bounds
from lrgate.quantization.windows import LEAST_STEP, largest_good, some_step
from lrgate.types import Float32Array, Float64Array

__all__ = ["sums_quantization"]

# Levels of a byte that are used: one at each end is a reserve.
_LEVELS: Final = 253
# Widening may increase the error by this factor.
_HEADROOM: Final = 1.1
# Windows are at most this many times as wide as the range with its headroom.
_WIDEST: Final = 4


def sums_quantization(
    factors: Factors, inputs: Float32Array | SparseInputs | Iterable[Float32Array]
) -> Quantization:
    """Fit the quantisation of the sums ``h = x u`` of a layer's factors.

    Each sum has a window of its own: its range on the rows, with headroom for new rows. Windows are
    widened as far as the error of ``h v`` hardly grows, so that fewer rows are recomputed.

    Parameters
    ----------
    factors : Factors
    inputs : float32 array or SparseInputs of shape (n, in), or iterable of such arrays
        Inputs of the layer, all finite; at least one row.

    Returns
    -------
    Quantization
        Scale and offset of shape (rank,).

    Raises
    ------
    ValueError
        If a scale or its inverse does not fit float32.

    Examples
    --------
    >>> factors = Factors(np.eye(2), np.ones((2, 3)), np.zeros(3))
    >>> x = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    >>> sums_quantization(factors, x)
    Quantization(of 2 inputs)
    """
    parts = [inputs] if isinstance(inputs, np.ndarray | SparseInputs) else inputs
    sums = np.concatenate([np.asarray(part @ factors.u, np.float32) for part in parts])
    low, high = natural_bounds(sums)
    step = np.where(high > low, np.maximum((high - low) / _LEVELS, LEAST_STEP), some_step(low))
    centred = sums - sums.mean(axis=0, dtype=np.float64)
    products = centred.T @ (centred / len(centred))
    spread = np.sqrt(np.maximum(np.sum((products @ factors.v) * factors.v, axis=0), 0.0))
    weights = np.divide(factors.v, spread, out=np.zeros(factors.v.shape), where=spread > 0)
    gain = np.sqrt(np.mean(np.square(weights), axis=1) / 12)
    allowed = max(FREE, _HEADROOM * float(np.linalg.norm(gain * step)))
    widest = _WIDEST * step

    def steps(level: float) -> Float64Array:
        floor = np.divide(level, gain, out=widest.copy(), where=gain > 0)
        result: Float64Array = np.clip(floor, step, widest)
        return result

    level = largest_good(
        lambda level: float(np.linalg.norm(gain * steps(level))) <= allowed,
        float((gain * step).max()),
    )
    wide = steps(level)
    offset = (_LEVELS + 2) / 2 - (low + high) / (2 * wide)
    return Quantization(wide.astype(np.float32), offset.astype(np.float32))

"""The error of a layer's sums in int8: a model, and the measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.model.layer import Layer, Quantization
from lrgate.quantization.rows import as_dense, at_most_rows, chunks, moments_of, signals_of
from lrgate.quantization.typical import sizes_of, spreads_of
from lrgate.quantization.windows import LEAST_STEP
from lrgate.types import BoolArray, Float32Array, Float64Array

__all__ = [
    "Part",
    "parts_of",
]


# Numbers of rows for the spread of sums, for errors of candidates and for the final error, and of
# units for the error model. With many inputs fewer are used, but at least 16.
SPREAD_ROWS: Final = 1024
TRIAL_ROWS: Final = 128
ERROR_ROWS: Final = 256
_UNITS: Final = 256

# Lower bound of the spread of a unit's sums relative to the median unit, both weighted as in the
# next layer.
_LEAST_SPREAD: Final = 0.1
# Sums vary if their spread exceeds this share of their terms, a few float32 rounding errors.
_ROUNDING: Final = 16 * 2.0**-24


@dataclass
class Part:
    """The error model of a layer.

    Parameters
    ----------
    weight : float32 array of shape (units, in)
        Weights of a sample of units, times the input scale, divided by the spread of their sums.
    gain : float array of shape (in,)
        Root mean square of such weights over all units.
    density : float array of shape (in,)
        Share of typical rows on which an input is not zero.
    square, variance : float arrays of shape (in,)
        Mean square and variance of an input in typical rows.
    used : bool array of shape (in,)
        Whether any unit has a non-zero weight for an input.
    shown : bool
        Whether the sums vary on typical rows by more than float32 rounding. Otherwise the relative
        error is undefined.
    """

    weight: npt.NDArray[np.float32]
    gain: Float64Array
    density: Float64Array
    square: Float64Array
    variance: Float64Array
    used: BoolArray
    shown: bool

    def error(self, step: Float64Array, with_zero: BoolArray, levels: int) -> float:
        """Predict the error of the sums relative to their spread for the given steps.

        `with_zero` marks the windows that contain zero.
        """
        moment = np.where(with_zero, self.square, self.variance)
        used = self.gain > 0
        with np.errstate(over="ignore"):
            rounding = float(np.sum((self.density * np.square(self.gain * step))[used]))
            moments = np.minimum(moment / np.square(np.maximum(step, LEAST_STEP)), levels**2 / 3)
            largest = np.zeros(len(self.weight), np.float64)
            for at in chunks(len(self.weight), self.weight.shape[1]):
                products = np.abs(self.weight[at]) * step.astype(np.float32)
                largest[at] = products.max(axis=1, initial=0.0)
            weights = float(np.mean(np.square(largest)) / 127**2 * moments[used].sum())
        return math.sqrt((rounding + weights) / 12)

    def measured(self, values: Any, quantization: Quantization) -> float:
        """Measure the error of the sums on rows inside the windows, with the engine's rounding."""
        d = self.weight.shape[1]
        scale = np.broadcast_to(quantization.scale, (d,))
        offset = np.broadcast_to(quantization.offset, (d,))
        inverse = 1 / scale
        with np.errstate(over="ignore", invalid="ignore"):
            products = self.weight * scale
            step = np.abs(products).max(axis=1, keepdims=True) / 127
            step[step == 0] = 1
            rounding = (np.rint(products / step) * step - products).T
            reference = np.where((offset >= 0) & (offset <= 255), offset, 128)
            total, count = 0.0, 0
            for at in chunks(values.shape[0], d):
                x = as_dense(values[at]).astype(np.float32)
                q = np.clip(np.rint(x * inverse + offset), 0, 255)
                shift = q - offset.astype(np.float64) - x.astype(np.float64) / scale
                off = shift.astype(np.float32) @ products.T
                off += (q - reference).astype(np.float32) @ rounding
                total += float(np.square(off.astype(np.float64)).sum())
                count += off.size
        error = math.sqrt(total / max(count, 1)) if math.isfinite(total) else math.inf
        return error


def parts_of(
    layers: Sequence[Layer],
    typical: Any,
    layer_inputs: Callable[[Any], Sequence[Float32Array]],
    input_scale: Float32Array | None,
    classifies: bool,
    rng: np.random.Generator,
) -> list[Part]:
    """The error model of each layer, from typical rows."""
    signals = signals_of(typical, layer_inputs, set(range(len(layers))))
    parts: list[Part] = []
    after: Float64Array | None = None  # weights of this layer's units in the next layer
    for i in range(len(layers) - 1, -1, -1):
        layer = layers[i]
        weight = layer.weight
        if i == 0 and input_scale is not None:
            weight = weight * input_scale
        values: Any = typical if i == 0 else signals[i]
        spread = spreads_of(values, weight)
        spread = np.where(spread > _ROUNDING * sizes_of(values, weight), spread, 0.0)
        if after is None:
            after = np.ones(layer.outputs)
            if not classifies:
                after = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        size = spread * after
        shown = bool((size > 0).any())
        usual = float(np.median(size[size > 0])) if (size > 0).any() else 0.0
        least = np.divide(
            _LEAST_SPREAD * usual, after, out=np.full_like(spread, np.inf), where=after > 0
        )
        spread = np.maximum(spread, least)
        per_spread = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        factor = per_spread[:, None].astype(np.float32)
        squares = np.zeros(layer.inputs)
        used = np.zeros(layer.inputs, np.bool_)
        for at in chunks(*weight.shape):
            scaled = (weight[at] * factor[at]).astype(np.float32)
            squares += np.einsum("oj,oj->j", scaled, scaled, dtype=np.float64)
            used |= (weight[at] != 0).any(axis=0)
        gain = np.sqrt(squares / layer.outputs)
        some = np.sort(rng.permutation(layer.outputs)[: at_most_rows(_UNITS, layer.inputs)])
        mean, square, density = moments_of(values)
        variance = np.maximum(square - mean**2, 0.0)
        scaled = (weight[some] * factor[some]).astype(np.float32)
        parts.append(Part(scaled, gain, density, square, variance, used, shown))
        after = gain
    return parts[::-1]

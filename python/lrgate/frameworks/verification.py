"""Comparison of a network with the model from which it was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.network import Network
from lrgate.types import Float32Array, Float64Array

__all__ = ["difference", "random_rows", "wrong_label"]

# A difference is an error if it exceeds the expected rounding error by this factor.
_FACTOR: Final = 100.0
_BLOCK: Final = 2**16
_SMALL: Final = 1e9
# Outputs that are nearer than this may have the other order elsewhere.
_MARGIN: Final = 1e-4


def difference(
    net: Network,
    reference: Callable[[Float32Array], npt.NDArray[Any]],
    epsilon: float,
    whole: tuple[int, int] | None = None,
) -> float | None:
    """The largest difference of raw outputs on random rows; None if rounding explains all.

    The rows are whole numbers between those of `whole`, if it is given.
    """
    x = random_rows(net) if whole is None else _whole_rows(net, *whole)
    with np.errstate(all="ignore"):
        expected = np.asarray(reference(x), np.float64).reshape(len(x), -1)
        got = net.forward(x).astype(np.float64)
        if expected.shape != got.shape:
            return float("inf")
        limit = _FACTOR * _rounding_error(net, x.astype(np.float64), epsilon)
        apart = np.abs(got - expected)
    same = (got == expected) | (np.isnan(got) & np.isnan(expected)) | ~np.isfinite(limit)
    wrong = ~same & ~(apart <= limit)
    if not wrong.any():
        return None
    worst = apart[wrong]
    return float("inf") if np.isnan(worst).any() else float(worst.max())


def wrong_label(
    net: Network,
    labels: Callable[[Float32Array], npt.NDArray[Any]],
    whole: tuple[int, int] | None = None,
) -> tuple[Any, Any] | None:
    """A label of the model and one of the network that differ though rounding decides neither.

    Random rows are compared, which are those of `difference`; None if no label differs.
    """
    x = random_rows(net) if whole is None else _whole_rows(net, *whole)
    with np.errstate(all="ignore"):
        raw = net.forward(x).astype(np.float64)
    x, raw = x[np.isfinite(raw).all(axis=1)], raw[np.isfinite(raw).all(axis=1)]
    if not len(x):
        return None
    with np.errstate(all="ignore"):
        clear, expected = _decided(net, raw), np.asarray(labels(x))
    got = net.predict(x)
    if expected.size != got.size:
        return expected.shape, got.shape
    for ours, theirs, sure in zip(got.flat, expected.flat, clear.flat, strict=True):
        if sure and ours != theirs:
            return np.asarray(theirs).item(), np.asarray(ours).item()
    return None


def _decided(net: Network, raw: Float64Array) -> npt.NDArray[np.bool_]:
    """Which labels rounding does not decide, from finite raw outputs (n, k)."""
    if net.task == "classification" and raw.shape[1] > 1:
        second, first = np.sort(raw, axis=1)[:, -2:].T
    else:
        last = net.layers[-1].activation.name
        first, second = raw, np.full_like(raw, 0.5 if last == "sigmoid" else 0.0)
    apart = np.abs(first - second) > _MARGIN * (1.0 + np.abs(first) + np.abs(second))
    # A model may compare sigmoids, which are equal for large outputs.
    squashed = np.tanh(0.5 * first) - np.tanh(0.5 * second)
    return np.asarray(apart & (np.abs(squashed) > _MARGIN))


def random_rows(net: Network, seed: int = 0) -> Float32Array:
    """Rows of several magnitudes before the first weights, float32 (8, d)."""
    rng = np.random.default_rng(seed)
    d = net.input_size
    z = np.concatenate(
        [
            rng.standard_normal((3, d)),
            10.0 * rng.standard_normal((1, d)),
            0.01 * rng.standard_normal((1, d)),
            rng.random((1, d)),
            rng.integers(0, 2, (1, d)).astype(np.float64),
            np.zeros((1, d)),
        ]
    )
    if net.input_shift is not None:
        z = z - net.input_shift.astype(np.float64)
    if net.input_scale is not None:
        scale = net.input_scale.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(scale == 0.0, z, z / scale)
    return z.astype(np.float32)


def _whole_rows(net: Network, low: int, high: int, seed: int = 0) -> Float32Array:
    """Rows of whole numbers of several magnitudes from `low` to `high`, float32 (8, d)."""
    rng = np.random.default_rng(seed)
    rows = [
        rng.integers(max(low, -most), min(high, most), (count, net.input_size), endpoint=True)
        for count, most in ((2, 1), (2, 10), (2, 255), (2, 2**15))
    ]
    return np.concatenate(rows).astype(np.float32)


def _sums(
    weight: Float32Array, value: Float64Array, error: Float64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """``value weight.T``, and the sums of squares of its terms and of those of the error."""
    rows, outputs = len(value), len(weight)
    both = np.concatenate([value * value, error * error])
    z, squares = np.empty((rows, outputs)), np.empty((2 * rows, outputs))
    # An estimate needs few digits, but no overflow.
    small = max(float(weight.max()), -float(weight.min()), float(both.max())) < _SMALL
    dtype = np.dtype(np.float32 if small else np.float64)
    rows_of: npt.NDArray[Any] = value.astype(dtype)
    both_of: npt.NDArray[Any] = both.astype(dtype)
    # In blocks that stay in a cache.
    step = max(1, _BLOCK // weight.shape[1])
    for start in range(0, outputs, step):
        block: npt.NDArray[Any] = weight[start : start + step].astype(dtype, copy=False)
        z[:, start : start + step] = rows_of @ block.T
        squares[:, start : start + step] = both_of @ np.square(block).T
    return z, squares[:rows], squares[rows:]


def _rounding_error(net: Network, x: Float64Array, epsilon: float) -> Float64Array:
    """Expected rounding error of the outputs (n, k), if errors are independent.

    Each value has a relative error of `epsilon`. Squared errors add up through the weights, and
    pass an activation with its largest slope between neighbouring values.
    """
    value, error = x, np.abs(x) * epsilon
    for part, operation in ((net.input_scale, np.multiply), (net.input_shift, np.add)):
        if part is None:
            continue
        other = part.astype(np.float64)
        if operation is np.multiply:
            value, error = value * other, error * np.abs(other)
        else:
            value = value + other
            error = error + (np.abs(value) + np.abs(other)) * epsilon
    for layer in net.layers:
        bias = layer.bias.astype(np.float64)
        z, terms, squares = _sums(layer.weight, value, error)
        z, terms = z + bias, terms + bias * bias
        spread = np.sqrt(squares + 4.0 * epsilon**2 * terms)
        apply = layer.activation.apply
        value = apply(z)
        width = np.maximum(spread, 1e-7 * np.abs(z))
        change = np.maximum(np.abs(apply(z + width) - value), np.abs(apply(z - width) - value))
        if layer.activation.name in ("softmax", "log_softmax"):
            # Each output depends on all pre-activations.
            change = change.max(axis=1, keepdims=True) + 2.0 * spread.max(axis=1, keepdims=True) * (
                value if layer.activation.name == "softmax" else 1.0
            )
        # Formulas such as that of gelu have the rounding error of their argument near zero.
        error = change + (np.abs(value) + np.minimum(np.abs(z), 8.0)) * epsilon + 1e-30
    return error

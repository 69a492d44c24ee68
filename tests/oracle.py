"""A float64 network and an error bound for its computation in float32.

With u = 2**-24 and gamma_n = n u / (1 - n u), a sum of d products and a bias in float32 is within
gamma_(d+4) (|x| |w| + |b|) of the exact sum, in any order (Higham, Accuracy and Stability of
Numerical Algorithms, section 3.1; 4 for the bias and the folded input scale and shift). The bound
of a layer's input is propagated through |w| and the activation to the bound of its output.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

import lrgate

ROUNDOFF = 2.0**-24
DENORMAL = 2.0**-149


def make(
    widths: list[int],
    seed: int = 0,
    hidden: Any = "relu",
    last: Any = "identity",
    **options: Any,
) -> lrgate.Network:
    """A random network."""
    rng = np.random.default_rng(seed)
    layers = [
        (rng.normal(size=(h, d)) / d**0.5, rng.normal(size=h) / 4) for d, h in pairwise(widths)
    ]
    activations = [hidden] * (len(layers) - 1) + [last]
    return lrgate.Network.from_layers(layers, activations, **options)


def gated(net: lrgate.Network, rank: int = 2, seed: int = 5) -> lrgate.Network:
    """`net` with a random gate on every layer that can have one."""
    rng = np.random.default_rng(seed)
    gates = {}
    for i, layer in enumerate(net.layers[:-1]):
        if layer.activation.has_hard_zero:
            k = min(rank, layer.inputs, layer.outputs)
            u, v = rng.normal(size=(layer.inputs, k)), rng.normal(size=(k, layer.outputs))
            gates[i] = lrgate.Gate(u / layer.inputs**0.5, v, rng.normal(size=layer.outputs))
    return net.with_gates(gates)


def factored(net: lrgate.Network, seed: int = 6) -> lrgate.Network:
    """`net` with random factors of every layer, with a nested gate where one is possible."""
    rng = np.random.default_rng(seed)
    factors = {}
    for i, layer in enumerate(net.layers):
        d, h = layer.inputs, layer.outputs
        rank = max(min(d, h) // 2, 1)
        u, v = rng.normal(size=(d, rank)) / d**0.5, rng.normal(size=(rank, h)) / rank**0.5
        nested = None
        if i + 1 < len(net.layers) and layer.activation.has_hard_zero:
            nested = lrgate.NestedGate(v[: max(rank // 2, 1)], rng.normal(size=h) / 4)
        factors[i] = lrgate.Factors(u, v, rng.normal(size=h) / 4, gate=nested)
    return net.with_factors(factors)


def rows(n: int, width: int, seed: int = 1) -> np.ndarray:
    """float32 rows in which about half of the values are zero."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, width)) * (rng.random((n, width)) < 0.5)).astype(np.float32)


def forward(
    net: lrgate.Network, x: Any, strategies: tuple[str, ...] | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Outputs of every layer in float64, and their error bounds; both float64 (n, out)."""
    strategies = net.plan_for(len(x)).strategies if strategies is None else strategies
    scale = 1.0 if net.input_scale is None else np.float64(net.input_scale)
    shift = 0.0 if net.input_shift is None else np.float64(net.input_shift)
    x = np.asarray(x, np.float64)
    value, size, error = x * scale + shift, np.abs(x * scale) + np.abs(shift), np.zeros(x.shape)
    results = []
    for layer, strategy in zip(net.layers, strategies, strict=True):
        factors = layer.factors if "factor" in strategy else None
        if factors is None:
            z, bound = _affine(value, size, error, layer.weight.T, layer.bias)
        else:
            h, h_bound = _affine(value, size, error, factors.u, np.zeros(factors.rank))
            z, bound = _affine(h, np.abs(h) + h_bound, h_bound, factors.v, factors.bias)
        y, after = _activate(layer.activation, z, bound)
        if factors is not None and "gate" in strategy:
            nested = factors.gate
            assert nested is not None
            t, t_bound = h[:, : nested.rank], h_bound[:, : nested.rank]
            score, doubt = _affine(t, np.abs(t) + t_bound, t_bound, nested.v, nested.bias)
            y, after = _keep_where_positive(y, after, score, doubt)
        elif strategy == "gate":
            gate = layer.gate
            assert gate is not None
            t, t_bound = _affine(value, size, error, gate.u, np.zeros(gate.rank))
            score, doubt = _affine(t, np.abs(t) + t_bound, t_bound, gate.v, gate.bias)
            y, after = _keep_where_positive(y, after, score, doubt)
        if layer.kept_units is not None:
            omitted = np.setdiff1d(np.arange(layer.outputs), layer.kept_units)
            y[:, omitted] = after[:, omitted] = 0.0
        value, size, error = y, np.abs(y) + after, after
        results.append((y, after))
    return results


def _affine(x: Any, size: Any, error: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
    w, b = np.float64(weight), np.float64(bias)
    steps = len(w) + 4
    gamma = steps * ROUNDOFF / (1 - steps * ROUNDOFF)
    largest = size @ np.abs(w) + np.abs(b)
    return x @ w + b, error @ np.abs(w) + gamma * largest + steps * DENORMAL


def _keep_where_positive(y: Any, error: Any, score: Any, doubt: Any) -> tuple[Any, Any]:
    on, off = score > doubt, score <= -doubt
    kept = np.where(off, 0.0, y)
    return kept, np.where(on, error, np.where(off, 0.0, np.abs(y) + error))


def _activate(activation: lrgate.Activation, z: Any, e: Any) -> tuple[Any, Any]:
    """Outputs, and a bound from the steepest slope and the rounding of the function."""
    y, name = activation.apply(z), activation.name
    first = np.abs(activation.values[0]) if activation.parameters else 1.0
    match name:
        case "thresholded_relu":
            return _keep_where_positive(z, e, z - activation.threshold, e)
        case "softmax":
            largest = z.max(axis=1, keepdims=True, initial=-np.inf)
            widest = e.max(axis=1, keepdims=True, initial=0)
            distance = 2 * (widest + 2 * ROUNDOFF * (largest - z + widest))
            relative = np.expm1(distance) + (z.shape[1] + 12) * ROUNDOFF
            return y, y * relative + 4 * DENORMAL
        case "log_softmax":
            widest = e.max(axis=1, keepdims=True, initial=0)
            # In float64, log(1 + rest) loses the digits of a small rest.
            return y, e + 2 * widest + (z.shape[1] + 12) * ROUNDOFF * np.abs(y) + 1e-15
        case "exp":
            return y, y * np.expm1(e) + 4 * ROUNDOFF * y + DENORMAL
        case "squared_relu":
            return y, (2 * np.maximum(z, 0) + e) * e + 2 * ROUNDOFF * y + DENORMAL
        case "gelu" | "gelu_tanh":
            return y, 1.13 * e + 8 * ROUNDOFF * np.abs(z) + DENORMAL
    steepest, ulps = {
        "identity": (1, 0),
        "relu": (1, 0),
        "clipped_relu": (1, 0),
        "leaky_relu": (np.maximum(first, 1), 1),
        "prelu": (np.maximum(first, 1), 1),
        "hard_tanh": (1, 0),
        "hard_sigmoid": (0.2, 4),
        "hard_swish": (1.5, 6),
        "tanh": (1, 4),
        "sigmoid": (1, 4),
        "silu": (1.1, 8),
        "mish": (1.09, 12),
        "softplus": (1, 8),
        "elu": (np.maximum(first, 1), 8),
        "selu": (1.7581, 8),
    }[name]
    return y, steepest * e + ulps * ROUNDOFF * np.abs(y) + DENORMAL * (ulps > 0)


def assert_close(got: Any, expected: tuple[Any, Any], what: str = "") -> None:
    """Assert that `got` is within the bound everywhere."""
    value, bound = expected
    assert got.dtype == np.float32
    assert got.shape == value.shape
    off = np.abs(got - value)
    bad = ~(off <= bound)
    assert not bad.any(), (
        f"{what}: {bad.sum()} of {bad.size} outputs are off, the worst by {off[bad].max():.3g}, "
        f"allowed {bound[bad].min():.3g}"
    )

"""The reference for lrgate: the network in float64, with the error that float32 may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import lrgate
from lrgate.bench.engines import folded

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reference:
    """A relu network's outputs in float64, and how far float32 may be from them.

    Attributes
    ----------
    outputs, bound : arrays (n, k)
    certain : bool array (n,)
        Rows on which no gate's score is so near to 0 that rounding may decide its sign.
    """

    outputs: Float64Array
    bound: Float64Array
    certain: npt.NDArray[np.bool_]

    def check(self, outputs: Float32Array, what: str) -> None:
        """Assert that float32 outputs are as near as they must be.

        Raises
        ------
        AssertionError
            If they are not, or too few rows are certain to say so.
        """
        assert np.mean(self.certain) >= 0.8, f"{what}: rounding decides on too many rows"
        excess = (np.abs(outputs - self.outputs) - self.bound)[self.certain]
        assert np.all(excess <= 0), f"{what}: {np.max(excess):.3g} further off than rounding allows"


def reference(net: lrgate.Network, x: npt.ArrayLike, *, gated: bool = False) -> Reference:
    """Run a relu network in float64, gates on where `gated`, with the forward error bound.

    A dot product of length d in float32, in whatever order, is off by at most ``(d + 2) eps``
    times the same sum of absolute values, to first order (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1); the error of its inputs is carried through the absolute
    weights.
    """
    eps = float(np.finfo(np.float32).eps)
    a: Float64Array = np.asarray(x, np.float64)
    off = np.zeros_like(a)
    certain = np.ones(len(a), bool)
    layers = folded(net)
    for i, (weight, bias) in enumerate(layers):
        size = np.abs(weight)
        z = a @ weight.T + bias
        z_off = off @ size.T + (weight.shape[1] + 2) * eps * (np.abs(a) @ size.T + np.abs(bias))
        if i < len(layers) - 1:
            z = np.maximum(z, 0)
        gate = net.layers[i].gate
        if gated and gate is not None:
            scaled = _scaled(net, a) if i == 0 else a
            u, v, c = (part.astype(np.float64) for part in (gate.u, gate.v, gate.bias))
            score = scaled @ u @ v + c
            # Not the worst that rounding can do, which is never seen, but many times the usual.
            usual = eps * np.sqrt(np.square(scaled) @ np.square(u) @ np.square(v) + np.square(c))
            carried = np.sqrt(np.square(off) @ np.square(u) @ np.square(v)) if i else 0.0
            near = np.abs(score) < 16 * usual + carried
            certain &= ~np.any(near & (z > 0), axis=1)
            z = np.where(score > 0, z, 0)
        a, off = z, z_off
    return Reference(a, off, certain)


def _scaled(net: lrgate.Network, x: Float64Array) -> Float64Array:
    scale: Any = 1.0 if net.input_scale is None else net.input_scale.astype(np.float64)
    shift: Any = 0.0 if net.input_shift is None else net.input_shift.astype(np.float64)
    return x * scale + shift

"""Consecutive linear layers, multiplied out where that is less work.

Two layers without an activation between them are one linear map: ``W2 (W1 x + b1) + b2``. Its
product is taken in float64 and rounded once, so that the merged layer is at least as exact as the
two. Layers whose product overflows or underflows in float32 stay. A bottleneck, as in a factorised
layer, is less work as it is and stays, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from lrgate.model.layer import Layer

__all__ = ["merged"]

# Below it, float32 loses digits, down to zero.
_SMALLEST_NORMAL: Final = float(np.finfo(np.float32).tiny)
# A smaller product in float64 may underflow when it is multiplied by another float32 value.
_SMALLEST: Final = 1e-250


def merged(layers: Sequence[Layer]) -> tuple[list[Layer], list[tuple[int, int]]]:
    """The layers with linear runs multiplied out, and the given layers that each one replaces.

    Parameters
    ----------
    layers : sequence of Layer
        Without gates, kept units and quantization.

    Returns
    -------
    layers : list of Layer
    spans : list of (int, int)
        First and last index of the given layers that each one stands for.

    Examples
    --------
    >>> import numpy as np
    >>> from lrgate.model import Activation
    >>> first = Layer(2 * np.eye(3), np.ones(3), Activation("identity"))
    >>> second = Layer(np.ones((2, 3)), np.zeros(2), Activation("relu"))
    >>> made, spans = merged([first, second])
    >>> made[0].weight.tolist(), made[0].bias.tolist(), spans
    ([[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]], [3.0, 3.0], [(0, 1)])
    """
    made: list[Layer] = []
    spans: list[tuple[int, int]] = []
    at = 0
    while at < len(layers):
        end = at
        while end + 1 < len(layers) and _is_linear(layers[end]):
            end += 1
        for first, last in _cheapest(layers, at, end):
            product = _product(layers[first : last + 1])
            if product is None:
                made += layers[first : last + 1]
                spans += [(i, i) for i in range(first, last + 1)]
            else:
                made.append(product)
                spans.append((first, last))
        at = end + 1
    return made, spans


def _is_linear(layer: Layer) -> bool:
    name, slopes = layer.activation.name, layer.activation.values
    return name == "identity" or (name in ("leaky_relu", "prelu") and bool(np.all(slopes[0] == 1)))


def _cheapest(layers: Sequence[Layer], first: int, last: int) -> list[tuple[int, int]]:
    """How to cut a run of layers: the least multiply-adds, then the fewest layers."""
    best: list[tuple[int, int, list[tuple[int, int]]]] = [(0, 0, [])]
    for end in range(first, last + 1):
        ways = []
        for begin in range(first, end + 1):
            work, count, spans = best[begin - first]
            more = layers[begin].inputs * layers[end].outputs
            ways.append((work + more, count + 1, [*spans, (begin, end)]))
        best.append(min(ways, key=lambda way: way[:2]))
    return best[-1][2]


def _product(run: Sequence[Layer]) -> Layer | None:
    """One layer in place of several; None if float32 does not hold its values to full precision."""
    if len(run) == 1:
        return run[0]
    weight, bias = run[-1].weight.astype(np.float64), run[-1].bias.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for layer in reversed(run[:-1]):
            bias = weight @ layer.bias.astype(np.float64) + bias
            weight = weight @ layer.weight.astype(np.float64)
            size = np.abs(weight)
            if np.any((size > 0) & (size < _SMALLEST)):
                return None
        rounded = weight.astype(np.float32), bias.astype(np.float32)
    for exact, values in zip((weight, bias), rounded, strict=True):
        underflow = (np.abs(exact) < _SMALLEST_NORMAL) & (values != exact)
        if underflow.any() or not np.isfinite(values).all():
            return None
    return Layer(*rounded, run[-1].activation)

"""Consecutive linear layers, multiplied out where that is less work.

Two layers without an activation between them are one linear map: ``W2 (W1 x + b1) + b2``. Its
product is taken in float64 and rounded once, so that the merged layer is at least as exact as the
two. A bottleneck, as in a factorised layer, is less work as it is and stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lrgate.model.layer import Layer

__all__ = ["merged"]


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
            if product is None:  # its weights do not fit float32
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
    """One layer in place of several; None where it is not finite in float32."""
    if len(run) == 1:
        return run[0]
    weight, bias = run[-1].weight.astype(np.float64), run[-1].bias.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for layer in reversed(run[:-1]):
            bias = weight @ layer.bias.astype(np.float64) + bias
            weight = weight @ layer.weight.astype(np.float64)
        rounded = weight.astype(np.float32), bias.astype(np.float32)
    if not all(np.isfinite(array).all() for array in rounded):
        return None
    return Layer(*rounded, run[-1].activation)

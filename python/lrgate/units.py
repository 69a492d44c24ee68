"""Hidden units: which can never be on, which are on together.

Units that no row of the declared input range switches on are left out of the computation, exactly.
The others may be computed in any order; in one where units that are on together sit together, a
sparse row leaves more whole groups of units at zero, and kernels that skip by groups skip more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.model import Activation, Layer

__all__ = ["co_activation_order", "proven_dead"]

BoolArray = npt.NDArray[np.bool_]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

# The units that kernels skip together: four inputs of an int8 layer, a vector of sixteen of an f32
# one; so groups of four, in groups of four.
_GROUP: Final = 4

# More rows than this do not make the order better; they are bits in words that are compared.
_ORDER_ROWS: Final = 2048

# The unit roundoff of float32. A sum of n products is off by less than about n of it, as a share of
# the sum of their magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
_ROUNDOFF: Final = 2.0**-24


def proven_dead(
    layers: Sequence[Layer],
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    shift: npt.ArrayLike = 0.0,
) -> list[BoolArray]:
    """The units that no row between two bounds can switch on, by interval arithmetic.

    The bounds go through the layers one after another, as if inputs varied independently, so what
    is proven holds, and little is proven in deep layers. Margins cover float32 rounding.

    Parameters
    ----------
    layers : sequence of Layer
    low, high : array_like of shape () or (d,)
        Bounds of the first layer's inputs, that is, after a network's input scale and shift.
    shift : array_like of shape () or (d,)
        The network's input shift, which is rounded apart from what it is added to.

    Returns
    -------
    list of bool arrays (out,)
        One for each layer: True where a unit's output is zero for every row within the bounds.
        All False for a layer whose activation has no hard zero.

    Examples
    --------
    >>> layer = Layer([[1.0, 1.0], [1.0, -1.0]], [-3.0, 0.0], Activation("relu"))
    >>> proven_dead([layer], 0.0, 1.0)
    [array([ True, False])]
    """
    width = layers[0].inputs
    least = np.broadcast_to(np.asarray(low, np.float64), (width,))
    most = np.broadcast_to(np.asarray(high, np.float64), (width,))
    extra = np.broadcast_to(np.abs(np.asarray(shift, np.float64)), (width,))
    dead = []
    for layer in layers:
        weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
        centre, radius = (least + most) / 2, (most - least) / 2
        middle, spread = weight @ centre + bias, np.abs(weight) @ radius
        inputs = np.maximum(np.abs(least), np.abs(most)) + 2 * extra
        size = np.abs(weight) @ inputs + np.abs(bias)
        spread = spread + (layer.inputs + 8) * _ROUNDOFF * size
        extra = np.zeros(layer.outputs)
        least, most = middle - spread, middle + spread
        if layer.activation.has_hard_zero:
            threshold = 0.0
            if layer.activation.name == "thresholded_relu":
                threshold = float(np.float32(layer.activation.parameter or 0.0))
            dead.append(most <= threshold)
        else:
            dead.append(np.zeros(layer.outputs, np.bool_))
        least, most = _through(layer.activation, least, most)
    return dead


def _through(
    activation: Activation, low: Float64Array, high: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Bounds of an activation's outputs from bounds of its inputs."""
    parameter = activation.parameter or 0.0
    match activation.name:
        case "relu":
            return np.maximum(low, 0.0), np.maximum(high, 0.0)
        case "clipped_relu":
            return np.clip(low, 0.0, parameter), np.clip(high, 0.0, parameter)
        case "thresholded_relu":
            # Zero, or between the threshold and the upper bound.
            on = high > parameter
            least = np.where(low > parameter, low, np.minimum(0.0, parameter))
            return np.where(on, least, 0.0), np.where(on, np.maximum(high, 0.0), 0.0)
        case "leaky_relu":
            ends = [np.where(z > 0, z, parameter * z) for z in (low, high)]
            inside = (low < 0) & (high > 0)
            least = np.where(inside, np.minimum(np.minimum(*ends), 0.0), np.minimum(*ends))
            return least, np.maximum(*ends)
        case "identity":
            return low, high
        case "gelu":
            # z times a share: it has its least value, above -0.17, between -1 and 0.
            return np.minimum(np.maximum(low, -0.17), 0.0), np.maximum(high, 0.0)
        case _:  # tanh, sigmoid, softmax
            return np.full_like(low, -1.0), np.ones_like(high)


def co_activation_order(active: npt.ArrayLike) -> IntArray:
    """An order of units in which units that are on together sit together.

    Groups of four are made so that as few as possible are on per row (a group is on where one or
    more of its units are), greedily from the rarest unit on, each time adding the unit that is on
    least often outside the group; then units are exchanged between groups while that helps. The
    groups are put in fours in the same way.

    Parameters
    ----------
    active : array_like of bool (n, units)
        Which units were on, on some rows.

    Returns
    -------
    int array (units,)
        The unit at each position.

    Examples
    --------
    >>> even, odd = [1, 0] * 4, [0, 1] * 4
    >>> co_activation_order([even, odd]).tolist()
    [0, 2, 4, 6, 1, 3, 5, 7]
    """
    bits = _pack(np.asarray(active, np.bool_)[:_ORDER_ROWS])
    order = _exchanged(bits, _grouped(bits))
    whole = len(order) // _GROUP * _GROUP
    groups = order[:whole].reshape(-1, _GROUP)
    on = np.bitwise_or.reduce(bits[groups], axis=1)
    return np.concatenate([groups[_grouped(on)].ravel(), order[whole:]])


def _pack(active: BoolArray) -> Words:
    """Each unit's rows as bits, (units, words)."""
    packed = np.packbits(active.T, axis=1)
    padded = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
    return np.ascontiguousarray(padded).view(np.uint64)


def _count(bits: Words) -> IntArray:
    total: IntArray = np.bitwise_count(bits).sum(axis=-1, dtype=np.int64)
    return total


def _grouped(bits: Words) -> IntArray:
    """Greedy groups of four, one after another."""
    counts = _count(bits)
    left = np.arange(len(bits))
    order: list[int] = []
    while len(left):
        at = int(np.argmin(counts[left]))
        group = np.zeros_like(bits[0])
        for place in range(min(_GROUP, len(left))):
            if place:
                # Mostly within the group; of two that are equally so, the more frequent one; of
                # those wholly outside, the rarest.
                shared, count = _count(bits[left] & group), counts[left]
                at = int(np.argmax(shared / np.maximum(count, 1) + 1e-9 * shared - 1e-12 * count))
            order.append(int(left[at]))
            group = group | bits[left[at]]
            left = np.delete(left, at)
    return np.array(order, np.int64)


def _exchanged(bits: Words, order: IntArray) -> IntArray:
    """Exchanges units between groups of four while that leaves fewer groups on."""
    whole = len(order) // _GROUP * _GROUP
    groups = order[:whole].reshape(-1, _GROUP).copy()
    if len(groups) < 2:
        return order
    members: Any = bits[groups]
    # What a group is without its member m.
    others = np.stack([_or(np.delete(members, m, axis=1)) for m in range(_GROUP)], axis=1)
    costs = _count(others[:, 0] | members[:, 0])
    total = int(costs.sum())
    while True:
        for a in range(len(groups)):
            for m in range(_GROUP):
                # The change for exchanging this unit with every other one.
                change = _count(others | members[a, m]) + _count(members | others[a, m])
                change -= costs[:, None] + costs[a]
                change[a] = 0
                b, k = divmod(int(np.argmin(change)), _GROUP)
                if change[b, k] >= 0:
                    continue
                groups[a, m], groups[b, k] = groups[b, k], groups[a, m]
                for g in (a, b):
                    members[g] = bits[groups[g]]
                    for k in range(_GROUP):
                        others[g, k] = _or(np.delete(members[g], k, axis=0)[None])[0]
                    costs[g] = _count(others[g, 0] | members[g, 0])
        before, total = total, int(costs.sum())
        if total >= 0.995 * before:
            return np.concatenate([groups.ravel(), order[whole:]])


def _or(bits: Words) -> Words:
    result: Words = np.bitwise_or.reduce(bits, axis=1)
    return result

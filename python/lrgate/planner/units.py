"""Hidden units that can never be on, and an order of the others by their activity.

Units that no row of the declared input range switches on are left out of the computation, exactly.
The others may be computed in any order. If units that are on together are next to each other, a
sparse row leaves more whole groups of units at zero, and kernels that skip by groups skip more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.model.layer import Layer
from lrgate.types import BoolArray, IntArray

__all__ = ["co_activation_order", "proven_dead"]

Words = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int16]

# The units that kernels skip together: four inputs of an int8 layer, a vector of sixteen of an f32
# one; so groups of four, in groups of four.
_GROUP: Final = 4

# More rows than this do not improve the order. Rows are bits of words that are compared.
_ORDER_ROWS: Final = 2048

# Up to this many units, each is compared with every other one. More units are first split into
# blocks that are on together; a unit is then compared within its block only, on fewer rows.
_COMPARED_UNITS: Final = 4096
_BLOCK: Final = 256
_BLOCK_ROWS: Final = 1024

# Directions of activity in which blocks are split, and the units whose activity is taken at once.
_DIRECTIONS: Final = 32
_CHUNK_UNITS: Final = 4096

# Units are exchanged in several blocks at once, of about this many units: they stay in cache.
_BATCH_UNITS: Final = 1 << 14
_BLOCK_PASSES: Final = 4

# Weights are taken in chunks of about this many float64 values (8 MiB).
_CHUNK_VALUES: Final = 1 << 20

# The unit roundoff of float32. A sum of n products is off by less than about n of it, as a share of
# the sum of their magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
_ROUNDOFF: Final = 2.0**-24


def proven_dead(
    layers: Sequence[Layer],
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    shift: npt.ArrayLike,
) -> list[BoolArray]:
    """The units that no row between two bounds can switch on, by interval arithmetic.

    The bounds go through the layers one after another, as if inputs varied independently, so the
    proof holds, but few units of deep layers are proven dead. Margins cover float32 rounding.

    Parameters
    ----------
    layers : sequence of Layer
    low, high : array_like of shape () or (d,)
        Bounds of the first layer's inputs, that is, after a network's input scale and shift.
    shift : array_like of shape () or (d,)
        The network's input shift, which is rounded separately from its addend.

    Returns
    -------
    list of bool arrays (out,)
        One for each layer: True where a unit's output is zero for every row within the bounds.
        All False for a layer whose activation has no hard zero.

    Examples
    --------
    >>> from lrgate import Activation
    >>> layer = Layer([[1.0, 1.0], [1.0, -1.0]], [-3.0, 0.0], Activation("relu"))
    >>> proven_dead([layer], 0.0, 1.0, shift=0.0)
    [array([ True, False])]
    """
    width = layers[0].inputs
    least = np.broadcast_to(np.asarray(low, np.float64), (width,))
    most = np.broadcast_to(np.asarray(high, np.float64), (width,))
    extra = np.broadcast_to(np.abs(np.asarray(shift, np.float64)), (width,))
    dead = []
    for layer in layers:
        bias = layer.bias.astype(np.float64)
        with np.errstate(invalid="ignore"):
            centre, radius = (least + most) / 2, (most - least) / 2
        inputs = np.maximum(np.abs(least), np.abs(most)) + 2 * extra
        middle, spread, size = (np.empty(layer.outputs) for _ in range(3))
        step = max(1, _CHUNK_VALUES // max(layer.inputs, 1))
        for first in range(0, layer.outputs, step):
            some = slice(first, first + step)
            weight = layer.weight[some].astype(np.float64)
            with np.errstate(invalid="ignore"):
                middle[some] = weight @ centre + bias[some]
                np.abs(weight, out=weight)
                spread[some] = weight @ radius
                size[some] = weight @ inputs + np.abs(bias[some])
        spread = spread + (layer.inputs + 8) * _ROUNDOFF * size
        extra = np.zeros(layer.outputs)
        with np.errstate(invalid="ignore"):
            least, most = middle - spread, middle + spread
        # Where the bounds of inputs are infinite, those of their sums may be unknown.
        least = np.where(np.isnan(least), -np.inf, least)
        most = np.where(np.isnan(most), np.inf, most)
        if layer.activation.has_hard_zero:
            dead.append(most <= layer.activation.threshold)
        else:
            dead.append(np.zeros(layer.outputs, np.bool_))
        least, most = layer.activation.bounds(least, most)
    return dead


def co_activation_order(active: npt.ArrayLike) -> IntArray:
    """An order of units in which units that are on together are next to each other.

    Groups of four are made so that as few as possible are on per row (a group is on where one or
    more of its units are), greedily from the rarest unit on, each time adding the unit that is on
    least often outside the group; then units are exchanged between groups while that helps. The
    groups are put in fours in the same way.

    Of more than 4,096 units, blocks of 256 are made first, by halving along the directions in which
    activity varies most; groups are made within them. Time is then proportional to the units.

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
    rows = np.asarray(active)[:_ORDER_ROWS].astype(np.bool_, copy=False)
    if rows.shape[1] > _COMPARED_UNITS:
        return _blockwise(rows)
    bits = _pack(rows)
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
                # The unit with the largest share within the group; on a tie the more frequent one;
                # of units wholly outside the group, the rarest.
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
    # Each group without its member m.
    others = np.stack([_or(np.delete(members, m, axis=1)) for m in range(_GROUP)], axis=1)
    costs = _count(others[:, 0] | members[:, 0])
    total = int(costs.sum(dtype=np.int64))
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
        before, total = total, int(costs.sum(dtype=np.int64))
        if total >= 0.995 * before:
            return np.concatenate([groups.ravel(), order[whole:]])


def _or(bits: Words) -> Words:
    result: Words = np.bitwise_or.reduce(bits, axis=1)
    return result


# --- many units -----------------------------------------------------------------------------------


def _blockwise(active: BoolArray) -> IntArray:
    """`co_activation_order` of many units: within blocks of units that are on together."""
    if not len(active):
        return np.arange(active.shape[1])
    # Every n-th row, because rows may be sorted.
    active = active[:: -(-len(active) // _BLOCK_ROWS)]
    order = _in_blocks(_directions(active))
    whole = len(order) // _BLOCK * _BLOCK
    bits = _pack(active)
    # Twice, the second time in blocks of halves of two: units near a block's border.
    half = _BLOCK // 2
    for first, last in ((0, whole), (half, whole - half), (whole, len(order))):
        size = _BLOCK if last <= whole else len(order) - whole
        count = max(0, last - first) // size if size else 0
        step = max(1, _BATCH_UNITS // size) if size else 1
        for at in range(0, count, step):
            some = slice(first + at * size, first + min(at + step, count) * size)
            units = order[some].reshape(-1, size)
            order[some] = _ordered(bits, units, regroup=first != half).ravel()
    return order


def _directions(active: BoolArray) -> npt.NDArray[np.float32]:
    """Each unit's activity (units, k) in the directions of largest variation."""
    n, units = active.shape
    random = np.random.default_rng(0)
    basis = random.standard_normal((n, _DIRECTIONS)).astype(np.float32)
    images = np.empty((units, _DIRECTIONS), np.float32)
    for last in (False, False, True):
        basis, _ = np.linalg.qr(basis)
        back = np.zeros((n, basis.shape[1]), np.float32)
        for first in range(0, units, _CHUNK_UNITS):
            some = slice(first, first + _CHUNK_UNITS)
            chunk = active[:, some].T.astype(np.float32)
            # Of unit length, so that rows shared by rare units count as much.
            chunk /= np.maximum(np.sqrt(chunk.sum(axis=1, keepdims=True)), 1)
            images[some, : basis.shape[1]] = chunk @ basis
            if not last:
                back += chunk.T @ images[some, : basis.shape[1]]
        basis = basis if last else back
    return images[:, : basis.shape[1]]


def _in_blocks(points: npt.NDArray[np.float32]) -> IntArray:
    """An order of points of which every block holds neighbours: by halving, again and again."""
    order = np.arange(len(points))
    parts = [(0, len(points))]
    while parts:
        first, last = parts.pop()
        blocks = (last - first) // _BLOCK
        if blocks < 2:
            continue
        units = order[first:last]
        centred = points[units] - points[units].mean(axis=0)
        _, vectors = np.linalg.eigh(centred.T @ centred)
        units = units[np.argsort(centred @ vectors[:, -1], kind="stable")]
        order[first:last] = units
        middle = first + blocks // 2 * _BLOCK
        parts += [(first, middle), (middle, last)]
    return order


def _ordered(bits: Words, units: IntArray, *, regroup: bool) -> IntArray:
    """Each row of `units` (blocks, size) in the order of `co_activation_order`."""
    if regroup:
        units = np.take_along_axis(units, _grouped_each(bits[units]), axis=1)
    units = _exchanged_each(bits, units)
    whole = units.shape[1] // _GROUP * _GROUP
    groups = units[:, :whole].reshape(len(units), -1, _GROUP)
    order = _grouped_each(np.bitwise_or.reduce(bits[groups], axis=2))
    groups = np.take_along_axis(groups, order[:, :, None], axis=1)
    return np.concatenate([groups.reshape(len(units), -1), units[:, whole:]], axis=1)


def _grouped_each(bits: Words) -> IntArray:
    """`_grouped` of each block of `bits` (blocks, units, words)."""
    blocks, units, _ = bits.shape
    words = np.ascontiguousarray(bits.transpose(2, 0, 1))
    counts = _count(bits)
    each = np.arange(blocks)
    used = np.zeros((blocks, units), np.bool_)
    order = np.empty((blocks, units), np.int64)
    rarest = np.argsort(counts, axis=1, kind="stable")
    next_rarest = np.zeros(blocks, np.int64)
    group = np.zeros((words.shape[0], blocks), np.uint64)
    for place in range(units):
        if place % _GROUP:
            shared = _shared(words, group)
            score = shared / np.maximum(counts, 1) + 1e-9 * shared - 1e-12 * counts
            score[used] = -np.inf
            at = np.argmax(score, axis=1)
            group |= words[:, each, at]
        else:
            while (taken := used[each, rarest[each, next_rarest]]).any():
                next_rarest += taken
            at = rarest[each, next_rarest]
            group = words[:, each, at]
        used[each, at] = True
        order[:, place] = at
    return order


def _shared(words: Words, group: Words) -> Counts:
    """How many rows each unit (words, blocks, units) shares with its block's group."""
    shared = np.zeros(words.shape[1:], np.int16)
    for word, of_group in zip(words, group, strict=True):
        shared += np.bitwise_count(word & of_group[:, None])
    return shared


def _exchanged_each(bits: Words, units: IntArray) -> IntArray:
    """`_exchanged` of each row of `units` (blocks, size), in a few passes."""
    blocks, size = units.shape
    count = size // _GROUP
    if count < 2:
        return units
    units = units.copy()
    groups = units[:, : count * _GROUP].reshape(blocks, count, _GROUP)  # a view
    # By words first, so that sums over them are of long rows.
    members = np.ascontiguousarray(bits[groups].transpose(3, 0, 1, 2))
    others = _without_each(members)
    costs = _over_words(others[..., 0] | members[..., 0])
    total = int(costs.sum(dtype=np.int64))
    each = np.arange(blocks)
    for _ in range(_BLOCK_PASSES):
        for a in range(count):
            for m in range(_GROUP):
                change = _costs_with(others, members[:, :, a, m])
                change += _costs_with(members, others[:, :, a, m])
                change -= costs[:, :, None] + costs[:, a, None, None]
                change[:, a] = 0
                flat = change.reshape(blocks, -1)
                best = np.argmin(flat, axis=1)
                swaps = np.flatnonzero(flat[each, best] < 0)
                if not len(swaps):
                    continue
                b, k = np.divmod(best[swaps], _GROUP)
                mine, theirs = groups[swaps, a, m], groups[swaps, b, k]
                groups[swaps, a, m], groups[swaps, b, k] = theirs, mine
                for g in (np.full(len(swaps), a), b):
                    changed = bits[groups[swaps, g]].transpose(2, 0, 1)
                    members[:, swaps, g] = changed
                    without = _without_each(changed)
                    others[:, swaps, g] = without
                    costs[swaps, g] = _over_words(without[..., 0] | changed[..., 0])
        before, total = total, int(costs.sum(dtype=np.int64))
        if total >= 0.995 * before:
            break
    return units


def _without_each(members: Words) -> Words:
    """Groups (..., 4) without each of their members."""
    a, b, c, d = (members[..., m] for m in range(_GROUP))
    return np.stack([b | c | d, a | c | d, a | b | d, a | b | c], axis=-1)


def _over_words(bits: Words) -> Counts:
    """Bits set, summed over the first axis."""
    total: Counts = np.bitwise_count(bits).sum(axis=0, dtype=np.int16)
    return total


def _costs_with(parts: Words, unit: Words) -> Counts:
    """Rows on which each part (words, blocks, groups, 4) or its block's unit is on."""
    costs = np.zeros(parts.shape[1:], np.int16)
    for part, word in zip(parts, unit, strict=True):
        costs += np.bitwise_count(part | word[:, None, None])
    return costs

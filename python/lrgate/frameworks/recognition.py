"""Recognition of activations from their values.

Exporters spell activations out: ``x * sigmoid(x)``, ``min(max(x, 0), 6)``, or
``where(x > 20, x, log(1 + exp(x)))``. The forms are many, but each is a function of one
pre-activation. So the function is computed on a grid and compared with each activation, in float64.

A function can have a kink or a jump only where an operation compares, clips or chooses. These
places are the sign changes of its `events`. They are found by halving and added to the grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lrgate.frameworks.values import Function
from lrgate.model.activation import Activation
from lrgate.types import Float64Array, IntArray

__all__ = ["Recognised", "recognised"]


@dataclass(frozen=True, eq=False)
class Recognised:
    """``scale * activation(sign * z + shift) + offset``; arrays have the shape (elements,).

    With `changes_nan` this holds except for NaN, for which the function gives a number.
    """

    activation: Activation
    scale: Float64Array
    offset: Float64Array
    sign: float = 1.0
    shift: Float64Array | None = None
    changes_nan: bool = False


# Constants of graphs are float32, and some have fewer digits.
_TOLERANCE: Final = 2e-6
_ROUNDING: Final = 1e-12
# Relative distance within which a kink or jump may be, and of the points beside it.
_NEAR: Final = 1e-6
_BESIDE: Final = 3e-6
# Beyond this, powers of e overflow, and a formula may be infinite or NaN where its limit is not.
_OVERFLOW: Final = 300.0
_FAR: Final = 1e8
_UNDERFLOW: Final = 1e-100
_MAX_ROOTS: Final = 64
_MAX_VALUES: Final = 2**26
_CHUNK: Final = 2**18
# Units that are compared first.
_FEW: Final = 8
_HALVINGS: Final = 64
_FIXED: Final = (
    "identity",
    "relu",
    "tanh",
    "sigmoid",
    "silu",
    "gelu",
    "gelu_tanh",
    "hard_swish",
    "hard_sigmoid",
    "softplus",
    "mish",
    "elu",
    "selu",
    "squared_relu",
    "exp",
)
# Functions whose features may have any size: they are compared without an absolute tolerance.
_STRAIGHT: Final = (
    "identity",
    "relu",
    "leaky_relu",
    "prelu",
    "clipped_relu",
    "hard_tanh",
    "thresholded_relu",
)


def _points() -> tuple[Float64Array, Float64Array]:
    """All points of the grid, which is symmetric, and some of them."""
    logarithmic, beyond = np.logspace(-6, 8, 141), np.logspace(9, 38, 30)
    side = np.concatenate([np.linspace(0.0, 10.0, 101), [15.0, 20.5, 30.0, 50.0], logarithmic])
    every = np.concatenate([side, beyond])
    some = np.concatenate([np.linspace(0.0, 10.0, 21), [1e-3, 20.5, 50.0, 1e2, 1e4, 1e6, _FAR]])
    return np.unique([-every, every]), np.unique([-some, some])


_EVERY, _SOME = _points()


def recognised(
    function: Function,
    size: int,
    events: Sequence[Function] = (),
    fixed: Float64Array | None = None,
) -> Recognised | None:
    """The activation that equals an elementwise function up to a scale and an offset.

    Parameters
    ----------
    function : callable
        From values (n, size) to values of the same shape.
    size : int
        Number of elements.
    events : sequence of callable
        Functions of the same values. Where one changes its sign, `function` may have a kink or a
        jump. Later events may have kinks only at sign changes of earlier ones.
    fixed : array (size,), optional
        The only value of an element that does not depend on the input; NaN for other elements.

    Returns
    -------
    Recognised or None
        None if no activation fits. One that fits except for NaN is returned if no other fits.
    """
    live = np.ones(size, bool) if fixed is None else np.isnan(fixed)
    roots = _roots(events, size) if live.any() and size * len(_EVERY) <= _MAX_VALUES else None
    if roots is None:
        return None
    comparison = _Comparison(function, size, roots, live)
    if comparison.is_infinite:
        return None
    almost: Recognised | None = None
    for activation, sign, shift in _candidates(comparison):
        fit = comparison.fitted(activation, sign, shift)
        if fit is None:
            continue
        scale, offset, changes_nan = fit
        if changes_nan:
            almost = almost or Recognised(activation, scale, offset, sign, shift, True)
            continue
        if fixed is not None:
            constant = _argument(np.where(live, 0.0, fixed), sign, shift)
            values = _on(function, np.zeros((1, 1)), size)[0]
            with np.errstate(all="ignore"):
                at = values - activation.apply(constant)
            scale, offset = np.where(live, scale, 1.0), np.where(live, offset, at)
            if not np.isfinite(offset).all():
                continue
        return Recognised(activation, scale, offset, sign, shift)
    return almost


def _on(function: Function, z: Float64Array, size: int) -> Float64Array:
    """The function's values (len(z), size) at points (n, 1) or (n, size)."""
    with np.errstate(all="ignore"):
        return np.asarray(function(np.broadcast_to(z, (len(z), size))), np.float64)


def _argument(z: Float64Array, sign: float, shift: Float64Array | None) -> Float64Array:
    result: Float64Array = z if shift is None else sign * z + shift
    return result


def _parts(z: Float64Array, size: int) -> Iterator[Float64Array]:
    """Points in parts that need little memory; the last point of a part is in the next too."""
    step = max(2, _CHUNK // size)
    for start in range(0, max(1, len(z) - 1), step - 1):
        yield z[start : start + step]


def _roots(events: Sequence[Function], size: int) -> Float64Array | None:
    """Sign changes of the events (n, 1) or (n, size); None if they are too many."""
    z = _EVERY[:, None]
    roots = np.zeros((1, 1))
    for event in events:
        found = _changes(event, z, size)
        if found is None:
            return None
        if not len(found):
            continue
        if _same(found, found[:, :1]):
            found = found[:, :1]
        roots = _distinct(_joined(roots, found))
        if len(roots) > _MAX_ROOTS or roots.shape[1] * (len(_EVERY) + 5 * len(roots)) > _MAX_VALUES:
            return None
        z = np.sort(_joined(_EVERY[:, None], _around(roots), roots), axis=0)
    return roots


def _joined(*parts: Float64Array) -> Float64Array:
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.broadcast_to(part, (len(part), width)) for part in parts])


def _distinct(rows: Float64Array) -> Float64Array:
    kept: list[Float64Array] = []
    for row in rows:
        if not any(_same(row, other) for other in kept):
            kept.append(row)
    return np.stack(kept)


def _same(a: Float64Array, b: Float64Array) -> bool:
    """Whether roots differ by no more than the rounding errors of the events."""
    return bool((np.abs(a - b) <= _ROUNDING * (1.0 + np.abs(b))).all())


def _around(roots: Float64Array) -> Float64Array:
    """Points just below and above each root."""
    width = _BESIDE * np.abs(roots) + 3 * _ROUNDING
    return np.concatenate([roots - width, roots + width])


def _changes(event: Function, z: Float64Array, size: int) -> Float64Array | None:
    """Sign changes (n, size) between neighbouring points, for each unit in any order."""
    low, high, units = [], [], []
    count = np.zeros(size, np.intp)
    for part in _parts(z, size):
        signs = np.sign(_on(event, part, size))
        before, after = signs[:-1], signs[1:]
        row, unit = np.nonzero((before != after) & ~np.isnan(before) & ~np.isnan(after))
        count += np.bincount(unit, minlength=size)
        if count.max() > _MAX_ROOTS:
            return None
        column = unit if part.shape[1] > 1 else 0
        low.append(part[row, column])
        high.append(part[row + 1, column])
        units.append(unit)
    unit = np.concatenate(units)
    order = np.argsort(unit, kind="stable")
    unit = unit[order]
    place = np.arange(len(unit)) - (np.cumsum(count) - count)[unit]
    a, b = np.zeros((2, int(count.max()), size))
    a[place, unit], b[place, unit] = np.concatenate(low)[order], np.concatenate(high)[order]
    if not len(a):
        return a
    sign = np.sign(_on(event, a, size))
    for _ in range(_HALVINGS):
        middle = 0.5 * a + 0.5 * b
        same = np.sign(_on(event, middle, size)) == sign
        a, b = np.where(same, middle, a), np.where(same, b, middle)
    # The end where the event is exactly zero, if one is.
    found: Float64Array = np.where(sign == 0.0, a, b)
    # Where exponentials underflow there is no kink. Zero is among the roots anyway.
    most = np.maximum(np.abs(_on(event, a, size)), np.abs(_on(event, b, size)))
    found[most < _UNDERFLOW] = 0.0
    return found


class _Comparison:
    """A function on the grid, to be compared with activations.

    `z` (n, 1) or (n, size) are some points, with those around the roots, and `values` (n, size) the
    function there. Activations that fit them are compared on all points.
    """

    def __init__(self, function: Function, size: int, roots: Float64Array, live: Any) -> None:
        self.function, self.size, self.roots, self.live = function, size, roots, live
        beside = [_around(roots), 0.5 * roots, 2.0 * roots]
        self.z = np.sort(_joined(_SOME[:, None], *beside), axis=0)
        self.values = _on(function, self.z, size)
        self.furthest = float(np.abs(roots).max())
        limit = np.inf if self.furthest > _OVERFLOW else _OVERFLOW
        self.must_be_finite = limit
        near = (np.abs(self.z) <= limit) & live
        self.is_infinite = bool((near & ~np.isfinite(self.values)).any())

    def at(self, point: float) -> Float64Array:
        """Values of the units that depend on the input."""
        values: Float64Array = _on(self.function, np.array([[point]]), self.size)[0][self.live]
        return values

    def fitted(
        self, activation: Activation, sign: float, shift: Float64Array | None
    ) -> tuple[Float64Array, Float64Array, bool] | None:
        """Scale and offset with which the activation equals the function; None if none do.

        Also whether NaN is the exception.
        """
        few = np.flatnonzero(self.live)[:_FEW]
        with np.errstate(all="ignore"):
            if self.size > _FEW:
                part = None if shift is None else shift[few]
                if self._of(few)._fit(activation.of_units(few), sign, part) is None:
                    return None
            fit = self._fit(activation, sign, shift)
        if fit is None:
            return None
        for points in (self._all_points(), np.array([[-np.inf], [np.inf]])):
            for z in _parts(points, self.size):
                values = _on(self.function, z, self.size)
                if not self._equal(z, values, activation, sign, shift, *fit):
                    return None
        nan = np.array([[np.nan]])
        values = _on(self.function, nan, self.size)
        return *fit, not self._equal(nan, values, activation, sign, shift, *fit)

    def _of(self, units: IntArray) -> _Comparison:
        """The same points and values of some units."""
        part = copy(self)
        part.size, part.values, part.live = len(units), self.values[:, units], self.live[units]
        part.z = self.z[:, units] if self.z.shape[1] > 1 else self.z
        return part

    def _all_points(self) -> Float64Array:
        points = _EVERY
        if self.furthest <= _FAR:
            points = points[np.abs(points) <= 2.0 * _FAR]
        return _joined(points[:, None], _around(self.roots), self.roots)

    def _fit(
        self, activation: Activation, sign: float, shift: Float64Array | None
    ) -> tuple[Float64Array, Float64Array] | None:
        a = activation.apply(self._at_units(self.z, activation, sign, shift))
        a = np.broadcast_to(a, self.values.shape)
        # Values far from zero may be huge, as those of exp: the fit is on the middle of the grid.
        for reach in (10.0, 2.5 * self.furthest):
            weight = np.abs(self.z) <= reach
            count = weight.sum(0)
            mean_a = np.where(weight, a, 0.0).sum(0) / count
            mean_v = np.where(weight, self.values, 0.0).sum(0) / count
            centred = np.where(weight, a - mean_a, 0.0)
            spread = (centred * centred).sum(0)
            if spread[self.live].all():
                break
        else:
            return None
        scale = (centred * np.where(weight, self.values - mean_v, 0.0)).sum(0) / spread
        offset = mean_v - scale * mean_a
        scale[np.abs(scale - 1.0) <= 0.25 * _TOLERANCE] = 1.0
        scale, offset = np.where(self.live, scale, 0.0), np.where(self.live, offset, 0.0)
        constant = np.abs(scale) * np.sqrt(spread) <= 1e-9 * np.abs(offset)
        if not scale[self.live].all() or constant[self.live].any():
            return None
        # A small offset is an error of the fit, or one that matters to small values.
        small = np.abs(offset) <= _TOLERANCE * np.abs(scale) * (np.abs(mean_a) + 1.0)
        trials = [np.where(small, 0.0, offset)]
        if (trials[0] != offset).any():
            trials.append(offset)
        for summand in trials:
            if self._equal(self.z, self.values, activation, sign, shift, scale, summand):
                return scale, summand
        return None

    def _at_units(
        self, z: Float64Array, activation: Activation, sign: float, shift: Float64Array | None
    ) -> Float64Array:
        """The argument of the activation; of one unit for all if they are alike."""
        x = _argument(z, sign, shift)
        if activation.unit_parameters():
            x = np.broadcast_to(x, (len(x), self.size))
        return x

    def _equal(
        self,
        z: Float64Array,
        values: Float64Array,
        activation: Activation,
        sign: float,
        shift: Float64Array | None,
        scale: Float64Array,
        offset: Float64Array,
    ) -> bool:
        """Whether the values are those of the activation there, or beside a point, for a jump."""
        wrong: Any = None
        overflow = self._may_overflow(z)
        width = np.where(np.isfinite(z), _NEAR * np.abs(z) + _ROUNDING, 0.0)
        with np.errstate(all="ignore"):
            absolute = np.minimum(1.0, np.abs(z)) if activation.name in _STRAIGHT else 1.0
            floor = _TOLERANCE * np.abs(scale) * absolute
            floor = floor + _ROUNDING * (np.abs(scale) + np.abs(offset))
            for points in (z, z - width, z + width):
                a = scale * activation.apply(self._at_units(points, activation, sign, shift))
                expected = a + offset
                apart = np.abs(expected - values) <= floor + _TOLERANCE * np.abs(a)
                equal = apart & np.isfinite(expected) | (expected == values)
                equal |= np.isnan(expected) & np.isnan(values) | ~self.live
                # A formula that overflows, such as log(1 + exp(z)).
                if overflow.any():
                    equal |= overflow & ~np.isfinite(values) & np.isfinite(expected)
                wrong = ~equal if wrong is None else wrong & ~equal
                if not wrong.any():
                    break
            if wrong.any():
                return False
        # An element that does not depend on the input is constant.
        dead = values[:, ~self.live]
        return bool((dead == dead[:1])[np.isfinite(z[:, 0])].all())

    def _may_overflow(self, z: Float64Array) -> Any:
        return (np.abs(z) > self.must_be_finite) | (
            np.isinf(z) & (self.must_be_finite == _OVERFLOW)
        )

    def kinks(self) -> tuple[float | None, float | None]:
        """Up to and from which root, the same for all units, the function is constant."""
        unit = int(np.flatnonzero(self.live)[0])
        z = self.z[:, unit if self.z.shape[1] > 1 else 0]
        v = self.values[:, unit]
        roots = self.roots[:, self.live] if self.roots.shape[1] > 1 else self.roots
        usable = np.array([root[0] for root in roots if _alike(root)])
        found: list[float | None] = []
        for points, values in ((z, v), (z[::-1], v[::-1])):
            with np.errstate(invalid="ignore"):
                same = np.abs(values - values[0]) <= _ROUNDING * np.abs(values[0])
            end = len(same) if same.all() else int(np.argmin(same))
            if end in (0, len(same)) or abs(points[end - 1]) > _FAR or not usable.size:
                found.append(None)
                continue
            kink = float(usable[np.abs(usable - points[end - 1]).argmin()])
            found.append(0.0 if abs(kink) <= _ROUNDING else kink)
        return found[0], found[1]


Candidate = tuple[Activation, float, Float64Array | None]


def _candidates(comparison: _Comparison) -> Iterator[Candidate]:
    for name in _FIXED:
        yield from _made(name)
    live, size = comparison.live, comparison.size
    low, below, one, high = (comparison.at(p) for p in (-_FAR, -1.0, 1.0, _FAR))
    # Without an offset, the value at 1 is the scale of every function that is linear there.
    scale = np.where(one == 0.0, 1.0, one)
    slope = -below / scale
    if _alike(slope):
        yield from _made("leaky_relu", float(slope[0]))
    else:
        slopes = np.zeros(size, np.float32)
        slopes[live] = slope
        yield from _made("prelu", slopes)
    alpha = -low / scale
    if _alike(alpha):
        yield from _made("elu", float(alpha[0]))
    first, last = comparison.kinks()
    if first is not None and last is not None:
        # Of two names of one function, the one with a hard zero.
        if first == 0.0:
            yield from _made("clipped_relu", last)
        yield from _made("hard_tanh", first, last)
    if first is not None:
        yield from _made("thresholded_relu", first)
    # max(z, c) = relu(z - c) + c, and similar functions.
    for sign, ends in ((1.0, (low, comparison.at(-1e6))), (-1.0, (high, comparison.at(1e6)))):
        if not (ends[0] == ends[1]).all():
            continue
        for root in comparison.roots:
            shift = np.broadcast_to(-sign * root, (size,))
            yield Activation("relu"), sign, shift


def _made(name: str, *parameters: Any) -> Iterator[Candidate]:
    """The activation, if it takes these parameters."""
    with suppress(ValueError):
        yield Activation(name, *parameters), 1.0, None


def _alike(values: Float64Array) -> bool:
    if not np.isfinite(values).all():
        return False
    return float(np.ptp(values)) <= _TOLERANCE * float(np.abs(values).max())

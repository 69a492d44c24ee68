"""Units that are left out, and the order in which the others are computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.planner import units
from lrgate.planner.problem import Problem
from lrgate.planner.signals import units_on
from lrgate.types import IntArray

__all__ = [
    "Masks",
    "co_active_units",
    "never_on_units",
    "none_of",
    "proven_off_units",
    "units_without",
]


Masks = list[npt.NDArray[np.bool_]]

# Units that are on in at least this share of the rows are computed without being scored.
_ALWAYS_ON: Final = 0.95


def none_of(masks: Masks) -> Masks:
    """Masks of the same widths that select nothing."""
    return [np.zeros_like(mask) for mask in masks]


def proven_off_units(problem: Problem) -> Masks:
    """Units that are off on the whole declared input range."""
    base = problem.base
    layers, span = base.layers, base.input_range
    if span is None or problem.request.prune == "none":
        return [np.zeros(layer.outputs, np.bool_) for layer in layers]
    scale = 1.0 if base.input_scale is None else base.input_scale.astype(np.float64)
    shift = 0.0 if base.input_shift is None else base.input_shift.astype(np.float64)
    ends = np.stack(np.broadcast_arrays(*(end * scale + shift for end in span)))
    *off, _ = units.proven_dead(layers, ends.min(axis=0), ends.max(axis=0), shift)
    return [_keep_one(mask) for mask in off] + [np.zeros(layers[-1].outputs, np.bool_)]


def never_on_units(problem: Problem, off: Masks) -> Masks:
    """Units that are never on in the rows that fit and choose, other than those proven `off`."""
    silent = none_of(off)
    if problem.request.budget == 0 or problem.request.prune != "never_on":
        return silent
    on = units_on(problem.base, [problem.split.fit, problem.split.tune])
    for i, layer in enumerate(problem.base.layers[:-1]):
        if layer.activation.has_hard_zero:
            silent[i] = _keep_one(~on[i] & ~off[i], off[i])
    return silent


def units_without(*masks: Masks) -> list[IntArray]:
    """Each layer's units that none of the masks selects, in ascending order."""
    return [np.flatnonzero(~np.any(each, axis=0)) for each in zip(*masks, strict=True)]


def co_active_units(
    problem: Problem, inputs: Sequence[Any], kept: list[IntArray]
) -> tuple[list[IntArray], list[IntArray]]:
    """Each layer's kept units, those that are on together next to each other.

    `inputs` are those of all layers on the rows that fit. The second list has, for each layer, the
    positions of the units that are always on. These are at the end, except that large networks keep
    the order of their units: another order takes another packed copy of the weights.
    """
    ordered, always = [], []
    for i, layer in enumerate(problem.base.layers):
        found, positions = kept[i], np.arange(0)
        if i + 1 < len(inputs) and layer.activation.has_hard_zero:
            active = (inputs[i + 1] != 0)[:, found]
            on = active.mean(axis=0) >= _ALWAYS_ON
            positions = np.flatnonzero(on)
            if not problem.is_large:
                changing = found[~on]
                if len(changing):
                    changing = changing[units.co_activation_order(active[:, ~on])]
                found = np.concatenate([changing, found[on]])
                positions = np.arange(len(changing), len(found))
        ordered.append(found)
        always.append(positions)
    return ordered, always


def _keep_one(
    off: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_]:
    """`off` with one unit less where no unit would be left: a layer has at least one."""
    left = ~off if others is None else ~(off | others)
    if not left.any():
        off = off.copy()
        off[np.flatnonzero(off)[:1]] = False
    return off

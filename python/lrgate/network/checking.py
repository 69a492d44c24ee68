"""Probes: storing a network's outputs on a few rows, and checking that it still gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate import inputs
from lrgate.model.layer import Layer, missing_part
from lrgate.model.plan import BatchPlan, with_skip, without
from lrgate.model.probe import PlannedOutputs, Probe
from lrgate.network.engine import batch_plans
from lrgate.network.interface import Net
from lrgate.results.paths import path_names
from lrgate.types import Float32Array

__all__ = [
    "can_run",
    "check_probe",
    "check_rows",
    "plan_text",
    "planned_outputs",
    "probe_rows",
]


CHECK_TOLERANCE = 1e-4
"""Largest difference from stored outputs that :meth:`Network.check` allows.

It is relative to the largest stored output. Plans with gates, factors or int8 may have a larger
tolerance.
"""

# Largest difference of a plan's outputs from the dense ones that is allowed if none are stored for
# the plan, as root mean square relative to that of the dense outputs. Useful plans are at 0.1 at
# most.
_MOST_UNLIKE_DENSE: Final = 0.5

# Maximum number of values of a probe that is made from sparse rows and stored dense.
_MOST_PROBE_VALUES: Final = 1 << 26

# Rounding is assumed to change outputs at most as much as a relative change of the inputs by
# `_NUDGE`. With gates and int8 it changes single units or bytes in few rows. Therefore several
# random changes are tried, and the largest effect is multiplied by `_NUDGE_MARGIN`.
_NUDGE: Final = 1e-6
_NUDGES: Final = 3
_NUDGE_MARGIN: Final = 4
# Maximum number of plans whose outputs are stored with a probe.
_MOST_PLANNED: Final = 16

Form = tuple[tuple[str, ...], tuple[str, ...]]


def _form_of(plan: Form) -> Form:
    """The part of a plan that determines outputs: precisions, and strategies without skip."""
    strategies, precisions = plan
    return tuple(without(name, "skip") for name in strategies), precisions


def _is_dense_form(form: Form) -> bool:
    return set(form[0]) == {"dense"} and set(form[1]) == {"f32"}


def can_run(layers: Sequence[Layer], planned: PlannedOutputs) -> bool:
    """Whether the layers have the parts that the plan of these outputs needs."""
    return len(layers) == len(planned.strategies) and all(
        missing_part(layer, "", name, word) is None
        for layer, name, word in zip(layers, planned.strategies, planned.precisions, strict=True)
    )


def _largest_difference(y: Float32Array, expected: Float32Array) -> float:
    """Largest difference relative to the largest expected output; NaN if a difference is NaN."""
    largest = max(float(np.max(np.abs(expected))), float(np.finfo(np.float32).tiny))
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.max(np.abs(y - expected))) / largest


def _checked_outputs(
    y: Float32Array, expected: Float32Array, tolerance: float, plan: Form
) -> float:
    difference = _largest_difference(y, expected)
    if not difference <= tolerance:
        under = "" if _is_dense_form(plan) else f" under the plan {plan_text(BatchPlan(1, *plan))}"
        raise ValueError(
            f"the probe's outputs{under} differ from the stored ones by {difference:.2g} of the "
            f"largest, more than {tolerance:.0e}: the file or this machine is damaged"
        )
    return difference


def _check_likeness(y: Float32Array, dense: Float32Array, plan: Form) -> None:
    expected = dense.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        off = float(np.sqrt(np.mean((y - expected) ** 2)))
        most = _MOST_UNLIKE_DENSE * float(np.sqrt(np.mean(expected**2)))
    if not off <= max(most, float(np.finfo(np.float32).tiny)):
        raise ValueError(
            f"the probe's outputs under the plan {plan_text(BatchPlan(1, *plan))} differ from the "
            f"dense ones by more than {_MOST_UNLIKE_DENSE:.0%}: the file is damaged, or a gate, "
            "factors or a quantization do not fit; store outputs by with_probe to compare them "
            "with those"
        )


def probe_rows(x: Any, width: int) -> npt.NDArray[Any]:
    """Check the rows of a probe and copy them to a dense array of uint8 or float32."""
    if hasattr(x, "tocsr"):
        if len(x.shape) == 2 and x.shape[0] * x.shape[1] > _MOST_PROBE_VALUES:
            raise ValueError(
                f"x must be a few rows: sparse ones are stored dense, at most {_MOST_PROBE_VALUES} "
                f"values, got {x.shape}"
            )
        x = x.tocsr()
        x.check_format(full_check=True)  # SciPy does not check indices in toarray
    rows = inputs.checked_rows(x, width)
    return np.array(rows.toarray() if hasattr(rows, "toarray") else rows)


def check_rows(rule: str, rows: npt.NDArray[Any]) -> None:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(f"{rule}, got NaN or infinity in row {bad[0]}")


def plan_text(plan: BatchPlan) -> str:
    """The paths of a plan's layers on one line, and its margins if it has its own."""
    paths = "/".join(path_names(plan.strategies, plan.precisions))
    margins = {"margin": plan.least_margin, "int8 margin": plan.int8_margin}
    own = [f"{name} {value:.3g}" for name, value in margins.items() if value is not None]
    return f"{paths} ({', '.join(own)})" if own else paths


def planned_outputs(net: Net, probe: Probe) -> tuple[PlannedOutputs, ...]:
    """The outputs stored with the probe by plan, plus those missing for the network's own plan."""
    planned = list(probe.planned or ())
    if len(probe.x) == 0:
        return ()
    have = {(one.strategies, one.precisions) for one in planned}
    for entry in net.plan:
        form = _form_of((entry.strategies, entry.precisions))
        if form in have or _is_dense_form(form) or len(planned) >= _MOST_PLANNED:
            continue
        have.add(form)
        y = _outputs_under(net, probe.x, *form)
        if np.isfinite(y).all():
            planned.append(PlannedOutputs(*form, y, _tolerance(net, probe.x, y, *form)))
    return tuple(planned)


def _outputs_under(
    net: Net, x: npt.NDArray[Any], strategies: Sequence[str], precisions: Sequence[str]
) -> Float32Array:
    """Outputs under a plan, without recomputed rows: those would hide damage."""
    return _outputs_of(net.with_least_margin(0.0), x, strategies, precisions)


def _outputs_of(
    net: Net, x: npt.NDArray[Any], strategies: Sequence[str], precisions: Sequence[str]
) -> Float32Array:
    engine = net.engine.with_plan([(1, list(strategies), list(precisions))])
    return np.asarray(net._with(engine, plan=batch_plans(engine))(x))


def _tolerance(
    net: Net,
    x: npt.NDArray[Any],
    y: Float32Array,
    strategies: Sequence[str],
    precisions: Sequence[str],
) -> float:
    """Largest change of a plan's outputs by rounding, relative to the largest output."""
    skipped = [with_skip(name) for name in strategies]
    moved = [_outputs_under(net, x, skipped, precisions)]
    draw = np.random.default_rng(0)
    for _ in range(_NUDGES):
        nudged = x * (1 + _NUDGE * draw.choice([-1.0, 1.0], x.shape))
        limit = np.finfo(np.float32).max
        nudged = np.clip(nudged, -limit, limit).astype(np.float32)
        moved.append(_outputs_under(net, nudged, strategies, precisions))
    most = max(_largest_difference(one, y) for one in moved)
    # If this is not finite, rounding decides whether an output is finite.
    tolerance = _NUDGE_MARGIN * most if np.isfinite(most) else 1.0
    return max(CHECK_TOLERANCE, tolerance)


def _checked_plan(
    net: Net, x: npt.NDArray[Any], plan: Form, expected: Float32Array, tolerance: float
) -> float:
    """Compare a plan's outputs with the stored ones; returns the difference."""
    y = _outputs_under(net, x, *plan)
    if net.least_margin and not _largest_difference(y, expected) <= tolerance:
        # Outputs that were stored by earlier builds have rows that were recomputed.
        y = _outputs_of(net, x, *plan)
    return _checked_outputs(y, expected, tolerance, plan)


def check_probe(net: Net) -> float:
    """Implement `Network.check`."""
    probe = net._model.probe
    if probe is None or len(probe.x) == 0:
        raise ValueError("check needs a network with a probe; see with_probe")
    dense = (("dense",) * len(net.layers), ("f32",) * len(net.layers))
    stored = {dense: (probe.y, CHECK_TOLERANCE)}
    for one in probe.planned or ():
        stored[one.strategies, one.precisions] = one.y, max(CHECK_TOLERANCE, one.tolerance)
    loosest = max(tolerance for _, tolerance in stored.values())
    worst = 0.0
    for form, (y, tolerance) in stored.items():
        worst = max(worst, _checked_plan(net, probe.x, form, y, tolerance))
    for plan in dict.fromkeys((entry.strategies, entry.precisions) for entry in net.plan):
        if plan in stored:
            continue
        form = _form_of(plan)
        if form in stored:
            worst = max(worst, _checked_plan(net, probe.x, plan, *stored[form]))
            continue
        y = _outputs_under(net, probe.x, *plan)
        if probe.planned is not None:
            _checked_outputs(y, _outputs_under(net, probe.x, *form), loosest, plan)
        else:
            _check_likeness(y, probe.y, plan)
    return worst

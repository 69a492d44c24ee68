"""Checks of the arguments of `optimize`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.inputs import REAL, as_list, checked_integer, checked_number, is_real
from lrgate.network import Network
from lrgate.planner.split import FIT_SHARE, MOST_ROWS
from lrgate.types import IntArray

__all__ = [
    "check_range",
    "checked_confidence",
    "checked_ranks",
    "checked_row_error",
    "checked_sizes",
    "checked_targets",
]


RANKS: Final = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)

PRECISIONS: Final = ("auto", "f32", "int8")
FACTORS: Final = ("auto", "none")
PRUNES: Final = ("proven", "never_on", "none")

# The most values used to find out whether an input range is in scaled units.
_SCALED_VALUES: Final = 1 << 22


def checked_confidence(value: Any) -> float:
    level = checked_number(value, "confidence")
    if not 0.5 < level < 1:
        raise ValueError(f"confidence must be above 0.5 and below 1, got {value}")
    return level


def checked_row_error(value: Any) -> float | None:
    if value is None:
        return None
    if not is_real(value):
        raise TypeError(f"max_row_error must be a number or None, got {value!r}")
    if not 0 < float(value) < math.inf:
        raise ValueError(f"max_row_error must be above 0 and finite, got {value}")
    return float(value)


def checked_sizes(batch_sizes: Any) -> list[int]:
    sizes = [checked_integer(size, "batch_sizes") for size in as_list(batch_sizes, "batch_sizes")]
    if not sizes:
        raise ValueError("batch_sizes must have at least one entry, got none")
    if len(set(sizes)) != len(sizes):
        raise ValueError(f"batch_sizes must be distinct, got {sizes}")
    if max(sizes) > 1 << 20:
        raise ValueError(f"batch_sizes must be at most {1 << 20} to be measured, got {max(sizes)}")
    return sorted(sizes)


def check_range(rows: Any, network: Network) -> None:
    """Refuses rows outside the network's input range, on which units are proven off."""
    if network.input_range is None:
        return
    low, high = (np.broadcast_to(end, (network.input_size,)) for end in network.input_range)
    bad = _outside(rows, low, high)
    if bad is None:
        return
    row, column, value, count = bad
    more = f", and {count - 1} more rows are outside" if count > 1 else ""
    message = (
        f"x must be within input_range, got {value:g} in row {row}, column {column}, "
        f"where it is {low[column]:g} to {high[column]:g}{more}"
    )
    if network.input_scale is not None or network.input_shift is not None:
        scale = 1.0 if network.input_scale is None else network.input_scale.astype(np.float64)
        shift = 0.0 if network.input_shift is None else network.input_shift.astype(np.float64)
        some = rows[: max(1, _SCALED_VALUES // network.input_size)]
        dense = some.toarray() if hasattr(some, "toarray") else some
        scaled = dense.astype(np.float64) * scale + shift
        room = 1e-6 * np.maximum(np.abs(low), np.abs(high))
        if _outside(scaled, low - room, high + room) is None:
            message += (
                ". The rows are within it after input_scale and input_shift: it looks like one in "
                "scaled units, and must be one of raw inputs"
            )
    raise ValueError(message)


def _outside(rows: Any, low: Any, high: Any) -> tuple[int, int, float, int] | None:
    """The first value outside the bounds: row, column, value, and how many rows have one."""
    first: tuple[int, int, float] | None = None
    count = 0
    step = max(1, _SCALED_VALUES // max(rows.shape[1], 1))
    for at in range(0, rows.shape[0], step):
        part = rows[at : at + step]
        part = part.toarray() if hasattr(part, "toarray") else part
        bad = (part < low) | (part > high)
        wrong = np.flatnonzero(bad.any(axis=1))
        if len(wrong) and first is None:
            row, column = int(wrong[0]), int(np.flatnonzero(bad[wrong[0]])[0])
            first = at + row, column, float(part[row, column])
        count += len(wrong)
    return None if first is None else (*first, count)


def checked_targets(model: Network, targets: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Class indices (n,) of a classifier, float64 (n, k) of a regressor.

    For a multilabel network int64 (n, k), with entries 0 and 1. `targets` comes from `label_array`.
    """
    if model.task == "multilabel":
        return _label_matrix(targets, rows, model.output_size)
    if model.classes is not None:
        if targets.shape != (rows,):
            raise ValueError(f"y must have shape ({rows},), one label per row, got {targets.shape}")
        order = np.argsort(model.classes)
        known = model.classes[order]
        # A bool is a label of bool classes, and of the two classes 0 and 1.
        is_other = targets.dtype.kind == "b" and not np.array_equal(known, [0, 1])
        if is_other or targets.dtype.kind not in ("OUS" if known.dtype.kind == "U" else REAL):
            raise TypeError(
                f"y must hold labels like the network's classes, of dtype {known.dtype}, "
                f"got dtype {targets.dtype}"
            )
        if targets.dtype.kind == "O":
            others = [i for i, label in enumerate(targets) if not isinstance(label, str)]
            if others:
                raise ValueError(
                    f"y must hold the network's classes, got {targets[others[0]]!r} "
                    f"in row {others[0]}"
                )
            targets = targets.astype(np.str_)
        at = np.minimum(np.searchsorted(known, targets), len(known) - 1)
        wrong = np.flatnonzero(known[at] != targets)
        if len(wrong):
            raise ValueError(
                f"y must hold the network's classes, got {targets[wrong[0]].item()!r} "
                f"in row {wrong[0]}"
            )
        return np.asarray(order[at], np.int64)
    if targets.dtype.kind not in REAL:
        raise TypeError(f"y must be an array of real numbers, got dtype {targets.dtype}")
    outputs = model.output_size
    shapes = [(rows, outputs)] + [(rows,)] * (outputs == 1)
    if targets.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"y must have shape {expected}, got {targets.shape}")
    with np.errstate(over="ignore"):
        values = targets.astype(np.float64).reshape(rows, outputs)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(f"y must be finite, got NaN or infinity in row {bad[0]}")
    beyond = np.argwhere(np.abs(values) > np.finfo(np.float32).max)
    if len(beyond):
        row, column = (int(i) for i in beyond[0])
        raise ValueError(
            "y must be within the range of float32, as the network's outputs are, "
            f"got {values[row, column]:g} in row {row}"
        )
    return values


def _label_matrix(targets: npt.NDArray[Any], rows: int, outputs: int) -> IntArray:
    if targets.dtype.kind not in REAL:
        raise TypeError(f"y must be an array of 0 and 1, got dtype {targets.dtype}")
    if targets.shape != (rows, outputs):
        raise ValueError(
            f"y must have shape ({rows}, {outputs}), one 0 or 1 for each label, got {targets.shape}"
        )
    others = np.argwhere((targets != 0) & (targets != 1))
    if len(others):
        row, column = others[0]
        raise ValueError(
            f"y must hold 0 and 1, got {targets[row, column]} in row {row}, column {column}"
        )
    return targets.astype(np.int64)


def checked_ranks(ranks: Sequence[int] | None, fitted: int) -> tuple[int, ...]:
    if ranks is None:
        return tuple(rank for rank in RANKS if rank < fitted)
    checked = sorted({checked_integer(rank, "ranks") for rank in as_list(ranks, "ranks")})
    if not checked:
        raise ValueError("ranks must have at least one entry, got none")
    most = int(FIT_SHARE * MOST_ROWS) - 1
    if checked[-1] > most:
        raise ValueError(f"ranks must be at most {most}, got {checked[-1]}")
    if checked[-1] >= fitted:
        needed = math.ceil((checked[-1] + 1) / FIT_SHARE)
        raise ValueError(
            f"x must have at least {needed} rows for a gate of rank {checked[-1]}: "
            f"{FIT_SHARE:.0%} of them fit, got {fitted} such rows"
        )
    return tuple(checked)

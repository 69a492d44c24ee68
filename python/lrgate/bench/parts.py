"""The rows of a comparison: calibration and test rows, and calls on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.inputs import checked_rows, label_array, real_array
from lrgate.measure import timing
from lrgate.network import Network
from lrgate.planner.arguments import checked_targets
from lrgate.types import Float32Array

__all__ = [
    "Part",
    "calls_of",
    "outputs_of",
    "split_rows",
]


Rows = npt.NDArray[Any]

CHECKED_ROWS: Final = 256

CALIBRATION_ROWS: Final = 1000
_LEAST_SPLIT: Final = 400


@dataclass(frozen=True, eq=False)
class Part:
    """Rows as float32, the same rows as uint8 if they were given so, and labels."""

    x: Float32Array
    bytes: npt.NDArray[np.uint8] | None
    y: Any

    @classmethod
    def of(cls, dense: Network, x: Rows, y: Any) -> Part:
        # A writable copy: PyTorch warns about read-only arrays.
        rows = np.array(checked_rows(x, dense.input_size), np.float32)
        return cls(rows, np.array(x) if x.dtype == np.uint8 else None, y)


def split_rows(
    dense: Network, x: Rows, y: Any, calibration: tuple[Any, Any] | None
) -> tuple[Part, Part, list[str]]:
    """Return calibration rows, test rows, and warnings for the user."""
    labels = None if y is None else label_array(y)
    if labels is not None:
        checked_targets(dense, labels, len(x))
    if calibration is not None:
        rows, targets = calibration
        return Part.of(dense, real_array(rows), targets), Part.of(dense, x, labels), []
    if x.ndim != 2 or len(x) < _LEAST_SPLIT:
        part = Part.of(dense, x, labels)
        text = f"{len(x)} rows are too few to split: errors are measured on the calibration rows"
        return part, part, [text]
    order = np.random.default_rng(0).permutation(len(x))
    fit, test = (
        Part.of(dense, x[half], None if labels is None else labels[half])
        for half in np.split(order, [len(x) // 2])
    )
    return fit, test, []


def calls_of(x: Rows, rows: int) -> list[Rows]:
    """Calls of `rows` rows each, with as many distinct rows as possible.

    With few rows, the calls overlap and wrap around the end of `x`.
    """
    if len(x) >= 8 * rows:
        return timing.batches(x, rows)
    twice = np.resize(x, (len(x) + rows, x.shape[1]))
    return [twice[first : first + rows] for first in range(0, len(x), max(len(x) // 8, 1))]


def outputs_of(forward: Any, x: Rows, rows: int) -> Rows:
    """Outputs in calls of `rows` rows; the last call is padded and its outputs are cut off."""
    parts = [
        np.array(forward(np.resize(part, (rows, x.shape[1]))), np.float32)[: len(part)]
        for part in (x[first : first + rows] for first in range(0, len(x), rows))
    ]
    return np.concatenate(parts)

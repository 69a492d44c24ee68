"""Lower left corners of convex hulls, for many sets of points at once."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from lrgate.types import Float32Array, Float64Array

__all__ = [
    "hull_corners",
]


# Number of passes over the points that find nearly all hulls completely.
_HULL_PASSES: Final = 12


def hull_corners(
    scores: Float64Array, energy: Float64Array, may_lose: Float64Array
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Float64Array, Float32Array]:
    """For each unit, the numbers of computed rows that are optimal for some price per row.

    Parameters
    ----------
    scores, energy : float64 array of shape (units, n)
    may_lose : float64 array of shape (units,)

    Returns
    -------
    arrays of shape (points,)
        Unit, number of rows on which it is computed, lost energy, and threshold. The points are
        the corners of the lower convex hull of lost energy over rows, in ascending order of rows.
    """
    units, n = scores.shape
    order = np.argsort(-scores, axis=1)
    scores = np.take_along_axis(scores, order, axis=1)
    energy = np.take_along_axis(energy, order, axis=1)
    lost = np.zeros((units, n + 1))
    lost[:, :n] = np.cumsum(energy[:, ::-1], axis=1)[:, ::-1]
    # Threshold j computes the j rows with the highest scores. It does not exist if scores are equal
    # or too close for float32.
    largest, least = scores[:, 0], scores[:, -1]
    beyond = (largest - least) / n + 1e-5 * np.maximum(np.abs(largest), np.abs(least))
    thresholds = np.empty((units, n + 1), np.float32)
    thresholds[:, 0] = np.nextafter((largest + beyond).astype(np.float32), np.float32(np.inf))
    thresholds[:, 1:n] = (scores[:, 1:] + scores[:, :-1]) / 2
    thresholds[:, n] = np.nextafter((least - beyond).astype(np.float32), np.float32(-np.inf))
    possible = lost <= may_lose[:, None]
    possible[:, 1:n] &= (scores[:, 1:] <= thresholds[:, 1:n]) & (
        thresholds[:, 1:n] < scores[:, :-1]
    )

    unit, computed = np.nonzero(possible)
    left = lost[possible]
    kept = np.append(True, (unit[1:] != unit[:-1]) | (left[1:] < left[:-1]))  # saves energy
    unit, computed, left = unit[kept], computed[kept], left[kept]
    for _ in range(_HULL_PASSES):
        kept = _may_be_corners(unit, computed, left)
        if kept.all():
            break
        unit, computed, left = unit[kept], computed[kept], left[kept]
    else:
        kept = _are_corners(unit, computed, left)
        unit, computed, left = unit[kept], computed[kept], left[kept]
    return unit, computed, left, thresholds[unit, computed]


def _are_corners(
    unit: npt.NDArray[np.intp], computed: npt.NDArray[np.intp], lost: Float64Array
) -> npt.NDArray[np.bool_]:
    """Find the corners of each unit's hull by a sequential scan, in linear time.

    For some sets of points, no fixed number of passes of `_may_be_corners` is enough. The algorithm
    is from Andrew, "Another efficient algorithm for convex hulls in two dimensions", Information
    Processing Letters 9, 1979.
    """
    corners: list[int] = []
    points = list(zip(unit.tolist(), computed.tolist(), lost.tolist(), strict=True))
    for at, (of, x, y) in enumerate(points):
        while len(corners) > 1 and points[corners[-2]][0] == of:
            _, x0, y0 = points[corners[-2]]
            _, x1, y1 = points[corners[-1]]
            if (y0 - y1) * (x - x1) > (y1 - y) * (x1 - x0):
                break
            corners.pop()
        corners.append(at)
    kept = np.zeros(len(points), np.bool_)
    kept[corners] = True
    return kept


def _may_be_corners(
    unit: npt.NDArray[np.intp], computed: npt.NDArray[np.intp], lost: Float64Array
) -> npt.NDArray[np.bool_]:
    """False for points on or above a line from an earlier to a later point of the same unit.

    Repeated passes with lines between neighbours find all such points. Lines from and to the
    outermost points reduce the number of passes.
    """

    def saved(i: npt.NDArray[np.intp], j: npt.NDArray[np.intp]) -> Float64Array:
        rate: Float64Array = (lost[i] - lost[j]) / np.maximum(computed[j] - computed[i], 1)
        return rate

    begins = np.append(True, unit[1:] != unit[:-1])
    first = np.flatnonzero(begins)
    sizes = np.diff(np.append(first, len(unit)))
    first, last = np.repeat(first, sizes), np.repeat(first + sizes - 1, sizes)
    at = np.arange(len(unit))
    before = np.minimum(saved(np.maximum(at - 1, first), at), saved(first, at))
    after = np.maximum(saved(at, np.minimum(at + 1, last)), saved(at, last))
    return begins | (before > after)

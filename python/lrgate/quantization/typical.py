"""Typical rows: rows without outliers, for the error of int8 on such rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.quantization.rows import chunks, taken_rows
from lrgate.types import BoolArray, Float32Array, Float64Array

__all__ = [
    "Columns",
    "centred_sums",
    "sizes_of",
    "spreads_of",
    "typical_rows",
]


# A row is an outlier if the largest deviation of its sums exceeds the median by this factor.
_FAR: Final = 20
# Maximum number of markers (repeated values far from a column's bulk) to look for in other columns.
_MARKS: Final = 16


class Columns:
    """Sorted values of each column of a dense array, or stored values of a sparse one.

    `values[start[j]:start[j + 1]]` are the values of column j, which also has `zeros[j]` zeros.
    """

    def __init__(self, rows: Any) -> None:
        self.n, self.d = rows.shape
        if hasattr(rows, "tocsr"):
            columns = rows.tocsc()
            columns.sum_duplicates()
            owner = np.repeat(np.arange(self.d), np.diff(columns.indptr))
            self.values = columns.data[np.lexsort((columns.data, owner))]
            self.start = columns.indptr.astype(np.intp)
        else:
            values = np.array(np.asarray(rows).T, order="C")
            values.sort(axis=1)
            self.values = values.ravel()
            self.start = np.arange(self.d + 1) * self.n
        self.count = np.diff(self.start)
        self.zeros = self.n - self.count

    def of(self, j: int | np.intp) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self.values[self.start[j] : self.start[j + 1]]
        return values

    def _counted(self, which: BoolArray) -> npt.NDArray[np.intp]:
        """The number of values of each column that an array with one entry per value marks."""
        if len(which) == self.n * self.d:
            return np.asarray(np.count_nonzero(which.reshape(self.d, self.n), axis=1))
        total = np.concatenate([[0], np.cumsum(which, dtype=np.intp)])
        return np.asarray(total[self.start[1:]] - total[self.start[:-1]])

    def _at(self, index: npt.NDArray[np.intp]) -> Float64Array:
        """The values at these indices."""
        values: Float64Array = self.values[index].astype(np.float64)
        return values

    def bounds(self) -> tuple[Float64Array, Float64Array]:
        some = self.count > 0
        low, high = np.zeros(self.d), np.zeros(self.d)
        low[some] = self._at(self.start[:-1][some])
        high[some] = self._at(self.start[1:][some] - 1)
        low = np.where(self.zeros > 0, np.minimum(low, 0.0), low)
        return low, np.where(self.zeros > 0, np.maximum(high, 0.0), high)

    def excess(self) -> tuple[Float64Array, Float64Array]:
        """Mean excess of the most extreme values at each end over the next ones.

        For a positive maximum, only positive values are used, and for a negative minimum, only
        negative values: the number of zeros only shows how sparse the column is.
        """
        positive = self._counted(self.values > 0)
        negative = self._counted(self.values < 0)
        low, high = self.bounds()
        above = np.where(high > 0, positive, self.count)
        below = np.where(low < 0, negative, self.count)
        return self._mean_excess(below, 1), self._mean_excess(above, -1)

    def _mean_excess(self, count: npt.NDArray[np.intp], sign: int) -> Float64Array:
        if len(self.values) == 0:
            return np.zeros(self.d)
        taken = np.clip(count // 10, 1, 10)
        first = self.start[:-1] if sign > 0 else self.start[1:] - 1
        limit = len(self.values) - 1
        base = self._at(np.clip(first + sign * taken, 0, limit))
        total = np.zeros(self.d)
        for k in range(int(taken.max(initial=1))):
            value = self._at(np.clip(first + sign * k, 0, limit))
            total += np.where(k < taken, np.abs(value - base), 0.0)
        alone = np.where(self.count > 0, np.abs(self._at(np.clip(first, 0, limit))) / 2, 0.0)
        return np.where(count > taken, total / taken, np.where(count == 1, alone, 0.0))

    def whole(self) -> BoolArray:
        result: BoolArray = self._counted(self.values != np.floor(self.values)) == 0
        return result


def typical_rows(rows: Any, weight: Float32Array, input_scale: Float32Array | None) -> Any:
    """Convert rows to float32 and remove outliers.

    Cells far from the bulk of a column are replaced by the middle of the bulk. The bulk is the
    shortest interval that holds half of the distinct values, extended by four times its length on
    both sides; zeros are kept. Distinct values are used because a marker of missing values may
    occur in many cells. Rows whose sums are still far from the others are left out.

    Parameters
    ----------
    rows : uint8 or float32 array of shape (n, d), or CSR
    weight : float32 array of shape (out, d)
        Weights of the first layer.
    input_scale : float32 array of shape () or (d,), optional
        Input scale of the network.

    Returns
    -------
    float32 array of shape (k, d), or CSR; k is at least n / 2
    """
    typical = _without_far_cells(rows.astype(np.float32))
    some = weight[:: 1 + len(weight) // 64]
    sums = centred_sums(typical, some if input_scale is None else some * input_scale)
    off = np.abs(sums - np.median(sums, axis=0))
    usual = np.median(off, axis=0)
    if not (usual > 0).any():
        return typical
    far = np.max(off[:, usual > 0] / usual[usual > 0], axis=1)
    return taken_rows(typical, np.flatnonzero(far <= _FAR * np.median(far)))


def centred_sums(values: Any, weight: npt.NDArray[Any]) -> Float64Array:
    """``values @ weight.T`` minus its mean, in float64.

    Dense columns are centred before the product, because a huge constant would cause cancellation.
    Weights are converted in chunks of units.
    """
    sums = np.empty((values.shape[0], len(weight)))
    for at, part in _centred_parts(values, weight):
        sums[:, at] = part
    return sums


def spreads_of(values: Any, weight: npt.NDArray[Any]) -> Float64Array:
    """Standard deviation of ``values @ weight.T``, for each unit."""
    spreads = np.empty(len(weight))
    for at, part in _centred_parts(values, weight):
        spreads[at] = np.std(part, axis=0)
    return spreads


def _centred_parts(values: Any, weight: npt.NDArray[Any]) -> Iterator[tuple[slice, Float64Array]]:
    """Chunks of units, and their part of `centred_sums`."""
    sparse = hasattr(values, "tocsr")
    centred = values.astype(np.float64)
    if not sparse:
        centred -= centred.mean(axis=0)
    for at in chunks(*weight.shape):
        part = centred @ weight[at].T.astype(np.float64)
        yield at, part - part.mean(axis=0) if sparse else part


def sizes_of(values: Any, weight: npt.NDArray[Any]) -> Float64Array:
    """Mean sum of the absolute terms of ``values @ weight.T``, for each unit."""
    mean = np.asarray(abs(values).mean(axis=0, dtype=np.float64)).ravel()
    sizes = np.empty(len(weight))
    for at in chunks(*weight.shape):
        sizes[at] = np.abs(weight[at]).astype(np.float64) @ mean
    return sizes


def _without_far_cells(some: Any) -> Any:
    """Replace cells far from the bulk of their column, in place."""
    columns = Columns(some)
    low = np.full(columns.d, -np.inf)
    high = np.full(columns.d, np.inf)
    middle = np.zeros(columns.d)
    few = np.ones(columns.d, bool)
    for j in np.flatnonzero(columns.count > 2):
        values = columns.of(j)
        ends = np.flatnonzero(values[1:] != values[:-1])
        distinct = np.append(values[ends], values[-1]).astype(np.float64)
        if columns.zeros[j]:
            distinct = np.insert(distinct, np.searchsorted(distinct, 0.0), 0.0)
        half = (len(distinct) + 1) // 2
        if len(distinct) < 3:
            continue
        few[j] = False
        lengths = distinct[half - 1 :] - distinct[: len(distinct) - half + 1]
        k = int(lengths.argmin())
        low[j] = distinct[k] - 4 * lengths[k]
        high[j] = distinct[k + half - 1] + 4 * lengths[k]
        middle[j] = (distinct[k] + distinct[k + half - 1]) / 2
    sparse = hasattr(some, "tocsr")
    data = some.data if sparse else some
    # The column of each entry of `data`; arrays of one entry per column fit dense rows as they are.
    of = some.indices if sparse else slice(None)
    far = ((data < low[of]) | (data > high[of])) & (data != 0)
    # A marker of one column is also a marker in columns that hold only it and one other value.
    marks, counts = np.unique(data[far], return_counts=True)
    marks = marks[counts > 1]
    if len(marks):
        least, most = columns.bounds()
        for mark in marks if len(marks) <= _MARKS else ():
            marked = few[of] & (data == mark)
            far |= marked
            rest = np.where(least == mark, most, least)
            middle = np.where(few & ((least == mark) | (most == mark)), rest, middle)
    np.copyto(data, middle[of], where=far, casting="same_kind")
    return some

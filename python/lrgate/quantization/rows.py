"""Calibration rows: split into fitting and held-out rows, sampling, and inputs of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.types import Float32Array, Float64Array

__all__ = [
    "as_dense",
    "at_most_held",
    "at_most_rows",
    "bounds_of",
    "canonical",
    "check_signals",
    "chunks",
    "first_inputs",
    "fitting_rows",
    "moments_of",
    "signals_of",
    "split",
    "taken_rows",
]

MODEL_VALUES: Final = 1 << 21


# One row in four is held out for the check, if there are enough rows.
_HELD: Final = 4
_MOST_HELD: Final = 2000
_LEAST_TO_HOLD: Final = 8

# Limits on the number of rows and of values to which layers are fitted, and on additional rows that
# hold the extreme values of columns.
_ROWS: Final = 8192
_VALUES: Final = 1 << 23
_EXTREME_ROWS: Final = 1024

# Approximate number of values of a chunk of rows that is made dense.
_CHUNK: Final = 1 << 21


def canonical(rows: Any) -> Any:
    """Convert sparse rows to canonical format, without duplicate entries or unused memory."""
    if not hasattr(rows, "tocsr"):
        return rows
    used = int(rows.indptr[-1])
    if rows.has_canonical_format and len(rows.data) == used:
        return rows
    parts = rows.data[:used], rows.indices[:used], rows.indptr
    rows = type(rows)(parts, shape=rows.shape, copy=True)
    rows.sum_duplicates()
    return rows


def check_signals(
    rows: Any, chosen: set[int], layer_inputs: Callable[[Any], Sequence[Float32Array]]
) -> None:
    """Check that rows cause no NaN or infinity in the inputs of the `chosen` layers.

    Raises
    ------
    ValueError
        If they do; the message gives the layer and the row.
    """
    later = sorted(i for i in chosen if i > 0)
    for at in chunks(*rows.shape) if later else ():
        inputs = layer_inputs(rows[at])
        for i in later:
            _check_finite(inputs[i], i, at.start)


def split(rows: Any) -> tuple[Any, Any]:
    """Split rows into fitting rows and a random quarter, at most 2,000, of held-out rows.

    With few rows, none are held out.
    """
    n = rows.shape[0]
    if n < _LEAST_TO_HOLD:
        return rows, rows[:0]
    order = np.random.default_rng(3).permutation(n)
    held = min(n // _HELD, _MOST_HELD)
    return rows[np.sort(order[held:])], rows[np.sort(order[:held])]


def at_most_held(rows: Any) -> Any:
    """A random sample of the rows, of at most the maximum number of held-out rows."""
    order = np.random.default_rng(4).permutation(rows.shape[0])
    return rows[np.sort(order[:_MOST_HELD])]


def taken_rows(rows: Any, index: npt.NDArray[np.intp]) -> Any:
    """The rows at ascending indices; the array itself if these are all rows."""
    return rows if len(index) == rows.shape[0] else rows[index]


def chunks(n: int, width: int) -> Iterator[slice]:
    step = max(1, _CHUNK // max(width, 1))
    for start in range(0, n, step):
        yield slice(start, start + step)


def at_most_rows(count: int, width: int) -> int:
    """`count`, reduced for wide rows to limit the number of values, but at least 16."""
    return max(16, min(count, MODEL_VALUES // max(width, 1)))


def as_dense(rows: Any) -> npt.NDArray[Any]:
    return rows.toarray() if hasattr(rows, "toarray") else np.asarray(rows)


def bounds_of(rows: Any) -> tuple[Float64Array, Float64Array]:
    """Minimum and maximum of each column."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    if hasattr(low, "toarray"):
        low, high = low.toarray().ravel(), high.toarray().ravel()
    return low.astype(np.float64), high.astype(np.float64)


def fitting_rows(rows: Any, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Ascending indices of a random sample of rows, plus rows with extreme values of columns."""
    n, d = rows.shape
    stored = rows.nnz // max(n, 1) + 1 if hasattr(rows, "tocsr") else d
    most = int(np.clip(_VALUES // stored, 512, _ROWS))
    if n <= most:
        return np.arange(n)
    ends = [np.unique(np.asarray(of(axis=0)).ravel()) for of in (rows.argmin, rows.argmax)]
    extreme = np.unique(np.concatenate(ends))
    extreme = rng.permutation(extreme)[:_EXTREME_ROWS]
    some = np.concatenate([rng.choice(n, most, replace=False), extreme])
    return np.unique(some).astype(np.intp)


def signals_of(
    rows: Any, layer_inputs: Callable[[Any], Sequence[Float32Array]], wanted: set[int]
) -> dict[int, Float32Array]:
    """The inputs of the `wanted` layers, except the first layer."""
    later = sorted(i for i in wanted if i > 0)
    signals: dict[int, Float32Array] = {}
    for at in chunks(*rows.shape) if later else ():
        all_inputs = layer_inputs(rows[at])
        for i in later:
            _check_finite(all_inputs[i], i, at.start)
            if i not in signals:
                signals[i] = np.empty((rows.shape[0], all_inputs[i].shape[1]), np.float32)
            signals[i][at] = all_inputs[i]
    return signals


def _check_finite(inputs: Float32Array, i: int, first_row: int) -> None:
    bad = np.flatnonzero(~np.isfinite(inputs).all(axis=1))
    if len(bad):
        raise ValueError(
            "x must give finite inputs to every layer, got NaN or infinity in the inputs of "
            f"layers[{i}] in row {first_row + bad[0]}"
        )


def first_inputs(
    rows: Any, index: npt.NDArray[np.intp], layer_inputs: Callable[[Any], Sequence[Float32Array]]
) -> Iterator[Float32Array]:
    for at in chunks(len(index), rows.shape[1]):
        yield layer_inputs(rows[index[at]])[0]


def moments_of(values: Any) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Mean, mean square and share of non-zeros of each column."""
    n = values.shape[0]
    if hasattr(values, "tocsr"):
        squares = values.copy()
        squares.data = squares.data.astype(np.float64) ** 2
        density = np.bincount(values.indices[values.data != 0], minlength=values.shape[1]) / n
        sums = values.astype(np.float64).sum(axis=0), squares.sum(axis=0)
        mean, square = (np.asarray(total).ravel() / n for total in sums)
        return mean, square, density
    mean = values.mean(axis=0, dtype=np.float64)
    square = np.einsum("nj,nj->j", values, values, dtype=np.float64) / n
    return mean, square, (values != 0).mean(axis=0)

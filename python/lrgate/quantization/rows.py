"""Calibration rows: which of them fit, which are held back, and layers' inputs on them."""

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


# Of the rows given, a quarter is held back to check on, if there are enough.
_HELD: Final = 4
_MOST_HELD: Final = 2000
_LEAST_TO_HOLD: Final = 8

# At most so many rows, and about so many values of them, fit a layer; with rows of the extremes.
_ROWS: Final = 8192
_VALUES: Final = 1 << 23
_EXTREME_ROWS: Final = 1024

# Rows that are made dense at a time have about so many values.
_CHUNK: Final = 1 << 21


def canonical(rows: Any) -> Any:
    """The rows; sparse ones with each entry once, and without room behind them."""
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
    """Refuses rows that make NaN or infinity in the inputs of `chosen` layers.

    Raises
    ------
    ValueError
        Naming the first such layer of some rows, and the row.
    """
    later = sorted(i for i in chosen if i > 0)
    for at in chunks(*rows.shape) if later else ():
        inputs = layer_inputs(rows[at])
        for i in later:
            _check_finite(inputs[i], i, at.start)


def split(rows: Any) -> tuple[Any, Any]:
    """Rows to fit to, and a random quarter to check on, at most 2,000; all and none of few rows."""
    n = rows.shape[0]
    if n < _LEAST_TO_HOLD:
        return rows, rows[:0]
    order = np.random.default_rng(3).permutation(n)
    held = min(n // _HELD, _MOST_HELD)
    return rows[np.sort(order[held:])], rows[np.sort(order[:held])]


def at_most_held(rows: Any) -> Any:
    """As many of the rows, at random, as may be held back at most."""
    order = np.random.default_rng(4).permutation(rows.shape[0])
    return rows[np.sort(order[:_MOST_HELD])]


def taken_rows(rows: Any, index: npt.NDArray[np.intp]) -> Any:
    """Rows at ascending indices; the array itself where those are all."""
    return rows if len(index) == rows.shape[0] else rows[index]


def chunks(n: int, width: int) -> Iterator[slice]:
    step = max(1, _CHUNK // max(width, 1))
    for start in range(0, n, step):
        yield slice(start, start + step)


def at_most_rows(count: int, width: int) -> int:
    """`count`, or fewer where so many rows of this width are many values."""
    return max(16, min(count, MODEL_VALUES // max(width, 1)))


def as_dense(rows: Any) -> npt.NDArray[Any]:
    return rows.toarray() if hasattr(rows, "toarray") else np.asarray(rows)


def bounds_of(rows: Any) -> tuple[Float64Array, Float64Array]:
    """The least and the greatest value of each column."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    if hasattr(low, "toarray"):
        low, high = low.toarray().ravel(), high.toarray().ravel()
    return low.astype(np.float64), high.astype(np.float64)


def fitting_rows(rows: Any, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """A random sample of rows, ascending, in which are those of columns' extremes."""
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
    """The inputs of layers after the first."""
    parts: dict[int, list[Float32Array]] = {i: [] for i in sorted(wanted) if i > 0}
    if not parts:
        return {}
    for at in chunks(*rows.shape):
        all_inputs = layer_inputs(rows[at])
        for i, part in parts.items():
            _check_finite(all_inputs[i], i, at.start)
            part.append(all_inputs[i])
    return {i: np.concatenate(part) for i, part in parts.items()}


def _check_finite(inputs: Float32Array, i: int, first_row: int) -> None:
    bad = np.flatnonzero(~np.isfinite(inputs).all(axis=1))
    if len(bad):
        raise ValueError(
            "x must give finite inputs to every layer, got NaN or infinity in those of "
            f"layers[{i}] in row {first_row + bad[0]}"
        )


def first_inputs(
    rows: Any, index: npt.NDArray[np.intp], layer_inputs: Callable[[Any], Sequence[Float32Array]]
) -> Iterator[Float32Array]:
    for at in chunks(len(index), rows.shape[1]):
        yield layer_inputs(rows[index[at]])[0]


def moments_of(values: Any) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Each column's mean, mean square, and share that is not zero."""
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

"""Conversion and checks of rows of real numbers."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from lrgate.inputs.arrays import REAL, NoArray, NotNumbers, as_array, numbers_of
from lrgate.inputs.tables import table_array
from lrgate.types import Array

__all__ = [
    "check_narrowed",
    "checked_rows",
    "narrowed",
    "real_array",
]


# Rows are converted in blocks of about this many values.
_BLOCK_VALUES: Final = 1 << 18


def real_array(x: Any, name: str = "x") -> Array:
    """Convert `x` to a plain array of real numbers, with any number of dimensions.

    Parameters
    ----------
    x : array-like
        Arrays and their subclasses, lists, objects with ``__array__`` or a buffer; pandas, polars
        and pyarrow tables and columns. Arrays and columns of objects may hold int, float, bool,
        NumPy scalars, Fraction and Decimal. Missing values of columns become NaN. Columns of
        categories are accepted if the categories are numbers.
    name : str, default "x"
        Name of the argument in error messages.

    Returns
    -------
    array of bool, integers or floats
        `x` itself if possible; otherwise copied only if NumPy needs a copy. Arrays of objects
        become float64; the columns of a table get their common dtype.

    Raises
    ------
    TypeError
        If `x` has values that are not real numbers (the message names the column), is a mapping, or
        has masked cells.
    ValueError
        If rows have unequal lengths, or a number does not fit float64.

    Examples
    --------
    >>> from fractions import Fraction
    >>> real_array(np.array([[1, True, Fraction(1, 4)]], object))
    array([[1.  , 1.  , 0.25]])
    """
    if type(x) is not np.ndarray:
        table = table_array(x, name)
        if table is not None:
            return table
        try:
            x = as_array(x, name)
        except NoArray as error:
            if error.ragged:
                message = f"{name} must be a rectangular array of real numbers{error}"
                raise ValueError(message) from None
            raise TypeError(f"{name} must be an array of real numbers{error}") from None
    array: Array = x
    if array.dtype.kind == "O":
        try:
            return numbers_of(array)
        except NotNumbers as error:
            message = f"{name} must be an array of real numbers, got dtype object{error.place}"
            raise TypeError(message) from None
        except OverflowError as error:
            raise ValueError(f"{name} must fit float64: {error}") from None
    if array.dtype.kind not in REAL:
        raise TypeError(f"{name} must be an array of real numbers, got dtype {array.dtype}")
    return array


def checked_rows(x: Any, width: int, least: int = 1) -> Any:
    """Convert rows to uint8 or float32 (n, width), or CSR in float32, and check them.

    Parameters
    ----------
    x : array-like or scipy.sparse (n, width)
        Rows that `real_array` accepts, or sparse rows, which stay sparse.
    width : int
        Number of columns.
    least : int, default 1
        Minimum number of rows.

    Returns
    -------
    uint8 or float32 array, or CSR matrix of float32

    Raises
    ------
    TypeError
        If `x` does not hold real numbers.
    ValueError
        If `x` has a wrong shape, too few rows, or a value that is not finite in float32. The
        message gives the first such value with its row and column.
    """
    sparse = hasattr(x, "tocsr")
    given: Any = _checked_csr(x.tocsr()) if sparse else real_array(x)
    if given.dtype.kind not in REAL:
        raise TypeError(f"x must be an array of real numbers, got dtype {given.dtype}")
    if sparse and not given.has_canonical_format:
        given = given.copy()
        given.sum_duplicates()
    if given.ndim != 2 or given.shape[1] != width:
        raise ValueError(f"x must have shape (n, {width}), got {given.shape}")
    if given.shape[0] < least:
        plural = "s" * (least != 1)
        raise ValueError(f"x must have at least {least} row{plural}, got {given.shape[0]}")
    if given.dtype == np.uint8 and not sparse:
        return given
    with np.errstate(over="ignore"):
        rows: Any = given.astype(np.float32, copy=False)
    _refuse(given, ~np.isfinite(rows.data if sparse else rows))
    return rows


def _checked_csr(x: Any) -> Any:
    """`x`, if it has the three arrays of a CSR matrix; the engine checks them in the same way."""
    for name in ("data", "indptr", "indices"):
        array, rule = getattr(x, name), f"x is not a valid CSR matrix: {name} must be"
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{rule} an array, got {type(array).__name__}")
        if array.ndim != 1:
            raise ValueError(f"{rule} 1-D, got shape {array.shape}")
    return x


def narrowed(values: Array) -> Array:
    """`values` as a C-contiguous float32 array; those that do not fit become infinite."""
    with np.errstate(over="ignore"):
        if values.ndim < 2 or values.size <= _BLOCK_VALUES:
            return np.require(values, np.float32, ["C", "A"])
        # Python handles Ctrl-C between blocks.
        result = np.empty(values.shape, np.float32)
        step = max(1, _BLOCK_VALUES // values[0].size)
        for first in range(0, len(values), step):
            result[first : first + step] = values[first : first + step]
        return result


def check_narrowed(given: Any, values: Array) -> None:
    """Check that float32 can hold rows.

    Parameters
    ----------
    given : array (n, d) or (d,), or CSR matrix
    values : float32 array
        The values of `given`, by `narrowed`.

    Raises
    ------
    ValueError
        If a finite value became infinite. The message gives the first with its row and column.
    """
    wide = given.data if hasattr(given, "tocsr") else given
    _refuse(given, np.isinf(values) & np.isfinite(wide))


def _refuse(given: Any, bad: Array) -> None:
    """Raise ValueError if a value of rows is `bad`, and name the first in order of rows."""
    if hasattr(given, "tocsr"):
        entries = np.flatnonzero(bad[: given.indptr[-1]])
        rows = np.searchsorted(given.indptr, entries, side="right") - 1
        columns = given.indices[entries]
        first = np.lexsort((columns, rows))[:1]
        columns, values = columns[first], given.data[entries[first]]
    else:
        given, bad = np.atleast_2d(given), np.atleast_2d(bad)
        rows = np.flatnonzero(bad.any(axis=1))
        columns = np.flatnonzero(bad[rows[0]])[:1] if len(rows) else rows
        values = given[rows[:1], columns]
    if not len(rows):
        return
    value, bad_rows = values[0], np.unique(rows)
    where = f"in row {rows[0]}, column {columns[0]}"
    if len(bad_rows) > 1:
        where += f", and others in {len(bad_rows) - 1} more row{'s' * (len(bad_rows) > 2)}"
    if np.isfinite(value):
        raise ValueError(f"x must fit float32, got {value} {where}")
    raise ValueError(f"x must be finite, got {'NaN' if np.isnan(value) else value} {where}")

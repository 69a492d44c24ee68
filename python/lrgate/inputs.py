"""Rows and labels as users have them, as plain NumPy arrays.

The compiled calls read plain NumPy arrays of bool, integers and floats, and ``scipy.sparse``
matrices. Everything else is converted here: lists, subclasses of NumPy arrays, arrays of objects,
and columns of pandas, polars and pyarrow. What is no real number is refused: text, dates, complex
numbers, and cells under a mask.

pandas, polars and pyarrow are not imported: a value can only come from a package that its caller
has imported.

>>> real_array([[1, 2.5]])
array([[1. , 2.5]])
>>> label_array(["cat", "dog"])
array(['cat', 'dog'], dtype='<U3')
"""

from __future__ import annotations

import numbers
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "as_list",
    "checked_rows",
    "label_array",
    "plain_array",
    "real_array",
    "with_nan_label",
]

Array = npt.NDArray[Any]

# Kinds of dtypes that hold real numbers.
_REAL: Final = "biuf"
# Types of real numbers in arrays of objects. Time spans are integers to NumPy.
_NUMBERS: Final = (bool, np.bool_, numbers.Real, Decimal)
_NO_NUMBERS: Final = (np.timedelta64,)


def real_array(x: Any, name: str = "x") -> Array:
    """`x` as a plain array of real numbers, of any number of dimensions.

    Parameters
    ----------
    x : array-like
        Arrays and their subclasses, lists, objects with ``__array__`` or a buffer; pandas, polars
        and pyarrow tables and columns. Arrays and columns of objects may hold int, float, bool,
        NumPy scalars, Fraction and Decimal. Missing values of columns become NaN. Columns of
        categories are taken where the categories are numbers.
    name : str, default "x"
        What messages call it.

    Returns
    -------
    array of bool, integers or floats
        `x` itself where it is one; else without a copy where NumPy needs none. Arrays of objects
        become float64, columns the dtype that holds them all.

    Raises
    ------
    TypeError
        For anything but real numbers (columns are named), a mapping, or masked cells.
    ValueError
        For rows of unequal length, or a number beyond float64.

    Examples
    --------
    >>> from fractions import Fraction
    >>> real_array(np.array([[1, True, Fraction(1, 4)]], object))
    array([[1.  , 1.  , 0.25]])
    """
    if type(x) is not np.ndarray:
        table = _table(x, name)
        if table is not None:
            return table
        try:
            x = _array(x, name)
        except _NoArray as error:
            if error.ragged:
                message = f"{name} must be a rectangular array of real numbers{error}"
                raise ValueError(message) from None
            raise TypeError(f"{name} must be an array of real numbers{error}") from None
    array: Array = x
    if array.dtype.kind == "O":
        try:
            return _numbers(array)
        except _NotNumbers as error:
            message = f"{name} must be an array of real numbers, got dtype object{error.place}"
            raise TypeError(message) from None
        except OverflowError as error:
            raise ValueError(f"{name} must fit float64: {error}") from None
    if array.dtype.kind not in _REAL:
        raise TypeError(f"{name} must be an array of real numbers, got dtype {array.dtype}")
    return array


def checked_rows(x: Any, width: int, least: int = 1) -> Any:
    """Rows as uint8 or float32 (n, width), or as CSR in float32; all finite, at least `least`.

    Parameters
    ----------
    x : array-like or scipy.sparse (n, width)
        As `real_array` takes it; sparse rows stay sparse.
    width : int
        Number of columns.
    least : int, default 1
        Number of rows.

    Returns
    -------
    uint8 or float32 array, or CSR matrix of float32

    Raises
    ------
    TypeError
        For another kind of value.
    ValueError
        For another shape, fewer rows, or a value that is not finite or that float32 cannot hold.
        The first is named, with its row and column.
    """
    sparse = hasattr(x, "tocsr")
    given: Any = x.tocsr() if sparse else real_array(x)
    if given.dtype.kind not in _REAL:
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
    if sparse:
        entries = np.flatnonzero(~np.isfinite(rows.data[: rows.indptr[-1]]))
        if len(entries):
            row = np.searchsorted(rows.indptr, entries, side="right") - 1
            order = np.lexsort((rows.indices[entries], row))
            at = entries[order[0]]
            bad, column = np.unique(row), int(rows.indices[at])
            raise _not_finite(given.data[at], bad, column)
    else:
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            column = int(np.flatnonzero(~np.isfinite(rows[bad[0]]))[0])
            raise _not_finite(given[bad[0], column], bad, column)
    return rows


def label_array(y: Any, name: str = "y") -> Array:
    """Labels or target values as a plain array.

    Parameters
    ----------
    y : array-like or scipy.sparse
        Labels; also columns of pandas, polars and pyarrow: text, categories, nullable integers.
        Sparse labels become dense.
    name : str, default "y"
        What messages call it.

    Returns
    -------
    array of bool, integers, floats or str
        Of objects where labels of several kinds are mixed, or text has missing values: nothing is
        turned into text. Missing numbers are NaN.

    Raises
    ------
    TypeError
        For what is no array, a mapping or a set, or masked cells.
    ValueError
        For text that ends in a NUL character, which NumPy would drop, or for integers that a
        float64 array, made since others are floats, would round.

    Examples
    --------
    >>> label_array([0, "b"])
    array([0, 'b'], dtype=object)
    """
    if hasattr(y, "tocsr"):
        y = y.toarray()
    labels = _label_table(y)
    if labels is None:
        if isinstance(y, Set | Mapping):
            raise TypeError(f"{name} must be a sequence or an array, got {type(y).__name__}")
        try:
            labels = _array(y, name)
        except _NoArray as error:
            raise TypeError(f"{name} must be an array{error}") from None
        if isinstance(y, list | tuple) and labels.ndim == 1:
            labels = _unchanged(y, labels, name)
    kind = labels.dtype.kind
    if kind == "T":  # NumPy's own variable-width strings
        labels = labels.astype(object)
    return _uniform(labels, name) if kind in "OT" else labels


def with_nan_label(labels: Array, rows: npt.NDArray[np.bool_], nan_label: Any) -> Array:
    """Labels with `nan_label` in the rows that have none of their own.

    Parameters
    ----------
    labels : array (n,) or (n, k)
        Of int64, float64, bool or str.
    rows : array of bool (n,)
        The rows that get `nan_label`, in each entry.
    nan_label : scalar
        Any label.

    Returns
    -------
    array of the shape of `labels`
        Of their kind, wide enough for both. Of objects where that kind cannot hold `nan_label` as
        it is, such as text beside integers: no label is turned into another.

    Raises
    ------
    TypeError
        For a `nan_label` that is an array or a sequence.

    Examples
    --------
    >>> with_nan_label(np.array([4, 7]), np.array([False, True]), -1)
    array([ 4, -1])
    >>> with_nan_label(np.array(["a", "b"]), np.array([False, True]), "unknown")
    array(['a', 'unknown'], dtype='<U7')
    """
    if np.ndim(nan_label) != 0:
        raise TypeError(f"nan_label must be one label, got {reprlib.repr(nan_label)}")
    marked = labels.astype(_dtype_of_both(labels.dtype, nan_label))
    marked[rows] = nan_label
    return marked


def _dtype_of_both(labels: np.dtype[Any], label: Any) -> np.dtype[Any]:
    """A dtype of the kind of `labels` that holds `label` too; of objects where there is none."""
    if isinstance(label, str):
        if labels.kind == "U" and not label.endswith("\0"):
            return np.result_type(labels, np.dtype(f"U{max(len(label), 1)}"))
    elif isinstance(label, bool | np.bool_):
        if labels.kind in "bi":
            return labels
    elif isinstance(label, numbers.Integral) and not isinstance(label, _NO_NUMBERS):
        held = labels.kind == "i" and -(2**63) <= int(label) < 2**63
        if held or (labels.kind == "f" and abs(int(label)) <= 2**53):
            return labels
    elif isinstance(label, float | np.float16 | np.float32) and labels.kind == "f":
        return labels
    return np.dtype(object)


def plain_array(value: Any, name: str, of: str = "real numbers") -> Array:
    """`value` as a plain array of any dtype, as ``numpy.asarray``, less what that drops in silence.

    Parameters
    ----------
    value : array-like
    name, of : str
        What messages call it, and what it should hold.

    Raises
    ------
    TypeError
        For what is no array, a mapping, a sparse matrix, or masked cells.
    """
    try:
        return _array(value, name)
    except _NoArray as error:
        raise TypeError(f"{name} must be an array of {of}{error}") from None


def as_list(values: Any, name: str, of: str = "integers") -> list[Any]:
    """The items of a 1-D sequence, array or column; they are checked by the caller.

    Raises
    ------
    TypeError
        For text, a mapping, or what has no items.

    Examples
    --------
    >>> as_list(np.array([1, 64]), "batch_sizes")
    [1, 64]
    """
    if not isinstance(values, str | bytes | Mapping) and getattr(values, "ndim", 1) == 1:
        try:
            return list(values.tolist() if hasattr(values, "tolist") else values)
        except TypeError:
            pass
    got = type(values).__name__
    if getattr(values, "ndim", 1) != 1:
        got = f"{got} of shape {values.shape}"
    raise TypeError(f"{name} must be a sequence of {of}, got {got}")


# --- arrays -------------------------------------------------------------------------------------


class _NoArray(Exception):
    """What is no array: the end of a message, and whether rows have unequal lengths."""

    def __init__(self, end: str, ragged: bool = False) -> None:
        super().__init__(end)
        self.ragged = ragged


class _NotNumbers(Exception):
    """An array or column holds something else than real numbers: its dtype, or a value in it."""

    def __init__(self, dtype: str, place: str = "") -> None:
        super().__init__(dtype)
        self.dtype, self.place = dtype, place


def _array(value: Any, name: str) -> Array:
    """``numpy.asarray(value)``, except where that would drop something or say nothing."""
    if isinstance(value, Mapping):
        kind = type(value).__name__
        if not value:
            raise TypeError(f"{name} must be an array, got an empty {kind}")
        keys = ", ".join(reprlib.repr(key) for key in list(value)[:3]) + ", ..." * (len(value) > 3)
        raise TypeError(
            f"{name} must be an array, got a {kind} with the keys {keys}: pass one of its values, "
            f"as {name}[{next(iter(value))!r}]"
        )
    if hasattr(value, "tocsr"):
        kind = type(value).__name__
        raise TypeError(f"{name} must be a dense array, got {kind}: pass {name}.toarray()")
    if isinstance(value, np.ma.MaskedArray):
        _check_unmasked(value, name)
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            if isinstance(part, np.ma.MaskedArray):
                _check_unmasked(part, f"{name}[{i}]")
    try:
        array = np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:  # whatever an object's own __array__ raises
        ragged = isinstance(error, ValueError) and isinstance(value, list | tuple)
        raise _NoArray(f": {_lengths(value) or error}", ragged) from None
    if array.dtype.kind == "O" and array.ndim == 0:
        raise _NoArray(f", got {type(value).__name__}")
    return array


def _check_unmasked(array: np.ma.MaskedArray[Any, Any], name: str) -> None:
    mask = np.ma.getmaskarray(array)
    if array.dtype.names is not None or not mask.any():
        return
    count = int(np.count_nonzero(mask))
    where = _place(tuple(int(i) for i in np.argwhere(mask)[0]))
    floats = "" if array.dtype.kind in "fc" else ".astype(float)"
    raise TypeError(
        f"{name} must have no masked cells, got {count}, the first{where}: fill them, for example "
        f"by {name}{floats}.filled(numpy.nan)"
    )


def _lengths(value: Any) -> str:
    """Which rows have unequal lengths; "" where that is not what is wrong."""
    if not isinstance(value, list | tuple) or not value:
        return ""
    lengths = [
        len(row) if hasattr(row, "__len__") and not isinstance(row, str | bytes) else None
        for row in value
    ]
    for i, length in enumerate(lengths):
        if length != lengths[0]:
            first, other = (
                "is a single value" if n is None else f"has {n} value{'s' * (n != 1)}"
                for n in (lengths[0], length)
            )
            return f"row 0 {first}, row {i} {other}"
    return ""


def _numbers(array: Array, is_missing: Callable[[Any], Any] | None = None) -> Array:
    """An array of objects as float64.

    `is_missing` tells what stands for a missing value, which becomes NaN.
    """
    if not all(map(_is_number, set(map(type, array.flat)))):
        array = array.copy()
        for i, value in enumerate(array.flat):
            if _is_number(type(value)):
                continue
            # A nested list is not missing, whatever is in it.
            if is_missing is None or is_missing(value) is not True:
                where = _place(tuple(int(k) for k in np.unravel_index(i, array.shape)))
                raise _NotNumbers("object", f": {reprlib.repr(value)}{where}")
            array.flat[i] = np.nan
    try:
        return array.astype(np.float64)
    except (ValueError, TypeError) as error:  # of a number of another package, or a signalling NaN
        raise _NotNumbers("object", f": {error}") from None


def _is_number(kind: type) -> bool:
    return issubclass(kind, _NUMBERS) and not issubclass(kind, _NO_NUMBERS)


def _place(index: tuple[int, ...]) -> str:
    if len(index) == 2:
        return f" in row {index[0]}, column {index[1]}"
    return f" at index {index[0] if len(index) == 1 else index}" if index else ""


def _not_finite(value: Any, rows: Array, column: int) -> ValueError:
    """The first of the values that are not finite in float32: `value`, as it was given."""
    where = f"in row {rows[0]}, column {column}"
    if len(rows) > 1:
        where += f", and others in {len(rows) - 1} more row{'s' * (len(rows) > 2)}"
    if np.isfinite(value):
        return ValueError(f"x must fit float32, got {value} {where}")
    return ValueError(f"x must be finite, got {'NaN' if np.isnan(value) else value} {where}")


# --- labels -------------------------------------------------------------------------------------


def _unchanged(values: Any, array: Array, name: str) -> Array:
    """`array`, which NumPy made of `values`; as objects where that turned numbers into text."""
    if array.dtype.kind in "US":
        objects = np.empty(len(values), object)
        objects[:] = values
        return objects
    if array.dtype.kind == "f":
        _check_exact(values, array, name)
    return array


def _uniform(array: Array, name: str) -> Array:
    """An array of objects as one of bool, integers, floats or str, where they all are."""
    values = array.ravel().tolist()
    kinds = set(map(type, values))
    if not kinds:
        return array
    if all(issubclass(kind, str) for kind in kinds):
        for i, text in enumerate(values):
            if text.endswith("\0"):
                raise ValueError(
                    f"{name} must not end in a NUL character, which NumPy drops, "
                    f"got {text!r} at index {i}"
                )
        return np.array(values, dtype=np.str_).reshape(array.shape)
    if not all(map(_is_number, kinds)):
        return array
    if not any(issubclass(kind, numbers.Integral | np.bool_) for kind in kinds):
        return _numbers(array)
    result = np.array(values).reshape(array.shape)
    if result.dtype.kind == "O":  # integers beyond 64 bits; Decimal and Fraction beside integers
        if all(issubclass(kind, numbers.Integral) for kind in kinds):
            return array
        try:
            result = _numbers(array)
        except OverflowError:
            return array
    if result.dtype.kind == "f":
        _check_exact(values, result, name)
    return result


def _check_exact(values: Any, array: Array, name: str) -> None:
    if not any(issubclass(kind, numbers.Integral) for kind in set(map(type, values))):
        return
    for i, (value, taken) in enumerate(zip(values, array.ravel().tolist(), strict=True)):
        if isinstance(value, numbers.Integral) and int(value) != taken:
            raise ValueError(
                f"{name} must not mix floats with integers that float64 cannot hold, "
                f"got {int(value)} at index {i}"
            )


def _label_table(y: Any) -> Array | None:
    """The labels of a column or a table of pandas, polars or pyarrow; None for others."""
    for package in _PACKAGES:
        module = sys.modules.get(package.name)
        if _is_one(y, module, package.columns):
            return _label_column(module, y, package)
        if _is_one(y, module, package.tables):
            parts = [_label_column(module, column, package) for _, column in package.items(y)]
            if parts and all(part.dtype.kind in _REAL for part in parts):
                return np.stack(parts, axis=1)
            made = np.empty((len(y), len(parts)), object)
            for i, part in enumerate(parts):
                made[:, i] = part
            return made
    return None


def _label_column(module: Any, column: Any, package: _Package) -> Array:
    if package.name == "pandas" and isinstance(column.dtype, module.CategoricalDtype):
        return _category_labels(column)
    try:
        return package.numbers(module, column, True)
    except _NotNumbers:
        return package.objects(column)


def _category_labels(column: Any) -> Array:
    codes = np.asarray(column.cat.codes if hasattr(column, "cat") else column.codes)
    categories = label_array(column.dtype.categories)
    if not (codes < 0).any():
        return np.asarray(categories[codes])
    labels: Array = np.append(categories.astype(object), np.nan)[codes]
    return labels.astype(np.float64) if categories.dtype.kind in _REAL else labels


# --- tables and columns -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Package:
    """A package whose tables and columns are taken."""

    name: str
    tables: tuple[str, ...]
    columns: tuple[str, ...]
    items: Callable[[Any], Iterable[tuple[Any, Any]]]
    """Names and columns of a table."""
    numbers: Callable[[Any, Any, bool], Array]
    """A column's numbers. With True, integers are kept exactly, and objects are not looked at."""
    objects: Callable[[Any], Array]
    """A column's items, as objects."""


def _table(x: Any, name: str) -> Array | None:
    """The values of a table or column of pandas, polars or pyarrow; None for others."""
    if isinstance(x, list | tuple | np.ndarray):
        return None
    for package in _PACKAGES:
        module = sys.modules.get(package.name)
        if _is_one(x, module, package.tables):
            return _stacked(module, x, package, name)
        if _is_one(x, module, package.columns):
            try:
                return package.numbers(module, x, False)
            except _NotNumbers as error:
                message = f"{name} must be an array of real numbers, got dtype {error.dtype}"
                raise TypeError(message + error.place) from None
    if _is_one(x, sys.modules.get("polars"), ("LazyFrame",)):
        raise TypeError(f"{name} must hold values, got a LazyFrame: pass {name}.collect()")
    return None


def _is_one(x: Any, module: Any, names: Iterable[str]) -> bool:
    """Whether `x` is of one of these classes; a package may be half imported by another thread."""
    return module is not None and isinstance(
        x, tuple(getattr(module, name) for name in names if hasattr(module, name))
    )


def _stacked(module: Any, table: Any, package: _Package, name: str) -> Array:
    """A table's columns side by side, in a dtype that holds them all."""
    if package.name == "pandas":
        kinds = set(table.dtypes.to_numpy())
        if kinds and all(isinstance(kind, np.dtype) and kind.kind in _REAL for kind in kinds):
            return np.asarray(table.to_numpy(np.result_type(*kinds)))
    parts, refused = [], []
    for label, column in package.items(table):
        try:
            parts.append(package.numbers(module, column, False))
        except _NotNumbers as error:
            refused.append((label, error))
    if refused:
        label, first = refused[0]
        shown = f'"{label}"' if isinstance(label, str) else repr(label)
        others = len(refused) - 1
        more = f" (and {others} more column{'s' * (others != 1)})" if others else ""
        raise TypeError(
            f"{name} must be an array of real numbers: column {shown} has dtype {first.dtype}: "
            f"encode it as numbers first{more}"
        )
    if not parts:
        return np.empty((len(table), 0))
    result = np.empty((len(table), len(parts)), np.result_type(*(part.dtype for part in parts)))
    for i, part in enumerate(parts):
        result[:, i] = part
    return result


def _pandas_items(table: Any) -> Iterable[tuple[Any, Any]]:
    return table.items()  # type: ignore[no-any-return]


def _pandas_numbers(pandas: Any, column: Any, exact: bool) -> Array:
    dtype = column.dtype
    if isinstance(dtype, np.dtype):
        if dtype.kind in _REAL:
            return np.asarray(column)
        if dtype.kind == "O" and not exact:
            return _numbers(np.asarray(column), pandas.isna)
        raise _NotNumbers(str(dtype))
    if isinstance(dtype, pandas.CategoricalDtype):
        return _of_categories(pandas, column)
    if isinstance(dtype, pandas.SparseDtype):
        return _pandas_numbers(pandas, pandas.Series(np.asarray(column)), exact)
    kind = getattr(dtype, "kind", "O")
    if kind in _REAL:
        if exact and not pandas.isna(column).any():
            return np.asarray(column.to_numpy(dtype=dtype.numpy_dtype))
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    if kind == "O" and not exact:  # decimals of pyarrow, for one
        try:
            return _numbers(np.asarray(column, dtype=object), pandas.isna)
        except _NotNumbers as error:
            raise _NotNumbers(str(dtype), error.place) from None
    raise _NotNumbers(str(dtype))


def _of_categories(pandas: Any, column: Any) -> Array:
    try:
        categories = _pandas_numbers(pandas, column.dtype.categories, False)
    except _NotNumbers as error:
        raise _NotNumbers(f"category of {error.dtype}", error.place) from None
    codes = np.asarray(column.cat.codes if hasattr(column, "cat") else column.codes)
    if (codes < 0).any():
        return np.asarray(np.append(categories.astype(np.float64), np.nan)[codes])
    return np.asarray(categories[codes])


def _pandas_objects(column: Any) -> Array:
    return np.array(column, dtype=object)


def _polars_items(table: Any) -> Iterable[tuple[Any, Any]]:
    return zip(table.columns, table.get_columns(), strict=True)


def _polars_numbers(polars: Any, column: Any, exact: bool) -> Array:
    dtype = column.dtype
    if dtype == polars.Object and not exact:
        return _numbers(_listed(column), lambda item: item is None)
    if dtype == polars.Boolean and column.null_count():
        column = column.cast(polars.UInt8)
    large = dtype.is_decimal() or dtype in (polars.Int128, polars.UInt128)
    if dtype == polars.Null or large or column.null_count():
        if not (dtype.is_numeric() or dtype in (polars.Boolean, polars.Null)):
            raise _NotNumbers(str(dtype))
        column = column.cast(polars.Float64)
    array = np.asarray(column.to_numpy())
    if array.dtype.kind not in _REAL:
        raise _NotNumbers(str(dtype))
    return array


def _arrow_items(table: Any) -> Iterable[tuple[Any, Any]]:
    return zip(table.column_names, table.columns, strict=True)


def _arrow_numbers(pyarrow: Any, column: Any, exact: bool) -> Array:
    kind, types = column.type, pyarrow.types
    if types.is_dictionary(kind):
        try:
            return _arrow_numbers(pyarrow, column.cast(kind.value_type), exact)
        except _NotNumbers as error:
            raise _NotNumbers(f"dictionary of {error.dtype}") from None
    known = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    if not any(is_one(kind) for is_one in known):
        raise _NotNumbers(str(kind))
    if column.null_count or types.is_decimal(kind):
        column = column.cast(pyarrow.float64(), safe=False)
    return np.asarray(column)


def _listed(column: Any) -> Array:
    items = column.to_pylist() if hasattr(column, "to_pylist") else column.to_list()
    made = np.empty(len(items), object)
    for i, item in enumerate(items):
        made[i] = item
    return made


_PACKAGES: Final = (
    _Package(
        "pandas",
        ("DataFrame",),
        ("Series", "Index"),
        _pandas_items,
        _pandas_numbers,
        _pandas_objects,
    ),
    _Package("polars", ("DataFrame",), ("Series",), _polars_items, _polars_numbers, _listed),
    _Package(
        "pyarrow",
        ("Table", "RecordBatch"),
        ("Array", "ChunkedArray"),
        _arrow_items,
        _arrow_numbers,
        _listed,
    ),
)

"""Tables and columns of pandas, polars and pyarrow, without importing them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lrgate.inputs.arrays import REAL, NotNumbers, numbers_of
from lrgate.types import Array

__all__ = [
    "Package",
    "is_one",
    "table_array",
]


@dataclass(frozen=True)
class Package:
    """A package whose tables and columns are supported."""

    name: str
    tables: tuple[str, ...]
    columns: tuple[str, ...]
    items: Callable[[Any], Iterable[tuple[Any, Any]]]
    """Names and columns of a table."""
    numbers: Callable[[Any, Any, bool], Array]
    """Numbers of a column. With True, integers stay exact, and columns of objects are rejected."""
    objects: Callable[[Any], Array]
    """Items of a column, as objects."""


def table_array(x: Any, name: str) -> Array | None:
    """The values of a table or column of pandas, polars or pyarrow; None for other types."""
    if isinstance(x, list | tuple | np.ndarray):
        return None
    for package in PACKAGES:
        module = sys.modules.get(package.name)
        if is_one(x, module, package.tables):
            return _stacked(module, x, package, name)
        if is_one(x, module, package.columns):
            try:
                return package.numbers(module, x, False)
            except NotNumbers as error:
                message = f"{name} must be an array of real numbers, got dtype {error.dtype}"
                raise TypeError(message + error.place) from None
    if is_one(x, sys.modules.get("polars"), ("LazyFrame",)):
        raise TypeError(f"{name} must hold values, got a LazyFrame: pass {name}.collect()")
    return None


def is_one(x: Any, module: Any, names: Iterable[str]) -> bool:
    """Whether `x` is an instance of one of these classes of a module.

    Another thread may still be importing the module, so a class may be missing.
    """
    return module is not None and isinstance(
        x, tuple(getattr(module, name) for name in names if hasattr(module, name))
    )


def _stacked(module: Any, table: Any, package: Package, name: str) -> Array:
    """The columns of a table as an array with their common dtype."""
    if package.name == "pandas":
        kinds = set(table.dtypes.to_numpy())
        if kinds and all(isinstance(kind, np.dtype) and kind.kind in REAL for kind in kinds):
            return np.asarray(table.to_numpy(np.result_type(*kinds)))
    parts, refused = [], []
    for label, column in package.items(table):
        try:
            parts.append(package.numbers(module, column, False))
        except NotNumbers as error:
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
        if dtype.kind in REAL:
            return np.asarray(column)
        if dtype.kind == "O" and not exact:
            return numbers_of(np.asarray(column), pandas.isna)
        raise NotNumbers(str(dtype))
    if isinstance(dtype, pandas.CategoricalDtype):
        return _of_categories(pandas, column)
    if isinstance(dtype, pandas.SparseDtype):
        return _pandas_numbers(pandas, pandas.Series(np.asarray(column)), exact)
    kind = getattr(dtype, "kind", "O")
    if kind in REAL:
        if exact and not pandas.isna(column).any():
            return np.asarray(column.to_numpy(dtype=dtype.numpy_dtype))
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    if kind == "O" and not exact:  # for example decimals of pyarrow
        try:
            return numbers_of(np.asarray(column, dtype=object), pandas.isna)
        except NotNumbers as error:
            raise NotNumbers(str(dtype), error.place) from None
    raise NotNumbers(str(dtype))


def _of_categories(pandas: Any, column: Any) -> Array:
    try:
        categories = _pandas_numbers(pandas, column.dtype.categories, False)
    except NotNumbers as error:
        raise NotNumbers(f"category of {error.dtype}", error.place) from None
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
        return numbers_of(_listed(column), lambda item: item is None)
    if dtype == polars.Boolean and column.null_count():
        column = column.cast(polars.UInt8)
    large = dtype.is_decimal() or dtype in (polars.Int128, polars.UInt128)
    if dtype == polars.Null or large or column.null_count():
        if not (dtype.is_numeric() or dtype in (polars.Boolean, polars.Null)):
            raise NotNumbers(str(dtype))
        column = column.cast(polars.Float64)
    array = np.asarray(column.to_numpy())
    if array.dtype.kind not in REAL:
        raise NotNumbers(str(dtype))
    return array


def _arrow_items(table: Any) -> Iterable[tuple[Any, Any]]:
    return zip(table.column_names, table.columns, strict=True)


def _arrow_numbers(pyarrow: Any, column: Any, exact: bool) -> Array:
    kind, types = column.type, pyarrow.types
    if types.is_dictionary(kind):
        try:
            return _arrow_numbers(pyarrow, column.cast(kind.value_type), exact)
        except NotNumbers as error:
            raise NotNumbers(f"dictionary of {error.dtype}") from None
    known = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    if not any(matches(kind) for matches in known):
        raise NotNumbers(str(kind))
    if column.null_count or types.is_decimal(kind):
        column = column.cast(pyarrow.float64(), safe=False)
    return np.asarray(column)


def _listed(column: Any) -> Array:
    items = column.to_pylist() if hasattr(column, "to_pylist") else column.to_list()
    made = np.empty(len(items), object)
    for i, item in enumerate(items):
        made[i] = item
    return made


PACKAGES: Final = (
    Package(
        "pandas",
        ("DataFrame",),
        ("Series", "Index"),
        _pandas_items,
        _pandas_numbers,
        _pandas_objects,
    ),
    Package("polars", ("DataFrame",), ("Series",), _polars_items, _polars_numbers, _listed),
    Package(
        "pyarrow",
        ("Table", "RecordBatch"),
        ("Array", "ChunkedArray"),
        _arrow_items,
        _arrow_numbers,
        _listed,
    ),
)

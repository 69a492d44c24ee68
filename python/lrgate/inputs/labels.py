"""Conversion of labels and target values."""

from __future__ import annotations

import numbers
import reprlib
import sys
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate.inputs.arrays import (
    NO_NUMBERS,
    REAL,
    NoArray,
    NotNumbers,
    as_array,
    is_number,
    numbers_of,
)
from lrgate.inputs.tables import PACKAGES, Package, is_one
from lrgate.types import Array

__all__ = [
    "label_array",
    "with_nan_label",
]


def label_array(y: Any, name: str = "y") -> Array:
    """Convert labels or target values to a plain array.

    Parameters
    ----------
    y : array-like or scipy.sparse
        Labels, including columns of pandas, polars and pyarrow with text, categories or nullable
        integers. Sparse labels become dense.
    name : str, default "y"
        Name of the argument in error messages.

    Returns
    -------
    array of bool, integers, floats or str
        An array of objects if labels of several kinds are mixed, or text has missing values:
        nothing is converted to text. Missing numbers are NaN.

    Raises
    ------
    TypeError
        If `y` cannot be converted, is a mapping or a set, or has masked cells.
    ValueError
        If text ends in a NUL character, which NumPy would drop, or integers are mixed with floats
        and float64 cannot represent them exactly.

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
            labels = as_array(y, name)
        except NoArray as error:
            raise TypeError(f"{name} must be an array{error}") from None
        if isinstance(y, list | tuple) and labels.ndim == 1:
            labels = _unchanged(y, labels, name)
    kind = labels.dtype.kind
    if kind == "T":  # NumPy's variable-width strings
        labels = labels.astype(object)
    return _uniform(labels, name) if kind in "OT" else labels


def with_nan_label(labels: Array, rows: npt.NDArray[np.bool_], nan_label: Any) -> Array:
    """Replace the labels of the given rows by `nan_label`.

    Parameters
    ----------
    labels : array (n,) or (n, k)
        Labels of dtype int64, float64, bool or str.
    rows : array of bool (n,)
        Rows in which every entry becomes `nan_label`.
    nan_label : scalar
        Any label.

    Returns
    -------
    array of the shape of `labels`
        An array of the same kind, wide enough for all labels. If that kind cannot hold `nan_label`
        unchanged, such as text among integers, an array of objects.

    Raises
    ------
    TypeError
        If `nan_label` is an array or a sequence.

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
    """A dtype of the kind of `labels` that can also hold `label`; object if there is none."""
    if isinstance(label, str):
        if labels.kind == "U" and not label.endswith("\0"):
            return np.result_type(labels, np.dtype(f"U{max(len(label), 1)}"))
    elif isinstance(label, bool | np.bool_):
        if labels.kind in "bi":
            return labels
    elif isinstance(label, numbers.Integral) and not isinstance(label, NO_NUMBERS):
        held = labels.kind == "i" and -(2**63) <= int(label) < 2**63
        if held or (labels.kind == "f" and abs(int(label)) <= 2**53):
            return labels
    elif isinstance(label, float | np.float16 | np.float32) and labels.kind == "f":
        return labels
    return np.dtype(object)


def _unchanged(values: Any, array: Array, name: str) -> Array:
    """Return `array`, which NumPy made of `values`, or an array of objects if it is text.

    NumPy converts mixed labels to text.
    """
    if array.dtype.kind in "US":
        objects = np.empty(len(values), object)
        objects[:] = values
        return objects
    if array.dtype.kind == "f":
        _check_exact(values, array, name)
    return array


def _uniform(array: Array, name: str) -> Array:
    """Convert an array of objects to bool, integers, floats or str if all objects are."""
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
    if not all(map(is_number, kinds)):
        return array
    if not any(issubclass(kind, numbers.Integral | np.bool_) for kind in kinds):
        return numbers_of(array)
    result = np.array(values).reshape(array.shape)
    if result.dtype.kind == "O":  # integers beyond 64 bits; Decimal and Fraction beside integers
        if all(issubclass(kind, numbers.Integral) for kind in kinds):
            return array
        try:
            result = numbers_of(array)
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
    """The labels of a column or table of pandas, polars or pyarrow; None for other types."""
    for package in PACKAGES:
        module = sys.modules.get(package.name)
        if is_one(y, module, package.columns):
            return _label_column(module, y, package)
        if is_one(y, module, package.tables):
            parts = [_label_column(module, column, package) for _, column in package.items(y)]
            if parts and all(part.dtype.kind in REAL for part in parts):
                return np.stack(parts, axis=1)
            made = np.empty((len(y), len(parts)), object)
            for i, part in enumerate(parts):
                made[:, i] = part
            return made
    return None


def _label_column(module: Any, column: Any, package: Package) -> Array:
    if package.name == "pandas" and isinstance(column.dtype, module.CategoricalDtype):
        return _category_labels(column)
    try:
        return package.numbers(module, column, True)
    except NotNumbers:
        return package.objects(column)


def _category_labels(column: Any) -> Array:
    codes = np.asarray(column.cat.codes if hasattr(column, "cat") else column.codes)
    categories = label_array(column.dtype.categories)
    if not (codes < 0).any():
        return np.asarray(categories[codes])
    labels: Array = np.append(categories.astype(object), np.nan)[codes]
    return labels.astype(np.float64) if categories.dtype.kind in REAL else labels

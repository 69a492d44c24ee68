"""Plain arrays from lists, subclasses of NumPy arrays and arrays of objects."""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import numpy as np

from lrgate.types import Array

__all__ = [
    "NoArray",
    "NotNumbers",
    "as_array",
    "as_list",
    "is_number",
    "numbers_of",
    "plain_array",
]


# Kinds of dtypes that hold real numbers.
REAL: Final = "biuf"
# Types of real numbers in arrays of objects. NumPy treats time spans as integers.
_NUMBERS: Final = (bool, np.bool_, numbers.Real, Decimal)
NO_NUMBERS: Final = (np.timedelta64,)


def plain_array(value: Any, name: str, of: str = "real numbers") -> Array:
    """Convert `value` with ``numpy.asarray``, but reject values of which that silently drops parts.

    Parameters
    ----------
    value : array-like
    name, of : str
        Name and expected content of the argument in error messages.

    Raises
    ------
    TypeError
        If `value` cannot be converted, is a mapping or a sparse matrix, or has masked cells.
    """
    try:
        return as_array(value, name)
    except NoArray as error:
        raise TypeError(f"{name} must be an array of {of}{error}") from None


def as_list(values: Any, name: str, of: str = "integers") -> list[Any]:
    """Return the items of a 1-D sequence, array or column; the caller checks them.

    Raises
    ------
    TypeError
        If `values` is text, a mapping, not iterable, or not 1-D.

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


class NoArray(Exception):
    """Raised for a value that is not an array.

    Holds the end of the error message, and whether rows have unequal lengths.
    """

    def __init__(self, end: str, ragged: bool = False) -> None:
        super().__init__(end)
        self.ragged = ragged


class NotNumbers(Exception):
    """Raised for an array or column that does not hold real numbers.

    Holds its dtype and, if known, the first wrong value with its place.
    """

    def __init__(self, dtype: str, place: str = "") -> None:
        super().__init__(dtype)
        self.dtype, self.place = dtype, place


def as_array(value: Any, name: str) -> Array:
    """``numpy.asarray(value)`` with checks for lost data and with clear error messages."""
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
    except Exception as error:  # __array__ of an object may raise anything
        ragged = isinstance(error, ValueError) and isinstance(value, list | tuple)
        raise NoArray(f": {_lengths(value) or error}", ragged) from None
    if array.dtype.kind == "O" and array.ndim == 0:
        raise NoArray(f", got {type(value).__name__}")
    return array


def _check_unmasked(array: np.ma.MaskedArray[Any, Any], name: str) -> None:
    mask = np.ma.getmaskarray(array)
    if array.dtype.names is not None or not mask.any():
        return
    count = int(np.count_nonzero(mask))
    where = _place_of(tuple(int(i) for i in np.argwhere(mask)[0]))
    floats = "" if array.dtype.kind in "fc" else ".astype(float)"
    raise TypeError(
        f"{name} must have no masked cells, got {count}, the first{where}: fill them, for example "
        f"by {name}{floats}.filled(numpy.nan)"
    )


def _lengths(value: Any) -> str:
    """Describe the first rows of unequal length; "" if there are none."""
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


def numbers_of(array: Array, is_missing: Callable[[Any], Any] | None = None) -> Array:
    """Convert an array of objects to float64.

    Values for which `is_missing` returns True become NaN.
    """
    if not all(map(is_number, set(map(type, array.flat)))):
        array = array.copy()
        for i, value in enumerate(array.flat):
            if is_number(type(value)):
                continue
            # For a nested list, `is_missing` returns an array: it is not missing.
            if is_missing is None or is_missing(value) is not True:
                where = _place_of(tuple(int(k) for k in np.unravel_index(i, array.shape)))
                raise NotNumbers("object", f": {reprlib.repr(value)}{where}")
            array.flat[i] = np.nan
    try:
        return array.astype(np.float64)
    except (ValueError, TypeError) as error:  # a number type of another package, a signalling NaN
        raise NotNumbers("object", f": {error}") from None


def is_number(kind: type) -> bool:
    return issubclass(kind, _NUMBERS) and not issubclass(kind, NO_NUMBERS)


def _place_of(index: tuple[int, ...]) -> str:
    if len(index) == 2:
        return f" in row {index[0]}, column {index[1]}"
    return f" at index {index[0] if len(index) == 1 else index}" if index else ""

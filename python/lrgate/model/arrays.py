"""Conversion of arrays for models: checked, C-contiguous and read-only."""

from __future__ import annotations

import reprlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate import inputs
from lrgate.types import Float32Array, Int32Array

__all__ = [
    "as_classes",
    "as_float32",
    "as_range",
    "as_rows",
    "as_units",
    "check_bounds",
    "check_shape",
    "check_type",
    "joined",
    "needs_copy",
    "read_only",
    "set_field",
]


# Allowed numbers of dimensions, by the shape as it appears in error messages.
_DIMENSIONS: Final[dict[str, tuple[int, ...]]] = {
    "(out, in)": (2,),
    "(in, rank)": (2,),
    "(rank, out)": (2,),
    "(2, rank)": (2,),
    "(k, out)": (2,),
    "(n, d)": (2,),
    "(n, k)": (2,),
    "(out,)": (1,),
    "() or (d,)": (0, 1),
    "() or (out,)": (0, 1),
}

# Values that are converted at once.
_PIECE: Final = 1 << 22


def as_float32(value: object, name: str, shape: str) -> Float32Array:
    """Convert `value` to a read-only, C-contiguous float32 array, with a copy only if needed.

    Parameters
    ----------
    value : array_like
        bool, integers or floats.
    name : str
        Name of the argument in error messages.
    shape : str
        Expected shape, as in error messages: ``(out, in)``, ``(out,)`` or ``() or (d,)``.

    Returns
    -------
    float32 array

    Raises
    ------
    TypeError
        If `value` does not hold real numbers.
    ValueError
        If the number of dimensions is wrong, or a finite value does not fit float32.
    """
    array = _real_array(value, name, shape)
    with np.errstate(over="ignore"):
        if array.ndim == 2 and array.size > _PIECE:
            result = _converted(array)
        else:
            result = array.astype(np.float32, order="C", copy=needs_copy(array))
    _check_overflow(array, result, name)
    return read_only(result)


def _converted(array: npt.NDArray[Any]) -> Float32Array:
    """A large matrix in float32, in pieces: Python handles Ctrl-C between them."""
    if not needs_copy(array) and array.dtype == np.float32 and array.flags.c_contiguous:
        return array
    result = np.empty(array.shape, np.float32)
    step = max(1, _PIECE // array.shape[1])
    for first in range(0, len(array), step):
        result[first : first + step] = array[first : first + step]
    return result


def as_rows(value: object, name: str, shape: str) -> npt.NDArray[np.uint8] | Float32Array:
    """Convert `value` like `as_float32`, but keep uint8.

    Parameters
    ----------
    value : array_like
    name, shape : str
        See `as_float32`.

    Returns
    -------
    uint8 or float32 array

    Raises
    ------
    ValueError, TypeError
        See `as_float32`.
    """
    array = _real_array(value, name, shape)
    if array.dtype != np.uint8:
        return as_float32(array, name, shape)
    return read_only(array.astype(np.uint8, order="C", copy=needs_copy(array)))


def as_classes(value: object, name: str = "classes") -> npt.NDArray[Any]:
    """Convert `value` to a read-only 1-D array of distinct int64, str, bool or float64 labels.

    Parameters
    ----------
    value : array_like
        int, str, bool or float; all str or all numbers. Integers of any width become int64.
    name : str, default "classes"
        Name of the argument in error messages.

    Returns
    -------
    array of shape (k,)

    Raises
    ------
    TypeError
        If labels have another type, str is mixed with numbers, or `value` is not ordered.
    ValueError
        If the number of dimensions is wrong, labels are repeated or not finite, integers are mixed
        with floats and float64 cannot represent them exactly, or text ends in a NUL character.
    """
    array = inputs.label_array(value, name)
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (k,), got {array.shape}")
    if array.dtype.kind == "O":
        raise _mixed(array, name)
    if array.dtype.kind == "U":
        array = array.astype(np.str_)
    elif array.dtype.kind in "iu":
        if array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise ValueError(f"{name} must fit int64, got {array.max()}")
        array = array.astype(np.int64)
    elif array.dtype.kind == "f":
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    elif array.dtype.kind == "b":
        array = array.astype(np.bool_)
    else:
        raise TypeError(f"{name} must be int, str, bool or float, got dtype {array.dtype}")
    labels, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name} must be distinct, got {labels[counts > 1][0].item()!r} twice")
    array.flags.writeable = False
    return array


def as_units(value: object, name: str, units: int) -> Int32Array:
    """Convert `value` to a read-only 1-D int32 array of distinct unit indices.

    Parameters
    ----------
    value : array_like of int
    name : str
        Name of the argument in error messages.
    units : int
        Number of units of the layer.

    Returns
    -------
    int32 array of shape (k,), k from 1 to `units`

    Raises
    ------
    TypeError
        If `value` does not hold integers.
    ValueError
        If `value` is empty or not 1-D, or an index is out of range or repeated.
    """
    array = inputs.plain_array(value, name, "integers")
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must have shape (k,) with k > 0, got {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an array of integers, got dtype {array.dtype}")
    outside = array[(array < 0) | (array >= units)]
    if outside.size:
        raise ValueError(f"{name} must name units from 0 to {units - 1}, got {outside[0]}")
    order = array.astype(np.int32, order="C", copy=needs_copy(array))
    # Sort instead of counting: a file may state more units than counters fit in memory.
    ascending = np.sort(order)
    repeated = ascending[1:][ascending[1:] == ascending[:-1]]
    if repeated.size:
        raise ValueError(f"{name} must name distinct units, got {repeated[0]} twice")
    return read_only(order)


def as_range(value: Any, name: str = "input_range") -> Float32Array:
    """Convert a pair of bounds to a read-only float32 array.

    Parameters
    ----------
    value : (low, high)
        Numbers or arrays (d,), or one array of shape (2,) or (2, d).
    name : str, default "input_range"
        Name of the argument in error messages.

    Returns
    -------
    float32 array of shape (2,) or (2, d)

    Raises
    ------
    TypeError
        If `value` is not a pair, or the bounds are not real numbers.
    ValueError
        If a shape is wrong, a bound is not finite, or a low bound exceeds the high bound.
    """
    if isinstance(value, np.ndarray) and (value.ndim not in (1, 2) or len(value) != 2):
        raise ValueError(f"{name} must have shape (2,) or (2, d), got {value.shape}")
    try:
        low, high = value
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a pair (low, high), got {reprlib.repr(value)}") from None
    low, high = (
        as_float32(bound, f"{name}[{i}]", "() or (d,)") for i, bound in enumerate((low, high))
    )
    if low.ndim == high.ndim == 1 and low.shape != high.shape:
        raise ValueError(f"{name}[1] must have shape () or {low.shape}, got {high.shape}")
    result = np.stack(np.broadcast_arrays(low, high))
    check_bounds(name, result)
    return read_only(result)


def _mixed(labels: npt.NDArray[Any], name: str) -> TypeError:
    """The exception for labels that have no common dtype; it names the first that does not fit."""
    text = [isinstance(label, str) for label in labels]
    fits = text if any(text) else [_is_label(label) for label in labels]
    at = fits.index(False)
    return TypeError(
        f"{name} must be all str, or all numbers within int64 or float64, "
        f"got {labels[at]!r} at index {at}"
    )


def _is_label(value: object) -> bool:
    if isinstance(value, int | np.integer):
        return -(2**63) <= int(value) < 2**63
    return isinstance(value, float | np.floating | np.bool_)


def _real_array(value: object, name: str, shape: str) -> npt.NDArray[Any]:
    array = inputs.plain_array(value, name)
    if array.dtype.kind not in inputs.REAL:
        raise TypeError(f"{name} must be an array of real numbers, got dtype {array.dtype}")
    if array.ndim not in _DIMENSIONS[shape]:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return array


def needs_copy(array: npt.NDArray[Any], made_here: bool = False) -> bool:
    # The engine needs aligned arrays that nobody modifies. An array must be copied if its owner can
    # write to it or make it writable again, unless it was `made_here` and owns its memory.
    if not array.flags.aligned:
        return True
    base: object = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return True
        base = base.base
    return not (base is None and made_here) and not isinstance(base, bytes | _Owner)


class _Owner:
    """Owns the memory of an array, to which nothing else writes; see `read_only`."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = array.__array_interface__ | {"data": (address, True)}
        self._array = array


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array with the same memory that cannot be made writable.

    The caller must not write to the memory afterwards. Models, and engines, which use weights in
    place, copy every other array that could still be modified.
    """
    return array if isinstance(array.base, _Owner) else np.asarray(_Owner(array))


def _check_overflow(array: npt.NDArray[Any], result: Float32Array, name: str) -> None:
    if array.dtype.kind != "f" or array.dtype.itemsize <= 4:
        return
    overflow = np.isinf(result) & np.isfinite(array)
    if overflow.any():
        index = tuple(int(i) for i in np.argwhere(overflow)[0])
        where = index[0] if len(index) == 1 else index
        raise ValueError(f"{name} must fit float32, got {array[index]} at index {where}")


def check_shape(name: str, array: npt.NDArray[Any], expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise ValueError(f"{name} must have shape {expected}, got {array.shape}")


def check_bounds(name: str, bounds: Float32Array) -> None:
    if not np.isfinite(bounds).all():
        raise ValueError(f"{name} must be finite, got {bounds[~np.isfinite(bounds)][0]}")
    low, high = bounds.reshape(2, -1)
    above = low > high
    if above.any():
        raise ValueError(f"{name} must have low <= high, got {low[above][0]} > {high[above][0]}")


def check_type(name: str, value: object, expected: type) -> None:
    if not isinstance(value, expected):
        raise TypeError(f"{name} must be of type {expected.__name__}, got {type(value).__name__}")


def set_field(instance: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass; only for use in `__post_init__`."""
    object.__setattr__(instance, name, value)


def joined(words: Any) -> str:
    return ", ".join(words)

"""Checks of arguments that are integers."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

__all__ = ["checked_integer"]


def checked_integer(value: Any, name: str, least: int = 1, most: int | None = None) -> int:
    """`value` as an int.

    Parameters
    ----------
    value : int or NumPy integer
        bool is refused.
    name : str
        The name of the argument in messages.
    least, most : int
        Limits, both allowed; no upper limit by default.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        If `value` is not an integer.
    ValueError
        If it is outside the limits.

    Examples
    --------
    >>> checked_integer(np.int8(3), "rank")
    3
    """
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an integer, got {value}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if number < least or (most is not None and number > most):
        expected = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be {expected}, got {number}")
    return number

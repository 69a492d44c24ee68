"""Checks of arguments that are integers or numbers."""

from __future__ import annotations

import math
import numbers
import operator
from decimal import Decimal
from typing import Any, Final

import numpy as np

__all__ = [
    "checked_count",
    "checked_integer",
    "checked_number",
    "checked_seconds",
    "checked_share",
    "is_real",
]

_MOST_SECONDS: Final = 10**9
# The largest integer that the engine takes.
_MOST_COUNT: Final = 2**63 - 1


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


def checked_count(value: Any, name: str, least: int = 1) -> int:
    """`value` as an int that the engine takes, at most 2**63 - 1.

    Raises
    ------
    TypeError
        If `value` is not an integer.
    ValueError
        If it is below `least` or too large.
    """
    number = checked_integer(value, name, least)
    if number > _MOST_COUNT:
        raise ValueError(f"{name} must be at most 2**63 - 1, got {number}")
    return number


def checked_number(value: Any, name: str) -> float:
    """`value` as a float; it may be any real number, also a Decimal or a Fraction.

    An integer that is too large for a float becomes infinity.

    Raises
    ------
    TypeError
        If `value` is not a real number; bool is none.
    """
    if not is_real(value):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def checked_share(value: Any, name: str) -> float:
    """`value` as a float from 0 to 1.

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If it is below 0, above 1 or NaN.

    Examples
    --------
    >>> checked_share(Decimal("0.25"), "budget")
    0.25
    """
    share = checked_number(value, name)
    if not 0 <= share <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value}")
    return share


def checked_seconds(value: Any) -> float:
    """The argument `seconds`, a duration, as a float.

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If it is below 0, above 1e9 or NaN.

    Examples
    --------
    >>> checked_seconds(1)
    1.0
    """
    seconds = checked_number(value, "seconds")
    if not 0 <= seconds <= _MOST_SECONDS:
        raise ValueError(f"seconds must be from 0 to {_MOST_SECONDS}, got {value}")
    return seconds


def is_real(value: object) -> bool:
    """Whether `value` is a real number; bool and time spans are none."""
    if isinstance(value, bool | np.bool_ | np.timedelta64):
        return False
    return isinstance(value, numbers.Real | Decimal)

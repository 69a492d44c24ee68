"""JSON values of a model: metadata, and the machine on which a plan was measured."""

from __future__ import annotations

import math
import reprlib
from typing import Any, Final

import numpy as np

from lrgate.model.arrays import joined

__all__ = ["as_machine", "json_object"]


Machine = dict[str, str | int | None]

# Keys of `lrgate.measure.machine.fingerprint`.
MACHINE_KEYS: Final = ("isa", "cpu", "l1d", "l2", "l3")
MAX_MACHINE_CHARACTERS: Final = 200

_JSON_DEPTH: Final = 100


def as_machine(value: Any, name: str = "machine") -> Machine:
    """Check and copy a result of `lrgate.measure.machine.fingerprint`, with keys in a fixed order.

    Parameters
    ----------
    value : dict
    name : str, default "machine"
        Name of the argument in error messages.

    Returns
    -------
    dict

    Raises
    ------
    TypeError
        If `value` is not a dict, or one of its values is not a str, int or None.
    ValueError
        If the keys differ, a str is too long, or an int is out of range.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be a dict, got {type(value).__name__}")
    if set(value) != set(MACHINE_KEYS):
        raise ValueError(
            f"{name} must have the keys {joined(MACHINE_KEYS)}, got {reprlib.repr(list(value))}"
        )
    for key in MACHINE_KEYS:
        _check_machine_value(f"{name}[{key!r}]", value[key])
    return {key: value[key] for key in MACHINE_KEYS}


def _check_machine_value(name: str, value: object) -> None:
    if isinstance(value, str):
        if len(value) > MAX_MACHINE_CHARACTERS:
            raise ValueError(
                f"{name} must have at most {MAX_MACHINE_CHARACTERS} characters, got {len(value)}"
            )
    elif isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < 2**63:
            raise ValueError(f"{name} must be from 0 to 2**63 - 1, got {reprlib.repr(value)}")
    elif value is not None:
        raise TypeError(f"{name} must be a str, an int or None, got {type(value).__name__}")


def json_object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be a dict, got {type(value).__name__}")
    copy: dict[str, Any] = _json_copy(value, name, 0)
    return copy


def _json_copy(value: Any, name: str, depth: int) -> Any:
    """A deep copy that holds only JSON values; `depth` limits the recursion."""
    if depth > _JSON_DEPTH:
        raise ValueError(f"{name.partition('[')[0]} must be nested at most {_JSON_DEPTH} deep")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{name} must have str keys, got {key!r}")
        return {str(k): _json_copy(v, f"{name}[{k!r}]", depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_copy(item, f"{name}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a JSON value, got {value}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} must be a JSON value, got {type(value).__name__}")

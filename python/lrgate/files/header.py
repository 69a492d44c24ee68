"""The JSON text of a file, which holds everything except arrays."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final, NoReturn, TypeVar

from lrgate.files.errors import FileFormatError

__all__ = [
    "as_json",
    "check_count",
    "check_fields",
    "entry",
    "parse_header",
    "parse_json",
    "stored_checksum",
]


FORMAT_VERSION: Final = 2

T = TypeVar("T")

MAX_HEADER_CHARACTERS: Final = 4 << 20

_HEADER_KEYS: Final = (
    "checksum",
    "format_version",
    "activations",
    "ranks",
    "task",
    "classes",
    "plans",
    "metadata",
    "machine",
    "report",
    "probe_plans",
    "least_margin",
)


def parse_header(text: str | None) -> dict[str, Any]:
    """Parse the key ``lrgate`` and check its version and keys; empty if `text` is None."""
    if text is None:
        return {}
    if len(text) > MAX_HEADER_CHARACTERS:
        raise FileFormatError(
            f"lrgate must take at most {MAX_HEADER_CHARACTERS} characters, got {len(text)}"
        )
    header = parse_json(text, "lrgate")
    if not isinstance(header, dict):
        raise FileFormatError(f"lrgate must be a JSON object, got {as_json(header)}")
    _check_version(header)
    for key in header:
        if key not in _HEADER_KEYS:
            raise FileFormatError(f"unknown key lrgate.{key}; expected {', '.join(_HEADER_KEYS)}")
    return header


def parse_json(text: str, name: str) -> Any:
    """Parse JSON text strictly; errors call it `name`."""

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = next(key for key, count in counts.items() if count > 1)
            raise FileFormatError(f"{name} has the key {twice!r} twice in one object")
        return values

    def refuse_constant(constant: str) -> NoReturn:
        raise FileFormatError(f"{name} is not valid JSON: {constant} is not a JSON number")

    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=refuse_constant)
    except FileFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{name} is not valid JSON: {error}") from error


def stored_checksum(header: dict[str, Any]) -> str | None:
    stored = entry(header, "checksum", str)
    if stored is None and header.get("format_version", 1) > 1:
        raise FileFormatError("lrgate.checksum is missing: format version 2 has one")
    return stored


def _check_version(header: dict[str, Any]) -> None:
    if "format_version" not in header:
        raise FileFormatError("lrgate.format_version is missing")
    version = header["format_version"]
    if type(version) is not int or version < 1:
        raise FileFormatError(
            f"lrgate.format_version must be an integer of at least 1, got {as_json(version)}"
        )
    if version > FORMAT_VERSION:
        raise FileFormatError(
            f"format version {version} is newer than this lrgate reads ({FORMAT_VERSION}); "
            "upgrade lrgate"
        )


def entry(header: dict[str, Any], key: str, expected: type[T]) -> T | None:
    value = header.get(key)
    if expected is float and type(value) is int and abs(value) < 1 << 53:
        value = float(value)
    if value is None or isinstance(value, expected):
        return value
    name = {"list": "a list", "dict": "an object", "str": "a string", "float": "a number"}[
        expected.__name__
    ]
    raise FileFormatError(f"lrgate.{key} must be {name}, got {as_json(value)}")


def check_fields(name: str, value: Any, fields: tuple[str, ...]) -> None:
    if not isinstance(value, dict) or set(value) != set(fields):
        raise FileFormatError(
            f"{name} must be an object of {', '.join(fields)}, got {as_json(value)}"
        )


def check_count(name: str, values: list[Any], count: int) -> None:
    if len(values) != count:
        raise FileFormatError(
            f"lrgate.{name} must have {count} entries, one per layer, got {len(values)}"
        )


def as_json(value: Any) -> str:
    """`value` as JSON, shortened for an error message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."

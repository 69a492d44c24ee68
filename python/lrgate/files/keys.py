"""The keys of the arrays in a file, and the checks of their values."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from typing import Any, Final

from lrgate.files.checksum import Checksum
from lrgate.files.errors import FileFormatError, naming
from lrgate.files.header import stored_checksum
from lrgate.model.arrays import as_float32, as_range, as_rows, read_only
from lrgate.types import Array

__all__ = [
    "check_dimensions",
    "check_keys",
    "check_settings",
    "check_total",
    "checked_arrays",
    "required",
]


# Limits far above the dimensions and the number of layers of any real model.
_MAX_DIMENSION: Final = 2**31 - 1
MAX_LAYERS: Final = 10_000


def checked_arrays(
    read: Iterable[tuple[str, Array]], text: str | None, header: dict[str, Any]
) -> dict[str, Array]:
    """Convert the arrays of a file for a model, by key, and verify the checksum if there is one."""
    stored, checksum = stored_checksum(header), Checksum()
    arrays = {}
    for key, array in read:
        if stored is not None:
            checksum.add(key, array)
        arrays[key] = _converted(key, array)
    if text is not None and stored is not None:
        checksum.check(text, stored)
    return arrays


LAYER_KEY: Final = re.compile(
    r"layers\.(0|[1-9][0-9]{0,8})\."
    r"(weight|bias|kept_units|order|activation\.slope|gate\.(?:u|v|bias|range)"
    r"|quantization\.(?:scale|offset)"
    r"|factors\.(?:u|v|bias|gate\.(?:v|bias)|quantization\.(?:scale|offset)))"
)
# Keys that only lrgate writes. Without the header, such a network would run with wrong settings.
_OWN_KEY: Final = re.compile(
    r"layers\..*\.(kept_units|order|activation\..*|gate\..*|quantization\..*|factors\..*)|probe\..*"
)
_SHAPES: Final = {
    "weight": "(out, in)",
    "bias": "(out,)",
    "activation.slope": "(out,)",
    "gate.u": "(in, rank)",
    "gate.v": "(rank, out)",
    "gate.bias": "(out,)",
    "gate.range": "(2, rank)",
    "factors.u": "(in, rank)",
    "factors.v": "(rank, out)",
    "factors.bias": "(out,)",
    "factors.gate.v": "(k, out)",
    "factors.gate.bias": "(out,)",
    "factors.quantization.scale": "() or (d,)",  # here, d is the rank
    "factors.quantization.offset": "() or (d,)",
    "quantization.scale": "() or (d,)",  # here, d is the number of inputs of the layer
    "quantization.offset": "() or (d,)",
    "input.scale": "() or (d,)",
    "input.shift": "() or (d,)",
    "probe.x": "(n, d)",
    "probe.y": "(n, k)",
    "probe.planned": "(n, k)",
}
_TOP_KEYS: Final = (
    "input.scale",
    "input.shift",
    "input.range",
    "probe.x",
    "probe.y",
    "probe.planned",
)


def check_settings(keys: Iterable[str], header: dict[str, Any]) -> None:
    """Raise FileFormatError if a file written by lrgate has lost its header."""
    own = next((key for key in keys if _OWN_KEY.fullmatch(key)), None)
    if not header and own is not None:
        raise FileFormatError(f"lrgate is missing, though the file has {own}")


def required(arrays: dict[str, Array], key: str, prefix: str = "") -> Array:
    if key not in arrays:
        raise FileFormatError(f"{prefix}{key} is missing")
    return arrays[key]


def check_keys(keys: Iterable[str]) -> None:
    """Raise FileFormatError for unknown keys: a typo would silently drop a gate or a bias."""
    for key in keys:
        if key in _TOP_KEYS:
            continue
        match = LAYER_KEY.fullmatch(key)
        if match is None:
            raise FileFormatError(
                f"unknown key {key!r}; expected lrgate, layers.{{i}}.weight, .bias, "
                ".activation.slope, .gate.u, .gate.v, .gate.bias, .gate.range, .kept_units, "
                ".quantization.scale, .quantization.offset, .factors.u, .factors.v, "
                ".factors.bias, .factors.gate.v, .factors.gate.bias, "
                f".factors.quantization.scale, .factors.quantization.offset, {', '.join(_TOP_KEYS)}"
            )
        if int(match[1]) >= MAX_LAYERS:
            raise FileFormatError(f"it must have at most {MAX_LAYERS} layers, got {key}")


def _converted(key: str, array: Array) -> Array:
    """Convert an array for a model: read-only float32, except uint8 probe rows and unit indices.

    The model takes ownership of `array`; nothing else may reference its memory.
    """
    match = LAYER_KEY.fullmatch(key)
    name = match[2] if match else key
    array = read_only(array)
    if name in ("kept_units", "order"):
        return array  # `Layer` converts it, when the number of units is known
    with naming(""):
        if name == "input.range":
            return as_range(array, key)
        convert = as_rows if name == "probe.x" else as_float32
        return convert(array, key, _SHAPES[name])


def check_dimensions(key: str, shape: tuple[int, ...]) -> None:
    # NumPy accepts True as an integer.
    good = all(type(size) is int and 0 <= size <= _MAX_DIMENSION for size in shape)
    if len(shape) > 2 or not good:
        raise FileFormatError(
            f"{key} must have at most 2 dimensions, each of 0 to {_MAX_DIMENSION}, "
            f"got {reprlib.repr(shape)}"
        )


def check_total(total: int, max_bytes: int) -> None:
    if total > max_bytes:
        raise FileFormatError(f"its arrays take {total} bytes, more than max_bytes ({max_bytes})")

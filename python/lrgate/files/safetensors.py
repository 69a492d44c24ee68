"""The `.safetensors` format.

Only writing uses the safetensors package, which is imported then.
"""

from __future__ import annotations

import math
import os
import reprlib
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from lrgate.files.errors import FileFormatError
from lrgate.files.header import parse_header, parse_json
from lrgate.files.keys import (
    check_dimensions,
    check_keys,
    check_settings,
    check_total,
    checked_arrays,
)
from lrgate.files.opening import CappedReader
from lrgate.types import Array

__all__ = [
    "read_safetensors",
    "write_safetensors",
]


_SAFETENSORS_DTYPES: Final = {
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "BOOL": "?",
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
}


# Far above the header of any real model; the safetensors package reads up to 100 MB.
_MAX_HEADER_BYTES: Final = 32 << 20


def read_safetensors(
    path: Path, file: CappedReader, max_bytes: int
) -> tuple[dict[str, Array], dict[str, Any]]:
    check_total(os.fstat(file.fileno()).st_size, max_bytes)
    try:
        metadata, tensors = _read_header(file)
    except FileFormatError as error:
        raise FileFormatError(f"not a readable .safetensors file: {error}") from error.__cause__
    text = metadata.get("lrgate")
    header = parse_header(text)
    check_keys(tensors)
    _check_metadata(metadata)
    check_settings(tensors, header)
    layout = {key: _checked_tensor(key, *tensor) for key, tensor in tensors.items()}
    # Read tensors directly into their arrays, in file order: the package would copy them twice.
    read = ((key, _read_tensor(file, key, *form)) for key, form in layout.items())
    return checked_arrays(read, text, header), header


def _read_header(file: CappedReader) -> tuple[dict[str, str], dict[str, tuple[str, list[int]]]]:
    """Metadata, and the dtype and shape of each tensor in file order; `file` is then at the first.

    The safetensors package reads headers from a mapped file. If another process truncates the file
    meanwhile, the operating system ends the reader.
    """
    whole = os.fstat(file.fileno()).st_size
    start = file.read(8)
    size = int.from_bytes(start, "little")
    if len(start) < 8 or size > whole - 8:
        raise FileFormatError("it is shorter than its header")
    if size > _MAX_HEADER_BYTES:
        raise FileFormatError(f"its header must take at most {_MAX_HEADER_BYTES} bytes, got {size}")
    content = bytearray(size)
    if file.readinto(content) < size:
        raise FileFormatError("it is shorter than its header")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise FileFormatError("its header is not UTF-8") from error
    header = parse_json(text, "its header")
    if not isinstance(header, dict):
        raise FileFormatError("its header must be a JSON object")
    metadata = _metadata_of(header.pop("__metadata__", None))
    places = sorted((_place(key, value), key) for key, value in header.items())
    end = 0
    for (first, last), key in places:
        if first != end:
            raise FileFormatError(f"{key!r} must begin at byte {end}, got {first}")
        end = last
    if end != whole - 8 - size:
        raise FileFormatError(f"its tensors take {end} bytes, got {whole - 8 - size}")
    return metadata, {key: (header[key]["dtype"], header[key]["shape"]) for _, key in places}


def _metadata_of(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise FileFormatError("__metadata__ must be a JSON object of strings")
    try:
        "".join([*value, *value.values()]).encode()
    except UnicodeEncodeError as error:
        raise FileFormatError("__metadata__ is not Unicode text") from error
    return value


def _place(key: str, value: Any) -> tuple[int, int]:
    """The first byte of a tensor and the one after its last, if its size agrees with its shape."""
    match value:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [first, last]}:
            pass
        case _:
            raise FileFormatError(f"{key!r} must have dtype, shape and two data_offsets")
    if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, first, last)):
        raise FileFormatError(f"{key!r} must have a shape and data_offsets of integers")
    # Other dtypes and more dimensions are refused later, by a message that names them.
    if dtype in _SAFETENSORS_DTYPES and len(shape) <= 2:
        size = math.prod(shape) * np.dtype(_SAFETENSORS_DTYPES[dtype]).itemsize
        if size != last - first:
            raise FileFormatError(f"{key!r} must take {size} bytes, got {last - first}")
    return first, last


def _read_tensor(file: CappedReader, key: str, shape: tuple[int, ...], dtype: str) -> Array:
    array = np.empty(shape, dtype)
    read = file.readinto(array.reshape(-1).view(np.uint8).data)
    if read != array.nbytes:
        raise FileFormatError(f"{key} ends after {read} of {array.nbytes} bytes")
    return array


def _check_metadata(metadata: dict[str, str]) -> None:
    """Raise FileFormatError for foreign entries beside lrgate's, or for a renamed one."""
    for key, value in metadata.items():
        if key != "lrgate" and ("lrgate" in metadata or '"format_version"' in value):
            raise FileFormatError(f"unknown metadata key {key!r}; expected only lrgate")


def _checked_tensor(key: str, dtype: str, shape: list[int]) -> tuple[tuple[int, ...], str]:
    """Check a tensor and return its shape and NumPy's name of its dtype."""
    if dtype not in _SAFETENSORS_DTYPES:
        hint = "; convert it to float32 first" if dtype == "BF16" else ""
        got = reprlib.repr(dtype)[1:-1]
        raise FileFormatError(f"{key} must be an array of real numbers, got dtype {got}{hint}")
    check_dimensions(key, tuple(shape))
    return tuple(shape), _SAFETENSORS_DTYPES[dtype]


def write_safetensors(file: IO[bytes], arrays: dict[str, Array], text: str) -> None:
    import safetensors.numpy

    file.write(safetensors.numpy.save(arrays, metadata={"lrgate": text}))

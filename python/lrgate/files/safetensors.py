"""The `.safetensors` format.

The safetensors package is imported only when it is used, so that reading .npz does not load it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from lrgate.files.errors import FileFormatError
from lrgate.files.header import parse_header
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


def read_safetensors(
    path: Path, file: CappedReader, max_bytes: int
) -> tuple[dict[str, Array], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    size = os.fstat(file.fileno()).st_size
    check_total(size, max_bytes)
    # If possible, use a name of the open file: `path` may have been replaced.
    name = f"/dev/fd/{file.fileno()}"
    name = name if os.path.exists(name) else str(path)
    try:
        # `safe_open` checks the header, and that tensors have no gaps and no overlaps.
        with safe_open(name, framework="numpy") as tensors:
            metadata = tensors.metadata() or {}
            keys = tensors.offset_keys()
            text = metadata.get("lrgate")
            header = parse_header(text)
            check_keys(keys)
            _check_metadata(metadata)
            check_settings(keys, header)
            layout = {key: _checked_tensor(key, tensors.get_slice(key)) for key in keys}
    except SafetensorError as error:
        raise FileFormatError(f"not a readable .safetensors file: {error}") from error
    if name == str(path) and not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
        raise FileFormatError("it was replaced while it was read")
    # Read tensors directly into their arrays, in file order: the package would copy them twice.
    file.seek(min(8 + int.from_bytes(file.read(8), "little"), size))
    read = ((key, _read_tensor(file, key, *form)) for key, form in layout.items())
    return checked_arrays(read, text, header), header


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


def _checked_tensor(key: str, tensor: Any) -> tuple[tuple[int, ...], str]:
    """Check a tensor and return its shape and dtype."""
    dtype = tensor.get_dtype()
    if dtype not in _SAFETENSORS_DTYPES:
        hint = "; convert it to float32 first" if dtype == "BF16" else ""
        raise FileFormatError(f"{key} must be an array of real numbers, got dtype {dtype}{hint}")
    shape = tuple(tensor.get_shape())
    check_dimensions(key, shape)
    return shape, _SAFETENSORS_DTYPES[dtype]


def write_safetensors(file: IO[bytes], arrays: dict[str, Array], text: str) -> None:
    import safetensors.numpy

    file.write(safetensors.numpy.save(arrays, metadata={"lrgate": text}))

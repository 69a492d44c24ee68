"""Model files: `.npz` and `.safetensors`, with the same keys in both.

====================================  ==================================================
key                                   content
====================================  ==================================================
``layers.{i}.weight``                 (out, in)
``layers.{i}.bias``                   (out,); zeros if it is missing
``layers.{i}.gate.u``, ``.v``         (in, rank) and (rank, out)
``layers.{i}.gate.bias``              (out,)
``layers.{i}.gate.range``             (2, rank); see `Gate`
``layers.{i}.kept_units``             (k,) integers; the computed units, see `Layer`
``layers.{i}.quantization.scale``     () or (in,), as ``.offset``; see `Quantization`
``input.scale``, ``input.shift``      () or (d,)
``input.range``                       (2,) or (2, d); lowest and highest raw input
``probe.x``, ``probe.y``              (n, d) and (n, k)
``probe.planned``                     (m n, k), m times (n, k); see `PlannedOutputs`
``lrgate``                            everything except arrays, as JSON: `lrgate.files.header`
====================================  ==================================================

In an `.npz` file, ``lrgate`` is a 0-d array of text; in a `.safetensors` file, it is an entry of
the metadata. It may be missing in a file that has only weights, biases and input keys: hidden
layers are then ReLU and the last layer is linear. Since format version 2, the JSON has a checksum
of the whole file, see `lrgate.files.checksum`; files of version 1 have none.

Files are not trusted. Nothing is unpickled. Every stated size is checked against the available
bytes before memory is allocated. Any defect raises a `FileFormatError` that names the file and the
key. tests/attacks/README.md lists the attacks that were tried.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from lrgate.files.atomic import replacing
from lrgate.files.checksum import Checksum
from lrgate.files.errors import FileFormatError
from lrgate.files.header import FORMAT_VERSION, MAX_HEADER_CHARACTERS, T
from lrgate.files.keys import MAX_LAYERS
from lrgate.files.npz import read_npz, write_npz
from lrgate.files.opening import check_kind, open_regular
from lrgate.files.reading import to_model
from lrgate.files.safetensors import read_safetensors, write_safetensors
from lrgate.files.writing import header_of, to_arrays
from lrgate.model.model import Model

__all__ = ["FORMAT_VERSION", "MAX_BYTES", "FileFormatError", "load", "save"]

MAX_BYTES: Final = 4 << 30
"""Most bytes of a file's arrays. Files beyond it would not be read back, so none is written."""


def load(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Model:
    """Read a model from an `.npz` or `.safetensors` file.

    Arrays may be float16, float32, float64, bool or integers. They are converted to float32, except
    uint8 probe rows and kept units, which are integers.

    Parameters
    ----------
    path : str or path-like
        Path whose suffix selects the format.
    max_bytes : int, default 4 GiB
        Limit on the total size of the file's arrays, in bytes, in their stored dtypes.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        If `path` has another suffix or a NUL character, or `max_bytes` is below 1.
    FileFormatError
        If the file is truncated, damaged, too large, from a newer lrgate, a pipe or device, or not
        a model: an unknown or missing key, a wrong type or shape, a checksum that does not match.
        This is a subclass of ValueError.
    OSError
        If the file is missing or cannot be read.
    MemoryError
        If the arrays do not fit in memory.

    Examples
    --------
    >>> load("mnist.npz")  # doctest: +SKIP
    Model(784-1000-600-400-10, classification)
    """
    path = _as_path(path)
    read = _by_suffix(path, npz=read_npz, safetensors=read_safetensors)
    if max_bytes < 1:
        raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
    try:
        check_kind(os.stat(path))  # before opening, because the writer of a pipe would notice
        with open_regular(path) as file:
            arrays, header = read(path, file, max_bytes)
        return to_model(arrays, header)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from error.__cause__


def save(path: str | os.PathLike[str], model: Model) -> None:
    """Write a model to an `.npz` or `.safetensors` file.

    The file is replaced atomically: it is written under a temporary name in the same folder, synced
    to disk and then renamed. Until then an existing file is unchanged. Equal models give equal
    bytes. Arrays in `.npz` are compressed if that saves at least a tenth: trained float32 weights
    hardly shrink, and loading them would take longer. `.safetensors` files are never compressed.

    Parameters
    ----------
    path : str or path-like
        Path whose suffix selects the format. Symbolic links are followed.
    model : Model

    Raises
    ------
    ValueError
        If `path` has another suffix or a NUL character, the model has more than 10,000 layers, its
        arrays take more than 4 GiB, or classes, metadata and report more than 4 MiB as JSON.
    TypeError
        If `model` has a wrong type.
    OSError
        If the path cannot be written.

    Examples
    --------
    >>> save("mnist.safetensors", model)  # doctest: +SKIP
    """
    path = _as_path(path)
    write = _by_suffix(path, npz=write_npz, safetensors=write_safetensors)
    if not isinstance(model, Model):
        raise TypeError(f"model must be of type Model, got {type(model).__name__}")
    if len(model.layers) > MAX_LAYERS:
        raise ValueError(f"model must have at most {MAX_LAYERS} layers, got {len(model.layers)}")
    arrays = to_arrays(model)
    text = json.dumps(header_of(model), separators=(",", ":"), allow_nan=False)
    if len(text) > MAX_HEADER_CHARACTERS:
        raise ValueError(
            f"classes, metadata and report must take at most {MAX_HEADER_CHARACTERS} characters "
            f"of JSON, got {len(text)}"
        )
    # An .npz file has a header for each array, and four bytes for each character.
    size = sum(array.nbytes + 1024 for array in arrays.values()) + 4 * len(text) + 1024
    if size > MAX_BYTES:
        raise ValueError(f"model must take at most {MAX_BYTES} bytes in a file, got {size}")
    checksum = Checksum()
    for key, array in arrays.items():
        checksum.add(key, array)
    text = checksum.into(text)
    with replacing(path) as file:
        write(file, arrays, text)


def _as_path(path: Any) -> Path:
    try:
        return Path(path)
    except TypeError:
        got = type(path).__name__
        raise TypeError(f"path must be a str or a path-like of str, got {got}") from None


def _by_suffix(path: Path, *, npz: T, safetensors: T) -> T:
    if "\0" in str(path):
        raise ValueError(f"path must not have a NUL character, got {str(path)!r}")
    match path.suffix.lower():
        case ".npz":
            return npz
        case ".safetensors":
            return safetensors
    raise ValueError(f"path must end in .npz or .safetensors, got {str(path)!r}")

"""The `.npz` format: a zip file of `.npy` members, read as untrusted input."""

from __future__ import annotations

import errno
import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from lrgate.files.checksum import CHUNK
from lrgate.files.errors import FileFormatError
from lrgate.files.header import MAX_HEADER_CHARACTERS, parse_header
from lrgate.files.keys import (
    check_dimensions,
    check_keys,
    check_settings,
    check_total,
    checked_arrays,
)
from lrgate.files.opening import CappedReader
from lrgate.inputs import REAL
from lrgate.types import Array

__all__ = [
    "read_npz",
    "write_npz",
]


# Deflate's shortest code for its longest match: 2 bits for 258 bytes.
_DEFLATE_RATIO: Final = 1032
# Size of the sample that decides whether an array is compressed.
_SAMPLE_BYTES: Final = 1 << 20
# The last record of a zip file: signature and number of entries.
_ZIP_END: Final = struct.Struct("<4s6xH10x")
# Headers of arrays with one or two dimensions take less than 200 bytes. Parsing this many bytes is
# fast, even if they are deeply nested.
_MAX_NPY_HEADER: Final = 1000


def read_npz(
    path: Path, file: CappedReader, max_bytes: int
) -> tuple[dict[str, Array], dict[str, Any]]:
    with _naming_zip_errors(), zipfile.ZipFile(file) as archive:
        _check_end(file, len(archive.infolist()))
        members = _members(archive, os.fstat(file.fileno()).st_size, max_bytes)
        member = members.pop("lrgate", None)
        text = None if member is None else _read_text(archive, member)
        header = parse_header(text)
        check_keys(members)
        check_settings(members, header)
        read = ((key, _read_array(archive, info, key)) for key, info in members.items())
        return checked_arrays(read, text, header), header


@contextmanager
def _naming_zip_errors() -> Iterator[None]:
    """Convert exceptions of zipfile. It documents only BadZipFile, but raises all of these."""
    try:
        yield
    except FileFormatError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        OverflowError,
        RuntimeError,
        ValueError,
    ) as error:
        raise FileFormatError(f"not a readable .npz file: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL is a seek to an invalid offset; others are I/O
            raise
        raise FileFormatError(f"not a readable .npz file: {error}") from error


def _check_end(file: CappedReader, entries: int) -> None:
    """Check the number of entries: zipfile accepts damaged directories with lost entries."""
    file.seek(-_ZIP_END.size, os.SEEK_END)
    signature, count = _ZIP_END.unpack(file.read(_ZIP_END.size))
    if signature != b"PK\5\6":
        raise FileFormatError("not a readable .npz file: it has bytes after its zip directory")
    if count not in (entries, 0xFFFF):  # 0xFFFF means that the count does not fit
        raise FileFormatError(
            f"not a readable .npz file: it states {count} members, but {entries} can be found"
        )


def _members(
    archive: zipfile.ZipFile, file_size: int, max_bytes: int
) -> dict[str, zipfile.ZipInfo]:
    """The members of the archive by key, after a check that their sizes are possible."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        key = info.filename.removesuffix(".npy")
        if key == info.filename:
            raise FileFormatError(f"unknown member {key!r}; expected names that end in .npy")
        if key in members:
            raise FileFormatError(f"{key} occurs twice")
        _check_member(info, key, file_size)
        members[key] = info
    check_total(sum(info.file_size for info in members.values()), max_bytes)
    return members


def _check_member(info: zipfile.ZipInfo, key: str, file_size: int) -> None:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FileFormatError(
            f"{key} must be stored or deflated, got compression method {info.compress_type}"
        )
    if info.flag_bits & 0x1:
        raise FileFormatError(f"{key} is encrypted")
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    most = info.compress_size * (_DEFLATE_RATIO if deflated else 1)
    if info.header_offset + info.compress_size > file_size or info.file_size > most:
        raise FileFormatError(
            f"{key} cannot hold the {info.file_size} bytes it states: "
            "the file is truncated or damaged"
        )


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str) -> Array:
    with archive.open(info) as stream:
        shape, fortran_order, dtype, start = _read_npy_header(stream, key)
        if dtype.hasobject:
            raise FileFormatError(f"{key} holds Python objects, which lrgate never unpickles")
        if dtype.kind not in REAL or dtype.itemsize > 8:
            raise FileFormatError(f"{key} must be an array of real numbers, got dtype {dtype}")
        check_dimensions(key, shape)
        _check_size(info, key, shape, start, dtype.itemsize)
        array = np.empty(math.prod(shape), dtype)
        _fill(stream, array.view(np.uint8).data, key)
    return array.reshape(shape, order="F" if fortran_order else "C")


def _read_text(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    with archive.open(info) as stream:
        shape, _, dtype, start = _read_npy_header(stream, "lrgate")
        if dtype.kind != "U" or shape != ():
            raise FileFormatError(
                f"lrgate must be a 0-d array of text, got dtype {dtype} of shape {shape}"
            )
        if dtype.itemsize > 4 * MAX_HEADER_CHARACTERS:
            raise FileFormatError(f"lrgate is too large: {dtype.itemsize} bytes")
        _check_size(info, "lrgate", shape, start, dtype.itemsize)
        content = bytearray(dtype.itemsize)
        _fill(stream, memoryview(content), "lrgate")
    # Not with NumPy: it accepts invalid code points.
    encoding = "utf-32-be" if dtype.str.startswith(">") else "utf-32-le"
    try:
        return content.decode(encoding).rstrip("\0")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"lrgate is not valid text: {error.reason}") from error


def _read_npy_header(
    stream: IO[bytes], key: str
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order and dtype of an .npy member, and the length of its header."""
    start = _read_exactly(stream, 8, key)
    if start[:6] != b"\x93NUMPY":
        raise FileFormatError(f"{key} is not a .npy array")
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0)):
        raise FileFormatError(f"{key} has .npy version {start[6]}.{start[7]}, expected 1.0 or 2.0")
    length = _read_exactly(stream, 2 if version == (1, 0) else 4, key)
    size = int.from_bytes(length, "little")
    if size > _MAX_NPY_HEADER:
        raise FileFormatError(f"{key} has a .npy header of {size} bytes")
    text = io.BytesIO(length + _read_exactly(stream, size, key))
    parse = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    try:
        shape, fortran_order, dtype = parse(text)
    except MemoryError:
        raise
    except Exception as error:  # NumPy evaluates the text as a literal, which can raise anything
        raise FileFormatError(f"{key} has a damaged .npy header: {error}") from error
    return shape, fortran_order, dtype, 8 + len(length) + size


def _check_size(
    info: zipfile.ZipInfo, key: str, shape: tuple[int, ...], start: int, itemsize: int
) -> None:
    expected = math.prod(shape) * itemsize
    if start + expected != info.file_size:
        raise FileFormatError(
            f"{key} of shape {shape} must hold {expected} bytes, got {info.file_size - start}"
        )


def _fill(stream: IO[bytes], target: memoryview, key: str) -> None:
    """Read exactly `target`; the final read makes zipfile check the CRC."""
    filled = 0
    while filled < len(target):
        chunk = stream.read(min(CHUNK, len(target) - filled))
        if not chunk:
            raise FileFormatError(f"{key} ends after {filled} of {len(target)} bytes")
        target[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    if stream.read(1):
        raise FileFormatError(f"{key} has bytes after its end")


def _read_exactly(stream: IO[bytes], size: int, key: str) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise FileFormatError(f"{key} is not a .npy array: it ends in its header")
    return content


def write_npz(file: IO[bytes], arrays: dict[str, Array], text: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for key, array in {"lrgate": np.array(text), **arrays}.items():
            info = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = _compression(array)
            info.create_system = 3  # always Unix: the bytes must not depend on the system
            with archive.open(info, "w", force_zip64=array.nbytes >= 1 << 30) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


def _compression(array: Array) -> int:
    """Use deflate if it shrinks a sample from the middle of the array by at least a tenth."""
    flat = array.reshape(-1)
    middle, half = flat.size // 2, _SAMPLE_BYTES // 2 // max(1, flat.itemsize)
    sample = flat[max(0, middle - half) : middle + half].tobytes()
    shrinks = len(zlib.compress(sample)) <= 0.9 * len(sample)
    return zipfile.ZIP_DEFLATED if shrinks else zipfile.ZIP_STORED

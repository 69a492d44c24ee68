"""Rows and labels from data files: .npy, .npz, .csv and .parquet."""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from lrgate.inputs import label_array, real_array
from lrgate.inputs.optional import required
from lrgate.network import Network
from lrgate.types import Array

__all__ = ["COLUMNS", "Rows", "open_rows", "probe_or_rows", "read_labels"]

COLUMNS: Final = "columns"
"""Key of a network's metadata: names of its input columns, if it was optimised on a table."""

# Larger inputs on stdin are kept in a temporary file.
_SPOOLED_BYTES: Final = 1 << 26
_WHOLE: Final = sys.maxsize
_EMPTY_CELLS: Final = ("", "#n/a", "<na>", "n/a", "na", "nan", "none", "null")
_BOOLEANS: Final = ("true", "false")


@dataclass(frozen=True)
class Rows:
    """The rows of a data file, read when they are needed.

    Attributes
    ----------
    name : str
        The file, for messages.
    columns : tuple of str or None
        Names of the columns, if the file has them.
    count : int or None
        Number of rows, if it is known before all are read.
    """

    name: str
    columns: tuple[str, ...] | None
    count: int | None
    _parts: Callable[[int], Iterator[Any]]

    def parts(self, net: Network, size: int = _WHOLE) -> Iterator[Any]:
        """Arrays (n, d) or CSR matrices of at most `size` rows each, which fit the network."""
        self._check_columns(net)
        with _naming(self.name):
            for part in self._parts(size):
                rows = part if hasattr(part, "tocsr") else real_array(part)
                if rows.ndim != 2 or rows.shape[1] != net.input_size:
                    raise ValueError(f"x must have shape (n, {net.input_size}), got {rows.shape}")
                yield rows

    def whole(self, net: Network) -> Any:
        """All rows, an array (n, d) or a CSR matrix, which fit the network."""
        found = list(self.parts(net))
        return found[0] if found else np.empty((0, net.input_size), np.float32)

    def _check_columns(self, net: Network) -> None:
        taken = net.metadata.get(COLUMNS)
        if self.columns is None or not isinstance(taken, list) or list(self.columns) == taken:
            return
        missing = [name for name in taken if name not in self.columns]
        extra = [name for name in self.columns if name not in taken]
        if missing:
            problem = f"it has no column {missing[0]!r}"
        elif extra:
            problem = f"the model takes no column {extra[0]!r}"
        else:
            at = next(
                i
                for i, pair in enumerate(zip(self.columns, taken, strict=False))
                if len({*pair}) > 1
            )
            problem = f"column {at} must be {taken[at]!r}, got {self.columns[at]!r}"
        raise ValueError(
            f"{self.name}: the columns must be those of the model, in order: {problem}"
        )


def open_rows(path: str) -> Rows:
    """The rows of a file; ``-`` reads CSV or .npy from stdin.

    The suffix selects the format. Files with another suffix are read as .npy. Nothing is unpickled.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, or does not hold rows.
    ImportError
        If the package that reads the format is not installed.
    """
    name = "stdin" if path == "-" else path
    with _naming(name):
        if path == "-":
            file = _stdin()
            is_npy = file.read(6) == b"\x93NUMPY"
            file.seek(0)
            return _array_rows(name, _read_npy(file)) if is_npy else _csv_rows(name, file)
        match Path(path).suffix.lower():
            case ".npz":
                return _array_rows(name, _read_npz(path))
            case ".csv":
                return _csv_rows(name, path)
            case ".parquet":
                return _parquet_rows(name, path)
        return _array_rows(name, _read_npy(path))


def read_labels(path: str) -> Array:
    """Labels or values from a file: (n,), or (n, k) from a table of several columns.

    In a .csv file, a first line that is no number is the header, unless other lines have the same
    text.
    """
    if path == "-":
        raise ValueError("labels must be in a file, got -")
    rows = _csv_labels(path) if Path(path).suffix.lower() == ".csv" else open_rows(path)
    with _naming(path):
        found = next(rows._parts(_WHOLE), np.empty(0))
        values = found if hasattr(found, "toarray") else label_array(found)
        columns = rows.columns is not None or path.lower().endswith(".csv")
        return values[:, 0] if columns and values.ndim == 2 and values.shape[1] == 1 else values


def probe_or_rows(net: Network, model: str, path: str | None) -> Any:
    """The rows of a file if there is one, otherwise those of the network's probe."""
    if path is not None:
        return open_rows(path).whole(net)
    if net.probe is None:
        raise ValueError(f"{model}: the network has no probe rows, so --rows is needed")
    return net.probe.x


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the name of the file in front of messages."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if str(error).startswith(f"{name}: "):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from None


def _stdin() -> IO[bytes]:
    """Everything on stdin, as a file that can be read twice."""
    file: Any = tempfile.SpooledTemporaryFile(_SPOOLED_BYTES)  # noqa: SIM115  (closed with the rows)
    shutil.copyfileobj(sys.stdin.buffer, file)
    file.seek(0)
    opened: IO[bytes] = file
    return opened


# Arrays


def _array_rows(name: str, array: Any) -> Rows:
    if array.ndim == 0:
        raise ValueError("expected rows, got a single value")

    def parts(size: int) -> Iterator[Any]:
        for start in range(0, array.shape[0], size):
            yield array[start : start + size]
        if array.shape[0] == 0:
            yield array

    return Rows(name, None, int(array.shape[0]), parts)


def _read_npy(file: str | IO[bytes]) -> Array:
    try:
        # A file is mapped: this reads only the header and allocates no memory. Never unpickles.
        rows = np.load(file, mmap_mode="r" if isinstance(file, str) else None, allow_pickle=False)
    except (EOFError, ValueError):
        # NumPy's own message advises unpickling.
        raise ValueError("expected a .npy file of numbers, complete, no pickle") from None
    if not isinstance(rows, np.ndarray):
        raise ValueError("expected a .npy file of numbers, got an archive, whose name ends in .npz")
    return rows


def _read_npz(path: str) -> Any:
    """The only array of an archive, or its CSR matrix as ``scipy.sparse.save_npz`` writes it."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("not an archive")
            names = archive.files
            if "format" in names:
                return _csr(archive)
            if len(names) == 1:
                return _member(archive, names[0])
    except (
        EOFError,
        KeyError,
        NotImplementedError,
        OverflowError,
        RuntimeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(
            f"expected a .npz file of numbers, complete, no pickle: {_without_advice(error)}"
        ) from None
    shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    raise ValueError(
        "expected a .npz file with one array, or a CSR matrix of scipy.sparse, "
        f"got {len(names)} arrays: {shown}"
    )


def _without_advice(error: Exception) -> str:
    return "it holds Python objects" if "pickle" in str(error) else str(error)


def _csr(archive: Any) -> Any:
    kind = _member(archive, "format").item()
    if kind not in (b"csr", "csr"):
        raise ValueError(f"its matrix must be CSR, got {kind!r}")
    sparse = required("scipy.sparse", "sparse", "lrgate")
    data, indices, pointers, shape = (
        _member(archive, name) for name in ("data", "indices", "indptr", "shape")
    )
    matrix = sparse.csr_matrix((data, indices, pointers), shape=tuple(shape.tolist()))
    matrix.check_format(full_check=True)  # SciPy's own functions trust the indices
    return matrix


def _member(archive: Any, name: str) -> Array:
    array = archive[name]
    if not isinstance(array, np.ndarray):  # NumPy gives the bytes of members of other types
        raise ValueError(f"{name} is not a .npy array")
    return array


# Tables


def _csv_rows(name: str, file: str | IO[bytes]) -> Rows:
    pandas = required("pandas", "tables", "reading .csv")
    first = _first_line(file)
    has_header = not all(_is_number(cell) for cell in first)
    columns = tuple(cell.strip() for cell in first) if has_header else None

    def parts(size: int) -> Iterator[Any]:
        options = {"header": 0 if has_header else None, "skipinitialspace": True}
        if not first:
            return
        if not isinstance(file, str):
            file.seek(0)
        if size == _WHOLE:
            yield _checked(pandas, pandas.read_csv(file, **options))
            return
        with pandas.read_csv(file, chunksize=size, **options) as reader:
            for frame in reader:
                yield _checked(pandas, frame)

    return Rows(name, columns, None, parts)


def _csv_labels(path: str) -> Rows:
    with _naming(path):
        pandas = required("pandas", "tables", "reading .csv")
        first = _first_line(path)
        options = {"keep_default_na": False, "na_values": [""], "skip_blank_lines": False}
        text = pandas.read_csv(path, header=None, dtype=str, skipinitialspace=True, **options)
        repeated = any((text[i][1:] == text[i][0]).any() for i in text.columns)
        has_header = not all(_is_number(cell) for cell in first) and not repeated
        header = 0 if has_header else None
        frame = pandas.read_csv(path, header=header, skipinitialspace=True, **options)
    columns = tuple(map(str, frame.columns)) if has_header else None
    return Rows(path, columns, len(frame), lambda size: iter([_checked(pandas, frame)]))


def _first_line(file: str | IO[bytes]) -> list[str]:
    """The cells of the first line that is not empty."""
    if isinstance(file, str):
        with open(file, "rb") as opened:
            return _first_line(opened)
    file.seek(0)
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    try:
        return next((line for line in csv.reader(text, skipinitialspace=True) if line), [])
    except csv.Error as error:
        raise ValueError(f"expected a .csv file: {error}") from None
    finally:
        text.detach()


def _is_number(cell: str) -> bool:
    word = cell.strip().lower()
    if word in _EMPTY_CELLS or word in _BOOLEANS:
        return True
    try:
        return math.isfinite(float(word)) or "inf" in word
    except ValueError:
        return False


def _checked(pandas: Any, frame: Any) -> Any:
    # pandas takes the first cells of longer lines as their index.
    if not isinstance(frame.index, pandas.RangeIndex):
        raise ValueError("its lines must have as many cells as the first line, got more")
    return frame


def _parquet_rows(name: str, path: str) -> Rows:
    parquet = required("pyarrow.parquet", "tables", "reading .parquet")
    if not os.path.isfile(path):
        raise FileNotFoundError(2, os.strerror(2), path)
    arrow = required("pyarrow", "tables", "reading .parquet")
    try:
        file = parquet.ParquetFile(path)
    except arrow.ArrowException as error:
        raise ValueError(f"expected a .parquet file: {error}") from None

    def parts(size: int) -> Iterator[Any]:
        try:
            if size == _WHOLE:
                yield file.read()
            else:
                yield from file.iter_batches(batch_size=size)
        except arrow.ArrowException as error:
            raise ValueError(f"expected a .parquet file: {error}") from None

    return Rows(name, tuple(file.schema_arrow.names), int(file.metadata.num_rows), parts)

"""Safe opening of untrusted files."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Final

from lrgate.files.errors import FileFormatError

__all__ = [
    "CappedReader",
    "check_kind",
    "open_regular",
]


def open_regular(path: Path) -> CappedReader:
    """Open a regular file. Never blocks, unlike opening a pipe that has no writer."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))

    file = CappedReader(io.FileIO(path, opener=opener))
    try:
        check_kind(os.fstat(file.fileno()))  # the file may have been replaced since `stat`
    except BaseException:
        file.close()
        raise
    return file


def check_kind(status: os.stat_result) -> None:
    # `open` raises its own exception for a folder.
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        kind = "a pipe" if stat.S_ISFIFO(status.st_mode) else "a device or socket"
        raise FileFormatError(f"it must be a regular file, not {kind}")


class CappedReader(io.BufferedReader):
    """A file with a limit on the size of a single read.

    zipfile reads its directory in one call, with a size that it takes from the file. All other
    reads are at most `CHUNK` bytes.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = max(0, os.fstat(self.fileno()).st_size - self.tell())
        if size > _MAX_READ:
            raise FileFormatError(f"its zip directory is too large: {size} bytes")
        return super().read(size)


_MAX_READ: Final = 8 << 20

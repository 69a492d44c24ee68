"""Files and text that commands write. Files are replaced atomically, and only if that is asked."""

from __future__ import annotations

import argparse
import errno
import io
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lrgate.files.atomic import replacing

__all__ = ["STDOUT", "Output", "add_output", "plain", "show"]

STDOUT: Final = "-"


def add_output(
    command: argparse.ArgumentParser, formats: Sequence[str], default: str | None = None
) -> None:
    """Add ``-o``, ``--format`` and ``--force``; `default` is the output if there is no ``-o``."""
    named = ", ".join(f".{name}" for name in formats)
    command.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=default is None,
        default=default,
        help=f"the file to write, {named}, or - for stdout",
    )
    command.add_argument("--format", choices=formats, help="format of the output on stdout")
    command.add_argument("--force", action="store_true", help="replace an existing file")


class Output:
    """Where a command writes: a file or stdout.

    Parameters
    ----------
    path : str
        ``-`` is stdout.
    formats : sequence of str
        Formats that the command writes, by suffix.
    given : str or None
        The format, which only stdout needs.
    force : bool
        Whether an existing file is replaced.
    text : str or None
        The format that is text: the default of stdout.

    Raises
    ------
    ValueError
        If the format is unknown or missing, or binary data would go to a terminal.
    OSError
        If the file exists, or its folder does not or cannot be written to.
    """

    def __init__(
        self,
        path: str,
        formats: Sequence[str],
        given: str | None,
        force: bool,
        text: str | None = None,
    ) -> None:
        self.path, self.force = path, force
        self.is_stdout = path == STDOUT
        if self.is_stdout:
            if given is None and text is None:
                raise ValueError(f"--format must be one of {', '.join(formats)} for -o -")
            self.format = given or text or ""
            if self.format != text and sys.stdout.isatty():
                raise ValueError(
                    f"stdout is a terminal: .{self.format} is binary, name a file by -o"
                )
            return
        self.format = Path(path).suffix.lower().removeprefix(".")
        if self.format not in formats:
            raise ValueError(
                f"-o must end in {', '.join('.' + name for name in formats)}, or be -, got {path!r}"
            )
        if given not in (None, self.format):
            raise ValueError(f"--format must be that of the file, {self.format}, got {given}")
        self.check()

    def check(self) -> None:
        """Refuse a file that exists or whose folder cannot be written to."""
        if os.path.isdir(self.path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.path)
        if os.path.lexists(self.path) and not self.force:
            raise FileExistsError(errno.EEXIST, "it exists: --force replaces it", self.path)
        folder = os.path.dirname(os.path.realpath(self.path))
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, "its folder does not exist", self.path)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "its folder cannot be written to", self.path)

    def save(self, net: Any) -> None:
        """Write a network."""
        if not self.is_stdout:
            self.check()
            self._save(net, self.path)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, f"network.{self.format}")
            self._save(net, path)
            with open(path, "rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()

    def _save(self, net: Any, path: str) -> None:
        if self.format == "onnx":
            net.to_onnx(path)
        else:
            net.save(path)

    def write(self, writer: Any) -> None:
        """Call ``writer(file)`` with a binary file, or with stdout."""
        if self.is_stdout:
            writer(sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        with replacing(Path(self.path)) as file:
            writer(file)
            self.check()


def show(result: object, to_stderr: bool = False) -> None:
    """Print a result; a dict as JSON. On stderr if stdout has the output."""
    file: io.TextIOBase | Any = sys.stderr if to_stderr else sys.stdout
    text = json.dumps(plain(result), indent=2) if isinstance(result, dict) else str(result)
    print(text, file=file, flush=True)


def plain(value: Any) -> Any:
    """The value with None in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

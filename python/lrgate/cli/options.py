"""Options and input files that several commands share."""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate.network import Network

__all__ = ["add_measuring", "count", "counts", "duration", "names", "read_rows", "rows_of", "show"]


def add_measuring(command: argparse.ArgumentParser, seconds: float, each: str = "") -> None:
    command.add_argument(
        "--seconds",
        type=duration,
        default=seconds,
        help=f"approximate duration of the measurement{each} (default: %(default)g)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def duration(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 3600, got {text!r}")
    return value


def count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return value


def counts(text: str) -> list[int]:
    counts = [count(part) for part in text.split(",")]
    if len(set(counts)) != len(counts):
        raise argparse.ArgumentTypeError(f"must be distinct, got {text!r}")
    return counts


def names(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"must be names separated by commas, got {text!r}")
    return names


def rows_of(net: Network, arguments: argparse.Namespace) -> npt.NDArray[Any]:
    if arguments.rows is not None:
        return read_rows(arguments.rows)
    if net.probe is None:
        raise ValueError(f"{arguments.file}: the network has no probe rows, so --rows is needed")
    return net.probe.x


def read_rows(path: str) -> npt.NDArray[Any]:
    try:
        # Reads only the header, allocates no memory and never unpickles.
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError):
        # NumPy's own message advises unpickling.
        raise ValueError(f"{path}: expected a .npy file of numbers, complete, no pickle") from None
    if not isinstance(rows, np.ndarray):
        raise ValueError(f"{path}: expected a .npy file of numbers, got an archive")
    return rows


def show(result: object) -> None:
    print(json.dumps(result, indent=2) if isinstance(result, dict) else result)
    sys.stdout.flush()

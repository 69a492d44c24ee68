"""Types and groups of arguments that several commands share."""

from __future__ import annotations

import argparse
import math

from lrgate.model.model import TASKS

__all__ = [
    "add_json",
    "add_measuring",
    "add_model",
    "add_task",
    "add_threads",
    "count",
    "counts",
    "duration",
    "labels",
    "names",
    "natural",
    "number",
    "share",
]


def add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "model", metavar="MODEL", help="the model: .npz, .safetensors, .onnx, .pt2 or .keras"
    )


def add_task(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--task", choices=TASKS, help="task of the network, if the file does not have one"
    )
    command.add_argument(
        "--classes",
        type=labels,
        metavar="LABEL,LABEL",
        help="labels of the outputs, if the file does not have them",
    )


def add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")


def add_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=count, metavar="N", help="number of threads of calls")


def add_measuring(command: argparse.ArgumentParser, seconds: float, each: str = "") -> None:
    command.add_argument(
        "--seconds",
        type=duration,
        default=seconds,
        help=f"approximate duration of the measurement{each} (default: %(default)g)",
    )
    add_json(command)


def number(text: str) -> float:
    """A number; NaN for other text, which fails every comparison."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def duration(text: str) -> float:
    value = number(text)
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 3600, got {text!r}")
    return value


def share(text: str) -> float:
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text!r}")
    return value


def count(text: str) -> int:
    return _integer(text, 1)


def natural(text: str) -> int:
    return _integer(text, 0)


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not least <= value < 2**31:
        raise argparse.ArgumentTypeError(f"must be an integer of at least {least}, got {text!r}")
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


def labels(text: str) -> list[str] | list[int]:
    """Labels separated by commas: integers if all are."""
    words = names(text)
    try:
        return [int(word) for word in words]
    except ValueError:
        return words

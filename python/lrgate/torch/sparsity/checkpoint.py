"""The file from which an interrupted search goes on."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from lrgate.files.atomic import replacing
from lrgate.results.sparsification import RoundReport
from lrgate.torch.sparsity.problem import Problem
from lrgate.torch.sparsity.search import Progress

__all__ = ["Checkpoint", "check_folder"]

_FORMAT: Final = "lrgate sparsify 1"


class Checkpoint:
    """A file with the progress of one call.

    Parameters
    ----------
    path : path-like, optional
        None: nothing is written.
    problem : Problem
        The call, which the file is checked against.
    """

    def __init__(self, path: Any, problem: Problem) -> None:
        self._path = None if path is None else Path(path)
        self._call = "" if path is None else _identity(problem)

    def read(self) -> Progress | None:
        """The progress in the file; None if there is no file.

        Raises
        ------
        ValueError
            If the file is something else, or that of another call.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
            if state.pop("format") != _FORMAT:
                raise ValueError("another format")
            call = state.pop("call")
            rounds = [RoundReport(**each) for each in state.pop("rounds")]
            if set(state) != {each.name for each in fields(Progress)} - {"rounds"}:
                raise ValueError("other fields")
            progress = Progress(**state, rounds=rounds)
            _check_types(progress)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            raise ValueError(
                f"checkpoint: {self._path} is no checkpoint of lrgate.torch.sparsify: "
                "name another path, or delete the file"
            ) from error
        if call != self._call:
            raise ValueError(
                f"checkpoint: {self._path} is that of a call with another network, other rows or "
                "other options: repeat that call, or name another path"
            )
        return progress

    def write(self, progress: Progress) -> None:
        """Replace the file, atomically."""
        if self._path is None:
            return
        with replacing(self._path) as file:
            torch.save({"format": _FORMAT, "call": self._call, **asdict(progress)}, file)


def check_folder(path: Any) -> None:
    """Refuse a path whose folder does not exist: training would be lost when it is written."""
    if path is None:
        return
    try:
        folder = Path(path).absolute().parent
    except TypeError:
        raise TypeError(f"checkpoint must be a path, got {type(path).__name__}") from None
    if not folder.is_dir():
        raise FileNotFoundError(f"checkpoint: there is no folder {folder}")


def _check_types(progress: Progress) -> None:
    numbers = (progress.strength, progress.growth, progress.base_strength, progress.seconds)
    if not all(isinstance(value, float | int) for value in (*numbers, progress.epochs)):
        raise ValueError("not numbers")
    if not all(isinstance(value, float) for value in progress.seconds_per_product):
        raise ValueError("not numbers")


def _identity(problem: Problem) -> str:
    """A hash of network, rows, labels and options."""
    net = problem.net
    options = [
        problem.budget,
        problem.confidence,
        problem.batch_size,
        problem.learning_rate,
        problem.augment is not None,
        problem.seed,
        net.task,
        *(layer.activation.name for layer in net.layers),
    ]
    digest = hashlib.sha256(repr(options).encode())
    arrays: list[Any] = [array for layer in net.layers for array in (layer.weight, layer.bias)]
    arrays += [value for layer in net.layers for value in layer.activation.values]
    arrays += [net.input_scale, net.input_shift, *problem.parts.arrays()]
    for each in arrays:
        sparse = hasattr(each, "tocsr")
        for part in (each.data, each.indices, each.indptr) if sparse else (each,):
            values = np.asarray([] if part is None else part)
            digest.update(f"{values.dtype.str} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()

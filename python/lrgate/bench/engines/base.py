"""What an engine is, and how a network is made ready in one."""

from __future__ import annotations

import importlib.metadata
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrgate.network import Network
from lrgate.types import Float32Array

__all__ = [
    "Engine",
    "combinations_of",
    "make",
]


Forward = Callable[[Float32Array], Float32Array]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Engine:
    """One way to run a relu network.

    Attributes
    ----------
    name : str
    package : str
        The distribution whose version counts.
    precision : {"f32", "bf16", "int8"}
        Of the products.
    modules : tuple of str
        What is imported before `load`.
    store : callable (net, calibration rows, folder, settings) -> Path
        Writes the network's file, unless the folder has it.
    load : callable (path, rows a call, threads, settings) -> callable
        The result maps float32 (rows, d) to raw outputs, float32 (rows, k); it may overwrite them
        in its next call.
    grid : tuple of dict
        Settings to choose from. Those with ``spinning`` are for more than one thread.
    batch_dependent : bool
        Whether a row's result depends, beyond rounding, on the other rows of its call.
    """

    name: str
    package: str
    precision: str
    modules: tuple[str, ...]
    store: Callable[[Network, Float32Array, Path, Settings], Path]
    load: Callable[[Path, int, int, Settings], Any]
    grid: tuple[Settings, ...] = ({},)
    batch_dependent: bool = False

    def settings(self, threads: int) -> list[Settings]:
        """The settings to try on `threads` threads."""
        if threads > 1:
            return list(self.grid)
        alone = [each for each in self.grid if not each.get("spinning")]
        return [{k: v for k, v in each.items() if k != "spinning"} for each in alone]

    def version(self) -> str:
        """The version installed.

        Raises
        ------
        ImportError
            If it is not.
        """
        return importlib.metadata.version(self.package)


def make(
    engine: Engine,
    net: Network,
    calibration: Float32Array,
    threads: int = 1,
    settings: Settings | None = None,
    *,
    rows: int = 1,
) -> Forward:
    """A network in an engine: float32 (rows, d) to raw outputs (rows, k).

    Parameters
    ----------
    engine : Engine
    net : Network
        Of relu layers, the last linear; gates, plan and precision do not count.
    calibration : float32 array (n, d)
        Real rows that int8 engines fit scales to.
    threads : int
    settings : mapping, optional
        Of the engine's grid; its first by default.
    rows : int
        Rows of each call, for engines that compile for them.

    Raises
    ------
    ImportError
        If the engine is not installed.
    ValueError
        For another network.
    """
    settings = engine.grid[0] if settings is None else settings
    with tempfile.TemporaryDirectory() as folder:
        path = engine.store(net, calibration, Path(folder), settings)
        forward: Forward = engine.load(path, rows, threads, settings)
        # Some engines read their file as it is needed.
        forward(np.zeros((rows, net.input_size), np.float32))
        return forward


def combinations_of(**values: Sequence[Any]) -> tuple[Settings, ...]:
    """Every combination."""
    return tuple(
        dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())
    )

"""The interface of an engine, and the function that loads a network in one."""

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
    """One way to run a ReLU network.

    Attributes
    ----------
    name : str
    package : str
        The distribution whose version is reported.
    precision : {"f32", "bf16", "int8"}
        Precision of the matrix products.
    modules : tuple of str
        Modules to import before `load`.
    store : callable (net, calibration rows, folder, settings) -> Path
        Writes the network's file, unless it exists in the folder.
    load : callable (path, rows per call, threads, settings) -> callable
        Returns a function from float32 (rows, d) to raw outputs, float32 (rows, k). Its next call
        may overwrite the outputs.
    grid : tuple of dict
        Settings to choose from. Settings with ``spinning`` are tried only on several threads.
    batch_dependent : bool
        Whether the result of a row depends, beyond rounding, on the other rows of the call or on
        their number.
    documented : bool
        Whether it uses only calls that its package documents. Others are shown, but are never the
        best peer.
    """

    name: str
    package: str
    precision: str
    modules: tuple[str, ...]
    store: Callable[[Network, Float32Array, Path, Settings], Path]
    load: Callable[[Path, int, int, Settings], Any]
    grid: tuple[Settings, ...] = ({},)
    batch_dependent: bool = False
    documented: bool = True

    def settings(self, threads: int) -> list[Settings]:
        """The settings to try on `threads` threads."""
        if threads > 1:
            return list(self.grid)
        alone = [each for each in self.grid if not each.get("spinning")]
        return [{k: v for k, v in each.items() if k != "spinning"} for each in alone]

    def version(self) -> str:
        """The installed version.

        Raises
        ------
        ImportError
            If the package is not installed.
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
    """Load a network in an engine: a function from float32 (rows, d) to raw outputs (rows, k).

    Parameters
    ----------
    engine : Engine
    net : Network
        A network of ReLU layers and a linear last layer. Gates, plan and precision are ignored.
    calibration : float32 array (n, d)
        Real rows to which int8 engines fit their scales.
    threads : int
    settings : mapping, optional
        An entry of the engine's grid; the first by default.
    rows : int
        Rows per call, for engines that compile for a fixed shape.

    Raises
    ------
    ImportError
        If the engine is not installed.
    ValueError
        If the engine does not support the network.
    """
    settings = engine.grid[0] if settings is None else settings
    with tempfile.TemporaryDirectory() as folder:
        path = engine.store(net, calibration, Path(folder), settings)
        forward: Forward = engine.load(path, rows, threads, settings)
        # Some engines read their file lazily: call once before the folder is deleted.
        forward(np.zeros((rows, net.input_size), np.float32))
        return forward


def combinations_of(**values: Sequence[Any]) -> tuple[Settings, ...]:
    """Every combination of the values, as settings."""
    return tuple(
        dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())
    )

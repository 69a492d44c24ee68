"""Every engine that lrgate is compared with, by name."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Sequence
from typing import Final

from lrgate.bench.engines import (
    generated,
    jax,
    litert,
    numpy,
    onnxruntime,
    openvino,
    sklearn,
    torch,
    torchao,
)
from lrgate.bench.engines.base import Engine
from lrgate.bench.engines.lrgate import LRGATE

__all__ = [
    "by_name",
    "selected",
    "versions",
]


ENGINES: Final[tuple[Engine, ...]] = (
    *numpy.ENGINES,
    *sklearn.ENGINES,
    *torch.ENGINES,
    *torchao.ENGINES,
    *onnxruntime.ENGINES,
    *openvino.ENGINES,
    *litert.ENGINES,
    *generated.ENGINES,
    *jax.ENGINES,
)
"""Every engine, whether it is installed or not."""


def by_name(name: str) -> Engine:
    """Return the engine with this name; ``"lrgate"`` is one of them."""
    return next(engine for engine in (*ENGINES, LRGATE) if engine.name == name)


def selected(names: Sequence[str] | None) -> tuple[Engine, ...]:
    """Return the engines whose names start with one of `names`, ignoring case; all by default.

    Raises
    ------
    ValueError
        If no engine's name starts with one of the names.
    """
    if names is None:
        return ENGINES
    for name in names:
        if not any(engine.name.lower().startswith(name.lower()) for engine in ENGINES):
            known = ", ".join(engine.name for engine in ENGINES)
            raise ValueError(f"engines must be names or prefixes of {known}; got {name!r}")
    begins = tuple(name.lower() for name in names)
    return tuple(engine for engine in ENGINES if engine.name.lower().startswith(begins))


def versions() -> dict[str, str]:
    """Versions of the installed engines, by package."""
    found = {}
    for package in dict.fromkeys(engine.package for engine in ENGINES):
        with contextlib.suppress(ImportError):
            found[package] = importlib.metadata.version(package)
    return found

"""Names of the paths of layers (strategy and precision) in tables, plans and messages."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["path_name", "path_names"]


def path_name(strategy: str, precision: str, rank: int | None = None) -> str:
    """Name of a strategy with its precision and the rank of its gate.

    >>> path_name("gate", "int8", 64), path_name("skip", "f32")
    ('gate-int8 64', 'skip')
    """
    name = strategy if precision == "f32" else f"{strategy}-{precision}"
    return name if rank is None else f"{name} {rank}"


def path_names(strategies: Iterable[str], precisions: Iterable[str]) -> tuple[str, ...]:
    """Names of the paths of a plan's layers.

    >>> path_names(["gate", "skip"], ["int8", "f32"])
    ('gate-int8', 'skip')
    """
    return tuple(path_name(*pair) for pair in zip(strategies, precisions, strict=True))

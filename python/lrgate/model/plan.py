"""Plans: strategy and precision of each layer, by batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lrgate import _core
from lrgate.inputs import checked_integer
from lrgate.model.arrays import joined, set_field

__all__ = ["BatchPlan"]


# "dense", "skip" and "gate"; "f32" and "int8".
STRATEGIES: Final = _core.STRATEGIES
PRECISIONS: Final = _core.PRECISIONS

_MAX_ROWS: Final = 2**31 - 1


@dataclass(frozen=True)
class BatchPlan:
    """Strategies and precisions of the layers for calls of about `rows` rows.

    Parameters
    ----------
    rows : int
        Number of rows for which the plan was made, from 1 to 2147483647.
    strategies : tuple of str
        ``dense``, ``skip`` or ``gate``, one per layer.
    precisions : tuple of str
        ``f32`` or ``int8``, one per layer.

    Raises
    ------
    ValueError, TypeError
        If a value is invalid, or the tuples have unequal lengths.
    """

    rows: int
    strategies: tuple[str, ...]
    precisions: tuple[str, ...]

    def __post_init__(self) -> None:
        set_field(self, "rows", checked_integer(self.rows, "rows", 1, _MAX_ROWS))
        for name, known in (("strategies", STRATEGIES), ("precisions", PRECISIONS)):
            words = getattr(self, name)
            if isinstance(words, str) or not isinstance(words, tuple | list):
                raise TypeError(f"{name} must be a tuple of str, got {words!r}")
            for i, word in enumerate(words):
                if word not in known:
                    raise ValueError(f"{name}[{i}] must be one of {joined(known)}, got {word!r}")
            set_field(self, name, tuple(words))
        if len(self.precisions) != len(self.strategies):
            raise ValueError(
                f"precisions must have {len(self.strategies)} entries, one for each of strategies, "
                f"got {len(self.precisions)}"
            )

"""Plans: strategy and precision of each layer, by batch size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from lrgate import _core
from lrgate.inputs import checked_integer, checked_number
from lrgate.model.arrays import joined, set_field

__all__ = ["BatchPlan", "checked_margin", "with_skip", "without", "words"]


# "dense", "skip", "gate", "factor", "skip-factor", "factor-gate" and "skip-factor-gate"; "f32" and
# "int8".
STRATEGIES: Final = _core.STRATEGIES
PRECISIONS: Final = _core.PRECISIONS

_MAX_ROWS: Final = 2**31 - 1


def words(strategy: str) -> frozenset[str]:
    """The words of a strategy's name, of ``skip``, ``factor`` and ``gate``; none for dense.

    Examples
    --------
    >>> sorted(words("skip-factor")), sorted(words("dense"))
    (['factor', 'skip'], [])
    """
    return frozenset(strategy.split("-")) - {"dense"}


def without(strategy: str, word: str) -> str:
    """The strategy without skip, whose outputs are the same, or without gate.

    Examples
    --------
    >>> without("factor-gate", "gate"), without("skip", "skip")
    ('factor', 'dense')
    """
    return _named(words(strategy) - {word})


def with_skip(strategy: str) -> str:
    """The strategy with skip; a gate without factors always skips.

    Examples
    --------
    >>> with_skip("dense"), with_skip("gate")
    ('skip', 'gate')
    """
    if words(strategy) == {"gate"}:
        return strategy
    return _named(words(strategy) | {"skip"})


def _named(used: frozenset[str]) -> str:
    return next(name for name in STRATEGIES if words(name) == used)


@dataclass(frozen=True)
class BatchPlan:
    """Strategies and precisions of the layers, and margins, for calls of about `rows` rows.

    Parameters
    ----------
    rows : int
        Number of rows for which the plan was made, from 1 to 2147483647.
    strategies : tuple of str
        One per layer: ``dense``, ``skip`` or ``gate``; with factors ``factor``, or ``skip-factor``
        to skip zero inputs; with a nested gate ``factor-gate`` or ``skip-factor-gate``.
    precisions : tuple of str
        ``f32`` or ``int8``, one per layer.
    least_margin : float, optional
        Rows with a smaller margin between labels are recomputed; see `Network.with_least_margin`.
        At most that of the network, which is used if it is None. It is rounded to float32.
    int8_margin : float, optional
        How rows are recomputed: those with a small margin, and those outside the range of the bytes
        of an int8 layer. None: in float32. Otherwise without gates and factors at the precisions of
        the plan; those that then have a margin below this one, or are out of range again, in
        float32. It is rounded to float32. It becomes None in a plan without int8, or without gates
        and factors. It has no effect where the least margin is 0.

    Raises
    ------
    ValueError, TypeError
        If a value is invalid, or the tuples have unequal lengths.
    """

    rows: int
    strategies: tuple[str, ...]
    precisions: tuple[str, ...]
    least_margin: float | None = None
    int8_margin: float | None = None

    def __post_init__(self) -> None:
        set_field(self, "rows", checked_integer(self.rows, "rows", 1, _MAX_ROWS))
        for name, known in (("strategies", STRATEGIES), ("precisions", PRECISIONS)):
            given = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, tuple | list):
                raise TypeError(f"{name} must be a tuple of str, got {given!r}")
            for i, word in enumerate(given):
                if word not in known:
                    raise ValueError(f"{name}[{i}] must be one of {joined(known)}, got {word!r}")
            set_field(self, name, tuple(given))
        if len(self.precisions) != len(self.strategies):
            raise ValueError(
                f"precisions must have {len(self.strategies)} entries, one for each of strategies, "
                f"got {len(self.precisions)}"
            )
        for name in ("least_margin", "int8_margin"):
            if getattr(self, name) is not None:
                set_field(self, name, checked_margin(getattr(self, name), name))
        approximates = any(words(name) & {"gate", "factor"} for name in self.strategies)
        if not approximates or "int8" not in self.precisions:
            set_field(self, "int8_margin", None)


def checked_margin(least: object, name: str = "least_margin") -> float:
    """Check a least margin; returns it rounded to float32."""
    value = checked_number(least, name)
    with np.errstate(over="ignore"):
        rounded = float(np.float32(value))
    if not (value >= 0 and rounded < math.inf):
        raise ValueError(f"{name} must be finite and at least 0, got {least}")
    return rounded + 0.0  # no -0.0

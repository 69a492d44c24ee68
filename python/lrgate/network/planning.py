"""Checks of the strategies and precisions that users set by hand."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from lrgate import inputs
from lrgate.model.arrays import joined
from lrgate.model.layer import Layer, missing_part
from lrgate.model.plan import PRECISIONS, STRATEGIES, words

__all__ = ["checked_precisions", "checked_strategies"]


def checked_strategies(strategies: Any, layers: Sequence[Layer]) -> list[str]:
    """Check that there is one strategy per layer, which has the parts that it needs."""
    if isinstance(strategies, str):
        usage = _for_all(strategies, layers)
        raise TypeError(
            f"strategies must be a sequence of names, one per layer, got {strategies!r}{usage}"
        )
    if isinstance(strategies, Set):  # has no order
        raise TypeError("strategies must be a sequence of names, got set")
    names = inputs.as_list(strategies, "strategies", "names")
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"strategies must be a sequence of names, got {names!r}")
    if len(names) != len(layers):
        raise ValueError(
            f"strategies must have {len(layers)} entries, one per layer, got {len(names)}"
        )
    for i, (name, layer) in enumerate(zip(names, layers, strict=True)):
        if name not in STRATEGIES:
            raise ValueError(f"strategies[{i}] must be one of {joined(STRATEGIES)}, got {name!r}")
        missing = missing_part(layer, f"layers[{i}]", name)
        if missing is not None:
            *most, last = (one for one in STRATEGIES if missing_part(layer, "", one) is None)
            raise ValueError(
                f"strategies[{i}] must be {joined(most)} or {last}, since {missing}, got {name!r}"
            )
    return names


def _for_all(name: str, layers: Sequence[Layer]) -> str:
    """A hint for an error message: how to use one strategy in all layers that support it."""
    if name not in STRATEGIES:
        return ""
    able = [missing_part(layer, "", name) is None for layer in layers]
    if all(able):
        return f": write {[name]} * {len(layers)}"
    if any(able):
        return f": write {[name if one else 'dense' for one in able]}"
    part = "factors: see with_factors" if "factor" in words(name) else "a gate: see with_gates"
    return f", and no layer has {part}"


def checked_precisions(
    precision: str | Sequence[str], strategies: Sequence[str], layers: Sequence[Layer]
) -> list[str]:
    """Check that there is one precision per layer, and `"int8"` only where int8 is possible."""
    if isinstance(precision, str):
        precisions = [precision] * len(layers)
    elif isinstance(precision, Sequence):
        precisions = list(precision)
    else:
        raise TypeError(
            f"precision must be a name or a sequence of names, got {type(precision).__name__}"
        )
    if len(precisions) != len(layers):
        raise ValueError(
            f"precision must have {len(layers)} entries, one per layer, got {len(precisions)}"
        )
    for i, (word, strategy, layer) in enumerate(zip(precisions, strategies, layers, strict=True)):
        if word not in PRECISIONS:
            raise ValueError(f"precision[{i}] must be 'f32' or 'int8', got {word!r}")
        missing = missing_part(layer, f"layers[{i}]", strategy, word)
        if missing is not None:
            raise ValueError(f"precision[{i}] must be 'f32', since {missing}, got 'int8'")
    return precisions

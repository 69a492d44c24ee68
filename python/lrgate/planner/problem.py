"""The problem that one run of `optimize` solves: network, rows and request."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from lrgate.model.layer import Layer
from lrgate.network import Network
from lrgate.planner import merging, negligible
from lrgate.planner.plans import of_layers
from lrgate.planner.split import Split

__all__ = [
    "LARGE",
    "Problem",
    "Request",
]


# Multiply-adds per row. Networks with more keep the order of their units, and fewer rows are
# profiled for the report.
LARGE: Final = 8_000_000


@dataclass(frozen=True)
class Request:
    """The arguments of `optimize`, checked."""

    budget: float
    confidence: float
    max_row_error: float | None
    sizes: tuple[int, ...]
    precision: str
    prune: str
    threads: int
    seed: int
    ranks: tuple[int, ...]
    ranks_given: bool
    factors: str


@dataclass(frozen=True, eq=False)
class Problem:
    """Networks, rows and request, with the notes and the progress of the run.

    Attributes
    ----------
    user : Network
        The caller's network, without gates.
    base : Network
        The same with negligible weights set to zero, and consecutive linear layers merged where
        that pays: layers are counted in it.
    split : Split
    request : Request
    bar : progress bar
    notes : list of str
        For the report.
    """

    user: Network
    base: Network
    split: Split
    request: Request
    bar: Any
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, user: Network, split: Split, request: Request, bar: Any) -> Problem:
        """The problem with all layers of the user, and negligible weights set to zero."""
        layers = _without_negligible(user, split.fit)
        if layers is None:
            return cls(user, user, split, request, bar)
        count = negligible.count_small(user.layers)
        note = (
            f"weights and biases below {negligible.SMALL:.1g} are zero ({count} values): on rows "
            f"up to {negligible.REACH:,.0f} times as large as the rows that fit, outputs change "
            "by less than 1e-12 of their standard deviation"
        )
        base = of_layers(user, layers, user.input_range)
        return cls(user, base, split, request, bar, [note])

    def merged(self) -> Problem | None:
        """The problem with consecutive linear layers merged; None if that is not less work."""
        layers, spans = merging.merged(self.base.layers)
        if len(layers) == len(self.base.layers):
            return None
        named = ", ".join(f"{first} to {last}" for first, last in spans if first < last)
        note = (
            f"merged the consecutive linear layers {named}; layer numbers below refer to the "
            "merged network"
        )
        base = of_layers(self.base, layers, self.base.input_range)
        return replace(self, base=base, notes=[*self.notes, note])

    @cached_property
    def work(self) -> int:
        """Multiply-adds per row."""
        return sum(layer.multiply_adds for layer in self.base.layers)

    @property
    def is_large(self) -> bool:
        """Whether a row takes more than `LARGE` multiply-adds."""
        return self.work > LARGE

    def step(self, text: str) -> None:
        """Shows the next step of the run."""
        self.bar.update(1)
        self.bar.set_description(text)


def _without_negligible(network: Network, rows: Any) -> list[Layer] | None:
    """The layers with negligible weights set to zero; None if there are none.

    `rows` are raw rows, which the network's outputs and inputs are measured on.
    """
    layers = network.layers
    if negligible.count_small(layers) == 0:
        return None
    scale, shift = network.input_scale, network.input_shift
    largest = np.full(network.input_size, float(abs(rows).max()))
    largest *= 1.0 if scale is None else np.abs(scale)
    largest += 0.0 if shift is None else np.abs(shift)
    outputs = network.forward(rows).astype(np.float64)
    outputs = outputs[np.isfinite(outputs).all(axis=1)]
    return negligible.without_small(layers, largest, outputs.std(axis=0)) if len(outputs) else None

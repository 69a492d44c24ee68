"""The problem that one run of `optimize` solves: network, rows and request."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

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
        The same with consecutive linear layers merged, and negligible weights zero: layers are
        counted in it.
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
        layers, spans = merging.merged(user.layers)
        if len(layers) == len(user.layers):
            return cls(user, user, split, request, bar)
        named = ", ".join(f"{first} to {last}" for first, last in spans if first < last)
        note = (
            f"merged the consecutive linear layers {named}; layer numbers below refer to the "
            "merged network"
        )
        base = of_layers(user, layers, user.input_range)
        return cls(user, base, split, request, bar, [note])

    def without_negligible_weights(self) -> Problem:
        """The problem with negligible weights of the base set to zero, if there are any."""
        layers = self.base.layers
        count = negligible.count_small(layers)
        if count == 0:
            return self
        rows, scale, shift = self.split.fit, self.base.input_scale, self.base.input_shift
        largest = np.full(self.base.input_size, float(abs(rows).max()))
        largest *= 1.0 if scale is None else np.abs(scale)
        largest += 0.0 if shift is None else np.abs(shift)
        spread = np.std(self.base.forward(rows), axis=0, dtype=np.float64)
        made = negligible.without_small(layers, largest, spread)
        if made is None:
            return self
        base = of_layers(self.base, made, self.base.input_range)
        note = (
            f"{count} weights and biases below {negligible.SMALL:.1g} are zero: on rows up to "
            f"{negligible.REACH:,.0f} times as large as these, outputs change by less than a "
            "rounding error"
        )
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

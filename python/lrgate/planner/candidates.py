"""Gates and factors that might be used, and the choices among them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from lrgate.inputs.sparse import SparseInputs
from lrgate.model.layer import Factors, Gate
from lrgate.types import Float32Array, Float64Array, IntArray

__all__ = [
    "Candidate",
    "choices_on_front",
    "names_of",
    "parts_of",
]


# A gate or factors must promise to be this much faster than the layer's fastest exact strategy.
PROMISE: Final = 0.97


@dataclass(frozen=True, eq=False)
class Candidate:
    """A gate or factors for one layer.

    Attributes
    ----------
    part : Gate or Factors
        For all units of the layer.
    estimator : str
        The method that fitted it.
    lost_energy : float
        Of a gate: asked of the threshold, on the rows that choose. Of factors: the squared error of
        the layer's outputs on these rows, relative to their energy.
    seconds : float64 array (batch sizes,)
        Time of the layer per row.
    divergence : float
        Of the network's outputs from the dense ones where this part alone is used.
    """

    part: Gate | Factors
    estimator: str
    lost_energy: float
    seconds: Float64Array
    divergence: float = 0.0

    def beats(self, other: Candidate) -> bool:
        """Whether it is nowhere worse and somewhere better."""
        mine = np.append(self.seconds, self.lost_energy)
        others = np.append(other.seconds, other.lost_energy)
        return bool((mine <= others).all() and (mine < others).any())


# A choice with more divergence must save this share of the network's time. Bisection evaluates some
# of the choices, and their outputs are kept meanwhile.
_LEAST_STEP: Final = 0.002
_MOST_CHOICES: Final = 64

Choice = dict[int, Candidate]

# A layer's inputs, as estimators take them.
Inputs = Float32Array | SparseInputs


@dataclass(frozen=True, eq=False)
class _Front:
    """Combinations of candidates for some layers of which no other one is better in both sums.

    Attributes
    ----------
    divergence, cost : float64 array (n,)
        Sums over the layers. Costs are times relative to those of the exact plan, over all batch
        sizes. With rising divergence they fall.
    picks : int array (n, layers)
        For each layer the position of its candidate, or -1.
    """

    divergence: Float64Array
    cost: Float64Array
    picks: IntArray

    def with_layer(self, divergence: Float64Array, cost: Float64Array) -> _Front:
        """The combinations with one layer more, whose first candidate is none."""
        sums = np.add.outer(self.divergence, divergence).ravel()
        costs = np.add.outer(self.cost, cost).ravel()
        order = np.lexsort((costs, sums))
        least = np.minimum.accumulate(costs[order])
        kept = order[np.append(True, least[1:] < least[:-1])]
        before, own = np.divmod(kept, len(cost))
        picks = np.concatenate([self.picks[before], own[:, None] - 1], axis=1)
        return _Front(sums[kept], costs[kept], picks)

    def thinned(self, step: float, rest: float) -> _Front:
        """Without combinations that save less than this share of the whole.

        They are compared with the next less divergent one. The layers to come cost at least `rest`.
        """
        kept: list[int] = []
        for at, cost in enumerate(self.cost):
            if not kept or cost + rest < (1 - step) * (self.cost[kept[-1]] + rest):
                kept.append(at)
        return self._of(np.array(kept, np.intp))

    def at_most(self, count: int) -> _Front:
        """At most so many of the combinations, evenly spaced, with the first and the last one."""
        size = len(self.cost)
        return self._of(np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int)))

    def _of(self, kept: IntArray) -> _Front:
        return _Front(self.divergence[kept], self.cost[kept], self.picks[kept])


def choices_on_front(options: dict[int, list[Candidate]], exact: Float64Array) -> list[Choice]:
    """Choices that no other one beats in both time and divergence: fastest first.

    Both are taken as sums over the layers. Each batch size uses a layer's part where it is at least
    3 % faster. Times are relative to the fastest exact plan of the batch size. Choices that save
    next to nothing over a less divergent one are left out.
    """
    totals = np.maximum(exact.sum(axis=0), np.finfo(float).tiny)
    known = {i: [c for c in found if math.isfinite(c.divergence)] for i, found in options.items()}
    costs = {}
    for i, found in known.items():
        seconds = np.array([exact[i], *(c.seconds for c in found)])
        seconds = np.where(seconds < PROMISE * exact[i], seconds, exact[i])
        costs[i] = np.asarray((seconds / totals).sum(axis=1))
    others = [i for i in range(len(exact)) if i not in known]
    rest = float((exact[others] / totals).sum() + sum(each.min() for each in costs.values()))
    front = _Front(np.zeros(1), np.zeros(1), np.zeros((1, 0), np.intp))
    for i, found in known.items():
        rest -= float(costs[i].min())
        divergence = np.array([0.0, *(max(c.divergence, 0.0) for c in found)])
        front = front.with_layer(divergence, costs[i]).thinned(_LEAST_STEP / len(known), rest)
    front = front.thinned(_LEAST_STEP, rest).at_most(_MOST_CHOICES)
    return [
        {i: known[i][k] for i, k in zip(known, picks, strict=True) if k >= 0}
        for picks in front.picks[::-1]
        if (picks >= 0).any()
    ]


def names_of(choice: Choice) -> tuple[tuple[int, int], ...]:
    """The parts of a choice, by which it is compared with others."""
    return tuple(sorted((i, id(candidate.part)) for i, candidate in choice.items()))


def parts_of(choice: Choice) -> dict[int, Gate | Factors]:
    return {i: candidate.part for i, candidate in choice.items()}

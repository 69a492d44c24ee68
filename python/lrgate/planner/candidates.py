"""Gates and factors that might be used, and the choices among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from lrgate.inputs.sparse import SparseInputs
from lrgate.model.layer import Factors, Gate
from lrgate.types import Float32Array, Float64Array

__all__ = [
    "Candidate",
    "choices_by_price",
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


Choice = dict[int, Candidate]

# A layer's inputs, as estimators take them.
Inputs = Float32Array | SparseInputs


def choices_by_price(options: dict[int, list[Candidate]], exact: Float64Array) -> list[Choice]:
    """Choices for prices on divergence from none to a high one, without repeats: fastest first.

    A batch size uses a layer's part where the gain in time is worth the divergence; a layer has
    one gate or one pair of factors for all batch sizes. Times are relative to the fastest exact
    plan of the batch size.
    """
    totals = exact.sum(axis=0)
    choices: list[Choice] = []
    for price in [0.0, *np.geomspace(1e-3, 1e7, 81)]:
        choice: Choice = {}
        for i, found in options.items():
            least = float((exact[i] / totals).sum())
            for candidate in found:
                gated = (candidate.seconds + price * candidate.divergence * totals) / totals
                promised = candidate.seconds < PROMISE * exact[i]
                cost = float(
                    np.where(
                        promised, np.minimum(gated, exact[i] / totals), exact[i] / totals
                    ).sum()
                )
                if cost < least:
                    least, choice[i] = cost, candidate
        if choice and (not choices or names_of(choice) != names_of(choices[-1])):
            choices.append(choice)
    return choices


def names_of(choice: Choice) -> list[tuple[int, int]]:
    return sorted((i, id(candidate)) for i, candidate in choice.items())


def parts_of(choice: Choice) -> dict[int, Gate | Factors]:
    return {i: candidate.part for i, candidate in choice.items()}

"""The time of a network that skips zero inputs, as a function of its sparsity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lrgate.network import Network
from lrgate.planner.clock import cycled
from lrgate.types import Float64Array

__all__ = ["Costs", "Sparsity", "sparsity_of"]

_ROWS: Final = 256
_PART: Final = 1024
_LAYER_SECONDS: Final = 0.02


@dataclass(frozen=True, eq=False)
class Sparsity:
    """Non-zero values of a network on some rows.

    Attributes
    ----------
    inputs : float64 array (layers,)
        The mean number of non-zero inputs of each layer.
    units : tuple of int
        Units of each layer.
    on : list of float64 arrays (units,)
        For each hidden layer, the share of the rows on which each unit is not zero.
    """

    inputs: Float64Array
    units: tuple[int, ...]
    on: list[Float64Array]

    @property
    def work(self) -> float:
        """Multiply-adds per row that are left if zero inputs are skipped."""
        return float(self.inputs @ np.array(self.units))

    @property
    def densities(self) -> tuple[float, ...]:
        """Share of the hidden layers' outputs that are not zero."""
        return tuple(float(each.mean()) for each in self.on)


def sparsity_of(network: Network, rows: Any) -> Sparsity:
    """The sparsity of a dense network on raw rows."""
    counts = [np.zeros(layer.outputs) for layer in network.layers[:-1]]
    first = 0.0
    for part in _parts_of(rows):
        first += part.nnz if hasattr(part, "nnz") else np.count_nonzero(part)
        for count, values in zip(counts, network.layer_inputs(part)[1:], strict=True):
            count += np.count_nonzero(values, axis=0)
    on = [count / rows.shape[0] for count in counts]
    inputs = np.array([first / rows.shape[0], *(each.sum() for each in on)])
    return Sparsity(inputs, tuple(layer.outputs for layer in network.layers), on)


def _parts_of(rows: Any) -> Iterator[Any]:
    """The rows, some at a time."""
    for at in range(0, rows.shape[0], _PART):
        yield rows[at : at + _PART]


@dataclass(frozen=True)
class Costs:
    """Seconds per multiply-add of each layer, relative to the time of the given network.

    The time of a layer is proportional to its non-zero inputs and to its units.
    """

    seconds: tuple[float, ...]

    @classmethod
    def measured(cls, network: Network, rows: Any, sparsity: Sparsity) -> Costs:
        """From the times of the layers, one row per call, that skip zero inputs."""
        count = len(network.layers)
        skipping = network.with_strategies(["skip"] * count)
        some = cycled(rows, _ROWS)[:_ROWS]
        times = np.array(skipping.engine.layer_seconds(some, 1, _LAYER_SECONDS))
        work = np.maximum(sparsity.inputs * np.array(sparsity.units), 1.0)
        return cls(tuple((times / times.sum() / work).tolist()))

    def time(self, sparsity: Sparsity) -> float:
        """The time, 1 for the given network."""
        return float(np.sum(np.array(self.seconds) * sparsity.inputs * np.array(sparsity.units)))

    def of_active(self, units: Sequence[int]) -> list[float]:
        """The time of one active unit in each hidden layer: its products in the next layer."""
        return [seconds * count for seconds, count in zip(self.seconds[1:], units[1:], strict=True)]

    def of_units(self, sparsity: Sparsity) -> list[Float64Array]:
        """The time (units,) that leaving out a unit saves, in each hidden layer."""
        active = self.of_active(sparsity.units)
        return [
            self.seconds[i] * float(sparsity.inputs[i]) + active[i] * on
            for i, on in enumerate(sparsity.on)
        ]

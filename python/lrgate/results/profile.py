"""The result of :meth:`lrgate.Network.profile`: path, density and time of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrgate.results.paths import path_name
from lrgate.results.table import Column, Table, Tabular, microseconds

__all__ = ["LayerProfile", "Profile", "layer_cells"]

_COLUMNS = (
    Column("#"),
    Column("layer", left=True),
    Column("strategy", left=True),
    Column("in", ".3f"),
    Column("out", ".3f"),
    Column("units", ".3f"),
    Column("recall", ".3f"),
    Column("lost", ".4f"),
    Column("FLOPs", ".3f"),
    Column("us/row", microseconds),
)


@dataclass(frozen=True)
class LayerProfile:
    """Strategy, densities and time of one layer.

    Attributes
    ----------
    inputs, outputs : int
        Number of inputs and of units.
    strategy : str
        As in a :class:`~lrgate.BatchPlan`: ``"dense"``, ``"skip"``, ``"gate"``, ``"factor"``, ...
    precision : str
        ``"f32"`` or ``"int8"``.
    rank : int or None
        Rank of the gate or of the factors, if they were used.
    density_in, density_out : float
        Share of non-zero inputs and outputs.
    computed_share : float
        Share of the units that were computed.
    recall : float or None
        Gate: share of the positive units that were computed.
    lost_energy : float or None
        Gate: sum of squares of the wrongly dropped positive outputs, divided by that of all
        positive outputs.
    flop_share : float
        Multiply-adds, including those of the gate or of both factors, divided by those of the dense
        layer. The paper's cost model of a gate is ``rank (d + h) / (d h) + computed share`` (Davis
        and Arel 2013).
    seconds_per_row : float
        Median time on one thread. For the first layer, it excludes reading the rows: finding
        non-zeros, converting uint8.
    """

    inputs: int
    outputs: int
    strategy: str
    precision: str
    rank: int | None
    density_in: float
    density_out: float
    computed_share: float
    recall: float | None
    lost_energy: float | None
    flop_share: float
    seconds_per_row: float


@dataclass(frozen=True)
class Profile(Tabular):
    """A profile of all layers; ``print`` shows it as a table.

    Attributes
    ----------
    layers : tuple of LayerProfile
        Profiles of the layers in order.
    rows, batch_size : int
        Number of profiled rows, and rows per call.
    instruction_set : str
        Instruction set in use.
    """

    layers: tuple[LayerProfile, ...]
    rows: int
    batch_size: int
    instruction_set: str

    @property
    def seconds_per_row(self) -> float:
        """Sum of the times of the layers on one thread."""
        return sum(layer.seconds_per_row for layer in self.layers)

    def table(self) -> Table:
        """One row per layer; times in seconds."""
        return Table(
            _COLUMNS,
            [
                (*layer_cells(i, layer), layer.seconds_per_row)
                for i, layer in enumerate(self.layers)
            ],
        )

    def _parts(self) -> list[str | Table]:
        total = microseconds(self.seconds_per_row)
        run = f"{self.rows} rows, {self.batch_size} per call, {self.instruction_set}, one thread"
        return [self.table(), f"{run}: {total} us/row"]


def layer_cells(i: int, layer: Any) -> tuple[Any, ...]:
    """The cells that the tables of profiles and of optimize have in common for layer `i`."""
    return (
        i,
        f"{layer.inputs}-{layer.outputs}",
        path_name(layer.strategy, layer.precision, layer.rank),
        layer.density_in,
        layer.density_out,
        layer.computed_share,
        layer.recall,
        layer.lost_energy,
        layer.flop_share,
    )

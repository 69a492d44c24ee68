"""The result of :meth:`lrgate.Network.profile`: path, density and time of each layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lrgate.results.paths import path_name
from lrgate.results.table import Column, Table, microseconds

__all__ = ["LayerProfile", "Profile"]

_COLUMNS = (
    Column("#"),
    Column("layer", left=True),
    Column("strategy", left=True),
    Column("in", ".3f"),
    Column("out", ".3f"),
    Column("computed", ".3f"),
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
        ``"dense"``, ``"skip"`` or ``"gate"``.
    precision : str
        ``"f32"`` or ``"int8"``.
    rank : int or None
        Rank of the gate, if it was used.
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
        Multiply-adds, including those of the gate, divided by those of the dense layer. The paper's
        cost model is ``rank (d + h) / (d h) + computed share`` (Davis and Arel 2013).
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
class Profile:
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

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as plain data."""
        return asdict(self)

    def table(self) -> Table:
        """One row per layer; times in seconds."""
        return Table(
            _COLUMNS,
            [
                (
                    i,
                    f"{layer.inputs}-{layer.outputs}",
                    path_name(layer.strategy, layer.precision, layer.rank),
                    layer.density_in,
                    layer.density_out,
                    layer.computed_share,
                    layer.recall,
                    layer.lost_energy,
                    layer.flop_share,
                    layer.seconds_per_row,
                )
                for i, layer in enumerate(self.layers)
            ],
        )

    def _about(self) -> str:
        total = microseconds(self.seconds_per_row)
        what = f"{self.rows} rows, {self.batch_size} per call, {self.instruction_set}, one thread"
        return f"{what}: {total} us/row"

    def __str__(self) -> str:
        """A table of at most 80 columns."""
        return f"{self.table()}\n{self._about()}"

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        return f"{self.table()._repr_html_()}<p>{self._about()}</p>"

    def to_dataframe(self) -> Any:
        """One row per layer, as a ``pandas.DataFrame``.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        return self.table().to_dataframe()

"""What each layer of a network did on some rows: the result of :meth:`lrgate.Network.profile`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_HEADER = " #  layer     strategy     in    out  computed  recall    lost  FLOPs   us/row"


@dataclass(frozen=True)
class LayerProfile:
    """One layer's strategy, shares and time.

    Attributes
    ----------
    inputs, outputs : int
        Width of the layer's input and number of its units.
    strategy : str
        ``"dense"``, ``"skip"`` or ``"gate"``.
    precision : str
        ``"f32"`` or ``"int8"``.
    rank : int or None
        Rank of the gate, where it was used.
    density_in, density_out : float
        Share of inputs and outputs that were not zero.
    computed_share : float
        Share of the units that were computed.
    recall : float or None
        Gate: share of the truly positive units that were computed.
    lost_energy : float or None
        Gate: squares of the positive outputs it wrongly dropped, over the squares of all positive
        outputs.
    flop_share : float
        Multiply-adds done, over those of the dense layer; the estimate's included. The paper's cost
        model is ``rank (d + h) / (d h) + computed share`` (Davis and Arel 2013).
    seconds_per_row : float
        Median, on one thread. The first layer's leaves out reading the rows: finding their
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

    def __str__(self) -> str:
        """One line of the table, without the layer's number; an 8 stands for int8."""
        strategy = f"{self.strategy}8" if self.precision == "int8" else self.strategy
        strategy = strategy if self.rank is None else f"{strategy} {self.rank}"
        return (
            f"{f'{self.inputs}-{self.outputs}':<9} {strategy:<9} {self.density_in:6.3f} "
            f"{self.density_out:6.3f}  {self.computed_share:8.3f}  "
            f"{_optional(self.recall, '6.3f')}  {_optional(self.lost_energy, '6.4f')} "
            f"{self.flop_share:6.3f} {self.seconds_per_row * 1e6:8.2f}"
        )


@dataclass(frozen=True)
class Profile:
    """A profile of all layers; ``print`` shows it as a table.

    Attributes
    ----------
    layers : tuple of LayerProfile
        In order.
    rows, batch_size : int
        Rows profiled, and rows per call.
    instruction_set : str
        What ran.
    """

    layers: tuple[LayerProfile, ...]
    rows: int
    batch_size: int
    instruction_set: str

    @property
    def seconds_per_row(self) -> float:
        """Sum of the layers' times, on one thread."""
        return sum(layer.seconds_per_row for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        """A table of at most 80 columns."""
        lines = [_HEADER]
        lines += [f"{i:>2}  {layer}" for i, layer in enumerate(self.layers)]
        total = f"{self.seconds_per_row * 1e6:7.2f}"
        what = f"{self.rows} rows, {self.batch_size} a call, {self.instruction_set}, one thread"
        lines.append(f"    {what:<{len(_HEADER) - 4 - len(total)}}{total}")
        return "\n".join(lines)


def _optional(value: float | None, form: str) -> str:
    return f"{'-':>6}" if value is None else format(value, form)

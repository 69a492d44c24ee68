"""Where the time of calls goes: the result of :meth:`lrgate.Network.phases`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from lrgate.results.table import Column, Table

__all__ = [
    "Peaks",
    "PhaseProfile",
    "Phases",
]


_COLUMNS: Final = (
    Column("#", missing=""),
    Column("phase", left=True),
    Column("us/row", lambda seconds: f"{seconds * 1e6:.3f}"),
    Column("bytes/row", ",.0f", missing=""),
    Column("ops/row", ",.0f", missing=""),
    Column("bound us", lambda seconds: f"{seconds * 1e6:.3f}", missing=""),
    Column("bound by", left=True, missing=""),
    Column("share", ".2f", missing=""),
)


@dataclass(frozen=True)
class Peaks:
    """What one core does at best with the instruction set in use, measured.

    Attributes
    ----------
    caches : dict from str to int
        Bytes that ``"L1"``, ``"L2"`` and ``"L3"`` hold, as far as they are known.
    bandwidth : dict from str to float
        Bytes loaded a second from half of each of them, and from ``"memory"``.
    operations : dict from str to float
        Operations a second, a multiply-add being two, on ``"f32"`` and on ``"int8"``.
    """

    caches: dict[str, int]
    bandwidth: dict[str, float]
    operations: dict[str, float]

    def level(self, size: float) -> str:
        """The first level that holds `size` bytes."""
        return next((name for name, held in self.caches.items() if size <= held), "memory")


@dataclass(frozen=True)
class PhaseProfile:
    """One phase of one layer; all figures are per row, averages over the rows.

    Attributes
    ----------
    layer : int or None
        The layer it works for; None for what belongs to the whole call.
    phase : str
        What it does; two names joined by ``+`` are one kernel, whose parts cannot be told apart.
    seconds : float
        Median time, on one thread.
    bytes, operations : float or None
        What it must read, write and compute, a multiply-add being two operations.
    bound_seconds : float or None
        The least time that this takes here: the longer of loading and computing.
    bound_by : str or None
        Which of the two: ``"memory"`` or ``"compute"``.
    """

    layer: int | None
    phase: str
    seconds: float
    bytes: float | None = None
    operations: float | None = None
    bound_seconds: float | None = None
    bound_by: str | None = None

    @property
    def share_of_bound(self) -> float | None:
        """The bound over the time: 1 where nothing is left to gain."""
        if self.bound_seconds is None or self.seconds == 0:
            return None
        return self.bound_seconds / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {**asdict(self), "share_of_bound": self.share_of_bound}


@dataclass(frozen=True)
class Phases:
    """All phases of a network; ``print`` shows them as a table.

    Attributes
    ----------
    phases : tuple of PhaseProfile
        In the order of layers; then the rest of the core's call, the conversion of the rows, where
        they cannot be used in place, and Python.
    rows, batch_size : int
        Rows profiled, and rows per call.
    instruction_set : str
        What ran.
    weight_bytes : float
        Bytes of the weights that any of the rows needs.
    level : str
        The cache that holds them: weights are taken to be loaded from it, all else from L1.
    peaks : Peaks
        What bounds rest on.
    """

    phases: tuple[PhaseProfile, ...]
    rows: int
    batch_size: int
    instruction_set: str
    weight_bytes: float
    level: str
    peaks: Peaks

    @property
    def seconds_per_row(self) -> float:
        """Sum of the phases: what ``net(x)`` takes, on one thread."""
        return sum(phase.seconds for phase in self.phases)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        phases = [phase.to_dict() for phase in self.phases]
        return {**asdict(self), "phases": phases, "seconds_per_row": self.seconds_per_row}

    def table(self) -> Table:
        """One row per phase, and their sum; times in seconds per row."""
        rows: list[tuple[Any, ...]] = [
            (
                phase.layer,
                phase.phase,
                phase.seconds,
                phase.bytes,
                phase.operations,
                phase.bound_seconds,
                phase.bound_by,
                phase.share_of_bound,
            )
            for phase in self.phases
        ]
        rows.append((None, "all", self.seconds_per_row, *[None] * 5))
        return Table(_COLUMNS, rows)

    def _about(self) -> list[str]:
        peaks = self.peaks
        bandwidth = ", ".join(f"{name} {rate * 1e-9:.0f}" for name, rate in peaks.bandwidth.items())
        rates = ", ".join(f"{name} {rate * 1e-9:,.0f}" for name, rate in peaks.operations.items())
        return [
            f"{self.rows} rows, {self.batch_size} a call, {self.instruction_set}, one thread",
            f"weights in use: {self.weight_bytes * 1e-6:.2f} MB, in {self.level}",
            f"measured here, GB/s: {bandwidth}",
            f"measured here, 1e9 operations/s: {rates}",
        ]

    def __str__(self) -> str:
        """A table of at most 80 columns."""
        return "\n".join([str(self.table()), *self._about()])

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        return f"{self.table()._repr_html_()}<p>{'<br>'.join(self._about())}</p>"

    def to_dataframe(self) -> Any:
        """One row per phase, as a ``pandas.DataFrame``.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        return self.table().to_dataframe()

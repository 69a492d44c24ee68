"""The result of :meth:`lrgate.Network.phases`: times and bounds of the phases of calls."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from lrgate.results.table import Column, Table, Tabular

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
    """Measured peak rates of one core with the instruction set in use.

    Attributes
    ----------
    caches : dict from str to int
        Sizes of ``"L1"``, ``"L2"`` and ``"L3"`` in bytes, if known.
    bandwidth : dict from str to float
        Bytes loaded per second from a buffer of half the size of each cache, and from ``"memory"``.
    operations : dict from str to float
        Operations per second in ``"f32"`` and ``"int8"``, and in ``"int8 tiles"`` where the CPU
        has AMX; a multiply-add counts as two.
    """

    caches: dict[str, int]
    bandwidth: dict[str, float]
    operations: dict[str, float]

    def level(self, size: float) -> str:
        """The first level that holds `size` bytes."""
        return next((name for name, held in self.caches.items() if size <= held), "memory")


@dataclass(frozen=True)
class PhaseProfile:
    """One phase of one layer; all values are per row, averaged over the rows.

    Attributes
    ----------
    layer : int or None
        Index of the layer; None for a phase of the whole call.
    phase : str
        Name of the phase. Two names joined by ``+`` are one kernel, whose parts cannot be timed
        separately.
    seconds : float
        Median time on one thread.
    bytes, operations : float or None
        Bytes to read and write, and operations to compute; a multiply-add counts as two.
    bound_seconds : float or None
        Lower bound of the time on this machine: the larger of the load time and the compute time.
    bound_by : str or None
        The larger of the two: ``"memory"`` or ``"compute"``.
    factor : str or None
        For a layer that is computed by its factors, the factor: ``"u"`` or ``"v"``.
    """

    layer: int | None
    phase: str
    seconds: float
    bytes: float | None = None
    operations: float | None = None
    bound_seconds: float | None = None
    bound_by: str | None = None
    factor: str | None = None

    @property
    def share_of_bound(self) -> float | None:
        """The bound divided by the time; 1 if no improvement is possible."""
        if self.bound_seconds is None or self.seconds == 0:
            return None
        return self.bound_seconds / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the phase as plain data."""
        return {**asdict(self), "share_of_bound": self.share_of_bound}


@dataclass(frozen=True)
class Phases(Tabular):
    """All phases of a network; ``print`` shows them as a table.

    Attributes
    ----------
    phases : tuple of PhaseProfile
        Phases in the order of layers; then the rest of the core's call, the conversion of the rows
        (if they cannot be used in place), and Python.
    rows, batch_size : int
        Number of profiled rows, and rows per call.
    instruction_set : str
        Instruction set in use.
    weight_bytes : float
        Bytes of the weights that any of the rows needs.
    level : str
        The cache level that holds these weights. Bounds assume that weights are loaded from it, and
        everything else from L1.
    peaks : Peaks
        Peak rates from which bounds are computed.
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
        """Sum of the phases, which is the time of ``net(x)`` on one thread."""
        return sum(phase.seconds for phase in self.phases)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data, with the sum and each phase's share of its bound."""
        phases = [phase.to_dict() for phase in self.phases]
        return {**super().to_dict(), "phases": phases, "seconds_per_row": self.seconds_per_row}

    def table(self) -> Table:
        """One row per phase, and their sum; times in seconds per row."""
        rows: list[tuple[Any, ...]] = [
            (
                phase.layer if phase.factor is None else f"{phase.layer} {phase.factor}",
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

    def _parts(self) -> list[str | Table]:
        peaks = self.peaks
        bandwidth = ", ".join(f"{name} {rate * 1e-9:.0f}" for name, rate in peaks.bandwidth.items())
        rates = ", ".join(f"{name} {rate * 1e-9:,.0f}" for name, rate in peaks.operations.items())
        about = [
            f"{self.rows} rows, {self.batch_size} per call, {self.instruction_set}, one thread",
            f"weights in use: {self.weight_bytes * 1e-6:.2f} MB, in {self.level}",
            f"measured here, GB/s: {bandwidth}",
            f"measured here, 1e9 operations/s: {rates}",
        ]
        return [self.table(), "\n".join(about)]

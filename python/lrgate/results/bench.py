"""lrgate beside other engines: the result of ``lrgate bench``."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from typing import Any, Final

from lrgate.results.ratio import Ratio
from lrgate.results.table import Column, Table

__all__ = [
    "Against",
    "Alone",
    "Comparison",
    "Entry",
    "Race",
    "Startup",
]


P99_FROM: Final = 100
"""Calls from which on their 99th percentile is told."""


@dataclass(frozen=True)
class Against(Ratio):
    """How many times faster than a peer, round by round: the median and its quartiles."""

    peer: str

    def __str__(self) -> str:
        return f"{super().__str__()} times {self.peer}"


@dataclass(frozen=True)
class Alone:
    """Calls in a loop that nothing else interrupts: how many were counted, seconds a call."""

    calls: int
    median: float
    p99: float


@dataclass(frozen=True)
class Entry:
    """One contestant at one number of rows a call.

    Attributes
    ----------
    name : str
    lrgate : bool
        Whether it is one of lrgate's, not a peer.
    precision : {"f32", "bf16", "int8"}
        int8 where any layer is.
    settings : dict
        Of the peer's grid, the fastest.
    error : float
        On all test rows.
    within_limit : bool
        Whether that is within the comparison's limit.
    calls : int
        How many were counted.
    median, p99, low, high : float
        Seconds a call: of all counted calls, and quartiles of the rounds' medians.
    alone : Alone or None
        Of one row a call: the same in a loop of this contestant alone.
    seconds_per_row : float
        Median.
    rows_per_second : float
    over : dict from precision to Against
        lrgate's alone: over the fastest peer with an error within the comparison's limit, of
        ``"any"`` precision, or of one.
    plan : tuple of str
        lrgate's alone: how each layer is computed: a strategy, and the precision unless f32.
    predicted : float or None
        Speed-up over dense that the paper's cost model predicts, where the network has a report.
    """

    name: str
    lrgate: bool
    precision: str
    settings: dict[str, Any]
    error: float
    within_limit: bool
    calls: int
    median: float
    p99: float
    low: float
    high: float
    alone: Alone | None
    seconds_per_row: float
    rows_per_second: float
    over: dict[str, Against]
    plan: tuple[str, ...]
    predicted: float | None


@dataclass(frozen=True)
class Race:
    """All contestants at one number of rows a call."""

    rows: int
    entries: tuple[Entry, ...]

    def table(self) -> Table:
        """One row per contestant, the fastest first; times in seconds."""
        called = "1 row a call" if self.rows == 1 else f"{self.rows} rows a call"

        def quartiles(ends: tuple[float, float]) -> str:
            return f"({ends[0] * 1e6:.2f} to {ends[1] * 1e6:.2f})"

        columns = (
            Column(called, left=True),
            Column("error", ".3%"),
            Column("us a row", lambda seconds: f"{seconds * 1e6:.2f}"),
            Column("(quartiles)", quartiles, left=True),
            Column("p99, us a call", lambda seconds: f"{seconds * 1e6:.1f}"),
            Column("rows/s", ",.0f"),
        )
        return Table(
            columns,
            [
                (
                    entry.name,
                    entry.error,
                    entry.seconds_per_row,
                    (entry.low / self.rows, entry.high / self.rows),
                    entry.p99 if entry.calls >= P99_FROM else None,
                    entry.rows_per_second,
                )
                for entry in sorted(self.entries, key=lambda entry: entry.median)
            ],
        )

    def __str__(self) -> str:
        """A table of at most 100 columns, the fastest first."""
        lines = [str(self.table())]
        for entry in self.entries:
            ratios = dict.fromkeys(
                str(entry.over[key]) for key in ("any", entry.precision) if key in entry.over
            )
            if ratios:
                text = f"{entry.name}, {'/'.join(entry.plan)}: {'; '.join(ratios)}"
                if not entry.within_limit:
                    text += ", at too high an error"
                lines.append(_wrapped(text))
        return "\n".join(lines)


@dataclass(frozen=True)
class Comparison:
    """What was compared, and what came out; ``print`` shows it.

    Attributes
    ----------
    name, network : str
        What the user calls it; its widths.
    measure : str
        What `error` is: see :class:`lrgate.Report`.
    error_dense : float
        Of the network itself, dense in f32.
    error_limit : float
        Above which neither peers nor lrgate's networks are compared: :data:`ALLOWED` more, or one
        row where that is less than one.
    test_rows, calibration_rows, threads : int
    cpus : list of int or None
        The CPUs that the run was pinned to.
    machine, versions : dict
    blas : str
        NumPy's.
    warnings : tuple of str
    left_out : dict from engine to reason
    races : tuple of Race
        By ascending rows.
    starts : tuple of Startup
    network_bytes : dict from lrgate's contestant to int
        Bytes of weights that it holds, in all layouts that these calls packed.
    multiply_adds : int
        Of the dense network, for a row.
    seconds : float
        What it all took.
    """

    name: str
    network: str
    measure: str
    error_dense: float
    error_limit: float
    test_rows: int
    calibration_rows: int
    threads: int
    cpus: list[int] | None
    machine: dict[str, str]
    versions: dict[str, str]
    blas: str
    warnings: tuple[str, ...]
    left_out: dict[str, str]
    races: tuple[Race, ...]
    starts: tuple[Startup, ...]
    network_bytes: dict[str, int]
    multiply_adds: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, as JSON takes it."""
        return asdict(self)

    def start_table(self) -> Table:
        """One row per engine whose start was measured."""
        columns = (
            Column("start", left=True),
            Column("import, s", ".2f"),
            Column("file to answer, ms", lambda seconds: f"{seconds * 1e3:.1f}"),
            Column("memory, MB", lambda size: f"{size / 1e6:.1f}"),
            Column("file, MB", lambda size: f"{size / 1e6:.1f}"),
        )
        return Table(
            columns,
            [
                (each.name, each.import_seconds, each.seconds, each.memory, each.file_bytes)
                for each in self.starts
            ],
            gap=2,
        )

    def __str__(self) -> str:
        """Tables of at most 100 columns."""
        head = [
            f"{self.name}: {self.network}, {self.threads} thread{'s' * (self.threads != 1)}",
            f"{self.machine['cpu']}, {self.machine['instruction set']}",
            f"NumPy's BLAS: {self.blas}",
            f"error: {self.measure} on {self.test_rows} rows, {self.error_dense:.3%} dense; "
            "times: of the fastest settings",
            *(f"warning: {text}" for text in self.warnings),
            *(f"left out: {name}: {why}" for name, why in self.left_out.items()),
        ]
        parts = ["\n".join(map(_wrapped, head)), *map(str, self.races)]
        if self.starts:
            parts.append(str(self.start_table()))
        return "\n\n".join(parts)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, subsequent_indent="    ", break_on_hyphens=False)


@dataclass(frozen=True)
class Startup:
    """What the start of one engine takes; medians over fresh processes.

    Attributes
    ----------
    name : str
    import_seconds : float
        Importing the engine's packages: not in `seconds`.
    seconds : float
        From the file on disk, which is in the page cache, to the outputs of one row.
    memory : int or None
        Bytes by which the process's resident memory grew meanwhile; None where that is not told.
    file_bytes : int
        The file's size.
    """

    name: str
    import_seconds: float
    seconds: float
    memory: int | None
    file_bytes: int

"""The result of ``lrgate bench``: a comparison of lrgate with other engines."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from typing import Any, Final

from lrgate.results.ratio import Ratio
from lrgate.results.table import Column, Table, plain

__all__ = [
    "Against",
    "Alone",
    "Cold",
    "Comparison",
    "Entry",
    "Race",
    "Startup",
]


P99_FROM: Final = 100
"""Minimum number of calls for which the 99th percentile is reported."""


@dataclass(frozen=True)
class Against(Ratio):
    """Speed-up over a peer: median and quartiles of the ratios of the rounds."""

    peer: str

    def __str__(self) -> str:
        return f"{super().__str__()} times {self.peer}"


@dataclass(frozen=True)
class Alone:
    """Times of a candidate in a separate loop.

    Attributes
    ----------
    calls : int
    median, p99 : float
        Seconds per call.
    over : float or None
        lrgate only: speed-up over the peer with the lowest median in its own loop, among those
        whose error is within the limit.
    peer : str or None
        The name of that peer.
    """

    calls: int
    median: float
    p99: float
    over: float | None
    peer: str | None


@dataclass(frozen=True)
class Cold:
    """Times of single calls of one row, each after other memory was read.

    Attributes
    ----------
    read : int
        Bytes that were read before each call.
    calls : int
    median : float
        Seconds per call.
    over : Against or None
        lrgate only: speed-up over the peer that is fastest in these calls, among those whose error
        is within the limit.
    """

    read: int
    calls: int
    median: float
    over: Against | None


@dataclass(frozen=True)
class Entry:
    """Results of one candidate with one batch size.

    Unless stated otherwise, times are in turn: engines have turns of 20 calls in random order,
    each after the process read 8 MB of other memory. The time of a turn is that of its mean call,
    which includes rows that lrgate recomputes.

    Attributes
    ----------
    name : str
    lrgate : bool
        Whether the candidate is a network in lrgate, not a peer.
    precision : {"f32", "bf16", "int8"}
        Precision of the engine; int8 if any layer of an lrgate network is int8.
    settings : dict
        The fastest settings of a peer's grid.
    error : float
        Error on all test rows.
    within_limit : bool
        Whether the error is within the limit of the comparison.
    calls : int
        Number of counted calls.
    median, p99, low, high : float
        Seconds per call: median over the turns, 99th percentile of all counted calls, and quartiles
        of the turns.
    alone : Alone
        Times in a separate loop.
    cold : tuple of Cold
        With one row per call: times after reading 2, 8 and 64 MB.
    seconds_per_row : float
        Median seconds per row.
    rows_per_second : float
    over : dict from precision to Against
        lrgate only: speed-up over the fastest peer whose error is within the limit, for ``"any"``
        precision and for each precision.
    plan : tuple of str
        lrgate only: strategy of each layer, with the precision unless it is f32.
    predicted : float or None
        Speed-up over dense predicted by the paper's cost model, if the network has a report.
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
    alone: Alone
    cold: tuple[Cold, ...]
    seconds_per_row: float
    rows_per_second: float
    over: dict[str, Against]
    plan: tuple[str, ...]
    predicted: float | None


@dataclass(frozen=True)
class Race:
    """Results of all candidates with one batch size."""

    rows: int
    entries: tuple[Entry, ...]

    def table(self) -> Table:
        """One row per candidate, the fastest first; times in seconds."""
        called = "1 row per call" if self.rows == 1 else f"{self.rows} rows per call"

        def quartiles(ends: tuple[float, float]) -> str:
            return f"({ends[0] * 1e6:.2f} to {ends[1] * 1e6:.2f})"

        columns = (
            Column(called, left=True),
            Column("error", ".3%"),
            Column("us per row", lambda seconds: f"{seconds * 1e6:.2f}"),
            Column("(quartiles)", quartiles, left=True),
            Column("p99, us per call", lambda seconds: f"{seconds * 1e6:.1f}"),
            Column("alone", lambda seconds: f"{seconds * 1e6:.2f}"),
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
                    entry.alone.median / self.rows,
                    entry.rows_per_second,
                )
                for entry in sorted(self.entries, key=lambda entry: entry.median)
            ],
        )

    def cold_table(self) -> Table | None:
        """One row per candidate with its cold times in seconds; None without such times."""
        entries = [entry for entry in self.entries if entry.cold]
        if not entries:
            return None
        sizes = [f"{cold.read / 2**20:g} MB" for cold in entries[0].cold]
        columns = (
            Column("us per call after reading", left=True),
            *(Column(size, lambda seconds: f"{seconds * 1e6:.2f}") for size in sizes),
        )
        entries.sort(key=lambda entry: entry.cold[-1].median)
        rows = [(entry.name, *(cold.median for cold in entry.cold)) for entry in entries]
        return Table(columns, rows)

    def __str__(self) -> str:
        """Tables of at most 100 columns, the fastest first."""
        cold = self.cold_table()
        lines = [str(self.table()), *([] if cold is None else [str(cold)])]
        for entry in self.entries:
            ratios = dict.fromkeys(
                str(entry.over[key]) for key in ("any", entry.precision) if key in entry.over
            )
            if ratios:
                text = f"{entry.name}, {'/'.join(entry.plan)}: in turn {'; '.join(ratios)}"
                if entry.alone.over is not None:
                    text += f"; alone {entry.alone.over:.2f} times {entry.alone.peer}"
                for each in entry.cold:
                    if each.over is not None:
                        text += f"; after {each.read / 2**20:g} MB {each.over}"
                if not entry.within_limit:
                    text += ", at too high an error"
                lines.append(_wrapped(text))
        return "\n".join(lines)


@dataclass(frozen=True)
class Comparison:
    """The complete result of a comparison; ``print`` shows it.

    Attributes
    ----------
    name, network : str
        Name given by the user, and widths of the layers.
    measure : str
        Definition of `error`: see :class:`lrgate.results.OptimizeReport`.
    error_dense : float
        Error of the network, dense in f32.
    error_limit : float
        Largest error at which peers and lrgate's networks are compared: `error_dense` plus
        :data:`lrgate.bench.contestants.ALLOWED`, or plus one row of a classifier if that is more.
    test_rows, calibration_rows, threads : int
    cpus : list of int or None
        The CPUs to which the run was pinned.
    machine, versions : dict
    blas : str
        The BLAS of NumPy.
    warnings : tuple of str
    left_out : dict from engine to reason
    races : tuple of Race
        Results by ascending batch size.
    starts : tuple of Startup
    network_bytes : dict from name to int
        Bytes of weights that each of lrgate's networks holds, in all layouts that were packed.
    multiply_adds : int
        Multiply-adds of the dense network per row.
    seconds : float
        Duration of the whole comparison.
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
        """Return the result as plain data for JSON."""
        result: dict[str, Any] = plain(asdict(self))
        return result

    def start_table(self) -> Table:
        """One row per engine whose start-up was measured."""
        columns = (
            Column("start-up", left=True),
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
            "times: with the fastest settings",
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
    """Start-up of one engine; medians over new processes.

    Attributes
    ----------
    name : str
    import_seconds : float
        Time to import the engine's packages; not included in `seconds`.
    seconds : float
        Time from the file, which is in the page cache, to the outputs of one row.
    memory : int or None
        Growth of the process's resident memory in bytes; None if the system does not report it.
    file_bytes : int
        Size of the file.
    """

    name: str
    import_seconds: float
    seconds: float
    memory: int | None
    file_bytes: int

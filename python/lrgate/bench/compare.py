"""lrgate and every engine that is installed on the same rows, in one run, by turns.

For each number of rows a call, the settings of each engine race each other first, briefly; then the
best of each engine, and lrgate, take turns on real rows, other ones each call. Errors are those of
all test rows. What an engine's start takes is measured in processes of its own.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import math
import os
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.bench import startup
from lrgate.bench.engines import LRGATE, Engine, Forward, Settings, blas, folded, selected
from lrgate.bench.startup import Startup
from lrgate.inputs import as_list, checked_rows, label_array, real_array
from lrgate.measure import process, timing
from lrgate.measure.timing import Ratio, Timing
from lrgate.model.activation import Activation
from lrgate.network import Network
from lrgate.planner.evaluation import Judge
from lrgate.planner.search import checked_targets, optimize
from lrgate.runtime import num_threads
from lrgate.types import Float32Array

__all__ = ["ALLOWED", "Comparison", "Entry", "Race", "measure", "original", "run"]

Rows = npt.NDArray[Any]

ALLOWED: Final = 0.001
"""How much above the dense network's errors may be that are compared: a tenth of a point."""

P99_FROM: Final = 100
"""Calls from which on their 99th percentile is told."""

_CHECKED_ROWS: Final = 256
_ROUNDING: Final = 1e-9
_MOST_ROWS: Final = 1_000_000
_TOLERANCES: Final = {"f32": 1e-6, "bf16": 1e-2, "int8": 0.1}
_CALIBRATION_ROWS: Final = 1000
_LEAST_SPLIT: Final = 400
_NARROWING: Final = 0.1
# Each contestant's own loop, of the time that all by turns take.
_ALONE: Final = 0.1
_OPENBLAS: Final = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


@dataclass(frozen=True)
class Against:
    """How many times faster than a peer, round by round: the median and its quartiles."""

    peer: str
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{Ratio(self.median, self.low, self.high)} times {self.peer}"


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
        lrgate's alone: the layers' strategies; an 8 stands for int8.
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

    def __str__(self) -> str:
        """A table of at most 100 columns, the fastest first."""
        called = "1 row a call" if self.rows == 1 else f"{self.rows} rows a call"
        lines = [
            f"{called:<18} {'error':>8} {'us a row':>9} {'(quartiles)':<19} {'p99, us a call':>14} "
            f"{'rows/s':>11}"
        ]
        for entry in sorted(self.entries, key=lambda entry: entry.median):
            low, high = (1e6 * value / self.rows for value in (entry.low, entry.high))
            lines.append(
                f"{entry.name:<18} {entry.error:8.3%} {entry.seconds_per_row * 1e6:9.2f} "
                f"{f'({low:.2f} to {high:.2f})':<19} "
                f"{f'{entry.p99 * 1e6:.1f}' if entry.calls >= P99_FROM else '-':>14} "
                f"{entry.rows_per_second:11,.0f}"
            )
        for entry in self.entries:
            ratios = dict.fromkeys(
                str(entry.over[key]) for key in ("any", entry.precision) if key in entry.over
            )
            if ratios:
                text = f"{entry.name}, {'-'.join(entry.plan)}: {'; '.join(ratios)}"
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
            lines = ["start              import, s  file to answer, ms  memory, MB  file, MB"]
            for start in self.starts:
                memory = "-" if start.memory is None else f"{start.memory / 1e6:.1f}"
                lines.append(
                    f"{start.name:<18} {start.import_seconds:9.2f} {start.seconds * 1e3:19.1f} "
                    f"{memory:>11} {start.file_bytes / 1e6:9.1f}"
                )
            parts.append("\n".join(lines))
        return "\n\n".join(parts)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, subsequent_indent="    ", break_on_hyphens=False)


def original(net: Network) -> Network:
    """The network as it was trained: f32, dense, all units, and without a last softmax or sigmoid.

    A classifier's classes are the same without.
    """
    layers = [
        (layer.weight, layer.bias, layer.activation) for layer in _linear_at_the_end(net).layers
    ]
    plain = Network.from_layers(
        [(weight, bias) for weight, bias, _ in layers],
        [activation for _, _, activation in layers],
        task=net.task,
        classes=net._model.classes,
        input_scale=net.input_scale,
        input_shift=net.input_shift,
        input_range=net.input_range,
    )
    return plain if net.probe is None else plain.with_probe(net.probe.x)


def _linear_at_the_end(net: Network) -> Network:
    last = net.layers[-1]
    if net.task != "classification" or last.activation.name not in ("softmax", "sigmoid"):
        return net
    layers = (*net.layers[:-1], replace(last, activation=Activation("identity")))
    return net._with(None, layers=layers, plan=net.plan, probe=None)


def run(*args: Any, **kwargs: Any) -> Comparison:
    """:func:`measure` in a process of its own, in which libraries have the threads asked for."""
    return process.fresh(measure, *args, **kwargs)


def measure(
    name: str,
    net: Network,
    x: Any,
    y: npt.ArrayLike | None = None,
    *,
    calibration: tuple[Any, npt.ArrayLike | None] | None = None,
    batch_sizes: Sequence[int] = (1, 64, 1024),
    seconds: float = 5.0,
    threads: int = 1,
    engines: Sequence[str] | None = None,
    optimized: bool = True,
    start: bool = True,
    progress: bool = False,
) -> Comparison:
    """Compare a network in lrgate with the engines that are installed.

    Call it in a process whose libraries were told how many threads to use before they were loaded:
    :func:`run` makes one. It pins the process to as many CPUs as there are threads.

    Parameters
    ----------
    name : str
        What to call it.
    net : Network
        Peers get its weights alone.
    x : array-like (n, d)
        Real rows to time and to take errors on. Where they are uint8, lrgate is also timed on
        those; all else takes them as float32.
    y : array-like (n,) or (n, k), optional
        Labels or values; without them errors are differences from the dense network.
    calibration : (rows, labels or None), optional
        What lrgate and int8 engines are fitted to. By default one half of `x`, and the other half
        is tested on; the same rows where they are few.
    batch_sizes : sequence of int
        Rows a call.
    seconds : float
        About how long the contestants take turns, for each number of rows.
    threads : int
    engines : sequence of str, optional
        Beginnings of the names of those to compare with; all by default.
    optimized : bool
        Whether `lrgate.optimize` plans anew. Else lrgate runs `net` as it is, and dense.
    start : bool
        Whether the start of each engine is measured too.
    progress : bool
        Whether to tell on stderr what is going on.

    Raises
    ------
    ValueError, TypeError
        For rows and labels that `lrgate.optimize` would refuse, too.
    """
    begin = time.perf_counter()
    batch_sizes = as_list(batch_sizes, "batch_sizes")
    for rows in batch_sizes:
        if not 1 <= rows <= _MOST_ROWS:
            raise ValueError(f"batch_sizes must be from 1 to {_MOST_ROWS:,}, got {rows}")
    cpus = process.pin(threads)
    chosen = selected(engines)
    dense = original(net)
    notes = [
        f"{variable}={os.environ[variable]} is set, so NumPy may not use OpenBLAS's best kernels"
        for variable in _OPENBLAS
        if variable in os.environ
    ]
    raw = real_array(x)
    fit, test, note = _parts(dense, raw, y, calibration)
    notes += note
    bench = _Bench(dense, fit, test, threads, seconds, progress)
    with num_threads(threads), bench:
        bench.prepare_lrgate(_linear_at_the_end(net), batch_sizes, optimized)
        bench.prepare_peers(chosen)
        # The largest first: errors that do not depend on the number of rows are taken there.
        races = [bench.race(rows) for rows in sorted(batch_sizes, reverse=True)]
        bench.tell_failures(len(races))
        starts = bench.starts() if start else []
        return Comparison(
            name=name,
            network="-".join(map(str, (dense.input_size, *(y.outputs for y in dense.layers)))),
            measure=bench.judge.measure,
            error_dense=bench.error_dense,
            error_limit=bench.error_limit,
            test_rows=len(test.x),
            calibration_rows=len(fit.x),
            threads=threads,
            cpus=cpus,
            machine=timing.machine(),
            versions=bench.versions,
            blas=blas(),
            warnings=tuple(notes),
            left_out=bench.left_out,
            races=tuple(reversed(races)),
            starts=tuple(starts),
            network_bytes={name: each.nbytes for name, each in bench.networks.items()},
            multiply_adds=sum(layer.weight.size for layer in dense.layers),
            seconds=time.perf_counter() - begin,
        )


# --- rows ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows, as float32 and where they are bytes as these too, and labels."""

    x: Float32Array
    bytes: npt.NDArray[np.uint8] | None
    y: Any

    @classmethod
    def of(cls, dense: Network, x: Rows, y: Any) -> _Part:
        # A writable copy: PyTorch warns of others.
        rows = np.array(checked_rows(x, dense.input_size), np.float32)
        return cls(rows, np.array(x) if x.dtype == np.uint8 else None, y)


def _parts(
    dense: Network, x: Rows, y: Any, calibration: tuple[Any, Any] | None
) -> tuple[_Part, _Part, list[str]]:
    """Rows to fit to and rows to test on, and what a user should know of them."""
    labels = None if y is None else label_array(y)
    if labels is not None:
        checked_targets(dense, labels, len(x))
    if calibration is not None:
        rows, targets = calibration
        return _Part.of(dense, real_array(rows), targets), _Part.of(dense, x, labels), []
    if x.ndim != 2 or len(x) < _LEAST_SPLIT:
        part = _Part.of(dense, x, labels)
        text = f"{len(x)} rows are too few to split: errors are on rows that were fitted to"
        return part, part, [text]
    order = np.random.default_rng(0).permutation(len(x))
    fit, test = (
        _Part.of(dense, x[half], None if labels is None else labels[half])
        for half in np.split(order, [len(x) // 2])
    )
    return fit, test, []


def _calls(x: Rows, rows: int) -> list[Rows]:
    """Calls of `rows` rows, other ones each time as far as there are: in place, or all round."""
    if len(x) >= 8 * rows:
        return timing.batches(x, rows)
    twice = np.resize(x, (len(x) + rows, x.shape[1]))
    return [twice[first : first + rows] for first in range(0, len(x), max(len(x) // 8, 1))]


def _outputs(forward: Any, x: Rows, rows: int) -> Rows:
    """Outputs in calls of `rows` rows; the last call is filled up and cut off again."""
    parts = [
        np.array(forward(np.resize(part, (rows, x.shape[1]))), np.float32)[: len(part)]
        for part in (x[first : first + rows] for first in range(0, len(x), rows))
    ]
    return np.concatenate(parts)


# --- the run -------------------------------------------------------------------------------------


class _Bench:
    """One comparison: the contestants, and what is known of them so far."""

    def __init__(
        self,
        dense: Network,
        fit: _Part,
        test: _Part,
        threads: int,
        seconds: float,
        progress: bool,
    ) -> None:
        self.dense, self.fit, self.test = dense, fit, test
        self.threads, self.seconds, self.progress = threads, seconds, progress
        targets = None if test.y is None else checked_targets(dense, test.y, len(test.x))
        self.judge = Judge(dense, test.x, targets)
        self.outputs = dense.forward(test.x)
        self.error_dense = self.judge.error(self.outputs).before
        # A tenth of a point of a few hundred rows is less than one of them.
        least = 1 / len(test.x) if dense.task == "classification" else 0.0
        self.error_limit = self.error_dense + max(ALLOWED, least) + _ROUNDING
        self.calibration = fit.x[:_CALIBRATION_ROWS]
        self.networks: dict[str, Network] = {}
        self.peers: list[Engine] = []
        self.errors: dict[str, float] = {}
        """Of lrgate's networks and the peers' best settings, at the number of rows at hand."""
        self.errors_of_settings: dict[tuple[str, str], float] = {}
        self.best: dict[str, Settings] = {}
        self.failures: dict[str, dict[int, str]] = {}
        self.versions: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    def __enter__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        # What engines print of their own accord is about formats and settings.
        self.stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        self.stack.callback(logging.disable, level)
        logging.disable(logging.WARNING)

    def __exit__(self, *exception: object) -> None:
        self.stack.close()

    def say(self, text: str) -> None:
        if self.progress:
            print(text, file=sys.stderr, flush=True)

    # Contestants

    def prepare_lrgate(self, net: Network, sizes: Sequence[int], optimized: bool) -> None:
        """lrgate's contestants: networks by name."""
        if optimized:
            for name, precision in (("lrgate", "auto"), ("lrgate f32", "f32")):
                self.say(f"optimising, {precision} ...")
                self.networks[name] = optimize(
                    self.dense,
                    self.fit.x,
                    self.fit.y,
                    batch_sizes=list(sizes),
                    precision=precision,
                    num_threads=self.threads,
                    progress=False,
                )
        else:
            self.networks["lrgate"] = net
        self.networks["lrgate dense"] = self.dense

    def prepare_peers(self, chosen: Sequence[Engine]) -> None:
        """Which engines are there."""
        try:
            folded(self.dense)
        except ValueError as error:
            self.left_out |= {engine.name: str(error) for engine in chosen}
            return
        for engine in chosen:
            try:
                self.versions[engine.package] = engine.version()
                self.peers.append(engine)
            except ImportError:
                self.left_out[engine.name] = f"{engine.package} is not installed"

    def made(self, engine: Engine, rows: int, settings: Settings) -> Forward:
        """The engine's function, once its answers are right."""
        path = engine.store(self.dense, self.calibration, self.folder, settings)
        forward: Forward = engine.load(path, rows, self.threads, settings)
        count = min(max(rows, _CHECKED_ROWS), len(self.test.x))
        found = _outputs(forward, self.test.x[:count], rows).astype(np.float64)
        wanted = self.outputs[:count]
        spread = np.square(wanted - wanted.mean(0)).sum() if count > 1 else np.square(wanted).sum()
        off = float(np.square(found - wanted).sum() / max(spread, 1e-30))
        if not off <= _TOLERANCES[engine.precision]:
            raise ValueError(f"its outputs differ from the network's: by {off:.2g}, squared")
        return forward

    def narrowed(self, engine: Engine, rows: int) -> tuple[Settings, Forward]:
        """The fastest of an engine's settings, of those whose error is within the limit if any is.

        Raises
        ------
        Exception
            What the last of them raised, if all did.
        """
        made: dict[str, tuple[Settings, Forward]] = {}
        failed: Exception = ValueError("it has no settings")
        for settings in engine.settings(self.threads):
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    made[str(settings)] = settings, self.made(engine, rows, settings)
            except Exception as error:
                failed = error
        if not made:
            raise failed
        if len(made) == 1:
            return next(iter(made.values()))
        errors = {
            key: self.peer_error(engine, key, forward, rows) for key, (_, forward) in made.items()
        }
        near = [key for key, error in errors.items() if error <= self.error_limit]
        forwards = {key: made[key][1] for key in near or made}
        calls = _calls(self.test.x, rows)
        times = timing.interleaved(forwards, calls, _NARROWING * self.seconds, min_rounds=3)
        return made[min(forwards, key=lambda key: times[key].median)]

    # One number of rows

    def race(self, rows: int) -> Race:
        """All contestants by turns."""
        contestants: dict[str, Any] = dict(self.networks)
        calls = dict.fromkeys(self.networks, _calls(self.test.x, rows))
        if self.test.bytes is not None:
            contestants["lrgate, uint8 rows"] = self.networks["lrgate"]
            calls["lrgate, uint8 rows"] = _calls(self.test.bytes, rows)
        settings: dict[str, Settings] = {}
        for engine in self.peers:
            self.say(f"{rows} rows a call: {engine.name} ...")
            try:
                settings[engine.name], forward = self.narrowed(engine, rows)
                key = str(settings[engine.name])
                self.errors[engine.name] = self.peer_error(engine, key, forward, rows)
            except Exception as caught:
                reason = (str(caught).strip().splitlines() or [""])[0]
                self.failures.setdefault(engine.name, {})[rows] = (
                    f"{type(caught).__name__}: {reason}"
                )
                continue
            self.best[engine.name] = settings[engine.name]
            contestants[engine.name] = forward
            calls[engine.name] = calls["lrgate dense"]
        self.say(f"{rows} rows a call: all by turns ...")
        times = timing.interleaved(contestants, calls, self.seconds)
        alone = timing.alone(contestants, calls, _ALONE * self.seconds) if rows == 1 else {}
        for name, net in self.networks.items():
            self.errors[name] = self.error(net, rows)
        if self.test.bytes is not None:
            self.errors["lrgate, uint8 rows"] = self.error(
                self.networks["lrgate"], rows, self.test.bytes
            )
        entries = [
            self.entry(
                name, contestants[name], rows, times, alone.get(name), settings.get(name, {})
            )
            for name in contestants
        ]
        contestants.clear()
        self.forget()
        return Race(rows, tuple(entries))

    def error(self, forward: Any, rows: int, x: Rows | None = None) -> float:
        """The error on all test rows, in calls of as many rows as are timed."""
        return self.judge.error(_outputs(forward, self.test.x if x is None else x, rows)).after

    def peer_error(self, engine: Engine, settings: str, forward: Forward, rows: int) -> float:
        """The same; where a row's result does not depend on the others, it is taken once."""
        key = engine.name, settings
        if engine.batch_dependent or key not in self.errors_of_settings:
            self.errors_of_settings[key] = self.error(forward, rows)
        return self.errors_of_settings[key]

    def entry(
        self,
        name: str,
        contestant: Any,
        rows: int,
        times: Mapping[str, Timing],
        alone: Timing | None,
        settings: Settings,
    ) -> Entry:
        time_ = times[name]
        low, high = time_.quartiles()
        ours = isinstance(contestant, Network)
        plan = _plan(contestant, rows) if ours else ()
        precisions = {engine.name: engine.precision for engine in self.peers}
        return Entry(
            name=name,
            lrgate=ours,
            precision=("int8" if any(layer.endswith("8") for layer in plan) else "f32")
            if ours
            else precisions[name],
            settings=dict(settings),
            error=self.errors[name],
            within_limit=self.errors[name] <= self.error_limit,
            calls=len(time_.calls),
            median=time_.median,
            p99=time_.p99,
            low=low,
            high=high,
            alone=None if alone is None else Alone(len(alone.calls), alone.median, alone.p99),
            seconds_per_row=time_.seconds_per_row,
            rows_per_second=1 / time_.seconds_per_row,
            over=self.over(name, times) if ours else {},
            plan=plan,
            predicted=_predicted(contestant, rows) if ours else None,
        )

    def over(self, name: str, times: Mapping[str, Timing]) -> dict[str, Against]:
        """Ratios to the fastest peers whose error is within the limit."""
        found: dict[str, Against] = {}
        for precision in ("any", "f32", "bf16", "int8"):
            near = [
                peer.name
                for peer in self.peers
                if precision in ("any", peer.precision)
                and peer.name in times
                and self.errors[peer.name] <= self.error_limit
            ]
            if near:
                best = min(near, key=lambda name: times[name].median)
                found[precision] = Against(best, **vars(times[name].speed_up_over(times[best])))
        return found

    def tell_failures(self, races: int) -> None:
        """What is left out of all races, or of some."""
        for name, reasons in self.failures.items():
            if len(reasons) == races:
                self.left_out[name] = next(iter(reasons.values()))
                self.peers = [engine for engine in self.peers if engine.name != name]
            else:
                self.left_out |= {
                    f"{name}, {rows} rows a call": why for rows, why in reasons.items()
                }

    def forget(self) -> None:
        """Let go of what engines have compiled for this number of rows."""
        if "torch" in sys.modules and "torch._dynamo" in sys.modules:
            sys.modules["torch._dynamo"].reset()
        gc.collect()

    # The start

    def starts(self) -> list[Startup]:
        """What each engine takes from its file to its first answer.

        Its settings are the best for the fewest rows, which were raced last.
        """
        row = self.folder / "row.npy"
        np.save(row, self.test.x[:1])
        found = []
        for name, net in self.networks.items():
            self.say(f"{name}: its start ...")
            path = LRGATE.store(net, self.calibration, self.folder, {"file": name})
            found.append(self.start(name, LRGATE, path, row, {}))
        for engine in self.peers:
            self.say(f"{engine.name}: its start ...")
            settings = self.best[engine.name]
            path = engine.store(self.dense, self.calibration, self.folder, settings)
            try:
                found.append(self.start(engine.name, engine, path, row, settings))
            except RuntimeError as error:
                self.left_out[f"{engine.name}, start"] = str(error)
        return found

    def start(
        self, name: str, engine: Engine, path: Path, row: Path, settings: Settings
    ) -> Startup:
        return startup.measure(name, engine.name, engine.modules, path, row, self.threads, settings)


def _plan(net: Network, rows: int) -> tuple[str, ...]:
    chosen = net.engine.class_for(rows)
    plan = next(plan for plan in net.plan if plan.rows == chosen)
    return tuple(
        f"{name}8" if word == "int8" else name
        for name, word in zip(plan.strategies, plan.precisions, strict=True)
    )


def _predicted(net: Network, rows: int) -> float | None:
    report = net.report
    if report is None:
        return None
    nearest = min(report.classes, key=lambda of_class: abs(math.log(of_class.rows / rows)))
    return nearest.predicted_speed_up

"""The candidates of one comparison, their errors and their races."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import math
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from lrgate.bench import startup
from lrgate.bench.engines import LRGATE, Engine, Forward, Settings, folded
from lrgate.bench.parts import CALIBRATION_ROWS, CHECKED_ROWS, Part, Rows, calls_of, outputs_of
from lrgate.measure import timing
from lrgate.measure.timing import Timing
from lrgate.model.activation import Activation
from lrgate.network import Network, declared_classes, replaced
from lrgate.planner.arguments import checked_targets
from lrgate.planner.evaluation import Evaluator
from lrgate.planner.optimizer import optimize
from lrgate.results.bench import Against, Alone, Cold, Entry, Race, Startup
from lrgate.results.paths import path_names

__all__ = [
    "Candidates",
    "linear_at_the_end",
    "original",
]


ALLOWED: Final = 0.001
"""Largest error increase over the dense network at which an engine is still compared."""

_ROUNDING: Final = 1e-9

_TOLERANCES: Final = {"f32": 1e-6, "bf16": 1e-2, "int8": 0.1}

_NARROWING: Final = 0.1
# Duration of all candidates' own loops, as a share of the timing in turn.
_ALONE: Final = 0.5
COLD: Final = (2 * 2**20, 8 * 2**20, 64 * 2**20)
"""Bytes of other memory that are read before each cold call."""
# Duration of the cold calls for each number of bytes, as a share of the timing in turn.
_COLD: Final = 0.25


def original(net: Network) -> Network:
    """The network as trained: f32, dense, with all units, without a final softmax or sigmoid.

    The final softmax, log_softmax or sigmoid does not change the predicted classes.
    """
    layers = [
        (layer.weight, layer.bias, layer.activation) for layer in linear_at_the_end(net).layers
    ]
    plain = Network.from_layers(
        [(weight, bias) for weight, bias, _ in layers],
        [activation for _, _, activation in layers],
        task=net.task,
        classes=declared_classes(net),
        input_scale=net.input_scale,
        input_shift=net.input_shift,
        input_range=net.input_range,
    )
    return plain if net.probe is None else plain.with_probe(net.probe.x)


def linear_at_the_end(net: Network) -> Network:
    last = net.layers[-1]
    bounded = last.activation.mixes_units or last.activation.name == "sigmoid"
    if net.task != "classification" or not bounded:
        return net
    layers = (*net.layers[:-1], replace(last, activation=Activation("identity")))
    return replaced(net, layers=layers, plan=net.plan, probe=None)


class Candidates:
    """The state of one comparison: its candidates, their errors and the engines left out."""

    def __init__(
        self,
        dense: Network,
        fit: Part,
        test: Part,
        threads: int,
        seconds: float,
        progress: bool,
    ) -> None:
        self.dense, self.fit, self.test = dense, fit, test
        self.threads, self.seconds, self.progress = threads, seconds, progress
        targets = None if test.y is None else checked_targets(dense, test.y, len(test.x))
        self.judge = Evaluator(dense, test.x, targets)
        self.outputs = dense.forward(test.x)
        self.error_dense = self.judge.error(self.outputs).before
        # With a few hundred rows, 0.1 percentage points is less than one row.
        least = 1 / len(test.x) if dense.task == "classification" else 0.0
        self.error_limit = self.error_dense + max(ALLOWED, least) + _ROUNDING
        self.calibration = fit.x[:CALIBRATION_ROWS]
        self.networks: dict[str, Network] = {}
        self.peers: list[Engine] = []
        self.errors: dict[str, float] = {}
        """Errors of lrgate's networks and the peers' best settings, at the current batch size."""
        self.errors_of_settings: dict[tuple[str, str], float] = {}
        self.best: dict[str, Settings] = {}
        self.failures: dict[str, dict[int, str]] = {}
        self.versions: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    def __enter__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        # Engines warn about formats and settings; silence them.
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

    # Candidates

    def prepare_lrgate(self, net: Network, sizes: Sequence[int], optimized: bool) -> None:
        """Fill `networks`: lrgate's candidates by name."""
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
        """Fill `peers` with the engines that are installed; record why others are left out."""
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
                self.left_out[engine.name] = (
                    f"{engine.package} is not installed; pip install 'lrgate[bench-peers]'"
                )

    def made(self, engine: Engine, rows: int, settings: Settings) -> Forward:
        """Load the network in the engine and check its outputs.

        Raises
        ------
        ValueError
            If the outputs differ from the network's by more than the precision explains.
        """
        path = engine.store(self.dense, self.calibration, self.folder, settings)
        forward: Forward = engine.load(path, rows, self.threads, settings)
        count = min(max(rows, CHECKED_ROWS), len(self.test.x))
        found = outputs_of(forward, self.test.x[:count], rows).astype(np.float64)
        wanted = self.outputs[:count]
        spread = np.square(wanted - wanted.mean(0)).sum() if count > 1 else np.square(wanted).sum()
        off = float(np.square(found - wanted).sum() / max(spread, 1e-30))
        if not off <= _TOLERANCES[engine.precision]:
            raise ValueError(f"its outputs differ from the network's: relative square {off:.2g}")
        return forward

    def narrowed(self, engine: Engine, rows: int) -> tuple[Settings, Forward]:
        """The fastest settings of an engine among those whose error is within the limit.

        If none is within the limit, all settings are considered.

        Raises
        ------
        Exception
            The last exception, if the engine failed with all settings.
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
        calls = calls_of(self.test.x, rows)
        times = timing.interleaved(forwards, calls, _NARROWING * self.seconds, min_rounds=3)
        return made[min(forwards, key=lambda key: times[key].median)]

    # One batch size

    def race(self, rows: int) -> Race:
        """Time all candidates in calls of `rows` rows, and compute their errors.

        They are timed in turn, alone, and, for one row, cold.
        """
        candidates: dict[str, Any] = dict(self.networks)
        calls = dict.fromkeys(self.networks, calls_of(self.test.x, rows))
        if self.test.bytes is not None:
            # Its own copy: shared weights would be in the caches twice as often as a peer's.
            self.networks["lrgate"].save(self.folder / "copy.npz")
            candidates["lrgate, uint8 rows"] = Network.load(self.folder / "copy.npz", tune=False)
            calls["lrgate, uint8 rows"] = calls_of(self.test.bytes, rows)
        settings: dict[str, Settings] = {}
        for engine in self.peers:
            self.say(f"{rows} rows per call: {engine.name} ...")
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
            candidates[engine.name] = forward
            calls[engine.name] = calls["lrgate dense"]
        self.say(f"{rows} rows per call: all engines ...")
        times = timing.in_turn(candidates, calls, self.seconds)
        alone = timing.alone(candidates, calls, _ALONE * self.seconds / len(candidates))
        cold = {
            read: timing.cold(candidates, calls, _COLD * self.seconds, read)
            for read in (COLD if rows == 1 else ())
        }
        for name, net in self.networks.items():
            self.errors[name] = self.error(net, rows)
        if self.test.bytes is not None:
            self.errors["lrgate, uint8 rows"] = self.error(
                self.networks["lrgate"], rows, self.test.bytes
            )
        entries = [
            self.entry(name, candidates[name], rows, times, alone, cold, settings.get(name, {}))
            for name in candidates
        ]
        candidates.clear()
        self.forget()
        return Race(rows, tuple(entries))

    def error(self, forward: Any, rows: int, x: Rows | None = None) -> float:
        """The error on all test rows, computed with the same batch size as the timing."""
        return self.judge.error(outputs_of(forward, self.test.x if x is None else x, rows)).after

    def peer_error(self, engine: Engine, settings: str, forward: Forward, rows: int) -> float:
        """The error of an engine, cached if its results do not depend on the batch."""
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
        alone: Mapping[str, Timing],
        cold: Mapping[int, Mapping[str, Timing]],
        settings: Settings,
    ) -> Entry:
        time_ = times[name]
        low, high = time_.quartiles()
        ours = isinstance(contestant, Network)
        plan = contestant.plan_for(rows) if ours else None
        precisions = {engine.name: engine.precision for engine in self.peers}
        return Entry(
            name=name,
            lrgate=ours,
            precision=precisions[name]
            if plan is None
            else ("int8" if "int8" in plan.precisions else "f32"),
            settings=dict(settings),
            error=self.errors[name],
            within_limit=self.errors[name] <= self.error_limit,
            calls=len(time_.calls),
            median=time_.round_seconds_per_row * rows,
            p99=time_.p99,
            low=low,
            high=high,
            alone=self.alone(name, alone, ours),
            cold=tuple(
                Cold(
                    read,
                    len(each[name].calls),
                    each[name].median,
                    self.over(name, each).get("any") if ours else None,
                )
                for read, each in cold.items()
            ),
            seconds_per_row=time_.round_seconds_per_row,
            rows_per_second=1 / time_.round_seconds_per_row,
            over=self.over(name, times) if ours else {},
            plan=() if plan is None else path_names(plan.strategies, plan.precisions),
            predicted=_predicted(contestant, rows) if ours else None,
        )

    def alone(self, name: str, times: Mapping[str, Timing], ours: bool) -> Alone:
        against = self.over(name, times).get("any") if ours else None
        return Alone(
            len(times[name].calls),
            times[name].median,
            times[name].p99,
            None if against is None else against.median,
            None if against is None else against.peer,
        )

    def over(self, name: str, times: Mapping[str, Timing]) -> dict[str, Against]:
        """Speed-up over the fastest peer of each precision whose error is within the limit.

        Engines that use undocumented calls do not count.
        """
        found: dict[str, Against] = {}
        for precision in ("any", "f32", "bf16", "int8"):
            near = [
                peer.name
                for peer in self.peers
                if peer.documented
                and precision in ("any", peer.precision)
                and peer.name in times
                and self.errors[peer.name] <= self.error_limit
            ]
            if near:
                best = min(near, key=lambda name: times[name].median)
                found[precision] = Against(
                    **vars(times[name].speed_up_over(times[best])), peer=best
                )
        return found

    def report_failures(self, races: int) -> None:
        """Add engines that failed in `races` races, or in some of them, to `left_out`."""
        for name, reasons in self.failures.items():
            if len(reasons) == races:
                self.left_out[name] = next(iter(reasons.values()))
                self.peers = [engine for engine in self.peers if engine.name != name]
            else:
                self.left_out |= {
                    f"{name}, {rows} rows per call": why for rows, why in reasons.items()
                }

    def forget(self) -> None:
        """Free the code that engines compiled for this batch size."""
        if "torch" in sys.modules and "torch._dynamo" in sys.modules:
            sys.modules["torch._dynamo"].reset()
        gc.collect()

    # Start-up

    def starts(self) -> list[Startup]:
        """Measure each engine from loading its file to its first answer.

        Engines use their best settings for the smallest batch size, which was timed last.
        """
        row = self.folder / "row.npy"
        np.save(row, self.test.x[:1])
        found = []
        for name, net in self.networks.items():
            self.say(f"{name}: start-up ...")
            path = LRGATE.store(net, self.calibration, self.folder, {"file": name})
            found.append(self.start(name, LRGATE, path, row, {}))
        for engine in self.peers:
            self.say(f"{engine.name}: start-up ...")
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


def _predicted(net: Network, rows: int) -> float | None:
    report = net.report
    if report is None:
        return None
    nearest = min(report.batches, key=lambda batch: abs(math.log(batch.rows / rows)))
    return nearest.predicted_speed_up

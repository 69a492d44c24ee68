"""The demo: compares the strategies on 1,000 real digits.

It runs in a new process in which NumPy's BLAS is limited to one thread, as everything else is. The
limit must be set before NumPy is loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate import examples, runtime
from lrgate.bench.engines import NumpyForward, folded
from lrgate.frameworks.loading import load
from lrgate.measure import process, timing
from lrgate.measure.timing import Timing
from lrgate.network import Network
from lrgate.results.profile import Profile
from lrgate.results.table import Column, Table

__all__ = ["Demo", "measure", "run"]

BATCH: Final = 256
"""Rows per call of the larger batch size."""

_WIDTH: Final = 79
_COLUMNS: Final = (
    Column("", left=True),
    Column("error", ".2%"),
    Column("median", lambda seconds: f"{seconds * 1e6:.2f}"),
    Column("p99", lambda seconds: f"{seconds * 1e6:.2f}"),
    Column("dense", ".1f"),
    Column("NumPy", ".1f"),
    Column("error", ".2%"),
    Column("us/row", lambda seconds: f"{seconds * 1e6:.2f}"),
    Column("dense", ".1f"),
    Column("NumPy", ".1f"),
)


@dataclass(frozen=True)
class Entry:
    """One line of the table: NumPy, or the network under one plan.

    Attributes
    ----------
    strategies : dict from rows per call to strategies
        Strategy of each layer; empty for NumPy.
    wrong : dict from rows per call to int
        Number of misclassified digits.
    times : dict from rows per call to Timing
    """

    strategies: dict[int, tuple[str, ...]]
    wrong: dict[int, int]
    times: dict[int, Timing]


@dataclass(frozen=True)
class Demo:
    """Results of the demo; ``print`` shows them as a table.

    Attributes
    ----------
    network : str
        Widths of the layers.
    digits : int
        Number of digits.
    machine, numpy : dict
        CPU and versions on which the times depend.
    entries : dict from name to Entry
    profiles : dict from rows per call to Profile
        Profiles of the fastest plan.
    """

    network: str
    digits: int
    machine: dict[str, str]
    numpy: dict[str, str]
    entries: dict[str, Entry]
    profiles: dict[int, Profile]

    def to_dict(self) -> dict[str, Any]:
        """Return the results as plain data, with times in seconds."""
        return {
            "network": self.network,
            "digits": self.digits,
            "threads": 1,
            "machine": self.machine,
            "numpy": self.numpy,
            "results": {
                name: {str(rows): self._figures(entry, rows) for rows in (1, BATCH)}
                for name, entry in self.entries.items()
            },
            "profiles": {str(rows): profile.to_dict() for rows, profile in self.profiles.items()},
        }

    def _figures(self, entry: Entry, rows: int) -> dict[str, Any]:
        time = entry.times[rows]
        return {
            "strategies": list(entry.strategies[rows]) if entry.strategies else None,
            "error": entry.wrong[rows] / self.digits,
            "median_seconds_per_call": time.median,
            "p99_seconds_per_call": time.p99,
            "seconds_per_row": time.seconds_per_row,
            **{
                f"speed_up_over_{name}": vars(time.speed_up_over(self.entries[name].times[rows]))
                for name in ("dense", "numpy")
            },
        }

    def __str__(self) -> str:
        parts = [self._head(), self._table()]
        for rows, profile in self.profiles.items():
            called = "one row per call" if rows == 1 else f"{rows} rows per call"
            parts.append(f"Layers of the fastest mix, {called}:\n{profile}")
        parts.append(self._tail())
        return "\n\n".join(parts)

    def _head(self) -> str:
        machine, numpy = self.machine, self.numpy
        how = f", {self._instruction_set()}, one thread"
        lines = [
            f"lrgate {machine['lrgate']}: {self.network} on {self.digits:,} MNIST test digits",
            f"CPU     {machine['cpu']}"[: _WIDTH - len(how)] + how,
            f"NumPy   {numpy['version']}, {numpy['blas']}, one thread"[:_WIDTH],
        ]
        if "core_type" in numpy:
            lines.append(
                f"        OPENBLAS_CORETYPE={numpy['core_type']} is set, so NumPy may not use the "
                "kernels\n        that OpenBLAS has for this CPU"
            )
        return "\n".join(lines)

    def _instruction_set(self) -> str:
        return next(iter(self.profiles.values())).instruction_set

    def table(self) -> Table:
        """NumPy and each plan, in calls of one row and in calls of `BATCH` rows."""
        rows = []
        for name, entry in self.entries.items():
            single, batch = entry.times[1], entry.times[BATCH]
            rows.append(
                (
                    "NumPy" if name == "numpy" else name,
                    entry.wrong[1] / self.digits,
                    single.median,
                    single.p99,
                    *self._speed_ups(single, 1),
                    entry.wrong[BATCH] / self.digits,
                    batch.seconds_per_row,
                    *self._speed_ups(batch, BATCH),
                )
            )
        return Table(_COLUMNS, rows, gap=2)

    def _speed_ups(self, time: Timing, rows: int) -> Iterator[float]:
        for name in ("dense", "numpy"):
            yield time.speed_up_over(self.entries[name].times[rows]).median

    def _table(self) -> str:
        return (
            f"Calls of one row, then of {BATCH} rows. Median and p99 are in us per call; columns\n"
            f"dense and NumPy show the speed-up over these.\n{self.table()}"
        )

    def _tail(self) -> str:
        wrong = {name: entry.wrong[1] for name, entry in self.entries.items()}
        lines = ["skip is exact: it only leaves out products with zero."]
        if "gate" in wrong:
            lines.append("gate is not exact: it loses units that it wrongly predicts to be zero.")
        if "int8" in wrong:
            lines.append("int8 is not exact: it skips and rounds weights and activations to bytes.")
        counts = ", ".join(f"{name} {count}" for name, count in wrong.items() if name != "numpy")
        lines.append(f"Wrong labels of {self.digits:,}: {counts}.")
        return "\n".join(lines)


def run(network: str | os.PathLike[str] | None = None, seconds: float = 10.0) -> Demo:
    """Run :func:`measure` in a new process in which NumPy uses one thread.

    Raises
    ------
    RuntimeError
        If the process ends without a result.
    """
    return process.fresh(measure, network, seconds)


def measure(network: str | os.PathLike[str] | None = None, seconds: float = 10.0) -> Demo:
    """Time a network with each strategy on the digits that come with the package.

    Parameters
    ----------
    network : path, optional
        A network that takes MNIST's pixels from 0 to 255. By default, the one of the package.
    seconds : float
        Approximate duration of the measurement.

    Raises
    ------
    ValueError, OSError
        If the network cannot be loaded or does not take digits.
    """
    shipped, digits, labels = examples.mnist()
    net = shipped if network is None else load(network)
    name = "the shipped network" if network is None else os.fspath(network)
    if (net.input_size, net.output_size) != (digits.shape[1], 10) or net.classes is None:
        raise ValueError(
            f"{name}: expected a classifier of {digits.shape[1]} inputs and 10 outputs, got {net!r}"
        )
    x = digits.astype(np.float32)
    with runtime.thread_limit(1):
        plans = _plans(net, x, seconds)
        times = {rows: _times(plans, x, rows, 0.35 * seconds) for rows in (1, BATCH)}
        entries = {
            name: Entry(
                strategies={rows: plan.plan_for(rows).strategies for rows in (1, BATCH)},
                wrong={rows: _wrong(plan, x, labels, rows) for rows in (1, BATCH)},
                times={rows: times[rows][name] for rows in (1, BATCH)},
            )
            for name, plan in plans.items()
        }
        numpy_labels = np.argmax(NumpyForward(folded(net))(x), axis=1)
        numpy_wrong = int(np.sum(np.take(net.classes, numpy_labels) != labels))
        numpy_entry = Entry({}, dict.fromkeys((1, BATCH), numpy_wrong), {})
        numpy_entry.times.update({rows: times[rows]["numpy"] for rows in (1, BATCH)})
        profiles = {
            rows: plans["fastest"].profile(x, batch_size=rows, seconds=0.05 * seconds)
            for rows in (1, BATCH)
        }
    return Demo(
        network="-".join(str(n) for n in (net.input_size, *(y.outputs for y in net.layers))),
        digits=len(x),
        machine=timing.machine(),
        numpy=_numpy_config(),
        entries={"numpy": numpy_entry, **entries},
        profiles=profiles,
    )


def _plans(net: Network, x: npt.NDArray[np.float32], seconds: float) -> dict[str, Network]:
    """The network under each plan, by name."""
    plans = {"dense": net.dense(), "skip": net.with_strategies(["skip"] * len(net.layers))}
    gated = [layer.gate is not None for layer in net.layers]
    if any(gated):
        plans["gate"] = net.with_strategies(["gate" if gate else "skip" for gate in gated])
    kinds = ["f32" if layer.quantization is None else "int8" for layer in net.layers]
    if "int8" in kinds:
        plans["int8"] = net.with_strategies(["skip"] * len(net.layers), precision=kinds)
    plans["fastest"] = net.tune(x, (1, BATCH), seconds=0.08 * seconds)
    return plans


def _times(
    plans: dict[str, Network], x: npt.NDArray[np.float32], rows: int, seconds: float
) -> dict[str, Timing]:
    net = plans["dense"]
    calls = timing.batches(x, rows)
    layers = folded(net)
    forms = {"view": NumpyForward(layers, transposed=True), "copy": NumpyForward(layers)}
    tried = timing.interleaved(forms, calls, 0.1 * seconds, min_rounds=3)
    best = min(forms, key=lambda form: tried[form].median)
    contestants: dict[str, Callable[[npt.NDArray[Any]], object]] = {"numpy": forms[best], **plans}
    return timing.interleaved(contestants, calls, 0.9 * seconds)


def _wrong(net: Network, x: npt.NDArray[np.float32], labels: npt.NDArray[Any], rows: int) -> int:
    """Number of digits misclassified in calls of `rows` rows."""
    starts = range(0, len(x), rows)
    predicted = np.concatenate([net.predict(x[first : first + rows]) for first in starts])
    return int(np.sum(predicted != labels))


def _numpy_config() -> dict[str, str]:
    """NumPy's version and BLAS, with the BLAS kernels if threadpoolctl is installed."""
    build: Any = np.show_config(mode="dicts")  # type: ignore[call-overload, unused-ignore]
    blas = build.get("Build Dependencies", {}).get("blas", {})
    label = f"{blas.get('name', 'unknown BLAS')} {blas.get('version', '')}".strip()
    found = {"version": np.__version__, "blas": label}
    with contextlib.suppress(ImportError):
        pools = importlib.import_module("threadpoolctl").threadpool_info()
        kernels = [pool.get("architecture") for pool in pools if "numpy" in pool["filepath"]]
        if kernels and kernels[0]:
            found["blas"] += f" ({kernels[0]} kernels)"
    core_type = os.environ.get("OPENBLAS_CORETYPE")
    if core_type and "openblas" in label:
        found["core_type"] = core_type
    return found

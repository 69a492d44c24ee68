"""int8 beside other engines' int8: ``python benches/int8.py --data-dir data/mnist``.

The shipped network on its 1,000 digits; and, with ``--network``, any network of MNIST's pixels that
was trained without regard to lrgate, on test rows, optimised on training rows. All contestants take
turns in every round, each with another call of real digits each time. Errors are those of all test
rows, in calls of as many rows as are timed. One thread.

A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import lrgate
from lrgate import timing
from lrgate.bench import engines

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "training"))

import data

ROWS = (1, 64, 256, 1024)
CALIBRATION_ROWS = 10_000
PEERS = ("ORT", "OpenVINO f32", "OpenVINO int8")


def main() -> None:
    parser = argparse.ArgumentParser(description="int8 beside the int8 of other engines.")
    parser.add_argument("--data-dir", type=Path, default=Path("data/mnist"))
    parser.add_argument("--network", type=Path, nargs="*", default=[], help="other networks")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each number of rows")
    parser.add_argument("--cpu", type=int, help="keep everything on this CPU")
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    lrgate.set_num_threads(1)
    for name, value in (timing.machine() | engines.versions()).items():
        print(f"{name:<16} {value}")
    rows = data.load(options.data_dir)
    compare("the shipped network", lrgate.examples.mnist()[0], rows, options.seconds, ship=True)
    for path in options.network:
        compare(path.stem, lrgate.Network.load(path), rows, options.seconds, ship=False)


def compare(
    title: str, net: lrgate.Network, rows: data.DataSet, seconds: float, *, ship: bool
) -> None:
    """Print the table of one network."""
    order = np.random.default_rng(0).permutation(len(rows.x_train))[:CALIBRATION_ROWS]
    fit = rows.x_train[order].astype(np.float32)
    if ship:
        fast = net
        dense8 = net.with_strategies(["dense"] * len(net.layers), precision="int8")
    else:
        fast = lrgate.optimize(net, fit, rows.y_train[order], batch_sizes=ROWS, num_threads=1)
        quantized = net.quantize(fit)
        dense8 = quantized.with_strategies(["dense"] * len(net.layers), precision="int8")
    x = rows.x_test.astype(np.float32)
    contestants: dict[str, tuple[Callable[[Any], Any], Any]] = {
        "optimised": (fast, x),
        "optimised, uint8": (fast, rows.x_test),
        "int8 dense": (dense8, x),
        "f32 dense": (net.dense(), x),
        **{name: (peer, x) for name, peer in peers(net, fit[:1000]).items()},
    }
    print(f"\n{title}")
    print("rows                      error  us a row (quartiles)     over the best peer")
    for size in ROWS:
        print(f"      plan: {'-'.join(fast.strategies(size))}")
        table(contestants, rows.y_test, size, seconds)


def peers(net: lrgate.Network, fit: npt.NDArray[np.float32]) -> dict[str, Callable[[Any], Any]]:
    """Every peer that is installed."""
    made = {}
    for engine in engines.selected(PEERS):
        try:
            made[engine.name] = engines.make(engine, net, fit)
        except ImportError as error:
            print(f"{engine.name}: left out, {error}")
    return made


def table(
    contestants: dict[str, tuple[Callable[[Any], Any], Any]],
    labels: npt.NDArray[Any],
    size: int,
    seconds: float,
) -> None:
    """Time calls of `size` rows by turns and print a line for each contestant."""
    timed = {name: run for name, (run, _) in contestants.items()}
    calls = {name: timing.batches(x, size) for name, (_, x) in contestants.items()}
    times = timing.interleaved(timed, calls, seconds)
    theirs = [name for name in contestants if name.startswith(PEERS)]
    best = min(theirs, key=lambda name: times[name].median, default=None)
    for name, (run, x) in contestants.items():
        wrong = np.concatenate([run(x[at : at + size]) for at in range(0, len(x), size)])
        error = float((wrong.argmax(axis=1) != labels).mean())
        low, high = (1e6 * quartile / size for quartile in times[name].quartiles())
        ratio = "" if best is None else str(times[name].speed_up_over(times[best]))
        print(
            f"{size:>4}  {name:<18} {error:7.2%} {times[name].seconds_per_row * 1e6:8.2f} "
            f"({low:.2f} to {high:.2f})".ljust(58)
            + ratio
            + ("  best peer" if name == best else "")
        )


if __name__ == "__main__":
    main()

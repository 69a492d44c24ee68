"""lrgate beside ONNX Runtime on the shipped network, in one run: ``python benches/speed.py``.

All engines take turns in every round, each with another call of real digits each time, so that they
meet the same clock speeds and neighbours. Ratios are medians over rounds, with quartiles. The
errors are those on the digits, of calls with as many rows as are timed.

One thread each; where the process may use two CPUs, the throughput of two threads follows, and the
time of one row through dense int8 layers of random networks.
``--cpu N`` keeps the part with one thread on that CPU (Linux).
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

import lrgate
import networks
from lrgate.bench import engines
from lrgate.measure import timing

ROWS = (1, 64, 256, 1024)
PEER = "ORT f32"
TARGETS = (
    ("fastest", 1, 7.0, "at most 1/7 of ONNX Runtime's time"),
    ("fastest", 256, 2.0, "at most 1/2 of ONNX Runtime's time"),
    *(("dense", rows, 1 / 1.1, "within 10 % of ONNX Runtime") for rows in ROWS),
)
TWO_THREADS = 1.8
ONE_ROW = (
    (512, 1024, 512, 10),
    (512, 1024, 1024, 10),
    (1024, 1024, 1024, 10),
    (1024, 2048, 1024, 10),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="lrgate beside ONNX Runtime.")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each number of rows")
    parser.add_argument("--cpu", type=int, help="keep the part with one thread on this CPU")
    arguments = parser.parse_args()
    for name, value in (timing.machine() | engines.versions()).items():
        print(f"{name:<16} {value}")
    case = networks.shipped()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if arguments.cpu is not None:
        os.sched_setaffinity(0, {arguments.cpu})
    ratios = one_thread(case, arguments.seconds)
    if allowed is not None:
        os.sched_setaffinity(0, allowed)
    print("\ntargets, one thread")
    for name, rows, wanted, text in TARGETS:
        ratio = ratios[name, rows]
        verdict = "reached" if ratio.median >= wanted else "missed"
        print(f"  {name:<8} {rows:>4} rows: {text:<35} {ratio.median:6.2f} times  {verdict}")
    if (os.cpu_count() or 1 if allowed is None else len(allowed)) < 2:
        print("\ntwo threads: not measured, since this process may use one CPU only")
    else:
        two_threads(case, arguments.seconds)
        one_row_on_two_threads(arguments.seconds)


def one_thread(case: networks.Case, seconds: float) -> dict[tuple[str, int], timing.Ratio]:
    """Print the table; return the speed-ups over the peer by strategy and rows."""
    contestants: dict[str, Callable[[Any], Any]] = {
        PEER: engines.make(engines.by_name(PEER), case.net, case.x),
        **{name: case.plan(name) for name in ("dense", "skip", "gate")},
        "fastest": case.net.tune(case.x, ROWS),
    }
    ratios = {}
    print(f"\n{'rows':>4}  {'':<8}  error   us per row (quartiles)      speed-up over {PEER}")
    with lrgate.thread_limit(1):
        for rows in ROWS:
            calls = timing.batches(case.x, rows)
            times = timing.interleaved(contestants, calls, seconds)
            for name, time in times.items():
                ratios[name, rows] = ratio = time.speed_up_over(times[PEER])
                low, high = (1e6 * quartile / rows for quartile in time.quartiles())
                spread = f"({low:.2f} to {high:.2f})"
                print(
                    f"{rows:>4}  {name:<8} {_error(contestants[name], case, rows):6.2%} "
                    f"{time.seconds_per_row * 1e6:8.2f} {spread:<18}  {ratio}"
                )
            print("      fastest:", *contestants["fastest"].plan_for(rows).strategies)
    return ratios


def _error(call: Callable[[Any], Any], case: networks.Case, rows: int) -> float:
    x = case.x
    parts = [call(np.resize(x[i : i + rows], (rows, x.shape[1]))) for i in range(0, len(x), rows)]
    labels = np.concatenate(parts)[: len(x)].argmax(axis=1)
    return float(np.mean(labels != case.labels))


def two_threads(case: networks.Case, seconds: float) -> None:
    """Print the throughput of one and of two threads."""
    rows = 1024
    calls = timing.batches(case.x, rows)
    fastest = case.net.tune(case.x, ROWS)
    print(f"\n{rows} rows per call  1 thread, us per row  2 threads  ratio")
    for name in ("dense", "skip", "gate", "fastest"):
        net = fastest if name == "fastest" else case.plan(name)
        times = timing.interleaved(by_threads(net), calls, seconds / 2)
        ratio = times["2"].speed_up_over(times["1"])
        verdict = "reached" if ratio.median >= TWO_THREADS else "missed"
        one, two = (times[n].seconds_per_row * 1e6 for n in ("1", "2"))
        print(f"  {name:<8} {one:28.2f} {two:10.2f}  {ratio}  at least {TWO_THREADS}: {verdict}")


def one_row_on_two_threads(seconds: float) -> None:
    """Print the time of one row, in dense int8 layers with random weights."""
    rng = np.random.default_rng(0)
    print("\n1 row per call       MB in int8  1 thread, us  2 threads  ratio")
    for widths in ONE_ROW:
        x = rng.normal(size=(1024, widths[0])).astype(np.float32)
        layers = [
            (rng.normal(scale=(2 / d) ** 0.5, size=(h, d)), np.zeros(h))
            for d, h in itertools.pairwise(widths)
        ]
        net = lrgate.Network.from_layers(layers).quantize(x)
        net = net.with_strategies(["dense"] * len(net.layers), "int8")
        times = timing.interleaved(by_threads(net), timing.batches(x, 1), seconds / 2)
        one, two = (times[n].seconds_per_row * 1e6 for n in ("1", "2"))
        size = sum(layer.weight.size for layer in net.layers) / 1e6
        ratio = times["2"].speed_up_over(times["1"])
        name = "-".join(map(str, widths))
        print(f"  {name:<20} {size:8.1f} {one:13.2f} {two:10.2f}  {ratio}")


def by_threads(net: lrgate.Network) -> dict[str, Callable[[Any], Any]]:
    return {str(n): lambda x, n=n: net.forward(x, num_threads=n) for n in (1, 2)}


if __name__ == "__main__":
    main()

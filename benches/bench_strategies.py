"""Dense, skip, gate and the fastest mix side by side, by number of rows per call.

``pytest --benchmark-only`` runs it. Each benchmark first asserts that the answers are right:
against the network in float64, whose gates are emulated, and for the gate against a limit of its
error. ``--benchmark-json=FILE`` keeps the settings beside the times. Each call takes another row.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import lrgate
import networks
import oracle
from lrgate.bench import engines
from lrgate.measure import timing
from networks import Case

# Little time for each, so that all take minutes.
pytestmark = pytest.mark.benchmark(max_time=0.3, min_rounds=5, warmup=True, warmup_iterations=10)

ROWS = (1, 8, 64, 256, 1024)
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
CHECKED = 64
"""Rows that are compared with the network in float64."""

CASES: dict[str, Callable[[], Case]] = {"shipped": networks.shipped} | {
    networks.random_name(widths, density): functools.partial(networks.random, widths, density)
    for widths in networks.WIDTHS
    for density in (0.2, 1.0)
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with lrgate.thread_limit(1):
        yield


@functools.cache
def reference(case: str, strategies: tuple[str, ...]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Outputs in float64, and how far float32 may be from them."""
    made = CASES[case]()
    return oracle.forward(made.net, made.x[:CHECKED], strategies)[-1]


def outputs(
    call: Callable[[npt.NDArray[Any]], Any], x: npt.NDArray[Any], rows: int
) -> npt.NDArray[np.float32]:
    """Outputs on all of `x`, in calls of `rows` rows; the last call is padded."""
    parts = [call(np.resize(x[i : i + rows], (rows, x.shape[1]))) for i in range(0, len(x), rows)]
    return np.concatenate(parts)[: len(x)]


def check(case: Case, strategy: str, rows: int) -> dict[str, Any]:
    """Assert that the answers are right in calls of `rows` rows; say how far the gate is off."""
    plan = case.plan(strategy)
    used = plan.plan_for(rows).strategies
    y = outputs(plan, case.x, rows)
    what = f"{case.name}, {strategy}, {rows} rows"
    if strategy not in ("fastest", "optimised"):
        oracle.assert_close(y[:CHECKED], reference(case.name, used), what)
    if case.labels is not None:
        found: dict[str, Any] = {"error": float(np.mean(y.argmax(axis=1) != case.labels))}
    else:
        found = {}
    dense = outputs(case.plan("dense"), case.x, rows)
    spread = np.sum(np.square(dense - dense.mean(axis=0)))
    found["squared_output_error"] = float(np.sum(np.square(y - dense)) / spread)
    found["disagreement"] = float(np.mean(y.argmax(axis=1) != dense.argmax(axis=1)))
    exact = "gate" not in used and strategy != "optimised"
    limit = 1e-8 if exact else case.max_gate_error
    assert found["squared_output_error"] <= limit, what
    return found


@functools.cache
def layers(case: str, strategy: str, rows: int) -> list[dict[str, Any]]:
    """Densities of each layer, and its gate's figures."""
    made = CASES[case]()
    profile = made.plan(strategy).profile(made.x[:256], batch_size=rows, seconds=0.0)
    wanted = (
        "strategy",
        "precision",
        "rank",
        "density_in",
        "density_out",
        "computed_share",
        "recall",
    )
    return [
        {name: getattr(layer, name) for name in (*wanted, "lost_energy")}
        for layer in profile.layers
    ]


def record(benchmark: Any, case: Case, strategy: str, rows: int, threads: int) -> None:
    benchmark.extra_info.update(
        network=case.name,
        strategy=strategy,
        rows=rows,
        threads=threads,
        isa=lrgate.isa(),
        machine=timing.machine(),
        versions=engines.versions(),
    )


# The random networks take longer and are of interest for the single strategies only.
CONTESTS = [
    (case, strategy)
    for case in CASES
    for strategy in ("dense", "skip", "gate", "fastest", "optimised")
    if case == "shipped" or strategy not in ("fastest", "optimised")
]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("case", "strategy"), CONTESTS)
def test_strategy(benchmark: Any, case: str, strategy: str, rows: int) -> None:
    made = CASES[case]()
    record(benchmark, made, strategy, rows, threads=1)
    benchmark.extra_info.update(check(made, strategy, rows), layers=layers(case, strategy, rows))
    benchmark.group = f"{case}, {rows} rows"
    net, calls = made.plan(strategy), itertools.cycle(timing.batches(made.x, rows))
    benchmark(lambda: net(next(calls)))


@pytest.mark.parametrize("rows", ROWS)
def test_onnxruntime(benchmark: Any, rows: int) -> None:
    """The best dense engine on the shipped network, in the group of the strategies there."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    made = CASES["shipped"]()
    session = engines.make(engines.by_name("ORT f32"), made.net, made.x)
    y = outputs(session, made.x, rows)
    dense = ("dense",) * len(made.net.layers)
    oracle.assert_close(y[:CHECKED], reference("shipped", dense), f"ONNX Runtime, {rows} rows")
    record(benchmark, made, "ONNX Runtime", rows, threads=1)
    benchmark.extra_info["error"] = float(np.mean(y.argmax(axis=1) != made.labels))
    benchmark.group = f"shipped, {rows} rows"
    calls = itertools.cycle(timing.batches(made.x, rows))
    benchmark(lambda: session(next(calls)))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("strategy", ["dense", "skip", "gate", "fastest", "optimised"])
def test_threads(benchmark: Any, strategy: str, threads: int) -> None:
    """Throughput of one and of two threads on the shipped network."""
    if CPUS < 2:
        pytest.skip("this process may use one CPU only")
    rows = 1024
    made = CASES["shipped"]()
    net, calls = made.plan(strategy), timing.batches(made.x, rows)
    found = check(made, strategy, rows)
    with lrgate.thread_limit(threads):
        one = net.forward(calls[0], num_threads=1)
        assert np.array_equal(net(calls[0]), one), "threads change the answer"
        record(benchmark, made, strategy, rows, threads)
        benchmark.extra_info.update(found, layers=layers("shipped", strategy, rows))
        benchmark.group = f"shipped, {rows} rows, one and two threads"
        benchmark(lambda: net(calls[0]))

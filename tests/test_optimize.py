"""`optimize`: results and errors.

The fastest strategies depend on the clock, but the tests do not. Tests of gates, orders and int8
use `wins`, which replaces the clock and makes these faster.
"""

from __future__ import annotations

import gc
import inspect
import itertools
import json
import math
import re
import sys
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from tqdm import tqdm

import lrgate
from lrgate import Factors, Gate, Layer, Network, estimators
from lrgate.estimators import registry
from lrgate.inputs import label_array
from lrgate.inputs.sparse import SparseInputs
from lrgate.measure import timing
from lrgate.measure.machine import fingerprint
from lrgate.model import Activation
from lrgate.model.plan import words
from lrgate.planner import candidates, clock, merging, search, signals
from lrgate.planner.arguments import checked_ranks, checked_targets
from lrgate.planner.budget import BudgetCheck
from lrgate.planner.candidates import Candidate, choices_on_front
from lrgate.planner.clock import Clock
from lrgate.planner.evaluation import Evaluator
from lrgate.planner.evidence import Evidence
from lrgate.planner.factors import factor_candidates
from lrgate.planner.gates import GateSearch
from lrgate.planner.kept import KeptLayer
from lrgate.planner.plans import only_plan, plan_key, without_gates
from lrgate.planner.problem import Problem, Request
from lrgate.planner.reporting import Reporter
from lrgate.planner.search import Search
from lrgate.planner.split import Split
from lrgate.quantization.fit import selected
from oracle import gated, make

pytestmark = pytest.mark.usefixtures("short_times")

D = 20
RELU = Activation("relu")

# Units of the first layer of `net`: off for all inputs from 0 to 1, off on real rows, always on.
DEAD, SILENT, ALWAYS = [3, 17], [5, 30], [8, 9]


@pytest.fixture
def wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make gates, orders and int8 faster, so that the search is deterministic."""
    speeds = {"dense": 9, "own_dense": 9, "unordered": 8, "exact": 5, "plain": 5, "int8_dense": 6}
    speeds["before"] = 2

    def race(self: Any, size: int, seconds: float, rows: Any = None, **networks: Network) -> Any:
        each = {name: np.full(3, speeds.get(name, 1) * 1e-6 * size) for name in networks}
        return {name: timing.Timing(size, times, times) for name, times in each.items()}

    def layer_seconds(self: Any, network: Network) -> np.ndarray:
        found = network.engine.profile(
            self.rows, self.rows.shape[0], 0.0
        )  # shares of the computed units
        ranks = [layer["rank"] for layer in found]
        shares = [layer["computed_share"] for layer in found]
        costs = [s / 2 + k / 1000 if k else 1.0 for s, k in zip(shares, ranks, strict=True)]
        return np.tile(np.array(costs)[:, None], len(self.sizes))

    def tuned(self: Any, network: Network) -> Network:
        names = [_approximate(layer) for layer in network.layers]
        plan = [(n, names, list(network.plan_for(n).precisions)) for n in self.sizes]
        return network._with_engine_plan(network.engine.with_plan(plan))

    for name, fake in (("race", race), ("layer_seconds", layer_seconds), ("tuned", tuned)):
        monkeypatch.setattr(Clock, name, fake)


def _approximate(layer: Any) -> str:
    """The strategy that uses all that a layer has."""
    if layer.factors is not None:
        return "factor" if layer.factors.gate is None else "factor-gate"
    return "skip" if layer.gate is None else "gate"


def network(
    outputs: int = 5, hidden: Any = "relu", last: Any = "identity", seed: int = 0, **options: Any
) -> Network:
    """A sparse network for rows from 0 to 1, with dead, silent and always active units."""
    rng = np.random.default_rng(seed)
    layers = []
    for h, (d, k) in enumerate(pairwise([D, 60, 40, outputs])):
        # Mostly of low rank, as trained weights.
        low = rng.normal(size=(k, 4)) @ rng.normal(size=(4, d)) / 2
        weight, bias = (low + 0.2 * rng.normal(size=(k, d))) / d**0.5, rng.normal(size=k) / 4
        if h == 0:
            bias[DEAD], bias[ALWAYS] = -50, 20
            # Active only if all inputs are close to 1.
            weight[SILENT], bias[SILENT] = 1, 0.5 - D
        if h == 1:
            weight[:, ALWAYS] /= 50
        layers.append((weight, bias))
    return Network.from_layers(layers, [hidden, hidden, last], **options)


def rows(n: int = 400, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((n, D)) * (rng.random((n, D)) < 0.6)).astype(np.float32)


def optimized(net: Network, x: Any, y: Any = None, budget: float = 0.1, **options: Any) -> Network:
    """Run `optimize` with quick settings, and check the invariants of its result."""
    chosen = {"batch_sizes": (1, 32), "ranks": (4, 8), "num_threads": 1, "progress": False}
    chosen["factors"] = "none"
    chosen |= options
    fast = lrgate.optimize(net, x, y, budget, **chosen)
    check(fast, net, x, y, budget, chosen)
    return fast


def check(
    fast: Network, net: Network, x: Any, y: Any, budget: float, options: dict[str, Any]
) -> None:
    report = fast.report
    assert report is not None
    sizes = sorted(options["batch_sizes"])
    assert [plan.rows for plan in fast.plan] == [c.rows for c in report.batches] == sizes

    # Nothing given by the user is changed.
    for layer, own in zip(fast.layers, net.layers, strict=True):
        np.testing.assert_array_equal(layer.weight, own.weight)
        np.testing.assert_array_equal(layer.bias, own.bias)
        assert layer.activation == own.activation
    assert (fast.task, fast.metadata) == (net.task, net.metadata)
    for name in ("classes", "input_scale", "input_shift"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(net, name))

    counts = [y.outputs if y.kept_units is None else len(y.kept_units) for y in fast.layers]
    left_out = np.add(report.dead_units, report.dropped_units)
    assert (counts + left_out == [layer.outputs for layer in net.layers]).all()
    for batch, plan in zip(report.batches, fast.plan, strict=True):
        for i, layer in enumerate(batch.layers):
            own = fast.layers[i]
            assert (layer.strategy, layer.precision) == (plan.strategies[i], plan.precisions[i])
            assert (layer.inputs, layer.outputs) == (own.inputs, own.outputs)
            assert layer.computed_units == counts[i]
            used = words(layer.strategy)
            part = own.factors if "factor" in used else own.gate if "gate" in used else None
            assert layer.rank == (None if part is None else part.rank)
            assert (layer.estimator in ("whitened", "logistic")) is (used == {"gate"})
            assert (layer.estimator == "factored") is ("factor" in used)
            gates = "gate" in used
            assert (layer.recall is not None) is (layer.lost_energy is not None) is gates
            assert 0 <= layer.computed_share <= counts[i] / own.outputs + 1e-6
            assert 0 <= layer.density_in <= 1 and 0 <= layer.density_out <= 1
            assert layer.seconds_before > 0 and layer.seconds_after > 0
        assert min(batch.seconds_dense, batch.seconds_exact, batch.seconds_after) > 0
        for spread in (batch.over_dense, batch.over_exact):
            assert 0 < spread.low <= spread.median <= spread.high
    strategies = [
        {words(plan.strategies[i]) for plan in fast.plan} for i in range(len(fast.layers))
    ]
    for layer, names in zip(fast.layers, strategies, strict=True):
        assert (layer.gate is not None) is ({"gate"} in names)
        assert (layer.factors is not None) is any("factor" in each for each in names)
        if layer.factors is not None:
            nested = any(each >= {"factor", "gate"} for each in names)
            assert (layer.factors.gate is not None) is nested

    n = x.shape[0]
    parts = report.rows_fitted, report.rows_tuned, report.rows_checked
    assert parts == (int(0.4 * n), int(0.6 * n) - int(0.4 * n), n - int(0.6 * n))
    assert (report.budget, report.seed) == (budget, options.get("seed", 0))
    assert report.num_threads == options["num_threads"]
    assert report.machine == fast.machine == fingerprint()
    assert report.error_after - report.error_before == pytest.approx(report.error_increase)
    assert report.increase_bound <= budget
    assert 0 <= report.expected_increase <= report.increase_bound
    assert report.confidence == options.get("confidence", 0.95)
    assert report.prune == options.get("prune", "proven")
    assert report.worst_row_error <= options.get("max_row_error", np.inf)
    # All tests passed, except possibly the last one; the result is the last that passed.
    assert all(check.passed for check in report.checks[:-1])
    assert all(check.upper <= budget for check in report.checks if check.passed)
    exact = all(
        {*plan.strategies, *plan.precisions} <= {"dense", "skip", "f32"} for plan in fast.plan
    )
    if exact and not any(report.dropped_units):
        assert report.increase_bound == report.worst_row_error == report.error_increase == 0
        everything = net.with_units([None] * len(net.layers)).dense()
        assert_near(fast, everything, x.toarray() if hasattr(x, "toarray") else np.asarray(x))
    else:
        assert (
            report.increase_bound in [check.upper for check in report.checks] or len(fast.plan) > 1
        )
        assert any(check.passed for check in report.checks)
    assert report.error_increase_low <= report.error_increase <= report.error_increase_high
    named = "error" if y is not None else "difference" if net.task == "regression" else "disagree"
    assert named in report.measure
    assert report.seconds > 0
    assert (report.units_speed_up is not None) or not report.units_reordered
    assert (
        lrgate.results.OptimizeReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    )
    assert max(map(len, str(report).splitlines())) <= 80
    assert fast.probe is not None and fast.check() <= 1e-4


def kinds(net: Network) -> tuple[set[str], set[str]]:
    """The strategies and precisions of a network's plan."""
    names = {name for plan in net.plan for name in plan.strategies}
    return names, {word for plan in net.plan for word in plan.precisions}


def assert_near(fast: Network, net: Network, x: Any, most: float = 1e-5) -> None:
    expected = net(x)
    for size in (1, len(expected)):
        got = np.concatenate([fast(x[at : at + size]) for at in range(0, len(expected), size)])
        assert np.abs(got - expected).max() <= most * np.abs(expected).max()


def labels(net: Network, x: Any, wrong: float = 0.1) -> np.ndarray:
    """The labels predicted by the network, some of them replaced."""
    found = net.predict(x)
    rng = np.random.default_rng(0)
    return np.where(rng.random(len(found)) < wrong, rng.choice(net.classes, len(found)), found)


@pytest.fixture(scope="module")
def net() -> Network:
    return network(task="classification")


# --- the shipped network, by the clock ----------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> tuple[Network, np.ndarray, np.ndarray]:
    return lrgate.examples.mnist()


@pytest.mark.parametrize("precision", ["auto", "f32", "int8"])
def test_the_shipped_network(digits: Any, precision: str, tmp_path: Path) -> None:
    net, x, y = digits
    options = {"precision": precision, "ranks": [16], "batch_sizes": (64, 1)}
    fast = optimized(net, x, y, 0.02, **options)
    report = fast.report
    assert report is not None
    assert report.measure == "classification error"
    assert (fast.predict(x) != net.predict(x)).mean() < 0.05
    # The reported errors are the errors of the network on the held-out rows.
    held = Split.of(x, y, 0)
    dense = (net.dense().predict(held.check) != held.targets).mean()
    assert report.error_before == pytest.approx(dense)
    _, words = kinds(fast)
    if precision == "f32":
        assert words == {"f32"}
        assert not any(layer.quantization for layer in fast.layers)
    stay = sum("stays f32" in note for note in report.notes)
    if precision == "int8" and stay < len(net.layers):
        assert "int8" in words
        for plan in fast.plan:
            assert plan.precisions.count("f32") == stay
    assert not any(report.dropped_units)
    for suffix in ("npz", "safetensors"):
        fast.save(tmp_path / f"fast.{suffix}")
        loaded = Network.load(tmp_path / f"fast.{suffix}")
        assert (loaded.report, loaded.plan, loaded.machine) == (report, fast.plan, fast.machine)
        assert loaded.check() <= 1e-4
        for n in (1, 7, 300):
            np.testing.assert_array_equal(loaded(x[:n]), fast(x[:n]))


# --- every shape, by the clock ------------------------------------------------------------------

SHAPES: list[tuple[str, Network]] = [
    ("softmax", network(last="softmax")),
    ("one output", network(1, task="classification")),
    ("one sigmoid", network(1, last="sigmoid", classes=["no", "yes"])),
    ("strings", network(classes=["e", "b", "c", "d", "a"])),
    ("numbers", network(classes=[50, 20, 30, 40, 10])),
    ("regressor", network()),
    ("one value", network(1)),
    ("tanh", network(hidden="tanh", task="classification")),
    ("gelu", network(hidden="gelu")),
    ("clipped", network(hidden=("clipped_relu", 1.0), task="classification")),
    ("thresholded", network(hidden=("thresholded_relu", -0.1), task="classification")),
    ("one hidden", make([D, 30, 4], task="classification")),
    ("no hidden", make([D, 4], task="classification")),
    ("no hidden in a range", make([D, 4], input_range=(np.zeros(D), 1.0))),
    ("one unit", make([D, 1, 1, 3])),
    ("mapped", network(input_scale=0.5, input_shift=np.full(D, 0.1), input_range=(-1, 1))),
]


@pytest.mark.parametrize("net", [shape[1] for shape in SHAPES], ids=[shape[0] for shape in SHAPES])
@pytest.mark.parametrize("labelled", [True, False])
def test_every_shape(net: Network, labelled: bool) -> None:
    x = rows(120)
    y = None
    if labelled:
        y = labels(net, x) if net.task == "classification" else net(x).astype(np.float64) + 0.1
    fast = optimized(net, x, y, 0.2, ranks=(4,))
    names, _ = kinds(fast)
    hidden = [layer.activation for layer in net.layers[:-1]]
    if not any(activation.has_hard_zero for activation in hidden):
        assert "gate" not in names
        assert not any(layer.kept_units is not None for layer in fast.layers)
    if net.task == "classification":
        assert (fast.predict(x) != net.predict(x)).mean() <= 0.3
    else:
        assert np.square(fast(x) - net(x)).sum() <= 0.4 * np.square(net(x) - net(x).mean(0)).sum()


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("net", [shape[1] for shape in SHAPES], ids=[shape[0] for shape in SHAPES])
def test_every_shape_where_gates_win(net: Network) -> None:
    fast = optimized(net, rows(150), None, 0.5, ranks=(1, 4))
    if net.layers[0].outputs == 60 and net.layers[0].activation.has_hard_zero:
        assert kinds(fast) == ({"gate", "skip"}, {"int8"})


@pytest.mark.parametrize("shape", [(120,), (120, 1)])
def test_targets_of_one_output(shape: tuple[int, ...]) -> None:
    net, x = network(1), rows(120)
    fast = optimized(net, x, net(x).reshape(shape))
    assert fast.report is not None
    assert fast.report.error_before < 1e-9


def float16(x: np.ndarray) -> Any:
    return x.astype(np.float16)


@pytest.mark.parametrize(
    "convert",
    [
        np.float64,
        float16,
        np.asfortranarray,
        np.ndarray.tolist,
        sparse.csr_array,
        sparse.csc_matrix,
        sparse.coo_array,
        lambda x: sparse.csr_matrix(x.astype(np.float64)),
    ],
)
@pytest.mark.usefixtures("wins")
def test_kinds_of_rows(net: Network, convert: Any) -> None:
    x = rows(150)
    given = convert(x)
    fast = lrgate.optimize(net, given, labels(net, x), 0.3, ranks=(4,), batch_sizes=[1])
    plain = lrgate.optimize(net, x, labels(net, x), 0.3, ranks=(4,), batch_sizes=[1])
    assert kinds(fast)[0] == kinds(plain)[0] == {"gate", "skip"}
    assert fast.probe is not None and fast.probe.x.shape == (60, D)
    assert (fast.predict(x) != plain.predict(x)).mean() < 0.05


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("prune", ["proven", "never_on"])
def test_rows_too_wide_to_be_dense_stay_sparse(
    net: Network, monkeypatch: pytest.MonkeyPatch, prune: str
) -> None:
    """Gates, also of the first layer, and omitted units are the same as for dense rows."""
    x = rows(150)
    options = {"ranks": (4,), "batch_sizes": [1], "prune": prune, "progress": False}
    plain = lrgate.optimize(net, x, labels(net, x), 0.3, **options)
    seen = []
    whitened = registry.whitened

    def spy(layer: Any, inputs: Any, **more: Any) -> Any:
        seen.append(type(inputs))
        return whitened(layer, inputs, **more)

    monkeypatch.setattr(registry, "whitened", spy)
    monkeypatch.setattr(signals, "_MOST_VALUES", 4000)
    fast = lrgate.optimize(net, sparse.csr_array(x), labels(net, x), 0.3, **options)
    assert seen == [SparseInputs, np.ndarray]
    assert fast.plan == plain.plan and kinds(fast)[0] == {"gate", "skip"}
    assert fast.report.dropped_units == plain.report.dropped_units
    assert (sum(fast.report.dropped_units) > 0) == (prune == "never_on")
    assert (fast.predict(x) != plain.predict(x)).mean() < 0.05


def test_uint8_rows() -> None:
    net = network(task="classification", input_scale=1 / 255)
    x = (255 * rows(150)).astype(np.uint8)
    fast = optimized(net, x, labels(net, x))
    assert fast.probe is not None and fast.probe.x.dtype == np.uint8


def test_sparse_rows_by_the_clock(net: Network) -> None:
    x = sparse.csr_array(rows(150))
    optimized(net, x, labels(net, x))


def test_few_rows_and_large_calls(net: Network) -> None:
    optimized(net, rows(50), None, 1.0, batch_sizes=(3000,), ranks=None)


def test_threads(net: Network) -> None:
    x = rows(150)
    optimized(net, x, num_threads=2)
    fast = lrgate.optimize(net, x, batch_sizes=[1], ranks=(4,))
    assert fast.report is not None
    assert fast.report.num_threads == lrgate.get_num_threads()


# --- exact plans --------------------------------------------------------------------------------


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("precision", ["auto", "f32", "int8"])
def test_a_budget_of_0_allows_what_is_exact(net: Network, precision: str) -> None:
    x = rows()
    fast = optimized(net, x, labels(net, x), 0, precision=precision)
    assert kinds(fast) == ({"skip"}, {"f32"})
    assert fast.report is not None
    assert not any(fast.report.dead_units + fast.report.dropped_units)
    assert fast.report.error_increase == 0
    # Also on rows far from the calibration rows.
    for other in (x, np.ones((5, D)), 100 * rows(50, seed=5) - 30):
        assert_near(fast, net, np.float32(other))


def test_a_budget_of_0_by_the_clock(net: Network) -> None:
    fast = optimized(net, rows(), None, 0.0)
    names, words = kinds(fast)
    assert names <= {"dense", "skip"} and words == {"f32"}
    assert not any(layer.gate or layer.quantization for layer in fast.layers)
    assert_near(fast, net, np.float32(10 * rows(50, seed=5) - 3))


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("own", [True, False])
def test_provably_dead_units_are_left_out(own: bool) -> None:
    span = np.array([[0.0] * D, [1.0] * D])
    net = network(task="classification", input_range=span if own else (-9, 9))
    fast = optimized(net, rows(), None, 0.0, input_range=None if own else (span[0], span[1]))
    np.testing.assert_array_equal(fast.input_range, span)
    assert fast.report is not None
    assert fast.report.dead_units[0] >= len(DEAD)
    order = fast.layers[0].kept_units
    assert order is not None and not set(order) & set(DEAD)
    assert set(order) >= {*SILENT, *ALWAYS}
    corners = np.random.default_rng(0).integers(0, 2, (300, D)).astype(np.float32)
    assert_near(fast, net, np.concatenate([corners, np.ones((1, D), np.float32)]))


@pytest.mark.usefixtures("wins")
def test_rounding_of_the_input_shift_proves_nothing() -> None:
    """Sums that cancel the shift are on by rounding alone: their units are not left out."""
    rng = np.random.default_rng(0)
    shift = rng.uniform(8, 16, D).astype(np.float32)
    layers = [(rng.normal(size=(128, D)), np.zeros(128)), (rng.normal(size=(4, 128)), np.zeros(4))]
    net = Network.from_layers(layers, input_shift=shift, task="classification")
    x = np.tile(-shift, (200, 1))
    on = net.layer_inputs(x[:1])[1][0] > 0
    assert on.any()
    # All sums cancel, so relative errors are large: `optimized` would check those.
    options: dict[str, Any] = {"batch_sizes": (1,), "progress": False}
    fast = lrgate.optimize(net, x, None, 0.0, input_range=(-shift, -shift), **options)
    kept = fast.layers[0].kept_units
    assert kept is None or set(np.flatnonzero(on)) <= set(kept)


@pytest.mark.usefixtures("wins")
def test_silent_units_are_dropped(net: Network) -> None:
    fast = optimized(net, rows(), None, 0.1, precision="f32", prune="never_on")
    assert fast.report is not None
    assert any("never on in these rows are left out" in note for note in fast.report.notes)
    assert fast.report.checks[0].network == "units never on left out"
    # No row shows a cost. The bound covers the costs that 160 rows cannot show.
    assert fast.report.checks[0].upper == pytest.approx(np.log(20) / 160, rel=1e-3)
    assert fast.report.dropped_units[0] >= len(SILENT) + len(DEAD)
    order = fast.layers[0].kept_units
    assert order is not None and not set(order) & {*SILENT, *DEAD}


@pytest.mark.usefixtures("wins")
def test_silent_units_that_rows_are_too_few_for_are_kept(net: Network) -> None:
    options = {"prune": "never_on", "input_range": (0, 1), "precision": "f32"}
    fast = optimized(net, rows(), None, 0.01, **options)
    assert fast.report is not None
    assert fast.report.dropped_units == (0, 0, 0)
    assert fast.report.dead_units[0] == len(DEAD)
    (note,) = [note for note in fast.report.notes if note.startswith("units that were never on")]
    assert "are kept: 160 held-out rows cannot show that the budget is kept; about " in note
    # The number of rows in the note is enough.
    more = int(note.split("about ")[1].split()[0].replace(",", ""))
    fast = optimized(net, rows(more), None, 0.01, **options)
    assert fast.report is not None and fast.report.dropped_units[0] >= len(SILENT)


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("prune", ["proven", "none"])
@pytest.mark.parametrize("precision", ["auto", "f32", "int8"])
def test_units_never_on_are_kept_by_default(net: Network, prune: str, precision: str) -> None:
    options = {"prune": prune, "precision": precision, "input_range": (0, 1)}
    fast = optimized(net, rows(), None, 0.1, **options)
    assert fast.report is not None
    assert not any(fast.report.dropped_units)
    assert fast.report.dead_units[0] == (len(DEAD) if prune == "proven" else 0)
    left_out = (
        "units proven off on input_range are left out: rows outside it may give other results"
    )
    assert any(left_out in note for note in fast.report.notes) is (prune == "proven")
    if precision == "f32":
        gateless = fast.with_strategies(["skip"] * 3)
        assert_near(gateless, net, np.ones((3, D), np.float32))  # SILENT units are active here


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_an_exact_plan_is_exact_for_every_row(task: str) -> None:
    """Rows far from the calibration rows activate units that were never active."""
    net = network(task=task)
    fast = optimized(net, rows(60), None, 1e-6)
    assert fast.report is not None and fast.report.increase_bound == 0
    rng = np.random.default_rng(0)
    for x in (np.ones((4, D)), 50 * rng.normal(size=(200, D)), 1e4 * rng.random((50, D))):
        assert_near(fast, net, np.float32(x))


def constant(bias: float) -> Network:
    """A network whose hidden units do not depend on the rows."""
    rng = np.random.default_rng(0)
    hidden = Layer(0.01 * rng.normal(size=(30, D)), np.full(30, bias), RELU)
    second = Layer(rng.normal(size=(20, 30)), rng.normal(size=20), RELU)
    last = Layer(rng.normal(size=(3, 20)), [0.0] * 3, Activation("identity"))
    return Network.from_layers([hidden, second, last])


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("budget", [0.0, 0.1])
@pytest.mark.parametrize("span", [None, (0, 1)])
@pytest.mark.parametrize("bias", [-5.0, 5.0])
def test_layers_all_off_or_all_on(bias: float, span: Any, budget: float) -> None:
    net = constant(bias)
    options = {"input_range": span, "precision": "f32", "prune": "never_on"}
    fast = optimized(net, rows(100), None, budget, **options)
    assert fast.layers[0].gate is None or bias > 0
    assert_near(fast, net, rows(100), 1e-5 if bias < 0 or budget == 0 else 1.0)
    if bias < 0 and (span is not None or budget):
        # A layer keeps at least one unit.
        assert fast.layers[0].kept_units is not None and len(fast.layers[0].kept_units) == 1


# --- gates, orders, int8 ------------------------------------------------------------------------


@pytest.mark.usefixtures("wins")
def test_units_that_are_always_on_are_not_scored(net: Network) -> None:
    fast = optimized(net, rows(), None, 0.3)
    gate = fast.layers[0].gate
    assert gate is not None
    assert (gate.v[:, ALWAYS] == 0).all() and (gate.bias[ALWAYS] == 1).all()
    order = fast.layers[0].kept_units
    assert order is not None
    unscored = (gate.v[:, order] == 0).all(axis=0)
    assert set(order[unscored]) >= set(ALWAYS)
    assert unscored[np.flatnonzero(unscored)[0] :].all()  # the last layers


def by_hand(fast: Network) -> Network:
    """The same network built only from the computed units."""
    layers, before = [], np.arange(D)
    for i, layer in enumerate(fast.layers):
        order = np.arange(layer.outputs) if layer.kept_units is None else layer.kept_units
        gate = layer.gate
        if gate is not None:
            gate = lrgate.Gate(gate.u[before], gate.v[:, order], gate.bias[order], gate.range)
        layers.append(
            Layer(
                layer.weight[order][:, before],
                layer.bias[order],
                layer.activation,
                gate=gate,
                quantization=selected(layer.quantization, before) if i else layer.quantization,
            )
        )
        before = order
    made = Network.from_layers(layers, task=fast.task)
    plan = [(p.rows, list(p.strategies), list(p.precisions)) for p in fast.plan]
    return made._with_engine_plan(made.engine.with_plan(plan))


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_everything_at_once(
    net: Network, precision: str, ordered: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Clock, "units_pay", lambda *_: ordered)
    x = rows()
    options = {"precision": precision, "input_range": (0, 1), "prune": "never_on"}
    fast = optimized(net, x, labels(net, x), 0.3, **options)
    assert kinds(fast) == ({"gate", "skip"}, {precision})
    report = fast.report
    assert report is not None and report.units_reordered is ordered
    assert report.dead_units[0] >= len(DEAD) and report.dropped_units[0] >= len(SILENT)
    for layer in fast.layers[:1]:
        assert layer.kept_units is not None
        assert (np.diff(layer.kept_units) > 0).all() != ordered
    other = rows(200, seed=7)
    hand = by_hand(fast)
    for n in (1, 200):
        np.testing.assert_allclose(fast(other[:n]), hand(other[:n]), rtol=1e-5, atol=1e-5)
    # At full width, gates drop the units that orders leave out. (In int8, weight steps differ.)
    whole = fast.with_units(dict.fromkeys(i for i in (0, 1) if fast.layers[i].gate is not None))
    assert precision == "int8" or np.abs(whole(x) - fast(x)).max() < 1e-4
    fast.save(tmp_path / "fast.npz")
    np.testing.assert_array_equal(Network.load(tmp_path / "fast.npz", tune=False)(x), fast(x))
    # The reported error is the error of these calls.
    held = Split.of(x, labels(net, x), 0)
    assert report.error_after == (fast.predict(held.check) != held.targets).mean()


@pytest.mark.usefixtures("wins")
def test_both_orders_compute_the_same(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows()
    results = []
    for ordered in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Clock, "units_pay", lambda *_, ordered=ordered: ordered)
            results.append(optimized(net, x, None, 0.3, precision="f32"))
    np.testing.assert_allclose(results[0](x), results[1](x), rtol=1e-5, atol=1e-5)
    assert (results[0].layers[0].kept_units is None) is False and results[1].layers[
        0
    ].kept_units is None


@pytest.mark.usefixtures("wins")
def test_what_a_network_has_is_not_used(net: Network) -> None:
    x = rows()
    plain = optimized(net, x, None, 0.3)
    reverse = {0: np.arange(60)[::-1]}
    loaded = gated(net).quantize(x).with_units(reverse).with_metadata({"a": 1})
    for other in (loaded, plain, plain.dense()):
        again = optimized(other, x, None, 0.3)
        assert again.plan == plain.plan
        for layer, expected in zip(again.layers, plain.layers, strict=True):
            np.testing.assert_array_equal(layer.kept_units, expected.kept_units)
            if expected.gate is not None:
                assert layer.gate is not None
                np.testing.assert_array_equal(layer.gate.v, expected.gate.v)
        np.testing.assert_array_equal(again(x), plain(x))
    assert loaded.layers[0].gate is not None  # and unchanged


def test_an_older_probe_keeps_its_rows(net: Network) -> None:
    own = np.ones((3, D), np.float32)
    fast = optimized(net.with_probe(own), rows(150))
    assert fast.probe is not None
    np.testing.assert_array_equal(fast.probe.x, own)


@pytest.mark.usefixtures("wins")
def test_a_seed_says_all_but_the_clock(net: Network) -> None:
    x = rows()
    one, same, other = (optimized(net, x, None, 0.3, seed=seed) for seed in (3, 3, 4))
    assert one.probe is not None and same.probe is not None and other.probe is not None
    np.testing.assert_array_equal(one.probe.x, same.probe.x)
    np.testing.assert_array_equal(one(x), same(x))
    assert not np.array_equal(one.probe.x, other.probe.x)


class Seen:
    """Replaces the evidence about a network: a known cost without uncertainty."""

    worst = 0.0
    largest = 0.0
    contradicted = False
    plain = SimpleNamespace(increase=0.0)

    def __init__(self, cost: float) -> None:
        self.estimate = cost

    def upper(self, *_: Any) -> float:
        return self.estimate

    def lower(self, confidence: float) -> float:
        return 0.0

    def needed(self, budget: float, confidence: float, spare: float) -> int | None:
        return 1234 if self.estimate < 1 else None


def costs(monkeypatch: pytest.MonkeyPatch, cost: Any) -> None:
    """Replace the evidence on which networks are chosen by `cost`."""
    found = lambda self, outputs, *_: [Seen(float(cost(outputs)))]  # noqa: E731
    monkeypatch.setattr(BudgetCheck, "evidence_of", found)
    monkeypatch.setattr(BudgetCheck, "outputs", lambda self, network: network)
    monkeypatch.setattr(BudgetCheck, "least_margins", lambda self, outputs: [0.0])
    monkeypatch.setattr(BudgetCheck, "may_recompute", False)


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize(
    ("cost", "reason"),
    [
        (1.0, "the error grows too much, by about 1e+02 points"),
        (
            0.2,
            "160 held-out rows cannot show that the budget is kept; "
            "about 3,100 rows in total would",
        ),
    ],
)
def test_nothing_keeps_the_budget(
    net: Network, monkeypatch: pytest.MonkeyPatch, cost: float, reason: str
) -> None:
    def damage(network: Network) -> float:
        names, words = kinds(network)
        return cost * ("gate" in names or "int8" in words)

    costs(monkeypatch, damage)
    x = rows()
    for precision in ("auto", "int8", "f32"):
        fast = optimized(net, x, None, 0.1, precision=precision)
        assert kinds(fast) == ({"skip"}, {"f32"})
        assert fast.report is not None
        notes = fast.report.notes
        assert f"no gate or factors are used, not even the least divergent: {reason}" in notes
        assert "no gate or factors pay within the budget here" in notes
        stay = sorted(note[6] for note in notes if f"stays f32, not int8: {reason}" in note)
        assert stay == ([] if precision == "f32" else ["0", "1", "2"])
        assert fast.report.checks == ()
        assert_near(fast, net, x)


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_a_layer_whose_int8_form_costs_too_much(
    net: Network, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs(monkeypatch, lambda network: any(p.precisions[1] == "int8" for p in network.plan))
    fast = optimized(net, rows(), None, 0.5, precision=precision)
    assert all(plan.precisions[1] == "f32" for plan in fast.plan)
    assert fast.layers[1].quantization is None
    assert fast.report is not None
    assert any(note.startswith("layer 1 stays f32") for note in fast.report.notes)


def critic(inputs: int, noise: float, seed: int = 0) -> tuple[Network, Any]:
    """A regressor of few inputs and wide layers, and a function for rows and noisy targets."""
    rng = np.random.default_rng(seed)
    net = Network.from_layers(
        [
            (rng.normal(size=(k, d)) * (2 / d) ** 0.5, 0.1 * rng.normal(size=k))
            for d, k in pairwise([inputs, 192, 192, 1])
        ]
    )

    def sample(n: int, seed: int) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, inputs)).astype(np.float32)
        y = np.float64(net(x))
        return x, y + noise * y.std() * rng.normal(size=y.shape)

    return net, sample


def timed_by_work(self: Any, network: Network) -> Any:
    """A `Clock.layer_seconds` that counts multiply-adds: int8 halves the time."""
    times = [
        layer.multiply_adds * (0.5 if word == "int8" else 1.0)
        for layer, word in zip(network.layers, network.plan[0].precisions, strict=True)
    ]
    return np.tile(np.array(times)[:, None], len(self.sizes))


@pytest.mark.usefixtures("wins")
def test_the_layers_that_save_no_time_go_back_to_f32_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Noisy targets hide small errors: the layer that takes the time is int8 nevertheless."""
    monkeypatch.setattr(Clock, "layer_seconds", timed_by_work)
    net, sample = critic(40, 1.0)
    x, y = sample(2000, 1)
    fast = optimized(net, x, y, 0.001, batch_sizes=[1])
    assert fast.plan[0].precisions[1] == "int8"
    fresh, _ = sample(40_000, 2)
    dense = np.float64(net(fresh))
    # The noise of new targets has no part in the true increase.
    true = np.square(np.float64(fast(fresh)) - dense).mean() / (2 * dense.var())
    assert 0 < true < 0.001


@pytest.mark.usefixtures("wins")
def test_where_int8_fails_its_check_fewer_layers_are_int8(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Clock, "layer_seconds", timed_by_work)
    passes = BudgetCheck.passes

    def strict(self: Any, trial: Any) -> bool:
        return passes(self, trial) and trial.network.plan[0].precisions.count("int8") < 3

    monkeypatch.setattr(BudgetCheck, "passes", strict)
    monkeypatch.setattr(BudgetCheck, "clear", lambda self, found: False)
    net, sample = critic(40, 0.0)
    fast = optimized(net, sample(1000, 1)[0], None, 0.01, batch_sizes=[1])
    assert fast.plan[0].precisions[1] == "int8" and fast.plan[0].precisions.count("int8") == 2
    assert fast.report is not None
    names = [check.network for check in fast.report.checks]
    assert names[:2] == ["int8 in fewer layers, without gates", "int8 without gates"]


def slower(monkeypatch: pytest.MonkeyPatch, **speeds: float) -> None:
    """Make whole calls of these networks take the given times, and all others 1."""

    def race(self: Any, size: int, seconds: float, rows: Any = None, **networks: Network) -> Any:
        each = {name: np.full(3, speeds.get(name, 1.0) * 1e-6) for name in networks}
        return {name: timing.Timing(size, times, times) for name, times in each.items()}

    monkeypatch.setattr(Clock, "race", race)


@pytest.mark.usefixtures("wins")
def test_nothing_is_faster(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    slower(monkeypatch, int8=2, int8_dense=2, exact=2, fast=2, ordered=2, after=2)
    fast = optimized(net, rows(), None, 0.3)
    assert kinds(fast) == ({"dense"}, {"f32"})
    assert fast.report is not None
    assert "nothing is faster than dense here: the plan is dense" in fast.report.notes
    assert "int8 is not faster here: all layers are f32" in fast.report.notes
    assert not fast.report.units_reordered


@pytest.mark.usefixtures("wins")
def test_int8_is_used_where_asked_for_whatever_the_time(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    slower(monkeypatch, int8=2, exact=2, fast=2)
    fast = optimized(net, rows(), None, 0.3, precision="int8")
    assert kinds(fast) == ({"dense"}, {"int8"})
    assert fast.report is not None
    assert "nothing is faster than dense here: the plan is dense" not in fast.report.notes


@pytest.mark.usefixtures("wins")
def test_a_gate_must_gain_3_percent(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, expected in ((0.98, {"skip"}), (0.96, {"gate", "skip"})):
        slower(monkeypatch, dense=2, fast=seconds)
        assert kinds(optimized(net, rows(), None, 0.3))[0] == expected


@pytest.mark.usefixtures("wins")
def test_errors_are_of_what_any_class_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gates and int8 of small calls count, although rows are checked in one large call."""

    def race(self: Any, size: int, seconds: float, rows: Any = None, **networks: Network) -> Any:
        small = {"dense": 9, "exact": 5, "plain": 5}
        speeds = small if size == 1 else dict.fromkeys(("exact", "int8", "fast", "after"), 2)
        each = {name: np.full(3, speeds.get(name, 1) * 1e-6) for name in networks}
        return {name: timing.Timing(size, times, times) for name, times in each.items()}

    monkeypatch.setattr(Clock, "race", race)
    net, x = network(), rows()
    fast = optimized(net, x, None, 0.5)
    small, large = fast.plan
    assert "gate" in small.strategies and set(small.precisions) == {"int8"}
    assert set(large.strategies) == {"dense"} and set(large.precisions) == {"f32"}
    held = Split.of(x, None, 0).check
    dense = np.float64(net(held))
    each = np.array([fast(row) for row in held])
    assert fast.report is not None
    error = np.square(each - dense).sum(axis=1).mean() / np.var(np.float64(net(x)), axis=0).sum()
    assert fast.report.error_after == pytest.approx(error, rel=1e-3)
    assert error > 0


# --- factors ------------------------------------------------------------------------------------


def low_rank(seed: int = 0, rank: int = 3) -> Network:
    """A regressor whose layers are nearly of low rank, and can have no gates."""
    rng = np.random.default_rng(seed)
    layers = []
    for d, k in pairwise([D, 80, 64, 40]):
        low = rng.normal(size=(k, rank)) @ rng.normal(size=(rank, d)) / (rank * d) ** 0.5
        layers.append((2 * low + 1e-3 * rng.normal(size=(k, d)), 0.1 * rng.normal(size=k)))
    return Network.from_layers(layers, ["tanh", "gelu", "identity"])


def factored_layers(net: Network) -> set[int]:
    return {i for i, layer in enumerate(net.layers) if layer.factors is not None}


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("precision", ["f32", "auto"])
def test_factors_are_used_within_the_budget(precision: str, tmp_path: Path) -> None:
    net, x = low_rank(), rows(2000)
    options: dict[str, Any] = {"ranks": (4,), "precision": precision}
    fast = optimized(net, x, None, 0.01, factors="auto", **options)
    assert factored_layers(fast) == {0, 1, 2}  # the last layer, too
    assert fast.report is not None
    assert any(check.network.startswith("factors for") for check in fast.report.checks)
    found = {word for plan in fast.plan for word in plan.precisions}
    assert ("int8" in found) is (precision == "auto")
    fresh = rows(20_000, seed=9)
    dense, now = np.float64(net(fresh)), np.float64(fast(fresh))
    assert np.square(now - dense).sum() <= 0.01 * np.square(dense - dense.mean(axis=0)).sum()
    np.testing.assert_allclose(fast.dense()(x), net(x), rtol=1e-5, atol=1e-6)
    fast.save(tmp_path / "fast.npz")
    loaded = Network.load(tmp_path / "fast.npz", tune=False)
    np.testing.assert_array_equal(loaded(x), fast(x))
    assert "factored" in str(fast.report.to_dict())


@pytest.mark.usefixtures("wins")
def test_no_factors_where_they_are_not_wanted() -> None:
    fast = optimized(low_rank(), rows(1000), None, 0.01, ranks=(4, 8), factors="none")
    assert factored_layers(fast) == set()


@pytest.mark.usefixtures("wins")
def test_factors_that_cost_too_much_are_not_used() -> None:
    """Layers of full rank have no factors of a low one."""
    rng = np.random.default_rng(3)
    net = Network.from_layers(
        [(rng.normal(size=(k, d)) / d**0.5, rng.normal(size=k)) for d, k in pairwise([D, 60, 40])]
    )
    fast = optimized(net, rows(1000), None, 1e-3, ranks=(4, 8), factors="auto")
    assert factored_layers(fast) == set()
    assert optimized(net, rows(1000), None, 0.0, factors="auto").layers[0].factors is None


@pytest.mark.usefixtures("wins")
def test_nested_gates_of_units_that_are_left_out_and_reordered() -> None:
    """Factors have the full width; the engine has the kept units alone."""
    rng = np.random.default_rng(4)
    layers = []
    for h, (d, k) in enumerate(pairwise([D, 160, 96, 5])):
        low = rng.normal(size=(k, 24)) @ rng.normal(size=(24, d)) / (24 * d) ** 0.5
        bias = rng.normal(size=k) / 4
        if h == 0:
            bias[::5] = -50.0
        layers.append((2 * low, bias))
    net = Network.from_layers(layers, input_range=(0.0, 1.0))
    layer, x = net.layers[1], rows(600)
    always: Any = np.array([0, 3])
    units = np.random.default_rng(0).permutation(np.flatnonzero(net.layers[0].bias > -50))
    core = net.with_units([units.astype(np.int32), None, None])
    signals = net.layer_inputs(x)
    kept = KeptLayer.of(core, 1, (signals, signals))
    fit = estimators.factored(kept.layer, kept.fit, 60)
    found = factor_candidates(fit, [36, 60], kept, always, None, 2)
    nested = [c.part for c in found if isinstance(c.part, Factors) and c.part.gate is not None]
    assert nested and all(part.gate.v.shape == (part.rank // 4, 96) for part in nested)
    for candidate in found:
        part = candidate.part
        assert isinstance(part, Factors) and part.u.shape == (160, part.rank)
        assert not part.u[net.layers[0].bias <= -50].any()
        one = core.with_factors({1: part})
        inputs = np.float64(signals[1])
        true = np.maximum(inputs @ np.float64(layer.weight.T) + layer.bias, 0)
        now = np.float64(one.layer_inputs(x)[2])
        lost = np.square(now - true).sum() / np.square(true).sum()
        assert lost == pytest.approx(candidate.lost_energy, rel=0.02, abs=1e-6)
        if part.gate is not None:
            assert (now[:, always] > 0).sum() == (true[:, always] > 0).sum()


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_dense_int8_is_used_where_it_is_not_slower(
    net: Network, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last race is on other rows: there, skip and gates may be slower than dense int8."""
    slower(monkeypatch, after=3, exact=4, own_dense=4, dense=4, int8_dense=2)
    fast = optimized(net, rows(1000), None, 0.3, precision=precision)
    assert kinds(fast) == ({"dense"}, {"int8"})
    assert fast.report is not None and fast.report.checks[0].passed
    # Unused gates are gone: they would run without the least margin that they were checked with.
    assert all(layer.gate is None and layer.factors is None for layer in fast.layers)


# --- stopping, showing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "place"),
    [
        (Search, "_prune"),
        (search, "fastest_without_gates"),
        (GateSearch, "choices"),
        (BudgetCheck, "passes"),
        (Reporter, "_batch_report"),
        (Reporter, "finished"),
    ],
)
def test_an_interrupt_leaves_nothing_behind(
    net: Network, part: Any, place: str, monkeypatch: pytest.MonkeyPatch, wins: None
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(part, place, interrupt)
    with pytest.raises(KeyboardInterrupt):
        lrgate.optimize(net, rows(), None, 0.5, ranks=(4,), batch_sizes=[1], progress=True)
    assert not list(getattr(tqdm, "_instances", ()))
    assert gc.isenabled()
    monkeypatch.undo()
    optimized(net, rows(100), None, 0.0, batch_sizes=[1])


def test_an_interrupt_while_calls_are_timed(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def caller(network: Network, threads: int) -> Any:
        def call(rows: Any) -> object:
            nonlocal calls
            calls += 1
            if calls > 20:
                raise KeyboardInterrupt
            return network.forward(rows)

        return call

    monkeypatch.setattr(clock, "_caller", caller)
    with pytest.raises(KeyboardInterrupt):
        lrgate.optimize(net, rows(150), ranks=(4,), batch_sizes=[1], progress=False)
    assert gc.isenabled()


def test_progress_is_shown_where_wanted(
    net: Network, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"ranks": (4,), "batch_sizes": [1]}
    for wanted in (True, False, None):
        lrgate.optimize(net, rows(100), progress=wanted, **options)
        out, err = capfd.readouterr()
        assert out == ""
        assert ("measuring dense and skip" in err) is (wanted is True)
        assert wanted is True or err == ""
    monkeypatch.setattr(sys, "stderr", None)  # as in a process without a console
    lrgate.optimize(net, rows(100), **options)


# --- refusals -----------------------------------------------------------------------------------


def holding(value: float, *at: int) -> np.ndarray:
    x = rows(100)
    x[list(at), 3] = value
    return x


NAN = float("nan")
LABELS = np.arange(100) % 5


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"model": "net"},
            ValueError,
            "path must end in .npz, .safetensors, .onnx, .pt2 or .keras",
        ),
        (
            {"model": None},
            TypeError,
            "model must be a Network, a path, or a model of scikit-learn, PyTorch, ONNX or Keras, "
            "got NoneType",
        ),
        # x
        ({"x": np.zeros((100, 19))}, ValueError, "x must have shape (n, 20), got (100, 19)"),
        ({"x": np.zeros(20)}, ValueError, "x must have shape (n, 20), got (20,)"),
        ({"x": np.zeros((9, 9, 20))}, ValueError, "x must have shape (n, 20), got (9, 9, 20)"),
        ({"x": 3.0}, ValueError, "x must have shape (n, 20), got ()"),
        ({"x": sparse.csr_array((99, 7))}, ValueError, "x must have shape (n, 20), got (99, 7)"),
        ({"x": rows(49)}, ValueError, "x must have at least 50 rows, got 49"),
        ({"x": sparse.csr_array(rows(9))}, ValueError, "x must have at least 50 rows, got 9"),
        ({"x": np.zeros((0, 20))}, ValueError, "x must have at least 50 rows, got 0"),
        ({"x": np.full((100, 20), None)}, TypeError, "real numbers, got dtype object: None"),
        ({"x": rows().astype(complex)}, TypeError, "real numbers, got dtype complex128"),
        ({"x": rows().astype(str)}, TypeError, "x must be an array of real numbers, got dtype <U"),
        ({"x": sparse.csr_array(rows() * 1j)}, TypeError, "real numbers, got dtype complex"),
        ({"x": [[0.0] * 20, [0.0]] * 50}, ValueError, "x must be a rectangular array of real "),
        ({"x": holding(NAN, 7)}, ValueError, "x must be finite, got NaN in row 7, column 3"),
        (
            {"x": holding(NAN, 7, 9, 80)},
            ValueError,
            "x must be finite, got NaN in row 7, column 3, and others in 2 more rows",
        ),
        (
            {"x": sparse.csr_array(holding(np.inf, 4, 9))},
            ValueError,
            "x must be finite, got inf in row 4, column 3, and others in 1 more row",
        ),
        ({"x": np.float64(holding(1, 0)) * 1e300}, ValueError, "x must fit float32, got "),
        (
            {"x": sparse.csr_array(np.float64(rows(60)) * 1e300)},
            ValueError,
            "x must fit float32, got ",
        ),
        # y
        ({"y": LABELS[:99]}, ValueError, "y must have shape (100,), one label per row, got (99,)"),
        ({"y": np.zeros((100, 5))}, ValueError, "y must have shape (100,), one label per row"),
        ({"y": 1}, ValueError, "y must have shape (100,), one label per row, got ()"),
        (
            {"y": np.where(LABELS == 3, 7, LABELS)},
            ValueError,
            "y must hold the network's classes, got 7 in row 3",
        ),
        ({"y": LABELS - 1}, ValueError, "y must hold the network's classes, got -1 in row 0"),
        ({"y": LABELS + 0.5}, ValueError, "y must hold the network's classes, got 0.5 in row 0"),
        ({"y": np.full(100, NAN)}, ValueError, "y must hold the network's classes, got nan"),
        ({"y": LABELS.astype(str)}, TypeError, "of dtype int64, got dtype <U"),
        ({"y": np.where(LABELS, LABELS, None)}, TypeError, "of dtype int64, got dtype object"),
        ({"y": LABELS.astype(complex)}, TypeError, "of dtype int64, got dtype complex128"),
        ({"y": [[1], [2, 3]] * 50}, TypeError, "y must be an array: "),
        ({"model": "strings", "y": LABELS}, TypeError, "of dtype <U1, got dtype int64"),
        (
            {"model": "strings", "y": ["a"] * 99 + ["z"]},
            ValueError,
            "y must hold the network's classes, got 'z' in row 99",
        ),
        (
            {"model": "strings", "y": np.array(["a"] * 98 + [None, NAN], object)},
            ValueError,
            "y must hold the network's classes, got None in row 98",
        ),
        (
            {"model": "regressor", "y": LABELS + 0.5},
            ValueError,
            "y must have shape (100, 5), got (100,)",
        ),
        (
            {"model": "declared", "y": LABELS},
            ValueError,
            "y must have shape (100, 5) for a regressor, got (100,): for labels write "
            'Network.from_layers(layers, task="classification")',
        ),
        (
            {"model": "regressor", "y": LABELS % 4 + 7},
            ValueError,
            "y must hold integers from 0 to 4 or 5 distinct labels for a network of 5 outputs "
            "without classes, got 4 distinct labels, [7, 8, 9, 10]: write "
            "Network.from_layers(layers, classes=[...]) or Network.load(path, classes=[...])",
        ),
        ({"model": "regressor", "y": LABELS[:99]}, ValueError, "y must have shape (100,), one lab"),
        (
            {"model": "one value", "y": np.where(LABELS, "yes", "no")},
            TypeError,
            "y must be an array of real numbers for a regressor, got dtype <U3: for two classes "
            "write Network.from_layers(layers, classes=['no', 'yes'])",
        ),
        (
            {"model": "one value", "y": np.zeros((100, 2))},
            ValueError,
            "y must have shape (100, 1) or (100,), got (100, 2)",
        ),
        ({"model": "declared", "y": ["a"] * 100}, ValueError, "y must have shape (100, 5) for a r"),
        (
            {"model": "regressor", "y": ["a"] * 100},
            ValueError,
            "got 1 distinct labels, ['a']: write",
        ),
        (
            {"model": "regressor", "y": np.array(["a", 1] * 50, object)},
            TypeError,
            "real numbers, got dtype object",
        ),
        (
            {"model": "regressor", "y": np.zeros((100, 5), complex)},
            TypeError,
            "real numbers, got dtype complex128",
        ),
        (
            {"model": "one value", "y": holding(NAN, 6, 8)[:, 3]},
            ValueError,
            "y must be finite, got NaN or infinity in row 6",
        ),
        # the budget
        ({"max_error_increase": -0.1}, ValueError, "must be from 0 to 1, got -0.1"),
        ({"max_error_increase": 1.1}, ValueError, "must be from 0 to 1, got 1.1"),
        ({"max_error_increase": NAN}, ValueError, "must be from 0 to 1, got nan"),
        ({"max_error_increase": True}, TypeError, "max_error_increase must be a number, got True"),
        ({"max_error_increase": "0.1"}, TypeError, "max_error_increase must be a number, got '0.1"),
        ({"confidence": 1}, ValueError, "confidence must be above 0.5 and below 1, got 1"),
        ({"confidence": 0.5}, ValueError, "confidence must be above 0.5 and below 1, got 0.5"),
        ({"confidence": NAN}, ValueError, "confidence must be above 0.5 and below 1, got nan"),
        ({"confidence": 95}, ValueError, "confidence must be above 0.5 and below 1, got 95"),
        ({"confidence": "0.9"}, TypeError, "confidence must be a number, got '0.9'"),
        ({"confidence": True}, TypeError, "confidence must be a number, got True"),
        ({"max_row_error": 0}, ValueError, "max_row_error must be above 0 and finite, got 0"),
        ({"max_row_error": NAN}, ValueError, "max_row_error must be above 0 and finite, got nan"),
        ({"max_row_error": "1"}, TypeError, "max_row_error must be a number or None, got '1'"),
        ({"prune": "all"}, ValueError, "prune must be one of proven, never_on, none, got 'all'"),
        ({"factors": "some"}, ValueError, "factors must be one of auto, none, got 'some'"),
        ({"prune": None}, ValueError, "prune must be one of proven, never_on, none, got None"),
        (
            {"model": "one value", "y": np.full(100, 1e200)},
            ValueError,
            "y must be within the range of float32, as the network's outputs are, got 1e+200 in",
        ),
        (
            {"x": holding(7.5, 20, 30), "input_range": (0, 1)},
            ValueError,
            "x must be within input_range, got 7.5 in row 20, column 3, where it is 0 to 1, "
            "and 1 more rows are outside",
        ),
        (
            {"x": sparse.csr_array(holding(-2, 99)), "input_range": (0, 1)},
            ValueError,
            "x must be within input_range, got -2 in row 99, column 3, where it is 0 to 1",
        ),
        (
            {"input_range": (np.full(D, 2.0), 3)},
            ValueError,
            "in row 0, column 0, where it is 2 to 3, and 99 more rows are outside",
        ),
        ({"max_error_increase": None}, TypeError, "max_error_increase must be a number, got None"),
        # the rest
        ({"batch_sizes": ()}, ValueError, "batch_sizes must have at least one entry, got none"),
        ({"batch_sizes": (1, 8, 1)}, ValueError, "batch_sizes must be distinct, got [1, 8, 1]"),
        ({"batch_sizes": (0,)}, ValueError, "batch_sizes must be at least 1, got 0"),
        ({"batch_sizes": (-3,)}, ValueError, "batch_sizes must be at least 1, got -3"),
        ({"batch_sizes": (1.5,)}, TypeError, "batch_sizes must be an integer, got 1.5"),
        ({"batch_sizes": (True,)}, TypeError, "batch_sizes must be an integer, got True"),
        ({"batch_sizes": "12"}, TypeError, "batch_sizes must be a sequence of integers, got str"),
        ({"batch_sizes": 64}, TypeError, "batch_sizes must be a sequence of integers, got int"),
        (
            {"batch_sizes": (1, 2**20 + 1)},
            ValueError,
            "batch_sizes must be at most 1048576 to be measured, got 1048577",
        ),
        ({"ranks": ()}, ValueError, "ranks must have at least one entry, got none"),
        ({"ranks": (8, 2.0)}, TypeError, "ranks must be an integer, got 2.0"),
        ({"ranks": (0,)}, ValueError, "ranks must be at least 1, got 0"),
        ({"ranks": "8"}, TypeError, "ranks must be a sequence of integers, got str"),
        ({"ranks": 8}, TypeError, "ranks must be a sequence of integers, got int"),
        (
            {"ranks": (8, 40)},
            ValueError,
            "x must have at least 103 rows for a gate of rank 40: 40% of them fit, got 40 such",
        ),
        ({"ranks": (8000,)}, ValueError, "ranks must be at most 7999, got 8000"),
        (
            {"precision": "int4"},
            ValueError,
            "precision must be one of auto, f32, int8, got 'int4'",
        ),
        ({"precision": None}, ValueError, "precision must be one of auto, f32, int8, got None"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": 1.0}, TypeError, "seed must be an integer, got 1.0"),
        ({"seed": None}, TypeError, "seed must be an integer, got None"),
        ({"num_threads": 0}, ValueError, "num_threads must be at least 1, got 0"),
        ({"num_threads": 2**70}, ValueError, f"num_threads must be at most 2**63 - 1, got {2**70}"),
        ({"num_threads": 1.5}, TypeError, "num_threads must be an integer, got 1.5"),
        ({"num_threads": True}, TypeError, "num_threads must be an integer, got True"),
        ({"input_range": 3}, TypeError, "input_range must be a pair (low, high), got 3"),
        ({"input_range": (1, 0)}, ValueError, "input_range"),
        ({"input_range": (0, NAN)}, ValueError, "input_range"),
        ({"input_range": (np.zeros(7), 1)}, ValueError, "input_range must have shape (2,) or (2, "),
        ({"input_range": ("a", "b")}, TypeError, "input_range[0]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    models = dict(SHAPES) | {"declared": network(task="regression")}
    given: dict[str, Any] = {"model": models["softmax"], "x": rows(100), "y": None} | arguments
    if arguments.get("model") in models:
        given["model"] = models[arguments["model"]]
    with pytest.raises(kind, match=re.escape(message)) as refusal:
        lrgate.optimize(**given)
    assert refusal.type is kind


def test_the_rows_that_a_rank_needs_are_enough(net: Network) -> None:
    for rank in [*range(1, 300), 4999, 7999]:
        fitted = int(0.4 * 50)
        if rank < fitted:
            continue
        with pytest.raises(ValueError, match="x must have at least") as refusal:
            checked_ranks([rank], fitted)
        needed = int(str(refusal.value).split()[5])
        assert checked_ranks([rank], int(0.4 * needed)) == (rank,)


@pytest.mark.parametrize("task", [None, "regression"])
@pytest.mark.parametrize("values", [(0, 1), (False, True), (-1.0, 7.0), (1, 2, 3), (0.0, 0.5)])
def test_two_classes_of_one_open_output_are_noted(task: str | None, values: Any) -> None:
    net = network(outputs=1) if task is None else network(outputs=1, task=task)
    y = np.resize(values, 100)
    fast = lrgate.optimize(net, rows(100), y, batch_sizes=[1], precision="f32", progress=False)
    assert fast.report is not None and fast.task == "regression"
    notes = [note for note in fast.report.notes if "For two classes declare" in note]
    assert bool(notes) == (task is None and len(values) == 2 and values[1] != 0.5)
    if notes:
        advice = notes[0].partition("declare classes=")[2]
        assert json.loads(advice.lower()) == list(values)
        declared = Network.from_layers(net.layers, classes=list(values))
        fast = lrgate.optimize(declared, rows(100), y, batch_sizes=[1], progress=False)
        assert fast.task == "classification"


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (LABELS, range(5)),
        (np.minimum(LABELS, 3).astype(np.uint8), range(5)),
        (LABELS * 10 - 5, range(-5, 45, 10)),
        ([f"class {label}" for label in LABELS], [f"class {label}" for label in range(5)]),
    ],
    ids=["indices", "not all", "integers", "text"],
)
def test_labels_make_a_network_without_a_task_a_classifier(y: Any, classes: Any) -> None:
    net = network()
    options = {"batch_sizes": [1], "ranks": [4], "precision": "f32", "progress": False}
    fast = lrgate.optimize(net, rows(100), y, **options)
    assert (net.task, fast.task) == ("regression", "classification")
    assert fast.classes is not None and fast.classes.tolist() == list(classes)
    assert fast.report is not None
    assert f"y holds labels: the classes are {list(classes)}"[:40] in "\n".join(fast.report.notes)
    expected = Network.from_layers(net.layers, classes=list(classes))
    assert fast.predict(rows(9)).dtype.kind == expected.predict(rows(9)).dtype.kind
    again = lrgate.optimize(expected, rows(100), y, **options)
    assert again.report is not None
    assert fast.report.error_before == again.report.error_before


def test_only_targets_declare_a_task(tmp_path: Path) -> None:
    options = {"batch_sizes": [1], "ranks": [4], "precision": "f32", "progress": False}
    one = make([D, 30, 1])
    fast = lrgate.optimize(one, rows(100), LABELS, **options)  # integer targets
    assert fast.task == "regression"
    assert fast.report is not None and not any("labels" in note for note in fast.report.notes)
    lrgate.optimize(network(), rows(100), **options).save(tmp_path / "open.npz")
    assert Network.load(tmp_path / "open.npz", task="classification").task == "classification"
    fast.save(tmp_path / "declared.npz")
    with pytest.raises(ValueError, match=r"^task must be 'regression', as in the file"):
        Network.load(tmp_path / "declared.npz", task="classification")


@pytest.mark.parametrize(
    "budget", [0, 1, np.float32(0.5), np.int64(1), Decimal("0.001"), Fraction(1, 8)]
)
def test_budgets_of_any_number_type(net: Network, budget: Any) -> None:
    fast = lrgate.optimize(net, rows(60), None, budget, batch_sizes=[1], ranks=[np.int64(4)])
    assert fast.report is not None
    assert type(fast.report.budget) is float
    assert fast.report.budget == float(budget)


def test_batch_sizes_may_be_an_array(net: Network) -> None:
    fast = lrgate.optimize(net, rows(60), batch_sizes=np.array([8, 1]), ranks=[4], progress=False)
    assert [plan.rows for plan in fast.plan] == [1, 8]
    with pytest.raises(TypeError, match=r"batch_sizes must be an integer, got 1\.5"):
        lrgate.optimize(net, rows(60), batch_sizes=np.array([1.5]))


def test_a_range_in_scaled_units_is_recognised() -> None:
    net = network(task="classification", input_scale=1 / 255)
    x = np.round(255 * rows(100))
    for given in (x, sparse.csr_array(x)):
        with pytest.raises(ValueError, match="it looks like one in scaled units"):
            lrgate.optimize(net, given, input_range=(0, 1))
    with pytest.raises(ValueError, match="x must be within input_range") as refusal:
        lrgate.optimize(net, 2 * x, input_range=(0, 1))
    assert "scaled" not in str(refusal.value)
    own = network(task="classification", input_range=(0, 0.01))
    with pytest.raises(ValueError, match="x must be within input_range"):
        lrgate.optimize(own, rows(100))


# --- checks of the result -------------------------------------------------------------------------


def two_plans() -> tuple[Network, Network]:
    """A network that gates a layer in calls of 1 and 64 rows, and the same without gates."""
    layers = [(np.eye(4), np.zeros(4)), (np.ones((2, 4)), np.zeros(2))]
    net = Network.from_layers(layers, task="classification")
    gate = Gate(np.eye(4)[:, :1], np.ones((1, 4)), np.zeros(4))
    gated = net.with_gates({0: gate})
    plans = {
        name: [(size, [name, "skip"], ["f32", "f32"]) for size in (1, 64)]
        for name in ("gate", "skip")
    }
    return tuple(  # type: ignore[return-value]
        gated._with_engine_plan(gated.engine.with_plan(plan)) for plan in plans.values()
    )


def test_calls_of_any_size_are_raced_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    raced = []

    def interleaved(contestants: Any, calls: Any, seconds: float, **options: Any) -> Any:
        raced.append(len(calls[0]))
        return dict.fromkeys(contestants)

    monkeypatch.setattr(timing, "interleaved", interleaved)
    _, exact = two_plans()
    tune = np.zeros((10, 4), np.float32)
    small = SimpleNamespace(threads=2, rows=tune, work=24)
    Clock.race(small, 1 << 20, 0.0, exact=exact)
    Clock.race(small, 3, 0.0, exact=exact)
    assert raced == [2 * 4096, 3]
    # Calls of large networks have fewer rows.
    large = SimpleNamespace(threads=2, rows=tune, work=10**7)
    Clock.race(large, 1 << 20, 0.0, exact=exact)
    assert raced[2:] == [500]


@pytest.mark.parametrize("as_csr", [False, True])
def test_layers_of_classes_that_are_measured_alike_are_timed_once(
    monkeypatch: pytest.MonkeyPatch, as_csr: bool
) -> None:
    timed: list[int] = []

    def only(network: Network, size: int) -> Network:
        timed.append(size)
        return before(network, size)

    before = only_plan
    monkeypatch.setattr(clock, "only_plan", only)
    dense, skip = ["dense"] * 3, ["skip"] * 3
    plans = [(1, skip), (200, dense), (300, dense), (1000, skip), (5000, dense)]
    words = ["f32"] * 3
    net = network()
    net = net._with_engine_plan(net.engine.with_plan([(n, p, words) for n, p in plans]))
    tune = sparse.csr_array(rows()) if as_csr else rows()
    timer = SimpleNamespace(sizes=[n for n, _ in plans], rows=tune, work=1)
    seconds = Clock.layer_seconds(timer, net)
    assert timed == [1, 200, 300, 1000]
    assert seconds.shape == (3, 5)
    assert (seconds > 0).all()
    np.testing.assert_array_equal(seconds[:, 4], seconds[:, 2])
    few = SimpleNamespace(sizes=[1, 300], rows=tune[:7], work=1)
    assert Clock.layer_seconds(few, net).shape == (3, 2)


# --- held-out rows --------------------------------------------------------------------------------


def spied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record accesses to the held-out rows and checks of networks, in order."""
    events: list[str] = []
    split_of, passes = Split.of, BudgetCheck.passes

    class Spy:
        def __init__(self, split: Split) -> None:
            self._split = split

        def __getattr__(self, name: str) -> Any:
            if name in ("check", "targets"):
                events.append(name)
            return getattr(self._split, name)

    def checked(self: Any, trial: Any) -> bool:
        events.append(f"checking {trial.name}")
        result: bool = passes(self, trial)
        events.append("checked")
        return result

    monkeypatch.setattr(Split, "of", classmethod(lambda cls, *arguments: Spy(split_of(*arguments))))
    monkeypatch.setattr(BudgetCheck, "passes", checked)
    return events


@pytest.mark.parametrize("labelled", [True, False])
def test_rows_held_back_choose_nothing(
    net: Network, labelled: bool, monkeypatch: pytest.MonkeyPatch, wins: None
) -> None:
    monkeypatch.undo()  # use the clock, so that races are run
    events = spied(monkeypatch)
    x = rows(600)
    y = labels(net, x) if labelled else None
    options: dict[str, Any] = {"batch_sizes": (1, 32), "ranks": (4,), "progress": False}
    fast = lrgate.optimize(net, x, y, 0.3, prune="never_on", precision="int8", **options)
    assert fast.report is not None and len(fast.report.checks) >= 2
    inside, last = False, max(i for i, event in enumerate(events) if event == "checked")
    looks = 0
    for i, event in enumerate(events):
        inside = event.startswith("checking") or (inside and event != "checked")
        if event in ("check", "targets") and 0 < i <= last:
            # Outside of a check, only their number is used.
            looks += inside
            assert inside, f"a look before the check: {events[: i + 1]}"
    assert looks >= 2


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("failing", range(5))
def test_the_first_that_fails_ends_the_check(
    net: Network, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["units never on left out", "int8 without gates"]
    # The choice for the same part without prudence is the same, so it is not checked again.
    names += ["gates for a part of the budget, chosen prudently", "gates for 100% of the budget"]
    real, tried = Evidence.within, 0

    def within(self: Evidence, *arguments: Any) -> bool:
        return real(self, *arguments) and tried <= failing

    passes = BudgetCheck.passes

    def counted(self: Any, trial: Any) -> bool:
        nonlocal tried
        tried += 1
        result: bool = passes(self, trial)
        return result

    monkeypatch.setattr(BudgetCheck, "passes", counted)
    monkeypatch.setattr(Evidence, "within", within)
    monkeypatch.setattr(search, "_BUDGET_SHARES", (0.3, 1.0))
    # After the check only the stored result is used.
    report_of = Reporter._report

    def reported(self: Any, *arguments: Any) -> Any:
        nonlocal tried
        tried = 0
        return report_of(self, *arguments)

    monkeypatch.setattr(Reporter, "_report", reported)
    fast = lrgate.optimize(
        net,
        rows(2000),
        None,
        0.3,
        prune="never_on",
        factors="none",
        ranks=(2, 4, 8),
        progress=False,
    )
    assert fast.report is not None
    # The part is at least 30 %: int8 takes some before.
    part = re.compile(r"for [3-9]\d% of")
    got = [(part.sub("for a part of", check.network), check.passed) for check in fast.report.checks]
    expected = [(name, True) for name in names[:failing]]
    expected += [(name, False) for name in names[failing : failing + 1]]
    assert got == expected
    strategies, words = kinds(fast)
    assert ("gate" in strategies) is (failing > 2)
    assert words == ({"int8"} if failing > 1 else {"f32"})
    assert any(fast.report.dropped_units) is (failing > 0)
    if failing == 0:
        assert_near(fast, net, np.float32(9 * rows(50, seed=3) - 2))


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("labelled", [True, False])
def test_what_is_returned_is_what_was_checked(task: str, labelled: bool) -> None:
    net, x = network(task=task), rows(1500)
    y = None
    if labelled:
        y = labels(net, x) if task == "classification" else net(x) + 0.01
    fast = optimized(net, x, y, 0.2, batch_sizes=(1, 16), confidence=0.9)
    report = fast.report
    assert report is not None and "gate" in kinds(fast)[0]
    split = Split.of(x, None if y is None else checked_targets(net, label_array(y), len(x)), 0)
    request = Request(
        0.2, 0.9, None, (1, 16), "auto", "proven", 1, 0, (4,), ranks_given=True, factors="none"
    )
    problem = Problem.of(without_gates(net, None), split, request, tqdm(disable=True))
    check = BudgetCheck(problem)
    chooser, evaluator = check.chooser, check.checker
    for size in (1, 16):
        calls = [split.check[at : at + size] for at in range(0, len(split.check), size)]
        outputs = np.concatenate([fast(call) for call in calls])
        reach = chooser.evidence(fast(split.tune)).largest
        evidence = evaluator.evidence(outputs, reach=reach)
        assert evidence.upper(0.9) == pytest.approx(report.increase_bound, rel=1e-5)
        assert evidence.worst == pytest.approx(report.worst_row_error, rel=1e-5)
        assert evidence.plain.increase == pytest.approx(report.error_increase, rel=1e-5)


def test_a_result_that_failed_its_check_is_never_returned(
    net: Network, monkeypatch: pytest.MonkeyPatch, wins: None
) -> None:
    """The final decision uses the stored result of the check."""

    def passes(self: Any, trial: Any) -> bool:
        evidence = Evaluator(net, rows(50), None).evidence(-net(rows(50)))
        trial.evidence.update({plan_key(trial.network, 1): evidence})
        return True

    monkeypatch.setattr(BudgetCheck, "passes", passes)
    with pytest.raises(RuntimeError, match="failed its check"):
        lrgate.optimize(net, rows(), None, 0.1, batch_sizes=[1], ranks=(4,), progress=False)


def balanced(net: Network, x: np.ndarray) -> Network:
    """The network with outputs of equal mean, so that no class is always predicted."""
    *hidden, last = net.layers
    last = Layer(last.weight, last.bias - net(x).mean(axis=0), last.activation)
    return Network.from_layers([*hidden, last], task=net.task)


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("n", [50, 120, 400])
@pytest.mark.parametrize("labelled", [True, False])
def test_few_rows_show_nothing_and_the_notes_say_how_many_would(n: int, labelled: bool) -> None:
    net, x = balanced(network(task="classification"), rows(2000)), rows(n)
    fast = optimized(net, x, labels(net, x, 0.3) if labelled else None, 0.02)
    assert fast.report is not None
    if kinds(fast) == ({"skip"}, {"f32"}):
        assert_near(fast, net, np.float32(10 * rows(50, seed=5) - 3))
    else:  # int8 of a single layer may pass
        assert "gate" not in kinds(fast)[0]
        assert any(check.passed and check.upper <= 0.02 for check in fast.report.checks)
    why = [
        note for note in fast.report.notes if "rows in total would" in note or "too much" in note
    ]
    assert why
    if n == 50 and not labelled:
        notes = [note for note in why if "rows in total would" in note]
        assert notes and all(
            "20 held-out rows cannot show that the budget is kept; about " in note for note in notes
        )
        needed = [re.findall(r"about ([\d,]+) rows", note)[0].replace(",", "") for note in notes]
        assert all(50 < int(count) < 10_000 for count in needed)


@pytest.mark.usefixtures("wins")
def test_a_worst_row_limits_what_is_used() -> None:
    net, x = network(), rows(1000)
    free = optimized(net, x, None, 0.5)
    assert free.report is not None and "gate" in kinds(free)[0]
    assert free.report.worst_row_error > 0.05 and free.report.max_row_error is None
    limit = free.report.worst_row_error / 3
    held = optimized(net, x, None, 0.5, max_row_error=limit)
    assert held.report is not None
    assert held.report.max_row_error == limit >= held.report.worst_row_error
    none = optimized(net, x, None, 0.5, max_row_error=1e-9)
    assert kinds(none) == ({"skip"}, {"f32"})
    assert none.report is not None
    assert any("the worst row changes too much" in note for note in none.report.notes)
    # The worst row is the worst row of the returned network.
    check = Split.of(x, None, 0).check
    outputs = np.float64(net(Split.of(x, None, 0).fit)), np.float64(net(check))
    tuned = np.float64(net(Split.of(x, None, 0).tune))
    every = np.concatenate([outputs[1], tuned, outputs[0]])
    off = np.sqrt(np.square(free(check) - outputs[1]).sum(axis=1) / every.var(axis=0).sum())
    assert free.report.worst_row_error == pytest.approx(off.max(), rel=1e-4)


@pytest.mark.usefixtures("wins")
def test_a_higher_confidence_needs_more(net: Network) -> None:
    x = rows(800)
    bounds = []
    for level in (0.6, 0.95, 0.999):
        report = optimized(net, x, None, 0.9, confidence=level, precision="f32").report
        assert report is not None
        bounds.append(report.checks[0].upper)
    assert bounds[0] < bounds[1] < bounds[2]


def test_each_class_has_its_own_precision(
    net: Network, wins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One plan may use int8 for the batch sizes where it is faster, and f32 for others."""

    def race(self: Any, size: int, seconds: float, rows: Any = None, **networks: Network) -> Any:
        speeds = {"dense": 9.0, "exact": 2.0, "int8_dense": 9.0, "plain": 1.0, "fast": 5.0}
        speeds["int8"] = 1.0 if size == 32 else 3.0
        each = {name: np.full(3, 1e-6 * speeds.get(name, 1.0)) for name in networks}
        return {name: timing.Timing(size, times, times) for name, times in each.items()}

    monkeypatch.setattr(Clock, "race", race)
    x = rows(1000)
    fast = optimized(net, x, None, 0.1, batch_sizes=(1, 32))
    small, large = fast.plan
    assert set(small.precisions) == {"f32"} and set(large.precisions) == {"int8"}
    assert_near(only_plan(fast, 1), net, x[:50])
    assert np.abs(fast(x[:32]) - net(x[:32])).max() > 0


@pytest.mark.usefixtures("wins")
def test_a_class_that_is_slower_in_the_last_race_goes_back_to_exact(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Clock.race

    def race(self: Any, size: int, seconds: float, rows: Any = None, **networks: Network) -> Any:
        times = before(self, size, seconds, rows, **networks)
        if "after" in times and size == 32:
            times["after"] = timing.Timing(size, times["dense"].calls, 2 * times["dense"].rounds)
        return times

    monkeypatch.setattr(Clock, "race", race)
    fast = optimized(net, rows(1000), None, 0.3)
    small, large = fast.plan
    assert "gate" in small.strategies
    assert set(large.strategies) == {"skip"} and set(large.precisions) == {"f32"}


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("budget", [0.0, 0.3])
def test_linear_pairs_are_merged(budget: float) -> None:
    rng = np.random.default_rng(0)
    sizes = [(30, D), (25, 30), (40, 25), (4, 40)]
    layers = [(rng.normal(size=size) / size[1] ** 0.5, rng.normal(size=size[0])) for size in sizes]
    names = ["identity", "relu", ("leaky_relu", 1.0), "identity"]
    net, x = Network.from_layers(layers, names), rows(600)
    options: dict[str, Any] = {"batch_sizes": (1, 32), "ranks": (4,), "progress": False}
    fast = lrgate.optimize(net, x, net(x), budget, **options)
    assert [layer.weight.shape for layer in fast.layers] == [(25, D), (4, 25)]
    report = fast.report
    assert report is not None
    assert "merged the consecutive linear layers 0 to 1, 2 to 3; layer numbers below" in str(
        report.notes
    )
    assert report.increase_bound <= budget
    if budget == 0:
        assert_near(fast, net, np.float32(100 * rng.normal(size=(300, D))))
        assert fast.check() <= 1e-4


@pytest.mark.usefixtures("wins")
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_rows_of_subnormal_size() -> None:
    rng = np.random.default_rng(3)
    sizes = [(64, D), (64, 64), (3, 64)]
    layers = [(rng.normal(size=size) / size[1] ** 0.5, rng.normal(size=size[0])) for size in sizes]
    net = Network.from_layers(layers, task="classification")
    x = np.float32(1e-42) * rows(400)
    assert 0 < np.abs(x).max() < 1e-40
    fast = lrgate.optimize(net, x, batch_sizes=(1,), progress=False)
    assert fast.report is not None


@pytest.mark.parametrize("scales", [(1e-25, 1e-25), (1e-20, 1e-20), (1e-30,) * 12, (1e25, 1e25)])
def test_linear_layers_whose_product_does_not_fit_float32_are_kept(
    scales: tuple[float, ...],
) -> None:
    rng = np.random.default_rng(0)
    linear = Activation("identity")
    first = [Layer(scale * rng.normal(size=(D, D)), np.zeros(D), linear) for scale in scales]
    layers = [*first, Layer(rng.normal(size=(4, D)), np.zeros(4), linear)]
    made, spans = merging.merged(layers)
    assert all(a is b for a, b in zip(made, layers, strict=True))
    assert spans == [(i, i) for i in range(len(layers))]


def test_merging_keeps_zeros_and_exact_subnormal_values() -> None:
    linear, tiny = Activation("identity"), 2.0**-140
    layers = [
        Layer(np.diag([1.0, 2.0, 0.0]), np.array([0, 0, tiny]), linear),
        Layer(np.diag([1.0, tiny, 1.0]), np.zeros(3), linear),
    ]
    (made,), _ = merging.merged(layers)
    assert made.weight.tolist() == np.diag([1.0, 2 * tiny, 0.0]).tolist()
    assert made.bias.tolist() == [0, 0, tiny]


@pytest.mark.usefixtures("wins")
def test_a_product_that_underflows_is_no_network_of_zeros() -> None:
    rng = np.random.default_rng(0)
    layers = [(1e-25 * rng.normal(size=(D, D)), None)] * 2 + [(rng.normal(size=(2, D)), None)]
    net = Network.from_layers(layers, ["identity"] * 3, task="regression")
    x = np.float32(1e30) * rows(200)
    fast = lrgate.optimize(net, x, None, 0.0, batch_sizes=(1,), progress=False)
    assert len(fast.layers) == 3
    assert_near(fast, net, x)


def timed(seconds: dict[str, float]) -> Any:
    """Races as before, except that calls of these networks take these times if they all race."""
    before = Clock.race

    def race(self: Any, size: int, *args: Any, **networks: Network) -> Any:
        if not set(seconds) <= set(networks):
            return before(self, size, *args, **networks)
        each = {name: np.full(3, seconds[name]) for name in networks}
        return {name: timing.Timing(size, times, times) for name, times in each.items()}

    return race


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize("faster", [True, False])
def test_layers_that_are_slower_merged_are_kept(
    faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clock, "race", timed({"network": 2.0, "other": 1.0 if faster else 3.0}))
    rng = np.random.default_rng(0)
    sizes = [(30, D), (25, 30), (4, 25)]
    layers = [(rng.normal(size=size) / size[1] ** 0.5, rng.normal(size=size[0])) for size in sizes]
    net, x = Network.from_layers(layers, ["identity", "relu", "identity"]), rows(200)
    fast = lrgate.optimize(net, x, None, 0.0, batch_sizes=(1, 32), progress=False)
    assert len(fast.layers) == (3 if faster else 2)
    assert fast.report is not None
    kept = "linear layers in a row are kept: merged they are slower here"
    assert (kept in fast.report.notes) == faster


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize(
    ("seconds", "after"),
    [
        ({"dense": 0.1, "own_dense": 9.0, "exact": 6.0, "after": 5.0}, 5.0),
        ({"dense": 9.0, "own_dense": 0.5, "exact": 5.0, "after": 6.0}, 0.5),
    ],
)
def test_the_time_reported_is_that_of_the_network_returned(
    seconds: dict[str, float], after: float, net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller's dense network is in the report's race, but is not the result's dense plan."""
    monkeypatch.setattr(Clock, "race", timed(seconds))
    fast = optimized(net, rows(), None, 0.0, input_range=(0, 1), precision="f32")
    assert fast.report is not None and fast.report.dead_units[0] == len(DEAD)
    for plan, batch in zip(fast.plan, fast.report.batches, strict=True):
        assert set(plan.strategies) == {"dense" if after == 0.5 else "skip"}
        assert batch.seconds_after * batch.rows == pytest.approx(after)
        assert batch.seconds_dense * batch.rows == pytest.approx(seconds["dense"])


@pytest.mark.filterwarnings("error")
def test_large_targets_give_no_warnings() -> None:
    net, x = network(1), rows(200)
    fast = optimized(net, x, 1e30 * net(x)[:, 0].astype(np.float64), 0.1)
    assert fast.report is not None and np.isfinite(fast.report.error_before)


def test_choices_are_those_that_no_other_one_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among all combinations of candidates, by sums of time and divergence over the layers."""
    monkeypatch.setattr(candidates, "_LEAST_STEP", 0.0)
    rng = np.random.default_rng(0)
    exact = np.array([[5.0, 3.0], [4.0, 4.0], [1.0, 1.0]])
    gate = Gate(np.ones((3, 1)), np.ones((1, 2)), np.zeros(2))
    options = {
        i: [
            Candidate(gate, "", 0.0, exact[i] * rng.uniform(0.2, 1.2, 2), float(divergence))
            for divergence in [*rng.exponential(size=6), math.nan]
        ]
        for i in (0, 1)
    }
    choices = choices_on_front(options, exact)

    def place(choice: Any) -> tuple[float, float]:
        seconds = exact.copy()
        for i, candidate in choice.items():
            faster = candidate.seconds < 0.97 * exact[i]
            seconds[i][faster] = candidate.seconds[faster]
        cost = float((seconds / exact.sum(axis=0)).sum())
        return cost, float(sum(candidate.divergence for candidate in choice.values()))

    every = [
        {i: c for i, c in zip(options, parts, strict=True) if c is not None}
        for parts in itertools.product(*([None, *found[:-1]] for found in options.values()))
    ]
    places = [place(choice) for choice in every]
    best = [p for p in places if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in places)]
    found = [place(choice) for choice in choices]
    np.testing.assert_allclose(found, sorted(best)[:-1])  # not the exact one; fastest first
    assert len(found) > 5


def test_choices_leave_out_what_saves_next_to_nothing() -> None:
    exact = np.array([[1.0], [1.0]])
    gate = Gate(np.ones((3, 1)), np.ones((1, 2)), np.zeros(2))
    options = {
        0: [Candidate(gate, "", 0.0, np.array([0.5]), 1.0)],
        1: [
            Candidate(gate, "", 0.0, np.array([seconds]), divergence)
            for seconds, divergence in ((0.8, 0.1), (0.7999, 0.2), (0.7, 0.3))
        ],
    }
    found = [
        {i: candidate.divergence for i, candidate in choice.items()}
        for choice in choices_on_front(options, exact)
    ]
    assert found == [{0: 1.0, 1: 0.3}, {0: 1.0, 1: 0.1}, {0: 1.0}, {1: 0.3}, {1: 0.1}]


def test_small_gains_of_many_layers_add_up() -> None:
    exact = np.ones((100, 1))
    gate = Gate(np.ones((3, 1)), np.ones((1, 2)), np.zeros(2))
    options = {i: [Candidate(gate, "", 0.0, np.array([0.9]), 1.0 + 0.01 * i)] for i in range(100)}
    choices = choices_on_front(options, exact)
    assert len(choices[0]) == 100
    assert 30 <= len(choices) <= candidates._MOST_CHOICES
    sizes = [len(choice) for choice in choices]
    assert sizes == sorted(sizes, reverse=True)
    # The layers of least divergence come first.
    assert all(set(choice) == set(range(len(choice))) for choice in choices)


def test_choices_of_layers_whose_time_is_not_seen() -> None:
    """A coarse clock shows 0 seconds."""
    gate = Gate(np.ones((3, 1)), np.ones((1, 2)), np.zeros(2))
    options = {0: [Candidate(gate, "", 0.0, np.array([0.0, 0.5]), 1.0)], 1: []}
    exact = np.array([[0.0, 1.0], [0.0, 1.0]])
    assert choices_on_front(options, exact) == [{0: options[0][0]}]
    assert choices_on_front({}, exact) == []


@pytest.mark.usefixtures("wins")
@pytest.mark.parametrize(("taken", "part"), [(0.0, 30), (0.5, 65)])
def test_gates_get_a_part_of_what_int8_leaves(
    net: Network, monkeypatch: pytest.MonkeyPatch, taken: float, part: int
) -> None:
    monkeypatch.setattr(search, "_BUDGET_SHARES", (0.3, 1.0))
    monkeypatch.setattr(BudgetCheck, "least_share", lambda self, found: taken)
    fast = lrgate.optimize(
        net, rows(2000), None, 0.3, factors="none", ranks=(2, 4, 8), progress=False
    )
    assert fast.report is not None
    names = [check.network for check in fast.report.checks]
    assert f"gates for {part}% of the budget, chosen prudently" in names


@pytest.mark.usefixtures("wins")
def test_the_first_gates_are_chosen_prudently(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those: bounds of all others, and of all checks, do not depend on rows unlike these."""
    flags: list[set[bool]] = [set()]
    upper, fastest = Evidence.upper, search.Search._fastest_within

    def seen(self: Evidence, *arguments: Any, **named: Any) -> float:
        bound = inspect.signature(upper).bind(self, *arguments, **named)
        flags[-1].add(bound.arguments.get("prudent", False))
        return upper(self, *arguments, **named)

    def chosen(self: Any, *arguments: Any) -> Any:
        flags.append(set())
        found = fastest(self, *arguments)
        flags.append(set())
        return found

    monkeypatch.setattr(Evidence, "upper", seen)
    monkeypatch.setattr(search.Search, "_fastest_within", chosen)
    lrgate.optimize(net, rows(2000), None, 0.3, factors="none", ranks=(2, 4, 8), progress=False)
    assert flags[1] == {True}
    assert len(flags) >= 7 and set().union(flags[0], *flags[2:]) == {False}


@pytest.mark.usefixtures("wins")
def test_where_int8_leaves_nothing_gates_are_tried_once(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs(monkeypatch, lambda network: 1.0)
    monkeypatch.setattr(BudgetCheck, "least_share", lambda self, found: math.inf)
    fast = optimized(net, rows(), None, 0.1, precision="f32")
    assert fast.report is not None
    notes = [note for note in fast.report.notes if note.startswith("no gate or factors are used")]
    assert len(notes) == 1

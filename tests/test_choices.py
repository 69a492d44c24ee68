"""Choices of `optimize` that times and odd rows decide."""

from __future__ import annotations

import statistics
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate import Network
from lrgate.measure import timing
from lrgate.model.plan import BatchPlan
from lrgate.planner import gates
from lrgate.planner.budget import BudgetCheck
from lrgate.planner.candidates import Candidate
from lrgate.planner.clock import Clock
from lrgate.planner.evaluation import Evaluator
from lrgate.planner.gates import GateSearch
from lrgate.planner.plans import with_plan
from lrgate.planner.problem import Problem, Request
from lrgate.planner.reporting import Reporter
from lrgate.planner.search import Search, _Use
from lrgate.planner.split import Split
from oracle import make

pytestmark = pytest.mark.usefixtures("short_times")

DENSE, INT8 = ("dense",) * 3, ("int8",) * 3


def rows(n: int, d: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def problem(net: Network, x: np.ndarray, **options: Any) -> Problem:
    request = Request(0.01, 0.95, None, (1,), "auto", "proven", 1, 0, (4,), True, "none")
    request = replace(request, **options)
    return Problem.of(
        net, Split.of(x, None, 0), request, SimpleNamespace(update=_, set_description=_)
    )


def _(*_: Any) -> None:
    """Does nothing."""


def optimized(net: Network, x: Any, y: Any = None, budget: float = 0.01, **options: Any) -> Network:
    chosen = {"batch_sizes": [1], "ranks": (4,), "progress": False, "num_threads": 1}
    return lrgate.optimize(net, x, y, budget, **(chosen | options))


def times(size: int, **seconds: float) -> dict[str, timing.Timing]:
    each = {name: np.full(3, value * 1e-6) for name, value in seconds.items()}
    return {name: timing.Timing(size, found, found) for name, found in each.items()}


# --- times --------------------------------------------------------------------------------------


def test_turns_with_int8_are_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows out of range are rare and slow, as close rows are: a median would leave them out."""
    turns = []

    def interleaved(contestants: Any, calls: Any, seconds: float, **options: Any) -> Any:
        turns.append(options["of_turn"])
        return dict.fromkeys(contestants)

    monkeypatch.setattr(timing, "interleaved", interleaved)
    net, x = make([12, 48, 32, 3], task="regression"), rows(200)
    small = net.quantize(x)
    clock = SimpleNamespace(threads=1, rows=x, work=10)
    Clock.race(clock, 1, 0.0, exact=net)
    Clock.race(clock, 1, 0.0, exact=net, int8=small)
    only_large = with_plan(small, [replace(net.plan[0], rows=1), BatchPlan(64, DENSE, INT8)])
    Clock.race(clock, 1, 0.0, int8=only_large)
    Clock.race(clock, 64, 0.0, int8=only_large)
    assert turns == [statistics.median, statistics.fmean, statistics.median, statistics.fmean]


def test_merging_must_be_slower_at_no_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(problem(make([12, 48, 32, 3], task="regression"), rows(100), sizes=(1, 64)))
    net = make([12, 48, 3], task="regression")
    for gains, pays in (((0.85, 1.5), False), ((0.98, 0.98), True), ((1.5, 1.5), True)):
        monkeypatch.setattr(clock, "speed_ups", lambda *_, gains=gains: list(gains))
        assert clock.merging_pays(net, net) == pays


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_a_plan_in_f32_goes_back_to_dense_whatever_was_asked_for(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a budget of 0 no layer is int8, so nothing that was asked for is lost."""
    net, x = make([12, 48, 32, 3], task="regression"), rows(200)
    monkeypatch.setattr(Clock, "tuned", lambda self, each: _skipping(each))

    def race(self: Any, size: int, seconds: float, rows: Any = None, **networks: Any) -> Any:
        speeds = {"exact": 1, "after": 3, "own_dense": 1} if "after" in networks else {"exact": 1}
        return times(size, **{name: speeds.get(name, 2) for name in networks})

    monkeypatch.setattr(Clock, "race", race)
    monkeypatch.setattr(Reporter, "_layer_reports", lambda *_: ())
    monkeypatch.setattr("lrgate.planner.reporting._predicted_speed_up", lambda _: 1.0)
    assert optimized(net, x, budget=0.0, precision=precision).plan[0].strategies == DENSE


def _skipping(net: Network) -> Network:
    return with_plan(net, [BatchPlan(1, ("skip",) * 3, ("f32",) * 3)])


def test_the_last_race_is_on_rows_that_nothing_was_fitted_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x = make([12, 48, 32, 3], task="regression"), rows(1000)
    last = []
    race = Clock.race

    def recorded(self: Any, size: int, seconds: float, rows: Any = None, **networks: Any) -> Any:
        if "own_dense" in networks:
            last.append(rows)
        return race(self, size, seconds, rows, **networks)

    monkeypatch.setattr(Clock, "race", recorded)
    optimized(net, x)
    (found,) = last
    np.testing.assert_array_equal(found, Split.of(x, None, 0).check)


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        # Seconds of the result, of dense, and of dense int8.
        ((1.0, 2.0, 1 / 1.02), "after"),
        ((1.0, 2.0, 1 / 1.05), "int8_dense"),
        ((3.0, 1.0, 0.99), "own_dense"),
        ((3.0, 1.0, 0.95), "int8_dense"),
    ],
)
def test_int8_replaces_an_exact_plan_where_it_is_clearly_faster(
    speeds: tuple[float, float, float], expected: str
) -> None:
    net, x = make([12, 48, 32, 3], task="regression"), rows(200)
    given = problem(net, x)
    reporter = Reporter(given, Clock(given), BudgetCheck(given))
    skip, (after, dense, int8) = _skipping(net), speeds
    networks = {"own_dense": net, "exact": skip, "after": skip, "int8_dense": net.quantize(x)}
    measured = times(1, own_dense=dense, exact=9, after=after, int8_dense=int8)
    assert reporter._fastest(1, networks, measured) == expected


# --- gates --------------------------------------------------------------------------------------


def test_ranks_that_were_asked_for_are_tried_on_wide_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gates, "_WIDE", 100)
    net, x = make([12, 48, 32, 3], task="regression"), rows(400)
    kept = SimpleNamespace(layer=net.layers[1], fit=np.ones((4, 48)))

    def tried(ranks: tuple[int, ...], given: bool) -> list[int]:
        search = GateSearch(
            *(problem(net, x, ranks=ranks, ranks_given=given), None, net, {"plain": net}),
            *(([], []), []),
        )
        return search._ranks_for(kept)

    assert tried((8, 12, 16), given=True) == [8]
    assert tried((8, 12), given=False) == []
    assert tried((4, 8), given=True) == [4, 8]


def test_gates_that_pay_only_in_f32_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = make([12, 48, 32, 3], task="regression"), rows(400)
    given = problem(net, x)
    clock = Clock(given)
    small = with_plan(net.quantize(x), [BatchPlan(1, DENSE, INT8)])

    def layer_seconds(network: Network) -> np.ndarray:
        (plan,) = network.plan
        int8 = plan.precisions[0] == "int8"
        gate, exact = (0.45, 0.4) if int8 else (0.2, 1.0)
        return np.array([[gate if name == "gate" else exact] for name in plan.strategies])

    monkeypatch.setattr(clock, "layer_seconds", layer_seconds)
    signals = net.layer_inputs(given.split.fit), net.layer_inputs(given.split.tune)
    always = [np.arange(0)] * 3
    search = GateSearch(given, clock, net, {"plain": small, "f32": net}, signals, always)
    found = search.choices()
    assert found["plain"] == []
    assert found["f32"] and all(choice.keys() <= {0, 1} for choice in found["f32"])
    # Measured together with int8 or alone, a gate has the same divergence.
    (alone,) = GateSearch(given, clock, net, {"f32": net}, signals, always).choices().values()
    first, other = (
        sorted(each.divergence for choice in choices for each in choice.values())
        for choices in (found["f32"], alone)
    )
    np.testing.assert_allclose(first, other)


def test_a_choice_of_a_smaller_share_stays_if_it_is_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x = make([12, 48, 32, 3], task="regression"), rows(400)
    search = Search(problem(net, x))
    search.exact = search.plain = net
    inputs = net.layer_inputs(x)[1]
    few, many = (
        {1: Candidate(gate, "whitened", 0.1, np.zeros(1))}
        for gate in map(lrgate.estimators.whitened(net.layers[1], inputs).gate, (2, 8))
    )
    search.choices = {"plain": [many, few]}
    use = _Use(0.0, "f32")
    monkeypatch.setattr(search.check, "likely", lambda found, *_, **__: True)
    raced: list[list[str]] = []

    def fastest(networks: dict[str, Network], plain: Network) -> str:
        raced.append(list(networks))
        return min(networks, key=lambda name: _rank(networks[name]))

    monkeypatch.setattr(search.clock, "fastest", fastest)
    assert search._fastest_within(0.5, None) == (many, use)
    before = few, use
    assert search._fastest_within(0.5, before) is before
    # The same choice is not raced with itself.
    again = many, use
    assert search._fastest_within(0.5, again) is again
    assert raced == [["before", "0"]]


def _rank(network: Network) -> int:
    gate = network.layers[1].gate
    assert gate is not None
    return gate.rank


# --- int8 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_a_layer_that_cannot_be_int8_is_named(precision: str) -> None:
    net, x = make([12, 48, 32, 3], task="regression"), rows(600)
    x[np.random.default_rng(1).random(x.shape) < 0.02] *= 1e6
    fast = optimized(net, x, budget=0.05, precision=precision)
    assert fast.report is not None
    refused = [note for note in fast.report.notes if note.startswith("layer 0 stays f32, not int8")]
    assert len(refused) == 1 and not refused[0].endswith(": ")


def test_layers_that_are_refused_without_others_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A layer may be refused only after another one is f32 again."""
    from lrgate.planner import precision

    fit = precision._Int8Fit._fitted

    def fitted(self: Any, chosen: Any) -> Any:
        found = dict(fit(self, chosen))
        bad = {1} if 0 not in found else set()
        return found | {i: (None, "it was refused") for i in found if i in bad}

    monkeypatch.setattr(precision._Int8Fit, "_fitted", fitted)
    monkeypatch.setattr(BudgetCheck, "likely", lambda self, found, *_, **__: 0 not in found)
    monkeypatch.setattr(BudgetCheck, "unlikely", lambda *_: "it costs too much")
    net, x = make([12, 48, 32, 3], task="regression"), rows(600)
    given = problem(net, x)
    search = precision._Int8Search(net, given, Clock(given), BudgetCheck(given))
    monkeypatch.setattr(
        search, "_with_margin", lambda chosen, *_, **__: (search._fit.network(chosen), chosen)
    )
    monkeypatch.setitem(search.__dict__, "_costs", {0: 3.0, 1: 2.0, 2: 1.0})
    monkeypatch.setitem(search.__dict__, "_gains", [0.0, 0.0, 0.0])
    ((name, found),) = search.networks()
    assert name == "int8"
    assert [each.quantization is not None for each in found.layers] == [False, False, True]
    named = [note[:7] for note in given.notes if "stays f32, not int8" in note]
    assert named == ["layer 0", "layer 1"]
    assert "layer 1 stays f32, not int8: it was refused" in given.notes


def test_a_layer_that_cannot_be_int8_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last layer that may be int8 is left to the rows that check."""
    from lrgate.planner import precision

    fit = precision._Int8Fit._fitted

    def fitted(self: Any, chosen: Any) -> Any:
        found = dict(fit(self, chosen))
        return found | {i: (None, "it was refused") for i in found if i == 0}

    monkeypatch.setattr(precision._Int8Fit, "_fitted", fitted)
    monkeypatch.setattr(BudgetCheck, "likely", lambda self, found, share=1.0, spare=1.5: spare == 0)
    net, x = make([12, 48, 32, 3], task="regression"), rows(600)
    given = problem(net, x)
    search = precision._Int8Search(net, given, Clock(given), BudgetCheck(given))
    found = search.networks()
    assert [name for name, _ in found] == ["int8"]
    chosen = [layer.quantization is not None for layer in found[0][1].layers]
    assert not chosen[0] and sum(chosen) == 1
    assert "layer 0 stays f32, not int8: it was refused" in given.notes


# --- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [0.0, 0.1, -3e7])
def test_errors_of_equal_targets_are_relative_to_the_outputs(constant: float) -> None:
    net, x = make([12, 48, 1], task="regression"), rows(160)
    outputs = net(x)
    evaluator = Evaluator(net, x, np.full((160, 1), constant))
    assert evaluator.variance == pytest.approx(float(outputs.astype(np.float64).var()))
    # Other rows show how much targets vary.
    other = np.array([[constant], [constant + 2.0]])
    evaluator = Evaluator(net, x, np.full((160, 1), constant), other_targets=other)
    expected = np.concatenate([np.full((160, 1), constant), other]).var()
    assert evaluator.variance == pytest.approx(expected, rel=1e-6)
    nothing = make([12, 48, 1], task="regression")
    zero = [(0 * layer.weight, 0 * layer.bias) for layer in nothing.layers]
    flat = Network.from_layers(zero, task="regression")
    assert Evaluator(flat, x, np.full((160, 1), constant)).variance == 1.0


def test_rare_targets_do_not_make_the_budget_absolute() -> None:
    """One target of 200 differs. Rows that check may lack it: errors are relative all the same."""
    net, x = make([12, 48, 32, 1], task="regression"), rows(200)
    for at in range(0, 200, 20):
        y = np.zeros((200, 1))
        y[at] = 1.0
        given = replace(problem(net, x), split=Split.of(x, y, 0))
        check = BudgetCheck(given)
        assert check.checker.variance == pytest.approx(float(y.var()))
        seen = given.split.fit_targets, given.split.tune_targets
        known = np.concatenate([part for part in seen if part is not None])
        expected = known.var() or net(x).astype(np.float64).var()
        assert check.chooser.variance == pytest.approx(float(expected), rel=0.3)


def test_nothing_is_lost_on_rows_on_which_the_dense_network_overflows() -> None:
    net, x = make([12, 48, 32, 2], task="regression"), rows(1000)
    y = net(x) + 0.1
    evaluator = Evaluator(net, x, y)
    reference = evaluator.evidence(-evaluator.dense).upper(0.95)
    for value in (np.nan, np.inf, -np.inf):
        evaluator = Evaluator(net, x, y)
        evaluator.dense = evaluator.dense.copy()
        evaluator.dense[::20] = value
        good, bad = evaluator.dense.copy(), -evaluator.dense
        same, worse = evaluator.evidence(good), evaluator.evidence(bad)
        assert same.upper(0.95) == same.worst == same.plain.increase == 0
        assert worse.upper(0.95) == pytest.approx(reference, rel=0.2)
        assert evaluator.error(good).before < 1
        good[1] = np.nan
        assert evaluator.evidence(good).upper(0.95) > 1e6


@pytest.mark.parametrize(
    ("first", "size", "scale"),
    [("relu", 5e37, 1.0), ("clipped_relu", 1e38, 1.0), ("tanh", 1e15, 1e28), ("relu", 1e25, 1.0)],
)
def test_huge_rows_fit_nothing(first: str, size: float, scale: float) -> None:
    """Outputs are finite, but sums or scaled inputs are not, or their squares."""
    hidden, *others = ((each.weight, each.bias) for each in make([12, 48, 32, 3]).layers)
    layers = [(hidden[0] / scale, hidden[1]), *others]
    activation = (first, 1.0) if first == "clipped_relu" else first
    net = Network.from_layers(
        layers, [activation, "relu", "identity"], task="regression", input_scale=scale
    )
    x = (rows(400) / scale).astype(np.float32)
    x[::20] = size
    with np.errstate(over="raise"):
        fast = optimized(net, x, budget=0.01, factors="auto")
    assert fast.report is not None
    assert any("values in the network are above 1e16" in note for note in fast.report.notes)


@pytest.mark.parametrize("precision", ["auto", "f32"])
def test_rows_that_overflow_fit_nothing(precision: str) -> None:
    """Squares of such rows are beyond float32."""
    layers = [(each.weight, each.bias) for each in make([12, 48, 32, 3]).layers]
    net = Network.from_layers(layers, ["squared_relu", "relu", "identity"], task="regression")
    x = rows(400)
    x[::20] *= 1e25
    assert not np.isfinite(net(x)).all()
    fast = optimized(net, x, budget=0.01, precision=precision)
    assert fast.report is not None
    (note,) = [note for note in fast.report.notes if "1e16" in note]
    taken = Split.of(x, None, 0)
    huge = sum(int((np.abs(part) > 1e15).any(axis=1).sum()) for part in (taken.fit, taken.tune))
    expected = "rows fit and choose nothing: values in the network are above 1e16 on them"
    assert note == f"{huge} {expected}"
    assert fast.report.error_before == 0 and all(each.passed for each in fast.report.checks)
    usual = np.delete(x, np.s_[::20], axis=0)
    scale = np.abs(net(usual)).max()
    assert np.abs(fast(usual) - net(usual)).max() <= 0.5 * scale
    assert fast.probe is not None and len(fast.probe.x) > 0
    fast.check()
    with pytest.raises(ValueError, match="x must have more rows on which values in the net"):
        optimized(net, 1e25 * rows(400))

"""Least margins: rows of a classifier that are recomputed because their label is uncertain."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import lrgate
from lrgate import Network, cli
from lrgate.measure import timing
from lrgate.model.plan import BatchPlan
from lrgate.planner import reporting
from lrgate.planner.budget import CLOSE_SHARES, BudgetCheck
from lrgate.planner.candidates import Candidate
from lrgate.planner.clock import Clock
from lrgate.planner.evaluation import Evaluator, Recomputed
from lrgate.planner.plans import (
    only_plan,
    plan_key,
    plan_of,
    recomputing,
    with_int8_margins,
    with_plan,
    with_tight_margin,
)
from lrgate.planner.problem import Problem, Request
from lrgate.planner.search import Search, _Use
from lrgate.planner.split import Split
from lrgate.quantization.fit import gate_range
from oracle import factored, gated, make

pytestmark = pytest.mark.usefixtures("short_times")


def quantized(net: Network, x: np.ndarray, **options: Any) -> Network:
    """`net.quantize(x)`, with or without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return net.quantize(x, **options)


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def margins(logits: np.ndarray, task: str) -> np.ndarray:
    if task == "multilabel" or logits.shape[1] == 1:
        return np.abs(logits).min(axis=1)
    ranked = np.sort(logits, axis=1)
    return ranked[:, -1] - ranked[:, -2]


@pytest.mark.isa
@pytest.mark.parametrize("kind", ["int8", "gates", "factors"])
@pytest.mark.parametrize(
    ("outputs", "last", "task"),
    [
        (4, "identity", "classification"),
        (4, "softmax", "classification"),
        (4, "log_softmax", "classification"),
        (1, "identity", "classification"),
        (1, "sigmoid", "classification"),
        (3, "sigmoid", "multilabel"),
        (3, "identity", "multilabel"),
    ],
)
def test_close_rows_get_the_f32_outputs(kind: str, outputs: int, last: str, task: str) -> None:
    x = rows(500, 12)
    net = make([12, 30, 20, outputs], last=last, task=task)
    if kind == "int8":
        fast = quantized(net, x, close_rows=0)
    else:
        fast = gated(net) if kind == "gates" else factored(net)
    strategies = ["dense" if kind == "int8" else "skip"] * 2 + ["dense"]
    if kind == "factors":
        strategies = ["skip"] * 3
    exact = fast.with_strategies(strategies)(x)
    logits = Network.from_layers(
        [(layer.weight, layer.bias) for layer in net.layers], task=net.task
    )
    parts = [layer.gate for layer in fast.layers], [layer.factors for layer in fast.layers]
    raw = logits.with_gates(parts[0]).with_factors(parts[1])
    raw = raw.with_quantization([layer.quantization for layer in fast.layers])
    raw = raw.with_strategies(fast.plan[0].strategies, fast.plan[0].precisions)
    beyond = raw.engine.recomputed(x)
    found = margins(raw(x), task)
    least = float(np.float32(np.quantile(found[~beyond], 0.2)))
    careful = fast.with_least_margin(least)
    assert (careful.least_margin, fast.least_margin) == (least, 0.0)
    close = (found < least) | beyond
    assert 90 <= close.sum() < 250
    np.testing.assert_array_equal(careful.engine.recomputed(x), close)
    got = careful(x)
    np.testing.assert_array_equal(got[close], exact[close])
    np.testing.assert_array_equal(got[~close], fast(x)[~close])
    one_by_one = np.concatenate([careful(x[i : i + 1]) for i in range(100)])
    np.testing.assert_array_equal(one_by_one, got[:100])
    assert (careful.with_least_margin(0)(x) == fast(x)).all()


def test_an_exact_plan_recomputes_nothing() -> None:
    net = make([5, 8, 3], task="classification").with_least_margin(1e6)
    assert not net.engine.recomputed(rows(20, 5)).any()
    assert quantized(net, rows(20, 5)).least_margin == 0


def test_it_is_kept_by_other_changes_and_by_files(tmp_path: Path) -> None:
    x = rows(300, 12)
    net = quantized(make([12, 30, 4], task="classification"), x, close_rows=0).with_probe(x[:9])
    careful = net.with_least_margin(0.5)
    assert careful.engine.recomputed(x).sum() > net.engine.recomputed(x).sum() + 5
    assert careful.check() <= 1e-4
    for changed in (
        careful.with_metadata({"a": 1}),
        careful.with_units([None, None]),
        careful.tune(x, [1], seconds=0.0).with_strategies(["dense"] * 2, "int8"),
        careful.dense().with_strategies(["dense"] * 2, "int8"),
    ):
        assert changed.least_margin == 0.5
        np.testing.assert_array_equal(changed(x), careful(x))
    for suffix in ("npz", "safetensors"):
        path = tmp_path / f"careful.{suffix}"
        careful.save(path)
        loaded = Network.load(path)
        assert loaded.least_margin == 0.5
        assert loaded.check() <= 1e-4
        np.testing.assert_array_equal(loaded(x), careful(x))


@pytest.mark.parametrize("value", [-1, -1e-60, np.nan, np.inf, 1e39, 10**400])
def test_margins_that_are_not_finite_or_below_0(value: float) -> None:
    net = make([5, 8, 3], task="classification")
    with pytest.raises(ValueError, match="least_margin must be finite and at least 0, got"):
        net.with_least_margin(value)


def test_refusals() -> None:
    regressor, classifier = make([5, 8, 3]), make([5, 8, 3], task="classification")
    with pytest.raises(ValueError, match="least_margin must be 0 for a network without labels"):
        regressor.with_least_margin(0.1)
    assert regressor.with_least_margin(0).least_margin == 0
    with pytest.raises(ValueError, match="unless the last activation is identity, sigmoid"):
        make([5, 8, 3], last="tanh", task="classification").with_least_margin(0.1)
    for wrong in ("1", True, np.array([0.1, 0.2])):
        with pytest.raises(TypeError, match="least_margin must be a number, got"):
            classifier.with_least_margin(wrong)  # type: ignore[arg-type]
    careful = classifier.with_least_margin(0.1)
    assert careful.with_least_margin(0.1) is careful
    for share in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="close_rows must be from 0 to 1"):
            classifier.quantize(rows(20, 5), close_rows=share)
    assert quantized(regressor, rows(100, 5), close_rows=1).least_margin == 0
    tanh = make([5, 8, 3], last="tanh", task="classification")
    assert quantized(tanh, rows(100, 5)).least_margin == 0


def test_phases_and_profiles_have_them() -> None:
    x = rows(200, 12)
    net = quantized(make([12, 30, 4], task="classification"), x).with_least_margin(0.5)
    names = [phase.phase for phase in net.phases(x, seconds=0.01).phases]
    assert "margin" in names
    assert len(net.profile(x, seconds=0.0).layers) == 2


# --- quantize -------------------------------------------------------------------------------------


def test_a_least_margin_halves_the_labels_that_change() -> None:
    """Random networks have many rows between two labels."""
    shares = []
    for seed in range(6):
        net = make([12, 48, 32, 3], seed, task="classification")
        x, fresh = rows(3000, 12, seed), rows(20_000, 12, seed + 100)
        small = quantized(net, x)
        plain = small.with_least_margin(0)
        exact = net.predict(fresh)
        shares.append(
            (
                (plain.predict(fresh) != exact).mean(),
                (small.predict(fresh) != exact).mean(),
                (small.engine.recomputed(fresh) & ~plain.engine.recomputed(fresh)).mean(),
            )
        )
        report = small.quantization_report
        assert report is not None
        assert report.changed <= 0.012
        assert report.expected_changed == pytest.approx(shares[-1][1], abs=0.003)
        assert report.recomputed == pytest.approx(small.engine.recomputed(fresh).mean(), abs=0.01)
    before, after, again = np.mean(shares, axis=0)
    assert before > 0.004
    assert after < 0.6 * before
    assert again < 0.02


def test_it_is_as_small_as_possible() -> None:
    """Few labels change: no least margin. Many: only as many rows as were allowed."""
    net = make([12, 48, 32, 3], task="classification")
    x = rows(3000, 12)
    least = [quantized(net, x, close_rows=share).least_margin for share in (0, 0.005, 0.01, 1)]
    assert least[0] == 0 and least[1] < least[2] < least[3] < 1
    full = quantized(net, x, close_rows=1)
    assert full.quantization_report is not None
    assert full.quantization_report.expected_changed == pytest.approx(0.002, abs=0.0007)
    clear, sure = np.eye(12, dtype=np.float32), rows(3000, 12)
    sure[np.arange(3000), np.arange(3000) % 12] += 20
    layers = [(clear, np.zeros(12)), (clear, np.zeros(12))]
    certain = Network.from_layers(layers, task="classification")
    assert quantized(certain, sure).least_margin == 0


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_markers_within_the_range(share: float) -> None:
    """-1 in some pixels of digits: margins are a quarter as wide."""
    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    changed = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(x))
        first, second = order[:900], order[900:]
        model = MLPClassifier((48,), max_iter=30, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = lrgate.from_sklearn(model.fit(x[first], y[first]))
        marked = np.where(rng.random(x.shape) < share, -1, x).astype(np.float32)
        for data in (x, marked):
            small = quantized(net, data[first])
            changed.append((small.predict(data[second]) != net.predict(data[second])).mean())
    assert np.mean(changed[1::2]) <= np.mean(changed[::2]) + 0.004


# --- optimize -------------------------------------------------------------------------------------


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 is faster than f32, whatever the clock says."""

    def race(self: Any, size: int, seconds: float, rows: Any = None, **networks: Network) -> Any:
        def of(network: Network) -> np.ndarray:
            return np.full(
                3, 1e-6 * (4 - only_plan(network, size).plan[0].precisions.count("int8"))
            )

        return {
            name: timing.Timing(size, of(network), of(network))
            for name, network in networks.items()
        }

    monkeypatch.setattr(Clock, "race", race)


@pytest.mark.usefixtures("forced")
def test_a_least_margin_lets_int8_keep_the_budget() -> None:
    net = make([12, 48, 32, 3], task="classification")
    x, budget = rows(6000, 12), 0.004
    options = {"batch_sizes": (1,), "factors": "none", "progress": False, "num_threads": 1}
    fast = lrgate.optimize(net, x, None, budget, **options)
    report = fast.report
    assert report is not None
    assert fast.plan[0].precisions == ("int8",) * 3
    assert fast.least_margin > 0
    assert report.increase_bound <= budget
    share = fast.engine.recomputed(x).mean()
    assert 0.003 < share < 0.05
    assert any(
        note.startswith(f"rows with a margin below {fast.least_margin:.3g} are recomputed in f32: ")
        for note in report.notes
    )
    fresh = rows(40_000, 12, 9)
    assert (fast.predict(fresh) != net.predict(fresh)).mean() <= budget
    without = fast.with_least_margin(0)
    assert (without.predict(fresh) != net.predict(fresh)).mean() > budget
    # With twice as much room none is needed.
    easy = lrgate.optimize(net, x, None, 0.03, **options)
    assert easy.plan[0].precisions == ("int8",) * 3 and easy.least_margin == 0
    # The network's own least margin is not used.
    exact = lrgate.optimize(net.with_least_margin(5.0), x, None, 0.0, **options)
    assert exact.least_margin == 0


@pytest.mark.parametrize(("outputs", "task"), [(3, "classification"), (4, "multilabel")])
def test_evidence_with_a_least_margin_is_that_of_the_network(outputs: int, task: str) -> None:
    """Raw outputs and a least margin give the counted errors of the network that has it."""
    net = make([12, 48, 32, outputs], task=task)
    x = rows(4000, 12)
    small = quantized(net, x, close_rows=0)
    least = 0.01
    evaluator = Evaluator(net.dense(), x, None)
    evidence = evaluator.evidence(small(x), least_margin=least)
    own = evaluator.evidence(small.with_least_margin(least)(x))
    assert evidence.plain.increase == pytest.approx(own.plain.increase, abs=1e-6)
    assert evidence.worst == pytest.approx(own.worst, abs=1e-4)
    plain = evaluator.evidence(small(x))
    assert evidence.estimate < 0.8 * plain.estimate
    # Paired with all margins, the estimate is near the share of labels that change on other rows.
    fresh = rows(100_000, 12, 5)
    changed = (small.with_least_margin(least).predict(fresh) != net.predict(fresh)).mean()
    # A row is recomputed if any of its labels is uncertain, which the estimate leaves out.
    assert 0.6 * changed <= evidence.estimate <= (1.5 if task == "classification" else 3) * changed
    assert evidence.upper(0.95) >= changed


def recomputed_in_int8(
    net: Network, x: np.ndarray, kind: str, least: float, int8_margin: float
) -> tuple[Network, Network, Network]:
    """A network whose close rows are recomputed in int8; the same that recomputes none; int8."""
    approximate = gated(net) if kind == "gates" else factored(net)
    raw = quantized(approximate, x, close_rows=0)
    assert set(raw.plan[0].precisions) == {"int8"}
    small = raw.with_strategies(["dense"] * 3, "int8")
    entry = replace(raw.plan[0], int8_margin=int8_margin)
    model: Any = raw.with_least_margin(least).__reduce__()[1][0]
    return Network(replace(model, plan=(entry,))), raw, small


@pytest.mark.isa
@pytest.mark.parametrize("kind", ["gates", "factors"])
@pytest.mark.parametrize("int8_margin", [0.0, 0.05])
@pytest.mark.parametrize(
    ("outputs", "task"), [(4, "classification"), (1, "classification"), (3, "multilabel")]
)
def test_close_rows_are_recomputed_in_int8_and_then_in_f32(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    int8_margin: float,
    outputs: int,
    task: str,
) -> None:
    net, x = make([12, 30, 20, outputs], task=task), rows(500, 12)
    _, raw, _ = recomputed_in_int8(net, x, kind, 0.0, int8_margin)
    least = float(np.float32(np.quantile(margins(raw(x), task), 0.3)))
    fast, raw, small = recomputed_in_int8(net, x, kind, least, int8_margin)
    x[7] *= 1000  # outside the range of the bytes
    x[8, 0] = np.nan
    close = margins(raw(x), task) < least
    beyond, again = raw.engine.recomputed(x), small.engine.recomputed(x)
    np.testing.assert_array_equal(fast.engine.recomputed(x), close | beyond)
    f32 = net.with_strategies(["skip"] * 2 + ["dense"])(x)
    in_f32 = again | (margins(small(x), task) < int8_margin)
    second = np.where(in_f32[:, None], f32, small(x))
    expected = np.where((close | beyond)[:, None], second, raw(x))
    kinds = ~close, close & ~in_f32, close & in_f32
    assert kinds[0].sum() > 20 and kinds[1].sum() > 5 and beyond[7]
    assert (kinds[2].sum() > 0) == (int8_margin > 0)
    np.testing.assert_allclose(fast(x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(fast(x)[kinds[1]], small(x)[kinds[1]])
    assert np.isnan(fast(x)[8]).all()
    for i in (0, 7, *np.flatnonzero(close)[:20]):
        np.testing.assert_array_equal(fast(x[i : i + 1]), fast(x)[i : i + 1])
    np.testing.assert_array_equal(fast(sparse.csr_matrix(x[:8])), fast(x[:8]))

    assert recomputing(fast, 1).plan[0].strategies == recomputing(fast, 64).plan[0].strategies
    inside = ~again & ~np.isnan(x).any(axis=1)
    np.testing.assert_array_equal(recomputing(fast, 1)(x)[inside], small(x)[inside])
    as_f32 = with_plan(fast, [replace(plan_of(fast, 1), int8_margin=None)])
    np.testing.assert_allclose(recomputing(as_f32, 1)(x), f32, rtol=1e-5, atol=1e-5)
    fast.save(tmp_path / "fast.npz")
    loaded = lrgate.Network.load(tmp_path / "fast.npz", tune=False)
    for other in (loaded, pickle.loads(pickle.dumps(fast))):  # noqa: S301
        assert other.plan == fast.plan and other.plan[0].int8_margin == np.float32(int8_margin)
        np.testing.assert_array_equal(other(x), fast(x))
    assert f"int8 margin {int8_margin:.3g}" in repr(fast)
    np.testing.assert_array_equal(fast.forward(x, num_threads=3), fast(x))
    assert cli.main(["info", str(tmp_path / "fast.npz")]) == 0
    assert "int8 margin" in capsys.readouterr().out
    tuned = fast.tune(x[:64], batch_sizes=(1, 64))
    for entry in tuned.plan:
        used = any("gate" in name or "factor" in name for name in entry.strategies)
        assert (entry.int8_margin is not None) == used
    # Margins belong to the outputs that they were chosen for.
    assert fast.with_least_margin(least).plan[0].int8_margin is None
    part = "gate" if kind == "gates" else "factor"
    dropped = getattr(fast, f"with_{kind}")({0: None})
    assert part in "".join(dropped.plan[0].strategies) and dropped.plan[0].int8_margin is None


@pytest.mark.parametrize("kind", ["gates", "factors"])
@pytest.mark.parametrize(("outputs", "task"), [(3, "classification"), (4, "multilabel")])
def test_evidence_knows_rows_recomputed_in_int8(kind: str, outputs: int, task: str) -> None:
    net, x = make([12, 48, 32, outputs], task=task), rows(4000, 12)
    fast, raw, small = recomputed_in_int8(net, x, kind, 0.3, 0.01)
    evaluator = Evaluator(net.dense(), x, None)
    again = Recomputed(small(x), 0.01, raw.engine.recomputed(x))
    evidence = evaluator.evidence(raw(x), least_margin=0.3, recomputed=again)
    own, in_f32 = evaluator.evidence(fast(x)), evaluator.evidence(raw(x), least_margin=0.3)
    assert evidence.plain.increase == pytest.approx(own.plain.increase, abs=1e-6)
    assert evidence.worst == pytest.approx(own.worst, abs=1e-4)
    # Rows that are recomputed in int8 may still change their labels.
    assert evidence.plain.increase >= in_f32.plain.increase
    assert evidence.estimate >= in_f32.estimate
    assert evidence.largest == evaluator.evidence(raw(x)).largest
    # Rows that are out of range only with factors get the outputs of int8.
    beyond = x[raw.engine.recomputed(x) & ~small.engine.recomputed(x)][:100]
    if kind == "factors":
        assert len(beyond) == 100
        again = Recomputed(small(beyond), 0.01, np.ones(100, np.bool_))
        few = Evaluator(net.dense(), beyond, None)
        evidence = few.evidence(raw(beyond), least_margin=0.3, recomputed=again)
        assert evidence.worst == pytest.approx(few.evidence(fast(beyond)).worst, abs=1e-6)
        assert evidence.worst > few.evidence(raw(beyond), least_margin=0.3).worst
    (from_check,) = BudgetCheck(problem(net, x)).evidence(fast)
    expected = Evaluator(net.dense(), Split.of(x, None, 0).tune, None)
    assert from_check.plain.increase == pytest.approx(
        expected.evidence(fast(Split.of(x, None, 0).tune)).plain.increase, abs=1e-6
    )
    fresh = rows(100_000, 12, 5)
    changed = (fast.predict(fresh) != net.predict(fresh)).mean()
    assert changed > 0 and from_check.upper(0.95) >= changed


def test_int8_margins_are_those_of_the_plan_without_gates() -> None:
    net, x = make([12, 48, 3], task="classification"), rows(400, 12)
    small = quantized(net, x, close_rows=0).with_least_margin(0.125)
    fast = quantized(gated(net), x).with_least_margin(0.5)
    plan = (
        BatchPlan(1, ("gate", "dense"), ("f32", "f32")),
        BatchPlan(16, ("gate", "dense"), ("int8", "int8")),
        BatchPlan(64, ("gate", "dense"), ("f32", "int8")),
        BatchPlan(256, ("skip", "dense"), ("int8", "int8")),
    )
    found = with_int8_margins(with_plan(fast, plan), small)
    assert [p.int8_margin for p in found.plan] == [None, 0.125, 0.125, None]
    assert [p.least_margin for p in found.plan] == [None] * 4


@pytest.mark.usefixtures("forced")
def test_a_larger_budget_never_gives_less_int8() -> None:
    options = {"batch_sizes": (1,), "factors": "none", "progress": False, "num_threads": 1}
    for seed in (0, 1, 6):
        net, x = make([12, 48, 32, 3], seed, task="classification"), rows(6000, 12, seed)
        counts = []
        for budget in (0.003, 0.006, 0.03):
            fast = lrgate.optimize(net, x, None, budget, **options)
            counts.append(fast.plan[0].precisions.count("int8"))
        assert counts == sorted(counts) and counts[-1] == 3, (seed, counts)


def test_units_left_out_have_no_least_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomputed rows lack them too, so that the evidence would miss their error."""
    net = make([12, 48, 3], task="classification")
    x = rows(4000, 12)
    check = BudgetCheck(problem(net, x))
    outputs = check.outputs(quantized(net, x, close_rows=0))
    assert len(check.least_margins(outputs)) == 1 + len(CLOSE_SHARES)
    check.pruned = True
    assert check.least_margins(outputs) == [0.0]


def problem(net: Network, x: np.ndarray, sizes: tuple[int, ...] = (1,)) -> Problem:
    request = Request(0.01, 0.95, None, sizes, "auto", "proven", 1, 0, (4,), True, "none")
    return Problem.of(net, Split.of(x, None, 0), request, None)


@pytest.mark.parametrize("last", ["softmax", "log_softmax", "sigmoid"])
@pytest.mark.parametrize("scale", [1.0, 3000.0, 30_000.0])
def test_saturated_rows_are_not_taken_for_close_ones(last: str, scale: float) -> None:
    """Probabilities of 0 and 1 hide how large a margin is."""
    outputs = 1 if last == "sigmoid" else 3
    net = make([12, 48, 3], task="classification")
    layers = [(layer.weight, layer.bias) for layer in net.layers]
    layers[-1] = (scale * layers[-1][0][:outputs], scale * layers[-1][1][:outputs])
    net = Network.from_layers(layers, ["relu", last], task="classification")
    x = rows(4000, 12)
    small = quantized(net, x, close_rows=0)
    check = BudgetCheck(problem(net, x))
    least = check.least_margins(check.outputs(small))
    assert least == sorted(least)
    rows_that_choose = Split.of(x, None, 0).tune
    for margin, share in zip(least[1:], CLOSE_SHARES, strict=True):
        again = small.with_least_margin(margin).engine.recomputed(rows_that_choose).mean()
        assert again <= share + small.engine.recomputed(rows_that_choose).mean() + 0.004
    careful = quantized(net, x)
    assert careful.engine.recomputed(x).mean() <= 0.03


INT8_BUT_ONE = ("int8", "f32", "int8")
DENSE = ("dense",) * 3


def test_gates_are_tried_in_f32_where_int8_is_little_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x = make([12, 48, 32, 3], task="regression"), rows(3000, 12)
    small = quantized(net, x)
    inputs = net.layer_inputs(x)[1]
    gate = lrgate.estimators.whitened(net.layers[1], inputs).gate(rank=4)
    gate = replace(gate, range=gate_range(gate, inputs))

    def search(gain: float, precision: str = "auto") -> Search:
        found = Search(problem(net, x))
        request = replace(found.problem.request, precision=precision)
        found.problem = replace(found.problem, request=request)
        found.exact, found.plain = net, small
        choices = [{1: Candidate(gate, "whitened", 0.1, np.zeros(1))}]
        found.choices = {"plain": choices, "f32": choices}
        monkeypatch.setattr(found.clock, "speed_ups", lambda *_: [3.0, gain])
        return found

    in_int8, in_f32 = _Use(0.0, "f32"), _Use(0.0, "f32", "f32")
    assert search(1.7)._ways == search(1.5, "int8")._ways == [in_int8]
    near = search(1.5)
    assert near._ways == [in_int8, in_f32]
    tune = near.problem.split.tune
    with_gate = net.with_gates({1: gate})
    plan = BatchPlan(1, ("dense", "gate", "dense"), ("f32",) * 3)
    expected = with_plan(with_gate, [plan]).forward(tune)
    (found,) = near._outputs(0, "f32").outputs
    np.testing.assert_array_equal(found, expected)
    (other,) = near._outputs(0, "plain").outputs
    assert np.abs(other - expected).max() > 0
    # Where int8 takes too much of the budget, f32 is used.
    largest = {use: near._evidence(0, 0, use)[0].largest for use in near._ways}
    limit = largest[in_f32]
    monkeypatch.setattr(
        near.check,
        "likely",
        lambda found, *_, **__: all(each.largest == limit for each in found),
    )
    assert near.choices is not None
    assert near._fastest_within(1.0, None) == (near.choices["f32"][0], in_f32)
    assert largest[in_int8] != limit


def test_batch_sizes_without_gates_keep_the_smaller_least_margin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gates need a larger least margin than int8 alone: it is not used where they do not pay."""
    net, x = make([12, 48, 32, 3], task="classification"), rows(3000, 12)
    search = Search(problem(net, x, sizes=(1, 16, 256)))
    search.natural, search.reordered = [np.arange(n) for n in (48, 32, 3)], False
    search.exact = net
    search.plain = with_plan(
        quantized(net, x, close_rows=0).with_least_margin(0.01),
        [BatchPlan(size, DENSE, INT8_BUT_ONE) for size in search.clock.sizes],
    )
    gate = lrgate.estimators.whitened(net.layers[1], net.layer_inputs(x)[1]).gate(rank=4)

    def race(self: Any, size: int, seconds: float, rows: Any = None, **networks: Network) -> Any:
        """Gates are faster for single rows, and skip nowhere."""

        def speed(network: Network) -> float:
            used = set(network.plan_for(size).strategies)
            return (
                2.0 if "skip" in used else (0.5 if size == 1 else 1.5) if used & {"gate"} else 1.0
            )

        each = {name: np.full(3, 1e-6 * speed(network)) for name, network in networks.items()}
        return {name: timing.Timing(size, times, times) for name, times in each.items()}

    monkeypatch.setattr(Clock, "race", race)
    monkeypatch.setattr(Clock, "tuned", lambda self, network: network)
    choice = {1: Candidate(gate, "whitened", 0.1, np.zeros(3))}
    found = search._with_choice(choice, _Use(0.05, "f32"))
    small, large = float(np.float32(0.01)), float(np.float32(0.05))
    assert found.least_margin == large
    assert [(p.rows, p.strategies[1], p.least_margin) for p in found.plan] == [
        (1, "gate", None),
        (16, "dense", small),
        (256, "dense", small),
    ]
    # It is checked with these, and the last race knows dense int8 with the smaller one.
    keys = [plan_key(found, size) for size in (1, 16, 256)]
    assert keys[0].endswith(repr(large)) and keys[1] == keys[2] == plan_key(search.plain, 16)
    plain, best = (search._trial("", network, {}) for network in (search.plain, found))
    evidence = search.check.evidence(found)
    assert evidence[0].largest > evidence[1].largest > 0
    plain.evidence[keys[1]] = best.evidence[keys[1]] = evidence[1]
    best.evidence[keys[0]] = evidence[0]
    rival = reporting._dense_int8(best, [plain, best], 1)
    assert rival is not None and plan_of(rival, 1) == BatchPlan(1, DENSE, INT8_BUT_ONE, small)
    assert reporting._dense_int8(best, [best], 16) is None  # it is dense already
    # Also where the size has gates in f32, or is exact.
    in_f32 = search._with_choice(choice, _Use(large, "f32", "f32"))
    exact = with_plan(in_f32, [replace(net.plan[0], rows=1), *in_f32.plan[1:]])
    for network in (in_f32, exact):
        assert set(plan_of(network, 1).precisions) == {"f32"}
        trial = search._trial("", network, choice)
        rival = reporting._dense_int8(trial, [plain, trial], 1)
        assert rival is not None and plan_of(rival, 1) == BatchPlan(1, DENSE, INT8_BUT_ONE, small)
    del plain.evidence[keys[1]], best.evidence[keys[1]]
    assert reporting._dense_int8(best, [plain, best], 1) is None
    # The choice counts as the plan without gates where that is faster.
    networks = {"0": search.plain, "1": with_plan(found, [plan_of(found, 1)])}
    assert search.clock.fastest(networks, search.plain) == "1"
    # Later rows may be recomputed more often: with ten times the share of these the gate is slow.
    close = search._with_choice(choice, _Use(3.0, "f32"))
    assert [p.strategies[1] for p in close.plan] == ["dense"] * 3
    # They are recomputed by the plan without gates, with its least margin.
    in_int8 = search._with_choice(choice, _Use(0.05, "int8"))
    assert [(p.strategies[1], p.least_margin, p.int8_margin) for p in in_int8.plan] == [
        ("gate", None, small),
        ("dense", small, None),
        ("dense", small, None),
    ]
    # In f32, with and without a least margin of their own: other batch sizes keep theirs.
    assert search._ways == [_Use(0.0, "f32"), _Use(0.0, "int8"), _Use(0.0, "f32", "f32")]
    for least in (large, 0.0):
        in_f32 = search._with_choice(choice, _Use(least, "f32", "f32"))
        assert [plan_of(in_f32, size) for size in (1, 16)] == [
            BatchPlan(1, ("dense", "gate", "dense"), ("f32",) * 3, least),
            BatchPlan(16, DENSE, INT8_BUT_ONE, small),
        ]
        assert in_f32.least_margin == max(least, small)
    # Of equal layers those with the smaller least margin are taken.
    close = search.plain.with_least_margin(0.05)
    settled = search.clock.settled(close, close=close, plain=search.plain)
    assert [p.least_margin for p in settled.plan] == [small] * 3
    notes = reporting.Reporter(search.problem, search.clock, search.check)._margin_notes
    assert [note.split(":")[0] for note in notes(found)] == [
        "rows with a margin below 0.05 are recomputed in f32, in calls of 1 row",
        "rows with a margin below 0.01 are recomputed in f32, in calls of 16 and 256 rows",
    ]
    (note,) = notes(search.plain)
    assert note.startswith("rows with a margin below 0.01 are recomputed in f32: ")
    others = replace(plan_of(found, 16), rows=64, least_margin=0.0)
    second = "int8 without gates and factors, and below 0.01 in f32"
    for network, how in ((found, "f32"), (in_int8, second)):
        (note,) = notes(with_plan(network, [plan_of(network, 1), others]))
        assert f"recomputed in {how}, in calls of 1 row: " in note
    assert plan_key(in_int8, 1) != plan_key(found, 1)
    # Only the margins that are used are left.
    exact = with_plan(found, [BatchPlan(1, DENSE, ("f32",) * 3), plan_of(found, 16)])
    tight = with_tight_margin(exact)
    assert (tight.least_margin, tight.plan[1].least_margin) == (small, None)
    assert with_tight_margin(exact.dense()).least_margin == 0


@pytest.mark.isa
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_least_margins_of_batch_sizes_are_kept(tmp_path: Path, suffix: str) -> None:
    net, x = make([12, 48, 3], task="classification"), rows(400, 12)
    usual = gated(quantized(net, x, close_rows=0)).with_least_margin(0.5)
    plan = (
        BatchPlan(1, ("gate", "dense"), ("f32", "int8")),
        BatchPlan(64, ("dense", "dense"), ("int8", "int8"), 0.125),
        BatchPlan(1024, ("dense", "dense"), ("int8", "int8"), 0),
    )
    model: Any = usual.__reduce__()[1][0]
    own = Network(replace(model, plan=plan)).with_probe(x[:8])
    assert own.plan == plan and own.plan[2].least_margin == 0.0
    assert own.least_margin == 0.5
    assert "64: dense-int8/dense-int8 (margin 0.125), 1024:" in repr(own)
    own.save(tmp_path / f"own{suffix}")
    again = lrgate.Network.load(tmp_path / f"own{suffix}", tune=False)
    assert again.plan == plan
    tokens = [net.__dask_tokenize__() for net in (again, own, own.with_least_margin(0.5))]
    assert tokens[0] == tokens[1] != tokens[2]
    again.check()
    for n in (64, 400, 1024):
        of_size = np.resize(x, (n, 12))
        marks = again.engine.recomputed(of_size)
        expected = usual.with_least_margin(own.plan_for(n).least_margin or 0.0)
        expected = expected.with_strategies(["dense", "dense"], "int8")
        np.testing.assert_array_equal(marks, expected.engine.recomputed(of_size))
        np.testing.assert_array_equal(again(of_size), expected(of_size))
    for changed in (own.with_gates({}), own.with_metadata({}), pickle.loads(pickle.dumps(own))):  # noqa: S301
        assert changed.plan == plan
    assert [p.least_margin for p in own.with_least_margin(0.5).plan] == [None] * 3
    assert [p.least_margin for p in own.with_gates({0: None}).plan] == [None] * 3
    assert own.with_units({0: None}).plan == plan
    assert own.with_quantization({}).plan == plan
    assert own.with_quantization([layer.quantization for layer in own.layers]).plan == plan
    assert [p.least_margin for p in own.with_quantization({1: None}).plan] == [None] * 3
    # Rows in files are in any order, and minus zero is zero.
    usual_plan = (replace(plan[1], least_margin=None), plan[0])
    turned = Network(replace(model, plan=usual_plan, report={"a": 1}))
    assert turned.with_least_margin(0.5) is turned
    assert repr(BatchPlan(1, ("dense",), ("int8",), -0.0).least_margin) == "0.0"
    fewer = own.with_units({0: np.arange(40)})
    assert [p.least_margin for p in fewer.plan] == [None] * 3
    assert fewer.plan[1].precisions == plan[1].precisions and fewer.probe is not None
    # The network's own is none.
    equal = replace(model, plan=(replace(plan[1], least_margin=0.5), plan[2]))
    assert [p.least_margin for p in equal.plan or ()] == [None, 0.0]
    assert Network(equal).with_least_margin(0.5).plan[1].least_margin is None


def test_predict_uses_the_least_margin_of_the_batch_size(tmp_path: Path) -> None:
    net, x = make([12, 48, 3], task="classification"), rows(400, 12)
    model: Any = quantized(net, x, close_rows=0).with_least_margin(3.0).__reduce__()[1][0]
    layers = ("dense", "dense"), ("int8", "int8")
    own = Network(replace(model, plan=(BatchPlan(1, *layers), BatchPlan(64, *layers, 0.0))))
    own.save(tmp_path / "own.npz")
    np.save(tmp_path / "x.npy", x)
    words = [str(tmp_path / name) for name in ("own.npz", "x.npy", "y.npy")]
    assert cli.main(["predict", *words[:2], "--raw", "-o", words[2]]) == 0
    np.testing.assert_array_equal(np.load(words[2]), own(x))
    assert (own(x) != own.with_least_margin(3.0)(x)).any()


def test_check_looks_behind_the_least_margin() -> None:
    net, x = make([12, 48, 3], task="classification"), rows(400, 12)
    gate = lrgate.estimators.whitened(net.layers[0], net.layer_inputs(x)[0]).gate(4, -0.1)
    good = net.with_gates({0: gate}).with_least_margin(1e6).with_probe(x[:64])
    assert good.check() <= 1e-4
    model: Any = good.__reduce__()[1][0]
    # Earlier builds stored outputs with recomputed rows.
    (planned,) = model.probe.planned
    before = replace(planned, y=np.asarray(good(x[:64])))
    old = Network(replace(model, probe=replace(model.probe, planned=(before,))))
    assert (before.y != planned.y).any() and old.check() <= 1e-4
    damaged = replace(model.layers[0], gate=replace(gate, bias=gate.bias - 5))
    with pytest.raises(ValueError, match="the probe's outputs under the plan gate/dense differ"):
        Network(replace(model, layers=(damaged, model.layers[1]))).check()


def test_wrong_least_margins_of_batch_sizes() -> None:
    net, x = make([12, 48, 3], task="classification"), rows(400, 12)
    usual = quantized(net, x, close_rows=0).with_least_margin(0.5)
    model: Any = usual.__reduce__()[1][0]
    for wrong in (-1, float("nan"), float("inf"), 1e39):
        with pytest.raises(ValueError, match=r"^least_margin must be finite and at least 0, got"):
            BatchPlan(1, ("dense", "dense"), ("int8",) * 2, wrong)
    with pytest.raises(TypeError, match=r"^least_margin must be a number, got '1'"):
        BatchPlan(1, ("dense", "dense"), ("int8",) * 2, "1")  # type: ignore[arg-type]
    larger = (BatchPlan(1, ("dense", "dense"), ("int8",) * 2, 0.75),)
    message = r"plan\[0\].least_margin must be at most that of the network, 0.5, got 0.75"
    with pytest.raises(ValueError, match=f"^{message}"):
        replace(model, plan=larger)
    for value in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"^int8_margin must be finite and at least 0, got"):
            BatchPlan(1, ("dense",), ("f32",), None, value)
    message = r"plan\[0\].least_margin must be 0 or None for a network without a least margin, got"
    with pytest.raises(ValueError, match=f"^{message} 0.75"):
        replace(model, plan=larger, least_margin=0.0)
    with pytest.raises(ValueError, match="margins must have 1 entries, got 2"):
        usual.engine.with_plan(usual.engine.plan(), [(None, None)] * 2)
    with pytest.raises(ValueError, match=r"^least_margin must be from 0 to the network's, 0.5"):
        usual.engine.with_plan(usual.engine.plan(), [(0.75, None)])


def test_other_kinds_of_rows_and_threads() -> None:
    net = make([12, 30, 4], task="classification")
    x = np.random.default_rng(0).integers(0, 4, (300, 12)).astype(np.uint8)
    careful = quantized(net, x).with_least_margin(0.05)
    expected = careful(x.astype(np.float32))
    assert 5 < careful.engine.recomputed(x).sum() < 200
    np.testing.assert_array_equal(careful(x), expected)
    np.testing.assert_array_equal(careful.forward(x, num_threads=2), expected)
    for again in (copy.copy(careful), pickle.loads(pickle.dumps(careful))):  # noqa: S301
        assert again.least_margin == careful.least_margin
        np.testing.assert_array_equal(again(x), expected)
    assert "least margin 0.05, " in repr(careful)


@pytest.mark.isa
def test_recomputed_sparse_rows_have_the_bits_of_the_f32_plan() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 100)) * (rng.random((200, 100)) < 0.1)).astype(np.float32)
    csr = sparse.csr_array(x)
    for widths in ([100, 10], [100, 40, 10]):
        careful = quantized(make(widths, task="classification"), x).with_least_margin(0.3)
        marks = careful.engine.recomputed(csr)
        assert 10 < marks.sum() < 190
        f32 = careful.with_strategies(careful.plan[0].strategies)
        got = careful(csr)
        np.testing.assert_array_equal(got[marks], f32(x)[marks])
        one_by_one = np.concatenate([careful(csr[[i]]) for i in range(200)])
        np.testing.assert_array_equal(one_by_one, got)


@pytest.mark.parametrize("count", [76, 200])
def test_few_rows_of_an_overfitted_network(count: int) -> None:
    """Its margins on these rows are far wider than on others."""
    rng = np.random.default_rng(count)
    mixing, teacher = rng.normal(size=(6, 20)), rng.normal(size=(20, 10))

    def sample(n: int) -> np.ndarray:
        causes = rng.normal(size=(n, 6)) * rng.exponential(size=(n, 1))
        return (causes @ mixing + 0.3 * rng.normal(size=(n, 20))).astype(np.float32)

    x, fresh = sample(count), sample(5000)
    y = (np.tanh(x) @ teacher + rng.gumbel(size=(count, 10))).argmax(axis=1)
    model = MLPClassifier((64, 64), max_iter=200, alpha=0, tol=0, n_iter_no_change=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = lrgate.from_sklearn(model.fit(x, y))
    fast = lrgate.optimize(net, x, None, 0.01, batch_sizes=(1,), progress=False)
    for careful in (fast, quantized(net, x)):
        beyond = careful.with_least_margin(0).engine.recomputed(fresh)
        assert (careful.engine.recomputed(fresh) & ~beyond).mean() < 0.1


def test_equal_rows_are_recomputed_all_or_none() -> None:
    """A group of equal rows is recomputed only if the share allows all of it."""
    rng = np.random.default_rng(0)
    for seed, last in enumerate(["softmax", "log_softmax", "identity", "sigmoid"] * 3):
        outputs = 1 if last == "sigmoid" else 3
        net = make([12, 48, 32, outputs], seed, last=last, task="classification")
        x = rows(16, 12, seed)[rng.choice(16, 1500, p=rng.dirichlet(np.ones(16)))]
        small = quantized(net, x)
        beyond = small.with_least_margin(0).engine.recomputed(x)
        share = (small.engine.recomputed(x) & ~beyond).mean()
        assert share <= 0.021
        assert (share > 0) == (small.least_margin > 0)

"""Evaluation of faster networks: split, increase of the error, interval, bound and damage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lrgate import Layer, Network
from lrgate.model.odds import log_odds
from lrgate.planner.calibration import Calibration
from lrgate.planner.divergence import Divergence
from lrgate.planner.evaluation import Evaluator
from lrgate.planner.evidence import likely_largest
from lrgate.planner.split import FIT_SHARE, MOST_ROWS, Split
from oracle import make, rows

D = 10
NAN = float("nan")


def perturbed(net: Network, size: float, seed: int = 0) -> Network:
    """`net` with its weights changed, always in the same direction."""
    rng = np.random.default_rng(seed)
    layers = [
        Layer(y.weight + size * rng.normal(size=y.weight.shape), y.bias, y.activation)
        for y in net.layers
    ]
    return Network.from_layers(layers, task=net.task, classes=None)


def classifier(outputs: int = 4, last: str = "identity") -> Network:
    return make([D, 30, outputs], last=last, task="classification")


# --- the split ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [50, 51, 99, 100, 1000, 12_345])
def test_parts_are_disjoint_and_all_of_the_rows(n: int) -> None:
    x = np.arange(n)[:, None]
    split = Split.of(x, np.arange(n), 0)
    parts = [part[:, 0] for part in (split.fit, split.tune, split.check)]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    np.testing.assert_array_equal(split.targets, parts[2])
    assert split.rows_fitted == len(parts[0])
    shares = [len(part) / n for part in parts]
    assert shares == pytest.approx([FIT_SHARE, 0.2, 0.4], abs=1.5 / n)


def test_a_split_depends_on_its_seed() -> None:
    x = rows(200, 3)
    one, same, other = Split.of(x, None, 1), Split.of(x, None, 1), Split.of(x, None, 2)
    assert one.targets is None
    for part in ("fit", "tune", "check"):
        np.testing.assert_array_equal(getattr(one, part), getattr(same, part))
        assert not np.array_equal(getattr(one, part), getattr(other, part))


def test_many_rows_are_sampled() -> None:
    assert len(Split.of(np.arange(10 * MOST_ROWS)[:, None], None, 0).check) == 100_000
    split = Split.of(np.arange(3 * MOST_ROWS)[:, None], None, 0)
    parts = [part[:, 0] for part in (split.fit, split.tune, split.check)]
    assert [len(part) for part in parts] == [8000, 4000, 48_000]
    taken = np.concatenate(parts)
    assert len(set(taken)) == 3 * MOST_ROWS
    assert taken.max() > 2.9 * MOST_ROWS


# --- errors -------------------------------------------------------------------------------------


def test_a_classifier_with_labels() -> None:
    net, x = classifier(), rows(200, D)
    labels = net(x).argmax(axis=1)
    labels[:20] = (labels[:20] + 1) % 4
    judge = Evaluator(net, x, labels)
    assert judge.measure == "classification error"
    none = judge.error(net(x))
    assert (none.before, none.after, none.increase, none.deviation) == (0.1, 0.1, 0.0, 0.0)
    assert judge.evidence(net(x)).within(0.0, 0.95)
    # 5 rows become correct, 30 become wrong.
    outputs = np.eye(4, dtype=np.float32)[net(x).argmax(axis=1)]
    outputs[:5] = np.eye(4)[labels[:5]]
    outputs[20:50] = np.eye(4)[(labels[20:50] + 1) % 4]
    error = judge.error(outputs)
    assert (error.before, error.after) == (0.1, 0.225)
    assert error.increase == pytest.approx(0.125)
    assert error.deviation == pytest.approx(math.sqrt((35 / 200 - 0.125**2) / 200))
    assert error.low < error.increase < error.high


def test_a_classifier_without_labels() -> None:
    net, x = classifier(), rows(100, D)
    judge = Evaluator(net, x, None)
    assert judge.measure == "disagreement with the dense network"
    assert judge.error(10 * net(x)).after == 0
    outputs = net(x)
    outputs[:7] = -outputs[:7]
    error = judge.error(outputs)
    assert (error.before, error.after, error.increase) == (0, 0.07, 0.07)


@pytest.mark.parametrize(("last", "boundary"), [("identity", 0.0), ("sigmoid", 0.5)])
def test_one_output_has_a_boundary(last: str, boundary: float) -> None:
    net, x = classifier(1, last), rows(100, D)
    labels = (net.predict(x) == net.classes[1]).astype(int)
    assert 0 < labels.mean() < 1
    judge = Evaluator(net, x, labels)
    assert judge.error(net(x)).after == 0
    outputs = np.where(labels[:, None] == 1, boundary + 1e-3, boundary).astype(np.float32)
    assert judge.error(outputs).after == 0
    assert judge.error(2 * boundary - net(x)).after == pytest.approx(1)
    assert Evaluator(net, x, None).error(outputs).after == 0


@pytest.mark.parametrize("last", ["softmax", "sigmoid", "identity"])
def test_several_outputs_take_the_largest(last: str) -> None:
    net, x = classifier(4, last), rows(100, D)
    labels = np.searchsorted(net.classes, net.predict(x))
    assert Evaluator(net, x, labels).error(net(x)).before == 0


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_regressor_with_targets(outputs: int) -> None:
    net, x = make([D, 30, outputs]), rows(150, D)
    rng = np.random.default_rng(0)
    targets = net(x) + rng.normal(size=(150, outputs))
    after = net(x) + rng.normal(size=(150, outputs)).astype(np.float32) / 10
    judge = Evaluator(net, x, targets)
    assert judge.measure == "relative squared error"
    error = judge.error(after)
    variance = np.var(targets, axis=0).sum()
    losses = [np.square(y - targets).sum(axis=1) / variance for y in (net(x), after)]
    assert error.before == pytest.approx(losses[0].mean())
    assert error.after == pytest.approx(losses[1].mean())
    change = losses[1] - losses[0]
    assert error.increase == pytest.approx(change.mean())
    assert error.deviation == pytest.approx(change.std() / 150**0.5)
    assert error.low < error.increase < error.high
    assert (error.high - error.low) == pytest.approx(2 * 1.96 * error.deviation)


def test_a_regressor_without_targets() -> None:
    net, x = make([D, 30, 2]), rows(150, D)
    judge = Evaluator(net, x, None)
    assert judge.measure == "relative squared difference from the dense network"
    assert judge.error(net(x)).after == 0
    shift = np.sqrt(np.var(net(x).astype(float), axis=0).sum() / 2)
    error = judge.error(net(x) + np.float32(0.1 * shift))
    assert (error.before, error.after) == (0, pytest.approx(0.01, rel=1e-4))


def test_outputs_that_do_not_vary() -> None:
    net = Network.from_layers([([[0.0] * D], [2.0])])
    error = Evaluator(net, rows(60, D), None).error(np.full((60, 1), 3, np.float32))
    assert (error.before, error.after) == (0, 1)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("classifies", [True, False])
def test_nan_is_as_wrong_as_can_be(classifies: bool, outputs: int, labelled: bool) -> None:
    net = classifier(outputs) if classifies else make([D, 30, outputs])
    x = rows(100, D)
    targets: Any = None
    if labelled:
        targets = np.searchsorted(net.classes, net.predict(x)) if classifies else net(x) + 1.0
    judge = Evaluator(net, x, targets)
    bad = np.full((100, outputs), NAN, np.float32)
    for judged in (bad, np.where(np.arange(100)[:, None] < 3, bad, net(x))):
        error = judge.error(judged)
        assert error.after >= (judged is bad if classifies else 1e30)
        assert math.isfinite(error.increase) and math.isfinite(error.high)
        evidence = judge.evidence(judged)
        assert not evidence.within(0.02 if classifies else 1.0, 0.95)
        assert evidence.worst >= (1.0 if classifies else 1e30)
    # The error of a network that gives NaN itself does not increase.
    x[:] = NAN
    same = Evaluator(net, x, targets)
    assert same.error(net(x)).increase == 0
    assert same.evidence(net(x)).within(0.0, 0.95)


def test_a_paired_interval_covers_the_truth() -> None:
    """The coverage is nearly 95 %, by brute force over all possible observations."""
    net = Network.from_layers([([[1.0], [-1.0]], [0.0, 0.0])], task="classification")
    n = 60
    x = np.ones((n, 1), np.float32)  # class 0 in dense
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    intervals = {}
    for worse in range(n + 1):
        for better in range(n + 1 - worse):
            labels = np.zeros(n, int)
            labels[:better] = 1
            outputs = np.full((n, 2), right, np.float32)
            outputs[: better + worse] = wrong
            if worse + better < 16 or (worse + better) % 7 == 0:
                error = Evaluator(net, x, labels).error(outputs)
                assert error.increase == pytest.approx((worse - better) / n)
                assert error.low < error.increase < error.high
                intervals[worse, better] = error.low, error.high
    for p, q in [(0.05, 0.0), (0.05, 0.02), (0.02, 0.05), (0.1, 0.01)]:
        covered = seen = 0.0
        for (worse, better), (low, high) in intervals.items():
            same = n - worse - better
            ways = math.comb(n, worse) * math.comb(n - worse, better)
            chance = ways * p**worse * q**better * (1 - p - q) ** same
            seen += chance
            covered += chance * (low <= p - q <= high)
        assert seen > 0.99
        assert covered / seen > 0.92


# --- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net",
    [
        classifier(4),
        classifier(1),
        classifier(4, "softmax"),
        classifier(4, "sigmoid"),
        classifier(1, "sigmoid"),
        make([D, 30, 4]),
        make([D, 30, 1]),
    ],
    ids=repr,
)
def test_damage_grows(net: Network) -> None:
    damage = Divergence(net, rows(100, D))
    assert damage.of(net) == 0
    found = [damage.of(perturbed(net, size)) for size in (1e-4, 1e-3, 1e-2, 1e-1)]
    assert found[0] > 0 or net.layers[-1].activation.name != "identity"
    assert -1e-9 < found[0] < found[1] < found[2] < found[3] < 10


def test_damage_is_what_it_is_called() -> None:
    net, x = classifier(3, "softmax"), rows(50, D)
    other = perturbed(net, 0.1)
    p, q = np.float64(net(x)), np.float64(other(x))
    expected = (p * np.log(p / q)).sum(axis=1).mean()
    assert Divergence(net, x).of(other) == pytest.approx(expected, rel=1e-4)
    # The same before the softmax.
    logits = Network.from_layers(net.layers, ["relu", "identity"], "classification")
    moved = Network.from_layers(other.layers, ["relu", "identity"], "classification")
    assert Divergence(logits, x).of(moved) == pytest.approx(expected, rel=1e-4)
    binary = classifier(1, "sigmoid")
    p, q = np.float64(binary(x)), np.float64(perturbed(binary, 0.1)(x))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    assert Divergence(binary, x).of(perturbed(binary, 0.1)) == pytest.approx(expected, rel=1e-4)
    plain = make([D, 30, 3])
    y, z = np.float64(plain(x)), np.float64(perturbed(plain, 0.1)(x))
    expected = np.square(z - y).sum(axis=1).mean() / np.var(y, axis=0).sum()
    assert Divergence(plain, x).of(perturbed(plain, 0.1)) == pytest.approx(expected, rel=1e-4)


def test_certain_probabilities_give_finite_damage() -> None:
    net = Network.from_layers([([[1.0], [-1.0]], [0.0, 0.0])], ["softmax"])
    other = Network.from_layers([([[-1.0], [1.0]], [0.0, 0.0])], ["softmax"])
    x = np.array([[300.0], [-300.0]], np.float32)
    assert 20 < Divergence(net, x).of(other) < 40


@pytest.mark.parametrize("last", ["sigmoid", "softmax"])
def test_log_odds_undo_the_last_activation(last: str) -> None:
    logits = np.random.default_rng(0).normal(size=(50, 3))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = np.float32(1 / (1 + np.exp(-logits)) if last == "sigmoid" else shares)
    expected = logits if last == "sigmoid" else np.log(shares)
    np.testing.assert_allclose(log_odds(y, last), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(log_odds(y, "identity"), y)
    certain = log_odds(np.float32([[0.0, 1e-20, 1.0, 1.0 - 2.0**-24]]), last)[0]
    assert np.isfinite(certain).all()
    # Neither underflow nor the last rounding below 1 is a change.
    assert certain[0] == certain[1] == pytest.approx(math.log(1e-12))
    assert certain[2] == pytest.approx(certain[3], abs=1e-6)


def test_exclusive_sigmoids_are_compared_by_their_odds() -> None:
    net, x = classifier(3, "sigmoid"), rows(50, D)
    other = perturbed(net, 0.1)
    logits = Network.from_layers(net.layers, ["relu", "identity"], "classification")
    moved = Network.from_layers(other.layers, ["relu", "identity"], "classification")
    expected = Divergence(logits, x).of(moved)
    assert Divergence(net, x).of(other) == pytest.approx(expected, rel=1e-3)


# --- evidence -----------------------------------------------------------------------------------


def logits(n: int, seed: int, noise: float = 0.0, outputs: int = 3) -> Any:
    """Log odds of rows, labels drawn from them, and the same log odds with noise."""
    rng = np.random.default_rng(seed)
    odds = 2 * rng.normal(size=(n, outputs))
    e = np.exp(odds - odds.max(axis=1, keepdims=True))
    truth = e / e.sum(axis=1, keepdims=True)
    labels = (rng.random((n, 1)) > np.cumsum(truth, axis=1)).sum(axis=1)
    moved = odds + noise * rng.standard_t(4, size=odds.shape)
    return odds.astype(np.float32), moved.astype(np.float32), labels, truth


def identity(outputs: int, task: str = "classification") -> Network:
    return Network.from_layers([(np.eye(outputs), np.zeros(outputs))], task=task)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("n", [20, 60, 300, 1500])
def test_a_bound_is_above_the_truth(n: int, labelled: bool) -> None:
    """In at least 19 of 20 samples; the true value is that of a large sample."""
    net, noise = identity(3), 0.2
    odds, moved, _, truth = logits(400_000, 0, noise)
    a, b = odds.argmax(axis=1), moved.argmax(axis=1)
    at = np.arange(len(a))
    cost = truth[at, a] - truth[at, b] if labelled else a != b
    held = 0
    for seed in range(1, 201):
        x, y, labels, _ = logits(n, seed, noise)
        others = logits(2 * n, seed + 10_000)[0]
        calibration = None
        if labelled:
            more = logits(2 * n, seed + 20_000)
            calibration = Calibration.of(np.float64(more[0]), more[2])
        judge = Evaluator(
            net, x, labels if labelled else None, others=others, calibration=calibration
        )
        held += judge.evidence(y).upper(0.95) >= cost.mean()
    assert held >= 190


@pytest.mark.parametrize("targets", [True, False])
@pytest.mark.parametrize("n", [20, 60, 300])
def test_a_bound_of_squares_is_above_the_truth(n: int, targets: bool) -> None:
    net = identity(1, "regression")

    def sample(count: int, seed: int) -> Any:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(count, 1)).astype(np.float32)
        moved = x + 0.1 * rng.standard_t(5, size=x.shape).astype(np.float32)
        return x, moved, x + 0.3 * rng.normal(size=x.shape)

    # t with 5 degrees of freedom has the variance 5 / 3.
    true = 0.01 * 5 / 3 / (1 + 0.09 * targets)
    held = 0
    for seed in range(200):
        x, moved, y = sample(n, seed)
        held += Evaluator(net, x, y if targets else None).evidence(moved).upper(0.95) >= true
    assert held >= 190


@pytest.mark.parametrize("n", [300, 1000])
def test_noisy_targets_are_no_reason_for_a_large_reserve(n: int) -> None:
    """The reserve is for rows that change more, not for rows that are further from targets."""
    net = identity(1, "regression")
    true, held, bounds = 1e-4 / 2, 0, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, 1)).astype(np.float32)
        moved = x + np.float32(0.01) * rng.normal(size=x.shape).astype(np.float32)
        evidence = Evaluator(net, x, x + rng.normal(size=x.shape)).evidence(moved)
        bounds.append(evidence.upper(0.95))
        held += bounds[-1] >= true
    assert held >= 190
    # Without the reserve 1.645 standard errors are 0.0165 / sqrt(n).
    assert np.mean(bounds) < 0.0165 / n**0.5 + true + 0.25 / n


@pytest.mark.parametrize("n", [20, 100, 2000])
def test_the_largest_of_other_rows_is_predicted(n: int) -> None:
    """1.5 standard deviations above its mode, the largest value is below in 86 % of samples."""
    held = 0
    for seed in range(400):
        sizes = np.random.default_rng(seed).pareto(2.0, 3 * n) + 1
        held += sizes[n:].max() <= likely_largest(sizes[:n], 2.0, 1.5)
    assert 0.82 * 400 <= held <= 0.96 * 400


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_a_prediction_is_of_the_rows_that_change(noise: float) -> None:
    """Rounding of the others does not count, however much smaller it is."""
    sizes = np.full(1000, noise)
    sizes[:20] = np.random.default_rng(0).pareto(2.0, 20) + 1
    predicted = likely_largest(sizes, 2.0, 1.5)
    assert 1.5 * sizes.max() < predicted < 10 * sizes.max()
    assert likely_largest(np.where(sizes > 0.5, sizes, 1e-9), 2.0, 1.5) == predicted


def test_a_prediction_of_few_or_boundless_values() -> None:
    assert likely_largest(np.array([1.0, 2.0, 3.0]), 2.0, 1.5) == 6.0
    assert likely_largest(np.array([0.0] * 98 + [1.0, 2.0]), 2.0, 1.5) == 4.0
    assert likely_largest(np.array([-1.0, -math.inf, 0.0]), 2.0, 1.5) == 0.0
    assert likely_largest(np.array([1.0] * 8 + [math.inf]), 2.0, 1.5) == math.inf
    assert likely_largest(np.full(9, 0.5), 1e9, 3.0) == 0.5
    assert likely_largest(np.geomspace(1.0, 1e-3, 100), 1e9, 3.0) == 10.0


def test_rows_that_choose_predict_the_bound_of_rows_that_check() -> None:
    """Although a least margin hides all perturbations of the rows that choose."""
    net = identity(3)

    def evaluated(n: int, seed: int, **named: float) -> Any:
        rng = np.random.default_rng(seed)
        odds = 3 * logits(n, seed)[0]
        sizes = 0.02 * rng.pareto(2.5, size=(n, 1)) * rng.choice([-1, 1], size=odds.shape)
        return Evaluator(net, odds, None).evidence(odds + sizes.astype(np.float32), **named)

    held = 0
    for seed in range(100):
        least = evaluated(1000, seed).largest
        chosen = evaluated(1000, seed, least_margin=least)
        checked = evaluated(2000, seed + 1000, least_margin=least, reach=least)
        held += chosen.upper(0.95, 2000, 1.5, prudent=True) >= checked.upper(0.95)
    assert held >= 75


def test_the_stand_in_is_not_biased() -> None:
    """Expected losses agree with the true value if probabilities are correct."""
    net = identity(3)
    x, moved, labels, truth = logits(200_000, 5, 0.3)
    evidence = Evaluator(net, x, labels).evidence(moved)
    at, a, b = np.arange(len(x)), x.argmax(axis=1), moved.argmax(axis=1)
    true = float((truth[at, a] - truth[at, b]).mean())
    assert 0.99 * true < evidence.expected.mean() < 1.1 * true  # rather too high than too low
    # The noise is a small part of the noise of the count.
    assert evidence.expected.std() < 0.5 * evidence.change.std()


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_a_temperature_is_found(factor: float) -> None:
    odds, _, labels, _ = logits(20_000, 3)
    found = Calibration.of(factor * np.float64(odds), labels)
    assert found.temperature == pytest.approx(factor, rel=0.15)
    assert found.factor < 1.3
    # Few labels never give a milder temperature than all labels.
    few = Calibration.of(factor * np.float64(odds[:30]), labels[:30])
    assert few.temperature <= 1.3 * found.temperature


def test_more_rows_are_needed_for_less() -> None:
    x, moved, labels, _ = logits(400, 1, 0.05)
    evidence = Evaluator(identity(3), x, labels).evidence(moved)
    needed = [evidence.needed(budget, 0.95) for budget in (0.05, 0.01, 0.004)]
    assert needed == sorted(needed, key=lambda n: n or math.inf)
    for budget, count in zip((0.05, 0.01, 0.004), needed, strict=True):
        assert count is None or evidence.upper(0.95, count) <= budget
    assert evidence.needed(0.0, 0.95) is None


def test_no_number_of_rows_shows_a_tiny_budget() -> None:
    odds = logits(400, 1)[0]
    evidence = Evaluator(identity(3), odds, None).evidence(odds * np.float32(1 - 1e-6))
    assert not evidence.change.any() and evidence.estimate > 0
    needed = evidence.needed(0.9 * evidence.estimate, 0.95)
    assert needed is not None and 800 <= needed < 1 << 40
    for budget in (1e-20, 1e-308, 5e-324):
        assert evidence.needed(budget, 0.95) is None


def test_what_was_never_seen_counts_as_lost() -> None:
    x, _, labels, _ = logits(1000, 1)
    judge = Evaluator(identity(3), x, None)
    assert judge.evidence(x).upper(0.95) == 0
    unseen = judge.evidence(x, unseen=True)
    assert unseen.upper(0.95) == pytest.approx(-math.log(0.05) / 1000, rel=1e-6)
    assert unseen.needed(0.001, 0.95) in range(2990, 3400)
    assert (
        0
        < Evaluator(identity(3), x, labels).evidence(x, unseen=True).upper(0.95)
        < unseen.upper(0.95)
    )


@pytest.mark.parametrize("far", [10.0, np.nan])
def test_what_a_regressor_never_showed_counts_as_its_farthest_output(far: float) -> None:
    x = np.random.default_rng(0).normal(size=(1000, 1)).astype(np.float32)
    x[7] = far
    finite = x[np.isfinite(x)].astype(np.float64)
    distances = np.square(finite - finite.mean())
    evidence = Evaluator(identity(1, "regression"), x, None).evidence(np.nan_to_num(x), unseen=True)
    expected = distances.max() / distances.mean()
    assert evidence.unseen == pytest.approx(expected, rel=1e-6)


def test_labels_may_contradict() -> None:
    """Labels show a loss that margins do not predict."""
    x = np.tile([[3.0, 0.0]], (4000, 1)).astype(np.float32)
    x[:400] = [[0.01, 0.0]]
    labels = np.zeros(4000, int)
    labels[400:900] = 1
    judge = Evaluator(identity(2), x, labels, calibration=Calibration(labelled=True))
    moved = x.copy()
    moved[:400] = [[0.0, 0.01]]
    evidence = judge.evidence(moved)
    assert evidence.plain.increase == 0.1
    assert evidence.estimate < 0.05
    deviation = math.sqrt(0.1 * 0.9 / 4000)
    assert evidence.contradicted
    assert evidence.upper(0.95) == pytest.approx(0.1 + 1.645 * deviation, rel=0.01)
    assert evidence.upper(0.999) > evidence.upper(0.95)
    assert not evidence.within(0.1, 0.95)
    assert evidence.needed(0.05, 0.95) is None


@pytest.mark.parametrize(
    ("worse", "better", "contradicted"),
    [(3, 0, False), (4, 0, False), (5, 0, True), (6, 1, False), (7, 1, True), (9, 2, True)],
)
def test_few_errors_contradict_as_in_the_sign_test(
    worse: int, better: int, contradicted: bool
) -> None:
    """Near a boundary a change is as likely to be an error as a correction."""
    count = worse + better
    x = np.tile([[9.0, 0.0]], (4000, 1)).astype(np.float32)
    x[:count] = [[1e-4, 0.0]]
    labels = np.zeros(4000, int)
    labels[:better] = 1
    moved = x.copy()
    moved[:count] = [[0.0, 1e-4]]
    judge = Evaluator(identity(2), x, labels, calibration=Calibration(labelled=True))
    evidence = judge.evidence(moved)
    assert evidence.change.sum() == worse - better
    # Heads of fair coins: the chance of as many errors or more.
    chance = sum(math.comb(count, k) for k in range(worse, count + 1)) / 2**count
    assert (chance < 0.05) == contradicted
    assert evidence.contradicted == contradicted

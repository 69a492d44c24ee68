"""What a faster network costs: the split, the error's increase, its interval, the damage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lrgate import Layer, Network
from lrgate.judge import FIT_SHARE, MOST_ROWS, Damage, Increase, Judge, Split
from oracle import make, rows

D = 10
NAN = float("nan")


def perturbed(net: Network, size: float, seed: int = 0) -> Network:
    """`net` with its weights moved, always in the same direction."""
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
    assert split.count == len(parts[0])
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
    split = Split.of(np.arange(3 * MOST_ROWS)[:, None], None, 0)
    parts = [part[:, 0] for part in (split.fit, split.tune, split.check)]
    assert [len(part) for part in parts] == [8000, 4000, 8000]
    taken = np.concatenate(parts)
    assert len(set(taken)) == MOST_ROWS
    assert taken.max() > 2.9 * MOST_ROWS


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("increase", "deviation", "budget", "expected"),
    [
        (0.0, 0.0, 0.0, True),
        (0.01, 0.0, 0.01, True),
        (0.01, 0.005, 0.015, True),
        (0.01, 0.005, 0.0149, False),
        (-0.01, 0.005, 0.0, True),
        (1e-9, 0.0, 0.0, False),
        (NAN, 0.0, 1.0, False),
    ],
)
def test_within_has_a_standard_error_to_spare(
    increase: float, deviation: float, budget: float, expected: bool
) -> None:
    assert Increase(0, 0, increase, deviation, 0, 0).within(budget) is expected


def test_a_classifier_with_labels() -> None:
    net, x = classifier(), rows(200, D)
    labels = net(x).argmax(axis=1)
    labels[:20] = (labels[:20] + 1) % 4
    judge = Judge(net, x, labels)
    assert judge.measure == "classification error"
    none = judge.error(net(x))
    assert (none.before, none.after, none.increase, none.deviation) == (0.1, 0.1, 0.0, 0.0)
    assert none.within(0.0)
    # 5 rows become right, 30 wrong.
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
    judge = Judge(net, x, None)
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
    judge = Judge(net, x, labels)
    assert judge.error(net(x)).after == 0
    outputs = np.where(labels[:, None] == 1, boundary + 1e-3, boundary).astype(np.float32)
    assert judge.error(outputs).after == 0
    assert judge.error(2 * boundary - net(x)).after == pytest.approx(1)
    assert Judge(net, x, None).error(outputs).after == 0


@pytest.mark.parametrize("last", ["softmax", "sigmoid", "identity"])
def test_several_outputs_take_the_largest(last: str) -> None:
    net, x = classifier(4, last), rows(100, D)
    labels = np.searchsorted(net.classes, net.predict(x))
    assert Judge(net, x, labels).error(net(x)).before == 0


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_regressor_with_targets(outputs: int) -> None:
    net, x = make([D, 30, outputs]), rows(150, D)
    rng = np.random.default_rng(0)
    targets = net(x) + rng.normal(size=(150, outputs))
    after = net(x) + rng.normal(size=(150, outputs)).astype(np.float32) / 10
    judge = Judge(net, x, targets)
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
    judge = Judge(net, x, None)
    assert judge.measure == "relative squared difference from the dense network"
    assert judge.error(net(x)).after == 0
    shift = np.sqrt(np.var(net(x).astype(float), axis=0).sum() / 2)
    error = judge.error(net(x) + np.float32(0.1 * shift))
    assert (error.before, error.after) == (0, pytest.approx(0.01, rel=1e-4))


def test_outputs_that_do_not_vary() -> None:
    net = Network.from_layers([([[0.0] * D], [2.0])])
    error = Judge(net, rows(60, D), None).error(np.full((60, 1), 3, np.float32))
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
    judge = Judge(net, x, targets)
    bad = np.full((100, outputs), NAN, np.float32)
    for judged in (bad, np.where(np.arange(100)[:, None] < 3, bad, net(x))):
        error = judge.error(judged)
        assert error.after >= (judged is bad if classifies else 1e30)
        assert math.isfinite(error.increase) and math.isfinite(error.high)
        assert not error.within(0.02 if classifies else 1.0)
    # A network that gives NaN itself has nothing to lose, and its error no increase.
    x[:] = NAN
    same = Judge(net, x, targets).error(net(x))
    assert same.increase == 0
    assert same.within(0.0)


def test_a_paired_interval_covers_the_truth() -> None:
    """95 % of the time, or nearly: brute force over all that can be observed."""
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
                error = Judge(net, x, labels).error(outputs)
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
    damage = Damage(net, rows(100, D))
    assert damage.of(net) == 0
    found = [damage.of(perturbed(net, size)) for size in (1e-4, 1e-3, 1e-2, 1e-1)]
    assert found[0] > 0 or net.layers[-1].activation.name != "identity"
    assert -1e-9 < found[0] < found[1] < found[2] < found[3] < 10


def test_damage_is_what_it_is_called() -> None:
    net, x = classifier(3, "softmax"), rows(50, D)
    other = perturbed(net, 0.1)
    p, q = np.float64(net(x)), np.float64(other(x))
    expected = (p * np.log(p / q)).sum(axis=1).mean()
    assert Damage(net, x).of(other) == pytest.approx(expected, rel=1e-4)
    # The same before the softmax.
    logits = Network.from_layers(net.layers, ["relu", "identity"], "classification")
    moved = Network.from_layers(other.layers, ["relu", "identity"], "classification")
    assert Damage(logits, x).of(moved) == pytest.approx(expected, rel=1e-4)
    binary = classifier(1, "sigmoid")
    p, q = np.float64(binary(x)), np.float64(perturbed(binary, 0.1)(x))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    assert Damage(binary, x).of(perturbed(binary, 0.1)) == pytest.approx(expected, rel=1e-4)
    plain = make([D, 30, 3])
    y, z = np.float64(plain(x)), np.float64(perturbed(plain, 0.1)(x))
    expected = np.square(z - y).sum(axis=1).mean() / np.var(y, axis=0).sum()
    assert Damage(plain, x).of(perturbed(plain, 0.1)) == pytest.approx(expected, rel=1e-4)


def test_certain_probabilities_give_finite_damage() -> None:
    net = Network.from_layers([([[1.0], [-1.0]], [0.0, 0.0])], ["softmax"])
    other = Network.from_layers([([[-1.0], [1.0]], [0.0, 0.0])], ["softmax"])
    x = np.array([[300.0], [-300.0]], np.float32)
    assert 20 < Damage(net, x).of(other) < 40

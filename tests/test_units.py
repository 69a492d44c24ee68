"""Units that are provably inactive, and orders of units."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrgate import Layer
from lrgate.model import Activation
from lrgate.planner import units
from lrgate.planner.units import co_activation_order, proven_dead
from oracle import make, rows

RELU = Activation("relu")
ACTIVATIONS: list[Any] = [
    "relu",
    "identity",
    "tanh",
    "sigmoid",
    "gelu",
    "softmax",
    ("clipped_relu", 0.3),
    ("thresholded_relu", 0.7),
    ("thresholded_relu", 0.0),
    ("thresholded_relu", -0.5),
    ("leaky_relu", 0.1),
    ("leaky_relu", -0.5),
    ("leaky_relu", 2.0),
]


def groups_on(active: np.ndarray, order: Any, size: int = 4) -> int:
    """Number of groups of `size` units with at least one active unit, over all rows."""
    ordered = active[:, order]
    ordered = ordered[:, : ordered.shape[1] // size * size]
    return int(ordered.reshape(len(active), -1, size).any(axis=2).sum())


def topics(n: int = 500, units: int = 64, count: int = 8, seed: int = 0) -> np.ndarray:
    """Units in `count` shuffled groups: in a row, most units of one or two groups are active."""
    rng = np.random.default_rng(seed)
    topic = rng.permutation(units) % count
    chosen = rng.random((n, count)) < 1.5 / count
    return chosen[:, topic] & (rng.random((n, units)) < 0.8)


# --- units that are provably off ----------------------------------------------------------------


@pytest.mark.parametrize("hidden", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("span", [(0.0, 1.0), (-1.0, 1.0), (-2.0, -0.5), (0.5, 0.5)], ids=str)
def test_a_dead_unit_is_never_on(hidden: Any, span: tuple[float, float]) -> None:
    low, high = span
    rng = np.random.default_rng(0)
    d, proven = 3, 0
    for seed in range(8):
        net = make([d, 12, 10, 8], seed=seed, hidden=hidden, last="relu")
        layers = [Layer(y.weight, y.bias - 0.8, y.activation) for y in net.layers]
        layers[-1] = Layer(layers[-1].weight, layers[-1].bias - np.arange(8) * 2, RELU)
        net = type(net).from_layers(layers)
        dead = proven_dead(layers, low, high, shift=0.0)
        assert [mask.shape for mask in dead] == [(12,), (10,), (8,)]
        corners = np.stack(np.meshgrid(*[[low, high]] * d), axis=-1).reshape(-1, d)
        x = np.concatenate([corners, rng.uniform(low, high, (2000, d))]).astype(np.float32)
        outputs = [*net.layer_inputs(x)[1:], net(x)]
        for mask, output, layer in zip(dead, outputs, layers, strict=True):
            assert mask.dtype == np.bool_
            assert not mask.any() or layer.activation.has_hard_zero
            assert not output[:, mask].any()
            proven += int(mask.sum())
    assert proven > 0


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_network_and_range(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    names = data.draw(st.lists(st.sampled_from(ACTIVATIONS), min_size=2, max_size=5))
    widths = [2, *rng.integers(1, 9, len(names))]
    if names[-1] in ("softmax", "log_softmax"):
        widths[-1] += 1  # one output alone is refused
    net = make(widths, seed=seed, last=names[-1])
    layers = [
        Layer(y.weight, y.bias - 0.3, Activation.parse(name))
        for y, name in zip(net.layers, names, strict=True)
    ]
    net = type(net).from_layers(layers)
    low = rng.uniform(-2, 2, 2)
    high = low + rng.exponential(size=2)
    x = rng.uniform(low, high, (300, 2)).astype(np.float32)
    x[:4] = [[a, b] for a in (low[0], high[0]) for b in (low[1], high[1])]
    outputs = [*net.layer_inputs(x)[1:], net(x)]
    for mask, output in zip(proven_dead(layers, low, high, shift=0.0), outputs, strict=True):
        assert not output[:, mask].any()


@pytest.mark.parametrize(
    ("activation", "bias", "expected"),
    [
        ("relu", [-3.0, -2.0, -1.99, 0.0], [True, False, False, False]),
        ("relu", [-2.001, -1.0, -1e9, 1.0], [True, False, True, False]),
        (("clipped_relu", 1e-3), [-3.0, -1.9, 0.0, 9.0], [True, False, False, False]),
        (("thresholded_relu", 1.0), [-3.0, -1.1, -0.9, 0.0], [True, True, False, False]),
        (("thresholded_relu", -1.0), [-3.1, -2.9, -2.0, 0.0], [True, False, False, False]),
        ("gelu", [-9.0] * 4, [False] * 4),
        ("identity", [-9.0] * 4, [False] * 4),
        (("leaky_relu", 0.0), [-9.0] * 4, [False] * 4),
        ("sigmoid", [-99.0] * 4, [False] * 4),
    ],
    ids=str,
)
def test_bounds_of_one_layer_are_exact(
    activation: Any, bias: list[float], expected: list[bool]
) -> None:
    """Up to rounding: the largest sum is 2 plus the bias; slightly more is not provably off."""
    layer = Layer([[1.0, 1.0]] * 4, bias, Activation.parse(activation))
    assert proven_dead([layer], 0.0, 1.0, shift=0.0)[0].tolist() == expected
    assert proven_dead([layer], [0.0, 0.0], [1.0, 1.0], shift=0.0)[0].tolist() == expected


def test_bounds_go_through_layers() -> None:
    """Outputs of the first layer are from 0 to 1 or from -1 to 1, depending on the activation."""
    first = [[1.0], [-1.0]]
    for name, reach in [("relu", 0.0), ("identity", -1.0), (("leaky_relu", 0.5), -0.5)]:
        layers = [Layer(first, [0.0, 0.0], Activation.parse(name))]
        # The output of the second unit is from `reach` to 0, so its negative is at most -`reach`.
        layers.append(Layer([[0.0, -1.0]] * 2, [reach - 0.01, reach + 0.01], RELU))
        assert proven_dead(layers, 0.0, 1.0, shift=0.0)[1].tolist() == [True, False]


def test_each_input_has_its_own_range() -> None:
    layer = Layer(np.eye(3), [0.0] * 3, RELU)
    dead = proven_dead([layer], [-2.0, -1.0, 0.0], [-1.0, 1.0, 0.0], shift=0.0)[0]
    assert dead[0] and not dead[1]


def test_dead_units_do_not_widen_what_follows() -> None:
    hidden = Layer([[1.0], [1.0]], [0.0, -100.0], RELU)
    last = Layer([[0.0, 1.0], [1.0, 0.0]], [-0.5, -0.5], RELU)
    assert [mask.tolist() for mask in proven_dead([hidden, last], 0.0, 1.0, shift=0.0)] == [
        [False, True],
        [True, False],
    ]


# --- orders -------------------------------------------------------------------------------------


def assert_orders_are_permutations(units: int, n: int) -> None:
    """Assert it for units that are active at random, never, and always."""
    rng = np.random.default_rng(units)
    for active in (
        rng.random((n, units)) < 0.3,
        np.zeros((n, units), np.bool_),
        np.ones((n, units), np.bool_),
    ):
        order = co_activation_order(active)
        assert order.dtype == np.int64
        np.testing.assert_array_equal(np.sort(order), np.arange(units))
        np.testing.assert_array_equal(order, co_activation_order(active.copy()))


@pytest.mark.parametrize("units", [0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 33])
@pytest.mark.parametrize("n", [0, 1, 7, 64, 65])
def test_an_order_is_a_permutation(units: int, n: int) -> None:
    assert_orders_are_permutations(units, n)


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_any_activity(n: int, units: int, share: float, seed: int) -> None:
    active = np.random.default_rng(seed).random((n, units)) < share
    order = co_activation_order(active)
    np.testing.assert_array_equal(np.sort(order), np.arange(units))


@pytest.mark.parametrize("seed", range(5))
def test_fewer_groups_are_on(seed: int) -> None:
    active = topics(seed=seed)
    order, natural = co_activation_order(active), np.arange(64)
    assert groups_on(active, order) < 0.6 * groups_on(active, natural)
    assert groups_on(active, order, 16) < 0.8 * groups_on(active, natural, 16)
    # Also on rows from which the order was not made.
    other = topics(2000, seed=seed)[500:]
    assert groups_on(other, order) < 0.7 * groups_on(other, natural)


def test_clear_groups_are_found() -> None:
    rng = np.random.default_rng(0)
    topic = rng.permutation(np.repeat(np.arange(6), 4))
    active = np.eye(6, dtype=np.bool_)[rng.integers(0, 6, 200)][:, topic]
    order = co_activation_order(active)
    assert all(len(set(topic[group])) == 1 for group in order.reshape(6, 4))
    assert groups_on(active, order) == 200


def test_activity_of_a_network() -> None:
    net = make([20, 90, 5], seed=3)
    x = rows(800, 20)
    active = net.layer_inputs(x)[1] > 0.5
    order = co_activation_order(active[:400])
    assert groups_on(active[400:], order) < groups_on(active[400:], np.arange(90))


def test_units_never_on_beside_others() -> None:
    active = np.zeros((50, 24), np.bool_)
    active[::2, [3, 11, 17, 23]] = True
    order = co_activation_order(active)
    assert groups_on(active, order) == 25


def test_later_rows_do_not_matter() -> None:
    active = topics(3000)
    np.testing.assert_array_equal(
        co_activation_order(active), co_activation_order(active[:2048].astype(np.uint8))
    )


def test_the_margin_grows_with_the_inputs() -> None:
    """A bound within float32 rounding is no proof; a bound well beyond it is."""
    for inputs in (4, 784, 20_000):
        reach = inputs * 2.0**-24 * (2 * inputs)
        layer = Layer(np.ones((2, inputs)), [-inputs - reach / 2, -inputs - 4 * reach - 1], RELU)
        assert proven_dead([layer], 0.0, 1.0, shift=0.0)[0].tolist() == [False, True]
    shifted = Layer(np.ones((1, 4)), [-4.00001], RELU)
    assert proven_dead([shifted], 0.0, 1.0, shift=0.0)[0].tolist() == [True]
    assert proven_dead([shifted], 0.0, 1.0, shift=16.0)[0].tolist() == [False]


def test_chunks_of_a_layer_change_no_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    sizes = [(60, 8), (40, 60), (30, 40)]
    layers = [Layer(rng.normal(size=size), rng.normal(size=size[0]) - 5, RELU) for size in sizes]
    whole = proven_dead(layers, 0.0, 1.0, shift=0.0)
    assert 0 < sum(mask.sum() for mask in whole) < 130
    for values in (1, 100, 1000):
        monkeypatch.setattr(units, "_CHUNK_VALUES", values)
        for mask, expected in zip(proven_dead(layers, 0.0, 1.0, shift=0.0), whole, strict=True):
            np.testing.assert_array_equal(mask, expected)


def test_bounds_take_no_copy_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_CHUNK_VALUES", 1 << 14)
    layer = Layer(np.ones((2000, 500), np.float32), np.zeros(2000), RELU)
    tracemalloc.start()
    try:
        proven_dead([layer], 0.0, 1.0, shift=0.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < layer.weight.nbytes // 4, f"{peak} bytes"


# --- orders of many units -------------------------------------------------------------------------


@pytest.fixture
def blockwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat few units as many, so that orders are made in blocks."""
    monkeypatch.setattr(units, "_COMPARED_UNITS", 60)
    monkeypatch.setattr(units, "_BLOCK", 64)


@pytest.mark.usefixtures("blockwise")
@pytest.mark.parametrize("count", [61, 64, 65, 127, 128, 129, 191, 192, 200, 323])
@pytest.mark.parametrize("n", [0, 1, 65, 2048])
def test_a_blockwise_order_is_a_permutation(count: int, n: int) -> None:
    assert_orders_are_permutations(count, n)


def test_blocks_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """An order made in blocks is nearly as good as one of all units, also on other rows."""
    active = topics(2000, units=640, count=32)
    whole = co_activation_order(active[:1000])
    monkeypatch.setattr(units, "_COMPARED_UNITS", 60)
    blocks = co_activation_order(active[:1000])
    for some in (active[:1000], active[1000:]):
        for size in (4, 16):
            by_blocks, natural = (
                groups_on(some, blocks, size),
                groups_on(some, np.arange(640), size),
            )
            assert by_blocks < 1.1 * groups_on(some, whole, size)
            assert by_blocks < 0.6 * natural


def test_blocks_of_one_are_what_all_units_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps within a block are the same as for few units."""
    active = topics(500, units=64)
    bits = units._pack(active)
    grouped = units._grouped_each(bits[None])[0]
    np.testing.assert_array_equal(grouped, units._grouped(bits))
    monkeypatch.setattr(units, "_BLOCK_PASSES", 100)
    exchanged = units._exchanged_each(bits, grouped[None])[0]
    np.testing.assert_array_equal(exchanged, units._exchanged(bits, grouped))


def test_the_work_of_an_order_grows_with_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    costs_with, shared = units._costs_with, units._shared

    def counted(function: Any) -> Any:
        def count(parts: Any, unit: Any) -> Any:
            nonlocal compared
            compared += parts.size
            return function(parts, unit)

        return count

    monkeypatch.setattr(units, "_COMPARED_UNITS", 60)
    monkeypatch.setattr(units, "_BLOCK_PASSES", 1)
    monkeypatch.setattr(units, "_costs_with", counted(costs_with))
    monkeypatch.setattr(units, "_shared", counted(shared))
    work = []
    for count in (1024, 4096):
        compared = 0
        co_activation_order(np.random.default_rng(0).random((128, count)) < 0.1)
        work.append(compared)
    # 4 and 16 blocks, and 3 and 15 of halves.
    assert 0 < work[1] <= 31 / 7 * work[0] + 1e-9

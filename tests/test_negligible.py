"""Weights too small to matter: `optimize` sets them to zero, and keeps all others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

import lrgate
from lrgate import Layer, Network
from lrgate.model import Activation
from lrgate.planner import negligible
from lrgate.planner.problem import _without_negligible

pytestmark = pytest.mark.usefixtures("short_times")

D, HIDDEN, K = 6, 12, 3
SUBNORMAL = 1e-41


def decayed(name: str = "relu", *, parameter: Any = (), first: float = SUBNORMAL) -> list[Layer]:
    """Layers in which a third of the hidden units have weights of about the size `first`."""
    rng = np.random.default_rng(4)
    made = []
    for a, b in ((D, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, K)):
        weight, bias = rng.normal(size=(b, a)) / a**0.5, rng.normal(size=b)
        if b == HIDDEN:
            weight[::3] *= first
            bias[::3] *= first
        hidden = Activation(name, *parameter)
        made.append(Layer(weight, bias, hidden if b == HIDDEN else Activation("identity")))
    return made


def rows(n: int = 400) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(n, D)).astype(np.float32)


def network(layers: list[Layer]) -> Network:
    return Network.from_layers(layers, task="regression")


def optimized(net: Network, x: Any, **options: Any) -> Network:
    return lrgate.optimize(net, x, batch_sizes=(1,), progress=False, **options)


def in_float64(layers: list[Layer], x: np.ndarray) -> np.ndarray:
    values = x.astype(np.float64)
    for layer in layers:
        values = layer.activation.apply(values @ layer.weight.astype(float).T + layer.bias)
    return values


@pytest.mark.parametrize("form", ["float32", "float64", "csr", "uint8"])
@pytest.mark.parametrize("budget", [0.0, 0.001])
def test_optimize_computes_negligible_weights_as_zero(form: str, budget: float) -> None:
    net, x = network(decayed()), rows()
    given = {
        "float32": x,
        "float64": x.astype(np.float64),
        "csr": sparse.csr_matrix(x),
        "uint8": np.random.default_rng(0).integers(0, 256, x.shape, np.uint8),
    }[form]
    before = [layer.weight.copy() for layer in net.layers]
    fast = optimized(net, given, max_error_increase=budget, precision="f32", factors="none")
    assert negligible.count_small(net.layers) > 0
    assert negligible.count_small(fast.layers) == 0
    assert fast.report is not None
    assert "below 8e-31 are zero (80 values)" in str(fast.report.notes)
    for old, layer in zip(before, net.layers, strict=True):
        assert np.array_equal(old, layer.weight)
    if budget == 0:
        scale = np.abs(net(given)).max()
        assert np.abs(fast(given) - net(given)).max() <= 1e-6 * scale


def test_values_at_the_limit_stay() -> None:
    small = np.float32(negligible.SMALL)
    weight = np.array([[small, np.nextafter(small, np.float32(0)), -small / 2, 0, 1]])
    [made] = made_zero([Layer(weight, [small / 2], Activation("identity"))])
    assert made.weight.tolist() == [[small, 0, 0, 0, 1]]
    assert made.bias.tolist() == [0]


def made_zero(layers: list[Layer], largest: float = 1.0, spread: float = 1.0) -> list[Layer]:
    made = negligible.without_small(
        layers, np.full(layers[0].inputs, largest), np.full(layers[-1].outputs, spread)
    )
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("second", "kept"), [(1e30, True), (1e20, True), (1e5, False), (1.0, False)]
)
def test_small_weights_that_reach_the_outputs_stay(second: float, kept: bool) -> None:
    rng = np.random.default_rng(0)
    weight, onward = rng.normal(size=(HIDDEN, D)), rng.normal(size=(K, HIDDEN))
    weight[::2] *= 1e-31
    onward[:, ::2] *= second
    first = Layer(weight, np.zeros(HIDDEN), Activation("relu"))
    net, x = network([first, Layer(onward, np.zeros(K), Activation("identity"))]), rows()
    fast = optimized(net, x, max_error_increase=0.0)
    assert (negligible.count_small(fast.layers) > 0) is kept
    assert np.abs(fast(x) - net(x)).max() <= 1e-6 * np.abs(net(x)).max()


def test_a_network_of_small_weights_alone_stays() -> None:
    rng = np.random.default_rng(0)
    net, x = network([Layer(1e-35 * rng.normal(size=(K, D)), None, Activation("identity"))]), rows()
    fast = optimized(net, x, max_error_increase=0.0)
    assert np.array_equal(fast.layers[0].weight, net.layers[0].weight)


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("relu", ()),
        ("clipped_relu", (0.5,)),
        ("leaky_relu", (30.0,)),
        ("prelu", (np.linspace(-40, 40, HIDDEN),)),
        ("hard_tanh", (-0.5, 0.5)),
        ("hard_sigmoid", ()),
        ("hard_swish", ()),
        ("tanh", ()),
        ("sigmoid", ()),
        ("gelu", ()),
        ("gelu_tanh", ()),
        ("silu", ()),
        ("mish", ()),
        ("softplus", ()),
        ("elu", (25.0,)),
        ("elu", (-25.0,)),
        ("selu", ()),
        ("softmax", ()),
        ("log_softmax", ()),
    ],
)
def test_the_change_is_below_its_bound(
    name: str, parameter: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Values up to 0.01 are "small" here, so that the change can be seen in float64.
    monkeypatch.setattr(negligible, "SMALL", 0.01)
    layers, x = decayed(name, parameter=parameter, first=0.005), rows()
    after = [negligible._flushed(layer) for layer in layers]
    seen = False
    for scale in (0.1, 1.0, 30.0, 1e4):
        values = flushed = (scale * x).astype(np.float64)
        size, bound = np.abs(values).max(axis=0), np.zeros(D)
        for layer, made in zip(layers, after, strict=True):
            size, bound = negligible._bounds(layer, made, size, bound)
            values, flushed = in_float64([layer], values), in_float64([made], flushed)
            change = np.abs(values - flushed).max(axis=0)
            known = np.isfinite(bound)
            # Infinite inputs of a later layer have no bound, which keeps the weights.
            assert known.all() or name == "log_softmax"
            assert np.all(change[known] <= (1 + 1e-9) * bound[known])
            assert np.all(np.abs(values).max(axis=0)[known] <= (1 + 1e-9) * size[known])
            seen |= bool(change.max() > 0)
    assert seen
    assert negligible.without_small(layers, np.abs(x).max(axis=0), np.ones(K)) is None


@pytest.mark.parametrize(
    ("name", "parameter", "at"),
    [("elu", (25.0,), 0.0), ("leaky_relu", (30.0,), -1.0), ("prelu", (40.0,), -1.0)],
)
def test_slopes_above_2_count(name: str, parameter: tuple[float, ...], at: float) -> None:
    # The small weight moves the pre-activation by 1e-8, and the output by a multiple of that.
    activation = Activation(name, *parameter)
    layer = Layer([[1.0, -1e-31]], [at], activation)
    made = negligible._flushed(layer)
    _, [bound] = negligible._bounds(layer, made, np.array([0.0, 1e23]), np.zeros(2))
    moved = activation.apply(np.array([[at - 1e-8]])) - activation.apply(np.array([[at]]))
    assert 2e-8 < np.abs(moved).item() <= 1.0001 * bound <= 50e-8


def test_softmax_moves_all_outputs() -> None:
    layer = Layer([[1.0, 0.0], [0.0, 1e-31]], None, Activation("softmax"))
    made = negligible._flushed(layer)
    _, bound = negligible._bounds(layer, made, np.array([1.0, 1e23]), np.zeros(2))
    assert bound[0] == bound[1] > 0


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sigmoid"])
def test_outputs_with_an_activation(name: str) -> None:
    *hidden, last = decayed()
    made = made_zero([*hidden, Layer(last.weight, last.bias, Activation(name))])
    assert negligible.count_small(made) == 0


@pytest.mark.parametrize(
    ("name", "parameter"), [("thresholded_relu", (0.1,)), ("squared_relu", ()), ("exp", ())]
)
def test_activations_without_a_largest_slope_keep_their_weights(
    name: str, parameter: tuple[float, ...]
) -> None:
    layers = decayed(name, parameter=parameter)
    assert negligible.without_small(layers, np.ones(D), np.ones(K)) is None


def test_outputs_that_do_not_vary_keep_their_weights() -> None:
    layers = decayed()
    assert negligible.without_small(layers, np.ones(D), np.array([1.0, 0.0, 1.0])) is None


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_bound_that_overflows_keeps_the_weights() -> None:
    layers = decayed()
    huge = [Layer(1e37 * layer.weight, layer.bias, layer.activation) for layer in layers[1:2]]
    layers[1:2] = huge * 12
    assert negligible.without_small(layers, np.ones(D), np.ones(K)) is None


def test_input_scale_and_shift_count() -> None:
    weight = np.zeros((K, D), np.float32)
    weight[:, 0], weight[:, 1] = 1e-33, 1.0
    for size, kept in ((1.0, False), (1e18, True)):
        values = np.ones(D, np.float32)
        values[0] = size
        for name in ("input_scale", "input_shift"):
            given: dict[str, Any] = {name: values}
            net = Network.from_layers([(weight, None)], task="regression", **given)
            fast = optimized(net, rows(), max_error_increase=0.0)
            assert (negligible.count_small(fast.layers) > 0) is kept


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_rows_whose_outputs_overflow() -> None:
    x = rows()
    x[:3] *= np.float32(1e37)
    layers = [*decayed()[:2], Layer(1e3 * np.ones((K, HIDDEN)), None, Activation("identity"))]
    net = network(layers)
    assert not np.isfinite(net(x)).all()
    # Without a warning. The finite rows of the same sizes alone would do.
    assert _without_negligible(net, x) is None
    assert _without_negligible(net, x[3:]) is not None


def test_small_weights_do_not_prevent_merging() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(D, D))
    weight[0] = 1e-40
    linear = Activation("identity")
    layers = [
        Layer(weight, None, linear),
        Layer(rng.normal(size=(K, D)) * np.array([1e-10, *[1] * (D - 1)]), None, linear),
    ]
    fast = optimized(network(layers), rows(), max_error_increase=0.0)
    notes = str(fast.report.notes) if fast.report else ""
    assert "are zero" in notes
    assert "linear layers" in notes

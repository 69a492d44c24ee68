"""int8 from Python: fits of quantizations to rows, and networks with mixed precisions.

rust/core/tests/int8.rs tests the engine's arithmetic on bytes, bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse, stats
from scipy.special import softmax
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

import lrgate
from lrgate import (
    Gate,
    Layer,
    Network,
    Quantization,
    QuantizationWarning,
)
from lrgate.inputs import checked_rows
from lrgate.measure.machine import fingerprint
from lrgate.model import Activation, BatchPlan, Model, Probe
from lrgate.quantization.comparison import difference
from lrgate.quantization.fit import Fit, fit_layers, gate_range
from lrgate.quantization.rows import split
from lrgate.quantization.windows import outside
from lrgate.results import QuantizationReport
from oracle import gated, make, rows

ONE = Quantization(np.ones((), np.float32), np.zeros((), np.float32))
IDENTITY = Activation("identity")


def plain(scale: float, offset: float = 0) -> Quantization:
    return Quantization(np.array(scale), np.array(offset))


def bytes_of(x: Any, quantization: Quantization) -> np.ndarray:
    """The bytes of inputs, computed in float64."""
    scale, offset = np.float64(quantization.scale), np.float64(quantization.offset)
    return np.clip(np.round(np.float64(x) / scale + offset), 0, 255)


def taken(x: Any, quantization: Quantization) -> np.ndarray:
    """The values that the bytes of inputs represent."""
    return (bytes_of(x, quantization) - quantization.offset) * np.float64(quantization.scale)


def error(x: Any, quantization: Quantization) -> float:
    return float(np.square(taken(x, quantization) - x).sum())


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference, divided by that of the expected values."""
    difference = got.astype(np.float64) - expected
    return float(np.sqrt(np.square(difference).mean() / np.square(expected).mean()))


def images(n: int, width: int = 30, seed: int = 0) -> np.ndarray:
    """uint8 rows in which half of the values are zero."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (n, width)) * (rng.random((n, width)) < 0.5)).astype(np.uint8)


@pytest.fixture(scope="module")
def net() -> Network:
    """A network with gates for uint8 rows."""
    return gated(make([30, 50, 40, 5], input_scale=1 / 255), rank=4)


# --- the first layer's windows -----------------------------------------------------------------


def fit(net: Network, x: Any, *layers: int) -> Fit:
    rows = checked_rows(x, net.input_size)
    chosen = set(layers or range(len(net.layers)))
    classifies = net.task == "classification"
    inputs = net.dense().layer_inputs
    return fit_layers(net.layers, rows, chosen, inputs, net.input_scale, classifies)


def of_rows(x: Any, weight: Any = None, **options: Any) -> Quantization:
    """The quantisation of a network of one layer."""
    if weight is None:
        weight = np.random.default_rng(0).normal(size=(40, x.shape[1]))
    net = Network.from_layers([(weight, np.zeros(len(weight)))], ["identity"], **options)
    found = fit(net, x).layers[0].quantization
    assert found is not None
    return found


def window(quantization: Quantization) -> tuple[np.ndarray, np.ndarray]:
    scale, offset = np.float64(quantization.scale), np.float64(quantization.offset)
    return -offset * scale, (255 - offset) * scale


@pytest.mark.parametrize("convert", [np.uint8, np.float32, sparse.csr_matrix])
@pytest.mark.parametrize("scale", [None, 1 / 255])
def test_images_are_their_own_bytes(convert: Callable[[Any], Any], scale: Any) -> None:
    found = of_rows(convert(images(300)), input_scale=scale)
    assert (found.scale, found.offset) == (1, 0)


def test_scaled_images_are_their_own_bytes() -> None:
    x = images(500)
    x[:, ::3] //= 60
    x[:, 1] = 0
    assert (of_rows(x).scale, of_rows(x).offset) == (1, 0)
    floats = of_rows(x / np.float32(255))
    assert (floats.scale, floats.offset) == (np.float32(1 / 255), 0)


def test_columns_of_unlike_ranges_have_scales_of_their_own() -> None:
    rng = np.random.default_rng(1)
    spread = 10.0 ** np.arange(-3, 3)
    x = (rng.normal(size=(500, 6)) * spread).astype(np.float32)
    weight = rng.normal(size=(40, 6)) / spread
    found = of_rows(x, weight)
    assert found.shape == (6,)
    low, high = window(found)
    assert (low < x.min(axis=0)).all() and (x.max(axis=0) < high).all()
    np.testing.assert_allclose(high - low, np.ptp(x, axis=0), rtol=1)
    np.testing.assert_array_equal(taken(np.zeros(6), found), np.zeros(6))
    # The same for rows that the network scales.
    mapped = of_rows(x, weight * spread, input_scale=(1 / spread).astype(np.float32))
    np.testing.assert_allclose(mapped.scale, found.scale, rtol=0.01)
    # If the rows are scaled in advance, the columns are alike.
    assert of_rows((x / spread).astype(np.float32), weight * spread).shape == ()


def test_few_fresh_rows_leave_the_windows() -> None:
    for d, draw in [
        (10, lambda rng, n: rng.normal(size=(n, 10))),
        (100, lambda rng, n: rng.normal(size=(n, 100))),
        (20, lambda rng, n: rng.random((n, 20))),
        (20, lambda rng, n: rng.normal(size=(n, 1)) + 0.1 * rng.normal(size=(n, 20))),
    ]:
        rng = np.random.default_rng(d)
        x = draw(rng, 1000).astype(np.float32)
        found = of_rows(x)
        beyond = outside(draw(rng, 20_000).astype(np.float32), found, first=True)
        assert beyond.mean() < 0.002, d
        low, high = window(found)
        assert (np.max(high) - np.min(low)) < 2 * (x.max() - x.min())


@pytest.mark.parametrize("most", [1, 2, 9, 40, 127])
def test_whole_numbers_stay_exact_and_fractions_fine(most: int) -> None:
    rng = np.random.default_rng(most)
    x = rng.integers(0, most + 1, (1000, 30)).astype(np.float32)
    found = of_rows(x)
    np.testing.assert_allclose(taken(x, found), x, rtol=1e-6)
    fractions = (x * 0.37).astype(np.float32)
    assert np.abs(taken(fractions, found) - fractions).max() < most / 255


def test_columns_far_from_zero() -> None:
    rng = np.random.default_rng(3)
    x = np.stack([rng.integers(1990, 2021, 500), rng.normal(size=500)], axis=1).astype(np.float32)
    weight = rng.normal(size=(40, 2)) / [10, 1]
    found = of_rows(x, weight)
    assert found.shape == (2,)
    np.testing.assert_allclose(taken(x, found), x, atol=0.1)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 2020.0, -3e5])
@pytest.mark.parametrize("scale", [None, 1e-3, 1e3])
def test_constant_columns_cost_the_others_nothing(value: float, scale: Any) -> None:
    """A constant column may have any weight; its step must not make other steps coarser."""
    rng = np.random.default_rng(4)
    spread = np.array([1, 100, 0.01, 1])
    x = (rng.normal(size=(500, 4)) * spread).astype(np.float32)
    x[:, 3] = value
    factors = np.append(1 / spread[:3], 1 if scale is None else scale).astype(np.float32)
    weight = rng.normal(size=(60, 4))
    weight[:, 3] /= factors[3]
    found = of_rows(x, weight, input_scale=factors)
    assert not outside(x, found, first=True).any()
    without = of_rows(x[:, :3], weight[:, :3], input_scale=factors[:3])
    np.testing.assert_allclose(found.scale[:3], without.scale, rtol=0.5)
    # The terms of the column are as exact as the terms of the others.
    sizes = np.abs(found.scale * factors * np.sqrt(np.square(weight).mean(axis=0)))
    assert sizes[3] < 3 * sizes[:3].max()


@pytest.mark.parametrize("weight", [1.0, 0.0])
@pytest.mark.parametrize("x", [np.zeros((1, 4)), np.full((3, 4), 2.5), np.array([[1, -2, 0, 1e6]])])
def test_rows_that_never_vary(x: np.ndarray, weight: float) -> None:
    x = x.astype(np.float32)
    net = Network.from_layers([(np.full((3, 4), weight), np.zeros(3))], ["identity"])
    found = fit(net, x).layers[0].quantization
    if found is not None and weight:
        off = np.abs(taken(x, found) - x)
        assert (off <= np.abs(x).max() / 50 + 1e-6).all()
        assert not outside(x, found, first=True).any()


def test_inputs_without_weights_may_be_anything() -> None:
    weight = np.random.default_rng(0).normal(size=(20, 5))
    weight[:, 2] = 0
    x = rows(500, 5)
    x[:, 2] = 1e20
    x[:250, 2] = -1e-20
    found = of_rows(x, weight)
    x[:, 2] = np.random.default_rng(1).normal(size=500) * 1e15
    assert not outside(x, found, first=True).any()


@pytest.mark.parametrize("size", [1e-28, 1e-10, 1e10, 1e36])
def test_rows_of_any_size(size: float) -> None:
    x = (rows(200, 6) * size).astype(np.float32)
    x[:, 0] = size
    for columns in (x, x * np.float32([1, 1e-2, 1, 1e2, 1, 1])):
        weight = np.eye(6) / np.maximum(columns.std(axis=0, dtype=np.float64), size)
        found = of_rows(columns, weight)
        assert relative(taken(columns, found) / size, columns / size) < 0.03


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
        elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_nan=False),
    )
)
@example(np.array([[0], [1.746e-41]], np.float32))
def test_any_rows_are_within_a_step_or_recomputed(x: np.ndarray) -> None:
    net = Network.from_layers([(np.ones((1, x.shape[1])), np.zeros(1))], ["identity"])
    result = fit(net, x)
    found = result.layers[0].quantization
    assert (found is None) == bool(result.reports[0].note)
    if found is not None:
        kept = ~outside(x, found, first=True)
        # If the offset is large, x / scale + offset is rounded in float32.
        step = found.scale * (1.51 + 2.0**-22 * np.abs(found.offset))
        slack = np.abs(x) * 2.0**-21 + 1e-36
        assert (np.abs(taken(x, found) - x) <= step + slack)[kept].all()


def test_row_order_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    x = np.exp(rng.normal(size=(400, 8))).astype(np.float32)
    net = make([8, 30, 3])
    scales = []
    for order in (np.arange(400), np.arange(400)[::-1], np.argsort(x[:, 0])):
        found = fit(net, x[order]).layers[0].quantization
        assert found is not None
        scales.append(np.broadcast_to(found.scale, 8))
    np.testing.assert_allclose(scales[1], scales[0], rtol=0.5)
    np.testing.assert_allclose(scales[2], scales[0], rtol=0.5)


def test_wide_sparse_rows_are_not_made_dense() -> None:
    d = 8_000
    x = sparse.random(4000, d, 50 / d, "csr", dtype=np.float32, random_state=0)
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(16, d)), np.zeros(16)), (rng.normal(size=(3, 16)), np.zeros(3))]
    net = Network.from_layers(layers)
    tracemalloc.start()
    found = fit(net, x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000 * d * 4, "as much as a dense copy of the rows takes"
    quantization = found.layers[0].quantization
    assert quantization is not None
    fresh = sparse.random(1000, d, 50 / d, "csr", dtype=np.float32, random_state=1)
    beyond = outside(fresh, quantization, first=True)
    assert beyond.mean() < 0.02
    np.testing.assert_array_equal(beyond, outside(fresh.toarray(), quantization, first=True))


# --- later layers ------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", ["relu", "leaky_relu", "tanh", "gelu", "sigmoid", "identity"])
def test_zero_is_a_byte_in_later_layers(hidden: str) -> None:
    net = make([20, 40, 30, 4], hidden=hidden)
    x = rows(800, 20)
    found = fit(net, x)
    for layer, inputs in zip(found.layers[1:], net.layer_inputs(x)[1:], strict=True):
        quantization = layer.quantization
        assert quantization is not None and quantization.offset.shape == ()
        assert (quantization.offset == 0) == (hidden in ("relu", "sigmoid"))
        assert quantization.offset == np.round(quantization.offset)
        kept = ~outside(inputs, quantization, first=False)
        assert kept.mean() > 0.98
        off = np.abs(taken(inputs[kept], quantization) - inputs[kept])
        assert (off <= 0.51 * quantization.scale).all()


@pytest.mark.parametrize("hidden", ["relu", "leaky_relu"])
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_units_of_any_size(hidden: str, spread: float) -> None:
    """Scaling units, and dividing the next weights by the factor, gives the same network."""
    net = make([20, 40, 30, 4], hidden=hidden)
    factors = 10.0 ** (spread * np.random.default_rng(0).normal(size=40))
    one, *others = net.layers
    two = dataclasses.replace(others[0], weight=others[0].weight / factors)
    one = dataclasses.replace(one, weight=one.weight * factors[:, None], bias=one.bias * factors)
    other = Network.from_layers([one, two, others[1]], task=net.task)
    x = rows(800, 20)
    before, after = fit(net, x), fit(other, x)
    for a, b in zip(before.reports, after.reports, strict=True):
        assert (a.precision, b.precision) == ("int8", "int8")
        assert b.error == pytest.approx(a.error, rel=0.25)
    quantization = after.layers[1].quantization
    assert quantization is not None and quantization.scale.shape == (40,)


# --- realistic rows and networks -----------------------------------------------------------------


Table = tuple[np.ndarray, np.ndarray, Network, Network]


@functools.cache
def table(name: str) -> Table:
    """Calibration rows, other rows, and networks with the scaler as input scale and folded."""
    x, y = {"iris": load_iris, "wine": load_wine, "digits": load_digits}[name](return_X_y=True)
    first, second, labels, _ = train_test_split(x, y, test_size=0.5, random_state=0, stratify=y)
    scaler = StandardScaler().fit(first)
    model = MLPClassifier((32, 32), solver="lbfgs", max_iter=60, random_state=0)
    model.fit(scaler.transform(first), labels)
    layers = [(w.T, b) for w, b in zip(model.coefs_, model.intercepts_, strict=True)]
    scale, shift = 1 / scaler.scale_, -scaler.mean_ / scaler.scale_
    kinds = ["relu", "relu", "softmax"]
    mapped = Network.from_layers(layers, kinds, input_scale=scale, input_shift=shift)
    weight, bias = layers[0]
    layers[0] = (weight * scale, bias + weight @ shift)
    return first, second, mapped, Network.from_layers(layers, kinds)


def quantized(net: Network, x: Any, **options: Any) -> Network:
    """Quantize the network, without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QuantizationWarning)
        return net.quantize(x, **options)


def changed(net: Network, small: Network, x: Any) -> float:
    """The share of labels that int8 changes although the margin exceeds rounding."""
    one, other = net.predict(x), small.predict(x)
    proba = np.sort(np.asarray(net(x)), axis=1)
    sure = np.log(proba[:, -1] / np.maximum(proba[:, -2], 1e-30)) > 0.05
    return float(((one != other) & sure).mean())


def one_cell(value: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    def change(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x[len(x) // 3, 0] = x[:, 0].mean() + value * (x[:, 0].std() + 1)
        return x

    return change


def marked(value: float, share: float, column: int | None = None) -> Any:
    def change(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        hit = rng.random(x.shape) < share
        if column is not None:
            hit[:, np.arange(x.shape[1]) != column] = False
        return np.where(hit, value, x)

    return change


DIRT = {
    "clean": lambda x, rng: x,
    "reversed": lambda x, rng: x[::-1],
    "sorted": lambda x, rng: x[np.argsort(x[:, 1])],
    "cell 1e3": one_cell(1e3),
    "cell 1e6": one_cell(1e6),
    "cell -1e6": one_cell(-1e6),
    **{
        f"{value} in {share}": marked(value, share)
        for value in (-999, -1, 99_999)
        for share in (0.001, 0.01, 0.05, 0.3)
    },
    "-999 in a column": marked(-999, 0.02, 1),
    "-999 often in a column": marked(-999, 0.2, 1),
    "1e9 in a column": marked(1e9, 0.05, 2),
    "constant column": marked(1.0, 1.0, 1),
}


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("dirt", DIRT)
@pytest.mark.parametrize("name", ["iris", "wine", "digits"])
def test_labels_hold_whatever_calibration_rows_have(name: str, dirt: str, folded: bool) -> None:
    first, second, *nets = table(name)
    net, rng = nets[folded], np.random.default_rng(0)
    spoiled = DIRT[dirt](first.copy(), rng)
    small = quantized(net, spoiled)
    one = 1.5 / len(second)
    assert changed(net, small, second) <= max(0.005, one)
    assert changed(net, small, DIRT[dirt](second.copy(), rng)) <= max(0.01, one)
    report = small.quantization_report
    assert report is not None and len(report.layers) == 3
    if dirt in ("clean", "reversed", "sorted", "cell 1e3", "cell 1e6", "cell -1e6"):
        assert small.plan[0].precisions == ("int8",) * 3
        assert report.recomputed * report.held_rows <= max(0.02 * report.held_rows, 1)


def test_raw_columns_of_a_table() -> None:
    """A wine classifier with columns of very different sizes stays f32 or is as exact."""
    x, y = load_wine(return_X_y=True)
    model = MLPClassifier((32, 32), solver="lbfgs", max_iter=300, random_state=0).fit(x, y)
    layers = [(w.T, b) for w, b in zip(model.coefs_, model.intercepts_, strict=True)]
    net = Network.from_layers(layers, ["relu", "relu", "softmax"])
    small = quantized(net, x)
    assert (small.predict(x) != net.predict(x)).mean() <= 0.01


@functools.cache
def flagged() -> tuple[Network, np.ndarray, np.ndarray]:
    """Amounts with a folded scaler, and a flag that is never set in calibration."""
    rng = np.random.default_rng(1)
    x = np.c_[rng.gamma(2, 2e4, (6000, 8)), rng.random(6000) < 0.3].astype(np.float32)
    weight = rng.normal(size=(40, 9)) / np.append(np.full(8, 3e4), 1.0)
    layers = [(weight, -weight[:, :8] @ np.full(8, 4e4)), (rng.normal(size=(3, 40)), np.zeros(3))]
    net = Network.from_layers(layers)
    bias = -net(x).mean(axis=0)
    net = Network.from_layers([layers[0], (layers[1][0], bias)], ["relu", "softmax"])
    return net, x[:3000], x[3000:]


def test_a_category_that_calibration_lacks() -> None:
    net, x, fresh = flagged()
    usual = quantized(net, x)
    small = quantized(net, x[x[:, -1] == 0])
    assert small.plan[0].precisions == ("int8",) * 2
    for rows_of in (fresh, fresh[fresh[:, -1] == 1], fresh[fresh[:, -1] == 0]):
        share = (small.predict(rows_of) != net.predict(rows_of)).mean()
        assert share <= (usual.predict(rows_of) != net.predict(rows_of)).mean() + 0.005


@pytest.mark.parametrize("value", [1e7, 1e12, 1e20, 9.96921e36, -1e37])
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("but", [0, 3])
def test_a_column_that_holds_a_huge_value(value: float, columns: int, but: int) -> None:
    """The value is in nearly all calibration rows; clean rows keep their labels."""
    rng = np.random.default_rng(0)
    layers = [
        (rng.normal(size=(64, 13)) / 3, np.zeros(64)),
        (rng.normal(size=(4, 64)) / 8, [0] * 4),
    ]
    net = Network.from_layers(layers, classes=list("abcd"))
    clean = rng.normal(size=(800, 13)).astype(np.float32)
    spoiled = clean[:400].copy()
    spoiled[but:, 5 : 5 + columns] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", QuantizationWarning)
        small = net.quantize(spoiled)
    assert (small.predict(clean[400:]) != net.predict(clean[400:])).mean() <= 0.01


@pytest.mark.parametrize("count", [1, 500])
def test_one_row_shows_nothing(count: int) -> None:
    net = make([20, 40, 30, 5], task="classification")
    with pytest.warns(QuantizationWarning, match="stays f32"):
        small = net.quantize(np.repeat(rows(1, 20), count, axis=0))
    assert small.plan[0].precisions == ("f32",) * 3


def test_few_rows_are_not_checked_which_is_said() -> None:
    net = make([20, 40, 30, 5], task="classification")
    with pytest.warns(QuantizationWarning, match="at least 8 rows are needed"):
        assert net.quantize(rows(7, 20)).quantization_report.held_rows == 0


def test_what_fitted_rows_show_counts_too() -> None:
    """A steep unit is active in few rows, none of which is held out."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    fitted, held = split(x)
    steep = [[1e4, 0, 0, 0], *np.eye(4)]
    on = np.sort(fitted[:, 0])[-3]
    assert (held[:, 0] < on).all()
    layers = [
        (np.array(steep), [-1e4 * on, 0, 0, 0, 0]),
        (np.array([[1.0, 0.1, 0.1, 0.1, 0.1]]), [0.0]),
    ]
    net = Network.from_layers(layers, [("clipped_relu", 100), "identity"])
    with pytest.warns(QuantizationWarning):
        small = net.quantize(x)
    fresh = rng.normal(size=(20_000, 4)).astype(np.float32)
    off = relative(small(fresh), net(fresh))
    assert off < 0.1, off


@pytest.mark.parametrize("kind", ["lognormal", "t2", "one t2"])
@pytest.mark.parametrize("d", [10, 40])
def test_heavy_tails(kind: str, d: int) -> None:
    rng = np.random.default_rng(d)
    x = rng.standard_t(2, (6000, d)) if kind == "t2" else rng.normal(size=(6000, d))
    if kind == "lognormal":
        x = np.exp(x)
    if kind == "one t2":
        x[:, 3] = rng.standard_t(2, 6000)
    net = make([d, 40, 30, 4])
    x = x.astype(np.float32)
    small = quantized(net, x[:3000])
    exact, got = net(x[3000:]), small(x[3000:])
    spread = np.quantile(exact, 0.75, axis=0) - np.quantile(exact, 0.25, axis=0)
    assert (np.sqrt(np.square(got - exact).mean(axis=0)) / spread).max() < 0.05


def classifier(x: np.ndarray, y: np.ndarray, hidden: tuple[int, int], seed: int) -> Network:
    """A classifier with random hidden layers; least squares gives the last one."""
    rng = np.random.default_rng(seed)
    mean, scale = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    layers, h = [], (x - mean) / scale
    for units in hidden:
        weight = rng.normal(size=(units, h.shape[1])) * np.sqrt(2 / h.shape[1])
        layers.append((weight, 0.1 * rng.normal(size=units)))
        h = np.maximum(h @ weight.T + layers[-1][1], 0)
    targets, centre = np.eye(y.max() + 1)[y], h.mean(axis=0)
    gram = (h - centre).T @ (h - centre) + 1e-3 * len(h) * np.eye(h.shape[1])
    weight = np.linalg.solve(gram, (h - centre).T @ targets).T
    layers.append((weight, targets.mean(axis=0) - weight @ centre))
    options = {"input_scale": 1 / scale, "input_shift": -mean / scale}
    return Network.from_layers(layers, task="classification", **options)


TAILS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "t2": lambda z: stats.t.ppf(stats.norm.cdf(z), 2),
    "t3": lambda z: stats.t.ppf(stats.norm.cdf(z), 3),
    "lognormal": np.exp,
    "one t2": lambda z: np.c_[stats.t.ppf(stats.norm.cdf(z[:, :1]), 2), z[:, 1:]],
}


@functools.cache
def changed_by_tails(tail: str | None) -> np.ndarray:
    """Shares of labels that int8 changes, and of recomputed rows; a row for each of 4 networks."""
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(13_000, 12))
        scores = np.maximum(z @ rng.normal(size=(12, 24)), 0) @ rng.normal(size=(24, 3))
        y = (scores - scores.mean(axis=0)).argmax(axis=1)
        x = (z if tail is None else TAILS[tail](z)).astype(np.float32)
        net = classifier(x[:3000], y[:3000], (48, 32), seed)
        small, fresh = quantized(net, x[:3000]), x[3000:]
        found.append(
            [
                (net.predict(fresh) != small.predict(fresh)).mean(),
                small.engine.recomputed(fresh).mean(),
            ]
        )
    return np.array(found)


@pytest.mark.parametrize("tail", TAILS)
def test_heavy_tails_change_hardly_more_labels(tail: str) -> None:
    """Compared with columns of the same ranks that are normally distributed."""
    usual, heavy = changed_by_tails(None), changed_by_tails(tail)
    assert heavy[:, 0].mean() <= usual[:, 0].mean() + 0.003
    assert usual[:, 1].max() <= 0.02
    assert (heavy[:, 0] <= usual[:, 0] + 0.006).all()
    assert heavy[:, 1].mean() <= 0.1


def test_few_rows_of_a_clean_table_are_recomputed() -> None:
    """Half of the breast cancer rows, whose 30 columns are skewed, fit; the others are counted."""
    x, y = load_breast_cancer(return_X_y=True)
    x, shares = x.astype(np.float32), []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(x))
        first, second = np.split(order, [len(x) // 2])
        small = quantized(classifier(x[first], y[first], (32, 32), seed), x[first])
        shares.append(small.engine.recomputed(x[second]).mean())
    assert np.mean(shares) <= 0.015, shares
    assert max(shares) <= 0.06, shares


def test_values_beyond_the_range_never_cost_accuracy() -> None:
    rng = np.random.default_rng(2)
    net = make([10, 64, 32, 1])
    x = rng.normal(size=(3000, 10)).astype(np.float32)
    small = quantized(net, x)
    found = small.layers[0].quantization
    assert found is not None
    low, high = (float(np.ravel(end)[0]) for end in window(found))
    spread = net(x).std()
    for at in (-1.5, 0, 0.5, 1, 1.02, 1.1, 1.24, 1.26, 2, 100):
        fresh = rng.normal(size=(500, 10)).astype(np.float32)
        fresh[:, 0] = low + at * (high - low)
        off = np.sqrt(np.square(small(fresh) - net(fresh)).mean()) / spread
        assert off <= 0.1, at


def test_the_report_and_its_warnings() -> None:
    net = make([20, 40, 30, 4])
    x = rows(800, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = net.quantize(x)
    report = small.quantization_report
    assert isinstance(report, QuantizationReport)
    assert (report.rows, report.held_rows) == (600, 200)
    assert [(f.layer, f.precision, f.note) for f in report.layers] == [
        (i, "int8", "") for i in range(3)
    ]
    assert all(0 < f.error < 0.06 for f in report.layers)
    assert np.isnan(report.changed) and 0 < report.difference < 0.01
    assert "fitted to 600 rows, checked on 200 others" in str(report)
    assert net.quantization_report is None
    assert small.dense().quantization_report is None
    none = net.quantize(x[:5]).quantization_report
    assert none is not None and none.held_rows == 0 and np.isnan(none.recomputed)
    x[:, 3] = np.where(np.random.default_rng(0).random(800) < 0.3, 1e6, x[:, 3])
    with pytest.warns(QuantizationWarning, match="layer 0 stays f32: .*% of the rows would be"):
        spoiled = net.quantize(x)
    assert spoiled.plan[0].precisions[0] == "f32"
    assert spoiled.layers[0].quantization is None
    assert "would be recomputed" in str(spoiled.quantization_report)


def test_differences_of_labels() -> None:
    exact = np.float32([[3, 1, 0], [0, 2, 1], [5, 5.5, 0], [1, 0, 9]])
    got = exact + np.float32([[0, 0, 0.5], [0, -1.5, 0], [0, 0, 0], [0, 0, 0]])
    none = np.zeros(4, bool)
    found = difference(exact, got, none, "classification", "identity")
    assert found.changed == 0.25
    # Margins 2, 1, 0.5 and 8. The two smallest have errors 1.5 and 0; two margins are below 1.5.
    assert found.expected_changed == pytest.approx((2 + 0) / 2 / 4 / 2)
    assert found.relative == pytest.approx(1.5**2 / (4 + 1 + 0.25 + 64))
    known = difference(exact, got, got[:, 1] == 0.5, "classification", "identity")
    assert (known.changed, known.expected_changed, known.relative) == (0, 0, 0)
    several = difference(exact - 1, got - 1, none, "multilabel", "identity")
    assert several.changed == pytest.approx(1 / 12)
    values = difference(exact, got, none, "regression", "identity")
    assert np.isnan(values.changed) and values.relative > 0


def test_saturated_probabilities_hide_no_errors() -> None:
    """Most margins are too large for their errors to show in the probabilities."""
    rng = np.random.default_rng(0)
    exact = np.stack([np.abs(rng.normal(scale=50, size=4000)), np.zeros(4000)], axis=1)
    got = exact + rng.normal(scale=2, size=exact.shape)
    none, both = np.zeros(4000, bool), (exact.astype(np.float32), got.astype(np.float32))
    one = difference(*both, none, "classification", "identity")
    probabilities = [softmax(z, axis=1).astype(np.float32) for z in (exact, got)]
    other = difference(*probabilities, none, "classification", "softmax")
    assert one.expected_changed == pytest.approx(one.changed, rel=0.3)
    assert other.expected_changed == pytest.approx(one.expected_changed, rel=0.05)


# --- gates --------------------------------------------------------------------------------------


def test_a_gates_range_holds_its_sums_with_room() -> None:
    net = gated(make([20, 30, 5]), rank=3)
    gate, x = net.layers[0].gate, rows(100, 20)
    assert gate is not None
    sums = x @ gate.u
    low, high = sums.min(axis=0), sums.max(axis=0)
    expected = np.stack([low - 0.1 * (high - low), high + 0.1 * (high - low)])
    np.testing.assert_allclose(gate_range(gate, x), expected, rtol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 50.0])
def test_gates_get_the_range_of_what_they_see(shift: float) -> None:
    """The first gate gets scaled rows, whether the scale is folded or not."""
    net = gated(make([20, 30, 25, 5], input_scale=0.5, input_shift=shift))
    x = rows(100, 20) - np.float32(2 * shift)
    small = net.quantize(x)
    for layer, old, seen in zip(
        small.layers[:2], net.layers, net.dense().layer_inputs(x), strict=False
    ):
        assert layer.gate is not None and layer.gate.range is not None and old.gate is not None
        assert layer.gate.u is old.gate.u and layer.gate.v is old.gate.v
        sums = seen @ layer.gate.u
        assert (layer.gate.range[0] <= sums).all() and (sums <= layer.gate.range[1]).all()
        assert old.gate.range is None


def test_a_gate_that_never_varies() -> None:
    net = make([20, 30, 5]).with_gates({0: Gate(np.zeros((20, 2)), np.ones((2, 30)), np.ones(30))})
    x = rows(100, 20)
    small = net.quantize(x)
    assert small.plan_for().strategies == ("gate", "dense")
    np.testing.assert_array_equal(small(x), small.with_strategies(["skip"] * 2, "int8")(x))


# --- whole networks -----------------------------------------------------------------------------


@pytest.mark.isa
@pytest.mark.parametrize(
    "hidden",
    [
        "relu",
        ("clipped_relu", 0.5),
        ("thresholded_relu", 0.2),
        ("thresholded_relu", -0.3),
        ("leaky_relu", 0.2),
        "identity",
        "tanh",
        "sigmoid",
        "gelu",
    ],
)
@pytest.mark.parametrize("options", [{}, {"input_scale": 0.5, "input_shift": 20.0}])
def test_the_error_is_small(hidden: Any, options: dict[str, Any]) -> None:
    net = make([40, 80, 60, 5], hidden=hidden, **options)
    # Far from zero with a shift, as years are.
    x = rows(1500, 40) - (np.float32(40) if options else 0)
    small = net.quantize(x[:1000])
    precisions = small.plan[0].precisions
    # A threshold amplifies small differences, and sigmoids of nearly constant units hardly vary, so
    # layers may have to stay f32.
    difficult = options and (hidden == "sigmoid" or "thresholded_relu" in hidden)
    assert precisions == ("int8",) * 3 or difficult
    for strategy in ("dense", "skip"):
        under = small.with_strategies([strategy] * 3, precisions)
        off = relative(under(x[1000:]), net(x[1000:]))
        print(f"{hidden} {strategy}: relative error {off:.4f}")
        assert 0 < off < (0.1 if "thresholded_relu" in hidden else 0.05)
    if "f32" not in precisions:
        np.testing.assert_array_equal(under(x), small(x))


@pytest.mark.isa
def test_gates_in_int8_choose_nearly_the_same_units(net: Network) -> None:
    x = images(400)
    small = net.quantize(x)
    assert small.plan_for().strategies == ("gate", "gate", "dense")
    for f32, int8 in zip(
        net.profile(x, seconds=0).layers[:2], small.profile(x, seconds=0).layers[:2], strict=True
    ):
        assert (int8.strategy, int8.precision, int8.rank) == ("gate", "int8", 4)
        assert int8.computed_share == pytest.approx(f32.computed_share, abs=0.02)
        assert int8.recall == pytest.approx(f32.recall, abs=0.03)


def test_what_a_quantized_network_keeps(net: Network) -> None:
    x = images(200)
    plan = (
        BatchPlan(1, ("gate", "skip", "dense"), ("f32",) * 3),
        BatchPlan(32, ("skip", "gate", "skip"), ("f32",) * 3),
    )
    model = Model(
        layers=net.layers,
        task="regression",
        input_scale=net.input_scale,
        plan=plan,
        probe=Probe(x[:5], net.dense()(x[:5])),
        metadata={"a": 1},
        machine=fingerprint(),
        report={"b": 2},
    )
    small = Network(model).quantize(x)
    assert [(c.rows, c.strategies) for c in small.plan] == [(c.rows, c.strategies) for c in plan]
    assert {c.precisions for c in small.plan} == {("int8",) * 3}
    assert (small.machine, small.report, small.metadata) == (None, None, {"a": 1})
    assert small.check() <= 1e-6, "which compares in f32"
    for one, other in zip(small.layers, net.layers, strict=True):
        assert one.weight is other.weight and one.bias is other.bias
        assert other.quantization is None, "a network never changes"
    np.testing.assert_array_equal(small.dense()(x), net.dense()(x))
    skips = ["skip"] * 3
    np.testing.assert_array_equal(small.with_strategies(skips)(x), net.with_strategies(skips)(x))


def test_some_layers_alone(net: Network) -> None:
    x = images(200)
    some = net.quantize(x, layers=[1])
    assert some.plan[0].precisions == ("f32", "int8", "f32")
    assert [layer.quantization is None for layer in some.layers] == [True, False, True]
    assert some.layers[0] is net.layers[0]
    more = some.quantize(x, layers=(np.int64(0),))
    assert more.plan[0].precisions == ("int8", "int8", "f32")
    assert more.layers[1] is some.layers[1]
    assert net.quantize(x, layers=[]).plan == net.plan
    mixed = more.with_strategies(["skip"] * 3, ["f32", "int8", "f32"]).quantize(x, layers=[2])
    assert mixed.plan[0].precisions == ("f32", "int8", "int8"), "others stay as they are"


def test_a_layer_too_wide_for_int8(tmp_path: Path) -> None:
    width = 65_537
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(3, width)), np.zeros(3)), (np.ones((2, 3)), np.zeros(2))]
    net = Network.from_layers(layers)
    x = rng.integers(0, 4, (60, width)).astype(np.uint8)
    assert net.quantize(x).plan[0].precisions == ("f32", "int8")
    message = "layers[0] must have at most 65536 inputs for int8, got 65537"
    with pytest.raises(ValueError) as error:
        net.quantize(x, layers=[0])
    assert str(error.value) == message
    refused = "inputs of layers[0] must be at most 65536 in int8, got 65537"
    with pytest.raises(ValueError) as error:
        net.with_quantization({0: ONE})
    assert str(error.value) == refused
    path = tmp_path / "net.npz"
    one = {"layers.0.quantization.scale": np.ones(()), "layers.0.quantization.offset": np.zeros(())}
    header = np.array('{"format_version": 1}')
    np.savez(path, **{"lrgate": header, "layers.0.weight": np.ones((1, width))}, **one)
    with pytest.raises(lrgate.FileFormatError) as error:
        Network.load(path)
    assert str(error.value) == f"{path}: {refused}"


X = np.zeros((2, 30), np.float32)
NAN = np.where(np.arange(30) == 3, np.nan, X)


@pytest.mark.parametrize(
    ("x", "options", "kind", "message"),
    [
        (X[0], {}, ValueError, "x must have shape (n, 30), got (30,)"),
        (X[:, :29], {}, ValueError, "x must have shape (n, 30), got (2, 29)"),
        (X[None], {}, ValueError, "x must have shape (n, 30), got (1, 2, 30)"),
        (X[:0], {}, ValueError, "x must have at least 1 row, got 0"),
        (X * 1j, {}, TypeError, "x must be an array of real numbers, got dtype complex64"),
        (X.astype(str), {}, TypeError, "x must be an array of real numbers, got dtype <U32"),
        (
            np.where(X, X, None),
            {},
            TypeError,
            "x must be an array of real numbers, got dtype object: None in row 0, column 0",
        ),
        (
            NAN,
            {},
            ValueError,
            "x must be finite, got NaN in row 0, column 3, and others in 1 more row",
        ),
        (
            np.concatenate([X, X - np.inf]),
            {},
            ValueError,
            "x must be finite, got -inf in row 2, column 0, and others in 1 more row",
        ),
        (
            np.concatenate([X.astype(np.float64), np.full((1, 30), 1e300)]),
            {},
            ValueError,
            "x must fit float32, got 1e+300 in row 2, column 0",
        ),
        (
            sparse.csr_matrix(np.concatenate([X, NAN[:1]])),
            {},
            ValueError,
            "x must be finite, got NaN in row 2, column 3",
        ),
        (
            sparse.csr_matrix(X[:, :3]),
            {},
            ValueError,
            "x must have shape (n, 30), got (2, 3)",
        ),
        (
            np.concatenate([X, X + np.float32(3e38)]),
            {},
            ValueError,
            "x must give finite inputs to every layer, got NaN or infinity in the inputs of "
            "layers[1] in row 2",
        ),
        (X, {"layers": 1}, TypeError, "layers must be a sequence of integers, got int"),
        (X, {"layers": "01"}, TypeError, "layers must be a sequence of integers, got str"),
        (X, {"layers": [0.0]}, TypeError, "layers must be an integer, got 0.0"),
        (X, {"layers": [True]}, TypeError, "layers must be an integer, got True"),
        (X, {"layers": [3]}, ValueError, "layers must be from 0 to 2, got 3"),
        (X, {"layers": [-1]}, ValueError, "layers must be from 0 to 2, got -1"),
    ],
)
def test_quantize_refuses(
    x: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    layers = [(np.ones((4, 30)), np.zeros(4)), (np.ones((3, 4)), np.zeros(3))]
    net = Network.from_layers([*layers, (np.ones((1, 3)), np.zeros(1))])
    with pytest.raises(kind) as error:
        net.quantize(x, **options)
    assert str(error.value) == message


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_array, sparse.coo_matrix])
def test_sparse_rows_calibrate_as_dense_ones(net: Network, kind: Callable[[Any], Any]) -> None:
    x = images(100).astype(np.float32) * np.float32(0.3)
    one, other = net.quantize(x), net.quantize(kind(x))
    for a, b in zip(one.layers, other.layers, strict=True):
        assert a.quantization is not None and b.quantization is not None
        np.testing.assert_allclose(a.quantization.scale, b.quantization.scale, rtol=1e-5)
        np.testing.assert_array_equal(a.quantization.offset, b.quantization.offset)


def test_sparse_rows_with_entries_twice_and_room_behind(net: Network) -> None:
    x = sparse.csr_matrix(images(100).astype(np.float32))
    halves = sparse.csr_matrix(
        (np.repeat(x.data / 2, 2), np.repeat(x.indices, 2), 2 * x.indptr), shape=x.shape
    )
    padded = x.copy()
    padded.data = np.append(padded.data, np.float32([np.inf, 1e30]))
    padded.indices = np.append(padded.indices, np.int32([0, 1]))
    expected = net.quantize(x)
    for other in (halves, padded):
        for one, two in zip(net.quantize(other).layers, expected.layers, strict=True):
            assert one.quantization is not None and two.quantization is not None
            np.testing.assert_allclose(one.quantization.scale, two.quantization.scale, rtol=1e-6)


def test_quantize_refuses_ragged_rows(net: Network) -> None:
    with pytest.raises(ValueError, match=r"^x must be a rectangular array of real numbers: row 0 "):
        net.quantize([[1.0], [1.0, 2.0]])


# --- mixed precisions ---------------------------------------------------------------------------


@pytest.mark.isa
@pytest.mark.parametrize("hidden", ["relu", "tanh"])
def test_precisions_mix(hidden: str) -> None:
    net = make([30, 50, 40, 5], hidden=hidden, input_scale=1 / 255)
    x = images(300)
    small = net.quantize(x)
    exact = net(x)
    for mask in range(8):
        precisions = ["int8" if mask >> i & 1 else "f32" for i in range(3)]
        for strategy in ("dense", "skip"):
            mixed = small.with_strategies([strategy] * 3, precisions)
            assert mixed.plan[0].precisions == tuple(precisions)
            if mask == 0:
                expected = net.with_strategies([strategy] * 3)(x)
                np.testing.assert_array_equal(mixed(x), expected)
            else:
                assert 0 < relative(mixed(x), exact) < 0.03
    one = small.with_strategies(["skip"] * 3, "int8")
    np.testing.assert_array_equal(one(x), small.with_strategies(["skip"] * 3, ["int8"] * 3)(x))


@pytest.mark.parametrize(
    ("strategies", "precision", "kind", "message"),
    [
        (["skip"] * 3, "int4", ValueError, "precision[0] must be 'f32' or 'int8', got 'int4'"),
        (
            ["skip"] * 3,
            ["f32", 8, "f32"],
            ValueError,
            "precision[1] must be 'f32' or 'int8', got 8",
        ),
        (
            ["skip"] * 3,
            ["f32"],
            ValueError,
            "precision must have 3 entries, one per layer, got 1",
        ),
        (
            ["skip"] * 3,
            None,
            TypeError,
            "precision must be a name or a sequence of names, got NoneType",
        ),
        (
            ["skip"] * 3,
            "int8",
            ValueError,
            "precision[1] must be 'f32', since layers[1] has no quantization, got 'int8'",
        ),
        (
            ["gate", "skip", "skip"],
            ["int8", "f32", "f32"],
            ValueError,
            "precision[0] must be 'f32', since the gate of layers[0] has no range, got 'int8'",
        ),
        (["skip"] * 2, "f32", ValueError, "strategies must have 3 entries, one per layer, got 2"),
        (
            ["skip", "skip", "gate"],
            ["f32", "f32", "int8"],
            ValueError,
            "strategies[2] must be dense or skip, since layers[2] has no gate, got 'gate'",
        ),
    ],
)
def test_with_strategies_refuses(
    net: Network, strategies: Any, precision: Any, kind: type[Exception], message: str
) -> None:
    some = net.with_quantization([ONE, None, plain(0.01)])
    with pytest.raises(kind) as error:
        some.with_strategies(strategies, precision)
    assert str(error.value) == message
    some.with_strategies(["skip"] * 3, ["int8", "f32", "int8"])


def test_each_batch_size_uses_its_precisions(net: Network) -> None:
    x = images(100)
    small = net.quantize(x)
    plan = (
        BatchPlan(1, ("skip",) * 3, ("int8", "f32", "int8")),
        BatchPlan(64, ("dense",) * 3, ("f32", "int8", "f32")),
    )
    both = Network(dataclasses.replace(small._model, plan=plan))
    assert both.plan == plan
    for n, part in ((1, plan[0]), (64, plan[1])):
        expected = small.with_strategies(part.strategies, part.precisions)(x[:n])
        np.testing.assert_array_equal(both(x[:n]), expected)
    assert "plan {1: skip-int8/skip/skip-int8, 64: dense/dense-int8/dense}" in repr(both)


# --- rows ---------------------------------------------------------------------------------------


@pytest.mark.isa
@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
@pytest.mark.parametrize("quantization", [ONE, plain(0.9, 3.25), None])
def test_all_kinds_of_rows_give_the_same_bits(
    net: Network, strategy: str, quantization: Quantization | None
) -> None:
    x = images(70)
    small = net.quantize(x)
    if quantization is None:
        quantization = Quantization(np.linspace(1.5, 2, 30), np.linspace(0, 100, 30))
    small = small.with_quantization({0: quantization})
    small = small.with_strategies([strategy, strategy, "skip"], "int8")
    expected = small(x)
    floats = x.astype(np.float32)
    for other in (floats, floats.astype(np.float64), x.astype(np.int32), floats[:, ::-1][:, ::-1]):
        np.testing.assert_array_equal(small(other), expected)
    np.testing.assert_array_equal(small(sparse.csr_matrix(floats)), expected)
    for n in (1, 5, 64):
        np.testing.assert_array_equal(small(x[:n]), expected[:n])
    np.testing.assert_array_equal(small(floats[3]), expected[3])


@pytest.mark.isa
@pytest.mark.parametrize("precisions", [("int8",) * 3, ("int8", "f32", "f32")])
@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_nan_row_touches_no_other(
    net: Network, precisions: tuple[str, ...], strategy: str, bad: float
) -> None:
    small = net.quantize(images(100))
    x = rows(70, 30) * 255
    damaged = x.copy()
    damaged[3, 5] = bad
    others = np.arange(70) != 3
    plan = small.with_strategies([strategy, strategy, "dense"], precisions)
    assert np.isnan(plan(damaged)[3]).all()
    np.testing.assert_array_equal(plan(damaged)[others], plan(x)[others])


def test_a_loaded_network_holds_the_layouts_of_its_plan_alone(tmp_path: Path) -> None:
    net = make([60, 160, 40, 5])
    x = np.random.default_rng(0).normal(size=(1000, 60)).astype(np.float32)
    small = net.quantize(x).with_strategies(["dense", "skip", "dense"], precision="int8")
    small.save(tmp_path / "small.npz")
    loaded = lrgate.Network.load(tmp_path / "small.npz")
    weights = sum(layer.weight.nbytes + layer.bias.nbytes for layer in net.layers)
    assert loaded.nbytes < 1.75 * weights < small.nbytes
    x = x[~loaded.engine.recomputed(x)]
    assert len(x) > 980
    np.testing.assert_array_equal(loaded(x), small(x))
    before = loaded.nbytes
    far = np.full((1, 60), 1e30, np.float32)
    floats = net.with_strategies(["dense", "skip", "dense"])
    np.testing.assert_array_equal(loaded(far), floats(far))
    assert loaded.nbytes > before + 0.9 * weights, "float32 weights, for rows beyond the range"


@pytest.mark.parametrize("how", ["layers", "gates", "int8"])
def test_no_call_packs_what_the_plan_needs(net: Network, how: str) -> None:
    if how == "layers":
        made = make([60, 160, 40, 5])
    else:
        made = net if how == "gates" else net.quantize(images(100))
    before = made.nbytes
    made(np.ones((1, made.input_size), np.float32))
    assert made.nbytes == before


@pytest.mark.isa
def test_signed_rows_and_rows_beyond_the_range() -> None:
    net = make([20, 60, 40, 5])
    x = np.random.default_rng(0).normal(size=(1000, 20)).astype(np.float32)
    small = net.quantize(x)
    first = small.layers[0].quantization
    assert first is not None and 100 < first.offset < 155
    assert relative(small(x), net(x)) < 0.05
    bounds = np.array([[0], [255]]).repeat(20, axis=1)
    for steps in (0.9, 1.1):
        beyond = bounds + np.array([[-steps], [steps]])
        near = ((beyond - first.offset) * first.scale).astype(np.float32)
        assert outside(near, first, first=True).all() == (steps > 1)
        # Such rows are also outside the windows of later layers, unless these are f32.
        only = small.with_strategies(["dense"] * 3, ["int8", "f32", "f32"])
        expected = net(near if steps > 1 else taken(near, first).astype(np.float32))
        np.testing.assert_allclose(only(near), expected, rtol=0.02)
        np.testing.assert_array_equal(small(near), net(near))
    far = np.array([[-1e30], [1e30]], np.float32).repeat(20, axis=1)
    np.testing.assert_array_equal(small(far), net(far), "in float32")


@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
def test_an_outlier_does_not_cost_its_row(net: Network, strategy: str) -> None:
    """A column that hardly varies in calibration varies later, as in standardised tables."""
    x = rows(500, 30).astype(np.float32)
    x[:, 7] = 0.001 * x[:, 7]
    small = net.quantize(x)
    assert small.plan[0].precisions[0] == "int8"
    small = small.with_strategies([strategy, "dense", "dense"], small.plan[0].precisions)
    x[3, 7] = x[450, 7] = 2000
    # Skipping leaves out zeros, so f32 rounds differently.
    expected = net.dense()(x)[[3, 450]]
    np.testing.assert_allclose(small(x)[[3, 450]], expected, rtol=1e-4, atol=1e-6)


# --- orders -------------------------------------------------------------------------------------

SOME = (
    np.random.default_rng(3).permutation(50)[:27],
    np.random.default_rng(4).permutation(40)[:13],
    None,
)
ALL = (np.random.default_rng(5).permutation(50), np.random.default_rng(6).permutation(40), None)


@pytest.mark.isa
@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
def test_units_in_another_order_give_the_same_bits(net: Network, strategy: str) -> None:
    """Integer sums do not depend on the order."""
    x = images(100)
    small = net.quantize(x).with_strategies([strategy, strategy, "skip"], "int8")
    other = small.with_units(ALL)
    assert other.plan == small.plan
    for n in (1, 9, 100):
        np.testing.assert_array_equal(other(x[:n]), small(x[:n]))
        for one, two in zip(other.layer_inputs(x[:n]), small.layer_inputs(x[:n]), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.isa
def test_signed_units_in_another_order() -> None:
    net = make([30, 50, 40, 5], hidden="tanh", input_scale=1 / 255)
    x = images(100)
    small = net.quantize(x)
    np.testing.assert_allclose(small.with_units(ALL)(x), small(x), rtol=0, atol=1e-5)


@pytest.mark.isa
@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
def test_units_that_are_always_zero_need_not_be_computed(net: Network, strategy: str) -> None:
    layers = []
    for layer, order in zip(net.layers, SOME, strict=True):
        weight, bias = layer.weight.copy(), layer.bias.copy()
        if order is not None:
            dead = np.setdiff1d(np.arange(layer.outputs), order)
            weight[dead], bias[dead] = -np.abs(weight[dead]), -10
        layers.append(Layer(weight, bias, layer.activation, layer.gate))
    x = images(100)
    full = Network.from_layers(layers, input_scale=1 / 255)
    plan = [strategy, strategy, "dense"]
    small = full.quantize(x).with_strategies(plan, "int8")
    part = small.with_units(SOME)
    # The largest weights may belong to omitted units.
    assert relative(part(x), small(x)) < 0.02
    ordered = full.with_units(SOME).quantize(x).with_strategies(plan, "int8")
    for one, other in zip(ordered.layers, part.layers, strict=True):
        assert one.quantization is not None and other.quantization is not None
        np.testing.assert_allclose(one.quantization.scale, other.quantization.scale, rtol=1e-5)
    np.testing.assert_allclose(ordered(x), part(x), rtol=0, atol=1e-4)


# --- looking inside -----------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
@pytest.mark.parametrize("orders", [(None,) * 3, ALL, SOME])
@pytest.mark.parametrize("shift", [0.0, 0.25, 100.0])
def test_layer_inputs_are_what_bytes_stand_for(strategy: str, orders: Any, shift: float) -> None:
    net = gated(make([30, 50, 40, 5], input_scale=0.01, input_shift=shift))
    x = rows(200, 30) * 40 + 20 - np.float32(shift / 0.01)
    net = net.quantize(x).with_units(orders)
    net = net.with_strategies([strategy, strategy, "skip"], "int8")
    inputs = net.layer_inputs(x)
    first, *others = (layer.quantization for layer in net.layers)
    assert first is not None
    # Far from zero, float32 rounding may give the next byte.
    atol = 0.011 * float(np.max(first.scale)) if shift == 100 else 1e-6
    np.testing.assert_allclose(inputs[0], taken(x, first) * 0.01 + shift, rtol=1e-6, atol=atol)
    for values, quantization, order in zip(inputs[1:], others, orders[:2], strict=True):
        assert values.dtype == np.float32 and quantization is not None
        np.testing.assert_allclose(taken(values, quantization), values, rtol=1e-6, atol=1e-6)
        if order is not None:
            assert not values[:, np.setdiff1d(np.arange(values.shape[1]), order)].any()
    assert [values.shape for values in inputs] == [(200, 30), (200, 50), (200, 40)]


@pytest.mark.parametrize("orders", [(None,) * 3, ALL, SOME])
@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
def test_a_profile_in_int8(net: Network, strategy: str, orders: Any) -> None:
    x = images(61)
    small = net.quantize(x).with_units(orders)
    small = small.with_strategies([strategy, strategy, "dense"], "int8")
    profile = small.profile(x, seconds=0)
    signals = [*small.layer_inputs(x), small(x)]
    for i, (layer, found) in enumerate(zip(small.layers, profile.layers, strict=True)):
        assert (found.inputs, found.outputs) == (layer.inputs, layer.outputs)
        assert (found.strategy, found.precision) == (small.plan_for().strategies[i], "int8")
        assert found.density_in == pytest.approx((signals[i] != 0).mean())
        assert found.density_out == pytest.approx((signals[i + 1] != 0).mean())
        assert found.seconds_per_row > 0
        if found.strategy == "gate":
            assert found.rank == 4
            assert found.recall is not None and 0.05 < found.recall < 0.95
            assert found.lost_energy is not None and 0.05 < found.lost_energy < 0.95
        else:
            computed = layer.outputs if layer.kept_units is None else len(layer.kept_units)
            assert found.computed_share == pytest.approx(computed / layer.outputs)
    lines = str(profile).splitlines()
    assert max(map(len, lines)) <= 80
    assert f"{strategy}-int8" in lines[1] and "dense-int8" in lines[3]


def test_repr(net: Network) -> None:
    small = net.quantize(images(50))
    assert "plan {1: gate-int8/gate-int8/dense-int8}" in repr(small)
    assert "plan {1: gate/skip/skip}" in repr(small.with_strategies(["gate", "skip", "skip"]))
    assert repr(small.layers[0]) == "Layer(30 -> 50, relu, gate of rank 4, int8)"


# --- setting them by hand -----------------------------------------------------------------------


def test_with_quantization(net: Network) -> None:
    skips = net.with_strategies(["skip"] * 3)
    some = skips.with_quantization({1: plain(0.01), 2: plain(0.02)})
    assert some.plan == (BatchPlan(1, ("skip",) * 3, ("f32", "f32", "int8")),)
    assert "a layer that has a gate without a range stays in f32" and some.layers[1].gate
    free = skips.with_gates([None] * 3)
    all_of_them = free.with_quantization([ONE, plain(0.01), plain(0.02)])
    assert all_of_them.plan[0].precisions == ("int8",) * 3
    fewer = all_of_them.with_quantization({1: None})
    assert fewer.plan[0].precisions == ("int8", "f32", "int8")
    assert fewer.layers[1].quantization is None
    assert fewer.layers[0].quantization is ONE
    # Unchanged layers keep their precision.
    mixed = all_of_them.with_strategies(["skip"] * 3, ["f32", "int8", "f32"])
    changed = mixed.with_quantization({1: plain(0.03)})
    assert changed.plan[0].precisions == ("f32", "int8", "f32")
    assert changed.with_quantization({0: ONE}).plan == changed.plan
    assert changed.with_quantization({0: plain(1)}).plan[0].precisions == ("int8", "int8", "f32")
    none = all_of_them.with_quantization([None] * 3)
    x = images(9)
    np.testing.assert_array_equal(none(x), free(x))
    made = Network.from_layers(all_of_them.layers, input_scale=1 / 255)
    assert made.plan[0].precisions == ("int8",) * 3


def test_one_scale_for_each_input() -> None:
    net = Network.from_layers([([[4, 2, 1], [-4, 2, -1]], np.zeros(2))], ["identity"])
    each = Quantization(np.float32([1, 2, 4]), np.float32([0, 10, 0]))
    small = net.with_quantization([each])
    x = np.array([[100, -20, 400], [255, 2, 1020], [300, 600, 3], [-1, -100, -9]])
    seen = np.array([[100, -20, 400], [255, 2, 1020], [255, 490, 4], [0, -20, 0]])
    np.testing.assert_array_equal(taken(x, each), seen)
    # The last two rows are outside the windows.
    np.testing.assert_allclose(small(x), net(np.concatenate([seen[:2], x[2:]])), rtol=1e-6)


@pytest.mark.isa
@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
@pytest.mark.parametrize("orders", [(None,) * 3, ALL, SOME])
def test_one_scale_for_each_unit(strategy: str, orders: Any) -> None:
    """One scale, with the next weights times the sizes of the units, gives the same bytes."""
    net = gated(make([30, 50, 40, 5]), rank=4)
    factors = (2.0 ** np.random.default_rng(7).integers(-8, 9, 50)).astype(np.float32)
    first, second, last = net.layers
    one = dataclasses.replace(first, weight=first.weight * factors[:, None])
    one = dataclasses.replace(one, bias=first.bias * factors)
    gate = second.gate
    assert gate is not None
    gate = dataclasses.replace(gate, u=gate.u / factors[:, None])
    two = dataclasses.replace(second, weight=second.weight / factors, gate=gate)
    other = Network.from_layers([one, two, last], task=net.task)
    x = rows(60, 30)
    seen = net.dense().layer_inputs(x)[1]
    step = float(seen.max()) / 250
    plan = ["dense", strategy, "dense"], ["f32", "int8", "f32"]
    results = []
    for network, scale in ((net, np.array(step)), (other, step * factors)):
        ranged = [None if layer.gate is None else layer.gate for layer in network.layers]
        inputs = network.dense().layer_inputs(x)
        ranged = [
            None if gate is None else dataclasses.replace(gate, range=gate_range(gate, values))
            for gate, values in zip(ranged, inputs, strict=True)
        ]
        small = network.with_gates(ranged).with_quantization({1: Quantization(scale, np.array(0))})
        results.append(small.with_units(orders).with_strategies(*plan)(x))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-6)


QUANTIZED = "quantization[0]: quantization"


@pytest.mark.parametrize(
    ("quantization", "kind", "message"),
    [
        ([ONE], ValueError, "quantization must have 3 entries, one per layer, got 1"),
        ({3: ONE}, ValueError, "quantization must name layers from 0 to 2, got 3"),
        (
            ONE,
            TypeError,
            "quantization must be a mapping or a sequence of quantization, got Quantization",
        ),
        ({0: (1, 0)}, TypeError, "quantization[0] must be a Quantization or None, got tuple"),
        (
            {0: Quantization(np.ones(29), np.zeros(29))},
            ValueError,
            f"{QUANTIZED}.scale must have shape () or (30,), got (29,)",
        ),
        (
            {0: Quantization(np.array(1), np.zeros(29))},
            ValueError,
            f"{QUANTIZED}.offset must have shape () or (30,), got (29,)",
        ),
        (
            {1: Quantization(np.ones(49), np.array(0))},
            ValueError,
            "quantization[1]: quantization.scale must have shape () or (50,), got (49,)",
        ),
        (
            {1: Quantization(np.ones(50), np.zeros(50))},
            ValueError,
            "quantization[1].offset must have shape (), got (50,)",
        ),
    ],
)
def test_with_quantization_refuses(
    net: Network, quantization: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as error:
        net.with_quantization(quantization)
    assert str(error.value) == message


def test_other_gates_of_a_quantized_network(net: Network) -> None:
    small = net.quantize(images(100))
    assert small.plan[0].precisions == ("int8",) * 3
    gate = small.layers[0].gate
    assert gate is not None
    no_range = small.with_gates({0: dataclasses.replace(gate, range=None)})
    assert no_range.plan == (BatchPlan(1, ("gate", "gate", "dense"), ("f32", "int8", "int8")),)
    assert no_range.layers[0].quantization is small.layers[0].quantization
    ranged = small.with_gates({0: dataclasses.replace(gate)})
    assert ranged.plan == small.plan
    gone = small.with_gates({0: None})
    assert gone.plan == (BatchPlan(1, ("dense", "gate", "dense"), ("int8",) * 3),)
    # Unchanged layers keep strategy and precision.
    skips = no_range.with_strategies(["skip"] * 3, "int8")
    kept = skips.with_gates({1: None})
    assert kept.plan == (BatchPlan(1, ("skip",) * 3, ("int8",) * 3),)


# --- storing, copying, tuning -------------------------------------------------------------------


def everything() -> Network:
    """A network with gates, orders, one scale per input, and a plan with mixed precisions."""
    net = gated(make([30, 50, 40, 3], classes=["a", "b", "c"], input_scale=0.5, input_shift=0.1))
    x = images(100) * np.linspace(0.01, 3, 30, dtype=np.float32)
    net = net.quantize(x).with_units(SOME)
    each = Quantization(np.linspace(0.01, 3, 30), np.linspace(0, 9, 30))
    net = net.with_quantization({0: each}).with_probe(x[:5]).with_metadata({"seed": 3})
    plan = (
        BatchPlan(1, ("gate", "skip", "dense"), ("int8", "f32", "int8")),
        BatchPlan(32, ("skip", "gate", "skip"), ("f32", "int8", "int8")),
    )
    return Network(dataclasses.replace(net._model, plan=plan))


def assert_same(a: Network, b: Network) -> None:
    assert a is not b
    assert (repr(a), a.plan) == (repr(b), b.plan)
    x = images(40, seed=2)
    for n in (1, 9, 40):
        np.testing.assert_array_equal(a(x[:n]), b(x[:n]))
    for one, other in zip(a.layers, b.layers, strict=True):
        for p, q in ((one.quantization, other.quantization),):
            assert p is not None and q is not None
            np.testing.assert_array_equal(p.scale, q.scale, strict=True)
            np.testing.assert_array_equal(p.offset, q.offset, strict=True)
        if one.gate is not None:
            assert other.gate is not None
            np.testing.assert_array_equal(one.gate.range, other.gate.range, strict=True)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol: int) -> None:
    net = everything()
    assert_same(net, pickle.loads(pickle.dumps(net, protocol)))  # noqa: S301 (made right here)


def test_copies() -> None:
    net = everything()
    assert_same(net, copy.deepcopy(net))
    assert_same(net, copy.copy(net))
    quantization = copy.deepcopy(net.layers[0].quantization)
    assert quantization is not None and not quantization.scale.flags.writeable


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_files(tmp_path: Path, suffix: str) -> None:
    net = everything()
    path = tmp_path / f"net.{suffix}"
    net.save(path)
    loaded = Network.load(path)
    assert_same(net, loaded)
    assert loaded.check() <= 1e-6 and net.check() <= 1e-6
    again = tmp_path / f"again.{suffix}"
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_what_keeps_int8() -> None:
    net = everything()
    x = images(50)
    kept = {
        "with_probe": net.with_probe(x[:3]),
        "with_metadata": net.with_metadata({}),
        "with_gates": net.with_gates({}),
        "with_units": net.with_units({}),
        "with_quantization": net.with_quantization({}),
    }
    for name, other in kept.items():
        assert other.plan == net.plan, name
        np.testing.assert_array_equal(other(x), net(x), err_msg=name)
    for other in (net.dense(), net.with_strategies(["skip"] * 3)):
        assert other.plan[0].precisions == ("f32",) * 3
        assert other.layers == net.layers


def test_tune_keeps_precisions() -> None:
    net = everything()
    x = images(50)
    tuned = net.tune(x, (1, 8, 64), seconds=0.01)
    first, second = (plan.precisions for plan in net.plan)
    assert [plan.precisions for plan in tuned.plan] == [first, second, second]
    assert tuned.machine == fingerprint()
    assert tuned.layers == net.layers


def test_a_plan_of_another_machine_keeps_its_precisions(tmp_path: Path) -> None:
    net = everything()
    elsewhere = {"isa": "avx2", "cpu": "another", "l1d": 1, "l2": 2, "l3": None}
    path = tmp_path / "net.npz"
    Network(dataclasses.replace(net._model, machine=elsewhere)).save(path)
    loaded = Network.load(path)
    assert loaded.machine == fingerprint()
    assert [plan.precisions for plan in loaded.plan] == [plan.precisions for plan in net.plan]


# --- the shipped network ------------------------------------------------------------------------


@pytest.mark.isa
def test_mnist() -> None:
    net, x, y = lrgate.examples.mnist()
    small = net.quantize(x[500:])
    assert all(plan.precisions == ("int8",) * 4 for plan in small.plan)
    first = small.layers[0].quantization
    assert first is not None and (first.scale, first.offset) == (1, 0)
    assert relative(small.with_strategies(["skip"] * 4, "int8")(x), net.dense()(x)) < 0.01
    assert (small.predict(x[:500]) != net.dense().predict(x[:500])).mean() <= 0.006
    assert (small.predict(x) != y).mean() <= (net.predict(x) != y).mean() + 0.003
    np.testing.assert_array_equal(small(x), small(x.astype(np.float32)))
    floats = Network.from_layers([*net.layers]).dense().quantize(x[500:] / np.float32(255))
    scale = floats.layers[0].quantization
    assert scale is not None and scale.scale == np.float32(1 / 255)

"""`Monitor`: sampling, comparison and warnings."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import pickle
import re
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import lrgate
from lrgate import Gate, Network
from lrgate.drift.monitor import Monitor
from lrgate.model import BatchPlan, Model
from lrgate.results.drift import Drift
from oracle import gated, make, rows

D = 20
SECONDS = 30
"""Seconds after which threads count as hanging."""


@pytest.fixture(scope="module")
def net() -> Network:
    """A classifier with bad gates: in calls of up to 8 rows, and above only in the first layer."""
    layers = gated(make([D, 50, 30, 5]), rank=4).layers
    plan = (
        BatchPlan(1, ("gate", "gate", "dense"), ("f32",) * 3),
        BatchPlan(64, ("gate", "skip", "dense"), ("f32",) * 3),
    )
    classes = np.array(["a", "b", "c", "d", "e"])
    return Network(Model(layers=layers, task="classification", classes=classes, plan=plan))


@pytest.fixture(scope="module")
def regressor(net: Network) -> Network:
    return Network.from_layers(net.layers)


def total(monitor: Monitor) -> Drift:
    return monitor.report().total


def assert_same(drift: Drift, expected: Drift) -> None:
    """Assert that all values are equal, except for rounding of sums in a different order."""
    assert drift.rows == expected.rows
    assert drift.disagreement == pytest.approx(expected.disagreement, rel=1e-12)
    for layer, other in zip(drift.layers, expected.layers, strict=True):
        assert dataclasses.replace(layer, lost_energy=other.lost_energy) == other
        assert layer.lost_energy == pytest.approx(other.lost_energy, **rounding(other.lost_energy))


def rounding(value: float | None) -> dict[str, float]:
    return {} if value is None else {"rel": 1e-12}


# --- calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1, 0.2])
def test_calls_give_what_the_network_gives(net: Network, regressor: Network, rate: float) -> None:
    x = rows(70, D)
    for network in (net, regressor):
        names = ["__call__", "forward", "predict", "predict_proba"]
        for name in names[: 4 if network is net else 3]:
            monitor = Monitor(network, rate, seed=1)
            plain, watched = getattr(network, name), getattr(monitor, name)
            for rows_or_row in (x, x[:3], x[:0], x[0], x[0].tolist(), x[:2].tolist()):
                expected, got = plain(rows_or_row), watched(rows_or_row)
                assert type(got) is type(expected)
                np.testing.assert_array_equal(got, expected)
            report = monitor.report()
            assert report.rows_seen == 70 + 3 + 1 + 1 + 2
            assert report.rows_sampled == 77 if rate == 1 else 5 <= report.rows_sampled <= 30
            assert report.rows_skipped == 0
            assert report.sampling


def test_a_monitor_stands_in_for_its_network(net: Network) -> None:
    monitor = net.monitor(1, seed=0)
    assert monitor.network is net
    assert monitor.layers is net.layers
    for name in ("task", "input_size", "output_size"):
        assert getattr(monitor, name) == getattr(net, name)
    np.testing.assert_array_equal(monitor.classes, net.classes)
    widths = "-".join(map(str, [net.input_size, *(layer.outputs for layer in net.layers)]))
    assert repr(monitor) == (
        f"<lrgate.Monitor of {widths}, {net.task}, rate 1, 0 rows seen, 0 sampled>"
    )
    with monitor:
        monitor.predict(rows(7, D))
    assert repr(monitor).endswith("rate 1, 7 rows seen, 7 sampled, sampling ended>")
    for name in ("save", "plan", "quantize"):
        with pytest.raises(AttributeError, match=rf"'{name}': write monitor\.network\.{name}$"):
            getattr(monitor, name)
    with pytest.raises(AttributeError, match=r"'Monitor' object has no attribute 'nothing'$"):
        _ = monitor.nothing
    assert not hasattr(monitor, "__array__")


def test_options_are_passed_on(net: Network) -> None:
    x = rows(70, D)
    monitor = Monitor(net, 1)
    out = np.empty((70, 5), np.float32)
    assert monitor.forward(x, out=out, num_threads=2) is out
    np.testing.assert_array_equal(out, net(x))
    one = np.empty(5, np.float32)
    assert monitor.forward(x[0], out=one) is one
    for call in (monitor.forward, monitor.predict, monitor.predict_proba):
        with pytest.raises(ValueError, match="num_threads"):
            call(x, num_threads=0)
    assert monitor.report().rows_sampled == 71


def test_an_output_written_over_the_input() -> None:
    net = gated(make([D, 50, D]), rank=4)
    x = rows(30, D)
    expected = Monitor(net, 1)
    y = expected.forward(x)
    for n, place in ((30, x.copy()), (1, x.copy()[0])):
        monitor = Monitor(net, 1)
        monitor.forward(place, out=place)
        np.testing.assert_array_equal(place.reshape(n, D), y[:n])
        if n == 30:
            assert monitor.report() == expected.report()
        assert total(monitor).disagreement != 0


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (np.zeros((3, D + 1)), ValueError),
        (np.zeros((2, 3, D)), ValueError),
        (np.zeros((3, D), complex), TypeError),
        ([["a"] * D], TypeError),
        (sparse.csr_matrix((3, D + 1)), ValueError),
    ],
)
def test_errors_pass_through_and_nothing_is_sampled(
    net: Network, regressor: Network, x: Any, kind: type[Exception]
) -> None:
    monitor = Monitor(net, 1)
    for name in ("__call__", "forward", "predict", "predict_proba"):
        with pytest.raises(kind) as expected:
            getattr(net, name)(x)
        with pytest.raises(kind) as error:
            getattr(monitor, name)(x)
        assert str(error.value) == str(expected.value)
    report = monitor.report()
    assert (report.rows_seen, report.rows_sampled, report.sampling) == (0, 0, True)
    with pytest.raises(ValueError, match="predict_proba needs a network with task"):
        Monitor(regressor, 1).predict_proba(rows(1, D))


def test_after_the_block_nothing_is_sampled(net: Network) -> None:
    x = rows(5, D)
    with pytest.raises(KeyError), Monitor(net, 1) as monitor:
        monitor(x)
        raise KeyError
    np.testing.assert_array_equal(monitor(x), net(x))
    report = monitor.report()
    assert (report.rows_seen, report.rows_sampled, report.sampling) == (5, 5, False)


# --- which rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_each_row_is_sampled_at_the_rate(
    monkeypatch: pytest.MonkeyPatch, size: int, rate: float
) -> None:
    net = make([1, 1])
    x = np.arange(6000, dtype=np.float32)[:, None]  # the value of a row is its index
    monitor = Monitor(net, rate, seed=3)
    compare, compared = monitor._compare, []

    def counting(x: Any, *arguments: Any) -> Any:
        compared.extend(x[:, 0].astype(int).tolist())
        return compare(x, *arguments)

    monkeypatch.setattr(monitor, "_compare", counting)
    for start in range(0, len(x), size):
        monitor(x[start : start + size])
    report = monitor.report()
    assert report.rows_seen == len(x)
    assert report.rows_sampled == report.total.rows == len(compared), "the work is the rate's"
    assert compared == sorted(set(compared))
    # Within four standard deviations, in total and for each index modulo 5; the seed is fixed.
    for part, of in [(compared, 6000)] + [
        ([i for i in compared if i % 5 == place], 1200) for place in range(5)
    ]:
        assert abs(len(part) - rate * of) <= 4 * (of * rate * (1 - rate)) ** 0.5
    gaps = np.diff(compared)
    assert gaps.std() == pytest.approx((1 - rate) ** 0.5 / rate, rel=0.35, abs=1e-9)


def test_the_seed_repeats_the_choice(net: Network) -> None:
    x = rows(300, D)
    first, second, other = (Monitor(net, 0.1, seed=seed) for seed in (1, 1, 2))
    for monitor in (first, second, other):
        monitor(x[:1]), monitor(x)
    assert first.report() == second.report() != other.report()


def test_tiny_rates_are_possible(net: Network) -> None:
    monitor = Monitor(net, 5e-324)
    monitor(rows(70, D))
    report = monitor.report()
    assert (report.rows_seen, report.rows_sampled) == (70, 0)
    assert report.total == report.window
    assert (report.total.disagreement, report.total.disagreement_low) == (None, None)
    assert report.total.layers[0].density_in is None
    assert report.total.layers[0].recall is None


# --- comparison ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 61, 150])
def test_figures_are_those_of_a_profile(net: Network, n: int) -> None:
    x = rows(n, D)
    monitor = Monitor(net, 1)
    monitor.predict(x)
    drift = total(monitor)
    assert drift.rows == n
    for layer, expected in zip(drift.layers, net.profile(x, seconds=0).layers, strict=True):
        assert (layer.inputs, layer.outputs) == (expected.inputs, expected.outputs)
        assert layer.density_in == expected.density_in
        assert layer.density_out == expected.density_out
        assert layer.computed_share == expected.computed_share
        assert layer.recall == expected.recall
        lost = expected.lost_energy
        if n <= 64:  # one sum, in the same order
            assert layer.lost_energy == lost
        assert layer.lost_energy == pytest.approx(lost, **rounding(lost))
        assert (layer.disagreement is None) == (expected.strategy != "gate")


def test_the_sums_are_over_the_rows_of_all_calls(net: Network) -> None:
    x = rows(90, D)
    monitor = Monitor(net, 1)
    monitor(x[:80]), monitor(x[80:85]), monitor.predict(x[85]), monitor.predict_proba(x[86:])
    drift = total(monitor)
    engine = net.engine
    many, few = engine.count(x[:80], 80), engine.count(x[80:], 1)
    assert drift.rows == 90
    first, second, last = drift.layers
    # The first layer is gated in all calls, the second only in calls of few rows.
    active, kept = (many[0][key] + few[0][key] for key in ("active", "kept"))
    assert first.recall == kept / active
    assert first.disagreement == (active - kept) / (90 * 50)
    assert second.recall == few[1]["kept"] / few[1]["active"]
    assert second.lost_energy == pytest.approx(few[1]["lost"] / few[1]["energy"], rel=1e-12)
    assert second.disagreement == (few[1]["active"] - few[1]["kept"]) / (10 * 30)
    assert second.density_in == first.density_out
    assert second.computed_share == (many[1]["computed"] + few[1]["computed"]) / (90 * 30)
    assert (last.recall, last.lost_energy, last.disagreement) == (None, None, None)
    assert last.computed_share == 1


def test_a_units_disagreement_by_brute_force(net: Network) -> None:
    x = rows(6, D)
    monitor = Monitor(net, 1)
    monitor(x)
    gated, dense = net.layer_inputs(x)[1], net.dense().layer_inputs(x)[1]
    assert total(monitor).layers[0].disagreement == np.mean((dense > 0) & (gated == 0))


def test_units_left_out_count_as_zero(net: Network) -> None:
    ordered = net.with_units({0: np.arange(40)[::-1]})
    x = rows(61, D)
    monitor = Monitor(ordered, 1)
    monitor(x)
    for layer, expected in zip(
        total(monitor).layers, ordered.profile(x, seconds=0).layers, strict=True
    ):
        assert layer.outputs == expected.outputs
        for name in ("density_in", "density_out", "computed_share", "recall", "lost_energy"):
            assert getattr(layer, name) == pytest.approx(getattr(expected, name)), name


@pytest.mark.parametrize("name", ["__call__", "forward", "predict", "predict_proba"])
def test_the_disagreement_of_classes(net: Network, name: str) -> None:
    x = rows(70, D)
    monitor = Monitor(net, 1)
    call = getattr(monitor, name)
    call(x)
    for row in x[:5]:
        call(row)
    differs = net.predict(x) != net.dense().predict(x)
    singly = [net.predict(row) != net.dense().predict(row) for row in x[:5]]
    drift = total(monitor)
    assert drift.disagreement == (differs.sum() + sum(singly)) / 75
    assert drift.disagreement_low is not None and drift.disagreement_high is not None
    assert 0 < drift.disagreement_low < drift.disagreement < drift.disagreement_high < 1


@pytest.mark.parametrize("last", ["identity", "sigmoid"])
@pytest.mark.parametrize("name", ["__call__", "predict", "predict_proba"])
def test_one_output_is_two_classes(last: str, name: str) -> None:
    net = gated(make([D, 50, 1], last=last, task="classification"))
    x = rows(200, D)
    monitor = Monitor(net, 1)
    getattr(monitor, name)(x)
    expected = np.mean(net.predict(x) != net.dense().predict(x))
    assert total(monitor).disagreement == expected > 0


def test_the_disagreement_of_a_regressor(regressor: Network) -> None:
    x = rows(150, D)
    monitor = Monitor(regressor, 1)
    monitor.predict(x[:100]), monitor(x[100:149]), monitor.forward(x[149])
    y, dense = (f(x).astype(np.float64) for f in (regressor, regressor.dense()))
    expected = np.sum((y - dense) ** 2) / np.sum((dense - dense.mean(axis=0)) ** 2)
    drift = total(monitor)
    assert drift.disagreement == pytest.approx(expected, rel=1e-9)
    assert (drift.disagreement_low, drift.disagreement_high) == (None, None)


def test_outputs_that_do_not_vary_have_no_relative_difference(regressor: Network) -> None:
    monitor = Monitor(regressor, 1)
    x = rows(1, D)
    monitor(x)
    assert total(monitor).disagreement is None
    monitor(np.repeat(x, 70, axis=0))
    assert total(monitor).disagreement is None


def test_exact_plans_agree(net: Network) -> None:
    monitor = Monitor(net.with_strategies(["skip"] * 3), 1)
    monitor(rows(200, D))
    drift = total(monitor)
    assert drift.disagreement == 0 == drift.disagreement_low
    assert [layer.recall for layer in drift.layers] == [None] * 3
    assert [layer.computed_share for layer in drift.layers] == [1] * 3


def test_the_interval_is_wilsons(net: Network) -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    for wrong, of, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0000),
    ]:
        monitor = Monitor(net, 1)
        labels = net.dense().predict(rows(of, D))
        labels[:wrong] = np.where(labels[:wrong] == "a", "b", "a")
        monitor._sample(rows(of, D), labels, False)
        drift = total(monitor)
        assert drift.disagreement == wrong / of
        assert drift.disagreement_low == pytest.approx(low, abs=6e-5)
        assert drift.disagreement_high == pytest.approx(high, abs=6e-5)


WHOLE = np.round(rows(70, D) * 20).clip(0, 255)


@pytest.mark.parametrize(
    "x",
    [
        WHOLE.astype(np.uint8),
        WHOLE.astype(np.float64),
        WHOLE.astype(">i4"),
        np.asfortranarray(WHOLE),
        np.repeat(WHOLE, 2, axis=1)[:, ::2],
        WHOLE.tolist(),
        sparse.csr_matrix(WHOLE),
        sparse.csr_array(WHOLE.astype(np.float64)),
        sparse.csc_matrix(WHOLE),
        sparse.coo_array(WHOLE),
        np.ma.masked_array(WHOLE),
    ],
    ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', '')}",
)
@pytest.mark.parametrize("rate", [1, 0.3])
def test_rows_of_all_kinds(net: Network, x: Any, rate: float) -> None:
    expected, monitor = Monitor(net, rate, seed=2), Monitor(net, rate, seed=2)
    expected(WHOLE), expected.predict(WHOLE), expected.predict_proba(WHOLE)
    monitor(x), monitor.predict(x), monitor.predict_proba(x)
    assert monitor.report().sampling
    assert monitor.report() == expected.report()


# --- values that are not finite -----------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["__call__", "predict", "predict_proba"])
def test_rows_that_are_not_finite_are_skipped(net: Network, name: str, bad: float) -> None:
    x = rows(40, D)
    damaged = np.insert(x, [0, 17, 40], np.full(D, bad, np.float32), axis=0)
    monitor, expected = Monitor(net, 1), Monitor(net, 1)
    options = {"nan_label": "a"} if name == "predict" else {}
    getattr(monitor, name)(damaged, **options)
    getattr(monitor, name)(damaged[0], **options)
    getattr(monitor, name)(sparse.csr_matrix(damaged[:1]), **options)
    getattr(expected, name)(x)
    report = monitor.report()
    assert report.sampling
    assert (report.rows_seen, report.rows_sampled, report.rows_skipped) == (45, 45, 5)
    assert report.total == total(expected)


def test_a_regressor_skips_rows_too(regressor: Network) -> None:
    x = rows(40, D)
    monitor, expected = Monitor(regressor, 1), Monitor(regressor, 1)
    monitor(np.insert(x, 17, np.nan, axis=0)), expected(x)
    assert monitor.report().rows_skipped == 1
    assert total(monitor) == total(expected)


def test_rows_that_only_the_gate_makes_infinite_are_skipped() -> None:
    layers = [(np.eye(3), np.zeros(3)), (np.array([[1, -1, 1]]), np.zeros(1))]
    gate = Gate(np.zeros((3, 1)), np.zeros((1, 3)), np.array([1, -1, 1]))  # drops the second
    net = Network.from_layers(layers).with_gates({0: gate})
    x = np.array([[3e38, 3e38, 3e38], [1, 1, 1], [2, 0, 0]], np.float32)
    monitor = Monitor(net, 1)
    assert np.isinf(monitor(x)[0]) and np.isfinite(net.dense()(x)).all()
    report = monitor.report()
    assert (report.rows_skipped, report.total.rows, report.sampling) == (1, 2, True)
    assert report.total.disagreement == 2  # 2 becomes 1, and 2 becomes 2, with a mean of 1.5


def test_a_layer_that_overflows_unseen_is_skipped() -> None:
    layers = [(np.ones((4, 2)), np.zeros(4)), (np.ones((1, 4)), np.zeros(1))]
    net = Network.from_layers(layers, ["relu", "tanh"])
    net = net.with_gates({0: Gate(np.ones((2, 1)), np.ones((1, 4)), np.zeros(4))})
    monitor = Monitor(net, 1)
    x = np.array([[3e38, 3e38]], np.float32)
    np.testing.assert_array_equal(monitor(x), [[1.0]])
    monitor(np.ones((1, 2)))
    report = monitor.report()
    assert (report.rows_sampled, report.rows_skipped, report.total.rows) == (2, 1, 1)
    assert report.total.layers[0].lost_energy == 0


# --- window -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 64, 100, 1000])
@pytest.mark.parametrize("window", [1, 20, 100])
def test_the_window_is_over_the_latest_rows(net: Network, window: int, size: int) -> None:
    net = net.with_strategies(["gate", "gate", "dense"])
    x = rows(250, D)
    monitor = Monitor(net, 1, window=window, min_rows=1)
    for start in range(0, len(x), size):
        monitor(x[start : start + size])
        end = min(start + size, len(x))
        report = monitor.report()
        assert report.total.rows == end
        assert min(window, end) <= report.window.rows < window + min(size, 64)
        latest = Monitor(net, 1)
        latest(x[end - report.window.rows : end])
        assert_same(report.window, total(latest))


def test_large_numbers_leave_the_window_without_a_trace(regressor: Network) -> None:
    x = rows(30, D)
    monitor, expected = (Monitor(regressor, 1, window=10, min_rows=1) for _ in range(2))
    monitor(x[:7] * 1e15)
    for row in x:
        monitor(row), expected(row)
    assert_same(monitor.report().window, expected.report().window)


def test_reset(net: Network) -> None:
    x = rows(50, D)
    monitor, fresh = Monitor(net, 1, max_disagreement=0.01), Monitor(net, 1)
    monitor(x), monitor(np.full(D, np.nan))
    monitor.reset()
    assert monitor.report() == fresh.report()
    monitor(x[:9]), fresh(x[:9])
    assert monitor.report() == fresh.report()


# --- threads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1, 0.2])
def test_sums_add_up_over_threads(net: Network, rate: float) -> None:
    batches = [rows(n, D, seed=n) for n in (1, 2, 7, 64, 65, 130)]
    work = batches * 24
    monitor = Monitor(net, rate, max_disagreement=0, window=50, min_rows=1)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(monitor, work, timeout=SECONDS))
    finally:
        sys.setswitchinterval(interval)
    for x, y in zip(work, got, strict=True):
        np.testing.assert_array_equal(y, net(x))
    report = monitor.report()
    assert report.rows_seen == sum(map(len, work))
    assert report.rows_sampled == report.total.rows
    assert report.sampling
    assert report.window.rows >= 50
    if rate == 1:
        alone = Monitor(net, 1)
        for x in work:
            alone(x)
        assert_same(report.total, total(alone))
    else:
        assert 0.15 < report.rows_sampled / report.rows_seen < 0.25


def test_reports_and_resets_while_others_compute(net: Network) -> None:
    monitor = Monitor(net, 1, window=30, min_rows=1)
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            report = monitor.report()
            assert report.rows_sampled == report.total.rows
            assert report.window.rows <= report.total.rows
            assert (report.total.disagreement is None) == (report.total.rows == 0)
            monitor.reset()

    with ThreadPoolExecutor(4) as pool:
        looking = pool.submit(look)
        try:
            list(pool.map(monitor, [rows(3, D)] * 300, timeout=SECONDS))
        finally:
            stop.set()
        looking.result(SECONDS)
    assert monitor.report().sampling


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_another_thread_holds_the_lock(net: Network) -> None:
    monitor = Monitor(net, 1)
    x = rows(5, D)
    monitor(x)
    with monitor._lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                threading.Timer(SECONDS, os._exit, [2]).start()
                monitor(x)
                code = 0 if monitor.report().rows_sampled == 10 else 1
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert monitor.report().rows_sampled == 5


# --- warnings -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drifting() -> tuple[Network, np.ndarray, np.ndarray]:
    """A network, rows for which its gate is right, and rows for which it is not."""
    net = make([8, 60, 3], task="classification")
    layer = net.layers[0]
    # The gate uses the first four inputs, and computes units in doubt.
    net = net.with_gates({0: Gate(np.eye(8)[:, :4], layer.weight.T[:4], layer.bias + 1e-4)})
    x = np.random.default_rng(4).normal(size=(200, 8)).astype(np.float32)
    usual = x.copy()
    usual[:, 4:] = 0
    x[:, 4:] *= 3
    return net, usual, x


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_drift_warns_once_until_it_is_over(
    drifting: tuple[Network, np.ndarray, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    net, usual, drifted = drifting
    monitor = Monitor(
        net, 1, max_disagreement=0.125, max_lost_energy=0.25, window=100, min_rows=100
    )
    for row in usual:
        monitor.predict(row)
    assert messages(caplog) == []
    window = monitor.report().window
    assert (window.disagreement, window.layers[0].recall) == (0, 1)
    for _ in range(2):
        for row in drifted:
            monitor.predict(row)
        assert [(r.name, r.levelname) for r in caplog.records] == [
            ("lrgate.monitor", "WARNING")
        ] * 2
        disagreement, lost = sorted(messages(caplog))
        assert re.fullmatch(
            r"the lost energy of layer 0 is 0\.2[5-9]\d* over the latest 100 sampled rows, "
            r"above max_lost_energy=0\.25",
            lost,
        )
        assert disagreement == (
            "the disagreement with the dense network is 0.13 over the latest 100 sampled rows, "
            "above max_disagreement=0.125"
        )
        monitor(drifted)
        assert messages(caplog) == [], "it is above all the time"
        monitor(usual), monitor(usual)
        assert messages(caplog) == []
        monitor(usual[0])
        for row in usual[:99]:
            monitor.predict(row)


@pytest.mark.parametrize("name", ["max_disagreement", "max_lost_energy"])
def test_each_threshold_is_its_own(
    drifting: tuple[Network, np.ndarray, np.ndarray], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    net, _, drifted = drifting
    limits: dict[str, Any] = {name: 0}
    monitor = Monitor(net, 1, **limits)
    monitor(drifted[:64])
    assert messages(caplog) == [], "too few rows"
    monitor(drifted[64:128])
    (message,) = messages(caplog)
    assert message.endswith(f" over the latest 128 sampled rows, above {name}=0")
    monitor.reset()
    monitor(drifted[:99])
    assert messages(caplog) == []
    monitor(drifted[:1])
    assert len(messages(caplog)) == 1
    quiet = Monitor(net, 1)
    quiet(drifted)
    assert messages(caplog) == []


def test_a_regressor_warns_too(
    drifting: tuple[Network, np.ndarray, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    net, usual, drifted = drifting
    monitor = Monitor(Network.from_layers(net.layers), 1, max_disagreement=1e-6)
    monitor(usual)
    assert messages(caplog) == []
    monitor(drifted)
    (message,) = messages(caplog)
    assert message.startswith("the relative squared difference from the dense network is ")


# --- errors while comparing ---------------------------------------------------------------------


def test_an_error_while_comparing_ends_the_sampling_and_no_call(
    net: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = Monitor(net, 1)
    x = rows(5, D)
    monitor(x)

    def fail(*arguments: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(monitor, "_compare", fail)
    for call in ("__call__", "forward", "predict", "predict_proba"):
        np.testing.assert_array_equal(getattr(monitor, call)(x), getattr(net, call)(x))
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("lrgate.monitor", "ERROR")
    assert record.exc_info is not None and isinstance(record.exc_info[1], MemoryError)
    report = monitor.report()
    assert (report.rows_seen, report.rows_sampled, report.sampling) == (10, 5, False)


def test_errors_of_two_threads_are_logged_once(
    net: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = Monitor(net, 1)
    both = threading.Barrier(2)

    def fail(*arguments: Any) -> Any:
        both.wait(SECONDS)
        raise MemoryError("no room")

    monkeypatch.setattr(monitor, "_compare", fail)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(monitor, [rows(5, D)] * 2, timeout=SECONDS))
    assert len(caplog.records) == 1


def test_a_handler_that_fails_breaks_no_call(net: Network) -> None:
    class Failing(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise OSError("the disk is full")

    monitor = Monitor(net, 1, max_disagreement=0, min_rows=1)
    x = rows(64, D)
    failing, log = Failing(), logging.getLogger("lrgate.monitor")
    log.addFilter(failing)
    try:
        np.testing.assert_array_equal(monitor(x), net(x))
    finally:
        log.removeFilter(failing)
    assert not monitor.report().sampling


# --- the rest -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"rate": 0}, ValueError, "rate must be a number above 0 and at most 1, got 0"),
        ({"rate": 1.5}, ValueError, "rate must be a number above 0 and at most 1, got 1.5"),
        ({"rate": np.nan}, ValueError, "rate must be a number above 0 and at most 1, got nan"),
        ({"rate": "1"}, TypeError, "rate must be a number above 0 and at most 1, got '1'"),
        ({"rate": True}, TypeError, "rate must be a number above 0 and at most 1, got True"),
        (
            {"max_disagreement": -0.1},
            ValueError,
            "max_disagreement must be None or a number of at least 0, got -0.1",
        ),
        (
            {"max_lost_energy": "1"},
            TypeError,
            "max_lost_energy must be None or a number of at least 0, got '1'",
        ),
        (
            {"max_lost_energy": np.nan},
            ValueError,
            "max_lost_energy must be None or a number of at least 0, got nan",
        ),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": "1"}, TypeError, "seed must be an integer, got '1'"),
        ({"min_rows": 0}, ValueError, "min_rows must be at least 1, got 0"),
        ({"min_rows": 1.5}, TypeError, "min_rows must be an integer, got 1.5"),
        ({"min_rows": True}, TypeError, "min_rows must be an integer, got True"),
        ({"window": 99}, ValueError, "window must be at least min_rows=100, got 99"),
        ({"window": None}, TypeError, "window must be an integer, got None"),
    ],
)
def test_arguments_are_refused_by_name(
    net: Network, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as error:
        Monitor(net, **options)
    assert str(error.value) == message


def test_numpy_numbers_are_taken(net: Network) -> None:
    monitor = Monitor(
        net,
        np.float32(1),
        max_disagreement=np.float64(0.5),
        window=np.int64(5),
        min_rows=np.int32(5),
        seed=np.int64(1),
    )
    monitor(rows(9, D))
    assert monitor.report().rows_sampled == 9


def test_a_monitor_is_not_pickled_or_copied(net: Network) -> None:
    monitor = Monitor(net)
    for make_copy in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError) as error:
            make_copy(monitor)
        assert str(error.value) == (
            "a Monitor cannot be pickled or copied: pickle its network, and its report"
        )


def test_a_report_prints_and_exports(net: Network, regressor: Network) -> None:
    for network in (net, regressor):
        monitor = Monitor(network, 1)
        empty = monitor.report()
        monitor(rows(70, D)), monitor.predict(rows(3, D))
        report = monitor.report()
        for shown in (empty, report):
            lines = str(shown).splitlines()
            assert len(lines) == 2 + 2 * 5
            assert max(map(len, lines)) <= 80
            columns = {len(line) for line in lines[3:7] + lines[8:]}
            assert len(columns) == 1, "the columns stand below their names"
        assert "20-50" in str(report)
        assert pickle.loads(pickle.dumps(report)) == report  # noqa: S301
        exported = json.loads(json.dumps(report.to_dict()))
        assert exported["rows_seen"] == 73
        assert exported["total"]["layers"][0]["recall"] == report.total.layers[0].recall
        assert report.measure in str(report)
        with pytest.raises(dataclasses.FrozenInstanceError):
            report.rows_seen = 0  # type: ignore[misc]
    assert "disagreement" in Monitor(net).report().measure
    assert "difference" in Monitor(regressor).report().measure


def test_long_figures_fit_80_columns(net: Network) -> None:
    monitor = Monitor(net, 1)
    monitor(rows(70, D))
    report = monitor.report()
    drift = dataclasses.replace(
        report.total, rows=10**12, disagreement=1.2345e-10, disagreement_low=1.2345e-11
    )
    report = dataclasses.replace(
        report,
        rows_seen=10**15,
        rows_sampled=10**12,
        rows_skipped=10**9,
        sampling=False,
        window=drift,
        total=drift,
    )
    text = str(report)
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[-1] == "sampling has stopped"


def test_mnist() -> None:
    net, x, _ = lrgate.examples.mnist()
    with Monitor(net, 0.2, max_disagreement=0.05, seed=0) as monitor:
        for row in x[:200]:
            monitor.predict(row)
        monitor(sparse.csr_matrix(x[:200]))
    report = monitor.report()
    assert report.rows_seen == 400
    assert report.total.disagreement is not None and report.total.disagreement <= 0.05
    recalls = [layer.recall for layer in report.total.layers if layer.recall is not None]
    assert all(0.7 < recall <= 1 for recall in recalls)


def test_units_that_were_left_out_are_missed_when_they_come_on() -> None:
    """The dense network has all units, so units left out by an order show as disagreement."""
    rng = np.random.default_rng(5)
    hidden = (rng.normal(size=(8, 4)), np.zeros(8))
    net = lrgate.Network.from_layers(
        [hidden, (rng.normal(size=(3, 8)), np.zeros(3))], task="classification"
    )
    x = rng.normal(size=(200, 4)).astype(np.float32)
    half = net.with_units({0: np.arange(4)})
    expected = float((half.predict(x) != net.predict(x)).mean())
    assert expected > 0
    monitor = half.monitor(rate=1.0)
    monitor.predict(x)
    assert monitor.report().total.disagreement == expected


@pytest.mark.parametrize("nan_label", [-1, "missing"])
def test_a_multilabel_row_without_labels_differs_in_all(nan_label: Any) -> None:
    """The outputs of the plan are NaN, the dense outputs are not."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, D))
    net = Network.from_layers([(weight, np.zeros(3))], activations=["sigmoid"], task="multilabel")
    x = rows(5, D)
    y = np.asarray(net.predict(x), object if isinstance(nan_label, str) else np.int64)
    y[2] = nan_label
    monitor = net.monitor(rate=1.0)
    sums = monitor._compare(x, y, len(x), None)
    assert (sums[0], sums[1]) == (5, 3)
    assert monitor._compare(x, np.asarray(net.predict(x)), len(x), None)[1] == 0
    of_probabilities = net.engine.head("multilabel").of_probabilities()
    assert monitor._compare(x, net.predict_proba(x), len(x), of_probabilities)[1] == 0

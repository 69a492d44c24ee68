"""Regressions: cases that failed in the past."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse

import lrgate
from lrgate import Gate, Network

pytestmark = pytest.mark.isa


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
@pytest.mark.parametrize("width", [1, 10, 16, 17, 63, 65])
def test_padding_is_never_listed(value: float, width: int) -> None:
    """An infinite sum in a padding lane becomes NaN, and NaN counts as non-zero."""
    shapes = itertools.pairwise((8, width, width, 3))
    net = Network.from_layers([(np.full((h, d), 2.0), np.zeros(h)) for d, h in shapes])
    gate = Gate(np.ones((8, 1)), np.ones((1, width)), np.zeros(width))
    gated = net.with_gates({0: gate})
    x = np.full((9, 8), value, np.float32)
    x[4] = 1.0
    expected = net(x)
    with np.errstate(all="ignore"):
        for strategies in itertools.product(["dense", "skip"], repeat=3):
            np.testing.assert_array_equal(net.with_strategies(strategies)(x), expected)
        for last in (["skip", "skip"], ["dense", "dense"]):
            y = gated.with_strategies(["gate", *last])(x)
            assert (y[4] == expected[4]).all()
            if not np.isfinite(value):
                np.testing.assert_array_equal(y[0], expected[0])


@pytest.mark.parametrize("part", ["data", "indices"])
def test_an_output_over_a_sparse_input_is_kept_apart(part: str) -> None:
    rng = np.random.default_rng(0)
    x = sparse.csr_matrix(rng.normal(size=(4, 300)).astype(np.float32))
    net = Network.from_layers([(rng.normal(size=(300, 300)), np.zeros(300))])
    net = net.with_strategies(["skip"])
    expected = net(x)
    out = getattr(x, part).view(np.float32).reshape(4, 300)
    net.forward(x, out=out)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
def test_standardising_far_values_keeps_the_digits(mean: float, strategy: str) -> None:
    rng = np.random.default_rng(1)
    std = rng.uniform(0.5, 2, 32)
    x = (mean + std * rng.normal(size=(70, 32))).astype(np.float32)
    scale, shift = (1 / std).astype(np.float32), (-mean / std).astype(np.float32)
    w, v = rng.normal(size=(40, 32)) / 6, rng.normal(size=(3, 40)) / 6
    net = Network.from_layers(
        [(w, np.zeros(40)), (v, np.zeros(3))], input_scale=scale, input_shift=shift
    )
    if strategy == "gate":
        net = net.with_gates({0: Gate(np.eye(32), w.T, np.full(40, 1e-3))})
    net = net.with_strategies([strategy, "dense"])
    # Scale and shift the rows in float32: folding must be at least as exact.
    mapped = (x * scale + shift).astype(np.float64)
    w, v = w.astype(np.float32).astype(np.float64), v.astype(np.float32).astype(np.float64)
    expected = np.maximum(mapped @ w.T, 0) @ v.T
    tolerance = (2e-5 if mean <= 1e2 else 2e-3) * np.abs(expected).max()
    for rows in (x, sparse.csr_matrix(x)):
        assert np.abs(net(rows) - expected).max() <= tolerance
    if mean > 1e2:
        np.testing.assert_allclose(net.layer_inputs(x)[0], mapped, rtol=0, atol=1e-6 * mean)


def test_wide_sparse_rows_take_no_dense_memory() -> None:
    code = """
import resource, numpy as np, lrgate
from scipy import sparse
rng = np.random.default_rng(0)
layers = [(np.ones((4, 400_000), np.float32), np.zeros(4)), (np.ones((2, 4)), np.zeros(2))]
net = lrgate.Network.from_layers(layers).with_strategies(["skip", "skip"])
x = sparse.random(64, 400_000, 1e-4, format="csr", dtype=np.float32, random_state=0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
net(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = int(subprocess.check_output([sys.executable, "-c", code]))
    unit = 1024 if sys.platform == "darwin" else 1
    assert grown / unit < 20_000, "64 dense rows would take 100,000 KiB"


def test_layers_may_come_from_an_iterator() -> None:
    weights, biases = [np.ones((3, 2)), np.ones((1, 3))], [np.zeros(3), np.zeros(1)]
    net = Network.from_layers(zip(weights, biases, strict=True))  # type: ignore[arg-type]
    assert net.with_strategies(s for s in ("skip", "dense")).plan_for().strategies == (
        "skip",
        "dense",
    )  # type: ignore[arg-type]


def test_a_view_of_a_writable_array_is_copied() -> None:
    weight = np.ones((2, 2), np.float32)
    view = weight.view()
    view.flags.writeable = False
    net = lrgate.Network.from_layers([(view, np.zeros(2))])
    weight[:] = 5
    assert (net.layers[0].weight == 1).all()


def test_refusals_name_the_argument() -> None:
    net = Network.from_layers([(np.ones((3, 2)), np.zeros(3)), (np.ones((1, 3)), np.zeros(1))])
    x = np.ones((4, 2), np.float32)
    with pytest.raises(TypeError, match=r"^gates must be a mapping or a sequence of gates, got "):
        net.with_gates(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^batch_sizes must be a sequence of integers, got int$"):
        net.tune(x, 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^rows must be at least 0, got -1$"):
        net.plan_for(-1)
    with pytest.raises(ValueError, match=r"^a sparse x must have shape \(n, 2\), got \(2,\)$"):
        net(sparse.coo_array(np.ones(2)))

"""Estimators against their definitions: best approximations, exact signs, brute-force counts."""

from __future__ import annotations

import dataclasses
import itertools
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from lrgate import Network, estimators
from lrgate.estimators import (
    Estimate,
    ThresholdPath,
    evaluate,
    factored,
    fit_thresholds,
    hull,
    logistic,
    products,
    signs,
    svd,
    thresholds,
    whitened,
    whitening,
)
from lrgate.estimators import rows as rows_module
from lrgate.inputs.sparse import SparseInputs
from lrgate.model import Activation, Factors, Gate, Layer

RELU = Activation("relu")
SHAPES = [(12, 30), (30, 12), (20, 20), (1, 5), (5, 1)]  # (inputs, outputs)


def set_chunk_values(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    for module in (rows_module, products, thresholds, whitening):
        monkeypatch.setattr(module, "CHUNK_VALUES", values)


def random_layer(inputs: int, outputs: int, activation: Activation = RELU, seed: int = 0) -> Layer:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(outputs, inputs))
    return Layer(weight, rng.normal(size=outputs), activation)


def correlated_rows(count: int, inputs: int, seed: int = 1) -> np.ndarray:
    """Rows with a mean, and variances in mixed directions that decrease by orders of magnitude."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(inputs, inputs)) * np.geomspace(1, 0.01, inputs)[:, None]
    return (rng.normal(size=(count, inputs)) @ mix + rng.normal(size=inputs)).astype(np.float32)


def pre_activations(layer: Layer, rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float64) @ layer.weight.T.astype(np.float64) + layer.bias


def scores(gate: Gate, rows: np.ndarray) -> np.ndarray:
    u, v = gate.u.astype(np.float64), gate.v.astype(np.float64)
    return rows.astype(np.float64) @ u @ v + gate.bias


def squared_error(layer: Layer, gate: Gate, rows: np.ndarray) -> float:
    """Mean over rows of |z - s|^2."""
    difference = pre_activations(layer, rows) - scores(gate, rows)
    return float(np.square(difference).sum(axis=1).mean())


def fits(layer: Layer, rows: np.ndarray) -> list[Estimate]:
    return [svd(layer), whitened(layer, rows)]


# --- svd and whitened ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_ranks_are_nested(shape: tuple[int, int]) -> None:
    layer = random_layer(*shape)
    for fit in fits(layer, correlated_rows(100, shape[0])):
        assert fit.max_rank == min(shape)
        full = fit.gate(fit.max_rank)
        for rank in range(1, fit.max_rank + 1):
            gate = fit.gate(rank)
            assert gate.rank == rank
            np.testing.assert_array_equal(gate.u, full.u[:, :rank])
            np.testing.assert_array_equal(gate.v, full.v[:rank])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "activation",
    [
        RELU,
        Activation("clipped_relu", 1.0),
        Activation("thresholded_relu", 0.7),
        Activation("squared_relu"),
    ],
)
def test_full_rank_gives_the_exact_signs(shape: tuple[int, int], activation: Activation) -> None:
    layer = random_layer(*shape, activation)
    rows, other = correlated_rows(100, shape[0]), correlated_rows(500, shape[0], seed=7)
    z = pre_activations(layer, other)
    margin = z - (0.7 if activation.name == "thresholded_relu" else 0.0)
    for fit in fits(layer, rows):
        computed = scores(fit.gate(fit.max_rank), other) > 0
        sure = np.abs(margin) > 1e-4  # for float32 values around 1
        assert sure.mean() > 0.99
        np.testing.assert_array_equal(computed[sure], margin[sure] > 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_threshold_moves_every_score(shape: tuple[int, int]) -> None:
    layer = random_layer(*shape)
    each = np.linspace(-1, 1, shape[1])
    for fit in fits(layer, correlated_rows(50, shape[0])):
        plain = fit.gate(1).bias
        np.testing.assert_allclose(fit.gate(1, 0.5).bias, plain - 0.5, atol=1e-6)
        np.testing.assert_allclose(fit.gate(1, each).bias, plain - each, atol=1e-6)
        np.testing.assert_allclose(fit.gate(1, -2).bias, plain + 2, atol=1e-6)


def test_gates_fit_their_layer() -> None:
    layer = random_layer(6, 9)
    for fit in fits(layer, correlated_rows(50, 6)):
        gate = fit.gate(np.int64(3))  # type: ignore[arg-type]
        assert dataclasses.replace(layer, gate=gate).gate is gate
        assert gate.u.dtype == gate.v.dtype == gate.bias.dtype == np.float32


# --- svd ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_svd_is_the_best_approximation_of_its_rank(shape: tuple[int, int]) -> None:
    """The residual is the norm of the omitted singular values (Eckart and Young 1936)."""
    layer = random_layer(*shape)
    weight = layer.weight.T.astype(np.float64)
    values = np.linalg.svd(weight, compute_uv=False)
    fit = svd(layer)
    for rank in range(1, fit.max_rank + 1):
        left = np.linalg.norm(weight - fit.u[:, :rank] @ fit.v[:rank])
        assert left == pytest.approx(np.linalg.norm(values[rank:]), abs=1e-12)
        np.testing.assert_array_equal(fit.gate(rank).bias, layer.bias)


def test_svd_of_a_weight_of_low_rank_is_exact() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 20))
    layer = Layer(weight, np.zeros(30), RELU)
    gate = svd(layer).gate(3)
    np.testing.assert_allclose((gate.u @ gate.v).T, layer.weight, atol=1e-5)


def test_svd_of_zeros() -> None:
    layer = Layer(np.zeros((3, 2)), np.array([1, 0, -1]), RELU)
    report = evaluate(layer, svd(layer).gate(1), np.ones((4, 2)))
    assert (report.recall, report.computed_share) == (1.0, pytest.approx(1 / 3))


# --- whitened -----------------------------------------------------------------------------------


def by_the_roots_of_the_covariance(
    layer: Layer, rows: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """U V and c by their definition: C^(1/2) W ~ P S Q^T, U = C^(-1/2) P S, V = Q^T."""
    weight = layer.weight.T.astype(np.float64)
    mean = rows.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov(rows.T.astype(np.float64), bias=True))
    live = values > 1e-9 * values.max()
    root = np.sqrt(np.where(live, values, 0))
    inverse = np.divide(1, root, out=np.zeros_like(root), where=live)
    left, scale, right = np.linalg.svd((vectors * root) @ vectors.T @ weight)
    product = (vectors * inverse) @ vectors.T @ (left[:, :rank] * scale[:rank]) @ right[:rank]
    return product, layer.bias + mean @ (weight - product)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_whitened_is_the_optimum(shape: tuple[int, int]) -> None:
    layer, rows = random_layer(*shape), correlated_rows(300, shape[0])
    z = pre_activations(layer, rows)
    # No matrix of rank k is closer to the centred pre-activations than their truncated SVD, so no
    # low-rank product plus a bias is closer either.
    values = np.linalg.svd(z - z.mean(axis=0), compute_uv=False)
    fit = whitened(layer, rows)
    for rank in range(1, fit.max_rank + 1):
        bound = float(np.square(values[rank:]).sum()) / len(rows)
        assert squared_error(layer, fit.gate(rank), rows) == pytest.approx(
            bound, rel=1e-4, abs=1e-9
        )


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_whitened_is_what_its_definition_says(shape: tuple[int, int]) -> None:
    layer, rows = random_layer(*shape), correlated_rows(300, shape[0])
    fit = whitened(layer, rows)
    for rank in (1, 2, 5, fit.max_rank):
        product, bias = by_the_roots_of_the_covariance(layer, rows, rank)
        np.testing.assert_allclose(fit.u[:, :rank] @ fit.v[:rank], product, atol=1e-6)
        np.testing.assert_allclose(fit.gate(rank).bias, bias, atol=1e-5)


def test_whitened_is_a_minimum() -> None:
    layer, rows = random_layer(10, 15), correlated_rows(200, 10)
    gate = whitened(layer, rows).gate(4)
    least = squared_error(layer, gate, rows)
    rng = np.random.default_rng(5)
    for part, size in itertools.product(("u", "v", "bias"), (1e-3, 1e-2, 0.1)):
        moved = getattr(gate, part) + size * rng.normal(size=getattr(gate, part).shape)
        assert squared_error(layer, dataclasses.replace(gate, **{part: moved}), rows) > least


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_whitened_beats_svd_on_correlated_rows(shape: tuple[int, int]) -> None:
    layer, (rows, other) = random_layer(*shape), np.split(correlated_rows(1000, shape[0]), 2)
    plain, better = svd(layer), whitened(layer, rows)
    for rank in (1, 3, 6):
        ours = squared_error(layer, better.gate(rank), other)
        assert ours < 0.8 * squared_error(layer, plain.gate(rank), other)
        ours_report = evaluate(layer, better.gate(rank), other)
        assert ours_report.lost_energy < evaluate(layer, plain.gate(rank), other).lost_energy


def test_whitened_is_unbiased_at_every_rank() -> None:
    layer, rows = random_layer(10, 15), correlated_rows(200, 10)
    z = pre_activations(layer, rows)
    fit = whitened(layer, rows)
    for rank in range(1, 11):
        difference = (scores(fit.gate(rank), rows) - z).mean(axis=0)
        np.testing.assert_allclose(difference, 0, atol=1e-5)


def test_whitened_does_not_depend_on_the_units_of_the_inputs() -> None:
    layer, rows = random_layer(10, 15), correlated_rows(200, 10)
    scale = np.float32(2.0) ** np.arange(-10, 10, 2)
    same = Layer(layer.weight / scale, layer.bias, RELU)
    for rank in (1, 4, 10):
        a = scores(whitened(layer, rows).gate(rank), rows)
        b = scores(whitened(same, rows * scale).gate(rank), rows * scale)
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_dead_inputs() -> None:
    """Inputs that are constant on the calibration rows do not change the estimate on them."""
    live, rng = [0, 2, 3, 5, 6], np.random.default_rng(3)
    layer = random_layer(8, 12)
    rows = np.zeros((200, 8), np.float32)
    rows[:, live] = correlated_rows(200, 5)
    rows[:, 4] = 0.1
    fit = whitened(layer, rows)
    alone = Layer(layer.weight[:, live], layer.bias + 0.1 * layer.weight[:, 4], RELU)
    same = whitened(alone, rows[:, live])
    for rank in range(1, 6):
        expected = squared_error(alone, same.gate(rank), rows[:, live])
        assert squared_error(layer, fit.gate(rank), rows) == pytest.approx(expected, abs=1e-8)
    assert squared_error(layer, fit.gate(6), rows) < 1e-8
    # If such an input varies later, estimating it is better than ignoring it.
    awake = rows.copy()
    awake[:, [1, 7]] = rng.normal(size=(200, 2))
    for rank in (2, 4, 8):
        gate = fit.gate(rank)
        u = gate.u.copy()
        u[[1, 7]] = 0
        deaf = dataclasses.replace(gate, u=u)
        assert squared_error(layer, gate, awake) < squared_error(layer, deaf, awake)


def test_constant_rows_are_estimated_exactly() -> None:
    layer = random_layer(7, 9)
    row = np.random.default_rng(2).normal(size=7).astype(np.float32)
    rows = np.tile(row, (20, 1))
    for rank in (1, 4, 7):
        gate = whitened(layer, rows).gate(rank)
        np.testing.assert_allclose(scores(gate, rows), pre_activations(layer, rows), atol=1e-5)
        assert evaluate(layer, gate, rows).recall == 1.0


def test_all_inputs_zero() -> None:
    layer = random_layer(7, 9)
    gate = whitened(layer, np.zeros((5, 7))).gate(2)
    np.testing.assert_allclose(scores(gate, np.zeros((5, 7))), np.tile(layer.bias, (5, 1)))


def test_a_large_mean_does_not_hide_the_covariance() -> None:
    layer, rows = random_layer(10, 15), correlated_rows(300, 10).astype(np.float64)
    moved = whitened(layer, rows + 1e6)
    fit = whitened(layer, rows)
    np.testing.assert_allclose(moved.u @ moved.v, fit.u @ fit.v, atol=1e-9)
    for rank in (1, 4):
        a, b = moved.u[:, :rank] @ moved.v[:rank], fit.u[:, :rank] @ fit.v[:rank]
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_extreme_scales(scale: float) -> None:
    layer, rows = random_layer(6, 8), correlated_rows(100, 6)
    small = Layer(layer.weight * (1 / scale), layer.bias, RELU)
    report = evaluate(small, whitened(small, rows * scale).gate(3), rows * scale)
    assert report.recall == evaluate(layer, whitened(layer, rows).gate(3), rows).recall


@pytest.mark.parametrize("dtype", ["f2", "f8", "u1", "i4", "?", "F-order", "strided", "list"])
def test_rows_of_any_real_kind(dtype: str) -> None:
    layer = random_layer(5, 6)
    whole = np.random.default_rng(4).integers(0, 2, size=(40, 5)).astype(np.float32)
    rows: Any = {
        "F-order": lambda: np.asfortranarray(whole),
        "strided": lambda: np.repeat(whole, 2, axis=1)[:, ::2],
        "list": lambda: whole.tolist(),
    }.get(dtype, lambda: whole.astype(dtype))()
    expected, fit = whitened(layer, whole), whitened(layer, rows)
    np.testing.assert_allclose(fit.u @ fit.v, expected.u @ expected.v, atol=1e-12)
    gate = expected.gate(2)
    assert evaluate(layer, gate, rows) == evaluate(layer, gate, whole)


def test_rows_are_not_changed() -> None:
    rows = correlated_rows(50, 5).astype(np.float64)
    before = rows.copy()
    evaluate(random_layer(5, 6), whitened(random_layer(5, 6), rows).gate(2), rows)
    np.testing.assert_array_equal(rows, before)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, rows = random_layer(10, 15), correlated_rows(101, 10)
    whole = whitened(layer, rows)
    report = evaluate(layer, whole.gate(3), rows)
    for values in (1, 70, 1000):
        set_chunk_values(monkeypatch, values)
        np.testing.assert_allclose(whitened(layer, rows).u @ whole.v, whole.u @ whole.v, atol=1e-9)
        other = evaluate(layer, whole.gate(3), rows)
        assert other.recall == report.recall
        assert other.computed_share == report.computed_share
        assert other.lost_energy == pytest.approx(report.lost_energy)


def test_rows_are_never_copied_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The float32 rows take 4.8 MB; a float64 copy would take 9.6 MB."""
    set_chunk_values(monkeypatch, 1 << 15)
    layer, rows = random_layer(60, 40), np.ones((20_000, 60), np.float32)
    tracemalloc.start()
    try:
        gate = whitened(layer, rows).gate(2)
        evaluate(layer, gate, rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20, f"{peak} bytes"


# --- max_rank -----------------------------------------------------------------------------------

WIDE = (280, 300)  # wide enough for factors to be found in a Krylov subspace


@pytest.mark.parametrize("shape", [*SHAPES, WIDE])
def test_max_rank_keeps_the_first_factors(shape: tuple[int, int]) -> None:
    layer, rows = random_layer(*shape), correlated_rows(300, shape[0])
    few = -(-min(shape) // 3)  # too many for a Krylov subspace to be cheaper
    for whole, part in (
        (svd(layer), svd(layer, few)),
        (whitened(layer, rows), whitened(layer, rows, max_rank=few)),
    ):
        assert part.max_rank == few
        np.testing.assert_array_equal(part.gate(few).u, whole.gate(few).u)
        np.testing.assert_array_equal(part.gate(few).v, whole.gate(few).v)
        np.testing.assert_array_equal(part.gate(few).bias, whole.gate(few).bias)


def captured(values: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Sum of squares of `values` projected on the first k of `directions`, for each k."""
    return np.cumsum(np.square(values @ directions.T).sum(axis=0))


@pytest.mark.parametrize("kind", ["correlated", "white"])
@pytest.mark.parametrize("max_rank", [1, 9, 64])
def test_few_factors_capture_what_the_exact_ones_do(kind: str, max_rank: int) -> None:
    layer = random_layer(*WIDE)
    rows = {
        "correlated": lambda: correlated_rows(500, WIDE[0]),
        "white": lambda: np.random.default_rng(2).normal(size=(500, WIDE[0])),
    }[kind]()
    z = pre_activations(layer, rows)
    weight = layer.weight.T.astype(np.float64)
    for exact, few, values in (
        (whitened(layer, rows), whitened(layer, rows, max_rank), z - z.mean(axis=0)),
        (svd(layer), svd(layer, max_rank), weight),
    ):
        assert few.max_rank == max_rank
        np.testing.assert_allclose(few.v @ few.v.T, np.eye(max_rank), atol=1e-5)
        np.testing.assert_allclose(few.u, weight @ few.v.T, atol=1e-9)
        share = captured(values, few.v) / captured(values, exact.v[:max_rank])
        assert share.max() < 1 + 1e-6
        assert share[: (max_rank + 1) // 2].min() > 0.9999
        assert share.min() > 0.99


def test_few_factors_are_the_same_each_time() -> None:
    layer, rows = random_layer(*WIDE), correlated_rows(300, WIDE[0])
    for first, second in (
        (svd(layer, 8), svd(layer, 8)),
        (whitened(layer, rows, 8), whitened(layer, rows, 8)),
    ):
        np.testing.assert_array_equal(first.u, second.u)
        np.testing.assert_array_equal(first.v, second.v)


def test_few_factors_of_few_rows() -> None:
    """With more factors than directions of the rows, the rows are estimated exactly."""
    layer, rows = random_layer(*WIDE), correlated_rows(20, WIDE[0])
    fit = whitened(layer, rows, max_rank=40)
    assert fit.max_rank == 19
    np.testing.assert_allclose(
        scores(fit.gate(19), rows), pre_activations(layer, rows), rtol=1e-4, atol=1e-2
    )


def test_few_factors_of_constant_rows() -> None:
    layer = random_layer(*WIDE)
    rows = np.tile(correlated_rows(1, WIDE[0]), (20, 1))
    gate = whitened(layer, rows, max_rank=5).gate(5)
    np.testing.assert_allclose(
        scores(gate, rows), pre_activations(layer, rows), rtol=1e-5, atol=1e-3
    )


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_few_factors_at_extreme_scales(scale: float) -> None:
    layer, rows = random_layer(*WIDE), correlated_rows(300, WIDE[0])
    small = Layer(layer.weight * (1 / scale), layer.bias, RELU)
    report = evaluate(small, whitened(small, rows * scale, 10).gate(10), rows * scale)
    expected = evaluate(layer, whitened(layer, rows, 10).gate(10), rows)
    assert report.recall == pytest.approx(expected.recall, abs=1e-4)


# --- wide layers and sparse rows ----------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("form", ["inputs", "units", "rows"])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_every_form_is_what_the_definition_says(
    shape: tuple[int, int], form: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, rows = random_layer(*shape), correlated_rows(300, shape[0])
    monkeypatch.setattr(whitening, "_form", lambda *_: form)
    fit = whitened(layer, rows if kind == "dense" else sparse.csr_matrix(rows))
    # Products of the rows are in float32.
    tolerance = 1e-3 if form == "rows" else 1e-6
    for rank in (1, 2, 5):
        product, bias = by_the_roots_of_the_covariance(layer, rows, rank)
        np.testing.assert_allclose(fit.u[:, :rank] @ fit.v[:rank], product, atol=tolerance)
        np.testing.assert_allclose(fit.gate(rank).bias, bias, atol=10 * tolerance)


@pytest.mark.parametrize("form", ["krylov", "factors", "rows"])
@pytest.mark.parametrize("shape", [WIDE, WIDE[::-1]])
def test_every_form_of_a_wide_layer_captures_what_the_exact_one_does(
    form: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, rows = random_layer(*shape), correlated_rows(500, shape[0])
    z = pre_activations(layer, rows)
    exact = whitened(layer, rows)
    monkeypatch.setattr(whitening, "_form", lambda *_: form)
    few = whitened(layer, rows, 32)
    share = captured(z - z.mean(axis=0), few.v) / captured(z - z.mean(axis=0), exact.v[:32])
    assert share[:16].min() > 0.9999
    assert share.min() > 0.99
    np.testing.assert_allclose(few.v @ few.v.T, np.eye(32), atol=1e-5)


@pytest.mark.parametrize(
    ("n", "inputs", "outputs", "rank", "form"),
    [
        (2000, 20, 30, 20, "inputs"),
        (2000, 30, 20, 20, "units"),
        (2000, 65_536, 128, 64, "units"),  # never a square matrix of the columns
        (100, 65_536, 8, 8, "units"),
        (2000, 8, 70_000, 8, "inputs"),
        (200, 700, 600, 200, "rows"),
        (200, 700, 600, 600, "rows"),
        (2000, 700, 600, 600, "units"),
        (2000, 600, 700, 600, "inputs"),
        (4000, 784, 1000, 64, "factors"),
    ],
)
def test_the_smallest_square_is_taken(
    n: int, inputs: int, outputs: int, rank: int, form: str
) -> None:
    layer = Layer(np.zeros((outputs, inputs), np.float32), np.zeros(outputs), RELU)
    rows = np.broadcast_to(np.float32(0), (n, inputs))
    assert whitening._form(layer, rows, rank) == form


def sparse_problem(
    inputs: int = 400, outputs: int = 30, n: int = 300
) -> tuple[Layer, SparseInputs, np.ndarray]:
    """A layer, sparse rows with scale and shift, and the same rows made dense."""
    rng = np.random.default_rng(11)
    rows = sparse.random(n, inputs, 0.05, "csr", np.float32, random_state=4)
    scale = rng.normal(size=inputs).astype(np.float32)
    shift = rng.normal(size=inputs).astype(np.float32)
    layer = random_layer(inputs, outputs)
    return layer, SparseInputs(rows, scale, shift), rows.toarray() * scale + shift


def test_sparse_rows_give_what_dense_ones_do() -> None:
    layer, rows, dense = sparse_problem()
    fit, expected = whitened(layer, rows), whitened(layer, dense)
    np.testing.assert_allclose(fit.mean, expected.mean, atol=1e-6)
    np.testing.assert_allclose(fit.offset, expected.offset, atol=1e-5)
    np.testing.assert_allclose(fit.u @ fit.v, expected.u @ expected.v, atol=1e-6)
    gate = expected.gate(4)
    same, other = evaluate(layer, gate, rows), evaluate(layer, gate, dense)
    assert same.computed_share == pytest.approx(other.computed_share, abs=1e-3)
    assert same.lost_energy == pytest.approx(other.lost_energy, rel=1e-3)
    chosen = fit_thresholds(layer, gate, rows, lost_energy=0.02)
    # Adjacent scores that differ only by rounding may change places.
    close = np.isclose(
        chosen.bias, fit_thresholds(layer, gate, dense, lost_energy=0.02).bias, atol=1e-4
    )
    assert close.mean() > 0.9
    for one, two in ((logistic(layer, rows, (4,)), logistic(layer, dense, (4,))),):
        a, b = evaluate(layer, one.gate(4), rows), evaluate(layer, two.gate(4), dense)
        assert a.lost_energy == pytest.approx(b.lost_energy, rel=0.1)


def test_logistic_of_wide_sparse_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training in the directions of the rows improves the fit as much as for dense rows."""
    layer, rows, _, other = clustered_problem()
    rows = rows[:700]
    monkeypatch.setattr(signs, "_DENSE_VALUES", 1000)
    start = whitened(layer, rows)
    fit = logistic(layer, sparse.csr_matrix(rows), (8,), start=start)
    before = evaluate(layer, start.gate(8), other)
    after = evaluate(layer, with_share(fit.gate(8), other, before.computed_share), other)
    assert after.lost_energy < 0.95 * before.lost_energy
    # There are few directions; in all others U is unchanged.
    monkeypatch.setattr(signs, "_DIRECTIONS", 12)
    fit = logistic(layer, sparse.csr_matrix(rows), (8,), start=start)
    after = evaluate(layer, with_share(fit.gate(8), other, before.computed_share), other)
    assert after.lost_energy < before.lost_energy


def test_wide_sparse_rows_take_no_square_of_their_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A square matrix would take 2.9 GB, dense rows in float32 48 MB, the weights 5 MB."""
    columns = 20_000
    layer = random_layer(columns, 64)
    monkeypatch.setattr(signs, "_DENSE_VALUES", 1 << 20)
    rows = sparse.random(600, columns, 20 / columns, "csr", np.float32, random_state=1)
    tracemalloc.start()
    try:
        gate = whitened(layer, rows, 16).gate(16)
        fit_thresholds(layer, gate, rows, lost_energy=0.1)
        evaluate(layer, gate, rows)
        logistic(layer, rows, (8, 16), epochs=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20, f"{peak >> 20} MiB"


def test_large_weights_are_not_copied_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The results are the same when large weights are used in float32."""
    layer, rows = random_layer(400, 1000), correlated_rows(300, 400)
    whole = whitened(layer, rows, 16)
    path = ThresholdPath(layer, whole.gate(8), rows)
    report = evaluate(layer, whole.gate(8), rows)
    set_chunk_values(monkeypatch, 1 << 12)
    tracemalloc.start()
    try:
        fit = whitened(layer, rows, 16)
        part = ThresholdPath(layer, fit.gate(8), rows)
        again = evaluate(layer, fit.gate(8), rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * layer.weight.nbytes + 3 * rows.nbytes + (1 << 20)
    z = pre_activations(layer, rows)
    share = captured(z - z.mean(axis=0), fit.v) / captured(z - z.mean(axis=0), whole.v)
    assert share.min() > 0.99
    assert again.lost_energy == pytest.approx(report.lost_energy, rel=1e-2)
    assert part.computed_share[0] == pytest.approx(path.computed_share[0], abs=1e-2)


def test_sparse_rows_are_checked() -> None:
    layer, rows, _ = sparse_problem()
    for value in (np.nan, np.inf):
        bad = rows.rows.copy()
        bad.data[bad.indptr[7]] = value
        with pytest.raises(ValueError, match=r"^inputs must hold finite float32 values, .* row 7$"):
            whitened(layer, bad)
    with pytest.raises(ValueError, match=r"^inputs must have shape \(n, 400\), got \(300, 399\)$"):
        whitened(layer, rows.rows[:, :399])
    with pytest.raises(TypeError, match="dtype complex64"):
        whitened(layer, rows.rows.astype(np.complex64))


# --- logistic -----------------------------------------------------------------------------------


def clustered_problem(
    activation: Activation = RELU, seed: int = 0
) -> tuple[Layer, np.ndarray, np.ndarray, np.ndarray]:
    """A layer with sparse outputs, and rows for fitting, for thresholds and for evaluation.

    As in a trained network, rows are clustered, vary mostly in few directions, and are rectified.
    """
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(16, 40)) * np.geomspace(1, 0.1, 16)[:, None]
    centres = rng.normal(size=(8, 16))
    latent = centres[rng.integers(8, size=6000)] + 0.7 * rng.normal(size=(6000, 16))
    rows = np.maximum(latent @ mix + 0.1 * rng.normal(size=(6000, 40)), 0).astype(np.float32)
    weight = rng.normal(size=(60, 40))
    weight /= (rows @ weight.T).std()
    bias = -(rows @ weight.T).mean(axis=0) - 0.8 + 0.3 * rng.normal(size=60)
    return Layer(weight, bias, activation), rows[:2000], rows[2000:4000], rows[4000:]


def with_share(gate: Gate, rows: np.ndarray, share: float) -> Gate:
    """The gate with one threshold for all units that computes this share on the rows."""
    return dataclasses.replace(gate, bias=gate.bias - np.quantile(scores(gate, rows), 1 - share))


@pytest.mark.parametrize(
    "activation",
    [
        RELU,
        Activation("clipped_relu", 1.0),
        Activation("thresholded_relu", 0.3),
        Activation("thresholded_relu", -0.3),
    ],
    ids=str,
)
def test_logistic_loses_less_than_its_start(activation: Activation) -> None:
    layer, rows, _, other = clustered_problem(activation)
    start = whitened(layer, rows)
    fit = logistic(layer, rows, (4, 8), start=start)
    for rank in (4, 6, 8):
        before = evaluate(layer, start.gate(rank), other)
        after = evaluate(layer, fit.gate(rank), other)
        assert after.computed_share == pytest.approx(before.computed_share, rel=0.1)
        same = evaluate(layer, with_share(fit.gate(rank), other, before.computed_share), other)
        assert same.computed_share == pytest.approx(before.computed_share, abs=1e-4)
        assert same.lost_energy < 0.95 * before.lost_energy


def test_logistic_of_one_rank_is_better_there() -> None:
    layer, rows, _, other = clustered_problem()
    lost = [
        evaluate(layer, with_share(logistic(layer, rows, ranks).gate(8), other, 0.15), other)
        for ranks in ((8,), (2, 4, 8))
    ]
    assert lost[0].lost_energy < lost[1].lost_energy


def test_logistic_is_nested() -> None:
    layer, rows, _, _ = clustered_problem()
    fit = logistic(layer, rows, [8, 3, np.int64(5), 3], epochs=1)
    assert (fit.method, fit.max_rank, fit.rows) == ("logistic", 8, 2000)
    full = fit.gate(8)
    for rank in range(1, 9):
        gate = fit.gate(rank)
        np.testing.assert_array_equal(gate.u, full.u[:, :rank])
        np.testing.assert_array_equal(gate.v, full.v[:rank])
        # All ranks give the same score for the mean row.
        np.testing.assert_allclose(scores(gate, fit.mean[None])[0], fit.offset, atol=1e-5)


def test_logistic_is_the_same_for_a_seed() -> None:
    layer, rows, _, _ = clustered_problem()
    first, second, other = (logistic(layer, rows, (4,), seed=seed) for seed in (7, 7, 8))
    for part in ("u", "v", "offset"):
        np.testing.assert_array_equal(getattr(first, part), getattr(second, part))
        assert (getattr(first, part) != getattr(other, part)).any()


def test_logistic_starts_where_it_is_told_to() -> None:
    layer, rows, _, other = clustered_problem()
    by_default = logistic(layer, rows, (4, 8))
    given_it = logistic(layer, rows, (4, 8), start=whitened(layer, rows, max_rank=8))
    np.testing.assert_array_equal(given_it.u, by_default.u)
    for start in (svd(layer), whitened(layer, rows[:100]), by_default):
        fit = logistic(layer, rows, (8,), start=start)
        before = evaluate(layer, start.gate(8), other)
        after = evaluate(layer, with_share(fit.gate(8), other, before.computed_share), other)
        assert after.lost_energy < before.lost_energy


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e20])
def test_logistic_does_not_depend_on_the_unit_of_the_inputs(scale: float) -> None:
    layer, rows, _, other = clustered_problem()
    same = Layer(layer.weight * (1 / scale), layer.bias, RELU)
    report = evaluate(same, logistic(same, rows * scale, (4,)).gate(4), other * scale)
    expected = evaluate(layer, logistic(layer, rows, (4,)).gate(4), other)
    assert report.recall == pytest.approx(expected.recall, abs=2e-3)
    assert report.computed_share == pytest.approx(expected.computed_share, abs=2e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("constant", [0.0, 1e-42, 0.1, 1e30])
def test_logistic_of_inputs_of_subnormal_size(constant: float) -> None:
    rng = np.random.default_rng(0)
    layer = Layer(rng.normal(size=(16, 20)), np.full(16, constant), Activation("relu"))
    rows = np.float32(1e-42 * rng.normal(size=(400, 20)))
    estimate = estimators.logistic(layer, rows, [4])
    gate = estimate.gate(4)
    assert estimate.max_rank == 4
    assert all(np.isfinite(part).all() for part in (gate.u, gate.v, gate.bias))


def test_logistic_of_inputs_of_very_unequal_size() -> None:
    layer, rows, _, other = clustered_problem()
    scale = np.ones(40)
    scale[3] = 1000
    same = Layer(layer.weight / scale, layer.bias, RELU)
    report = evaluate(same, logistic(same, rows * scale, (8,)).gate(8), other * scale)
    start = evaluate(layer, whitened(layer, rows).gate(8), other)
    assert report.lost_energy < 0.9 * start.lost_energy


@pytest.mark.parametrize("shape", SHAPES)
def test_logistic_leaves_exact_signs_alone(shape: tuple[int, int]) -> None:
    layer, rows = random_layer(*shape), correlated_rows(300, shape[0])
    full = min(shape)
    report = evaluate(layer, logistic(layer, rows, (full,)).gate(full), rows)
    assert report.recall > 0.995
    assert report.lost_energy < 1e-6


@pytest.mark.parametrize("bias", [-1e3, 1e3, 0.0])
@pytest.mark.parametrize("rows", [correlated_rows(40, 6), np.ones((40, 6)), np.zeros((40, 6))])
def test_logistic_where_there_is_nothing_to_learn(bias: float, rows: np.ndarray) -> None:
    layer = Layer(random_layer(6, 8).weight, np.full(8, bias), RELU)
    fit = logistic(layer, rows, (2, 4))
    assert np.isfinite(fit.u).all() and np.isfinite(fit.v).all() and np.isfinite(fit.offset).all()
    assert evaluate(layer, fit.gate(2), rows).lost_energy < 0.5


def test_logistic_costs_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, rows, _, _ = clustered_problem()
    assert signs._affordable(layer, rows, 8, 20) == (20, len(rows))
    wide = Layer(np.zeros((5000, 5000), np.float32), np.zeros(5000), RELU)
    for n in (800, 8000):
        many = np.broadcast_to(np.float32(0), (n, 5000))
        epochs, count = signs._affordable(wide, many, 256, 20)
        assert 5 <= epochs <= 20 and 257 <= count <= n
        assert count * (2 * 5000**2 + epochs * 4 * 256 * 10_000) <= signs._MOST_WORK
    monkeypatch.setattr(signs, "_MOST_WORK", 2e7)
    first, second = (logistic(layer, rows, (4,), seed=3) for _ in range(2))
    assert first.rows is not None and 5 < first.rows < 1000
    np.testing.assert_array_equal(first.u, second.u)


def extreme_layers() -> list[tuple[str, Layer, np.ndarray]]:
    rng = np.random.default_rng(0)
    low_rank = (rng.normal(size=(60, 4)) @ rng.normal(size=(4, 40))).astype(np.float32)
    plain, rows = random_layer(40, 60), correlated_rows(300, 40)
    far = rows.copy()
    far[5] *= 1e12
    huge = rows.copy()
    huge[3, 2] = 3e38
    return [
        ("a pair of linear layers", Layer(low_rank, np.zeros(60), RELU), rows),
        ("never on", Layer(low_rank, np.full(60, -1e30), RELU), rows),
        ("always on", Layer(low_rank, np.full(60, 1e30), RELU), rows),
        ("one row far off", plain, far),
        ("one value at float32's end", plain, huge),
        ("tiny weights", Layer(low_rank * np.float32(1e-38), np.zeros(60), RELU), rows),
        ("large weights", Layer(low_rank * np.float32(1e36), np.zeros(60), RELU), rows),
        ("tiny rows", Layer(low_rank, np.ones(60), RELU), rows * np.float32(1e-38)),
        (
            "one unit of another size",
            Layer(low_rank * np.geomspace(1e-30, 1e30, 60)[:, None], np.zeros(60), RELU),
            rows,
        ),
        (
            "clipped at nothing",
            Layer(low_rank, np.zeros(60), Activation("clipped_relu", 1e-30)),
            rows,
        ),
    ]


@pytest.mark.parametrize("name", [name for name, *_ in extreme_layers()])
def test_no_finite_input_gives_a_warning(name: str) -> None:
    layer, rows = {name: problem for name, *problem in extreme_layers()}[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = logistic(layer, rows, (2, 4, 8))
        assert np.isfinite(fit.u).all() and np.isfinite(fit.v).all()
        assert np.isfinite(fit.offset).all()


# --- thresholds ---------------------------------------------------------------------------------


def random_gate(inputs: int, outputs: int, rank: int = 1, seed: int = 3) -> Gate:
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(inputs, rank)), rng.normal(size=(rank, outputs))
    return Gate(*factors, rng.normal(size=outputs))


def outputs_of(layer: Layer, rows: np.ndarray) -> np.ndarray:
    """Outputs of a ReLU layer."""
    return np.maximum(pre_activations(layer, rows), 0)


def every_choice(layer: Layer, gate: Gate, rows: np.ndarray) -> list[tuple[int, float]]:
    """Computed units and lost energy of all thresholds that keep half of each unit's energy."""
    energy, ranked = np.square(outputs_of(layer, rows)), scores(gate, rows)
    matters = energy.sum(axis=0) >= 0.03 * energy.sum() / layer.outputs
    by_unit = []
    for unit in range(layer.outputs):
        lowest = [np.inf, *np.unique(ranked[:, unit])]
        sets = [ranked[:, unit] >= score for score in lowest]
        options = [(int(on.sum()), float(energy[~on, unit].sum())) for on in sets]
        most = energy[:, unit].sum() / 2 if matters[unit] else np.inf
        by_unit.append([option for option in options if option[1] <= most])
    return [
        (sum(count for count, _ in choice), sum(lost for _, lost in choice))
        for choice in itertools.product(*by_unit)
    ]


@given(
    seed=st.integers(0, 2**32 - 1),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 4),
    count=st.integers(2, 5),
)
@settings(max_examples=100, deadline=None)
def test_no_other_thresholds_do_better(seed: int, inputs: int, outputs: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(-2, 3, size=(outputs, inputs))
    layer = Layer(weight, rng.integers(-1, 2, size=outputs), RELU)
    rows = rng.integers(-2, 3, size=(count, inputs)).astype(np.float32)  # scores are often equal
    gate = random_gate(inputs, outputs, seed=seed)
    path = ThresholdPath(layer, gate, rows)
    choices = every_choice(layer, gate, rows)
    energy, units = float(np.square(outputs_of(layer, rows)).sum()), count * outputs
    for lost_share, computed_share in zip(path.lost_energy, path.computed_share, strict=True):
        lost, computed = lost_share * energy, round(computed_share * units)
        assert any(c == computed and x == pytest.approx(lost) for c, x in choices)
        assert not any(c < computed and x <= lost + 1e-9 for c, x in choices)
        assert not any(c <= computed and x < lost - 1e-9 for c, x in choices)
        # The gates have the lost energy and computed share of the path on the rows.
        for target in ({"lost_energy": lost_share}, {"computed_share": computed_share}):
            report = evaluate(layer, path.gate(**target), rows)
            assert report.computed_share == pytest.approx(computed_share)
            assert report.lost_energy == pytest.approx(lost_share)
    fewest = min(computed for computed, _ in choices)
    assert path.computed_share[0] == pytest.approx(fewest / units)
    assert path.lost_energy[-1] == 0.0


def test_path_is_what_gates_do() -> None:
    layer, rows, held_out, _ = clustered_problem()
    path = ThresholdPath(layer, whitened(layer, rows).gate(6), held_out)
    assert path.rows == len(held_out)
    assert (np.diff(path.lost_energy) < 0).all()
    assert (np.diff(path.computed_share) > 0).all()
    # The energy saved per computed unit decreases.
    rate = np.diff(path.lost_energy) / np.diff(path.computed_share)
    assert (np.diff(rate) > -1e-9).all()
    for step in range(0, len(path.lost_energy), 100):
        report = evaluate(layer, path.gate(lost_energy=path.lost_energy[step]), held_out)
        assert report.lost_energy == pytest.approx(path.lost_energy[step], rel=1e-5)
        assert report.computed_share == pytest.approx(path.computed_share[step], abs=1e-9)


def test_targets_are_kept_and_nearly_reached() -> None:
    layer, rows, held_out, _ = clustered_problem()
    gate = whitened(layer, rows).gate(8)
    for target in (0.3, 0.1, 0.01, 0.001):
        report = evaluate(
            layer, fit_thresholds(layer, gate, held_out, lost_energy=target), held_out
        )
        assert 0.97 * target < report.lost_energy <= target
    for target in (0.9, 0.5, 0.2, 0.1):
        chosen = fit_thresholds(layer, gate, held_out, computed_share=target)
        report = evaluate(layer, chosen, held_out)
        most = ThresholdPath(layer, gate, held_out).computed_share[-1]
        assert 0.98 * min(target, most) < report.computed_share <= target
    exact = evaluate(layer, fit_thresholds(layer, gate, held_out, lost_energy=0), held_out)
    assert (exact.recall, exact.lost_energy) == (1.0, 0.0)


def test_one_fit_is_a_point_of_the_path() -> None:
    layer, rows, held_out, _ = clustered_problem()
    gate = whitened(layer, rows).gate(4)
    path = ThresholdPath(layer, gate, held_out)
    for target in ({"lost_energy": 0.02}, {"computed_share": 0.2}):
        one = fit_thresholds(layer, gate, held_out, **target)
        np.testing.assert_array_equal(one.bias, path.gate(**target).bias)
        assert one.u is gate.u and one.v is gate.v
    # The previous thresholds of the gate have no effect.
    moved = dataclasses.replace(gate, bias=gate.bias + 5)
    again = fit_thresholds(layer, moved, held_out, computed_share=0.2)
    np.testing.assert_array_equal(again.bias, path.gate(computed_share=0.2).bias)


def test_thresholds_lie_midway_between_scores() -> None:
    layer, rows, held_out, _ = clustered_problem()
    gate = whitened(layer, rows).gate(4)
    chosen = fit_thresholds(layer, gate, held_out, lost_energy=0.02)
    without = dataclasses.replace(gate, bias=np.zeros(60))
    for unit, ranked in enumerate(np.sort(scores(without, held_out), axis=0).T):
        threshold = -float(chosen.bias[unit])
        above = np.searchsorted(ranked, threshold)
        if 0 < above < len(ranked):
            assert threshold == pytest.approx(ranked[above - 1 : above + 1].mean(), abs=1e-6)


def test_thresholds_beat_a_common_one_where_scores_are_biased() -> None:
    layer, _, held_out, other = clustered_problem()
    gate = svd(layer).gate(10)
    before = evaluate(layer, gate, other)
    chosen = fit_thresholds(layer, gate, held_out, computed_share=before.computed_share)
    after = evaluate(layer, chosen, other)
    assert after.computed_share == pytest.approx(before.computed_share, rel=0.05)
    assert after.lost_energy < 0.8 * before.lost_energy


def test_a_unit_that_matters_keeps_half_its_energy() -> None:
    layer, _, held_out, _ = clustered_problem()
    energy = np.square(outputs_of(layer, held_out))
    matters = energy.sum(axis=0) >= 0.03 * energy.sum() / layer.outputs
    assert 10 < matters.sum() < layer.outputs
    gate = random_gate(layer.inputs, layer.outputs, rank=3)  # unrelated to the layer
    for target in ({"lost_energy": 1.0}, {"computed_share": 0.0}, {"lost_energy": 0.6}):
        chosen = fit_thresholds(layer, gate, held_out, **target)
        on = scores(chosen, held_out) > 0
        kept = np.where(on, energy, 0).sum(axis=0) / energy.sum(axis=0)
        assert (kept[matters] >= 0.5 - 1e-6).all()
        assert on.any(axis=0)[matters].all()
    assert not on.any(axis=0)[~matters].all()


def test_a_share_below_what_the_rule_allows() -> None:
    layer, _, held_out, _ = clustered_problem()
    gate = random_gate(layer.inputs, layer.outputs)
    path = ThresholdPath(layer, gate, held_out)
    least = evaluate(layer, path.gate(computed_share=0), held_out).computed_share
    assert least == pytest.approx(path.computed_share[0])
    assert least > 0.05
    assert evaluate(layer, path.gate(lost_energy=1), held_out).computed_share == least


def test_a_unit_that_is_never_positive_is_off_just_above_its_scores() -> None:
    layer, rows, held_out, _ = clustered_problem()
    bias = layer.bias.copy()
    bias[5] = -1e3
    layer = Layer(layer.weight, bias, RELU)
    gate = whitened(layer, rows).gate(6)
    without = dataclasses.replace(gate, bias=np.zeros(60))
    ranked = scores(without, held_out)[:, 5]
    for lost in (0.0, 0.5):
        chosen = fit_thresholds(layer, gate, held_out, lost_energy=lost)
        above = -float(chosen.bias[5]) - ranked.max()
        assert 0 < above < 0.01 * np.ptp(ranked)


@pytest.mark.parametrize("score", [0.0, 1e-30, -3.7, 1e8])
def test_equal_scores_are_all_computed_or_none(score: float) -> None:
    layer = Layer(np.array([[1.0], [-1.0]]), np.array([0.0, -9.0]), RELU)
    gate = Gate(np.zeros((1, 1)), np.zeros((1, 2)), np.full(2, score))
    constant = Gate(np.ones((1, 1)), np.full((1, 2), score), np.zeros(2))
    ones = np.ones((6, 1))
    for one, rows in ((gate, np.array([[1.0], [2.0], [-3.0]])), (constant, ones)):
        on = scores(fit_thresholds(layer, one, rows, lost_energy=0.3), rows) > 0
        assert on[:, 0].all()  # half of its energy must be kept
        assert not on[:, 1].any()  # never positive


def test_thresholds_of_a_layer_without_any_positive_output() -> None:
    layer, rows = Layer(np.zeros((6, 5)), np.full(6, -1), RELU), correlated_rows(20, 5)
    path = ThresholdPath(layer, random_gate(5, 6), rows)
    np.testing.assert_array_equal(path.lost_energy, [0.0])
    np.testing.assert_array_equal(path.computed_share, [0.0])
    assert evaluate(layer, path.gate(lost_energy=0), rows).computed_share == 0.0


@pytest.mark.parametrize(
    "activation", [Activation("clipped_relu", 0.5), Activation("thresholded_relu", -0.25)], ids=str
)
def test_thresholds_for_other_activations(activation: Activation) -> None:
    layer, rows, held_out, _ = clustered_problem(activation)
    gate = whitened(layer, rows).gate(8)
    report = evaluate(layer, fit_thresholds(layer, gate, held_out, lost_energy=0.02), held_out)
    assert 0.0195 < report.lost_energy <= 0.02


def test_units_are_fitted_in_chunks_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, rows, held_out, _ = clustered_problem()
    gate = whitened(layer, rows).gate(8)
    whole = fit_thresholds(layer, gate, held_out, lost_energy=0.02)
    for values in (1, 5000, 40_000):
        set_chunk_values(monkeypatch, values)
        part = fit_thresholds(layer, gate, held_out, lost_energy=0.02)
        np.testing.assert_allclose(part.bias, whole.bias, atol=1e-6)


def lower_hull(lost: np.ndarray) -> list[int]:
    """The corners of the lower convex hull of points (j, lost[j]), by definition."""
    corners = [0]
    while corners[-1] < len(lost) - 1:
        at = corners[-1]
        slopes = (lost[at + 1 :] - lost[at]) / np.arange(1, len(lost) - at)
        corners.append(at + 1 + int(np.flatnonzero(slopes <= slopes.min() + 1e-15)[-1]))
    return corners


@pytest.mark.parametrize("passes", [0, 1, 12])
@pytest.mark.parametrize("n", [2, 3, 50, 600])
def test_corners_are_those_of_the_hull(
    n: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if one steep row hides all earlier rows one by one, with any number of passes."""
    monkeypatch.setattr(hull, "_HULL_PASSES", passes)
    rng = np.random.default_rng(n)
    smooth = np.linspace(2, 1, n) ** 2
    spike = smooth.copy()
    spike[n // 3] = 5 * smooth.sum()
    energies = np.stack([smooth, spike, rng.lognormal(0, 3, n), rng.random(n)])
    ranked = np.tile(np.arange(n, 0, -1.0), (len(energies), 1))
    unit, computed, lost, _ = hull.hull_corners(ranked, energies, np.full(4, np.inf))
    for i, energy in enumerate(energies):
        remains = np.append(np.cumsum(energy[::-1])[::-1], 0.0)
        assert computed[unit == i].tolist() == lower_hull(remains)
        np.testing.assert_allclose(lost[unit == i], remains[computed[unit == i]])


def test_outputs_at_hand_are_used() -> None:
    layer, rows, held_out, _ = clustered_problem()
    gate = whitened(layer, rows).gate(4)
    outputs = outputs_of(layer, held_out).astype(np.float32)
    path = ThresholdPath(layer, gate, held_out, outputs)
    expected = ThresholdPath(layer, gate, held_out)
    target = {"lost_energy": 0.02}
    np.testing.assert_allclose(path.gate(**target).bias, expected.gate(**target).bias, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"^outputs must have shape \(2000, 60\), got \(60, 2000\)$"
    ):
        ThresholdPath(layer, gate, held_out, outputs.T)


def test_held_out_rows_are_not_changed() -> None:
    layer, rows, held_out, _ = clustered_problem()
    before = rows.copy(), held_out.copy()
    gate = logistic(layer, rows, (4,), epochs=1).gate(4)
    fit_thresholds(layer, gate, held_out, lost_energy=0.1)
    np.testing.assert_array_equal(rows, before[0])
    np.testing.assert_array_equal(held_out, before[1])


# --- evaluate -----------------------------------------------------------------------------------


def by_brute_force(layer: Layer, gate: Gate, rows: np.ndarray) -> tuple[float, float, float]:
    active = found = computed = total = 0
    energy = lost = 0.0
    upper = layer.activation.parameters[0] if layer.activation.parameters else None
    for z_row, s_row in zip(pre_activations(layer, rows), scores(gate, rows), strict=True):
        for z, s in zip(z_row, s_row, strict=True):
            y = {
                "relu": lambda z=z: max(z, 0.0),
                "squared_relu": lambda z=z: max(z, 0.0) ** 2,
                "clipped_relu": lambda z=z: min(max(z, 0.0), upper),
                "thresholded_relu": lambda z=z: z if z > upper else 0.0,
            }[layer.activation.name]()
            total, computed = total + 1, computed + (s > 0)
            active, found = active + (y != 0), found + (y != 0 and s > 0)
            energy, lost = energy + y * y, lost + (y * y if s <= 0 else 0.0)
    return (found / active if active else 1.0, computed / total, lost / energy if energy else 0.0)


@given(
    seed=st.integers(0, 2**32 - 1),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    count=st.integers(1, 6),
    activation=st.sampled_from(
        [
            RELU,
            Activation("clipped_relu", 0.5),
            Activation("squared_relu"),
            Activation("thresholded_relu", 0.25),
            Activation("thresholded_relu", -0.25),
        ]
    ),
)
@settings(max_examples=200, deadline=None)
def test_evaluate_counts(
    seed: int, inputs: int, outputs: int, count: int, activation: Activation
) -> None:
    rng = np.random.default_rng(seed)
    layer = random_layer(inputs, outputs, activation, seed)
    rows = rng.integers(-2, 3, size=(count, inputs)).astype(np.float32)
    gate = Gate(
        rng.normal(size=(inputs, 1)), rng.normal(size=(1, outputs)), rng.normal(size=outputs)
    )
    report = evaluate(layer, gate, rows)
    expected = by_brute_force(layer, gate, rows)
    assert (report.recall, report.computed_share) == expected[:2]
    assert report.lost_energy == pytest.approx(expected[2], rel=1e-9, abs=1e-12)
    assert (report.rows, report.rank) == (count, 1)


def gate_of(layer: Layer, bias: float) -> Gate:
    shape = (layer.inputs, layer.outputs)
    return Gate(np.zeros((shape[0], 1)), np.zeros((1, shape[1])), np.full(shape[1], bias))


def test_all_or_nothing_computed() -> None:
    layer, rows = random_layer(5, 6), correlated_rows(20, 5)
    report = evaluate(layer, gate_of(layer, 1), rows)
    assert (report.recall, report.computed_share, report.lost_energy) == (1.0, 1.0, 0.0)
    report = evaluate(layer, gate_of(layer, -1), rows)
    assert (report.recall, report.computed_share, report.lost_energy) == (0.0, 0.0, 1.0)
    report = evaluate(layer, gate_of(layer, 0), rows)  # a score of exactly 0 is not computed
    assert report.computed_share == 0.0


@pytest.mark.parametrize("bias", [-1, 1])
def test_a_layer_without_any_positive_output(bias: float) -> None:
    layer = Layer(np.zeros((6, 5)), np.full(6, -1), RELU)
    report = evaluate(layer, gate_of(layer, bias), correlated_rows(20, 5))
    assert (report.recall, report.lost_energy) == (1.0, 0.0)


def test_report_as_text() -> None:
    report = estimators.GateReport(0.86123, 0.14321, 0.006149, 10_000, 32)
    assert str(report) == (
        "rank 32: recall 0.8612, computed share 0.1432, lost energy 0.00615 (10000 rows)"
    )


# --- refusals -----------------------------------------------------------------------------------

LAYER = random_layer(10, 20)
GATE = svd(LAYER).gate(2)
ROWS = correlated_rows(50, 10)


def rows_with(value: float, row: int) -> np.ndarray:
    rows = ROWS.astype(np.float64)
    rows[row, 3] = value
    return rows


def layer_with(value: float) -> Layer:
    weight = LAYER.weight.copy()
    weight[1, 2] = value
    return Layer(weight, LAYER.bias, RELU)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: svd(LAYER).gate(0), ValueError, "rank must be from 1 to 10, got 0"),
        (lambda: svd(LAYER).gate(11), ValueError, "rank must be from 1 to 10, got 11"),
        (lambda: svd(LAYER).gate(-3), ValueError, "rank must be from 1 to 10, got -3"),
        (lambda: svd(LAYER).gate(2.0), TypeError, "rank must be an integer, got 2.0"),  # type: ignore[arg-type]
        (lambda: svd(LAYER).gate("2"), TypeError, "rank must be an integer, got '2'"),  # type: ignore[arg-type]
        (lambda: svd(LAYER).gate(True), TypeError, "rank must be an integer, got True"),
        (
            lambda: svd(LAYER).gate(2, np.zeros(3)),
            ValueError,
            "threshold must have shape () or (20,), got (3,)",
        ),
        (
            lambda: svd(LAYER).gate(2, np.inf),
            ValueError,
            "threshold must be finite, got inf",
        ),
        (
            lambda: svd(LAYER).gate(2, "high"),  # type: ignore[arg-type]
            TypeError,
            "threshold must be real numbers, got dtype <U4",
        ),
        (
            lambda: svd(LAYER).gate(2, 1e300),
            ValueError,
            "bias must fit float32, got -1e+300 at index 0",
        ),
        (
            lambda: whitened(LAYER, ROWS[:6]).gate(6),
            ValueError,
            "rank 6 needs at least 7 rows, got 6",
        ),
        (
            lambda: whitened(LAYER, ROWS[:6]).gate(11),
            ValueError,
            "rank must be from 1 to 10, got 11",
        ),
        (
            lambda: whitened(LAYER, ROWS[:1]),
            ValueError,
            "whitened needs at least 2 rows, got 1",
        ),
        (
            lambda: whitened(LAYER, np.zeros((0, 10))),
            ValueError,
            "whitened needs at least 2 rows, got 0",
        ),
        (
            lambda: evaluate(LAYER, GATE, np.zeros((0, 10))),
            ValueError,
            "evaluate needs at least 1 row, got 0",
        ),
        (
            lambda: whitened(LAYER, rows_with(np.nan, 17)),
            ValueError,
            "inputs must hold finite float32 values, got nan in row 17",
        ),
        (
            lambda: evaluate(LAYER, GATE, rows_with(-np.inf, 49)),
            ValueError,
            "inputs must hold finite float32 values, got -inf in row 49",
        ),
        (
            lambda: whitened(LAYER, rows_with(1e200, 3)),
            ValueError,
            "inputs must hold finite float32 values, got 1e+200 in row 3",
        ),
        (
            lambda: whitened(LAYER, ROWS[:, :9]),
            ValueError,
            "inputs must have shape (n, 10), got (50, 9)",
        ),
        (
            lambda: whitened(LAYER, ROWS[0]),
            ValueError,
            "inputs must have shape (n, 10), got (10,)",
        ),
        (
            lambda: whitened(LAYER, ROWS.astype(complex)),
            TypeError,
            "inputs must be an array of real numbers, got dtype complex128",
        ),
        (
            lambda: evaluate(LAYER, GATE, ROWS.astype(object)),
            TypeError,
            "inputs must be an array of real numbers, got dtype object",
        ),
        (
            lambda: evaluate(LAYER, svd(random_layer(9, 20)).gate(2), ROWS),
            ValueError,
            "gate must be of 10 inputs and 20 units, got 9 and 20",
        ),
        (
            lambda: evaluate(LAYER, svd(LAYER), ROWS),  # type: ignore[arg-type]
            TypeError,
            "gate must be of type Gate, got Estimate",
        ),
        (
            lambda: svd(LAYER.weight),  # type: ignore[arg-type]
            TypeError,
            "layer must be of type Layer, got ndarray",
        ),
        (lambda: svd(layer_with(np.nan)), ValueError, "weight must be finite, got nan"),
        (lambda: whitened(layer_with(np.inf), ROWS), ValueError, "weight must be finite, got inf"),
        (
            lambda: svd(Layer(np.zeros((0, 3)), np.zeros(0), RELU)),
            ValueError,
            "weight must not be empty, got shape (0, 3)",
        ),
        (lambda: svd(LAYER, 0), ValueError, "max_rank must be from 1 to 10, got 0"),
        (lambda: svd(LAYER, 2.5), TypeError, "max_rank must be an integer, got 2.5"),  # type: ignore[arg-type]
        (lambda: whitened(LAYER, ROWS, 11), ValueError, "max_rank must be from 1 to 10, got 11"),
        (
            lambda: logistic(LAYER, ROWS, ()),
            ValueError,
            "ranks must have at least one rank, got 0",
        ),
        (
            lambda: logistic(LAYER, ROWS, 4),  # type: ignore[arg-type]
            TypeError,
            "ranks must be a sequence of integers, got 4",
        ),
        (
            lambda: logistic(LAYER, ROWS, (4, 2.5)),  # type: ignore[arg-type]
            TypeError,
            "ranks[1] must be an integer, got 2.5",
        ),
        (
            lambda: logistic(LAYER, ROWS, "48"),  # type: ignore[arg-type]
            TypeError,
            "ranks[0] must be an integer, got '4'",
        ),
        (
            lambda: logistic(LAYER, ROWS, (4, 11, 2)),
            ValueError,
            "ranks[1] must be from 1 to 10, got 11",
        ),
        (lambda: logistic(LAYER, ROWS, (0,)), ValueError, "ranks[0] must be from 1 to 10, got 0"),
        (
            lambda: logistic(LAYER, ROWS[:8], (2, 8)),
            ValueError,
            "rank 8 needs at least 9 rows, got 8",
        ),
        (
            lambda: logistic(LAYER, rows_with(np.nan, 17), (2,)),
            ValueError,
            "inputs must hold finite float32 values, got nan in row 17",
        ),
        (
            lambda: logistic(LAYER, rows_with(np.inf, 17), (2,), start=svd(LAYER)),
            ValueError,
            "inputs must hold finite float32 values, got inf in row 17",
        ),
        (
            lambda: logistic(LAYER, ROWS, (2,), start=GATE),  # type: ignore[arg-type]
            TypeError,
            "start must be of type Estimate, got Gate",
        ),
        (
            lambda: logistic(LAYER, ROWS, (2,), start=svd(random_layer(9, 20))),
            ValueError,
            "start must be of 10 inputs and 20 units, got 9 and 20",
        ),
        (
            lambda: logistic(LAYER, ROWS, (2, 8), start=whitened(LAYER, ROWS[:6])),
            ValueError,
            "start must have a max_rank of at least 8, got 5",
        ),
        (
            lambda: logistic(LAYER, ROWS, (2,), seed=-1),
            ValueError,
            "seed must be at least 0, got -1",
        ),
        (
            lambda: logistic(LAYER, ROWS, (2,), epochs=0),
            ValueError,
            "epochs must be at least 1, got 0",
        ),
        (
            lambda: fit_thresholds(LAYER, GATE, ROWS),
            ValueError,
            "expected either lost_energy or computed_share, got neither",
        ),
        (
            lambda: fit_thresholds(LAYER, GATE, ROWS, lost_energy=0.1, computed_share=0.1),
            ValueError,
            "expected either lost_energy or computed_share, got both",
        ),
        (
            lambda: fit_thresholds(LAYER, GATE, ROWS, lost_energy=1.5),
            ValueError,
            "lost_energy must be from 0 to 1, got 1.5",
        ),
        (
            lambda: fit_thresholds(LAYER, GATE, ROWS, computed_share=np.nan),
            ValueError,
            "computed_share must be from 0 to 1, got nan",
        ),
        (
            lambda: fit_thresholds(LAYER, GATE, ROWS, computed_share="0.1"),  # type: ignore[arg-type]
            TypeError,
            "computed_share must be a number, got '0.1'",
        ),
        (
            lambda: fit_thresholds(LAYER, GATE, ROWS, lost_energy=True),
            TypeError,
            "lost_energy must be a number, got True",
        ),
        (
            lambda: fit_thresholds(LAYER, GATE, ROWS[:1], lost_energy=0.1),
            ValueError,
            "a fit of thresholds needs at least 2 rows, got 1",
        ),
        (
            lambda: fit_thresholds(LAYER, GATE, rows_with(np.nan, 3), lost_energy=0.1),
            ValueError,
            "inputs must hold finite float32 values, got nan in row 3",
        ),
        (
            lambda: fit_thresholds(LAYER, svd(LAYER), ROWS, lost_energy=0.1),  # type: ignore[arg-type]
            TypeError,
            "gate must be of type Gate, got Estimate",
        ),
        (
            lambda: ThresholdPath(LAYER, svd(random_layer(10, 9)).gate(2), ROWS),
            ValueError,
            "gate must be of 10 inputs and 20 units, got 10 and 9",
        ),
        (
            lambda: ThresholdPath(LAYER, dataclasses.replace(GATE, u=GATE.u * np.nan), ROWS),
            ValueError,
            "gate.u must be finite, got nan",
        ),
    ],
)
def test_refusals(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as info:
        call()
    assert str(info.value) == message


@pytest.mark.parametrize("name", ["identity", "leaky_relu", "tanh", "sigmoid", "gelu", "softmax"])
def test_activations_without_a_hard_zero(name: str) -> None:
    layer = random_layer(10, 20, Activation(name))
    for call in (
        lambda: svd(layer),
        lambda: whitened(layer, ROWS),
        lambda: logistic(layer, ROWS, (2,)),
        lambda: fit_thresholds(layer, GATE, ROWS, lost_energy=0.1),
        lambda: evaluate(layer, GATE, ROWS),
    ):
        with pytest.raises(ValueError, match="a gate needs") as info:
            call()
        expected = f"a gate needs relu, clipped_relu, thresholded_relu or squared_relu, got {name}"
        assert str(info.value) == expected


def test_ragged_rows() -> None:
    with pytest.raises(TypeError, match=r"^inputs must be an array of real numbers: "):
        whitened(LAYER, [[1.0], [1.0, 2.0]])  # type: ignore[arg-type]


def test_rank_is_bounded_by_the_rows() -> None:
    fit = whitened(LAYER, ROWS[:6])
    assert fit.max_rank == 5
    assert repr(fit) == "Estimate(whitened, 10 -> 20, max_rank 5)"
    # Six rows span five directions around their mean, so they are estimated exactly.
    assert squared_error(LAYER, fit.gate(5), ROWS[:6]) < 1e-8


# --- factors ------------------------------------------------------------------------------------


def product_of(factors: Factors, rows: Any) -> Any:
    u, v, bias = (np.float64(array) for array in (factors.u, factors.v, factors.bias))
    return np.float64(rows) @ u @ v + bias


@pytest.mark.parametrize("activation", [RELU, Activation("tanh"), Activation("identity")])
def test_factors_are_the_best_low_rank_fit(activation: Activation) -> None:
    layer, rows = random_layer(10, 15), correlated_rows(200, 10)
    layer = Layer(layer.weight, layer.bias, activation)
    z = np.float64(rows) @ np.float64(layer.weight.T) + layer.bias
    fit = factored(layer, rows)
    values = np.linalg.svd(z - z.mean(axis=0), compute_uv=False)
    for rank in (1, 4, 10):
        error = np.square(product_of(fit.factors(rank), rows) - z).sum()
        assert error == pytest.approx(np.square(values[rank:]).sum(), abs=1e-6 * np.square(z).sum())


def test_factors_of_a_lower_rank_are_the_first_of_a_higher_one() -> None:
    layer, rows = random_layer(10, 15), correlated_rows(200, 10)
    fit = factored(layer, rows, max_rank=6)
    small, large = fit.factors(2), fit.factors(6)
    np.testing.assert_array_equal(small.u, large.u[:, :2])
    np.testing.assert_array_equal(small.v, large.v[:2])
    with pytest.raises(ValueError, match="rank must be from 1 to 6, got 7"):
        fit.factors(7)


def test_a_nested_gate_is_the_first_factors() -> None:
    layer, rows = random_layer(10, 15), correlated_rows(200, 10)
    fit = factored(layer, rows)
    gate = fit_thresholds(layer, fit.gate(3), correlated_rows(100, 10), lost_energy=0.01)
    factors = fit.factors(5, gate)
    assert factors.gate is not None and (factors.rank, factors.gate.rank) == (5, 3)
    np.testing.assert_array_equal(factors.gate.v, factors.v[:3])
    np.testing.assert_array_equal(factors.gate.bias, gate.bias)
    for other in (whitened(layer, rows[:100]).gate(3), fit.gate(6)):
        with pytest.raises(ValueError, match="gate must be cut from this fit, with a rank of"):
            fit.factors(5, other)


def test_factors_have_no_threshold() -> None:
    """A thresholded ReLU compares the pre-activation itself with its threshold."""
    layer, rows = random_layer(10, 15), correlated_rows(200, 10)
    switched = Layer(layer.weight, layer.bias, Activation("thresholded_relu", 0.5))
    plain, other = factored(layer, rows), factored(switched, rows)
    np.testing.assert_allclose(other.factors(4).bias, plain.factors(4).bias, atol=1e-6)
    np.testing.assert_allclose(other.gate(4).bias, plain.gate(4).bias - 0.5, atol=1e-6)


def test_a_network_runs_with_the_factors_of_all_ranks() -> None:
    layer, rows = random_layer(12, 20), correlated_rows(300, 12)
    net = Network.from_layers([layer, random_layer(20, 3)], ["relu", "identity"])
    full = net.with_factors({0: factored(layer, rows).factors(12)})
    np.testing.assert_allclose(full(rows), net(rows), atol=1e-4)
    errors = [
        np.square(
            net.with_factors({0: factored(layer, rows).factors(rank)})(rows) - net(rows)
        ).sum()
        for rank in (1, 4, 8)
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] > 0

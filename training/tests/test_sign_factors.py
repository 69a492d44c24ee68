"""Fits of sign estimates, against independent computations on small layers."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="training needs PyTorch")

import torch

import factors
import model


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def product(fitted: factors.Factors) -> torch.Tensor:
    return fitted.up @ fitted.down


def decaying(units: int, inputs: int) -> torch.Tensor:
    """A weight whose singular values fall by a third each, so that subspaces are well defined."""
    rank = min(units, inputs)
    left = torch.linalg.qr(torch.randn(units, rank))[0]
    right = torch.linalg.qr(torch.randn(inputs, rank))[0]
    return left * 1.5 ** -torch.arange(rank) @ right.T


@pytest.mark.parametrize(("units", "inputs"), [(9, 14), (14, 9), (1, 5)])
def test_svd_is_the_truncated_decomposition(units: int, inputs: int) -> None:
    weight = decaying(units, inputs)
    left, singular, right = torch.linalg.svd(weight, full_matrices=False)
    for rank in range(1, min(units, inputs) + 1):
        fitted = factors.svd(weight, rank)
        assert fitted.down.shape == (rank, inputs)
        assert fitted.up.shape == (units, rank)
        expected = left[:, :rank] * singular[:rank] @ right[:rank]
        torch.testing.assert_close(product(fitted), expected, atol=1e-5, rtol=0)
        assert torch.all(fitted.offset == 0)


def test_subspace_steps_reach_the_decomposition_of_moved_weights() -> None:
    old = decaying(30, 20)
    new = old + 0.005 * torch.randn(30, 20)
    target = product(factors.svd(new, 4))
    fitted = factors.svd(old, 4)
    errors = []
    for _ in range(20):
        fitted = factors.subspace_step(new, fitted)
        errors.append(float((product(fitted) - target).norm()))
    assert errors[0] < float((product(factors.svd(old, 4)) - target).norm())
    assert errors[-1] < 0.01 * errors[0]


def test_projection_is_the_best_for_its_input_space() -> None:
    old = decaying(30, 20)
    new = old + 0.05 * torch.randn(30, 20)
    start = factors.svd(old, 4)
    fitted = factors.project(new, start)
    assert fitted.down is start.down
    best = torch.linalg.lstsq(start.down.T, new.T).solution.T
    torch.testing.assert_close(fitted.up, best, atol=1e-5, rtol=0)
    assert (new - product(fitted)).norm() < (new - product(start)).norm()


def layer_rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows (500, 12) with a mean and with directions of unequal size, a weight, a bias."""
    rows = torch.randn(500, 12) * torch.linspace(0.2, 3, 12) + 0.5
    return rows, torch.randn(20, 12) / 4, torch.randn(20) - 0.5


def test_whitened_has_the_smallest_error_on_its_rows() -> None:
    rows, weight, bias = layer_rows()
    z = rows @ weight.T + bias
    errors = []
    for rank in (1, 4, 12):
        fitted = factors.whitened(z, weight, bias, rank)
        errors.append(float((fitted.estimate(rows, bias) - z).square().sum()))
        tail = torch.linalg.svdvals(z - z.mean(dim=0))[rank:].square().sum()
        assert errors[-1] == pytest.approx(float(tail), rel=1e-3, abs=1e-4)
    assert errors[0] > errors[1] > errors[2]


def test_logistic_loses_less_energy_at_no_more_computed_units() -> None:
    rows, weight, bias = layer_rows()
    z = rows @ weight.T + bias
    start = factors.whitened(z, weight, bias, 3)
    fitted = factors.logistic(rows, z, bias, start)
    lost, computed = [], []
    for one in (start, fitted):
        scores = one.estimate(rows, bias)
        # At an equal share: the highest scores of each fit.
        kept = scores > scores.flatten().kthvalue(round(0.6 * scores.numel())).values
        lost.append(float(z.clamp(min=0).square()[~kept].sum()))
        computed.append(float((scores > 0).float().mean()))
    assert lost[1] < 0.9 * lost[0]
    assert computed[1] == pytest.approx(computed[0], abs=0.1)
    again = factors.logistic(rows, z, bias, start)
    assert torch.equal(product(again), product(fitted))


def test_hard_gate_passes_the_slope_of_a_sigmoid() -> None:
    score = torch.tensor([-3.0, -0.1, 0.0, 0.2, 5.0], requires_grad=True)
    mask = model.HardGate.apply(score)
    assert mask.tolist() == [0, 0, 0, 1, 1]
    mask.sum().backward()
    soft = torch.sigmoid(score.detach() / model.GATE_WIDTH)
    torch.testing.assert_close(score.grad, soft * (1 - soft) / model.GATE_WIDTH)


def test_trained_factors_learn_from_the_loss_and_others_do_not() -> None:
    network = model.MaskedMLP([12, 9, 3], init_std=0.5)
    rows = torch.rand(40, 12)
    for estimator, learns in (("whitened", False), ("logistic", False), ("trained", True)):
        network.fit_factors(estimator, (3,), rows)
        network(rows)[0].square().sum().backward()
        fitted = network.factors[0]
        assert fitted.down.requires_grad == learns
        if learns:
            for tensor in (fitted.down, fitted.up, fitted.offset):
                assert float(tensor.grad.abs().sum()) > 0


def test_later_layers_are_fitted_on_masked_outputs() -> None:
    network = model.MaskedMLP([12, 9, 8, 3], init_std=0.5)
    rows = torch.rand(40, 12)
    network.fit_factors("whitened", (1, 2), rows)
    with torch.no_grad():
        masked = network.hidden(0, rows).output
        unmasked = network.hidden(0, rows, masked=False).output
    assert not torch.equal(masked, unmasked)
    weight, bias = network.weights[1].detach(), network.biases[1].detach()
    expected = factors.whitened(masked @ weight.T + bias, weight, bias, 2)
    torch.testing.assert_close(product(network.factors[1]), product(expected))


def test_dropout_keeps_its_share_and_the_mean() -> None:
    ones = torch.ones(300, 401)
    for share in (0.2, 0.5):
        dropped = model.drop(ones, share)
        kept = dropped[dropped > 0]
        assert len(kept) / ones.numel() == pytest.approx(1 - share, abs=0.005)
        assert float(kept.min()) == pytest.approx(1 / (1 - share), rel=1e-4)
        assert torch.all(kept == kept[0])
    # Neither neighbours nor units of one row are dropped together.
    pattern = (model.drop(ones, 0.5) > 0).float()
    for shift in (1, 2, 3, 4):
        both = (pattern[:, shift:] * pattern[:, :-shift]).mean()
        assert float(both) == pytest.approx(0.25, abs=0.01)

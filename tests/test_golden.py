"""Replays networks that PyTorch computed in float64 (training/make_goldens.py), layer by layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrgate
from oracle import assert_close, forward

pytestmark = pytest.mark.isa

FILES = sorted((Path(__file__).parent / "golden").glob("*.npz"))


@pytest.fixture(params=FILES, ids=[path.stem for path in FILES])
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    with np.load(request.param, allow_pickle=False) as arrays:
        return dict(arrays)


def network(golden: dict[str, Any]) -> lrgate.Network:
    activations = json.loads(str(golden["activations"]))
    layers = [
        (golden[f"layers.{i}.weight"], golden[f"layers.{i}.bias"]) for i in range(len(activations))
    ]
    return lrgate.Network.from_layers(layers, activations)


def test_there_is_one_for_each_activation() -> None:
    names = set()
    for path in FILES:
        with np.load(path, allow_pickle=False) as arrays:
            names |= {activation["name"] for activation in json.loads(str(arrays["activations"]))}
    assert names == {
        "identity", "relu", "clipped_relu", "thresholded_relu", "leaky_relu", "tanh", "sigmoid",
        "gelu", "softmax",
    }  # fmt: skip


@pytest.mark.parametrize("strategy", ["dense", "skip"])
def test_every_layer_is_pytorchs(golden: dict[str, Any], strategy: str) -> None:
    net = network(golden)
    net = net.with_strategies([strategy] * len(net.layers))
    x = golden["x"]
    for n in (len(x), 1):
        outputs = [*net.layer_inputs(x[:n])[1:], net(x[:n])]
        bounds = [bound for _, bound in forward(net, x[:n])]
        for i, (got, bound) in enumerate(zip(outputs, bounds, strict=True)):
            expected = golden[f"layers.{i}.output"][:n]
            largest = float(np.abs(got - expected).max())
            print(f"{strategy}, {n} rows, layer {i}: largest difference {largest:.2e}")
            assert_close(got, (expected, bound), f"layer {i}")
    np.testing.assert_array_equal(golden["y"], golden[f"layers.{len(net.layers) - 1}.output"])


def test_a_gate_of_full_rank_drops_nothing_that_matters() -> None:
    """The estimate is the layer itself, so wrong predictions are within rounding of zero."""
    compared = 0
    for path in FILES:
        with np.load(path, allow_pickle=False) as arrays:
            golden = dict(arrays)
        net = network(golden)
        gates = {
            i: lrgate.estimators.svd(layer).gate(min(layer.inputs, layer.outputs))
            for i, layer in enumerate(net.layers[:-1])
            if layer.activation.name in ("relu", "clipped_relu")
        }
        if gates:
            net = net.with_gates(gates)
            assert net.plan_for().strategies[0] == "gate"
            difference = np.abs(net(golden["x"]) - golden["y"]).max()
            print(f"{path.stem}, gate: largest difference {difference:.2e}")
            assert difference <= 1e-4 * max(np.abs(golden["y"]).max(), 1)
            compared += 1
    assert compared >= 4

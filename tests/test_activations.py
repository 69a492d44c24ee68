"""Every activation: forms, bounds, files, and outputs against the float64 formula and torch."""

from __future__ import annotations

import copy
import json
import os
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lrgate
import oracle
from lrgate import Activation
from lrgate.files import FileFormatError, load, save
from lrgate.model import Layer, Model
from lrgate.model.functions import FUNCTIONS
from lrgate.planner.kept import kept_layers
from lrgate.planner.merging import merged
from lrgate.planner.units import proven_dead

# All activations, with parameters that are not the default where there are any.
PARAMETERS: dict[str, list[tuple[Any, ...]]] = {
    "clipped_relu": [(0.75,), (6.0,)],
    "thresholded_relu": [(0.25,), (-0.25,)],
    "leaky_relu": [(0.125,), (-1.5,)],
    "prelu": [(0.25,)],
    "hard_tanh": [(), (-0.25, 0.5), (0.5, 2.0)],
    "elu": [(), (0.5,), (-0.5,)],
}
ALL = [Activation(name, *p) for name in FUNCTIONS for p in PARAMETERS.get(name, [()])]
BY_UNIT = [*ALL, Activation("prelu", np.linspace(-1.5, 1.5, 80))]
INT8_ROWS = 200


def of_width(activation: Activation, units: int) -> Activation:
    """The activation for a layer of that width."""
    return activation.of_units(np.arange(units) * 7 % 80)


def network(hidden: Activation, last: Activation, widths: tuple[int, ...] = (33, 70, 17)) -> Any:
    rng = np.random.default_rng(3)
    layers = []
    for i, (d, h) in enumerate(pairwise(widths)):
        kind = of_width(last if i == len(widths) - 2 else hidden, h)
        weight = rng.normal(size=(h, d)) / d**0.5
        layers.append(Layer(weight, rng.normal(size=h) / 4, kind))
    return lrgate.Network.from_layers(layers, task="regression")


def repickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - written here


# --- outputs ------------------------------------------------------------------------------------


@pytest.mark.isa
@pytest.mark.parametrize("activation", BY_UNIT, ids=str)
@pytest.mark.parametrize("place", ["hidden", "last"])
def test_outputs_are_within_the_bound(activation: Activation, place: str) -> None:
    identity = Activation("identity")
    pair = (activation, identity) if place == "hidden" else (Activation("relu"), activation)
    net = oracle.gated(network(*pair, widths=(33, 70, 17, 5)))
    for strategy in ("dense", "skip", "gate"):
        gates = [strategy != "gate" or layer.gate is not None for layer in net.layers]
        names = tuple(strategy if good else "skip" for good in gates)
        planned = net.with_strategies(names)
        for n in (1, 3, 64):
            x = oracle.rows(n, 33)
            oracle.assert_close(planned(x), oracle.forward(net, x, names)[-1], f"{strategy} {n}")


@pytest.mark.isa
@pytest.mark.parametrize("activation", BY_UNIT, ids=str)
def test_int8_is_near(activation: Activation) -> None:
    """As hidden layer and as last layer, in every precision and for all numbers of rows."""
    x = oracle.rows(INT8_ROWS, 33, seed=4)
    last = Activation("identity") if activation.mixes_units else activation
    net = network(activation, last)
    with_int8 = net.quantize(x)
    expected = net(x).astype(np.float64)
    spread = np.maximum(np.ptp(expected), 1e-3)
    for precisions in (("int8", "int8"), ("f32", "int8"), ("int8", "f32")):
        if any(
            p == "int8" and layer.quantization is None
            for p, layer in zip(precisions, with_int8.layers, strict=True)
        ):
            continue
        for strategy in ("dense", "skip"):
            planned = with_int8.with_strategies([strategy] * 2, precisions)
            for n in (1, 3, 64):
                errors = np.abs(planned(x[:n]) - expected[:n])
                jumps = activation.name == "thresholded_relu"  # an output may be lost
                assert (errors.mean() if jumps else errors.max()) < 0.06 * spread


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_gates_of_squared_relu(precision: str) -> None:
    """A gate skips units, and with a gate that lets all through, nothing changes."""
    x = oracle.rows(400, 33, seed=5)
    net = network(Activation("squared_relu"), Activation("identity"))
    layer = net.layers[0]
    estimate = lrgate.estimators.logistic(layer, x, (24,), epochs=3)
    gate = lrgate.estimators.fit_thresholds(layer, estimate.gate(24), x, lost_energy=0.001)
    report = lrgate.estimators.evaluate(layer, gate, x)
    assert report.lost_energy <= 0.0011
    assert report.computed_share < 0.9
    fast = net.with_gates({0: gate}).quantize(x)
    off = fast.with_strategies(["dense", "skip"], precision)
    on = fast.with_strategies(["gate", "skip"], precision)
    spread = np.square(net(x) - net(x).mean(axis=0)).mean()
    assert np.square(on(x) - off(x)).mean() < 0.01 * spread
    open_gate = lrgate.Gate(gate.u, 0 * gate.v, np.ones_like(gate.bias), gate.range)
    all_on = net.with_gates({0: open_gate}).quantize(x).with_strategies(["gate", "skip"], "f32")
    dense = net.with_strategies(["skip", "skip"])
    np.testing.assert_allclose(all_on(x), dense(x), rtol=1e-4, atol=1e-5)


def test_optimize_prunes_and_gates_squared_relu() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((600, 20)).astype(np.float32)
    weight = rng.normal(size=(60, 20)) / 4
    bias = np.where(np.arange(60) < 20, -30.0, 0.0)  # off for every row of the range
    layers = [(weight, bias), (rng.normal(size=(3, 60)) / 8, np.zeros(3))]
    net = lrgate.Network.from_layers(layers, "squared_relu", input_range=(0.0, 1.0))
    fast = lrgate.optimize(net, x, max_error_increase=0.0)
    kept = fast.layers[0].kept_units
    assert kept is not None
    assert set(kept.tolist()) <= set(range(20, 60))
    np.testing.assert_allclose(fast(x), net(x), rtol=1e-4, atol=1e-4)


def test_log_softmax_is_a_classifier() -> None:
    rng = np.random.default_rng(1)
    layers = [(rng.normal(size=(8, 5)), np.zeros(8)), (rng.normal(size=(3, 8)), np.zeros(3))]
    logs = lrgate.Network.from_layers(layers, ["relu", "log_softmax"], classes=["a", "b", "c"])
    soft = lrgate.Network.from_layers(layers, ["relu", "softmax"], classes=["a", "b", "c"])
    x = rng.normal(size=(50, 5)).astype(np.float32)
    undeclared = lrgate.Network.from_layers(layers, ["relu", "log_softmax"])
    assert (logs.task, undeclared.task) == ("classification", "classification")
    assert (logs.predict(x) == soft.predict(x)).all()
    np.testing.assert_allclose(logs.predict_proba(x), soft.predict_proba(x), rtol=3e-6)
    np.testing.assert_allclose(np.exp(logs(x)), logs.predict_proba(x), rtol=3e-6)
    np.testing.assert_allclose(logs.predict_proba(x).sum(axis=1), 1, rtol=3e-6)
    with pytest.raises(ValueError, match="if the last activation is log_softmax"):
        lrgate.Network.from_layers(layers, ["relu", "log_softmax"], task="multilabel")
    with pytest.raises(ValueError, match="log_softmax alone would be that of all layers"):
        lrgate.Network.from_layers(layers, "log_softmax")


@pytest.mark.usefixtures("short_times")
def test_optimize_and_int8_of_log_softmax() -> None:
    rng = np.random.default_rng(2)
    layers = [(rng.normal(size=(40, 10)), np.zeros(40)), (rng.normal(size=(4, 40)), np.zeros(4))]
    x = rng.normal(size=(500, 10)).astype(np.float32)
    reports = []
    for last in ("softmax", "log_softmax"):
        net = lrgate.Network.from_layers(layers, ["relu", last])
        report = net.quantize(x).quantization_report
        assert report is not None
        reports.append((report.changed, report.difference))
        fast = lrgate.optimize(net, x, max_error_increase=0.02)
        assert (fast.predict(x) != net.predict(x)).mean() < 0.1
    np.testing.assert_allclose(reports[0], reports[1], rtol=0.05, atol=1e-4)


def test_exp_is_a_regressor() -> None:
    net = lrgate.Network.from_layers([(np.eye(2), np.zeros(2))], ["exp"])
    assert net.task == "regression"
    np.testing.assert_allclose(net.predict(np.float32([[0, 1]])), [[1, np.e]], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "z", "expected"),
    [
        ("softplus", [100.0, -200.0], [100.0, 0.0]),
        ("silu", [-200.0, 200.0], [0.0, 200.0]),
        ("mish", [-200.0, 3e38], [0.0, np.float32(3e38)]),
        ("gelu_tanh", [-3e38, 3e38], [0.0, np.float32(3e38)]),
        ("hard_swish", [-3e38, 3e38], [0.0, np.float32(3e38)]),
        ("log_softmax", [3e38, -3e38], [0.0, -np.inf]),
        ("exp", [-200.0, 200.0], [0.0, np.inf]),
    ],
)
def test_extreme_values(name: str, z: list[float], expected: list[float]) -> None:
    net = lrgate.Network.from_layers([(np.zeros((2, 1)), np.float32(z))], [name])
    np.testing.assert_array_equal(net(np.float32([[0.0]])), [np.float32(expected)])
    with np.errstate(over="ignore"):
        got = Activation(name).apply(z).astype(np.float32)
    np.testing.assert_array_equal(got, np.float32(expected))


# --- torch --------------------------------------------------------------------------------------


def test_torch_modules_agree() -> None:
    if not os.environ.get("LRGATE_REQUIRE_TORCH"):
        pytest.importorskip("torch")
    import torch

    nn = torch.nn
    prelu = nn.PReLU(7)
    with torch.no_grad():
        prelu.weight.copy_(torch.linspace(-1, 1, 7))
    pairs = [
        (nn.ELU(), Activation("elu")),
        (nn.ELU(0.5), Activation("elu", 0.5)),
        (nn.SELU(), Activation("selu")),
        (nn.SiLU(), Activation("silu")),
        (nn.Softplus(beta=1, threshold=20), Activation("softplus")),
        (nn.Mish(), Activation("mish")),
        (nn.Hardtanh(), Activation("hard_tanh")),
        (nn.Hardtanh(-2.0, 0.5), Activation("hard_tanh", -2, 0.5)),
        (nn.Hardsigmoid(), Activation("hard_sigmoid")),
        (nn.Hardswish(), Activation("hard_swish")),
        (nn.PReLU(), Activation("prelu", 0.25)),
        (prelu, Activation("prelu", prelu.weight.detach().float().numpy())),
        (nn.LogSoftmax(dim=1), Activation("log_softmax")),
        (nn.GELU(), Activation("gelu")),
        (nn.GELU(approximate="tanh"), Activation("gelu_tanh")),
        (nn.ReLU6(), Activation("clipped_relu", 6)),
    ]
    x = (np.random.default_rng(0).normal(size=(500, 7)) * 4).astype(np.float32)
    for module, activation in pairs:
        net = lrgate.Network.from_layers([Layer(np.eye(7), np.zeros(7), activation)])
        with torch.no_grad():
            expected = module.double()(torch.from_numpy(x).double()).numpy()
        # Softplus is z itself above the threshold, and the slope of selu and prelu is rounded.
        np.testing.assert_allclose(activation.apply(x), expected, rtol=1e-7, atol=3e-9)
        np.testing.assert_allclose(net(x), expected, rtol=2e-6, atol=2e-6)


# --- forms --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (("hard_tanh",), Activation("hard_tanh", -1, 1)),
        (("hard_tanh", -1, 2), Activation("hard_tanh", -1, 2)),
        (("hard_tanh", None, 2), Activation("hard_tanh", -1, 2)),
        ({"name": "hard_tanh", "lower": -1, "upper": 1}, Activation("hard_tanh")),
        ({"name": "elu"}, Activation("elu", 1)),
        (("prelu", [0.5]), Activation("prelu", 0.5)),
        (("prelu", [0.5, 0.25]), Activation("prelu", np.float32([0.5, 0.25]))),
        ({"name": "prelu", "slope": (0.5, 0.25)}, Activation("prelu", [0.5, 0.25])),
    ],
)
def test_forms(value: object, expected: Activation) -> None:
    parsed = Activation.parse(value)
    assert parsed == expected
    assert hash(parsed) == hash(expected)
    assert parsed != Activation("relu")
    whole = parsed.to_json()
    assert isinstance(whole, dict)
    json.dumps(whole)
    assert Activation.parse({**whole, **parsed.unit_parameters()}) == parsed


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (("silu", 1), "a: silu takes no parameter, got 1"),
        (("hard_tanh", 1, 1), "a: upper of hard_tanh must be finite and above 1, got 1.0"),
        (("hard_tanh", -1, 1, 2), "a: hard_tanh takes lower, upper, got 3 parameters"),
        (("hard_tanh", [-1, -2]), "a: lower of hard_tanh must be a number, got [-1, -2]"),
        ("prelu", 'a: prelu needs its slope: ("prelu", slope)'),
        (("prelu", [0.1, np.nan]), "a: slope of prelu must be finite, got nan"),
        (("prelu", [[0.1]]), "a: slope of prelu must have shape () or (out,), got (1, 1)"),
        (("prelu", np.inf), "a: slope of prelu must be finite, got inf"),
        (("prelu", True), "a: slope of prelu must be a number, got True"),
        (("elu", "1"), "a: alpha of elu must be a number, got '1'"),
        (
            (),
            "a must be a name, a tuple of a name and parameters, or a mapping with a name, got ()",
        ),
    ],
)
def test_bad_forms(value: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as info:
        Activation.parse(value, "a")
    assert str(info.value) == message


def test_slopes_are_of_units() -> None:
    slopes = np.array([0.5, 0.25, -1.0], np.float32)
    activation = Activation("prelu", slopes)
    slopes[0] = 7.0
    (kept,) = activation.parameters
    assert isinstance(kept, np.ndarray)
    assert kept.tolist() == [0.5, 0.25, -1.0]
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 7.0
    for other in (copy.deepcopy(activation), repickled(activation)):
        assert other == activation
        assert not other.parameters[0].flags.writeable
    assert activation != Activation("prelu", [0.5, 0.25, -2.0])
    assert str(activation) == "prelu(3 values)"
    assert activation.of_units(np.array([2, 0])) == Activation("prelu", [-1.0, 0.5])
    with pytest.raises(ValueError, match=r"slope of prelu must have shape \(4,\), got \(3,\)"):
        Layer(np.ones((4, 2)), None, activation)  # type: ignore[arg-type]
    net = lrgate.Network.from_layers(
        [(np.ones((3, 2)), None), (np.eye(3), None)], ("prelu", activation.parameters[0])
    )
    assert net.layers[0].activation == activation
    expected = [[-1.0, -0.5, 2.0]]
    assert net(np.float32([[-1, -1]])).tolist() == expected
    moved = net.with_units({0: [2, 0, 1]})
    assert moved(np.float32([[-1, -1]])).tolist() == expected
    assert kept_layers(moved)[0].activation == Activation("prelu", [-1.0, 0.5, 0.25])
    assert repickled(moved)(np.float32([[-1, -1]])).tolist() == expected


def test_linear_layers_merge() -> None:
    for linear in (Activation("prelu", 1), Activation("prelu", [1, 1]), Activation("identity")):
        layers = [Layer(np.eye(2), np.ones(2), linear), Layer(np.eye(2), np.ones(2), linear)]
        assert len(merged(layers)[0]) == 1
    bent = Activation("prelu", [1, 0.5])
    layers = [Layer(np.eye(2), np.ones(2), bent), Layer(np.eye(2), np.ones(2), bent)]
    assert len(merged(layers)[0]) == 2


# --- bounds -------------------------------------------------------------------------------------


limits = st.floats(-1e4, 1e4) | st.floats(-4, 4) | st.floats(-0.01, 0.01)


@pytest.mark.parametrize("activation", [a for a in ALL if not a.mixes_units], ids=str)
@given(ends=st.tuples(limits, limits), shares=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_bounds_hold(
    activation: Activation, ends: tuple[float, float], shares: list[float]
) -> None:
    low, high = np.float64(sorted(ends))
    least, most = activation.bounds(np.array([low]), np.array([high]))
    inner = np.clip(low + np.float64([0, 1, *shares]) * (high - low), low, high)
    turns = np.float64([-1.5, -1.2785, -1.1924, -0.7518, -0.7525, 0.0])
    z = np.concatenate([inner, turns[(turns >= low) & (turns <= high)]])
    y = activation.apply(z)
    assert (y >= least).all()
    assert (y <= most).all()
    assert activation.may_be_negative or (y >= 0).all()
    rounded = np.clip(z.astype(np.float32), *np.float32([low, high]))
    inside = rounded[(rounded >= low) & (rounded <= high)]
    if len(inside):
        n = len(inside)
        net = lrgate.Network.from_layers([Layer(np.zeros((n, 1)), inside, activation)])
        got = net(np.zeros((1, 1), np.float32)).astype(np.float64)
        assert (got >= least).all()
        assert (got <= most).all()


def test_no_unit_is_proven_off_after_an_overflow() -> None:
    """Bounds that are infinite, or unknown, prove nothing."""
    relu = Activation("relu")
    for off in (relu, Activation("squared_relu"), Activation("thresholded_relu", 0.5)):
        layers = [
            Layer(np.full((2, 1), 1000.0), np.zeros(2), Activation("exp")),
            Layer([[1.0, -1.0], [-1.0, -1.0]], [0.0, 0.0], off),
            Layer([[1.0, -1.0]], [0.0], relu),
        ]
        _, hidden, last = proven_dead(layers, 0.0, 1.0, shift=0.0)
        assert not hidden[0]
        assert not last.any()


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_the_formula_keeps_nan_and_signs(activation: Activation) -> None:
    z = np.linspace(-50, 50, 1001).reshape(1, -1)
    y = activation.apply(z)
    assert y.dtype == np.float64
    assert not np.isnan(y).any()
    assert activation.may_be_negative or (y >= 0).all()
    assert np.isnan(activation.apply(np.full((1, 3), np.nan))).all()
    if activation.has_hard_zero:
        assert (y[z <= activation.threshold] == 0).all()
        rows = z.astype(np.float32)
        assert activation.gated(rows).dtype == np.float32
        np.testing.assert_allclose(activation.gated(rows), activation.apply(rows), rtol=1e-7)


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("activation", BY_UNIT, ids=str)
def test_files_round_trip(tmp_path: Path, suffix: str, activation: Activation) -> None:
    last = Activation("identity") if activation.mixes_units else activation
    net = network(activation, last, widths=(4, 6, 3))
    net.save(tmp_path / f"net{suffix}")
    read = lrgate.Network.load(tmp_path / f"net{suffix}")
    assert [a.activation for a in read.layers] == [a.activation for a in net.layers]
    x = oracle.rows(5, 4)
    assert (read(x) == net(x)).all()


def one_layer() -> Model:
    return Model((Layer(np.eye(3), np.zeros(3), Activation("prelu", [0.1, 0.2, 0.3])),))


@pytest.mark.parametrize(
    ("activation", "slope", "message"),
    [
        ({"name": "prelu"}, None, r"lrgate\.activations\[0\]: prelu needs its slope"),
        ({"name": "prelu"}, [0.1], r"layers\.0\.activation\.slope must have shape \(3,\), got"),
        ({"name": "prelu"}, [0.1] * 4, r"layers\.0\.activation\.slope must have shape \(3,\)"),
        ({"name": "prelu"}, [[0.1] * 3], r"layers\.0\.activation\.slope must have shape \(out,\)"),
        ({"name": "prelu"}, [0.1, np.nan, 0], r"activations\[0\]: slope of prelu must be finite"),
        ({"name": "prelu", "slope": 1}, [0.1] * 3, r"layers\.0\.activation\.slope does not belong"),
        ("relu", [0.1] * 3, r"layers\.0\.activation\.slope does not belong to .*\"relu\""),
        ({"name": "mish", "beta": 2}, None, r"activations\[0\]: mish has no beta"),
        ("swish", None, r"activations\[0\]: activation must be one of identity, "),
    ],
)
def test_hostile_files(tmp_path: Path, activation: Any, slope: Any, message: str) -> None:
    path = tmp_path / "net.npz"
    save(path, one_layer())
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(str(arrays["lrgate"]))
    # Version 1 has no checksum.
    header = {"format_version": 1, "activations": [activation]}
    arrays["lrgate"] = np.array(json.dumps(header))
    del arrays["layers.0.activation.slope"]
    if slope is not None:
        arrays["layers.0.activation.slope"] = np.float32(slope)
    np.savez(path, **arrays)
    with pytest.raises(FileFormatError, match=message):
        load(path)


def test_slopes_need_the_header(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    save(path, one_layer())
    with np.load(path) as file:
        arrays = {key: value for key, value in file.items() if key != "lrgate"}
    np.savez(path, **arrays)
    with pytest.raises(FileFormatError, match=r"lrgate is missing, though the file has layers\.0"):
        load(path)

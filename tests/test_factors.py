"""Layers that are computed by their factors: arguments, plans, files, int8, nested gates."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate import BatchPlan, Factors, FileFormatError, NestedGate, Network, Quantization
from lrgate.model.plan import STRATEGIES, with_skip, without, words
from lrgate.quantization.sums import sums_quantization
from oracle import factored, forward, gated, make, rows

FACTORS = [name for name in STRATEGIES if "factor" in name]


def low_rank(d: int = 20, h: int = 50, rank: int = 3, value: float = 1.0, **parts: Any) -> Factors:
    return Factors(np.full((d, rank), value), np.ones((rank, h)), np.zeros(h), **parts)


@pytest.fixture
def net() -> Network:
    return factored(make([20, 50, 30, 5], seed=2))


def planned(net: Network, strategy: str) -> Network:
    """All layers by this strategy; the last layer has no gate."""
    last = without(strategy, "gate")
    return net.with_strategies([*[strategy] * (len(net.layers) - 1), last])


def assert_close(got: Any, expected: tuple[np.ndarray, np.ndarray]) -> None:
    y, bound = expected
    assert got.shape == y.shape
    assert (np.abs(got - y) <= bound).all()


@pytest.mark.parametrize("strategy", FACTORS)
@pytest.mark.parametrize("hidden", ["relu", "tanh", ("clipped_relu", 0.7)])
def test_outputs(strategy: str, hidden: Any) -> None:
    net = factored(make([20, 50, 30, 5], hidden=hidden, input_scale=0.5, input_shift=0.25))
    if hidden == "tanh":
        strategy = without(strategy, "gate")
    net, x = planned(net, strategy), rows(300, 20)
    y, bound = forward(net, x)[-1]
    for n in (1, 2, 9, 64, 65, 300):
        assert_close(net(x[:n]), (y[:n], bound[:n]))
    assert np.abs(net(x) - net.dense()(x)).max() > 0.1


def test_a_nested_gate_leaves_units_out(net: Network) -> None:
    x = rows(100, 20)
    profile = planned(net, "factor-gate").profile(x, seconds=0)
    whole = planned(net, "factor").profile(x, seconds=0)
    for layer, without_gate in zip(profile.layers[:2], whole.layers[:2], strict=True):
        factors = net.layers[0 if layer.inputs == 20 else 1].factors
        assert factors is not None and factors.gate is not None
        d, h, rank = layer.inputs, layer.outputs, factors.rank
        assert layer.rank == without_gate.rank == rank
        assert 0.1 < layer.computed_share < 0.9 and without_gate.computed_share == 1
        assert layer.recall is not None and 0 < layer.recall < 1
        assert without_gate.recall is None and without_gate.lost_energy is None
        assert without_gate.flop_share == pytest.approx(rank * (d + h) / (d * h))
        work = rank * d + factors.gate.rank * h + layer.computed_share * rank * h
        assert layer.flop_share == pytest.approx(work / (d * h))


@pytest.mark.parametrize("strategy", FACTORS)
def test_layer_inputs_are_of_layers(net: Network, strategy: str) -> None:
    net, x = planned(net, strategy), rows(40, 20)
    found, outputs = net.layer_inputs(x), forward(net, x)
    assert [values.shape for values in found] == [(40, 20), (40, 50), (40, 30)]
    for values, expected in zip(found[1:], outputs, strict=False):
        assert_close(values, expected)


def test_with_factors_of_a_mapping_keeps_the_others(net: Network) -> None:
    new = low_rank(50, 30, 2)
    plan = net.with_strategies(["skip", "skip", "skip-factor"])
    changed = plan.with_factors({1: new})
    assert changed.layers[1].factors is new
    assert changed.layers[0].factors is net.layers[0].factors
    assert changed.plan_for().strategies == ("skip", "factor", "skip-factor")
    gone = planned(net, "factor").with_factors({0: None})
    assert gone.plan_for().strategies == ("dense", "factor", "factor")
    assert net.plan_for().strategies == ("factor-gate", "factor-gate", "factor")
    assert net.with_factors({}).plan == net.plan
    x = rows(9, 20)
    none = net.with_factors([None] * 3)
    np.testing.assert_array_equal(none(x), net.dense()(x))
    assert net.dense().plan_for().strategies == ("dense",) * 3
    for layer, own in zip(net.layers, make([20, 50, 30, 5], seed=2).layers, strict=True):
        np.testing.assert_array_equal(layer.weight, own.weight)
    layers = [replace(layer, factors=None) for layer in net.layers]
    assert Network.from_layers(layers).plan_for().strategies == ("dense",) * 3
    assert Network.from_layers(net.layers).plan == net.plan


def test_gates_and_factors_are_independent(net: Network) -> None:
    both = gated(net)
    assert both.plan_for().strategies == ("gate", "gate", "factor")
    mixed = both.with_strategies(["factor-gate", "gate", "factor"])
    assert mixed.with_gates({0: None}).plan_for().strategies == ("factor-gate", "gate", "factor")
    assert mixed.with_factors({0: None}).plan_for().strategies == ("dense", "gate", "factor")
    x = rows(30, 20)
    assert_close(mixed(x), forward(mixed, x)[-1])


HIDDEN = (
    "a gate needs a hidden layer with relu, clipped_relu, thresholded_relu or squared_relu, got"
)


@pytest.mark.parametrize(
    ("factors", "kind", "message"),
    [
        ([None], ValueError, "factors must have 3 entries, one per layer, got 1"),
        ({3: None}, ValueError, "factors must name layers from 0 to 2, got 3"),
        ({0: "low"}, TypeError, "factors[0] must be Factors or None, got str"),
        (
            {0: low_rank(rank=0)},
            ValueError,
            "layers[0]: rank of the factors must be from 1 to 20, got 0",
        ),
        (
            {0: low_rank(rank=21)},
            ValueError,
            "layers[0]: rank of the factors must be from 1 to 20, got 21",
        ),
        (
            {0: low_rank(value=np.nan)},
            ValueError,
            "factors[0].u must be finite, got NaN at index (0, 0)",
        ),
        (
            {0: low_rank(19)},
            ValueError,
            "factors[0]: factors.u must have shape (20, 3), got (19, 3)",
        ),
        (
            {0: low_rank(h=49)},
            ValueError,
            "factors[0]: factors.v must have shape (3, 50), got (3, 49)",
        ),
        (
            {0: low_rank(gate=NestedGate(np.ones((0, 50)), np.zeros(50)))},
            ValueError,
            "layers[0]: rank of the nested gate must be from 1 to 3, got 0",
        ),
        (
            {0: low_rank(gate=NestedGate(np.ones((1, 50)), np.full(50, np.inf)))},
            ValueError,
            "factors[0].gate.bias must be finite, got inf at index 0",
        ),
        (
            {2: low_rank(30, 5, gate=NestedGate(np.ones((1, 5)), np.zeros(5)))},
            ValueError,
            f"layers[2]: {HIDDEN} the last layer",
        ),
    ],
)
def test_with_factors_refuses(
    net: Network, factors: Any, kind: type[Exception], message: str
) -> None:
    before = net.plan
    with pytest.raises(kind) as error:
        net.with_factors(factors)
    assert str(error.value) == message
    assert net.plan == before


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"u": np.ones(3)}, ValueError, "u must have shape (in, rank), got (3,)"),
        ({"u": [["a"]]}, TypeError, "u must be an array of real numbers, got dtype <U1"),
        ({"v": np.ones((3, 5))}, ValueError, "v must have shape (2, 5), got (3, 5)"),
        ({"bias": np.ones(4)}, ValueError, "bias must have shape (5,), got (4,)"),
        ({"u": np.full((4, 2), 1e39)}, ValueError, "u must fit float32, got 1e+39 at index (0, 0)"),
        (
            {"quantization": 1},
            TypeError,
            "quantization must be of type Quantization, got int",
        ),
        (
            {"quantization": Quantization(np.ones(3), 0)},
            ValueError,
            "quantization.scale must have shape () or (2,), got (3,)",
        ),
        ({"gate": 1}, TypeError, "gate must be of type NestedGate, got int"),
        (
            {"gate": NestedGate(np.ones((3, 5)), np.ones(5))},
            ValueError,
            "gate.v must have at most 2 rows, the rank of the factors, got 3",
        ),
        (
            {"gate": NestedGate(np.ones((2, 4)), np.ones(4))},
            ValueError,
            "gate.v must have shape (2, 5), got (2, 4)",
        ),
    ],
)
def test_factors_refuse(arguments: Any, kind: type[Exception], message: str) -> None:
    good = {"u": np.ones((4, 2)), "v": np.ones((2, 5)), "bias": np.ones(5)}
    Factors(**good)
    with pytest.raises(kind) as error:
        Factors(**{**good, **arguments})
    assert str(error.value) == message


def test_factors_are_read_only_data() -> None:
    u = np.ones((4, 2), np.float32)
    factors = Factors(u, np.ones((2, 5)), np.ones(5), gate=NestedGate(np.ones((1, 5)), np.ones(5)))
    u[:] = 2
    assert factors.u.max() == 1
    pickled = pickle.loads(pickle.dumps(factors))  # noqa: S301 (made right here)
    for one in (factors, pickled, copy.deepcopy(factors)):
        assert (one.inputs, one.outputs, one.rank) == (4, 5, 2)
        assert repr(one) == "Factors(4 -> 5, rank 2, gate of rank 1)"
        assert repr(one.gate) == "NestedGate(-> 5, rank 1)"
        for array in (one.u, one.v, one.bias, one.gate.v, one.gate.bias):
            with pytest.raises(ValueError, match=r"WRITEABLE"):
                array.flags.writeable = True


@pytest.mark.parametrize(
    ("strategies", "message"),
    [
        (
            ["factor", "dense", "dense"],
            "strategies[0] must be dense or skip, since layers[0] has no factors, got 'factor'",
        ),
        (
            ["dense", "factor-gate", "dense"],
            "strategies[1] must be dense, skip, factor or skip-factor, since the factors of "
            "layers[1] have no gate, got 'factor-gate'",
        ),
        (
            ["dense", "factors", "dense"],
            "strategies[1] must be one of dense, skip, gate, factor, skip-factor, factor-gate, "
            "skip-factor-gate, got 'factors'",
        ),
    ],
)
def test_with_strategies_refuses(net: Network, strategies: Any, message: str) -> None:
    some = net.with_factors({0: None, 1: low_rank(50, 30)})
    with pytest.raises(ValueError) as error:
        some.with_strategies(strategies)
    assert str(error.value) == message


def test_one_name_for_all_layers_is_refused_with_the_call_to_write(net: Network) -> None:
    for name, hint in [
        ("factor", ": write ['factor'] * 3"),
        ("factor-gate", ": write ['factor-gate', 'factor-gate', 'dense']"),
    ]:
        with pytest.raises(TypeError, match=re.escape(hint) + "$"):
            net.with_strategies(name)
    with pytest.raises(TypeError, match=r"no layer has factors: see with_factors$"):
        net.with_factors([None] * 3).with_strategies("factor")


def test_names_of_strategies() -> None:
    assert STRATEGIES[:3] == ("dense", "skip", "gate")
    for name in STRATEGIES:
        assert words(name) <= {"skip", "factor", "gate"}
        assert without(with_skip(name), "skip") == without(name, "skip")
        assert "gate" not in words(without(name, "gate"))
    assert with_skip("factor-gate") == "skip-factor-gate"
    assert without("skip-factor-gate", "gate") == "skip-factor"


# int8


def in_int8(seed: int = 2) -> tuple[Network, np.ndarray]:
    """A network whose factors approximate its layers, in int8, and rows."""
    net = make([40, 90, 70, 5], seed=seed)
    x = np.random.default_rng(seed).normal(size=(3000, 40)).astype(np.float32)
    factors = {}
    for i, (layer, values) in enumerate(zip(net.layers[:2], net.layer_inputs(x), strict=False)):
        z = values @ layer.weight.T
        basis = np.linalg.svd(z[:500] - z.mean(axis=0), full_matrices=False)[2].T[:, :30]
        rest = z.mean(axis=0) - z.mean(axis=0) @ basis @ basis.T
        nested = NestedGate(basis[:, :12].T, layer.bias + rest + 0.3)
        factors[i] = Factors(layer.weight.T @ basis, basis.T, layer.bias + rest, gate=nested)
    return net.with_factors(factors).quantize(x), x


def test_quantize_fits_factors() -> None:
    net, x = in_int8()
    assert net.plan_for().strategies == ("factor-gate", "factor-gate", "dense")
    assert net.plan_for().precisions == ("int8",) * 3
    for i, values in enumerate(net.dense().layer_inputs(x)[:2]):
        factors = net.layers[i].factors
        assert factors is not None and factors.quantization is not None
        scale, offset = factors.quantization.scale, factors.quantization.offset
        assert scale.shape == offset.shape == (30,)
        q = values @ factors.u / scale + offset
        assert ((q > 0) & (q < 254.5)).mean() > 0.9999
        assert np.median(q.max(axis=0) - q.min(axis=0)) > 100
    fresh = np.random.default_rng(99).normal(size=(2000, 40)).astype(np.float32)
    for strategy in FACTORS:
        strategies = [strategy, strategy, "dense"]
        bytes_, float_ = net.with_strategies(strategies, "int8"), net.with_strategies(strategies)
        assert bytes_.engine.recomputed(fresh).mean() < 0.02
        inside = ~bytes_.engine.recomputed(fresh)
        difference = (bytes_(fresh) - float_(fresh))[inside]
        # Rounding moves units across the threshold of a gate.
        most = 0.01 if "gate" in words(strategy) else 0.002
        assert 0 < (difference**2).mean() < most * float_(fresh).var()


def test_rows_out_of_range_are_those_of_the_weights() -> None:
    net, x = in_int8()
    factors = net.layers[0].factors
    assert factors is not None and factors.quantization is not None
    # Half of the rows are out of range of the sums.
    narrow = Quantization(factors.quantization.scale * 0.3, 128)
    net = net.with_factors({0: replace(factors, quantization=narrow)})
    net = net.with_strategies(["factor-gate", "factor", "dense"], "int8")
    beyond = net.engine.recomputed(x)
    assert 0.1 < beyond.mean() < 0.95
    exact = net.with_strategies(["skip", "skip", "dense"])
    np.testing.assert_array_equal(net(x)[beyond], exact(x)[beyond])


def test_int8_needs_both_quantizations() -> None:
    net, _ = in_int8()
    factors = net.layers[0].factors
    assert factors is not None
    float_ = net.with_factors({0: replace(factors, quantization=None)})
    assert float_.plan_for().precisions == ("f32", "int8", "int8")
    with pytest.raises(ValueError) as error:
        float_.with_strategies(["factor", "dense", "dense"], "int8")
    assert str(error.value) == (
        "precision[0] must be 'f32', since the factors of layers[0] have no quantization, "
        "got 'int8'"
    )
    assert float_.with_strategies(["dense"] * 3, "int8").plan_for().precisions == ("int8",) * 3
    none = net.with_quantization({0: None})
    assert none.plan_for().precisions == ("f32", "int8", "int8")
    with pytest.raises(ValueError, match=r"since layers\[0\] has no quantization"):
        none.with_strategies(["factor", "dense", "dense"], "int8")
    large = replace(factors, quantization=Quantization(1e38, 128))
    with pytest.raises(ValueError) as error:
        net.with_factors({0: large})
    assert str(error.value).startswith(
        "factors[0].quantization.offset must be small enough that layers[0].factors times it is "
        "finite, got a product of "
    )


def test_a_sum_that_never_varies_has_a_window() -> None:
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    u = np.zeros((3, 2), np.float32)
    u[:, 1] = 1
    quantization = sums_quantization(Factors(u, np.ones((2, 4)), np.zeros(4)), x)
    assert (quantization.scale > 0).all()
    q = (x @ u) / quantization.scale + quantization.offset
    assert ((q > 0.5) & (q < 254.5)).all()


# Files, probes, tuning


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_keep_factors(tmp_path: Path, suffix: str) -> None:
    net, x = in_int8()
    plan = tuple(
        BatchPlan(n, strategies, ("int8", "f32", "int8"))
        for n, strategies in [
            (1, ("factor-gate", "skip-factor", "dense")),
            (64, ("skip-factor-gate", "factor", "skip")),
        ]
    )
    net = lrgate.network.replaced(net, plan=plan, layers=net.layers).with_probe(x[:20])
    path = tmp_path / f"net{suffix}"
    net.save(path)
    again = Network.load(path)
    assert again.plan == net.plan == plan
    for n in (1, 9, 100):
        np.testing.assert_array_equal(again(x[:n]), net(x[:n]))
    assert again.check() == net.check() <= 1e-4
    for one, other in zip(net.layers, again.layers, strict=True):
        assert (one.factors is None) == (other.factors is None)
        if one.factors is None or other.factors is None:
            continue
        for part in ("u", "v", "bias", "gate.v", "gate.bias", "quantization.scale"):
            a, b = one.factors, other.factors
            for word in part.split("."):
                a, b = getattr(a, word), getattr(b, word)
            np.testing.assert_array_equal(a, b)
    assert again.__dask_tokenize__() == net.__dask_tokenize__()
    other = net.with_factors({0: None})
    assert other.__dask_tokenize__() != net.__dask_tokenize__()
    planned_forms = {one.strategies for one in (again.probe.planned if again.probe else ()) or ()}
    assert planned_forms == {("factor-gate", "factor", "dense")}


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.0.factors.u": None}, "layers.0.factors.u is missing"),
        ({"layers.0.factors.gate.bias": None}, "layers.0.factors.gate.bias is missing"),
        (
            {"layers.0.factors.quantization.scale": None},
            "layers.0.factors.quantization.scale is missing",
        ),
        (
            {"layers.0.factors.u": np.ones((7, 30))},
            "layers.0.factors.u must have shape (40, 30), got (7, 30)",
        ),
        (
            {"layers.0.factors.v": np.ones((30, 7))},
            "layers.0.factors.bias must have shape (7,), got (90,)",
        ),
        (
            {"layers.0.factors.u": np.ones((2, 2, 2))},
            "layers.0.factors.u must have at most 2 dimensions, each of 0 to 2147483647, "
            "got (2, 2, 2)",
        ),
        (
            {"layers.0.factors.quantization.scale": -np.ones(30)},
            "layers.0.factors.quantization.scale must be above 0, and it and 1 / scale finite, "
            "got -1.0",
        ),
        (
            {"layers.0.factors.quantization.offset": np.ones(4)},
            "layers.0.factors.quantization.offset must have shape (30,), got (4,)",
        ),
        (
            {"layers.0.factors.gate.v": np.ones((31, 90))},
            "layers.0.factors.gate.v must have at most 30 rows, the rank of the factors, got 31",
        ),
        (
            {"layers.0.factors.u": np.full((40, 30), np.nan)},
            "factors[0].u must be finite, got NaN at index (0, 0)",
        ),
        ({"layers.0.factors.w": np.ones(3)}, "unknown key 'layers.0.factors.w'; expected"),
        ({"layers.7.factors.u": np.ones((3, 3))}, "layers.3.weight is missing"),
    ],
)
def test_bad_files_are_refused(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    net, _ = in_int8()
    path = tmp_path / "net.npz"
    net.save(path)
    arrays = arrays_of(path)
    text = arrays["lrgate"].item()
    # Version 1 has no checksum, so the checks of the arrays are reached.
    text = re.sub(r'"checksum":"[^"]*",', "", text).replace(
        '"format_version":2', '"format_version":1'
    )
    arrays["lrgate"] = np.array(text)
    for key, value in change.items():
        if value is None:
            del arrays[key]
        else:
            arrays[key] = np.float32(value)
    np.savez(path, **arrays)
    with pytest.raises(FileFormatError) as error:
        Network.load(path)
    assert message in str(error.value)


def test_the_checksum_covers_factors(tmp_path: Path) -> None:
    net, _ = in_int8()
    path = tmp_path / "net.npz"
    net.save(path)
    arrays = arrays_of(path)
    arrays["layers.1.factors.v"] = arrays["layers.1.factors.v"] * np.float32(1.001)
    np.savez(path, **arrays)
    with pytest.raises(FileFormatError, match=r"does not match lrgate\.checksum"):
        Network.load(path)


def test_check_notices_other_factors() -> None:
    net, x = in_int8()
    net = net.with_probe(x[:30])
    assert net.check() <= 1e-4
    first = net.layers[0].factors
    assert first is not None
    probe = net.probe
    changed = net.with_factors({0: replace(first, v=first.v * 1.2)})
    assert changed.probe is not None and changed.probe.planned == ()
    damaged = lrgate.network.replaced(changed, probe=probe)
    with pytest.raises(ValueError, match="under the plan factor-gate-int8/factor-gate-int8"):
        damaged.check()


def test_units_in_another_order_take_factors_with_them() -> None:
    net, x = in_int8()
    order = np.random.default_rng(5).permutation(90)
    for strategy in FACTORS:
        for precision in ("f32", "int8"):
            one = net.with_strategies([strategy, strategy, "dense"], precision)
            other = one.with_units({0: order})
            assert other.layers[0].factors is one.layers[0].factors
            np.testing.assert_allclose(other(x[:70]), one(x[:70]), atol=0.02)
            f32 = other.with_strategies([strategy, strategy, "dense"])
            assert_close(f32(x[:70]), forward(f32, x[:70])[-1])
    fewer = net.with_units({0: order[:60]}).with_strategies(["factor-gate", "factor", "dense"])
    assert_close(fewer(x[:70]), forward(fewer, x[:70])[-1])
    with pytest.raises(ValueError) as error:
        net.with_units({0: order[:29]})
    assert str(error.value) == (
        "layers[0]: rank of the factors must be at most 29, the smaller number of inputs and units "
        "that are kept, got 30"
    )


def test_tune_measures_factors() -> None:
    net, x = in_int8()
    tuned = net.tune(x[:64], [1, 32], seconds=0.05)
    for plan in tuned.plan:
        assert plan.precisions == ("int8",) * 3
        assert set(plan.strategies) <= set(STRATEGIES) - {"gate"}
    plain = net.with_factors([None] * 3).tune(x[:64], [1], seconds=0.02)
    assert not any("factor" in name for name in plain.plan[0].strategies)


def test_a_load_turns_no_factors_on(tmp_path: Path) -> None:
    net, x = in_int8()
    net = net.with_probe(x[:20]).with_strategies(["skip", "factor", "dense"], "int8")
    other = {"isa": "other", "cpu": None, "l1d": None, "l2": None, "l3": None}
    net = lrgate.network.replaced(net, machine=other)
    net.save(tmp_path / "net.npz")
    for _ in range(3):
        again = Network.load(tmp_path / "net.npz")
        assert again.machine != other
        first, second, _ = again.plan_for().strategies
        assert "factor" not in words(first)
        assert second in ("dense", "skip", "factor", "skip-factor")


def test_phases_name_factors(net: Network) -> None:
    x = rows(30, 20)
    phases = planned(net, "skip-factor-gate").phases(x, seconds=0.05)
    of = [(one.layer, one.factor, one.phase) for one in phases.phases]
    assert (0, "u", "multiply") in of and (0, "v", "dots+epilogue") in of
    assert (2, "v", "multiply+epilogue") in of
    assert "\n0 v dots+epilogue" in str(phases)
    assert phases.to_dict()["phases"][0]["factor"] == "u"


def test_repr(net: Network) -> None:
    assert "plan {1: factor-gate/factor-gate/factor}" in repr(net)
    assert repr(net.layers[0]) == "Layer(20 -> 50, relu, factors of rank 10)"
    assert "3 layers with factors" in repr(net._model)
    assert "factor-gate 10" in str(net.profile(rows(9, 20), seconds=0))


def test_nbytes_counts_factors(net: Network) -> None:
    plain = net.with_factors([None] * 3)
    assert net.nbytes > plain.nbytes
    sizes = sum(one.factors.u.nbytes + one.factors.v.nbytes for one in net.layers if one.factors)
    assert net.__sizeof__() - plain.__sizeof__() >= 2 * sizes

"""`Network` from Python: building, predicting, plans, gates, profiles, checking, storing."""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
import gc
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import lrgate
from lrgate import Gate, Layer, Network
from lrgate.files.writing import header_of
from lrgate.measure.machine import fingerprint
from lrgate.model import Activation, BatchPlan, Model, Probe, Quantization, arrays
from lrgate.network import checking, network
from oracle import assert_close, forward, gated, make, rows

W, B = np.array([[1.0, -1.0], [2.0, 0.5], [0.0, 1.0]]), np.array([0.0, -1.0, 0.25])
OUT = (np.array([[1.0, 1.0, 1.0]]), np.array([0.5]))


def gate(inputs: int = 2, outputs: int = 3, rank: int = 1, bias: float = 1.0) -> Gate:
    return Gate(np.zeros((inputs, rank)), np.zeros((rank, outputs)), np.full(outputs, bias))


@pytest.fixture(scope="module")
def net() -> Network:
    return gated(make([20, 50, 30, 5]), rank=4)


# --- the engine's weights -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["read-only", "writable", "by columns"])
def test_engines_use_read_only_weights_where_they_are(how: str) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    owner = values.copy()
    weight = owner.T if how == "by columns" else owner.view()
    weight.flags.writeable = how == "writable"
    expected = weight.sum(axis=1)
    layers = [(weight, np.zeros(len(weight), np.float32), "identity", [])]
    engine = lrgate._core.Engine(layers)
    owner[:] = 2.0 * values  # not allowed, but it shows which memory is read
    x = np.ones(weight.shape[1], np.float32)
    outputs = lrgate._core.Network(engine, "regression", None)(x)
    assert (outputs == (2.0 if how == "read-only" else 1.0) * expected).all()


def test_engines_refuse_misaligned_weights() -> None:
    weight = np.frombuffer(bytearray(17), np.float32, 4, offset=1).reshape(2, 2)
    with pytest.raises(ValueError, match=r"^layers\[0\].weight must be aligned"):
        lrgate._core.Engine([(weight, np.zeros(2, np.float32), "identity", [])])
    net = Network.from_layers([(weight, np.ones(2))])  # copies the array
    assert net(np.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize("how", ["read-only", "writable", "by columns"])
def test_engines_put_units_in_order_where_weights_are(how: str) -> None:
    rng = np.random.default_rng(3)
    orders = [np.int32([6, 2, 8, 0, 5]), np.int32([3, 1, 0]), None]
    layers, copied, before = [], [], slice(None)
    for inputs, outputs, order in zip((7, 9, 4), (9, 4, 2), orders, strict=True):
        weight = rng.standard_normal((outputs, inputs), dtype=np.float32)
        bias = rng.standard_normal(outputs, dtype=np.float32)
        units = slice(None) if order is None else order
        copied.append((weight[units][:, before].copy(), bias[units], "relu", []))
        weight = np.asfortranarray(weight) if how == "by columns" else weight
        weight.flags.writeable = how == "writable"
        layers.append((weight, bias, "relu", []))
        before = units
    x = rng.standard_normal((70, 7), dtype=np.float32)
    engine, copy = lrgate._core.Engine(layers, kept_units=orders), lrgate._core.Engine(copied)
    for strategy in ("dense", "skip"):
        plan = [(1, [strategy] * 3, ["f32"] * 3)]
        got, expected = (
            lrgate._core.Network(each.with_plan(plan), "regression", None)(x)
            for each in (engine, copy)
        )
        np.testing.assert_array_equal(got, expected)
        assert got.any()


def test_engines_refuse_orders_that_do_not_fit() -> None:
    def layer(outputs: int, inputs: int) -> tuple[Any, ...]:
        return np.ones((outputs, inputs), np.float32), np.ones(outputs, np.float32), "relu", []

    some, none = np.int32([0, 2]), None
    for layers, orders, message in [
        ([layer(3, 2)], [], "kept_units must have 1 entries, got 0"),
        ([layer(3, 2)], [np.int32([0, 3])], "kept_units[0]: units must be below 3, got 3"),
        ([layer(3, 2)], [np.int32([2, 2])], "kept_units[0]: units must be distinct, got 2 twice"),
        ([layer(3, 2)], [np.int32([-1])], "kept_units[0] must name units from 0 on, got -1"),
        *(
            (
                [layer(3, 2), layer(outputs, columns)],
                [some, none],
                f"layers[1]: weight must have 3 columns, the units of layers[0], got {columns}",
            )
            for outputs, columns in [(1, 2), (1, 9), (0, 2**40)]
        ),
    ]:
        with pytest.raises(ValueError) as error:
            lrgate._core.Engine(layers, kept_units=orders)
        assert str(error.value) == message


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 0]])
def test_weights_in_order_are_not_copied(order: list[int]) -> None:
    weight = np.ones((3, 2), np.float32)
    bias = np.ones(3, np.float32)
    weight.flags.writeable = False
    engine = lrgate._core.Engine([(weight, bias, "relu", [])], kept_units=[np.int32(order)])
    alive = weakref.ref(weight)
    del weight
    gc.collect()
    assert alive() is not None
    del engine
    gc.collect()
    assert alive() is None


def test_an_input_scale_is_refused_where_it_meets_a_weight_too_large() -> None:
    def net(*weight: list[float]) -> Network:
        layer = weight, np.zeros(len(weight))
        return Network.from_layers([layer], ["relu"], input_scale=[1.0, 1e30])

    assert net([1e30, 1.0], [1e20, 1.0])(np.ones(2)).tolist() == [
        np.float32(2e30),
        np.float32(1e30),
    ]
    with pytest.raises(ValueError) as error:
        net([1e30, 1.0], [1.0, 1e30])
    assert str(error.value) == (
        "input_scale must be small enough that layers[0].weight times it is finite, "
        "got a product of inf"
    )


def test_biases_whose_sum_overflows_are_finite() -> None:
    hidden = np.ones((3, 2)), np.full(3, 3e38)
    net = Network.from_layers([hidden, (np.full((1, 3), 1e-38), [0.0])])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ordered = net.with_units({0: [2, 0, 1]})
    x = np.float32([1.0, 0.0])
    assert np.isfinite(net(x)).all()
    assert ordered(x).tolist() == net(x).tolist()


def test_weights_outlive_their_arrays() -> None:
    net = lrgate._core.Network(Network.from_layers([(W, B), OUT]).engine, "regression", None)
    again = pickle.loads(pickle.dumps(Network.from_layers([(W, B), OUT])))  # noqa: S301
    engine = again.engine.with_plan([(1, ["skip", "skip"], ["f32", "f32"])])
    del again
    for each in (net, lrgate._core.Network(engine, "regression", None)):
        np.testing.assert_array_equal(each(np.float32([3.0, 1.0])), [2 + 5.5 + 1.25 + 0.5])


# --- from_layers --------------------------------------------------------------------------------


def test_from_layers_takes_pairs_and_layers() -> None:
    net = Network.from_layers([(W, B), OUT])
    assert [str(layer.activation) for layer in net.layers] == ["relu", "identity"]
    assert (net.input_size, net.output_size, net.task, net.classes) == (2, 1, "regression", None)
    np.testing.assert_array_equal(net.layers[0].weight, W)
    np.testing.assert_array_equal(net(np.array([3.0, 1.0])), [2 + 5.5 + 1.25 + 0.5])
    again = Network.from_layers(net.layers)
    np.testing.assert_array_equal(again(np.eye(2)), net(np.eye(2)))
    assert [layer.activation for layer in again.layers] == [x.activation for x in net.layers]


def test_arrays_are_copied_and_read_only() -> None:
    weight = W.astype(np.float32)
    net = Network.from_layers([(weight, B)])
    before = net(np.eye(2))
    weight[:] = 99
    np.testing.assert_array_equal(net(np.eye(2)), before)
    np.testing.assert_array_equal(net.layers[0].weight, W)
    with pytest.raises(ValueError, match="read-only"):
        net.layers[0].weight[0, 0] = 1


@pytest.mark.parametrize(
    ("activation", "text"),
    [
        ("relu", "relu"),
        (("clipped_relu", 6), "clipped_relu(6)"),
        (["thresholded_relu", -0.5], "thresholded_relu(-0.5)"),
        ({"name": "leaky_relu", "slope": 0.25}, "leaky_relu(0.25)"),
        ("leaky_relu", "leaky_relu(0.01)"),
        (Activation("gelu"), "gelu"),
    ],
)
def test_activations_are_taken_in_all_forms(activation: Any, text: str) -> None:
    net = Network.from_layers([(W, B), (np.eye(3), B)], [activation, "softmax"])
    assert [str(layer.activation) for layer in net.layers] == [text, "softmax"]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (([],), ValueError, "layers must have at least one layer, got 0"),
        (
            ([(W, B), (np.ones((7, 4)), np.zeros(7))],),
            ValueError,
            "layers[1]: weight must have 3 columns, the units of layers[0], got 4",
        ),
        (
            ([(W, np.zeros(4))],),
            ValueError,
            "layers[0]: bias must have shape (3,), got (4,)",
        ),
        (([(W[0], B)],), ValueError, "layers[0]: weight must have shape (out, in), got (2,)"),
        (([(W, B[:, None])],), ValueError, "layers[0]: bias must have shape (out,), got (3, 1)"),
        (
            ([(W, B), (W, B, B)],),
            TypeError,
            "layers[1] must be (weight, bias) or a Layer, got tuple of length 3",
        ),
        (([W[0, 0]],), TypeError, "layers[0] must be (weight, bias) or a Layer, got float64"),
        (
            ([(W * 1j, B)],),
            TypeError,
            "layers[0]: weight must be an array of real numbers, got dtype complex128",
        ),
        (
            ([(W.astype(object), B)],),
            TypeError,
            "layers[0]: weight must be an array of real numbers, got dtype object",
        ),
        (
            ([(W, B.astype(str))],),
            TypeError,
            "layers[0]: bias must be an array of real numbers, got dtype <U32",
        ),
        (
            ([(np.where(W == 0.5, np.nan, W), B)],),
            ValueError,
            "layers[0].weight must be finite, got NaN at index (1, 1)",
        ),
        (
            ([(W, np.where(B == -1, -np.inf, B))],),
            ValueError,
            "layers[0].bias must be finite, got -inf at index 1",
        ),
        (
            ([(W * 1e300, B)],),
            ValueError,
            "layers[0]: weight must fit float32, got 1e+300 at index (0, 0)",
        ),
        (
            ([(np.ones((0, 2)), np.zeros(0))],),
            ValueError,
            "layers[0]: weight must have from 1 to 2147483647 rows, got 0",
        ),
        (
            ([(np.ones((2, 0)), np.zeros(2))],),
            ValueError,
            "layers[0]: weight must have from 1 to 2147483647 columns, got 0",
        ),
        (
            ([(W, B)], ["relu", "relu"]),
            ValueError,
            "activations must have 1 entries, one per layer, or be a single name for all hidden "
            "layers, got 2 entries",
        ),
        (
            ([(W, B)], ["clipped_relu"]),
            ValueError,
            'activations[0]: clipped_relu needs its upper: ("clipped_relu", upper)',
        ),
        (
            ([(W, B)], [("clipped_relu", 0)]),
            ValueError,
            "activations[0]: upper of clipped_relu must be finite and above 0, got 0.0",
        ),
        (
            ([(W, B)], None, "ranking"),
            ValueError,
            "task must be one of classification, regression, multilabel, got 'ranking'",
        ),
        (
            ([(W, B)], None, None, [1, 2]),
            ValueError,
            "classes must have shape (3,) for 3 outputs, got (2,)",
        ),
        (
            ([(W, B), OUT], None, None, [1]),
            ValueError,
            "classes must have shape (2,) for 1 output, got (1,)",
        ),
        (([(W, B)], None, None, [1, 2, 1]), ValueError, "classes must be distinct, got 1 twice"),
        (
            ([(W, B)], None, "regression", [1, 2, 3]),
            ValueError,
            'classes must be None if task is "regression"',
        ),
        (
            ([(W, B)], None, None, None, [1, 2, 3]),
            ValueError,
            "input_scale must have shape () or (2,), got (3,)",
        ),
        (
            ([(W, B)], None, None, None, None, [[1.0]]),
            ValueError,
            "input_shift must have shape () or (d,), got (1, 1)",
        ),
        (
            ([(W, B)], None, None, None, np.nan),
            ValueError,
            "input_scale must be finite, got NaN at index 0",
        ),
        (
            ([(W, B)], None, None, None, None, "1"),
            TypeError,
            "input_shift must be an array of real numbers, got dtype <U1",
        ),
    ],
)
def test_from_layers_refuses(arguments: tuple[Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        Network.from_layers(*arguments)
    assert str(error.value) == message


def test_from_layers_refuses_an_unknown_activation() -> None:
    with pytest.raises(
        ValueError, match=r"^activations\[0\]: activation must be one of identity, "
    ):
        Network.from_layers([(W, B)], ["swish"])
    with pytest.raises(TypeError, match=r"^activations\[0\] must be a name, "):
        Network.from_layers([(W, B)], [3])  # type: ignore[list-item]


@pytest.mark.parametrize("bias", [True, False])
def test_weights_by_inputs_and_outputs_are_recognised(bias: bool) -> None:
    # The layout of scikit-learn's coefs_ and of Keras.
    def layers(*shapes: tuple[int, int]) -> list[Any]:
        return [(np.ones(shape), np.zeros(shape[1]) if bias else None) for shape in shapes]

    told = r"this looks like \(in, out\): pass weight.T$"
    with pytest.raises(ValueError, match=told) as error:
        Network.from_layers(layers((20, 64), (64, 2)))
    shown = "layers[0]: weight has shape (20, 64) and bias (64,): "
    assert str(error.value).startswith(
        shown if bias else "layers: weights have shapes (20, 64), (64, 2): "
    )
    for shapes in [((20, 20), (20, 7), (7, 2)), ((3, 4),) if bias else ((3, 4), (4, 4), (4, 9))]:
        with pytest.raises(ValueError, match=told):
            Network.from_layers(layers(*shapes))
    # Square weights cannot be recognised, and weights in the correct layout are accepted.
    assert Network.from_layers(layers((4, 4), (4, 4))).input_size == 4
    right = [(w.T, b) for w, b in layers((20, 64), (64, 2))]
    assert (Network.from_layers(right).input_size, Network.from_layers(right).output_size) == (
        20,
        2,
    )


def test_no_bias_is_a_bias_of_zeros(tmp_path: Path) -> None:
    net = Network.from_layers([(W, None), (OUT[0], None)])
    same = Network.from_layers([(W, np.zeros(3)), (OUT[0], [0.0])])
    np.testing.assert_array_equal(net(np.eye(2)), same(np.eye(2)))
    layer = Layer(W, None, Activation("relu"))
    assert layer.bias.tolist() == [0.0] * 3
    net.save(tmp_path / "net.npz")
    np.testing.assert_array_equal(Network.load(tmp_path / "net.npz")(np.eye(2)), net(np.eye(2)))


@pytest.mark.parametrize(
    "one",
    [
        "tanh",
        "leaky_relu",
        Activation("clipped_relu", 6),
        ("clipped_relu", 6),
        ("leaky_relu", np.float32(0.5)),
        {"name": "relu"},
    ],
)
def test_one_activation_is_that_of_all_hidden_layers(one: Any) -> None:
    layers = [(np.eye(2), None)] * 4
    net = Network.from_layers(layers, one)
    expected = [Activation.parse(one)] * 3 + [Activation("identity")]
    assert [layer.activation for layer in net.layers] == expected
    last = Layer(np.eye(2), None, Activation("sigmoid"))
    assert Network.from_layers([*layers, last], one).layers[-1].activation.name == "sigmoid"
    assert Network.from_layers(layers[:1], one).layers[0].activation.name == "identity"


@pytest.mark.parametrize(
    ("layers", "activations", "kind", "message"),
    [
        ([(W, B)], "swish", ValueError, "activations: activation must be one of identity, "),
        ([(W, B)], "clipped_relu", ValueError, "activations: clipped_relu needs its upper"),
        ([(W, B)], "softmax", ValueError, "activations must have one entry per layer: softmax "),
        ([(W, B)], 3, TypeError, "activations must be a sequence of activations, got int"),
        (
            [(np.eye(2), None)] * 3,
            ["relu"] * 2,
            ValueError,
            "activations must have 3 entries, one per layer, or be a single name for all hidden "
            'layers, got 2 entries: add that of the last layer, such as "identity"',
        ),
        (None, None, TypeError, "layers must be a sequence of (weight, bias) pairs or of Layer, g"),
        ({"w": W}, None, TypeError, "layers must be a sequence of (weight, bias) pairs or of Lay"),
        (W, None, TypeError, "layers must be a sequence of (weight, bias) pairs or of Layer, got"),
        ((W[:2], B), None, TypeError, "layers[0] must be (weight, bias) or a Layer, got an array"),
        (
            [(sparse.csr_array(W), B)],
            None,
            TypeError,
            "layers[0]: weight must be a dense array, got csr_array: pass weight.toarray()",
        ),
        (
            [(np.where(W, W, None), B)],
            None,
            TypeError,
            "layers[0]: weight must be an array of real numbers, got dtype object",
        ),
        ([({"w": W}, B)], None, TypeError, "layers[0]: weight must be an array, got a dict with t"),
    ],
)
def test_from_layers_names_the_likely_cause(
    layers: Any, activations: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as error:
        Network.from_layers(layers, activations)
    assert str(error.value).startswith(message)


def test_batch_sizes_may_be_any_integers_in_a_row(net: Network) -> None:
    x = rows(64, 20)
    for sizes in (
        np.array([1, 8]),
        (1, 8),
        range(1, 9, 7),
        iter([1, 8]),
        np.array([1, 8], np.uint8),
    ):
        assert [plan.rows for plan in net.tune(x, sizes, seconds=0.001).plan] == [1, 8]
    for sizes in (np.array([[1, 8]]), np.array(8), {1: 8}, b"18", None):
        with pytest.raises(TypeError, match=r"^batch_sizes must be a sequence of integers, got "):
            net.tune(x, sizes)
    for sizes in (np.array([1.0, 8.0]), np.array([True]), ["8"]):
        with pytest.raises(TypeError, match=r"^batch_sizes must be an integer, got "):
            net.tune(x, sizes)
    quantized = net.quantize(x, layers=np.array([0, 2]))
    assert quantized.plan[0].precisions == ("int8", "f32", "int8")


def test_a_layers_own_activation_is_kept_beside_pairs() -> None:
    net = Network.from_layers([Layer(W, B, Activation("tanh")), OUT])
    assert net.layers[0].activation.name == "tanh"


# --- predict ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "classes", [[30, 10, 20], ["cat", "dog", "a bird"], [0.5, 1.5, 2.5], [True, False]]
)
def test_labels(classes: list[Any]) -> None:
    net = make([4, 10, len(classes)], classes=classes)
    assert net.task == "classification"
    assert net.classes is not None and net.classes.tolist() == classes
    x = rows(50, 4)
    labels = net.predict(x)
    assert labels.dtype == net.classes.dtype
    assert labels.tolist() == [classes[i] for i in net(x).argmax(axis=1)]
    assert net.predict(x[0]) == labels[0]
    assert type(net.predict(x[0])) is type(labels[0])
    assert net.predict(x[:0]).shape == (0,)


def test_classes_by_default_are_numbers() -> None:
    net = make([4, 10, 3], task="classification")
    x = rows(50, 4)
    assert net.classes is not None and net.classes.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(net.predict(x), net(x).argmax(axis=1))
    assert net.predict(x).dtype == np.int64


def test_the_first_of_equal_outputs_wins() -> None:
    eye = np.eye(3)
    net = Network.from_layers([(eye, np.zeros(3))], task="classification")
    x = np.array([[1, 1, 0], [0, 2, 2], [-1, -1, -1], [-np.inf, -np.inf, -np.inf]], np.float32)
    np.testing.assert_array_equal(net.predict(x[:3]), [0, 1, 0])


@pytest.mark.parametrize("last", ["identity", "sigmoid"])
def test_one_output_is_two_classes(last: str) -> None:
    weight = np.array([[1.0]])
    net = Network.from_layers(
        [(weight, np.zeros(1))], [last], task="classification", classes=["no", "yes"]
    )
    x = np.array([[-3.0], [0.0], [1e-6], [2.0], [100.0], [-100.0]])
    assert net.predict(x).tolist() == ["no", "no", "yes", "yes", "yes", "no"]
    proba = net.predict_proba(x)
    assert proba.shape == (6, 2)
    p = 1 / (1 + np.exp(-x[:, 0]))
    np.testing.assert_allclose(proba, np.stack([1 - p, p], axis=1), atol=1e-7)
    assert net.predict_proba(x[0]).shape == (2,)
    assert net.predict(x[3]) == "yes"
    assert np.isnan(net.predict_proba([[np.nan]])).all()
    default = Network.from_layers([(weight, np.zeros(1))], [last], task="classification")
    assert default.classes is not None and default.classes.tolist() == [0, 1]
    np.testing.assert_array_equal(default.predict([[-1.0], [1.0]]), [0, 1])


def test_probabilities() -> None:
    x = rows(50, 4) * 30  # large differences: a naive softmax would overflow
    logits = make([4, 10, 3], task="classification")
    z = logits(x).astype(np.float64)
    softmax = np.exp(z - z.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(logits.predict_proba(x), softmax, atol=1e-5)
    large = Network.from_layers([(np.eye(2) * 1e4, np.zeros(2))], task="classification")
    np.testing.assert_array_equal(large.predict_proba([[1, 0], [0, 1]]), np.eye(2))
    for last in ("softmax", "sigmoid"):  # already probabilities: not applied twice
        net = make([4, 10, 3], last=last, task="classification")
        assert net.task == "classification"
        np.testing.assert_array_equal(net.predict_proba(x), net(x))


def test_a_nan_row_touches_no_other(net: Network) -> None:
    classifier = Network.from_layers(net.layers, task="classification")
    x = rows(70, 20)
    damaged = x.copy()
    damaged[3, 5] = np.nan
    others = np.arange(70) != 3
    for strategy in ("dense", "skip", "gate"):
        plan = classifier.with_strategies([strategy, strategy, "dense"])
        assert np.isnan(plan(damaged)[3]).all()
        assert np.isnan(plan.predict_proba(damaged)[3]).all()
        for call in (plan, plan.predict_proba):
            np.testing.assert_array_equal(call(damaged)[others], call(x)[others])
        labels = plan.predict(damaged, nan_label=-1)
        assert labels[3] == -1
        np.testing.assert_array_equal(labels[others], plan.predict(x)[others])


def test_a_regressor_predicts_values(net: Network) -> None:
    x = rows(9, 20)
    np.testing.assert_array_equal(net.predict(x), net(x))
    with pytest.raises(ValueError) as error:
        net.predict_proba(x)
    assert (
        str(error.value)
        == "predict_proba needs a network with task 'classification' or 'multilabel'"
    )


# --- plans and gates ----------------------------------------------------------------------------


def test_strategies(net: Network) -> None:
    assert net.plan_for().strategies == ("gate", "gate", "dense")
    assert net.dense().plan_for().strategies == ("dense",) * 3
    mixed = net.with_strategies(["skip", "gate", "skip"])
    assert mixed.plan_for().strategies == ("skip", "gate", "skip")
    assert mixed.plan == (BatchPlan(1, ("skip", "gate", "skip"), ("f32",) * 3),)
    assert net.plan_for().strategies == ("gate", "gate", "dense"), "a network never changes"
    x = rows(70, 20)
    for plan in (net, net.dense(), mixed, net.with_strategies(("skip",) * 3)):
        for n in (1, 9, 70):
            assert_close(plan(x[:n]), forward(plan, x[:n])[-1], f"{plan.plan_for().strategies}")
    assert np.abs(net(x) - net.dense()(x)).max() > 0.01, "the gates do nothing"


@pytest.mark.parametrize(
    ("strategies", "kind", "message"),
    [
        (["dense"], ValueError, "strategies must have 3 entries, one per layer, got 1"),
        ([], ValueError, "strategies must have 3 entries, one per layer, got 0"),
        (
            ["dense", "fast", "dense"],
            ValueError,
            "strategies[1] must be one of dense, skip, gate, factor, "
            "skip-factor, factor-gate, skip-factor-gate, got 'fast'",
        ),
        (
            ["dense", "dense", "gate"],
            ValueError,
            "strategies[2] must be dense or skip, since layers[2] has no gate, got 'gate'",
        ),
        (
            "dense",
            TypeError,
            "strategies must be a sequence of names, one per layer, got 'dense': "
            "write ['dense'] * 3",
        ),
        (
            "gate",
            TypeError,
            "strategies must be a sequence of names, one per layer, got 'gate': "
            "write ['gate', 'gate', 'dense']",
        ),
        (
            "fast",
            TypeError,
            "strategies must be a sequence of names, one per layer, got 'fast'",
        ),
        (3, TypeError, "strategies must be a sequence of names, got int"),
        ({0: "dense"}, TypeError, "strategies must be a sequence of names, got dict"),
        ({"dense"}, TypeError, "strategies must be a sequence of names, got set"),
        ([1, 2, 3], TypeError, "strategies must be a sequence of names, got [1, 2, 3]"),
    ],
)
def test_with_strategies_refuses(
    net: Network, strategies: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as error:
        net.with_strategies(strategies)
    assert str(error.value) == message
    assert net.plan_for().strategies == ("gate", "gate", "dense")


def test_with_gates_of_a_mapping_keeps_the_others(net: Network) -> None:
    new = gate(50, 30, 2)
    plan = net.with_strategies(["skip", "skip", "skip"])
    changed = plan.with_gates({1: new})
    assert changed.layers[1].gate is new
    assert changed.layers[0].gate is net.layers[0].gate
    assert changed.plan_for().strategies == ("skip", "gate", "skip")
    gone = net.with_gates({0: None})
    assert gone.layers[0].gate is None and gone.layers[1].gate is net.layers[1].gate
    assert gone.plan_for().strategies == ("dense", "gate", "dense")
    assert net.with_gates({}).plan_for().strategies == net.plan_for().strategies
    none = net.with_gates([None, None, None])
    assert [layer.gate for layer in none.layers] == [None] * 3
    x = rows(9, 20)
    np.testing.assert_array_equal(none(x), net.dense()(x))
    sequence = net.with_gates([None, new, None])
    assert sequence.plan_for().strategies == ("dense", "gate", "dense")


def test_a_gate_that_lets_all_through_is_dense(net: Network) -> None:
    full = net.with_gates([gate(20, 50), gate(50, 30), None])
    x = rows(70, 20)
    assert full.plan_for().strategies == ("gate", "gate", "dense")
    dense = full.dense()
    for n in (1, 9, 70):
        assert_close(full(x[:n]), forward(dense, x[:n])[-1])
    closed = net.with_gates([gate(20, 50), gate(50, 30, bias=-1), None])
    np.testing.assert_array_equal(closed(x), np.tile(net.layers[2].bias, (70, 1)))


HIDDEN = (
    "a gate needs a hidden layer with relu, clipped_relu, thresholded_relu or squared_relu, got"
)


@pytest.mark.parametrize(
    ("gates", "kind", "message"),
    [
        ([None], ValueError, "gates must have 3 entries, one per layer, got 1"),
        ({3: None}, ValueError, "gates must name layers from 0 to 2, got 3"),
        ({-1: None}, ValueError, "gates must name layers from 0 to 2, got -1"),
        ({0: "gate"}, TypeError, "gates[0] must be a Gate or None, got str"),
        ([None, (1, 2, 3), None], TypeError, "gates[1] must be a Gate or None, got tuple"),
        ({2: gate(30, 5)}, ValueError, f"layers[2]: {HIDDEN} the last layer"),
        (
            {0: gate(20, 50, 0)},
            ValueError,
            "layers[0]: rank of the gate must be from 1 to 20, got 0",
        ),
        (
            {0: gate(20, 50, 21)},
            ValueError,
            "layers[0]: rank of the gate must be from 1 to 20, got 21",
        ),
        (
            {0: gate(20, 50, bias=np.nan)},
            ValueError,
            "gates[0].bias must be finite, got NaN at index 0",
        ),
    ],
)
def test_with_gates_refuses(net: Network, gates: Any, kind: type[Exception], message: str) -> None:
    before = [layer.gate for layer in net.layers]
    with pytest.raises(kind) as error:
        net.with_gates(gates)
    assert str(error.value) == message
    assert [layer.gate for layer in net.layers] == before


@pytest.mark.parametrize(("inputs", "outputs"), [(19, 50), (20, 49), (50, 20)])
def test_with_gates_refuses_other_shapes(net: Network, inputs: int, outputs: int) -> None:
    with pytest.raises(ValueError, match=r"gates?(\[0\])?\.[uv].* must have shape"):
        net.with_gates({0: gate(inputs, outputs)})


@pytest.mark.parametrize("hidden", ["tanh", "gelu", "sigmoid", "identity", "softmax", "leaky_relu"])
def test_a_gate_needs_a_hard_zero(hidden: str) -> None:
    with pytest.raises(ValueError) as error:
        make([4, 6, 2], hidden=hidden).with_gates({0: gate(4, 6)})
    assert str(error.value) == f"layers[0]: {HIDDEN} {hidden}"


@pytest.mark.parametrize("name", lrgate._core.ACTIVATIONS)
def test_every_activation_of_the_core(name: str) -> None:
    """The table of the package and the oracle agree with the core."""
    try:
        activation = Activation(name)
    except ValueError:
        activation = Activation(name, 0.5)
    net = make([20, 30], last=activation)
    x = 4 * rows(200, 20)
    z = forward(make([20, 30]), x)[-1][0]
    expected = forward(net, x, ("dense",))[-1]
    assert_close(net(x), expected)
    y, error = expected
    least, most = activation.bounds(z.min(axis=0), z.max(axis=0))
    assert (least <= (y + error).min(axis=0)).all()
    assert (most >= (y - error).max(axis=0)).all()
    assert activation.may_be_negative == (y.min() < 0)
    if activation.has_hard_zero:
        np.testing.assert_allclose(activation.gated(z), y, rtol=1e-6)
        assert (y[z <= activation.threshold] == 0).all()
        assert (y[z > activation.threshold] > 0).all()


def test_the_package_has_the_activations_of_the_core() -> None:
    names = ", ".join(lrgate._core.ACTIVATIONS)
    with pytest.raises(ValueError, match=f"^activation must be one of {names}, got 'none'$"):
        Activation("none")


def test_each_batch_size_uses_its_class(net: Network) -> None:
    plan = (
        BatchPlan(64, ("dense",) * 3, ("f32",) * 3),
        BatchPlan(1, ("gate", "gate", "skip"), ("f32",) * 3),
    )
    both = Network(Model(layers=net.layers, task="regression", plan=plan))
    assert [entry.rows for entry in both.plan] == [1, 64]
    gates = net.with_strategies(["gate", "gate", "skip"])
    x = rows(300, 20)
    for n in (1, 5, 8):  # 8 is as close to 1 as to 64
        assert both.plan_for(n).strategies == ("gate", "gate", "skip")
        np.testing.assert_array_equal(both(x[:n]), gates(x[:n]))
    for n in (9, 64, 300):
        assert both.plan_for(n).strategies == ("dense",) * 3
        np.testing.assert_array_equal(both(x[:n]), net.dense()(x[:n]))
    np.testing.assert_array_equal(both(x[0]), gates(x[0]))


# --- profile and tune ---------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_profile_counts_as_brute_force_does(
    net: Network, strategy: str, batch_size: int | None
) -> None:
    net = net.with_strategies([strategy, strategy, "dense"])
    x = rows(61, 20)
    profile = net.profile(x, batch_size=batch_size, seconds=0)
    assert (profile.rows, profile.batch_size) == (61, batch_size or 61)
    assert profile.instruction_set == lrgate.isa()
    signals = [*net.layer_inputs(x), net(x)]
    for i, (layer, found) in enumerate(zip(net.layers, profile.layers, strict=True)):
        before, after = signals[i].astype(np.float64), signals[i + 1]
        d, h = layer.inputs, layer.outputs
        assert (found.inputs, found.outputs) == (d, h)
        assert (found.strategy, found.precision) == (net.plan_for().strategies[i], "f32")
        assert found.density_in == pytest.approx((before != 0).mean())
        assert found.density_out == pytest.approx((after != 0).mean())
        assert found.seconds_per_row > 0
        if found.strategy != "gate":
            assert (found.rank, found.recall, found.lost_energy) == (None, None, None)
            assert found.computed_share == 1
            share = found.density_in if found.strategy == "skip" else 1.0
            assert found.flop_share == pytest.approx(share)
            continue
        gate = layer.gate
        assert gate is not None
        on = before @ gate.u @ gate.v + gate.bias > 0
        z = np.maximum(before @ layer.weight.T + layer.bias, 0)
        assert found.rank == gate.rank
        assert found.computed_share == pytest.approx(on.mean(), abs=1e-3)
        assert found.recall == pytest.approx(on[z > 0].mean(), abs=1e-3)
        assert found.lost_energy == pytest.approx((z[~on] ** 2).sum() / (z**2).sum(), abs=1e-3)
        estimate = gate.rank * (d * found.density_in + h) / (d * h)
        assert found.flop_share == pytest.approx(estimate + found.computed_share)
        assert 0.05 < found.recall < 0.95
    assert profile.seconds_per_row == pytest.approx(
        sum(layer.seconds_per_row for layer in profile.layers)
    )


def test_a_profile_prints_and_exports(net: Network) -> None:
    profile = net.profile(rows(3, 20), seconds=0)
    lines = str(profile).splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) <= 80
    assert "20-50" in lines[1] and "gate 4" in lines[1]
    assert profile.to_dict()["layers"][0]["rank"] == 4
    assert net.profile(rows(1, 20)[0], seconds=0).rows == 1


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros((0, 20)),), {}, "rows of x must be at least 1, got 0"),
        ((np.zeros((3, 19)),), {}, "x must have shape (n, 20), got (3, 19)"),
        ((np.zeros((3, 20)),), {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ((np.zeros((3, 20)),), {"batch_size": -2}, "batch_size must be at least 1, got -2"),
        ((np.zeros((3, 20)),), {"seconds": -1}, "seconds must be from 0 to 1000000000, got -1"),
    ],
)
def test_profile_refuses(net: Network, arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        net.profile(*arguments, **options)
    assert str(error.value) == message


@pytest.mark.parametrize("size", [2.5, True, "1", np.float32(2)])
def test_batch_sizes_are_integers(net: Network, size: Any) -> None:
    for call in (net.profile, net.phases):
        with pytest.raises(TypeError, match=r"^batch_size must be an integer, got "):
            call(rows(3, 20), batch_size=size)
    assert net.profile(rows(3, 20), batch_size=np.int8(2), seconds=0).batch_size == 2


@pytest.mark.parametrize("seconds", [np.inf, -1, np.nan, 1e300, "1", True, None])
def test_seconds_are_a_finite_time(net: Network, seconds: Any) -> None:
    is_number = isinstance(seconds, float | int) and seconds is not True
    for call in (net.profile, net.phases, net.tune):
        refusal = "from 0 to 1000000000" if is_number else "a number"
        with pytest.raises(ValueError if is_number else TypeError) as error:
            call(rows(3, 20), seconds=seconds)
        assert str(error.value) == f"seconds must be {refusal}, got {seconds!r}"


@pytest.mark.parametrize("layer", [True, -1, 3, 0.0, "0"])
def test_layers_are_named_by_integers(net: Network, layer: Any) -> None:
    with pytest.raises(ValueError) as error:
        net.with_gates({layer: None})
    assert str(error.value) == f"gates must name layers from 0 to 2, got {layer!r}"
    assert net.with_gates({np.uint8(1): None}).layers[1].gate is None


@pytest.mark.parametrize("count", [1, 70])
def test_tune_keeps_the_answers(count: int) -> None:
    net = make([20, 50, 30, 5])
    x = rows(70, 20)
    tuned = net.tune(x[:count], (64, 1, 200), seconds=0.01)
    assert [plan.rows for plan in tuned.plan] == [1, 64, 200]
    assert all(set(plan.strategies) <= {"dense", "skip"} for plan in tuned.plan)
    for n in (1, 8, 9, 70):
        assert_close(tuned(x[:n]), forward(net.dense(), x[:n], ("dense",) * 3)[-1])
    assert [plan.rows for plan in net.plan] == [1]
    assert tuned.layers == net.layers


def test_tune_may_use_the_gates(net: Network) -> None:
    tuned = net.tune(rows(70, 20), seconds=0.01)
    assert [plan.rows for plan in tuned.plan] == [1, 64, 1024]
    x = rows(70, 20)
    for n in (1, 70):
        assert_close(tuned(x[:n]), forward(tuned, x[:n])[-1], f"{tuned.plan_for(n).strategies}")


@pytest.mark.parametrize(
    ("x", "sizes", "message"),
    [
        (np.zeros((0, 20)), (1,), "rows of x must be at least 1, got 0"),
        (np.zeros((3, 19)), (1,), "x must have shape (n, 20), got (3, 19)"),
        (np.zeros((3, 20)), (1, 0), "batch_sizes must be at least 1, got 0"),
        (np.zeros((3, 20)), (1.5,), "batch_sizes must be an integer, got 1.5"),
        (np.zeros((3, 20)), (True,), "batch_sizes must be an integer, got True"),
        (
            np.zeros((3, 20)),
            (8, 8),
            "batch_sizes must be distinct numbers of rows, at least one, each at least 1, got "
            "8 twice",
        ),
        (
            np.zeros((3, 20)),
            (),
            "batch_sizes must be distinct numbers of rows, at least one, each at least 1, got none",
        ),
    ],
)
def test_tune_refuses(net: Network, x: Any, sizes: Any, message: str) -> None:
    kind = TypeError if "an integer" in message else ValueError
    with pytest.raises(kind) as error:
        net.tune(x, sizes)
    assert str(error.value) == message


def test_tune_refuses_a_batch_that_fits_no_memory(net: Network) -> None:
    with pytest.raises(ValueError, match=r"^batch_sizes must be "):
        net.tune(rows(3, 20), [2**62], seconds=0)


# --- orders -------------------------------------------------------------------------------------

# Orders for the layers of 40 and 30 units: with some of the units, and with all.
SOME = (
    np.random.default_rng(3).permutation(40)[:23],
    np.random.default_rng(4).permutation(30)[:9],
    None,
)
ALL = (np.random.default_rng(5).permutation(40), np.random.default_rng(6).permutation(30), None)


def without_the_rest(net: Network, shift: float = 0) -> Network:
    """`net` in which units that are not in `SOME` are always zero for non-negative inputs.

    The input is shifted, and the bias of the first layer compensates for the shift.
    """
    layers = []
    for layer, order in zip(net.layers, SOME, strict=True):
        weight, bias = layer.weight.copy(), layer.bias.copy()
        if order is not None:
            dead = np.setdiff1d(np.arange(layer.outputs), order)
            weight[dead], bias[dead] = -np.abs(weight[dead]), -10
        layers.append(Layer(weight, bias, layer.activation))
    bias = layers[0].bias - np.float32(shift) * layers[0].weight.sum(axis=1)
    layers[0] = dataclasses.replace(layers[0], bias=bias)
    return Network.from_layers(layers, input_scale=0.5, input_shift=shift)


def inputs(n: int = 70) -> list[Any]:
    """The same rows of 20 small integers in all forms that are read by different code."""
    x = np.random.default_rng(2).integers(0, 4, (n, 20)).astype(np.uint8)
    floats = x.astype(np.float32)
    return [x, floats, floats.astype(np.float64), sparse.csr_matrix(floats)]


def dense_rows(x: Any) -> np.ndarray:
    return x.toarray() if hasattr(x, "toarray") else x


@pytest.mark.parametrize(
    "hidden", ["relu", ("clipped_relu", 0.4), ("thresholded_relu", 0.2), ("thresholded_relu", -0.3)]
)
@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
@pytest.mark.parametrize("shift", [0, 0.25, 100])
def test_units_that_are_always_zero_need_not_be_computed(
    hidden: Any, strategy: str, shift: float
) -> None:
    full = gated(without_the_rest(make([20, 40, 30, 5], hidden=hidden), shift))
    full = full.with_strategies([strategy, strategy, "dense"])
    part = full.with_units(SOME)
    assert part.plan_for().strategies == full.plan_for().strategies
    assert part.nbytes < full.nbytes
    for x in inputs():
        for n in (1, 9, 70):
            assert_close(part(x[:n]), forward(full, dense_rows(x[:n]))[-1])
        for one, other in zip(part.layer_inputs(x), full.layer_inputs(x), strict=True):
            assert one.dtype == np.float32
            if strategy != "gate":  # scores of gates may be rounded across 0
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * (1 + shift))


@pytest.mark.parametrize(
    "hidden", ["identity", "relu", ("leaky_relu", 0.3), "tanh", "sigmoid", "gelu"]
)
@pytest.mark.parametrize("strategy", ["dense", "skip"])
def test_units_in_another_order(hidden: Any, strategy: str) -> None:
    full = make([20, 40, 30, 5], hidden=hidden, last="softmax").with_strategies([strategy] * 3)
    other = full.with_units(ALL)
    for x in inputs():
        for n in (1, 9, 70):
            assert_close(other(x[:n]), forward(full, dense_rows(x[:n]))[-1])
    x = inputs()[1]
    for one, two in zip(full.layer_inputs(x), other.layer_inputs(x), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
def test_units_without_a_place_in_the_order_count_as_zero(strategy: str) -> None:
    net = gated(make([20, 40, 30, 5])).with_strategies([strategy, strategy, "dense"])
    blind = []
    for layer, before in zip(net.layers, (None, *SOME[:2]), strict=True):
        computed = np.arange(layer.inputs) if before is None else before
        seen = np.isin(np.arange(layer.inputs), computed)
        gate = layer.gate and Gate(layer.gate.u * seen[:, None], layer.gate.v, layer.gate.bias)
        blind.append(Layer(layer.weight * seen, layer.bias, layer.activation, gate))
    expected = Network.from_layers(blind).with_strategies(net.plan_for().strategies)
    for x in inputs():
        for n in (1, 9, 70):
            got = net.with_units(SOME)(x[:n])
            assert_close(got, forward(expected, dense_rows(x[:n]))[-1])


def test_large_weights_are_converted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(0).normal(size=(7, 6))
    for size in (1, 6, 13, 41, 1000):
        monkeypatch.setattr(arrays, "_PIECE", size)
        for given in (weight, np.float32(weight), np.asfortranarray(weight), weight.astype(">f4")):
            got = arrays.as_float32(given, "weight", "(out, in)")
            assert got.dtype == np.float32 and got.flags.c_contiguous and not got.flags.writeable
            np.testing.assert_array_equal(got, weight.astype(np.float32))
            assert not np.shares_memory(got, given)
            assert arrays.as_float32(got, "weight", "(out, in)") is got
        with pytest.raises(
            ValueError, match=r"^weight must fit float32, got 1e\+300 at index \(6, 5\)"
        ):
            arrays.as_float32(
                np.where(weight == weight[6, 5], 1e300, weight), "weight", "(out, in)"
            )


def test_an_order_is_undone() -> None:
    net = gated(make([20, 40, 30, 5]))
    x = inputs()[0]
    again = net.with_units(SOME).with_units({0: None, 1: None})
    assert [layer.kept_units for layer in again.layers] == [None] * 3
    np.testing.assert_array_equal(again(x), net(x))
    one = net.with_units([SOME[0], None, None]).with_units({1: SOME[1].tolist()})
    np.testing.assert_array_equal(one(x), net.with_units(SOME)(x))


def test_other_units_give_the_probe_other_outputs() -> None:
    net = gated(make([20, 40, 30, 5])).with_probe(inputs()[0])
    part = net.with_units({0: range(10)})
    assert np.abs(part(inputs()[0]) - net.dense()(inputs()[0])).max() > 1e-2
    assert part.check() <= 1e-4
    assert part.with_probe(inputs()[0]).check() <= 1e-4
    again = part.with_units({0: None})
    assert again.check() <= 1e-4
    # The same units in another order: the stored outputs still hold, and are kept.
    ordered = net.with_units({0: np.arange(40)[::-1]})
    assert model_of(ordered).probe.y is model_of(net).probe.y
    assert ordered.check() <= 1e-4


def test_layers_stay_as_they_are_beside_an_order() -> None:
    net = gated(make([20, 40, 30, 5]))
    part = net.with_units(SOME)
    for old, new in zip(net.layers, part.layers, strict=True):
        assert old.weight is new.weight and old.bias is new.bias and old.gate is new.gate
    assert repr(part).startswith("<lrgate.Network 20-40-30-5,")
    assert net.layers[0].kept_units is None
    order = part.layers[0].kept_units
    assert order is not None and order.dtype == np.int32
    np.testing.assert_array_equal(order, SOME[0])
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 1
    again = Network.from_layers(part.layers)
    assert again.layers[0].kept_units is order
    assert again.layers[0].gate is net.layers[0].gate


def test_what_keeps_an_order(tmp_path: Path) -> None:
    x = inputs()[1]
    part = gated(make([20, 40, 30, 5])).with_units(SOME)
    expected = part.with_strategies(["dense"] * 3)(x)
    part.with_probe(x[:5]).save(tmp_path / "net.npz")
    others = {
        "dense": part.dense(),
        "with_strategies": part.with_strategies(["skip"] * 3),
        "with_gates": part.with_gates({}),
        "without gates": part.with_gates([None] * 3),
        "with_probe": part.with_probe(x[:5]),
        "with_metadata": part.with_metadata({"a": 1}),
        "tune": part.tune(x, (1, 8), seconds=0),
        "pickle": pickle.loads(pickle.dumps(part)),  # noqa: S301 (made right here)
        "deepcopy": copy.deepcopy(part),
        "save and load": Network.load(tmp_path / "net.npz"),
    }
    for name, other in others.items():
        for layer, order in zip(other.layers, SOME, strict=True):
            np.testing.assert_array_equal(layer.kept_units, order, err_msg=name)
            assert layer.kept_units is None or not layer.kept_units.flags.writeable
        np.testing.assert_allclose(other.dense()(x), expected, rtol=0, atol=1e-5, err_msg=name)
    assert others["with_probe"].check() <= 1e-6
    assert others["save and load"].check() <= 1e-6


def test_gates_follow_an_order() -> None:
    net = make([20, 40, 30, 5])
    gates = [layer.gate for layer in gated(net).layers]
    before, after = net.with_units(SOME).with_gates(gates), net.with_gates(gates).with_units(SOME)
    assert before.plan_for().strategies == after.plan_for().strategies == ("gate", "gate", "dense")
    for x in inputs():
        np.testing.assert_array_equal(before(x), after(x))
    one = before.with_strategies(["skip"] * 3).with_gates({1: gates[1], 0: None})
    assert one.layers[1].gate is gates[1]
    assert one.plan_for().strategies == ("skip", "skip", "skip"), (
        "a gate that stays as it is turns nothing"
    )


@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
def test_a_profile_is_of_the_full_layers(strategy: str) -> None:
    full = gated(without_the_rest(make([20, 40, 30, 5])), rank=3)
    full = full.with_strategies([strategy, strategy, "skip"])
    x = inputs()[1]
    found = full.with_units(SOME).profile(x, seconds=0).layers
    expected = full.profile(x, seconds=0).layers
    computed = [23, 9, 5]
    for i, (layer, one, two) in enumerate(zip(full.layers, found, expected, strict=True)):
        assert (one.inputs, one.outputs) == (layer.inputs, layer.outputs)
        assert (one.strategy, one.rank) == (two.strategy, two.rank)
        assert one.density_in == pytest.approx(two.density_in)
        assert one.density_out == pytest.approx(two.density_out)
        d, h, d0, h0 = layer.inputs, layer.outputs, [20, 23, 9][i], computed[i]
        units = full.with_units(SOME).layer_inputs(x)
        if one.strategy == "gate":
            gate = layer.gate
            assert gate is not None
            on = (units[i].astype(np.float64) @ gate.u @ gate.v + gate.bias > 0)[:, SOME[i]]
            assert one.computed_share == pytest.approx(on.sum() / (len(x) * h), abs=1e-3)
            estimate = gate.rank * (d * one.density_in + h0) / (d * h)
            assert one.flop_share == pytest.approx(estimate + one.computed_share * d0 / d)
            assert one.recall == pytest.approx(two.recall, abs=1e-3)
            assert one.lost_energy == pytest.approx(two.lost_energy, abs=1e-3)
        else:
            assert one.computed_share == pytest.approx(h0 / h)
            share = one.density_in * d if one.strategy == "skip" else d0
            assert one.flop_share == pytest.approx(share * h0 / (d * h))


LAST = "it is the last layer, whose units are the outputs"


@pytest.mark.parametrize(
    ("orders", "kind", "message"),
    [
        ([None], ValueError, "units must have 3 entries, one per layer, got 1"),
        ({3: None}, ValueError, "units must name layers from 0 to 2, got 3"),
        ({"0": None}, ValueError, "units must name layers from 0 to 2, got '0'"),
        ({True: None}, ValueError, "units must name layers from 0 to 2, got True"),
        (5, TypeError, "units must be a mapping or a sequence of units, got int"),
        (
            {0: [0.0, 1.0]},
            TypeError,
            "units[0]: kept_units must be an array of integers, got dtype float64",
        ),
        (
            {1: [True, False]},
            TypeError,
            "units[1]: kept_units must be an array of integers, got dtype bool",
        ),
        ({1: 3}, ValueError, "units[1]: kept_units must have shape (k,) with k > 0, got ()"),
        ({1: []}, ValueError, "units[1]: kept_units must have shape (k,) with k > 0, got (0,)"),
        ({1: [0, 30]}, ValueError, "units[1]: kept_units must name units from 0 to 29, got 30"),
        ({1: [-1]}, ValueError, "units[1]: kept_units must name units from 0 to 29, got -1"),
        ({0: [4, 2, 4]}, ValueError, "units[0]: kept_units must name distinct units, got 4 twice"),
        ({2: [0, 1, 2, 3, 4]}, ValueError, f"layers[2].kept_units must be None: {LAST}"),
        (
            {0: range(3)},
            ValueError,
            "layers[0]: rank of the gate must be at most 3, the smaller number of inputs and units "
            "that are kept, got 4",
        ),
        (
            {0: range(3, 7), 1: [7, 8]},
            ValueError,
            "layers[1]: rank of the gate must be at most 2, the smaller number of inputs and units "
            "that are kept, got 4",
        ),
    ],
)
def test_with_order_refuses(net: Network, orders: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        net.with_units(orders)
    assert str(error.value) == message
    assert [layer.kept_units for layer in net.layers] == [None] * 3


def test_a_gate_of_too_high_a_rank_for_an_order() -> None:
    part = make([20, 40, 30, 5]).with_units({0: [1, 2]})
    for i, new in ((0, gate(20, 40, 3)), (1, gate(40, 30, 3))):
        with pytest.raises(ValueError, match=r"rank of the gate must be at most 2, .* got 3$"):
            part.with_gates({i: new})
    assert part.with_gates({1: gate(40, 30, 2)}).plan_for().strategies == ("dense", "gate", "dense")
    with pytest.raises(ValueError, match=r"^gates\[1\]: gate\.u must have shape \(40, 2\), got "):
        part.with_gates({1: gate(2, 30, 2)})
    with pytest.raises(
        ValueError, match=r"^gates\[1\]\.v must be finite, got inf at index \(0, 3\)$"
    ):
        v = np.zeros((1, 30))
        v[0, 3] = np.inf
        part.with_gates({1: Gate(np.zeros((40, 1)), v, np.zeros(30))})


def test_from_layers_names_the_layer_whose_order_does_not_fit() -> None:
    layer = Layer(W, B, Activation("relu"), kept_units=np.array([2, 0]))
    with pytest.raises(ValueError) as error:
        Network.from_layers([layer, OUT], ["tanh", "identity"])
    assert str(error.value) == (
        "layers[0]: kept_units must have all 3 units for tanh, which has no hard zero, got 2"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layers.1.weight": np.ones((2, 2))},
            "layers[1]: weight must have 3 columns, the units of layers[0], got 2",
        ),
        (
            {"layers.1.weight": np.ones((2, 4))},
            "layers[1]: weight must have 3 columns, the units of layers[0], got 4",
        ),
        (
            {"layers.0.weight": np.array([[1, 1], [1, np.nan], [1, 1]])},
            "layers[0].weight must be finite, got NaN at index (1, 1)",
        ),
        (
            {"layers.1.weight": np.array([[1, -np.inf, 1], [1, 1, 1]])},
            "layers[1].weight must be finite, got -inf at index (0, 1)",
        ),
        (
            {"layers.0.bias": np.array([1, np.inf, 1])},
            "layers[0].bias must be finite, got inf at index 1",
        ),
        (
            {"layers.0.gate.bias": np.array([1, np.nan, 1])},
            "gates[0].bias must be finite, got NaN at index 1",
        ),
        (
            {"layers.0.kept_units": np.array([2])},
            "layers[0]: rank of the gate must be at most 1, the smaller number of inputs and units "
            "that are kept, got 2",
        ),
    ],
)
def test_files_whose_order_hides_something(
    tmp_path: Path, changes: dict[str, np.ndarray], message: str
) -> None:
    arrays = {
        "lrgate": np.array('{"format_version": 1}'),
        "layers.0.weight": np.ones((3, 2)),
        "layers.0.kept_units": np.array([2, 0]),
        "layers.0.gate.u": np.ones((2, 2)),
        "layers.0.gate.v": np.ones((2, 3)),
        "layers.0.gate.bias": np.ones(3),
        "layers.1.weight": np.ones((2, 3)),
    }
    path = tmp_path / "net.npz"
    np.savez(path, **arrays)
    assert Network.load(path).output_size == 2
    np.savez(path, **(arrays | changes))
    with pytest.raises(lrgate.FileFormatError) as error:
        Network.load(path)
    assert str(error.value) == f"{path}: {message}"


# --- range, machine and report ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((0, 255), [0, 255]),
        (np.array([-1.0, 1.0]), [-1, 1]),
        (([0, 1], [2, 3]), [[0, 1], [2, 3]]),
        ((0, [2, 3]), [[0, 0], [2, 3]]),
        ((np.array([0, 1]), 1), [[0, 1], [1, 1]]),
        (np.array([[0, 1], [2, 3]]), [[0, 1], [2, 3]]),
        (None, None),
    ],
)
def test_input_range(bounds: Any, expected: Any, tmp_path: Path) -> None:
    net = Network.from_layers([(W, B), OUT], input_range=bounds)
    path = tmp_path / "net.safetensors"
    net.with_probe(np.eye(2)).save(path)
    others = [net, net.dense(), net.with_units({0: [2, 0]}), net.tune(np.eye(2), seconds=0)]
    for one in (*others, copy.copy(net), Network.load(path)):
        if expected is None:
            assert one.input_range is None
            continue
        assert one.input_range is not None
        np.testing.assert_array_equal(one.input_range, np.float32(expected), strict=True)
        assert not one.input_range.flags.writeable


@pytest.mark.parametrize(
    ("bounds", "kind", "message"),
    [
        ((1, 0), ValueError, "input_range must have low <= high, got 1.0 > 0.0"),
        ((0, np.inf), ValueError, "input_range must be finite, got inf"),
        ((0, [1, 2, 3]), ValueError, "input_range must have shape (2,) or (2, 2), got (2, 3)"),
        (np.zeros((3, 2)), ValueError, "input_range must have shape (2,) or (2, d), got (3, 2)"),
        (255, TypeError, "input_range must be a pair (low, high), got 255"),
        ((0, "1"), TypeError, "input_range[1] must be an array of real numbers, got dtype <U1"),
    ],
)
def test_from_layers_refuses_other_ranges(bounds: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        Network.from_layers([(W, B), OUT], input_range=bounds)
    assert str(error.value) == message


ELSEWHERE = {"isa": "avx2", "cpu": "another", "l1d": 1, "l2": 2, "l3": None}
REPORT = {"removed": 3}


def model_of(net: Network) -> Model:
    return net.__reduce__()[1][0]


def measured(
    net: Network, machine: Any = ELSEWHERE, probe: int = 9, plan: Any = None, rows: int = 1
) -> Network:
    """`net` as if it had been optimized on `machine`."""
    if plan is None:
        plan = [BatchPlan(rows, ("skip", "dense", "skip"), ("f32",) * 3)]
    x = inputs(9)[0][:probe]
    changes = {"machine": machine, "report": REPORT, "probe": Probe(x, net.dense()(x))}
    return Network(dataclasses.replace(model_of(net), plan=plan, **changes))


def test_what_keeps_machine_and_report() -> None:
    net = measured(gated(make([20, 40, 30, 5])))
    assert net.machine == ELSEWHERE
    x = inputs(9)[0]
    kept = [net.with_probe(x), net.with_metadata({"a": 1}), copy.deepcopy(net)]
    for other in kept:
        assert (other.machine, model_of(other).report) == (ELSEWHERE, REPORT)
    made_by_hand = [
        net.with_gates({}),
        net.with_gates({0: None}),
        net.with_strategies(["skip"] * 3),
        net.dense(),
        net.with_units({0: SOME[0]}),
    ]
    for other in made_by_hand:
        assert (other.machine, model_of(other).report) == (None, None)
    tuned = net.tune(x, (1,), seconds=0)
    assert (tuned.machine, model_of(tuned).report) == (fingerprint(), None)
    assert tuned.machine is not None
    tuned.machine["isa"] = "none"
    assert tuned.machine == fingerprint()
    assert Network.from_layers(net.layers).machine is None


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_plan_of_another_machine_is_measured_again(tmp_path: Path, suffix: str) -> None:
    plan = [BatchPlan(rows, ("gate", "dense", "skip"), ("f32",) * 3) for rows in (1, 4, 1024)]
    net = measured(gated(make([20, 40, 30, 5])).with_units(SOME), plan=plan)
    path = tmp_path / f"net.{suffix}"
    net.save(path)
    loaded = Network.load(path)
    assert loaded.machine == fingerprint()
    assert model_of(loaded).report == REPORT
    assert [entry.rows for entry in loaded.plan] == [1, 4, 1024]
    for one, other in zip(loaded.layers, net.layers, strict=True):
        assert (one.gate is None) == (other.gate is None)
        np.testing.assert_array_equal(one.kept_units, other.kept_units)
    assert loaded.check() <= 1e-6
    loaded.save(path)
    assert Network.load(path).plan == loaded.plan, "it was measured here"


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"machine": fingerprint()}, {}),
        ({"machine": None}, {}),
        ({"plan": None}, {}),
        ({"probe": None}, {}),
        ({}, {"tune": False}),
    ],
)
def test_other_plans_are_not_measured_on_loading(
    tmp_path: Path, changes: dict[str, Any], options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = measured(gated(make([20, 40, 30, 5])))
    model = dataclasses.replace(model_of(net), **changes)
    path = tmp_path / "net.npz"
    Network(model).save(path)
    monkeypatch.setattr(network, "_RETUNE_SECONDS", np.nan)  # no measurement takes this long
    loaded = Network.load(path, **options)
    assert (loaded.machine, model_of(loaded).plan) == (model.machine, model.plan)
    assert model_of(loaded).report == REPORT


def test_a_probe_of_no_rows_is_not_measured(tmp_path: Path) -> None:
    net = measured(make([20, 40, 30, 5]), probe=0)
    path = tmp_path / "net.npz"
    net.save(path)
    loaded = Network.load(path)
    assert (loaded.machine, loaded.plan) == (ELSEWHERE, net.plan)


@pytest.mark.parametrize("used", [(), (0,), (1,), (0, 1)])
def test_a_load_turns_no_gate_on(tmp_path: Path, used: tuple[int, ...]) -> None:
    """Gates that cost nothing and skip everything would be the fastest if they were used."""
    widths = [20, 400, 300, 5]
    closed = [gate(20, 400, bias=-1), gate(400, 300, bias=-1), None]
    net = make(widths).with_gates(closed)
    chosen = tuple("gate" if i in used else "dense" for i in range(3))
    plan = [BatchPlan(1, ("dense",) * 3, ("f32",) * 3), BatchPlan(64, chosen, ("f32",) * 3)]
    path = tmp_path / "net.npz"
    measured(net, plan=plan).save(path)
    loaded = Network.load(path)
    assert loaded.machine == fingerprint()
    assert all(layer.gate is not None for layer in loaded.layers[:2])
    for entry in loaded.plan:
        assert {i for i, name in enumerate(entry.strategies) if name == "gate"} <= set(used)


@pytest.mark.parametrize(
    ("sizes", "machine"),
    [
        ([2**31 - 1], fingerprint()),
        ([1, 2**20, 2**31 - 1], fingerprint()),
        (range(1, 17), fingerprint()),
        (range(1, 20_000), ELSEWHERE),
    ],
)
def test_a_load_measures_no_huge_plan(tmp_path: Path, sizes: Any, machine: Any) -> None:
    plan = [BatchPlan(rows, ("skip", "dense", "skip"), ("f32",) * 3) for rows in sizes]
    path = tmp_path / "net.npz"
    measured(make([20, 40, 30, 5]), plan=plan).save(path)
    loaded = Network.load(path)
    assert [entry.rows for entry in loaded.plan] == list(sizes)
    assert loaded.machine == machine


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_a_load_does_not_fail_for_want_of_measuring(
    tmp_path: Path, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise error("no thread")

    net = measured(make([20, 40, 30, 5]))
    path = tmp_path / "net.npz"
    net.save(path)
    monkeypatch.setattr(Network, "_retune", fails)
    loaded = Network.load(path)
    assert (loaded.machine, loaded.plan) == (ELSEWHERE, net.plan)


def test_a_class_without_time_keeps_its_plan() -> None:
    plan = [BatchPlan(rows, ("skip", "dense", "skip"), ("f32",) * 3) for rows in (1, 64)]
    net = measured(make([20, 40, 30, 5]), plan=plan)
    again = net._retune(0)
    assert (again.plan, model_of(again).report) == (net.plan, REPORT)


# --- layer_inputs and check ---------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
def test_layer_inputs(net: Network, strategy: str) -> None:
    scaled = gated(make([20, 50, 30, 5], input_scale=0.5, input_shift=np.arange(20) / 7))
    for one in (net, scaled):
        one = one.with_strategies([strategy, strategy, "dense"])
        x = rows(70, 20)
        inputs = one.layer_inputs(x)
        assert [a.shape for a in inputs] == [(70, 20), (70, 50), (70, 30)]
        scale = 1 if one.input_scale is None else one.input_scale
        shift = 0 if one.input_shift is None else one.input_shift
        np.testing.assert_allclose(inputs[0], x * scale + shift, rtol=1e-6, atol=1e-6)
        for got, bound in zip(inputs[1:], forward(one, x)[:-1], strict=True):
            assert_close(got, bound)


def test_check(net: Network) -> None:
    probed = net.with_probe(rows(9, 20))
    assert 0 <= probed.check() <= 1e-6
    assert probed.probe is not None
    assert probed.probe.x.dtype == np.float32 and probed.probe.y.shape == (9, 5)
    assert net.probe is None
    with pytest.raises(ValueError, match=r"^check needs a network with a probe; see with_probe$"):
        net.check()
    images = net.with_probe(np.arange(40, dtype=np.uint8).reshape(2, 20))
    assert images.probe is not None and images.probe.x.dtype == np.uint8
    assert images.check() <= 1e-6


@pytest.mark.parametrize("factor", [1.001, np.nan])
def test_check_notices_a_change(net: Network, factor: float) -> None:
    probe = net.with_probe(rows(9, 20)).probe
    assert probe is not None
    y = probe.y.copy()
    y.flat[np.abs(y).argmax()] *= factor
    damaged = Network(Model(layers=net.layers, probe=Probe(probe.x, y)))
    with pytest.raises(ValueError, match=r"^the probe's outputs differ from the stored ones by "):
        damaged.check()


@pytest.mark.parametrize("x", [np.zeros(20), np.zeros((0, 20)), np.zeros((1, 2, 20))])
def test_with_probe_refuses_other_shapes(net: Network, x: np.ndarray) -> None:
    with pytest.raises(ValueError) as error:
        net.with_probe(x)
    shape = f"x must have shape (n, 20), got {x.shape}"
    assert str(error.value) == (shape if x.size else "x must have at least 1 row, got 0")


def test_with_probe_refuses_what_check_could_not_compare(net: Network) -> None:
    x = rows(3, 20)
    x[1, 4] = np.nan
    with pytest.raises(ValueError, match=r"^x must be finite, got NaN in row 1, column 4$"):
        net.with_probe(x)
    large = Network.from_layers([(np.full((1, 2), 3e38), [0.0])])
    with pytest.raises(ValueError, match=r"^x must have finite outputs, got NaN or infinity in "):
        large.with_probe([[0, 0], [2, 2]])


def test_a_probe_of_sparse_rows_is_that_of_dense_ones(net: Network) -> None:
    x = rows(3, 20)
    probe, expected = net.with_probe(sparse.csr_array(x)).probe, net.with_probe(x).probe
    assert probe is not None and expected is not None
    np.testing.assert_array_equal(probe.x, x)
    np.testing.assert_array_equal(probe.y, expected.y)


@pytest.mark.parametrize("dtype", [complex, "U1", "M8[s]"])
def test_with_probe_refuses_other_dtypes(net: Network, dtype: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match=r"^x must be an array of real numbers, got dtype "):
            net.with_probe(np.zeros((2, 20)).astype(dtype))


@pytest.mark.parametrize(
    "x",
    [
        sparse.csr_matrix(np.eye(20)[:3]),
        sparse.csc_array(np.eye(20, dtype=np.uint8)[:3]),
        sparse.coo_matrix(np.eye(20)[:3] > 0),
        np.ma.MaskedArray(np.eye(20)[:3]),
    ],
)
def test_with_probe_takes_sparse_rows(net: Network, x: Any) -> None:
    probed = net.with_probe(x)
    assert probed.probe is not None and probed.check() <= 1e-6
    np.testing.assert_array_equal(probed.probe.x, np.eye(20)[:3])
    assert probed.probe.x.dtype == np.float32
    assert type(probed.probe.x) is np.ndarray


def with_value(value: float) -> np.ndarray:
    x = np.zeros((4, 20))
    x[2, 7] = value
    return x


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39, -1e300])
def test_with_probe_refuses_what_is_not_finite(net: Network, value: float, kind: Any) -> None:
    rule = "x must be finite, got" if not np.isfinite(value) else "x must fit float32, got"
    with pytest.raises(ValueError, match=rf"^{rule} .* in row 2, column 7$"):
        net.with_probe(kind(with_value(value)))


def test_with_probe_refuses_outputs_that_are_not_finite() -> None:
    net = Network.from_layers([(np.full((1, 2), 3e38), np.zeros(1))])
    with pytest.raises(ValueError) as error:
        net.with_probe(np.array([[0, 0], [1, 1]]))
    assert str(error.value) == "x must have finite outputs, got NaN or infinity in row 1"


def test_with_probe_refuses_masked_and_many_sparse_rows(net: Network) -> None:
    masked = np.ma.MaskedArray(np.eye(20), mask=np.eye(20) * (np.arange(20)[:, None] == 4))
    with pytest.raises(TypeError, match="mask"):
        net.with_probe(masked)
    with pytest.raises(ValueError, match=r"^x must be a few rows: sparse ones are stored dense, "):
        net.with_probe(sparse.csr_matrix((10_000_000, 20), dtype=np.float32))


@pytest.mark.parametrize("index", [20, 2**30, -1])
def test_with_probe_reads_no_index_beyond(net: Network, index: int) -> None:
    x = sparse.csr_matrix(np.eye(20)[:3])
    x.indices[1] = index
    with pytest.raises(ValueError, match="ind"):
        net.with_probe(x)


def planned(seed: int = 0) -> Network:
    """An int8 network with gates, orders, two batch sizes with different gates, 32 probe rows."""
    net = gated(make([20, 60, 40, 5]), rank=4)
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(300, 20)).astype(np.float32)
    orders = [draw.permutation(60)[:50], draw.permutation(40)[:35], None]
    net = net.with_units(orders).quantize(x)
    plans = (
        BatchPlan(1, ("gate", "skip", "dense"), ("int8",) * 3),
        BatchPlan(64, ("gate", "gate", "skip"), ("int8", "int8", "f32")),
        BatchPlan(1024, ("skip", "dense", "skip"), ("f32",) * 3),
    )
    return Network(dataclasses.replace(model_of(net), plan=plans)).with_probe(x[:32])


def test_a_probe_has_the_outputs_of_the_plan() -> None:
    net = planned()
    assert net.probe is not None and net.probe.planned is not None
    forms = [(one.strategies, one.precisions) for one in net.probe.planned]
    assert forms == [
        (("gate", "dense", "dense"), ("int8",) * 3),
        (("gate", "gate", "dense"), ("int8", "int8", "f32")),
    ]
    for one, form in zip(net.probe.planned, forms, strict=True):
        np.testing.assert_array_equal(one.y, net.with_strategies(*form)(net.probe.x))
        assert np.abs(one.y - net.probe.y).max() > 1e-3 * np.abs(net.probe.y).max()
        assert checking.CHECK_TOLERANCE <= one.tolerance < 0.2
    assert net.check() <= 1e-4
    dense = net.dense().with_probe(net.probe.x)
    assert dense.probe is not None and dense.probe.planned == ()


def changed(net: Network, i: int, part: str, change: Any) -> Network:
    """`net` with one array of one layer changed as by damage; the probe is unchanged."""
    layer = net.layers[i]
    owner, _, name = part.rpartition(".")
    if owner:
        inner = getattr(layer, owner)
        new = dataclasses.replace(inner, **{name: change(np.array(getattr(inner, name)))})
        layer = dataclasses.replace(layer, **{owner: new})
    else:
        layer = dataclasses.replace(layer, **{name: change(np.array(getattr(layer, name)))})
    layers = (*net.layers[:i], layer, *net.layers[i + 1 :])
    return Network(dataclasses.replace(model_of(net), layers=layers))


@pytest.mark.parametrize("plan_stays", [True, False])
@pytest.mark.parametrize("i", [0, 1])
@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("weight", lambda weight: weight[::-1]),
        ("bias", lambda bias: bias + 0.2),
        ("kept_units", lambda units: units[:-9]),
        ("gate.u", lambda u: -u),
        ("gate.v", lambda v: np.roll(v, 1, axis=1)),
        ("gate.bias", lambda bias: bias - 0.5),
        ("gate.range", lambda bounds: bounds / 16),
        ("quantization.scale", lambda scale: scale * 2),
        ("quantization.scale", lambda scale: scale / 2),
        ("quantization.offset", lambda offset: offset + 200),
    ],
)
def test_check_notices_damage(part: str, change: Any, i: int, plan_stays: bool) -> None:
    """Also with a plan that does not use the damaged part, as after measuring again."""
    net = planned()
    if not plan_stays:
        net = net.dense()
        assert net.check() <= 1e-4
    with pytest.raises(ValueError, match=r"^the probe's outputs( under the plan \S+)? differ "):
        changed(net, i, part, change).check()


def test_check_tells_the_plan() -> None:
    with pytest.raises(ValueError) as error:
        changed(planned(), 0, "gate.bias", lambda bias: bias - 0.5).check()
    plan = "gate-int8/dense-int8/dense-int8"
    start = f"the probe's outputs under the plan {plan} differ from the stored ones by "
    assert str(error.value).startswith(start)


def test_flips_that_change_labels_are_noticed(tmp_path: Path) -> None:
    """For a file without a checksum, and for flips after which it still loads."""
    net, path = planned(), tmp_path / "net.safetensors"
    net.save(path)
    header = header_of(model_of(net)) | {"format_version": 1}
    del header["checksum"]
    saved = path.read_bytes()
    start = 8 + int.from_bytes(saved[:8], "little")
    tensors = json.loads(saved[8:start])
    tensors["__metadata__"]["lrgate"] = json.dumps(header)
    text = json.dumps(tensors).encode()
    content = len(text).to_bytes(8, "little") + text + saved[start:]
    start = 8 + len(text)
    x = np.random.default_rng(1).normal(size=(400, 20)).astype(np.float32)
    plans = [(plan.strategies, plan.precisions) for plan in net.plan]
    expected = [net.with_strategies(*plan)(x).argmax(axis=1) for plan in plans]
    draw, noticed, missed = np.random.default_rng(2), 0, 0
    for bit in 8 * draw.integers(start, len(content), 1200) + draw.integers(4, 8, 1200):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            other = Network.load(path)
        except lrgate.FileFormatError:
            continue
        got = [other.with_strategies(*plan)(x).argmax(axis=1) for plan in plans]
        if max((a != b).mean() for a, b in zip(got, expected, strict=True)) > 0.01:
            try:
                other.check()
            except ValueError:
                noticed += 1
            else:
                missed += 1
    assert noticed > 30
    assert missed <= 0.1 * noticed


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_files_keep_the_outputs_of_plans(tmp_path: Path, suffix: str) -> None:
    net, path = planned(), tmp_path / f"net.{suffix}"
    net.save(path)
    loaded = Network.load(path)
    assert loaded.probe is not None and net.probe is not None
    for one, other in zip(loaded.probe.planned or (), net.probe.planned or (), strict=True):
        np.testing.assert_array_equal(one.y, other.y, strict=True)
        assert (one.strategies, one.precisions) == (other.strategies, other.precisions)
        assert one.tolerance == other.tolerance
    assert loaded.check() == net.check()


def test_saving_adds_the_outputs_that_lack(tmp_path: Path) -> None:
    """Changed gates and quantizations drop their stored outputs; other plans keep theirs."""
    net, path = planned(), tmp_path / "net.npz"
    others = {
        "gates": net.with_gates({0: net.layers[0].gate, 1: None}),
        "order": net.with_units({1: np.arange(40)}),
        "quantization": net.with_quantization({0: Quantization(0.05, 128)}),
    }
    for other in others.values():
        assert other.probe is not None and other.probe.planned == ()
    others["plan"] = net.with_strategies(["dense", "gate", "skip"], "int8")
    others["no outputs"] = Network(
        dataclasses.replace(model_of(net), probe=Probe(net.probe.x, net.probe.y))
    )
    for name, other in others.items():
        other.save(path)
        loaded = Network.load(path)
        assert loaded.probe is not None and loaded.probe.planned is not None
        have = {(one.strategies, one.precisions) for one in loaded.probe.planned}
        for entry in loaded.plan:
            form = tuple(word.replace("skip", "dense") for word in entry.strategies)
            is_dense = "gate" not in form and "int8" not in entry.precisions
            assert is_dense or (form, entry.precisions) in have, name
        if name != "order":  # an order has units that were left out for the probe's outputs
            assert loaded.check() <= 1e-4
        assert len(have) == {"plan": 3}.get(name, len(have))


def test_check_of_gates_that_were_never_on_together() -> None:
    """A plan that was measured again may have such a combination."""
    net = planned()
    mixed = net.with_strategies(["skip", "gate", "skip"], ["f32", "int8", "f32"])
    assert mixed.probe is not None and len(mixed.probe.planned or ()) == 2
    assert mixed.check() <= 1e-4
    with pytest.raises(ValueError, match=r"^the probe's outputs under the plan gate-int8/"):
        changed(mixed, 1, "gate.bias", lambda bias: bias - 1).check()


def test_check_of_files_without_outputs_of_plans() -> None:
    """With format version 1, only large differences from dense are detected."""
    net = planned()
    for i in (0, 1):  # gates that compute most units, as useful gates do
        net = changed(net, i, "gate.bias", lambda bias: bias + 5)
    assert net.probe is not None
    old = Network(dataclasses.replace(model_of(net), probe=Probe(net.probe.x, net.probe.y)))
    assert old.check() <= 1e-4
    for i in (0, 1):
        with pytest.raises(ValueError, match=r"differ from the dense ones by more than 50%: "):
            changed(old, i, "quantization.scale", lambda scale: scale * 1000).check()
    with pytest.raises(ValueError, match=r"differ from the stored ones by "):
        changed(old, 0, "weight", lambda weight: weight[::-1]).check()


def test_few_plans_are_stored() -> None:
    net = gated(make([20, 60, 40, 30, 30, 30, 5]), rank=4)
    names = ("dense", "gate")
    strategies = [(*(names[n >> i & 1] for i in range(5)), "dense") for n in range(32)]
    plans = tuple(BatchPlan(n + 1, words, ("f32",) * 6) for n, words in enumerate(strategies))
    net = Network(dataclasses.replace(model_of(net), plan=plans)).with_probe(rows(5, 20))
    assert net.probe is not None and len(net.probe.planned or ()) == 16
    assert net.check() <= 1e-4


# --- storing, copying, showing ------------------------------------------------------------------


def everything() -> Network:
    """A network with everything that can be stored."""
    net = gated(make([20, 50, 30, 3], classes=["a", "b", "c"], input_scale=0.5, input_shift=0.1))
    net = net.with_metadata({"seed": 3, "command": ["a", "b"]})
    plan = (
        BatchPlan(1, ("gate", "skip", "dense"), ("f32",) * 3),
        BatchPlan(32, ("skip", "gate", "skip"), ("f32",) * 3),
    )
    fields = {
        name: getattr(net, name) for name in ("task", "classes", "input_scale", "input_shift")
    }
    model = Model(layers=net.layers, plan=plan, metadata=net.metadata, **fields)
    return Network(model).with_probe(rows(5, 20))


def assert_same(a: Network, b: Network) -> None:
    assert type(a) is type(b) and a is not b
    assert repr(a) == repr(b)
    assert (a.plan, a.metadata, a.task) == (b.plan, b.metadata, b.task)
    assert a.classes is not None and b.classes is not None
    assert a.classes.tolist() == b.classes.tolist()
    assert a.check() == b.check()
    x = rows(40, 20)
    for n in (1, 9, 40):
        np.testing.assert_array_equal(a(x[:n]), b(x[:n]))
        np.testing.assert_array_equal(a.predict(x[:n]), b.predict(x[:n]))
    for one, other in zip(a.layers, b.layers, strict=True):
        assert (one.gate is None) == (other.gate is None)
        assert one.activation == other.activation


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol: int) -> None:
    net = everything()
    copied = pickle.loads(pickle.dumps(net, protocol))  # noqa: S301 (made right here)
    assert_same(net, copied)
    assert not copied.layers[0].weight.flags.writeable


def test_copies() -> None:
    net = everything()
    assert_same(net, copy.deepcopy(net))
    assert_same(net, copy.copy(net))


@pytest.mark.parametrize("strategies", [["skip"] * 3, ["dense", "gate", "skip"]])
def test_pickle_keeps_a_changed_plan(net: Network, strategies: list[str]) -> None:
    copied = pickle.loads(pickle.dumps(net.with_strategies(strategies)))  # noqa: S301
    assert copied.plan_for().strategies == tuple(strategies)


def predict_elsewhere(job: tuple[Network, np.ndarray]) -> np.ndarray:
    return np.asarray(job[0].predict(job[1]))


def test_a_spawned_process_takes_a_network() -> None:
    net, x = everything(), rows(9, 20)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        labels = pool.submit(predict_elsewhere, (net, x)).result(timeout=60)
    np.testing.assert_array_equal(labels, net.predict(x))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_keep_everything(tmp_path: Path, suffix: str) -> None:
    net = everything()
    path = tmp_path / f"net{suffix}"
    net.save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert_same(net, Network.load(path))
    assert_same(net, Network.load(str(path)))


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    net = everything()
    path = tmp_path / "net.npz"
    net.save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        net.save(tmp_path / "net.pickle")
    with pytest.raises(OSError):
        net.save(tmp_path / "no such folder" / "net.npz")
    folder = tmp_path / "folder.npz"
    folder.mkdir()
    with pytest.raises(OSError):
        net.save(folder)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.npz", "net.npz"]


def test_load_declares_a_task_that_is_open(tmp_path: Path) -> None:
    path, x = tmp_path / "net.npz", rows(6, 4)
    net = make([4, 6, 3])
    net.save(path)
    for again in (Network.load(path), Network.load(path, task="regression")):
        assert (again.task, again.classes) == ("regression", None)
    indices = net(x).argmax(axis=1)
    numbered = Network.load(path, task="classification")
    np.testing.assert_array_equal(numbered.predict(x), indices)
    named = Network.load(path, classes=["c", "a", "b"])
    assert named.predict(x).tolist() == ["cab"[i] for i in indices]
    assert Network.load(path, task="multilabel").predict(x).shape == (6, 3)
    named.save(path)
    same = Network.load(path, task="classification", classes=["c", "a", "b"])
    assert same.predict(x).tolist() == named.predict(x).tolist()
    numbered.save(path)
    assert Network.load(path, classes=[5, 6, 7]).predict(x).tolist() == (indices + 5).tolist()


@pytest.mark.parametrize(
    ("stored", "options", "message"),
    [
        (
            {},
            {"task": "ranking"},
            "task must be one of classification, regression, multilabel, got",
        ),
        ({}, {"classes": [1, 2]}, "classes must have shape (3,) for 3 outputs, got (2,)"),
        (
            {},
            {"task": "regression", "classes": [1, 2, 3]},
            'classes must be None if task is "regression"',
        ),
        (
            {"task": "regression"},
            {"task": "classification"},
            "task must be 'regression', as in the file, got 'classification': another task takes "
            "Network.from_layers(net.layers, task='classification')",
        ),
        (
            {"task": "regression"},
            {"classes": [1, 2, 3]},
            "classes must be None for the task 'regression', as in the file, got [1, 2, 3]: "
            "another task takes Network.from_layers(net.layers, task='classification')",
        ),
        (
            {"classes": ["a", "b", "c"]},
            {"classes": ["b", "a", "c"]},
            "classes must be ['a', 'b', 'c'], as in the file, got ['b', 'a', 'c']",
        ),
        ({"classes": [1, 2, 3]}, {"task": "regression"}, "task must be 'classification', as in "),
    ],
)
def test_load_refuses_another_task(
    stored: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make([4, 6, 3], **stored).save(tmp_path / "net.npz")
    with pytest.raises(ValueError) as error:
        Network.load(tmp_path / "net.npz", **options)
    assert str(error.value).startswith(message)
    assert not isinstance(error.value, lrgate.FileFormatError)


def test_names_in_place_of_sequences_are_refused(net: Network) -> None:
    with pytest.raises(TypeError, match=r"and no layer has a gate: see with_gates$"):
        make([3, 4, 2]).with_strategies("gate")
    for name in ("gates", "quantization", "units"):
        with pytest.raises(TypeError, match=rf"^{name} must be a mapping or a sequence .*got str$"):
            getattr(net, f"with_{name}")("gate")


def test_plan_for_names_the_plan_of_a_call() -> None:
    planned = everything()
    counts = (0, 1, 5, 6, np.int64(32), 10**6)
    assert [planned.plan_for(count).rows for count in counts] == [1, 1, 1, 32, 32, 32]
    for count, message in (
        (-1, "rows must be at least 0, got -1"),
        (1.5, "rows must be an integer, got 1.5"),
        (True, "rows must be an integer, got True"),
        (2**80, f"rows must be at most 2**63 - 1, got {2**80}"),
    ):
        with pytest.raises((TypeError, ValueError)) as error:
            planned.plan_for(count)  # type: ignore[arg-type]
        assert str(error.value) == message


def test_repr() -> None:
    net = make([20, 50, 30, 5])
    assert repr(net).startswith(
        "<lrgate.Network 20-50-30-5, regression, plan {1: dense/dense/dense}"
    )
    x = rows(99, 20)
    assert ", plan {1: skip-int8/skip-int8/skip-int8}" in repr(
        make([20, 50, 30, 5]).with_strategies(["skip"] * 3).quantize(x)
    )
    text = repr(everything())
    assert "classification, plan {1: gate/skip/dense, 32: skip/gate/skip}" in text


def test_nbytes_grows_with_the_layouts(net: Network) -> None:
    plain = make([20, 50, 30, 5])
    weights = 4 * (20 * 50 + 50 * 30 + 30 * 5 + 85)
    assert weights < plain.nbytes < 4 * weights
    assert net.nbytes > plain.nbytes


SIZE_OF_NETWORKS = """
import os, sys
import numpy as np
import lrgate

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

def made(width, gate):
    layers = [(np.full((width, width), 0.01, np.float32), None) for _ in range(3)]
    net = lrgate.Network.from_layers(layers)
    del layers
    if gate:
        rank = width // 4
        factors = np.full((width, rank), 0.1, np.float32), np.full((rank, width), 0.1, np.float32)
        net = net.with_gates({0: lrgate.Gate(*factors, np.ones(width))})
        one = lrgate.Quantization(0.01, 0)
        net = net.with_quantization([None, one, one])
        del factors
    net(np.ones(width, np.float32))
    return net

made(64, True)
for gate in (False, True):
    before = resident()
    net = made(2048, gate)
    print(sys.getsizeof(net) / (resident() - before))
    del net
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_size_of_a_network_is_what_it_takes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIZE_OF_NETWORKS],
        capture_output=True,
        text=True,
        # Blocks go back to the system as they are freed.
        env=os.environ | {"LRGATE_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    ratios = [float(ratio) for ratio in done.stdout.split()]
    assert len(ratios) == 2, done.stderr
    assert all(0.96 < ratio < 1.04 for ratio in ratios), ratios


def test_the_size_counts_all_arrays(net: Network) -> None:
    probed = net.with_probe(rows(1000, net.input_size))
    assert probed.probe is not None
    added = probed.probe.x.nbytes + probed.probe.y.nbytes
    added += sum(one.y.nbytes for one in probed.probe.planned or ())
    assert sys.getsizeof(probed) - sys.getsizeof(net) == added


def test_equal_networks_have_one_dask_token(tmp_path: Path) -> None:
    def token(net: Network) -> tuple[str, str]:
        return net.__dask_tokenize__()

    net = everything()
    net.save(tmp_path / "net.npz")
    same = [everything(), copy.deepcopy(net), pickle.loads(pickle.dumps(net))]  # noqa: S301
    same.append(Network.load(tmp_path / "net.npz"))
    assert {token(one) for one in same} == {token(net)}
    layer = net.layers[0]
    weight = layer.weight.copy()
    weight[0, 0] = np.nextafter(weight[0, 0], np.float32(9))
    assert layer.gate is not None
    others = [
        net,
        Network(replace(net._model, layers=(replace(layer, weight=weight), *net.layers[1:]))),
        net.dense(),
        net.with_gates({0: replace(layer.gate, bias=layer.gate.bias + 1)}),
        net.with_units({0: range(1, 50)}),
        net.with_metadata({"a": 1}),
        net.with_probe(rows(3, net.input_size)),
    ]
    plain = make([4, 6, 3])
    for task in ("classification", "multilabel"):
        others.append(Network.from_layers(plain.layers, task=task))
    others.append(plain)
    others.append(Network.from_layers(plain.layers, "leaky_relu"))
    others.append(Network.from_layers(plain.layers, ("leaky_relu", 0.5)))
    others.append(Network.from_layers(plain.layers, classes=["a", "b", "c"]))
    others.append(Network.from_layers(plain.layers, input_scale=0.5))
    others.append(Network.from_layers(plain.layers, input_shift=0.5))
    assert len({token(one) for one in others}) == len(others)
    assert token(plain) == token(plain.dense())


def test_the_report_is_made_once() -> None:
    assert make([2, 2]).report is None
    net = lrgate.examples.mnist()[0]
    assert net.report is net.report


def test_a_network_takes_no_attributes_of_the_engine(net: Network) -> None:
    with pytest.raises(AttributeError):
        net.layers = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        net.engine = None  # type: ignore[misc]


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    lrgate.show_config()
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["lrgate"] == lrgate.__version__
    assert shown["threads"] == str(lrgate.get_num_threads())


# --- the shipped network ------------------------------------------------------------------------


def test_mnist() -> None:
    net, x, y = lrgate.examples.mnist()
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((1000, 784), np.uint8, (1000,), np.int64)
    assert x.max() == 255
    assert [net.input_size, *(layer.outputs for layer in net.layers)] == [784, 1000, 600, 400, 10]
    assert net.task == "classification"
    assert net.check() <= 1e-4
    plans = [net, net.dense(), net.with_strategies(["skip"] * 4)]
    for plan in plans:
        labels = plan.predict(x)
        assert (labels != y).mean() <= 0.02
        np.testing.assert_array_equal(plan.predict(x.astype(np.float32)), labels)
    bound = forward(net, x[:20], ("dense",) * 4)[-1]
    for plan in plans[1:]:
        assert_close(plan(x[:20]), bound)

"""`lrgate.from_onnx`: models of exporters, refusals, and hostile files."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lrgate
from lrgate import UnsupportedModelError

onnx = pytest.importorskip("onnx", reason="needs onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RNG = np.random.default_rng(0)
W1, B1 = RNG.normal(size=(5, 4)).astype(np.float32), RNG.normal(size=5).astype(np.float32)
W2, B2 = RNG.normal(size=(3, 5)).astype(np.float32), RNG.normal(size=3).astype(np.float32)
X = RNG.normal(size=(7, 4)).astype(np.float32)
HIDDEN = np.maximum(X @ W1.T + B1, 0)
Z = HIDDEN @ W2.T + B2


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def model(
    nodes: list[Any],
    constants: dict[str, Any] | None = None,
    *,
    shape: Any = ("n", 4),
    outputs: tuple[str, ...] = ("y",),
    opset: int = 17,
    kind: int = 1,
    domains: tuple[str, ...] = (),
    ir: int = 8,
    inputs: tuple[str, ...] = (),
    functions: Any = (),
) -> Any:
    """A model with the input x; constants are arrays or TensorProtos."""
    tensors = [
        numpy_helper.from_array(np.asarray(value), name) if not hasattr(value, "dims") else value
        for name, value in (constants or {}).items()
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, shape)]
        + [helper.make_tensor_value_info(name, 1, None) for name in inputs],
        [helper.make_tensor_value_info(name, 1, None) for name in outputs],
        tensors,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=functions)


BASE = {"W1": W1, "b1": B1, "W2": W2, "b2": B2, "V1": W1.T.copy(), "V2": W2.T.copy()}
FIRST = [node("Gemm", "x W1 b1", "h", transB=1), node("Relu", "h", "a")]
GEMMS = [*FIRST, node("Gemm", "a W2 b2", "y", transB=1)]
NO_CONSTANTS = {k: v for k, v in BASE.items() if k[0] != "V"}


def used(nodes: list[Any], extra: dict[str, Any] | None = None) -> dict[str, Any]:
    names = {name for n in nodes for name in n.input}
    return {k: v for k, v in {**BASE, **(extra or {})}.items() if k in names}


def agrees(made: Any, expected: Any = Z, **options: Any) -> lrgate.Network:
    net = lrgate.from_onnx(made, **options)
    np.testing.assert_allclose(net(X), np.reshape(expected, (len(X), -1)), rtol=1e-4, atol=1e-5)
    return net


def refused(made: Any, text: str, **options: Any) -> UnsupportedModelError:
    with pytest.raises(UnsupportedModelError) as caught:
        lrgate.from_onnx(made, **options)
    assert text in str(caught.value), str(caught.value)
    assert caught.value.source == "onnx"
    return caught.value


# Forms of one network


def head(*nodes: Any, **extra: Any) -> Any:
    """A model of which `nodes` compute y from the hidden layer's outputs a, or from x."""
    everything = [*FIRST, *nodes] if all("x" not in n.input for n in nodes) else list(nodes)
    return model(everything, used(everything, extra))


FORMS = {
    "Gemm": model(GEMMS, used(GEMMS)),
    "MatMul": head(node("MatMul", "a V2", "m"), node("Add", "m b2", "y")),
    "bias left": head(node("MatMul", "a V2", "m"), node("Add", "b2 m", "y")),
    "bias row": head(node("MatMul", "a V2", "m"), node("Add", "c m", "y"), c=B2[None]),
    "transposed in the graph": head(
        node("Transpose", "W2", "T", perm=[1, 0]), node("MatMul", "a T", "m"),
        node("Add", "m b2", "y"),
    ),
    "alpha and beta": head(
        node("Gemm", "a W c", "y", alpha=0.5, beta=2.0, transB=1), W=2 * W2, c=B2 / 2
    ),
    "no bias": head(node("Gemm", "a W2", "m", transB=1), node("Sum", "m b2", "y")),
    "identity everywhere": head(
        node("Identity", "a", "i"), node("Dropout", "i", "d"), node("Cast", "d", "c", to=1),
        node("Gemm", "c W2 b2", "g", transB=1), node("Identity", "g", "y"),
    ),
    "batch normalisation": head(
        node("Gemm", "a W2", "m", transB=1),
        node("BatchNormalization", "m scale bias mean var", "y", epsilon=0.0),
        scale=np.float32([2, 2, 2]), bias=B2, mean=np.zeros(3, np.float32),
        var=np.float32([4, 4, 4]),
    ),
    "clamp": model(
        [node("Gemm", "x W1 b1", "h", transB=1), helper.make_node("Clip", ["h", "zero", ""], ["a"]),
         GEMMS[2]], {**NO_CONSTANTS, "zero": np.float32(0)},
    ),
    "max": model(
        [node("Gemm", "x W1 b1", "h", transB=1), node("Max", "zero h", "a"), GEMMS[2]],
        {**NO_CONSTANTS, "zero": np.float32(0)},
    ),
    "where": model(
        [node("Gemm", "x W1 b1", "h", transB=1), node("LessOrEqual", "h zero", "c"),
         node("Where", "c zero h", "a"), GEMMS[2]], {**NO_CONSTANTS, "zero": np.float32(0)},
    ),
    "split and concatenated": head(
        node("Split", "a parts", "p q", axis=1), node("Concat", "q p", "r", axis=-1),
        node("Gemm", "r W b2", "y", transB=1), parts=np.int64([2, 3]),
        W=W2[:, [2, 3, 4, 0, 1]].copy(),
    ),
    "gathered": head(
        node("Gather", "a order", "r", axis=1), node("Gemm", "r W b2", "y", transB=1),
        order=np.int64([4, 3, 2, 1, 0]), W=W2[:, ::-1].copy(),
    ),
    "sliced backwards": head(
        node("Slice", "a start end axis step", "r"), node("Gemm", "r W b2", "y", transB=1),
        start=np.int64([-1]), end=np.int64([-100]), axis=np.int64([1]), step=np.int64([-1]),
        W=W2[:, ::-1].copy(),
    ),
    "padded": head(
        node("Pad", "a pads one", "r"), node("Gemm", "r W c", "y", transB=1),
        pads=np.int64([0, 1, 0, 0]), one=np.float32(1), W=np.c_[B2, W2],
        c=np.zeros(3, np.float32),
    ),
    "shape arithmetic": head(
        node("Shape", "a", "s"), node("Gather", "s zero", "n", axis=0),
        node("Unsqueeze", "n axes", "u"), node("Concat", "u minus", "shape", axis=0),
        node("Reshape", "a shape", "r"), node("Gemm", "r W2 b2", "y", transB=1),
        zero=np.int64(0), axes=np.int64([0]), minus=np.int64([-1]),
    ),
    "column and back": head(
        node("Unsqueeze", "a two", "u"), node("Squeeze", "u two", "s"),
        node("Gemm", "s W2 b2", "y", transB=1), two=np.int64([2]),
    ),
    "weight left of a column": head(
        node("Unsqueeze", "a two", "u"), node("MatMul", "W2 u", "m"), node("Squeeze", "m two", "s"),
        node("Add", "s b2", "y"), two=np.int64([2]),
    ),
    "sum of two products": head(
        node("Gemm", "a U b2", "p", transB=1), node("Gemm", "a U", "q", transB=1),
        node("Add", "p q", "y"), U=W2 / 2,
    ),
    "quantised weights": head(
        node("DequantizeLinear", "q s", "W", axis=0), node("Gemm", "a W b2", "y", transB=1),
        q=np.int8([[1] * 5, [2] * 5, [3] * 5]), s=np.float32([0.5, 1, 2]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_a_form_of_the_same_network(name: str) -> None:
    expected = Z
    if name == "quantised weights":
        expected = HIDDEN @ (np.ones((5, 3)) * [0.5, 2, 6]) + B2
    net = agrees(FORMS[name], expected)
    assert [layer.activation.name for layer in net.layers] == ["relu", "identity"]


def test_weights_are_exact() -> None:
    net = lrgate.from_onnx(FORMS["Gemm"])
    assert (net.layers[0].weight == W1).all() and (net.layers[1].bias == B2).all()


@pytest.mark.parametrize("opset", range(6, onnx.defs.onnx_opset_version() + 1))
def test_every_opset(opset: int) -> None:
    if opset < 13:
        squeeze = node("Squeeze", "h", "s", axes=[1])
        unsqueeze = node("Unsqueeze", "x", "u", axes=[1])
        extra = {}
    else:
        squeeze, unsqueeze = node("Squeeze", "h axes", "s"), node("Unsqueeze", "x axes", "u")
        extra = {"axes": np.int64([1])}
    if opset < 11:
        clip = node("Clip", "s", "a", min=0.0, max=1.0)
    else:
        clip = node("Clip", "s zero one", "a")
        extra |= {"zero": np.float32(0), "one": np.float32(1)}
    product = [node("MatMul", "u V1", "m"), node("Add", "m b1", "h")]
    last = [node("MatMul", "a V2", "n"), node("Add", "n b2", "y")]
    nodes = [unsqueeze, *product, squeeze, clip, *last]
    net = agrees(model(nodes, used(nodes, extra), opset=opset, ir=3 if opset < 9 else 8),
                 np.clip(X @ W1.T + B1, 0, 1) @ W2.T + B2)  # fmt: skip
    assert str(net.layers[0].activation) == "clipped_relu(1)"


def test_initializers_that_are_inputs_are_constants() -> None:
    agrees(model(GEMMS, NO_CONSTANTS, ir=3, opset=8, inputs=tuple(NO_CONSTANTS)))


def test_nodes_in_any_order() -> None:
    agrees(model(GEMMS[::-1], NO_CONSTANTS))


def test_old_broadcast_attributes() -> None:
    nodes = [
        node("MatMul", "x V1", "m"),
        node("Add", "m b1", "h", broadcast=1, axis=1),
        node("Relu", "h", "a"),
        node("Gemm", "a W2 b2", "y", transB=1, broadcast=1),
    ]
    agrees(model(nodes, used(nodes), opset=6, ir=3), verify=False)


@pytest.mark.parametrize("attribute", ["value", "value_floats", "sparse_value"])
def test_constant_nodes(attribute: str) -> None:
    if attribute == "value":
        value: Any = numpy_helper.from_array(B2)
    elif attribute == "value_floats":
        value = B2.tolist()
    else:
        values = numpy_helper.from_array(B2, "v")
        value = helper.make_sparse_tensor(values, numpy_helper.from_array(np.arange(3)), [3])
    nodes = [*GEMMS, node("Constant", "", "b2", **{attribute: value})]
    agrees(model(nodes, {k: v for k, v in NO_CONSTANTS.items() if k != "b2"}))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_float_types(kind: str) -> None:
    types = {"float16": 10, "bfloat16": 16, "float64": 11}
    tensors = {
        name: helper.make_tensor(name, types[kind], value.shape, value.ravel())
        for name, value in NO_CONSTANTS.items()
    }
    made = model(GEMMS, tensors, kind=types[kind])
    net = lrgate.from_onnx(made)
    bound = {"float16": 2e-2, "bfloat16": 0.1, "float64": 1e-5}[kind]
    np.testing.assert_allclose(net(X), Z, atol=bound)
    stored = numpy_helper.to_array(made.graph.initializer[0]).astype(np.float32)
    assert (net.layers[0].weight == stored).all()


def test_double_input_with_float_weights() -> None:
    agrees(model(GEMMS, NO_CONSTANTS, kind=TensorProto.DOUBLE))


def test_whole_number_input() -> None:
    nodes = [node("Cast", "x", "f", to=1), node("Gemm", "f W1 b1", "y", transB=1)]
    agrees(model(nodes, used(nodes), kind=TensorProto.INT64), X @ W1.T + B1)
    refused(model(FORMS["Gemm"].graph.node, NO_CONSTANTS, kind=7), "computes with whole numbers")


def test_fixed_batches_and_one_row() -> None:
    for rows in (1, 2, 7, 10):
        agrees(model(GEMMS, NO_CONSTANTS, shape=[rows, 4]))
    nodes = [node("MatMul", "x V1", "y")]
    agrees(model(nodes, used(nodes), shape=[4]), X @ W1.T)
    left = [node("MatMul", "W1 x", "m"), node("Add", "b1 m", "y")]
    agrees(model(left, used(left), shape=[4]), X @ W1.T + B1)
    column = [node("MatMul", "W1 x", "y")]
    agrees(model(column, used(column), shape=[4, 1]), X @ W1.T)
    flat = [node("Flatten", "x", "f", axis=0), node("MatMul", "f V1", "y")]
    agrees(model(flat, used(flat), shape=[1, 4]), X @ W1.T)
    refused(model(flat, used(flat), shape=["n", 4]), "mixes different rows")
    refused(model(flat, used(flat), shape=[2, 4]), "mixes different rows")


def test_external_data(tmp_path: Path) -> None:
    big = model(GEMMS, NO_CONSTANTS)
    path = tmp_path / "model.onnx"
    onnx.save(big, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    agrees(path)
    agrees(str(path))
    bare = onnx.load(path, load_external_data=False)
    refused(bare, 'its weights are in the file "model.onnx.data": pass the path')
    data = tmp_path / "model.onnx.data"
    kept = data.read_bytes()
    data.write_bytes(kept[:-8])
    refused(path, 'the file "model.onnx.data" is too short')
    data.unlink()
    refused(path, 'its weights are in the file "model.onnx.data", which is not beside it')
    (tmp_path / "sub").mkdir()
    data.write_bytes(kept)
    for tensor in bare.graph.initializer:
        tensor.external_data[0].value = "../model.onnx.data"
    onnx.save(bare, tmp_path / "sub" / "model.onnx")
    refused(tmp_path / "sub" / "model.onnx", "cannot be read")


def test_files_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "model"
    secret.write_bytes(W1.tobytes())
    folder.mkdir()
    (folder / "inside").write_bytes(W1.tobytes())
    (folder / "link").symlink_to(secret)
    (folder / "folder").symlink_to(tmp_path)
    os.link(secret, folder / "hard")

    def at(location: str, **others: str) -> str:
        made = model(GEMMS, NO_CONSTANTS)
        tensor = next(t for t in made.graph.initializer if t.name == "W1")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **others}.items():
            tensor.external_data.add(key=key, value=value)
        path = folder / "m.onnx"
        path.write_bytes(made.SerializeToString())
        return str(path)

    agrees(at("inside"))
    for location in (
        "../secret",
        str(secret),
        "link",
        "folder/secret",
        "hard",
        ".",
        "",
        "/dev/zero",
    ):
        refused(at(location), 'initializer "W1"')
    for location in ("a\0b", "a" * 5000, "http://example.com/weights"):
        refused(at(location), "which is not beside it")
    for entry in ({"offset": "-4"}, {"offset": str(2**70)}, {"length": "0"}, {"offset": "one"}):
        refused(at("inside", **entry), 'initializer "W1"')


def test_constants_are_rounded_as_the_model_rounds_them() -> None:
    nodes = [node("Cast", "W1", "w", to=16), node("Cast", "w", "f", to=1),
             node("Gemm", "x f", "y", transB=1)]  # fmt: skip
    net = lrgate.from_onnx(model(nodes, {"W1": W1}))
    assert not np.array_equal(net.layers[0].weight, W1)
    np.testing.assert_allclose(net.layers[0].weight, W1, rtol=2**-8)


def test_names_that_look_like_others() -> None:
    """Large numbers are not the number of rows, and ai.onnx is the usual domain."""
    agrees(head(node("Gemm", "a W2 b2", "h2", transB=1), node("Add", "h2 big", "y"),
                big=np.float32(1e9)), np.float32(Z + np.float32(1e9)))  # fmt: skip
    nodes = [GEMMS[0], node("Relu", "h", "a", domain="ai.onnx"), GEMMS[2]]
    agrees(model(nodes, NO_CONSTANTS))


def test_damaged_attributes() -> None:
    made = behind("LeakyRelu", alpha=0.5)
    made.graph.node[2].attribute.append(helper.make_attribute("alpha", 0.1))
    refused(made, "have the same name")
    made = behind("LeakyRelu", alpha=0.5)
    made.graph.node[2].attribute[0].ref_attr_name = "slope"
    refused(made, 'its attribute "alpha" is one of a function that is not called')


def test_local_functions() -> None:
    inner = helper.make_function(
        "here", "Layer", ["v", "w", "c"], ["o"], [node("Gemm", "v w c", "o", transB=1)],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    outer = helper.make_function(
        "here", "Hidden", ["v", "w", "c"], ["o"],
        [node("Layer", "v w c", "h", domain="here"), node("Relu", "h", "o")],
        [helper.make_opsetid("", 17), helper.make_opsetid("here", 1)],
    )  # fmt: skip
    nodes = [
        node("Hidden", "x W1 b1", "a", domain="here"),
        node("Layer", "a W2 b2", "y", domain="here"),
    ]
    agrees(model(nodes, NO_CONSTANTS, functions=[inner, outer], domains=("here",), ir=10))


def test_softmax_of_old_opsets_and_log_softmax() -> None:
    e = np.exp(Z - Z.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    for opset in (9, 12, 13, 17):
        nodes = [*FIRST, node("Gemm", "a W2 b2", "z", transB=1), node("Softmax", "z", "y")]
        net = agrees(model(nodes, used(nodes), opset=opset), p)
        assert net.task == "classification"
        nodes[-1] = node("LogSoftmax", "z", "y", axis=1)
        agrees(model(nodes, used(nodes), opset=opset), np.log(p))


# Tasks and labels


def test_labels_and_probabilities() -> None:
    nodes = [
        *FIRST, node("Gemm", "a W2 b2", "z", transB=1), node("Softmax", "z", "p", axis=1),
        node("ArgMax", "p", "i", axis=1, keepdims=0), node("Gather", "classes i", "label"),
    ]  # fmt: skip
    classes = np.array(["cat", "dog", "emu"], object)
    tensor = helper.make_tensor("classes", 8, [3], [c.encode() for c in classes])
    made = model(nodes, {**NO_CONSTANTS, "classes": tensor}, outputs=("label", "p"))
    net = lrgate.from_onnx(made)
    assert net.classes is not None and net.classes.tolist() == classes.tolist()
    assert net.predict(X).tolist() == classes[Z.argmax(1)].tolist()
    assert lrgate.from_onnx(made, output="label").layers[-1].activation.name == "softmax"
    plain = lrgate.from_onnx(made, output="p")
    assert plain.task == "classification" and plain.predict(X).tolist() == Z.argmax(1).tolist()
    assert lrgate.from_onnx(made, classes=["a", "b", "c"]).predict(X[:1]).tolist() == [
        "abc"[Z[0].argmax()]
    ]
    refused(made, 'no output "q": its outputs are "label", "p"', output="q")


def test_argmax_alone_and_label_encoder() -> None:
    nodes = [*GEMMS[:2], node("Gemm", "a W2 b2", "z", transB=1),
             node("ArgMax", "z", "i", axis=1, keepdims=1)]  # fmt: skip
    net = lrgate.from_onnx(model(nodes, NO_CONSTANTS, outputs=("i",)))
    assert net.task == "classification" and net.predict(X).tolist() == Z.argmax(1).tolist()
    encoder = node("LabelEncoder", "i", "l", domain="ai.onnx.ml", keys_int64s=[2, 1, 0],
                   values_strings=["c", "b", "a"])  # fmt: skip
    made = model([*nodes, encoder], NO_CONSTANTS, outputs=("l",), domains=("ai.onnx.ml",))
    net = lrgate.from_onnx(made)
    assert net.predict(X).tolist() == ["abc"[i] for i in Z.argmax(1)]


SCORES = [*GEMMS[:2], node("Gemm", "a W2 b2", "z", transB=1), node("ArgMax", "z", "i", axis=1)]


def labelled(*nodes: Any, outputs: str = "l", **constants: Any) -> Any:
    """A model whose label l comes from the index i of the largest score."""
    return model([*SCORES, *nodes], {**NO_CONSTANTS, **constants}, outputs=tuple(outputs.split()),
                 domains=("ai.onnx.ml",))  # fmt: skip


def encoder(keys: list[int], values: list[Any]) -> Any:
    kind = "strings" if isinstance(values[0], str) else "int64s"
    return node("LabelEncoder", "i", "l", domain="ai.onnx.ml", keys_int64s=keys,
                **{f"values_{kind}": values})  # fmt: skip


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (labelled(node("Cast", "i", "l", to=9)), "it gives several classes the label True"),
        (labelled(node("Gather", "n i", "l"), n=np.array([4, 5, 4])), "the label 4: choose"),
        (labelled(node("Gather", "n i", "l"), n=np.arange(4)), "4 names for 3 classes"),
        (labelled(node("Gather", "n i", "l"), n=np.arange(4).reshape(2, 2)), "the shape (2, 2)"),
        (labelled(encoder([0, 1, 2], ["a", "b", "a"])), "the label 'a'"),
        (labelled(encoder([0], ["a"])), "the label '_Unused'"),
        (labelled(encoder([0, 1, 2, 0], [5, 6, 7, 8])), "two of its keys are equal"),
        (labelled(node("ZipMap", "z", "l", domain="ai.onnx.ml", classlabels_int64s=[3, 2, 1]),
                  outputs="i l"), "choose one by output="),
        (model([*FIRST, node("Gemm", "a w", "z", transB=1), node("ArgMax", "z", "i", axis=1)],
               {"W1": W1, "b1": B1, "w": W2[:1]}, outputs=("i",)), "the largest of one value"),
        (model([*SCORES[:-1], node("Sigmoid", "z", "p"), node("Neg", "p", "q"),
                node("Binarizer", "q", "l", domain="ai.onnx.ml", threshold=0.5)],
               NO_CONSTANTS, outputs=("l",), domains=("ai.onnx.ml",)), "compares with 0.5, a"),
    ],
)  # fmt: skip
def test_labels_that_a_network_cannot_give(made: Any, text: str) -> None:
    refused(made, text)
    refused(made, text, verify=False)


BINARY = [*FIRST, node("Gemm", "a w", "z", transB=1), node("Sigmoid", "z", "p"),
          node("Sub", "one p", "q"), node("Concat", "q p", "both", axis=1),
          node("ArgMax", "both", "i", axis=1, keepdims=0), node("Gather", "n i", "l")]  # fmt: skip
MANY = [*SCORES[:-1], node("Sigmoid", "z", "p"),
        node("Binarizer", "p", "l", domain="ai.onnx.ml", threshold=0.5)]  # fmt: skip
LABELLED = {
    "index": model([*SCORES, node("Identity", "i", "l")], NO_CONSTANTS, outputs=("l", "z")),
    "strings": labelled(node("Gather", "n i", "l"), n=np.array(["u", "v", "w"], object)),
    "whole numbers": labelled(node("Gather", "n i", "l"), n=np.array([7, 3, 5])),
    "real numbers": labelled(node("Cast", "i", "l", to=1)),
    "encoder": labelled(encoder([2, 0, 1], ["c", "a", "b"])),
    "binary": model(BINARY, {"W1": W1, "b1": B1, "w": W2[:1], "one": np.float32(1),
                             "n": np.array([4, 9])}, outputs=("l", "both")),
    "multilabel": model(MANY, NO_CONSTANTS, outputs=("l", "p"), domains=("ai.onnx.ml",)),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELLED)
def test_labels_are_compared_with_the_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lrgate.frameworks import onnx_reader

    made, model_of = LABELLED[name], onnx_reader.Reference
    lrgate.from_onnx(made)

    class Wrong(model_of):  # type: ignore[misc, valid-type]
        """A model with other labels on random rows, or with those of the next class."""

        def __call__(self, x: Any) -> Any:
            result = super().__call__(x)
            if self._name != "l" or (self._start is None) != on_rows:
                return result
            return np.full(result.shape, "none") if on_rows else np.roll(result, 1, axis=0)

    on_rows = False
    monkeypatch.setattr(onnx_reader, "Reference", Wrong)
    refused(made, 'the network\'s labels differ from those of output "l"')
    on_rows = True
    refused(made, "the network's labels differ from the model's own")
    lrgate.from_onnx(made, verify=False)
    # Labels of the caller are not those of the model.
    lrgate.from_onnx(made, task="regression")


def test_unrelated_outputs_need_a_choice() -> None:
    made = model(GEMMS, NO_CONSTANTS, outputs=("y", "a"))
    refused(made, 'it has the outputs "y", "a": choose one by output=')
    agrees(made, output="y")
    agrees(made, HIDDEN, output="a")


@pytest.mark.parametrize("zipmap", [True, False, "columns"])
@pytest.mark.parametrize("target", ["binary", "strings", "multiclass"])
def test_skl2onnx_classifiers(zipmap: Any, target: str) -> None:
    skl2onnx = pytest.importorskip("skl2onnx", reason="needs skl2onnx")
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(1)
    x = (10 + 3 * rng.normal(size=(80, 4))).astype(np.float32)
    y = rng.integers(0, 2 if target == "binary" else 3, 80) + 4
    names = np.array(["a", "b", "c"])[y - 4] if target == "strings" else y
    mlp = MLPClassifier((6,), max_iter=20, random_state=0)
    pipeline = make_pipeline(StandardScaler(), mlp).fit(x, names)
    made = skl2onnx.to_onnx(pipeline, x[:1], options={id(mlp): {"zipmap": zipmap}})
    net = lrgate.from_onnx(made)
    assert net.task == "classification" and net.input_shift is not None
    assert (net.classes == pipeline.classes_).all()
    assert net.output_size == (1 if target == "binary" else 3)
    np.testing.assert_allclose(net.predict_proba(x), pipeline.predict_proba(x), atol=1e-5)
    assert (net.predict(x) == pipeline.predict(x)).mean() > 0.98


def test_skl2onnx_multilabel_and_regressors() -> None:
    skl2onnx = pytest.importorskip("skl2onnx", reason="needs skl2onnx")
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import Normalizer

    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    mlp = MLPClassifier((6,), max_iter=20, random_state=0).fit(x, rng.integers(0, 2, (60, 3)))
    for zipmap in (True, False):
        net = lrgate.from_onnx(skl2onnx.to_onnx(mlp, x[:1], options={id(mlp): {"zipmap": zipmap}}))
        assert net.task == "multilabel"
        np.testing.assert_allclose(net.predict_proba(x), mlp.predict_proba(x), atol=1e-5)
    one = MLPRegressor(hidden_layer_sizes=(6,), max_iter=20, random_state=0).fit(x, x[:, 0])
    for rows in (x, x.astype(np.float64)):
        net = lrgate.from_onnx(skl2onnx.to_onnx(one, rows[:1]))
        np.testing.assert_allclose(net.predict(x), one.predict(x), atol=1e-5)
    # skl2onnx 1.20 reshapes several outputs of a regressor to (-1, 1).
    two = MLPRegressor(hidden_layer_sizes=(6,), max_iter=20, random_state=0).fit(x, x[:, :2])
    made = skl2onnx.to_onnx(two, x[:1])
    error = refused(made, "mixes different rows")
    assert error.op == "Reshape"
    refused(skl2onnx.to_onnx(Normalizer().fit(x), x[:1]), "apply it before")


# PyTorch


def torch_modules() -> dict[str, Any]:
    torch = pytest.importorskip("torch", reason="needs torch")
    nn = torch.nn

    class View(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 5), nn.Linear(5, 1)

        def forward(self, x: Any) -> Any:
            hidden = self.a(x.view(x.size(0), -1)).clamp(min=0)
            return self.b(hidden).squeeze(-1)

    def chain(activation: Any, *last: Any) -> Any:
        return nn.Sequential(nn.Flatten(), nn.Linear(8, 5), activation, nn.Linear(5, 3), *last)

    return {
        "relu": chain(nn.ReLU()),
        "relu6": chain(nn.ReLU6(), nn.LogSoftmax(-1)),
        "no bias": nn.Sequential(nn.Flatten(), nn.Linear(8, 5, bias=False), nn.ReLU()),
        "norm": nn.Sequential(
            nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 5), nn.BatchNorm1d(5), nn.ReLU(),
            nn.Dropout(0.3), nn.Linear(5, 3), nn.Softmax(-1),
        ),
        "view": View(),
        **{
            type(a).__name__: chain(a)
            for a in (
                nn.LeakyReLU(0.2), nn.GELU(), nn.SiLU(), nn.Softplus(), nn.Hardswish(),
                nn.Hardtanh(0, 3), nn.ELU(0.7), nn.SELU(), nn.CELU(0.5), nn.Mish(), nn.PReLU(5),
                nn.Tanh(), nn.Hardsigmoid(),
            )
        },
        "gelu tanh": chain(nn.GELU("tanh")),
    }  # fmt: skip


def exported(modules: dict[str, Any], path: Path, form: str) -> Any:
    """Writes one model with an output for every module: an export takes seconds."""
    import torch

    class Branches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = torch.nn.ModuleList(modules.values())

        def forward(self, x: Any) -> Any:
            return tuple(branch(x) for branch in self.branches)

    torch.manual_seed(0)
    module = Branches()
    for _ in range(3):
        module.train()(2 + 3 * torch.randn(20, 2, 4))
    module.eval()
    x = torch.randn(6, 2, 4)
    names = {"input_names": ["x"], "output_names": [f"out {name}" for name in modules]}
    if form == "script":
        dynamic = {"x": {0: "n"}}
        torch.onnx.export(module, (x,), path, dynamo=False, dynamic_axes=dynamic, **names)
    else:
        shapes = None if form == "fixed" else ({0: torch.export.Dim.DYNAMIC},)
        torch.onnx.export(
            module, (x,), path, dynamo=True, optimize=form != "raw", dynamic_shapes=shapes,
            verbose=False, **names,
        )  # fmt: skip
    return x


@pytest.mark.parametrize("form", ["script", "fixed", "raw"])
@pytest.mark.filterwarnings("ignore")
def test_torch_exports(form: str, tmp_path: Path) -> None:
    modules = torch_modules()
    torch_onnx(form, tmp_path, {name: modules[name] for name in ("relu", "norm", "view")})


@pytest.mark.frameworks
@pytest.mark.parametrize("form", ["script", "dynamo", "fixed", "raw"])
@pytest.mark.filterwarnings("ignore")
def test_torch_exports_of_every_activation(form: str, tmp_path: Path) -> None:
    torch_onnx(form, tmp_path, torch_modules())


def torch_onnx(form: str, folder: Path, modules: dict[str, Any]) -> None:
    if form != "script":
        pytest.importorskip("onnxscript", reason="needs onnxscript")
    path = folder / "model.onnx"
    x = exported(modules, path, form)
    for name, module in modules.items():
        net = lrgate.from_onnx(path, output=f"out {name}")
        expected = module(x).detach().numpy().reshape(len(x), -1)
        np.testing.assert_allclose(
            net(x.numpy().reshape(len(x), -1)), expected, rtol=1e-4, atol=1e-5, err_msg=name
        )
        assert len(net.layers) <= 2


@pytest.mark.filterwarnings("ignore")
def test_torch_training_mode_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    nn = torch.nn
    for module, text in (
        (nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), "statistics of the batch"),
        (nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5)), "drops values at random"),
    ):
        path = tmp_path / "model.onnx"
        torch.onnx.export(
            module, (torch.randn(6, 4),), path, dynamo=False,
            training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False,
        )  # fmt: skip
        refused(path, text)


# Refusals


def behind(op: str, inputs: str = "a", domain: str = "", **attributes: Any) -> Any:
    last = node(op, inputs, "y", domain=domain, **attributes)
    nodes = [*FIRST, last]
    domains = (domain,) if domain else ()
    return model(nodes, used(nodes, {"five": np.ones(5, np.float32), "V": np.ones((5, 5))}),
                 domains=domains)  # fmt: skip


BRANCH = helper.make_graph(
    [node("Identity", "a", "q")], "branch", [], [helper.make_tensor_value_info("q", 1, None)]
)
REFUSALS = {
    "Conv": (behind("Conv", "a W2"), "lrgate runs fully connected networks"),
    "LSTM": (behind("LSTM"), "fully connected"),
    "LayerNormalization": (behind("LayerNormalization", "a five"), "row's own statistics"),
    "RandomNormalLike": (behind("RandomNormalLike"), "random"),
    "Softsign": (behind("Softsign"), "softsign is none of lrgate's activations"),
    "Normalizer": (behind("Normalizer", domain="ai.onnx.ml"), "apply it before"),
    "TreeEnsembleRegressor": (behind("TreeEnsembleRegressor", domain="ai.onnx.ml"), "trees"),
    "Imputer": (behind("Imputer", domain="ai.onnx.ml"), "missing values"),
    "Quant": (behind("Quant", domain="qonnx.custom_op.general"), '"qonnx.custom_op.general"'),
    "QuantizeLinear": (behind("QuantizeLinear", "a five"), "import the float model"),
    "Unknown": (behind("Wibble", domain="com.example"), 'of the domain "com.example"'),
    "If": (behind("If"), "control flow"),
    "Cast": (behind("Cast", to=7), "converts values to int64"),
    "Add": (behind("Add", "a x2"), "nothing computes the value"),
    "residual": (
        model([*FIRST, node("Add", "a h2", "y"), node("Gemm", "x W1", "h2", transB=1)],
              {"W1": W1, "b1": B1}), "branches and residual connections are not supported"),
    "Transpose": (behind("Transpose"), "moves the batch axis"),
    "attribute": (behind("Relu", surprise=3), 'its attribute "surprise" is not supported'),
    "mean of rows": (behind("ReduceMean", axes=[0]), "different rows"),
    "sin": (behind("Sin"), 'the function that ends at node "Sin_3" is none'),
    "two functions": (
        model([*FIRST, node("MatMul", "a V", "m"), node("Mul", "m a", "y")],
              {"W1": W1, "b1": B1, "V": np.ones((5, 5), np.float32)}), "it combines"),
    "product": (
        model([*FIRST, node("MatMul", "a h", "y")], {"W1": W1, "b1": B1}), "two values"),
    "batch": (
        model([node("Shape", "x", "s"), node("Cast", "s", "c", to=1), node("Gather", "c zero", "n"),
               node("Gemm", "x W1 b1", "h", transB=1), node("Div", "h n", "y")],
              {"W1": W1, "b1": B1, "zero": np.int64(0)}), "depends on the number of rows"),
    "half of the rows": (
        model([node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Div", "n two", "k"),
               node("Cast", "k", "c", to=1), node("MatMul", "x V1", "h"), node("Div", "h c", "y")],
              {"V1": W1.T, "zero": np.int64(0), "two": np.int64(2)}),
        "depends on the number of rows"),
    "more than 4 rows": (
        model([node("Shape", "x", "s"), node("Gather", "s zero", "n"),
               node("Greater", "n four", "c"), node("Where", "c b1 b2", "b"),
               node("MatMul", "x V1", "h"), node("Add", "h b", "y")],
              {"V1": W1.T, "b1": B1, "b2": -B1, "zero": np.int64(0), "four": np.int64(4)}),
        "depends on the number of rows"),
    "largest size": (
        model([node("Shape", "x", "s"), node("ReduceMax", "s", "n", keepdims=0),
               node("Equal", "n four", "c"),
               node("Where", "c b1 b2", "b"), node("MatMul", "x V1", "h"), node("Add", "h b", "y")],
              {"V1": W1.T, "b1": B1, "b2": -B1, "four": np.int64(4)}),
        "depends on the number of rows"),
    "first 5,000 rows": (
        model([node("Slice", "x start end start", "h"), node("MatMul", "h V1", "y")],
              {"V1": W1.T, "start": np.int64([0]), "end": np.int64([5000])}), "it chooses rows"),
    "celu": (behind("Celu", alpha=-1.0), "celu with alpha=-1 is not supported"),
    "too many inputs": (behind("Relu", "a a"), "it has 2 inputs, but 1 at most make sense"),
    "too many outputs": (
        model([*FIRST[:1], node("Relu", "h", "y z")], {"W1": W1, "b1": B1}),
        "it has 2 outputs, but 1 at most make sense"),
    "a branch": (
        model([*FIRST, helper.make_node("If", ["yes"], ["y"], then_branch=BRANCH,
                                        else_branch=BRANCH)],
              {"W1": W1, "b1": B1, "yes": np.bool_(True)}), "control flow is not supported"),
    "inputs": (
        model([node("Add", "x other", "s"), node("MatMul", "s V1", "y")], {"V1": W1.T.copy()},
              inputs=("other",)), 'it has the inputs "x", "other"'),
    "no input": (model([node("Identity", "b1", "y")], {"b1": B1}), "do not depend on an input"),
    "constant output": (
        model([node("Gemm", "x W1", "z", transB=1), node("Identity", "b1", "y")],
              {"W1": W1, "b1": B1}, outputs=("z", "y")), 'output "y" does not depend'),
    "free size": (model(GEMMS, NO_CONSTANTS, shape=["n", "d"]), "a free size"),
    "no shape": (model(GEMMS, NO_CONSTANTS, shape=None), "has no shape"),
    "old opset": (model(GEMMS, NO_CONSTANTS, opset=5), "it has opset 5, the oldest"),
    "new opset": (model(GEMMS, NO_CONSTANTS, opset=999), "it has opset 999, but the installed"),
    "part of a row": (
        model([node("MatMul", "x V1", "y")], {"V1": W1.T.copy()}, shape=["n", 3, 4]), "3 parts"),
    "embedding": (behind("Gather", "V a"), "as an embedding does"),
    "argmin": (behind("ArgMax", axis=1, select_last_index=1), "the last of equal values"),
    "cycle": (
        model([node("Add", "x z", "h"), node("Relu", "h", "z"), node("Relu", "z", "y")]), "cycle"),
    "twice": (model([*GEMMS, node("Relu", "x", "y")], NO_CONSTANTS), "is computed twice"),
    "empty": (onnx.ModelProto(), "has no outputs"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    made, text = REFUSALS[name]
    refused(made, text)


def test_a_refusal_names_the_node_and_how_far_the_reader_came() -> None:
    nodes = [*FIRST, helper.make_node("Conv", ["a", "W2"], ["y"], name="/backbone/Conv")]
    error = refused(
        model(nodes, used(nodes)),
        'the model: node "/backbone/Conv" (Conv, 3 of 3) is not supported: lrgate runs fully '
        "connected networks (1 matrix was read before it)",
    )
    assert (error.node, error.op) == ("/backbone/Conv", "Conv")
    assert error.reason == "lrgate runs fully connected networks"


def test_other_arguments(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"path or an onnx\.ModelProto, got int"):
        lrgate.from_onnx(3)
    with pytest.raises(FileNotFoundError):
        lrgate.from_onnx(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="classes"):
        lrgate.from_onnx(FORMS["Gemm"], classes=["a", "b"])
    assert lrgate.from_onnx(FORMS["Gemm"], task="classification").task == "classification"
    assert lrgate.from_onnx(FORMS["Gemm"], task="multilabel").task == "multilabel"


def test_a_wrong_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrgate.frameworks import onnx_operators

    def wrong(chain: Any, node: Any, inputs: Any) -> Any:
        return chain.multiply(right(chain, node, inputs), np.array(1.001))

    right = onnx_operators.OPERATORS["", "Gemm"]
    monkeypatch.setitem(onnx_operators.OPERATORS, ("", "Gemm"), wrong)
    refused(FORMS["Gemm"], "the network's outputs differ from the model's own")
    lrgate.from_onnx(FORMS["Gemm"], verify=False)


# Hostile files


def shaped(op: str, shape: list[int], **attributes: Any) -> Any:
    nodes = [
        node(op, "c shape" if op != "ConstantOfShape" else "shape", "big", **attributes),
        node("ReduceSum", "big", "s", keepdims=0), node("MatMul", "x V1", "h"),
        node("Mul", "h s", "y"),
    ]  # fmt: skip
    return model(nodes, {"shape": np.int64(shape), "c": np.ones((1, 1), np.float32), "V1": W1.T})


def lying(change: Any) -> Any:
    made = model(GEMMS, NO_CONSTANTS)
    change(made.graph.initializer[0])
    return made


def set_dims(*dims: int) -> Any:
    def change(tensor: Any) -> None:
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return change


def repeated(first: list[Any], count: int, step: Any, last: Any) -> Any:
    """A model whose nodes are `first`, those of ``step(i)``, and `last`."""
    nodes = [*first, *(n for i in range(count) for n in step(i)), last]
    identity = np.eye(4, dtype=np.float32)
    return model(nodes, {"E": identity, "F": identity / 2})


WIDE = 2**40
HOSTILE = {
    "ConstantOfShape": shaped("ConstantOfShape", [WIDE]),
    "Expand": shaped("Expand", [2**20, 2**20]),
    "Tile": shaped("Tile", [2**20, 2**20]),
    "Pad": model(
        [node("Pad", "b1 pads", "big"), node("ReduceSum", "big", "s", keepdims=0),
         node("MatMul", "x V1", "h"), node("Mul", "h s", "y")],
        {"b1": B1, "pads": np.int64([0, WIDE]), "V1": W1.T}),
    "Range": model(
        [node("Range", "zero many one", "r"), node("MatMul", "x V1", "h"), node("Add", "h r", "y")],
        {"zero": np.int64(0), "many": np.int64(WIDE), "one": np.int64(1), "V1": W1.T}),
    "OneHot": model(
        [node("OneHot", "zero many values", "r"), node("MatMul", "x V1", "h"),
         node("Add", "h r", "y")],
        {"zero": np.int64([0]), "many": np.int64(WIDE), "values": np.float32([0, 1]), "V1": W1.T}),
    "outer product": model(
        [node("MatMul", "c r", "p"), node("MatMul", "x p", "y")],
        {"c": np.ones((100_000, 1), np.float32), "r": np.ones((1, 100_000), np.float32)}),
    "broadcast": model(
        [node("Add", "c r", "p"), node("MatMul", "x p", "y")],
        {"c": np.ones((100_000, 1), np.float32), "r": np.ones((1, 100_000), np.float32)}),
    "Pad of rows": model(
        [node("Pad", "x pads", "p"), node("ReduceSum", "p", "y")],
        {"pads": np.int64([0, 0, 0, WIDE])}),
    "Tile of rows": model(
        [node("Tile", "x repeats", "p"), node("MatMul", "p V1", "y")],
        {"repeats": np.int64([1, WIDE]), "V1": W1.T}),
    "Expand of rows": model(
        [node("Expand", "x shape", "p"), node("MatMul", "p V1", "y")],
        {"shape": np.int64([1, WIDE, 4]), "V1": W1.T}),
    "huge input": model(GEMMS, NO_CONSTANTS, shape=["n", WIDE]),
    "huge batch": model(GEMMS, NO_CONSTANTS, shape=[WIDE, 4]),
    "dims that lie": lying(set_dims(2**20, 2**20)),
    "dims that overflow": lying(set_dims(2**40, 2**40)),
    "negative dims": lying(set_dims(-5, -4)),
    "short data": lying(lambda t: setattr(t, "raw_data", t.raw_data[:-1])),
    "unknown type": lying(lambda t: setattr(t, "data_type", 99)),
    "many sums": repeated(
        [node("MatMul", "x E", "v0")], 60,
        lambda i: [node("MatMul", f"v{i} E", f"p{i}"), node("MatMul", f"v{i} F", f"q{i}"),
                   node("Add", f"p{i} q{i}", f"v{i + 1}")],
        node("MatMul", "v60 E", "y")),
    "many functions": repeated(
        [node("MatMul", "x E", "z"), node("Exp", "z", "p0"), node("Tanh", "z", "q0")], 60,
        lambda i: [node("Mul", f"p{i} q{i}", f"p{i + 1}"), node("Add", f"p{i} q{i}", f"q{i + 1}")],
        node("Add", "p60 q60", "y")),
    "many Exp": repeated(
        [node("MatMul", "x E", "v0")], 3000, lambda i: [node("Exp", f"v{i}", f"v{i + 1}")],
        node("Identity", "v3000", "y")),
    "many MatMul": repeated(
        [node("MatMul", "x E", "v0")], 5000, lambda i: [node("MatMul", f"v{i} E", f"v{i + 1}")],
        node("Identity", "v5000", "y")),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_models_take_no_memory_and_no_time(name: str) -> None:
    made = HOSTILE[name]
    begin = time.process_time()
    tracemalloc.start()
    try:
        # The sums of powers of two are a network, and may be read as one.
        if name == "many sums":
            lrgate.from_onnx(made, verify=False)
        else:
            refused(made, "")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.2e9 and time.process_time() - begin < 30


def test_hostile_files(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for content in (b"", b"\x00" * 100, b"PK\x03\x04", b"\x3a\xff\xff\xff\xff\x0f"):
        path.write_bytes(content)
        refused(path, "it is not an ONNX model")
    whole = FORMS["Gemm"].SerializeToString()
    for end in range(1, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(UnsupportedModelError):
            lrgate.from_onnx(path)


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
def test_large_weights_are_read_from_the_file(kind: str, tmp_path: Path) -> None:
    wide = RNG.normal(size=(300, 4)).astype(kind)
    last = RNG.normal(size=(300, 300)).astype(kind)
    nodes = [
        node("Gemm", "x A", "h", transB=1),
        node("Relu", "h", "a"),
        node("Gemm", "a B c", "y", transB=1),
    ]
    made = model(nodes, {"c": np.zeros(300, kind), "B": last, "A": wide})
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    net = lrgate.from_onnx(path)
    assert (net.layers[0].weight == wide.astype(np.float32)).all()
    assert (net.layers[1].weight == last.astype(np.float32)).all()
    whole = path.read_bytes()
    for end in (100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(UnsupportedModelError):
            lrgate.from_onnx(path)
    rng = np.random.default_rng(4)
    for _ in range(200):
        damaged = bytearray(whole)
        # Structure is at the beginning and at the end.
        for place in rng.integers(0, 400, 3):
            damaged[int(place) - 200] = int(rng.integers(256))
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            lrgate.from_onnx(path)


def test_functions_that_grow_are_refused() -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("here", 1)]

    def function(name: str, called: str) -> Any:
        body = [
            node(called, "v", "t", domain="here" if called != "Relu" else ""),
            node(called, "t", "o", domain="here" if called != "Relu" else ""),
        ]
        return helper.make_function("here", name, ["v"], ["o"], body, opsets)

    functions = [function("F0", "Relu"), *(function(f"F{i}", f"F{i - 1}") for i in range(1, 40))]
    call = [node("F39", "x", "y", domain="here")]
    made = model(call, domains=("here",), functions=functions, ir=10)
    refused(made, "nodes, at most 100000 are supported")
    loop = [function("A", "B"), function("B", "A")]
    made = model([node("A", "x", "y", domain="here")], domains=("here",), functions=loop, ir=10)
    refused(made, "calls itself")


def test_many_nodes_take_linear_time() -> None:
    nodes = [node("Identity", "x", "v0")]
    nodes += [node("Identity", f"v{i}", f"v{i + 1}") for i in range(20_000)]
    nodes += [node("MatMul", "v20000 V1", "y")]
    begin = time.process_time()
    agrees(model(nodes, {"V1": W1.T}), X @ W1.T, verify=False)
    assert time.process_time() - begin < 20
    nodes = [node("Relu", "x", f"v{i}") for i in range(100_001)]
    refused(model([*nodes, *GEMMS], NO_CONSTANTS), "at most 100000")


# Random rewritings of one network


@st.composite
def rewritten(draw: st.DrawFn) -> tuple[Any, list[Any], list[str], Any, Any]:
    """A model, its weights and activations, and the scale and shift of the input."""
    widths = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    nodes: list[Any] = []
    constants: dict[str, Any] = {}
    count = 0

    def name(prefix: str = "v") -> str:
        nonlocal count
        count += 1
        return f"{prefix}{count}"

    def const(value: Any) -> str:
        label = name("c")
        array = np.asarray(value)
        if draw(st.booleans()):
            nodes.append(node("Constant", "", label, value=numpy_helper.from_array(array)))
        else:
            constants[label] = array
        return label

    def put(op: str, *inputs: str, **attributes: Any) -> str:
        out = name()
        nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def noise(value: str, width: int) -> str:
        """The same values by other nodes."""
        match draw(st.integers(0, 9)):
            case 0:
                return put("Identity", value)
            case 1:
                return put("Cast", value, to=1)
            case 2:
                column = put("Reshape", value, const(np.int64([-1, width, 1])))
                return put("Flatten", column)
            case 3:
                order = rng.permutation(width)
                moved = put("Gather", value, const(order), axis=1)
                return put("Gather", moved, const(np.argsort(order)), axis=1)
            case 4:
                return put("Div", put("Mul", const(np.float32(4)), value), const(np.float32(4)))
            case 5:
                back = put("Sub", const(np.ones(width, np.float32)), value)
                return put("Sub", const(np.ones(width, np.float32)), back)
            case 6:
                shape = put("Shape", value)
                rows = put("Gather", shape, const(np.int64([0])), axis=0)
                wanted = put("Concat", rows, const(np.int64([1, width])), axis=0)
                return put("Squeeze", put("Reshape", value, wanted), const(np.int64([1])))
            case 7 if width > 1:
                parts = [name(), name()]
                sizes = const(np.int64([1, width - 1]))
                nodes.append(helper.make_node("Split", [value, sizes], parts, axis=1))
                return put("Concat", *parts, axis=1)
        return value

    value, scale, shift = "x", None, None
    if draw(st.booleans()):
        scale = np.exp2(rng.integers(-2, 3, widths[0])).astype(np.float32)
        shift = rng.integers(-4, 5, widths[0]).astype(np.float32)
        if draw(st.booleans()):
            value = put("Add", put("Mul", value, const(scale)), const(shift))
        else:
            value = put("Mul", put("Sub", value, const(-shift / scale)), const(scale))
    layers, activations = [], []
    for i, (d, h) in enumerate(itertools.pairwise(widths)):
        weight = rng.normal(size=(h, d)).astype(np.float32)
        bias = rng.normal(size=h).astype(np.float32)
        layers.append((weight, bias))
        value = noise(value, d)
        form = draw(st.integers(0, 3))
        if form == 0:
            value = put("Gemm", value, const(weight), const(bias), transB=1)
        elif form == 1:
            value = put("Add", put("MatMul", value, const(weight.T.copy())), const(bias))
        elif form == 2:
            value = put("Gemm", value, const(weight.T / 2), const(bias / 2), alpha=2.0, beta=2.0)
            value = value if draw(st.booleans()) else put("Identity", value)
            value = put("Sub", put("Mul", value, const(np.float32(1))), const(np.float32(0)))
        else:
            transposed = put("Transpose", const(weight), perm=[1, 0])
            value = put("Add", const(bias), put("MatMul", value, transposed))
        if form == 2:
            layers[-1] = (weight, bias)
        if i == len(widths) - 2:
            activations.append("identity")
            break
        kind = draw(st.sampled_from(["relu", "tanh", "sigmoid", "gelu", "clipped_relu(6)"]))
        activations.append(kind)
        if kind == "relu":
            value = (
                put("Relu", value)
                if draw(st.booleans())
                else put("Max", const(np.float32(0)), value)
            )
        elif kind == "gelu":
            erf = put("Erf", put("Div", value, const(np.float32(2**0.5))))
            one = put("Add", erf, const(np.float32(1)))
            if draw(st.booleans()):
                value = put("Mul", put("Mul", value, one), const(np.float32(0.5)))
            else:
                value = put("Mul", put("Mul", value, const(np.float32(0.5))), one)
        elif kind.startswith("clipped"):
            value = put("Clip", value, const(np.float32(0)), const(np.float32(6)))
        else:
            value = put(kind.capitalize(), value)
    value = noise(value, widths[-1])
    nodes.append(helper.make_node("Identity", [value], ["y"]))
    order = draw(st.permutations(range(len(nodes)))) if draw(st.booleans()) else range(len(nodes))
    made = model([nodes[i] for i in order], constants, shape=["n", widths[0]])
    return made, layers, activations, scale, shift


@settings(max_examples=60, deadline=None)
@given(rewritten())
def test_every_rewriting_gives_the_same_network(case: Any) -> None:
    made, layers, activations, scale, shift = case
    net = lrgate.from_onnx(made)
    same = lrgate.Network.from_layers(
        layers, [lrgate.Activation("clipped_relu", 6) if "(" in a else a for a in activations],
        input_scale=scale, input_shift=shift,
    )  # fmt: skip
    x = np.random.default_rng(3).normal(size=(5, net.input_size)).astype(np.float32)
    np.testing.assert_allclose(net(x), same(x), rtol=1e-4, atol=1e-4)
    assert [str(layer.activation) for layer in net.layers] == activations
    for i, (weight, bias) in enumerate(folded(same)):
        got_weight, got_bias = folded(net)[i]
        np.testing.assert_allclose(got_weight, weight, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got_bias, bias, rtol=1e-5, atol=1e-5)


def folded(net: lrgate.Network) -> list[tuple[Any, Any]]:
    """Weights and biases with the scale and shift of the input in the first layer.

    A reader may fold them there, if elements of the output are taken and joined.
    """
    layers = [(layer.weight.astype(np.float64), layer.bias) for layer in net.layers]
    weight, bias = layers[0]
    shift = 0.0 if net.input_shift is None else net.input_shift
    scale = 1.0 if net.input_scale is None else net.input_scale
    layers[0] = (weight * scale, bias + weight @ (np.zeros(net.input_size) + shift))
    return layers

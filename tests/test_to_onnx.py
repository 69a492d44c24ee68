"""`Network.to_onnx`: agreement with ONNX Runtime, and round trips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate import Activation, Network

onnx = pytest.importorskip("onnx", reason="needs onnx")

RNG = np.random.default_rng(0)
HIDDEN = (RNG.normal(size=(6, 4)), RNG.normal(size=6))
LAYERS = [HIDDEN, (RNG.normal(size=(3, 6)), RNG.normal(size=3))]
ONE = [HIDDEN, (RNG.normal(size=(1, 6)), RNG.normal(size=1))]
X = RNG.normal(size=(40, 4)).astype(np.float32)

ACTIVATIONS: list[Any] = [
    "relu", ("clipped_relu", 0.7), ("thresholded_relu", 0.3), ("leaky_relu", 0.2), "tanh",
    "sigmoid", "gelu", "gelu_tanh", ("elu", 0.7), "selu", "silu", "softplus", "mish", "exp",
    ("hard_tanh", -0.5, 0.7), "hard_sigmoid", "hard_swish",
    ("prelu", np.linspace(0.1, 0.6, 6)), "squared_relu", "softmax", "log_softmax",
]  # fmt: skip


def run(path: Path) -> list[Any]:
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, {session.get_inputs()[0].name: X})
    return outputs


def equal(a: Network, b: Network) -> None:
    assert (a.task, a._model.task) == (b.task, b._model.task)
    assert [str(layer.activation) for layer in a.layers] == [
        str(layer.activation) for layer in b.layers
    ]
    for p, q in zip(a.layers, b.layers, strict=True):
        assert (p.weight == q.weight).all() and (p.bias == q.bias).all()
        for first, second in zip(p.activation.parameters, q.activation.parameters, strict=True):
            np.testing.assert_allclose(np.float32(first), np.float32(second), rtol=1e-6)
    for first, second in ((a.input_scale, b.input_scale), (a.input_shift, b.input_shift)):
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            assert first.shape == second.shape and (first == second).all()
    assert (a.classes is None) == (b.classes is None)
    if a.classes is not None and b.classes is not None:
        assert a.classes.dtype == b.classes.dtype and (a.classes == b.classes).all()


@pytest.mark.parametrize("opset", [13, 17, 22])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_every_activation(activation: Any, opset: int, tmp_path: Path) -> None:
    parsed = Activation.parse(activation)
    row_wise = parsed.name in ("softmax", "log_softmax")
    activations = ["relu", parsed] if row_wise else [parsed, "identity"]
    net = Network.from_layers(LAYERS, activations, task="regression")
    path = tmp_path / "net.onnx"
    net.to_onnx(path, opset=opset)
    (outputs,) = run(path)
    np.testing.assert_allclose(outputs, net(X), rtol=1e-5, atol=1e-5)
    equal(lrgate.from_onnx(path), net)


TASKS: dict[str, Any] = {
    "undeclared": (LAYERS, "identity", {}),
    "regression": (LAYERS, "identity", {"task": "regression"}),
    "softmax of a regressor": (LAYERS, "softmax", {"task": "regression"}),
    "logits": (LAYERS, "identity", {"classes": ["ant", "bee", "cat"]}),
    "softmax": (LAYERS, "softmax", {"classes": [5, 7, 9]}),
    "log_softmax": (LAYERS, "log_softmax", {"classes": [5, 7, 9]}),
    "tanh": (LAYERS, "tanh", {"task": "classification"}),
    "no classes": (LAYERS, "softmax", {}),
    "sigmoids of classes": (LAYERS, "sigmoid", {"task": "classification"}),
    "float classes": (LAYERS, "softmax", {"classes": [0.5, 1.5, 2.5]}),
    "multilabel": (LAYERS, "sigmoid", {}),
    "multilabel logits": (LAYERS, "identity", {"task": "multilabel"}),
    "binary": (ONE, "sigmoid", {"classes": ["no", "yes"]}),
    "binary logit": (ONE, "identity", {"task": "classification"}),
}


@pytest.mark.parametrize("name", TASKS)
def test_every_task(name: str, tmp_path: Path) -> None:
    layers, last, options = TASKS[name]
    net = Network.from_layers(layers, ["relu", last], **options)
    path = tmp_path / "net.onnx"
    net.to_onnx(path)
    equal(lrgate.from_onnx(path), net)
    outputs = run(path)
    if net.task == "regression":
        np.testing.assert_allclose(outputs[0], net(X), rtol=1e-5, atol=1e-5)
    else:
        labels, probabilities = outputs
        assert labels.tolist() == net.predict(X).tolist()
        np.testing.assert_allclose(probabilities, net.predict_proba(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [None, 2.0, [1.0, -2000.0, 3.0, 0.0]])
@pytest.mark.parametrize("scale", [None, 0.5, [1.0, 2.0, 0.25, -1.0]])
def test_the_input_map(scale: Any, shift: Any, tmp_path: Path) -> None:
    net = Network.from_layers(LAYERS, input_scale=scale, input_shift=shift)
    path = tmp_path / "net.onnx"
    net.to_onnx(path, input_name="rows", output_names=["values"])
    np.testing.assert_allclose(run(path)[0], net(X), rtol=1e-4, atol=1e-3)
    equal(lrgate.from_onnx(path), net)
    made = onnx.load(path)
    assert [made.graph.input[0].name, made.graph.output[0].name] == ["rows", "values"]


def test_names_of_users_never_clash(tmp_path: Path) -> None:
    net = Network.from_layers(LAYERS, classes=[0, 1, 2])
    path = tmp_path / "net.onnx"
    net.to_onnx(path, input_name="weight0", output_names=("Gemm0_out", "bias1"))
    assert run(path)[0].tolist() == net.predict(X).tolist()
    equal(lrgate.from_onnx(path), net)


def test_a_plan_is_not_written(tmp_path: Path) -> None:
    net = Network.from_layers(LAYERS).quantize(X)
    path = tmp_path / "net.onnx"
    net.to_onnx(path)
    np.testing.assert_allclose(run(path)[0], Network.from_layers(LAYERS)(X), rtol=1e-5, atol=1e-5)


def test_refusals_leave_the_file(tmp_path: Path) -> None:
    net = Network.from_layers(LAYERS)
    path = tmp_path / "net.onnx"
    path.write_bytes(b"kept")
    for options, text in (
        ({"opset": 12}, "opset must be from 13 to"),
        ({"opset": 99}, "opset must be from 13 to"),
        ({"output_names": ("a", "b")}, "output_names must be 1 different names"),
        ({"input_name": "outputs"}, "different names"),
    ):
        with pytest.raises(ValueError, match=text):
            net.to_onnx(path, **options)
    assert path.read_bytes() == b"kept"
    with pytest.raises(OSError):
        net.to_onnx(tmp_path / "none" / "net.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]

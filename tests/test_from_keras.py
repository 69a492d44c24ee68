"""Networks from Keras models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate import UnsupportedModelError
from lrgate.frameworks.chain import Chain

pytestmark = pytest.mark.frameworks

if "KERAS_BACKEND" not in os.environ:
    pytest.importorskip("torch", reason="needs PyTorch, as the backend of Keras")
    os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras", reason="needs Keras")
layers = keras.layers


def sequential(shape: tuple[int, ...], *parts: Any) -> Any:
    """A Sequential whose weights and statistics are all random."""
    model = keras.Sequential([keras.Input(shape), *parts])
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "seed" in variable.path:
            continue
        values = rng.standard_normal(variable.shape) / np.sqrt(max(1, variable.shape[0]))
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    return model


def outputs(model: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(model(x, training=False)))


def rows(model: Any, n: int = 40) -> np.ndarray:
    rng = np.random.default_rng(1)
    x = (2 * rng.standard_normal((n, *model.inputs[0].shape[1:]))).astype(np.float32)
    # Some rows reach the bounds of activations.
    x[::4] *= 300
    return x


def agree(model: Any, **options: Any) -> Any:
    net = lrgate.from_keras(model, **options)
    x = rows(model)
    expected = outputs(model, x).reshape(len(x), -1)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(net(x.reshape(len(x), -1)), expected, rtol=1e-5, atol=1e-5 * scale)
    return net


MODELS: dict[str, Callable[[], Any]] = {
    "dense": lambda: sequential((6,), layers.Dense(8, "relu"), layers.Dense(3)),
    "no bias": lambda: sequential((6,), layers.Dense(8, "relu", use_bias=False), layers.Dense(3)),
    "batch normalisation after": lambda: sequential(
        (6,), layers.Dense(8), layers.BatchNormalization(), layers.ReLU(), layers.Dense(3)
    ),
    "batch normalisation before": lambda: sequential(
        (6,), layers.BatchNormalization(), layers.Dense(8, "relu"), layers.Dense(3)
    ),
    "batch normalisation without scale and centre": lambda: sequential(
        (6,), layers.BatchNormalization(scale=False, center=False), layers.Dense(3)
    ),
    "dropout and noise": lambda: sequential(
        (6,),
        layers.GaussianNoise(0.1),
        layers.Dense(8, "relu"),
        layers.Dropout(0.5),
        layers.AlphaDropout(0.1),
        layers.Dense(3),
    ),
    "image": lambda: sequential(
        (4, 5, 2),
        layers.Rescaling(1 / 255, -0.5),
        layers.Permute((3, 1, 2)),
        layers.Flatten(),
        layers.Dense(8, "relu"),
        layers.Reshape((2, 4)),
        layers.Reshape((-1,)),
        layers.Dense(3),
    ),
    "channels first": lambda: sequential(
        (4, 5), layers.Flatten(data_format="channels_first"), layers.Dense(3)
    ),
    "nested": lambda: sequential(
        (6,), sequential((6,), layers.Dense(5, "tanh"), layers.Dense(4)), layers.Dense(3)
    ),
    "clipped": lambda: sequential((6,), layers.Dense(8), layers.ReLU(max_value=3.0)),
    "clipped far away": lambda: sequential((6,), layers.Dense(8), layers.ReLU(max_value=150.0)),
    "repeated": lambda: sequential(
        (6,), layers.Dense(4, "relu"), layers.RepeatVector(3), layers.Flatten(), layers.Dense(3)
    ),
    "leaky relu": lambda: sequential((6,), layers.Dense(8), layers.LeakyReLU(0.2)),
    "slope of ReLU": lambda: sequential((6,), layers.Dense(8), layers.ReLU(negative_slope=0.3)),
    "threshold": lambda: sequential((6,), layers.Dense(8), layers.ReLU(threshold=0.5)),
    "prelu": lambda: sequential((6,), layers.Dense(8), layers.PReLU(), layers.Dense(3)),
    "elu": lambda: sequential((6,), layers.Dense(8), layers.ELU(0.7), layers.Dense(3)),
    "softmax layer": lambda: sequential((6,), layers.Dense(8), layers.Softmax()),
    "activation layer": lambda: sequential((6,), layers.Dense(8), layers.Activation("gelu")),
    "activation as layer": lambda: sequential((6,), layers.Dense(8, layers.LeakyReLU(0.1))),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    agree(MODELS[name]())


@pytest.mark.parametrize(
    "name",
    [
        "linear",
        "relu",
        "relu6",
        "tanh",
        "sigmoid",
        "elu",
        "selu",
        "silu",
        "softplus",
        "mish",
        "exponential",
        "gelu",
        "hard_sigmoid",
        "hard_silu",
        "hard_swish",
        "leaky_relu",
        "hard_tanh",
        "celu",
        "log_sigmoid",
        "log_softmax",
        "softmax",
    ],
)
def test_activations(name: str) -> None:
    over_units = name in ("softmax", "log_softmax")
    parts = (layers.Dense(8, "relu" if over_units else name), layers.Dense(3, name))
    agree(sequential((6,), *parts))


@pytest.mark.parametrize(
    ("function", "options"),
    [
        ("relu", {}),
        ("relu6", {}),
        ("tanh", {}),
        ("exp", {}),
        ("silu", {}),
        ("selu", {}),
        ("sigmoid", {}),
        ("softplus", {}),
        ("log_sigmoid", {}),
        ("hard_sigmoid", {}),
        ("hard_silu", {}),
        ("hard_tanh", {}),
        ("elu", {"alpha": 0.5}),
        ("leaky_relu", {"negative_slope": 0.1}),
        ("gelu", {}),
        ("gelu", {"approximate": False}),
        ("softmax", {}),
        ("log_softmax", {}),
    ],
)
def test_functions_of_ops(function: str, options: dict[str, Any]) -> None:
    x = keras.Input((6,))
    hidden = layers.Dense(8)(x)
    y = getattr(keras.ops, function)(hidden, **options)
    over_units = "softmax" in function
    agree(keras.Model(x, y if over_units else layers.Dense(3)(y)))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
def test_integer_inputs(dtype: str) -> None:
    first = [layers.Rescaling(1 / 255), layers.Flatten(), layers.BatchNormalization()]
    for part in first:
        model = keras.Sequential(
            [keras.Input((6,), dtype=dtype), part, layers.Dense(8, "relu"), layers.Dense(3)]
        )
        net = lrgate.from_keras(model)
        limits = np.iinfo(dtype)
        low, high = max(int(limits.min), -1000), min(int(limits.max), 1000)
        x = np.random.default_rng(0).integers(low, high, (20, 6), endpoint=True).astype(dtype)
        expected = outputs(model, x)
        tolerance = 1e-5 * float(np.abs(expected).max())
        np.testing.assert_allclose(net(x.astype(np.float32)), expected, rtol=1e-5, atol=tolerance)


def test_constants_of_relu_reach_the_recognition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them, a bound beyond the values that it tries is not found."""
    given = []
    apply = Chain.apply
    monkeypatch.setattr(Chain, "apply", lambda *args: given.append(args[3:]) or apply(*args))
    part = layers.ReLU(max_value=150.0, negative_slope=0.25, threshold=0.5)
    with pytest.raises(UnsupportedModelError):
        lrgate.from_keras(sequential((6,), layers.Dense(8), part, layers.Dense(3)), verify=False)
    assert given == [(0.5, 150.0)]


def test_the_normalization_stays_apart() -> None:
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(0).normal(1000, 5, (200, 6)))
    model = keras.Sequential([keras.Input((6,)), norm, layers.Dense(8, "relu"), layers.Dense(3)])
    net = lrgate.from_keras(model)
    kernel = keras.ops.convert_to_numpy(model.layers[1].kernel)
    np.testing.assert_array_equal(net.layers[0].weight, kernel.T)
    x = np.random.default_rng(1).normal(1000, 5, (20, 6)).astype(np.float32)
    np.testing.assert_allclose(net(x), outputs(model, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_models_that_keras_exports_to_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs onnx")
    if keras.backend.backend() == "torch":
        pytest.importorskip("onnxscript", reason="Keras exports to ONNX by onnxscript")
    model = MODELS[name]()
    x = rows(model)
    expected = outputs(model, x).reshape(len(x), -1)
    path = tmp_path / "model.onnx"
    model.export(str(path), format="onnx", verbose=False)
    if name == "threshold":
        # Keras writes where(z > threshold, z, 0).
        with pytest.raises(UnsupportedModelError, match="except that it makes a number of NaN"):
            lrgate.from_onnx(path)
        return
    net = lrgate.from_onnx(path)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(net(x.reshape(len(x), -1)), expected, rtol=1e-5, atol=1e-5 * scale)
    names = [layer.activation.name for layer in net.layers]
    assert names == [layer.activation.name for layer in lrgate.from_keras(model).layers]


def test_functional_models_and_files(tmp_path: Path) -> None:
    x = keras.Input((6,))
    hidden = layers.Dense(8, "relu")(x)
    both = layers.Concatenate()([hidden, hidden])
    model = keras.Model(x, layers.Dense(1, "sigmoid")(both))
    net = agree(model, classes=["no", "yes"])
    assert net.classes.tolist() == ["no", "yes"]
    named = lrgate.from_keras(keras.Model({"rows": x}, {"score": model(x)}))
    np.testing.assert_array_equal(named.layers[0].weight, net.layers[0].weight)
    path = tmp_path / "model.keras"
    model.save(path)
    capital = tmp_path / "MODEL.KERAS"
    shutil.copyfile(path, capital)
    for again in (lrgate.load(path), lrgate.from_keras(path), lrgate.load(capital)):
        np.testing.assert_array_equal(again.layers[0].weight, net.layers[0].weight)
        assert again.task == "classification"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16", "float64"])
def test_other_precisions(dtype: str) -> None:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = sequential((6,), layers.Dense(8, "relu"), layers.Dense(3))
    finally:
        keras.config.set_dtype_policy(policy)
    net = lrgate.from_keras(model)
    kernel = keras.ops.convert_to_numpy(keras.ops.cast(model.layers[0].kernel, "float32"))
    np.testing.assert_array_equal(net.layers[0].weight, kernel.T)


def residual() -> Any:
    x = keras.Input((6,))
    y = layers.Dense(6, "relu", name="first")(x)
    return keras.Model(x, layers.Add(name="join")([x, y]))


class Own(keras.Model):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x


class Twice(keras.Sequential):  # type: ignore[misc]
    def call(self, x: Any, training: Any = None, mask: Any = None) -> Any:
        return 2 * super().call(x, training=training, mask=mask)


class Functional(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        x = keras.Input((6,))
        super().__init__(inputs=x, outputs=layers.Dense(3)(x))

    def call(self, x: Any, training: Any = None, mask: Any = None) -> Any:
        return 2 * super().call(x, training=training, mask=mask)


def with_own_call() -> Any:
    model = sequential((6,), layers.Dense(3))
    model.call = lambda x, **_: x
    return model


def with_weight(value: float) -> Any:
    model = sequential((6,), layers.Dense(3, name="last"))
    model.layers[-1].bias.assign(np.full(3, value))
    return model


def whole(part: Any) -> Any:
    return keras.Sequential([keras.Input((6,), dtype="int32"), part, layers.Dense(3)])


class Doubled(layers.Dense):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return 2 * super().call(x)


def two_outputs() -> Any:
    x = keras.Input((6,))
    return keras.Model(x, [layers.Dense(2)(x), layers.Dense(3)(x)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (residual, r'node "join" \(Add\) is not supported: .*\(1 matrix was read before it\)'),
        (two_outputs, "it has 2 outputs"),
        (lambda: Own(), "subclass of keras.Model, whose code cannot be read: export it by"),
        (lambda: Twice([keras.Input((6,)), layers.Dense(3)]), "method call is not that of Keras"),
        (Functional, "its method call is not that of Keras and cannot be read: export it by"),
        (with_own_call, "its method call is not that of Keras"),
        (
            lambda: sequential((6,), Twice([keras.Input((6,)), layers.Dense(3)], name="inner")),
            r'node "inner" \(Twice\) is not supported: its method call',
        ),
        (lambda: with_weight(np.nan), r"^sequential.*: layers\[0\].bias must be finite"),
        (lambda: with_weight(np.inf), r"^sequential.*: layers\[0\].bias must be finite"),
        (lambda: whole(layers.ReLU(negative_slope=0.5)), r"\(ReLU\) .* computes with integers"),
        (
            lambda: keras.Sequential([keras.Input((6,), dtype="bool"), layers.Dense(3)]),
            "its input is bool",
        ),
        (lambda: keras.Sequential([layers.Dense(3)]), "not built: call it once on rows"),
        (lambda: sequential((6,), Doubled(3)), r"\(Doubled\) is not supported"),
        (lambda: sequential((8, 8, 1), layers.Conv2D(3, 3)), r"\(Conv2D\) is not supported"),
        (lambda: sequential((3, 4), layers.Dense(3)), "3 parts of each row"),
        (lambda: sequential((6,), layers.LayerNormalization()), r"\(LayerNormalization\)"),
        (lambda: sequential((6,), layers.Dense(3, "softsign")), "activation softsign"),
        (lambda: sequential((6,), layers.Dense(3, lambda x: 2 * x)), "activation <lambda>"),
        (lambda: keras.Sequential([keras.Input((None, 4)), layers.Dense(3)]), "must be known"),
        (lambda: "text", "path must end in .keras"),
        (lambda: 3, "must be a keras.Model, got int"),
    ],
)
def test_refusals(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        lrgate.from_keras(make())
    if isinstance(error.value, UnsupportedModelError):
        assert error.value.source == "keras"


def test_files_that_are_not_models(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lrgate.from_keras(tmp_path / "no.keras")
    bad = tmp_path / "bad.keras"
    bad.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(UnsupportedModelError, match="Keras cannot load it"):
        lrgate.from_keras(bad)


def test_code_in_files_is_not_run(tmp_path: Path) -> None:
    model = sequential((6,), layers.Lambda(lambda x: x * 2), layers.Dense(3))
    path = tmp_path / "code.keras"
    model.save(path)
    with pytest.raises(UnsupportedModelError, match="Keras cannot load it"):
        lrgate.from_keras(path)


def test_verification_compares_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sequential((6,), layers.Dense(8, "relu"), layers.Dense(3))
    lrgate.from_keras(model)
    call = type(model).__call__
    monkeypatch.setattr(type(model), "__call__", lambda *a, **k: call(*a, **k) * 1.01)
    with pytest.raises(UnsupportedModelError, match="outputs differ from the model's own"):
        lrgate.from_keras(model)
    lrgate.from_keras(model, verify=False)


def test_optimize_takes_the_model() -> None:
    model = sequential((6,), layers.Dense(32, "relu"), layers.Dense(3, "softmax"))
    x = rows(model, 400)
    fast = lrgate.optimize(model, x, batch_sizes=(1,), progress=False)
    assert (fast.predict(x) == outputs(model, x).argmax(1)).mean() > 0.99

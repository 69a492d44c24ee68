"""`lrgate.load`, and the models that `lrgate.optimize` takes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate import Network
from lrgate.frameworks.loading import as_network

FRAMEWORKS = (
    "keras",
    "lightning",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "skl2onnx",
    "sklearn",
    "skorch",
    "stable_baselines3",
    "torch",
)


@pytest.mark.skipif(
    not os.environ.get("LRGATE_REQUIRE_FRAMEWORKS"), reason="LRGATE_REQUIRE_FRAMEWORKS is not set"
)
@pytest.mark.parametrize("package", FRAMEWORKS)
def test_packages_whose_tests_must_not_be_skipped(package: str) -> None:
    assert importlib.util.find_spec(package) is not None


@pytest.fixture
def net() -> Network:
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(8, 5)), rng.normal(size=8)), (rng.normal(size=(3, 8)), None)]
    return Network.from_layers(layers)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".NPZ"])
def test_files_of_lrgate(net: Network, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    try:
        net.save(path)
    except ValueError:  # only lower case is written
        lower = path.with_suffix(suffix.lower())
        net.save(lower)
        path = lower
    again = lrgate.load(path, classes=["a", "b", "c"])
    np.testing.assert_array_equal(again.layers[0].weight, net.layers[0].weight)
    assert again.classes is not None
    assert again.classes.tolist() == ["a", "b", "c"]
    assert lrgate.load(str(path), task="regression", tune=False).task == "regression"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.txt", "path must end in .npz, .safetensors, .onnx, .pt2 or .keras, got"),
        ("model", "path must end in"),
        ("model.pt", "a pickle may run any code, so it is not read: load it yourself"),
        ("model.pkl", "a pickle may run any code"),
        ("model.joblib", "a pickle may run any code"),
        ("model.h5", "load it with Keras, and pass the model to lrgate.from_keras"),
    ],
)
def test_other_files_are_refused_with_the_way_out(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lrgate.load(name)


@pytest.mark.parametrize("name", ["no.npz", "no.safetensors"])
def test_missing_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lrgate.load(tmp_path / name)


def test_a_network_is_taken_as_it_is(net: Network) -> None:
    assert as_network(net) is net


@pytest.mark.parametrize("model", [None, 3, [1, 2], object(), np.ones((2, 2)), {"a": 1}])
def test_other_objects_are_refused(model: Any) -> None:
    with pytest.raises(TypeError, match="model must be a Network, a path, or a model of"):
        as_network(model)


def test_optimize_takes_an_estimator_and_a_path(net: Network, tmp_path: Path) -> None:
    sklearn = pytest.importorskip("sklearn.neural_network", reason="needs scikit-learn")
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 5)).astype(np.float32)
    y = np.array(["no", "yes"])[(x[:, 0] > 0).astype(int)]
    mlp = sklearn.MLPClassifier((16,), max_iter=20, random_state=0).fit(x, y)
    fast = lrgate.optimize(mlp, x, y, batch_sizes=(1,), progress=False)
    assert (fast.predict(x) == mlp.predict(x)).mean() > 0.99
    path = tmp_path / "net.npz"
    net.save(path)
    again = lrgate.optimize(path, x, batch_sizes=(1,), max_error_increase=0, progress=False)
    np.testing.assert_allclose(again(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "package", "extra"),
    [
        ("lrgate.from_onnx('m.onnx')", "onnx", "onnx"),
        ("lrgate.from_torch('m.pt2')", "torch", "torch"),
        ("lrgate.from_keras('m.keras')", "keras", "keras"),
        ("net.to_onnx('m.onnx')", "onnx", "onnx"),
        ("net.to_torch()", "torch", "torch"),
        ("lrgate.torch", "torch", "torch"),
        ("lrgate.sklearn", "sklearn", "sklearn"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(call: str, package: str, extra: str) -> None:
    code = (
        "import sys, numpy as np, lrgate\n"
        f"sys.modules['{package}'] = None\n"
        "net = lrgate.Network.from_layers([(np.eye(2), None)])\n"
        "try:\n"
        f"    {call}\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert f'pip install "lrgate[{extra}]"' in done.stdout


def test_no_framework_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, numpy as np, lrgate\n"
        "net = lrgate.Network.from_layers([(np.eye(2), None)])\n"
        "x = np.random.default_rng(0).normal(size=(100, 2))\n"
        "lrgate.optimize(net, x, batch_sizes=(1,), progress=False)\n"
        f"print([name for name in {FRAMEWORKS!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"

"""Models of scikit-learn, PyTorch and ONNX: error and time before and after `lrgate.optimize`.

    OMP_NUM_THREADS=1 python benches/models_in.py --data-dir fashion-mnist

It trains an MLPClassifier on Fashion-MNIST, and passes it to `optimize` as an estimator, as a
PyTorch module and as an ONNX file. Times are interleaved, on one thread, with different test rows
in each call: the median of a call, and the speed-up with the quartiles over rounds. ONNX Runtime is
measured in float32 and int8 at its best settings, with its error, as by `lrgate bench`. Then
`Accelerated` beside the module that it replaces, a model with two towers behind embeddings through
`accelerate`, and the time to import a network of 4096 units per layer.

The packages of the extra `frameworks` are needed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from sklearn.neural_network import MLPClassifier
from torch import nn

import lrgate
import lrgate.torch
from lrgate.bench import compare
from lrgate.measure.timing import batches, interleaved, machine

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import data

ROWS = (1, 256)


def table(candidates: dict[str, Callable[[Any], Any]], x: Any, base: str, seconds: float) -> None:
    for rows in ROWS:
        times = interleaved(candidates, batches(x, rows), seconds)
        for name, timing in times.items():
            ratio = timing.speed_up_over(times[base])
            print(f"{name:<34} {rows:>4} rows {timing.median * 1e6:>9.1f} us   {ratio} x {base}")


def torch_call(module: nn.Module) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(x))

    return call


def classifier(folder: Path, seconds: float) -> None:
    rows = data.load(folder)
    rng = np.random.default_rng(0)
    x_train = (rows.x_train.reshape(len(rows.x_train), -1) / 255).astype(np.float32)
    x_test = (rows.x_test.reshape(len(rows.x_test), -1) / 255).astype(np.float32)
    order = rng.permutation(len(x_train))
    fit, held = order[:40_000], order[40_000:]
    mlp = MLPClassifier((256, 128), max_iter=15, random_state=0, early_stopping=False)
    mlp.fit(x_train[fit], rows.y_train[fit])
    dense = lrgate.from_sklearn(mlp)
    module = dense.to_torch()
    with tempfile.TemporaryDirectory() as folder_name:
        path = Path(folder_name) / "model.onnx"
        dense.to_onnx(path)
        models = {"scikit-learn": mlp, "PyTorch": module, "ONNX": path}
        fast = {
            name: lrgate.optimize(model, x_train[held], rows.y_train[held], progress=False)
            for name, model in models.items()
        }
    error = float((mlp.predict(x_test) != rows.y_test).mean())
    print(f"Fashion-MNIST, 784-256-128-10, test error {100 * error:.2f} %")
    for name, net in fast.items():
        after = float((net.predict(x_test) != rows.y_test).mean())
        print(f"  optimised from {name:<13} {100 * after:.2f} %")
    candidates: dict[str, Callable[[Any], Any]] = {
        "scikit-learn": mlp.predict_proba,
        "PyTorch": torch_call(module),
        "lrgate, dense f32": dense.predict_proba,
        **{f"lrgate, from {name}": net.predict_proba for name, net in fast.items()},
    }
    table(candidates, x_test, "PyTorch", seconds)
    result = compare.run(
        "Fashion-MNIST",
        dense,
        x_test,
        rows.y_test,
        calibration=(x_train[held], rows.y_train[held]),
        batch_sizes=list(ROWS),
        seconds=2 * seconds,
        threads=1,
        engines=["ORT"],
        progress=False,
    )
    print(result)
    modules = {
        "module": torch_call(module),
        "Accelerated": torch_call(lrgate.torch.Accelerated(fast["PyTorch"])),
    }
    table(modules, x_test, "module", seconds)


class Towers(nn.Module):
    """Users and items as embeddings, each with a tower; the score is their product."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(10_000, 64), nn.Embedding(10_000, 64)
        self.user = self._tower()
        self.item = self._tower()

    @staticmethod
    def _tower() -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 32)
        )

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        user, item = pairs.unbind(1)
        return (self.user(self.users(user)) * self.item(self.items(item))).sum(-1)


def towers(seconds: float) -> None:
    torch.manual_seed(0)
    model = Towers().eval().requires_grad_(False)
    for rows in ROWS:
        calls = [(torch.randint(0, 10_000, (rows, 2)),) for _ in range(max(20, 5_000 // rows))]
        fast, report = lrgate.torch.accelerate(model, calls, batch_sizes=(rows,))
        print(*(f"  {part}" for part in report), sep="\n")
        pairs = [call[0].numpy() for call in calls]
        times = interleaved({"model": torch_call(model), "fast": torch_call(fast)}, pairs, seconds)
        ratio = times["fast"].speed_up_over(times["model"])
        print(f"two towers, {rows} rows: {ratio} x model")


def wide() -> None:
    rng = np.random.default_rng(0)
    layers = [(rng.standard_normal((4096, 4096), np.float32) / 64, None) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wide.onnx"
        lrgate.Network.from_layers(layers).to_onnx(path)
        found: dict[str, list[float]] = {}
        for _ in range(7):
            for name, call in (
                ("onnx.load", lambda: onnx.load(path)),
                ("from_onnx", lambda: lrgate.from_onnx(path)),
                ("from_onnx, verify=False", lambda: lrgate.from_onnx(path, verify=False)),
            ):
                begin = time.perf_counter()
                call()
                found.setdefault(name, []).append(time.perf_counter() - begin)
    base = statistics.median(found["onnx.load"])
    for name, times in found.items():
        middle = statistics.median(times)
        print(
            f"4096-4096-4096, {name:<24} {1e3 * middle:>7.1f} ms, {middle / base:.2f} x onnx.load"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="the files of Fashion-MNIST")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each comparison")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lrgate.set_num_threads(1)
    print(machine()["cpu"])
    wide()
    towers(arguments.seconds)
    classifier(arguments.data_dir, arguments.seconds)


if __name__ == "__main__":
    main()

"""Write the golden files of the tests: small networks with every layer's values, by PyTorch.

    python training/make_goldens.py

Each ``tests/golden/*.npz`` holds one network with float32 weights and PyTorch's values for a few
rows in float64: ``layers.{i}.weight`` (out, in), ``layers.{i}.bias`` (out,), ``x`` (n, in),
``activations`` (JSON text, one object per layer), and ``layers.{i}.pre_activation``,
``layers.{i}.output`` (n, out) and ``y`` (n, classes), the last layer's output. The seed is fixed;
widths are odd on purpose, so that they fill no vector register evenly.
"""

from __future__ import annotations

import argparse
import io
import json
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SEED = 20131218
ROWS = 9
SMALL = [7, 33, 17, 5]
LARGE = [50, 129, 65, 10]


@dataclass(frozen=True)
class Case:
    """One golden network: its file name, widths, and hidden and last activation."""

    name: str
    widths: list[int]
    hidden: dict[str, Any]
    last: dict[str, Any]


RELU = {"name": "relu"}
IDENTITY = {"name": "identity"}
CASES = [
    Case("relu", SMALL, RELU, IDENTITY),
    Case("relu_wide", LARGE, RELU, IDENTITY),
    Case("clipped_relu", SMALL, {"name": "clipped_relu", "upper": 6.0}, IDENTITY),
    Case("thresholded_relu", SMALL, {"name": "thresholded_relu", "threshold": 0.25}, IDENTITY),
    Case("leaky_relu", SMALL, {"name": "leaky_relu", "slope": 0.125}, IDENTITY),
    Case("tanh", SMALL, {"name": "tanh"}, IDENTITY),
    Case("sigmoid", SMALL, {"name": "sigmoid"}, IDENTITY),
    Case("gelu", SMALL, {"name": "gelu"}, IDENTITY),
    Case("softmax", SMALL, RELU, {"name": "softmax"}),
]


def torch_activation(activation: dict[str, Any]) -> nn.Module:
    """PyTorch's module for an activation as lrgate writes it."""
    match activation["name"]:
        case "relu":
            return nn.ReLU()
        case "clipped_relu":
            assert activation["upper"] == 6.0
            return nn.ReLU6()
        case "thresholded_relu":
            return nn.Threshold(activation["threshold"], 0.0)
        case "leaky_relu":
            return nn.LeakyReLU(activation["slope"])
        case "tanh":
            return nn.Tanh()
        case "sigmoid":
            return nn.Sigmoid()
        case "gelu":
            return nn.GELU(approximate="none")
        case "softmax":
            return nn.Softmax(dim=1)
        case "identity":
            return nn.Identity()
        case name:
            raise ValueError(f"no golden activation {name!r}")


@torch.no_grad()
def golden(case: Case, generator: torch.Generator) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of one golden file."""
    x = _normal(generator, ROWS, case.widths[0])
    x[:, ::3] *= torch.rand(x[:, ::3].shape, generator=generator) > 0.5  # zeros to skip
    x[0] = 0.0
    count = len(case.widths) - 1
    activations = [case.hidden] * (count - 1) + [case.last]
    arrays: dict[str, np.ndarray[Any, Any]] = {"x": x.numpy()}
    signal = x.double()
    for layer, (inputs, units) in enumerate(pairwise(case.widths)):
        # Wide enough that ReLU6 meets its bound and tanh its ends.
        weight = _normal(generator, units, inputs) * (2.0 / inputs**0.5)
        bias = _normal(generator, units) * 0.5
        pre_activation = nn.functional.linear(signal, weight.double(), bias.double())
        signal = torch_activation(activations[layer])(pre_activation)
        arrays[f"layers.{layer}.weight"] = weight.numpy()
        arrays[f"layers.{layer}.bias"] = bias.numpy()
        arrays[f"layers.{layer}.pre_activation"] = pre_activation.numpy()
        arrays[f"layers.{layer}.output"] = signal.numpy()
    arrays["y"] = signal.numpy()
    arrays["activations"] = np.array(json.dumps(activations))
    return arrays


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def main() -> None:
    """Write every case."""
    parser = argparse.ArgumentParser(description="Write the golden files of the tests.")
    default = Path(__file__).resolve().parent.parent / "tests" / "golden"
    parser.add_argument("--out-dir", type=Path, default=default, help="folder for the files")
    folder: Path = parser.parse_args().out_dir
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for case in CASES:
        generator = torch.Generator().manual_seed(SEED)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **golden(case, generator))  # type: ignore[arg-type]
        partial = folder / f"{case.name}.npz.partial"
        partial.write_bytes(buffer.getvalue())
        os.replace(partial, folder / f"{case.name}.npz")
        total += len(buffer.getvalue())
    print(f"wrote {len(CASES)} files, {total / 1000:.0f} KB")


if __name__ == "__main__":
    main()

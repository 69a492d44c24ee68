"""NumPy without other packages."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from lrgate.bench.engines.base import Engine, Forward, Settings, combinations_of
from lrgate.bench.engines.folding import Layers, folded
from lrgate.network import Network
from lrgate.types import Float32Array

__all__ = [
    "NumpyForward",
    "blas",
    "load_npz",
    "store_npz",
]


class NumpyForward:
    """A ReLU network in NumPy: ``maximum(x W + b, 0)``, written into arrays that are reused.

    Parameters
    ----------
    layers : sequence of (weight, bias)
        Weights (out, in) and biases (out,).
    transposed : bool
        Whether W is a transposed view of the weights instead of a contiguous copy (in, out). The
        faster one depends on the BLAS and on the number of rows.
    """

    def __init__(self, layers: Layers, transposed: bool = False) -> None:
        pairs = [(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers]
        self._layers = [
            (weight.T if transposed else np.ascontiguousarray(weight.T), bias)
            for weight, bias in pairs
        ]
        self._outputs: dict[int, list[Float32Array]] = {}

    def __call__(self, x: Float32Array) -> Float32Array:
        """Raw outputs (n, k) for x (n, d). The next call with `n` rows overwrites them."""
        outputs = self._outputs.get(len(x))
        if outputs is None:
            outputs = [np.empty((len(x), len(bias)), np.float32) for _, bias in self._layers]
            self._outputs[len(x)] = outputs
        for (weight, bias), output in zip(self._layers, outputs, strict=True):
            np.matmul(x, weight, out=output)
            output += bias
            if output is not outputs[-1]:
                np.maximum(output, 0, out=output)
            x = output
        return x


def blas() -> str:
    """Name, version and kernels of NumPy's BLAS, as reported by threadpoolctl."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown: threadpoolctl is not installed"
    found = [pool for pool in threadpool_info() if pool.get("user_api") == "blas"]
    # SciPy may have its own BLAS. The file of NumPy's BLAS has "numpy" in its path.
    found.sort(key=lambda pool: "numpy" not in pool.get("filepath", ""))
    return ", ".join(
        " ".join(
            str(pool[key]) for key in ("internal_api", "version", "architecture") if key in pool
        )
        for pool in found[:1]
    )


def store_npz(net: Network, calibration: Float32Array, folder: Path, settings: Settings) -> Path:
    path = folder / "arrays.npz"
    if not path.exists():
        arrays = {
            f"{name}{i}": array.astype(np.float32)
            for i, pair in enumerate(folded(net))
            for name, array in zip(("weight", "bias"), pair, strict=True)
        }
        np.savez(path, allow_pickle=False, **arrays)
    return path


def load_npz(path: Path) -> list[tuple[Float32Array, Float32Array]]:
    with np.load(path, allow_pickle=False) as file:
        return [(file[f"weight{i}"], file[f"bias{i}"]) for i in range(len(file.files) // 2)]


def _load_numpy(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    return NumpyForward(load_npz(path), transposed=settings["weights"] == "F")


ENGINES: Final = (
    Engine(
        "NumPy",
        "numpy",
        "f32",
        ("numpy",),
        store_npz,
        _load_numpy,
        combinations_of(weights=("C", "F")),
    ),
)

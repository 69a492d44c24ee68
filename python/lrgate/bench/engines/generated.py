"""C code that emx-onnx-cgen generates from an ONNX model, compiled for this machine.

The code is for one number of rows and one thread. Its weights are in a file beside it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np

from lrgate.bench.engines.base import Engine, Forward, Settings, combinations_of
from lrgate.bench.engines.onnxruntime import store_onnx
from lrgate.types import Float32Array

# Bytes up to which a temporary is on the stack.
_STACK: Final = 1 << 16
_COMPILER: Final = "gcc"


def _compiled(path: Path, rows: int, options: str) -> tuple[Path, Path]:
    """The library and the weights for calls of `rows` rows, made beside the model if missing."""
    if shutil.which(_COMPILER) is None:
        raise RuntimeError(f"{_COMPILER} is not installed")
    folder = path.parent / f"{path.stem}-{rows}{options.replace(' ', '')}"
    library, weights = folder / "model.so", folder / "model.bin"
    if not library.exists():
        folder.mkdir(exist_ok=True)
        source = folder / "model.c"
        generate = [
            *(sys.executable, "-m", "emx_onnx_cgen", "compile", path, source),
            *("--model-name", "model", "--input-dim", f"x:0={rows}", "--restrict-arrays"),
            *("--large-weight-threshold", "1", "--large-temp-threshold", str(_STACK)),
        ]
        build = [_COMPILER, *options.split(), "-march=native", "-fPIC", "-shared", source, "-lm"]
        for parts in (generate, [*build, "-o", library]):
            command = [str(part) for part in parts]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise RuntimeError(f"{command[0]}: {last}")
    return library, weights


def _load_generated(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    from onnx import load

    if importlib.util.find_spec("emx_onnx_cgen") is None:
        raise ModuleNotFoundError("emx-onnx-cgen is not installed", name="emx_onnx_cgen")
    library, weights = _compiled(path, rows, settings["options"])
    graph = load(path).graph
    widths = [
        each.type.tensor_type.shape.dim[1].dim_value for each in (*graph.input, *graph.output)
    ]
    module = ctypes.CDLL(str(library))
    module.model_load.restype = ctypes.c_bool
    if not module.model_load(str(weights).encode()):
        raise RuntimeError(f"{weights.name} cannot be read")
    inputs, outputs = (np.zeros((rows, width), np.float32) for width in widths)
    # Two pointers that never change cost less than a pointer to every call's rows.
    run = module.model
    run.restype = None
    pointers = ctypes.c_void_p(inputs.ctypes.data), ctypes.c_void_p(outputs.ctypes.data)

    def call(x: Float32Array) -> Float32Array:
        inputs[:] = x
        run(*pointers)
        return outputs

    return call


ENGINES: Final = (
    Engine(
        "generated C",
        "emx-onnx-cgen",
        "f32",
        ("numpy", "onnx"),
        store_onnx,
        _load_generated,
        combinations_of(graph=("MatMul", "Gemm"), options=("-O3 -ffast-math",))
        + combinations_of(graph=("MatMul",), options=("-O3",)),
    ),
)

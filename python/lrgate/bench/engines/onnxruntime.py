"""ONNX Runtime in f32, and in int8 with dynamic and static scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from lrgate._core import available_isas
from lrgate.bench.engines.base import Engine, Forward, Settings, combinations_of
from lrgate.bench.engines.folding import folded
from lrgate.export.onnx import OnnxWriter
from lrgate.model.activation import Activation
from lrgate.network import Network
from lrgate.types import Float32Array

__all__ = [
    "store_onnx",
    "store_qdq",
]


def _raw_model(net: Network, *, gemm: bool = True) -> Any:
    """The raw outputs of a ReLU network as an ONNX model with Gemm, or with MatMul and Add.

    The input's scale and shift are folded into the first layer.
    """
    writer = OnnxWriter(17, "x")
    layers = folded(net)
    for i, (weight, bias) in enumerate(layers):
        writer.layer(i, weight.astype(np.float32), bias.astype(np.float32), gemm)
        if i < len(layers) - 1:
            writer.activation(i, Activation("relu"))
    return writer.model(net.input_size, [(writer.value, 1, [net.output_size])])


def store_onnx(net: Network, calibration: Float32Array, folder: Path, settings: Settings) -> Path:
    import onnx

    path = folder / f"{settings['graph']}.onnx"
    if not path.exists():
        onnx.save(_raw_model(net, gemm=settings["graph"] == "Gemm"), path)
    return path


def _store_dynamic(
    net: Network, calibration: Float32Array, folder: Path, settings: Settings
) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = folder / "dynamic.onnx"
    if not path.exists():
        source = store_onnx(net, calibration, folder, {"graph": "MatMul"})
        quantize_dynamic(
            source,
            path,
            per_channel=True,
            reduce_range=_saturates(),
            weight_type=QuantType.QInt8,
        )
    return path


def store_qdq(net: Network, calibration: Float32Array, folder: Path, settings: Settings) -> Path:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.calls = iter([{"x": calibration}])

        def get_next(self) -> dict[str, Float32Array] | None:
            return next(self.calls, None)

    path = folder / f"qdq-{settings['graph']}-{settings['first']}.onnx"
    if not path.exists():
        quantize_static(
            store_onnx(net, calibration, folder, settings),
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=_saturates(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[f"{settings['graph']}0"] if settings["first"] == "f32" else [],
        )
    return path


def _saturates() -> bool:
    """Whether sums of two products of bytes saturate: with AVX2 and without VNNI.

    Weights of seven bits avoid it, as the documentation of ONNX Runtime recommends.
    """
    names = set(available_isas())
    return "avx2" in names and not names & {"avxvnni", "avx512vnni"}


def _load_onnxruntime(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    entries = {
        "session.disable_prepacking": "0" if settings.get("prepacking", True) else "1",
        "session.intra_op.allow_spinning": "1" if settings.get("spinning") else "0",
        # Threads spin within a call, but not while the next engine is timed.
        "session.force_spinning_stop": "1",
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    run, outputs = session.run, [session.get_outputs()[0].name]
    return lambda x: run(outputs, {"x": x})[0]


_SPINNING: Final = (False, True)
_GRAPHS: Final = ("Gemm", "MatMul")
# Precision of the first layer of int8 engines with fitted scales: inputs may need more than int8.
_FIRST: Final = ("int8", "f32")

_ORT: Final = ("onnxruntime",)

ENGINES: Final = (
    Engine(
        "ORT f32",
        "onnxruntime",
        "f32",
        _ORT,
        store_onnx,
        _load_onnxruntime,
        combinations_of(graph=_GRAPHS, prepacking=(True, False), spinning=_SPINNING),
    ),
    Engine(
        "ORT int8 dynamic",
        "onnxruntime",
        "int8",
        _ORT,
        _store_dynamic,
        _load_onnxruntime,
        combinations_of(prepacking=(True, False), spinning=_SPINNING),
        batch_dependent=True,
    ),
    Engine(
        "ORT int8 QDQ",
        "onnxruntime",
        "int8",
        _ORT,
        store_qdq,
        _load_onnxruntime,
        combinations_of(graph=_GRAPHS, first=_FIRST, prepacking=(True, False), spinning=_SPINNING),
    ),
)

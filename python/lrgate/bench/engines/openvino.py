"""OpenVINO in f32, bf16 and int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from lrgate.bench.engines.base import Engine, Forward, Settings
from lrgate.bench.engines.onnxruntime import store_onnx, store_qdq
from lrgate.network import Network
from lrgate.types import Float32Array


def _store_openvino(
    net: Network, calibration: Float32Array, folder: Path, settings: Settings
) -> Path:
    import openvino

    int8 = settings["precision"] == "int8"
    path = folder / f"openvino-{'int8' if int8 else 'f32'}-{settings.get('first')}.xml"
    if not path.exists():
        if int8:
            chosen = {"graph": "Gemm", "first": settings["first"]}
            source = store_qdq(net, calibration, folder, chosen)
        else:
            source = store_onnx(net, calibration, folder, {"graph": "Gemm"})
        openvino.save_model(openvino.Core().read_model(source), path, compress_to_fp16=False)
    return path


def _load_openvino(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    if settings["shape"] == "static":
        model.reshape([rows, model.input(0).partial_shape[1].get_length()])
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Precision of the layers that are not int8.
        "INFERENCE_PRECISION_HINT": settings.get("rest", settings["precision"]),
    }
    request = core.compile_model(model, "CPU", config).create_infer_request()
    tensor, set_input, infer = openvino.Tensor, request.set_input_tensor, request.infer
    output = request.get_output_tensor

    def shared(x: Float32Array) -> Any:
        set_input(tensor(x, shared_memory=True))
        infer(share_outputs=True)
        return output().data

    if settings["input"] == "shared":
        return shared
    copied, result = request.get_input_tensor().data, output().data

    def call(x: Float32Array) -> Any:
        copied[:] = x
        infer(share_outputs=True)
        return result

    return call


_OPENVINO_INT8: Final = (
    {"first": "int8", "rest": "f32"},
    {"first": "f32", "rest": "f32"},
    {"first": "f32", "rest": "bf16"},
)

_OPENVINO: Final = ("openvino",)

ENGINES: Final = (
    *(
        Engine(
            f"OpenVINO {precision}",
            "openvino",
            precision,
            _OPENVINO,
            _store_openvino,
            _load_openvino,
            tuple(
                {"precision": precision, "shape": shape, "input": how} | rest
                for shape, how in (("static", "shared"), ("static", "copied"), ("any", "shared"))
                for rest in (_OPENVINO_INT8 if precision == "int8" else ({},))
            ),
        )
        for precision in ("f32", "bf16", "int8")
    ),
)

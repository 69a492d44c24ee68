"""What lrgate is compared with, ONNX Runtime and OpenVINO, and checked against, float64."""

from __future__ import annotations

import contextlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import lrgate

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


def folded(net: lrgate.Network) -> list[tuple[Float64Array, Float64Array]]:
    """Weight (out, in) and bias of each layer, the input's scale and shift in the first."""
    layers = [
        (layer.weight.astype(np.float64), layer.bias.astype(np.float64)) for layer in net.layers
    ]
    weight, bias = layers[0]
    if net.input_shift is not None:
        bias = bias + weight @ np.broadcast_to(net.input_shift.astype(np.float64), weight.shape[1])
    if net.input_scale is not None:
        weight = weight * net.input_scale
    layers[0] = (weight, bias)
    return layers


def onnx_model(net: lrgate.Network, *, gemm: bool = True) -> Any:
    """A relu network as an ONNX model: Gemm, or MatMul and Add, which ONNX Runtime can quantise."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []
    name = "x"
    layers = folded(net)
    for i, (weight, bias) in enumerate(layers):
        weight = weight.astype(np.float32)
        constants.append(numpy_helper.from_array(bias.astype(np.float32), f"bias{i}"))
        if gemm:
            constants.append(numpy_helper.from_array(weight, f"weight{i}"))
            inputs = [name, f"weight{i}", f"bias{i}"]
            nodes.append(helper.make_node("Gemm", inputs, [f"z{i}"], transB=1))
        else:
            columns = np.ascontiguousarray(weight.T)
            constants.append(numpy_helper.from_array(columns, f"weight{i}"))
            nodes.append(helper.make_node("MatMul", [name, f"weight{i}"], [f"m{i}"]))
            nodes.append(helper.make_node("Add", [f"m{i}", f"bias{i}"], [f"z{i}"]))
        name = f"z{i}"
        if i < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [name], [f"a{i}"]))
            name = f"a{i}"
    graph = helper.make_graph(
        nodes,
        "relu_network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", net.input_size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", net.output_size])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def onnxruntime_f32(net: lrgate.Network) -> Callable[[Float32Array], Float32Array]:
    """A relu network in ONNX Runtime, float32, one thread, all graph optimisations.

    Raises
    ------
    ImportError
        Without onnx and onnxruntime.
    """
    return _session(onnx_model(net))


def onnxruntime_int8(net: lrgate.Network) -> Callable[[Float32Array], Float32Array]:
    """The same with weights in int8 and activations quantised as they come ("dynamic")."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _files(onnx_model(net, gemm=False)) as (float_path, int8_path):
        quantize_dynamic(float_path, int8_path, per_channel=True, weight_type=QuantType.QInt8)
        return _session(int8_path)


def onnxruntime_qdq(net: lrgate.Network, x: Float32Array) -> Callable[[Float32Array], Float32Array]:
    """The same with activations' scales fitted to rows ("static", QDQ, per channel)."""
    with _files(onnx_model(net)) as (float_path, int8_path):
        _quantize_static(float_path, int8_path, x)
        return _session(int8_path)


def openvino_f32(net: lrgate.Network) -> Callable[[Float32Array], Float32Array]:
    """A relu network in OpenVINO, float32, one thread, hint latency, one request reused."""
    with _files(onnx_model(net)) as (float_path, _):
        return _request(float_path, net.output_size)


def openvino_int8(net: lrgate.Network, x: Float32Array) -> Callable[[Float32Array], Float32Array]:
    """The same in int8, from the model that ONNX Runtime's static quantisation gives."""
    with _files(onnx_model(net)) as (float_path, int8_path):
        _quantize_static(float_path, int8_path, x)
        return _request(int8_path, net.output_size)


@contextlib.contextmanager
def _files(model: Any) -> Iterator[tuple[str, str]]:
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        float_path, int8_path = Path(folder, "f32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, float_path)
        yield str(float_path), str(int8_path)


def _quantize_static(float_path: str, int8_path: str, x: Float32Array) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc, no-any-unimported]
        def __init__(self) -> None:
            self.calls = iter([{"x": x}])

        def get_next(self) -> dict[str, Float32Array] | None:
            return next(self.calls, None)

    quantize_static(
        float_path,
        int8_path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _session(model: Any) -> Callable[[Float32Array], Float32Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    source = model if isinstance(model, str) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    run, outputs = session.run, [session.get_outputs()[0].name]
    return lambda x: run(outputs, {"x": x})[0]


def _request(path: str, width: int) -> Callable[[Float32Array], Float32Array]:
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    # Copied, since the request's own array is overwritten by its next call.
    return lambda x: np.array(request.infer({0: x}, share_inputs=True, share_outputs=True)[0])


def versions() -> dict[str, str]:
    """Versions of the packages that a comparison depends on, where they are installed."""
    found = {}
    for name in ("numpy", "onnxruntime", "openvino"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True, eq=False)
class Reference:
    """A relu network's outputs in float64, and how far float32 may be from them.

    Attributes
    ----------
    outputs, bound : arrays (n, k)
    certain : bool array (n,)
        Rows on which no gate's score is so near to 0 that rounding may decide its sign.
    """

    outputs: Float64Array
    bound: Float64Array
    certain: npt.NDArray[np.bool_]

    def check(self, outputs: Float32Array, what: str) -> None:
        """Assert that float32 outputs are as near as they must be.

        Raises
        ------
        AssertionError
            If they are not, or too few rows are certain to say so.
        """
        assert np.mean(self.certain) >= 0.8, f"{what}: rounding decides on too many rows"
        excess = (np.abs(outputs - self.outputs) - self.bound)[self.certain]
        assert np.all(excess <= 0), f"{what}: {np.max(excess):.3g} further off than rounding allows"


def reference(net: lrgate.Network, x: npt.ArrayLike, *, gated: bool = False) -> Reference:
    """Run a relu network in float64, gates on where `gated`, with the forward error bound.

    A dot product of length d in float32, in whatever order, is off by at most ``(d + 2) eps``
    times the same sum of absolute values, to first order (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1); what its inputs are off by is carried through the absolute
    weights.
    """
    eps = float(np.finfo(np.float32).eps)
    a: Float64Array = np.asarray(x, np.float64)
    off = np.zeros_like(a)
    certain = np.ones(len(a), bool)
    layers = folded(net)
    for i, (weight, bias) in enumerate(layers):
        size = np.abs(weight)
        z = a @ weight.T + bias
        z_off = off @ size.T + (weight.shape[1] + 2) * eps * (np.abs(a) @ size.T + np.abs(bias))
        if i < len(layers) - 1:
            z = np.maximum(z, 0)
        gate = net.layers[i].gate
        if gated and gate is not None:
            scaled = _scaled(net, a) if i == 0 else a
            u, v, c = (part.astype(np.float64) for part in (gate.u, gate.v, gate.bias))
            score = scaled @ u @ v + c
            # Not the worst that rounding can do, which is never seen, but many times the usual.
            usual = eps * np.sqrt(np.square(scaled) @ np.square(u) @ np.square(v) + np.square(c))
            carried = np.sqrt(np.square(off) @ np.square(u) @ np.square(v)) if i else 0.0
            near = np.abs(score) < 16 * usual + carried
            certain &= ~np.any(near & (z > 0), axis=1)
            z = np.where(score > 0, z, 0)
        a, off = z, z_off
    return Reference(a, off, certain)


def _scaled(net: lrgate.Network, x: Float64Array) -> Float64Array:
    scale: Any = 1.0 if net.input_scale is None else net.input_scale.astype(np.float64)
    shift: Any = 0.0 if net.input_shift is None else net.input_shift.astype(np.float64)
    return x * scale + shift

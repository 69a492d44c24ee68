"""LiteRT (TensorFlow Lite with XNNPACK) in f32, and in int8 with dynamic and static scales.

The model is a chain of FULLY_CONNECTED operators, written with the schema in LiteRT's package. The
number of rows is set after loading. The model quantises its rows, which is faster than NumPy.
set_tensor, invoke and get_tensor are the fastest of LiteRT's documented calls: its views of
tensors, its signature runner and its CompiledModel take longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.bench.engines.base import Engine, Forward, Settings, combinations_of
from lrgate.bench.engines.folding import Layers, folded
from lrgate.network import Network
from lrgate.types import Float32Array, Float64Array

_SCHEMA_VERSION: Final = 3
_IDENTIFIER: Final = b"TFL3"
# The first version of each operator that has everything used here.
_VERSIONS: Final = {"FULLY_CONNECTED": 9, "QUANTIZE": 1, "DEQUANTIZE": 2, "MUL": 1, "ADD": 1}


@dataclass(frozen=True)
class _Range:
    """The values that the bytes -128 to 127 of a signal represent: ``(byte - zero) * step``."""

    step: float
    zero: int

    @classmethod
    def of(cls, values: Float64Array, covered: float) -> _Range:
        """The range that holds the share `covered` of these values, and zero."""
        low, high = np.quantile(values, [(1 - covered) / 2, (1 + covered) / 2])
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        step = max(high - low, 1e-6) / 255
        return cls(step, round(-128 - low / step))


class _Writer:
    """Collects the tensors and operators of a model."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated

        self.schema: Any = schema_py_generated
        self.buffers = [self.schema.BufferT()]
        self.tensors: list[Any] = []
        self.operators: list[Any] = []

    def signal(self, width: int, values: _Range | None = None) -> int:
        """Add a tensor of rows: f32, or int8 with this range."""
        kind = "FLOAT32" if values is None else "INT8"
        tensor = self._tensor((1, width), kind)
        tensor.shapeSignature = [-1, width]
        if values is not None:
            self._scale(tensor, np.array([values.step]), np.array([values.zero]))
        return len(self.tensors) - 1

    def constant(self, array: npt.NDArray[Any], steps: Float64Array | None = None) -> int:
        """Add a constant, quantised if there are steps, one for each unit."""
        tensor = self._tensor(array.shape, array.dtype.name.upper())
        tensor.buffer = len(self.buffers)
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        self.buffers.append(buffer)
        if steps is not None:
            self._scale(tensor, steps, np.zeros(len(steps)))
        return len(self.tensors) - 1

    def _tensor(self, shape: Sequence[int], kind: str) -> Any:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape = f"tensor{len(self.tensors)}", list(shape)
        tensor.type = getattr(self.schema.TensorType, kind)
        self.tensors.append(tensor)
        return tensor

    def _scale(self, tensor: Any, steps: npt.NDArray[Any], zeros: npt.NDArray[Any]) -> None:
        tensor.quantization = self.schema.QuantizationParametersT()
        tensor.quantization.scale = steps.astype(np.float32)
        tensor.quantization.zeroPoint = zeros.astype(np.int64)

    def operator(self, name: str, inputs: list[int], output: int) -> Any:
        operator = self.schema.OperatorT()
        operator.opcodeIndex = list(_VERSIONS).index(name)
        operator.inputs, operator.outputs = inputs, [output]
        self.operators.append(operator)
        return operator

    def fully_connected(self, inputs: list[int], output: int, relu: bool) -> None:
        options = self.schema.FullyConnectedOptionsT()
        functions = self.schema.ActivationFunctionType
        options.fusedActivationFunction = functions.RELU if relu else functions.NONE
        operator = self.operator("FULLY_CONNECTED", inputs, output)
        operator.builtinOptionsType = self.schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = options

    def elementwise(self, name: str, value: int, constant: Float64Array) -> int:
        """Multiply or add a constant of each input."""
        result = self.signal(len(constant))
        kind = f"{name.capitalize()}Options"
        operator = self.operator(name, [value, self.constant(constant.astype(np.float32))], result)
        operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind)
        operator.builtinOptions = getattr(self.schema, f"{kind}T")()
        return result

    def model(self, source: int, result: int) -> bytes:
        import flatbuffers

        schema = self.schema
        model, graph = schema.ModelT(), schema.SubGraphT()
        model.version, model.subgraphs, model.buffers = _SCHEMA_VERSION, [graph], self.buffers
        model.operatorCodes = []
        for name, version in _VERSIONS.items():
            code = schema.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
            code.version = version
            model.operatorCodes.append(code)
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = [source], [result]
        builder = flatbuffers.Builder(sum(len(b.data) for b in self.buffers[1:]) + 65536)
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())


def _model(
    layers: Layers, precisions: Sequence[str], calibration: Float32Array, covered: float
) -> bytes:
    """A model of layers that are "f32", "dynamic" or "int8" each.

    "dynamic" has int8 weights and float32 inputs, whose scale is that of each row at run time.
    "int8" has int8 inputs and outputs, whose ranges hold the share `covered` of the values in
    calibration. The first layer may also be "scaled": int8, after each input is scaled
    to the range -1 to 1, for inputs of different units.
    """
    writer = _Writer()
    inputs = calibration.astype(np.float64)
    source = value = writer.signal(inputs.shape[1])
    held: _Range | None = None
    if precisions[0] == "scaled":
        precisions = ["int8", *precisions[1:]]
        low, high = inputs.min(0), inputs.max(0)
        middle, half = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)
        (weight, bias), *rest = layers
        layers = [(weight * half, bias + weight @ middle), *rest]
        inputs = (inputs - middle) / half
        value = writer.elementwise("MUL", value, 1 / half)
        value = writer.elementwise("ADD", value, -middle / half)
    for (weight, bias), precision, relu in zip(
        layers, precisions, [*[True] * (len(layers) - 1), False], strict=True
    ):
        outputs = inputs @ weight.T + bias
        if relu:
            np.maximum(outputs, 0, out=outputs)
        if precision == "int8" and held is None:
            held = _Range.of(inputs, covered)
            value, unquantised = writer.signal(len(weight.T), held), value
            writer.operator("QUANTIZE", [unquantised], value)
        elif precision != "int8" and held is not None:
            value, held = _dequantised(writer, value, len(weight.T)), None
        if precision == "f32":
            constants = [weight.astype(np.float32), bias.astype(np.float32)]
            parts = [writer.constant(each) for each in constants]
        else:
            steps = np.maximum(np.abs(weight).max(1), 1e-12) / 127
            parts = [writer.constant(np.rint(weight / steps[:, None]).astype(np.int8), steps)]
            if held is None:
                parts.append(writer.constant(bias.astype(np.float32)))
            else:
                sums = np.clip(np.rint(bias / (steps * held.step)), -(2**31), 2**31 - 1)
                parts.append(writer.constant(sums.astype(np.int32), steps * held.step))
                held = _Range.of(outputs, covered)
        value, before = writer.signal(len(weight), held), value
        writer.fully_connected([before, *parts], value, relu)
        inputs = outputs
    if held is not None:
        value = _dequantised(writer, value, inputs.shape[1])
    return writer.model(source, value)


def _dequantised(writer: _Writer, value: int, width: int) -> int:
    result = writer.signal(width)
    writer.operator("DEQUANTIZE", [value], result)
    return result


def _store_litert(
    net: Network, calibration: Float32Array, folder: Path, settings: Settings
) -> Path:
    covered = settings.get("covered", 1.0)
    path = folder / f"{settings['first']}-{settings['rest']}-{covered}.tflite"
    if not path.exists():
        layers = folded(net)
        precisions = [settings["first"], *[settings["rest"]] * (len(layers) - 1)]
        path.write_bytes(_model(layers, precisions, calibration, covered))
    return path


def _load_litert(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    interpreter, source, result = _interpreter(path, rows, threads)
    set_tensor, invoke = interpreter.set_tensor, interpreter.invoke
    get_tensor = interpreter.get_tensor

    def call(x: Float32Array) -> Any:
        set_tensor(source, x)
        invoke()
        return get_tensor(result)

    return call


def _load_unchecked(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    """Without the checks of LiteRT's Python layer, with views of its memory that it forbids."""
    interpreter, source, result = _interpreter(path, rows, threads)
    inputs, outputs = interpreter.tensor(source)(), interpreter.tensor(result)()
    invoke = interpreter._interpreter.Invoke

    def call(x: Float32Array) -> Any:
        inputs[:] = x
        invoke()
        return outputs

    return call


def _interpreter(path: Path, rows: int, threads: int) -> tuple[Any, int, int]:
    """An interpreter for calls of `rows` rows, and the indices of its input and output."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(source["index"], [rows, int(source["shape"][1])])
    interpreter.allocate_tensors()
    return interpreter, source["index"], result["index"]


_DYNAMIC: Final = combinations_of(first=("dynamic", "f32"), rest=("dynamic",))
_STATIC: Final = (
    *combinations_of(first=("int8", "scaled"), rest=("int8",), covered=(1.0, 0.9999)),
    *combinations_of(first=("dynamic", "f32"), rest=("int8",), covered=(1.0,)),
)
_MODULES: Final = ("ai_edge_litert.interpreter",)
_PACKAGE: Final = "ai-edge-litert"

ENGINES: Final = (
    *(
        Engine(
            name,
            _PACKAGE,
            precision,
            _MODULES,
            _store_litert,
            _load_litert,
            grid,
        )
        for name, precision, grid in (
            ("LiteRT f32", "f32", combinations_of(first=("f32",), rest=("f32",))),
            ("LiteRT int8 dynamic", "int8", _DYNAMIC),
            ("LiteRT int8", "int8", _STATIC),
        )
    ),
    Engine(
        "LiteRT int8 unchecked",
        _PACKAGE,
        "int8",
        _MODULES,
        _store_litert,
        _load_unchecked,
        _STATIC,
        documented=False,
    ),
)

"""ONNX models from networks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.export.layers import dense_layers
from lrgate.files.atomic import replacing
from lrgate.inputs.optional import required
from lrgate.model.activation import Activation
from lrgate.model.model import Model

__all__ = ["OnnxWriter", "write_onnx"]

_OLDEST: Final = 13
# The newest format version of files that all runtimes of the opset read.
_IR_VERSION: Final = 8
_LARGEST: Final = 2**31 - 2**20


def write_onnx(
    model: Model,
    path: str | os.PathLike[str],
    *,
    opset: int,
    input_name: str,
    output_names: Sequence[str] | None,
) -> None:
    """See :meth:`Network.to_onnx`."""
    onnx = required("onnx", "onnx", "Network.to_onnx")
    newest = onnx.defs.onnx_opset_version()
    if not _OLDEST <= opset <= newest:
        raise ValueError(f"opset must be from {_OLDEST} to {newest}, got {opset}")
    task = model.task or "regression"
    usual = ("outputs",) if task == "regression" else ("label", "probabilities")
    names = usual if output_names is None else tuple(output_names)
    if len(names) != len(usual) or len({input_name, *names}) != 1 + len(names) or "" in names:
        raise ValueError(
            f"output_names must be {len(usual)} different names for a network with the task "
            f"{task}, got {names!r}"
        )
    size = sum(layer.weight.nbytes + layer.bias.nbytes for layer in model.layers)
    if size > _LARGEST:
        raise ValueError(f"an ONNX file holds at most 2 GB, the network has {size / 1e9:.1f} GB")
    proto = _proto(model, opset, input_name, names)
    onnx.checker.check_model(proto)
    with replacing(Path(path)) as file:
        file.write(proto.SerializeToString())


def _proto(model: Model, opset: int, input_name: str, names: tuple[str, ...]) -> Any:
    writer = OnnxWriter(opset, input_name, names)
    for op, value in (("Mul", model.input_scale), ("Add", model.input_shift)):
        if value is not None:
            writer.add(op, writer.value, writer.constant(f"input_{op.lower()}", value))
    for i, (weight, bias, activation) in enumerate(dense_layers(model)):
        writer.layer(i, weight, bias)
        writer.activation(i, activation)
    inputs, outputs = model.layers[0].inputs, model.layers[-1].outputs
    declared = model.task
    if declared is None or declared == "regression":
        writer.output(names[0])
        notes = {} if declared is None else {"task": declared}
        return writer.model(inputs, [(names[0], 1, [outputs])], notes)
    notes = {"raw": writer.value}
    last = model.layers[-1].activation.name
    if declared == "multilabel":
        if last != "sigmoid":
            writer.add("Sigmoid", writer.value)
        probabilities = writer.value
        writer.add("Binarizer", probabilities, domain="ai.onnx.ml", threshold=0.5)
        writer.add("Cast", writer.value, to=7)
        label = (names[0], 7, [outputs])
    else:
        _class_probabilities(writer, outputs, last)
        probabilities = writer.value
        writer.add("ArgMax", probabilities, axis=1, keepdims=0)
        label = (names[0], 7, [])
        classes = model.classes
        if classes is not None:
            label = (names[0], _element_type(classes), [])
            writer.add("Gather", writer.constant("classes", classes), writer.value, axis=0)
    writer.output(names[0])
    writer.output(names[1], probabilities)
    count = outputs if declared == "multilabel" else max(2, outputs)
    return writer.model(inputs, [label, (names[1], 1, [count])], notes)


def _class_probabilities(writer: OnnxWriter, outputs: int, last: str) -> None:
    if outputs == 1:
        if last != "sigmoid":
            writer.add("Sigmoid", writer.value)
        yes = writer.value
        no = writer.add("Sub", writer.constant("one", np.ones(1, np.float32)), yes)
        writer.add("Concat", no, yes, axis=1)
    elif last not in ("sigmoid", "softmax"):
        writer.add("Softmax", writer.value, axis=1)


def _element_type(classes: npt.NDArray[Any]) -> int:
    from onnx import TensorProto

    types = {"U": TensorProto.STRING, "b": TensorProto.BOOL, "f": TensorProto.DOUBLE}
    result: int = types.get(classes.dtype.kind, TensorProto.INT64)
    return result


class OnnxWriter:
    """Nodes and constants of a graph. `value` is the name of the latest result."""

    def __init__(self, opset: int, input_name: str, reserved: Sequence[str] = ()) -> None:
        self.opset, self.input_name, self.value = opset, input_name, input_name
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._taken = {input_name, *reserved}

    def _new(self, name: str) -> str:
        unique, i = name, 1
        while unique in self._taken:
            unique, i = f"{name}_{i}", i + 1
        self._taken.add(unique)
        return unique

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        from onnx import helper, numpy_helper

        name = self._new(name)
        if array.dtype.kind == "U":
            strings = [s.encode() for s in array.ravel().tolist()]
            self._constants.append(helper.make_tensor(name, 8, array.shape, strings))
        else:
            self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, value: Any) -> str:
        # Rank 0, which broadcasts to any shape.
        return self.constant("constant", np.array(value, np.float32).reshape(()))

    def add(
        self, op: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any
    ) -> str:
        """Append a node; its result is the new `value`."""
        from onnx import helper

        name = name or self._new(op.lower())
        self.value = self._new(f"{name}_out")
        self._nodes.append(
            helper.make_node(op, inputs, [self.value], name=name, domain=domain, **attributes)
        )
        return self.value

    def output(self, name: str, value: str | None = None) -> None:
        from onnx import helper

        value = value or self.value
        self._nodes.append(helper.make_node("Identity", [value], [name], name=self._new("output")))

    def layer(
        self, i: int, weight: npt.NDArray[Any], bias: npt.NDArray[Any], gemm: bool = True
    ) -> None:
        bias_name = self.constant(f"bias{i}", bias)
        if gemm:
            weight_name = self.constant(f"weight{i}", weight)
            self.add("Gemm", self.value, weight_name, bias_name, name=f"Gemm{i}", transB=1)
        else:
            weight_name = self.constant(f"weight{i}", weight.T)
            self.add("MatMul", self.value, weight_name, name=f"MatMul{i}")
            self.add("Add", self.value, bias_name)

    def activation(self, i: int, activation: Activation) -> None:
        z, parameters = self.value, activation.parameters
        match activation.name:
            case "identity":
                pass
            case "relu" | "tanh" | "sigmoid" | "selu" | "softplus" | "exp":
                self.add(activation.name.capitalize(), z)
            case "softmax":
                self.add("Softmax", z, axis=1)
            case "log_softmax":
                self.add("LogSoftmax", z, axis=1)
            case "leaky_relu":
                self.add("LeakyRelu", z, alpha=parameters[0])
            case "elu":
                self.add("Elu", z, alpha=parameters[0])
            case "thresholded_relu":
                self.add("ThresholdedRelu", z, alpha=parameters[0])
            case "prelu":
                slopes = np.asarray(parameters[0], np.float32)
                self.add("PRelu", z, self.constant(f"slopes{i}", slopes))
            case "clipped_relu":
                self.add("Clip", z, self.number(0.0), self.number(parameters[0]))
            case "hard_tanh":
                self.add("Clip", z, self.number(parameters[0]), self.number(parameters[1]))
            case "hard_sigmoid":
                self.add("HardSigmoid", z, alpha=1.0 / 6.0, beta=0.5)
            case "hard_swish":
                self.add("Mul", z, self.add("HardSigmoid", z, alpha=1.0 / 6.0, beta=0.5))
            case "silu":
                self.add("Mul", z, self.add("Sigmoid", z))
            case "mish":
                self.add("Mul", z, self.add("Tanh", self.add("Softplus", z)))
            case "squared_relu":
                r = self.add("Relu", z)
                self.add("Mul", r, r)
            case "gelu":
                inner = self.add("Div", z, self.number(2.0**0.5))
                self._half_times(z, self.add("Erf", inner))
            case "gelu_tanh":
                cube = self.add("Mul", z, self.add("Mul", z, z))
                inner = self.add("Add", z, self.add("Mul", cube, self.number(0.044715)))
                scaled = self.add("Mul", inner, self.number((2.0 / np.pi) ** 0.5))
                self._half_times(z, self.add("Tanh", scaled))
            case name:
                raise ValueError(f"activation {name} cannot be written to ONNX")

    def _half_times(self, z: str, inner: str) -> None:
        """``0.5 z (1 + inner)``, the end of both forms of gelu."""
        half = self.add("Mul", z, self.number(0.5))
        self.add("Mul", half, self.add("Add", inner, self.number(1.0)))

    def model(
        self,
        inputs: int,
        outputs: list[tuple[str, int, list[int]]],
        notes: dict[str, str] | None = None,
    ) -> Any:
        """The model; an output is its name, element type and shape behind the batch axis."""
        import onnx
        from onnx import helper

        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info(self.input_name, 1, ["n", inputs])],
            [helper.make_tensor_value_info(n, kind, ["n", *shape]) for n, kind, shape in outputs],
            self._constants,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        if any(node.domain for node in self._nodes):
            opsets.append(helper.make_opsetid("ai.onnx.ml", 1))
        model = helper.make_model(graph, opset_imports=opsets, producer_name="lrgate")
        least = onnx.helper.find_min_ir_version_for(opsets)
        model.ir_version = max(_IR_VERSION, least)
        helper.set_model_props(model, {f"lrgate.{key}": v for key, v in (notes or {}).items()})
        return model

"""Conversion of a ReLU network to an ONNX model."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrgate.frameworks.arrays import folded
from lrgate.network import Network

__all__ = [
    "onnx_model",
]


def onnx_model(net: Network, *, gemm: bool = True) -> Any:
    """Convert a ReLU network to an ONNX model with Gemm, or with MatMul and Add."""
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
            nodes.append(helper.make_node("Gemm", inputs, [f"z{i}"], name=f"Gemm{i}", transB=1))
        else:
            columns = np.ascontiguousarray(weight.T)
            constants.append(numpy_helper.from_array(columns, f"weight{i}"))
            inputs = [name, f"weight{i}"]
            nodes.append(helper.make_node("MatMul", inputs, [f"m{i}"], name=f"MatMul{i}"))
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

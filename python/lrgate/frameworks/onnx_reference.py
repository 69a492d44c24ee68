"""Raw outputs of an ONNX model by the reference implementation of package onnx.

Nodes run one by one on arrays that the reader has decoded, so that weights are never copied. All
numbers have one floating-point type: float64 if the model has numbers of that type, else float32.
So models of mixed types, which other runtimes refuse, and models in half precision can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.frameworks.chain import BATCH
from lrgate.frameworks.errors import Refused
from lrgate.frameworks.onnx_graph import Graph, Node
from lrgate.frameworks.onnx_tensors import cast, is_float
from lrgate.types import Float32Array

__all__ = ["Reference"]

Array = npt.NDArray[Any]

_MAX_ELEMENTS: Final = 2**26


class Reference:
    """Computes a value of a graph for rows.

    Parameters
    ----------
    graph : Graph
    name : str
        The value.
    shape : tuple of int
        Shape of the input behind its batch axis.
    batch : int or None
        The number of rows, as of a chain.
    widest : int
        The most elements per row of any value, for the memory that a fixed batch needs.
    folded : dict of str to array
        Constants that the reader has computed, for nodes that package onnx does not implement.
    start : str, optional
        The value of which rows are given, with that `shape`. By default the input.
    """

    def __init__(
        self,
        graph: Graph,
        name: str,
        shape: tuple[int, ...],
        batch: int | None,
        *,
        widest: int,
        folded: dict[str, Array],
        start: str | None = None,
    ) -> None:
        if batch not in (None, BATCH) and batch * widest > _MAX_ELEMENTS:
            raise Refused(f"a batch of {batch} rows is too large to be verified: pass verify=False")
        self._graph, self._name, self._shape, self._batch = graph, name, shape, batch
        self._start = start
        self._nodes = _upstream(graph.nodes, name, start)
        self._folded = folded
        self._last_use = {n: i for i, node in enumerate(self._nodes) for n in node.inputs}
        double = any(array.dtype == np.float64 for array in graph.constants.values())
        double |= any(variable.element_type == 11 for variable in graph.inputs)
        self._dtype = np.dtype(np.float64 if double else np.float32)
        self._dynamic = _downstream(graph.nodes, [variable.name for variable in graph.inputs])

    def __call__(self, x: Float32Array) -> Array:
        """The value for rows (n, d), as (n, k)."""
        if self._batch == BATCH:
            outputs = self._run(x.reshape(len(x), *self._shape))
            return outputs.reshape(len(x), -1)
        if self._batch is None:
            singles = [self._run(row.reshape(self._shape)).reshape(-1) for row in x]
            return np.stack(singles)
        batch = self._batch
        parts = []
        for start in range(0, len(x), batch):
            piece = x[start : start + batch]
            rows = np.zeros((batch, x.shape[1]), x.dtype)
            rows[: len(piece)] = piece
            result = self._run(rows.reshape(batch, *self._shape))
            parts.append(result.reshape(batch, -1)[: len(piece)])
        return np.concatenate(parts)

    def _run(self, x: Array) -> Array:
        values: dict[str, Any] = {"": None}
        for name, array in self._graph.constants.items():
            values[name] = self._unified(array)
        for variable in self._graph.inputs:
            shape = [n or len(x) for n in variable.shape or ()]
            values[variable.name] = self._unified(x if self._start is None else np.zeros(shape))
        if self._start is not None:
            values[self._start] = self._unified(x)
        for i, node in enumerate(self._nodes):
            inputs = [values[name] for name in node.inputs]
            try:
                outputs = self._computed(node, inputs)
            except Exception as error:
                if all(name in self._folded for name in node.outputs):
                    values.update({n: self._unified(self._folded[n]) for n in node.outputs})
                    continue
                raise Refused(
                    f'onnx.reference cannot run node "{node.name}" ({node.op}) to verify the '
                    f"network ({_first_line(error)}): pass verify=False"
                ) from None
            for name, value in zip(node.outputs, outputs, strict=False):
                values[name] = self._unified(value)
            for name in node.inputs:
                if name and self._last_use[name] == i and name not in self._graph.constants:
                    values.pop(name, None)
        result: Array = values[self._name]
        return result

    def _unified(self, value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
            # Half precision of package ml_dtypes is of kind V.
            if array.dtype.kind in "fV" and array.dtype != self._dtype:
                return array.astype(self._dtype)
            return array.astype(object) if array.dtype.kind == "U" else array
        return value

    def _computed(self, node: Node, inputs: list[Any]) -> Iterable[Any]:
        if node.domain == "" and node.op == "Cast" and is_float(node.get("to")):
            if node.inputs[0] in self._dynamic:
                return [inputs[0].astype(self._dtype)]
            # A constant is rounded.
            return [cast(inputs[0], node.get("to"))]
        if node.domain == "" and node.op == "CastLike" and inputs[1].dtype.kind == "f":
            return [inputs[0].astype(self._dtype)]
        if node.domain == "" and node.op in ("Softmax", "LogSoftmax"):
            return [_softmax(node, inputs[0])]
        return _evaluated(node, inputs, self._graph.opsets)


def _upstream(nodes: list[Node], name: str, start: str | None) -> list[Node]:
    """The nodes that compute a value, from `start` if it is given."""
    needed, kept = {name}, []
    for node in reversed(nodes):
        if start not in node.outputs and not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _downstream(nodes: list[Node], names: list[str]) -> set[str]:
    """The values that depend on `names`."""
    found = set(names)
    for node in nodes:
        if not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _softmax(node: Node, x: Array) -> Array:
    """Softmax, or its logarithm, which the reference computes as log(0) for small probabilities.

    Before opset 13, all axes from `axis` on are one.
    """
    if node.version >= 13:
        axis, z = node.whole("axis", -1), x
    else:
        axis, z = 1, x.reshape(int(np.prod(x.shape[: node.whole("axis", 1)])), -1)
    z = z - z.max(axis, keepdims=True)
    log = z - np.log(np.exp(z).sum(axis, keepdims=True))
    result: Array = log if node.op == "LogSoftmax" else np.exp(log)
    return result.reshape(x.shape)


def _evaluated(node: Node, inputs: list[Any], opsets: dict[str, int]) -> list[Any]:
    from onnx import GraphProto, helper
    from onnx.reference import ReferenceEvaluator

    graph = GraphProto()
    graph.name = "node"
    graph.node.append(node.proto)
    graph.node[0].domain = node.domain
    feeds = {name: value for name, value in zip(node.inputs, inputs, strict=True) if name}
    for name, value in feeds.items():
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, None))
    outputs = [name for name in node.outputs if name]
    for name in outputs:
        graph.output.add().name = name
    found = dict(
        zip(outputs, ReferenceEvaluator(graph, opsets=opsets).run(None, feeds), strict=True)
    )
    return [found.get(name) for name in node.outputs]

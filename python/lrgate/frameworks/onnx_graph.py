"""Graphs of ONNX models: read from files, inlined, sorted, and reduced to the nodes in use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.frameworks.errors import Refused
from lrgate.frameworks.onnx_file import File
from lrgate.frameworks.onnx_tensors import from_sparse, from_tensor

__all__ = ["MAX_NODES", "Graph", "Node", "Variable", "read_graph", "shortest"]

Array = npt.NDArray[Any]

MAX_NODES: Final = 100_000
_MAX_SPARSE: Final = 2**26
_OLDEST: Final = 6


def shortest(value: float) -> float:
    """The number with the fewest digits that is this float32: 0.1, not 0.10000000149."""
    return float(str(np.float32(value)))


@dataclass(eq=False)
class Node:
    """A node with its attributes; those that no operator reads are refused."""

    name: str
    domain: str
    op: str
    version: int
    inputs: list[str]
    outputs: list[str]
    proto: Any
    attributes: dict[str, Any] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    #: Which outputs anything reads.
    live: list[bool] = field(default_factory=list)

    def has(self, name: str) -> bool:
        return name in self.attributes

    def ignore(self, *names: str) -> None:
        """Attributes that do not change the result."""
        self.used.update(names)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an attribute: int, float, str, list or TensorProto."""
        self.used.add(name)
        attribute = self.attributes.get(name)
        if attribute is None:
            return default
        if attribute.ref_attr_name:
            raise Refused(f'its attribute "{name}" is one of a function that is not called')
        kind = attribute.type
        match kind:
            case attribute.FLOAT:
                return attribute.f
            case attribute.INT:
                return attribute.i
            case attribute.STRING:
                return attribute.s.decode("utf-8", "replace")
            case attribute.TENSOR:
                return attribute.t
            case attribute.SPARSE_TENSOR:
                return attribute.sparse_tensor
            case attribute.FLOATS:
                return list(attribute.floats)
            case attribute.INTS:
                return list(attribute.ints)
            case attribute.STRINGS:
                return [s.decode("utf-8", "replace") for s in attribute.strings]
        raise Refused(f'its attribute "{name}" has a type that is not supported')

    def whole(self, name: str, default: int | None = None) -> int:
        """An attribute that is a whole number."""
        value = self.get(name, default)
        if not isinstance(value, int):
            raise Refused(f'its attribute "{name}" must be a whole number')
        return value

    def number(self, name: str, default: float) -> float:
        value = self.get(name, default)
        if not isinstance(value, int | float):
            raise Refused(f'its attribute "{name}" must be a number')
        return shortest(value)

    def values(self, name: str) -> list[Any] | None:
        value = self.get(name)
        if value is not None and not isinstance(value, list):
            raise Refused(f'its attribute "{name}" must be a list')
        return value

    def unread(self) -> list[str]:
        return sorted(set(self.attributes) - self.used)


@dataclass(frozen=True)
class Variable:
    """An input of a model: its shape has None for a free size, and is None if unknown."""

    name: str
    element_type: int
    shape: tuple[int | None, ...] | None


@dataclass(eq=False)
class Graph:
    """The nodes of a model that its outputs need, in an order in which they can be run."""

    nodes: list[Node]
    constants: dict[str, Array]
    inputs: list[Variable]
    outputs: list[str]
    opsets: dict[str, int]
    #: Notes of `Network.to_onnx` in the file: "task", and "raw", the name of the raw outputs.
    notes: dict[str, str]


def read_graph(file: File, folder: Path | None, wanted: str | None) -> Graph:
    """The graph behind one output, or behind all outputs.

    Parameters
    ----------
    file : File
    folder : Path, optional
        Folder of the model's file, for external data.
    wanted : str, optional
        Name of the only output that is of interest.
    """
    model, graph = file.model, file.model.graph
    names = [output.name for output in graph.output]
    if not names:
        raise Refused("it is not an ONNX model, or has no outputs")
    if wanted is not None and wanted not in names:
        raise Refused(f'it has no output "{wanted}": its outputs are {_quoted(names)}')
    opsets = _opsets(model)
    protos = list(graph.node)
    if len(protos) > MAX_NODES:
        raise Refused(f"it has {len(protos)} nodes, at most {MAX_NODES} are supported")
    if model.functions:
        protos = _inlined(model)
    outputs = names if wanted is None else [wanted]
    constants = _initializers(graph)
    order = _sorted(protos, outputs, {*constants, *(i.name for i in graph.input)})
    needed = {name for proto in order for name in proto.input} | set(outputs)
    nodes = [_node(proto, opsets, i, needed) for i, proto in enumerate(order, 1)]
    raw = {graph.initializer[i].name: data for i, data in file.raw.items()}
    arrays = {
        name: _array(name, tensor, folder, raw.get(name))
        for name, tensor in constants.items()
        if name in needed
    }
    inputs = [
        _variable(value)
        for value in graph.input
        if value.name not in constants and value.name in needed
    ]
    notes = {
        entry.key.removeprefix("lrgate."): entry.value
        for entry in model.metadata_props
        if isinstance(entry.key, str) and entry.key.startswith("lrgate.")
    }
    return Graph(nodes, arrays, inputs, outputs, opsets, notes)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _opsets(model: Any) -> dict[str, int]:
    from onnx import defs

    opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
    version = opsets.setdefault("", 1)
    newest = defs.onnx_opset_version()
    if version < _OLDEST:
        raise Refused(
            f"it has opset {version}, the oldest that is supported is {_OLDEST}: convert it with "
            "onnx.version_converter"
        )
    if version > newest:
        raise Refused(
            f"it has opset {version}, but the installed onnx knows opsets up to {newest}: "
            "install a newer onnx"
        )
    return opsets


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _initializers(graph: Any) -> dict[str, Any]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants.update({tensor.values.name: tensor for tensor in graph.sparse_initializer})
    if len(constants) < len(graph.initializer) + len(graph.sparse_initializer):
        raise Refused("two of its initializers have the same name")
    return constants


def _array(name: str, tensor: Any, folder: Path | None, raw: bytes | None) -> Array:
    try:
        if hasattr(tensor, "indices"):
            return from_sparse(tensor, folder, _MAX_SPARSE)
        return from_tensor(tensor, folder, raw)
    except Refused as error:
        raise Refused(f'initializer "{name}": {error}') from None


def _variable(value: Any) -> Variable:
    if value.type.WhichOneof("value") != "tensor_type":
        raise Refused(f'its input "{value.name}" is not a tensor')
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return Variable(value.name, tensor.elem_type, None)
    shape = tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
        for d in tensor.shape.dim
    )
    return Variable(value.name, tensor.elem_type, shape)


def _node(proto: Any, opsets: dict[str, int], number: int, needed: set[str]) -> Node:
    domain = _domain(proto.domain)
    names = (proto.name, proto.op_type, domain, *proto.input, *proto.output)
    # Damaged names are bytes.
    if not all(isinstance(name, str) for name in names):
        raise Refused(f"a name in node {number} is not UTF-8: the file is damaged")
    attributes = {attribute.name: attribute for attribute in proto.attribute}
    if len(attributes) < len(proto.attribute):
        raise Refused(f'two attributes of node "{proto.name}" ({proto.op_type}) have the same name')
    return Node(
        proto.name or f"{proto.op_type}_{number}",
        domain,
        proto.op_type,
        opsets.get(domain, 1),
        list(proto.input),
        list(proto.output),
        proto,
        attributes,
        live=[bool(name) and name in needed for name in proto.output],
    )


def _sorted(protos: Sequence[Any], outputs: Sequence[str], given: set[str]) -> list[Any]:
    """The nodes that `outputs` need, each behind those that it needs."""
    makers: dict[str, int] = {}
    for i, proto in enumerate(protos):
        for name in proto.output:
            if not name:
                continue
            if name in makers or name in given:
                raise Refused(f'the value "{name}" is computed twice')
            makers[name] = i
    order: list[Any] = []
    # 1: its inputs are being visited; 2: done.
    state = bytearray(len(protos))
    for output in outputs:
        if output not in makers:
            if output not in given:
                raise Refused(f'nothing computes its output "{output}"')
            continue
        if state[makers[output]] == 2:
            continue
        stack = [(makers[output], iter(protos[makers[output]].input))]
        state[makers[output]] = 1
        while stack:
            i, names = stack[-1]
            for name in names:
                if not name or name in given:
                    continue
                maker = makers.get(name)
                if maker is None:
                    raise Refused(f'nothing computes the value "{name}"')
                if state[maker] == 1:
                    raise Refused(f'its nodes form a cycle through the value "{name}"')
                if state[maker] == 0:
                    state[maker] = 1
                    stack.append((maker, iter(protos[maker].input)))
                    break
            else:
                state[i] = 2
                order.append(protos[i])
                stack.pop()
    return order


def _inlined(model: Any) -> list[Any]:
    """The nodes of the graph with the bodies of local functions in place of their calls."""
    import onnx
    from onnx import inliner

    _check_functions(model)
    # Without weights, which the inliner would copy. Their names stay, so that none is used twice.
    light = onnx.ModelProto()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = model.graph.name
    light.graph.node.extend(model.graph.node)
    light.graph.output.extend(model.graph.output)
    known = {value.name for value in model.graph.input}
    light.graph.input.extend(model.graph.input)
    for name in _initializers(model.graph):
        if name not in known:
            light.graph.input.add().name = name
    try:
        return list(inliner.inline_local_functions(light).graph.node)
    except Exception as error:
        raise Refused(f"its local functions cannot be inlined: {error}") from None


def _check_functions(model: Any) -> None:
    """Refuse functions that call themselves, or whose bodies have too many nodes in all."""
    bodies = {(_domain(f.domain), f.name, f.overload): f for f in model.functions}
    sizes: dict[Any, int] = {}
    visited: set[Any] = set()

    def calls(nodes: Iterable[Any]) -> Iterator[Any]:
        for node in nodes:
            if any(a.HasField("g") or a.graphs for a in node.attribute):
                raise Refused(f"control flow ({node.op_type}) is not supported")
            key = (_domain(node.domain), node.op_type, node.overload)
            if key in bodies:
                yield key

    total = len(model.graph.node)
    for root in calls(model.graph.node):
        stack = [] if root in sizes else [(root, calls(bodies[root].node))]
        visited.add(root)
        while stack:
            key, inner = stack[-1]
            for called in inner:
                if called not in visited:
                    visited.add(called)
                    stack.append((called, calls(bodies[called].node)))
                    break
                if called not in sizes:
                    raise Refused(f'its local function "{called[1]}" calls itself')
            else:
                nodes = bodies[key].node
                sizes[key] = len(nodes) + sum(sizes[k] for k in calls(nodes))
                stack.pop()
        total += sizes[root]
    if total > MAX_NODES:
        raise Refused(f"it has {total} nodes, at most {MAX_NODES} are supported")

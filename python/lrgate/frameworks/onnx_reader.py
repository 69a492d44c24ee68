"""Networks from ONNX models."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.frameworks.building import built, refusal, verified
from lrgate.frameworks.chain import BATCH, COUNTS, Chain, Labels, Value, holds_batch
from lrgate.frameworks.errors import Refused
from lrgate.frameworks.onnx_file import File, read_file
from lrgate.frameworks.onnx_graph import Graph, Node, read_graph
from lrgate.frameworks.onnx_operators import MOVES, OPERATORS, REASONS
from lrgate.frameworks.onnx_reference import Reference
from lrgate.frameworks.onnx_tensors import ELEMENT_TYPES, is_float
from lrgate.frameworks.values import Rows, Taken
from lrgate.inputs.optional import required
from lrgate.model.model import TASKS
from lrgate.network import Network

__all__ = ["from_onnx"]

_SOURCE: Final = "onnx"
# Elements of all values that the reader computes, beside some for each element of the weights.
_WORK: Final = 2**26
_WORK_PER_WEIGHT: Final = 8
_LARGEST_BATCH: Final = 2**16


def from_onnx(
    model: str | os.PathLike[str] | Any,
    *,
    output: str | None = None,
    task: str | None = None,
    classes: npt.ArrayLike | None = None,
    verify: bool = True,
) -> Network:
    """Build a network from an ONNX model.

    The model must be a chain of fully connected layers. Its nodes may spell the layers out in any
    way: scalings, batch normalisation, reshapes and selections are folded into the weights or into
    the input's scale and shift. Nothing of the file is executed, and sizes are checked before
    memory is allocated.

    Parameters
    ----------
    model : str, path-like or onnx.ModelProto
        Path of the file, or the model itself. External data is read from the folder of the file.
    output : str, optional
        Name of the output to compute, if the model has several. The label and the probabilities of
        a classifier need no choice: both are read, and the network's raw outputs are the
        probabilities.
    task : {"classification", "regression", "multilabel"}, optional
        As in :meth:`Network.from_layers`. By default the task of the model's outputs.
    classes : array-like (k,), optional
        Labels of a classifier. By default those in the model.
    verify : bool, default True
        Compare the network with the reference implementation of ONNX on random rows.

    Returns
    -------
    Network
        With a dense plan. Rows are those of the model, with all axes behind the batch axis as one.

    Raises
    ------
    UnsupportedModelError
        If the model is not such a chain, is damaged, or gives other outputs than the network. The
        message names the node and the reason.
    ValueError, TypeError
        If `task` or `classes` do not fit the network, or `model` is neither a path nor a model.
    ImportError
        If the package onnx is not installed.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import lrgate
    >>> net = lrgate.from_onnx("model.onnx")  # doctest: +SKIP
    >>> fast = lrgate.optimize(net, x, y)  # doctest: +SKIP
    """
    onnx = required("onnx", "onnx", "lrgate.from_onnx")
    folder: Path | None = None
    if isinstance(model, str | os.PathLike):
        name = os.fspath(model)
        folder = Path(name).resolve().parent
    elif isinstance(model, onnx.ModelProto):
        name = "the model"
    else:
        raise TypeError(f"model must be a path or an onnx.ModelProto, got {type(model).__name__}")
    try:
        file = File(model) if folder is None else read_file(model)
        graph = _graph(file, folder, output)
        reading = _read(graph, name)
        net = built(reading.result, task=reading.task(task), classes=classes)
        if not verify:
            return net
        result = reading.result
        own = classes is None and isinstance(result, Labels) and task in (None, result.kind)
        if own:
            reading.check_names()
        return verified(
            net,
            reading.reference(net),
            source=_SOURCE,
            name=name,
            labels=reading.labels() if own else None,
        )
    except Refused as error:
        raise refusal(error, source=_SOURCE, name=name) from None
    except RecursionError:
        deep = Refused("its operations are nested too deeply")
        raise refusal(deep, source=_SOURCE, name=name) from None


def _graph(file: File, folder: Path | None, output: str | None) -> Graph:
    try:
        return read_graph(file, folder, output)
    except (TypeError, UnicodeError):
        # Text that is not UTF-8 is bytes in a ModelProto.
        raise Refused("it is damaged") from None


def _read(graph: Graph, name: str) -> _Reading:
    """Read a graph; if that fails with a batch axis, without one where that is possible."""
    for number, node in enumerate(graph.nodes, 1):
        # Its inputs are not all that it uses.
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.proto.attribute):
            place = number, len(graph.nodes)
            error = Refused(REASONS["", "If"])
            raise refusal(error, source=_SOURCE, name=name, node=node.name, op=node.op, place=place)
    attempts = _inputs(graph)
    errors = []
    for shape, batch in attempts:
        reading = _Reading(graph, name, shape, batch)
        try:
            reading.run()
        except (Refused, ValueError) as error:
            errors.append(error)
        else:
            return reading
    raise errors[0]


def _inputs(graph: Graph) -> list[tuple[tuple[int, ...], int | None]]:
    """Shapes behind the batch axis and numbers of rows that the model's input may have."""
    if len(graph.inputs) != 1:
        names = ", ".join(f'"{variable.name}"' for variable in graph.inputs)
        if not names:
            raise Refused("its outputs do not depend on an input")
        raise Refused(f"it has the inputs {names}: lrgate runs networks with one input")
    variable = graph.inputs[0]
    kind = ELEMENT_TYPES.get(variable.element_type, ("unknown",))[0]
    if kind in ("unknown", "string"):
        raise Refused(f'its input "{variable.name}" has a type that is not supported')
    if variable.shape is None:
        raise Refused(f'its input "{variable.name}" has no shape: set it with onnx.shape_inference')
    if any(n is None for n in variable.shape[1:]):
        raise Refused(
            f'its input "{variable.name}" has a free size behind the batch axis: export the model '
            "with a fixed number of features"
        )
    inner = tuple(n for n in variable.shape[1:] if n is not None)
    rows = variable.shape[0] if variable.shape else 1
    if len(variable.shape) == 0:
        return [((), None)]
    if rows is None:
        return [(inner, BATCH)]
    if not inner:
        # One row of that many features; or, if that fails, as many rows of one.
        return [((rows,), None), (inner, rows)]
    if rows > _LARGEST_BATCH and math.prod(inner) != 1:
        raise Refused(f"a batch of {rows} rows is not supported")
    attempts: list[tuple[tuple[int, ...], int | None]] = []
    if rows <= _LARGEST_BATCH:
        attempts.append((inner, rows))
    if rows == 1 or math.prod(inner) == 1:
        # A row that the model does not separate from the batch, such as a column vector.
        attempts.append(((rows, *inner), None))
    return attempts


class _Reading:
    """The values of a graph, read with one shape of its input."""

    def __init__(self, graph: Graph, name: str, shape: tuple[int, ...], batch: int | None) -> None:
        self.graph, self.name = graph, name
        self.chain = Chain(shape, batch)
        self.shape, self.batch = shape, batch
        self.values: dict[str, Value] = dict(graph.constants)
        variable = graph.inputs[0]
        self.values[variable.name] = self.chain.input
        #: Names of values that are whole numbers and depend on the input.
        self.whole: set[str] = set()
        if not is_float(variable.element_type) and variable.element_type != 9:
            self.whole.add(variable.name)
        self.work = _WORK + _WORK_PER_WEIGHT * sum(a.size for a in graph.constants.values())
        self.widest = self.chain.input.size

    def run(self) -> None:
        for i, node in enumerate(self.graph.nodes, 1):
            matrices = self.chain.matrices
            self.chain.where = f'node "{node.name}"'
            try:
                self._node(node)
            except Refused as error:
                raise self._refusal(error, node, i, matrices) from None
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                unfit = Refused(f"its inputs do not fit: {error}")
                raise self._refusal(unfit, node, i, matrices) from None
        self.result, self.raw = self._chosen()

    def _refusal(self, error: Refused, node: Node, number: int, matrices: int) -> Exception:
        return refusal(
            error,
            source=_SOURCE,
            name=self.name,
            node=node.name,
            op=node.op,
            place=(number, len(self.graph.nodes)),
            matrices=matrices,
        )

    def _node(self, node: Node) -> None:
        operator = OPERATORS.get((node.domain, node.op))
        if operator is None:
            raise Refused(_reason(node))
        _check_counts(node)
        inputs = [self.values[name] if name else None for name in node.inputs]
        whole = any(name in self.whole for name in node.inputs)
        if whole and node.op not in MOVES and node.op not in ("Cast", "CastLike", "Scaler"):
            raise Refused("it computes with whole numbers that depend on the input")
        result = operator(self.chain, node, inputs)
        _check_sizes(node, inputs, result)
        unread = node.unread()
        if unread:
            raise Refused(f'its attribute "{unread[0]}" is not supported')
        results = result if isinstance(result, tuple) else (result,)
        for name, value in zip(node.outputs, results, strict=False):
            if value is None or not name:
                continue
            self.values[name] = value
            if whole and node.op in MOVES and isinstance(value, Rows):
                self.whole.add(name)
            size = value.size if not isinstance(value, Labels) else value.of.size
            self.work -= size
            if isinstance(value, Rows):
                self.widest = max(self.widest, size)
            if self.work < 0:
                raise Refused("its values have too many elements for its weights")
        missing = [
            name
            for name, live in zip(node.outputs, node.live, strict=True)
            if live and name not in self.values
        ]
        if missing:
            raise Refused(f'its output "{missing[0]}" is not supported')

    def _chosen(self) -> tuple[Rows | Labels, str]:
        """The result of the model, and the name of the raw outputs in it."""
        found = {name: self.values[name] for name in dict.fromkeys(self.graph.outputs)}
        for name, value in found.items():
            if not isinstance(value, Rows | Labels):
                raise Refused(f'its output "{name}" does not depend on the input')
        kept = {name: v for name, v in found.items() if isinstance(v, Rows | Labels)}
        labels = [value for value in kept.values() if isinstance(value, Labels)]
        rows = [value for value in kept.values() if isinstance(value, Rows)]
        if len(kept) == 1:
            (result,) = kept.values()
        else:
            joined = _joined(labels, rows)
            if joined is None:
                names = ", ".join(f'"{name}"' for name in kept)
                raise Refused(f"it has the outputs {names}: choose one by output=")
            result = joined
        if isinstance(result, Labels):
            result = self._with_raw(result)
        raw = result.of if isinstance(result, Labels) else result
        return result, self._name_of(raw)

    def _with_raw(self, labels: Labels) -> Labels:
        """Labels of the raw outputs that a file of `Network.to_onnx` names, if they fit."""
        raw = self.values.get(self.graph.notes.get("raw", ""))
        if not isinstance(raw, Rows):
            return labels
        inputs = labels.of.stage.inputs
        binary = raw.size == 1 and inputs is not None and _same(inputs, raw)
        return replace(labels, of=raw) if binary or _same_order(raw, labels.of) else labels

    def task(self, given: str | None) -> str | None:
        """The task: that of the caller, or the one that a file of `Network.to_onnx` names."""
        noted = self.graph.notes.get("task")
        usable = given is None and isinstance(self.result, Rows) and noted in TASKS
        return noted if usable else given

    def _model(self, name: str, of: Rows | None = None) -> Reference:
        """The model's own computation of a value, from the input or from `of`."""
        folded = {
            name: value
            for name, value in self.values.items()
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
        }
        return Reference(
            self.graph,
            name,
            self.shape if of is None else of.shape,
            self.batch,
            widest=self.widest,
            folded=folded,
            start=None if of is None else self._name_of(of),
        )

    def _name_of(self, rows: Rows) -> str:
        return next(name for name, value in self.values.items() if value is rows)

    def _label_outputs(self) -> dict[str, Labels]:
        """Outputs of labels, without the dictionaries of ZipMap."""
        zipped = {n for node in self.graph.nodes if node.op == "ZipMap" for n in node.outputs}
        outputs = {name: self.values[name] for name in self.graph.outputs if name not in zipped}
        return {name: value for name, value in outputs.items() if isinstance(value, Labels)}

    def labels(self) -> Reference | None:
        """The model's own labels, if it has an output of them."""
        return next(map(self._model, self._label_outputs()), None)

    def check_names(self) -> None:
        """Compare the label of each class with the model's own for scores that are highest there.

        Random rows may all be of one class.
        """
        for name, labels in self._label_outputs().items():
            size = labels.of.size
            scores = 2.0 * np.eye(size, dtype=np.float32) - 1.0
            if size == 1:
                scores = np.array([[-1.0], [1.0]], np.float32)
            expected = scores > 0.0 if labels.kind == "multilabel" else labels.all_names
            got = self._model(name, labels.of)(scores)
            if got.size != expected.size or (got.reshape(expected.shape) != expected).any():
                raise Refused(
                    f'the network\'s labels differ from those of output "{name}": please report '
                    "this model, or pass verify=False"
                )

    def reference(self, net: Network) -> Any:
        model = self._model(self.raw)

        def raw_outputs(x: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
            outputs = model(x)
            # The network of [1 - p, p] has the output p.
            binary = net.output_size == 1 and outputs.shape[1] == 2
            return outputs[:, 1:] if binary else outputs

        return raw_outputs


def _check_counts(node: Node) -> None:
    """Refuse more inputs or outputs than the operation has."""
    from onnx import defs

    try:
        schema = defs.get_schema(node.op, node.version, node.domain)
    except Exception:  # onnx.defs.SchemaError
        raise Refused(f"opset {node.version} has no such operation") from None
    for noun, count, most in (
        ("input", len(node.inputs), schema.max_input),
        ("output", len(node.outputs), schema.max_output),
    ):
        if count > most:
            raise Refused(f"it has {count} {noun}s, but {most} at most make sense")


# Elementwise arithmetic with sizes.
_ARITHMETIC: Final = ("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Neg", "Abs", "Pow", "Sum")

_COMPARISONS: Final = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")

# Operations whose result is a size only if all the numbers are, or none.
_REDUCTIONS: Final = (
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2"),
    *("ArgMax", "MatMul", "Gemm"),
)


def _check_sizes(node: Node, inputs: Sequence[Any], result: Any) -> None:
    """Refuse whole numbers that are neither a multiple of the number of rows nor without it."""
    checked = node.op in (*_ARITHMETIC, *_COMPARISONS, *_REDUCTIONS)
    if not checked or isinstance(result, Rows | Labels):
        return
    constants = [
        np.asarray(value)
        for value in inputs
        if value is not None and not isinstance(value, Rows | Labels)
    ]
    sizes = [(array != 0) & (array % BATCH == 0) for array in constants if holds_batch(array)]
    if not sizes:
        return
    if node.op in _REDUCTIONS and not all(size.all() for size in sizes):
        raise Refused(COUNTS)
    if node.op in _COMPARISONS and len(sizes) < len(constants):
        # Whatever it is, the number of rows is above 0.
        (other,) = (array for array in constants if not holds_batch(array))
        size, other = np.broadcast_arrays(sizes[0], other)
        if (other[size] > 0).any():
            raise Refused(COUNTS)
    if node.op not in _ARITHMETIC:
        return
    # Of quotients, the number of rows is a common factor or remains.
    if node.op == "Div" and len(sizes) == len(inputs):
        return
    depends = np.broadcast_to(np.logical_or.reduce(np.broadcast_arrays(*sizes)), result.shape)
    if (np.asarray(result)[depends] % BATCH != 0).any():
        raise Refused(COUNTS)


def _reason(node: Node) -> str:
    reason = REASONS.get((node.domain, node.op))
    if reason is not None:
        return reason
    if node.domain not in ("", "ai.onnx.ml"):
        quantised = "Quant" in node.op or node.op == "Trunc"
        way_out = ": import the float model, and let lrgate quantise it" if quantised else ""
        return f'the operator is of the domain "{node.domain}", which is not supported{way_out}'
    return "it is not an operation of fully connected networks that lrgate knows"


def _joined(labels: list[Labels], rows: list[Rows]) -> Labels | None:
    """Labels with the probabilities that belong to them; None if the outputs are unrelated."""
    if not labels:
        return None
    # The label, and the dictionaries of ZipMap.
    first = labels[0]
    for other in labels[1:]:
        if not _same_order(other.of, first.of):
            return None
        if not _equal(first.all_names, other.all_names):
            return None
        names = first.names if first.names is not None else other.names
        kind = "multilabel" if "multilabel" in (first.kind, other.kind) else first.kind
        of = other.of if other.of.stage.inputs is not None else first.of
        first = Labels(of, kind, names)
    if not rows:
        return first
    if len(rows) == 1:
        return Labels(rows[0], first.kind, first.names) if _same_order(rows[0], first.of) else None
    if len(rows) == first.of.size and all(
        _is_element(row, first.of, i) for i, row in enumerate(rows)
    ):
        return first
    return None


def _same_order(a: Rows, b: Rows) -> bool:
    """Whether `a` and `b` are the same, or one is the softmax or sigmoid of the other."""
    for x, y in ((a, b), (b, a)):
        if _same(x, y):
            return True
        stage = x.stage
        if (
            x.is_plain
            and x.core is stage.outputs
            and stage.inputs is not None
            and stage.activation is not None
            and stage.activation.name in ("softmax", "log_softmax", "sigmoid")
            and _same(stage.inputs, y)
        ):
            return True
    return False


def _same(a: Rows, b: Rows) -> bool:
    return a.core is b.core and a.scale is b.scale and a.offset is b.offset


def _is_element(row: Rows, of: Rows, i: int) -> bool:
    """Whether `row` is the element `i` of `of`."""
    core, wanted = row.core, of.taken(np.array([i]), (1,))
    return (
        isinstance(core, Taken)
        and isinstance(wanted.core, Taken)
        and core.of is wanted.core.of
        and np.array_equal(core.index, wanted.core.index)
        and _equal(row.scale, wanted.scale)
        and _equal(row.offset, wanted.offset)
    )


def _equal(a: Any, b: Any) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))

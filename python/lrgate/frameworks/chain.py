"""Tensor operations on constants and rows, shared by the readers of all frameworks.

A reader gives the operations of a model in order. Each takes and returns values: constants as NumPy
arrays, `Rows`, or `Labels` behind the last layer. An operation that fits no chain of fully
connected layers raises `Refused` with the reason; the reader adds the name of the node.

The number of rows is `BATCH` wherever a model asks for it, so that arithmetic with shapes works on
constants. Shapes that hold `BATCH` are understood, data that holds it is refused. Only whole
numbers can be `BATCH`: a reader refuses a number of rows that becomes a real number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.frameworks.errors import Refused
from lrgate.frameworks.values import (
    Function,
    Product,
    Rows,
    Stacked,
    Stage,
    Total,
)
from lrgate.model.activation import Activation
from lrgate.types import Float64Array

__all__ = [
    "BATCH",
    "COUNTS",
    "MAX_BUILT",
    "MAX_ELEMENTS",
    "Chain",
    "Labels",
    "Value",
    "as_constant",
    "elementwise_line",
    "holds_batch",
]

# A prime, so that a shape that contains it as a factor is one of the batch.
BATCH: Final = 1_000_000_007
# Of any constant that an operation makes out of smaller ones, and of any matrix.
MAX_ELEMENTS: Final = 2**28
# Of any row, and of a matrix that no constant of the model has the size of.
MAX_ROW: Final = 2**24
MAX_BUILT: Final = 2**26
# Of a function that may be an activation: steps in a row, and operations to compute it.
_MAX_STEPS: Final = 32
_MAX_COST: Final = 256
_MAX_VARIANTS: Final = 8
_MAX_EVENTS: Final = 64
# Rows on which an operation that moves elements is tried.
_MANY: Final = 1009
# Operations that make no kink or jump.
_SMOOTH: Final = (np.add, np.subtract, np.multiply)

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of rows: where `of` is largest, or, of a multilabel network, above its boundary.

    `names` are the labels of the outputs, if the model has them. `kind` is the task.
    """

    of: Rows
    kind: str
    names: Array | None = None

    @property
    def all_names(self) -> Array:
        """The label of each class."""
        return np.arange(max(2, self.of.size)) if self.names is None else self.names


Value = Array | Rows | Labels


class Chain:
    """Values computed from the input of a model.

    Parameters
    ----------
    shape : tuple of int
        Shape of the input behind the batch axis.
    batch : int or None, default BATCH
        The number of rows that the model fixes; None if the input has no batch axis.
    """

    def __init__(self, shape: Sequence[int], batch: int | None = BATCH) -> None:
        shape = tuple(int(n) for n in shape)
        size = math.prod(shape)
        if min(shape, default=1) < 1 or size > MAX_ROW:
            raise Refused(f"an input of shape {shape} for each row is not supported")
        self.input = Rows(Stage(size).outputs, shape, batch=batch)
        #: Matrices read so far, for messages.
        self.matrices = 0
        #: Name of the node that is being read, for messages.
        self.where = ""

    # Affine operations

    def add(self, a: Value, b: Value) -> Value:
        return self._sum(a, b, 1.0)

    def subtract(self, a: Value, b: Value) -> Value:
        return self._sum(a, b, -1.0)

    def negate(self, a: Value) -> Value:
        if not isinstance(a, Rows | Labels):
            return np.negative(a)
        return self.multiply(a, np.array(-1.0))

    def multiply(self, a: Value, b: Value) -> Value:
        if not isinstance(a, Rows) and isinstance(b, Rows):
            a, b = b, a
        if isinstance(a, Rows) and not isinstance(b, Rows):
            a, factor = self._with_constant(a, b)
            return a.scaled(factor)
        return self._computed(np.multiply, a, b)

    def divide(self, a: Value, b: Value) -> Value:
        if isinstance(a, Rows) and not isinstance(b, Rows):
            a, divisor = self._with_constant(a, b)
            if not divisor.all():
                raise Refused("it divides by zero")
            return a.scaled(1.0 / divisor)
        if not isinstance(a, Rows | Labels) and not isinstance(b, Rows | Labels):
            kinds = {np.asarray(a).dtype.kind, np.asarray(b).dtype.kind}
            if kinds <= {"i", "u", "b"}:
                with np.errstate(all="ignore"):
                    return np.trunc(np.true_divide(a, b)).astype(np.asarray(a).dtype)
        return self._computed(np.true_divide, a, b)

    def _sum(self, a: Value, b: Value, sign: float) -> Value:
        if isinstance(a, Rows) and not isinstance(b, Rows):
            a, summand = self._with_constant(a, b)
            return a.shifted(sign * summand)
        if isinstance(b, Rows) and not isinstance(a, Rows | Labels):
            b, summand = self._with_constant(b, a)
            scaled = b if sign == 1.0 else b.scaled(np.full(b.size, sign))
            return scaled.shifted(summand)
        if isinstance(a, Rows) and isinstance(b, Rows):
            a, b = self._together(a, b)
            if a.core is b.core:
                scale = _or(a.scale, a.size, 1.0) + sign * _or(b.scale, a.size, 1.0)
                offset = _or(a.offset, a.size, 0.0) + sign * _or(b.offset, a.size, 0.0)
                return a.with_map(scale, offset, a.shape)
            if a.stage is b.stage:
                b = b if sign == 1.0 else b.scaled(np.full(b.size, sign))
                return Rows(Total((a, b)), a.shape, batch=a.batch)
        return self._computed(np.add if sign == 1.0 else np.subtract, a, b)

    def matmul(self, a: Value, b: Value) -> Value:
        """``a @ b``, one of which is constant."""
        if isinstance(a, Rows) and isinstance(b, Rows):
            raise Refused("it multiplies two values that depend on the input")
        if isinstance(a, Rows):
            matrix = as_constant(b)
            if matrix.ndim == 1:
                return self.linear(a, matrix[None], drop=True)
            if matrix.ndim != 2:
                raise Refused(f"a matrix of shape {matrix.shape} is not supported")
            return self.linear(a, matrix.T)
        if isinstance(b, Rows):
            return self._left(as_constant(a), b)
        return self._constant(np.matmul, a, b)

    def linear(
        self, x: Rows, weight: Array, bias: Array | None = None, *, drop: bool = False
    ) -> Rows:
        """``x weight.T + bias`` along the last axis, with weight (out, in)."""
        if weight.ndim != 2 or not x.shape or x.shape[-1] != weight.shape[1]:
            raise Refused(f"a matrix of shape {weight.shape} does not fit rows of shape {x.shape}")
        if x.size != x.shape[-1]:
            raise Refused(
                f"it multiplies {x.size // x.shape[-1]} parts of each row of shape {x.shape} by "
                "the same matrix"
            )
        shape = x.shape[:-1] if drop else (*x.shape[:-1], len(weight))
        rows = self._product(x, weight, shape)
        if bias is None:
            return rows
        result = self.add(rows, bias)
        assert isinstance(result, Rows)
        return result

    def _left(self, matrix: Array, x: Rows) -> Rows:
        """``matrix @ x``, where each row is a column vector."""
        vector = x.batch is None and len(x.shape) == 1
        column = len(x.shape) >= 2 and x.shape[-1] == 1 and x.size == x.shape[-2]
        if matrix.ndim not in (1, 2) or not (vector or column):
            raise Refused(
                f"a matrix of shape {matrix.shape} from the left does not fit rows of shape "
                f"{x.shape}"
            )
        drop = matrix.ndim == 1
        weight = np.atleast_2d(matrix)
        if weight.shape[1] != x.size:
            raise Refused(f"a matrix of shape {matrix.shape} does not fit rows of shape {x.shape}")
        outputs = () if drop else (len(weight),)
        shape = outputs if vector else (*x.shape[:-2], *outputs, 1)
        return self._product(x, weight, shape)

    def _product(self, x: Rows, weight: Array, shape: tuple[int, ...]) -> Rows:
        if len(weight) < 1:
            raise Refused("a matrix without outputs is not supported")
        if len(weight) > MAX_ROW:
            raise Refused(f"rows of {len(weight)} elements are not supported")
        if weight.dtype.kind == "c":
            raise Refused("complex numbers are not supported")
        self.matrices += 1
        if weight.dtype not in (np.float32, np.float64):
            weight = weight.astype(np.float64)
        return Rows(Product(x, weight), shape, batch=x.batch)

    def total(self, x: Rows, axes: Sequence[int], keep: bool, mean: bool = False) -> Rows:
        """Sums, or means, over axes of the tensor with its batch axis."""
        rank = len(x.full_shape)
        chosen = sorted({axis % rank for axis in axes} if axes else range(rank))
        if x.batch is not None and 0 in chosen:
            raise Refused("it adds up different rows")
        positions = np.arange(x.size).reshape(x.shape)
        inner = tuple(axis - (x.batch is not None) for axis in chosen)
        count = math.prod(x.shape[axis] for axis in inner)
        outputs = np.moveaxis(positions, inner, range(-len(inner), 0)).reshape(-1, count)
        if outputs.size * len(outputs) > MAX_BUILT:
            raise Refused("a sum over so many values is not supported")
        matrix = np.zeros((len(outputs), x.size))
        matrix[np.arange(len(outputs))[:, None], outputs] = 1.0 / count if mean else 1.0
        shape = tuple(
            1 if axis in inner else n for axis, n in enumerate(x.shape) if keep or axis not in inner
        )
        return Rows(Product(x, matrix), shape, batch=x.batch)

    # Elements in another order or shape

    def moved(self, x: Rows, operation: Callable[[Array, int], Array]) -> Rows:
        """The rows that `operation` gives, which moves, repeats or drops elements.

        It gets an array of whole numbers with the shape of the tensor, and the number of rows in
        it. It must treat all rows alike and keep the batch axis first.
        """
        if x.batch is None:
            index = operation(np.arange(x.size).reshape(x.shape), 1)
            return self._taken(x, index, index.shape)
        # A larger number too, unless rows are long: a slice of 20 rows is all of fewer.
        many = [_MANY] if _MANY * x.size <= MAX_BUILT // 16 else []
        counts = [2, 3, *many] if x.batch == BATCH else [x.batch]
        found: list[Array] = []
        for count in counts:
            if count * x.size > MAX_BUILT:
                raise Refused(f"a batch of {count} rows is not supported")
            numbers = np.arange(count * x.size).reshape(count, *x.shape)
            try:
                index = np.asarray(operation(numbers, count))
            except (IndexError, TypeError, ValueError) as error:
                raise Refused(f"it does not fit rows of shape {x.shape}: {error}") from None
            if index.ndim < 1 or len(index) != count or not index.size:
                raise Refused(_MIXES)
            first = index[0]
            later = np.arange(count).reshape(-1, *[1] * first.ndim) * x.size
            if first.min() < 0 or first.max() >= x.size or not (index == first + later).all():
                raise Refused(_MIXES)
            found.append(first)
        if any(f.shape != found[0].shape or (f != found[0]).any() for f in found):
            raise Refused(_MIXES)
        return self._taken(x, found[0], found[0].shape)

    def _taken(self, x: Rows, index: Array, shape: tuple[int, ...]) -> Rows:
        if index.size > MAX_ROW or not index.size:
            raise Refused(f"rows of {index.size} elements are not supported")
        return x.taken(index.reshape(-1).astype(np.intp), shape)

    def reshape(self, x: Rows, shape: Sequence[int]) -> Rows:
        """NumPy's reshape; `shape` may contain `BATCH`, alone or as a factor."""
        wanted = [int(n) for n in shape]

        def reshaped(numbers: Array, rows: int) -> Array:
            return numbers.reshape([_with_rows(n, rows) for n in wanted])

        return self.moved(x, reshaped)

    def concatenate(self, values: Sequence[Value], axis: int) -> Value:
        """Values along an axis of the tensor with its batch axis; constants become offsets."""
        rows = [value for value in values if isinstance(value, Rows)]
        if not rows:
            return self._constant(lambda *arrays: np.concatenate(arrays, axis), *values)
        if len(values) == 1:
            return rows[0]
        first = rows[0]
        rank = len(first.full_shape)
        if not -rank <= axis < rank:
            raise Refused(f"axis {axis} does not fit rows of shape {first.shape}")
        inner = axis % rank - (first.batch is not None)
        if inner < 0:
            raise Refused("it joins different rows")
        parts, offsets, positions, start = [], [], [], 0
        for value in values:
            if isinstance(value, Rows):
                if (value.batch is None) != (first.batch is None):
                    raise Refused("it joins tensors with and without a batch axis")
                if value.stage is not first.stage:
                    raise Refused(_two_places(first, value, "joins"))
                part, size, shape = value, value.size, value.shape
                offset = np.zeros(size)
            else:
                constant = self._numbers(value)
                if constant.ndim != rank or (first.batch is not None and len(constant) != 1):
                    raise Refused(f"it joins rows with a constant of shape {constant.shape}")
                shape = constant.shape[first.batch is not None :]
                size = math.prod(shape)
                part, offset = None, constant.reshape(-1)
            parts.append((part, size))
            offsets.append(offset)
            positions.append(np.arange(start, start + size).reshape(shape))
            start += size
        try:
            index = np.concatenate(positions, inner)
        except ValueError as error:
            raise Refused(f"it joins tensors that do not fit: {error}") from None
        core = Stacked(tuple(parts), first.stage)
        whole = Rows(core, (start,), None, np.concatenate(offsets), first.batch)
        return self._taken(whole, index, index.shape)

    def expand(self, x: Rows, shape: Sequence[int]) -> Rows:
        """NumPy's broadcast_to; `shape` may contain `BATCH`."""
        wanted = [int(n) for n in shape]

        def expanded(numbers: Array, rows: int) -> Array:
            target = [_with_rows(n, rows) for n in wanted]
            if math.prod(target) > MAX_BUILT:
                raise Refused(f"rows of shape {tuple(wanted)} are not supported")
            return np.broadcast_to(numbers, target)

        return self.moved(x, expanded)

    # Functions

    def activation(self, x: Rows, activation: Activation) -> Rows:
        """An activation of the rows; softmax and log_softmax are over all elements of a row."""
        if activation.name == "hard_tanh" and activation.parameters[0] == 0.0:
            # The same function, which has a hard zero.
            activation = Activation("clipped_relu", activation.parameters[1])
        row_wise = activation.name in ("softmax", "log_softmax")
        stage = Stage(
            x.size,
            x,
            None if row_wise else activation.apply,
            activation,
            events=() if row_wise else _kinks(activation),
            where=self.where,
        )
        return Rows(stage.outputs, x.shape, batch=x.batch)

    def softmax(self, x: Rows, axis: int, *, log: bool = False) -> Rows:
        rank = len(x.full_shape)
        inner = axis % rank - (x.batch is not None)
        if inner < 0:
            raise Refused("it is over different rows")
        if x.shape[inner] != x.size:
            raise Refused(f"it is over a part of rows of shape {x.shape}")
        return self.activation(x, Activation("log_softmax" if log else "softmax"))

    def largest(self, x: Rows, axis: int | None) -> Labels:
        """The index of the largest element of each row; None stands for all axes of the tensor."""
        if x.batch is not None and (axis is None or axis % len(x.full_shape) == 0):
            raise Refused("it compares different rows")
        if axis is not None and x.full_shape[axis] != x.size:
            raise Refused(f"it compares a part of rows of shape {x.shape}")
        if x.size < 2:
            raise Refused("it gives the largest of one value, which is always the first")
        return Labels(x, "classification")

    def log(self, x: Value) -> Value:
        if isinstance(x, Rows) and x.is_plain and x.core is x.stage.outputs:
            stage = x.stage
            if stage.activation is not None and stage.activation.name == "softmax":
                assert stage.inputs is not None
                rows = self.activation(stage.inputs, Activation("log_softmax"))
                return rows.reshaped(x.shape)
        return self.apply(np.log, x)

    def apply(self, function: Callable[..., Array], *values: Value) -> Value:
        """An elementwise function of constants and of rows of the same pre-activations.

        Functions that are spelled out, such as ``x * sigmoid(x)``, become activations when the
        network is built. A function that none equals is refused then.
        """
        return self._computed(function, *values)

    def _computed(self, function: Callable[..., Array], *values: Value) -> Value:
        if any(isinstance(value, Labels) for value in values):
            raise Refused("it changes labels")
        rows = [value for value in values if isinstance(value, Rows)]
        if not rows:
            return self._constant(function, *values)
        numbers = [value if isinstance(value, Rows) else self._numbers(value) for value in values]
        shaped = self._broadcast(numbers)
        lines = [elementwise_line(value) for value in shaped if isinstance(value, Rows)]
        shared = next((core for core in lines[0] if all(core in line for line in lines[1:])), None)
        kept = [value for value in shaped if isinstance(value, Rows)]
        if shared is None:
            raise Refused(_two_places(kept[0], kept[-1], "combines"))
        links = [line[shared] for line in lines]
        cost = 1 + sum(_cost(value, shared) for value in kept)
        if cost > _MAX_COST:
            raise Refused("it belongs to a function that is too long to be an activation")
        variants = _distinct([variant for link in links for variant in link.variants])
        functions = iter([link.function for link in links])
        arguments: list[Function | Float64Array] = [
            next(functions) if isinstance(value, Rows) else value for value in shaped
        ]

        def composed(core: Float64Array) -> Float64Array:
            with np.errstate(all="ignore"):
                result = function(*[a(core) if callable(a) else a for a in arguments])
                return np.asarray(result, np.float64)

        events = {key: event for link in links for key, event in link.events.items()}
        if function not in _SMOOTH:
            events.update({object(): event for event in _events(arguments)})
        if len(events) > _MAX_EVENTS:
            raise Refused("it belongs to a function that is too long to be an activation")
        shape = kept[0].shape
        inputs = Rows(shared, shape, batch=kept[0].batch)
        stage = Stage(
            inputs.size,
            inputs,
            composed,
            variants=tuple(variants),
            events=tuple(events.values()),
            where=self.where,
            cost=cost,
        )
        return Rows(stage.outputs, shape, batch=inputs.batch)

    # Shapes of operands

    def _numbers(self, value: Value) -> Float64Array:
        array = as_constant(value)
        if array.dtype.kind not in "fiub":
            raise Refused(f"a constant of {array.dtype} is not supported")
        if holds_batch(array):
            raise Refused(COUNTS)
        return array.astype(np.float64)

    def _with_constant(self, x: Rows, constant: Value) -> tuple[Rows, Float64Array]:
        """Both with the shape of their result, the constant flattened."""
        rows, numbers = self._broadcast([x, self._numbers(constant)])
        assert isinstance(rows, Rows) and not isinstance(numbers, Rows)
        return rows, numbers

    def _together(self, a: Rows, b: Rows) -> tuple[Rows, Rows]:
        x, y = self._broadcast([a, b])
        assert isinstance(x, Rows) and isinstance(y, Rows)
        return x, y

    def _broadcast(self, values: Sequence[Rows | Float64Array]) -> list[Rows | Float64Array]:
        """Values of one shape by NumPy's rules; constants (elements,), alike for all rows."""
        rows = [value for value in values if isinstance(value, Rows)]
        batched = rows[0].batch is not None
        if any((value.batch is not None) != batched for value in rows):
            raise Refused("it combines tensors with and without a batch axis")
        rank = max(len(value.full_shape) for value in rows)
        if batched and any(len(value.full_shape) != rank for value in rows):
            raise Refused(_MIXES)
        shapes: list[tuple[int, ...]] = []
        inner: list[Rows | Float64Array] = []
        for value in values:
            if isinstance(value, Rows):
                shapes.append(value.shape)
                inner.append(value)
                continue
            if batched and value.ndim > rank:
                raise Refused(f"a constant of shape {value.shape} moves the batch axis")
            if batched and value.ndim == rank:
                if len(value) != 1 and (value != value[:1]).any():
                    raise Refused("a constant differs between rows")
                value = value[0]
            shapes.append(value.shape)
            inner.append(value)
        try:
            shape = np.broadcast_shapes(*shapes)
        except ValueError:
            raise Refused(f"shapes {', '.join(map(str, shapes))} of each row do not fit") from None
        if math.prod(shape) > MAX_ROW:
            raise Refused(f"rows of shape {shape} are not supported")
        return [
            self._expanded(value, shape)
            if isinstance(value, Rows)
            else np.broadcast_to(value, shape).reshape(-1)
            for value in inner
        ]

    def _expanded(self, x: Rows, shape: tuple[int, ...]) -> Rows:
        if x.shape == shape:
            return x
        index = np.broadcast_to(np.arange(x.size).reshape(x.shape), shape)
        return self._taken(x, index, shape)

    @staticmethod
    def _constant(function: Callable[..., Array], *values: Value) -> Array:
        arrays = [as_constant(value) for value in values]
        try:
            size = math.prod(np.broadcast_shapes(*[a.shape for a in arrays]))
        except ValueError:
            size = sum(a.size for a in arrays)
        if size > max(MAX_BUILT, *[a.size for a in arrays]):
            raise Refused(f"a constant of {size} elements is not supported")
        with np.errstate(all="ignore"):
            return np.asarray(function(*arrays))


_MIXES: Final = "it mixes different rows, or moves the batch axis"
COUNTS: Final = "its result depends on the number of rows"


def holds_batch(array: Array) -> bool:
    """Whether one of the whole numbers of an array is a multiple of the number of rows."""
    return array.dtype.kind in "iu" and bool(((array != 0) & (array % BATCH == 0)).any())


def as_constant(value: Value) -> Array:
    """The array of a constant."""
    if isinstance(value, Rows | Labels):
        raise Refused("it needs a constant, but its value depends on the input")
    return np.asarray(value)


def _or(values: Float64Array | None, size: int, usual: float) -> Float64Array:
    return np.full(size, usual) if values is None else values


def _with_rows(length: int, rows: int) -> int:
    return length // BATCH * rows if length > 0 and length % BATCH == 0 else length


def _two_places(a: Rows, b: Rows, verb: str) -> str:
    def place(rows: Rows) -> str:
        stage = rows.stage
        return f"the output of {stage.where}" if stage.inputs is not None else "the input"

    first, second = place(a), place(b)
    if first == second:
        return f"it {verb} two different functions of {first}"
    return f"it {verb} {first} and {second}: branches and residual connections are not supported"


@dataclass(frozen=True, eq=False)
class Link:
    """Rows as a function of a core.

    `variants` are the rows with the core from which the function was computed. `events` are
    functions of the core, where sign changes may be kinks or jumps, by stage and number.
    """

    function: Function
    variants: tuple[Rows, ...]
    events: dict[Any, Function]


Line = dict[Any, Link]


def elementwise_line(rows: Rows) -> Line:
    """The cores of which `rows` are an elementwise function."""
    link = Link(rows.apply, (rows,), {})
    core = rows.core
    found: Line = {core: link}
    while (stage := core.stage).outputs is core and stage.function is not None:
        if len(found) > _MAX_STEPS:
            break
        assert stage.inputs is not None
        inputs = stage.inputs
        inner = _after(stage.function, inputs.apply)
        events = {
            **{(stage, i): _after(e, inputs.apply) for i, e in enumerate(stage.events)},
            **{key: _after(event, inner) for key, event in link.events.items()},
        }
        core = inputs.core
        link = Link(_after(link.function, inner), stage.variants or (inputs,), events)
        found[core] = link
    return found


def _after(outer: Function, inner: Function) -> Function:
    return lambda z: outer(inner(z))


def _events(arguments: Sequence[Function | Float64Array]) -> list[Function]:
    """Functions of a core that are zero where operands are equal, or the only one is zero."""
    functions = [a for a in arguments if callable(a)]
    if len(arguments) == 1:
        return functions

    def between(a: Function, b: Function | Float64Array) -> Function:
        return lambda z: a(z) - (b(z) if callable(b) else b)

    constants = [a for a in arguments if not callable(a)]
    return [
        *(between(a, b) for a, b in combinations(functions, 2)),
        *(between(a, c) for a, c in product(functions, constants)),
    ]


def _kinks(activation: Activation) -> tuple[Function, ...]:
    """Events where an activation may have a kink or a jump."""
    numbers = {p for p in activation.values if isinstance(p, float)}

    def at(kink: float) -> Function:
        return lambda z: z - kink

    return tuple(at(kink) for kink in sorted({0.0, -3.0, 3.0, *numbers}))


def _distinct(variants: Sequence[Rows]) -> list[Rows]:
    """Some of the rows of one core that differ."""
    found: dict[tuple[bytes | None, ...], Rows] = {}
    for rows in {id(v): v for v in variants}.values():
        parts = (rows.scale, rows.offset)
        found.setdefault(tuple(None if p is None else p.tobytes() for p in parts), rows)
    return list(found.values())[:_MAX_VARIANTS]


def _cost(rows: Rows, shared: Any) -> int:
    """Number of elementwise operations between the core `shared` and `rows`."""
    cost, core = 0, rows.core
    while core is not shared:
        stage = core.stage
        assert stage.inputs is not None
        cost, core = cost + stage.cost, stage.inputs.core
    return cost

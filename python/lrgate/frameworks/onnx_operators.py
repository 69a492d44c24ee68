"""Operators of ONNX on constants, rows and labels.

Each function takes the chain, a node and the values of its inputs (None for one that is left out),
and returns the value of its output, or a tuple of values. Operators that are not here are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.frameworks.chain import (
    BATCH,
    COUNTS,
    Chain,
    Labels,
    Value,
    as_constant,
    holds_batch,
)
from lrgate.frameworks.errors import Refused
from lrgate.frameworks.onnx_graph import Node, shortest
from lrgate.frameworks.onnx_tensors import ELEMENT_TYPES, cast, from_sparse, from_tensor, is_float
from lrgate.frameworks.values import Rows
from lrgate.model.activation import Activation

__all__ = ["MOVES", "OPERATORS", "REASONS", "Operator"]

Array = npt.NDArray[Any]
Inputs = Sequence[Value | None]
Result = Value | tuple[Value | None, ...]
Operator = Callable[[Chain, Node, Inputs], Result]

OPERATORS: dict[tuple[str, str], Operator] = {}
_ML: Final = "ai.onnx.ml"

# Of any constant that an operator makes out of smaller ones.
_MAX_MADE: Final = 2**26

# Operators that move elements and do not compute with them.
MOVES: Final = {
    "Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split",
    "Gather", "Concat", "Expand", "Tile", "Shape", "Size", "Dropout", "ArrayFeatureExtractor",
}  # fmt: skip

_CONTROL: Final = "control flow is not supported"
_DENSE: Final = "lrgate runs fully connected networks"
_BATCH_STATISTICS: Final = "it normalises each row by the row's own statistics"
_RANDOM: Final = "its result is random"
# Why well-known operators are refused.
REASONS: Final[dict[tuple[str, str], str]] = {
    **{("", op): _CONTROL for op in ("If", "Loop", "Scan")},
    **{
        ("", op): _DENSE
        for op in (
            "Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool",
            "GlobalAveragePool", "GlobalMaxPool", "RNN", "LSTM", "GRU", "Attention", "Resize",
        )
    },
    **{
        ("", op): _BATCH_STATISTICS
        for op in (
            "LayerNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization",
            "RMSNormalization", "MeanVarianceNormalization",
        )
    },
    **{
        ("", op): _RANDOM
        for op in (
            "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli",
            "Multinomial",
        )
    },
    ("", "Softsign"): "softsign is none of lrgate's activations",
    (_ML, "Normalizer"): "it divides each row by the row's own norm, which is not affine: apply it "
    "before",
    (_ML, "Imputer"): "it replaces missing values, which is not affine: apply it before",
    (_ML, "OneHotEncoder"): "it is not affine: apply it before",
    **{
        (_ML, op): "a model of trees is not a neural network"
        for op in ("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor")
    },
    **{(_ML, op): "it is not a neural network" for op in ("SVMClassifier", "SVMRegressor")},
}  # fmt: skip


def operator(*names: str, domain: str = "") -> Callable[[Operator], Operator]:
    def register(function: Operator) -> Operator:
        for name in names:
            OPERATORS[domain, name] = function
        return function

    return register


def _given(inputs: Inputs, i: int) -> Value | None:
    return inputs[i] if i < len(inputs) else None


def _needed(inputs: Inputs, i: int) -> Value:
    value = _given(inputs, i)
    if value is None:
        raise Refused(f"its input {i} is missing")
    return value


def _unlabelled(value: Value) -> Array | Rows:
    if isinstance(value, Labels):
        raise Refused("it changes labels")
    return value


def _constant(inputs: Inputs, i: int) -> Array | None:
    value = _given(inputs, i)
    return None if value is None else as_constant(value)


def _integers(inputs: Inputs, i: int) -> list[int] | None:
    array = _constant(inputs, i)
    if array is None:
        return None
    if array.dtype.kind not in "iu" or array.size > 2**16:
        raise Refused(f"its input {i} must be a short list of whole numbers")
    return [int(n) for n in array.reshape(-1)]


def _integer(inputs: Inputs, i: int) -> int:
    values = _integers(inputs, i)
    if values is None or len(values) != 1:
        raise Refused(f"its input {i} must be one whole number")
    return values[0]


def _option(node: Node, inputs: Inputs, name: str, i: int) -> list[int] | None:
    """A list that is an attribute in old opsets, and input `i` in newer ones."""
    if node.has(name):
        return node.values(name)
    return _integers(inputs, i)


def _made(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a constant to be made; refused if it is too large."""
    result = tuple(int(n) for n in shape)
    if min(result, default=0) < 0 or math.prod(result) > _MAX_MADE:
        raise Refused(f"a constant of shape {result} is not supported")
    return result


def _one_row(shape: Sequence[int]) -> list[int]:
    """The shape of a constant that is alike for all rows: one row stands for them."""
    return [1 if i == 0 and n == BATCH else int(n) for i, n in enumerate(shape)]


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise Refused(f"axis {axis} does not fit a tensor with {rank} axes")
    return axis % rank


def _rank(value: Array | Rows) -> int:
    return len(value.full_shape) if isinstance(value, Rows) else value.ndim


def _moved(chain: Chain, value: Array | Rows, operation: Callable[[Array], Array]) -> Value:
    """A constant or rows with their elements moved by a NumPy function."""
    if isinstance(value, Rows):
        return chain.moved(value, lambda numbers, _: operation(numbers))
    return operation(value)


# Constants


@operator("Constant")
def _constant_node(chain: Chain, node: Node, inputs: Inputs) -> Result:
    if len(node.attributes) != 1:
        raise Refused("it must have exactly one attribute")
    (name,) = node.attributes
    value = node.get(name)
    match name:
        case "value":
            return from_tensor(value)
        case "sparse_value":
            return from_sparse(value, None, _MAX_MADE)
        case "value_float" | "value_floats":
            return np.array(value, np.float32)
        case "value_int" | "value_ints":
            return np.array(value, np.int64)
        case "value_string" | "value_strings":
            return np.array(value, np.str_)
    raise Refused(f'its attribute "{name}" is not supported')


@operator("Shape")
def _shape(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _unlabelled(_needed(inputs, 0))
    shape = value.full_shape if isinstance(value, Rows) else value.shape
    end = node.whole("end") if node.has("end") else None
    return np.array(shape[node.whole("start", 0) : end], np.int64)


@operator("Size")
def _size(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _unlabelled(_needed(inputs, 0))
    shape = value.full_shape if isinstance(value, Rows) else value.shape
    return np.array(math.prod(shape), np.int64)


@operator("ConstantOfShape")
def _constant_of_shape(chain: Chain, node: Node, inputs: Inputs) -> Result:
    shape = _made(_one_row(_integers(inputs, 0) or []))
    tensor = node.get("value")
    fill = np.zeros(1, np.float32) if tensor is None else from_tensor(tensor)
    if fill.size != 1:
        raise Refused("its value must be one number")
    return np.full(shape, fill.reshape(-1)[0])


@operator("Range")
def _range(chain: Chain, node: Node, inputs: Inputs) -> Result:
    start, limit, delta = (as_constant(_needed(inputs, i)).reshape(-1) for i in range(3))
    if start.size != 1 or limit.size != 1 or delta.size != 1 or not delta[0]:
        raise Refused("its inputs must be single numbers, and the step not 0")
    steps = (float(limit[0]) - float(start[0])) / float(delta[0])
    if not steps <= _MAX_MADE:
        raise Refused(f"a constant of {steps:.0f} elements is not supported")
    count = np.arange(max(0, math.ceil(steps))).astype(start.dtype)
    result: Array = start[0] + count * delta[0]
    return result


@operator("OneHot")
def _one_hot(chain: Chain, node: Node, inputs: Inputs) -> Result:
    indices, values = as_constant(_needed(inputs, 0)), as_constant(_needed(inputs, 2))
    depth, axis = _integer(inputs, 1), _axis(node.whole("axis", -1), _rank(indices) + 1)
    if depth < 1 or values.shape != (2,):
        raise Refused("its inputs do not fit")
    _made((indices.size, depth))
    hot: Array = np.moveaxis((indices % depth)[..., None] == np.arange(depth), -1, axis)
    result: Array = np.where(hot, values[1], values[0])
    return result


@operator("EyeLike")
def _eye_like(chain: Chain, node: Node, inputs: Inputs) -> Result:
    like = as_constant(_needed(inputs, 0))
    if like.ndim != 2:
        raise Refused("its input must be a matrix")
    rows, columns = _made(like.shape)
    eye = np.eye(rows, columns, node.whole("k", 0))
    return cast(eye, node.whole("dtype", 1)) if node.has("dtype") else eye.astype(like.dtype)


@operator("NonZero")
def _non_zero(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = as_constant(_needed(inputs, 0))
    _made((value.ndim, value.size))
    return np.array(np.nonzero(value), np.int64)


@operator("DequantizeLinear")
def _dequantize(chain: Chain, node: Node, inputs: Inputs) -> Result:
    if isinstance(_needed(inputs, 0), Rows):
        raise Refused(_QUANTIZED)
    x, scale = as_constant(_needed(inputs, 0)), as_constant(_needed(inputs, 1))
    zero = _constant(inputs, 2)
    node.ignore("output_dtype")
    axis, block = node.whole("axis", 1), node.whole("block_size", 0)
    centred = x.astype(np.float32)
    if zero is not None:
        centred = centred - _per_axis(zero, x, axis, block)
    return (centred * _per_axis(scale, x, axis, block)).astype(np.float32)


@operator("QuantizeLinear")
def _quantize(chain: Chain, node: Node, inputs: Inputs) -> Result:
    if isinstance(_needed(inputs, 0), Rows):
        raise Refused(_QUANTIZED)
    x, scale = as_constant(_needed(inputs, 0)), as_constant(_needed(inputs, 1))
    zero = _constant(inputs, 2)
    node.ignore("saturate", "precision")
    dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    if node.has("output_dtype") and node.whole("output_dtype"):
        dtype = np.dtype(ELEMENT_TYPES[node.whole("output_dtype")][2])
    if dtype.kind not in "iu":
        raise Refused(f"a quantisation to {dtype} is not supported")
    axis, block = node.whole("axis", 1), node.whole("block_size", 0)
    steps = _per_axis(scale, x, axis, block)
    with np.errstate(all="ignore"):
        rounded = np.rint(x / steps)
    if zero is not None:
        rounded = rounded + _per_axis(zero, x, axis, block)
    limits = np.iinfo(dtype)
    return np.clip(rounded, limits.min, limits.max).astype(dtype)


_QUANTIZED: Final = (
    "it quantises values between layers: import the float model, and let lrgate quantise it"
)


def _per_axis(values: Array, x: Array, axis: int, block: int) -> Array:
    """Scales or zero points, shaped so that they fit `x`."""
    if values.size == 1:
        return values.reshape(())
    axis = _axis(axis, x.ndim)
    if block:
        if values.ndim != x.ndim:
            raise Refused("its scales do not fit")
        repeated = np.repeat(values, min(block, x.shape[axis]), axis)
        return np.take(repeated, np.arange(x.shape[axis]), axis)
    return values.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


# Types


@operator("Cast")
def _cast(chain: Chain, node: Node, inputs: Inputs) -> Result:
    node.ignore("saturate", "round_mode")
    if not node.has("to"):
        raise Refused('its attribute "to" is missing')
    to = node.get("to")
    if isinstance(to, str):
        raise Refused("it names its type in the form of opset 5 or older")
    return _converted(chain, _needed(inputs, 0), to)


def _converted(chain: Chain, value: Value, element_type: int) -> Value:
    if isinstance(value, Rows):
        if ELEMENT_TYPES.get(element_type, ("",))[0] == "bool":
            return chain.apply(lambda z: z != 0.0, value)
        if not is_float(element_type):
            name = ELEMENT_TYPES.get(element_type, (str(element_type),))[0]
            raise Refused(f"it converts values to {name}")
        return value
    if isinstance(value, Labels):
        if value.kind == "multilabel":
            return value
        converted = cast(value.all_names, element_type)
        if value.names is None and np.array_equal(converted, value.all_names):
            return value
        return replace(value, names=_distinct(converted))
    if holds_batch(value) and is_float(element_type):
        raise Refused(COUNTS)
    return cast(value, element_type)


@operator("CastLike")
def _cast_like(chain: Chain, node: Node, inputs: Inputs) -> Result:
    node.ignore("saturate", "round_mode")
    value, like = _needed(inputs, 0), _needed(inputs, 1)
    if isinstance(like, Labels):
        raise Refused("it converts to the type of labels")
    if isinstance(like, Rows):
        return value if isinstance(value, Rows) else _converted(chain, value, 1)
    types = {np.dtype(t): number for number, (_, _, t) in reversed(ELEMENT_TYPES.items())}
    kind = np.dtype(np.str_) if like.dtype.kind == "U" else like.dtype
    return _converted(chain, value, types[kind])


# Affine maps


@operator("Add")
def _add(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return chain.add(*_pair(node, inputs))


@operator("Sub")
def _sub(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return chain.subtract(*_pair(node, inputs))


@operator("Mul")
def _mul(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return chain.multiply(*_pair(node, inputs))


@operator("Div")
def _div(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return chain.divide(*_pair(node, inputs))


def _pair(node: Node, inputs: Inputs) -> tuple[Value, Value]:
    """Both operands; opset 6 broadcasts the second along `axis` only if `broadcast` is set."""
    a, b = _needed(inputs, 0), _needed(inputs, 1)
    if node.version < 7:
        node.ignore("broadcast")
        if node.has("axis"):
            if isinstance(a, Labels) or isinstance(b, Labels | Rows):
                raise Refused('its attribute "axis" is not supported here')
            behind = _rank(a) - _axis(node.whole("axis"), _rank(a)) - b.ndim
            if behind < 0:
                raise Refused('its attribute "axis" does not fit')
            b = b.reshape((*b.shape, *[1] * behind))
    return a, b


@operator("Sum")
def _sum(chain: Chain, node: Node, inputs: Inputs) -> Result:
    result = _needed(inputs, 0)
    for i in range(1, len(inputs)):
        result = chain.add(result, _needed(inputs, i))
    return result


@operator("Mean")
def _mean(chain: Chain, node: Node, inputs: Inputs) -> Result:
    total = _sum(chain, node, inputs)
    assert not isinstance(total, tuple)
    return chain.multiply(total, np.array(1.0 / len(inputs), np.float32))


@operator("Neg")
def _neg(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return chain.negate(_needed(inputs, 0))


@operator("MatMul")
def _matmul(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return _product(chain, _unlabelled(_needed(inputs, 0)), _unlabelled(_needed(inputs, 1)))


def _product(chain: Chain, a: Array | Rows, b: Array | Rows) -> Value:
    if not isinstance(a, Rows) and not isinstance(b, Rows):
        if a.ndim > 2 or b.ndim > 2 or min(a.ndim, b.ndim) < 1:
            raise Refused("a product of constants with these shapes is not supported")
        _made((a.size // a.shape[-1] if a.size else 0, b.shape[-1] if b.ndim == 2 else 1))
        if a.size * (b.shape[-1] if b.ndim == 2 else 1) > 2**36:
            raise Refused("a product of constants of this size is not supported")
        # In float64, as all that is folded.
        product: Array = np.matmul(a.astype(np.float64), b.astype(np.float64))
        return product
    if not isinstance(a, Rows):
        a = _squeezed(a)
    if not isinstance(b, Rows):
        b = _squeezed(b)
    return chain.matmul(a, b)


def _squeezed(matrix: Array) -> Array:
    """A matrix without leading axes of length 1."""
    while matrix.ndim > 2 and matrix.shape[0] == 1:
        matrix = matrix[0]
    return matrix


@operator("Gemm")
def _gemm(chain: Chain, node: Node, inputs: Inputs) -> Result:
    node.ignore("broadcast")
    a, b = _unlabelled(_needed(inputs, 0)), _unlabelled(_needed(inputs, 1))
    if _rank(a) != 2 or _rank(b) != 2:
        raise Refused(f"it multiplies tensors with {_rank(a)} and {_rank(b)} axes")
    if node.whole("transA", 0):
        a = _unlabelled(_moved(chain, a, np.transpose))
    if node.whole("transB", 0):
        b = _unlabelled(_moved(chain, b, np.transpose))
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    result = _product(chain, a, b)
    if alpha != 1.0:
        result = chain.multiply(result, np.array(alpha))
    c = _given(inputs, 2)
    if c is None:
        return result
    return chain.add(result, c if beta == 1.0 else chain.multiply(c, np.array(beta)))


@operator("BatchNormalization")
def _batch_normalization(chain: Chain, node: Node, inputs: Inputs) -> Result:
    node.ignore("momentum", "is_test", "spatial")
    if node.whole("training_mode", 0) or any(node.live[1:]):
        raise Refused(
            "it normalises by the statistics of the batch: export the model in evaluation mode"
        )
    x = _unlabelled(_needed(inputs, 0))
    if not isinstance(x, Rows):
        raise Refused("a constant is normalised")
    parts = [as_constant(_needed(inputs, i)).astype(np.float64) for i in range(1, 5)]
    rank = len(x.full_shape)
    if rank > 1 and all(p.ndim == 1 for p in parts):
        parts = [p.reshape([-1] + [1] * (rank - 2)) for p in parts]
    scale, bias, mean, variance = parts
    factor = scale / np.sqrt(variance + node.number("epsilon", 1e-5))
    centred = chain.subtract(x, mean)
    return chain.add(chain.multiply(centred, factor), bias)


@operator("Scaler", domain=_ML)
def _scaler(chain: Chain, node: Node, inputs: Inputs) -> Result:
    offset, scale = node.values("offset"), node.values("scale")
    value = _needed(inputs, 0)
    if offset:
        value = chain.subtract(value, np.array(offset))
    return chain.multiply(value, np.array(scale)) if scale else value


@operator("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2")
def _reduce(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _unlabelled(_needed(inputs, 0))
    axes = _option(node, inputs, "axes", 1)
    keep = bool(node.whole("keepdims", 1))
    if not axes and node.whole("noop_with_empty_axes", 0):
        return value
    rank = _rank(value)
    chosen = [_axis(axis, rank) for axis in axes or range(rank)]
    kind = node.op.removeprefix("Reduce")
    if isinstance(value, Rows):
        if kind not in ("Sum", "Mean"):
            raise Refused("it is not affine")
        return chain.total(value, chosen, keep, mean=kind == "Mean")
    functions: dict[str, Callable[..., Any]] = {
        "Sum": np.sum,
        "Mean": np.mean,
        "Max": np.max,
        "Min": np.min,
        "Prod": np.prod,
        "L2": _norm,
    }
    function = functions[kind]
    return np.asarray(function(value, axis=tuple(chosen), keepdims=keep)).astype(value.dtype)


def _norm(value: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    squares = np.square(value, dtype=np.float64)
    result: Array = np.sqrt(np.sum(squares, axis=axis, keepdims=keepdims))
    return result


# Elements in another order or shape


@operator("Identity")
def _identity(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return _needed(inputs, 0)


@operator("Dropout")
def _dropout(chain: Chain, node: Node, inputs: Inputs) -> Result:
    node.ignore("ratio", "seed")
    training = node.version < 7 and not node.whole("is_test", 0)
    if node.version >= 12 and _given(inputs, 2) is not None:
        training = bool(as_constant(_needed(inputs, 2)).any())
    if training:
        raise Refused("it drops values at random: export the model in evaluation mode")
    if any(node.live[1:]):
        raise Refused("its mask is used")
    return _needed(inputs, 0)


@operator("Flatten")
def _flatten(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _needed(inputs, 0)
    axis = node.whole("axis", 1)
    if isinstance(value, Labels):
        return value
    shape = value.full_shape if isinstance(value, Rows) else value.shape
    axis = axis if axis == len(shape) else _axis(axis, len(shape))
    return _reshaped(chain, value, [math.prod(shape[:axis]), math.prod(shape[axis:])])


@operator("Reshape")
def _reshape(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _needed(inputs, 0)
    wanted = _integers(inputs, 1)
    allow_zero = node.whole("allowzero", 0)
    if wanted is None:
        raise Refused("its shape is missing")
    if isinstance(value, Labels):
        return value
    shape = value.full_shape if isinstance(value, Rows) else value.shape
    if not allow_zero:
        if any(n == 0 and i >= len(shape) for i, n in enumerate(wanted)):
            raise Refused(f"the shape {wanted} does not fit a tensor with {len(shape)} axes")
        wanted = [shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    return _reshaped(chain, value, wanted)


def _reshaped(chain: Chain, value: Array | Rows, shape: Sequence[int]) -> Value:
    return chain.reshape(value, shape) if isinstance(value, Rows) else value.reshape(list(shape))


@operator("Squeeze")
def _squeeze(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _needed(inputs, 0)
    axes = _option(node, inputs, "axes", 1)
    if isinstance(value, Labels):
        return value
    rank = _rank(value)
    chosen = None if axes is None else tuple(_axis(axis, rank) for axis in axes)
    if isinstance(value, Rows) and chosen is None:
        chosen = tuple(i for i, n in enumerate(value.full_shape) if n == 1)
    return _moved(chain, value, lambda numbers: np.squeeze(numbers, chosen))


@operator("Unsqueeze")
def _unsqueeze(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _needed(inputs, 0)
    axes = _option(node, inputs, "axes", 1)
    if isinstance(value, Labels):
        return value
    if not axes or len(axes) > 16:
        raise Refused("its axes are missing")
    rank = _rank(value) + len(axes)
    chosen = [_axis(axis, rank) for axis in axes]
    return _moved(chain, value, lambda numbers: np.expand_dims(numbers, tuple(chosen)))


@operator("Transpose")
def _transpose(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _unlabelled(_needed(inputs, 0))
    order = node.values("perm")
    return _moved(chain, value, lambda numbers: np.transpose(numbers, order))


@operator("Slice")
def _slice(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _unlabelled(_needed(inputs, 0))
    starts, ends = _option(node, inputs, "starts", 1), _option(node, inputs, "ends", 2)
    if starts is None or ends is None:
        raise Refused("its starts or ends are missing")
    axes = _option(node, inputs, "axes", 3)
    axes = list(range(len(starts))) if axes is None else axes
    steps = _integers(inputs, 4) or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise Refused("its starts, ends, axes and steps do not fit")
    rank = _rank(value)
    shape = value.full_shape if isinstance(value, Rows) else value.shape
    slices = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # A negative end before the first element includes it, if the step is negative.
        length = shape[_axis(axis, rank)]
        stop = None if step < 0 and end < -length else end
        slices[_axis(axis, rank)] = slice(start, stop, step)
    # Of rows, all: the first 5,000 are all of fewer.
    if isinstance(value, Rows) and value.batch == BATCH:
        rows = range(BATCH)
        if rows[slices[0]] != rows:
            raise Refused("it chooses rows")
    return _moved(chain, value, lambda numbers: numbers[tuple(slices)])


@operator("Split")
def _split(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _unlabelled(_needed(inputs, 0))
    sizes = _option(node, inputs, "split", 1)
    axis = _axis(node.whole("axis", 0), _rank(value))
    shape = value.full_shape if isinstance(value, Rows) else value.shape
    count = node.whole("num_outputs", len(node.outputs))
    if sizes is None:
        if not 1 <= count <= shape[axis] or count != len(node.outputs):
            raise Refused("the number of its outputs does not fit")
        part = -(-shape[axis] // count)
        sizes = [part] * (count - 1) + [shape[axis] - part * (count - 1)]
    if min(sizes, default=0) < 1 or sum(sizes) != shape[axis] or len(sizes) < len(node.outputs):
        raise Refused("the sizes of its parts do not fit")
    ends = np.cumsum(sizes)

    def part_of(i: int) -> Value | None:
        if not node.live[i]:
            return None
        place = (slice(None),) * axis + (slice(int(ends[i]) - sizes[i], int(ends[i])),)
        return _moved(chain, value, lambda numbers: numbers[place])

    return tuple(part_of(i) for i in range(len(node.outputs)))


@operator("Gather")
def _gather(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value, index = _needed(inputs, 0), _needed(inputs, 1)
    if isinstance(index, Labels):
        node.ignore("axis")
        return _named(index, as_constant(value))
    if isinstance(index, Rows):
        raise Refused("it looks values up by the input, as an embedding does")
    value = _unlabelled(value)
    axis = _axis(node.whole("axis", 0), _rank(value))
    return _taken(chain, value, index, axis)


def _taken(chain: Chain, value: Array | Rows, index: Array, axis: int) -> Value:
    if index.dtype.kind not in "iu":
        raise Refused("its indices must be whole numbers")
    if not isinstance(value, Rows):
        _made((value.size // max(1, value.shape[axis]), index.size))
    return _moved(chain, value, lambda numbers: np.take(numbers, index, axis))


@operator("Concat")
def _concat(chain: Chain, node: Node, inputs: Inputs) -> Result:
    values = [_unlabelled(_needed(inputs, i)) for i in range(len(inputs))]
    return chain.concatenate(values, node.whole("axis", 1))


@operator("FeatureVectorizer", domain=_ML)
def _feature_vectorizer(chain: Chain, node: Node, inputs: Inputs) -> Result:
    node.ignore("inputdimensions")
    return chain.concatenate([_needed(inputs, i) for i in range(len(inputs))], 1)


@operator("Expand")
def _expand(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _unlabelled(_needed(inputs, 0))
    wanted = _integers(inputs, 1)
    if wanted is None:
        raise Refused("its shape is missing")
    if isinstance(value, Rows):
        return chain.expand(value, np.broadcast_shapes(value.full_shape, tuple(wanted)))
    shape = np.broadcast_shapes(value.shape, tuple(_one_row(wanted)))
    return np.broadcast_to(value, _made(shape))


@operator("Tile")
def _tile(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _unlabelled(_needed(inputs, 0))
    repeats = _integers(inputs, 1)
    shape = value.shape
    if repeats is None or len(repeats) != _rank(value) or min(repeats, default=1) < 1:
        raise Refused("its repeats do not fit")
    if isinstance(value, Rows) and value.batch is not None and repeats[0] != 1:
        raise Refused("it repeats rows")
    if not isinstance(value, Rows):
        repeats = _one_row(repeats) if value.shape[:1] == (1,) else repeats
    _made([n * r for n, r in zip(shape, repeats[len(repeats) - len(shape) :], strict=True)])
    return _moved(chain, value, lambda numbers: np.tile(numbers, repeats))


@operator("Pad")
def _pad(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _unlabelled(_needed(inputs, 0))
    pads = _option(node, inputs, "pads", 1)
    mode = node.get("mode", "constant")
    fill = np.array(node.number("value", 0.0), np.float32)
    if (given := _constant(inputs, 2)) is not None:
        fill = given.reshape(())
    rank = _rank(value)
    axes = [_axis(a, rank) for a in _integers(inputs, 3) or range(rank)]
    if pads is None or len(pads) != 2 * len(axes):
        raise Refused("its pads do not fit")
    if mode != "constant":
        raise Refused(f"padding in the mode {mode!r} is not supported")
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        value = _padded(chain, value, axis, before, after, fill)
    return value


def _padded(
    chain: Chain, value: Array | Rows, axis: int, before: int, after: int, fill: Array
) -> Array | Rows:
    """`value` with constants before and after it on one axis; negative counts cut elements off."""
    if not before and not after:
        return value
    if isinstance(value, Rows) and value.batch is not None and axis == 0:
        raise Refused("it adds rows")
    kept = slice(max(0, -before), min(0, after) or None)
    value = _unlabelled(_moved(chain, value, lambda n: n[(slice(None),) * axis + (kept,)]))
    shape = list(value.full_shape if isinstance(value, Rows) else value.shape)
    if isinstance(value, Rows) and value.batch is not None:
        shape[0] = 1
    parts: list[Value] = [value]
    for count, place in ((before, 0), (after, len(parts) + 1)):
        if count > 0:
            constant = np.full(_made([*shape[:axis], count, *shape[axis + 1 :]]), fill)
            parts.insert(place, constant)
    return _unlabelled(chain.concatenate(parts, axis)) if len(parts) > 1 else value


# Activations


def _activation(chain: Chain, value: Value, name: str, *parameters: Any) -> Value:
    try:
        activation = Activation(name, *parameters)
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from None
    value = _unlabelled(value)
    if isinstance(value, Rows):
        return chain.activation(value, activation)
    return chain.apply(activation.apply, value)


@operator("Relu", "Tanh", "Sigmoid", "Softplus", "Mish")
def _plain(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return _activation(chain, _needed(inputs, 0), node.op.lower())


@operator("LeakyRelu")
def _leaky_relu(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return _activation(chain, _needed(inputs, 0), "leaky_relu", node.number("alpha", 0.01))


@operator("ThresholdedRelu")
def _thresholded_relu(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return _activation(chain, _needed(inputs, 0), "thresholded_relu", node.number("alpha", 1.0))


@operator("Elu")
def _elu(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return _activation(chain, _needed(inputs, 0), "elu", node.number("alpha", 1.0))


_SELU: Final = (1.67326319217681884765625, 1.05070102214813232421875)


@operator("Selu")
def _selu(chain: Chain, node: Node, inputs: Inputs) -> Result:
    alpha, gamma = node.number("alpha", _SELU[0]), node.number("gamma", _SELU[1])
    if np.allclose((alpha, gamma), _SELU, rtol=1e-6):
        return _activation(chain, _needed(inputs, 0), "selu")
    return chain.multiply(_activation(chain, _needed(inputs, 0), "elu", alpha), np.array(gamma))


@operator("Celu")
def _celu(chain: Chain, node: Node, inputs: Inputs) -> Result:
    alpha = node.number("alpha", 1.0)
    if not alpha > 0.0:
        raise Refused(f"celu with alpha={alpha:g} is not supported")
    inner = chain.divide(_needed(inputs, 0), np.array(alpha))
    return chain.multiply(_activation(chain, inner, "elu", 1.0), np.array(alpha))


@operator("HardSigmoid")
def _hard_sigmoid(chain: Chain, node: Node, inputs: Inputs) -> Result:
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)
    if np.allclose((alpha, beta), (1.0 / 6.0, 0.5), rtol=1e-7):
        return _activation(chain, _needed(inputs, 0), "hard_sigmoid")
    inner = chain.add(chain.multiply(_needed(inputs, 0), np.array(alpha)), np.array(beta))
    return _clipped(chain, inner, np.array(0.0), np.array(1.0))


@operator("HardSwish")
def _hard_swish(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return _activation(chain, _needed(inputs, 0), "hard_swish")


@operator("Gelu")
def _gelu(chain: Chain, node: Node, inputs: Inputs) -> Result:
    form = node.get("approximate", "none")
    if form not in ("none", "tanh"):
        raise Refused(f"the form {form!r} of gelu is not supported")
    return _activation(chain, _needed(inputs, 0), "gelu" if form == "none" else "gelu_tanh")


@operator("Swish")
def _swish(chain: Chain, node: Node, inputs: Inputs) -> Result:
    alpha = node.number("alpha", 1.0)
    if alpha == 1.0:
        return _activation(chain, _needed(inputs, 0), "silu")
    inner = chain.multiply(_needed(inputs, 0), np.array(alpha))
    return chain.divide(_activation(chain, inner, "silu"), np.array(alpha))


@operator("PRelu")
def _prelu(chain: Chain, node: Node, inputs: Inputs) -> Result:
    slope = as_constant(_needed(inputs, 1))
    return chain.apply(lambda z, s: np.where(z > 0, z, s * z), _needed(inputs, 0), slope)


@operator("Clip")
def _clip(chain: Chain, node: Node, inputs: Inputs) -> Result:
    limits: list[Array | None] = [_constant(inputs, 1), _constant(inputs, 2)]
    for i, name in enumerate(("min", "max")):
        if node.has(name):
            limits[i] = np.array(node.number(name, 0.0), np.float32)
    return _clipped(chain, _needed(inputs, 0), *limits)


def _clipped(chain: Chain, value: Value, low: Array | None, high: Array | None) -> Value:
    # Limits that exclude no float32 number.
    greatest = float(np.finfo(np.float32).max)
    low = None if low is None or (low <= -greatest).all() else np.array(shortest(low.item()))
    high = None if high is None or (high >= greatest).all() else np.array(shortest(high.item()))
    if low is not None and high is None and not low:
        return _activation(chain, value, "relu")
    if low is not None:
        value = chain.apply(np.maximum, value, low)
    return value if high is None else chain.apply(np.minimum, value, high)


@operator("Softmax", "LogSoftmax")
def _softmax(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _unlabelled(_needed(inputs, 0))
    if not isinstance(value, Rows):
        raise Refused("it is a constant")
    rank, log = len(value.full_shape), node.op == "LogSoftmax"
    if node.version >= 13:
        return chain.softmax(value, _axis(node.whole("axis", -1), rank), log=log)
    # Before opset 13, all axes from this one on are one.
    axis = _axis(node.whole("axis", 1), rank) - (value.batch is not None)
    if axis < 0:
        raise Refused("it is over different rows")
    if math.prod(value.shape[axis:]) != value.size:
        raise Refused(f"it is over a part of rows of shape {value.shape}")
    return chain.activation(value, Activation("log_softmax" if log else "softmax"))


# Elementwise functions, of which exporters spell activations out

_erf = np.vectorize(math.erf, otypes=[np.float64])
_UNARY: Final[dict[str, Callable[..., Any]]] = {
    "Abs": np.abs,
    "Ceil": np.ceil,
    "Cos": np.cos,
    "Erf": _erf,
    "Exp": np.exp,
    "Floor": np.floor,
    "Not": np.logical_not,
    "Reciprocal": np.reciprocal,
    "Round": np.rint,
    "Sign": np.sign,
    "Sin": np.sin,
    "Sqrt": np.sqrt,
}
_BINARY: Final[dict[str, Callable[..., Any]]] = {
    "And": np.logical_and,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
}


@operator(*_UNARY)
def _unary(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _needed(inputs, 0)
    if node.op == "Erf" and isinstance(value, np.ndarray) and value.size > 2**16:
        raise Refused(f"erf of {value.size} constants is not supported")
    result = chain.apply(_UNARY[node.op], value)
    # NumPy computes some functions of whole numbers in float64.
    if isinstance(value, np.ndarray) and isinstance(result, np.ndarray) and node.op != "Not":
        return result.astype(value.dtype, copy=False)
    return result


@operator(*_BINARY)
def _binary(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return chain.apply(_BINARY[node.op], *_pair(node, inputs))


@operator("Log")
def _log(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return chain.log(_needed(inputs, 0))


@operator("Pow")
def _pow(chain: Chain, node: Node, inputs: Inputs) -> Result:
    base, exponent = _pair(node, inputs)
    if isinstance(base, Rows) and not isinstance(exponent, Rows | Labels) and exponent.size:
        if (exponent == 1).all():
            return base
        # Real powers of negative numbers are NaN in NumPy only if the exponent is not whole.
        return chain.apply(lambda z, p: np.power(z, p), base, exponent)
    result = chain.apply(np.power, base, exponent)
    if isinstance(base, np.ndarray) and isinstance(result, np.ndarray):
        return result.astype(base.dtype)
    return result


@operator("Mod")
def _mod(chain: Chain, node: Node, inputs: Inputs) -> Result:
    a, b = as_constant(_needed(inputs, 0)), as_constant(_needed(inputs, 1))
    return chain.apply(np.fmod if node.whole("fmod", 0) else np.mod, a, b)


@operator("Max", "Min")
def _extreme(chain: Chain, node: Node, inputs: Inputs) -> Result:
    values = [_needed(inputs, i) for i in range(len(inputs))]
    if not values:
        raise Refused("it has no inputs")
    result, *others = values
    for other in others:
        if isinstance(result, Rows) == isinstance(other, Rows):
            result = chain.apply(np.maximum if node.op == "Max" else np.minimum, result, other)
        else:
            rows, limit = (result, other) if isinstance(result, Rows) else (other, result)
            array = as_constant(limit)
            if array.size == 1 and array.ndim <= _rank(_unlabelled(rows)):
                low, high = (array, None) if node.op == "Max" else (None, array)
                result = _clipped(chain, rows, low, high)
            else:
                result = chain.apply(np.maximum if node.op == "Max" else np.minimum, rows, array)
    return result


@operator("Where")
def _where(chain: Chain, node: Node, inputs: Inputs) -> Result:
    return chain.apply(np.where, *[_needed(inputs, i) for i in range(3)])


# Labels behind the last layer


@operator("ArgMax")
def _arg_max(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _unlabelled(_needed(inputs, 0))
    axis = _axis(node.whole("axis", 0), _rank(value))
    keep = bool(node.whole("keepdims", 1))
    last = bool(node.whole("select_last_index", 0))
    if not isinstance(value, Rows):
        index = np.argmax(np.flip(value, axis) if last else value, axis, keepdims=keep)
        result: Array = value.shape[axis] - 1 - index if last else np.asarray(index)
        return result
    if last:
        raise Refused("it takes the last of equal values, lrgate the first")
    return chain.largest(value, axis)


@operator("ArrayFeatureExtractor", domain=_ML)
def _array_feature_extractor(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value, index = _needed(inputs, 0), _needed(inputs, 1)
    if isinstance(index, Labels):
        return _named(index, as_constant(value))
    value = _unlabelled(value)
    if isinstance(index, Rows):
        raise Refused("it looks values up by the input")
    axis = _rank(value) - 1
    return _taken(chain, value, index.reshape(-1), axis)


def _named(labels: Labels, names: Array) -> Labels:
    """Labels with the names of their indices."""
    if max(names.shape, default=1) != names.size:
        raise Refused(f"its labels have the shape {names.shape}")
    names = names.reshape(-1)
    if labels.kind != "classification" or labels.names is not None:
        raise Refused("it changes labels")
    if len(names) != len(labels.all_names):
        raise Refused(f"it has {len(names)} names for {len(labels.all_names)} classes")
    return replace(labels, names=_distinct(names))


def _distinct(names: Array) -> Array:
    """Names of classes, of which no two are equal: a network has one output for each class."""
    values, counts = np.unique(names, return_counts=True)
    if len(values) < len(names):
        twice = values[counts > 1][0].item()
        raise Refused(f"it gives several classes the label {twice!r}: choose the scores by output=")
    return names


@operator("ZipMap", domain=_ML)
def _zip_map(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _unlabelled(_needed(inputs, 0))
    names = node.values("classlabels_int64s") or node.values("classlabels_strings")
    if not isinstance(value, Rows) or not names:
        raise Refused("its input or its labels are missing")
    if len(names) != value.size:
        raise Refused(f"it has {len(names)} names for {value.size} classes")
    return Labels(value, "classification", np.array(names))


@operator("Binarizer", domain=_ML)
def _binarizer(chain: Chain, node: Node, inputs: Inputs) -> Result:
    value = _unlabelled(_needed(inputs, 0))
    threshold = node.number("threshold", 0.0)
    if not isinstance(value, Rows):
        return (value > threshold).astype(value.dtype)
    stage = value.stage
    last = stage.activation if value.is_plain and value.core is stage.outputs else None
    boundary = 0.5 if last is not None and last.name == "sigmoid" else 0.0
    if threshold != boundary:
        raise Refused(f"it compares with {threshold:g}, a network would with {boundary:g}")
    return Labels(value, "multilabel" if value.size > 1 else "classification")


@operator("LabelEncoder", domain=_ML)
def _label_encoder(chain: Chain, node: Node, inputs: Inputs) -> Result:
    labels = _needed(inputs, 0)
    if not isinstance(labels, Labels) or labels.kind != "classification":
        raise Refused("it encodes values that are not labels of this model: apply it before")
    defaults = {
        "strings": node.get("default_string", "_Unused"),
        "int64s": node.get("default_int64", -1),
        "floats": node.get("default_float", 0.0),
    }
    node.ignore("default_tensor")
    old = node.values("classes_strings")
    if old is not None:
        keys, values, default = list(range(len(old))), old, defaults["strings"]
    else:
        keys, _ = _entries(node, "keys")
        values, kind = _entries(node, "values")
        default = defaults[kind]
    if len(keys) != len(values):
        raise Refused("it has another number of keys than of values")
    table = dict(zip(keys, values, strict=True))
    if len(table) < len(keys):
        raise Refused("two of its keys are equal")
    names = [table.get(name, default) for name in labels.all_names.tolist()]
    return replace(labels, names=_distinct(np.array(names)))


def _entries(node: Node, name: str) -> tuple[list[Any], str]:
    for kind in ("strings", "int64s", "floats"):
        entries = node.values(f"{name}_{kind}")
        if entries is not None:
            return entries, kind
    tensor = node.get(f"{name}_tensor")
    if tensor is None:
        raise Refused(f"its {name} are missing")
    array = from_tensor(tensor).reshape(-1)
    kind = {"U": "strings", "f": "floats"}.get(array.dtype.kind, "int64s")
    return array.tolist(), kind

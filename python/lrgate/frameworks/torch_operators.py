"""ATen operations on the values of a chain.

An operation is given by its name in the schema of ATen. Operations that only move elements run
themselves on whole numbers, and elementwise functions run themselves in float64, so that their
meaning is PyTorch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.frameworks.chain import BATCH, Chain, Labels
from lrgate.frameworks.errors import Refused
from lrgate.frameworks.values import Rows
from lrgate.model.activation import Activation

__all__ = [
    "Call",
    "LogSumExp",
    "PerRow",
    "called",
    "constant_call",
    "holds_batch",
    "is_dynamic",
    "size_call",
]

Array = npt.NDArray[Any]


class Size(int):
    """A whole multiple of the number of rows, with `BATCH` for that number.

    Shapes may contain it; any other number computed from it is refused.
    """


@dataclass(frozen=True, eq=False)
class PerRow:
    """A constant that every row has: a tensor whose batch axis has length 1."""

    tensor: Any


@dataclass(frozen=True, eq=False)
class LogSumExp:
    """The normalizer of a softmax over all elements of rows."""

    of: Rows
    axis: int


@dataclass(frozen=True, eq=False)
class Call:
    """An operation with its arguments, in the order of the schema.

    Parameters
    ----------
    chain : Chain
    target : torch._ops.OpOverload
    values : list
        Rows, labels, tensors and numbers; omitted arguments have their defaults.
    booleans : list of bool
        Which values are tensors of truth values.
    outputs : int
        Number of tensors in the result.
    integral : bool
        Whether the result has whole numbers or truth values.
    whole : list of bool
        Which values are tensors of whole numbers.
    widens : bool
        Whether the dtype of the result holds all values of the dtype of the first argument.
    """

    chain: Chain
    target: Any
    values: list[Any]
    booleans: list[bool]
    outputs: int = 1
    integral: bool = False
    whole: Sequence[bool] = ()
    widens: bool = False

    def run(self, values: Sequence[Any]) -> Any:
        """The operation on tensors and numbers."""
        schema = self.target._schema.arguments
        plain = [v for v, a in zip(values, schema, strict=True) if not a.kwarg_only]
        named = {
            a.name: v for v, a in zip(values, schema, strict=True) if a.kwarg_only and v is not None
        }
        return self.target(*plain, **named)


Handler = Callable[..., Any]
_HANDLERS: Final[dict[str, Handler]] = {}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Functions of single elements, which need no knowledge of their own.
_ELEMENTWISE: Final = _names(
    "abs absolute addcdiv addcmul bitwise_and bitwise_not bitwise_or ceil clamp clamp_max "
    "clamp_min clip eq erf erfc exp exp2 expm1 floor ge greater greater_equal gt hardshrink "
    "le less less_equal lt log10 log1p log2 logaddexp logical_and logical_not "
    "logical_or masked_fill max maximum min minimum ne not_equal pow reciprocal relu6 rsqrt sign "
    "softshrink sqrt square where __and__ __or__ heaviside"
)

# Operations that give elements in another order or shape.
_MOVES: Final = _names(
    "_reshape_alias _unsafe_view alias chunk clone contiguous detach expand flatten flip "
    "index index_select lift_fresh lift_fresh_copy matrix_H mT movedim narrow numpy_T permute "
    "repeat repeat_interleave reshape roll select slice split split_with_sizes squeeze "
    "swapaxes swapdims t tensor_split tile transpose unbind unflatten unsafe_chunk "
    "unsafe_split unsqueeze view broadcast_to moveaxis unsafe_split_with_sizes select_copy "
    "slice_copy view_copy expand_copy permute_copy squeeze_copy unsqueeze_copy transpose_copy "
    "t_copy alias_copy detach_copy unbind_copy split_copy split_with_sizes_copy"
)

_REASONS: Final[dict[str, str]] = {
    **dict.fromkeys(
        _names("conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d _convolution"),
        "it is a convolution, and lrgate runs fully connected networks: import the part behind it",
    ),
    **dict.fromkeys(
        ["embedding", "embedding_bag", "_embedding_bag"],
        "it looks rows up in a table: apply it before, and import the part behind it",
    ),
    **dict.fromkeys(
        _names(
            "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu "
            "multi_head_attention_forward _native_multi_head_attention"
        ),
        "it is attention, which multiplies values that depend on the input",
    ),
    **dict.fromkeys(
        _names(
            "layer_norm native_layer_norm group_norm native_group_norm rms_norm "
            "_fused_rms_norm instance_norm"
        ),
        "it divides each row by a norm of that row, which layers of a matrix and an activation "
        "cannot do: import the parts before and behind it",
    ),
    **dict.fromkeys(
        _names("lstm gru rnn_tanh rnn_relu"),
        "it is recurrent, and lrgate runs fully connected networks",
    ),
    **dict.fromkeys(
        _names("nan_to_num isnan isinf isfinite isposinf isneginf isreal nansum nanmean"),
        "it treats NaN or infinite values apart from others: do it before, and import the part "
        "behind it",
    ),
    **dict.fromkeys(
        ["bmm", "baddbmm", "einsum"],
        "it multiplies by several matrices, as ensembles in one module do: import the members one "
        "by one",
    ),
}


def operator(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler, which gets the chain and the arguments in the order of the schema."""

    def registered(handler: Handler) -> Handler:
        _HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return registered


def called(call: Call) -> Any:
    """The result of an operation of which an argument depends on the input."""
    schema = call.target._schema
    namespace, _, full = schema.name.partition("::")
    name = full.rstrip("_") if not full.startswith("__") else full
    if namespace != "aten":
        raise Refused("lrgate does not know operations outside of ATen")
    for value, argument in zip(call.values, schema.arguments, strict=True):
        if holds_batch([value]) and "int" not in str(argument.real_type).lower():
            raise Refused(_COUNTS)
    if any(isinstance(v, Labels) for v in call.values):
        return _of_labels(call, name)
    if not any(isinstance(v, Rows | LogSumExp) for v in _flat(call.values)):
        return _of_per_row(call, name)
    overload = schema.overload_name or "default"
    handler = _HANDLERS.get(f"{name}.{overload}", _HANDLERS.get(name))
    if handler is not None:
        _check_whole(call, name)
        return handler(call, *call.values)
    if any(isinstance(v, LogSumExp) for v in _flat(call.values)):
        raise Refused(_LOG_SUM)
    if name in _MOVES:
        return _moved(call, name)
    _check_whole(call, name)
    if name in _ELEMENTWISE:
        return _elementwise(call)
    reason = _REASONS.get(
        name,
        "lrgate has no such operation: it runs matrices and activations in turn, with affine "
        "operations between them",
    )
    raise Refused(reason)


# Comparisons, and operations on truth values that give truth values.
_LOGICAL: Final = _names(
    "eq ge gt le lt ne greater greater_equal less less_equal not_equal logical_and logical_not "
    "logical_or bitwise_and bitwise_not bitwise_or __and__ __or__ where"
)
_NO_NUMBERS: Final = _names("to _to_copy type_as to_dense sym_size sym_numel numel dim")


def _check_whole(call: Call, name: str) -> None:
    """Refuse arithmetic whose result has whole numbers or truth values."""
    if not call.integral or name in _NO_NUMBERS or name in ("argmax", "argmin"):
        return
    if name in _LOGICAL and not any(call.whole):
        return
    raise Refused(
        "it computes with whole numbers or truth values, which follow rules of their own: convert "
        "them to real numbers first"
    )


def is_dynamic(values: Any) -> bool:
    """Whether values depend on the input, or are alike for all rows."""
    return any(isinstance(v, Rows | Labels | PerRow | LogSumExp) for v in _flat(values))


def holds_batch(values: Any) -> bool:
    return any(isinstance(v, Size) for v in _flat(values))


def _flat(values: Any) -> list[Any]:
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list | tuple):
        return [v for value in values for v in _flat(value)]
    return [values]


def _with_rows(value: Any, rows: int) -> Any:
    """Arguments for a tensor of that many rows."""
    if isinstance(value, list | tuple):
        return [_with_rows(v, rows) for v in value]
    return int(value) // BATCH * rows if isinstance(value, Size) else value


def _array(value: Any) -> Array:
    """A constant as an array."""
    import torch

    if isinstance(value, Rows | Labels | LogSumExp):
        raise Refused("it needs a constant, but its value depends on the input")
    if isinstance(value, PerRow):
        value = value.tensor
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    if value.is_complex():
        raise Refused("complex numbers are not supported")
    if value.layout is not torch.strided or value.is_quantized:
        raise Refused("sparse and quantized tensors are not supported: make them dense")
    value = value.detach()
    if value.dtype in (torch.bfloat16, torch.float16) or value.dtype.itemsize == 1:
        value = value.to(torch.float32)
    result: Array = value.numpy()
    return result


def _operand(value: Any) -> Any:
    if isinstance(value, LogSumExp):
        raise Refused(_LOG_SUM)
    return value if isinstance(value, Rows) else _array(value)


def _rows(value: Any) -> Rows:
    if not isinstance(value, Rows):
        raise Refused("it applies a value that depends on the input to a constant")
    return value


_COUNTS: Final = "it computes with the number of rows"
_MIXES: Final = "it mixes or drops rows: each row's answer may depend on that row only"
_LOG_SUM: Final = "it uses the logarithm of a sum of exponentials other than in a log_softmax"


# Operations that move elements


def _check_rows(x: Rows, name: str, arguments: dict[str, Any]) -> None:
    """Refuse a move that chooses rows or changes their order."""
    if x.batch != BATCH:
        return
    rank = len(x.full_shape)
    dims = arguments.get("dims", arguments.get("dim"))
    if name == "roll" and not dims:
        raise Refused(_MIXES)
    chosen = [
        d % rank for d in (dims if isinstance(dims, list | tuple) else [dims]) if d is not None
    ]
    if name not in _ALONG:
        return
    if 0 not in chosen:
        # Along other axes, lengths are those of a row.
        if holds_batch(arguments):
            raise Refused(_COUNTS)
        return
    if name in ("slice", "slice_copy"):
        start, end, step = arguments["start"], arguments["end"], arguments["step"]
        every = end is None or end >= (BATCH if isinstance(end, Size) else _END)
        if not start and every and step == 1:
            return
    if name == "narrow" and not arguments["start"]:
        length = arguments["length"]
        if isinstance(length, Size) and length == BATCH:
            return
    raise Refused(_MIXES)


# Operations that choose elements along one axis. The end of an axis is given by 2**63 - 1.
_ALONG: Final = _names(
    "slice slice_copy narrow roll flip chunk split split_copy split_with_sizes tensor_split "
    "select select_copy unbind unbind_copy unsafe_chunk unsafe_split unsafe_split_with_sizes "
    "split_with_sizes_copy index_select repeat_interleave"
)
_END: Final = 2**63 - 1


def _moved(call: Call, name: str) -> Any:
    """A move of the first argument, or a list of moves."""
    import torch

    x, *others = call.values
    if not isinstance(x, Rows) or is_dynamic(others):
        raise Refused("it moves elements by numbers that depend on the input")
    names = [argument.name for argument in call.target._schema.arguments]
    _check_rows(x, name, dict(zip(names, call.values, strict=True)))
    schema = call.target._schema
    several = str(schema.returns[0].type).startswith("List")

    def moved(part: int) -> Rows:
        def operation(numbers: Array, rows: int) -> Array:
            tensor = torch.from_numpy(np.array(numbers))
            try:
                result = call.run([tensor, *[_with_rows(v, rows) for v in others]])
            except RuntimeError as error:
                raise ValueError(str(error)) from None
            result = result[part] if several else result
            array: Array = result.numpy()
            return array

        return call.chain.moved(x, operation)

    if not several:
        return moved(0)
    return [moved(part) for part in range(call.outputs)]


@operator("view_as", "reshape_as", "expand_as")
def _like(call: Call, x: Any, other: Any) -> Any:
    shape = other.full_shape if isinstance(other, Rows) else _array(other).shape
    chain = call.chain
    if call.target._schema.name.endswith("expand_as"):
        return chain.expand(_rows(x), shape)
    return chain.reshape(_rows(x), shape)


@operator("broadcast_tensors")
def _broadcast_tensors(call: Call, values: Any) -> Any:
    shapes = [v.shape for v in values if isinstance(v, Rows)]
    if any(shape != shapes[0] for shape in shapes):
        raise Refused("it broadcasts tensors of several shapes")
    return list(values)


@operator("cat", "concat", "concatenate")
def _cat(call: Call, values: Any, dim: Any = 0) -> Any:
    return call.chain.concatenate([_operand(v) for v in values], dim)


@operator("stack", "hstack", "column_stack")
def _stack(call: Call, values: Any, dim: Any = 1) -> Any:
    import torch

    name = call.target._schema.name
    rank = max(len(v.full_shape) for v in values if isinstance(v, Rows))
    if not name.endswith("::stack"):
        if rank != 2:
            raise Refused(f"it stacks tensors of {rank} axes")
        return call.chain.concatenate([_operand(v) for v in values], 1)
    axis = dim % (rank + 1)
    parts: list[Any] = []
    for value in values:
        if isinstance(value, Rows):
            parts.append(
                call.chain.moved(
                    value,
                    lambda numbers, rows: (
                        torch.from_numpy(np.array(numbers)).unsqueeze(axis).numpy()
                    ),
                )
            )
        else:
            parts.append(np.expand_dims(_array(value), axis))
    return call.chain.concatenate(parts, axis)


@operator("sym_size")
def _size(call: Call, x: Any, dim: int) -> int:
    return _sized(_rows(x), _rows(x).full_shape[dim], dim)


@operator("sym_numel", "numel")
def _numel(call: Call, x: Any) -> int:
    return _sized(_rows(x), math.prod(_rows(x).full_shape))


def _sized(x: Rows, number: int, dim: int = 0) -> int:
    """A size of rows, given the axis that it belongs to."""
    batched = x.batch == BATCH and dim % len(x.full_shape) == 0
    return Size(number) if batched else int(number)


def size_call(function: Callable[..., Any], values: Sequence[Any]) -> Any:
    """An operation on sizes that may depend on the number of rows."""
    if not holds_batch(values):
        return function(*values)
    name = getattr(function, "__name__", "")
    sizes = [int(v) // BATCH for v in values if isinstance(v, Size)]
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    if whole and len(sizes) == len(values) and name in ("floordiv", "add", "sub", "neg", "mod"):
        # The number of rows is a common factor.
        if name == "floordiv":
            return sizes[0] // sizes[1]
        result = function(*sizes)
        return Size(result * BATCH) if result else 0
    if whole and len(sizes) == 1:
        if name == "mul":
            return Size(function(*map(int, values)))
        if name == "floordiv" and isinstance(values[0], Size):
            result, rest = divmod(sizes[0], int(values[1]))
            if not rest:
                return Size(result * BATCH)
        if name in ("add", "sub") and values[1] == 0:
            return values[0]
    raise Refused(_COUNTS)


@operator("dim")
def _dim(call: Call, x: Any) -> int:
    return len(_rows(x).full_shape)


@operator("to", "_to_copy", "type_as", "to_dense")
def _to(call: Call, x: Any, *_: Any) -> Any:
    if call.integral and not call.booleans[0] and not call.widens:
        raise Refused("it rounds to whole numbers")
    return _rows(x)


# Affine operations


@operator("add")
def _add(call: Call, x: Any, other: Any, alpha: Any = 1) -> Any:
    return call.chain.add(_operand(x), _times(call, other, alpha))


@operator("sub", "subtract")
def _sub(call: Call, x: Any, other: Any, alpha: Any = 1) -> Any:
    if isinstance(other, LogSumExp) and alpha == 1:
        a, b = _rows(x), other.of
        if a.core is b.core and a.scale is b.scale and a.offset is b.offset and a.shape == b.shape:
            return call.chain.softmax(a, other.axis, log=True)
    return call.chain.subtract(_operand(x), _times(call, other, alpha))


@operator("rsub")
def _rsub(call: Call, x: Any, other: Any, alpha: Any = 1) -> Any:
    return call.chain.subtract(_operand(other), _times(call, x, alpha))


def _times(call: Call, value: Any, factor: Any) -> Any:
    operand = _operand(value)
    return operand if factor == 1 else call.chain.multiply(operand, np.asarray(factor))


@operator("mul", "multiply")
def _mul(call: Call, x: Any, other: Any) -> Any:
    return call.chain.multiply(_operand(x), _operand(other))


@operator("div", "divide", "true_divide")
def _div(call: Call, x: Any, other: Any, rounding_mode: Any = None) -> Any:
    if rounding_mode is not None:
        raise Refused("it rounds a quotient")
    divisor = _operand(other)
    if not isinstance(divisor, Rows):
        # Division of rows is never one of whole numbers.
        divisor = divisor.astype(np.float64)
    return call.chain.divide(_operand(x), divisor)


@operator("neg", "negative")
def _neg(call: Call, x: Any) -> Any:
    return call.chain.negate(_rows(x))


@operator("positive")
def _same(call: Call, x: Any, *_: Any) -> Any:
    return _rows(x)


@operator("linear")
def _linear(call: Call, x: Any, weight: Any, bias: Any = None) -> Any:
    if is_dynamic([weight, bias]):
        raise Refused("its weights depend on the input")
    return call.chain.linear(_rows(x), _array(weight), None if bias is None else _array(bias))


@operator("matmul", "mm", "mv", "dot")
def _matmul(call: Call, a: Any, b: Any) -> Any:
    return call.chain.matmul(_operand(a), _operand(b))


@operator("addmm", "addmv")
def _addmm(call: Call, bias: Any, a: Any, b: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    chain = call.chain
    product = _times(call, chain.matmul(_operand(a), _operand(b)), alpha)
    if beta == 0:
        return product
    return chain.add(product, _times(call, bias, beta))


@operator("sum.dim_IntList", "mean.dim", "sum.default", "mean.default")
def _sum(call: Call, x: Any, *arguments: Any) -> Any:
    schema = call.target._schema
    dims, keep = (arguments[0], arguments[1]) if schema.overload_name else (None, False)
    axes = [dims] if isinstance(dims, int) else list(dims or ())
    return call.chain.total(_rows(x), axes, bool(keep), mean=schema.name.endswith("mean"))


def _channels(x: Rows, count: int) -> tuple[int, ...]:
    """The shape of one number for each channel: the axis behind that of the rows, or the only."""
    axis = min(1, len(x.full_shape) - 1) - (x.batch is not None)
    shape = [1] * len(x.shape)
    shape[axis] = count
    return tuple(shape)


@operator("batch_norm", "native_batch_norm", "cudnn_batch_norm")
def _batch_norm(
    call: Call,
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: Any,
    momentum: Any,
    epsilon: Any,
    *_: Any,
) -> Any:
    if training or mean is None or variance is None:
        raise Refused(
            "it uses the batch's own statistics (track_running_stats=False, or training mode): "
            "its answer for a row depends on the other rows"
        )
    x = _rows(x)
    channels = _array(mean)
    shape = _channels(x, len(channels))
    scale = 1.0 / np.sqrt(_array(variance).astype(np.float64) + epsilon)
    if weight is not None:
        scale = scale * _array(weight)
    chain = call.chain
    centred = chain.subtract(x, channels.astype(np.float64).reshape(shape))
    rows = chain.multiply(centred, scale.reshape(shape))
    if bias is not None:
        rows = chain.add(rows, _array(bias).reshape(shape))
    return rows if call.outputs == 1 else [rows] + [None] * (call.outputs - 1)


@operator("_native_batch_norm_legit_no_training", "_batch_norm_no_update")
def _batch_norm_inference(
    call: Call, x: Any, w: Any, b: Any, mean: Any, variance: Any, momentum: Any, epsilon: Any
) -> Any:
    return _batch_norm(call, x, w, b, mean, variance, False, momentum, epsilon)


@operator(
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_functional",
    "_batch_norm_with_update",
    "_batch_norm_with_update_functional",
)
def _batch_norm_training(call: Call, x: Any, *_: Any) -> Any:
    return _batch_norm(call, x, None, None, None, None, True, None, None)


@operator("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "native_dropout")
def _dropout(call: Call, x: Any, p: Any, training: Any) -> Any:
    if training is not False and p != 0:
        raise Refused("it drops values at random: export the module in eval mode")
    return _rows(x) if call.outputs == 1 else [_rows(x), None]


# Activations


def _activated(call: Call, x: Any, name: str, *parameters: Any) -> Rows:
    try:
        activation = Activation(name, *parameters)
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from error
    return call.chain.activation(_rows(x), activation)


def _registered(name: str, activation: str) -> None:
    operator(name)(lambda call, x, *_: _activated(call, x, activation))


for _name, _activation in {
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "special_expit": "sigmoid",
    "silu": "silu",
    "mish": "mish",
    "selu": "selu",
    "hardswish": "hard_swish",
    "hardsigmoid": "hard_sigmoid",
}.items():
    _registered(_name, _activation)


@operator("gelu")
def _gelu(call: Call, x: Any, approximate: str = "none") -> Any:
    return _activated(call, x, "gelu_tanh" if approximate == "tanh" else "gelu")


@operator("threshold")
def _threshold(call: Call, x: Any, threshold: Any, value: Any) -> Any:
    if value != 0:
        return _elementwise(call)
    if threshold == 0:
        return _activated(call, x, "relu")
    return _activated(call, x, "thresholded_relu", float(threshold))


@operator("hardtanh")
def _hardtanh(call: Call, x: Any, lower: Any = -1, upper: Any = 1) -> Any:
    return _activated(call, x, "hard_tanh", float(lower), float(upper))


@operator("leaky_relu")
def _leaky_relu(call: Call, x: Any, slope: Any = 0.01) -> Any:
    return _activated(call, x, "leaky_relu", float(slope))


@operator("prelu", "_prelu_kernel")
def _prelu(call: Call, x: Any, weight: Any) -> Any:
    if is_dynamic([weight]):
        raise Refused("its slopes depend on the input")
    x, slopes = _rows(x), _array(weight).reshape(-1)
    if len(slopes) == 1:
        return _activated(call, x, "leaky_relu", float(slopes[0]))
    shape = _channels(x, len(slopes))
    whole = np.broadcast_to(slopes.reshape(shape), x.shape).reshape(-1)
    return _activated(call, x, "prelu", whole)


@operator("rrelu")
def _rrelu(call: Call, x: Any, lower: Any, upper: Any, training: Any, *_: Any) -> Any:
    if training:
        raise Refused("its slopes are random: export the module in eval mode")
    return _activated(call, x, "leaky_relu", (float(lower) + float(upper)) / 2)


@operator("elu")
def _elu(call: Call, x: Any, alpha: Any = 1, scale: Any = 1, input_scale: Any = 1) -> Any:
    if input_scale != 1:
        raise Refused(f"an elu with input_scale={input_scale} is not supported")
    return _times(call, _activated(call, x, "elu", float(alpha)), scale)


@operator("celu")
def _celu(call: Call, x: Any, alpha: Any = 1.0) -> Any:
    if not alpha > 0.0:
        raise Refused(f"celu with alpha={alpha:g} is not supported")
    inner = _times(call, _rows(x), 1.0 / alpha)
    return _times(call, _activated(call, inner, "elu", 1.0), alpha)


@operator("softplus")
def _softplus(call: Call, x: Any, beta: Any = 1, threshold: Any = 20) -> Any:
    # Above the threshold the function is the identity: it must be so to float32 anyway.
    if threshold < 16:
        raise Refused(f"a softplus with threshold={threshold} is not supported")
    inner = _times(call, _rows(x), beta)
    return _times(call, _activated(call, inner, "softplus"), 1.0 / beta)


@operator("log_sigmoid")
def _log_sigmoid(call: Call, x: Any) -> Any:
    chain = call.chain
    return chain.negate(_activated(call, chain.negate(_rows(x)), "softplus"))


@operator("softmax", "_softmax", "special_softmax", "_safe_softmax")
def _softmax(call: Call, x: Any, dim: int, *_: Any) -> Any:
    x = _rows(x)
    stage = x.stage
    known = stage.activation is not None and stage.activation.name == "log_softmax"
    if known and x.is_plain and x.core is stage.outputs:
        # Normalized twice, as in torch.distributions.
        assert stage.inputs is not None
        x = stage.inputs.reshaped(x.shape)
    return call.chain.softmax(x, dim)


@operator("log_softmax", "_log_softmax", "special_log_softmax")
def _log_softmax(call: Call, x: Any, dim: int, *_: Any) -> Any:
    return call.chain.softmax(_rows(x), dim, log=True)


@operator("logsumexp")
def _logsumexp(call: Call, x: Any, dims: Any, keep: Any = False) -> Any:
    x = _rows(x)
    axes = [dims] if isinstance(dims, int) else list(dims)
    if len(axes) != 1 or not keep:
        raise Refused(_LOG_SUM)
    return LogSumExp(x, axes[0])


@operator("log")
def _log(call: Call, x: Any) -> Any:
    return call.chain.log(_rows(x))


@operator("max.default", "min.default", "max.dim", "min.dim", "all", "any")
def _extreme(call: Call, *_: Any) -> Any:
    raise Refused("it compares the elements of a row")


@operator("argmax")
def _argmax(call: Call, x: Any, dim: Any = None, keep: Any = False) -> Any:
    return call.chain.largest(_rows(x), dim)


@operator("argmin")
def _argmin(call: Call, x: Any, dim: Any = None, keep: Any = False) -> Any:
    rows = call.chain.negate(_rows(x))
    assert isinstance(rows, Rows)
    return call.chain.largest(rows, dim)


def _of_labels(call: Call, name: str) -> Labels:
    """Labels in another shape or type."""
    labels = call.values[0]
    if not isinstance(labels, Labels) or is_dynamic(call.values[1:]):
        raise Refused("it computes with labels")
    if name in ("clone", "detach", "alias", "contiguous"):
        return labels
    if name in ("to", "_to_copy") and (call.widens or not call.integral):
        return labels
    if name in ("reshape", "view", "squeeze", "unsqueeze", "flatten", "_unsafe_view"):
        return labels
    raise Refused("it changes labels: pass the module without it, and classes=")


# Elementwise functions


def _elementwise(call: Call) -> Any:
    import torch

    places = [i for i, v in enumerate(call.values) if isinstance(v, Rows | PerRow | torch.Tensor)]
    numbers = [
        np.asarray(float(v))
        for v in call.values
        if isinstance(v, int | float) and not isinstance(v, bool)
    ]

    def function(*arrays: Array) -> Array:
        values = list(call.values)
        for place, array in zip(places, arrays, strict=False):
            tensor = torch.from_numpy(np.array(array, np.float64))
            values[place] = tensor != 0 if call.booleans[place] else tensor
        result: Array = call.run(values).numpy()
        return result

    # The numbers are not arguments, but show where the function may change.
    operands = [_operand(call.values[place]) for place in places]
    return call.chain.apply(function, *operands, *numbers)


# Constants that all rows have


def constant_call(target: Any, values: list[Any], run: Callable[[list[Any]], Any]) -> Any:
    """A constant whose shape or values contain the number of rows."""
    name = target._schema.name.partition("::")[2]
    if name not in _CONSTANTS:
        raise Refused("it makes a constant that depends on the number of rows")
    sizes = [v for v in values if isinstance(v, list | tuple)]
    single = len(sizes) == 1 and sizes[0] and sizes[0][0] == BATCH
    if (
        not single
        or holds_batch(sizes[0][1:])
        or holds_batch([v for v in values if not isinstance(v, list | tuple)])
    ):
        raise Refused("it makes a constant that depends on the number of rows")
    result = run([_with_rows(v, 1) for v in values])
    if not result.ndim or len(result) != 1:
        raise Refused("it makes a constant that differs between rows")
    return PerRow(result)


_LIKE: Final = ("zeros_like", "ones_like", "full_like")
_NEW: Final = ("new_zeros", "new_ones", "new_full")
# Operations that make a constant of a given shape.
_CONSTANTS: Final = ("zeros", "ones", "full", "expand", "repeat", "broadcast_to", *_NEW)


@operator(*_LIKE)
def _constant_like(call: Call, x: Any, *others: Any) -> Any:
    return _filled(call, _rows(x).full_shape, others[0] if others else None)


@operator(*_NEW)
def _new_constant(call: Call, x: Any, size: Any, *others: Any) -> Any:
    return _filled(call, tuple(size), others[0] if others else None)


def _filled(call: Call, shape: Sequence[int], value: Any) -> Any:
    import torch

    name = call.target._schema.name
    number = value if "full" in name else float("ones" in name)
    if isinstance(number, torch.Tensor | Rows | PerRow):
        raise Refused("it fills a tensor with a value that is not known")
    batched = bool(shape) and shape[0] == BATCH
    tensor = torch.full([1, *shape[1:]] if batched else list(shape), float(number))
    return PerRow(tensor) if batched else tensor


def _of_per_row(call: Call, name: str) -> Any:
    """An elementwise function of constants that all rows have and of numbers."""

    if name == "sym_size":
        x, dim = call.values[0].tensor, call.values[1]
        return Size(BATCH) if dim % x.ndim == 0 else x.shape[dim]
    same = name in ("to", "_to_copy", "clone", "detach", "alias", "contiguous")
    simple = name in _ELEMENTWISE or name in ("add", "sub", "mul", "div", "neg", "log")
    if not (same or simple):
        raise Refused("it changes a constant that depends on the number of rows")
    values = [v.tensor if isinstance(v, PerRow) else v for v in call.values]
    rank = max(v.tensor.ndim for v in call.values if isinstance(v, PerRow))
    result = call.run(values)
    if result.ndim != rank or len(result) != 1:
        raise Refused("it changes a constant that depends on the number of rows")
    return PerRow(result)

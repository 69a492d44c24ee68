"""Reader of Keras 3 models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.frameworks.building import built, refusal, verified
from lrgate.frameworks.chain import Chain, Value
from lrgate.frameworks.errors import Refused
from lrgate.frameworks.values import Rows
from lrgate.inputs.optional import required
from lrgate.model.activation import Activation
from lrgate.network import Network
from lrgate.types import Float64Array

__all__ = ["from_keras"]

_EXPORT: Final = ': export it by model.export(path, format="onnx"), and use lrgate.from_onnx'


def from_keras(
    model: Any,
    *,
    task: str | None = None,
    classes: npt.ArrayLike | None = None,
    verify: bool = True,
) -> Network:
    """Convert a Keras 3 model, of any backend, to a network.

    Parameters
    ----------
    model : keras.Model or path
        A built Sequential or functional model: a chain of Dense, BatchNormalization,
        Normalization, Rescaling, Dropout, Flatten, Reshape and activations. It has one input and
        one output. A path names a ``.keras`` file; it is loaded in Keras's safe mode.
    task : {"classification", "regression", "multilabel"}, optional
        By default, classification if the last activation is softmax, or sigmoid with one output,
        and multilabel if it is sigmoid with several outputs. Otherwise it is left open.
    classes : array-like (k,), optional
        Labels of the outputs.
    verify : bool, default True
        Compare raw outputs with the model's own on random rows.

    Returns
    -------
    Network
        With the raw outputs of ``model(x, training=False)``. The axes of a row are flattened.

    Raises
    ------
    UnsupportedModelError
        If the model is not such a chain; the message names the layer. Also if `verify` finds
        other outputs.
    ImportError
        If Keras is not installed.
    ValueError
        If `task` or `classes` do not fit, or the path is not that of a ``.keras`` file.

    Examples
    --------
    >>> net = lrgate.from_keras(model)  # doctest: +SKIP
    >>> net = lrgate.from_keras("model.keras", classes=["cat", "dog"])  # doctest: +SKIP
    """
    keras = required("keras", "keras", "lrgate.from_keras")
    name = getattr(model, "name", type(model).__name__)
    if isinstance(model, str | os.PathLike):
        name = os.fspath(model)
        model = _loaded(keras, name)
    try:
        reader = _Reader(keras, model, str(name))
        value = reader.read()
        net = built(value, task=task, classes=classes)
    except Refused as error:
        raise refusal(error, source="keras", name=str(name)) from None
    if verify:
        verified(
            net,
            reader.reference,
            source="keras",
            name=str(name),
            epsilon=reader.epsilon,
            whole=reader.whole,
        )
    return net


def _loaded(keras: Any, path: str) -> Any:
    suffix = Path(path).suffix
    if suffix.lower() != ".keras":
        raise ValueError(f"path must end in .keras, got {path!r}")
    with open(path, "rb"):  # Report a missing file as such.
        pass
    try:
        with _named(path, suffix) as name:
            return keras.saving.load_model(name, compile=False, safe_mode=True)
    except OSError:
        raise
    except Exception as error:
        raise refusal(
            Refused(f"Keras cannot load it: {error}"), source="keras", name=path
        ) from error


@contextmanager
def _named(path: str, suffix: str) -> Iterator[str]:
    """A path of the file that ends in .keras, in lower case as Keras needs it."""
    if suffix == ".keras":
        yield path
        return
    with TemporaryDirectory() as folder:
        name = os.path.join(folder, "model.keras")
        shutil.copyfile(path, name)
        yield name


class _Reader:
    """Reads a model layer by layer."""

    def __init__(self, keras: Any, model: Any, name: str) -> None:
        self._keras, self._model, self._name = keras, model, name
        if not isinstance(model, keras.Model):
            raise Refused(f"it must be a keras.Model, got {type(model).__name__}")
        graph = _graph(keras, model)
        for kind, tensors in (("input", graph.inputs), ("output", graph.outputs)):
            if len(tensors) != 1:
                raise Refused(f"it has {len(tensors)} {kind}s; models with one are supported")
        shape = graph.inputs[0].shape
        if None in shape[1:]:
            raise Refused(f"its input has the shape {shape}; all but the first must be known")
        self._shape = tuple(shape[1:])
        self._dtype = str(graph.inputs[0].dtype)
        #: The least and the greatest number of an integer input.
        self.whole: tuple[int, int] | None = None
        if _is_whole(self._dtype):
            limits = np.iinfo(self._dtype)
            self.whole = int(limits.min), int(limits.max)
        elif "float" not in self._dtype:
            raise Refused(f"its input is {self._dtype}; floating-point and integer ones are read")
        self._chain = Chain(self._shape)
        self._table = _layers(keras)
        #: Precision of the model's own outputs.
        self.epsilon = float(np.finfo(np.float32).eps)

    def read(self) -> Rows:
        value = self._graph(self._model, [self._chain.input])
        if not isinstance(value, Rows):
            raise Refused("its output does not depend on its input")
        return value

    def reference(self, x: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        rows = x.reshape(len(x), *self._shape)
        rows = rows if self.whole is None else rows.astype(self._dtype)
        # A model may return a dictionary with one output.
        (y,) = self._keras.tree.flatten(self._model(rows, training=False))
        return np.asarray(self._keras.ops.convert_to_numpy(y))

    def _graph(self, model: Any, arguments: list[Value]) -> Value:
        """The output of a model, which may be a layer of another."""
        graph = _graph(self._keras, model)
        values: dict[int, Value] = {
            id(tensor): value for tensor, value in zip(graph.inputs, arguments, strict=True)
        }
        # Layers before those that need them.
        nodes = [
            node
            for depth in sorted(graph._nodes_by_depth, reverse=True)
            for node in graph._nodes_by_depth[depth]
        ]
        for node in nodes:
            if node.is_input:
                continue
            inputs = [values[id(t)] for t in node.input_tensors if id(t) in values]
            if len(inputs) != len(node.input_tensors):
                raise Refused("its graph is not in order")
            whole = any(_is_whole(str(tensor.dtype)) for tensor in node.input_tensors)
            value = self._layer(node.operation, inputs, node.arguments.kwargs, whole)
            if len(node.output_tensors) != 1:
                raise Refused(f"layer {node.operation.name!r} has several outputs")
            values[id(node.output_tensors[0])] = value
        return values[id(graph.outputs[0])]

    def _layer(
        self, layer: Any, inputs: list[Value], options: dict[str, Any], whole: bool
    ) -> Value:
        """The output of a layer; `whole` if it has inputs of an integer type."""
        self._chain.where = layer.name
        kind = type(layer).__name__
        try:
            if isinstance(layer, self._keras.Model):
                return self._graph(layer, inputs)
            if options.get("mask") is not None:
                raise Refused("masks are not supported")
            compute = str(getattr(layer, "compute_dtype", "float32"))
            if compute in ("float16", "bfloat16"):
                self.epsilon = 1e-3 if compute == "float16" else 1e-2
            read = self._table.get(type(layer)) or _operation(self._keras, layer)
            if read is None:
                raise Refused("lrgate runs fully connected networks and has no such layer")
            if whole and kind not in _OF_WHOLE_NUMBERS:
                raise Refused("it computes with integers: convert them to float32 before it")
            return read(self._chain, layer, *inputs)
        except Refused as error:
            raise refusal(
                error,
                source="keras",
                name=self._name,
                node=layer.name,
                op=kind,
                matrices=self._chain.matrices,
            ) from None


def _graph(keras: Any, model: Any) -> Any:
    """The functional graph of a model."""
    if isinstance(model, keras.Sequential):
        if not model.built or getattr(model, "_functional", None) is None:
            raise Refused("it is not built: call it once on rows, or begin it with an Input")
        _check_own(model)
        return model._functional
    if not hasattr(model, "_nodes_by_depth"):
        raise Refused(f"it is a subclass of keras.Model, whose code cannot be read{_EXPORT}")
    _check_own(model)
    return model


def _check_own(model: Any) -> None:
    """Refuse a model that computes more than its graph."""
    for method in ("call", "__call__"):
        owner = next(c for c in type(model).__mro__ if method in vars(c))
        if method in vars(model) or owner.__module__.partition(".")[0] != "keras":
            raise Refused(f"its method {method} is not that of Keras and cannot be read{_EXPORT}")


def _is_whole(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


# Layers that leave integers as they are, or convert them before they compute.
_OF_WHOLE_NUMBERS: Final = (
    "BatchNormalization",
    "Dense",
    "Dropout",
    "Flatten",
    "Identity",
    "Normalization",
    "Permute",
    "RepeatVector",
    "Rescaling",
    "Reshape",
)

Read = Callable[..., Value]


def _layers(keras: Any) -> dict[type, Read]:
    """The function that reads each type of layer. Subclasses may do anything: they have none."""
    layers = keras.layers
    same = (
        "ActivityRegularization AlphaDropout Dropout GaussianDropout GaussianNoise Identity "
        "SpatialDropout1D SpatialDropout2D SpatialDropout3D"
    )
    table: dict[type, Read] = {
        getattr(layers, name): lambda chain, layer, x: x
        for name in same.split()
        if hasattr(layers, name)
    }
    readers: dict[str, Read] = {
        "Activation": lambda chain, layer, x: _activated(keras, chain, layer.activation, x),
        "BatchNormalization": _batch_normalization,
        "Concatenate": lambda chain, layer, x, *more: chain.concatenate([x, *more], layer.axis),
        "Dense": lambda chain, layer, x: _dense(keras, chain, layer, x),
        "ELU": lambda chain, layer, x: chain.activation(x, Activation("elu", layer.alpha)),
        "Flatten": _flatten,
        "LeakyReLU": lambda chain, layer, x: chain.activation(
            x, Activation("leaky_relu", layer.negative_slope)
        ),
        "Normalization": _normalization,
        "PReLU": _prelu,
        "Permute": _permute,
        "ReLU": _relu,
        "RepeatVector": lambda chain, layer, x: chain.moved(
            x, lambda numbers, rows: np.repeat(numbers[:, None], layer.n, axis=1)
        ),
        "Rescaling": lambda chain, layer, x: chain.add(
            chain.multiply(x, _numbers(layer.scale)), _numbers(layer.offset)
        ),
        "Reshape": lambda chain, layer, x: chain.moved(
            x, lambda numbers, rows: numbers.reshape(rows, *layer.target_shape)
        ),
        "Softmax": lambda chain, layer, x: chain.softmax(x, _single(layer.axis)),
    }
    table.update((getattr(layers, name), read) for name, read in readers.items())
    return table


def _operation(keras: Any, operation: Any) -> Read | None:
    """The function that reads a function of keras.ops which is an activation."""
    kind = type(operation)
    name = kind.__name__
    if kind.__module__.rpartition(".")[0] != "keras.src.ops":
        return None
    if name in ("Softmax", "LogSoftmax"):
        return lambda chain, op, x: chain.softmax(x, _single(op.axis), log=name != "Softmax")
    if name == "Gelu":
        own = "gelu_tanh" if operation.approximate else "gelu"
        return lambda chain, op, x: chain.activation(x, Activation(own))
    if name in ("Elu", "LeakyRelu"):
        slope = operation.alpha if name == "Elu" else operation.negative_slope
        own = "elu" if name == "Elu" else "leaky_relu"
        return lambda chain, op, x: chain.activation(x, Activation(own, slope))
    function = getattr(keras.activations, _OPERATIONS.get(name, ""), None)
    if function is None:
        return None
    return lambda chain, op, x: _activated(keras, chain, function, x)


# The functions of keras.ops without parameters, and their names in keras.activations.
_OPERATIONS: Final = {
    "Exp": "exponential",
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "HardTanh": "hard_tanh",
    "LogSigmoid": "log_sigmoid",
    "Relu": "relu",
    "Relu6": "relu6",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Softplus": "softplus",
    "Tanh": "tanh",
}


def _numbers(value: Any) -> Float64Array:
    """The numbers of a variable, tensor or array."""
    value = getattr(value, "value", value)
    if hasattr(value, "detach"):
        value = value.detach().cpu().float() if "16" in str(value.dtype) else value.detach().cpu()
    return np.asarray(value, np.float64)


def _single(axis: Any) -> int:
    if isinstance(axis, int):
        return axis
    if len(axis) != 1:
        raise Refused("it is over several axes")
    return int(axis[0])


def _dense(keras: Any, chain: Chain, layer: Any, x: Rows) -> Value:
    if layer.quantization_mode is not None:
        raise Refused(f"its weights are quantised ({layer.quantization_mode})")
    kernel = layer.kernel
    if keras.backend.standardize_dtype(kernel.dtype) in ("float16", "bfloat16"):
        kernel = keras.ops.cast(kernel, "float32")
    kernel = np.asarray(keras.ops.convert_to_numpy(kernel))
    bias = None if layer.bias is None else _numbers(layer.bias)
    return _activated(keras, chain, layer.activation, chain.linear(x, kernel.T, bias))


def _axis(chain: Chain, x: Rows, values: Float64Array, axis: int) -> Float64Array:
    """Values of one axis of the tensor, in a shape that broadcasts along it."""
    rank = len(x.full_shape)
    shape = [1] * rank
    shape[axis % rank] = -1
    return values.reshape(shape)


def _batch_normalization(chain: Chain, layer: Any, x: Rows) -> Value:
    axis = _single(layer.axis)
    factor = 1.0 / np.sqrt(_numbers(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        factor = factor * _numbers(layer.gamma)
    summand = -_numbers(layer.moving_mean) * factor
    if layer.center:
        summand = summand + _numbers(layer.beta)
    scaled = chain.multiply(x, _axis(chain, x, factor, axis))
    return chain.add(scaled, _axis(chain, x, summand, axis))


def _normalization(chain: Chain, layer: Any, x: Rows) -> Value:
    mean, deviation = _numbers(layer.mean), np.sqrt(_numbers(layer.variance))
    if layer.invert:
        return chain.add(chain.multiply(x, np.maximum(deviation, 1e-7)), mean)
    return chain.divide(chain.subtract(x, mean), np.maximum(deviation, 1e-7))


def _flatten(chain: Chain, layer: Any, x: Rows) -> Value:
    if layer.data_format == "channels_first" and len(x.shape) > 1:
        x = chain.moved(x, lambda numbers, rows: np.moveaxis(numbers, 1, -1))
    return x.reshaped((x.size,))


def _permute(chain: Chain, layer: Any, x: Rows) -> Value:
    return chain.moved(x, lambda numbers, rows: numbers.transpose(0, *layer.dims))


def _prelu(chain: Chain, layer: Any, x: Rows) -> Value:
    alpha = np.broadcast_to(_numbers(layer.alpha), x.shape).reshape(-1)
    return chain.activation(x, Activation("prelu", alpha.astype(np.float32)))


def _relu(chain: Chain, layer: Any, x: Rows) -> Value:
    slope, upper = float(layer.negative_slope), layer.max_value
    threshold = float(layer.threshold)
    if slope == 0.0 and threshold == 0.0 and upper is None:
        return chain.activation(x, Activation("relu"))
    if slope == 0.0 and threshold == 0.0 and upper > 0.0:
        return chain.activation(x, Activation("clipped_relu", float(upper)))

    def relu(z: Float64Array, threshold: Float64Array, *upper: Float64Array) -> Float64Array:
        y = np.where(z > threshold, z, slope * (z - threshold))
        return np.minimum(y, *upper) if upper else y

    constants = [threshold] if upper is None else [threshold, float(upper)]
    return chain.apply(relu, x, *map(np.array, constants))


# The activations of Keras that are those of lrgate. Others with parameters are below.
_NAMES = {
    "linear": "identity",
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "selu": "selu",
    "silu": "silu",
    "softplus": "softplus",
    "mish": "mish",
    "exponential": "exp",
    "gelu": "gelu",
    "hard_sigmoid": "hard_sigmoid",
    "hard_silu": "hard_swish",
    "hard_swish": "hard_swish",
}


def _activated(keras: Any, chain: Chain, function: Any, x: Rows) -> Value:
    known = keras.activations
    if function is None or function is known.linear:
        return x
    if isinstance(function, keras.layers.Layer):
        read = _layers(keras).get(type(function))
        if read is None:
            raise Refused(f"its activation {type(function).__name__} is not supported")
        return read(chain, function, x)
    if function is known.softmax:
        return chain.softmax(x, -1)
    if function is known.log_softmax:
        return chain.softmax(x, -1, log=True)
    if function is getattr(known, "log_sigmoid", None):
        softplus = chain.activation(x.scaled(np.full(x.size, -1.0)), Activation("softplus"))
        return chain.negate(softplus)
    parameters: dict[str, tuple[Any, ...]] = {
        "celu": ("elu", 1.0),
        "elu": ("elu", 1.0),
        "relu6": ("clipped_relu", 6.0),
        "leaky_relu": ("leaky_relu", 0.2),
        "hard_tanh": ("hard_tanh", -1.0, 1.0),
    }
    table = {**{name: (own,) for name, own in _NAMES.items()}, **parameters}
    for name, (own, *values) in table.items():
        if function is getattr(known, name, None):
            return chain.activation(x, Activation(own, *values))
    called = getattr(function, "__name__", type(function).__name__)
    raise Refused(f"its activation {called} is not supported")

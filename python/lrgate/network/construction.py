"""Conversion and checks of arguments from which networks are built."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate import _core, inputs
from lrgate.model.activation import Activation
from lrgate.model.arrays import as_float32
from lrgate.model.layer import Layer

__all__ = [
    "activations_of",
    "changed",
    "check_transposed",
    "have_same_units",
    "input_map",
    "layer_of",
    "listed",
    "not_a_model",
    "one_per_layer",
    "where",
]


def not_a_model(given: Any) -> str:
    """The error message for `Network(given)`, with the call to use instead."""
    message = (
        "Network must be made by Network.load(path) or Network.from_layers([(weight, bias), ...])"
    )
    if given is None:
        return message
    if isinstance(given, _core.Network):
        return f"{message}, got a Network: a Network is immutable: use it directly"
    got = f"{message}, got {type(given).__name__}"
    if isinstance(given, str | os.PathLike):
        return f"{got}: write Network.load({os.fspath(given)!r})"
    if isinstance(given, list | tuple):
        return f"{got}: write Network.from_layers(layers)"
    return got


def where(kept: Sequence[bool], old: list[str], new: list[str]) -> list[str]:
    return [a if keep else b for keep, a, b in zip(kept, old, new, strict=True)]


def one_per_layer(new: Any, old: list[Any], name: str) -> list[Any]:
    """Convert `new` to a list with one entry per layer.

    If `new` is a mapping from layer index, the other layers keep their `old` entry.
    """
    count = len(old)
    if isinstance(new, Mapping):
        result = list(old)
        for i, value in new.items():
            try:
                result[inputs.checked_integer(i, name, 0, count - 1)] = value
            except (TypeError, ValueError):
                message = f"{name} must name layers from 0 to {count - 1}, got {i!r}"
                raise ValueError(message) from None
        return result
    if not isinstance(new, Sequence) or isinstance(new, str):
        raise TypeError(
            f"{name} must be a mapping or a sequence of {name}, got {type(new).__name__}"
        )
    if len(new) != count:
        raise ValueError(f"{name} must have {count} entries, one per layer, got {len(new)}")
    return list(new)


def changed(layer: Layer, name: str, **changes: Any) -> Layer:
    """Replace fields of `layer`; error messages start with `name`."""
    try:
        return replace(layer, **changes)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def have_same_units(one: Layer, other: Layer) -> bool:
    """Whether two forms of a layer compute the same units, in any order."""
    first, second = (
        np.arange(layer.outputs) if layer.kept_units is None else np.sort(layer.kept_units)
        for layer in (one, other)
    )
    return np.array_equal(first, second)


def listed(layers: Any) -> list[Any]:
    if not isinstance(layers, str | bytes | Mapping | np.ndarray):
        try:
            return list(layers)
        except TypeError:
            pass
    raise TypeError(
        "layers must be a sequence of (weight, bias) pairs or of Layer, "
        f"got {type(layers).__name__}"
    )


def check_transposed(layers: Sequence[Layer]) -> None:
    """Reject weights whose shapes match from layer to layer only if they are (in, out)."""
    pairs = list(pairwise(layers))
    if all(a.outputs == b.inputs for a, b in pairs):
        return
    if all(a.inputs == b.outputs for a, b in pairs):
        shapes = ", ".join(str(layer.weight.shape) for layer in layers[:4])
        more = ", ..." * (len(layers) > 4)
        raise ValueError(
            f"layers: weights have shapes {shapes}{more}: this looks like (in, out): pass weight.T"
        )


def activations_of(given: Any, usual: list[Any]) -> list[Activation]:
    """Convert the argument `activations` of `from_layers` to one activation per layer."""
    if given is None:
        given = usual
    elif isinstance(given, str | Activation | Mapping) or _is_one(given):
        one = Activation.parse(given, "activations")
        if one.mixes_units:
            raise ValueError(
                f"activations must have one entry per layer: {one.name} alone would be that of all "
                "layers except the last"
            )
        given = [one] * (len(usual) - 1) + usual[-1:]
    else:
        given = inputs.as_list(given, "activations", "activations")
        if len(given) != len(usual):
            hidden = len(given) == len(usual) - 1
            raise ValueError(
                f"activations must have {len(usual)} entries, one per layer, or be a single name "
                f"for all hidden layers, got {len(given)} entries"
                + ': add that of the last layer, such as "identity"'
                * hidden
            )
    return [Activation.parse(a, f"activations[{i}]") for i, a in enumerate(given)]


def _is_one(given: Any) -> bool:
    """Whether `given` is a name with parameters rather than a sequence of activations."""
    return (
        isinstance(given, tuple)
        and len(given) > 1
        and isinstance(given[0], str)
        and all(isinstance(value, int | float | np.number | np.ndarray) for value in given[1:])
    )


def layer_of(pair: Any, i: int) -> Layer:
    # An array of two rows would unpack into a weight and a bias.
    if isinstance(pair, np.ndarray) and pair.ndim > 0:
        raise TypeError(
            f"layers[{i}] must be (weight, bias) or a Layer, got an array of shape {pair.shape}"
        )
    try:
        weight, bias = pair
    except (TypeError, ValueError):
        got = type(pair).__name__
        if isinstance(pair, tuple | list):
            got += f" of length {len(pair)}"
        raise TypeError(f"layers[{i}] must be (weight, bias) or a Layer, got {got}") from None
    try:
        return Layer(weight, bias, Activation("identity"))
    except (TypeError, ValueError) as error:
        raise type(error)(f"layers[{i}]: {error}") from None


def input_map(value: npt.ArrayLike | None, name: str) -> npt.NDArray[np.float32] | None:
    return None if value is None else as_float32(value, name, "() or (d,)")

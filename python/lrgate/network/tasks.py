"""The task of a network: implied by its layers, declared, or derived from targets."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from lrgate.model.arrays import as_classes, joined
from lrgate.model.layer import Layer
from lrgate.model.model import TASKS, Model
from lrgate.network.interface import Net
from lrgate.types import IntArray

__all__ = ["check_task", "declared", "for_targets", "usual_task"]

N = TypeVar("N", bound=Net)

# Floats up to this are integers without gaps.
_MOST_WHOLE: Final = 2.0**53


def check_task(task: str) -> None:
    if task not in TASKS:
        raise ValueError(f"task must be one of {joined(TASKS)}, got {task!r}")


def usual_task(layers: Sequence[Layer], has_classes: bool) -> str | None:
    """The task implied by classes and the last activation; None if they do not imply one."""
    if has_classes:
        return "classification"
    last = layers[-1] if layers else None
    if last is None or last.activation.name not in ("softmax", "log_softmax", "sigmoid"):
        return None
    several = last.activation.name == "sigmoid" and last.outputs > 1
    return "multilabel" if several else "classification"


def declared(model: Model, task: str | None, classes: npt.ArrayLike | None) -> Model:
    """Set the task and classes of `model`. They must agree with those that it already has."""
    if task is None and classes is None:
        return model
    if task is not None:
        check_task(task)
    labels = None if classes is None else as_classes(classes)
    wanted = task or "classification"
    if model.task not in (None, wanted):
        if labels is None or task is not None:
            rule, got = f"task must be {model.task!r}", repr(task)
        else:
            rule = f"classes must be None for the task {model.task!r}"
            got = reprlib.repr(labels.tolist())
        raise ValueError(
            f"{rule}, as in the file, got {got}: another task takes "
            f"Network.from_layers(net.layers, task={wanted!r})"
        )
    if labels is None:
        labels = model.classes
    elif model.classes is not None and not np.array_equal(labels, model.classes):
        raise ValueError(
            f"classes must be {reprlib.repr(model.classes.tolist())}, as in the file, "
            f"got {reprlib.repr(labels.tolist())}"
        )
    return replace(model, task=wanted, classes=labels)


def for_targets(net: N, y: npt.NDArray[Any]) -> N:
    """Make a network with an undeclared task a classifier if `y` holds labels.

    For a network with k outputs, the classes are 0 to k - 1 if all labels are such integers.
    Otherwise they are the distinct labels in ascending order, of which there must be exactly k.
    Floats are labels if all are whole numbers, and count as integers. A network with one output
    stays a regressor.

    Raises
    ------
    TypeError
        If `y` holds text and the network has one output.
    ValueError
        If the network has several outputs and its declared task is regression, the distinct labels
        do not fit its outputs, or `y` holds floats that are not whole.
    """
    if net.task != "regression" or y.ndim != 1:
        return net
    outputs = net.output_size
    if y.dtype.kind == "f" and outputs > 1:
        y = _whole(y, outputs)
    if y.dtype.kind not in "iubU":
        return net
    if outputs == 1:
        if y.dtype.kind == "U":
            _refuse_text(y)
        return net
    if net._model.task is not None:
        raise ValueError(
            f"y must have shape ({len(y)}, {outputs}) for a regressor, got {y.shape}: for labels "
            'write Network.from_layers(layers, task="classification")'
        )
    found = np.unique(y)
    if y.dtype.kind in "iu" and len(found) and found[0] >= 0 and found[-1] < outputs:
        classes = None
    elif len(found) == outputs:
        classes = as_classes(found)
    else:
        raise ValueError(
            f"y must hold integers from 0 to {outputs - 1} or {outputs} distinct labels for a "
            f"network of {outputs} outputs without classes, got {len(found)} distinct labels, "
            f"{reprlib.repr(found.tolist())}: write Network.from_layers(layers, classes=[...]) or "
            "Network.load(path, classes=[...])"
        )
    return net._with(net.engine, task="classification", classes=classes)


def _whole(y: npt.NDArray[Any], outputs: int) -> IntArray:
    """Floats that are labels, as integers."""
    others = np.flatnonzero((y != np.rint(y)) | ~(np.abs(y) <= _MOST_WHOLE))
    if len(others):
        raise ValueError(
            f"y must have shape ({len(y)}, {outputs}), got ({len(y)},): labels are integers, whole "
            f"numbers, bool or text, but row {others[0]} has {y[others[0]]}"
        )
    return y.astype(np.int64)


def _refuse_text(y: npt.NDArray[np.str_]) -> None:
    found = np.unique(y).tolist()
    classes = repr(found) if len(found) == 2 else "[...]"
    raise TypeError(
        f"y must be an array of real numbers for a regressor, got dtype {y.dtype}: for two classes "
        f"write Network.from_layers(layers, classes={classes})"
    )

"""From the values at the end of a model to a checked network, and the words of refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate.frameworks.assembly import Assembled, assembled
from lrgate.frameworks.chain import Labels
from lrgate.frameworks.errors import Refused, UnsupportedModelError
from lrgate.frameworks.values import Rows
from lrgate.frameworks.verification import difference, wrong_label
from lrgate.network import Network

__all__ = ["Reference", "built", "refusal", "verified"]

# From rows (n, d) float32 to raw outputs (n, k).
Reference = Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]


def built(
    value: Rows | Labels, *, task: str | None = None, classes: npt.ArrayLike | None = None
) -> Network:
    """The network that computes `value`, with the task and classes of the model or the caller.

    Raises
    ------
    Refused
        If the value is not computed by a chain of layers, or weights are not finite.
    ValueError, TypeError
        If `task` or `classes` do not fit.
    """
    rows = value.of if isinstance(value, Labels) else value
    layers = assembled(rows)
    _check_finite(layers)
    if isinstance(value, Labels):
        task = task or value.kind
        if classes is None and task == "classification":
            classes = value.names
    if task in (None, "classification"):
        binary = _two_of_one(rows, layers)
        if binary is not None:
            layers, task = binary, "classification"
    return Network.from_layers(
        layers.layers,
        layers.activations,
        task=task,
        classes=classes,
        input_scale=layers.input_scale,
        input_shift=layers.input_shift,
    )


def _check_finite(layers: Assembled) -> None:
    arrays = [("input_scale", layers.input_scale)]
    arrays.append(("input_shift", layers.input_shift))
    for i, (weight, bias) in enumerate(layers.layers):
        arrays += [(f"layers[{i}].weight", weight), (f"layers[{i}].bias", bias)]
    for name, array in arrays:
        if array is not None and not np.isfinite(array).all():
            raise Refused(f"{name} must be finite, got NaN or numbers too large for float32")


def _two_of_one(rows: Rows, layers: Assembled) -> Assembled | None:
    """The layers without the last, if it makes ``[1 - p, p]`` of one probability p."""
    stage = rows.stage
    if stage.size != 1 or stage.activation is None or stage.activation.name != "sigmoid":
        return None
    weight, bias = layers.layers[-1]
    if weight.ravel().tolist() != [-1.0, 1.0] or bias.tolist() != [1.0, 0.0]:
        return None
    return Assembled(
        layers.layers[:-1], layers.activations[:-1], layers.input_scale, layers.input_shift
    )


def verified(
    net: Network,
    reference: Reference,
    *,
    source: str,
    name: str,
    epsilon: float = float(np.finfo(np.float32).eps),
    whole: tuple[int, int] | None = None,
    labels: Reference | None = None,
) -> Network:
    """Return `net` if its raw outputs on random rows are those of the model itself.

    Parameters
    ----------
    net : Network
    reference : callable
        The model, from rows (n, d) float32 to raw outputs (n, k) or (n,).
    source, name : str
        The framework, and the model's name in messages.
    epsilon : float
        Precision of the reference.
    whole : (int, int), optional
        The least and the greatest whole number of the input's dtype, if it is an integer type.
    labels : callable, optional
        The model's labels for rows (n, d), which are compared with `predict`.

    Raises
    ------
    UnsupportedModelError
        If the outputs differ by more than rounding explains, or the labels.
    """
    found = difference(net, reference, epsilon, whole)
    wrong = None if found is not None or labels is None else wrong_label(net, labels, whole)
    if found is not None:
        reason = f"the network's outputs differ from the model's own by up to {found:.3g}"
    elif wrong is not None:
        theirs, ours = wrong
        reason = f"the network's labels differ from the model's own ({ours!r} for {theirs!r})"
    else:
        return net
    raise UnsupportedModelError(
        f"{name}: {reason} on random rows: please report this model, or pass verify=False",
        source=source,
        reason=reason,
    )


def refusal(
    error: Refused,
    *,
    source: str,
    name: str,
    node: str | None = None,
    op: str | None = None,
    place: tuple[int, int] | None = None,
    matrices: int | None = None,
    noun: str = "node",
) -> UnsupportedModelError:
    """The error for users: which node, which operation, why, and how far the reader came.

    Parameters
    ----------
    error : Refused
    source, name : str
        The framework, and the model's name in messages.
    node, op : str, optional
        Name of the node and its operation.
    place : (int, int), optional
        Number of the node, from 1, and of all nodes.
    matrices : int, optional
        Number of matrices read before the node.
    noun : str, default "node"
        The framework's word for a node.
    """
    reason = str(error)
    where = ""
    if node is not None or op is not None:
        details = [op] if op is not None else []
        if place is not None:
            details.append(f"{place[0]} of {place[1]}")
        quoted = "" if node is None else f'"{node}" '
        where = f" {noun} {quoted}({', '.join(details)}) is not supported:"
    far = ""
    if matrices is not None:
        far = f" ({matrices} {'matrix was' if matrices == 1 else 'matrices were'} read before it)"
    return UnsupportedModelError(
        f"{name}:{where} {reason}{far}", source=source, reason=reason, node=node, op=op
    )

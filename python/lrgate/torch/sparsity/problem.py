"""The rows, the budget and the options of one call of `sparsify`, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lrgate.inputs import checked_rows, label_array
from lrgate.network import Network
from lrgate.network.tasks import for_targets
from lrgate.planner.arguments import check_range, checked_targets
from lrgate.torch.sparsity.student import can_be_sparse

__all__ = ["Parts", "Problem", "check_layers", "classifier_of"]

_LEAST_ROWS: Final = 100
_LEAST_HELD: Final = 50

# The share of the rows that train, if there are no others to validate, and that of the held-out
# ones that choose; the rest checks.
_TRAIN_SHARE: Final = 0.6
_CHOOSE_SHARE: Final = 0.4


@dataclass(frozen=True, eq=False)
class Parts:
    """Rows that train, choose and check, and their targets."""

    train: Any
    choose: Any
    check: Any
    train_targets: npt.NDArray[Any] | None
    choose_targets: npt.NDArray[Any] | None
    check_targets: npt.NDArray[Any] | None

    @classmethod
    def of(cls, net: Network, x: Any, y: Any, x_val: Any, y_val: Any, seed: int) -> Parts:
        """Rows and labels as users give them, for a network whose task is known."""
        if x_val is None and y_val is not None:
            raise ValueError("y_val must be None without x_val")
        if x_val is not None and (y is None) != (y_val is None):
            raise ValueError(
                "y and y_val must both be given, or neither: got only "
                + ("y_val" if y is None else "y")
            )
        if x_val is not None and x_val is x:
            raise ValueError("x_val must share no rows with x")
        rows = checked_rows(x, net.input_size, _LEAST_ROWS)
        check_range(rows, net)
        targets = _targets(net, y, rows.shape[0], "y")
        rng = np.random.default_rng(seed)
        if x_val is None:
            order = rng.permutation(rows.shape[0])
            first = int(_TRAIN_SHARE * len(order))
            held, held_targets = rows, targets
            train, others = order[:first], order[first:]
        else:
            try:
                held = checked_rows(x_val, net.input_size, _LEAST_HELD)
                check_range(held, net)
            except (TypeError, ValueError) as error:
                raise type(error)(f"x_val: {error}") from None
            held_targets = _targets(net, y_val, held.shape[0], "y_val")
            train, others = np.arange(rows.shape[0]), rng.permutation(held.shape[0])
        choose, check = np.split(others, [int(_CHOOSE_SHARE * len(others))])
        return cls(
            rows[train] if x_val is None else rows,
            held[choose],
            held[check],
            None if targets is None else targets[train],
            None if held_targets is None else held_targets[choose],
            None if held_targets is None else held_targets[check],
        )

    def arrays(self) -> list[Any]:
        """All rows and targets."""
        return list(vars(self).values())


@dataclass(frozen=True, eq=False)
class Problem:
    """One call.

    Attributes
    ----------
    net : Network
        The given network, without gates.
    parts : Parts
    budget, confidence : float
    epochs, batch_size : int
    learning_rate : float
    augment : callable, optional
    seed : int
    bar : progress bar
    notes : list of str
        For the report.
    """

    net: Network
    parts: Parts
    budget: float
    confidence: float
    epochs: int
    batch_size: int
    learning_rate: float
    augment: Callable[[Tensor], Tensor] | None
    seed: int
    bar: Any
    notes: list[str] = field(default_factory=list)


def classifier_of(net: Network, y: Any) -> Network:
    """The network, a classifier if its task is open and `y` holds labels."""
    return net if y is None else for_targets(net, label_array(y))


def check_layers(net: Network, relufy: bool) -> None:
    """Refuse a network whose hidden outputs cannot be 0."""
    hidden = [layer.activation for layer in net.layers[:-1]]
    if not any(each.name != "identity" for each in hidden):
        raise ValueError("model must have a hidden layer with an activation")
    for i, activation in enumerate(hidden):
        if activation.name == "identity" or can_be_sparse(activation):
            continue
        where = f"layer {i} has {activation}"
        if activation.mixes_units:
            raise ValueError(f"model must have activations of single units, but {where}")
        if not relufy:
            raise ValueError(
                f"model must have activations that are 0 for many inputs, such as relu, but "
                f"{where}: relufy=True moves it to relu first"
            )


def _targets(net: Network, y: Any, rows: int, name: str) -> npt.NDArray[Any] | None:
    if y is None:
        return None
    try:
        targets = checked_targets(net, label_array(y), rows)
    except (TypeError, ValueError) as error:
        text = str(error)
        raise type(error)(text if name == "y" else f"y_val: {text}") from None
    if len(targets) and (targets == targets[0]).all():
        raise ValueError(f"{name} must not be the same in all rows: nothing can be learnt from it")
    return targets

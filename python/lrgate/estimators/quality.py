"""What a gate computes and what it loses, on rows held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrgate.estimators.checks import check_gate, checked_offset
from lrgate.estimators.products import activate, product_with
from lrgate.estimators.rows import Rows, checked_inputs, chunks
from lrgate.model.layer import Gate, Layer

__all__ = [
    "GateReport",
    "evaluate",
]


@dataclass(frozen=True)
class GateReport:
    """What a gate does to its layer on some rows.

    Attributes
    ----------
    recall : float
        Share of the units with a positive output that the gate lets through; 1 where there are
        none.
    computed_share : float
        Share of all units that the gate lets through.
    lost_energy : float
        Sum of squares of the positive outputs that the gate drops, over the sum of squares of all
        positive outputs; 0 where there are none.
    rows : int
        Number of rows it was judged on.
    rank : int
        The gate's.
    """

    recall: float
    computed_share: float
    lost_energy: float
    rows: int
    rank: int

    def __str__(self) -> str:
        return (
            f"rank {self.rank}: recall {self.recall:.4f}, "
            f"computed share {self.computed_share:.4f}, lost energy {self.lost_energy:.5f} "
            f"({self.rows} row{'s' * (self.rows != 1)})"
        )


def evaluate(layer: Layer, gate: Gate, inputs: Rows) -> GateReport:
    """Evaluator a gate on rows, which should be none that it was fitted on.

    Parameters
    ----------
    layer : Layer
        With relu, clipped_relu or thresholded_relu; a gate that it has already is not looked at.
    gate : Gate
    inputs : array_like, CSR or SparseInputs of shape (n, in)
        Rows as they reach this layer, one or more.

    Returns
    -------
    GateReport

    Raises
    ------
    ValueError
        For a layer with another activation, or a weight that is empty or not finite; for a gate of
        other widths; for inputs of another width, no rows, or a row with a value that is not
        finite.
    TypeError
        For a layer or gate of another type, or inputs that are not real numbers.

    Examples
    --------
    >>> from lrgate import Activation
    >>> from lrgate.estimators import svd
    >>> layer = Layer(np.eye(2), np.zeros(2), Activation("relu"))
    >>> print(evaluate(layer, svd(layer).gate(2), [[1, -1], [2, 1]]))
    rank 2: recall 1.0000, computed share 0.7500, lost energy 0.00000 (2 rows)
    """
    checked_offset(layer)
    check_gate(layer, gate)
    rows = checked_inputs(layer, inputs, "evaluate", 1)
    product = product_with(layer)
    bias = layer.bias.astype(np.float64)
    u, v, c = (part.astype(np.float64) for part in (gate.u, gate.v, gate.bias))
    active_count = found_count = computed_count = 0
    energy = lost = 0.0
    for _, chunk in chunks(rows, layer.inputs, 2 * layer.outputs):
        output = activate(layer.activation, product(chunk) + bias)
        computed = chunk @ u @ v + c > 0
        # Under a threshold below 0 an output may be negative; dropping it is a loss all the same.
        active = output != 0
        active_count += int(np.count_nonzero(active))
        found_count += int(np.count_nonzero(active & computed))
        computed_count += int(np.count_nonzero(computed))
        energy += float(np.sum(np.square(output)))
        lost += float(np.sum(np.square(output[~computed])))
    return GateReport(
        recall=found_count / active_count if active_count else 1.0,
        computed_share=computed_count / (len(rows) * layer.outputs),
        lost_energy=lost / energy if energy else 0.0,
        rows=len(rows),
        rank=gate.rank,
    )

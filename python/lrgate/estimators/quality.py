"""Evaluation of a gate on held-out rows: computed share, recall and lost energy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrgate.estimators.checks import check_gate, checked_offset
from lrgate.estimators.products import product_with
from lrgate.estimators.rows import Rows, checked_inputs, chunks
from lrgate.model.layer import Gate, Layer

__all__ = [
    "GateReport",
    "evaluate",
]


@dataclass(frozen=True)
class GateReport:
    """Quality of a gate on a set of rows.

    Attributes
    ----------
    recall : float
        Share of the active units (with a non-zero output) that the gate computes; 1 if no unit is
        active.
    computed_share : float
        Share of all units that the gate computes.
    lost_energy : float
        Sum of squares of the outputs that the gate drops, divided by the sum of squares of all
        outputs; 0 if no unit is active.
    rows : int
        Number of rows of the evaluation.
    rank : int
        Rank of the gate.
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
    """Evaluate a gate on rows to which it was not fitted.

    Parameters
    ----------
    layer : Layer
        A layer with relu, clipped_relu, thresholded_relu or squared_relu. A gate of the
        layer is ignored.
    gate : Gate
    inputs : array_like or scipy.sparse of shape (n, in)
        Inputs of this layer, at least one row.

    Returns
    -------
    GateReport

    Raises
    ------
    ValueError
        If `layer` has another activation, or weights or biases that are empty or not finite; if the
        widths of `gate` or `inputs` do not match; if `inputs` has no rows or a non-finite value.
    TypeError
        If `layer` or `gate` has a wrong type, or `inputs` are not real numbers.

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
        output = layer.activation.gated(product(chunk) + bias)
        computed = chunk @ u @ v + c > 0
        # With a negative threshold an output may be negative; dropping it is a loss, too.
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

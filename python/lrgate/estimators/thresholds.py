"""Each unit's threshold, for a lost energy or a computed share."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.estimators.checks import check_finite, check_gate, checked_offset
from lrgate.estimators.hull import hull_corners
from lrgate.estimators.products import float32_outputs
from lrgate.estimators.rows import CHUNK_VALUES, Rows, checked_inputs, chunks
from lrgate.inputs import checked_share
from lrgate.model.layer import Gate, Layer
from lrgate.types import Float64Array

__all__ = [
    "ThresholdPath",
    "fit_thresholds",
]


# A unit matters if it has this share of the energy of the mean unit, or more; thresholds then leave
# it this share of its own energy, or more.
_MATTERS: Final = 0.03
_LEAST_KEPT: Final = 0.5


class ThresholdPath:
    """The thresholds of a gate for every target: from few computed units to all that are not zero.

    `fit_thresholds` says how they are chosen; this is for more than one target on the same rows,
    which are sorted once. Each step along the path lowers the threshold of one unit, the one that
    saves most energy for each row on which it is then computed. A path never changes.

    Parameters
    ----------
    layer : Layer
        With relu, clipped_relu or thresholded_relu; a gate that it has already is not looked at.
    gate : Gate
        Its bias, and so whatever thresholds it has, is not looked at.
    inputs : array_like, CSR or SparseInputs of shape (n, in)
        Rows as they reach this layer, two or more, and none that the gate was fitted on.
    outputs : float32 array of shape (n, out), optional
        The layer's outputs on these rows, after its activation, where they are at hand: they need
        not be computed again for each gate.

    Attributes
    ----------
    lost_energy, computed_share : float64 array of shape (steps + 1,)
        On these rows, before the first step and after each. The last lost energy is 0.
    rows : int
        Their number.

    Raises
    ------
    ValueError
        For a layer with another activation, or a weight that is empty or not finite; for a gate of
        other widths or not finite; for inputs of another width, fewer than 2 rows, or a row with a
        value that is not finite.
    TypeError
        For a layer or gate of another type, or inputs that are not real numbers.

    Examples
    --------
    >>> from lrgate import Activation
    >>> from lrgate.estimators import evaluate, svd
    >>> layer = Layer(np.eye(2), np.zeros(2), Activation("relu"))
    >>> rows = [[2, 1], [1, -1], [-1, -2], [-2, 2]]
    >>> path = ThresholdPath(layer, svd(layer).gate(2), rows)
    >>> path
    ThresholdPath(2 -> 2, rank 2, computed share 0.2500 to 0.5000, lost energy 0.20000 to 0, 4 rows)
    >>> for share in (0.25, 0.4):
    ...     print(evaluate(layer, path.gate(computed_share=share), rows))
    rank 2: recall 0.5000, computed share 0.2500, lost energy 0.20000 (4 rows)
    rank 2: recall 0.7500, computed share 0.3750, lost energy 0.10000 (4 rows)
    """

    def __init__(
        self,
        layer: Layer,
        gate: Gate,
        inputs: Rows,
        outputs: npt.NDArray[Any] | None = None,
    ) -> None:
        checked_offset(layer)
        check_gate(layer, gate)
        check_finite("gate.u", gate.u)
        check_finite("gate.v", gate.v)
        rows = checked_inputs(layer, inputs, "a fit of thresholds", 2)
        if outputs is None:
            outputs = float32_outputs(layer, rows)
        elif outputs.shape != (len(rows), layer.outputs):
            expected = len(rows), layer.outputs
            raise ValueError(f"outputs must have shape {expected}, got {outputs.shape}")
        components = np.empty((len(rows), gate.rank))
        u = gate.u.astype(np.float64)
        for some, chunk in chunks(rows, layer.inputs):
            components[some] = chunk @ u
        energies = np.zeros(layer.outputs)
        step = max(1, CHUNK_VALUES // layer.outputs)
        for first in range(0, len(rows), step):
            energies += np.square(outputs[first : first + step], dtype=np.float64).sum(axis=0)
        matter = energies >= _MATTERS * energies.mean()
        may_lose = np.where(matter, (1 - _LEAST_KEPT) * energies, np.inf)

        corners = []
        step = max(1, CHUNK_VALUES // len(rows))
        for first in range(0, layer.outputs, step):
            some = slice(first, first + step)
            unit_energy = np.square(outputs[:, some].T, dtype=np.float64, order="C")
            scores = gate.v[:, some].T @ components.T
            units, *rest = hull_corners(scores, unit_energy, may_lose[some])
            corners.append((units + first, *rest))
        units, computed, lost, thresholds = map(np.concatenate, zip(*corners, strict=True))

        # A step is from one corner of a unit to its next. A multiplier for the whole layer takes
        # all steps that save more for each row than it, so these stand in one order.
        starts = np.append(True, units[1:] != units[:-1])
        ends = np.flatnonzero(~starts)
        added, saved = computed[ends] - computed[ends - 1], lost[ends - 1] - lost[ends]
        order = np.argsort(-saved / added, kind="stable")
        ends, added, saved = ends[order], added[order], saved[order]
        self._start = Gate(gate.u, gate.v, -thresholds[starts])
        self._units, self._biases = units[ends], -thresholds[ends]
        self.lost_energy: Float64Array = np.append(np.cumsum(saved[::-1])[::-1], 0.0)
        self.lost_energy /= float(energies.sum()) or 1.0
        self.computed_share: Float64Array = np.cumsum(np.append(computed[starts].sum(), added))
        self.computed_share = self.computed_share / (len(rows) * layer.outputs)
        self.rows = len(rows)

    def gate(
        self, *, lost_energy: float | None = None, computed_share: float | None = None
    ) -> Gate:
        """The gate with the thresholds for one of two targets, as of `fit_thresholds`.

        Parameters
        ----------
        lost_energy, computed_share : float, optional

        Returns
        -------
        Gate

        Raises
        ------
        ValueError
            For both targets, neither, or one that is not from 0 to 1.
        TypeError
            For a target that is no number.
        """
        if (lost_energy is None) == (computed_share is None):
            came = "neither" if lost_energy is None else "both"
            raise ValueError(f"expected either lost_energy or computed_share, got {came}")
        if lost_energy is not None:
            target = checked_share(lost_energy, "lost_energy")
            steps = int(np.searchsorted(-self.lost_energy, -target))
        else:
            target = checked_share(computed_share, "computed_share")
            steps = max(0, int(np.searchsorted(self.computed_share, target, side="right")) - 1)
        bias = self._start.bias.copy()
        bias[self._units[:steps]] = self._biases[:steps]  # of a unit's steps the last one holds
        return Gate(self._start.u, self._start.v, bias)

    def __repr__(self) -> str:
        gate = self._start
        return (
            f"ThresholdPath({gate.inputs} -> {gate.outputs}, rank {gate.rank}, "
            f"computed share {self.computed_share[0]:.4f} to {self.computed_share[-1]:.4f}, "
            f"lost energy {self.lost_energy[0]:.5f} to 0, {self.rows} rows)"
        )


def fit_thresholds(
    layer: Layer,
    gate: Gate,
    inputs: Rows,
    *,
    lost_energy: float | None = None,
    computed_share: float | None = None,
) -> Gate:
    """Give each unit its own threshold, by equal marginal lost energy on rows held out.

    Each unit is computed on the rows of its highest scores, on how many is chosen: such that lost
    energy plus a multiplier times the number of computed units is least, with one multiplier for
    the layer, the one that meets the target. No other choice loses less with as few computed units.
    Thresholds lie midway between neighbouring scores. The layer's outputs are those of float32.

    - No unit that matters is switched off for good: it loses at most half of its energy on these
      rows. It matters if it has at least 3 % of the mean unit's energy. The others, with less than
      0.3 % of a layer's energy in all on networks trained on MNIST, may be lost whole: to keep half
      of that, on rows of low scores, can cost more computed units than all the rest.
    - A unit whose outputs on these rows are all zero gets a threshold just above its largest score.

    Parameters
    ----------
    layer : Layer
        With relu, clipped_relu or thresholded_relu; a gate that it has already is not looked at.
    gate : Gate
        Its bias is replaced, so it does not matter which thresholds it has.
    inputs : array_like, CSR or SparseInputs of shape (n, in)
        Rows as they reach this layer, two or more, and none that the gate was fitted on. Thresholds
        fit these rows better than others: where a unit is positive on few of them, much better.
    lost_energy : float, optional
        From 0 to 1: compute as few units as lose no more.
    computed_share : float, optional
        From 0 to 1: lose as little energy as computing no more units allows. Where more are needed
        to keep half the energy of each unit that matters, these are computed.

    Returns
    -------
    Gate

    Raises
    ------
    ValueError
        For a layer with another activation, or a weight that is empty or not finite; for a gate of
        other widths or not finite; for inputs of another width, fewer than 2 rows, or a row with a
        value that is not finite; for both targets, neither, or one out of range.
    TypeError
        For a layer or gate of another type, inputs that are not real numbers, or a target that is
        no number.

    Examples
    --------
    >>> from lrgate import Activation
    >>> from lrgate.estimators import evaluate, svd
    >>> layer = Layer(np.eye(2), np.zeros(2), Activation("relu"))
    >>> rows = [[2, 1], [1, -1], [-1, -2], [-2, 2]]
    >>> gate = fit_thresholds(layer, svd(layer).gate(2), rows, lost_energy=0.15)
    >>> print(evaluate(layer, gate, rows))
    rank 2: recall 0.7500, computed share 0.3750, lost energy 0.10000 (4 rows)
    """
    path = ThresholdPath(layer, gate, inputs)
    return path.gate(lost_energy=lost_energy, computed_share=computed_share)

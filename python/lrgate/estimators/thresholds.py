"""Thresholds of the units of a gate, for a given lost energy or computed share."""

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


# A unit matters if its energy is at least this share of the mean energy of the units. Thresholds
# preserve at least the second share of its energy.
_MATTERS: Final = 0.03
_LEAST_KEPT: Final = 0.5


class ThresholdPath:
    """The thresholds of a gate for all targets, from few computed units to all non-zero units.

    `fit_thresholds` documents the method. Use this class for several targets on the same rows: the
    rows are sorted only once. Each step along the path lowers the threshold of one unit, namely the
    unit that saves the most energy per additionally computed row. A path is immutable.

    Parameters
    ----------
    layer : Layer
        A layer with relu, clipped_relu, thresholded_relu or squared_relu. A gate of the
        layer is ignored.
    gate : Gate
        A gate whose bias, and with it any threshold, is ignored.
    inputs : array_like or scipy.sparse of shape (n, in)
        Inputs of this layer, at least two rows, to which the gate was not fitted.
    outputs : float32 array of shape (n, out), optional
        Outputs of the layer on these rows, after the activation. If given, they are not recomputed.

    Attributes
    ----------
    lost_energy, computed_share : float64 array of shape (steps + 1,)
        Values on these rows, before the first step and after each step. The last lost energy is 0.
    rows : int
        Number of rows.

    Raises
    ------
    ValueError
        If `layer` has another activation, or weights or biases that are empty or not finite; if
        `gate` has wrong widths or is not finite; if `inputs` has a wrong width, fewer than 2 rows
        or a non-finite value; if `outputs` has a wrong shape.
    TypeError
        If `layer` or `gate` has a wrong type, or `inputs` are not real numbers.

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

        # A step leads from one corner of a unit to the next. A multiplier for the whole layer takes
        # all steps that save more energy per row than the multiplier, so steps can be sorted.
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
        """Return the gate with the thresholds for one of two targets; see `fit_thresholds`.

        Parameters
        ----------
        lost_energy, computed_share : float, optional
            The target; exactly one must be given.

        Returns
        -------
        Gate

        Raises
        ------
        ValueError
            If both targets or none are given, or the target is not from 0 to 1.
        TypeError
            If the target is not a number.
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
        bias[self._units[:steps]] = self._biases[:steps]  # the last step of a unit wins
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
    """Choose a threshold for each unit, by equal marginal lost energy on held-out rows.

    Each unit is computed on its rows with the highest scores. The number of these rows minimises
    the lost energy plus a multiplier times the number of computed units. The multiplier is the same
    for all units of the layer and is chosen to meet the target. No other choice loses less energy
    with as few computed units. Thresholds are midway between adjacent scores. The outputs of the
    layer are computed in float32.

    - No unit that matters is switched off permanently: it loses at most half of its energy on these
      rows. A unit matters if it has at least 3 % of the mean energy of the units. The energy of the
      others (less than 0.3 % of the energy of a layer, on networks trained on MNIST) may be lost
      entirely. Keeping half of it, on rows with low scores, can cost more computed units than all
      other units together.
    - A unit whose outputs on these rows are all zero gets a threshold just above its largest score.

    Parameters
    ----------
    layer : Layer
        A layer with relu, clipped_relu, thresholded_relu or squared_relu. A gate of the
        layer is ignored.
    gate : Gate
        A gate whose bias, and with it any threshold, is replaced.
    inputs : array_like or scipy.sparse of shape (n, in)
        Inputs of this layer, at least two rows, to which the gate was not fitted. The thresholds
        fit these rows better than other rows, especially for units that are active on few of them.
    lost_energy : float, optional
        From 0 to 1: compute the fewest units that lose at most this share of the energy.
    computed_share : float, optional
        From 0 to 1: lose the least energy with at most this share of the units computed. More are
        computed if that is needed to keep half of the energy of each unit that matters.

    Returns
    -------
    Gate

    Raises
    ------
    ValueError
        If `layer` has another activation, or weights or biases that are empty or not finite; if
        `gate` has wrong widths or is not finite; if `inputs` has a wrong width, fewer than 2 rows
        or a non-finite value; if both targets or none are given, or the target is out of range.
    TypeError
        If `layer` or `gate` has a wrong type, `inputs` are not real numbers, or the target is not a
        number.

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

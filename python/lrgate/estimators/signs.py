"""An estimate trained to the sign itself, by a weighted logistic loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeGuard

import numpy as np

from lrgate.estimators.adam import batch_size, train
from lrgate.estimators.base import Estimate
from lrgate.estimators.checks import (
    check_widths,
    checked_offset,
    checked_ranks,
    parameter_of,
)
from lrgate.estimators.products import activate, pre_activations, row_product, unit_weight
from lrgate.estimators.rows import (
    CheckedRows,
    Rows,
    centred_rows,
    checked_inputs,
    clipped_float32,
    scaled_rows,
)
from lrgate.estimators.whitening import whitened
from lrgate.inputs import checked_integer
from lrgate.inputs.sparse import SparseInputs
from lrgate.model.activation import Activation
from lrgate.model.layer import Layer
from lrgate.types import Float32Array, Float64Array

__all__ = [
    "logistic",
]


# About how many operations `logistic` takes at most: ten seconds on one core. Fewer epochs are then
# made of it, but not fewer than this; then fewer rows.
_MOST_WORK: Final = 2e11
_LEAST_EPOCHS: Final = 5

# Sparse rows of more values than this are trained on in their leading directions, this many, of
# this many rows at most.
_DENSE_VALUES: Final = 1 << 24
_DIRECTIONS: Final = 512
_SPARSE_ROWS: Final = 2000


def logistic(
    layer: Layer,
    inputs: Rows,
    ranks: Sequence[int],
    *,
    start: Estimate | None = None,
    seed: int = 0,
    epochs: int = 20,
) -> Estimate:
    """An estimate trained to the sign itself, where a missed unit costs what is lost with it.

    `whitened` spends its rank on whole pre-activations, also on how far below 0 they are. Here its
    factors and offset are trained further, on the weighted logistic loss
    ``sum w log(1 + exp(-t s / T))`` of scores s and signs t:

    - A positive unit weighs its squared output, which is the energy lost without it; a unit that is
      zero weighs the same as any other. The two kinds are balanced so that, at the start, they pull
      at the scores with equal force. Then about as many units are computed as at the start, and
      training improves the choice of them. (Balanced by their sums of weights instead, the computed
      share drifts, on trained networks to between 0.8 and 1.9 times the start's, and at an equal
      share no less is lost.)
    - The temperature T is half the root mean square error of the start.
    - The rows of a minibatch are estimated at the `ranks` by turns, so that the first factors serve
      all of them. Each rank has its own balance and temperature, and pulls at s / T as the others.
    - To each row a fifth of the difference of two others is added: the layer tells the outputs of
      any row, and so the fit cannot learn a few thousand of them by heart.
    - Of wide sparse rows, U is trained in their leading directions alone, and stays elsewhere.

    Parameters
    ----------
    layer : Layer
        With relu, clipped_relu or thresholded_relu.
    inputs : array_like, CSR or SparseInputs of shape (n, in)
        Rows as they reach this layer, more than the largest rank; it takes thousands to gain on
        other rows what is gained on these.
    ranks : sequence of int
        The ranks at which gates will be cut, each from 1 to ``min(in, out)``. The fewer, the better
        the fit at each.
    start : Estimate, optional
        One of this layer, with a max_rank of at least the largest of `ranks`. By default
        `whitened` on the same rows.
    seed : int, default 0
        Of the order of the rows: the same seed gives the same fit.
    epochs : int, default 20
        How often each row is seen; less often where it would take more than some seconds, and of
        more rows than that time is enough for, some are drawn.

    Returns
    -------
    Estimate
        Its max_rank is the largest of `ranks`. Trained in float32.

    Raises
    ------
    ValueError
        For a layer with another activation, or a weight that is empty or not finite; for inputs of
        another width, fewer rows than the largest rank needs, or a row with a value that is not
        finite; for ranks that are none or out of range; for a start of other widths or too small a
        max_rank; for a seed below 0 or epochs below 1.
    TypeError
        For a layer or start of another type, inputs that are not real numbers, or ranks, a seed or
        epochs that are no integers.

    References
    ----------
    All ranks at once: Rippel, Gelbart and Adams, "Learning Ordered Representations with Nested
    Dropout", ICML 2014. Rows with a share of others: Zhang, Cisse, Dauphin and Lopez-Paz, "mixup:
    Beyond Empirical Risk Minimization", ICLR 2018.

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(100, 3))
    >>> logistic(Layer(np.eye(3), np.zeros(3), Activation("relu")), rows, ranks=(1, 2))
    Estimate(logistic, 3 -> 3, max_rank 2)
    """
    offset = checked_offset(layer)
    ranks = checked_ranks(layer, ranks)
    seed = checked_integer(seed, "seed", 0)
    epochs = checked_integer(epochs, "epochs")
    most = ranks[-1]
    rows = checked_inputs(layer, inputs, f"rank {most}", most + 1)
    if start is None:
        start = whitened(layer, rows, most)
    else:
        _check_start(layer, start, most)
    epochs, count = _affordable(layer, rows, most, epochs)
    if count < len(rows):
        rows = rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])]
    space = _RowSpace(rows, start.mean) if _is_huge(rows) else None
    # In units of the largest input and the largest pre-activation, so that squares fit float32.
    if space is None:
        x, input_unit = centred_rows(rows, start.mean)
        near, weight_unit = unit_weight(layer)
        margins, pre_unit = x @ near, input_unit * weight_unit
        first_u, u_unit = scaled_rows(start.u[:, :most])
    else:
        x, input_unit = scaled_rows(space.coordinates)
        margins, pre_unit = pre_activations(layer, rows, start.mean)
        first_u, u_unit = scaled_rows(space.of(start.u[:, :most]))
    margins += ((offset + row_product(layer, start.mean)) / pre_unit).astype(np.float32)
    margins, margin_unit = scaled_rows(margins)
    unit = margin_unit * pre_unit
    size = np.ones(most)
    if space is not None:
        # Components of deviation 1, as training makes them: then it keeps the scale of U's columns,
        # which have a part outside of the space.
        size = np.maximum((x @ first_u).std(axis=0), np.float32(1e-6)).astype(np.float64)
    first_v = start.v[:most] * (size * (input_unit * u_unit / unit))[:, None]
    u, v, trained = train(
        x,
        margins,
        _energy_of(layer.activation, unit),
        (
            (first_u / size).astype(np.float32),
            clipped_float32(first_v),
            clipped_float32(start.offset / unit),
        ),
        ranks,
        seed,
        epochs,
    )
    whole_u = u.astype(np.float64) / input_unit
    if space is not None:
        began = start.u[:, :most] / (u_unit * size * input_unit)
        whole_u = began + space.back(whole_u - space.of(began))
    return Estimate(
        "logistic",
        whole_u,
        v.astype(np.float64) * unit,
        start.mean,
        trained.astype(np.float64) * unit,
        len(rows),
    )


def _energy_of(activation: Activation, unit: float) -> Callable[[Float32Array], Float32Array]:
    """Squared output by the distance from the switching point, both in units of `unit`."""
    switch = 0.0
    if activation.parameter is not None:
        activation = Activation(activation.name, parameter_of(activation) / unit)
        if activation.name == "thresholded_relu":
            switch = parameter_of(activation)

    def energy(margins: Float32Array) -> Float32Array:
        output = activate(activation, margins + np.float32(switch) if switch else margins)
        output *= output
        return output

    return energy


def _check_start(layer: Layer, start: Estimate, rank: int) -> None:
    if not isinstance(start, Estimate):
        raise TypeError(f"start must be of type Estimate, got {type(start).__name__}")
    check_widths("start", layer, start.u.shape[0], start.v.shape[1])
    if start.max_rank < rank:
        raise ValueError(f"start must have a max_rank of at least {rank}, got {start.max_rank}")


class _RowSpace:
    """Sparse rows in their leading directions: few coordinates for many columns."""

    def __init__(self, rows: SparseInputs, mean: Float64Array) -> None:
        self._rows, self._shift = rows.unshifted(), rows.shift() - mean
        products = np.asarray((self._rows @ self._rows.T).todense(), np.float64)
        common = np.asarray(self._rows @ self._shift)
        products += common[:, None] + common + self._shift @ self._shift
        values, vectors = np.linalg.eigh(products)
        values, vectors = values[::-1][:_DIRECTIONS], vectors[:, ::-1][:, :_DIRECTIONS]
        live = values > 1e-9 * max(float(values[0]), 0.0)
        live[0] = True
        self._roots = np.sqrt(np.maximum(values[live], np.finfo(np.float64).tiny))
        self._left = vectors[:, live]
        self.coordinates: Float64Array = self._left * self._roots

    def of(self, u: Float64Array) -> Float64Array:
        """Coordinates (directions, k) of columns (in, k)."""
        seen = np.asarray(self._rows @ u) + self._shift @ u
        coordinates: Float64Array = (self._left.T @ seen) / self._roots[:, None]
        return coordinates

    def back(self, coordinates: Float64Array) -> Float64Array:
        """Columns (in, k) of coordinates (directions, k)."""
        by_row = self._left @ (coordinates / self._roots[:, None])
        columns: Float64Array = np.asarray(self._rows.T @ by_row)
        return columns + np.outer(self._shift, by_row.sum(axis=0))


def _is_huge(rows: CheckedRows) -> TypeGuard[SparseInputs]:
    """Whether the rows would take much more memory if they were dense."""
    return isinstance(rows, SparseInputs) and rows.shape[0] * rows.shape[1] > _DENSE_VALUES


def _affordable(layer: Layer, rows: CheckedRows, rank: int, epochs: int) -> tuple[int, int]:
    """Epochs and rows of a training that takes no more than some seconds."""
    n, d, h = len(rows), layer.inputs, layer.outputs
    product = 2.0 * d * h
    if isinstance(rows, SparseInputs):
        product = 2.0 * rows.rows.nnz / n * h
        if _is_huge(rows):
            n, d = min(n, max(_SPARSE_ROWS, rank + 1)), _DIRECTIONS
    batch = batch_size(n)
    # Products there and back, elementwise work on scores and inputs, a step's on parameters.
    epoch = (d + h) * (4.0 * rank + 8 + 30.0 * rank / batch) + 60.0 * h
    fewer = (_MOST_WORK / n - product) / epoch
    epochs = min(epochs, max(int(fewer), _LEAST_EPOCHS))
    return epochs, min(n, max(int(_MOST_WORK / (product + epochs * epoch)), rank + 1))

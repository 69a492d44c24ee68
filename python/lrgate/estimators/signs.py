"""An estimate trained on signs with a weighted logistic loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeGuard

import numpy as np

from lrgate.estimators.adam import batch_size, train
from lrgate.estimators.base import Estimate
from lrgate.estimators.checks import (
    FLOAT32_MAX,
    check_widths,
    checked_offset,
    checked_ranks,
)
from lrgate.estimators.products import pre_activations, row_product, unit_weight
from lrgate.estimators.rows import (
    CheckedRows,
    Rows,
    centred_rows,
    checked_inputs,
    clipped_float32,
    scaled_rows,
)
from lrgate.estimators.waiting import waited
from lrgate.estimators.whitening import whitened
from lrgate.inputs import checked_integer
from lrgate.inputs.sparse import SparseInputs
from lrgate.model.activation import Activation
from lrgate.model.layer import Layer
from lrgate.types import Float32Array, Float64Array

__all__ = [
    "logistic",
]


# Approximate limit on the operations of `logistic`: ten seconds on one core. If training would take
# more, it uses fewer epochs, but at least this many, and then fewer rows.
_MOST_WORK: Final = 2e11
_LEAST_EPOCHS: Final = 5

# Sparse rows with more values than this, if they were dense, are projected on their leading
# directions for training: on this many directions, with at most this many rows.
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
    """Train an estimate on the signs; a missed unit is weighted by the energy that it loses.

    `whitened` approximates whole pre-activations, including the magnitude of negative ones. This
    function trains the factors and offset of `whitened` further, with the weighted logistic loss
    ``sum w log(1 + exp(-t s / T))`` of scores s and signs t:

    - The weight of a positive unit is its squared output, which is the energy lost without it. All
      units that are zero have the same weight. The weights of both kinds are balanced such that
      their gradients with respect to the scores are initially equal. The number of computed units
      then stays about constant, and training improves their choice. (If the sums of weights are
      balanced instead, the computed share drifts, on trained networks to between 0.8 and 1.9 times
      the initial share, and no less energy is lost at an equal share.)
    - The temperature T is half the root mean square error of the initial estimate.
    - The rows of a minibatch use the `ranks` in turn, so that the first factors serve all ranks.
      Each rank has its own balance and temperature; their gradients with respect to s / T are
      equal.
    - A fifth of the difference of two other rows is added to each row. The layer gives the outputs
      of any row, so the fit cannot memorise a few thousand rows.
    - For wide sparse rows, U is trained only in their leading directions; the rest is unchanged.

    Parameters
    ----------
    layer : Layer
        A layer with relu, clipped_relu, thresholded_relu or squared_relu.
    inputs : array_like or scipy.sparse of shape (n, in)
        Inputs of this layer, more rows than the largest rank. Thousands of rows are needed for the
        improvement to generalise to other rows.
    ranks : sequence of int
        The ranks at which gates will be cut, each from 1 to ``min(in, out)``. With fewer ranks the
        fit at each is better.
    start : Estimate, optional
        Initial estimate of this layer, whose max_rank is at least the largest of `ranks`. By
        default, `whitened` on the same rows.
    seed : int, default 0
        Seed of the order of the rows. The same seed gives the same fit.
    epochs : int, default 20
        Number of passes over the rows. If training would take more than a few seconds, fewer epochs
        and then a sample of the rows are used.

    Returns
    -------
    Estimate
        An estimate whose max_rank is the largest of `ranks`, trained in float32. If float32 cannot
        hold the result, as with rows of subnormal size, it has the factors of `start`.

    Raises
    ------
    ValueError
        If `layer` has another activation, or weights or biases that are empty or not finite; if
        `inputs` has a wrong width, too few rows for the largest rank or a non-finite value; if
        `ranks` is empty or out of range; if `start` has wrong widths or too small a max_rank; if
        `seed` is below 0 or `epochs` below 1.
    TypeError
        If `layer` or `start` has a wrong type, `inputs` are not real numbers, or `ranks`, `seed` or
        `epochs` are not integers.

    References
    ----------
    Training of all ranks at once: Rippel, Gelbart and Adams, "Learning Ordered Representations with
    Nested Dropout", ICML 2014. Mixing of rows: Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond
    Empirical Risk Minimization", ICLR 2018.

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
    # Scale inputs and pre-activations by their largest values, so that squares fit float32.
    if space is None:
        x, input_unit = centred_rows(rows, start.mean)
        near, weight_unit = unit_weight(layer)
        margins, pre_unit = x @ near, input_unit * weight_unit
        del near  # a copy of the weights
        first_u, u_unit = scaled_rows(start.u[:, :most])
    else:
        x, input_unit = scaled_rows(space.coordinates)
        margins, pre_unit = pre_activations(layer, rows, start.mean)
        first_u, u_unit = scaled_rows(space.of(start.u[:, :most]))
    constant = (offset + row_product(layer, start.mean)) / pre_unit
    if not _fit_float32(constant):  # the rows hardly vary: the constant decides every sign
        return _untrained(start, most, len(rows))
    margins += constant.astype(np.float32)
    margins, margin_unit = scaled_rows(margins)
    unit = margin_unit * pre_unit
    size = np.ones(most)
    if space is not None:
        # Normalise the components as training does. Training then keeps the scale of the columns of
        # U, which also have a part outside of the space.
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
    whole_v, whole_offset = v.astype(np.float64) * unit, trained.astype(np.float64) * unit
    if not _fit_float32(whole_u, whole_v, whole_offset):  # a gate could not hold them
        return _untrained(start, most, len(rows))
    return Estimate("logistic", whole_u, whole_v, start.mean, whole_offset, len(rows))


def _fit_float32(*arrays: Float64Array) -> bool:
    return all(bool(np.all(np.abs(array) <= FLOAT32_MAX)) for array in arrays)


def _untrained(start: Estimate, rank: int, rows: int) -> Estimate:
    return Estimate("logistic", start.u[:, :rank], start.v[:rank], start.mean, start.offset, rows)


def _energy_of(activation: Activation, unit: float) -> Callable[[Float32Array], Float32Array]:
    """Return the squared output, up to a factor, as a function of the margin in units of `unit`."""
    activation = Activation(activation.name, *(value / unit for value in activation.values))
    switch = activation.threshold

    def energy(margins: Float32Array) -> Float32Array:
        output = activation.gated(margins + np.float32(switch) if switch else margins)
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
    """Projection of sparse rows on their leading directions: few coordinates for many columns."""

    def __init__(self, rows: SparseInputs, mean: Float64Array) -> None:
        self._rows, self._shift = rows.unshifted(), rows.shift() - mean
        products = np.asarray((self._rows @ self._rows.T).todense(), np.float64)
        common = np.asarray(self._rows @ self._shift)
        products += common[:, None] + common + self._shift @ self._shift
        values, vectors = waited(np.linalg.eigh, products)
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
    """Whether the rows are sparse and too large to be made dense."""
    return isinstance(rows, SparseInputs) and rows.shape[0] * rows.shape[1] > _DENSE_VALUES


def _affordable(layer: Layer, rows: CheckedRows, rank: int, epochs: int) -> tuple[int, int]:
    """Number of epochs and rows for which training takes at most a few seconds."""
    n, d, h = len(rows), layer.inputs, layer.outputs
    product = 2.0 * d * h
    if isinstance(rows, SparseInputs):
        product = 2.0 * rows.rows.nnz / n * h
        if _is_huge(rows):
            n, d = min(n, max(_SPARSE_ROWS, rank + 1)), _DIRECTIONS
    batch = batch_size(n)
    # Forward and backward products, elementwise work on scores and inputs, parameter updates.
    epoch = (d + h) * (4.0 * rank + 8 + 30.0 * rank / batch) + 60.0 * h
    fewer = (_MOST_WORK / n - product) / epoch
    epochs = min(epochs, max(int(fewer), _LEAST_EPOCHS))
    return epochs, min(n, max(int(_MOST_WORK / (product + epochs * epoch)), rank + 1))

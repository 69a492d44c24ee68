"""The best linear estimate on calibration rows."""

from __future__ import annotations

import numpy as np

from lrgate.estimators.base import Estimate
from lrgate.estimators.checks import checked_max_rank, checked_offset
from lrgate.estimators.krylov import (
    BLOCKS,
    WIDE,
    block_width,
    is_small,
    leading_directions,
    leading_eigenvectors,
)
from lrgate.estimators.products import (
    folded_back,
    pre_activations,
    product_with,
    row_product,
    unit_weight,
)
from lrgate.estimators.rows import (
    CHUNK_VALUES,
    CheckedRows,
    Rows,
    centred_rows,
    checked_inputs,
    chunks,
    covariance_of,
    mean_row,
    scaled_rows,
)
from lrgate.estimators.waiting import waited
from lrgate.inputs.sparse import SparseInputs
from lrgate.model.layer import Layer
from lrgate.types import Float64Array

__all__ = [
    "closest_product",
    "whitened",
]


def whitened(layer: Layer, inputs: Rows, max_rank: int | None = None) -> Estimate:
    """Fit the low-rank product that is closest to the layer's pre-activations on real rows.

    Minimises the mean of ``|x W + b - (x U V + c)|^2`` over `inputs`. With mean m and covariance C
    of the inputs, the solution is the singular value decomposition of the whitened weights,
    ``C^(1/2) W ~ P S Q^T``, with ``U = C^(-1/2) P S``, ``V = Q^T`` and ``c = b + m (W - U V)``.

    The square roots are never computed. Q holds the eigenvectors of ``W^T C W``, the covariance of
    the layer's pre-activations, and ``C^(-1/2) P S = W Q``. Constant inputs, which make C singular,
    therefore need no regularisation, and later rows on which these inputs vary are still estimated
    sensibly.

    Q is computed from the smallest suitable matrix: C, the covariance of the pre-activations or, on
    wide layers, the matrix (n, n) of inner products of their rows.

    Parameters
    ----------
    layer : Layer
        A layer with relu, clipped_relu, thresholded_relu or squared_relu.
    inputs : array_like or scipy.sparse of shape (n, in)
        Inputs of this layer, at least two rows; for the first layer of a network, after its input
        scale and shift. A gate of rank k needs at least k + 1 rows, and many more to generalise to
        other rows.
    max_rank : int, optional
        Number of factors to compute, from 1 to ``min(in, out)``; by default, all. On wide layers,
        fewer than a quarter of them are computed in a Krylov subspace in float32, which is much
        faster and equally accurate except for the last few. With n rows, fewer than ``max_rank``,
        there may be only n - 1 factors.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError
        If `layer` has another activation, or weights or biases that are empty or not finite; if
        `inputs` has a wrong width, fewer than 2 rows or a non-finite value; if `max_rank` is out of
        range.
    TypeError
        If `layer` has a wrong type, `inputs` are not real numbers, or `max_rank` is not an integer.

    References
    ----------
    Reduced-rank regression: Izenman, "Reduced-rank regression for the multivariate linear model",
    Journal of Multivariate Analysis 5, 1975. For the Krylov subspace, see `svd`.

    Examples
    --------
    >>> from lrgate import Activation
    >>> rows = np.random.default_rng(0).normal(size=(10, 3))
    >>> whitened(Layer(np.eye(3), np.zeros(3), Activation("relu")), rows)
    Estimate(whitened, 3 -> 3, max_rank 3)
    """
    offset = checked_offset(layer)
    rank = checked_max_rank(layer, max_rank)
    rows = checked_inputs(layer, inputs, "whitened", 2)
    u, v, mean = closest_product(layer, rows, rank)
    return Estimate("whitened", u, v, mean, offset + row_product(layer, mean), len(rows))


def closest_product(
    layer: Layer, rows: CheckedRows, rank: int
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """U, V and the mean row, with the least mean of ``|(x - mean) (W - U V)|^2`` at every rank."""
    mean = mean_row(rows)
    form = _form(layer, rows, rank)
    if form == "inputs":
        # Pre-activations vary only in the row space of W. In a basis of it, W = (B R)^T, their
        # covariance is a matrix with min(in, out) rows.
        basis, coordinates = waited(np.linalg.qr, layer.weight.astype(np.float64))
        covariance = waited(np.matmul, coordinates, covariance_of(rows, mean))
        covariance = waited(np.matmul, covariance, coordinates.T)
        vectors = leading_eigenvectors(covariance, rank)
        u = waited(np.matmul, coordinates.T, vectors)
        right = waited(np.matmul, basis, vectors)
    else:
        right = _principal(form, layer, rows, mean, rank)
        u = folded_back(layer, right)
    return u, right.T, mean


def _form(layer: Layer, rows: CheckedRows, rank: int) -> str:
    """The method that finds the principal directions with the least work.

    ``inputs`` and ``units`` decompose a covariance matrix of that dimension and give all
    directions. For wide layers, ``rows`` decomposes the inner products of the rows and gives one
    direction less than rows; ``krylov`` and ``factors`` give few directions, from pre-activations
    or from inputs and weights.
    """
    n, d, h = len(rows), layer.inputs, layer.outputs
    exact = "units" if h < d else "inputs"
    if min(d, h) < WIDE:
        return exact
    sparse = isinstance(rows, SparseInputs)
    stored = rows.rows.nnz if isinstance(rows, SparseInputs) else n * d
    work = {}
    if n < min(d, h):
        work["rows"] = 2.0 * stored * h + 4.0 * n * n * h + 40.0 * n**3
    if is_small(layer, rank):
        width = block_width(rank)
        products = 4.0 * BLOCKS * width
        # Three decompositions per block; their operations take 20 times as long as those of
        # products.
        bases = 3.0 * BLOCKS * 4 * 20 * h * width**2
        work["krylov"] = 2.0 * stored * h + products * n * h + bases
        if not sparse or d <= h:
            work["factors"] = products * (d * h + n * d) + bases
        if n > d and "factors" in work:  # pre-activations take more memory than the weights
            del work["krylov"]
    return min(work, key=lambda name: work[name]) if work else exact


def _principal(
    form: str, layer: Layer, rows: CheckedRows, mean: Float64Array, rank: int
) -> Float64Array:
    """The directions, (out, rank), in which the layer's pre-activations vary most."""
    if form == "units":
        product, centre = product_with(layer), row_product(layer, mean)
        covariance = np.zeros((layer.outputs, layer.outputs))
        for _, chunk in chunks(rows, layer.inputs, layer.outputs):
            if isinstance(chunk, SparseInputs):
                centred = product(chunk) - centre
            else:  # centre first: rounding of the product would hide small variations far from 0
                centred = product(chunk - mean)
            covariance += centred.T @ centred
        return leading_eigenvectors(covariance, rank)
    if form == "factors":
        inputs, _ = centred_rows(rows, mean)
        weight, _ = unit_weight(layer)
        return leading_directions(
            lambda v: weight.T @ (inputs.T @ (inputs @ (weight @ v))), layer.outputs, rank
        )
    z, _ = pre_activations(layer, rows, mean)
    if form == "krylov":
        z, _ = scaled_rows(z)
        return leading_directions(lambda v: z.T @ (z @ v), layer.outputs, rank)
    products = np.zeros((len(rows), len(rows)))
    step = max(1, CHUNK_VALUES // len(rows))
    for first in range(0, layer.outputs, step):
        part = z[:, first : first + step].astype(np.float64)
        products += part @ part.T
    left = leading_eigenvectors(products, min(rank, len(rows) - 1))
    # Directions without variance (equal rows) become arbitrary orthogonal directions.
    right, _ = waited(np.linalg.qr, z.T.astype(np.float64) @ left)
    return right

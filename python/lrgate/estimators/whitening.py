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
from lrgate.inputs.sparse import SparseInputs
from lrgate.model.layer import Layer
from lrgate.types import Float64Array

__all__ = [
    "whitened",
]


def whitened(layer: Layer, inputs: Rows, max_rank: int | None = None) -> Estimate:
    """The product of low rank whose outputs are nearest to the layer's own on real rows.

    Minimises the mean of ``|x W + b - (x U V + c)|^2`` over `inputs`. With their mean m and
    covariance C, this is the singular value decomposition of the whitened weight,
    ``C^(1/2) W ~ P S Q^T``, with ``U = C^(-1/2) P S``, ``V = Q^T`` and ``c = b + m (W - U V)``.

    Neither root is ever taken. Q holds the eigenvectors of ``W^T C W``, the covariance of the
    layer's pre-activations, and ``C^(-1/2) P S = W Q``. So inputs that never vary, which make C
    singular, need no floor, and rows on which they do vary later are still estimated sensibly.

    Q comes from the smallest matrix that has it: of C itself, of the pre-activations' covariance
    or, on wide layers, of the products of their rows, (n, n).

    Parameters
    ----------
    layer : Layer
        With relu, clipped_relu or thresholded_relu.
    inputs : array_like, CSR or SparseInputs of shape (n, in)
        Rows as they reach this layer, two or more: for a network's first layer after its input
        scale and shift. A gate of rank k needs at least k + 1 of them, and many more to be good
        on other rows.
    max_rank : int, optional
        Compute this many factors only, from 1 to ``min(in, out)``. Below a quarter of that, on wide
        layers, they are found in a Krylov subspace in float32: far faster, and as good except for
        the last few. Of fewer rows there may be one factor less than rows.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError
        For a layer with another activation, or a weight that is empty or not finite; for inputs of
        another width, fewer than 2 rows, or a row with a value that is not finite; for a max_rank
        out of range.
    TypeError
        For a layer of another type, inputs that are not real numbers, or a max_rank that is no
        integer.

    References
    ----------
    Reduced-rank regression: Izenman, "Reduced-rank regression for the multivariate linear model",
    Journal of Multivariate Analysis 5, 1975. The Krylov subspace: as for `svd`.

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
    mean = mean_row(rows)
    form = _form(layer, rows, rank)
    if form == "inputs":
        # Pre-activations vary in the row space of W alone: in a basis of it, W = (B R)^T, their
        # covariance is a matrix of min(in, out) rows.
        basis, coordinates = np.linalg.qr(layer.weight.astype(np.float64))
        covariance = coordinates @ covariance_of(rows, mean) @ coordinates.T
        vectors = leading_eigenvectors(covariance, rank)
        u, right = coordinates.T @ vectors, basis @ vectors
    else:
        right = _principal(form, layer, rows, mean, rank)
        u = folded_back(layer, right)
    return Estimate("whitened", u, right.T, mean, offset + row_product(layer, mean), len(rows))


def _form(layer: Layer, rows: CheckedRows, rank: int) -> str:
    """How the principal directions are found: the form that takes the least work.

    ``inputs`` and ``units``, by covariances of that many rows, give all of them. On wide layers,
    ``rows``, by the rows' products, gives one less than there are rows; ``krylov`` and ``factors``
    give few of them, from pre-activations or from inputs and weights.
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
        # Three decompositions a block, of which an operation takes as long as 20 of products.
        bases = 3.0 * BLOCKS * 4 * 20 * h * width**2
        work["krylov"] = 2.0 * stored * h + products * n * h + bases
        if not sparse or d <= h:
            work["factors"] = products * (d * h + n * d) + bases
        if n > d and "factors" in work:  # more memory than the weights
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
            else:  # before the product, whose rounding would hide what little rows far from 0 vary
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
    # Directions without variance, as of equal rows, become any that are orthogonal to the others.
    right, _ = np.linalg.qr(z.T.astype(np.float64) @ left)
    return right

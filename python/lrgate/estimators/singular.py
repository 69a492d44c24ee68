"""The truncated singular value decomposition of the weights."""

from __future__ import annotations

import numpy as np

from lrgate.estimators.base import Estimate
from lrgate.estimators.checks import checked_max_rank, checked_offset
from lrgate.estimators.krylov import is_small, leading_directions
from lrgate.estimators.products import folded_back, unit_weight
from lrgate.model.layer import Layer

__all__ = [
    "svd",
]


def svd(layer: Layer, max_rank: int | None = None) -> Estimate:
    """Fit by the truncated singular value decomposition of the weights, without rows.

    ``W ~ U V`` is the best approximation of its rank in the Frobenius norm, which is optimal for
    white inputs. The bias is the bias of the layer.

    Parameters
    ----------
    layer : Layer
        A layer with relu, clipped_relu, thresholded_relu or squared_relu.
    max_rank : int, optional
        Number of factors to compute, from 1 to ``min(in, out)``; by default, all. On wide layers,
        fewer than a quarter of them are computed in a Krylov subspace in float32, which is much
        faster and equally accurate except for the last few.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError
        If `layer` has another activation, or weights or biases that are empty or not finite; if
        `max_rank` is out of range.
    TypeError
        If `layer` has a wrong type, or `max_rank` is not an integer.

    References
    ----------
    Davis and Arel, "Low-Rank Approximations for Conditional Feedforward Computation in Deep Neural
    Networks", arXiv 1312.4461, 2013.

    The Krylov subspace: Musco and Musco, "Randomized Block Krylov Methods for Stronger and Faster
    Approximate Singular Value Decomposition", NeurIPS 2015, after Halko, Martinsson and Tropp,
    "Finding Structure with Randomness: Probabilistic Algorithms for Constructing Approximate Matrix
    Decompositions", SIAM Review 53, 2011.

    Examples
    --------
    >>> from lrgate import Activation
    >>> svd(Layer(np.eye(3), np.zeros(3), Activation("relu")))
    Estimate(svd, 3 -> 3, max_rank 3)
    """
    offset = checked_offset(layer)
    rank = checked_max_rank(layer, max_rank)
    if is_small(layer, rank):
        near, _ = unit_weight(layer)
        right = leading_directions(lambda v: near.T @ (near @ v), layer.outputs, rank)
        u, v = folded_back(layer, right), right.T
    else:
        weight = layer.weight.T.astype(np.float64)
        left, values, right = np.linalg.svd(weight, full_matrices=False)
        u, v = left[:, :rank] * values[:rank], right[:rank]
    return Estimate("svd", u, v, np.zeros(layer.inputs), offset)

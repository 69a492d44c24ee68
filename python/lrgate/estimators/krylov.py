"""Leading directions of a large symmetric matrix by a block Krylov subspace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from lrgate.estimators.waiting import waited
from lrgate.model.layer import Layer
from lrgate.types import Float32Array, Float64Array

__all__ = [
    "block_width",
    "is_small",
    "leading_directions",
    "leading_eigenvectors",
]


# Layers with at least this many inputs and units are wide: decomposing a square matrix of that size
# takes longer than decomposing one of fewer rows, or than a Krylov subspace.
WIDE: Final = 256

# Number of blocks of a Krylov subspace, and their least width; the width is a quarter of the rank
# otherwise. Even for random inputs and weights, without any leading direction, half the rank is
# then within 0.1 % of the optimum.
BLOCKS: Final = 12
_LEAST_WIDTH: Final = 8


def leading_eigenvectors(matrix: Float64Array, rank: int) -> Float64Array:
    """Eigenvectors of the largest eigenvalues of a symmetric matrix, in columns."""
    _, vectors = waited(np.linalg.eigh, matrix)
    return vectors[:, ::-1][:, :rank]


def is_small(layer: Layer, rank: int) -> bool:
    """Whether a Krylov subspace is much cheaper than a full decomposition."""
    size = min(layer.inputs, layer.outputs)
    return size >= 256 and 4 * rank < size


def leading_directions(
    product: Callable[[Float32Array], Float32Array], size: int, rank: int
) -> Float64Array:
    """The leading eigenvectors, (size, rank), of a matrix that is given by products with it.

    The matrix is symmetric and positive semi-definite. Its block Krylov subspace grows from random
    columns in narrow blocks; the projection of the matrix on the subspace is decomposed exactly.
    """
    width = block_width(rank)
    block = np.random.default_rng(0).standard_normal((size, width), np.float32)
    basis = images = np.empty((size, 0), np.float32)
    for _ in range(BLOCKS):
        for _ in range(3):  # for a matrix of low rank, one pass leaves only rounding errors
            block, _ = waited(np.linalg.qr, block - basis @ (basis.T @ block))
        basis = np.hstack([basis, block])
        block = product(block)
        images = np.hstack([images, block])
    within = (basis.T @ images).astype(np.float64)
    _, vectors = waited(np.linalg.eigh, (within + within.T) / 2)
    leading: Float64Array = basis.astype(np.float64) @ vectors[:, ::-1][:, :rank]
    return leading


def block_width(rank: int) -> int:
    return max(_LEAST_WIDTH, -(-rank // 4))

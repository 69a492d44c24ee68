"""Leading directions of a large symmetric matrix by a block Krylov subspace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from lrgate.model.layer import Layer
from lrgate.types import Float32Array, Float64Array

__all__ = [
    "block_width",
    "is_small",
    "leading_directions",
    "leading_eigenvectors",
]


# Layers whose smaller side has this many units or inputs are wide: decompositions of its square
# take longer than those of fewer rows, or than a Krylov subspace.
WIDE: Final = 256

# Blocks of a Krylov subspace, each of a quarter of the rank or this wide. Even where inputs and
# weights are noise, without any direction that leads, half the rank is then within 0.1 % of best.
BLOCKS: Final = 12
_LEAST_WIDTH: Final = 8


def leading_eigenvectors(matrix: Float64Array, rank: int) -> Float64Array:
    """Of a symmetric matrix those of the largest eigenvalues, in columns."""
    _, vectors = np.linalg.eigh(matrix)
    return vectors[:, ::-1][:, :rank]


def is_small(layer: Layer, rank: int) -> bool:
    """Whether a Krylov subspace is much cheaper than a full decomposition."""
    size = min(layer.inputs, layer.outputs)
    return size >= 256 and 4 * rank < size


def leading_directions(
    product: Callable[[Float32Array], Float32Array], size: int, rank: int
) -> Float64Array:
    """The leading eigenvectors, (size, rank), of a matrix that is known by products with it.

    The matrix is symmetric and positive semi-definite. Its block Krylov subspace is grown from
    random columns by narrow blocks, and what the subspace holds of it is decomposed exactly.
    """
    width = block_width(rank)
    block = np.random.default_rng(0).standard_normal((size, width), np.float32)
    basis = images = np.empty((size, 0), np.float32)
    for _ in range(BLOCKS):
        for _ in range(3):  # of a matrix of low rank the first leaves nothing but rounding
            block, _ = np.linalg.qr(block - basis @ (basis.T @ block))
        basis = np.hstack([basis, block])
        block = product(block)
        images = np.hstack([images, block])
    within = (basis.T @ images).astype(np.float64)
    _, vectors = np.linalg.eigh((within + within.T) / 2)
    leading: Float64Array = basis.astype(np.float64) @ vectors[:, ::-1][:, :rank]
    return leading


def block_width(rank: int) -> int:
    return max(_LEAST_WIDTH, -(-rank // 4))

"""Inputs of the first layer for CSR rows, without dense matrices.

The first layer of a network gets ``x * input_scale + input_shift``. For sparse rows with a shift,
this is a dense matrix, often with many columns. `SparseInputs` keeps the rows separate from scale
and shift.

>>> from scipy import sparse
>>> rows = sparse.csr_matrix(np.array([[0, 2, 0], [1, 0, 0]], np.float32))
>>> inputs = SparseInputs(rows, scale=0.5, shift=[0.0, 1.0, 0.0])
>>> inputs
SparseInputs(2 rows of 3, 2 stored)
>>> inputs.toarray()
array([[0. , 2. , 0. ],
       [0.5, 1. , 0. ]], dtype=float32)
>>> inputs @ np.ones((3, 1))
array([[2. ],
       [1.5]])
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate.types import Float32Array, Float64Array

__all__ = ["SparseInputs"]


class SparseInputs:
    """The inputs ``x * scale + shift`` of a layer for CSR rows x, without the dense matrix.

    Parameters
    ----------
    rows : scipy.sparse CSR matrix or array of shape (n, in)
        Real numbers; referenced, not copied.
    scale, shift : array_like of shape () or (in,), optional
        1 and 0 by default.

    Attributes
    ----------
    rows : CSR
    shape : (int, int)

    Raises
    ------
    ValueError
        If `scale` or `shift` has a wrong shape.
    """

    def __init__(
        self, rows: Any, scale: npt.ArrayLike | None = None, shift: npt.ArrayLike | None = None
    ) -> None:
        self.rows = rows.tocsr()
        self.shape: tuple[int, int] = (int(rows.shape[0]), int(rows.shape[1]))
        self._scale = None if scale is None else self._each("scale", scale)
        self._shift = None if shift is None else self._each("shift", shift)

    def _each(self, name: str, values: npt.ArrayLike) -> Float32Array:
        array = np.asarray(values, np.float32)
        if array.shape == (1,):
            array = array.reshape(())
        if array.shape not in ((), self.shape[1:]):
            raise ValueError(f"{name} must have shape () or {self.shape[1:]}, got {array.shape}")
        return np.broadcast_to(array, self.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> SparseInputs:
        """Select rows, with the same scale and shift."""
        part = SparseInputs(self.rows[rows])
        part._scale, part._shift = self._scale, self._shift
        return part

    def __repr__(self) -> str:
        return f"SparseInputs({self.shape[0]} rows of {self.shape[1]}, {self.rows.nnz} stored)"

    @property
    def density(self) -> float:
        """Share of non-zero inputs."""
        n, width = self.shape
        if n * width == 0:
            return 0.0
        if self._shift is None or not self._shift.any():
            return int(np.count_nonzero(self.rows.data)) / (n * width)
        # An input that is not stored equals its shift.
        shifted = int(np.count_nonzero(self._shift))
        columns = self.rows.indices
        stored = self.rows.data * self._factors() + self._shift[columns]
        moved = np.count_nonzero(stored) - np.count_nonzero(self._shift[columns])
        return float(n * shifted + int(moved)) / (n * width)

    def toarray(self) -> Float32Array:
        """The inputs as a dense float32 array (n, in), as the engine computes them."""
        dense = np.asarray(self.rows.toarray(), np.float32)
        if self._scale is not None:
            dense *= self._scale
        if self._shift is not None:
            dense += self._shift
        return dense

    def unshifted(self) -> Any:
        """``x * scale`` as CSR in float64."""
        rows = self.rows
        data = rows.data.astype(np.float64)
        if self._scale is not None:
            data *= self._factors()
        return type(rows)((data, rows.indices, rows.indptr), shape=rows.shape)

    def shift(self) -> Float64Array:
        """The shift, of shape (in,), that is added to each row of `unshifted`."""
        if self._shift is None:
            return np.zeros(self.shape[1])
        return self._shift.astype(np.float64)

    def mean(self) -> Float64Array:
        """The mean row, of shape (in,)."""
        total: Float64Array = np.asarray(self.unshifted().sum(axis=0), np.float64).reshape(-1)
        return total / self.shape[0] + self.shift()

    def __matmul__(self, matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The product with a dense matrix (in, k), summed in float64, in the dtype of `matrix`."""
        whole: Float64Array = matrix.astype(np.float64, copy=False)
        product: Float64Array = np.asarray(self.unshifted() @ whole)
        if self._shift is not None:
            product += self._shift.astype(np.float64) @ whole
        return product.astype(matrix.dtype, copy=False)

    def _factors(self) -> Float64Array:
        """The scale of each stored value."""
        if self._scale is None:
            return np.ones(len(self.rows.data))
        factors: Float64Array = self._scale.astype(np.float64)[self.rows.indices]
        return factors

"""The result of an estimator, from which gates of any rank are cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate.inputs import REAL, checked_integer, plain_array
from lrgate.model.layer import Gate
from lrgate.types import Float64Array

__all__ = [
    "Estimate",
]


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """A fit of the signs of a layer, from which a gate of any rank is cut.

    Attributes
    ----------
    method : str
        ``svd``, ``whitened``, ``logistic`` or ``factored``.
    u : float64 array of shape (in, max_rank)
    v : float64 array of shape (max_rank, out)
        The factors of rank k are the first k columns of `u` and the first k rows of `v`.
    mean : float64 array of shape (in,)
        The row at which the low-rank product is exact at every rank: the mean calibration row,
        or 0.
    offset : float64 array of shape (out,)
        The score of `mean` at every rank: ``mean W + b``, minus the threshold of a thresholded
        ReLU. Training may change it.
    rows : int or None
        Number of calibration rows; None if the method uses none.
    """

    method: str
    u: Float64Array
    v: Float64Array
    mean: Float64Array
    offset: Float64Array
    rows: int | None = None

    @property
    def max_rank(self) -> int:
        """The largest rank that `gate` can cut."""
        full = int(self.u.shape[1])
        return full if self.rows is None else min(full, self.rows - 1)

    def gate(self, rank: int, threshold: float | npt.ArrayLike = 0.0) -> Gate:
        """Cut a gate of the given rank.

        A unit is computed if ``x u v + bias > 0``, with ``bias = c(rank) - threshold``.

        Parameters
        ----------
        rank : int
            From 1 to `max_rank`.
        threshold : float or array of shape (out,), default 0
            In units of the pre-activation. A positive threshold computes fewer units, a negative
            one more.

        Returns
        -------
        Gate
            A gate with float32 arrays.

        Raises
        ------
        ValueError
            If `rank` is out of range or needs more calibration rows, or `threshold` has a wrong
            shape or is not finite.
        TypeError
            If `rank` is not an integer, or `threshold` is not a number.
        """
        rank = self._checked_rank(rank)
        u: npt.NDArray[Any] = self.u[:, :rank]
        v: npt.NDArray[Any] = self.v[:rank]
        # x W + b = (x - m) W + (m W + b). Only the first term is cut to the rank, so
        # c = b + m (W - U V).
        bias = self.offset - self.mean @ u @ v
        shifted: npt.NDArray[Any] = bias - self._checked_threshold(threshold)
        return Gate(u, v, shifted)

    def _checked_rank(self, rank: int) -> int:
        full = int(self.u.shape[1])
        if self.rows is not None and full == self.rows - 1:  # limited by the number of rows
            full = min(self.u.shape[0], self.v.shape[1])
        rank = checked_integer(rank, "rank", 1, full)
        if rank > self.max_rank:
            raise ValueError(f"rank {rank} needs at least {rank + 1} rows, got {self.rows}")
        return rank

    def _checked_threshold(self, threshold: float | npt.ArrayLike) -> Float64Array:
        array = plain_array(threshold, "threshold")
        if array.dtype.kind not in REAL:
            raise TypeError(f"threshold must be real numbers, got dtype {array.dtype}")
        if array.shape not in ((), self.offset.shape):
            expected = f"() or {self.offset.shape}"
            raise ValueError(f"threshold must have shape {expected}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"threshold must be finite, got {array[~np.isfinite(array)][0]}")
        return array.astype(np.float64)

    def __repr__(self) -> str:
        inputs, outputs = self.u.shape[0], self.v.shape[1]
        return f"Estimate({self.method}, {inputs} -> {outputs}, max_rank {self.max_rank})"

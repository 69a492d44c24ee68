"""Estimators: ways to fit the gate of one layer, and the judge of a fitted gate.

A layer computes ``z = x W + b`` with ``W = weight.T`` of shape (in, out). A gate predicts the sign
of each unit's z from a product of low rank, ``x U V + c``, so that units predicted negative need
not be computed (Davis and Arel 2013, arXiv 1312.4461). An estimator fits U, V and c once, at the
largest rank; every smaller rank is a cut of that one fit:

>>> rng = np.random.default_rng(0)
>>> layer = Layer(rng.normal(size=(40, 20)), np.zeros(40), Activation("relu"))
>>> fit = whitened(layer, rng.normal(size=(200, 20)))
>>> fit.gate(8)
Gate(20 -> 40, rank 8)
>>> evaluate(layer, fit.gate(20), rng.normal(size=(100, 20))).recall
1.0

All arithmetic is in float64; gates are float32.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.model import Activation, Gate, Layer

__all__ = ["Estimate", "GateReport", "evaluate", "svd", "whitened"]

Float64Array = npt.NDArray[np.float64]

# Rows are taken in chunks of about this many float64 values (8 MiB), so that calibration rows are
# never copied whole.
_CHUNK_VALUES: Final = 1 << 20
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """A fit of one layer's signs, from which a gate of any rank is cut.

    Attributes
    ----------
    method : str
        ``svd`` or ``whitened``.
    u : float64 array of shape (in, max_rank)
    v : float64 array of shape (max_rank, out)
        The factors of rank k are the first k columns of `u` and the first k rows of `v`.
    mean : float64 array of shape (in,)
        Where the low-rank product is exact at every rank: the mean calibration row, or 0.
    offset : float64 array of shape (out,)
        The distance of `mean` from each unit's switching point: ``mean W + b``, less the threshold
        of a thresholded ReLU.
    rows : int or None
        Number of calibration rows; None where the method uses none.
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
        """Cut the gate of this rank.

        A unit is computed where ``x u v + bias > 0``, with ``bias = c(rank) - threshold``.

        Parameters
        ----------
        rank : int
            From 1 to `max_rank`.
        threshold : float or array of shape (out,), default 0
            In units of the pre-activation: above 0 fewer units are computed, below 0 more.

        Returns
        -------
        Gate
            Its arrays are float32.

        Raises
        ------
        ValueError
            For a rank out of range, or that needs more calibration rows than there were; for a
            threshold of another shape or that is not finite.
        TypeError
            For a rank that is no integer, or a threshold that is no number.
        """
        rank = self._checked_rank(rank)
        u: npt.NDArray[Any] = self.u[:, :rank]
        v: npt.NDArray[Any] = self.v[:rank]
        # x W + b = (x - m) W + (m W + b), of which only the first term is cut to the rank; so
        # c = b + m (W - U V).
        bias = self.offset - self.mean @ u @ v
        shifted: npt.NDArray[Any] = bias - self._checked_threshold(threshold)
        return Gate(u, v, shifted)

    def _checked_rank(self, rank: int) -> int:
        if isinstance(rank, bool | np.bool_):
            raise TypeError(f"rank must be an integer, got {rank}")
        try:
            rank = operator.index(rank)
        except TypeError:
            raise TypeError(f"rank must be an integer, got {rank!r}") from None
        full = int(self.u.shape[1])
        if not 1 <= rank <= full:
            raise ValueError(f"rank must be from 1 to {full}, got {rank}")
        if rank > self.max_rank:
            raise ValueError(f"rank {rank} needs at least {rank + 1} rows, got {self.rows}")
        return rank

    def _checked_threshold(self, threshold: float | npt.ArrayLike) -> Float64Array:
        array = np.asarray(threshold)
        if array.dtype.kind not in "biuf":
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


def svd(layer: Layer) -> Estimate:
    """The truncated singular value decomposition of the weight: needs no rows.

    ``W ~ U V`` is the best approximation of its rank in the Frobenius norm, that is, for inputs
    that are white; the bias is the layer's own.

    Parameters
    ----------
    layer : Layer
        With relu, clipped_relu or thresholded_relu.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError
        For a layer with another activation, or a weight that is empty or not finite.
    TypeError
        For another type.

    References
    ----------
    Davis and Arel, "Low-Rank Approximations for Conditional Feedforward Computation in Deep Neural
    Networks", arXiv 1312.4461, 2013.

    Examples
    --------
    >>> svd(Layer(np.eye(3), np.zeros(3), Activation("relu")))
    Estimate(svd, 3 -> 3, max_rank 3)
    """
    weight, offset = _affine(layer)
    left, values, right = np.linalg.svd(weight, full_matrices=False)
    return Estimate("svd", left * values, right, np.zeros(layer.inputs), offset)


def whitened(layer: Layer, inputs: npt.ArrayLike) -> Estimate:
    """The product of low rank whose outputs are nearest to the layer's own on real rows.

    Minimises the mean of ``|x W + b - (x U V + c)|^2`` over `inputs`. With their mean m and
    covariance C, this is the singular value decomposition of the whitened weight,
    ``C^(1/2) W ~ P S Q^T``, with ``U = C^(-1/2) P S``, ``V = Q^T`` and ``c = b + m (W - U V)``.

    Neither root is ever taken. Q holds the eigenvectors of ``W^T C W``, the covariance of the
    layer's pre-activations, and ``C^(-1/2) P S = W Q``. So inputs that never vary, which make C
    singular, need no floor, and rows on which they do vary later are still estimated sensibly.

    Parameters
    ----------
    layer : Layer
        With relu, clipped_relu or thresholded_relu.
    inputs : array_like of shape (n, in)
        Rows as they reach this layer, two or more: for a network's first layer after its input
        scale and shift. A gate of rank k needs at least k + 1 of them, and many more to be good
        on other rows.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError
        For a layer with another activation, or a weight that is empty or not finite; for inputs of
        another width, fewer than 2 rows, or a row with a value that is not finite.
    TypeError
        For a layer of another type, or inputs that are not real numbers.

    References
    ----------
    Reduced-rank regression: Izenman, "Reduced-rank regression for the multivariate linear model",
    Journal of Multivariate Analysis 5, 1975.

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(10, 3))
    >>> whitened(Layer(np.eye(3), np.zeros(3), Activation("relu")), rows)
    Estimate(whitened, 3 -> 3, max_rank 3)
    """
    weight, offset = _affine(layer)
    rows = _checked_rows(layer, inputs, "whitened", 2)
    mean, covariance = _moments(rows)
    # Pre-activations vary in the row space of W alone: in a basis of it, W = (B R)^T, their
    # covariance is a matrix of min(in, out) rows.
    basis, coordinates = np.linalg.qr(weight.T)
    _, vectors = np.linalg.eigh(coordinates @ covariance @ coordinates.T)
    vectors = vectors[:, ::-1]  # the largest variance first
    u, v = coordinates.T @ vectors, (basis @ vectors).T
    return Estimate("whitened", u, v, mean, offset + mean @ weight, len(rows))


@dataclass(frozen=True)
class GateReport:
    """What a gate does to its layer on some rows.

    Attributes
    ----------
    recall : float
        Share of the units with a positive output that the gate lets through; 1 where there are
        none.
    computed_share : float
        Share of all units that the gate lets through.
    lost_energy : float
        Sum of squares of the positive outputs that the gate drops, over the sum of squares of all
        positive outputs; 0 where there are none.
    rows : int
        Number of rows it was judged on.
    rank : int
        The gate's.
    """

    recall: float
    computed_share: float
    lost_energy: float
    rows: int
    rank: int

    def __str__(self) -> str:
        return (
            f"rank {self.rank}: recall {self.recall:.4f}, "
            f"computed share {self.computed_share:.4f}, lost energy {self.lost_energy:.5f} "
            f"({self.rows} row{'s' * (self.rows != 1)})"
        )


def evaluate(layer: Layer, gate: Gate, inputs: npt.ArrayLike) -> GateReport:
    """Judge a gate on rows, which should be none that it was fitted on.

    Parameters
    ----------
    layer : Layer
        With relu, clipped_relu or thresholded_relu; a gate that it has already is not looked at.
    gate : Gate
    inputs : array_like of shape (n, in)
        Rows as they reach this layer, one or more.

    Returns
    -------
    GateReport

    Raises
    ------
    ValueError
        For a layer with another activation, or a weight that is empty or not finite; for a gate of
        other widths; for inputs of another width, no rows, or a row with a value that is not
        finite.
    TypeError
        For a layer or gate of another type, or inputs that are not real numbers.

    Examples
    --------
    >>> layer = Layer(np.eye(2), np.zeros(2), Activation("relu"))
    >>> print(evaluate(layer, svd(layer).gate(2), [[1, -1], [2, 1]]))
    rank 2: recall 1.0000, computed share 0.7500, lost energy 0.00000 (2 rows)
    """
    weight, _ = _affine(layer)
    if not isinstance(gate, Gate):
        raise TypeError(f"gate must be of type Gate, got {type(gate).__name__}")
    if (gate.inputs, gate.outputs) != (layer.inputs, layer.outputs):
        raise ValueError(
            f"gate must be of {layer.inputs} inputs and {layer.outputs} units, "
            f"got {gate.inputs} and {gate.outputs}"
        )
    rows = _checked_rows(layer, inputs, "evaluate", 1)
    bias = layer.bias.astype(np.float64)
    u, v, c = (part.astype(np.float64) for part in (gate.u, gate.v, gate.bias))
    active_count = found_count = computed_count = 0
    energy = lost = 0.0
    for chunk in _chunks(rows, layer.inputs + 2 * layer.outputs):
        output = _activate(layer.activation, chunk @ weight + bias)
        computed = chunk @ u @ v + c > 0
        # Under a threshold below 0 an output may be negative; dropping it is a loss all the same.
        active = output != 0
        active_count += int(np.count_nonzero(active))
        found_count += int(np.count_nonzero(active & computed))
        computed_count += int(np.count_nonzero(computed))
        energy += float(np.sum(np.square(output)))
        lost += float(np.sum(np.square(output[~computed])))
    return GateReport(
        recall=found_count / active_count if active_count else 1.0,
        computed_share=computed_count / (len(rows) * layer.outputs),
        lost_energy=lost / energy if energy else 0.0,
        rows=len(rows),
        rank=gate.rank,
    )


def _affine(layer: Layer) -> tuple[Float64Array, Float64Array]:
    """W, (in, out), and what its product must exceed the negative of for a unit to be active."""
    if not isinstance(layer, Layer):
        raise TypeError(f"layer must be of type Layer, got {type(layer).__name__}")
    if not layer.activation.has_hard_zero:
        raise ValueError(
            "a gate needs relu, clipped_relu or thresholded_relu, got " + layer.activation.name
        )
    if layer.weight.size == 0:
        raise ValueError(f"weight must not be empty, got shape {layer.weight.shape}")
    for name, values in (("weight", layer.weight), ("bias", layer.bias)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got {values[~np.isfinite(values)][0]}")
    offset = layer.bias.astype(np.float64)
    if layer.activation.name == "thresholded_relu":
        offset -= _parameter(layer.activation)
    return layer.weight.T.astype(np.float64), offset


def _activate(activation: Activation, z: Float64Array) -> Float64Array:
    if activation.name == "clipped_relu":
        return np.clip(z, 0.0, _parameter(activation))
    if activation.name == "thresholded_relu":
        return np.where(z > _parameter(activation), z, 0.0)
    return np.maximum(z, 0.0)


def _parameter(activation: Activation) -> float:
    assert activation.parameter is not None
    return float(np.float32(activation.parameter))  # as the engine has it


def _checked_rows(
    layer: Layer, inputs: npt.ArrayLike, method: str, at_least: int
) -> npt.NDArray[Any]:
    try:
        rows = np.asarray(inputs)
    except (TypeError, ValueError) as error:
        raise TypeError(f"inputs must be an array of real numbers: {error}") from None
    if rows.dtype.kind not in "biuf":
        raise TypeError(f"inputs must be an array of real numbers, got dtype {rows.dtype}")
    if rows.ndim != 2 or rows.shape[1] != layer.inputs:
        raise ValueError(f"inputs must have shape (n, {layer.inputs}), got {rows.shape}")
    if len(rows) < at_least:
        plural = "s" * (at_least != 1)
        raise ValueError(f"{method} needs at least {at_least} row{plural}, got {len(rows)}")
    return rows


def _moments(rows: npt.NDArray[Any]) -> tuple[Float64Array, Float64Array]:
    """Mean, (d,), and covariance, (d, d), of the rows; in two passes, since one would cancel."""
    width = rows.shape[1]
    total = np.zeros(width)
    for chunk in _chunks(rows, width):
        total += chunk.sum(axis=0)
    mean = total / len(rows)
    covariance = np.zeros((width, width))
    for chunk in _chunks(rows, width):
        centred = chunk - mean
        covariance += centred.T @ centred
    return mean, covariance / len(rows)


def _chunks(rows: npt.NDArray[Any], width: int) -> Iterator[Float64Array]:
    """The rows in float64, a chunk at a time, `width` being the values that a row takes."""
    step = max(1, _CHUNK_VALUES // width)
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step].astype(np.float64)
        bad = ~(np.abs(chunk) <= _FLOAT32_MAX)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"inputs must hold finite float32 values, got {chunk[row, column]} "
                f"in row {start + row}"
            )
        yield chunk

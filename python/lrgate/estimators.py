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

`fit_thresholds` then gives each unit the threshold that a given lost energy or computed share asks
for, from rows held out.

Rows may be arrays, CSR matrices or `SparseInputs`; sparse rows are never made dense where they are
wide. Arithmetic is in float64 unless said, and in float32 on large weights; gates are float32.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import numpy as np
import numpy.typing as npt

from lrgate import _logistic
from lrgate.inputs import plain_array
from lrgate.model.activation import Activation
from lrgate.model.layer import Gate, Layer
from lrgate.sparse import SparseInputs

__all__ = [
    "Estimate",
    "GateReport",
    "ThresholdPath",
    "evaluate",
    "fit_thresholds",
    "logistic",
    "svd",
    "whitened",
]

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
# Rows as callers give them: anything array-like, a CSR matrix, or sparse rows under a map.
Rows = Any
CheckedRows = npt.NDArray[Any] | SparseInputs

# Rows are taken in chunks of about this many float64 values (8 MiB), so that calibration rows are
# never copied whole in float64.
_CHUNK_VALUES: Final = 1 << 20
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)

# Weights of more values than this, in chunks, are used as they are, in float32.
_WEIGHT_CHUNKS: Final = 8

# Layers whose smaller side has this many units or inputs are wide: decompositions of its square
# take longer than those of fewer rows, or than a Krylov subspace.
_WIDE: Final = 256

# Blocks of a Krylov subspace, each of a quarter of the rank or this wide. Even where inputs and
# weights are noise, without any direction that leads, half the rank is then within 0.1 % of best.
_BLOCKS: Final = 12
_LEAST_WIDTH: Final = 8

# A unit matters if it has this share of the energy of the mean unit, or more; thresholds then leave
# it this share of its own energy, or more.
_MATTERS: Final = 0.03
_LEAST_KEPT: Final = 0.5

# About how many operations `logistic` takes at most: ten seconds on one core. Fewer epochs are then
# made of it, but not fewer than this; then fewer rows.
_MOST_WORK: Final = 2e11
_LEAST_EPOCHS: Final = 5

# Sparse rows of more values than this are trained on in their leading directions, this many, of
# this many rows at most.
_DENSE_VALUES: Final = 1 << 24
_DIRECTIONS: Final = 512
_SPARSE_ROWS: Final = 2000

# Passes over the points of a convex hull that settle nearly all of it.
_HULL_PASSES: Final = 12


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """A fit of one layer's signs, from which a gate of any rank is cut.

    Attributes
    ----------
    method : str
        ``svd``, ``whitened`` or ``logistic``.
    u : float64 array of shape (in, max_rank)
    v : float64 array of shape (max_rank, out)
        The factors of rank k are the first k columns of `u` and the first k rows of `v`.
    mean : float64 array of shape (in,)
        Where the low-rank product is exact at every rank: the mean calibration row, or 0.
    offset : float64 array of shape (out,)
        The score of `mean` at every rank: its distance from each unit's switching point, that is
        ``mean W + b`` less the threshold of a thresholded ReLU, or what training made of it.
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
        full = int(self.u.shape[1])
        if self.rows is not None and full == self.rows - 1:  # the rows limit them
            full = min(self.u.shape[0], self.v.shape[1])
        rank = _checked_integer("rank", rank, 1, full)
        if rank > self.max_rank:
            raise ValueError(f"rank {rank} needs at least {rank + 1} rows, got {self.rows}")
        return rank

    def _checked_threshold(self, threshold: float | npt.ArrayLike) -> Float64Array:
        array = plain_array(threshold, "threshold")
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


def svd(layer: Layer, max_rank: int | None = None) -> Estimate:
    """The truncated singular value decomposition of the weight: needs no rows.

    ``W ~ U V`` is the best approximation of its rank in the Frobenius norm, that is, for inputs
    that are white; the bias is the layer's own.

    Parameters
    ----------
    layer : Layer
        With relu, clipped_relu or thresholded_relu.
    max_rank : int, optional
        Compute this many factors only, from 1 to ``min(in, out)``. Below a quarter of that, on wide
        layers, they are found in a Krylov subspace in float32: far faster, and as good but for the
        last few.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError
        For a layer with another activation, or a weight that is empty or not finite; for a max_rank
        out of range.
    TypeError
        For a layer of another type, or a max_rank that is no integer.

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
    >>> svd(Layer(np.eye(3), np.zeros(3), Activation("relu")))
    Estimate(svd, 3 -> 3, max_rank 3)
    """
    offset = _checked_offset(layer)
    rank = _checked_max_rank(layer, max_rank)
    if _is_small(layer, rank):
        near, _ = _unit_weight(layer)
        right = _leading(lambda v: near.T @ (near @ v), layer.outputs, rank)
        u, v = _folded(layer, right), right.T
    else:
        weight = layer.weight.T.astype(np.float64)
        left, values, right = np.linalg.svd(weight, full_matrices=False)
        u, v = left[:, :rank] * values[:rank], right[:rank]
    return Estimate("svd", u, v, np.zeros(layer.inputs), offset)


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
    >>> rows = np.random.default_rng(0).normal(size=(10, 3))
    >>> whitened(Layer(np.eye(3), np.zeros(3), Activation("relu")), rows)
    Estimate(whitened, 3 -> 3, max_rank 3)
    """
    offset = _checked_offset(layer)
    rank = _checked_max_rank(layer, max_rank)
    rows = _checked_rows(layer, inputs, "whitened", 2)
    mean = _mean(rows)
    form = _form(layer, rows, rank)
    if form == "inputs":
        # Pre-activations vary in the row space of W alone: in a basis of it, W = (B R)^T, their
        # covariance is a matrix of min(in, out) rows.
        basis, coordinates = np.linalg.qr(layer.weight.astype(np.float64))
        covariance = coordinates @ _covariance(rows, mean) @ coordinates.T
        vectors = _eigenvectors(covariance, rank)
        u, right = coordinates.T @ vectors, basis @ vectors
    else:
        right = _principal(form, layer, rows, mean, rank)
        u = _folded(layer, right)
    return Estimate("whitened", u, right.T, mean, offset + _weighted(layer, mean), len(rows))


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
    offset = _checked_offset(layer)
    ranks = _checked_ranks(layer, ranks)
    seed = _checked_integer("seed", seed, 0)
    epochs = _checked_integer("epochs", epochs, 1)
    most = ranks[-1]
    rows = _checked_rows(layer, inputs, f"rank {most}", most + 1)
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
        x, input_unit = _centred(rows, start.mean)
        near, weight_unit = _unit_weight(layer)
        margins, pre_unit = x @ near, input_unit * weight_unit
        first_u, u_unit = _scaled(start.u[:, :most])
    else:
        x, input_unit = _scaled(space.coordinates)
        margins, pre_unit = _pre_activations(layer, rows, start.mean)
        first_u, u_unit = _scaled(space.of(start.u[:, :most]))
    margins += ((offset + _weighted(layer, start.mean)) / pre_unit).astype(np.float32)
    margins, margin_unit = _scaled(margins)
    unit = margin_unit * pre_unit
    size = np.ones(most)
    if space is not None:
        # Components of deviation 1, as training makes them: then it keeps the scale of U's columns,
        # which have a part outside of the space.
        size = np.maximum((x @ first_u).std(axis=0), np.float32(1e-6)).astype(np.float64)
    first_v = start.v[:most] * (size * (input_unit * u_unit / unit))[:, None]
    u, v, trained = _logistic.train(
        x,
        margins,
        _energy_of(layer.activation, unit),
        ((first_u / size).astype(np.float32), _float32(first_v), _float32(start.offset / unit)),
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


class ThresholdPath:
    """The thresholds of a gate for every target: from few computed units to all that are not zero.

    `fit_thresholds` says how they are chosen; this is for more than one target on the same rows,
    which are sorted once. Each step along the path lowers the threshold of one unit, the one that
    saves most energy for each row on which it is then computed. A path never changes.

    Parameters
    ----------
    layer : Layer
        With relu, clipped_relu or thresholded_relu; a gate that it has already is not looked at.
    gate : Gate
        Its bias, and so whatever thresholds it has, is not looked at.
    inputs : array_like, CSR or SparseInputs of shape (n, in)
        Rows as they reach this layer, two or more, and none that the gate was fitted on.
    outputs : float32 array of shape (n, out), optional
        The layer's outputs on these rows, after its activation, where they are at hand: they need
        not be computed again for each gate.

    Attributes
    ----------
    lost_energy, computed_share : float64 array of shape (steps + 1,)
        On these rows, before the first step and after each. The last lost energy is 0.
    rows : int
        Their number.

    Raises
    ------
    ValueError
        For a layer with another activation, or a weight that is empty or not finite; for a gate of
        other widths or not finite; for inputs of another width, fewer than 2 rows, or a row with a
        value that is not finite.
    TypeError
        For a layer or gate of another type, or inputs that are not real numbers.

    Examples
    --------
    >>> layer = Layer(np.eye(2), np.zeros(2), Activation("relu"))
    >>> rows = [[2, 1], [1, -1], [-1, -2], [-2, 2]]
    >>> path = ThresholdPath(layer, svd(layer).gate(2), rows)
    >>> path
    ThresholdPath(2 -> 2, rank 2, computed share 0.2500 to 0.5000, lost energy 0.20000 to 0, 4 rows)
    >>> for share in (0.25, 0.4):
    ...     print(evaluate(layer, path.gate(computed_share=share), rows))
    rank 2: recall 0.5000, computed share 0.2500, lost energy 0.20000 (4 rows)
    rank 2: recall 0.7500, computed share 0.3750, lost energy 0.10000 (4 rows)
    """

    def __init__(
        self,
        layer: Layer,
        gate: Gate,
        inputs: Rows,
        outputs: npt.NDArray[Any] | None = None,
    ) -> None:
        _checked_offset(layer)
        _check_gate(layer, gate)
        _check_finite("gate.u", gate.u)
        _check_finite("gate.v", gate.v)
        rows = _checked_rows(layer, inputs, "a fit of thresholds", 2)
        if outputs is None:
            outputs = _float32_outputs(layer, rows)
        elif outputs.shape != (len(rows), layer.outputs):
            expected = len(rows), layer.outputs
            raise ValueError(f"outputs must have shape {expected}, got {outputs.shape}")
        components = np.empty((len(rows), gate.rank))
        u = gate.u.astype(np.float64)
        for some, chunk in _chunks(rows, layer.inputs):
            components[some] = chunk @ u
        energies = np.zeros(layer.outputs)
        step = max(1, _CHUNK_VALUES // layer.outputs)
        for first in range(0, len(rows), step):
            energies += np.square(outputs[first : first + step], dtype=np.float64).sum(axis=0)
        matter = energies >= _MATTERS * energies.mean()
        may_lose = np.where(matter, (1 - _LEAST_KEPT) * energies, np.inf)

        corners = []
        step = max(1, _CHUNK_VALUES // len(rows))
        for first in range(0, layer.outputs, step):
            some = slice(first, first + step)
            unit_energy = np.square(outputs[:, some].T, dtype=np.float64, order="C")
            scores = gate.v[:, some].T @ components.T
            units, *rest = _corners(scores, unit_energy, may_lose[some])
            corners.append((units + first, *rest))
        units, computed, lost, thresholds = map(np.concatenate, zip(*corners, strict=True))

        # A step is from one corner of a unit to its next. A multiplier for the whole layer takes
        # all steps that save more for each row than it, so these stand in one order.
        starts = np.append(True, units[1:] != units[:-1])
        ends = np.flatnonzero(~starts)
        added, saved = computed[ends] - computed[ends - 1], lost[ends - 1] - lost[ends]
        order = np.argsort(-saved / added, kind="stable")
        ends, added, saved = ends[order], added[order], saved[order]
        self._start = Gate(gate.u, gate.v, -thresholds[starts])
        self._units, self._biases = units[ends], -thresholds[ends]
        self.lost_energy: Float64Array = np.append(np.cumsum(saved[::-1])[::-1], 0.0)
        self.lost_energy /= float(energies.sum()) or 1.0
        self.computed_share: Float64Array = np.cumsum(np.append(computed[starts].sum(), added))
        self.computed_share = self.computed_share / (len(rows) * layer.outputs)
        self.rows = len(rows)

    def gate(
        self, *, lost_energy: float | None = None, computed_share: float | None = None
    ) -> Gate:
        """The gate with the thresholds for one of two targets, as of `fit_thresholds`.

        Parameters
        ----------
        lost_energy, computed_share : float, optional

        Returns
        -------
        Gate

        Raises
        ------
        ValueError
            For both targets, neither, or one that is not from 0 to 1.
        TypeError
            For a target that is no number.
        """
        if (lost_energy is None) == (computed_share is None):
            came = "neither" if lost_energy is None else "both"
            raise ValueError(f"expected either lost_energy or computed_share, got {came}")
        if lost_energy is not None:
            target = _checked_share("lost_energy", lost_energy)
            steps = int(np.searchsorted(-self.lost_energy, -target))
        else:
            target = _checked_share("computed_share", computed_share)
            steps = max(0, int(np.searchsorted(self.computed_share, target, side="right")) - 1)
        bias = self._start.bias.copy()
        bias[self._units[:steps]] = self._biases[:steps]  # of a unit's steps the last one holds
        return Gate(self._start.u, self._start.v, bias)

    def __repr__(self) -> str:
        gate = self._start
        return (
            f"ThresholdPath({gate.inputs} -> {gate.outputs}, rank {gate.rank}, "
            f"computed share {self.computed_share[0]:.4f} to {self.computed_share[-1]:.4f}, "
            f"lost energy {self.lost_energy[0]:.5f} to 0, {self.rows} rows)"
        )


def fit_thresholds(
    layer: Layer,
    gate: Gate,
    inputs: Rows,
    *,
    lost_energy: float | None = None,
    computed_share: float | None = None,
) -> Gate:
    """Give each unit its own threshold, by equal marginal lost energy on rows held out.

    Each unit is computed on the rows of its highest scores, on how many is chosen: such that lost
    energy plus a multiplier times the number of computed units is least, with one multiplier for
    the layer, the one that meets the target. No other choice loses less with as few computed units.
    Thresholds lie midway between neighbouring scores. The layer's outputs are those of float32.

    - No unit that matters is switched off for good: it loses at most half of its energy on these
      rows. It matters if it has at least 3 % of the mean unit's energy. The others, with less than
      0.3 % of a layer's energy in all on networks trained on MNIST, may be lost whole: to keep half
      of that, on rows of low scores, can cost more computed units than all the rest.
    - A unit whose outputs on these rows are all zero gets a threshold just above its largest score.

    Parameters
    ----------
    layer : Layer
        With relu, clipped_relu or thresholded_relu; a gate that it has already is not looked at.
    gate : Gate
        Its bias is replaced, so it does not matter which thresholds it has.
    inputs : array_like, CSR or SparseInputs of shape (n, in)
        Rows as they reach this layer, two or more, and none that the gate was fitted on. Thresholds
        fit these rows better than others: where a unit is positive on few of them, much better.
    lost_energy : float, optional
        From 0 to 1: compute as few units as lose no more.
    computed_share : float, optional
        From 0 to 1: lose as little energy as computing no more units allows. Where more are needed
        to keep half the energy of each unit that matters, these are computed.

    Returns
    -------
    Gate

    Raises
    ------
    ValueError
        For a layer with another activation, or a weight that is empty or not finite; for a gate of
        other widths or not finite; for inputs of another width, fewer than 2 rows, or a row with a
        value that is not finite; for both targets, neither, or one out of range.
    TypeError
        For a layer or gate of another type, inputs that are not real numbers, or a target that is
        no number.

    Examples
    --------
    >>> layer = Layer(np.eye(2), np.zeros(2), Activation("relu"))
    >>> rows = [[2, 1], [1, -1], [-1, -2], [-2, 2]]
    >>> gate = fit_thresholds(layer, svd(layer).gate(2), rows, lost_energy=0.15)
    >>> print(evaluate(layer, gate, rows))
    rank 2: recall 0.7500, computed share 0.3750, lost energy 0.10000 (4 rows)
    """
    path = ThresholdPath(layer, gate, inputs)
    return path.gate(lost_energy=lost_energy, computed_share=computed_share)


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


def evaluate(layer: Layer, gate: Gate, inputs: Rows) -> GateReport:
    """Judge a gate on rows, which should be none that it was fitted on.

    Parameters
    ----------
    layer : Layer
        With relu, clipped_relu or thresholded_relu; a gate that it has already is not looked at.
    gate : Gate
    inputs : array_like, CSR or SparseInputs of shape (n, in)
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
    _checked_offset(layer)
    _check_gate(layer, gate)
    rows = _checked_rows(layer, inputs, "evaluate", 1)
    product = _product_with(layer)
    bias = layer.bias.astype(np.float64)
    u, v, c = (part.astype(np.float64) for part in (gate.u, gate.v, gate.bias))
    active_count = found_count = computed_count = 0
    energy = lost = 0.0
    for _, chunk in _chunks(rows, layer.inputs, 2 * layer.outputs):
        output = _activate(layer.activation, product(chunk) + bias)
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


def _corners(
    scores: Float64Array, energy: Float64Array, may_lose: Float64Array
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Float64Array, Float32Array]:
    """Which numbers of computed rows are best for some price of a row, unit by unit.

    Parameters
    ----------
    scores, energy : float64 array of shape (units, n)
    may_lose : float64 array of shape (units,)

    Returns
    -------
    arrays of shape (points,)
        Unit, number of rows on which it is computed, energy then lost, and threshold: the corners
        of the lower convex hull of lost energy over rows, from few rows to many.
    """
    units, n = scores.shape
    order = np.argsort(-scores, axis=1)
    scores = np.take_along_axis(scores, order, axis=1)
    energy = np.take_along_axis(energy, order, axis=1)
    lost = np.zeros((units, n + 1))
    lost[:, :n] = np.cumsum(energy[:, ::-1], axis=1)[:, ::-1]
    # Threshold j computes the j rows of the highest scores. Where rounding to float32 or equal
    # scores do not let it, there is none.
    largest, least = scores[:, 0], scores[:, -1]
    beyond = (largest - least) / n + 1e-5 * np.maximum(np.abs(largest), np.abs(least))
    thresholds = np.empty((units, n + 1), np.float32)
    thresholds[:, 0] = np.nextafter((largest + beyond).astype(np.float32), np.float32(np.inf))
    thresholds[:, 1:n] = (scores[:, 1:] + scores[:, :-1]) / 2
    thresholds[:, n] = np.nextafter((least - beyond).astype(np.float32), np.float32(-np.inf))
    possible = lost <= may_lose[:, None]
    possible[:, 1:n] &= (scores[:, 1:] <= thresholds[:, 1:n]) & (
        thresholds[:, 1:n] < scores[:, :-1]
    )

    unit, computed = np.nonzero(possible)
    left = lost[possible]
    kept = np.append(True, (unit[1:] != unit[:-1]) | (left[1:] < left[:-1]))  # saves anything
    unit, computed, left = unit[kept], computed[kept], left[kept]
    for _ in range(_HULL_PASSES):
        kept = _may_be_corners(unit, computed, left)
        if kept.all():
            break
        unit, computed, left = unit[kept], computed[kept], left[kept]
    else:
        kept = _are_corners(unit, computed, left)
        unit, computed, left = unit[kept], computed[kept], left[kept]
    return unit, computed, left, thresholds[unit, computed]


def _are_corners(
    unit: npt.NDArray[np.intp], computed: npt.NDArray[np.intp], lost: Float64Array
) -> npt.NDArray[np.bool_]:
    """Which points are corners of their unit's hull, one after another, in linear time.

    Where all points but the corners hide behind few steep ones, no fixed number of passes of
    `_may_be_corners` finds them. Andrew, "Another efficient algorithm for convex hulls in two
    dimensions", Information Processing Letters 9, 1979.
    """
    corners: list[int] = []
    points = list(zip(unit.tolist(), computed.tolist(), lost.tolist(), strict=True))
    for at, (of, x, y) in enumerate(points):
        while len(corners) > 1 and points[corners[-2]][0] == of:
            _, x0, y0 = points[corners[-2]]
            _, x1, y1 = points[corners[-1]]
            if (y0 - y1) * (x - x1) > (y1 - y) * (x1 - x0):
                break
            corners.pop()
        corners.append(at)
    kept = np.zeros(len(points), np.bool_)
    kept[corners] = True
    return kept


def _may_be_corners(
    unit: npt.NDArray[np.intp], computed: npt.NDArray[np.intp], lost: Float64Array
) -> npt.NDArray[np.bool_]:
    """False for points on or above the line from a point of their unit before to one after them.

    Lines between neighbours find all of them, if this is repeated; lines from and to the outermost
    points make it few times.
    """

    def saved(i: npt.NDArray[np.intp], j: npt.NDArray[np.intp]) -> Float64Array:
        rate: Float64Array = (lost[i] - lost[j]) / np.maximum(computed[j] - computed[i], 1)
        return rate

    begins = np.append(True, unit[1:] != unit[:-1])
    first = np.flatnonzero(begins)
    sizes = np.diff(np.append(first, len(unit)))
    first, last = np.repeat(first, sizes), np.repeat(first + sizes - 1, sizes)
    at = np.arange(len(unit))
    before = np.minimum(saved(np.maximum(at - 1, first), at), saved(first, at))
    after = np.maximum(saved(at, np.minimum(at + 1, last)), saved(at, last))
    return begins | (before > after)


def _checked_offset(layer: Layer) -> Float64Array:
    """What the product ``x W`` must exceed the negative of for a unit to be active."""
    if not isinstance(layer, Layer):
        raise TypeError(f"layer must be of type Layer, got {type(layer).__name__}")
    if not layer.activation.has_hard_zero:
        raise ValueError(
            "a gate needs relu, clipped_relu or thresholded_relu, got " + layer.activation.name
        )
    if layer.weight.size == 0:
        raise ValueError(f"weight must not be empty, got shape {layer.weight.shape}")
    _check_finite("weight", layer.weight)
    _check_finite("bias", layer.bias)
    offset = layer.bias.astype(np.float64)
    if layer.activation.name == "thresholded_relu":
        offset -= _parameter(layer.activation)
    return offset


def _is_large(layer: Layer) -> bool:
    """Whether the weight is used as it is, in float32."""
    return layer.weight.size > _WEIGHT_CHUNKS * _CHUNK_VALUES


def _product_with(layer: Layer) -> Callable[[Float64Array | SparseInputs], Float64Array]:
    """``x W`` of a chunk of rows, in float64; through float32 where the weight is large."""
    if not _is_large(layer):
        weight = layer.weight.T.astype(np.float64)
        return lambda chunk: chunk @ weight
    near, weight_unit = _unit_weight(layer)

    def product(chunk: Float64Array | SparseInputs) -> Float64Array:
        if isinstance(chunk, SparseInputs):
            return _sparse_product(layer, chunk)
        x, unit = _scaled(chunk)
        return (x @ near).astype(np.float64) * (unit * weight_unit)

    return product


def _sparse_product(layer: Layer, rows: SparseInputs) -> Float64Array:
    """``x W`` in float64, some units at a time."""
    product = np.empty((len(rows), layer.outputs))
    for some in _blocks(layer.outputs, layer.inputs):
        product[:, some] = rows @ layer.weight[some].T.astype(np.float64)
    return product


def _float32_outputs(layer: Layer, rows: CheckedRows) -> Float32Array:
    """The layer's outputs as float32 computes them, (n, out)."""
    outputs = np.empty((len(rows), layer.outputs), np.float32)
    for some, chunk in _chunks(rows, layer.inputs, layer.outputs):
        if isinstance(chunk, SparseInputs):
            z = _float32(_sparse_product(layer, chunk) + layer.bias)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                z = chunk.astype(np.float32) @ layer.weight.T + layer.bias
            z = np.nan_to_num(z, copy=False)  # sums beyond float32 are its largest value
        outputs[some] = _activate(layer.activation, z)
    return outputs


def _weighted(layer: Layer, row: Float64Array) -> Float64Array:
    """``x W`` of one row."""
    product = np.empty(layer.outputs)
    for some in _blocks(layer.outputs, layer.inputs):
        product[some] = layer.weight[some].astype(np.float64) @ row
    return product


def _folded(layer: Layer, right: Float64Array) -> Float64Array:
    """``W V^T`` for V^T of shape (out, rank)."""
    product = np.empty((layer.inputs, right.shape[1]))
    for some in _blocks(layer.inputs, layer.outputs):
        product[some] = layer.weight[:, some].T.astype(np.float64) @ right
    return product


def _blocks(count: int, width: int) -> Iterator[slice]:
    """Parts of a weight's side of which copies are affordable, `width` being the other side."""
    step = max(1, _WEIGHT_CHUNKS * _CHUNK_VALUES // width)
    return (slice(first, first + step) for first in range(0, count, step))


def _activate(activation: Activation, z: npt.NDArray[Any]) -> npt.NDArray[Any]:
    output: npt.NDArray[Any]
    if activation.name == "clipped_relu":
        output = np.clip(z, 0.0, _parameter(activation))
    elif activation.name == "thresholded_relu":
        output = np.where(z > _parameter(activation), z, z.dtype.type(0))
    else:
        output = np.maximum(z, 0.0)
    return output


def _energy_of(activation: Activation, unit: float) -> Callable[[Float32Array], Float32Array]:
    """Squared output by the distance from the switching point, both in units of `unit`."""
    switch = 0.0
    if activation.parameter is not None:
        activation = Activation(activation.name, _parameter(activation) / unit)
        if activation.name == "thresholded_relu":
            switch = _parameter(activation)

    def energy(margins: Float32Array) -> Float32Array:
        output = _activate(activation, margins + np.float32(switch) if switch else margins)
        output *= output
        return output

    return energy


def _parameter(activation: Activation) -> float:
    assert activation.parameter is not None
    return float(np.float32(activation.parameter))  # as the engine has it


def _check_gate(layer: Layer, gate: Gate) -> None:
    if not isinstance(gate, Gate):
        raise TypeError(f"gate must be of type Gate, got {type(gate).__name__}")
    _check_widths("gate", layer, gate.inputs, gate.outputs)


def _check_start(layer: Layer, start: Estimate, rank: int) -> None:
    if not isinstance(start, Estimate):
        raise TypeError(f"start must be of type Estimate, got {type(start).__name__}")
    _check_widths("start", layer, start.u.shape[0], start.v.shape[1])
    if start.max_rank < rank:
        raise ValueError(f"start must have a max_rank of at least {rank}, got {start.max_rank}")


def _check_widths(name: str, layer: Layer, inputs: int, outputs: int) -> None:
    if (inputs, outputs) != (layer.inputs, layer.outputs):
        raise ValueError(
            f"{name} must be of {layer.inputs} inputs and {layer.outputs} units, "
            f"got {inputs} and {outputs}"
        )


def _check_finite(name: str, values: npt.NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got {values[~np.isfinite(values)][0]}")


def _checked_integer(name: str, value: int, least: int, most: int | None = None) -> int:
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an integer, got {value}")
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if value < least or (most is not None and value > most):
        expected = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be {expected}, got {value}")
    return value


def _checked_max_rank(layer: Layer, max_rank: int | None) -> int:
    full = min(layer.inputs, layer.outputs)
    return full if max_rank is None else _checked_integer("max_rank", max_rank, 1, full)


def _checked_ranks(layer: Layer, ranks: Sequence[int]) -> list[int]:
    """Ascending, each once."""
    try:
        given = list(ranks)
    except TypeError:
        raise TypeError(f"ranks must be a sequence of integers, got {ranks!r}") from None
    if not given:
        raise ValueError("ranks must have at least one rank, got 0")
    full = min(layer.inputs, layer.outputs)
    return sorted({_checked_integer(f"ranks[{i}]", k, 1, full) for i, k in enumerate(given)})


def _checked_share(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value}")
    return float(value)


def _checked_rows(layer: Layer, inputs: Rows, method: str, at_least: int) -> CheckedRows:
    rows: CheckedRows
    if isinstance(inputs, SparseInputs):
        rows, dtype = inputs, inputs.rows.dtype
    elif hasattr(inputs, "tocsr"):
        rows, dtype = SparseInputs(inputs), inputs.dtype
    else:
        rows = plain_array(inputs, "inputs")
        dtype = rows.dtype
    if dtype.kind not in "biuf":
        raise TypeError(f"inputs must be an array of real numbers, got dtype {dtype}")
    if len(rows.shape) != 2 or rows.shape[1] != layer.inputs:
        raise ValueError(f"inputs must have shape (n, {layer.inputs}), got {rows.shape}")
    if len(rows) < at_least:
        plural = "s" * (at_least != 1)
        raise ValueError(f"{method} needs at least {at_least} row{plural}, got {len(rows)}")
    if isinstance(rows, SparseInputs):
        _check_sparse(rows)
    return rows


def _check_sparse(rows: SparseInputs) -> None:
    scaled, shift = rows.unshifted(), rows.shift()
    values = scaled.data + shift[scaled.indices]
    bad = np.flatnonzero(~(np.abs(values) <= _FLOAT32_MAX))
    if len(bad):
        row = int(np.searchsorted(scaled.indptr, bad[0], side="right")) - 1
        raise ValueError(
            f"inputs must hold finite float32 values, got {values[bad[0]]} in row {row}"
        )
    _check_finite("shift", shift)


def _mean(rows: CheckedRows) -> Float64Array:
    if isinstance(rows, SparseInputs):
        return rows.mean()
    total = np.zeros(rows.shape[1])
    for _, chunk in _chunks(rows, len(total)):
        total += np.asarray(chunk).sum(axis=0)
    return total / len(rows)


def _covariance(rows: CheckedRows, mean: Float64Array) -> Float64Array:
    covariance = np.zeros((len(mean), len(mean)))
    for chunk in _dense_chunks(rows, len(mean)):
        chunk -= mean
        covariance += chunk.T @ chunk
    return covariance / len(rows)


def _centred(rows: CheckedRows, mean: Float64Array) -> tuple[Float32Array, float]:
    """The rows less the mean, in units of their largest absolute value, and that value."""
    centred = np.empty(rows.shape, np.float32)
    first = 0
    for chunk in _dense_chunks(rows, len(mean)):
        centred[first : first + len(chunk)] = _float32(chunk - mean)
        first += len(chunk)
    return _scaled(centred)


def _scaled(values: npt.NDArray[Any]) -> tuple[Float32Array, float]:
    """Values in units of the largest absolute one, and that one; 1 if all are 0."""
    unit = float(np.abs(values).max()) or 1.0
    return (values / unit).astype(np.float32, copy=False), unit


def _float32(values: Float64Array) -> Float32Array:
    """In float32, as near as it has them."""
    return np.clip(values, -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32)


def _unit_weight(layer: Layer) -> tuple[Float32Array, float]:
    """W in float32, in units in which sums of products do not overflow, and the unit."""
    weight = layer.weight.T
    largest = max(float(weight.max()), -float(weight.min()))
    if _is_large(layer) and 1e-9 < largest < 1e9:  # no copy of it
        return weight, 1.0
    return _scaled(weight)


# --- principal directions of pre-activations ------------------------------------------------------


def _form(layer: Layer, rows: CheckedRows, rank: int) -> str:
    """How the principal directions are found: the form that takes the least work.

    ``inputs`` and ``units``, by covariances of that many rows, give all of them. On wide layers,
    ``rows``, by the rows' products, gives one less than there are rows; ``krylov`` and ``factors``
    give few of them, from pre-activations or from inputs and weights.
    """
    n, d, h = len(rows), layer.inputs, layer.outputs
    exact = "units" if h < d else "inputs"
    if min(d, h) < _WIDE:
        return exact
    sparse = isinstance(rows, SparseInputs)
    stored = rows.rows.nnz if isinstance(rows, SparseInputs) else n * d
    work = {}
    if n < min(d, h):
        work["rows"] = 2.0 * stored * h + 4.0 * n * n * h + 40.0 * n**3
    if _is_small(layer, rank):
        width = _block_width(rank)
        products = 4.0 * _BLOCKS * width
        # Three decompositions a block, of which an operation takes as long as 20 of products.
        bases = 3.0 * _BLOCKS * 4 * 20 * h * width**2
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
        product, centre = _product_with(layer), _weighted(layer, mean)
        covariance = np.zeros((layer.outputs, layer.outputs))
        for _, chunk in _chunks(rows, layer.inputs, layer.outputs):
            if isinstance(chunk, SparseInputs):
                centred = product(chunk) - centre
            else:  # before the product, whose rounding would hide what little rows far from 0 vary
                centred = product(chunk - mean)
            covariance += centred.T @ centred
        return _eigenvectors(covariance, rank)
    if form == "factors":
        inputs, _ = _centred(rows, mean)
        weight, _ = _unit_weight(layer)
        return _leading(
            lambda v: weight.T @ (inputs.T @ (inputs @ (weight @ v))), layer.outputs, rank
        )
    z, _ = _pre_activations(layer, rows, mean)
    if form == "krylov":
        z, _ = _scaled(z)
        return _leading(lambda v: z.T @ (z @ v), layer.outputs, rank)
    products = np.zeros((len(rows), len(rows)))
    step = max(1, _CHUNK_VALUES // len(rows))
    for first in range(0, layer.outputs, step):
        part = z[:, first : first + step].astype(np.float64)
        products += part @ part.T
    left = _eigenvectors(products, min(rank, len(rows) - 1))
    # Directions without variance, as of equal rows, become any that are orthogonal to the others.
    right, _ = np.linalg.qr(z.T.astype(np.float64) @ left)
    return right


def _pre_activations(
    layer: Layer, rows: CheckedRows, mean: Float64Array
) -> tuple[Float32Array, float]:
    """Pre-activations (n, out) less those of `mean`, in some unit, and that unit."""
    if not isinstance(rows, SparseInputs):
        x, unit = _centred(rows, mean)
        near, weight_unit = _unit_weight(layer)
        return x @ near, unit * weight_unit
    z = np.empty((len(rows), layer.outputs), np.float32)
    scaled = rows.unshifted()
    centre = _weighted(layer, mean - rows.shift())
    unit = (float(np.abs(scaled.data).max(initial=0.0)) or 1.0) * _unit_weight(layer)[1]
    for some in _blocks(layer.outputs, layer.inputs):
        part = scaled @ np.ascontiguousarray(layer.weight[some].T, np.float64)
        part -= centre[some]
        z[:, some] = _float32(part / unit)
    return z, unit


def _eigenvectors(matrix: Float64Array, rank: int) -> Float64Array:
    """Of a symmetric matrix those of the largest eigenvalues, in columns."""
    _, vectors = np.linalg.eigh(matrix)
    return vectors[:, ::-1][:, :rank]


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
    batch = _logistic.batch_size(n)
    # Products there and back, elementwise work on scores and inputs, a step's on parameters.
    epoch = (d + h) * (4.0 * rank + 8 + 30.0 * rank / batch) + 60.0 * h
    fewer = (_MOST_WORK / n - product) / epoch
    epochs = min(epochs, max(int(fewer), _LEAST_EPOCHS))
    return epochs, min(n, max(int(_MOST_WORK / (product + epochs * epoch)), rank + 1))


def _is_small(layer: Layer, rank: int) -> bool:
    """Whether a Krylov subspace is much cheaper than a full decomposition."""
    size = min(layer.inputs, layer.outputs)
    return size >= 256 and 4 * rank < size


def _leading(product: Callable[[Float32Array], Float32Array], size: int, rank: int) -> Float64Array:
    """The leading eigenvectors, (size, rank), of a matrix that is known by products with it.

    The matrix is symmetric and positive semi-definite. Its block Krylov subspace is grown from
    random columns by narrow blocks, and what the subspace holds of it is decomposed exactly.
    """
    width = _block_width(rank)
    block = np.random.default_rng(0).standard_normal((size, width), np.float32)
    basis = images = np.empty((size, 0), np.float32)
    for _ in range(_BLOCKS):
        for _ in range(3):  # of a matrix of low rank the first leaves nothing but rounding
            block, _ = np.linalg.qr(block - basis @ (basis.T @ block))
        basis = np.hstack([basis, block])
        block = product(block)
        images = np.hstack([images, block])
    within = (basis.T @ images).astype(np.float64)
    _, vectors = np.linalg.eigh((within + within.T) / 2)
    leading: Float64Array = basis.astype(np.float64) @ vectors[:, ::-1][:, :rank]
    return leading


def _block_width(rank: int) -> int:
    return max(_LEAST_WIDTH, -(-rank // 4))


def _chunks(
    rows: CheckedRows, inputs: int, more: int = 0
) -> Iterator[tuple[slice, Float64Array | SparseInputs]]:
    """The rows, a chunk at a time: arrays in float64, or sparse as they are.

    A row takes `inputs` values where it is dense, and `more` for what is computed of it.
    """
    if isinstance(rows, SparseInputs):
        step = max(1, _CHUNK_VALUES // max(more, 1))
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            yield some, rows[some]
        return
    step = max(1, _CHUNK_VALUES // (inputs + more))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        chunk = rows[some].astype(np.float64)
        bad = ~(np.abs(chunk) <= _FLOAT32_MAX)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"inputs must hold finite float32 values, got {chunk[row, column]} "
                f"in row {start + row}"
            )
        yield some, chunk


def _dense_chunks(rows: CheckedRows, width: int) -> Iterator[Float64Array]:
    """The rows in float64, a chunk at a time, sparse ones made dense."""
    if isinstance(rows, SparseInputs):
        step = max(1, _CHUNK_VALUES // width)
        for start in range(0, len(rows), step):
            yield rows[start : start + step].toarray().astype(np.float64)
        return
    for _, chunk in _chunks(rows, width):
        assert isinstance(chunk, np.ndarray)
        yield chunk

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

Arithmetic is in float64 unless said; gates are float32.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate import _logistic
from lrgate.inputs import plain_array
from lrgate.model import Activation, Gate, Layer

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

# Rows are taken in chunks of about this many float64 values (8 MiB), so that calibration rows are
# never copied whole in float64.
_CHUNK_VALUES: Final = 1 << 20
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)

# Blocks of a Krylov subspace, each of a quarter of the rank or this wide. Even where inputs and
# weights are noise, without any direction that leads, half the rank is then within 0.1 % of best.
_BLOCKS: Final = 12
_LEAST_WIDTH: Final = 8

# A unit matters if it has this share of the energy of the mean unit, or more; thresholds then leave
# it this share of its own energy, or more.
_MATTERS: Final = 0.03
_LEAST_KEPT: Final = 0.5


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
        rank = _checked_integer("rank", rank, 1, int(self.u.shape[1]))
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
    weight, offset = _affine(layer)
    rank = _checked_max_rank(layer, max_rank)
    if _is_small(layer, rank):
        near, _ = _scaled(weight)
        right = _leading(lambda v: near.T @ (near @ v), layer.outputs, rank)
        u, v = weight @ right, right.T
    else:
        left, values, right = np.linalg.svd(weight, full_matrices=False)
        u, v = left[:, :rank] * values[:rank], right[:rank]
    return Estimate("svd", u, v, np.zeros(layer.inputs), offset)


def whitened(layer: Layer, inputs: npt.ArrayLike, max_rank: int | None = None) -> Estimate:
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
    weight, offset = _affine(layer)
    rank = _checked_max_rank(layer, max_rank)
    rows = _checked_rows(layer, inputs, "whitened", 2)
    mean = _mean(rows)
    if _is_small(layer, rank):
        x, _ = _centred(rows, mean)
        near, _ = _scaled(weight)
        right = _leading(lambda v: near.T @ (x.T @ (x @ (near @ v))), layer.outputs, rank)
        u, v = weight @ right, right.T
    else:
        # Pre-activations vary in the row space of W alone: in a basis of it, W = (B R)^T, their
        # covariance is a matrix of min(in, out) rows.
        basis, coordinates = np.linalg.qr(weight.T)
        _, vectors = np.linalg.eigh(coordinates @ _covariance(rows, mean) @ coordinates.T)
        vectors = vectors[:, ::-1][:, :rank]  # the largest variance first
        u, v = coordinates.T @ vectors, (basis @ vectors).T
    return Estimate("whitened", u, v, mean, offset + mean @ weight, len(rows))


def logistic(
    layer: Layer,
    inputs: npt.ArrayLike,
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

    Parameters
    ----------
    layer : Layer
        With relu, clipped_relu or thresholded_relu.
    inputs : array_like of shape (n, in)
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
        How often each row is seen.

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
    weight, offset = _affine(layer)
    ranks = _checked_ranks(layer, ranks)
    seed = _checked_integer("seed", seed, 0)
    epochs = _checked_integer("epochs", epochs, 1)
    most = ranks[-1]
    rows = _checked_rows(layer, inputs, f"rank {most}", most + 1)
    if start is None:
        start = whitened(layer, rows, most)
    else:
        _check_start(layer, start, most)
    # In units of the largest input and the largest pre-activation, so that squares fit float32.
    x, input_unit = _centred(rows, start.mean)
    near, weight_unit = _scaled(weight)
    margins = x @ near
    margins += ((offset + start.mean @ weight) / (input_unit * weight_unit)).astype(np.float32)
    margins, margin_unit = _scaled(margins)
    unit = margin_unit * input_unit * weight_unit
    first_u, u_unit = _scaled(start.u[:, :most])
    first_v = start.v[:most] * (input_unit * u_unit / unit)
    u, v, trained = _logistic.train(
        x,
        margins,
        _energy_of(layer.activation, unit),
        (first_u, first_v.astype(np.float32), (start.offset / unit).astype(np.float32)),
        ranks,
        seed,
        epochs,
    )
    return Estimate(
        "logistic",
        u.astype(np.float64) / input_unit,
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
    inputs : array_like of shape (n, in)
        Rows as they reach this layer, two or more, and none that the gate was fitted on.

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

    def __init__(self, layer: Layer, gate: Gate, inputs: npt.ArrayLike) -> None:
        _affine(layer)
        _check_gate(layer, gate)
        _check_finite("gate.u", gate.u)
        _check_finite("gate.v", gate.v)
        rows = _checked_rows(layer, inputs, "a fit of thresholds", 2)
        outputs = np.empty((layer.outputs, len(rows)), np.float32)
        components = np.empty((len(rows), gate.rank))
        done = 0
        for chunk in _chunks(rows, layer.inputs + layer.outputs):
            some = slice(done, done + len(chunk))
            z = layer.weight @ chunk.T.astype(np.float32) + layer.bias[:, None]
            outputs[:, some] = _activate(layer.activation, z)
            components[some] = chunk @ gate.u
            done += len(chunk)
        energies = np.einsum("ij,ij->i", outputs, outputs, dtype=np.float64)
        matter = energies >= _MATTERS * energies.mean()
        may_lose = np.where(matter, (1 - _LEAST_KEPT) * energies, np.inf)

        corners = []
        step = max(1, _CHUNK_VALUES // len(rows))
        for first in range(0, layer.outputs, step):
            some = slice(first, first + step)
            unit_energy = np.square(outputs[some], dtype=np.float64)
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
    inputs: npt.ArrayLike,
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
    inputs : array_like of shape (n, in)
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
    _check_gate(layer, gate)
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
    while True:
        unit, computed, left = unit[kept], computed[kept], left[kept]
        kept = _may_be_corners(unit, computed, left)
        if kept.all():
            return unit, computed, left, thresholds[unit, computed]


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
    _check_finite("weight", layer.weight)
    _check_finite("bias", layer.bias)
    offset = layer.bias.astype(np.float64)
    if layer.activation.name == "thresholded_relu":
        offset -= _parameter(layer.activation)
    return layer.weight.T.astype(np.float64), offset


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


def _checked_rows(
    layer: Layer, inputs: npt.ArrayLike, method: str, at_least: int
) -> npt.NDArray[Any]:
    rows = plain_array(inputs, "inputs")
    if rows.dtype.kind not in "biuf":
        raise TypeError(f"inputs must be an array of real numbers, got dtype {rows.dtype}")
    if rows.ndim != 2 or rows.shape[1] != layer.inputs:
        raise ValueError(f"inputs must have shape (n, {layer.inputs}), got {rows.shape}")
    if len(rows) < at_least:
        plural = "s" * (at_least != 1)
        raise ValueError(f"{method} needs at least {at_least} row{plural}, got {len(rows)}")
    return rows


def _mean(rows: npt.NDArray[Any]) -> Float64Array:
    total = np.zeros(rows.shape[1])
    for chunk in _chunks(rows, len(total)):
        total += chunk.sum(axis=0)
    return total / len(rows)


def _covariance(rows: npt.NDArray[Any], mean: Float64Array) -> Float64Array:
    covariance = np.zeros((len(mean), len(mean)))
    for chunk in _chunks(rows, len(mean)):
        chunk -= mean
        covariance += chunk.T @ chunk
    return covariance / len(rows)


def _centred(rows: npt.NDArray[Any], mean: Float64Array) -> tuple[Float32Array, float]:
    """The rows less the mean, in units of their largest absolute value, and that value."""
    centred = np.empty(rows.shape, np.float32)
    first = 0
    for chunk in _chunks(rows, len(mean)):
        centred[first : first + len(chunk)] = chunk - mean
        first += len(chunk)
    return _scaled(centred)


def _scaled(values: npt.NDArray[Any]) -> tuple[Float32Array, float]:
    """Values in units of the largest absolute one, and that one; 1 if all are 0."""
    unit = float(np.abs(values).max()) or 1.0
    return (values / unit).astype(np.float32, copy=False), unit


def _is_small(layer: Layer, rank: int) -> bool:
    """Whether a Krylov subspace is much cheaper than a full decomposition."""
    size = min(layer.inputs, layer.outputs)
    return size >= 256 and 4 * rank < size


def _leading(product: Callable[[Float32Array], Float32Array], size: int, rank: int) -> Float64Array:
    """The leading eigenvectors, (size, rank), of a matrix that is known by products with it.

    The matrix is symmetric and positive semi-definite. Its block Krylov subspace is grown from
    random columns by narrow blocks, and what the subspace holds of it is decomposed exactly.
    """
    width = max(_LEAST_WIDTH, -(-rank // 4))
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

"""How a network's signals become bytes: fits of `Quantization`, and of the ranges of gates.

An int8 layer multiplies bytes. What an input x becomes is the byte ``round(x / scale + offset)``.
The values that fit the bytes are the input's *window*; a row with a value outside a window is
recomputed in float32. So a value is either exact to half a step or costs time, never a wrong
number. A fit chooses windows:

- *Error model.* With step s_j for input j, the rounding of the inputs moves the sum of unit o by
  ``w_oj s_j / sqrt(12)`` each, on the share of rows where the input is not zero (zeros are exact).
  The rounding of the weights moves it by ``step_o / sqrt(12)`` times the root mean square of the
  bytes, where ``step_o = max_j |w_oj s_j| / 127``. Both are relative to the spread of the unit's
  sums over the bulk of the rows, so neither units nor the place of a scaler matter.
- *Natural windows* hold all values seen, and room for what fresh rows have beyond them. The room
  is a multiple of the mean excess of the largest values over the next ones; cross-validation
  chooses the multiple.
- *Cuts.* Where natural windows make the sums too coarse, as with corrupt cells, markers such as
  -999 and heavy tails, one level bounds ``s_j rms_o(w_oj)`` of all inputs. Inputs above it get the
  window of that width that holds most values.
- *Headroom.* Inputs far below the level get wider windows as long as the error hardly grows. Inputs
  that never varied get theirs by this rule alone.

A layer whose error would be too large, or for which too many rows would be recomputed, stays f32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.model.activation import Activation
from lrgate.model.arrays import Float32Array
from lrgate.model.layer import Gate, Layer, Quantization
from lrgate.sparse import SparseInputs

if TYPE_CHECKING:
    from lrgate.network import Network

__all__ = [
    "MOST_INPUTS",
    "Fit",
    "LayerFit",
    "QuantizationReport",
    "QuantizationWarning",
    "fit",
    "fit_layers",
    "gate_range",
    "outside",
    "selected",
    "widened",
]

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

MOST_INPUTS: Final = 65_536
"""The widest input of an int8 layer: the sums of wider ones might not fit 32 bits."""

MOST_ERROR: Final = 0.1
"""A layer of a larger relative error of its sums stays f32."""

MOST_RECOMPUTED: Final = 0.1
"""A layer that makes more of the rows recomputed stays f32."""

MOST_CHANGED: Final = 0.025
"""Share of labels that int8 may be expected to change."""

MOST_MARGIN_ERROR: Final = 0.06**2
"""Squared error of the margins between labels that int8 may make, relative to the margins."""

MOST_OUTPUT_ERROR: Final = 0.1**2
"""Squared error of a regressor's outputs that int8 may make, relative to their variance."""

WARN_RECOMPUTED: Final = 0.05
"""A larger share of recomputed rows is warned about: it costs the speed of int8."""

# Of the rows given, a quarter is held back to check on, if there are enough.
_HELD: Final = 4
_MOST_HELD: Final = 2000
_LEAST_TO_HOLD: Final = 8

# What error is worth in recomputed rows: the windows of least cost are taken, of the natural ones
# and those cut until the error is one of these; see `_cost`.
_ERROR: Final = 0.015
_SHARE: Final = 0.01
_LARGE_ERROR: Final = 0.03
# Fresh rows that leave cut windows, and natural ones do not, beside those that fitting rows show.
_CUT: Final = 0.005
_TARGETS: Final = (0.03, 0.025, 0.02, 0.015, 0.01, 0.007)
# Headroom may let the error grow by this factor.
_HEADROOM: Final = 1.15
# Rows that fresh data may have outside natural windows.
_FRESH: Final = 2e-4

# At most so many rows, and about so many values of them, fit a layer; with rows of the extremes.
_ROWS: Final = 8192
_VALUES: Final = 1 << 23
_EXTREME_ROWS: Final = 1024
# Rows for spreads of sums, and for measured errors, where candidates are compared and at the end;
# units for the error model. Fewer where inputs are many, but 16.
_SPREAD_ROWS: Final = 1024
_TRIAL_ROWS: Final = 128
_ERROR_ROWS: Final = 256
_UNITS: Final = 256
_MODEL_VALUES: Final = 1 << 21
# Rows are left out of typical ones where a sum is so many times as far from the middle as usual.
_FAR: Final = 20
# Values far from a column's bulk that are looked for in other columns.
_MARKS: Final = 16
# Rows that are made dense at a time have about so many values.
_CHUNK: Final = 1 << 21

# One scale for all is taken where the sums are at most so many times as inexact as with one each,
# or twice, where that is little; and at most this share more of fresh rows are recomputed.
_WORSE: Final = 1.25
_LITTLE: Final = 0.012
_MORE: Final = 1e-3

# The smallest size of a unit's sums that counts, relative to the median unit, both as the next
# layer weighs them.
_LEAST_SPREAD: Final = 0.1
# Sums vary if their spread is more than this share of their terms: some roundings in float32.
_ROUNDING: Final = 16 * 2.0**-24

# A gate's sums get this share of their range as room at either end.
_ROOM: Final = 0.1

# An error of a layer's sums that is small anyway.
_FREE: Final = 0.004
# Fewer rows are not split to compare kinds of windows.
_LEAST_TO_SPLIT: Final = 60
# Steps below are as good as none: their inverse is hardly finite in float32.
_LEAST_STEP: Final = 1e-36
# The step of an input whose weights are all 0: any value fits.
_UNUSED_STEP: Final = 1e37


# --- the public part ----------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerFit:
    """How a layer was fitted.

    Parameters
    ----------
    layer : int
    precision : {"f32", "int8"}
    error : float
        Root mean square error of the layer's sums by its bytes, relative to their spread, measured
        on rows that are not recomputed; NaN where nothing was fitted.
    recomputed : float
        Share of the fitting rows that leave the layer's windows.
    note : str
        Why the layer stays f32; else empty.
    """

    layer: int
    precision: str
    error: float
    recomputed: float
    note: str = ""


@dataclass(frozen=True)
class QuantizationReport:
    """What :meth:`lrgate.Network.quantize` found; ``print`` shows it.

    Parameters
    ----------
    task : str
    rows : int
        Rows that quantisations were fitted to.
    held_rows : int
        Other rows, on which the int8 network is compared with float32. Where there are none,
        figures of the network are NaN.
    changed : float
        Share of held rows whose label int8 changes; of entries, for several labels. NaN for
        regression.
    expected_changed : float
        The same share with less noise: each margin between labels against the errors of all
        margins. NaN for regression.
    difference : float
        Mean squared difference of the outputs, relative to their variance (of a classifier: of the
        margins, relative to their mean square), over rows that are not recomputed.
    recomputed : float
        Share of held rows that leave the range of the bytes, and are recomputed in float32.
    layers : tuple of LayerFit
        The layers that were to be quantised.
    """

    task: str
    rows: int
    held_rows: int
    changed: float
    expected_changed: float
    difference: float
    recomputed: float
    layers: tuple[LayerFit, ...]

    def __str__(self) -> str:
        lines = [f"fitted to {self.rows} rows, checked on {self.held_rows} others"]
        if self.held_rows:
            if not math.isnan(self.changed):
                lines.append(
                    f"labels that int8 changes  {self.changed:.2%} "
                    f"(expected {self.expected_changed:.2%})"
                )
            lines.append(f"relative squared difference  {self.difference:.2g}")
            lines.append(f"rows recomputed in f32  {self.recomputed:.2%}")
        if self.layers:
            lines.append("layer  precision  error  recomputed")
        lines += [
            f"{fit.layer:>5}  {fit.precision:>9}  {fit.error:5.3f}  {fit.recomputed:10.2%}"
            + (f"  {fit.note}" if fit.note else "")
            for fit in self.layers
        ]
        return "\n".join(lines)


class QuantizationWarning(UserWarning):
    """A layer stays f32, int8 changes many labels, or many rows are recomputed."""


@dataclass(frozen=True)
class Difference:
    """How far int8 outputs are from f32 ones; see `QuantizationReport`."""

    changed: float
    expected_changed: float
    relative: float
    surely_changed: float = 0.0

    def worst(self, other: Difference) -> Difference:
        """The larger of both differences, figure by figure."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Difference(*(max(a, b) for a, b in pairs))

    def within(self, part: float = 1.0) -> bool:
        """Whether it is within this part of the documented limits."""
        regresses = math.isnan(self.changed)
        most = MOST_OUTPUT_ERROR if regresses else MOST_MARGIN_ERROR
        shares = max(self.surely_changed, self.expected_changed)
        return shares <= part * MOST_CHANGED and self.relative <= part * most


@dataclass(frozen=True)
class Fit:
    """Layers with the quantisations found, and how well each one fits."""

    layers: tuple[Layer, ...]
    reports: tuple[LayerFit, ...]


def fit(network: Network, rows: Any, layers: Sequence[int] | None = None) -> Network:
    """As :meth:`lrgate.Network.quantize`, fitted to all rows: without a check or warnings.

    Parameters
    ----------
    network : Network
    rows : uint8 or float32 array of shape (n, d), or CSR
        Real rows, all finite.
    layers : sequence of int, optional
        Layers to quantise; by default all of at most 65,536 inputs.

    Returns
    -------
    Network
        A layer that cannot be int8 stays f32: it has no quantization.
    """
    if layers is None:
        layers = [i for i, layer in enumerate(network.layers) if layer.inputs <= MOST_INPUTS]
    return network._fitted(rows, layers)[0]


def selected(quantization: Quantization | None, order: npt.NDArray[Any]) -> Quantization | None:
    """The quantisation of these inputs alone, in this order."""
    if quantization is None or not quantization.scale.ndim:
        return quantization
    return replace(quantization, scale=quantization.scale[order])


def widened(
    quantization: Quantization | None, inputs: npt.NDArray[Any], width: int
) -> Quantization | None:
    """The quantisation of `width` inputs, of which it is one of these; the others are always 0."""
    if quantization is None or not quantization.scale.ndim:
        return quantization
    scale = np.full(width, np.median(quantization.scale), np.float32)
    scale[inputs] = quantization.scale
    return replace(quantization, scale=scale)


def fit_layers(
    layers: Sequence[Layer],
    rows: Any,
    chosen: set[int],
    layer_inputs: Callable[[Any], Sequence[Float32Array]],
    input_scale: Float32Array | None = None,
    classifies: bool = False,
) -> Fit:
    """Quantisations of the `chosen` layers, and ranges of their gates; no check, no warnings.

    Parameters
    ----------
    layers : sequence of Layer
        A network's.
    rows : uint8 or float32 array of shape (n, d), or CSR
        Real rows, from `checked_rows`.
    chosen : set of int
        Layers to quantise.
    layer_inputs : callable
        Gives each layer's inputs in float32, the first's scaled and shifted, of some rows.
    input_scale : array of shape () or (d,), optional
        The network's.
    classifies : bool, default False
        Whether the last layer's outputs are compared with each other.

    Returns
    -------
    Fit
        A chosen layer that cannot be int8 has no quantization, and a note.

    Raises
    ------
    ValueError
        If a layer's inputs are not finite.
    """
    rng = np.random.default_rng(0)
    rows = canonical(rows)
    bounds = _bounds(rows)
    rows = _taken(rows, _some_rows(rows, rng))
    signals = _signals(rows, layer_inputs, chosen)
    some = rows[np.sort(rng.permutation(rows.shape[0])[:_SPREAD_ROWS])]
    typical = typical_rows(some, layers[0].weight, input_scale)
    parts = _parts(layers, typical, layer_inputs, input_scale, classifies, rng)
    inside = np.ones(rows.shape[0], bool)
    fitted, reports = list(layers), []
    for i in sorted(chosen):
        kept = np.flatnonzero(inside)
        values = _taken(rows if i == 0 else signals[i], kept)
        signed = i > 0 and _may_be_negative(layers[i - 1].activation)
        ends = bounds if i == 0 else None
        quantization, report = _fit_layer(parts[i], values, ends, i, signed)
        reports.append(report)
        fitted[i] = replace(layers[i], quantization=quantization)
        if quantization is not None:
            inside[kept] = ~outside(values, quantization, first=i == 0)
            gate = layers[i].gate
            if gate is not None:
                within = np.flatnonzero(inside)
                seen = _first_inputs(rows, within, layer_inputs) if i == 0 else [signals[i][within]]
                fitted[i] = replace(fitted[i], gate=replace(gate, range=gate_range(gate, seen)))
    return Fit(tuple(fitted), tuple(reports))


def canonical(rows: Any) -> Any:
    """The rows; sparse ones with each entry once, and without room behind them."""
    if not hasattr(rows, "tocsr"):
        return rows
    used = int(rows.indptr[-1])
    if rows.has_canonical_format and len(rows.data) == used:
        return rows
    parts = rows.data[:used], rows.indices[:used], rows.indptr
    rows = type(rows)(parts, shape=rows.shape, copy=True)
    rows.sum_duplicates()
    return rows


def check_signals(
    rows: Any, chosen: set[int], layer_inputs: Callable[[Any], Sequence[Float32Array]]
) -> None:
    """Refuses rows that make NaN or infinity in the inputs of `chosen` layers.

    Raises
    ------
    ValueError
        Naming the first such layer of some rows, and the row.
    """
    later = sorted(i for i in chosen if i > 0)
    for at in _chunks(*rows.shape) if later else ():
        inputs = layer_inputs(rows[at])
        for i in later:
            _check_finite(inputs[i], i, at.start)


def split(rows: Any) -> tuple[Any, Any]:
    """Rows to fit to, and a random quarter to check on, at most 2,000; all and none of few rows."""
    n = rows.shape[0]
    if n < _LEAST_TO_HOLD:
        return rows, rows[:0]
    order = np.random.default_rng(3).permutation(n)
    held = min(n // _HELD, _MOST_HELD)
    return rows[np.sort(order[held:])], rows[np.sort(order[:held])]


def at_most_held(rows: Any) -> Any:
    """As many of the rows, at random, as may be held back at most."""
    order = np.random.default_rng(4).permutation(rows.shape[0])
    return rows[np.sort(order[:_MOST_HELD])]


def difference(
    exact: Float32Array,
    got: Float32Array,
    recomputed: BoolArray,
    task: str | None,
    activation: str,
) -> Difference:
    """How far a network's outputs in int8 are from those in f32.

    Parameters
    ----------
    exact, got : float32 arrays of shape (n, k)
    recomputed : bool array of shape (n,)
        Rows that int8 has no part in.
    task : str, optional
        "classification", "multilabel", or else regression.
    activation : str
        The last layer's.
    """
    one, other = _unbounded(exact, activation), _unbounded(got, activation)
    kept = ~recomputed
    # A recomputed row is dense, where f32 may have gates: that is no doing of int8.
    other = np.where(recomputed[:, None], one, other)
    if task not in ("classification", "multilabel"):
        variance = one.var(axis=0)
        off = np.square(other - one)[kept].sum(axis=0) / max(len(one), 1)
        relative = np.divide(off, variance, out=np.where(off > 0, np.inf, 0.0), where=variance > 0)
        return Difference(math.nan, 0.0, float(relative.mean()))
    if task == "multilabel" or one.shape[1] == 1:
        margins, others = np.abs(one), np.where(one >= 0, other, -other)
    else:
        ranks = np.argsort(-one, axis=1, kind="stable")[:, :2]
        first, second = np.take_along_axis(one, ranks, axis=1).T
        margins = (first - second)[:, None]
        top = np.take_along_axis(other, ranks[:, :1], axis=1)
        rest = other.copy()
        np.put_along_axis(rest, ranks[:, :1], -np.inf, axis=1)
        others = top - rest.max(axis=1, keepdims=True)
    changed = float((others < 0).mean())
    errors = np.abs(others - margins)[kept]
    # Each error raises or lowers each margin.
    share = 0.0
    if errors.size:
        counts = np.searchsorted(np.sort(margins, axis=None), errors.ravel(), side="left")
        share = float(counts.mean()) / margins.size / 2 * float(kept.mean())
    usual = float(np.mean(np.square(margins)))
    off = float(np.sum(np.square(errors))) / max(margins.size, 1)
    relative = off / usual if usual > 0 else (math.inf if off > 0 else 0.0)
    count = margins.size
    surely = changed - 1.645 * math.sqrt(changed * (1 - changed) / max(count, 1))
    return Difference(changed, share, relative, surely if changed * count >= 3 else 0.0)


def _unbounded(outputs: Float32Array, activation: str) -> Float64Array:
    """Outputs before the last activation, as far as they tell, where margins are compared."""
    values = outputs.astype(np.float64)
    tiny = 1e-30
    if activation == "softmax":
        return np.log(np.maximum(values, tiny))
    if activation == "sigmoid":
        return np.log(np.maximum(values, tiny)) - np.log(np.maximum(1 - values, 1e-8))
    return values


def outside(values: Any, quantization: Quantization, *, first: bool) -> BoolArray:
    """Which rows leave the windows of a layer's inputs, so that the engine recomputes them.

    Parameters
    ----------
    values : array of shape (n, in), or CSR
        The layer's inputs: raw rows for a network's first layer.
    quantization : Quantization
    first : bool
        Whether the layer is a network's first: its values may be up to one step beyond the bytes.
        Other layers' bytes must be below 255, and above 0 where the offset is not 0. The engine
        recomputes rows with byte 255, and those more than half a step below byte 0.

    Returns
    -------
    bool array of shape (n,)
    """
    d = values.shape[1]
    inverse = np.broadcast_to(1 / quantization.scale, (d,))
    offset = np.broadcast_to(quantization.offset, (d,))
    low, high = _usable(offset, first)
    if hasattr(values, "tocsr"):
        with np.errstate(over="ignore", invalid="ignore"):
            q = values.data * inverse[values.indices] + offset[values.indices]
        bad = (q < low[values.indices]) | (q > high[values.indices])
        result = np.zeros(values.shape[0], bool)
        entry_rows = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
        result[entry_rows[bad]] = True
        zero = (offset < low) | (offset > high)
        if zero.any():
            given = np.bincount(entry_rows[zero[values.indices]], minlength=len(result))
            result |= given < zero.sum()
        return result
    result = np.empty(len(values), bool)
    for at in _chunks(len(values), d):
        with np.errstate(over="ignore", invalid="ignore"):
            q = values[at] * inverse + offset
            result[at] = ((q < low) | (q > high)).any(axis=1)
    return result


def gate_range(
    gate: Gate, inputs: Float32Array | SparseInputs | Iterable[Float32Array]
) -> Float32Array:
    """The least and the greatest of each of ``x u``, with some room: what a gate's `range` is.

    Parameters
    ----------
    gate : Gate
    inputs : float32 array or SparseInputs of shape (n, in), or iterable of such arrays
        Rows as they reach the gate's layer, all finite; at least one.

    Returns
    -------
    float32 array of shape (2, rank)
    """
    low = np.full(gate.rank, np.inf)
    high = np.full(gate.rank, -np.inf)
    for part in [inputs] if isinstance(inputs, np.ndarray | SparseInputs) else inputs:
        sums = (part @ gate.u).astype(np.float64)
        low = np.minimum(low, sums.min(axis=0, initial=np.inf))
        high = np.maximum(high, sums.max(axis=0, initial=-np.inf))
    room = _ROOM * (high - low)
    bounds: Float64Array = np.stack([low - room, high + room])
    return bounds.astype(np.float32)


# --- rows ---------------------------------------------------------------------------------------


def _taken(rows: Any, index: npt.NDArray[np.intp]) -> Any:
    """Rows at ascending indices; the array itself where those are all."""
    return rows if len(index) == rows.shape[0] else rows[index]


def _chunks(n: int, width: int) -> Iterator[slice]:
    step = max(1, _CHUNK // max(width, 1))
    for start in range(0, n, step):
        yield slice(start, start + step)


def _at_most(count: int, width: int) -> int:
    """`count`, or fewer where so many rows of this width are many values."""
    return max(16, min(count, _MODEL_VALUES // max(width, 1)))


def _dense(rows: Any) -> npt.NDArray[Any]:
    return rows.toarray() if hasattr(rows, "toarray") else np.asarray(rows)


def _bounds(rows: Any) -> tuple[Float64Array, Float64Array]:
    """The least and the greatest value of each column."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    if hasattr(low, "toarray"):
        low, high = low.toarray().ravel(), high.toarray().ravel()
    return low.astype(np.float64), high.astype(np.float64)


def _some_rows(rows: Any, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """A random sample of rows, ascending, in which are those of columns' extremes."""
    n, d = rows.shape
    stored = rows.nnz // max(n, 1) + 1 if hasattr(rows, "tocsr") else d
    most = int(np.clip(_VALUES // stored, 512, _ROWS))
    if n <= most:
        return np.arange(n)
    ends = [np.unique(np.asarray(of(axis=0)).ravel()) for of in (rows.argmin, rows.argmax)]
    extreme = np.unique(np.concatenate(ends))
    extreme = rng.permutation(extreme)[:_EXTREME_ROWS]
    some = np.concatenate([rng.choice(n, most, replace=False), extreme])
    return np.unique(some).astype(np.intp)


def _signals(
    rows: Any, layer_inputs: Callable[[Any], Sequence[Float32Array]], wanted: set[int]
) -> dict[int, Float32Array]:
    """The inputs of layers after the first."""
    parts: dict[int, list[Float32Array]] = {i: [] for i in sorted(wanted) if i > 0}
    if not parts:
        return {}
    for at in _chunks(*rows.shape):
        all_inputs = layer_inputs(rows[at])
        for i, part in parts.items():
            _check_finite(all_inputs[i], i, at.start)
            part.append(all_inputs[i])
    return {i: np.concatenate(part) for i, part in parts.items()}


def _check_finite(inputs: Float32Array, i: int, first_row: int) -> None:
    bad = np.flatnonzero(~np.isfinite(inputs).all(axis=1))
    if len(bad):
        raise ValueError(
            "x must give finite inputs to every layer, got NaN or infinity in those of "
            f"layers[{i}] in row {first_row + bad[0]}"
        )


def _first_inputs(
    rows: Any, index: npt.NDArray[np.intp], layer_inputs: Callable[[Any], Sequence[Float32Array]]
) -> Iterator[Float32Array]:
    for at in _chunks(len(index), rows.shape[1]):
        yield layer_inputs(rows[index[at]])[0]


# --- columns ------------------------------------------------------------------------------------


class _Columns:
    """The values of each column, sorted: of a dense array, or the non-zeros of a sparse one.

    `values[start[j]:start[j + 1]]` are column j's; it has `zeros[j]` zeros besides.
    """

    def __init__(self, rows: Any) -> None:
        self.n, self.d = rows.shape
        if hasattr(rows, "tocsr"):
            columns = rows.tocsc()
            columns.sum_duplicates()
            owner = np.repeat(np.arange(self.d), np.diff(columns.indptr))
            self.values = columns.data[np.lexsort((columns.data, owner))]
            self.start = columns.indptr.astype(np.intp)
        else:
            self.values = np.sort(np.ascontiguousarray(np.asarray(rows).T), axis=1).ravel()
            self.start = np.arange(self.d + 1) * self.n
        self.count = np.diff(self.start)
        self.zeros = self.n - self.count

    def of(self, j: int | np.intp) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self.values[self.start[j] : self.start[j + 1]]
        return values

    def sums(self, of_values: npt.NDArray[Any]) -> Float64Array:
        """Sums over each column of what its values give."""
        total = np.concatenate([[0.0], np.cumsum(of_values, dtype=np.float64)])
        return np.asarray(total[self.start[1:]] - total[self.start[:-1]])

    def bounds(self) -> tuple[Float64Array, Float64Array]:
        padded = np.append(self.values.astype(np.float64), 0.0)
        some = self.count > 0
        low = np.where(some, padded[np.where(some, self.start[:-1], 0)], 0.0)
        high = np.where(some, padded[np.where(some, self.start[1:] - 1, 0)], 0.0)
        low = np.where(self.zeros > 0, np.minimum(low, 0.0), low)
        return low, np.where(self.zeros > 0, np.maximum(high, 0.0), high)

    def excess(self) -> tuple[Float64Array, Float64Array]:
        """How much the most extreme values at each end exceed the next ones, on average.

        Of an end on this side of 0, zeros are no part: they are as common as the column is sparse.
        """
        positive = self.sums(self.values > 0).astype(np.intp)
        negative = self.sums(self.values < 0).astype(np.intp)
        low, high = self.bounds()
        above = np.where(high > 0, positive, self.count)
        below = np.where(low < 0, negative, self.count)
        return self._mean_excess(below, 1), self._mean_excess(above, -1)

    def _mean_excess(self, count: npt.NDArray[np.intp], sign: int) -> Float64Array:
        values = self.values.astype(np.float64)
        if len(values) == 0:
            return np.zeros(self.d)
        taken = np.clip(count // 10, 1, 10)
        first = self.start[:-1] if sign > 0 else self.start[1:] - 1
        limit = len(values) - 1
        base = values[np.clip(first + sign * taken, 0, limit)]
        total = np.zeros(self.d)
        for k in range(int(taken.max(initial=1))):
            value = values[np.clip(first + sign * k, 0, limit)]
            total += np.where(k < taken, np.abs(value - base), 0.0)
        alone = np.where(self.count > 0, np.abs(values[np.clip(first, 0, limit)]) / 2, 0.0)
        return np.where(count > taken, total / taken, np.where(count == 1, alone, 0.0))

    def whole(self) -> BoolArray:
        result: BoolArray = self.sums(self.values != np.floor(self.values)) == 0
        return result


def typical_rows(rows: Any, weight: Float32Array, input_scale: Float32Array | None) -> Any:
    """Rows in float32 without outliers.

    Cells far from a column's bulk are replaced by its middle. The bulk is the shortest interval of
    half the distinct values, and four times its length at either side; zeros stay. Distinct values,
    since a marker of missing values is one, however many cells have it. Rows whose sums are still
    far from the others' are left out.

    Parameters
    ----------
    rows : uint8 or float32 array of shape (n, d), or CSR
    weight : float32 array of shape (out, d)
        The first layer's.
    input_scale : float32 array of shape () or (d,), optional
        The network's.

    Returns
    -------
    float32 array of shape (k, d), or CSR; k is at least n / 2
    """
    typical = _without_far_cells(rows.astype(np.float32))
    some = weight[:: 1 + len(weight) // 64]
    sums = _centred_sums(typical, some if input_scale is None else some * input_scale)
    off = np.abs(sums - np.median(sums, axis=0))
    usual = np.median(off, axis=0)
    if not (usual > 0).any():
        return typical
    far = np.max(off[:, usual > 0] / usual[usual > 0], axis=1)
    return _taken(typical, np.flatnonzero(far <= _FAR * np.median(far)))


def _centred_sums(values: Any, weight: npt.NDArray[Any]) -> Float64Array:
    """``values @ weight.T`` less its mean, in float64.

    Columns are centred before they are multiplied: a huge constant would leave no digits for the
    others.
    """
    if hasattr(values, "tocsr"):
        sums = np.asarray(values.astype(np.float64) @ weight.T.astype(np.float64))
        return np.asarray(sums - sums.mean(axis=0))
    centred = values.astype(np.float64)
    centred -= centred.mean(axis=0)
    return np.asarray(centred @ weight.T.astype(np.float64))


def _sizes(values: Any, weight: npt.NDArray[Any]) -> Float64Array:
    """How large the terms of each sum of ``values @ weight.T`` are together, on average."""
    mean = np.asarray(abs(values).mean(axis=0, dtype=np.float64)).ravel()
    return np.asarray(np.abs(weight).astype(np.float64) @ mean)


def _without_far_cells(some: Any) -> Any:
    columns = _Columns(some)
    low = np.full(columns.d, -np.inf)
    high = np.full(columns.d, np.inf)
    middle = np.zeros(columns.d)
    few = np.ones(columns.d, bool)
    for j in np.flatnonzero(columns.count > 2):
        values = columns.of(j)
        ends = np.flatnonzero(values[1:] != values[:-1])
        distinct = np.append(values[ends], values[-1]).astype(np.float64)
        if columns.zeros[j]:
            distinct = np.insert(distinct, np.searchsorted(distinct, 0.0), 0.0)
        half = (len(distinct) + 1) // 2
        if len(distinct) < 3:
            continue
        few[j] = False
        lengths = distinct[half - 1 :] - distinct[: len(distinct) - half + 1]
        k = int(lengths.argmin())
        low[j] = distinct[k] - 4 * lengths[k]
        high[j] = distinct[k + half - 1] + 4 * lengths[k]
        middle[j] = (distinct[k] + distinct[k + half - 1]) / 2
    sparse = hasattr(some, "tocsr")
    data = some.data if sparse else some
    of = some.indices if sparse else np.broadcast_to(np.arange(columns.d), some.shape)
    far = ((data < low[of]) | (data > high[of])) & (data != 0)
    # What is a marker in one column is one in columns that have no more than it and another value.
    marks, counts = np.unique(data[far], return_counts=True)
    marks = marks[counts > 1]
    if len(marks):
        least, most = columns.bounds()
        for mark in marks if len(marks) <= _MARKS else ():
            marked = few[of] & (data == mark)
            far |= marked
            rest = np.where(least == mark, most, least)
            middle = np.where(few & ((least == mark) | (most == mark)), rest, middle)
    data = np.where(far, middle[of], data).astype(np.float32)
    if not sparse:
        return data
    some.data = data
    return some


# --- the error model ----------------------------------------------------------------------------


@dataclass
class _Part:
    """What the error model knows of a layer.

    Parameters
    ----------
    weight : float32 array of shape (units, in)
        Of some units, times the input map's scale, over the spread of their sums.
    gain : float array of shape (in,)
        Root mean square of all units' such weights.
    density : float array of shape (in,)
        Share of typical rows on which an input is not zero.
    square, variance : float arrays of shape (in,)
        Mean square and variance of an input in typical rows.
    used : bool array of shape (in,)
        Whether any unit has a weight for an input.
    shown : bool
        Whether the sums vary on typical rows, by more than f32 rounds them: else errors have
        nothing to be compared with.
    """

    weight: npt.NDArray[np.float32]
    gain: Float64Array
    density: Float64Array
    square: Float64Array
    variance: Float64Array
    used: BoolArray
    shown: bool

    def error(self, step: Float64Array, with_zero: BoolArray, levels: int) -> float:
        """The error of the sums, relative to their spread, with these steps.

        `with_zero` says in which windows zero is.
        """
        moment = np.where(with_zero, self.square, self.variance)
        used = self.gain > 0
        with np.errstate(over="ignore"):
            rounding = float(np.sum((self.density * np.square(self.gain * step))[used]))
            moments = np.minimum(moment / np.square(np.maximum(step, _LEAST_STEP)), levels**2 / 3)
            largest = np.zeros(len(self.weight), np.float64)
            for at in _chunks(len(self.weight), self.weight.shape[1]):
                products = np.abs(self.weight[at]) * step.astype(np.float32)
                largest[at] = products.max(axis=1, initial=0.0)
            weights = float(np.mean(np.square(largest)) / 127**2 * moments[used].sum())
        return math.sqrt((rounding + weights) / 12)

    def measured(self, values: Any, quantization: Quantization) -> float:
        """The error of the sums on rows inside the windows, by the engine's arithmetic."""
        d = self.weight.shape[1]
        scale = np.broadcast_to(quantization.scale, (d,))
        offset = np.broadcast_to(quantization.offset, (d,))
        inverse = 1 / scale
        with np.errstate(over="ignore", invalid="ignore"):
            products = self.weight * scale
            step = np.abs(products).max(axis=1, keepdims=True) / 127
            step[step == 0] = 1
            rounding = (np.rint(products / step) * step - products).T
            reference = np.where((offset >= 0) & (offset <= 255), offset, 128)
            total, count = 0.0, 0
            for at in _chunks(values.shape[0], d):
                x = _dense(values[at]).astype(np.float32)
                q = np.clip(np.rint(x * inverse + offset), 0, 255)
                shift = q - offset.astype(np.float64) - x.astype(np.float64) / scale
                off = shift.astype(np.float32) @ products.T
                off += (q - reference).astype(np.float32) @ rounding
                total += float(np.square(off.astype(np.float64)).sum())
                count += off.size
        error = math.sqrt(total / max(count, 1)) if math.isfinite(total) else math.inf
        return error


def _parts(
    layers: Sequence[Layer],
    typical: Any,
    layer_inputs: Callable[[Any], Sequence[Float32Array]],
    input_scale: Float32Array | None,
    classifies: bool,
    rng: np.random.Generator,
) -> list[_Part]:
    """The error model of each layer, by typical rows."""
    signals = _signals(typical, layer_inputs, set(range(len(layers))))
    parts: list[_Part] = []
    after: Float64Array | None = None  # how the next layer weighs this one's units
    for i in range(len(layers) - 1, -1, -1):
        layer = layers[i]
        weight = layer.weight
        if i == 0 and input_scale is not None:
            weight = weight * input_scale
        values: Any = typical if i == 0 else signals[i]
        spread = np.std(_centred_sums(values, weight), axis=0)
        spread = np.where(spread > _ROUNDING * _sizes(values, weight), spread, 0.0)
        if after is None:
            after = np.ones(layer.outputs)
            if not classifies:
                after = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        size = spread * after
        shown = bool((size > 0).any())
        usual = float(np.median(size[size > 0])) if (size > 0).any() else 0.0
        least = np.divide(
            _LEAST_SPREAD * usual, after, out=np.full_like(spread, np.inf), where=after > 0
        )
        spread = np.maximum(spread, least)
        per_spread = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        scaled = (weight * per_spread[:, None].astype(np.float32)).astype(np.float32)
        gain = np.sqrt(np.einsum("oj,oj->j", scaled, scaled, dtype=np.float64) / len(scaled))
        some = np.sort(rng.permutation(layer.outputs)[: _at_most(_UNITS, layer.inputs)])
        mean, square, density = _moments(values)
        variance = np.maximum(square - mean**2, 0.0)
        used = (weight != 0).any(axis=0)
        parts.append(_Part(scaled[some], gain, density, square, variance, used, shown))
        after = gain
    return parts[::-1]


def _moments(values: Any) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Each column's mean, mean square, and share that is not zero."""
    n = values.shape[0]
    if hasattr(values, "tocsr"):
        squares = values.copy()
        squares.data = squares.data.astype(np.float64) ** 2
        density = np.bincount(values.indices[values.data != 0], minlength=values.shape[1]) / n
        sums = values.astype(np.float64).sum(axis=0), squares.sum(axis=0)
        mean, square = (np.asarray(total).ravel() / n for total in sums)
        return mean, square, density
    mean = values.mean(axis=0, dtype=np.float64)
    square = np.einsum("nj,nj->j", values, values, dtype=np.float64) / n
    return mean, square, (values != 0).mean(axis=0)


# --- windows ------------------------------------------------------------------------------------


@dataclass
class _Windows:
    """Windows of a layer's inputs: from `low` to `low + step * levels`."""

    low: Float64Array
    step: Float64Array

    def with_zero(self, levels: int) -> BoolArray:
        return (self.low <= 0) & (self.low + self.step * levels >= 0)


def _usable(offset: Float32Array, first: bool) -> tuple[Float32Array, Float32Array]:
    """What is inside, before rounding."""
    if first:
        return np.full_like(offset, -1), np.full_like(offset, 256)
    # The engine's range is -0.5 to 254.5: a step is spared at the lower end. With an offset of 0
    # nothing is negative.
    low = np.where(offset == 0, -np.inf, np.nextafter(np.float32(0.5), np.float32(1)))
    return low.astype(np.float32), np.full_like(offset, 254.5)


def _may_be_negative(activation: Activation) -> bool:
    if activation.name == "thresholded_relu":
        return activation.parameter is None or activation.parameter < 0
    return activation.name not in ("relu", "clipped_relu", "sigmoid", "softmax")


class _Fitter:
    """Candidates for the windows of a layer's inputs, by some rows."""

    def __init__(
        self,
        part: _Part,
        values: Any,
        bounds: tuple[Float64Array, Float64Array] | None,
        first: bool,
        signed: bool,
    ) -> None:
        self.part, self.values, self.first, self.signed = part, values, first, signed
        self.levels = 255 if first else 254
        self.columns = _Columns(values)
        self.bounds = self.columns.bounds() if bounds is None else bounds
        self.whole = first and bool(self.columns.whole().all())

    def quantizations(self) -> dict[str, Quantization]:
        """The candidates, from simple to fine."""
        low, high = self.bounds
        found = {}
        if self.whole and low.min() >= 0 and 127 < high.max() <= 255:
            found["identity"] = Quantization(np.ones((), np.float32), np.zeros((), np.float32))
        for kind in ("one", "each"):
            quantization = self._best(kind)
            if quantization is not None:
                found[kind] = quantization
        return found

    def recomputed(self, quantization: Quantization) -> float:
        return float(outside(self.values, quantization, first=self.first).mean())

    def _best(self, kind: str) -> Quantization | None:
        """The natural windows, or the cut ones that cost less in error and recomputed rows."""
        best, least = None, math.inf
        for offset in self._offsets():
            natural = self._natural(kind, offset)
            error = self.part.error(natural.step, natural.with_zero(self.levels), self.levels)
            options = [(natural, error)]
            options += [
                (self._cut(kind, natural, offset, target), target)
                for target in _TARGETS
                if target < error
            ]
            for k, (windows, error) in enumerate(options):
                try:
                    wide = self._widened(kind, windows)
                    quantization = self._quantization(kind, windows, wide, offset)
                except ValueError:  # beyond float32
                    continue
                beyond = outside(self.values, quantization, first=self.first)
                error = max(self._measured(quantization, beyond), error / 2)
                cost = _cost(error, float(beyond.mean()) + _CUT if k else 0.0)
                if cost < least:
                    best, least = quantization, cost
        return best

    def _measured(self, quantization: Quantization, beyond: BoolArray) -> float:
        inside = np.flatnonzero(~beyond)
        if not len(inside):
            return math.inf
        most = _at_most(_TRIAL_ROWS, self.values.shape[1])
        return self.part.measured(self.values[inside[:: 1 + len(inside) // most]], quantization)

    # Natural windows

    def _natural(self, kind: str, offset: float | None) -> _Windows:
        low, high = self._with_room() if kind == "each" else self._pooled()
        if offset is None:
            return _Windows(low, (high - low) / self.levels)
        step = _step_at(low, high, offset)
        return _Windows(_low_at(step, offset), step)

    def _with_room(self) -> tuple[Float64Array, Float64Array]:
        low, high = self.bounds
        below, above = self.columns.excess()
        room, width = self._room(below, above), high - low
        lower = low - np.minimum(room * below, width)
        upper = high + np.minimum(room * above, width)
        lower = np.where(low < 0, lower, np.maximum(lower, 0.0))
        return lower, np.where(high > 0, upper, np.minimum(upper, 0.0))

    def _room(self, below: Float64Array, above: Float64Array) -> float:
        """How many mean excesses beyond their extremes windows reach.

        If excesses are exponential, each end of each column is passed by one row in n e^-room.
        Columns that vary together need less, which one half of the rows shows on the other.
        """
        n, d = self.values.shape
        most = math.log1p(2 * d / (max(n, 1) * _FRESH))
        if n < 40:
            return most
        order = np.random.default_rng(1).permutation(n)[: 2 * _SPREAD_ROWS]
        half = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
        passed = []
        for one, other in (half, half[::-1]):
            columns = _Columns(self.values[one])
            low, high = columns.bounds()
            below, above = columns.excess()
            passed.append(_largest_passing(self.values[other], low, high, below, above))
        rooms = np.concatenate(passed)
        share = max(_FRESH * n / (len(order) / 2), 1 / len(rooms))
        reached = float(np.quantile(rooms, 1 - min(share, 0.5), method="higher"))
        return min(most, max(0.5, reached + math.log(share * len(order) / 2 / (_FRESH * n))))

    def _pooled(self) -> tuple[Float64Array, Float64Array]:
        """One window for all columns."""
        low, high = self.bounds
        lower, upper = float(low.min()), float(high.max())
        if not self.first:
            lower, upper = min(lower, 0.0), max(upper, 0.0)
        n = self.values.shape[0]
        room, width = math.log1p(1 / (n * _FRESH)), upper - lower
        k = int(np.clip(n // 10, 1, 10))
        ends = _dense(self.values.min(axis=1)), _dense(self.values.max(axis=1))
        smallest, largest = (np.sort(end.astype(np.float64), axis=None) for end in ends)
        below = float(np.mean(smallest[min(k, n - 1)] - smallest[:k]))
        above = float(np.mean(largest[-k:] - largest[max(-k - 1, -n)]))
        if lower < 0:
            lower -= min(room * below, width)
        elif lower > 0:
            lower = max(lower - room * below, 0.0)
        if upper > 0:
            upper += min(room * above, width)
        return np.full(low.shape, lower), np.full(high.shape, upper)

    def _offsets(self) -> list[float | None]:
        """The offsets to try; None where each window has its own."""
        if self.first:
            return [None]
        if not self.signed:
            return [0.0]
        bounds = [self._with_room()]
        sample = self.values[:: 1 + len(self.values) // _SPREAD_ROWS]
        low, high = np.quantile(sample, [0.005, 0.995], axis=0)
        bounds.append((np.minimum(low, 0.0), np.maximum(high, 0.0)))
        found: list[float | None] = []
        grid = np.arange(2.0, 253.0, 2.0)
        for low, high in bounds:
            costs = [
                float(np.square(self.part.gain * _step_at(low, high, offset)).sum())
                for offset in grid
            ]
            found.append(float(grid[int(np.argmin(costs))]))
        return list(dict.fromkeys(found))

    # Cuts and headroom

    def _cut(self, kind: str, natural: _Windows, offset: float | None, target: float) -> _Windows:
        """Narrower windows, such that the error of the sums is `target`."""
        zero = natural.with_zero(self.levels)

        def steps(level: float) -> Float64Array:
            if kind == "one":
                return np.minimum(natural.step, level)
            gain = self.part.gain
            limit = np.divide(level, gain, out=np.full_like(gain, np.inf), where=gain > 0)
            return np.minimum(natural.step, limit)

        sizes = natural.step if kind == "one" else natural.step * self.part.gain
        top = float(sizes.max())
        level = _largest(
            lambda level: self.part.error(steps(level), zero, self.levels) <= target, top
        )
        step = steps(level)
        if offset is not None:
            return _Windows(_low_at(step, offset), step)
        low = natural.low.copy()
        if kind == "one":
            pooled = np.sort(_dense(self.values[:: 1 + self.values.shape[0] // 256]), axis=None)
            pooled = pooled[:: 1 + len(pooled) // 65_536]
            low[:] = _placed(pooled, step[0] * self.levels)
            return _Windows(low, step)
        cut = step < natural.step
        # Where most values are 0, the window has 0, and its ends are as far apart as values are.
        mostly_zero = cut & (2 * self.columns.zeros > self.columns.n)
        least, most = (np.abs(end) for end in self.columns.bounds())
        share = np.divide(least, least + most, out=np.zeros_like(least), where=least + most > 0)
        low = np.where(mostly_zero, -share * step * self.levels, low)
        for j in np.flatnonzero(cut & ~mostly_zero):
            values = self.columns.of(j)
            if self.columns.zeros[j]:
                zeros = np.zeros(self.columns.zeros[j], values.dtype)
                values = np.insert(values, np.searchsorted(values, 0), zeros)
            ranks = np.unique(np.linspace(0, len(values) - 1, 1024).astype(np.intp))
            low[j] = _placed(values[ranks], step[j] * self.levels)
        return _Windows(low, step)

    def _widened(self, kind: str, windows: _Windows) -> _Windows:
        """Wider windows of inputs that can have them without more error."""
        gain, used = self.part.gain, self.part.used
        low, step = windows.low, windows.step
        if kind == "one":
            return windows if step[0] > 0 else _Windows(low, np.full_like(step, _some_step(low)))
        least = np.maximum(step, _LEAST_STEP)
        zero = windows.with_zero(self.levels)
        error = self.part.error(least, zero, self.levels)

        def steps(level: float) -> Float64Array:
            floor = np.divide(level, gain, out=least.copy(), where=gain > 0)
            return np.minimum(np.maximum(least, floor), _UNUSED_STEP)

        allowed = max(_FREE, min(_HEADROOM * error, max(error, _LITTLE)))
        level = _largest(
            lambda level: self.part.error(steps(level), zero, self.levels) <= allowed,
            max(float((least * gain).max()), 1.0),
        )
        wide = np.where(used, steps(level), _UNUSED_STEP)
        wide = np.where((wide <= _LEAST_STEP), _some_step(low), wide)
        if not self.first:
            return _Windows(low, wide)
        extra = (wide - step) * self.levels
        high = low + step * self.levels
        signed = bool((self.bounds[0] < 0).any())
        keeps_low = (low == 0) & ((high > 0) | (not signed))
        keeps_high = (high == 0) & (low < 0)
        share = np.where(keeps_low, 0.0, np.where(keeps_high, 1.0, 0.5))
        lower = low - share * extra
        lower = np.where((low > 0) & (lower < 0), 0.0, lower)
        return _Windows(lower, wide)

    def _quantization(
        self, kind: str, narrow: _Windows, windows: _Windows, offset: float | None
    ) -> Quantization:
        step, low = np.maximum(windows.step, _LEAST_STEP), windows.low
        if offset is not None:
            return Quantization(np.array(step[0] if kind == "one" else step), np.array(offset))
        whole = self.columns.whole() if self.first else np.zeros(step.shape, bool)
        if kind == "one":
            whole = np.full(step.shape, bool(whole.all()))
        # Whole numbers are exact where a step is one over a whole number.
        most = np.floor(1 / np.maximum(narrow.step, 1e-9) * (1 + 1e-9))
        parts = np.minimum(np.ceil(1 / step * (1 - 1e-9)), most)
        fine = whole & (step <= 1) & (parts >= 1) & (parts < 2**20)
        step = np.where(fine, 1 / np.maximum(parts, 1), step)
        step = step.astype(np.float32).astype(np.float64)
        start = -low / step
        exact = fine | _Windows(low, step).with_zero(self.levels)
        start = np.where(exact, np.rint(start), start) + 0.0
        if kind == "one":
            return Quantization(np.array(step[0]), np.array(start[0]))
        with np.errstate(over="ignore"):  # which is refused
            return Quantization(step.astype(np.float32), start.astype(np.float32))


def _fit_layer(
    part: _Part,
    values: Any,
    bounds: tuple[Float64Array, Float64Array] | None,
    i: int,
    signed: bool,
) -> tuple[Quantization | None, LayerFit]:
    """The quantisation of a layer's inputs; None where it must stay f32."""
    n = values.shape[0]
    if n == 0:
        return None, LayerFit(i, "f32", math.nan, 0.0, "no row is left to fit it on")
    if not part.shown:
        note = "the rows do not tell it from rounding: its sums hardly vary"
        return None, LayerFit(i, "f32", math.nan, 0.0, note)
    first = i == 0
    rng = np.random.default_rng(2)
    fitter = _Fitter(part, values, bounds, first, signed)
    found = fitter.quantizations()
    if not found:
        note = "its inputs are too large or too small for steps in float32"
        return None, LayerFit(i, "f32", math.nan, 0.0, note)
    shares = {kind: fitter.recomputed(q) for kind, q in found.items()}
    errors = {}
    for kind, quantization in found.items():
        inside = np.flatnonzero(~outside(values, quantization, first=first))
        some = np.sort(rng.permutation(inside)[: _at_most(_ERROR_ROWS, values.shape[1])])
        errors[kind] = part.measured(values[some], quantization) if len(some) else math.inf
    fresh, slack = dict(shares), 0.0
    if len(found) > 1 and n >= _LEAST_TO_SPLIT:
        order = rng.permutation(n)
        third = np.sort(order[: n // 3])
        trial = _Fitter(part, values[np.sort(order[n // 3 :])], None, first, signed)
        slack = 1.5 / len(third)
        for kind, quantization in trial.quantizations().items():
            if kind in fresh:
                fresh[kind] = float(outside(values[third], quantization, first=first).mean())
    able = [k for k in found if errors[k] <= MOST_ERROR and shares[k] <= MOST_RECOMPUTED]
    if not able:
        kind = min(found, key=lambda k: errors[k] / MOST_ERROR + shares[k] / MOST_RECOMPUTED)
        if shares[kind] > MOST_RECOMPUTED:
            note = f"{shares[kind]:.0%} of the rows would be recomputed in f32"
        else:
            note = f"its bytes would be off by {errors[kind]:.2g} of the spread of its sums"
        return None, LayerFit(i, "f32", errors[kind], shares[kind], note)
    least, fewest = min(errors[k] for k in able), min(fresh[k] for k in able)
    kind = next(
        (
            k
            for k in able
            if errors[k] <= max(_WORSE * least, min(2 * least, _LITTLE), _FREE)
            and fresh[k] <= fewest + _MORE + slack
        ),
        able[-1],
    )
    return found[kind], LayerFit(i, "int8", errors[kind], shares[kind])


def _cost(error: float, share: float) -> float:
    """Of windows with this error of the sums, and this share of rows outside.

    A large error costs more than a tenth of the rows, where it can be had smaller.
    """
    return (error / _ERROR) ** 2 + max(error - _LARGE_ERROR, 0.0) * 2000 + share / _SHARE


def _largest_passing(
    values: Any, low: Float64Array, high: Float64Array, below: Float64Array, above: Float64Array
) -> Float64Array:
    """How far each row is beyond `low` and `high` at most, in units of `below` and `above`."""
    below = np.where(below > 0, below, np.inf)
    above = np.where(above > 0, above, np.inf)
    if hasattr(values, "tocsr"):
        of = values.indices
        beyond = np.maximum(
            (low[of] - values.data) / below[of], (values.data - high[of]) / above[of]
        )
        result = np.zeros(values.shape[0])
        np.maximum.at(result, np.repeat(np.arange(len(result)), np.diff(values.indptr)), beyond)
        return result
    result = np.empty(len(values))
    for at in _chunks(*values.shape):
        beyond = np.maximum((low - values[at]) / below, (values[at] - high) / above)
        result[at] = np.maximum(beyond.max(axis=1), 0.0)
    return result


def _step_at(low: Float64Array, high: Float64Array, offset: float) -> Float64Array:
    """The steps of a later layer's inputs from `low` to `high`, whose zero is the byte `offset`."""
    top = high / (254 - offset)
    return top if offset == 0 else np.maximum(top, -low / (offset - 1))


def _low_at(step: Float64Array, offset: float) -> Float64Array:
    return -step * max(offset - 1, 0.0)


def _some_step(low: Float64Array) -> Float64Array | float:
    """The step of an input that never varies, and that nothing is known of."""
    return np.maximum(np.abs(low), 1.0) / 127


def _placed(values: npt.NDArray[Any], width: float) -> float:
    """Where the window of this width begins that holds most of the sorted `values`.

    It begins at 0 where it can.
    """
    values = values.astype(np.float64)
    ends = np.searchsorted(values, values + width, side="right")
    counts = ends - np.arange(len(values))
    k = int(counts.argmax())
    begin, end = float(values[k]), float(values[ends[k] - 1])
    if begin >= 0 and end <= width:
        return 0.0
    return begin - (width - (end - begin)) / 2


def _largest(good: Callable[[float], bool], start: float) -> float:
    """The largest level, to some percent, that is `good`: as all below it are."""
    low, high = start, start
    for _ in range(100):
        if good(low):
            break
        low, high = low / 4, low
    else:
        return low
    for _ in range(50):
        if low < high or not good(4 * low):
            break
        low, high = 4 * low, 4 * low
    high = max(high, 4 * low) if low == high else high
    for _ in range(6):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if good(middle) else (low, middle)
    return low

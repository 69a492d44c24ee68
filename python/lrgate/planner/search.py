"""`optimize`: a trained network in, the fastest network within an error budget out.

The search, in short:

1. Rows are split in three: estimators are fitted on the first part, thresholds, plans and times
   chosen on the first two, and the promise is checked on the third, which chooses nothing.
2. Linear layers in a row are multiplied out. Units that cannot be on are left out; the others are
   put in an order in which units that are on together sit together. Layers become int8, except
   those that cost too much.
3. Each hidden layer gets candidates: gates of several ranks and thresholds, each with its lost
   energy and its time in every batch size. Those that another one beats in both are dropped; the
   others get their damage: what each alone does to the network's outputs.
4. With a price on damage, the best choice is one of each layer on its own. From no price to a high
   one this gives a path of plans from the fastest to the exact one; on the second part of the rows
   the fastest is taken that the third is likely to show within the budget.
5. Whole calls decide, batch size by batch size, what of it is used, and in which precision.
6. The networks found are tried on the third part, from the least damaging to the fastest, each as
   it would be returned. The first that is not shown to keep the budget ends it (fixed-sequence
   testing: Angelopoulos et al., "Learn then Test", 2021), and the one before it is the result.
"""

from __future__ import annotations

import math
import operator
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate import estimators
from lrgate._core import get_num_threads
from lrgate.estimators import registry
from lrgate.inputs import as_list, checked_rows, label_array
from lrgate.inputs.sparse import SparseInputs
from lrgate.measure import machine, timing
from lrgate.model.layer import Gate, Layer
from lrgate.model.model import Model
from lrgate.network import Network
from lrgate.network.quantizing import fit_int8
from lrgate.planner import merging, units
from lrgate.planner.calibration import Calibration, calibrated
from lrgate.planner.divergence import Divergence
from lrgate.planner.evaluation import Evaluator
from lrgate.planner.evidence import Evidence
from lrgate.planner.split import CHECK_SHARE, FIT_SHARE, MOST_ROWS, Split
from lrgate.quantization.fit import gate_range, selected, widened
from lrgate.quantization.limits import MOST_INPUTS
from lrgate.results.optimization import BatchReport, CheckReport, LayerReport, OptimizeReport
from lrgate.results.profile import LayerProfile
from lrgate.types import Float32Array, Float64Array, IntArray

__all__ = ["optimize"]

Masks = list[npt.NDArray[np.bool_]]

_LEAST_ROWS: Final = 50

_RANKS: Final = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_LOST_ENERGIES: Final = (1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3e-2, 6e-2)

# On layers of more weights than this only these of the usual ranks are tried.
_WIDE: Final = 4_000_000
_WIDE_RANKS: Final = (16, 32, 64, 128, 256)
_WIDE_LOST_ENERGIES: Final = (3e-4, 1e-3, 4e-3, 1.6e-2)

PRECISIONS: Final = ("auto", "f32", "int8")
PRUNES: Final = ("proven", "never_on", "none")

# Units that are on in this share of the rows are computed without being scored.
_ALWAYS_ON: Final = 0.95

# A gate must promise to be this much faster than the layer's fastest exact strategy.
_PROMISE: Final = 0.97

# A more complex plan must be this many times as fast in whole calls, in the median over rounds.
_MUST_GAIN: Final = 1.03

# Layers on which a gate within this factor of the exact time could be found get a finer estimator.
_NEAR: Final = 1.15

# Shares of the budget that gates are chosen for, in this order; the first costs less speed where
# the second cannot be shown.
_BUDGET_SHARES: Final = (0.5, 1.0)

# Standard errors that a choice has to spare, so that the rows that check are likely to agree: they
# and the rows that choose, which are half as many, differ by 1.7 of the check's standard errors.
_SPARE: Final = 1.5
_ROW_SPARE: Final = 0.8

_PROBE_ROWS: Final = 64

# The most rows of a call that is measured, for each thread.
_MOST_RACED: Final = 4096

# The most rows that a layer is measured on, in calls of as many at most.
_LAYER_ROWS: Final = 256

# The most rows that the layers' times in the report are of; shares are of all rows held back.
_PROFILE_ROWS: Final = 1024

# Values that are looked at to see whether an input range is one in scaled units.
_SCALED_VALUES: Final = 1 << 22

# Values of the layers' inputs that are held for each part of the rows: 512 MiB.
_MOST_VALUES: Final = 1 << 27

# Multiply-adds. The units of a network of more a row keep their order. Below: what the rows of a
# layer's and a call's measurement take at most, those whose damage is looked at, and the
# refinement of one estimator.
_LARGE: Final = 8_000_000
_LAYER_WORK: Final = 2e9
_MOST_RACED_WORK: Final = 5e9
_DAMAGE_WORK: Final = 2e10
_REFINEMENT_WORK: Final = 1.5e11

# How long things are measured for: a layer, a class's plan, a race of whole calls, the last one,
# the layers that are reported.
_LAYER_SECONDS: Final = 0.008
_PLAN_SECONDS: Final = 0.4
_RACE_SECONDS: Final = 0.3
_LAST_RACE_SECONDS: Final = 0.6
_PROFILE_SECONDS: Final = 0.05


def optimize(
    model: Network,
    x: Any,
    y: npt.ArrayLike | None = None,
    max_error_increase: float = 0.001,
    *,
    batch_sizes: Sequence[int] | npt.NDArray[Any] = (1, 64, 1024),
    precision: str = "auto",
    prune: str = "proven",
    confidence: float = 0.95,
    max_row_error: float | None = None,
    num_threads: int | None = None,
    input_range: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    ranks: Sequence[int] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Network:
    """The fastest network on this machine whose error is shown to stay within a budget.

    Gates are fitted to the hidden layers on `x`, thresholds and the order of units are chosen, and
    each layer's strategy and precision are decided by measuring, for each batch size. What cannot
    be shown to keep the budget, on rows that chose nothing, is not used. What it did is in the
    result's ``report``. By measurement the result is never slower than dense in f32, unless int8
    is asked for.

    Parameters
    ----------
    model : Network
        Its own gates and plan are not used.
    x : array-like or scipy.sparse (n, d)
        Real input rows, best 5,000 or more; 50 at least. Two fifths fit, a fifth chooses, and two
        fifths check the budget. Of more than 20,000 rows 12,000 fit and choose; up to 100,000
        check. Rows that the model was trained on will do, but their error is lower than that of
        new rows.
    y : array-like (n,) or (n, k), optional
        Labels, of the network's ``classes``; 0 and 1 for each label of a multilabel network;
        values for a regressor. Columns of pandas, polars and pyarrow are taken too. Without them
        the budget is one of disagreement with the dense network.
    max_error_increase : float
        The budget. A classifier: increase of the share of wrong rows (0.001 is a tenth of a
        percentage point), or without `y` the share of rows whose class changes. A multilabel
        network: the same of label entries. A regressor: increase of the squared error relative to
        the targets' variance, or without `y` the squared difference relative to the dense outputs'
        variance. 0 allows nothing that is not exact.
    batch_sizes : sequence or array of int
        Rows per call to plan for; a call uses the plan of the nearest one, on a log scale.
    precision : {"auto", "f32", "int8"}
        Whether layers may be int8. ``"auto"``: decided for each batch size by measuring.
        ``"int8"``: every layer, except those that cost too much error, whatever the time.
        ``"f32"``: none.
    prune : {"proven", "never_on", "none"}
        Which units are left out. ``"proven"``: those that are provably off on the whole
        `input_range`, so that results do not change. ``"never_on"``: units as well that were never
        on in the rows that fit and choose, where the rows that check show the budget holds; it
        takes some thousands of them, and other rows may need these units. ``"none"``: none.
    confidence : float
        Level of the budget's upper bound, above 0.5 and below 1. Of networks that would be over
        the budget at most ``1 - confidence`` are returned.
    max_row_error : float, optional
        A second budget, on the worst row that checks: how far its outputs may be from the dense
        network's, in standard deviations of the outputs. For a classifier the largest change of a
        probability.
    num_threads : int, optional
        Threads that calls will use; by default those of :func:`lrgate.get_num_threads`.
    input_range : (low, high), optional
        What raw inputs are promised to stay within, numbers or arrays (d,); by default the
        network's own `input_range`. Units that are provably off in it are left out.
    ranks : sequence of int, optional
        Ranks of gates to try. By default some from 8 to 256.
    seed : int
        Of the split of the rows and of what is random in fitting. Times are measured, so that two
        runs may still choose differently.
    progress : bool, optional
        Whether to show a progress bar on stderr; by default where that is a terminal.

    Returns
    -------
    Network
        With gates, order of units, plan, probe, machine and report. Linear layers in a row are
        merged where that is less work.

    Raises
    ------
    TypeError
        For another type of model, or arguments that are not numbers.
    ValueError
        For rows of another width, too few, not finite, or outside the input range; for labels of
        another length or that the network does not have; for a budget outside 0 to 1; for ranks
        that need more rows.

    References
    ----------
    Angelopoulos, Bates, Candes, Jordan and Lei, "Learn then Test: Calibrating Predictive Algorithms
    to Achieve Risk Control", arXiv 2110.01052, 2021: fixed-sequence testing.

    Examples
    --------
    >>> import lrgate
    >>> net, x, y = lrgate.examples.mnist()
    >>> fast = lrgate.optimize(net, x, y, progress=False)
    >>> print(fast.report)  # doctest: +SKIP
    """
    begin = time.perf_counter()
    if not isinstance(model, Network):
        raise TypeError(f"model must be a Network, got {type(model).__name__}")
    budget = _checked_budget(max_error_increase)
    sizes = _checked_sizes(batch_sizes)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    threads = get_num_threads() if num_threads is None else _positive(num_threads, "num_threads")
    seed = _positive(seed, "seed", least=0)
    if prune not in PRUNES:
        raise ValueError(f"prune must be one of {', '.join(PRUNES)}, got {prune!r}")
    level = _checked_confidence(confidence)
    most = _checked_row_error(max_row_error)
    rows = checked_rows(x, model.input_size, _LEAST_ROWS)
    targets = None if y is None else checked_targets(model, y, rows.shape[0])
    user = _plain(model, input_range)
    _check_range(rows, user)
    split = Split.of(rows, targets, seed)
    asked = _Asked(budget, level, most, tuple(sizes), precision, prune, threads, seed)
    tried = _checked_ranks(ranks, split.count)
    with _progress(progress, steps=10 + 2 * (len(user.layers) - 1)) as bar:
        return _Search(user, split, asked, tried, bar).run(begin)


# --- arguments ----------------------------------------------------------------------------------


def _checked_budget(value: Any) -> float:
    if not _is_number(value):
        raise TypeError(f"max_error_increase must be a number, got {value!r}")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"max_error_increase must be from 0 to 1, got {value}")
    return float(value)


def _checked_confidence(value: Any) -> float:
    if not _is_number(value):
        raise TypeError(f"confidence must be a number, got {value!r}")
    if not 0.5 < float(value) < 1:
        raise ValueError(f"confidence must be above 0.5 and below 1, got {value}")
    return float(value)


def _checked_row_error(value: Any) -> float | None:
    if value is None:
        return None
    if not _is_number(value):
        raise TypeError(f"max_row_error must be a number or None, got {value!r}")
    if not 0 < float(value) < math.inf:
        raise ValueError(f"max_row_error must be above 0 and finite, got {value}")
    return float(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    return isinstance(value, int | float | np.integer | np.floating | Decimal | Fraction)


def _checked_sizes(batch_sizes: Any) -> list[int]:
    sizes = [_positive(size, "batch_sizes") for size in as_list(batch_sizes, "batch_sizes")]
    if not sizes:
        raise ValueError("batch_sizes must have at least one entry, got none")
    if len(set(sizes)) != len(sizes):
        raise ValueError(f"batch_sizes must be distinct, got {sizes}")
    if max(sizes) > 1 << 20:
        raise ValueError(f"batch_sizes must be at most {1 << 20} to be measured, got {max(sizes)}")
    return sorted(sizes)


def _check_range(rows: Any, network: Network) -> None:
    """Refuses rows outside the network's input range, which is what units are proven off on."""
    if network.input_range is None:
        return
    low, high = (np.broadcast_to(end, (network.input_size,)) for end in network.input_range)
    bad = _outside(rows, low, high)
    if bad is None:
        return
    row, column, value, count = bad
    more = f", and {count - 1} more rows are outside" if count > 1 else ""
    message = (
        f"x must be within input_range, got {value:g} in row {row}, column {column}, "
        f"where it is {low[column]:g} to {high[column]:g}{more}"
    )
    if network.input_scale is not None or network.input_shift is not None:
        scale = 1.0 if network.input_scale is None else network.input_scale.astype(np.float64)
        shift = 0.0 if network.input_shift is None else network.input_shift.astype(np.float64)
        some = rows[: max(1, _SCALED_VALUES // network.input_size)]
        dense = some.toarray() if hasattr(some, "toarray") else some
        scaled = dense.astype(np.float64) * scale + shift
        room = 1e-6 * np.maximum(np.abs(low), np.abs(high))
        if _outside(scaled, low - room, high + room) is None:
            message += (
                ". The rows are within it after input_scale and input_shift: it looks like one in "
                "scaled units, and must be one of raw inputs"
            )
    raise ValueError(message)


def _outside(rows: Any, low: Any, high: Any) -> tuple[int, int, float, int] | None:
    """The first value outside the bounds: row, column, value, and how many rows have one."""
    first: tuple[int, int, float] | None = None
    count = 0
    step = max(1, _SCALED_VALUES // max(rows.shape[1], 1))
    for at in range(0, rows.shape[0], step):
        part = rows[at : at + step]
        part = part.toarray() if hasattr(part, "toarray") else part
        bad = (part < low) | (part > high)
        wrong = np.flatnonzero(bad.any(axis=1))
        if len(wrong) and first is None:
            row, column = int(wrong[0]), int(np.flatnonzero(bad[wrong[0]])[0])
            first = at + row, column, float(part[row, column])
        count += len(wrong)
    return None if first is None else (*first, count)


def _positive(value: Any, name: str, least: int = 1) -> int:
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an integer, got {value}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def checked_targets(model: Network, y: npt.ArrayLike, rows: int) -> npt.NDArray[Any]:
    """Class indices (n,) of a classifier, float64 (n, k) of a regressor.

    Of a multilabel network int64 (n, k), whose entries are 0 and 1.
    """
    targets = label_array(y)
    if model.task == "multilabel":
        return _label_matrix(targets, rows, model.output_size)
    if model.classes is not None:
        if targets.shape != (rows,):
            raise ValueError(f"y must have shape ({rows},), one label a row, got {targets.shape}")
        order = np.argsort(model.classes)
        known = model.classes[order]
        if targets.dtype.kind not in ("OUS" if known.dtype.kind == "U" else "biuf"):
            raise TypeError(
                f"y must hold labels like the network's classes, of dtype {known.dtype}, "
                f"got dtype {targets.dtype}"
            )
        if targets.dtype.kind == "O":
            others = [i for i, label in enumerate(targets) if not isinstance(label, str)]
            if others:
                raise ValueError(
                    f"y must hold the network's classes, got {targets[others[0]]!r} "
                    f"in row {others[0]}"
                )
            targets = targets.astype(np.str_)
        at = np.minimum(np.searchsorted(known, targets), len(known) - 1)
        wrong = np.flatnonzero(known[at] != targets)
        if len(wrong):
            raise ValueError(
                f"y must hold the network's classes, got {targets[wrong[0]].item()!r} "
                f"in row {wrong[0]}"
            )
        return np.asarray(order[at], np.int64)
    if targets.dtype.kind not in "biuf":
        raise TypeError(f"y must be an array of real numbers, got dtype {targets.dtype}")
    outputs = model.output_size
    shapes = [(rows, outputs)] + [(rows,)] * (outputs == 1)
    if targets.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"y must have shape {expected}, got {targets.shape}")
    with np.errstate(over="ignore"):
        values = targets.astype(np.float64).reshape(rows, outputs)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(f"y must be finite, got NaN or infinity in row {bad[0]}")
    beyond = np.argwhere(np.abs(values) > np.finfo(np.float32).max)
    if len(beyond):
        row, column = (int(i) for i in beyond[0])
        raise ValueError(
            "y must be within the range of float32, as the network's outputs are, "
            f"got {values[row, column]:g} in row {row}"
        )
    return values


def _label_matrix(targets: npt.NDArray[Any], rows: int, outputs: int) -> IntArray:
    if targets.dtype.kind not in "biuf":
        raise TypeError(f"y must be an array of 0 and 1, got dtype {targets.dtype}")
    if targets.shape != (rows, outputs):
        raise ValueError(
            f"y must have shape ({rows}, {outputs}), one 0 or 1 for each label, got {targets.shape}"
        )
    others = np.argwhere((targets != 0) & (targets != 1))
    if len(others):
        row, column = others[0]
        raise ValueError(
            f"y must hold 0 and 1, got {targets[row, column]} in row {row}, column {column}"
        )
    return targets.astype(np.int64)


def _checked_ranks(ranks: Sequence[int] | None, fitted: int) -> tuple[int, ...]:
    if ranks is None:
        return tuple(rank for rank in _RANKS if rank < fitted)
    checked = sorted({_positive(rank, "ranks") for rank in as_list(ranks, "ranks")})
    if not checked:
        raise ValueError("ranks must have at least one entry, got none")
    most = int(FIT_SHARE * MOST_ROWS) - 1
    if checked[-1] > most:
        raise ValueError(f"ranks must be at most {most}, got {checked[-1]}")
    if checked[-1] >= fitted:
        needed = math.ceil((checked[-1] + 1) / FIT_SHARE)
        raise ValueError(
            f"x must have at least {needed} rows for a gate of rank {checked[-1]}: "
            f"{FIT_SHARE:.0%} of them fit, got {fitted} such rows"
        )
    return tuple(checked)


def _plain(model: Network, input_range: Any) -> Network:
    """The network without gates, orders and plan, with the input range asked for."""
    layers = [Layer(layer.weight, layer.bias, layer.activation) for layer in model.layers]
    return _of_layers(model, layers, model.input_range if input_range is None else input_range)


# --- the search ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A gate for one layer: what it loses, damages and takes (seconds a row, by class)."""

    gate: Gate
    estimator: str
    lost_energy: float
    seconds: Float64Array
    damage: float = 0.0

    def beats(self, other: _Candidate) -> bool:
        """Whether it is nowhere worse and somewhere better."""
        mine = np.append(self.seconds, self.lost_energy)
        others = np.append(other.seconds, other.lost_energy)
        return bool((mine <= others).all() and (mine < others).any())


Choice = dict[int, _Candidate]

# A layer's inputs, as estimators take them.
Inputs = Float32Array | SparseInputs


@dataclass(frozen=True)
class _Asked:
    """What the caller wants."""

    budget: float
    confidence: float
    max_row_error: float | None
    sizes: tuple[int, ...]
    precision: str
    prune: str
    threads: int
    seed: int


@dataclass(frozen=True, eq=False)
class _Trial:
    """A network as it would be returned, and the same in f32 without gates.

    `shown` holds what the check said, by batch plan.
    """

    name: str
    network: Network
    exact: Network
    choice: Choice
    pruned: bool
    shown: dict[str, Evidence] = field(default_factory=dict)


class _Search:
    """One run of `optimize`."""

    def __init__(
        self, user: Network, split: Split, asked: _Asked, ranks: tuple[int, ...], bar: Any
    ) -> None:
        self.user, self.split, self.asked = user, split, asked
        self.budget, self.precision = asked.budget, asked.precision
        self.sizes, self.threads = list(asked.sizes), asked.threads
        self.ranks, self.seed = ranks, asked.seed
        self.bar = bar
        self.notes: list[str] = []
        self.tests: list[CheckReport] = []
        layers, spans = merging.merged(user.layers)
        fewer = len(layers) < len(user.layers)
        self.base = _of_layers(user, layers, user.input_range) if fewer else user
        named = [f"{first} to {last}" for first, last in spans if first < last]
        if named:
            self.notes.append(
                f"layers {', '.join(named)} are linear in a row and merged: layers are counted "
                "after that"
            )
        self.work = sum(layer.inputs * layer.outputs for layer in layers)
        self.checked = int(split.check.shape[0])
        self.pruned = False
        self.chooser, self.calibration = self._chooser()
        self.checker: Evaluator | None = None
        self.first: _Trial | None = None

    def run(self, begin: float) -> Network:
        """The whole search."""
        self._step("looking at the units")
        signals = self._signals(self.split.fit), self._signals(self.split.tune)
        dead = self._dead()
        silent = self._shown_silent(dead, self._silent(dead))
        kept = [~(a | b) for a, b in zip(dead, silent, strict=True)]
        natural = [np.flatnonzero(mask) for mask in kept]
        orders, always = self._orders(signals[0], kept)

        self._step("measuring dense and skip")
        core = _reduced(self.base, orders)
        exact = self._exact(core)
        plain = self._quantized(core, exact)
        plainly = all(np.array_equal(a, b) for a, b in zip(orders, natural, strict=True))
        plainly = plainly or self.work > _LARGE
        speed_up = None if plainly else self._order_speed_up(exact, orders, natural)
        ordered = not plainly and self._order_pays(plain, orders, natural)
        path: list[Choice] | None = None
        chosen: list[tuple[int, int]] = []

        def made(name: str, network: Network, choice: Choice) -> _Trial:
            full = [self._in_full(each, orders, natural, ordered) for each in (network, exact)]
            unused = full[0]._with_engine_plan(full[0].engine.with_plan(full[1].engine.plan()))
            return _Trial(name, full[0], unused, choice, self.pruned)

        def gated(share: float) -> _Trial | None:
            nonlocal path, chosen
            if path is None:
                path = self._choices(core, plain, signals, orders, always)
            choice = self._fastest_within(plain, path, share)
            if not choice or _names(choice) == chosen:
                return None
            chosen = _names(choice)
            fast = self._with_choice(plain, choice)
            if not _gated_layers(fast):
                return None
            return made(f"gates for {share:.0%} of the budget", fast, choice)

        builders: list[Callable[[], _Trial | None]] = []
        if self.pruned:
            builders.append(lambda: made("units never on left out", exact, {}))
        if any(_is_int8(plain, size) for size in self.sizes):
            builders.append(lambda: made("int8 without gates", plain, {}))
        if self.budget > 0:
            builders += [lambda share=share: gated(share) for share in _BUDGET_SHARES]  # type: ignore[misc]
        best = None if self.pruned else made("f32 without gates", exact, {})
        for build in builders:
            trial = build()
            if trial is None:
                continue
            self.first = self.first or trial
            if not self._passes(trial):
                break
            best = trial
        if best is None:
            self.pruned, silent = False, [np.zeros_like(mask) for mask in silent]
            best = self._all_units(dead)
            ordered = False

        self._step("reporting")
        result, batches = self._batch_reports(best)
        report = self._report(best, result, batches, begin)
        report = replace(
            report,
            dead_units=tuple(int(mask.sum()) for mask in dead),
            dropped_units=tuple(int(mask.sum()) for mask in silent),
            order_speed_up=speed_up,
            order_used=ordered,
            notes=(*self.notes, *self._unit_notes(dead, silent), *self._verdict(result, path)),
        )
        return self._finished(result, report)

    def _step(self, text: str) -> None:
        self.bar.update(1)
        self.bar.set_description(text)

    def _chooser(self) -> tuple[Evaluator, Calibration]:
        """What judges on the rows that choose, and what margins mean by the labels so far."""
        split = self.split
        fitted = self.user.forward(split.fit)
        calibration = Calibration()
        if split.tune_targets is not None and self.user.task != "regression":
            outputs = np.concatenate([self.user.forward(split.tune), fitted])
            assert split.fit_targets is not None
            targets = np.concatenate([split.tune_targets, split.fit_targets])
            activation = self.user.layers[-1].activation.name
            calibration = calibrated(outputs, targets, self.user.task, activation)
        judge = Evaluator(
            self.user, split.tune, split.tune_targets, others=fitted, calibration=calibration
        )
        return judge, calibration

    # Units

    def _signals(self, rows: Any) -> list[Float32Array | SparseInputs]:
        """Every layer's inputs on as many of the rows as memory allows.

        Raw rows that are sparse and would be large as dense ones stay sparse.
        """
        widths = [layer.inputs for layer in self.base.layers]
        sparse = hasattr(rows, "toarray") and rows.shape[0] * widths[0] > _MOST_VALUES // 4
        rows = rows[: max(_MOST_VALUES // max(sum(widths[sparse:]), 1), 256)]
        dense = self.base.dense()
        if not sparse:
            return list(dense.layer_inputs(rows))
        first = SparseInputs(rows, self.base.input_scale, self.base.input_shift)
        return [first, *dense.engine.hidden_inputs(rows)]

    def _dead(self) -> Masks:
        """Units that are off on the whole declared input range."""
        layers = self.base.layers
        span = self.base.input_range
        if span is None or self.asked.prune == "none":
            return [np.zeros(layer.outputs, np.bool_) for layer in layers]
        scale = 1.0 if self.base.input_scale is None else self.base.input_scale.astype(np.float64)
        shift = 0.0 if self.base.input_shift is None else self.base.input_shift.astype(np.float64)
        ends = np.stack(np.broadcast_arrays(*(end * scale + shift for end in span)))
        *dead, _ = units.proven_dead(layers, ends.min(axis=0), ends.max(axis=0))
        return [_keep_one(mask) for mask in dead] + [np.zeros(layers[-1].outputs, np.bool_)]

    def _silent(self, dead: Masks) -> Masks:
        """Units that are never on in the rows that fit and choose, other than the dead ones."""
        silent = [np.zeros_like(mask) for mask in dead]
        if self.budget == 0 or self.asked.prune != "never_on":
            return silent
        hidden = self.base.layers[:-1]
        on = [np.zeros(layer.outputs, np.bool_) for layer in hidden]
        engine = self.base.dense().engine
        step = max(1, _MOST_VALUES // 16 // max(sum(layer.outputs for layer in hidden), 1))
        for rows in self.split.fit, self.split.tune:
            for at in range(0, rows.shape[0], step):
                values = engine.hidden_inputs(rows[at : at + step])
                for seen, part in zip(on, values, strict=True):
                    seen |= (part != 0).any(axis=0)
        for i, layer in enumerate(hidden):
            if layer.activation.has_hard_zero:
                silent[i] = _keep_one(~on[i] & ~dead[i], dead[i])
        return silent

    def _shown_silent(self, dead: Masks, silent: Masks) -> Masks:
        """The same where the rows that check are enough to show what leaving them out costs."""
        if self.asked.prune == "never_on" and self.budget == 0:
            self.notes.append("a budget of 0 keeps units that were never on")
        if not any(mask.any() for mask in silent):
            return silent
        trial = _reduced(
            self.base, [np.flatnonzero(~(a | b)) for a, b in zip(dead, silent, strict=True)]
        )
        self.pruned = True
        found = self._chosen_evidence(trial)
        if self._likely(found, 1.0):
            return silent
        self.pruned = False
        self.notes.append(f"units that were never on are kept: {self._lacking(found, _SPARE)}")
        return [np.zeros_like(mask) for mask in silent]

    def _orders(self, inputs: Any, kept: Masks) -> tuple[list[IntArray], list[int]]:
        """Each layer's units in order, and how many at the end are always on."""
        orders, always = [], []
        for i, layer in enumerate(self.base.layers):
            order, count = np.flatnonzero(kept[i]), 0
            if i + 1 < len(inputs) and layer.activation.has_hard_zero:
                active = inputs[i + 1][:, order] != 0
                on = active.mean(axis=0) >= _ALWAYS_ON
                count = int(on.sum())
                changing = order[~on]
                if len(changing) and self.work <= _LARGE:
                    changing = changing[units.co_activation_order(active[:, ~on])]
                order = np.concatenate([changing, order[on]])
            orders.append(order)
            always.append(count)
        return orders, always

    def _all_units(self, dead: Masks) -> _Trial:
        """The exact network of all units that are not proven off."""
        natural = [np.flatnonzero(~mask) for mask in dead]
        exact = self._in_full(self._exact(_reduced(self.base, natural)), natural, natural, False)
        return _Trial("f32 without gates", exact, exact, {}, False)

    # Precision

    def _exact(self, core: Network) -> Network:
        """The fastest plan in f32 without gates, dense where nothing is faster."""
        tuned, dense = self._tuned(core), core.dense()
        plan = [self._settled(size, dense=dense, exact=tuned) for size in self.sizes]
        return tuned._with_engine_plan(tuned.engine.with_plan(plan))

    def _quantized(self, core: Network, exact: Network) -> Network:
        """The fastest plan without gates: in each class f32, or int8 where it may be."""
        self._step("quantising")
        if self.precision == "int8" and self.budget == 0:
            self.notes.append("int8 is not exact: a budget of 0 leaves all layers f32")
        if self.precision == "f32" or self.budget == 0:
            return exact
        layers = [i for i, layer in enumerate(core.layers) if layer.inputs <= MOST_INPUTS]
        damage = Divergence(core, self._damage_rows())
        alone: dict[int, float] = {}
        while layers:
            quantized = self._int8(core, layers)
            found = self._chosen_evidence(quantized)
            if self._likely(found, 1.0):
                break
            if not alone:
                alone = {i: damage.of(self._int8(core, [i])) for i in layers}
            worst = max(layers, key=lambda i: alone[i])
            layers.remove(worst)
            self.notes.append(f"layer {worst} stays f32: int8 {self._lacking(found, _SPARE)}")
        layers = [i for i in layers if quantized.layers[i].quantization is not None]
        if not layers:
            return exact
        tuned = self._tuned(quantized)
        if self.precision == "int8":
            plan = [self._settled(size, dense=quantized, int8=tuned) for size in self.sizes]
        else:
            plan = [self._settled(size, exact=exact, int8=tuned) for size in self.sizes]
        if all(set(words) == {"f32"} for _, _, words in plan):
            self.notes.append("int8 is not faster here: all layers are f32")
            return exact
        return quantized._with_engine_plan(quantized.engine.with_plan(plan))

    def _int8(self, core: Network, layers: list[int]) -> Network:
        """The network with these layers in int8, as far as they can be."""
        return fit_int8(core, self.split.fit, layers)[0]

    # What rows say

    def _chosen_evidence(self, network: Network) -> list[Evidence]:
        """What the rows that choose say of each of the network's batch plans."""
        return [
            self.chooser.evidence(_only(network, size).forward(self.split.tune), unseen=self.pruned)
            for size in _distinct(network)
        ]

    def _likely(self, found: list[Evidence], share: float) -> bool:
        """Whether the rows that check are likely to show a share of the budget kept."""
        most = self.asked.max_row_error
        return all(
            evidence.upper(self.asked.confidence, self.checked, _SPARE) <= share * self.budget
            and (most is None or evidence.worst <= _ROW_SPARE * most)
            for evidence in found
        )

    def _passes(self, trial: _Trial) -> bool:
        """Whether the rows that check show that the network keeps the budget in every class."""
        self._step("checking")
        if self.checker is None:
            seen = self.chooser.all  # the dense outputs on the other rows
            self.checker = Evaluator(
                self.user,
                self.split.check,
                self.split.targets,
                others=seen,
                calibration=self.calibration,
            )
        found = []
        for size in _distinct(trial.network):
            if not trial.pruned and _is_exact(trial.network, size):
                continue
            network = _only(trial.network, size)
            before = self.chooser.evidence(network.forward(self.split.tune), unseen=trial.pruned)
            evidence = self.checker.evidence(
                network.forward(self.split.check), unseen=trial.pruned, reach=before.largest
            )
            trial.shown[_plan_key(trial.network, size)] = evidence
            found.append(evidence)
        level, most = self.asked.confidence, self.asked.max_row_error
        failed = [each for each in found if not each.within(self.budget, level, most)]
        self.tests.append(
            CheckReport(
                network=trial.name,
                increase=max(each.estimate for each in found),
                upper=max(each.upper(level) for each in found),
                worst_row=max(each.worst for each in found),
                passed=not failed,
            )
        )
        if failed:
            self.notes.append(f"{trial.name}: not used, {self._lacking(failed, 0.0)}")
        return not failed

    def _lacking(self, found: list[Evidence], spare: float) -> str:
        """Why a network is not used: what it costs, or how many rows would show that it may be."""
        level, most = self.asked.confidence, self.asked.max_row_error
        worst = max(each.worst for each in found)
        if most is not None and worst > (_ROW_SPARE if spare else 1.0) * most:
            return f"changes its worst row too much ({worst:.3g}, {most:g} allowed)"
        needed = [each.needed(self.budget, level, spare) for each in found]
        known = [count for count in needed if count is not None]
        if len(known) < len(needed) or any(each.lower(level) > self.budget for each in found):
            expected = max(each.estimate for each in found)
            return f"costs too much error, about {100 * expected:.2g} points"
        total = max(known) / CHECK_SHARE
        if total > MOST_ROWS:
            total = max(known) + (1 - CHECK_SHARE) * MOST_ROWS
        return (
            f"cannot be shown to keep the budget by {self.checked} rows held back; "
            f"about {_rounded(total):,} rows in all would show it"
        )

    # Candidates and their choice

    def _choices(
        self, core: Network, plain: Network, signals: Any, orders: list[IntArray], always: list[int]
    ) -> list[Choice]:
        """Choices of gates, from the fastest to the least damaging."""
        seconds = self._exact_seconds(plain)
        damage = Divergence(core, self._damage_rows())
        options: dict[int, list[_Candidate]] = {}
        fits: dict[int, estimators.Estimate] = {}

        def inputs(i: int) -> tuple[Inputs, Inputs]:
            parts = [part[i] if i == 0 else part[i][:, orders[i - 1]] for part in signals]
            return parts[0], parts[1]

        for i, layer in enumerate(core.layers[:-1]):
            self._step(f"fitting layer {i}")
            rows = inputs(i)
            if not layer.activation.has_hard_zero or always[i] >= layer.outputs:
                continue
            ranks = self._ranks(layer, rows[0])
            if ranks:
                options[i] = []
                for coarse in registry.of_stage("coarse"):
                    estimate = coarse.fit(layer, rows[0], ranks, None, self.seed)
                    fits.setdefault(i, estimate)
                    options[i] += self._candidates(estimate, ranks, layer, rows, always[i])
        self._step("measuring gates")
        options = self._measured(plain, options)
        refined: dict[int, list[_Candidate]] = {}
        for i, found in options.items():
            self._step(f"refining layer {i}")
            layer, rows = core.layers[i], inputs(i)
            near = {c.gate.rank for c in found if (c.seconds < _NEAR * seconds[i]).any()}
            ranks = [k for k in sorted(near) if self._may_refine(layer, len(rows[0]), k)]
            if ranks:
                refined[i] = []
                for fine in registry.of_stage("refine"):
                    estimate = fine.fit(layer, rows[0], ranks, fits[i], self.seed)
                    refined[i] += self._candidates(estimate, ranks, layer, rows, always[i])
        for i, found in self._measured(plain, refined).items():
            options[i] = options[i] + found
        self._step("judging gates")
        kept = {i: self._frontier(found, seconds[i]) for i, found in options.items()}
        kept = {
            i: [replace(c, damage=damage.of(core.with_gates({i: c.gate}))) for c in found]
            for i, found in kept.items()
        }
        self._step("choosing")
        return _path(kept, seconds)

    @staticmethod
    def _may_refine(layer: Layer, rows: int, rank: int) -> bool:
        """Whether training an estimate of this rank, 20 epochs, is a fair share of the time."""
        return 120 * rows * rank * (layer.inputs + layer.outputs) <= _REFINEMENT_WORK

    def _damage_rows(self) -> Any:
        """Rows that choose, as many as a network of this size is looked at often."""
        return self.split.tune[: max(int(_DAMAGE_WORK / max(self.work, 1)), 64)]

    def _ranks(self, layer: Layer, inputs: Inputs) -> list[int]:
        """Ranks whose estimate costs at most 0.6 of what skip would do of the layer."""
        d, h = layer.inputs, layer.outputs
        if isinstance(inputs, SparseInputs):
            density = inputs.density
        else:
            density = float((inputs != 0).mean())
        work = min(density, 1.0) * d * h
        wide = d * h > _WIDE and self.ranks == tuple(k for k in _RANKS if k <= max(self.ranks))
        tried = [k for k in self.ranks if k in _WIDE_RANKS] if wide else self.ranks
        return [k for k in tried if k <= min(d, h) and k * (density * d + h) <= 0.6 * work]

    def _candidates(
        self,
        estimate: estimators.Estimate,
        ranks: Sequence[int],
        layer: Layer,
        rows: tuple[Inputs, Inputs],
        always: int,
    ) -> list[_Candidate]:
        """Gates of several ranks and thresholds, not measured yet."""
        found = []
        for rank in ranks:
            gate = estimate.gate(rank)
            gate = replace(gate, range=gate_range(gate, rows[0]))
            gate = _always_on(gate, always)
            path = estimators.ThresholdPath(layer, gate, rows[1])
            wide = layer.inputs * layer.outputs > _WIDE
            for lost in _WIDE_LOST_ENERGIES if wide else _LOST_ENERGIES:
                tuned = replace(path.gate(lost_energy=lost), range=gate.range)
                tuned = _always_on(tuned, always)
                found.append(_Candidate(tuned, estimate.method, lost, np.zeros(len(self.sizes))))
        return found

    def _measured(
        self, plain: Network, options: dict[int, list[_Candidate]]
    ) -> dict[int, list[_Candidate]]:
        """The candidates with their times: one of each layer at once."""
        measured: dict[int, list[_Candidate]] = {i: [] for i in options}
        for at in range(max(map(len, options.values()), default=0)):
            now = {i: found[at] for i, found in options.items() if at < len(found)}
            network = _gated(plain, {i: candidate.gate for i, candidate in now.items()})
            seconds = self._layer_seconds(network)
            for i, candidate in now.items():
                measured[i].append(replace(candidate, seconds=seconds[i]))
        return measured

    def _exact_seconds(self, plain: Network) -> Float64Array:
        """Each layer's fastest time without gates, (layers, classes), at its precisions."""
        uniform = [_uniform(plain, name) for name in ("dense", "skip")]
        return np.minimum(*(self._layer_seconds(network) for network in uniform))

    def _layer_seconds(self, network: Network) -> Float64Array:
        """Seconds per row of each layer in each class, (layers, classes)."""
        # Each row of a large network takes its time, most of all alone: it streams all weights.
        most = int(np.clip(_LAYER_WORK / max(self.work, 1), 16, _LAYER_ROWS))
        rows = _cycled(self.split.tune, most)
        # Large classes are measured alike, so where their layers are too it is done once.
        found: dict[Any, list[float]] = {}
        columns = []
        for size in self.sizes:
            count = min(size, most)
            _, *plan = _plan_of(network, size)
            key = count, repr(plan)
            if key not in found:
                whole = rows[: most // count * count]
                engine = _only(network, size).engine
                found[key] = engine.layer_seconds(whole, count, _LAYER_SECONDS)
            columns.append(found[key])
        return np.array(columns).T

    def _frontier(self, found: list[_Candidate], exact: Float64Array) -> list[_Candidate]:
        """Those that are faster than exact somewhere and that no other one beats."""
        fast = [c for c in found if (c.seconds < _PROMISE * exact).any()]
        return [c for c in fast if not any(other.beats(c) for other in fast)]

    def _fastest_within(self, plain: Network, path: list[Choice], share: float) -> Choice:
        """The first choice of a path of less and less damage likely to keep a share of the budget.

        Where none is, a note says what is lacking.
        """
        first, last = 0, len(path)
        while first < last:  # the choices from `last` on are likely to be within the budget
            middle = (first + last) // 2
            if self._likely(self._chosen_evidence(_gated(plain, _gates(path[middle]))), share):
                last = middle
            else:
                first = middle + 1
        if last < len(path):
            return path[last]
        if path and share == _BUDGET_SHARES[-1]:
            found = self._chosen_evidence(_gated(plain, _gates(path[-1])))
            self.notes.append(f"no gate is used: the least damaging {self._lacking(found, _SPARE)}")
        return {}

    def _with_choice(self, plain: Network, choice: Choice) -> Network:
        """The plan with gates in the classes in which they pay."""
        fast = _gated(plain, _gates(choice))
        tuned = self._tuned(fast)
        plan = [self._settled(size, plain=plain, fast=tuned) for size in self.sizes]
        return tuned._with_engine_plan(tuned.engine.with_plan(plan))

    # Whole calls

    def _tuned(self, network: Network) -> Network:
        """The network with the fastest plan of every class."""
        rows = _cycled(self.split.tune, 256)
        engine = network.engine.tune(rows, self.sizes, _PLAN_SECONDS, self.threads)
        return network._with_engine_plan(engine)

    def _settled(self, size: int, **networks: Network) -> Any:
        """The batch plan of the first of these networks that no later one clearly beats."""
        names = list(networks)
        plans = {name: _plan_of(network, size) for name, network in networks.items()}
        if all(plan == plans[names[0]] for plan in plans.values()):
            return plans[names[0]]
        times = self._race(size, _RACE_SECONDS, **networks)
        best = names[0]
        for name in names[1:]:
            if times[name].speed_up_over(times[best]).median >= _MUST_GAIN:
                best = name
        return plans[best]

    def _race(
        self, size: int, seconds: float, rows: Any = None, **networks: Network
    ) -> dict[str, timing.Timing]:
        """Times of whole calls under the plans for `size` rows, by turns, on rows that choose.

        Large calls are made of tiles, so that a part is as good as the whole.
        """
        rows = self.split.tune if rows is None else rows
        count = min(size, _MOST_RACED * self.threads)
        if count * self.work > _MOST_RACED_WORK:
            count = min(count, max(256, int(_MOST_RACED_WORK / self.work)))
        calls = _batches(_cycled(rows, count), count)
        contestants = {
            name: _caller(_only(network, size), self.threads) for name, network in networks.items()
        }
        return timing.interleaved(contestants, calls, seconds, min_rounds=3)

    def _order_speed_up(
        self, exact: Network, orders: list[IntArray], natural: list[IntArray]
    ) -> float:
        """What the order of units brings without gates, at the smallest class."""
        plain = _reordered(exact, self.base, orders, natural)
        times = self._race(self.sizes[0], _RACE_SECONDS, ordered=exact, unordered=plain)
        return times["ordered"].speed_up_over(times["unordered"]).median

    def _order_pays(self, plain: Network, orders: list[IntArray], natural: list[IntArray]) -> bool:
        """Whether the plan is faster in the order found than in the user's own, and nowhere slower.

        Over all classes together it must gain as much as any other choice.
        """
        unordered = _reordered(plain, self.base, orders, natural)
        gains = []
        for size in self.sizes:
            times = self._race(size, _RACE_SECONDS, ordered=plain, unordered=unordered)
            gains.append(times["ordered"].speed_up_over(times["unordered"]).median)
        least = _MUST_GAIN ** (1 / len(gains))
        return math.prod(gains) ** (1 / len(gains)) >= least and min(gains) >= 1 / _MUST_GAIN

    def _in_full(
        self, fast: Network, orders: list[IntArray], natural: list[IntArray], ordered: bool
    ) -> Network:
        """The result: the whole layers, with orders, gates and plan."""
        layers = self.base.layers
        computed = orders if ordered else natural
        named = {
            i: order
            for i, order in enumerate(computed)
            if not np.array_equal(order, np.arange(layers[i].outputs))
        }
        used = _gated_layers(fast)
        gates: dict[int, Gate] = {}
        for i in used:
            gate = fast.layers[i].gate
            assert gate is not None
            before = np.arange(layers[0].inputs) if i == 0 else orders[i - 1]
            gates[i] = _widened(gate, before, orders[i], layers[i])
        result = self.base.with_units(named) if named else self.base
        bytes_of = [
            quantization if i == 0 else widened(quantization, orders[i - 1], layer.inputs)
            for i, (quantization, layer) in enumerate(zip(_used_bytes(fast), layers, strict=True))
        ]
        result = result.with_quantization(bytes_of)
        if gates:
            result = result.with_gates(gates)
        return result._with_engine_plan(result.engine.with_plan(fast.engine.plan()))

    # The report

    def _batch_reports(self, trial: _Trial) -> tuple[Network, tuple[BatchReport, ...]]:
        """The reports, and the result: exact in classes in which that is not slower after all.

        The last race is on other rows than those that chose. Only plans without error, or whose
        error was shown before, take the place of what was checked.
        """
        result, reports, plan = trial.network, [], []
        dense = trial.exact.dense()
        for size in self.sizes:
            names = {"dense": dense, "exact": trial.exact, "after": result}
            times = self._race(
                size,
                _LAST_RACE_SECONDS,
                self.split.fit,
                dense=self.user.dense(),
                exact=trial.exact,
                after=result,
            )
            used = "after"
            if self.precision != "int8" and not _is_dense(result, size):
                used = max(("after", "exact", "dense"), key=lambda name: _rate(times[name]))
            if used == "after" or _plan_of(names[used], size) == _plan_of(result, size):
                used = "after"
            plan.append(_plan_of(names[used], size))
            final = result._with_engine_plan(result.engine.with_plan([plan[-1]]))
            timed = {"dense": times["dense"], "exact": times["exact"], "after": times[used]}
            reports.append(self._batch_report(size, final, timed, trial.choice))
        return result._with_engine_plan(result.engine.with_plan(plan)), tuple(reports)

    def _batch_report(
        self, size: int, result: Network, times: dict[str, timing.Timing], choice: Choice
    ) -> BatchReport:
        rows = _cycled(self.split.check, min(max(size, 256), _PROFILE_ROWS))
        rows = rows[: MOST_ROWS if self.work <= _LARGE else _PROFILE_ROWS]
        timed: dict[str, Any] = {"batch_size": size, "seconds": _PROFILE_SECONDS}
        # Shares are told of all rows, times of the same few before and after.
        shares = result.profile(rows, batch_size=size, seconds=0.0).layers
        few = rows[: _PROFILE_ROWS if self.work <= _LARGE else _LAYER_ROWS]
        before, after = (
            [layer.seconds_per_row for layer in network.profile(few, **timed).layers]
            for network in (self.base.dense(), result)
        )
        layers = tuple(
            self._layer_report(i, layer, before[i], after[i], choice)
            for i, layer in enumerate(shares)
        )
        costs = [(layer, layer.inputs * layer.outputs) for layer in layers]
        predicted = sum(cost for _, cost in costs) / sum(
            cost * _paper_share(layer) for layer, cost in costs
        )
        return BatchReport(
            rows=size,
            layers=layers,
            seconds_dense=times["dense"].seconds_per_row,
            seconds_exact=times["exact"].seconds_per_row,
            seconds_after=times["after"].seconds_per_row,
            over_dense=times["after"].speed_up_over(times["dense"]),
            over_exact=times["after"].speed_up_over(times["exact"]),
            predicted_speed_up=predicted,
        )

    def _report(
        self, trial: _Trial, result: Network, batches: tuple[BatchReport, ...], begin: float
    ) -> OptimizeReport:
        """The report, of the worst class; what it says of the budget was seen in the check."""
        found = []
        for size in _distinct(result):
            if trial.pruned or not _is_exact(result, size):
                found.append(self._stored(trial, result, size))
        level = self.asked.confidence
        for evidence in found:
            if not evidence.within(self.budget, level, self.asked.max_row_error):
                raise RuntimeError("a network would be returned that failed its check")
        judge = self.checker or Evaluator(self.user, self.split.check, self.split.targets)
        worst = max(found, key=lambda each: each.upper(level), default=None)
        error = judge.error(judge.dense) if worst is None else worst.plain
        return OptimizeReport(
            batches=batches,
            measure=judge.measure,
            error_before=error.before,
            error_after=error.after,
            error_increase=error.increase,
            error_increase_low=error.low,
            error_increase_high=error.high,
            expected_increase=0.0 if worst is None else worst.estimate,
            increase_bound=0.0 if worst is None else worst.upper(level),
            confidence=level,
            budget=self.budget,
            worst_row_error=max((each.worst for each in found), default=0.0),
            max_row_error=self.asked.max_row_error,
            tests=tuple(self.tests),
            prune=self.asked.prune,
            rows_fitted=self.split.count,
            rows_tuned=int(self.split.tune.shape[0]),
            rows_checked=self.checked,
            dead_units=(),
            dropped_units=(),
            order_speed_up=None,
            order_used=False,
            num_threads=self.threads,
            machine=machine.fingerprint(),
            seed=self.seed,
            seconds=time.perf_counter() - begin,
            notes=(),
        )

    def _stored(self, trial: _Trial, result: Network, size: int) -> Evidence:
        """What the check said of a batch plan of the result."""
        key = _plan_key(result, size)
        if key in trial.shown:
            return trial.shown[key]
        # In f32 without gates, so that only units are left out: the first trial's.
        assert self.first is not None
        return next(iter(self.first.shown.values()))

    def _unit_notes(self, dead: Masks, silent: Masks) -> list[str]:
        notes = []
        if any(mask.any() for mask in dead):
            notes.append(
                "units proven off on input_range are left out: rows outside it may give other "
                "results than the full network"
            )
        if any(mask.any() for mask in silent):
            notes.append(
                "units never on in these rows are left out: rows that switch them on give other "
                'results than the full network, in f32 too; prune="proven" keeps them'
            )
        return notes

    def _layer_report(
        self, i: int, layer: LayerProfile, before: float, after: float, choice: Choice
    ) -> LayerReport:
        gated = layer.strategy == "gate"
        return LayerReport(
            inputs=layer.inputs,
            outputs=layer.outputs,
            computed_units=layer.outputs,
            strategy=layer.strategy,
            precision=layer.precision,
            rank=layer.rank,
            estimator=choice[i].estimator if gated else None,
            computed_share=layer.computed_share,
            recall=layer.recall,
            lost_energy=layer.lost_energy,
            density_in=layer.density_in,
            density_out=layer.density_out,
            flop_share=layer.flop_share,
            seconds_before=before,
            seconds_after=after,
        )

    def _verdict(self, result: Network, path: list[Choice] | None) -> list[str]:
        used = {name for plan in result.plan for name in plan.strategies}
        if all(_is_dense(result, size) for size in self.sizes):
            return ["nothing is faster than dense here: the plan is dense"]
        if "gate" not in used and path is not None:
            return ["no gate pays within the budget here"]
        return []

    def _finished(self, result: Network, report: OptimizeReport) -> Network:
        """The result with everything that a file keeps."""
        units_computed = [
            layer.outputs if layer.kept_units is None else len(layer.kept_units)
            for layer in result.layers
        ]
        batches = tuple(
            replace(
                batch,
                layers=tuple(
                    replace(layer, computed_units=count)
                    for layer, count in zip(batch.layers, units_computed, strict=True)
                ),
            )
            for batch in report.batches
        )
        # An older probe's outputs are those of units that may have been left out.
        rows = self.split.check[:_PROBE_ROWS] if result.probe is None else result.probe.x
        result = result.with_probe(rows.toarray() if hasattr(rows, "toarray") else rows)
        return result._with(
            result.engine,
            machine=machine.fingerprint(),
            report=replace(report, batches=batches).to_dict(),
        )


def _path(options: dict[int, list[_Candidate]], exact: Float64Array) -> list[Choice]:
    """Choices for prices on damage from none to a high one, without repeats: fastest first.

    A class uses a layer's gate where that is worth its damage; a layer has one gate for all
    classes. Times count relative to the class's fastest exact plan.
    """
    totals = exact.sum(axis=0)
    choices: list[Choice] = []
    for price in [0.0, *np.geomspace(1e-3, 1e7, 81)]:
        choice: Choice = {}
        for i, found in options.items():
            least = float((exact[i] / totals).sum())
            for candidate in found:
                gated = (candidate.seconds + price * candidate.damage * totals) / totals
                promised = candidate.seconds < _PROMISE * exact[i]
                cost = float(
                    np.where(
                        promised, np.minimum(gated, exact[i] / totals), exact[i] / totals
                    ).sum()
                )
                if cost < least:
                    least, choice[i] = cost, candidate
        if choice and (not choices or _names(choice) != _names(choices[-1])):
            choices.append(choice)
    return choices


def _names(choice: Choice) -> list[tuple[int, int]]:
    return sorted((i, id(candidate)) for i, candidate in choice.items())


# --- networks in other shapes -------------------------------------------------------------------


def _reduced(base: Network, orders: list[IntArray]) -> Network:
    """A network of only these units, in this order: what the engine would compute."""
    layers = []
    before: IntArray | None = None
    for layer, order in zip(base.layers, orders, strict=True):
        weight = layer.weight[order]
        weight = weight if before is None else weight[:, before]
        layers.append(Layer(weight, layer.bias[order], layer.activation))
        before = order
    model = Model(
        layers=tuple(layers),
        task=base.task,
        classes=base._model.classes,
        input_scale=base.input_scale,
        input_shift=base.input_shift,
    )
    return Network(model)


def _reordered(
    fast: Network, base: Network, orders: list[IntArray], natural: list[IntArray]
) -> Network:
    """The same gates and plan with the units in their natural order."""
    network = _reduced(base, natural)
    gates: dict[int, Gate] = {}
    for i, layer in enumerate(fast.layers):
        if layer.gate is not None:
            rows = np.arange(layer.inputs) if i == 0 else np.argsort(orders[i - 1])
            columns = np.argsort(orders[i])
            gate = layer.gate
            gates[i] = replace(gate, u=gate.u[rows], v=gate.v[:, columns], bias=gate.bias[columns])
    bytes_of = [
        layer.quantization if i == 0 else selected(layer.quantization, np.argsort(orders[i - 1]))
        for i, layer in enumerate(fast.layers)
    ]
    network = network.with_quantization(bytes_of)
    if gates:
        network = network.with_gates(gates)
    return network._with_engine_plan(network.engine.with_plan(fast.engine.plan()))


def _widened(gate: Gate, before: IntArray, order: IntArray, layer: Layer) -> Gate:
    """A gate of the computed units at full width: the other units are off."""
    u = np.zeros((layer.inputs, gate.rank), np.float32)
    u[before] = gate.u
    v = np.zeros((gate.rank, layer.outputs), np.float32)
    v[:, order] = gate.v
    bias = np.full(layer.outputs, -1.0, np.float32)
    bias[order] = gate.bias
    return replace(gate, u=u, v=v, bias=bias)


def _uniform(network: Network, name: str) -> Network:
    """The network with one strategy in all layers and classes, at the precisions it has."""
    plan = [(rows, [name] * len(names), kinds) for rows, names, kinds in network.engine.plan()]
    return network._with_engine_plan(network.engine.with_plan(plan))


def _always_on(gate: Gate, count: int) -> Gate:
    """The gate with its last units on whatever the row: they need no score."""
    if count == 0:
        return gate
    v, bias = gate.v.copy(), gate.bias.copy()
    v[:, -count:], bias[-count:] = 0.0, 1.0
    return replace(gate, v=v, bias=bias)


def _of_layers(network: Network, layers: Sequence[Layer], input_range: Any) -> Network:
    """A network of other layers and range with all else that `network` has."""
    made = Network.from_layers(
        list(layers),
        task=network.task,
        classes=None if network.task == "regression" else network._model.classes,
        input_scale=network.input_scale,
        input_shift=network.input_shift,
        input_range=input_range,
    )
    return made._with(made.engine, probe=network.probe, metadata=network.metadata)


def _gates(choice: Choice) -> dict[int, Gate]:
    return {i: candidate.gate for i, candidate in choice.items()}


def _gated(plain: Network, gates: dict[int, Gate]) -> Network:
    """The network with gates in every class, at the precisions that it has there."""
    network = plain.with_gates(gates)
    plan = [
        (rows, ["gate" if i in gates else name for i, name in enumerate(names)], words)
        for rows, names, words in plain.engine.plan()
    ]
    return network._with_engine_plan(network.engine.with_plan(plan))


def _used_bytes(network: Network) -> list[Any]:
    """The quantization of layers that some class runs in int8."""
    return [
        layer.quantization if any(plan.precisions[i] == "int8" for plan in network.plan) else None
        for i, layer in enumerate(network.layers)
    ]


def _distinct(network: Network) -> list[int]:
    """Sizes of classes whose plans differ."""
    sizes: dict[str, int] = {}
    for plan in network.plan:
        sizes.setdefault(_plan_key(network, plan.rows), plan.rows)
    return list(sizes.values())


def _plan_key(network: Network, size: int) -> str:
    """Strategies and precisions of a class, as text."""
    _, names, words = _plan_of(network, size)
    return " ".join([*names, *words])


def _is_exact(network: Network, size: int) -> bool:
    """Whether calls of `size` rows are in f32 without gates."""
    _, names, words = _plan_of(network, size)
    return "gate" not in names and set(words) == {"f32"}


def _is_int8(network: Network, size: int) -> bool:
    """Whether calls of `size` rows are in int8 in some layer."""
    return "int8" in _plan_of(network, size)[2]


def _rate(times: timing.Timing) -> float:
    return 1.0 / float(np.median(times.rounds))


def _rounded(rows: float) -> int:
    """A number of rows with two digits, not less."""
    step = 10 ** max(int(math.log10(max(rows, 1))) - 1, 0)
    return int(math.ceil(rows / step) * step)


def _gated_layers(network: Network) -> list[int]:
    """Layers whose gate some class uses."""
    return [
        i
        for i in range(len(network.layers))
        if any(plan.strategies[i] == "gate" for plan in network.plan)
    ]


def _only(network: Network, size: int) -> Network:
    """The network with its plan for `size` rows in calls of any size."""
    plan = [_plan_of(network, size)]
    return network._with_engine_plan(network.engine.with_plan(plan))


def _is_dense(network: Network, size: int) -> bool:
    """Whether calls of `size` rows are dense in f32."""
    _, names, precisions = _plan_of(network, size)
    return set(names) == {"dense"} and set(precisions) == {"f32"}


def _plan_of(network: Network, size: int) -> tuple[int, list[str], list[str]]:
    chosen = network.engine.class_for(size)
    _, names, precisions = next(c for c in network.engine.plan() if c[0] == chosen)
    return size, names, precisions


def _keep_one(
    off: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_]:
    """`off` with one unit less where no unit would be left: a layer has at least one."""
    left = ~off if others is None else ~(off | others)
    if not left.any():
        off = off.copy()
        off[np.flatnonzero(off)[:1]] = False
    return off


def _cycled(rows: Any, least: int) -> Any:
    """The rows, over and over until there are `least`."""
    count = rows.shape[0]
    return rows if count >= least else rows[np.arange(least) % count]


def _batches(rows: Any, size: int) -> list[Any]:
    return [rows[at : at + size] for at in range(0, rows.shape[0] - size + 1, size)]


def _caller(network: Network, threads: int) -> Any:
    def call(rows: Any) -> object:
        return network.forward(rows, num_threads=threads)

    return call


def _paper_share(layer: LayerReport) -> float:
    """A layer's cost over dense, by the paper's model."""
    if layer.rank is None:
        return 1.0
    d, h = layer.inputs, layer.outputs
    return layer.rank * (d + h) / (d * h) + layer.computed_share


class _NoBar:
    """Stands for a progress bar where none is wanted."""

    def set_description(self, text: str) -> None:
        """Shows nothing."""

    def update(self, steps: int) -> None:
        """Shows nothing."""


@contextmanager
def _progress(wanted: bool | None, steps: int) -> Iterator[Any]:
    if wanted is None:
        wanted = sys.stderr is not None and sys.stderr.isatty()
    if not wanted:
        yield _NoBar()
        return
    from tqdm import tqdm

    form = "{desc:<28} {bar} {elapsed}"
    with tqdm(total=steps, bar_format=form, leave=False, dynamic_ncols=True) as bar:
        yield bar

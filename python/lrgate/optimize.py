"""`optimize`: a trained network in, the fastest network within an error budget out.

The search, in short:

1. Rows are split in three: estimators are fitted on the first part, thresholds and plans chosen on
   the second, errors taken on the third.
2. Units that cannot be on, or never were, are left out; the others are put in an order in which
   units that are on together sit together. Layers become int8, but for those that cost too much.
3. Each hidden layer gets candidates: gates of several ranks and thresholds, each with its lost
   energy and its time in every batch class. Those that another one beats in both are dropped; the
   others get their damage: what each alone does to the network's outputs.
4. With a price on damage, the best choice is one of each layer on its own. From no price to a high
   one this gives a path of plans from the fastest to the exact one; the fastest that keeps the
   budget on the third part of the rows is taken.
5. Whole calls decide, batch class by batch class, what of it is used.
"""

from __future__ import annotations

import math
import operator
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate import estimators, machine, timing, units
from lrgate._core import get_num_threads
from lrgate.judge import FIT_SHARE, MOST_ROWS, Damage, Increase, Judge, Split
from lrgate.model import Gate, Layer, Model
from lrgate.network import Network
from lrgate.profiles import LayerProfile
from lrgate.quantize import MOST_INPUTS, checked_rows, gate_range
from lrgate.reports import ClassReport, LayerReport, Report, Spread

__all__ = ["optimize"]

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_LEAST_ROWS: Final = 50

_RANKS: Final = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_LOST_ENERGIES: Final = (1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3e-2, 6e-2)

PRECISIONS: Final = ("auto", "f32", "int8")

# Units that are on in this share of the rows are computed without being scored.
_ALWAYS_ON: Final = 0.95

# A gate must promise to be this much faster than the layer's fastest exact strategy.
_PROMISE: Final = 0.97

# A class uses gates, which are not exact, only where its calls take at most this share of the time.
_GATE_MUST_GAIN: Final = 0.98

# Layers on which a gate within this factor of the exact time could be found get a finer estimator.
_NEAR: Final = 1.15

_PROBE_ROWS: Final = 64

# The most rows of a call that is measured, for each thread.
_MOST_RACED: Final = 4096

# The most rows that a layer is measured on, in calls of as many at most.
_LAYER_ROWS: Final = 256

# The most rows that the layers' times in the report are of; shares are of all rows held back.
_PROFILE_ROWS: Final = 1024

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
    batch_sizes: Sequence[int] = (1, 64, 1024),
    precision: str = "auto",
    num_threads: int | None = None,
    input_range: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    ranks: Sequence[int] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Network:
    """The fastest network on this machine whose error stays within a budget.

    Gates are fitted to the hidden layers on `x`, thresholds and the order of units are chosen, and
    each layer's strategy is decided by measuring, for each batch class. What it did is in the
    result's ``report``. Where nothing is faster within the budget, the result is dense, and the
    report says so. By measurement it is never slower than dense in f32, unless int8 is asked for.

    Parameters
    ----------
    model : Network
        Its own gates and plan are not used.
    x : array-like or scipy.sparse (n, d)
        Real input rows, best 5,000 or more; 50 at least. More than 20,000 are sampled. Two fifths
        fit, a fifth chooses, and two fifths check the error. Rows that the model was trained on
        will do, but their error is lower than that of new rows.
    y : array-like (n,) or (n, k), optional
        Labels, of the network's ``classes``; values for a regressor. Without them the budget is
        one of disagreement with the dense network.
    max_error_increase : float
        The budget, on rows that nothing was fitted on. A classifier: increase of the share of wrong
        rows (0.001 is a tenth of a percentage point), or without `y` the share of rows whose class
        changes. A regressor: increase of the squared error relative to the targets' variance,
        or without `y` the squared difference relative to the dense outputs' variance. It is kept
        with one standard error of what is seen to spare, so that a small budget needs many rows:
        the report has the increase's interval, and a note where that reaches beyond the budget.
        0 allows nothing that is not exact.
    batch_sizes : sequence of int
        Rows per call to plan for; a call uses the plan of the nearest one, on a log scale.
    precision : {"auto", "f32", "int8"}
        Whether layers may be int8. ``"int8"``: every layer, but for those that cost too much error,
        whatever the time. ``"auto"``: the same where it is faster, over all classes together.
        ``"f32"``: none.
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
        With gates, order of units, plan, probe, machine and report.

    Raises
    ------
    TypeError
        For another type of model, or arguments that are not numbers.
    ValueError
        For rows of another width, too few, or not finite; for labels of another length or that the
        network does not have; for a budget outside 0 to 1; for ranks that need more rows.

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
    rows = checked_rows(x, model.input_size, _LEAST_ROWS)
    targets = None if y is None else checked_targets(model, y, rows.shape[0])
    split = Split.of(rows, targets, seed)
    tried = _checked_ranks(ranks, split.count)
    base = _plain(model, input_range)
    with _progress(progress, steps=9 + 2 * (len(base.layers) - 1)) as bar:
        search = _Search(base, split, budget, sizes, precision, threads, tried, seed, bar)
        return search.run(begin)


# --- arguments ----------------------------------------------------------------------------------


def _checked_budget(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"max_error_increase must be a number, got {value!r}")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"max_error_increase must be from 0 to 1, got {value}")
    return float(value)


def _checked_sizes(batch_sizes: Sequence[int]) -> list[int]:
    if isinstance(batch_sizes, str) or not isinstance(batch_sizes, Sequence):
        raise TypeError(
            f"batch_sizes must be a sequence of integers, got {type(batch_sizes).__name__}"
        )
    sizes = [_positive(size, "batch_sizes") for size in batch_sizes]
    if not sizes:
        raise ValueError("batch_sizes must have at least one entry, got none")
    if len(set(sizes)) != len(sizes):
        raise ValueError(f"batch_sizes must be distinct, got {sizes}")
    if max(sizes) > 1 << 20:
        raise ValueError(f"batch_sizes must be at most {1 << 20} to be measured, got {max(sizes)}")
    return sorted(sizes)


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
    """Class indices (n,) of a classifier, float64 (n, k) of a regressor."""
    try:
        targets = np.asarray(y)
    except (TypeError, ValueError) as error:
        raise TypeError(f"y must be an array: {error}") from None
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
    values = targets.astype(np.float64).reshape(rows, outputs)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(f"y must be finite, got NaN or infinity in row {bad[0]}")
    return values


def _checked_ranks(ranks: Sequence[int] | None, fitted: int) -> tuple[int, ...]:
    if ranks is None:
        return tuple(rank for rank in _RANKS if rank < fitted)
    if isinstance(ranks, str) or not isinstance(ranks, Sequence):
        raise TypeError(f"ranks must be a sequence of integers, got {type(ranks).__name__}")
    checked = sorted({_positive(rank, "ranks") for rank in ranks})
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
    base = Network.from_layers(
        layers,
        task=model.task,
        classes=None if model.task == "regression" else model._model.classes,
        input_scale=model.input_scale,
        input_shift=model.input_shift,
        input_range=model.input_range if input_range is None else input_range,
    )
    return base._with(base.engine, probe=model.probe, metadata=model.metadata)


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


class _Search:
    """One run of `optimize`."""

    def __init__(
        self,
        base: Network,
        split: Split,
        budget: float,
        sizes: list[int],
        precision: str,
        threads: int,
        ranks: tuple[int, ...],
        seed: int,
        bar: Any,
    ) -> None:
        self.base, self.split, self.budget = base, split, budget
        self.sizes, self.precision, self.threads = sizes, precision, threads
        self.ranks, self.seed = ranks, seed
        self.bar = bar
        self.judge = Judge(base, split.check, split.targets)
        self.notes: list[str] = []

    def run(self, begin: float) -> Network:
        """The whole search."""
        self._step("looking at the units")
        inputs = self.base.layer_inputs(self.split.fit)
        dead = self._dead()
        silent = self._silent(inputs, dead)
        kept = [~(a | b) for a, b in zip(dead, silent, strict=True)]
        if any(mask.any() for mask in silent):
            trial = _reduced(self.base, [np.flatnonzero(mask) for mask in kept])
            if not self._error_of(trial).within(self.budget):
                self.notes.append("units that were never on are kept: leaving them out costs more")
                silent = [np.zeros_like(mask) for mask in silent]
                kept = [~mask for mask in dead]
        natural = [np.flatnonzero(mask) for mask in kept]
        orders, always = self._orders(inputs, kept)

        self._step("measuring dense and skip")
        core = _reduced(self.base, orders)
        exact = self._tuned(core)
        core, exact = self._quantized(core, exact)
        choice = self._choose(core, exact, always) if self.budget > 0 else {}

        self._step("deciding by whole calls")
        gates = {i: candidate.gate for i, candidate in choice.items()}
        fast = self._tuned(core.with_gates(gates)) if gates else exact
        fast, exact = self._never_slower(core, fast, exact)
        unordered = _reduced(self.base, natural)
        order_speed_up = self._order_speed_up(exact, unordered)
        plain = all(np.array_equal(a, b) for a, b in zip(orders, natural, strict=True))
        ordered = not plain and self._order_pays(fast, orders, natural)
        result = self._in_full(fast, orders, natural, ordered)

        self._step("reporting")
        result = self._within_budget(result, exact)
        result, classes = self._class_reports(result, exact, choice)
        error = self._error_of(_least_exact(result))
        if error.high > self.budget > 0:
            self.notes.append(
                f"{self.split.check.shape[0]} rows held back cannot tell whether the increase is "
                "within the budget: the interval reaches beyond it"
            )
        report = Report(
            classes=classes,
            measure=self.judge.measure,
            error_before=error.before,
            error_after=error.after,
            error_increase=error.increase,
            error_increase_low=error.low,
            error_increase_high=error.high,
            budget=self.budget,
            rows_fitted=self.split.count,
            rows_tuned=int(self.split.tune.shape[0]),
            rows_checked=int(self.split.check.shape[0]),
            dead_units=tuple(int(mask.sum()) for mask in dead),
            dropped_units=tuple(int(mask.sum()) for mask in silent),
            order_speed_up=None if plain else order_speed_up,
            order_used=ordered,
            num_threads=self.threads,
            machine=machine.fingerprint(),
            seed=self.seed,
            seconds=time.perf_counter() - begin,
            notes=tuple(self.notes + self._verdict(result)),
        )
        return self._finished(result, report)

    def _step(self, text: str) -> None:
        self.bar.update(1)
        self.bar.set_description(text)

    # Units

    def _dead(self) -> list[npt.NDArray[np.bool_]]:
        """Units that are off on the whole declared input range."""
        layers = self.base.layers
        span = self.base.input_range
        if span is None:
            return [np.zeros(layer.outputs, np.bool_) for layer in layers]
        scale = 1.0 if self.base.input_scale is None else self.base.input_scale.astype(np.float64)
        shift = 0.0 if self.base.input_shift is None else self.base.input_shift.astype(np.float64)
        ends = np.stack(np.broadcast_arrays(*(end * scale + shift for end in span)))
        *dead, _ = units.proven_dead(layers, ends.min(axis=0), ends.max(axis=0))
        return [_keep_one(mask) for mask in dead] + [np.zeros(layers[-1].outputs, np.bool_)]

    def _silent(
        self, inputs: list[Float32Array], dead: list[npt.NDArray[np.bool_]]
    ) -> list[npt.NDArray[np.bool_]]:
        """Units that are never on in calibration, other than the dead ones."""
        silent = [np.zeros_like(mask) for mask in dead]
        if self.budget == 0:
            return silent
        tuned = self.base.layer_inputs(self.split.tune)
        for i, layer in enumerate(self.base.layers[:-1]):
            if layer.activation.has_hard_zero:
                on = (inputs[i + 1] != 0).any(axis=0) | (tuned[i + 1] != 0).any(axis=0)
                silent[i] = _keep_one(~on & ~dead[i], dead[i])
        return silent

    def _orders(
        self, inputs: list[Float32Array], kept: list[npt.NDArray[np.bool_]]
    ) -> tuple[list[IntArray], list[int]]:
        """Each layer's units in order, and how many at the end are always on."""
        orders, always = [], []
        for i, layer in enumerate(self.base.layers):
            order, count = np.flatnonzero(kept[i]), 0
            if i + 1 < len(inputs) and layer.activation.has_hard_zero:
                active = inputs[i + 1][:, order] != 0
                on = active.mean(axis=0) >= _ALWAYS_ON
                count = int(on.sum())
                changing = order[~on]
                if len(changing):
                    changing = changing[units.co_activation_order(active[:, ~on])]
                order = np.concatenate([changing, order[on]])
            orders.append(order)
            always.append(count)
        return orders, always

    # Precision

    def _quantized(self, core: Network, exact: Network) -> tuple[Network, Network]:
        """Both with the layers in int8 that may be, where that is wanted and faster."""
        self._step("quantising")
        if self.precision == "int8" and self.budget == 0:
            self.notes.append("int8 is not exact: a budget of 0 leaves all layers f32")
        if self.precision == "f32" or self.budget == 0:
            return core, exact
        layers = [i for i, layer in enumerate(core.layers) if layer.inputs <= MOST_INPUTS]
        damage = Damage(core, self.split.tune)
        alone: dict[int, float] = {}
        while layers:
            quantized = core.quantize(self.split.fit, layers=layers)
            if self._error_of(quantized).within(self.budget):
                break
            if not alone:
                fits = {i: core.quantize(self.split.fit, layers=[i]) for i in layers}
                alone = {i: damage.of(network) for i, network in fits.items()}
            worst = max(layers, key=lambda i: alone[i])
            layers.remove(worst)
            self.notes.append(f"layer {worst} stays f32: its int8 form costs too much error")
        if not layers:
            return core, exact
        tuned = self._tuned(quantized)
        if self.precision == "auto":
            logs = 0.0
            for size in self.sizes:
                times = self._race(size, _RACE_SECONDS, f32=exact, int8=tuned)
                logs += math.log(times["int8"].speed_up_over(times["f32"]).median)
            if logs <= 0:
                self.notes.append("int8 is not faster here: all layers are f32")
                return core, exact
        return quantized, tuned

    # Candidates and their choice

    def _choose(self, core: Network, exact: Network, always: list[int]) -> Choice:
        """The gates of the fastest plan within the budget."""
        dense = core.dense()
        fit, tune = dense.layer_inputs(self.split.fit), dense.layer_inputs(self.split.tune)
        seconds = self._exact_seconds(core)
        damage = Damage(core, self.split.tune)
        options: dict[int, list[_Candidate]] = {}
        fits: dict[int, estimators.Estimate] = {}
        for i, layer in enumerate(core.layers[:-1]):
            self._step(f"fitting layer {i}")
            ranks = self._ranks(layer, fit[i])
            if layer.activation.has_hard_zero and ranks and always[i] < layer.outputs:
                fits[i] = estimators.whitened(layer, fit[i], max_rank=max(ranks))
                rows = fit[i], tune[i]
                options[i] = self._candidates(fits[i], ranks, layer, rows, always[i])
        self._step("measuring gates")
        options = self._measured(exact, options)
        near = {
            i: sorted({c.gate.rank for c in found if (c.seconds < _NEAR * seconds[i]).any()})
            for i, found in options.items()
        }
        refined: dict[int, list[_Candidate]] = {}
        for i, ranks in near.items():
            self._step(f"refining layer {i}")
            if ranks:
                layer = core.layers[i]
                estimate = estimators.logistic(layer, fit[i], ranks, start=fits[i], seed=self.seed)
                rows = fit[i], tune[i]
                refined[i] = self._candidates(estimate, ranks, layer, rows, always[i])
        for i, found in self._measured(exact, refined).items():
            options[i] = options[i] + found
        self._step("judging gates")
        kept = {i: self._frontier(found, seconds[i]) for i, found in options.items()}
        kept = {
            i: [replace(c, damage=damage.of(core.with_gates({i: c.gate}))) for c in found]
            for i, found in kept.items()
        }
        self._step("choosing")
        return self._fastest_within(core, _path(kept, seconds))

    def _ranks(self, layer: Layer, inputs: Float32Array) -> list[int]:
        """Ranks whose estimate costs at most 0.6 of what skip would do of the layer."""
        d, h = layer.inputs, layer.outputs
        density = float((inputs != 0).mean())
        work = min(density, 1.0) * d * h
        return [k for k in self.ranks if k <= min(d, h) and k * (density * d + h) <= 0.6 * work]

    def _candidates(
        self,
        estimate: estimators.Estimate,
        ranks: Sequence[int],
        layer: Layer,
        rows: tuple[Float32Array, Float32Array],
        always: int,
    ) -> list[_Candidate]:
        """Gates of several ranks and thresholds, not measured yet."""
        found = []
        for rank in ranks:
            gate = estimate.gate(rank)
            gate = replace(gate, range=gate_range(gate, rows[0]))
            gate = _always_on(gate, always)
            path = estimators.ThresholdPath(layer, gate, rows[1])
            for lost in _LOST_ENERGIES:
                tuned = replace(path.gate(lost_energy=lost), range=gate.range)
                tuned = _always_on(tuned, always)
                found.append(_Candidate(tuned, estimate.method, lost, np.zeros(len(self.sizes))))
        return found

    def _measured(
        self, exact: Network, options: dict[int, list[_Candidate]]
    ) -> dict[int, list[_Candidate]]:
        """The candidates with their times: one of each layer at once."""
        measured: dict[int, list[_Candidate]] = {i: [] for i in options}
        for at in range(max(map(len, options.values()), default=0)):
            now = {i: found[at] for i, found in options.items() if at < len(found)}
            network = exact.with_gates({i: candidate.gate for i, candidate in now.items()})
            seconds = self._layer_seconds(network)
            for i, candidate in now.items():
                measured[i].append(replace(candidate, seconds=seconds[i]))
        return measured

    def _exact_seconds(self, core: Network) -> Float64Array:
        """Each layer's fastest exact time, (layers, classes)."""
        uniform = [_uniform(core, name) for name in ("dense", "skip")]
        return np.minimum(*(self._layer_seconds(network) for network in uniform))

    def _layer_seconds(self, network: Network) -> Float64Array:
        """Seconds per row of each layer in each class, (layers, classes)."""
        rows = _cycled(self.split.tune, _LAYER_ROWS)
        # Large classes are measured alike, so where their layers are too it is done once.
        found: dict[Any, list[float]] = {}
        columns = []
        for size in self.sizes:
            count = min(size, _LAYER_ROWS)
            _, *plan = _class_of(network, size)
            key = count, repr(plan)
            if key not in found:
                whole = rows[: _LAYER_ROWS // count * count]
                engine = _only(network, size).engine
                found[key] = engine.layer_seconds(whole, count, _LAYER_SECONDS)
            columns.append(found[key])
        return np.array(columns).T

    def _frontier(self, found: list[_Candidate], exact: Float64Array) -> list[_Candidate]:
        """Those that are faster than exact somewhere and that no other one beats."""
        fast = [c for c in found if (c.seconds < _PROMISE * exact).any()]
        return [c for c in fast if not any(other.beats(c) for other in fast)]

    def _fastest_within(self, core: Network, path: list[Choice]) -> Choice:
        """The first choice of a path of less and less damage that keeps the budget."""
        first, last = 0, len(path)
        while first < last:  # the choices from `last` on are within the budget
            middle = (first + last) // 2
            gates = {i: candidate.gate for i, candidate in path[middle].items()}
            if self._error_of(core.with_gates(gates)).within(self.budget):
                last = middle
            else:
                first = middle + 1
        if path and last == len(path):
            self.notes.append("no gate keeps the error budget")
        return path[last] if last < len(path) else {}

    def _error_of(self, network: Network) -> Increase:
        """The error of a network whose batch classes are all alike."""
        return self.judge.error(network.forward(self.split.check))

    # Whole calls

    def _tuned(self, network: Network) -> Network:
        """The network with the fastest plan of every class."""
        rows = _cycled(self.split.tune, 256)
        engine = network.engine.tune(rows, self.sizes, _PLAN_SECONDS, self.threads)
        return network._with_engine_plan(engine)

    def _race(self, size: int, seconds: float, **networks: Network) -> dict[str, timing.Timing]:
        """Times of whole calls under the plans for `size` rows, by turns.

        Large calls are made of tiles, so that a part is as good as the whole.
        """
        count = min(size, _MOST_RACED * self.threads)
        calls = _batches(_cycled(self.split.check, count), count)
        contestants = {
            name: _caller(_only(network, size), self.threads) for name, network in networks.items()
        }
        return timing.interleaved(contestants, calls, seconds, min_rounds=3)

    def _never_slower(
        self, core: Network, fast: Network, exact: Network
    ) -> tuple[Network, Network]:
        """Both with classes made dense, or without gates, that are no faster otherwise."""
        # What int8 takes does not matter where it was asked for.
        dense = core if self.precision == "int8" else core.dense()
        plans: dict[str, list[Any]] = {"fast": [], "exact": []}
        for size in self.sizes:
            times = self._race(size, _RACE_SECONDS, dense=dense, exact=exact, fast=fast)
            names = {"dense": dense, "exact": exact, "fast": fast}
            best = "exact" if times["exact"].median < times["dense"].median else "dense"
            plans["exact"].append(_class_of(names[best], size))
            gated = "gate" in _class_of(fast, size)[1]
            least = times[best].median * (_GATE_MUST_GAIN if gated else 1.0)
            if times["fast"].median < least:
                best = "fast"
            plans["fast"].append(_class_of(names[best], size))
        return (
            fast._with_engine_plan(fast.engine.with_plan(plans["fast"])),
            exact._with_engine_plan(exact.engine.with_plan(plans["exact"])),
        )

    def _order_speed_up(self, exact: Network, unordered: Network) -> float:
        """What the order of units brings without gates, at the smallest class."""
        size = self.sizes[0]
        plain = unordered.with_quantization([layer.quantization for layer in exact.layers])
        plain = plain._with_engine_plan(plain.engine.with_plan(exact.engine.plan()))
        times = self._race(size, _RACE_SECONDS, ordered=exact, unordered=plain)
        return times["ordered"].speed_up_over(times["unordered"]).median

    def _order_pays(self, fast: Network, orders: list[IntArray], natural: list[IntArray]) -> bool:
        """Whether the final plan is faster in the order found than in the user's own."""
        plain = _reordered(fast, self.base, orders, natural)
        logs = 0.0
        for size in self.sizes:
            times = self._race(size, _RACE_SECONDS, ordered=fast, unordered=plain)
            logs += math.log(times["ordered"].speed_up_over(times["unordered"]).median)
        return logs > 0

    def _in_full(
        self, fast: Network, orders: list[IntArray], natural: list[IntArray], ordered: bool
    ) -> Network:
        """The result: the user's own layers, with orders, gates and plan."""
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
        result = self.base.with_order(named) if named else self.base
        result = result.with_quantization([layer.quantization for layer in fast.layers])
        if gates:
            result = result.with_gates(gates)
        return result._with_engine_plan(result.engine.with_plan(fast.engine.plan()))

    def _within_budget(self, result: Network, exact: Network) -> Network:
        """The result, without gates in classes whose own plan is not within the budget.

        Gates were judged all together; a class may use some of them, and errors that cancel in all
        need not in some.
        """
        plan = []
        for size in self.sizes:
            within = self._error_of(_only(result, size)).within(self.budget)
            plan.append(_class_of(result if within else exact, size))
        return result._with_engine_plan(result.engine.with_plan(plan))

    # The report

    def _class_reports(
        self, result: Network, exact: Network, choice: Choice
    ) -> tuple[Network, tuple[ClassReport, ...]]:
        """The reports, and the result with classes made dense that come out slower than dense."""
        exact = result._with_engine_plan(result.engine.with_plan(exact.engine.plan()))
        reports, plan = [], []
        for size in self.sizes:
            report = self._class_report(size, result, exact, choice)
            slower = report.over_dense.median < 1.0
            if slower and self.precision != "int8" and not _is_dense(result, size):
                report = self._class_report(size, result.dense(), exact, choice)
                plan.append(_class_of(result.dense(), size))
            else:
                plan.append(_class_of(result, size))
            reports.append(report)
        return result._with_engine_plan(result.engine.with_plan(plan)), tuple(reports)

    def _class_report(
        self, size: int, result: Network, exact: Network, choice: Choice
    ) -> ClassReport:
        dense = self.base.dense()
        times = self._race(size, _LAST_RACE_SECONDS, dense=dense, exact=exact, after=result)
        rows = _cycled(self.split.check, min(max(size, 256), _PROFILE_ROWS))
        timed: dict[str, Any] = {"batch_size": size, "seconds": _PROFILE_SECONDS}
        # Shares are told of all rows, times of the same few before and after.
        shares = result.profile(rows, batch_size=size, seconds=0.0).layers
        few = rows[:_PROFILE_ROWS]
        before, after = (
            [layer.seconds_per_row for layer in network.profile(few, **timed).layers]
            for network in (dense, result)
        )
        layers = tuple(
            self._layer_report(i, layer, before[i], after[i], choice)
            for i, layer in enumerate(shares)
        )
        costs = [(layer, layer.inputs * layer.outputs) for layer in layers]
        predicted = sum(cost for _, cost in costs) / sum(
            cost * _paper_share(layer) for layer, cost in costs
        )
        return ClassReport(
            rows=size,
            layers=layers,
            seconds_dense=times["dense"].seconds_per_row,
            seconds_exact=times["exact"].seconds_per_row,
            seconds_after=times["after"].seconds_per_row,
            over_dense=_spread(times["after"].speed_up_over(times["dense"])),
            over_exact=_spread(times["after"].speed_up_over(times["exact"])),
            predicted_speed_up=predicted,
        )

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

    def _verdict(self, result: Network) -> list[str]:
        used = {name for plan in result.plan for name in plan.strategies}
        if all(_is_dense(result, size) for size in self.sizes):
            return ["nothing is faster than dense here: the plan is dense"]
        if "gate" not in used:
            return ["no gate pays within the budget here"]
        return []

    def _finished(self, result: Network, report: Report) -> Network:
        """The result with everything that a file keeps."""
        units_computed = [
            layer.outputs if layer.order is None else len(layer.order) for layer in result.layers
        ]
        classes = tuple(
            replace(
                of_class,
                layers=tuple(
                    replace(layer, computed_units=count)
                    for layer, count in zip(of_class.layers, units_computed, strict=True)
                ),
            )
            for of_class in report.classes
        )
        # An older probe's outputs are those of units that may have been left out.
        rows = self.split.check[:_PROBE_ROWS] if result.probe is None else result.probe.x
        result = result.with_probe(rows.toarray() if hasattr(rows, "toarray") else rows)
        return result._with(
            result.engine,
            machine=machine.fingerprint(),
            report=replace(report, classes=classes).to_dict(),
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
    network = network.with_quantization([layer.quantization for layer in fast.layers])
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


def _least_exact(network: Network) -> Network:
    """The network with a layer's gate, and its int8 form, in every class if any class uses it."""

    def anywhere(name: str, columns: Any) -> list[bool]:
        return [name in column for column in zip(*columns, strict=True)]

    plan = network.engine.plan()
    gated = anywhere("gate", (names for _, names, _ in plan))
    int8 = anywhere("int8", (words for _, _, words in plan))
    precisions = ["int8" if it_is else "f32" for it_is in int8]
    changed = [
        (
            rows,
            ["gate" if it_is else name for it_is, name in zip(gated, names, strict=True)],
            precisions,
        )
        for rows, names, _ in plan
    ]
    return network._with_engine_plan(network.engine.with_plan(changed))


def _gated_layers(network: Network) -> list[int]:
    """Layers whose gate some class uses."""
    return [
        i
        for i in range(len(network.layers))
        if any(plan.strategies[i] == "gate" for plan in network.plan)
    ]


def _only(network: Network, size: int) -> Network:
    """The network with its plan for `size` rows in calls of any size."""
    plan = [_class_of(network, size)]
    return network._with_engine_plan(network.engine.with_plan(plan))


def _is_dense(network: Network, size: int) -> bool:
    """Whether calls of `size` rows are dense in f32."""
    _, names, precisions = _class_of(network, size)
    return set(names) == {"dense"} and set(precisions) == {"f32"}


def _class_of(network: Network, size: int) -> tuple[int, list[str], list[str]]:
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


def _spread(ratio: timing.Ratio) -> Spread:
    return Spread(ratio.median, ratio.low, ratio.high)


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

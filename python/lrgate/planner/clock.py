"""Times of whole calls and of layers, and the decisions that they make."""

from __future__ import annotations

import math
import statistics
from typing import Any, Final

import numpy as np

from lrgate.measure import timing
from lrgate.network import Network, with_engine_plan
from lrgate.planner.plans import (
    is_int8,
    only_plan,
    plan_of,
    recomputing,
    uniform,
    with_kept_units,
    with_plan,
)
from lrgate.planner.problem import Problem
from lrgate.types import Float64Array, IntArray

__all__ = [
    "Clock",
    "cycled",
]


# A more complex plan must be this many times as fast in whole calls, in the median over rounds.
MUST_GAIN: Final = 1.03

# How many times more often later rows may be recomputed.
_UNFAMILIAR: Final = 3.0

# The most rows of a measured call, for each thread, and their multiply-adds.
_MOST_RACED: Final = 4096
_MOST_RACED_WORK: Final = 5e9

# The most rows that a layer is measured on, and their multiply-adds.
LAYER_ROWS: Final = 256
_LAYER_WORK: Final = 2e9

# How long a layer, a batch plan and a race of whole calls are measured.
_LAYER_SECONDS: Final = 0.008
_PLAN_SECONDS: Final = 0.4
_RACE_SECONDS: Final = 0.3


class Clock:
    """Measures networks on the rows that choose, for each batch size.

    Attributes
    ----------
    rows : array or CSR (n, d)
    sizes : list of int
        Batch sizes.
    threads : int
        Threads of whole calls; layers are measured on one.
    work : int
        Multiply-adds per row of the network.
    """

    def __init__(self, problem: Problem) -> None:
        self.rows = problem.split.tune
        self.sizes = list(problem.request.sizes)
        self.threads = problem.request.threads
        self.work = problem.work
        self._again: dict[str, float] = {}

    # Whole calls

    def tuned(self, network: Network) -> Network:
        """The network with the fastest plan of every batch size."""
        rows = cycled(self.rows, 256)
        engine = network.engine.tune(rows, self.sizes, _PLAN_SECONDS, self.threads)
        return with_engine_plan(network, engine)

    def settled(self, network: Network, **networks: Network) -> Network:
        """The network with a plan from `networks` for every batch size.

        It is that of the first one, unless a later one is clearly faster. Rows that a least margin
        recomputes count as in `fastest`.
        """
        return with_plan(network, [self._settled(size, networks) for size in self.sizes])

    def _settled(self, size: int, networks: dict[str, Network]) -> Any:
        names = list(networks)
        plans = {name: plan_of(network, size) for name, network in networks.items()}
        if len({(plan.strategies, plan.precisions) for plan in plans.values()}) == 1:
            return min(plans.values(), key=lambda plan: plan.least_margin or 0.0)
        times = self.race(size, _RACE_SECONDS, **networks)
        weights = {
            name: self._expected(network, size, times[name]) / times[name].round_seconds_per_row
            for name, network in networks.items()
        }
        best = names[0]
        for name in names[1:]:
            gain = times[name].speed_up_over(times[best]).median
            if gain * weights[best] / weights[name] >= MUST_GAIN:
                best = name
        return plans[best]

    def _expected(self, network: Network, size: int, times: timing.Timing) -> float:
        """Seconds per row for later rows, which may be recomputed more often than these."""
        seconds = times.round_seconds_per_row
        if not plan_of(network, size).least_margin:
            return seconds
        marks = only_plan(network, size).engine.recomputed(self.rows)
        share = _UNFAMILIAR * float(marks.sum() + 1) / (len(marks) + 1)
        rows = self.rows[np.flatnonzero(marks)] if marks.any() else self.rows
        return seconds + share * self._recomputing_seconds(network, size, share, rows)

    def _recomputing_seconds(self, network: Network, size: int, share: float, rows: Any) -> float:
        """Seconds per recomputed row, if a share of the rows of a call is recomputed.

        `rows`: some of them, which may be recomputed a second time.
        """
        count = 1 << round(math.log2(max(share * size, 1.0)))  # few different numbers
        again = recomputing(network, size)
        least = plan_of(network, size).int8_margin or 0.0
        key = repr((count, again.plan[0].strategies, again.plan[0].precisions, least))
        if key not in self._again:
            again, rows = again.with_least_margin(least), cycled(rows, count)
            times = self.race(count, _RACE_SECONDS / 3, rows, again=again)
            self._again[key] = times["again"].round_seconds_per_row
        return self._again[key]

    def race(
        self, size: int, seconds: float, rows: Any = None, **networks: Network
    ) -> dict[str, timing.Timing]:
        """Times of interleaved whole calls under the networks' plans for `size` rows.

        Large calls are made of tiles, so part of the rows is enough to measure them.
        """
        rows = self.rows if rows is None else rows
        count = min(size, _MOST_RACED * self.threads)
        if count * self.work > _MOST_RACED_WORK:
            count = min(count, max(256, int(_MOST_RACED_WORK / self.work)))
        calls = _batches(cycled(rows, count), count)
        callers = {
            name: _caller(only_plan(network, size), self.threads)
            for name, network in networks.items()
        }
        # A median would leave out rows that are recomputed, which are rare and slow: those that are
        # close, and in int8 those out of range.
        recomputes = any(
            network.least_margin or is_int8(network, size) for network in networks.values()
        )
        of_turn = statistics.fmean if recomputes else statistics.median
        return timing.interleaved(callers, calls, seconds, min_rounds=3, of_turn=of_turn)

    def fastest(self, networks: dict[str, Network], plain: Network) -> str:
        """The name of the fastest network in whole calls, over all batch sizes.

        At a batch size at which a network is slower than `plain`, it counts as that. Later rows may
        be recomputed more often than these, which the network may have been trained on: recomputed
        rows count `_UNFAMILIAR` times more.
        """
        rates = dict.fromkeys(networks, 1.0)
        for size in self.sizes:
            raced = {"plain": plain, **networks}
            times = self.race(size, _RACE_SECONDS * max(len(raced) / 3, 1.0), **raced)
            seconds = {
                name: self._expected(network, size, times[name]) for name, network in raced.items()
            }
            for name in networks:
                rates[name] *= min(seconds[name], seconds["plain"])
        return min(rates, key=rates.__getitem__)

    def speed_up(self, network: Network, other: Network) -> float:
        """Speed-up over another network in whole calls, the mean over all batch sizes."""
        gains = self.speed_ups(network, other)
        return float(math.prod(gains) ** (1 / len(gains)))

    def speed_ups(self, network: Network, other: Network) -> list[float]:
        """Speed-up over another network in whole calls, for each batch size."""
        gains = []
        for size in self.sizes:
            times = self.race(size, _RACE_SECONDS, network=network, other=other)
            gains.append(times["network"].speed_up_over(times["other"]).median)
        return gains

    def merging_pays(self, user: Network, merged: Network) -> bool:
        """Whether the `merged` network is as fast as the user's when dense, at every batch size."""
        return min(self.speed_ups(merged.dense(), user.dense())) >= 1 / MUST_GAIN

    # The order of units

    def units_speed_up(self, network: Network, natural: list[IntArray]) -> float:
        """Speed-up over the units in their `natural` order, at the smallest batch size."""
        return self._speed_up(self.sizes[0], network, with_kept_units(network, natural))

    def units_pay(self, network: Network, natural: list[IntArray]) -> bool:
        """Whether the network is faster than with the units in their `natural` order.

        The gains of all batch sizes, multiplied, must reach the usual threshold, and none may be
        slower by more than that.
        """
        unordered = with_kept_units(network, natural)
        gains = [self._speed_up(size, network, unordered) for size in self.sizes]
        least = MUST_GAIN ** (1 / len(gains))
        return math.prod(gains) ** (1 / len(gains)) >= least and min(gains) >= 1 / MUST_GAIN

    def _speed_up(self, size: int, ordered: Network, unordered: Network) -> float:
        times = self.race(size, _RACE_SECONDS, ordered=ordered, unordered=unordered)
        return times["ordered"].speed_up_over(times["unordered"]).median

    # Layers

    def exact_layer_seconds(self, network: Network) -> Float64Array:
        """Each layer's fastest time without gates, (layers, batch sizes), at its precisions."""
        networks = [uniform(network, name) for name in ("dense", "skip")]
        return np.minimum(*(self.layer_seconds(each) for each in networks))

    def layer_seconds(self, network: Network) -> Float64Array:
        """Seconds per row of each layer at each batch size, (layers, batch sizes)."""
        # A row of a large network takes long, a single row most of all: it streams all weights.
        most = int(np.clip(_LAYER_WORK / max(self.work, 1), 16, LAYER_ROWS))
        rows = cycled(self.rows, most)
        # Batch sizes above `most` are measured in the same way: once for each distinct plan.
        found: dict[Any, list[float]] = {}
        columns = []
        for size in self.sizes:
            count = min(size, most)
            plan = plan_of(network, size)
            key = count, repr((plan.strategies, plan.precisions))
            if key not in found:
                whole = rows[: most // count * count]
                engine = only_plan(network, size).engine
                found[key] = engine.layer_seconds(whole, count, _LAYER_SECONDS)
            columns.append(found[key])
        return np.array(columns).T


def cycled(rows: Any, least: int) -> Any:
    """The rows, repeated until there are `least`."""
    count = rows.shape[0]
    return rows if count >= least else rows[np.arange(least) % count]


def _batches(rows: Any, size: int) -> list[Any]:
    return [rows[at : at + size] for at in range(0, rows.shape[0] - size + 1, size)]


def _caller(network: Network, threads: int) -> Any:
    def call(rows: Any) -> object:
        return network.forward(rows, num_threads=threads)

    return call

"""Fair timing of calls that do the same work: by turns, on other rows each call, with the spread.

Contestants that are timed one after another meet different clock speeds and neighbours; here each
has a turn of a few calls in every round, in an order that rotates, and speed-ups are medians over
rounds. Within a turn a contestant meets the caches as a loop of its own calls leaves them: one call
more, and an eighth of the turn, come first, meet the last contestant's caches, and are not counted.
What that leaves of other contestants' caches is in the slowest calls; how slow calls are on a
machine that does nothing else, `alone` tells.
"""

from __future__ import annotations

import gc
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, perf_counter_ns
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.measure.machine import fingerprint
from lrgate.results.ratio import Ratio
from lrgate.runtime import config

__all__ = ["Timing", "alone", "batches", "interleaved", "machine"]

Rows = npt.NDArray[Any]

# How long a turn lasts, and its most calls.
_TURN_SECONDS: Final = 0.002
_TURN_CALLS: Final = 1000


@dataclass(frozen=True, eq=False)
class Timing:
    """What one contestant took.

    Attributes
    ----------
    rows : int
        Rows per call.
    calls : float64 array
        Seconds of each counted call.
    rounds : float64 array
        The median call of each round.
    """

    rows: int
    calls: npt.NDArray[np.float64]
    rounds: npt.NDArray[np.float64]

    @property
    def median(self) -> float:
        """Median seconds per call."""
        return float(np.median(self.calls))

    @property
    def p99(self) -> float:
        """Seconds that 99 of 100 calls stay below."""
        return float(np.percentile(self.calls, 99))

    @property
    def seconds_per_row(self) -> float:
        """Median seconds per row."""
        return self.median / self.rows

    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile of the rounds' medians, in seconds per call."""
        low, high = np.percentile(self.rounds, (25, 75))
        return float(low), float(high)

    def speed_up_over(self, other: Timing) -> Ratio:
        """How many times faster per row than a contestant of the same run, round by round."""
        ratios = (other.rounds / other.rows) / (self.rounds / self.rows)
        return Ratio.of(ratios)


def batches(x: Rows, rows: int) -> list[Rows]:
    """`x` cut into calls of `rows` rows, in place; repeated first where it has too few.

    Every batch is full: what is left over at the end is not used.
    """
    if len(x) < rows:
        x = np.ascontiguousarray(np.resize(x, (rows, *x.shape[1:])))
    return [x[first : first + rows] for first in range(0, len(x) - rows + 1, rows)]


def interleaved(
    contestants: Mapping[str, Callable[[Rows], object]],
    calls: Sequence[Rows] | Mapping[str, Sequence[Rows]],
    seconds: float,
    *,
    min_rounds: int = 5,
) -> dict[str, Timing]:
    """Time contestants by turns.

    Parameters
    ----------
    contestants : mapping from name to callable
        Each is called with one of `calls`.
    calls : sequence of arrays (n, d) or scipy.sparse
        All with as many rows; taken in order, another one each call. Or a mapping from name to
        such a sequence, where contestants take the same rows in other forms.
    seconds : float
        About how long to measure, all together.
    min_rounds : int
        Turns of each contestant, however long they take.

    Returns
    -------
    dict from name to Timing
        What reading the clock takes is subtracted.
    """
    clock_cost = _clock_cost()
    own = calls if isinstance(calls, Mapping) else dict.fromkeys(contestants, calls)
    streams = {name: itertools.cycle(own[name]) for name in contestants}
    turns = {name: _calls_per_turn(call, streams[name]) for name, call in contestants.items()}
    counted: dict[str, list[float]] = {name: [] for name in contestants}
    medians: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        end = perf_counter() + seconds
        rounds = 0
        while rounds < min_rounds or perf_counter() < end:
            for name in order:
                uncounted = 1 + turns[name] // 8
                turn = list(itertools.islice(streams[name], uncounted + turns[name]))
                times = _turn(contestants[name], turn, clock_cost)[uncounted:]
                counted[name] += times
                medians[name].append(statistics.median(times))
            order.append(order.pop(0))
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return {
        name: Timing(own[name][0].shape[0], np.array(counted[name]), np.array(medians[name]))
        for name in contestants
    }


def alone(
    contestants: Mapping[str, Callable[[Rows], object]],
    calls: Mapping[str, Sequence[Rows]],
    seconds: float,
) -> dict[str, Timing]:
    """Time contestants one after another, each in a loop of its own of about `seconds`.

    For medians and 99th percentiles of one contestant; between contestants, clock speeds and
    neighbours may differ. An eighth more comes first and is not counted.
    """
    clock_cost = _clock_cost()
    found = {}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for name, call in contestants.items():
            stream = itertools.cycle(calls[name])
            count = max(int(seconds / _median_seconds(call, stream)), 1)
            uncounted = 1 + count // 8
            turn = list(itertools.islice(stream, uncounted + count))
            times = np.array(_turn(call, turn, clock_cost)[uncounted:])
            found[name] = Timing(calls[name][0].shape[0], times, np.array([np.median(times)]))
    finally:
        if collecting:
            gc.enable()
    return found


def _turn(call: Callable[[Rows], object], turn: list[Rows], clock_cost: float) -> list[float]:
    """Seconds of each call of one turn."""
    clock = perf_counter_ns
    times = []
    for rows in turn:
        start = clock()
        call(rows)
        times.append(clock() - start)
    return [max(time - clock_cost, 0.0) * 1e-9 for time in times]


def _calls_per_turn(call: Callable[[Rows], object], stream: itertools.cycle[Rows]) -> int:
    """How many counted calls make a turn."""
    seconds = _median_seconds(call, stream)
    return int(min(max(_TURN_SECONDS / seconds, 1), _TURN_CALLS))


def _median_seconds(call: Callable[[Rows], object], stream: itertools.cycle[Rows]) -> float:
    """About what a call takes; calling it for a while also warms it up."""
    times: list[float] = []
    end = perf_counter() + 10 * _TURN_SECONDS
    while len(times) < 3 or perf_counter() < end:
        rows = next(stream)
        start = perf_counter()
        call(rows)
        times.append(perf_counter() - start)
    return max(statistics.median(times), 1e-9)


def _clock_cost() -> float:
    """Nanoseconds that a call of nothing is measured to take."""
    times: list[int] = []
    for _ in range(1001):
        start = perf_counter_ns()
        times.append(perf_counter_ns() - start)
    return statistics.median(times)


def machine() -> dict[str, str]:
    """What a time depends on: the processor, and what :func:`lrgate.show_config` prints."""
    return {"cpu": str(fingerprint()["cpu"] or "unknown"), **config()}

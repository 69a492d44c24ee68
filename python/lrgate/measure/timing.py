"""Interleaved timing of candidates that do the same work, with different rows in each call.

Candidates that are timed one after another run at different clock speeds and next to different
background work. Here, each candidate has a turn of a few calls in every round, in rotating order,
and speed-ups are medians over rounds. Each turn starts with one call plus an eighth of the turn
that are not counted, so that the counted calls find the caches as in a loop of the same candidate.
Cache effects of other candidates still show in the slowest calls; use `alone` for tail latency on
an otherwise idle machine. `in_turn` reads other memory before each turn and counts every call, and
`cold` reads other memory before each call, as a service does between its calls.

The host of a virtual machine may take away pages of memory that are idle for some milliseconds,
and the first touch of such a page then takes microseconds. How long pages are idle depends on the
number of candidates, so `in_turn` and `cold` make the same calls once before, and do not count
those.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, perf_counter_ns
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.measure.machine import fingerprint
from lrgate.results.ratio import Ratio
from lrgate.runtime import config

__all__ = ["Timing", "alone", "batches", "cold", "in_turn", "interleaved", "machine"]

Rows = npt.NDArray[Any]

# Duration of a turn, and its maximum number of calls.
_TURN_SECONDS: Final = 0.002
_TURN_CALLS: Final = 1000
# Calls of a turn in which all are counted, the duration that makes it shorter, and the bytes of
# other memory that are read before it: more than L2 has.
_COUNTED_CALLS: Final = 20
_LONGEST_TURN: Final = 0.05
_READ_BEFORE: Final = 8 << 20
_COLD_ROUNDS: Final = 5

Stream = Iterator[Rows]


@dataclass(frozen=True, eq=False)
class Timing:
    """Times of one candidate.

    Attributes
    ----------
    rows : int
        Rows per call.
    calls : float64 array
        Seconds of each counted call.
    rounds : float64 array
        The median call of each round, or the mean one.
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
        """99th percentile of the seconds per call."""
        return float(np.percentile(self.calls, 99))

    @property
    def seconds_per_row(self) -> float:
        """Median seconds per row."""
        return self.median / self.rows

    @property
    def round_seconds_per_row(self) -> float:
        """Median seconds per row over rounds."""
        return float(np.median(self.rounds)) / self.rows

    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile of the rounds, in seconds per call."""
        low, high = np.percentile(self.rounds, (25, 75))
        return float(low), float(high)

    def speed_up_over(self, other: Timing) -> Ratio:
        """Speed-up per row over another candidate of the same run, from the ratio of each round."""
        ratios = (other.rounds / other.rows) / (self.rounds / self.rows)
        return Ratio.of(ratios)


def batches(x: Rows, rows: int) -> list[Rows]:
    """Split `x` into views of `rows` rows; rows are repeated if there are too few.

    Every batch is full: the remaining rows are not used.
    """
    if len(x) < rows:
        x = np.ascontiguousarray(np.resize(x, (rows, *x.shape[1:])))
    return [x[first : first + rows] for first in range(0, len(x) - rows + 1, rows)]


def interleaved(
    candidates: Mapping[str, Callable[[Rows], object]],
    calls: Sequence[Rows] | Mapping[str, Sequence[Rows]],
    seconds: float,
    *,
    min_rounds: int = 5,
    of_turn: Callable[[list[float]], float] = statistics.median,
) -> dict[str, Timing]:
    """Time candidates with interleaved calls.

    Parameters
    ----------
    candidates : mapping from name to callable
        The candidates; each is called with one of `calls`.
    calls : sequence of arrays (n, d) or scipy.sparse
        Batches with an equal number of rows, used in order, a different one for each call. Or a
        mapping from name to such a sequence, if candidates need the rows in different forms.
    seconds : float
        Approximate total duration of the measurement.
    min_rounds : int
        Minimum number of turns of each candidate, regardless of the duration.
    of_turn : callable, default statistics.median
        Seconds of a round from those of its calls. A mean includes calls that are rare and slow.

    Returns
    -------
    dict from name to Timing
        Times, minus the time to read the clock.
    """
    turns = functools.partial(_calls_per_turn, duration=_TURN_SECONDS, most=_TURN_CALLS)
    order = _in_rotation(list(candidates), seconds, min_rounds)

    def counted(call: Callable[[Rows], object], stream: Stream, turn: int) -> list[int]:
        uncounted = 1 + turn // 8
        return _turn(call, list(itertools.islice(stream, uncounted + turn)))[uncounted:]

    return _rounds(candidates, calls, order, turns, counted, of_turn)


def in_turn(
    candidates: Mapping[str, Callable[[Rows], object]],
    calls: Sequence[Rows] | Mapping[str, Sequence[Rows]],
    seconds: float,
    *,
    min_rounds: int = 5,
) -> dict[str, Timing]:
    """Time candidates in turns of 20 calls in random order, all of which are counted.

    Before a turn its calls are made once uncounted, and then 8 MB of other memory are read, so that
    the first calls find neither weights nor rows in L2. Parameters and results are those of
    :func:`interleaved`, with the mean call of each round: a median would leave out calls that are
    rare and slow. Turns have fewer calls if 20 take more than 50 ms.
    """
    turns = functools.partial(_calls_per_turn, duration=_LONGEST_TURN, most=_COUNTED_CALLS)
    order = _shuffled(list(candidates), seconds, min_rounds)
    other = np.ones(_READ_BEFORE // 8, np.int64)

    def counted(call: Callable[[Rows], object], stream: Stream, turn: int) -> list[int]:
        rows = list(itertools.islice(stream, turn))
        return _after_reading(call, rows, other)

    return _rounds(candidates, calls, order, turns, counted, statistics.fmean)


def _rounds(
    candidates: Mapping[str, Callable[[Rows], object]],
    calls: Sequence[Rows] | Mapping[str, Sequence[Rows]],
    order: Iterator[str],
    turn_of: Callable[[Callable[[Rows], object], Stream], int],
    counted_of: Callable[[Callable[[Rows], object], Stream, int], list[int]],
    of_turn: Callable[[list[float]], float],
) -> dict[str, Timing]:
    """Time candidates in rounds of turns, in this order. `counted_of` times one turn."""
    own = calls if isinstance(calls, Mapping) else dict.fromkeys(candidates, calls)
    streams = {name: itertools.cycle(own[name]) for name in candidates}
    turns = {name: turn_of(call, streams[name]) for name, call in candidates.items()}
    counted: dict[str, list[float]] = {name: [] for name in candidates}
    rounds: dict[str, list[float]] = {name: [] for name in candidates}
    with _without_collector():
        clock_cost = _clock_cost()
        for name in order:
            times = _without_clock(
                counted_of(candidates[name], streams[name], turns[name]), clock_cost
            )
            counted[name] += times
            rounds[name].append(of_turn(times))
    return {
        name: Timing(own[name][0].shape[0], np.array(counted[name]), np.array(rounds[name]))
        for name in candidates
    }


def cold(
    candidates: Mapping[str, Callable[[Rows], object]],
    calls: Mapping[str, Sequence[Rows]],
    seconds: float,
    read: int,
) -> dict[str, Timing]:
    """Time single calls, each after the same call, uncounted, and a read of other memory.

    Parameters
    ----------
    candidates, calls : mapping
        As in :func:`interleaved`.
    seconds : float
        Approximate total duration, including the reads.
    read : int
        Bytes that are summed before each call. The sum is not timed.

    Returns
    -------
    dict from name to Timing
        `rounds` are the single calls.
    """
    streams = {name: itertools.cycle(calls[name]) for name in candidates}
    found: dict[str, list[float]] = {name: [] for name in candidates}
    other = np.ones(read // 8, np.int64)
    for name, call in candidates.items():
        call(next(streams[name]))
    with _without_collector():
        clock_cost = _clock_cost()
        for name in _shuffled(list(candidates), seconds, _COLD_ROUNDS):
            times = _after_reading(candidates[name], [next(streams[name])], other)
            found[name] += _without_clock(times, clock_cost)
    return {
        name: Timing(calls[name][0].shape[0], np.array(times), np.array(times))
        for name, times in found.items()
    }


def alone(
    candidates: Mapping[str, Callable[[Rows], object]],
    calls: Mapping[str, Sequence[Rows]],
    seconds: float,
) -> dict[str, Timing]:
    """Time candidates one after another, each in a separate loop of about `seconds`.

    Use it for medians and 99th percentiles of a single candidate. Clock speeds and background work
    may differ between candidates. An additional eighth of the calls comes first and is not counted.
    """
    found = {}
    with _without_collector():
        clock_cost = _clock_cost()
        for name, call in candidates.items():
            stream = itertools.cycle(calls[name])
            count = max(int(seconds / _median_seconds(call, stream)), 1)
            uncounted = 1 + count // 8
            turn = list(itertools.islice(stream, uncounted + count))
            times = np.array(_without_clock(_turn(call, turn)[uncounted:], clock_cost))
            found[name] = Timing(calls[name][0].shape[0], times, np.array([np.median(times)]))
    return found


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Switch the garbage collector off, as `timeit` does.

    Nothing is collected before: that takes 0.1 s and more in a process with large packages.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _in_rotation(names: list[str], seconds: float, min_rounds: int) -> Iterator[str]:
    """Yield all names again and again, each round starting with another, for so many seconds."""
    end = perf_counter() + seconds
    rounds = 0
    while rounds < min_rounds or perf_counter() < end:
        yield from names
        names.append(names.pop(0))
        rounds += 1


def _shuffled(names: list[str], seconds: float, min_rounds: int) -> Iterator[str]:
    """Yield all names again and again, in random order, for so many seconds.

    In rotation, each candidate would always follow the same other one, which may share its code.
    """
    rng = np.random.default_rng(0)
    end = perf_counter() + seconds
    rounds = 0
    while rounds < min_rounds or perf_counter() < end:
        yield from (names[i] for i in rng.permutation(len(names)))
        rounds += 1


def _turn(call: Callable[[Rows], object], turn: list[Rows]) -> list[int]:
    """Nanoseconds of each call of one turn."""
    clock = perf_counter_ns
    times = []
    for rows in turn:
        start = clock()
        call(rows)
        times.append(clock() - start)
    return times


def _after_reading(
    call: Callable[[Rows], object], turn: list[Rows], other: npt.NDArray[np.int64]
) -> list[int]:
    """Nanoseconds of each call of one turn, after the same calls and reading `other`."""
    for rows in turn:
        call(rows)
    other.sum()
    return _turn(call, turn)


def _without_clock(times: list[int], clock_cost: float) -> list[float]:
    """Seconds without the time to read the clock."""
    return [max(time - clock_cost, 0.0) * 1e-9 for time in times]


def _calls_per_turn(
    call: Callable[[Rows], object], stream: Stream, duration: float, most: int
) -> int:
    """Number of counted calls per turn of about this duration."""
    return int(min(max(duration / _median_seconds(call, stream), 1), most))


def _median_seconds(call: Callable[[Rows], object], stream: Stream) -> float:
    """Approximate seconds per call; the calls also warm up the candidate."""
    times: list[float] = []
    end = perf_counter() + 10 * _TURN_SECONDS
    while len(times) < 3 or perf_counter() < end:
        rows = next(stream)
        start = perf_counter()
        call(rows)
        times.append(perf_counter() - start)
    return max(statistics.median(times), 1e-9)


def _clock_cost() -> float:
    """Nanoseconds that are measured for an empty call."""
    times: list[int] = []
    for _ in range(1001):
        start = perf_counter_ns()
        times.append(perf_counter_ns() - start)
    return statistics.median(times)


def machine() -> dict[str, str]:
    """The processor and the output of :func:`lrgate.show_config`, on which times depend."""
    return {"cpu": str(fingerprint()["cpu"] or "unknown"), **config()}

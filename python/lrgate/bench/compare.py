"""lrgate and every engine that is installed on the same rows, in one run, by turns.

For each number of rows a call, the settings of each engine race each other first, briefly; then the
best of each engine, and lrgate, take turns on real rows, other ones each call. Errors are those of
all test rows. What an engine's start takes is measured in processes of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy.typing as npt

from lrgate.bench.contestants import ALLOWED, Contestants, linear_at_the_end, original
from lrgate.bench.engines import blas, selected
from lrgate.bench.parts import split_rows
from lrgate.inputs import as_list, real_array
from lrgate.measure import process, timing
from lrgate.network import Network
from lrgate.results.bench import Comparison, Entry, Race
from lrgate.runtime import thread_limit

__all__ = [
    "ALLOWED",
    "Comparison",
    "Entry",
    "Race",
    "measure",
    "original",
    "run",
]


_MOST_ROWS: Final = 1_000_000

_OPENBLAS: Final = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def run(*args: Any, **kwargs: Any) -> Comparison:
    """:func:`measure` in a process of its own, in which libraries have the threads asked for."""
    return process.fresh(measure, *args, **kwargs)


def measure(
    name: str,
    net: Network,
    x: Any,
    y: npt.ArrayLike | None = None,
    *,
    calibration: tuple[Any, npt.ArrayLike | None] | None = None,
    batch_sizes: Sequence[int] = (1, 64, 1024),
    seconds: float = 5.0,
    threads: int = 1,
    engines: Sequence[str] | None = None,
    optimized: bool = True,
    start: bool = True,
    progress: bool = False,
) -> Comparison:
    """Compare a network in lrgate with the engines that are installed.

    Call it in a process whose libraries were told how many threads to use before they were loaded:
    :func:`run` makes one. It pins the process to as many CPUs as there are threads.

    Parameters
    ----------
    name : str
        What to call it.
    net : Network
        Peers get its weights alone.
    x : array-like (n, d)
        Real rows to time and to take errors on. Where they are uint8, lrgate is also timed on
        those; all else takes them as float32.
    y : array-like (n,) or (n, k), optional
        Labels or values; without them errors are differences from the dense network.
    calibration : (rows, labels or None), optional
        What lrgate and int8 engines are fitted to. By default one half of `x`, and the other half
        is tested on; the same rows where they are few.
    batch_sizes : sequence of int
        Rows a call.
    seconds : float
        About how long the contestants take turns, for each number of rows.
    threads : int
    engines : sequence of str, optional
        Beginnings of the names of those to compare with; all by default.
    optimized : bool
        Whether `lrgate.optimize` plans anew. Else lrgate runs `net` as it is, and dense.
    start : bool
        Whether the start of each engine is measured too.
    progress : bool
        Whether to tell on stderr what is going on.

    Raises
    ------
    ValueError, TypeError
        For rows and labels that `lrgate.optimize` would refuse, too.
    """
    begin = time.perf_counter()
    batch_sizes = as_list(batch_sizes, "batch_sizes")
    for rows in batch_sizes:
        if not 1 <= rows <= _MOST_ROWS:
            raise ValueError(f"batch_sizes must be from 1 to {_MOST_ROWS:,}, got {rows}")
    cpus = process.pin(threads)
    chosen = selected(engines)
    dense = original(net)
    notes = [
        f"{variable}={os.environ[variable]} is set, so NumPy may not use OpenBLAS's best kernels"
        for variable in _OPENBLAS
        if variable in os.environ
    ]
    raw = real_array(x)
    fit, test, note = split_rows(dense, raw, y, calibration)
    notes += note
    bench = Contestants(dense, fit, test, threads, seconds, progress)
    with thread_limit(threads), bench:
        bench.prepare_lrgate(linear_at_the_end(net), batch_sizes, optimized)
        bench.prepare_peers(chosen)
        # The largest first: errors that do not depend on the number of rows are taken there.
        races = [bench.race(rows) for rows in sorted(batch_sizes, reverse=True)]
        bench.tell_failures(len(races))
        starts = bench.starts() if start else []
        return Comparison(
            name=name,
            network="-".join(map(str, (dense.input_size, *(y.outputs for y in dense.layers)))),
            measure=bench.judge.measure,
            error_dense=bench.error_dense,
            error_limit=bench.error_limit,
            test_rows=len(test.x),
            calibration_rows=len(fit.x),
            threads=threads,
            cpus=cpus,
            machine=timing.machine(),
            versions=bench.versions,
            blas=blas(),
            warnings=tuple(notes),
            left_out=bench.left_out,
            races=tuple(reversed(races)),
            starts=tuple(starts),
            network_bytes={name: each.nbytes for name, each in bench.networks.items()},
            multiply_adds=sum(layer.weight.size for layer in dense.layers),
            seconds=time.perf_counter() - begin,
        )

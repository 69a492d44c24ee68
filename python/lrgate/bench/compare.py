"""Compares lrgate with every installed engine, on the same rows and in one run.

For each batch size, short races first select the fastest settings of each engine. The selected
settings and lrgate are then timed on real rows, with different rows in each call: in turns of 20
calls after other memory was read, then each alone in a loop, then, for one row, with such a read
before each call. Errors are computed on all test rows. Start-up is measured in separate processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy.typing as npt

from lrgate.bench.contestants import ALLOWED, Candidates, linear_at_the_end, original
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
    """Run :func:`measure` in a new process, whose libraries use the requested number of threads."""
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
    """Compare a network in lrgate with the installed engines.

    The number of threads of many libraries must be set before they are loaded; :func:`run` starts
    such a process. This function pins its process to as many CPUs as there are threads.

    Parameters
    ----------
    name : str
        Name of the network in the results.
    net : Network
        Other engines use only its weights.
    x : array-like (n, d)
        Real rows for timing and for errors. If they are uint8, lrgate is also timed on the uint8
        rows; everything else uses them as float32.
    y : array-like (n,) or (n, k), optional
        Labels or values. Without them, errors are differences from the dense network.
    calibration : (rows, labels or None), optional
        Data to which lrgate and the int8 engines are fitted. By default, one half of `x` is used
        for fitting and the other half for testing; if `x` has few rows, all are used for both.
    batch_sizes : sequence of int
        Rows per call.
    seconds : float
        Approximate duration of the timing in turn, for each batch size. The loops of each engine
        alone take half as long, the cold calls of one row three quarters.
    threads : int
        Threads that each engine may use.
    engines : sequence of str, optional
        Names of the engines to compare with, or prefixes of names; all by default.
    optimized : bool
        Whether to optimise the network with `lrgate.optimize` first. Otherwise lrgate runs `net`
        as it is, and dense.
    start : bool
        Whether to measure the start-up of each engine.
    progress : bool
        Whether to print progress on stderr.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range, or `lrgate.optimize` would reject the rows or labels.
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
    bench = Candidates(dense, fit, test, threads, seconds, progress)
    with thread_limit(threads), bench:
        bench.prepare_lrgate(linear_at_the_end(net), batch_sizes, optimized)
        bench.prepare_peers(chosen)
        # The largest first: errors that do not depend on the batch size are computed only there.
        races = [bench.race(rows) for rows in sorted(batch_sizes, reverse=True)]
        bench.report_failures(len(races))
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
            multiply_adds=sum(layer.multiply_adds for layer in dense.layers),
            seconds=time.perf_counter() - begin,
        )

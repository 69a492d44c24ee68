"""Runs measurements in a new process, where thread counts of libraries are set before import.

Idle threads of a library must not disturb the timing of the next engine. OpenMP and OpenBLAS
threads therefore spin only for about a tenth of a millisecond after their work, which is enough for
the next layer or call, and then sleep. By default they would spin for milliseconds or longer.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final, ParamSpec, TypeVar

__all__ = ["fresh", "pin"]

T = TypeVar("T")
P = ParamSpec("P")

_THREADS: Final = (
    "BLIS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NPROC",  # JAX
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_WAITING: Final = {
    "GOMP_SPINCOUNT": "5000",
    "KMP_BLOCKTIME": "0",  # in milliseconds; 1 would be too long
    "OPENBLAS_THREAD_TIMEOUT": "18",  # 2^18 cycles
}
_QUIET: Final = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}


def fresh(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process in which each library uses one thread.

    If the function has a keyword argument ``threads``, libraries use that number of threads.

    Raises
    ------
    RuntimeError
        If the process ends without a result.
    """
    threads = str(kwargs.get("threads", 1))
    with (
        _environment({**dict.fromkeys(_THREADS, threads), **_WAITING, **_QUIET}),
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool:
            raise RuntimeError("the measuring process ended without a result") from None


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def pin(threads: int) -> list[int] | None:
    """Pin this process to as many CPUs as it has threads: the first CPUs that it may use.

    Returns
    -------
    list of int or None
        The CPUs; None if the system does not support pinning.

    Raises
    ------
    ValueError
        If the process may use fewer than `threads` CPUs.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < threads:
        raise ValueError(
            f"threads must be at most {len(allowed)}, the CPUs this process may use, got {threads}"
        )
    os.sched_setaffinity(0, set(allowed[:threads]))
    return allowed[:threads]

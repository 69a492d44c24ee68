"""A process of its own for what is timed: how many threads libraries use is told before they load.

Their idle threads must not run into another engine's turn either. So those of OpenMP and OpenBLAS
wait awake for about a tenth of a millisecond after their work, enough for the next layer or call,
and then sleep; by default it would be some milliseconds or more.
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
    "KMP_BLOCKTIME": "0",  # in milliseconds, of which one would be too long
    "OPENBLAS_THREAD_TIMEOUT": "18",  # 2^18 cycles
}
_QUIET: Final = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}


def fresh(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process in which libraries have one thread each.

    A keyword argument ``threads`` of the function is the number they have instead.

    Raises
    ------
    RuntimeError
        If that process ends before it has an answer.
    """
    threads = str(kwargs.get("threads", 1))
    with (
        _environment({**dict.fromkeys(_THREADS, threads), **_WAITING, **_QUIET}),
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool:
            raise RuntimeError("the process that measures has ended without an answer") from None


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
    """Keep this process on as many CPUs as it has threads: the first that it may use.

    Returns
    -------
    list of int or None
        The CPUs; None where the system has no such thing.

    Raises
    ------
    ValueError
        If it may use fewer.
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

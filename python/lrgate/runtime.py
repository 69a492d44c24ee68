"""Threads, and what this build and process use."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Iterator

import numpy as np

from lrgate import _core


def set_num_threads(num_threads: int) -> None:
    """Set how many threads a call may use, for the whole process.

    Results do not depend on it. The default is ``LRGATE_NUM_THREADS``, or the number of CPUs this
    process may run on. Threads share a call's rows, or, of few rows, the units of its dense layers;
    a call too short to gain from it stays on the calling thread. After a call the other threads
    stay awake for 100 microseconds, so that the next one finds them.

    Parameters
    ----------
    num_threads : int
        At least 1; 1 keeps all work on the calling thread.

    Raises
    ------
    ValueError
        If `num_threads` is below 1.
    """
    _core.set_num_threads(num_threads)


@contextlib.contextmanager
def thread_limit(num_threads: int) -> Iterator[None]:
    """Limit the threads of calls inside a ``with`` block. It does nothing outside of one.

    The limit applies to calls from the current Python thread; other threads are not affected.
    Blocks nest. :func:`set_num_threads` sets the number for the whole process.

    Parameters
    ----------
    num_threads : int
        At least 1.

    Raises
    ------
    ValueError
        If `num_threads` is below 1.

    Examples
    --------
    >>> import lrgate
    >>> with lrgate.thread_limit(1):
    ...     lrgate.get_num_threads()
    1
    """
    before = _core.set_thread_override(num_threads)
    try:
        yield
    finally:
        _core.set_thread_override(before)


def show_config() -> None:
    """Print version, build, instruction set and threads: what a bug report or benchmark needs."""
    for name, value in config().items():
        print(f"{name:<16} {value}")


def config() -> dict[str, str]:
    """What :func:`show_config` prints, as a dict."""
    return {
        "lrgate": _core.VERSION,
        "build profile": _core.BUILD_PROFILE,
        "instruction set": f"{_core.isa()} (of {', '.join(_core.available_isas())})",
        "threads": str(_core.get_num_threads()),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
    }

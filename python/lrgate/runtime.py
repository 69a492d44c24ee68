"""Number of threads, and the configuration of this build and process."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Iterator

import numpy as np

from lrgate import _core


def set_num_threads(num_threads: int) -> None:
    """Set the number of threads that a call may use, for the whole process.

    Results do not depend on it. The default is ``LRGATE_NUM_THREADS``, or the number of CPUs that
    this process may run on. Threads divide the rows of a call or, if there are few rows, the units
    of its dense layers. A call that is too short to gain from more threads runs on the calling
    thread. Worker threads stay awake for 100 microseconds after a call, ready for the next one.

    Parameters
    ----------
    num_threads : int
        At least 1. With 1, all work is done on the calling thread.

    Raises
    ------
    ValueError
        If `num_threads` is below 1.
    TypeError
        If `num_threads` is not an integer.
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
    TypeError
        If `num_threads` is not an integer.

    Examples
    --------
    >>> import lrgate
    >>> with lrgate.thread_limit(1):
    ...     lrgate.get_num_threads()
    1
    """
    if num_threads is None:
        raise TypeError("num_threads must be an integer of at least 1, got None")
    before = _core.set_thread_override(num_threads)
    try:
        yield
    finally:
        _core.set_thread_override(before)


def show_config() -> None:
    """Print version, build, instruction set and threads, for bug reports and benchmarks."""
    for name, value in config().items():
        print(f"{name:<16} {value}")


def config() -> dict[str, str]:
    """Return the information that :func:`show_config` prints, as a dict."""
    return {
        "lrgate": _core.VERSION,
        "build profile": _core.BUILD_PROFILE,
        "instruction set": f"{_core.isa()} (of {', '.join(_core.available_isas())})",
        "threads": str(_core.get_num_threads()),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
    }

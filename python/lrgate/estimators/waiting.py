"""Long calls of LAPACK and BLAS that Ctrl-C need not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

__all__ = ["waited"]

T = TypeVar("T")

# Calls on smaller arrays take a fraction of a second.
_LARGE: Final = 1 << 18
# As threads get from the system; the caller may have set less for new threads.
_STACK: Final = 8 << 20
_POLL_SECONDS: Final = 0.1


def waited(call: Callable[..., T], *arrays: Any) -> T:
    """``call(*arrays)``, in a thread that Ctrl-C does not wait for if the first array is large.

    Python handles signals only between its own steps, and such a call is one. It runs on in the
    background until its end.

    Examples
    --------
    >>> import numpy as np
    >>> waited(np.matmul, np.eye(2), np.ones(2))
    array([1., 1.])
    """
    # Only the main thread gets signals.
    if arrays[0].size < _LARGE or threading.current_thread() is not threading.main_thread():
        return call(*arrays)
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            results.append(call(*arrays))
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    before = threading.stack_size(_STACK)
    try:
        threading.Thread(target=run, name="lrgate-lapack", daemon=True).start()
    finally:
        threading.stack_size(before)
    while not done.wait(_POLL_SECONDS):
        pass
    if errors:
        raise errors[0]
    return results[0]

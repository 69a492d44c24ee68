"""The progress bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = [
    "NoBar",
    "progress_bar",
]


class NoBar:
    """A progress bar that shows nothing."""

    def set_description(self, text: str) -> None:
        """Shows nothing."""

    def update(self, steps: int) -> None:
        """Shows nothing."""


@contextmanager
def progress_bar(wanted: bool | None, steps: int) -> Iterator[Any]:
    if wanted is None:
        wanted = sys.stderr is not None and sys.stderr.isatty()
    if not wanted:
        yield NoBar()
        return
    from tqdm import tqdm

    form = "{desc:<28} {bar} {elapsed}"
    with tqdm(total=steps, bar_format=form, leave=False, dynamic_ncols=True) as bar:
        yield bar

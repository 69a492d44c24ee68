"""The progress bar."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Never

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = [
    "progress_bar",
]


def progress_bar(wanted: bool | None, steps: int) -> tqdm[Never]:
    """A bar of this many steps on stderr. None: it is shown if stderr is a terminal."""
    from tqdm import tqdm

    if wanted is None:
        wanted = sys.stderr is not None and sys.stderr.isatty()
    return tqdm(
        total=steps,
        disable=not wanted,
        bar_format="{desc:<28} {bar} {elapsed}",
        leave=False,
        dynamic_ncols=True,
    )

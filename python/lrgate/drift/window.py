"""Sums over the latest rows."""

from __future__ import annotations

import numpy as np

from lrgate.types import Float64Array

__all__ = [
    "SlidingSums",
]


class SlidingSums:
    """Sums over the latest pieces, which hold at least `rows` rows in total.

    Nothing is ever subtracted, so a large value that has left the window leaves no rounding error.
    The window is split in two. For the older pieces, the sums from each piece to the last are kept;
    when they are used up, the newer pieces take their place.
    """

    def __init__(self, rows: int, width: int) -> None:
        self._rows = rows
        self._old = np.zeros((1, width))  # sums of the last 0, 1, ... of the older pieces
        self._new: list[Float64Array] = []
        self._new_sums = np.zeros(width)

    @property
    def sums(self) -> Float64Array:
        result: Float64Array = self._old[-1] + self._new_sums
        return result

    def add(self, piece: Float64Array) -> None:
        self._new.append(piece)
        self._new_sums = self._new_sums + piece
        while True:
            if len(self._old) == 1:
                nothing = np.zeros_like(piece)
                self._old = np.cumsum([nothing, *reversed(self._new)], axis=0)
                self._new, self._new_sums = [], nothing
            if self._old[-2, 0] + self._new_sums[0] < self._rows:
                break
            self._old = self._old[:-1]

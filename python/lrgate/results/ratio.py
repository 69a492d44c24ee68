"""Ratios of times with their spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["Ratio"]


@dataclass(frozen=True)
class Ratio:
    """A speed-up: the median and quartiles of the ratios of all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: npt.NDArray[Any]) -> Self:
        """Create it from the ratios (n,) of the rounds."""
        low, median, high = np.percentile(ratios, (25, 50, 75))
        return cls(float(median), float(low), float(high))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"

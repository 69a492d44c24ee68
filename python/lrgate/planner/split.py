"""The three parts of the rows: those that fit, choose and check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "Split",
]


# Shares of the rows that estimators are fitted on and that thresholds are chosen on; the rest
# checks. More rows than the limit do not improve gates; those beyond it check.
FIT_SHARE: Final = 0.4
_TUNE_SHARE: Final = 0.2
CHECK_SHARE: Final = 1.0 - FIT_SHARE - _TUNE_SHARE
MOST_ROWS: Final = 20_000
_MOST_CHECKED: Final = 100_000


@dataclass(frozen=True, eq=False)
class Split:
    """The rows of the three parts, and their targets."""

    fit: Any
    tune: Any
    check: Any
    targets: npt.NDArray[Any] | None
    fit_targets: npt.NDArray[Any] | None = None
    tune_targets: npt.NDArray[Any] | None = None

    def where(self, fit: npt.NDArray[np.bool_], tune: npt.NDArray[np.bool_]) -> Split:
        """The split with some of the rows that fit and choose."""
        targets = [
            None if part is None else part[kept]
            for part, kept in ((self.fit_targets, fit), (self.tune_targets, tune))
        ]
        return Split(self.fit[fit], self.tune[tune], self.check, self.targets, *targets)

    @property
    def rows_fitted(self) -> int:
        """Rows that estimators are fitted on."""
        return int(self.fit.shape[0])

    @classmethod
    def of(cls, rows: Any, targets: npt.NDArray[Any] | None, seed: int) -> Split:
        """The rows in random order; those beyond `MOST_ROWS` check."""
        order = np.random.default_rng(seed).permutation(rows.shape[0])
        used = min(len(order), MOST_ROWS)
        first, second = int(FIT_SHARE * used), int((FIT_SHARE + _TUNE_SHARE) * used)
        fit, tune, check = np.split(order[: second + _MOST_CHECKED], [first, second])
        parts = [None if targets is None else targets[part] for part in (check, fit, tune)]
        return cls(rows[fit], rows[tune], rows[check], *parts)

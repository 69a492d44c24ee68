"""The report of :func:`lrgate.torch.sparsify`."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Final

from lrgate.results.table import Column, Table, Tabular

__all__ = ["RoundReport", "SparseLayer", "SparsifyReport"]

_WIDTH: Final = 80


@dataclass(frozen=True)
class SparseLayer:
    """A hidden layer before and after.

    Attributes
    ----------
    activation_before, activation_after : str
    units_before, units_after : int
    density_before, density_after : float
        Share of its outputs that are not zero, on the rows that check.
    """

    activation_before: str
    activation_after: str
    units_before: int
    units_after: int
    density_before: float
    density_after: float


@dataclass(frozen=True)
class RoundReport:
    """One round of training.

    Attributes
    ----------
    strength : float
        Price of the whole network's time, in the units of the loss.
    time : float or None
        Estimated time of a row after the round, relative to the given network.
    increase, bound : float or None
        Increase of the error on the rows that choose, and the upper bound that as many such rows as
        those that check would give, with half a standard error to spare. All three are None if
        weights did not stay finite.
    kept : bool
        Whether the next round began with its network.
    """

    strength: float
    time: float | None
    increase: float | None
    bound: float | None
    kept: bool


@dataclass(frozen=True)
class SparsifyReport(Tabular):
    """Report of :func:`lrgate.torch.sparsify`; ``print`` shows it.

    Attributes
    ----------
    layers : tuple of SparseLayer
        The hidden layers.
    measure : str
        The error that the budget limits, as in :class:`OptimizeReport`.
    error_before, error_after : float
        Errors on the rows that check.
    error_increase, error_increase_low, error_increase_high : float
        Observed increase of the error, and its 95 % confidence interval.
    increase_bound : float
        One-sided upper bound of the increase, with confidence `confidence`. It must be within the
        budget. 0 if the network did not change.
    confidence, budget : float
    work_before, work_after : float
        Multiply-adds per row if zero inputs are skipped, on the rows that check.
    relufied_increase : float or None
        Increase of the error on the rows that choose after activations were moved to ReLU, and
        before units were made sparse. None if none were moved.
    rounds : tuple of RoundReport
    rows_trained, rows_chosen, rows_checked : int
    epochs : int
        Passes over the rows that train.
    seed : int
    seconds : float
        Duration, of all runs with the same checkpoint.
    notes : tuple of str
    """

    layers: tuple[SparseLayer, ...]
    measure: str
    error_before: float
    error_after: float
    error_increase: float
    error_increase_low: float
    error_increase_high: float
    increase_bound: float
    confidence: float
    budget: float
    work_before: float
    work_after: float
    relufied_increase: float | None
    rounds: tuple[RoundReport, ...]
    rows_trained: int
    rows_chosen: int
    rows_checked: int
    epochs: int
    seed: int
    seconds: float
    notes: tuple[str, ...]

    def table(self) -> Table:
        """One row per hidden layer."""
        columns = (
            Column("#"),
            Column("activation", left=True),
            Column("units before"),
            Column("after"),
            Column("density before", ".3f"),
            Column("after", ".3f"),
        )
        return Table(
            columns,
            [
                (
                    i,
                    each.activation_after,
                    each.units_before,
                    each.units_after,
                    each.density_before,
                    each.density_after,
                )
                for i, each in enumerate(self.layers)
            ],
        )

    def _parts(self) -> list[str | Table]:
        before, after = self.error_before * 100, self.error_after * 100
        low, high = self.error_increase_low * 100, self.error_increase_high * 100
        lines = [
            f"multiply-adds per row that skip leaves: {self.work_before:,.0f} before, "
            f"{self.work_after:,.0f} now ({self.work_before / max(self.work_after, 1):.2f} times "
            "fewer)",
            f"increase of {self.measure}: at most {self.increase_bound * 100:.3f} points with "
            f"{self.confidence * 100:g} % confidence, {self.budget * 100:g} allowed;",
            f"    as counted {before:.3f} % before, {after:.3f} % now: "
            f"{self.error_increase * 100:+.3f} points ({low:+.3f} to {high:+.3f})",
        ]
        if self.relufied_increase is not None:
            lines.append(
                "activations moved to ReLU cost "
                f"{self.relufied_increase * 100:+.3f} points on the rows that choose"
            )
        lines += [f"note: {note}" for note in self.notes]
        kept = sum(each.kept for each in self.rounds)
        last = (
            f"{self.rows_trained} rows trained, {self.rows_chosen} chose, {self.rows_checked} "
            f"checked; {self.epochs} epochs, {kept} of {len(self.rounds)} rounds kept; "
            f"took {self.seconds:.0f} s"
        )
        return ["\n".join(map(_wrapped, lines)), self.table(), _wrapped(last)]


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)

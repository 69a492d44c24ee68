"""Reports of a monitor: differences between a network and the dense network in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lrgate.results.table import Column, Table, Tabular

__all__ = [
    "Drift",
    "LayerDrift",
    "MonitorReport",
]


MEASURES: Final = {
    "regression": "relative squared difference from the dense network",
    "classification": "disagreement with the dense network",
    "multilabel": "share of label entries that differ from the dense network",
}
_COLUMNS: Final = (
    Column("#"),
    Column("layer", left=True),
    Column("in", ".3f"),
    Column("out", ".3f"),
    Column("units", ".3f"),
    Column("recall", ".3f"),
    Column("lost", ".4f"),
    Column("wrong", ".4f"),
)


@dataclass(frozen=True)
class LayerDrift:
    """Statistics of a layer over sampled rows; None if there are no rows for a statistic.

    `recall`, `lost_energy` and `disagreement` are over the rows on which the layer was gated. They
    compare it with the dense layer on the same input.

    Attributes
    ----------
    inputs, outputs : int
        Number of inputs and of units.
    density_in, density_out : float or None
        Share of non-zero inputs and outputs.
    computed_share : float or None
        Share of the units that were computed.
    recall : float or None
        Share of the active units that were computed.
    lost_energy : float or None
        Sum of squares of the wrongly dropped outputs, divided by that of all dense outputs.
    disagreement : float or None
        Share of all units that were active but dropped. A unit that is computed although it is
        inactive is no error: its output is zero in either case.
    """

    inputs: int
    outputs: int
    density_in: float | None
    density_out: float | None
    computed_share: float | None
    recall: float | None
    lost_energy: float | None
    disagreement: float | None


@dataclass(frozen=True)
class Drift(Tabular):
    """Difference between the network and the dense network over sampled rows.

    Attributes
    ----------
    rows : int
        Number of compared rows.
    disagreement : float or None
        Classification: share of the rows whose predicted class differs. Multilabel: share of the
        label entries (rows times labels) that differ. Regression: relative squared difference,
        ``sum((y - dense)**2) / sum((dense - dense.mean(axis=0))**2)``, both sums over rows and
        outputs; None if the dense outputs are constant. None if there are no rows.
    disagreement_low, disagreement_high : float or None
        Classification: Wilson's 95 % confidence interval of the share. Multilabel: the same
        interval with one observation per row, because the labels of a row may be correlated; for
        uncorrelated labels it is wider than necessary.
    layers : tuple of LayerDrift
        Statistics of the layers in order.
    """

    rows: int
    disagreement: float | None
    disagreement_low: float | None
    disagreement_high: float | None
    layers: tuple[LayerDrift, ...]

    def table(self) -> Table:
        """One row per layer."""
        return Table(
            _COLUMNS,
            [
                (
                    i,
                    f"{layer.inputs}-{layer.outputs}",
                    layer.density_in,
                    layer.density_out,
                    layer.computed_share,
                    layer.recall,
                    layer.lost_energy,
                    layer.disagreement,
                )
                for i, layer in enumerate(self.layers)
            ],
            gap=2,
        )

    def _title(self) -> str:
        figure = "-" if self.disagreement is None else f"{self.disagreement:.4g}"
        if self.disagreement_low is not None:
            figure += f" ({self.disagreement_low:.4g} to {self.disagreement_high:.4g})"
        return f"{self.rows} rows: {figure}"


@dataclass(frozen=True)
class MonitorReport(Tabular):
    """Statistics of a monitor; ``print`` shows tables.

    Attributes
    ----------
    measure : str
        Definition of ``disagreement``: ``"disagreement with the dense network"`` for a classifier,
        ``"relative squared difference from the dense network"`` for a regressor, ``"share of label
        entries that differ from the dense network"`` for a multilabel network.
    rows_seen : int
        Number of rows of all calls during sampling.
    rows_sampled : int
        Number of rows that were recomputed.
    rows_skipped : int
        Number of sampled rows that are left out of all statistics, because an output of the call,
        of the dense network or of a layer was not finite. Rows of a call that raised an error are
        not counted at all; ``predict`` raises one for NaN outputs without a ``nan_label``.
    sampling : bool
        Whether sampling is active. It stops at the end of the ``with`` block and after an error.
    window, total : Drift
        Statistics over the latest rows, and over all compared rows.
    """

    measure: str
    rows_seen: int
    rows_sampled: int
    rows_skipped: int
    sampling: bool
    window: Drift
    total: Drift

    def table(self) -> Table:
        """One row per layer over the latest rows, then one per layer over all compared rows."""
        return Table(
            (Column("over", left=True), *_COLUMNS),
            [(name, *row) for name, drift in self._drifts() for row in drift.table().rows],
            gap=2,
        )

    def _drifts(self) -> tuple[tuple[str, Drift], tuple[str, Drift]]:
        return ("latest", self.window), ("all", self.total)

    def _parts(self) -> list[str | Table]:
        seen = f"{self.rows_seen} rows seen, {self.rows_sampled} sampled"
        parts: list[str | Table] = [f"{seen}, {self.rows_skipped} skipped\n{self.measure}"]
        for name, drift in self._drifts():
            parts += [f"{name} {drift._title()}", drift.table()]
        return parts if self.sampling else [*parts, "sampling has stopped"]

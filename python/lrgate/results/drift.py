"""How far a network was from the dense one on rows of its use: what a monitor reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from lrgate.results.table import Column, Table

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
    Column("computed", ".3f"),
    Column("recall", ".3f"),
    Column("lost", ".4f"),
    Column("wrong", ".4f"),
)


@dataclass(frozen=True)
class LayerDrift:
    """One layer's shares, over some sampled rows. What there were no rows for is None.

    Attributes
    ----------
    inputs, outputs : int
        Width of the layer's input and number of its units.
    density_in, density_out : float or None
        Share of inputs and outputs that were not zero.
    computed_share : float or None
        Share of the units that were computed.
    recall : float or None
        Share of the truly active units that were computed. This and what follows is over the rows
        on which the layer was gated, and compares it with its dense self on the same input.
    lost_energy : float or None
        Squares of the outputs it wrongly dropped, over the squares of all dense outputs.
    disagreement : float or None
        Units whose sign was wrong, dropped though active, as a share of all units. A unit that is
        computed in vain is no error: its output is zero all the same.
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
class Drift:
    """How far the network was from its dense self, over some sampled rows.

    Attributes
    ----------
    rows : int
        Rows compared.
    disagreement : float or None
        Classification: share of the rows whose predicted class differs. Multilabel: share of the
        label entries, rows times labels, that differ. Regression: relative squared difference,
        ``sum((y - dense)**2) / sum((dense - dense.mean(axis=0))**2)``, both sums over rows and
        outputs; None where the dense outputs do not vary. None without rows.
    disagreement_low, disagreement_high : float or None
        Classification: Wilson's 95 % confidence interval of the share. Multilabel: the same, with
        as many observations as rows, since the labels of a row may differ together; where they do
        not, it is wider than it need be.
    layers : tuple of LayerDrift
        In order.
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

    def to_dataframe(self) -> Any:
        """One row per layer, as a ``pandas.DataFrame``.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        return self.table().to_dataframe()

    def _title(self) -> str:
        figure = "-" if self.disagreement is None else f"{self.disagreement:.4g}"
        if self.disagreement_low is not None:
            figure += f" ({self.disagreement_low:.4g} to {self.disagreement_high:.4g})"
        return f"{self.rows} rows: {figure}"


@dataclass(frozen=True)
class MonitorReport:
    """What a monitor saw; ``print`` shows tables.

    Attributes
    ----------
    measure : str
        What ``disagreement`` is: ``"disagreement with the dense network"`` of a classifier,
        ``"relative squared difference from the dense network"`` of a regressor, ``"share of label
        entries that differ from the dense network"`` of a multilabel network.
    rows_seen : int
        Rows of all calls, while rows were sampled.
    rows_sampled : int
        Rows that were computed again.
    rows_skipped : int
        Those of them that count nowhere else, since an output was not finite: the call's, the dense
        one, or a layer's. Rows of a call that raised an error, as ``predict`` does where outputs
        are NaN and no ``nan_label`` is given, are not seen at all.
    sampling : bool
        Whether rows are still sampled: not after the ``with`` block, nor after an error.
    window, total : Drift
        Over the latest rows, and over all that were compared.
    """

    measure: str
    rows_seen: int
    rows_sampled: int
    rows_skipped: int
    sampling: bool
    window: Drift
    total: Drift

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)

    def _head(self) -> list[str]:
        return [
            f"{self.rows_seen} rows seen, {self.rows_sampled} sampled, {self.rows_skipped} skipped",
            self.measure,
        ]

    def __str__(self) -> str:
        """Tables of at most 80 columns."""
        lines = self._head()
        for name, drift in (("latest", self.window), ("all", self.total)):
            lines += [f"{name} {drift._title()}", str(drift.table())]
        if not self.sampling:
            lines.append("sampling has stopped")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The tables in a notebook."""
        parts = [f"<p>{'<br>'.join(self._head())}</p>"]
        for name, drift in (("latest", self.window), ("all", self.total)):
            parts.append(f"<p>{name} {drift._title()}</p>{drift.table()._repr_html_()}")
        if not self.sampling:
            parts.append("<p>sampling has stopped</p>")
        return "".join(parts)

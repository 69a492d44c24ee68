"""How far a network was from the dense one on rows of its use: what a monitor reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

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
_HEADER: Final = " #  layer          in    out  computed  recall    lost   wrong"


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

    def __str__(self) -> str:
        """One line of the table, without the layer's number."""
        return (
            f"{f'{self.inputs}-{self.outputs}':<10} {_optional(self.density_in, '6.3f')} "
            f"{_optional(self.density_out, '6.3f')}    {_optional(self.computed_share, '6.3f')}  "
            f"{_optional(self.recall, '6.3f')}  {_optional(self.lost_energy, '6.4f')}  "
            f"{_optional(self.disagreement, '6.4f')}"
        )


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

    def __str__(self) -> str:
        """Tables of at most 80 columns."""
        lines = [
            f"{self.rows_seen} rows seen, {self.rows_sampled} sampled, {self.rows_skipped} skipped",
            self.measure,
        ]
        for name, drift in (("latest", self.window), ("all", self.total)):
            figure = "-" if drift.disagreement is None else f"{drift.disagreement:.4g}"
            if drift.disagreement_low is not None:
                figure += f" ({drift.disagreement_low:.4g} to {drift.disagreement_high:.4g})"
            lines += [f"{name} {drift.rows} rows: {figure}", _HEADER]
            lines += [f"{i:>2}  {layer}" for i, layer in enumerate(drift.layers)]
        if not self.sampling:
            lines.append("sampling has stopped")
        return "\n".join(lines)


def _optional(value: float | None, form: str) -> str:
    return f"{'-':>6}" if value is None else format(value, form)

"""The report of :meth:`lrgate.Network.quantize`: comparison of the int8 network with f32."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lrgate.results.table import Column, Table, Tabular

__all__ = [
    "LayerFit",
    "QuantizationReport",
    "QuantizationWarning",
]

_COLUMNS = (
    Column("layer"),
    Column("precision"),
    Column("error", ".3f"),
    Column("recomputed", ".2%"),
    Column("note", left=True, missing=""),
)


@dataclass(frozen=True)
class LayerFit:
    """Result of the quantisation of one layer.

    Parameters
    ----------
    layer : int
    precision : {"f32", "int8"}
    error : float
        Root mean square error of the layer's pre-activations in int8, relative to their spread, on
        rows that are not recomputed; NaN if nothing was fitted.
    recomputed : float
        Share of the fitting rows that are outside the layer's windows.
    note : str
        Reason why the layer stays f32; otherwise empty.
    """

    layer: int
    precision: str
    error: float
    recomputed: float
    note: str = ""


@dataclass(frozen=True)
class QuantizationReport(Tabular):
    """Report of :meth:`lrgate.Network.quantize`; ``print`` shows it.

    Parameters
    ----------
    task : str
    rows : int
        Number of rows to which quantisations were fitted.
    held_rows : int
        Number of other rows, on which the int8 network is compared with float32. If it is 0, all
        values for the whole network are NaN.
    changed : float
        Share of held-out rows whose label changes in int8; for several labels, share of entries.
        NaN for regression.
    expected_changed : float
        An estimate of the same share with less noise, from all margins between labels and the
        errors of the smallest third. NaN for regression.
    difference : float
        Mean squared difference of the outputs relative to their variance, over rows that are inside
        the range of the bytes. For a classifier: of the margins, relative to their mean square.
    recomputed : float
        Share of held-out rows that are recomputed in float32: outside the range of the bytes, or
        with a margin below :attr:`lrgate.Network.least_margin`.
    layers : tuple of LayerFit
        The layers that were selected for quantisation.
    """

    task: str
    rows: int
    held_rows: int
    changed: float
    expected_changed: float
    difference: float
    recomputed: float
    layers: tuple[LayerFit, ...]

    def _parts(self) -> list[str | Table]:
        lines = [f"fitted to {self.rows} rows, checked on {self.held_rows} others"]
        if self.held_rows:
            if not math.isnan(self.changed):
                lines.append(
                    f"labels that int8 changes  {self.changed:.2%} "
                    f"(expected {self.expected_changed:.2%})"
                )
            lines.append(f"relative squared difference  {self.difference:.2g}")
            lines.append(f"rows recomputed in f32  {self.recomputed:.2%}")
        head = "\n".join(lines)
        return [head, self.table()] if self.layers else [head]

    def table(self) -> Table:
        """One row per layer that was selected for quantisation."""
        return Table(
            _COLUMNS,
            [
                (fit.layer, fit.precision, fit.error, fit.recomputed, fit.note or None)
                for fit in self.layers
            ],
            gap=2,
        )


class QuantizationWarning(UserWarning):
    """A layer stays f32, int8 changes many labels, or many rows are recomputed."""

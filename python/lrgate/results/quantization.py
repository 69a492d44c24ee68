"""How a network in int8 compares with f32: the report of :meth:`lrgate.Network.quantize`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lrgate.results.table import Column, Table

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
    """How a layer was fitted.

    Parameters
    ----------
    layer : int
    precision : {"f32", "int8"}
    error : float
        Root mean square error of the layer's sums by its bytes, relative to their spread, measured
        on rows that are not recomputed; NaN where nothing was fitted.
    recomputed : float
        Share of the fitting rows that leave the layer's windows.
    note : str
        Why the layer stays f32; else empty.
    """

    layer: int
    precision: str
    error: float
    recomputed: float
    note: str = ""


@dataclass(frozen=True)
class QuantizationReport:
    """What :meth:`lrgate.Network.quantize` found; ``print`` shows it.

    Parameters
    ----------
    task : str
    rows : int
        Rows that quantisations were fitted to.
    held_rows : int
        Other rows, on which the int8 network is compared with float32. Where there are none,
        figures of the network are NaN.
    changed : float
        Share of held rows whose label int8 changes; of entries, for several labels. NaN for
        regression.
    expected_changed : float
        The same share with less noise: each margin between labels against the errors of all
        margins. NaN for regression.
    difference : float
        Mean squared difference of the outputs, relative to their variance (of a classifier: of the
        margins, relative to their mean square), over rows that are not recomputed.
    recomputed : float
        Share of held rows that leave the range of the bytes, and are recomputed in float32.
    layers : tuple of LayerFit
        The layers that were to be quantised.
    """

    task: str
    rows: int
    held_rows: int
    changed: float
    expected_changed: float
    difference: float
    recomputed: float
    layers: tuple[LayerFit, ...]

    def _head(self) -> list[str]:
        lines = [f"fitted to {self.rows} rows, checked on {self.held_rows} others"]
        if self.held_rows:
            if not math.isnan(self.changed):
                lines.append(
                    f"labels that int8 changes  {self.changed:.2%} "
                    f"(expected {self.expected_changed:.2%})"
                )
            lines.append(f"relative squared difference  {self.difference:.2g}")
            lines.append(f"rows recomputed in f32  {self.recomputed:.2%}")
        return lines

    def __str__(self) -> str:
        lines = self._head()
        if self.layers:
            lines.append(str(self.table()))
        return "\n".join(lines)

    def table(self) -> Table:
        """One row per layer that was to be quantised."""
        return Table(
            _COLUMNS,
            [
                (fit.layer, fit.precision, fit.error, fit.recomputed, fit.note or None)
                for fit in self.layers
            ],
            gap=2,
        )

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        return f"<p>{'<br>'.join(self._head())}</p>{self.table()._repr_html_()}"

    def to_dataframe(self) -> Any:
        """One row per layer, as a ``pandas.DataFrame``.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        return self.table().to_dataframe()


class QuantizationWarning(UserWarning):
    """A layer stays f32, int8 changes many labels, or many rows are recomputed."""

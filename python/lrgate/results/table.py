"""The table of all results, which converts to text, HTML and a DataFrame."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

__all__ = ["Column", "Table", "Tabular", "microseconds", "plain"]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    title : str
    form : str or callable, default ""
        Format specification, or a function that converts a value to text.
    left : bool, default False
        Whether text is aligned to the left.
    missing : str, default "-"
        Text for the value None.
    """

    title: str
    form: str | Callable[[Any], str] = ""
    left: bool = False
    missing: str = "-"

    def text(self, value: Any) -> str:
        """The text of a cell."""
        if value is None:
            return self.missing
        return self.form(value) if callable(self.form) else format(value, self.form)


@dataclass(frozen=True)
class Table:
    """Rows of values with column titles; ``print`` shows text, notebooks show HTML.

    Parameters
    ----------
    columns : sequence of Column
    rows : sequence of sequences
        One value per column.
    gap : int, default 1
        Spaces between columns of text.

    Examples
    --------
    >>> print(Table([Column("layer", left=True), Column("share", ".2f")], [("4-3", 0.5)]))
    layer share
    4-3    0.50
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    gap: int = 1

    def cells(self) -> list[list[str]]:
        """The texts of the cells, row by row, without the titles."""
        return [
            [column.text(value) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]

    def __str__(self) -> str:
        lines = [[column.title for column in self.columns], *self.cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            (" " * self.gap)
            .join(
                cell.ljust(width) if column.left else cell.rjust(width)
                for cell, width, column in zip(line, widths, self.columns, strict=True)
            )
            .rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        """The table in a notebook."""

        def row(cells: Sequence[str], tag: str) -> str:
            aligned = (
                f'<{tag} style="text-align: {"left" if column.left else "right"}">'
                f"{html.escape(cell)}</{tag}>"
                for cell, column in zip(cells, self.columns, strict=True)
            )
            return f"<tr>{''.join(aligned)}</tr>"

        head = row([column.title for column in self.columns], "th")
        body = "".join(row(cells, "td") for cells in self.cells())
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"

    def to_dataframe(self) -> Any:
        """The values, not their texts, as a ``pandas.DataFrame``.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        import pandas as pd

        return pd.DataFrame(
            [tuple(row) for row in self.rows], columns=[column.title for column in self.columns]
        )


class Tabular:
    """A result with text, HTML, a DataFrame and plain data. Results are dataclasses."""

    def table(self) -> Table:
        """The table of the result."""
        raise NotImplementedError

    def _parts(self) -> list[str | Table]:
        """Lines of text and tables in the order in which they are shown. "" is a blank line."""
        return [self.table()]

    def __str__(self) -> str:
        """Text and tables of at most 80 columns."""
        return "\n".join(map(str, self._parts()))

    def _repr_html_(self) -> str:
        """The same in a notebook."""
        return "".join(
            part._repr_html_() if isinstance(part, Table) else _paragraph(part)
            for part in self._parts()
            if part
        )

    def to_dataframe(self) -> Any:
        """The rows of `table`, as a ``pandas.DataFrame``.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        return self.table().to_dataframe()

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data: dicts, lists, numbers and text."""
        result: dict[str, Any] = plain(asdict(cast(Any, self)))
        return result


def plain(value: Any) -> Any:
    """The value with lists in place of tuples."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def _paragraph(text: str) -> str:
    lines = html.escape(text).replace("\n", "<br>")
    return f"<p>{lines}</p>"


def microseconds(seconds: float) -> str:
    """Format seconds as microseconds: with two decimals below 1,000, otherwise without."""
    value = seconds * 1e6
    return f"{value:.2f}" if value < 999.995 else f"{value:.0f}"

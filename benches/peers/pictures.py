"""Pictures as SVG that a browser shows well on a light and on a dark page.

Text stays text, so that files are small; the same data give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from lrgate.files import replacing

INK = "#57606a"
"""Colour of text, axes and grid; in the file it becomes the page's own colour of text."""

STYLE = (
    "<style>svg{color:#24292f}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}"
    "text{font-family:sans-serif}</style>"
)

plt.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "lrgate",
        "path.simplify_threshold": 1.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.linewidth": 0.3,
        "grid.alpha": 0.5,
        "legend.frameon": False,
        **dict.fromkeys(
            (
                *("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor"),
                *("xtick.color", "ytick.color", "grid.color"),
            ),
            INK,
        ),
    }
)


def save(figure: Any, path: Path) -> None:
    """Write the figure to `path`, which is replaced as a whole, and close it."""
    held = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(held, format="svg", bbox_inches="tight", transparent=True, metadata=metadata)
    plt.close(figure)
    text = held.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # Coordinates get two decimals. Text between tags stays.
    text = re.sub(
        r">[^<]+<|(\.\d\d)\d+| font-family: [^;]*;",
        lambda found: found[0] if found[0][0] == ">" else found[1] or "",
        text,
    )
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    end = text.index(">") + 1
    with replacing(path) as file:
        file.write((text[:end] + STYLE + text[end:]).encode())


def log_ticks(axis: Any, values: Sequence[float]) -> None:
    """Plain numbers on the axis, a tick at each of these values and no other."""
    axis.set_major_locator(FixedLocator(sorted(values)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())

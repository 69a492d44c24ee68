"""The learning-curve picture of a run, from its JSON log.

Run on its own it redraws the picture: ``python training/plot.py RUN/log.json RUN/curve.png``.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator


def draw(log: dict[str, Any], path: Path) -> None:
    """Write the learning curve of ``log`` to ``path`` (PNG), atomically."""
    epochs = log["epochs"]
    estimated = "disagreement" in epochs[0]
    figure, axes = plt.subplots(1, 3 + estimated, figsize=(4.6 * (3 + estimated), 4.0))
    _draw_error(axes[0], log)
    _draw_loss(axes[1], epochs)
    _draw_by_layer(axes[2], epochs, "density", "hidden density (validation)")
    if estimated:
        _draw_by_layer(axes[3], epochs, "disagreement", "wrong signs (validation)")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)
    os.replace(partial, path)


def _draw_error(axis: Axes, log: dict[str, Any]) -> None:
    epochs = log["epochs"]
    numbers = [record["epoch"] for record in epochs]
    errors = [100 * record["validation_error"] for record in epochs]
    axis.plot(numbers, errors, marker=".", label="validation")
    if "validation_error_unmasked" in epochs[0]:
        unmasked = [100 * record["validation_error_unmasked"] for record in epochs]
        axis.plot(numbers, unmasked, marker=".", label="validation, unmasked")
    if result := log.get("result"):
        axis.plot(
            result["best_epoch"],
            100 * result["test_error"],
            "k*",
            markersize=10,
            label=f"test, best epoch: {100 * result['test_error']:.2f} %",
        )
    axis.set_title("error, %")
    # The first epochs would squeeze the part that matters.
    settled = sorted(errors)[: max(2, len(errors) * 3 // 4)]
    top = 1.25 * settled[-1] if len(errors) > 8 else 1.1 * max(errors)
    axis.set_ylim(0, max(top, 0.01))


def _draw_loss(axis: Axes, epochs: list[dict[str, Any]]) -> None:
    numbers = [record["epoch"] for record in epochs]
    for key, label in [
        ("train_loss", "training, with penalties on activations"),
        ("train_cross_entropy", "training, cross-entropy"),
        ("validation_loss", "validation, cross-entropy"),
    ]:
        axis.plot(numbers, [record[key] for record in epochs], marker=".", label=label)
    axis.set_yscale("log")
    axis.set_title("loss")


def _draw_by_layer(axis: Axes, epochs: list[dict[str, Any]], key: str, title: str) -> None:
    numbers = [record["epoch"] for record in epochs]
    for layer, last in enumerate(epochs[-1][key]):
        values = [record[key][layer] for record in epochs]
        axis.plot(numbers, values, marker=".", label=f"layer {layer}: {last:.3f}")
    axis.set_title(title)
    axis.set_ylim(bottom=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the learning curve of a run's log.")
    parser.add_argument("log", type=Path, help="log.json of a run")
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    arguments = parser.parse_args()
    draw(json.loads(arguments.log.read_text()), arguments.picture)

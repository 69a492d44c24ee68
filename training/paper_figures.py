"""Make the tables and pictures of docs/paper.md from training/results.

    python training/paper_figures.py

Replaces each table and picture of the page, between its two comments, and docs/images/paper-*.svg.
Results of unfinished runs are part of both, and marked. Needs the lrgate package, as benches/peers
does, whose style the pictures have.
"""

from __future__ import annotations

import argparse
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benches" / "peers"))

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import NullLocator  # noqa: E402
from pictures import log_ticks, save  # noqa: E402

import objective  # noqa: E402
import tables  # noqa: E402
from study import read_result  # noqa: E402

STUDIES = (
    *("mnist", "svhn", "svhn-subset", "fashion"),
    *("steps", "epoch", "objective", "activations"),
)
BORROWED = {
    "steps": ("10-10-5",),
    "epoch": ("10-10-5",),
    "objective": ("none", "10-10-5"),
    "activations": ("none", "25-25-25"),
}
"""Rows of the MNIST table that belong to another study as well."""

MEASURED = ("frontier", "capacity")
"""Studies whose tables and pictures are of the times that speed.py measured."""

HIDDEN = (784, 1000, 600, 400)
COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#57606a")


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--results-dir", type=Path, default=ROOT / "training" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "paper.md")
    options = parser.parse_args()
    folder, page = options.results_dir, options.page.read_text()
    written(page, folder, set())  # has a place for each table
    results = {name: gathered(name, folder) for name in STUDIES}
    images = options.page.parent / "images"
    drawn = set()
    for name, draw in (
        ("ranks", draw_ranks),
        ("curves", draw_curves),
        ("epoch", draw_epoch),
        ("objective", draw_objective),
    ):
        path = images / f"paper-{name}.svg"
        if draw(results, path):
            drawn.add(name)
            print(path)
    for name in MEASURED:
        speed, path = _speed(folder, name), images / f"paper-{name}.svg"
        if speed is not None:
            draw_speed(speed, path)
            drawn.add(name)
            print(path)
    options.page.write_text(written(page, folder, drawn))
    return 0


def written(page: str, folder: Path, drawn: set[str]) -> str:
    """``page`` with the tables of all results in ``folder``, and the pictures called ``drawn``.

    Raises
    ------
    ValueError
        The page has no place for a table that has results.
    """
    for name in MEASURED:
        speed = _speed(folder, name)
        rows = tables.speed_rows(speed) if speed is not None else ([], [])
        page, count = _replaced(page, f"table {name}", tables.markdown_of(*rows))
        if speed is not None and not count:
            raise ValueError(f"the page has no comment <!-- table {name} -->")
    return filled(page, {name: gathered(name, folder) for name in STUDIES}, drawn)


def _speed(folder: Path, study: str) -> dict[str, Any] | None:
    return read_result(folder / "speed" / f"{study}.json")


def gathered(study: str, folder: Path) -> list[dict[str, Any]]:
    """All results of a study, in the order of its table."""
    own = [read_result(path) for path in sorted((folder / study).glob("*.json"))]
    found = [result for result in own if result is not None]
    if study in BORROWED:
        mnist = gathered("mnist", folder)
        found = [one for one in mnist if one["label"] in BORROWED[study]] + found
    return sorted(found, key=_place)


def _place(result: dict[str, Any]) -> tuple[bool, int, str]:
    """The control first, then ranks from the largest sum down, then names."""
    ranks = result["config"]["ranks"]
    return bool(ranks), -sum(ranks), result["run"]


def filled(page: str, results: dict[str, list[dict[str, Any]]], drawn: set[str]) -> str:
    """``page`` with the table or picture between each pair of comments replaced.

    Raises
    ------
    ValueError
        The page has no place for a table that has results.
    """
    for study, found in results.items():
        page, count = _replaced(page, f"table {study}", tables.markdown(study, found))
        if found and not count:
            raise ValueError(f"the page has no comment <!-- table {study} -->")

    def picture(match: re.Match[str]) -> str:
        name, alternative = match[2], match[3]
        image = f"![{alternative}](images/paper-{name}.svg)" if name in drawn else "Not run yet."
        return f"{match[1]}\n{image}\n\n{match[4]}"

    pattern = r"(<!-- picture (\w+): ([^\n]*) -->\n).*?(<!-- end -->)"
    return re.sub(pattern, picture, page, flags=re.DOTALL)


def _replaced(page: str, comment: str, text: str) -> tuple[str, int]:
    """``page`` with ``text`` after a comment, and the number of such comments."""
    pattern = rf"(<!-- {re.escape(comment)} -->\n).*?(<!-- end -->)"
    return re.subn(
        pattern, lambda match: f"{match[1]}\n{text}\n\n{match[2]}", page, flags=re.DOTALL
    )


def draw_ranks(results: dict[str, list[dict[str, Any]]], path: Path) -> bool:
    """Test error of each row of ranks, one panel for each data set; False without results."""
    names = [name for name in STUDIES[:4] if any(group.tested for group in _groups(results, name))]
    if not names:
        return False
    figure, axes = plt.subplots(1, len(names), figsize=(4.2 * len(names), 3.2), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        groups = [group for group in _groups(results, name) if group.tested]
        for place, group in enumerate(groups):
            errors = [100 * test["error"] for test in group.tests()]
            axis.plot([place] * len(errors), errors, "o", color=COLOURS[0], alpha=0.7)
            if group.label in tables.PAPER.get(name, {}):
                axis.plot(place, tables.PAPER[name][group.label], "_", color=COLOURS[1], ms=18)
        labels = [group.label for group in groups]
        axis.set_xticks(range(len(groups)), labels, rotation=30, ha="right")
        axis.set_ylabel("test error, %")
        axis.set_ylim(0, 1.1 * axis.dataLim.y1)
        axis.set_title(f"{name} (dots: runs" + ("; lines: paper)" if name == "mnist" else ")"))
        axis.grid(axis="y")
    save(figure, path)
    return True


def draw_curves(results: dict[str, list[dict[str, Any]]], path: Path) -> bool:
    """Validation error and wrong signs by epoch, of the longest run of each row."""
    longest: dict[str, dict[str, Any]] = {}
    for result in results["mnist"]:
        known = longest.get(result["label"])
        if known is None or result["trained_epochs"] > known["trained_epochs"]:
            longest[result["label"]] = result
    if not longest:
        return False
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4))
    for colour, (label, result) in zip(COLOURS, longest.items(), strict=False):
        curves = result["epochs"]
        numbers = range(1, result["trained_epochs"] + 1)
        errors = [100 * error for error in curves["validation_error"]]
        left.plot(numbers, errors, color=colour, label=label, linewidth=1)
        if "wrong_signs" in curves:
            wrong = [sum(layers) / len(layers) for layers in curves["wrong_signs"]]
            right.plot(numbers, wrong, color=colour, label=label, linewidth=1)
    left.set_ylabel("validation error, %")
    left.set_ylim(1, 5)
    right.set_ylabel("wrong signs, mean of layers")
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.grid()
    left.legend(title="ranks")
    figure.tight_layout()
    save(figure, path)
    return True


def draw_epoch(results: dict[str, list[dict[str, Any]]], path: Path) -> bool:
    """Wrong signs from step to step within an epoch, early and late in training."""
    runs = [one for one in results["epoch"] if one.get("wrong_signs_within")]
    epochs = sorted(
        set.intersection(*({int(epoch) for epoch in one["wrong_signs_within"]} for one in runs))
        if runs
        else ()
    )
    if not epochs:
        return False
    chosen = sorted({epochs[0], epochs[-1]})
    figure, axes = plt.subplots(1, len(chosen), figsize=(4.8 * len(chosen), 3.2), squeeze=False)
    for axis, epoch in zip(axes[0], chosen, strict=True):
        drawn: set[str] = set()
        for result in runs:
            if result["label"] in drawn:
                continue
            colour = COLOURS[len(drawn)]
            drawn.add(result["label"])
            points = result["wrong_signs_within"][str(epoch)]
            means = [sum(layers) / len(layers) for layers in points]
            shares = [(place + 0.5) / len(points) for place in range(len(points))]
            name = result["label"].replace("-", " ")
            name = "once per epoch" if result["label"] == "10-10-5" else name
            axis.plot(shares, means, color=colour, label=name, linewidth=1.2)
        axis.set_title(f"epoch {epoch}")
        axis.set_xlabel("share of the epoch")
        axis.grid()
    axes[0][0].set_ylabel("wrong signs, mean of layers")
    axes[0][-1].legend(title="factors renewed", loc="upper left", bbox_to_anchor=(1.02, 1.0))
    figure.tight_layout()
    save(figure, path)
    return True


def draw_objective(results: dict[str, list[dict[str, Any]]], path: Path) -> bool:
    """Test error against the computed share of the hidden layers' multiply-adds.

    Stars: networks trained in the loop, at their own thresholds.
    """
    figure, axis = plt.subplots(figsize=(8.6, 4.0))
    lines = 0
    for group in _groups(results, "objective"):
        tests = group.tests()
        if tests and "after_training" in tests[0]:
            for colour, name in zip(COLOURS, objective.ESTIMATORS, strict=False):
                fits = [test["after_training"][name] for test in tests]
                lines += _draw_shares(axis, fits, f"{name}, after training", colour, "--")
        elif tests and "at_shares" in tests[0]:
            name = "svd" if group.label == "10-10-5" else group.label
            colour = COLOURS[objective.ESTIMATORS.index(name.removesuffix("-light"))]
            style = ":" if name.endswith("-light") else "-"
            lines += _draw_shares(axis, tests, f"{name}, in the loop", colour, style)
            own = _mean([_weighted(test["computed_share"]) for test in tests])
            axis.plot(own, 100 * _mean([test["error"] for test in tests]), "*", color=colour)
    axis.set_xlabel("computed share of the hidden layers' multiply-adds")
    axis.set_ylabel("test error, %")
    axis.set_yscale("log")
    axis.set_yticks([1.5, 2, 3, 5, 10, 20, 30])
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.grid()
    if lines:
        axis.plot([], [], "*", color=COLOURS[-1], label="at its own threshold")
        axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
        figure.tight_layout()
        save(figure, path)
    else:
        plt.close(figure)
    return lines > 0


def _draw_shares(
    axis: Any, tests: list[dict[str, Any]], label: str, colour: str, style: str
) -> int:
    """One estimator's errors at all shares, the mean over its runs; returns the lines drawn."""
    by_scale = list(zip(*(test["at_shares"] for test in tests), strict=True))
    shares = [_mean([_weighted(one["computed_share"]) for one in some]) for some in by_scale]
    errors = [100 * _mean([one["error"] for one in some]) for some in by_scale]
    axis.plot(shares, errors, style, color=colour, label=label, marker=".")
    return 1


TICKS = [step * 10.0**power for power in range(-2, 5) for step in (1, 1.5, 2, 3, 4, 5, 7)]
SERIES = {
    "lrgate, sparse networks": COLOURS[0],
    "lrgate, dense networks": COLOURS[2],
    "best peer, dense networks": COLOURS[1],
}


def draw_speed(result: dict[str, Any], path: Path) -> None:
    """Test error against time per row: lrgate's networks, and the best peer of the dense ones."""
    sizes = [str(size) for size in result["rows"]]
    figure, axes = plt.subplots(1, len(sizes), figsize=(4.8 * len(sizes), 3.6), squeeze=False)
    for axis, size in zip(axes[0], sizes, strict=True):
        for kind, points in speed_series(result, size).items():
            times, errors, _ = zip(*points, strict=True)
            colour = SERIES[kind]
            axis.plot(times, errors, "o-", color=colour, label=kind, linewidth=1)
            for time, error, name in points:
                axis.annotate(name, (time, error), (4, 4), textcoords="offset points", fontsize=7)
            if len(points) == 1:
                axis.axvline(times[0], color=colour, linewidth=0.8, linestyle=":")
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        log_ticks(axis.xaxis, [tick for tick in TICKS if low <= tick <= high])
        axis.set_xlabel("microseconds per row" + (", one row" if size == "1" else f", {size} rows"))
        axis.set_ylabel("test error, %")
        axis.grid()
        axis.legend(fontsize=8)
    figure.tight_layout()
    save(figure, path)


def speed_series(result: dict[str, Any], size: str) -> dict[str, list[tuple[float, float, str]]]:
    """Microseconds, error in percent and name of each point, from the fastest to the slowest.

    The best peer is the fastest documented one within the limit of error.
    """
    series: dict[str, list[tuple[float, float, str]]] = {kind: [] for kind in SERIES}
    for label, network in result["networks"].items():
        found = {engine: each[size] for engine, each in network["engines"].items() if size in each}
        ours = found.pop("lrgate")
        kind = "lrgate, dense networks" if network["dense"] else "lrgate, sparse networks"
        chosen = {kind: ours}
        allowed = [each for each in found.values() if each["documented"] and each["within_limit"]]
        if allowed:
            chosen["best peer, dense networks"] = min(allowed, key=lambda each: each["us"][0])
        name = label.partition("-")[2].removesuffix("-no-dropout")
        for kind, figures in chosen.items():
            series[kind].append((figures["us"][0], 100 * figures["error"], name))
    return {kind: sorted(points) for kind, points in series.items() if points}


def _weighted(shares: list[float]) -> float:
    """The mean of the layers' shares, weighted by their multiply-adds."""
    work = [inputs * units for inputs, units in pairwise(HIDDEN)]
    return sum(share * one for share, one in zip(shares, work, strict=True)) / sum(work)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _groups(results: dict[str, list[dict[str, Any]]], study: str) -> list[tables.Group]:
    return tables.groups(results[study], equal=study in BORROWED)


if __name__ == "__main__":
    sys.exit(main())

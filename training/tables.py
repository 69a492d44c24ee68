"""The tables of the studies, made from their results."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

PAPER: dict[str, dict[str, float]] = {
    "mnist": {"none": 1.40, "50-35-25": 1.43, "25-25-25": 1.60, "10-10-5": 2.28},
    "svhn": {
        "none": 9.31,
        "200-100-75-15": 9.67,
        "100-75-50-25": 9.96,
        "75-50-40-30": 10.72,
        "50-40-40-35": 12.16,
        "25-25-15-15": 19.4,
    },
}
"""Published test errors in percent; those of SVHN belong to the complete data set alone."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """The runs of one label. ``tested`` have a test after ``epochs`` epochs, the most there are."""

    label: str
    epochs: int
    tested: list[Result]
    unfinished: list[Result]

    def tests(self) -> list[dict[str, Any]]:
        """The test figures of each tested run."""
        return [result["tests"][str(self.epochs)] for result in self.tested]


def groups(results: Iterable[Result], equal: bool = False) -> list[Group]:
    """Results by label, in the order in which the labels appear.

    With ``equal``, all tested groups are taken after the same number of epochs if there is one that
    each of them has a test for, so that a comparison of methods is not one of training times.
    """
    by_label: dict[str, list[Result]] = {}
    for result in results:
        by_label.setdefault(result["label"], []).append(result)
    lengths = {
        label: {int(number) for run in runs for number in run["tests"]}
        for label, runs in by_label.items()
    }
    tested_lengths = [some for some in lengths.values() if some]
    common = set.intersection(*tested_lengths) if tested_lengths else set()
    found = []
    for label, runs in by_label.items():
        epochs = max(common & lengths[label] if equal and common else lengths[label], default=0)
        tested = [run for run in runs if str(epochs) in run["tests"]]
        found.append(Group(label, epochs, tested, [run for run in runs if run not in tested]))
    return found


def rows(study: str, results: Iterable[Result]) -> tuple[list[str], list[list[str]]]:
    """The heading and the cells of a study's table."""
    results = list(results)
    if study == "objective":
        return _objective_rows(results)
    return _rank_rows(study, results)


def text(study: str, results: Iterable[Result]) -> str:
    """The table for a terminal."""
    heading, cells = rows(study, results)
    if not cells:
        return "no results yet"
    lines = [heading, *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(study: str, results: Iterable[Result]) -> str:
    """The table for a document."""
    return markdown_of(*rows(study, results))


def markdown_of(heading: list[str], cells: list[list[str]]) -> str:
    """A heading and cells for a document."""
    if not cells:
        return "Not run yet."
    lines = [heading, ["---"] * len(heading), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def speed_rows(result: Result) -> tuple[list[str], list[list[str]]]:
    """The heading and the cells of the networks that speed.py measured, and of the peers."""
    sizes = [str(size) for size in result["rows"]]
    heading = ["network", "hidden units", "density", "computed share", "test error, %", "engine"]
    for size in sizes:
        rows = "1 row" if size == "1" else f"{size} rows"
        heading += [f"{rows}: us per row", "test error, %"]
    cells = []
    for label, network in sorted(result["networks"].items(), key=_kind_and_number):
        own = [
            label,
            "-".join(map(str, network["hidden"])),
            " / ".join(f"{density:.3f}" for density in network["density"]),
            " / ".join(f"{share:.3f}" for _, share in network["plans"][sizes[0]][:-1]),
            f"{100 * network['error']:.2f}",
        ]
        for engine, figures in network["engines"].items():
            line = [*(own if engine == "lrgate" else [""] * len(own)), engine]
            for size in sizes:
                line += _speed_cells(figures[size]) if size in figures else ["", ""]
            cells.append(line)
    return heading, cells


def _kind_and_number(network: tuple[str, Any]) -> tuple[str, float, str]:
    """Sorts labels such as ``dense-0.5-no-dropout`` by their kind, then by their number."""
    kind, number, *rest = network[0].split("-")
    return kind, float(number), "-".join(rest)


def _speed_cells(figures: dict[str, Any]) -> list[str]:
    """Median and quartiles of the time, and the error, with an asterisk above the limit."""
    us = figures["us"]
    median, low, high = (f"{x:,.0f}" if x >= 1000 else f"{x:.3g}" for x in us)
    mark = "" if figures["within_limit"] else "\\*"
    return [f"{median} ({low} to {high})", f"{100 * figures['error']:.2f}{mark}"]


def spread(values: Sequence[float]) -> str:
    """The mean of shares as a percentage, with the standard deviation if there are several."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


_FIRST = {
    "steps": "training",
    "epoch": "refresh",
    "activations": "activation, ranks",
    "frontier": "L1",
    "capacity": "network",
}
"""The first column of tables whose rows are not ranks."""


def _rank_rows(study: str, results: list[Result]) -> tuple[list[str], list[list[str]]]:
    heading = [
        _FIRST.get(study, "ranks"),
        "test error, %",
        "validation error, %",
        "unmasked, %",
        "density" if study in ("frontier", "capacity") else "computed share",
        "wrong signs",
        "epochs",
        "seeds",
    ]
    paper = PAPER.get(study)
    if paper:
        heading.insert(2, "paper, %")
    if study == "epoch":
        heading += ["wrong signs at an epoch's end", "ms per refresh"]
    cells = []
    for group in groups(results, equal=study in ("epoch", "activations")):
        line = _tested_cells(group) if group.tested else _unfinished_cells(group)
        if study in ("frontier", "capacity") and group.tested:
            line[4] = _shares([test["density"] for test in group.tests()])
        if paper:
            line.insert(2, f"{paper[group.label]:.2f}" if group.label in paper else "")
        if study == "epoch":
            line += _refresh_cells(group)
            line[0] = "once per epoch" if line[0] == "10-10-5" else line[0].replace("-", " ")
        if study == "steps":
            line[0] = _steps(group)
        if study == "activations":
            line[0] = {"none": "relu", "25-25-25": "relu-25-25-25"}.get(line[0], line[0])
            line[0] = line[0].replace("-25-25-25", ", 25-25-25")
        cells.append(line)
    return heading, cells


def _steps(group: Group) -> str:
    """The row of the MNIST table is named by its rows per step, others by their label."""
    if group.label != "10-10-5":
        return group.label.replace("-", " ")
    run = (group.tested or group.unfinished)[0]
    return f"{run['config']['batch_size']} rows per step"


def _tested_cells(group: Group) -> list[str]:
    tests = group.tests()
    estimated = "computed_share" in tests[0]
    seeds = f"{len(group.tested)}"
    if group.unfinished:
        seeds += f" (and {len(group.unfinished)} unfinished)"
    return [
        group.label,
        spread([test["error"] for test in tests]),
        spread([test["validation_error"] for test in tests]),
        spread([test["error_unmasked"] for test in tests]) if estimated else "",
        _shares([test["computed_share"] for test in tests]) if estimated else "1",
        _shares([test["wrong_signs"] for test in tests]) if estimated else "",
        f"{group.epochs}",
        seeds,
    ]


def _unfinished_cells(group: Group) -> list[str]:
    best = [min(run["epochs"]["validation_error"]) for run in group.unfinished]
    epochs = sorted({run["trained_epochs"] for run in group.unfinished})
    return [
        group.label,
        "unfinished",
        spread(best),
        "",
        "",
        "",
        f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}",
        f"{len(group.unfinished)} unfinished",
    ]


def _refresh_cells(group: Group) -> list[str]:
    """Wrong signs before the last refresh of the last epoch, and the time of a refresh.

    The time is that of the median epoch, and of the median run: other programs may slow down a run,
    or stop it for minutes.
    """
    runs = group.tested or group.unfinished
    last = group.epochs - 1 if group.tested else -1
    end = [run["epochs"]["wrong_signs_before_refresh"][last] for run in runs]
    times = [
        statistics.median(
            seconds / max(1, count)
            for seconds, count in zip(
                run["epochs"]["refresh_seconds"], run["epochs"]["refreshes"], strict=True
            )
        )
        for run in runs
    ]
    return [_shares(end), f"{1000 * statistics.median(times):.1f}"]


def _objective_rows(results: list[Result]) -> tuple[list[str], list[list[str]]]:
    """Errors at equal computed share: after training, then in the loop."""
    cells = []
    scales: list[float] = []
    for group in groups(results, equal=True):
        tests = group.tests()
        if not tests:
            cells.append([group.label, "unfinished"])
        elif "after_training" in tests[0]:
            for name in tests[0]["after_training"]:
                fits = [test["after_training"][name] for test in tests]
                scales = [one["scale"] for one in fits[0]["at_shares"]]
                cells.append(_objective_cells(group, f"{name}, after training", fits))
        elif "at_shares" in tests[0]:
            scales = [one["scale"] for one in tests[0]["at_shares"]]
            name = "svd" if group.label == "10-10-5" else group.label
            cells.append(_objective_cells(group, f"{name}, in the loop", tests))
    heading = ["estimator", "test error, %", "computed share", "of all units"]
    heading += [f"at {scale:g}, %" for scale in scales] + ["epochs", "seeds"]
    padded = [line + [""] * (len(heading) - len(line)) for line in cells]
    return heading, padded


def _objective_cells(group: Group, name: str, tests: list[dict[str, Any]]) -> list[str]:
    at_shares = zip(*(test["at_shares"] for test in tests), strict=True)
    hidden = group.tested[0]["config"]["hidden"]
    all_units = statistics.mean(
        sum(map(operator.mul, test["computed_share"], hidden)) / sum(hidden) for test in tests
    )
    return [
        name,
        spread([test["error"] for test in tests]),
        _shares([test["computed_share"] for test in tests]),
        f"{all_units:.3f}",
        *(spread([one["error"] for one in at_one]) for at_one in at_shares),
        f"{group.epochs}",
        f"{len(tests)}",
    ]


def _shares(by_run: Sequence[Sequence[float]]) -> str:
    """Shares of each layer, averaged over runs."""
    return " / ".join(f"{statistics.mean(layer):.3f}" for layer in zip(*by_run, strict=True))

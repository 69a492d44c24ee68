"""docs/benchmarks.md and its pictures, from the results of run.py and growth.py.

    python benches/peers/report.py

The page is page.md with the figures filled in. Everything else that was measured, engine by engine,
goes into ``details.md`` beside the results, which git ignores.
"""

from __future__ import annotations

import argparse
import json
import string
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import growth
from pictures import INK, log_ticks, plt, save

from lrgate.files.atomic import replacing

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benches" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
TEMPLATE = Path(__file__).with_name("page.md")
ORDER = (
    *("shipped", "paper", "fashion", "svhn", "svhn-sparse", "wide", "deep"),
    *("tabular", "kinematics", "policy", "signals", "words", "classes", "cancer", "iris", "dense"),
)
SPEED_TARGETS = {
    "shipped": {1: 8.0, 16: 6.0, 256: 7.0},
    "paper": {1: 5.0, 16: 3.0, 256: 3.5},
    "fashion": {1: 9.0, 256: 4.5},
    "svhn": {1: 5.0, 16: 2.5, 256: 2.5},
    "wide": {1: 80.0, 256: 12.0},
    "deep": {1: 2.5, 256: 1.8},
    "tabular": {1: 3.0, 256: 1.5},
    "kinematics": {1: 4.0, 256: 2.0},
    "policy": {1: 3.0, 256: 1.5},
    "signals": {1: 2.2, 256: 1.5},
    "words": {1: 8.0, 256: 4.0},
}
"""How many times as fast as the best peer at any precision, in turn, by network and rows."""

LEAST_SPEED = 1.0
"""The same, for every other network and number of rows."""

ALONE_TARGETS = {"shipped": 13.0, "paper": 8.0}
"""The same for one row, each engine alone in a loop."""

COLD_TARGETS = {"shipped": {8: 7.0, 64: 6.0}, "paper": {8: 4.0, 64: 4.0}}
"""The same for one row, after so many MB of other memory were read."""

MOST_ALONE = {"signals": (2.0e-6, 2.5e-6), "iris": (0.25e-6, None)}
"""Seconds of one row, alone in a loop: median and 99th percentile."""

LEAST_ON_TWO_THREADS = 1.5
"""One row on two threads: how many times as fast as on one, ..."""

SHARED_MULTIPLY_ADDS = (1e6, 4e6)
"""... for networks of so many multiply-adds per row: 1 to 4 MB of weights in int8."""

BYTES = "lrgate, uint8 rows"
OURS = ("lrgate", BYTES, "lrgate f32", "lrgate dense")
COLOURS = {
    "lrgate": "#b2182b",
    BYTES: "#f4772e",
    "lrgate f32": "#e377c2",
    "lrgate dense": "#7f4f3f",
    "NumPy": "#57a0a0",
    "scikit-learn": "#999999",
    "PyTorch": "#2166ac",
    "ORT": "#1b9e77",
    "OpenVINO": "#6a3d9a",
    "LiteRT": "#d95f02",
    "generated": "#4d4d4d",
    "JAX": "#b8a000",
}
"""By engine, or by the first word of its name; the line's style shows the precision."""

STYLES = {"f32": "-", "bf16": "-.", "int8": "--"}

SHADES = ("#0969da", "#bf8700", "#8250df")
"""Of numbers of rows per call; they show on light and on dark pages."""

MARKERS = "^sDvP"
"""Of peers with the same first word, in turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("--page", type=Path, default=PAGE, help="default: %(default)s")
    parser.add_argument("--template", type=Path, default=TEMPLATE, help="default: %(default)s")
    parser.add_argument(
        "--partial", action="store_true", help="write the page even without some networks"
    )
    options = parser.parse_args()
    write(options.results, options.page, options.template, partial=options.partial)


def write(
    results: Path, page: Path = PAGE, template: Path = TEMPLATE, *, partial: bool = False
) -> None:
    """Write ``details.md`` with a picture for each network, and the page with its pictures.

    The page stays as it is unless there are results of all networks, or `partial` is True: then it
    names the networks that are missing.

    Parameters
    ----------
    results : Path
        Folder of the JSON files that run.py and growth.py wrote; the details go there too.
    page : Path
        The page; its pictures go into ``images/`` beside it.
    template : Path
        The page without its figures.

    Raises
    ------
    ValueError
        If there are no results.
    """
    measured = {path.stem: json.loads(path.read_text("utf-8")) for path in results.glob("*.json")}
    grown = measured.pop("growth", None)
    works = list(measured.values())
    if not works:
        raise ValueError(f"{results} has no .json file; benches/peers/run.py makes them")
    works.sort(key=lambda work: (_place(work["name"]), work["name"]))
    write_details(works, grown, results)
    present = {work["name"] for work in works}
    missing = [name for name in ORDER if name not in present]
    if missing and not partial:
        print(f"{page} is left as it is: no results of {', '.join(missing)}")
    else:
        write_page(works, grown, page, template, missing)


def write_page(
    works: Sequence[dict[str, Any]],
    grown: dict[str, Any] | None,
    page: Path,
    template: Path = TEMPLATE,
    missing: Sequence[str] = (),
) -> None:
    """Fill the template.

    Without growth curves, their section shows the picture of an earlier run, or is left out.
    """
    images = page.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    draw_ratios(works, images / f"{page.stem}-speed.svg")
    form = template.read_text(encoding="utf-8")
    curves = images / f"{page.stem}-growth.svg"
    before, growth_heading, rest = form.partition("## Growth\n")
    if growth_heading and grown is not None:
        growth.draw_summary(grown, curves)
    elif growth_heading and not curves.exists():
        form = before + rest[rest.index("## ") :]
    lines = [line for work in works if (one := _at(work, 1)) for line in targets(work, one)]
    absent = ""
    if missing:
        names = ", ".join(f"*{name}*" for name in missing)
        absent = "\n" + textwrap.fill(f"This record lacks {names}.", 100) + "\n"
    text = string.Template(form).substitute(
        networks=len(works),
        absent=absent,
        curves="" if grown is not None else "\nThe picture is that of an earlier version.",
        speed=speed_table(works),
        cold=cold_table(works),
        engines=engines_table(works),
        reached=sum(line.verdict.startswith("reached") for line in lines),
        targets=sum(line.verdict != "not measured" for line in lines),
        missed=missed_table(lines),
        machine=machine(works),
    )
    with replacing(page) as file:
        file.write(text.encode())


def write_details(
    works: Sequence[dict[str, Any]], grown: dict[str, Any] | None, results: Path
) -> None:
    """All that was measured, as tables and pictures."""
    for work in works:
        draw_times(work, results / f"{work['name']}.svg")
    parts = [
        "# Benchmarks in detail",
        "Written by `benches/peers/report.py` from the JSON files in this folder.",
        "## Targets\n\n" + targets_table(works),
        *(section(work) for work in works),
        "" if grown is None else growth.markdown(grown),
        "## Machines and versions\n\n" + environment(works),
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    with replacing(results / "details.md") as file:
        file.write(text.encode())


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


# --- the page ------------------------------------------------------------------------------------

PAGE_ROWS = (1, 16, 256)
"""Rows per call in the page's tables."""

PAGE_WORKS = ("shipped", "paper", "tabular", "dense")
"""Networks for which the page has the times of every engine, at the first and last of them."""


def speed_table(works: Sequence[dict[str, Any]]) -> str:
    """lrgate beside the best peer: on one thread, then the ratios on two where measured."""
    lines = []
    with_two = any(_at(work, 2) is not None for work in works)
    for work in works:
        one, two = _at(work, 1), _at(work, 2)
        if one is None:
            continue
        cells = [f"*{work['name']}*: {work['title']}"]
        errors = []
        for rows in PAGE_ROWS:
            race = _race(one, rows)
            entry = _entry(race, "lrgate") if race else None
            if race is None or entry is None or "any" not in entry["over"]:
                cells += ["", ""]
                continue
            errors.append(entry["error"])
            against = entry["over"]["any"]
            peer = _entry(race, against["peer"])
            theirs = f"{micro(peer['seconds_per_row'])} {against['peer']}" if peer else ""
            alone = entry["alone"]["over"]
            own = "" if alone is None else f"; alone {alone:.2f}"
            cells += [
                f"{micro(entry['seconds_per_row'])} / {theirs}",
                f"**{against['median']:.2f}** ({against['low']:.2f} to {against['high']:.2f}){own}",
            ]
        found = between([one["error_dense"], *errors]) if work["name"] != "dense" else ""
        on_two = [" / ".join(_ratio(two, rows) for rows in PAGE_ROWS)] if with_two else []
        lines.append([*cells, *on_two, found])
    head = ["network"]
    for rows in PAGE_ROWS:
        head += [f"{of_rows(rows)}: lrgate / best peer", "times as fast"]
    return table([*head, *["times as fast on two threads"] * with_two, "error"], lines)


def cold_table(works: Sequence[dict[str, Any]]) -> str:
    """lrgate beside the best peer on one row after other memory was read, on one thread."""
    lines: list[list[str]] = []
    sizes: list[int] = []
    for work in works:
        race = _race(one, 1) if (one := _at(work, 1)) else None
        entry = _entry(race, "lrgate") if race else None
        if race is None or entry is None:
            continue
        cells = [f"*{work['name']}*"]
        for cold in entry["cold"]:
            against = cold["over"]
            if against is None:
                cells += [micro(cold["median"]), ""]
                continue
            peer = _entry(race, against["peer"]) or {"cold": []}
            theirs = next(each for each in peer["cold"] if each["read"] == cold["read"])
            cells += [
                f"{micro(cold['median'])} / {micro(theirs['median'])} {against['peer']}",
                f"**{against['median']:.2f}** ({against['low']:.2f} to {against['high']:.2f})",
            ]
        sizes = [cold["read"] for cold in entry["cold"]] or sizes
        lines.append(cells)
    head = ["network"]
    for size in sizes:
        head += [f"{megabytes(size)}: lrgate / best peer", "times as fast"]
    return table(head, lines)


def _ratio(comparison: dict[str, Any] | None, rows: int) -> str:
    race = _race(comparison, rows) if comparison else None
    entry = _entry(race, "lrgate") if race else None
    if entry is None or "any" not in entry["over"]:
        return "-"
    return f"{entry['over']['any']['median']:.2f}"


def engines_table(works: Sequence[dict[str, Any]]) -> str:
    """Microseconds per row of every engine on a few networks, on one thread.

    An asterisk marks an error above the limit; the start is that of the first network.
    """
    shown = [(work, one) for work in works if work["name"] in PAGE_WORKS and (one := _at(work, 1))]
    names = dict.fromkeys(name for _, one in shown for name in _names(one))
    starts = {start["name"]: start for start in shown[0][1]["starts"]} if shown else {}
    lines = []
    ends = PAGE_ROWS[0], PAGE_ROWS[-1]
    for name in names:
        cells = [name]
        for _, one in shown:
            for rows in ends:
                race = _race(one, rows)
                entry = _entry(race, name) if race else None
                mark = "" if entry is None or entry["within_limit"] else "\\*"
                cells.append("" if entry is None else micro(entry["seconds_per_row"]) + mark)
        start = starts.get(name)
        lines.append([*cells, "" if start is None else f"{start['seconds'] * 1e3:.0f}"])
    head = [f"{work['name']}, {of_rows(rows)}" for work, _ in shown for rows in ends]
    return table(["engine", *head, "start, ms"], lines)


def missed_table(lines: Sequence[Line]) -> str:
    """The targets that were missed, one line for each kind."""
    kinds: dict[str, list[str]] = {}
    for line in lines:
        if line.verdict == "missed":
            kinds.setdefault(line.what, []).append(f"{line.work} {line.short}")
    return table(["target", "missed by"], [[what, ", ".join(by)] for what, by in kinds.items()])


def machine(works: Sequence[dict[str, Any]]) -> str:
    """The machine and versions of all comparisons; where they differ, every value."""
    found: dict[str, dict[str, None]] = {}
    for work in works:
        for comparison in work["comparisons"].values():
            values = comparison["machine"]
            shown = {
                "CPU": values["cpu"],
                "platform": values["platform"],
                "lrgate": f"{values['lrgate']}, {values['instruction set']}",
                "Python": values["python"],
                "BLAS of NumPy": comparison["blas"],
                **comparison["versions"],
            }
            for key, value in shown.items():
                found.setdefault(key, {})[value] = None
    text = "; ".join(f"{key} {' or '.join(values)}" for key, values in found.items())
    return textwrap.fill(f"{text}.", 100, break_on_hyphens=False)


# --- targets -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of the table of targets."""

    work: str
    what: str
    target: str
    found: str
    verdict: str
    short: str = ""


def targets_table(works: Sequence[dict[str, Any]]) -> str:
    """Every target that these works have, at one thread, and whether it is reached."""
    lines = [line for work in works if (one := _at(work, 1)) for line in targets(work, one)]
    return table(
        ["network", "what", "target", "measured", ""],
        [[line.work, line.what, line.target, line.found, line.verdict] for line in lines],
    )


def targets(work: dict[str, Any], one: dict[str, Any]) -> Iterator[Line]:
    """The targets of one network."""
    yield from _speed_targets(work["name"], one)
    race = _race(one, 1)
    entry = _entry(race, "lrgate") if race else None
    if entry is not None:
        yield from _one_row_targets(work["name"], entry)
        yield from _thread_targets(work, one, entry)


def _speed_targets(name: str, one: dict[str, Any]) -> Iterator[Line]:
    """In turn: the network's own targets, and the least for every other batch size."""
    own = SPEED_TARGETS.get(name, {})
    measured = {race["rows"]: race for race in one["races"]}
    for rows in sorted({*own, *measured}):
        factor = own.get(rows, LEAST_SPEED)
        what = f"{of_rows(rows)}, speed of the best peer" + ("" if rows in own else ", at least")
        entry = _entry(measured[rows], "lrgate") if rows in measured else None
        if entry is None or "any" not in entry["over"]:
            yield Line(name, what, f"{factor:g}", "", "not measured")
            continue
        yield _ratio_line(name, what, factor, entry["over"]["any"], entry["within_limit"])


def _one_row_targets(name: str, entry: dict[str, Any]) -> Iterator[Line]:
    """Alone in a loop, and cold."""
    alone, within = entry["alone"], entry["within_limit"]
    if name in ALONE_TARGETS and alone["over"] is not None:
        found = dict.fromkeys(("median", "low", "high"), alone["over"])
        yield _ratio_line(name, "1 row alone, speed", ALONE_TARGETS[name], found, within)
    for read, factor in COLD_TARGETS.get(name, {}).items():
        for cold in entry["cold"]:
            if cold["read"] == read * 2**20 and cold["over"] is not None:
                what = f"1 row after {read} MB, speed"
                yield _ratio_line(name, what, factor, cold["over"], within)
    for what, key, most in zip(
        ("median", "p99"), ("median", "p99"), MOST_ALONE.get(name, ()), strict=False
    ):
        if most is not None:
            found = alone[key]
            yield Line(
                name,
                f"1 row alone, {what}",
                f"at most {micro(most)} us",
                f"{micro(found)} us",
                verdict_of(found <= most and within),
                f"{micro(found)} us of {micro(most)}",
            )


def _thread_targets(
    work: dict[str, Any], one: dict[str, Any], entry: dict[str, Any]
) -> Iterator[Line]:
    least, most = SHARED_MULTIPLY_ADDS
    two = _at(work, 2)
    race = _race(two, 1) if two else None
    other = _entry(race, "lrgate") if race else None
    if least <= one["multiply_adds"] <= most and other is not None:
        ratio = entry["median"] / other["median"]
        yield _ratio_line(
            work["name"],
            "1 row, speed of one thread on two",
            LEAST_ON_TWO_THREADS,
            dict.fromkeys(("median", "low", "high"), ratio),
            other["within_limit"],
        )


def _ratio_line(
    name: str, what: str, factor: float, found: dict[str, Any], within_limit: bool
) -> Line:
    return Line(
        name,
        what,
        f"{factor:g}",
        spread(found) + ("" if within_limit else " at too high an error"),
        verdict_of(found["median"] >= factor and within_limit),
        f"{found['median']:.2f} of {factor:g}" + ("" if within_limit else " (error above limit)"),
    )


def verdict_of(reached: bool) -> str:
    return "reached" if reached else "missed"


# --- one network ---------------------------------------------------------------------------------


def section(work: dict[str, Any]) -> str:
    """Tables and picture of one network."""
    parts = [
        f"## {work['title']}",
        f"`{work['command']}`",
        f"![time per row against rows per call]({work['name']}.svg)",
    ]
    for comparison in work["comparisons"].values():
        threads = comparison["threads"]
        many = "one thread" if threads == 1 else f"{threads} threads"
        parts += [
            f"Microseconds per row by rows per call, in turn, {many}, medians; "
            f"{comparison['measure']} on {comparison['test_rows']:,} rows, "
            f"{percent(comparison['error_dense'])} of the dense network. "
            "The fastest peer within the error limit is in bold.",
            times_table(comparison),
            f"lrgate by rows per call, {many}: times as fast as the best peer, with quartiles.",
            ratios_table(comparison),
        ]
        held = ", ".join(
            f"{name} {count / 1e6:.1f} MB" for name, count in comparison["network_bytes"].items()
        )
        parts += [
            f"One row per call, {many}, and the start from a file, with the same settings. Memory "
            f"of lrgate's weights, in all layouts that these calls packed: {held}.",
            one_row_table(comparison),
        ]
        if comparison["left_out"]:
            reasons = (f"{name} ({why})" for name, why in comparison["left_out"].items())
            parts.append(f"Left out: {'; '.join(reasons)}.")
        parts += [f"Warning: {text}." for text in comparison["warnings"]]
    return "\n\n".join(parts)


def times_table(comparison: dict[str, Any]) -> str:
    races = comparison["races"]
    rows = []
    for name in _names(comparison):
        entries = [_entry(race, name) for race in races]
        cells = [
            "" if entry is None else bold(micro(entry["seconds_per_row"]), name == best(race))
            for entry, race in zip(entries, races, strict=True)
        ]
        errors = [entry["error"] for entry in entries if entry]
        rows.append([name, *cells, between(errors)])
    return table(["", *(f"{race['rows']:,}" for race in races), "error"], rows)


def ratios_table(comparison: dict[str, Any]) -> str:
    rows = []
    for race in comparison["races"]:
        for name in OURS:
            entry = _entry(race, name)
            if entry is None or "any" not in entry["over"]:
                continue
            same = entry["over"].get(entry["precision"])
            predicted = entry["predicted"]
            rows.append(
                [
                    f"{race['rows']:,}",
                    name + ("" if entry["within_limit"] else ", at too high an error"),
                    "/".join(entry["plan"]),
                    f"{spread(entry['over']['any'])} {entry['over']['any']['peer']}",
                    "" if same is None else f"{spread(same)} {same['peer']}",
                    "" if predicted is None else f"{predicted:.2f}",
                ]
            )
    head = ["rows", "", "plan", "over the best peer", "over the best at its own precision"]
    return table([*head, "predicted over dense"], rows)


def one_row_table(comparison: dict[str, Any]) -> str:
    race = comparison["races"][0]
    starts = {start["name"]: start for start in comparison["starts"]}
    rows = []
    for name in _names(comparison):
        entry, start = _entry(race, name), starts.get(name)
        memory = start and start["memory"]
        rows.append(
            [
                name,
                *(_one_row(entry) if entry and race["rows"] == 1 else [""] * 6),
                "" if start is None else f"{start['seconds'] * 1e3:.1f}",
                "" if start is None else f"{start['import_seconds'] * 1e3:.0f}",
                "" if not memory else f"{memory / 1e6:.1f}",
                "" if start is None else f"{start['file_bytes'] / 1e6:.1f}",
                ", ".join(f"{key} {value}" for key, value in entry["settings"].items())
                if entry
                else "",
            ]
        )
    read = " / ".join(megabytes(each["read"]) for each in _read(race))
    head = ["", "median, us", "p99, us", "alone: median", "p99", f"after {read}", "calls"]
    start_head = ["file to answer, ms", "import, ms", "memory, MB", "file, MB"]
    return table([*head, *start_head, "settings"], rows)


def _read(race: dict[str, Any]) -> list[dict[str, Any]]:
    """The cold times of a race's first entry, of which all entries have as many."""
    found: list[dict[str, Any]] = race["entries"][0]["cold"]
    return found


def _one_row(entry: dict[str, Any]) -> list[str]:
    """Median and p99 in turn and in the engine's own loop; cold medians; calls in turn."""
    alone = entry["alone"]
    cold = " / ".join(micro(each["median"]) for each in entry["cold"])
    own = [micro(alone["median"]), micro(alone["p99"]), cold]
    return [micro(entry["median"]), micro(entry["p99"]), *own, f"{entry['calls']:,}"]


def environment(works: Sequence[dict[str, Any]]) -> str:
    """Machines, versions and CPUs, each named once."""
    found: dict[str, list[str]] = {}
    for work in works:
        for comparison in work["comparisons"].values():
            machine = comparison["machine"]
            versions = ", ".join(f"{key} {value}" for key, value in comparison["versions"].items())
            text = (
                f"{machine['cpu']}, {machine['platform']}, lrgate {machine['lrgate']} "
                f"({machine['instruction set']}), Python {machine['python']}, "
                f"{versions}; NumPy's BLAS {comparison['blas']}"
            )
            cpus = "" if comparison["cpus"] is None else f" on CPU {_listed(comparison['cpus'])}"
            run = f"{work['name']} at {comparison['threads']}{cpus}, {comparison['seconds']:.0f} s"
            found.setdefault(text, []).append(run)
    return "\n".join(f"- {text}: {'; '.join(runs)}" for text, runs in found.items())


# --- pictures ------------------------------------------------------------------------------------


def draw_times(work: dict[str, Any], path: Path) -> None:
    """Microseconds per row against rows per call, log-log, a panel for each number of threads."""
    comparisons = list(work["comparisons"].values())
    # Not every number of threads has every engine.
    names = list(dict.fromkeys(name for each in comparisons for name in _names(each)))
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(name.split()[0], []).append(name)
    figure, axes = plt.subplots(
        1, len(comparisons), figsize=(7.5 * len(comparisons), 6.0), squeeze=False, sharey=True
    )
    for axis, comparison in zip(axes[0], comparisons, strict=True):
        races = comparison["races"]
        sizes = [race["rows"] for race in races]
        for name in _names(comparison):
            ours = name in OURS
            family = name.split()[0]
            times = [
                1e6 * (_entry(race, name) or {"seconds_per_row": float("nan")})["seconds_per_row"]
                for race in races
            ]
            axis.plot(
                sizes,
                times,
                label=name,
                color=COLOURS.get(name, COLOURS.get(family, "#555555")),
                linewidth=2.2 if ours else 1.1,
                linestyle="-" if ours else STYLES[_precision(comparison, name)],
                marker="o" if ours else MARKERS[families[family].index(name) % len(MARKERS)],
                markersize=6 if ours else 4,
                zorder=3 if ours else 2,
            )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        log_ticks(axis.xaxis, sizes)
        log_ticks(axis.yaxis, _decades(axis.get_ylim()))
        axis.set_xlabel("rows per call")
        threads = comparison["threads"]
        axis.set_title(f"{threads} thread{'s' * (threads != 1)}")
        axis.grid(True)
    axes[0][0].set_ylabel("microseconds per row (median)")
    lines = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    axes[0][-1].legend(
        [lines[name] for name in names],
        names,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        fontsize=8,
    )
    figure.suptitle(work["title"])
    save(figure, path)


def _decades(limits: tuple[float, float]) -> list[float]:
    """1, 2 and 5 times the powers of ten within these limits."""
    low, high = limits
    steps = (factor * 10.0**power for power in range(-3, 7) for factor in (1, 2, 5))
    return [value for value in steps if low <= value <= high]


def draw_ratios(works: Sequence[dict[str, Any]], path: Path) -> None:
    """lrgate's speed over the best peer's, by network and rows per call, on one thread."""
    shown = [(work, one) for work in works if (one := _at(work, 1))]
    sizes = [rows for rows in (1, 16, 256) if any(_race(one, rows) for _, one in shown)]
    sizes = sizes or sorted({race["rows"] for _, one in shown for race in one["races"]})
    figure, axis = plt.subplots(figsize=(7.6, 1.2 + 0.44 * len(shown)))
    height = 0.8 / max(len(sizes), 1)
    highest = 1.0
    for k, rows in enumerate(sizes):
        bars = []
        for i, (_, one) in enumerate(shown):
            race = _race(one, rows)
            entry = _entry(race, "lrgate") if race else None
            if entry is not None and "any" in entry["over"]:
                bars.append((i + (k - (len(sizes) - 1) / 2) * height, entry["over"]["any"]))
        axis.barh(
            [at for at, _ in bars],
            [against["median"] - 1 for _, against in bars],
            height * 0.9,
            left=1,
            color=SHADES[k % len(SHADES)],
            label=f"{of_rows(rows)} per call",
        )
        for at, against in bars:
            highest = max(highest, against["median"])
            axis.annotate(
                f"{against['median']:.1f}",
                (max(against["median"], 1), at),
                va="center",
                fontsize=7,
                xytext=(3, 0),
                textcoords="offset points",
            )
    axis.set_xscale("log")
    axis.set_xlim(0.8, max(2, highest * 1.5))
    log_ticks(axis.xaxis, [value for value in (1, 2, 5, 10, 20, 50, 100) if value < highest * 1.5])
    axis.axvline(1.0, color=INK, linewidth=0.8)
    axis.set_yticks(range(len(shown)), [work["name"] for work, _ in shown])
    axis.invert_yaxis()
    axis.set_xlabel("times as fast as the best peer at any precision, one thread, in turn")
    axis.legend(fontsize=8, loc="lower right")
    save(figure, path)


def _precision(comparison: dict[str, Any], name: str) -> str:
    found = next(entry for race in comparison["races"] if (entry := _entry(race, name)))
    return str(found["precision"])


# --- parts ---------------------------------------------------------------------------------------


def _at(work: dict[str, Any], threads: int) -> dict[str, Any] | None:
    found: dict[str, Any] | None = work["comparisons"].get(str(threads))
    return found


def _race(comparison: dict[str, Any], rows: int) -> dict[str, Any] | None:
    return next((race for race in comparison["races"] if race["rows"] == rows), None)


def _entry(race: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((entry for entry in race["entries"] if entry["name"] == name), None)


def _names(comparison: dict[str, Any]) -> list[str]:
    """lrgate's candidates, then the peers as they are registered."""
    found = dict.fromkeys(
        entry["name"] for race in comparison["races"] for entry in race["entries"]
    )
    return [name for name in OURS if name in found] + [name for name in found if name not in OURS]


def best(race: dict[str, Any]) -> str | None:
    """The fastest peer within the error limit, with which lrgate was compared."""
    return next(
        (entry["over"]["any"]["peer"] for entry in race["entries"] if "any" in entry["over"]), None
    )


def _listed(cpus: Sequence[int]) -> str:
    return " and ".join(map(str, cpus))


def of_rows(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"


def micro(seconds: float) -> str:
    value = seconds * 1e6
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def megabytes(size: float) -> str:
    return f"{size / 2**20:g} MB"


def percent(share: float) -> str:
    return f"{share:.2%}".replace("%", " %")


def between(errors: Sequence[float]) -> str:
    low, high = percent(min(errors)), percent(max(errors))
    return low if low == high else f"{low.removesuffix(' %')} to {high}"


def spread(values: dict[str, Any]) -> str:
    return f"{values['median']:.2f} ({values['low']:.2f} to {values['high']:.2f})"


def bold(text: str, wanted: bool) -> str:
    return f"**{text}**" if wanted else text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()

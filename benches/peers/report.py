"""docs/benchmarks.md and its pictures, of docs/benchmarks/*.json alone.

    python benches/peers/report.py

Prose is in docs/benchmarks.notes.md; every figure is from what run.py measured. ``--folder`` names
another machine's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import growth
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from lrgate.files.atomic import replacing

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"
ORDER = (
    *("shipped", "paper", "fashion", "svhn", "svhn-sparse"),
    *("wide", "deep", "tabular", "dense"),
)
SPEED_TARGETS = {
    "shipped": {1: 12.0, 256: 4.0, 1024: 4.0},
    "paper": {1: 8.0, 256: 2.0, 1024: 2.0},
    "fashion": {1: 8.0, 256: 2.0, 1024: 2.0},
    "svhn": {1: 4.0, 256: 1.5, 1024: 1.5},
    "svhn-sparse": {1: 4.0, 256: 1.5, 1024: 1.5},
    "wide": {1: 12.0, 256: 3.0, 1024: 3.0},
    "tabular": {1: 5.0, 256: 1.5, 1024: 1.2},
}
"""How many times as fast as the best peer at any precision, by work and rows a call."""

F32_TARGETS = {"shipped": {1: 7.0, 256: 2.5}}
"""The same, f32 against the best f32 peer."""

LEAST_DENSE = 0.95
"""Where there is nothing to skip: of the best peer at the same precision."""

MOST_P99 = 1.5
"""Of one row's median."""

MOST_START = 0.05
"""Seconds from the file to the first answer."""

BYTES = "lrgate, uint8 rows"
OURS = ("lrgate", BYTES, "lrgate f32", "lrgate dense")
COLOURS = {
    "lrgate": "#b2182b",
    BYTES: "#f4772e",
    "lrgate f32": "#e377c2",
    "lrgate dense": "#7f4f3f",
    "NumPy": "#000000",
    "scikit-learn": "#999999",
    "PyTorch": "#2166ac",
    "ORT": "#1b9e77",
    "OpenVINO": "#6a3d9a",
    "JAX": "#b8a000",
}
"""By contestant, or by the first word of its name; the line's style tells the precision."""

STYLES = {"f32": "-", "bf16": "-.", "int8": "--"}

MARKERS = "^sDvP"
"""Of peers with the same first word, in turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description="docs/benchmarks.md of docs/benchmarks/*.json")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: %(default)s")
    write(parser.parse_args().folder)


def write(folder: Path) -> None:
    """Write ``<folder>.md`` and a picture or two for each JSON file in `folder`.

    Prose is in ``<folder>.notes.md``; a title of its own may be its first line.

    Raises
    ------
    ValueError
        If there is none.
    """
    measured = {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}
    grown = measured.pop("growth", None)
    works = list(measured.values())
    if not works:
        raise ValueError(f"{folder} has no .json file; benches/peers/run.py makes them")
    works.sort(key=lambda work: (_place(work["name"]), work["name"]))
    for work in works:
        draw_times(work, folder / f"{work['name']}.png")
    draw_ratios(works, folder / "ratios.png")
    notes = folder.with_name(f"{folder.name}.notes.md")
    prose = notes.read_text(encoding="utf-8").strip() if notes.exists() else ""
    title = "# Benchmarks"
    if prose.startswith("# "):
        title, _, prose = prose.partition("\n")
    parts = [
        title,
        f"Made by `make bench-peers{_options(folder)}`: `benches/peers/report.py` writes this file "
        f"from `{folder.name}/*.json`.",
        prose.strip(),
        f"![times as fast as the best peer]({folder.name}/ratios.png)",
        "## Targets\n\n" + targets_table(works),
        *(section(work, folder.name) for work in works),
        "" if grown is None else growth.markdown(grown, folder.name),
        "## What it ran on\n\n" + environment(works),
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    with replacing(folder.with_suffix(".md")) as file:
        file.write(text.encode())


def _options(folder: Path) -> str:
    """What run.py must be told to write there."""
    return "" if folder.name == FOLDER.name else f' PEERS="--out docs/{folder.name}"'


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


# --- targets -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of the table of targets."""

    work: str
    what: str
    target: str
    found: str
    verdict: str


def targets_table(works: Sequence[dict[str, Any]]) -> str:
    """Every target that these works have, at one thread, and whether it is reached."""
    lines = [line for work in works if (one := _at(work, 1)) for line in targets(work, one)]
    return table(
        ["network", "what", "target", "measured", ""],
        [[line.work, line.what, line.target, line.found, line.verdict] for line in lines],
    )


def targets(work: dict[str, Any], one: dict[str, Any]) -> Iterator[Line]:
    """The targets of one network."""
    name = work["name"]
    for wanted, contestants, precision, words in (
        (SPEED_TARGETS, ("lrgate", BYTES), "any", "of the best peer"),
        (F32_TARGETS, ("lrgate f32",), "f32", "of the best f32 peer, in f32"),
    ):
        for rows, factor in wanted.get(name, {}).items():
            race = _race(one, rows)
            entries = [_entry(race, each) for each in contestants] if race else []
            entries = [entry for entry in entries if entry and precision in entry["over"]]
            what = f"{of_rows(rows)}, speed {words}"
            if not entries:
                yield Line(name, what, f"{factor:g}", "", "not measured")
                continue
            reached = [
                entry["over"][precision]["median"] >= factor and entry["within_limit"]
                for entry in entries
            ]
            found = "; ".join(
                f"{spread(entry['over'][precision])}"
                + (" with uint8 rows" if entry["name"] == BYTES else "")
                + ("" if entry["within_limit"] else " at too high an error")
                for entry in entries
            )
            verdict = "reached" if reached[0] else "missed"
            if verdict == "missed" and any(reached):
                verdict = "reached with uint8 rows"
            yield Line(name, what, f"{factor:g}", found, verdict)
    if name == "dense":
        for race in one["races"]:
            entry = _entry(race, "lrgate")
            against = entry and entry["over"].get(entry["precision"])
            if against:
                yield Line(
                    name,
                    f"{of_rows(race['rows'])}, speed of the best {entry['precision']} peer",
                    f"{LEAST_DENSE:g}",
                    spread(against),
                    verdict_of(against["median"] >= LEAST_DENSE),
                )
    race = _race(one, 1)
    entry = _entry(race, "lrgate") if race else None
    if entry:
        alone = entry.get("alone")
        ratio = entry["p99"] / entry["median"]
        text = f"{ratio:.2f} by turns with the others"
        if alone:
            ratio = alone["p99"] / alone["median"]
            text = f"{ratio:.2f}; {text}"
        yield Line(
            name,
            "1 row, p99 over median, alone",
            f"at most {MOST_P99:g}",
            text,
            verdict_of(ratio <= MOST_P99 and entry["within_limit"]),
        )
    start = next((each for each in one["starts"] if each["name"] == "lrgate"), None)
    if start:
        yield Line(
            name,
            "file to first answer",
            f"at most {MOST_START * 1e3:g} ms",
            f"{start['seconds'] * 1e3:.1f} ms",
            verdict_of(start["seconds"] <= MOST_START),
        )


def verdict_of(reached: bool) -> str:
    return "reached" if reached else "missed"


# --- one network ---------------------------------------------------------------------------------


def section(work: dict[str, Any], folder: str) -> str:
    """Tables and picture of one network."""
    parts = [
        f"## {work['title']}",
        f"`{work['command']}`",
        f"![time per row against rows a call]({folder}/{work['name']}.png)",
    ]
    for comparison in work["comparisons"].values():
        threads = comparison["threads"]
        many = "one thread" if threads == 1 else f"{threads} threads"
        parts += [
            f"Microseconds a row by rows a call, {many}, medians; {comparison['measure']} on "
            f"{comparison['test_rows']:,} rows, {percent(comparison['error_dense'])} of the dense "
            "network. The fastest peer that counts is in bold.",
            times_table(comparison),
            f"lrgate by rows a call, {many}: times as fast as the best peer, with quartiles.",
            ratios_table(comparison),
        ]
        held = ", ".join(
            f"{name} {count / 1e6:.1f} MB" for name, count in comparison["network_bytes"].items()
        )
        parts += [
            f"One row a call, {many}, and the start from a file, at the same settings. Weights "
            f"that lrgate's networks hold, in all layouts these calls packed: {held}.",
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
                *(_one_row(entry) if entry and race["rows"] == 1 else [""] * 5),
                "" if start is None else f"{start['seconds'] * 1e3:.1f}",
                "" if start is None else f"{start['import_seconds'] * 1e3:.0f}",
                "" if not memory else f"{memory / 1e6:.1f}",
                "" if start is None else f"{start['file_bytes'] / 1e6:.1f}",
                ", ".join(f"{key} {value}" for key, value in entry["settings"].items())
                if entry
                else "",
            ]
        )
    head = ["", "median, us", "p99, us", "alone: median", "p99", "calls by turns"]
    start_head = ["file to answer, ms", "import, ms", "memory, MB", "file, MB"]
    return table([*head, *start_head, "settings"], rows)


def _one_row(entry: dict[str, Any]) -> list[str]:
    """Median and p99 by turns and in the contestant's own loop, if there was one; calls."""
    alone = entry.get("alone")
    own = [micro(alone["median"]), micro(alone["p99"])] if alone else ["", ""]
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
    """Microseconds a row against rows a call, log-log, one panel for each number of threads."""
    comparisons = list(work["comparisons"].values())
    # Not every number of threads has every contestant.
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
        axis.xaxis.set_major_locator(FixedLocator(sizes))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.set_xlabel("rows a call")
        threads = comparison["threads"]
        axis.set_title(f"{threads} thread{'s' * (threads != 1)}")
        axis.grid(True, which="both", linewidth=0.3)
    axes[0][0].set_ylabel("microseconds a row (median)")
    lines = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    axes[0][-1].legend(
        [lines[name] for name in names],
        names,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        fontsize=8,
    )
    figure.suptitle(work["title"])
    _save(figure, path)


def draw_ratios(works: Sequence[dict[str, Any]], path: Path) -> None:
    """lrgate's speed over the best peer's, by network and rows a call, on one thread."""
    shown = [(work, one) for work in works if (one := _at(work, 1))]
    sizes = [rows for rows in (1, 64, 256, 1024) if any(_race(one, rows) for _, one in shown)]
    sizes = sizes or sorted({race["rows"] for _, one in shown for race in one["races"]})
    figure, axis = plt.subplots(figsize=(2.0 + 1.6 * max(len(shown), 2), 4.5))
    width = 0.8 / max(len(sizes), 1)
    shades = plt.get_cmap("viridis")
    for k, rows in enumerate(sizes):
        label: str | None = f"{of_rows(rows)} a call"
        for i, (_, one) in enumerate(shown):
            race = _race(one, rows)
            entry = _entry(race, "lrgate") if race else None
            if entry is None or "any" not in entry["over"]:
                continue
            against = entry["over"]["any"]
            at = i + (k - (len(sizes) - 1) / 2) * width
            low, high = (abs(against[end] - against["median"]) for end in ("low", "high"))
            axis.bar(
                at,
                against["median"],
                width,
                yerr=[[low], [high]],
                color=shades(k / max(len(sizes) - 1, 1) * 0.9),
                label=label,
                capsize=2,
            )
            label = None  # once in the legend
            axis.annotate(
                f"{against['median']:.1f}",
                (at, against["high"]),
                ha="center",
                va="bottom",
                fontsize=7,
                xytext=(0, 2),
                textcoords="offset points",
            )
    axis.axhline(1.0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(shown)), [work["name"] for work, _ in shown])
    axis.set_ylabel("times as fast as the best peer")
    axis.set_title("lrgate on float32 rows over the best peer at any precision, one thread")
    axis.legend(fontsize=8)
    _save(figure, path)


def _precision(comparison: dict[str, Any], name: str) -> str:
    found = next(entry for race in comparison["races"] if (entry := _entry(race, name)))
    return str(found["precision"])


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


# --- parts ---------------------------------------------------------------------------------------


def _at(work: dict[str, Any], threads: int) -> dict[str, Any] | None:
    found: dict[str, Any] | None = work["comparisons"].get(str(threads))
    return found


def _race(comparison: dict[str, Any], rows: int) -> dict[str, Any] | None:
    return next((race for race in comparison["races"] if race["rows"] == rows), None)


def _entry(race: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((entry for entry in race["entries"] if entry["name"] == name), None)


def _names(comparison: dict[str, Any]) -> list[str]:
    """lrgate's contestants, then the peers as they are registered."""
    found = dict.fromkeys(
        entry["name"] for race in comparison["races"] for entry in race["entries"]
    )
    return [name for name in OURS if name in found] + [name for name in found if name not in OURS]


def best(race: dict[str, Any]) -> str | None:
    """The fastest peer with an error that counts, which lrgate's contestants were compared with."""
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

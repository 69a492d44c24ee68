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
"""How many times as fast as the best peer at any precision, by network and rows per call."""

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
    "NumPy": "#57a0a0",
    "scikit-learn": "#999999",
    "PyTorch": "#2166ac",
    "ORT": "#1b9e77",
    "OpenVINO": "#6a3d9a",
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
    options = parser.parse_args()
    write(options.results, options.page)


def write(results: Path, page: Path = PAGE) -> None:
    """Write ``details.md`` with a picture for each network, and the page with its pictures.

    The page stays as it is unless there are results of all networks.

    Parameters
    ----------
    results : Path
        Folder of the JSON files that run.py and growth.py wrote; the details go there too.
    page : Path
        The page; its pictures go into ``images/`` beside it.

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
    if missing := set(ORDER) - {work["name"] for work in works}:
        print(f"{page} is left as it is: no results of {', '.join(sorted(missing))}")
    else:
        write_page(works, grown, page)


def write_page(works: Sequence[dict[str, Any]], grown: dict[str, Any] | None, page: Path) -> None:
    """Fill the template; without growth curves their section is left out."""
    images = page.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    draw_ratios(works, images / "benchmarks-speed.svg")
    template = TEMPLATE.read_text(encoding="utf-8")
    if grown is None:
        before, _, rest = template.partition("## Growth\n")
        template = before + rest[rest.index("## ") :]
    else:
        growth.draw_summary(grown, images / "benchmarks-growth.svg")
    lines = [line for work in works if (one := _at(work, 1)) for line in targets(work, one)]
    text = string.Template(template).substitute(
        speed=speed_table(works),
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

PAGE_ROWS = (1, 256)
"""Rows per call in the page's tables."""

PAGE_WORKS = ("shipped", "paper", "dense")
"""Networks for which the page has the times of every engine."""


def speed_table(works: Sequence[dict[str, Any]]) -> str:
    """lrgate beside the best peer: on one thread, then the ratios on two."""
    lines = []
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
                cells += ["", "", ""]
                continue
            errors.append(entry["error"])
            against = entry["over"]["any"]
            peer = _entry(race, against["peer"])
            cells += [
                micro(entry["seconds_per_row"]),
                f"{micro(peer['seconds_per_row'])} {against['peer']}" if peer else "",
                f"**{against['median']:.2f}** ({against['low']:.2f} to {against['high']:.2f})",
            ]
        found = between([one["error_dense"], *errors]) if work["name"] != "dense" else ""
        lines.append([*cells, " / ".join(_ratio(two, rows) for rows in PAGE_ROWS), found])
    head = ["network"]
    for rows in PAGE_ROWS:
        head += [f"lrgate, {of_rows(rows)}", "best peer", "times as fast"]
    return table([*head, "on two threads", "error"], lines)


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
    for name in names:
        cells = [name]
        for _, one in shown:
            for rows in PAGE_ROWS:
                race = _race(one, rows)
                entry = _entry(race, name) if race else None
                mark = "" if entry is None or entry["within_limit"] else "\\*"
                cells.append("" if entry is None else micro(entry["seconds_per_row"]) + mark)
        start = starts.get(name)
        lines.append([*cells, "" if start is None else f"{start['seconds'] * 1e3:.0f}"])
    head = [f"{work['name']}, {of_rows(rows)}" for work, _ in shown for rows in PAGE_ROWS]
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
    name = work["name"]
    for wanted, names, precision, words in (
        (SPEED_TARGETS, ("lrgate", BYTES), "any", "of the best peer"),
        (F32_TARGETS, ("lrgate f32",), "f32", "of the best f32 peer, in f32"),
    ):
        for rows, factor in wanted.get(name, {}).items():
            race = _race(one, rows)
            entries = [_entry(race, each) for each in names] if race else []
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
            short = f"{entries[0]['over'][precision]['median']:.2f} of {factor:g}"
            yield Line(name, what, f"{factor:g}", found, verdict, short)
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
                    f"{against['median']:.2f} of {LEAST_DENSE:g}",
                )
    race = _race(one, 1)
    entry = _entry(race, "lrgate") if race else None
    if entry:
        alone = entry.get("alone")
        ratio = entry["p99"] / entry["median"]
        text = f"{ratio:.2f} interleaved with the others"
        if alone:
            ratio = alone["p99"] / alone["median"]
            text = f"{ratio:.2f}; {text}"
        yield Line(
            name,
            "1 row, p99 over median, alone",
            f"at most {MOST_P99:g}",
            text,
            verdict_of(ratio <= MOST_P99 and entry["within_limit"]),
            f"{ratio:.2f}",
        )
    start = next((each for each in one["starts"] if each["name"] == "lrgate"), None)
    if start:
        yield Line(
            name,
            "file to first answer",
            f"at most {MOST_START * 1e3:g} ms",
            f"{start['seconds'] * 1e3:.1f} ms",
            verdict_of(start["seconds"] <= MOST_START),
            f"{start['seconds'] * 1e3:.0f} ms",
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
            f"Microseconds per row by rows per call, {many}, medians; {comparison['measure']} on "
            f"{comparison['test_rows']:,} rows, {percent(comparison['error_dense'])} of the dense "
            "network. The fastest peer within the error limit is in bold.",
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
    head = ["", "median, us", "p99, us", "alone: median", "p99", "interleaved calls"]
    start_head = ["file to answer, ms", "import, ms", "memory, MB", "file, MB"]
    return table([*head, *start_head, "settings"], rows)


def _one_row(entry: dict[str, Any]) -> list[str]:
    """Median and p99 interleaved, and in the engine's own loop, if there was one; calls."""
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
    axis.set_xlabel("times as fast as the best peer at any precision, one thread")
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

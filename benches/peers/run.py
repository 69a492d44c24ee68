"""lrgate beside every engine, on the networks of works.py: ``make bench-peers``.

    python benches/peers/run.py --data-dir data --works shipped paper --threads 1 --seconds 8

For each network and number of threads one process measures all numbers of rows. Results go into
``benches/results/<work>.json``, which git ignores, beside those of other numbers of threads. Then
report.py writes docs/benchmarks.md and its pictures, if there are results of all networks. Nothing
else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import report
from works import NAMES, Work, works

from lrgate.bench import compare
from lrgate.files.atomic import replacing

ROWS = (1, 2, 4, 8, 16, 64, 256, 1024, 8192)
MOST_MULTIPLY_ADDS = 5e10
"""Of one call: beyond this (half a second in f32) a number of rows is left out."""

DIGITS = 6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--works", nargs="*", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--runs-dir", type=Path, default=Path("training/runs/peers"))
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="default: %(default)s")
    parser.add_argument("--page", type=Path, default=report.PAGE, help="default: %(default)s")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], metavar="N")
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS, metavar="N")
    parser.add_argument(
        "--keep-rows",
        action="store_true",
        help="keep records of other numbers of rows",
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="for each number of rows")
    parser.add_argument("--engines", nargs="*", help="beginnings of names; all by default")
    parser.add_argument("--no-start", action="store_true", help="do not measure start-up")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    failed = False
    for work in works(options.data_dir, options.runs_dir, options.works or None):
        for threads in options.threads:
            print(f"{work.name}, threads: {threads}, from {time.strftime('%H:%M')}", flush=True)
            try:
                comparison = measured(work, threads, options)
                print(comparison, "\n", flush=True)
                path = options.results / f"{work.name}.json"
                keep(path, work, comparison, keep_rows=options.keep_rows)
            except (RuntimeError, ValueError) as error:
                print(f"{work.name}, threads: {threads}: {error}", file=sys.stderr)
                failed = True
    report.write(options.results, options.page)
    sys.exit(failed)


def measured(work: Work, threads: int, options: argparse.Namespace) -> compare.Comparison:
    """One network at one number of threads, in a process of its own."""
    multiply_adds = sum(layer.weight.size for layer in work.net.layers)
    sizes = [rows for rows in options.rows if rows * multiply_adds <= MOST_MULTIPLY_ADDS]
    return compare.run(
        work.name,
        work.net,
        work.test_x,
        work.test_y,
        calibration=(work.fit_x, work.fit_y),
        batch_sizes=sizes,
        seconds=options.seconds,
        threads=threads,
        engines=options.engines or None,
        start=not options.no_start,
        progress=True,
    )


def keep(path: Path, work: Work, comparison: compare.Comparison, *, keep_rows: bool) -> None:
    """Put a comparison into the network's file, in place of the last one at as many threads.

    With `keep_rows`, other numbers of rows of the last one stay, if it is of the same machine,
    versions and network.
    """
    found: dict[str, Any] = {}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))["comparisons"]
    threads, new = str(comparison.threads), rounded(comparison.to_dict())
    if keep_rows and threads in found:
        last = found[threads]
        for field in ("network", "machine", "versions", "error_dense", "error_limit"):
            if new[field] != last[field]:
                raise ValueError(f"{path}: {field} was {last[field]}, now it is {new[field]}")
        again = {race["rows"] for race in new["races"]}
        others = [race for race in last["races"] if race["rows"] not in again]
        new["races"] = sorted([*others, *new["races"]], key=lambda race: race["rows"])
        new["left_out"] = last["left_out"] | new["left_out"]
        new["warnings"] = list(dict.fromkeys([*last["warnings"], *new["warnings"]]))
    values = {
        "name": work.name,
        "title": work.title,
        "command": work.command,
        "uint8": work.uint8,
        "density": float(np.mean(work.test_x != 0)),
        "comparisons": found | {threads: new},
    }
    with replacing(path) as file:
        file.write((json.dumps(rounded(values), indent=1) + "\n").encode())


def rounded(value: Any) -> Any:
    """Plain data with floats to six digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()

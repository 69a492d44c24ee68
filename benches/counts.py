"""Instructions that kernels take, against those on record: ``python benches/counts.py``.

Builds the crate ``benches/counts`` in release and runs each of its cases under callgrind, which
counts instructions inside the measured call alone. Unlike times, counts are the same on every run
and hardly depend on the machine; they do not show the cost of a cache miss or a slow instruction.

A count more than 3 % from that in ``benches/counts.json`` fails, in either direction: a gain, too,
belongs on record (``--update``), with the change that made it. Where there is no AVX2 on x86-64
Linux, nothing is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
RECORD: Final = Path(__file__).with_suffix(".json")
TOLERANCE: Final = 0.03
# The exit code of the program where the machine has no AVX2.
NO_AVX2: Final = 3


def main() -> int:
    parser = argparse.ArgumentParser(description="Instructions of kernels against the record.")
    parser.add_argument("--update", action="store_true", help="write the record again")
    arguments = parser.parse_args()
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return _skipped("this is not x86-64 Linux")
    if shutil.which("valgrind") is None:
        print("counts: valgrind is missing; install it with the system's packages")
        return 1
    program = _build()
    names = subprocess.run([program], capture_output=True, text=True, check=False)
    if names.returncode == NO_AVX2:
        return _skipped(names.stderr.strip())
    names.check_returncode()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        cases = names.stdout.split()
        found = dict(zip(cases, pool.map(lambda name: _count(program, name), cases), strict=True))
    tools = {"rustc": _version("rustc"), "valgrind": _version("valgrind")}
    if arguments.update:
        RECORD.write_text(json.dumps({**tools, "counts": found}, indent=2) + "\n", encoding="utf-8")
        print(f"counts: {len(found)} written to {RECORD.relative_to(ROOT)}")
        return 0
    return _compare(json.loads(RECORD.read_text(encoding="utf-8")), found, tools)


def _skipped(why: str) -> int:
    print(f"counts: skipped, {why}")
    return 0


def _build() -> Path:
    """The program, in release.

    Dependencies have the features of the Python package, so that a build of that is used again.
    """
    cargo = os.environ.get("CARGO", "cargo")
    command = [cargo, "build", "--release", "--locked", "-p", "lrgate-python"]
    command += ["-p", "lrgate-counts", "--bin", "lrgate-counts"]
    done = subprocess.run(
        [*command, "--message-format=json"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "lrgate-counts":
            return Path(message["executable"])
    raise RuntimeError("cargo built no program named lrgate-counts")


def _count(program: Path, case: str) -> int:
    """Instructions of one case's measured call."""
    options = [
        "--collect-atstart=no",
        "--toggle-collect=*counted*",
        "--callgrind-out-file=/dev/null",
    ]
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", *options, program, case],
        capture_output=True,
        text=True,
        check=False,
    )
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or collected is None or int(collected[1]) == 0:
        raise RuntimeError(f"{case}: callgrind counted nothing\n{done.stderr}")
    return int(collected[1])


def _version(tool: str) -> str:
    done = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _compare(record: dict[str, object], found: dict[str, int], tools: dict[str, str]) -> int:
    """Print all counts; 1 where one is off."""
    expected = record["counts"]
    assert isinstance(expected, dict)
    failed = sorted(expected.keys() ^ found.keys())
    print(f"{'instructions of a call':<24} {'on record':>12} {'now':>12} {'change':>9}")
    for name in sorted(found.keys() & expected.keys()):
        change = found[name] / expected[name] - 1
        off = abs(change) > TOLERANCE
        failed += [name] * off
        print(f"{name:<24} {expected[name]:>12,} {found[name]:>12,} {change:>+9.2%}{' !' * off}")
    for tool, version in tools.items():
        if record[tool] != version:
            print(f"counts: on record with {record[tool]}, now with {version}")
    if failed:
        print(
            f"counts: {', '.join(failed)}: not on record, or more than {TOLERANCE:.0%} off it. If "
            "that is meant, update the record: python benches/counts.py --update"
        )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

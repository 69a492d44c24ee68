"""Start-up of an engine: time and memory from a file on disk to the first answer."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from lrgate.results.bench import Startup

__all__ = ["Startup", "measure"]

_REPEATS: Final = 3

# The engine is imported before lrgate, so that its import time includes all shared dependencies.
_PROGRAM: Final = """
import importlib, json, sys, time
begin = time.perf_counter()
for name in json.loads(sys.argv[1])["modules"]:
    importlib.import_module(name)
imported = time.perf_counter() - begin
from lrgate.bench import (startup)
startup.child(sys.argv[1], imported)
"""


def measure(
    name: str,
    engine: str,
    modules: tuple[str, ...],
    path: Path,
    row: Path,
    threads: int,
    settings: Any,
) -> Startup:
    """Start an engine in new processes, which use the CPUs of this one.

    Parameters
    ----------
    name : str
        Name of the result.
    engine : str
        Name of the engine in the registry.
    modules : tuple of str
        Modules to import first.
    path, row : Path
        The network in the engine's format, and a ``.npy`` file of one row (1, d).
    threads : int
    settings : mapping
        An entry of the engine's grid.

    Returns
    -------
    Startup
        Medians over the processes.

    Raises
    ------
    RuntimeError
        If a process fails.
    """
    task = {
        "engine": engine,
        "modules": modules,
        "path": str(path),
        "row": str(row),
        "threads": threads,
        "settings": dict(settings),
    }
    found = []
    for _ in range(_REPEATS):
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, json.dumps(task)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            raise RuntimeError(f"{name} did not start: {last}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    memory = [each["memory"] for each in found]
    return Startup(
        name=name,
        import_seconds=statistics.median(each["import_seconds"] for each in found),
        seconds=statistics.median(each["seconds"] for each in found),
        memory=None if None in memory else int(statistics.median(memory)),
        file_bytes=sum(part.stat().st_size for part in path.parent.glob(f"{path.stem}.*")),
    )


def child(task: str, import_seconds: float) -> None:
    """Load a network, compute one row, and print time and memory; runs in the new process."""
    from lrgate import set_num_threads
    from lrgate.bench.engines import by_name

    told = json.loads(task)
    engine, row = by_name(told["engine"]), np.load(told["row"], allow_pickle=False)
    set_num_threads(told["threads"])
    memory = _resident()
    begin = time.perf_counter()
    forward = engine.load(Path(told["path"]), 1, told["threads"], told["settings"])
    outputs = np.asarray(forward(row))
    seconds = time.perf_counter() - begin
    grown = _resident()
    assert outputs.shape[0] == 1
    print(
        json.dumps(
            {
                "import_seconds": import_seconds,
                "seconds": seconds,
                "memory": None if memory is None or grown is None else max(grown - memory, 0),
            }
        )
    )


def _resident() -> int | None:
    """Resident memory of this process in bytes; None if the system is not Linux."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")

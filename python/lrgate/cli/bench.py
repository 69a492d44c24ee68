"""``lrgate bench``."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate.bench import compare
from lrgate.bench.engines import ENGINES
from lrgate.cli.options import add_measuring, add_model, add_task, count, counts, names
from lrgate.cli.outputs import show
from lrgate.cli.rows import open_rows, probe_or_rows, read_labels
from lrgate.frameworks.loading import load

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.description = f"{parser.description} lrgate.optimize optimises the network first."
    parser.epilog = f"Engines: {', '.join(engine.name for engine in ENGINES)}."
    add_model(parser)
    add_task(parser)
    parser.add_argument(
        "--rows", metavar="DATA", help="real rows (n, d); by default the network's probe rows"
    )
    parser.add_argument(
        "--labels", metavar="DATA", help="labels (n,) or, for a regressor, values (n, k)"
    )
    parser.add_argument(
        "--calibration",
        metavar="DATA",
        help="rows to optimise on; by default one half of --rows, the other half is for testing",
    )
    parser.add_argument(
        "--batch-sizes", type=counts, default=[1, 64, 1024], metavar="N,N", help="rows per call"
    )
    parser.add_argument("--threads", type=count, default=1, metavar="N")
    parser.add_argument(
        "--engines",
        type=names,
        metavar="NAME,NAME",
        help="names of engines to compare with, or prefixes of names; all by default",
    )
    parser.add_argument(
        "--no-optimize", action="store_true", help="run the network as it is in the file"
    )
    add_measuring(parser, seconds=5.0, each=" for each batch size")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    net = load(arguments.model, task=arguments.task, classes=arguments.classes)
    rows = probe_or_rows(net, arguments.model, arguments.rows)
    labels = None if arguments.labels is None else read_labels(arguments.labels)
    calibration = None
    if arguments.calibration is not None:
        calibration = _dense(open_rows(arguments.calibration).whole(net)), None
    result = compare.run(
        os.path.basename(arguments.model),
        net,
        _dense(rows),
        None if labels is None else np.array(labels),
        calibration=calibration,
        batch_sizes=arguments.batch_sizes,
        seconds=arguments.seconds,
        threads=arguments.threads,
        engines=arguments.engines,
        optimized=not arguments.no_optimize,
        progress=not arguments.json and sys.stderr.isatty(),
    )
    show(result.to_dict() if arguments.json else result)
    return 0


def _dense(rows: Any) -> npt.NDArray[Any]:
    """Rows as an array in memory, for another process."""
    return np.array(rows.toarray() if hasattr(rows, "toarray") else rows)

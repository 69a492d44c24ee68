"""``lrgate bench``."""

from __future__ import annotations

import argparse
import os
import sys

import numpy as np

from lrgate.bench import compare
from lrgate.bench.engines import ENGINES
from lrgate.cli.options import add_measuring, count, counts, names, read_rows, rows_of, show
from lrgate.network import Network

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "compare a network in lrgate with all other installed engines"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.description = f"{parser.description} lrgate.optimize optimises the network first."
    parser.epilog = f"Engines: {', '.join(engine.name for engine in ENGINES)}."
    parser.add_argument("file", metavar="FILE", help="the network, .npz or .safetensors")
    parser.add_argument(
        "--rows", metavar="FILE.npy", help="real rows (n, d); by default the network's probe rows"
    )
    parser.add_argument(
        "--labels", metavar="FILE.npy", help="labels (n,) or, for a regressor, values (n, k)"
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE.npy",
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


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    net = Network.load(arguments.file)
    rows = rows_of(net, arguments)
    labels = None if arguments.labels is None else read_rows(arguments.labels)
    calibration = None
    if arguments.calibration is not None:
        calibration = np.array(read_rows(arguments.calibration)), None
    result = compare.run(
        os.path.basename(arguments.file),
        net,
        np.array(rows),
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

"""``lrgate profile``."""

from __future__ import annotations

import argparse

from lrgate.cli.options import add_measuring, add_model, count
from lrgate.cli.outputs import show
from lrgate.cli.rows import probe_or_rows
from lrgate.frameworks.loading import load

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_model(parser)
    parser.add_argument(
        "--rows", metavar="DATA", help="input rows (n, d); by default the network's probe rows"
    )
    parser.add_argument(
        "--batch-size", type=count, metavar="N", help="rows per call; all rows by default"
    )
    parser.add_argument(
        "--phases",
        action="store_true",
        help="show time, bytes, operations and the resulting bound of each phase of each layer",
    )
    add_measuring(parser, seconds=1.0)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    net = load(arguments.model)
    rows = probe_or_rows(net, arguments.model, arguments.rows)
    profile = net.phases if arguments.phases else net.profile
    result = profile(rows, batch_size=arguments.batch_size, seconds=arguments.seconds)
    show(result.to_dict() if arguments.json else result)
    return 0

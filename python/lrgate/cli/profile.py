"""``lrgate profile``."""

from __future__ import annotations

import argparse

from lrgate.cli.options import add_measuring, count, rows_of, show
from lrgate.network import Network

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "show the path, density and time of each layer of a network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("file", metavar="FILE", help="the network, .npz or .safetensors")
    parser.add_argument(
        "--rows", metavar="FILE.npy", help="input rows (n, d); by default the network's probe rows"
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


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    net = Network.load(arguments.file)
    rows = rows_of(net, arguments)
    profile = net.phases if arguments.phases else net.profile
    result = profile(rows, batch_size=arguments.batch_size, seconds=arguments.seconds)
    show(result.to_dict() if arguments.json else result)

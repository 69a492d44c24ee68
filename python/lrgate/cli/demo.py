"""``lrgate demo``."""

from __future__ import annotations

import argparse
import sys

from lrgate.bench import demo
from lrgate.cli.options import add_measuring
from lrgate.cli.outputs import show

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument(
        "--network",
        metavar="MODEL",
        help="a network that takes MNIST's pixels, instead of the network of the package",
    )
    add_measuring(parser, seconds=10.0)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if not arguments.json and sys.stderr.isatty():
        print(f"measuring for about {arguments.seconds:g} seconds ...", file=sys.stderr)
    result = demo.run(arguments.network, arguments.seconds)
    show(result.to_dict() if arguments.json else result)
    return 0

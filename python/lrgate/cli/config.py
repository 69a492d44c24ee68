"""``lrgate config``."""

from __future__ import annotations

import argparse

from lrgate.cli.options import show
from lrgate.runtime import config, show_config

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "print version, build, instruction set and threads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    if arguments.json:
        show(config())
    else:
        show_config()

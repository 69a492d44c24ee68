"""``lrgate config``."""

from __future__ import annotations

import argparse

from lrgate.cli.options import add_json
from lrgate.cli.outputs import show
from lrgate.runtime import config, show_config

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.json:
        show(config())
    else:
        show_config()
    return 0

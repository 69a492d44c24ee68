"""``lrgate version``."""

from __future__ import annotations

import argparse

from lrgate._core import VERSION

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Do nothing: the command takes no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    print(VERSION)
    return 0

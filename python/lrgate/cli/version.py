"""``lrgate version``."""

from __future__ import annotations

import argparse

from lrgate._core import VERSION

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "print the version"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Do nothing: the command takes no arguments."""


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    print(VERSION)

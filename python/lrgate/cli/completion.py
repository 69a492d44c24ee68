"""Completion scripts for shells."""

from __future__ import annotations

import argparse
from typing import Final

from lrgate.inputs.optional import required

__all__ = ["script"]

_FILES: Final = ("MODEL", "DATA", "FILE", "OUT")
"""Placeholders of arguments that are files."""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script of a parser, by shtab.

    Raises
    ------
    ImportError
        If shtab is not installed.
    """
    shtab = required("shtab", "completion", "lrgate --print-completion")
    _mark_files(parser, shtab.FILE)
    text: str = shtab.complete(parser, shell=shell)
    return text


def _mark_files(parser: argparse.ArgumentParser, files: object) -> None:
    """Mark the arguments that are files with the attribute that shtab looks for."""
    for action in parser._actions:
        if action.metavar in _FILES:
            action.complete = files  # type: ignore[attr-defined]
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark_files(command, files)

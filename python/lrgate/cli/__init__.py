"""The command ``lrgate``.

Each subcommand is a module with `add_arguments(parser)` and `run(arguments)`, which returns the
exit code. A module is imported only if its command runs or shows its help: they import NumPy.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Collection, Sequence
from typing import Any, Final

__all__ = ["main"]

_COMMANDS: Final = {
    "optimize": "find the fastest network within an error budget",
    "convert": "write a model in another format",
    "info": "describe a model file",
    "predict": "compute labels, values or probabilities for the rows of a file",
    "check": "check that a network still gives its outputs, or those of its original",
    "profile": "show the path, density and time of each layer of a network",
    "bench": "compare a network in lrgate with all other installed engines",
    "demo": "compare error and time of the strategies on 1,000 MNIST digits",
    "config": "print version, build, instruction set and threads",
    "version": "print the version",
}
"""Commands with their summaries, in the order of the help."""

_SHELLS: Final = ("bash", "zsh", "tcsh")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; by default, the arguments of the process.

    Returns
    -------
    int
        The exit code: 0 on success, 1 if a check failed or a budget was missed, 2 after an error
        (reported in one line on stderr), 130 after an interrupt.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    # Options of `lrgate` itself take no name of a command as their value.
    chosen = next((word for word in argv if not word.startswith("-")), None)
    try:
        arguments = _parser([name for name in _COMMANDS if name == chosen]).parse_args(argv)
        code: int = arguments.run(arguments)
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader closed the pipe. Redirect stdout so that the flush at exit does not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        return _fail(f"{where}{error.strerror or error}")
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        return _fail(str(error))
    except MemoryError:
        return _fail("not enough memory")


def _fail(message: str) -> int:
    print(f"lrgate: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _parser(complete: Collection[str]) -> argparse.ArgumentParser:
    """The parser; the `complete` commands have their arguments, the others only their names."""
    parser = argparse.ArgumentParser(
        prog="lrgate",
        description="Runs trained ReLU networks on CPUs and skips work on units that are zero.",
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=_SHELLS,
        help="print a completion script for a shell and exit",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name in complete:
            module = importlib.import_module(f"lrgate.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


class _Version(argparse.Action):
    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from lrgate._core import VERSION

        print(VERSION)
        parser.exit()


class _PrintCompletion(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: Any, *_: Any
    ) -> None:
        from lrgate.cli.completion import script

        print(script(_parser(_COMMANDS), values))
        parser.exit()

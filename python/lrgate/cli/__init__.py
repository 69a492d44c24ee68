"""The command ``lrgate``: demo, profile, benchmark, configuration and version.

Each subcommand is a module with `SUMMARY`, `add_arguments(parser)` and `run(arguments)`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from lrgate.cli import bench, config, demo, profile, version

__all__ = ["main"]

_COMMANDS = {
    "demo": demo,
    "profile": profile,
    "bench": bench,
    "config": config,
    "version": version,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; by default, the arguments of the process.

    Returns
    -------
    int
        The exit code: 0 on success, 2 after an error (reported in one line on stderr), 130 after
        an interrupt.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader closed the pipe. Redirect stdout so that the flush at exit does not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        return _fail(f"{where}{error.strerror or error}")
    except (RuntimeError, TypeError, ValueError) as error:
        return _fail(str(error))
    except MemoryError:
        return _fail("not enough memory")
    return 0


def _fail(message: str) -> int:
    print(f"lrgate: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lrgate",
        description="Runs trained ReLU networks on CPUs and skips work on units that are zero.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module in _COMMANDS.items():
        text = module.SUMMARY
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser

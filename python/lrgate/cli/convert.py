"""``lrgate convert``."""

from __future__ import annotations

import argparse
from typing import Final

from lrgate.cli.options import add_model, add_task
from lrgate.cli.outputs import Output, add_output
from lrgate.frameworks.loading import load

__all__ = ["add_arguments", "run"]

_FORMATS: Final = ("npz", "safetensors", "onnx")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.epilog = "An .onnx file holds the dense network, without gates and int8."
    add_model(parser)
    add_output(parser, _FORMATS)
    add_task(parser)
    parser.add_argument(
        "--no-verify",
        action="store_true",
        help="do not compare the network with the model of another framework on random rows",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    output = Output(arguments.output, _FORMATS, arguments.format, arguments.force)
    net = load(
        arguments.model,
        task=arguments.task,
        classes=arguments.classes,
        verify=not arguments.no_verify,
        tune=False,
    )
    output.save(net)
    return 0

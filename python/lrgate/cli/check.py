"""``lrgate check``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

from lrgate.cli.options import add_json, add_model, add_threads, share
from lrgate.cli.outputs import show
from lrgate.cli.rows import open_rows
from lrgate.frameworks.loading import load
from lrgate.inputs import checked_rows
from lrgate.network import Network
from lrgate.network.tasks import declared
from lrgate.planner.evaluation import Evaluator

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.epilog = (
        "Without --against, the outputs that are stored with the network are computed again. "
        "With it, labels or outputs are compared with those of the original, as lrgate optimize "
        "does without labels. Exit code 1: the check failed."
    )
    add_model(parser)
    parser.add_argument("--against", metavar="MODEL", help="the original model")
    parser.add_argument("--data", metavar="DATA", help="rows to compare on, with --against")
    parser.add_argument(
        "--budget",
        type=share,
        default=0.001,
        metavar="SHARE",
        help="allowed share of changed labels, or squared difference of a regressor's outputs over "
        "their variance (default: %(default)g)",
    )
    add_threads(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if (arguments.against is None) != (arguments.data is None):
        raise ValueError("--against and --data must be given together")
    net = load(arguments.model)
    if arguments.against is None:
        result = _against_probe(net, arguments.model)
    else:
        original = _like(load(arguments.against), net, arguments.against)
        x = checked_rows(open_rows(arguments.data).whole(net), net.input_size)
        result = _against_original(net, original, x, arguments)
    if arguments.json:
        show({key: value for key, value in result.items() if key != "text"})
    elif result["passed"]:
        show(result["text"])
    if not result["passed"]:
        print(f"lrgate: check failed: {result['text']}", file=sys.stderr)
    return int(not result["passed"])


def _against_probe(net: Network, name: str) -> dict[str, Any]:
    if net.probe is None or len(net.probe.x) == 0:
        raise ValueError(f"{name}: it stores no outputs to check: use --against and --data")
    rows = len(net.probe.x)
    try:
        largest = net.check()
    except ValueError as error:
        return {"passed": False, "rows": rows, "largest_difference": None, "text": str(error)}
    text = f"outputs on {rows} stored rows differ by at most {largest:.2g} of the largest"
    return {"passed": True, "rows": rows, "largest_difference": largest, "text": text}


def _like(original: Network, net: Network, name: str) -> Network:
    """The original with the network's task and classes, if its file has none."""
    sizes = (original.input_size, original.output_size), (net.input_size, net.output_size)
    if sizes[0] != sizes[1]:
        raise ValueError(f"{name}: inputs and outputs must be {sizes[1]}, got {sizes[0]}")
    try:
        model = declared(original._model, net._model.task, net._model.classes)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return original._with(original.engine, task=model.task, classes=model.classes)


def _against_original(
    net: Network, original: Network, x: Any, arguments: argparse.Namespace
) -> dict[str, Any]:
    outputs = net.forward(x, num_threads=arguments.threads)
    evaluator = Evaluator(original, x, None)
    error = evaluator.error(outputs).increase
    with np.errstate(invalid="ignore"):
        apart = np.abs(outputs.astype(np.float64) - evaluator.dense)
    apart[np.isnan(outputs) & np.isnan(evaluator.dense)] = 0.0
    largest = float("inf") if np.isnan(apart).any() else float(apart.max())
    measure = {
        "classification": "share of changed labels",
        "multilabel": "share of changed label entries",
        "regression": "relative squared difference",
    }[net.task]
    return {
        "passed": error <= arguments.budget,
        "rows": int(x.shape[0]),
        "measure": measure,
        "error": error,
        "budget": arguments.budget,
        "largest_difference": largest,
        "text": f"{measure} {error:.3g}, {arguments.budget:g} allowed; largest difference of an "
        f"output {largest:.3g}; {x.shape[0]} rows",
    }

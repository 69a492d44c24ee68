"""``lrgate optimize``."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from lrgate.cli.options import (
    add_json,
    add_model,
    add_task,
    add_threads,
    counts,
    natural,
    number,
    share,
)
from lrgate.cli.outputs import Output, add_output, show
from lrgate.cli.rows import COLUMNS, open_rows, read_labels
from lrgate.frameworks.loading import load
from lrgate.network import Network
from lrgate.planner.arguments import FACTORS, PRECISIONS, PRUNES
from lrgate.planner.budget import COSTS_TOO_MUCH
from lrgate.planner.optimizer import optimize
from lrgate.results.optimization import OptimizeReport

__all__ = ["add_arguments", "run"]

_FORMATS: Final = ("npz", "safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.epilog = (
        "Exit code 1: --precision int8 was asked for, and no layer can be int8 within the budget. "
        "The output then holds the fastest f32 network within the budget."
    )
    add_model(parser)
    parser.add_argument(
        "--data", metavar="DATA", required=True, help="real rows: .npy, .npz, .csv or .parquet"
    )
    parser.add_argument(
        "--labels", metavar="DATA", help="labels (n,) or, for a regressor, values (n, k)"
    )
    parser.add_argument(
        "--budget",
        type=share,
        default=0.001,
        metavar="SHARE",
        help="allowed increase of the error (default: %(default)g)",
    )
    add_output(parser, _FORMATS)
    parser.add_argument(
        "--batch-sizes",
        type=counts,
        default=[1, 64, 1024],
        metavar="N,N",
        help="rows per call to plan for (default: 1,64,1024)",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument(
        "--prune", choices=PRUNES, default="proven", help="units to leave out (default: proven)"
    )
    parser.add_argument(
        "--factors",
        choices=FACTORS,
        default="auto",
        help="whether layers may be low-rank factors (default: auto)",
    )
    parser.add_argument(
        "--confidence",
        type=number,
        default=0.95,
        metavar="LEVEL",
        help="level of the bound of the error's increase (default: %(default)g)",
    )
    add_threads(parser)
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="seed of the split")
    add_task(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    output = Output(arguments.output, _FORMATS, arguments.format, arguments.force)
    net = load(arguments.model, task=arguments.task, classes=arguments.classes)
    rows = open_rows(arguments.data)
    labels = None if arguments.labels is None else read_labels(arguments.labels)
    x = rows.whole(net)
    if rows.columns is not None:
        net = net.with_metadata({**net.metadata, COLUMNS: list(rows.columns)})
    fast = optimize(
        net,
        x,
        labels,
        arguments.budget,
        batch_sizes=arguments.batch_sizes,
        precision=arguments.precision,
        prune=arguments.prune,
        factors=arguments.factors,
        confidence=arguments.confidence,
        num_threads=arguments.threads,
        seed=arguments.seed,
    )
    report = fast.report
    assert report is not None
    output.save(fast)
    missed = _missed(fast, report, arguments.precision)
    if arguments.json:
        result = {
            "output": None if output.is_stdout else output.path,
            "budget_missed": missed,
            "report": report.to_dict(),
        }
        show(result, to_stderr=output.is_stdout)
    else:
        show(report, to_stderr=output.is_stdout)
    if missed:
        print(
            f"lrgate: budget missed: no layer can be int8 within a budget of {report.budget:g}; "
            "the output is the fastest f32 network within it",
            file=sys.stderr,
        )
    return int(missed)


def _missed(fast: Network, report: OptimizeReport, precision: str) -> bool:
    """Whether int8 was asked for, and is not possible within the budget.

    `optimize` returns only networks that keep the budget. Too few rows to show that it is kept, or
    a layer that cannot be int8 for another reason, are not a miss.
    """
    if precision != "int8" or any("int8" in plan.precisions for plan in fast.plan):
        return False
    return report.budget == 0 or any(
        "int8" in note and COSTS_TOO_MUCH in note for note in report.notes
    )

"""``lrgate predict``."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, Final

import numpy as np

from lrgate.cli.options import add_model, add_task, add_threads
from lrgate.cli.outputs import STDOUT, Output, add_output
from lrgate.cli.rows import Rows, open_rows
from lrgate.frameworks.loading import load
from lrgate.inputs.optional import required
from lrgate.network import Network, with_engine_plan
from lrgate.types import Array

__all__ = ["add_arguments", "run"]

_FORMATS: Final = ("csv", "npy", "parquet")

# Rows and values of a call. The plan of a call depends on its number of rows, so calls have at
# least as many rows as the plan for the largest batches.
_LEAST_ROWS: Final = 4096
_MOST_VALUES: Final = 1 << 26


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_model(parser)
    parser.add_argument(
        "data",
        metavar="DATA",
        help="rows: .npy, .npz, .csv or .parquet, or - for CSV or .npy on stdin",
    )
    add_output(parser, _FORMATS, default=STDOUT)
    add_task(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--proba", action="store_true", help="probabilities instead of labels")
    what.add_argument("--raw", action="store_true", help="raw outputs of the last layer")
    add_threads(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    output = Output(arguments.output, _FORMATS, arguments.format, arguments.force, text="csv")
    if output.format == "parquet":
        required("pyarrow.parquet", "tables", "writing .parquet")
    net = load(arguments.model, task=arguments.task, classes=arguments.classes)
    rows = open_rows(arguments.data)
    kind = "proba" if arguments.proba else "raw" if arguments.raw else "labels"
    if kind == "proba" and net.task == "regression":
        raise ValueError("--proba needs a classifier or a multilabel network, got a regressor")
    parts = _predicted(net, rows, kind, arguments.threads, output)
    names = _names(net, kind)
    output.write(lambda file: _WRITERS[output.format](parts, names, file))
    return 0


def _predicted(
    net: Network, rows: Rows, kind: str, threads: int | None, output: Output
) -> Iterator[Array]:
    """The results, part by part, all under the plan for the number of rows."""
    largest = max(plan.rows for plan in net.plan)
    size = max(1, min(max(largest, _LEAST_ROWS), _MOST_VALUES // net.input_size))
    start, call = 0, None
    with _progress(rows, output) as bar:
        for part in rows.parts(net, size):
            if call is None:
                plan = net.plan_for(part.shape[0])
                layers = (1, list(plan.strategies), list(plan.precisions))
                margins = [(plan.least_margin, plan.int8_margin)]
                engine = net.engine.with_plan([layers], margins)
                call = _call(with_engine_plan(net, engine), kind)
            try:
                result = call(part, num_threads=threads)
            except ValueError as error:
                after = f"after the first {start} rows: " * (start > 0)
                raise ValueError(f"{after}{error}") from None
            start += part.shape[0]
            bar.update(part.shape[0])
            yield np.asarray(result)
    if call is None:
        empty = np.empty((0, net.input_size), np.float32)
        yield np.asarray(_call(net, kind)(empty, num_threads=threads))


def _call(net: Network, kind: str) -> Callable[..., Any]:
    return {"labels": net.predict, "proba": net.predict_proba, "raw": net.forward}[kind]


def _progress(rows: Rows, output: Output) -> Any:
    from tqdm import tqdm

    quiet = not sys.stderr.isatty() or (output.is_stdout and sys.stdout.isatty())
    return tqdm(total=rows.count, unit=" rows", leave=False, disable=quiet)


def _names(net: Network, kind: str) -> list[str]:
    """The names of the output columns."""
    if kind == "labels" and net.task == "classification":
        return ["label"]
    if kind == "proba" and net.classes is not None:
        return [str(label) for label in net.classes]
    word = "output" if kind == "raw" else "value" if net.task == "regression" else "label"
    count = net.output_size
    return [word] if count == 1 and word == "value" else [f"{word}_{i}" for i in range(count)]


def _write_csv(parts: Iterator[Array], names: list[str], file: IO[bytes]) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    try:
        writer = csv.writer(text, lineterminator="\n")
        begun = False
        for part in parts:
            if not begun:  # an error of the first rows leaves no output
                writer.writerow(names)
                begun = True
            columns = part.reshape(len(part), len(names))
            # The shortest text that gives the same float32.
            cells = columns.astype(str) if columns.dtype.kind == "f" else columns
            writer.writerows(cells.tolist())
            text.flush()
    finally:
        text.detach()


def _write_npy(parts: Iterator[Array], names: list[str], file: IO[bytes]) -> None:
    buffer = io.BytesIO()  # NumPy asks files for their position, which pipes do not have
    np.save(buffer, np.concatenate(list(parts)), allow_pickle=False)
    file.write(buffer.getbuffer())


def _write_parquet(parts: Iterator[Array], names: list[str], file: IO[bytes]) -> None:
    arrow = required("pyarrow", "tables", "writing .parquet")
    parquet = required("pyarrow.parquet", "tables", "writing .parquet")
    writer = None
    for part in parts:
        columns = part.reshape(len(part), len(names))
        values = [np.ascontiguousarray(columns[:, i]) for i in range(len(names))]
        arrays = [arrow.array(v.tolist() if v.dtype.kind == "U" else v) for v in values]
        table = arrow.Table.from_arrays(arrays, names=names)
        if writer is None:
            writer = parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


_WRITERS: Final = {"csv": _write_csv, "npy": _write_npy, "parquet": _write_parquet}

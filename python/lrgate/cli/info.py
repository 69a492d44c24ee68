"""``lrgate info``."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrgate.cli.options import add_json, add_model
from lrgate.cli.outputs import show
from lrgate.frameworks.loading import load
from lrgate.network import Network
from lrgate.network.checking import plan_text
from lrgate.results.table import Column, Table

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_model(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    # The plan is shown as it is in the file, not as it would be measured on this machine.
    found = _facts(load(arguments.model, tune=False), arguments.model)
    show(found if arguments.json else _text(found))
    return 0


def _facts(net: Network, path: str) -> dict[str, Any]:
    classes = net.classes
    return {
        "file": path,
        "format": Path(path).suffix.lower().removeprefix("."),
        "file_bytes": os.path.getsize(path),
        "weight_bytes": net.nbytes,
        "parameters": sum(layer.weight.size + layer.bias.size for layer in net.layers),
        "inputs": net.input_size,
        "outputs": net.output_size,
        "task": net.task,
        "classes": None if classes is None else classes.tolist(),
        "input_scale": _values(net.input_scale),
        "input_shift": _values(net.input_shift),
        "input_range": None if net.input_range is None else _values(net.input_range),
        "least_margin": net.least_margin or None,
        "layers": [
            {
                "inputs": layer.inputs,
                "outputs": layer.outputs,
                "computed_units": layer.outputs
                if layer.kept_units is None
                else len(layer.kept_units),
                "activation": layer.activation.name,
                "gate_rank": None if layer.gate is None else layer.gate.rank,
                "factors_rank": None if layer.factors is None else layer.factors.rank,
                "int8": layer.quantization is not None,
            }
            for layer in net.layers
        ],
        "plan": [
            {
                "rows": plan.rows,
                "paths": plan_text(replace(plan, least_margin=None, int8_margin=None)),
                "least_margin": plan.least_margin,
                "int8_margin": plan.int8_margin,
            }
            for plan in net.plan
        ],
        "machine": net.machine,
        "probe_rows": None if net.probe is None else len(net.probe.x),
        "metadata": net.metadata,
        "report": _report(net),
    }


def _values(array: Any) -> Any:
    """The number that an array has everywhere, or the smallest and the largest one."""
    if array is None:
        return None
    low, high = float(array.min()), float(array.max())
    return low if low == high else [low, high]


def _report(net: Network) -> dict[str, Any] | None:
    try:
        report = net.report
    except ValueError as error:  # another version of lrgate wrote it
        return {"unreadable": str(error)}
    if report is None:
        return None
    return {
        "measure": report.measure,
        "budget": report.budget,
        "increase_bound": report.increase_bound,
        "confidence": report.confidence,
        "error_before": report.error_before,
        "error_after": report.error_after,
        "rows_checked": report.rows_checked,
        "times_as_fast_as_dense": {
            str(batch.rows): batch.over_dense.median for batch in report.batches
        },
    }


def _text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['file']}: .{found['format']}, {_size(found['file_bytes'])}",
        f"parameters   {found['parameters']:,}, {_size(found['weight_bytes'])} in memory",
        f"task         {found['task']}, {found['inputs']} inputs, {found['outputs']} outputs",
    ]
    if found["classes"] is not None:
        shown = ", ".join(map(str, found["classes"][:10])) + ", ..." * (len(found["classes"]) > 10)
        lines.append(f"classes      {shown}")
    for key in ("input_scale", "input_shift", "input_range", "least_margin"):
        if found[key] is not None:
            value = found[key]
            text = f"{value[0]:g} to {value[1]:g}" if isinstance(value, list) else f"{value:g}"
            lines.append(f"{key.replace('_', ' '):<12} {text}")
    if found["machine"] is not None:
        machine = found["machine"]
        lines.append(f"measured on  {machine.get('isa')}, {machine.get('cpu')}")
    if found["probe_rows"] is not None:
        lines.append(f"probe        {found['probe_rows']} rows")
    if found["report"] is not None:
        lines += _report_lines(found["report"])
    columns = [Column("#"), Column("layer", left=True), Column("activation", left=True)]
    columns += [Column("units"), Column("gate"), Column("factors")]
    columns += [Column("int8", lambda yes: "yes" if yes else "-")]
    rows = [
        (
            i,
            f"{layer['inputs']}-{layer['outputs']}",
            layer["activation"],
            layer["computed_units"],
            layer["gate_rank"],
            layer["factors_rank"],
            layer["int8"],
        )
        for i, layer in enumerate(found["layers"])
    ]
    plan_columns = [Column("rows"), Column("plan", left=True)]
    fields = ["rows", "paths"]
    for name in ("least_margin", "int8_margin"):
        if any(plan[name] is not None for plan in found["plan"]):
            plan_columns.append(Column(name.replace("_", " "), lambda least: f"{least:.3g}"))
            fields.append(name)
    plans = Table(plan_columns, [[plan[name] for name in fields] for plan in found["plan"]])
    return "\n".join([*lines, "", str(Table(columns, rows, gap=2)), "", str(plans)])


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _report_lines(report: dict[str, Any]) -> list[str]:
    if "unreadable" in report:
        return [f"report       not readable: {report['unreadable']}"]
    rates = ", ".join(f"{v:.2f} at {k}" for k, v in report["times_as_fast_as_dense"].items())
    return [
        f"optimized    increase of {report['measure']}: at most {report['increase_bound']:.3g}, "
        f"{report['budget']:g} allowed",
        f"             times as fast as dense, by rows per call: {rates}",
    ]

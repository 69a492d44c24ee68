"""Turn a trained checkpoint into an lrgate network file: weights, gates, probe rows, metadata.

    python training/export.py --checkpoint training/runs/sparse/best.pt --data-dir data/mnist \\
        --out mnist.npz --estimator whitened --ranks 48 32 24 --threshold -0.1 \\
        --plan gate skip skip skip
    python training/export.py --checkpoint training/runs/sparse/best.pt --data-dir data/mnist \\
        --out mnist.npz --round bfloat16 --optimize

The file takes raw pixels, 0 to 255: their scaling is part of the network. Gates are fitted on
training rows and judged on the validation rows; a threshold below 0 lets more units through. The
same checkpoint and data give the same file. ``--round bfloat16`` halves an .npz file: the weights
stay float32, but the zeros in their last bits are compressed. ``--optimize`` leaves
gates, precisions and plans to `lrgate.optimize`, which measures on this machine, so that files
differ from run to run. It works on the validation rows, and leaves out units that none of them
switches on where their number shows that this keeps the budget.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import activations
import data
from loop import TrainingError, read_checkpoint
from preprocess import prepare
from recipe import Recipe, command

if TYPE_CHECKING:
    import lrgate

ESTIMATORS = ("none", "svd", "whitened")
PROBE_ROWS = 64
CALIBRATION_ROWS = 10_000
# The names that lrgate has for hidden activations of `activations`.
_ACTIVATIONS = {
    "relu": "relu",
    "clipped": ("clipped_relu", activations.UPPER),
    "thresholded": ("thresholded_relu", activations.THRESHOLD),
    "squared": "squared_relu",
    "hard-tanh": "hard_tanh",
    "tanh": "tanh",
    "gelu": "gelu",
}


class ExportError(Exception):
    """A network cannot be exported as asked; the text is meant for the user."""


def export(
    checkpoint: dict[str, Any],
    data_set: data.DataSet,
    path: Path,
    estimator: str,
    ranks: tuple[int, ...],
    calibration_rows: int = CALIBRATION_ROWS,
    threshold: float = 0.0,
    plan: tuple[str, ...] = (),
    optimize: bool = False,
    rounded: bool = False,
) -> str:
    """Write the best epoch of a run as a network file; returns a summary.

    Parameters
    ----------
    checkpoint
        The content of ``best.pt``.
    data_set
        The data the run was trained on, as it was read: rows are prepared as the recipe says, and
        probe rows and those of gates come from its training split.
    path
        The file to write, ``.npz`` or ``.safetensors``.
    estimator
        ``"none"``, ``"svd"`` or ``"whitened"``.
    ranks
        The gate's rank for each hidden layer, 0 for no gate; empty for no gates at all.
    calibration_rows
        How many training rows a whitened gate is fitted on.
    threshold
        A unit is computed where its estimated score is above it.
    plan
        The strategy of each layer in the file; empty for gates wherever there is one.
    optimize
        Let `lrgate.optimize` choose everything, for one thread, on `calibration_rows` validation
        rows or as many as there are, and leave out units that none of them switches on; not
        together with ranks or a plan.
    rounded
        Round weights to the nearest value that bfloat16 has. Errors in the file are those of the
        rounded network, except the validation error, which chose the epoch.

    Raises
    ------
    ExportError
        The lrgate package or the right data is missing, an option does not fit the network, or
        the file cannot be written.
    """
    recipe = Recipe.from_json(checkpoint["recipe"])
    data_set = prepare(data_set, recipe)
    _check(checkpoint, data_set, recipe, estimator, ranks, calibration_rows)
    if not math.isfinite(threshold):
        raise ExportError(f"--threshold must be finite, got {threshold}")
    split = data.split(len(data_set.x_train), recipe.validation, recipe.seed)
    training = data_set.x_train[split.train]

    net = network_of(_rounded(checkpoint) if rounded else checkpoint, recipe)
    metadata = _metadata(checkpoint, recipe)
    if rounded:
        error = float(np.mean(net.predict(data_set.x_test) != data_set.y_test))
        metadata |= {"weights": "rounded to bfloat16", "test_error": error}
    if optimize:
        fast = _optimized(net, recipe, data_set, split, calibration_rows)
        error = float(np.mean(fast.predict(data_set.x_test) != data_set.y_test))
        return _write(fast.with_metadata(metadata | {"test_error_under_plan": error}), path)
    lines: list[str] = []
    reports: dict[int, Any] = {}
    if estimator != "none" and any(ranks):
        fitting = training[_spread(len(training), calibration_rows)]
        held_out = data_set.x_train[split.validation]
        net, reports = _add_gates(net, estimator, ranks, threshold, fitting, held_out)
        lines = [f"layer {layer} gate: {report}" for layer, report in reports.items()]
    if plan:
        try:
            net = net.with_strategies(plan)
        except ValueError as error:
            raise ExportError(f"--plan does not fit the network: {error}") from error
    if reports:
        gated_error = float(np.mean(net.predict(data_set.x_test) != data_set.y_test))
        lines.append(f"test error under the plan {100 * gated_error:.2f} %")
        metadata |= _gate_metadata(estimator, threshold, reports, gated_error)
    net = net.with_probe(training[_spread(len(training), PROBE_ROWS)])
    return "\n".join([*lines, _write(net.with_metadata(metadata), path)])


def _write(net: lrgate.Network, path: Path) -> str:
    try:
        net.save(path)
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be written: {error}") from error
    shown = "" if net.report is None else f"{net.report}\n"
    return f"{shown}wrote {path} ({path.stat().st_size / 1e6:.1f} MB)"


def _optimized(
    net: lrgate.Network,
    recipe: Recipe,
    data_set: data.DataSet,
    split: data.Split,
    calibration_rows: int,
) -> lrgate.Network:
    """The network as `lrgate.optimize` makes it, on rows that it was not trained on."""
    import lrgate

    rows = split.validation[_spread(len(split.validation), calibration_rows)]
    training = data_set.x_train[split.train]
    net = net.with_probe(training[_spread(len(training), PROBE_ROWS)])
    try:
        return lrgate.optimize(
            net,
            data_set.x_train[rows],
            data_set.y_train[rows],
            num_threads=1,
            input_range=(0, 255),
            prune="never_on",
            seed=recipe.seed,
        )
    except ValueError as error:
        raise ExportError(f"--optimize, on {len(rows)} validation rows: {error}") from error


def _check(
    checkpoint: dict[str, Any],
    data_set: data.DataSet,
    recipe: Recipe,
    estimator: str,
    ranks: tuple[int, ...],
    calibration_rows: int,
) -> None:
    if checkpoint["data"]["md5"] != data_set.checksums:
        raise ExportError(
            f"--data-dir holds other data ({data_set.name}) than the checkpoint was trained on "
            f"({checkpoint['data']['name']})"
        )
    check(recipe, data_set.x_train.shape[1], estimator, ranks, calibration_rows)


def check(
    recipe: Recipe,
    inputs: int,
    estimator: str,
    ranks: tuple[int, ...],
    calibration_rows: int = CALIBRATION_ROWS,
) -> None:
    """Refuse options that do not fit a recipe, whose network has ``inputs`` inputs.

    Raises
    ------
    ExportError
        Names the option, the expected value and the actual one.
    """
    if recipe.activation not in _ACTIVATIONS:
        raise ExportError(
            f"--activation must be one of {', '.join(_ACTIVATIONS)} for a network of lrgate, "
            f"got {recipe.activation}"
        )
    if calibration_rows < 2:
        raise ExportError(f"--calibration-rows must be 2 or more, got {calibration_rows}")
    if not ranks:
        return
    if any(ranks) and activations.by_name(recipe.activation).signed:
        raise ExportError(f"--activation {recipe.activation} has no gates: leave out --ranks")
    if len(ranks) != len(recipe.hidden):
        raise ExportError(
            f"one rank is needed for each of the {len(recipe.hidden)} hidden layers, "
            f"got {len(ranks)}"
        )
    widths = (inputs, *recipe.hidden)
    for layer, rank in enumerate(ranks):
        limit = min(widths[layer], widths[layer + 1])
        if estimator == "whitened":
            limit = min(limit, calibration_rows - 1)
        if not 0 <= rank <= limit:
            raise ExportError(f"the rank of layer {layer} must be 0 to {limit}, got {rank}")


def network_of(checkpoint: dict[str, Any], recipe: Recipe) -> lrgate.Network:
    """The best epoch of a run as a network that takes raw pixels, without gates.

    Raises
    ------
    ExportError
        The lrgate package is missing.
    """
    try:
        import lrgate
    except ImportError as error:
        raise ExportError(
            f"export needs the lrgate package in this environment: {error}"
        ) from error
    activation = _ACTIVATIONS[recipe.activation]
    model = checkpoint["model"]
    count = sum(name.startswith("weights.") for name in model)
    layers = [(model[f"weights.{i}"].numpy(), model[f"biases.{i}"].numpy()) for i in range(count)]
    scale, shift = checkpoint["scale"].numpy(), checkpoint["shift"].numpy()
    return lrgate.Network.from_layers(
        layers,
        activations=[*[activation] * (count - 1), "identity"],
        task="classification",
        input_scale=scale if scale.ndim else float(scale),
        input_shift=shift if shift.any() else None,
    )


def _rounded(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint with weights that bfloat16 has."""
    rounded = {
        name: tensor.bfloat16().float() if name.startswith("weights.") else tensor
        for name, tensor in checkpoint["model"].items()
    }
    return checkpoint | {"model": rounded}


def _add_gates(
    net: lrgate.Network,
    estimator: str,
    ranks: tuple[int, ...],
    threshold: float,
    fitting_rows: data.U8Array,
    held_out: data.U8Array,
) -> tuple[lrgate.Network, dict[int, Any]]:
    """Fit a gate for every layer with a rank above 0, and judge it on ``held_out`` rows."""
    from lrgate import estimators
    from lrgate.estimators import registry

    fitting_inputs = net.layer_inputs(fitting_rows)
    fitting = registry.by_name(estimator)
    held_out_inputs = net.layer_inputs(held_out)
    gates, reports = {}, {}
    for layer, rank in enumerate(ranks):
        if rank == 0:
            continue
        of_layer = net.layers[layer]
        most = min(of_layer.inputs, of_layer.outputs)
        fit = fitting.fit(of_layer, fitting_inputs[layer], (most,), None, 0)
        gates[layer] = fit.gate(rank, threshold)
        reports[layer] = estimators.evaluate(
            net.layers[layer], gates[layer], held_out_inputs[layer]
        )
    return net.with_gates(gates), reports


def _metadata(checkpoint: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Where the network comes from. No date and no folder, so that the file can be repeated."""
    result = checkpoint["result"]
    return {
        "command": command(recipe),
        "seed": recipe.seed,
        "data": checkpoint["data"],
        "best_epoch": result["best_epoch"],
        "validation_error": result["validation_error"],
        "test_error": result["test_error"],
        "input_density": result["input_density"],
        "hidden_density": result["test_density"],
    }


def _gate_metadata(
    estimator: str, threshold: float, reports: dict[int, Any], gated_error: float
) -> dict[str, Any]:
    """How the gates were fitted, and how they do on the validation rows and on the test rows."""
    return {
        "estimator": estimator,
        "threshold": threshold,
        "test_error_under_plan": gated_error,
        "gates": {
            str(layer): {
                "rank": report.rank,
                "recall": report.recall,
                "computed_share": report.computed_share,
                "lost_energy": report.lost_energy,
            }
            for layer, report in reports.items()
        },
    }


def _spread(rows: int, wanted: int) -> npt.NDArray[np.int64]:
    """``wanted`` row numbers spread evenly over ``rows``, or all of them if there are fewer."""
    return np.linspace(0, rows - 1, min(rows, wanted)).astype(np.int64)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Write a trained checkpoint as an lrgate network file."
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="best.pt of a run")
    add("--out", type=Path, required=True, help="the .npz or .safetensors file to write")
    add(
        "--data-dir",
        type=Path,
        default=Path("data/mnist"),
        help="the data the run was trained on (default: %(default)s)",
    )
    add(
        "--estimator",
        choices=ESTIMATORS,
        default="whitened",
        help="how the gates are fitted (default: %(default)s)",
    )
    add(
        "--ranks",
        type=int,
        nargs="*",
        default=[],
        metavar="RANK",
        help="rank of each hidden layer's gate, 0 for no gate (default: no gates)",
    )
    add(
        "--calibration-rows",
        type=int,
        default=CALIBRATION_ROWS,
        help="training rows a whitened gate is fitted on, or validation rows of --optimize"
        " (default: %(default)s)",
    )
    add(
        "--threshold",
        type=float,
        default=0.0,
        help="units with a score above it are computed (default: %(default)s)",
    )
    add(
        "--plan",
        nargs="*",
        default=[],
        metavar="STRATEGY",
        help="dense, skip or gate for each layer (default: gate wherever there is one)",
    )
    add("--round", choices=["bfloat16"], help="round weights to values that bfloat16 has")
    add(
        "--optimize",
        action="store_true",
        help="let lrgate.optimize choose units, gates, precisions and plans, not the options above",
    )
    options = parser.parse_args(arguments)
    if options.optimize and (options.ranks or options.plan):
        parser.error("--optimize chooses ranks and plan itself: leave --ranks and --plan out")
    try:
        checkpoint = read_checkpoint(options.checkpoint, "best")
        data_set = data.load(options.data_dir)
        print(
            export(
                checkpoint,
                data_set,
                options.out,
                options.estimator,
                tuple(options.ranks),
                options.calibration_rows,
                options.threshold,
                tuple(options.plan),
                options.optimize,
                options.round is not None,
            )
        )
    except (data.DataError, TrainingError, ExportError) as error:
        print(f"export.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

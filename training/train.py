"""Train a fully connected ReLU network that lrgate runs fast, or the paper's.

    python training/train.py --preset sparse --data-dir data/mnist --out-dir training/runs/sparse

See training/README.md for the presets and their errors.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

import activations
import data
import export
import plot
from loop import Trainer, TrainingError, read_checkpoint, write_atomically
from preprocess import prepare
from recipe import ESTIMATORS, PRESETS, REFRESHES, Recipe, RecipeError, check, command, preset

LAST, BEST, LOG, CURVE = "last.pt", "best.pt", "log.json", "curve.png"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        run(options)
    except (data.DataError, RecipeError, TrainingError, export.ExportError) as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; --resume continues after the last whole epoch", file=sys.stderr)
        return 130
    return 0


def run(options: argparse.Namespace) -> None:
    """Train as the command line says: read, train, log, test, export."""
    last = options.out_dir / LAST
    state = _saved_state(options, last)
    recipe = _recipe(options, state)
    check(recipe)
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)

    as_read = data.load(options.data_dir, options.dataset)
    print(_describe(as_read))
    data_set = prepare(as_read, recipe)
    check(recipe, data_set.x_train.shape[1])
    ranks = tuple(options.export_ranks)
    if options.export is not None:
        export.check(recipe, data_set.x_train.shape[1], options.export_estimator, ranks)
    split = data.split(len(data_set.x_train), recipe.validation, recipe.seed)
    trainer = Trainer(recipe, data_set, split)
    if state is not None:
        trainer.restore(state)
        print(f"resuming after epoch {len(trainer.epochs)} of {recipe.epochs}")
    options.out_dir.mkdir(parents=True, exist_ok=True)
    if options.overwrite and state is None:
        # A run that is replaced is not to be taken for this one if this one is stopped.
        for name in (LAST, BEST, LOG, CURVE):
            (options.out_dir / name).unlink(missing_ok=True)

    log = _new_log(trainer)
    while not trainer.done:
        record = trainer.train_epoch()
        trainer.save(last)
        log["epochs"] = trainer.epochs
        _write_log(log, options.out_dir)
        print(_summary(record, recipe.epochs), flush=True)

    log["epochs"] = trainer.epochs
    log["result"] = _test(trainer, data_set)
    _write_log(log, options.out_dir)
    plot.draw(log, options.out_dir / CURVE)
    best = trainer.best_checkpoint(log["result"])
    write_atomically(options.out_dir / BEST, best)
    print(_result_text(log["result"]))
    if options.export is not None:
        text = export.export(
            best,
            as_read,
            options.export,
            options.export_estimator,
            ranks,
        )
        print(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train a fully connected ReLU network on MNIST or other small images.",
        epilog="Every option of a recipe has its preset's value unless given.",
    )
    add = parser.add_argument
    add(
        "--data-dir",
        type=Path,
        default=Path("data/mnist"),
        help=f"folder with the four IDX files, gzip or plain, or with {data.SVHN_FILE}"
        " (default: %(default)s)",
    )
    add(
        "--dataset",
        choices=sorted([*data.KNOWN, data.SVHN, data.SVHN_FULL]),
        help="insist on this data set's checksums (default: whichever the files match)",
    )
    add(
        "--out-dir",
        type=Path,
        default=Path("training/runs/train"),
        help=f"folder for {LAST}, {BEST}, {LOG} and {CURVE} (default: %(default)s)",
    )
    add(
        "--resume",
        action="store_true",
        help="continue the run in --out-dir; recipe options may then be left out",
    )
    add("--overwrite", action="store_true", help="replace a run that --out-dir holds")
    add("--preset", choices=sorted(PRESETS), help="the recipe to start from (default: paper)")

    recipe = parser.add_argument_group("recipe")
    add = recipe.add_argument
    add("--hidden", type=int, nargs="+", metavar="UNITS", help="widths of the hidden layers")
    add("--epochs", type=int, help="passes over the training rows")
    add("--batch-size", type=int, help="rows per gradient step")
    add("--optimizer", choices=["sgd", "adam"], help="sgd has momentum; adam ignores momentum")
    add("--learning-rate", type=float, help="of the first epoch")
    add(
        "--schedule",
        choices=["exponential", "cosine"],
        help="times --lr-decay every epoch, or down to zero along a half cosine",
    )
    add("--lr-decay", type=float, help="factor per epoch of the exponential schedule")
    add("--momentum", type=float, help="of the first epoch")
    add("--momentum-growth", type=float, help="factor per epoch")
    add("--momentum-cap", type=float, help="the momentum grows up to this")
    add("--activation", choices=activations.NAMES, help="of the hidden layers")
    add(
        "--init-std",
        type=float,
        nargs="+",
        metavar="STD",
        help="standard deviation of the first weights: one for all layers, or one each",
    )
    add("--max-norm", type=float, help="limit of each unit's incoming weights' L2 norm; 0: none")
    add(
        "--l1",
        type=float,
        nargs="+",
        metavar="WEIGHT",
        help="weight of the sum of a row's activations: one for all hidden layers, or one each",
    )
    add("--l1-ramp", type=int, metavar="EPOCHS", help="let --l1 rise linearly over so many epochs")
    add("--l2", type=float, help="weight decay of the weights (gradient: l2 times weight)")
    add("--dropout", type=float, help="share of hidden outputs dropped in training")
    add("--input-dropout", type=float, help="share of pixels dropped in training")
    add(
        "--shift",
        type=int,
        metavar="PIXELS",
        help="move each training image at random by up to so many pixels",
    )
    add(
        "--pad",
        type=int,
        metavar="PIXELS",
        help="so many zero pixels around each image; the network takes padded images",
    )
    add(
        "--contrast",
        action=argparse.BooleanOptionalAction,
        help="local contrast normalisation and histogram equalisation of each image",
    )
    add(
        "--standardize",
        action=argparse.BooleanOptionalAction,
        help="per-pixel mean 0 and deviation 1 instead of pixels / 255",
    )
    add(
        "--estimator",
        choices=ESTIMATORS,
        help="mask hidden layers by estimated signs while training",
    )
    add(
        "--ranks",
        type=int,
        nargs="+",
        metavar="RANK",
        help="the estimator's rank in each hidden layer; 0: not masked",
    )
    add(
        "--refresh",
        choices=REFRESHES,
        help="how factors of svd follow the weights within an epoch: fitted again, by a step of"
        " subspace iteration, or projected on their input space",
    )
    add(
        "--refresh-every",
        type=int,
        metavar="STEPS",
        help="renew the factors after so many steps; 0: only after each epoch",
    )
    add(
        "--gate-l1",
        type=float,
        metavar="WEIGHT",
        help="weight of the number of a row's open gates, for --estimator trained",
    )
    add("--validation", type=int, metavar="ROWS", help="rows held out of the training rows")
    add(
        "--mask-from",
        type=int,
        metavar="EPOCH",
        help="the first epoch that trains under the estimator's mask (default: 1)",
    )
    add("--best-from", type=int, metavar="EPOCH", help="the first epoch that may be kept as best")
    add("--seed", type=int, help="of the split, the first weights, the order and dropout")
    add("--threads", type=int, help="CPU threads; results repeat for the same number only")

    target = parser.add_argument_group("export (needs the lrgate package)")
    add = target.add_argument
    add("--export", type=Path, metavar="PATH", help="write the best epoch as a network file")
    add(
        "--export-estimator",
        choices=["none", "svd", "whitened"],
        default="whitened",
        help="how the exported gates are fitted (default: %(default)s)",
    )
    add(
        "--export-ranks",
        type=int,
        nargs="*",
        default=[],
        metavar="RANK",
        help="rank of each hidden layer's gate, 0 for no gate (default: no gates)",
    )
    return parser


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The recipe values named on the command line, a preset's included."""
    names = {field.name for field in dataclasses.fields(Recipe)}
    explicit = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(options).items()
        if name in names and value is not None
    }
    from_preset = PRESETS[options.preset] if options.preset else {}
    return {**from_preset, **explicit}


def _saved_state(options: argparse.Namespace, last: Path) -> dict[str, Any] | None:
    """The run to continue, if one was asked for; never overwrites a run unasked."""
    if options.resume:
        return read_checkpoint(last, "run")
    found = any((options.out_dir / name).exists() for name in (LAST, BEST, LOG, CURVE))
    if found and not options.overwrite:
        raise TrainingError(
            f"{options.out_dir} holds a run already: add --resume to continue it, "
            "--overwrite to replace it, or choose another --out-dir"
        )
    return None


def _recipe(options: argparse.Namespace, state: dict[str, Any] | None) -> Recipe:
    """The recipe of the command line, or of the run to be continued.

    A continued run keeps its recipe. Only its number of epochs may change, where no schedule
    depends on it.
    """
    given = _given(options)
    if state is None:
        return dataclasses.replace(preset(options.preset or "paper"), **given)
    saved = Recipe.from_json(state["recipe"])
    free = {"epochs"} if saved.schedule == "exponential" else set()
    for name, value in given.items():
        if name not in free and value != getattr(saved, name):
            raise RecipeError(
                f"--resume: --{name.replace('_', '-')} is {value} here but "
                f"{getattr(saved, name)} in the run to be continued"
            )
    return dataclasses.replace(saved, **given)


def _describe(data_set: data.DataSet) -> str:
    rows = f"{len(data_set.x_train)} training and {len(data_set.x_test)} test images"
    if data_set.name == data.UNKNOWN:
        sums = "\n".join(f"  {md5}  {name}" for name, md5 in data_set.checksums.items())
        return (
            f"warning: no known data set has these checksums; they are recorded in the log\n"
            f"{sums}\n{rows}"
        )
    return f"{data_set.name}: checksums match; {rows}"


def _new_log(trainer: Trainer) -> dict[str, Any]:
    recipe = trainer.recipe
    return {
        "command": command(recipe),
        "config": recipe.to_json(),
        "data": trainer.checksums,
        "torch": torch.__version__,
        "epochs": trainer.epochs,
    }


def _write_log(log: dict[str, Any], folder: Path) -> None:
    partial = folder / f"{LOG}.partial"
    partial.write_text(json.dumps(log, indent=1) + "\n")
    os.replace(partial, folder / LOG)


def _test(trainer: Trainer, data_set: data.DataSet) -> dict[str, Any]:
    """The best epoch's figures on the validation rows and, measured once, on the test rows."""
    epoch = trainer.use_best()
    x = torch.from_numpy(data_set.x_test.copy())
    y = torch.from_numpy(data_set.y_test.astype("int64"))
    validation = trainer.evaluate(trainer.x_validation, trainer.y_validation)
    test = trainer.evaluate(x, y)
    result: dict[str, Any] = {
        "best_epoch": epoch,
        "validation_error": validation.error,
        "test_error": test.error,
        "test_density": test.density,
        "test_silent_units": test.silent,
        "input_density": float((x > 0).double().mean()),
    }
    if trainer.recipe.estimates:
        result["test_error_unmasked"] = trainer.evaluate(x, y, masked=False).error
        result["test_computed_share"] = test.computed
        result["test_disagreement"] = test.disagreement
    return result


def _summary(record: dict[str, Any], epochs: int) -> str:
    """One line for one epoch."""
    text = (
        f"epoch {record['epoch']:3d}/{epochs}  loss {record['train_loss']:.4f}  "
        f"validation {100 * record['validation_error']:.2f} %  density {_shares(record['density'])}"
    )
    if "disagreement" in record:
        text += f"  wrong signs {_shares(record['disagreement'])}"
    return f"{text}  {record['seconds']:.1f} s"


def _result_text(result: dict[str, Any]) -> str:
    lines = [
        f"best epoch {result['best_epoch']}: "
        f"validation error {100 * result['validation_error']:.2f} %, "
        f"test error {100 * result['test_error']:.2f} %",
        f"hidden density on the test rows {_shares(result['test_density'])}",
    ]
    if "test_error_unmasked" in result:
        lines.append(
            f"test error without the mask {100 * result['test_error_unmasked']:.2f} %, "
            f"computed share {_shares(result['test_computed_share'])}"
        )
    return "\n".join(lines)


def _shares(values: list[float]) -> str:
    return "/".join(f"{value:.3f}" for value in values)


if __name__ == "__main__":
    sys.exit(main())

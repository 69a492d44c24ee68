"""Reproduce the results of Davis and Arel 2013 (arXiv 1312.4461), and answer its open questions.

    python training/reproduce.py mnist --data-dir data/mnist --jobs 2
    python training/reproduce.py mnist --quick

A command trains every network of its study and prints the table. Stopped or killed, it continues
after the last whole epoch when it is started again. Each run has one JSON file in
training/results, from which ``--table`` prints the table without training, and from which
paper_figures.py makes docs/paper.md's tables and pictures.

mnist      test error at the paper's ranks
svhn       the same for the paper's larger network, on SVHN or the subset
fashion    the same network on Fashion-MNIST
steps      ranks 10-10-5 with other rows per step, and with more epochs
epoch      factors that follow the weights within an epoch
objective  factors that are fitted to more than the weights
activations  other hidden activations than ReLU
frontier   error and speed by the strength of L1 (speed.py measures the networks)
capacity   wide sparse networks beside small dense ones (speed.py measures the networks)
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import activations
import data
import objective
import quick
import tables
from loop import TrainingError
from recipe import Recipe, RecipeError, preset
from study import Places, Run, Study, StudyError, advance, results, run_of

MNIST_RANKS = ((), (10, 10, 5), (50, 35, 25), (25, 25, 25), (15, 10, 5), (10, 5, 5))
DEEP_RANKS = (
    (),
    (25, 25, 15, 15),
    (200, 100, 75, 15),
    (100, 75, 50, 25),
    (75, 50, 40, 30),
    (50, 40, 40, 35),
)
"""The paper's, the control and the smallest first: together they show the most."""

EPOCHS = {
    "mnist": 100,
    "svhn": 40,
    "fashion": 60,
    "steps": 100,
    "epoch": 100,
    "objective": 100,
    "activations": 100,
    "frontier": 40,
    "capacity": 40,
}
PAPER_EPOCHS = 300
"""With the paper's decay of 0.99, the learning rate is then at 0.05 of its first value."""
FOLDERS = {"svhn": "svhn", "fashion": "fashion-mnist"}
HERE = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return quick.run(print) if options.quick else run(options)
    except (data.DataError, RecipeError, TrainingError, StudyError) as error:
        print(f"reproduce.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command continues after the last whole epoch", file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    """Train the study's runs, unless the table alone is asked for, and print the table."""
    folder = options.data_dir or Path("data") / FOLDERS.get(options.study, "mnist")
    study = select(make(options.study, options.epochs, options.seeds, folder), options.only)
    places = Places(folder, study.dataset, options.results_dir, options.checkpoint_dir)
    if not options.table:
        advance(study, places, options.jobs, lambda line: print(line, flush=True))
    print(tables.text(options.study, results(study, places)))
    return 0


def make(name: str, epochs: int | None, seeds: Sequence[int], folder: Path) -> Study:
    """The study ``name``: all its runs, seed by seed."""
    maker: dict[str, Callable[[int, int], list[Run]]] = {
        "mnist": mnist_runs,
        "fashion": fashion_runs,
        "steps": step_runs,
        "epoch": epoch_runs,
        "objective": objective_runs,
        "activations": activation_runs,
        "frontier": frontier_runs,
        "capacity": capacity_runs,
    }
    dataset = {"fashion": "fashion-mnist"}.get(name, "mnist")
    if name == "svhn":
        full = any((folder / file).is_file() for file in data.SVHN_FULL_MD5)
        subset = not full and (folder / data.SVHN_FILE).is_file()
        dataset = data.SVHN if subset else data.SVHN_FULL
        maker["svhn"] = svhn_subset_runs if subset else svhn_runs
    length = EPOCHS[name] if epochs is None else epochs
    runs = [run for seed in seeds for run in maker[name](seed, length)]
    return Study(name, dataset, tuple(runs))


def select(study: Study, patterns: Sequence[str]) -> Study:
    """The runs whose labels match one of ``patterns``; all of them if there is none.

    Raises
    ------
    StudyError
        A pattern matches no label.
    """
    labels = sorted({run.label for run in study.runs})
    for pattern in patterns:
        if not fnmatch.filter(labels, pattern):
            raise StudyError(f"--only: no run is called {pattern}; there are {', '.join(labels)}")
    chosen = [
        run
        for run in study.runs
        if not patterns or any(fnmatch.fnmatch(run.label, pattern) for pattern in patterns)
    ]
    return dataclasses.replace(study, runs=tuple(chosen))


def mnist_runs(seed: int, epochs: int) -> list[Run]:
    """The paper's MNIST table."""
    return [_at_ranks("mnist", _paper_recipe(seed, epochs), ranks) for ranks in MNIST_RANKS]


def fashion_runs(seed: int, epochs: int) -> list[Run]:
    """The paper's SVHN network and input on Fashion-MNIST, padded to the same size."""
    recipe = dataclasses.replace(
        preset("svhn"), seed=seed, epochs=epochs, contrast=True, pad=2, validation=10_000
    )
    recipe = dataclasses.replace(recipe, batch_size=400, init_std=(0.03,))
    return [_at_ranks("fashion", recipe, ranks) for ranks in DEEP_RANKS]


def svhn_runs(seed: int, epochs: int) -> list[Run]:
    """The paper's SVHN table, on the complete data set."""
    recipe = dataclasses.replace(
        preset("svhn"), seed=seed, epochs=epochs, contrast=True, validation=10_000
    )
    return [_at_ranks("svhn", recipe, ranks) for ranks in DEEP_RANKS]


def svhn_subset_runs(seed: int, epochs: int) -> list[Run]:
    """The same on the subset, whose errors are not comparable with published ones."""
    recipe = dataclasses.replace(preset("svhn"), seed=seed, epochs=epochs, contrast=True)
    return [_at_ranks("svhn-subset", recipe, ranks) for ranks in DEEP_RANKS]


STEP_ROWS = (100, 1000)
STEP_EPOCHS = 3
"""Times the epochs of the MNIST table: by default the paper's factor of the learning rate."""


def step_runs(seed: int, epochs: int) -> list[Run]:
    """Ranks 10-10-5 of the MNIST table, with other rows per step, and with more epochs."""
    once = dataclasses.replace(_objective_recipe(seed, epochs), estimator="svd")
    long = dataclasses.replace(_objective_recipe(seed, STEP_EPOCHS * epochs), estimator="svd")
    return [
        run_of("mnist", "10-10-5", once, objective.at_shares),
        *(
            run_of("steps", f"{rows}-rows-per-step", dataclasses.replace(once, batch_size=rows))
            for rows in STEP_ROWS
        ),
        run_of("steps", f"{STEP_EPOCHS}-times-the-epochs", long),
    ]


def epoch_runs(seed: int, epochs: int) -> list[Run]:
    """Ways to renew the factors of svd within an epoch, at ranks 10-10-5."""
    once = dataclasses.replace(_objective_recipe(seed, epochs), estimator="svd")
    runs = [run_of("mnist", "10-10-5", once, objective.at_shares)]
    for refresh, every in (
        ("subspace", 1),
        ("projection", 1),
        ("subspace", 10),
        ("projection", 10),
        ("full", 10),
    ):
        recipe = dataclasses.replace(once, refresh=refresh, refresh_every=every)
        runs.append(run_of("epoch", f"{refresh}-every-{every}", recipe))
    return runs


def objective_runs(seed: int, epochs: int) -> list[Run]:
    """Estimators in the loop and after training, at ranks 10-10-5."""
    base = _objective_recipe(seed, epochs)
    plain = dataclasses.replace(base, ranks=())
    svd = dataclasses.replace(base, estimator="svd")
    trained = dataclasses.replace(base, estimator="trained", gate_l1=objective.GATE_L1)
    others = [
        run_of("objective", label, recipe, objective.at_shares)
        for label, recipe in (
            ("trained", trained),
            ("trained-light", dataclasses.replace(trained, gate_l1=objective.LIGHT_GATE_L1)),
            ("whitened", dataclasses.replace(base, estimator="whitened")),
            ("logistic", dataclasses.replace(base, estimator="logistic")),
        )
    ]
    return [
        run_of("mnist", "none", plain, objective.after_training),
        run_of("mnist", "10-10-5", svd, objective.at_shares),
        *others,
    ]


ACTIVATION_RANKS = (25, 25, 25)
ACTIVATION_RATES = {"squared": 0.05, "maxout": 0.1}
"""First learning rates of activations that are steeper than ReLU; others have the preset's."""
ACTIVATION_MASKS = {"thresholded": 2}
"""First epochs under the mask: no estimate of the first weights is above the threshold, so that no
weight would ever change."""


def activation_runs(seed: int, epochs: int) -> list[Run]:
    """Each hidden activation without an estimator, and with svd in the loop."""
    runs = []
    for name in activations.FLAT_NAMES:
        recipe = dataclasses.replace(_paper_recipe(seed, epochs), activation=name)
        rate = ACTIVATION_RATES.get(name, recipe.learning_rate)
        recipe = dataclasses.replace(recipe, learning_rate=rate)
        if name == "relu":
            runs += [_at_ranks("mnist", recipe, ranks) for ranks in ((), ACTIVATION_RANKS)]
            continue
        gated = dataclasses.replace(
            recipe,
            estimator="svd",
            ranks=ACTIVATION_RANKS,
            mask_from=min(epochs, ACTIVATION_MASKS.get(name, 1)),
        )
        runs.append(run_of("activations", name, recipe))
        runs.append(run_of("activations", f"{name}-25-25-25", gated))
    return runs


STRENGTHS = (0.0, 0.001, 0.004, 0.0005, 0.002, 0.00025, 0.008)
"""Weights of L1 on the hidden outputs."""


def frontier_runs(seed: int, epochs: int) -> list[Run]:
    """The recipe of the shipped network at several strengths of L1."""
    return [
        run_of("frontier", f"l1-{weight:g}", _sparse_recipe(seed, epochs, l1=(weight,)))
        for weight in STRENGTHS
    ]


WIDTHS = {"dense": (1.0, 0.5, 0.25, 0.125, 0.0625, 2.0), "sparse": (1.0, 2.0, 0.5, 4.0, 8.0)}
"""Widths as multiples of the paper's."""
WIDTH_L1 = 0.001


def capacity_runs(seed: int, epochs: int) -> list[Run]:
    """Dense networks of about the paper's width and less, sparse ones of up to eight times.

    L1 counts the outputs of all units, so that a wider network has a smaller share of them on.
    Networks of fewer units than the paper's are trained with and without dropout.
    """
    runs = []
    for kind, widths in WIDTHS.items():
        for width in widths:
            hidden = tuple(max(1, round(width * units)) for units in Recipe().hidden)
            recipe = _sparse_recipe(seed, epochs, l1=(WIDTH_L1 if kind == "sparse" else 0.0,))
            # The sums of later layers start as large in every width.
            (first,) = recipe.init_std
            later = round(first / width**0.5, 4)
            stds = (first, *[later] * len(hidden))
            recipe = dataclasses.replace(recipe, hidden=hidden, init_std=stds)
            runs.append(run_of("capacity", f"{kind}-{width:g}", recipe))
            if width < 1:
                plain = dataclasses.replace(recipe, dropout=0.0)
                runs.append(run_of("capacity", f"{kind}-{width:g}-no-dropout", plain))
    return runs


def _sparse_recipe(seed: int, epochs: int, l1: tuple[float, ...]) -> Recipe:
    """The preset of the shipped network, whose best epoch is one of the last fifth."""
    best_from = max(1, 4 * epochs // 5)
    return dataclasses.replace(
        preset("sparse"), seed=seed, epochs=epochs, l1=l1, best_from=best_from
    )


def _objective_recipe(seed: int, epochs: int) -> Recipe:
    return dataclasses.replace(_paper_recipe(seed, epochs), ranks=objective.RANKS)


def _paper_recipe(seed: int, epochs: int) -> Recipe:
    """The MNIST preset, whose learning rate falls as far as in ``PAPER_EPOCHS`` epochs."""
    base = preset("paper")
    decay = round(base.lr_decay ** (PAPER_EPOCHS / max(1, epochs)), 4)
    return dataclasses.replace(base, seed=seed, epochs=epochs, lr_decay=decay)


def _at_ranks(study: str, recipe: Recipe, ranks: tuple[int, ...]) -> Run:
    """The run of one row of a table by rank; MNIST's serve the study of objectives as well."""
    measure = None
    if study == "mnist" and ranks in ((), objective.RANKS):
        measure = objective.at_shares if ranks else objective.after_training
    estimator = "svd" if ranks else "none"
    recipe = dataclasses.replace(recipe, estimator=estimator, ranks=ranks)
    return run_of(study, "-".join(map(str, ranks)) or "none", recipe, measure)


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=data.HOW_TO_SVHN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("study", choices=list(EPOCHS))
    add(
        "--quick",
        action="store_true",
        help="check the order of the ranks on a small network in about a minute; the exit status"
        " is 1 if it does not hold (needs scikit-learn, for its digits)",
    )
    add("--table", action="store_true", help="print the table of the results so far; no training")
    add(
        "--data-dir",
        type=Path,
        help="folder with the data set (default: data/mnist, data/fashion-mnist or data/svhn)",
    )
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes of one thread each")
    add("--epochs", type=int, help=f"passes over the training rows (default: {_defaults()})")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="SEED")
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="LABEL",
        help="train these rows of the table, for example none '10-*'",
    )
    add_folders(parser)
    return parser


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add the options for the folders of results and checkpoints."""
    parser.add_argument(
        "--results-dir",
        type=Path,
        default=HERE / "results",
        help="folder of the JSON files (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint-dir",
        type=Path,
        default=HERE / "runs",
        help="folder of the checkpoints (default: %(default)s)",
    )


def _defaults() -> str:
    return ", ".join(f"{name} {epochs}" for name, epochs in EPOCHS.items())


if __name__ == "__main__":
    sys.exit(main())

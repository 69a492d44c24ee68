"""Studies: sets of training runs whose results are kept as small JSON files under version control.

A run goes on from its last whole epoch, whatever ended it. Its checkpoints are in a folder outside
of version control; its JSON has the recipe, the figures of every epoch, and the test figures of the
epoch with the lowest validation error, measured whenever the requested number of epochs is reached.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

import data
import preprocess
from loop import Trainer, read_checkpoint
from recipe import Recipe, check, command

FORMAT = 1

WITHIN_EPOCHS = (2, 5, 10, 20, 30, 60, 100, 200, 300)
"""Epochs whose wrong signs from step to step are part of a result."""

Measure = Callable[[Trainer, data.DataSet], dict[str, Any]]

_CURVES = {
    "train_cross_entropy": "train_cross_entropy",
    "validation_error": "validation_error",
    "validation_error_unmasked": "validation_error_unmasked",
    "density": "density",
    "computed_share": "computed_share",
    "wrong_signs": "disagreement",
    "wrong_signs_before_refresh": "disagreement_before_refresh",
    "refreshes": "refreshes",
    "refresh_seconds": "refresh_seconds",
    "seconds": "seconds",
}
"""The figures of an epoch in a result, and their names in the record of the loop."""


class StudyError(Exception):
    """A study cannot be run; the text is meant for the user."""


@dataclass(frozen=True)
class Run:
    """One training run of a study.

    ``name`` is that of its files, ``study/label-seed``. ``label`` names the row of the table, so
    that runs that differ in their seed alone share it. ``measure`` adds figures of the best epoch
    to the test figures: a function of a module, so that another process can find it.
    """

    name: str
    label: str
    recipe: Recipe
    measure: Measure | None = None


@dataclass(frozen=True)
class Study:
    """Runs on one data set, the most telling first."""

    name: str
    dataset: str | None
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Places:
    """Folders: the data set (and which one it must be), results, and checkpoints."""

    data: Path
    dataset: str | None
    results: Path
    checkpoints: Path

    def result(self, run: Run) -> Path:
        """The JSON of a run."""
        return self.results / f"{run.name}.json"


def advance(
    study: Study, places: Places, jobs: int, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Train all runs to the end of their recipes; returns the results.

    ``jobs`` processes work side by side, one thread each, and take the runs in their order.
    ``report`` gets lines of progress.

    Raises
    ------
    DataError, TrainingError, StudyError
        From the first run that fails; runs under way then end after their epoch.
    """
    if jobs < 1:
        raise StudyError(f"--jobs must be 1 or more, got {jobs}")
    waiting = [run for run in study.runs if not reached(places, run)]
    if len(waiting) < len(study.runs):
        report(f"{len(study.runs) - len(waiting)} of {len(study.runs)} runs are finished")
    if jobs == 1:
        for run in waiting:
            train(run, places, report)
    elif waiting:
        _in_processes(waiting, places, jobs, report)
    return results(study, places)


def results(study: Study, places: Places) -> list[dict[str, Any]]:
    """The results on disk of a study's runs, unfinished ones included, in the study's order."""
    found = [read_result(places.result(run)) for run in study.runs]
    return [one for one in found if one is not None]


def read_result(path: Path) -> dict[str, Any] | None:
    """The result in ``path``; None if there is none.

    Raises
    ------
    StudyError
        The file is no result of this version.
    """
    try:
        result = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StudyError(f"{path}: not a result: {error}") from error
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise StudyError(f"{path}: not a result of format {FORMAT}")
    return result


def train(
    run: Run,
    places: Places,
    report: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Train one run to the end of its recipe, from its last whole epoch on.

    ``stopped`` is asked after every epoch whether to leave the rest to another command.
    """
    folder = places.checkpoints / run.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            _train(run, places, folder / "last.pt", report, stopped)
    except Timeout:
        report(f"{run.name}: another process trains it, left to that")


def parameters(recipe: Recipe) -> dict[str, Any]:
    """The recipe as it decides about a run's course so far: the length may be left open."""
    values = recipe.to_json()
    if recipe.schedule == "exponential":
        del values["epochs"]
    return values


def _train(
    run: Run,
    places: Places,
    last: Path,
    report: Callable[[str], None],
    stopped: Callable[[], bool],
) -> None:
    recipe = run.recipe
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    data_set = preprocess.prepare(data.load(places.data, places.dataset), recipe)
    check(recipe, data_set.x_train.shape[1])
    split = data.split(len(data_set.x_train), recipe.validation, recipe.seed)
    trainer = Trainer(recipe, data_set, split)
    if last.exists():
        state = read_checkpoint(last, "run")
        if parameters(Recipe.from_json(state["recipe"])) != parameters(recipe):
            raise StudyError(f"{last} is of another recipe: remove it to train {run.name} again")
        trainer.restore(state)
    path = places.result(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    while not trainer.done:
        record = trainer.train_epoch()
        trainer.save(last)
        write_result(path, _result(run, trainer, read_result(path)))
        report(
            f"{run.name}: epoch {record['epoch']}/{recipe.epochs}, validation error "
            f"{100 * record['validation_error']:.2f} %, {record['seconds']:.1f} s"
        )
        if not trainer.done and stopped():
            return
    result = _result(run, trainer, read_result(path))
    test = _test(run, trainer, data_set)
    result["tests"][str(len(trainer.epochs))] = test
    write_result(path, result)
    report(f"{run.name}: test error {100 * test['error']:.2f} %")


def reached(places: Places, run: Run) -> bool:
    """Whether the run has a test result of as many epochs as its recipe asks for, or more."""
    result = read_result(places.result(run))
    if result is None:
        return False
    if parameters(Recipe.from_json(result["config"])) != parameters(run.recipe):
        raise StudyError(
            f"{places.result(run)} is of another recipe: remove it to train {run.name} again"
        )
    return any(int(epochs) >= run.recipe.epochs for epochs in result["tests"])


def _in_processes(
    runs: Sequence[Run], places: Places, jobs: int, report: Callable[[str], None]
) -> None:
    context = multiprocessing.get_context("spawn")
    lines: Any = context.SimpleQueue()
    stop = context.Event()
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_connect, initargs=(lines, stop, os.getpid())
    ) as pool:
        tasks = [pool.submit(_train_and_report, run, places) for run in runs]
        try:
            while not all(task.done() for task in tasks):
                _pass_on(lines, report)
                failed = [task for task in tasks if task.done() and task.exception()]
                if failed:
                    failed[0].result()
                time.sleep(0.1)
            _pass_on(lines, report)
            for task in tasks:
                task.result()
        except BrokenProcessPool as error:
            raise StudyError("a process was killed; the same command continues") from error
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_connection: dict[str, Any] = {}
"""In a process of the pool: the queue of lines, the event that ends it, the parent's number."""


def _connect(lines: Any, stop: Any, parent: int) -> None:
    _connection.update(lines=lines, stop=stop, parent=parent)


def _train_and_report(run: Run, places: Places) -> None:
    def stopped() -> bool:
        return _connection["stop"].is_set() or os.getppid() != _connection["parent"]

    train(run, places, _connection["lines"].put, stopped)


def _pass_on(lines: Any, report: Callable[[str], None]) -> None:
    while not lines.empty():
        report(lines.get())


def _result(run: Run, trainer: Trainer, before: dict[str, Any] | None) -> dict[str, Any]:
    """The figures of all epochs so far, and the test figures that ``before`` has."""
    curves: dict[str, Any] = {
        name: [rounded(record[key]) for record in trainer.epochs]
        for name, key in _CURVES.items()
        if key in trainer.epochs[0]
    }
    result: dict[str, Any] = {
        "format": FORMAT,
        "run": run.name,
        "label": run.label,
        "command": command(run.recipe),
        "config": run.recipe.to_json(),
        "data": trainer.checksums,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": machine_name(),
        "trained_epochs": len(trainer.epochs),
        "best_epoch": trainer.best and trainer.best["epoch"],
        "epochs": curves,
        "tests": before["tests"] if before is not None else {},
    }
    if run.recipe.estimates:
        result["wrong_signs_within"] = {
            str(record["epoch"]): rounded(record["disagreement_within"])
            for record in trainer.epochs
            if record["epoch"] in WITHIN_EPOCHS
        }
    return result


def _test(run: Run, trainer: Trainer, data_set: data.DataSet) -> dict[str, Any]:
    """The figures of the best epoch on the test rows."""
    epoch = trainer.use_best()
    x, y = test_rows(data_set)
    figures = trainer.evaluate(x, y)
    assert trainer.best is not None
    test: dict[str, Any] = {
        "best_epoch": epoch,
        "validation_error": trainer.best["validation_error"],
        "error": figures.error,
        "density": rounded(figures.density),
    }
    if run.recipe.estimates:
        test |= {
            "error_unmasked": trainer.evaluate(x, y, masked=False).error,
            "computed_share": rounded(figures.computed),
            "wrong_signs": rounded(figures.disagreement),
        }
    return test | (run.measure(trainer, data_set) if run.measure else {})


def test_rows(data_set: data.DataSet) -> tuple[Tensor, Tensor]:
    """The test rows and labels as tensors."""
    return (
        torch.from_numpy(data_set.x_test.copy()),
        torch.from_numpy(data_set.y_test.astype(np.int64)),
    )


def rounded(value: Any) -> Any:
    """Figures with four significant digits."""
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def machine_name() -> str:
    """The processor's name, where the system reveals it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result atomically, one line for each figure of the epochs."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(_text(result) + "\n")
    os.replace(partial, path)


def _text(values: dict[str, Any], indent: str = "") -> str:
    """JSON with one line for each entry of a dictionary; lists stay on one line."""
    inner = indent + " "
    lines = [
        f"{inner}{json.dumps(key)}: "
        + (_text(value, inner) if isinstance(value, dict) and value else json.dumps(value))
        for key, value in values.items()
    ]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def run_of(study: str, label: str, recipe: Recipe, measure: Measure | None = None) -> Run:
    """The run ``study/label-seed`` of a recipe."""
    return Run(f"{study}/{label}-seed{recipe.seed}", label, recipe, measure)

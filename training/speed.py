"""Measure the trained networks of a study: error against time per row, beside the fastest peers.

    python training/reproduce.py frontier --data-dir data/mnist --seeds 1 \\
        --results-dir runs/results --checkpoint-dir runs
    python training/speed.py frontier --data-dir data/mnist \\
        --results-dir runs/results --checkpoint-dir runs

The best epoch of every finished run is optimised by `lrgate.optimize` on its validation rows. Dense
networks, trained without L1, run in the peers as well, at their best settings. Networks and peers
take turns in one process on one thread, on test rows. Of several runs of the same widths and L1,
the one with the lowest validation error is measured. Writes speed/{study}.json in the folder of
results, from which paper_figures.py makes docs/paper.md. Nothing else should run on the machine
meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import data
import preprocess
import reproduce
from export import CALIBRATION_ROWS, ExportError, network_of
from loop import Trainer, TrainingError, read_checkpoint
from recipe import Recipe, RecipeError
from study import (
    FORMAT,
    Places,
    Run,
    StudyError,
    machine_name,
    parameters,
    reached,
    read_result,
    rounded,
    write_result,
)

STUDIES = ("frontier", "capacity")
ROWS = (1, 256)
PEERS = ("LiteRT", "OpenVINO", "ORT", "generated C")
SETTINGS_SECONDS = 5.0
"""Time in which a peer's settings are chosen, as in `lrgate bench`, for each number of rows."""


@dataclass(frozen=True)
class Measured:
    """A network file to measure. ``dense`` ones are measured in the peers as well."""

    label: str
    path: Path
    dense: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        run(options)
    except (
        *(data.DataError, RecipeError, TrainingError, StudyError, ExportError),
        *(ImportError, OSError, ValueError, RuntimeError),
    ) as error:
        print(f"speed.py: error: {error}", file=sys.stderr)
        return 1
    return 0


def run(options: argparse.Namespace) -> None:
    """Export the study's networks, measure them, and write the figures."""
    import lrgate
    from lrgate.bench.engines import selected
    from lrgate.measure import process

    selected(options.engines)  # refuses unknown names before anything is measured
    folder = options.data_dir or Path("data") / "mnist"
    study = reproduce.make(options.study, options.epochs, [options.seed], folder)
    places = Places(folder, study.dataset, options.results_dir, options.checkpoint_dir)
    finished = dict(_finished(study.runs, places))
    if not finished:
        raise StudyError(
            f"no finished run of {options.study} has its last.pt in {places.checkpoints}: train "
            "them by reproduce.py, in folders named by --results-dir and --checkpoint-dir, which "
            "this command takes as well"
        )
    chosen = best_of_each_width(finished)
    data_set = data.load(folder, study.dataset)
    with tempfile.TemporaryDirectory() as scratch:
        networks = []
        for one in chosen:
            path = Path(scratch) / f"{one.label}.npz"
            exported(one, places.checkpoints / one.name / "last.pt", data_set).save(path)
            networks.append(Measured(one.label, path, dense=not any(one.recipe.l1)))
        split = data.split(len(data_set.x_train), study.runs[0].recipe.validation, options.seed)
        rows = split.validation[:CALIBRATION_ROWS]
        found = process.fresh(
            measure,
            networks,
            (data_set.x_train[rows], data_set.y_train[rows]),
            (data_set.x_test, data_set.y_test),
            tuple(options.rows),
            tuple(options.engines),
            options.seconds,
            threads=1,
        )
    for one in chosen:
        entry = found["networks"][one.label]
        trained = finished[one]["error"]
        if abs(entry["error"] - trained) > 0.001:
            raise StudyError(f"{one.name} has an error of {entry['error']}, in training {trained}")
        entry["validation_error"] = rounded(finished[one]["validation_error"])
    result = {
        "format": FORMAT,
        "study": options.study,
        "seed": options.seed,
        "epochs": chosen[0].recipe.epochs,
        "machine": machine_name(),
        "versions": {"lrgate": lrgate.__version__} | found["versions"],
        "left_out": found["left_out"],
        "rows": list(options.rows),
        "networks": found["networks"],
    }
    path = options.results_dir / "speed" / f"{options.study}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_result(path, result)
    print(path)


def _finished(runs: Sequence[Run], places: Places) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Runs that reached the end of their recipe and have a checkpoint, with their test figures."""
    for one in runs:
        if reached(places, one) and (places.checkpoints / one.name / "last.pt").exists():
            result = read_result(places.result(one))
            assert result is not None
            yield one, result["tests"][max(result["tests"], key=int)]
        else:
            print(f"{one.name}: left out, it is not finished here")


def best_of_each_width(finished: dict[Run, dict[str, Any]]) -> list[Run]:
    """Of runs with the same widths and L1, the one with the lowest validation error."""
    best: dict[tuple[Any, ...], Run] = {}
    for one, test in finished.items():
        key = one.recipe.hidden, one.recipe.l1
        known = best.setdefault(key, one)
        if test["validation_error"] < finished[known]["validation_error"]:
            best[key] = one
    return list(best.values())


def exported(run: Run, last: Path, data_set: data.DataSet) -> Any:
    """The best epoch of a run as a network that takes raw pixels.

    Raises
    ------
    StudyError
        The checkpoint is of another recipe, or not of its last epoch.
    """
    state = read_checkpoint(last, "run")
    same = parameters(Recipe.from_json(state["recipe"])) == parameters(run.recipe)
    if not same or len(state["epochs"]) < run.recipe.epochs:
        raise StudyError(f"{last} is not the end of {run.name}: train it by reproduce.py")
    prepared = preprocess.prepare(data_set, run.recipe)
    split = data.split(len(prepared.x_train), run.recipe.validation, run.recipe.seed)
    trainer = Trainer(run.recipe, prepared, split)
    trainer.restore(state)
    return network_of(trainer.best_checkpoint({}), run.recipe)


def measure(
    networks: Sequence[Measured],
    fit: tuple[Any, Any],
    test: tuple[Any, Any],
    sizes: tuple[int, ...],
    engines: tuple[str, ...],
    seconds: float,
    threads: int = 1,
) -> dict[str, Any]:
    """Errors and times of all networks and peers, which take turns.

    ``fit`` and ``test`` are rows and labels. ``seconds`` is the time of one network in one engine,
    for each number of rows. Each turn begins with calls that are not counted. The result has an
    entry for each network, with the error and the microseconds per row (median, lower and upper
    quartile) of every engine by number of rows.
    """
    import contextlib
    import statistics

    import lrgate
    from lrgate.bench.contestants import Candidates
    from lrgate.bench.engines import selected
    from lrgate.bench.parts import Part, calls_of
    from lrgate.measure import process, timing
    from lrgate.runtime import thread_limit

    process.pin(threads)
    found: dict[str, dict[str, Any]] = {}
    forwards: dict[int, dict[tuple[str, str], Any]] = {size: {} for size in sizes}
    versions: dict[str, str] = {}
    left_out: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(thread_limit(threads))
        for network in networks:
            label = network.label
            net = lrgate.Network.load(network.path)
            parts = [Part.of(net, x, y.astype(np.int64)) for x, y in (fit, test)]
            bench = Candidates(net, *parts, threads, SETTINGS_SECONDS, progress=False)
            stack.enter_context(bench)
            print(f"{label}: optimising ...", flush=True)
            fast = lrgate.optimize(
                net, *fit, batch_sizes=sizes, input_range=(0, 255), num_threads=1, progress=False
            )
            found[label] = _described(net, fast, test[0], sizes)
            found[label] |= {"dense": network.dense, "error": bench.error_dense}
            for size in sizes:
                entry = {"error": bench.error(fast, size), "documented": True}
                found[label]["engines"].setdefault("lrgate", {})[str(size)] = entry
                forwards[size][label, "lrgate"] = fast
            if network.dense:
                bench.prepare_peers(selected(list(engines)))
            for engine in bench.peers:
                print(f"{label}: {engine.name} ...", flush=True)
                for size in sizes:
                    try:
                        settings, forward = bench.narrowed(engine, size)
                        error = bench.peer_error(engine, str(settings), forward, size)
                    except Exception as caught:  # of any package
                        reason = (str(caught).strip().splitlines() or [""])[0]
                        why = f"{type(caught).__name__}: {reason}"
                        left_out[f"{label}, {engine.name}, {size} rows"] = why
                        continue
                    entry = {"error": error, "documented": engine.documented}
                    found[label]["engines"].setdefault(engine.name, {})[str(size)] = entry
                    forwards[size][label, engine.name] = forward
            for figures in found[label]["engines"].values():
                for entry in figures.values():
                    entry["within_limit"] = entry["error"] <= bench.error_limit
            versions |= bench.versions
            left_out |= bench.left_out
        rows = parts[1].x
        for size, by_network in forwards.items():
            print(f"{size} rows per call ...", flush=True)
            candidates = {"|".join(key): forward for key, forward in by_network.items()}
            calls, whole = calls_of(rows, size), seconds * len(candidates)
            times = timing.interleaved(candidates, calls, whole, of_turn=statistics.fmean)
            for (label, engine_name), time in zip(by_network, times.values(), strict=True):
                low, high = time.quartiles()
                figures = [time.round_seconds_per_row, low / size, high / size]
                entry = found[label]["engines"][engine_name][str(size)]
                entry["us"] = rounded([1e6 * figure for figure in figures])
    return {"networks": found, "versions": versions, "left_out": left_out}


def _described(net: Any, fast: Any, x: data.U8Array, sizes: Sequence[int]) -> dict[str, Any]:
    """Widths, densities on the test rows, and the plans with their computed shares."""
    from lrgate.results.paths import path_name

    counts = np.zeros(len(net.layers) - 1)
    for first in range(0, len(x), 500):
        hidden = net.layer_inputs(x[first : first + 500])[1:]
        counts += [np.count_nonzero(each) for each in hidden]
    widths = [layer.outputs for layer in net.layers[:-1]]
    plans = {}
    for size in sizes:
        batch = next(each for each in fast.report.batches if each.rows == size)
        plans[str(size)] = [
            [path_name(layer.strategy, layer.precision, layer.rank), rounded(layer.computed_share)]
            for layer in batch.layers
        ]
    return {
        "hidden": widths,
        "density": rounded([float(c / w / len(x)) for c, w in zip(counts, widths, strict=True)]),
        "plans": plans,
        "engines": {},
    }


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("study", choices=STUDIES)
    add("--data-dir", type=Path, help="folder with the data set (default: data/mnist)")
    add("--seed", type=int, default=1, help="of the runs (default: %(default)s)")
    add("--epochs", type=int, help="of the runs (default: as in reproduce.py)")
    add("--rows", type=int, nargs="+", default=ROWS, metavar="N", help="rows per call")
    add(
        "--engines",
        nargs="+",
        default=PEERS,
        metavar="NAME",
        help=f"beginnings of the peers' names (default: {', '.join(PEERS)})",
    )
    add(
        "--seconds",
        type=float,
        default=1.0,
        help="of each network and engine, for each number of rows (default: %(default)s)",
    )
    reproduce.add_folders(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

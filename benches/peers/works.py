"""The networks that engines are compared on, with real rows where there are any.

    python benches/peers/works.py --data-dir data --runs-dir training/runs/peers

prints each network's test error, and the densities that decide how much can be skipped. A
network that is not in ``--runs-dir`` yet is trained by the recorded command, which takes from
seconds (tasks.py) to many minutes (wide); an interrupted training continues. ``--data-dir`` has the
folders mnist, fashion-mnist and svhn, each as training/README.md says.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tasks import TASKS, fitted

import lrgate

sys.path.append(str(Path(__file__).resolve().parents[2] / "training"))

import data

TRAINING = Path(data.__file__).parent
FIT_ROWS = 10_000
NETWORK = "network.npz"

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Work:
    """A network as training left it, and the rows that it is fitted, timed and judged on.

    Attributes
    ----------
    net : Network
        In f32, dense, without gates, quantisation or left-out units.
    fit_x, test_x : arrays (n, d)
        Raw rows as callers have them, uint8 where `uint8`, else float32. `fit_x` is at most
        10,000 rows for calibration; of images those held out of training, then training rows.
        `test_x` is timed and judged on.
    fit_y, test_y : int64 arrays (n,), float32 arrays (n, k) or None
        True labels or values, where there are any.
    command : str
        The command that made the network.
    """

    name: str
    title: str
    net: lrgate.Network
    fit_x: npt.NDArray[Any]
    fit_y: npt.NDArray[Any] | None
    test_x: npt.NDArray[Any]
    test_y: npt.NDArray[Any] | None
    uint8: bool
    command: str


@dataclass(frozen=True)
class Training:
    """A network of images that training/train.py makes.

    It has the data's folder, the options, and how many pixels and rows they pad and hold out.
    """

    title: str
    folder: str
    options: str
    pad: int = 0
    held_out: int = 10_000


TRAININGS = {
    "paper": Training("MNIST, network of the paper", "mnist", "--preset paper --epochs 17"),
    "fashion": Training("Fashion-MNIST", "fashion-mnist", "--preset paper --epochs 17"),
    "svhn": Training("SVHN subset", "svhn", "--preset svhn", held_out=1_500),
    "svhn-sparse": Training(
        "SVHN subset, trained to be sparse",
        "svhn",
        "--preset svhn --init-std 0.03 --l1 0.005 0.001 0.001 0.001 --l1-ramp 30",
        held_out=1_500,
    ),
    "wide": Training("MNIST, padded, wide", "mnist", "--preset wide", pad=2),
    "deep": Training(
        "MNIST, deep and narrow",
        "mnist",
        "--preset paper --hidden 256 256 256 256 --epochs 17",
    ),
}
NAMES = ("shipped", *TRAININGS, *TASKS, "dense")


def works(data_dir: Path, runs_dir: Path, names: Sequence[str] | None = None) -> Iterator[Work]:
    """Yield the networks named, all by default, each when it is asked for.

    Parameters
    ----------
    data_dir : Path
        Folder of the data sets' folders.
    runs_dir : Path
        Holds ``{name}/network.npz`` of each trained network; a missing one is trained.
    names : sequence of str, optional
        Of `NAMES`, in the order wanted.

    Raises
    ------
    ValueError
        For an unknown name, or a network in `runs_dir` that other options or data made.
    data.DataError
        If data is missing or damaged.
    RuntimeError
        If training fails; the message names its log.
    ImportError
        For a network of tasks.py without scikit-learn.
    """
    for name in NAMES if names is None else names:
        if name in TRAININGS:
            yield _trained(name, data_dir, runs_dir / name)
        elif name == "shipped":
            yield _shipped(data_dir)
        elif name in TASKS:
            yield _of_task(name, runs_dir / name)
        elif name == "dense":
            yield _dense()
        else:
            raise ValueError(f"names must be of {', '.join(NAMES)}, got {name!r}")


def error(net: lrgate.Network, work: Work) -> float | None:
    """The share of wrong labels on the test rows, or the squared error over the variance.

    None where there are no true labels or values.
    """
    if work.test_y is None:
        return None
    found = net.predict(work.test_x)
    if net.task == "classification":
        return float(np.mean(found != work.test_y))
    return float(np.square(found - work.test_y).mean() / work.test_y.var(axis=0).mean())


def densities(work: Work) -> list[float]:
    """The density of every layer's input on the test rows; the first, of the raw rows."""
    inputs = [work.test_x, *work.net.layer_inputs(work.test_x)[1:]]
    return [float(np.mean(x != 0)) for x in inputs]


def _shipped(data_dir: Path) -> Work:
    net = lrgate.examples.mnist()[0]
    plain = lrgate.Network.from_layers(
        [(layer.weight, layer.bias) for layer in net.layers],
        task=net.task,
        input_scale=net.input_scale,
        input_shift=net.input_shift,
    )
    rows = data.load(data_dir / "mnist", "mnist")
    plain = plain.with_metadata(net.metadata)
    return _of_images("shipped", "MNIST, shipped network", plain, rows, held_out=10_000)


def _trained(name: str, data_dir: Path, run: Path) -> Work:
    training = TRAININGS[name]
    folder = data_dir / training.folder
    rows = data.load(folder)
    if not (run / NETWORK).exists():
        _train(training, folder, run)
    net = lrgate.Network.load(run / NETWORK)
    made_by = net.metadata["command"]
    if f"{training.options} --data-dir" not in made_by:
        raise ValueError(f"{run / NETWORK} was made by {made_by!r}, not by {training.options!r}")
    if net.metadata["data"]["md5"] != rows.checksums:
        raise ValueError(f"{run / NETWORK} was trained on other data than {folder} holds")
    padded = data.pad(rows, training.pad)
    return _of_images(name, training.title, net, padded, training.held_out)


def _train(training: Training, folder: Path, run: Path) -> None:
    """Train and export in a separate process; an interrupted run continues."""
    run.mkdir(parents=True, exist_ok=True)
    log = run / "train.log"
    command = [
        *(sys.executable, str(TRAINING / "train.py"), *shlex.split(training.options)),
        *("--data-dir", str(folder), "--out-dir", str(run)),
        *("--export", str(run / NETWORK), "--export-estimator", "none"),
        *(["--resume"] if (run / "last.pt").exists() else []),
    ]
    print(f"training {run.name}: {log} shows how far it is", file=sys.stderr)
    with log.open("a") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"training {run.name} failed: see {log}")


def _of_images(
    name: str, title: str, net: lrgate.Network, rows: data.DataSet, held_out: int
) -> Work:
    held_out = min(held_out, len(rows.x_train) - 1)
    split = data.split(len(rows.x_train), held_out, net.metadata["seed"])
    draw = np.random.default_rng(0)
    order = np.concatenate([split.validation, draw.permutation(split.train)])[:FIT_ROWS]
    order = draw.permutation(order)
    return Work(
        name,
        _titled(title, net),
        net,
        rows.x_train[order],
        rows.y_train[order].astype(np.int64),
        np.ascontiguousarray(rows.x_test),
        rows.y_test.astype(np.int64),
        uint8=True,
        command=net.metadata["command"],
    )


def _of_task(name: str, run: Path) -> Work:
    """A network trained for one of `TASKS` on three quarters of its rows, judged on the others."""
    from sklearn.model_selection import train_test_split

    task = TASKS[name]()
    fit_x, test_x, fit_y, test_y = train_test_split(task.x, task.y, random_state=0)
    command = _command(name)
    if not (run / NETWORK).exists():
        run.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # trained for a set time, not until convergence
            net = fitted(replace(task, x=fit_x, y=fit_y))
        net.with_metadata({"command": command}).save(run / NETWORK)
    net = lrgate.Network.load(run / NETWORK)
    fit_x, fit_y = fit_x[:FIT_ROWS], fit_y[:FIT_ROWS]
    title = _titled(task.title, net)
    return Work(name, title, net, fit_x, fit_y, test_x, test_y, uint8=False, command=command)


def _dense(sizes: tuple[int, ...] = (512, 1024, 1024, 10), rows: int = FIT_ROWS) -> Work:
    """Random weights with biases so large that every unit is on: there is nothing to skip."""
    rng = np.random.default_rng(0)
    fit_x, test_x = rng.normal(size=(2, rows, sizes[0])).astype(np.float32)
    layers = []
    activation = fit_x
    for inputs, outputs in itertools.pairwise(sizes):
        weight = rng.normal(scale=inputs**-0.5, size=(outputs, inputs)).astype(np.float32)
        z = activation @ weight.T
        # Standard deviations are about 1, so that a unit that is on by 2 on the fit rows is always.
        bias = 2 - z.min(axis=0)
        layers.append((weight, bias))
        activation = z + bias
    layers[-1] = (layers[-1][0], -z.mean(axis=0))
    net = lrgate.Network.from_layers(layers, task="classification")
    title = _titled("Random, all units on", net)
    command = _command("dense")
    return Work("dense", title, net, fit_x, None, test_x, None, uint8=False, command=command)


def _titled(title: str, net: lrgate.Network) -> str:
    widths = (net.input_size, *(layer.outputs for layer in net.layers))
    return f"{title}, {'-'.join(map(str, widths))}"


def _command(name: str) -> str:
    return f"python benches/peers/works.py --names {name}"


def main() -> None:
    parser = argparse.ArgumentParser(description="The networks that engines are compared on.")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--runs-dir", type=Path, default=Path("training/runs/peers"))
    parser.add_argument("--names", nargs="*", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--cpu", type=int, help="keep everything on this CPU (Linux)")
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    for work in works(options.data_dir, options.runs_dir, options.names or None):
        wrong = error(work.net, work)
        print(f"{work.name}: {work.title}")
        print(f"  {work.command}")
        print(f"  {len(work.fit_x)} fit rows, {len(work.test_x)} test rows, {work.test_x.dtype}")
        print(f"  test error {'unknown: no labels' if wrong is None else f'{wrong:.2%}'}")
        print("  density of the layers' inputs", *(f"{share:.3f}" for share in densities(work)))


if __name__ == "__main__":
    main()

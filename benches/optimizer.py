"""The gains of `lrgate.optimize`: ``python benches/optimizer.py EXPERIMENT --data-dir data/mnist``.

seeds    the paper's MNIST network, five seeds, trained without regard to lrgate: error and time of
         the optimised network against dense and against the best exact plan
ranks    the first seed at the paper's ranks: test error and lost energy of each estimator, with and
         without fitted thresholds, at equal computed shares
random   a network with nothing to gain: its plan and its time over dense
orders   the first seed's hidden layers: groups of units that are on before and after ordering
wide     1024-4096-4096-10 on MNIST padded to 32 x 32: time over its own dense and ONNX Runtime's

Networks are trained where ``--runs-dir`` does not hold them yet (about two minutes for one of the
paper's, twenty for the wide one). Calibration rows are training rows; the test rows are looked at
once, at the end. One thread; ``--cpu N`` keeps everything on that CPU (Linux).
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import lrgate
from lrgate import estimators
from lrgate.bench import engines
from lrgate.measure import timing
from lrgate.planner import units
from lrgate.results.paths import path_name

TRAINING = Path(__file__).resolve().parent.parent / "training"
sys.path.insert(0, str(TRAINING))

import data  # noqa: E402  (training/ is no package)

SEEDS = (1, 2, 3, 4, 5)
RANKS = ((50, 35, 25), (25, 25, 25), (15, 10, 5), (10, 10, 5))
SIZES = (1, 64, 1024)
CALIBRATION_ROWS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    experiments = {"seeds": seeds, "ranks": ranks, "random": random, "orders": orders, "wide": wide}
    parser.add_argument("experiment", choices=experiments)
    parser.add_argument("--data-dir", type=Path, default=Path("data/mnist"))
    parser.add_argument("--runs-dir", type=Path, default=Path("training/runs"))
    parser.add_argument(
        "--precision",
        choices=["f32", "auto", "int8"],
        default="f32",
        help="of the optimised networks; plans without gates have the same (default: %(default)s)",
    )
    parser.add_argument("--cpu", type=int, help="keep everything on this CPU")
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    lrgate.set_num_threads(1)
    for name, value in timing.machine().items():
        print(f"{name:<16} {value}")
    experiments[options.experiment](options)


# --- the experiments ------------------------------------------------------------------------------


def seeds(options: argparse.Namespace) -> None:
    """The paper's network, trained without regard to lrgate."""
    print("\n784-1000-600-400-10, L1 1e-5; test errors of 10,000 rows, microseconds per row")
    print("seed  rows  plan of the layers         error %         dense  exact    now  over exact")
    best = 0.0
    for seed in SEEDS:
        net = trained(options, f"paper-{seed}", "--preset paper --epochs 17", seed)
        rows = data.load(options.data_dir)
        fast = optimized(options, net, rows.x_train, rows.y_train, seed)
        assert fast.report is not None
        before = error(net.dense(), rows.x_test, rows.y_test, 1024)
        for batch in fast.report.batches:
            after = error(fast, rows.x_test, rows.y_test, batch.rows)
            plan = "/".join(named(layer) for layer in batch.layers)
            print(
                f"{seed:>4} {batch.rows:>5}  {plan:<25} {100 * before:5.2f} to "
                f"{100 * after:5.2f}"
                f" {batch.seconds_dense * 1e6:8.2f} {batch.seconds_exact * 1e6:6.2f}"
                f" {batch.seconds_after * 1e6:6.2f}  {batch.over_exact}"
            )
            gated = any(layer.strategy == "gate" for layer in batch.layers)
            if gated and batch.rows == 1:
                best = max(best, batch.over_exact.median)
        worst = max(error(fast, rows.x_test, rows.y_test, n) for n in SIZES) - before
        print(
            f"      largest increase {100 * worst:+.2f} points, optimised in"
            f" {fast.report.seconds:.0f} s"
        )
    print(f"one row, where gate is chosen: at best {best:.2f} times as fast as the best exact plan")


def ranks(options: argparse.Namespace) -> None:
    """Estimators at the paper's ranks, each with and without fitted thresholds."""
    net = trained(options, "paper-1", "--preset paper --epochs 17", 1)
    rows = data.load(options.data_dir)
    order = np.random.default_rng(0).permutation(len(rows.x_train))
    fit = net.layer_inputs(rows.x_train[order[:4000]])
    tune = net.layer_inputs(rows.x_train[order[4000:6000]])
    test = net.layer_inputs(rows.x_test)
    dense = error(net.dense(), rows.x_test, rows.y_test, 1024)
    print(
        "\n784-1000-600-400-10, all three hidden layers gated; "
        f"dense test error {100 * dense:.2f} %"
    )
    print("each gate computes the share of units that whitened does at threshold 0")
    print("ranks     estimator  thresholds   error %   computed share     lost energy")
    for of_layers in RANKS:
        shares = [
            estimators.evaluate(
                layer, estimators.whitened(layer, x).gate(rank), held
            ).computed_share
            for layer, x, held, rank in zip(net.layers, fit, tune, of_layers, strict=False)
        ]
        for name in ("svd", "whitened", "logistic"):
            for fitted in (False, True):
                gates = {}
                for i, (rank, share) in enumerate(zip(of_layers, shares, strict=True)):
                    gate = fits(name, net.layers[i], fit[i], rank)
                    gates[i] = at_share(net.layers[i], gate, tune[i], share, fitted)
                gated = net.with_gates(gates)
                reports = [
                    estimators.evaluate(net.layers[i], gate, test[i]) for i, gate in gates.items()
                ]
                print(
                    f"{'-'.join(map(str, of_layers)):<9} {name:<10} "
                    f"{'fitted' if fitted else 'one':<9}"
                    f" {100 * error(gated, rows.x_test, rows.y_test, 1024):9.2f}   "
                    + " ".join(f"{report.computed_share:.3f}" for report in reports)
                    + "   "
                    + " ".join(f"{report.lost_energy:.4f}" for report in reports)
                )


def random(options: argparse.Namespace) -> None:
    """A network with nothing to gain: random weights, half of each layer's units on."""
    rng = np.random.default_rng(0)
    widths = (256, 512, 512, 10)
    layers = [
        (rng.normal(0, d**-0.5, (h, d)).astype(np.float32), np.zeros(h, np.float32))
        for d, h in itertools.pairwise(widths)
    ]
    net = lrgate.Network.from_layers(layers, task="classification")
    x = rng.normal(size=(CALIBRATION_ROWS, widths[0])).astype(np.float32)
    fast = lrgate.optimize(net, x, num_threads=1, batch_sizes=SIZES, precision=options.precision)
    print(f"\n{'-'.join(map(str, widths))}, random weights and rows")
    print(fast.report)
    for size in SIZES:
        times = race({"dense": net.dense(), "optimised": fast}, x, size)
        ratio = times["optimised"].speed_up_over(times["dense"])
        print(f"{size:>5} rows: {ratio} times as fast as plain dense")


def orders(options: argparse.Namespace) -> None:
    """The effect of an order of units on the groups that are on, and on skip."""
    net = trained(options, "paper-1", "--preset paper --epochs 17", 1)
    rows = data.load(options.data_dir)
    chosen = np.random.default_rng(0).permutation(len(rows.x_train))[:4000]
    fit, test = net.layer_inputs(rows.x_train[chosen]), net.layer_inputs(rows.x_test)
    found = {i: units.co_activation_order(x != 0) for i, x in enumerate(fit[1:])}
    print("\nlayer  units on  groups of 4 on        groups of 16 on       (test rows)")
    for i, order in found.items():
        on = test[i + 1] != 0
        shares = " ".join(
            f"{in_groups(on, size):8.3f} to {in_groups(on[:, order], size):5.3f}    "
            for size in (4, 16)
        )
        print(f"{i:>5} {on.mean():9.3f}  {shares}")
    for precision in ("f32", "int8"):
        plain = net.quantize(rows.x_train[chosen]) if precision == "int8" else net
        skip = ["skip"] * len(net.layers)
        plans = {
            "as it was": plain.with_strategies(skip, precision),
            "ordered": plain.with_units(found).with_strategies(skip, precision),
        }
        for size in (1, 256):
            times = race(plans, rows.x_test, size)
            ratio = times["ordered"].speed_up_over(times["as it was"])
            print(f"skip in {precision}, {size:>3} rows: {ratio} times as fast ordered")


def in_groups(on: npt.NDArray[np.bool_], size: int) -> float:
    """Share of groups of `size` neighbouring units of which one or more is on."""
    padded = np.pad(on, ((0, 0), (0, -on.shape[1] % size)))
    return float(padded.reshape(len(on), -1, size).any(axis=2).mean())


def wide(options: argparse.Namespace) -> None:
    """1024-4096-4096-10, trained on MNIST padded to 32 x 32."""
    net = trained(options, "wide", "--preset wide", 1)
    rows = data.pad(data.load(options.data_dir), 2)
    fast = optimized(options, net, rows.x_train, rows.y_train, 1, (1, 256))
    print(f"\n{fast.report}\n")
    before = error(net.dense(), rows.x_test, rows.y_test, 1024)
    x = rows.x_test.astype(np.float32)
    peer = engines.make(engines.by_name("ORT f32"), net, x)
    for size in (1, 256):
        after = error(fast, rows.x_test, rows.y_test, size)
        times = race({"dense": net.dense(), "optimised": fast, "ORT f32": peer}, x, size)
        print(
            f"{size:>4} rows: test error {100 * before:.2f} to {100 * after:.2f} %; "
            f"{times['optimised'].seconds_per_row * 1e6:.1f} us per row, "
            f"{times['optimised'].speed_up_over(times['dense'])} times as fast as dense "
            f"({times['dense'].seconds_per_row * 1e6:.0f} us), "
            f"{times['optimised'].speed_up_over(times['ORT f32'])} as ONNX Runtime f32 "
            f"({times['ORT f32'].seconds_per_row * 1e6:.0f} us)"
        )


# --- parts ----------------------------------------------------------------------------------------


def trained(options: argparse.Namespace, name: str, recipe: str, seed: int) -> lrgate.Network:
    """The network of a run, trained and exported without gates if it is not there."""
    run = options.runs_dir / name
    path = run / "network.npz"
    if not (run / "best.pt").exists():
        print(f"training {name} ...", flush=True)
        script([TRAINING / "train.py", *recipe.split(), "--seed", seed], run, options)
    if not path.exists():
        checkpoint = ["--checkpoint", run / "best.pt", "--out", path, "--estimator", "none"]
        script([TRAINING / "export.py", *checkpoint], None, options)
    return lrgate.Network.load(path)


def script(arguments: list[Any], out: Path | None, options: argparse.Namespace) -> None:
    where = ["--data-dir", options.data_dir, *(["--out-dir", out, "--overwrite"] if out else [])]
    command = [sys.executable, *map(str, arguments), *map(str, where)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def optimized(
    options: argparse.Namespace,
    net: lrgate.Network,
    x: npt.NDArray[np.uint8],
    y: npt.NDArray[Any],
    seed: int,
    sizes: tuple[int, ...] = SIZES,
) -> lrgate.Network:
    chosen = np.random.default_rng(seed).permutation(len(x))[:CALIBRATION_ROWS]
    rows = x[chosen].astype(np.float32)
    return lrgate.optimize(
        net,
        rows,
        y[chosen],
        batch_sizes=sizes,
        precision=options.precision,
        num_threads=1,
        seed=seed,
    )


def error(net: lrgate.Network, x: npt.NDArray[Any], y: npt.NDArray[Any], rows: int) -> float:
    """Share of wrong labels in calls of `rows` rows."""
    calls = [x[at : at + rows] for at in range(0, len(x), rows)]
    return float((np.concatenate([net.predict(call) for call in calls]) != y).mean())


def named(layer: lrgate.results.LayerReport) -> str:
    return path_name(layer.strategy, layer.precision, layer.rank)


def fits(name: str, layer: lrgate.Layer, x: npt.NDArray[Any], rank: int) -> lrgate.Gate:
    if name == "logistic":
        return estimators.logistic(layer, x, [rank]).gate(rank)
    fit = estimators.svd(layer) if name == "svd" else estimators.whitened(layer, x)
    return fit.gate(rank)


def at_share(
    layer: lrgate.Layer, gate: lrgate.Gate, x: npt.NDArray[Any], share: float, fitted: bool
) -> lrgate.Gate:
    """The gate with a computed share of `share` on `x`, by one threshold or by one per unit."""
    if fitted:
        return estimators.fit_thresholds(layer, gate, x, computed_share=share)
    scores = x @ gate.u @ gate.v + gate.bias
    return lrgate.Gate(gate.u, gate.v, gate.bias - np.quantile(scores, 1 - share).astype("f4"))


def race(
    contestants: dict[str, Callable[[Any], Any]], x: npt.NDArray[Any], size: int
) -> dict[str, timing.Timing]:
    return timing.interleaved(contestants, timing.batches(x, size), 4.0)


if __name__ == "__main__":
    main()

"""How time grows with width, depth, density, rank and rows: ``python benches/peers/growth.py``.

Each curve changes one number of a network with 256 inputs, hidden layers of equal width, and 10
outputs. A row switches on some 64 units in each hidden layer, unless the density changes. One
thread; all engines take turns in every round, in calls of one row and of 256.

A hidden layer's weight is a random matrix of the gate's rank and noise of `NOISE` times its size,
``W = U V + N``. So the factors of a gate are known without a fit, at any width. The gate works
like any other: it scores units by ``x u v + c``, and is wrong where the noise decides. Its recall
and the share of units it computes are measured on rows that chose no bias; a recall of
`LEAST_RECALL` or less ends the run.

In networks of many random layers a row of a little more activity than others switches on more units
in each layer, until a few rows have it all. So in the curve of depth rows are of as many kinds as
the rank, and each kind switches on 64 units of its own in each layer.

``--cpu N`` keeps everything on that CPU (Linux). The run writes growth.json and a picture for each
curve into ``--results``; ``--draw`` only draws the pictures, from growth.json. ONNX Runtime is left
out where it is not installed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import lrgate
from lrgate.bench import engines
from lrgate.files.atomic import replacing
from lrgate.measure import timing

ROOT = Path(__file__).resolve().parents[2]
NOISE = 0.1
MARGIN = 0.1
"""How far below its switching point a unit's score may be that is computed; z has deviation 1."""
CALIBRATION_ROWS = 1024
OTHER_ROWS = 8192
JUDGED_ROWS = 256
LEAST_RECALL = 0.8
PEER = "ONNX Runtime f32"
BATCH_SIZES = (1, 256)
AXES = {
    "width": "width of the hidden layers",
    "depth": "layers, with the output",
    "density": "density of the inputs of every layer",
    "rank": "rank of the gates",
    "rows": "rows per call",
}
WIDEST_PEER = 8192
"""ONNX Runtime holds a weight several times while it loads; 16,384 squared is 1 GiB once."""

COLOURS = {"dense": "tab:blue", "skip": "tab:orange", "gate": "tab:green", "ONNX Runtime": "grey"}

Float32Array = npt.NDArray[np.float32]
Call = Callable[[Float32Array], Any]


@dataclass(frozen=True)
class Shape:
    """Sizes of a network of `layers`, including the output; `density` is that of hidden units."""

    width: int = 2048
    layers: int = 3
    density: float = 64 / 2048
    rank: int = 32
    inputs: int = 256
    input_density: float = 1.0
    kinds: bool = False


def _powers(first: int, last: int) -> list[int]:
    """The powers of 2 from one to another."""
    return [1 << i for i in range(first.bit_length() - 1, last.bit_length())]


def curves() -> dict[str, list[tuple[float, Shape]]]:
    """By the name of the quantity that changes: its values, and the network of each."""
    base = Shape()
    return {
        "width": [
            (width, replace(base, width=width, density=64 / width)) for width in _powers(256, 16384)
        ],
        "depth": [
            (layers, replace(base, width=1024, layers=layers, density=64 / 1024, kinds=True))
            for layers in _powers(2, 32)
        ],
        "density": [
            (density, replace(base, density=density, input_density=density))
            for density in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
        ],
        "rank": [(rank, replace(base, rank=rank)) for rank in _powers(4, 256)],
        "rows": [(rows, base) for rows in _powers(1, 8192)],
    }


def network(shape: Shape) -> tuple[lrgate.Network, Float32Array, Float32Array]:
    """A network with gates in its hidden layers, calibration rows, and others to run it on."""
    rng = np.random.default_rng(0)
    hidden = shape.layers - 1
    # Where biases are chosen each layer has rows of its own, which chose none before it.
    count = CALIBRATION_ROWS * (1 if shape.kinds else hidden)
    x = rng.standard_normal((count + OTHER_ROWS, shape.inputs), np.float32)
    x *= rng.random(x.shape, np.float32) < shape.input_density
    kinds = None
    if shape.kinds:
        kinds = rng.integers(shape.rank, size=len(x))
        x *= NOISE
        x += rng.standard_normal((shape.rank, shape.inputs), np.float32)[kinds]
    activation = x[:count]
    layers = []
    for _ in range(hidden):
        layer = _hidden(rng, activation[:CALIBRATION_ROWS], shape, kinds)
        layers.append(layer)
        if not shape.kinds:
            activation = activation[CALIBRATION_ROWS:]
        activation = np.maximum(activation @ layer.weight.T + layer.bias, 0)
    weight = rng.standard_normal((10, shape.width), np.float32)
    layers.append(lrgate.Layer(weight, np.zeros(10), lrgate.Activation("identity")))
    return lrgate.Network.from_layers(layers), x[:CALIBRATION_ROWS], x[count:]


def _hidden(
    rng: np.random.Generator,
    x: Float32Array,
    shape: Shape,
    kinds: npt.NDArray[np.int64] | None,
) -> lrgate.Layer:
    """A layer of which each unit is on for the wanted share of such rows as `x`.

    Where rows are of `kinds`, as many as the rank, each kind switches on units of its own.
    """
    inputs = x.shape[1]
    rank = min(shape.rank, inputs, shape.width)
    if kinds is None:
        u = rng.standard_normal((inputs, rank), np.float32)
        v = rng.standard_normal((rank, shape.width), np.float32)
        v /= (x @ u @ v).std(axis=0)
    else:
        of_row = kinds[: len(x)]
        u = np.linalg.pinv(np.stack([x[of_row == kind].mean(axis=0) for kind in range(rank)]))
        order = rng.random((rank, shape.width), np.float32).argsort(axis=1)
        v = np.where(order < shape.density * shape.width, 1, -1).astype(np.float32)
    noise = rng.standard_normal((shape.width, inputs), np.float32)
    noise *= NOISE / (x @ noise.T).std(axis=0)[:, None]
    # The mean row's score is exact, as in estimators.whitened.
    mean = noise @ x.mean(axis=0)
    weight = noise
    weight += v.T @ u.T
    bias = -_exceeded(x @ weight.T, shape.density) if kinds is None else -mean
    gate = lrgate.Gate(u, v, bias + mean + MARGIN)
    return lrgate.Layer(weight, bias, lrgate.Activation("relu"), gate)


def _exceeded(values: Float32Array, share: float) -> Float32Array:
    """The value that a new row exceeds in each column with this probability."""
    if share == 1:
        return values.min(axis=0) - 3
    return np.quantile(values, 1 - share, axis=0, method="weibull").astype(np.float32)


def candidates(
    net: lrgate.Network, calibration: Float32Array, *, peer: bool = True
) -> dict[str, Call]:
    """lrgate's strategies in f32 and int8, the whole network in one of them, and the peer."""
    hidden = len(net.layers) - 1
    plans = {
        "dense": ["dense"] * (hidden + 1),
        "skip": ["skip"] * (hidden + 1),
        "gate": ["gate"] * hidden + ["skip"],
    }
    int8 = net.quantize(calibration)
    made: dict[str, Call] = {
        f"{name} {precision}": source.with_strategies(plan, precision)
        for precision, source in (("f32", net), ("int8", int8))
        for name, plan in plans.items()
    }
    if peer:
        try:
            made[PEER] = engines.make(engines.by_name("ORT f32"), net, calibration)
        except ImportError as error:
            print(f"{PEER}: left out, {error}")
    return made


def judge(calls: dict[str, Call], x: Float32Array) -> dict[str, dict[str, Any]]:
    """Accuracy of each engine on these rows; refuses wrong outputs and gates that miss much.

    Returns
    -------
    dict by engine
        ``difference``: squared difference of its outputs from the dense ones, over these squared.
        Of lrgate's, ``multiply_adds`` a row; of gates, the least ``recall`` of a hidden layer, and
        ``computed``, the mean share of hidden units computed.
    """
    x = x[:JUDGED_ROWS]
    dense = calls["dense f32"](x)
    found: dict[str, dict[str, Any]] = {}
    for name, call in calls.items():
        difference = float(np.sum(np.square(call(x) - dense)) / np.sum(np.square(dense)))
        found[name] = {"difference": difference}
        if "gate" not in name and "int8" not in name and not difference < 1e-6:
            raise RuntimeError(f"{name}: squared difference {difference:.3g} from dense")
        if not isinstance(call, lrgate.Network):
            continue
        layers = call.profile(x, seconds=0).layers
        found[name]["multiply_adds"] = sum(
            layer.flop_share * layer.inputs * layer.outputs for layer in layers
        )
        if "gate" in name:
            gated = [layer for layer in layers if layer.strategy == "gate"]
            found[name]["recall"] = recall = min(layer.recall or 0.0 for layer in gated)
            found[name]["computed"] = float(np.mean([layer.computed_share for layer in gated]))
            if not recall > LEAST_RECALL:
                raise RuntimeError(f"{name}: a layer's recall is {recall:.3f}")
    return found


def measure(
    points: Sequence[tuple[float, Shape]], batch_sizes: Sequence[int] | None, seconds: float
) -> list[dict[str, Any]]:
    """Time every network of a curve in calls of these many rows; None: of as many as its value.

    Returns
    -------
    list of dict
        For each value and batch size: ``value``, ``rows``, ``shape``, ``cpu_share``, which is how
        much of the time this process ran, and by engine in ``engines`` the result of `judge`,
        ``seconds`` a row and its ``quartiles``.
    """
    measured = []
    for shape, same in itertools.groupby(points, key=lambda point: point[1]):
        net, calibration, x = network(shape)
        calls = candidates(net, calibration, peer=shape.width <= WIDEST_PEER)
        del net
        judged = judge(calls, x)
        for value, _ in same:
            for rows in batch_sizes or [int(value)]:
                wall, own = time.perf_counter(), time.process_time()
                times = timing.interleaved(calls, timing.batches(x, rows), seconds)
                share = (time.process_time() - own) / (time.perf_counter() - wall)
                engines = {
                    name: judged[name]
                    | {
                        "seconds": taken.seconds_per_row,
                        "quartiles": [quartile / rows for quartile in taken.quartiles()],
                    }
                    for name, taken in times.items()
                }
                measured.append(
                    {
                        "value": value,
                        "rows": rows,
                        "shape": asdict(shape),
                        "cpu_share": min(share, 1.0),
                        "engines": engines,
                    }
                )
                fastest = min(times, key=lambda name: times[name].seconds_per_row)
                print(f"  {value:g}, {rows} rows: {fastest} is the fastest", flush=True)
        calls.clear()  # before the next network takes memory
    return measured


def run(seconds: float) -> dict[str, Any]:
    """Measure all curves, `seconds` for each value and batch size."""
    results: dict[str, Any] = {
        "machine": timing.machine() | engines.versions(),
        "seconds": seconds,
        "noise": NOISE,
        "least_recall": LEAST_RECALL,
        "widest_peer": WIDEST_PEER,
        "curves": {},
    }
    for name, points in curves().items():
        print(name, flush=True)
        sizes = None if name == "rows" else BATCH_SIZES
        results["curves"][name] = measure(points, sizes, seconds)
    return results


@dataclass(frozen=True)
class Line:
    """One engine's values in one batch size; `rows` is None in the curve of rows."""

    engine: str
    rows: int | None
    values: list[float]
    seconds: list[float]
    multiply_adds: list[float]

    @property
    def exponent(self) -> float:
        """Of the power of the value that time grows with, where work outgrows overhead."""
        return _exponent(self.values, self.seconds)

    @property
    def work_exponent(self) -> float | None:
        """The same of multiply-adds; None for other engines', which are not counted."""
        return _exponent(self.values, self.multiply_adds) if self.multiply_adds else None


def _exponent(values: list[float], amounts: list[float]) -> float:
    """The slope of the least-squares line in logarithms over the upper half of the values."""
    upper = max(3, (len(values) + 1) // 2)
    return float(np.polyfit(np.log(values[-upper:]), np.log(amounts[-upper:]), 1)[0])


def lines(results: dict[str, Any], curve: str) -> list[Line]:
    """The lines of a curve: by batch size, then by engine."""
    points = results["curves"][curve]
    found = []
    for rows in [None] if curve == "rows" else sorted({point["rows"] for point in points}):
        chosen = [point for point in points if rows in (None, point["rows"])]
        for engine in chosen[0]["engines"]:
            with_it = [point for point in chosen if engine in point["engines"]]
            of = [point["engines"][engine] for point in with_it]
            found.append(
                Line(
                    engine,
                    rows,
                    [point["value"] for point in with_it],
                    [one["seconds"] for one in of],
                    [one["multiply_adds"] for one in of if "multiply_adds" in one],
                )
            )
    return found


def draw(results: dict[str, Any], folder: Path) -> None:
    """Write ``growth-{curve}.svg`` for each curve: time per row, both axes logarithmic."""
    from pictures import plt, save

    for curve in results["curves"]:
        all_lines = lines(results, curve)
        panels = list(dict.fromkeys(line.rows for line in all_lines))
        size = (7 * len(panels), 4.6)
        figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
        for axis, rows in zip(axes[0], panels, strict=True):
            _panel(axis, curve, rows, all_lines, exponents=True)
            title = "exponent, upper half"
            axis.legend(title=title, loc="upper left", bbox_to_anchor=(1, 1))
        figure.tight_layout()
        save(figure, folder / f"growth-{curve}.svg")


def draw_summary(results: dict[str, Any], path: Path) -> None:
    """One picture of time per row by width and by density, in calls of one row."""
    from pictures import plt, save

    shown = [curve for curve in ("width", "density") if curve in results["curves"]]
    figure, axes = plt.subplots(1, len(shown), figsize=(4.4 * len(shown), 3.4), squeeze=False)
    for axis, curve in zip(axes[0], shown, strict=True):
        _panel(axis, curve, 1, lines(results, curve), exponents=False)
    axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    figure.tight_layout()
    save(figure, path)


def _panel(
    axis: Any, curve: str, rows: int | None, all_lines: Sequence[Line], *, exponents: bool
) -> None:
    """Time per row against the value, one line for each engine."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
    from pictures import log_ticks

    widest = max(line.values[-1] for line in all_lines)
    for line in all_lines:
        if line.rows != rows:
            continue
        strategy, precision = line.engine.rsplit(" ", 1)
        label = line.engine
        if exponents:
            last = line.values[-1]
            label += f": {line.exponent:.2f}"
            label += "" if last == widest else f", up to {last:g} only"
        axis.plot(
            line.values,
            [1e6 * value for value in line.seconds],
            color=COLOURS[strategy],
            linestyle="--" if precision == "int8" else "-",
            marker="o",
            markersize=3,
            label=label,
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    values = {value for line in all_lines for value in line.values}
    log_ticks(axis.xaxis, sorted(values))
    axis.tick_params(axis="x", labelrotation=45 if len(values) > 6 else 0)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if exponents else (1,), numticks=30))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xlabel(AXES[curve])
    axis.set_ylabel("microseconds per row")
    calls = "" if rows is None else f", {rows} row{'s' * (rows > 1)} per call"
    axis.set_title(f"{curve}{calls}")
    axis.grid(True)


def markdown(results: dict[str, Any]) -> str:
    """The section of details.md: the setting, exponents and pictures.

    Parameters
    ----------
    results : dict
        The content of growth.json.
    """
    points = [point for curve in results["curves"].values() for point in curve]
    share = np.mean([point["cpu_share"] for point in points])
    gates = [
        engine
        for point in points
        for name, engine in point["engines"].items()
        if name.startswith("gate")
    ]
    recall = min(engine["recall"] for engine in gates)
    text = [
        "## Growth",
        "",
        "Networks of random weights: 256 inputs, hidden layers of equal width, 10 outputs; a row "
        "switches on a set share of the units in each hidden layer. Weights are of low rank plus "
        f"noise of {results['noise']:g} times their size, so gates of that rank are known "
        f"without a fit; the least recall of any is {recall:.2f}. One thread, which "
        f"had its CPU for {share:.0%} of the time. Exponents are slopes of the time per row over "
        "the upper half of the values, both logarithmic; in brackets, the slopes of the "
        "multiply-adds, including the estimate. "
        f"{PEER} runs up to width {results['widest_peer']:,}, because of its memory.",
        "",
        *(f"- {name}: {value}" for name, value in results["machine"].items()),
    ]
    for curve in results["curves"]:
        all_lines = lines(results, curve)
        sizes = list(dict.fromkeys(line.rows for line in all_lines))
        heads = ["per row" if rows is None else f"per row, calls of {rows}" for rows in sizes]
        text += [
            "",
            f"### {curve.capitalize()}",
            "",
            f"What changes: {AXES[curve]}. What stays: {_setting(results, curve)}",
            "",
            f"![Time per row by {curve}](growth-{curve}.svg)",
            "",
            "| engine | " + " | ".join(heads) + " |",
            "|---" * (1 + len(sizes)) + "|",
        ]
        for engine in dict.fromkeys(line.engine for line in all_lines):
            cells = [_cell(line) for line in all_lines if line.engine == engine]
            text.append(f"| {engine} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def _cell(line: Line) -> str:
    work = line.work_exponent
    # The addition turns -0 into 0.
    shown = [round(slope, 2) + 0.0 for slope in (line.exponent, work) if slope is not None]
    return " ".join([f"{shown[0]:.2f}", *(f"({slope:.2f})" for slope in shown[1:])])


def _setting(results: dict[str, Any], curve: str) -> str:
    """The quantities that stay the same in a curve."""
    points = results["curves"][curve]
    fixed = {
        name: value
        for name, value in points[0]["shape"].items()
        if all(point["shape"][name] == value for point in points)
    }
    words = []
    if "width" in fixed:
        words.append(f"hidden width {fixed['width']}")
    if "layers" in fixed:
        words.append(f"{fixed['layers']} layers")
    live = {round(point["shape"]["width"] * point["shape"]["density"]) for point in points}
    if len(live) == 1:
        words.append(f"{live.pop()} live units in each hidden layer")
    if "rank" in fixed:
        words.append(f"rank {fixed['rank']}")
    return ", ".join(words) + "."


def main() -> None:
    parser = argparse.ArgumentParser(description="How time grows.")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each value and batch size")
    parser.add_argument("--cpu", type=int, help="keep everything on this CPU (Linux)")
    parser.add_argument("--results", type=Path, default=ROOT / "benches" / "results")
    parser.add_argument(
        "--draw", action="store_true", help="measure nothing, draw the recorded results"
    )
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    path = options.results / "growth.json"
    if not options.draw:
        with lrgate.thread_limit(1):
            results = run(options.seconds)
        options.results.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write((json.dumps(results, indent=1) + "\n").encode())
    results = json.loads(path.read_text())
    draw(results, options.results)
    print(markdown(results))


if __name__ == "__main__":
    main()

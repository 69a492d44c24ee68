"""Does `optimize` keep its promise? Many runs on generated tasks, each judged on fresh rows.

    OMP_NUM_THREADS=1 python benches/promise.py --runs 400 --out promise.jsonl

Every run makes a task, trains a network on it, optimises it on calibration rows and takes the
increase of the error on 40,000 fresh rows of the same kind, for every batch size's plan. The
task's own probabilities are known, so that the increase on fresh rows has no noise of labels. A
run is over budget where that of any batch size is. Runs are kept in a file of JSON lines; those
that are there are not run again. The table has, by kind: runs, the share over budget, the largest
excess in budgets, the share of runs above the reported bound, with gates (nested ones in factors
too), with factors and with int8, and the median speed-up over dense where times were measured.

In most runs the clock is replaced, so that gates, factors and int8 always win and the budget
decides alone ("forced"); in the others times decide.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import lrgate
from lrgate.measure import timing
from lrgate.planner import clock, reporting
from lrgate.planner.clock import Clock
from lrgate.planner.plans import only_plan, plan_of, with_plan

Array = npt.NDArray[Any]

FRESH = 40_000
MEASURED = (Clock.race, Clock.layer_seconds, Clock.tuned)


@dataclass(frozen=True)
class Kind:
    """The task of a run."""

    name: str
    task: str
    labels: bool
    rows: tuple[int, int]
    budgets: tuple[float, ...]
    forced: bool = True
    planted: bool = False
    prune: str = "proven"
    precision: str = "auto"
    cheap: str = "gate"  # the faster one of gates and factors, where forced


FEW, MANY = (50, 500), (1000, 8000)
SMALL, WIDE = (0.001, 0.003, 0.01), (0.01, 0.03, 0.1)
KINDS = (
    Kind("classifier, labels", "classification", True, MANY, SMALL),
    Kind("classifier", "classification", False, MANY, SMALL),
    Kind("regressor, targets", "regression", True, MANY, SMALL),
    Kind("regressor", "regression", False, MANY, SMALL),
    Kind("multilabel, labels", "multilabel", True, MANY, SMALL),
    Kind("classifier, labels, few rows", "classification", True, FEW, WIDE),
    Kind("classifier, few rows", "classification", False, FEW, WIDE),
    Kind("regressor, targets, few rows", "regression", True, FEW, WIDE),
    Kind("regressor, few rows", "regression", False, FEW, WIDE),
    Kind("classifier, rare units", "classification", False, MANY, SMALL, planted=True),
    Kind("regressor, rare units", "regression", False, MANY, SMALL, planted=True),
    Kind("classifier, never_on", "classification", True, MANY, SMALL, True, True, "never_on"),
    Kind("regressor, never_on", "regression", False, MANY, SMALL, True, True, "never_on"),
    Kind("classifier, gates in f32", "classification", True, MANY, SMALL, precision="f32"),
    Kind("classifier, factors", "classification", True, MANY, SMALL, cheap="factor"),
    Kind("regressor, factors", "regression", True, MANY, SMALL, cheap="factor"),
    Kind("classifier, by the clock", "classification", True, MANY, SMALL, forced=False),
    Kind("regressor, by the clock", "regression", True, MANY, SMALL, forced=False),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=320, help="runs, over all kinds")
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("promise.jsonl"))
    parser.add_argument("--kind", help="only kinds whose name has this in it")
    parser.add_argument(
        "--table", action="store_true", help="print the recorded results, run nothing"
    )
    options = parser.parse_args()
    done = read(options.out)
    if not options.table:
        kinds = [kind for kind in KINDS if (options.kind or "") in kind.name]
        jobs = [
            (kinds[i % len(kinds)].name, options.seed + i // len(kinds))
            for i in range(options.runs)
        ]
        known = {(record["kind"], record["seed"]) for record in done}
        jobs = [job for job in jobs if job not in known]
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            for record in pool.imap_unordered(run, jobs):
                done.append(record)
                with options.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(json.dumps(record), file=sys.stderr, flush=True)
    print(table(done))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(records: list[dict[str, Any]]) -> str:
    lines = [
        "| kind | runs | over budget | worst excess, budgets | above bound "
        "| gates | factors | int8 | times as fast |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    names = [kind.name for kind in KINDS]
    groups = [(name, [r for r in records if r["kind"] == name]) for name in names]
    groups += [
        ("with gates", [r for r in records if r["gates"]]),
        ("with factors", [r for r in records if r["factors"]]),
        ("with int8", [r for r in records if r["int8"]]),
        ("with a least margin", [r for r in records if r.get("least_margin")]),
        ("close rows in int8", [r for r in records if r.get("int8_margin")]),
        ("50 to 500 rows", [r for r in records if r["rows"] <= FEW[1]]),
        ("all", records),
    ]
    for name, group in groups:
        if not group:
            continue
        over = [r for r in group if r["fresh"] > r["budget"]]
        excess = max((r["fresh"] / r["budget"] - 1 for r in over), default=0.0)
        speeds = [r["speed_up"] for r in group if r["speed_up"] is not None]
        lines.append(
            f"| {name} | {len(group)} | {len(over) / len(group):.1%} | {excess:.2f} | "
            f"{statistics.mean(r['fresh'] > r['bound'] for r in group):.0%} | "
            f"{statistics.mean(r['gates'] for r in group):.0%} | "
            f"{statistics.mean(r['factors'] for r in group):.0%} | "
            f"{statistics.mean(r['int8'] for r in group):.0%} | "
            f"{f'{statistics.median(speeds):.2f}' if speeds else '-'} |"
        )
    return "\n".join(lines)


# --- one run --------------------------------------------------------------------------------------


def run(job: tuple[str, int]) -> dict[str, Any]:
    """One task, one network, one call of `optimize`, and its increase on fresh rows."""
    kind = next(kind for kind in KINDS if kind.name == job[0])
    rng = np.random.default_rng([job[1], *map(ord, kind.name)])
    quick(kind)
    task = Task(kind, rng)
    net = task.network(rng)
    count = int(np.exp(rng.uniform(*np.log(kind.rows))))
    budget = float(rng.choice(kind.budgets))
    x, y = task.rows(rng, count)
    start = time.perf_counter()
    fast = lrgate.optimize(
        net,
        x,
        y if kind.labels else None,
        budget,
        batch_sizes=(1, 64),
        ranks=[k for k in (4, 8, 16, 32) if k < int(0.4 * count)],
        num_threads=1,
        precision=kind.precision,
        prune=kind.prune,
        seed=job[1],
        progress=False,
    )
    seconds = time.perf_counter() - start
    report = fast.report
    assert report is not None
    used = {name for plan in fast.plan for name in (*plan.strategies, *plan.precisions)}
    fresh = max(task.increase(net, only(fast, plan.rows), rng.spawn(1)[0]) for plan in fast.plan)
    speed = statistics.median(c.over_dense.median for c in report.batches)
    return {
        "kind": kind.name,
        "seed": job[1],
        "rows": count,
        "budget": budget,
        "fresh": fresh,
        "bound": report.increase_bound,
        "expected": report.expected_increase,
        "counted": report.error_increase,
        "gates": any("gate" in name for name in used),
        "factors": any("factor" in name for name in used),
        "int8": "int8" in used,
        "least_margin": fast.least_margin,
        "int8_margin": any(plan.int8_margin is not None for plan in fast.plan),
        "left_out": sum(report.dropped_units),
        "tests": [[t.network, t.increase, t.upper, t.passed] for t in report.checks],
        "speed_up": None if kind.forced else speed,
        "seconds": round(seconds, 2),
    }


def quick(kind: Kind) -> None:
    """Short times; where forced, a clock by which every more complex plan wins."""
    forced = kind.forced
    seconds = 1e-3 if forced else 0.02
    clock._LAYER_SECONDS = clock._PLAN_SECONDS = clock._RACE_SECONDS = seconds  # type: ignore[misc]
    reporting._LAST_RACE_SECONDS = reporting._PROFILE_SECONDS = seconds  # type: ignore[misc]
    timing._TURN_SECONDS = 1e-4 if forced else 1e-3  # type: ignore[misc]
    clocks = (race, layer_seconds(kind.cheap), tuned) if forced else MEASURED
    Clock.race, Clock.layer_seconds, Clock.tuned = clocks  # type: ignore[method-assign]


def race(self: Any, size: int, _seconds: float, rows: Any = None, **networks: Any) -> Any:
    """Plans with more gates and factors are faster, then with more int8, then later names."""
    del rows
    times = {}
    for i, name in enumerate(sorted(networks, key=lambda name: complexity(networks[name], size))):
        each = np.full(3, 1e-6 * size * 0.8**i)
        times[name] = timing.Timing(size, each, each)
    return times


def complexity(network: Any, size: int) -> tuple[int, int]:
    """Numbers of layers with a gate or factors, and of int8 layers."""
    plan = plan_of(network, size)
    used = sum(name not in ("dense", "skip") for name in plan.strategies)
    return used, plan.precisions.count("int8")


def layer_seconds(cheap: str) -> Callable[[Any, Any], Array]:
    """A clock by which a gate costs the units that it computes and its rank, factors their rank."""

    def measure(self: Any, network: Any) -> Array:
        rows = self.rows[:512]
        found = network.engine.profile(rows, rows.shape[0], 0.0)  # shares of the kept units
        costs = []
        for layer, name in zip(found, network.plan_for(self.sizes[0]).strategies, strict=True):
            dear = 0.0 if cheap in name.split("-") else 0.5
            share = layer["computed_share"] if "gate" in name else 0.0
            used = name not in ("dense", "skip")
            costs.append(dear + share / 2 + layer["rank"] / 1000 if used else 1.0)
        return np.tile(np.array(costs)[:, None], len(self.sizes))

    return measure


def tuned(self: Any, network: Any) -> Any:
    """Every layer uses its gate or its factors; margins are those of the plan."""
    chosen = tuple(forced(layer) for layer in network.layers)
    return with_plan(
        network, [replace(plan_of(network, size), strategies=chosen) for size in self.sizes]
    )


def forced(layer: Any) -> str:
    """The strategy that uses the gate or the factors of a layer, if it has them."""
    if layer.factors is not None:
        return "factor" if layer.factors.gate is None else "factor-gate"
    return "gate" if layer.gate is not None else "skip"


def only(network: Any, size: int) -> Any:
    return only_plan(network, size)


# --- tasks ----------------------------------------------------------------------------------------


class Task:
    """Rows of a few causes, and a random teacher's probabilities or values for them."""

    def __init__(self, kind: Kind, rng: np.random.Generator) -> None:
        self.kind = kind
        self.width = int(rng.integers(8, 50))
        self.causes = int(rng.integers(3, 12))
        self.noise = float(rng.choice([0.1, 0.3, 1.0]))
        self.sharpness = float(rng.choice([1.0, 3.0, 8.0]))
        self.heavy = bool(rng.random() < 0.25)
        self.outputs = int(rng.choice([1, 2, 3, 10]))
        if kind.task == "multilabel":
            self.outputs = max(self.outputs, 2)
        self.mixing = rng.normal(size=(self.causes, self.width)) / self.causes**0.5
        self.first = rng.normal(size=(self.width, 24)) / self.width**0.5
        self.second = rng.normal(size=(24, self.outputs)) / 24**0.5
        self.scatter = float(rng.choice([0.05, 0.3]))

    def inputs(self, rng: np.random.Generator, n: int) -> Array:
        causes = rng.normal(size=(n, self.causes))
        if self.heavy:
            causes *= rng.exponential(size=(n, 1))
        x = causes @ self.mixing + self.noise * rng.normal(size=(n, self.width))
        return x.astype(np.float32)

    def truth(self, x: Array) -> Array:
        """Values of a regression, probabilities of classes or labels."""
        values = self.sharpness * np.tanh(1.5 * (x.astype(np.float64) @ self.first)) @ self.second
        if self.kind.task == "regression":
            return values / self.sharpness
        if self.kind.task == "multilabel":
            return 1 / (1 + np.exp(-values))
        if self.outputs == 1:
            p = 1 / (1 + np.exp(-values))
            return np.concatenate([1 - p, p], axis=1)
        e = np.exp(values - values.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def rows(self, rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        x = self.inputs(rng, n)
        truth = self.truth(x)
        if self.kind.task == "regression":
            return x, truth + self.scatter * rng.normal(size=truth.shape)
        if self.kind.task == "multilabel":
            return x, (rng.random(truth.shape) < truth).astype(np.int64)
        drawn = (rng.random((n, 1)) > np.cumsum(truth, axis=1)).sum(axis=1)
        return x, np.minimum(drawn, truth.shape[1] - 1)

    def network(self, rng: np.random.Generator) -> Any:
        x, y = self.rows(rng, 4000)
        if self.kind.task == "classification" and self.outputs > 1:
            y = np.eye(self.outputs)[y]
        y = y.reshape(len(x), -1).astype(np.float32)
        hidden = [int(rng.choice([64, 128, 192])), int(rng.choice([32, 64, 128]))]
        layers = train(x, y, hidden, self.kind.task, rng, low_rank=self.kind.cheap == "factor")
        if self.kind.planted:
            layers = planted(layers, x, rng)
        return lrgate.Network.from_layers(layers, task=self.kind.task)

    def increase(self, before: Any, after: Any, rng: np.random.Generator) -> float:
        """The increase that the budget limits, on fresh rows."""
        x = self.inputs(rng, FRESH)
        old, new = before(x).astype(np.float64), after(x).astype(np.float64)
        truth = self.truth(x) if self.kind.labels else None
        if self.kind.task == "regression":
            if truth is None:
                return float(np.square(new - old).sum(1).mean() / old.var(0).sum())
            change = np.square(new - truth).sum(1) - np.square(old - truth).sum(1)
            spread = truth.var(0).sum() + self.outputs * self.scatter**2
            return float(change.mean() / spread)
        if self.kind.task == "multilabel":
            differ = (new > 0) != (old > 0)
            cost = (
                np.ones_like(new) if truth is None else np.where(old > 0, 1, -1) * (2 * truth - 1)
            )
            return float((differ * cost).mean())
        a, b = classes(old), classes(new)
        if truth is None:
            return float((a != b).mean())
        at = np.arange(len(x))
        return float((truth[at, a] - truth[at, b]).mean())


def classes(outputs: Array) -> Array:
    if outputs.shape[1] == 1:
        return np.asarray(outputs[:, 0] > 0, np.int64)
    return np.asarray(outputs.argmax(axis=1))


def train(
    x: Array,
    y: Array,
    hidden: list[int],
    task: str,
    rng: np.random.Generator,
    *,
    low_rank: bool,
) -> list[tuple[Array, Array]]:
    """A network of relu layers, by Adam, with an L1 term on the activations.

    With `low_rank`, most singular values of hidden layers are kept small.
    """
    widths = [x.shape[1], *hidden, y.shape[1]]
    sizes = list(itertools.pairwise(widths))
    parameters = [
        value
        for d, k in sizes
        for value in (
            (rng.normal(size=(k, d)) * (2 / d) ** 0.5).astype(np.float32),
            np.zeros(k, np.float32),
        )
    ]
    sparsity = float(rng.choice([1e-4, 1e-3, 4e-3]))
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    steps, rate = int(rng.integers(200, 600)), 3e-3
    for step in range(1, steps + 1):
        at = rng.integers(0, len(x), 128)
        signals = [x[at]]
        for i in range(len(sizes)):
            z = signals[-1] @ parameters[2 * i].T + parameters[2 * i + 1]
            signals.append(np.maximum(z, 0) if i + 1 < len(sizes) else z)
        z = signals[-1]
        if task == "regression":
            guess = z
        elif task == "multilabel" or z.shape[1] == 1:
            guess = 1 / (1 + np.exp(-np.clip(z, -60, 60)))
        else:
            e = np.exp(z - z.max(axis=1, keepdims=True))
            guess = e / e.sum(axis=1, keepdims=True)
        back = (guess - y[at]) / len(at)
        gradients: list[Array] = []
        for i in reversed(range(len(sizes))):
            gradients = [back.T @ signals[i], back.sum(axis=0), *gradients]
            if i:
                back = (back @ parameters[2 * i] + sparsity / len(at)) * (signals[i] > 0)
        for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        if low_rank and step % 20 == 0 and step <= steps - 20:
            for weight in parameters[:-2:2]:
                shrink(weight)
    return [(parameters[2 * i], parameters[2 * i + 1]) for i in range(len(sizes))]


def shrink(weight: Array) -> None:
    """Halves all singular values but the largest quarter."""
    u, s, v = np.linalg.svd(weight, full_matrices=False)
    s[len(s) // 4 :] /= 2
    weight[:] = (u * s) @ v


def planted(
    layers: list[tuple[Array, Array]], x: Array, rng: np.random.Generator
) -> list[tuple[Array, Array]]:
    """The network with units that few rows switch on, and that matter on these."""
    (weight, bias), (next_weight, next_bias), last = layers
    weight, bias, next_weight = weight.copy(), bias.copy(), next_weight.copy()
    share = float(10 ** rng.uniform(-4, -2))
    for unit in rng.choice(len(weight), 6, replace=False):
        direction = rng.normal(size=weight.shape[1]) / weight.shape[1] ** 0.5
        sums = x @ direction
        weight[unit], bias[unit] = direction, -np.quantile(sums, 1 - share)
        next_weight[:, unit] = rng.normal(size=len(next_weight)) * 4 / max(sums.std(), 1e-3)
    return [(weight, bias), (next_weight, next_bias), last]


if __name__ == "__main__":
    main()

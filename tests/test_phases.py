"""Phases of a profile: their sum, their counts, and their bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lrgate
from lrgate import cli, estimators
from lrgate.measure import timing
from lrgate.measure.phases import measure_peaks
from lrgate.results.phases import Peaks, PhaseProfile

CONSTANT = Peaks(
    {"L1": 1000, "L2": 5000},
    {"L1": 4e9, "L2": 2e9, "memory": 1e9},
    {"f32": 1e9, "int8": 4e9},
)


RAW = {
    "layer": 0,
    "phase": "multiply",
    "precision": "f32",
    "seconds_per_row": 8e-6,
    "weight_bytes_per_row": 2000.0,
    "row_bytes_per_row": 4000.0,
    "operations_per_row": 1000.0,
    "factor": None,
}
"""A phase as the core measures it."""


def small(strategy: str) -> lrgate.Network:
    """Eight inputs, three units (the second is never active), and two outputs."""
    weight = np.ones((3, 8))
    layers = [(weight, [0.0, -100.0, 0.0]), (np.ones((2, 3)), np.zeros(2))]
    net = lrgate.Network.from_layers(layers)
    if strategy == "gate":
        gate = lrgate.Gate(np.ones((8, 1)), [[1.0, 0.0, 1.0]], [0.0, -1.0, 0.0])
        net = net.with_gates({0: gate})
    return net.with_strategies([strategy, "dense"])


def found(
    net: lrgate.Network, x: object, **options: object
) -> dict[tuple[int | None, str], PhaseProfile]:
    profile = net.phases(x, seconds=0.0, **options)
    return {(phase.layer, phase.phase): phase for phase in profile.phases}


@pytest.mark.isa
def test_bytes_and_operations_of_skip() -> None:
    x = np.zeros((2, 8), np.float32)
    x[0, [1, 4]] = 1
    x[1, [1, 2, 3]] = 1
    one = found(small("skip"), x, batch_size=1)
    assert list(one)[:3] == [(0, "scan"), (0, "multiply"), (0, "epilogue")]
    # Five values in two rows: reads 8 floats, writes 4 + 4 bytes for each value.
    assert one[0, "scan"].bytes == 8 * 4 + 2.5 * 8
    # Three weights per value, and the list.
    assert one[0, "multiply"].bytes == 2.5 * (3 * 4 + 8)
    assert one[0, "multiply"].operations == 2.5 * 3 * 2
    assert one[0, "epilogue"].bytes == 3 * 4 + 3 * 4
    both = found(small("skip"), x, batch_size=2)
    # Columns 1 to 4 once for both rows.
    assert both[0, "multiply"].bytes == 4 * 3 * 4 / 2 + 2.5 * 8


@pytest.mark.isa
def test_bytes_and_operations_of_dense_and_gate() -> None:
    x = np.zeros((2, 8), np.float32)
    x[:, :2] = 1
    dense = found(small("dense"), x, batch_size=1)
    assert dense[0, "multiply+epilogue"].bytes == 8 * 3 * 4 + 3 * 4 + 8 * 4 + 3 * 4
    assert dense[0, "multiply+epilogue"].operations == 2 * 8 * 3 + 2 * 3
    assert (0, "scan") not in dense
    gate = found(small("gate"), x, batch_size=2)
    names = ["scan", "estimate", "score+threshold", "clear", "dots+epilogue"]
    assert [phase for layer, phase in gate if layer == 0] == names
    assert gate[0, "estimate"].operations == 2 * 2
    assert gate[0, "score+threshold"].operations == 2 * 3
    # Two live units, with two products and one line of weights each, once for both rows.
    assert gate[0, "dots+epilogue"].operations == 2 * 2 * 2
    assert gate[0, "dots+epilogue"].bytes == 2 * 64 / 2 + 64 + 2 * 4 + 2 * 4
    assert gate[0, "clear"].bytes == 3 * 4


@pytest.mark.isa
@pytest.mark.parametrize("strategy", ["dense", "skip", "gate"])
@pytest.mark.parametrize("batch_size", [1, 10])
def test_int8_layers_have_phases(strategy: str, batch_size: int) -> None:
    rng = np.random.default_rng(0)
    layers = [
        (rng.normal(size=(40, 30)), np.zeros(40)),
        (rng.normal(size=(20, 40)), np.zeros(20)),
        (rng.normal(size=(3, 20)), np.zeros(3)),
    ]
    net = lrgate.Network.from_layers(layers)
    x = np.maximum(rng.normal(size=(100, 30)), 0)
    if strategy == "gate":
        gate = estimators.whitened(net.layers[1], net.layer_inputs(x)[1]).gate(8)
        net = net.with_gates({1: gate})
    strategies = ["skip", strategy, "skip"]
    net = net.quantize(x).with_strategies(strategies, "int8")
    profile = net.phases(x, batch_size=batch_size, seconds=0.01)
    phases = {(phase.layer, phase.phase): phase for phase in profile.phases}
    assert {0, 1, 2} < {layer for layer, _ in phases}
    assert (0, "quantize") in phases
    names = {"dense": "multiply+epilogue", "skip": "multiply", "gate": "dots+epilogue"}
    product = phases[1, names[strategy]]
    assert sum(phase.seconds for (layer, _), phase in phases.items() if layer == 1) > 0
    assert product.bytes is not None
    assert product.bytes > 0
    # A weight takes one byte, a step and a bias take four. Dense reads all of them once per call,
    # and the inputs of every row. Outputs are bytes for skip.
    if strategy == "dense":
        assert product.bytes == (40 + 8) * 20 / batch_size + 40 + 20


TRIES = 5
"""Number of profiles, of which one must meet the expected times: a busy machine disturbs some."""


def test_phases_add_up_to_the_call() -> None:
    net, x, _ = lrgate.examples.mnist()
    for _ in range(TRIES):
        layers = net.profile(x[:200], batch_size=1, seconds=0.3).seconds_per_row
        profile = net.phases(x[:200], batch_size=1, seconds=0.3)
        phases = sum(phase.seconds for phase in profile.phases if phase.layer is not None)
        whole = profile.seconds_per_row
        calls = timing.interleaved({"call": net}, timing.batches(x, 1), 0.1)
        call = calls["call"].seconds_per_row
        if 0.5 * layers < phases < 2 * layers and whole < 2 * call:
            return
    pytest.fail(f"phases {phases}, layers {layers}, whole {whole}, calls {call} seconds a row")


def test_bounds_are_positive_and_below_the_time() -> None:
    net, x, _ = lrgate.examples.mnist()
    for _ in range(TRIES):
        profile = net.phases(x[:200], batch_size=1, seconds=0.3)
        bounded = [phase for phase in profile.phases if phase.bound_seconds is not None]
        for phase in bounded:
            assert phase.bound_seconds > 0
            assert phase.bound_by in ("memory", "compute")
        kinds = ("multiply", "estimate", "score", "dots")
        products = [phase for phase in bounded if phase.phase.split("+")[0] in kinds]
        assert len(products) >= 4
        above = [phase for phase in products if phase.bound_seconds > 1.5 * phase.seconds]
        if not above:
            return
    pytest.fail(f"bounds above times: {above}")


@pytest.mark.parametrize("look", ["profile", "phases"])
def test_a_number_is_no_rows(look: str) -> None:
    net = small("dense")
    with pytest.raises(ValueError, match=r"x must have shape \(n, d\) or \(d,\), got \(\)"):
        getattr(net, look)(np.float32(3))


def test_python_and_conversion_are_phases_of_the_call() -> None:
    x = np.ones((20, 8))
    phases = found(small("skip"), x, batch_size=4)
    assert list(phases)[-3:] == [(None, "rest of core"), (None, "convert dtype"), (None, "Python")]
    assert phases[None, "Python"].bound_seconds is None
    for ready in (x.astype(np.float32), x.astype(np.uint8), x.astype(np.float32)[::2]):
        assert (None, "convert dtype") not in found(small("skip"), ready, batch_size=4)


def test_bounds_follow_from_peaks() -> None:
    from lrgate.measure.phases import _bounded

    assert CONSTANT.level(900) == "L1"
    assert CONSTANT.level(2000) == "L2"
    assert CONSTANT.level(6000) == "memory"
    phase = _bounded(RAW, CONSTANT, "L2", 1)
    assert phase.bound_by == "memory"
    assert phase.bound_seconds == pytest.approx(2e-6)
    assert phase.share_of_bound == pytest.approx(0.25)
    more = _bounded(RAW | {"operations_per_row": 4000.0}, CONSTANT, "L2", 1)
    assert (more.bound_by, more.bound_seconds) == ("compute", pytest.approx(4e-6))
    int8 = RAW | {"operations_per_row": 4000.0, "precision": "int8"}
    assert _bounded(int8, CONSTANT, "L2", 1).bound_by == "memory"


def test_batches_of_int8_are_bounded_by_tiles() -> None:
    from lrgate.measure.phases import _bounded

    raw = RAW | {
        "phase": "multiply+epilogue",
        "precision": "int8",
        "weight_bytes_per_row": 0.0,
        "row_bytes_per_row": 0.0,
        "operations_per_row": 4000.0,
    }
    peaks = replace(CONSTANT, operations=CONSTANT.operations | {"int8 tiles": 16e9})
    for changes, batch, rate in (
        ({}, 16, 16e9),
        ({}, 2, 4e9),
        ({"phase": "multiply"}, 16, 4e9),
        ({"phase": "estimate"}, 8, 16e9),
        ({"phase": "estimate"}, 7, 4e9),
        ({"phase": "score+threshold"}, 3, 16e9),
        ({"precision": "f32"}, 16, 1e9),
    ):
        phase = _bounded(raw | changes, peaks, "L2", batch)
        assert phase.bound_seconds == pytest.approx(4000 / rate)
    assert _bounded(raw, CONSTANT, "L2", 16).bound_seconds == pytest.approx(1e-6)


@pytest.mark.isa
def test_peaks_are_measured() -> None:
    peaks = measure_peaks(0.02)
    assert list(peaks.bandwidth) == [*peaks.caches, "memory"]
    # From the memory of a slow machine to the registers of a fast one.
    assert all(1e8 < rate < 1e13 for rate in peaks.bandwidth.values())
    assert all(1e8 < rate < 1e14 for rate in peaks.operations.values())
    assert ("int8 tiles" in peaks.operations) == (lrgate.isa() == "avx512amx")
    assert peaks.bandwidth["L1"] > peaks.bandwidth["memory"]


def test_the_table_and_json_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.ones((6, 8), np.uint8)
    path = tmp_path / "net.npz"
    small("gate").with_probe(x).save(path)
    options = ["profile", str(path), "--phases", "--seconds", "0", "--batch-size", "3"]
    assert cli.main(options) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 79
    assert "6 rows, 3 per call" in out
    assert "dots+epilogue" in out
    assert cli.main([*options, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["rows"], plain["batch_size"]) == (6, 3)
    names = [phase["phase"] for phase in plain["phases"]]
    assert names[0] == "convert+scan"
    assert set(plain["peaks"]["operations"]) - {"int8 tiles"} == {"f32", "int8"}
    total = sum(phase["seconds"] for phase in plain["phases"])
    assert plain["seconds_per_row"] == pytest.approx(total)


def test_rows_that_cannot_be_profiled() -> None:
    net = small("dense")
    with pytest.raises(ValueError, match="rows of x must be at least 1, got 0"):
        net.phases(np.zeros((0, 8), np.float32))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        net.phases(np.zeros((1, 8)), batch_size=0)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 8\), got \(2, 3\)"):
        net.phases(np.zeros((2, 3)))

"""The command `lrgate`: its output, its exit codes, and the timing that it uses."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate import cli, estimators
from lrgate.bench import demo, engines
from lrgate.measure import timing


@pytest.fixture(scope="module")
def digits_net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small network with a gate that takes digits."""
    rng = np.random.default_rng(0)
    sizes = (784, 40, 30, 10)
    layers = [
        (rng.normal(size=(outputs, inputs)) / np.sqrt(inputs), rng.normal(size=outputs))
        for inputs, outputs in itertools.pairwise(sizes)
    ]
    net = lrgate.Network.from_layers(layers, task="classification", input_scale=1 / 255)
    x = rng.integers(0, 256, size=(50, 784), dtype=np.uint8)
    gate = estimators.whitened(net.layers[0], net.layer_inputs(x)[0]).gate(4)
    path = tmp_path_factory.mktemp("cli") / "digits.npz"
    net.with_gates({0: gate}).with_probe(x).save(path)
    return path


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process."""
    return subprocess.run(
        [sys.executable, "-m", "lrgate", *argv],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# --- demo ----------------------------------------------------------------------------------------


def test_demo_of_the_shipped_network_is_readable_in_80_columns() -> None:
    done = run("demo", "--seconds", "0")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 79
    cpu = next(line for line in lines if line.startswith("CPU     "))
    assert timing.machine()["cpu"].startswith(cpu.removeprefix("CPU     ").split(", ")[0])
    assert f", {lrgate.isa()}, one thread" in done.stdout
    assert f"NumPy   {np.__version__}, " in done.stdout
    for name in ("NumPy", "dense", "skip", "gate", "fastest"):
        assert sum(line.startswith(f"{name} ") and "%" in line for line in lines) == 1
    assert "Layers of the fastest mix, one row per call:" in lines
    assert "Layers of the fastest mix, 256 rows per call:" in lines
    assert "1000 rows, 256 per call" in done.stdout
    assert "Wrong labels of 1,000: dense" in done.stdout


def test_demo_as_json(digits_net: Path) -> None:
    done = run("demo", "--json", "--seconds", "0", "--network", str(digits_net))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["network"] == "784-40-30-10"
    assert (found["digits"], found["threads"]) == (1000, 1)
    assert found["machine"]["instruction set"].startswith(lrgate.isa())
    results = found["results"]
    assert list(results) == ["numpy", "dense", "skip", "gate", "fastest"]
    net = lrgate.Network.load(digits_net)
    _, x, y = lrgate.examples.mnist()
    for rows in ("1", "256"):
        error = float(np.mean(net.dense().predict(x) != y))
        for name in ("numpy", "dense", "skip"):
            assert results[name][rows]["error"] == pytest.approx(error, abs=0.002)
        assert results["gate"][rows]["strategies"] == ["gate", "skip", "skip"]
        for result in results.values():
            assert (
                0
                < result[rows]["median_seconds_per_call"]
                <= (result[rows]["p99_seconds_per_call"])
            )
        assert results["dense"][rows]["speed_up_over_dense"]["median"] == 1
        assert len(found["profiles"][rows]["layers"]) == 3


def test_demo_of_a_network_without_gates(digits_net: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.npz"
    lrgate.Network.load(digits_net).with_gates([None] * 3).save(path)
    result = demo.measure(path, 0)
    assert list(result.entries) == ["numpy", "dense", "skip", "fastest"]
    assert "gate is not" not in str(result)


def test_demo_says_where_openblas_was_told_its_kernels(
    digits_net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.setattr(
        np, "show_config", lambda mode: {"Build Dependencies": {"blas": {"name": "openblas"}}}
    )
    assert "OPENBLAS_CORETYPE" not in str(demo.measure(digits_net, 0))
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    text = str(demo.measure(digits_net, 0))
    assert "OPENBLAS_CORETYPE=Haswell is set" in text
    assert max(map(len, text.splitlines())) <= 79


def test_demo_measures_numpy_with_one_thread_and_leaves_the_environment_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = dict(os.environ)
    monkeypatch.setattr(demo, "measure", os.getenv)
    assert demo.run("OMP_NUM_THREADS", "") == "1"
    assert demo.run("OPENBLAS_NUM_THREADS", "") == "1"
    assert dict(os.environ) == before


@pytest.mark.parametrize("transposed", [False, True])
def test_the_numpy_forward_pass_is_the_network(transposed: bool) -> None:
    rng = np.random.default_rng(1)
    net = lrgate.Network.from_layers(
        [(rng.normal(size=(6, 5)), rng.normal(size=6)), (rng.normal(size=(3, 6)), np.zeros(3))],
        input_scale=rng.normal(size=5),
        input_shift=0.5,
    )
    forward = engines.NumpyForward(engines.folded(net), transposed)
    for n in (1, 4, 1):
        x = rng.normal(size=(n, 5)).astype(np.float32)
        assert forward(x).dtype == np.float32
        np.testing.assert_allclose(forward(x), net(x), rtol=1e-4, atol=1e-5)


def test_demo_refuses_networks_that_take_no_digits(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    lrgate.Network.from_layers([(np.eye(3), np.zeros(3))]).save(path)
    done = run("demo", "--network", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        f"lrgate: error: {path}: expected a classifier of 784 inputs and 10 outputs, got "
    )
    assert done.stderr.count("\n") == 1


def test_demo_refuses_other_activations(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    layers = [(np.zeros((4, 784)), np.zeros(4)), (np.zeros((10, 4)), np.zeros(10))]
    activations = ["tanh", "identity"]
    lrgate.Network.from_layers(layers, activations, task="classification").save(path)
    with pytest.raises(
        ValueError, match=r"relu on all layers except the last, .* got tanh, identity"
    ):
        demo.measure(path, 0)


# --- profile, config, version --------------------------------------------------------------------


def test_profile_of_the_probe(digits_net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["profile", str(digits_net), "--seconds", "0"]) == 0
    out = capsys.readouterr().out
    assert "50 rows, 50 per call" in out
    assert max(map(len, out.splitlines())) <= 79


def test_profile_of_rows(
    digits_net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.npy"
    np.save(rows, np.ones((5, 784)))
    options = ["--rows", str(rows), "--batch-size", "2", "--seconds", "0", "--json"]
    assert cli.main(["profile", str(digits_net), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["batch_size"]) == (5, 2)
    assert [layer["strategy"] for layer in found["layers"]] == ["gate", "dense", "dense"]


def test_config_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config"]) == 0
    assert "instruction set" in capsys.readouterr().out
    assert cli.main(["config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lrgate"] == lrgate.__version__
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out == f"{lrgate.__version__}\n"


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["dance"],
        ["demo", "--seconds", "-1"],
        ["demo", "--seconds", "nan"],
        ["demo", "--seconds", "long"],
        ["demo", "extra"],
        ["profile"],
        ["profile", "net.npz", "--batch-size", "0"],
        ["profile", "net.npz", "--batch-size", "1.5"],
        ["version", "--json"],
    ],
)
def test_bad_arguments(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: lrgate" in err
    assert "error: " in err


def bad_file(kind: str, folder: Path, good: Path) -> list[str]:
    path = folder / "file"
    if kind == "missing network":
        return ["profile", str(path.with_suffix(".npz"))]
    if kind == "folder as network":
        path.with_suffix(".npz").mkdir()
        return ["profile", str(path.with_suffix(".npz"))]
    if kind == "damaged network":
        path.with_suffix(".npz").write_bytes(good.read_bytes()[:-100])
        return ["profile", str(path.with_suffix(".npz"))]
    if kind == "no probe":
        lrgate.Network.from_layers([(np.eye(3), np.zeros(3))]).save(path.with_suffix(".npz"))
        return ["profile", str(path.with_suffix(".npz"))]
    if kind == "missing rows":
        path = path.with_suffix(".npy")
    elif kind == "empty rows file":
        path.write_bytes(b"")
    elif kind == "text as rows":
        path.write_text("1, 2, 3\n", encoding="utf-8")
    elif kind == "pickled rows":
        path = path.with_suffix(".npy")
        np.save(path, np.array([{}], dtype=object))
    elif kind == "archive as rows":
        with path.open("wb") as file:
            np.savez(file, x=np.zeros((2, 784)))
    elif kind == "archive of several arrays":
        path = path.with_suffix(".npz")
        np.savez(path, x=np.zeros((2, 784)), y=np.zeros(2))
    elif kind == "strings as rows":
        path = path.with_suffix(".npy")
        np.save(path, np.array([["a"] * 784]))
    elif kind == "narrow rows":
        path = path.with_suffix(".npy")
        np.save(path, np.zeros((2, 3)))
    elif kind == "no rows":
        path = path.with_suffix(".npy")
        np.save(path, np.zeros((0, 784)))
    return ["profile", str(good), "--rows", str(path)]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing network", "No such file or directory"),
        ("folder as network", ""),
        ("damaged network", ""),
        ("no probe", "the network has no probe rows, so --rows is needed"),
        ("missing rows", "No such file or directory"),
        ("empty rows file", "expected a .npy file of numbers"),
        ("text as rows", "expected a .npy file of numbers"),
        ("pickled rows", "expected a .npy file of numbers"),
        ("archive as rows", "expected a .npy file of numbers, got an archive"),
        ("archive of several arrays", "expected a .npz file with one array"),
        ("strings as rows", "x must"),
        ("narrow rows", "x must have shape (n, 784), got (2, 3)"),
        ("no rows", "got 0"),
    ],
)
def test_files_that_cannot_be_used(
    kind: str, message: str, digits_net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = bad_file(kind, tmp_path, digits_net)
    assert cli.main([*argv, "--seconds", "0"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lrgate: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_output_that_nobody_reads(digits_net: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lrgate", "profile", str(digits_net)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert err == b""


# --- timing --------------------------------------------------------------------------------------


def test_every_call_of_a_turn_is_counted() -> None:
    seen: list[str] = []
    x = np.arange(6.0).reshape(6, 1)

    def candidate(name: str) -> Any:
        return lambda rows: seen.append(name)

    candidates = {name: candidate(name) for name in "ab"}
    times = timing.in_turn(candidates, timing.batches(x, 2), 0, min_rounds=4)
    for each in times.values():
        assert (each.rows, len(each.rounds), len(each.calls)) == (2, 4, 80)
    turns = [seen[-320:][i : i + 40] for i in range(0, 320, 40)]
    assert all(len(set(turn)) == 1 for turn in turns)
    assert [{turns[i][0], turns[i + 1][0]} for i in range(0, 8, 2)] == [{"a", "b"}] * 4


def test_calls_of_a_turn_are_made_once_before_they_are_counted() -> None:
    seen: list[float] = []
    x = np.arange(50.0).reshape(50, 1)
    times = timing.in_turn({"a": lambda row: seen.append(row[0, 0])}, timing.batches(x, 1), 0)
    assert len(times["a"].calls) == 5 * 20
    turns = np.array(seen[-200:]).reshape(5, 2, 20)
    np.testing.assert_array_equal(turns[:, 0], turns[:, 1])
    np.testing.assert_array_equal(turns[1:, 0, 0], (turns[:-1, 0, 0] + 20) % 50)


def test_a_cold_call_comes_after_a_read_and_has_another_row() -> None:
    rows = timing.batches(np.arange(4.0).reshape(4, 1), 1)
    seen: dict[str, list[float]] = {"a": [], "b": []}

    def candidate(name: str) -> Any:
        return lambda row: seen[name].append(float(row[0, 0]))

    candidates = {name: candidate(name) for name in seen}
    times = timing.cold(candidates, dict.fromkeys(seen, rows), 0, 1 << 20)
    for name, each in times.items():
        assert len(each.calls) == len(each.rounds) == 5
        assert seen[name] == [0, 1, 1, 2, 2, 3, 3, 0, 0, 1, 1]


def test_contestants_take_turns_on_other_rows() -> None:
    seen: dict[str, list[float]] = {"a": [], "b": []}
    calls = timing.batches(np.arange(6.0).reshape(6, 1), 2)

    def contestant(name: str) -> Any:
        return lambda rows: (seen[name].append(rows[0, 0]), time.sleep(0.001))

    times = timing.interleaved({name: contestant(name) for name in seen}, calls, 0, min_rounds=3)
    for name, values in seen.items():
        assert values[:4] == [0, 2, 4, 0]
        assert len(times[name].rounds) == 3
        assert times[name].rows == 2
        assert times[name].median >= 0.001
        assert times[name].seconds_per_row == times[name].median / 2
        assert times[name].p99 >= times[name].median


def test_ratios_are_taken_round_by_round() -> None:
    slow = timing.Timing(1, np.array([4.0]), np.array([2.0, 4.0, 8.0]))
    fast = timing.Timing(2, np.array([4.0]), np.array([2.0, 4.0, 4.0]))
    ratio = fast.speed_up_over(slow)
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.0, 3.0)
    assert str(ratio) == "2.00 (2.00 to 3.00)"
    assert slow.quartiles() == (3.0, 6.0)


def test_batches_are_full_and_in_place() -> None:
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    assert [len(rows) for rows in timing.batches(x, 2)] == [2, 2]
    assert all(np.shares_memory(rows, x) for rows in timing.batches(x, 2))
    (repeated,) = timing.batches(x, 7)
    assert repeated.shape == (7, 2)
    assert np.array_equal(repeated[5:], x[:2])
    assert repeated.flags.c_contiguous


def test_the_machine_is_named() -> None:
    machine = timing.machine()
    assert machine["cpu"]
    assert machine["lrgate"] == lrgate.__version__

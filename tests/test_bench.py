"""`lrgate bench`: outputs of the engines, the comparison, the command and the report."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate import cli
from lrgate.bench import compare, contestants, engines, startup
from lrgate.bench.contestants import original
from lrgate.bench.parts import calls_of
from lrgate.measure import process
from lrgate.measure.timing import Timing
from lrgate.results.bench import Startup

SIZES = (12, 20, 16, 4)
FEW = ["numpy"]


def network(activations: list[Any] | None = None) -> lrgate.Network:
    rng = np.random.default_rng(0)
    layers = [
        (rng.normal(size=(h, d)) / np.sqrt(d), rng.normal(size=h) / 4)
        for d, h in itertools.pairwise(SIZES)
    ]
    return lrgate.Network.from_layers(
        layers,
        activations,
        task="classification",
        input_scale=rng.uniform(0.01, 0.02, SIZES[0]),
        input_shift=-1.0,
    )


def rows(n: int = 420) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(0, 200, (n, SIZES[0]), dtype=np.uint8)


# --- engines -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("engine", engines.ENGINES, ids=lambda engine: engine.name)
def test_an_engine_gives_the_networks_answers(engine: engines.Engine) -> None:
    if all("mode" in settings for settings in engine.grid):
        pytest.skip("compiling takes many seconds")
    net, x = network(), rows().astype(np.float32)
    wanted = net(x[:8])
    for settings in engine.settings(threads=2):
        if "mode" in settings:
            continue
        try:
            forward = engines.make(engine, net, x, 1, settings, rows=8)
        except ImportError as error:
            pytest.skip(str(error))
        except RuntimeError as error:
            if "gcc is not installed" in str(error):
                pytest.skip(str(error))
            raise
        found = np.array(forward(x[:8]))
        off = np.abs(found - wanted).max() / np.abs(wanted).max()
        assert found.dtype == np.float32
        assert off <= {"f32": 1e-5, "bf16": 0.05, "int8": 0.1}[engine.precision], settings


def test_litert_ranges_hold_zero_and_the_values() -> None:
    litert = importlib.import_module("lrgate.bench.engines.litert")
    for values in (np.array([1.0, 5.0]), np.array([-3.0, -1.0]), np.zeros(3), rows() / 7):
        fitted = litert._Range.of(values, covered=1.0)
        low, high = ((byte - fitted.zero) * fitted.step for byte in (-128, 127))
        assert -128 <= fitted.zero <= 127
        assert low <= min(values.min(), 0) + fitted.step / 2
        assert high >= max(values.max(), 0) - fitted.step / 2
    outlier = np.append(np.ones(9999), 100.0)
    assert litert._Range.of(outlier, covered=0.999).step == pytest.approx(1 / 255)


@pytest.mark.parametrize(
    "precisions", list(itertools.product(("f32", "dynamic", "int8"), repeat=3))
)
def test_litert_models_mix_precisions(precisions: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    litert = importlib.import_module("lrgate.bench.engines.litert")
    net, x = network(), rows().astype(np.float32)
    path = tmp_path / "mixed.tflite"
    path.write_bytes(litert._model(engines.folded(net), precisions, x, covered=1.0))
    wanted = net(x[:64])
    found = litert._load_litert(path, 64, 1, {})(x[:64])
    off = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert off <= (1e-5 if set(precisions) == {"f32"} else 0.05)


def test_litert_scales_inputs_of_different_units(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    litert = importlib.import_module("lrgate.bench.engines.litert")
    net, x = network(), rows().astype(np.float32)
    units = np.logspace(-1.5, 1.5, SIZES[0], dtype=np.float32)
    (weight, bias), *rest = engines.folded(net)
    layers = [(weight / units, bias), *rest]
    x[:, 3] = 5  # an input that never varies
    wanted = net(x[:64])
    path = tmp_path / "scaled.tflite"
    off = {}
    for first in ("int8", "scaled"):
        path.write_bytes(litert._model(layers, [first, "int8", "int8"], x * units, covered=1.0))
        found = litert._load_litert(path, 64, 1, {})((x * units)[:64])
        off[first] = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert off["scaled"] < 0.05 < off["int8"]


@pytest.mark.usefixtures("affinity")
def test_an_engine_of_undocumented_calls_is_never_the_best_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numpy = engines.by_name("NumPy")

    def slow(path: Path, rows: int, threads: int, settings: engines.Settings) -> Any:
        forward = numpy.load(path, rows, threads, {"weights": "C"})

        def call(x: Any) -> Any:
            time.sleep(0.002)
            return forward(x)

        return call

    chosen = (
        engines.Engine("Documented", "numpy", "f32", (), numpy.store, slow),
        replace(numpy, name="Undocumented", documented=False),
    )
    monkeypatch.setattr(compare, "selected", lambda _: chosen)
    found = measured(network(), rows(60), batch_sizes=(8,), optimized=False, start=False)
    entries = {entry.name: entry for entry in found.races[0].entries}
    assert entries["Undocumented"].median < entries["Documented"].median
    assert {each.peer for each in entries["lrgate"].over.values()} == {"Documented"}


def test_settings_that_spin_are_for_more_threads() -> None:
    ort = engines.by_name("ORT f32")
    assert not any("spinning" in settings for settings in ort.settings(1))
    assert len(ort.settings(2)) == 2 * len(ort.settings(1))


def test_engines_are_named_by_beginnings() -> None:
    assert [engine.name for engine in engines.selected(["numpy", "ORT int8"])] == [
        "NumPy",
        "ORT int8 dynamic",
        "ORT int8 QDQ",
    ]
    assert engines.selected(None) == engines.ENGINES
    with pytest.raises(ValueError, match=r"prefixes of NumPy, .*; got 'abacus'"):
        engines.selected(["abacus"])


def test_other_activations_cannot_be_folded() -> None:
    with pytest.raises(ValueError, match=r"relu on all layers except the last, .* tanh"):
        engines.folded(network(["relu", "tanh", "identity"]))


# --- compare -------------------------------------------------------------------------------------


@pytest.fixture
def affinity() -> Any:
    """Restore the CPU affinity: `compare.measure` pins its process, which is the test process."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    yield
    if before is not None:
        os.sched_setaffinity(0, before)


def measured(net: lrgate.Network, x: Any, **options: Any) -> compare.Comparison:
    options = {"batch_sizes": (1, 8), "seconds": 0.05, "engines": FEW, **options}
    return compare.measure("tiny", net, x, **options)


@pytest.mark.usefixtures("affinity")
def test_a_comparison_of_bytes_with_labels() -> None:
    net, x = network(), rows()
    y = net.predict(x)
    y[:60] = (y[:60] + 1) % 4
    found = measured(net, x, y=y, calibration=(x, y), optimized=False)
    assert [race.rows for race in found.races] == [1, 8]
    assert found.network == "12-20-16-4"
    assert found.measure == "classification error"
    assert found.error_dense == pytest.approx(60 / 420)
    assert found.multiply_adds == 12 * 20 + 20 * 16 + 16 * 4
    for race in found.races:
        names = [entry.name for entry in race.entries]
        assert names == ["lrgate", "lrgate dense", "lrgate, uint8 rows", "NumPy"]
        for entry in race.entries:
            assert entry.error == pytest.approx(60 / 420, abs=0.003)
            assert 0 < entry.low <= entry.high
            assert 0 < entry.median <= entry.p99
            assert entry.alone.calls >= 1
            assert 0 < entry.alone.median <= entry.alone.p99
            assert entry.alone.peer == ("NumPy" if entry.lrgate else None)
            sizes = [2 * 2**20, 8 * 2**20, 64 * 2**20] if race.rows == 1 else []
            assert [cold.read for cold in entry.cold] == sizes
            for cold in entry.cold:
                assert cold.calls >= 5 and cold.median > 0
                assert (cold.over is None) == (not entry.lrgate)
            assert entry.rows_per_second == pytest.approx(race.rows / entry.median)
            assert list(entry.over) == (["any", "f32"] if entry.lrgate else [])
            assert entry.plan == (("dense",) * 3 if entry.lrgate else ())
    starts = {start.name: start for start in found.starts}
    assert list(starts) == ["lrgate", "lrgate dense", "NumPy"]
    for start in starts.values():
        assert start.seconds > 0
        assert start.file_bytes > 4 * found.multiply_adds
    text = str(found)
    assert max(map(len, text.splitlines())) <= 100
    assert "times NumPy" in text
    assert "us per call after reading" in text and "; after 64 MB " in text.replace("\n    ", " ")
    assert json.loads(json.dumps(found.to_dict()))["races"][1]["rows"] == 8


@pytest.mark.usefixtures("affinity")
def test_a_comparison_that_optimises() -> None:
    net, x = network(), rows()
    found = measured(net, x.astype(np.float32), start=False)
    names = [entry.name for entry in found.races[0].entries]
    assert names == ["lrgate", "lrgate f32", "lrgate dense", "NumPy"]
    assert (found.calibration_rows, found.test_rows) == (210, 210)
    assert found.measure == "disagreement with the dense network"
    entries = {entry.name: entry for entry in found.races[0].entries}
    assert entries["lrgate"].predicted is not None
    assert entries["lrgate f32"].precision == "f32"
    assert entries["NumPy"].settings["weights"] in ("C", "F")
    assert entries["NumPy"].error == 0
    assert not found.starts


@pytest.mark.usefixtures("affinity")
def test_what_cannot_be_compared_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("out of\norder")

    def wrong(*_: Any) -> Any:
        return lambda x: np.zeros((len(x), SIZES[-1]), np.float32)

    numpy = engines.by_name("NumPy")
    chosen = (
        engines.Engine("Absent", "no-such-package", "f32", (), numpy.store, numpy.load),
        engines.Engine("Broken", "numpy", "f32", (), numpy.store, broken),
        engines.Engine("Wrong", "numpy", "f32", (), numpy.store, wrong),
        numpy,
    )
    monkeypatch.setattr(compare, "selected", lambda _: chosen)
    found = measured(network(), rows(60), optimized=False, start=False)
    assert [entry.name for entry in found.races[0].entries][-1] == "NumPy"
    missing = "no-such-package is not installed; pip install 'lrgate[bench-peers]'"
    assert found.left_out["Absent"] == missing
    assert found.left_out["Broken"] == "RuntimeError: out of"
    assert found.left_out["Wrong"].startswith("ValueError: its outputs differ")
    assert any("too few to split" in text for text in found.warnings)


@pytest.mark.usefixtures("affinity")
def test_what_fails_at_one_number_of_rows_is_left_out_there_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numpy = engines.by_name("NumPy")

    def load(path: Path, rows: int, threads: int, settings: engines.Settings) -> Any:
        if rows > 1:
            raise MemoryError("too many rows")
        return numpy.load(path, rows, threads, {"weights": "C"})

    picky = engines.Engine("Picky", "numpy", "f32", (), numpy.store, load)
    monkeypatch.setattr(compare, "selected", lambda _: (picky, numpy))
    found = measured(network(), rows(60), batch_sizes=(1, 8), optimized=False, start=False)
    names = [{entry.name for entry in race.entries} for race in found.races]
    assert "Picky" in names[0]
    assert "Picky" not in names[1]
    assert found.left_out == {"Picky, 8 rows per call": "MemoryError: too many rows"}
    assert "left out: Picky, 8 rows per call" in str(found)


@pytest.mark.usefixtures("affinity")
def test_settings_within_the_error_limit_come_before_faster_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numpy = engines.by_name("NumPy")

    def load(path: Path, rows: int, threads: int, settings: engines.Settings) -> Any:
        forward = numpy.load(path, rows, threads, {"weights": "C"})

        def slow(x: Any) -> Any:
            time.sleep(0.002)
            return forward(x)

        # In some rows the largest output becomes the smallest.
        def rough(x: Any) -> Any:
            out = np.array(forward(x))
            out[x[:, 0] > 0.8] *= -1
            return out

        return slow if settings["kind"] == "slow" else rough

    grid = ({"kind": "rough"}, {"kind": "slow"})
    peer = engines.Engine("Peer", "numpy", "int8", (), numpy.store, load, grid)
    monkeypatch.setattr(compare, "selected", lambda _: (peer,))
    monkeypatch.setitem(contestants._TOLERANCES, "int8", 10.0)
    found = measured(network(), rows(60), batch_sizes=(8,), optimized=False, start=False)
    entries = {entry.name: entry for entry in found.races[0].entries}
    assert entries["Peer"].settings == {"kind": "slow"}
    assert entries["Peer"].error <= found.error_limit
    assert entries["lrgate"].over["any"].peer == "Peer"
    monkeypatch.setattr(peer.__class__, "settings", lambda *_: [{"kind": "rough"}])
    found = measured(network(), rows(60), batch_sizes=(8,), optimized=False, start=False)
    entries = {entry.name: entry for entry in found.races[0].entries}
    assert entries["Peer"].error > found.error_limit
    assert not entries["lrgate"].over


def test_numbers_of_rows_beyond_reason_are_refused() -> None:
    for wrong in (0, 2_000_000_000):
        with pytest.raises(ValueError, match="batch_sizes must be from 1 to 1,000,000"):
            measured(network(), rows(60), batch_sizes=(wrong,))


@pytest.mark.usefixtures("affinity")
def test_peers_leave_out_other_activations_and_a_last_softmax_is_left_out_of_all() -> None:
    tanh = measured(network(["tanh", "relu", "identity"]), rows(), optimized=False, start=False)
    assert "got tanh, relu, identity" in tanh.left_out["NumPy"]
    assert not any(entry.over for race in tanh.races for entry in race.entries)
    softmax = network(["relu", "relu", "softmax"])
    found = measured(softmax, rows(), optimized=False, start=False)
    assert not found.left_out
    assert {entry.error for entry in found.races[0].entries} == {0.0}
    x = rows().astype(np.float32)
    assert (original(softmax).predict(x) == softmax.predict(x)).all()


def test_a_process_has_the_threads_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def environment(name: str) -> str | None:
        return process.fresh(os.getenv, name)

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
        assert environment(name) == "1"
    with pytest.raises(ValueError, match="threads must be at most"):
        process.pin(10_000)


def test_every_call_has_rows_even_where_there_are_few() -> None:
    x = np.arange(10).reshape(5, 2)
    calls = calls_of(x, 7)
    assert {call.shape for call in calls} == {(7, 2)}
    assert len({int(call[0, 0]) for call in calls}) == 5
    many = np.zeros((100, 2))
    assert all(np.shares_memory(call, many) for call in calls_of(many, 10))


def test_a_start_that_fails_says_why(tmp_path: Path) -> None:
    np.save(tmp_path / "row.npy", np.zeros((1, 12), np.float32))
    arguments = "NumPy", "NumPy", ("numpy",), tmp_path / "none.npz", tmp_path / "row.npy"
    with pytest.raises(RuntimeError, match="NumPy did not start: FileNotFoundError"):
        startup.measure(*arguments, threads=1, settings={"weights": "C"})


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    net, x = network(), rows()
    net.with_probe(x[:64]).save(folder / "net.npz")
    np.save(folder / "rows.npy", x)
    np.save(folder / "labels.npy", net.predict(x))
    np.save(folder / "few.npy", net.predict(x)[:5])
    return folder


def test_the_command(files: Path) -> None:
    argv = ["--rows", "rows.npy", "--labels", "labels.npy", "--calibration", "rows.npy"]
    options = ["--batch-sizes", "1,4", "--seconds", "0", "--engines", "numpy,sci", "--no-optimize"]
    done = subprocess.run(
        [sys.executable, "-m", "lrgate", "bench", "net.npz", *argv, *options, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=files,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["name"], found["threads"], found["error_dense"]) == ("net.npz", 1, 0)
    assert [race["rows"] for race in found["races"]] == [1, 4]


def test_the_command_on_the_probe(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--batch-sizes", "2", "--seconds", "0", "--engines", "numpy", "--no-optimize"]
    assert cli.main(["bench", str(files / "net.npz"), *options]) == 0
    out = capsys.readouterr().out
    assert "disagreement with the dense network on 64 rows" in out
    assert "2 rows per call" in out


def test_the_command_takes_the_task_of_a_model_that_returns_logits(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "logits.npz"
    arrays = {
        f"layers.{i}.{name}": getattr(layer, name)
        for i, layer in enumerate(network().layers)
        for name in ("weight", "bias")
    }
    np.savez(bare, **arrays)
    x = np.load(files / "rows.npy")
    outputs = lrgate.load(bare)(x)
    np.save(tmp_path / "labels.npy", outputs.argmax(axis=1))
    argv = [str(bare), "--rows", str(files / "rows.npy"), "--labels", str(tmp_path / "labels.npy")]
    options = ["--batch-sizes", "2", "--seconds", "0", "--engines", "numpy", "--no-optimize"]
    assert cli.main(["bench", *argv, *options]) == 2
    assert "y must have shape" in capsys.readouterr().err
    assert cli.main(["bench", *argv, *options, "--task", "classification", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["error_dense"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engines", "abacus"], "engines must be names or prefixes of "),
        (["--rows", "none.npy"], "none.npy: No such file or directory"),
        (["--rows", "rows.npy", "--labels", "few.npy"], "y must have shape (420,), one label"),
        (["--rows", "labels.npy"], "x must have shape (n, 12), got (420,)"),
        (["--threads", "10000"], "threads must be at most"),
    ],
)
def test_errors_of_the_command(
    options: list[str],
    message: str,
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(files)
    assert cli.main(["bench", "net.npz", "--seconds", "0", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lrgate: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "options", [["--batch-sizes", "1,1"], ["--batch-sizes", "0"], ["--engines", ","]]
)
def test_bad_arguments(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "net.npz", *options])
    assert caught.value.code == 2
    assert "usage: lrgate" in capsys.readouterr().err


def test_too_little_memory_is_one_line(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(compare, "run", out_of_memory)
    assert cli.main(["bench", str(files / "net.npz")]) == 2
    assert capsys.readouterr().err == "lrgate: error: not enough memory\n"


# --- the report of benches/peers -----------------------------------------------------------------


@pytest.fixture
def report() -> Any:
    pytest.importorskip("matplotlib")
    if not (Path(__file__).parent.parent / "benches" / "peers").is_dir():
        pytest.skip("benches are not here")
    return importlib.import_module("report")


def entry(name: str, microseconds: float, factor: float | None = None) -> dict[str, Any]:
    time = Timing(1, np.array([microseconds, 2 * microseconds]) * 1e-6, np.array([1e-6]))
    against = {"peer": "ORT int8 QDQ", "median": factor, "low": factor, "high": factor}
    return {
        "name": name,
        "lrgate": factor is not None,
        "precision": "int8",
        "settings": {},
        "error": 0.011 if factor else 0.01,
        "within_limit": True,
        "calls": 2,
        "median": microseconds * 1e-6,
        "p99": time.p99,
        "alone": {
            "calls": 9,
            "median": microseconds * 0.9e-6,
            "p99": microseconds * 1.8e-6,
            "over": None if factor is None else factor + 1,
            "peer": None if factor is None else "ORT int8 QDQ",
        },
        "cold": [
            {
                "read": megabytes * 2**20,
                "calls": 5,
                "median": microseconds * megabytes * 1e-6,
                "over": None if factor is None else against,
            }
            for megabytes in (2, 8, 64)
        ],
        "low": 1e-6,
        "high": 2e-6,
        "seconds_per_row": microseconds * 1e-6,
        "rows_per_second": 1e6 / microseconds,
        "over": {} if factor is None else {"any": against, "int8": against},
        "plan": [] if factor is None else ["gate-int8", "skip-int8"],
        "predicted": None if factor is None else 2.5,
    }


def work(factor: float, wrong: float = 0.0) -> dict[str, Any]:
    """The results file of a network, with three batch sizes on one thread."""
    races = [
        {"rows": n, "entries": [entry("lrgate", 3.0, factor), entry("ORT int8 QDQ", 30.0)]}
        for n in (1, 16, 256)
    ]
    races[0]["entries"][0] |= {"error": 0.011 + wrong, "within_limit": wrong == 0}
    start = Startup("lrgate", 0.1, 0.04, None, 1000)
    comparison = {
        "measure": "classification error",
        "error_dense": 0.01,
        "error_limit": 0.011 + 1e-9,
        "test_rows": 10_000,
        "threads": 1,
        "cpus": [0],
        "machine": {
            "cpu": "C",
            "platform": "P",
            "lrgate": "1",
            "instruction set": "i",
            "python": "3",
        },
        "versions": {"onnxruntime": "1.0"},
        "blas": "openblas",
        "warnings": [],
        "left_out": {"JAX": "jax is not installed"},
        "races": races,
        "starts": [asdict(start)],
        "network_bytes": {"lrgate": 2_000_000},
        "multiply_adds": 1_600_000,
        "seconds": 10.0,
    }
    return {
        "name": "shipped",
        "title": "The shipped",
        "command": "python train.py",
        "comparisons": {"1": comparison},
    }


def test_the_report_is_made_of_the_files_alone(report: Any, tmp_path: Path) -> None:
    folder, page = tmp_path / "results", tmp_path / "docs" / "benchmarks.md"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"has no \.json file"):
        report.write(folder, page)
    (folder / "shipped.json").write_text(json.dumps(work(12.5)), encoding="utf-8")
    report.write(folder, page)
    assert not page.exists(), "a page of one network would replace that of all"
    text = (folder / "details.md").read_text(encoding="utf-8")
    for expected in (
        "| shipped | 1 row, speed of the best peer | 8 | 12.50 (12.50 to 12.50) | reached |",
        "| shipped | 1 row alone, speed | 13 | 13.50 (13.50 to 13.50) | reached |",
        "| shipped | 1 row after 64 MB, speed | 6 | 12.50 (12.50 to 12.50) | reached |",
        "| ORT int8 QDQ | **30.00** | **30.00** | **30.00** | 1.00 % |",
        "| ORT int8 QDQ | 30.00 | 59.70 | 27.00 | 54.00 | 60.00 / 240 / 1,920 | 2 |",
        "Left out: JAX (jax is not installed).",
        "shipped at 1 on CPU 0",
    ):
        assert expected in text
    assert {path.name for path in folder.glob("*.svg")} == {"shipped.svg"}


def test_the_page_has_the_figures_of_all_networks(
    report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, page = tmp_path / "results", tmp_path / "docs" / "benchmarks.md"
    folder.mkdir()
    for name in report.ORDER:
        values = work(11.5) | {"name": name, "title": f"The {name}"}
        (folder / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    report.write(folder, page)
    text = page.read_text(encoding="utf-8")
    for expected in (
        "| *paper*: The paper | 3.00 / 30.00 ORT int8 QDQ | **11.50** (11.50 to 11.50); alone 12.5",
        "| *paper* | 6.00 / 60.00 ORT int8 QDQ | **11.50** (11.50 to 11.50) | 24.00 / 240 ORT int8",
        "| ORT int8 QDQ | 30.00 | 30.00 | 30.00 |",
        "| 1 row, speed of the best peer | wide 11.50 of 80 |",
        "| 1 row alone, speed | shipped 12.50 of 13 |",
        "| 1 row alone, median | signals 2.70 us of 2.00, iris 2.70 us of 0.25 |",
        "on 16 networks. Only",
        "CPU C; platform P; lrgate 1, i; Python 3; BLAS of NumPy openblas; onnxruntime 1.0.\n",
    ):
        assert expected in text
    assert "## Growth" not in text and "## Method" in text and "$" not in text
    pictures = {path.name: path.read_text("utf-8") for path in (page.parent / "images").iterdir()}
    assert set(pictures) == {"benchmarks-speed.svg"}
    assert ">svhn-sparse</text>" in pictures["benchmarks-speed.svg"]
    assert "prefers-color-scheme" in pictures["benchmarks-speed.svg"]
    drawn: list[Any] = []
    monkeypatch.setattr(report.growth, "markdown", lambda made: f"{made}")
    monkeypatch.setattr(report.growth, "draw_summary", lambda *given: drawn.append(given))
    (folder / "growth.json").write_text('{"curves": "all"}', encoding="utf-8")
    report.write(folder, page)
    assert "earlier version" not in page.read_text(encoding="utf-8")
    assert "{'curves': 'all'}" in (folder / "details.md").read_text(encoding="utf-8")
    assert "## Growth" in page.read_text(encoding="utf-8")
    assert drawn == [({"curves": "all"}, page.parent / "images" / "benchmarks-growth.svg")]


def test_a_partial_page_names_what_it_lacks_and_keeps_the_curves(
    report: Any, tmp_path: Path
) -> None:
    folder, page = tmp_path / "results", tmp_path / "docs" / "benchmarks.md"
    for each in (folder, page.parent / "images"):
        each.mkdir(parents=True)
    (page.parent / "images" / "benchmarks-growth.svg").write_text("<svg/>", encoding="utf-8")
    for name in report.ORDER[1:-1]:
        values = work(11.5) | {"name": name, "title": f"The {name}"}
        (folder / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    report.write(folder, page)
    assert not page.exists()
    report.write(folder, page, partial=True)
    text = page.read_text(encoding="utf-8")
    assert "on 14 networks. Only" in text
    assert "\n\nThis record lacks *shipped*, *dense*.\n\n" in text
    assert "The picture is that of an earlier version." in text
    # Another page has pictures of its own.
    form, other = report.TEMPLATE.with_name("page-avx2.md"), page.with_name("benchmarks-avx2.md")
    report.write(folder, other, form, partial=True)
    text = other.read_text(encoding="utf-8")
    assert "on 14 networks of that record" in text
    assert "$" not in text and "## Growth" not in text
    assert (page.parent / "images" / "benchmarks-avx2-speed.svg").exists()
    assert "(images/benchmarks-avx2-speed.svg)" in text


def test_two_threads_are_compared_with_one(report: Any) -> None:
    values = work(12.5)
    two = json.loads(json.dumps(values["comparisons"]["1"])) | {"threads": 2}
    two["races"][0]["entries"][0]["median"] /= 1.25
    values["comparisons"]["2"] = two
    lines = {line.what: line for line in report.targets(values, values["comparisons"]["1"])}
    line = lines["1 row, speed of one thread on two"]
    assert (line.verdict, line.short) == ("missed", "1.25 of 1.5")
    values["comparisons"]["1"]["multiply_adds"] = 100_000
    lines = {line.what: line for line in report.targets(values, values["comparisons"]["1"])}
    assert "1 row, speed of one thread on two" not in lines


def test_every_network_is_to_be_as_fast_as_the_best_peer(report: Any) -> None:
    values = work(0.94) | {"name": "cancer"}
    lines = list(report.targets(values, values["comparisons"]["1"]))
    assert [line.what for line in lines] == [
        f"{rows}, speed of the best peer, at least" for rows in ("1 row", "16 rows", "256 rows")
    ]
    assert {(line.target, line.verdict) for line in lines} == {("1", "missed")}


def test_a_picture_names_engines_that_not_every_number_of_threads_has(
    report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, second = work(12.5), work(12.5)["comparisons"]["1"]
    for comparison, added in ((values["comparisons"]["1"], "ORT f32"), (second, "JAX")):
        for race in comparison["races"]:
            race["entries"].insert(1, entry(added, 40.0))
    values["comparisons"]["2"] = second | {"threads": 2}
    figures: list[Any] = []
    monkeypatch.setattr(report, "save", lambda figure, path: figures.append(figure))
    report.draw_times(values, tmp_path / "shipped.png")
    one, two = figures[0].axes
    named = [text.get_text() for text in two.get_legend().get_texts()]
    assert named == ["lrgate", "ORT f32", "ORT int8 QDQ", "JAX"]
    looks = [
        {line.get_label(): (line.get_color(), line.get_marker()) for line in axis.get_lines()}
        for axis in (one, two)
    ]
    assert set(looks[0]) == {"lrgate", "ORT f32", "ORT int8 QDQ"}
    assert set(looks[1]) == {"lrgate", "ORT int8 QDQ", "JAX"}
    assert looks[0]["ORT int8 QDQ"] == looks[1]["ORT int8 QDQ"] != looks[0]["ORT f32"]
    report.plt.close(figures[0])


@pytest.mark.parametrize(
    ("factor", "wrong", "verdict"),
    [(8.1, 0.0, "reached"), (7.9, 0, "missed"), (20, 0.1, "missed")],
)
def test_targets_are_reached_at_an_error_that_counts(
    report: Any, factor: float, wrong: float, verdict: str
) -> None:
    values = work(factor, wrong)
    first = next(report.targets(values, values["comparisons"]["1"]))
    assert (first.what, first.verdict) == ("1 row, speed of the best peer", verdict)

"""Commands on model files: `optimize`, `convert`, `info`, `predict`, `check`, and their files."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shlex
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate import cli
from lrgate.cli.outputs import plain
from lrgate.planner import optimizer

COLUMNS = ("u", "v", "w", "x", "y", "z")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, a regressor and a multilabel network, with rows and labels in every format."""
    pandas = pytest.importorskip("pandas", reason="writes the tables")
    sparse = pytest.importorskip("scipy.sparse", reason="writes CSR matrices")
    path = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(16, 6)), rng.normal(size=16)
    last = rng.normal(size=(3, 16)), rng.normal(size=3)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    net = lrgate.Network.from_layers([hidden, last], classes=["a", "b", "c"])
    net.with_probe(x[:20]).save(path / "net.npz")
    lrgate.Network.from_layers([hidden, last], task="regression").save(path / "values.npz")
    lrgate.Network.from_layers([hidden, last], task="multilabel").save(path / "several.npz")
    np.save(path / "x.npy", x)
    np.savez(path / "x.npz", rows=x)
    sparse.save_npz(path / "csr.npz", sparse.csr_matrix(x))
    frame = pandas.DataFrame(x, columns=list(COLUMNS))
    frame.to_csv(path / "x.csv", index=False)
    frame.to_csv(path / "headless.csv", index=False, header=False)
    labels = net.predict(x)
    np.save(path / "y.npy", labels)
    pandas.DataFrame({"target": labels}).to_csv(path / "y.csv", index=False)
    pandas.DataFrame({"target": labels}).to_csv(path / "bare.csv", index=False, header=False)
    return path


@pytest.fixture(scope="module")
def net(folder: Path) -> lrgate.Network:
    return lrgate.load(folder / "net.npz")


def x_of(folder: Path) -> np.ndarray[Any, Any]:
    return np.asarray(np.load(folder / "x.npy"))


def fails(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The message of a command that ends with exit code 2 and one line on stderr."""
    assert cli.main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lrgate: error: ")
    assert err.count("\n") == 1
    return err


def call(*argv: object) -> int:
    return cli.main([str(word) for word in argv])


def process(*argv: object, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "lrgate", *map(str, argv)]
    return subprocess.run(command, input=data, capture_output=True, timeout=120, check=False)


# --- help, version, completion -------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_do_not_import_numpy(option: str) -> None:
    program = (
        "import sys\nfrom lrgate.cli import main\n"
        f"try:\n    main([{option!r}])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "sys.exit('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    expected = "optimize" if option == "--help" else lrgate.__version__
    assert expected in done.stdout.decode()


def test_public_names_are_imported_when_they_are_used() -> None:
    program = (
        "import sys, lrgate; assert 'numpy' not in sys.modules\n"
        "from lrgate import Network; import pickle\n"
        "assert pickle.loads(pickle.dumps(Network)) is lrgate.Network\n"
        "assert lrgate.estimators.__name__ == 'lrgate.estimators'\n"
        "try:\n    lrgate.nothing\nexcept AttributeError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.stdout.decode().strip() == "module 'lrgate' has no attribute 'nothing'"


@pytest.mark.parametrize("command", list(cli._COMMANDS))
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: lrgate {command}" in capsys.readouterr().out


def test_the_page_has_an_example_of_each_command() -> None:
    page = Path(__file__).parent.parent / "docs" / "cli.md"
    if not page.exists():
        pytest.skip("no docs here")
    text = page.read_text(encoding="utf-8")
    lines = re.findall(r"`lrgate ([a-z]+.*?)`", text)
    examples = [shlex.split(line) for line in lines if "COMMAND" not in line]
    assert {words[0] for words in examples} == set(cli._COMMANDS)
    for words in examples:
        assert cli._parser([words[0]]).parse_args(words).run is not None


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="writes the scripts")
    with pytest.raises(SystemExit) as caught:
        cli.main(["--print-completion", shell])
    assert caught.value.code == 0
    script = capsys.readouterr().out
    assert "optimize" in script
    assert "batch-sizes" in script


@pytest.mark.parametrize(
    ("module", "argv", "extra"),
    [
        ("shtab", ["--print-completion", "bash"], "completion"),
        ("pandas", ["predict", "net.npz", "x.csv"], "tables"),
        ("pyarrow", ["predict", "net.npz", "x.npy", "-o", "new.parquet"], "tables"),
        ("scipy.sparse", ["predict", "net.npz", "csr.npz"], "sparse"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    module: str,
    argv: list[str],
    extra: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.parquet", None)
    assert f'pip install "lrgate[{extra}]"' in fails(capsys, *argv)
    assert not Path("new.parquet").exists()


def test_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrgate.cli import version

    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(version, "run", interrupted)
    assert cli.main(["version"]) == 130


# --- optimize ------------------------------------------------------------------------------------


def test_optimize_and_check(folder: Path, tmp_path: Path, capfd: Any) -> None:
    out = tmp_path / "fast.npz"
    argv = ["--data", folder / "x.csv", "--labels", folder / "y.csv", "--batch-sizes", "1"]
    argv += ["--budget", "0.02", "--seed", "3", "--confidence", "0.9", "--threads", "1", "-o", out]
    assert call("optimize", folder / "net.npz", *argv) == 0
    shown, err = capfd.readouterr()
    assert re.search(r"\b2 (points )?allowed", shown)
    assert err == ""  # progress only on a terminal
    fast = lrgate.load(out)
    assert fast.report is not None
    found = fast.report.budget, fast.report.seed, fast.report.confidence, fast.report.num_threads
    assert found == (0.02, 3, 0.9, 1)
    assert fast.metadata["columns"] == list(COLUMNS)
    check = ["--against", folder / "net.npz", "--data", folder / "x.csv", "--budget", "0.02"]
    assert call("check", out, *check) == 0
    assert "share of changed labels" in capfd.readouterr().out
    assert call("info", out) == 0
    assert "times as fast as dense" in capfd.readouterr().out


def test_optimize_as_json_and_to_stdout(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", folder / "x.npy", "--batch-sizes", "1", "--precision", "f32", "--json"]
    out = tmp_path / "fast.safetensors"
    assert call("optimize", folder / "values.npz", *options, "-o", out) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["output"], found["budget_missed"]) == (str(out), False)
    assert lrgate.results.OptimizeReport.from_dict(found["report"]).budget == 0.001
    done = process("optimize", folder / "values.npz", *options, "-o", "-", "--format", "npz")
    assert done.returncode == 0
    assert json.loads(done.stderr)["output"] is None
    (tmp_path / "piped.npz").write_bytes(done.stdout)
    assert lrgate.load(tmp_path / "piped.npz").output_size == 3


def test_int8_beyond_the_budget_is_a_miss(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", folder / "x.npy", "--batch-sizes", "1", "--precision", "int8"]
    for budget in ("1e-9", "0"):
        out = tmp_path / f"{budget}.npz"
        argv = ["--budget", budget, "-o", out]
        assert call("optimize", folder / "values.npz", *options, *argv) == 1
        shown, err = capsys.readouterr()
        assert "note: " in shown
        assert err.startswith("lrgate: budget missed: no layer can be int8 within a budget of ")
        assert err.count("\n") == 1
        report = lrgate.load(out).report
        assert report is not None
        assert report.increase_bound <= report.budget


def test_int8_that_few_rows_cannot_show_is_no_miss(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "few.npy", x_of(folder)[:60])
    options = ["--data", tmp_path / "few.npy", "--batch-sizes", "1", "--precision", "int8"]
    out = tmp_path / "fast.npz"
    assert call("optimize", folder / "net.npz", *options, "--budget", "0.0005", "-o", out) == 0
    shown, err = capsys.readouterr()
    assert "rows in total would" in " ".join(shown.split())
    assert err == ""


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(400, np.nan), "y must hold labels like the network's classes"),
        (np.array(["a"] * 399 + ["d"]), "y must hold the network's classes, got 'd' in row 399"),
        (np.array(["a"] * 10), "y must have shape (400,)"),
    ],
)
def test_wrong_labels(
    labels: Any, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "labels.npy"
    np.save(path, labels)
    argv = ["--data", folder / "x.npy", "--labels", path, "-o", tmp_path / "out.npz"]
    assert message in fails(capsys, "optimize", folder / "net.npz", *argv)
    assert not (tmp_path / "out.npz").exists()


def test_labels_that_are_missing_in_a_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("target\n" + "a\n" * 5 + "\n" + "b\n" * 394, encoding="utf-8")
    argv = ["--data", folder / "x.npy", "--labels", path, "-o", tmp_path / "out.npz"]
    message = fails(capsys, "optimize", folder / "net.npz", *argv)
    assert "y must hold the network's classes, got nan in row 5" in message


@pytest.mark.parametrize("name", ["y.npy", "y.csv", "bare.csv"])
def test_labels_from_files(name: str, folder: Path) -> None:
    from lrgate.cli.rows import read_labels

    labels = read_labels(str(folder / name))
    assert labels.tolist() == np.load(folder / "y.npy").tolist()
    with pytest.raises(ValueError, match="labels must be in a file, got -"):
        read_labels("-")


def test_numbers_as_labels_with_a_header(tmp_path: Path) -> None:
    from lrgate.cli.rows import read_labels

    path = tmp_path / "labels.csv"
    path.write_text("class\n3\n1\n3\n", encoding="utf-8")
    labels = read_labels(str(path))
    assert (labels.tolist(), labels.dtype.kind) == ([3, 1, 3], "i")
    path.write_text("p,q\n0.5,1\n2,3\n", encoding="utf-8")
    assert read_labels(str(path)).tolist() == [[0.5, 1.0], [2.0, 3.0]]


def test_optimize_is_given_a_task(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layers = [(np.eye(6), np.zeros(6)), (np.eye(6)[:2], np.zeros(2))]
    lrgate.Network.from_layers(layers).save(tmp_path / "open.npz")
    seen: list[lrgate.Network] = []

    def optimized(net: lrgate.Network, *_: object, **__: object) -> lrgate.Network:
        seen.append(net)
        raise ValueError("enough")

    monkeypatch.setattr("lrgate.cli.optimize.optimize", optimized)
    assert cli.optimize.optimize is optimized is not optimizer.optimize  # type: ignore[attr-defined]
    argv = ["--data", folder / "x.npy", "--classes", "7,8", "-o", tmp_path / "out.npz"]
    assert call("optimize", tmp_path / "open.npz", *argv) == 2
    assert seen[0].classes is not None
    assert seen[0].classes.tolist() == [7, 8]


# --- predict -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "csr.npz", "x.csv", "headless.csv"])
def test_predict_reads_every_format(
    name: str, folder: Path, net: lrgate.Network, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("predict", folder / "net.npz", folder / name) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["label", *net.predict(x_of(folder)).tolist()]


def test_predict_reads_and_writes_parquet(
    folder: Path, net: lrgate.Network, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="reads and writes .parquet")
    arrow = pytest.importorskip("pyarrow", reason="reads and writes .parquet")
    x = x_of(folder)
    table = arrow.Table.from_arrays([arrow.array(c) for c in x.T], names=list(COLUMNS))
    parquet.write_table(table, tmp_path / "x.parquet")
    out = tmp_path / "y.parquet"
    assert call("predict", folder / "net.npz", tmp_path / "x.parquet", "-o", out) == 0
    assert parquet.read_table(out).to_pydict() == {"label": net.predict(x).tolist()}
    assert (
        call("predict", folder / "net.npz", tmp_path / "x.parquet", "--proba", "-o", out, "--force")
        == 0
    )
    found = parquet.read_table(out)
    assert found.column_names == ["a", "b", "c"]
    assert np.array_equal(np.stack([*map(np.asarray, found.columns)], 1), net.predict_proba(x))


@pytest.mark.parametrize(
    ("name", "option", "columns"),
    [
        ("net", "--proba", ["a", "b", "c"]),
        ("net", "--raw", ["output_0", "output_1", "output_2"]),
        ("values", None, ["value_0", "value_1", "value_2"]),
        ("several", None, ["label_0", "label_1", "label_2"]),
        ("several", "--proba", ["label_0", "label_1", "label_2"]),
    ],
)
def test_predict_writes_numbers_without_loss(
    name: str, option: str | None, columns: list[str], folder: Path, tmp_path: Path
) -> None:
    net, x = lrgate.load(folder / f"{name}.npz"), x_of(folder)
    method = {"--proba": net.predict_proba, "--raw": net.forward, None: net.predict}[option]
    argv = [] if option is None else [option]
    out = tmp_path / "out.csv"
    assert call("predict", folder / f"{name}.npz", folder / "x.npy", *argv, "-o", out) == 0
    head, *lines = out.read_text(encoding="utf-8").splitlines()
    assert head.split(",") == columns
    assert np.array_equal(np.array([line.split(",") for line in lines], np.float32), method(x))
    out = tmp_path / "out.npy"
    assert call("predict", folder / f"{name}.npz", folder / "x.npy", *argv, "-o", out) == 0
    assert np.array_equal(np.load(out), method(x))


def test_predict_takes_the_task_of_a_file_without_one(
    net: lrgate.Network, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare, x = tmp_path / "bare.npz", x_of(folder)
    arrays = {
        f"layers.{i}.{name}": getattr(layer, name)
        for i, layer in enumerate(net.layers)
        for name in ("weight", "bias")
    }
    np.savez(bare, **arrays)
    assert "--proba needs" in fails(capsys, "predict", bare, folder / "x.npy", "--proba")
    out, options = tmp_path / "out.npy", ("--task", "classification", "--classes", "a,b,c")
    assert call("predict", bare, folder / "x.npy", *options, "-o", out) == 0
    assert np.array_equal(np.load(out), net.predict(x))
    assert call("predict", bare, folder / "x.npy", *options, "--proba", "-o", out, "--force") == 0
    assert np.array_equal(np.load(out), net.predict_proba(x))
    regression = ("predict", folder / "net.npz", folder / "x.npy", "--task", "regression")
    assert "task" in fails(capsys, *regression)


def test_predict_in_parts_is_predict_of_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrgate.cli import predict

    monkeypatch.setattr(predict, "_LEAST_ROWS", 150)
    net, x = lrgate.load(folder / "net.npz"), x_of(folder)
    plan = [(1, ["dense"] * 2, ["f32"] * 2), (100, ["skip"] * 2, ["f32"] * 2)]
    planned = net._with_engine_plan(net.engine.with_plan(plan))
    planned.save(tmp_path / "net.npz")
    for name in ("x.npy", "csr.npz", "x.csv"):
        out = tmp_path / f"{name}.npy"
        assert call("predict", tmp_path / "net.npz", folder / name, "--raw", "-o", out) == 0
        assert np.array_equal(np.load(out), planned(x))


@pytest.mark.parametrize("name", ["x.csv", "headless.csv", "x.npy"])
def test_predict_reads_stdin(
    name: str,
    folder: Path,
    net: lrgate.Network,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = io.BytesIO((folder / name).read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content))
    assert call("predict", folder / "net.npz", "-") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["label", *net.predict(x_of(folder)).tolist()]


def test_pipes(folder: Path, net: lrgate.Network) -> None:
    argv = ["-", "-o", "-", "--format", "npy"]
    done = process("predict", folder / "net.npz", *argv, data=(folder / "x.csv").read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert np.load(io.BytesIO(done.stdout)).tolist() == net.predict(x_of(folder)).tolist()


def test_a_closed_pipe(folder: Path) -> None:
    command = [sys.executable, "-m", "lrgate", "predict", str(folder / "net.npz"), "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stdin is not None
        running.stdin.write((folder / "x.npy").read_bytes())
        running.stdin.close()
        assert running.stderr is not None
        assert running.stderr.read() == b""


def test_no_rows(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.csv").write_text("u,v,w,x,y,z\n", encoding="utf-8")
    np.save(tmp_path / "x.npy", np.zeros((0, 6)))
    for name in ("x.csv", "x.npy"):
        assert call("predict", folder / "net.npz", tmp_path / name) == 0
        assert capsys.readouterr().out == "label\n"


def test_rows_with_missing_values_are_named(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lrgate.cli import predict

    monkeypatch.setattr(predict, "_LEAST_ROWS", 150)
    x = x_of(folder)
    x[200, 3] = np.nan
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "out.csv"
    message = fails(capsys, "predict", folder / "net.npz", tmp_path / "x.npy", "-o", out)
    assert "after the first 150 rows: " in message
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("v,u,w,x,y,z\n1,2,3,4,5,6\n", "column 0 must be 'u', got 'v'"),
        ("u,v,w,x,y,q\n1,2,3,4,5,6\n", "it has no column 'z'"),
        ("u,v,w,x,y,z,id\n1,2,3,4,5,6,7\n", "the model takes no column 'id'"),
        ("1,2,3,4,5\n", "x must have shape (n, 6), got (1, 5)"),
        ("u,v,w,x,y,z\n1,2,3,4,5,6,7\n", "must have as many cells as the first line"),
        ("u,v,w,x,y,z\n1,2,3,4,5,red\n", 'column "z"'),
        ("u,v,w,x,y,z\n1,2,3,4,5,6\n1,2,3,4,5,6,7,8\n", "expected 6 fields"),
    ],
)
def test_other_columns(
    lines: str,
    message: str,
    folder: Path,
    net: lrgate.Network,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    net.with_metadata({"columns": list(COLUMNS)}).save(tmp_path / "net.npz")
    (tmp_path / "x.csv").write_text(lines, encoding="utf-8")
    err = fails(capsys, "predict", tmp_path / "net.npz", tmp_path / "x.csv")
    assert message.lower() in err.lower()
    assert f"{tmp_path / 'x.csv'}: " in err


def test_probabilities_of_a_regressor(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, "predict", folder / "values.npz", folder / "x.npy", "--proba")
    assert "--proba needs a classifier" in message


# --- hostile and wrong files ---------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def hostile(kind: str, path: Path) -> Path:
    if kind == "pickle":
        path.with_suffix(".npy").write_bytes(pickle.dumps(Evil()))
        return path.with_suffix(".npy")
    if kind == "objects":
        np.save(path.with_suffix(".npy"), np.array([Evil()], object), allow_pickle=True)
        return path.with_suffix(".npy")
    path = path.with_suffix(".npz")
    if kind == "objects in an archive":
        np.savez(path, x=np.array([Evil()], object))
    elif kind == "pickle as archive":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "no array in an archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", b"nothing")
    elif kind == "huge array in an archive":
        header = io.BytesIO()
        shape = {"descr": "<f4", "fortran_order": False, "shape": (1 << 50, 6)}
        np.lib.format.write_array_header_1_0(header, shape)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", header.getvalue())
    elif kind == "indices beyond the columns":
        shape, pointers = np.array([1, 6]), np.array([0, 1])
        np.savez(
            path, format=b"csr", shape=shape, data=np.ones(1), indices=[1 << 20], indptr=pointers
        )
    elif kind == "pointers beyond the data":
        shape, pointers = np.array([1, 6]), np.array([0, 1 << 20])
        np.savez(path, format=b"csr", shape=shape, data=np.ones(1), indices=[0], indptr=pointers)
    elif kind == "other matrix":
        np.savez(path, format=b"coo", shape=np.array([1, 6]), data=np.ones(1))
    elif kind == "truncated archive":
        np.savez(path, x=np.zeros((100, 6)))
        path.write_bytes(path.read_bytes()[:-50])
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "pickle",
        "objects",
        "objects in an archive",
        "pickle as archive",
        "no array in an archive",
        "huge array in an archive",
        "indices beyond the columns",
        "pointers beyond the data",
        "other matrix",
        "truncated archive",
    ],
)
def test_hostile_data(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = hostile(kind, tmp_path / "x")
    message = fails(capsys, "predict", folder / "net.npz", path)
    assert "executed" not in message
    assert "allow_pickle" not in message
    if kind != "huge array in an archive":
        assert str(path) in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.npz", "No such file or directory"),
        ("model.pt", "a pickle may run any code"),
        ("model.txt", "path must end in .npz, .safetensors, .onnx, .pt2 or .keras"),
        ("x.npz", "rows"),
    ],
)
@pytest.mark.parametrize("command", ["info", "check", "profile", "bench"])
def test_files_that_are_no_model(
    command: str, name: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(capsys, command, folder / name)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00,\x00\n", b'"1,2\n'])
def test_files_that_are_no_table(
    content: bytes, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    argv = ["profile", folder / "net.npz", "--rows", path, "--seconds", "0"]
    fails(capsys, *argv)


def test_a_parquet_file_that_is_none(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow", reason="reads .parquet")
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1nothing")
    assert "expected a .parquet file" in fails(capsys, "predict", folder / "net.npz", path)
    missing = tmp_path / "y.parquet"
    assert "No such file" in fails(capsys, "predict", folder / "net.npz", missing)


# --- outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["optimize", "convert", "predict"])
def test_outputs_are_checked_before_long_work(
    command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suffix = ".csv" if command == "predict" else ".npz"
    rows = {"optimize": ["--data", "missing"], "predict": ["missing"], "convert": []}[command]

    def refused(out: object, *options: object) -> str:
        return fails(capsys, command, folder / "missing.npz", *rows, "-o", out, *options)

    there = tmp_path / f"there{suffix}"
    there.write_text("precious", encoding="utf-8")
    assert f"{there}: it exists: --force replaces it" in refused(there)
    assert there.read_text(encoding="utf-8") == "precious"
    assert "missing.npz: No such file" in refused(there, "--force")
    assert "its folder does not exist" in refused(tmp_path / "none" / f"out{suffix}")
    assert "its folder does not exist" in refused(there / f"out{suffix}")
    assert "-o must end in ." in refused(tmp_path / "out.txt")
    folder_out = tmp_path / f"folder{suffix}"
    folder_out.mkdir()
    assert "directory" in refused(folder_out)
    other = "safetensors" if suffix == ".npz" else "npy"
    assert "--format must be that of the file" in refused(
        tmp_path / f"n{suffix}", "--format", other
    )
    if command != "predict":
        assert "--format must be one of" in refused("-")


def test_a_folder_that_cannot_be_written_to(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("this user may write to every folder")
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        out = tmp_path / "out.npz"
        assert "cannot be written to" in fails(capsys, "convert", folder / "net.npz", "-o", out)
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_a_file_that_appears_meanwhile_is_kept(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lrgate.cli import convert, predict

    def loading(out: Path) -> Any:
        def load(path: str, **options: Any) -> lrgate.Network:
            out.write_text("precious", encoding="utf-8")
            return lrgate.load(path, **options)

        return load

    for module, argv in ((convert, ["out.npz"]), (predict, ["out.csv"])):
        out = tmp_path / argv[0]
        monkeypatch.setattr(module, "load", loading(out))
        rows = [folder / "x.npy"] if module is predict else []
        name = module.__name__.rpartition(".")[2]
        assert "it exists" in fails(capsys, name, folder / "net.npz", *rows, "-o", out)
        assert out.read_text(encoding="utf-8") == "precious"
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "out.npz"]


# --- convert, info, check ------------------------------------------------------------------------


def test_convert(folder: Path, net: lrgate.Network, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    assert call("convert", folder / "net.npz", "-o", out) == 0
    assert np.array_equal(lrgate.load(out)(x_of(folder)), net(x_of(folder)))
    done = process("convert", folder / "net.npz", "-o", "-", "--format", "safetensors")
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", out.read_bytes())


def test_convert_declares_classes(folder: Path, tmp_path: Path) -> None:
    layers = [(np.eye(6)[:2], np.zeros(2))]
    lrgate.Network.from_layers(layers).save(tmp_path / "open.npz")
    out = tmp_path / "named.npz"
    assert call("convert", tmp_path / "open.npz", "--classes", "no,yes", "-o", out) == 0
    assert set(lrgate.load(out).predict(x_of(folder))) <= {"no", "yes"}


def test_convert_to_and_from_onnx(
    folder: Path, net: lrgate.Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx", reason="reads and writes .onnx")
    if not hasattr(lrgate.Network, "to_onnx"):
        pytest.skip("no writer of .onnx")
    onnx, back = tmp_path / "net.onnx", tmp_path / "back.npz"
    assert call("convert", folder / "net.npz", "-o", onnx) == 0
    assert call("convert", onnx, "-o", back, "--no-verify") == 0
    assert lrgate.load(back).predict(x_of(folder)).tolist() == net.predict(x_of(folder)).tolist()
    check = ["--against", folder / "net.npz", "--data", folder / "x.npy"]
    assert call("check", onnx, *check) == 0
    capsys.readouterr()
    assert call("info", onnx, "--json") == 0
    assert json.loads(capsys.readouterr().out)["format"] == "onnx"


def test_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("info", folder / "net.npz") == 0
    text = capsys.readouterr().out
    assert "classes      a, b, c" in text
    assert "probe        20 rows" in text
    assert max(map(len, text.splitlines()[1:])) <= 79
    assert call("info", folder / "net.npz", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"][0] == {
        "inputs": 6,
        "outputs": 16,
        "computed_units": 16,
        "activation": "relu",
        "gate_rank": None,
        "factors_rank": None,
        "int8": False,
    }
    assert (found["task"], found["classes"]) == ("classification", ["a", "b", "c"])
    assert (found["parameters"], found["probe_rows"], found["report"]) == (163, 20, None)
    assert found["file_bytes"] == (folder / "net.npz").stat().st_size


def test_info_of_all_parts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(16, 6)), None), (rng.normal(size=(1, 16)), None)]
    net = lrgate.Network.from_layers(
        layers, input_scale=0.5, input_shift=np.arange(6.0), input_range=(-9, 9)
    )
    gate = lrgate.estimators.svd(net.layers[0]).gate(3)
    net = net.with_gates({0: gate}).quantize(x_of(folder))
    net.tune(x_of(folder), seconds=0.01).save(tmp_path / "net.npz")
    assert call("info", tmp_path / "net.npz") == 0
    text = capsys.readouterr().out
    for line in ("input scale  0.5", "input shift  0 to 5", "input range  -9 to 9", "measured on"):
        assert line in text
    assert call("info", tmp_path / "net.npz", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"][0]["gate_rank"] == 3
    assert any(layer["int8"] for layer in found["layers"])
    assert (found["input_scale"], found["input_range"]) == (0.5, [-9, 9])


def test_check_of_the_probe(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("check", folder / "net.npz") == 0
    assert "outputs on 20 stored rows differ by at most" in capsys.readouterr().out
    assert call("check", folder / "net.npz", "--json") == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    assert "it stores no outputs" in fails(capsys, "check", folder / "values.npz")

    def damaged(_: lrgate.Network) -> float:
        raise ValueError("the probe's outputs differ")

    monkeypatch.setattr(lrgate.Network, "check", damaged)
    assert call("check", folder / "net.npz", "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["passed"] is False
    assert err == "lrgate: check failed: the probe's outputs differ\n"


@pytest.mark.parametrize("name", ["net", "values", "several"])
def test_check_against_the_original(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = lrgate.load(folder / f"{name}.npz")
    first, last = original.layers
    weight = last.weight.copy()
    weight[0] *= 1.5
    other = lrgate.Network.from_layers(
        [first, (weight, last.bias)],
        task=original.task,
        classes=original.classes if original.task == "classification" else None,
    )
    other.save(tmp_path / "other.npz")
    argv = ["--against", folder / f"{name}.npz", "--data", folder / "x.npy", "--json"]
    assert call("check", tmp_path / "other.npz", *argv) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    x = x_of(folder)
    if name == "values":
        y = original(x).astype(np.float64)
        variance = np.square(y - y.mean(axis=0)).sum(axis=1).mean()
        expected = np.square(other(x) - y).sum(axis=1).mean() / variance
    else:
        expected = np.mean(other.predict(x) != original.predict(x))
    assert found["error"] == pytest.approx(expected, rel=1e-3)
    assert found["largest_difference"] == pytest.approx(np.abs(other(x) - original(x)).max())
    assert (found["passed"], found["rows"]) == (False, 400)
    assert err.startswith("lrgate: check failed: ")
    assert call("check", tmp_path / "other.npz", *argv, "--budget", "1") == 0


def test_check_of_networks_that_do_not_fit(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    against = ["--against", folder / "net.npz"]
    assert "must be given together" in fails(capsys, "check", folder / "net.npz", *against)
    lrgate.Network.from_layers([(np.eye(4), np.zeros(4))]).save(tmp_path / "wide.npz")
    data = ["--data", folder / "x.npy"]
    message = fails(capsys, "check", tmp_path / "wide.npz", *against, *data)
    assert "inputs and outputs must be (4, 4), got (6, 3)" in message
    against = ["--against", folder / "values.npz"]
    message = fails(capsys, "check", folder / "net.npz", *against, *data)
    assert "task must be 'regression'" in message


# --- the other commands --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.npz", "csr.npz", "x.csv"])
def test_profile_takes_every_data_file(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--rows", folder / name, "--seconds", "0", "--json"]
    assert call("profile", folder / "net.npz", *argv) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 400


def test_bench_takes_every_data_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def run(*args: Any, calibration: Any, **_: Any) -> Any:
        seen.extend([*args, calibration[0]])
        raise ValueError("enough")

    monkeypatch.setattr("lrgate.bench.compare.run", run)
    options = ["--rows", folder / "x.csv", "--labels", folder / "bare.csv"]
    options += ["--calibration", folder / "csr.npz"]
    assert "enough" in fails(capsys, "bench", folder / "net.npz", *options)
    name, _, rows, labels, calibration = seen
    assert name == "net.npz"
    assert labels.tolist() == np.load(folder / "y.npy").tolist()
    for array in (rows, calibration):
        np.testing.assert_array_equal(array.astype(np.float32), x_of(folder))


def test_json_has_no_numbers_that_json_does_not_have() -> None:
    assert plain({"a": [float("inf"), 1.0], "b": (float("nan"),)}) == {
        "a": [None, 1.0],
        "b": [None],
    }

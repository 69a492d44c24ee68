"""The benchmark's networks and growth curves at small sizes, without training on real data."""

from __future__ import annotations

import gzip
import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate import estimators

if not (Path(__file__).resolve().parents[1] / "benches" / "peers").is_dir():
    pytest.skip("no benches here", allow_module_level=True)
growth: Any = importlib.import_module("growth")
works: Any = importlib.import_module("works")
tasks: Any = importlib.import_module("tasks")

SHAPE = growth.Shape(width=256, density=1 / 16, rank=8, inputs=64)


def idx(array: np.ndarray[Any, Any]) -> bytes:
    sizes = np.array(array.shape, ">u4").tobytes()
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of data sets with 40 training and 20 test images of 28 by 28 random pixels."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for name, n in (("train", 40), ("t10k", 20)):
        x = rng.integers(256, size=(n, 28, 28), dtype=np.uint8)
        y = rng.integers(10, size=n, dtype=np.uint8)
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(idx(x))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(idx(y))
    return folder.parent


def store(run: Path, images: Path, inputs: int, command: str) -> lrgate.Network:
    """Write a network as training writes it to the folder of a run."""
    rng = np.random.default_rng(0)
    sizes = (inputs, 12, 10)
    layers = [
        (rng.normal(size=(sizes[i + 1], sizes[i])), rng.normal(size=sizes[i + 1])) for i in range(2)
    ]
    md5 = works.data.load(images / "mnist").checksums
    net = lrgate.Network.from_layers(layers, task="classification", input_scale=1 / 255)
    net = net.with_metadata({"command": command, "seed": 1, "data": {"md5": md5}})
    run.mkdir(parents=True)
    net.save(run / works.NETWORK)
    return net


def test_a_trained_network_is_reused_with_its_rows(tmp_path: Path, images: Path) -> None:
    command = "python training/train.py --preset wide --data-dir DATA_DIR"
    net = store(tmp_path / "runs" / "wide", images, 32 * 32, command)
    (work,) = works.works(images, tmp_path / "runs", ["wide"])
    rows = works.data.pad(works.data.load(images / "mnist"), 2)
    assert work.command == command
    assert work.uint8 and work.fit_x.dtype == work.test_x.dtype == np.uint8
    # All training rows with their labels, in another order.
    place = {row.tobytes(): label for row, label in zip(rows.x_train, rows.y_train, strict=True)}
    assert [place[row.tobytes()] for row in work.fit_x] == work.fit_y.tolist()
    assert len({row.tobytes() for row in work.fit_x}) == 40
    np.testing.assert_array_equal(work.net(work.test_x), net(rows.x_test))
    assert works.error(work.net, work) == np.mean(net(rows.x_test).argmax(1) != rows.y_test)
    assert works.densities(work)[0] == np.mean(rows.x_test != 0)


def test_a_network_of_other_options_or_data_is_refused(tmp_path: Path, images: Path) -> None:
    other = "python training/train.py --preset paper --epochs 18 --data-dir DATA_DIR"
    store(tmp_path / "a" / "paper", images, 784, other)
    with pytest.raises(ValueError, match="was made by"):
        list(works.works(images, tmp_path / "a", ["paper"]))
    store(tmp_path / "b" / "paper", images, 784, other.replace("18", "17"))
    labels = images / "mnist" / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(idx(np.zeros(20, np.uint8)))
    with pytest.raises(ValueError, match="other data"):
        list(works.works(images, tmp_path / "b", ["paper"]))


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 'wider'"):
        next(works.works(tmp_path, tmp_path, ["wider"]))


def test_what_is_missing_is_trained_and_what_was_interrupted_continues(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "python training/train.py --preset svhn --data-dir DATA_DIR"
    store(tmp_path / "made", images, 784, command)
    (images / "mnist").rename(images / "svhn")
    trainer = tmp_path / "train.py"
    run = tmp_path / "runs" / "svhn"
    monkeypatch.setattr(works, "TRAINING", tmp_path)
    trainer.write_text(f"open({str(run / 'last.pt')!r}, 'w'); exit('out of luck')")
    with pytest.raises(RuntimeError, match=r"train\.log"):
        next(works.works(images, tmp_path / "runs", ["svhn"]))
    assert "out of luck" in (run / "train.log").read_text()
    trainer.write_text(
        "import shutil, sys\n"
        "print(*sys.argv[1:])\n"
        f"shutil.copy({str(tmp_path / 'made' / works.NETWORK)!r}, sys.argv[-4])\n"
    )
    (work,) = works.works(images, tmp_path / "runs", ["svhn"])
    assert work.command == command
    asked = f"--preset svhn --data-dir {images / 'svhn'} --out-dir {run}"
    target = f"--export {run / works.NETWORK} --export-estimator none --resume"
    assert f"{asked} {target}\n" in (run / "train.log").read_text()


def test_every_unit_of_the_dense_network_is_on() -> None:
    work = works._dense((16, 32, 32, 10), rows=2000)
    assert work.fit_y is None and work.test_y is None
    assert works.densities(work) == [1, 1, 1]
    assert works.error(work.net, work) is None


@pytest.mark.parametrize(("outputs", "centred"), [(1, True), (2, True), (2, False)])
def test_a_task_of_labels_gives_the_classifier_that_scikit_learn_fits(
    outputs: int, centred: bool
) -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=(200, 6)).astype(np.float32)
    x[:, 5] = 7  # a column that never varies
    y = (x[:, 0] > x[:, 1]).astype(np.int64)
    net = tasks.fitted(tasks.Task("", x, y, (256, 256), outputs, centred=centred))
    shapes = [layer.weight.shape for layer in net.layers]
    assert shapes == [(256, 6), (256, 256), (outputs, 256)]
    assert (net.input_shift is not None) == centred
    assert np.mean(net.predict(x) == y) > 0.95


def test_a_task_of_values_gives_a_regressor_of_the_values_as_they_are() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 4)).astype(np.float32)
    y = (100 + 7 * x @ rng.normal(size=(4, 3))).astype(np.float32)
    task = tasks.Task("", x, y, (32,), 3)
    net = tasks.fitted(task)
    work = works.Work("", "", net, x, y, x, y, uint8=False, command="")
    assert net.task == "regression"
    assert works.error(net, work) < 0.05


@pytest.mark.parametrize("name", tasks.TASKS)
def test_tasks_have_the_shapes_and_rows_that_their_titles_say(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(tasks, "GENERATED_ROWS", 300)
    task, again = tasks.TASKS[name](), tasks.TASKS[name]()
    assert np.array_equal(task.x, again.x) and np.array_equal(task.y, again.y)
    assert task.x.dtype == np.float32 and np.isfinite(task.x).all()
    widths = {
        "tabular": (64, 256, 256, 1),
        "cancer": (30, 128, 2),
        "iris": (4, 8, 2),
        "classes": (13, *(512,) * 5, 2),
        "kinematics": (5, *(50,) * 6, 5),
        "policy": (17, 256, 256, 6),
        "signals": (256, 384, 384, 128),
        "words": (1024, *(300,) * 5, 1),
    }
    assert (task.x.shape[1], *task.hidden, task.outputs) == widths[name]
    if task.y.dtype == np.int64:
        assert 0.2 < task.y.mean() < 0.8
    else:
        assert task.y.shape == (300, task.outputs) and task.y.std(0).min() > 0.1
    if name == "words":
        assert 0.02 < np.mean(task.x != 0) < 0.03 and not task.centred


def test_a_task_is_trained_once(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    (work,) = works.works(tmp_path, tmp_path, ["cancer"])
    stored = (tmp_path / "cancer" / works.NETWORK).read_bytes()
    (again,) = works.works(tmp_path, tmp_path, ["cancer"])
    assert (tmp_path / "cancer" / works.NETWORK).read_bytes() == stored
    assert again.command == work.command == "python benches/peers/works.py --names cancer"
    assert len(work.fit_x) + len(work.test_x) == 569
    assert works.error(work.net, work) < 0.1


@pytest.mark.parametrize("change", [{}, {"kinds": True, "layers": 8}, {"input_density": 0.1}])
def test_growth_networks_have_the_density_and_gates_that_find_it(change: dict[str, Any]) -> None:
    shape = replace(SHAPE, **change)
    net, calibration, x = growth.network(shape)
    assert len(net.layers) == shape.layers
    inputs = net.layer_inputs(x[:2000])
    assert np.mean(inputs[0] != 0) == pytest.approx(shape.input_density, rel=0.05)
    for layer, rows in zip(net.layers[:-1], inputs, strict=False):
        report = estimators.evaluate(layer, layer.gate, rows)
        outputs = rows @ layer.weight.T + layer.bias > 0
        assert outputs.mean() == pytest.approx(shape.density, rel=0.3)
        assert report.recall > 0.9
        assert report.computed_share < 2 * shape.density
    judged = growth.judge(growth.candidates(net, calibration, peer=False), x)
    assert judged["gate f32"]["computed"] < 2 * shape.density
    assert judged["skip f32"]["multiply_adds"] < judged["dense f32"]["multiply_adds"]


def test_known_factors_are_as_good_as_fitted_ones() -> None:
    net, calibration, x = growth.network(SHAPE)
    layer = net.layers[0]
    fitted = estimators.whitened(layer, calibration).gate(SHAPE.rank, -growth.MARGIN)
    known = estimators.evaluate(layer, layer.gate, x)
    best = estimators.evaluate(layer, fitted, x)
    assert known.recall > best.recall - 0.02
    assert known.computed_share < 1.1 * best.computed_share


def test_a_gate_that_misses_units_ends_the_run() -> None:
    net, calibration, x = growth.network(SHAPE)
    gate = net.layers[1].gate
    blind = net.with_gates({1: lrgate.Gate(gate.u, -gate.v, gate.bias)})
    with pytest.raises(RuntimeError, match="recall"):
        growth.judge(growth.candidates(blind, calibration, peer=False), x)


def test_every_unit_is_on_at_density_1() -> None:
    net, _, x = growth.network(replace(SHAPE, density=1.0))
    assert all((rows > 0).all() for rows in net.layer_inputs(x[:500])[1:])


def results() -> dict[str, Any]:
    """Results of engines whose time is a power of the width: 2 for dense, 1 for gate."""
    points = []
    for width in (256, 512, 1024, 2048, 4096):
        shape = {"width": width, "layers": 3, "rank": 8, "density": 64 / width}
        gate = {"seconds": 1e-9 * width, "multiply_adds": 3.0 * width, "recall": 0.9}
        engines = {"dense f32": {"seconds": 1e-10 * width**2}, "gate f32": gate}
        for rows in (1, 256):
            point = {"value": width, "rows": rows, "shape": shape, "engines": engines}
            points.append(point | {"cpu_share": 0.9})
    rows_points = [{**point, "value": point["rows"]} for point in points[:2]]
    rows_points.append({**rows_points[0], "value": 16, "rows": 16})
    return {
        "machine": {"cpu": "a processor"},
        "noise": 0.1,
        "widest_peer": 8192,
        "curves": {"width": points, "rows": rows_points},
    }


def test_exponents_and_the_rendered_section() -> None:
    made = results()
    exponents = {(line.engine, line.rows): line.exponent for line in growth.lines(made, "width")}
    assert exponents == pytest.approx(
        {
            ("dense f32", 1): 2,
            ("dense f32", 256): 2,
            ("gate f32", 1): 1,
            ("gate f32", 256): 1,
        }
    )
    text = growth.markdown(made)
    assert "| dense f32 | 2.00 | 2.00 |" in text
    assert "| gate f32 | 1.00 (1.00) | 1.00 (1.00) |" in text
    assert "3 layers, 64 live units in each hidden layer, rank 8." in text
    assert "- cpu: a processor\n" in text
    assert "had its CPU for 90% of the time" in text
    assert "least recall of any is 0.90" in text
    assert "(growth-rows.svg)" in text


def test_measured_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = [(width, replace(SHAPE, width=width)) for width in (64, 128)]
    measured = growth.measure(points, (1, 8), 0.01)
    by_rows = growth.measure([(rows, SHAPE) for rows in (1, 2)], None, 0.01)
    assert 0 < by_rows[0]["cpu_share"] <= 1
    assert [(point["value"], point["rows"]) for point in by_rows] == [(1, 1), (2, 2)]
    made = {
        "machine": growth.timing.machine(),
        "noise": growth.NOISE,
        "widest_peer": growth.WIDEST_PEER,
        "curves": {"width": measured, "rows": by_rows},
    }
    made = json.loads(json.dumps(made))
    growth.draw(made, tmp_path)
    assert (tmp_path / "growth-width.svg").read_bytes().startswith(b"<svg")
    assert ">gate int8: " in (tmp_path / "growth-width.svg").read_text("utf-8")
    assert (tmp_path / "growth-rows.svg").stat().st_size > 1000
    growth.draw_summary(made, tmp_path / "summary.svg")
    assert ">gate int8</text>" in (tmp_path / "summary.svg").read_text("utf-8")
    for engine in measured[0]["engines"]:
        assert f"| {engine} |" in growth.markdown(made)

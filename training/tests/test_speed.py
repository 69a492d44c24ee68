"""speed.py end to end on a tiny study; its table and its picture."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs PyTorch")

import reproduce
import speed
import study
import tables
from recipe import Recipe, RecipeError, check

RECIPE = Recipe(
    hidden=(20, 16), epochs=2, batch_size=25, dropout=0.0, init_std=(0.2,), validation=60
)
RECIPES = {
    "l1-0": RECIPE,
    "l1-0-dropout": dataclasses.replace(RECIPE, dropout=0.9),
    "l1-0.01": dataclasses.replace(RECIPE, l1=(0.01,)),
    "l1-1": dataclasses.replace(RECIPE, l1=(1.0,)),
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> study.Study:
    """A frontier of two dense networks of the same widths, and of two sparse ones."""
    recipes = {
        label: dataclasses.replace(one, l1=one.l1 if label in ("l1-0.01", "l1-1") else (0.0,))
        for label, one in RECIPES.items()
    }
    runs = [study.run_of("frontier", label, recipe) for label, recipe in recipes.items()]
    made = study.Study("frontier", None, tuple(runs))
    monkeypatch.setattr(reproduce, "make", lambda *_: made)
    return made


def arguments(folder: Path, tmp_path: Path, *more: str) -> list[str]:
    return [
        *("frontier", "--data-dir", str(folder), "--seconds", "0.02", "--rows", "1", "8"),
        *("--results-dir", str(tmp_path), "--checkpoint-dir", str(tmp_path / "runs"), *more),
    ]


def trained(tiny: study.Study, folder: Path, tmp_path: Path) -> study.Places:
    places = study.Places(folder, None, tmp_path, tmp_path / "runs")
    for run in tiny.runs[:3]:
        study.train(run, places, print)
    return places


def test_finished_runs_are_measured(
    tiny: study.Study,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("lrgate")
    monkeypatch.setattr(speed, "SETTINGS_SECONDS", 0.05)
    trained(tiny, folder, tmp_path)
    assert speed.main(arguments(folder, tmp_path, "--engines", "NumPy")) == 0
    assert "frontier/l1-1-seed1: left out" in capsys.readouterr().out
    result = json.loads((tmp_path / "speed" / "frontier.json").read_text())
    # Of the two dense networks the better one: dropout of nine tenths leaves nothing to learn from.
    assert list(result["networks"]) == ["l1-0", "l1-0.01"]
    for label, network in result["networks"].items():
        assert network["dense"] == (label == "l1-0")
        test = study.read_result(tmp_path / "frontier" / f"{label}-seed1.json")["tests"]["2"]
        assert network["error"] == pytest.approx(test["error"], abs=0.001)
        assert np.allclose(network["density"], test["density"], atol=0.01)
        assert network["hidden"] == [20, 16]
        assert len(network["plans"]["8"]) == 3
        assert list(network["engines"]) == (["lrgate", "NumPy"] if label == "l1-0" else ["lrgate"])
        for figures in network["engines"].values():
            for size in ("1", "8"):
                median, low, high = figures[size]["us"]
                assert 0 < low <= median <= high
                assert 0 <= figures[size]["error"] <= 1
    assert result["versions"]["numpy"]


@pytest.mark.usefixtures("tiny")
def test_nothing_to_measure(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lrgate")
    assert speed.main(arguments(folder, tmp_path)) == 1
    message = capsys.readouterr().err
    assert f"no finished run of frontier has its last.pt in {tmp_path / 'runs'}" in message
    assert "--results-dir and --checkpoint-dir" in message
    assert speed.main(arguments(folder, tmp_path, "--engines", "NumPy", "fast")) == 1
    assert "engines must be names or prefixes of" in capsys.readouterr().err


def test_a_checkpoint_of_another_recipe_is_refused(
    tiny: study.Study, folder: Path, tmp_path: Path
) -> None:
    places = trained(tiny, folder, tmp_path)
    run = tiny.runs[0]
    last = places.checkpoints / run.name / "last.pt"
    data_set = speed.data.load(folder, None)
    assert speed.exported(run, last, data_set).input_size == 64
    for change in ({"dropout": 0.1}, {"epochs": 3}):
        other = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, **change))
        with pytest.raises(study.StudyError, match=r"last\.pt is not the end of"):
            speed.exported(other, last, data_set)


def test_a_peer_that_fails_is_left_out(
    tiny: study.Study, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contestants = pytest.importorskip("lrgate.bench.contestants")
    monkeypatch.setattr(speed, "SETTINGS_SECONDS", 0.05)
    places = trained(tiny, folder, tmp_path)
    data_set = speed.data.load(folder, None)
    path = tmp_path / "net.npz"
    last = places.checkpoints / tiny.runs[0].name / "last.pt"
    speed.exported(tiny.runs[0], last, data_set).save(path)
    whole = contestants.Candidates.narrowed

    def narrowed(self: Any, engine: Any, rows: int) -> Any:
        if rows == 8:
            raise RuntimeError("no kernel\nfor eight rows")
        return whole(self, engine, rows)

    monkeypatch.setattr(contestants.Candidates, "narrowed", narrowed)
    monkeypatch.setattr("lrgate.measure.process.pin", lambda _: None)
    networks = [speed.Measured("l1-0", path, dense=True)]
    fit, test = (data_set.x_train, data_set.y_train), (data_set.x_test, data_set.y_test)
    found = speed.measure(networks, fit, test, (1, 8), ("NumPy",), 0.02)
    assert found["left_out"] == {"l1-0, NumPy, 8 rows": "RuntimeError: no kernel"}
    assert list(found["networks"]["l1-0"]["engines"]["NumPy"]) == ["1"]


def made_up() -> dict[str, Any]:
    """A result with a dense network, four peers, and a sparse network."""

    def figures(us: float, error: float, **more: bool) -> dict[str, Any]:
        return {"us": [us, us, us], "error": error, "documented": True, "within_limit": True} | more

    dense = {
        "lrgate": {"1": figures(8, 0.01), "256": figures(4, 0.01)},
        "bypass": {"1": figures(3, 0.01, documented=False)},
        "wrong": {"1": figures(2, 0.5, within_limit=False)},
        "good": {"1": figures(20, 0.011), "256": figures(9, 0.011)},
        "slow": {"1": figures(30, 0.01), "256": figures(10, 0.01)},
    }
    common = {"hidden": [20, 16], "density": [0.5, 0.25], "error": 0.01}
    common["plans"] = {"1": [["gate-int8 8", 0.3], ["skip", 1.0], ["dense", 1.0]]}
    sparse = {"lrgate": {"1": figures(1, 0.02), "256": figures(0.5, 0.02)}}
    return {
        "rows": [1, 256],
        "networks": {
            "l1-0": common | {"dense": True, "engines": dense},
            "l1-0.01": common | {"dense": False, "engines": sparse},
        },
    }


def test_the_best_peer_is_documented_and_within_the_limit(tmp_path: Path) -> None:
    pytest.importorskip("lrgate")
    pytest.importorskip("matplotlib")
    paper_figures = importlib.import_module("paper_figures")
    assert paper_figures.speed_series(made_up(), "1") == {
        "lrgate, sparse networks": [(1, 2.0, "0.01")],
        "lrgate, dense networks": [(8, 1.0, "0")],
        "best peer, dense networks": [(20, pytest.approx(1.1), "0")],
    }
    paper_figures.draw_speed(made_up(), tmp_path / "speed.svg")
    assert (tmp_path / "speed.svg").stat().st_size > 0


def test_the_table_marks_errors_above_the_limit() -> None:
    heading, cells = tables.speed_rows(made_up())
    assert all(len(line) == len(heading) for line in cells)
    own = ["l1-0", "20-16", "0.500 / 0.250", "0.300 / 1.000", "1.00"]
    assert cells[0] == [*own, "lrgate", "8 (8 to 8)", "1.00", "4 (4 to 4)", "1.00"]
    assert cells[2] == [*[""] * 5, "wrong", "2 (2 to 2)", r"50.00\*", "", ""]


def test_studies_of_widths_and_strengths() -> None:
    runs = reproduce.make("frontier", None, [1, 2], Path("nowhere")).runs
    assert len({run.name for run in runs}) == 2 * len(reproduce.STRENGTHS)
    assert runs[0].recipe.l1 == (0.0,)
    runs = reproduce.make("capacity", 3, [1], Path("nowhere")).runs
    by_label = {run.label: run.recipe for run in runs}
    assert by_label["sparse-8"].hidden == (8000, 4800, 3200)
    assert by_label["sparse-4"].init_std == (0.05, 0.025, 0.025, 0.025)
    assert by_label["dense-0.0625"].hidden == (62, 38, 25)
    assert by_label["dense-0.5"].dropout > by_label["dense-0.5-no-dropout"].dropout == 0
    assert all(any(recipe.l1) == label.startswith("sparse") for label, recipe in by_label.items())
    for run in runs:
        check(run.recipe, 784)


def test_first_weights_of_each_layer() -> None:
    stds = (0.1, 0.2, 0.4)
    torch = importlib.import_module("torch")
    model = importlib.import_module("model")
    network = model.build(dataclasses.replace(RECIPE, hidden=(200, 300), init_std=stds), 400, 100)
    found = [float(weight.detach().std()) for weight in network.weights]
    assert found == pytest.approx(stds, rel=0.05)
    assert isinstance(network.weights[0], torch.Tensor)
    assert Recipe.from_json(RECIPE.to_json() | {"init_std": 0.2}) == RECIPE
    for wrong in ((0.1, 0.2), (0.1, 0.0, 0.1), (float("inf"),)):
        with pytest.raises(RecipeError, match="--init-std must be"):
            check(dataclasses.replace(RECIPE, init_std=wrong))

"""Studies end to end on a tiny data set: results, resuming, tables, and the command line."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs PyTorch")

import torch

import data
import objective
import preprocess
import quick
import reproduce
import study
import tables
from loop import Trainer
from recipe import Recipe, check

RECIPE = Recipe(
    hidden=(20, 16), epochs=3, batch_size=25, dropout=0.2, init_std=(0.2,), validation=60
)
GATED = dataclasses.replace(RECIPE, estimator="svd", ranks=(3, 2))


def small_study(epochs: int = 3) -> study.Study:
    """The control and one row of ranks, the latter from two seeds."""
    plain = dataclasses.replace(RECIPE, epochs=epochs)
    gated = dataclasses.replace(GATED, epochs=epochs)
    runs = [
        study.run_of("small", "none", plain, small_after_training),
        study.run_of("small", "3-2", gated, small_at_shares),
        study.run_of("small", "3-2", dataclasses.replace(gated, seed=2), small_at_shares),
    ]
    return study.Study("small", None, tuple(runs))


def small_at_shares(trainer: Trainer, data_set: data.DataSet) -> dict:
    """`objective.at_shares` for two hidden layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "SHARES", (0.2, 0.4))
        return objective.at_shares(trainer, data_set)


def small_after_training(trainer: Trainer, data_set: data.DataSet) -> dict:
    """`objective.after_training` for two hidden layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "SHARES", (0.2, 0.4))
        patch.setattr(objective, "RANKS", (3, 2))
        return objective.after_training(trainer, data_set)


def places(folder: Path, out: Path) -> study.Places:
    return study.Places(folder, None, out / "results", out / "checkpoints")


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[study.Places, list]:
    """The places and results of the small study, trained without a stop."""
    where = places(folder, tmp_path_factory.mktemp("finished"))
    return where, study.advance(small_study(), where, 1, lambda line: None)


def comparable(results: list[dict]) -> list[dict]:
    """Results without times, which alone may differ."""
    copies = json.loads(json.dumps(results))
    for result in copies:
        for name in ("seconds", "refresh_seconds"):
            result["epochs"].pop(name, None)
    return copies


def test_results_have_config_curves_and_test_figures(finished: tuple[study.Places, list]) -> None:
    where, results = finished
    assert [result["run"] for result in results] == [
        "small/none-seed1",
        "small/3-2-seed1",
        "small/3-2-seed2",
    ]
    for result in results:
        assert result["trained_epochs"] == 3
        assert Recipe.from_json(result["config"]).hidden == (20, 16)
        assert result["command"].startswith("python training/train.py --preset paper --hidden 20")
        assert len(result["epochs"]["validation_error"]) == 3
        test = result["tests"]["3"]
        errors = result["epochs"]["validation_error"]
        assert test["validation_error"] == pytest.approx(min(errors), rel=1e-3)
        assert errors[test["best_epoch"] - 1] == min(errors)
        assert 0 <= test["error"] <= 1
    control, gated, _ = results
    assert "computed_share" not in control["epochs"]
    assert len(gated["epochs"]["wrong_signs"]) == 3
    assert list(gated["wrong_signs_within"]) == ["2"]
    assert all(len(point) == 2 for point in gated["wrong_signs_within"]["2"])
    assert not list(where.results.rglob("*.partial"))


def test_shares_are_met_and_the_estimator_is_left_as_it_was(
    finished: tuple[study.Places, list],
) -> None:
    _, (control, gated, _) = finished
    fits = control["tests"]["3"]["after_training"]
    assert list(fits) == list(objective.ESTIMATORS)
    for figures in (gated["tests"]["3"], *fits.values()):
        assert [one["scale"] for one in figures["at_shares"]] == list(objective.SCALES)
        for one in figures["at_shares"]:
            expected = [one["scale"] * 0.2, one["scale"] * 0.4]
            # Thresholds are fitted on other rows: 60 of them.
            np.testing.assert_allclose(one["computed_share"], expected, atol=0.08)


def test_a_finished_study_is_not_trained_again(finished: tuple[study.Places, list]) -> None:
    where, results = finished
    before = {path: path.stat().st_mtime_ns for path in where.results.rglob("*")}
    lines: list[str] = []
    assert study.advance(small_study(), where, 1, lines.append) == results
    assert lines == ["3 of 3 runs are finished"]
    assert {path: path.stat().st_mtime_ns for path in where.results.rglob("*")} == before


class Stop(Exception):
    """Stands for a kill."""


def test_a_stopped_study_continues_and_gives_the_same(
    folder: Path, tmp_path: Path, finished: tuple[study.Places, list]
) -> None:
    where = places(folder, tmp_path)
    trained = 0

    def stop(line: str) -> None:
        nonlocal trained
        trained += "validation error" in line
        if trained == 5:
            raise Stop

    with pytest.raises(Stop):
        study.advance(small_study(), where, 1, stop)
    partly = study.results(small_study(), where)
    assert [result["trained_epochs"] for result in partly] == [3, 2]
    assert partly[1]["tests"] == {}
    lines: list[str] = []
    results = study.advance(small_study(), where, 1, lines.append)
    assert sum("validation error" in line for line in lines) == 4
    assert comparable(results) == comparable(finished[1])


def test_processes_give_the_same(
    folder: Path, tmp_path: Path, finished: tuple[study.Places, list]
) -> None:
    # Another process cannot import this module's functions.
    runs = [dataclasses.replace(run, measure=None) for run in small_study().runs[1:]]
    small = study.Study("small", None, tuple(runs))
    lines: list[str] = []
    results = study.advance(small, places(folder, tmp_path), 2, lines.append)
    assert sum("test error" in line for line in lines) == 2
    for one, other in zip(comparable(results), comparable(finished[1][1:]), strict=True):
        del other["tests"]["3"]["at_shares"]
        assert one == other


def test_a_run_ends_after_an_epoch_when_asked_to(folder: Path, tmp_path: Path) -> None:
    where = places(folder, tmp_path)
    run = small_study().runs[0]
    study.train(run, where, lambda line: None, stopped=lambda: True)
    result = study.read_result(where.result(run))
    assert (result["trained_epochs"], result["tests"]) == (1, {})


def test_an_error_in_a_process_is_raised(folder: Path, tmp_path: Path) -> None:
    bad = dataclasses.replace(RECIPE, validation=300)
    small = study.Study("small", None, (study.run_of("small", "bad", bad),))
    with pytest.raises(data.DataError, match="--validation must be between"):
        study.advance(small, places(folder, tmp_path), 2, lambda line: None)


def test_more_epochs_extend_a_run(folder: Path, tmp_path: Path) -> None:
    where = places(folder, tmp_path)
    study.advance(small_study(2), where, 1, lambda line: None)
    extended = study.advance(small_study(4), where, 1, lambda line: None)
    assert [sorted(result["tests"]) for result in extended] == [["2", "4"]] * 3
    at_once = study.advance(small_study(4), places(folder, tmp_path / "b"), 1, lambda line: None)
    for one, other in zip(comparable(extended), comparable(at_once), strict=True):
        del one["tests"]["2"]
        assert one == other


def test_a_result_of_another_recipe_is_not_continued(
    finished: tuple[study.Places, list],
) -> None:
    where, _ = finished
    other = dataclasses.replace(GATED, l1=(1e-2,))
    small = study.Study("small", None, (study.run_of("small", "3-2", other),))
    with pytest.raises(study.StudyError, match="is of another recipe: remove it"):
        study.advance(small, where, 1, lambda line: None)


def test_a_run_that_another_process_trains_is_left_alone(folder: Path, tmp_path: Path) -> None:
    where = places(folder, tmp_path)
    run = small_study().runs[1]
    lock = where.checkpoints / run.name / "lock"
    lock.parent.mkdir(parents=True)
    lines: list[str] = []
    with study.FileLock(lock):
        study.train(run, where, lines.append)
    assert lines == ["small/3-2-seed1: another process trains it, left to that"]
    assert not where.results.exists()


@pytest.mark.parametrize("content", ["", "[]", '{"format": 99}', "{"])
def test_a_damaged_result_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(study.StudyError, match="not a result"):
        study.read_result(path)
    assert study.read_result(tmp_path / "none.json") is None


def result_of(label: str, errors: dict[int, float], trained: int) -> dict:
    """A result with test errors after some epochs."""
    return {
        "label": label,
        "trained_epochs": trained,
        "epochs": {"validation_error": [0.5, 0.02]},
        "tests": {
            str(epochs): {"error": error, "validation_error": 0.01}
            for epochs, error in errors.items()
        },
    }


def test_table_compares_runs_of_equal_length_and_marks_unfinished_ones() -> None:
    results = [
        result_of("none", {60: 0.02, 300: 0.014}, 300),
        result_of("none", {300: 0.016}, 300),
        result_of("none", {60: 0.5}, 100),
        result_of("10-10-5", {}, 17),
    ]
    heading, (control, gated) = tables.rows("mnist", results)
    cells = dict(zip(heading, control, strict=True))
    assert cells["test error, %"] == "1.50 ± 0.14"
    assert cells["paper, %"] == "1.40"
    assert cells["epochs"] == "300"
    assert cells["seeds"] == "2 (and 1 unfinished)"
    cells = dict(zip(heading, gated, strict=True))
    assert cells["test error, %"] == "unfinished"
    assert cells["validation error, %"] == "2.00"
    assert cells["epochs"] == "17"
    assert "paper" not in tables.text("svhn-subset", results)
    assert tables.markdown("svhn", []) == "Not run yet."


def test_methods_are_compared_after_equal_training() -> None:
    results = [
        result_of("none", {60: 0.02, 300: 0.014}, 300),
        result_of("svd", {60: 0.03}, 60),
        result_of("trained", {60: 0.025, 300: 0.02}, 300),
    ]
    assert [group.epochs for group in tables.groups(results)] == [300, 60, 300]
    assert [group.epochs for group in tables.groups(results, equal=True)] == [60, 60, 60]
    results.append(result_of("logistic", {}, 17))
    assert [group.epochs for group in tables.groups(results, equal=True)] == [60, 60, 60, 0]


def test_tables_of_all_studies(finished: tuple[study.Places, list]) -> None:
    _, results = finished
    for name in ("mnist", "epoch"):
        heading, cells = tables.rows(name, results[1:] if name == "epoch" else results)
        assert all(len(line) == len(heading) for line in cells)
    heading, cells = tables.rows("objective", results)
    assert [line[0] for line in cells] == [
        "svd, after training",
        "whitened, after training",
        "logistic, after training",
        "trained, after training",
        "3-2, in the loop",
    ]
    assert all(len(line) == len(heading) for line in cells)
    assert tables.markdown("objective", results).count("\n") == 6


def test_steps_are_named_by_what_differs(finished: tuple[study.Places, list]) -> None:
    gated = next(one for one in finished[1] if one["label"] == "3-2")
    labels = ("10-10-5", "100-rows-per-step")
    results = [{**gated, "label": label} for label in labels]
    _, cells = tables.rows("steps", results)
    rows = gated["config"]["batch_size"]
    assert [line[0] for line in cells] == [f"{rows} rows per step", "100 rows per step"]


def test_a_stall_does_not_count_as_time_of_a_refresh(
    finished: tuple[study.Places, list],
) -> None:
    gated = next(one for one in finished[1] if one["label"] == "3-2")
    length = len(gated["epochs"]["seconds"])
    assert length >= 3
    seconds = [0.01] * length
    seconds[1] = 100.0
    epochs = {**gated["epochs"], "refreshes": [2] * length, "refresh_seconds": seconds}
    heading, cells = tables.rows("epoch", [{**gated, "epochs": epochs}])
    assert heading[-1] == "ms per refresh"
    assert cells[0][-1] == "5.0"


@pytest.mark.parametrize("name", list(reproduce.EPOCHS))
def test_recipes_of_the_studies_are_sound(tmp_path: Path, name: str) -> None:
    for files in ([], [data.SVHN_FILE]):
        for file in files:
            (tmp_path / file).touch()
        made = reproduce.make(name, None, [1, 2], tmp_path)
        names = [run.name for run in made.runs]
        assert len(set(names)) == len(names)
        for run in made.runs:
            inputs = 784 if run.recipe.hidden == (1000, 600, 400) else 1024
            check(run.recipe, inputs)
            assert run.recipe.threads == 1
        if name == "svhn":
            assert made.dataset == ("svhn-subset" if files else "svhn")


def test_studies_share_runs_of_the_mnist_table(tmp_path: Path) -> None:
    def of(name: str, epochs: int) -> dict[str, study.Run]:
        return {run.name: run for run in reproduce.make(name, epochs, [3], tmp_path).runs}

    mnist = of("mnist", 60)
    for name in ("steps", "epoch", "objective"):
        shared = {key: run for key, run in of(name, 60).items() if key.startswith("mnist/")}
        assert shared
        for key, run in shared.items():
            assert run == mnist[key]


def test_command_line(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def runs(seed: int, epochs: int) -> list[study.Run]:
        recipe = dataclasses.replace(RECIPE, seed=seed, epochs=epochs)
        gated = dataclasses.replace(GATED, seed=seed, epochs=epochs)
        return [study.run_of("mnist", "none", recipe), study.run_of("mnist", "3-2", gated)]

    monkeypatch.setattr(reproduce, "mnist_runs", runs)
    words = ["mnist", "--data-dir", str(folder), "--results-dir", str(tmp_path / "results")]
    words += ["--checkpoint-dir", str(tmp_path / "checkpoints"), "--jobs", "1"]
    assert reproduce.main([*words, "--table"]) == 0
    assert capsys.readouterr().out == "no results yet\n"
    assert reproduce.main([*words, "--epochs", "2"]) == 1
    assert "wrong checksum (mnist: was asked for)" in capsys.readouterr().err
    sums = {name: data.Checksums("", md5) for name, md5 in data.load(folder).checksums.items()}
    monkeypatch.setitem(data.KNOWN, "mnist", sums)
    options = ["--epochs", "2", "--seeds", "1", "--only", "3-*"]
    assert reproduce.main([*words, *options]) == 0
    out = capsys.readouterr().out
    assert "mnist/3-2-seed1: epoch 2/2" in out
    assert out.splitlines()[-1].startswith("3-2 ")
    assert reproduce.main([*words, "--jobs", "0"]) == 1
    assert "--jobs must be 1 or more, got 0" in capsys.readouterr().err
    assert reproduce.main([*words, "--epochs", "0"]) == 1
    assert "--epochs must be 1 or more, got 0" in capsys.readouterr().err
    assert reproduce.main([*words, "--only", "4-*"]) == 1
    assert "no run is called 4-*; there are 3-2, none" in capsys.readouterr().err


def test_help_says_how_to_get_svhn(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        reproduce.main(["--help"])
    assert end.value.code == 0
    assert data.HOW_TO_SVHN in capsys.readouterr().out


def test_factors_of_every_kind_resume_bit_for_bit(folder: Path) -> None:
    data_set = preprocess.prepare(data.load(folder), RECIPE)
    split = data.split(300, 60, 1)
    for changes in (
        {"estimator": "trained", "gate_l1": 1e-3},
        {"estimator": "logistic"},
        {"estimator": "whitened", "refresh_every": 4},
        {"refresh": "subspace", "refresh_every": 1},
        {"refresh": "projection", "refresh_every": 3},
    ):
        recipe = dataclasses.replace(GATED, **changes)
        through = Trainer(recipe, data_set, split)
        for _ in range(3):
            through.train_epoch()
        stopped = Trainer(recipe, data_set, split)
        stopped.train_epoch()
        state = stopped.state()
        resumed = Trainer(recipe, data_set, split)
        torch.manual_seed(99)
        resumed.restore(state)
        for _ in range(2):
            resumed.train_epoch()
        for one, other in (
            (through.model, resumed.model),
            (best_model(through), best_model(resumed)),
        ):
            for name, tensor in one.state_dict().items():
                assert torch.equal(tensor, other.state_dict()[name])
            for left, right in zip(one.factor_tensors(), other.factor_tensors(), strict=True):
                assert all(torch.equal(left[key], right[key]) for key in left)


def best_model(trainer: Trainer) -> torch.nn.Module:
    trainer.use_best()
    return trainer.model


def test_refreshes_within_an_epoch_are_counted_and_follow_the_weights(folder: Path) -> None:
    data_set = data.load(folder)
    split = data.split(300, 60, 1)
    ends = {}
    # 240 training rows, 25 per step: 10 steps.
    for refresh, every, count in (("full", 0, 1), ("subspace", 1, 10), ("projection", 4, 3)):
        recipe = dataclasses.replace(GATED, refresh=refresh, refresh_every=every)
        trainer = Trainer(recipe, data_set, split)
        record = trainer.train_epoch()
        assert record["refreshes"] == count
        assert len(record["disagreement_within"]) == 10
        ends[refresh] = np.mean(record["disagreement_before_refresh"])
    assert ends["subspace"] < ends["full"]


def test_the_mask_begins_where_the_recipe_says(folder: Path) -> None:
    data_set, split = data.load(folder), data.split(300, 60, 1)
    plain, gated, later = (
        Trainer(recipe, data_set, split)
        for recipe in (RECIPE, GATED, dataclasses.replace(GATED, mask_from=2))
    )
    losses = []
    for trainer in (plain, gated, later):
        torch.manual_seed(5)
        losses.append([trainer.train_epoch()["train_loss"] for _ in range(2)])
    assert losses[2][0] == losses[0][0] != losses[1][0]
    assert losses[2][1] != losses[0][1]


def test_a_weight_on_open_gates_closes_some(folder: Path) -> None:
    data_set = data.load(folder)
    computed = []
    for weight in (0.0, 1e-2):
        recipe = dataclasses.replace(GATED, estimator="trained", gate_l1=weight)
        trainer = Trainer(recipe, data_set, data.split(300, 60, 1))
        for _ in range(3):
            record = trainer.train_epoch()
        computed.append(np.mean(record["computed_share"]))
    assert computed[1] < computed[0] - 0.02


def test_training_factors_alone_leaves_the_weights(folder: Path) -> None:
    trainer = Trainer(RECIPE, data.load(folder), data.split(300, 60, 1))
    trainer.train_epoch()
    before = [weight.clone() for weight in trainer.model.parameters()]
    trainer.fit_factors("trained", (3, 2))
    start = trainer.model.factor_tensors()
    x, y = trainer.x_train, trainer.y_train
    loss = trainer.evaluate(x, y).loss
    objective.train_factors(trainer)
    assert trainer.evaluate(x, y).loss < loss
    for old, new in zip(before, trainer.model.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.requires_grad
    for old, new in zip(start, trainer.model.factor_tensors(), strict=True):
        assert not torch.equal(old["up"], new["up"])


def groups_of(errors: dict[str, tuple[float, float]]) -> list[tables.Group]:
    """Groups of one run each, with an error and a share of wrong signs."""
    return [
        tables.Group(
            label, 1, [{"tests": {"1": {"error": error, "wrong_signs": [wrong, wrong]}}}], []
        )
        for label, (error, wrong) in errors.items()
    ]


def test_quick_reports_what_is_out_of_order() -> None:
    rising = {"none": (0.01, 0.0), "8": (0.02, 0.1), "2": (0.03, 0.2)}
    assert quick.disorder(groups_of(rising)) == []
    faults = quick.disorder(groups_of(rising | {"8": (0.03, 0.1)}))
    assert faults == ["not in order: error 0.0300 at ranks 8, 0.0300 at ranks 2"]
    faults = quick.disorder(groups_of(rising | {"8": (0.02, 0.3)}))
    assert faults == ["not in order: wrong_signs 0.3000 at ranks 8, 0.2000 at ranks 2"]


def test_quick_writes_all_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    quick.write_digits(tmp_path)
    digits = data.load(tmp_path)
    assert digits.x_test.shape == (quick.TEST_ROWS, 64)
    assert len(digits.x_train) + len(digits.x_test) == 1797
    assert int(digits.x_train.max()) == 255
    assert set(digits.y_test.tolist()) == set(range(10))


def test_the_page_is_that_of_the_results() -> None:
    pytest.importorskip("lrgate")
    paper_figures = importlib.import_module("paper_figures")
    page = (paper_figures.ROOT / "docs" / "paper.md").read_text()
    drawn = set(re.findall(r"<!-- picture (\w+): ", page))
    assert len(drawn) >= 6
    made = paper_figures.written(page, paper_figures.ROOT / "training" / "results", drawn)
    assert made.splitlines() == page.splitlines()


def test_page_has_the_tables_and_pictures(
    finished: tuple[study.Places, list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lrgate")
    paper_figures = importlib.import_module("paper_figures")
    results: dict[str, list] = {name: [] for name in paper_figures.STUDIES}
    page = "# A\n\n<!-- table mnist -->\nold\n<!-- end -->\n\n"
    page += "<!-- picture ranks: Errors -->\nold\n<!-- end -->\n"
    assert paper_figures.filled(page, results, set()).count("Not run yet.") == 2
    results["mnist"] = finished[1]
    filled = paper_figures.filled(page, results, {"ranks"})
    assert "old" not in filled
    assert "| 3-2 |" in filled
    assert "![Errors](images/paper-ranks.svg)" in filled
    assert paper_figures.filled(filled, results, {"ranks"}) == filled
    with pytest.raises(ValueError, match="no comment <!-- table svhn -->"):
        paper_figures.filled(page, results | {"svhn": finished[1]}, set())

    results["epoch"] = results["objective"] = finished[1]
    monkeypatch.setattr(paper_figures, "HIDDEN", (64, 20, 16))
    draw_objective = paper_figures.draw_objective
    results["objective"] = [finished[1][0], *({**one, "label": "svd"} for one in finished[1][1:])]
    for name, draw in (
        ("ranks", paper_figures.draw_ranks),
        ("curves", paper_figures.draw_curves),
        ("epoch", paper_figures.draw_epoch),
        ("objective", draw_objective),
    ):
        path = tmp_path / f"{name}.svg"
        assert draw(results, path)
        first = path.read_bytes()
        assert first.startswith(b"<svg")
        assert draw(results, path)
        assert path.read_bytes() == first
        assert not draw({name: [] for name in paper_figures.STUDIES}, tmp_path / "none.svg")

"""Training of networks with few active units."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate import Network

torch = pytest.importorskip("torch", reason="needs PyTorch")

from lrgate.planner.calibration import Calibration  # noqa: E402
from lrgate.planner.evaluation import Evaluator  # noqa: E402
from lrgate.torch import sparsify  # noqa: E402
from lrgate.torch.sparsity.costs import Costs, sparsity_of  # noqa: E402
from lrgate.torch.sparsity.objective import Objective  # noqa: E402
from lrgate.torch.sparsity.shedding import shed  # noqa: E402
from lrgate.torch.sparsity.student import Student  # noqa: E402

pytestmark = pytest.mark.frameworks

ROWS = 2000
FEATURES = 12


def rows(count: int = ROWS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)


def signal(x: np.ndarray) -> np.ndarray:
    """Two values per row."""
    return np.stack([np.sin(2 * x[:, 0]) + x[:, 1], x[:, 2] * x[:, 3]], axis=1)


def labels(x: np.ndarray) -> np.ndarray:
    """0 to 3."""
    return (signal(x) > 0).astype(np.int64) @ np.array([2, 1])


def trained(x: Any, y: np.ndarray, *, activation: Any = torch.nn.ReLU, outputs: int = 4) -> Any:
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 64),
        activation(),
        torch.nn.Linear(64, 48),
        activation(),
        torch.nn.Linear(48, outputs),
    )
    target = torch.from_numpy(y)
    measure: Any = torch.nn.functional.cross_entropy
    if y.dtype != np.int64:
        target, measure = target.float(), torch.nn.functional.mse_loss
    optimizer = torch.optim.Adam(module.parameters(), 5e-3)
    inputs = torch.from_numpy(x)
    for _ in range(15):
        for part in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            measure(module(inputs[part]), target[part]).backward()
            optimizer.step()
    return module


@pytest.fixture(scope="module")
def classifier() -> Any:
    x = rows()
    return trained(x, labels(x))


@pytest.fixture(scope="module")
def regressor() -> Any:
    x = rows()
    return trained(x, signal(x).astype(np.float32), outputs=2)


def test_a_classifier_within_its_budget(classifier: Any) -> None:
    x = rows()
    before = [each.clone() for each in classifier.parameters()]
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    net, report = sparsify(
        classifier, x, labels(x), max_error_increase=0.1, epochs=30, progress=False
    )
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    for old, new in zip(before, classifier.parameters(), strict=True):
        assert torch.equal(old, new)
    assert report.work_after < 0.75 * report.work_before
    assert report.increase_bound <= 0.1
    assert report.error_increase <= report.increase_bound
    assert report.rows_trained == 1200 and report.rows_checked == 480
    assert net.task == "classification"
    assert net.metadata["sparsify"] == report.to_dict()
    # Rows that took no part.
    fresh = rows(4000, seed=1)
    given = lrgate.from_torch(classifier, task="classification")
    wrong = [float((each.predict(fresh) != labels(fresh)).mean()) for each in (given, net)]
    assert wrong[1] - wrong[0] < 0.1
    assert sparsity_of(net, fresh).work < 0.75 * sparsity_of(given, fresh).work
    # As a module, and through `optimize`.
    outputs = net.to_torch()(torch.from_numpy(fresh)).numpy()
    np.testing.assert_allclose(outputs, net(fresh), rtol=1e-4, atol=1e-4)
    text = str(report)
    assert "multiply-adds per row" in text and "thresholded_relu" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert report.to_dataframe().shape == (2, 6)


def test_a_regressor_without_targets(regressor: Any) -> None:
    x = rows()
    net, report = sparsify(regressor, x, max_error_increase=0.05, epochs=25, progress=False)
    assert report.measure == "relative squared difference from the dense network"
    assert report.work_after < report.work_before
    given = lrgate.from_torch(regressor)
    fresh = rows(4000, seed=1)
    wanted = given(fresh)
    assert np.square(net(fresh) - wanted).sum() < 0.07 * np.square(wanted - wanted.mean(0)).sum()


def test_labels_of_several_kinds() -> None:
    x = rows()
    y = (signal(x) > 0).astype(np.int64)
    module = trained(x, y.astype(np.float32), outputs=2)
    net = lrgate.from_torch(torch.nn.Sequential(*module, torch.nn.Sigmoid()))
    assert net.task == "multilabel"
    sparse, report = sparsify(net, x, y, max_error_increase=0.1, epochs=10, progress=False)
    assert sparse.task == "multilabel"
    assert report.measure == "share of wrong labels"
    assert 0 < report.work_after < report.work_before


def test_one_output_with_text_labels() -> None:
    x = rows()
    y = np.where(signal(x)[:, 0] > 0, "yes", "no")
    module = trained(x, (y == "yes").astype(np.float32)[:, None], outputs=1)
    layers = lrgate.from_torch(module).layers
    net = Network.from_layers(layers, classes=["no", "yes"])
    sparse, report = sparsify(net, x, y, max_error_increase=0.1, epochs=10, progress=False)
    assert sparse.classes is not None and sparse.classes.tolist() == ["no", "yes"]
    assert report.increase_bound <= 0.1


def test_raw_bytes_and_sparse_rows_with_an_input_map() -> None:
    sparse_rows = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (ROWS, FEATURES)).astype(np.uint8)
    x[rng.random(x.shape) < 0.5] = 0
    scale, shift = np.float32(1 / 64), np.full(FEATURES, -1.0, np.float32)
    y = labels(x * scale + shift)
    module = trained(x * scale + shift, y)
    net = Network.from_layers(
        lrgate.from_torch(module).layers, input_scale=scale, input_shift=shift
    )
    options: dict[str, Any] = {"max_error_increase": 0.2, "epochs": 5, "progress": False}
    dense, report = sparsify(net, x, y, **options)
    assert report.work_after < report.work_before
    assert np.array_equal(dense.input_shift, shift)
    csr = sparse_rows.csr_matrix(x.astype(np.float32))
    of_csr, of_rows = sparsify(net, csr, y, **options)[1], report
    assert of_csr.work_before == pytest.approx(of_rows.work_before)
    assert of_csr.error_before == of_rows.error_before


def test_other_activations_need_relufy() -> None:
    x = rows()
    module = trained(x, labels(x), activation=torch.nn.Tanh)
    with pytest.raises(ValueError, match=r"layer 0 has tanh: relufy=True"):
        sparsify(module, x, labels(x))
    net, report = sparsify(
        module,
        x,
        labels(x),
        relufy=True,
        max_error_increase=0.2,
        epochs=25,
        learning_rate=3e-3,
        progress=False,
    )
    assert report.relufied_increase is not None and abs(report.relufied_increase) < 0.15
    assert "activations moved to ReLU cost" in str(report)
    assert [each.activation_before for each in report.layers] == ["tanh", "tanh"]
    assert {layer.activation.name for layer in net.layers[:-1]} <= {"relu", "thresholded_relu"}
    assert report.layers[0].density_after < 0.8 < report.layers[0].density_before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": rows(99)}, "x must have at least 100 rows"),
        ({"x": rows()[:, :5]}, r"x must have shape \(n, 12\)"),
        ({"x": np.where(np.arange(ROWS)[:, None] == 7, np.nan, rows())}, "x must be finite.*row 7"),
        ({"y": labels(rows())[:-1]}, r"y must have shape \(2000,\)"),
        ({"y": np.full(ROWS, 2)}, "y must not be the same in all rows"),
        ({"y": np.full(ROWS, 9)}, "y must hold integers from 0 to 3"),
        ({"max_error_increase": 2}, "max_error_increase"),
        ({"confidence": 0.5}, "confidence must be above 0.5"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"y_val": labels(rows(60))}, "y_val must be None without x_val"),
        ({"x_val": rows(60)}, "y and y_val must both be given"),
        ({"x_val": rows(9), "y_val": labels(rows(9))}, "x_val: x must have at least 50 rows"),
        ({"x_val": rows(60), "y_val": labels(rows(61))}, r"y_val: y must have shape \(60,\)"),
        ({"augment": lambda x: x[:, :3]}, "augment must return a tensor of shape"),
    ],
)
def test_refusals(classifier: Any, changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"x": rows(), "y": labels(rows()), "progress": False}
    arguments |= changes
    if "x" in changes:
        arguments["y"] = np.resize(arguments["y"], len(arguments["x"]))
    net = lrgate.from_torch(classifier, verify=False)
    with pytest.raises(ValueError, match=message):
        sparsify(net, **arguments)


def test_models_that_cannot_be_made_sparse() -> None:
    x = rows()
    with pytest.raises(lrgate.UnsupportedModelError):
        sparsify(torch.nn.Sequential(torch.nn.Conv1d(1, 2, 3)), x[:, None, :])
    with pytest.raises(TypeError, match="model must be"):
        sparsify(3, x)
    with pytest.raises(ValueError, match="must have a hidden layer"):
        sparsify(torch.nn.Linear(FEATURES, 2), x)


def test_nothing_changes_without_a_budget(classifier: Any) -> None:
    x = rows()
    given = lrgate.from_torch(classifier, task="classification")
    for budget, epochs, reason in (
        (0.0, 10, "nothing may change"),
        (1e-6, 10, "A larger budget or more rows or epochs may help"),
        (1e-6, 60, "A larger budget or more rows may help"),
    ):
        net, report = sparsify(
            given, x, labels(x), max_error_increase=budget, epochs=epochs, progress=False
        )
        assert report.epochs == min(epochs, 0 if budget == 0 else 20)
        assert np.array_equal(net(x), given(x))
        assert report.increase_bound == 0 and report.work_after == report.work_before
        assert reason in report.notes[-1]


def fixed_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that do not vary from run to run."""
    made = classmethod(lambda cls, *_: cls((1e-3, 2e-4, 1e-3)))
    monkeypatch.setattr(Costs, "measured", made)


def test_an_interrupted_call_goes_on(
    classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed_costs(monkeypatch)
    x, path = rows(), tmp_path / "run.pt"
    calls = 0

    def augment(batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 400:  # in the second round
            raise KeyboardInterrupt
        return batch + 0.01 * torch.randn_like(batch)

    def run(**more: Any) -> tuple[Network, Any]:
        return sparsify(
            classifier,
            x,
            labels(x),
            max_error_increase=0.05,
            epochs=15,
            augment=augment,
            progress=False,
            **more,
        )

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=path)
    assert os.listdir(tmp_path) == ["run.pt"]
    resumed, report = run(checkpoint=path)
    whole, other = run()
    assert report.rounds == other.rounds and report.epochs == other.epochs == 15
    assert np.array_equal(resumed(x), whole(x))
    with pytest.raises(ValueError, match="that of a call with another network"):
        sparsify(classifier, x, labels(x), checkpoint=path)


def test_a_file_that_is_no_checkpoint_is_kept(classifier: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("notes")
    with pytest.raises(ValueError, match="is no checkpoint"):
        sparsify(classifier, rows(), checkpoint=path)
    assert path.read_text() == "notes"


def test_units_and_thresholds_follow_the_price() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, FEATURES)).astype(np.float32)
    last = rng.normal(size=(3, 8)).astype(np.float32)
    last[:, 5] = 0  # its output does not matter
    bias = np.zeros(8, np.float32)
    bias[2] = -100  # never on
    net = Network.from_layers([(weight, bias), (last, None)], task="classification")
    x = rows(600)
    sparsity = sparsity_of(net, x)
    costs = Costs.measured(net, x, sparsity)
    assert costs.time(sparsity) == pytest.approx(1)
    active = (x @ weight.T + bias > 0).sum(axis=1).mean()
    assert sparsity.work == pytest.approx(8 * FEATURES + 3 * active)

    def shed_at(price: float) -> Student:
        torch.manual_seed(0)
        student = Student.of(net)
        objective = Objective("classification", student, None, net(x))
        shed(student, objective, x, costs, sparsity, price)
        return student

    free, cheap, expensive = shed_at(0.0), shed_at(1e-9), shed_at(1e3)
    assert free.units == [7, 3] and free.activations[0].name == "relu"
    assert cheap.units == [6, 3]
    kept = [unit for unit in range(8) if unit not in (2, 5)]
    assert np.array_equal(cheap.weights[0].detach().numpy(), weight[kept])
    assert np.array_equal(cheap.weights[1].detach().numpy(), last[:, kept])
    assert expensive.units[0] >= 5 and expensive.activations[0].threshold > 0


@pytest.mark.parametrize("confidence", [0.6, 0.8, 0.9, 0.95, 0.99])
def test_the_counted_bound_is_above_the_truth(confidence: float) -> None:
    """Whatever the shares of new errors and of corrections."""
    net = Network.from_layers([(np.eye(2), None)], task="classification")
    rng = np.random.default_rng(0)
    n, samples = 1000, 300
    # 2.75 and 0.9 new errors are expected in the hardest cases.
    for worse, better in ((0.00275, 0.0), (0.0009, 0.0), (0.01, 0.01), (0.03, 0.05)):
        above = 0
        for _ in range(samples):
            kind = rng.choice(3, size=n, p=[worse, better, 1 - worse - better])
            x = np.tile(np.float32([1, 0]), (n, 1))
            y = np.where(kind == 1, 1, 0)
            outputs = np.where((kind == 2)[:, None], x, x[:, ::-1])
            evaluator = Evaluator(net, x, y, calibration=Calibration())
            above += evaluator.counted_bound(outputs, confidence) >= worse - better
        spare = 3 * (confidence * (1 - confidence) / samples) ** 0.5
        assert above / samples >= confidence - spare, (worse, better)


def test_labels_that_all_change_together_count() -> None:
    net = Network.from_layers([(np.eye(3), None)], task="multilabel")
    x = np.ones((50, 3), np.float32)
    evaluator = Evaluator(net, x, np.ones((50, 3)), calibration=Calibration())
    assert evaluator.counted_bound(x, 0.95) > 3 / 50


def test_the_task_does_not_depend_on_the_outcome(classifier: Any) -> None:
    names = np.array(["a", "b", "c", "d"])[labels(rows())]
    net, _ = sparsify(classifier, rows(), names, max_error_increase=0, epochs=5, progress=False)
    assert net.task == "classification"
    assert set(net.predict(rows())) <= {"a", "b", "c", "d"}
    open_task, _ = sparsify(classifier, rows(), max_error_increase=0, epochs=5, progress=False)
    assert open_task.task == lrgate.from_torch(classifier).task


def test_the_order_of_rows_does_not_matter_to_effects(classifier: Any) -> None:
    x = rows(6000)
    order = np.argsort(labels(x), kind="stable")
    net = lrgate.from_torch(classifier, task="classification")
    wrong = []
    for each in (x, x[order]):
        student = Student.of(net)
        torch.manual_seed(0)
        objective = Objective("classification", student, None, net(each))
        costs = Costs((1e-3, 1e-3, 1e-3))
        shed(student, objective, each, costs, sparsity_of(net, each), 1.0)
        small = student.network(net)
        assert small.layers[0].outputs < 64
        wrong.append((small.predict(x) != net.predict(x)).mean())
    assert abs(wrong[0] - wrong[1]) < 0.03


def test_modes_of_the_caller_do_not_matter(classifier: Any) -> None:
    def found() -> Any:
        x = rows(300)
        net, _ = sparsify(
            classifier, x, labels(x), max_error_increase=0.5, epochs=5, progress=False
        )
        return [layer.weight.dtype for layer in net.layers]

    expected = found()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert found() == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert found() == expected
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_checkpoint_of_other_slopes_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(16, FEATURES)), rng.normal(size=(4, 16))]

    def network(slope: float) -> Network:
        slopes = lrgate.Activation("prelu", np.full(16, slope))
        layers = [lrgate.Layer(weights[0], np.zeros(16), slopes), (weights[1], None)]
        return Network.from_layers(layers, task="classification")

    options: Any = {"relufy": True, "epochs": 5, "progress": False, "max_error_increase": 0.5}
    path = tmp_path / "run.pt"
    sparsify(network(0.1), rows(300), checkpoint=path, **options)
    with pytest.raises(ValueError, match="another network"):
        sparsify(network(0.3), rows(300), checkpoint=path, **options)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        sparsify(network(0.1), rows(300), checkpoint=tmp_path / "none" / "run.pt", **options)
    with pytest.raises(TypeError, match="checkpoint must be a path"):
        sparsify(network(0.1), rows(300), checkpoint=3, **options)


def test_rows_that_optimize_would_refuse(classifier: Any) -> None:
    net = lrgate.from_torch(classifier, task="classification")
    net = Network.from_layers(net.layers, task="classification", input_range=(-1, 1))
    with pytest.raises(ValueError, match="within input_range"):
        sparsify(net, rows(300), progress=False)
    with pytest.raises(ValueError, match="share no rows"):
        sparsify(classifier, (x := rows(300)), x_val=x, progress=False)

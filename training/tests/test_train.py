"""Training end to end on a tiny data set that the tests write themselves.

Needs PyTorch, which is no dependency of lrgate: without it these tests are skipped, unless
LRGATE_REQUIRE_TORCH=1 says that it must be there.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TRAINING = Path(__file__).resolve().parent.parent

pytest.importorskip("torch", reason="training needs PyTorch")

import torch  # noqa: E402
from images import SIDE, idx, parts  # noqa: E402

import activations  # noqa: E402
import data  # noqa: E402
import export  # noqa: E402
import loop  # noqa: E402
import model  # noqa: E402
import preprocess  # noqa: E402
import recipe  # noqa: E402
import train  # noqa: E402

SMALL = ["--hidden", "20", "16", "--validation", "60", "--batch-size", "16", "--epochs", "2"]
SMALL += ["--learning-rate", "0.1", "--dropout", "0.2", "--l1", "1e-4", "1e-5", "--shift", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of 300 training and 100 test images; two files gzip, two plain."""
    folder = tmp_path_factory.mktemp("idx")
    for prefix, images, labels in parts(noise=30):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run train.py as a user does."""
    command = [sys.executable, TRAINING / "train.py", *arguments]
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=300, check=False
    )


def parsed(*words: object) -> int:
    """Run train.py's command line within this process; returns its exit status."""
    return train.main([str(word) for word in words])


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an uninterrupted run of two epochs with the estimator on."""
    out = tmp_path_factory.mktemp("trained")
    estimator = ["--estimator", "svd", "--ranks", "5", "4"]
    result = run("--data-dir", folder, "--out-dir", out, *SMALL, *estimator)
    assert result.returncode == 0, result.stderr
    assert "no known data set has these checksums" in result.stdout
    return out


def test_log_records_the_run(trained: Path) -> None:
    log = json.loads((trained / "log.json").read_text())
    assert log["config"]["hidden"] == [20, 16]
    assert log["config"]["ranks"] == [5, 4]
    assert log["data"]["name"] == "unknown"
    assert set(log["data"]["md5"]) == set(data.FILES)
    assert [record["epoch"] for record in log["epochs"]] == [1, 2]
    first, second = log["epochs"]
    assert second["train_loss"] < first["train_loss"]
    assert first["learning_rate"] == 0.1
    assert second["learning_rate"] == pytest.approx(0.099)
    assert (first["momentum"], second["momentum"]) == (0.5, pytest.approx(0.525))
    for record in log["epochs"]:
        assert 0 <= record["validation_error"] <= 1
        assert len(record["density"]) == 2
        assert all(0 < density < 1 for density in record["density"])
        assert len(record["disagreement"]) == len(record["disagreement_before_refresh"]) == 2
        assert all(len(point) == 2 for point in record["disagreement_within"])
        assert record["refreshes"] == 1
        assert record["seconds"] > 0
    best = min(record["validation_error"] for record in log["epochs"])
    assert log["result"]["validation_error"] == best
    assert {"test_error", "test_error_unmasked", "test_computed_share"} <= set(log["result"])


def test_command_in_the_log_gives_the_recipe_back(trained: Path) -> None:
    log = json.loads((trained / "log.json").read_text())
    words = log["command"].split()
    assert words[:2] == ["python", "training/train.py"]
    options = train._parser().parse_args(words[2:])
    assert train._recipe(options, None).to_json() == log["config"]


def test_learning_curve_is_a_png(trained: Path) -> None:
    assert (trained / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_no_partial_files_are_left(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {"last.pt", "best.pt", "log.json", "curve.png"}


def test_resumed_run_equals_uninterrupted_run(folder: Path, trained: Path, tmp_path: Path) -> None:
    common = ["--data-dir", folder, "--out-dir", tmp_path]
    estimator = ["--estimator", "svd", "--ranks", "5", "4"]
    assert run(*common, *SMALL, *estimator, "--epochs", "1").returncode == 0
    resumed = run(*common, "--resume", "--epochs", "2")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after epoch 1 of 2" in resumed.stdout

    for name, kind in (("last.pt", "run"), ("best.pt", "best")):
        one = loop.read_checkpoint(trained / name, kind)
        other = loop.read_checkpoint(tmp_path / name, kind)
        assert_equal_states(without_times(one), without_times(other))


def without_times(state: dict) -> dict:
    """A checkpoint with its seconds, which alone may differ, set to zero."""
    for record in state.get("epochs", []):
        record["seconds"] = record["refresh_seconds"] = 0.0
    return state


def assert_equal_states(one: object, other: object) -> None:
    """Equal bit for bit, tensors included."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal_states(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_equal_states(left, right)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_resume_refuses_another_recipe(
    folder: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parsed("--data-dir", folder, "--out-dir", trained, "--resume", "--seed", 5) == 1
    assert "--resume: --seed is 5 here but 1 in the run" in capsys.readouterr().err


def test_a_run_is_not_overwritten_unasked(
    folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "last.pt").read_bytes()
    assert parsed("--data-dir", folder, "--out-dir", trained, *SMALL) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert (trained / "last.pt").read_bytes() == before
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(trained / "best.pt", kept)
    assert parsed("--data-dir", folder, "--out-dir", kept, *SMALL) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert [path.name for path in kept.iterdir()] == ["best.pt"]


def test_a_run_that_replaces_another_leaves_nothing_of_it(
    folder: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(trained, tmp_path / "out")
    assert (out / "best.pt").exists()

    def stopped(trainer: loop.Trainer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Trainer, "train_epoch", stopped)
    assert parsed("--data-dir", folder, "--out-dir", out, *SMALL, "--overwrite") == 130
    assert not list(out.iterdir())


def test_missing_data_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"present")
    result = run("--data-dir", tmp_path, "--out-dir", tmp_path / "out")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert f"missing in {tmp_path}:" in result.stderr
    missing, how = result.stderr.split("Put the four files of the MNIST distribution")
    for name in data.FILES:
        assert (name in missing) == (name != data.TRAIN_LABELS)
        assert f"{data.KNOWN['mnist'][name].gz}  {name}.gz" in how
    assert not (tmp_path / "out").exists()


def test_data_of_another_name_than_asked_for_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data-dir", folder, "--dataset", "mnist", "--out-dir", tmp_path / "out"]
    assert parsed(*options, *SMALL) == 1
    error = capsys.readouterr().err
    assert "wrong checksum (mnist: was asked for)" in error
    assert data.KNOWN["mnist"][data.TEST_LABELS].gz in error


def test_one_damaged_file_of_a_known_data_set_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    md5 = data.load(folder).checksums
    known = {name: data.Checksums("", sums) for name, sums in md5.items()}
    monkeypatch.setitem(data.KNOWN, "mnist", known)
    assert data.load(folder).name == "mnist"
    known[data.TEST_IMAGES] = data.Checksums("", "0" * 32)
    with pytest.raises(data.DataError, match=r"3 of the 4 files are mnist's") as caught:
        data.load(folder)
    assert f"got      MD5 of the content {md5[data.TEST_IMAGES]}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x00\x00\x08\x03\x00", "ends inside its header"),
        (idx(np.zeros((2, 8, 8), np.uint8))[:-1], r"expected 128 bytes .* got 127"),
        (idx(np.zeros(3, np.uint8)), r"expected images \(n, height, width\)"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, r"got 0"),
    ],
)
def test_damaged_idx_is_refused(folder: Path, tmp_path: Path, content: bytes, message: str) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / data.TRAIN_IMAGES).write_bytes(content)
    with pytest.raises(data.DataError, match=message):
        data.load(tmp_path)


def test_truncated_gzip_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[:-9] if path.suffix == ".gz" else content)
    with pytest.raises(data.DataError, match="cannot be read"):
        data.load(tmp_path)


def svhn_arrays(**replaced: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a file like the SVHN subset: 120 training and 40 test images in colour."""
    generator = np.random.default_rng(1)
    arrays = {}
    for part, rows in (("train", 120), ("test", 40)):
        labels = (np.arange(rows) % 10).astype(np.uint8)
        noise = generator.integers(0, 200, (rows, SIDE, SIDE, 3))
        arrays[f"x_{part}"] = (noise + 5 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"y_{part}"] = labels
    return arrays | replaced


def test_svhn_is_read_as_luminance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = svhn_arrays()
    path = tmp_path / data.SVHN_FILE
    np.savez_compressed(path, **arrays)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    assert data.load(tmp_path).name == "unknown"
    monkeypatch.setattr(data, "SVHN_MD5", md5)
    for expected in (None, "svhn-subset"):
        svhn = data.load(tmp_path, expected)
        assert (svhn.name, svhn.checksums) == ("svhn-subset", {data.SVHN_FILE: md5})
        for part, x, y in (
            ("train", svhn.x_train, svhn.y_train),
            ("test", svhn.x_test, svhn.y_test),
        ):
            colours = arrays[f"x_{part}"].astype(np.float64)
            luminance = (colours @ [0.299, 0.587, 0.114]).reshape(len(colours), -1)
            assert x.dtype == np.uint8
            assert np.abs(x - luminance).max() < 0.5 + 1e-9
            np.testing.assert_array_equal(y, arrays[f"y_{part}"])


def test_grey_images_stay_as_they_are(tmp_path: Path) -> None:
    arrays = svhn_arrays()
    arrays |= {key: arrays[key][..., 0] for key in ("x_train", "x_test")}
    np.savez(tmp_path / data.SVHN_FILE, **arrays)
    grey = data.load(tmp_path)
    np.testing.assert_array_equal(grey.x_test, arrays["x_test"].reshape(40, -1))


def test_another_file_than_the_svhn_subset_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match=r"32x32\.npz: cannot be read"):
        data.load(tmp_path, "svhn-subset")
    np.savez(tmp_path / data.SVHN_FILE, **svhn_arrays())
    with pytest.raises(data.DataError, match=r"wrong checksum \(svhn-subset: was asked for\)"):
        data.load(tmp_path, "svhn-subset")
    with pytest.raises(data.DataError, match="missing in"):
        data.load(tmp_path, "mnist")


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"x_test": np.zeros((40, 8, 8, 3))}, "x_test: expected unsigned bytes, got float64"),
        ({"x_test": np.zeros((40, 8, 8, 4), np.uint8)}, r"x_test: expected images \(n, height"),
        ({"x_test": np.zeros((40, 9, 9, 3), np.uint8)}, "x_test: images of 81 pixels, but"),
        ({"y_train": np.zeros(3, np.uint8)}, "y_train: expected 120 labels"),
        ({"y_train": np.full(120, 10, np.uint8)}, "y_train: expected labels 0 to 9, got 10"),
        ({"y_train": np.array([{}] * 120)}, "cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_bad_svhn_arrays_are_refused(
    tmp_path: Path, replaced: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / data.SVHN_FILE, **svhn_arrays(**replaced))
    with pytest.raises(data.DataError, match=message):
        data.load(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "cut", "key missing", "one array"])
def test_damaged_svhn_file_is_refused(tmp_path: Path, damage: str) -> None:
    arrays = svhn_arrays()
    path = tmp_path / data.SVHN_FILE
    if damage == "key missing":
        del arrays["y_test"]
    np.savez(path, **arrays)
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "one array":
        with path.open("wb") as file:
            np.save(file, arrays["x_test"])
    with pytest.raises(data.DataError, match="cannot be read"):
        data.load(tmp_path)


def test_pad_adds_zeros_around_each_image(folder: Path) -> None:
    plain = data.load(folder)
    assert data.pad(plain, 0) is plain
    padded = data.pad(plain, 2)
    assert (padded.name, padded.checksums) == (plain.name, plain.checksums)
    for before, after in ((plain.x_train, padded.x_train), (plain.x_test, padded.x_test)):
        images = after.reshape(-1, SIDE + 4, SIDE + 4)
        inner = images[:, 2:-2, 2:-2]
        np.testing.assert_array_equal(inner.reshape(before.shape), before)
        assert after.dtype == np.uint8
        assert images.sum(dtype=np.int64) == inner.sum(dtype=np.int64)


def test_pad_needs_square_images(folder: Path) -> None:
    plain = data.load(folder)
    oblong = dataclasses.replace(plain, x_train=plain.x_train[:, :-SIDE])
    with pytest.raises(data.DataError, match="--pad needs square images, got images of 56 pixels"):
        data.pad(oblong, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--estimator", "svd"], "--ranks must be one rank for each of the 2 hidden layers"),
        (
            ["--estimator", "svd", "--ranks", "5", "17"],
            "a rank from 0 (not masked) to 16 for layer 1",
        ),
        (
            ["--estimator", "svd", "--ranks", "-1", "4"],
            "a rank from 0 (not masked) to 20 for layer 0",
        ),
        (["--estimator", "svd", "--ranks", "0", "0"], "--ranks must be above 0 in at least one"),
        (
            ["--estimator", "whitened", "--ranks", "5", "4", "--refresh", "subspace"],
            "--refresh must",
        ),
        (
            ["--estimator", "svd", "--ranks", "5", "4", "--refresh", "projection"],
            "--refresh-every must be above 0 with --refresh projection, got 0",
        ),
        (["--gate-l1", "1e-4"], "--gate-l1 must be 0 except for trained, got 0.0001"),
        (["--refresh-every", "3"], "--refresh-every must be 0 with --estimator none, got 3"),
        (["--ranks", "5", "4"], "--ranks must be no ranks without --estimator"),
        (["--l1", "1", "1", "1"], "--l1 must be one weight, or one for each of the 2"),
        (["--dropout", "1"], "--dropout must be from 0 to below 1, got 1.0"),
        (["--validation", "300"], "--validation must be between 1 and 299"),
        (["--epochs", "0"], "--epochs must be 1 or more, got 0"),
        (["--pad", "-1"], "--pad must be 0 or more, got -1"),
        (["--best-from", "3"], "--best-from must be at most --epochs 2, got 3"),
        (
            ["--estimator", "svd", "--ranks", "5", "4", "--mask-from", "3"],
            "--mask-from must be at most --epochs 2, got 3",
        ),
        (
            ["--estimator", "trained", "--ranks", "5", "4", "--mask-from", "2"],
            "--mask-from must be 1 with --estimator trained, got 2",
        ),
        (["--mask-from", "2"], "--mask-from must be 1 with --estimator none, got 2"),
        (["--learning-rate", "nan"], "--learning-rate must be a number above 0, got nan"),
        (["--learning-rate", "1e30"], "training diverged in epoch 1"),
    ],
)
def test_bad_options_are_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    out = tmp_path / "out"
    assert parsed("--data-dir", folder, "--out-dir", out, *SMALL, *options) == 1
    assert message in capsys.readouterr().err
    assert not list(out.glob("*"))


def test_estimator_masks_the_forward_pass() -> None:
    torch.manual_seed(0)
    network = model.MaskedMLP([12, 9, 7, 3], init_std=0.5)
    x = torch.rand(40, 12)
    plain, _ = network(x)
    network.fit_factors("svd", (2, 2), x)
    masked, hidden = network(x)
    assert not torch.equal(plain, masked)
    for layer in hidden:
        kept = layer.estimate == 1
        assert torch.all(layer.estimate[~kept] == 0)
        assert torch.all(layer.output[~kept] == 0)
        assert torch.equal(layer.output[kept], torch.relu(layer.pre_activation[kept]))
    assert torch.equal(network(x, masked=False)[0], plain)

    network.fit_factors("svd", (0, 2), x)
    _, hidden = network(x)
    assert hidden[0].estimate is None
    assert hidden[1].estimate is not None

    network.fit_factors("svd", (9, 7), x)
    torch.testing.assert_close(network(x)[0], plain)


@pytest.mark.parametrize("name", activations.FLAT_NAMES)
def test_a_layer_computes_what_the_estimate_says_it_needs(name: str) -> None:
    torch.manual_seed(0)
    network = model.MaskedMLP([12, 9, 7, 3], init_std=0.5, activation=name)
    kind = network.activation
    x = torch.rand(40, 12)
    plain, _ = network(x)
    network.fit_factors("svd", (2, 2), x)
    masked, hidden = network(x)
    assert not torch.equal(plain, masked)
    assert torch.equal(network(x, masked=False)[0], plain)
    first = hidden[0]
    scores = network.factors[0].estimate(x, network.biases[0])
    units = (40, 9, kind.pieces)
    exact, scores = first.pre_activation.view(units), scores.view(units)
    needed = first.estimate.view(units) == 1
    assert 0 < first.wrong_signs() < 0.5
    if kind.sides:
        aside = model.HiddenPass(
            kind, torch.full((1, 9), -2.0), torch.zeros(1, 9), torch.ones(1, 9)
        )
        assert aside.wrong_signs() == 1
    if name == "maxout":
        assert torch.equal(needed.sum(dim=2), torch.ones(40, 9))
        best = scores.argmax(dim=2, keepdim=True)
        assert torch.equal(first.output, exact.gather(2, best).squeeze(2))
    else:
        # Pre-activations that are not needed have no influence.
        flat = torch.where(needed, exact, scores).flatten(1)
        assert torch.equal(first.output, kind.apply(flat))
    # As estimates, the pre-activations themselves change no output.
    full = kind.needed(first.pre_activation)
    output = kind.masked(first.pre_activation, full, first.pre_activation)
    torch.testing.assert_close(output, kind.apply(first.pre_activation))
    full_ranks = tuple(min(weight.shape) for weight in network.weights[:-1])
    network.fit_factors("svd", full_ranks, x)
    torch.testing.assert_close(network(x)[0], plain)


@pytest.mark.parametrize("name", activations.NAMES)
def test_networks_with_each_activation_learn_and_are_exported(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    rate = ["--init-std", 0.3, "--learning-rate", 0.05, "--epochs", 6]
    run = ["--activation", name]
    estimator = ["--estimator", "svd", "--ranks", 4, 4]
    out = tmp_path / "out"
    if activations.by_name(name).flat:
        run += estimator
    else:
        assert parsed("--data-dir", folder, "--out-dir", out, *SMALL, *run, *estimator) == 1
        assert f"none with --activation {name}" in capsys.readouterr().err
    assert parsed("--data-dir", folder, "--out-dir", out, *SMALL, *run, *rate) == 0
    log = json.loads((out / "log.json").read_text())
    losses = [record["train_cross_entropy"] for record in log["epochs"]]
    assert losses[-1] < losses[0]
    checkpoint = loop.read_checkpoint(out / train.BEST, "best")
    data_set = data.load(folder)
    path = tmp_path / "net.npz"
    if name == "maxout":
        with pytest.raises(export.ExportError, match="--activation must be one of relu, clipped"):
            export.export(checkpoint, data_set, path, "none", ())
        return
    if activations.by_name(name).signed:
        with pytest.raises(export.ExportError, match=f"--activation {name} has no gates"):
            export.export(checkpoint, data_set, path, "svd", (4, 4))
    export.export(checkpoint, data_set, path, "none", ())
    lrgate = pytest.importorskip("lrgate")
    net = lrgate.Network.load(path)
    built = model.build(
        recipe.Recipe.from_json(checkpoint["recipe"]), data_set.x_train.shape[1], 10
    )
    built.load_state_dict(checkpoint["model"])
    x = torch.from_numpy(data_set.x_test[:50].astype(np.float32))
    expected = built(x * checkpoint["scale"] + checkpoint["shift"])[0].detach().numpy()
    np.testing.assert_allclose(net.forward(data_set.x_test[:50]), expected, rtol=1e-4, atol=1e-4)


def test_mask_stops_the_gradient_of_dropped_units() -> None:
    torch.manual_seed(0)
    network = model.MaskedMLP([12, 9, 3], init_std=0.5)
    x = torch.rand(1, 12)
    network.fit_factors("svd", (1,), x)
    outputs, hidden = network(x)
    outputs.sum().backward()
    dropped = hidden[0].estimate[0] == 0
    assert dropped.any()
    assert torch.all(network.weights[0].grad[dropped] == 0)


def test_norms_are_limited() -> None:
    network = model.MaskedMLP([12, 9, 3], init_std=10.0)
    before = [weight.detach().clone() for weight in network.weights]
    network.limit_norms(25.0)
    for old, new in zip(before, network.weights, strict=True):
        norms = old.norm(dim=1, keepdim=True)
        torch.testing.assert_close(new.detach(), old * (25.0 / norms).clamp(max=1))


def test_shift_moves_each_image_within_its_limit() -> None:
    torch.manual_seed(0)
    pixels = torch.zeros(50, 25, dtype=torch.uint8)
    pixels[:, 12] = 200  # the middle of 5 x 5
    moved = loop.shift_randomly(pixels, 1)
    assert moved.shape == pixels.shape
    assert torch.all(moved.sum(dim=1) == 200)
    places = set(moved.argmax(dim=1).tolist())
    assert places == {6, 7, 8, 11, 12, 13, 16, 17, 18}


def test_standardized_pixels_have_mean_0_and_deviation_1() -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (500, 4), dtype=torch.uint8)
    pixels[:, 0] = 9
    x = loop.Scaling.of(pixels, standardize=True).apply(pixels)
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    expected = torch.tensor([0.0, 1.0, 1.0, 1.0])
    torch.testing.assert_close(x.std(dim=0, correction=0), expected, atol=1e-4, rtol=0)


def test_presets_are_sound() -> None:
    for name in recipe.PRESETS:
        recipe.check(recipe.preset(name), 784)
        words = recipe.command(recipe.preset(name))
        assert words == f"python training/train.py --preset {name} --data-dir DATA_DIR"


@pytest.mark.parametrize(
    ("options", "pad"), [([], 0), (["--contrast"], 0), (["--standardize", "--pad", 2], 2)]
)
def test_export_writes_a_network_that_computes_the_same(
    folder: Path, tmp_path: Path, options: list[object], pad: int
) -> None:
    lrgate = pytest.importorskip("lrgate")
    out, path = tmp_path / "out", tmp_path / "net.npz"
    target = ["--export", path, "--export-ranks", 6, 0]
    assert parsed("--data-dir", folder, "--out-dir", out, *SMALL, *options, *target) == 0
    first = path.read_bytes()

    net = lrgate.Network.load(path)
    checkpoint = loop.read_checkpoint(out / "best.pt", "best")
    network = model.MaskedMLP([(SIDE + 2 * pad) ** 2, 20, 16, 10], init_std=1.0)
    network.load_state_dict(checkpoint["model"])
    trained = recipe.Recipe.from_json(checkpoint["recipe"])
    pixels = torch.from_numpy(preprocess.prepare(data.load(folder), trained).x_test.copy())
    scaled = loop.Scaling(checkpoint["scale"], checkpoint["shift"]).apply(pixels)
    expected = network(scaled)[0].detach().numpy()
    np.testing.assert_allclose(net.dense()(pixels.numpy()), expected, atol=1e-4)

    command = [sys.executable, TRAINING / "export.py", "--checkpoint", out / "best.pt"]
    command += ["--out", path, "--data-dir", folder, "--ranks", 6, 0]
    again = subprocess.run([str(word) for word in command], capture_output=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert path.read_bytes() == first


def test_padded_run_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data-dir", folder, "--out-dir", tmp_path]
    assert parsed(*where, *SMALL, "--pad", 3) == 0
    log = json.loads((tmp_path / "log.json").read_text())
    assert log["config"]["pad"] == 3
    assert " --pad 3 " in log["command"]
    assert parsed(*where, "--resume", "--pad", 2) == 1
    assert "--resume: --pad is 2 here but 3 in the run" in capsys.readouterr().err
    assert parsed(*where, "--resume", "--epochs", 3) == 0


def test_checkpoints_from_before_pad_still_load(
    folder: Path, trained: Path, tmp_path: Path
) -> None:
    for name, kind in (("last.pt", "run"), ("best.pt", "best")):
        state = loop.read_checkpoint(trained / name, kind)
        del state["recipe"]["pad"]
        loop.write_atomically(tmp_path / name, state)
    assert parsed("--data-dir", folder, "--out-dir", tmp_path, "--resume", "--pad", 0) == 0
    log = json.loads((tmp_path / "log.json").read_text())
    assert log["command"] == json.loads((trained / "log.json").read_text())["command"]
    pytest.importorskip("lrgate")
    paths = tmp_path / "old.npz", tmp_path / "new.npz"
    for out, path in zip((tmp_path, trained), paths, strict=True):
        assert exported(folder, out, path, "--ranks", 6, 0) == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()


def exported(folder: Path, out: Path, path: Path, *options: object) -> int:
    """Run export.py's command line within this process; returns its exit status."""
    words = ["--checkpoint", out / "best.pt", "--data-dir", folder, "--out", path, *options]
    return export.main([str(word) for word in words])


def test_export_stores_thresholds_and_plan(folder: Path, trained: Path, tmp_path: Path) -> None:
    lrgate = pytest.importorskip("lrgate")
    nets = []
    for threshold in (0.0, -0.5):
        path = tmp_path / f"net{threshold}.npz"
        options = ["--ranks", 6, 0, "--threshold", threshold, "--plan", "gate", "skip", "dense"]
        assert exported(folder, trained, path, *options) == 0
        nets.append(lrgate.Network.load(path))
        assert nets[-1].plan_for(1).strategies == ("gate", "skip", "dense")
        assert nets[-1].metadata["threshold"] == threshold
    strict, lax = (net.layers[0].gate for net in nets)
    np.testing.assert_allclose(lax.bias, strict.bias + 0.5, atol=1e-5)
    computed = [net.metadata["gates"]["0"]["computed_share"] for net in nets]
    assert computed[0] < computed[1]


def test_export_rounds_weights(folder: Path, trained: Path, tmp_path: Path) -> None:
    lrgate = pytest.importorskip("lrgate")
    nets = []
    for options in ([], ["--round", "bfloat16"]):
        path = tmp_path / f"net{len(options)}.npz"
        assert exported(folder, trained, path, *options) == 0
        nets.append(lrgate.Network.load(path))
    plain, rounded = nets
    data_set = data.load(folder)
    for layer, other in zip(plain.layers, rounded.layers, strict=True):
        expected = torch.from_numpy(layer.weight.copy()).bfloat16().float().numpy()
        np.testing.assert_array_equal(other.weight, expected)
        np.testing.assert_array_equal(other.bias, layer.bias)
        assert (other.weight != layer.weight).mean() > 0.9
    assert "weights" not in plain.metadata
    assert rounded.metadata["weights"] == "rounded to bfloat16"
    error = float(np.mean(rounded.predict(data_set.x_test) != data_set.y_test))
    assert rounded.metadata["test_error"] == error
    with zipfile.ZipFile(tmp_path / "net2.npz") as archive:
        info = archive.getinfo("layers.0.weight.npy")
        assert info.compress_size < 0.7 * info.file_size


def test_export_optimizes_on_rows_that_were_not_trained_on(
    folder: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lrgate = pytest.importorskip("lrgate")
    seen = []

    def optimize(net: Any, x: Any, y: Any, **options: Any) -> Any:
        seen.append((x, y, options))
        return net

    monkeypatch.setattr(lrgate, "optimize", optimize)
    path = tmp_path / "net.npz"
    assert exported(folder, trained, path, "--optimize", "--round", "bfloat16") == 0
    config = json.loads((trained / "log.json").read_text())["config"]
    data_set = data.load(folder)
    split = data.split(len(data_set.x_train), config["validation"], config["seed"])
    ((x, y, options),) = seen
    np.testing.assert_array_equal(x, data_set.x_train[split.validation])
    np.testing.assert_array_equal(y, data_set.y_train[split.validation])
    assert options["prune"] == "never_on" and options["num_threads"] == 1
    notes = lrgate.Network.load(path).metadata
    assert notes["test_error_under_plan"] == notes["test_error"]

    monkeypatch.undo()
    assert exported(folder, trained, path, "--optimize", "--calibration-rows", 20) == 1
    message = "--optimize, on 20 validation rows: x must have at least 50 rows, got 20"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--activation", "maxout"], "--activation must be one of relu, clipped"),
        (["--export-ranks", 6], "one rank is needed for each of the 2 hidden layers, got 1"),
        (["--export-ranks", 6, 17], "the rank of layer 1 must be 0 to 16, got 17"),
    ],
)
def test_a_run_that_cannot_be_exported_is_refused_before_training(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[object],
    message: str,
) -> None:
    where = ["--data-dir", folder, "--out-dir", tmp_path / "out"]
    assert parsed(*where, *SMALL, "--export", tmp_path / "net.npz", *options) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ranks", 6], "one rank is needed for each of the 2 hidden layers, got 1"),
        (["--ranks", 6, 17], "the rank of layer 1 must be 0 to 16, got 17"),
        (["--ranks", 6, 0, "--threshold", "nan"], "--threshold must be finite, got nan"),
        (["--ranks", 6, 0, "--plan", "gate"], "--plan does not fit the network"),
        (["--plan", "gate", "skip", "skip"], "--plan does not fit the network"),
    ],
)
def test_export_refuses_what_does_not_fit(
    folder: Path,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[object],
    message: str,
) -> None:
    pytest.importorskip("lrgate")
    assert exported(folder, trained, tmp_path / "net.npz", *options) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

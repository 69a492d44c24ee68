"""Contrast normalisation and equalisation of images, against slow and obvious forms."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import data
import preprocess
from recipe import Recipe

SIDE = 12


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE)).astype(np.uint8)


def slow_mean(image: np.ndarray) -> np.ndarray:
    """The Gaussian mean around each pixel of one image, edges mirrored."""
    radius, sigma = preprocess.RADIUS, preprocess.SIGMA
    padded = np.pad(image, radius, mode="symmetric")
    distance = np.arange(-radius, radius + 1)
    window = np.exp(-0.5 * (distance[:, None] ** 2 + distance**2) / sigma**2)
    window /= window.sum()
    size = 2 * radius + 1
    return np.array(
        [
            [(padded[i : i + size, j : j + size] * window).sum() for j in range(SIDE)]
            for i in range(SIDE)
        ]
    )


def test_normalised_contrast(images: np.ndarray) -> None:
    result = preprocess.normalise(images)
    for image, normalised in zip(images.astype(float), result, strict=True):
        differences = image - slow_mean(image)
        deviations = np.sqrt(slow_mean(differences**2))
        expected = differences / np.maximum(deviations, deviations.mean())
        np.testing.assert_allclose(normalised, expected, atol=0.51 / preprocess.STEPS)


def test_contrast_does_not_depend_on_brightness(images: np.ndarray) -> None:
    dark = images // 4
    bright = dark * 2 + 40
    np.testing.assert_allclose(
        preprocess.normalise(dark), preprocess.normalise(bright), atol=1.01 / preprocess.STEPS
    )


def test_equalised_values_are_spread_evenly() -> None:
    values = np.random.default_rng(1).normal(size=(3, 1024)) ** 3
    result = preprocess.equalise(values)
    assert result.dtype == np.uint8
    assert np.all(result.min(axis=1) == 0)
    assert np.all(result.max(axis=1) == 255)
    for row, equalised in zip(values, result, strict=True):
        assert np.all(np.diff(equalised[np.argsort(row)].astype(int)) >= 0)
        counts = np.bincount(equalised // 16, minlength=16)
        np.testing.assert_allclose(counts, 64, atol=4)


def test_equal_pixels_stay_equal_and_flat_images_become_zero() -> None:
    rows = np.array([[3.0, 1.0, 1.0, 3.0, 2.0], [7.0] * 5])
    result = preprocess.equalise(rows)
    assert result[0, 0] == result[0, 3] == 255
    assert result[0, 1] == result[0, 2] == 0
    assert result[0, 4] == round(255 / 3)
    assert np.all(result[1] == 0)
    flat = np.full((2, SIDE * SIDE), 200, np.uint8)
    assert np.all(preprocess.contrast(flat) == 0)


def test_prepare_pads_after_contrast(images: np.ndarray) -> None:
    rows = images.reshape(5, -1)
    labels = np.zeros(5, np.uint8)
    plain = data.DataSet("unknown", {}, rows, labels, rows[:2], labels[:2])
    assert preprocess.prepare(plain, Recipe()) is plain
    prepared = preprocess.prepare(plain, dataclasses.replace(Recipe(), contrast=True, pad=1))
    inner = prepared.x_train.reshape(5, SIDE + 2, SIDE + 2)[:, 1:-1, 1:-1].reshape(5, -1)
    np.testing.assert_array_equal(inner, preprocess.contrast(rows))
    assert prepared.x_test.shape == (2, (SIDE + 2) ** 2)


def test_contrast_needs_square_images() -> None:
    with pytest.raises(data.DataError, match="--contrast needs square images, got images of 7"):
        preprocess.contrast(np.zeros((2, 7), np.uint8))


def mat_file(folder: Path, name: str, rows: int, **replaced: np.ndarray) -> None:
    """A file like those of SVHN's cropped digits."""
    scipy_io = pytest.importorskip("scipy.io")
    generator = np.random.default_rng(rows)
    arrays = {
        "X": generator.integers(0, 256, (SIDE, SIDE, 3, rows)).astype(np.uint8),
        "y": (np.arange(rows) % 10 + 1).astype(np.uint8)[:, None],
    }
    scipy_io.savemat(folder / name, arrays | replaced)


def test_svhn_is_read_from_its_mat_files(tmp_path: Path) -> None:
    loadmat = pytest.importorskip("scipy.io").loadmat
    mat_file(tmp_path, "train_32x32.mat", 30)
    mat_file(tmp_path, "test_32x32.mat", 20)
    svhn = data.load(tmp_path)
    assert svhn.name == "unknown"
    assert svhn.x_train.shape == (30, SIDE * SIDE)
    assert svhn.y_test.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2
    colours = loadmat(tmp_path / "train_32x32.mat")["X"][:, :, :, 7].astype(float)
    luminance = colours @ [0.299, 0.587, 0.114]
    assert np.abs(svhn.x_train[7].reshape(SIDE, SIDE) - luminance).max() < 0.5 + 1e-9
    with pytest.raises(data.DataError, match=r"wrong checksum \(svhn: was asked for\)"):
        data.load(tmp_path, "svhn")


def test_a_missing_mat_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_32x32.mat").write_bytes(b"")
    with pytest.raises(data.DataError, match="MATLAB files") as caught:
        data.load(tmp_path)
    missing, how = str(caught.value).split("SVHN's cropped")
    assert "train_32x32.mat" in missing
    assert "test_32x32.mat" not in missing
    assert all(md5 in how for md5 in data.SVHN_FULL_MD5.values())


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"X": np.zeros((4, 4, 3, 20))}, "X must be unsigned bytes .* got float64"),
        ({"X": np.zeros((4, 4, 3), np.uint8)}, "X must be unsigned bytes"),
        ({"y": np.ones((19, 1), np.uint8)}, r"y must be unsigned bytes \(20, 1\), got uint8 \(19"),
        ({"y": np.zeros((20, 1), np.uint8)}, "y must be from 1 to 10, got 0 to 0"),
        ({"X": np.zeros((4, 4, 2, 20), np.uint8)}, "expected images"),
    ],
)
def test_bad_mat_arrays_are_refused(
    tmp_path: Path, replaced: dict[str, np.ndarray], message: str
) -> None:
    mat_file(tmp_path, "train_32x32.mat", 20, **replaced)
    mat_file(tmp_path, "test_32x32.mat", 10)
    with pytest.raises(data.DataError, match=message):
        data.load(tmp_path)


def test_a_damaged_mat_file_is_refused(tmp_path: Path) -> None:
    mat_file(tmp_path, "test_32x32.mat", 10)
    (tmp_path / "train_32x32.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(data.DataError, match=r"train_32x32\.mat: cannot be read"):
        data.load(tmp_path)

"""The images as a recipe wants them: contrast, padding.

The paper normalises the local contrast of SVHN's luminance and equalises its histogram. The
standardisation of each pixel, which follows, is part of the network (`loop.Scaling`).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

import data
from recipe import Recipe

RADIUS = 4
"""The window of a pixel's neighbourhood is 2 RADIUS + 1 = 9 pixels wide, with Gaussian weights."""

SIGMA = 2.0
STEPS = 64
"""Steps per standard deviation to which normalised contrast is rounded."""

_CHUNK = 1000


def prepare(data_set: data.DataSet, recipe: Recipe) -> data.DataSet:
    """``data_set`` with the contrast and padding of ``recipe``.

    Raises
    ------
    DataError
        The images are not square.
    """
    if recipe.contrast:
        x_train, x_test = (contrast(x) for x in (data_set.x_train, data_set.x_test))
        data_set = replace(data_set, x_train=x_train, x_test=x_test)
    return data.pad(data_set, recipe.pad)


def contrast(rows: data.U8Array) -> data.U8Array:
    """Local contrast normalisation, then histogram equalisation, of each image.

    ``rows`` are square images (n, side * side); so is the result.

    Raises
    ------
    DataError
        The images are not square.
    """
    side = math.isqrt(rows.shape[1])
    if side * side != rows.shape[1]:
        raise data.DataError(
            f"--contrast needs square images, got images of {rows.shape[1]} pixels"
        )
    result = np.empty_like(rows)
    for start in range(0, len(rows), _CHUNK):
        images = rows[start : start + _CHUNK].reshape(-1, side, side)
        normalised = normalise(images).reshape(len(images), -1)
        result[start : start + _CHUNK] = equalise(normalised)
    return result


def normalise(images: data.U8Array) -> npt.NDArray[np.float64]:
    """Local contrast normalisation of ``images`` (n, side, side).

    Each pixel loses the weighted mean of its neighbourhood and is divided by the neighbourhood's
    standard deviation, or by the image's mean of these where that is larger (Jarrett, Kavukcuoglu,
    Ranzato and LeCun, "What is the best multi-stage architecture for object recognition?", ICCV
    2009). Rounded to 1/64, so that a flat area has one value.
    """
    exact = images.astype(np.float64)
    differences = exact - _blur(exact)
    deviations = np.sqrt(np.maximum(_blur(differences**2), 0.0))
    floor = deviations.mean(axis=(1, 2), keepdims=True)
    scale = np.maximum(np.maximum(deviations, floor), 1e-6)
    return np.rint(differences / scale * STEPS) / STEPS


def equalise(rows: npt.NDArray[np.float64]) -> data.U8Array:
    """Histogram equalisation of each row (n, width): values spread evenly over 0 to 255.

    The smallest value becomes 0, the largest 255, and each other one is placed by the share of
    pixels up to it. A flat row becomes 0.
    """
    width = rows.shape[1]
    ordered = np.sort(rows, axis=1)
    result = np.empty(rows.shape, np.uint8)
    for row, line, target in zip(rows, ordered, result, strict=True):
        below = np.searchsorted(line, row, side="right")
        smallest = int(np.searchsorted(line, line[0], side="right"))
        target[:] = np.rint((below - smallest) * (255 / max(1, width - smallest)))
    return result


def _blur(images: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The weighted mean around each pixel; edges are mirrored."""
    distance = np.arange(-RADIUS, RADIUS + 1)
    weights = np.exp(-0.5 * (distance / SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (1, 2):
        width = images.shape[axis]
        border = [(0, 0)] * 3
        border[axis] = (RADIUS, RADIUS)
        padded = np.pad(images, border, mode="symmetric")
        images = sum(
            weight * np.take(padded, np.arange(shift, shift + width), axis=axis)
            for shift, weight in enumerate(weights)
        )
    return images

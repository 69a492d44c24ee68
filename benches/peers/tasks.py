"""Small tasks on tables of numbers, real or generated, and the networks trained for them.

Each takes scikit-learn at most about a minute on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import lrgate

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

GENERATED_ROWS = 20_000


@dataclass(frozen=True, eq=False)
class Task:
    """Rows, their labels or values, and the hidden layers of the network that learns them.

    Attributes
    ----------
    x : float32 array (n, d)
    y : int64 array (n,) or float32 array (n, k)
        Labels 0 and 1, or values, which are scaled to mean 0 and variance 1 for training.
    outputs : int
        Of the network: 1 or 2 logits for labels, k values.
    epochs : int
        Most passes over the training rows.
    centred : bool
        Whether inputs are shifted to mean 0. Sparse inputs are only scaled.
    """

    title: str
    x: Float32Array
    y: npt.NDArray[Any]
    hidden: tuple[int, ...]
    outputs: int
    epochs: int = 200
    centred: bool = True


def digits() -> Task:
    """Even or odd, one logit, of the 64 numbers that scikit-learn's digits have."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    title = "Digits of 64 features, even or odd"
    return Task(title, x.astype(np.float32), (y % 2).astype(np.int64), (256, 256), 1)


def cancer() -> Task:
    """scikit-learn's breast cancer data: benign or not, of 30 measurements."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return Task("Breast cancer", x.astype(np.float32), y.astype(np.int64), (128,), 2)


def iris() -> Task:
    """One kind of iris or another, of four measurements: the cost of a call."""
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    labels = (y == 2).astype(np.int64)
    return Task("Iris, virginica or not", x.astype(np.float32), labels, (8,), 2, epochs=3000)


def classes() -> Task:
    """Two classes of eight clusters each, in 13 correlated features."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        GENERATED_ROWS,
        n_features=13,
        n_informative=10,
        n_clusters_per_class=8,
        flip_y=0.02,
        class_sep=1.5,
        random_state=0,
    )
    title = "Generated clusters, two classes"
    return Task(title, x.astype(np.float32), y.astype(np.int64), (512,) * 5, 2, epochs=8)


def kinematics() -> Task:
    """Position and direction of the hand of an arm with five joints, from the joints' angles."""
    rng = np.random.default_rng(0)
    turn, *bends = rng.uniform(-1.2, 1.2, (5, GENERATED_ROWS))
    angles = np.cumsum(bends, axis=0)
    lengths = np.array([[0.5], [0.4], [0.3], [0.2]])
    reach, height = (lengths * np.cos(angles)).sum(0), (lengths * np.sin(angles)).sum(0)
    hand = [reach * np.cos(turn), reach * np.sin(turn), height]
    y = np.stack([*hand, np.cos(angles[-1]), np.sin(angles[-1])], axis=1)
    x = np.stack([turn, *bends], axis=1).astype(np.float32)
    return Task("Arm of five joints", x, y.astype(np.float32), (50,) * 6, 5, epochs=40)


def policy() -> Task:
    """Six bounded forces of a controller, from 17 noisy measurements of a moving body."""
    rng = np.random.default_rng(0)
    x = _of_causes(rng, 17, causes=8, noise=0.2)
    gain = rng.normal(scale=17**-0.5, size=(17, 6))
    y = np.tanh(2 * x @ gain + np.sin(x @ rng.normal(scale=17**-0.5, size=(17, 6))))
    return Task("Controller", x, y.astype(np.float32), (256, 256), 6, epochs=20)


def signals() -> Task:
    """128 values that a random network of two layers gives for 256 correlated signals."""
    rng = np.random.default_rng(0)
    x = _of_causes(rng, 256, causes=32, noise=0.3)
    hidden = np.tanh(x @ rng.normal(scale=1 / 16, size=(256, 64)))
    y = np.tanh(2 * hidden @ rng.normal(scale=1 / 8, size=(64, 128)))
    return Task("Correlated signals", x, y.astype(np.float32), (384, 384), 128, epochs=20)


def words() -> Task:
    """Whether a text's two subjects are of the same kind, from counts of 1,024 hashed words."""
    rng = np.random.default_rng(0)
    subjects, length = 20, 30
    common = 1 / np.arange(1, 1025)
    share = rng.permuted(np.tile(common, (subjects, 1)), axis=1) + 0.3 * common
    share /= share.sum(1, keepdims=True)
    both = rng.integers(subjects, size=(GENERATED_ROWS, 2))
    x = np.stack([rng.multinomial(length, share[pair].mean(0)) for pair in both])
    y = (both % 2).sum(1) % 2 == 0
    return Task(
        "Hashed words, sparse",
        x.astype(np.float32),
        y.astype(np.int64),
        (300,) * 5,
        1,
        epochs=6,
        centred=False,
    )


def _of_causes(rng: np.random.Generator, width: int, causes: int, noise: float) -> Float32Array:
    """Correlated rows of variance about 1."""
    hidden = rng.normal(size=(GENERATED_ROWS, causes))
    x = hidden @ rng.normal(scale=causes**-0.5, size=(causes, width))
    return (x + noise * rng.normal(size=x.shape)).astype(np.float32)


TASKS: dict[str, Callable[[], Task]] = {
    "tabular": digits,
    "cancer": cancer,
    "iris": iris,
    "classes": classes,
    "kinematics": kinematics,
    "policy": policy,
    "signals": signals,
    "words": words,
}


def fitted(task: Task) -> lrgate.Network:
    """The network that scikit-learn trains on a task's rows, of its standardised features."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_mean=task.centred).fit(task.x)
    rows = scaler.transform(task.x)
    labels = task.y.dtype == np.int64
    if labels:
        model = MLPClassifier(hidden_layer_sizes=task.hidden, random_state=0, max_iter=task.epochs)
        model.fit(rows, task.y)
    else:
        targets = StandardScaler().fit(task.y)
        model = MLPRegressor(hidden_layer_sizes=task.hidden, random_state=0, max_iter=task.epochs)
        model.fit(rows, targets.transform(task.y))
    layers = [
        (weight.T, bias) for weight, bias in zip(model.coefs_, model.intercepts_, strict=True)
    ]
    weight, bias = layers[-1]
    if not labels:
        scale = targets.scale_[:, None]
        layers[-1] = weight * scale, bias * targets.scale_ + targets.mean_
    elif task.outputs == 2:  # the softmax of half the logit and its opposite is its sigmoid
        layers[-1] = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return lrgate.Network.from_layers(
        layers,
        task="classification" if labels else "regression",
        input_scale=1 / scaler.scale_,
        input_shift=-scaler.mean_ / scaler.scale_ if task.centred else None,
    )

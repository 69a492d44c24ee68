"""Networks from model files of any format, and from models of any framework."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lrgate.network import Network

__all__ = ["as_network", "load"]


def load(
    path: str | os.PathLike[str],
    *,
    task: str | None = None,
    classes: npt.ArrayLike | None = None,
    verify: bool = True,
    tune: bool = True,
) -> Network:
    """Load a network from a model file of any supported format.

    Parameters
    ----------
    path : str or path-like
        ``.npz`` and ``.safetensors`` as :meth:`Network.load`, ``.onnx`` as :func:`from_onnx`,
        ``.pt2`` as :func:`from_torch`, and ``.keras`` as :func:`from_keras`.
    task : {"classification", "regression", "multilabel"}, optional
        Task of the network, if the file does not have one.
    classes : array-like (k,), optional
        Labels of the outputs, if the file does not have them.
    verify : bool, default True
        Compare a converted network with the model itself on random rows.
    tune : bool, default True
        As for :meth:`Network.load`; for files of lrgate.

    Returns
    -------
    Network

    Raises
    ------
    FileFormatError
        If a ``.npz`` or ``.safetensors`` file is not a model or is damaged.
    UnsupportedModelError
        If lrgate cannot run the model with the same results.
    ValueError
        If the path has another suffix, or `task` or `classes` do not fit.
    ImportError
        If the package that reads the format is not installed.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> net = lrgate.load("model.onnx")  # doctest: +SKIP
    """
    name = os.fspath(path)
    suffix = Path(name).suffix.lower()
    if suffix == ".onnx":
        from lrgate.frameworks.onnx_reader import from_onnx

        return from_onnx(name, task=task, classes=classes, verify=verify)
    if suffix == ".pt2":
        from lrgate.frameworks.torch_reader import from_torch

        return from_torch(name, task=task, classes=classes, verify=verify)
    if suffix == ".keras":
        from lrgate.frameworks.keras_reader import from_keras

        return from_keras(name, task=task, classes=classes, verify=verify)
    if suffix in (".npz", ".safetensors"):
        return Network.load(name, tune=tune, task=task, classes=classes)
    raise ValueError(
        "path must end in .npz, .safetensors, .onnx, .pt2 or .keras, "
        f"got {name!r}{_instead(suffix)}"
    )


def _instead(suffix: str) -> str:
    if suffix in (".pt", ".pth", ".pkl", ".pickle", ".joblib"):
        return (
            ": a pickle may run any code, so it is not read: load it yourself and pass the model "
            "to lrgate.from_torch or lrgate.from_sklearn"
        )
    if suffix in (".h5", ".hdf5"):
        return ": load it with Keras, and pass the model to lrgate.from_keras"
    return ""


def as_network(model: Any, x: Any = None) -> Network:
    """The network of a model of any kind.

    Parameters
    ----------
    model : Network, path, or model of ONNX, PyTorch, scikit-learn or Keras
        A network is returned as it is.
    x : array-like (n, d), optional
        Example rows, which PyTorch needs where a module does not show the size of its input.

    Raises
    ------
    TypeError
        If `model` is none of these.
    UnsupportedModelError, ImportError, OSError, ValueError
        As for :func:`load`.
    """
    if isinstance(model, Network):
        return model
    if isinstance(model, str | os.PathLike):
        return load(model)
    # A model of a framework exists only if the framework has been imported.
    if _is_a(model, "onnx", "ModelProto"):
        from lrgate.frameworks.onnx_reader import from_onnx

        return from_onnx(model)
    if _is_a(model, "keras", "Model"):
        from lrgate.frameworks.keras_reader import from_keras

        return from_keras(model)
    if (
        _is_a(model, "torch.nn", "Module")
        or _is_a(model, "torch.export", "ExportedProgram")
        or _is_a(model, "skorch", "NeuralNet")
        or _is_a(model, "stable_baselines3.common.base_class", "BaseAlgorithm")
    ):
        from lrgate.frameworks.torch_reader import from_torch

        return from_torch(model, x)
    if _is_a(model, "sklearn.base", "BaseEstimator"):
        from lrgate.frameworks.sklearn_reader import from_sklearn

        return from_sklearn(model)
    raise TypeError(
        "model must be a Network, a path, or a model of scikit-learn, PyTorch, ONNX or Keras, "
        f"got {type(model).__name__}"
    )


def _is_a(model: Any, module: str, name: str) -> bool:
    """Whether `model` is an instance of a class of a module that may not be imported."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(model, kind)

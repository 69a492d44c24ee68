"""scikit-learn in f32, with and without input checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from lrgate.bench.engines.base import Engine, Forward, Settings, combinations_of
from lrgate.bench.engines.folding import Layers
from lrgate.bench.engines.numpy import load_npz, store_npz


def _to_mlp(layers: Layers) -> Any:
    """Return a fitted MLPRegressor with these layers, given as weights (out, in) and biases (out,).

    A regressor is used for classifiers, too: its outputs are the raw outputs of the last layer.
    """
    from sklearn.neural_network import MLPRegressor

    model = MLPRegressor(hidden_layer_sizes=[len(bias) for _, bias in layers[:-1]])
    model.coefs_ = [weight.T for weight, _ in layers]
    model.intercepts_ = [bias for _, bias in layers]
    model.n_layers_ = len(layers) + 1
    model.n_outputs_ = len(layers[-1][1])
    model.n_features_in_ = layers[0][0].shape[1]
    model.out_activation_ = "identity"
    return model


def _load_sklearn(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    model = _to_mlp(load_npz(path))
    if settings["checks"]:
        return lambda x: model.predict(x).reshape(len(x), -1)
    return lambda x: model._forward_pass_fast(x, check_input=False)


ENGINES: Final = (
    Engine(
        "scikit-learn",
        "scikit-learn",
        "f32",
        ("sklearn.neural_network",),
        store_npz,
        _load_sklearn,
        combinations_of(checks=(True, False)),
    ),
)

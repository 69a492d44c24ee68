"""Conversion of a ReLU network to a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

from lrgate.frameworks.arrays import Layers

__all__ = ["to_mlp"]


def to_mlp(layers: Layers) -> Any:
    """Return a fitted MLPRegressor with these layers, given as weights (out, in) and biases (out,).

    A regressor is used for classifiers, too: its outputs are the raw outputs of the last layer.
    """
    from sklearn.neural_network import MLPRegressor

    model = MLPRegressor([len(bias) for _, bias in layers[:-1]])
    model.coefs_ = [weight.T for weight, _ in layers]
    model.intercepts_ = [bias for _, bias in layers]
    model.n_layers_ = len(layers) + 1
    model.n_outputs_ = len(layers[-1][1])
    model.n_features_in_ = layers[0][0].shape[1]
    model.out_activation_ = "identity"
    return model

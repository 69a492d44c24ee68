"""A relu network as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

from lrgate.frameworks.arrays import Layers

__all__ = ["to_mlp"]


def to_mlp(layers: Layers) -> Any:
    """A fitted MLPRegressor of these layers: weight (out, in) and bias (out,) of each.

    The regressor, for a classifier too: its outputs are the raw ones, with nothing on top.
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

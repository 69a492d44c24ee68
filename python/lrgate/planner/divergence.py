"""A smooth measure of few rows: how far outputs are from the dense network's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate.network import Network
from lrgate.planner.calibration import log_probabilities
from lrgate.types import Float64Array

__all__ = [
    "Divergence",
    "variance_of",
]


def variance_of(values: npt.NDArray[Any]) -> float:
    """Of all columns together; 1 where nothing varies."""
    values = values[np.isfinite(values).all(axis=1)]
    if len(values) == 0:
        return 1.0
    return float(np.square(values - values.mean(axis=0)).sum(axis=1).mean()) or 1.0


class Divergence:
    """How far a network's outputs are from the dense network's: a smooth measure of few rows."""

    def __init__(self, dense: Network, rows: Any) -> None:
        self.rows = rows
        self.activation = dense.layers[-1].activation.name
        self.classifies = dense.task != "regression"
        self.labels = dense.task == "multilabel"
        outputs = self._outputs(dense)
        self.dense = self._log_probabilities(outputs) if self.classifies else outputs
        self.variance = variance_of(outputs)

    def of(self, network: Network) -> float:
        """Mean Kullback-Leibler divergence of the classes, or relative squared difference."""
        outputs = self._outputs(network)
        if self.classifies:
            logs = self._log_probabilities(outputs)
            return float((np.exp(self.dense) * (self.dense - logs)).sum(axis=1).mean())
        return float(np.square(outputs - self.dense).sum(axis=1).mean() / self.variance)

    def _outputs(self, network: Network) -> Float64Array:
        outputs = network.forward(self.rows).astype(np.float64)
        return outputs.reshape(-1, 1) if self.labels else outputs

    def _log_probabilities(self, outputs: Float64Array) -> Float64Array:
        if self.activation == "log_softmax":
            outputs = np.maximum(outputs, np.log(1e-12))
        elif self.activation in ("softmax", "sigmoid"):
            outputs = np.clip(outputs, 1e-12, 1 - 1e-12)
            if outputs.shape[1] == 1:
                outputs = np.concatenate([1 - outputs, outputs], axis=1)
            outputs = np.log(outputs)
        elif outputs.shape[1] == 1:
            outputs = np.concatenate([np.zeros_like(outputs), outputs], axis=1)
        return log_probabilities(outputs)

"""How far outputs are from the dense network's: a measure with little noise on few rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate.model.odds import log_odds, log_probabilities, of_two
from lrgate.network import Network
from lrgate.types import Float32Array, Float64Array

__all__ = [
    "Divergence",
    "variance_of",
]


def variance_of(values: npt.NDArray[Any]) -> float:
    """Of all columns together; 0 where it is not above rounding."""
    values = values[np.isfinite(values).all(axis=1)].astype(np.float64)
    if len(values) == 0:
        return 0.0
    variance = float(np.square(values - values.mean(axis=0)).sum(axis=1).mean())
    rounding = 4 * np.finfo(np.float64).eps * np.abs(values).max(axis=0)
    return variance if variance > float(np.square(rounding).sum()) else 0.0


class Divergence:
    """Distance of outputs from the dense network's: a measure with little noise on few rows."""

    def __init__(self, dense: Network, rows: Any) -> None:
        self.rows = rows
        self.activation = dense.layers[-1].activation.name
        self.classifies = dense.task != "regression"
        self.labels = dense.task == "multilabel"
        outputs = self._outputs(dense)
        self.dense = (
            self._log_probabilities(outputs) if self.classifies else outputs.astype(np.float64)
        )
        self.variance = variance_of(outputs) or 1.0

    def of(self, network: Network) -> float:
        """Mean Kullback-Leibler divergence of the classes, or relative squared difference."""
        outputs = self._outputs(network)
        if self.classifies:
            logs = self._log_probabilities(outputs)
            return float((np.exp(self.dense) * (self.dense - logs)).sum(axis=1).mean())
        return float(np.square(outputs - self.dense).sum(axis=1).mean() / self.variance)

    def _outputs(self, network: Network) -> Float32Array:
        outputs = network.forward(self.rows)
        return outputs.reshape(-1, 1) if self.labels else outputs

    def _log_probabilities(self, outputs: Float32Array) -> Float64Array:
        odds = log_odds(outputs, self.activation)
        return log_probabilities(of_two(odds[:, 0]) if odds.shape[1] == 1 else odds)

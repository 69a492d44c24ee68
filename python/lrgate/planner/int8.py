"""int8 forms of a network, fitted to the units that the engine computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lrgate.model.layer import Quantization
from lrgate.network import Network
from lrgate.planner.kept import kept_layers
from lrgate.quantization.fit import fit_layers, widened

__all__ = [
    "Int8Fit",
]


class Int8Fit:
    """Puts layers of a network in int8, fitted to real rows.

    Units that are left out have no part in the fit; quantizations are of all inputs.

    Parameters
    ----------
    network : Network
        Without gates, dense in f32.
    rows : array or CSR (n, d)
        Rows to fit to.
    """

    def __init__(self, network: Network, rows: Any) -> None:
        self._network, self._rows = network, rows
        self._layers = kept_layers(network)

    def network(self, chosen: Sequence[int]) -> Network:
        """The network with the chosen layers in int8, except those that cannot be."""
        network = self._network
        fit = fit_layers(
            self._layers,
            self._rows,
            set(chosen),
            network.dense().engine.layer_inputs,
            network.input_scale,
            network.task == "classification",
        )
        found: dict[int, Quantization] = {}
        for i in chosen:
            quantization = fit.layers[i].quantization
            before = network.layers[i - 1].kept_units if i else None
            if before is not None:
                quantization = widened(quantization, before, network.layers[i].inputs)
            if quantization is not None and self._fits(i, quantization):
                found[i] = quantization
        return network.with_quantization(found)

    def _fits(self, i: int, quantization: Quantization) -> bool:
        """Whether the layer's weights and biases do not overflow in this form."""
        try:
            self._network.with_quantization({i: quantization})
        except ValueError:
            return False
        return True

"""Layers as the engine computes them, which gates, factors and int8 forms are fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lrgate.model.arrays import read_only
from lrgate.model.layer import Factors, Gate, Layer, NestedGate
from lrgate.network import Network
from lrgate.planner.candidates import Inputs
from lrgate.types import Float32Array, Int32Array

__all__ = [
    "KeptLayer",
    "kept_layers",
]


def kept_layers(network: Network) -> list[Layer]:
    """The layers as the engine computes them: their kept units alone, in its order."""
    return [_kept_layer(network, i) for i in range(len(network.layers))]


def _kept_layer(network: Network, i: int) -> Layer:
    layer = network.layers[i]
    before = network.layers[i - 1].kept_units if i else None
    weight, bias, activation = layer.weight, layer.bias, layer.activation
    if layer.kept_units is not None:
        activation = activation.of_units(layer.kept_units)
        weight, bias = read_only(weight[layer.kept_units]), read_only(bias[layer.kept_units])
    if before is not None:
        weight = read_only(weight[:, before])
    return Layer(weight, bias, activation)


@dataclass(frozen=True, eq=False)
class KeptLayer:
    """The kept units of a layer, in the order of the engine, with their inputs.

    Gates are fitted to these alone: a unit that is left out must not take up any of a gate's rank.

    Attributes
    ----------
    layer : Layer
        Its kept units, with the weights of the kept inputs.
    fit, tune : array or SparseInputs (n, kept inputs)
        Inputs on the rows that fit estimators, and on the rows that choose thresholds.
    """

    layer: Layer
    fit: Inputs
    tune: Inputs
    _whole: Layer
    _before: Int32Array | None

    @classmethod
    def of(cls, network: Network, i: int, signals: Sequence[Sequence[Any]]) -> KeptLayer:
        """Layer `i` of the network; `signals` are all layers' inputs, at full width."""
        whole = network.layers[i]
        before = network.layers[i - 1].kept_units if i else None
        fit, tune = (part[i] if before is None else part[i][:, before] for part in signals)
        return cls(_kept_layer(network, i), fit, tune, whole, before)

    def in_full(self, gate: Gate) -> Gate:
        """A gate of the kept units as one of all units: the others are off."""
        u, v = self._rows_in_full(gate.u), self._columns_in_full(gate.v)
        return replace(gate, u=u, v=v, bias=self.bias_in_full(gate.bias))

    def factors_in_full(self, factors: Factors) -> Factors:
        """Factors of the kept units as those of all units."""
        gate = factors.gate
        if gate is not None:
            bias = self.bias_in_full(gate.bias)
            gate = NestedGate(self._columns_in_full(gate.v), bias)
        return replace(
            factors,
            u=self._rows_in_full(factors.u),
            v=self._columns_in_full(factors.v),
            bias=self.bias_in_full(factors.bias),
            gate=gate,
        )

    def _rows_in_full(self, u: Float32Array) -> Float32Array:
        if self._before is None:
            return u
        whole = np.zeros((self._whole.inputs, u.shape[1]), np.float32)
        whole[self._before] = u
        return read_only(whole)

    def _columns_in_full(self, v: Float32Array) -> Float32Array:
        if self._whole.kept_units is None:
            return v
        whole = np.zeros((len(v), self._whole.outputs), np.float32)
        whole[:, self._whole.kept_units] = v
        return read_only(whole)

    def bias_in_full(self, bias: Float32Array) -> Float32Array:
        """A bias of the kept units as one of all units: the others are off."""
        units = self._whole.kept_units
        if units is None:
            return bias
        whole = np.full(self._whole.outputs, -1.0, np.float32)
        whole[units] = bias
        return read_only(whole)

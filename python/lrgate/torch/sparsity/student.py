"""The network that is trained: its layers as parameters, and the units that it keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrgate.export.layers import dense_layers
from lrgate.export.torch import InputMap, activation_module
from lrgate.model.activation import Activation
from lrgate.network import Network, declared_classes, declared_task

__all__ = ["Student", "can_be_sparse", "rows_of"]


def can_be_sparse(activation: Activation) -> bool:
    """Whether outputs are 0 on a half-line and nowhere negative, so that few may be on."""
    return activation.has_hard_zero and not activation.may_be_negative


class Student(nn.Module):
    """A network as a module that also returns its hidden outputs.

    Parameters
    ----------
    layers : iterable of (array (out, in), array (out,), Activation)
    scale, shift : tensor () or (d,), optional
        The first layer gets ``x * scale + shift``.

    Attributes
    ----------
    activations : list of Activation
    blend : float
        Share of ReLU in the hidden layers that :meth:`relufy` changed.
    """

    def __init__(
        self,
        layers: Iterable[tuple[Any, Any, Activation]],
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> None:
        super().__init__()
        taken = list(layers)
        self.map = InputMap(scale, shift)
        self.weights = nn.ParameterList(_parameter(weight) for weight, _, _ in taken)
        self.biases = nn.ParameterList(_parameter(bias) for _, bias, _ in taken)
        self.activations = [activation for _, _, activation in taken]
        self.blend = 1.0
        self._replaced: dict[int, Activation] = {}
        self._functions = [activation_module(each) for each in self.activations]

    @classmethod
    def of(cls, network: Network) -> Student:
        """The dense network."""
        maps = (network.input_scale, network.input_shift)
        scale, shift = (None if each is None else torch.from_numpy(each.copy()) for each in maps)
        return cls(dense_layers(network._model), scale, shift)

    def copy(self) -> Student:
        """A copy with parameters of its own."""
        layers = [
            (weight.detach().numpy(), bias.detach().numpy(), activation)
            for weight, bias, activation in zip(
                self.weights, self.biases, self.activations, strict=True
            )
        ]
        return Student(layers, self.map.scale, self.map.shift)

    @property
    def units(self) -> list[int]:
        """Units of each layer."""
        return [len(bias) for bias in self.biases]

    @property
    def sparse_layers(self) -> list[int]:
        """Hidden layers whose outputs can be 0."""
        return [i for i, each in enumerate(self.activations[:-1]) if can_be_sparse(each)]

    def relufy(self) -> list[int]:
        """Move the hidden layers whose outputs cannot be 0 to ReLU; returns which these are.

        With `blend` from 0 to 1 they go from their activation to ReLU.
        """
        for i, activation in enumerate(self.activations[:-1]):
            if activation.name != "identity" and not can_be_sparse(activation):
                self._replaced[i] = activation
                self.activations[i] = Activation("relu")
        return list(self._replaced)

    def set_threshold(self, layer: int, threshold: float) -> None:
        """Outputs of a ReLU layer up to this become 0."""
        self.activations[layer] = Activation("thresholded_relu", threshold)
        self._functions[layer] = activation_module(self.activations[layer])

    def keep(self, units: Sequence[np.ndarray[Any, Any] | None]) -> None:
        """Leave out the other units of each layer; None keeps all."""
        with torch.no_grad():
            for i, kept in enumerate(units):
                if kept is None:
                    continue
                index = torch.from_numpy(np.asarray(kept, np.int64))
                self.weights[i] = _parameter(self.weights[i].detach()[index])
                self.biases[i] = _parameter(self.biases[i].detach()[index])
                self.weights[i + 1] = _parameter(self.weights[i + 1].detach()[:, index])
        # `of_units` takes care of parameters with a value for each unit.
        for i, kept in enumerate(units):
            if kept is not None:
                self.activations[i] = self.activations[i].of_units(np.asarray(kept, np.int64))
                self._functions[i] = activation_module(self.activations[i])

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Pre-activations of the last layer (n, k) for raw rows (n, d), and hidden outputs."""
        signal, hidden = self.map(x), []
        last = len(self.units) - 1
        for i in range(last):
            z = functional.linear(signal, self.weights[i], self.biases[i])
            signal = self._activated(i, z)
            hidden.append(signal)
        return functional.linear(signal, self.weights[last], self.biases[last]), hidden

    def _activated(self, layer: int, z: Tensor) -> Tensor:
        result: Tensor
        if layer not in self._replaced:
            result = self._functions[layer](z)
            return result
        result = functional.relu(z)
        if self.blend < 1:
            result = torch.lerp(self._functions[layer](z), result, self.blend)
        return result

    def outputs(self, z: Tensor) -> Tensor:
        """The network's raw outputs of the last layer's pre-activations."""
        result: Tensor = self._functions[-1](z)
        return result

    def network(self, like: Network) -> Network:
        """The network with the trained layers; all else is that of `like`."""
        pairs = [
            (weight.detach().numpy().copy(), bias.detach().numpy().copy())
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]
        made = Network.from_layers(
            pairs,
            self.activations,
            task=declared_task(like),
            classes=declared_classes(like),
            input_scale=like.input_scale,
            input_shift=like.input_shift,
            input_range=like.input_range,
        )
        return made.with_metadata(like.metadata)

    def state(self) -> dict[str, Any]:
        """Parameters and activations, as tensors and JSON values."""
        return {
            "weights": [weight.detach().clone() for weight in self.weights],
            "biases": [bias.detach().clone() for bias in self.biases],
            "thresholds": [
                each.threshold if each.name == "thresholded_relu" else None
                for each in self.activations
            ],
        }

    def restored(self, state: dict[str, Any]) -> Student:
        """The student of a :meth:`state`, with the activations of this one."""
        activations = [
            each if threshold is None else Activation("thresholded_relu", threshold)
            for each, threshold in zip(self.activations, state["thresholds"], strict=True)
        ]
        layers = zip(state["weights"], state["biases"], activations, strict=True)
        return Student(layers, self.map.scale, self.map.shift)


def rows_of(rows: Any, index: Any) -> Tensor:
    """Some rows of uint8 or float32 rows (n, d) or CSR, as float32."""
    part = rows[index]
    if hasattr(part, "toarray"):
        part = part.toarray()
    return torch.from_numpy(np.ascontiguousarray(part)).float()


def _parameter(values: Any) -> nn.Parameter:
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    return nn.Parameter(tensor.detach().float().clone())

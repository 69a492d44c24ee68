"""The networks that the benchmarks run: the shipped one, and two with set widths and densities.

The random networks have rows of 32 hidden causes and noise, as real inputs do: on such rows a
sign estimate of low rank means something. Weights are random; each hidden unit's bias is the
quantile of its pre-activations that makes it positive on the wanted share of calibration rows. The
first layer has a whitened gate, fitted on calibration rows; the rows that are timed are others of
the same kind.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

import lrgate
from lrgate import estimators

WIDTHS = {
    "1024-1500-700-400-200-10": (1024, 1500, 700, 400, 200, 10),
    "1024-4096-4096-10": (1024, 4096, 4096, 10),
}
HIDDEN_DENSITY = 0.05
CAUSES = 32
NOISE = 0.3
RANK = 48
THRESHOLD = -0.3
"""Of the gates: in units of a pre-activation, whose standard deviation is about 1."""

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Case:
    """A network with gates, its rows, and the error that its gates may cause.

    `labels` are the rows' true ones, where there are any. `optimised` is the network as
    `lrgate.optimize` made it, int8 and all; `net` is f32. `max_gate_error` limits the squared
    difference of the gated outputs from the dense ones, over the square of the dense outputs'
    differences from their mean.
    """

    name: str
    net: lrgate.Network
    x: Float32Array
    max_gate_error: float
    labels: npt.NDArray[np.int64] | None = None
    optimised: lrgate.Network | None = None
    plans: dict[str, lrgate.Network] = field(default_factory=dict)

    def plan(self, strategy: str) -> lrgate.Network:
        """The network under `strategy`: where a layer has no gate, "gate" skips."""
        if strategy not in self.plans:
            self.plans[strategy] = self._plan(strategy)
        return self.plans[strategy]

    def _plan(self, strategy: str) -> lrgate.Network:
        layers = self.net.layers
        if strategy == "optimised":
            assert self.optimised is not None
            return self.optimised
        if strategy == "fastest":
            return self.net.tune(self.x, (1, 8, 64, 256, 1024))
        if strategy == "gate":
            return self.net.with_strategies(
                ["skip" if layer.gate is None else "gate" for layer in layers]
            )
        return self.net.with_strategies([strategy] * len(layers))


@functools.cache
def shipped() -> Case:
    """The shipped network on the shipped digits, as float32 pixels from 0 to 255."""
    net, x, y = lrgate.examples.mnist()
    # In f32, and gates that score in f32, so that float64 can check them up to rounding.
    gates = [layer.gate and replace(layer.gate, range=None) for layer in net.layers]
    plain = net.with_quantization([None] * len(gates)).with_gates(gates)
    rows = x.astype(np.float32)
    return Case("shipped", plain, rows, max_gate_error=0.05, labels=y, optimised=net)


@functools.cache
def random(widths: str, input_density: float) -> Case:
    """A random network of these widths, on rows of which a share `input_density` is not zero."""
    sizes = WIDTHS[widths]
    rng = np.random.default_rng(0)
    x = _rows(rng, 2048, sizes[0], input_density)
    calibration, timed = x[:1024], x[1024:]
    layers = []
    activation = calibration
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        scale = 1 / np.sqrt(np.mean(np.sum(np.square(activation), axis=1)))
        weight = rng.normal(scale=scale, size=(outputs, inputs)).astype(np.float32)
        z = activation @ weight.T
        if i == len(sizes) - 2:
            layers.append((weight, np.zeros(outputs, np.float32)))
            break
        rank = int((1 - HIDDEN_DENSITY) * len(z))
        bias = -np.partition(z, rank, axis=0)[rank]
        layers.append((weight, bias))
        activation = np.maximum(z + bias, 0)
    net = lrgate.Network.from_layers(layers)
    gate = estimators.whitened(net.layers[0], calibration).gate(RANK, THRESHOLD)
    name = random_name(widths, input_density)
    return Case(name, net.with_gates({0: gate}), timed, max_gate_error=0.05)


def random_name(widths: str, input_density: float) -> str:
    """The name of such a case."""
    return f"{widths}, input density {input_density:g}"


def _rows(rng: np.random.Generator, n: int, width: int, density: float) -> Float32Array:
    """Rows of low rank: dense, or of 4 causes each that touch a few inputs each."""
    if density == 1:
        causes = rng.normal(size=(n, CAUSES))
        effects = rng.normal(size=(CAUSES, width)) / np.sqrt(CAUSES)
        x = causes @ effects + NOISE * rng.normal(size=(n, width))
    else:
        ranks = np.argsort(rng.random((n, CAUSES)), axis=1)
        causes = np.where(ranks < 4, rng.exponential(size=(n, CAUSES)), 0)
        touched = rng.random((CAUSES, width)) < 1 - (1 - density) ** (1 / 4)
        effects = np.where(touched, rng.exponential(size=(CAUSES, width)), 0)
        x = causes @ effects * np.exp(NOISE * rng.normal(size=(n, width)))
    return x.astype(np.float32)

"""Factors that might be used instead of a layer's weights, without and with a nested gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from lrgate import estimators
from lrgate.estimators import Factoring
from lrgate.inputs.sparse import SparseInputs
from lrgate.model.layer import Factors, Gate, Layer, Quantization
from lrgate.planner.candidates import Candidate, Inputs
from lrgate.planner.kept import KeptLayer
from lrgate.planner.plans import with_always_on
from lrgate.quantization.sums import sums_quantization
from lrgate.types import Float32Array, IntArray

__all__ = [
    "factor_candidates",
    "factor_ranks",
    "has_nested_gate",
]


RANKS: Final = (16, 32, 64, 128, 192, 256, 384, 512)

# The most of the usual ranks that are tried: the largest ones, which do the least damage.
_MOST_RANKS: Final = 5

# The multiply-adds of factors must be at most this share of those of the layer.
_MOST_WORK: Final = 0.75

# Factors that lose more than this share of the energy of the layer's outputs are not tried.
_MOST_LOST: Final = 0.05

# A nested gate has this share of the rank, and these lost energies.
_NESTED: Final = 4
_LEAST_NESTED: Final = 8
_NESTED_LOST_ENERGIES: Final = (1e-3, 4e-3, 1.6e-2)

# Rows on which the lost energy of factors is measured.
_ROWS: Final = 1000


def factor_ranks(kept: KeptLayer, density: float, ranks: Sequence[int] | None) -> list[int]:
    """Ranks of factors with little enough work, out of `ranks` or the usual ones.

    Both the layer and the first factor may skip zero inputs.
    """
    d, h = kept.layer.inputs, kept.layer.outputs
    most = _MOST_WORK * density * d * h
    tried = [rank for rank in RANKS if rank < len(kept.fit)] if ranks is None else ranks
    fit = [rank for rank in tried if rank < min(d, h) and rank * (density * d + h) <= most]
    return fit[-_MOST_RANKS:] if ranks is None else fit


def has_nested_gate(layer: Layer, always: IntArray, is_last: bool) -> bool:
    """Whether factors of the layer may have a nested gate."""
    return not is_last and layer.activation.has_hard_zero and len(always) < layer.outputs


def factor_candidates(
    fit: Factoring,
    ranks: Sequence[int],
    kept: KeptLayer,
    always: IntArray | None,
    quantization: Quantization | None,
    sizes: int,
) -> list[Candidate]:
    """Factors of the ranks, not measured yet; with nested gates unless `always` is None.

    `always` are the positions of units that need no score, and `quantization` is that of the
    layer's inputs in the network.
    """
    some = kept.tune[:_ROWS]
    truth = _outputs(kept.layer, some)
    energy = float(np.square(truth).sum()) or 1.0
    times = np.zeros(sizes)
    found = []
    for rank in ranks:
        plain = fit.factors(rank)
        if quantization is not None:
            plain = replace(plain, quantization=sums_quantization(plain, kept.fit))
        for factors in (plain, *_nested(plain, fit, kept, always)):
            outputs = _factored_outputs(kept.layer, factors, some)
            lost = float(np.square(outputs - truth).sum()) / energy
            if lost <= _MOST_LOST:
                whole = kept.factors_in_full(factors)
                found.append(Candidate(whole, "factored", lost, times))
    return found


def _nested(
    factors: Factors, fit: Factoring, kept: KeptLayer, always: IntArray | None
) -> Iterator[Factors]:
    """The factors with nested gates of several lost energies."""
    rank = factors.rank // _NESTED
    if always is None or rank < _LEAST_NESTED:
        return
    gate = with_always_on(fit.gate(rank), always)
    path = estimators.ThresholdPath(kept.layer, gate, kept.tune)
    for lost in _NESTED_LOST_ENERGIES:
        bias = path.gate(lost_energy=lost).bias.copy()
        bias[always] = 1.0
        yield replace(factors, gate=fit.factors(factors.rank, Gate(gate.u, gate.v, bias)).gate)


def _outputs(layer: Layer, inputs: Inputs) -> Float32Array:
    z = _product(inputs, layer.weight.T) + layer.bias
    return layer.activation.apply(z).astype(np.float32)


def _factored_outputs(layer: Layer, factors: Factors, inputs: Inputs) -> Float32Array:
    sums = _product(inputs, factors.u)
    outputs = layer.activation.apply(sums @ factors.v + factors.bias)
    if factors.gate is not None:
        gate = factors.gate
        outputs = np.where(sums[:, : gate.rank] @ gate.v + gate.bias > 0, outputs, 0.0)
    return np.asarray(outputs, np.float32)


def _product(inputs: Inputs, weight: Float32Array) -> Float32Array:
    if isinstance(inputs, SparseInputs):
        return np.asarray(inputs @ weight.astype(np.float64), np.float32)
    return inputs @ weight

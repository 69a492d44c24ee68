"""Fits the quantisations of layers, one after another, to real rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.inputs.sparse import SparseInputs
from lrgate.model.layer import Gate, Layer, Quantization
from lrgate.quantization.errors import ERROR_ROWS, SPREAD_ROWS, Part, parts_of
from lrgate.quantization.fitter import FREE, LEAST_TO_SPLIT, LITTLE, MORE, WORSE, Fitter
from lrgate.quantization.limits import MOST_ERROR, MOST_RECOMPUTED
from lrgate.quantization.rows import (
    at_most_rows,
    bounds_of,
    canonical,
    first_inputs,
    fitting_rows,
    signals_of,
    taken_rows,
)
from lrgate.quantization.sums import sums_quantization
from lrgate.quantization.typical import typical_rows
from lrgate.quantization.windows import outside
from lrgate.results.quantization import LayerFit
from lrgate.types import Float32Array, Float64Array

__all__ = [
    "Fit",
    "fit_layers",
    "gate_range",
    "selected",
    "widened",
]


# Headroom at both ends of the range of a gate's sums, as a share of the range.
_ROOM: Final = 0.1


@dataclass(frozen=True)
class Fit:
    """Layers with their quantisations, and a report for each."""

    layers: tuple[Layer, ...]
    reports: tuple[LayerFit, ...]


def selected(quantization: Quantization | None, order: npt.NDArray[Any]) -> Quantization | None:
    """The quantisation of the inputs with the indices `order`."""
    if quantization is None or not quantization.scale.ndim:
        return quantization
    return replace(quantization, scale=quantization.scale[order])


def widened(
    quantization: Quantization | None, inputs: npt.NDArray[Any], width: int
) -> Quantization | None:
    """Extend the quantisation of the given `inputs` to `width` inputs; the others are always 0."""
    if quantization is None or not quantization.scale.ndim:
        return quantization
    scale = np.full(width, np.median(quantization.scale), np.float32)
    scale[inputs] = quantization.scale
    return replace(quantization, scale=scale)


def fit_layers(
    layers: Sequence[Layer],
    rows: Any,
    chosen: set[int],
    layer_inputs: Callable[[Any], Sequence[Float32Array]],
    input_scale: Float32Array | None = None,
    classifies: bool = False,
    fine: bool = False,
) -> Fit:
    """Fit the quantisations of the `chosen` layers and of their factors, and the gates' ranges.

    Arguments are not checked, and no warnings are issued.

    Parameters
    ----------
    layers : sequence of Layer
        The layers of a network.
    rows : uint8 or float32 array of shape (n, d), or CSR
        Real rows from `checked_rows`.
    chosen : set of int
        Indices of the layers to quantise.
    layer_inputs : callable
        Returns the inputs of every layer for some rows, in float32; the inputs of the first layer
        are scaled and shifted.
    input_scale : array of shape () or (d,), optional
        Input scale of the network.
    classifies : bool, default False
        Whether the outputs of the last layer are compared with each other.
    fine : bool, default False
        Whether more rows may be recomputed, so that the errors are smaller.

    Returns
    -------
    Fit
        The layers; a chosen layer that cannot be int8 has no quantization, and a note.

    Raises
    ------
    ValueError
        If a layer's inputs are not finite.
    """
    rng = np.random.default_rng(0)
    rows = canonical(rows)
    bounds = bounds_of(rows)
    rows = taken_rows(rows, fitting_rows(rows, rng))
    signals = signals_of(rows, layer_inputs, chosen)
    some = rows[np.sort(rng.permutation(rows.shape[0])[:SPREAD_ROWS])]
    some = typical_rows(some, layers[0].weight, input_scale)
    parts = parts_of(layers, some, layer_inputs, input_scale, classifies, rng)
    del some
    inside = np.ones(rows.shape[0], bool)
    fitted, reports = list(layers), []
    for i in sorted(chosen):
        kept = np.flatnonzero(inside)
        whole = rows if i == 0 else signals.pop(i)
        values = taken_rows(whole, kept)
        signed = i > 0 and layers[i - 1].activation.may_be_negative
        ends = bounds if i == 0 else None
        quantization, report = _fit_layer(parts[i], values, ends, i, signed, fine)
        reports.append(report)
        fitted[i] = replace(layers[i], quantization=quantization)
        if quantization is not None:
            inside[kept] = ~outside(values, quantization, first=i == 0)
            gate, factors = layers[i].gate, layers[i].factors
            if gate is None and factors is None:
                continue
            within = np.flatnonzero(inside)
            # A generator for each, so that sparse rows become dense a part at a time.
            each = [
                first_inputs(rows, within, layer_inputs) if i == 0 else [whole[within]]
                for _ in range(2)
            ]
            if gate is not None:
                fitted[i] = replace(fitted[i], gate=replace(gate, range=gate_range(gate, each[0])))
            if factors is not None:
                factors = replace(factors, quantization=sums_quantization(factors, each[1]))
                fitted[i] = replace(fitted[i], factors=factors)
    return Fit(tuple(fitted), tuple(reports))


def gate_range(
    gate: Gate, inputs: Float32Array | SparseInputs | Iterable[Float32Array]
) -> Float32Array:
    """Compute a gate's `range`: minimum and maximum of each of ``x u``, with headroom.

    Parameters
    ----------
    gate : Gate
    inputs : float32 array or SparseInputs of shape (n, in), or iterable of such arrays
        Inputs of the gate's layer, all finite; at least one row.

    Returns
    -------
    float32 array of shape (2, rank)
    """
    low = np.full(gate.rank, np.inf)
    high = np.full(gate.rank, -np.inf)
    for part in [inputs] if isinstance(inputs, np.ndarray | SparseInputs) else inputs:
        sums = (part @ gate.u).astype(np.float64)
        low = np.minimum(low, sums.min(axis=0, initial=np.inf))
        high = np.maximum(high, sums.max(axis=0, initial=-np.inf))
    room = _ROOM * (high - low)
    bounds: Float64Array = np.stack([low - room, high + room])
    return bounds.astype(np.float32)


def _fit_layer(
    part: Part,
    values: Any,
    bounds: tuple[Float64Array, Float64Array] | None,
    i: int,
    signed: bool,
    fine: bool,
) -> tuple[Quantization | None, LayerFit]:
    """Fit the quantisation of a layer's inputs; None if the layer must stay f32."""
    n = values.shape[0]
    if n == 0:
        return None, LayerFit(i, "f32", math.nan, 0.0, "no rows are left to fit it")
    if not part.shown:
        note = "its sums vary no more than rounding errors on these rows"
        return None, LayerFit(i, "f32", math.nan, 0.0, note)
    first = i == 0
    rng = np.random.default_rng(2)
    fitter = Fitter(part, values, bounds, first, signed, fine)
    found = fitter.quantizations()
    if not found:
        note = "its inputs are too large or too small for steps in float32"
        return None, LayerFit(i, "f32", math.nan, 0.0, note)
    shares = {kind: fitter.recomputed(q) for kind, q in found.items()}
    errors = {}
    for kind, quantization in found.items():
        inside = np.flatnonzero(~outside(values, quantization, first=first))
        some = np.sort(rng.permutation(inside)[: at_most_rows(ERROR_ROWS, values.shape[1])])
        errors[kind] = part.measured(values[some], quantization) if len(some) else math.inf
    fresh, slack = dict(shares), 0.0
    if len(found) > 1 and n >= LEAST_TO_SPLIT:
        order = rng.permutation(n)
        third = np.sort(order[: n // 3])
        trial = Fitter(part, values[np.sort(order[n // 3 :])], None, first, signed, fine)
        slack = 1.5 / len(third)
        for kind, quantization in trial.quantizations().items():
            if kind in fresh:
                fresh[kind] = float(outside(values[third], quantization, first=first).mean())
    able = [k for k in found if errors[k] <= MOST_ERROR and shares[k] <= MOST_RECOMPUTED]
    if not able:
        kind = min(found, key=lambda k: errors[k] / MOST_ERROR + shares[k] / MOST_RECOMPUTED)
        if shares[kind] > MOST_RECOMPUTED:
            note = f"{shares[kind]:.0%} of the rows would be recomputed in f32"
        else:
            note = f"the error of its sums would be {errors[kind]:.2g} of their spread"
        return None, LayerFit(i, "f32", errors[kind], shares[kind], note)
    least, fewest = min(errors[k] for k in able), min(fresh[k] for k in able)
    least_share = min(shares[k] for k in able)
    kind = next(
        (
            k
            for k in able
            if errors[k] <= max(WORSE * least, min(2 * least, LITTLE), FREE)
            and fresh[k] <= fewest + MORE + slack
            and shares[k] <= least_share + MORE
        ),
        able[-1],
    )
    return found[kind], LayerFit(i, "int8", errors[kind], shares[kind])

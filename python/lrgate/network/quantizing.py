"""Quantisation of a network: the choice of layers, and the comparison with f32."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np

from lrgate import _core, inputs
from lrgate.model.layer import Layer
from lrgate.model.model import HAVE_MARGINS
from lrgate.model.plan import without
from lrgate.network.engine import (
    batch_plans,
    engine_factors,
    engine_gates,
    engine_quantization,
)
from lrgate.network.interface import Net
from lrgate.quantization import comparison, limits
from lrgate.quantization.comparison import Difference
from lrgate.quantization.fit import fit_layers
from lrgate.quantization.rows import at_most_held, split
from lrgate.quantization.typical import typical_rows
from lrgate.results.quantization import LayerFit, QuantizationReport, QuantizationWarning
from lrgate.types import BoolArray, Float32Array

__all__ = [
    "quantized",
    "to_quantize",
    "warn_of",
]


# If int8 exceeds a limit, layers return to f32 until the error is within this share of the limits.
_WITHIN: Final = 0.4

# A finer fit must save a label for each 10 additional rows that it recomputes.
_PRICE: Final = 0.1

N = TypeVar("N", bound=Net)


def warn_of(report: QuantizationReport, difference: Difference) -> None:
    """Warn of layers that stay f32, of large or unchecked errors, and of many recomputed rows."""
    said = [f"layer {fit.layer} stays f32: {fit.note}" for fit in report.layers if fit.note]
    if report.held_rows and not difference.within():
        if report.task == "regression":
            said.append(f"int8 changes outputs by {difference.relative:.2g} of their variance")
        else:
            share = max(difference.changed, difference.expected_changed)
            said.append(f"int8 changes {share:.1%} of the labels of held-out rows")
    if not report.held_rows:
        said.append("int8 was not checked on held-out rows: at least 8 rows are needed")
    if report.recomputed > limits.WARN_RECOMPUTED:
        said.append(
            f"{report.recomputed:.1%} of the rows leave the range of the bytes and are "
            "recomputed in f32, which is slower"
        )
    if said:
        message = "; ".join(said)
        warnings.warn(message, QuantizationWarning, stacklevel=3)


def to_quantize(wanted: Sequence[int] | None, layers: Sequence[Layer]) -> set[int]:
    """Indices of the layers to quantise."""
    if wanted is None:
        return {i for i, layer in enumerate(layers) if layer.inputs <= limits.MOST_INPUTS}
    last = len(layers) - 1
    indices = inputs.as_list(wanted, "layers")
    chosen = {inputs.checked_integer(i, "layers", 0, last) for i in indices}
    for i in sorted(chosen):
        if layers[i].inputs > limits.MOST_INPUTS:
            raise ValueError(
                f"layers[{i}] must have at most {limits.MOST_INPUTS} inputs for int8, "
                f"got {layers[i].inputs}"
            )
    return chosen


def quantized(
    net: N, rows: Any, chosen: set[int], most_close: float
) -> tuple[N, QuantizationReport, Difference]:
    """Quantise those of the `chosen` layers that can run in int8 with a small error of the outputs.

    Layers are fitted once more, with more recomputed rows, if larger errors than usual would change
    too many labels. If many still change, the network gets a least margin, with which at most a
    share `most_close` of the rows is recomputed.
    """
    fitted, held = split(rows)
    int8, fits = _fit_int8(net, fitted, chosen)
    found = _Compared.of(int8, fitted, held, fits)
    if found.excess > limits.FINE_EXCESS:
        finer, finer_fits = _fit_int8(net, fitted, chosen, fine=True)
        other = _Compared.of(finer, fitted, held, finer_fits)
        if other.worst.within() and other.cost < found.cost:
            int8, found = finer, other
    if held.shape[0] and not found.acceptable():
        int8, found = _with_fewer_layers(int8, fitted, held, found)
    least = _least_margin(int8, at_most_held(fitted), most_close)
    if least > 0:
        int8 = int8.with_least_margin(least)
        found = _Compared.of(int8, fitted, held, found.report.layers)
    return int8, found.report, found.worst


def _fit_int8(
    net: N, rows: Any, chosen: Iterable[int], fine: bool = False
) -> tuple[N, tuple[LayerFit, ...]]:
    """Quantise those of the `chosen` layers that can run in int8.

    Outputs are not compared with f32, and no warnings are issued.
    """
    chosen = set(chosen)
    fit = fit_layers(
        net.layers,
        rows,
        chosen,
        net.dense().layer_inputs,
        net.input_scale,
        net.task == "classification",
        fine,
    )
    gated = net.engine.with_gates(engine_gates(fit.layers))
    if any(layer.factors is not None for layer in fit.layers):
        gated = gated.with_factors(engine_factors(fit.layers))
    layers, fits = list(fit.layers), list(fit.reports)
    for k, one in enumerate(fits):
        only = [
            layer if i == one.layer else replace(layer, quantization=None)
            for i, layer in enumerate(layers)
        ]
        try:
            gated.with_quantization(engine_quantization(only))
        except ValueError:
            layers[one.layer] = replace(layers[one.layer], quantization=None)
            note = "its bytes would make weights or biases overflow"
            fits[k] = replace(one, precision="f32", note=note)
    engine = gated.with_quantization(engine_quantization(layers))
    return _with_precisions(net, engine, layers, chosen), tuple(fits)


def _with_precisions(
    net: N, engine: _core.Engine, layers: Sequence[Layer], chosen: Iterable[int]
) -> N:
    """Replace the layers and the engine. Chosen layers run in int8 if they have a quantization."""
    words = {i: "f32" if layers[i].quantization is None else "int8" for i in chosen}
    plan = [
        (n, s, [words.get(i, word) for i, word in enumerate(p)]) for n, s, p in net.engine.plan()
    ]
    engine = engine.with_plan(plan)
    changes = {"plan": batch_plans(engine), "machine": None, "report": None}
    return net._with(engine, layers=tuple(layers), **changes)


def _with_int8(net: N, chosen: set[int], int8: set[int]) -> N:
    """Remove the quantization of chosen layers that are not in `int8`."""
    layers = [
        layer if i in int8 or i not in chosen else replace(layer, quantization=None)
        for i, layer in enumerate(net.layers)
    ]
    engine = net.engine.with_quantization(engine_quantization(layers))
    return _with_precisions(net, engine, layers, chosen)


@dataclass(frozen=True)
class _Compared:
    """Comparison of a quantised network with f32.

    Both run without gates, because int8 does not cause the error of gates.

    Parameters
    ----------
    report : QuantizationReport
        On the held-out rows.
    fitted : Difference
        On a sample of the fitted rows.
    recomputed : float
        Share of recomputed rows, of these or the held-out rows, whichever is larger.
    worst : Difference
        Element-wise maximum over the held-out rows, these rows without outliers, because later rows
        may have none, and the sample of the fitted rows, which show rarer cases because there are
        more of them. NaN without held-out rows.
    """

    report: QuantizationReport
    fitted: Difference
    recomputed: float
    worst: Difference

    @classmethod
    def of(cls, net: Net, fitted: Any, held: Any, fits: tuple[LayerFit, ...]) -> _Compared:
        nan = float("nan")
        n, recomputed = held.shape[0], nan
        difference = worst = Difference(nan, nan, nan)
        share, own = _int8_difference(net, at_most_held(fitted))
        if n:
            recomputed, difference = _int8_difference(net, held)
            typical = typical_rows(held, net.layers[0].weight, net.input_scale)
            worst = difference.worst(_int8_difference(net, typical)[1]).worst(own)
        task = net.task
        expected = nan if task == "regression" else difference.expected_changed
        report = QuantizationReport(
            task,
            fitted.shape[0],
            n,
            difference.changed,
            expected,
            difference.relative,
            recomputed,
            fits,
        )
        return cls(report, own, max(share, recomputed) if n else share, worst)

    def acceptable(self, part: float = 1.0) -> bool:
        """Whether the difference is within this share of its limits, and the excess within its."""
        return self.worst.within(part) and self.excess <= limits.MOST_EXCESS

    @property
    def cost(self) -> float:
        """The share of labels that changes, plus the price of the recomputed rows in labels."""
        return self.fitted.expected_changed + _PRICE * self.recomputed

    @property
    def excess(self) -> float:
        """The share of labels that changes because errors of layers exceed the usual error."""
        errors = [fit.error for fit in self.report.layers if fit.precision == "int8"]
        total = math.hypot(*errors)
        usual = math.hypot(*(min(error, limits.USUAL_ERROR) for error in errors))
        return self.fitted.expected_changed * (1 - usual / total) if total > 0 else 0.0


def _int8_difference(net: Net, rows: Any) -> tuple[float, Difference]:
    """The share of recomputed rows, and the difference from f32 that the other rows cause."""
    recomputed = _without_gates(net)[1].engine.recomputed(rows)
    difference = comparison.difference(*_both_outputs(net, rows), least_margin=net.least_margin)
    return float(recomputed.mean()), difference


def _least_margin(net: Net, rows: Any, most_close: float) -> float:
    """The least margin that an int8 network needs; 0 if it changes few labels without one."""
    last = net.layers[-1].activation.name
    if most_close == 0 or net.task == "regression" or last not in HAVE_MARGINS:
        return 0.0
    return comparison.least_margin(*_both_outputs(net, rows), most_close)


def _both_outputs(
    net: Net, rows: Any
) -> tuple[Float32Array, Float32Array, BoolArray, str | None, str]:
    """Outputs in f32 and int8, rows out of range, task and last activation; no least margin."""
    f32, int8 = _without_gates(net.with_least_margin(0))
    return (
        np.asarray(f32(rows)),
        np.asarray(int8(rows)),
        int8.engine.recomputed(rows),
        net.task,
        net.layers[-1].activation.name,
    )


def _without_gates(net: N) -> tuple[N, N]:
    """The network in f32 and in its precisions."""
    _, strategies, precisions = net.engine.plan()[-1]
    strategies = [without(name, "gate") for name in strategies]
    return net.with_strategies(strategies), net.with_strategies(strategies, precisions)


def _with_fewer_layers(base: N, fitted: Any, held: Any, compared: _Compared) -> tuple[N, _Compared]:
    """Return layers to f32 one by one until the difference is well within the limits.

    The layers that cause the largest difference if they alone are int8 go first.
    """
    fits = compared.report.layers
    part = 1.0 if compared.worst.within() else _WITHIN
    chosen = {one.layer for one in fits}
    left = {one.layer for one in fits if one.precision == "int8"}
    damage = {
        i: _Compared.of(_with_int8(base, chosen, {i}), fitted, held, ()).worst.relative
        for i in left
    }
    net = base
    while left:
        worst = max(left, key=lambda i: damage[i])
        left.remove(worst)
        note = "its int8 form changes the outputs too much"
        fits = tuple(
            replace(one, precision="f32", note=note) if one.layer == worst else one for one in fits
        )
        net = _with_int8(base, chosen, left)
        compared = _Compared.of(net, fitted, held, fits)
        if compared.acceptable(part):
            break
    return net, compared

"""Quantisation of a network: the choice of layers, and the comparison with f32."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import numpy as np

from lrgate import _core, inputs
from lrgate.model.layer import Layer
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
from lrgate.quantization.rows import at_most_held
from lrgate.quantization.typical import typical_rows
from lrgate.results.quantization import LayerFit, QuantizationReport, QuantizationWarning

__all__ = [
    "compare_int8",
    "fit_int8",
    "to_quantize",
    "warn_of",
    "with_fewer_layers",
]


# If int8 exceeds a limit, layers return to f32 until the error is within this share of the limits.
_WITHIN: Final = 0.4

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


def fit_int8(net: N, rows: Any, chosen: Iterable[int]) -> tuple[N, tuple[LayerFit, ...]]:
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


def compare_int8(
    net: N, fitted: Any, held: Any, fits: tuple[LayerFit, ...]
) -> tuple[QuantizationReport, Difference]:
    """Compare a quantised network with f32.

    Both run without gates, because int8 does not cause the error of gates. The report is on the
    `held` rows. The difference is the element-wise maximum over three sets of rows: the `held`
    rows, these rows without outliers, because later rows may have none, and a sample of the
    `fitted` rows, which show rarer cases because there are more of them.
    """
    nan = float("nan")
    n, recomputed = held.shape[0], nan
    difference = worst = Difference(nan, nan, nan)
    if n:
        recomputed, difference = _int8_difference(net, held)
        typical = typical_rows(held, net.layers[0].weight, net.input_scale)
        worst = difference.worst(_int8_difference(net, typical)[1])
        worst = worst.worst(_int8_difference(net, at_most_held(fitted))[1])
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
    return report, worst


def _int8_difference(net: Net, rows: Any) -> tuple[float, Difference]:
    """The share of recomputed rows, and the difference from f32 that the other rows cause."""
    _, strategies, precisions = net.engine.plan()[-1]
    strategies = [without(name, "gate") for name in strategies]
    int8 = net.with_strategies(strategies, precisions)
    beyond = int8.engine.out_of_range(rows)
    difference = comparison.difference(
        np.asarray(net.with_strategies(strategies)(rows)),
        np.asarray(int8(rows)),
        beyond,
        net.task,
        net.layers[-1].activation.name,
    )
    return float(beyond.mean()), difference


def with_fewer_layers(
    base: N, fitted: Any, held: Any, fits: tuple[LayerFit, ...]
) -> tuple[N, tuple[QuantizationReport, Difference]]:
    """Return layers to f32 one by one until the difference is well within the limits.

    The layers that cause the largest difference if they alone are int8 go first.
    """
    chosen = {one.layer for one in fits}
    left = {one.layer for one in fits if one.precision == "int8"}
    damage = {
        i: compare_int8(_with_int8(base, chosen, {i}), fitted, held, ())[1].relative for i in left
    }
    net, compared = base, compare_int8(base, fitted, held, fits)
    while left:
        worst = max(left, key=lambda i: damage[i])
        left.remove(worst)
        note = "its int8 form changes the outputs too much"
        fits = tuple(
            replace(one, precision="f32", note=note) if one.layer == worst else one for one in fits
        )
        net = _with_int8(base, chosen, left)
        compared = compare_int8(net, fitted, held, fits)
        if compared[1].within(_WITHIN):
            break
    return net, compared

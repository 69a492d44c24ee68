"""From rows at the end of a chain to the layers of a network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.frameworks.chain import MAX_BUILT, MAX_ELEMENTS, elementwise_line
from lrgate.frameworks.errors import Refused
from lrgate.frameworks.recognition import recognised
from lrgate.frameworks.values import (
    Core,
    Function,
    Outputs,
    Product,
    Rows,
    Stacked,
    Stage,
    Taken,
    Total,
)
from lrgate.model.activation import Activation
from lrgate.types import Float32Array, Float64Array

__all__ = ["Assembled", "assembled"]

Matrix = npt.NDArray[Any]
# A matrix and an offset.
Factor = tuple[Matrix, Float64Array]


# Of arguments in spelled-out activations: gelu may begin with z / 2 and z / sqrt(2) only.
_FACTORS: Final = (2.0, math.sqrt(2.0))
# Comparisons with all activations in vain, each of which computes a spelled-out function on a grid:
# of one function, and of a network; and how much they may compute.
_MAX_TRIALS_OF_ONE: Final = 16
_MAX_TRIALS: Final = 48
_MAX_COMPARED: Final = 2**22
# Multiplications that folding may take.
_MAX_WORK: Final = 2**38


class _Known:
    """Results for parts that several values share, and limits for everything that is built."""

    def __init__(self) -> None:
        self.factors: dict[Rows, tuple[Rows, list[Factor]]] = {}
        self.dense: dict[Core, Factor] = {}
        self._elements = self._work = self._trials = self._compared = 0

    def tried_in_vain(self, elements: int) -> None:
        self._trials += 1
        self._compared += elements

    @property
    def tried_enough(self) -> bool:
        return self._trials > _MAX_TRIALS or self._compared > _MAX_COMPARED

    def add(self, elements: int, work: int) -> None:
        self._elements += elements
        self._work += work
        if self._elements > MAX_ELEMENTS or self._work > _MAX_WORK:
            raise Refused("its linear operations take too much work to fold")


@dataclass(frozen=True, eq=False)
class Assembled:
    """Layers of a network, and the scale and shift of its input."""

    layers: list[tuple[Float32Array, Float32Array]]
    activations: list[Activation]
    input_scale: Float32Array | None
    input_shift: Float32Array | None


def assembled(output: Rows) -> Assembled:
    """The layers that compute `output` from the input.

    Matrices without an activation between them are multiplied where that takes fewer
    multiplications. Scales and offsets of the input stay apart from the first weights.

    Raises
    ------
    Refused
        If a function is no activation, or the rows do not depend on the input.
    """
    layers: list[tuple[Float32Array, Float32Array]] = []
    activations: list[Activation] = []
    known = _Known()
    rows, activation = output, Activation("identity")
    if _is_stage(rows) and rows.stage.inputs is not None:
        rows, activation, scale, offset = _resolved(rows.stage, known)
        if (scale != 1.0).any() or offset.any():
            rows, activation = output, Activation("identity")
    while True:
        bottom, factors = _factors(rows, known)
        stage = rows.stage
        if stage.inputs is None:
            factors, input_scale, input_shift = _with_input_map(bottom, factors)
            next_rows = None
        else:
            next_rows, next_activation, scale, offset = _resolved(stage, known)
            factors = _with_stage(bottom, factors, scale, offset)
        merged = _merged(factors, known)
        names = [Activation("identity")] * (len(merged) - 1) + [activation]
        layers[:0] = [_rounded(factor) for factor in merged]
        activations[:0] = names
        if next_rows is None:
            break
        rows, activation = next_rows, next_activation
    return Assembled(layers, activations, input_scale, input_shift)


def _is_stage(rows: Rows) -> bool:
    return rows.core is rows.stage.outputs and rows.is_plain


def _resolved(stage: Stage, known: _Known) -> tuple[Rows, Activation, Float64Array, Float64Array]:
    """The pre-activations of a stage, its activation, and the scale and offset behind it."""
    assert stage.inputs is not None
    one, zero = np.ones(stage.size), np.zeros(stage.size)
    if stage.function is None:
        assert stage.activation is not None
        return stage.inputs, stage.activation, one, zero
    whole = Rows(stage.outputs, (stage.size,))
    line = list(elementwise_line(whole).items())[1:]
    if stage.activation is not None and len(line) == 1:
        return stage.inputs, stage.activation, one, zero
    trials = (
        (link, variant) for _, link in reversed(line) for variant in _arguments(link.variants)
    )
    reason = "is none of lrgate's activations"
    for number, (link, variant) in enumerate(trials):
        if known.tried_enough:
            if stage.activation is None:
                raise Refused("it has too many functions that may be activations")
            break
        if number == _MAX_TRIALS_OF_ONE:
            reason = "is none of lrgate's activations, or has too many parts"
            break
        events = [_of(event, variant) for event in link.events.values()]
        function = _of(link.function, variant)
        found = recognised(function, stage.size, events, _fixed(variant))
        if found is None or found.changes_nan:
            known.tried_in_vain(stage.size * (1 + len(events)) ** 2)
            if found is not None:
                reason = _changes_nan(found.activation)
            continue
        if found.shift is not None:
            variant = variant.scaled(np.full(stage.size, found.sign)).shifted(found.shift)
        return variant, found.activation, found.scale, found.offset
    if stage.activation is not None:
        return stage.inputs, stage.activation, one, zero
    raise Refused(f"the function that ends at {stage.where} {reason}")


def _changes_nan(activation: Activation) -> str:
    relu = activation.name == "relu"
    way_out = "as relu(z) or torch.clamp(z, min=0)" if relu else "so that NaN stays NaN"
    return f"is {activation.name} except that it makes a number of NaN: write it {way_out}"


def _arguments(variants: tuple[Rows, ...]) -> Iterator[Rows]:
    """Rows that may be the argument of an activation: the variants, without their scale, and more.

    ``(x / 2) * (1 + erf(x * 0.7))`` is a function of x, which is neither operand.
    """
    yield from variants
    for variant in variants:
        if variant.scale is None or not variant.scale.all():
            continue
        offset = None if variant.offset is None else variant.offset / variant.scale
        yield variant.with_map(None, offset, variant.shape)
    for factor in _FACTORS:
        for variant in variants:
            yield variant.scaled(np.full(variant.size, factor))


def _fixed(rows: Rows) -> Float64Array | None:
    """The value of each element whose scale is zero, and NaN; None if there are none."""
    if rows.scale is None or rows.scale.all():
        return None
    offset = np.zeros(rows.size) if rows.offset is None else rows.offset
    return np.where(rows.scale == 0.0, offset, np.nan)


def _of(function: Function, variant: Rows) -> Function:
    """A function of a core as the function of rows of that core."""
    return lambda z: function(variant.undo(z))


def _factors(rows: Rows, known: _Known) -> tuple[Rows, list[Factor]]:
    """Selected and scaled outputs of the stage, and the matrices behind them, in order."""
    if rows not in known.factors:
        known.factors[rows] = _found_factors(rows, known)
    return known.factors[rows]


def _found_factors(rows: Rows, known: _Known) -> tuple[Rows, list[Factor]]:
    core = rows.core
    if isinstance(core, Outputs) or (isinstance(core, Taken) and isinstance(core.of, Outputs)):
        return rows, []
    if isinstance(core, Product):
        bottom, factors = _factors(core.of, known)
        return bottom, [*factors, _behind((core.matrix, np.zeros(core.size)), rows)]
    if isinstance(core, Taken):
        inner = Rows(core.of, (core.of.size,))
        bottom, factors = _factors(inner, known)
        if factors:
            matrix, offset = factors[-1]
            taken = matrix[core.index], offset[core.index]
            return bottom, [*factors[:-1], _behind(taken, rows)]
        return _selected(bottom, core.index, rows), []
    if isinstance(core, Stacked):
        joined = _joined(core, known)
        if joined is not None:
            return _selected(joined, np.arange(core.size), rows), []
    plain = Rows(core.stage.outputs, (core.stage.size,))
    return plain, [_behind(_dense(core, known), rows)]


def _behind(factor: Factor, rows: Rows) -> Factor:
    """`factor` with the scale and offset of rows behind it."""
    matrix, offset = factor
    if rows.scale is not None:
        matrix, offset = matrix * rows.scale[:, None], offset * rows.scale
    return matrix, offset if rows.offset is None else offset + rows.offset


def _selected(bottom: Rows, index: npt.NDArray[np.intp], rows: Rows) -> Rows:
    """`bottom[index]`, with the scale and offset of `rows` behind it."""
    result = bottom.taken(index, (len(index),))
    if rows.scale is not None:
        result = result.scaled(rows.scale)
    return result if rows.offset is None else result.shifted(rows.offset)


def _joined(core: Stacked, known: _Known) -> Rows | None:
    """Stacked rows as selected outputs of the stage; None if there is a matrix among them."""
    index, scale, offset = [], [], []
    for part, _ in core.parts:
        if part is None:
            return None
        bottom, factors = _factors(part, known)
        if factors:
            return None
        size = bottom.core.size
        index.append(bottom.core.index if isinstance(bottom.core, Taken) else np.arange(size))
        scale.append(np.ones(size) if bottom.scale is None else bottom.scale)
        offset.append(np.zeros(size) if bottom.offset is None else bottom.offset)
    whole = Rows(core.stage.outputs, (core.stage.size,))
    result = whole.taken(np.concatenate(index), (core.size,))
    return result.scaled(np.concatenate(scale)).shifted(np.concatenate(offset))


def _dense(core: Core, known: _Known) -> Factor:
    """A core as a matrix times the outputs of its stage."""
    if core not in known.dense:
        inputs = core.stage.size
        if core.size * inputs > MAX_BUILT:
            raise Refused(f"a matrix of shape ({core.size}, {inputs}) is too large to be built")
        work = core.matrix.size * inputs if isinstance(core, Product) else 0
        known.add(core.size * inputs, work)
        known.dense[core] = _built_dense(core, known)
    return known.dense[core]


def _built_dense(core: Core, known: _Known) -> Factor:
    inputs = core.stage.size
    if isinstance(core, Outputs):
        return np.eye(inputs), np.zeros(inputs)
    if isinstance(core, Taken):
        matrix, offset = _dense(core.of, known)
        return matrix[core.index], offset[core.index]
    if isinstance(core, Product):
        matrix, offset = _dense_rows(core.of, known)
        weight = core.matrix.astype(np.float64)
        return weight @ matrix, weight @ offset
    if isinstance(core, Total):
        first, *others = [_dense_rows(part, known) for part in core.parts]
        matrix, offset = first
        for more, summand in others:
            matrix, offset = matrix + more, offset + summand
        return matrix, offset
    parts = [
        (np.zeros((size, inputs)), np.zeros(size)) if part is None else _dense_rows(part, known)
        for part, size in core.parts
    ]
    return np.concatenate([m for m, _ in parts]), np.concatenate([c for _, c in parts])


def _dense_rows(rows: Rows, known: _Known) -> Factor:
    return _behind(_dense(rows.core, known), rows)


def _with_input_map(
    bottom: Rows, factors: list[Factor]
) -> tuple[list[Factor], Float32Array | None, Float32Array | None]:
    """Factors on the input after its scale and shift, which are returned with them."""
    inputs = bottom.stage.size
    index = bottom.core.index if isinstance(bottom.core, Taken) else None
    if not factors:
        raise Refused("it is a function of single inputs: there is no matrix before it")
    if index is not None and len(np.unique(index)) < len(index):
        return _with_stage(bottom, factors, np.ones(inputs), np.zeros(inputs)), None, None
    maps: list[Float32Array | None] = []
    for values, usual in ((bottom.scale, 1.0), (bottom.offset, 0.0)):
        whole = np.full(inputs, usual)
        if values is not None:
            whole[slice(None) if index is None else index] = values
        if (whole == usual).all():
            maps.append(None)
        else:
            kept = whole[:1].reshape(()) if (whole == whole[0]).all() else whole
            maps.append(_float32(kept))
    matrix, offset = factors[0]
    return [(_scattered(matrix, index, inputs), offset), *factors[1:]], maps[0], maps[1]


def _with_stage(
    bottom: Rows, factors: list[Factor], scale: Float64Array, offset: Float64Array
) -> list[Factor]:
    """Factors on the outputs of a stage, of which `scale * outputs + offset` are the values."""
    stage = bottom.stage
    if not factors:
        if bottom.size**2 > MAX_ELEMENTS:
            raise Refused(f"{bottom.size} outputs of a function need a matrix that is too large")
        factors = [(np.eye(bottom.size), np.zeros(bottom.size))]
    index = bottom.core.index if isinstance(bottom.core, Taken) else np.arange(stage.size)
    s, c = scale[index], offset[index]
    if bottom.scale is not None:
        s, c = s * bottom.scale, c * bottom.scale
    if bottom.offset is not None:
        c = c + bottom.offset
    matrix, summand = factors[0]
    if c.any():
        summand = summand + matrix.astype(np.float64) @ c
    if (s != 1.0).any():
        matrix = matrix * s
    chosen = None if isinstance(bottom.core, Outputs) else index
    return [(_scattered(matrix, chosen, stage.size), summand), *factors[1:]]


def _scattered(matrix: Matrix, index: npt.NDArray[np.intp] | None, inputs: int) -> Matrix:
    """The matrix (out, inputs) whose columns `index` are those of `matrix`, added up."""
    if index is None:
        return matrix
    if len(matrix) * inputs > MAX_ELEMENTS:
        raise Refused(f"a matrix of shape ({len(matrix)}, {inputs}) is too large to be built")
    result = np.zeros((len(matrix), inputs), matrix.dtype)
    if len(np.unique(index)) == len(index):
        result[:, index] = matrix
    else:
        np.add.at(result.T, index, matrix.T)
    return result


def _merged(factors: list[Factor], known: _Known) -> list[Factor]:
    """Multiply neighbours where the whole then takes the fewest multiplications."""
    sizes = [factors[0][0].shape[1], *(len(matrix) for matrix, _ in factors)]
    best, start = [0] + [math.inf] * len(factors), [0] * (len(factors) + 1)
    for end in range(1, len(sizes)):
        for first in range(end):
            cost = best[first] + sizes[first] * sizes[end]
            # Fewer layers at equal cost.
            if cost < best[end]:
                best[end], start[end] = cost, first
    result: list[Factor] = []
    end = len(factors)
    while end:
        matrix, offset = factors[start[end]]
        for weight, summand in factors[start[end] + 1 : end]:
            known.add(0, weight.size * matrix.shape[1])
            weight = weight.astype(np.float64)
            matrix, offset = weight @ matrix, weight @ offset + summand
        result.insert(0, (matrix, offset))
        end = start[end]
    return result


def _rounded(factor: Factor) -> tuple[Float32Array, Float32Array]:
    return _float32(factor[0]), _float32(factor[1])


def _float32(values: Matrix) -> Float32Array:
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)

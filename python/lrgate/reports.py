"""What :func:`lrgate.optimize` did and what it brought: ``net.report``."""

from __future__ import annotations

import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, TypeVar

__all__ = ["ClassReport", "LayerReport", "Report", "Spread"]

T = TypeVar("T")

_COLUMNS = 80


@dataclass(frozen=True)
class Spread:
    """A median over rounds, and its quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class LayerReport:
    """One layer under the plan of one batch class.

    Attributes
    ----------
    inputs, outputs : int
        Width of the layer's input and number of its units.
    computed_units : int
        Units that are ever computed: all but those proven dead or dropped.
    strategy : str
        ``"dense"``, ``"skip"`` or ``"gate"``.
    precision : str
        ``"f32"`` or ``"int8"``.
    rank : int or None
        Rank of the gate, where it is used.
    estimator : str or None
        How the gate was fitted, where it is used.
    computed_share : float
        Share of the units that are computed, averaged over rows.
    recall : float or None
        Gate: share of the truly active units that are computed.
    lost_energy : float or None
        Gate: squares of the outputs it wrongly drops, over the squares of all outputs.
    density_in, density_out : float
        Share of inputs and outputs that are not zero.
    flop_share : float
        Multiply-adds done, over those of the dense layer; the estimate's included.
    seconds_before, seconds_after : float
        Per row, on one thread, under the dense plan and under this one.
    """

    inputs: int
    outputs: int
    computed_units: int
    strategy: str
    precision: str
    rank: int | None
    estimator: str | None
    computed_share: float
    recall: float | None
    lost_energy: float | None
    density_in: float
    density_out: float
    flop_share: float
    seconds_before: float
    seconds_after: float

    def __str__(self) -> str:
        """One line of the table, without the layer's number; an 8 stands for int8."""
        strategy = f"{self.strategy}8" if self.precision == "int8" else self.strategy
        strategy = strategy if self.rank is None else f"{strategy} {self.rank}"
        widths = f"{self.inputs}-{self.outputs}"
        return (
            f"{f'{widths:<9} {strategy}':<19} {self.density_in:5.3f} {self.density_out:5.3f} "
            f"{self.computed_share:8.3f} {_optional(self.recall, '.3f')} "
            f"{_optional(self.lost_energy, '.4f')} {self.flop_share:5.3f} "
            f"{self.seconds_before * 1e6:7.2f} {self.seconds_after * 1e6:7.2f}"
        )


@dataclass(frozen=True)
class ClassReport:
    """What calls of about this many rows gained.

    Attributes
    ----------
    rows : int
        Rows per call.
    layers : tuple of LayerReport
    seconds_dense, seconds_exact, seconds_after : float
        Per row, medians over whole calls: dense everywhere, in f32; the fastest plan without gates
        that was found, int8 or not as the optimised network is; this plan.
    over_dense, over_exact : Spread
        How many times faster this plan is, round by round.
    predicted_speed_up : float
        What the cost model of Davis and Arel (2013) predicts over dense: a gated layer costs
        ``rank (d + h) / (d h) + computed share`` of dense, any other layer as much as dense.
    """

    rows: int
    layers: tuple[LayerReport, ...]
    seconds_dense: float
    seconds_exact: float
    seconds_after: float
    over_dense: Spread
    over_exact: Spread
    predicted_speed_up: float

    def __str__(self) -> str:
        """A table of at most 80 columns."""
        lines = [
            f"{self.rows} row{'s' * (self.rows != 1)} a call: "
            f"{self.seconds_dense * 1e6:.2f} us a row dense, "
            f"{self.seconds_exact * 1e6:.2f} without gates, {self.seconds_after * 1e6:.2f} now",
            f"    {self.over_dense} times as fast as dense,",
            f"    {self.over_exact} times as fast as without gates;",
            f"    the paper's cost model predicts {self.predicted_speed_up:.2f} over dense",
        ]
        lines = [_wrapped(line) for line in lines]
        lines.append(
            " #  layer     strategy     in   out computed recall   lost FLOPs  before   after"
        )
        lines += [f"{i:>2}  {layer}" for i, layer in enumerate(self.layers)]
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """What :func:`lrgate.optimize` did; ``print`` shows it.

    Attributes
    ----------
    classes : tuple of ClassReport
        One per batch class, by ascending rows.
    measure : str
        What the budget counts: ``"classification error"`` or ``"relative squared error"`` where
        there were labels, ``"disagreement with the dense network"`` or ``"relative squared
        difference from the dense network"`` where there were none.
    error_before, error_after : float
        On the rows held back: of the dense network, and with every gate on.
    error_increase, error_increase_low, error_increase_high : float
        The difference, and its 95 % confidence interval.
    budget : float
        The error increase that was allowed.
    rows_fitted, rows_tuned, rows_checked : int
        Rows that estimators were fitted on, that thresholds and plans were chosen on, and that
        nothing was fitted on: those that the errors are of. What kept the budget was found by a
        few looks at them, so that the interval is a little narrower than it should be.
    dead_units, dropped_units : tuple of int
        Per layer: units proven to be zero on the whole input range; units never on in calibration.
    order_speed_up : float or None
        How many times faster the fastest plan without gates is at the smallest batch class than
        with the units as they were. None where there was nothing to order.
    order_used : bool
        Whether that order is used.
    num_threads : int
        Threads that whole calls were measured with.
    machine : dict
        What it was measured on, as in a network's file.
    seed : int
    seconds : float
        What the optimisation took.
    notes : tuple of str
        What a user should know: that nothing paid, that nothing held the budget.
    """

    classes: tuple[ClassReport, ...]
    measure: str
    error_before: float
    error_after: float
    error_increase: float
    error_increase_low: float
    error_increase_high: float
    budget: float
    rows_fitted: int
    rows_tuned: int
    rows_checked: int
    dead_units: tuple[int, ...]
    dropped_units: tuple[int, ...]
    order_speed_up: float | None
    order_used: bool
    num_threads: int
    machine: dict[str, Any]
    seed: int
    seconds: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data: dicts, lists, numbers and text."""
        result: dict[str, Any] = _plain(asdict(self))
        return result

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """The inverse of :meth:`to_dict`.

        Raises
        ------
        ValueError
            If a value is missing, unknown or of another type.
        """
        report: Report = _parse(cls, values, "report")
        return report

    def to_dataframe(self) -> Any:
        """One row per batch class and layer, as a ``pandas.DataFrame``.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        import pandas as pd

        return pd.DataFrame(
            [
                {"rows": of_class.rows, "layer": i, **asdict(layer)}
                for of_class in self.classes
                for i, layer in enumerate(of_class.layers)
            ]
        )

    def __str__(self) -> str:
        """Tables of at most 80 columns."""
        percent = self.error_before * 100, self.error_after * 100
        bounds = self.error_increase_low * 100, self.error_increase_high * 100
        lines = [
            f"{self.measure}: {percent[0]:.3f} % dense, {percent[1]:.3f} % now;",
            f"    increase {self.error_increase * 100:+.3f} points ({bounds[0]:+.3f} to "
            f"{bounds[1]:+.3f} with 95 % confidence), {self.budget * 100:g} allowed;",
            f"    on {self.rows_checked} rows held back; {self.rows_fitted} rows fitted, "
            f"{self.rows_tuned} chose",
        ]
        for name, counts in (("proven dead", self.dead_units), ("never on", self.dropped_units)):
            if any(counts):
                lines.append(f"units left out since {name}, by layer: {_slashed(counts)}")
        if self.order_speed_up is not None:
            lines.append(
                f"order of units: {self.order_speed_up:.2f} times as fast without gates, "
                f"{'used' if self.order_used else 'not used'}"
            )
        lines += [f"note: {note}" for note in self.notes]
        isa, cpu = self.machine.get("isa"), self.machine.get("cpu")
        last = (
            f"layers on one thread, calls on {self.num_threads}; {isa}, {cpu}; "
            f"took {self.seconds:.0f} s"
        )
        head = "\n".join(map(_wrapped, lines))
        return "\n\n".join([head, *map(str, self.classes), _wrapped(last)])


def _optional(value: float | None, form: str) -> str:
    return f"{'-':>6}" if value is None else f"{value:>6{form}}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _COLUMNS, subsequent_indent="    ", break_on_hyphens=False)


def _slashed(counts: tuple[int, ...]) -> str:
    return "/".join(map(str, counts))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _parse(expected: Any, value: Any, name: str) -> Any:
    """`value` as the type `expected`, which a report's annotation names."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if is_dataclass(expected):
        return _parse_dataclass(expected, value, name)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} must be a list, got {type(value).__name__}")
        return tuple(_parse(arguments[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _parse(arguments[0], value, name)
    if origin is dict:
        expected = dict
    if expected is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"{name} must be a float, got one beyond its range") from None
    if type(value) is not expected:
        raise ValueError(f"{name} must be {expected.__name__}, got {type(value).__name__}")
    return value


def _parse_dataclass(expected: Any, value: Any, name: str) -> Any:
    names = [field.name for field in fields(expected)]
    if not isinstance(value, Mapping) or set(value) != set(names):
        raise ValueError(f"{name} must have the keys {', '.join(names)}")
    hints = typing.get_type_hints(expected)
    return expected(**{key: _parse(hints[key], value[key], f"{name}.{key}") for key in names})

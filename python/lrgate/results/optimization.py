"""The report of :func:`lrgate.optimize`, which is stored as ``net.report``."""

from __future__ import annotations

import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, TypeVar

from lrgate.results.profile import layer_cells
from lrgate.results.ratio import Ratio
from lrgate.results.table import Column, Table, Tabular, microseconds

__all__ = ["BatchReport", "CheckReport", "LayerReport", "OptimizeReport"]

T = TypeVar("T")

_WIDTH: Final = 80


# Keys of reports that earlier versions wrote.
_EARLIER_KEYS = {
    "classes": "batches",
    "tests": "checks",
    "order_speed_up": "units_speed_up",
    "order_used": "units_reordered",
}

_COLUMNS = (
    Column("#"),
    Column("layer", left=True),
    Column("strategy", left=True),
    Column("in", ".3f"),
    Column("out", ".3f"),
    Column("units", ".3f"),
    Column("recall", ".3f"),
    Column("lost", ".4f"),
    Column("FLOPs", ".3f"),
    Column("before", microseconds),
    Column("after", microseconds),
)


@dataclass(frozen=True)
class LayerReport:
    """One layer in the plan for one batch size.

    Attributes
    ----------
    inputs, outputs : int
        Number of inputs and of units.
    computed_units : int
        Number of units that may be computed: all except those proven dead or dropped.
    strategy : str
        As in `BatchPlan`: ``"dense"``, ``"skip"`` or ``"gate"``; with factors ``"factor"`` or
        ``"skip-factor"``; with a nested gate ``"factor-gate"`` or ``"skip-factor-gate"``.
    precision : str
        ``"f32"`` or ``"int8"``.
    rank : int or None
        Rank of the gate or of the factors, if they are used.
    estimator : str or None
        Estimator that fitted the gate or the factors, if they are used.
    computed_share : float
        Share of the units that are computed, averaged over rows.
    recall : float or None
        Gate: share of the active units that are computed.
    lost_energy : float or None
        Gate: sum of squares of the wrongly dropped outputs, divided by that of all outputs.
    density_in, density_out : float
        Share of non-zero inputs and outputs.
    flop_share : float
        Multiply-adds, including those of the gate, divided by those of the dense layer.
    seconds_before, seconds_after : float
        Seconds per row on one thread, with the dense plan and with this plan.
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


_FIELDS: Final = fields(LayerReport)


@dataclass(frozen=True)
class BatchReport(Tabular):
    """Speed-ups for calls of about `rows` rows.

    Attributes
    ----------
    rows : int
        Rows per call.
    layers : tuple of LayerReport
    seconds_dense, seconds_exact, seconds_after : float
        Seconds per row in whole calls: of the dense plan in f32; of the fastest plan in f32 without
        gates and factors; of this plan. They are medians over
        rounds. The time of a round is the median of its calls, or their mean if one of the networks
        may recompute rows.
    over_dense, over_exact : Ratio
        Speed-up of this plan over these plans, from the ratio of each round.
    predicted_speed_up : float
        Speed-up over dense predicted by the cost model of Davis and Arel (2013): the cost of a
        gated layer is ``rank (d + h) / (d h) + computed share`` of the dense layer; other layers
        cost as much as dense.
    """

    rows: int
    layers: tuple[LayerReport, ...]
    seconds_dense: float
    seconds_exact: float
    seconds_after: float
    over_dense: Ratio
    over_exact: Ratio
    predicted_speed_up: float

    def _parts(self) -> list[str | Table]:
        lines = [
            f"{self.rows} row{'s' * (self.rows != 1)} per call: "
            f"{self.seconds_dense * 1e6:.2f} us per row dense, "
            f"{self.seconds_exact * 1e6:.2f} without gates, {self.seconds_after * 1e6:.2f} now",
            f"    {self.over_dense} times as fast as dense,",
            f"    {self.over_exact} times as fast as without gates;",
            f"    the paper's cost model predicts {self.predicted_speed_up:.2f} over dense",
        ]
        return ["\n".join(map(_wrapped, lines)), self.table()]

    def table(self) -> Table:
        """One row per layer; times in seconds per row."""
        return Table(
            _COLUMNS,
            [
                (*layer_cells(i, layer), layer.seconds_before, layer.seconds_after)
                for i, layer in enumerate(self.layers)
            ],
        )


@dataclass(frozen=True)
class CheckReport:
    """The check of one candidate network on the held-out rows.

    Attributes
    ----------
    network : str
        Description, such as ``"int8 without gates"``, ``"gates for 20% of the budget, chosen
        prudently"`` or ``"gates for 50% of the budget"``.
    increase, upper : float
        Expected increase of the error, and its upper bound, for the worst batch size.
    worst_row : float
        See `OptimizeReport.worst_row_error`.
    passed : bool
        Whether the network was shown to keep the budget. The first failure ends the check.
    """

    network: str
    increase: float
    upper: float
    worst_row: float
    passed: bool


@dataclass(frozen=True)
class OptimizeReport(Tabular):
    """Report of :func:`lrgate.optimize`; ``print`` shows it.

    Attributes
    ----------
    batches : tuple of BatchReport
        One per batch size, by ascending rows.
    measure : str
        The error that the budget limits. With labels, ``"classification error"``, ``"share of wrong
        labels"`` (multilabel) or ``"relative squared error"``; without labels, ``"disagreement with
        the dense network"``, ``"share of labels that differ from the dense network's"`` or
        ``"relative squared difference from the dense network"``.
    error_before, error_after : float
        Observed errors of the dense network and of this network on the held-out rows. All error
        statistics are for the batch size with the largest bound.
    error_increase, error_increase_low, error_increase_high : float
        Observed increase of the error, and its 95 % confidence interval.
    expected_increase : float
        Increase expected from margins and outputs, which has less noise than the observed increase.
        0 for an exact plan.
    increase_bound : float
        One-sided upper bound of the increase, with confidence `confidence`. It must be within the
        budget.
    confidence : float
    budget : float
        Allowed increase of the error.
    worst_row_error : float
        Largest difference from the dense network of any held-out row: in standard deviations of the
        outputs or, for a classifier, the largest change of a probability. 0 for an exact plan.
    max_row_error : float or None
        Allowed `worst_row_error`.
    checks : tuple of CheckReport
        Candidate networks that were checked on the held-out rows, in order.
    prune : str
        Units that could be left out: ``"proven"``, ``"never_on"`` or ``"none"``.
    rows_fitted, rows_tuned, rows_checked : int
        Number of rows to which estimators were fitted, on which thresholds and plans were chosen,
        and which were held out for the check. All errors are measured on the held-out rows.
    dead_units, dropped_units : tuple of int
        Per layer: number of units proven to be zero on the whole input range, and of units that
        were never active in calibration.
    units_speed_up : float or None
        Speed-up by reordering units, with the fastest plan without gates at the smallest batch
        size. None if there was nothing to reorder.
    units_reordered : bool
        Whether the reordered units are used.
    num_threads : int
        Number of threads for the timing of whole calls.
    machine : dict
        The machine on which times were measured, as in a model file.
    seed : int
    seconds : float
        Duration of the optimisation.
    notes : tuple of str
        Notes for the user, for example that nothing saved time or that nothing kept the budget.
    """

    batches: tuple[BatchReport, ...]
    measure: str
    error_before: float
    error_after: float
    error_increase: float
    error_increase_low: float
    error_increase_high: float
    expected_increase: float
    increase_bound: float
    confidence: float
    budget: float
    worst_row_error: float
    max_row_error: float | None
    checks: tuple[CheckReport, ...]
    prune: str
    rows_fitted: int
    rows_tuned: int
    rows_checked: int
    dead_units: tuple[int, ...]
    dropped_units: tuple[int, ...]
    units_speed_up: float | None
    units_reordered: bool
    num_threads: int
    machine: dict[str, Any]
    seed: int
    seconds: float
    notes: tuple[str, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OptimizeReport:
        """Create a report from the result of :meth:`to_dict`.

        Raises
        ------
        ValueError
            If a value is missing, unknown or has a wrong type.
        """
        if isinstance(values, Mapping):
            values = {
                new if (new := _EARLIER_KEYS.get(key, key)) not in values else key: value
                for key, value in values.items()
            }
        report: OptimizeReport = _parse(cls, values, "report")
        return report

    def table(self) -> Table:
        """All values of `LayerReport`, one row per batch size and layer."""
        kinds = [Column(each.name, ".4g" if "float" in each.type else "") for each in _FIELDS]
        return Table(
            (Column("rows"), Column("layer"), *kinds),
            [
                (batch.rows, i, *(getattr(layer, each.name) for each in _FIELDS))
                for batch in self.batches
                for i, layer in enumerate(batch.layers)
            ],
        )

    def _worst_row(self) -> str:
        allowed = "" if self.max_row_error is None else f", {self.max_row_error:g} allowed"
        if "squared" in self.measure:
            return f"worst row {self.worst_row_error:.3g} standard deviations off{allowed}"
        return f"largest change of a probability {self.worst_row_error:.3g}{allowed}"

    def _parts(self) -> list[str | Table]:
        percent = self.error_before * 100, self.error_after * 100
        bounds = self.error_increase_low * 100, self.error_increase_high * 100
        level = f"{self.confidence * 100:g} % confidence"
        lines = [
            f"increase of {self.measure}: at most {self.increase_bound * 100:.3f} points with "
            f"{level} ({self.expected_increase * 100:.3f} expected), "
            f"{self.budget * 100:g} allowed;",
            f"    as counted {percent[0]:.3f} % dense, {percent[1]:.3f} % now: "
            f"{self.error_increase * 100:+.3f} points ({bounds[0]:+.3f} to {bounds[1]:+.3f});",
            f"    {self._worst_row()};",
            f"    checked on {self.rows_checked} held-out rows ({self.rows_fitted} for fitting, "
            f"{self.rows_tuned} for choosing)",
        ]
        if self.increase_bound == 0 and not any(check.passed for check in self.checks):
            lines[0] = f"exact: {self.measure} is as before, {self.budget * 100:g} points allowed;"
        for check in self.checks:
            verdict = "passed" if check.passed else "failed"
            lines.append(
                f"checked: {check.network}: at most {check.upper * 100:.3f} points, {verdict}"
            )
        for name, counts in (("proven dead", self.dead_units), ("never on", self.dropped_units)):
            if any(counts):
                lines.append(f"units left out since {name}, by layer: {_slashed(counts)}")
        if self.units_speed_up is not None:
            lines.append(
                f"order of units: {self.units_speed_up:.2f} times as fast without gates, "
                f"{'used' if self.units_reordered else 'not used'}"
            )
        lines += [f"note: {note}" for note in self.notes]
        isa, cpu = self.machine.get("isa"), self.machine.get("cpu")
        last = (
            f"layers on one thread, calls on {self.num_threads}; {isa}, {cpu}; "
            f"took {self.seconds:.0f} s"
        )
        parts: list[str | Table] = ["\n".join(map(_wrapped, lines))]
        for batch in self.batches:
            parts += ["", *batch._parts()]
        return [*parts, "", _wrapped(last)]


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _slashed(counts: tuple[int, ...]) -> str:
    return "/".join(map(str, counts))


def _parse(expected: Any, value: Any, name: str) -> Any:
    """Convert `value` to the type `expected`, an annotation of a report."""
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

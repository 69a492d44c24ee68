"""Reports: conversion to data and back, and text."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from dataclasses import replace
from typing import Any

import pytest

from lrgate import examples
from lrgate.planner.reporting import _paper_share
from lrgate.results.drift import Drift, LayerDrift, MonitorReport
from lrgate.results.optimization import BatchReport, CheckReport, LayerReport, OptimizeReport
from lrgate.results.ratio import Ratio
from lrgate.results.table import Column, Table, Tabular


def layer(i: int = 0, **changes: Any) -> LayerReport:
    made = LayerReport(
        inputs=784,
        outputs=1000,
        computed_units=868,
        strategy="gate",
        precision="int8",
        rank=128,
        estimator="logistic",
        computed_share=0.022,
        recall=0.98,
        lost_energy=0.0012,
        density_in=0.177,
        density_out=0.018,
        flop_share=0.063,
        seconds_before=25.74e-6,
        seconds_after=1.08e-6 * (i + 1),
    )
    return replace(made, **changes)


def plain(**changes: Any) -> LayerReport:
    return layer(
        strategy="skip",
        precision="f32",
        rank=None,
        estimator=None,
        recall=None,
        lost_energy=None,
        **changes,
    )


def batch_report(rows: int = 1, **changes: Any) -> BatchReport:
    made = BatchReport(
        rows=rows,
        layers=(layer(0), layer(1, inputs=1000, outputs=600), plain(inputs=600, outputs=10)),
        seconds_dense=54.17e-6,
        seconds_exact=6.77e-6,
        seconds_after=2.78e-6,
        over_dense=Ratio(19.68, 18.39, 20.32),
        over_exact=Ratio(2.43, 2.33, 2.5),
        predicted_speed_up=4.38,
    )
    return replace(made, **changes)


@pytest.fixture
def report() -> OptimizeReport:
    return OptimizeReport(
        batches=(batch_report(1), batch_report(64), batch_report(1024)),
        measure="classification error",
        error_before=0.0025,
        error_after=0.01,
        error_increase=0.0075,
        error_increase_low=-0.00226,
        error_increase_high=0.01719,
        expected_increase=0.0062,
        increase_bound=0.0138,
        confidence=0.95,
        budget=0.02,
        worst_row_error=0.605,
        max_row_error=None,
        checks=(
            CheckReport("int8 without gates", 0.001, 0.0021, 0.1, True),
            CheckReport("gates for 50% of the budget", 0.0062, 0.0138, 0.605, True),
            CheckReport("gates for 100% of the budget", 0.015, 0.0241, 0.7, False),
        ),
        prune="never_on",
        rows_fitted=400,
        rows_tuned=200,
        rows_checked=400,
        dead_units=(3, 0, 0),
        dropped_units=(132, 158, 0),
        units_speed_up=1.03,
        units_reordered=True,
        num_threads=1,
        machine={"isa": "avx512vnni", "cpu": "AMD EPYC", "l1d": 32768, "l2": None, "l3": 2**25},
        seed=0,
        seconds=13.4,
        notes=("no gate keeps the error budget",),
    )


def values_at(values: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        values = values[key]
    return values


# --- as data ------------------------------------------------------------------------------------


def test_a_report_comes_back(report: OptimizeReport) -> None:
    values = report.to_dict()
    assert OptimizeReport.from_dict(values) == report
    through = json.loads(json.dumps(values, allow_nan=False))
    assert through == values
    assert OptimizeReport.from_dict(through) == report
    assert pickle.loads(pickle.dumps(report)) == report  # noqa: S301
    none = replace(report, units_speed_up=None, notes=(), batches=(), machine={})
    assert OptimizeReport.from_dict(none.to_dict()) == none


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def test_every_result_has_plain_data(report: OptimizeReport) -> None:
    net, x, _ = examples.mnist()
    small = net.quantize(x[:100]).quantization_report
    assert small is not None
    with net.monitor(rate=1.0, seed=0) as watched:
        watched.predict(x[:100])
    seen = watched.report()
    profiles = (net.profile(x[:100], batch_size=1), net.phases(x[:100], batch_size=1))
    for result in (report, report.batches[0], small, seen, seen.total, *profiles):
        assert isinstance(result, Tabular)
        assert is_plain(result.to_dict())
    assert small.to_dict()["layers"][0]["layer"] == 0


def test_the_model_of_cost_knows_gates_alone() -> None:
    gate = layer(rank=32)
    share = 32 * 1784 / 784_000 + 0.022
    assert _paper_share(gate) == pytest.approx(share)
    assert _paper_share(replace(gate, strategy="skip-factor-gate")) == pytest.approx(share)
    for strategy in ("factor", "skip-factor"):
        assert _paper_share(replace(gate, strategy=strategy, computed_share=1.0)) == 1
    assert _paper_share(plain()) == 1


def test_a_report_of_an_earlier_version_is_read(report: OptimizeReport) -> None:
    """Earlier versions store batch sizes and units under other keys."""
    values = report.to_dict()
    values["classes"] = values.pop("batches")
    assert OptimizeReport.from_dict(values) == report
    values["order_speed_up"] = values.pop("units_speed_up")
    values["order_used"] = values.pop("units_reordered")
    values["tests"] = values.pop("checks")
    assert OptimizeReport.from_dict(values) == report
    values["units_reordered"] = True  # not both keys
    with pytest.raises(ValueError, match="report must have the keys"):
        OptimizeReport.from_dict(values)


def test_tables_are_text_html_and_frames(report: OptimizeReport) -> None:
    table = report.batches[0].table()
    html = table._repr_html_()
    assert html.count("<tr>") == 1 + len(table.rows)
    assert html.count("gate-int8 128") == str(table).count("gate-int8 128") > 0
    frame = table.to_dataframe()
    assert list(frame.columns) == [column.title for column in table.columns]
    assert "<script>" not in Table([Column("a")], [("<script>",)])._repr_html_()


def test_reports_of_several_tables_show_them_in_notebooks(report: OptimizeReport) -> None:
    one = report.batches[0]._repr_html_()
    assert one.count("<table>") == 1
    assert one.startswith("<p>1 row per call: ") and "times as fast as dense,<br>" in one
    page = replace(report, notes=("a < b",))._repr_html_()
    assert page.count("<table>") == len(report.batches) and one in page
    assert "note: a &lt; b" in page and "<p></p>" not in page


def test_a_monitor_report_is_one_frame() -> None:
    pytest.importorskip("pandas")
    layers = (LayerDrift(4, 3, 0.5, 0.25, 1.0, None, None, None),)
    latest, total = Drift(10, 0.0, 0.0, 0.3, layers), Drift(20, 0.1, 0.0, 0.3, layers * 2)
    report = MonitorReport("disagreement", 30, 20, 0, False, latest, total)
    frame = report.to_dataframe()
    assert frame["over"].tolist() == ["latest", "all", "all"]
    assert frame["#"].tolist() == [0, 0, 1]
    assert frame["out"].tolist() == [0.25] * 3
    page = report._repr_html_()
    assert page.count("<table>") == 2 and page.endswith("<p>sampling has stopped</p>")


def test_the_dict_is_a_copy(report: OptimizeReport) -> None:
    values = report.to_dict()
    values["machine"]["isa"] = "other"
    values["batches"].clear()
    assert report.machine["isa"] == "avx512vnni"
    assert len(report.batches) == 3


def test_whole_numbers_are_numbers(report: OptimizeReport) -> None:
    """JSON writers of other languages may write floats as integers."""
    values = report.to_dict()
    values["seconds"], values["units_speed_up"] = 13, 1
    read = OptimizeReport.from_dict(values)
    assert (read.seconds, read.units_speed_up) == (13.0, 1.0)
    assert type(read.seconds) is type(read.units_speed_up) is float


@pytest.mark.parametrize(
    "path",
    [(), ("batches", 1), ("batches", 0, "layers", 2), ("batches", 2, "over_dense")],
    ids=str,
)
def test_keys_must_be_all_and_no_other(report: OptimizeReport, path: tuple[Any, ...]) -> None:
    name = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in path)
    expected = f"report{name} must have the keys "
    good = report.to_dict()
    for key in values_at(good, path):
        values = copy.deepcopy(good)
        del values_at(values, path)[key]
        with pytest.raises(ValueError) as refusal:
            OptimizeReport.from_dict(values)
        assert str(refusal.value).startswith(expected) and key in str(refusal.value)
    values_at(good, path)["more"] = 1
    with pytest.raises(ValueError) as refusal:
        OptimizeReport.from_dict(good)
    assert str(refusal.value).startswith(expected)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("measure",), 3, "report.measure must be str, got int"),
        (("measure",), None, "report.measure must be str, got NoneType"),
        (("budget",), "0.1", "report.budget must be float, got str"),
        (("budget",), True, "report.budget must be float, got bool"),
        (("budget",), None, "report.budget must be float, got NoneType"),
        (("max_row_error",), "1", "report.max_row_error must be float, got str"),
        (("checks", 1, "passed"), 1, r"report.checks\[1\].passed must be bool, got int"),
        (("budget",), 10**400, "report.budget must be a float, got one beyond its range"),
        (("seed",), 1.0, "report.seed must be int, got float"),
        (("seed",), False, "report.seed must be int, got bool"),
        (("units_reordered",), 1, "report.units_reordered must be bool, got int"),
        (("units_speed_up",), "1", "report.units_speed_up must be float, got str"),
        (("machine",), [], "report.machine must be dict, got list"),
        (("notes",), "text", "report.notes must be a list, got str"),
        (("notes", 0), 1, r"report.notes\[0\] must be str, got int"),
        (("dead_units", 1), 1.5, r"report.dead_units\[1\] must be int, got float"),
        (("batches",), {}, "report.batches must be a list, got dict"),
        (("batches", 1), [], r"report.batches\[1\] must have the keys rows, layers"),
        (("batches", 1, "rows"), "64", r"report.batches\[1\].rows must be int, got str"),
        (
            ("batches", 0, "layers", 2, "rank"),
            "8",
            r"report.batches\[0\].layers\[2\].rank must be int, got str",
        ),
        (
            ("batches", 0, "over_exact", "low"),
            [],
            r"report.batches\[0\].over_exact.low must be float, got list",
        ),
    ],
    ids=str,
)
def test_values_of_another_type_are_refused(
    report: OptimizeReport, path: tuple[Any, ...], value: Any, message: str
) -> None:
    values = report.to_dict()
    values_at(values, path[:-1])[path[-1]] = value
    with pytest.raises(ValueError, match=f"^{message}"):
        OptimizeReport.from_dict(values)


@pytest.mark.parametrize("values", [None, 3, [], "report", {}], ids=str)
def test_what_is_no_report_is_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r"^report must have the keys batches, measure"):
        OptimizeReport.from_dict(values)


# --- as text ------------------------------------------------------------------------------------


def columns(text: object) -> int:
    return max(map(len, str(text).splitlines()))


def test_text_has_at_most_80_columns(report: OptimizeReport) -> None:
    assert columns(report) <= 80
    long = replace(
        report,
        measure="relative squared difference from the dense network",
        error_before=12.34567,
        error_after=123.4567,
        error_increase=111.1111,
        error_increase_low=-111.1111,
        error_increase_high=111.1111,
        budget=0.00123,
        rows_fitted=8000,
        rows_tuned=4000,
        rows_checked=8000,
        dead_units=tuple(range(100, 140)),
        num_threads=64,
        machine={"isa": "avx512vnni", "cpu": "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz"},
        seconds=12345.0,
        notes=("units that were never on are kept: " * 4,),
        batches=(
            batch_report(
                1_048_576,
                seconds_dense=12345.67e-6,
                seconds_exact=1234.56e-6,
                seconds_after=1234.56e-6,
                over_dense=Ratio(1234.56, 1234.56, 1234.56),
                over_exact=Ratio(123.45, 123.45, 123.45),
                layers=(
                    layer(inputs=10_000, rank=64),
                    layer(outputs=4096, rank=256, seconds_before=9999.99e-6),
                    plain(inputs=65_536, outputs=10_000),
                ),
            ),
        ),
    )
    assert columns(long) <= 80
    assert columns(long.batches[0]) <= 80


def test_columns_are_in_line(report: OptimizeReport) -> None:
    lines = str(report.batches[0]).splitlines()
    table = lines[-4:]
    assert len(set(map(len, table))) == 1
    for word in ("in", "out", "units", "recall", "lost", "FLOPs", "before", "after"):
        end = table[0].index(f" {word}") + 1 + len(word)
        assert all(line[end - 1] != " " and line[end : end + 1] in ("", " ") for line in table)


def test_what_the_text_says(report: OptimizeReport) -> None:
    text = str(report)
    for part in (
        "increase of classification error: at most 1.380 points with 95 % confidence",
        "(0.620 expected), 2 allowed;",
        "as counted 0.250 % dense, 1.000 % now: +0.750 points (-0.226 to +1.719);",
        "largest change of a probability 0.605;",
        "checked: int8 without gates: at most 0.210 points, passed",
        "checked: gates for 100% of the budget: at most 2.410 points, failed",
        "checked on 400 held-out rows (400 for fitting, 200 for choosing)",
        "units left out since proven dead, by layer: 3/0/0",
        "units left out since never on, by layer: 132/158/0",
        "order of units: 1.03 times as fast without gates, used",
        "note: no gate keeps the error budget",
        "1 row per call: 54.17 us per row dense, 6.77 without gates, 2.78 now",
        "1024 rows per call",
        "19.68 (18.39 to 20.32) times as fast as dense",
        "2.43 (2.33 to 2.50)",
        "predicts 4.38 over dense",
        " gate-int8 128 ",
        " skip ",
        "avx512vnni, AMD EPYC; took 13 s",
    ):
        assert part in text
    assert [text.count(str(batch)) for batch in report.batches] == [1, 1, 1]
    silent = replace(report, units_speed_up=None, dead_units=(0, 0), dropped_units=(0, 0))
    assert "order of units" not in str(silent) and "left out" not in str(silent)
    assert "not used" in str(replace(report, units_reordered=False))
    regressor = replace(report, measure="relative squared error", max_row_error=0.7)
    assert "worst row 0.605 standard deviations off, 0.7 allowed;" in str(regressor)


def test_an_exact_plan_is_called_exact(report: OptimizeReport) -> None:
    failed = (CheckReport("int8 without gates", 0.03, 0.04, 0.1, False),)
    exact = replace(report, checks=failed, increase_bound=0.0, expected_increase=0.0)
    for made in (exact, replace(exact, checks=())):
        assert str(made).startswith("exact: classification error is as before, 2 points allowed;")
    assert "exact" not in str(report)


# --- as a table ---------------------------------------------------------------------------------


def test_to_dataframe(report: OptimizeReport) -> None:
    pytest.importorskip("pandas")
    frame = report.to_dataframe()
    assert len(frame) == 9
    assert frame["rows"].tolist() == [1] * 3 + [64] * 3 + [1024] * 3
    assert frame["layer"].tolist() == [0, 1, 2] * 3
    assert frame.columns.tolist()[2:] == [*LayerReport.__dataclass_fields__]
    assert frame["strategy"].tolist() == ["gate", "gate", "skip"] * 3
    assert frame["rank"].isna().tolist() == [False, False, True] * 3


def test_to_dataframe_needs_pandas(report: OptimizeReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pandas"):
        report.to_dataframe()

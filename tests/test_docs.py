"""Runs the Python code of README.md and docs/, block after block in one namespace per page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import lrgate
from lrgate.results import BatchReport, LayerReport, OptimizeReport, Ratio

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/usage.md", "docs/optimize.md", "docs/format.md")
NAMING = (
    *PAGES,
    "docs/models.md",
    "docs/sparsify.md",
    "docs/guarantees.md",
    "docs/architecture.md",
    "CHANGELOG.md",
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[int, str]]:
    """Line number and text of every Python block."""
    return [(text[: m.start(1)].count("\n"), m[1]) for m in BLOCK.finditer(text)]


@pytest.mark.usefixtures("short_times")
@pytest.mark.parametrize("page", PAGES)
def test_the_code_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / page
    if not path.exists():
        pytest.skip(f"no {page} here")
    monkeypatch.chdir(tmp_path)
    found = blocks(path.read_text(encoding="utf-8"))
    assert found, f"{page} has no block of Python"
    namespace: dict[str, Any] = {"__name__": "__main__"}
    threads = lrgate.get_num_threads()
    try:
        for line, code in found:
            # Blank lines in front, so that a traceback names the page's own lines.
            exec(compile("\n" * line + code, str(path), "exec"), namespace)
    finally:
        lrgate.set_num_threads(threads)


def test_the_sample_report_has_the_form_of_a_report() -> None:
    page = ROOT / "docs" / "optimize.md"
    if not page.exists():
        pytest.skip("no docs here")
    samples = re.findall(r"^```text\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (sample,) = [text for text in samples if "paper's cost model" in text]
    lines = sample.splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.split()[:2] == ["#", "layer"]]
    layer = LayerReport(
        inputs=784,
        outputs=1000,
        computed_units=1000,
        strategy="gate",
        precision="f32",
        rank=32,
        estimator="whitened",
        computed_share=0.023,
        recall=0.696,
        lost_energy=0.0568,
        density_in=0.177,
        density_out=0.016,
        flop_share=0.070,
        seconds_before=44.79e-6,
        seconds_after=2.50e-6,
    )
    dense, exact = Ratio(16.00, 15.62, 16.13), Ratio(2.90, 2.83, 2.98)
    batch = BatchReport(1, (layer,), 93.66e-6, 17.01e-6, 5.87e-6, dense, exact, 1.77)
    printed = str(batch).splitlines()
    header, row = printed[-2:]
    assert lines[at].split() == header.split()
    assert lines[at + 1].split() == row.split()
    assert lines[at - 4 : at] == printed[:-2]


def stale(name: str, path: str) -> bool:
    """Whether an object that a page calls `name` has no such attribute."""
    value: Any = {"Network": lrgate.Network, "lrgate": lrgate, "report": OptimizeReport}.get(
        name, lrgate.Network
    )
    for part in path.split("."):
        fields = getattr(value, "__dataclass_fields__", {})
        if part in fields or isinstance(value, property):
            return False
        if not hasattr(value, part):
            return True
        value = getattr(value, part)
    return False


def test_pages_use_names_that_exist() -> None:
    if not all((ROOT / page).exists() for page in NAMING):
        pytest.skip("no docs here")
    text = "".join((ROOT / page).read_text("utf-8") for page in NAMING)
    owners = r"\b(lrgate|Network|net|fast|small|report)\.([A-Za-z]\w*(?:\.[A-Za-z]\w*)*)"
    # Command lines name files; the logger has the name of the package; messages name keys of files.
    spans = re.findall(r"`([^`\n]+)`", text)
    spans = [s for s in spans if s != "lrgate.monitor" and not s.startswith("unknown key ")]
    code = "\n".join([*spans, *(block for _, block in blocks(text))])
    names = {found for found in re.findall(owners, code) if found[1] not in ("npz", "safetensors")}
    assert len(names) > 30
    assert not sorted(".".join(name) for name in names if stale(*name))


def test_guarantees_name_tests_that_exist() -> None:
    page = ROOT / "docs" / "guarantees.md"
    if not page.exists():
        pytest.skip("no docs here")
    text = page.read_text(encoding="utf-8")
    defined = {
        path.name: set(re.findall(r"^ *(?:def|fn) (\w+)", path.read_text("utf-8"), re.MULTILINE))
        for folder in (ROOT / "tests", ROOT / "rust" / "core" / "tests")
        for path in (*folder.glob("*.py"), *folder.glob("*.rs"))
    }
    located = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    rust = re.findall(r"`rust/core/tests/(\w+\.rs)`: ((?:`\w+`(?:, )?)+)", text)
    located += [(file, name) for file, names in rust for name in re.findall(r"`(\w+)`", names)]
    missing = [(file, name) for file, name in located if name not in defined.get(file, ())]
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(located) > 15 and len(named) > 15
    assert not missing
    assert not named - set().union(*defined.values())

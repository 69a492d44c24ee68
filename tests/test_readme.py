"""The README's Python code, run as written, block after block in one namespace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[int, str]]:
    """Line number and text of every block of Python."""
    text = README.read_text(encoding="utf-8")
    return [(text[: m.start(1)].count("\n"), m[1]) for m in BLOCK.finditer(text)]


def test_the_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks()
    assert found, "README.md has no block of Python"
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for line, code in found:
        # Blank lines in front, so that a traceback names the README's own lines.
        exec(compile("\n" * line + code, str(README), "exec"), namespace)

"""tools/cycles.py: import cycles of the Rust core are found, and there are none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "cycles.py"


@pytest.fixture(scope="module")
def cycles() -> Any:
    if not TOOL.exists():
        pytest.skip("no tools here")
    spec = importlib.util.spec_from_file_location("cycles", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_the_core_has_no_cycle(cycles: Any) -> None:
    graph = cycles.top_level(cycles.SOURCE)
    assert "kernels" in graph["path"]  # imports are read
    assert cycles.found(cycles.SOURCE) == []


def test_cycles_are_found(cycles: Any, tmp_path: Path) -> None:
    modules = {
        "lib.rs": "mod a; mod b;",
        "a.rs": "use crate::{b::B, other};",
        "b/mod.rs": "mod c;",
        "b/c.rs": "fn f() { crate::a::g() }",
    }
    assert sorted(set(cycles.found(write(tmp_path / "crate", modules))[0])) == ["a", "b"]
    files = {"m/mod.rs": "", "m/x.rs": "use super::y::Y;", "m/y.rs": "use super::{x::X};"}
    assert sorted(set(cycles.found(write(tmp_path / "files", files))[0])) == ["x", "y"]
    files["m/y.rs"] = "use crate::m::x::X;"
    assert sorted(set(cycles.found(write(tmp_path / "paths", files))[0])) == ["x", "y"]


def test_comments_and_tests_do_not_count(cycles: Any, tmp_path: Path) -> None:
    files = {
        "a.rs": "use crate::b::B;",
        "b.rs": "// crate::a\n#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n",
    }
    assert cycles.found(write(tmp_path, files)) == []
    files["b.rs"] += "\n#[cfg(test)]\nmod more;\n\nfn f() { crate::a::g() }\n"
    assert sorted(set(cycles.found(write(tmp_path, files))[0])) == ["a", "b"]

"""tools/prose.py: the text that it reads, and the hits at which it fails."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parent.parent / "tools" / "prose.py"


@pytest.fixture
def prose() -> Any:
    if not TOOL.exists():
        pytest.skip("no tools here")
    spec = importlib.util.spec_from_file_location("prose", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(prose: Any, path: str, text: str) -> list[tuple[int, str]]:
    return [(hit.line, hit.phrase) for hit in prose.hits(path, text)]


@pytest.mark.parametrize(
    "sentence",
    [
        "It costs nothing, but for rows with a shift.",
        "This costs 3 us, with the engine of before.",
        "The sum is computed anew.",
        "Each worker is reckoned at 20 us.",
        "The report tells how long it took.",
        "The cost is what a call costs.",
        "It takes 3 us a row.",
    ],
)
def test_banned_phrases_are_found(prose: Any, sentence: str) -> None:
    assert len(prose.hits("x.md", sentence)) == 1


@pytest.mark.parametrize(
    "sentence",
    [
        "It is free, except for rows with a shift.",
        "What does a call cost?",
        "The argument `what` is a word, and so is *anew*.",
        'The word "reckoned" is quoted.',
        "A [link](what.md) has a target.",
        "It takes 3 us per row; a row is a vector.",
    ],
)
def test_plain_sentences_pass(prose: Any, sentence: str) -> None:
    assert prose.hits("x.md", sentence) == []


def test_markdown_without_code_and_over_line_ends(prose: Any) -> None:
    text = "One\ntwo, but\nfor three.\n\n```\nwhat code\n```\n\n    what code\n\n| what | cell |\n"
    assert found(prose, "x.md", text) == [(2, "but for"), (11, "what")]


def test_python_comments_and_docstrings(prose: Any) -> None:
    text = (
        '"""Does what it can.\n\n>>> print("what")\nwhat\n"""\n\n'
        'what = "what"  # computed\n# anew\nLIMIT = 3\n"""Reckoned."""\n'
    )
    assert found(prose, "x.py", text) == [(1, "what"), (4, "what"), (8, "anew"), (10, "Reckoned")]


def test_python_messages(prose: Any) -> None:
    text = (
        'raise ValueError(f"x has {x!r}, which is "\n    "what it had")\n'
        'named = "what"\nnote(\n    "it was computed anew"\n)\n'
        'help = f"{rows} rows, {us} us a row"\n'
    )
    assert found(prose, "x.py", text) == [(1, "what"), (5, "anew"), (7, "us a row")]
    assert found(prose, "x.pyi", '"""Told."""\n') == [(1, "Told")]


def test_rust_messages(prose: Any) -> None:
    text = (
        'let quote = \'"\';\nerror("rows {rows} of x are \\\n    what they are");\n'
        'let name = "what"; // 3 us a row\n'
    )
    assert found(prose, "x.rs", text) == [(2, "what"), (4, "us a row")]


@pytest.mark.parametrize("path", ["Makefile", ".ci/run", "x.toml", "x.yml"])
def test_comments_of_scripts(prose: Any, path: str) -> None:
    text = "# Sums are\n# computed anew.\nwhat: it is told # by what\nwhat#not\n"
    assert found(prose, path, text) == [(2, "anew"), (3, "what")]


def test_rust_comments(prose: Any) -> None:
    text = '/// Sums\n/// anew.\nlet x = "// what";\nlet what = 1; // told\n'
    assert found(prose, "x.rs", text) == [(2, "anew"), (4, "told")]


def test_a_record_may_only_fall(
    prose: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a.md").write_text("Twice anew, anew.\n")
    (tmp_path / "new.md").write_text("Plain.\n")
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    monkeypatch.setattr(prose, "RECORD", tmp_path / "prose.json")
    monkeypatch.setattr(prose, "_listed", lambda paths: [*paths] or ["old/a.md", "new.md"])
    record = tmp_path / "prose.json"
    record.write_text('{"old": 3}')
    assert prose.main([]) == 0
    assert prose.main(["--update"]) == 0
    assert json.loads(record.read_text()) == {"old": 2}
    record.write_text('{"old": 1}')
    capsys.readouterr()
    assert prose.main([]) == 1
    assert "old/a.md:1: 'anew'" in capsys.readouterr().out
    assert prose.main(["--update"]) == 1
    assert json.loads(record.read_text()) == {"old": 1}
    record.write_text('{"old": 2}')
    (tmp_path / "new.md").write_text("Reckoned.\n")
    assert prose.main([]) == 1
    assert prose.main(["new.md"]) == 1

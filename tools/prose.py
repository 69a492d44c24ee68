"""Checks documents, docstrings, comments and messages for phrases that lrgate does not use.

    python tools/prose.py              # all files that git knows, against the record
    python tools/prose.py rust/core    # every hit in these files and folders
    python tools/prose.py --update     # lower the record after a rewrite

`PHRASES` lists each phrase with the plain alternative. Folders that are not rewritten yet have a
number of remaining hits in ``tools/prose.json``: the check fails where that number grows, and
elsewhere at the first hit. Code, inline code and quoted examples are not read. Messages are strings
of at least three words.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RECORD = Path(__file__).with_suffix(".json")

PHRASES = (
    (r"\bbut (?:for|where)\b", "except"),
    (r"\b\w+s? of before\b", "an earlier version, previous"),
    (r"\banew\b", "again, recomputed, rewritten"),
    (r"\breckon(?:s|ed|ing)?\b", "estimate, assume, count"),
    (r"\bbesides\b", "also, in addition"),
    (r"\b(?:tells?|told)\b", "report, show, say, be given"),
    (r"\bso that are\b", "that are"),
    (r"\bwhat\b(?![^.?!]*\?)", "a noun: 'the cost of a call', not 'what a call costs'"),
    (r"\b(?:us|ns|ms|microseconds?|rows?|bytes|times?|calls?) an? (?:row|call|layer)\b", "per row"),
    (r"\bby turns\b", "interleaved, in turn"),
    (r"\bcontestants?\b", "candidate, engine"),
    (r"\bmend(?:s|ed|ing)?\b", "fix, correct"),
    (r"\bdearer\b", "more expensive"),
    (r"\bforesees?\b", "predict"),
    (r"\bmuch the same\b|\bthe like\b", "similar"),
    (r"\bin a row of\b|\brows, each\b", "consecutive, row by row"),
    (r"\bby heart\b", "memorise"),
    (r"\bto speak of\b|\bsuch ones\b", "name the thing"),
)
"""Pattern and alternative; case does not matter."""

_PHRASES = tuple((re.compile(pattern, re.IGNORECASE), plain) for pattern, plain in PHRASES)
_SKIPPED = re.compile(r"``.*?``|`[^`]*`|\*[^*\s][^*]*\*(?=\W|$)|\"[^\"]*\"|\]\([^)]*\)|<[^>]*>")
"""Inline code, emphasis and quotations (words under discussion), targets of links, tags."""

_SENTENCE = re.compile(r"[a-z]+[,;:]? [a-z]+[,;:]? [a-z]+")
"""Marks a string as a message to users."""

_RUST = re.compile(
    r'"(?P<string>(?:\\.|[^"\\])*)"|//[/!]?\s?(?P<comment>[^\n]*)|\'(?:\\.|[^\'\\])\'', re.DOTALL
)
"""Strings, comments, and characters, which may be quotation marks."""

Passage = list[tuple[int, str]]
"""Consecutive lines of prose with their numbers."""


class Hit(NamedTuple):
    """A phrase found in a file."""

    path: str
    line: int
    phrase: str
    plain: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: '{self.phrase}': use {self.plain}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", help="list every hit in these files and folders")
    parser.add_argument("--update", action="store_true", help="lower the numbers on record")
    options = parser.parse_args(arguments)
    found = [hit for path in _listed(options.paths) for hit in hits(path, _text(path))]
    if options.paths:
        print(*found, sep="\n", end="\n" if found else "")
        return 1 if found else 0
    record: dict[str, int] = json.loads(RECORD.read_text(encoding="utf-8"))
    counts = Counter(_folder(hit.path) for hit in found)
    if options.update:
        record = {folder: min(count, counts[folder]) for folder, count in record.items()}
        record = {folder: count for folder, count in record.items() if count}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    grown = {folder for folder, count in counts.items() if count > record.get(folder, 0)}
    for hit in found:
        if _folder(hit.path) in grown:
            print(hit)
    for folder in sorted({*record, *grown}):
        print(f"{folder}: {counts[folder]} hits, {record.get(folder, 0)} on record")
    return 1 if grown else 0


def hits(path: str, text: str) -> list[Hit]:
    """Every banned phrase in the prose of a file, by line."""
    found = []
    for passage in _reader(path)(text):
        joined = " ".join(line for _, line in passage)
        # Blanks of equal length, so that offsets still name lines.
        joined = _SKIPPED.sub(lambda match: " " * len(match[0]), joined)
        for pattern, plain in _PHRASES:
            for match in pattern.finditer(joined):
                found.append(Hit(path, _line(passage, match.start()), match[0], plain))
    return sorted(found)


def markdown(text: str) -> Iterator[Passage]:
    """Paragraphs outside fenced and indented code; a line of a table is one of its own."""
    yield from _paragraphs(enumerate(text.splitlines(), 1))


def python(text: str) -> Iterator[Passage]:
    """Comments, docstrings, strings below a constant, and messages."""
    comments = [
        (token.start[0], token.string.lstrip("# "))
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    ]
    yield from _paragraphs(comments)
    nodes = [ast.parse(text)]
    for node in nodes:  # grows: depth does not matter
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            lines = enumerate(value.value.splitlines(), node.lineno)
            yield from _paragraphs((number, line.strip()) for number, line in lines)
        elif message := _message(node):
            yield [(node.lineno, message)]
        else:
            nodes += ast.iter_child_nodes(node)


def _message(node: ast.AST) -> str:
    """The text of a string of several words, its fields left out; otherwise empty."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    elif isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
        text = "".join(map(str, parts))
    else:
        return ""
    return " ".join(text.split()) if _SENTENCE.search(text) else ""


def rust(text: str) -> Iterator[Passage]:
    """Line comments, of documentation and others, and messages."""
    comments, messages = [], []
    for match in _RUST.finditer(text):
        number = text.count("\n", 0, match.start()) + 1
        if match["comment"] is not None:
            comments.append((number, match["comment"].strip()))
        elif _SENTENCE.search(match["string"] or ""):
            joined = re.sub(r"\\\n\s*", "", match["string"])
            messages.append([(number, re.sub(r"\{[^}]*\}", "X", joined))])
    yield from _paragraphs(comments)
    yield from messages


def script(text: str) -> Iterator[Passage]:
    """Comments of a makefile, a shell script or a table of settings."""
    numbered = enumerate(text.splitlines(), 1)
    comments = [(number, re.search(r"(?:^|\s)#\s?(.*)", line)) for number, line in numbered]
    yield from _paragraphs([(number, found[1].strip()) for number, found in comments if found])


def _paragraphs(lines: Iterator[tuple[int, str]] | list[tuple[int, str]]) -> Iterator[Passage]:
    passage: Passage = []
    fenced = False
    last = 0
    for number, line in lines:
        fence = line.lstrip().startswith("```")
        code = fenced or fence or line.startswith(("    ", ">>> ", "... "))
        fenced ^= fence
        ends = code or not line.strip() or line.startswith(("|", "#")) or number > last + 1
        if ends and passage:
            yield passage
            passage = []
        if not code and line.strip():
            passage.append((number, line))
        last = number
    if passage:
        yield passage


def _line(passage: Passage, offset: int) -> int:
    for number, line in passage:
        if offset <= len(line):
            return number
        offset -= len(line) + 1
    return passage[-1][0]


def _reader(path: str) -> Callable[[str], Iterator[Passage]] | None:
    return READERS.get(Path(path).suffix or Path(path).name)


def _folder(path: str) -> str:
    """The key of the record: the first folder, or the file at the top."""
    return path.partition("/")[0]


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _listed(paths: Sequence[str]) -> list[str]:
    """Documents and code that git knows or would add, below `paths` if there are any."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return [
        path
        for path in dict.fromkeys(listed)
        if _reader(path)
        # This file and its test have to name the phrases.
        and Path(path).name not in ("prose.py", "test_prose.py")
        and (ROOT / path).is_file()
    ]


READERS = {
    ".md": markdown,
    ".py": python,
    ".pyi": python,
    ".rs": rust,
    ".toml": script,
    ".yaml": script,
    ".yml": script,
    "Makefile": script,
    "run": script,
}
"""Readers by suffix, or by name for files without one."""

if __name__ == "__main__":
    sys.exit(main())

"""Refuse import cycles among the modules of the Rust core: ``python tools/cycles.py``.

Two graphs are checked: the top-level modules of the crate, by ``crate::name``, and the files of
each folder, by ``super::name`` and ``crate::folder::name``. Comments and test modules do not count.
"""

from __future__ import annotations

import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "rust" / "core" / "src"

_TESTS = re.compile(r"^#\[cfg\(test\)\]\nmod \w+(?:;|\s*\{.*?^\})", re.DOTALL | re.MULTILINE)
"""A test module: in a file of its own, or up to its brace at the start of a line."""


def main() -> int:
    cycles = found(SOURCE)
    for cycle in cycles:
        print("import cycle:", " -> ".join(cycle))
    return 1 if cycles else 0


def found(source: Path) -> list[list[str]]:
    """One cycle of each graph that has any, as the names of its modules."""
    graphs = [top_level(source)]
    graphs += [siblings(folder) for folder in sorted(source.iterdir()) if folder.is_dir()]
    cycles = []
    for graph in graphs:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            cycles.append([str(name) for name in error.args[1]])
    return cycles


def top_level(source: Path) -> dict[str, set[str]]:
    names = {path.stem for path in source.iterdir() if path.name != "lib.rs"}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for path in source.rglob("*.rs"):
        inside = path.relative_to(source).parts
        module = inside[0].removesuffix(".rs")
        if module in names:
            graph[module] |= (imports(path, "crate") & names) - {module}
    return graph


def siblings(folder: Path) -> dict[str, set[str]]:
    files = [path for path in folder.glob("*.rs") if path.stem not in ("mod", "tests")]
    names = {path.stem for path in files}
    roots = ("super", f"crate::{folder.name}")
    return {
        path.stem: set().union(*(imports(path, root) for root in roots)) & names - {path.stem}
        for path in files
    }


def imports(path: Path, root: str) -> set[str]:
    """Names after ``root::`` in a file, those in braces included."""
    text = re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))
    text = _TESTS.sub("", text)
    names = set(re.findall(rf"\b{root}::(\w+)", text))
    for group in re.findall(rf"\b{root}::\{{(.*?)\}};", text, re.DOTALL):
        names |= set(re.findall(r"(?:^|[{,]\s*)(\w+)(?=::|\s*,|\s*$)", group))
    return names


if __name__ == "__main__":
    sys.exit(main())

"""The examples in all docstrings run, and the package lists only its public names."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import pydoc
import re
import subprocess
import sys

import pytest

import lrgate

MODULES = [
    module.name
    for module in pkgutil.walk_packages(lrgate.__path__, "lrgate.")
    if not module.name.endswith(("._core", ".__main__"))
]


@pytest.mark.usefixtures("short_times")
@pytest.mark.parametrize("name", ["lrgate", *MODULES])
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_dir_shows_the_public_names() -> None:
    assert dir(lrgate) == sorted(lrgate.__all__)
    for name in lrgate.__all__:
        assert getattr(lrgate, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lrgate.nothing


def test_help_begins_with_a_map() -> None:
    text = pydoc.plain(pydoc.render_doc(lrgate))
    steps = ("load", "optimize", "predict", "save")
    at = [text.index(f"\n    {step} ") for step in steps]
    assert at == sorted(at)
    assert at[-1] < text.index("PACKAGE CONTENTS") and text[: at[0]].count("\n") < 10


CALLS = ("__call__", "forward", "predict", "predict_proba")


def test_the_class_documents_its_calls() -> None:
    text = inspect.getdoc(lrgate.Network) or ""
    parts = re.split(r"\n(\w+)\n-+\n", text)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(sections) == ["Methods", "Raises", "Notes", "Examples"]
    parts = re.split(r"^(\w+)\(x.*\n", sections["Methods"], flags=re.MULTILINE)
    methods = dict(zip(parts[1::2], parts[2::2], strict=True))
    for name in CALLS:
        assert "float32 (n, k)" in methods[name]
    for name in ("TypeError", "ValueError", "MemoryError"):
        assert re.search(rf"^{name}$", sections["Raises"], re.MULTILINE)


@pytest.mark.parametrize("name", CALLS[1:])
def test_the_compiled_calls_document_themselves(name: str) -> None:
    text = inspect.getdoc(getattr(lrgate.Network, name)) or ""
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n---" in text
    for fact in ("shape (n, d)", "TypeError", "ValueError", "MemoryError"):
        assert fact in text
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


PUBLIC = [
    value
    for name in lrgate.__all__
    if callable(value := getattr(lrgate, name)) and not issubclass(type(value), type(lrgate))
]


@pytest.mark.parametrize("value", PUBLIC, ids=lambda value: value.__name__)
def test_public_names_have_documentation(value: object) -> None:
    assert (value.__doc__ or "").strip()
    if not isinstance(value, type):
        return
    for name, member in vars(value).items():
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            assert (member.__doc__ or "").strip(), name


def test_no_module_hides_behind_a_public_name() -> None:
    public = {name for name in lrgate.__all__ if callable(getattr(lrgate, name))}
    assert not public & {name.removeprefix("lrgate.").split(".")[0] for name in MODULES}


def test_the_planner_is_imported_when_it_is_used() -> None:
    program = "import sys, lrgate; print('lrgate.planner' in sys.modules, lrgate.optimize.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "optimize"], done.stderr

"""The examples in all docstrings run, and the package lists only its public names."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import lrgate

MODULES = [
    module.name
    for module in pkgutil.walk_packages(lrgate.__path__, "lrgate.")
    if not module.name.endswith(("._core", ".__main__"))
]


@pytest.mark.parametrize("name", ["lrgate", *MODULES])
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_dir_shows_the_public_names() -> None:
    assert dir(lrgate) == sorted(lrgate.__all__)
    for name in lrgate.__all__:
        assert getattr(lrgate, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lrgate.nothing


def test_no_module_hides_behind_a_public_name() -> None:
    public = {name for name in lrgate.__all__ if callable(getattr(lrgate, name))}
    assert not public & {name.removeprefix("lrgate.").split(".")[0] for name in MODULES}


def test_the_planner_is_imported_when_it_is_used() -> None:
    program = "import sys, lrgate; print('lrgate.planner' in sys.modules, lrgate.optimize.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "optimize"], done.stderr

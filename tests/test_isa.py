"""The requested instruction set is used; an unknown one raises an error at import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import lrgate

pytestmark = pytest.mark.isa

# Best first.
NAMES = ["avx512amx", "avx512vnni", "avx512", "avxvnni", "avx2", "portable"]


def run(isa: str | None, code: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "LRGATE_ISA"}
    if isa is not None:
        environment["LRGATE_ISA"] = isa
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )


def test_names() -> None:
    available = lrgate.available_isas()
    assert available == [name for name in NAMES if name in available]
    assert available[-1] == "portable"


def test_lrgate_isa_is_obeyed() -> None:
    expected = os.environ.get("LRGATE_ISA", lrgate.available_isas()[0])
    assert lrgate.isa() == expected


def test_without_lrgate_isa_the_best_is_used() -> None:
    child = run(None, "import lrgate; print(lrgate.isa())")
    assert child.stdout.split() == [lrgate.available_isas()[0]], child.stderr


@pytest.mark.parametrize("isa", lrgate.available_isas())
def test_each_can_be_forced(isa: str) -> None:
    code = (
        "import lrgate, numpy as np\n"
        "net = lrgate.Network.from_layers([(np.ones((3, 20)), np.zeros(3))])\n"
        "print(lrgate.isa(), *net(np.arange(20)))\n"
        "lrgate.show_config()"
    )
    child = run(isa, code)
    assert child.stdout.splitlines()[0] == f"{isa} 190.0 190.0 190.0", child.stderr
    assert f"{isa} (of {', '.join(lrgate.available_isas())})" in child.stdout


@pytest.mark.parametrize("isa", ["avx1024", " ", "PORTABLE", "portable "])
def test_an_unknown_one_is_refused_at_import(isa: str) -> None:
    child = run(isa, "import lrgate")
    names = ", ".join(lrgate.available_isas())
    message = f'ValueError: LRGATE_ISA must be one of {names} on this machine, got "{isa}"'
    assert child.returncode != 0
    assert message in child.stderr

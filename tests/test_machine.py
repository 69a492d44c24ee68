"""The fingerprint of the machine, on systems that report it in different ways."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate.measure import machine, timing
from lrgate.measure.machine import fingerprint
from lrgate.model import Activation, Layer, Model
from lrgate.model.json import MACHINE_KEYS

X86 = "processor\t: 0\nmodel name\t: A Processor @ 2 GHz\nflags\t\t: fpu\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x1\nCPU part\t: 0xd40\n\n"
CACHES = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M")]


@pytest.fixture
def fresh() -> Iterator[None]:
    """Clear the cache of the fingerprint before and after the test."""
    machine._fingerprint.cache_clear()
    yield
    machine._fingerprint.cache_clear()


@pytest.fixture
def linux(fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Linux system whose only known properties are the files in the folder."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "_CACHES", tmp_path)
    monkeypatch.setattr(platform, "machine", lambda: "a kind of machine")
    return tmp_path


def write_caches(folder: Path, caches: list[tuple[str, str, str]]) -> None:
    for i, values in enumerate(caches):
        (folder / f"index{i}").mkdir()
        for name, value in zip(("level", "type", "size"), values, strict=True):
            (folder / f"index{i}" / name).write_text(f"{value}\n")


def test_this_machine() -> None:
    found = fingerprint()
    assert tuple(found) == MACHINE_KEYS
    assert found["isa"] == lrgate.isa()
    assert isinstance(found["cpu"], str) and found["cpu"]
    for level in ("l1d", "l2", "l3"):
        size = found[level]
        assert size is None or (isinstance(size, int) and size >= 1024)
    layer = Layer(np.ones((1, 1)), np.zeros(1), Activation("identity"))
    assert Model((layer,), machine=found).machine == found
    assert timing.machine()["cpu"] == found["cpu"]


def test_it_is_found_once_and_cannot_be_spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint()
    fingerprint()["isa"] = "none"
    monkeypatch.setattr(machine, "_cpuinfo", lambda: "another")
    monkeypatch.setattr(machine, "_sysctl", dict)
    assert fingerprint() == before


def test_linux(linux: Path) -> None:
    (linux / "cpuinfo").write_text(X86)
    write_caches(linux, [*CACHES, ("3", "Unified", "1G"), ("4", "Unified", "8G")])
    assert fingerprint() == {
        "isa": lrgate.isa(),
        "cpu": "A Processor @ 2 GHz",
        "l1d": 48 << 10,
        "l2": 2 << 20,
        "l3": 1 << 30,
    }


def test_generations_of_one_name_differ(linux: Path) -> None:
    name = "processor : 0\ncpu family : 25\nmodel : 17\nmodel name : AMD EPYC\nstepping : 1\n\n"
    (linux / "cpuinfo").write_text(name)
    assert fingerprint()["cpu"] == "AMD EPYC (family 25, model 17)"


def test_linux_on_arm(linux: Path) -> None:
    (linux / "cpuinfo").write_text(ARM)
    assert fingerprint()["cpu"] == "Arm 0x41 0xd40 0x1"


@pytest.mark.parametrize("cpuinfo", [None, "", "\n", "model name", "model name:\n", "a: b\n"])
def test_linux_that_says_nothing(linux: Path, cpuinfo: str | None) -> None:
    if cpuinfo is not None:
        (linux / "cpuinfo").write_text(cpuinfo)
    found = fingerprint()
    assert found == dict.fromkeys(MACHINE_KEYS) | {"isa": lrgate.isa(), "cpu": "a kind of machine"}


@pytest.mark.parametrize("size", ["", "K", "48KK", "big", "48 KB", "\xff"])
def test_caches_that_make_no_sense(linux: Path, size: str) -> None:
    write_caches(linux, [("1", "Data", "32K"), ("2", "Unified", size)])
    assert (fingerprint()["l1d"], fingerprint()["l2"]) == (32 << 10, None)


@pytest.mark.parametrize(("size", "expected"), [("0", None), ("0K", None), ("512", 512)])
def test_caches_of_other_sizes(linux: Path, size: str, expected: int | None) -> None:
    write_caches(linux, [("1", "Unified", size)])
    assert fingerprint()["l1d"] == expected


def test_a_name_is_cut_to_what_a_file_holds(linux: Path) -> None:
    (linux / "cpuinfo").write_bytes(b"model name : \xff" + b"x" * 5000)
    assert len(str(fingerprint()["cpu"])) == 200


@pytest.mark.parametrize(
    ("stdout", "expected"),
    [
        (
            "machdep.cpu.brand_string: Apple M1\nhw.l1dcachesize: 65536\nhw.l2cachesize: 4194304\n",
            {"cpu": "Apple M1", "l1d": 65536, "l2": 4194304, "l3": None},
        ),
        (
            "machdep.cpu.brand_string: Intel\nhw.l3cachesize: 8388608\nhw.l2cachesize: 0\n",
            {"cpu": "Intel", "l1d": None, "l2": None, "l3": 8388608},
        ),
        ("hw.l1dcachesize: many\n", {"cpu": "arm64", "l1d": None, "l2": None, "l3": None}),
        ("", {"cpu": "arm64", "l1d": None, "l2": None, "l3": None}),
    ],
)
def test_macos(
    fresh: None, monkeypatch: pytest.MonkeyPatch, stdout: str, expected: dict[str, Any]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    done = subprocess.CompletedProcess([], 1, stdout, "sysctl: unknown oid")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert fingerprint() == {"isa": lrgate.isa(), **expected}


@pytest.mark.parametrize("error", [OSError("none"), subprocess.TimeoutExpired("sysctl", 1)])
def test_macos_without_an_answer(
    fresh: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(subprocess, "run", fails)
    assert fingerprint()["cpu"] == "arm64"


@pytest.mark.parametrize(("name", "expected"), [("Intel64 Family 6", "Intel64 Family 6"), ("", "")])
def test_other_systems(
    fresh: None, monkeypatch: pytest.MonkeyPatch, name: str, expected: str
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(platform, "processor", lambda: name)
    monkeypatch.setattr(platform, "machine", lambda: "")
    found = dict.fromkeys(MACHINE_KEYS) | {"isa": lrgate.isa(), "cpu": expected or None}
    assert fingerprint() == found
    assert timing.machine()["cpu"] == (expected or "unknown")

"""What a measured plan depends on: the instruction set, the processor and its caches."""

from __future__ import annotations

import functools
import itertools
import platform
import sys
from pathlib import Path
from typing import Final

from lrgate import _core
from lrgate.model.json import MAX_MACHINE_CHARACTERS, Machine

__all__ = ["fingerprint"]

_CPUINFO: Final = Path("/proc/cpuinfo")
_CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")
_CACHE_BY_LEVEL: Final = {"1": "l1d", "2": "l2", "3": "l3"}
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SYSCTL_SECONDS: Final = 1.0
_SYSCTL_NAMES: Final = {
    "machdep.cpu.brand_string": "cpu",
    "hw.l1dcachesize": "l1d",
    "hw.l2cachesize": "l2",
    "hw.l3cachesize": "l3",
}


def fingerprint() -> Machine:
    """Tell this machine from others on which another plan may be the fastest.

    It is found once a process, in a few milliseconds, and never raises.

    Returns
    -------
    dict
        ``isa``, the instruction set in use; ``cpu``, the processor's name, on x86 Linux with its
        family and model; ``l1d``, ``l2`` and ``l3``, bytes of the caches of the first core. What
        is not known is None.

    Examples
    --------
    >>> list(fingerprint())
    ['isa', 'cpu', 'l1d', 'l2', 'l3']
    """
    return dict(_fingerprint())


@functools.cache
def _fingerprint() -> Machine:
    found: Machine = {"isa": _core.isa(), "cpu": None, "l1d": None, "l2": None, "l3": None}
    if sys.platform == "darwin":
        found |= _sysctl()
    elif sys.platform == "linux":
        # platform.processor() would start a process.
        found |= {"cpu": _cpuinfo(), **_sysfs_caches()}
    else:
        found["cpu"] = platform.processor()
    cpu = str(found["cpu"] or platform.machine())[:MAX_MACHINE_CHARACTERS]
    return found | {"cpu": cpu or None}


def _cpuinfo() -> str | None:
    """The first processor's name with its family and model, which hypervisors' names leave out: two
    generations may both be "AMD EPYC". On Arm its maker's and its own number.
    """
    values: dict[str, str] = {}
    try:
        # No further than its empty line: the kernel asks each processor as its lines are read.
        with open(_CPUINFO, encoding="utf-8", errors="replace") as lines:
            for line in itertools.takewhile(str.strip, lines):
                name, _, value = line.partition(":")
                values.setdefault(name.strip(), value.strip())
    except OSError:
        return None
    if values.get("model name"):
        parts = [("family", values.get("cpu family")), ("model", values.get("model"))]
        numbers = [f"{part} {value}" for part, value in parts if value]
        return values["model name"] + (f" ({', '.join(numbers)})" if numbers else "")
    arm = [values.get(f"CPU {part}") for part in ("implementer", "part", "variant")]
    return " ".join(["Arm", *filter(None, arm)]) if arm[0] else None


def _sysfs_caches() -> Machine:
    """Sizes of the first processor's caches that can hold data."""
    found: Machine = {}
    try:
        for cache in sorted(_CACHES.glob("index*")):
            level, kind, size = (
                (cache / name).read_text(encoding="ascii").strip()
                for name in ("level", "type", "size")
            )
            if level in _CACHE_BY_LEVEL and kind in ("Data", "Unified"):
                found[_CACHE_BY_LEVEL[level]] = _bytes(size)
    except (OSError, ValueError):
        pass
    return found


def _bytes(size: str) -> int | None:
    """``"48K"`` as 49152; None for 0, which stands for what is not known."""
    unit = size[-1:] if size[-1:] in _UNITS else ""
    return int(size.removesuffix(unit)) * _UNITS.get(unit, 1) or None


def _sysctl() -> Machine:
    """The processor's name and its caches, as macOS tells them."""
    import subprocess

    found: Machine = {}
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", *_SYSCTL_NAMES],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SYSCTL_SECONDS,
        )
        # Without -n: a name that is unknown here (there may be no L3) is left out.
        for line in done.stdout.splitlines():
            name, _, value = line.partition(": ")
            if name in _SYSCTL_NAMES:
                key = _SYSCTL_NAMES[name]
                found[key] = value if key == "cpu" else _bytes(value)
    except (OSError, ValueError, subprocess.SubprocessError):
        pass
    return found

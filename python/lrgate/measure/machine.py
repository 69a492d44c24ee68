"""Properties of the machine on which plans depend: instruction set, processor and caches."""

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
    """Identify this machine. On a machine with another fingerprint, another plan may be faster.

    The fingerprint is computed once per process, within a few milliseconds, and never raises.

    Returns
    -------
    dict
        ``isa``, the instruction set in use; ``cpu``, the processor's name, on x86 Linux with its
        family and model; ``l1d``, ``l2`` and ``l3``, cache sizes of the first core in bytes.
        Unknown values are None.

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
        # platform.processor() would start a subprocess.
        found |= {"cpu": _cpuinfo(), **_sysfs_caches()}
    else:
        found["cpu"] = platform.processor()
    cpu = str(found["cpu"] or platform.machine())[:MAX_MACHINE_CHARACTERS]
    return found | {"cpu": cpu or None}


def _cpuinfo() -> str | None:
    """Name of the first processor; on x86 with family and model, on Arm the identification numbers.

    Family and model are needed because hypervisors may use the same name, such as "AMD EPYC", for
    two generations.
    """
    values: dict[str, str] = {}
    try:
        # Stop at the empty line: the kernel queries each processor when its lines are read.
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
    """Sizes of the data and unified caches of the first processor."""
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
    """Parse a size such as ``"48K"`` (49152); None for 0, which means unknown."""
    unit = size[-1:] if size[-1:] in _UNITS else ""
    return int(size.removesuffix(unit)) * _UNITS.get(unit, 1) or None


def _sysctl() -> Machine:
    """The processor's name and cache sizes on macOS."""
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
        # Without -n, the output omits unknown names (there may be no L3).
        for line in done.stdout.splitlines():
            name, _, value = line.partition(": ")
            if name in _SYSCTL_NAMES:
                key = _SYSCTL_NAMES[name]
                found[key] = value if key == "cpu" else _bytes(value)
    except (OSError, ValueError, subprocess.SubprocessError):
        pass
    return found

"""Times the phases of a network's calls and computes lower bounds for this machine."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from lrgate import _core
from lrgate.measure import timing
from lrgate.measure.machine import fingerprint
from lrgate.results.phases import Peaks, PhaseProfile, Phases
from lrgate.runtime import thread_limit

__all__ = ["measure_peaks", "measure_phases"]

# The rate of int8 products in tiles, and the phases with such products, with the rows per call from
# which they can take tiles. The bound of a phase that does not take them is too low.
_TILES: Final = "int8 tiles"
_IN_TILES: Final = {"multiply+epilogue": 3, "score+threshold": 3, "estimate": 8}
# Assumed size of the L1 cache if it is unknown.
_LEAST_L1: Final = 32 << 10
# Limits on the buffer that measures memory bandwidth; it is twice as large as the largest cache.
_MEMORY: Final = (64 << 20, 256 << 20)


def measure_phases(net: _core.Network, x: Any, batch_size: int, seconds: float) -> Phases:
    """Profile the phases of a network's calls; see :meth:`lrgate.Network.phases`."""
    peaks = measure_peaks(0.2 * seconds)
    ready = _in_place(x)
    raw, call, weight_bytes = net.engine.phases(ready, batch_size, 0.5 * seconds)
    level = peaks.level(weight_bytes)
    rows = min(batch_size, x.shape[0])
    phases = [_bounded(phase, peaks, level, rows) for phase in raw]
    inside = sum(phase.seconds for phase in phases)
    share = 0.3 * seconds if ready is x else 0.15 * seconds
    outside = max(_call_seconds(net, ready, batch_size, share), call)
    rest = [PhaseProfile(None, "rest of core", max(call - inside, 0.0))]
    if ready is not x:
        converting = _call_seconds(net, x, batch_size, share) - outside
        rest.append(PhaseProfile(None, "convert dtype", max(converting, 0.0)))
    rest.append(PhaseProfile(None, "Python", outside - call))
    return Phases((*phases, *rest), x.shape[0], batch_size, _core.isa(), weight_bytes, level, peaks)


def measure_peaks(seconds: float) -> Peaks:
    """Measure the peak bandwidth and operation rate of one core, for about `seconds`."""
    machine = fingerprint()
    known = {"L1": machine["l1d"] or _LEAST_L1, "L2": machine["l2"], "L3": machine["l3"]}
    caches = {name: int(size) for name, size in known.items() if size}
    memory = min(max(2 * max(caches.values()), _MEMORY[0]), _MEMORY[1])
    sizes = [*(size // 2 for size in caches.values()), memory]
    bandwidth, f32, int8, tiles = _core.peaks(sizes, seconds)
    names = [*caches, "memory"]
    operations = {"f32": f32, "int8": int8} | ({} if tiles is None else {_TILES: tiles})
    return Peaks(caches, dict(zip(names, bandwidth, strict=True)), operations)


def _bounded(phase: dict[str, Any], peaks: Peaks, level: str, rows_per_call: int) -> PhaseProfile:
    weights, rows = phase["weight_bytes_per_row"], phase["row_bytes_per_row"]
    loading = weights / peaks.bandwidth[level] + rows / peaks.bandwidth["L1"]
    rate = peaks.operations[phase["precision"]]
    least_rows = _IN_TILES.get(phase["phase"]) if phase["precision"] == "int8" else None
    if least_rows is not None and rows_per_call >= least_rows:
        rate = peaks.operations.get(_TILES, rate)
    computing = phase["operations_per_row"] / rate
    return PhaseProfile(
        phase["layer"],
        phase["phase"],
        phase["seconds_per_row"],
        weights + rows,
        phase["operations_per_row"],
        max(loading, computing),
        "memory" if loading >= computing else "compute",
        phase["factor"],
    )


def _in_place(x: Any) -> Any:
    """Convert the rows to a form that the core uses without a copy; return `x` if it is one."""
    if not isinstance(x, np.ndarray):
        return x
    if x.dtype in (np.float32, np.uint8) and x.strides[-1] == x.itemsize:
        return x
    return np.ascontiguousarray(x, x.dtype if x.dtype == np.uint8 else np.float32)


def _call_seconds(net: _core.Network, x: Any, batch_size: int, seconds: float) -> float:
    """Median seconds per row of ``net(x)``, on one thread."""
    calls = [x[first : first + batch_size] for first in range(0, x.shape[0], batch_size)]
    # Drop a smaller last call, unless it is the only one.
    calls = [call for call in calls if call.shape[0] == calls[0].shape[0]]
    with thread_limit(1):
        return timing.interleaved({"call": net}, calls, seconds)["call"].seconds_per_row

"""The cost of a call of one float32 row above the core's own time: ``python benches/overhead.py``.

Two measurements, each an upper limit of the same cost: Python, the checks of the argument and the
new output array.

1. A network of one input and one unit. Nothing is left to compute, so the whole call is overhead;
   this is the cost while its code is in the caches.
2. The shipped network in its fastest mix (of a longer call the difference would be lost in the
   noise), where the weights pass through the caches between two calls, as in use: the median call,
   less the sum of the layers' own times. The core measures those around each layer in
   passes over the same rows, one row at a time (``net.engine.profile``), so the rest includes the
   core's part outside layers, too: finding the inputs that are not zero, and choosing the plan.

Both are interleaved, a round of each, with the differences by round: medians with quartiles. The
clock's own time is subtracted from the calls; the core subtracts it from the layers.
"""

from __future__ import annotations

import argparse

import numpy as np

import lrgate
import networks
from lrgate.measure import timing


def main() -> None:
    parser = argparse.ArgumentParser(description="Overhead of a call above the core's own time.")
    parser.add_argument("--rounds", type=int, default=20, help="default: %(default)s")
    rounds = parser.parse_args().rounds
    case = networks.shipped()
    tiny = lrgate.Network.from_layers([([[2.0]], [1.0])])
    tiny_x = np.arange(1000, dtype=np.float32).reshape(1000, 1)
    assert np.array_equal(tiny(tiny_x[3]), [7.0])
    net = case.net.tune(case.x, (1,))
    tiny_calls, calls, layers = [], [], []
    with lrgate.thread_limit(1):
        for _ in range(rounds):
            tiny_calls.append(_call_seconds(tiny, tiny_x, 0.02))
            calls.append(_call_seconds(net, case.x, 0.1))
            profile = net.profile(case.x, batch_size=1, seconds=0.1)
            layers.append(profile.seconds_per_row)
    for name, value in timing.machine().items():
        print(f"{name:<16} {value}")
    print("\none float32 row per call, one thread; ns: median (quartiles)")
    differences = [call - core for call, core in zip(calls, layers, strict=True)]
    print(f"1-1 network: the call            {_spread(tiny_calls)}")
    print(f"shipped network: the call        {_spread(calls)}")
    print(f"shipped network: layers alone    {_spread(layers)}")
    print(f"shipped network: the difference  {_spread(differences)}")


def _call_seconds(net: lrgate.Network, x: networks.Float32Array, seconds: float) -> float:
    """Median seconds of ``net(x)`` for one row."""
    return timing.interleaved({"call": net}, timing.batches(x, 1), seconds)["call"].median


def _spread(seconds: list[float]) -> str:
    low, median, high = np.percentile(np.array(seconds) * 1e9, (25, 50, 75))
    return f"{median:9,.0f} ({low:,.0f} to {high:,.0f})"


if __name__ == "__main__":
    main()

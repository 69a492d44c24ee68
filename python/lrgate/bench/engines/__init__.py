"""What lrgate is compared with: each engine a user might run the same network in.

An engine stores a network in its own form, and loads that file as a function from float32 rows to
raw outputs. So what is timed, what is started in a fresh process and whose size is told are the
same file and the same code. An engine has a small grid of settings; who compares takes the fastest.

Engines know relu networks alone. The input's scale and shift are in the first layer's weights.
"""

from lrgate.bench.engines.base import Engine, Forward, Settings, make
from lrgate.bench.engines.lrgate import LRGATE
from lrgate.bench.engines.numpy import NumpyForward, blas
from lrgate.bench.engines.registry import ENGINES, by_name, selected, versions
from lrgate.frameworks.arrays import folded

__all__ = [
    "ENGINES",
    "LRGATE",
    "Engine",
    "Forward",
    "NumpyForward",
    "Settings",
    "blas",
    "by_name",
    "folded",
    "make",
    "selected",
    "versions",
]

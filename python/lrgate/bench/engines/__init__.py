"""The engines that lrgate is compared with.

An engine writes a network in its own format and loads the file as a function from float32 rows to
raw outputs. Timing, start-up and file size therefore refer to the same file and the same code. Each
engine has a small grid of settings; the comparison uses the fastest.

Engines support only ReLU networks. The input's scale and shift are folded into the first layer.
"""

from lrgate.bench.engines.base import Engine, Forward, Settings, make
from lrgate.bench.engines.folding import folded
from lrgate.bench.engines.lrgate import LRGATE
from lrgate.bench.engines.numpy import NumpyForward, blas
from lrgate.bench.engines.registry import ENGINES, by_name, selected, versions

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

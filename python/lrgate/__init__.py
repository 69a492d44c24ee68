"""Runs trained ReLU networks fast on CPUs by skipping work on units that are zero.

===========  =======================================================================
load         ``Network.load(path)`` reads a file, ``Network.from_layers(...)`` takes
             weights and biases
optimize     ``optimize(net, x, y)`` finds the fastest network within an error budget
predict      ``net.predict(x)``, ``net.predict_proba(x)``; ``net(x)`` gives raw outputs
save         ``net.save(path)`` keeps weights, gates and plan
===========  =======================================================================

``lrgate.estimators`` fits single gates, ``lrgate.results`` has the classes of reports, and
``lrgate.examples`` has a network and rows to try.

>>> import lrgate
>>> net, x, y = lrgate.examples.mnist()
>>> net.predict(x[:3]).tolist() == y[:3].tolist()
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lrgate._core import VERSION as __version__
from lrgate._core import available_isas, get_num_threads, isa
from lrgate.drift.monitor import Monitor
from lrgate.files.errors import FileFormatError
from lrgate.model.activation import Activation
from lrgate.model.layer import Gate, Layer, Quantization
from lrgate.model.plan import BatchPlan
from lrgate.network import Network
from lrgate.results.quantization import QuantizationWarning
from lrgate.runtime import set_num_threads, show_config, thread_limit

if TYPE_CHECKING:
    from lrgate import estimators, examples, results
    from lrgate.frameworks.errors import UnsupportedModelError
    from lrgate.frameworks.onnx_reader import from_onnx
    from lrgate.planner.optimizer import optimize

__all__ = [
    "Activation",
    "BatchPlan",
    "FileFormatError",
    "Gate",
    "Layer",
    "Monitor",
    "Network",
    "Quantization",
    "QuantizationWarning",
    "UnsupportedModelError",
    "__version__",
    "available_isas",
    "estimators",
    "examples",
    "from_onnx",
    "get_num_threads",
    "isa",
    "optimize",
    "results",
    "set_num_threads",
    "show_config",
    "thread_limit",
]

# Imported on first use, so that prediction alone does not load them.
_MODULES = ("estimators", "examples", "results")
_ELSEWHERE = {
    "UnsupportedModelError": "lrgate.frameworks.errors",
    "from_onnx": "lrgate.frameworks.onnx_reader",
    "optimize": "lrgate.planner.optimizer",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"lrgate.{name}")
    if name in _ELSEWHERE:
        value = getattr(importlib.import_module(_ELSEWHERE[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'lrgate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)

"""Runs trained ReLU networks fast on CPUs by skipping work on units that are zero.

===========  =======================================================================
load         ``load(path)`` reads .npz, .safetensors, .onnx, .pt2 and .keras files;
             ``from_sklearn``, ``from_torch``, ``from_onnx`` and ``from_keras`` take
             models, ``Network.from_layers(...)`` weights and biases
optimize     ``optimize(model, x, y)`` takes any of these and finds the fastest network
             within an error budget
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

if TYPE_CHECKING:
    from lrgate import estimators, examples, results
    from lrgate.drift.monitor import Monitor
    from lrgate.files.errors import FileFormatError
    from lrgate.frameworks.errors import UnsupportedModelError
    from lrgate.frameworks.keras_reader import from_keras
    from lrgate.frameworks.loading import load
    from lrgate.frameworks.onnx_reader import from_onnx
    from lrgate.frameworks.sklearn_reader import from_sklearn
    from lrgate.frameworks.torch_reader import from_torch
    from lrgate.model.activation import Activation
    from lrgate.model.layer import Factors, Gate, Layer, NestedGate, Quantization
    from lrgate.model.plan import BatchPlan
    from lrgate.network import Network
    from lrgate.planner.optimizer import optimize
    from lrgate.results.quantization import QuantizationWarning
    from lrgate.runtime import set_num_threads, show_config, thread_limit

__all__ = [
    "Activation",
    "BatchPlan",
    "Factors",
    "FileFormatError",
    "Gate",
    "Layer",
    "Monitor",
    "NestedGate",
    "Network",
    "Quantization",
    "QuantizationWarning",
    "UnsupportedModelError",
    "__version__",
    "available_isas",
    "estimators",
    "examples",
    "from_keras",
    "from_onnx",
    "from_sklearn",
    "from_torch",
    "get_num_threads",
    "isa",
    "load",
    "optimize",
    "results",
    "set_num_threads",
    "show_config",
    "thread_limit",
]

# Imported on first use (PEP 562): the command line answers without NumPy, and prediction alone does
# not load the planner.
_MODULES = ("estimators", "examples", "results", "sklearn", "torch")
_ELSEWHERE = {
    "Activation": "lrgate.model.activation",
    "BatchPlan": "lrgate.model.plan",
    "Factors": "lrgate.model.layer",
    "FileFormatError": "lrgate.files.errors",
    "Gate": "lrgate.model.layer",
    "Layer": "lrgate.model.layer",
    "Monitor": "lrgate.drift.monitor",
    "NestedGate": "lrgate.model.layer",
    "Network": "lrgate.network",
    "Quantization": "lrgate.model.layer",
    "QuantizationWarning": "lrgate.results.quantization",
    "UnsupportedModelError": "lrgate.frameworks.errors",
    "from_keras": "lrgate.frameworks.keras_reader",
    "from_onnx": "lrgate.frameworks.onnx_reader",
    "from_sklearn": "lrgate.frameworks.sklearn_reader",
    "from_torch": "lrgate.frameworks.torch_reader",
    "load": "lrgate.frameworks.loading",
    "optimize": "lrgate.planner.optimizer",
    "set_num_threads": "lrgate.runtime",
    "show_config": "lrgate.runtime",
    "thread_limit": "lrgate.runtime",
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

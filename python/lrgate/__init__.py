"""Runs trained ReLU networks on CPUs without computing what will be zero.

>>> import lrgate
>>> net, x, y = lrgate.examples.mnist()
>>> net.predict(x[:3]).tolist() == y[:3].tolist()
True
"""

from __future__ import annotations

from lrgate import estimators, examples
from lrgate._core import VERSION as __version__
from lrgate._core import available_isas, get_num_threads, isa
from lrgate.drift.monitor import Monitor
from lrgate.files.errors import FileFormatError
from lrgate.model.activation import Activation
from lrgate.model.layer import Gate, Layer, Quantization
from lrgate.network import Network
from lrgate.planner.search import optimize
from lrgate.results.drift import MonitorReport
from lrgate.results.optimization import ClassReport, LayerReport, Report
from lrgate.results.phases import PhaseProfile, Phases
from lrgate.results.profile import LayerProfile, Profile
from lrgate.results.quantization import QuantizationReport, QuantizationWarning
from lrgate.runtime import num_threads, set_num_threads, show_config

__all__ = [
    "Activation",
    "ClassReport",
    "FileFormatError",
    "Gate",
    "Layer",
    "LayerProfile",
    "LayerReport",
    "Monitor",
    "MonitorReport",
    "Network",
    "PhaseProfile",
    "Phases",
    "Profile",
    "Quantization",
    "QuantizationReport",
    "QuantizationWarning",
    "Report",
    "__version__",
    "available_isas",
    "estimators",
    "examples",
    "get_num_threads",
    "isa",
    "num_threads",
    "optimize",
    "set_num_threads",
    "show_config",
]

"""The model as plain data: what files hold, what the engine is built from.

Everything here is immutable and knows neither the engine nor a file format. Arrays are taken over
as read-only, C-contiguous float32 (an array that its owner could still write to is copied), and
their kinds and shapes are checked; whether widths chain, values are finite and gates sit where they
may is the engine's to check, once, for every source of models.
"""

from lrgate.model.activation import Activation
from lrgate.model.layer import Gate, Layer, Quantization
from lrgate.model.model import Model
from lrgate.model.plan import BatchPlan
from lrgate.model.probe import PlannedOutputs, Probe

__all__ = [
    "Activation",
    "BatchPlan",
    "Gate",
    "Layer",
    "Model",
    "PlannedOutputs",
    "Probe",
    "Quantization",
]

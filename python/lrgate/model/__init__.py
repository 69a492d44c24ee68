"""The model as plain data, as stored in files and used to build the engine.

Everything here is immutable and independent of the engine and of file formats. Arrays become
read-only, C-contiguous float32 (an array that its owner could still modify is copied), and their
dtypes and shapes are checked. The engine checks once, for all sources of models, whether the widths
of layers match, values are finite and gates are allowed.
"""

from lrgate.model.activation import Activation
from lrgate.model.layer import Factors, Gate, Layer, NestedGate, Quantization
from lrgate.model.model import Model
from lrgate.model.plan import BatchPlan
from lrgate.model.probe import PlannedOutputs, Probe

__all__ = [
    "Activation",
    "BatchPlan",
    "Factors",
    "Gate",
    "Layer",
    "Model",
    "NestedGate",
    "PlannedOutputs",
    "Probe",
    "Quantization",
]

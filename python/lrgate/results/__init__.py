"""Results of calls: reports of profiles, quantization, optimization, sparsification and drift.

Results are printed as text and shown as tables in notebooks. ``to_dict()`` returns plain data,
``to_dataframe()`` a table.
"""

from lrgate.results.drift import Drift, LayerDrift, MonitorReport
from lrgate.results.optimization import BatchReport, CheckReport, LayerReport, OptimizeReport
from lrgate.results.phases import PhaseProfile, Phases
from lrgate.results.profile import LayerProfile, Profile
from lrgate.results.quantization import LayerFit, QuantizationReport
from lrgate.results.ratio import Ratio
from lrgate.results.sparsification import RoundReport, SparseLayer, SparsifyReport
from lrgate.results.table import Table

__all__ = [
    "BatchReport",
    "CheckReport",
    "Drift",
    "LayerDrift",
    "LayerFit",
    "LayerProfile",
    "LayerReport",
    "MonitorReport",
    "OptimizeReport",
    "PhaseProfile",
    "Phases",
    "Profile",
    "QuantizationReport",
    "Ratio",
    "RoundReport",
    "SparseLayer",
    "SparsifyReport",
    "Table",
]

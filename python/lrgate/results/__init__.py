"""What calls report: profiles, phases, quantization, optimization, drift.

Each result prints as text, shows as a table in notebooks, and has plain data in ``to_dict()`` or a
table in ``to_dataframe()``.
"""

from lrgate.results.drift import Drift, LayerDrift, MonitorReport
from lrgate.results.optimization import BatchReport, CheckReport, LayerReport, OptimizeReport
from lrgate.results.phases import PhaseProfile, Phases
from lrgate.results.profile import LayerProfile, Profile
from lrgate.results.quantization import LayerFit, QuantizationReport
from lrgate.results.ratio import Ratio
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
    "Table",
]

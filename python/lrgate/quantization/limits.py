"""Limits on the error and the cost of int8. A layer that exceeds them stays f32."""

from __future__ import annotations

from typing import Final

MOST_INPUTS: Final = 65_536
"""Maximum number of inputs of an int8 layer: sums over more inputs might not fit 32 bits."""

MOST_ERROR: Final = 0.1
"""Maximum relative error of the sums of an int8 layer."""

MOST_RECOMPUTED: Final = 0.1
"""Maximum share of rows that an int8 layer causes to be recomputed."""

MOST_CHANGED: Final = 0.025
"""Maximum share of labels that int8 may change."""

USUALLY_CHANGED: Final = 0.002
"""Share of labels that int8 may change; above, rows whose label is uncertain are recomputed."""

USUAL_ERROR: Final = 0.0115
"""Relative error of the sums of an int8 layer whose inputs are normally distributed."""

FINE_EXCESS: Final = 0.002
"""Share of labels that change because errors exceed `USUAL_ERROR`; above, a finer fit is tried."""

MOST_EXCESS: Final = 0.005
"""Maximum share of labels that may change because errors exceed `USUAL_ERROR`."""

MOST_MARGIN_ERROR: Final = 0.06**2
"""Maximum squared error of the margins between labels in int8, relative to their mean square."""

MOST_OUTPUT_ERROR: Final = 0.1**2
"""Maximum squared error of a regressor's outputs in int8, relative to their variance."""

WARN_RECOMPUTED: Final = 0.05
"""Share of recomputed rows above which a warning is issued, because int8 loses its speed."""

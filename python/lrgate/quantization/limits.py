"""What int8 may cost: beyond these limits layers stay f32."""

from __future__ import annotations

from typing import Final

MOST_INPUTS: Final = 65_536
"""The widest input of an int8 layer: the sums of wider ones might not fit 32 bits."""

MOST_ERROR: Final = 0.1
"""A layer of a larger relative error of its sums stays f32."""

MOST_RECOMPUTED: Final = 0.1
"""A layer that makes more of the rows recomputed stays f32."""

MOST_CHANGED: Final = 0.025
"""Share of labels that int8 may be expected to change."""

MOST_MARGIN_ERROR: Final = 0.06**2
"""Squared error of the margins between labels that int8 may make, relative to the margins."""

MOST_OUTPUT_ERROR: Final = 0.1**2
"""Squared error of a regressor's outputs that int8 may make, relative to their variance."""

WARN_RECOMPUTED: Final = 0.05
"""A larger share of recomputed rows is warned about: it costs the speed of int8."""

"""Fixtures that several files use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lrgate.measure import timing
from lrgate.planner import clock, reporting


@pytest.fixture
def short_times() -> Iterator[None]:
    """Shorten the measurements of `optimize`, which leaves its choices to chance."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_LAYER", "_PLAN", "_RACE"):
            patch.setattr(clock, f"{name}_SECONDS", 1e-4)
        for name in ("_LAST_RACE", "_PROFILE"):
            patch.setattr(reporting, f"{name}_SECONDS", 1e-4)
        patch.setattr(timing, "_TURN_SECONDS", 1e-4)
        yield

"""Sorts tests from benchmarks: `pytest` never times, `pytest --benchmark-only` does nothing else.

Works the same where pytest-benchmark is not installed: then there are only tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHES = Path(__file__).parent / "benches"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    timing = bool(config.getoption("benchmark_only", default=False))
    above = collection_path in BENCHES.parents
    inside = collection_path.is_relative_to(BENCHES)
    return True if inside != timing and not above else None

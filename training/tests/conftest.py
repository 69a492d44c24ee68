"""Tests of the scripts are skipped without PyTorch, or fail where it must be installed."""

from __future__ import annotations

import importlib.util
import os

if os.environ.get("LRGATE_REQUIRE_TORCH") == "1" and importlib.util.find_spec("torch") is None:
    raise ModuleNotFoundError("LRGATE_REQUIRE_TORCH=1, but PyTorch is not installed")

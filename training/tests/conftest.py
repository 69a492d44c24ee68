"""Tests of the scripts are skipped without PyTorch, or fail where it must be installed."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from images import idx, parts

if os.environ.get("LRGATE_REQUIRE_TORCH") == "1" and importlib.util.find_spec("torch") is None:
    raise ModuleNotFoundError("LRGATE_REQUIRE_TORCH=1, but PyTorch is not installed")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of 300 training and 100 test images."""
    folder = tmp_path_factory.mktemp("idx")
    for prefix, images, labels in parts(noise=90):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder

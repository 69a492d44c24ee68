"""Tests of the scripts are skipped without PyTorch, or fail where it must be installed."""

from __future__ import annotations

import importlib.util
import os
import struct
from pathlib import Path

import numpy as np
import pytest

if os.environ.get("LRGATE_REQUIRE_TORCH") == "1" and importlib.util.find_spec("torch") is None:
    raise ModuleNotFoundError("LRGATE_REQUIRE_TORCH=1, but PyTorch is not installed")

SIDE = 8


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of 300 training and 100 test images."""
    folder = tmp_path_factory.mktemp("idx")
    generator = np.random.default_rng(0)
    prototypes = generator.integers(0, 256, (10, SIDE, SIDE))
    for prefix, rows in (("train", 300), ("t10k", 100)):
        labels = (np.arange(rows) % 10).astype(np.uint8)
        noise = generator.integers(-90, 91, (rows, SIDE, SIDE))
        images = np.clip(prototypes[labels] + noise, 0, 255).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            sizes = struct.pack(f">{array.ndim}I", *array.shape)
            content = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(content)
    return folder

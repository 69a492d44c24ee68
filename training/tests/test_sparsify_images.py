"""The measurement of `lrgate.torch.sparsify`, on tiny images that the test writes itself."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

TRAINING = Path(__file__).resolve().parent.parent

if importlib.util.find_spec("torch") is None:
    if os.environ.get("LRGATE_REQUIRE_TORCH") == "1":
        raise ModuleNotFoundError("LRGATE_REQUIRE_TORCH=1, but PyTorch is not installed")
    pytest.skip("training needs PyTorch, which is not installed", allow_module_level=True)

sys.path.insert(0, str(TRAINING))

import lrgate  # noqa: E402

import sparsify_images  # noqa: E402


def idx(array: np.ndarray) -> bytes:
    return (
        b"\0\0\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def test_a_network_is_made_sparse_and_measured(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    prototypes = rng.integers(0, 200, (10, 8, 8))
    for prefix, count in (("train", 800), ("t10k", 200)):
        y = (np.arange(count) % 10).astype(np.uint8)
        images = prototypes[y] + rng.integers(0, 56, (count, 8, 8))
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images.astype(np.uint8)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(y))
    layers = [
        (rng.normal(0, 0.2, (32, 64)), np.zeros(32)),
        (rng.normal(0, 0.2, (10, 32)), np.zeros(10)),
    ]
    net = lrgate.Network.from_layers(layers, task="classification", input_scale=1 / 255)
    net.save(tmp_path / "net.npz")
    out, saved = tmp_path / "results" / "tiny.json", tmp_path / "sparse.npz"
    command = ["--network", str(tmp_path / "net.npz"), "--data-dir", str(tmp_path)]
    command += ["--out", str(out), "--save", str(saved), "--validation", "200"]
    command += ["--epochs", "10", "--shift", "1", "--max-error-increase", "0.1"]
    assert sparsify_images.main(command) == 0
    figures = json.loads(out.read_text())
    assert figures["after"]["multiply_adds"] < figures["before"]["multiply_adds"]
    assert figures["after"]["test_error"] < figures["before"]["test_error"]
    assert figures["report"]["rows_checked"] == 120
    sparse = lrgate.load(saved)
    assert [len(layer.bias) for layer in sparse.layers] == figures["after"]["units"]
    assert sparsify_images.main([*command[:2], "--data-dir", "nowhere", *command[4:]]) == 1

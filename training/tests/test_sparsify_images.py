"""The measurement of `lrgate.torch.sparsify`, on tiny images that the test writes itself."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs PyTorch")

import lrgate

import sparsify_images


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
    command += ["--speed", "--engines", "NumPy", "--seconds", "0.01"]
    assert sparsify_images.main(command) == 0
    figures = json.loads(out.read_text())
    assert figures["after"]["multiply_adds"] < figures["before"]["multiply_adds"]
    assert figures["after"]["test_error"] < figures["before"]["test_error"]
    assert figures["report"]["rows_checked"] == 120
    timed = figures["speed"]["networks"]
    # NumPy has no thresholds.
    both = ["lrgate", "NumPy"]
    for label, engines in (("before", both), ("after", ["lrgate"]), ("relu", both)):
        if label != "relu":
            assert timed[label]["error"] == pytest.approx(figures[label]["test_error"])
        assert list(timed[label]["engines"]) == engines
        for each in timed[label]["engines"].values():
            for rows in ("1", "256"):
                median, low, high = each[rows]["us"]
                assert 0 < low <= median <= high
    sparse = lrgate.load(saved)
    assert [len(layer.bias) for layer in sparse.layers] == figures["after"]["units"]
    assert sparsify_images.main([*command[:2], "--data-dir", "nowhere", *command[4:]]) == 1


def test_a_seed_of_other_validation_rows_is_refused() -> None:
    net = lrgate.Network.from_layers([(np.eye(2), None)], task="classification")
    assert sparsify_images._seed(net, None) == 1
    known = net.with_metadata({"seed": 3})
    assert sparsify_images._seed(known, None) == sparsify_images._seed(known, 3) == 3
    with pytest.raises(ValueError, match="trained with seed 3"):
        sparsify_images._seed(known, 2)

"""Small data sets of random images in the IDX format."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

SIDE = 8

U8Array = npt.NDArray[np.uint8]


def idx(array: U8Array) -> bytes:
    """An array of unsigned bytes in the IDX format."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def parts(noise: int) -> Iterator[tuple[str, U8Array, U8Array]]:
    """Prefix, images and labels of 300 training and 100 test images: ten prototypes and noise."""
    generator = np.random.default_rng(0)
    prototypes = generator.integers(0, 256, (10, SIDE, SIDE))
    for prefix, rows in (("train", 300), ("t10k", 100)):
        labels = (np.arange(rows) % 10).astype(np.uint8)
        moved = generator.integers(-noise, noise + 1, (rows, SIDE, SIDE))
        yield prefix, np.clip(prototypes[labels] + moved, 0, 255).astype(np.uint8), labels

"""Writes the 1,000 MNIST test digits that the package carries.

python training/make_digits.py --data-dir DIR --out python/lrgate/data/mnist_test_1000.npz
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np


def main() -> None:
    """Reads the IDX files and writes the first 1,000 digits and labels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("python/lrgate/data/mnist_test_1000.npz"))
    arguments = parser.parse_args()
    images = gzip.decompress((arguments.data_dir / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((arguments.data_dir / "t10k-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784)[:1000]
    y = np.frombuffer(labels, np.uint8, offset=8)[:1000]
    np.savez_compressed(arguments.out, x=x, y=y)


if __name__ == "__main__":
    main()

"""Networks and rows that come with the package."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate.network import Network


def mnist() -> tuple[Network, npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """The shipped network and 1,000 digits it has never seen.

    The network is 784-1000-600-400-10, trained on MNIST's 60,000 training digits by
    ``training/train.py``; ``net.metadata`` has the command and the figures. The digits are the
    first 1,000 of MNIST's test set (LeCun, Cortes and Burges).

    Returns
    -------
    net : Network
        Takes pixels from 0 to 255, uint8 or float.
    x : uint8 array (1000, 784)
        Digits, 28 by 28 pixels, row by row.
    y : int64 array (1000,)
        Their labels.
    """
    data = resources.files("lrgate") / "data"
    with resources.as_file(data / "mnist.npz") as path:
        net = Network.load(path)
    with (
        resources.as_file(data / "mnist_test_1000.npz") as path,
        np.load(path, allow_pickle=False) as digits,
    ):
        return net, digits["x"], digits["y"].astype(np.int64)

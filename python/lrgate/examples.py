"""A network and data that come with the package."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from lrgate.network import Network


def mnist() -> tuple[Network, npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """Load the network of the package and 1,000 digits that it was not trained on.

    The network has widths 784-1000-600-400-10. ``training/train.py`` trained it on MNIST's 60,000
    training digits; ``net.metadata`` has the command and the results. The digits are the first
    1,000 of MNIST's test set (LeCun, Cortes and Burges).

    Returns
    -------
    net : Network
        A classifier of pixels from 0 to 255, uint8 or float.
    x : uint8 array (1000, 784)
        Digits of 28 by 28 pixels, row by row.
    y : int64 array (1000,)
        Labels of the digits.
    """
    data = resources.files("lrgate") / "data"
    with resources.as_file(data / "mnist.npz") as path:
        net = Network.load(path)
    with (
        resources.as_file(data / "mnist_test_1000.npz") as path,
        np.load(path, allow_pickle=False) as digits,
    ):
        return net, digits["x"], digits["y"].astype(np.int64)

"""Estimators: methods that fit the gate of a layer, and functions that evaluate a fitted gate.

A layer computes ``z = x W + b`` with ``W = weight.T`` of shape (in, out). A gate predicts the sign
of each unit's z from a low-rank product, ``x U V + c``; units predicted to be negative are not
computed (Davis and Arel 2013, arXiv 1312.4461). An estimator fits U, V and c once, at the largest
rank. A gate of a smaller rank is cut from the same fit:

>>> import numpy as np
>>> from lrgate import Activation, Layer
>>> rng = np.random.default_rng(0)
>>> layer = Layer(rng.normal(size=(40, 20)), np.zeros(40), Activation("relu"))
>>> fit = whitened(layer, rng.normal(size=(200, 20)))
>>> fit.gate(8)
Gate(20 -> 40, rank 8)
>>> evaluate(layer, fit.gate(20), rng.normal(size=(100, 20))).recall
1.0

`factored` fits factors that stand for the weights themselves, for layers of any activation:

>>> factored(layer, rng.normal(size=(200, 20))).factors(8)
Factors(20 -> 40, rank 8)

`fit_thresholds` chooses the threshold of each unit of a gate on held-out rows, for a given lost
energy or computed share.

Rows may be arrays or `scipy.sparse` matrices; wide sparse rows are never made dense. Unless
stated otherwise, computations use float64, or float32 for large weights. Gates are float32.
"""

from lrgate.estimators.base import Estimate
from lrgate.estimators.factoring import Factoring, factored
from lrgate.estimators.quality import GateReport, evaluate
from lrgate.estimators.signs import logistic
from lrgate.estimators.singular import svd
from lrgate.estimators.thresholds import ThresholdPath, fit_thresholds
from lrgate.estimators.whitening import whitened

__all__ = [
    "Estimate",
    "Factoring",
    "GateReport",
    "ThresholdPath",
    "evaluate",
    "factored",
    "fit_thresholds",
    "logistic",
    "svd",
    "whitened",
]

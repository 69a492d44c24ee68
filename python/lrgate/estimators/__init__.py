"""Estimators: ways to fit the gate of one layer, and the judge of a fitted gate.

A layer computes ``z = x W + b`` with ``W = weight.T`` of shape (in, out). A gate predicts the sign
of each unit's z from a product of low rank, ``x U V + c``, so that units predicted negative need
not be computed (Davis and Arel 2013, arXiv 1312.4461). An estimator fits U, V and c once, at the
largest rank; every smaller rank is a cut of that one fit:

>>> import numpy as np
>>> from lrgate import Activation, Layer
>>> rng = np.random.default_rng(0)
>>> layer = Layer(rng.normal(size=(40, 20)), np.zeros(40), Activation("relu"))
>>> fit = whitened(layer, rng.normal(size=(200, 20)))
>>> fit.gate(8)
Gate(20 -> 40, rank 8)
>>> evaluate(layer, fit.gate(20), rng.normal(size=(100, 20))).recall
1.0

`fit_thresholds` then gives each unit the threshold that a given lost energy or computed share asks
for, from rows held out.

Rows may be arrays, CSR matrices or `SparseInputs`; sparse rows are never made dense where they are
wide. Arithmetic is in float64 unless said, and in float32 on large weights; gates are float32.
"""

from lrgate.estimators.base import Estimate
from lrgate.estimators.quality import GateReport, evaluate
from lrgate.estimators.signs import logistic
from lrgate.estimators.singular import svd
from lrgate.estimators.thresholds import ThresholdPath, fit_thresholds
from lrgate.estimators.whitening import whitened

__all__ = [
    "Estimate",
    "GateReport",
    "ThresholdPath",
    "evaluate",
    "fit_thresholds",
    "logistic",
    "svd",
    "whitened",
]

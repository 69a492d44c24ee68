"""Sparse inputs of layers against the same inputs made dense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from lrgate.inputs.sparse import SparseInputs


def csr(n: int = 40, width: int = 30, density: float = 0.1) -> Any:
    return sparse.random(n, width, density, "csr", np.float32, random_state=2)


MAPS: list[tuple[Any, Any]] = [
    (None, None),
    (2.0, None),
    (None, -0.5),
    (np.linspace(-1, 1, 30), None),
    (np.linspace(0.5, 2, 30), np.where(np.arange(30) % 3, 0.0, 1.0)),
    ([0.25], [1.0]),
]


@pytest.mark.parametrize(("scale", "shift"), MAPS)
@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array])
def test_it_stands_for_the_dense_inputs(scale: Any, shift: Any, kind: Any) -> None:
    rows = kind(csr())
    rows.data[3] = 0.0  # stored, but zero
    dense = rows.toarray().astype(np.float64)
    dense *= 1.0 if scale is None else np.asarray(scale, np.float32)
    dense += 0.0 if shift is None else np.asarray(shift, np.float32)
    inputs = SparseInputs(rows, scale, shift)
    assert (len(inputs), inputs.shape) == (40, (40, 30))
    np.testing.assert_allclose(inputs.toarray(), dense, atol=1e-6)
    np.testing.assert_allclose(inputs.mean(), dense.mean(axis=0), atol=1e-9)
    assert inputs.density == pytest.approx(float((dense != 0).mean()))
    matrix = np.random.default_rng(0).normal(size=(30, 7))
    np.testing.assert_allclose(inputs @ matrix, dense @ matrix, atol=1e-12)
    product = inputs @ matrix.astype(np.float32)
    assert type(product) is np.ndarray and product.dtype == np.float32
    for some in (slice(5, 17), np.array([3, 1, 30]), np.arange(40) % 2 == 0):
        np.testing.assert_allclose(inputs[some].toarray(), dense[some], atol=1e-6)


def test_a_map_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"^scale must have shape \(\) or \(30,\), got \(29,\)$"):
        SparseInputs(csr(), np.ones(29))
    with pytest.raises(ValueError, match=r"^shift must have shape \(\) or \(30,\), got \(2, 30\)$"):
        SparseInputs(csr(), None, np.ones((2, 30)))

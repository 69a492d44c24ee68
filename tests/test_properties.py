"""Random networks and rows against the float64 oracle, with every strategy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lrgate
from oracle import assert_close, forward, gated, make, rows

pytestmark = pytest.mark.isa

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

HARD_ZERO = st.one_of(
    st.just("relu"),
    st.tuples(st.just("clipped_relu"), st.floats(0.01, 3)),
    st.tuples(st.just("thresholded_relu"), st.floats(-1, 1)),
)
ANY = st.one_of(
    HARD_ZERO,
    st.tuples(st.just("leaky_relu"), st.floats(-1.5, 1.5)),
    st.sampled_from(["identity", "tanh", "sigmoid", "gelu", "softmax"]),
)
WIDTHS = st.lists(st.integers(1, 90), min_size=2, max_size=4)
NUMBERS = st.floats(-1e3, 1e3, width=32)


@SETTINGS
@given(
    widths=WIDTHS, seed=st.integers(0, 999), hidden=ANY, last=ANY, n=st.integers(0, 70),
    data=st.data(),
)  # fmt: skip
def test_outputs_are_within_the_bound(
    widths: list[int], seed: int, hidden: Any, last: Any, n: int, data: st.DataObject
) -> None:
    net = gated(make(widths, seed, hidden, last))
    names = [
        data.draw(st.sampled_from(["dense", "skip", "gate"] if layer.gate else ["dense", "skip"]))
        for layer in net.layers
    ]
    net = net.with_strategies(names)
    x = rows(n, widths[0], seed)
    assert_close(net(x), forward(net, x)[-1], f"{names}")


@SETTINGS
@given(data=st.data(), scale=st.floats(-2, 2), strategy=st.sampled_from(["dense", "skip"]))
def test_any_numbers_and_any_input_map(data: st.DataObject, scale: float, strategy: str) -> None:
    shift = data.draw(hnp.arrays(np.float32, 6, elements=st.floats(-10, 10, width=32)))
    net = make([6, 20, 3], input_scale=scale, input_shift=shift)
    net = net.with_strategies([strategy] * 2)
    x = data.draw(
        hnp.arrays(np.float32, st.tuples(st.integers(0, 9), st.just(6)), elements=NUMBERS)
    )
    assert_close(net(x), forward(net, x)[-1], strategy)


@SETTINGS
@given(
    n=st.integers(1, 140), strategy=st.sampled_from(["dense", "skip", "gate"]),
    precision=st.sampled_from(["f32", "int8"]), seed=st.integers(0, 99), data=st.data(),
)  # fmt: skip
def test_a_row_does_not_depend_on_the_others(
    n: int, strategy: str, precision: str, seed: int, data: st.DataObject
) -> None:
    net = gated(make([33, 65, 20, 4])).quantize(rows(50, 33))
    net = net.with_strategies([strategy, strategy, "skip"], precision)
    kept = data.draw(st.integers(0, n - 1))
    x = rows(n, 33, seed)
    other = rows(n, 33, seed + 1000)
    other[data.draw(st.integers(0, n - 1))] = np.nan
    other[kept] = x[kept]
    np.testing.assert_array_equal(net(x)[kept], net(other)[kept])


@SETTINGS
@given(data=st.data())
def test_all_input_types_agree(data: st.DataObject) -> None:
    """Numbers that every dtype can hold give the same result in all dtypes."""
    net = make([9, 30, 3])
    x = data.draw(
        hnp.arrays(
            np.uint8, st.tuples(st.integers(0, 70), st.just(9)), elements=st.integers(0, 100)
        )
    )
    expected = net(x.astype(np.float32))
    for dtype in (np.uint8, np.int8, np.int16, np.uint64, np.float16, np.float64, ">f4", ">i2"):
        np.testing.assert_array_equal(net(x.astype(dtype)), expected)


@SETTINGS
@given(
    classes=st.integers(2, 6), n=st.integers(0, 20), seed=st.integers(0, 99),
    last=st.sampled_from(["identity", "softmax"]),
)  # fmt: skip
def test_predictions_follow_the_outputs(classes: int, n: int, seed: int, last: str) -> None:
    net = make([5, 12, classes], seed, last=last, classes=np.arange(classes) * 10)
    x = rows(n, 5, seed)
    proba = net.predict_proba(x)
    np.testing.assert_array_equal(net.predict(x), net(x).argmax(axis=1) * 10)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert ((proba >= 0) & (proba <= 1)).all()
    assert isinstance(net, lrgate.Network)

"""What `x` and `out` may be, and how everything else is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import lrgate
from oracle import assert_close, forward, gated, make

D, K = 7, 4


@pytest.fixture(scope="module", params=["dense", "skip", "gate"])
def net(request: pytest.FixtureRequest) -> lrgate.Network:
    net = gated(make([D, 40, 20, K], classes=["a", "b", "c", "d"]))
    return net.with_strategies([request.param, request.param, "dense"])


@pytest.fixture(scope="module")
def whole() -> np.ndarray:
    """Numbers that every dtype holds: 0 to 100, many of them 0."""
    rng = np.random.default_rng(3)
    return rng.integers(0, 100, size=(70, D)) * (rng.random((70, D)) < 0.5)


# --- accepted -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    ["f2", "f4", "f8", "longdouble", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8",
     ">f2", ">f4", ">f8", ">i2", ">i4", ">i8", ">u4", "<f4"],
)  # fmt: skip
@pytest.mark.parametrize("n", [0, 1, 9, 70])
def test_real_dtypes(net: lrgate.Network, whole: np.ndarray, dtype: str, n: int) -> None:
    x = whole[:n].astype(dtype)
    expected = net(whole[:n].astype(np.float32))
    assert_close(net(x), forward(net, whole[:n])[-1])
    np.testing.assert_array_equal(net(x), expected)
    np.testing.assert_array_equal(net.forward(x), expected)
    assert net(x).shape == (n, K)


def test_bool(net: lrgate.Network, whole: np.ndarray) -> None:
    x = whole > 0
    np.testing.assert_array_equal(net(x), net(x.astype(np.float32)))


def test_float64_is_rounded_as_astype_does(net: lrgate.Network) -> None:
    x = np.random.default_rng(0).normal(size=(9, D)) * 1e-3 + 1 / 3
    np.testing.assert_array_equal(net(x), net(x.astype(np.float32)))


def layouts(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers in other places of memory."""
    n, d = x.shape
    size = x.dtype.itemsize
    raw = np.zeros(x.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(x.tobytes(), np.uint8)
    wide = np.full((n, d + 5), 99, x.dtype)
    wide[:, 2 : d + 2] = x
    odd = np.zeros(n * (d * size + 1), np.uint8)
    for r in range(n):
        odd[r * (d * size + 1) :][: d * size] = np.frombuffer(x[r].tobytes(), np.uint8)
    frozen = x.copy()
    frozen.flags.writeable = False
    return {
        "Fortran": np.asfortranarray(x),
        "columns reversed": np.ascontiguousarray(x[:, ::-1])[:, ::-1],
        "rows reversed": np.ascontiguousarray(x[::-1])[::-1],
        "every second row": np.repeat(x, 2, axis=0)[::2],
        "every second column": np.repeat(x, 2, axis=1)[:, ::2],
        "part of a wider array": wide[:, 2 : d + 2],
        "misaligned": raw[1:].view(x.dtype).reshape(x.shape),
        "rows at odd distances": np.lib.stride_tricks.as_strided(
            odd.view(x.dtype) if size == 1 else np.ndarray((1,), x.dtype, odd),
            x.shape,
            (d * size + 1, size),
        ),
        "read-only": frozen,
        "subclass": x.view(np.ma.MaskedArray),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float64])
@pytest.mark.parametrize("name", sorted(layouts(np.zeros((2, D), np.float32))))
def test_layouts(net: lrgate.Network, whole: np.ndarray, dtype: type, name: str) -> None:
    x = layouts(whole.astype(dtype))[name]
    np.testing.assert_array_equal(np.asarray(x), whole)
    np.testing.assert_array_equal(net(x), net(whole.astype(np.float32)))
    np.testing.assert_array_equal(net(x[3]), net(whole[3].astype(np.float32)))


def test_overlapping_and_repeated_rows(net: lrgate.Network) -> None:
    signal = np.arange(40, dtype=np.float32) / 8
    windows = np.lib.stride_tricks.sliding_window_view(signal, D)
    np.testing.assert_array_equal(net(windows), net(windows.copy()))
    same = np.broadcast_to(signal[:D], (66, D))
    np.testing.assert_array_equal(net(same), net(same.copy()))


def test_lists_and_tuples(net: lrgate.Network, whole: np.ndarray) -> None:
    expected = net(whole[:3].astype(np.float32))
    x = whole[:3].tolist()
    np.testing.assert_array_equal(net(x), expected)
    np.testing.assert_array_equal(net(tuple(map(tuple, x))), expected)
    np.testing.assert_array_equal(net(x[0]), net(whole[0]))
    assert net(np.zeros((0, D))).shape == (0, K)


def test_one_row_has_no_batch_axis(net: lrgate.Network, whole: np.ndarray) -> None:
    for dtype in (np.float32, np.uint8, np.int64):
        row = whole[5].astype(dtype)
        assert net(row).shape == (K,)
        np.testing.assert_array_equal(net(row), net(row[None])[0])
        assert net.predict_proba(row).shape == (K,)
        assert net.predict(row) == net.predict(row[None])[0]
        assert np.ndim(net.predict(row)) == 0


def test_one_wide_column() -> None:
    net = make([1, 5, 2])
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    np.testing.assert_array_equal(net(x[:, 1:]), net(x[:, 1:].copy()))
    np.testing.assert_array_equal(net(x[:, 1:][::-1]), net(x[:, 1:].copy())[::-1])


def test_the_input_is_not_written_to(net: lrgate.Network, whole: np.ndarray) -> None:
    x = whole.astype(np.float32)
    net(x), net.predict(x), net.predict_proba(x), net.layer_inputs(x)
    np.testing.assert_array_equal(x, whole)


def test_nan_and_infinity_come_through_conversions(net: lrgate.Network, whole: np.ndarray) -> None:
    for dtype in ("f2", "f4", "f8", ">f4"):
        x = whole.astype(dtype)
        x[4, 2] = np.nan
        y = net(x)
        assert np.isnan(y[4]).all()
        others = np.delete(np.arange(len(x)), 4)
        np.testing.assert_array_equal(y[others], net(whole.astype(np.float32))[others])


# --- scipy.sparse -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8, bool])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "bsr"])
@pytest.mark.parametrize("kind", ["matrix", "array"])
def test_sparse_rows(
    net: lrgate.Network, whole: np.ndarray, dtype: type, form: str, kind: str
) -> None:
    make_one = getattr(sparse, f"{form}_{kind}")
    for n in (0, 1, 9, 70):
        dense = whole[:n].astype(dtype)
        if n == 0 and form in ("dok", "lil", "bsr"):
            continue
        x = make_one(sparse.csr_matrix(dense)) if n else make_one((0, D), dtype=dtype)
        assert_close(net(x), forward(net, dense)[-1])
        assert net(x).shape == (n, K)
        np.testing.assert_array_equal(net.predict(x), np.array(list("abcd"))[net(x).argmax(1)])
        assert net.predict_proba(x).shape == (n, K)


def test_sparse_slices_duplicates_order_and_zeros(net: lrgate.Network) -> None:
    x = sparse.csr_matrix(
        (np.array([1, 2, 4, 0, 3], np.float32), np.array([5, 0, 5, 1, 2]), np.array([0, 3, 5])),
        shape=(2, D),
    )
    dense = np.array([[2, 0, 0, 0, 0, 5, 0], [0, 0, 3, 0, 0, 0, 0]])
    np.testing.assert_array_equal(x.toarray(), dense)
    assert_close(net(x), forward(net, dense)[-1])
    assert_close(net(x[1:]), forward(net, dense[1:])[-1])
    assert not x.has_sorted_indices, "the caller's matrix was changed"
    assert x.nnz == 5


def test_sparse_with_int64_indices(net: lrgate.Network, whole: np.ndarray) -> None:
    x = sparse.csr_array(whole.astype(np.float32))
    x.indices, x.indptr = x.indices.astype(np.int64), x.indptr.astype(np.int64)
    assert_close(net(x), forward(net, whole)[-1])


def test_sparse_with_an_input_map() -> None:
    net = make([D, 20, 3], input_scale=0.5, input_shift=np.arange(D) / 4)
    dense = np.eye(D, dtype=np.float32)[[0, 3, 3, 6]] * 3
    for strategy in ("dense", "skip"):
        same = net.with_strategies([strategy] * 2)
        assert_close(same(sparse.csr_matrix(dense)), forward(same, dense)[-1])


def damaged(**changes: Any) -> sparse.csr_array:
    x = sparse.csr_array(np.eye(3, D, dtype=np.float32))
    for name, value in changes.items():
        setattr(x, name, np.array(value))
    return x


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indices": [0, 1, D]}, f"indices must be from 0 to {D - 1}, got {D}"),
        ({"indices": [0, -1, 2]}, f"indices must be from 0 to {D - 1}, got -1"),
        ({"indptr": [0, 2, 1, 3]}, "indptr must not descend, got 2 then 1 at 1"),
        ({"indptr": [-1, 1, 2, 3]}, "indptr[0] must be at least 0, got -1"),
        ({"indptr": [0, 1, 2, 4]}, "indices must have at least 4 entries, got 3"),
        ({"data": np.ones(2, np.float32)}, "data must have at least 3 entries, got 2"),
    ],
)
def test_a_damaged_csr_is_refused(
    net: lrgate.Network, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as error:
        net(damaged(**changes))
    assert str(error.value) == f"x is not a valid CSR matrix: {message}"


@pytest.mark.parametrize(
    "changes",
    [
        {"indices": np.array([0, 1, 2**32 + 2])},  # 2 where its low 32 bits are all that is read
        {"indices": np.array([0, 1, -(2**32) + 2])},
        {"indptr": np.array([0, 1, 2**32 + 2, 3])},
    ],
)
def test_a_csr_beyond_32_bits_is_refused(net: lrgate.Network, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="x is not a valid CSR matrix"):
        net(damaged(**changes))


def test_a_csr_whose_indptr_has_not_its_rows_is_refused(net: lrgate.Network) -> None:
    for indptr in ([0, 1, 3], [0, 1, 2, 3, 3], [0]):
        x = damaged(indptr=indptr)
        assert x.shape == (3, D)
        for call in (net, net.predict, net.predict_proba, net.layer_inputs):
            with pytest.raises(ValueError, match=r"^x "):
                call(x)


def test_sparse_of_another_kind_or_width_is_refused(net: lrgate.Network) -> None:
    with pytest.raises(
        TypeError, match=r"^x must be a matrix of real numbers, got dtype complex64"
    ):
        net(sparse.csr_matrix(np.eye(2, D, dtype=np.complex64)))
    with pytest.raises(ValueError) as error:
        net(sparse.csr_matrix(np.eye(3, 100)))
    assert str(error.value) == f"x must have shape (n, {D}), got (3, 100)"


# --- refused ------------------------------------------------------------------------------------


def calls(net: lrgate.Network) -> list[Callable[[Any], Any]]:
    """Everything that takes rows."""
    return [net, net.forward, net.predict, net.predict_proba, net.layer_inputs, net.profile]


REFUSED = [
    (np.zeros((2, D), complex), "complex128"),
    (np.zeros((2, D), np.complex64), "complex64"),
    (np.full((2, D), None), "object: None in row 0, column 0"),
    (np.array([[1.5] * D, [*range(D - 1), "7"]], object), f"object: '7' in row 1, column {D - 1}"),
    (np.array([[1j] * D], object), "object: 1j in row 0, column 0"),
    (np.array([[np.timedelta64(1, "s")] * D], object), "object: np.timedelta64(1,'s') in row 0, c"),
    (np.zeros((2, D), "U3"), "<U3"),
    (np.zeros((2, D), "S2"), "|S2"),
    (np.zeros((2, D), "M8[s]"), "datetime64[s]"),
    (np.zeros((2, D), "m8[ms]"), "timedelta64[ms]"),
    (np.zeros((2, D), "V4"), "|V4"),
    (np.zeros((2, D), [("a", "f4")]), "[('a', '<f4')]"),
    ([["1"] * D], "<U1"),
    ([[1j] * D], "complex128"),
    ([[None] * D], "object: None in row 0, column 0"),
    ([{"a": 1}], "object: {'a': 1} at index 0"),
]


@pytest.mark.parametrize(("x", "dtype"), REFUSED, ids=range(len(REFUSED)))
def test_other_dtypes_are_refused(net: lrgate.Network, x: Any, dtype: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in calls(net):
            with pytest.raises(TypeError) as error:
                call(x)
            message = f"x must be an array of real numbers, got dtype {dtype}"
            assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 100), f"(n, {D}), got (3, 100)"),
        ((3, D - 1), f"(n, {D}), got (3, {D - 1})"),
        ((0, 3), f"(n, {D}), got (0, 3)"),
        ((3, 0), f"(n, {D}), got (3, 0)"),
        ((D, 3), f"(n, {D}), got ({D}, 3)"),
        ((D + 1,), f"({D},), got ({D + 1},)"),
        ((0,), f"({D},), got (0,)"),
        ((), f"(n, {D}) or ({D},), got ()"),
        ((2, 3, D), f"(n, {D}) or ({D},), got (2, 3, {D})"),
        ((1, 1, 1, D), f"(n, {D}) or ({D},), got (1, 1, 1, {D})"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float64])
def test_other_shapes_are_refused(
    net: lrgate.Network, shape: tuple[int, ...], message: str, dtype: type
) -> None:
    x = np.zeros(shape, dtype)
    for call in [net, net.forward, net.predict, net.predict_proba, net.layer_inputs]:
        with pytest.raises(ValueError) as error:
            call(x)
        assert str(error.value) == f"x must have shape {message}"


@pytest.mark.parametrize("x", [None, 3.5, "text", {}, object()])
def test_what_is_no_array_is_refused(net: lrgate.Network, x: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^x must "):
        net(x)


def test_ragged_rows_are_refused(net: lrgate.Network) -> None:
    for x, why in [
        ([[1, 2], [3]], "row 0 has 2 values, row 1 has 1 value"),
        ([[1, 2], 3], "row 0 has 2 values, row 1 is a single value"),
        ([[[1, 2], [3]]], ""),  # NumPy's own words
    ]:
        for call in calls(net):
            with pytest.raises(ValueError) as error:
                call(x)
            message = f"x must be a rectangular array of real numbers: {why}"
            assert str(error.value).startswith(message)


# --- out= ---------------------------------------------------------------------------------------


def test_out_is_filled_and_returned(net: lrgate.Network, whole: np.ndarray) -> None:
    x = whole.astype(np.float32)
    for n in (0, 1, 9, 70):
        out = np.full((n, K), np.nan, np.float32)
        assert net.forward(x[:n], out=out) is out
        np.testing.assert_array_equal(out, net(x[:n]))
    row = np.full(K, np.nan, np.float32)
    assert net.forward(x[0], out=row) is row
    np.testing.assert_array_equal(row, net(x[0]))
    for other in (whole, sparse.csr_matrix(x)):
        out = np.full((70, K), np.nan, np.float32)
        net.forward(other, out=out)
        np.testing.assert_array_equal(out, net(other))


def read_only() -> np.ndarray:
    out = np.zeros((9, K), np.float32)
    out.flags.writeable = False
    return out


def misaligned() -> np.ndarray:
    return np.zeros(9 * K * 4 + 1, np.uint8)[1:].view(np.float32).reshape(9, K)


OUT_REFUSED = [
    ([[0.0] * K] * 9, TypeError, "out must be a NumPy array, got list"),
    (np.zeros((9, K)), TypeError, "out must have dtype float32, got float64"),
    (np.zeros((9, K), ">f4"), TypeError, "out must have dtype float32, got >f4"),
    (np.zeros((9, K), np.int32), TypeError, "out must have dtype float32, got int32"),
    (np.zeros((8, K), np.float32), ValueError, f"out must have shape (9, {K}), got (8, {K})"),
    (np.zeros((K, 9), np.float32), ValueError, f"out must have shape (9, {K}), got ({K}, 9)"),
    (np.zeros(9 * K, np.float32), ValueError, f"out must have shape (9, {K}), got ({9 * K},)"),
    (np.zeros((K, 9), np.float32).T, ValueError, "out must be c-contiguous"),
    (np.zeros((18, K), np.float32)[::2], ValueError, "out must be c-contiguous"),
    (read_only(), ValueError, "out must be writeable"),
    (misaligned(), ValueError, "out must be aligned"),
]  # fmt: skip


@pytest.mark.parametrize(("out", "kind", "message"), OUT_REFUSED)
def test_other_outs_are_refused(
    net: lrgate.Network, whole: np.ndarray, out: Any, kind: type[Exception], message: str
) -> None:
    before = np.array(out)
    with pytest.raises(kind) as error:
        net.forward(whole[:9].astype(np.float32), out=out)
    assert str(error.value) == message
    np.testing.assert_array_equal(out, before)


def test_out_of_one_row_has_no_batch_axis(net: lrgate.Network, whole: np.ndarray) -> None:
    with pytest.raises(ValueError) as error:
        net.forward(whole[0], out=np.zeros((1, K), np.float32))
    assert str(error.value) == f"out must have shape ({K},), got (1, {K})"


def test_out_stays_as_it_was_where_x_is_refused(net: lrgate.Network) -> None:
    out = np.full((2, K), 5, np.float32)
    with pytest.raises(ValueError):
        net.forward(np.zeros((2, D + 1), np.float32), out=out)
    with pytest.raises(ValueError):
        net.forward(np.zeros((2, D), np.float32), out=out, num_threads=0)
    assert (out == 5).all()


@pytest.mark.parametrize("shift", range(-12, 13))
def test_out_may_overlap_x(shift: int) -> None:
    net = make([5, 30, 5])
    memory = np.random.default_rng(1).normal(size=600).astype(np.float32)
    x = memory[20 : 20 + 80 * 5].reshape(80, 5)
    out = memory[20 + shift : 20 + shift + 80 * 5].reshape(80, 5)
    expected = net(x.copy())
    np.testing.assert_array_equal(net.forward(x, out=out), expected)


@pytest.mark.parametrize("name", ["data", "indices", "indptr"])
def test_out_may_overlap_any_part_of_a_csr(name: str) -> None:
    net = make([5, 30, 5])
    x = sparse.csr_matrix(np.eye(5, dtype=np.float32))
    memory = np.zeros(25, np.float32)
    part = memory[:5] if name == "data" else memory.view(np.int32)[: len(getattr(x, name))]
    part[:] = getattr(x, name)
    expected = net(x)
    setattr(x, name, part)
    np.testing.assert_array_equal(net.forward(x, out=memory.reshape(5, 5)), expected)


def test_out_may_overlap_bytes() -> None:
    net = make([8, 30, 2])
    memory = np.random.default_rng(1).integers(0, 255, 80 * 8).astype(np.uint8)
    x = memory.reshape(80, 8)
    expected = net(x.copy())
    out = memory.view(np.float32).reshape(80, 2)
    np.testing.assert_array_equal(net.forward(x, out=out), expected)

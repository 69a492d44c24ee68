"""Accepted forms of `x` and `out`, and the errors for all other values."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import lrgate
from lrgate import inputs
from lrgate.inputs import checked_rows, real_array
from oracle import assert_close, forward, gated, make

D, K = 7, 4


@pytest.fixture(scope="module", params=["dense", "skip", "gate"])
def net(request: pytest.FixtureRequest) -> lrgate.Network:
    net = gated(make([D, 40, 20, K], classes=["a", "b", "c", "d"]))
    return net.with_strategies([request.param, request.param, "dense"])


@pytest.fixture(scope="module")
def whole() -> np.ndarray:
    """Numbers that every dtype can hold: 0 to 100, many of them 0."""
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
    """The same numbers in different memory layouts."""
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
        {"indices": np.array([0, 1, 2**32 + 2])},  # reads as 2 if only the low 32 bits are used
        {"indices": np.array([0, 1, -(2**32) + 2])},
        {"indptr": np.array([0, 1, 2**32 + 2, 3])},
    ],
)
def test_a_csr_beyond_32_bits_is_refused(net: lrgate.Network, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="x is not a valid CSR matrix"):
        net(damaged(**changes))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
def test_large_rows_are_converted_in_blocks(order: Any, dtype: str) -> None:
    rows = np.random.default_rng(0).normal(scale=99, size=(7001, 90)).astype(dtype, order=order)
    narrow = inputs.narrowed(rows)
    assert narrow.dtype == np.float32
    assert narrow.flags.c_contiguous
    assert np.array_equal(narrow, rows.astype(np.float32))


@pytest.mark.parametrize("name", ["data", "indices", "indptr"])
@pytest.mark.parametrize(
    ("part", "kind", "message"),
    [
        (None, TypeError, "an array, got NoneType"),
        (np.ones((2, 2), np.int32), ValueError, "1-D, got shape (2, 2)"),
    ],
)
def test_a_csr_of_other_parts_is_refused(
    net: lrgate.Network, name: str, part: Any, kind: type[Exception], message: str
) -> None:
    x = sparse.csr_array(np.eye(3, D, dtype=np.float32))
    setattr(x, name, part)
    for call in (net, net.predict, net.quantize):
        with pytest.raises(kind) as error:
            call(x)
        assert str(error.value) == f"x is not a valid CSR matrix: {name} must be {message}"


@pytest.mark.parametrize("activation", ["relu", ("clipped_relu", 6.0)])
@pytest.mark.parametrize("strategy", ["dense", "skip"])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinity_in_f32_is_that_of_numpy(activation: Any, strategy: str, value: float) -> None:
    rng = np.random.default_rng(0)
    first, last = rng.normal(size=(30, D)), rng.normal(size=(3, 30))
    layers = [(first, None), (np.abs(rng.normal(size=(30, 30))), None), (last, None)]
    net = lrgate.Network.from_layers(layers, [activation, activation, "identity"])
    x = rng.normal(size=(5, D)).astype(np.float32)
    x[1, 2] = x[3, 0] = value
    x[3, 1] = -value
    y = x
    with np.errstate(invalid="ignore"):
        for layer in net.layers:
            y = y @ layer.weight.T
            if layer.activation.name != "identity":
                y = np.minimum(np.maximum(y, 0), np.inf if activation == "relu" else 6)
    got = net.with_strategies([strategy] * 3)(x)
    assert np.isnan(y).any() == np.isnan(got).any()
    np.testing.assert_allclose(got, y, rtol=1e-4, atol=1e-4, equal_nan=True)
    sparse_rows = sparse.csr_array(x)
    np.testing.assert_allclose(net(sparse_rows), y, rtol=1e-4, atol=1e-4, equal_nan=True)


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


# --- arrays of objects, masks -------------------------------------------------------------------


def test_objects_that_are_numbers_are_taken(net: lrgate.Network, whole: np.ndarray) -> None:
    expected = net(whole.astype(np.float32))
    mixed = whole.astype(object)
    mixed[:, 0] = [Decimal(int(value)) for value in whole[:, 0]]
    mixed[:, 1] = [Fraction(int(value)) for value in whole[:, 1]]
    mixed[:, 2] = [np.float16(value) for value in whole[:, 2]]
    mixed[:, 3] = [np.uint8(value) for value in whole[:, 3]]
    for x in (whole.astype(object), whole.astype(float).astype(object), mixed, mixed.tolist()):
        for call in (net, net.forward):
            np.testing.assert_array_equal(call(x), expected)
        assert net.predict(x).tolist() == net.predict(whole).tolist()
        np.testing.assert_array_equal(net.layer_inputs(x)[0], whole)
    np.testing.assert_array_equal(net(mixed[0]), expected[0])
    flags = (whole > 0).astype(object)
    np.testing.assert_array_equal(net(flags), net((whole > 0).astype(np.float32)))


def test_a_number_beyond_float64_is_refused(net: lrgate.Network) -> None:
    with pytest.raises(ValueError, match=r"^x must fit float64: "):
        net([[10**400] * D])


def masked_calls(net: lrgate.Network) -> list[Callable[[Any], Any]]:
    calls = [net, net.forward, net.predict, net.predict_proba, net.layer_inputs, net.profile]
    return [*calls, net.quantize, net.with_probe, net.monitor(1), lambda x: lrgate.optimize(net, x)]


def test_masked_cells_are_refused(net: lrgate.Network, whole: np.ndarray) -> None:
    mask = np.zeros(whole.shape, bool)
    mask[5, 2] = mask[6, 3] = True
    for dtype, cast in ((np.float32, ""), (np.int64, ".astype(float)")):
        x = np.ma.array(whole.astype(dtype), mask=mask)
        message = (
            "x must have no masked cells, got 2, the first in row 5, column 2: fill them, for "
            f"example by x{cast}.filled(numpy.nan)"
        )
        for call in masked_calls(net):
            with pytest.raises(TypeError) as error:
                call(x)
            assert str(error.value) == message
    with pytest.raises(TypeError, match="got 1, the first at index 2"):
        net(x[5])
    with pytest.raises(TypeError, match=r"^x\[1\] must have no masked cells"):
        net([x[4], x[5]])
    filled = x.astype(float).filled(np.nan)
    assert np.isnan(net(filled)[[5, 6]]).all()


def test_a_mask_that_masks_nothing_is_no_matter(net: lrgate.Network, whole: np.ndarray) -> None:
    expected = net(whole.astype(np.float32))
    for mask in (np.ma.nomask, False, np.zeros(whole.shape, bool)):
        np.testing.assert_array_equal(net(np.ma.array(whole, mask=mask)), expected)


def test_masks_elsewhere_are_refused(net: lrgate.Network) -> None:
    weight = np.ma.array(np.ones((2, 3)), mask=[[0, 0, 1], [0, 0, 0]])
    for build in (
        lambda: lrgate.Network.from_layers([(weight, np.zeros(2))]),
        lambda: lrgate.Network.from_layers([(np.ones((3, 2)), weight[0])]),
        lambda: lrgate.Network.from_layers([(np.ones((2, 3)), None)], input_shift=weight[0]),
        lambda: lrgate.Network.from_layers([(np.ones((2, 3)), None)], input_range=weight),
        lambda: net.with_units({0: np.ma.array([0, 1], mask=[0, 1])}),
        lambda: lrgate.estimators.whitened(net.layers[0], np.ma.masked_equal(np.eye(D), 1)),
    ):
        with pytest.raises(TypeError, match="must have no masked cells, got "):
            build()


class Deviating:
    """An object with the values of an array."""

    def __init__(self, array: np.ndarray, error: Exception | None = None) -> None:
        self.array, self.error = array, error

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self.error is not None:
            raise self.error
        return self.array


class Subclass(np.ndarray):
    pass


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_what_has_values_is_taken(net: lrgate.Network, whole: np.ndarray, tmp_path: Path) -> None:
    x = whole.astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    expected = net(x)
    for same in (
        Deviating(x),
        memoryview(x),
        np.asmatrix(x),
        x.view(Subclass),
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        [*x],
        [Deviating(row) for row in x],
    ):
        np.testing.assert_array_equal(net(same), expected)
        np.testing.assert_array_equal(net.layer_inputs(same)[0], x)
    assert type(net(np.asmatrix(x))) is np.ndarray
    assert type(net.predict(x.view(Subclass))) is np.ndarray
    assert net(bytearray(D)).shape == (K,)


def test_what_refuses_to_be_an_array_is_refused(net: lrgate.Network, whole: np.ndarray) -> None:
    # As a PyTorch tensor that requires a gradient, or is on a GPU.
    words = "call detach() first"
    for error in (RuntimeError(words), TypeError(words), AttributeError(words)):
        for call in calls(net):
            with pytest.raises(
                TypeError, match=rf"^x must be an array of real numbers: {words[:4]}"
            ):
                call(Deviating(whole, error))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            {"obs": np.zeros((2, D)), "mask": None},
            "x must be an array, got a dict with the keys 'obs', 'mask': pass one of its values, "
            "as x['obs']",
        ),
        ({}, "x must be an array, got an empty dict"),
        ({1, 2}, "x must be an array of real numbers, got set"),
        (None, "x must be an array of real numbers, got NoneType"),
        ((i for i in range(3)), "x must be an array of real numbers, got generator"),
        ("text", "x must be an array of real numbers, got dtype <U4"),
        (b"text", "x must be an array of real numbers, got dtype |S4"),
    ],
    ids=range(7),
)
def test_what_is_no_array_is_named(net: lrgate.Network, x: Any, message: str) -> None:
    for call in (*calls(net), net.quantize, net.with_probe):
        with pytest.raises(TypeError) as error:
            call(x)
        assert str(error.value) == message


# --- tables -------------------------------------------------------------------------------------


def frame() -> Any:
    """Columns of all kinds that scikit-learn accepts, too, with missing values."""
    pd = pytest.importorskip("pandas")
    return pd.DataFrame(
        {
            "float": [30.5, 41.0, np.nan],
            "bool": [True, False, True],
            "Int64": pd.array([1, None, 3], dtype="Int64"),
            "boolean": pd.array([True, None, False], dtype="boolean"),
            "Float64": pd.array([0.5, None, 2.5], dtype="Float64"),
            "category": pd.Categorical([7, 9, None]),
            "objects": pd.Series([1, 2.5, None], dtype=object),
        }
    )


VALUES = np.array(
    [
        [30.5, 1, 1, 1, 0.5, 7, 1],
        [41.0, 0, np.nan, np.nan, np.nan, 9, 2.5],
        [np.nan, 1, 3, 0, 2.5, np.nan, np.nan],
    ]
)


def test_columns_that_hold_numbers_are_taken(net: lrgate.Network) -> None:
    x = frame()
    np.testing.assert_array_equal(real_array(x), VALUES)
    np.testing.assert_array_equal(net(x), net(VALUES))
    np.testing.assert_array_equal(net.predict_proba(x), net.predict_proba(VALUES))
    np.testing.assert_array_equal(net.layer_inputs(x)[0], VALUES.astype(np.float32))
    labels = net.predict(x.iloc[:1])
    assert labels.tolist() == net.predict(VALUES[:1]).tolist()
    assert net.predict(x.iloc[0]) == labels[0]
    with pytest.raises(ValueError, match="NaN"):
        net.predict(x)


def test_columns_are_taken_as_scikit_learn_takes_them() -> None:
    validation = pytest.importorskip("sklearn.utils.validation")
    x = frame()
    for columns in (["bool", "float"], ["Int64"], ["boolean", "bool"], list(x.columns)):
        expected = validation.check_array(x[columns], ensure_all_finite="allow-nan")
        np.testing.assert_array_equal(real_array(x[columns]), expected.astype(float))


def test_other_forms_of_a_table() -> None:
    pd = pytest.importorskip("pandas")
    x = pd.get_dummies(pd.DataFrame({"age": [30.0, 41], "city": ["x", "y"], "n": [1, 2]}))
    expected = [[30, 1, 1, 0], [41, 2, 0, 1]]
    sparse_columns = x.astype({"city_x": pd.SparseDtype(bool), "n": pd.SparseDtype(int)})
    for same in (
        x,
        x.astype(object),
        x.convert_dtypes(),
        x.astype("Float32"),
        sparse_columns,
        x.set_axis(["a", "a", 3, None], axis=1).set_axis([1, 1]),
        x.astype({"n": "category"}),
        x.astype({"n": ">i2", "age": "float16"}),
    ):
        assert real_array(same).tolist() == expected
        assert real_array(same.iloc[1]).tolist() == expected[1]
    assert real_array(x.astype(np.uint8)).dtype == np.uint8
    assert real_array(x.astype(np.float32)).dtype == np.float32
    assert real_array(x.iloc[:0]).shape == (0, 4)
    assert real_array(x[[]]).shape == (2, 0)
    assert real_array(pd.array([1, None, 3], dtype="Int32"))[[0, 2]].tolist() == [1, 3]
    missing = pd.DataFrame({"a": [1, pd.NA, None, np.nan]}, dtype=object)
    np.testing.assert_array_equal(real_array(missing)[:, 0], [1, np.nan, np.nan, np.nan])


@pytest.mark.parametrize(
    ("values", "dtype", "shown"),
    [
        (["x", "y"], object, "object"),
        (["x", "y"], "string", "string"),
        (["x", "y"], "category", "category of "),
        (["1", "2"], object, "object"),
        ([1, "y"], object, "object"),
        ([1, [2]], object, "object"),
        ([1j, 2], complex, "complex128"),
        ([1j, 2], object, "object"),
        (["2020-01-01", "2021-01-01"], "datetime64[ns]", "datetime64[ns]"),
        (["2020-01-01", "2021-01-01"], "datetime64[ns, UTC]", "datetime64[ns, UTC]"),
        (["2020-01", "2021-01"], "period[M]", "period[M]"),
        ([1, 2], "timedelta64[ns]", "timedelta64[ns]"),
    ],
)
def test_other_columns_are_refused_by_name(
    net: lrgate.Network, values: Any, dtype: Any, shown: str
) -> None:
    pd = pytest.importorskip("pandas")
    x = pd.DataFrame(np.zeros((2, D))).rename(columns={3: "city", 5: ("a", 1)})
    x["city"] = pd.Series(values, dtype=dtype)
    column = re.escape(f'x must be an array of real numbers: column "city" has dtype {shown}')
    for call in (*calls(net), net.quantize):
        with pytest.raises(TypeError, match=f"^{column}.*: encode it as numbers first$"):
            call(x)
    x.isetitem(5, pd.Series(values, dtype=dtype))
    with pytest.raises(TypeError, match=r'^x .* column "city" has .* \(and 1 more column\)$'):
        net(x)
    with pytest.raises(TypeError, match=r"column \('a', 1\) has dtype "):
        net(x.drop(columns="city"))
    with pytest.raises(TypeError, match=r"^x must be an array of real numbers, got dtype "):
        real_array(x["city"])


def test_tables_of_polars(net: lrgate.Network) -> None:
    pl = pytest.importorskip("polars")
    x = pl.DataFrame(
        {
            "ints": [1, 2, None],
            "bools": [True, None, False],
            "flags": [True, False, True],
            "floats": [0.5, None, 2.5],
            "decimals": [Decimal("1.5"), None, Decimal("2.5")],
            "nothing": [None, None, None],
            "bytes": pl.Series([1, 2, 3], dtype=pl.UInt8),
        }
    )
    nan = np.nan
    expected = [
        [1, 1, 1, 0.5, 1.5, nan, 1],
        [2, nan, 0, nan, nan, nan, 2],
        [nan, 0, 1, 2.5, 2.5, nan, 3],
    ]
    np.testing.assert_array_equal(real_array(x), expected)
    np.testing.assert_array_equal(net(x), net(expected))
    np.testing.assert_array_equal(real_array(x["bools"]), [1, nan, 0])
    assert real_array(x[["bytes"]]).dtype == np.uint8
    assert real_array(pl.Series([1, 2**100], dtype=pl.Int128)).tolist() == [1, 2.0**100]
    with pytest.raises(TypeError, match=r"got a LazyFrame: pass x.collect\(\)$"):
        real_array(x.lazy())
    for values, dtype in (("x", pl.String), ("x", pl.Categorical), (0, pl.Date), (0, pl.Duration)):
        other = x.with_columns(ints=pl.Series([values] * 3, dtype=dtype))
        with pytest.raises(TypeError, match=r'column "ints" has dtype .*: encode it as numbers'):
            net(other)


def test_tables_of_pyarrow(net: lrgate.Network) -> None:
    pa = pytest.importorskip("pyarrow")
    columns = {
        "ints": pa.array([1, 2, None]),
        "bools": pa.array([True, None, False]),
        "flags": pa.array([True, False, True]),
        "floats": pa.array([0.5, None, 2.5]),
        "decimals": pa.array([Decimal("1.5"), None, Decimal("2.5")]),
        "nothing": pa.nulls(3),
        "codes": pa.array([7, 9, 7]).dictionary_encode(),
    }
    nan = np.nan
    expected = [
        [1, 1, 1, 0.5, 1.5, nan, 7],
        [2, nan, 0, nan, nan, nan, 9],
        [nan, 0, 1, 2.5, 2.5, nan, 7],
    ]
    for x in (pa.table(columns), pa.record_batch(columns), pa.table(columns).slice(0, 3)):
        np.testing.assert_array_equal(real_array(x), expected)
        np.testing.assert_array_equal(net(x), net(expected))
    np.testing.assert_array_equal(real_array(columns["bools"]), [1, nan, 0])
    for other in (pa.array(["x"] * 3), pa.array(["x"] * 3).dictionary_encode()):
        with pytest.raises(TypeError, match=r'column "ints" has dtype .*: encode it as numbers'):
            net(pa.table(columns | {"ints": other}))


# --- stored rows and calibration rows -----------------------------------------------------------


def test_values_that_do_not_fit_are_told_from_those_that_are_not_finite() -> None:
    x = np.ones((6, D))
    x[2, 4], x[5, 1] = 1e300, -1e39
    message = "x must fit float32, got 1e+300 in row 2, column 4, and others in 1 more row"
    nan = x.copy()
    nan[1, [3, 6]] = np.nan, np.inf
    not_a_number = "x must be finite, got NaN in row 1, column 3, and others in 2 more rows"
    infinite = np.where(np.isnan(nan), 0, nan)
    infinity = "x must be finite, got inf in row 1, column 6, and others in 2 more rows"
    for given, expected in ((x, message), (nan, not_a_number), (infinite, infinity)):
        for same in (
            given,
            given.tolist(),
            given.astype(object),
            sparse.csr_array(given),
            sparse.csc_matrix(given),
            sparse.coo_array(given),
        ):
            with pytest.raises(ValueError) as error:
                checked_rows(same, D)
            assert str(error.value) == expected
    with pytest.raises(ValueError, match=r"^x must fit float32, got -1e\+39 in row 0, column 1$"):
        checked_rows(x[5:], D)


def test_sparse_rows_stay_sparse() -> None:
    x = sparse.random_array((50, 2_000_000), density=1e-6, format="csc", random_state=0)
    taken = checked_rows(x, 2_000_000)  # 400 MB if it were dense
    assert sparse.issparse(taken) and taken.format == "csr"
    assert taken.dtype == np.float32
    assert (taken != x.astype(np.float32)).nnz == 0


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_values_beyond_float32_are_refused(net: lrgate.Network) -> None:
    """float64 rows, dense or sparse, in any byte order; infinities that were given pass."""
    x = np.random.default_rng(0).normal(size=(6, D))
    x[4, 3], x[4, 1], x[1, 2] = 1e300, -1e39, np.inf
    message = r"^x must fit float32, got -1e\+39 in row 4, column 1$"
    unsorted = sparse.csr_array(x)
    last = slice(*unsorted.indptr[4:6])
    unsorted.indices[last], unsorted.data[last] = (
        unsorted.indices[last][::-1].copy(),
        unsorted.data[last][::-1].copy(),
    )
    wider = (x, x.astype(">f8"), np.asfortranarray(x), x.astype(np.longdouble), x.tolist())
    for given in (*wider, sparse.csr_array(x), sparse.csc_matrix(x), unsorted):
        for call in calls(net):
            with pytest.raises(ValueError, match=message):
                call(given)
    with pytest.raises(ValueError, match=r"^x must fit float32, got 1e\+300 in row 0, column 3$"):
        net(np.abs(x[4]) * (np.arange(D) != 1))
    others = r"got 1e\+39 in row 0, column 0, and others in 2 more rows$"
    with pytest.raises(ValueError, match=others):
        net(np.where(np.arange(D) == 0, 1e39, x[[0, 2, 3]]))
    exact = np.finfo(np.float32).max.astype(np.float64)
    for value in (np.inf, -np.inf, np.nan, exact, -exact):
        rows = np.where(np.arange(D) == 0, value, x[:1])
        same = np.array_equal(net.layer_inputs(rows)[0], rows.astype(np.float32), equal_nan=True)
        assert same, value
        net.layer_inputs(sparse.csr_array(rows))


def calls(net: lrgate.Network) -> list[Callable[[Any], Any]]:
    """All functions that take rows."""
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
        ([[[1, 2], [3]]], ""),  # NumPy's message
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


def test_integers_and_numbers_are_checked_in_one_way() -> None:
    assert inputs.checked_integer(np.uint8(7), "n", 1, 7) == 7
    assert inputs.checked_number(Fraction(1, 4), "n") == inputs.checked_share(Decimal("0.25"), "n")
    span = np.timedelta64(1, "s")
    for value in (True, np.True_, 1.0, "1", None, [1]):
        with pytest.raises(TypeError, match=r"^n must be an integer, got "):
            inputs.checked_integer(value, "n")
    for value in (True, np.True_, "1", None, 1j, span):
        assert not inputs.is_real(value)
        with pytest.raises(TypeError, match=r"^n must be a number, got "):
            inputs.checked_number(value, "n")
    for value, expected in ((0, "at least 1"), (-1, "at least 1")):
        with pytest.raises(ValueError, match=rf"^n must be {expected}, got {value}$"):
            inputs.checked_integer(value, "n")
    with pytest.raises(ValueError, match=r"^n must be from 0 to 2, got 3$"):
        inputs.checked_integer(3, "n", 0, 2)
    for value in (-0.1, np.float32(1.5), float("nan")):
        with pytest.raises(ValueError, match=r"^n must be from 0 to 1, got "):
            inputs.checked_share(value, "n")

"""Labels of classifiers, targets, rows with NaN outputs, and multilabel networks."""

from __future__ import annotations

import json
import pickle
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrgate
from lrgate import Network
from lrgate.drift.monitor import Monitor
from lrgate.inputs import label_array
from lrgate.model import Activation, Layer, Model
from lrgate.network.tasks import for_targets
from lrgate.planner.arguments import checked_targets
from oracle import gated, make, rows

EYE = [(np.eye(3), np.zeros(3))]
D = 20


def classifier(**options: Any) -> Network:
    return make([D, 30, 3], task="classification", **options)


# --- classes ------------------------------------------------------------------------------------

MIXED = [
    ([0, "b", "c"], "0 at index 0"),
    (["a", 1, "c"], "1 at index 1"),
    ((True, "b", "c"), "True at index 0"),
    ([float("nan"), "b", "c"], "nan at index 0"),
    ([None, "b", "c"], "None at index 0"),
    ([np.int64(7), "b", "c"], "np.int64(7) at index 0"),
    (["a", b"b", "c"], "b'b' at index 1"),
    ([b"a", b"b", b"c"], "b'a' at index 0"),
    (np.array([0, "b", "c"], object), "0 at index 0"),
    (np.array(["a", "b", None], object), "None at index 2"),
    (np.array([0, None, 2], object), "None at index 1"),
    ([0, 1, 2**70], "1180591620717411303424 at index 2"),
    ([1j, "b", "c"], "1j at index 0"),
]


@pytest.mark.parametrize(("classes", "got"), MIXED, ids=range(len(MIXED)))
def test_classes_of_mixed_kinds_are_refused(classes: Any, got: str) -> None:
    message = f"classes must be all str, or all numbers within int64 or float64, got {got}"
    layers = (Layer(np.eye(3), np.zeros(3), Activation("identity")),)
    for build in (
        lambda: Network.from_layers(EYE, classes=classes),
        lambda: Model(layers, classes=classes),
    ):
        with pytest.raises(TypeError) as error:
            build()
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("classes", "kind", "message"),
    [
        ([0.5, 1, np.nan], ValueError, "classes must be finite, got nan"),
        (np.array([0, np.nan, 1], object), ValueError, "classes must be finite, got nan"),
        (["a", "b", "c\0"], ValueError, r"classes must not end in a NUL character, .*'c\\x00' at"),
        (np.array(["a\0", "b", "c"], object), ValueError, "classes must not end in a NUL "),
        ([2**53 + 1, 0.5, 1], ValueError, "classes must not mix .* got 9007199254740993 at index"),
        ([2**63 - 1, -0.5, 1], ValueError, "classes must not mix floats with integers that "),
        (np.array([Fraction(1, 2), 2**53 + 1, 2], object), ValueError, "classes must not mix "),
        (np.array([2**63, 1, 2], np.uint64), ValueError, "classes must fit int64, got "),
        ({"a", "b", "c"}, TypeError, "classes must be a sequence or an array, got set"),
        ({0: "a", 1: "b", 2: "c"}, TypeError, "classes must be a sequence or an array, got dict"),
        ("abc", ValueError, r"classes must have shape \(k,\), got \(\)"),
        ([["a"], ["b", "c"]], TypeError, "classes must be an array: row 0 has 1 value, row 1 has "),
        (np.ma.array([1, 2, 3], mask=[0, 1, 0]), TypeError, "classes must have no masked cells"),
        (["a", "b", "a"], ValueError, "classes must be distinct, got 'a' twice"),
        ([True, 1, 0], ValueError, "classes must be distinct, got 1 twice"),
    ],
    ids=range(15),
)
def test_classes_that_numpy_would_change_are_refused(
    classes: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=f"^{message}"):
        Network.from_layers(EYE, classes=classes)


@pytest.mark.parametrize(
    ("classes", "dtype"),
    [
        (np.array([3, -1, 2], np.int8), np.int64),
        (np.array([3, 1, 2], np.uint32), np.int64),
        (np.array([3, 1, 2], object), np.int64),
        ([2**53 + 1, 2**53, 2**53 - 1], np.int64),
        ([0.5, 1, 2**53], np.float64),
        (np.array([0.5, 0.25, 2], np.float32), np.float64),
        (["a\0b", "b", "longer"], "<U6"),
        (np.array(["x", "y", "z"], object), "<U1"),
        (np.array(["x", "yy", "z"], np.dtypes.StringDType()), "<U2"),
        (range(3), np.int64),
    ],
    ids=range(10),
)
def test_classes_of_one_kind_are_kept(classes: Any, dtype: Any, tmp_path: Path) -> None:
    net = Network.from_layers(EYE, classes=classes)
    net.save(tmp_path / "net.npz")
    wanted = list(classes)
    for each in (net, pickle.loads(pickle.dumps(net)), Network.load(tmp_path / "net.npz")):  # noqa: S301
        assert each.classes is not None
        assert (each.classes.tolist(), each.classes.dtype) == (wanted, np.dtype(dtype))
        assert each.predict(np.eye(3)).tolist() == wanted


def test_classes_may_be_columns() -> None:
    pandas = pytest.importorskip("pandas")
    for column in (
        pandas.Series(["a", "b", "c"]),
        pandas.Series(["a", "b", "c"], dtype="string", index=[5, 6, 7]),
        pandas.Series(["a", "b", "c"], dtype="category"),
        pandas.Index(["a", "b", "c"]),
        pandas.CategoricalIndex(["a", "b", "c"]),
    ):
        net = Network.from_layers(EYE, classes=column)
        assert net.predict(np.eye(3)).tolist() == ["a", "b", "c"]
    net = Network.from_layers(EYE, classes=pandas.Series([2**53 + 1, 2, 3], dtype="Int64"))
    assert net.predict(np.eye(3)).tolist() == [2**53 + 1, 2, 3]
    with pytest.raises(TypeError, match=r"^classes must be all str, .* at index 1$"):
        Network.from_layers(EYE, classes=pandas.Series(["a", None, "c"]))


# --- targets ------------------------------------------------------------------------------------


def test_targets_are_taken_from_columns_of_all_kinds() -> None:
    pandas = pytest.importorskip("pandas")
    words = classifier(classes=["ant", "bee", "cat"])
    numbers = classifier(classes=[10, 20, 2**53 + 1])
    labels = ["cat", "ant", "ant", "bee"]
    expected = [2, 0, 0, 1]
    for dtype in (object, "string", "category", "str"):
        column = pandas.Series(labels, index=[9, 8, 7, 6]).astype(dtype)
        for y in (column, pandas.Index(column)):
            assert checked_targets(words, label_array(y), 4).tolist() == expected
    for dtype in ("Int64", "category", object, "int64", "UInt64"):
        column = pandas.Series([2**53 + 1, 10, 10, 20]).astype(dtype)
        assert checked_targets(numbers, label_array(column), 4).tolist() == expected
    two = make([D, 1], task="classification", classes=[False, True])
    for dtype in ("boolean", bool, object):
        column = pandas.Series([True, False]).astype(dtype)
        assert checked_targets(two, label_array(column), 2).tolist() == [1, 0]


def test_whole_floats_are_labels() -> None:
    """As in scikit-learn; a column of integers with a missing value was once one of floats."""
    net = make([D, 30, 3])
    y = np.array([0.0, 2.0, 1.0, 2.0], np.float32)
    made = for_targets(net, y)
    assert made.task == "classification" and made.predict(rows(1, D)).dtype == np.int64
    assert checked_targets(made, y, 4).tolist() == [0, 2, 1, 2]
    made = for_targets(net, np.array([7.0, -1.0, 2.0**53]))
    assert made.classes is not None and made.classes.tolist() == [-1, 7, 2**53]
    assert made.classes.dtype == np.int64
    for value in (0.5, np.nan, np.inf, 2.0**54):
        with pytest.raises(ValueError, match=r"^y must have shape \(3, 3\), got \(3,\): labels "):
            for_targets(net, np.array([0.0, value, 1.0]))
    declared = make([D, 30, 3], task="regression")
    with pytest.raises(ValueError, match=r"^y must have shape \(4, 3\) for a regressor, got "):
        for_targets(declared, y)
    one = make([D, 1])
    assert for_targets(one, y).task == "regression"


def test_bool_labels_are_those_of_two_classes() -> None:
    y = np.array([True, False, True])
    for options in ({}, {"classes": [0, 1]}, {"classes": [1, 0]}, {"classes": [False, True]}):
        net = make([D, 2], task="classification", **options)
        classes = [0, 1] if net.classes is None else net.classes.tolist()
        assert checked_targets(net, y, 3).tolist() == [classes.index(value) for value in y]
    for net in (classifier(), make([D, 2], classes=[1, 2])):
        with pytest.raises(
            TypeError, match=r"^y must hold labels like the network's classes, of d"
        ):
            checked_targets(net, y, 3)


def test_missing_labels_are_refused() -> None:
    pandas = pytest.importorskip("pandas")
    words, numbers = classifier(classes=["a", "b", "c"]), classifier()
    for dtype in (object, "string", "category"):
        y = pandas.Series(["a", None, "b"], dtype=dtype)
        with pytest.raises(
            ValueError, match=r"^y must hold the network's classes, got .* in row 1"
        ):
            checked_targets(words, label_array(y), 3)
    for dtype in ("Int64", "category", "float64"):
        y = pandas.Series([0, None, 2], dtype=dtype)
        with pytest.raises(ValueError, match=r"^y must hold the network's classes, got nan in row"):
            checked_targets(numbers, label_array(y), 3)
    regressor = make([D, 1])
    with pytest.raises(ValueError, match=r"^y must be finite, got NaN or infinity in row 1$"):
        checked_targets(regressor, label_array(pandas.Series([1.5, None, 2], dtype="Float64")), 3)


def test_targets_of_mixed_kinds_are_not_turned_into_text() -> None:
    net = classifier(classes=["0", "1", "b"])
    with pytest.raises(ValueError, match=r"^y must hold the network's classes, got 0 in row 1$"):
        checked_targets(net, label_array(["b", 0, "1"]), 3)
    with pytest.raises(ValueError, match="NUL"):
        checked_targets(net, label_array(["b", "0\0", "1"]), 3)
    with pytest.raises(TypeError, match=r"^y must have no masked cells, got 1, the first at index"):
        checked_targets(classifier(), label_array(np.ma.array([0, 1, 2], mask=[0, 0, 1])), 3)
    assert checked_targets(classifier(), label_array(np.ma.array([0, 1, 2])), 3).tolist() == [
        0,
        1,
        2,
    ]


def test_columns_of_polars_and_pyarrow_are_labels() -> None:
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    words = ["b", "a", "b"]
    for y in (
        polars.Series(words),
        polars.Series(words, dtype=polars.Categorical),
        pyarrow.array(words),
        pyarrow.chunked_array([words[:1], words[1:]]),
        pyarrow.array(words).dictionary_encode(),
    ):
        assert label_array(y).tolist() == words
        assert label_array(y).dtype.kind == "U"
    for y in (polars.Series([2**53 + 1, 2]), pyarrow.array([2**53 + 1, 2])):
        assert label_array(y).tolist() == [2**53 + 1, 2]
    for y in (polars.Series(["a", None]), pyarrow.array(["a", None])):
        assert label_array(y).tolist() == ["a", None]
    assert np.isnan(label_array(polars.Series([1, None]))[1])


# --- rows whose outputs are NaN -----------------------------------------------------------------


def with_nan(x: np.ndarray, *at: int) -> np.ndarray:
    x = x.copy()
    x[list(at), 1] = np.nan
    return x


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("form", ["dense", "skip", "gate", "int8"])
def test_a_row_without_an_answer_gets_no_label(outputs: int, form: str) -> None:
    names = ["no", "yes", "maybe"][: max(outputs, 2)]
    net = gated(make([D, 40, outputs], task="classification", classes=names))
    x = rows(70, D)
    net = net.quantize(x) if form == "int8" else net.with_strategies([form, "dense"])
    labels = net.predict(x)
    damaged = with_nan(x, 3, 50)
    rest = "NaN outputs and therefore no label: fill or remove missing values, or pass nan_label="
    with pytest.raises(ValueError, match=f"^rows 3, 50 of x have {rest} as their label$"):
        net.predict(damaged)
    with pytest.raises(ValueError, match=f"^row 0 of x has {rest} as its label$"):
        net.predict(damaged[3])
    others = np.delete(np.arange(70), [3, 50])
    for stand_in in ("maybe" if outputs > 1 else "no", "unknown"):
        marked = net.predict(damaged, nan_label=stand_in)
        assert marked[[3, 50]].tolist() == [stand_in] * 2
        assert marked[others].tolist() == labels[others].tolist()
        assert net.predict(damaged[3], nan_label=stand_in) == stand_in
        assert net.predict(damaged[0], nan_label=stand_in) == labels[0]
        assert net.predict(x, nan_label=stand_in).tolist() == labels.tolist()
    assert np.isnan(net.predict_proba(damaged)[[3, 50]]).all()


def test_infinities_that_cancel_give_no_label() -> None:
    net = Network.from_layers([([[1.0, -1.0], [1.0, 1.0]], None)], task="classification")
    with pytest.raises(ValueError, match="NaN"):
        net.predict([[np.inf, np.inf]])
    # Infinite outputs without NaN have a maximum.
    assert net.predict([[-np.inf, 0.0], [np.inf, 1.0]]).tolist() == [0, 0]


def test_a_regressor_gives_nan() -> None:
    x = with_nan(rows(9, D), 4)
    for outputs in (1, 2):
        y = make([D, 30, outputs]).predict(x)
        assert np.isnan(y[4]).all()
        assert np.isfinite(np.delete(y, 4, axis=0)).all()


@pytest.mark.parametrize(
    ("classes", "stand_in", "dtype"),
    [
        ([0, 1, 2], -1, np.int64),
        ([0, 1, 2], np.int8(-1), np.int64),
        ([0, 1, 2], "none", object),
        ([0, 1, 2], float("nan"), object),
        ([2**53 + 1, 1, 2], 0.5, object),
        ([0, 1, 2], 2**64, object),
        ([0.5, 1.5, 2.5], float("nan"), np.float64),
        ([0.5, 1.5, 2.5], -1, np.float64),
        ([0.5, 1.5, 2.5], 2**53 + 1, object),
        (["a", "b", "c"], "longer", "<U6"),
        (["aaaa", "b", "c"], "", "<U4"),
        (["a", "b", "c"], "n\0", object),
        (["a", "b", "c"], -1, object),
    ],
)
def test_the_stand_in_changes_no_label(classes: list[Any], stand_in: Any, dtype: Any) -> None:
    net, x = classifier(classes=classes), rows(9, D)
    labels = net.predict(with_nan(x, 0, 4), nan_label=stand_in)
    assert labels.dtype == np.dtype(dtype)
    expected = net.predict(x).tolist()
    for i, label in enumerate(labels.tolist()):
        wanted = stand_in if i in (0, 4) else expected[i]
        assert label == wanted or (label != label and wanted != wanted)
    assert net.predict(x, nan_label=stand_in).tolist() == expected


def test_the_stand_in_is_one_label() -> None:
    net, x = classifier(), with_nan(rows(9, D), 2)
    for stand_in in ([1, 2], np.array([1]), ()):
        with pytest.raises(TypeError, match=r"^nan_label must be one label, got "):
            net.predict(x, nan_label=stand_in)
    with pytest.raises(ValueError, match=r"^nan_label needs a network with labels"):
        make([D, 2]).predict(x, nan_label=0)


# --- shapes of regressors -----------------------------------------------------------------------


def test_a_regressor_of_one_output_gives_a_value_per_row() -> None:
    net, x = make([D, 30, 1]), rows(50, D)
    y = net.predict(x)
    assert (y.shape, y.dtype) == ((50,), np.float32)
    np.testing.assert_array_equal(y, net(x)[:, 0])
    one = net.predict(x[0])
    assert isinstance(one, np.float32)
    assert one == y[0]
    assert net.predict(x[:0]).shape == (0,)
    assert net(x).shape == net.forward(x).shape == (50, 1)
    # With shape (n, 1), this would be a mean over (n, n) differences.
    targets = y.astype(np.float64) + 0.25
    assert np.mean((net.predict(x) - targets) ** 2) == pytest.approx(0.0625, rel=1e-4)


def test_a_regressor_of_several_outputs_keeps_them() -> None:
    net, x = make([D, 30, 2]), rows(50, D)
    np.testing.assert_array_equal(net.predict(x), net(x))
    assert net.predict(x[0]).shape == (2,)


# --- probabilities of one output ----------------------------------------------------------------


def test_both_probabilities_of_a_logit_are_exact() -> None:
    net = Network.from_layers([(np.eye(1), [0.0])], classes=["no", "yes"])
    z = np.array([-80.0, -40, -17, -1, 0, 1, 10, 15, 16.7, 17, 20, 40, 80], np.float32)
    proba = net.predict_proba(z[:, None]).astype(np.float64)
    exact = z.astype(np.float64)
    np.testing.assert_allclose(proba[:, 1], 1 / (1 + np.exp(-exact)), rtol=1e-6)
    np.testing.assert_allclose(proba[:, 0], 1 / (1 + np.exp(exact)), rtol=1e-6)
    assert (proba > 0).all()
    np.testing.assert_array_equal(net.predict_proba(z[:1]), proba[0].astype(np.float32))
    assert net.predict_proba([[np.inf], [-np.inf]]).tolist() == [[0.0, 1.0], [1.0, 0.0]]


# --- several labels -----------------------------------------------------------------------------


def test_several_sigmoids_are_labels_of_their_own() -> None:
    net = make([D, 30, 4], last="sigmoid")
    assert (net.task, net.classes) == ("multilabel", None)
    assert "multilabel" in repr(net)
    x = rows(60, D)
    labels, proba = net.predict(x), net.predict_proba(x)
    assert (labels.shape, labels.dtype) == ((60, 4), np.int64)
    np.testing.assert_array_equal(labels, net(x) > 0.5)
    np.testing.assert_array_equal(proba, net(x))
    assert len(set(labels.sum(axis=1).tolist())) > 2, "rows have none, one and several labels"
    np.testing.assert_array_equal(net.predict(x[0]), labels[0])
    np.testing.assert_array_equal(net.predict_proba(x[0]), proba[0])
    assert net.predict(x[:0]).shape == (0, 4)


def test_logits_may_be_labels_too() -> None:
    sigmoids = make([D, 30, 4], last="sigmoid")
    layers = [(layer.weight, layer.bias) for layer in sigmoids.layers]
    net = Network.from_layers(layers, task="multilabel")
    x = rows(60, D)
    np.testing.assert_array_equal(net.predict(x), net(x) > 0)
    np.testing.assert_allclose(net.predict_proba(x), sigmoids(x), rtol=1e-5)
    tiny = Network.from_layers([(np.eye(2), None)], task="multilabel").predict_proba([[-80.0, 80]])
    np.testing.assert_allclose(tiny, [[1 / (1 + np.exp(80.0)), 1.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("outputs", "last", "options", "task"),
    [
        (1, "sigmoid", {}, "classification"),
        (3, "sigmoid", {}, "multilabel"),
        (3, "sigmoid", {"classes": ["a", "b", "c"]}, "classification"),
        (3, "sigmoid", {"task": "classification"}, "classification"),
        (3, "sigmoid", {"task": "regression"}, "regression"),
        (1, "sigmoid", {"task": "multilabel"}, "multilabel"),
        (3, "softmax", {}, "classification"),
        (3, "identity", {}, "regression"),
        (3, "identity", {"task": "multilabel"}, "multilabel"),
    ],
)
def test_the_task(outputs: int, last: str, options: dict[str, Any], task: str) -> None:
    net = make([D, 8, outputs], last=last, **options)
    assert net.task == task
    x = rows(20, D)
    if task == "classification" and outputs > 1:
        at = net(x).argmax(axis=1)
        expected = at if net.classes is None else net.classes[at]
        np.testing.assert_array_equal(net.predict(x), expected)
    if task == "multilabel":
        assert net.predict(x).shape == (20, outputs)


def test_what_is_no_multilabel_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r'^classes must be None if task is "multilabel"$'):
        make([D, 3], last="sigmoid", task="multilabel", classes=["a", "b", "c"])
    with pytest.raises(ValueError, match=r'^task must be "classification" if the last '):
        make([D, 3], last="softmax", task="multilabel")


def test_a_softmax_of_one_output_is_refused(tmp_path: Path) -> None:
    refusal = (
        r"^layers\[1\].activation must be sigmoid or identity for a network of one output, got "
    )
    for task in (None, "classification", "regression"):
        with pytest.raises(ValueError, match=refusal):
            make([D, 4, 1], last="softmax", task=task)
    make([D, 1, 2], hidden="softmax")
    path = tmp_path / "net.npz"
    header = json.dumps({"format_version": 1, "activations": ["softmax"]})
    arrays = {"layers.0.weight": np.ones((1, D), np.float32), "layers.0.bias": np.zeros(1)}
    np.savez(path, **arrays, lrgate=np.array(header))
    with pytest.raises(lrgate.FileFormatError, match="one output, got softmax"):
        Network.load(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_multilabel_network_is_stored(tmp_path: Path, suffix: str) -> None:
    net, path = make([D, 30, 4], last="sigmoid"), tmp_path / f"net{suffix}"
    net.save(path)
    x = rows(20, D)
    for again in (Network.load(path), pickle.loads(pickle.dumps(net)), net.dense()):  # noqa: S301
        assert again.task == "multilabel"
        np.testing.assert_array_equal(again.predict(x), net.predict(x))


def test_nan_rows_of_a_multilabel_network() -> None:
    net, x = make([D, 30, 4], last="sigmoid"), rows(20, D)
    damaged = with_nan(x, 7)
    with pytest.raises(ValueError, match=r"\b7\b"):
        net.predict(damaged)
    labels = net.predict(damaged, nan_label=-1)
    assert labels[7].tolist() == [-1] * 4
    np.testing.assert_array_equal(np.delete(labels, 7, 0), np.delete(net.predict(x), 7, 0))


def test_targets_of_a_multilabel_network() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    pandas = pytest.importorskip("pandas")
    net = make([D, 30, 3], last="sigmoid")
    y = np.array([[0, 1, 1], [0, 0, 0]])
    frame = pandas.DataFrame(y.astype(bool), columns=["a", "b", "c"])
    for given in (y, y.astype(bool), y.astype(float), y.tolist(), sparse.csr_array(y), frame):
        taken = checked_targets(net, label_array(given), 2)
        assert taken.dtype == np.int64
        assert taken.tolist() == y.tolist()
    for given, kind, message in [
        (y[:, :2], ValueError, r"y must have shape \(2, 3\), one 0 or 1 for each label, got"),
        ([0, 1], ValueError, r"y must have shape \(2, 3\), "),
        (y + 1, ValueError, "y must hold 0 and 1, got 2 in row 0, column 1"),
        (y / 2, ValueError, "y must hold 0 and 1, got 0.5 in row 0, column 1"),
        (np.where(y, np.nan, y), ValueError, "y must hold 0 and 1, got nan in row 0, column 1"),
        (y.astype(str), TypeError, "y must be an array of 0 and 1, got dtype <U"),
    ]:
        with pytest.raises(kind, match=f"^{message}"):
            checked_targets(net, label_array(given), 2)


# --- monitoring ---------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["sigmoid", "identity"])
@pytest.mark.parametrize("name", ["__call__", "forward", "predict", "predict_proba"])
def test_the_disagreement_of_several_labels(last: str, name: str) -> None:
    net = gated(make([D, 50, 4], last=last, task="multilabel"))
    x = rows(300, D)
    monitor = Monitor(net, 1)
    for part in (x[:100], x[100:299]):
        getattr(monitor, name)(part)
    getattr(monitor, name)(x[299])
    report = monitor.report()
    assert report.sampling
    assert report.measure == "share of label entries that differ from the dense network"
    differs = net.predict(x) != net.dense().predict(x)
    assert differs.any() and not differs.all()
    assert report.total.disagreement == pytest.approx(differs.mean(), rel=1e-12)
    assert report.total.rows == 300
    low, high = report.total.disagreement_low, report.total.disagreement_high
    assert low is not None and high is not None
    assert low < differs.mean() < high
    assert high - low == pytest.approx(
        2 * 1.96 * (differs.mean() * (1 - differs.mean()) / 300) ** 0.5, rel=0.05
    )


def test_rows_of_several_labels_that_are_not_finite_are_skipped() -> None:
    net, x = gated(make([D, 50, 4], last="sigmoid")), rows(40, D)
    monitor, expected = Monitor(net, 1), Monitor(net, 1)
    monitor.predict(np.insert(x, 17, np.nan, axis=0), nan_label=0)
    expected.predict(x)
    assert monitor.report().rows_skipped == 1
    assert monitor.report().total == expected.report().total


def test_the_drift_of_one_value_per_row() -> None:
    net, x = gated(make([D, 50, 1])), rows(200, D)
    by_call, by_value = Monitor(net, 1), Monitor(net, 1)
    by_call(x)
    by_value.predict(x[:199])
    by_value.predict(x[199])
    one, other = by_call.report(), by_value.report()
    assert other.sampling and other.rows_seen == 200
    assert other.total.disagreement == pytest.approx(one.total.disagreement, rel=1e-9)
    y, dense = net(x).astype(np.float64), net.dense()(x).astype(np.float64)
    wanted = np.sum((y - dense) ** 2) / np.sum((dense - dense.mean()) ** 2)
    assert wanted > 0
    assert other.total.disagreement == pytest.approx(wanted, rel=1e-6)


def test_a_monitor_takes_what_the_network_takes() -> None:
    pandas = pytest.importorskip("pandas")
    net, x = gated(classifier()), rows(30, D)
    frame = pandas.DataFrame(x).astype({0: "Float64", 1: object})
    frame.loc[4, 0] = pandas.NA
    monitor, expected = Monitor(net, 1), Monitor(net, 1)
    plain = x.copy()
    plain[4, 0] = np.nan
    monitor(frame), expected(plain)
    assert monitor.report().sampling
    assert monitor.report() == expected.report()
    with pytest.raises(ValueError, match="NaN"):
        monitor.predict(frame)
    assert monitor.predict(frame, nan_label=-1)[4] == -1


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        ([], ""),
        ([None], ""),
        ([classifier()], ", got a Network: a Network is immutable: use it directly"),
        ([[(EYE, None)]], ", got list: write Network.from_layers(layers)"),
        ([((EYE, None),)], ", got tuple: write Network.from_layers(layers)"),
        ([np.eye(2)], ", got ndarray"),
        (["net.npz"], ", got str: write Network.load('net.npz')"),
    ],
)
def test_a_network_of_no_model_is_refused(arguments: list[Any], end: str) -> None:
    with pytest.raises(TypeError) as error:
        lrgate.Network(*arguments)
    made = (
        "Network must be made by Network.load(path) or Network.from_layers([(weight, bias), ...])"
    )
    assert str(error.value) == made + end


def test_budgets_and_sizes_of_other_kinds_are_taken() -> None:
    net = make([D, 30, 1])
    few = r"^x must have at least 50 rows, got 9$"  # checked after the options
    for budget in (Decimal("0.25"), Fraction(1, 4), np.float32(0.25), 0):
        with pytest.raises(ValueError, match=few):
            lrgate.optimize(net, rows(9, D), max_error_increase=budget)  # type: ignore[arg-type]
    for budget in (Decimal("NaN"), Decimal("-0.1"), Fraction(5, 4)):
        with pytest.raises(ValueError, match=r"^max_error_increase must be from 0 to 1, got "):
            lrgate.optimize(net, rows(9, D), max_error_increase=budget)  # type: ignore[arg-type]
    for sizes in (np.array([64, 1]), range(1, 65, 63), [np.int8(1), 64]):
        with pytest.raises(ValueError, match=few):
            lrgate.optimize(net, rows(9, D), batch_sizes=sizes)  # type: ignore[arg-type]
    assert Monitor(net, Decimal("0.5"), max_disagreement=Decimal("0.1")).report().sampling  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^rate must be a number above 0 and at most 1, got "):
        Monitor(net, Decimal("NaN"))  # type: ignore[arg-type]

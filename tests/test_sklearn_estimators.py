"""`lrgate.sklearn`: estimators that fit, optimise and predict."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn", reason="needs scikit-learn")

from sklearn.base import clone  # noqa: E402
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.datasets import make_classification  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402
from sklearn.frozen import FrozenEstimator  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: E402
from sklearn.utils import get_tags  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

import lrgate  # noqa: E402
from lrgate.sklearn import LrgateClassifier, LrgateRegressor  # noqa: E402


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


class SteadyClassifier(LrgateClassifier):
    """Without the tag `non_deterministic`, so that the checks it excludes run as well."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = False
        return tags


class SteadyRegressor(LrgateRegressor):
    """Without the tag `non_deterministic`, so that the checks it excludes run as well."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = False
        return tags


@parametrize_with_checks(
    [
        SteadyClassifier(
            MLPClassifier([16], solver="lbfgs", max_iter=100, random_state=0),
            batch_sizes=[1],
            random_state=0,
        ),
        SteadyRegressor(
            MLPRegressor(hidden_layer_sizes=[16], solver="lbfgs", max_iter=100, random_state=0),
            random_state=0,
        ),
    ]
)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def rows(n: int = 700, classes: int = 3, seed: int = 0) -> tuple[Any, Any]:
    return make_classification(
        n, 8, n_informative=6, n_redundant=0, n_classes=classes, random_state=seed
    )


def classifier(**options: Any) -> MLPClassifier:
    return MLPClassifier([32, 16], max_iter=40, random_state=0, **options)


def wrapped(estimator: Any = None, **options: Any) -> LrgateClassifier:
    return LrgateClassifier(
        classifier() if estimator is None else estimator,
        batch_sizes=[1],
        random_state=0,
        **options,
    )


def test_enough_rows_are_optimised() -> None:
    x, y = rows()
    model = wrapped(max_error_increase=0.05).fit(x, y)
    assert model.note_ is None
    assert model.report_ is model.network_.report is not None
    assert lrgate.from_sklearn(model) is model.network_
    assert model.estimator_.predict(x).shape == model.predict(x).shape
    assert abs(model.score(x, y) - model.estimator_.score(x, y)) < 0.05
    assert np.allclose(model.predict_proba(x).sum(axis=1), 1.0, atol=1e-5)


def test_few_rows_keep_the_dense_network() -> None:
    x, y = rows(200)
    model = wrapped().fit(x, y)
    assert model.report_ is None
    assert model.note_.startswith("the network is dense: optimize needs 50 rows, and ")
    # All rows train.
    alone = classifier().fit(x, y)
    assert all(map(np.array_equal, model.estimator_.coefs_, alone.coefs_))
    assert np.array_equal(model.predict(x), alone.predict(x))
    np.testing.assert_allclose(model.predict_proba(x), alone.predict_proba(x), atol=1e-6)


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint16, np.int64, bool, np.float32, np.float64, str, object]
)
def test_labels_have_the_dtype_of_the_classes(dtype: Any) -> None:
    x, y = rows(120, classes=2)
    labels = np.array(["no", "yes"], dtype)[y] if dtype in (str, object) else y.astype(dtype)
    model = wrapped().fit(x, labels)
    expected = model.estimator_.predict(x)
    got = model.predict(x)
    assert got.dtype == expected.dtype == model.classes_.dtype
    assert np.array_equal(got, expected)


def test_a_class_with_few_rows_trains() -> None:
    x, y = rows()
    y[:2] = 7
    model = wrapped(max_error_increase=0.05).fit(x, y)
    assert model.note_ is None
    assert model.classes_.tolist() == [0, 1, 2, 7]


def test_one_class_is_refused() -> None:
    x, _ = rows(60)
    with pytest.raises(ValueError, match="at least 2 classes, got 1 class"):
        wrapped().fit(x, np.zeros(60, int))


def test_a_frozen_estimator_is_only_optimised() -> None:
    x, y = rows()
    alone = classifier().fit(x[:400], y[:400])
    before = [weight.copy() for weight in alone.coefs_]
    model = wrapped(FrozenEstimator(alone), max_error_increase=0.05).fit(x[400:], y[400:])
    assert model.note_ is None
    assert model.network_.report is not None
    assert all(map(np.array_equal, alone.coefs_, before))
    assert clone(model).estimator.estimator is alone
    few = wrapped(FrozenEstimator(alone)).fit(x[:49], y[:49])
    assert few.note_ == (
        "the network is dense: optimize needs 50 rows, and 49 of 49 rows would be held out"
    )
    assert np.array_equal(few.predict(x), alone.predict(x))
    with pytest.raises(NotFittedError):
        wrapped(FrozenEstimator(classifier())).fit(x, y)


def test_multilabel_targets() -> None:
    x, y = rows()
    targets = np.stack([y == 0, y == 1, x[:, 0] > 0], axis=1).astype(int)
    model = wrapped(max_error_increase=0.05).fit(x, targets)
    assert model.network_.task == "multilabel"
    assert model.predict(x).shape == model.predict_proba(x).shape == targets.shape
    assert model.score(x, targets) > 0.3


def test_regression() -> None:
    x, _ = rows()
    y = np.stack([x @ np.arange(8.0), x[:, 0] - x[:, 1]], axis=1)
    inner = MLPRegressor(hidden_layer_sizes=[32], max_iter=60, random_state=0)
    for target in (y, y[:, 0]):
        model = LrgateRegressor(inner, max_error_increase=0.05, batch_sizes=[1], random_state=0)
        model.fit(x, target)
        assert model.note_ is None
        assert model.predict(x).shape == target.shape
        assert abs(model.score(x, target) - model.estimator_.score(x, target)) < 0.06
    dense = LrgateRegressor(inner).fit(x[:100], y[:100])
    np.testing.assert_allclose(dense.predict(x), dense.estimator_.predict(x), rtol=1e-4, atol=1e-3)


def test_a_constant_target_is_fitted() -> None:
    x, _ = rows(400)
    model = LrgateRegressor(
        MLPRegressor(hidden_layer_sizes=[8], max_iter=5, random_state=0), batch_sizes=[1]
    )
    model.fit(x, np.ones(400))
    assert model.predict(x).shape == (400,)


def test_tables_and_column_transformers() -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    x, y = rows()
    names = [f"c{i}" for i in range(8)]
    table = pandas.DataFrame(x, columns=names)
    columns = ColumnTransformer(
        [("a", StandardScaler(), ["c5", "c1"]), ("b", "passthrough", ["c0"])]
    )
    model = wrapped(make_pipeline(columns, classifier()), max_error_increase=0.05)
    model.fit(table, y)
    assert model.note_ is None
    assert model.feature_names_in_.tolist() == names
    assert (model.predict(table) == model.estimator_.predict(table)).mean() > 0.9
    with pytest.raises(ValueError, match="feature names"):
        model.predict(table[names[::-1]])


def test_sparse_rows() -> None:
    sparse = pytest.importorskip("scipy.sparse", reason="needs SciPy")
    x, y = rows()
    x[x < 0.5] = 0.0
    model = wrapped(max_error_increase=0.05).fit(sparse.csc_matrix(x), y)
    assert model.note_ is None
    for rows_of in (sparse.csr_matrix(x), sparse.csr_array(x), sparse.coo_array(x)):
        assert np.array_equal(model.predict(rows_of), model.predict(x))


def test_fit_parameters_are_divided_like_the_rows() -> None:
    x, y = rows()
    seen: list[Any] = []

    class Recording(MLPClassifier):
        def fit(self, X: Any, y: Any, sample_weight: Any = None, note: Any = None) -> Any:
            seen.append((len(X), np.shape(sample_weight), note))
            return super().fit(X, y, sample_weight=sample_weight)

    inner = Recording([8], max_iter=3, random_state=0)
    model = wrapped(inner, max_error_increase=0.5)
    model.fit(x, y, sample_weight=np.ones(len(x)), note="text")
    [(count, shape, note)] = seen
    assert 559 <= count <= 565
    assert (shape, note) == ((count,), "text")


def test_metadata_routing() -> None:
    x, y = rows(150)
    weight = np.where(y == 0, 5.0, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        asked = wrapped(classifier().set_fit_request(sample_weight=True))
        asked.fit(x, y, sample_weight=weight)
        alone = classifier().fit(x, y, sample_weight=weight)
        assert all(map(np.array_equal, asked.estimator_.coefs_, alone.coefs_))
        search = GridSearchCV(asked, {"estimator__alpha": [1e-4]}, cv=2)
        search.fit(x, y, sample_weight=weight)
        assert np.array_equal(search.best_estimator_.estimator_.coefs_[0], alone.coefs_[0])
        with pytest.raises(ValueError, match="sample_weight"):
            wrapped().fit(x, y, sample_weight=weight)


def test_search_clone_and_pickle() -> None:
    x, y = rows(150)
    search = GridSearchCV(wrapped(), {"estimator__alpha": [1e-4, 1.0]}, cv=2).fit(x, y)
    best = search.best_estimator_
    again = pickle.loads(pickle.dumps(best))  # noqa: S301
    assert np.array_equal(again.predict(x), search.predict(x))
    assert again.classes_.tolist() == [0, 1, 2]
    assert not hasattr(clone(best), "network_")
    assert cross_val_score(wrapped(), x, y, cv=2).shape == (2,)


def test_a_report_survives_pickling() -> None:
    x, y = rows()
    model = wrapped(max_error_increase=0.05).fit(x, y)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301
    assert again.report_ is not None
    assert np.array_equal(again.predict(x), model.predict(x))


def test_defaults() -> None:
    x, y = rows(90)
    model = LrgateClassifier(random_state=3).fit(x, y)
    assert isinstance(model.estimator_, MLPClassifier)
    assert model.estimator_.random_state == 3
    assert isinstance(LrgateRegressor().fit(x, y).estimator_, MLPRegressor)
    assert get_tags(model).non_deterministic
    assert get_tags(model).input_tags.sparse
    assert not get_tags(
        LrgateRegressor(make_pipeline(StandardScaler(), MLPRegressor()))
    ).input_tags.sparse


def test_refusals() -> None:
    x, y = rows(90)
    with pytest.raises(ValueError, match="estimator must be a classifier, got MLPRegressor"):
        LrgateClassifier(MLPRegressor()).fit(x, y)
    with pytest.raises(ValueError, match="estimator must be a regressor, got MLPClassifier"):
        LrgateRegressor(MLPClassifier()).fit(x, y)
    for share in (0.0, 1.0, 1, "half"):
        with pytest.raises(ValueError, match="calibration_fraction must be a number between 0"):
            wrapped(calibration_fraction=share).fit(x, y)
    model = wrapped(make_pipeline(OneHotEncoder(handle_unknown="ignore"), classifier()))
    with pytest.raises(lrgate.UnsupportedModelError, match='step "onehotencoder"'):
        model.fit(x, y)
    # The fit is not lost.
    assert model.estimator_.predict(x).shape == y.shape
    with pytest.raises(NotFittedError):
        model.predict(x)

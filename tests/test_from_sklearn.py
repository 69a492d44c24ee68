"""`from_sklearn`: networks that equal scikit-learn's estimators."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sklearn = pytest.importorskip("sklearn", reason="needs scikit-learn")

from sklearn.base import BaseEstimator, TransformerMixin  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.compose import (  # noqa: E402
    ColumnTransformer,
    TransformedTargetRegressor,
    make_column_selector,
)
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD  # noqa: E402
from sklearn.ensemble import BaggingClassifier, VotingClassifier  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402
from sklearn.experimental import enable_halving_search_cv  # noqa: E402, F401
from sklearn.feature_selection import (  # noqa: E402
    RFE,
    GenericUnivariateSelect,
    SelectFromModel,
    SelectKBest,
    SelectorMixin,
    SelectPercentile,
    SequentialFeatureSelector,
    VarianceThreshold,
)
from sklearn.frozen import FrozenEstimator  # noqa: E402
from sklearn.impute import SimpleImputer  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: E402
from sklearn.model_selection import (  # noqa: E402
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
)
from sklearn.multioutput import MultiOutputRegressor  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline  # noqa: E402
from sklearn.preprocessing import (  # noqa: E402
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from lrgate import Activation, Network, UnsupportedModelError, from_sklearn  # noqa: E402

COLUMNS = 6


def has(activation: str) -> bool:
    try:
        Activation(activation)
    except ValueError:
        return False
    return True


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Features .* are constant")
        warnings.filterwarnings("ignore", "invalid value encountered in divide")
        yield


def rows(seed: int = 0, n: int = 80) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(3.0, 2.0, (n, COLUMNS)) * [1.0, 0.1, 10.0, 1.0, 2.0, 1.0]


def labels(x: Any, classes: int = 3) -> Any:
    z = x @ np.array([1.0, -5.0, 0.1, 1.0, -1.0, 0.3])
    return np.digitize(z, np.quantile(z, np.arange(1, classes) / classes))


def classifier(**options: Any) -> MLPClassifier:
    return MLPClassifier([12, 7], max_iter=15, random_state=0, **options)


def regressor(**options: Any) -> MLPRegressor:
    return MLPRegressor(hidden_layer_sizes=[12, 7], max_iter=15, random_state=0, **options)


def assert_equal(estimator: Any, x: Any, **options: Any) -> Network:
    """The network gives the results of the estimator, on rows that float32 holds."""
    exact = x.astype(np.float32).astype(np.float64)
    net = from_sklearn(estimator, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = estimator.predict(exact)
        got = net.predict(exact)
        if net.task == "regression":
            scale = max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(got, expected, atol=2e-5 * scale)
            return net
        p = estimator.predict_proba(exact)
    np.testing.assert_allclose(net.predict_proba(exact), p, atol=5e-6)
    distance = np.abs(p - 0.5) if net.task == "multilabel" else np.diff(np.sort(p), axis=1)[:, -1]
    clear = distance > 1e-4
    assert clear.mean() > 0.9
    assert np.array_equal(got[clear], expected[clear])
    return net


# Perceptrons


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("classes", [2, 3])
def test_every_activation(activation: str, classes: int) -> None:
    x = rows()
    net = assert_equal(classifier(activation=activation).fit(x, labels(x, classes)), x)
    assert net.output_size == (1 if classes == 2 else 3)
    assert net.classes is not None and net.classes.tolist() == list(range(classes))
    y = x[:, :2] if classes == 3 else x[:, 0]
    assert_equal(regressor(activation=activation).fit(x, y), x)


@pytest.mark.parametrize(
    ("made", "dtype"),
    [
        (lambda y: y.astype(np.int64) - 1, "int64"),
        (lambda y: y.astype(np.int8), "int64"),
        (lambda y: y.astype(np.uint16), "int64"),
        (lambda y: y > 1, "bool"),
        (lambda y: y.astype(np.float64), "float64"),
        (lambda y: y.astype(np.float32), "float64"),
        (lambda y: np.array(["a", "bbb", "cc"])[y], "<U3"),
        (lambda y: np.array(["a", "bbb", "cc"], object)[y], "<U3"),
    ],
)
def test_labels(made: Callable[[Any], Any], dtype: str) -> None:
    x = rows()
    net = assert_equal(classifier().fit(x, made(labels(x))), x)
    assert net.predict(x).dtype == np.dtype(dtype)


def test_multilabel() -> None:
    x = rows()
    y = np.stack([labels(x) == 0, labels(x) == 1], axis=1).astype(int)
    net = assert_equal(classifier().fit(x, y), x)
    assert net.task == "multilabel"


def test_no_hidden_layer() -> None:
    x = rows()
    net = assert_equal(MLPClassifier([], max_iter=15, random_state=0).fit(x, labels(x)), x)
    assert len(net.layers) == 1


@pytest.mark.skipif(not has("exp"), reason="this build has no activation exp")
def test_poisson_loss() -> None:
    x = rows()
    y = np.abs(x[:, 0]).round()
    net = assert_equal(make_pipeline(StandardScaler(), regressor(loss="poisson")).fit(x, y), x)
    assert net.layers[-1].activation.name == "exp"
    target = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), regressor(loss="poisson")), transformer=MaxAbsScaler()
    )
    assert_equal(target.fit(x, y), x)


def test_ways_of_training() -> None:
    x = rows()
    assert_equal(classifier(early_stopping=True).fit(x, labels(x)), x)
    assert_equal(classifier().fit(x.astype(np.float32), labels(x)), x)
    assert_equal(regressor().fit(x.astype(np.float32), x[:, 0].astype(np.float32)), x)
    warm = classifier(warm_start=True)
    assert_equal(warm.fit(x, labels(x)).fit(x, labels(x)), x)
    part = classifier()
    for _ in range(3):
        part.partial_fit(x, labels(x), classes=[0, 1, 2, 3])
    net = assert_equal(part, x)
    assert net.classes is not None and net.classes.tolist() == [0, 1, 2, 3]
    # A target with one column gives values (n,), as in scikit-learn.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_equal(regressor().fit(x, x[:, :1]), x)


# Steps before them


def test_scalers_become_the_map_of_the_input() -> None:
    x = rows()
    net = assert_equal(make_pipeline(StandardScaler(), classifier()).fit(x, labels(x)), x)
    assert net.input_scale is not None and net.input_shift is not None
    assert [layer.outputs for layer in net.layers] == [12, 7, 3]


SCALERS: list[Callable[[], Any]] = [
    StandardScaler,
    lambda: StandardScaler(with_mean=False),
    lambda: StandardScaler(with_std=False),
    lambda: StandardScaler(with_mean=False, with_std=False),
    MinMaxScaler,
    lambda: MinMaxScaler((-2.0, 5.0)),
    MaxAbsScaler,
    RobustScaler,
    lambda: RobustScaler(with_centering=False, with_scaling=False),
    lambda: RobustScaler(unit_variance=True),
    FunctionTransformer,
    lambda: "passthrough",
]
SELECTORS: list[Callable[[], Any]] = [
    lambda: VarianceThreshold(0.1),
    lambda: SelectKBest(k=3),
    lambda: SelectPercentile(percentile=60),
    lambda: GenericUnivariateSelect(mode="k_best", param=2),
    lambda: SelectFromModel(LogisticRegression(max_iter=300)),
    lambda: RFE(LogisticRegression(max_iter=300), n_features_to_select=4),
]
PROJECTIONS: list[Callable[[], Any]] = [
    lambda: PCA(3),
    lambda: PCA(4, whiten=True),
    lambda: IncrementalPCA(2),
    lambda: TruncatedSVD(3, random_state=0),
]


@pytest.mark.parametrize("step", [*SCALERS, *SELECTORS, *PROJECTIONS])
def test_each_step(step: Callable[[], Any]) -> None:
    x = rows()
    x[:, 4] = 2.5  # a constant column
    assert_equal(Pipeline([("step", step()), ("mlp", classifier())]).fit(x, labels(x)), x)


def test_a_slow_selector() -> None:
    x = rows(n=40)
    select = SequentialFeatureSelector(LogisticRegression(max_iter=300), cv=2)
    assert_equal(make_pipeline(StandardScaler(), select, classifier()).fit(x, labels(x)), x)


def test_own_selectors_are_read() -> None:
    class Even(SelectorMixin, BaseEstimator):  # type: ignore[misc]
        def fit(self, x: Any, y: Any = None) -> Any:
            self.n_features_in_ = x.shape[1]
            return self

        def _get_support_mask(self) -> Any:
            return np.arange(self.n_features_in_) % 2 == 0

    x = rows()
    assert_equal(make_pipeline(Even(), classifier()).fit(x, labels(x)), x)


def test_rank_deficient_whitening() -> None:
    x = rows()
    x[:, 1] = x[:, 0]
    model = make_pipeline(StandardScaler(), PCA(3, whiten=True), classifier())
    assert_equal(model.fit(x, labels(x)), x)


def test_a_projection_stays_a_layer_where_that_is_less_work() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 40))
    y = (x[:, 0] > 0).astype(int)
    mlp = MLPClassifier([64], max_iter=5, random_state=0)
    net = assert_equal(make_pipeline(PCA(3), mlp).fit(x, y), x)
    assert [layer.outputs for layer in net.layers] == [3, 64, 1]
    mlp = MLPClassifier([2], max_iter=5, random_state=0)
    net = assert_equal(make_pipeline(PCA(3), mlp).fit(x, y), x)
    assert [layer.outputs for layer in net.layers] == [2, 1]


SELECTIONS = {
    "integers": [4, 0, 2],
    "negative integers": [-1, 2],
    "a slice": slice(1, 4),
    "a slice of names": slice("c1", "c3"),
    "names": ["c5", "c0"],
    "an array of names": np.array(["c5", "c0"], object),
    "a mask": [True, False, True, False, False, True],
    "an array": np.array([1, 2]),
    "a callable": make_column_selector(pattern="c[13]"),
    "another callable": lambda x: [0, 5],
    "nothing": [],
}


@pytest.mark.parametrize("remainder", ["drop", "passthrough", RobustScaler()])
@pytest.mark.parametrize("columns", SELECTIONS.values(), ids=SELECTIONS)
def test_columns(columns: Any, remainder: Any) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    x = rows()
    table = pandas.DataFrame(x, columns=[f"c{i}" for i in range(COLUMNS)])
    step = ColumnTransformer(
        [("first", StandardScaler(), columns), ("second", "passthrough", [1])],
        remainder=remainder,
        transformer_weights={"first": 0.5},
    )
    model = make_pipeline(step, classifier()).fit(table, labels(x))
    exact = table.astype(np.float32).astype(np.float64)
    net = from_sklearn(model)
    np.testing.assert_allclose(net.predict_proba(exact), model.predict_proba(exact), atol=5e-6)
    assert (net.predict(exact) == model.predict(exact)).mean() > 0.95


def test_columns_of_arrays_and_nested_steps() -> None:
    x = rows()
    inner = ColumnTransformer(
        [("p", PCA(2), [0, 1, 1]), ("drop", "drop", [3]), ("s", MinMaxScaler(), slice(4, None))]
    )
    union = FeatureUnion(
        [("columns", inner), ("rest", "passthrough"), ("none", "drop"), ("k", SelectKBest(k=2))],
        transformer_weights={"rest": 2.0},
    )
    inner_steps = Pipeline(
        [("a", None), ("b", StandardScaler()), ("c", union), ("d", "passthrough")]
    )
    model = Pipeline([("pre", "passthrough"), ("inner", inner_steps), ("mlp", classifier())])
    assert_equal(model.fit(x, labels(x)), x)
    frozen = make_pipeline(FrozenEstimator(StandardScaler().fit(x)), classifier())
    assert_equal(frozen.fit(x, labels(x)), x)


def test_names_after_a_step_that_gives_tables() -> None:
    pytest.importorskip("pandas", reason="needs pandas")
    x = rows()
    scaler = StandardScaler().set_output(transform="pandas")
    columns = ColumnTransformer([("some", "passthrough", ["x5", "x2"])])
    assert_equal(make_pipeline(scaler, columns, classifier()).fit(x, labels(x)), x)


# Around them


@pytest.mark.parametrize(
    "transformer",
    [
        None,
        *SCALERS[:-1],
        lambda: make_pipeline(MinMaxScaler(), "passthrough", StandardScaler()),
        lambda: make_pipeline(FrozenEstimator(StandardScaler().fit(rows()[:, :2]))),
    ],
)
def test_transformed_targets(transformer: Any) -> None:
    x = rows()
    step = None if transformer is None else transformer()
    model = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), regressor()), transformer=step
    )
    assert_equal(model.fit(x, x[:, :2]), x)


def test_searches() -> None:
    x = rows()
    model = make_pipeline(StandardScaler(), classifier())
    grid = {"mlpclassifier__alpha": [1e-4, 1e-2]}
    for search in (
        GridSearchCV(model, grid, cv=2),
        RandomizedSearchCV(model, grid, n_iter=1, cv=2, random_state=0),
        HalvingGridSearchCV(model, grid, cv=2, min_resources=40),
        make_pipeline(StandardScaler(), GridSearchCV(classifier(), {"alpha": [0.1]}, cv=2)),
    ):
        assert_equal(search.fit(x, labels(x)), x)
    assert_equal(FrozenEstimator(model.fit(x, labels(x))), x)


# Refusals


CLIP = (
    "clip=True is not affine: apply it before, and import the last step alone, pipeline[-1]; or "
    "fit with clip=False"
)
NOT_AFFINE = (
    "it is not an affine map that lrgate knows: apply it before, and import the last step alone, "
    "pipeline[-1]"
)
FUNCTION = (
    "lrgate cannot read a function: apply it before, and import the last step alone, pipeline[-1]"
)
INVERSE = (
    "its inverse is not an affine map that lrgate knows: import regressor_, and apply "
    "transformer_.inverse_transform to the results"
)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (MinMaxScaler(clip=True), CLIP),
        (FunctionTransformer(np.log1p), FUNCTION),
        (SimpleImputer(), NOT_AFFINE),
        (OneHotEncoder(handle_unknown="ignore"), NOT_AFFINE),
        (PolynomialFeatures(2), NOT_AFFINE),
        (Normalizer(), NOT_AFFINE),
        (PowerTransformer(), NOT_AFFINE),
        (QuantileTransformer(n_quantiles=10), NOT_AFFINE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_steps_that_are_not_affine(step: Any, reason: str) -> None:
    x = np.abs(rows())
    op = type(step).__name__
    model = Pipeline([("odd", step), ("mlp", classifier())]).fit(x, labels(x))
    with pytest.raises(UnsupportedModelError) as caught:
        from_sklearn(model)
    assert str(caught.value) == f'Pipeline: step "odd" ({op}) is not supported: {reason}'
    error = caught.value
    assert (error.source, error.node, error.op, error.reason) == ("sklearn", "odd", op, reason)
    columns = ColumnTransformer([("deep", step, [0, 1])])
    nested = Pipeline([("columns", columns), ("mlp", classifier())]).fit(x, labels(x))
    with pytest.raises(UnsupportedModelError, match=f'step "columns__deep" \\({op}\\)'):
        from_sklearn(nested)


def test_max_abs_scaler_that_clips() -> None:
    x = rows()
    if "clip" not in MaxAbsScaler().get_params():
        pytest.skip("this scikit-learn has no clip in MaxAbsScaler")
    model = make_pipeline(MaxAbsScaler(clip=True), classifier()).fit(x, labels(x))
    with pytest.raises(UnsupportedModelError, match="clip=True is not affine"):
        from_sklearn(model)


def refusal_of(estimator: Any) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        from_sklearn(estimator)
    return str(caught.value)


def test_estimators_that_are_no_perceptron() -> None:
    x, read = rows(), "lrgate reads MLPClassifier and MLPRegressor, and Pipeline, "
    y = labels(x)
    one = classifier().fit(x, y)
    others = "it changes or combines the outputs of other estimators: import these one by one"
    for estimator in (
        CalibratedClassifierCV(FrozenEstimator(one)),
        VotingClassifier([("a", classifier())]),
        BaggingClassifier(classifier(), 2),
    ):
        text = refusal_of(estimator.fit(x, y))
        assert text.startswith(f"{type(estimator).__name__}: {others}. {read}")
    text = refusal_of(MultiOutputRegressor(regressor()).fit(x, x[:, :2]))
    assert text.startswith(f"MultiOutputRegressor: {others}")
    assert refusal_of(LinearRegression().fit(x, y)).startswith(f"LinearRegression: {read}")
    text = refusal_of(make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y))
    assert text.startswith(
        f'Pipeline: step "logisticregression" (LogisticRegression) is not supported: {read}'
    )
    assert refusal_of(StandardScaler().fit(x)).startswith(
        f"StandardScaler: it predicts nothing: {read}"
    )
    assert refusal_of(Pipeline([("a", StandardScaler()), ("b", "passthrough")]).fit(x)) == (
        "Pipeline: its last step is passthrough: it predicts nothing"
    )


def test_searches_without_a_best_estimator() -> None:
    x = rows()
    search = GridSearchCV(classifier(), {"alpha": [0.1]}, cv=2, refit=False).fit(x, labels(x))
    assert refusal_of(search) == (
        "GridSearchCV: it has no best_estimator_ (refit=False): fit the best parameters, and "
        "import that"
    )


def test_targets_that_are_not_affine() -> None:
    x = np.abs(rows())
    for options, op in (
        ({"func": np.log1p, "inverse_func": np.expm1}, "FunctionTransformer"),
        ({"transformer": PowerTransformer()}, "PowerTransformer"),
    ):
        model = TransformedTargetRegressor(regressor(), **options).fit(x, x[:, 0])
        assert refusal_of(model) == (
            f'TransformedTargetRegressor: step "transformer" ({op}) is not supported: {INVERSE}'
        )


def test_subclasses_that_override_are_refused() -> None:
    class Same(MLPClassifier):
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
            return super().fit(X, y)

    class Shy(MLPClassifier):
        def predict(self, X: Any) -> Any:
            return self.classes_[(self.predict_proba(X)[:, 1] > 0.499).astype(int)]

    class Odd(StandardScaler):
        def transform(self, X: Any, copy: Any = None) -> Any:
            return np.clip(super().transform(X), -5.0, 5.0)

    x = rows()
    y = labels(x, 2)
    assert_equal(Same([5], max_iter=5).fit(x, y), x)
    assert refusal_of(Shy([5], max_iter=5).fit(x, y)) == (
        "Shy: its method predict is not that of scikit-learn"
    )
    assert refusal_of(make_pipeline(Odd(), classifier()).fit(x, y)) == (
        'Pipeline: step "odd" (Odd) is not supported: its method transform is not that of '
        "scikit-learn"
    )
    patched = classifier().fit(x, y)
    patched.predict = lambda rows: np.zeros(len(rows))
    assert "its method predict is not" in refusal_of(patched)


def test_own_transformers_are_refused() -> None:
    class StandardScaler(TransformerMixin, BaseEstimator):  # type: ignore[misc]
        def fit(self, x: Any, y: Any = None) -> Any:
            return self

        def transform(self, x: Any) -> Any:
            return x**2

    x = rows()
    model = make_pipeline(StandardScaler(), classifier()).fit(x, labels(x))
    assert 'step "standardscaler" (StandardScaler) is not supported' in refusal_of(model)


def test_values_that_a_network_cannot_hold() -> None:
    x = rows()
    one = classifier().fit(x, np.zeros(len(x), int))
    assert refusal_of(one) == ("MLPClassifier: it was fitted to 1 class, and has nothing to decide")
    diverged = classifier().fit(x, labels(x))
    diverged.coefs_[1][2, 3] = np.nan
    assert refusal_of(diverged).startswith("MLPClassifier: layers[1]")
    large = classifier().fit(x, labels(x).astype(np.uint64))
    large.classes_ = large.classes_ + np.uint64(2**63)
    assert refusal_of(large).startswith("MLPClassifier: classes must fit int64")


def test_verification_finds_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows()
    model = make_pipeline(StandardScaler(), classifier()).fit(x, labels(x))
    # As if scikit-learn had changed its arithmetic.
    real = StandardScaler.transform
    monkeypatch.setattr(StandardScaler, "transform", lambda self, X: real(self, X) * 1.001)
    assert "outputs differ from the model's own by up to" in refusal_of(model)
    assert isinstance(from_sklearn(model, verify=False), Network)
    monkeypatch.undo()
    model[-1]._label_binarizer.classes_ = np.array([2, 1, 0])
    assert refusal_of(model) == "Pipeline: the network's labels differ from the model's own"


@pytest.mark.parametrize(
    "estimator",
    [
        classifier(),
        make_pipeline(StandardScaler(), classifier()),
        GridSearchCV(classifier(), {"alpha": [0.1]}),
        TransformedTargetRegressor(regressor()),
        FrozenEstimator(classifier()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_estimators_that_are_not_fitted(estimator: Any) -> None:
    with pytest.raises(NotFittedError, match="is not fitted: call its method fit before"):
        from_sklearn(estimator)


def test_parts_that_are_not_fitted() -> None:
    x = rows()
    fitted = classifier().fit(x, labels(x))
    for step in (StandardScaler(), SelectKBest(), PCA(), ColumnTransformer([("a", PCA(), [0])])):
        with pytest.raises(NotFittedError):
            from_sklearn(Pipeline([("step", step), ("mlp", fitted)]))


@pytest.mark.parametrize("value", [None, 3, "model", np.ones(3), MLPClassifier])
def test_values_that_are_no_estimator(value: Any) -> None:
    with pytest.raises(TypeError, match="estimator must be a fitted"):
        from_sklearn(value)


# Everything together


def steps(draw: Any, depth: int = 2) -> Any:
    """A random affine step."""
    kinds = ["scaler", "selector", "projection"] + ["pipeline", "union", "columns"] * (depth > 0)
    kind = draw(st.sampled_from(kinds))
    if kind == "scaler":
        return draw(st.sampled_from(SCALERS))()
    if kind == "selector":
        return VarianceThreshold() if draw(st.booleans()) else SelectKBest(k=1)
    if kind == "projection":
        return draw(st.sampled_from([lambda: PCA(1), lambda: PCA(1, whiten=True)]))()
    inner = [(f"s{i}", steps(draw, depth - 1)) for i in range(draw(st.integers(1, 3)))]
    weights = {"s0": draw(st.sampled_from([0.5, 3.0]))} if draw(st.booleans()) else None
    if kind == "pipeline":
        return Pipeline(inner)
    if kind == "union":
        return FeatureUnion(inner, transformer_weights=weights)
    chosen = st.sampled_from([[0], [-1], slice(None), slice(None, None, -1)])
    return ColumnTransformer(
        [(name, step, draw(chosen)) for name, step in inner],
        remainder=draw(st.sampled_from(["drop", "passthrough"])),
        transformer_weights=weights,
    )


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_pipelines(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 100))
    x = rows(seed, 50)
    front = [(f"f{i}", steps(data.draw)) for i in range(data.draw(st.integers(1, 3)))]
    task = data.draw(st.sampled_from(["classes", "labels", "values", "target"]))
    activation = data.draw(st.sampled_from(["relu", "tanh", "logistic", "identity"]))
    options = {"hidden_layer_sizes": [5, 4], "max_iter": 2, "activation": activation}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if task in ("classes", "labels"):
            y = labels(x, data.draw(st.integers(2, 3)))
            y = y if task == "classes" else np.stack([y > 0, x[:, 0] > 3.0], axis=1).astype(int)
            model: Any = Pipeline([*front, ("mlp", MLPClassifier(**options, random_state=seed))])
        else:
            y = x[:, data.draw(st.integers(0, 1))]
            model = Pipeline([*front, ("mlp", MLPRegressor(**options, random_state=seed))])
            if task == "target":
                model = TransformedTargetRegressor(model, transformer=MinMaxScaler())
        try:
            model.fit(x, y)
        except ValueError:
            return  # such as SelectKBest with a label matrix
        net = from_sklearn(model)
        exact = x.astype(np.float32).astype(np.float64)
        if net.task == "regression":
            expected, got = model.predict(exact), net.predict(exact)
        else:
            expected, got = model.predict_proba(exact), net.predict_proba(exact)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_estimators_of_lrgate_in_containers() -> None:
    from lrgate.sklearn import LrgateClassifier

    x = np.random.default_rng(0).normal(size=(40, 4))
    y = (x.sum(axis=1) > 0).astype(int)
    perceptron = MLPClassifier([4], max_iter=5, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = LrgateClassifier(perceptron, random_state=0).fit(x, y)
        search = GridSearchCV(LrgateClassifier(perceptron), {"random_state": [0]}, cv=2).fit(x, y)
        chain = make_pipeline(StandardScaler(), LrgateClassifier(perceptron)).fit(x, y)
    assert from_sklearn(FrozenEstimator(own)) is own.network_
    assert from_sklearn(search) is search.best_estimator_.network_
    assert from_sklearn(chain[-1]) is chain[-1].network_
    with pytest.raises(
        UnsupportedModelError,
        match=r'"lrgateclassifier" .* its network is optimised already, .* fit LrgateClassifier to',
    ):
        from_sklearn(chain)

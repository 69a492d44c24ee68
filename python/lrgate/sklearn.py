"""scikit-learn estimators that predict with lrgate.

`LrgateClassifier` and `LrgateRegressor` fit a multi-layer perceptron, or a pipeline that ends in
one, and optimise it on rows that are held out. They are used like any other estimator: in
pipelines, searches of parameters and cross-validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from lrgate.frameworks.sklearn_reader import from_sklearn
from lrgate.planner.optimizer import optimize

try:
    from sklearn import get_config
    from sklearn.base import (
        BaseEstimator,
        ClassifierMixin,
        RegressorMixin,
        clone,
        is_classifier,
        is_regressor,
    )
    from sklearn.frozen import FrozenEstimator
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.utils import _safe_indexing, check_random_state, get_tags
    from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(
        f'lrgate.sklearn needs scikit-learn 1.6 or newer: pip install "lrgate[sklearn]" ({error})'
    ) from error

__all__ = ["LrgateClassifier", "LrgateRegressor"]

Array = npt.NDArray[Any]

# Fewer rows give no bound of the error that any gate keeps.
_LEAST_ROWS: Final = 50


class _LrgateEstimator(BaseEstimator):  # type: ignore[misc]
    """The part that classifiers and regressors share."""

    _kind: ClassVar[str]
    # Predictions take rows as networks do; integers beyond 2**24 matter only in training.
    _dtypes: ClassVar[Sequence[type]] = (np.float32, np.float64, np.uint8)

    def __init__(
        self,
        estimator: Any = None,
        *,
        max_error_increase: float = 0.001,
        batch_sizes: Sequence[int] = (1, 64, 1024),
        precision: str = "auto",
        num_threads: int | None = None,
        calibration_fraction: float = 0.2,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.max_error_increase = max_error_increase
        self.batch_sizes = batch_sizes
        self.precision = precision
        self.num_threads = num_threads
        self.calibration_fraction = calibration_fraction
        self.random_state = random_state

    def fit(self, X: Any, y: Any, **fit_params: Any) -> Self:
        """Fit the estimator to a part of the rows, and optimise it on the others.

        Parameters
        ----------
        X : array-like or sparse matrix (n, d)
            Rows. A table is handed to the estimator as a table, so that its steps may select
            columns by name. All columns must be numbers.
        y : array-like (n,) or (n, k)
            Labels or target values.
        **fit_params : dict
            Parameters of the estimator's ``fit``. Arrays with n entries, such as
            ``sample_weight``, are divided like the rows. They do not weigh the rows that optimise.
            With metadata routing enabled, the estimator must request them.

        Returns
        -------
        self

        Raises
        ------
        UnsupportedModelError
            If lrgate cannot read the fitted estimator, which is in `estimator_`.
        ValueError, TypeError
            If rows, targets or parameters of this estimator are not valid.
        """
        share = self.calibration_fraction
        if not (isinstance(share, float) and 0.0 < share < 1.0):
            raise ValueError(
                f"calibration_fraction must be a number between 0 and 1, got {share!r}"
            )
        estimator = self._unfitted()
        # Float64 first, to which integers are converted for training.
        rows, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            multi_output=True,
            y_numeric=self._kind == "regressor",
        )
        y = self._checked_targets(y.toarray() if hasattr(y, "toarray") else y)
        params = fit_params
        if get_config()["enable_metadata_routing"]:
            params = process_routing(self, "fit", **fit_params).estimator.fit
        random = check_random_state(self.random_state)
        order, seed = random.permutation(len(y)), int(random.randint(2**31 - 1))
        frozen = isinstance(estimator, FrozenEstimator)
        train, held = (order[:0], order) if frozen else self._divided(order, y)
        self.note_ = None
        if len(held) < _LEAST_ROWS:
            self.note_ = (
                f"the network is dense: optimize needs {_LEAST_ROWS} rows, and {len(held)} of "
                f"{len(order)} rows would be held out"
            )
            train = order[:0] if frozen else np.arange(len(order))
        elif not frozen:
            train = np.sort(train)
        if not frozen:
            given = X if hasattr(self, "feature_names_in_") else rows
            everything = len(train) == len(order)
            chosen = {
                name: _safe_indexing(value, train) if _is_per_row(value, len(order)) else value
                for name, value in params.items()
            }
            estimator = clone(estimator)
            estimator.fit(given if everything else _safe_indexing(given, train), y[train], **chosen)
        self.estimator_ = estimator
        net = from_sklearn(estimator)
        if self.note_ is None:
            net = optimize(
                net,
                rows[held],
                y[held],
                self.max_error_increase,
                batch_sizes=self.batch_sizes,
                precision=self.precision,
                num_threads=self.num_threads,
                seed=seed,
                progress=False,
            )
        self.network_ = net
        self.report_ = net.report
        return self

    def predict(self, X: Any) -> Array:
        """Predict labels or target values with the network.

        Parameters
        ----------
        X : array-like or sparse matrix (n, d)

        Returns
        -------
        array (n,) or (n, k)
            Labels in the dtype of `classes_`, 0 and 1 for multilabel targets, or float32 values.
        """
        rows = self._rows(X)
        return np.asarray(self.network_.predict(rows, num_threads=self.num_threads))

    def _rows(self, X: Any) -> Any:
        check_is_fitted(self)
        return validate_data(self, X, reset=False, accept_sparse="csr", dtype=list(self._dtypes))

    def _unfitted(self) -> Any:
        """The estimator to fit."""
        if self.estimator is None:
            default = MLPClassifier if self._kind == "classifier" else MLPRegressor
            return default(random_state=self.random_state)
        right = is_classifier if self._kind == "classifier" else is_regressor
        if not right(self.estimator):
            raise ValueError(
                f"estimator must be a {self._kind}, got {type(self.estimator).__name__}"
            )
        return self.estimator

    def _checked_targets(self, y: Array) -> Array:
        return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _divided(self, order: Array, y: Array) -> tuple[Array, Array]:
        """Rows that train, and rows that are held out."""
        count = int(self.calibration_fraction * len(order))
        return order[count:], order[:count]

    def get_metadata_routing(self) -> Any:
        """Metadata routing of this estimator: ``fit`` hands parameters on to the estimator."""
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=self).add(estimator=self._unfitted(), method_mapping=mapping)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(self._unfitted())
        tags.input_tags.sparse = inner.input_tags.sparse
        tags.target_tags.multi_output = inner.target_tags.multi_output
        # Plans are chosen by measured times.
        tags.non_deterministic = True
        return tags


class LrgateClassifier(ClassifierMixin, _LrgateEstimator):  # type: ignore[misc]
    """A multi-layer perceptron classifier that predicts with lrgate.

    `fit` fits the estimator to most rows and runs :func:`lrgate.optimize` on the others, so the
    increase of the error is bounded on rows that trained nothing.

    Parameters
    ----------
    estimator : classifier, optional
        An ``MLPClassifier``, a ``Pipeline`` that ends in one, or any other estimator that
        :func:`lrgate.from_sklearn` reads. By default ``MLPClassifier()``. A fitted estimator in
        ``FrozenEstimator`` is not fitted again: all rows optimise it.
    max_error_increase, batch_sizes, precision
        As in :func:`lrgate.optimize`.
    num_threads : int, optional
        Threads of `optimize` and of predictions; by default those of
        :func:`lrgate.get_num_threads`.
    calibration_fraction : float, default 0.2
        Share of the rows, of each class, that are held out from training. If fewer than 50 rows
        would be held out, which is too few for `optimize`, the estimator is fitted to all rows and
        the network is dense; `note_` says so.
    random_state : int, RandomState or None
        For the choice of rows, for `optimize`, and for the default estimator.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    network_ : Network
        The network that predicts.
    report_ : OptimizeReport or None
        The report of `optimize`.
    note_ : str or None
        Why the network was not optimised.
    classes_ : array (k,)
        Labels.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : array of str (d,)
        Names of columns, if `X` had them.

    See Also
    --------
    lrgate.from_sklearn : The network of a fitted estimator.

    Notes
    -----
    Plans are chosen by measuring time. Parallel fits, as in ``GridSearchCV(n_jobs=2)``, disturb the
    measurements of one another: refit the best parameters alone.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neural_network import MLPClassifier
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> y = np.where(x[:, 0] + x[:, 1] > 0.0, "yes", "no")
    >>> inner = MLPClassifier([8], solver="lbfgs", random_state=0)
    >>> model = LrgateClassifier(inner).fit(x, y)
    >>> (model.predict(x) == model.estimator_.predict(x)).all()
    np.True_
    >>> model.note_
    'the network is dense: optimize needs 50 rows, and 20 of 100 rows would be held out'
    """

    _kind = "classifier"

    def fit(self, X: Any, y: Any, **fit_params: Any) -> Self:
        super().fit(X, y, **fit_params)
        self.classes_ = self.estimator_.classes_
        return self

    fit.__doc__ = _LrgateEstimator.fit.__doc__

    def predict(self, X: Any) -> Array:
        labels = super().predict(X)
        return labels if labels.ndim == 2 else labels.astype(self.classes_.dtype, copy=False)

    predict.__doc__ = _LrgateEstimator.predict.__doc__

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, or of each label of multilabel targets.

        Parameters
        ----------
        X : array-like or sparse matrix (n, d)

        Returns
        -------
        float32 array (n, k)
        """
        rows = self._rows(X)
        return np.asarray(self.network_.predict_proba(rows, num_threads=self.num_threads))

    def _checked_targets(self, y: Array) -> Array:
        y = super()._checked_targets(y)
        check_classification_targets(y)
        if y.ndim == 1 and not isinstance(self.estimator, FrozenEstimator):
            found = np.unique(y)
            if len(found) < 2:
                raise ValueError(f"y must have at least 2 classes, got 1 class: {found.tolist()}")
        return y

    def _divided(self, order: Array, y: Array) -> tuple[Array, Array]:
        if y.ndim != 1:
            return super()._divided(order, y)
        # The same share of every class; classes with few rows train only.
        _, codes = np.unique(y[order], return_inverse=True)
        held = np.zeros(len(order), bool)
        for code in range(int(codes.max()) + 1):
            members = np.flatnonzero(codes == code)
            held[members[: int(self.calibration_fraction * len(members))]] = True
        return order[~held], order[held]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags = get_tags(self._unfitted()).classifier_tags
        return tags


class LrgateRegressor(RegressorMixin, _LrgateEstimator):  # type: ignore[misc]
    """A multi-layer perceptron regressor that predicts with lrgate.

    `fit` fits the estimator to most rows and runs :func:`lrgate.optimize` on the others, so the
    increase of the error is bounded on rows that trained nothing.

    Parameters
    ----------
    estimator : regressor, optional
        An ``MLPRegressor``, a ``Pipeline`` that ends in one, or any other estimator that
        :func:`lrgate.from_sklearn` reads. By default ``MLPRegressor()``. A fitted estimator in
        ``FrozenEstimator`` is not fitted again: all rows optimise it.
    max_error_increase, batch_sizes, precision
        As in :func:`lrgate.optimize`.
    num_threads : int, optional
        Threads of `optimize` and of predictions; by default those of
        :func:`lrgate.get_num_threads`.
    calibration_fraction : float, default 0.2
        Share of the rows that are held out from training. If fewer than 50 rows would be held out,
        which is too few for `optimize`, the estimator is fitted to all rows and the network is
        dense; `note_` says so.
    random_state : int, RandomState or None
        For the choice of rows, for `optimize`, and for the default estimator.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    network_ : Network
        The network that predicts.
    report_ : OptimizeReport or None
        The report of `optimize`.
    note_ : str or None
        Why the network was not optimised.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : array of str (d,)
        Names of columns, if `X` had them.

    See Also
    --------
    lrgate.from_sklearn : The network of a fitted estimator.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neural_network import MLPRegressor
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> inner = MLPRegressor(hidden_layer_sizes=[8], solver="lbfgs", max_iter=2000, random_state=0)
    >>> model = LrgateRegressor(inner)
    >>> model.fit(x, x[:, 0] - x[:, 1]).predict(x[:3]).shape
    (3,)
    """

    _kind = "regressor"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags = get_tags(self._unfitted()).regressor_tags
        return tags


def _is_per_row(value: Any, rows: int) -> bool:
    """Whether a parameter of `fit` has one entry per row."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return len(shape) > 0 and shape[0] == rows
    return isinstance(value, list | tuple) and len(value) == rows

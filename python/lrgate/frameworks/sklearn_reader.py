"""Fitted scikit-learn estimators as networks.

A multi-layer perceptron is a chain of layers, and the preprocessing in front of it is often affine:
scalers, selections of columns, projections. `from_sklearn` reads both with the operations of
`Chain`, which folds scalers into the scale and shift of the input or into the first weights.

Classes are found by name, so that no module of scikit-learn is imported. A subclass is read as the
class of scikit-learn from which it derives, and refused if it overrides the methods that compute.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.frameworks.building import built, refusal, verified
from lrgate.frameworks.chain import Chain
from lrgate.frameworks.errors import Refused, UnsupportedModelError
from lrgate.frameworks.sklearn_parts import (
    first_of,
    fitted,
    is_identity,
    is_not_fitted,
    kind_of,
    network_in,
    not_fitted,
    overridden,
    positions_of,
)
from lrgate.frameworks.values import Rows
from lrgate.frameworks.verification import random_rows
from lrgate.model.activation import Activation
from lrgate.network import Network

__all__ = ["from_sklearn"]

Array = npt.NDArray[Any]

_READ: Final = (
    "MLPClassifier and MLPRegressor, and Pipeline, TransformedTargetRegressor, FrozenEstimator and "
    "searches of parameters around them"
)
_ACTIVATIONS: Final = {
    "identity": "identity",
    "logistic": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "exp": "exp",
}
# Probabilities closer than this may give another label after rounding.
_MARGIN: Final = 1e-3


def from_sklearn(estimator: Any, *, verify: bool = True) -> Network:
    """Convert a fitted scikit-learn estimator to a network.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor, or an estimator that contains one
        A ``Pipeline``, ``TransformedTargetRegressor``, ``FrozenEstimator``, or a search such as
        ``GridSearchCV`` may be around the perceptron. Steps before it may be ``StandardScaler``,
        ``MinMaxScaler``, ``MaxAbsScaler``, ``RobustScaler``, ``PCA``, ``IncrementalPCA``,
        ``TruncatedSVD``, every feature selector, ``FunctionTransformer`` without a function,
        ``ColumnTransformer``, ``FeatureUnion`` and ``Pipeline``. Each of these must be
        scikit-learn's own, or a subclass that does not override prediction or transformation.
        An estimator of :mod:`lrgate.sklearn`, also in a search or a ``FrozenEstimator``, gives its
        `network_`.
    verify : bool, default True
        Compare the network with the estimator on random rows.

    Returns
    -------
    Network
        Its rows are those of the estimator, with all columns in the order of the fit.
        ``predict`` and ``predict_proba`` give the results of the estimator, rounded to float32.
        Labels are equal. Their dtype is int64, float64, bool or str, as in all networks, also if
        that of ``classes_`` is narrower or object. A regressor with one output gives values (n,).

    Raises
    ------
    UnsupportedModelError
        If a step is not an affine map that lrgate knows, the estimator is of another type, or
        verification finds a difference. The message names the step.
    sklearn.exceptions.NotFittedError
        If the estimator, or a part of it, is not fitted.
    TypeError
        If `estimator` is not a scikit-learn estimator.

    Notes
    -----
    Rows become float32 before the first step. A column with a mean far above its spread, such as a
    time in seconds, loses digits: subtract a constant from it first.

    Columns that the model does not select still belong to the rows. Their weights are 0, so that
    NaN in them gives NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> x = np.random.default_rng(0).normal(5.0, 2.0, (200, 3))
    >>> y = np.where(x.sum(axis=1) > 15.0, "high", "low")
    >>> model = make_pipeline(StandardScaler(), MLPClassifier([8], solver="lbfgs", random_state=0))
    >>> net = from_sklearn(model.fit(x, y))
    >>> net.predict(x[:3]).tolist() == model.predict(x[:3]).tolist()
    True
    """
    if isinstance(estimator, type):
        raise TypeError(f"estimator must be a fitted estimator, got the class {estimator.__name__}")
    if not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        raise TypeError(
            f"estimator must be a fitted scikit-learn estimator, got {type(estimator).__name__}"
        )
    network = network_in(estimator)
    if network is not None:
        return network
    reader = _Reader(estimator)
    net = reader.network()
    if verify:
        source = _Source(estimator, net)
        verified(net, source.outputs, source="sklearn", name=reader.name)
        source.check_labels(reader.name)
    return net


@dataclass(frozen=True, eq=False)
class _Prediction:
    """The outputs of a predictor, its task, and the labels of a classifier."""

    rows: Rows
    task: str
    classes: Array | None = None


class _Reader:
    """Reads one estimator with all that it contains."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        self.name = type(estimator).__name__

    def network(self) -> Network:
        read = self._predictor_of(self.estimator, "")
        width = first_of(self.estimator, "n_features_in_")
        try:
            self.chain = Chain((1 if width is None else int(width),))
            result = read(self.chain.input)
        except Refused as error:
            raise self._refused(str(error), self.estimator, "") from None
        if width is None:
            # The part that does not know its width should have raised.
            raise not_fitted(self.estimator)
        try:
            return built(result.rows, task=result.task, classes=result.classes)
        except (Refused, ValueError, TypeError) as error:
            raise self._refused(str(error), self.estimator, "") from None

    # Predictors

    def _predictor_of(self, estimator: Any, path: str) -> Callable[[Rows], _Prediction]:
        """The function that reads a predictor; its type is checked first."""
        kind = kind_of(estimator, _PREDICTORS)
        if kind is None:
            raise self._refused(_why_not(estimator), estimator, path)
        self._check_own(estimator, path)
        return lambda rows: _PREDICTORS[kind](self, estimator, rows, path)

    def _predicted(self, estimator: Any, rows: Rows, path: str) -> _Prediction:
        return self._predictor_of(estimator, path)(rows)

    def _classifier(self, mlp: Any, rows: Rows, path: str) -> _Prediction:
        outputs = self._layers(mlp, rows, path)
        if len(mlp.classes_) < 2:
            raise self._refused("it was fitted to 1 class, and has nothing to decide", mlp, path)
        if mlp.out_activation_ == "logistic" and mlp.n_outputs_ > 1:
            return _Prediction(outputs, "multilabel")
        return _Prediction(outputs, "classification", mlp.classes_)

    def _regressor(self, mlp: Any, rows: Rows, path: str) -> _Prediction:
        return _Prediction(self._layers(mlp, rows, path), "regression")

    def _layers(self, mlp: Any, rows: Rows, path: str) -> Rows:
        weights = fitted(mlp, "coefs_")
        last = len(weights) - 1
        for i, (weight, bias) in enumerate(zip(weights, mlp.intercepts_, strict=True)):
            self.chain.where = f"layer {i}"
            name = mlp.out_activation_ if i == last else mlp.activation
            rows = self.chain.linear(rows, np.asarray(weight).T, np.asarray(bias))
            if name == "softmax":
                rows = self.chain.softmax(rows, -1)
            elif name not in _ACTIVATIONS:
                raise self._refused(f"its activation {name!r} is not supported", mlp, path)
            elif name != "identity":
                rows = self.chain.activation(rows, Activation(_ACTIVATIONS[name]))
        return rows

    def _pipeline(self, pipeline: Any, rows: Rows, path: str) -> _Prediction:
        *steps, (name, last) = pipeline.steps
        if is_identity(last):
            raise self._refused("its last step is passthrough: it predicts nothing", pipeline, path)
        for step, transformer in steps:
            rows = self._transformed(transformer, rows, _join(path, step))
        return self._predicted(last, rows, _join(path, name))

    def _search(self, search: Any, rows: Rows, path: str) -> _Prediction:
        if search.refit is False:
            raise self._refused(
                "it has no best_estimator_ (refit=False): fit the best parameters, and import that",
                search,
                path,
            )
        return self._predicted(fitted(search, "best_estimator_"), rows, path)

    def _frozen(self, frozen: Any, rows: Rows, path: str) -> _Prediction:
        return self._predicted(frozen.estimator, rows, path)

    def _target(self, model: Any, rows: Rows, path: str) -> _Prediction:
        inner = self._predicted(fitted(model, "regressor_"), rows, _join(path, "regressor"))
        outputs = self._inverted(model.transformer_, inner.rows, _join(path, "transformer"))
        return _Prediction(outputs, inner.task)

    # Steps before the predictor

    def _transformed(self, step: Any, rows: Rows, path: str) -> Rows:
        if is_identity(step):
            return rows
        kind = kind_of(step, _TRANSFORMERS)
        if kind is None:
            raise self._refused(
                "it is not an affine map that lrgate knows: apply it before, and import the last "
                "step alone, pipeline[-1]",
                step,
                path,
            )
        self._check_own(step, path)
        try:
            return _TRANSFORMERS[kind](self, step, rows, path)
        except Refused as error:
            raise self._refused(str(error), step, path) from None

    def _function(self, step: Any, rows: Rows, path: str) -> Rows:
        if step.func is not None:
            raise Refused(
                "lrgate cannot read a function: apply it before, and import the last step alone, "
                "pipeline[-1]"
            )
        return rows

    def _standard(self, step: Any, rows: Rows, path: str) -> Rows:
        scale = fitted(step, "scale_")
        if step.with_mean:
            rows = self._rows(self.chain.subtract(rows, step.mean_))
        return self._rows(self.chain.divide(rows, scale)) if step.with_std else rows

    def _min_max(self, step: Any, rows: Rows, path: str) -> Rows:
        _refuse_clip(step)
        scaled = self.chain.multiply(rows, fitted(step, "scale_"))
        return self._rows(self.chain.add(scaled, step.min_))

    def _max_abs(self, step: Any, rows: Rows, path: str) -> Rows:
        _refuse_clip(step)
        return self._rows(self.chain.divide(rows, fitted(step, "scale_")))

    def _robust(self, step: Any, rows: Rows, path: str) -> Rows:
        center = fitted(step, "center_")
        if step.with_centering:
            rows = self._rows(self.chain.subtract(rows, center))
        return self._rows(self.chain.divide(rows, step.scale_)) if step.with_scaling else rows

    def _pca(self, step: Any, rows: Rows, path: str) -> Rows:
        components = fitted(step, "components_")
        # In this order, values with a large mean lose no digits.
        rows = self._rows(self.chain.subtract(rows, step.mean_))
        rows = self.chain.linear(rows, components)
        if step.whiten:
            scale = np.sqrt(step.explained_variance_)
            # As in scikit-learn.
            scale = np.maximum(scale, np.finfo(scale.dtype).eps)
            rows = self._rows(self.chain.divide(rows, scale))
        return rows

    def _svd(self, step: Any, rows: Rows, path: str) -> Rows:
        return self.chain.linear(rows, fitted(step, "components_"))

    def _selector(self, step: Any, rows: Rows, path: str) -> Rows:
        try:
            index = np.asarray(step.get_support(indices=True))
        except ValueError as error:
            if is_not_fitted(error):
                raise not_fitted(step) from None
            raise
        return self._selected(rows, index)

    def _steps(self, pipeline: Any, rows: Rows, path: str) -> Rows:
        for name, step in pipeline.steps:
            rows = self._transformed(step, rows, _join(path, name))
        return rows

    def _frozen_step(self, frozen: Any, rows: Rows, path: str) -> Rows:
        return self._transformed(frozen.estimator, rows, path)

    def _union(self, union: Any, rows: Rows, path: str) -> Rows:
        parts = [
            (name, step, rows)
            for name, step in union.transformer_list
            if not (isinstance(step, str) and step == "drop")
        ]
        return self._stacked(parts, union, path)

    def _columns(self, step: Any, rows: Rows, path: str) -> Rows:
        names = getattr(step, "feature_names_in_", None)
        parts = []
        for name, transformer, columns in fitted(step, "transformers_"):
            if isinstance(transformer, str) and transformer == "drop":
                continue
            index = positions_of(columns, rows.size, names)
            if index.size:
                parts.append((name, transformer, self._selected(rows, index)))
        return self._stacked(parts, step, path)

    def _stacked(self, parts: Sequence[tuple[str, Any, Rows]], step: Any, path: str) -> Rows:
        if not parts:
            raise Refused("it selects no columns")
        weights = step.transformer_weights or {}
        results = []
        for name, transformer, rows in parts:
            result = self._transformed(transformer, rows, _join(path, name))
            if name in weights:
                result = self._rows(self.chain.multiply(result, np.asarray(weights[name])))
            results.append(result)
        return self._rows(self.chain.concatenate(results, -1))

    def _selected(self, rows: Rows, index: Array) -> Rows:
        if not index.size:
            raise Refused("it selects no columns")
        return self.chain.moved(rows, lambda numbers, _: numbers[:, index])

    # Inverses, for targets

    def _inverted(self, step: Any, rows: Rows, path: str) -> Rows:
        if is_identity(step):
            return rows
        kind = kind_of(step, _INVERSES)
        if kind is None or (kind == "FunctionTransformer" and step.inverse_func is not None):
            raise self._refused(
                "its inverse is not an affine map that lrgate knows: import regressor_, and apply "
                "transformer_.inverse_transform to the results",
                step,
                path,
            )
        self._check_own(step, path)
        return _INVERSES[kind](self, step, rows, path)

    def _inverse_standard(self, step: Any, rows: Rows, path: str) -> Rows:
        if step.with_std:
            rows = self._rows(self.chain.multiply(rows, step.scale_))
        return self._rows(self.chain.add(rows, step.mean_)) if step.with_mean else rows

    def _inverse_min_max(self, step: Any, rows: Rows, path: str) -> Rows:
        return self._rows(self.chain.divide(self.chain.subtract(rows, step.min_), step.scale_))

    def _inverse_max_abs(self, step: Any, rows: Rows, path: str) -> Rows:
        return self._rows(self.chain.multiply(rows, step.scale_))

    def _inverse_robust(self, step: Any, rows: Rows, path: str) -> Rows:
        if step.with_scaling:
            rows = self._rows(self.chain.multiply(rows, step.scale_))
        return self._rows(self.chain.add(rows, step.center_)) if step.with_centering else rows

    def _inverse_steps(self, pipeline: Any, rows: Rows, path: str) -> Rows:
        for name, step in reversed(pipeline.steps):
            rows = self._inverted(step, rows, _join(path, name))
        return rows

    def _inverse_frozen(self, frozen: Any, rows: Rows, path: str) -> Rows:
        return self._inverted(frozen.estimator, rows, path)

    def _same(self, step: Any, rows: Rows, path: str) -> Rows:
        return rows

    # Checks

    @staticmethod
    def _rows(value: Any) -> Rows:
        assert isinstance(value, Rows)
        return value

    def _check_own(self, estimator: Any, path: str) -> None:
        """Refuse an estimator whose prediction or transformation is not scikit-learn's."""
        method = overridden(estimator)
        if method is not None:
            raise self._refused(f"its method {method} is not that of scikit-learn", estimator, path)

    def _refused(self, reason: str, part: Any, path: str) -> UnsupportedModelError:
        whole = part is self.estimator
        return refusal(
            Refused(reason),
            source="sklearn",
            name=self.name,
            node=None if whole else path or None,
            op=None if whole else type(part).__name__,
            noun="step",
        )


_Predictor = Callable[[_Reader, Any, Rows, str], _Prediction]
_Transformer = Callable[[_Reader, Any, Rows, str], Rows]

_PREDICTORS: Final[dict[str, _Predictor]] = {
    "MLPClassifier": _Reader._classifier,
    "MLPRegressor": _Reader._regressor,
    "Pipeline": _Reader._pipeline,
    "TransformedTargetRegressor": _Reader._target,
    "BaseSearchCV": _Reader._search,
    "FrozenEstimator": _Reader._frozen,
}
_TRANSFORMERS: Final[dict[str, _Transformer]] = {
    "StandardScaler": _Reader._standard,
    "MinMaxScaler": _Reader._min_max,
    "MaxAbsScaler": _Reader._max_abs,
    "RobustScaler": _Reader._robust,
    "FunctionTransformer": _Reader._function,
    "PCA": _Reader._pca,
    "IncrementalPCA": _Reader._pca,
    "TruncatedSVD": _Reader._svd,
    "SelectorMixin": _Reader._selector,
    "Pipeline": _Reader._steps,
    "FeatureUnion": _Reader._union,
    "ColumnTransformer": _Reader._columns,
    "FrozenEstimator": _Reader._frozen_step,
}
_INVERSES: Final[dict[str, _Transformer]] = {
    "StandardScaler": _Reader._inverse_standard,
    "MinMaxScaler": _Reader._inverse_min_max,
    "MaxAbsScaler": _Reader._inverse_max_abs,
    "RobustScaler": _Reader._inverse_robust,
    "FunctionTransformer": _Reader._same,
    "Pipeline": _Reader._inverse_steps,
    "FrozenEstimator": _Reader._inverse_frozen,
}


def _join(path: str, name: str) -> str:
    """The name of a step in the form of scikit-learn's parameters."""
    return f"{path}__{name}" if path else name


def _why_not(estimator: Any) -> str:
    if isinstance(estimator, str):
        return f"{estimator!r} predicts nothing"
    if network_in(estimator) is not None:
        return (
            "its network is optimised already, and takes no other steps: import its network_, or "
            f"fit {type(estimator).__name__} to the whole pipeline as its estimator"
        )
    if hasattr(estimator, "transform") and not hasattr(estimator, "predict"):
        return f"it predicts nothing: lrgate reads {_READ}"
    if hasattr(estimator, "get_params"):
        parameters = estimator.get_params(deep=False)
        if {"estimator", "estimators"} & parameters.keys():
            return (
                "it changes or combines the outputs of other estimators: import these one by one. "
                f"lrgate reads {_READ}"
            )
    return f"lrgate reads {_READ}"


def _refuse_clip(step: Any) -> None:
    if step.clip:
        raise Refused(
            "clip=True is not affine: apply it before, and import the last step alone, "
            "pipeline[-1]; or fit with clip=False"
        )


class _Source:
    """The estimator itself, as the reference of verification."""

    def __init__(self, estimator: Any, net: Network) -> None:
        self.estimator = estimator
        self.net = net

    def _call(self, method: str, x: npt.NDArray[np.float32]) -> Array:
        rows: Any = x.astype(np.float64)
        names = first_of(self.estimator, "feature_names_in_")
        if names is not None:
            rows = _table(rows, names)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(getattr(self.estimator, method)(rows))

    def outputs(self, x: npt.NDArray[np.float32]) -> Array:
        """The network's raw outputs, as computed by the estimator."""
        if self.net.task == "regression":
            return self._call("predict", x)
        outputs = self._call("predict_proba", x)
        return outputs[:, 1:] if self.net.output_size == 1 else outputs

    def check_labels(self, name: str) -> None:
        """Refuse if a label differs where no rounding decides."""
        if self.net.task == "regression":
            return
        x = random_rows(self.net)
        x = x[np.isfinite(self.net(x)).all(axis=1)]
        labels, probabilities = self._call("predict", x), self._call("predict_proba", x)
        with np.errstate(invalid="ignore"):
            if self.net.task == "multilabel":
                clear = np.abs(probabilities - 0.5) > _MARGIN
            else:
                ordered = np.sort(probabilities, axis=1)
                clear = ordered[:, -1] - ordered[:, -2] > _MARGIN
        got = self.net.predict(x[clear] if clear.ndim == 1 else x)
        expected = labels[clear] if clear.ndim == 1 else np.where(clear, labels, got)
        if got.tolist() != expected.tolist():
            raise refusal(
                Refused("the network's labels differ from the model's own"),
                source="sklearn",
                name=name,
            )


def _table(rows: Array, names: Array) -> Any:
    """A table with the columns that the estimator was fitted to."""
    try:
        import pandas
    except ImportError:
        import polars

        return polars.DataFrame(rows, schema=list(names))
    return pandas.DataFrame(rows, columns=list(names))

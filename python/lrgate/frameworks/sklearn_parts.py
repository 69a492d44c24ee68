"""Questions about scikit-learn estimators, answered without an import of scikit-learn."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.frameworks.errors import Refused
from lrgate.network import Network

__all__ = [
    "first_of",
    "fitted",
    "is_identity",
    "is_not_fitted",
    "kind_of",
    "network_in",
    "not_fitted",
    "overridden",
    "positions_of",
]

Array = npt.NDArray[Any]

# Methods that compute, of all classes that are read.
_METHODS: Final = (
    "predict",
    "predict_proba",
    "transform",
    "inverse_transform",
    "_predict",
    "_forward_pass_fast",
    "_transform",
    "_iter",
    "_hstack",
)
# Estimators that give their rows to an attribute.
_CONTAINERS: Final = {
    "Pipeline": "steps",
    "FeatureUnion": "transformer_list",
    "BaseSearchCV": "best_estimator_",
    "TransformedTargetRegressor": "regressor_",
    "FrozenEstimator": "estimator",
}


def kind_of(estimator: Any, known: Collection[str]) -> str | None:
    """The name of the nearest class of scikit-learn that is known."""
    names = (c.__name__ for c in type(estimator).__mro__ if is_sklearn(c))
    return next((name for name in names if name in known), None)


def is_identity(step: Any) -> bool:
    return step is None or (isinstance(step, str) and step == "passthrough")


def _parts(estimator: Any) -> Iterator[Any]:
    """The estimators in an estimator that get the same rows, the likeliest first."""
    kind = kind_of(estimator, _CONTAINERS)
    if kind == "Pipeline":
        for _, step in estimator.steps:
            yield step
            if not (is_identity(step) or kind_of(step, ("FunctionTransformer",))):
                return
    elif kind == "FeatureUnion":
        yield from (step for _, step in estimator.transformer_list)
    elif kind is not None:
        yield getattr(estimator, _CONTAINERS[kind], None)


def first_of(estimator: Any, attribute: str) -> Any:
    """An attribute of the first part of an estimator that has it; None if none has."""
    own = getattr(estimator, attribute, None)
    if own is not None:
        return own
    found = (first_of(part, attribute) for part in _parts(estimator))
    return next((value for value in found if value is not None), None)


def fitted(estimator: Any, attribute: str) -> Any:
    """An attribute that only a fitted estimator has."""
    try:
        return getattr(estimator, attribute)
    except AttributeError:
        raise not_fitted(estimator) from None


def not_fitted(estimator: Any) -> Exception:
    from sklearn.exceptions import NotFittedError

    error: Exception = NotFittedError(
        f"{type(estimator).__name__} is not fitted: call its method fit before from_sklearn"
    )
    return error


def is_not_fitted(error: Exception) -> bool:
    return type(error).__name__ == "NotFittedError"


def network_in(estimator: Any) -> Network | None:
    """The network of an estimator of lrgate, also inside containers that pass their rows on."""
    while kind_of(estimator, ("BaseSearchCV", "FrozenEstimator")) and overridden(estimator) is None:
        kind = kind_of(estimator, _CONTAINERS)
        estimator = None if kind is None else getattr(estimator, _CONTAINERS[kind], None)
    network = getattr(estimator, "network_", None)
    return network if isinstance(network, Network) else None


def positions_of(columns: Any, width: int, names: Array | None) -> npt.NDArray[np.intp]:
    """The positions of selected columns, given in any form that `ColumnTransformer` takes."""
    positions = np.arange(width)

    def position(name: str) -> int:
        found = [] if names is None else np.flatnonzero(np.asarray(names) == name).tolist()
        if len(found) != 1:
            raise Refused(f"the column {name!r} is not in feature_names_in_")
        return int(found[0])

    if isinstance(columns, slice):
        if isinstance(columns.start, str) or isinstance(columns.stop, str):
            start = None if columns.start is None else position(columns.start)
            # Slices of names include their end.
            stop = None if columns.stop is None else position(columns.stop) + 1
            columns = slice(start, stop, columns.step)
        return np.asarray(positions[columns])
    if isinstance(columns, str):
        columns = [columns]
    chosen = list(np.atleast_1d(np.asarray(columns, object)))
    if chosen and all(isinstance(column, bool | np.bool_) for column in chosen):
        return np.flatnonzero(np.array(chosen, bool))
    return np.array(
        [position(c) if isinstance(c, str) else positions[int(c)] for c in chosen], np.intp
    )


def is_sklearn(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "sklearn"


def overridden(estimator: Any) -> str | None:
    """A method that computes and is not that of scikit-learn; None if there is none."""
    for method in _METHODS:
        owner = next((c for c in type(estimator).__mro__ if method in vars(c)), None)
        if method in vars(estimator) or (owner is not None and not is_sklearn(owner)):
            return method
    return None

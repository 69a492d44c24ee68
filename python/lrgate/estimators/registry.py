"""All estimators by name, and their use by the planner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from lrgate.estimators.base import Estimate
from lrgate.estimators.rows import Rows
from lrgate.estimators.signs import logistic
from lrgate.estimators.singular import svd
from lrgate.estimators.whitening import whitened
from lrgate.model.layer import Layer

__all__ = ["ESTIMATORS", "Estimator", "by_name", "of_stage"]


class Fit(Protocol):
    """Fits a layer on rows, for gates of the given ranks."""

    def __call__(
        self, layer: Layer, rows: Rows, ranks: Sequence[int], start: Estimate | None, seed: int
    ) -> Estimate: ...


@dataclass(frozen=True)
class Estimator:
    """An estimator and its use by the planner.

    Attributes
    ----------
    name : str
    stage : {"coarse", "refine"} or None
        ``"coarse"``: the planner fits it to every layer, for all ranks at once. ``"refine"``: it
        trains the coarse estimate further if a gate is close to saving time. None: the planner does
        not use it.
    fit : callable
        ``fit(layer, rows, ranks, start, seed)``; `start` is an initial estimate.
    """

    name: str
    stage: Literal["coarse", "refine"] | None
    fit: Fit


def _fit_svd(
    layer: Layer, rows: Rows, ranks: Sequence[int], start: Estimate | None, seed: int
) -> Estimate:
    return svd(layer, max_rank=max(ranks))


def _fit_whitened(
    layer: Layer, rows: Rows, ranks: Sequence[int], start: Estimate | None, seed: int
) -> Estimate:
    return whitened(layer, rows, max_rank=max(ranks))


def _fit_logistic(
    layer: Layer, rows: Rows, ranks: Sequence[int], start: Estimate | None, seed: int
) -> Estimate:
    return logistic(layer, rows, ranks, start=start, seed=seed)


ESTIMATORS: Final = (
    Estimator("svd", None, _fit_svd),
    Estimator("whitened", "coarse", _fit_whitened),
    Estimator("logistic", "refine", _fit_logistic),
)


def by_name(name: str) -> Estimator:
    """Return the estimator with this name."""
    return next(each for each in ESTIMATORS if each.name == name)


def of_stage(stage: Literal["coarse", "refine"]) -> tuple[Estimator, ...]:
    """Return the estimators that the planner uses in a stage, in order."""
    return tuple(each for each in ESTIMATORS if each.stage == stage)

"""`optimize`: a trained network in, the fastest network within an error budget out."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate._core import get_num_threads
from lrgate.frameworks.loading import as_network
from lrgate.inputs import checked_count, checked_integer, checked_rows, checked_share, label_array
from lrgate.network import Network, declared_task, replaced
from lrgate.network.tasks import for_targets
from lrgate.planner.arguments import (
    FACTORS,
    PRECISIONS,
    PRUNES,
    check_range,
    checked_confidence,
    checked_ranks,
    checked_row_error,
    checked_sizes,
    checked_targets,
)
from lrgate.planner.clock import Clock
from lrgate.planner.plans import without_gates
from lrgate.planner.problem import Problem, Request
from lrgate.planner.progress import progress_bar
from lrgate.planner.search import Search
from lrgate.planner.signals import bounded_rows
from lrgate.planner.split import Split

__all__ = [
    "optimize",
]

_LEAST_ROWS: Final = 50


def optimize(
    model: Any,
    x: Any,
    y: npt.ArrayLike | None = None,
    max_error_increase: float = 0.001,
    *,
    batch_sizes: Sequence[int] | npt.NDArray[Any] = (1, 64, 1024),
    precision: str = "auto",
    prune: str = "proven",
    factors: str = "auto",
    confidence: float = 0.95,
    max_row_error: float | None = None,
    num_threads: int | None = None,
    input_range: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    ranks: Sequence[int] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Network:
    """The fastest network on this machine whose error is shown to stay within a budget.

    Gates and low-rank factors are fitted to the layers on `x`, thresholds and the order of units
    are chosen, and each layer's strategy and precision are decided by measuring, for each batch
    size. A change is used only if held-out rows show that it keeps the budget. The result's
    ``report`` has the details. The last measurement compares the result with dense in f32, unless
    int8 is asked for, and with dense int8 whose error was shown. A result with an error is not
    slower there, and one without is at most 3 % slower than dense int8.

    Parameters
    ----------
    model : Network, path, or model of scikit-learn, PyTorch, ONNX or Keras
        Anything that :func:`lrgate.load`, :func:`lrgate.from_sklearn`, :func:`lrgate.from_torch`,
        :func:`lrgate.from_onnx` or :func:`lrgate.from_keras` takes. Gates, factors, int8 ranges,
        kept units, least margin and plan of a network are not used.
    x : array-like or scipy.sparse (n, d)
        Real input rows: at least 50, preferably 5,000 or more. Two fifths fit, a fifth chooses,
        and two fifths check the budget. Of more than 20,000 rows 12,000 fit and choose; up to
        100,000 check. Training rows are accepted, but their error is lower than that of new rows.
    y : array-like (n,) or (n, k), optional
        Labels, of the network's ``classes``; 0 and 1 for each label of a multilabel network;
        values for a regressor. Columns of pandas, polars and pyarrow are accepted. Without `y`,
        the budget limits the disagreement with the dense network. If the network's task was left
        open and it has k > 1 outputs, labels (n,) make it a classifier: integers, whole numbers as
        floats, bool or text. Its classes are 0 to k - 1 if all labels are such integers, otherwise
        the distinct labels in ascending order, of which there must be k.
    max_error_increase : float
        The budget. A classifier: increase of the share of wrong rows (0.001 is a tenth of a
        percentage point), or without `y` the share of rows whose class changes. A multilabel
        network: the same of label entries. A regressor: increase of the squared error relative to
        the targets' variance, or without `y` the squared difference relative to the dense outputs'
        variance. 0 allows nothing that is not exact.
    batch_sizes : sequence or array of int
        Rows per call to plan for; a call uses the plan of the nearest one, on a log scale.
    precision : {"auto", "f32", "int8"}
        Whether layers may be int8. ``"auto"``: decided for each batch size by measuring.
        ``"int8"``: every layer, except those that cost too much error, whatever the time.
        ``"f32"``: none.
    prune : {"proven", "never_on", "none"}
        Which units are left out. ``"proven"``: those that are provably off on the whole
        `input_range`, so that results do not change. ``"never_on"``: units as well that were never
        on in the rows that fit and choose, where the rows that check show the budget holds; it
        takes some thousands of them, and other rows may need these units. ``"none"``: none.
    factors : {"auto", "none"}
        Whether layers may be computed by low-rank factors. ``"auto"``: where that is measured to be
        faster and keeps the budget. ``"none"``: never.
    confidence : float
        Level of the budget's upper bound, above 0.5 and below 1. For rows like these, the
        probability of returning a network that exceeds the budget is meant to be at most
        ``1 - confidence``; docs/guarantees.md has the assumptions and measured rates.
    max_row_error : float, optional
        A second budget, on the worst row that checks: how far its outputs may be from the dense
        network's, in standard deviations of the outputs. For a classifier or a multilabel network
        the largest change of a probability.
    num_threads : int, optional
        Threads that calls will use; by default those of :func:`lrgate.get_num_threads`.
    input_range : (low, high), optional
        Bounds that raw inputs are promised to stay within, numbers or arrays (d,); by default the
        network's own `input_range`. Units that are provably off in it are left out.
    ranks : sequence of int, optional
        Ranks of gates and factors to try. By default some from 8 to 256, for factors to 512.
    seed : int
        Seed of the split of the rows and of random numbers in fitting. Times are measured, so two
        runs may still choose differently.
    progress : bool, optional
        Whether to show a progress bar on stderr; by default where that is a terminal.

    Returns
    -------
    Network
        With gates, factors, order of units, plan, probe, machine and report. Consecutive linear
        layers are merged where that is less work. Weights and biases below 2^-100 are zero if that
        hardly changes outputs, by less than 1e-12 of their standard deviation.

    Raises
    ------
    TypeError
        For another type of model, or arguments that are not numbers.
    UnsupportedModelError
        For a model that lrgate cannot run with the same results.
    ImportError
        If a package that reads the model is not installed.
    ValueError
        For rows of another width, too few, not finite, or outside the input range; for labels of
        another length or that the network does not have; for a budget outside 0 to 1, a
        `max_row_error` that is not above 0, a `confidence` that is not between 0.5 and 1, batch
        sizes below 1, or another `precision`, `prune` or `factors`; for ranks that need more rows.
    FileFormatError
        For a file that is not a model or is damaged. It is a ValueError.
    OSError
        For a file that cannot be read.

    References
    ----------
    Angelopoulos, Bates, Candes, Jordan and Lei, "Learn then Test: Calibrating Predictive Algorithms
    to Achieve Risk Control", arXiv 2110.01052, 2021: fixed-sequence testing.

    Examples
    --------
    >>> import lrgate
    >>> net, x, y = lrgate.examples.mnist()
    >>> fast = lrgate.optimize(net, x, y, progress=False)
    >>> print(fast.report)  # doctest: +SKIP
    """
    begin = time.perf_counter()
    net = as_network(model, x)
    budget = checked_share(max_error_increase, "max_error_increase")
    sizes = checked_sizes(batch_sizes)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    threads = (
        get_num_threads() if num_threads is None else checked_count(num_threads, "num_threads")
    )
    seed = checked_integer(seed, "seed", least=0)
    if prune not in PRUNES:
        raise ValueError(f"prune must be one of {', '.join(PRUNES)}, got {prune!r}")
    if factors not in FACTORS:
        raise ValueError(f"factors must be one of {', '.join(FACTORS)}, got {factors!r}")
    level = checked_confidence(confidence)
    most = checked_row_error(max_row_error)
    rows = checked_rows(x, net.input_size, _LEAST_ROWS)
    taken, targets = net, None
    if y is not None:
        labels = label_array(y)
        taken = for_targets(net, labels)
        targets = checked_targets(taken, labels, rows.shape[0])
    user = without_gates(taken, input_range)
    check_range(rows, user)
    split = Split.of(rows, targets, seed)
    bounded = bounded_rows(user, split.fit), bounded_rows(user, split.tune)
    huge = sum(int((~each).sum()) for each in bounded)
    if huge and budget > 0:  # without a budget nothing is fitted
        split = split.where(*bounded)
        if min(split.fit.shape[0], split.tune.shape[0]) < _LEAST_ROWS // 10:
            raise ValueError("x must have more rows on which values in the network are below 1e16")
    request = Request(
        budget=budget,
        confidence=level,
        max_row_error=most,
        sizes=tuple(sizes),
        precision=precision,
        prune=prune,
        threads=threads,
        seed=seed,
        ranks=checked_ranks(ranks, split.rows_fitted),
        ranks_given=ranks is not None,
        factors=factors,
    )
    with progress_bar(progress, steps=10 + 2 * len(user.layers)) as bar:
        problem = Problem.of(user, split, request, bar)
        merged = problem.merged()
        if merged is not None and Clock(merged).merging_pays(problem.base, merged.base):
            problem = merged
        elif merged is not None:
            problem.notes.append("linear layers in a row are kept: merged they are slower here")
        if huge and budget > 0:
            problem.notes.append(
                f"{huge} rows fit and choose nothing: values in the network are above 1e16 on them"
            )
        if taken is not net:
            problem.notes.append(f"y holds labels: the classes are {_listed(taken.classes)}")
        elif targets is not None and declared_task(net) is None and _are_two_values(targets):
            both = np.unique(label_array(y)).tolist()
            problem.notes.append(
                "y holds two whole numbers, and the network has one output and no task: it is a "
                f"regressor. For two classes declare classes={both}"
            )
        fast = Search(problem).run(begin)
    # Only targets determine a task that was left open.
    return replaced(fast, task=declared_task(net)) if y is None else fast


def _are_two_values(targets: npt.NDArray[Any]) -> bool:
    """Whether targets of one output look like labels of two classes."""
    found = np.unique(targets)
    whole = bool((found == np.rint(found)).all())
    return targets.size == len(targets) and len(found) == 2 and whole


def _listed(classes: npt.NDArray[Any] | None) -> str:
    return reprlib.repr([] if classes is None else classes.tolist())

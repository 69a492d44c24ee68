"""`sparsify`: trains a network further until few of its units are active."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrgate.frameworks.loading import as_network
from lrgate.inputs import checked_count, checked_integer, checked_number, checked_share
from lrgate.network import Network, declared_task, replaced
from lrgate.planner.arguments import checked_confidence
from lrgate.planner.plans import without_gates
from lrgate.planner.progress import progress_bar
from lrgate.results.sparsification import SparsifyReport
from lrgate.torch.sparsity.checkpoint import Checkpoint, check_folder
from lrgate.torch.sparsity.outcome import Outcome
from lrgate.torch.sparsity.problem import Parts, Problem, check_layers, classifier_of
from lrgate.torch.sparsity.search import Search

__all__ = ["sparsify"]

_MOST_BATCH: Final = 256
_LEAST_STEPS: Final = 50


def sparsify(
    model: Any,
    x: Any,
    y: npt.ArrayLike | None = None,
    *,
    max_error_increase: float = 0.001,
    x_val: Any = None,
    y_val: npt.ArrayLike | None = None,
    relufy: bool = False,
    augment: Callable[[Tensor], Tensor] | None = None,
    epochs: int = 60,
    batch_size: int | None = None,
    learning_rate: float = 1e-3,
    confidence: float = 0.95,
    checkpoint: str | os.PathLike[str] | None = None,
    num_threads: int = 1,
    seed: int = 0,
    progress: bool | None = None,
) -> tuple[Network, SparsifyReport]:
    """Train a network further so that few of its units are active, within an error budget.

    The result is for :func:`lrgate.optimize`: lrgate skips zeros, so it runs networks with few
    active units much faster. The network learns to repeat its own outputs, and the labels if they
    are given, while active units have a price, which is a multiple of their measured time. Units
    that are not worth it are removed, and small outputs of a layer become 0 by a threshold. The
    price rises from round to round as long as held-out rows keep the budget.

    Parameters
    ----------
    model : Network, torch.nn.Module, path, or model of scikit-learn, ONNX or Keras
        As for :func:`lrgate.optimize`. It is not changed.
    x : array-like or scipy.sparse (n, d)
        Real input rows: at least 100, preferably those that the network was trained on.
    y : array-like (n,) or (n, k), optional
        Labels or values, as for :func:`lrgate.optimize`.
    max_error_increase : float, default 0.001
        The budget, as for :func:`lrgate.optimize`. With `y` it limits the increase of the error;
        without `y` the disagreement with the given network, which takes a larger budget, such as
        0.01. With 0 nothing changes.
    x_val, y_val : array-like, optional
        Rows that choose the strength and check the budget. They must share no rows with `x`, and
        preferably none with the rows that the network was trained on: it has a lower error on
        those, which no other network keeps. At least 50; `y_val` is given if `y` and `x_val` are,
        and not otherwise. By default, two fifths of `x` are held out.
    relufy : bool, default False
        Move other activations of hidden layers, such as tanh and gelu, to ReLU first. The report
        has the cost. Otherwise they are refused.
    augment : callable, optional
        Changes the rows of each training step, such as moving images by a pixel: takes and returns
        a tensor of raw rows, float32 (n, d). Labels stay.
    epochs : int, default 60
        Most passes over the rows that train.
    batch_size : int, optional
        Rows per training step; by default at most 256, and fewer for fewer rows.
    learning_rate : float, default 0.001
        The highest of each round, for Adam.
    confidence : float, default 0.95
        Level of the budget's upper bound, above 0.5 and below 1.
    checkpoint : path-like, optional
        File for the progress after each round of 5 epochs. If it exists, the same call goes on from
        it, as after Ctrl-C; `epochs` may be larger, and fewer have no effect.
    num_threads : int, default 1
        Threads of PyTorch during the call.
    seed : int, default 0
        Seed of the split of the rows and of the training. Times are measured, so two runs may
        differ.
    progress : bool, optional
        Whether to show a progress bar on stderr; by default where that is a terminal.

    Returns
    -------
    (Network, lrgate.results.SparsifyReport)
        The network with dense plan, and the report, which is also in its ``metadata["sparsify"]``.
        The given network if no faster one was shown to keep the budget; a note says so.
        ``network.to_torch()`` is a module.

    Raises
    ------
    TypeError
        For another type of model, or arguments that are not numbers.
    UnsupportedModelError
        For a model that lrgate cannot run with the same results.
    ValueError
        For rows of another width, too few, or not finite; for labels of another length, that the
        network does not have, or that are all the same; for a network without hidden layers whose
        outputs can be 0; for a value out of range; for a `checkpoint` of another call.
    OSError
        If `checkpoint` cannot be written.

    See Also
    --------
    lrgate.optimize : Finds the fastest plan for a network.

    Examples
    --------
    >>> import lrgate, lrgate.torch
    >>> sparse, report = lrgate.torch.sparsify(model, x, y)  # doctest: +SKIP
    >>> print(report)  # doctest: +SKIP
    >>> fast = lrgate.optimize(sparse, x_val, y_val)  # doctest: +SKIP
    """
    net = as_network(model, x)
    budget = checked_share(max_error_increase, "max_error_increase")
    level = checked_confidence(confidence)
    epochs = checked_count(epochs, "epochs")
    threads = checked_count(num_threads, "num_threads")
    seed = checked_integer(seed, "seed", least=0)
    rate = checked_number(learning_rate, "learning_rate")
    if not rate > 0:
        raise ValueError(f"learning_rate must be above 0, got {learning_rate}")
    if augment is not None and not callable(augment):
        raise TypeError(f"augment must be callable, got {type(augment).__name__}")
    check_layers(net, relufy)
    check_folder(checkpoint)
    taken = classifier_of(net, y)
    parts = Parts.of(taken, x, y, x_val, y_val, seed)
    if batch_size is None:
        size = int(np.clip(parts.train.shape[0] // _LEAST_STEPS, 8, _MOST_BATCH))
    else:
        size = checked_count(batch_size, "batch_size")
    user = without_gates(taken, None)
    with _settings(threads), progress_bar(progress, steps=epochs) as bar:
        bar.set_description("training")
        problem = Problem(user, parts, budget, level, epochs, size, rate, augment, seed, bar)
        file = Checkpoint(checkpoint, problem)
        search = Search(problem, file.read())
        if budget > 0:
            search.run(file.write)
        outcome = Outcome(problem, search)
        report = outcome.report()
    found = taken if outcome.network is user else outcome.network
    if y is None:
        # Only targets determine a task that was left open.
        found = replaced(found, task=declared_task(net))
    return found.with_metadata(found.metadata | {"sparsify": report.to_dict()}), report


@contextmanager
def _settings(threads: int) -> Iterator[None]:
    """Threads and modes of PyTorch, and a random state that is the caller's again afterwards."""
    before, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.random.fork_rng(devices=[]),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.device("cpu"),
        ):
            yield
    finally:
        torch.set_num_threads(before)
        torch.set_default_dtype(dtype)

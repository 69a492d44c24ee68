"""The monitor: compares a sample of a network's calls with the dense network."""

from __future__ import annotations

import logging
import math
import os
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from lrgate.drift.window import SlidingSums
from lrgate.inputs import checked_integer, is_real, real_array
from lrgate.model.plan import words
from lrgate.results.drift import MEASURES, Drift, LayerDrift, MonitorReport
from lrgate.types import Float64Array

if TYPE_CHECKING:
    from lrgate._core import Head
    from lrgate.model.layer import Layer
    from lrgate.network import Network
    from lrgate.types import Float32Array

__all__ = [
    "Monitor",
]


_log: Final = logging.getLogger("lrgate.monitor")

# Sampled rows that are recomputed together, and that leave the window together.
_PIECE: Final = 64
# Counts of the engine for each layer. In the sums, the number of gated rows precedes them.
_COUNTS: Final = ("inputs", "outputs", "computed", "active", "kept", "energy", "lost")
# Two-sided 95 % quantile of the normal distribution.
_Z: Final = 1.959964
# Outputs whose variance is below this share of their mean square count as constant: rounding.
_ROUNDING: Final = 1e-13


class Monitor:
    """A network that monitors a sample of its own calls.

    ``net.monitor(...)`` creates it; it is called in place of the network. Results are the same as
    the network's. Each row is sampled independently with probability `rate`. After the result of a
    call is computed, its sampled rows are recomputed on the calling thread, gated and dense. The
    cost is proportional to the rate: a call without a sampled row takes a fraction of a microsecond
    more, a call with a sampled row takes about as long as a few dense calls. The weights are also
    kept in the dense layout, in addition to the layout of the plan.

    It has the network's `task`, `classes`, `layers`, `input_size` and `output_size`. Other
    attributes are those of its `network`.

    At the end of a ``with`` block, sampling stops; calls still work.

    Threads may share a monitor. After a fork, each process counts separately. An error during the
    comparison of rows is logged once, with its traceback, at level ERROR, and stops the sampling;
    the call does not fail.

    Parameters
    ----------
    net : Network
    rate : float, default 0.001
        Share of the rows to sample: above 0, at most 1.
    max_disagreement : float, optional
        Warn if the disagreement in the window (see :class:`Drift`) exceeds this value.
    max_lost_energy : float, optional
        Warn if the lost energy of a layer in the window exceeds this value.
    window : int, default 1000
        Number of latest sampled rows over which the window's statistics are computed. Rows sampled
        from one call leave the window together, up to 64 at a time, so it may hold up to 63 more.
    min_rows : int, default 100
        Number of rows that the window must hold before a warning is logged.
    seed : int, optional
        Seed of the sampling, for repeatable results.

    Raises
    ------
    ValueError
        If a number is out of range, or `window` is below `min_rows`.
    TypeError
        If an argument is not a number, or `seed` not an integer.

    Notes
    -----
    Warnings go to the logger ``"lrgate.monitor"``, at level WARNING. A warning is logged when a
    statistic rises above its threshold, and again only after it has fallen below.

    Examples
    --------
    >>> import lrgate
    >>> net, x, y = lrgate.examples.mnist()
    >>> with Monitor(net, rate=0.1, max_lost_energy=0.05, seed=0) as watched:
    ...     labels = watched.predict(x)
    >>> bool((labels == net.predict(x)).all())
    True
    >>> watched.report().rows_seen
    1000
    """

    def __init__(
        self,
        net: Network,
        rate: float = 0.001,
        *,
        max_disagreement: float | None = None,
        max_lost_energy: float | None = None,
        window: int = 1000,
        min_rows: int = 100,
        seed: int | None = None,
    ) -> None:
        if not (is_real(rate) and 0 < float(rate) <= 1):
            raise _refusal("rate", "a number above 0 and at most 1", rate)
        limits = {"max_disagreement": max_disagreement, "max_lost_energy": max_lost_energy}
        for name, limit in limits.items():
            if not (limit is None or (is_real(limit) and float(limit) >= 0)):
                raise _refusal(name, "None or a number of at least 0", limit)
        self._min_rows = checked_integer(min_rows, "min_rows")
        self._window_rows = checked_integer(window, "window")
        if self._window_rows < self._min_rows:
            raise ValueError(f"window must be at least min_rows={min_rows}, got {window}")
        if seed is not None:
            seed = checked_integer(seed, "seed", 0)
        self._rate = float(rate)
        self._max_disagreement = None if max_disagreement is None else float(max_disagreement)
        self._max_lost_energy = None if max_lost_energy is None else float(max_lost_energy)

        self._network = net
        # With all units: a unit that was omitted because it was never active may become active.
        self._dense = net._with_units([None] * len(net.layers)).dense()
        self._gated = {
            plan.rows: ["gate" in words(strategy) for strategy in plan.strategies]
            for plan in net.plan
        }
        # Counting needs weights that the plan does not use. Pack them here, not in a sampled call.
        for rows, gated in self._gated.items():
            if any(gated):
                net.engine.count(np.zeros((1, net.input_size), np.float32), rows)
        self._classes = net.classes
        self._task = net.task
        self._measure = MEASURES[self._task]
        self._head = net.engine.head(self._task)
        self._head_of_probabilities = self._head.of_probabilities()
        # Sums are vectors: the number of rows; the number of differing rows or label entries or,
        # for a regressor, the squared differences and the squares and sums of the dense outputs;
        # then the counts of each layer. `_entries` is the number of entries per row.
        self._entries = net.output_size if self._task == "multilabel" else 1
        self._first_count = 3 + net.output_size if self._task == "regression" else 2

        self._lock = threading.Lock()
        self._random = np.random.default_rng(seed)
        self._gap = self._next_gap()  # rows before the next sampled row
        self._sampling = True
        self.reset()
        _monitors.add(self)

    # The network

    @property
    def network(self) -> Network:
        """The network that is watched."""
        return self._network

    @property
    def task(self) -> str:
        """The network's task."""
        return self._task

    @property
    def classes(self) -> npt.NDArray[Any] | None:
        """The network's labels by class index; None unless it is a classifier."""
        return self._classes

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The network's layers."""
        return self._network.layers

    @property
    def input_size(self) -> int:
        """Width d of an input row."""
        return self._network.input_size

    @property
    def output_size(self) -> int:
        """Width k of an output row."""
        return self._network.output_size

    # Calls

    def __call__(self, x: Any, /) -> Float32Array:
        """Raw outputs of the last layer, as ``net(x)``."""
        y = self._network(x)
        self._sample(x, y, y.ndim == 1, self._head)
        return y

    def forward(
        self, x: Any, /, *, out: Float32Array | None = None, num_threads: int | None = None
    ) -> Float32Array:
        """Raw outputs of the last layer, as ``net.forward``."""
        arrays = isinstance(x, np.ndarray) and isinstance(out, np.ndarray)
        if arrays and self._sampling and np.may_share_memory(x, out):
            x = x.copy()  # the call overwrites it
        y = self._network.forward(x, out=out, num_threads=num_threads)
        self._sample(x, y, y.ndim == 1, self._head)
        return y

    def predict(self, x: Any, /, *, num_threads: int | None = None, nan_label: Any = None) -> Any:
        """Predicted labels or values, as ``net.predict``."""
        y = self._network.predict(x, num_threads=num_threads, nan_label=nan_label)
        one = self._task == "classification" or (
            self._task == "regression" and self._network.output_size == 1
        )
        self._sample(x, y, np.ndim(y) == (0 if one else 1))
        return y

    def predict_proba(self, x: Any, /, *, num_threads: int | None = None) -> Float32Array:
        """Class probabilities, as ``net.predict_proba``."""
        y = self._network.predict_proba(x, num_threads=num_threads)
        self._sample(x, y, y.ndim == 1, self._head_of_probabilities)
        return y

    def __enter__(self) -> Self:
        """Return the monitor."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop sampling."""
        self._sampling = False

    def __repr__(self) -> str:
        """Widths and task of the network, rate and counts."""
        layers = self._network.layers
        widths = "-".join(str(n) for n in (layers[0].inputs, *(layer.outputs for layer in layers)))
        with self._lock:
            seen, sampled = self._seen, int(self._total[0]) + self._skipped
            ended = "" if self._sampling else ", sampling ended"
        return (
            f"<lrgate.Monitor of {widths}, {self._task}, rate {self._rate:g}, "
            f"{seen} rows seen, {sampled} sampled{ended}>"
        )

    def __getattr__(self, name: str) -> Any:
        """Name the way to the network's other attributes."""
        message = f"'Monitor' object has no attribute {name!r}"
        network = self.__dict__.get("_network")
        if not name.startswith("_") and hasattr(type(network), name):
            message += f": write monitor.network.{name}"
        raise AttributeError(message, name=name, obj=self)

    def __reduce__(self) -> Any:
        """Refuse to be pickled or copied."""
        raise TypeError("a Monitor cannot be pickled or copied: pickle its network, and its report")

    # Results

    def report(self) -> MonitorReport:
        """Report the statistics since the monitor was created, or since the last :meth:`reset`."""
        with self._lock:
            seen, skipped, sampling = self._seen, self._skipped, self._sampling
            window, total = self._window.sums, self._total.copy()
        return MonitorReport(
            measure=self._measure,
            rows_seen=seen,
            rows_sampled=int(total[0]) + skipped,
            rows_skipped=skipped,
            sampling=sampling,
            window=self._drift(window),
            total=self._drift(total),
        )

    def reset(self) -> None:
        """Discard all statistics, and allow warnings to be logged again."""
        width = self._first_count + len(self._network.layers) * (1 + len(_COUNTS))
        with self._lock:
            self._seen = self._skipped = 0
            self._total = np.zeros(width)
            self._window = SlidingSums(self._window_rows, width)
            self._warned: set[str] = set()

    # Sampling

    def _sample(self, x: Any, y: Any, single: bool, head: Head | None = None) -> None:
        """Count the rows of a call on `x` with result `y`, and compare the sampled rows.

        `head` converts `y` to labels; None if it has labels or values already.
        """
        rows = 1 if single else len(y)
        with self._lock:
            if not self._sampling:
                return
            self._seen += rows
            self._gap -= rows
            if self._gap >= 0:
                return
            at = self._draw(rows)
        try:
            x = x.tocsr() if hasattr(x, "tocsr") else real_array(x)
            y = np.asarray(y)
            if single:
                x, y = x[None], y[None]
            x, y = x[at], y[at]
            for start in range(0, len(at), _PIECE):
                piece = slice(start, start + _PIECE)
                self._record(len(y[piece]), self._compare(x[piece], y[piece], rows, head))
        except Exception:
            with self._lock:
                first, self._sampling = self._sampling, False
            if first:
                with suppress(Exception):  # raised by a handler
                    _log.exception("comparing rows failed; no more rows are sampled")

    def _next_gap(self) -> int:
        return int(self._random.geometric(self._rate)) - 1

    def _draw(self, rows: int) -> npt.NDArray[np.int64]:
        """Ascending indices of the sampled rows of a call of `rows` rows in which the gap ended."""
        first = self._gap + rows
        self._gap = self._next_gap()
        # Gaps are memoryless: each row after the first is sampled independently.
        after = rows - first - 1
        number = self._random.binomial(after, self._rate)
        others = self._random.choice(after, number, replace=False, shuffle=False)
        return np.append(first, first + 1 + np.sort(others))

    def _compare(self, x: Any, y: npt.NDArray[Any], size: int, head: Head | None) -> Float64Array:
        """Sums over the rows of `x`, from a call of `size` rows; non-finite rows are left out.

        `y` is the result of the call: labels or values (n,), or outputs, probabilities or labels
        (n, k).
        """
        sums = np.zeros_like(self._total)
        expected = self._dense.forward(x, num_threads=1)
        finite = np.isfinite(expected).all(axis=1)
        if self._task == "regression":
            y = y.reshape(expected.shape)
        if y.ndim == 2 and y.dtype.kind == "f":
            finite &= np.isfinite(y).all(axis=1)
        if not finite.all():
            kept = np.flatnonzero(finite)
            x, y, expected = x[kept], y[kept], expected[kept]
        if len(y) == 0:
            return sums
        sums[0] = len(y)
        if self._task == "regression":
            expected = expected.astype(np.float64)
            sums[1] = np.sum((y - expected) ** 2)
            sums[2] = np.sum(expected**2)
            sums[3 : self._first_count] = expected.sum(axis=0)
        else:
            labels: npt.NDArray[Any] = self._head.labels(expected)
            if head is not None:
                y = head.labels(y)
            elif self._classes is not None:
                labels = self._classes[labels]
            # The `nan_label` of a row may be any value, and differs from all labels.
            sums[1] = np.count_nonzero(y != labels)
        engine = self._network.engine
        sums[self._first_count :] = [
            number
            for gated, counts in zip(
                self._gated[engine.batch_size_for(size)], engine.count(x, size), strict=True
            )
            for number in (gated * len(y), *(counts[name] for name in _COUNTS))
        ]
        # A layer may overflow although the outputs are finite, for example with clipped_relu.
        return sums if np.isfinite(sums).all() else np.zeros_like(sums)

    def _record(self, sampled: int, sums: Float64Array) -> None:
        """Add the sums over `sampled` rows, and log the warnings that are due."""
        with self._lock:
            self._skipped += sampled - int(sums[0])
            if sums[0] > 0:
                self._total += sums
                self._window.add(sums)
            warnings = self._due_warnings()
        for warning in warnings:
            _log.warning("%s is %.4g over the latest %d sampled rows, above %s=%g", *warning)

    # Statistics

    def _due_warnings(self) -> list[tuple[str, float, int, str, float]]:
        """Statistics that rose above their threshold since the last check. Needs the lock."""
        if self._max_disagreement is None and self._max_lost_energy is None:
            return []
        drift = self._drift(self._window.sums)
        if drift.rows < self._min_rows:
            return []
        limit, name = self._max_disagreement, "max_disagreement"
        figures = [(f"the {self._measure}", drift.disagreement, name, limit)]
        limit, name = self._max_lost_energy, "max_lost_energy"
        figures += [
            (f"the lost energy of layer {i}", layer.lost_energy, name, limit)
            for i, layer in enumerate(drift.layers)
        ]
        due = []
        for what, figure, name, limit in figures:
            if figure is None or limit is None or figure <= limit:
                self._warned.discard(what)
            elif what not in self._warned:
                self._warned.add(what)
                due.append((what, figure, drift.rows, name, limit))
        return due

    def _drift(self, sums: Float64Array) -> Drift:
        rows = int(sums[0])
        figure = low = high = None
        if self._task != "regression":
            figure = _ratio(sums[1], rows * self._entries, None)
            if figure is not None:
                low, high = _wilson(figure, rows)
        elif rows > 0:
            spread = sums[2] - np.sum(sums[3 : self._first_count] ** 2) / rows
            figure = float(sums[1] / spread) if spread > _ROUNDING * sums[2] else None
        counts = sums[self._first_count :].reshape(-1, 1 + len(_COUNTS)).tolist()
        layers = tuple(
            _layer_drift(layer, rows, *numbers)
            for layer, numbers in zip(self._network.layers, counts, strict=True)
        )
        return Drift(rows, figure, low, high, layers)


def _layer_drift(
    layer: Layer,
    rows: int,
    gated: float,
    inputs: float,
    outputs: float,
    computed: float,
    active: float,
    kept: float,
    energy: float,
    lost: float,
) -> LayerDrift:
    """Statistics of a layer. The engine does not count units that are zero."""
    return LayerDrift(
        inputs=layer.inputs,
        outputs=layer.outputs,
        density_in=_ratio(inputs, rows * layer.inputs, None),
        density_out=_ratio(outputs, rows * layer.outputs, None),
        computed_share=_ratio(computed, rows * layer.outputs, None),
        recall=_ratio(kept, active, 1.0) if gated else None,
        lost_energy=_ratio(lost, energy, 0.0) if gated else None,
        disagreement=_ratio(active - kept, gated * layer.outputs, None),
    )


def _ratio(part: float, whole: float, empty: float | None) -> float | None:
    return float(part / whole) if whole > 0 else empty


def _wilson(share: float, rows: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `rows` rows (Wilson 1927, JASA 22)."""
    weight = _Z * _Z / rows
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _refusal(name: str, expected: str, got: object) -> Exception:
    kind = ValueError if is_real(got) else TypeError
    return kind(f"{name} must be {expected}, got {got!r}")


_monitors: Final[weakref.WeakSet[Monitor]] = weakref.WeakSet()


def _after_fork() -> None:
    """Replace the locks: a thread that held one during the fork does not exist in the child."""
    for monitor in _monitors:
        monitor._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""The monitor: compares a sample of a network's calls with the dense network."""

from __future__ import annotations

import logging
import math
import numbers
import os
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from lrgate.drift.window import SlidingSums
from lrgate.inputs import is_real, real_array
from lrgate.results.drift import MEASURES, Drift, LayerDrift, MonitorReport
from lrgate.types import Float64Array

if TYPE_CHECKING:
    from lrgate.model.layer import Layer
    from lrgate.network import Network
    from lrgate.types import Float32Array

__all__ = [
    "Monitor",
]


_log: Final = logging.getLogger("lrgate.monitor")

# Sampled rows that are computed again at once, and that the window forgets at once.
_PIECE: Final = 64
# What the engine counts of a layer. It follows the number of rows on which the layer was gated.
_COUNTS: Final = ("inputs", "outputs", "computed", "active", "kept", "energy", "lost")
# The normal distribution's quantile of two-sided 95 %.
_Z: Final = 1.959964
# Outputs that vary by less than this share of their squares do not vary: that is rounding.
_ROUNDING: Final = 1e-13


class Monitor:
    """A network that watches itself: made by ``net.monitor(...)``, and called in its place.

    Calls give exactly what the network's give. Each row is sampled with probability `rate`,
    independently; sampled rows are computed again on the calling thread, gated and dense, once the
    call's result is there. So the cost is proportional to the rate: a call without a sampled row
    takes a fraction of a microsecond more, one with a sampled row about as long as a few dense
    calls. The weights' dense layout is held beside the plan's own.

    It has the network's `task`, `classes`, `layers`, `input_size` and `output_size`; everything
    else is at its `network`.

    Used in a ``with`` block, it samples no more rows after the block; calls still work.

    Threads may share a monitor. After a fork each process counts for itself. An error while rows
    are compared is logged once, with its traceback, at level ERROR, and ends the sampling; no call
    fails from it.

    Parameters
    ----------
    net : Network
    rate : float, default 0.001
        Share of the rows to sample: above 0, at most 1.
    max_disagreement : float, optional
        Warn where the window's disagreement (see :class:`Drift`) is above it.
    max_lost_energy : float, optional
        Warn where a layer's lost energy in the window is above it.
    window : int, default 1000
        Sampled rows that the latest figures are over. Rows sampled from one call leave it together,
        up to 64 at a time, so it may hold up to 63 more.
    min_rows : int, default 100
        Rows that the window must hold before there is a warning.
    seed : int, optional
        Makes the choice of rows repeatable.

    Raises
    ------
    ValueError
        If a number is out of range, or `window` is below `min_rows`.
    TypeError
        If an argument is no number.

    Notes
    -----
    Warnings go to the logger ``"lrgate.monitor"``, at level WARNING: one when a figure rises above
    its threshold, and again only after it fell back.

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
        if not (_is_integer(min_rows) and min_rows >= 1):
            raise _refusal("min_rows", "an integer of at least 1", min_rows)
        if not (_is_integer(window) and window >= min_rows):
            raise _refusal("window", f"an integer of at least min_rows={min_rows}", window)
        self._rate = float(rate)
        self._max_disagreement = None if max_disagreement is None else float(max_disagreement)
        self._max_lost_energy = None if max_lost_energy is None else float(max_lost_energy)
        self._window_rows = int(window)
        self._min_rows = int(min_rows)

        self._network = net
        # All units: one that was left out as never on may come on.
        self._dense = net.with_units([None] * len(net.layers)).dense()
        self._gated = {
            plan.rows: [strategy == "gate" for strategy in plan.strategies] for plan in net.plan
        }
        # What counts needs weights that the plan does not: packed here, not by a sampled call.
        for rows, gated in self._gated.items():
            if any(gated):
                net.engine.count(np.zeros((1, net.input_size), np.float32), rows)
        # Labels by class index, and the output above which the second of two classes is predicted.
        self._classes = net.classes
        self._task = net.task
        self._measure = MEASURES[self._task]
        self._boundary = 0.5 if net.layers[-1].activation.name == "sigmoid" else 0.0
        # Sums are vectors: the rows; differing rows or label entries, or squared differences,
        # squares and sums of the dense outputs; then each layer's counts.
        # Entries of a row that may differ.
        self._entries = net.output_size if self._task == "multilabel" else 1
        self._first_count = 3 + net.output_size if self._task == "regression" else 2

        self._lock = threading.Lock()
        self._random = np.random.default_rng(seed)
        self._gap = self._next_gap()  # rows to pass before the next that is sampled
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
        self._sample(x, y, y.ndim == 1, self._boundary)
        return y

    def forward(
        self, x: Any, /, *, out: Float32Array | None = None, num_threads: int | None = None
    ) -> Float32Array:
        """Raw outputs of the last layer, as ``net.forward``."""
        arrays = isinstance(x, np.ndarray) and isinstance(out, np.ndarray)
        if arrays and self._sampling and np.may_share_memory(x, out):
            x = x.copy()  # the call writes over it
        y = self._network.forward(x, out=out, num_threads=num_threads)
        self._sample(x, y, y.ndim == 1, self._boundary)
        return y

    def predict(self, x: Any, /, *, num_threads: int | None = None, nan_label: Any = None) -> Any:
        """Labels of a classifier, values of a regressor, as ``net.predict``."""
        y = self._network.predict(x, num_threads=num_threads, nan_label=nan_label)
        one = self._task == "classification" or (
            self._task == "regression" and self._network.output_size == 1
        )
        self._sample(x, y, np.ndim(y) == (0 if one else 1))
        return y

    def predict_proba(self, x: Any, /, *, num_threads: int | None = None) -> Float32Array:
        """Probabilities of a classifier's classes, as ``net.predict_proba``."""
        y = self._network.predict_proba(x, num_threads=num_threads)
        self._sample(x, y, y.ndim == 1)
        return y

    def __enter__(self) -> Self:
        """The monitor itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Sample no more rows."""
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
        """What was seen since the monitor was made, or since the last :meth:`reset`."""
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
        """Forget all rows, and that there were warnings."""
        width = self._first_count + len(self._network.layers) * (1 + len(_COUNTS))
        with self._lock:
            self._seen = self._skipped = 0
            self._total = np.zeros(width)
            self._window = SlidingSums(self._window_rows, width)
            self._warned: set[str] = set()

    # Sampling

    def _sample(self, x: Any, y: Any, single: bool, boundary: float = 0.5) -> None:
        """Count the rows of a call on `x` that gave `y`, and compare those that are sampled.

        Entries of `y` above the `boundary` stand for labels of a multilabel network.
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
                self._record(len(y[piece]), self._compare(x[piece], y[piece], rows, boundary))
        except Exception:
            with self._lock:
                first, self._sampling = self._sampling, False
            if first:
                with suppress(Exception):  # of a handler
                    _log.exception("comparing rows failed; no more rows are sampled")

    def _next_gap(self) -> int:
        return int(self._random.geometric(self._rate)) - 1

    def _draw(self, rows: int) -> npt.NDArray[np.int64]:
        """Which of the latest `rows` rows are sampled, ascending, where the gap ended in them."""
        first = self._gap + rows
        self._gap = self._next_gap()
        # Gaps have no memory: each row after the first is sampled whatever came before.
        after = rows - first - 1
        number = self._random.binomial(after, self._rate)
        others = self._random.choice(after, number, replace=False, shuffle=False)
        return np.append(first, first + 1 + np.sort(others))

    def _compare(self, x: Any, y: npt.NDArray[Any], size: int, boundary: float) -> Float64Array:
        """Sums over the rows of `x`, from a call of `size` rows, less those that are not finite.

        `y` is what the call gave: labels or values (n,), or outputs, probabilities or labels
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
        if self._task == "multilabel":
            labels = expected > self._boundary
            # A row's `nan_label` may be anything, and differs from either label.
            differs = (y > boundary) != labels if y.dtype.kind == "f" else y != labels.astype(int)
            sums[1] = np.count_nonzero(differs)
        elif self._classes is None:
            expected = expected.astype(np.float64)
            sums[1] = np.sum((y - expected) ** 2)
            sums[2] = np.sum(expected**2)
            sums[3 : self._first_count] = expected.sum(axis=0)
        elif y.ndim == 1:
            sums[1] = np.count_nonzero(y != self._classes[self._predicted(expected)])
        else:
            sums[1] = np.count_nonzero(self._predicted(y) != self._predicted(expected))
        engine = self._network.engine
        sums[self._first_count :] = [
            number
            for gated, counts in zip(
                self._gated[engine.class_for(size)], engine.count(x, size), strict=True
            )
            for number in (gated * len(y), *(counts[name] for name in _COUNTS))
        ]
        # A layer may overflow where the outputs are finite, under clipped_relu for one.
        return sums if np.isfinite(sums).all() else np.zeros_like(sums)

    def _predicted(self, y: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
        """Class indices (n,) that outputs or probabilities (n, k) stand for."""
        one = y.shape[1] == 1
        return np.asarray(y[:, 0] > self._boundary if one else y.argmax(axis=1), np.intp)

    def _record(self, sampled: int, sums: Float64Array) -> None:
        """Add sums over `sampled` rows, and warn where that is due."""
        with self._lock:
            self._skipped += sampled - int(sums[0])
            if sums[0] > 0:
                self._total += sums
                self._window.add(sums)
            warnings = self._due_warnings()
        for warning in warnings:
            _log.warning("%s is %.4g over the latest %d sampled rows, above %s=%g", *warning)

    # Figures

    def _due_warnings(self) -> list[tuple[str, float, int, str, float]]:
        """What rose above its threshold since it was last looked at; called under the lock."""
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
    """A layer's figures; the engine's counts leave out units that count as zero."""
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
    """Wilson's 95 % interval of a share among `rows` (Wilson 1927, JASA 22)."""
    weight = _Z * _Z / rows
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _refusal(name: str, expected: str, got: object) -> Exception:
    kind = ValueError if is_real(got) else TypeError
    return kind(f"{name} must be {expected}, got {got!r}")


_monitors: Final[weakref.WeakSet[Monitor]] = weakref.WeakSet()


def _after_fork() -> None:
    """Another thread may have held a lock as the process forked, and is not there to free it."""
    for monitor in _monitors:
        monitor._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

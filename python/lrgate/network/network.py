"""`Network`: a trained network, loaded or built, that answers calls.

The calls themselves (``net(x)``, ``forward``, ``predict``, ``predict_proba``) are in the compiled
base class; here is everything around them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from lrgate import _core, files, inputs
from lrgate.drift.monitor import Monitor
from lrgate.files.errors import FileFormatError
from lrgate.measure.machine import fingerprint
from lrgate.measure.phases import measure_phases
from lrgate.model.activation import Activation
from lrgate.model.arrays import as_classes, as_range
from lrgate.model.json import Machine
from lrgate.model.layer import Gate, Layer, Quantization
from lrgate.model.model import Model
from lrgate.model.plan import BatchPlan
from lrgate.model.probe import Probe
from lrgate.network.checking import (
    can_run,
    check_probe,
    check_rows,
    plan_text,
    planned_outputs,
    probe_rows,
)
from lrgate.network.construction import (
    activations_of,
    changed,
    check_transposed,
    input_map,
    layer_of,
    listed,
    not_a_model,
    one_per_layer,
    where,
)
from lrgate.network.engine import (
    batch_plans,
    build_engine,
    engine_gates,
    engine_quantization,
    full_width,
    layer_profile,
    units_before,
)
from lrgate.network.identity import array_bytes, token_of
from lrgate.network.planning import checked_precisions, checked_strategies
from lrgate.network.quantizing import (
    compare_int8,
    fit_int8,
    to_quantize,
    warn_of,
    with_fewer_layers,
)
from lrgate.network.tasks import check_task, declared, usual_task
from lrgate.quantization.rows import canonical, check_signals, split
from lrgate.results.optimization import OptimizeReport
from lrgate.results.phases import Phases
from lrgate.results.profile import Profile
from lrgate.results.quantization import QuantizationReport
from lrgate.types import Float32Array

__all__ = [
    "Network",
]


# Time for measuring the plan of a file from another machine, and the most batch sizes that such a
# plan may have: each takes a few calls at least.
_RETUNE_SECONDS: Final = 0.06
_RETUNE_BATCH_SIZES: Final = 16


class Network(_core.Network):
    """A trained fully connected network. It never changes; its methods return new networks.

    :meth:`load` reads one from a file, :meth:`from_layers` builds one from weights and biases. It
    may be shared by threads, pickled, and used after a fork.

    Methods
    -------
    __call__(x)
        The raw outputs of the last layer: float32 (n, k) for rows `x` of shape (n, d), (k,) for one
        row (d,). The same as :meth:`forward` without options, with less overhead.
    forward(x, *, out=None, num_threads=None)
        The same, float32 (n, k). `out`, a C-contiguous float32 array of the shape of the result,
        receives the outputs and is returned; it may overlap `x`.
    predict(x, *, num_threads=None, nan_label=None)
        The labels of a classifier, entries of :attr:`classes`, (n,). The labels 0 and 1 of a
        multilabel network, int64 (n, k). The values of a regressor, float32 (n, k), or (n,) if it
        has one output. For one row the result has no batch axis: a label is a NumPy scalar.
    predict_proba(x, *, num_threads=None)
        The probabilities of a classifier or of each label of a multilabel network: float32 (n, k),
        or (k,) for one row. A classifier with one output has k = 2.
    quantize(x), tune(x), profile(x), monitor(), save(path)
        See their own documentation, as for all other methods.

    Raises
    ------
    TypeError
        By the calls above, if `x` does not hold real numbers, or `out` is not a float32 array.
    ValueError
        By the calls above, if the shape of `x` or `out` does not fit, `num_threads` is below 1,
        :meth:`predict` meets outputs that are NaN and has no `nan_label`, or :meth:`predict_proba`
        is called on a regressor.
    MemoryError
        By the calls above, if there is no memory for the outputs or for packed weights.

    Notes
    -----
    **Rows.** `x` is (n, d), or (d,) for one row. float32 rows whose values are side by side are
    used in place, as are uint8 rows; float16, float64, integers, bool, other strides and byte
    orders are copied and converted to float32 as ``numpy.astype`` does. ``scipy.sparse`` rows are
    used as CSR, in place if they are CSR with float32 data.

    DataFrames, Series and tables of pandas, polars and pyarrow are taken if their columns hold
    numbers or bool, also nullable ones, sparse ones, categories that are numbers, and objects that
    are numbers; missing values become NaN. Other columns are refused by name. Arrays of objects are
    taken if all objects are numbers. Complex numbers, text and dates are refused, as are masked
    arrays with a masked cell: fill them first.

    **Missing values.** NaN in a row gives NaN in that row's outputs and probabilities, and changes
    no other row. :meth:`predict` of a classifier or a multilabel network raises ValueError for rows
    whose outputs are NaN, and names them. With `nan_label` these rows get that label instead (a
    multilabel network: in each of their k entries); labels are then objects if it is of another
    kind than the classes. A regressor gives NaN.

    **Multilabel networks.** With the task ``"multilabel"`` each output is a label of its own:
    present if the output of a sigmoid is above 0.5, or the raw output of another activation above
    0. Probabilities are the outputs of a sigmoid, or the sigmoid of the raw outputs.

    Examples
    --------
    >>> import numpy as np
    >>> hidden = (np.array([[1.0, -1.0], [2.0, 0.5]]), np.array([0.0, -1.0]))
    >>> output = (np.array([[1.0, 1.0], [0.0, 2.0]]), np.array([0.5, 0.0]))
    >>> net = Network.from_layers([hidden, output], classes=["cat", "dog"])
    >>> x = np.array([[3.0, 1.0], [-1.0, 1.0]], np.float32)
    >>> net(x)
    array([[ 8. , 11. ],
           [ 0.5,  0. ]], dtype=float32)
    >>> net.predict(x)
    array(['dog', 'cat'], dtype='<U3')
    >>> net.predict_proba(x).round(2)
    array([[0.05, 0.95],
           [0.62, 0.38]], dtype=float32)
    >>> net.predict(x[0])  # one row
    np.str_('dog')
    """

    _model: Model
    _report: OptimizeReport | None = None
    _quantization_report: QuantizationReport | None = None

    def __new__(cls, model: Model | None = None, engine: _core.Engine | None = None) -> Self:
        """Build a network from a model; for internal use."""
        if not isinstance(model, Model):
            raise TypeError(not_a_model(model))
        if engine is None:
            engine = build_engine(model)
        net = super().__new__(cls, engine, model.task or "regression", model.classes)
        net._model = model
        return net

    # Making and storing

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        tune: bool = True,
        task: str | None = None,
        classes: npt.ArrayLike | None = None,
    ) -> Self:
        """Load a network from a ``.npz`` or ``.safetensors`` file.

        Parameters
        ----------
        path : str or path-like
            The file. One with only ``layers.{i}.weight`` and ``layers.{i}.bias`` arrays loads too:
            relu on all layers but the last, dense plan.
        tune : bool, default True
            Where the file's plan was measured on another machine, and the file has a probe, measure
            it again on the probe's rows, for about a tenth of a second. A layer uses its gate only
            if the file's plan does in some batch size. False keeps the plan as it is.
        task : {"classification", "regression", "multilabel"}, optional
            The task, for a file that does not have one.
        classes : array-like (k,), optional
            Labels as in :meth:`from_layers`, for a file that does not have them. They make the task
            classification.

        Returns
        -------
        Network

        Raises
        ------
        FileFormatError
            If the file is not what lrgate writes, or is damaged, too large, or of a newer format. A
            file is never unpickled, sizes are checked before memory is taken, and the checksum is
            checked.
        ValueError
            If the suffix is neither of the two, `path` has a NUL character, or `task` or `classes`
            do not fit the network or differ from those of the file.
        TypeError
            If `classes` are not labels of one kind.
        OSError
            If the file cannot be read.
        MemoryError
            If the network does not fit into memory.

        Examples
        --------
        >>> weights = {"layers.0.weight": np.eye(2, dtype=np.float32)}
        >>> np.savez("plain.npz", **weights)  # doctest: +SKIP
        >>> net = Network.load("plain.npz", classes=["cat", "dog"])  # doctest: +SKIP
        """
        model = declared(files.load(path), task, classes)
        try:
            net = cls(model)
            if tune and model.machine not in (None, fingerprint()):
                with suppress(OSError, RuntimeError, MemoryError):  # the file's plan serves too
                    net = net._retune(_RETUNE_SECONDS)
        except ValueError as error:
            raise FileFormatError(f"{os.fspath(path)}: {error}") from error
        return net

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the network, with all that it has, as ``.npz`` or ``.safetensors``.

        The file is complete or not there: it is written beside `path` and then moved. It has a
        checksum, which :meth:`load` checks, and with a probe the outputs of the plan for
        :meth:`check`, which are computed now where the probe lacks them.

        Raises
        ------
        ValueError
            If the suffix is neither of the two, `path` has a NUL character, or the network has more
            than 10,000 layers.
        OSError
            If the file cannot be written; an older file then stays as it was.
        """
        model, probe = self._model, self._model.probe
        if probe is not None:
            model = replace(model, probe=replace(probe, planned=planned_outputs(self, probe)))
        files.save(path, model)

    @classmethod
    def from_layers(
        cls,
        layers: Sequence[tuple[npt.ArrayLike, npt.ArrayLike | None] | Layer],
        activations: Sequence[Any] | str | Activation | None = None,
        task: str | None = None,
        classes: npt.ArrayLike | None = None,
        input_scale: npt.ArrayLike | None = None,
        input_shift: npt.ArrayLike | None = None,
        input_range: tuple[npt.ArrayLike, npt.ArrayLike] | Float32Array | None = None,
    ) -> Self:
        """Build a network from weights and biases. Its plan is dense; see :meth:`tune`.

        A Layer that has a gate is gated, one that has a quantization runs in int8.

        Parameters
        ----------
        layers : sequence of (weight, bias) or of Layer
            weight (out, in), as in ``torch.nn.Linear``; bias (out,), or None for no bias.
            scikit-learn and Keras have weights (in, out): pass ``weight.T``. Where shapes show
            that, such weights are refused; where all layers are square, they cannot be told.
        activations : sequence, or one of its entries, optional
            One per layer: ``"relu"``, ``("clipped_relu", upper)``, ``("thresholded_relu",
            threshold)``, ``("leaky_relu", slope)``, ``"tanh"``, ``"sigmoid"``, ``"gelu"``,
            ``"softmax"`` or ``"identity"``. By default a Layer keeps its own, and others have relu
            on all layers except the last, which has identity. A single entry, such as ``"relu"``
            or ``("clipped_relu", 6)``, is that of all hidden layers; the last layer has its
            default.
        task : {"classification", "regression", "multilabel"}, optional
            By default classification where `classes` is given or the last activation is softmax or
            the sigmoid of one output; multilabel where several outputs are sigmoids. Otherwise it
            is left open: a regressor, unless :func:`lrgate.optimize` is given labels. With
            ``"classification"``, or `classes`, several sigmoids are one class of many: the largest.
        classes : array-like (k,), optional
            Labels that :meth:`predict` gives; two for a network with one output. By default
            0, 1, ... All str or all numbers; integers of any width become int64. A multilabel
            network has none.
        input_scale, input_shift : float or array-like (d,), optional
            The network computes on ``x * input_scale + input_shift``: callers pass raw values. It
            costs nothing at run time, but where a shift is above 16: then rows are mapped as they
            are read, and sparse rows are made dense.
        input_range : (low, high), optional
            Raw inputs are promised to be from `low` to `high`, each a number or array-like (d,).
            Units that no row in the range can switch on may be removed when the network is
            optimized; rows outside the range may then give other results than the full network.

        Raises
        ------
        ValueError
            If there is no layer, shapes do not fit, values are not finite, or a name is unknown.
        TypeError
            If an array is not one of real numbers, or classes are text and numbers mixed.
        """
        layers = listed(layers)
        made = [
            layer if isinstance(layer, Layer) else layer_of(layer, i)
            for i, layer in enumerate(layers)
        ]
        check_transposed(made)
        usual: list[Any] = ["relu"] * (len(made) - 1) + ["identity"] if made else []
        usual = [
            layer.activation if isinstance(layer, Layer) else name
            for layer, name in zip(layers, usual, strict=True)
        ]
        named = activations_of(activations, usual)
        made = [
            changed(layer, f"layers[{i}]", activation=a)
            for i, (layer, a) in enumerate(zip(made, named, strict=True))
        ]
        if task is None:
            task = usual_task(made, classes is not None)
        else:
            check_task(task)
        model = Model(
            layers=tuple(made),
            task=task,
            classes=None if classes is None else as_classes(classes),
            input_scale=input_map(input_scale, "input_scale"),
            input_shift=input_map(input_shift, "input_shift"),
            input_range=None if input_range is None else as_range(input_range),
        )
        return cls(model)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the model; packed weights are made again."""
        return (type(self), (self._model,))

    def __sizeof__(self) -> int:
        """Bytes in memory: arrays, weights in all layouts packed so far, and the object itself.

        Networks made from one another share arrays, which count in each of them.
        """
        return object.__sizeof__(self) + self.nbytes + array_bytes(self._model)

    def __dask_tokenize__(self) -> tuple[str, str]:
        """A deterministic hash of the weights, the plan, the task and the rest of the model.

        Equal networks have the same hash in every process, also after they are saved and loaded.
        """
        return ("lrgate.Network", token_of(self._model, self.plan))

    # What it is

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers: weight (out, in), bias (out,), activation, gate, kept units and quantization.

        Arrays are read-only.
        """
        return self._model.layers

    @property
    def task(self) -> str:
        """``"classification"``, ``"regression"`` or ``"multilabel"``.

        A network whose task is left open, by its file or by :meth:`from_layers`, is a regressor.
        :func:`lrgate.optimize` takes it for a classifier if it is given labels.
        """
        return self._model.task or "regression"

    @property
    def classes(self) -> npt.NDArray[Any] | None:
        """Labels by class index, of a classifier; None for a regressor or a multilabel network."""
        if self._model.task != "classification":
            return None
        if self._model.classes is not None:
            return self._model.classes
        return np.arange(max(self.output_size, 2))

    @property
    def input_size(self) -> int:
        """Width d of an input row."""
        return self.engine.input_size

    @property
    def output_size(self) -> int:
        """Width k of an output row."""
        return self.engine.output_size

    @property
    def input_scale(self) -> npt.NDArray[np.float32] | None:
        """Factor of raw inputs, () or (d,)."""
        return self._model.input_scale

    @property
    def input_shift(self) -> npt.NDArray[np.float32] | None:
        """Addend of scaled inputs, () or (d,)."""
        return self._model.input_shift

    @property
    def input_range(self) -> npt.NDArray[np.float32] | None:
        """Lowest and highest raw inputs that callers promise, (2,) or (2, d)."""
        return self._model.input_range

    @property
    def nbytes(self) -> int:
        """Bytes of weights the engine holds or reads in place, in all layouts packed so far."""
        return self.engine.nbytes

    @property
    def metadata(self) -> dict[str, Any]:
        """What the maker of the file noted: JSON values."""
        return dict(self._model.metadata)

    @property
    def plan(self) -> tuple[BatchPlan, ...]:
        """Strategy and precision of each layer, for each batch size, by ascending rows."""
        return batch_plans(self.engine)

    @property
    def probe(self) -> Probe | None:
        """Rows stored with the network, and its outputs on them."""
        return self._model.probe

    @property
    def machine(self) -> Machine | None:
        """The machine that the plan was measured on; None for a plan that was not measured."""
        return None if self._model.machine is None else dict(self._model.machine)

    @property
    def report(self) -> OptimizeReport | None:
        """What :func:`lrgate.optimize` did, if this network comes from it; ``print`` shows it.

        Raises
        ------
        ValueError
            If the network's file holds a report of another form, as another version may write it.
        """
        if self._report is None and self._model.report is not None:
            self._report = OptimizeReport.from_dict(self._model.report)
        return self._report

    @property
    def quantization_report(self) -> QuantizationReport | None:
        """How :meth:`quantize` compared this network with f32; ``print`` shows it.

        Only of the network that it returned: neither files nor copies have it.
        """
        return self._quantization_report

    def plan_for(self, rows: int = 1) -> BatchPlan:
        """The strategy and precision of each layer in a call with this many rows.

        Parameters
        ----------
        rows : int
            The number of rows of the call, 0 or more.

        Returns
        -------
        BatchPlan
            The entry of :attr:`plan` whose number of rows is nearest on a log scale. Its ``rows``
            is the batch size that it was made for.

        Raises
        ------
        TypeError
            If `rows` is not an integer.
        ValueError
            If `rows` is below 0.

        Examples
        --------
        >>> import lrgate
        >>> net, x, y = lrgate.examples.mnist()
        >>> net.plan_for(80).rows
        64
        >>> net.dense().plan_for(80).strategies
        ('dense', 'dense', 'dense', 'dense')
        """
        chosen = self.engine.class_for(inputs.checked_integer(rows, "rows", 0))
        return next(plan for plan in self.plan if plan.rows == chosen)

    def __repr__(self) -> str:
        """Widths, task and plan."""
        widths = "-".join(str(n) for n in (self.input_size, *(y.outputs for y in self.layers)))
        plans = ", ".join(f"{plan.rows}: {plan_text(plan)}" for plan in self.plan)
        return (
            f"<lrgate.Network {widths}, {self.task}, plan {{{plans}}}, {self.nbytes / 1e6:.1f} MB>"
        )

    # Other plans, gates, orders, precisions, notes

    def _with(self, engine: _core.Engine | None, **changes: Any) -> Self:
        probe = changes.get("probe", self._model.probe)
        if probe is not None and "layers" in changes and "probe" not in changes:
            changes["probe"] = replace(probe, planned=())  # other layers give other outputs
        elif probe is not None and probe.planned:
            # A probe of another network may have outputs of gates.
            planned = tuple(one for one in probe.planned if can_run(self.layers, one))
            changes["probe"] = replace(probe, planned=planned)
        return type(self)(replace(self._model, **changes), engine)

    def dense(self) -> Self:
        """The same weights, dense in f32 in every layer: what other plans are compared with.

        Units that are left out stay so; ``with_units([None] * len(layers))`` has all.
        """
        return self.with_strategies(["dense"] * len(self.layers))

    def with_strategies(
        self, strategies: Sequence[str], precision: str | Sequence[str] = "f32"
    ) -> Self:
        """The same weights under a plan of one batch size.

        Parameters
        ----------
        strategies : sequence of {"dense", "skip", "gate"}
            One per layer; "gate" only where the layer has a gate.
        precision : {"f32", "int8"} or sequence of them
            One for all layers, or one per layer; "int8" only where the layer has a quantization,
            and its gate, if it is used, a range: see :meth:`quantize`.

        Raises
        ------
        TypeError
            If an argument is not a sequence of names.
        ValueError
            If the number or a name is wrong, a layer has no gate, or is not quantised.
        """
        names = checked_strategies(strategies, self.layers)
        plan = [(1, names, checked_precisions(precision, names, self.layers))]
        return self._with_engine_plan(self.engine.with_plan(plan))

    def _with_engine_plan(self, engine: _core.Engine, machine: Machine | None = None) -> Self:
        return self._with(engine, plan=batch_plans(engine), machine=machine, report=None)

    def with_gates(self, gates: Mapping[int, Gate | None] | Sequence[Gate | None]) -> Self:
        """The same network with other gates; layers that get one use it in every batch size.

        Parameters
        ----------
        gates : mapping from layer index to Gate or None, or sequence of them, one per layer
            With a mapping, layers it does not name keep what they have. None takes a gate away.
            A layer whose gate stays as it is keeps its strategy and its precision. One that gets a
            gate without a range runs in f32.

        Raises
        ------
        ValueError
            If a gate is on the last layer or on a layer without a hard zero, its rank is not from 1
            to min(in, out), its shapes do not fit the layer, or a value is not finite.
        """
        old = [layer.gate for layer in self.layers]
        new = one_per_layer(gates, old, "gates")
        for i, gate in enumerate(new):
            if gate is not None and not isinstance(gate, Gate):
                raise TypeError(f"gates[{i}] must be a Gate or None, got {type(gate).__name__}")
        layers = tuple(
            changed(layer, f"gates[{i}]", gate=gate)
            for i, (layer, gate) in enumerate(zip(self.layers, new, strict=True))
        )
        engine = self.engine.with_gates(engine_gates(layers))
        kept = [a is not None and a is b for a, b in zip(old, new, strict=True)]
        return self._with_layers(layers, engine, kept)

    def _with_layers(
        self, layers: tuple[Layer, ...], engine: _core.Engine, kept: Sequence[bool]
    ) -> Self:
        """`layers` under the plan of their `engine`; the `kept` ones are planned as before."""
        if any(kept):
            plan = [
                (rows, where(kept, s0, s), where(kept, p0, p))
                for (rows, s0, p0), (_, s, p) in zip(self.engine.plan(), engine.plan(), strict=True)
            ]
            engine = engine.with_plan(plan)
        plans = batch_plans(engine)
        return self._with(engine, layers=layers, plan=plans, machine=None, report=None)

    def with_units(
        self, units: Mapping[int, npt.ArrayLike | None] | Sequence[npt.ArrayLike | None]
    ) -> Self:
        """The same network, of which the engine computes these units alone, in this order.

        Units that are not named count as constant zero. So results stay the same, to rounding,
        where only units are left out that are zero on every row. A probe stays as it is: where
        others are left out, store it again by :meth:`with_probe`. :attr:`layers` keep the full
        width and the user's order.

        Parameters
        ----------
        units : mapping from layer index to array of int or None, or sequence, one per layer
            Distinct units, from 0 to out - 1. With a mapping, layers it does not name keep what
            they have. None computes all units, in the order they have.

        Raises
        ------
        ValueError
            If units are named for the last layer or for softmax, a unit is not there, or is named
            twice, none is left, units of an activation without a hard zero are left out, or fewer
            are left than the rank of a gate.
        TypeError
            If the units of a layer are not integers.
        """
        new = one_per_layer(units, [layer.kept_units for layer in self.layers], "units")
        layers = tuple(
            changed(layer, f"units[{i}]", kept_units=kept)
            for i, (layer, kept) in enumerate(zip(self.layers, new, strict=True))
        )
        return self._with(None, layers=layers, plan=self.plan, machine=None, report=None)

    def with_quantization(
        self,
        quantization: Mapping[int, Quantization | None] | Sequence[Quantization | None],
    ) -> Self:
        """The same network with other int8 forms; layers that get one use it in every batch size.

        :meth:`quantize` finds them. Gates need a range to run in int8: a layer that runs a gate
        without one stays in f32.

        Parameters
        ----------
        quantization : mapping from layer index to Quantization or None, or sequence, one per layer
            How a layer's inputs become bytes. With a mapping, layers it does not name keep what
            they have. None takes a layer's int8 form away. A layer whose quantization stays as it
            is keeps its precision.

        Raises
        ------
        ValueError
            If a layer gets another number of scales or offsets than one or one for each input, a
            layer but the first one offset for each, or a layer of more than 65,536 inputs any.
        """
        old = [layer.quantization for layer in self.layers]
        new = one_per_layer(quantization, old, "quantization")
        for i, value in enumerate(new):
            if value is not None and not isinstance(value, Quantization):
                raise TypeError(
                    f"quantization[{i}] must be a Quantization or None, got {type(value).__name__}"
                )
        layers = tuple(
            changed(layer, f"quantization[{i}]", quantization=value)
            for i, (layer, value) in enumerate(zip(self.layers, new, strict=True))
        )
        engine = self.engine.with_quantization(engine_quantization(layers))
        kept = [a is not None and a is b for a, b in zip(old, new, strict=True)]
        return self._with_layers(layers, engine, kept)

    def quantize(self, x: Any, *, layers: Sequence[int] | None = None) -> Self:
        """The same network in int8: weights and inputs as bytes, fitted to real rows.

        The inputs of every layer on these rows choose its scales and offsets; weights become bytes
        with a scale for each unit. Gates stay, and get the `range` that int8 needs; strategies stay
        as they are. Calls take the same rows as before.

        A row with a value that does not fit the bytes, in the first layer or a later one, is
        recomputed in float32, without gates; the first such row packs the float32 weights, which
        are held from then on. So outliers and markers of missing values, here or in later rows,
        cost time and no accuracy. Order and size of columns and units do not matter.

        A quarter of the rows, at most 2,000, is held back and compared with float32:
        :attr:`quantization_report` has the result. A layer stays float32 where the error of its
        sums would be above 10 % of their spread, or where more than 10 % of the rows would be
        recomputed. Where int8 is expected to change more than 2.5 % of the labels, or moves the
        margins between labels by more than 6 % of their size, or a regressor's outputs by more than
        10 % of their standard deviation, the layers that do most damage go back to float32. This
        is checked on the held rows as they are, and without their outliers.

        Parameters
        ----------
        x : array-like or scipy.sparse (n, d)
            Real input rows; some hundreds, better a few thousand.
        layers : sequence of int, optional
            The layers to quantise; others stay as they are. By default all of at most 65,536
            inputs.

        Warns
        -----
        QuantizationWarning
            If a layer stays float32, int8 is still beyond a limit, or more than 5 % of the held
            rows are recomputed.

        Raises
        ------
        TypeError
            If `x` is not an array of real numbers, or `layers` not a sequence of integers.
        ValueError
            If `x` has no rows, another width, or a value that is not finite, or makes one in the
            network; if there is no such layer, or it has more than 65,536 inputs.

        Examples
        --------
        >>> import lrgate
        >>> net, x, y = lrgate.examples.mnist()
        >>> small = net.quantize(x[:500])
        >>> small.plan[0].precisions
        ('int8', 'int8', 'int8', 'int8')
        >>> bool((small.predict(x) != net.predict(x)).mean() < 0.01)
        True
        """
        rows = canonical(inputs.checked_rows(x, self.input_size))
        chosen = to_quantize(layers, self.layers)
        check_signals(rows, chosen, self.dense().layer_inputs)
        fit_rows, held = split(rows)
        net, fits = fit_int8(self, fit_rows, chosen)
        report = compare_int8(net, fit_rows, held, fits)
        if held.shape[0] and not report[1].within():
            net, report = with_fewer_layers(net, fit_rows, held, fits)
        net._quantization_report = report[0]
        warn_of(*report)
        return net

    def with_probe(self, x: Any) -> Self:
        """The same network with these rows and its outputs on them stored, for :meth:`check`.

        Stored are the outputs of the dense network, and of the plan where it has gates or int8.

        Parameters
        ----------
        x : array-like or scipy.sparse (n, d)
            A few real input rows, uint8 or converted to float32. Sparse rows are stored dense.

        Raises
        ------
        TypeError
            If `x` is not an array of real numbers.
        ValueError
            If `x` has no rows or another width, a value that is masked or not finite, or makes an
            output that is not finite; if sparse rows have more than 2**26 values when made dense.

        Examples
        --------
        >>> import lrgate
        >>> net, x, y = lrgate.examples.mnist()
        >>> net.with_probe(x[:64]).check() <= 1e-4
        True
        """
        rows = probe_rows(x, self.input_size)
        y = np.asarray(self.dense()(rows))
        check_rows("x must have finite outputs", y)
        probe = Probe(rows, y)
        return self._with(self.engine, probe=replace(probe, planned=planned_outputs(self, probe)))

    def with_metadata(self, metadata: Mapping[str, Any]) -> Self:
        """The same network with these notes (JSON values) in place of the old ones."""
        return self._with(self.engine, metadata=dict(metadata))

    def tune(
        self,
        x: Any,
        batch_sizes: Sequence[int] | npt.NDArray[np.integer] = (1, 64, 1024),
        *,
        seconds: float = 0.5,
    ) -> Self:
        """Choose the fastest strategy of each layer by measuring on this machine.

        The plan is stored with what tells this :attr:`machine` from others. Precisions stay.

        Gates that the network has are used where they are faster than dense and skip. For each
        batch size the layers are timed under each strategy, then whole calls decide between the
        mix, its neighbours and dense, one thread each.

        Parameters
        ----------
        x : array-like or scipy.sparse (n, d)
            Real input rows; a few hundred are enough.
        batch_sizes : sequence or array of int
            Batch sizes: a call uses the plan of the nearest number of rows, on a log scale.
        seconds : float
            About how long to measure for each batch size.

        Raises
        ------
        ValueError
            If `x` has no rows or another width, or a batch size is below 1 or given twice.
        TypeError
            If a batch size is not an integer.
        """
        sizes = inputs.as_list(batch_sizes, "batch_sizes")
        checked = [inputs.checked_integer(size, "batch_sizes") for size in sizes]
        engine = self.engine.tune(x, checked, seconds)
        return self._with_engine_plan(engine, fingerprint())

    def _retune(self, seconds: float) -> Self:
        """The same network, its plan measured here on its probe, in about `seconds` in all.

        Gates stay off if they are off in all batch sizes of the plan. A batch size that there is no
        time for keeps its plan.
        """
        probe, plan = self._model.probe, self._model.plan
        if probe is None or len(probe.x) == 0 or plan is None or len(plan) > _RETUNE_BATCH_SIZES:
            return self
        engine = self.engine.retune(probe.x, seconds)
        return self._with(engine, plan=batch_plans(engine), machine=fingerprint())

    # Looking inside

    def profile(self, x: Any, *, batch_size: int | None = None, seconds: float = 0.1) -> Profile:
        """What each layer does on these rows, and how long it takes.

        Parameters
        ----------
        x : array-like or scipy.sparse (n, d)
            Real input rows.
        batch_size : int, optional
            Rows per call; all of them by default. 1 shows the plan and time of single rows.
        seconds : float
            Repeat for about this long; times are medians.

        Returns
        -------
        Profile
            Per layer: strategy, precision, densities, computed share, recall, lost energy, share of
            dense multiply-adds, time per row. ``print`` shows a table.
        """
        x, rows, size = _sample(x, batch_size)
        raw = self.engine.profile(x, size, seconds)
        layers = tuple(
            layer_profile(layer, before, values)
            for layer, before, values in zip(
                self.layers, units_before(self.layers), raw, strict=True
            )
        )
        return Profile(layers, rows, size, _core.isa())

    def phases(self, x: Any, *, batch_size: int | None = None, seconds: float = 1.0) -> Phases:
        """Where the time of calls goes, phase by phase, beside the least that it could be here.

        Each phase of each layer (finding non-zeros, a gate's estimate and scores, products, bias
        and activation, ...) is timed inside real forward passes. Its bound is the longer of loading
        the bytes that it must read and doing the operations that it must do on these rows, at rates
        that are measured too.

        Parameters
        ----------
        x : array-like or scipy.sparse (n, d)
            Real input rows.
        batch_size : int, optional
            Rows per call; all of them by default.
        seconds : float
            Measure for about this long.

        Returns
        -------
        lrgate.results.Phases
            Per phase: time, bytes, operations and bound per row. ``print`` shows a table.

        Raises
        ------
        ValueError
            If `x` has no rows or rows of another width, or `batch_size` is below 1.
        """
        x, _, size = _sample(x, batch_size)
        return measure_phases(self, x, size, seconds)

    def layer_inputs(self, x: Any) -> list[npt.NDArray[np.float32]]:
        """Every layer's input on these rows: what gates are fitted on.

        Parameters
        ----------
        x : array-like or scipy.sparse (n, d)

        Returns
        -------
        list of float32 arrays (n, in)
            One per layer; the first is ``x * input_scale + input_shift``. Units that are not
            computed are zero. Bytes, of int8 layers, are the values they stand for.
        """
        return [
            full_width(values, order, layer.inputs)
            for values, order, layer in zip(
                self.engine.layer_inputs(x), units_before(self.layers), self.layers, strict=True
            )
        ]

    def monitor(
        self,
        rate: float = 0.001,
        *,
        max_disagreement: float | None = None,
        max_lost_energy: float | None = None,
        window: int = 1000,
        min_rows: int = 100,
        seed: int | None = None,
    ) -> Monitor:
        """A stand-in for the network that compares a sample of the rows with the dense network.

        Use it in place of the network, and as a context manager where the sampling is to end:
        drift of the inputs shows in its :meth:`~lrgate.Monitor.report`, and in warnings
        of the logger ``lrgate.monitor``.

        Parameters
        ----------
        rate : float
            Share of the rows that are sampled, above 0 and at most 1. A sampled row costs about two
            dense calls more.
        max_disagreement : float, optional
            Warn where the sample's disagreement with the dense network is above this.
        max_lost_energy : float, optional
            Warn where a gated layer's lost energy on the sample is above this.
        window : int
            How many of the latest sampled rows the warnings and the report's window look at.
        min_rows : int
            Sampled rows that a warning needs.
        seed : int, optional
            Of the sampling.

        Raises
        ------
        ValueError
            For a value out of range.

        Examples
        --------
        >>> import lrgate
        >>> net, x, y = lrgate.examples.mnist()
        >>> with net.monitor(rate=0.1, seed=0) as watched:
        ...     labels = watched.predict(x)
        >>> watched.report().total.disagreement <= 0.1
        True
        """
        return Monitor(
            self,
            rate,
            max_disagreement=max_disagreement,
            max_lost_energy=max_lost_energy,
            window=window,
            min_rows=min_rows,
            seed=seed,
        )

    def check(self) -> float:
        """Recompute the stored probe and compare: does the network still give what it gave?

        Compared are the outputs on the probe's rows

        - of the dense network, and of each plan with gates or int8 that they were stored for,
          with the stored ones;
        - of each batch size of the plan in use, with those stored for the same gates and
          precisions. Where there are none, because :meth:`load` measured the plan again and it
          has some of its gates alone, or because gates, units or quantizations changed since
          :meth:`with_probe`, with what they are with dense for skip.

        They may differ by 1e-4 of the largest. With gates and int8 rounding can move a unit across
        its threshold or an input to the next byte, so there more is allowed if the outputs moved by
        more than a quarter of that when they were stored, for inputs changed by a millionth and for
        skip in place of dense.

        Files of format version 1 have no outputs of plans. There the plan in use is checked
        loosely: its outputs may be off the dense ones by half of those, both as root mean squares.

        Returns
        -------
        float
            The largest difference from stored outputs, over the largest stored output.

        Raises
        ------
        ValueError
            If the network has no probe, or a difference is too large.

        Examples
        --------
        >>> import lrgate
        >>> net, x, y = lrgate.examples.mnist()
        >>> net.check() <= 1e-4
        True
        """
        return check_probe(self)


def _sample(x: Any, batch_size: int | None) -> tuple[Any, int, int]:
    """Rows to profile, how many they are, and rows a call."""
    if not hasattr(x, "tocsr"):
        x = inputs.real_array(x)
        if x.ndim == 0:
            raise ValueError("x must have shape (n, d) or (d,), got ()")
        if x.ndim == 1:
            x = x[None]
    rows = x.shape[0]
    size = max(rows, 1) if batch_size is None else batch_size
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}")
    return x, rows, size

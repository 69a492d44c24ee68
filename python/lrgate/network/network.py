"""`Network`: a trained network, loaded from a file or built from arrays.

The compiled base class implements the calls ``net(x)``, ``forward``, ``predict`` and
``predict_proba``. This module adds all other methods.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from lrgate import _core, files, inputs
from lrgate.drift.monitor import Monitor
from lrgate.files.errors import FileFormatError
from lrgate.inputs.optional import required
from lrgate.measure.machine import fingerprint
from lrgate.measure.phases import measure_phases
from lrgate.model.activation import Activation
from lrgate.model.arrays import as_classes, as_range
from lrgate.model.json import Machine
from lrgate.model.layer import Factors, Gate, Layer, Quantization
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
    have_same_units,
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
    engine_factors,
    engine_gates,
    engine_quantization,
    full_width,
    has_same_units,
    layer_profile,
    units_before,
)
from lrgate.network.identity import array_bytes, token_of
from lrgate.network.planning import checked_precisions, checked_strategies
from lrgate.network.quantizing import quantized, to_quantize, warn_of
from lrgate.network.tasks import check_task, declared, usual_task
from lrgate.quantization.rows import canonical, check_signals
from lrgate.results.optimization import OptimizeReport
from lrgate.results.phases import Phases
from lrgate.results.profile import Profile
from lrgate.results.quantization import QuantizationReport
from lrgate.types import Float32Array

__all__ = [
    "Network",
]


# Time for measuring the plan of a file from another machine, and the maximum number of batch sizes
# of such a plan, because each takes at least a few calls.
_RETUNE_SECONDS: Final = 0.06
_RETUNE_BATCH_SIZES: Final = 16


class Network(_core.Network):
    """A trained, fully connected network.

    :meth:`load` reads a network from a file, :meth:`from_layers` builds one from weights and
    biases. A network is immutable: methods such as :meth:`tune` return new networks. It can be
    shared between threads, pickled, and used after a fork.

    Methods
    -------
    __call__(x)
        Raw outputs of the last layer: float32 (n, k) for `x` of shape (n, d), or (k,) for one row
        of shape (d,). The same as :meth:`forward` without options, with less overhead.
    forward(x, *, out=None, num_threads=None)
        Raw outputs, float32 (n, k). If `out` is given, the outputs are written to it and it is
        returned. It must be a C-contiguous float32 array of the shape of the result, and may
        overlap `x`.
    predict(x, *, num_threads=None, nan_label=None)
        For a classifier, labels from :attr:`classes`, (n,). For a multilabel network, 0 or 1 for
        each label, int64 (n, k). For a regressor, values, float32 (n, k), or (n,) if it has one
        output. For one row, the result has no batch axis; the label of a classifier is then a
        NumPy scalar.
    predict_proba(x, *, num_threads=None)
        Probabilities of the classes, or of each label of a multilabel network: float32 (n, k), or
        (k,) for one row. A classifier with one output has k = 2.
    quantize(x), tune(x), profile(x), monitor(), save(path)
        See their own documentation, as for all other methods.

    Raises
    ------
    TypeError
        Raised by calls if `x` does not hold real numbers, or `out` is not a float32 array.
    ValueError
        Raised by calls if the shape of `x` or `out` is wrong, a finite value of `x` is beyond the
        range of float32, `num_threads` is below 1, outputs are NaN in :meth:`predict` of a
        classifier or multilabel network without `nan_label`, or a regressor gets
        :meth:`predict_proba` or `nan_label`.
    MemoryError
        Raised by calls if there is not enough memory for the outputs or packed weights.

    Notes
    -----
    **Rows.** `x` has shape (n, d), or (d,) for one row. float32 and uint8 arrays with contiguous
    rows are used in place. Arrays of float16, float64, other integers or bool, and arrays with
    other strides or byte orders, are copied and converted to float32. Infinities are accepted;
    outputs may then be NaN.
    ``scipy.sparse`` matrices are used as CSR, in place if they are CSR with float32 data.

    DataFrames, Series and tables of pandas, polars and pyarrow are accepted if their columns hold
    numbers or bool. Columns may be nullable or sparse, and may hold categories or objects that are
    numbers. Missing values become NaN. For any other column, the error message names the column.
    Arrays of objects are accepted if all objects are numbers. Complex numbers, text and dates are
    rejected, as are masked arrays with masked cells; fill these first.

    **Missing values.** NaN in a row gives NaN in the outputs and probabilities of that row, and
    changes no other row. If outputs are NaN, :meth:`predict` of a classifier or multilabel network
    raises ValueError; the message lists the first such rows. With `nan_label`, these rows get that
    label instead (in a multilabel network, in each of the k entries); if it is of another kind than
    the classes, the result is an array of objects. A regressor returns NaN.

    **Multilabel networks.** With the task ``"multilabel"``, each output is a separate label. It is
    present if the output is above 0.5 for a last layer with sigmoid, or above 0 for any other
    activation. Probabilities are the outputs of the sigmoid, or the sigmoid of the raw outputs.

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

    # Construction and files

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
            Path of the file. A file with only ``layers.{i}.weight`` and ``layers.{i}.bias`` arrays
            is also accepted; it gives a network with a dense plan and relu on all layers except the
            last.
        tune : bool, default True
            If the file's plan was measured on another machine and the file has a probe, measure the
            plan again on the probe's rows, in about a tenth of a second. A layer uses its gate or
            its factors only if the file's plan uses them for some batch size. False keeps the plan.
        task : {"classification", "regression", "multilabel"}, optional
            Task of the network, if the file does not have one.
        classes : array-like (k,), optional
            Labels as in :meth:`from_layers`, if the file does not have them. The task is then
            classification.

        Returns
        -------
        Network

        Raises
        ------
        FileFormatError
            If the file is not a model, is damaged or too large, or has a newer format. Files are
            never unpickled. Sizes are checked before memory is allocated, and the checksum is
            verified. The arrays of a file may take 4 GiB.
        ValueError
            If `path` has another suffix or a NUL character, or `task` or `classes` do not fit the
            network or differ from those in the file.
        TypeError
            If `classes` are not labels of one kind.
        OSError
            If the file cannot be read.
        MemoryError
            If the network does not fit in memory.

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
                with suppress(OSError, RuntimeError, MemoryError):  # keep the file's plan
                    net = net._retune(_RETUNE_SECONDS)
        except ValueError as error:
            raise FileFormatError(f"{os.fspath(path)}: {error}") from error
        return net

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the complete network to a ``.npz`` or ``.safetensors`` file.

        The file is replaced atomically: it is written under a temporary name in the same folder and
        then renamed. It has a checksum, which :meth:`load` verifies. If the network has a probe,
        the outputs of the plan that :meth:`check` needs are stored too, and are computed first if
        the probe lacks them.

        Raises
        ------
        ValueError
            If `path` has another suffix or a NUL character, the network has more than 10,000
            layers, its arrays take more than 4 GiB, or classes, metadata and report more than 4 MiB
            as JSON.
        OSError
            If the file cannot be written. An existing file is then unchanged.
        """
        model, probe = self._model, self._model.probe
        if probe is not None:
            model = replace(model, probe=replace(probe, planned=planned_outputs(self, probe)))
        files.save(path, model)

    def to_onnx(
        self,
        path: str | os.PathLike[str],
        *,
        opset: int = 17,
        input_name: str = "x",
        output_names: Sequence[str] | None = None,
    ) -> None:
        """Write the dense network to an ONNX file, for other engines.

        Gates, int8 ranges and the plan are not written: the file computes the outputs of
        :meth:`dense`. It is replaced atomically. :func:`lrgate.from_onnx` reads the same network
        back.

        Parameters
        ----------
        path : str or path-like
        opset : int, default 17
            Version of ONNX's operators, from 13.
        input_name : str, default "x"
            Name of the input, float32 (n, d).
        output_names : sequence of str, optional
            Names of the outputs. A classifier has two, by default ``("label", "probabilities")``:
            labels as :meth:`predict` returns them, (n,), and float32 (n, k) as of
            :meth:`predict_proba`. So has a multilabel network, with labels int64 (n, k). A
            regressor has one, by default ``("outputs",)``: float32 (n, k).

        Raises
        ------
        ValueError
            If `opset` is not supported, `output_names` do not fit, or the network is larger than
            2 GB, the limit of the format.
        ImportError
            If the package onnx is not installed.
        OSError
            If the file cannot be written. An existing file is then unchanged.

        Examples
        --------
        >>> net = Network.from_layers([(np.eye(2), None)], classes=["cat", "dog"])
        >>> net.to_onnx("model.onnx")  # doctest: +SKIP
        """
        from lrgate.export.onnx import write_onnx

        write_onnx(self._model, path, opset=opset, input_name=input_name, output_names=output_names)

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
        """Build a network from weights and biases.

        The plan is dense; :meth:`tune` measures a faster one. The gate, the factors and the
        quantization of a Layer are used as after :meth:`with_gates`, :meth:`with_factors` and
        :meth:`with_quantization`.

        Parameters
        ----------
        layers : sequence of (weight, bias) or of Layer
            Weight (out, in), as in ``torch.nn.Linear``, and bias (out,), or None for no bias. The
            weights of scikit-learn and Keras are (in, out): pass ``weight.T``. Transposed weights
            raise an error if the shapes show it; with square layers, they cannot be detected.
        activations : sequence, or one of its entries, optional
            One per layer: a name, or a name with parameters, such as ``"relu"``,
            ``("clipped_relu", upper)`` or ``("prelu", slopes)``; see :class:`Activation`. By
            default, a Layer keeps its activation; for pairs, hidden layers have relu and the last
            layer has identity. A single entry, such as
            ``"relu"`` or ``("clipped_relu", 6)``, applies to all hidden layers; the last layer
            then has its default.
        task : {"classification", "regression", "multilabel"}, optional
            By default, classification if `classes` is given or the last activation is softmax,
            log_softmax or sigmoid with one output, and multilabel if it is sigmoid with several
            outputs. Otherwise the task is undeclared: the network is a regressor, but
            :func:`lrgate.optimize` makes it a classifier if it is given labels. With
            ``"classification"`` or `classes`, several sigmoid outputs are exclusive classes: the
            largest output gives the label.
        classes : array-like (k,), optional
            Labels that :meth:`predict` returns; two for a network with one output. By default
            0, 1, ... All str or all numbers; integers of any width become int64. A multilabel
            network has no classes.
        input_scale, input_shift : float or array-like (d,), optional
            The network computes on ``x * input_scale + input_shift``: callers pass raw values. This
            is free at run time, except if the magnitude of a shift exceeds 16: rows are then mapped
            while they are read, and sparse rows become dense.
        input_range : (low, high), optional
            Range of raw inputs that callers guarantee; each limit is a number or array-like (d,).
            :func:`lrgate.optimize` may remove units that no row in the range can activate. For rows
            outside the range, results may then differ from those of the full network.

        Raises
        ------
        ValueError
            If there is no layer, shapes do not fit, values are not finite, or a name is unknown.
        TypeError
            If an array does not hold real numbers, or classes are a mixture of text and numbers.
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

    def to_torch(self) -> Any:
        """The dense network as a PyTorch module.

        Returns
        -------
        torch.nn.Sequential
            Linear layers and activations in float32, in inference mode and without gradients. Its
            outputs are the raw outputs of :meth:`dense`. If the network has an input scale or
            shift, the first module applies it. Gates, int8, labels and plan are left out;
            :class:`lrgate.torch.Accelerated` is a module that runs the network itself.

        Raises
        ------
        ImportError
            If PyTorch is not installed.

        Examples
        --------
        >>> import lrgate
        >>> net, x, y = lrgate.examples.mnist()
        >>> module = net.to_torch()
        >>> module(torch.from_numpy(x)).argmax(1)  # doctest: +SKIP
        """
        required("torch", "torch", "Network.to_torch")
        from lrgate.export.torch import to_module

        return to_module(self._model)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the model. Weights are packed again after unpickling."""
        return (type(self), (self._model,))

    def __sizeof__(self) -> int:
        """Bytes in memory: arrays, weights in all layouts packed so far, and the object itself.

        Networks derived from one another share arrays. These count in each of the networks.
        """
        return object.__sizeof__(self) + self.nbytes + array_bytes(self._model)

    def __dask_tokenize__(self) -> tuple[str, str]:
        """A deterministic hash of the weights, the plan, the task and the rest of the model.

        Equal networks have the same hash in every process, including networks that were saved and
        loaded.
        """
        return ("lrgate.Network", token_of(self._model, self.plan))

    # Properties

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers: weight (out, in), bias (out,), activation and further parts.

        These are gate, kept units, quantization and factors. Arrays are read-only.
        """
        return self._model.layers

    @property
    def task(self) -> str:
        """``"classification"``, ``"regression"`` or ``"multilabel"``.

        If neither the file nor :meth:`from_layers` declares a task, the network is a regressor.
        :func:`lrgate.optimize` makes it a classifier if it is given labels.
        """
        return self._model.task or "regression"

    @property
    def classes(self) -> npt.NDArray[Any] | None:
        """Labels of a classifier by class index; None for a regressor or a multilabel network."""
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
        """Factor by which raw inputs are multiplied, () or (d,); None if there is none."""
        return self._model.input_scale

    @property
    def input_shift(self) -> npt.NDArray[np.float32] | None:
        """Value that is added to scaled inputs, () or (d,); None if there is none."""
        return self._model.input_shift

    @property
    def input_range(self) -> npt.NDArray[np.float32] | None:
        """Minimum and maximum of raw inputs that callers guarantee, (2,) or (2, d), or None."""
        return self._model.input_range

    @property
    def nbytes(self) -> int:
        """Bytes of weights, held by the engine or read in place, in all layouts packed so far."""
        return self.engine.nbytes

    @property
    def metadata(self) -> dict[str, Any]:
        """Notes that are stored with the network: JSON values."""
        return dict(self._model.metadata)

    @property
    def plan(self) -> tuple[BatchPlan, ...]:
        """Strategy and precision of each layer for each batch size, in ascending order of rows."""
        return batch_plans(self.engine)

    @property
    def probe(self) -> Probe | None:
        """Rows stored with the network, and its outputs on them."""
        return self._model.probe

    @property
    def machine(self) -> Machine | None:
        """The machine on which the plan was measured; None for a plan that was not measured."""
        return None if self._model.machine is None else dict(self._model.machine)

    @property
    def report(self) -> OptimizeReport | None:
        """The report of :func:`lrgate.optimize`, if the network results from it; otherwise None.

        ``print`` shows it.

        Raises
        ------
        ValueError
            If the report in the network's file has an unknown form, for example because another
            version of lrgate wrote it.
        """
        if self._report is None and self._model.report is not None:
            self._report = OptimizeReport.from_dict(self._model.report)
        return self._report

    @property
    def quantization_report(self) -> QuantizationReport | None:
        """The comparison with f32, if :meth:`quantize` returned this network; otherwise None.

        ``print`` shows it. Files, copies and derived networks do not have it.
        """
        return self._quantization_report

    @property
    def least_margin(self) -> float:
        """Rows with a smaller margin between labels are recomputed; see `with_least_margin`.

        Entries of :attr:`plan` may have a smaller one.
        """
        return self._model.least_margin

    def plan_for(self, rows: int = 1) -> BatchPlan:
        """The plan of a call with this many rows.

        Parameters
        ----------
        rows : int
            The number of rows of the call, 0 or more.

        Returns
        -------
        BatchPlan
            The entry of :attr:`plan` whose number of rows is nearest on a log scale. Its ``rows``
            is the batch size for which it was made.

        Raises
        ------
        TypeError
            If `rows` is not an integer.
        ValueError
            If `rows` is below 0 or above 2**63 - 1.

        Examples
        --------
        >>> import lrgate
        >>> net, x, y = lrgate.examples.mnist()
        >>> net.plan_for(80).rows
        64
        >>> net.dense().plan_for(80).strategies
        ('dense', 'dense', 'dense', 'dense')
        """
        chosen = self.engine.batch_size_for(inputs.checked_count(rows, "rows", 0))
        return next(plan for plan in self.plan if plan.rows == chosen)

    def __repr__(self) -> str:
        """Widths, task and plan."""
        widths = "-".join(str(n) for n in (self.input_size, *(y.outputs for y in self.layers)))
        plans = ", ".join(f"{plan.rows}: {plan_text(plan)}" for plan in self.plan)
        least = f", least margin {self.least_margin:.3g}" if self.least_margin else ""
        return (
            f"<lrgate.Network {widths}, {self.task}, plan {{{plans}}}{least}, "
            f"{self.nbytes / 1e6:.1f} MB>"
        )

    # Networks with other plans, gates, units, precisions and notes

    def _with(self, engine: _core.Engine | None, **changes: Any) -> Self:
        probe = changes.get("probe", self._model.probe)
        if probe is not None and "layers" in changes and "probe" not in changes:
            changes["probe"] = replace(probe, planned=())  # other layers give other outputs
        elif probe is not None and probe.planned:
            # A probe of another network may have outputs that need its gates or quantizations.
            planned = tuple(one for one in probe.planned if can_run(self.layers, one))
            changes["probe"] = replace(probe, planned=planned)
        return type(self)(replace(self._model, **changes), engine)

    def dense(self) -> Self:
        """Return the network with every layer dense in f32, the reference for other plans.

        Units that were left out are still left out; ``with_units([None] * len(layers))`` restores
        them.
        """
        return self.with_strategies(["dense"] * len(self.layers))

    def with_strategies(
        self, strategies: Sequence[str], precision: str | Sequence[str] = "f32"
    ) -> Self:
        """Return the network with a plan that is the same for all batch sizes.

        Parameters
        ----------
        strategies : sequence of str
            One per layer: "dense" or "skip"; "gate" for layers with a gate; for layers with
            factors "factor", or "skip-factor" to skip zero inputs; for layers whose factors have a
            gate also "factor-gate" and "skip-factor-gate".
        precision : {"f32", "int8"} or sequence of them
            One for all layers, or one per layer. "int8" requires a quantization of the layer and,
            if the layer uses its gate, a range of the gate, or if it uses its factors, their
            quantization; see :meth:`quantize`.

        Raises
        ------
        TypeError
            If an argument is not a sequence of names.
        ValueError
            If the number of names or a name is wrong, or a layer does not have the gate, the range
            of the gate or the quantization that it needs.
        """
        names = checked_strategies(strategies, self.layers)
        plan = [(1, names, checked_precisions(precision, names, self.layers))]
        return self._with_engine_plan(self.engine.with_plan(plan))

    def _with_engine_plan(self, engine: _core.Engine, machine: Machine | None = None) -> Self:
        return self._with(engine, plan=batch_plans(engine), machine=machine, report=None)

    def with_gates(self, gates: Mapping[int, Gate | None] | Sequence[Gate | None]) -> Self:
        """Return the network with other gates. Layers with a new gate use it at every batch size.

        Parameters
        ----------
        gates : mapping from layer index to Gate or None, or sequence of them, one per layer
            Layers that a mapping does not contain keep their gate. None removes a gate. A layer
            whose gate does not change keeps its strategy and precision. A layer that gets a gate
            without a range runs in f32.

        Raises
        ------
        TypeError
            If an entry is neither a Gate nor None.
        ValueError
            If the last layer or a layer without a hard zero gets a gate, the rank of a gate is not
            from 1 to min(in, out), its shapes do not fit the layer, or a value is not finite.
        """
        return self._with_parts(
            gates,
            ("gate", "gates"),
            (Gate, "a Gate"),
            lambda new: self.engine.with_gates(engine_gates(new)),
        )

    def with_factors(
        self, factors: Mapping[int, Factors | None] | Sequence[Factors | None]
    ) -> Self:
        """Return the network with other factors. Layers with new factors use them.

        :attr:`layers` and :meth:`dense` keep the weights of the layers.

        Parameters
        ----------
        factors : mapping from layer index to Factors or None, or sequence of them, one per layer
            Layers that a mapping does not contain keep their factors. None removes factors. A layer
            whose factors do not change keeps its strategy and precision. The others run as
            ``"factor"`` or, if the factors have a gate, as ``"factor-gate"`` at every batch size,
            in f32 if the factors have no quantization.

        Raises
        ------
        TypeError
            If an entry is not Factors or None.
        ValueError
            If the rank of factors is not from 1 to min(in, out), their shapes do not fit the layer,
            a value is not finite or a product of a weight and a scale overflows, or the factors of
            the last layer or of a layer without a hard zero have a gate.

        Examples
        --------
        >>> import numpy as np
        >>> net = Network.from_layers([(np.ones((3, 4)), np.zeros(3)), (np.ones((1, 3)), None)])
        >>> factored = net.with_factors({0: Factors(np.ones((4, 1)), np.ones((1, 3)), np.zeros(3))})
        >>> factored.plan[0].strategies
        ('factor', 'dense')
        >>> bool(factored(np.ones(4)) == net(np.ones(4)))
        True
        """
        return self._with_parts(
            factors,
            ("factors", "factors"),
            (Factors, "Factors"),
            lambda new: self.engine.with_factors(engine_factors(new)),
        )

    def _with_parts(
        self,
        parts: Any,
        names: tuple[str, str],
        kinds: tuple[type, str],
        engine_of: Callable[[tuple[Layer, ...]], _core.Engine],
    ) -> Self:
        """Replace the gates or the factors of layers.

        `names` has the field of a layer and the argument; `kinds` the type, and its name with its
        article.
        """
        (field, name), (kind, what) = names, kinds
        old = [getattr(layer, field) for layer in self.layers]
        new = one_per_layer(parts, old, name)
        for i, part in enumerate(new):
            if part is not None and not isinstance(part, kind):
                got = type(part).__name__
                raise TypeError(f"{name}[{i}] must be {what} or None, got {got}")
        layers = tuple(
            changed(layer, f"{name}[{i}]", **{field: part})
            for i, (layer, part) in enumerate(zip(self.layers, new, strict=True))
        )
        same = [a is b for a, b in zip(old, new, strict=True)]
        engine = self.engine if all(same) else engine_of(layers)
        kept = [part is not None and same[i] for i, part in enumerate(new)]
        return self._with_layers(layers, engine, kept)

    def _with_layers(
        self, layers: tuple[Layer, ...], engine: _core.Engine, kept: Sequence[bool]
    ) -> Self:
        """Replace the layers and the engine. Layers marked in `kept` keep their present plan."""
        if any(kept):
            plan = [
                (rows, where(kept, s0, s), where(kept, p0, p))
                for (rows, s0, p0), (_, s, p) in zip(self.engine.plan(), engine.plan(), strict=True)
            ]
            margins = self.engine.margins() if engine is self.engine else None
            engine = engine.with_plan(plan, margins)
        plans = batch_plans(engine)
        return self._with(engine, layers=layers, plan=plans, machine=None, report=None)

    def with_units(
        self, units: Mapping[int, npt.ArrayLike | None] | Sequence[npt.ArrayLike | None]
    ) -> Self:
        """Return the network with only these units of each layer, computed in this order.

        All other units are treated as constant zero. If they are zero on every row, results stay
        the same up to rounding. The arrays in :attr:`layers` keep the full width and the original
        order. If other units are computed than before, the outputs of a probe are recomputed.

        Parameters
        ----------
        units : mapping from layer index to array of int or None, or sequence, one per layer
            Distinct indices of units, from 0 to out - 1. Layers that a mapping does not contain
            keep their units. None stands for all units in the original order.

        Raises
        ------
        ValueError
            If units are given for the last layer, softmax or log_softmax, an index is out of range
            or repeated, no unit is left, units are left out although the activation has no hard
            zero, or fewer units are left than the rank of a gate or of factors.
        TypeError
            If the units of a layer are not integers.
        """
        new = self._with_units(units)
        if all(have_same_units(*pair) for pair in zip(self.layers, new.layers, strict=True)):
            return new
        new = new._with_engine_plan(new.engine.with_plan(new.engine.plan()))
        probe = self._model.probe
        if probe is None:
            return new
        y = np.asarray(new.dense()(probe.x))
        check_rows("the probe must have finite outputs", y)
        return new._with(new.engine, probe=Probe(probe.x, y, ()))

    def _with_units(
        self, units: Mapping[int, npt.ArrayLike | None] | Sequence[npt.ArrayLike | None]
    ) -> Self:
        """As :meth:`with_units`, without recomputing the outputs of a probe."""
        new = one_per_layer(units, [layer.kept_units for layer in self.layers], "units")
        layers = tuple(
            changed(layer, f"units[{i}]", kept_units=kept)
            for i, (layer, kept) in enumerate(zip(self.layers, new, strict=True))
        )
        same = all(map(has_same_units, self.layers, layers))
        engine = self.engine if same else None
        return self._with(engine, layers=layers, plan=self.plan, machine=None, report=None)

    def with_quantization(
        self,
        quantization: Mapping[int, Quantization | None] | Sequence[Quantization | None],
    ) -> Self:
        """Return the network with other quantizations, which :meth:`quantize` computes.

        Layers with a new quantization run in int8 at every batch size, except layers that have a
        gate without a range or use factors without a quantization, which run in f32.

        Parameters
        ----------
        quantization : mapping from layer index to Quantization or None, or sequence, one per layer
            Quantisation of each layer's inputs. Layers that a mapping does not contain keep theirs.
            None removes a quantization. A layer whose quantization does not change keeps its
            precision.

        Raises
        ------
        TypeError
            If an entry is neither a Quantization nor None.
        ValueError
            If the number of scales or offsets of a layer is neither one nor the number of its
            inputs, a layer other than the first has one offset per input, a layer has more than
            65,536 inputs, or a product of a scale and a weight overflows.
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
        same = [a is b for a, b in zip(old, new, strict=True)]
        engine = self.engine
        if not all(same):
            engine = engine.with_quantization(engine_quantization(layers))
        kept = [value is not None and same[i] for i, value in enumerate(new)]
        return self._with_layers(layers, engine, kept)

    def quantize(
        self, x: Any, *, layers: Sequence[int] | None = None, close_rows: float = 0.02
    ) -> Self:
        """Return the network in int8, with weights and inputs quantised to bytes.

        The scales and offsets of each layer are fitted to its inputs on these rows. Weights have
        one scale per unit. Gates are kept and get the `range` that int8 requires, and factors their
        quantization; strategies do not change. Calls accept the same rows as before.

        A row with a value outside the range of the bytes, in any layer, is recomputed in float32
        without gates or factors. The first such row packs the float32 weights, which then stay in
        memory. Outliers and markers of missing values, in these or in later rows, therefore cost
        time but no accuracy. The order and magnitude of columns and units do not matter.

        A layer stays float32 if the error of its sums would exceed 10 % of their spread, or if more
        than 10 % of the rows would be recomputed. A quarter of the rows, at most 2,000, is held out
        to compare int8 with float32; :attr:`quantization_report` has the result. If int8 exceeds
        one of the following limits, layers return to float32 until it is within 40 % of them; the
        layer that causes the largest difference goes first.

        - Labels that change: 2.5 %, both as estimated from the margins between labels and as
          observed with 95 % confidence.
        - Change of the margins between labels: 6 % of their size.
        - Change of a regressor's outputs: 10 % of their standard deviation.

        The limits apply to the held-out rows, to the same rows without outliers, and to a sample of
        the other rows. On the latter, an estimated 0.5 % of the labels may change because errors
        exceed those of normally distributed inputs. Above 0.2 %, as with heavy-tailed columns,
        narrower ranges are tried first, with which more rows are recomputed.

        If int8 is expected to change more than 0.2 % of a classifier's labels, rows whose label is
        uncertain are recomputed too: :attr:`least_margin` is set so that the share of changed
        labels falls to 0.2 %, or as far as `close_rows` allows. It replaces a least margin that the
        network had.

        Parameters
        ----------
        x : array-like or scipy.sparse (n, d)
            Real input rows: at least a few hundred, preferably a few thousand.
        layers : sequence of int, optional
            Indices of the layers to quantise; other layers do not change. By default, all layers
            with at most 65,536 inputs.
        close_rows : float, default 0.02
            Largest share of rows that may be recomputed because their label is uncertain, less one
            standard error of the share on these rows. 0 sets no least margin.

        Warns
        -----
        QuantizationWarning
            If a layer stays float32, int8 still exceeds a limit, more than 5 % of the held-out rows
            are recomputed, or `x` has fewer than 8 rows, so that none are held out.

        Raises
        ------
        TypeError
            If `x` is not an array of real numbers, `layers` is not a sequence of integers, or
            `close_rows` is not a number.
        ValueError
            If `x` has no rows, another width, or a value that is not finite or causes such a value
            in the inputs of a selected layer, or if an index in `layers` is out of range or that of
            a layer with more than 65,536 inputs, or if `close_rows` is not from 0 to 1.

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
        most_close = inputs.checked_share(close_rows, "close_rows")
        check_signals(rows, chosen, self.dense().layer_inputs)
        net, report, difference = quantized(self.with_least_margin(0), rows, chosen, most_close)
        net._quantization_report = report
        warn_of(report, difference)
        return net

    def with_least_margin(self, least: float) -> Self:
        """Return the network that recomputes rows whose label is uncertain.

        Gates, factors and int8 change outputs slightly, and so the labels of rows between two
        labels. Rows with a margin below `least` are recomputed in float32 without gates or factors.
        Plans of dense and skip in float32 recompute nothing.

        The margin of a row is the difference of its two largest outputs; for one output, or several
        labels, the absolute value of the output nearest to 0. Outputs are taken before a last
        sigmoid, softmax or log_softmax.

        Parameters
        ----------
        least : float
            In units of these outputs, rounded to float32. 0 recomputes no such row. It is used at
            all batch sizes; :func:`optimize` may choose a smaller one for some of them, or
            recompute rows in int8 first. Both are in :attr:`plan`.

        Raises
        ------
        TypeError
            If `least` is not a number.
        ValueError
            If `least` is negative or not finite, or above 0 although the task is regression or the
            last activation is another one than identity, sigmoid, softmax and log_softmax.

        See Also
        --------
        quantize : Chooses a least margin where int8 changes many labels.

        Examples
        --------
        >>> import lrgate
        >>> net, x, y = lrgate.examples.mnist()
        >>> exact = net.dense().predict(x)
        >>> careful = net.with_least_margin(2.0)
        >>> bool((careful.predict(x) != exact).sum() <= (net.predict(x) != exact).sum())
        True
        """
        plan = self._model.plan and tuple(
            replace(p, least_margin=None, int8_margin=None) for p in self.plan
        )
        model = replace(self._model, least_margin=least, plan=plan, report=None)
        is_usual = all(p.least_margin is None and p.int8_margin is None for p in self.plan)
        if model.least_margin == self.least_margin and is_usual:
            return self
        engine = self.engine
        if model.task not in (None, "regression"):
            engine = engine.with_least_margin(self.task, model.least_margin)
        return type(self)(model, engine)

    def with_probe(self, x: Any) -> Self:
        """Return the network with these rows and its outputs on them, for :meth:`check`.

        The outputs of the dense network are stored, and those of plans with gates, factors or int8.

        Parameters
        ----------
        x : array-like or scipy.sparse (n, d)
            A few real input rows. uint8 rows stay uint8, others are converted to float32. Sparse
            rows are stored dense.

        Raises
        ------
        TypeError
            If `x` is not an array of real numbers.
        ValueError
            If `x` has no rows, another width, a value that is not finite, or a row whose outputs
            are not finite, or if sparse rows have more than 2**26 values as a dense array.

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
        """Return the network with these notes instead of the present ones.

        Parameters
        ----------
        metadata : mapping from str to JSON values
            Stored in files.

        Raises
        ------
        TypeError
            If a key is not a str or a value cannot be written as JSON.
        ValueError
            If a number is NaN or infinite.
        """
        return self._with(self.engine, metadata=dict(metadata))

    def tune(
        self,
        x: Any,
        batch_sizes: Sequence[int] | npt.NDArray[np.integer] = (1, 64, 1024),
        *,
        seconds: float = 0.5,
    ) -> Self:
        """Return the network with the plan that is measured to be fastest on this machine.

        The plan is stored together with a description of this :attr:`machine`. Precisions do not
        change. A batch size keeps a least margin of its own if its layers keep their gates and
        factors.

        For each batch size, the layers are timed with each strategy. Calls of the whole network, on
        one thread, then decide between the combination of the fastest strategies, its neighbours
        that differ in one layer, and dense. A layer uses its gate or its factors only if they are
        faster than dense and skip.

        Parameters
        ----------
        x : array-like or scipy.sparse (n, d)
            Real input rows; a few hundred are enough.
        batch_sizes : sequence or array of int
            Batch sizes to measure. A call uses the plan of the batch size nearest to its number of
            rows on a log scale.
        seconds : float
            Approximate measuring time for each batch size.

        Raises
        ------
        ValueError
            If `x` has no rows or another width, a batch size is below 1, above 2**20 or repeated,
            or `seconds` is below 0.
        TypeError
            If a batch size is not an integer.
        """
        sizes = inputs.as_list(batch_sizes, "batch_sizes")
        checked = [inputs.checked_integer(size, "batch_sizes") for size in sizes]
        engine = self.engine.tune(x, checked, inputs.checked_seconds(seconds))
        return self._with_engine_plan(engine, fingerprint())

    def _retune(self, seconds: float) -> Self:
        """Measure the plan again on the network's probe, within about `seconds` in total.

        Gates and factors that the plan uses for no batch size stay off. A batch size that cannot be
        measured within its share of the time keeps its plan.
        """
        probe, plan = self._model.probe, self._model.plan
        if probe is None or len(probe.x) == 0 or plan is None or len(plan) > _RETUNE_BATCH_SIZES:
            return self
        engine = self.engine.retune(probe.x, seconds)
        return self._with(engine, plan=batch_plans(engine), machine=fingerprint())

    # Inspection and checks

    def profile(self, x: Any, *, batch_size: int | None = None, seconds: float = 0.1) -> Profile:
        """Measure the time, densities and gate statistics of each layer on these rows.

        Parameters
        ----------
        x : array-like or scipy.sparse (n, d)
            Real input rows.
        batch_size : int, optional
            Rows per call; by default all rows. With 1, the profile is that of single rows.
        seconds : float
            Approximate measuring time. Times are medians of repeated calls.

        Returns
        -------
        Profile
            Per layer: strategy, precision, densities, computed share, recall, lost energy, share of
            the dense multiply-adds, and time per row. ``print`` shows a table.

        Raises
        ------
        ValueError
            If there are no rows, their width is wrong, or `batch_size` or `seconds` is out of
            range.
        """
        x, rows, size = _sample(x, batch_size)
        raw = self.engine.profile(x, size, inputs.checked_seconds(seconds))
        layers = tuple(
            layer_profile(layer, before, values)
            for layer, before, values in zip(
                self.layers, units_before(self.layers), raw, strict=True
            )
        )
        return Profile(layers, rows, size, _core.isa())

    def phases(self, x: Any, *, batch_size: int | None = None, seconds: float = 1.0) -> Phases:
        """Measure the time of each phase of calls, and its lower bound on this machine.

        Each phase of each layer (finding non-zeros, a gate's estimate and scores, products, bias
        and activation, ...) is timed during real forward passes. Its bound is the time to load the
        bytes that it must read on these rows, or to execute the operations that it must do,
        whichever is longer, at measured peak rates.

        Parameters
        ----------
        x : array-like or scipy.sparse (n, d)
            Real input rows.
        batch_size : int, optional
            Rows per call; by default all rows.
        seconds : float
            Approximate measuring time.

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
        return measure_phases(self, x, size, inputs.checked_seconds(seconds))

    def layer_inputs(self, x: Any) -> list[npt.NDArray[np.float32]]:
        """Compute the inputs of every layer on these rows, for example to fit gates.

        They are those of a call with these rows, under the plan for their number.

        Parameters
        ----------
        x : array-like or scipy.sparse (n, d) or (d,)
            A row (d,) counts as (1, d).

        Returns
        -------
        list of float32 arrays (n, in)
            One per layer; the first is ``x * input_scale + input_shift``. Units that are not
            computed are zero. Inputs of int8 layers are the values that the bytes represent.

        Raises
        ------
        ValueError
            If the width of the rows is wrong.
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
        """Return a monitor, which compares a sample of its rows with the dense network.

        Call it instead of the network. As a context manager, it stops sampling at the end of the
        block. Drift of the inputs shows in its :meth:`~lrgate.Monitor.report` and in warnings of
        the logger ``lrgate.monitor``.

        Parameters
        ----------
        rate : float
            Share of the rows to sample, above 0 and at most 1. A sampled row costs about as much as
            two additional dense calls.
        max_disagreement : float, optional
            Warn if the disagreement with the dense network in the window exceeds this value.
        max_lost_energy : float, optional
            Warn if the lost energy of a gated layer in the window exceeds this value.
        window : int
            Number of latest sampled rows on which warnings and the report's window are based.
        min_rows : int
            Minimum number of sampled rows for a warning.
        seed : int, optional
            Seed of the sampling.

        Raises
        ------
        TypeError
            If an argument is not a number.
        ValueError
            If a value is out of range, or `window` is below `min_rows`.

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
        """Check that the network still gives the outputs that are stored with its probe.

        On the probe's rows,

        - the outputs of the dense network, and of each plan with gates, factors or int8 whose
          outputs are stored, are compared with the stored outputs;
        - the outputs of the present plan, for each batch size, are compared with those stored for
          the same gates, factors and precisions. If none are stored, they are compared with the
          outputs of the same plan with dense instead of skip. This happens if :meth:`load` measured
          the plan again and the new plan uses only some of the gates, or if gates, factors, units
          or quantizations changed after :meth:`with_probe`.

        The tolerance is 1e-4 of the largest output. With gates, factors or int8, it may be larger,
        because rounding can move a unit across its threshold or an input to the next byte: it is
        four times the largest change of the outputs that was seen when they were stored, with
        inputs changed by a millionth and with skip instead of dense, if this exceeds 1e-4. For
        outputs that are not stored, it is the largest tolerance of those that are.

        Files of format version 1 have no outputs of plans with gates or int8. The check of such
        plans is then loose: the difference from the dense outputs may be up to half of these, as
        root mean squares.

        Returns
        -------
        float
            The largest difference from stored outputs, relative to the largest stored output.

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
    """Rows to profile, their number, and the number of rows per call."""
    if not hasattr(x, "tocsr"):
        x = inputs.real_array(x)
        if x.ndim == 0:
            raise ValueError("x must have shape (n, d) or (d,), got ()")
        if x.ndim == 1:
            x = x[None]
    rows = x.shape[0]
    if batch_size is None:
        return x, rows, max(rows, 1)
    return x, rows, inputs.checked_integer(batch_size, "batch_size")

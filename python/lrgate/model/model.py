"""The complete model: layers, task, labels, input scale and shift, plan and metadata."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy.typing as npt

from lrgate.model.arrays import (
    as_classes,
    as_float32,
    as_range,
    check_shape,
    check_type,
    joined,
    set_field,
)
from lrgate.model.json import Machine, as_machine, json_object
from lrgate.model.layer import Layer, ReadOnlyArrays, missing_part
from lrgate.model.plan import BatchPlan, checked_margin
from lrgate.model.probe import PlannedOutputs, Probe
from lrgate.types import Float32Array

__all__ = ["Model"]


TASKS: Final = ("classification", "regression", "multilabel")

# Last activations whose outputs have a margin between labels.
HAVE_MARGINS: Final = ("identity", "sigmoid", "softmax", "log_softmax")


@dataclass(frozen=True, eq=False)
class Model(ReadOnlyArrays):
    """A trained network with everything that a model file stores.

    Parameters
    ----------
    layers : tuple of Layer
        Layers in order; at least one.
    task : {"classification", "regression", "multilabel"}, optional
    classes : 1-D array of int, str, bool or float, optional
        Labels of a classifier: one per output, or two for a single output.
    input_scale, input_shift : array of shape () or (d,), optional
        The first layer gets ``x * input_scale + input_shift``.
    plan : tuple of BatchPlan, optional
        Strategies and precisions of the layers, for each batch size. int8 requires a quantization
        of the layer and, if the layer uses its gate, a range of the gate, or if it uses its
        factors, their quantization.
    probe : Probe, optional
    metadata : dict, optional
        JSON values: None, bool, int, finite float, str, list, and dict with str keys. NumPy scalars
        and tuples are converted.
    input_range : (low, high), optional
        Range of raw inputs that callers guarantee; numbers or arrays (d,). Units that no row in the
        range can activate may be left out of `kept_units`; results may differ for rows outside the
        range. Stored as an array of shape (2,) or (2, d).
    machine : dict, optional
        The machine on which the plan was measured, as returned by
        `lrgate.measure.machine.fingerprint`; None if the plan was not measured. The keys are
        ``isa``, ``cpu``, ``l1d``, ``l2`` and ``l3``; the values are str of up to 200 characters,
        int from 0 to 2**63 - 1, or None.
    report : dict, optional
        JSON values, like `metadata`: the report of the optimisation.
    least_margin : float, default 0
        Rows with a smaller margin between labels are recomputed; see
        `Network.with_least_margin`. It is rounded to float32. Entries of `plan` may have a smaller
        one, or recompute such rows in int8 first.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid; the message names it.
    """

    layers: tuple[Layer, ...]
    task: str | None = None
    classes: npt.NDArray[Any] | None = None
    input_scale: Float32Array | None = None
    input_shift: Float32Array | None = None
    plan: tuple[BatchPlan, ...] | None = None
    probe: Probe | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    input_range: Float32Array | None = None
    machine: Machine | None = None
    report: dict[str, Any] | None = None
    least_margin: float = 0.0

    def __post_init__(self) -> None:
        self._check_layers()
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"task must be one of {joined(TASKS)} or None, got {self.task!r}")
        last = self.layers[-1].activation
        if self.task == "multilabel" and last.mixes_units:
            raise ValueError(
                f'task must be "classification" if the last activation is {last.name}, '
                'got "multilabel"'
            )
        if self.classes is not None:
            set_field(self, "classes", as_classes(self.classes))
            self._check_classes(len(self.classes))
        for name in ("input_scale", "input_shift"):
            if getattr(self, name) is not None:
                set_field(self, name, as_float32(getattr(self, name), name, "() or (d,)"))
        if self.plan is not None:
            self._check_plan(self.plan)
        if self.probe is not None:
            check_type("probe", self.probe, Probe)
            check_shape("probe.x", self.probe.x, (len(self.probe.x), self.layers[0].inputs))
            check_shape("probe.y", self.probe.y, (len(self.probe.x), self.layers[-1].outputs))
            for i, planned in enumerate(self.probe.planned or ()):
                self._check_planned(f"probe.planned[{i}]", planned)
        if self.input_range is not None:
            set_field(self, "input_range", as_range(self.input_range))
            self._check_range(self.input_range.shape)
        if self.machine is not None:
            set_field(self, "machine", as_machine(self.machine))
        set_field(self, "metadata", json_object(self.metadata, "metadata"))
        if self.report is not None:
            set_field(self, "report", json_object(self.report, "report"))
        set_field(self, "least_margin", self._checked_margin())
        self._check_own_margins()

    def _checked_margin(self) -> float:
        least = checked_margin(self.least_margin)
        if least == 0:
            return 0.0
        if self.task not in ("classification", "multilabel"):
            raise ValueError(
                f"least_margin must be 0 for a network without labels, got {least} and task "
                f"{self.task!r}"
            )
        last = self.layers[-1].activation.name
        if last not in HAVE_MARGINS:
            raise ValueError(
                f"least_margin must be 0 unless the last activation is {joined(HAVE_MARGINS)}, "
                f"got {least} and {last}"
            )
        return least

    def _check_own_margins(self) -> None:
        """Check the least margins of batch sizes; those that are the network's become None."""
        if self.plan is None:
            return
        usual = self.least_margin
        for i, entry in enumerate(self.plan):
            if entry.least_margin and not usual:
                raise ValueError(
                    f"plan[{i}].least_margin must be 0 or None for a network without a least "
                    f"margin, got {entry.least_margin}"
                )
            if entry.least_margin is not None and entry.least_margin > usual:
                raise ValueError(
                    f"plan[{i}].least_margin must be at most that of the network, "
                    f"{usual}, got {entry.least_margin}"
                )
        if any(entry.least_margin == usual for entry in self.plan):
            plan = (
                replace(entry, least_margin=None) if entry.least_margin == usual else entry
                for entry in self.plan
            )
            set_field(self, "plan", tuple(plan))

    def _check_layers(self) -> None:
        if not isinstance(self.layers, tuple | list):
            raise TypeError(f"layers must be a tuple of Layer, got {type(self.layers).__name__}")
        set_field(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ValueError("layers must have at least one layer, got 0")
        for i, layer in enumerate(self.layers):
            check_type(f"layers[{i}]", layer, Layer)
        if self.layers[-1].kept_units is not None:
            raise ValueError(
                f"layers[{len(self.layers) - 1}].kept_units must be None: it is the last layer, "
                "whose units are the outputs"
            )
        last = self.layers[-1]
        if last.outputs == 1 and last.activation.name in ("softmax", "log_softmax"):
            always = 1 if last.activation.name == "softmax" else 0
            raise ValueError(
                f"layers[{len(self.layers) - 1}].activation must be sigmoid or identity for a "
                f"network of one output, got {last.activation.name}, which is always {always}"
            )
        for i, layer in enumerate(self.layers[1:], start=1):
            if layer.quantization is not None and layer.quantization.offset.shape != ():
                raise ValueError(
                    f"layers[{i}].quantization.offset must have shape (), "
                    f"got {layer.quantization.offset.shape}: only the first layer has one for each "
                    "input"
                )

    def _check_classes(self, got: int) -> None:
        if self.task in ("regression", "multilabel"):
            raise ValueError(f'classes must be None if task is "{self.task}"')
        outputs = self.layers[-1].outputs
        expected = 2 if outputs == 1 else outputs
        if got != expected:
            raise ValueError(
                f"classes must have shape ({expected},) for {outputs} "
                f"output{'s' * (outputs != 1)}, got ({got},)"
            )

    def _check_range(self, got: tuple[int, ...]) -> None:
        inputs = self.layers[0].inputs
        if got not in ((2,), (2, inputs)):
            raise ValueError(f"input_range must have shape (2,) or (2, {inputs}), got {got}")

    def _check_plan(self, plan: object) -> None:
        if not isinstance(plan, tuple | list):
            raise TypeError(f"plan must be a tuple of BatchPlan, got {type(plan).__name__}")
        set_field(self, "plan", tuple(plan))
        if not plan:
            raise ValueError("plan must have at least one batch size, got 0")
        for i, entry in enumerate(plan):
            check_type(f"plan[{i}]", entry, BatchPlan)
            if len(entry.strategies) != len(self.layers):
                raise ValueError(
                    f"plan[{i}].strategies must have {len(self.layers)} entries, one per layer, "
                    f"got {len(entry.strategies)}"
                )
            self._check_precisions(f"plan[{i}].precisions", entry)

    def _check_planned(self, name: str, planned: PlannedOutputs) -> None:
        if len(planned.strategies) != len(self.layers):
            raise ValueError(
                f"{name}.strategies must have {len(self.layers)} entries, one per layer, "
                f"got {len(planned.strategies)}"
            )
        for i, layer in enumerate(self.layers):
            missing = missing_part(layer, f"layers[{i}]", planned.strategies[i])
            if missing is not None:
                raise ValueError(f"{name}.strategies[{i}] must be dense, since {missing}")
        self._check_precisions(f"{name}.precisions", planned)

    def _check_precisions(self, name: str, plan: BatchPlan | PlannedOutputs) -> None:
        for i, layer in enumerate(self.layers):
            strategy, at = plan.strategies[i], f"layers[{i}]"
            if plan.precisions[i] != "int8" or missing_part(layer, at, strategy) is not None:
                continue  # the engine reports strategies
            missing = missing_part(layer, at, strategy, "int8")
            if missing is not None:
                raise ValueError(f"{name}[{i}] must be f32, since {missing}")

    def __repr__(self) -> str:
        widths = [self.layers[0].inputs, *(layer.outputs for layer in self.layers)]
        parts = ["-".join(map(str, widths))]
        if self.task is not None:
            parts.append(self.task)
        gates = sum(layer.gate is not None for layer in self.layers)
        if gates:
            parts.append(f"{gates} gate{'s' * (gates != 1)}")
        factors = sum(layer.factors is not None for layer in self.layers)
        if factors:
            parts.append(f"{factors} layer{'s' * (factors != 1)} with factors")
        quantized = sum(layer.quantization is not None for layer in self.layers)
        if quantized:
            parts.append(f"{quantized} layer{'s' * (quantized != 1)} in int8")
        if self.least_margin:
            parts.append(f"least margin {self.least_margin:.3g}")
        return f"Model({', '.join(parts)})"

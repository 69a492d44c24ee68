"""Replacement of the fully connected parts of a PyTorch model by networks."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from lrgate.frameworks.errors import UnsupportedModelError
from lrgate.frameworks.torch_copy import evaluated_copy
from lrgate.frameworks.torch_reader import from_torch
from lrgate.measure.timing import interleaved
from lrgate.network import Network
from lrgate.planner.optimizer import optimize
from lrgate.results.ratio import Ratio
from lrgate.torch.accelerated import Accelerated
from lrgate.types import Float32Array

__all__ = ["Replacement", "accelerate"]

# `optimize` needs this many rows.
_LEAST_ROWS: Final = 50
# Rows that are kept for each part.
_MOST_ROWS: Final = 100_000
# Of outputs with a network from those without, relative to the largest, before it is optimised.
_MOST_DIFFERENCE: Final = 1e-3
# Of the whole numbers in a model's outputs, such as labels, the share that rounding may change.
_MOST_CHANGED: Final = 0.01
# A run of modules that is too short so far: more of them may make a network.
_TOO_SHORT: Final = "it is a function of single inputs: there is no matrix before it"


@dataclass(frozen=True, eq=False)
class Replacement:
    """A part of a model that :func:`accelerate` looked at.

    Attributes
    ----------
    name : str
        ``"model"`` and the name of the module in it, as in ``named_modules``. Consecutive modules
        of a Sequential are ``"model.name[2:7]"``.
    network : Network or None
        The network in its place; None if the part was left as it is.
    rows : int
        Rows that the part got.
    speed_up : Ratio
        Time of the part over the time of the network, on batches that the part got.
    reason : str
        Why the part was left as it is, or was not optimised; empty otherwise.
    """

    name: str
    network: Network | None
    rows: int
    speed_up: Ratio
    reason: str

    def __str__(self) -> str:
        what = "kept" if self.network is None else f"replaced by {self.network!r}"
        gain = f", {self.speed_up.median:.2f} times as fast"
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.name}: {what}{gain}{why}"


def accelerate(
    module: nn.Module,
    x: Any,
    *,
    max_error_increase: float = 0.001,
    batch_sizes: Sequence[int] | None = None,
    num_threads: int | None = None,
    seconds: float = 0.5,
    progress: bool | None = False,
    **options: Any,
) -> tuple[nn.Module, list[Replacement]]:
    """Replace the fully connected parts of a model by networks of lrgate.

    The model runs on `x`, and each submodule's inputs are recorded. Every largest submodule, or
    run of modules in a Sequential, that is a chain of fully connected layers becomes a network,
    which :func:`lrgate.optimize` optimises on the rows that the part really gets. It replaces the
    part where it is faster on them. Embeddings, convolutions, attention and everything else stay.

    A part also stays if the model's outputs on `x` are not the same with a dense network in its
    place, as when the model's code uses attributes of the part. A run of modules is replaced only
    if nothing but its Sequential calls them.

    Parameters
    ----------
    module : torch.nn.Module
        It is not changed. The copy that is returned is in evaluation mode, on the CPU.
    x : tensor, tuple, dict, or list of these
        Arguments of one call, or a list of calls: a tensor, a tuple of positional arguments or a
        dict of keyword arguments. Each part should get 5,000 rows or more in all, in batches of
        the size that it will get later.
    max_error_increase : float, default 0.001
        Budget of each part, as in :func:`lrgate.optimize` without labels. It limits the change of
        the part's outputs, not that of the whole model.
    batch_sizes : sequence of int, optional
        Rows per call of the parts to plan for; by default those seen with `x`.
    num_threads : int, optional
        Threads of each call.
    seconds : float, default 0.5
        Duration of the comparison of each part with its network.
    progress : bool or None, default False
        Whether to show progress bars on stderr. None: where that is a terminal.
    **options
        Other options of :func:`lrgate.optimize`.

    Returns
    -------
    (torch.nn.Module, list of Replacement)
        A copy of the model with parts replaced, for inference, and a report of each part that is
        fully connected.

    Raises
    ------
    TypeError
        If `module` is not a module.
    ValueError
        If an option is not valid, or `x` is an empty list.

    Examples
    --------
    >>> fast, report = lrgate.torch.accelerate(model, batches)  # doctest: +SKIP
    >>> print(*report, sep="\\n")  # doctest: +SKIP
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    calls = [_arguments(call) for call in (x if isinstance(x, list) else [x])]
    if not calls:
        raise ValueError("x must have at least one call, got an empty list")
    model = evaluated_copy(module).requires_grad_(False)
    holder = nn.Module()
    holder._modules["model"] = model
    parts = list(_Search(model, calls).parts(holder))
    misfits = _misfits(parts, _Outputs(holder, calls)) if parts else {}
    report: list[Replacement] = []
    for part in parts:
        size = batch_sizes or part.sizes()
        network, rows, reason = part.network, part.rows(), ""
        if part in misfits:
            speed_up = part.speed_up(Accelerated(network, num_threads=num_threads), seconds)
            report.append(Replacement(part.name, None, len(rows), speed_up, misfits[part]))
            continue
        if len(rows) >= _LEAST_ROWS:
            try:
                network = optimize(
                    network,
                    rows,
                    max_error_increase=max_error_increase,
                    batch_sizes=size,
                    num_threads=num_threads,
                    progress=progress,
                    **options,
                )
            except ValueError as error:
                if not np.isfinite(rows).all():
                    reason = "not optimised: its inputs are not all finite"
                else:
                    raise error
        else:
            reason = f"not optimised: it got {len(rows)} rows, and {_LEAST_ROWS} are needed"
        faster = Accelerated(network, num_threads=num_threads)
        speed_up = part.speed_up(faster, seconds)
        if speed_up.median <= 1.0:
            report.append(Replacement(part.name, None, len(rows), speed_up, "it is not faster"))
            continue
        part.replace(faster)
        report.append(Replacement(part.name, network, len(rows), speed_up, reason))
    model = holder._modules["model"]
    assert model is not None
    return model, report


Call = tuple[tuple[Any, ...], dict[str, Any]]


def _arguments(call: Any) -> Call:
    if isinstance(call, Mapping):
        return (), {name: _on_cpu(value) for name, value in call.items()}
    if isinstance(call, tuple):
        return tuple(_on_cpu(value) for value in call), {}
    return (_on_cpu(call),), {}


def _on_cpu(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    return value.cpu() if isinstance(value, Tensor) else value


def _fresh(call: Call) -> Call:
    """A copy of the tensors, because a model may change its arguments."""
    result: Call = torch.utils._pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), call)
    return result


class _Part:
    """A module, or consecutive modules of a Sequential, with the inputs that it gets."""

    def __init__(
        self,
        name: str,
        places: Sequence[tuple[nn.Module, str]],
        module: nn.Module,
        network: Network,
        inputs: Sequence[Tensor],
    ) -> None:
        self.name, self.network = name, network
        self._places, self._module, self._inputs = places, module, inputs
        self._before = [parent._modules[key] for parent, key in places]

    def rows(self) -> Float32Array:
        """The rows that the part got."""
        rows = [t.float().reshape(-1, t.shape[-1]).numpy() for t in self._inputs]
        return np.concatenate(rows)[:_MOST_ROWS]

    def sizes(self) -> list[int]:
        """The numbers of rows per call, at most three."""
        counts = sorted({max(1, math.prod(t.shape[:-1])) for t in self._inputs})
        return counts if len(counts) <= 3 else [counts[0], counts[len(counts) // 2], counts[-1]]

    def difference(self) -> float:
        """The largest difference of the network on real inputs, over the largest output."""
        dense = Accelerated(self.network.dense())
        largest = apart = 0.0
        for x in self._inputs:
            with torch.inference_mode():
                # The part may change its input in place.
                expected, got = self._module(x.clone()).float(), dense(x).float()
            if expected.shape != got.shape:
                return math.inf
            if expected.numel():
                # `maximum` of NumPy keeps NaN, `max` may not.
                largest = float(np.maximum(largest, float(expected.abs().max())))
                apart = float(np.maximum(apart, float((expected - got).abs().max())))
        return apart / (largest or 1.0)

    def speed_up(self, faster: nn.Module, seconds: float) -> Ratio:
        """Time of the part over that of `faster`, on calls of the most frequent shape."""
        shapes = [t.shape for t in self._inputs]
        usual = max(set(shapes), key=shapes.count)
        arrays = [t.numpy() for t in self._inputs if t.shape == usual]

        def timed(module: nn.Module) -> Callable[[Any], object]:
            def call(array: Any) -> object:
                with torch.inference_mode():
                    return module(torch.from_numpy(array))

            return call

        candidates = {"before": timed(self._module), "after": timed(faster)}
        times = interleaved(candidates, arrays, seconds)
        return times["after"].speed_up_over(times["before"])

    def replace(self, module: nn.Module) -> None:
        (parent, key), *others = self._places
        parent._modules[key] = module
        for parent, key in others:
            parent._modules[key] = nn.Identity()

    def restore(self) -> None:
        for (parent, key), module in zip(self._places, self._before, strict=True):
            parent._modules[key] = module


class _Outputs:
    """The outputs of a model on all calls, for comparison after changes."""

    def __init__(self, holder: nn.Module, calls: Sequence[Call]) -> None:
        self._holder, self._calls = holder, calls
        self._expected = [self._computed(call) for call in calls]
        # The usual size of each output: one call's may be a difference that is nearly zero.
        count = min(map(len, self._expected), default=0)
        self._usual = [
            statistics.median(_largest(outputs[i]) for outputs in self._expected)
            for i in range(count)
        ]

    def _computed(self, call: Call) -> list[Tensor]:
        positional, named = _fresh(call)
        model = self._holder._modules["model"]
        assert model is not None
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return [t.clone() for t in _tensors(model(*positional, **named))]

    def change(self) -> str:
        """Why the model is not the same any more; empty if it is."""
        for call, expected in zip(self._calls, self._expected, strict=True):
            try:
                got = self._computed(call)
            except Exception as error:
                return (
                    f"the model does not run with a network in its place ({type(error).__name__}: "
                    f"{error}): its code may use attributes of the part"
                )
            usual = [*self._usual, *[0.0] * (len(expected) - len(self._usual))]
            if len(got) != len(expected) or not all(map(_alike, got, expected, usual)):
                return "the model's outputs are not the same with a network in its place"
        return ""


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in the output of a model, and its numbers as tensors."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, bool | int | float | np.ndarray | np.number):
        yield torch.as_tensor(output)
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
    elif dataclasses.is_dataclass(output):
        for field in dataclasses.fields(output):
            yield from _tensors(getattr(output, field.name))


def _largest(outputs: Tensor) -> float:
    """The largest finite absolute value."""
    values = outputs.double()
    finite = values[values.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _alike(got: Tensor, expected: Tensor, usual: float) -> bool:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    if not expected.numel():
        return True
    if not expected.is_floating_point():
        return float((got != expected).float().mean()) <= _MOST_CHANGED
    limit = _MOST_DIFFERENCE * max(_largest(expected), usual)
    a, b = got.double(), expected.double()
    return bool(torch.allclose(a, b, rtol=0.0, atol=limit, equal_nan=True))


def _misfits(parts: Sequence[_Part], outputs: _Outputs) -> dict[_Part, str]:
    """The parts in whose place a dense network changes the model, with the reasons."""
    found: dict[_Part, str] = {}
    for part in parts:
        part.replace(Accelerated(part.network))
    if outputs.change():
        for part in parts:
            part.restore()
        for part in parts:
            part.replace(Accelerated(part.network))
            reason = outputs.change()
            if reason:
                part.restore()
                found[part] = reason
    for part in parts:
        part.restore()
    return found


class _Search:
    """Finds the parts of a model that networks can replace."""

    def __init__(self, model: nn.Module, calls: Sequence[Call]) -> None:
        self._inputs, self._callers = _recorded(model, calls)
        self._seen: set[nn.Module] = set()

    def parts(self, holder: nn.Module) -> Iterator[_Part]:
        """The largest fully connected parts among the submodules of `holder`."""
        yield from self._children(holder, "")

    def _children(self, parent: nn.Module, prefix: str) -> Iterator[_Part]:
        for key, child in list(parent._modules.items()):
            if child is None or child in self._seen:
                continue
            self._seen.add(child)
            name = f"{prefix}.{key}" if prefix else key
            part = self._part(name, [(parent, key)], child, child)
            if part is not None:
                yield part
            elif type(child).forward is nn.Sequential.forward:
                yield from self._runs(child, name)
            else:
                yield from self._children(child, name)

    def _runs(self, sequential: nn.Module, name: str) -> Iterator[_Part]:
        """The longest runs of modules of a Sequential, and the parts of its other modules."""
        keys = list(sequential._modules)
        start = 0
        while start < len(keys):
            best, end = None, start
            for stop in range(start + 1, len(keys) + 1):
                places = [(sequential, key) for key in keys[start:stop]]
                modules = [sequential._modules[key] for key in keys[start:stop]]
                if not all(self._is_inside(sequential, m) for m in modules):
                    break
                run = nn.Sequential(*(m for m in modules if m is not None)).eval()
                part = self._part(f"{name}[{start}:{stop}]", places, run, modules[0])
                if part is not None:
                    best, end = part, stop
                elif self._reason != _TOO_SHORT and best is None:
                    break
            if best is not None:
                yield best
                start = end
                continue
            child = sequential._modules[keys[start]]
            if child is not None and child not in self._seen:
                self._seen.add(child)
                yield from self._children(child, f"{name}.{keys[start]}")
            start += 1

    def _is_inside(self, sequential: nn.Module, module: nn.Module | None) -> bool:
        """Whether a module maps tensors to tensors, and only its Sequential calls it."""
        if module is None or self._inputs.get(module) is None:
            return False
        return self._callers[module] == {sequential}

    def _part(
        self,
        name: str,
        places: Sequence[tuple[nn.Module, str]],
        module: nn.Module,
        first: nn.Module | None,
    ) -> _Part | None:
        self._reason = ""
        inputs = None if first is None else self._inputs.get(first)
        if not inputs or not any(isinstance(m, nn.Linear) for m in module.modules()):
            self._reason = _TOO_SHORT if inputs else ""
            return None
        rows = inputs[0].reshape(-1, inputs[0].shape[-1])[:2]
        try:
            # The part's outputs count, not the class that they stand for.
            network = from_torch(module, rows, task="regression")
        except UnsupportedModelError as error:
            self._reason = error.reason
            return None
        part = _Part(name, places, module, network, inputs)
        if len(network.layers) < 2:  # nothing is skipped in one layer alone
            self._reason = _TOO_SHORT
            return None
        # Modules may treat the axes of larger tensors in another way.
        if not part.difference() <= _MOST_DIFFERENCE:
            return None
        return part


Inputs = dict[nn.Module, list[Tensor] | None]
Callers = dict[nn.Module, set[nn.Module | None]]


def _recorded(model: nn.Module, calls: Sequence[Call]) -> tuple[Inputs, Callers]:
    """The inputs of modules that may belong to a part, and the modules that call them.

    The inputs are None for modules that do not map one tensor to one tensor.
    """
    found: Inputs = {}
    callers: Callers = {}
    counts: dict[nn.Module, int] = {}
    # The modules that run, and their inputs.
    running: list[tuple[nn.Module, Tensor | None]] = []

    def before(module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        callers.setdefault(module, set()).add(running[-1][0] if running else None)
        x = positional[0] if len(positional) == 1 and not named else None
        rows = None
        if isinstance(x, Tensor) and x.is_floating_point() and x.ndim >= 2:
            enough = found.get(module, []) is None or counts.get(module, 0) >= _MOST_ROWS
            # The module may change its input in place.
            rows = x if enough else x.detach().clone()
        running.append((module, rows))

    def after(
        module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        _, rows = running.pop()
        inputs = found.setdefault(module, [])
        if (
            inputs is None
            or rows is None
            or not isinstance(output, Tensor)
            or output.shape[:-1] != rows.shape[:-1]
        ):
            found[module] = None
        elif counts.get(module, 0) < _MOST_ROWS:
            counts[module] = counts.get(module, 0) + math.prod(rows.shape[:-1])
            inputs.append(rows)

    hooks = []
    for module in _candidates(model):
        hooks.append(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
        hooks.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        with torch.inference_mode():
            for call in calls:
                positional, named = _fresh(call)
                model(*positional, **named)
    finally:
        for hook in hooks:
            hook.remove()
    return found, callers


def _candidates(model: nn.Module) -> set[nn.Module]:
    """The modules with a Linear in them, or beside them in a Sequential."""
    found = {m for m in model.modules() if any(isinstance(n, nn.Linear) for n in m.modules())}
    for module in list(found):
        if isinstance(module, nn.Sequential):
            found.update(module.children())
    return found

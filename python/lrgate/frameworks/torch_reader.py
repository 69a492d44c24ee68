"""Reader of PyTorch modules and exported programs."""

from __future__ import annotations

import inspect
import math
import operator
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.frameworks.building import built, refusal, verified
from lrgate.frameworks.chain import BATCH, MAX_ELEMENTS, Chain, Labels
from lrgate.frameworks.errors import Refused, UnsupportedModelError
from lrgate.frameworks.torch_copy import evaluated_copy
from lrgate.frameworks.torch_files import load_program
from lrgate.frameworks.torch_operators import (
    Call,
    called,
    constant_call,
    holds_batch,
    is_dynamic,
    size_call,
)
from lrgate.frameworks.values import Rows
from lrgate.inputs.optional import required
from lrgate.network import Network, with_declared

__all__ = ["from_torch"]

Array = npt.NDArray[Any]


def from_torch(
    module: Any,
    x: npt.ArrayLike | None = None,
    *,
    task: str | None = None,
    classes: npt.ArrayLike | None = None,
    verify: bool = True,
) -> Network:
    """Convert a PyTorch module to a network.

    The module is exported by :func:`torch.export.export`, and its graph is read. The module itself
    is not changed: a copy in eval mode on the CPU is exported.

    Parameters
    ----------
    module : torch.nn.Module, torch.export.ExportedProgram, or path
        Computes one output of one input, whose first axis is that of the rows: a chain of linear
        layers, activations, and whatever is affine between them. Also a Lightning module, a fitted
        skorch net (its ``module_``), and a policy or algorithm of Stable-Baselines3 (its
        deterministic actions), and a :class:`lrgate.torch.Accelerated`, whose network is returned.
        A path names a ``.pt2`` file of :func:`torch.export.save`.
    x : array-like (n, ...), optional
        Example rows, of which two are used to export the module. By default, rows of zeros with
        as many inputs as the first layer has.
    task : {"classification", "regression", "multilabel"}, optional
        By default, classification if the module ends in softmax, argmax, or sigmoid with one
        output, and multilabel if it ends in sigmoid with several outputs. Otherwise it is left
        open.
    classes : array-like (k,), optional
        Labels of the outputs.
    verify : bool, default True
        Compare raw outputs with the module's own on random rows.

    Returns
    -------
    Network
        With the raw outputs of ``module.eval()``. Of a module that returns labels, these are the
        scores that it compares. The axes of a row are flattened.

    Raises
    ------
    UnsupportedModelError
        If the module is not such a chain; the message names the node. Also if `verify` finds
        other outputs.
    ImportError
        If PyTorch is not installed.
    TypeError
        If `module` is of another kind.
    ValueError
        If `task` or `classes` do not fit.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    ... # doctest: +SKIP
    >>> net = lrgate.from_torch(module, task="classification")  # doctest: +SKIP
    """
    torch = required("torch", "torch", "lrgate.from_torch")
    name = os.fspath(module) if isinstance(module, str | os.PathLike) else type(module).__name__
    name = str(name)
    accelerated = sys.modules.get("lrgate.torch.accelerated")
    if accelerated is not None and isinstance(module, accelerated.Accelerated):
        network: Network = module.network
        return with_declared(network, task, classes)
    try:
        source = _source(torch, module, x)
        reader = _Reader(source, name)
        with torch.no_grad():
            value = reader.read()
        net = built(value, task=task, classes=classes)
        if verify:
            _verified(net, reader, source, value)
    except Refused as error:
        raise refusal(error, source="torch", name=name) from error.__cause__
    return net


class _Source:
    """An exported program, and the module from which it was made, if there is one."""

    def __init__(self, program: Any, module: Any = None) -> None:
        self.program, self.module = program, module


def _source(torch: Any, module: Any, x: Any) -> _Source:
    if isinstance(module, str | os.PathLike):
        path = os.fspath(module)
        if Path(path).suffix.lower() != ".pt2":
            raise Refused(
                "a path must name a .pt2 file of torch.export.save. A pickled module may run any "
                "code when it is loaded: load it yourself, and pass the module"
            )
        return _Source(load_program(path))
    if isinstance(module, torch.export.ExportedProgram):
        return _Source(module)
    module = _unwrapped(torch, module)
    _check_module(torch, module)
    evaluated = _evaluated(torch, module)
    example = _example(torch, evaluated, x)
    return _Source(_exported(torch, evaluated, example), evaluated)


# Modules


def _unwrapped(torch: Any, module: Any) -> Any:
    """The plain module inside wrappers of several packages."""
    nn = torch.nn
    if isinstance(module, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise Refused(
            "it is scripted or traced, and TorchScript cannot be exported: pass the module from "
            "which it was made, or write it by torch.onnx.export(..., dynamo=False) and use "
            "lrgate.from_onnx"
        )
    if isinstance(module, Mapping) and any(isinstance(v, torch.Tensor) for v in module.values()):
        raise Refused(
            "a state_dict does not say the order of layers and their activations: load it into its "
            "module, and pass the module"
        )
    if not isinstance(module, nn.Module):
        for inner in ("module_", "policy"):
            if isinstance(getattr(module, inner, None), nn.Module):
                return _unwrapped(torch, getattr(module, inner))
        raise TypeError(
            "module must be a torch.nn.Module, an ExportedProgram or the path of a .pt2 file, got "
            f"{type(module).__name__}"
        )
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(torch, module.module)
    if "_orig_mod" in module._modules:
        return _unwrapped(torch, module._modules["_orig_mod"])
    return module


def _check_module(torch: Any, module: Any) -> None:
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise Refused(f"its part {name!r} is scripted or traced, which cannot be exported")
        if ".quantized." in f"{type(part).__module__}.":
            raise Refused(
                f"its part {name!r} ({type(part).__name__}) is quantized: pass the float module, "
                "and let lrgate quantize it"
            )
    for name, parameter in [*module.named_parameters(), *module.named_buffers()]:
        if torch.nn.parameter.is_lazy(parameter):
            raise Refused(
                f"its parameter {name!r} has no shape yet: call the module once with rows of data"
            )
        if parameter.is_meta:
            raise Refused(f"its parameter {name!r} is on the device meta and has no values")
        if parameter.is_complex():
            raise Refused(f"its parameter {name!r} is complex; complex numbers are not supported")
    forward = getattr(module, "forward", None)
    if _is_policy(module) or forward is None:
        return
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        p.name
        for p in inspect.signature(forward).parameters.values()
        if p.kind in kinds and p.default is inspect.Parameter.empty
    ]
    if len(needed) > 1:
        raise Refused(
            f"it has {len(needed)} inputs ({', '.join(needed)}); modules with one are supported: "
            "join them into one tensor, or pass the part behind them"
        )


def _is_policy(module: Any) -> bool:
    """Whether a module is a policy of Stable-Baselines3."""
    return hasattr(module, "_predict") and hasattr(module, "observation_space")


def _evaluated(torch: Any, module: Any) -> Any:
    """A copy in eval mode on the CPU."""
    try:
        result = evaluated_copy(module)
    except Exception as error:
        raise Refused(f"it cannot be copied: {_first_line(error)}") from error
    for part in result.modules():
        # Compiled parts are exported as they were before.
        for key, inner in part._modules.items():
            if inner is not None and "_orig_mod" in inner._modules:
                part._modules[key] = inner._modules["_orig_mod"]
    return _policy_module(torch, result).eval() if _is_policy(result) else result


def _policy_module(torch: Any, policy: Any) -> Any:
    class Policy(torch.nn.Module):  # type: ignore[misc]
        """The deterministic actions of a policy."""

        def __init__(self) -> None:
            super().__init__()
            self.policy = policy
            self.observation_space = policy.observation_space

        def forward(self, x: Any) -> Any:
            return self.policy._predict(x, deterministic=True)

    return Policy()


# Example rows


def _example(torch: Any, module: Any, x: Any) -> Any:
    """Two rows to export the module with."""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    if x is None:
        x = _lightning_rows(torch, module)
    if x is not None:
        return _two_rows(torch, x).to(dtype)
    space = getattr(module, "observation_space", None)
    if space is not None:
        if getattr(space, "shape", None) is None or np.dtype(space.dtype).kind != "f":
            raise Refused(
                f"its observations ({type(space).__name__}) are not vectors of real numbers"
            )
        return torch.zeros(2, *space.shape, dtype=dtype)
    failure: Exception | None = None
    for width in _widths(torch, module):
        example = torch.zeros(2, width, dtype=dtype)
        try:
            with torch.no_grad():
                module(example)
        except Exception as error:
            failure = error
        else:
            return example
    _explain(module)
    reason = "" if failure is None else f" (the last attempt failed: {_first_line(failure)})"
    raise Refused(
        f"the shape of its input cannot be found out{reason}: pass x, rows of data (two are enough)"
    ) from failure


def _lightning_rows(torch: Any, module: Any) -> Any:
    """The example rows of a Lightning module, if they are one tensor."""
    value = getattr(module, "example_input_array", None)
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, torch.Tensor | np.ndarray) else None


def _two_rows(torch: Any, x: Any) -> Any:
    if not isinstance(x, torch.Tensor):
        rows = x[:2] if hasattr(x, "tocsr") else x
        rows = rows.toarray() if hasattr(rows, "toarray") else rows
        x = torch.from_numpy(np.array(rows, dtype=np.float64))
    x = x.detach().cpu()
    if x.ndim == 0:
        raise ValueError("x must be rows of data, got a number")
    if x.is_complex():
        raise Refused("complex numbers are not supported")
    x = x[None] if x.ndim == 1 else x
    if not len(x):
        raise ValueError("x must have at least one row")
    return x[:2] if len(x) > 1 else torch.cat([x, x])


def _widths(torch: Any, module: Any) -> Iterator[int]:
    """Possible numbers of inputs, those of early layers first."""
    found: list[Any] = []
    for part in module.modules():
        for attribute in ("in_features", "num_features"):
            found.append(getattr(part, attribute, None))
        for parameter in part.parameters(recurse=False):
            if parameter.ndim == 2 and not isinstance(part, torch.nn.Linear):
                found.extend(parameter.shape)
    yield from dict.fromkeys(n for n in found if isinstance(n, int) and n > 0)


_OTHER_LAYERS: Final = {
    "Embedding": "looks rows up in a table",
    "EmbeddingBag": "looks rows up in a table",
    "Conv1d": "is a convolution",
    "Conv2d": "is a convolution",
    "Conv3d": "is a convolution",
    "MultiheadAttention": "is attention",
    "LSTM": "is recurrent",
    "GRU": "is recurrent",
    "RNN": "is recurrent",
}


def _explain(module: Any) -> None:
    """Refuse a module that cannot be run, if a layer of it shows why."""
    for name, part in module.named_modules():
        kind = type(part).__name__
        if kind in _OTHER_LAYERS and type(part).__module__.startswith("torch.nn"):
            raise Refused(
                f"its part {name!r} ({kind}) {_OTHER_LAYERS[kind]}, and lrgate runs fully "
                "connected networks: pass the part behind it"
            )


# Export


def _exported(torch: Any, module: Any, example: Any) -> Any:
    dynamic = ({0: torch.export.Dim.AUTO},)
    try:
        with torch.no_grad():
            program = torch.export.export(module, (example,), dynamic_shapes=dynamic, strict=False)
    except Exception as error:
        _explain(module)
        raise Refused(
            f"torch.export cannot export it for rows of shape {tuple(example.shape[1:])}: "
            f"{_first_line(error)}"
        ) from error
    for guard in getattr(program, "_guards_code", None) or ():
        if re.search(r"\.size\(\)\[0\]", guard):
            condition = re.sub(r"\w+\[.*?\]\.size\(\)\[0\]", "rows", guard)
            raise Refused(
                "its answer depends on the number of rows: torch.export found the condition "
                f"{condition}"
            )
    return program


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


# Operations whose result has memory of its own, and operations that may return their argument.
_FRESH: Final = ("linear", "addmm", "mm", "matmul", "batch_norm", "add", "sub", "mul", "div")
_PASSING: Final = ("dropout", "alpha_dropout", "flatten", "view", "reshape", "to", "contiguous")


def _changes_others(graph_module: Any) -> bool:
    """Whether an operation in place may change a value that is used elsewhere."""
    import torch

    for part in graph_module.modules():
        for node in getattr(part, "graph", _Empty).nodes:
            target = node.target
            if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
                continue
            changed = node.args[0] if node.args else None
            while True:
                if (
                    not isinstance(changed, torch.fx.Node)
                    or not isinstance(changed.target, torch._ops.OpOverload)
                    or len(changed.users) != 1
                ):
                    return True
                name = changed.target._schema.name.partition("::")[2]
                if name in _FRESH:
                    break
                if name not in _PASSING and not changed.target._schema.is_mutable:
                    return True
                changed = changed.args[0]
    return False


class _Empty:
    nodes = ()


def _functional(program: Any) -> Any:
    """The program without operations in place that other values depend on."""
    if not _changes_others(program.graph_module):
        return program
    try:
        program = program.run_decompositions({})
    except Exception as error:
        raise Refused(
            f"torch.export cannot remove its operations in place: {_first_line(error)}"
        ) from error
    if _changes_others(program.graph_module):
        raise Refused("it changes values in place that are used elsewhere")
    return program


# Reading

# How to compute one operation: from node, arguments and keyword arguments.
Step = Callable[[Any, list[Any], dict[str, Any]], Any]


class _Reader:
    """Reads an exported program as operations of a chain, or runs it on tensors."""

    def __init__(self, source: _Source, name: str) -> None:
        self._program, self._name = _functional(source.program), name
        kinds = self._kinds()
        signature = self._program.graph_signature
        inputs = [s for s in signature.input_specs if s.kind is kinds.USER_INPUT]
        tensors = [s for s in inputs if type(s.arg).__name__ == "TensorArgument"]
        if len(tensors) != 1:
            raise Refused(
                f"it has {len(tensors)} inputs; modules with one tensor as input are supported"
            )
        self._input = tensors[0].arg.name
        placeholder = next(n for n in self._program.graph.nodes if n.name == self._input)
        self._output = self._output_node()
        fake = placeholder.meta["val"]
        self.dtype = fake.dtype
        first, *others = fake.shape or [None]
        if any(not isinstance(n, int) for n in others):
            raise Refused("only its first axis, that of the rows, may have any length")
        self.batch: int | None = BATCH if not isinstance(first, int) else first
        shape = tuple(int(n) for n in others)
        if fake.ndim == 1:
            if not isinstance(first, int):
                raise Refused("its rows have no axis of their own")
            self.batch, shape = None, (first,)
        elif first == 1:
            # One row, which the program may take out of its axis.
            self.batch, shape = None, (1, *shape)
        self.shape = shape
        self._chain = Chain(shape, self.batch)
        #: Node whose values a label compares.
        self.scores: Any = None
        self._place = self._count = 0
        self._live = self._live_nodes()
        self.epsilon = self._epsilon()

    @staticmethod
    def _kinds() -> Any:
        from torch.export.graph_signature import InputKind

        return InputKind

    def _output_node(self) -> Any:
        """The one tensor that the program returns."""
        from torch.export.graph_signature import OutputKind

        results = self._program.graph.output_node().args[0]
        specs = self._program.graph_signature.output_specs
        found = [
            node
            for node, spec in zip(results, specs, strict=True)
            if spec.kind is OutputKind.USER_OUTPUT and hasattr(node, "op")
        ]
        if len(dict.fromkeys(found)) != 1:
            raise Refused(
                f"it returns {len(found)} tensors; pass a module that returns one of them"
            )
        self._changed = {spec.target for spec in specs if spec.kind is OutputKind.BUFFER_MUTATION}
        return found[0]

    def _live_nodes(self) -> set[Any]:
        live = _needed([self._output])
        self._count = sum(n.op == "call_function" for n in live)
        return live

    def _epsilon(self) -> float:
        import torch

        # Parts with a precision of their own are graphs inside the graph.
        inner = [
            node
            for name, part in self._program.graph_module.named_modules()
            for node in (part.graph.nodes if name and hasattr(part, "graph") else ())
        ]
        values = [n.meta.get("val") for n in [*self._live, *inner]]
        return max(
            float(torch.finfo(v.dtype).eps)
            for v in values
            if isinstance(v, torch.Tensor) and v.is_floating_point()
        )

    def read(self) -> Rows | Labels:
        """The output as a value of the chain."""
        value = self._values(self._chain.input, self._step)[self._output]
        used = {node.name for node in self._live if node.op == "placeholder"}
        for spec in self._program.graph_signature.input_specs:
            if spec.arg.name in used and spec.target in self._changed:
                raise Refused(
                    f"its output depends on the buffer {spec.target!r}, which each call changes"
                )
        if not isinstance(value, Rows | Labels):
            raise Refused("its output does not depend on its input")
        return value

    def run(self, x: Any, node: Any = None) -> Any:
        """The value of a node, by default the output, for a tensor."""
        return self._values(x, lambda n, args, kwargs: n.target(*args, **kwargs))[
            node or self._output
        ]

    def _values(self, x: Any, step: Step) -> dict[Any, Any]:
        kinds, program = self._kinds(), self._program
        specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        inputs = []
        for node in program.graph.nodes:
            if node.op != "placeholder":
                continue
            spec = specs[node.name]
            if node.name == self._input:
                inputs.append(x)
            elif spec.kind is kinds.USER_INPUT:
                inputs.append(getattr(spec.arg, "value", None))
            else:
                inputs.append(self._constant(spec))
        return self._walk(program.graph_module, self._live, inputs, step)

    def _constant(self, spec: Any) -> Any:
        import torch

        program = self._program
        value = program.state_dict.get(spec.target)
        value = program.constants.get(spec.target) if value is None else value
        if isinstance(value, torch.Tensor):
            if value.is_meta:
                raise Refused(f"its tensor {spec.target!r} is on the device meta, without values")
            value = value.detach().cpu()
            is_real = spec.kind is self._kinds().PARAMETER and value.is_floating_point()
            if is_real and not torch.isfinite(value).all():
                raise Refused(f"its parameter {spec.target!r} has NaN or infinite values")
        return value

    def _walk(self, owner: Any, live: set[Any], inputs: list[Any], step: Step) -> dict[Any, Any]:
        """The values of the live nodes of a graph."""
        values: dict[Any, Any] = {}
        remaining = iter(inputs)
        for node in owner.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(remaining)
            if node not in live:
                continue
            if node.op == "get_attr":
                values[node] = operator.attrgetter(node.target)(owner)
            elif node.op == "call_function":
                values[node] = self._function(node, values, step)
        return values

    def _function(self, node: Any, values: dict[Any, Any], step: Step) -> Any:
        import torch

        args = torch.fx.node.map_arg(node.args, values.__getitem__)
        kwargs = torch.fx.node.map_arg(node.kwargs, values.__getitem__)
        if node.target is operator.getitem:
            return args[0][args[1]]
        # Parts without gradients, and parts in another precision, as if it were the usual one.
        before = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}.get(str(node.target))
        if before is not None:
            inner, *inputs = args[before:]
            results = inner.graph.output_node().args[0]
            found = self._walk(inner, _needed(results), inputs, step)
            return [found.get(result) for result in results]
        return step(node, list(args), dict(kwargs))

    def _step(self, node: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        self._place += 1
        self._chain.where = _label(node)
        try:
            return self._operation(node, args, kwargs)
        except Refused as error:
            raise self._refusal(node, error) from error.__cause__
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            unread = Refused(f"it cannot be computed: {_first_line(error)}")
            raise self._refusal(node, unread) from error

    def _refusal(self, node: Any, error: Refused) -> UnsupportedModelError:
        line = _source_line(node)
        return refusal(
            Refused(f"{error}{line}"),
            source="torch",
            name=self._name,
            node=_label(node),
            op=_operation_name(node),
            place=(self._place, max(self._count, self._place)),
            matrices=self._chain.matrices,
        )

    def _operation(self, node: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        import torch

        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            module = getattr(target, "__module__", None)
            if module not in ("_operator", "math", "torch") or is_dynamic([args, kwargs]):
                raise Refused("lrgate does not know operations outside of ATen")
            return size_call(target, [*args, *kwargs.values()])
        values = _bound(target, args, kwargs)
        fake = node.meta.get("val")
        several = isinstance(fake, list | tuple)
        first = fake[0] if several and fake else fake
        whole = isinstance(first, torch.Tensor) and not first.is_floating_point()
        if isinstance(first, torch.Tensor) and first.is_complex():
            raise Refused("complex numbers are not supported")
        sources = list(node.args) + [None] * (len(values) - len(node.args))
        call = Call(
            self._chain,
            target,
            values,
            [_is_boolean(source) for source in sources],
            len(fake) if several else 1,
            whole,
            [_is_whole(source) for source in sources],
            _widens(node, first),
        )
        if is_dynamic(values):
            result = called(call)
            if isinstance(result, Labels) and self.scores is None:
                self.scores = node.args[0]
            return result
        if target.namespace != "aten" or "from_file" in target._schema.name:
            raise Refused("lrgate does not know operations outside of ATen")
        is_random = torch.Tag.nondeterministic_seeded in target.tags
        if is_random and not (target._schema.name.endswith("dropout") and values[2] is False):
            raise Refused("it makes random numbers")
        if holds_batch(values):
            return constant_call(target, values, call.run)
        for value in fake if several else [fake]:
            if isinstance(value, torch.Tensor):
                shape = [n for n in value.shape if isinstance(n, int)]
                if math.prod(shape) > MAX_ELEMENTS:
                    raise Refused(f"a constant of shape {tuple(shape)} is not supported")
        return call.run(values)


def _needed(outputs: Any) -> set[Any]:
    """The nodes on which outputs depend."""
    stack = [node for node in outputs if hasattr(node, "all_input_nodes")]
    found: set[Any] = set()
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.all_input_nodes)
    return found


def _bound(target: Any, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
    """Arguments in the order of the schema, with defaults."""
    values = list(args)
    for argument in target._schema.arguments[len(args) :]:
        values.append(kwargs.get(argument.name, argument.default_value))
    return values


def _is_boolean(source: Any) -> bool:
    import torch

    value = getattr(source, "meta", {}).get("val")
    return isinstance(value, torch.Tensor) and value.dtype is torch.bool


def _is_whole(source: Any) -> bool:
    """Whether a node is a tensor of whole numbers."""
    import torch

    dtype = getattr(getattr(source, "meta", {}).get("val"), "dtype", None)
    return isinstance(dtype, torch.dtype) and _limits(torch, dtype) is not None


def _limits(torch: Any, dtype: Any) -> tuple[int, int] | None:
    """The smallest and the largest value of a dtype of whole numbers."""
    if dtype.is_floating_point or dtype.is_complex or dtype is torch.bool:
        return None
    info = torch.iinfo(dtype)
    return int(info.min), int(info.max)


def _widens(node: Any, result: Any) -> bool:
    """Whether the dtype of a tensor holds all whole numbers of that of the node's argument."""
    import torch

    source = node.args[0] if node.args else None
    if source is None or not _is_whole(source) or not isinstance(result, torch.Tensor):
        return False
    old, new = _limits(torch, source.meta["val"].dtype), _limits(torch, result.dtype)
    return old is not None and new is not None and new[0] <= old[0] and old[1] <= new[1]


def _label(node: Any) -> str:
    """The path of the module that computes a node, or the name of the node."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return path or str(node.name)


def _operation_name(node: Any) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    kind = stack[-1][1] if stack and stack[-1][0] else None
    kind = kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", None)
    name = str(node.target)
    return f"{kind}, {name}" if kind else name


def _source_line(node: Any) -> str:
    """The line of the user's code that made a node, if it is known."""
    lines = (node.meta.get("stack_trace") or "").splitlines()
    for place in range(len(lines) - 1, -1, -1):
        text = lines[place].strip()
        if not text.startswith('File "'):
            continue
        file, _, rest = text[6:].partition('"')
        if f"{os.sep}torch{os.sep}" in file or file.startswith("<") or file == __file__:
            continue
        number = rest.removeprefix(", line ").partition(",")[0]
        quoted = lines[place + 1].strip() if place + 1 < len(lines) else ""
        if not quoted or quoted.startswith('File "'):
            return f" ({Path(file).name}, line {number})"
        return f' ("{quoted}" in {Path(file).name}, line {number})'
    return ""


# Comparison with the module itself


def _verified(net: Network, reader: _Reader, source: _Source, value: Rows | Labels) -> None:
    import torch

    name = reader._name
    module = source.module
    epsilon = max(reader.epsilon, float(np.finfo(np.float32).eps))
    labels = isinstance(value, Labels)
    whole = _limits_of_rows(torch, reader.dtype)
    compute: Callable[[Any], Any] = reader.run if module is None else module

    def scores(x: Array) -> Array:
        function = compute if not labels else lambda rows: reader.run(rows, reader.scores)
        result = _by_rows(torch, reader, function, x)
        # A network of two exclusive classes has one output.
        return result[:, 1:] if result.shape[1] == 2 and net.output_size == 1 else result

    verified(net, scores, source="torch", name=name, epsilon=epsilon, whole=whole)
    if not labels:
        return

    def agreement(x: Array) -> Array:
        """The network's own scores, where its best one is that of the module's label."""
        label = _by_rows(torch, reader, compute, x).astype(np.intp).reshape(-1)
        own = scores_of(net.forward(x))
        best = own.max(axis=1)
        near = own[np.arange(len(own)), label] >= best - 1e-3 * (1.0 + np.abs(best))
        return np.where(near[:, None], net.forward(x), np.nan)

    def scores_of(raw: Array) -> Array:
        # The one output of two exclusive classes is the probability of the second.
        return raw if raw.shape[1] > 1 else np.concatenate([1.0 - raw, raw], axis=1)

    verified(net, agreement, source="torch", name=name, epsilon=epsilon, whole=whole)


def _limits_of_rows(torch: Any, dtype: Any) -> tuple[int, int] | None:
    """The least and the greatest value of an input of whole numbers; None for real numbers."""
    limits: tuple[int, int] | None = (0, 1) if dtype is torch.bool else _limits(torch, dtype)
    return limits


def _by_rows(torch: Any, reader: _Reader, function: Callable[[Any], Any], x: Array) -> Array:
    """The outputs (n, k) of a function of tensors that takes one row, or as many as it fixes."""
    # A copy, as modules may change their input in place.
    whole = torch.from_numpy(x.reshape(len(x), *reader.shape).copy()).to(reader.dtype)
    if reader.batch is None:
        parts = list(whole)
    elif reader.batch == BATCH:
        # One row alone, as its answer must not depend on others.
        parts = [whole[:1], whole[1:]]
    else:
        order = [i % len(x) for i in range(-(-len(x) // reader.batch) * reader.batch)]
        parts = list(whole[order].split(reader.batch))
    with torch.no_grad():
        try:
            results = [_tensor(torch, function(part)) for part in parts]
        except Exception:
            if reader.batch != BATCH:
                raise
            # Some modules need more than one row.
            parts = [whole]
            results = [_tensor(torch, function(whole))]
    count = [1 if reader.batch is None else len(part) for part in parts]
    flat = [r.double().numpy().reshape(n, -1) for r, n in zip(results, count, strict=True)]
    result: Array = np.concatenate(flat)[: len(x)]
    return result


def _tensor(torch: Any, output: Any) -> Any:
    """The tensor in the output of a module."""
    leaves = torch.utils._pytree.tree_leaves(output)
    return next(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))

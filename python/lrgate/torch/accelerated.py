"""A PyTorch module that runs a network of lrgate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Self
from weakref import WeakValueDictionary

import torch

from lrgate.inputs import checked_integer
from lrgate.network import Network

__all__ = ["Accelerated"]

# Custom operators take numbers and tensors only, so they find their module by its handle.
_modules: WeakValueDictionary[int, Accelerated] = WeakValueDictionary()
_handles = itertools.count(1)

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Accelerated(torch.nn.Module):
    """Runs a network on the CPU, for inference.

    Parameters
    ----------
    network : Network
    num_threads : int, optional
        Threads of each call; by default those of :func:`lrgate.get_num_threads`.

    Notes
    -----
    ``module(x)`` takes a tensor of shape (..., d) on the CPU and returns the network's raw outputs,
    a new contiguous tensor of shape (..., k). It has the dtype of `x` if that is a floating-point
    type, otherwise float32. The computation itself is in float32 or int8.

    There are no gradients: a call with an `x` that requires them raises RuntimeError, unless
    gradients are disabled, as by ``torch.no_grad()``. The module has no parameters, its
    ``state_dict`` is empty, and it stays on the CPU. It can be copied and pickled. It can also be
    compiled by ``torch.compile`` and exported by ``torch.export``; an exported program runs only in
    a process in which the module is alive.

    Raises
    ------
    TypeError
        If `network` is not a Network, or a call gets something other than a tensor.
    ValueError
        If a call gets a tensor of another width, or on another device.
    RuntimeError
        If a call would have to compute gradients.

    Examples
    --------
    >>> import lrgate, lrgate.torch, torch
    >>> net, x, y = lrgate.examples.mnist()
    >>> module = lrgate.torch.Accelerated(net)
    >>> module(torch.from_numpy(x[:3])).argmax(1).tolist() == y[:3].tolist()
    True
    """

    network: Network

    def __init__(self, network: Network, *, num_threads: int | None = None) -> None:
        super().__init__()
        if not isinstance(network, Network):
            raise TypeError(f"network must be a Network, got {type(network).__name__}")
        self.network = network
        self.num_threads = (
            None if num_threads is None else checked_integer(num_threads, "num_threads")
        )
        self._register()

    def _register(self) -> None:
        self._outputs = self.network.output_size
        self._handle = next(_handles)
        _modules[self._handle] = self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Raw outputs (..., k) for rows (..., d)."""
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            result: torch.Tensor = _forward(x, self._handle, self._outputs)
            return result
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"x must be a tensor, got {type(x).__name__}")
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "lrgate computes no gradients: call the model under torch.no_grad() or "
                "torch.inference_mode()"
            )
        if torch.jit.is_tracing():
            # The outputs would be constants of the trace.
            raise RuntimeError(
                "lrgate.torch.Accelerated cannot be traced: use torch.export, or write the network "
                "by Network.to_onnx"
            )
        return self._run(x)

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu":
            raise ValueError(f"x must be on the CPU, where lrgate runs, got {x.device}")
        if x.layout != torch.strided:
            raise ValueError(f"x must be a dense tensor, got layout {x.layout}")
        if x.ndim == 0 or x.shape[-1] != self.network.input_size:
            raise ValueError(
                f"x must have shape (..., {self.network.input_size}), got {tuple(x.shape)}"
            )
        rows = x.detach()
        if rows.dtype in (torch.float16, torch.bfloat16):  # NumPy has no bfloat16
            rows = rows.float()
        if rows.ndim > 2:
            rows = rows.reshape(-1, rows.shape[-1])
        network = self.network
        outputs = (
            network(rows.numpy())
            if self.num_threads is None
            else network.forward(rows.numpy(), num_threads=self.num_threads)
        )
        result = torch.from_numpy(outputs)
        if x.ndim > 2:
            result = result.reshape(*x.shape[:-1], self._outputs)
        return result.to(x.dtype) if x.dtype in _FLOATS else result

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # Called by `to`, `cuda`, `half` and similar methods. There are no tensors to convert.
        device = fn(torch.empty(0)).device
        if device.type not in ("cpu", "meta"):
            raise RuntimeError(f"lrgate runs on the CPU: the module cannot move to {device}")
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_handle"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._register()

    def extra_repr(self) -> str:
        widths = [self.network.input_size, *(len(layer.bias) for layer in self.network.layers)]
        return "-".join(map(str, widths))


@torch.library.custom_op("lrgate::forward", mutates_args=())
def _forward(x: torch.Tensor, handle: int, outputs: int) -> torch.Tensor:
    """Raw outputs of the network of a module that is alive in this process."""
    module = _modules.get(handle)
    if module is None or module.network.output_size != outputs:
        raise RuntimeError(
            "the lrgate.torch.Accelerated module of this compiled or exported program is not "
            "alive in this process"
        )
    return module._run(x)


@_forward.register_fake
def _fake(x: torch.Tensor, handle: int, outputs: int) -> torch.Tensor:
    dtype = x.dtype if x.dtype in _FLOATS else torch.float32
    return x.new_empty((*x.shape[:-1], outputs), dtype=dtype)

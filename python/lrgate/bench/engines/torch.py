"""PyTorch: eager, scripted and compiled."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Final

import numpy as np

from lrgate.bench.engines.base import Engine, Forward, Settings, combinations_of
from lrgate.bench.engines.folding import folded
from lrgate.network import Network
from lrgate.types import Float32Array

__all__ = ["MODES", "compiled", "torch_call", "torch_threads"]


def _module(net: Network) -> Any:
    """The network without an input map, so that its modules alternate between Linear and ReLU."""
    return Network.from_layers(folded(net)).to_torch()


def _store_torch(net: Network, calibration: Float32Array, folder: Path, settings: Settings) -> Path:
    import torch

    path = folder / f"state-{settings['dtype']}.pt"
    if not path.exists():
        module = _module(net).to(getattr(torch, settings["dtype"]))
        torch.save(module.state_dict(), path)
    return path


def _load_torch(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    import torch

    torch_threads(threads)
    state = torch.load(path, weights_only=True)
    parts: list[Any] = []
    for name in [name for name in state if name.endswith("weight")]:
        outputs, inputs = state[name].shape
        parts += [torch.nn.Linear(inputs, outputs, device="meta"), torch.nn.ReLU()]
    module = torch.nn.Sequential(*parts[:-1]).eval()
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False)
    if "mode" in settings:
        module = compiled(module, threads, settings["mode"])
    return torch_call(module, state["0.weight"].dtype)


def compiled(module: Any, threads: int, mode: str) -> Any:
    import torch
    import torch._dynamo
    import torch._inductor.config as inductor
    import torch._inductor.select_algorithm as algorithms

    inductor.freezing = True
    inductor.cpp.threads = threads
    inductor.compile_threads = 1  # starts no worker processes
    # Each module has one shape, but there are many networks and batch sizes.
    torch._dynamo.config.recompile_limit = 1000
    algorithms.PRINT_AUTOTUNE = False
    return torch.compile(module, mode=mode, dynamic=False)


def _store_torchscript(
    net: Network, calibration: Float32Array, folder: Path, settings: Settings
) -> Path:
    import torch

    path = folder / "script.pt"
    if not path.exists():
        module = _module(net)
        example = torch.from_numpy(np.zeros((2, net.input_size), np.float32))
        torch.jit.save(torch.jit.freeze(torch.jit.trace(module, example)), path)
    return path


def _load_torchscript(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    import torch

    torch_threads(threads)
    module = torch.jit.load(path).eval()
    if settings["optimized"]:
        module = torch.jit.optimize_for_inference(module)
    return torch_call(module, torch.float32)


def torch_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # already set
        torch.set_num_interop_threads(1)


def torch_call(module: Any, dtype: Any) -> Forward:
    import torch

    from_numpy, inference_mode = torch.from_numpy, torch.inference_mode
    if dtype == torch.float32:

        def call(x: Float32Array) -> Any:
            with inference_mode():
                return module(from_numpy(x)).numpy()

        return call

    def narrow(x: Float32Array) -> Any:
        with inference_mode():
            return module(from_numpy(x).to(dtype)).float().numpy()

    return narrow


MODES: Final = ("default", "max-autotune-no-cudagraphs")
_TORCH: Final = ("torch",)

ENGINES: Final = (
    Engine(
        "PyTorch eager",
        "torch",
        "f32",
        _TORCH,
        _store_torch,
        _load_torch,
        combinations_of(dtype=["float32"]),
    ),
    Engine(
        "PyTorch script",
        "torch",
        "f32",
        _TORCH,
        _store_torchscript,
        _load_torchscript,
        combinations_of(optimized=(False, True)),
    ),
    Engine(
        "PyTorch compile",
        "torch",
        "f32",
        _TORCH,
        _store_torch,
        _load_torch,
        combinations_of(dtype=["float32"], mode=MODES),
    ),
    Engine(
        "PyTorch bf16",
        "torch",
        "bf16",
        _TORCH,
        _store_torch,
        _load_torch,
        ({"dtype": "bfloat16"}, {"dtype": "bfloat16", "mode": MODES[1]}),
    ),
)

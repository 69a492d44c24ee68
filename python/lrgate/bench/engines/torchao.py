"""PyTorch in int8 with static scales: torchao's quantiser for x86, compiled by inductor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from lrgate.bench.engines.base import Engine, Forward, Settings, combinations_of
from lrgate.bench.engines.numpy import load_npz, store_npz
from lrgate.bench.engines.torch import MODES, compiled, torch_call, torch_threads
from lrgate.network import Network
from lrgate.types import Float32Array


def _store_torchao(
    net: Network, calibration: Float32Array, folder: Path, settings: Settings
) -> Path:
    """Write the weights and the calibration rows: the code depends on the rows per call."""
    np.save(folder / "arrays.rows.npy", calibration)
    return store_npz(net, calibration, folder, settings)


def _load_torchao(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    import torch
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    torch_threads(threads)
    calibration = np.load(path.with_suffix(".rows.npy"), allow_pickle=False)
    calls = np.resize(calibration, (-(-len(calibration) // rows), rows, calibration.shape[1]))
    module = _module(path)
    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        exported = torch.export.export(module, (torch.from_numpy(calls[0]),)).module()
        observed = prepare_pt2e(exported, quantizer)
        for call in calls:
            observed(torch.from_numpy(call))
        converted = convert_pt2e(observed)
        move_exported_model_to_eval(converted)
    return torch_call(compiled(converted, threads, settings["mode"]), torch.float32)


def _module(path: Path) -> Any:
    import torch

    parts: list[Any] = []
    for weight, bias in load_npz(path):
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        state = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
        layer.load_state_dict(state, assign=True)
        parts += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*parts[:-1]).eval().requires_grad_(False)


ENGINES: Final = (
    Engine(
        "PyTorch int8",
        "torchao",
        "int8",
        ("torch", "torchao"),
        _store_torchao,
        _load_torchao,
        combinations_of(mode=MODES),
        batch_dependent=True,
    ),
)

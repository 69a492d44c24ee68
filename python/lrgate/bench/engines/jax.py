"""JAX in f32."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from lrgate.bench.engines.base import Engine, Forward, Settings, combinations_of
from lrgate.bench.engines.numpy import load_npz, store_npz


def _load_jax(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    import jax
    import jax.numpy as jnp

    layers = [(jnp.asarray(weight.T), jnp.asarray(bias)) for weight, bias in load_npz(path)]

    def forward(parameters: Any, x: Any) -> Any:
        for weight, bias in parameters[:-1]:
            x = jnp.maximum(x @ weight + bias, 0)
        weight, bias = parameters[-1]
        return x @ weight + bias

    if settings["weights"] == "constants":
        constant = jax.jit(lambda x: forward(layers, x))
        return lambda x: np.asarray(constant(x))
    general = jax.jit(forward)
    return lambda x: np.asarray(general(layers, x))


ENGINES: Final = (
    Engine(
        "JAX",
        "jax",
        "f32",
        ("jax", "jax.numpy"),
        store_npz,
        _load_jax,
        combinations_of(weights=("constants", "arguments")),
    ),
)

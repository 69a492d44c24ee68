"""scikit-learn in f32, with and without input checks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lrgate.bench.engines.base import Engine, Forward, Settings, combinations_of
from lrgate.bench.engines.numpy import load_npz, store_npz
from lrgate.frameworks.sklearn_writer import to_mlp


def _load_sklearn(path: Path, rows: int, threads: int, settings: Settings) -> Forward:
    model = to_mlp(load_npz(path))
    if settings["checks"]:
        return lambda x: model.predict(x).reshape(len(x), -1)
    return lambda x: model._forward_pass_fast(x, check_input=False)


ENGINES: Final = (
    Engine(
        "scikit-learn",
        "scikit-learn",
        "f32",
        ("sklearn.neural_network",),
        store_npz,
        _load_sklearn,
        combinations_of(checks=(True, False)),
    ),
)

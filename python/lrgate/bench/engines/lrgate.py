"""lrgate as an engine, for the comparison of start-up."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lrgate.bench.engines.base import Engine, Settings
from lrgate.network import Network
from lrgate.types import Float32Array


def _store_lrgate(
    net: Network, calibration: Float32Array, folder: Path, settings: Settings
) -> Path:
    path = folder / f"{settings['file']}.safetensors"  # uncompressed, loads faster
    net.save(path)
    return path


def _load_lrgate(path: Path, rows: int, threads: int, settings: Settings) -> Network:
    return Network.load(path)


LRGATE: Final = Engine("lrgate", "lrgate", "int8", ("lrgate",), _store_lrgate, _load_lrgate)
"""lrgate as an engine, for the comparison of start-up."""

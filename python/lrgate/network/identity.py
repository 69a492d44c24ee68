"""The size and the hash of a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from lrgate.files.writing import header_of, to_arrays
from lrgate.model.model import Model
from lrgate.model.plan import BatchPlan

__all__ = ["array_bytes", "token_of"]

# Bytes that are hashed at once.
_PIECE: Final = 8 << 20


def array_bytes(model: Model) -> int:
    """Number of bytes of a model's arrays, except the weights, which the engine counts."""
    arrays = to_arrays(model)
    held = [array for key, array in arrays.items() if not key.endswith(".weight")]
    if model.classes is not None:
        held.append(model.classes)
    return sum(array.nbytes for array in held)


def token_of(model: Model, plan: Sequence[BatchPlan]) -> str:
    """Compute a hash of everything that a file of the model with this `plan` would hold.

    Outputs stored for plans with gates or int8 are excluded, because they follow from the rest and
    :meth:`Network.save` adds those that are missing.
    """
    probe = None if model.probe is None else replace(model.probe, planned=None)
    model = replace(model, plan=tuple(plan), probe=probe)
    text = json.dumps(header_of(model), sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = hashlib.sha256(text.encode())
    for key, array in sorted(to_arrays(model).items()):
        digest.update(f"\n{key} {array.dtype.str} {array.shape}:".encode())
        values = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        # Python handles Ctrl-C between the pieces.
        for first in range(0, len(values), _PIECE):
            digest.update(values[first : first + _PIECE].data)
    return digest.hexdigest()

"""Networks of lrgate inside PyTorch models.

===============  ===================================================================
``Accelerated``  a module that runs a network
``accelerate``   replaces the fully connected parts of a larger model
``sparsify``     trains a network further so that few of its units are active
===============  ===================================================================

:func:`lrgate.from_torch` converts a whole module, and :meth:`lrgate.Network.to_torch` returns one.
"""

from __future__ import annotations

from lrgate.inputs.optional import required

required("torch", "torch", "lrgate.torch")

from lrgate.torch.accelerated import Accelerated  # noqa: E402
from lrgate.torch.replacing import Replacement, accelerate  # noqa: E402
from lrgate.torch.sparsifying import sparsify  # noqa: E402

__all__ = ["Accelerated", "Replacement", "accelerate", "sparsify"]

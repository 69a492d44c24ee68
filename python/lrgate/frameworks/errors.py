"""The error for models that lrgate cannot run."""

from __future__ import annotations

from typing import Any

__all__ = ["Refused", "UnsupportedModelError"]


class UnsupportedModelError(ValueError):
    """A model from another framework that lrgate cannot run with the same results.

    Attributes
    ----------
    source : str
        The framework: ``"onnx"``, ``"torch"``, ``"sklearn"`` or ``"keras"``.
    node : str or None
        Name of the node, module or step that is not supported; None for the model as a whole.
    op : str or None
        The operation of that node, such as ``"Conv"``.
    reason : str
        Why it is not supported, without the names.
    """

    def __init__(
        self,
        message: str,
        *,
        source: str,
        reason: str,
        node: str | None = None,
        op: str | None = None,
    ) -> None:
        super().__init__(message)
        self.source = source
        self.reason = reason
        self.node = node
        self.op = op

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (str(self), self.source, self.reason, self.node, self.op)


def _rebuilt(
    message: str, source: str, reason: str, node: str | None, op: str | None
) -> UnsupportedModelError:
    return UnsupportedModelError(message, source=source, reason=reason, node=node, op=op)


class Refused(Exception):
    """An operation that does not fit a chain of layers; readers add the node and its name."""

"""The exception for invalid model files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "FileFormatError",
    "naming",
]


class FileFormatError(ValueError):
    """Raised if the content of a model file is invalid; the message starts with the path."""


@contextmanager
def naming(prefix: str) -> Iterator[None]:
    """Convert errors of the model's checks to a FileFormatError that names the key."""
    try:
        yield
    except FileFormatError:
        raise
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"{prefix}{error}") from error

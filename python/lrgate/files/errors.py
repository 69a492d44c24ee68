"""The exception for files that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "FileFormatError",
    "naming",
]


class FileFormatError(ValueError):
    """A model file whose content cannot be used; the message starts with the file's path."""


@contextmanager
def naming(prefix: str) -> Iterator[None]:
    """Turns what a model's own checks raise into a FileFormatError that names the key."""
    try:
        yield
    except FileFormatError:
        raise
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"{prefix}{error}") from error

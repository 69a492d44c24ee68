"""Import of packages that lrgate does not require."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["required"]


def required(package: str, extra: str, caller: str) -> Any:
    """Import an optional package.

    Parameters
    ----------
    package : str
        The module to import, such as ``"onnx"``.
    extra : str
        The extra of lrgate that installs it.
    caller : str
        The public function that needs it, for the message.

    Raises
    ------
    ImportError
        If the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        raise ImportError(
            f'{caller} needs the package {name}: pip install "lrgate[{extra}]" ({error})'
        ) from error

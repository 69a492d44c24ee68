"""Import of optional packages."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["required"]


def required(package: str, extra: str, caller: str) -> Any:
    """Import an optional package.

    Parameters
    ----------
    package : str
        Name of the module.
    extra : str
        The extra of lrgate that installs it.
    caller : str
        The function that needs it, for the message.

    Raises
    ------
    ImportError
        If the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        root = package.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != root:
            raise
        raise ImportError(
            f'{caller} needs the package {root}: pip install "lrgate[{extra}]"', name=root
        ) from None

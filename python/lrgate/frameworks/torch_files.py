"""Exported programs from `.pt2` files, without running anything that a file contains.

`torch.export.load` unpickles some members of a file, evaluates its shape expressions as Python, and
loads compiled libraries. So a file is read first, and only plain members are given to it.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any, Final

from lrgate.frameworks.errors import Refused

__all__ = ["load_program"]

# Members that hold plain tensors or descriptions, behind the name of the archive.
_MEMBERS: Final = re.compile(
    r"[^/]+/(archive_format|archive_version|version|byteorder|\.data/(version|serialization_id)"
    r"|\.format_version|\.storage_alignment|models/model\.json|extra/.*"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt)"
)
_TARGETS: Final = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.ops\.higher_order\.wrap_with_set_grad_enabled"
    r"|torch\.sym_\w+|_operator\.\w+|math\.\w+"
)
# Names that torch writes into shape expressions.
_NAMES: Final = re.compile(
    r"[szu]\d+|Symbol|Integer|Add|Mul|Pow|Mod|Max|Min|FloorDiv|CleanDiv|PythonMod|Eq|Ne|Lt|Le|Gt|Ge"
    r"|positive|negative|integer|nonnegative|nonzero|real|evaluate|commutative|True|False"
)
_CHARACTERS: Final = re.compile(r"[\w\s'(),=+*/<>-]*")
_CONTAINERS: Final = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_LOAD_IT: Final = (
    "if you trust the file, load it with torch.export.load, and pass the program to "
    "lrgate.from_torch"
)


def load_program(path: str) -> Any:
    """Load an exported program from a file that `torch.export.save` wrote.

    Raises
    ------
    Refused
        If the file is damaged, or could run code when it is loaded.
    OSError
        If the file cannot be read.
    """
    import torch

    with open(path, "rb") as file:
        content = file.read()
    try:
        members = _members(content)
        _check(members)
        # Parsers of archives differ, so torch gets an archive of the checked members.
        program = torch.export.load(_archive(members))
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"torch.export cannot load it: {_first_line(error)}") from error
    # Conditions on shapes, which torch would compile as Python.
    program._guards_code = []
    return program


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _members(content: bytes) -> dict[str, bytes]:
    """The members of an archive by name, which torch writes without compression."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise Refused("it is no file of torch.export.save")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        # PyTorch's reader does not distinguish upper and lower case.
        if len({info.filename.lower() for info in infos}) != len(infos):
            raise Refused(f"it contains two members of the same name: {_LOAD_IT}")
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise Refused("it is compressed, which no file of torch.export.save is")
        if sum(info.file_size for info in infos) > len(content):
            raise Refused("it is damaged: its members are longer than the file")
        return {info.filename: archive.read(info) for info in infos}


def _archive(members: dict[str, bytes]) -> io.BytesIO:
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    result.seek(0)
    return result


def _check(members: dict[str, bytes]) -> None:
    import torch

    for name in members:
        if _MEMBERS.fullmatch(name) is None:
            raise Refused(f"it contains {name!r}, which may run code when it is loaded: {_LOAD_IT}")
    for name, member in members.items():
        if name.endswith("config.json"):
            _check_pickles(json.loads(member))
        elif name.endswith("models/model.json"):
            _check_model(json.loads(member))
        elif name.endswith(".pt"):
            # The tensors of sample inputs are an archive of their own.
            if zipfile.is_zipfile(io.BytesIO(member)):
                _members(member)
            # torch.export.load tries again without this limit.
            torch.load(io.BytesIO(member), weights_only=True)


def _check_pickles(config: dict[str, Any]) -> None:
    for name, entry in config["config"].items():
        if entry["use_pickle"] is not False:
            raise Refused(f"its tensor {name!r} is pickled: {_LOAD_IT}")


def _check_model(model: Any) -> None:
    for key, value in _entries(model):
        if key == "target" and (not isinstance(value, str) or _TARGETS.fullmatch(value) is None):
            raise Refused(f"it contains the operation {value!r}, which lrgate does not know")
        if key == "expr_str" and not _is_plain(value):
            raise Refused(
                f"its shape expression {value!r} is not one that torch writes: {_LOAD_IT}"
            )
        if key in ("in_spec", "out_spec") and isinstance(value, str) and value:
            for inner, kind in _entries(json.loads(value)):
                if inner == "type" and kind not in _CONTAINERS:
                    raise Refused(f"its arguments are in a {kind}: {_LOAD_IT}")
        if key == "treespec_namedtuple_fields" and value:
            raise Refused(f"its arguments are in named tuples: {_LOAD_IT}")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """All entries of nested dicts."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield from item.items()
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _is_plain(expression: Any) -> bool:
    if not isinstance(expression, str) or _CHARACTERS.fullmatch(expression) is None:
        return False
    words = re.findall(r"[A-Za-z_]\w*", expression)
    return all(_NAMES.fullmatch(word) for word in words)

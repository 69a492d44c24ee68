"""Model files: `.npz` and `.safetensors`, the same keys in both.

====================================  ==================================================
key                                   what it holds
====================================  ==================================================
``layers.{i}.weight``                 (out, in)
``layers.{i}.bias``                   (out,); zeros where it is missing
``layers.{i}.gate.u``, ``.v``         (in, rank) and (rank, out)
``layers.{i}.gate.bias``              (out,)
``layers.{i}.gate.range``             (2, rank); see `Gate`
``layers.{i}.order``                  (k,) integers; the units computed, see `Layer`
``layers.{i}.quantization.scale``     () or (in,), as ``.offset``; see `Quantization`
``input.scale``, ``input.shift``      () or (d,)
``input.range``                       (2,) or (2, d); the lowest and the highest raw input
``probe.x``, ``probe.y``              (n, d) and (n, k)
``probe.planned``                     (m n, k), m times (n, k); see `PlannedOutputs`
``lrgate``                            all that is no array, as JSON: see `_header`
====================================  ==================================================

In an `.npz` file ``lrgate`` is a 0-d array of text, in a `.safetensors` file an entry of the file's
metadata. A file of weights, biases and input keys alone may lack it: then hidden layers are ReLU
and the last one is linear. Since format version 2 the JSON has a checksum of the whole file, see
`_Checksum`; files of version 1 have none.

A file is not trusted. Nothing in it is unpickled; every size that it states is checked against the
bytes that are there before memory is taken for it; and whatever is wrong with it ends in a
`FileFormatError` that names the file and the key. tests/attacks/README.md lists what was tried.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from lrgate.model.activation import Activation
from lrgate.model.arrays import as_classes, as_float32, as_range, as_rows, sealed
from lrgate.model.json import Machine, as_machine
from lrgate.model.layer import Gate, Layer, Quantization
from lrgate.model.model import Model
from lrgate.model.plan import ClassPlan
from lrgate.model.probe import PlannedOutputs, Probe

__all__ = ["FORMAT_VERSION", "MAX_BYTES", "FileFormatError", "load", "save"]

FORMAT_VERSION: Final = 2
MAX_BYTES: Final = 4 << 30

Array = npt.NDArray[Any]
T = TypeVar("T")

# No dimension, no number of layers, and no list of labels, of a real model comes near these.
_MAX_DIMENSION: Final = 2**31 - 1
_MAX_LAYERS: Final = 10_000
_MAX_HEADER_CHARACTERS: Final = 4 << 20
_MAX_LABEL_BYTES: Final = 64 << 20


class FileFormatError(ValueError):
    """A model file whose content cannot be used; the message starts with the file's path."""


def load(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Model:
    """Read a model from an `.npz` or `.safetensors` file.

    Arrays may be float16, float32, float64, bool or integers; all but uint8 probe rows and orders,
    which are integers, become float32.

    Parameters
    ----------
    path : str or path-like
        Its suffix names the format.
    max_bytes : int, default 4 GiB
        The most that the file's arrays may take in memory, in bytes, as they are stored.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        For another suffix, a path with a NUL character, or a `max_bytes` below 1.
    FileFormatError
        For a file that is truncated, damaged, too large, from a newer lrgate, or not a model: an
        unknown or missing key, a wrong type or shape, a checksum that does not match; for a pipe
        or device. It is a ValueError.
    OSError
        For a file that is missing or cannot be read.
    MemoryError
        For a file whose arrays do not fit into memory.

    Examples
    --------
    >>> load("mnist.npz")  # doctest: +SKIP
    Model(784-1000-600-400-10, classification)
    """
    path = Path(path)
    read = _by_suffix(path, npz=_read_npz, safetensors=_read_safetensors)
    if max_bytes < 1:
        raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
    try:
        _check_kind(os.stat(path))  # before it is opened, which a pipe's writer would notice
        with _opened(path) as file:
            arrays, header = read(path, file, max_bytes)
        return _to_model(arrays, header)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from error.__cause__


def save(path: str | os.PathLike[str], model: Model) -> None:
    """Write a model to an `.npz` or `.safetensors` file.

    The file appears whole or not at all: it is written beside its place under another name, synced
    to disk and then moved there. Until then an older file of that name stays as it was. Equal
    models give equal bytes. Arrays of `.npz` are compressed where that saves a tenth or more:
    trained float32 weights hardly shrink, and loading would take longer. `.safetensors` is never
    compressed.

    Parameters
    ----------
    path : str or path-like
        Its suffix names the format. A symbolic link is followed.
    model : Model

    Raises
    ------
    ValueError
        For another suffix, a path with a NUL character, more than 10,000 layers, or classes,
        metadata and report that take more than 4 MiB as JSON.
    TypeError
        For a `model` of another type.
    OSError
        For a path that cannot be written.

    Examples
    --------
    >>> save("mnist.safetensors", model)  # doctest: +SKIP
    """
    path = Path(path)
    write = _by_suffix(path, npz=_write_npz, safetensors=_write_safetensors)
    if not isinstance(model, Model):
        raise TypeError(f"model must be of type Model, got {type(model).__name__}")
    if len(model.layers) > _MAX_LAYERS:
        raise ValueError(f"model must have at most {_MAX_LAYERS} layers, got {len(model.layers)}")
    arrays = _to_arrays(model)
    text = json.dumps(_header(model), separators=(",", ":"), allow_nan=False)
    if len(text) > _MAX_HEADER_CHARACTERS:
        raise ValueError(
            f"classes, metadata and report must take at most {_MAX_HEADER_CHARACTERS} characters "
            f"of JSON, got {len(text)}"
        )
    checksum = _Checksum()
    for key, array in arrays.items():
        checksum.add(key, array)
    text = checksum.into(text)
    with replacing(path) as file:
        write(file, arrays, text)


def _by_suffix(path: Path, *, npz: T, safetensors: T) -> T:
    if "\0" in str(path):
        raise ValueError(f"path must not have a NUL character, got {str(path)!r}")
    match path.suffix.lower():
        case ".npz":
            return npz
        case ".safetensors":
            return safetensors
    raise ValueError(f"path must end in .npz or .safetensors, got {str(path)!r}")


def _opened(path: Path) -> _CappedReader:
    """The file, opened without waiting, as opening a pipe does that nobody writes to."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))

    file = _CappedReader(io.FileIO(path, opener=opener))
    try:
        _check_kind(os.fstat(file.fileno()))  # another one may have taken its place
    except BaseException:
        file.close()
        raise
    return file


def _check_kind(status: os.stat_result) -> None:
    # A folder is left to `open`, which has an exception for it.
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        kind = "a pipe" if stat.S_ISFIFO(status.st_mode) else "a device or socket"
        raise FileFormatError(f"it must be a regular file, not {kind}")


class _CappedReader(io.BufferedReader):
    """A file that never reads more at once than a model file needs.

    zipfile takes the size of its directory from the file and reads that much in one call; other
    reads stay within `_CHUNK`.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = max(0, os.fstat(self.fileno()).st_size - self.tell())
        if size > _MAX_READ:
            raise FileFormatError(f"its zip directory is too large: {size} bytes")
        return super().read(size)


class _Checksum:
    """The checksum of a model file, the same in both formats.

    SHA-256 of a list in text: the JSON text with ``"checksum":""``, then, by key, every array's
    key, dtype, shape and, of each MiB of its values (C order, little-endian), the CRC-32. CRC-32
    takes 2.5 ms for 10 MB where SHA-256 takes 7, and thrice that on processors that have no
    instructions for it. It sees all damage within 32 bits; other damage to a MiB passes with a
    chance of 2**-32.
    """

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}

    def add(self, key: str, array: Array) -> None:
        """Notes an array as it is stored."""
        dtype = array.dtype.newbyteorder("<")
        values = array.astype(dtype, order="C", copy=False).reshape(-1).view(np.uint8).data
        sums = (zlib.crc32(values[i : i + _CHUNK]) for i in range(0, len(values), _CHUNK))
        words = (key, dtype.str, *map(str, array.shape), ":", *(f"{crc:08x}" for crc in sums))
        self._lines[key] = " ".join(words)

    def into(self, text: str) -> str:
        """The JSON text, in which the checksum is empty, with the checksum."""
        return text.replace(_NO_CHECKSUM, f'"checksum":"{self._of(text)}"', 1)

    def check(self, text: str, stored: str) -> None:
        """Refuses another checksum than that of the arrays noted and the JSON text."""
        if self._of(text.replace(stored, "", 1)) != stored:
            raise FileFormatError("its content does not match lrgate.checksum: it is damaged")

    def _of(self, text: str) -> str:
        lines = [text, *(line for _, line in sorted(self._lines.items()))]
        return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _checked_arrays(
    read: Iterable[tuple[str, Array]], text: str | None, header: dict[str, Any]
) -> dict[str, Array]:
    """A file's arrays as models take them, by key, if they have the checksum that the file has."""
    stored, checksum = _stored_checksum(header), _Checksum()
    arrays = {}
    for key, array in read:
        if stored is not None:
            checksum.add(key, array)
        arrays[key] = _converted(key, array)
    if text is not None and stored is not None:
        checksum.check(text, stored)
    return arrays


# The first key, so that none that the user wrote can be taken for it.
_NO_CHECKSUM: Final = '"checksum":""'


# --- between a model and its keys ---------------------------------------------------------------

_LAYER_KEY: Final = re.compile(
    r"layers\.(0|[1-9][0-9]{0,8})\."
    r"(weight|bias|order|gate\.(?:u|v|bias|range)|quantization\.(?:scale|offset))"
)
# What files of others lack. Without its settings such a network would run, and be another.
_OWN_KEY: Final = re.compile(r"layers\..*\.(order|gate\..*|quantization\..*)|probe\..*")
_SHAPES: Final = {
    "weight": "(out, in)",
    "bias": "(out,)",
    "gate.u": "(in, rank)",
    "gate.v": "(rank, out)",
    "gate.bias": "(out,)",
    "gate.range": "(2, rank)",
    "quantization.scale": "() or (d,)",  # d is the layer's width here
    "quantization.offset": "() or (d,)",
    "input.scale": "() or (d,)",
    "input.shift": "() or (d,)",
    "probe.x": "(n, d)",
    "probe.y": "(n, k)",
    "probe.planned": "(n, k)",
}
_TOP_KEYS: Final = (
    "input.scale",
    "input.shift",
    "input.range",
    "probe.x",
    "probe.y",
    "probe.planned",
)
_HEADER_KEYS: Final = (
    "checksum",
    "format_version",
    "activations",
    "ranks",
    "task",
    "classes",
    "plans",
    "metadata",
    "machine",
    "report",
    "probe_plans",
)


def _to_arrays(model: Model) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for i, layer in enumerate(model.layers):
        arrays[f"layers.{i}.weight"] = layer.weight
        arrays[f"layers.{i}.bias"] = layer.bias
        if layer.gate is not None:
            arrays[f"layers.{i}.gate.u"] = layer.gate.u
            arrays[f"layers.{i}.gate.v"] = layer.gate.v
            arrays[f"layers.{i}.gate.bias"] = layer.gate.bias
            if layer.gate.range is not None:
                arrays[f"layers.{i}.gate.range"] = layer.gate.range
        if layer.order is not None:
            arrays[f"layers.{i}.order"] = layer.order
        if layer.quantization is not None:
            arrays[f"layers.{i}.quantization.scale"] = layer.quantization.scale
            arrays[f"layers.{i}.quantization.offset"] = layer.quantization.offset
    if model.input_scale is not None:
        arrays["input.scale"] = model.input_scale
    if model.input_shift is not None:
        arrays["input.shift"] = model.input_shift
    if model.input_range is not None:
        arrays["input.range"] = model.input_range
    if model.probe is not None:
        arrays["probe.x"] = model.probe.x
        arrays["probe.y"] = model.probe.y
        if model.probe.planned:
            arrays["probe.planned"] = np.concatenate([one.y for one in model.probe.planned])
    return arrays


def _header(model: Model) -> dict[str, Any]:
    """What is no array: the object that the key ``lrgate`` holds as JSON text."""
    gates = [layer.gate for layer in model.layers]
    planned = None if model.probe is None else model.probe.planned
    return {
        "checksum": "",
        "format_version": FORMAT_VERSION,
        "activations": [layer.activation.to_json() for layer in model.layers],
        "ranks": [None if gate is None else gate.rank for gate in gates],
        "task": model.task,
        "classes": None if model.classes is None else _classes_to_json(model.classes),
        "plans": None if model.plan is None else [_plan_to_json(plan) for plan in model.plan],
        "metadata": model.metadata,
        "machine": model.machine,
        "report": model.report,
        "probe_plans": None if planned is None else [_planned_to_json(one) for one in planned],
    }


def _planned_to_json(planned: PlannedOutputs) -> dict[str, Any]:
    return {
        "strategies": list(planned.strategies),
        "precisions": list(planned.precisions),
        "tolerance": planned.tolerance,
    }


def _plan_to_json(plan: ClassPlan) -> dict[str, Any]:
    return {
        "rows": plan.rows,
        "strategies": list(plan.strategies),
        "precisions": list(plan.precisions),
    }


# JSON has one kind of number; the kind keeps 1 and 1.0 and True apart.
_CLASS_KINDS: Final[dict[str, type]] = {"int": int, "str": str, "bool": bool, "float": float}
_KIND_OF_DTYPE: Final = {"i": "int", "U": "str", "b": "bool", "f": "float"}
_DTYPE_OF_KIND: Final = {"int": np.int64, "str": np.str_, "bool": np.bool_, "float": np.float64}


def _classes_to_json(classes: Array) -> dict[str, Any]:
    return {"kind": _KIND_OF_DTYPE[classes.dtype.kind], "values": classes.tolist()}


def _to_model(arrays: dict[str, Array], header: dict[str, Any]) -> Model:
    parts = _by_layer(arrays)
    activations = _activations(header, len(parts))
    layers = tuple(_layer(parts[i], i, activation) for i, activation in enumerate(activations))
    _check_ranks(header, layers)
    plans = _typed(header, "plans", list)
    classes = _typed(header, "classes", dict)
    machine = _typed(header, "machine", dict)
    with _naming(""):
        return Model(
            layers=layers,
            task=_typed(header, "task", str),
            classes=None if classes is None else _classes(classes),
            input_scale=arrays.get("input.scale"),
            input_shift=arrays.get("input.shift"),
            plan=None if plans is None else tuple(_plan(plan, i) for i, plan in enumerate(plans)),
            probe=_probe(arrays, header),
            metadata=_typed(header, "metadata", dict) or {},
            input_range=arrays.get("input.range"),
            machine=None if machine is None else _machine(machine),
            report=_typed(header, "report", dict),
        )


def _by_layer(arrays: dict[str, Array]) -> dict[int, dict[str, Array]]:
    """The arrays of each layer, from 0 on without a gap, by what follows ``layers.{i}.``."""
    parts: dict[int, dict[str, Array]] = {}
    for key, array in arrays.items():
        if match := _LAYER_KEY.fullmatch(key):
            parts.setdefault(int(match[1]), {})[match[2]] = array
    for i in range(max(parts, default=0) + 1):
        if i not in parts:
            others = f": it has layers up to {max(parts)}" if parts else ""
            raise FileFormatError(f"layers.{i}.weight is missing{others}")
    return parts


def _layer(parts: dict[str, Array], i: int, activation: Activation) -> Layer:
    name = f"layers.{i}."
    weight = _required(parts, "weight", name)
    bias = parts.get("bias")
    if weight.size == 0:  # it may state more units than memory has room for their biases
        raise FileFormatError(
            f"{name}weight must have at least one row and one column, got {weight.shape}"
        )
    with _naming(name):
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        gate = _gate(parts, name)
        quantization = _quantization(parts, name)
        return Layer(weight, bias, activation, gate, parts.get("order"), quantization)


def _gate(parts: dict[str, Array], name: str) -> Gate | None:
    if not any(key.startswith("gate.") for key in parts):
        return None
    u, v, bias = (_required(parts, f"gate.{part}", name) for part in ("u", "v", "bias"))
    with _naming(f"{name}gate."):
        return Gate(u, v, bias, parts.get("gate.range"))


def _quantization(parts: dict[str, Array], name: str) -> Quantization | None:
    if not any(key.startswith("quantization.") for key in parts):
        return None
    scale, offset = (_required(parts, f"quantization.{part}", name) for part in ("scale", "offset"))
    with _naming(f"{name}quantization."):
        return Quantization(scale, offset)


def _probe(arrays: dict[str, Array], header: dict[str, Any]) -> Probe | None:
    plans = _typed(header, "probe_plans", list)
    if plans is None and not any(key.startswith("probe.") for key in arrays):
        return None
    x, y = _required(arrays, "probe.x"), _required(arrays, "probe.y")
    planned: tuple[PlannedOutputs, ...] | None = None
    if plans or "probe.planned" in arrays:
        planned = _planned(arrays, plans or [], y)
    elif plans is not None:
        planned = ()
    with _naming("probe."):
        return Probe(x, y, planned)


def _planned(arrays: dict[str, Array], plans: list[Any], y: Array) -> tuple[PlannedOutputs, ...]:
    stored = _required(arrays, "probe.planned")
    if not plans:
        raise FileFormatError("lrgate.probe_plans is missing, though the file has probe.planned")
    if stored.shape != (len(plans) * y.shape[0], y.shape[1]):
        raise FileFormatError(
            f"probe.planned must have shape ({len(plans) * y.shape[0]}, {y.shape[1]}) for "
            f"{len(plans)} plans, got {stored.shape}"
        )
    fields = ("strategies", "precisions", "tolerance")
    planned = []
    for i, (plan, outputs) in enumerate(zip(plans, np.split(stored, len(plans)), strict=True)):
        name = f"lrgate.probe_plans[{i}]"
        _check_fields(name, plan, fields)
        with _naming(f"{name}."):
            planned.append(
                PlannedOutputs(plan["strategies"], plan["precisions"], outputs, plan["tolerance"])
            )
    return tuple(planned)


def _activations(header: dict[str, Any], count: int) -> list[Activation]:
    values = _typed(header, "activations", list)
    if values is None:
        return [Activation("relu")] * (count - 1) + [Activation("identity")]
    _check_count("activations", values, count)
    with _naming("lrgate."):
        return [Activation.parse(value, f"activations[{i}]") for i, value in enumerate(values)]


def _check_ranks(header: dict[str, Any], layers: tuple[Layer, ...]) -> None:
    """Ranks are there to be read by people; they must not say other than the gates do."""
    ranks = _typed(header, "ranks", list)
    if ranks is None:
        return
    _check_count("ranks", ranks, len(layers))
    for i, (rank, layer) in enumerate(zip(ranks, layers, strict=True)):
        expected = None if layer.gate is None else layer.gate.rank
        if type(rank) is not type(expected) or rank != expected:
            raise FileFormatError(
                f"lrgate.ranks[{i}] must be {_json(expected)}, the rank of layers.{i}.gate, "
                f"got {_json(rank)}"
            )


def _classes(value: dict[str, Any]) -> Array:
    _check_fields("lrgate.classes", value, ("kind", "values"))
    kind, values = value["kind"], value["values"]
    expected = _CLASS_KINDS.get(kind) if isinstance(kind, str) else None
    if expected is None:
        raise FileFormatError(
            f"lrgate.classes.kind must be one of {', '.join(_CLASS_KINDS)}, got {_json(kind)}"
        )
    if not isinstance(values, list):
        raise FileFormatError(f"lrgate.classes.values must be a list, got {_json(values)}")
    for i, label in enumerate(values):
        if type(label) is not expected:
            raise FileFormatError(
                f"lrgate.classes.values[{i}] must be of kind {kind}, got {_json(label)}"
            )
    if kind == "str":
        # An array of str pads each label to the longest.
        size = 4 * len(values) * max(map(len, values), default=0)
        if size > _MAX_LABEL_BYTES:
            raise FileFormatError(f"lrgate.classes.values is too large: {size} bytes")
    try:
        labels: Array = np.array(values, _DTYPE_OF_KIND[kind])
    except OverflowError:
        raise FileFormatError("lrgate.classes.values must fit int64") from None
    with _naming("lrgate."):
        return as_classes(labels)


def _machine(value: dict[str, Any]) -> Machine:
    with _naming("lrgate."):
        return as_machine(value)


def _plan(value: Any, i: int) -> ClassPlan:
    name = f"lrgate.plans[{i}]"
    fields = ("rows", "strategies", "precisions")
    _check_fields(name, value, fields)
    with _naming(f"{name}."):
        return ClassPlan(*(value[field] for field in fields))


def _parse_header(text: str | None) -> dict[str, Any]:
    """The object in the key ``lrgate``, its version and keys checked; empty where there is none."""
    if text is None:
        return {}
    if len(text) > _MAX_HEADER_CHARACTERS:
        raise FileFormatError(
            f"lrgate must take at most {_MAX_HEADER_CHARACTERS} characters, got {len(text)}"
        )
    try:
        header = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except FileFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"lrgate is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise FileFormatError(f"lrgate must be a JSON object, got {_json(header)}")
    _check_version(header)
    for key in header:
        if key not in _HEADER_KEYS:
            raise FileFormatError(f"unknown key lrgate.{key}; expected {', '.join(_HEADER_KEYS)}")
    return header


def _check_settings(keys: Iterable[str], header: dict[str, Any]) -> None:
    """Refuses a file that has lost its settings."""
    own = next((key for key in keys if _OWN_KEY.fullmatch(key)), None)
    if not header and own is not None:
        raise FileFormatError(f"lrgate is missing, though the file has {own}")


def _stored_checksum(header: dict[str, Any]) -> str | None:
    stored = _typed(header, "checksum", str)
    if stored is None and header.get("format_version", 1) > 1:
        raise FileFormatError("lrgate.checksum is missing: format version 2 has one")
    return stored


def _check_version(header: dict[str, Any]) -> None:
    if "format_version" not in header:
        raise FileFormatError("lrgate.format_version is missing")
    version = header["format_version"]
    if type(version) is not int or version < 1:
        raise FileFormatError(
            f"lrgate.format_version must be an integer of at least 1, got {_json(version)}"
        )
    if version > FORMAT_VERSION:
        raise FileFormatError(
            f"format version {version} is newer than this lrgate reads ({FORMAT_VERSION}); "
            "upgrade lrgate"
        )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise FileFormatError(f"lrgate has the key {twice!r} twice in one object")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise FileFormatError(f"lrgate is not valid JSON: {name} is no JSON number")


def _typed(header: dict[str, Any], key: str, expected: type[T]) -> T | None:
    value = header.get(key)
    if value is None or isinstance(value, expected):
        return value
    name = {"list": "a list", "dict": "an object", "str": "a string"}[expected.__name__]
    raise FileFormatError(f"lrgate.{key} must be {name}, got {_json(value)}")


def _check_fields(name: str, value: Any, fields: tuple[str, ...]) -> None:
    if not isinstance(value, dict) or set(value) != set(fields):
        raise FileFormatError(
            f"{name} must be an object of {', '.join(fields)}, got {_json(value)}"
        )


def _check_count(name: str, values: list[Any], count: int) -> None:
    if len(values) != count:
        raise FileFormatError(
            f"lrgate.{name} must have {count} entries, one a layer, got {len(values)}"
        )


def _required(arrays: dict[str, Array], key: str, prefix: str = "") -> Array:
    if key not in arrays:
        raise FileFormatError(f"{prefix}{key} is missing")
    return arrays[key]


def _check_keys(keys: Iterable[str]) -> None:
    """Refuses keys that mean nothing: behind a typo a gate or a bias would silently be lost."""
    for key in keys:
        if key in _TOP_KEYS:
            continue
        match = _LAYER_KEY.fullmatch(key)
        if match is None:
            raise FileFormatError(
                f"unknown key {key!r}; expected lrgate, layers.{{i}}.weight, .bias, .gate.u, "
                ".gate.v, .gate.bias, .gate.range, .order, .quantization.scale, "
                f".quantization.offset, {', '.join(_TOP_KEYS)}"
            )
        if int(match[1]) >= _MAX_LAYERS:
            raise FileFormatError(f"it must have at most {_MAX_LAYERS} layers, got {key}")


def _converted(key: str, array: Array) -> Array:
    """An array as models hold it: read-only float32, but for probe rows of uint8, and orders.

    `array` is given away: nothing else may have its memory.
    """
    match = _LAYER_KEY.fullmatch(key)
    name = match[2] if match else key
    array = sealed(array)
    if name == "order":
        return array  # `Layer` converts it, when it is known how many units there are
    with _naming(""):
        if name == "input.range":
            return as_range(array, key)
        convert = as_rows if name == "probe.x" else as_float32
        return convert(array, key, _SHAPES[name])


def _check_dimensions(key: str, shape: tuple[int, ...]) -> None:
    # NumPy takes True for an integer.
    good = all(type(size) is int and 0 <= size <= _MAX_DIMENSION for size in shape)
    if len(shape) > 2 or not good:
        raise FileFormatError(
            f"{key} must have at most 2 dimensions, each of 0 to {_MAX_DIMENSION}, got {shape}"
        )


def _check_total(total: int, max_bytes: int) -> None:
    if total > max_bytes:
        raise FileFormatError(f"its arrays take {total} bytes, more than max_bytes ({max_bytes})")


def _json(value: Any) -> str:
    """`value` as the file has it, cut to a length that fits a message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def _naming(prefix: str) -> Iterator[None]:
    """Turns what a model's own checks raise into a FileFormatError that names the key."""
    try:
        yield
    except FileFormatError:
        raise
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"{prefix}{error}") from error


# --- .npz ---------------------------------------------------------------------------------------

# Deflate's shortest code for its longest match: 2 bits for 258 bytes.
_DEFLATE_RATIO: Final = 1032
# Of an array, to see whether it shrinks.
_SAMPLE_BYTES: Final = 1 << 20
# The last record of a zip file, less what is not looked at.
_ZIP_END: Final = struct.Struct("<4s6xH10x")
# Of one or two dimensions they take less than 200. Parsing this many is no work, however nested.
_MAX_NPY_HEADER: Final = 1000
_CHUNK: Final = 1 << 20
_MAX_READ: Final = 8 << 20


def _read_npz(
    path: Path, file: _CappedReader, max_bytes: int
) -> tuple[dict[str, Array], dict[str, Any]]:
    with _naming_zip_errors(), zipfile.ZipFile(file) as archive:
        _check_end(file, len(archive.infolist()))
        members = _members(archive, os.fstat(file.fileno()).st_size, max_bytes)
        member = members.pop("lrgate", None)
        text = None if member is None else _read_text(archive, member)
        header = _parse_header(text)
        _check_keys(members)
        _check_settings(members, header)
        read = ((key, _read_array(archive, info, key)) for key, info in members.items())
        return _checked_arrays(read, text, header), header


@contextmanager
def _naming_zip_errors() -> Iterator[None]:
    """zipfile documents BadZipFile; a damaged file makes it raise all of these."""
    try:
        yield
    except FileFormatError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        OverflowError,
        RuntimeError,
        ValueError,
    ) as error:
        raise FileFormatError(f"not a readable .npz file: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a seek to where no file reaches, not a failing disk
            raise
        raise FileFormatError(f"not a readable .npz file: {error}") from error


def _check_end(file: _CappedReader, entries: int) -> None:
    """Refuses what zipfile lets pass: a directory so damaged that entries swallow others."""
    file.seek(-_ZIP_END.size, os.SEEK_END)
    signature, count = _ZIP_END.unpack(file.read(_ZIP_END.size))
    if signature != b"PK\5\6":
        raise FileFormatError("not a readable .npz file: it has bytes after its zip directory")
    if count not in (entries, 0xFFFF):  # which stands for more than fit
        raise FileFormatError(
            f"not a readable .npz file: it states {count} members, but {entries} can be found"
        )


def _members(
    archive: zipfile.ZipFile, file_size: int, max_bytes: int
) -> dict[str, zipfile.ZipInfo]:
    """The archive's members by key, with sizes that the bytes of the file can really unpack to."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        key = info.filename.removesuffix(".npy")
        if key == info.filename:
            raise FileFormatError(f"unknown member {key!r}; expected names that end in .npy")
        if key in members:
            raise FileFormatError(f"{key} is there twice")
        _check_member(info, key, file_size)
        members[key] = info
    _check_total(sum(info.file_size for info in members.values()), max_bytes)
    return members


def _check_member(info: zipfile.ZipInfo, key: str, file_size: int) -> None:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FileFormatError(
            f"{key} must be stored or deflated, got compression method {info.compress_type}"
        )
    if info.flag_bits & 0x1:
        raise FileFormatError(f"{key} is encrypted")
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    most = info.compress_size * (_DEFLATE_RATIO if deflated else 1)
    if info.header_offset + info.compress_size > file_size or info.file_size > most:
        raise FileFormatError(
            f"{key} cannot hold the {info.file_size} bytes it states: "
            "the file is truncated or damaged"
        )


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str) -> Array:
    with archive.open(info) as stream:
        shape, fortran_order, dtype, start = _read_npy_header(stream, key)
        if dtype.hasobject:
            raise FileFormatError(f"{key} holds Python objects, which lrgate never unpickles")
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise FileFormatError(f"{key} must be an array of real numbers, got dtype {dtype}")
        _check_dimensions(key, shape)
        _check_size(info, key, shape, start, dtype.itemsize)
        array = np.empty(math.prod(shape), dtype)
        _fill(stream, array.view(np.uint8).data, key)
    return array.reshape(shape, order="F" if fortran_order else "C")


def _read_text(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    with archive.open(info) as stream:
        shape, _, dtype, start = _read_npy_header(stream, "lrgate")
        if dtype.kind != "U" or shape != ():
            raise FileFormatError(
                f"lrgate must be a 0-d array of text, got dtype {dtype} of shape {shape}"
            )
        if dtype.itemsize > 4 * _MAX_HEADER_CHARACTERS:
            raise FileFormatError(f"lrgate is too large: {dtype.itemsize} bytes")
        _check_size(info, "lrgate", shape, start, dtype.itemsize)
        content = bytearray(dtype.itemsize)
        _fill(stream, memoryview(content), "lrgate")
    # Not through NumPy: it makes str of code points that are none.
    encoding = "utf-32-be" if dtype.str.startswith(">") else "utf-32-le"
    try:
        return content.decode(encoding).rstrip("\0")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"lrgate is not valid text: {error.reason}") from error


def _read_npy_header(
    stream: IO[bytes], key: str
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order and dtype of an .npy member, and the length of the header read."""
    start = _read_exactly(stream, 8, key)
    if start[:6] != b"\x93NUMPY":
        raise FileFormatError(f"{key} is not a .npy array")
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0)):
        raise FileFormatError(f"{key} has .npy version {start[6]}.{start[7]}, expected 1.0 or 2.0")
    length = _read_exactly(stream, 2 if version == (1, 0) else 4, key)
    size = int.from_bytes(length, "little")
    if size > _MAX_NPY_HEADER:
        raise FileFormatError(f"{key} has a .npy header of {size} bytes")
    text = io.BytesIO(length + _read_exactly(stream, size, key))
    parse = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    try:
        shape, fortran_order, dtype = parse(text)
    except MemoryError:
        raise
    except Exception as error:  # NumPy evaluates the text as a literal; which can fail in any way
        raise FileFormatError(f"{key} has a damaged .npy header: {error}") from error
    return shape, fortran_order, dtype, 8 + len(length) + size


def _check_size(
    info: zipfile.ZipInfo, key: str, shape: tuple[int, ...], start: int, itemsize: int
) -> None:
    expected = math.prod(shape) * itemsize
    if start + expected != info.file_size:
        raise FileFormatError(
            f"{key} of shape {shape} must hold {expected} bytes, got {info.file_size - start}"
        )


def _fill(stream: IO[bytes], target: memoryview, key: str) -> None:
    """Fills `target` and leaves nothing behind; the last read makes zipfile check its CRC."""
    filled = 0
    while filled < len(target):
        chunk = stream.read(min(_CHUNK, len(target) - filled))
        if not chunk:
            raise FileFormatError(f"{key} ends after {filled} of {len(target)} bytes")
        target[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    if stream.read(1):
        raise FileFormatError(f"{key} has bytes after its end")


def _read_exactly(stream: IO[bytes], size: int, key: str) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise FileFormatError(f"{key} is not a .npy array: it ends in its header")
    return content


def _write_npz(file: IO[bytes], arrays: dict[str, Array], text: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for key, array in {"lrgate": np.array(text), **arrays}.items():
            info = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = _compression(array)
            info.create_system = 3  # Unix everywhere: the bytes must not tell where they were made
            with archive.open(info, "w", force_zip64=array.nbytes >= 1 << 30) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


def _compression(array: Array) -> int:
    """Deflate an array whose middle shrinks by a tenth or more."""
    flat = array.reshape(-1)
    middle, half = flat.size // 2, _SAMPLE_BYTES // 2 // max(1, flat.itemsize)
    sample = flat[max(0, middle - half) : middle + half].tobytes()
    shrinks = len(zlib.compress(sample)) <= 0.9 * len(sample)
    return zipfile.ZIP_DEFLATED if shrinks else zipfile.ZIP_STORED


# --- .safetensors -------------------------------------------------------------------------------
# The safetensors package is imported where it is used: who reads .npz need not wait for it.

_SAFETENSORS_DTYPES: Final = {
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "BOOL": "?",
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
}


def _read_safetensors(
    path: Path, file: _CappedReader, max_bytes: int
) -> tuple[dict[str, Array], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    size = os.fstat(file.fileno()).st_size
    _check_total(size, max_bytes)
    # A name of the file that is open, where the system has one, whatever is at `path` by now.
    name = f"/dev/fd/{file.fileno()}"
    name = name if os.path.exists(name) else str(path)
    try:
        # It checks its header, and that the tensors fill the file without gap or overlap.
        with safe_open(name, framework="numpy") as tensors:
            metadata = tensors.metadata() or {}
            # In the order of the file.
            keys = tensors.offset_keys()
            text = metadata.get("lrgate")
            header = _parse_header(text)
            _check_keys(keys)
            _check_metadata(metadata)
            _check_settings(keys, header)
            layout = {key: _checked_tensor(key, tensors.get_slice(key)) for key in keys}
    except SafetensorError as error:
        raise FileFormatError(f"not a readable .safetensors file: {error}") from error
    if name == str(path) and not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
        raise FileFormatError("it was replaced while it was read")
    # Straight into memory of their own: a tensor that the package gives is a copy of a copy.
    file.seek(min(8 + int.from_bytes(file.read(8), "little"), size))
    read = ((key, _read_tensor(file, key, *form)) for key, form in layout.items())
    return _checked_arrays(read, text, header), header


def _read_tensor(file: _CappedReader, key: str, shape: tuple[int, ...], dtype: str) -> Array:
    array = np.empty(shape, dtype)
    read = file.readinto(array.reshape(-1).view(np.uint8).data)
    if read != array.nbytes:
        raise FileFormatError(f"{key} ends after {read} of {array.nbytes} bytes")
    return array


def _check_metadata(metadata: dict[str, str]) -> None:
    """Refuses entries of others beside lrgate's, and lrgate's under another key."""
    for key, value in metadata.items():
        if key != "lrgate" and ("lrgate" in metadata or '"format_version"' in value):
            raise FileFormatError(f"unknown metadata key {key!r}; expected lrgate alone")


def _checked_tensor(key: str, tensor: Any) -> tuple[tuple[int, ...], str]:
    """Its shape and dtype."""
    dtype = tensor.get_dtype()
    if dtype not in _SAFETENSORS_DTYPES:
        hint = "; convert it to float32 first" if dtype == "BF16" else ""
        raise FileFormatError(f"{key} must be an array of real numbers, got dtype {dtype}{hint}")
    shape = tuple(tensor.get_shape())
    _check_dimensions(key, shape)
    return shape, _SAFETENSORS_DTYPES[dtype]


def _write_safetensors(file: IO[bytes], arrays: dict[str, Array], text: str) -> None:
    import safetensors.numpy

    file.write(safetensors.numpy.save(arrays, metadata={"lrgate": text}))


# --- writing whole or not at all ----------------------------------------------------------------


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` when the block ends well, and vanishes if not."""
    target = os.path.realpath(path)
    temporary = os.path.join(os.path.dirname(target), f".lrgate-{secrets.token_hex(8)}.tmp")
    try:
        file = open(temporary, "xb")  # noqa: SIM115  (the mode that an ordinary new file gets)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise

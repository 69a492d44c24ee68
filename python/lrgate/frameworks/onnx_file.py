"""ONNX files: the model without its large tensors, which are read straight into arrays.

Package onnx copies each tensor several times. Weights of 64 KiB and more are found in the file by
its wire format (https://protobuf.dev/programming-guides/encoding) and read once.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from lrgate.frameworks.errors import Refused

__all__ = ["File", "read_file"]

_LARGE: Final = 2**16
_MAX_FIELDS: Final = 2**20
# Numbers of fields: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9


@dataclass(eq=False)
class File:
    """A model, and the raw data of its large initializers by their number."""

    model: Any
    raw: dict[int, bytes] = field(default_factory=dict)


class _Unusual(Exception):
    """The file is not laid out as expected: package onnx reads it, or finds it damaged."""


def read_file(path: str | os.PathLike[str]) -> File:
    """Read a model without external data.

    Raises
    ------
    Refused
        If the file is not an ONNX model.
    OSError
        If it cannot be read.
    """
    import onnx
    from google.protobuf.message import DecodeError

    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        raw: dict[int, bytes] = {}
        content: bytes | None = None
        if size > _LARGE:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                try:
                    content, places = _without_weights(view)
                except _Unusual:
                    places = {}
            for number, (start, end) in places.items():
                file.seek(start)
                raw[number] = file.read(end - start)
        if content is None:
            file.seek(0)
            content = file.read()
    try:
        return File(onnx.load_model_from_string(content), raw)
    except (DecodeError, ValueError, RuntimeError):
        raise Refused("it is not an ONNX model, or is damaged") from None


def _without_weights(view: mmap.mmap) -> tuple[bytes, dict[int, tuple[int, int]]]:
    """The message without large raw data, and where those of each initializer are."""
    places: dict[int, tuple[int, int]] = {}
    reader = _Reader(view)
    number = 0
    model: list[bytes] = []
    for tag, begin, start, end in reader.fields(0, len(view)):
        if tag != _GRAPH:
            model.append(view[begin:end])
            continue
        graph: list[bytes] = []
        for inner, inner_begin, inner_start, inner_end in reader.fields(start, end):
            if inner != _INITIALIZER or inner_end - inner_start <= _LARGE:
                graph.append(view[inner_begin:inner_end])
            else:
                tensor: list[bytes] = []
                for part, part_begin, part_start, part_end in reader.fields(inner_start, inner_end):
                    if part == _RAW_DATA and number not in places:
                        places[number] = part_start, part_end
                    elif part == _RAW_DATA:
                        raise _Unusual
                    else:
                        tensor.append(view[part_begin:part_end])
                graph.append(_message(_INITIALIZER, tensor))
            number += inner == _INITIALIZER
        model.append(_message(_GRAPH, graph))
    return b"".join(model), places


class _Reader:
    def __init__(self, view: mmap.mmap) -> None:
        self._view = view
        self._count = 0

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number, beginning, and place of the content of each field in a message."""
        while start < end:
            self._count += 1
            if self._count > _MAX_FIELDS:
                raise _Unusual
            begin = start
            key, start = self._varint(start, end)
            match key & 7:
                case 0:
                    _, stop = self._varint(start, end)
                case 1:
                    stop = start + 8
                case 2:
                    length, start = self._varint(start, end)
                    stop = start + length
                case 5:
                    stop = start + 4
                case _:
                    raise _Unusual
            if stop > end:
                raise _Unusual
            # Only contents in bytes can be messages or data.
            yield (key >> 3 if key & 7 == 2 else 0), begin, start, stop
            start = stop

    def _varint(self, start: int, end: int) -> tuple[int, int]:
        value = 0
        for i in range(10):
            if start + i >= end:
                raise _Unusual
            byte = self._view[start + i]
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                return value, start + i + 1
        raise _Unusual


def _message(number: int, parts: list[bytes]) -> bytes:
    """A field with the message that `parts` make."""
    content = b"".join(parts)
    length, size = bytearray(), len(content)
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + content

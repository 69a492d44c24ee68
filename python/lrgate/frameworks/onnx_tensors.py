"""Tensors of ONNX files as NumPy arrays, with their sizes checked before anything is allocated."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lrgate.frameworks.errors import Refused

__all__ = ["ELEMENT_TYPES", "MAX_CONSTANT", "cast", "from_sparse", "from_tensor", "is_float"]

Array = npt.NDArray[Any]

MAX_CONSTANT: Final = 2**32

# TensorProto.DataType: the name, bits per element, and the dtype of arrays. Types of half precision
# become float32, which holds all their values.
ELEMENT_TYPES: Final[dict[int, tuple[str, int, Any]]] = {
    1: ("float", 32, np.float32),
    2: ("uint8", 8, np.uint8),
    3: ("int8", 8, np.int8),
    4: ("uint16", 16, np.uint16),
    5: ("int16", 16, np.int16),
    6: ("int32", 32, np.int32),
    7: ("int64", 64, np.int64),
    8: ("string", 0, np.str_),
    9: ("bool", 8, np.bool_),
    10: ("float16", 16, np.float32),
    11: ("double", 64, np.float64),
    12: ("uint32", 32, np.uint32),
    13: ("uint64", 64, np.uint64),
    16: ("bfloat16", 16, np.float32),
    17: ("float8e4m3fn", 8, np.float32),
    18: ("float8e4m3fnuz", 8, np.float32),
    19: ("float8e5m2", 8, np.float32),
    20: ("float8e5m2fnuz", 8, np.float32),
    21: ("uint4", 4, np.uint8),
    22: ("int4", 4, np.int8),
    25: ("uint2", 2, np.uint8),
    26: ("int2", 2, np.int8),
}
_FLOATS: Final = (1, 10, 11, 16)


def is_float(element_type: int) -> bool:
    """Whether a tensor of this type holds floating-point numbers of 16 bits or more."""
    return element_type in _FLOATS


def from_tensor(tensor: Any, folder: Path | None = None, data: bytes | None = None) -> Array:
    """The array of a TensorProto; one with external data is read from `folder`.

    `data` are its raw data, if they are not in the TensorProto.

    Raises
    ------
    Refused
        If the type is not supported, the data have another size than the shape, or the external
        file is missing, too short, or outside the folder.
    """
    from onnx import numpy_helper

    shape = tuple(tensor.dims)
    if tensor.data_type not in ELEMENT_TYPES:
        raise Refused(f"tensors of the type number {tensor.data_type} are not supported")
    name, bits, dtype = ELEMENT_TYPES[tensor.data_type]
    if min(shape, default=0) < 0:
        raise Refused(f"a tensor has the shape {shape}")
    size = math.prod(shape)
    if size > MAX_CONSTANT:
        raise Refused(f"a tensor of shape {shape} is too large")
    if tensor.HasField("segment"):
        raise Refused("tensors in segments are not supported")
    if tensor.data_location == tensor.EXTERNAL:
        return _external(tensor, shape, (size * bits + 7) // 8, folder).astype(dtype, copy=False)
    raw = b""
    if data is not None or tensor.HasField("raw_data"):
        # A copy, made once: weights may be large.
        raw = tensor.raw_data if data is None else data
        stored, expected = len(raw), (size * bits + 7) // 8
        unit = "bytes"
        if tensor.data_type == 8:
            raise Refused("a tensor of strings has raw data")
    else:
        stored, expected = _typed_size(tensor, bits), size
        unit = "values"
        if 0 < bits < 8:
            expected = (size * bits + 7) // 8
    if stored != expected:
        raise Refused(f"a {name} tensor of shape {shape} needs {expected} {unit}, but has {stored}")
    if tensor.data_type == 8:
        return np.array([_text(value) for value in tensor.string_data], np.str_).reshape(shape)
    if raw and tensor.data_type in (1, 11) and sys.byteorder == "little":
        return np.frombuffer(raw, dtype).reshape(shape)
    if data is not None:
        tensor.raw_data = data
    array: Array = numpy_helper.to_array(tensor)
    return array.astype(dtype, copy=False)


def _typed_size(tensor: Any, bits: int) -> int:
    match tensor.data_type:
        case 1:
            return len(tensor.float_data)
        case 7:
            return len(tensor.int64_data)
        case 8:
            return len(tensor.string_data)
        case 11:
            return len(tensor.double_data)
        case 12 | 13:
            return len(tensor.uint64_data)
    return len(tensor.int32_data)


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("a string is not UTF-8") from None


def _external(tensor: Any, shape: tuple[int, ...], needed: int, folder: Path | None) -> Array:
    from onnx import numpy_helper

    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise Refused(
            f'its weights are in the file "{location}": pass the path of the model, or load the '
            "model with its external data"
        )
    try:
        is_there = (folder / location).exists()
    except (OSError, ValueError):
        is_there = False
    if not is_there:
        location = location if len(location) < 256 else f"{location[:256]}..."
        raise Refused(
            f'its weights are in the file "{location}", which is not beside it: copy both, or '
            "export with external_data=False"
        )
    try:
        length = int(entries["length"]) if "length" in entries else None
        offset = int(entries.get("offset", 0))
    except ValueError:
        raise Refused(f'the place of a tensor in the file "{location}" is not a number') from None
    if length is not None and length != needed:
        raise Refused(f"a tensor of shape {shape} needs {needed} bytes, but has {length}")
    if offset < 0 or (folder / location).stat().st_size < offset + needed:
        raise Refused(f'the file "{location}" is too short: it is damaged, or of another model')
    if length is None:
        entry = tensor.external_data.add()
        entry.key, entry.value = "length", str(needed)
    try:
        array: Array = numpy_helper.to_array(tensor, str(folder))
    except Exception as error:  # onnx.checker.ValidationError and others
        raise Refused(f'the file "{location}" cannot be read: {error}') from None
    return array


def from_sparse(tensor: Any, folder: Path | None, limit: int) -> Array:
    """The dense array of a SparseTensorProto, of at most `limit` elements."""
    shape = tuple(tensor.dims)
    if min(shape, default=0) < 1 or math.prod(shape) > limit:
        raise Refused(f"a sparse tensor of shape {shape} is not supported")
    values, indices = from_tensor(tensor.values, folder), from_tensor(tensor.indices, folder)
    if values.ndim != 1 or indices.dtype != np.int64 or len(indices) != len(values):
        raise Refused("the indices of a sparse tensor do not fit its values")
    if indices.ndim == 2 and indices.shape[1] == len(shape):
        inside = ((indices >= 0) & (indices < np.array(shape))).all()
        flat = np.ravel_multi_index(tuple(indices.T), shape) if inside else None
    elif indices.ndim == 1:
        flat = indices if ((indices >= 0) & (indices < math.prod(shape))).all() else None
    else:
        flat = None
    if flat is None or len(np.unique(flat)) < len(flat):
        raise Refused("the indices of a sparse tensor do not fit its shape")
    dense = np.zeros(math.prod(shape), values.dtype)
    dense[flat] = values
    return dense.reshape(shape)


def cast(array: Array, element_type: int) -> Array:
    """A constant as Cast converts it; half precision is rounded, but stored as float32."""
    if element_type not in ELEMENT_TYPES or ELEMENT_TYPES[element_type][1] not in (
        0,
        8,
        16,
        32,
        64,
    ):
        raise Refused(f"a conversion to the type number {element_type} is not supported")
    name, _, dtype = ELEMENT_TYPES[element_type]
    if name.startswith("float8"):
        raise Refused(f"a conversion to {name} is not supported")
    with np.errstate(all="ignore"):
        if name == "float16":
            return array.astype(np.float16).astype(np.float32)
        if name == "bfloat16":
            return _rounded_to_bfloat16(array.astype(np.float32))
        return array.astype(dtype, copy=False)


def _rounded_to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Round to the nearest value with 8 significant bits, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(values), values, rounded.view(np.float32)).astype(np.float32)

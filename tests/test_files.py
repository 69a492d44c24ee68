"""Model files and the plain model: round trips, atomic writes, and malicious files.

tests/attacks/README.md lists the attacks, each with the test that tries it.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import pickle
import random
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lrgate.files.safetensors
from lrgate import files
from lrgate.files import FileFormatError, load, save
from lrgate.model import (
    Activation,
    BatchPlan,
    Gate,
    Layer,
    Model,
    PlannedOutputs,
    Probe,
    Quantization,
)
from lrgate.model.json import MACHINE_KEYS
from lrgate.model.plan import PRECISIONS
from lrgate.network import Network

SUFFIXES = ("npz", "safetensors")
MIB = 1 << 20


# --- helpers ------------------------------------------------------------------------------------


def plain_arrays() -> dict[str, np.ndarray]:
    """The arrays of a 4-3-2 network without gates, orders and header."""
    rng = np.random.default_rng(1)
    return {
        "layers.0.weight": rng.normal(size=(3, 4)).astype(np.float32),
        "layers.0.bias": rng.normal(size=3).astype(np.float32),
        "layers.1.weight": rng.normal(size=(2, 3)).astype(np.float32),
        "layers.1.bias": rng.normal(size=2).astype(np.float32),
    }


def full_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return plain_arrays() | {
        "layers.0.gate.u": rng.normal(size=(4, 2)).astype(np.float32),
        "layers.0.gate.v": rng.normal(size=(2, 3)).astype(np.float32),
        "layers.0.gate.bias": rng.normal(size=3).astype(np.float32),
        "layers.0.gate.range": np.float32([[-2, 0], [3, 0.5]]),
        "layers.0.kept_units": np.int32([2, 0]),
        "layers.0.quantization.scale": np.float32([1, 0.5, 0.25, 8]),
        "layers.0.quantization.offset": np.array(3, np.float32),
        "layers.1.quantization.scale": np.array(0.02, np.float32),
        "layers.1.quantization.offset": np.array(0, np.float32),
        "input.scale": np.float32([1, 2, 3, 4]),
        "input.shift": np.array(0.5, np.float32),
        "input.range": np.float32([[0, 0, 0, -1], [255, 255, 255, 1]]),
        "probe.x": rng.integers(0, 256, size=(5, 4)).astype(np.uint8),
        "probe.y": rng.normal(size=(5, 2)).astype(np.float32),
    }


MACHINE = {"isa": "avx2", "cpu": "A processor", "l1d": 49152, "l2": 1 << 20, "l3": None}


def full_header() -> dict[str, Any]:
    return {
        "format_version": 1,
        "activations": [{"name": "clipped_relu", "upper": 6.0}, "identity"],
        "ranks": [2, None],
        "task": "classification",
        "classes": {"kind": "str", "values": ["cat", "dog"]},
        "plans": [{"rows": 1, "strategies": ["gate", "skip"], "precisions": ["int8", "f32"]}],
        "metadata": {"command": "train.py --seed 0", "test_error": 0.017},
        "machine": MACHINE,
        "report": {"removed": [1], "speed_up": 1.5},
    }


def full_model() -> Model:
    arrays = full_arrays()
    gate = Gate(*(arrays[f"layers.0.gate.{part}"] for part in ("u", "v", "bias", "range")))
    quantizations = [
        Quantization(*(arrays[f"layers.{i}.quantization.{part}"] for part in ("scale", "offset")))
        for i in range(2)
    ]
    return Model(
        layers=(
            Layer(
                arrays["layers.0.weight"],
                arrays["layers.0.bias"],
                Activation("clipped_relu", 6.0),
                gate,
                arrays["layers.0.kept_units"],
                quantizations[0],
            ),
            Layer(
                arrays["layers.1.weight"],
                arrays["layers.1.bias"],
                Activation("identity"),
                quantization=quantizations[1],
            ),
        ),
        task="classification",
        classes=np.array(["cat", "dog"]),
        input_scale=arrays["input.scale"],
        input_shift=arrays["input.shift"],
        plan=(BatchPlan(1, ("gate", "skip"), ("int8", "f32")),),
        probe=Probe(arrays["probe.x"], arrays["probe.y"]),
        metadata={"command": "train.py --seed 0", "test_error": 0.017},
        input_range=arrays["input.range"],
        machine=MACHINE,
        report={"removed": [1], "speed_up": 1.5},
    )


PLAIN_KEYS = {f"layers.{i}.{part}" for i in range(99) for part in ("weight", "bias")}


def write(
    path: Path, arrays: dict[str, np.ndarray], header: object = None, bare: bool = False
) -> Path:
    """Write any arrays and any JSON text in either format, without lrgate.

    If no header is given, arrays that need one get a header with only a version, unless `bare`.
    """
    if header is None and not bare and not set(arrays) <= PLAIN_KEYS:
        header = {"format_version": 1}
    text = header if header is None or isinstance(header, str) else json.dumps(header)
    if path.suffix == ".npz":
        members = arrays if text is None else {"lrgate": np.array(text), **arrays}
        with zipfile.ZipFile(path, "w") as archive:
            for key, array in members.items():
                with archive.open(f"{key}.npy", "w") as member:
                    np.lib.format.write_array(member, array)
    else:
        metadata = None if text is None else {"lrgate": text}
        safetensors.numpy.save_file(arrays, path, metadata=metadata)
    return path


def npy(descr: str, shape: str, content: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    """An .npy array with an arbitrary header."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return npy_with_header(text, content, version)


def npy_with_header(text: bytes, content: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + content


# A header with only a version, which files with gates or orders need, as a member of a zip file.
VERSION_1 = {"lrgate.npy": npy("'<U20'", "()", '{"format_version":1}'.encode("utf-32-le"))}


def write_zip(
    path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def patch_zip(path: Path, central: dict[int, bytes], local: dict[int, bytes] | None = None) -> None:
    """Overwrite bytes at offsets from the first central and the first local header."""
    content = bytearray(path.read_bytes())
    for start, patches in ((content.index(b"PK\1\2"), central), (0, local or {})):
        for offset, patch in patches.items():
            content[start + offset : start + offset + len(patch)] = patch
    path.write_bytes(content)


def write_tensors(path: Path, header: object, content: bytes, length: int | None = None) -> Path:
    """Write a .safetensors file with an arbitrary header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(struct.pack("<Q", size) + text + content)
    return path


def assert_same(a: Model, b: Model) -> None:
    assert [layer.activation for layer in a.layers] == [layer.activation for layer in b.layers]
    assert (a.task, a.plan, a.metadata) == (b.task, b.plan, b.metadata)
    assert (a.machine, a.report) == (b.machine, b.report)
    pairs = [(a.classes, b.classes), (a.input_scale, b.input_scale), (a.input_shift, b.input_shift)]
    pairs += [(a.input_range, b.input_range)]
    pairs += [
        (None if m is None else m.x, None if n is None else n.x) for m, n in [(a.probe, b.probe)]
    ]
    pairs += [
        (None if m is None else m.y, None if n is None else n.y) for m, n in [(a.probe, b.probe)]
    ]
    if a.probe is not None and b.probe is not None:
        assert (a.probe.planned is None) == (b.probe.planned is None)
        for m, n in zip(a.probe.planned or (), b.probe.planned or (), strict=True):
            assert (m.strategies, m.precisions) == (n.strategies, n.precisions)
            assert m.tolerance == n.tolerance
            pairs += [(m.y, n.y)]
    for m, n in zip(a.layers, b.layers, strict=True):
        pairs += [(m.weight, n.weight), (m.bias, n.bias), (m.kept_units, n.kept_units)]
        assert (m.gate is None) == (n.gate is None)
        if m.gate is not None and n.gate is not None:
            pairs += [(m.gate.u, n.gate.u), (m.gate.v, n.gate.v), (m.gate.bias, n.gate.bias)]
            pairs += [(m.gate.range, n.gate.range)]
        assert (m.quantization is None) == (n.quantization is None)
        if m.quantization is not None and n.quantization is not None:
            pairs += [(m.quantization.scale, n.quantization.scale)]
            pairs += [(m.quantization.offset, n.quantization.offset)]
    for p, q in pairs:
        assert (p is None) == (q is None)
        if p is not None and q is not None:
            assert p.dtype == q.dtype
            np.testing.assert_array_equal(p, q, strict=True)


def refused(path: Path, **options: int) -> str:
    """Assert that loading fails, and return the message without the path at its start."""
    with pytest.raises(FileFormatError) as info:
        load(path, **options)
    start = f"{path}: "
    assert str(info.value).startswith(start)
    return str(info.value).removeprefix(start)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer."""

    def expired(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def bounded_memory(limit: int) -> Iterator[None]:
    """Fail if the block holds more than `limit` bytes of Python's and NumPy's memory."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak} bytes"


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"model.{request.param}"


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    return tmp_path / "model.npz"


@pytest.fixture
def tensors(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


# --- round trips --------------------------------------------------------------------------------

finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def floats(*shape: int) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float32, shape, elements=finite32)


activations = st.one_of(
    st.sampled_from(["identity", "relu", "tanh", "sigmoid", "gelu", "softmax"]).map(Activation),
    st.floats(0.01, 1e6).map(lambda upper: Activation("clipped_relu", upper)),
    st.floats(-1e6, 1e6).map(lambda threshold: Activation("thresholded_relu", threshold)),
    st.floats(-1, 1).map(lambda slope: Activation("leaky_relu", slope)),
    st.floats(-1, 1).map(lambda slope: Activation("prelu", slope)),
    st.floats(-3, 0).map(lambda lower: Activation("hard_tanh", lower)),
)
# Of a network with one output.
last_activations = activations.filter(lambda activation: activation.name != "softmax")
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Half of a surrogate pair is a valid str and valid JSON, but not valid UTF-8.
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def class_labels(count: int) -> st.SearchStrategy[np.ndarray]:
    text = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=5)
    kinds: list[st.SearchStrategy[Any]] = [
        st.integers(-(2**63), 2**63 - 1),
        text,
        st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0),
    ]
    lists = [st.lists(kind, min_size=count, max_size=count, unique=True) for kind in kinds]
    if count == 2:
        lists.append(st.permutations([False, True]))
    return st.one_of(lists).map(np.array)


def orders(units: int, activation: Activation) -> st.SearchStrategy[np.ndarray | None]:
    if activation.mixes_units:
        return st.none()
    fewest = 1 if activation.has_hard_zero else units
    dtypes = st.sampled_from([np.int32, np.int64, np.uint8])
    some = st.tuples(st.permutations(range(units)), st.integers(fewest, units), dtypes)
    return st.none() | some.map(lambda drawn: np.array(drawn[0][: drawn[1]], drawn[2]))


def ranges(inputs: int) -> st.SearchStrategy[Any]:
    pairs = st.tuples(*[floats() | floats(inputs)] * 2)
    return st.none() | pairs.map(lambda pair: (np.minimum(*pair), np.maximum(*pair)))


def gate_ranges(rank: int) -> st.SearchStrategy[np.ndarray | None]:
    return st.none() | floats(2, rank).map(lambda pair: np.sort(pair, axis=0))


def quantizations(inputs: int, first: bool) -> st.SearchStrategy[Quantization | None]:
    positive = st.floats(2.0**-126, 2.0**127, width=32)
    scales = hnp.arrays(np.float32, (), elements=positive)
    offsets = floats()
    if first:
        scales |= hnp.arrays(np.float32, (inputs,), elements=positive)
        offsets |= floats(inputs)
    return st.none() | st.builds(Quantization, scales, offsets)


def precisions(layer: Layer, strategy: str) -> st.SearchStrategy[str]:
    no_range = strategy == "gate" and layer.gate is not None and layer.gate.range is None
    return st.just("f32") if layer.quantization is None or no_range else st.sampled_from(PRECISIONS)


machines = st.fixed_dictionaries(
    dict.fromkeys(MACHINE_KEYS, st.none() | st.text(max_size=200) | st.integers(0, 2**63 - 1))
)


@st.composite
def models(draw: st.DrawFn) -> Model:
    widths = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        rank = draw(st.integers(0, min(inputs, outputs)))
        parts = (floats(inputs, rank), floats(rank, outputs), floats(outputs), gate_ranges(rank))
        gate = Gate(*(draw(part) for part in parts)) if rank else None
        last = len(layers) == len(widths) - 2
        activation = draw(last_activations if last and outputs == 1 else activations)
        order = None if last else draw(orders(outputs, activation))
        weight, bias = draw(floats(outputs, inputs)), draw(floats(outputs))
        quantization = draw(quantizations(inputs, first=not layers))
        layers.append(Layer(weight, bias, activation, gate, order, quantization))
    scale = st.none() | floats() | floats(widths[0])
    task = draw(st.sampled_from(["classification", "regression", None]))
    labels = st.none() | class_labels(max(2, widths[-1]))
    words = st.lists(st.sampled_from(["dense", "skip", "gate"]), min_size=len(layers))
    strategies = draw(words)[: len(layers)]
    formats = [draw(precisions(*pair)) for pair in zip(layers, strategies, strict=True)]
    rows = draw(st.integers(0, 4))
    x = floats(rows, widths[0]) | hnp.arrays(np.uint8, (rows, widths[0]))
    gates = tuple("dense" if layer.gate is None else "gate" for layer in layers)
    in_int8 = tuple(draw(precisions(*pair)) for pair in zip(layers, gates, strict=True))
    y = floats(rows, widths[-1])
    tolerances = st.floats(0, 1e3)
    outputs = st.builds(PlannedOutputs, st.just(gates), st.just(in_int8), y, tolerances)
    probes = st.builds(Probe, x, y, st.none() | st.lists(outputs, max_size=3))
    return Model(
        layers=tuple(layers),
        task=task,
        classes=None if task == "regression" else draw(labels),
        input_scale=draw(scale),
        input_shift=draw(scale),
        plan=(BatchPlan(8, tuple(strategies), tuple(formats)),) if draw(st.booleans()) else None,
        probe=draw(st.none() | probes),
        metadata=draw(st.dictionaries(st.text(), json_values, max_size=3)),
        input_range=draw(ranges(widths[0])),
        machine=draw(st.none() | machines),
        report=draw(st.none() | st.dictionaries(st.text(), json_values, max_size=3)),
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(model=models())
@settings(max_examples=60, deadline=None)
def test_round_trip(suffix: str, model: Model) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, f"a.{suffix}"), Path(folder, f"b.{suffix}")
        save(first, model)
        loaded = load(first)
        assert_same(model, loaded)
        save(second, loaded)
        assert first.read_bytes() == second.read_bytes()


def test_same_content_in_both_formats(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        save(tmp_path / f"m.{suffix}", full_model())
    assert_same(load(tmp_path / "m.npz"), load(tmp_path / "m.safetensors"))


def test_bytes_do_not_depend_on_the_clock(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(npz, full_model())
    before = npz.read_bytes()
    monkeypatch.setattr("time.time", lambda: 2e9)
    save(npz, full_model())
    assert npz.read_bytes() == before


def test_files_are_readable_without_lrgate(tmp_path: Path) -> None:
    arrays = full_arrays()
    for suffix in SUFFIXES:
        save(tmp_path / f"m.{suffix}", full_model())
    with np.load(tmp_path / "m.npz", allow_pickle=False) as stored:
        assert set(stored.files) == {*arrays, "lrgate"}
        header = json.loads(str(stored["lrgate"]))
        assert re.fullmatch("sha256:[0-9a-f]{64}", header.pop("checksum"))
        assert header == full_header() | {"format_version": 2, "probe_plans": None}
        for key, array in arrays.items():
            np.testing.assert_array_equal(stored[key], array, strict=True)
    loaded = safetensors.numpy.load_file(tmp_path / "m.safetensors")
    assert set(loaded) == set(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(loaded[key], array, strict=True)


def test_files_written_without_lrgate_load(path: Path) -> None:
    assert_same(load(write(path, full_arrays(), full_header())), full_model())


@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed])
def test_what_numpy_saves_loads(npz: Path, savez: Callable[..., None]) -> None:
    savez(npz, **plain_arrays())
    assert len(load(npz).layers) == 2


def test_arrays_are_compressed_where_that_pays(npz: Path) -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(2, 64, 64)).astype(np.float32)
    weights[1][rng.random((64, 64)) < 0.9] = 0
    np.savez(npz, **{f"layers.{i}.weight": weight for i, weight in enumerate(weights)})
    save(npz, load(npz))
    with zipfile.ZipFile(npz) as archive:
        kinds = {info.filename: info.compress_type for info in archive.infolist()}
    assert kinds["layers.0.weight.npy"] == zipfile.ZIP_STORED
    assert kinds["layers.1.weight.npy"] == zipfile.ZIP_DEFLATED
    for layer, weight in zip(load(npz).layers, weights, strict=True):
        np.testing.assert_array_equal(layer.weight, weight)


def test_plain_weights_and_biases_load(path: Path) -> None:
    arrays = plain_arrays()
    model = load(write(path, arrays))
    assert [layer.activation.name for layer in model.layers] == ["relu", "identity"]
    for i, layer in enumerate(model.layers):
        np.testing.assert_array_equal(layer.weight, arrays[f"layers.{i}.weight"])
        np.testing.assert_array_equal(layer.bias, arrays[f"layers.{i}.bias"])
    assert (model.task, model.classes, model.plan, model.probe) == (None,) * 4
    assert [layer.kept_units for layer in model.layers] == [None] * 2
    assert [layer.quantization for layer in model.layers] == [None] * 2
    assert (model.input_range, model.machine, model.report) == (None,) * 3
    assert model.metadata == {}


def test_missing_bias_is_zero(path: Path) -> None:
    arrays = {k: v for k, v in plain_arrays().items() if not k.endswith("bias")}
    assert [layer.bias.tolist() for layer in load(write(path, arrays)).layers] == [[0] * 3, [0] * 2]


def test_eleven_layers_are_in_order_of_number(path: Path) -> None:
    arrays = {f"layers.{i}.weight": np.full((1, 1), i, np.float32) for i in range(11)}
    loaded = load(write(path, arrays))
    assert [layer.weight.item() for layer in loaded.layers] == list(range(11))


def test_one_layer_is_linear(path: Path) -> None:
    model = load(write(path, {"layers.0.weight": np.ones((2, 3), np.float32)}))
    assert model.layers[0].activation == Activation("identity")


def test_units_under_the_key_of_earlier_versions(path: Path) -> None:
    arrays = full_arrays()
    units = arrays.pop("layers.0.kept_units")
    loaded = load(write(path, arrays | {"layers.0.order": units}))
    np.testing.assert_array_equal(loaded.layers[0].kept_units, units)
    both = full_arrays() | {"layers.0.order": units}
    assert refused(write(path, both)).startswith("layers.0.order is the old key of")


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u8", "?", ">f4", ">i2"]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_weights_of_any_real_dtype_become_float32(npz: Path, dtype: str, order: Any) -> None:
    weight = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype, order=order)
    loaded = load(write(npz, {"layers.0.weight": weight})).layers[0].weight
    assert loaded.dtype == np.float32
    assert loaded.flags.c_contiguous
    assert not loaded.flags.writeable
    np.testing.assert_array_equal(loaded, weight.astype(np.float32), strict=True)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u8", "?"])
def test_tensors_of_any_real_dtype_become_float32(tensors: Path, dtype: str) -> None:
    weight = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    loaded = load(write(tensors, {"layers.0.weight": weight})).layers[0].weight
    np.testing.assert_array_equal(loaded, weight.astype(np.float32), strict=True)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_orders_of_any_integer_dtype_become_int32(path: Path, dtype: str) -> None:
    arrays = full_arrays() | {"layers.0.kept_units": np.array([2, 0]).astype(dtype)}
    order = load(write(path, arrays)).layers[0].kept_units
    assert order is not None
    assert not order.flags.writeable
    np.testing.assert_array_equal(order, np.int32([2, 0]), strict=True)


def test_orders_of_the_other_byte_order(npz: Path) -> None:
    arrays = full_arrays() | {"layers.0.kept_units": np.array([2, 0], ">i8")}
    order = load(write(npz, arrays)).layers[0].kept_units
    assert order is not None
    np.testing.assert_array_equal(order, np.int32([2, 0]), strict=True)


def test_non_finite_weights_are_the_engines_to_refuse(path: Path) -> None:
    weight = np.array([[np.inf, np.nan, -np.inf]], np.float64)
    loaded = load(write(path, {"layers.0.weight": weight})).layers[0].weight
    np.testing.assert_array_equal(loaded, weight.astype(np.float32), strict=True)


def test_float64_beyond_float32_is_refused(path: Path) -> None:
    weight = np.array([[1.0, 2.0], [3.0, 1e300]])
    message = refused(write(path, {"layers.0.weight": weight}))
    assert message == "layers.0.weight must fit float32, got 1e+300 at index (1, 1)"


@pytest.mark.parametrize("wrap", [str, Path])
def test_str_and_path_are_accepted(path: Path, wrap: Callable[[Path], Any]) -> None:
    save(wrap(path), full_model())
    assert_same(load(wrap(path)), full_model())


def test_suffix_in_capitals(tmp_path: Path) -> None:
    save(tmp_path / "M.NPZ", full_model())
    assert_same(load(tmp_path / "M.NPZ"), full_model())


def test_safetensors_metadata_of_others_is_no_obstacle(tensors: Path) -> None:
    safetensors.numpy.save_file(plain_arrays(), tensors, metadata={"format": "pt"})
    assert len(load(tensors).layers) == 2


# --- paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "model.onnx", "npz", ".npz", "model.npz.bak"])
def test_other_suffixes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    expected = f"path must end in .npz or .safetensors, got {str(path)!r}"
    for action in (lambda: load(path), lambda: save(path, full_model())):
        with pytest.raises(ValueError, match="path must end in") as info:
            action()
        assert str(info.value) == expected
        assert not isinstance(info.value, FileFormatError)


def test_missing_file(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="model"):
        load(path)


def test_folder_in_place_of_a_file(path: Path) -> None:
    path.mkdir()
    with pytest.raises((IsADirectoryError, PermissionError)):
        load(path)
    with pytest.raises((IsADirectoryError, PermissionError)):
        save(path, full_model())
    assert os.listdir(path.parent) == [path.name]


def test_missing_folder_is_named_by_the_users_path(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "model.npz"
    with pytest.raises(FileNotFoundError) as info:
        save(path, full_model())
    assert info.value.filename == str(path)


@pytest.mark.parametrize("name", ["a\0b.npz", "m.safetensors\0.npz", "\0.safetensors"])
def test_paths_with_a_nul(tmp_path: Path, name: str) -> None:
    path = f"{tmp_path}/{name}"
    for action in (lambda: load(path), lambda: save(path, full_model())):
        with pytest.raises(ValueError, match=r"^path must not have a NUL character, got '"):
            action()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
@pytest.mark.parametrize("swapped", [False, True])
def test_a_pipe_is_refused_at_once(
    path: Path, swapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a pipe that replaces a file after its kind was checked."""
    os.mkfifo(path)
    if swapped:
        regular = os.stat(__file__)
        monkeypatch.setattr("lrgate.files.opening.os.stat", lambda *_, **__: regular)
    with time_limit(5):
        assert refused(path) == "it must be a regular file, not a pipe"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
@pytest.mark.parametrize("when", ["before the header", "after the header"])
def test_tensors_replaced_by_a_pipe(
    tensors: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change() -> None:
        tensors.unlink()
        os.mkfifo(tensors)

    save(tensors, one_layer(3.0))
    meanwhile(monkeypatch, when, change)
    with time_limit(5):
        assert_same(load(tensors), one_layer(3.0))
        assert refused(tensors) == "it must be a regular file, not a pipe"


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no devices here")
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/urandom"])
def test_devices_are_refused(path: Path, device: str) -> None:
    path.symlink_to(device)
    with time_limit(5):
        assert refused(path) == "it must be a regular file, not a device or socket"


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets here")
def test_sockets_are_refused(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))  # paths of sockets have at most about 100 characters
        assert refused(path) == "it must be a regular file, not a device or socket"


@pytest.mark.parametrize("value", [0, -1])
def test_max_bytes_below_1(npz: Path, value: int) -> None:
    with pytest.raises(ValueError, match=f"^max_bytes must be at least 1, got {value}$"):
        load(npz, max_bytes=value)


def test_save_takes_models_alone(npz: Path) -> None:
    with pytest.raises(TypeError, match=r"^model must be of type Model, got dict$"):
        save(npz, {})  # type: ignore[arg-type]
    assert not npz.exists()


# --- atomic writes ------------------------------------------------------------------------------


class Failure(Exception):
    pass


def fail(*_: Any, **__: Any) -> None:
    raise Failure


@pytest.mark.parametrize("error", [Failure, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("broken", ["os.replace", "os.fsync", "shutil.copymode"])
def test_failure_leaves_the_old_file(
    path: Path, broken: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: Any, **__: Any) -> None:
        raise error

    path.write_bytes(b"old")
    monkeypatch.setattr(f"lrgate.files.atomic.{broken}", raises)
    with pytest.raises(error):
        save(path, full_model())
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_failure_half_way_through_the_arrays(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = np.lib.format.write_array, []

    def breaks(*args: Any, **options: Any) -> None:
        calls.append(args)
        if len(calls) == 4:
            raise Failure
        real(*args, **options)

    monkeypatch.setattr("numpy.lib.format.write_array", breaks)
    with pytest.raises(Failure):
        save(npz, full_model())
    assert os.listdir(npz.parent) == []


@pytest.mark.parametrize("wrong", [b"m.npz", 1, None])
def test_a_path_of_another_type(wrong: Any) -> None:
    message = f"^path must be a str or a path-like of str, got {type(wrong).__name__}$"
    with pytest.raises(TypeError, match=message):
        load(wrong)
    with pytest.raises(TypeError, match=message):
        save(wrong, full_model())


def test_full_disk(path: Path) -> None:
    resource = pytest.importorskip("resource")
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(OSError, match="too large") as info:
            save(path, full_model())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert info.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_the_old_file_stays_readable_while_the_new_one_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(path, full_model())
    before = path.read_bytes()
    seen = []
    real = os.replace

    def replace(source: str, target: str) -> None:
        seen.append(path.read_bytes() == before)
        assert Path(source).parent == path.parent  # a move from elsewhere may not be atomic
        real(source, target)

    monkeypatch.setattr("lrgate.files.atomic.os.replace", replace)
    save(path, Model(layers=full_model().layers))
    assert seen == [True]
    assert load(path).task is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_permissions(path: Path) -> None:
    mask = os.umask(0o027)
    try:
        save(path, full_model())
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o600)
    save(path, full_model())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "m.npz", tmp_path / "link.npz"
    link.symlink_to(target)
    save(link, full_model())
    assert link.is_symlink()
    assert_same(load(target), full_model())


# --- damage -------------------------------------------------------------------------------------


def test_truncated_anywhere(path: Path) -> None:
    save(path, full_model())
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        refused(path)


def test_bytes_after_the_end(path: Path) -> None:
    save(path, full_model())
    path.write_bytes(path.read_bytes() + b"more")
    refused(path)


def everything(seed: int = 0) -> Network:
    """A small network with all features: gates, orders with omitted units, int8, a probe."""
    rng = np.random.default_rng(seed)

    def made(inputs: int, outputs: int, rank: int, order: Any) -> Layer:
        weight = rng.normal(size=(outputs, inputs)) / math.sqrt(inputs)
        u = rng.normal(size=(inputs, rank)) / math.sqrt(inputs)
        gate = Gate(u, rng.normal(size=(rank, outputs)), np.full(outputs, 0.7)) if rank else None
        name = "identity" if order is None else "relu"
        return Layer(weight, rng.normal(size=outputs) / 3, Activation(name), gate, order)

    x = rng.normal(size=(200, 6)).astype(np.float32)
    net = Network.from_layers(
        [
            made(6, 12, 2, rng.permutation(12)[:10]),
            made(12, 9, 2, rng.permutation(9)[:8]),
            made(9, 3, 0, None),
        ],
        task="classification",
        classes=["a", "b", "c"],
        input_scale=0.5,
        input_shift=rng.normal(size=6) / 9,
        input_range=(-9, 9),
    ).quantize(x)
    plans = (
        BatchPlan(1, ("gate", "skip", "dense"), ("int8",) * 3),
        BatchPlan(64, ("gate", "gate", "skip"), ("int8", "int8", "f32")),
    )
    model = replace(model_of(net), plan=plans, metadata={"seed": seed}, machine=MACHINE)
    return Network(model).with_probe(x[:8])


def model_of(net: Network) -> Model:
    model: Model = net.__reduce__()[1][0]
    return model


def flips(path: Path, dense: range, others: int) -> Iterator[None]:
    """Flip one bit of the file at a time: all bits of the bytes `dense`, and `others` at random."""
    content, draw = path.read_bytes(), random.Random(3)
    bits = {8 * byte + bit for byte in dense for bit in range(8)}
    bits |= set(draw.sample(range(8 * len(content)), others))
    for bit in sorted(bits):
        for value in (content[bit // 8] ^ 1 << bit % 8, content[bit // 8]):
            with open(path, "r+b") as file:  # in place: writing the whole file takes milliseconds
                file.seek(bit // 8)
                file.write(bytes([value]))
            if value != content[bit // 8]:
                yield


@pytest.mark.filterwarnings("ignore::UserWarning")  # NumPy on headers that look like Python 2's
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_no_bit_flipped_gives_another_network(path: Path) -> None:
    everything().save(path)
    expected, content = load(path), path.read_bytes()
    if path.suffix == ".npz":  # the end of the directory
        header = range(len(content) - 200, len(content))
    else:
        header = range(8 + int.from_bytes(content[:8], "little"))
    tried = refusals = 0
    for _ in flips(path, header, 10_000):
        tried += 1
        try:
            model = load(path)
        except FileFormatError as error:
            refusals += 1
            assert str(error).startswith(f"{path}: ")
        else:
            assert_same(model, expected)
    assert tried >= 10_000 and path.read_bytes() == content
    # .npz files contain times, permissions and local copies of sizes that have no meaning.
    assert refusals >= (0.5 if path.suffix == ".npz" else 1) * tried


@given(seed=st.integers(0, 2**32), count=st.integers(1, 40), suffix=st.sampled_from(SUFFIXES))
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_any_run_of_bytes_overwritten(suffix: str, seed: int, count: int) -> None:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"m.{suffix}")
        save(path, full_model())
        content = bytearray(path.read_bytes())
        start = draw.randrange(len(content) - count)
        content[start : start + count] = draw.randbytes(count)
        path.write_bytes(content)
        try:
            model = load(path)
        except FileFormatError:
            return
        assert_same(model, full_model())


def stored(model: Model, folder: Path, suffix: str = "npz") -> tuple[dict[str, np.ndarray], Any]:
    """The arrays and the JSON text that `save` writes."""
    save(folder / f"saved.{suffix}", model)
    with np.load(folder / f"saved.{suffix}", allow_pickle=False) as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop("lrgate")))


@pytest.mark.parametrize("key", full_arrays())
def test_the_checksum_covers_every_array(path: Path, key: str) -> None:
    """The checksum covers values, dtype, shape, key and presence of every array."""
    arrays, header = stored(full_model(), path.parent)
    text = json.dumps(header, separators=(",", ":"))
    assert_same(load(write(path, arrays, text)), full_model())
    mismatch = "its content does not match lrgate.checksum: it is damaged"
    array = arrays[key]
    other = array.copy()
    other.flat[-1] = 1 if other.flat[-1] == 0 else 0
    wider = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    for changed in (other, wider):
        assert refused(write(path, arrays | {key: changed}, text)) == mismatch
    assert refused(write(path, without_keys(arrays, key), text)) == mismatch
    if array.ndim == 0:
        spread = np.full(4, array) if "0" in key or "input" in key else array.reshape(1)
        assert refused(write(path, arrays | {key: spread}, text)) == mismatch


def without_keys(arrays: dict[str, np.ndarray], *keys: str) -> dict[str, np.ndarray]:
    return {key: array for key, array in arrays.items() if key not in keys}


@pytest.mark.parametrize("key", ["checksum", *full_header()])
def test_the_checksum_covers_the_json(path: Path, key: str) -> None:
    arrays, header = stored(full_model(), path.parent)
    changes: dict[str, Any] = {
        "format_version": 1,
        "activations": ["relu", "identity"],
        "ranks": None,
        "task": None,
        "classes": {"kind": "str", "values": ["dog", "cat"]},
        "plans": None,
        "metadata": {},
        "machine": None,
        "report": None,
        "checksum": header["checksum"].upper(),
    }
    text = json.dumps(header | {key: changes[key]}, separators=(",", ":"))
    message = "its content does not match lrgate.checksum: it is damaged"
    assert refused(write(path, arrays, text)) == message
    # Equivalent values have a different text.
    assert refused(write(path, arrays, json.dumps(header, indent=1))) == message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("missing", "lrgate.checksum is missing: format version 2 has one"),
        (None, "lrgate.checksum is missing: format version 2 has one"),
        (7, "lrgate.checksum must be a string, got 7"),
        ("", "its content does not match lrgate.checksum: it is damaged"),
        ("md5:0", "its content does not match lrgate.checksum: it is damaged"),
    ],
)
def test_version_2_needs_its_checksum(path: Path, value: Any, message: str) -> None:
    arrays, header = stored(full_model(), path.parent)
    header["checksum"] = value
    if value == "missing":
        del header["checksum"]
    assert refused(write(path, arrays, header)) == message


def test_metadata_cannot_pass_for_the_checksum(path: Path) -> None:
    notes = {"checksum": "", "a": '"checksum":""', 'b"checksum":""': ["", '"checksum":"sha256:"']}
    model = replace(full_model(), metadata=notes)
    save(path, model)
    assert_same(load(path), model)


def test_arrays_rewritten_in_another_order_match(npz: Path, tmp_path: Path) -> None:
    """The checksum does not depend on Fortran order or byte order."""
    arrays, header = stored(full_model(), tmp_path)
    text = json.dumps(header, separators=(",", ":"))
    rewritten = {
        key: np.array(array, array.dtype.newbyteorder(">"), order="F")
        for key, array in reversed(arrays.items())
    }
    assert_same(load(write(npz, rewritten, text)), full_model())


OWN_KEYS = [key for key in full_arrays() if not re.search(r"weight|\d\.bias|input", key)]


@pytest.mark.parametrize("key", OWN_KEYS)
def test_settings_are_not_lost(path: Path, key: str) -> None:
    arrays = plain_arrays() | {key: full_arrays()[key]}
    message = f"lrgate is missing, though the file has {key}"
    assert refused(write(path, arrays, bare=True)) == message


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["lrgatd", "Lrgate", "", "lrgate ", "lrgate.old"])
def test_settings_under_another_key(tensors: Path, version: int, name: str) -> None:
    """Also for a network that has only weights and biases."""
    text = json.dumps({"format_version": version, "activations": ["tanh", "softmax"]})
    safetensors.numpy.save_file(plain_arrays(), tensors, metadata={name: text})
    message = f"unknown metadata key {name!r}; expected only lrgate"
    assert refused(tensors) == message
    safetensors.numpy.save_file(full_arrays(), tensors, metadata={name: text})
    assert refused(tensors) == message


def test_metadata_beside_the_settings(tensors: Path) -> None:
    metadata = {"lrgate": json.dumps(full_header()), "format": "pt"}
    safetensors.numpy.save_file(full_arrays(), tensors, metadata=metadata)
    assert refused(tensors) == "unknown metadata key 'format'; expected only lrgate"


# --- many layers --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10_001, 30_000])
def test_too_many_layers_are_refused_fast(path: Path, count: int) -> None:
    one = np.ones((1, 1), np.float32)
    write(path, {f"layers.{i}.weight": one for i in range(count)}, {"format_version": 1})
    start = time.process_time()
    assert refused(path) == "it must have at most 10000 layers, got layers.10000.weight"
    assert time.process_time() - start < 3  # about 1 second, with a margin for slower machines
    with pytest.raises(ValueError, match=rf"^model must have at most 10000 layers, got {count}$"):
        save(path, Model((ONE,) * count))


def test_loading_is_linear_in_layers(path: Path) -> None:
    def seconds(count: int) -> float:
        save(path, Model((ONE,) * count))
        times = []
        for _ in range(3):
            start = time.process_time()
            assert len(load(path).layers) == count
            times.append(time.process_time() - start)
        return min(times)

    seconds(10)
    assert seconds(4000) < 24 * seconds(500)  # quadratic time would be 64 times as much


def test_json_of_many_keys_is_refused_fast(path: Path) -> None:
    keys = [f'"{i}":0' for i in range(300_000)]
    write(path, plain_arrays(), f'{{"format_version":1,{",".join(keys)},"299999":0}}')
    with time_limit(10):
        assert refused(path) == "lrgate has the key '299999' twice in one object"


# --- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_too_little_memory_is_a_memory_error(path: Path, dtype: str) -> None:
    pytest.importorskip("resource")
    if not sys.platform.startswith("linux"):
        pytest.skip("address space is limited, and read from /proc, on Linux alone")
    rng = np.random.default_rng(0)
    write(path, {"layers.0.weight": rng.normal(size=(4096, 2048)).astype(dtype)})
    small = path.with_stem("small")
    save(small, full_model())
    code = f"""
        import resource
        from lrgate import files
        files.load({str(small)!r})
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        size = 4096 * 2048 * {int(dtype[1])}
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        for room in (4 << 20, size // 2, size - (1 << 20)):
            resource.setrlimit(resource.RLIMIT_AS, (used + room, hard))
            try:
                files.load({str(path)!r})
            except MemoryError:
                print("MemoryError")
            files.load({str(small)!r})
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        print(files.load({str(path)!r}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    assert done.stdout.split("\n") == ["MemoryError"] * 3 + ["Model(2048-4096)", ""]


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(content=st.binary(max_size=200), start=st.sampled_from([b"", b"PK\3\4", b"PK\5\6"]))
@settings(max_examples=100, deadline=None)
def test_any_bytes(suffix: str, content: bytes, start: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"m.{suffix}")
        path.write_bytes(start + content)
        refused(path)


@given(
    text=st.binary(max_size=80)
    | st.text(st.sampled_from("{}()[]'descrshape:,0-L \n")).map(str.encode)
)
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_any_npy_header(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.npz")
        refused(write_zip(path, {"layers.0.weight.npy": npy_with_header(text, b"")}))


@pytest.mark.parametrize("content", [b"", b"PK", b"not a model at all", b"\0" * 1000])
def test_not_such_a_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert refused(path).startswith(f"not a readable {path.suffix} file: ")


def test_formats_are_not_mixed_up(tmp_path: Path) -> None:
    for suffix, other in (SUFFIXES, SUFFIXES[::-1]):
        save(tmp_path / f"m.{suffix}", full_model())
        (tmp_path / f"m.{suffix}").rename(tmp_path / f"wrong.{other}")
        refused(tmp_path / f"wrong.{other}")


# --- wrong sizes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("descr", "shape", "message"),
    [
        ("'<f4'", "(1000000, 1000)", "must hold 4000000000 bytes, got 16"),
        ("'<f4'", "(2, 3)", "must hold 24 bytes, got 16"),
        ("'<f4'", "(2, 1)", "must hold 8 bytes, got 16"),
        ("'<f8'", "(2, 2)", "must hold 32 bytes, got 16"),
        ("'<f4'", "(2147483648, 0)", "must have at most 2 dimensions, each of 0 to 2147483647"),
        ("'<f4'", "(-2, -2)", "must have at most 2 dimensions, each of 0 to 2147483647"),
        ("'<f4'", "(1, 1, 2, 2)", "must have at most 2 dimensions, each of 0 to 2147483647"),
        ("'<f4'", "(4,)", "layers.0.weight must have shape (out, in), got (4,)"),
        ("'<f4'", "()", "must hold 4 bytes, got 16"),
        ("'<c8'", "(1, 2)", "must be an array of real numbers, got dtype complex64"),
        ("'<f16'", "(1, 1)", "must be an array of real numbers, got dtype float128"),
        ("'<U1'", "(2, 2)", "must be an array of real numbers, got dtype <U1"),
        ("'|S4'", "(2, 2)", "must be an array of real numbers, got dtype |S4"),
        ("'<M8[s]'", "(1, 2)", "must be an array of real numbers, got dtype datetime64[s]"),
        ("'|V999999999'", "(1, 1)", "must be an array of real numbers, got dtype |V999999999"),
        ("[('a', '<f4')]", "(2, 2)", "must be an array of real numbers, got dtype [('a', '<f4')]"),
        ("'|O'", "(2, 2)", "layers.0.weight holds Python objects, which lrgate never unpickles"),
        ("'nonsense'", "(2, 2)", "layers.0.weight has a damaged .npy header: "),
        ("'<f4'", "(2.0, 2)", "layers.0.weight has a damaged .npy header: "),
        ("'<f4'", "(True, 4)", "each of 0 to 2147483647, got (True, 4)"),
        ("'<f4'", "(2, True)", "each of 0 to 2147483647, got (2, True)"),
        ("'<f4'", "(False, 4)", "each of 0 to 2147483647, got (False, 4)"),
    ],
)
def test_npy_headers_that_lie(npz: Path, descr: str, shape: str, message: str) -> None:
    if "f16" in descr and np.dtype(np.longdouble).itemsize != 16:
        pytest.skip("float128 is unknown here")
    write_zip(npz, {"layers.0.weight.npy": npy(descr, shape, bytes(16))})
    with bounded_memory(MIB):
        assert message in refused(npz)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "layers.0.weight is not a .npy array: it ends in its header"),
        (b"\x93NUMPY\x01", "layers.0.weight is not a .npy array: it ends in its header"),
        (
            b"\x93NUMPY\x01\x00\xff\x00",
            "layers.0.weight is not a .npy array: it ends in its header",
        ),
        (b"GIF89a" + bytes(40), "layers.0.weight is not a .npy array"),
        (npy("'<f4'", "(0, 0)", b"", (3, 0)), "has .npy version 3.0, expected 1.0 or 2.0"),
        (npy("'<f4'", "(0, 0)", b"", (9, 9)), "has .npy version 9.9, expected 1.0 or 2.0"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "has a .npy header of 4294967295 bytes"),
        (npy_with_header(b"(" * 9000, b""), "has a .npy header of 9000 bytes"),
        (npy_with_header(b"(" * 1000, b""), "has a damaged .npy header"),
        (npy_with_header(b"-" * 999 + b"1", b""), "has a damaged .npy header"),
        (npy_with_header(b"not " * 249 + b"1", b""), "has a damaged .npy header"),
        (npy_with_header(b"lambda:" * 142 + b"1", b""), "has a damaged .npy header"),
        (npy_with_header(b"1if 1else " * 99 + b"1", b""), "has a damaged .npy header"),
        (npy_with_header(b"__import__('os').getcwd()", b""), "has a damaged .npy header"),
        (npy_with_header(b"\xff\xfe{", b""), "has a damaged .npy header"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_members_that_are_no_arrays(npz: Path, content: bytes, message: str) -> None:
    write_zip(npz, {"layers.0.weight.npy": content})
    with bounded_memory(4 * MIB):
        assert message in refused(npz)


def test_npy_version_2_is_read(npz: Path) -> None:
    weight = np.float32([[1, 2]])
    content = npy("'<f4'", "(1, 2)", weight.tobytes(), (2, 0))
    model = load(write_zip(npz, {"layers.0.weight.npy": content}))
    np.testing.assert_array_equal(model.layers[0].weight, weight)


def test_more_than_max_bytes(path: Path) -> None:
    write(path, {"layers.0.weight": np.zeros((1000, 1000), np.float32)})
    with bounded_memory(MIB):
        message = refused(path, max_bytes=1_000_000)
    assert message.startswith("its arrays take 4000")
    assert message.endswith(" bytes, more than max_bytes (1000000)")


def test_zip_bomb(npz: Path) -> None:
    """64 MiB of zeros in 64 KiB are loaded if max_bytes allows it, and else take no memory."""
    write(npz, {"layers.0.bias": np.zeros((1, 1))})
    content = npy("'|u1'", "(8192, 8192)", bytes(64 * MIB))
    write_zip(npz, {"layers.0.weight.npy": content})
    assert npz.stat().st_size < 100_000
    with bounded_memory(MIB):
        assert "more than max_bytes" in refused(npz, max_bytes=32 * MIB)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_directory_that_states_more_than_there_is(npz: Path, compression: int) -> None:
    size = 4_000_000_000
    content = npy("'|u1'", "(1, 3999999870)", bytes(10))
    write_zip(npz, {"layers.0.weight.npy": content}, compression)
    patch_zip(npz, {24: struct.pack("<I", size)}, {22: struct.pack("<I", size)})
    with bounded_memory(MIB):
        assert f"layers.0.weight cannot hold the {size} bytes it states" in refused(npz)


def test_zip_directory_that_states_less_than_there_is(npz: Path) -> None:
    """A member that inflates to more than its stated size is read only up to that size."""
    small = npy("'|u1'", "(1, 100)", bytes(100))
    write_zip(npz, {"layers.0.weight.npy": small[:-100] + bytes(64 * MIB)})
    patch_zip(npz, {24: struct.pack("<I", len(small))}, {22: struct.pack("<I", len(small))})
    with bounded_memory(2 * MIB):
        assert "Bad CRC-32" in refused(npz)


def test_zip_member_past_the_end(npz: Path) -> None:
    write(npz, plain_arrays())
    patch_zip(npz, {42: struct.pack("<I", 0x7FFFFFFF)})
    assert "the file is truncated or damaged" in refused(npz)


def test_zip_members_that_share_their_bytes(npz: Path) -> None:
    """Many directory entries for one bomb: each counts towards max_bytes."""
    content = npy("'|u1'", "(1024, 1024)", bytes(MIB))
    write_zip(npz, {f"layers.{i}.weight.npy": content for i in range(9)})
    stored = bytearray(npz.read_bytes())
    start = stored.index(b"PK\1\2")
    for _ in range(9):
        stored[start + 42 : start + 46] = bytes(4)
        start = stored.find(b"PK\1\2", start + 1)
    npz.write_bytes(stored)
    with bounded_memory(MIB):
        assert "more than max_bytes" in refused(npz, max_bytes=8 * MIB)


def test_zip_directory_of_a_million_entries(npz: Path) -> None:
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, *[0] * 6) + b"a"
    count = 1_000_000
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0, 0, count * len(entry), 0, 0)
    npz.write_bytes(entry * count + end)
    with bounded_memory(MIB):
        assert refused(npz) == f"its zip directory is too large: {count * len(entry)} bytes"


def test_zip_directory_entries_that_swallow_others(npz: Path) -> None:
    """A comment covers all following entries: zipfile finds one member and no damage."""
    write(npz, full_arrays(), full_header())
    patch_zip(npz, {32: b"\xff\xff"})
    with zipfile.ZipFile(npz) as archive:
        assert archive.namelist() == ["lrgate.npy"]
    message = "not a readable .npz file: it states 19 members, but 1 can be found"
    assert refused(npz) == message


@pytest.mark.parametrize(
    ("central", "message"),
    [
        ({8: b"\1\0"}, "layers.0.weight is encrypted"),
        ({10: b"\x0c\0"}, "layers.0.weight must be stored or deflated, got compression method 12"),
        ({10: b"\x63\0"}, "layers.0.weight must be stored or deflated, got compression method 99"),
        ({6: b"\xff\0"}, "not a readable .npz file: zip file version 25.5"),
        ({46 + 7: b"7"}, "not a readable .npz file: File name in directory"),
    ],
)
def test_zip_directory_of_other_kinds(npz: Path, central: dict[int, bytes], message: str) -> None:
    write(npz, plain_arrays())
    patch_zip(npz, central)
    assert message in refused(npz)


def test_duplicate_member(npz: Path) -> None:
    content = npy("'<f4'", "(1, 1)", bytes(4))
    write_zip(npz, {"layers.0.weight.npy": content})
    with zipfile.ZipFile(npz, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("layers.0.weight.npy", content)
    assert refused(npz) == "layers.0.weight occurs twice"


@pytest.mark.parametrize("name", ["../../evil.npy", "/etc/evil.npy", "layers.0.weight\0.npy"])
def test_member_names_are_never_paths(npz: Path, name: str) -> None:
    content = npy("'<f4'", "(1, 1)", bytes(4))
    write_zip(npz, {"layers.0.weight.npy": content, "x" * len(name): content})
    npz.write_bytes(npz.read_bytes().replace(b"x" * len(name), name.encode()))
    assert "unknown" in refused(npz)
    assert os.listdir(npz.parent) == [npz.name]


def test_member_that_is_no_npy(npz: Path) -> None:
    write_zip(npz, {"README.txt": b"hello"})
    assert refused(npz) == "unknown member 'README.txt'; expected names that end in .npy"


@pytest.mark.parametrize(
    ("header", "content", "length"),
    [
        ({}, b"", 1 << 62),
        ({}, b"", 3),
        (b"[" * 100_000, b"", None),
        (b"\xff\xfe", b"", None),
        ({"layers.0.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 8]}}, b"", None),
        (
            {
                "layers.0.weight": {
                    "dtype": "F32",
                    "shape": [1 << 20, 1 << 20],
                    "data_offsets": [0, 16],
                }
            },
            bytes(16),
            None,
        ),
        (
            {
                "layers.0.weight": {
                    "dtype": "F32",
                    "shape": [1 << 40, 1 << 40],
                    "data_offsets": [0, 0],
                }
            },
            b"",
            None,
        ),
        (
            {"layers.0.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [8, 24]}},
            bytes(24),
            None,
        ),
        (
            {
                "layers.0.weight": {"dtype": "F32", "shape": [1, 4], "data_offsets": [0, 16]},
                "layers.0.bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            },
            bytes(16),
            None,
        ),
        (
            b'{"layers.0.weight":{"dtype":"U8","shape":[1,1],"data_offsets":[0,1]},'
            b'"layers.0.weight":{"dtype":"U8","shape":[1,1],"data_offsets":[1,2]}}',
            bytes(2),
            None,
        ),
    ],
)
def test_tensor_headers_that_lie(
    tensors: Path, header: object, content: bytes, length: int | None
) -> None:
    write_tensors(tensors, header, content, length)
    with bounded_memory(MIB):
        assert refused(tensors).startswith("not a readable .safetensors file: ")


@pytest.mark.parametrize(
    ("dtype", "shape", "content", "message"),
    [
        ("BF16", [1, 2], bytes(4), "real numbers, got dtype BF16; convert it to float32 first"),
        ("F32", [0, 1 << 40], b"", "must have at most 2 dimensions, each of 0 to 2147483647"),
        ("F32", [1, 1, 1], bytes(4), "must have at most 2 dimensions"),
        ("F32", [1], bytes(4), "layers.0.weight must have shape (out, in), got (1,)"),
    ],
)
def test_tensors_of_other_kinds(
    tensors: Path, dtype: str, shape: list[int], content: bytes, message: str
) -> None:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(content)]}
    assert message in refused(write_tensors(tensors, {"layers.0.weight": entry}, content))


def meanwhile(
    monkeypatch: pytest.MonkeyPatch, when: str, change: Callable[[], object], times: int = 1
) -> None:
    """Call `change` after a .safetensors file is opened, before or after its header is read."""
    changes = [change] * times

    def read(file: Any) -> Any:
        if when == "before the header" and changes:
            changes.pop()()
        header = real(file)
        if when == "after the header" and changes:
            changes.pop()()
        return header

    real = lrgate.files.safetensors._read_header
    monkeypatch.setattr(lrgate.files.safetensors, "_read_header", read)


def one_layer(value: float) -> Model:
    return Model(
        layers=(Layer(np.full((2, 3), value), np.full(2, value), Activation("identity")),),
        metadata={"value": value},
    )


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be replaced there")
@pytest.mark.parametrize("when", ["before the header", "after the header"])
def test_tensors_replaced_meanwhile(
    tensors: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    save(tensors, one_layer(3.0))
    meanwhile(monkeypatch, when, lambda: save(tensors, one_layer(4.0)))
    assert_same(load(tensors), one_layer(3.0))
    assert_same(load(tensors), one_layer(4.0))


def test_tensors_truncated_meanwhile(tensors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Layer(np.ones((200, 300)), np.ones(200), Activation("identity"))  # not read at once
    save(tensors, Model(layers=(wide,)))
    size = tensors.stat().st_size
    meanwhile(monkeypatch, "after the header", lambda: os.truncate(tensors, size - 5))
    assert re.fullmatch(r"layers\.0\.\w+ ends after \d+ of \d+ bytes", refused(tensors))


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be truncated there")
@pytest.mark.parametrize("left", [0, 5, 8, 100])
def test_a_header_truncated_meanwhile(
    tensors: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """Reading from a mapped file would end this process by SIGBUS."""
    save(tensors, one_layer(3.0))
    real, sizes = os.fstat, []

    def fstat(file: int) -> os.stat_result:
        status = real(file)
        sizes.append(status.st_size)
        if len(sizes) == 3:  # after the kind, the limit and the size of the file were checked
            os.truncate(tensors, left)
        return status

    monkeypatch.setattr("os.fstat", fstat)
    expected = "not a readable .safetensors file: it is shorter than its header"
    assert refused(tensors) == expected


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be truncated there")
def test_tensors_rewritten_all_the_time(tensors: Path) -> None:
    layers = [Layer(np.eye(60), np.zeros(60), Activation("identity"))] * 40
    save(tensors, Model(layers=tuple(layers)))
    content = tensors.read_bytes()
    code = """
    import sys, lrgate.files
    print("ready", flush=True)
    while True:
        try:
            lrgate.files.load(sys.argv[1])
        except lrgate.files.FileFormatError:
            pass
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tensors)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
        try:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"ready\n"
            end = time.monotonic() + 2
            while time.monotonic() < end:
                tensors.write_bytes(content)  # truncates, then writes, as `cp` does
            assert reader.poll() is None
        finally:
            reader.kill()


def tensor_header(**changes: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [1, 1], "data_offsets": [0, 1], **changes}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([], "its header must be a JSON object"),
        (b'{"a": NaN}', "its header is not valid JSON: NaN is not a JSON number"),
        (b'{"a": 1, "a": 2}', "its header has the key 'a' twice in one object"),
        ({"__metadata__": {"lrgate": 1}}, "__metadata__ must be a JSON object of strings"),
        ({"__metadata__": []}, "__metadata__ must be a JSON object of strings"),
        ({"__metadata__": {"a": "\ud800"}}, "__metadata__ is not Unicode text"),
        ({"a": 1}, "'a' must have dtype, shape and two data_offsets"),
        ({"a": tensor_header(shape=1)}, "'a' must have dtype, shape and two data_offsets"),
        ({"a": tensor_header(dtype=None)}, "'a' must have dtype, shape and two data_offsets"),
        ({"a": tensor_header(data_offsets=[0])}, "'a' must have dtype, shape and two data_offsets"),
        ({"a": tensor_header(shape=[True, 1])}, "'a' must have a shape and data_offsets of"),
        ({"a": tensor_header(shape=[-1, -1])}, "'a' must have a shape and data_offsets of"),
        ({"a": tensor_header(shape=[1.0, 1])}, "'a' must have a shape and data_offsets of"),
        ({"a": tensor_header(data_offsets=[0, 10**30])}, "'a' must have a shape and data_offsets"),
        ({"a": tensor_header(shape=[2, 1])}, "'a' must take 2 bytes, got 1"),
        ({"a": tensor_header(data_offsets=[1, 2])}, "'a' must begin at byte 0, got 1"),
        ({"a": tensor_header(), "b": tensor_header()}, "'b' must begin at byte 1, got 0"),
        ({}, "its tensors take 0 bytes, got 1"),
    ],
)
def test_tensor_headers_that_are_wrong(tensors: Path, header: object, message: str) -> None:
    got = refused(write_tensors(tensors, header, bytes(1)))
    assert got.startswith(f"not a readable .safetensors file: {message}")


def test_a_tensor_header_of_many_bytes(tensors: Path) -> None:
    write_tensors(tensors, b"", b"", 33 << 20)
    os.truncate(tensors, 64 << 20)
    with bounded_memory(MIB):
        assert "its header must take at most 33554432 bytes" in refused(tensors)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "C64", "F128", "F32\0", ""])
def test_tensors_of_exotic_kinds(tensors: Path, dtype: str) -> None:
    """Depending on its version, safetensors itself does not know some of these dtypes."""
    entry = {"dtype": dtype, "shape": [1, 1], "data_offsets": [0, 8]}
    refused(write_tensors(tensors, {"layers.0.weight": entry}, bytes(8)))


# --- pickles ------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("key", ["layers.0.weight", "lrgate", "probe.x", "unknown"])
def test_pickles_are_never_loaded(npz: Path, tmp_path: Path, key: str) -> None:
    target = tmp_path / "exploded"
    bomb = np.empty((1, 1), object)
    bomb[0, 0] = Bomb(target)
    write(npz, {"layers.0.weight": np.ones((1, 1)), key: bomb})
    message = refused(npz)
    if key in ("layers.0.weight", "probe.x"):
        assert message == f"{key} holds Python objects, which lrgate never unpickles"
    assert not target.exists()
    pickle.loads(pickle.dumps(Bomb(target)))  # noqa: S301  (the bomb works)
    assert target.exists()


def test_a_pickle_named_npz(npz: Path) -> None:
    npz.write_bytes(pickle.dumps({"layers.0.weight": [[1.0]]}))
    assert refused(npz).startswith("not a readable .npz file: ")


# --- keys ---------------------------------------------------------------------------------------


def without(*keys: str) -> dict[str, np.ndarray]:
    return {key: array for key, array in full_arrays().items() if key not in keys}


ALL_KEYS = (
    "expected lrgate, layers.{i}.weight, .bias, .activation.slope, .gate.u, .gate.v, .gate.bias, "
    ".gate.range, .kept_units, .quantization.scale, .quantization.offset, .factors.u, .factors.v, "
    ".factors.bias, .factors.gate.v, .factors.gate.bias, .factors.quantization.scale, "
    ".factors.quantization.offset, input.scale, input.shift, input.range, probe.x, probe.y, "
    "probe.planned"
)
LAST = "it is the last layer, whose units are the outputs"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "layers.0.weight is missing"),
        (without("layers.0.weight"), "layers.0.weight is missing"),
        (
            {"layers.0.weight": np.ones((1, 1)), "layers.2.weight": np.ones((1, 1))},
            "layers.1.weight is missing: it has layers up to 2",
        ),
        (
            {"layers.1.weight": np.ones((1, 1))},
            "layers.0.weight is missing: it has layers up to 1",
        ),
        (
            {"layers.0.weight": np.ones((1, 1)), "layers.9999.bias": np.ones(1)},
            "layers.1.weight is missing: it has layers up to 9999",
        ),
        (
            {"layers.0.weight": np.ones((1, 1)), "layers.10000.bias": np.ones(1)},
            "it must have at most 10000 layers, got layers.10000.bias",
        ),
        (
            {"layers.0.weight": np.ones((1, 1)), "layers.999999999.bias": np.ones(1)},
            "it must have at most 10000 layers, got layers.999999999.bias",
        ),
        (without("layers.0.gate.u"), "layers.0.gate.u is missing"),
        (without("layers.0.gate.v"), "layers.0.gate.v is missing"),
        (without("layers.0.gate.bias"), "layers.0.gate.bias is missing"),
        (
            plain_arrays() | {"layers.0.gate.range": np.zeros((2, 2))},
            "layers.0.gate.u is missing",
        ),
        (without("layers.0.quantization.scale"), "layers.0.quantization.scale is missing"),
        (without("layers.1.quantization.offset"), "layers.1.quantization.offset is missing"),
        (without("probe.x"), "probe.x is missing"),
        (without("probe.y"), "probe.y is missing"),
        (
            full_arrays() | {"layers.0.wieght": np.ones(1)},
            f"unknown key 'layers.0.wieght'; {ALL_KEYS}",
        ),
        (
            full_arrays() | {"layers.00.bias": np.ones(1)},
            f"unknown key 'layers.00.bias'; {ALL_KEYS}",
        ),
        (
            full_arrays() | {"layers.-1.bias": np.ones(1)},
            f"unknown key 'layers.-1.bias'; {ALL_KEYS}",
        ),
        (full_arrays() | {"layers.٣.bias": np.ones(1)}, f"unknown key 'layers.٣.bias'; {ALL_KEYS}"),
        (
            full_arrays() | {"layers.0.bias\n": np.ones(1)},
            f"unknown key 'layers.0.bias\\n'; {ALL_KEYS}",
        ),
        (full_arrays() | {"layers.0.gate": np.ones(1)}, f"unknown key 'layers.0.gate'; {ALL_KEYS}"),
        (full_arrays() | {"file": np.ones(1)}, f"unknown key 'file'; {ALL_KEYS}"),
        (
            full_arrays() | {"layers.0.weight": np.ones(3)},
            "layers.0.weight must have shape (out, in), got (3,)",
        ),
        (
            full_arrays() | {"layers.0.bias": np.ones(5)},
            "layers.0.bias must have shape (3,), got (5,)",
        ),
        (
            full_arrays() | {"layers.0.bias": np.ones((3, 1))},
            "layers.0.bias must have shape (out,), got (3, 1)",
        ),
        (
            full_arrays() | {"layers.0.gate.v": np.ones((3, 3))},
            "layers.0.gate.v must have shape (2, 3), got (3, 3)",
        ),
        (
            full_arrays() | {"layers.0.gate.u": np.ones((5, 2))},
            "layers.0.gate.u must have shape (4, 2), got (5, 2)",
        ),
        (
            full_arrays() | {"layers.0.gate.bias": np.ones(2)},
            "layers.0.gate.bias must have shape (3,), got (2,)",
        ),
        (
            full_arrays() | {"input.scale": np.ones((4, 1))},
            "input.scale must have shape () or (d,), got (4, 1)",
        ),
        (
            full_arrays() | {"probe.x": np.ones((5, 3))},
            "probe.x must have shape (5, 4), got (5, 3)",
        ),
        (
            full_arrays() | {"probe.y": np.ones((4, 2))},
            "probe.y must have shape (5, 2), got (4, 2)",
        ),
        (
            full_arrays() | {"probe.y": np.ones((5, 3))},
            "probe.y must have shape (5, 2), got (5, 3)",
        ),
        (
            full_arrays() | {"layers.0.orders": np.arange(3)},
            f"unknown key 'layers.0.orders'; {ALL_KEYS}",
        ),
        (full_arrays() | {"order": np.arange(3)}, f"unknown key 'order'; {ALL_KEYS}"),
        (full_arrays() | {"input.low": np.zeros(1)}, f"unknown key 'input.low'; {ALL_KEYS}"),
        (
            full_arrays() | {"layers.0.quantization": np.ones(1)},
            f"unknown key 'layers.0.quantization'; {ALL_KEYS}",
        ),
        (
            full_arrays() | {"layers.0.quantization.zero": np.ones(1)},
            f"unknown key 'layers.0.quantization.zero'; {ALL_KEYS}",
        ),
        (
            full_arrays() | {"quantization.scale": np.ones(1)},
            f"unknown key 'quantization.scale'; {ALL_KEYS}",
        ),
        (
            full_arrays() | {"layers.0.range": np.zeros((2, 2))},
            f"unknown key 'layers.0.range'; {ALL_KEYS}",
        ),
        (full_arrays() | {"layers.2.kept_units": np.arange(3)}, "layers.2.weight is missing"),
        (
            {"layers.0.weight": np.ones((2, 2)), "layers.0.kept_units": np.arange(2)},
            f"layers[0].kept_units must be None: {LAST}",
        ),
        (
            full_arrays() | {"layers.1.kept_units": np.arange(2)},
            f"layers[1].kept_units must be None: {LAST}",
        ),
    ],
)
def test_keys(path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    assert refused(write(path, arrays)) == message


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (np.array([0.0, 1.0]), "be an array of integers, got dtype float64"),
        (np.array([0, 1], np.float16), "be an array of integers, got dtype float16"),
        (np.array([True, False, True]), "be an array of integers, got dtype bool"),
        (np.array(0), "have shape (k,) with k > 0, got ()"),
        (np.array([[0, 1]]), "have shape (k,) with k > 0, got (1, 2)"),
        (np.zeros((1 << 20, 0), np.int32), "have shape (k,) with k > 0, got (1048576, 0)"),
        (np.zeros(0, np.int32), "have shape (k,) with k > 0, got (0,)"),
        (np.array([0, 3]), "name units from 0 to 2, got 3"),
        (np.array([-1, 0]), "name units from 0 to 2, got -1"),
        (np.array([0, 1 << 32]), "name units from 0 to 2, got 4294967296"),
        (np.array([0, -(2**63)]), "name units from 0 to 2, got -9223372036854775808"),
        (np.array([2**64 - 1], np.uint64), "name units from 0 to 2, got 18446744073709551615"),
        (np.arange(4), "name units from 0 to 2, got 3"),
        (np.array([1, 0, 1]), "name distinct units, got 1 twice"),
        (np.zeros(1 << 20, np.int8), "name distinct units, got 0 twice"),
    ],
)
def test_orders(path: Path, order: np.ndarray, message: str) -> None:
    arrays = full_arrays() | {"layers.0.kept_units": order}
    assert refused(write(path, arrays)) == f"layers.0.kept_units must {message}"


@pytest.mark.parametrize("dtype", [np.complex64, "U3", "M8[s]", "O"])
def test_orders_of_other_kinds(npz: Path, dtype: Any) -> None:
    message = refused(write(npz, full_arrays() | {"layers.0.kept_units": np.zeros(2, dtype)}))
    assert message.startswith("layers.0.kept_units ")


@pytest.mark.parametrize("name", ["identity", "leaky_relu", "tanh", "sigmoid", "gelu"])
def test_an_order_may_leave_out_hard_zeros_alone(path: Path, name: str) -> None:
    changed = header(activations=[name, "identity"])
    assert refused(write(path, full_arrays(), changed)) == (
        f"layers.0.kept_units must have all 3 units for {name}, which has no hard zero, got 2"
    )
    arrays = full_arrays() | {"layers.0.kept_units": np.array([2, 0, 1])}
    order = load(write(path, arrays, changed)).layers[0].kept_units
    assert order is not None
    assert order.tolist() == [2, 0, 1]


def test_a_softmax_has_no_order(path: Path) -> None:
    arrays = full_arrays() | {"layers.0.kept_units": np.arange(3)}
    assert refused(write(path, arrays, header(activations=["softmax", "identity"]))) == (
        "layers.0.kept_units must be None for softmax, got 3 units"
    )


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (np.array(1.0), "have shape (2,) or (2, d), got ()"),
        (np.zeros(0), "have shape (2,) or (2, d), got (0,)"),
        (np.zeros(3), "have shape (2,) or (2, d), got (3,)"),
        (np.zeros((1, 4)), "have shape (2,) or (2, d), got (1, 4)"),
        (np.zeros((4, 2)), "have shape (2,) or (2, d), got (4, 2)"),
        (np.array([math.nan, 1]), "be finite, got nan"),
        (np.array([0, math.inf], np.float32), "be finite, got inf"),
        (np.array([[0.0, -math.inf], [1.0, 1.0]]), "be finite, got -inf"),
        (np.array([2.0, 1.0]), "have low <= high, got 2.0 > 1.0"),
        (np.array([[0, 5, 0, 7], [1, 4, 1, 6]]), "have low <= high, got 5.0 > 4.0"),
    ],
)
def test_ranges(path: Path, bounds: np.ndarray, message: str) -> None:
    arrays = full_arrays() | {"input.range": bounds}
    assert refused(write(path, arrays)) == f"input.range must {message}"


def test_ranges_beyond_float32(path: Path) -> None:
    arrays = full_arrays() | {"input.range": np.array([[0.0] * 4, [0, 1e300, 0, 0]])}
    assert refused(write(path, arrays)) == "input.range[1] must fit float32, got 1e+300 at index 1"


@pytest.mark.parametrize("width", [0, 1, 3, 5])
def test_ranges_of_other_widths(path: Path, width: int) -> None:
    arrays = full_arrays() | {"input.range": np.zeros((2, width))}
    expected = f"input_range must have shape (2,) or (2, 4), got (2, {width})"
    assert refused(write(path, arrays)) == expected


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (np.array(1.0), "have shape (2, rank), got ()"),
        (np.zeros(2), "have shape (2, rank), got (2,)"),
        (np.zeros((2, 0)), "have shape (2, 2), got (2, 0)"),
        (np.zeros((2, 1)), "have shape (2, 2), got (2, 1)"),
        (np.zeros((2, 3)), "have shape (2, 2), got (2, 3)"),
        (np.zeros((3, 2)), "have shape (2, 2), got (3, 2)"),
        (np.array([[0, math.nan], [1, 1]]), "be finite, got nan"),
        (np.array([[-math.inf, 0], [1, 1]], np.float32), "be finite, got -inf"),
        (np.array([[0.0, 0.5], [1.0, 0.25]]), "have low <= high, got 0.5 > 0.25"),
        (np.array([[0.0, 0.0], [1.0, 1e39]]), "fit float32, got 1e+39 at index (1, 1)"),
    ],
)
def test_gate_ranges(path: Path, bounds: np.ndarray, message: str) -> None:
    arrays = full_arrays() | {"layers.0.gate.range": bounds}
    assert refused(write(path, arrays)) == f"layers.0.gate.range must {message}"


GOOD_SCALE = "be above 0, and it and 1 / scale finite, got"


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("scale", np.array(0.0), f"{GOOD_SCALE} 0.0"),
        ("scale", np.array(-1.0), f"{GOOD_SCALE} -1.0"),
        ("scale", np.array(math.nan), f"{GOOD_SCALE} nan"),
        ("scale", np.array(math.inf), f"{GOOD_SCALE} inf"),
        ("scale", np.float32([1, 1, 2**-130, 1]), f"{GOOD_SCALE} {2**-130}"),
        ("scale", np.array(1e-50), f"{GOOD_SCALE} 0.0"),
        ("scale", np.array(1e39), "fit float32, got 1e+39 at index ()"),
        ("scale", np.ones((4, 1)), "have shape () or (d,), got (4, 1)"),
        ("offset", np.array(math.nan), "be finite, got nan"),
        ("offset", np.array([0, -math.inf, 0, 0]), "be finite, got -inf"),
        ("offset", np.array([0, 0, 0, 1e39]), "fit float32, got 1e+39 at index 3"),
        ("offset", np.zeros((1, 4)), "have shape () or (d,), got (1, 4)"),
        ("offset", np.zeros(3), "have shape (4,), got (3,)"),
        ("offset", np.zeros(0), "have shape (4,), got (0,)"),
    ],
)
def test_quantizations(path: Path, part: str, value: np.ndarray, message: str) -> None:
    key = f"layers.0.quantization.{part}"
    assert refused(write(path, full_arrays() | {key: value})) == f"{key} must {message}"


@pytest.mark.parametrize("width", [0, 1, 3, 5])
def test_quantizations_of_other_widths(path: Path, width: int) -> None:
    arrays = full_arrays() | {
        "layers.0.quantization.scale": np.ones(width),
        "layers.0.quantization.offset": np.zeros(width),
    }
    expected = f"layers.0.quantization.scale must have shape () or (4,), got ({width},)"
    assert refused(write(path, arrays)) == expected


def test_later_layers_have_a_scale_for_each_input_and_one_offset(path: Path) -> None:
    arrays = full_arrays() | {"layers.1.quantization.scale": np.array([1.0, 0.5, 2.0])}
    quantization = load(write(path, arrays)).layers[1].quantization
    assert quantization is not None
    np.testing.assert_array_equal(quantization.scale, np.float32([1, 0.5, 2]))
    arrays = full_arrays() | {"layers.1.quantization.offset": np.ones(3)}
    assert refused(write(path, arrays)) == (
        "layers[1].quantization.offset must have shape (), got (3,): only the first layer has one "
        "for each input"
    )


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8", "u1", "?"])
def test_quantizations_of_any_real_dtype_become_float32(path: Path, dtype: str) -> None:
    keys = [f"layers.0.quantization.{part}" for part in ("scale", "offset")]
    arrays = full_arrays() | dict.fromkeys(keys, np.ones(4, dtype))
    quantization = load(write(path, arrays)).layers[0].quantization
    assert quantization is not None
    for array in (quantization.scale, quantization.offset):
        np.testing.assert_array_equal(array, np.ones(4, np.float32), strict=True)
        assert not array.flags.writeable


@pytest.mark.parametrize(
    ("missing", "plan", "message"),
    [
        (("layers.0.quantization.scale", "layers.0.quantization.offset"), {}, "layers[0] has no"),
        (
            ("layers.1.quantization.scale", "layers.1.quantization.offset"),
            {"precisions": ["f32", "int8"]},
            "layers[1] has no",
        ),
    ],
)
def test_a_plan_in_int8_needs_quantizations(
    path: Path, missing: tuple[str, ...], plan: dict[str, Any], message: str
) -> None:
    changed = header(plans=[full_header()["plans"][0] | plan])
    layer = message.partition(" ")[0]
    assert refused(write(path, without(*missing), changed)) == (
        f"plan[0].precisions[{layer[7:-1]}] must be f32, since {layer} has no quantization"
    )


def test_a_plan_of_a_gate_in_int8_needs_its_range(path: Path) -> None:
    arrays = without("layers.0.gate.range")
    assert refused(write(path, arrays, full_header())) == (
        "plan[0].precisions[0] must be f32, since the gate of layers[0] has no range"
    )
    skips = [PLAN | {"strategies": ["skip", "skip"], "precisions": ["int8", "int8"]}]
    gate = load(write(path, arrays, header(plans=skips))).layers[0].gate
    assert gate is not None and gate.range is None


@pytest.mark.parametrize(
    ("key", "descr"),
    [
        ("layers.0.weight", "'<f4'"),
        ("layers.0.kept_units", "'<i4'"),
        ("layers.0.gate.range", "'<f4'"),
        ("layers.0.quantization.scale", "'<f4'"),
        ("layers.0.quantization.offset", "'<f4'"),
        ("input.range", "'<f4'"),
    ],
)
def test_arrays_of_no_bytes_and_many_rows(npz: Path, key: str, descr: str) -> None:
    """An empty array may state two billion rows, for which nothing may be allocated."""
    members = {
        "layers.0.weight": npy("'<f4'", "(2, 2)", bytes(16)),
        "layers.0.gate.u": npy("'<f4'", "(2, 1)", bytes(8)),
        "layers.0.gate.v": npy("'<f4'", "(1, 2)", bytes(8)),
        "layers.0.gate.bias": npy("'<f4'", "(2,)", bytes(8)),
    }
    members[key] = npy(descr, "(2147483647, 0)", b"")
    write_zip(npz, VERSION_1 | {f"{name}.npy": content for name, content in members.items()})
    with bounded_memory(MIB):
        assert refused(npz).startswith(f"{key} ")


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, "U3", "M8[s]"])
def test_arrays_of_other_kinds(npz: Path, dtype: Any) -> None:
    message = refused(write(npz, {"layers.0.weight": np.zeros((1, 1), dtype)}))
    expected = f"layers.0.weight must be an array of real numbers, got dtype {np.dtype(dtype)}"
    assert message == expected


# --- the JSON -----------------------------------------------------------------------------------


def header(**changes: Any) -> dict[str, Any]:
    return full_header() | changes


@pytest.mark.parametrize("version", [3, 4, 10**20])
def test_future_version(path: Path, version: int) -> None:
    """The version is checked before everything that a newer format may have changed."""
    arrays = full_arrays() | {"layers.0.weight_int8": np.zeros((1, 1, 1))}
    future = {"format_version": version, "new": 1}
    assert refused(write(path, arrays, future)) == (
        f"format version {version} is newer than this lrgate reads (2); upgrade lrgate"
    )


KEYS = (
    "checksum, format_version, activations, ranks, task, classes, plans, metadata, machine, "
    "report, probe_plans, least_margin"
)
MACHINE_FIELDS = "isa, cpu, l1d, l2, l3"
PLAN = {"rows": 1, "strategies": ["gate", "skip"], "precisions": ["f32", "f32"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 0}, "format_version must be an integer of at least 1, got 0"),
        ({"format_version": True}, "format_version must be an integer of at least 1, got true"),
        ({"format_version": "1"}, 'format_version must be an integer of at least 1, got "1"'),
        ({"format_version": 1.0}, "format_version must be an integer of at least 1, got 1.0"),
        ({"format_version": None}, "format_version must be an integer of at least 1, got null"),
        ({"activations": "relu"}, 'activations must be a list, got "relu"'),
        ({"activations": ["relu"]}, "activations must have 2 entries, one per layer, got 1"),
        (
            {"activations": ["relu", "swish"]},
            "activations[1]: activation must be one of identity, relu, clipped_relu, "
            "thresholded_relu, squared_relu, leaky_relu, prelu, hard_tanh, hard_sigmoid, "
            "hard_swish, tanh, sigmoid, gelu, gelu_tanh, silu, mish, softplus, exp, elu, selu, "
            "softmax, log_softmax, got 'swish'",
        ),
        (
            {"activations": ["clipped_relu", "identity"]},
            'activations[0]: clipped_relu needs its upper: ("clipped_relu", upper)',
        ),
        (
            {"activations": [{"name": "clipped_relu", "upper": -1}, "identity"]},
            "activations[0]: upper of clipped_relu must be finite and above 0, got -1.0",
        ),
        (
            {"activations": [{"name": "clipped_relu", "upper": 10**400}, "identity"]},
            "activations[0]: upper of clipped_relu must be finite and above 0, got inf",
        ),
        (
            {"activations": [7, "identity"]},
            "activations[0] must be a name, a tuple of a name and parameters, or a mapping with a "
            "name, got 7",
        ),
        (
            {"activations": [{"name": ["relu"]}, "identity"]},
            "activations[0]: activation name must be a str, got list",
        ),
        ({"ranks": [2]}, "ranks must have 2 entries, one per layer, got 1"),
        ({"ranks": [3, None]}, "ranks[0] must be 2, the rank of layers.0.gate, got 3"),
        ({"ranks": [2.0, None]}, "ranks[0] must be 2, the rank of layers.0.gate, got 2.0"),
        ({"ranks": [2, 1]}, "ranks[1] must be null, the rank of layers.1.gate, got 1"),
        ({"ranks": {}}, "ranks must be a list, got {}"),
        ({"task": 3}, "task must be a string, got 3"),
        ({"classes": ["cat", "dog"]}, 'classes must be an object, got ["cat", "dog"]'),
        (
            {"classes": {"kind": "str"}},
            'classes must be an object of kind, values, got {"kind": "str"}',
        ),
        (
            {"classes": {"kind": "bytes", "values": []}},
            'classes.kind must be one of int, str, bool, float, got "bytes"',
        ),
        (
            {"classes": {"kind": [], "values": []}},
            "classes.kind must be one of int, str, bool, float, got []",
        ),
        ({"classes": {"kind": "int", "values": 3}}, "classes.values must be a list, got 3"),
        (
            {"classes": {"kind": "int", "values": [1, "2"]}},
            'classes.values[1] must be of kind int, got "2"',
        ),
        (
            {"classes": {"kind": "int", "values": [1, True]}},
            "classes.values[1] must be of kind int, got true",
        ),
        (
            {"classes": {"kind": "int", "values": [2**64, 1]}},
            "classes.values must fit int64",
        ),
        (
            {"classes": {"kind": "str", "values": ["a", "a"]}},
            "classes must be distinct, got 'a' twice",
        ),
        ({"probe_plans": {}}, "probe_plans must be a list, got {}"),
        ({"least_margin": "1"}, 'least_margin must be a number, got "1"'),
        ({"least_margin": True}, "least_margin must be a number, got true"),
        ({"least_margin": 1 << 60}, f"least_margin must be a number, got {1 << 60}"),
        ({"plans": {}}, "plans must be a list, got {}"),
        ({"plans": [3]}, "plans[0] must be an object of rows, strategies, precisions, got 3"),
        (
            {"plans": [PLAN | {"rows": 0}]},
            "plans[0].rows must be from 1 to 2147483647, got 0",
        ),
        ({"plans": [PLAN | {"rows": "1"}]}, "plans[0].rows must be an integer, got '1'"),
        (
            {"plans": [PLAN | {"strategies": ["gate", "fast"]}]},
            "plans[0].strategies[1] must be one of dense, skip, gate, factor, "
            "skip-factor, factor-gate, skip-factor-gate, got 'fast'",
        ),
        (
            {"plans": [PLAN | {"precisions": [["f32"], "f32"]}]},
            "plans[0].precisions[0] must be one of f32, int8, got ['f32']",
        ),
        (
            {"plans": [PLAN | {"precisions": ["f32", "int4"]}]},
            "plans[0].precisions[1] must be one of f32, int8, got 'int4'",
        ),
        (
            {"plans": [PLAN | {"strategies": "gate"}]},
            "plans[0].strategies must be a tuple of str, got 'gate'",
        ),
        (
            {"plans": [PLAN | {"least_margin": None}]},
            "plans[0].least_margin must be a number, got null",
        ),
        (
            {"plans": [PLAN | {"least_margin": "1"}]},
            "plans[0].least_margin must be a number, got '1'",
        ),
        (
            {"plans": [PLAN | {"least_margin": -1}]},
            "plans[0].least_margin must be finite and at least 0, got -1",
        ),
        (
            {"plans": [PLAN | {"int8_margin": None}]},
            "plans[0].int8_margin must be a number, got null",
        ),
        (
            {"plans": [PLAN | {"int8_margin": -1}]},
            "plans[0].int8_margin must be finite and at least 0, got -1",
        ),
        ({"metadata": []}, "metadata must be an object, got []"),
        ({"report": []}, "report must be an object, got []"),
        ({"report": "fast"}, 'report must be an object, got "fast"'),
        ({"machine": "avx2"}, 'machine must be an object, got "avx2"'),
        ({"machine": {}}, f"machine must have the keys {MACHINE_FIELDS}, got []"),
        (
            {"machine": {"isa": "avx2", "cpu": None}},
            f"machine must have the keys {MACHINE_FIELDS}, got ['isa', 'cpu']",
        ),
        (
            {"machine": MACHINE | {"l4": 1}},
            f"machine must have the keys {MACHINE_FIELDS}, got "
            "['isa', 'cpu', 'l1d', 'l2', 'l3', 'l4']",
        ),
        (
            {"machine": MACHINE | {"l2": 1.0}},
            "machine['l2'] must be a str, an int or None, got float",
        ),
        (
            {"machine": MACHINE | {"l2": True}},
            "machine['l2'] must be a str, an int or None, got bool",
        ),
        (
            {"machine": MACHINE | {"cpu": ["a"]}},
            "machine['cpu'] must be a str, an int or None, got list",
        ),
        (
            {"machine": MACHINE | {"cpu": "x" * 201}},
            "machine['cpu'] must have at most 200 characters, got 201",
        ),
        ({"machine": MACHINE | {"l3": -1}}, "machine['l3'] must be from 0 to 2**63 - 1, got -1"),
        (
            {"machine": MACHINE | {"l1d": 2**63}},
            "machine['l1d'] must be from 0 to 2**63 - 1, got 9223372036854775808",
        ),
    ],
)
def test_header_values(path: Path, changes: dict[str, Any], message: str) -> None:
    assert refused(write(path, full_arrays(), header(**changes))) == f"lrgate.{message}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, f"unknown key lrgate.extra; expected {KEYS}"),
        (
            {"task": "ranking"},
            "task must be one of classification, regression, multilabel or None, got 'ranking'",
        ),
        ({"task": "regression"}, 'classes must be None if task is "regression"'),
        (
            {"classes": {"kind": "int", "values": [0, 1, 2]}},
            "classes must have shape (2,) for 2 outputs, got (3,)",
        ),
        ({"least_margin": -0.5}, "least_margin must be finite and at least 0, got -0.5"),
        ({"least_margin": 1e39}, "least_margin must be finite and at least 0, got 1e+39"),
        (
            {"task": "regression", "classes": None, "least_margin": 0.5},
            "least_margin must be 0 for a network without labels, got 0.5 and task 'regression'",
        ),
        ({"plans": []}, "plan must have at least one batch size, got 0"),
        (
            {"plans": [{"rows": 1, "strategies": ["skip"], "precisions": ["f32"]}]},
            "plan[0].strategies must have 2 entries, one per layer, got 1",
        ),
    ],
)
def test_header_values_that_do_not_fit(path: Path, changes: dict[str, Any], message: str) -> None:
    assert refused(write(path, full_arrays(), header(**changes))) == message


PROBE_PLAN = {"strategies": ["gate", "dense"], "precisions": ["int8", "f32"], "tolerance": 1e-4}


@pytest.mark.parametrize(
    ("plans", "outputs", "message"),
    [
        ([3], 5, "lrgate.probe_plans[0] must be an object of strategies, precisions, tolerance"),
        ([PROBE_PLAN | {"rows": 1}], 5, "lrgate.probe_plans[0] must be an object of "),
        ([PROBE_PLAN] * 2, 5, "probe.planned must have shape (10, 2) for 2 plans, got (5, 2)"),
        ([PROBE_PLAN], 10, "probe.planned must have shape (5, 2) for 1 plans, got (10, 2)"),
        ([PROBE_PLAN], None, "probe.planned is missing"),
        ([], 5, "lrgate.probe_plans is missing, though the file has probe.planned"),
        (None, 5, "lrgate.probe_plans is missing, though the file has probe.planned"),
        (
            [PROBE_PLAN | {"strategies": ["gate", "skip"]}],
            5,
            "lrgate.probe_plans[0].strategies[1] must be dense, got 'skip'",
        ),
        (
            [PROBE_PLAN | {"precisions": ["int8", "int4"]}],
            5,
            "lrgate.probe_plans[0].precisions[1] must be one of f32, int8, got 'int4'",
        ),
        (
            [PROBE_PLAN | {"tolerance": "1"}],
            5,
            "lrgate.probe_plans[0].tolerance must be a number, got '1'",
        ),
        (
            [PROBE_PLAN | {"tolerance": True}],
            5,
            "lrgate.probe_plans[0].tolerance must be a number, got True",
        ),
        (
            [PROBE_PLAN | {"tolerance": -1}],
            5,
            "lrgate.probe_plans[0].tolerance must be finite and at least 0, got -1",
        ),
        (
            [{"strategies": ["gate"], "precisions": ["f32"], "tolerance": 0}],
            5,
            "probe.planned[0].strategies must have 2 entries, one per layer, got 1",
        ),
        (
            [PROBE_PLAN | {"strategies": ["gate", "gate"]}],
            5,
            "probe.planned[0].strategies[1] must be dense, since layers[1] has no gate",
        ),
    ],
)
def test_outputs_of_plans_that_do_not_fit(
    path: Path, plans: Any, outputs: int | None, message: str
) -> None:
    good = full_arrays() | {"probe.planned": np.ones((5, 2))}
    write(path, good, header(probe_plans=[PROBE_PLAN]))
    probe = load(path).probe
    assert probe is not None and probe.planned is not None and len(probe.planned) == 1
    arrays = full_arrays()
    if outputs is not None:
        arrays["probe.planned"] = np.ones((outputs, 2))
    assert refused(write(path, arrays, header(probe_plans=plans))).startswith(message)


def test_outputs_of_plans_need_a_probe(path: Path) -> None:
    for key in ("probe.x", "probe.y"):
        arrays = without("probe.x", "probe.y") | {"probe.planned": np.ones((5, 2))}
        assert refused(write(path, arrays, header())) == "probe.x is missing"
        arrays = without(key)
        message = f"{key} is missing"
        assert refused(write(path, arrays, header(probe_plans=[PROBE_PLAN]))) == message


@pytest.mark.parametrize("width", [3, 4])
@pytest.mark.parametrize("i", [0, 1])
def test_scales_by_input_are_the_models_to_judge(path: Path, i: int, width: int) -> None:
    """Files may hold a scale of shape () or (in,) for any layer; `Model` rejects invalid ones."""
    layers = list(full_model().layers)
    scale = np.linspace(1, 2, width)
    arrays = full_arrays() | {f"layers.{i}.quantization.scale": scale.astype(np.float32)}
    try:
        quantization = Quantization(scale, arrays[f"layers.{i}.quantization.offset"])
        layers[i] = replace(layers[i], quantization=quantization)
        model = replace(full_model(), layers=tuple(layers))
    except ValueError as error:
        assert refused(write(path, arrays, full_header())).endswith(str(error))
    else:
        assert_same(load(write(path, arrays, full_header())), model)
        save(path, model)
        assert_same(load(path), model)


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel", "no task"])
def test_tasks_are_the_models_to_judge(path: Path, task: str) -> None:
    layers = full_model().layers
    write(path, plain_arrays(), {"format_version": 1, "task": task})
    try:
        Model(layers, task=task)
    except ValueError as error:
        assert refused(path) == str(error)
    else:
        assert load(path).task == task


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lrgate is not valid JSON: Expecting value"),
        ("{", "lrgate is not valid JSON: Expecting property name"),
        ("[1]", "lrgate must be a JSON object, got [1]"),
        ("null", "lrgate must be a JSON object, got null"),
        ("{}", "lrgate.format_version is missing"),
        ('{"format_version": NaN}', "lrgate is not valid JSON: NaN is not a JSON number"),
        (
            '{"format_version": 1, "metadata": {"a": -Infinity}}',
            "lrgate is not valid JSON: -Infinity is not a JSON number",
        ),
        (
            '{"format_version": 1, "task": null, "task": "regression"}',
            "lrgate has the key 'task' twice in one object",
        ),
        ("[" * 100_000, "lrgate is not valid JSON: "),
        ('{"a":' * 100_000, "lrgate is not valid JSON: "),
        ('{"format_version": ' + "9" * 5000 + "}", "lrgate is not valid JSON: "),
        (
            '{"format_version": 1, "metadata": {"a": ' + "[" * 200 + "]" * 200 + "}}",
            "metadata must be nested at most 100 deep",
        ),
        ('{"format_version": 1, "metadata": {"a": 1e999}}', "metadata['a'] must be a JSON value"),
        (
            '{"format_version": 1, "report": {"a": ' + "[" * 200 + "]" * 200 + "}}",
            "report must be nested at most 100 deep",
        ),
        ('{"format_version": 1, "report": {"a": 1e999}}', "report['a'] must be a JSON value"),
    ],
)
def test_header_text(path: Path, text: str, message: str) -> None:
    assert refused(write(path, plain_arrays(), text)).startswith(message)


def test_header_of_many_characters(path: Path) -> None:
    text = '{"format_version": 1, "metadata": {"a": "' + "x" * (5 * MIB) + '"}}'
    assert "lrgate" in refused(write(path, plain_arrays(), text))


def test_labels_that_pad_each_other(path: Path) -> None:
    """With one long and many short labels, an array of str would take 160 GB."""
    labels = ["x" * 200_000, *map(str, range(200_000))]
    text = json.dumps(header(classes={"kind": "str", "values": labels}))
    write(path, full_arrays(), text)
    with bounded_memory(200 * MIB):
        assert refused(path).startswith("lrgate.classes.values is too large: 160000")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), "lrgate must be a 0-d array of text, got dtype float64 of shape (3,)"),
        (np.array(["{}"]), "lrgate must be a 0-d array of text, got dtype <U2 of shape (1,)"),
        (np.array(b"{}"), "lrgate must be a 0-d array of text, got dtype |S2 of shape ()"),
    ],
)
def test_header_that_is_no_text(npz: Path, array: np.ndarray, message: str) -> None:
    assert refused(write(npz, plain_arrays() | {"lrgate": array})) == message


@pytest.mark.parametrize("code", [0xD800, 0x110000, 0xFFFFFFFF])
def test_header_of_impossible_characters(npz: Path, code: int) -> None:
    write_zip(npz, {"lrgate.npy": npy("'<U1'", "()", struct.pack("<I", code))})
    assert refused(npz).startswith("lrgate is not valid text: ")


def test_header_of_the_other_byte_order(npz: Path) -> None:
    text = json.dumps(full_header())
    array = np.array(text).astype(f">U{len(text)}")
    assert_same(load(write(npz, full_arrays() | {"lrgate": array})), full_model())


def test_what_cannot_be_loaded_is_not_saved(path: Path) -> None:
    notes = {"notes": "x" * (5 * MIB)}
    message = r"^classes, metadata and report must take at most 4194304 char"
    for model in (Model((ONE,), metadata=notes), Model((ONE,), report=notes)):
        with pytest.raises(ValueError, match=message):
            save(path, model)
    assert not path.exists()


def test_more_bytes_than_are_read_back_are_not_saved(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Layer(np.ones((64, 256)), np.zeros(64), Activation("identity"))
    save(path, Model((ONE,)))
    before = path.read_bytes()
    monkeypatch.setattr(files, "MAX_BYTES", 64 * 256 * 4)
    with pytest.raises(ValueError, match=r"^model must take at most 65536 bytes in a file, got "):
        save(path, Model((layer,)))
    assert path.read_bytes() == before
    for limit in (2 << 16, 1 << 20):
        monkeypatch.setattr(files, "MAX_BYTES", limit)
        save(path, Model((layer,)))
        assert_same(load(path, max_bytes=limit), Model((layer,)))


# --- the model ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("relu", Activation("relu")),
        (("relu",), Activation("relu")),
        (("clipped_relu", 6), Activation("clipped_relu", 6.0)),
        (["thresholded_relu", np.float32(0.5)], Activation("thresholded_relu", 0.5)),
        ({"name": "leaky_relu"}, Activation("leaky_relu", 0.01)),
        ({"name": "leaky_relu", "slope": 0.2}, Activation("leaky_relu", 0.2)),
        (Activation("tanh"), Activation("tanh")),
    ],
)
def test_activation_forms(value: object, expected: Activation) -> None:
    parsed = Activation.parse(value)
    assert parsed == expected
    assert Activation.parse(parsed.to_json()) == parsed
    assert hash(parsed) == hash(expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (("relu", 1.0), "hidden: relu takes no parameter, got 1.0"),
        (("clipped_relu", 0), "hidden: upper of clipped_relu must be finite and above 0, got 0.0"),
        (("leaky_relu", math.nan), "hidden: slope of leaky_relu must be finite, got nan"),
        (
            ("thresholded_relu", 1e39),
            "hidden: threshold of thresholded_relu must be finite, got 1e+39",
        ),
        (("leaky_relu", "0.1"), "hidden: slope of leaky_relu must be a number, got '0.1'"),
        (("leaky_relu", True), "hidden: slope of leaky_relu must be a number, got True"),
        ({"upper": 6}, "hidden: a mapping needs the key 'name', got ['upper']"),
        ({"name": "relu", "upper": 6}, "hidden: relu has no upper"),
        ({"name": "clipped_relu", "max": 6}, "hidden: clipped_relu has no max"),
        (
            None,
            "hidden must be a name, a tuple of a name and parameters, or a mapping with a name, "
            "got None",
        ),
    ],
)
def test_bad_activations(value: object, message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as info:
        Activation.parse(value, "hidden")
    assert str(info.value) == message


RELU = Activation("relu")
ONE = Layer(np.ones((1, 1)), np.zeros(1), Activation("identity"))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: Layer(np.ones(3), np.ones(3), RELU),
            ValueError,
            "weight must have shape (out, in), got (3,)",
        ),
        (
            lambda: Layer(np.ones((3, 2), complex), np.ones(3), RELU),
            TypeError,
            "weight must be an array of real numbers, got dtype complex128",
        ),
        (
            lambda: Layer(np.ones((3, 2), object), np.ones(3), RELU),
            TypeError,
            "weight must be an array of real numbers, got dtype object",
        ),
        (
            lambda: Layer(np.ones((3, 2)), np.full(3, "1"), RELU),
            TypeError,
            "bias must be an array of real numbers, got dtype <U1",
        ),
        (
            lambda: Layer(np.ones((3, 2)), np.ones(4), RELU),
            ValueError,
            "bias must have shape (3,), got (4,)",
        ),
        (
            lambda: Layer(np.ones((1, 1)), np.array([-1e39]), RELU),
            ValueError,
            "bias must fit float32, got -1e+39 at index 0",
        ),
        (
            lambda: Layer(np.ones((3, 2)), np.ones(3), "relu"),  # type: ignore[arg-type]
            TypeError,
            "activation must be of type Activation, got str",
        ),
        (
            lambda: Layer(np.ones((3, 2)), np.ones(3), RELU, "gate"),  # type: ignore[arg-type]
            TypeError,
            "gate must be of type Gate, got str",
        ),
        (
            lambda: Layer(
                np.ones((3, 2)),
                np.ones(3),
                RELU,
                Gate(np.ones((2, 1)), np.ones((1, 4)), np.ones(4)),
            ),
            ValueError,
            "gate.v must have shape (1, 3), got (1, 4)",
        ),
        (
            lambda: Layer(np.ones((3, 2)), np.ones(3), RELU, None, [0, 1.5]),  # type: ignore[arg-type]
            TypeError,
            "kept_units must be an array of integers, got dtype float64",
        ),
        (
            lambda: Layer(np.ones((3, 2)), np.ones(3), RELU, None, [2**70]),  # type: ignore[arg-type]
            TypeError,
            "kept_units must be an array of integers, got dtype object",
        ),
        (
            lambda: Layer(np.ones((3, 2)), np.ones(3), RELU, None, []),  # type: ignore[arg-type]
            ValueError,
            "kept_units must have shape (k,) with k > 0, got (0,)",
        ),
        (
            lambda: Layer(np.ones((3, 2)), np.ones(3), RELU, None, np.array([2, 0, 2])),
            ValueError,
            "kept_units must name distinct units, got 2 twice",
        ),
        (
            lambda: Gate(np.ones((2, 1)), np.ones((2, 3)), np.ones(3)),
            ValueError,
            "v must have shape (1, 3), got (2, 3)",
        ),
        (
            lambda: Gate(np.ones((2, 1)), np.ones((1, 3)), np.ones(1)),
            ValueError,
            "bias must have shape (3,), got (1,)",
        ),
        (
            lambda: BatchPlan(1, ("skip", "skip"), ("f32",)),
            ValueError,
            "precisions must have 2 entries, one for each of strategies, got 1",
        ),
        (
            lambda: BatchPlan(1, ("skip",), ("int4",)),
            ValueError,
            "precisions[0] must be one of f32, int8, got 'int4'",
        ),
        (
            lambda: Gate(np.ones((2, 1)), np.ones((1, 3)), np.ones(3), np.zeros((2, 2))),
            ValueError,
            "range must have shape (2, 1), got (2, 2)",
        ),
        (
            lambda: Gate(np.ones((2, 1)), np.ones((1, 3)), np.ones(3), (0, 1)),  # type: ignore[arg-type]
            ValueError,
            "range must have shape (2, rank), got (2,)",
        ),
        (
            lambda: Gate(np.ones((2, 1)), np.ones((1, 3)), np.ones(3), "wide"),  # type: ignore[arg-type]
            TypeError,
            "range must be an array of real numbers, got dtype <U4",
        ),
        (
            lambda: Gate(np.ones((2, 1)), np.ones((1, 3)), np.ones(3), [[1], [0]]),  # type: ignore[arg-type]
            ValueError,
            "range must have low <= high, got 1.0 > 0.0",
        ),
        (
            lambda: Quantization(np.zeros(3), np.zeros(())),
            ValueError,
            f"scale must {GOOD_SCALE} 0.0",
        ),
        (
            lambda: Quantization(np.ones(3), np.zeros(2)),
            ValueError,
            "offset must have shape (3,), got (2,)",
        ),
        (
            lambda: Quantization("1", 0),  # type: ignore[arg-type]
            TypeError,
            "scale must be an array of real numbers, got dtype <U1",
        ),
        (
            lambda: replace(ONE, quantization=(1, 0)),  # type: ignore[arg-type]
            TypeError,
            "quantization must be of type Quantization, got tuple",
        ),
        (
            lambda: replace(ONE, quantization=Quantization(np.ones(2), np.zeros(()))),
            ValueError,
            "quantization.scale must have shape () or (1,), got (2,)",
        ),
        (
            lambda: Model((ONE,), plan=(BatchPlan(1, ("skip",), ("int8",)),)),
            ValueError,
            "plan[0].precisions[0] must be f32, since layers[0] has no quantization",
        ),
        (
            lambda: BatchPlan(True, ("skip",), ("f32",)),
            TypeError,
            "rows must be an integer, got True",
        ),
        (
            lambda: Probe(np.ones(3), np.ones((3, 1))),
            ValueError,
            "x must have shape (n, d), got (3,)",
        ),
        (
            lambda: Probe(np.ones((3, 2)), np.ones((3, 1)), 3),  # type: ignore[arg-type]
            TypeError,
            "planned must be a tuple or None, got int",
        ),
        (
            lambda: Probe(np.ones((3, 2)), np.ones((3, 1)), [3]),  # type: ignore[arg-type]
            TypeError,
            "planned[0] must be of type PlannedOutputs, got int",
        ),
        (
            lambda: Probe(
                np.ones((3, 2)),
                np.ones((3, 1)),
                (PlannedOutputs(("gate",), ("f32",), np.ones((3, 2)), 0),),
            ),
            ValueError,
            "planned[0].y must have shape (3, 1), got (3, 2)",
        ),
        (
            lambda: PlannedOutputs(("gate",), ("f32",), np.ones((3, 2)), math.inf),
            ValueError,
            "tolerance must be finite and at least 0, got inf",
        ),
        (
            lambda: PlannedOutputs(("gate",), ("f32", "f32"), np.ones((3, 2)), 0),
            ValueError,
            "precisions must have 1 entries, one for each of strategies, got 2",
        ),
        (
            lambda: Probe(np.ones((3, 2)), np.ones((2, 1))),
            ValueError,
            "y must have shape (3, 1), got (2, 1)",
        ),
        (lambda: Model(()), ValueError, "layers must have at least one layer, got 0"),
        (
            lambda: Model(ONE),  # type: ignore[arg-type]
            TypeError,
            "layers must be a tuple of Layer, got Layer",
        ),
        (
            lambda: Model((ONE, 3)),  # type: ignore[arg-type]
            TypeError,
            "layers[1] must be of type Layer, got int",
        ),
        (
            lambda: Model((ONE,), task="sorting"),
            ValueError,
            "task must be one of classification, regression, multilabel or None, got 'sorting'",
        ),
        (
            lambda: Model((ONE,), classes=np.arange(3)),
            ValueError,
            "classes must have shape (2,) for 1 output, got (3,)",
        ),
        (
            lambda: Model((ONE,), classes=["a", 1]),  # type: ignore[arg-type]
            TypeError,
            "classes must be all str, or all numbers within int64 or float64, got 1 at index 1",
        ),
        (
            lambda: Model((ONE,), classes=np.array([[1, 2]])),
            ValueError,
            "classes must have shape (k,), got (1, 2)",
        ),
        (
            lambda: Model((ONE,), classes=np.array([1, np.nan])),
            ValueError,
            "classes must be finite, got nan",
        ),
        (
            lambda: Model((ONE,), classes=np.array([1j, 2j])),
            TypeError,
            "classes must be int, str, bool or float, got dtype complex128",
        ),
        (
            lambda: Model((ONE,), classes=np.array([3, 3])),
            ValueError,
            "classes must be distinct, got 3 twice",
        ),
        (
            lambda: Model((ONE,), input_scale=np.ones((1, 1))),
            ValueError,
            "input_scale must have shape () or (d,), got (1, 1)",
        ),
        (
            lambda: Model((ONE,), input_shift=np.array("a")),
            TypeError,
            "input_shift must be an array of real numbers, got dtype <U1",
        ),
        (
            lambda: Model((ONE,), plan=(BatchPlan(1, ("skip",) * 2, ("f32",) * 2),)),
            ValueError,
            "plan[0].strategies must have 1 entries, one per layer, got 2",
        ),
        (
            lambda: Model((ONE,), probe=Probe(np.ones((2, 3)), np.ones((2, 1)))),
            ValueError,
            "probe.x must have shape (2, 1), got (2, 3)",
        ),
        (
            lambda: Model((ONE,), metadata=[]),  # type: ignore[arg-type]
            TypeError,
            "metadata must be a dict, got list",
        ),
        (
            lambda: Model((ONE,), metadata={"a": [{1: 2}]}),
            TypeError,
            "metadata['a'][0] must have str keys, got 1",
        ),
        (
            lambda: Model((ONE,), metadata={"a": {1, 2}}),
            TypeError,
            "metadata['a'] must be a JSON value, got set",
        ),
        (
            lambda: Model((ONE,), metadata={"a": math.inf}),
            ValueError,
            "metadata['a'] must be a JSON value, got inf",
        ),
        (
            lambda: Model((ONE,), report={"a": {1, 2}}),
            TypeError,
            "report['a'] must be a JSON value, got set",
        ),
        (
            lambda: Model((ONE,), report=[]),  # type: ignore[arg-type]
            TypeError,
            "report must be a dict, got list",
        ),
        (
            lambda: Model((replace(ONE, kept_units=np.array([0])),)),
            ValueError,
            f"layers[0].kept_units must be None: {LAST}",
        ),
        (
            lambda: Model((ONE,), machine="avx2"),  # type: ignore[arg-type]
            TypeError,
            "machine must be a dict, got str",
        ),
        (
            lambda: Model((ONE,), machine=MACHINE | {"cpu": "x" * 201}),
            ValueError,
            "machine['cpu'] must have at most 200 characters, got 201",
        ),
        (
            lambda: Model((ONE,), input_range=3.0),  # type: ignore[arg-type]
            TypeError,
            "input_range must be a pair (low, high), got 3.0",
        ),
        (
            lambda: Model((ONE,), input_range=[1, 2, 3]),  # type: ignore[arg-type]
            TypeError,
            "input_range must be a pair (low, high), got [1, 2, 3]",
        ),
        (
            lambda: Model((ONE,), input_range=("a", 1)),  # type: ignore[arg-type]
            TypeError,
            "input_range[0] must be an array of real numbers, got dtype <U1",
        ),
        (
            lambda: Model((ONE,), input_range=(0, [[1.0]])),  # type: ignore[arg-type]
            ValueError,
            "input_range[1] must have shape () or (d,), got (1, 1)",
        ),
        (
            lambda: Model((ONE,), input_range=([0], [1, 2])),  # type: ignore[arg-type]
            ValueError,
            "input_range[1] must have shape () or (1,), got (2,)",
        ),
        (
            lambda: Model((ONE,), input_range=(0, [1, 2])),  # type: ignore[arg-type]
            ValueError,
            "input_range must have shape (2,) or (2, 1), got (2, 2)",
        ),
        (
            lambda: Model((ONE,), input_range=(0, math.nan)),  # type: ignore[arg-type]
            ValueError,
            "input_range must be finite, got nan",
        ),
        (
            lambda: Model((ONE,), input_range=(1, [0.5])),  # type: ignore[arg-type]
            ValueError,
            "input_range must have low <= high, got 1.0 > 0.5",
        ),
    ],
)
def test_bad_models(build: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as info:
        build()
    assert str(info.value) == message


def test_metadata_that_contains_itself() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    with pytest.raises(ValueError, match="nested at most 100 deep"):
        Model((ONE,), metadata=loop)


def test_ragged_weight() -> None:
    with pytest.raises(TypeError, match=r"^weight must be an array of real numbers: "):
        Layer([[1.0], [1.0, 2.0]], np.ones(2), RELU)  # type: ignore[arg-type]


def test_a_model_does_not_change() -> None:
    weight = np.ones((1, 2), np.float32)
    metadata = {"notes": ["one"]}
    order, bounds, machine = np.arange(1, dtype=np.int32), np.float32([0, 1]), dict(MACHINE)
    scale = np.ones(2, np.float32)
    model = Model(
        (Layer(weight, np.zeros(1), RELU, None, order, Quantization(scale, np.zeros(2))), ONE),
        metadata=metadata,
        input_range=bounds,
        machine=machine,
        report=metadata,
    )
    weight[:] = 7
    order[:] = 7
    bounds[:] = 7
    scale[:] = 7
    machine["isa"] = None
    metadata["notes"].append("two")
    assert weight.flags.writeable and order.flags.writeable and bounds.flags.writeable
    assert model.layers[0].weight.tolist() == [[1, 1]]
    assert model.layers[0].kept_units is not None and model.layers[0].kept_units.tolist() == [0]
    assert model.input_range is not None and model.input_range.tolist() == [0, 1]
    assert model.layers[0].quantization is not None
    assert model.layers[0].quantization.scale.tolist() == [1, 1]
    assert model.machine == MACHINE
    assert model.metadata == model.report == {"notes": ["one"]}
    with pytest.raises(ValueError, match="read-only"):
        model.layers[0].weight[:] = 7


def test_arrays_cannot_be_made_writable(path: Path) -> None:
    save(path, full_model())
    writable = np.ones((1, 3), np.float32)
    layer = Layer(writable, np.zeros(1), RELU)
    for model in (load(path), full_model(), Model((layer, ONE))):
        for array in (model.layers[0].weight, model.layers[0].bias):
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.reshape(-1)[:1].flags.writeable = True
    assert writable.flags.writeable and not np.shares_memory(writable, layer.weight)


def test_arrays_that_their_owner_can_make_writable_are_copied() -> None:
    weight, order = np.ones((1, 1), np.float32), np.zeros(1, np.int32)
    for array in (weight, order):
        array.flags.writeable = False
    layer = Layer(weight, np.zeros(1), RELU, None, order)
    for array in (weight, order):
        array.flags.writeable = True
        array[:] = 7
    assert layer.weight.tolist() == [[1]]
    assert layer.kept_units is not None and layer.kept_units.tolist() == [0]


def test_what_shares_a_pickle_cannot_change_a_model() -> None:
    layer = full_model().layers[0]
    kept = layer.weight.copy()
    for again, weight in (
        copy.deepcopy((layer, layer.weight)),
        pickle.loads(pickle.dumps((layer, layer.weight), 4)),  # noqa: S301
    ):
        with pytest.raises(ValueError, match="read-only"):
            weight[:] = 7
        np.testing.assert_array_equal(again.weight, kept)
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(layer, 5, buffer_callback=buffers.append)
    memory = [bytearray(buffer) for buffer in buffers]
    again = pickle.loads(content, buffers=memory)  # noqa: S301
    for part in memory:
        part[:] = bytes(len(part))
    np.testing.assert_array_equal(again.weight, kept)


def test_read_only_arrays_are_not_copied() -> None:
    layer = Layer(np.ones((2, 2)), np.ones(2), RELU)
    again = Layer(layer.weight, layer.bias, RELU)
    assert again.weight is layer.weight
    ordered = replace(layer, kept_units=np.array([1, 0]))
    again = replace(ordered, bias=np.zeros(2))
    assert ordered.kept_units is not None and again.kept_units is not None
    assert np.shares_memory(ordered.kept_units, again.kept_units)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301
def test_copies_are_read_only_too(again: Callable[[Model], Model]) -> None:
    model = again(full_model())
    assert_same(model, full_model())
    assert not model.layers[0].weight.flags.writeable
    assert model.probe is not None
    assert not model.probe.x.flags.writeable
    assert model.layers[0].kept_units is not None and model.input_range is not None
    with pytest.raises(ValueError, match="WRITEABLE"):
        model.layers[0].weight.flags.writeable = True
    assert not model.layers[0].kept_units.flags.writeable
    assert not model.input_range.flags.writeable
    gate, quantization = model.layers[0].gate, model.layers[0].quantization
    assert gate is not None and gate.range is not None and quantization is not None
    for array in (gate.range, quantization.scale, quantization.offset):
        assert not array.flags.writeable


def test_values_that_are_converted() -> None:
    model = Model(
        [ONE],  # type: ignore[arg-type]
        classes=np.array(["no", "yes"], object),
        input_scale=0.5,  # type: ignore[arg-type]
        input_range=(-1, [2.5]),  # type: ignore[arg-type]
        metadata={"error": np.float64(0.5), "rows": np.int64(3), "shape": (1, 2)},
    )
    assert model.classes is not None
    assert model.classes.dtype.kind == "U"
    assert model.input_scale is not None
    assert model.input_scale.shape == ()
    assert model.input_range is not None
    np.testing.assert_array_equal(model.input_range, np.float32([[-1], [2.5]]), strict=True)
    assert model.metadata == {"error": 0.5, "rows": 3, "shape": [1, 2]}
    assert type(model.metadata["rows"]) is int


def test_names_of_things() -> None:
    model = full_model()
    assert repr(model) == "Model(4-3-2, classification, 1 gate, 2 layers in int8)"
    text = "Layer(4 -> 3, clipped_relu(6), gate of rank 2, 2 units kept, int8)"
    assert repr(model.layers[0]) == text
    assert repr(model.layers[0].gate) == "Gate(4 -> 3, rank 2)"
    assert repr(model.layers[0].quantization) == "Quantization(of 4 inputs)"
    assert repr(model.layers[1].quantization) == "Quantization(scale 0.02, offset 0)"
    assert repr(model.probe) == "Probe(5 rows, 4 -> 2, uint8)"
    assert issubclass(FileFormatError, ValueError)
    assert files.FORMAT_VERSION == 2

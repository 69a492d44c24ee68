"""Reading data sets of small images, checked against known checksums.

A data folder holds four IDX files under the names MNIST was published with, each either as the
published ``.gz`` or decompressed. Fashion-MNIST uses the same names, so one reader serves both;
which data set a folder holds is decided by checksum. Or it holds SVHN's cropped digits in two
``.mat`` files, or a subset of them in one ``.npz``.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)

SVHN = "svhn-subset"
SVHN_FILE = "svhn_subset_32x32.npz"
SVHN_KEYS = ("x_train", "y_train", "x_test", "y_test")
SVHN_MD5 = "c360c785a5b79285abd351d98e193e10"

SVHN_FULL = "svhn"
SVHN_FULL_MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
"""The cropped digits as published, in the order training, test."""

CLASSES = 10
UNKNOWN = "unknown"

HOW_TO_SVHN = (
    "SVHN's cropped digits are two MATLAB files (format 2), for non-commercial use only. They are\n"
    "published at ufldl.stanford.edu/housenumbers.\n"
    "Name the folder that holds them with --data-dir. Their MD5 checksums:\n"
    + "\n".join(f"  {md5}  {name}" for name, md5 in SVHN_FULL_MD5.items())
)

U8Array = npt.NDArray[np.uint8]


class DataError(Exception):
    """A data folder that cannot be trained on; the text is meant for the user."""


@dataclass(frozen=True)
class Checksums:
    """MD5 of one file: as published (gzip), and of its decompressed content."""

    gz: str
    content: str


KNOWN: dict[str, dict[str, Checksums]] = {
    "mnist": {
        TRAIN_IMAGES: Checksums(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"
        ),
        TRAIN_LABELS: Checksums(
            "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"
        ),
        TEST_IMAGES: Checksums(
            "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"
        ),
        TEST_LABELS: Checksums(
            "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"
        ),
    },
    "fashion-mnist": {
        TRAIN_IMAGES: Checksums(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"
        ),
        TRAIN_LABELS: Checksums(
            "25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"
        ),
        TEST_IMAGES: Checksums(
            "bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"
        ),
        TEST_LABELS: Checksums(
            "bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"
        ),
    },
}


@dataclass(frozen=True)
class DataSet:
    """The four arrays of a data folder and their checksums.

    ``x_train`` and ``x_test`` are (n, width) raw pixels; ``y_train`` and ``y_test`` are (n,)
    labels below 10. ``checksums`` maps each file's base name to the MD5 of its content, gzip
    decompressed, so it is the same whether the folder held gzip or plain files.
    """

    name: str
    checksums: dict[str, str]
    x_train: U8Array
    y_train: U8Array
    x_test: U8Array
    y_test: U8Array


@dataclass(frozen=True)
class Split:
    """Row numbers of the training rows and of the validation rows held out from them."""

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]


def load(folder: Path, expected: str | None = None) -> DataSet:
    """Read the four IDX files in ``folder``, or SVHN or its subset if it holds that.

    ``expected`` names a known data set whose checksums must all match. Without it, files that
    all belong to one known data set give that data set's name, files that are all unknown give
    the name ``"unknown"``, and a mixture is refused: it is a damaged or mixed-up folder.

    Raises
    ------
    DataError
        A file is missing, is not of the expected format and shape, or has the wrong checksum.
    """
    if expected == SVHN_FULL or (expected is None and any(map(_is_in(folder), SVHN_FULL_MD5))):
        return _load_svhn_full(folder, expected)
    if expected == SVHN or (expected is None and (folder / SVHN_FILE).is_file()):
        return _load_svhn(folder / SVHN_FILE, expected)
    paths = _find(folder)
    contents = {name: _read(path) for name, path in paths.items()}
    checksums = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    name = _identify(paths, checksums, expected)

    arrays = [_parse(paths[base], contents[base]) for base in FILES]
    return _data_set(name, checksums, [str(paths[base]) for base in FILES], arrays)


def pad(data_set: DataSet, pixels: int) -> DataSet:
    """The data set with ``pixels`` zero pixels added on each side of its square images.

    Raises
    ------
    DataError
        The images are not square.
    """
    if pixels == 0:
        return data_set
    width = data_set.x_train.shape[1]
    side = math.isqrt(width)
    if side * side != width:
        raise DataError(f"--pad needs square images, got images of {width} pixels")
    border = ((0, 0), (pixels, pixels), (pixels, pixels))
    x_train, x_test = (
        np.pad(x.reshape(-1, side, side), border).reshape(len(x), -1)
        for x in (data_set.x_train, data_set.x_test)
    )
    return replace(data_set, x_train=x_train, x_test=x_test)


def split(rows: int, validation: int, seed: int) -> Split:
    """Hold out ``validation`` of ``rows`` rows at random; the same seed gives the same split.

    Raises
    ------
    DataError
        ``validation`` does not leave at least one row on each side.
    """
    if not 0 < validation < rows:
        raise DataError(
            f"--validation must be between 1 and {rows - 1} for {rows} training images, "
            f"got {validation}"
        )
    order = np.random.default_rng(seed).permutation(rows)
    return Split(train=np.sort(order[validation:]), validation=np.sort(order[:validation]))


def _find(folder: Path) -> dict[str, Path]:
    """The path of each of the four files, plain before gzip; all missing ones in one error."""
    paths: dict[str, Path] = {}
    for name in FILES:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                paths[name] = candidate
                break
    missing = [name for name in FILES if name not in paths]
    if missing:
        raise DataError(_how_to_get(folder, missing))
    return paths


def _how_to_get(folder: Path, missing: list[str]) -> str:
    lines = [f"missing in {folder.absolute()}:"]
    lines += [f"  {name}.gz (or {name}, decompressed)" for name in missing]
    lines += [
        "Put the four files of the MNIST distribution into that folder, or name the folder that",
        "holds them with --data-dir. Their MD5 checksums (`md5sum *.gz`):",
    ]
    lines += [f"  {sums.gz}  {name}.gz" for name, sums in KNOWN["mnist"].items()]
    return "\n".join(lines)


def _read(path: Path) -> bytes:
    """A file's content, decompressed if it is gzip."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _identify(paths: dict[str, Path], checksums: dict[str, str], expected: str | None) -> str:
    """The name of the data set these checksums belong to, or ``"unknown"``."""
    matches = {
        known: [name for name in FILES if checksums[name] == sums[name].content]
        for known, sums in KNOWN.items()
    }
    candidate = expected or max(matches, key=lambda known: len(matches[known]))
    found = matches[candidate]
    if len(found) == len(FILES):
        return candidate
    if expected is None and not found:
        return UNKNOWN
    wrong = [name for name in FILES if name not in found]
    reason = "was asked for" if expected else f"{len(found)} of the 4 files are {candidate}'s"
    lines = [f"wrong checksum ({candidate}: {reason}):"]
    for name in wrong:
        lines += [
            f"  {paths[name]}",
            f"    expected MD5 of the content {KNOWN[candidate][name].content}"
            f" (of the published .gz {KNOWN[candidate][name].gz})",
            f"    got      MD5 of the content {checksums[name]}",
        ]
    lines.append("The file is damaged or belongs to another data set; replace it.")
    raise DataError("\n".join(lines))


def _parse(path: Path, content: bytes) -> U8Array:
    """One IDX array of unsigned bytes: 2 zero bytes, type 8, rank, big-endian sizes, data."""
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(f"{path}: not an IDX file of unsigned bytes")
    rank = content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise DataError(f"{path}: ends inside its header")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", count=rank, offset=4))
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path}: expected {math.prod(shape)} bytes of data for shape {shape}, "
            f"got {len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _load_svhn(path: Path, expected: str | None) -> DataSet:
    """The data set in one ``.npz`` with the arrays ``SVHN_KEYS``; colours become luminance."""
    content = _read(path)
    md5 = hashlib.md5(content).hexdigest()
    if expected and md5 != SVHN_MD5:
        raise DataError(
            f"wrong checksum ({SVHN}: was asked for):\n  {path}\n"
            f"    expected MD5 {SVHN_MD5}\n    got      MD5 {md5}\n"
            "The file is damaged or holds another data set; replace it."
        )
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = [file[key] for key in SVHN_KEYS]
    except Exception as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    sources = [f"{path}: {key}" for key in SVHN_KEYS]
    for source, array in zip(sources, arrays, strict=True):
        if array.dtype != np.uint8:
            raise DataError(f"{source}: expected unsigned bytes, got {array.dtype}")
    x_train, y_train, x_test, y_test = arrays
    arrays = [_luminance(x_train), y_train, _luminance(x_test), y_test]
    name = SVHN if md5 == SVHN_MD5 else UNKNOWN
    return _data_set(name, {path.name: md5}, sources, arrays)


def _is_in(folder: Path) -> Callable[[str], bool]:
    return lambda name: (folder / name).is_file()


def _load_svhn_full(folder: Path, expected: str | None) -> DataSet:
    """SVHN's cropped digits from the published ``.mat`` files; colours become luminance."""
    missing = [name for name in SVHN_FULL_MD5 if not _is_in(folder)(name)]
    if missing:
        lines = [
            f"missing in {folder.absolute()}:",
            *(f"  {name}" for name in missing),
            HOW_TO_SVHN,
        ]
        raise DataError("\n".join(lines))
    checksums, sources, arrays = {}, [], []
    for name in SVHN_FULL_MD5:
        content = _read(folder / name)
        checksums[name] = hashlib.md5(content).hexdigest()
        x, y = _mat_arrays(folder / name, content)
        arrays += [_luminance(x), y]
        sources += [f"{folder / name}: X", f"{folder / name}: y"]
    name = SVHN_FULL if checksums == SVHN_FULL_MD5 else UNKNOWN
    if expected and name == UNKNOWN:
        lines = [f"wrong checksum ({SVHN_FULL}: was asked for):"]
        lines += [
            f"  {folder / file}\n    expected MD5 {SVHN_FULL_MD5[file]}\n    got      MD5 {md5}"
            for file, md5 in checksums.items()
            if md5 != SVHN_FULL_MD5[file]
        ]
        raise DataError("\n".join(lines))
    return _data_set(name, checksums, sources, arrays)


def _mat_arrays(path: Path, content: bytes) -> tuple[U8Array, U8Array]:
    """``X`` (32, 32, 3, n) as (n, 32, 32, 3), and ``y`` (n, 1), in which 10 stands for zero."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(f"{path}: reading .mat files needs SciPy: pip install scipy") from error
    try:
        file = loadmat(io.BytesIO(content), variable_names=["X", "y"])
        x, y = np.asarray(file["X"]), np.asarray(file["y"])
    except Exception as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if x.dtype != np.uint8 or x.ndim != 4:
        raise DataError(
            f"{path}: X must be unsigned bytes (height, width, 3, n), got {x.dtype} {x.shape}"
        )
    if y.dtype != np.uint8 or y.shape != (x.shape[3], 1):
        raise DataError(
            f"{path}: y must be unsigned bytes ({x.shape[3]}, 1), got {y.dtype} {y.shape}"
        )
    if x.size and not 1 <= y.min() <= y.max() <= CLASSES:
        raise DataError(f"{path}: y must be from 1 to {CLASSES}, got {y.min()} to {y.max()}")
    return np.ascontiguousarray(x.transpose(3, 0, 1, 2)), y[:, 0] % np.uint8(CLASSES)


def _luminance(x: U8Array) -> U8Array:
    """RGB images (n, height, width, 3) as rounded grey levels (n, height, width); others as is."""
    if x.ndim != 4 or x.shape[3] != 3:
        return x
    weights = np.array([299, 587, 114], np.uint32)
    return ((x @ weights + 500) // 1000).astype(np.uint8)


def _data_set(
    name: str, checksums: dict[str, str], sources: list[str], arrays: list[U8Array]
) -> DataSet:
    """Training images and labels, test images and labels, checked; ``sources`` say whence."""
    x_train, y_train = _pair(sources[:2], arrays[:2])
    x_test, y_test = _pair(sources[2:], arrays[2:])
    if x_train.shape[1] != x_test.shape[1]:
        raise DataError(
            f"{sources[2]}: images of {x_test.shape[1]} pixels, but the training images "
            f"have {x_train.shape[1]}"
        )
    return DataSet(name, checksums, x_train, y_train, x_test, y_test)


def _pair(sources: list[str], arrays: list[U8Array]) -> tuple[U8Array, U8Array]:
    """Images flattened to rows, with their labels."""
    x, y = arrays
    if x.ndim != 3 or x.size == 0:
        raise DataError(f"{sources[0]}: expected images (n, height, width), got {x.shape}")
    if y.shape != (len(x),):
        raise DataError(f"{sources[1]}: expected {len(x)} labels, got shape {y.shape}")
    if y.max() >= CLASSES:
        raise DataError(f"{sources[1]}: expected labels 0 to {CLASSES - 1}, got {y.max()}")
    return x.reshape(len(x), -1), y

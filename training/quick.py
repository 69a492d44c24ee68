"""A check in less than a minute: smaller ranks have larger errors, here as in the paper.

A small network learns the 8x8 digits that scikit-learn carries, with the paper's recipe and the
estimator in the loop, from three seeds.
"""

from __future__ import annotations

import dataclasses
import struct
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

import data
import tables
from recipe import preset
from study import Places, Run, Study, StudyError, advance, run_of

RANKS = ((), (2, 2, 2), (1, 1, 1))
SEEDS = (1, 2, 3)
EPOCHS = 20
TEST_ROWS = 500
HIDDEN = (60, 40, 30)


def run(report: Callable[[str], None]) -> int:
    """Train, print the table and compare; returns 0 if errors and wrong signs are in order."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_digits(folder)
        study = Study("quick", None, tuple(_run(ranks, seed) for ranks in RANKS for seed in SEEDS))
        places = Places(folder, None, folder / "results", folder / "checkpoints")
        found = advance(study, places, 1, lambda line: None)
    report(tables.text("quick", found))
    faults = disorder(tables.groups(found))
    report("\n".join(faults) or "in order: the smaller the ranks, the larger the error")
    return 1 if faults else 0


def disorder(groups: list[tables.Group]) -> list[str]:
    """Each pair of neighbours, largest ranks first, whose errors or wrong signs do not rise."""
    faults = []
    for larger, smaller in pairwise(groups):
        for figure in ("error", "wrong_signs"):
            before, after = (_mean(group, figure) for group in (larger, smaller))
            if not before < after:
                faults.append(
                    f"not in order: {figure} {before:.4f} at ranks {larger.label}, "
                    f"{after:.4f} at ranks {smaller.label}"
                )
    return faults


def write_digits(folder: Path) -> None:
    """Write scikit-learn's digits into ``folder`` as IDX files; 500 of them are test rows."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise StudyError("--quick needs scikit-learn: pip install scikit-learn") from error
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    labels = labels.astype(np.uint8)
    cut = len(labels) - TEST_ROWS
    for name, array in zip(
        data.FILES, (pixels[:cut], labels[:cut], pixels[cut:], labels[cut:]), strict=True
    ):
        (folder / name).write_bytes(_idx(array))


def _run(ranks: tuple[int, ...], seed: int) -> Run:
    recipe = dataclasses.replace(
        preset("paper"),
        hidden=HIDDEN,
        epochs=EPOCHS,
        batch_size=50,
        init_std=(0.1,),
        dropout=0.1,
        validation=200,
        estimator="svd" if ranks else "none",
        ranks=ranks,
        seed=seed,
    )
    return run_of("quick", "-".join(map(str, ranks)) or "none", recipe)


def _mean(group: tables.Group, figure: str) -> float:
    """The mean of a figure over the layers and runs of ``group``; 0 if it has no estimator."""
    return float(np.mean([test.get(figure, 0.0) for test in group.tests()]))


def _idx(array: npt.NDArray[np.uint8]) -> bytes:
    """An array of unsigned bytes in the IDX format."""
    header = bytes([0, 0, 8, array.ndim])
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()

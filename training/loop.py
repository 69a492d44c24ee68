"""The training loop: epochs, evaluation, the best epoch, checkpoints.

Everything random comes from PyTorch's global generator, whose state is part of a checkpoint, so
a resumed run continues bit for bit as if it had not stopped (same machine, same thread count).
"""

from __future__ import annotations

import copy
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from data import CLASSES, DataSet, Split
from model import MaskedMLP, build, drop
from recipe import Recipe

FORMAT = 1
EVALUATION_ROWS = 1000
FIT_ROWS = 5000
"""Training rows on which the estimators other than svd are fitted."""

SIGN_POINTS = 25
"""Sections of an epoch for which the log has the share of wrong signs."""

STD_FLOOR = 0.05 * 255
"""Grey levels. A pixel that hardly varies must not be blown up by ``--standardize``."""


class TrainingError(Exception):
    """Training cannot go on; the text is meant for the user."""


@dataclass(frozen=True)
class Scaling:
    """The map from raw pixels to the network's input: ``pixels * scale + shift``.

    Both are shape () or (width,).
    """

    scale: Tensor
    shift: Tensor

    @staticmethod
    def of(pixels: Tensor, standardize: bool) -> Scaling:
        """The scaling for the training rows ``pixels`` (n, width), uint8.

        To [0, 1], or with ``standardize`` to mean 0 and standard deviation 1 for every pixel.
        """
        if not standardize:
            return Scaling(torch.tensor(1 / 255), torch.tensor(0.0))
        values = pixels.double()
        scale = 1 / values.std(dim=0, correction=0).clamp(min=STD_FLOOR)
        return Scaling(scale.float(), (-values.mean(dim=0) * scale).float())

    def apply(self, pixels: Tensor) -> Tensor:
        """The network's input, float32, for rows of uint8 pixels."""
        return pixels.float() * self.scale + self.shift


@dataclass(frozen=True)
class Evaluation:
    """How a network does on some rows; the lists hold one figure per hidden layer.

    ``error`` is the share of wrong labels, ``loss`` the mean cross-entropy, ``density`` the share
    of non-zero outputs, ``silent`` the share of units that no row switched on. With the estimator
    on, ``computed`` is the share of pre-activations estimated to be needed, with ReLU the positive
    ones, and ``disagreement`` the share of wrong estimates (1 and 0 for a layer that is not
    masked); else both are empty.
    """

    error: float
    loss: float
    density: list[float]
    silent: list[float]
    computed: list[float]
    disagreement: list[float]


class Trainer:
    """One run of a recipe on a data set; :meth:`train_epoch` is called until it is done."""

    def __init__(self, recipe: Recipe, data: DataSet, split: Split) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.checksums = {"name": data.name, "md5": data.checksums}
        self.x_train = _rows(data.x_train[split.train])
        self.y_train = _labels(data.y_train[split.train])
        self.x_validation = _rows(data.x_train[split.validation])
        self.y_validation = _labels(data.y_train[split.validation])
        self.scaling = Scaling.of(self.x_train, recipe.standardize)
        self.model = build(recipe, self.x_train.shape[1], CLASSES)
        if recipe.estimates:
            self.fit_factors(recipe.estimator, recipe.ranks)
        self.optimizer = _optimizer(recipe, self.model)
        self.epochs: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        # Of the epoch under way.
        self._refreshes, self._refresh_seconds = 0, 0.0
        self._wrong_signs: list[list[float]] = []

    @property
    def done(self) -> bool:
        """Whether all epochs of the recipe have been trained."""
        return len(self.epochs) >= self.recipe.epochs

    def train_epoch(self) -> dict[str, Any]:
        """Train one epoch, evaluate it, keep it if it is the best; returns its log record."""
        epoch = len(self.epochs)
        start = time.perf_counter()
        self._refreshes, self._refresh_seconds = 0, 0.0
        loss, cross_entropy = self._train_batches(epoch)
        seconds = time.perf_counter() - start

        record: dict[str, Any] = {
            "epoch": epoch + 1,
            "learning_rate": self.recipe.learning_rate_at(epoch),
            "momentum": self.recipe.momentum_at(epoch),
            "l1": list(self.recipe.l1_at(epoch)),
            "train_loss": loss,
            "train_cross_entropy": cross_entropy,
        }
        if self.recipe.estimates:
            aged = self.evaluate(self.x_validation, self.y_validation)
            self._renew_factors()
            unmasked = self.evaluate(self.x_validation, self.y_validation, masked=False)
            record |= {
                "validation_error_unmasked": unmasked.error,
                "disagreement_before_refresh": aged.disagreement,
                "disagreement_within": self._wrong_signs,
                "refreshes": self._refreshes,
                "refresh_seconds": round(self._refresh_seconds, 4),
            }
        validation = self.evaluate(self.x_validation, self.y_validation)
        record |= {
            "validation_error": validation.error,
            "validation_loss": validation.loss,
            "density": validation.density,
            "silent_units": validation.silent,
        }
        if self.recipe.estimates:
            record["computed_share"] = validation.computed
            record["disagreement"] = validation.disagreement
        record["seconds"] = round(seconds, 3)
        self.epochs.append(record)
        self._keep_best(record)
        return record

    def evaluate(self, pixels: Tensor, labels: Tensor, masked: bool = True) -> Evaluation:
        """Evaluate the network as it is now on rows of uint8 ``pixels`` (n, width)."""
        return evaluate(self.model, self.scaling, pixels, labels, masked)

    def state(self) -> dict[str, Any]:
        """The whole state of the run, for :meth:`restore`."""
        return {
            "format": FORMAT,
            "kind": "run",
            "recipe": self.recipe.to_json(),
            "data": self.checksums,
            "model": copy.deepcopy(self.model.state_dict()),
            "factors": self.model.factor_tensors(),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "generator": torch.get_rng_state(),
            "epochs": list(self.epochs),
            "best": self.best,
        }

    def save(self, path: Path) -> None:
        """Write :meth:`state`, atomically."""
        write_atomically(path, self.state())

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`, or from its file, read with :func:`read_checkpoint`."""
        if state["data"] != self.checksums:
            raise TrainingError("--resume: the run was trained on other data than --data-dir holds")
        self._load(state)
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["generator"])
        self.epochs = state["epochs"]
        self.best = state["best"]

    def use_best(self) -> int:
        """Put the best epoch's weights into the network; returns that epoch, counted from 1."""
        if self.best is None:
            raise TrainingError("no epoch has been trained that could be kept as the best")
        self._load(self.best)
        return int(self.best["epoch"])

    def best_checkpoint(self, result: dict[str, Any]) -> dict[str, Any]:
        """The best epoch as a checkpoint that :mod:`export` turns into a network."""
        assert self.best is not None
        return {
            "format": FORMAT,
            "kind": "best",
            "recipe": self.recipe.to_json(),
            "data": self.checksums,
            "model": self.best["model"],
            "factors": self.best.get("factors", [None] * len(self.recipe.hidden)),
            "scale": self.scaling.scale,
            "shift": self.scaling.shift,
            "result": result,
        }

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if "factors" in state:
            self.model.load_factors(state["factors"])
        elif self.recipe.estimates:  # written when svd was the only estimator
            self.fit_factors(self.recipe.estimator, self.recipe.ranks)

    def fit_factors(self, estimator: str, ranks: tuple[int, ...]) -> None:
        """Fit an estimator to the weights as they are, on evenly spaced training rows."""
        rows = torch.linspace(0, len(self.x_train) - 1, min(FIT_ROWS, len(self.x_train))).long()
        calibration = self.scaling.apply(self.x_train[rows])
        self.model.fit_factors(estimator, ranks, calibration)

    def _renew_factors(self, within_epoch: bool = False) -> None:
        """Let the estimator follow the weights; trained factors do so by themselves."""
        recipe = self.recipe
        if recipe.estimator == "trained":
            return
        start = time.perf_counter()
        if recipe.refresh == "subspace" or (recipe.refresh == "projection" and within_epoch):
            self.model.update_factors(recipe.refresh)
        else:
            self.fit_factors(recipe.estimator, recipe.ranks)
        self._refreshes += 1
        self._refresh_seconds += time.perf_counter() - start

    def _train_batches(self, epoch: int) -> tuple[float, float]:
        """One pass over the training rows; returns mean loss and mean cross-entropy."""
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(epoch)
            if recipe.optimizer == "sgd":
                group["momentum"] = recipe.momentum_at(epoch)
        l1, masked = recipe.l1_at(epoch), epoch + 1 >= recipe.mask_from
        rows = len(self.x_train)
        losses = torch.zeros(2, dtype=torch.float64)
        order = torch.randperm(rows)
        starts = tqdm(
            range(0, rows, recipe.batch_size),
            desc=f"epoch {epoch + 1}/{recipe.epochs}",
            unit="batch",
            leave=False,
            disable=None,
        )
        wrong_signs = torch.zeros(SIGN_POINTS, 1 + len(recipe.hidden), dtype=torch.float64)
        for step, start in enumerate(starts):
            batch = order[start : start + recipe.batch_size]
            pixels, labels = self.x_train[batch], self.y_train[batch]
            loss, cross_entropy, wrong = self._step(pixels, labels, l1, masked)
            losses += torch.stack([loss, cross_entropy]).double() * len(batch)
            if recipe.estimates:
                wrong_signs[step * SIGN_POINTS // len(starts)] += torch.tensor([1.0, *wrong])
                last = step + 1 == len(starts)
                if recipe.refresh_every and not last and (step + 1) % recipe.refresh_every == 0:
                    self._renew_factors(within_epoch=True)
        points = wrong_signs[wrong_signs[:, 0] > 0]
        self._wrong_signs = (points[:, 1:] / points[:, :1]).tolist()
        mean_loss, mean_cross_entropy = (losses / rows).tolist()
        if not math.isfinite(mean_loss):
            raise TrainingError(
                f"training diverged in epoch {epoch + 1} (loss {mean_loss}): "
                "lower --learning-rate or --init-std"
            )
        return mean_loss, mean_cross_entropy

    def _step(
        self, pixels: Tensor, labels: Tensor, l1: tuple[float, ...], masked: bool
    ) -> tuple[Tensor, Tensor, list[float]]:
        """One gradient step; returns loss, cross-entropy, and each layer's share of wrong signs."""
        recipe = self.recipe
        if recipe.shift:
            pixels = shift_randomly(pixels, recipe.shift)
        x = self.scaling.apply(pixels)
        if recipe.input_dropout:
            x = drop(x, recipe.input_dropout)
        outputs, hidden = self.model(x, dropout=recipe.dropout, masked=masked)
        cross_entropy = functional.cross_entropy(outputs, labels)
        loss = cross_entropy
        for weight, layer in zip(l1, hidden, strict=True):
            if weight:
                sizes = layer.output.abs() if layer.activation.signed else layer.output
                loss = loss + weight * sizes.sum() / len(pixels)
            if recipe.gate_l1 and layer.estimate is not None:
                loss = loss + recipe.gate_l1 * layer.estimate.sum() / len(pixels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if recipe.max_norm:
            self.model.limit_norms(recipe.max_norm)
        return loss.detach(), cross_entropy.detach(), [layer.wrong_signs() for layer in hidden]

    def _keep_best(self, record: dict[str, Any]) -> None:
        """Keep the lowest validation error from ``best_from`` on; of equal ones the latest."""
        if record["epoch"] < self.recipe.best_from:
            return
        if self.best is None or record["validation_error"] <= self.best["validation_error"]:
            self.best = {
                "epoch": record["epoch"],
                "validation_error": record["validation_error"],
                "model": copy.deepcopy(self.model.state_dict()),
                "factors": self.model.factor_tensors(),
            }


@torch.no_grad()
def evaluate(
    model: MaskedMLP, scaling: Scaling, pixels: Tensor, labels: Tensor, masked: bool = True
) -> Evaluation:
    """Evaluate ``model`` on rows of uint8 ``pixels`` (n, width) with ``labels`` (n,)."""
    layers = len(model.widths) - 2
    wrong, loss = 0, 0.0
    alive = [torch.zeros(units) for units in model.widths[1:-1]]
    computed = [0.0] * layers
    disagreement = [0.0] * layers
    for start in range(0, len(pixels), EVALUATION_ROWS):
        rows = slice(start, start + EVALUATION_ROWS)
        outputs, hidden = model(scaling.apply(pixels[rows]), masked=masked)
        wrong += int((outputs.argmax(dim=1) != labels[rows]).sum())
        loss += float(functional.cross_entropy(outputs, labels[rows], reduction="sum"))
        for layer, one in enumerate(hidden):
            alive[layer] += (one.output != 0).sum(dim=0)
            count = one.pre_activation.numel()
            disagreement[layer] += one.wrong_signs() * count
            computed[layer] += count if one.estimate is None else float(one.estimate.sum())
    units = [len(pixels) * count for count in model.widths[1:-1]]
    sizes = [count * model.activation.pieces for count in units]
    estimated = any(model.factors)
    return Evaluation(
        error=wrong / len(pixels),
        loss=loss / len(pixels),
        density=[float(count.sum()) / size for count, size in zip(alive, units, strict=True)],
        silent=[float((count == 0).float().mean()) for count in alive],
        computed=[n / size for n, size in zip(computed, sizes, strict=True)] * estimated,
        disagreement=[n / size for n, size in zip(disagreement, sizes, strict=True)] * estimated,
    )


def shift_randomly(pixels: Tensor, limit: int) -> Tensor:
    """Move each square image of ``pixels`` (n, side * side) by up to ``limit`` pixels.

    Horizontally and vertically, each image on its own; zeros move in from the border.
    """
    rows, width = pixels.shape
    side = math.isqrt(width)
    padded_side = side + 2 * limit
    padded = functional.pad(pixels.view(rows, side, side), [limit] * 4).view(rows, -1)
    line = torch.arange(side)
    window = (line[:, None] * padded_side + line).flatten()
    down, right = torch.randint(0, 2 * limit + 1, (2, rows, 1))
    return padded.gather(1, window + down * padded_side + right)


def read_checkpoint(path: Path, kind: str) -> dict[str, Any]:
    """Read a checkpoint of ``kind`` ``"run"`` or ``"best"``; never unpickles foreign objects."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainingError(f"{path}: no such checkpoint") from error
    except Exception as error:
        raise TrainingError(f"{path}: not a readable checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(f"{path}: not a checkpoint of format {FORMAT}")
    if state.get("kind") != kind:
        raise TrainingError(
            f"{path}: expected a checkpoint of kind {kind!r}, got {state.get('kind')!r}"
        )
    return state


def write_atomically(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a reader sees the old file or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _optimizer(recipe: Recipe, model: MaskedMLP) -> torch.optim.Optimizer:
    """SGD with momentum or Adam; L2 acts on weights alone (gradient ``l2 * weight``)."""
    trained = [
        tensor
        for one in model.factors
        if one is not None and one.down.requires_grad
        for tensor in (one.down, one.up, one.offset)
    ]
    groups = [
        {"params": list(model.weights), "weight_decay": recipe.l2},
        {"params": [*model.biases, *trained], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.learning_rate, fused=True)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, fused=True)


def _rows(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(pixels.copy())


def _labels(labels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(labels.astype(np.int64))

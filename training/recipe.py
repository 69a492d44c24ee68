"""Recipes: every choice that a training run depends on, the presets, and their checks.

A run is a function of its recipe and the data alone. So checkpoints and logs record the recipe,
``--resume`` compares it, and the command stored in a network is made from it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from activations import NAMES, by_name


class RecipeError(Exception):
    """A recipe that cannot be run; the text is meant for the user."""


@dataclass(frozen=True)
class Recipe:
    """One training run. The defaults are the preset ``paper``.

    They are the MNIST values of Davis and Arel, "Low-Rank Approximations for Conditional
    Feedforward Computation in Deep Neural Networks", arXiv 1312.4461, as far as they are known;
    batch size and number of epochs are this project's choice.
    """

    hidden: tuple[int, ...] = (1000, 600, 400)
    epochs: int = 20
    batch_size: int = 400
    optimizer: str = "sgd"
    learning_rate: float = 0.25
    schedule: str = "exponential"
    lr_decay: float = 0.99
    momentum: float = 0.5
    momentum_growth: float = 1.05
    momentum_cap: float = 0.8
    activation: str = "relu"
    init_std: tuple[float, ...] = (0.05,)
    max_norm: float = 25.0
    l1: tuple[float, ...] = (1e-5,)
    l1_ramp: int = 0
    l2: float = 5e-5
    dropout: float = 0.5
    input_dropout: float = 0.0
    shift: int = 0
    pad: int = 0
    contrast: bool = False
    standardize: bool = False
    estimator: str = "none"
    ranks: tuple[int, ...] = ()
    mask_from: int = 1
    refresh: str = "full"
    refresh_every: int = 0
    gate_l1: float = 0.0
    validation: int = 10_000
    best_from: int = 1
    seed: int = 1
    threads: int = 1

    @property
    def estimates(self) -> bool:
        """Whether hidden layers are masked by estimated signs."""
        return self.estimator != "none"

    @property
    def l1_by_layer(self) -> tuple[float, ...]:
        """The L1 weight of each hidden layer: one value stands for all."""
        return self.l1 * len(self.hidden) if len(self.l1) == 1 else self.l1

    @property
    def init_std_by_layer(self) -> tuple[float, ...]:
        """The standard deviation of each layer's first weights: one value stands for all."""
        return self.init_std * (len(self.hidden) + 1) if len(self.init_std) == 1 else self.init_std

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return self.learning_rate * self.lr_decay**epoch

    def momentum_at(self, epoch: int) -> float:
        """The momentum of an epoch, counted from 0: it grows to its cap."""
        return min(self.momentum * self.momentum_growth**epoch, self.momentum_cap)

    def l1_at(self, epoch: int) -> tuple[float, ...]:
        """The L1 weights of an epoch, counted from 0: they rise linearly over ``l1_ramp``."""
        share = min(1.0, (epoch + 1) / (self.l1_ramp + 1))
        return tuple(weight * share for weight in self.l1_by_layer)

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> Recipe:
        """The inverse of :meth:`to_json`."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        if isinstance(fields["init_std"], float):  # written when layers had one value
            fields["init_std"] = (fields["init_std"],)
        return Recipe(**fields)


ESTIMATORS = ("none", "svd", "whitened", "logistic", "trained")
REFRESHES = ("full", "subspace", "projection")

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "sparse": {
        "epochs": 40,
        "batch_size": 100,
        "schedule": "cosine",
        "l1": (1e-3,),
        "l1_ramp": 5,
        "dropout": 0.2,
        "shift": 1,
        "best_from": 32,
    },
    "wide": {
        "hidden": (4096, 4096),
        "epochs": 10,
        "schedule": "cosine",
        "momentum": 0.8,
        "init_std": (0.02,),
        "l1": (1e-3, 4e-3),
        "l1_ramp": 3,
        "l2": 0.0,
        "dropout": 0.0,
        "shift": 1,
        "pad": 2,
        "best_from": 8,
    },
    "svhn": {
        "hidden": (1500, 700, 400, 200),
        "epochs": 40,
        "batch_size": 100,
        "learning_rate": 0.15,
        "schedule": "cosine",
        "momentum_growth": 1.01,
        "init_std": (0.01,),
        "l1": (0.0,),
        "dropout": 0.25,
        "standardize": True,
        "validation": 1500,
    },
}


def preset(name: str) -> Recipe:
    """The recipe of a preset."""
    return dataclasses.replace(Recipe(), **PRESETS[name])


def command(recipe: Recipe) -> str:
    """The shortest ``train.py`` command that trains ``recipe``, without any folder's name."""
    base_name = min(PRESETS, key=lambda name: len(_differences(recipe, preset(name))))
    words = ["python training/train.py", f"--preset {base_name}"]
    for name in _differences(recipe, preset(base_name)):
        value = getattr(recipe, name)
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            words.append(" ".join([f"--{flag}", *map(str, value)]))
        else:
            words.append(f"--{flag} {value}")
    return " ".join([*words, "--data-dir DATA_DIR"])


def check(recipe: Recipe, input_size: int | None = None) -> None:
    """Refuse a recipe that cannot be run.

    ``input_size`` is known once the data is read; without it the first layer's rank is only
    checked against the layer's width.

    Raises
    ------
    RecipeError
        Names the option, the expected value and the actual one.
    """
    _require(
        all(width > 0 for width in recipe.hidden) and len(recipe.hidden) > 0,
        "--hidden",
        "one or more widths above 0",
        recipe.hidden,
    )
    for name in ("epochs", "batch_size", "threads", "best_from", "mask_from"):
        _require(getattr(recipe, name) >= 1, _flag(name), "1 or more", getattr(recipe, name))
    for name in ("best_from", "mask_from"):
        _require(
            getattr(recipe, name) <= recipe.epochs,
            _flag(name),
            f"at most --epochs {recipe.epochs}",
            getattr(recipe, name),
        )
    for name in ("learning_rate", "lr_decay", "momentum_growth"):
        value = getattr(recipe, name)
        _require(value > 0 and math.isfinite(value), _flag(name), "a number above 0", value)
    for name in ("l1_ramp", "shift", "pad", "l2", "max_norm", "seed", "refresh_every", "gate_l1"):
        value = getattr(recipe, name)
        _require(value >= 0 and math.isfinite(value), _flag(name), "0 or more", value)
    for name in ("momentum", "momentum_cap", "dropout", "input_dropout"):
        value = getattr(recipe, name)
        _require(0 <= value < 1, _flag(name), "from 0 to below 1", value)
    _require(
        all(weight >= 0 and math.isfinite(weight) for weight in recipe.l1),
        "--l1",
        "weights of 0 or more",
        recipe.l1,
    )
    _require(
        len(recipe.l1_by_layer) == len(recipe.hidden),
        "--l1",
        f"one weight, or one for each of the {len(recipe.hidden)} hidden layers",
        recipe.l1,
    )
    _require(
        all(std > 0 and math.isfinite(std) for std in recipe.init_std),
        "--init-std",
        "numbers above 0",
        recipe.init_std,
    )
    _require(
        len(recipe.init_std_by_layer) == len(recipe.hidden) + 1,
        "--init-std",
        f"one number, or one for each of the {len(recipe.hidden) + 1} layers",
        recipe.init_std,
    )
    _require(
        recipe.activation in NAMES,
        "--activation",
        f"one of {', '.join(NAMES)}",
        recipe.activation,
    )
    if not by_name(recipe.activation).flat:
        _require(
            recipe.estimator == "none",
            "--estimator",
            f"none with --activation {recipe.activation}",
            recipe.estimator,
        )
    if recipe.activation != "relu":
        # The other estimators fit the signs, which do not decide these outputs alone.
        _require(
            recipe.estimator in ("none", "svd", "whitened"),
            "--estimator",
            f"none, svd or whitened with --activation {recipe.activation}",
            recipe.estimator,
        )
    check_ranks(recipe, input_size)


def check_ranks(recipe: Recipe, input_size: int | None) -> None:
    """Refuse ranks that do not fit the hidden layers, or that no estimator uses."""
    if not recipe.estimates:
        _require(not recipe.ranks, "--ranks", "no ranks without --estimator", recipe.ranks)
    if recipe.estimator != "svd":
        _require(recipe.refresh == "full", "--refresh", "full except for svd", recipe.refresh)
    if recipe.estimator != "trained":
        _require(recipe.gate_l1 == 0, "--gate-l1", "0 except for trained", recipe.gate_l1)
    if recipe.estimator in ("none", "trained"):
        # Factors that are trained learn through the mask.
        _require(
            recipe.mask_from == 1,
            "--mask-from",
            f"1 with --estimator {recipe.estimator}",
            recipe.mask_from,
        )
        _require(
            recipe.refresh_every == 0,
            "--refresh-every",
            f"0 with --estimator {recipe.estimator}",
            recipe.refresh_every,
        )
    if recipe.refresh != "full":
        _require(
            recipe.refresh_every > 0,
            "--refresh-every",
            f"above 0 with --refresh {recipe.refresh}",
            recipe.refresh_every,
        )
    if not recipe.estimates:
        return
    _require(
        len(recipe.ranks) == len(recipe.hidden),
        "--ranks",
        f"one rank for each of the {len(recipe.hidden)} hidden layers",
        recipe.ranks,
    )
    _require(any(recipe.ranks), "--ranks", "above 0 in at least one layer", recipe.ranks)
    first = recipe.hidden[0] * by_name(recipe.activation).pieces
    inputs = (input_size or first, *recipe.hidden[:-1])
    for layer, rank in enumerate(recipe.ranks):
        units = recipe.hidden[layer] * by_name(recipe.activation).pieces
        limit = min(inputs[layer], units)
        _require(
            0 <= rank <= limit,
            "--ranks",
            f"a rank from 0 (not masked) to {limit} for layer {layer}"
            f" ({inputs[layer]} inputs, {units} units)",
            rank,
        )


def _differences(recipe: Recipe, other: Recipe) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(Recipe)
        if getattr(recipe, field.name) != getattr(other, field.name)
    ]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _require(holds: bool, flag: str, expected: str, got: object) -> None:
    if not holds:
        shown = " ".join(map(str, got)) or "none" if isinstance(got, tuple) else got
        raise RecipeError(f"{flag} must be {expected}, got {shown}")

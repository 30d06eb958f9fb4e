"""What decides a model of one's own, besides the clips and the weights that it starts from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final, Literal, TypeAlias, get_args

from audioset.errors import OptionError

Precision: TypeAlias = Literal["32", "16-mixed", "bf16-mixed"]

# Called with what is being done, how much of it is done, how much there is, and how it goes.
Progress: TypeAlias = Callable[[str, int, int, str], None]

_VALID_FRACTION: Final = 0.2
_OF_FULL: Final = frozenset(
    ("augment", "epochs", "patience", "batch_size", "learning_rate", "layer_decay", "weight_decay", "precision")
)


@dataclass(frozen=True)
class FinetuneOptions:
    """How to learn.

    Attributes
    ----------
    full : bool
        All weights move, from where they are; otherwise only a linear layer on the embeddings is fitted.
    valid_fraction : float or None
        Share of what is not tested that is not learnt from but reported on, and for `full` decides when to stop. None:
        0.2, but 0 where there are clips to test on or folds and nothing is to be stopped.
    folds : int
        Folds of a cross-validation over what is not tested; the model is then fitted to all of it. 0 for none.
    seed : int
        Of splits, order and augmentation.
    augment : bool
        In `full`: shift clips, change their speed and level, add noise, and hide frames and bands of them.
    epochs : int
        In `full`: at most so many times through the clips.
    patience : int
        In `full`: epochs without a better validation accuracy (mAP where clips may have several classes), or
        a lower loss at the same one, after which it ends.
    batch_size : int
        In `full`: clips a step.
    learning_rate : float
        In `full`: highest, of the last layer.
    layer_decay : float
        In `full`: the learning rate of each layer is that of the one above it times this; 1 for one rate for all.
    weight_decay : float
        In `full`: of AdamW.
    precision : {"32", "16-mixed", "bf16-mixed"}
        In `full`: of the arithmetic; weights are kept in float32.
    """

    full: bool = False
    valid_fraction: float | None = None
    folds: int = 0
    seed: int = 0
    augment: bool = True
    epochs: int = 60
    patience: int = 15
    batch_size: int = 32
    learning_rate: float = 1e-3
    layer_decay: float = 0.9
    weight_decay: float = 1e-2
    precision: Precision = "32"

    def __post_init__(self) -> None:
        for name, least in (("folds", 0), ("seed", 0), ("epochs", 1), ("patience", 1), ("batch_size", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise OptionError(f"{name}: {value!r} is out of range; expected a whole number, {least} or more")
        if self.folds == 1:
            raise OptionError("folds: 1 is out of range; expected 2 or more, or 0 for none")
        if self.valid_fraction is not None and not 0 <= self.valid_fraction < 1:
            raise OptionError(f"valid_fraction: {self.valid_fraction} is out of range; expected 0 or more, below 1")
        if self.full and self.valid_fraction == 0:
            raise OptionError(
                "valid_fraction: 0, but something must tell when to stop; expected more for full fine-tuning"
            )
        for name, lowest, highest in (
            ("learning_rate", 0.0, math.inf),
            ("layer_decay", 0.0, 1.0),
            ("weight_decay", -math.ulp(0), math.inf),
        ):
            number = getattr(self, name)
            if not (math.isfinite(number) and lowest < number <= highest):
                expected = {"learning_rate": "above 0", "layer_decay": "above 0, up to 1"}.get(name, "0 or more")
                raise OptionError(f"{name}: {number!r} is out of range; expected a number {expected}")
        if self.precision not in get_args(Precision):
            raise OptionError(
                f"precision: {self.precision!r} is unknown; expected one of {', '.join(get_args(Precision))}"
            )
        if not self.full:
            idle = [of.name for of in fields(self) if of.name in _OF_FULL and getattr(self, of.name) != of.default]
            if idle:
                raise OptionError(
                    f"{', '.join(idle)}: for full fine-tuning alone; expected `full` (--full) beside. Without it a "
                    "linear layer is fitted, which has no such settings: leave them out"
                )

    def share_to_validate(self, tested: bool) -> float:
        """Return `valid_fraction`, or its default."""
        if self.valid_fraction is not None:
            return self.valid_fraction
        return _VALID_FRACTION if self.full or not (tested or self.folds) else 0.0

"""What decides a trained head, and where it is trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from audioset.errors import OptionError
from audioset.train import heads
from audioset.train.heads import HeadOptions

Precision: TypeAlias = Literal["32", "16-mixed", "bf16-mixed"]
Schedule: TypeAlias = Literal["constant", "cosine"]


@dataclass(frozen=True)
class TrainConfig:
    """What decides a head, besides the clips.

    Attributes
    ----------
    head : str
        Of `audioset.train.heads.HEADS`.
    hidden, layers, dropout, mixtures, clusters
        See `HeadOptions`.
    batch_size : int
        Clips a step, over all processes.
    learning_rate : float
        Highest, of AdamW; it rises over the first `warmup_steps`.
    schedule : {"constant", "cosine"}
        What it does afterwards; the cosine ends at 0 after all epochs.
    weight_decay : float
        Of AdamW.
    warmup_steps : int
        Steps over which the learning rate rises.
    epoch_steps : int
        Steps from one validation, and one checkpoint, to the next.
    epochs : int
        At most so many times `epoch_steps`.
    patience : int
        Epochs without a better validation mAP after which training ends.
    balanced : bool
        Draw every class equally often, instead of every clip.
    mixup : float
        Parameter of the beta distribution by which clips are mixed; 0 mixes none.
    precision : {"32", "16-mixed", "bf16-mixed"}
        Of the arithmetic; weights are kept in float32.
    seed : int
        Of first weights, order, mixtures and dropout.
    """

    head: str = "feature_attention"
    hidden: int = 1024
    layers: int = 3
    dropout: float = 0.5
    mixtures: int = 2
    clusters: int = 64
    batch_size: int = 512
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    warmup_steps: int = 100
    epoch_steps: int = 500
    epochs: int = 40
    patience: int = 8
    balanced: bool = True
    mixup: float = 0.0
    precision: Precision = "32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.head not in heads.HEADS:
            raise OptionError(f"head {self.head!r}: unknown; expected one of {', '.join(heads.HEADS)}")
        _ = self.options
        for name, known in (("schedule", Schedule), ("precision", Precision)):
            if getattr(self, name) not in get_args(known):
                raise OptionError(
                    f"{name}: {getattr(self, name)!r} is unknown; expected one of {', '.join(get_args(known))}"
                )
        lowest = {"warmup_steps": 0, "seed": 0} | dict.fromkeys(("batch_size", "epoch_steps", "epochs", "patience"), 1)
        for name, least in lowest.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise OptionError(f"{name}: {value!r} is out of range; expected a whole number, {least} or more")
        for name, least_float, open_end in (
            ("learning_rate", 0.0, True),
            ("weight_decay", 0.0, False),
            ("mixup", 0.0, False),
        ):
            number = getattr(self, name)
            if not isinstance(number, int | float) or not math.isfinite(number) or number < least_float:
                raise OptionError(f"{name}: {number!r} is out of range; expected a number, {least_float:g} or more")
            if open_end and number == least_float:
                raise OptionError(f"{name}: {number!r} is out of range; expected a number above {least_float:g}")

    @property
    def options(self) -> HeadOptions:
        """Sizes of the head."""
        return HeadOptions(**{field.name: getattr(self, field.name) for field in dataclasses.fields(HeadOptions)})

    @classmethod
    def of(cls, given: Mapping[str, Any], subject: str) -> TrainConfig:
        """Return the configuration that a file or a caller gives by name; what is not given is the default.

        Raises
        ------
        OptionError
            A name is unknown or a value out of range; `subject` is named.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in given if name not in known]
        if unknown:
            raise OptionError(
                f"{subject}: {', '.join(map(repr, unknown))} is no option; expected some of {', '.join(known)}"
            )
        try:
            return cls(**given)
        except OptionError as error:
            raise OptionError(f"{subject}: {error}") from error


@dataclass(frozen=True)
class Machine:
    """Where a job runs; none of it is to change what comes out, beyond how sums are rounded.

    Attributes
    ----------
    accelerator : str
        "auto", "cpu", "gpu" or another that Lightning knows.
    devices, nodes : int
        How many processes train together: on this machine, and on how many machines.
    workers : int
        Processes that load; 0 loads in the one that trains.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        for name, least in (("devices", 1), ("nodes", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"{name}: {getattr(self, name)} is out of range; expected {least} or more")

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.devices * self.nodes

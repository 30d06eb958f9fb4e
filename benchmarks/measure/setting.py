"""What every section is given: inputs, configurations, how often and how much; and what cannot be measured."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from measure.configurations import Configuration, Other
from measure.protocol import NotAvailableError, Worker
from measure.sounds import Waveform

Runnable = TypeVar("Runnable", Configuration, Other)


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    repeats: int
    decode_clips: int
    clip_s: float
    at_least_s: float
    examples: int
    batches: tuple[int, ...]
    clip_lengths_s: tuple[float, ...]
    growth_audio_s: float
    numbers_of_files: tuple[int, ...]
    long_hours: float
    startups: int


def full(repeats: int, long_hours: float) -> Extent:
    """Return what figures are published from."""
    return Extent(
        repeats, 12, 10.0, 0.3, 2048, (1, 32, 128), (1, 3, 10, 30, 60, 600), 600, (1, 10, 100, 1000), long_hours, 5
    )


def quick(repeats: int, long_hours: float) -> Extent:
    """Return what shows in a minute or two that all is well."""
    return Extent(min(repeats, 2), 2, 5.0, 0.0, 64, (1, 32), (1, 10, 30), 30, (1, 20), min(long_hours, 0.02), 1)


@dataclass
class Setting:
    """Inputs and conditions, and notes of what could not be measured."""

    files: Sequence[str]
    audio_s: float
    sound: Waveform
    cores: int
    extent: Extent
    folder: Path
    ours: Sequence[Configuration]
    others: Sequence[Other]
    not_available: dict[str, str] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Tell how far it is, on standard error."""
        print(text, file=sys.stderr, flush=True)

    def lacks(self, name: str, why: str) -> None:
        """Note what cannot be measured, and why."""
        if name not in self.not_available:
            self.say(f"{name}: not available: {why}")
        self.not_available[name] = why

    def started(self, wanted: Sequence[Runnable], cores: int, stack: ExitStack) -> Mapping[Runnable, Worker]:
        """Return loaded workers of those that can be had; they end with `stack`."""
        found: dict[Runnable, Worker] = {}
        for each in wanted:
            if each.name in self.not_available:
                continue
            self.say(f"loading {each.name}")
            try:
                found[each] = stack.enter_context(each.start(cores))
            except NotAvailableError as error:
                self.lacks(each.name, str(error))
        return found

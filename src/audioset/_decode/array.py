"""Arrays as sounds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset._decode.base import FULL_SCALE, Decoder, Waveform, to_mono
from audioset.errors import AudioError, OptionError, SampleRateError

_FEW_ROWS, MOST_CHANNELS = 32, 1024


class ArrayDecoder(Decoder):
    """Samples (n,) or (n, channels) that are in memory already; blocks are copies of them."""

    name = "<array>"

    def __init__(self, samples: npt.NDArray[Any], sample_rate: int | None) -> None:
        if sample_rate is None:
            raise OptionError("sample_rate: None was given with an array; expected its rate in Hz, for example 44100.")
        check_samples(samples, self.name)
        if samples.size == 0:
            raise AudioError(f"<array>: 0 samples (shape {samples.shape}); expected at least 1. Check what made it.")
        self.sample_rate = whole_rate(sample_rate, self.name)
        self._planes = planes_of(samples)
        self.channels, self.num_frames = self._planes.shape
        self.format = f"array {samples.dtype}"
        self.duration_s = self.num_frames / max(1, self.sample_rate)
        self.resources = contextlib.ExitStack()

    def blocks(self, start: int, stop: int | None) -> Iterator[Waveform]:
        length = self._planes.shape[1]
        end = length if stop is None else min(stop, length)
        for position in range(start, end, self.block_frames):
            block = to_mono(self._planes[:, position : min(position + self.block_frames, end)])
            yield block.copy() if np.may_share_memory(block, self._planes) else block


def planes_of(samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Samples (n,) or (n, channels) as `to_mono` takes them, (channels, n)."""
    return samples[np.newaxis] if samples.ndim == 1 else samples.T


def whole_rate(sample_rate: int, name: str) -> int:
    """The rate as an int; SampleRateError if it is no whole number."""
    try:
        rate = int(sample_rate)
    except (TypeError, ValueError, OverflowError):
        rate = -1
    if rate < 0 or rate != sample_rate:
        raise SampleRateError(f"{name}: sample rate {sample_rate!r}; expected a whole number of Hz, for example 44100.")
    return rate


def check_samples(samples: npt.NDArray[Any], name: str, channels: int | None = None) -> None:
    """Raise AudioError unless the type and the shape of `samples` can be sound; `channels` are known beforehand."""
    if samples.dtype.str[1:] not in (*FULL_SCALE, "u1", "f4", "f8"):
        raise AudioError(
            f"{name}: samples of type {samples.dtype}; expected int16, int32, uint8, float32 or float64. "
            "Convert them with astype, scaled to that type's range (floats to [-1, 1])."
        )
    if samples.ndim not in (1, 2):
        raise AudioError(f"{name}: shape {samples.shape}; expected (n,) or (n, channels). Reshape it.")
    if samples.ndim == 2 and samples.size and samples.shape[1] != channels:
        rows, columns = samples.shape
        if columns > MOST_CHANNELS or rows <= _FEW_ROWS < columns:
            raise AudioError(
                f"{name}: shape {samples.shape} looks like (channels, n); expected (n, channels), with at most "
                f"{MOST_CHANNELS} channels. Transpose it: samples.T."
            )

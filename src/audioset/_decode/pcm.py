"""Samples without a header, from a pipe or a file: what `ffmpeg -f s16le -` and many recorders write."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from audioset._decode.array import MOST_CHANNELS, planes_of, whole_rate
from audioset._decode.base import Decoder, Waveform, reason, to_mono
from audioset.errors import AudioError, OptionError

PcmFormat: TypeAlias = Literal["u8", "s16", "s32", "f32", "f64"]

_DTYPES = {"u8": "u1", "s16": "<i2", "s32": "<i4", "f32": "<f4", "f64": "<f8"}
_READ_BYTES = 2**16  # what a pipe holds


@dataclass(frozen=True)
class Pcm:
    """Samples without a header, as a source of sound: little-endian, the channels of a frame one after the other.

    Attributes
    ----------
    file : binary file object
        Read once, from where it stands to its end, whatever arrives at once.
    sample_rate : int
        In Hz.
    format : {"s16", "s32", "f32", "f64", "u8"}
        Signed or unsigned integers, divided by full scale, or floats in [-1, 1]; with their bits.
    channels : int
        Samples a frame.
    name : str
        What to call it in messages.

    Raises
    ------
    OptionError, SampleRateError
        A format, number of channels or rate that cannot be.
    """

    file: BinaryIO
    sample_rate: int
    format: PcmFormat = "s16"
    channels: int = 1
    name: str = "<stream>"

    def __post_init__(self) -> None:
        whole_rate(self.sample_rate, self.name)
        if self.format not in get_args(PcmFormat):
            raise OptionError(f"format: {self.format!r} is unknown; expected one of {', '.join(get_args(PcmFormat))}")
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise OptionError(f"channels: {self.channels} is out of range; expected 1 to {MOST_CHANNELS}")

    def chunks(self) -> Iterator[npt.NDArray[Any]]:
        """Yield whole frames (n, channels) as they arrive, never none at once.

        Raises
        ------
        AudioError
            It is empty, cannot be read, or ends within a frame; whole frames before that have been given.
        """
        dtype = np.dtype(_DTYPES[self.format])
        frame_bytes = dtype.itemsize * self.channels
        read = getattr(self.file, "read1", self.file.read)  # a buffered file would wait until it has them all
        size = max(1, _READ_BYTES // frame_bytes) * frame_bytes
        rest = b""
        num_frames = 0
        while data := self._read(read, size):
            data = rest + data
            whole = len(data) // frame_bytes
            rest = data[whole * frame_bytes :]
            num_frames += whole
            if whole:
                yield np.frombuffer(data, dtype, whole * self.channels).reshape(-1, self.channels)
        if rest:
            raise AudioError(
                f"{self.name}: ends within a frame: {len(rest)} of its {frame_bytes} bytes, after {num_frames:,} "
                f"frames; expected whole frames ({self.channels} × {self.format}). Check the format and the number of "
                "channels, and whether its writer was cut short"
            )
        if not num_frames:
            raise AudioError(f"{self.name}: 0 bytes; expected raw samples ({self.format}). Check what writes them")

    def _read(self, read: Any, size: int) -> bytes:
        try:
            data = read(size)
        except (OSError, ValueError) as error:
            raise AudioError(
                f"{self.name}: reading it failed ({reason(error)}); expected raw samples. Check where it comes from"
            ) from error
        if not isinstance(data, bytes):  # None, where nothing is there and it will not wait
            raise AudioError(
                f"{self.name}: gave {type(data).__name__}; expected bytes. Open it in binary mode, so that it waits"
            )
        return data


class PcmDecoder(Decoder):
    """Raw samples as a sound; how many there are shows at their end."""

    def __init__(self, source: Pcm) -> None:
        self._source = source
        self.name = source.name
        self.sample_rate = int(source.sample_rate)
        self.channels = source.channels
        self.format = f"PCM {source.format}"
        self.resources = contextlib.ExitStack()

    def blocks(self, start: int, stop: int | None) -> Iterator[Waveform]:
        position = 0
        for chunk in self._source.chunks():
            block = to_mono(planes_of(chunk))[max(0, start - position) : None if stop is None else stop - position]
            position += len(chunk)
            if block.size:
                yield block
            if stop is not None and position >= stop:
                return

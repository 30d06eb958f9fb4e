"""What every decoder is, and what they share: averaging the channels, and words for what is wrong with a file."""

from __future__ import annotations

import contextlib
import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from audioset.errors import AudioError

Waveform: TypeAlias = npt.NDArray[np.float32]

FULL_SCALE = {"i2": 2.0**15, "i4": 2.0**31}
PREROLL_S = 0.5  # decoded before a window, as lossy codecs carry state over: Opus needs the longest, 0.2 s measured
_BLOCK_SAMPLES = 2**17  # decoded at once, over all channels: half a megabyte of float32


class Decoder(ABC):
    """One opened sound; `blocks` may be used once, and leaving the context closes it.

    Attributes
    ----------
    name : str
        What to call the sound in messages.
    format : str
        Container and codec.
    sample_rate : int
        Frames a second.
    channels : int
        Samples a frame, before averaging.
    num_frames : int or None
        Exact number of frames, where the container says it.
    duration_s : float or None
        Length, exact or the container's estimate.
    resources : contextlib.ExitStack
        What to close with the decoder.
    """

    name: str
    format: str
    sample_rate: int
    channels: int
    num_frames: int | None = None
    duration_s: float | None = None
    resources: contextlib.ExitStack

    @abstractmethod
    def blocks(self, start: int, stop: int | None) -> Iterator[Waveform]:
        """Mono frames from `start` up to `stop` (or the end): non-empty blocks, never more than asked."""

    @property
    def block_frames(self) -> int:
        """Frames to decode at once; depends on nothing but channels and rate, and is bounded after upsampling too."""
        return max(1, min(_BLOCK_SAMPLES // self.channels, _BLOCK_SAMPLES * self.sample_rate // 16_000))

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.resources.close()


class FileDecoder(Decoder):
    """A sound that a library decodes: whatever it raises meanwhile becomes an AudioError that names the file."""

    def __init__(self, target: Target, name: str) -> None:
        self._target, self.name = target, name
        self._position = 0

    @abstractmethod
    def _decode(self, start: int, stop: int | None) -> Iterator[Waveform]:
        """What `blocks` gives; keeps `_position`, the frame up to which the library has decoded."""

    def blocks(self, start: int, stop: int | None) -> Iterator[Waveform]:
        try:
            yield from self._decode(start, stop)
        except AudioError:
            raise
        except Exception as error:  # the libraries raise much more than their own errors when a file is damaged
            check_target(self._target, self.name)
            length = "" if self.duration_s is None else f" of {self.duration_s:.3f} s"
            raise AudioError(
                f"{self.name}: decoding broke off at {self._position / self.sample_rate:.3f} s{length} "
                f"({reason(error)}); expected an undamaged file. {rescue(self.name)}"
            ) from error


class InPlace:
    """A seekable file object as both libraries need it; what goes wrong in it is kept, where they would print it."""

    name = "audio"  # the libraries guess from names, and this one says nothing

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: Exception | None = None
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._guarded(b"", self._file.read, size)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._guarded(0, self._file.seek, offset, whence)
        return self.tell()

    def tell(self) -> int:
        position: int = self._guarded(0, self._file.tell)
        return position

    def _guarded(self, default: object, method: Any, *args: int) -> Any:
        try:
            return method(*args)
        except Exception as error:
            self.error = self.error or error
            return default


Target: TypeAlias = str | InPlace


def to_mono(planes: npt.NDArray[Any]) -> Waveform:
    """The average over the channels of `planes` (channels, n), in float32; integers are divided by full scale."""
    kind = planes.dtype.str[1:]
    if kind == "u1":
        planes = (planes.astype(np.float32) - np.float32(128)) / np.float32(128)
    elif kind in FULL_SCALE:
        planes = planes.astype(np.float32) * np.float32(1 / FULL_SCALE[kind])
    elif planes.dtype != np.float32:
        with np.errstate(over="ignore"):  # what overflows becomes Inf, which is refused with its position
            planes = planes.astype(np.float32)
    channels = len(planes)
    mono: Waveform
    with np.errstate(over="ignore", invalid="ignore"):
        if channels == 1:
            mono = planes[0]
        elif channels > 8:
            mono = planes.mean(axis=0, dtype=np.float32)
        else:
            mono = planes[0] + planes[1]  # several times faster than a reduction over a short axis
            for plane in planes[2:]:
                mono += plane
            mono /= np.float32(channels)
    return mono


def rescue(name: str) -> str:
    """What to do about a damaged file."""
    if name.startswith("<"):
        return "Send it again, whole."
    return f"Copy or record it again, or keep what can be read with `ffmpeg -i {shlex.quote(name)} rescued.wav`."


def no_samples(name: str, kind: str) -> AudioError:
    """The error for a file that has a header and no more."""
    return AudioError(f"{name}: 0 samples ({kind}); expected at least 1. Record or convert it again.")


def reason(error: Exception) -> str:
    """What a library says is wrong, to be put in brackets."""
    said = getattr(error, "strerror", None) or getattr(error, "error_string", None)  # PyAV's, and soundfile's
    if not said and not isinstance(error, ValueError | RuntimeError):
        said = f"{type(error).__name__}: {error}"  # "list index out of range" alone would say little
    return str(said or error).strip().rstrip(".") or type(error).__name__


def check_target(target: Target, name: str) -> None:
    """Raise what a file object raised under a library, which took it for the end of the file."""
    if isinstance(target, InPlace) and target.error is not None:
        if isinstance(target.error, AudioError):  # it says by itself what is wrong with which file
            raise target.error
        raise AudioError(
            f"{name}: reading it failed ({target.error}); expected a file object that reads and seeks to its end. "
            "Check where it comes from."
        ) from target.error

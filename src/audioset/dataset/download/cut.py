"""A few seconds out of a long sound, exact to the sample, and those seconds as a file's bytes."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from audioset._decode.base import FULL_SCALE, InPlace
from audioset._decode.ffmpeg import FFmpegDecoder
from audioset.dataset.download.failures import ClipError
from audioset.dataset.download.options import OPUS_RATES_HZ, DownloadOptions
from audioset.errors import AudioError

TOLERANCE_S: Final = 0.25  # by which a clip may be shorter than asked: containers round, and codecs pad
_LEAD_SAMPLES: Final = 512  # around what is resampled, at the lower rate; half of the VHQ filter is below 150
_LOSSLESS: Final = ("flac", "alac", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be")
_LISTS: Final = (b"#EXT", b"ffco", b"[pla")  # HLS, ffconcat, PLS
_BY_LIBSNDFILE: Final = (b"RIFF", b"fLaC")  # formats in which FFmpeg's seeking is not exact and libsndfile's is


@dataclass(frozen=True)
class Sound:
    """Samples (n, channels) float32 at `rate_hz`, exact in as many `bits`."""

    samples: npt.NDArray[np.float32]
    rate_hz: int
    bits: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.rate_hz


def cut_sound(file: BinaryIO, name: str, start_s: float, end_s: float, options: DownloadOptions) -> Sound:
    """Return the sound from `start_s` up to `end_s`: samples ``[round(start_s * rate), round(end_s * rate))``.

    Seconds count from the first sample that the decoder gives. Resampling hears what is around the cut, so that the
    result is the same as that of resampling all and cutting then.

    Raises
    ------
    ClipError
        no_audio, too_short (see `TOLERANCE_S` and `DownloadOptions.allow_short`) or damaged; what `file` raises.
    """
    target = InPlace(file)
    with contextlib.ExitStack() as stack:
        try:
            source = _open(target, name, stack)
            sound = _cut(source, start_s, end_s, options)
        except ClipError:
            raise
        except Exception as error:  # the libraries raise much more than their own errors when a file is damaged
            _reraise(target)
            said = str(error).removeprefix(f"{name}: ") or type(error).__name__
            if "no audio stream" in said:
                raise ClipError("no_audio", "it has no sound") from error
            raise ClipError("damaged", said.partition("; expected")[0]) from error
        _reraise(target)  # the libraries take what it raises for the end
    missing_s = end_s - start_s - sound.duration_s
    if not len(sound.samples) or (missing_s > TOLERANCE_S and not options.allow_short):
        if source.duration_s is not None and source.duration_s >= end_s - TOLERANCE_S:
            said = f"{sound.duration_s:.3f} s of {end_s - start_s:.3f} s are there, though the header says more"
            raise ClipError("damaged", said)
        raise too_short(start_s + sound.duration_s if len(sound.samples) else source.duration_s, end_s)
    return sound


def too_short(length_s: float | None, end_s: float) -> ClipError:
    """Return the failure of a video that ends before the segment."""
    length = "ends before the segment begins" if length_s is None else f"is {length_s:.3f} s long"
    return ClipError("too_short", f"the video {length}; the segment ends at {end_s:.3f} s")


def encoded(sound: Sound, options: DownloadOptions) -> bytes:
    """Return the sound as a FLAC, WAV or Ogg Opus file."""
    out = io.BytesIO()
    if options.format == "opus":
        soundfile.write(out, sound.samples, sound.rate_hz, format="OGG", subtype="OPUS")
        return out.getvalue()
    # Scaled here: libsndfile writes float 1.0 as 32767 and reads 32768 as 1.0, which moves samples.
    scale = 2 ** (sound.bits - 1)
    whole = np.clip(np.rint(sound.samples * np.float64(scale)), -scale, scale - 1)
    samples = whole.astype(np.int16) if sound.bits == 16 else whole.astype(np.int32) << 8
    soundfile.write(out, samples, sound.rate_hz, format=options.format.upper(), subtype=f"PCM_{sound.bits}")
    return out.getvalue()


def check_media(target: InPlace) -> bytes:
    """Return the first four bytes; ClipError if they begin a page, or a list of files that FFmpeg would look for."""
    begins = target.read(4)
    target.seek(0)
    if begins.lstrip()[:1] == b"<":
        raise ClipError("refused", "the media server sends a page instead of media")
    if begins in _LISTS:
        raise ClipError("no_format", "the media are a list of pieces")
    return begins


class _Source:
    """A sound of which windows can be read, channels by channel."""

    rate_hz: int
    bits: int
    duration_s: float | None

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Frames from `start` up to `stop`, fewer at the end: (n, channels)."""
        raise NotImplementedError


class _SoundFile(_Source):
    def __init__(self, target: InPlace, stack: contextlib.ExitStack) -> None:
        self._file = stack.enter_context(soundfile.SoundFile(target))
        if not 0 <= self._file.frames < 2**62:  # FLAC that was written to a pipe
            raise soundfile.SoundFileRuntimeError("unknown length")
        self.rate_hz = self._file.samplerate
        self.bits = 16 if self._file.subtype in ("PCM_S8", "PCM_U8", "PCM_16", "ULAW", "ALAW") else 24
        self.duration_s = self._file.frames / self.rate_hz

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        self._file.seek(min(start, self._file.frames))
        samples: npt.NDArray[np.float32] = self._file.read(stop - start, dtype="float32", always_2d=True)
        return samples


class _FFmpeg(FFmpegDecoder, _Source):
    """The package's decoder, which seeks exactly, without its averaging of the channels."""

    def __init__(self, target: InPlace, name: str, stack: contextlib.ExitStack) -> None:
        super().__init__(target, name, stack)
        self.rate_hz = self.sample_rate
        wide = self._first.format.name.rstrip("p") in ("s32", "flt", "dbl")
        self.bits = 24 if wide and self._stream.codec_context.name in _LOSSLESS else 16

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        frames, position = self._frames_before(start)
        held = [np.empty((self.channels, 0), np.float32)]
        for frame in frames:
            planes = self._planes(frame, position)
            begin, position = position, position + len(planes[0])
            if position > start:
                held.append(_scaled(np.stack([plane[max(0, start - begin) : stop - begin] for plane in planes])))
            if position >= stop:
                break
        else:
            self._check_whole(position)
        channels = {len(block) for block in held}
        if len(channels) > 1:
            raise AudioError(f"{self.name}: the number of channels changes ({sorted(channels)}); expected one")
        samples: npt.NDArray[np.float32] = np.concatenate(held, axis=1).T
        return samples


def _open(target: InPlace, name: str, stack: contextlib.ExitStack) -> _Source:
    begins = check_media(target)
    if begins in _BY_LIBSNDFILE:
        with contextlib.suppress(soundfile.SoundFileRuntimeError):
            return _SoundFile(target, stack)
        target.seek(0)
    return _FFmpeg(target, name, stack)


def _cut(source: _Source, start_s: float, end_s: float, options: DownloadOptions) -> Sound:
    rate_hz = options.rate_hz or source.rate_hz
    if options.format == "opus" and rate_hz not in OPUS_RATES_HZ:
        rate_hz = OPUS_RATES_HZ[-1]
    start, stop = round(start_s * rate_hz), round(end_s * rate_hz)
    if rate_hz == source.rate_hz:
        samples = _mixed(source.read(start, stop), options.mono)
    else:
        # Samples of both rates fall together once in `step` of the source's; the window read begins at such a place.
        step = source.rate_hz // math.gcd(source.rate_hz, rate_hz)
        lead = math.ceil(_LEAD_SAMPLES * max(1.0, source.rate_hz / rate_hz))
        begin = max(0, math.floor(start * source.rate_hz / rate_hz) - lead) // step * step
        end = math.ceil(stop * source.rate_hz / rate_hz)
        read = _mixed(source.read(begin, end + lead), options.mono)
        resampled = soxr.resample(read, source.rate_hz, rate_hz, quality="VHQ")
        skipped = start - begin * rate_hz // source.rate_hz
        # No further than the source's own end, beyond which there is but the filter's ringing.
        there = round((begin + len(read)) * rate_hz / source.rate_hz) - start
        samples = resampled[skipped : skipped + max(0, min(stop - start, there))]
    if not np.isfinite(samples).all():
        raise AudioError("samples that are no numbers; expected an undamaged sound")
    return Sound(samples, rate_hz, source.bits)


def _mixed(samples: npt.NDArray[np.float32], mono: bool) -> npt.NDArray[np.float32]:
    return samples.mean(axis=1, keepdims=True, dtype=np.float32) if mono and samples.shape[1] > 1 else samples


def _scaled(planes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Samples in [-1, 1], as `_decode.base.to_mono` scales them."""
    kind = planes.dtype.str[1:]
    samples: npt.NDArray[np.float32] = planes.astype(np.float32)
    if kind == "u1":
        samples = (samples - np.float32(128)) / np.float32(128)
    elif kind in FULL_SCALE:
        samples *= np.float32(1 / FULL_SCALE[kind])
    return samples


def _reraise(target: InPlace) -> None:
    """Raise what the file raised under a library."""
    if target.error is not None:
        raise target.error


def pieces(sound: Sound, length: int) -> Iterator[npt.NDArray[np.float32]]:
    """Give the sound in blocks (channels, n) of `length` frames; the last may be shorter."""
    for begin in range(0, len(sound.samples), length):
        yield np.ascontiguousarray(sound.samples[begin : begin + length].T)

"""Files, streams and arrays → 16 kHz mono float32, a chunk at a time in bounded memory.

`read` is the concatenation of `stream`; the chunks depend on the source alone. Channels are averaged in float32 before
resampling (soxr, VHQ). Samples that come at 16 kHz are not resampled.

A source of `n` frames at `rate` Hz gives `max(1, floor(n * 16000 / rate + 1/2))` samples; sample `i` is the sound at
`i / 16000` seconds after the first frame that the decoder gives (encoder delay is left out where the file tells it).

Sources
-------
path
    WAV of every width, FLAC, OGG (Vorbis, Opus), AIFF, AU, W64, RF64 and CAF through libsndfile; MP3, M4A, MP4, WebM,
    MKV and everything else that FFmpeg knows through PyAV, of which the first audio stream is read. The content
    decides, not the name. A named pipe is read like a stream.
binary file object
    A seekable one is read in place, from its beginning wherever it stands, and left open at an unspecified position.
    One that cannot seek (a pipe, standard input) is copied to a temporary file first.
array
    ``(n,)`` or ``(n, channels)`` of float32, float64 in [-1, 1] or int16, int32, uint8 (divided by full scale), with
    its `sample_rate`. One that is not there as a whole yet goes through a `WaveformStream`.
Pcm
    Samples without a header, from a pipe or a file; nothing is copied.

What is not noticed: an OGG file cut exactly between two pages, damage inside OGG pages (the decoder conceals it), and a
WebM, AAC or MPEG stream that ends early or lacks packets, as these do not say how long they should be. An MP3 is
checked against its Xing header where it has one. Joined OGG files are read to the end, but not where two of them have
one serial number: of these the first part is read, for as long as the last one lasts (if that lasts longer, it is an
error). Recordings whose time stamps have gaps are read without the gaps, but windows in MP4 and WebM count them.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from audioset._decode import AudioSource, Decoder, Pcm, PcmFormat, Waveform, open_decoder
from audioset._decode.array import MOST_CHANNELS, check_samples, planes_of, whole_rate
from audioset._decode.base import to_mono
from audioset.errors import AudioError, OptionError, SampleRateError

__all__ = [
    "MAX_SAMPLE_RATE_HZ",
    "MIN_SAMPLE_RATE_HZ",
    "SAMPLE_RATE_HZ",
    "AudioInfo",
    "AudioSource",
    "Clip",
    "Pcm",
    "PcmFormat",
    "WaveformStream",
    "probe",
    "read",
    "stream",
]

SAMPLE_RATE_HZ = 16_000
MIN_SAMPLE_RATE_HZ = 1_000
MAX_SAMPLE_RATE_HZ = 1_000_000

_STREAM = "<stream>"
_LEAD_SAMPLES = 512  # around a window, at the lower of the two rates; half the length of the VHQ filter is below 150


@dataclass(frozen=True)
class Clip:
    """Part of a sound, for functions that take many sounds with a window each.

    Attributes
    ----------
    source : path, binary file object or array
        As `read` takes it.
    start_s, duration_s : float, float or None
        As in `read`: seconds from the beginning of the source, and how many; None reads to its end.
    """

    source: AudioSource
    start_s: float = 0.0
    duration_s: float | None = None


@dataclass(frozen=True)
class AudioInfo:
    """What a file says of itself.

    Attributes
    ----------
    duration_s : float or None
        Length in seconds; an estimate in MP3 and other streams without an index, None where the file does not say.
    sample_rate : int
        Frames a second of the file.
    channels : int
        Channels of the file.
    format : str
        Container and codec, for example "WAV PCM_16" or "MOV AAC".
    num_samples : int or None
        Exactly what `read` will give, at 16 kHz; None where only decoding can tell.
    """

    duration_s: float | None
    sample_rate: int
    channels: int
    format: str
    num_samples: int | None


def read(
    source: AudioSource, sample_rate: int | None = None, *, start_s: float = 0.0, duration_s: float | None = None
) -> Waveform:
    """Waveform (n,) of `source`: mono float32 at 16 kHz, nominally in [-1, 1] (lossy codecs may overshoot).

    ``read(source, start_s=s, duration_s=d)`` is ``read(source)[round(s * 16000):round((s + d) * 16000)]`` within 1e-6
    without decoding what comes before. The exception is noise that a codec makes up as it goes (AAC with perceptual
    noise substitution): its spectrum is the same, its samples are not.

    Parameters
    ----------
    source : path, binary file object or array
        See the module's text.
    sample_rate : int, optional
        Rate in Hz of an array; not for files.
    start_s : float
        Where to start, in seconds. Files are sought, not read up to there.
    duration_s : float, optional
        How much to read, in seconds; None reads to the end. A window that passes the end gives what is there.

    Returns
    -------
    ndarray of float32, shape (n,)
        At least one sample.

    Raises
    ------
    AudioError
        The source is missing, empty, not audio, damaged, cut short, holds NaN or Inf, or ends before `start_s`.
    SampleRateError
        The rate is outside 1,000 to 1,000,000 Hz.
    OptionError
        `start_s`, `duration_s` or `sample_rate` is out of range, missing or out of place.
    """
    return np.concatenate(list(stream(source, sample_rate, start_s=start_s, duration_s=duration_s)))


def stream(
    source: AudioSource, sample_rate: int | None = None, *, start_s: float = 0.0, duration_s: float | None = None
) -> Generator[Waveform, None, None]:
    """Chunks (n,) whose concatenation is ``read(source, ...)`` bit for bit, in a few megabytes whatever the length.

    Parameters and errors are those of `read`. Bad options raise at once; a source that cannot be decoded raises at
    the first chunk, and damage when it is reached. Chunks are never empty and their lengths depend on the source and
    window alone (of a `Pcm`, on what arrives at once too). Close the generator to let go of the file early.
    """
    first, stop = _window(start_s, duration_s)
    return _chunks(source, sample_rate, first, stop)


class WaveformStream:
    """Turns sound that arrives in chunks into its waveform: what `read` gives for the whole array, bit for bit.

    Nothing is held but what the resampler needs, so it may go on for ever. Samples at 16 kHz pass at once. At other
    rates a sample comes out when the sound some tenth of a second after it has been pushed, for the resampler's filter
    and its blocks: at most 85 ms at 11,025 to 192,000 Hz (measured), 112 ms at 8,000 Hz.

    Parameters
    ----------
    sample_rate : int
        Of the chunks, in Hz.
    channels : int, optional
        Of the chunks; by default as many as the first one has.

    Attributes
    ----------
    num_frames : int
        Frames pushed so far.

    Raises
    ------
    SampleRateError
        The rate is outside 1,000 to 1,000,000 Hz.
    OptionError
        `channels` is out of range.
    """

    def __init__(self, sample_rate: int, channels: int | None = None) -> None:
        self.sample_rate = whole_rate(sample_rate, _STREAM)
        _check_rate(_STREAM, self.sample_rate)
        if channels is not None and not 1 <= channels <= MOST_CHANNELS:
            raise OptionError(f"channels: {channels} is out of range; expected 1 to {MOST_CHANNELS}, or None")
        self.num_frames = 0
        self._channels = channels
        self._dtype: np.dtype[Any] | None = None
        self._resampler = None if self.sample_rate == SAMPLE_RATE_HZ else _Resampler(self.sample_rate)

    def push(self, chunk: npt.NDArray[Any]) -> Waveform:
        """Take the next frames, (n,) or (n, channels), and return the samples (m,) at 16 kHz that they complete.

        Types are those of `read`; n and m may be 0.

        Raises
        ------
        AudioError
            The chunk is of another type or number of channels than those before, or holds NaN or Inf. Nothing of it
            has been taken: it may be mended and pushed again.
        """
        samples = np.asarray(chunk)
        check_samples(samples, _STREAM, self._channels)
        if samples.size == 0:
            return np.empty(0, np.float32)
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        for found, expected, what in ((channels, self._channels, "channels"), (samples.dtype, self._dtype, "samples")):
            if expected is not None and found != expected:
                raise AudioError(
                    f"{_STREAM}: {found} {what} at {self.num_frames / self.sample_rate:.4f} s; expected {expected}, as "
                    "before. Convert the chunk, or begin another stream."
                )
        mono = to_mono(planes_of(np.ascontiguousarray(samples)))
        _check_finite(mono, _STREAM, self.num_frames, self.sample_rate)
        self._channels, self._dtype = channels, samples.dtype
        self.num_frames += len(samples)
        if self._resampler is not None:
            return self._resampler.push(mono)
        return mono.copy() if np.may_share_memory(mono, samples) else mono

    def finish(self) -> Waveform:
        """Return the samples (m,) that were still to come: the sound ends here."""
        if self._resampler is None or not self.num_frames:
            return np.empty(0, np.float32)
        return self._resampler.finish()


def probe(source: AudioSource) -> AudioInfo:
    """What the header of `source`, a path or file object, says, without decoding it (but for one frame in FFmpeg).

    Raises the errors of `read` that show in the header: missing, empty, not audio, cut short, refused rate.
    """
    if isinstance(source, np.ndarray):
        raise OptionError("source: probe was given an array; expected a path or file object. Look at its shape.")
    with open_decoder(source) as decoder:
        _check_rate(decoder.name, decoder.sample_rate)
        frames = decoder.num_frames
        num_samples = None if frames is None else _num_samples(frames, decoder.sample_rate)
        return AudioInfo(decoder.duration_s, decoder.sample_rate, decoder.channels, decoder.format, num_samples)


def _num_samples(num_frames: int, sample_rate: int) -> int:
    """How many samples soxr makes of `num_frames`, rounding halves up; but never none."""
    return max(1, (2 * num_frames * SAMPLE_RATE_HZ + sample_rate) // (2 * sample_rate))


def _window(start_s: float, duration_s: float | None) -> tuple[int, int | None]:
    """First sample and the one after the last (None: the end)."""
    if not (math.isfinite(start_s) and start_s >= 0):
        raise OptionError(f"start_s: {start_s}; expected seconds from the beginning, 0 or more.")
    first = round(start_s * SAMPLE_RATE_HZ)
    if duration_s is None:
        return first, None
    if not (math.isfinite(duration_s) and duration_s > 0):
        raise OptionError(f"duration_s: {duration_s}; expected seconds above 0, or None for all that follows.")
    stop = round((start_s + duration_s) * SAMPLE_RATE_HZ)
    if stop <= first:
        raise OptionError(
            f"duration_s: {duration_s} is no whole sample at {SAMPLE_RATE_HZ} Hz; "
            f"expected at least {1 / SAMPLE_RATE_HZ} s."
        )
    return first, stop


def _check_rate(name: str, sample_rate: int) -> None:
    if not MIN_SAMPLE_RATE_HZ <= sample_rate <= MAX_SAMPLE_RATE_HZ:
        raise SampleRateError(
            f"{name}: sample rate {sample_rate:,} Hz; expected {MIN_SAMPLE_RATE_HZ:,} to "
            f"{MAX_SAMPLE_RATE_HZ:,} Hz. Check what it should be, and correct the header or the sample_rate argument."
        )


def _chunks(
    source: AudioSource, sample_rate: int | None, first: int, stop: int | None
) -> Generator[Waveform, None, None]:
    with open_decoder(source, sample_rate) as decoder:
        _check_rate(decoder.name, decoder.sample_rate)
        if decoder.num_frames is not None and first >= _num_samples(decoder.num_frames, decoder.sample_rate):
            raise _starts_after_end(decoder, first)
        emitted = 0
        for chunk in _samples(decoder, first, stop):
            emitted += chunk.size
            yield chunk
        if not emitted:
            raise _starts_after_end(decoder, first)


def _samples(decoder: Decoder, first: int, stop: int | None) -> Iterator[Waveform]:
    """Non-empty chunks of the samples from `first` up to `stop`."""
    rate = decoder.sample_rate
    if rate == SAMPLE_RATE_HZ:
        yield from _finite(decoder, first, stop)
        return
    # Every `step` frames a frame and a sample coincide: starting there keeps the samples on the grid of the whole.
    step = rate // math.gcd(rate, SAMPLE_RATE_HZ)
    lead = -(-_LEAD_SAMPLES * max(rate, SAMPLE_RATE_HZ) // SAMPLE_RATE_HZ)
    start = max(0, first * rate // SAMPLE_RATE_HZ - lead) // step * step
    end = None if stop is None else -(-stop * rate // SAMPLE_RATE_HZ) + lead
    position = start * SAMPLE_RATE_HZ // rate
    for chunk in _resampled(_finite(decoder, start, end), rate):
        wanted = chunk[max(0, first - position) : None if stop is None else max(0, stop - position)]
        position += chunk.size
        if wanted.size:
            yield wanted


def _resampled(blocks: Iterator[Waveform], rate: int) -> Iterator[Waveform]:
    resampler = _Resampler(rate)
    yield from map(resampler.push, blocks)
    yield resampler.finish()


class _Resampler:
    """Mono blocks at any rate to 16 kHz; where they are cut changes no sample."""

    def __init__(self, rate: int) -> None:
        self._soxr = soxr.ResampleStream(rate, SAMPLE_RATE_HZ, 1, dtype="float32", quality="VHQ")
        self._first = np.empty(0, np.float32)
        self._made = False

    def push(self, block: Waveform) -> Waveform:
        if not self._first.size:
            self._first = block[:1].copy()
        chunk: Waveform = self._soxr.resample_chunk(block)
        self._made = self._made or chunk.size > 0
        return chunk

    def finish(self) -> Waveform:
        tail: Waveform = self._soxr.resample_chunk(np.empty(0, np.float32), last=True)
        # A few frames may be less than half a sample, of which soxr makes nothing.
        return tail if self._made or tail.size else self._first


def _finite(decoder: Decoder, start: int, end: int | None) -> Iterator[Waveform]:
    """The decoder's blocks; NaN and Inf are refused, because one of them would silence everything after it."""
    position = start
    for block in decoder.blocks(start, end):
        _check_finite(block, decoder.name, position, decoder.sample_rate)
        position += block.size
        yield block


def _check_finite(block: Waveform, name: str, position: int, rate: int) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = not math.isfinite(np.add.reduce(block))  # cheaper than looking at each
    if suspect and not np.isfinite(block).all():
        at = int(np.flatnonzero(~np.isfinite(block))[0])
        raise AudioError(
            f"{name}: NaN or Inf sample at {(position + at) / rate:.4f} s (frame {position + at:,}); expected finite "
            "samples. Find what wrote it, or replace it, for example with numpy.nan_to_num."
        )


def _starts_after_end(decoder: Decoder, first: int) -> AudioError:
    length = "its length is unknown" if decoder.duration_s is None else f"it is {decoder.duration_s:.3f} s long"
    return AudioError(
        f"{decoder.name}: nothing at start_s={first / SAMPLE_RATE_HZ:g}: {length}; expected a start before the end. "
        "Choose an earlier start_s."
    )

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
    its `sample_rate`.

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

import numpy as np
import soxr

from audioset._decode import AudioSource, Decoder, Waveform, open_decoder
from audioset.errors import AudioError, OptionError, SampleRateError

__all__ = [
    "MAX_SAMPLE_RATE_HZ",
    "MIN_SAMPLE_RATE_HZ",
    "SAMPLE_RATE_HZ",
    "AudioInfo",
    "AudioSource",
    "probe",
    "read",
    "stream",
]

SAMPLE_RATE_HZ = 16_000
MIN_SAMPLE_RATE_HZ = 1_000
MAX_SAMPLE_RATE_HZ = 1_000_000

_LEAD_SAMPLES = 512  # around a window, at the lower of the two rates; half the length of the VHQ filter is below 150


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
    window alone. Close the generator to let go of the file early.
    """
    first, stop = _window(start_s, duration_s)
    return _chunks(source, sample_rate, first, stop)


def probe(source: AudioSource) -> AudioInfo:
    """What the header of `source`, a path or file object, says, without decoding it (but for one frame in FFmpeg).

    Raises the errors of `read` that show in the header: missing, empty, not audio, cut short, refused rate.
    """
    if isinstance(source, np.ndarray):
        raise OptionError("source: probe was given an array; expected a path or file object. Look at its shape.")
    with open_decoder(source) as decoder:
        _check_rate(decoder)
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


def _check_rate(decoder: Decoder) -> None:
    if not MIN_SAMPLE_RATE_HZ <= decoder.sample_rate <= MAX_SAMPLE_RATE_HZ:
        raise SampleRateError(
            f"{decoder.name}: sample rate {decoder.sample_rate:,} Hz; expected {MIN_SAMPLE_RATE_HZ:,} to "
            f"{MAX_SAMPLE_RATE_HZ:,} Hz. Check what it should be, and correct the header or the sample_rate argument."
        )


def _chunks(
    source: AudioSource, sample_rate: int | None, first: int, stop: int | None
) -> Generator[Waveform, None, None]:
    with open_decoder(source, sample_rate) as decoder:
        _check_rate(decoder)
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
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE_HZ, 1, dtype="float32", quality="VHQ")
    made = 0
    block = np.empty(0, np.float32)
    for block in blocks:
        chunk = resampler.resample_chunk(block)
        made += chunk.size
        yield chunk
    tail = resampler.resample_chunk(np.empty(0, np.float32), last=True)
    # A few frames may be less than half a sample, of which soxr makes nothing.
    yield tail if made or tail.size else block[:1]


def _finite(decoder: Decoder, start: int, end: int | None) -> Iterator[Waveform]:
    """The decoder's blocks; NaN and Inf are refused, because one of them would silence everything after it."""
    position = start
    for block in decoder.blocks(start, end):
        with np.errstate(over="ignore", invalid="ignore"):
            suspect = not math.isfinite(np.add.reduce(block))  # cheaper than looking at each
        if suspect and not np.isfinite(block).all():
            at = int(np.flatnonzero(~np.isfinite(block))[0])
            raise AudioError(
                f"{decoder.name}: NaN or Inf sample at {(position + at) / decoder.sample_rate:.4f} s "
                f"(frame {position + at:,}); expected finite samples. Find what wrote it, or replace it, for example "
                "with numpy.nan_to_num."
            )
        position += block.size
        yield block


def _starts_after_end(decoder: Decoder, first: int) -> AudioError:
    length = "its length is unknown" if decoder.duration_s is None else f"it is {decoder.duration_s:.3f} s long"
    return AudioError(
        f"{decoder.name}: nothing at start_s={first / SAMPLE_RATE_HZ:g}: {length}; expected a start before the end. "
        "Choose an earlier start_s."
    )

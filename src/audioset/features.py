"""Waveform to log-mel examples: the front end of VGGish and YAMNet.

A *frame* is one column of the short-time Fourier transform: 25 ms under a periodic Hann window, every 10 ms. An
*example* is 96 consecutive frames of 64 log-mel bands. Example `i` starts at sample `round(i · hop_s · 16000)`, and the
frames of an example lie within 15,600 samples (0.975 s): 95 hops and one window.

How many examples a waveform of n samples gives, with start(i) as above:

- `pad="none"`: every i with start(i) + 15600 ≤ n, as the original code does; a clip under 15,600 samples gives none.
- `pad="short"`: the same, but a clip of 1 to 15,599 samples is zero-padded to one example.
- `pad="all"`: every i with start(i) < n, up to the first that reaches the end of the waveform; the last is zero-padded.

Constants: Hershey et al. 2017 and the AudioSet release. The original computes in float64; this does in float32.
"""

from __future__ import annotations

import itertools
import math
import threading
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from audioset.errors import AudioError, OptionError

SAMPLE_RATE_HZ = 16_000
WINDOW_S = 0.025
FRAME_HOP_S = 0.010
EXAMPLE_S = 0.96
NUM_MEL_BANDS = 64
MEL_FMIN_HZ = 125.0
MEL_FMAX_HZ = 7_500.0
DEFAULT_LOG_OFFSET = 0.01
DEFAULT_HOP_S = EXAMPLE_S
MAX_HOP_S = 86_400

WINDOW_SAMPLES = round(WINDOW_S * SAMPLE_RATE_HZ)
FRAME_HOP_SAMPLES = round(FRAME_HOP_S * SAMPLE_RATE_HZ)
FFT_SAMPLES = 1 << (WINDOW_SAMPLES - 1).bit_length()
NUM_FRAMES = round(EXAMPLE_S / FRAME_HOP_S)
EXAMPLE_SAMPLES = (NUM_FRAMES - 1) * FRAME_HOP_SAMPLES + WINDOW_SAMPLES

Pad: TypeAlias = Literal["short", "none", "all"]
Float32Array: TypeAlias = npt.NDArray[np.float32]

# Frames are transformed in blocks of this many, counted from the start of the waveform (or of the example where
# examples share no frames). The same frame is then always computed in the same place of a block of the same shape, so
# the result does not depend on how the waveform was cut into chunks. 16 × 257 × 64 also stays below the size at which
# BLAS libraries start threads of their own, which would fight with the engine's.
_BLOCK_FRAMES = 16
# Examples transformed at once: few enough for the intermediate spectra (100 kB each) to stay in the cache.
_EXAMPLES_AT_ONCE = 4
_CHUNK_SAMPLES = 60 * SAMPLE_RATE_HZ


class ShortClipWarning(UserWarning):
    """A clip shorter than one example was zero-padded to one."""


def num_examples(num_samples: int, *, hop_s: float = DEFAULT_HOP_S, pad: Pad = "short") -> int:
    """Return how many examples a waveform of `num_samples` samples at 16 kHz gives, by the module's formula."""
    hop = _hop_samples(hop_s)
    check_pad(pad)
    if num_samples <= 0:
        return 0
    if num_samples <= EXAMPLE_SAMPLES:
        return 1 if pad != "none" or num_samples == EXAMPLE_SAMPLES else 0
    # The last example that lies wholly within the waveform; the division is exact to within one, settled by _start.
    last = math.floor((num_samples - EXAMPLE_SAMPLES) / hop)
    while _start(last + 1, hop) + EXAMPLE_SAMPLES <= num_samples:
        last += 1
    while _start(last, hop) + EXAMPLE_SAMPLES > num_samples:
        last -= 1
    ends_short = _start(last, hop) + EXAMPLE_SAMPLES < num_samples
    if pad == "all" and ends_short and _start(last + 1, hop) < num_samples:
        last += 1
    return last + 1


def example_times(count: int, *, hop_s: float = DEFAULT_HOP_S, first: int = 0) -> tuple[npt.NDArray[np.float64], ...]:
    """Return start, centre and end of examples `first` to `first + count - 1`, in seconds from the waveform's start.

    Returns
    -------
    start_s, centre_s, end_s : ndarray of float64, shape (count,)
        `start_s[i]` is `round((first + i) · hop_s · 16000) / 16000`; an example lasts 0.96 s (the window of its last
        frame reaches 15 ms further).
    """
    start_s = _start(np.arange(first, first + count), _hop_samples(hop_s)) / SAMPLE_RATE_HZ
    return start_s, start_s + EXAMPLE_S / 2, start_s + EXAMPLE_S


def log_mel(waveform: npt.ArrayLike, *, log_offset: float = DEFAULT_LOG_OFFSET) -> Float32Array:
    """Return the log-mel spectrogram of a 16 kHz waveform.

    Parameters
    ----------
    waveform : array_like of float, shape (n,)
        Samples, nominally in [-1, 1].
    log_offset : float
        Added to the mel magnitudes before the natural logarithm: 0.01 for VGGish, 0.001 for YAMNet.

    Returns
    -------
    ndarray of float32, shape (frames, 64)
        `frames = 1 + (n - 400) // 160`, none below 400 samples. `log_mel[j]` starts at `j · 0.01` seconds.
    """
    samples = _as_waveform(waveform)
    count = max(0, 1 + (len(samples) - WINDOW_SAMPLES) // FRAME_HOP_SAMPLES)
    return _log_mel_frames(samples, count, log_offset)


def examples(
    waveform: npt.ArrayLike,
    *,
    hop_s: float = DEFAULT_HOP_S,
    pad: Pad = "short",
    log_offset: float = DEFAULT_LOG_OFFSET,
) -> Float32Array:
    """Return the log-mel examples of a 16 kHz waveform.

    Parameters
    ----------
    waveform : array_like of float, shape (n,)
        Samples, nominally in [-1, 1]. An empty waveform gives no example; silence gives `log(log_offset)`.
    hop_s : float
        Seconds from one example's start to the next; any value from one sample (1/16000) up.
    pad : {"short", "none", "all"}
        What happens to samples that do not fill an example; see the module's text.
    log_offset : float
        Added to the mel magnitudes before the natural logarithm.

    Returns
    -------
    ndarray of float32, shape (k, 96, 64)
        `examples[i, j]` is the frame that starts `j · 0.01` seconds into example `i`; k is
        `num_examples(n, hop_s=hop_s, pad=pad)`.

    Raises
    ------
    AudioError
        The waveform is not one-dimensional, not of a float type or not finite.
    OptionError
        `hop_s` or `pad` is out of range.

    Warns
    -----
    ShortClipWarning
        The clip is shorter than one example and was padded to one.
    """
    stream = ExampleStream(hop_s=hop_s, pad=pad, log_offset=log_offset)
    samples = _as_waveform(waveform)
    chunks = (samples[at : at + _CHUNK_SAMPLES] for at in range(0, len(samples), _CHUNK_SAMPLES))
    parts = [*itertools.chain.from_iterable(map(stream.push, chunks)), *stream.finish()]
    if stream.padded_short:
        warn_short()
    return np.concatenate(parts) if parts else np.empty((0, NUM_FRAMES, NUM_MEL_BANDS), np.float32)


def stream_examples(
    chunks: Iterable[Float32Array],
    *,
    hop_s: float = DEFAULT_HOP_S,
    pad: Pad = "short",
    log_offset: float = DEFAULT_LOG_OFFSET,
) -> Iterator[Float32Array]:
    """Yield the examples of a waveform that comes in chunks: what `examples` gives for the whole, bit for bit."""
    stream = ExampleStream(hop_s=hop_s, pad=pad, log_offset=log_offset)
    for chunk in chunks:
        yield from stream.push(chunk)
    yield from stream.finish()
    if stream.padded_short:
        warn_short()


def warn_short() -> None:
    """Warn that a clip was padded; Python shows it once."""
    warnings.warn(
        f"a clip shorter than {EXAMPLE_SAMPLES / SAMPLE_RATE_HZ} s was zero-padded to one example; "
        'pad="none" leaves such clips without an embedding, as the original code does',
        ShortClipWarning,
        stacklevel=3,
    )


class ExampleStream:
    """Cuts a waveform into examples as its samples arrive, holding no more than an example's worth of them.

    Attributes
    ----------
    num_samples : int
        Samples pushed so far.
    padded_short : bool
        After `finish`: the waveform was shorter than one example and was padded to one.
    """

    def __init__(
        self, *, hop_s: float = DEFAULT_HOP_S, pad: Pad = "short", log_offset: float = DEFAULT_LOG_OFFSET
    ) -> None:
        self._hop_s = hop_s
        self._hop = _hop_samples(hop_s)
        self._pad = check_pad(pad)
        self._log_offset = log_offset
        # Overlapping examples whose hop is a whole number of frames share them: each frame is computed once.
        self._shares_frames = self._hop < NUM_FRAMES * FRAME_HOP_SAMPLES and self._hop % FRAME_HOP_SAMPLES == 0
        self._samples = np.empty(0, np.float32)
        self._first_sample = 0  # index in the waveform of self._samples[0]
        self._frames = np.empty((0, NUM_MEL_BANDS), np.float32)
        self._first_frame = 0
        self._next_example = 0
        self.num_samples = 0
        self.padded_short = False

    def push(self, chunk: Float32Array) -> Iterator[Float32Array]:
        """Take the next samples, shape (n,), and yield the examples that they complete, shape (k, 96, 64)."""
        self._append(chunk)
        self.num_samples += len(chunk)
        if self._shares_frames:
            whole = 1 + (len(self._samples) - WINDOW_SAMPLES) // FRAME_HOP_SAMPLES
            self._take_frames(max(0, whole // _BLOCK_FRAMES * _BLOCK_FRAMES))
        yield from self._cut(num_examples(self._end_of_data(), hop_s=self._hop_s, pad="none") - self._next_example)

    def finish(self) -> Iterator[Float32Array]:
        """Yield the examples left at the end of the waveform, padded as the policy says."""
        total = num_examples(self.num_samples, hop_s=self._hop_s, pad=self._pad)
        count = total - self._next_example
        self.padded_short = self._pad != "none" and 0 < self.num_samples < EXAMPLE_SAMPLES
        if count <= 0:
            return
        needed = int(_start(total - 1, self._hop)) + EXAMPLE_SAMPLES
        missing = needed - (self._first_sample + len(self._samples))
        if missing > 0:
            self._append(np.zeros(missing, np.float32))
        if self._shares_frames:
            self._take_frames((needed - self._first_sample - WINDOW_SAMPLES) // FRAME_HOP_SAMPLES + 1)
        yield from self._cut(count)

    def _append(self, chunk: Float32Array) -> None:
        # A hop longer than an example leaves samples between examples: nothing needs them.
        skip = max(0, self._first_sample - self.num_samples)
        self._samples = np.concatenate([self._samples, chunk[skip:]])

    def _end_of_data(self) -> int:
        """Index in the waveform one past the last sample that an example may use now."""
        if not self._shares_frames:
            return self._first_sample + len(self._samples)
        return (self._first_frame + len(self._frames) - 1) * FRAME_HOP_SAMPLES + WINDOW_SAMPLES

    def _take_frames(self, count: int) -> None:
        new = _log_mel_frames(self._samples, count, self._log_offset)
        self._frames = np.concatenate([self._frames, new])
        self._samples = self._samples[count * FRAME_HOP_SAMPLES :]
        self._first_sample += count * FRAME_HOP_SAMPLES

    def _cut(self, count: int) -> Iterator[Float32Array]:
        while count > 0:
            size = min(count, _EXAMPLES_AT_ONCE)
            count -= size
            starts = _start(np.arange(self._next_example, self._next_example + size + 1), self._hop).astype(np.int64)
            self._next_example += size
            if self._shares_frames:
                first = starts // FRAME_HOP_SAMPLES - self._first_frame
                examples = np.stack([self._frames[i : i + NUM_FRAMES] for i in first[:-1]])
                self._frames = self._frames[first[-1] :]
                self._first_frame += int(first[-1])
            else:
                local = starts - self._first_sample
                patches = [self._samples[i : i + EXAMPLE_SAMPLES] for i in local[:-1]]
                examples = _log_mel_examples(patches, self._log_offset)
                self._samples = self._samples[local[-1] :]
                self._first_sample = int(starts[-1])
            if not np.isfinite(np.add.reduce(examples, axis=None)):
                raise AudioError(
                    f"samples so large that their spectrum overflows, within {starts[0] / SAMPLE_RATE_HZ:.2f} to "
                    f"{(starts[size - 1] + EXAMPLE_SAMPLES) / SAMPLE_RATE_HZ:.2f} s; expected values in about [-1, 1]. "
                    "Scale the recording, or cut them out"
                )
            yield examples


def check_pad(pad: str) -> Pad:
    """Return `pad` if it is a known policy; raise OptionError otherwise."""
    if pad not in get_args(Pad):
        raise OptionError(f"pad: {pad!r} is not a policy; expected one of {', '.join(get_args(Pad))}")
    return cast(Pad, pad)


def _hop_samples(hop_s: float) -> float:
    hop = hop_s * SAMPLE_RATE_HZ
    if not 1 <= hop <= MAX_HOP_S * SAMPLE_RATE_HZ:
        raise OptionError(
            f"hop_s: {hop_s} is out of range; expected seconds from {1 / SAMPLE_RATE_HZ} (one sample) to {MAX_HOP_S:,}"
        )
    # 0.29 · 16000 is 4639.999…: a hop meant as a whole number of samples is taken as one.
    return float(round(hop)) if abs(hop - round(hop)) < 1e-6 else hop


def _start(index: int | npt.NDArray[np.int64], hop_samples: float) -> npt.NDArray[np.float64]:
    return np.floor(np.multiply(index, hop_samples) + 0.5)


def _as_waveform(waveform: npt.ArrayLike) -> Float32Array:
    array = np.asarray(waveform)
    if array.ndim != 1:
        raise AudioError(f"waveform: shape {array.shape}; expected (n,). audioset.audio.read mixes channels down")
    if array.dtype.kind != "f":
        raise AudioError(
            f"waveform: dtype {array.dtype}; expected float32 in [-1, 1]. audioset.audio.read scales integer samples"
        )
    samples = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise AudioError("waveform: NaN or infinite samples; expected finite values. Cut them out or set them to 0")
    return samples


@cache
def _hann() -> Float32Array:
    """Periodic Hann window."""
    phase = 2 * np.pi * np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES
    return (0.5 - 0.5 * np.cos(phase)).astype(np.float32)


@cache
def mel_matrix() -> Float32Array:
    """Return the weights of FFT bins in mel bands, float32, shape (257, 64).

    Triangles on the HTK mel scale, `1127 · ln(1 + f / 700)`, straight in mel; the DC bin counts in none.
    """
    bins_mel = _hz_to_mel(np.linspace(0, SAMPLE_RATE_HZ / 2, FFT_SAMPLES // 2 + 1))[:, np.newaxis]
    edges_mel = np.linspace(_hz_to_mel(MEL_FMIN_HZ), _hz_to_mel(MEL_FMAX_HZ), NUM_MEL_BANDS + 2)
    lower, centre, upper = edges_mel[:-2], edges_mel[1:-1], edges_mel[2:]
    rising = (bins_mel - lower) / (centre - lower)
    falling = (upper - bins_mel) / (upper - centre)
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return np.asarray(weights, dtype=np.float32)


def _hz_to_mel(hz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(1127.0 * np.log1p(np.asarray(hz) / 700.0))


def _log_mel_frames(samples: Float32Array, count: int, log_offset: float) -> Float32Array:
    """First `count` frames of `samples`, computed in whole blocks; what lies beyond the samples counts as zero."""
    if count == 0:
        return np.empty((0, NUM_MEL_BANDS), np.float32)
    blocks = -(-count // _BLOCK_FRAMES)
    needed = (blocks * _BLOCK_FRAMES - 1) * FRAME_HOP_SAMPLES + WINDOW_SAMPLES
    if needed > len(samples):
        samples = np.concatenate([samples, np.zeros(needed - len(samples), np.float32)])
    frames = np.lib.stride_tricks.sliding_window_view(samples[:needed], WINDOW_SAMPLES)[::FRAME_HOP_SAMPLES]
    at_once = _EXAMPLES_AT_ONCE * NUM_FRAMES
    parts = [_log_mel_blocks([frames[at : at + at_once]], log_offset) for at in range(0, len(frames), at_once)]
    return np.concatenate(parts)[:count]


def _log_mel_examples(patches: list[Float32Array], log_offset: float) -> Float32Array:
    """Log-mel of waveforms of one example each."""
    view = np.lib.stride_tricks.sliding_window_view
    frames = [view(patch, WINDOW_SAMPLES)[::FRAME_HOP_SAMPLES] for patch in patches]
    return _log_mel_blocks(frames, log_offset).reshape(-1, NUM_FRAMES, NUM_MEL_BANDS)


class _Workspace(threading.local):
    """Room for the intermediate results of one block of work, kept by each thread.

    Taken anew each time, it costs up to twice the arithmetic, where the C library hands memory of this size back to the
    system at once and every page of it faults.
    """

    def __init__(self) -> None:
        frames, bins = _EXAMPLES_AT_ONCE * NUM_FRAMES, FFT_SAMPLES // 2 + 1
        # Windowed samples, spectrum, magnitudes.
        self.rooms: tuple[npt.NDArray[Any], ...] = (
            np.empty((frames, WINDOW_SAMPLES), np.float32),
            np.empty((frames, bins), np.complex64),
            np.empty((frames, bins), np.float32),
        )


_workspace = _Workspace()


def _log_mel_blocks(parts: list[Float32Array], log_offset: float) -> Float32Array:
    """Samples of frames (f, 400), in parts, to (f, 64) log-mel; f, over all parts, is a multiple of the block."""
    count = sum(map(len, parts))
    windowed, spectrum, magnitude = (room[:count] for room in _workspace.rooms)
    with np.errstate(over="ignore", invalid="ignore"):  # ExampleStream finds and names it
        at = 0
        for frames in parts:
            np.multiply(frames, _hann(), out=windowed[at : at + len(frames)])
            at += len(frames)
        np.fft.rfft(windowed, FFT_SAMPLES, out=spectrum)
        pairs = spectrum.view(np.float32)
        np.square(pairs, out=pairs)
        np.add(pairs[:, 0::2], pairs[:, 1::2], out=magnitude)
        np.sqrt(magnitude, out=magnitude)
        mel: Float32Array = magnitude.reshape(-1, _BLOCK_FRAMES, magnitude.shape[-1]) @ mel_matrix()
    mel += np.float32(log_offset)
    np.log(mel, out=mel)
    return mel.reshape(-1, NUM_MEL_BANDS)

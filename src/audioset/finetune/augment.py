"""Examples to learn from that are not quite those that were recorded: shifted, softer, noisier, partly hidden.

Everything is drawn from the generator that is given, so a step of training depends on its seed and number alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audioset.features import EXAMPLE_SAMPLES, NUM_FRAMES, NUM_MEL_BANDS, SAMPLE_RATE_HZ, Pad, num_examples

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """How far examples may be moved from those that were recorded.

    Attributes
    ----------
    shift_s : float
        An example begins up to so much earlier or later; what is shorter than an example, up to so much later in it,
        as far as there is room.
    speed : float
        Played up to so many times faster or slower, which moves pitch too; 1 for neither.
    gain_db : float
        Louder or softer, at most.
    noise_share : float
        Of the examples, how many get noise: white, or pink.
    noise_db : (float, float)
        How far below the sound it is.
    mask_frames, mask_bands : int
        Widest run of frames, and of mel bands, that is replaced by the example's mean (SpecAugment).
    """

    shift_s: float = 0.24
    speed: float = 1.2
    gain_db: float = 8.0
    noise_share: float = 0.5
    noise_db: tuple[float, float] = (10.0, 40.0)
    mask_frames: int = 16
    mask_bands: int = 8


def example_of(
    waveform: Waveform, hop_s: float, pad: Pad, rng: np.random.Generator, augmentation: Augmentation | None
) -> Waveform:
    """Return the samples of one example of a clip, float32, shape (15600,), with zeros where the clip has none.

    Without augmentation it is one of those that the model sees when it tags the clip.
    """
    length = len(waveform)
    count = num_examples(length, hop_s=hop_s, pad=pad)
    start = round(int(rng.integers(max(count, 1))) * hop_s * SAMPLE_RATE_HZ)
    if augmentation is None:
        return _cut(waveform, start, EXAMPLE_SAMPLES)
    faster = augmentation.speed ** rng.uniform(-1, 1)
    taken = round(EXAMPLE_SAMPLES * faster)
    room = taken - length
    most = round(augmentation.shift_s * SAMPLE_RATE_HZ)
    moved = start + int(rng.integers(-most, most + 1))
    sound = _cut(waveform, min(max(moved, -min(most, max(room, 0))), max(start, -room)), taken)
    # Straight lines between samples: dull, but what is learnt must bear that too.
    places = np.arange(EXAMPLE_SAMPLES) * (taken / EXAMPLE_SAMPLES)
    return _noisier(np.interp(places, np.arange(taken), sound).astype(np.float32), rng, augmentation)


def _cut(waveform: Waveform, start: int, length: int) -> Waveform:
    """Samples from `start` on, which may lie before the first, with zeros where there are none."""
    found = np.zeros(length, np.float32)
    first, stop = max(start, 0), min(start + length, len(waveform))
    found[first - start : stop - start] = waveform[first:stop]
    return found


def hidden(num: int, rng: np.random.Generator, augmentation: Augmentation) -> npt.NDArray[np.bool_]:
    """Return which values of `num` examples are to be hidden, shape (num, 96, 64)."""
    found = np.zeros((num, NUM_FRAMES, NUM_MEL_BANDS), np.bool_)
    for widest, axis in ((augmentation.mask_frames, 1), (augmentation.mask_bands, 2)):
        size = found.shape[axis]
        width = rng.integers(0, widest + 1, (num, 1))
        first = rng.integers(0, size - width + 1)
        place = np.arange(size)
        found |= np.expand_dims((place >= first) & (place < first + width), 3 - axis)
    return found


def _noisier(example: Waveform, rng: np.random.Generator, augmentation: Augmentation) -> Waveform:
    sound: npt.NDArray[np.floating] = example
    gain_db = rng.uniform(-augmentation.gain_db, augmentation.gain_db)
    noisy, pink = rng.random(2)
    if noisy < augmentation.noise_share:
        below_db = rng.uniform(*augmentation.noise_db)
        noise = rng.standard_normal(len(example))
        if pink < 0.5:
            spectrum = np.fft.rfft(noise)
            noise = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), len(noise))
        level = np.sqrt(np.mean(np.square(example, dtype=np.float64)) / np.mean(np.square(noise, dtype=np.float64)))
        sound = example + noise * (level * 10 ** (-below_db / 20))
    return np.asarray(sound * 10 ** (gain_db / 20), np.float32)

"""Examples to learn from: what may change, and what must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from audioset.features import EXAMPLE_SAMPLES, SAMPLE_RATE_HZ
from audioset.finetune.augment import Augmentation, example_of, hidden

STILL = Augmentation(shift_s=0, speed=1, gain_db=0, noise_share=0, mask_frames=0, mask_bands=0)
LENGTHS = [1, 4000, EXAMPLE_SAMPLES, EXAMPLE_SAMPLES + 1, 50_000]


def clip(length: int) -> np.ndarray:
    return np.random.default_rng(length).standard_normal(length).astype(np.float32)


@pytest.mark.parametrize("length", LENGTHS)
def test_without_augmentation_it_is_an_example_that_tagging_sees(length: int, rng: np.random.Generator) -> None:
    waveform = clip(length)
    padded = np.concatenate([waveform, np.zeros(EXAMPLE_SAMPLES, np.float32)])
    hop = round(0.48 * SAMPLE_RATE_HZ)
    starts = set()
    for _ in range(20):
        example = example_of(waveform, 0.48, "all", rng, None)
        matching = [s for s in range(0, length, hop) if np.array_equal(example, padded[s : s + EXAMPLE_SAMPLES])]
        assert matching
        starts.add(matching[0])
    assert len(starts) > 1 or length <= EXAMPLE_SAMPLES


@pytest.mark.parametrize("length", LENGTHS)
def test_augmented_examples_have_the_shape_and_are_finite(length: int, rng: np.random.Generator) -> None:
    for _ in range(20):
        example = example_of(clip(length), 0.96, "short", rng, Augmentation())
        assert example.shape == (EXAMPLE_SAMPLES,)
        assert example.dtype == np.float32
        assert np.isfinite(example).all()
        assert example.any()


def test_a_short_clip_moves_as_a_whole_as_far_as_there_is_room(rng: np.random.Generator) -> None:
    waveform, found = clip(4000), set()
    for _ in range(50):
        example = example_of(waveform, 0.48, "all", rng, replace(STILL, shift_s=0.24))
        start = int(np.flatnonzero(example)[0])
        np.testing.assert_array_equal(example[start : start + 4000], waveform)
        found.add(start)
    assert 0 in found  # where tagging has it
    assert 2000 < max(found) <= 3840
    almost_full = example_of(clip(EXAMPLE_SAMPLES - 5), 0.48, "all", rng, replace(STILL, shift_s=0.24))
    assert np.flatnonzero(almost_full)[0] <= 5


def test_speed_moves_pitch(rng: np.random.Generator) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(40_000) / SAMPLE_RATE_HZ).astype(np.float32)
    peaks = []
    for _ in range(30):
        example = example_of(tone, 0.96, "short", rng, replace(STILL, speed=1.2))
        peaks.append(int(np.abs(np.fft.rfft(example)).argmax()) * SAMPLE_RATE_HZ / EXAMPLE_SAMPLES)
    assert 1000 / 1.21 < min(peaks) < 900
    assert 1100 < max(peaks) < 1000 * 1.21


def test_gain_and_noise_stay_within_bounds(rng: np.random.Generator) -> None:
    waveform = clip(EXAMPLE_SAMPLES)
    power = np.mean(waveform**2)
    for _ in range(20):
        louder = example_of(waveform, 0.96, "short", rng, replace(STILL, gain_db=6))
        assert -6 <= 10 * np.log10(np.mean(louder**2) / power) <= 6.001
        noisy = example_of(waveform, 0.96, "short", rng, replace(STILL, noise_share=1, noise_db=(10, 20)))
        assert -20.01 <= 10 * np.log10(np.mean((noisy - waveform) ** 2) / power) <= -9.99


def test_silence_stays_silent(rng: np.random.Generator) -> None:
    assert not example_of(np.zeros(20_000, np.float32), 0.96, "short", rng, Augmentation()).any()


def test_masks_are_one_run_of_frames_and_one_of_bands(rng: np.random.Generator) -> None:
    masks = hidden(200, rng, Augmentation())
    assert masks.shape == (200, 96, 64)
    frames, bands = masks.all(axis=2), masks.all(axis=1)
    np.testing.assert_array_equal(masks, frames[:, :, None] | bands[:, None, :])
    for runs, widest in ((frames, 16), (bands, 8)):
        assert runs.sum(axis=1).max() == widest
        assert (np.abs(np.diff(runs.astype(int), axis=1)).sum(axis=1) <= 2).all()
    assert not hidden(5, rng, STILL).any()

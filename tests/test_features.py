"""The front end: against the original's values, against a plain float64 rewrite, and against itself in pieces."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset import features
from audioset.errors import AudioError, OptionError

EXAMPLE = features.EXAMPLE_SAMPLES


def plain_examples(waveform: npt.NDArray[np.float32], hop_s: float, log_offset: float) -> npt.NDArray[np.float64]:
    """Every example on its own, frame by frame, in float64, by the textbook: the oracle."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    fft_hz = np.arange(257) * 16000 / 512

    def mel(hz: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return 1127 * np.log(1 + np.asarray(hz) / 700)

    edges = np.linspace(mel(125), mel(7500), 66)
    bands = np.zeros((257, 64))
    for band in range(64):
        low, mid, high = edges[band : band + 3]
        for k in range(1, 257):
            m = mel(fft_hz[k])
            bands[k, band] = max(0, min((m - low) / (mid - low), (high - m) / (high - mid)))
    out = []
    index = 0
    while (start := int(np.floor(index * hop_s * 16000 + 0.5))) + EXAMPLE <= len(waveform):
        frames = [waveform[start + 160 * j : start + 160 * j + 400].astype(np.float64) for j in range(96)]
        spectrum = np.abs(np.fft.rfft(np.array(frames) * window, 512))
        out.append(np.log(spectrum @ bands + log_offset))
        index += 1
    return np.array(out).reshape(-1, 96, 64)


@pytest.mark.parametrize("hop_s", [0.96, 0.48, 1.5, 1 / 30, 0.123])
@pytest.mark.parametrize("log_offset", [0.01, 0.001])
def test_examples_equal_a_plain_float64_rewrite(rng: np.random.Generator, hop_s: float, log_offset: float) -> None:
    waveform = (0.3 * rng.standard_normal(2 * 16000 + 77)).astype(np.float32)
    got = features.examples(waveform, hop_s=hop_s, pad="none", log_offset=log_offset)
    # float32 transforms of values up to 50: 1e-6 of the magnitude, against an offset of 0.001 at least
    np.testing.assert_allclose(got, plain_examples(waveform, hop_s, log_offset), atol=5e-5, rtol=0)
    assert got.dtype == np.float32


def test_log_mel_equals_the_original(data_dir: Path) -> None:
    golden = np.load(data_dir / "vggish" / "golden.npz")
    names = [key.removesuffix("/waveform") for key in golden if key.endswith("/waveform")]
    assert len(names) == 10
    for name in names:
        got = features.examples(golden[f"{name}/waveform"])
        # the original computes in float64; pure tones, with most bands near zero, come out worst (6.6e-5)
        np.testing.assert_allclose(got, golden[f"{name}/log_mel"], atol=1e-4, rtol=0, err_msg=name)


@pytest.mark.parametrize("hop_s", [0.96, 0.48, 0.01, 1.5, 0.0333])
@pytest.mark.parametrize("pad", ["none", "short", "all"])
@pytest.mark.parametrize("num_samples", [0, 1, EXAMPLE - 1, EXAMPLE, EXAMPLE + 1, EXAMPLE + 7680, 50_001])
def test_chunks_equal_the_whole_bit_for_bit(
    rng: np.random.Generator, hop_s: float, pad: features.Pad, num_samples: int
) -> None:
    waveform = rng.standard_normal(num_samples).astype(np.float32)
    edges = np.sort(rng.integers(0, num_samples + 1, 9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", features.ShortClipWarning)
        whole = features.examples(waveform, hop_s=hop_s, pad=pad)
        parts = list(features.stream_examples(np.split(waveform, edges), hop_s=hop_s, pad=pad))
    assert len(whole) == features.num_examples(num_samples, hop_s=hop_s, pad=pad)
    joined = np.concatenate(parts) if parts else np.empty((0, 96, 64), np.float32)
    np.testing.assert_array_equal(joined, whole)


def test_stream_keeps_nothing_of_the_callers_buffer(rng: np.random.Generator) -> None:
    waveform = rng.standard_normal(40_000).astype(np.float32)
    buffer = np.empty(1000, np.float32)
    stream = features.ExampleStream()
    got = []
    for at in range(0, 40_000, 1000):
        buffer[:] = waveform[at : at + 1000]
        got += stream.push(buffer)
    np.testing.assert_array_equal(np.concatenate(got), features.examples(waveform))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 60_000), st.floats(1 / 16000, 4), st.sampled_from(["none", "short", "all"]))
def test_number_of_examples_follows_the_formula(num_samples: int, hop_s: float, pad: features.Pad) -> None:
    hop = hop_s * 16000
    hop = round(hop) if abs(hop - round(hop)) < 1e-6 else hop

    def start(i: int) -> int:
        return int(np.floor(i * hop + 0.5))

    fits = 0
    while start(fits) + EXAMPLE <= num_samples:
        fits += 1
    expected = fits
    if pad == "short" and 0 < num_samples < EXAMPLE:
        expected = 1
    if pad == "all" and num_samples and (fits == 0 or start(fits - 1) + EXAMPLE < num_samples > start(fits)):
        expected = fits + 1
    assert features.num_examples(num_samples, hop_s=hop_s, pad=pad) == expected


def test_padding_policies_at_the_boundaries() -> None:
    counts = {
        pad: [features.num_examples(n, pad=pad) for n in (0, 1, EXAMPLE - 1, EXAMPLE, EXAMPLE + 15359, EXAMPLE + 15360)]
        for pad in ("none", "short", "all")
    }
    assert counts["none"] == [0, 0, 0, 1, 1, 2]
    assert counts["short"] == [0, 1, 1, 1, 1, 2]
    assert counts["all"] == [0, 1, 1, 1, 2, 2]


def test_padding_is_zeros_at_the_end(rng: np.random.Generator) -> None:
    clip = rng.standard_normal(5000).astype(np.float32)
    padded = np.concatenate([clip, np.zeros(EXAMPLE - 5000, np.float32)])
    with pytest.warns(features.ShortClipWarning, match="zero-padded"):
        got = features.examples(clip)
    np.testing.assert_array_equal(got, features.examples(padded))


def test_times_follow_the_hop() -> None:
    start_s, centre_s, end_s = features.example_times(3, hop_s=1 / 30, first=2)
    np.testing.assert_allclose(start_s, np.array([2, 3, 4]) / 30, atol=0.5 / 16000, rtol=0)  # to the nearest sample
    np.testing.assert_allclose(end_s - start_s, 0.96, atol=1e-12)
    np.testing.assert_allclose(centre_s - start_s, 0.48, atol=1e-12)


def test_an_example_is_the_slice_of_the_spectrogram(rng: np.random.Generator) -> None:
    waveform = rng.standard_normal(48_000).astype(np.float32)
    spectrogram = features.log_mel(waveform)
    assert spectrogram.shape == (1 + (48_000 - 400) // 160, 64)
    np.testing.assert_array_equal(features.examples(waveform)[1], spectrogram[96:192])


def test_silence_gives_the_logarithm_of_the_offset() -> None:
    np.testing.assert_allclose(features.examples(np.zeros(EXAMPLE, np.float32)), np.log(0.01), atol=1e-6)


def test_stereo_is_refused_with_the_way_out() -> None:
    with pytest.raises(AudioError, match=r"shape \(100, 2\); expected \(n,\).*audio.read"):
        features.examples(np.zeros((100, 2), np.float32))


def test_integers_are_refused_with_the_way_out() -> None:
    with pytest.raises(AudioError, match=r"dtype int16; expected float32.*audio.read"):
        features.examples(np.zeros(100, np.int16))


def test_nan_is_refused() -> None:
    with pytest.raises(AudioError, match="NaN or infinite"):
        features.examples(np.array([0.0, np.nan], np.float32))


@pytest.mark.parametrize("hop_s", [0, -1, float("nan"), float("inf"), 1e-5, 1e300])
def test_hop_out_of_range_is_refused(hop_s: float) -> None:
    with pytest.raises(OptionError, match=r"hop_s: .* out of range"):
        features.num_examples(1, hop_s=hop_s)


def test_unknown_padding_is_refused() -> None:
    with pytest.raises(OptionError, match="pad: 'zero' is not a policy; expected one of short, none, all"):
        features.examples(np.zeros(1, np.float32), pad="zero")  # type: ignore[arg-type]


def test_samples_whose_spectrum_overflows_are_refused_by_time() -> None:
    waveform = np.zeros(64_000, np.float32)
    waveform[20_000] = 3e38
    with pytest.raises(AudioError, match=r"so large that their spectrum overflows, within 0\.00 to .* Scale"):
        features.examples(waveform)


# In a sum of squares, in squares, and in the spectrum itself.
@pytest.mark.parametrize("peak", [1e19, 1e20, 3e38])
@pytest.mark.parametrize("hop_s", [0.48, 0.96])
def test_samples_that_overflow_at_any_step_are_refused_without_a_warning(
    peak: float, hop_s: float, rng: np.random.Generator
) -> None:
    waveform = (peak * rng.choice([-1, 1], 16_000)).astype(np.float32)
    with pytest.raises(AudioError, match="their spectrum overflows"):
        features.examples(waveform, hop_s=hop_s)

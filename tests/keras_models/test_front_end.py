"""The front end as a Keras layer: what `audioset.features` computes, for batches."""

from __future__ import annotations

import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from audioset import features
from audioset.errors import AudioError, OptionError
from audioset.features import EXAMPLE_SAMPLES, Pad
from audioset.keras import LogMel, front_end
from audioset.models import mini, vggish

PADS = ("none", "short", "all")
HOPS_S = (0.96, 0.48, 0.01, 1.5)


def batch_of(rng: np.random.Generator, num_samples: int, clips: int = 2) -> np.ndarray:
    return (0.3 * rng.standard_normal((clips, num_samples))).astype(np.float32)


def one_by_one(waveform: np.ndarray, hop_s: float, pad: Pad, log_offset: float) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", features.ShortClipWarning)
        return np.stack([features.examples(clip, hop_s=hop_s, pad=pad, log_offset=log_offset) for clip in waveform])


def in_numpy(tensor: object) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("hop_s", HOPS_S)
@pytest.mark.parametrize("pad", PADS)
def test_a_batch_gives_what_features_gives_clip_by_clip(rng: np.random.Generator, hop_s: float, pad: Pad) -> None:
    layer = LogMel(0.001, hop_s=hop_s, pad=pad)
    for num_samples in (0, 1, EXAMPLE_SAMPLES - 1, EXAMPLE_SAMPLES, EXAMPLE_SAMPLES + 1, 33_333):
        waveform = batch_of(rng, num_samples)
        got = in_numpy(layer(waveform))
        assert got.dtype == np.float32
        assert got.shape == (2, features.num_examples(num_samples, hop_s=hop_s, pad=pad), 96, 64)
        assert tuple(layer.compute_output_shape((2, num_samples))) == got.shape
        # features is in float32, and the end of a padded clip is as faint as it gets
        np.testing.assert_allclose(got, one_by_one(waveform, hop_s, pad, 0.001), atol=1e-4, rtol=0)


@pytest.mark.parametrize("hop_s", HOPS_S)
@pytest.mark.parametrize("pad", PADS)
def test_the_number_of_examples_is_that_of_features_around_every_boundary(hop_s: float, pad: Pad) -> None:
    layer = LogMel(hop_s=hop_s, pad=pad)
    hop = round(hop_s * 16_000)
    edges = [0, EXAMPLE_SAMPLES, *(first + i * hop for first in (0, EXAMPLE_SAMPLES) for i in range(6))]
    lengths = sorted({max(0, edge + step) for edge in edges for step in (-1, 0, 1)})
    expected = [features.num_examples(n, hop_s=hop_s, pad=pad) for n in lengths]
    assert [layer.num_examples(n) for n in lengths] == expected
    # the same formula on tensors, as where a graph leaves lengths open
    in_tensors = [int(layer.num_examples(ops.convert_to_tensor(n, "int32"))) for n in lengths]
    assert in_tensors == expected


def test_golden_waveforms_give_the_originals_log_mel(data_dir: Path) -> None:
    layer = LogMel()
    with np.load(data_dir / "vggish" / "golden.npz") as golden:
        names = [key.removesuffix("/waveform") for key in golden if key.endswith("/waveform")]
        assert len(names) == 10
        for name in names:
            got = in_numpy(layer(golden[f"{name}/waveform"][None]))[0]
            # both compute in float64: 5e-7 at worst
            np.testing.assert_allclose(got, golden[f"{name}/log_mel"], atol=2e-6, rtol=0, err_msg=name)


def loud_tone() -> tuple[np.ndarray, np.ndarray]:
    """A tone beside which every other band is faint, and its log-mel with offset 0.001, in float64."""
    tone = np.sin(2 * np.pi * 440 * np.arange(EXAMPLE_SAMPLES) / 16_000).astype(np.float32)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.lib.stride_tricks.sliding_window_view(tone.astype(np.float64), 400)[::160] * window
    return tone, np.log(np.abs(np.fft.rfft(frames, 512)) @ features.mel_matrix().astype(np.float64) + 0.001)


def test_tones_keep_what_float32_would_lose() -> None:
    tone, expected = loud_tone()
    np.testing.assert_allclose(in_numpy(LogMel(0.001)(tone[None]))[0, 0], expected, atol=2e-6, rtol=0)


def test_float32_alone_is_off_by_no_more_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    tone, expected = loud_tone()
    monkeypatch.setattr(front_end, "_precision", lambda _: "float32")
    error = np.abs(in_numpy(LogMel(0.001)(tone[None]))[0, 0] - expected).max()
    assert 2e-6 < error < 6e-3


def test_it_is_the_models_own_front_end_by_default() -> None:
    for spec in (vggish.SPEC, mini.SPEC):
        own = LogMel.of(spec)
        assert (own.log_offset, own.hop_s, own.pad) == (spec.log_offset, spec.hop_s, spec.pad)
    other = LogMel.of(mini.SPEC, hop_s=0.96, pad="none")
    assert (other.hop_s, other.pad) == (0.96, "none")


def test_settings_survive_saving() -> None:
    layer = LogMel(0.001, hop_s=0.1, pad="all", name="front")
    again = LogMel.from_config(layer.get_config())
    assert (again.log_offset, again.hop_s, again.pad, again.name) == (0.001, 0.1, "all", "front")
    assert not again.weights


def test_half_precision_of_the_network_leaves_it_alone(rng: np.random.Generator) -> None:
    waveform = batch_of(rng, 20_000)
    expected = in_numpy(LogMel()(waveform))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        got = in_numpy(LogMel()(waveform))
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(got, expected)


def test_gradients_reach_the_waveform_and_are_zero_in_silence(rng: np.random.Generator) -> None:
    layer = LogMel()
    for waveform, moves in ((batch_of(rng, EXAMPLE_SAMPLES), True), (np.zeros((2, EXAMPLE_SAMPLES), "float32"), False)):
        given = ops.convert_to_tensor(waveform).requires_grad_()
        layer(given).sum().backward()
        gradient = in_numpy(given.grad)
        assert np.isfinite(gradient).all()
        assert gradient.any() == moves


def test_one_clip_without_an_axis_is_refused_with_the_way_out() -> None:
    with pytest.raises(AudioError, match=r"waveform: shape \(16000,\); expected \(n, samples\).*waveform\[None\]"):
        LogMel()(np.zeros(16_000, np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hop_s": 0}, "hop_s: 0 is out of range"),
        ({"hop_s": 0.123}, r"hop_s: 0\.123 is no whole number of frames; expected a multiple of 0\.01"),
        ({"hop_s": 0.0001}, r"hop_s: 0\.0001 is no whole number"),
        ({"pad": "zero"}, "pad: 'zero' is not a policy"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        LogMel(**options)

"""The front end with gradients: what `audioset.features` gives, for batches, in any precision."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from audioset import features
from audioset.errors import AudioError, OptionError
from audioset.features import EXAMPLE_SAMPLES, Pad
from audioset.models import mini, vggish
from audioset.torch import LogMel, front_end

AUTOCAST = torch.autocast("cpu", dtype=torch.bfloat16)


def batch_of(rng: np.random.Generator, num_samples: int, clips: int = 2) -> torch.Tensor:
    return torch.from_numpy((0.3 * rng.standard_normal((clips, num_samples))).astype(np.float32))


def one_by_one(waveform: torch.Tensor, hop_s: float, pad: Pad, log_offset: float) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", features.ShortClipWarning)
        return np.stack(
            [features.examples(clip.numpy(), hop_s=hop_s, pad=pad, log_offset=log_offset) for clip in waveform]
        )


@pytest.mark.parametrize("hop_s", [0.96, 0.48, 0.01, 1.5, 1 / 30, 0.123])
@pytest.mark.parametrize("pad", ["none", "short", "all"])
@pytest.mark.parametrize("num_samples", [0, 1, EXAMPLE_SAMPLES - 1, EXAMPLE_SAMPLES, EXAMPLE_SAMPLES + 1, 33_333])
def test_a_batch_gives_what_features_gives_clip_by_clip(
    rng: np.random.Generator, hop_s: float, pad: Pad, num_samples: int
) -> None:
    waveform = batch_of(rng, num_samples)
    got = LogMel(0.001, hop_s=hop_s, pad=pad)(waveform)
    count = features.num_examples(num_samples, hop_s=hop_s, pad=pad)
    assert got.shape == (2, count, 96, 64)
    assert got.dtype == torch.float32
    # features is in float32, and the end of a padded clip is as faint as it gets
    np.testing.assert_allclose(got.numpy(), one_by_one(waveform, hop_s, pad, 0.001), atol=1e-4, rtol=0)


def test_golden_waveforms_give_the_originals_log_mel(data_dir: Path) -> None:
    with np.load(data_dir / "vggish" / "golden.npz") as golden:
        names = [key.removesuffix("/waveform") for key in golden if key.endswith("/waveform")]
        assert len(names) == 10
        for name in names:
            waveform = golden[f"{name}/waveform"]
            got = LogMel()(torch.from_numpy(waveform)[None])[0].numpy()
            # both compute in float64: 5e-7 at worst
            np.testing.assert_allclose(got, golden[f"{name}/log_mel"], atol=2e-6, rtol=0, err_msg=name)
            np.testing.assert_allclose(got, features.examples(waveform), atol=1e-4, rtol=0, err_msg=name)


def test_tones_keep_what_float32_would_lose() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(EXAMPLE_SAMPLES) / 16_000)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.lib.stride_tricks.sliding_window_view(tone, 400)[::160] * window
    expected = np.log(np.abs(np.fft.rfft(frames, 512)) @ features.mel_matrix().astype(np.float64) + 0.001)
    got = LogMel(0.001)(torch.from_numpy(tone)[None])[0, 0]
    np.testing.assert_allclose(got, expected, atol=2e-6, rtol=0)


def test_it_is_the_models_own_front_end_by_default() -> None:
    for spec in (vggish.SPEC, mini.SPEC):
        own = LogMel.of(spec)
        assert (own.log_offset, own.hop_s, own.pad) == (spec.log_offset, spec.hop_s, spec.pad)
    assert LogMel.of(mini.SPEC, hop_s=0.96, pad="none").extra_repr() == "log_offset=0.001, hop_s=0.96, pad='none'"


@pytest.mark.parametrize("hop_s", [0.48, 0.123])
def test_gradients_are_those_of_small_differences(rng: np.random.Generator, hop_s: float) -> None:
    front = LogMel(hop_s=hop_s, pad="all")
    waveform = batch_of(rng, 20_000, clips=1).double().requires_grad_()
    toward = torch.from_numpy(rng.standard_normal(20_000))
    weights = torch.from_numpy(rng.standard_normal(front(waveform).shape))
    (front(waveform) * weights).sum().backward()
    with torch.no_grad():
        step = 1e-4 * toward
        difference = ((front(waveform + step) - front(waveform - step)).double() * weights).sum() / 2e-4
    assert waveform.grad is not None
    # the examples are rounded to float32, the difference of two is off by about 1e-3 of itself
    torch.testing.assert_close((waveform.grad[0] * toward).sum(), difference, rtol=1e-2, atol=0)


def test_gradients_of_silence_are_zero() -> None:
    waveform = torch.zeros(1, EXAMPLE_SAMPLES, requires_grad=True)
    LogMel()(waveform).sum().backward()
    assert waveform.grad is not None
    assert (waveform.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_samples_and_nothing_else(rng: np.random.Generator, dtype: torch.dtype) -> None:
    rounded = batch_of(rng, 20_000).to(dtype)
    expected = LogMel()(rounded.float())
    front = LogMel().to(dtype)
    assert torch.equal(front(rounded), expected)
    with AUTOCAST:
        assert torch.equal(front(rounded), expected)


def test_autocast_changes_nothing_where_a_device_has_float32_only(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = LogMel()
    monkeypatch.setattr(front_end, "_precision", lambda _: torch.float32)
    front = LogMel()
    waveform = batch_of(rng, 20_000)
    expected = front(waveform)
    assert front.mel.dtype == torch.float32
    with AUTOCAST:
        assert torch.equal(front(waveform), expected)
    torch.testing.assert_close(expected, exact(waveform), atol=1e-4, rtol=0)


def test_nothing_of_it_is_in_the_state_dict() -> None:
    front = LogMel()
    assert dict(front.state_dict()) == {}
    assert {name for name, _ in front.named_buffers()} == {"window", "mel"}


def test_tables_follow_the_device_and_survive_being_emptied(rng: np.random.Generator) -> None:
    with torch.device("meta"):
        front = LogMel()
    assert front.mel.device.type == front.window.device.type == "meta"
    assert front(torch.zeros(2, 16_000, device="meta")).shape == (2, 1, 96, 64)
    waveform = batch_of(rng, 16_000)
    assert torch.equal(front.to_empty(device="cpu")(waveform), LogMel()(waveform))


def test_one_clip_without_an_axis_is_refused_with_the_way_out() -> None:
    with pytest.raises(AudioError, match=r"waveform: shape \(16000,\); expected \(n, samples\).*waveform\[None\]"):
        LogMel()(torch.zeros(16_000))


def test_whole_numbers_are_refused_with_the_way_out() -> None:
    with pytest.raises(AudioError, match=r"dtype torch\.int16; expected floating-point samples.*audio\.read"):
        LogMel()(torch.zeros(1, 16_000, dtype=torch.int16))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"hop_s": 0}, "hop_s: 0 is out of range"), ({"pad": "zero"}, "pad: 'zero' is not a policy")],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        LogMel(**options)

"""Random mixtures: decided by seed and block, made of what was given."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audioset.errors import OptionError
from audioset.features import EXAMPLE_SAMPLES
from audioset.train import mixtures
from audioset.train.mixtures import Group, Mixer, find_recordings, read_groups, spoken, synthesize

LOG_OFFSET = 0.001


def a_group(rng: np.random.Generator, *lengths: int) -> Group:
    return Group("noise", tuple(rng.uniform(-0.5, 0.5, length).astype(np.float32) for length in lengths))


def test_blocks_depend_on_seed_and_number_alone(rng: np.random.Generator) -> None:
    groups = [a_group(rng, 40_000, 3_000), a_group(rng, 16_000)]
    mixer = Mixer(groups, seed=3, log_offset=LOG_OFFSET)
    first, second = mixer.block(0, 8), mixer.block(1, 8)
    again = Mixer(groups, seed=3, log_offset=LOG_OFFSET)
    np.testing.assert_array_equal(again.block(1, 8), second)
    np.testing.assert_array_equal(again.block(0, 8), first)
    assert not np.array_equal(first, second)
    assert not np.array_equal(Mixer(groups, seed=4, log_offset=LOG_OFFSET).block(0, 8), first)


def test_examples_are_finite_log_mel_no_quieter_than_silence(rng: np.random.Generator) -> None:
    block = Mixer([a_group(rng, 20_000, 300)], seed=0, log_offset=LOG_OFFSET).block(0, 32)
    assert (block.shape, block.dtype) == ((32, 96, 64), np.float32)
    assert np.isfinite(block).all()
    assert block.min() >= np.log(LOG_OFFSET) - 1e-3


@pytest.mark.parametrize("length", [1, 400, EXAMPLE_SAMPLES - 1, EXAMPLE_SAMPLES, EXAMPLE_SAMPLES + 1, 20_000])
def test_clips_of_any_length_can_be_heard(rng: np.random.Generator, length: int) -> None:
    clip = Group("ones", (np.ones(length, np.float32),))
    mixer = Mixer([clip], seed=0, log_offset=LOG_OFFSET, synthetic=0)
    excerpts = [mixer._excerpt(rng) for _ in range(50)]
    assert {len(excerpt) for excerpt in excerpts} == {EXAMPLE_SAMPLES}
    assert all(excerpt.any() for excerpt in excerpts) or length == 1


def test_synthetic_sound_alone_needs_no_recordings() -> None:
    assert Mixer([], seed=0, log_offset=LOG_OFFSET, synthetic=1).block(0, 4).shape == (4, 96, 64)


def test_no_recordings_is_an_error() -> None:
    with pytest.raises(OptionError, match="groups: none given"):
        Mixer([], seed=0, log_offset=LOG_OFFSET)


@pytest.mark.parametrize("kind", mixtures._KINDS)
def test_every_synthetic_kind_is_finite_and_below_half_scale(kind: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixtures, "_KINDS", (kind,))
    for seed in range(20):
        signal = synthesize(np.random.default_rng(seed))
        assert (signal.shape, signal.dtype) == ((EXAMPLE_SAMPLES,), np.float32)
        assert np.isfinite(signal).all()
        assert np.abs(signal).max() <= 0.5001


def test_recordings_are_found_sorted_without_what_is_excluded(tmp_path: Path) -> None:
    for name in ("esc10/rain/4-b.wav", "esc10/rain/1-a.ogg", "esc10/dog/2-c.FLAC", "esc10/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = find_recordings([tmp_path / "esc10"], exclude=["esc10/*/4-*"])
    assert [path.name for _, path in found] == ["2-c.FLAC", "1-a.ogg"]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"nowhere: not a folder"):
        find_recordings([tmp_path / "nowhere"])


def test_a_folder_without_audio_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no audio file found"):
        find_recordings([tmp_path])


def test_recordings_of_one_folder_are_one_group(tmp_path: Path) -> None:
    for name in ("data/a/1.wav", "data/a/2.wav", "data/b/1.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, np.zeros(1600), 16_000)
    groups = read_groups(find_recordings([tmp_path / "data"]), lambda path: soundfile.read(path, dtype="float32")[0])
    assert [(group.name, len(group.clips), group.duration_s) for group in groups] == [
        ("data/a", 2, 0.2),
        ("data/b", 1, 0.1),
    ]


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_voices_speak_for_a_while() -> None:
    clips = spoken(["en-gb", "cmn"]).clips
    assert len(clips) == 6
    assert all(1 < len(clip) / 16_000 < 20 and 0.05 < np.abs(clip).max() <= 1.1 for clip in clips)


def test_missing_espeak_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OptionError, match="espeak-ng: not found"):
        spoken(["en"])

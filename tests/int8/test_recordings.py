"""Networks in 8 bits calibrated on recordings of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import audioset
from audioset import int8, weights
from audioset.errors import AudioError, OptionError
from audioset.features import examples
from audioset.models.spec import ModelSpec
from audioset.weights import Weights

pytestmark = [
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
    pytest.mark.usefixtures("few_sounds"),
]


@pytest.fixture
def seeded(tiny: ModelSpec) -> Weights:
    return weights.load("tiny", "untrained:0")


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Four quiet clips of 1 to 5 s."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for number in range(4):
        sound = 0.01 * rng.standard_normal(16_000 + 21_000 * number)
        soundfile.write(sounds / f"{number}.wav", sound, 16_000, subtype="FLOAT")
    return sounds


def test_examples_are_those_of_the_front_end_in_order(tiny: ModelSpec, folder: Path) -> None:
    files = sorted(folder.iterdir())
    found = int8.read_recordings(tiny, files, threads=2)
    expected = [examples(soundfile.read(file, dtype="float32")[0], log_offset=tiny.log_offset) for file in files]
    np.testing.assert_array_equal(found.examples, np.concatenate(expected))
    assert found.files == tuple(map(str, files))
    assert found.failures == ()


def test_no_more_examples_than_asked_for_are_taken_from_all_files(tiny: ModelSpec, folder: Path) -> None:
    done: list[int] = []
    found = int8.read_recordings(tiny, sorted(folder.iterdir()), max_examples=6, progress=done.append)
    assert 4 <= len(found.examples) <= 6
    assert len(found.files) == 4
    assert done[-1] == len(found.examples)


def test_the_model_uses_it_from_then_on(tiny: ModelSpec, seeded: Weights, folder: Path) -> None:
    before = int8.load(tiny, seeded)
    made = int8.quantize_on(tiny, seeded, sorted(folder.iterdir()))
    assert made.sha256 != before.sha256
    count = len(int8.read_recordings(tiny, sorted(folder.iterdir())).examples)
    assert made.calibration.startswith(f"4 recordings of one's own: {count} examples, sha256 ")
    assert int8.load(tiny, seeded).sha256 == made.sha256
    again = int8.quantize_on(tiny, seeded, sorted(folder.iterdir()))
    assert (again.sha256, again.calibration) == (made.sha256, made.calibration)

    quiet = soundfile.read(folder / "3.wav", dtype="float32")[0]
    reference = audioset.load("tiny", "untrained:0").embed(quiet, 16_000).values
    fitted = audioset.load("tiny", "untrained:0", precision="int8").embed(quiet, 16_000).values
    int8.save_synthesized(tiny, seeded)
    general = audioset.load("tiny", "untrained:0", precision="int8").embed(quiet, 16_000).values
    # Scales that need not reach to loud sounds have finer steps.
    assert np.abs(fitted - reference).mean() < np.abs(general - reference).mean()


def test_a_file_that_cannot_be_read_is_left_out(tiny: ModelSpec, seeded: Weights, folder: Path) -> None:
    files = sorted(folder.iterdir())
    expected = int8.quantize_on(tiny, seeded, files)
    bad = folder / "bad.wav"
    bad.write_bytes(b"no audio")
    found = int8.read_recordings(tiny, [bad, *files, folder / "missing.wav"])
    assert [file for file, _ in found.failures] == [str(bad), str(folder / "missing.wav")]
    assert found.files == tuple(map(str, files))
    assert int8.save_on(tiny, seeded, found).sha256 == expected.sha256


def test_without_a_usable_recording_the_cache_stays_as_it_is(tiny: ModelSpec, seeded: Weights, tmp_path: Path) -> None:
    before = int8.load(tiny, seeded)
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"no recording gave an example; .*bad\.wav"):
        int8.quantize_on(tiny, seeded, [tmp_path / "bad.wav"])
    assert int8.load(tiny, seeded).sha256 == before.sha256


@pytest.mark.parametrize("count", [0, -1, 100_001])
def test_a_number_of_examples_out_of_range_is_refused(count: int, tiny: ModelSpec, folder: Path) -> None:
    with pytest.raises(OptionError, match=rf"max_examples: {count} is out of range; expected 1 to 100,000"):
        int8.read_recordings(tiny, sorted(folder.iterdir()), max_examples=count)

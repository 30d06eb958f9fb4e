"""`audioset quantize`, as users run it."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from audioset import int8, weights
from audioset.cli import app
from audioset.cli import quantize as command
from audioset.errors import AudioSetError, OptionError
from audioset.int8 import recordings
from audioset.models.spec import ModelSpec
from audioset.weights import Weights

pytestmark = [
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
    pytest.mark.usefixtures("few_sounds", "tiny_tagger"),
]


@pytest.fixture
def seeded(tiny_tagger: ModelSpec) -> Weights:
    return weights.load("tiny-tagger", "untrained:0")


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for number in range(5):
        soundfile.write(sounds / f"{number}.flac", 0.1 * rng.standard_normal(32_000), 16_000)
    return sounds


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["quantize", "-m", "tiny-tagger", "-w", "untrained:0", *map(str, arguments)])
    if status == 0 and result.exception:
        raise result.exception
    if not isinstance(result.exception, AudioSetError):
        assert result.exit_code == status, result.output
    return result


def test_without_recordings_it_is_made_on_the_packages_own_sounds(tiny_tagger: ModelSpec, seeded: Weights) -> None:
    result = run()
    made = int8.find(tiny_tagger, seeded)
    assert made is not None
    for said in (made.calibration, made.sha256, str(made.path), "tiny-tagger in 8 bits"):
        assert said in result.stdout
    assert "sounds that the package synthesizes" in result.stdout
    assert "embedding against float32  mean-centred correlation 0.9" in result.stdout
    assert "in place of" not in result.stdout


def test_recordings_take_the_place_of_the_packages_sounds_and_back(
    tiny_tagger: ModelSpec, seeded: Weights, folder: Path
) -> None:
    run("--no-check")
    before = int8.load(tiny_tagger, seeded)
    result = run("--calibrate", folder, "--no-check")
    mine = int8.load(tiny_tagger, seeded)
    assert mine.sha256 != before.sha256
    assert mine.calibration.startswith("5 recordings of one's own: 10 examples, sha256 ")
    (replaced,) = [line for line in result.stdout.splitlines() if line.startswith("in place of")]
    assert replaced.endswith(before.calibration)
    assert "against float32" not in result.stdout
    run("--no-check")
    assert int8.load(tiny_tagger, seeded).sha256 == before.sha256


def test_json_tells_all(tiny_tagger: ModelSpec, seeded: Weights, folder: Path) -> None:
    found = json.loads(run("-c", folder, "--json", "--max-examples", 5).stdout)
    made = int8.load(tiny_tagger, seeded)
    assert found["int8_sha256"] == made.sha256
    assert found["weights"] == seeded.sha256
    assert found["calibration"] == made.calibration
    assert "5 recordings of one's own: 5 examples" in found["calibration"]
    assert found["path"] == str(made.path)
    assert found["bytes"] == Path(found["path"]).stat().st_size
    assert found["replaced"] is None
    assert found["agreement"]["embedding"]["correlation"] > 0.9
    assert found["failures"] == []


@pytest.mark.parametrize(("loudness", "count"), [(0.0, 5), (0.1, 1)], ids=["silence", "one example"])
def test_a_calibration_with_nothing_to_compare_says_what_is_in_the_cache(
    loudness: float, count: int, tiny_tagger: ModelSpec, seeded: Weights, tmp_path: Path, rng: np.random.Generator
) -> None:
    soundfile.write(tmp_path / "clip.flac", loudness * rng.standard_normal(15_600 * count), 16_000)
    result = run("-c", tmp_path / "clip.flac", "--json")
    made = int8.load(tiny_tagger, seeded)
    found = json.loads(result.stdout)
    assert (found["int8_sha256"], found["agreement"]) == (made.sha256, None)
    assert "not compared with float32" in result.stderr
    assert "is in the cache, but cuts off all that is louder: calibrate on more" in result.stderr


def test_what_can_be_read_only_once_is_refused_unread(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)  # whose opening would wait for a writer
    result = run("-c", pipe, status=2)
    assert isinstance(result.exception, OptionError)
    assert f"--calibrate {pipe}: can be read only once; expected files" in str(result.exception)


def test_what_embed_and_tag_use_is_what_was_made(seeded: Weights, folder: Path, tmp_path: Path) -> None:
    import audioset

    made = json.loads(run("-c", folder, "--json").stdout)
    out = tmp_path / "out.parquet"
    arguments = ["embed", str(folder), "-m", "tiny-tagger", "-w", "untrained:0", "-o", str(out), "--precision", "int8"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "making" not in result.stderr
    assert audioset.read_embeddings(out).info.int8_sha256 == made["int8_sha256"]


def test_bad_recordings_are_named_and_left_out(
    tiny_tagger: ModelSpec, seeded: Weights, folder: Path, tmp_path: Path
) -> None:
    run("-c", folder, "--no-check")
    expected = int8.load(tiny_tagger, seeded).sha256
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    result = run("-c", tmp_path / "bad.wav", "-c", folder, "-c", tmp_path / "*.mp3", status=1)
    assert f"failed: {tmp_path}/bad.wav" in result.stderr
    assert f"failed: {tmp_path}/*.mp3: no file matches" in result.stderr
    assert int8.load(tiny_tagger, seeded).sha256 == expected


def test_a_list_names_recordings(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(str(file) for file in sorted(folder.iterdir())[:2]))
    assert "2 recordings of one's own" in run("--files-from", listed, "--no-check").stdout


@pytest.mark.parametrize("name", ["bad.wav", "nothing/*.wav"])
def test_without_a_usable_recording_the_cache_stays_as_it_is(
    name: str, tiny_tagger: ModelSpec, seeded: Weights, tmp_path: Path
) -> None:
    run("--no-check")
    before = int8.load(tiny_tagger, seeded)
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    result = run("-c", tmp_path / name, status=1)
    assert isinstance(result.exception, AudioSetError)
    assert "no recording gave an example" in str(result.exception)
    assert name in str(result.exception)
    assert int8.load(tiny_tagger, seeded).sha256 == before.sha256


def test_a_damaged_file_in_the_cache_is_replaced(tiny_tagger: ModelSpec, seeded: Weights) -> None:
    run("--no-check")
    made = int8.load(tiny_tagger, seeded)
    assert made.path is not None
    made.path.write_bytes(b"damaged")
    run("--no-check")
    assert int8.load(tiny_tagger, seeded).sha256 == made.sha256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "-"], "--calibrate -: can be read only once"),
        (["--max-examples", "100"], "--max-examples: would not be used; expected --calibrate"),
        (["--threads", "0"], "threads: 0 is out of range"),
    ],
)
def test_misuse_is_refused(arguments: list[str], message: str, seeded: Weights) -> None:
    with pytest.raises(OptionError, match=message):
        run(*arguments)


def test_defaults_are_those_of_the_library() -> None:
    assert recordings.MAX_EXAMPLES == command.MAX_EXAMPLES
    library = inspect.signature(int8.quantize_on).parameters
    assert library["max_examples"].default == inspect.signature(command.quantize).parameters["max_examples"].default

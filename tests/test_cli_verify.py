"""`audioset verify`, as users run it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from audioset import verify as library
from audioset.cli import app
from audioset.cli import verify as command
from audioset.errors import AudioSetError, OptionError

pytestmark = [
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
    pytest.mark.usefixtures("few_sounds", "tiny", "tiny_tagger"),
]


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Chirps and noises of 1 to 3 s."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for number in range(22):
        t = np.arange(16_000 + 1_500 * number) / 16_000
        sound = np.sin(2 * np.pi * (100 + 90 * number + 200 * t) * t) + 0.3 * rng.standard_normal(len(t))
        soundfile.write(sounds / f"{number:02}.flac", 10 ** rng.uniform(-2, -0.5) * sound, 16_000)
    return sounds


@pytest.fixture
def pca(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "pca.npz"
    np.savez(path, pca_eigen_vectors=rng.standard_normal((128, 128)), pca_means=np.zeros(128))
    return path


def run(*arguments: object, model: str = "tiny-tagger", status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["verify", "-m", model, "-w", "untrained:0", *map(str, arguments)])
    if isinstance(result.exception, AudioSetError) or (status == 0 and result.exception):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def test_a_report_in_words(folder: Path) -> None:
    result = run(folder, "--at-least", 0.9)
    assert "tiny-tagger in int8 (onnxruntime, cpu) against float32: " in result.stdout
    assert "examples of 22 files" in result.stdout
    for said in ("embedding", "scores", "cosine", "nearest row", "nearest file", "highest class", "lowest 0."):
        assert said in result.stdout
    assert "released" not in result.output
    assert "making tiny-tagger in 8 bits, once" in result.stderr
    assert result.stdout.splitlines()[-1].endswith(": at least 0.9")


def test_a_correlation_that_is_too_low_is_a_failure(folder: Path) -> None:
    result = run(folder, "--at-least", 1, status=1)
    assert result.stdout.splitlines()[-1].endswith(": BELOW 1")
    assert json.loads(run(folder, "--at-least", 1, "--json", status=1).stdout)["passed"] is False


def test_a_report_in_json(folder: Path) -> None:
    found = json.loads(run(folder, "--at-least", 0.9, "--json", "--max-examples", 30).stdout)
    assert (found["model"], found["precision"], found["engine"], found["device"]) == (
        "tiny-tagger", "int8", "onnxruntime", "cpu"
    )  # fmt: skip
    assert found["passed"] is True
    assert found["files"] == 22
    assert 22 <= found["examples"] <= 30
    assert set(found["outputs"]) == {"embedding", "scores"}
    assert found["outputs"]["embedding"]["lowest_file"].startswith(str(folder))
    assert found["neighbours"]["rows"] == found["examples"]
    assert set(found["classes"]) == {"same_top", "overlap"}
    assert found["released"] is None
    assert found["failures"] == []
    assert len(found["int8_sha256"]) == 64


def test_bad_files_are_named_and_left_out(folder: Path, tmp_path: Path) -> None:
    expected = json.loads(run(folder, "--at-least", 0.9, "--json").stdout)
    (folder / "bad.flac").write_bytes(b"no audio")
    result = run(folder, tmp_path / "none*.wav", "--at-least", 0.9, "--json", status=1)
    found = json.loads(result.stdout)
    assert [failure["file"] for failure in found["failures"]] == [f"{tmp_path}/none*.wav", f"{folder}/bad.flac"]
    assert found["passed"] is True
    assert found["outputs"] == expected["outputs"]
    assert f"failed: {folder}/bad.flac" in result.stderr


@pytest.mark.parametrize("name", ["bad.wav", "nothing/*.wav"])
def test_when_nothing_can_be_read_it_says_why(name: str, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    with pytest.raises(AudioSetError, match=r"no recording gave an example; .*(bad|\*)\.wav"):
        run(tmp_path / name)


def test_without_pca_parameters_the_released_form_is_left_out_without_a_download(folder: Path) -> None:
    result = run(folder, "--at-least", 0, model="tiny")
    assert "the released 8-bit form is left out: PCA parameters are not in the cache" in result.stderr
    assert "released bytes" not in result.stdout


def test_released_bytes_of_vggish_are_compared(folder: Path, pca: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of VGGish's width, and no more of it."""
    from types import MappingProxyType

    from audioset import models
    from audioset.models.layers import Conv, Dense, GlobalAverage, Output

    small = models.get("vggish")
    layers = (Conv("a", 8, stride=8), GlobalAverage(), Dense("b", 128), Output("embedding"))
    monkeypatch.setattr(models, "REGISTRY", MappingProxyType({"vggish": _with(small, layers)}))
    found = json.loads(run(folder, "--pca", pca, "--at-least", 0, "--json", model="vggish").stdout)
    assert 0 < found["released"]["equal"] <= found["released"]["within_one"] <= 1
    assert "released bytes" in run(folder, "--pca", pca, "--at-least", 0, model="vggish").stdout


def _with(spec, layers):
    from dataclasses import replace

    return replace(spec, layers=layers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no input: expected files"),
        (["-"], "-: can be read only once"),
        (["x.wav", "--at-least", "2"], "--at-least: 2.0 is out of range; expected a correlation"),
        (["x.wav", "--at-least", "nan"], "--at-least: nan is out of range"),
        (["x.wav", "--max-examples", "1"], "--max-examples: 1 is out of range; expected 2 or more"),
        (["x.wav", "--threads", "0"], "threads: 0 is out of range"),
        (["x.wav", "--pca", "pca.npz"], "--pca: would not be used; PCA parameters are of vggish"),
        (["x.wav", "--precision", "bf16", "--engine", "onnxruntime"], "precision: bf16 is not to be had"),
        (["x.wav", "--precision", "fp32"], "--precision fp32: by onnxruntime on cpu this is the reference itself"),
    ],
)
def test_misuse_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run(*arguments)


def test_defaults_are_those_of_the_library() -> None:
    assert library.MAX_EXAMPLES == command.MAX_EXAMPLES


def test_help_tells_it_from_the_verification_of_files() -> None:
    words = " ".join(CliRunner().invoke(app, ["verify", "--help"]).output.split())
    assert "audioset models verify" in words
    words = " ".join(CliRunner().invoke(app, ["models", "verify", "--help"]).output.split())
    assert "audioset verify" in words

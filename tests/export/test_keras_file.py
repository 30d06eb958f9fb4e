"""`.keras` files: what Keras loads from them, and what of the other formats of Keras can be said without TensorFlow."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from typer.testing import CliRunner, Result

import audioset
from audioset import _extras
from audioset.cli import app
from audioset.errors import AudioSetError, MissingExtraError, OptionError, OutputError
from audioset.export import export_keras, export_saved_model, export_tflite


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    if isinstance(result.exception, AudioSetError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_keras_loads_it_and_gives_what_the_library_gives(rng: np.random.Generator) -> None:
    written = export_keras("mini", "mini.keras", hop_s=0.96, pad="short")
    assert written.inputs == {"waveform": "float32 (clips, samples)"}
    assert written.outputs == {"embedding": "float32 (clips, k, 128)", "scores": "float32 (clips, k, 521)"}
    assert written.num_bytes == Path("mini.keras").stat().st_size
    clip = (0.3 * rng.standard_normal(33_333)).astype(np.float32)
    network = keras.saving.load_model("mini.keras")
    got = ops.convert_to_numpy(network(clip[None])["embedding"])[0]
    expected = audioset.load("mini").embed(clip, sample_rate=16_000, hop_s=0.96, pad="short").values
    np.testing.assert_allclose(got, expected, atol=1e-3, rtol=0)


def test_examples_need_none_of_our_layers(rng: np.random.Generator) -> None:
    written = export_keras("mini", "mini.keras", input="examples")
    assert written.inputs == {"examples": "float32 (n, 96, 64)"}
    with zipfile.ZipFile("mini.keras") as archive:
        assert b"audioset" not in archive.read("config.json")


def test_the_file_says_what_it_is() -> None:
    written = export_keras("mini", "mini.keras")
    with zipfile.ZipFile("mini.keras") as archive:
        about = json.loads(archive.read("audioset.json"))
    assert about == written.metadata
    assert (about["model"], about["hop_s"], about["pad"]) == ("mini", "0.48", "all")
    assert len(json.loads(about["classes"])) == 521


def test_the_command_is_the_function() -> None:
    found = json.loads(run("-m", "mini", "--format", "keras", "--input", "examples", "--json").stdout)
    assert (found["format"], found["path"]) == ("keras", "mini.keras")
    assert found["inputs"] == {"examples": "float32 (n, 96, 64)"}
    assert sorted(path.name for path in Path().iterdir()) == ["mini.keras"]
    with pytest.raises(OutputError, match=r"mini\.keras: exists already"):
        run("-m", "mini", "--format", "keras")
    run("-m", "mini", "--format", "keras", "--overwrite")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "keras", "-o", "mini.h5"], r"mini\.h5: expected a name that ends in \.keras"),
        (["--format", "keras", "--hop", "0.123"], r"hop_s: 0\.123 is no whole number of frames"),
        (["--format", "keras", "--input", "examples", "--hop", "0.5"], "hop_s: would not be used"),
        (["--format", "tflite", "--precision", "int8"], "--precision int8: not in tflite; .* choose --format onnx"),
        (["--format", "tflite", "-o", "mini"], r"mini: expected a name that ends in \.tflite"),
    ],
)
def test_what_cannot_be_written_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run("-m", "mini", *arguments)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(("write", "name"), [(export_saved_model, "mini"), (export_tflite, "mini.tflite")])
def test_without_tensorflow_it_is_named(write: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _extras.importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None if module == "tensorflow" else found(module))
    with pytest.raises(MissingExtraError, match=r"TensorFlow is not installed; .*`pip install tensorflow`"):
        write("mini", name)  # type: ignore[operator]


def test_a_saved_model_is_not_written_by_another_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    with pytest.raises(OptionError, match=r"SavedModel: Keras runs on torch here; .*Set KERAS_BACKEND=tensorflow"):
        export_saved_model("mini", "mini")


def test_a_folder_is_not_written_over(here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "thesis.txt").write_text("")
    with pytest.raises(OutputError, match="mine: a folder that holds no SavedModel"):
        export_saved_model("mini", "mine", overwrite=True)
    (here / "old").mkdir()
    (here / "old" / "saved_model.pb").write_text("")
    with pytest.raises(OutputError, match=r"old: exists already; .*ask to overwrite it"):
        export_saved_model("mini", "old")
    (here / "old" / "thesis.txt").write_text("")
    with pytest.raises(OutputError, match=r"old: holds thesis\.txt beside a SavedModel"):
        export_saved_model("mini", "old", overwrite=True)
    with pytest.raises(OutputError, match=r"thesis\.txt: is a file; expected the name of a folder"):
        export_saved_model("mini", "old/thesis.txt", overwrite=True)
    with pytest.raises(OutputError, match="its folder does not exist"):
        export_saved_model("mini", "nowhere/mini")

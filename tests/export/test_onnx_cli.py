"""`audioset export --format onnx`, as users run it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner, Result

from audioset.cli import app
from audioset.cli import export as command
from audioset.errors import AudioSetError, OptionError, OutputError
from audioset.export import base, export_onnx, onnx_file
from audioset.features import Pad

pytestmark = pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning")


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


def test_the_name_is_the_models_and_the_report_says_what_it_is(here: Path) -> None:
    result = run("--model", "mini", "--format", "onnx")
    assert (here / "mini.onnx").is_file()
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    assert ["input", "waveform: float32 (samples,)"] in lines
    assert ["output", "scores: float32 (n, 521)"] in lines
    assert ["hop_s", "0.48"] in lines
    assert "Speech" not in result.stdout  # 521 classes are for the file, not for the terminal


def test_json_has_all_of_it(here: Path) -> None:
    found = json.loads(run("-m", "mini", "--input", "examples", "-o", "small.onnx", "--json").stdout)
    assert (found["format"], found["path"]) == ("onnx", "small.onnx")
    assert found["bytes"] == (here / "small.onnx").stat().st_size
    assert found["inputs"] == {"examples": "float32 (n, 96, 64)"}
    assert found["outputs"] == {"embedding": "float32 (n, 128)", "scores": "float32 (n, 521)"}
    assert len(json.loads(found["metadata"]["classes"])) == 521


@pytest.mark.usefixtures("few_sounds")
def test_the_file_is_that_of_the_function(here: Path) -> None:
    options = ["--precision", "int8", "--weight-bits", 7, "--hop", 0.2, "--pad", "none"]
    result = run("-m", "mini", *options, "-o", "command.onnx")
    assert "making mini in 8 bits, once" in result.stderr
    export_onnx("mini", "function.onnx", precision="int8", weight_bits=7, hop_s=0.2, pad="none")
    assert (here / "command.onnx").read_bytes() == (here / "function.onnx").read_bytes()


@pytest.mark.parametrize("name", ["weights", "input", "precision", "weight_bits", "hop_s", "pad", "overwrite"])
def test_defaults_are_those_of_the_function(name: str) -> None:
    given = inspect.signature(command.export).parameters[{"hop_s": "hop"}.get(name, name)].default
    assert getattr(given, "value", given) == inspect.signature(export_onnx).parameters[name].default


@pytest.mark.parametrize(
    ("choices", "known"),
    [
        (command.InputChoice, base.INPUTS),
        (command.ExportPrecisionChoice, onnx_file.PRECISIONS),
        (command.PadChoice, get_args(Pad)),
        (command.FormatChoice, [choice.value for choice in command.FORMATS]),
    ],
)
def test_choices_are_those_of_the_function(choices: Any, known: Any) -> None:
    assert [choice.value for choice in choices] == list(known)


def test_what_is_wrong_is_found_before_anything_is_fetched(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audioset.weights.load", lambda *_, **__: pytest.fail("weights were loaded"))
    (here / "vggish.onnx").touch()
    with pytest.raises(OutputError, match=r"vggish\.onnx: exists already"):
        run()
    with pytest.raises(OptionError, match=r"vggish\.bin: expected a name that ends in \.onnx"):
        run("-o", "vggish.bin")
    with pytest.raises(OptionError, match="hop_s: would not be used"):
        run("--overwrite", "--input", "examples", "--hop", 1)
    with pytest.raises(OptionError, match="weight_bits: would not be used"):
        run("--overwrite", "--weight-bits", 7)


def test_an_unknown_format_is_named() -> None:
    result = CliRunner().invoke(app, ["export", "-m", "mini", "--format", "caffe"])
    assert result.exit_code == 2
    assert "caffe" in result.stderr

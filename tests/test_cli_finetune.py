"""`audioset finetune`, as users run it."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import audioset
from audioset.cli import app
from audioset.cli.finetune import finetune as command
from audioset.errors import DatasetError, OptionError, OutputError
from audioset.finetune import FinetuneOptions
from audioset.finetune.data import read_sounds

pytestmark = [
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
    pytest.mark.usefixtures("tiny"),
]

ROOT = Path(__file__).parents[1]
TINY = ["-m", "tiny", "-w", "untrained:0", "--threads", "1"]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """The example's folder of sines, constants and noises, six clips each."""
    runpy.run_path(str(ROOT / "examples" / "make_toy_sounds.py"))["write"](tmp_path / "toy", 6, 1.1, 0)
    return tmp_path / "toy"


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["finetune", *map(str, arguments)])
    if status == 0 and result.exception:
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def test_the_defaults_are_those_of_the_library() -> None:
    options = FinetuneOptions()
    taken = {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
    for field in dataclasses.fields(options):
        assert taken[field.name] == getattr(options, field.name), field.name


def test_the_file_is_a_model_that_tags(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "toy.safetensors"
    said = run(toy, "-o", out, "--test", "toy/*/05.wav").stdout
    assert "3 classes on mini, linear layer on frozen embeddings, one class a clip" in said
    assert "clips: 15 train, 0 valid, 3 test" in said
    assert "test: 3 clips (95% intervals)" in said
    tagged = CliRunner().invoke(
        app, ["tag", str(toy / "sine" / "05.wav"), "--model", str(out), "--format", "csv", "--top", "1"]
    )
    assert tagged.exit_code == 0, tagged.output
    (row,) = csv.DictReader(tagged.stdout.splitlines())
    assert (row["name"], row["mid"]) == ("sine", "sine")
    assert float(row["score"]) > 0.5


def test_the_confusion_matrix_and_classes_are_legible(toy: Path, tmp_path: Path) -> None:
    lines = run(toy, "-o", tmp_path / "toy.safetensors", "--valid-fraction", "0.34").stdout.splitlines()
    table = lines.index("  class     learnt  clips     AP  recall  precision")
    assert [line.split()[:3] for line in lines[table + 1 : table + 4]] == [
        ["constant", "4", "2"], ["noise", "4", "2"], ["sine", "4", "2"],
    ]  # fmt: skip
    matrix = next(place for place, line in enumerate(lines) if "confusion (rows" in line)
    assert lines[matrix + 1].split() == ["1", "2", "3"]
    assert [line.split()[:2] for line in lines[matrix + 2 : matrix + 5]] == [
        ["constant", "1"], ["noise", "2"], ["sine", "3"],
    ]  # fmt: skip
    assert lines[matrix + 2].split()[2:] == ["2", "·", "·"]


def test_json_has_everything(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "toy.safetensors"
    result = run(toy, "-o", out, *TINY, "--folds", "2", "--json", "--seed", "5", "--classes", "sine,noise")
    found = json.loads(result.stdout)
    assert found["model"] == str(out)
    assert [of["name"] for of in found["classes"]] == ["sine", "noise"]
    assert found["options"]["seed"] == 5
    assert len(found["folds"]) == 2
    assert found["folds_pooled"]["num_clips"] == 12
    assert set(found["folds_summary"]) >= {"accuracy", "mAP"}
    assert "note: " in result.stderr
    assert "constant: not among the classes asked for; left out" in result.stderr


def test_a_report_is_written(toy: Path, tmp_path: Path) -> None:
    report = tmp_path / "toy.html"
    run(toy, "-o", tmp_path / "toy.safetensors", *TINY, "--test", "toy/*/0[45].wav", "--report", report)
    page = report.read_text(encoding="utf-8")
    assert "<title>toy: test clips</title>" in page
    assert "Confusion" in page
    with pytest.raises(OutputError, match=r"toy\.html: exists already"):
        run(toy, "-o", tmp_path / "b.safetensors", *TINY, "--report", report)


def test_a_report_of_nothing_is_not_written(toy: Path, tmp_path: Path) -> None:
    report = tmp_path / "toy.html"
    result = run(toy, "-o", tmp_path / "toy.safetensors", *TINY, "--valid-fraction", "0", "--report", report)
    assert not report.exists()
    assert "not written, because no clip was held out" in result.stderr


def test_unreadable_clips_are_named_and_the_status_is_1(toy: Path, tmp_path: Path) -> None:
    (toy / "sine" / "03.wav").write_bytes(b"broken")
    result = run(toy, "-o", tmp_path / "toy.safetensors", *TINY, status=1)
    assert f"failed: {toy / 'sine' / '03.wav'}" in result.stderr
    assert "1 clip could not be read, left out" in result.stderr
    assert (tmp_path / "toy.safetensors").is_file()
    assert audioset.load(tmp_path / "toy.safetensors").spec.num_classes == 3


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["--folds", "1"], OptionError, "folds: 1 is out of range"),
        (["--precision", "8"], OptionError, "precision: '8' is unknown"),
        (["--model", "mine"], OptionError, "--model mine: unknown"),
        (["--lr", "0.1"], OptionError, r"learning_rate: .* alone; expected `full` \(--full\)"),
        (["--classes", "sine,owl"], DatasetError, "class 'owl': no example"),
        (["--test", "x/*"], OptionError, "test 'x/\\*': matches no clip"),
        (["--group", "["], OptionError, "no regular expression"),
    ],
)
def test_misuse_is_explained(
    toy: Path, tmp_path: Path, arguments: list[str], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run(toy, "-o", tmp_path / "toy.safetensors", "--threads", "1", *arguments)
    assert not (tmp_path / "toy.safetensors").exists()


def test_a_finished_output_is_kept(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "toy.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        run(toy, "-o", out)
    run(toy, "-o", out, *TINY, "--overwrite")
    assert audioset.load(out).name == "toy"


def test_a_ctrl_c_says_what_is_left(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("audioset.finetune.finetune", interrupted)
    result = run(toy, "-o", tmp_path / "toy.safetensors", *TINY, status=130)
    assert "interrupted; nothing written" in result.stderr
    result = run(toy, "-o", tmp_path / "toy.safetensors", *TINY, "--full", status=130)
    assert "the same command goes on from there" in result.stderr


def test_full_tells_of_each_validation(toy: Path, tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    result = run(toy, "-o", tmp_path / "toy.safetensors", *TINY, "--full", "--epochs", "2", "--valid-fraction", "0.34")
    assert "all weights moved" in result.stdout
    assert "training final: step 1 of at most 2: validation accuracy" in result.stderr
    assert "sounds" not in " ".join(path.name for path in (tmp_path / "toy.safetensors.work").iterdir())


def test_a_wide_confusion_becomes_a_list() -> None:
    from audioset.evaluate import evaluate
    from audioset.finetune.result import confusion_text

    classes = [f"class number {place}" for place in range(60)]
    targets = [[place == other for other in range(60)] for place in range(60)]
    scores = [row[1:] + row[:1] if place < 3 else row for place, row in enumerate(targets)]
    found = evaluate([[float(x) for x in row] for row in scores], targets, classes, resamples=0)
    lines = confusion_text(found).splitlines()
    assert len(lines) == 3
    assert " ".join(lines[0].split()) == "1 of 1 class number 0 given class number 59"


def test_the_example_writes_what_is_learnt(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "examples" / "make_toy_sounds.py"))["write"](tmp_path / "a", 2, 0.5, 3)
    runpy.run_path(str(ROOT / "examples" / "make_toy_sounds.py"))["write"](tmp_path / "b", 2, 0.5, 3)
    assert read_sounds(tmp_path / "a").classes.names == ("constant", "noise", "sine")
    for path in (tmp_path / "a").rglob("*.wav"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()

"""`audioset train` and `audioset evaluate`, as typed."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from audioset.classes import ClassList, class_list
from audioset.cli import app
from audioset.cli.train import _HEADS, read_config
from audioset.dataset.features import FeatureRecord, write_features
from audioset.errors import OptionError, OutputError, WeightsError
from audioset.evaluate import PredictionBatch, read_predictions, write_predictions
from audioset.train.config import TrainConfig
from audioset.train.head import Head
from audioset.train.heads import HEADS

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = ["--head", "logistic", "--batch-size", "32", "--epoch-steps", "8", "--epochs", "6", "--lr", "0.2"]


def features(path: Path, num: int, seed: int) -> str:
    """Clips of three of AudioSet's classes, each with a dimension of its own."""
    rng = np.random.default_rng(seed)
    records = []
    for place in range(num):
        label = int(rng.integers(3))
        embedding = rng.integers(90, 166, (2, 128), dtype=np.uint8)
        embedding[:, 10 * label : 10 * label + 3] = 250
        records.append(FeatureRecord(f"{seed}-{place}", 0.0, 2.0, np.array([label], np.int32), embedding))
    write_features(path, records)
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> tuple[str, str]:
    return data_in(tmp_path)


def data_in(folder: Path) -> tuple[str, str]:
    return features(folder / "train.tfrecord", 200, 0), features(folder / "valid.tfrecord", 60, 1)


def run(*arguments: Any, status: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head and its working folder, as `audioset train` leaves them."""
    folder = tmp_path_factory.mktemp("trained")
    train, valid = data_in(tmp_path_factory.mktemp("data"))
    run("train", train, "--valid", valid, "-o", folder / "head.safetensors", *QUICK)
    return folder


@pytest.fixture
def head(tmp_path: Path, trained: Path) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "head.safetensors"


def test_a_head_is_trained_and_evaluated(tmp_path: Path, head: Path, data: tuple[str, str]) -> None:
    trained = Head.load(head)
    assert trained.kind == "logistic"
    assert trained.notes["config"]["learning_rate"] == 0.2
    told = run("evaluate", head, data[1], "--resamples", 20, "--report", tmp_path / "r.html",
               "--predictions", tmp_path / "p.parquet")  # fmt: skip
    assert "mAP" in told.stdout
    assert "60 clips, 527 classes" in told.stdout
    assert "524 classes without a positive clip" in told.stdout
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    stored = read_predictions(tmp_path / "p.parquet")
    assert stored.ids[0] == "1-0"
    assert stored.info["head"] == "logistic"

    whole = json.loads(run("evaluate", head, data[1], "--resamples", 0, "--json").stdout)
    again = json.loads(run("evaluate", tmp_path / "p.parquet", "--resamples", 0, "--json").stdout)
    assert whole == again
    assert whole["metrics"]["map"]["value"] > 0.9
    assert whole["metrics"]["accuracy"]["value"] > 0.9


def test_a_job_does_not_go_on_with_other_labels_or_embeddings(tmp_path: Path, data: tuple[str, str]) -> None:
    labels, out = tmp_path / "labels.csv", tmp_path / "own.safetensors"
    rows = [f"0-{place},{'wren' if place % 3 else 'robin'}" for place in range(200)]
    labels.write_text("\n".join(["file,labels", *rows]), encoding="utf-8")
    arguments = ("train", data[0], "--labels", labels, "-o", out, *QUICK[:-4], "--epochs", 1)
    run(*arguments)
    out.unlink()
    run(*arguments)  # what is done is not done again
    out.unlink()
    labels.write_text("\n".join(["file,labels", *rows[1:], "0-0,wren"]), encoding="utf-8")
    with pytest.raises(OutputError, match=r"holds the checkpoints of a job with other clips; .* use --overwrite"):
        run(*arguments)
    labels.write_text("\n".join(["file,labels", *rows]), encoding="utf-8")
    features(tmp_path / "other.tfrecord", 200, 2)
    moved = [row.replace("0-", "2-", 1) for row in rows]
    labels.write_text("\n".join(["file,labels", *moved]), encoding="utf-8")
    (tmp_path / "other.tfrecord").replace(data[0])
    with pytest.raises(OutputError, match="a job with other clips; expected"):
        run(*arguments)


def test_what_an_evaluation_lacks_or_does_not_take_is_said(tmp_path: Path, head: Path, data: tuple[str, str]) -> None:
    with pytest.raises(OptionError, match=r"head\.safetensors: a head, with nothing .* expected DATA .* features"):
        run("evaluate", head)
    with pytest.raises(OptionError, match=r"mini: a model, with nothing .* sounds"):
        run("evaluate", "mini")
    with pytest.raises(OptionError, match=r"--weights, --test: .* is a head, .* expected --labels, --propagate"):
        run("evaluate", head, data[1], "--test", "x", "--weights", "y")
    with pytest.raises(OptionError, match=r"--labels: mini is a model, .* expected --weights, --test"):
        run("evaluate", "mini", tmp_path, "--labels", "x")
    with pytest.raises(OptionError, match=r"--propagate: .* is predictions, .* expected none of them"):
        run("evaluate", tmp_path / "p.parquet", "--propagate")


def test_finished_outputs_are_kept(tmp_path: Path, head: Path, data: tuple[str, str]) -> None:
    with pytest.raises(OutputError, match="exists already"):
        run("train", data[0], "-o", head, *QUICK)
    before = head.read_bytes()
    run("train", data[0], "--valid", data[1], "-o", head, "--overwrite", *QUICK, "--seed", 5)
    assert head.read_bytes() != before
    (tmp_path / "r.html").touch()
    with pytest.raises(OutputError, match="exists already"):
        run("evaluate", head, data[1], "--report", tmp_path / "r.html")


def test_another_configuration_does_not_continue_a_job(tmp_path: Path, data: tuple[str, str]) -> None:
    head = tmp_path / "head.safetensors"
    run("train", data[0], "--valid", data[1], "-o", head, *QUICK)
    head.unlink()
    with pytest.raises(OutputError, match=r"head\.safetensors\.work: holds the checkpoints of a job with other seed"):
        run("train", data[0], "--valid", data[1], "-o", head, *QUICK, "--seed", 1)
    run("train", data[0], "--valid", data[1], "-o", head, *QUICK)  # the same goes on: nothing is left to do
    assert head.is_file()


def test_embeddings_of_another_kind_are_refused(tmp_path: Path, head: Path) -> None:
    from audioset.dataset.convert import convert_features

    write_features(
        tmp_path / "x.tfrecord", [FeatureRecord("a", 0, 1, np.array([1], np.int32), np.zeros((1, 128), np.uint8))]
    )
    convert_features(tmp_path / "x.tfrecord", tmp_path / "x.arrow")
    data = (tmp_path / "x.arrow").read_bytes()
    (tmp_path / "y.arrow").write_bytes(data.replace(b'"model": "vggish"', b'"model": "yamnet"'))
    with pytest.raises(WeightsError, match=r"y\.arrow: embeddings of yamnet .*this head expects vggish"):
        run("evaluate", head, tmp_path / "y.arrow")


def test_a_config_file_gives_what_the_command_line_does_not(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("head: moe\nseed: 4\nlearning_rate: 0.01\n")
    (tmp_path / "c.json").write_text('{"head": "moe", "seed": 4, "learning_rate": 0.01}')
    for name in ("c.yaml", "c.json"):
        assert read_config(tmp_path / name, {"seed": 9}) == TrainConfig(head="moe", seed=9, learning_rate=0.01)
    assert read_config(None, {}) == TrainConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hed: moe", "'hed' is no option"),
        ("- 1", "holds a list"),
        ("a: [", "cannot be read as YAML"),
        ("", "holds a NoneType"),
    ],
)
def test_config_files_that_are_wrong_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(OptionError, match=message):
        read_config(tmp_path / "c.yaml", {})


def test_a_config_file_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"--config .*gone\.yaml: no such file; expected"):
        read_config(tmp_path / "gone.yaml", {})


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Predictions of two clips and three classes, with labels."""
    batch = PredictionBatch(("a", "b"), np.eye(2, 3, dtype=np.float32), np.eye(2, 3, dtype=np.bool_))
    classes = ClassList(("rain", "wind", "hail"), ("rain", "wind", "hail"))
    write_predictions(tmp_path / "stored.parquet", classes, [batch])
    return tmp_path / "stored.parquet"


def test_predictions_take_no_data(stored: Path) -> None:
    with pytest.raises(OptionError, match=r"^esc: .*stored\.parquet is predictions, which take no DATA; expected"):
        run("evaluate", stored, "esc")
    run("evaluate", stored, "--resamples", 0)


def test_a_curve_needs_a_report_to_be_drawn_in(tmp_path: Path, stored: Path) -> None:
    with pytest.raises(OptionError, match=r"--curve: .*; expected --report too"):
        run("evaluate", stored, "--curve", "rain")
    run("evaluate", stored, "--resamples", 0, "--curve", "rain", "--report", tmp_path / "r.html")


def test_predictions_without_labels_cannot_be_evaluated(tmp_path: Path) -> None:
    batch = PredictionBatch(("a",), np.zeros((1, 521), np.float32))
    write_predictions(tmp_path / "p.parquet", class_list("yamnet521"), [batch])
    with pytest.raises(OptionError, match=r"p\.parquet: has scores and no labels"):
        run("evaluate", tmp_path / "p.parquet")


def test_the_help_tells_every_head_and_every_default() -> None:
    assert tuple(HEADS) == _HEADS
    defaults = TrainConfig()
    shown = {
        option.name: option.show_default
        for option in typer.main.get_command(app).commands["train"].params  # type: ignore[attr-defined]
    }
    said = {True: "balanced"}
    for field in fields(TrainConfig):
        value = getattr(defaults, field.name)
        if field.name in shown:
            assert shown[field.name] == said.get(value, f"{value:g}" if isinstance(value, float) else str(value))

"""The recipe for AudioSet's papers: its settings, its stand-in for the data, and all of it from archive to figures."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from audioset.cli import app
from audioset.cli.train import read_config
from audioset.dataset.convert import convert_features
from audioset.dataset.feature_dataset import FeatureDataset
from audioset.evaluate.metrics import roc_auc
from audioset.train.head import Head

RECIPE = Path(__file__).parents[1] / "recipes" / "audioset"
# Overrides that make a run of the recipe take a second.
QUICK = [
    "--hidden",
    "16",
    "--layers",
    "1",
    "--batch-size",
    "64",
    "--epoch-steps",
    "20",
    "--epochs",
    "3",
    "--lr",
    "0.02",
]


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


stand_in, recipe = module("stand_in"), module("run")


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stand-ins for the released features."""
    folder = tmp_path_factory.mktemp("features")
    stand_in.write(folder, 1600)
    return folder


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> list[tuple[str, ...]]:
    """The command lines that the recipe runs, which are run in this process."""
    asked: list[tuple[str, ...]] = []

    def audioset(*arguments: str) -> str:
        asked.append(arguments)
        if arguments[0] == "evaluate":
            arguments = (*arguments, "--resamples", "10")
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    monkeypatch.setattr(recipe, "audioset", audioset)
    return asked


@pytest.mark.parametrize("row", recipe.PUBLISHED)
def test_every_row_has_the_settings_of_the_papers(row: str) -> None:
    config = read_config(RECIPE / f"{row}.yaml", {})
    assert config.head == row
    assert (config.hidden, config.layers, config.dropout) == (1024, 3, 0.5)
    assert (config.batch_size, config.learning_rate, config.balanced) == (500, 1e-3, True)
    assert config.epochs * config.epoch_steps == 50_000
    assert config.patience >= config.epochs  # nothing stops early


def test_every_file_of_settings_is_a_row() -> None:
    assert {path.stem for path in RECIPE.glob("*.yaml")} == set(recipe.PUBLISHED)


def test_the_stand_in_has_the_shape_of_the_released_features(features: Path) -> None:
    train, balanced, held_out = (FeatureDataset(features / f"{n}.arrow") for n in ("train", "bal_train", "eval"))
    assert (len(train), len(balanced), len(held_out)) == (2000, 400, 400)
    assert (train.info.model, train.info.regime, train.info.embedding_dim) == ("vggish", "uint8", 128)
    assert set(train.num_frames.tolist()) == {10}
    ids = np.concatenate([train.video_ids, held_out.video_ids])
    assert len(set(ids)) == 2400
    assert all(re.fullmatch(r"[\w-]{11}", name) for name in ids)
    assert train.video_ids[:400].tolist() == balanced.video_ids.tolist()
    for dataset in (train, balanced, held_out):
        assert 2.2 < len(dataset.labels.indices) / len(dataset) < 2.6
        for start, stop in zip(dataset.labels.offsets[:-1], dataset.labels.offsets[1:], strict=True):
            assert len(set(dataset.labels.indices[start:stop])) == stop - start > 0
    common = np.sort(train.labels.counts(527))[::-1]
    assert common[0] > 8 * common[100] > 0
    values = train.batch(np.arange(2000)).embeddings
    assert 0.03 < (values == 0).mean() < 0.15  # 8% of the released bytes


def test_the_stand_in_follows_its_seed(features: Path, tmp_path: Path) -> None:
    stand_in.write(tmp_path, 1600)
    assert (tmp_path / "eval.arrow").read_bytes() == (features / "eval.arrow").read_bytes()
    stand_in.write(tmp_path, 1600, seed=1)
    assert (tmp_path / "eval.arrow").read_bytes() != (features / "eval.arrow").read_bytes()


def test_an_archive_becomes_figures_and_what_is_done_is_kept(
    features: Path, tmp_path: Path, in_process: list[tuple[str, ...]]
) -> None:
    for split in ("bal_train", "eval"):
        convert_features(features / f"{split}.arrow", tmp_path / f"{split}.tfrecord")
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    with tarfile.open(data / "features.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "bal_train.tfrecord", "audioset_v1_embeddings/bal_train/-a.tfrecord")
        archive.add(tmp_path / "eval.tfrecord", "audioset_v1_embeddings/unbal_train/-a.tfrecord")
        archive.add(tmp_path / "eval.tfrecord", "audioset_v1_embeddings/eval/-a.tfrecord")

    for name in ("train", "bal_train", "eval"):
        recipe.convert(data, name)
    assert [len(FeatureDataset(data / f"{name}.arrow")) for name in ("train", "bal_train", "eval")] == [800, 400, 400]
    told = recipe.run("average", data, out, QUICK, balanced_only=True)
    assert re.search(r"ours       0\.\d{3}  0\.\d{3}  +-?\d\.\d{3}\npublished  0\.300  0\.964  2\.536 \(trained", told)
    assert told.endswith(
        "caution    not to be compared: 60 steps instead of 50,000, other batch_size, hidden, layers, learning_rate"
    )
    (data / "stand_in.txt").touch()
    assert recipe.doubtful("average", data, out / "average_balanced.safetensors")[0] == "the data are a stand-in"
    (data / "stand_in.txt").unlink()
    assert Head.load(out / "average_balanced.safetensors").notes["num_train"] == 360
    assert (out / "average_balanced.html").is_file()

    num_asked = len(in_process)
    recipe.convert(data, "eval")
    assert recipe.run("average", data, out, QUICK, balanced_only=True) == told
    assert len(in_process) == num_asked


def test_figures_of_the_recipe_itself_need_no_caution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: Path
) -> None:
    def load(path: Path) -> SimpleNamespace:
        config = read_config(RECIPE / f"{path.stem}.yaml", {"seed": 3})
        return SimpleNamespace(notes={"config": dataclasses.asdict(config)})

    monkeypatch.setattr(Head, "load", load)
    for row in recipe.PUBLISHED:
        assert recipe.doubtful(row, tmp_path, tmp_path / f"{row}.safetensors") == []
        assert recipe.doubtful(row, features, tmp_path / f"{row}.safetensors") == ["the data are a stand-in"]


def test_what_the_stand_in_has_can_be_learnt(features: Path) -> None:
    train, held_out = (FeatureDataset(features / f"{name}.arrow") for name in ("train", "eval"))
    means = [dataset.batch(np.arange(len(dataset))).embeddings.mean(axis=1) for dataset in (train, held_out)]
    areas = []
    for common in np.argsort(-train.labels.counts(527))[:10]:
        seen, has = (dataset.labels.targets(527)[:, common] > 0 for dataset in (train, held_out))
        scores = means[1] @ (means[0][seen].mean(axis=0) - means[0][~seen].mean(axis=0))
        areas.append(roc_auc(scores[:, np.newaxis], has[:, np.newaxis])[0])
    assert np.mean(areas) > 0.65  # 0.5 by chance


def command() -> str:
    found = shutil.which("audioset", path=sysconfig.get_path("scripts"))
    if found is None:
        pytest.skip("the command audioset is not installed beside this Python")
    return found


def trained(data: Path, out: Path, *more: str) -> list[str]:
    steps = ["--epoch-steps", "10", "--epochs", "8", "--batch-size", "64", "--mixup", "0.3"]
    sizes = ["--head", "average", "--hidden", "64", "--layers", "1", "--accelerator", "cpu"]
    train, valid = str(data / "train.arrow"), str(data / "eval.arrow")
    return [command(), "train", train, "--valid", valid, "-o", str(out), *sizes, *steps, *more]


def weights(path: Path) -> dict[str, Any]:
    return {name: values.numpy() for name, values in Head.load(path).network.state_dict().items()}


def finished(arguments: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, env=one, capture_output=True, text=True, timeout=300, check=False, **settings)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_a_killed_command_goes_on_to_the_same_weights(features: Path, tmp_path: Path) -> None:
    finished(trained(features, tmp_path / "whole.safetensors"))
    parts = trained(features, tmp_path / "parts.safetensors")
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(parts, stderr=stream, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            end = time.monotonic() + 120
            while "step 30" not in log.read_text() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait(60)
    assert process.returncode == -signal.SIGKILL, log.read_text()
    assert not (tmp_path / "parts.safetensors").exists()
    again = finished(parts).stderr
    assert "step 10 " not in again
    assert "step 80 of at most 80" in again
    expected = weights(tmp_path / "whole.safetensors")
    for name, values in weights(tmp_path / "parts.safetensors").items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="two processes meet through gloo")
def test_two_processes_train_as_one_says_and_writes(features: Path, tmp_path: Path) -> None:
    steady = ["--dropout", "0", "--mixup", "0", "--epochs", "3"]
    head = ["--head", "logistic"]  # no batch norm, whose statistics are each process's own
    finished(trained(features, tmp_path / "one.safetensors", *steady, *head))
    two = trained(features, tmp_path / "two.safetensors", *steady, *head, "--devices", "2")
    lines = finished(two).stderr.splitlines()
    assert len(lines) == len(set(lines))
    assert [line.split(":")[0] for line in lines if line.startswith("step")] == [
        f"step {step} of at most 30" for step in (10, 20, 30)
    ]
    expected = weights(tmp_path / "one.safetensors")
    for name, values in weights(tmp_path / "two.safetensors").items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5, err_msg=name)
    assert finished([command(), "evaluate", str(tmp_path / "two.safetensors"), str(features / "eval.arrow"),
                     "--resamples", "0"]).stdout.startswith("mAP")  # fmt: skip

    (tmp_path / "two.safetensors").unlink()  # from the last checkpoint, all is there
    finished(two)
    for name, values in weights(tmp_path / "two.safetensors").items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_recipe_runs_as_it_is_told_to(tmp_path: Path) -> None:
    finished([sys.executable, str(RECIPE / "stand_in.py"), str(tmp_path / "data"), "--clips", "400"])
    arguments = ["max", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "out"), *QUICK]
    told = finished([sys.executable, str(RECIPE / "run.py"), *arguments])
    assert "published  0.292  0.960  2.471\ncaution    not to be compared: the data are a stand-in, 60" in told.stdout
    assert "$ audioset train" in told.stderr
    assert (tmp_path / "out" / "max.safetensors").is_file()

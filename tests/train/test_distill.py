"""Distillation: decided by its seed, continues where it was stopped, refuses to mix recipes."""

from __future__ import annotations

import csv
import inspect
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from audioset.cli import distill as cli
from audioset.errors import OptionError
from audioset.models import mini, vggish
from audioset.train.distill import Recipe, Teacher, _masked, distill
from audioset.weights import safetensors_file

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Recipe(num_mixtures=128, block_size=64, epochs=3, batch_size=16, voices=False)
TINIEST = replace(TINY, epochs=1)


def _listen(examples: np.ndarray) -> dict[str, np.ndarray]:
    loudness = examples.mean((1, 2))[:, np.newaxis]
    scores = np.full((len(examples), 521), 0.01, np.float32)
    scores[:, :1] = 1 / (1 + np.exp(-loudness - 3))
    return {"embedding": np.concatenate([loudness, examples[:, :, 0].mean(1)[:, np.newaxis]], axis=1), "scores": scores}


TEACHER = Teacher("loudness", "0" * 64, 0.001, _listen)


@pytest.fixture(autouse=True)
def frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """After every second block, which is eight steps of what is learnt here."""
    monkeypatch.setattr("audioset.train.distill._BLOCKS_PER_REPORT", 2)


@pytest.fixture
def recordings(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for i in range(3):
        soundfile.write(folder / f"{i}.wav", rng.uniform(-0.9, 0.9, 16_000) * 10.0**-i, 16_000)
    return folder


def test_weights_are_minis_in_half_precision_and_say_where_from(tmp_path: Path, recordings: Path) -> None:
    out = distill(TEACHER, [recordings], tmp_path / "mini.safetensors", recipe=TINIEST, exclude=["*/2.wav"], threads=1)
    assert out.stat().st_size < 2_000_000
    tensors, metadata = safetensors_file.read(out)
    assert {name: values.shape for name, values in tensors.items()} == mini.SPEC.tensor_shapes
    assert {values.dtype for values in tensors.values()} == {np.dtype(np.float16)}
    assert (metadata["model"], metadata["teacher"], metadata["recordings"]) == ("mini", "loudness", "2")
    assert Recipe(**json.loads(metadata["recipe"])) == TINIEST


def test_losses_fall_and_are_kept_beside_the_output(tmp_path: Path, recordings: Path) -> None:
    recipe = replace(TINY, epochs=12, learning_rate=0.03)
    distill(TEACHER, [recordings], tmp_path / "mini.safetensors", recipe=recipe, threads=1)
    with (tmp_path / "mini.safetensors.losses.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["step"]) for line in lines] == list(range(8, 97, 8))
    assert float(lines[-1]["embedding_error"]) < 0.5 * float(lines[0]["embedding_error"])


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(tmp_path: Path, recordings: Path) -> None:
    whole = distill(TEACHER, [recordings], tmp_path / "whole.safetensors", recipe=TINY, threads=1)
    part = tmp_path / "part.safetensors"
    for stop in (("mixtures", 64), ("steps", 12)):

        def stop_here(stage: str, done: int, total: int, stop: tuple[str, int] = stop) -> None:
            if (stage, done) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            distill(TEACHER, [recordings], part, recipe=TINY, threads=1, progress=stop_here)
        assert not part.exists()
    distill(TEACHER, [recordings], part, recipe=TINY, threads=1)
    expected, got = safetensors_file.read(whole), safetensors_file.read(part)
    assert got[1] == expected[1]
    for name, values in expected[0].items():
        np.testing.assert_array_equal(got[0][name], values)


def test_another_seed_gives_other_weights(tmp_path: Path, recordings: Path) -> None:
    first, second = (
        distill(TEACHER, [recordings], tmp_path / f"{seed}.safetensors", recipe=replace(TINIEST, seed=seed), threads=1)
        for seed in (0, 1)
    )
    assert (
        safetensors_file.read(first)[0]["conv1/weights"].tolist()
        != safetensors_file.read(second)[0]["conv1/weights"].tolist()
    )


def test_a_working_folder_of_another_recipe_is_refused(tmp_path: Path, recordings: Path) -> None:
    out = tmp_path / "mini.safetensors"
    distill(TEACHER, [recordings], out, recipe=TINIEST, threads=1)
    with pytest.raises(OptionError, match=r"mini\.safetensors\.work: made with another recipe"):
        distill(TEACHER, [recordings], out, recipe=replace(TINIEST, seed=1), threads=1)


def test_masks_hide_one_run_of_frames_and_one_of_bands(rng: np.random.Generator) -> None:
    examples = torch.from_numpy(rng.standard_normal((200, 96, 64)).astype(np.float32))
    masked = _masked(examples, Recipe(mask_frames=10, mask_bands=4), rng)
    hidden = (masked != examples).numpy()
    means = examples.mean((1, 2), keepdim=True).expand_as(examples)
    np.testing.assert_array_equal(masked[hidden], means[hidden])
    widths = set()
    for example in hidden:
        frames, bands = example.all(1), example.all(0)
        np.testing.assert_array_equal(example, frames[:, np.newaxis] | bands)
        for run in (frames, bands):
            assert np.abs(np.diff(run.astype(int))).sum() <= 2
        widths.add((int(frames.sum()), int(bands.sum())))
    assert {width for width, _ in widths} == set(range(11))
    assert {width for _, width in widths} == set(range(5))


def test_masks_of_no_width_hide_nothing(rng: np.random.Generator) -> None:
    examples = torch.from_numpy(rng.standard_normal((8, 96, 64)).astype(np.float32))
    assert torch.equal(_masked(examples, Recipe(mask_frames=0, mask_bands=0), rng), examples)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs: 0 is out of range"),
        ({"block_size": 100, "batch_size": 50}, "block_size: 100 is out of range; expected a multiple"),
        ({"mask_frames": 97}, "mask_frames: 97 is out of range; expected 0 to 96"),
        ({"mask_bands": -1}, "mask_bands: -1 is out of range; expected 0 to 64"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Recipe(**change)


def test_a_teacher_that_scores_nothing_is_refused() -> None:
    with pytest.raises(OptionError, match="teacher: vggish scores no classes"):
        Teacher.of(SimpleNamespace(spec=vggish.SPEC, name="vggish"))  # type: ignore[arg-type]


def test_command_has_the_recipes_defaults() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(cli.distill).parameters.items()}
    recipe = Recipe()
    assert (defaults["seed"], defaults["mixtures"], defaults["epochs"], defaults["voices"]) == (
        recipe.seed,
        recipe.num_mixtures,
        recipe.epochs,
        recipe.voices,
    )

"""From labelled clips to a file: what it is worth, what it says of itself, what is left out, and how it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import audioset
from audioset.errors import DatasetError, MissingExtraError, OptionError, OutputError
from audioset.evaluate import accuracy
from audioset.features import ShortClipWarning
from audioset.finetune import Finetuned, FinetuneOptions, finetune
from audioset.finetune import job as job_module
from audioset.weights import safetensors_file

pytestmark = [
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
    pytest.mark.usefixtures("one_torch_thread"),
]

TINY = {"model": "tiny", "weights": "untrained:0", "threads": 1, "resamples": 0}
FULL = FinetuneOptions(full=True, epochs=3, batch_size=8, patience=10, valid_fraction=0.25)


class KilledError(Exception):
    """What stands for a process that ends."""


def killed_in(stage: str, after: int) -> Callable[[str, int, int, str], None]:
    def stop(name: str, done: int, total: int, talk: str) -> None:
        if name == stage and done >= after:
            raise KilledError

    return stop


def tensors_of(path: Path) -> dict[str, Any]:
    return dict(safetensors_file.read(path)[0])


def assert_same(one: Path, other: Path) -> None:
    tensors, about = safetensors_file.read(one)
    expected, expected_about = safetensors_file.read(other)
    assert about == expected_about
    for name, values in expected.items():
        np.testing.assert_array_equal(tensors[name], values, err_msg=name)


def test_the_toy_task_of_the_original_is_learnt_frozen(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "toy.safetensors"
    result = finetune(toy, out, test="toy/*/0[67].wav", threads=1, resamples=50)
    assert result.classes.names == ("constant", "noise", "sine")
    assert result.test is not None
    assert result.test.metrics["accuracy"].value == 1
    assert result.num_clips == {"train": 18, "valid": 0, "test": 6}
    model = audioset.load(out)
    assert model.tag(toy / "noise" / "06.wav").top(1)[0][0] == "noise"


def test_what_is_reported_is_what_tagging_with_the_file_gives(toy: Path, tmp_path: Path, tiny: object) -> None:
    result = finetune(toy, tmp_path / "a.safetensors", **TINY, options=FinetuneOptions(valid_fraction=0.25, seed=3))
    assert result.valid is not None
    assert result.valid.confusion is not None
    model = audioset.load(tmp_path / "a.safetensors", threads=1)
    paths = sorted(toy.rglob("*.wav"))
    scores = np.stack([model.tag(path).clip_scores() for path in paths])
    targets = np.array([[path.parent.name == name for name in result.classes.names] for path in paths])
    # Which clips were held out, from the split itself.
    sounds = audioset.finetune.read_sounds(toy)
    held = job_module.split(sounds, valid_fraction=0.25, seed=3).valid
    names = [sounds.clips[place].path for place in held]
    rows = [place for place, path in enumerate(paths) if str(path) in names]
    assert result.valid.metrics["accuracy"].value == pytest.approx(accuracy(scores[rows], targets[rows]))


def test_the_file_says_what_it_learnt(toy: Path, tmp_path: Path, tiny: object) -> None:
    out = tmp_path / "a.safetensors"
    result = finetune(toy, out, **TINY, test="toy/*/07.wav", options=FinetuneOptions(seed=7))
    about = safetensors_file.read(out)[1]
    learnt = json.loads(about["trained_on"])
    assert learnt["clips"] == {"train": 21, "valid": 0, "test": 3, "unreadable": 0}
    assert learnt["clips_of_class"] == {"constant": 7, "noise": 7, "sine": 7}
    assert about["trained_from_sha256"] == result.weights == audioset.load("tiny", "untrained:0").weights.sha256
    assert about["seed"] == "7"
    assert about["method"] == "frozen"
    assert about["audioset_version"] == audioset.__version__
    base = audioset.load("tiny", "untrained:0").weights.tensors
    for name, values in base.items():
        np.testing.assert_array_equal(tensors_of(out)[name], values)  # frozen


def test_the_same_call_gives_the_same_file(toy: Path, tmp_path: Path, tiny: object) -> None:
    one, other = (tmp_path / name / "m.safetensors" for name in ("a", "b"))
    for path in (one, other):
        path.parent.mkdir()
        finetune(toy, path, **TINY)
    assert_same(one, other)


def test_clips_that_cannot_be_read_are_listed_and_the_rest_is_learnt(toy: Path, tmp_path: Path, tiny: object) -> None:
    (toy / "sine" / "00.wav").write_bytes(b"no sound at all")
    soundfile.write(toy / "noise" / "01.wav", np.full(20_000, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(toy / "noise" / "02.wav", np.zeros(20_000), 16_000)  # silence is sound
    soundfile.write(toy / "noise" / "03.wav", np.full(3000, 0.1), 16_000)  # shorter than an example
    result = finetune(toy, tmp_path / "a.safetensors", **TINY)
    assert len(result.failed) == 2
    assert {"00.wav" in result.failed[0], "01.wav" in result.failed[0]} == {True, False}
    assert any("sine/00.wav" in reason for reason in result.failed)
    assert any("NaN or Inf sample" in reason and "noise/01.wav" in reason for reason in result.failed)
    assert sum(result.num_clips.values()) == 22
    assert json.loads(safetensors_file.read(result.path)[1]["trained_on"])["clips"]["unreadable"] == 2


def test_nothing_that_can_be_read_is_an_error(toy: Path, tmp_path: Path, tiny: object) -> None:
    for path in toy.rglob("*.wav"):
        path.write_bytes(path.name.encode() + path.parent.name.encode())
    with pytest.raises(DatasetError, match=r"none of 24 could be read; expected labelled sound\. The first: .*wav"):
        finetune(toy, tmp_path / "a.safetensors", **TINY)


def test_a_class_that_is_left_with_one_clip_is_an_error(toy: Path, tmp_path: Path, tiny: object) -> None:
    for path in sorted((toy / "sine").iterdir())[1:]:
        path.write_bytes(b"broken" + path.name.encode())
    with pytest.raises(
        DatasetError, match=r"class 'sine': one example to learn from.*Left out before: .*0[1-7]\.wav: .* and 2 more"
    ):
        finetune(toy, tmp_path / "a.safetensors", **TINY)
    assert not (tmp_path / "a.safetensors").exists()


def test_windows_and_several_labels_make_a_file_that_scores_classes_by_themselves(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    lines = ["path,start,end,labels"]
    time_s = np.arange(32_000) / 16_000
    for place in range(12):
        tone = 0.3 * np.sin(2 * np.pi * (300 + 50 * place) * time_s)
        hiss = 0.1 * rng.standard_normal(32_000)
        soundfile.write(tmp_path / f"{place}.wav", np.concatenate([tone, tone + hiss, hiss, 0 * hiss]), 16_000)
        lines += [f"{place}.wav,0,2,tone", f"{place}.wav,2,4,tone;hiss", f"{place}.wav,4,6,hiss", f"{place}.wav,6,,"]
    (tmp_path / "clips.csv").write_text("\n".join(lines), encoding="utf-8")
    held = "\n".join([lines[0], *lines[1:13]])
    (tmp_path / "held.csv").write_text(held, encoding="utf-8")
    result = finetune(
        tmp_path / "clips.csv", tmp_path / "a.safetensors", test=tmp_path / "held.csv", threads=1, resamples=0
    )
    assert result.multi_label
    assert result.num_clips == {"train": 36, "valid": 0, "test": 12}
    assert result.test is not None
    assert result.test.metrics["map"].value > 0.95
    assert "accuracy" not in result.test.metrics
    scores = audioset.load(result.path).tag(tmp_path / "0.wav", start_s=2, duration_s=2)
    assert (scores.clip_scores() > 0.5).all()


def test_folds_are_summed_up_and_the_model_learns_from_all(toy: Path, tmp_path: Path, tiny: object) -> None:
    options = FinetuneOptions(folds=3)
    result = finetune(toy, tmp_path / "a.safetensors", **TINY, test="toy/*/07.wav", options=options)
    assert len(result.folds) == 3
    assert sum(of.num_clips for of in result.folds) == 21
    assert result.num_clips == {"train": 21, "valid": 0, "test": 3}
    assert result.pooled is not None
    assert result.pooled.num_clips == 21
    values = [of.metrics["accuracy"].value for of in result.folds]
    name, middle, spread = result.fold_summary()[0]
    assert (name, middle, spread) == ("accuracy", pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    plain = json.loads(result.to_json())
    assert plain["folds_summary"]["accuracy"]["mean"] == pytest.approx(middle)
    assert plain["test"]["num_clips"] == 3


def test_a_group_is_never_on_both_sides(toy: Path, tmp_path: Path, tiny: object) -> None:
    sounds = audioset.finetune.read_sounds(toy, group=r"(\d)\.wav")
    found = job_module.split(sounds, valid_fraction=0.3)
    groups = [{sounds.clips[place].group for place in part} for part in (found.train, found.valid)]
    assert groups[0].isdisjoint(groups[1])
    assert all(groups)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "mine"}, "model 'mine': unknown; expected one of vggish"),
        ({"test": "*/nobody/*"}, "matches no clip"),
        ({"classes": ["sine", "owl"]}, "class 'owl': no example"),
    ],
)
def test_what_matches_nothing_is_refused(
    toy: Path, tmp_path: Path, tiny: object, change: dict[str, Any], said: str
) -> None:
    with pytest.raises((OptionError, DatasetError), match=said):
        finetune(toy, tmp_path / "a.safetensors", **{**TINY, **change})


def test_outputs_are_looked_at_first(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        finetune(toy, tmp_path / "a.safetensors")
    with pytest.raises(OptionError, match="expected a name that ends in"):
        finetune(toy, tmp_path / "a.onnx")


def test_missing_libraries_are_named_before_any_work(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"audioset\.finetune: scikit-learn is not installed"):
        finetune(toy, tmp_path / "a.safetensors")
    with pytest.raises(MissingExtraError, match="scikit-learn, PyTorch, Lightning and TensorBoard are not"):
        finetune(toy, tmp_path / "a.safetensors", options=FULL)


def learn_fully(toy: Path, out: Path, **more: Any) -> Finetuned:
    out.parent.mkdir(exist_ok=True)
    return finetune(toy, out, **{**TINY, "options": FULL, **more})


def test_full_moves_every_weight_from_where_it_was(toy: Path, tmp_path: Path, tiny: object) -> None:
    result = learn_fully(toy, tmp_path / "a.safetensors")
    base = audioset.load("tiny", "untrained:0").weights.tensors
    for name, values in tensors_of(result.path).items():
        if name in base:
            assert (values != base[name]).any(), name
            assert np.abs(values - base[name]).max() < 0.2, name
    assert result.epochs is not None
    assert 1 <= result.epochs <= 3
    assert safetensors_file.read(result.path)[1]["method"] == "full"
    work = tmp_path / "a.safetensors.work"
    assert not (work / "sounds.f32").exists()  # large, and done with
    assert (work / "final" / "metrics.csv").is_file()


def test_decoded_clips_that_the_system_holds_do_not_cost_the_result(
    toy: Path, tmp_path: Path, tiny: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def held(path: Path, missing_ok: bool = False) -> None:
        if path.name == "sounds.f32":  # as on Windows, while it is mapped
            raise PermissionError(13, "in use", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", held)
    assert learn_fully(toy, tmp_path / "a.safetensors").path.is_file()


@pytest.mark.parametrize(("stage", "after"), [("decoding", 3), ("training final", 5)])
def test_a_full_run_that_was_killed_and_continued_ends_with_the_same_weights(
    stage: str, after: int, toy: Path, tmp_path: Path, tiny: object
) -> None:
    whole = learn_fully(toy, tmp_path / "whole" / "m.safetensors")
    with pytest.raises(KilledError):
        learn_fully(toy, tmp_path / "parts" / "m.safetensors", progress=killed_in(stage, after))
    np.random.default_rng().standard_normal(3)
    parts = learn_fully(toy, tmp_path / "parts" / "m.safetensors")
    assert_same(parts.path, whole.path)


def test_a_run_that_stopped_early_is_not_taken_further(toy: Path, tmp_path: Path, tiny: object) -> None:
    options = FinetuneOptions(full=True, epochs=30, batch_size=8, patience=2, learning_rate=1e-9, valid_fraction=0.25)
    out = tmp_path / "m.safetensors"
    with pytest.raises(KilledError):
        learn_fully(toy, out, options=options, progress=killed_in("scoring valid", 1))
    out.unlink()  # as if it had ended between the last checkpoint and the output
    result = learn_fully(toy, out, options=options, progress=killed_in("training final", 0))
    assert result.epochs == 1


def test_a_work_folder_of_another_configuration_is_refused(toy: Path, tmp_path: Path, tiny: object) -> None:
    out = tmp_path / "m.safetensors"
    with pytest.raises(KilledError):
        learn_fully(toy, out, progress=killed_in("training final", 2))
    other = FinetuneOptions(full=True, epochs=3, batch_size=4, patience=10, valid_fraction=0.25)
    with pytest.raises(OutputError, match="a job with other batch_size; expected the same"):
        learn_fully(toy, out, options=other)
    (toy / "sine" / "00.wav").unlink()
    with pytest.raises(OutputError, match="a job with other clips; expected the same"):
        learn_fully(toy, out)
    assert learn_fully(toy, out, options=other, overwrite=True).path.is_file()


def test_full_without_anything_to_stop_by_is_refused(toy: Path, tmp_path: Path, tiny: object) -> None:
    with pytest.raises(DatasetError, match="validation clips: none; expected some, to know when to stop"):
        learn_fully(toy, tmp_path / "m.safetensors", group="toy")


def test_full_folds_decide_how_long_the_final_model_learns(toy: Path, tmp_path: Path, tiny: object) -> None:
    options = FinetuneOptions(full=True, epochs=2, batch_size=8, folds=2, valid_fraction=0.25)
    result = learn_fully(toy, tmp_path / "m.safetensors", options=options)
    assert len(result.folds) == 2
    assert result.num_clips["train"] == 24
    assert result.epochs in (1, 2)


def test_augmentation_can_be_switched_off(toy: Path, tmp_path: Path, tiny: object) -> None:
    from dataclasses import replace

    with_it = learn_fully(toy, tmp_path / "a.safetensors")
    without = learn_fully(toy, tmp_path / "b.safetensors", options=replace(FULL, augment=False))
    assert (tensors_of(with_it.path)["a/weights"] != tensors_of(without.path)["a/weights"]).any()


def test_short_clips_are_padded_without_a_word(tmp_path: Path, tiny: object, rng: np.random.Generator) -> None:
    import warnings

    for place in range(8):
        kind = "ab"[place % 2]
        (tmp_path / "d" / kind).mkdir(parents=True, exist_ok=True)
        samples = 0.1 * rng.standard_normal(5000 + 10 * place) * (1 if place % 2 else 0.01)
        soundfile.write(tmp_path / "d" / kind / f"{place}.wav", samples, 16_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ShortClipWarning)
        learn_fully(tmp_path / "d", tmp_path / "m.safetensors")


@pytest.mark.slow
def test_the_toy_task_is_learnt_fully(write_toy: Callable[..., None], tmp_path: Path) -> None:
    write_toy(tmp_path / "toy", 12, 1.2, 1)
    options = FinetuneOptions(full=True, epochs=6, batch_size=8)
    result = finetune(tmp_path / "toy", tmp_path / "a.safetensors", test="toy/*/1*", options=options, threads=2)
    assert result.test is not None
    assert result.test.metrics["accuracy"].value == 1


@pytest.mark.slow
def test_esc_10_is_learnt_from_frozen_mini(data_dir: Path, tmp_path: Path) -> None:
    result = finetune(
        data_dir / "esc10", tmp_path / "a.safetensors", test="esc10/*/4-*", group=r"(\d-\d+)", resamples=0
    )
    assert result.num_clips == {"train": 240, "valid": 0, "test": 80}
    assert result.test is not None
    assert result.test.metrics["accuracy"].value >= 0.93

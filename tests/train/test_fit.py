"""Training of heads: it learns, and a run that was stopped ends as one that was not."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from audioset.classes import ClassList
from audioset.errors import DatasetError, OptionError, OutputError
from audioset.evaluate.metrics import average_precision, macro
from audioset.train import fit as fit_module
from audioset.train.batches import BalancedOrder, Steps, UniformOrder, targets
from audioset.train.config import Machine, TrainConfig
from audioset.train.fit import Report, discard, fit, mixed_embeddings
from audioset.train.head import Embedder

pytestmark = pytest.mark.usefixtures("one_thread")

DIM = 8
ABC = ClassList(("a", "b", "c"), ("a", "b", "c"))
EMBEDDER = Embedder("vggish", "uint8", DIM)
CONFIG = TrainConfig(
    head="average", hidden=16, layers=1, dropout=0.2, batch_size=16, epoch_steps=6, epochs=4, warmup_steps=3, mixup=0.3
)


class InMemory:
    """Clips of 1 to 4 frames; class `c` lifts dimension `c` of one frame."""

    num_classes = 3

    def __init__(self, num: int, seed: int, dtype: Any = np.uint8) -> None:
        rng = np.random.default_rng(seed)
        self._frames = rng.integers(100, 156, (num, 4, DIM)).astype(dtype)
        self._lengths = rng.integers(1, 5, num)
        labels = [sorted(set(rng.choice(3, rng.integers(1, 3), p=[0.6, 0.3, 0.1]))) for _ in range(num)]
        for place, of_clip in enumerate(labels):
            self._frames[place, rng.integers(0, self._lengths[place]), of_clip] = 255
            self._frames[place, self._lengths[place] :] = 0
        self.starts = np.cumsum([0, *map(len, labels)])
        self.columns = np.array([c for of_clip in labels for c in of_clip])

    def __len__(self) -> int:
        return len(self._frames)

    def frames(self, indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        return self._frames[indices], self._lengths[indices]

    def name(self, index: int) -> str:
        return f"clip-{index}"


@pytest.fixture
def clips() -> InMemory:
    return InMemory(200, 0)


@pytest.fixture
def valid() -> InMemory:
    return InMemory(80, 1)


def weights_of(fitted: Any) -> dict[str, npt.NDArray[Any]]:
    return {name: values.numpy() for name, values in fitted.head.network.state_dict().items()}


class KilledError(Exception):
    """What stands for a process that ends."""


def killed_after(step: int) -> Any:
    def stop(report: Report) -> None:
        if report.step >= step:
            raise KilledError

    return stop


def test_training_learns_and_notes_what_it_was(tmp_path: Path, clips: InMemory, valid: InMemory) -> None:
    config = replace(CONFIG, epochs=12, learning_rate=0.02, mixup=0.0)
    fitted = fit(clips, valid, ABC, EMBEDDER, config, tmp_path / "work", notes={"train": "x.arrow"})
    assert fitted.mean_ap > 0.9  # 0.4 by chance
    assert fitted.head.notes["train"] == "x.arrow"
    assert fitted.head.notes["config"]["epochs"] == 12
    scores = fitted.head.predict(*valid.frames(np.arange(80)))
    truth = targets(valid, np.arange(80))
    assert (scores[truth > 0].mean() - scores[truth == 0].mean()) > 0.4
    with (tmp_path / "work" / "metrics.csv").open() as file:
        assert {"train/loss", "valid/mAP", "step"} <= set(csv.DictReader(file).fieldnames or [])
    assert list((tmp_path / "work" / "tensorboard").glob("events.*"))


def test_of_long_clips_a_bounded_sample_says_how_inputs_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = InMemory(300, 0)
    whole = fit_module._sample(clips, 0)
    assert len(whole) == clips.frames(np.arange(300))[1].sum()
    monkeypatch.setattr(fit_module, "_LOT_CLIPS", 30)
    monkeypatch.setattr(fit_module, "_LOT_FRAMES", 20)
    part = fit_module._sample(clips, 0)
    assert part.shape == (200, DIM)
    np.testing.assert_allclose(part.mean(0), whole.mean(0), atol=10)
    assert {row.tobytes() for row in part} <= {row.tobytes() for row in whole}


@pytest.mark.parametrize("at", [4, 9, 13])
def test_a_run_that_was_killed_and_continued_ends_with_the_same_weights(
    at: int, tmp_path: Path, clips: InMemory, valid: InMemory
) -> None:
    whole = fit(clips, valid, ABC, EMBEDDER, CONFIG, tmp_path / "whole")
    with pytest.raises(KilledError):
        fit(clips, valid, ABC, EMBEDDER, CONFIG, tmp_path / "parts", progress=killed_after(at))
    torch.rand(7)  # what the process drew meanwhile is not to matter
    parts = fit(clips, valid, ABC, EMBEDDER, CONFIG, tmp_path / "parts")
    expected = weights_of(whole)
    for name, values in weights_of(parts).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    assert parts.mean_ap == whole.mean_ap


def test_a_run_that_is_continued_keeps_its_log_and_its_best_score_where_its_folder_was_moved(
    tmp_path: Path, clips: InMemory, valid: InMemory
) -> None:
    config = replace(CONFIG, learning_rate=0.02, epoch_steps=4, epochs=12, patience=2)
    whole = fit(clips, valid, ABC, EMBEDDER, config, tmp_path / "whole")
    assert whole.steps < 48  # it stopped early, two epochs after the best
    with pytest.raises(KilledError):
        fit(clips, valid, ABC, EMBEDDER, config, tmp_path / "parts", progress=killed_after(whole.steps - 3))
    (tmp_path / "parts").rename(tmp_path / "moved")
    moved = fit(clips, valid, ABC, EMBEDDER, config, tmp_path / "moved")
    assert (moved.mean_ap, moved.steps) == (whole.mean_ap, whole.steps)
    logs = [(tmp_path / name / "metrics.csv").read_text(encoding="utf-8") for name in ("whole", "moved")]
    assert logs[0] == logs[1]
    assert logs[0].count("\n") == 1 + 2 * whole.steps // 4  # a loss and a validation an epoch


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_damaged_checkpoint_is_named(
    name: str, share: float, tmp_path: Path, clips: InMemory, valid: InMemory
) -> None:
    config = replace(CONFIG, epochs=1)
    fit(clips, valid, ABC, EMBEDDER, config, tmp_path / "work")
    file = tmp_path / "work" / name
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    said = rf"{name}: cannot be read( \(Invalid argument\))?; expected .*Delete the folder .*work to begin anew"
    with pytest.raises(OutputError, match=said):
        fit(clips, valid, ABC, EMBEDDER, config, tmp_path / "work")


def test_a_checkpoint_runs_no_code(tmp_path: Path, clips: InMemory, valid: InMemory) -> None:
    config = replace(CONFIG, epochs=1)
    fit(clips, valid, ABC, EMBEDDER, config, tmp_path / "work")
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (ran,))

    torch.save({"global_step": 6, "callbacks": Hostile()}, tmp_path / "work" / "last.ckpt")
    with pytest.raises(OutputError, match=r"last\.ckpt: cannot be read"):
        fit(clips, valid, ABC, EMBEDDER, config, tmp_path / "work")
    assert not ran.exists()


def test_an_accelerator_that_is_not_there_is_named(tmp_path: Path, clips: InMemory, valid: InMemory) -> None:
    with pytest.raises(OptionError, match="accelerator 'abacus', devices 1: cannot be used"):
        fit(clips, valid, ABC, EMBEDDER, CONFIG, tmp_path / "work", machine=Machine(accelerator="abacus"))


def test_the_map_is_that_of_the_head_whatever_the_precision_of_the_steps(tmp_path: Path, clips: InMemory) -> None:
    valid = InMemory(1000, 1)
    config = replace(CONFIG, head="mlp", precision="bf16-mixed", learning_rate=0.003)
    fitted = fit(clips, valid, ABC, EMBEDDER, config, tmp_path / "work")
    everything = np.arange(len(valid))
    scores = fitted.head.predict(*valid.frames(everything))
    assert fitted.mean_ap == pytest.approx(macro(average_precision(scores, targets(valid, everything))), abs=1e-6)


def test_a_finished_run_is_not_run_again(tmp_path: Path, clips: InMemory, valid: InMemory) -> None:
    first = fit(clips, valid, ABC, EMBEDDER, CONFIG, tmp_path / "work")
    again = fit(clips, valid, ABC, EMBEDDER, CONFIG, tmp_path / "work", progress=killed_after(0))
    assert again.mean_ap == first.mean_ap
    assert again.steps == first.steps == 24


def test_training_ends_where_nothing_gets_better(tmp_path: Path, clips: InMemory, valid: InMemory) -> None:
    config = replace(CONFIG, head="logistic", learning_rate=1e-12, patience=2, epochs=30)
    fitted = fit(clips, valid, ABC, EMBEDDER, config, tmp_path / "work")
    assert fitted.steps == 3 * CONFIG.epoch_steps


@pytest.mark.slow
def test_loading_processes_change_nothing(tmp_path: Path, clips: InMemory, valid: InMemory) -> None:
    config = replace(CONFIG, epochs=1)
    alone = fit(clips, valid, ABC, EMBEDDER, config, tmp_path / "alone")
    loaded = fit(clips, valid, ABC, EMBEDDER, config, tmp_path / "loaded", machine=Machine(workers=2))
    expected = weights_of(alone)
    for name, values in weights_of(loaded).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_a_step_is_the_same_whenever_it_is_asked_for(clips: InMemory) -> None:
    one = [Steps(clips, 8, 3, balanced=True, mixup=0.4)[step] for step in (5, 2, 5)]
    for name, values in vars(one[0]).items():
        assert torch.equal(values, getattr(one[2], name)), name
    assert not torch.equal(one[0].embeddings, one[1].embeddings)


def test_processes_share_each_step(clips: InMemory) -> None:
    together = Steps(clips, 8, 3)[4]
    shares = [Steps(clips, 4, 3, rank=rank, world=2)[4] for rank in range(2)]
    interleaved = torch.stack([share.embeddings for share in shares], dim=1).flatten(0, 1)
    assert torch.equal(interleaved, together.embeddings)


def test_every_clip_comes_once_a_round(clips: InMemory) -> None:
    order = UniformOrder(clips, 0)
    taken = np.concatenate([order.take(first, 30) for first in range(0, 600, 30)])
    for turn in taken.reshape(3, 200):
        assert sorted(turn) == list(range(200))
    assert (taken[:200] != taken[200:400]).any()


def test_balanced_order_draws_every_class_equally_often(clips: InMemory) -> None:
    order = BalancedOrder(clips, 0)
    taken = order.take(7, 3000)
    np.testing.assert_array_equal(np.concatenate([order.take(7, 11), order.take(18, 2989)]), taken)
    counts = targets(clips, taken).sum(axis=0)
    plain = targets(clips, np.arange(200)).sum(axis=0)
    assert counts.min() >= 1000
    assert counts.max() / counts.min() < 2 < plain.max() / plain.min()


def test_mixtures_are_of_both_clips_where_both_last(clips: InMemory) -> None:
    embeddings = torch.tensor([[[10.0], [20.0]], [[30.0], [-7.0]]])
    mixed = mixed_embeddings(embeddings, torch.tensor([2, 1]), torch.tensor([0.25, 1.0]), torch.tensor([1, 0]))
    torch.testing.assert_close(mixed, torch.tensor([[[25.0], [20.0]], [[30.0], [0.0]]]))


def test_another_configuration_does_not_continue(tmp_path: Path, clips: InMemory, valid: InMemory) -> None:
    fit(clips, valid, ABC, EMBEDDER, replace(CONFIG, epochs=1), tmp_path / "work", notes={"train": "x"})
    with pytest.raises(OutputError, match="a job with other epochs, learning_rate, train; expected the same"):
        fit(clips, valid, ABC, EMBEDDER, replace(CONFIG, learning_rate=1.0), tmp_path / "work", notes={"train": "y"})
    discard(tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_only_a_folder_of_training_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    discard(tmp_path / "photos")
    assert (tmp_path / "photos").is_dir()


def test_nothing_to_learn_from_or_validate_by_is_an_error(tmp_path: Path, clips: InMemory) -> None:
    nothing = InMemory(0, 0)
    with pytest.raises(DatasetError, match="training clips: none"):
        fit(nothing, clips, ABC, EMBEDDER, CONFIG, tmp_path / "work")
    with pytest.raises(DatasetError, match="validation clips: none"):
        fit(clips, nothing, ABC, EMBEDDER, CONFIG, tmp_path / "work")
    unlabelled = InMemory(5, 0)
    unlabelled.columns, unlabelled.starts = np.empty(0, np.int64), np.zeros(6, np.int64)
    with pytest.raises(DatasetError, match="validation clips: none has a class"):
        fit(clips, unlabelled, ABC, EMBEDDER, CONFIG, tmp_path / "work")
    with pytest.raises(DatasetError, match="training clips: none has a class"):
        fit(unlabelled, clips, ABC, EMBEDDER, CONFIG, tmp_path / "work")


def test_an_embedding_that_is_not_finite_is_named(tmp_path: Path, valid: InMemory) -> None:
    clips = InMemory(40, 0, np.float32)
    clips._frames[17, 0, 3] = np.nan
    with pytest.raises(DatasetError, match="clip-17: an embedding with NaN"):
        fit(clips, valid, ABC, EMBEDDER, replace(CONFIG, balanced=False), tmp_path / "work")


def test_options_are_checked() -> None:
    with pytest.raises(OptionError, match=r"heads\.json: 'lerning_rate' is no option; expected some of head"):
        TrainConfig.of({"lerning_rate": 1}, "heads.json")
    with pytest.raises(OptionError, match=r"heads\.json: batch_size: 0 is out of range"):
        TrainConfig.of({"batch_size": 0}, "heads.json")
    with pytest.raises(OptionError, match="precision: '8' is unknown"):
        TrainConfig(precision="8")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="learning_rate: 0 is out of range"):
        TrainConfig(learning_rate=0)
    with pytest.raises(OptionError, match="devices: 0 is out of range"):
        Machine(devices=0)
    assert TrainConfig.of(json.loads('{"head": "moe", "seed": 3}'), "x") == TrainConfig(head="moe", seed=3)

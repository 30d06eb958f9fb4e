"""Training of a head: steps that depend on nothing but seed and number, stopped early, continued exactly.

What a step sees and drops is decided by the seed and its number (`batches.py`), and a checkpoint is kept after every
`epoch_steps` steps: a run that was killed goes on from the last one and ends with the weights that it would have had.
Lightning does the rest: devices, precision, several processes, logs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from audioset.classes import ClassList
from audioset.errors import DatasetError, OptionError
from audioset.evaluate.metrics import average_precision, macro
from audioset.torch.front_end import without_autocast
from audioset.train import _running, heads
from audioset.train._running import discard as discard
from audioset.train.batches import Batch, Clips, Indices, Ordered, Steps, finite_frames
from audioset.train.config import Machine, TrainConfig
from audioset.train.head import Embedder, Head, HeadNetwork

METRIC: Final = "valid/mAP"
_STEPS_A_REPORT: Final = 10
# What mean and deviation of the input are taken from: so many clips, so many at a time, of each lot so many frames.
_SAMPLED_CLIPS: Final = 10_000
_LOT_CLIPS: Final = 250
_LOT_FRAMES: Final = 2_500


@dataclass(frozen=True)
class Report:
    """How far training is: what the callback gets.

    Attributes
    ----------
    step, num_steps : int
        Of all that may be run.
    loss : float or None
        Of this step; None in the report of a validation.
    mean_ap : float or None
        Of the validation that this is the report of.
    best_mean_ap : float or None
        The best so far.
    """

    step: int
    num_steps: int
    loss: float | None
    mean_ap: float | None
    best_mean_ap: float | None


Progress: TypeAlias = Callable[[Report], None]


@dataclass(frozen=True)
class Fitted:
    """A trained head, and what training came to.

    Attributes
    ----------
    head : Head
        With the weights of the best validation.
    mean_ap : float
        Its validation mAP.
    steps : int
        Steps that were run, over all starts.
    main : bool
        Whether this process is the one that writes; False in the others of a job of several.
    """

    head: Head
    mean_ap: float
    steps: int
    main: bool


def fit(
    train: Clips,
    valid: Clips,
    classes: ClassList,
    embedder: Embedder,
    config: TrainConfig,
    work: Path,
    *,
    machine: Machine | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Train a head, continuing in the folder `work` where an earlier call with the same configuration stopped.

    Parameters
    ----------
    train, valid : Clips
        To learn from, and to stop by.
    classes : ClassList
        Columns of the targets.
    embedder : Embedder
        What the embeddings are of.
    config : TrainConfig
        What decides the result.
    work : Path
        Folder of checkpoints (`last.ckpt`, `best.ckpt`), logs (`metrics.csv`, TensorBoard's) and the configuration.
    machine : Machine, optional
        Where it runs; one process on whatever is there by default.
    notes : mapping, optional
        What else decides the result, such as the files: kept with the head, and compared when continuing. JSON.
    progress : callable, optional
        Called now and then.

    Raises
    ------
    DatasetError
        There is nothing to learn from or to validate by, or an embedding is not finite.
    OutputError
        The folder is of a job with another configuration, or cannot be written.
    OptionError
        Batches are smaller than the number of processes.
    """
    machine = machine or Machine()
    if not len(train) or not len(valid):
        empty = "training" if not len(train) else "validation"
        raise DatasetError(f"{empty} clips: none; expected one or more. Look at the data and how it is split")
    if not len(valid.columns):
        raise DatasetError("validation clips: none has a class; expected labelled clips, to know when to stop")
    per_process = config.batch_size // machine.world
    if not per_process:
        raise OptionError(
            f"batch_size: {config.batch_size} for {machine.world} processes; expected one clip or more each"
        )
    about = {**(notes or {}), "config": dataclasses.asdict(config), "embedder": dataclasses.asdict(embedder)}
    _running.prepare(work, about)

    torch.manual_seed(config.seed)
    head = Head.new(config.head, classes, embedder, config.options)
    head.network.expect(_sample(train, config.seed))
    task = _Task(head.network, config, Ordered(valid, max(config.batch_size, 256)), progress)
    done = _running.run(
        task,
        lambda epoch, rank: _running.loader(
            Steps(
                train,
                per_process,
                config.seed,
                balanced=config.balanced,
                mixup=config.mixup,
                rank=rank,
                world=machine.world,
            ),
            range(epoch * config.epoch_steps, (epoch + 1) * config.epoch_steps),
            machine.workers,
        ),
        work,
        machine,
        epochs=config.epochs,
        precision=config.precision,
        log_steps=min(50, config.epoch_steps),
        metric=METRIC,
        patience=config.patience,
    )
    head.network.load_state_dict(done.weights)
    head.network.to("cpu").eval()
    result = dataclasses.replace(head, notes={**about, METRIC: done.score})
    return Fitted(result, done.score, done.steps, done.main)


class _Task(_running.Task):
    """What Lightning runs: loss of a step, mAP of a validation, learning rate."""

    def __init__(self, network: HeadNetwork, config: TrainConfig, valid: Ordered, progress: Progress | None) -> None:
        super().__init__()
        self.network = network
        self._config = config
        self._valid = valid
        self._progress = progress
        self._scores: list[npt.NDArray[np.float32]] = []
        self._targets: list[npt.NDArray[np.bool_]] = []

    def val_dataloader(self) -> DataLoader[Batch]:
        return _running.loader(self._valid, range(len(self._valid)), 0)

    def configure_optimizers(self) -> Any:
        config = self._config
        optimizer = torch.optim.AdamW(self.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        num_steps = config.epochs * config.epoch_steps

        def share(step: int) -> float:
            if config.schedule == "constant":
                return min(1.0, (step + 1) / max(1, config.warmup_steps))
            return _running.half_cosine(step, config.warmup_steps, num_steps)

        return _running.scheduled(optimizer, share)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout then depends on seed, step and process, not on what was drawn before.
        mixed = np.random.SeedSequence([self._config.seed, self.global_step, self.global_rank]).generate_state(1)
        torch.manual_seed(int(mixed[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        embeddings, wanted, num_frames = batch.embeddings, batch.targets, batch.num_frames
        if batch.mix is not None and batch.partner is not None:
            embeddings = mixed_embeddings(embeddings, num_frames, batch.mix, batch.partner)
            wanted = torch.lerp(wanted[batch.partner], wanted, batch.mix[:, None])
            num_frames = torch.maximum(num_frames, num_frames[batch.partner])
        loss = functional.binary_cross_entropy_with_logits(self.network(embeddings, num_frames), wanted)
        if not torch.isfinite(loss):
            raise DatasetError(
                f"step {self.global_step}: the loss is {loss.item()}; expected a finite one. Lower the learning rate"
            )
        self.log("train/loss", loss, on_step=True, on_epoch=False)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self._progress is not None and batch_idx % _STEPS_A_REPORT == 0:  # reading the loss waits for a GPU
            self._report(float(outputs["loss"]), None)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        # As `Head.predict` does, also where steps are in half precision, whose scores have many ties.
        with without_autocast(self.device.type):
            scores = torch.sigmoid(self.network(batch.embeddings, batch.num_frames))
        self._scores.append(scores.cpu().numpy())
        self._targets.append(batch.targets.cpu().numpy() > 0)

    def on_validation_epoch_end(self) -> None:
        mean = macro(average_precision(np.concatenate(self._scores), np.concatenate(self._targets)))
        self._scores.clear()
        self._targets.clear()
        self.log(METRIC, mean)  # the same in every process: each validates on all clips
        self._report(None, mean)

    def _report(self, loss: float | None, mean_ap: float | None) -> None:
        if self._progress is None or not self.trainer.is_global_zero:
            return
        kept = next(call for call in self.trainer.callbacks if isinstance(call, ModelCheckpoint)).best_model_score  # type: ignore[attr-defined]
        scores = [score for score in (mean_ap, None if kept is None else float(kept)) if score is not None]
        num_steps = self._config.epochs * self._config.epoch_steps
        self._progress(Report(self.global_step, num_steps, loss, mean_ap, max(scores, default=None)))


def mixed_embeddings(embeddings: Tensor, num_frames: Tensor, mix: Tensor, partner: Tensor) -> Tensor:
    """Return each clip mixed with its partner, frame by frame, float32; where one has ended the other is alone."""
    values = HeadNetwork.plain(embeddings)
    inside = heads.frame_mask(num_frames, embeddings.shape[1])[:, :, None]
    share = mix[:, None, None] * inside
    other = (1 - mix[:, None, None]) * inside[partner]
    total = (share + other).clamp(min=torch.finfo(values.dtype).tiny)
    return (values * share + values[partner] * other) / total


def _sample(clips: Clips, seed: int) -> npt.NDArray[Any]:
    """Return frames of some clips, (n, dim), to take mean and deviation from."""
    rng = np.random.default_rng(seed)
    count = min(len(clips), _SAMPLED_CLIPS)
    indices: Indices = np.sort(rng.choice(len(clips), count, replace=False))
    lots = []
    for first in range(0, count, _LOT_CLIPS):
        embeddings, num_frames = finite_frames(clips, indices[first : first + _LOT_CLIPS])
        frames = embeddings[np.arange(embeddings.shape[1]) < num_frames[:, np.newaxis]]
        if len(frames) > _LOT_FRAMES:
            frames = frames[rng.choice(len(frames), _LOT_FRAMES, replace=False)]
        lots.append(frames)
    found = np.concatenate([lot for lot in lots if len(lot)] or lots)
    if not len(found):
        raise DatasetError("training clips: none has a frame; expected embeddings")
    return found

"""The full way: all weights move, from those of the model and of the frozen way's linear layer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from audioset import audio, features
from audioset._files import unwritable, written_whole
from audioset.errors import DatasetError
from audioset.evaluate.metrics import average_precision, macro
from audioset.finetune import augment
from audioset.finetune.augment import Augmentation
from audioset.finetune.data import Bools, Clip
from audioset.finetune.options import FinetuneOptions, Progress
from audioset.finetune.split import Indices
from audioset.models.spec import ModelSpec
from audioset.torch.front_end import LogMel, without_autocast
from audioset.torch.networks import Network
from audioset.train import _running
from audioset.train.batches import UniformOrder
from audioset.train.config import Machine
from audioset.weights import from_tensors

Tensors = Mapping[str, npt.NDArray[np.float32]]

# Accuracy, or mAP where clips may have several classes; of equals the one with the lower log loss is better.
METRIC: Final = "valid/merit"
_LOSS_SHARE: Final = 1e-4
_SOUNDS, _STARTS = "sounds.f32", "sounds.json"
_AUGMENT: Final = 7  # purpose of the random numbers, beside those of `audioset.train.batches`
_CLIPS_AT_ONCE: Final = 16  # in validation
_WARMUP_STEPS: Final = 20


@dataclass(frozen=True)
class Waveforms:
    """Decoded clips on the disk, so that memory does not grow with their number.

    Attributes
    ----------
    samples : ndarray of float32, shape (n,)
        All clips, one after another, 16 kHz mono; mapped from the file.
    starts : ndarray of int, shape (clips + 1,)
        Where each begins.
    """

    samples: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int64]

    def __getitem__(self, clip: int) -> npt.NDArray[np.float32]:
        return self.samples[self.starts[clip] : self.starts[clip + 1]]

    @classmethod
    def of(cls, clips: Sequence[Clip], work: Path, progress: Progress | None) -> Waveforms:
        """Decode clips into files in the folder `work`, or take what an earlier call left there."""
        sounds, note = work / _SOUNDS, work / _STARTS
        try:
            if not note.is_file():
                lengths = []
                with written_whole(sounds) as temporary, temporary.open("wb") as file:
                    for place, clip in enumerate(clips):
                        waveform = audio.read(clip.path, start_s=clip.start_s, duration_s=clip.duration_s)
                        file.write(waveform.astype("<f4").tobytes())
                        lengths.append(len(waveform))
                        if progress is not None:
                            progress("decoding", place + 1, len(clips), "")
                with written_whole(note) as temporary:
                    temporary.write_text(json.dumps(lengths), encoding="ascii")
            starts = np.cumsum([0, *json.loads(note.read_text(encoding="ascii"))], dtype=np.int64)
            return cls(np.memmap(sounds, "<f4", "r", shape=(int(starts[-1]),)), starts)
        except OSError as error:
            raise unwritable(work, error) from error

    @staticmethod
    def discard(work: Path) -> None:
        """Delete the files."""
        for name in (_STARTS, _SOUNDS):
            with suppress(PermissionError):  # Windows keeps a file while something still maps it
                (work / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Tuned:
    """A network that has moved.

    Attributes
    ----------
    tensors : mapping of str to ndarray
        Its weights.
    epoch : int
        Epochs after which it was so.
    merit : float
        Its validation accuracy (mAP where clips may have several classes), less a little of the loss; NaN without.
    """

    tensors: Tensors
    epoch: int
    merit: float


def fit_full(
    spec: ModelSpec,
    tensors: Tensors,
    waveforms: Waveforms,
    targets: Bools,
    train: Indices,
    valid: Indices | None,
    options: FinetuneOptions,
    work: Path,
    *,
    about: Mapping[str, Any],
    stop_after: int | None = None,
    stage: str = "training",
    machine: Machine | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Move all weights of a network with classes, continuing in `work` where an earlier call stopped.

    Each step takes a random example of each of some clips. What it takes and how that is augmented is decided by the
    seed and the step's number, and a checkpoint is kept after each time through the clips: a run that was killed ends
    with the weights that it would have had.

    Parameters
    ----------
    spec : ModelSpec
        A model of one's own.
    tensors : mapping of str to ndarray
        Its weights to start from.
    waveforms : Waveforms
        All clips.
    targets : ndarray of bool, shape (clips, classes)
        Their classes.
    train : ndarray of int
        Clips to learn from.
    valid : ndarray of int or None
        Clips to stop by; None to stop after `stop_after` epochs.
    options : FinetuneOptions
        How to learn.
    work : Path
        Folder of checkpoints and logs.
    about : mapping
        What else decides the result, to compare when continuing. JSON.
    stop_after : int, optional
        Where there is nothing to stop by: after so many epochs of those that the learning rate takes to fall to 0.
    stage : str
        What the progress is called.
    machine : Machine, optional
        Where it runs.
    threads : int, optional
        Cores to use; all that PyTorch would use by default.
    progress : callable, optional
        Called now and then.

    Raises
    ------
    DatasetError
        Training diverges.
    OutputError
        The folder is of a job with another configuration, or cannot be written.
    """
    settings = {
        name: value for name, value in dataclasses.asdict(options).items() if name not in ("folds", "valid_fraction")
    }
    clips = hashlib.sha256(repr((train.tolist(), None if valid is None else valid.tolist())).encode()).hexdigest()
    _running.prepare(work, {**about, "options": settings, "clips": clips, "stop_after": stop_after})
    network = Network.from_spec(spec, from_tensors(spec.name, spec.name, dict(tensors), {}))
    crops = _Crops(waveforms, targets, train, spec, options)
    per_epoch = -(-len(train) // crops.batch_size)
    task = _Task(network, crops, _Whole(waveforms, targets, valid, spec), per_epoch, options, stage, progress)
    with _torch_threads(threads):
        done = _running.run(
            task,
            lambda epoch, _: _running.loader(crops, range(epoch * per_epoch, (epoch + 1) * per_epoch), 0),
            work,
            machine or Machine(),
            epochs=options.epochs if valid is not None else stop_after or options.epochs,
            precision=options.precision,
            log_steps=min(10, per_epoch),
            metric=None if valid is None else METRIC,
            patience=options.patience,
        )
    network.to("cpu").load_state_dict(done.weights)
    return Tuned(network.tensors(), done.epoch, done.score)


@dataclass(frozen=True)
class _Batch:
    """Examples as samples, what to hide of them, and classes."""

    samples: Tensor
    hidden: Tensor | None
    targets: Tensor

    def to(self, device: torch.device) -> _Batch:
        hidden = None if self.hidden is None else self.hidden.to(device)
        return _Batch(self.samples.to(device), hidden, self.targets.to(device))

    def pin_memory(self) -> _Batch:
        hidden = None if self.hidden is None else self.hidden.pin_memory()
        return _Batch(self.samples.pin_memory(), hidden, self.targets.pin_memory())


@dataclass(frozen=True)
class _Clips:
    """All examples of some clips, which of them each is of, and classes."""

    examples: Tensor
    owner: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> _Clips:
        return _Clips(self.examples.to(device), self.owner.to(device), self.targets.to(device))

    def pin_memory(self) -> _Clips:
        return _Clips(self.examples.pin_memory(), self.owner.pin_memory(), self.targets.pin_memory())


class _Crops(Dataset[_Batch]):
    """The batches of training: item `i` is that of step `i`."""

    def __init__(
        self, waveforms: Waveforms, targets: Bools, train: Indices, spec: ModelSpec, options: FinetuneOptions
    ) -> None:
        self.batch_size = min(options.batch_size, len(train))
        self._waveforms = waveforms
        self._targets = targets
        self._train = train
        self._spec = spec
        self._seed = options.seed
        self._augmentation = Augmentation() if options.augment else None
        self._order = UniformOrder(train, options.seed)

    def __getitem__(self, step: int) -> _Batch:
        rng = np.random.default_rng([self._seed, _AUGMENT, step])
        clips = self._train[self._order.take(step * self.batch_size, self.batch_size)]
        samples = np.stack(
            [
                augment.example_of(self._waveforms[clip], self._spec.hop_s, self._spec.pad, rng, self._augmentation)
                for clip in clips
            ]
        )
        hidden = None
        if self._augmentation is not None:
            hidden = torch.from_numpy(augment.hidden(len(clips), rng, self._augmentation))
        return _Batch(torch.from_numpy(samples), hidden, torch.from_numpy(self._targets[clips].astype(np.float32)))


class _Whole(Dataset[_Clips]):
    """Clips as the model sees them when it tags, a few at a time."""

    def __init__(self, waveforms: Waveforms, targets: Bools, clips: Indices | None, spec: ModelSpec) -> None:
        self._waveforms = waveforms
        self._targets = targets
        self._clips: Sequence[int] = [] if clips is None else clips.tolist()
        self._spec = spec

    def __len__(self) -> int:
        return -(-len(self._clips) // _CLIPS_AT_ONCE)

    def __getitem__(self, place: int) -> _Clips:
        clips = self._clips[place * _CLIPS_AT_ONCE : (place + 1) * _CLIPS_AT_ONCE]
        examples = [self._examples(clip) for clip in clips]
        owner = np.repeat(np.arange(len(clips)), [len(of_clip) for of_clip in examples])
        return _Clips(
            torch.from_numpy(np.concatenate(examples)),
            torch.from_numpy(owner),
            torch.from_numpy(self._targets[clips].astype(np.float32)),
        )

    def _examples(self, clip: int) -> npt.NDArray[np.float32]:
        spec = self._spec
        stream = features.ExampleStream(hop_s=spec.hop_s, pad=spec.pad, log_offset=spec.log_offset)
        return np.concatenate([*stream.push(np.array(self._waveforms[clip])), *stream.finish()])


class _Task(_running.Task):
    """What Lightning runs: loss of a step, loss of a validation, learning rates."""

    network: Network

    def __init__(
        self,
        network: Network,
        crops: _Crops,
        whole: _Whole,
        per_epoch: int,
        options: FinetuneOptions,
        stage: str,
        progress: Progress | None,
    ) -> None:
        super().__init__()
        self.network = network
        self._log_mel = LogMel.of(network.spec)
        self._whole = whole
        self._options = options
        self._num_steps = options.epochs * per_epoch
        self._softmax = getattr(network.spec.layers[-2], "activation", None) == "softmax"
        self._stage = stage
        self._progress = progress
        self._talk = ""
        self._scores: list[npt.NDArray[np.float32]] = []
        self._targets: list[Bools] = []

    def val_dataloader(self) -> Any:
        return _running.loader(self._whole, range(len(self._whole)), 0)

    def configure_optimizers(self) -> Any:
        options = self._options
        layers = list(self.network.parameters_by_layer().values())
        groups = [
            {"params": parameters, "lr": options.learning_rate * options.layer_decay ** (len(layers) - 1 - depth)}
            for depth, parameters in enumerate(layers)
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay)
        return _running.scheduled(
            optimizer,
            lambda step: _running.half_cosine(step, min(_WARMUP_STEPS, self._num_steps // 10), self._num_steps),
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def training_step(self, batch: _Batch, batch_idx: int) -> Tensor:
        with torch.no_grad():
            examples = self._log_mel(batch.samples)[:, 0]
            if batch.hidden is not None:
                examples = torch.where(batch.hidden, examples.mean((1, 2), keepdim=True), examples)
        logits = self.network(examples).logits.float()
        if self._softmax:
            loss = functional.cross_entropy(logits, batch.targets)
        else:
            loss = functional.binary_cross_entropy_with_logits(logits, batch.targets)
        if not torch.isfinite(loss):
            raise DatasetError(
                f"step {self.global_step}: the loss is {loss.item()}; expected a finite one. Lower the learning rate"
            )
        self.log("train/loss", loss, on_step=True, on_epoch=False)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._stage, self.global_step, self._num_steps, self._talk)

    def validation_step(self, batch: _Clips, batch_idx: int) -> None:
        with without_autocast(self.device.type):  # as the model tags, also where steps are in half precision
            scores = self.network(batch.examples).scores
        sums = torch.zeros_like(batch.targets).index_add_(0, batch.owner, scores)
        counts = torch.bincount(batch.owner, minlength=len(sums))[:, None]
        self._scores.append((sums / counts).cpu().numpy())
        self._targets.append(batch.targets.cpu().numpy() > 0)

    def on_validation_epoch_end(self) -> None:
        scores = np.concatenate(self._scores).astype(np.float64)
        targets = np.concatenate(self._targets)
        self._scores.clear()
        self._targets.clear()
        surprise = -np.log(np.maximum(np.where(targets, scores, 1 - scores), np.finfo(np.float32).tiny))
        if self._softmax:
            loss, name = float(surprise[targets].mean()), "accuracy"
            right = float((scores.argmax(axis=1) == targets.argmax(axis=1)).mean())
        else:
            loss, name = float(surprise.mean()), "mAP"
            right = macro(average_precision(scores, targets)) if targets.any() else 0.0
        self.log_dict({METRIC: right - _LOSS_SHARE * loss, f"valid/{name}": right, "valid/loss": loss})
        self._talk = f"validation {name} {right:.4f}, loss {loss:.4f}"
        self._tell()


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """Let PyTorch use so many cores meanwhile."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)

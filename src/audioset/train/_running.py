"""Lightning's trainer as this package runs it: quiet, a checkpoint an epoch, stopped early, continued exactly."""

from __future__ import annotations

import json
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from audioset._files import unwritable, written_whole
from audioset.errors import OutputError
from audioset.train.config import Machine, Precision

_LAST: Final = "last.ckpt"
_BEST: Final = "best.ckpt"
_CONFIG: Final = "config.json"


class Task(pl.LightningModule):
    """What `run` trains: a network, and the batches of each epoch."""

    network: nn.Module
    load: Callable[[int], DataLoader[Any]]

    def train_dataloader(self) -> DataLoader[Any]:
        return self.load(self.current_epoch)


@dataclass(frozen=True)
class Finished:
    """What training came to.

    Attributes
    ----------
    weights : dict of str to Tensor
        State of the task's network, on the CPU, where the metric was best; at the end where none is watched.
    score : float
        The best value of the metric; NaN where none is watched.
    epoch : int
        Epochs after which these weights were reached.
    steps : int
        Steps that were run, over all starts.
    main : bool
        Whether this process is the one that writes; False in the others of a job of several.
    """

    weights: dict[str, Tensor]
    score: float
    epoch: int
    steps: int
    main: bool


def run(
    task: Task,
    load: Callable[[int, int], DataLoader[Any]],
    work: Path,
    machine: Machine,
    *,
    epochs: int,
    precision: Precision,
    log_steps: int,
    metric: str | None,
    patience: int = 0,
) -> Finished:
    """Train, continuing from the last checkpoint in `work` if there is one.

    Parameters
    ----------
    task : Task
        What is trained; steps must depend on nothing but their number.
    load : callable
        `load(epoch, rank)` gives the batches of an epoch for one process.
    work : Path
        Folder of checkpoints and logs.
    machine : Machine
        Where it runs.
    epochs : int
        At most.
    precision, log_steps
        Lightning's `precision` and `log_every_n_steps`.
    metric : str or None
        What is logged each epoch that decides, by rising, which weights are kept and when to stop; None keeps the last.
    patience : int
        Epochs without a better value after which training ends.

    Raises
    ------
    OutputError
        The folder cannot be written.
    KeyboardInterrupt
        After a Ctrl-C has been dealt with.
    """
    # Two, because Lightning's `save_last` writes only after epochs that got better.
    latest = ModelCheckpoint(work, "last", enable_version_counter=False)
    best = ModelCheckpoint(work, "best", monitor=metric, mode="max", enable_version_counter=False)
    stop = None if metric is None else EarlyStopping(metric, patience=patience, mode="max")
    last = work / _LAST
    with quiet():
        trainer = pl.Trainer(
            accelerator=machine.accelerator,
            devices=machine.devices,
            num_nodes=machine.nodes,
            strategy="ddp" if machine.world > 1 else "auto",
            precision=precision,
            max_epochs=epochs,
            reload_dataloaders_every_n_epochs=1,  # each epoch has steps of its own
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=None if metric is not None else 0,
            log_every_n_steps=log_steps,
            callbacks=[latest] if stop is None else [stop, best, latest],
            logger=[CSVLogger(work, "", ""), TensorBoardLogger(work, "", "tensorboard")],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        task.load = lambda epoch: load(epoch, trainer.global_rank)
        steps = _stopped_at(last, stop)
        if steps is None:
            try:
                trainer.fit(task, ckpt_path=last if last.is_file() else None, weights_only=True)
            except SystemExit as stopped:  # Lightning's, once a Ctrl-C has been dealt with
                raise KeyboardInterrupt from stopped
            except OSError as error:
                raise unwritable(work, error) from error
            steps = int(trainer.global_step)
        kept = torch.load(last if metric is None else work / _BEST, map_location="cpu", weights_only=True)
    score = math.nan if metric is None else float(kept["callbacks"][best.state_key]["best_model_score"])
    return Finished(
        {name.removeprefix("network."): values for name, values in kept["state_dict"].items()},
        score,
        int(kept["epoch"]) + 1,
        steps,
        bool(trainer.is_global_zero),
    )


def _stopped_at(last: Path, stop: EarlyStopping | None) -> int | None:
    """Steps of a run that had stopped early when its last checkpoint was written: one more epoch would be too many."""
    if stop is None or not last.is_file():
        return None
    checkpoint = torch.load(last, map_location="cpu", weights_only=True)
    waited = checkpoint["callbacks"].get(stop.state_key, {}).get("wait_count", 0)
    return int(checkpoint["global_step"]) if waited >= stop.patience else None


def scheduled(optimizer: torch.optim.Optimizer, share: Callable[[int], float]) -> Any:
    """Return what Lightning takes for an optimizer whose rates are `share(step)` of the highest."""
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


def half_cosine(step: int, warmup_steps: int, num_steps: int) -> float:
    """Return the share of the highest rate at a step: rising over the first ones, then falling to 0 at the last."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, done))


def loader(items: Dataset[Any], places: Sequence[int], workers: int) -> DataLoader[Any]:
    """Give the items at these places, one after another, loaded ahead by other processes if there are any."""
    return DataLoader(
        items,
        batch_size=None,
        sampler=places,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,  # what has threads does not survive a fork
        pin_memory=torch.cuda.is_available(),
    )


def prepare(work: Path, about: Mapping[str, Any]) -> None:
    """Make the folder, or check that it is of this very job.

    Raises
    ------
    OutputError
        It is of another one, or cannot be written.
    """
    note = work / _CONFIG
    text = json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False)
    try:
        if note.is_file():
            earlier = json.loads(note.read_text(encoding="utf-8"))
            differing = _differences(earlier, json.loads(text))
            if differing:
                raise OutputError(
                    f"{work}: holds the checkpoints of a job with other {', '.join(differing)}; expected the same. "
                    "Delete the folder to begin anew, or name another output"
                )
            return
        work.mkdir(parents=True, exist_ok=True)
        with written_whole(note) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except ValueError as error:
        raise OutputError(f"{note}: cannot be read ({error}); delete the folder to begin anew") from error
    except OutputError:
        raise
    except OSError as error:
        raise unwritable(work, error) from error


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names, one level deep, of what is not the same."""
    found = []
    for name in sorted({*one, *other}):
        left, right = one.get(name), other.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            found += _differences(left, right)
        elif left != right:
            found.append(name)
    return found


def discard(work: Path) -> None:
    """Delete what an earlier job left in its folder, if it is such a folder."""
    if (work / _CONFIG).is_file():
        shutil.rmtree(work)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from announcing what the caller announces, and from advice that does not fit here."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", module=r"torch\..*")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)

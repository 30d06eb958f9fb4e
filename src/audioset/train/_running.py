"""Lightning's trainer as this package runs it: quiet, a checkpoint an epoch, stopped early, continued exactly."""

from __future__ import annotations

import csv
import json
import logging
import math
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from audioset._files import unwritable, written_whole
from audioset.errors import OptionError, OutputError
from audioset.train.config import Machine, Precision

_LAST: Final = "last.ckpt"
_BEST: Final = "best.ckpt"
_CONFIG: Final = "config.json"
_METRICS: Final = "metrics.csv"


class Task(pl.LightningModule):
    """What `run` trains: a network, and the batches of each epoch."""

    network: nn.Module
    load: Callable[[int], DataLoader[Any]]

    def train_dataloader(self) -> DataLoader[Any]:
        return self.load(self.current_epoch)


class _Checkpoint(ModelCheckpoint):
    """One file, and the best score so far: also after the folder has been moved, where Lightning would forget it."""

    def __init__(self, work: Path, name: str, metric: str | None = None) -> None:
        super().__init__(work, name, monitor=metric, mode="max", enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})


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
        The folder cannot be written, or a checkpoint in it cannot be read.
    OptionError
        There is no such accelerator, or there are fewer devices.
    KeyboardInterrupt
        After a Ctrl-C has been dealt with.
    """
    # Two, because Lightning's `save_last` writes only after epochs that got better.
    latest = _Checkpoint(work, "last")
    best = _Checkpoint(work, "best", metric)
    stop = None if metric is None else EarlyStopping(metric, patience=patience, mode="max")
    last = work / _LAST
    steps, stopped_early = _reached(last, stop)
    with quiet():
        try:
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
                logger=[TensorBoardLogger(work, "", "tensorboard")],
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        except (MisconfigurationException, ValueError) as error:
            raise OptionError(
                f"accelerator {machine.accelerator!r}, devices {machine.devices}: cannot be used ({error}); expected "
                "what this machine has. Use `auto`, or fewer devices"
            ) from error
        task.load = lambda epoch: load(epoch, trainer.global_rank)
        if not stopped_early:  # one more epoch would be too many
            try:
                trainer.loggers = [_log(work, steps if trainer.is_global_zero else 0), *trainer.loggers]
                trainer.fit(task, ckpt_path=last if last.is_file() else None, weights_only=True)
            except SystemExit as stopped:  # Lightning's, once a Ctrl-C has been dealt with
                raise KeyboardInterrupt from stopped
            except OSError as error:
                raise unwritable(work, error) from error
            steps = int(trainer.global_step)
        kept = _checkpoint(last if metric is None else work / _BEST)
    score = math.nan if metric is None else float(kept["callbacks"][best.state_key]["best_model_score"])
    return Finished(
        {name.removeprefix("network."): values for name, values in kept["state_dict"].items()},
        score,
        int(kept["epoch"]) + 1,
        steps,
        bool(trainer.is_global_zero),
    )


def _checkpoint(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        # PyTorch's own words are a paragraph, with advice to read the file in ways that run what is in it.
        reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise OutputError(
            f"{path}: cannot be read{reason}; expected a checkpoint of this job, whole. "
            f"Delete the folder {path.parent} to begin anew"
        ) from error
    return found


def _reached(last: Path, stop: EarlyStopping | None) -> tuple[int, bool]:
    """Steps up to the last checkpoint, 0 without one, and whether the run had stopped early there."""
    if not last.is_file():
        return 0, False
    checkpoint = _checkpoint(last)
    waited = 0 if stop is None else checkpoint["callbacks"].get(stop.state_key, {}).get("wait_count", 0)
    return int(checkpoint["global_step"]), stop is not None and waited >= stop.patience


def _log(work: Path, num_steps: int) -> CSVLogger:
    """Return what writes metrics.csv, with the rows that are there of the first `num_steps` steps."""
    path, rows = work / _METRICS, list[Any]()
    if num_steps and path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            found = [(row.get("step") or "", row) for row in csv.DictReader(file)]
        rows = [row for step, row in found if step.isdecimal() and int(step) < num_steps]
    logger = CSVLogger(work, "", "", flush_logs_every_n_steps=1)
    writer = logger.experiment  # deletes the file
    if rows:
        writer.metrics = rows
        writer.save()
    return logger


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
                    "To begin anew, delete the folder or use --overwrite; or name another output"
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

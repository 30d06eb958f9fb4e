"""Which clips make up each step of training, as a pure function of seed and step.

Nothing here remembers what came before, so that training which is stopped and continued at step `k` sees what it would
have seen, whatever the number of processes that load.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from audioset.errors import DatasetError

Indices = npt.NDArray[np.int64]
# What each stream of random numbers is for; one that is drawn for one purpose never moves another.
_ORDER, _CLASSES, _CLIPS, _MIXUP = range(4)


class Clips(Protocol):
    """Clips to learn from: frame embeddings and, for each clip, the columns of its classes."""

    @property
    def starts(self) -> Indices:
        """Where in `columns` those of each clip begin, shape (n + 1,)."""
        ...

    @property
    def columns(self) -> npt.NDArray[np.integer[Any]]:
        """Columns of the classes, clip after clip."""
        ...

    @property
    def num_classes(self) -> int:
        """Width of the targets."""
        ...

    def __len__(self) -> int: ...

    def frames(self, indices: Indices) -> tuple[npt.NDArray[Any], npt.NDArray[np.integer[Any]]]:
        """Return embeddings (n, t, dim), padded with zeros, and how many frames of each count (n,)."""
        ...

    def name(self, index: int) -> str:
        """Return what messages call a clip."""
        ...


def targets(clips: Clips, indices: Indices) -> npt.NDArray[np.float32]:
    """Return what is to be learnt, float32 (n, classes), 1 where a clip has the class."""
    found = np.zeros((len(indices), clips.num_classes), np.float32)
    lengths = clips.starts[indices + 1] - clips.starts[indices]
    rows = np.repeat(np.arange(len(indices)), lengths)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    found[rows, clips.columns[np.repeat(clips.starts[indices], lengths) + within]] = 1
    return found


@dataclass(frozen=True)
class Batch:
    """One step's clips; what `HeadNetwork` takes, and what it is to say."""

    embeddings: Tensor
    num_frames: Tensor
    targets: Tensor
    mix: Tensor | None
    """Share of each clip in its mixture with the one at `partner`, shape (n,); None where nothing is mixed."""
    partner: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """Return the same on another device."""
        return Batch(*(None if part is None else part.to(device, non_blocking=True) for part in vars(self).values()))  # type: ignore[arg-type]

    def pin_memory(self) -> Batch:
        """Return the same where a GPU fetches it from by itself."""
        return Batch(*(None if part is None else part.pin_memory() for part in vars(self).values()))  # type: ignore[arg-type]


class UniformOrder:
    """Every clip once, in an order of its own each time round."""

    def __init__(self, clips: Sized, seed: int) -> None:
        self._num = len(clips)
        self._seed = seed
        self._round: tuple[int, Indices] = (-1, np.empty(0, np.int64))

    def take(self, first: int, count: int) -> Indices:
        """Return the clips at places `first` … `first + count - 1` of the endless sequence."""
        found = np.empty(count, np.int64)
        done = 0
        while done < count:
            turn, place = divmod(first + done, self._num)
            if self._round[0] != turn:
                self._round = (turn, np.random.default_rng([self._seed, _ORDER, turn]).permutation(self._num))
            some = self._round[1][place : place + count - done]
            found[done : done + len(some)] = some
            done += len(some)
        return found


class BalancedOrder:
    """Every class equally often: classes take turns in a random order, each with a random clip of its own.

    A clip of several classes is drawn for each of them; a class without a clip is left out.
    """

    def __init__(self, clips: Clips, seed: int) -> None:
        self._seed = seed
        rows = np.repeat(np.arange(len(clips)), np.diff(clips.starts))
        order = np.argsort(clips.columns, kind="stable")
        counts = np.bincount(clips.columns, minlength=clips.num_classes)
        self._clips = rows[order]
        self._begin = np.cumsum(counts) - counts
        self._counts = counts
        self._present = np.flatnonzero(counts)
        if not len(self._present):
            raise DatasetError("training clips: none has a class; expected labelled clips")

    def take(self, first: int, count: int) -> Indices:
        """Return the clips at places `first` … `first + count - 1` of the endless sequence."""
        num = len(self._present)
        turns = range(first // num, (first + count - 1) // num + 1)
        classes = np.concatenate(
            [np.random.default_rng([self._seed, _CLASSES, turn]).permutation(self._present) for turn in turns]
        )
        draws = np.concatenate([np.random.default_rng([self._seed, _CLIPS, turn]).random(num) for turn in turns])
        here = slice(first - turns[0] * num, first - turns[0] * num + count)
        chosen = classes[here]
        places = (draws[here] * self._counts[chosen]).astype(np.int64)
        return np.asarray(self._clips[self._begin[chosen] + places], np.int64)


class Steps(Dataset[Batch]):
    """The batches of training: item `i` is that of step `i`, for one of `world` equal processes.

    Parameters
    ----------
    clips : Clips
        What to learn from.
    batch_size : int
        Clips a step and process.
    seed : int
        Decides order and mixtures.
    balanced : bool
        Every class equally often, instead of every clip.
    mixup : float
        Parameter of the beta distribution that shares come from; 0 mixes nothing.
    rank, world : int
        Which process of how many.
    """

    def __init__(
        self,
        clips: Clips,
        batch_size: int,
        seed: int,
        *,
        balanced: bool = False,
        mixup: float = 0.0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._clips = clips
        self._batch_size = batch_size
        self._seed = seed
        self._order = (BalancedOrder if balanced else UniformOrder)(clips, seed)
        self._mixup = mixup
        self._rank, self._world = rank, world

    def __getitem__(self, step: int) -> Batch:
        everywhere = self._batch_size * self._world
        indices = self._order.take(step * everywhere, everywhere)[self._rank :: self._world]
        if not self._mixup:
            return _batch(self._clips, indices)
        rng = np.random.default_rng([self._seed, _MIXUP, step, self._rank])
        mix = torch.from_numpy(rng.beta(self._mixup, self._mixup, len(indices)).astype(np.float32))
        return _batch(self._clips, indices, mix, torch.from_numpy(rng.permutation(len(indices))))


class Ordered(Dataset[Batch]):
    """All clips in their order, item `i` the `i`-th batch: for validation."""

    def __init__(self, clips: Clips, batch_size: int) -> None:
        self._clips = clips
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._clips) // self._batch_size)

    def __getitem__(self, place: int) -> Batch:
        first = place * self._batch_size
        indices = np.arange(first, min(first + self._batch_size, len(self._clips)))
        return _batch(self._clips, indices)


def _batch(clips: Clips, indices: Indices, mix: Tensor | None = None, partner: Tensor | None = None) -> Batch:
    embeddings, num_frames = finite_frames(clips, indices)
    return Batch(
        torch.from_numpy(np.ascontiguousarray(embeddings)),
        torch.from_numpy(num_frames.astype(np.int64)),
        torch.from_numpy(targets(clips, indices)),
        mix,
        partner,
    )


def finite_frames(clips: Clips, indices: Indices) -> tuple[npt.NDArray[Any], npt.NDArray[np.integer[Any]]]:
    """Return the frames of some clips, or raise DatasetError naming the first that holds NaN or infinite values."""
    embeddings, num_frames = clips.frames(indices)
    if embeddings.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=(1, 2)))
        if len(bad):
            raise DatasetError(
                f"{clips.name(int(indices[bad[0]]))}: an embedding with NaN or infinite values; expected finite ones. "
                "Leave the clip out, or embed it again"
            )
    return embeddings, num_frames

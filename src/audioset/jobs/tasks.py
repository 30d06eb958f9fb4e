"""Items divided into tasks: what one worker does at a time, and what one part of the output holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from audioset.jobs.items import Item, Items

# Some minutes of work for VGGish on a core, and a part of some megabytes: enough to make the cost of beginning one
# small, and little to lose.
TASK_BYTES = 128 << 20
TASK_ITEMS = 512
# Tasks for each worker at least, where there is work for that many: the slowest decides when all is done.
_TASKS_A_WORKER = 4
_UNKNOWN_BYTES = 2 << 20  # of a file of unknown size: a minute or two of compressed music


@dataclass(frozen=True)
class TaskSize:
    """How much a task holds: about `bytes` of input, and no more than `items`."""

    bytes: int = TASK_BYTES
    items: int = TASK_ITEMS


@dataclass(frozen=True)
class Task:
    """Items that are done together, and the name of the part that holds their rows.

    Attributes
    ----------
    index : int
        Its place among the tasks of the whole job.
    items : tuple of Item
    attempt : int
        0 at first; one more each time that failed items are tried again.
    skip : frozenset of str
        Members of its archives whose rows are in the output already.
    """

    index: int
    items: tuple[Item, ...]
    attempt: int = 0
    skip: frozenset[str] = field(default=frozenset())

    @property
    def name(self) -> str:
        """``part-INDEX-HASH``: the same for the same work, so that doing a task twice gives one part."""
        total = hashlib.sha256(str(self.attempt).encode())
        for item in self.items:
            total.update(b"\0" + item.key.encode())
        for member in sorted(self.skip):
            total.update(b"\1" + member.encode("utf-8", "surrogatepass"))
        return f"part-{self.index:06d}-{total.hexdigest()[:12]}"


def size_for(items: Items, workers: int = 1) -> TaskSize:
    """Return the size of tasks that keeps so many workers busy to the end."""
    count = max(1, workers * _TASKS_A_WORKER)
    most = max(1, min(TASK_ITEMS, len(items) // count))
    total = float(_weights(items, TaskSize()).sum())
    return TaskSize(max(1, min(TASK_BYTES, int(total / count))), most)


def divide(items: Items, size: TaskSize) -> npt.NDArray[np.int64]:
    """Return the number of the task of each item, int64 (n,): 0, 0, 0, 1, 1, …

    It depends on the items and the size alone, so that every worker, and every later run, divides alike.
    """
    if not len(items):
        return np.empty(0, np.int64)
    weights = _weights(items, size)
    buckets = ((np.cumsum(weights) - weights / 2) // size.bytes).astype(np.int64)
    return np.cumsum(np.diff(buckets, prepend=buckets[0]) > 0)


def tasks_of(
    items: Items,
    numbers: npt.NDArray[np.int64],
    wanted: npt.NDArray[np.bool_],
    *,
    shard: tuple[int, int] = (1, 1),
    attempt: int = 0,
) -> Iterator[Task]:
    """Yield the tasks of the items that are wanted; of N shares, the I-th, counted from 1."""
    index, count = shard
    rows = np.flatnonzero(wanted & (numbers % count == index - 1))
    for part in np.split(rows, np.flatnonzero(np.diff(numbers[rows])) + 1):
        if len(part):
            yield Task(int(numbers[part[0]]), tuple(items.take(part)), attempt)


def _weights(items: Items, size: TaskSize) -> npt.NDArray[np.float64]:
    """Bytes of each item; a share of a task's for small ones, so that both limits hold."""
    return np.maximum(np.nan_to_num(items.sizes, nan=_UNKNOWN_BYTES), size.bytes / size.items)

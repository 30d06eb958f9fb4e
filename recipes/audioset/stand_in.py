"""Make files of the same shape as AudioSet's released features, to try the recipe where those are not to be had.

    python recipes/audioset/stand_in.py FOLDER [--clips 2041789] [--seed 0]

Writes `train.arrow`, `bal_train.arrow` and `eval.arrow`: clips of ten frames of 128 bytes, labels of 527 classes with a
long tail (the most common one has about a seventh of the labels, the rarest a few hundred of five million), 2.4 labels
a clip. A class lifts some frames of its clips along a direction of its own, so that there is something to learn, and
attention has something to find. What is learnt here says nothing of sound; `run.py` says so where it sees
`stand_in.txt`, which is written beside.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from audioset._files import written_whole
from audioset.classes import class_list
from audioset.dataset.features import EMBEDDING_DIM, FEATURES_SCHEMA
from audioset.postprocess import quantize

# Segments in the published files.
UNBALANCED, BALANCED, EVAL = 2_041_789, 22_160, 20_371
FRAMES = 10
CLASSES = len(class_list("audioset527"))
BATCH_CLIPS = 8192

_CANDIDATES = 12  # classes drawn for a clip, of which the first different ones are its labels
_MEAN_MORE_LABELS = 1.4  # than one
_NOISE = 1.25  # deviation; the released components have about 1.4, and so has the sum
_LIFT = 0.5  # deviation of a class's direction, in each dimension
_LETTERS = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", np.uint8)
_ID_LETTERS = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--clips", type=int, default=UNBALANCED, help="unbalanced clips; the others are a quarter")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.folder, given.clips, given.seed)


def write(folder: Path, clips: int = UNBALANCED, seed: int = 0) -> None:
    """Write the three files: all clips to train on, the balanced ones among them, and those to evaluate on."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stand_in.txt").write_text("Made by stand_in.py: not AudioSet's features.\n", encoding="utf-8")
    balanced, held_out = min(BALANCED, clips // 4), min(EVAL, clips // 4)
    _write(folder / "bal_train.arrow", [("bal_train", balanced)], seed)
    _write(folder / "train.arrow", [("bal_train", balanced), ("unbal_train", clips)], seed)
    _write(folder / "eval.arrow", [("eval", held_out)], seed)


def _write(path: Path, splits: list[tuple[str, int]], seed: int) -> None:
    total, done = sum(count for _, count in splits), 0
    with (
        written_whole(path) as temporary,
        pa.OSFile(str(temporary), "wb") as stream,
        pa.ipc.new_file(stream, FEATURES_SCHEMA) as writer,
    ):
        for split, count in splits:
            for batch in batches(split, count, seed):
                writer.write_batch(batch)
                done += len(batch)
                if sys.stderr.isatty():
                    print(f"\r{path.name}: {done:,} of {total:,} clips", end="", file=sys.stderr)
    print(f"{chr(13) * sys.stderr.isatty()}{path}: {total:,} clips", file=sys.stderr)


def batches(split: str, count: int, seed: int) -> Iterator[pa.RecordBatch]:
    """Clips of a split; each batch depends on nothing but seed, split and number."""
    order, directions = _classes(seed)
    which = ("bal_train", "unbal_train", "eval").index(split)
    # As published: the unbalanced clips have common classes by far more often than the others.
    shares = (np.arange(CLASSES) + 5.0) ** (-1.7 if split == "unbal_train" else -0.4)
    edges = np.cumsum(shares / shares.sum())
    for first in range(0, count, BATCH_CLIPS):
        size = min(BATCH_CLIPS, count - first)
        rng = np.random.default_rng([seed, which, first])
        labels, offsets = _labels(rng, order, edges, size)
        frames = _frames(rng, labels, offsets, directions)
        start_s = rng.integers(0, 600, size).astype(np.float32)
        ids = _ids(which, np.arange(first, first + size))
        columns = [
            pa.StringArray.from_buffers(
                size, pa.py_buffer(np.arange(size + 1, dtype=np.int32) * _ID_LETTERS), pa.py_buffer(ids)
            ),
            pa.array(start_s),
            pa.array(start_s + FRAMES),
            pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(labels)),
            pa.array(np.full(size, FRAMES, np.int32)),
            pa.Array.from_buffers(
                pa.large_binary(),
                size,
                [None, pa.py_buffer(np.arange(size + 1) * FRAMES * EMBEDDING_DIM), pa.py_buffer(frames)],
            ),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=FEATURES_SCHEMA)


def _classes(seed: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The classes from the most common on, and the direction of each."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(CLASSES).astype(np.int32)
    return order, np.float32(_LIFT) * rng.standard_normal((CLASSES, EMBEDDING_DIM), np.float32)


def _labels(
    rng: np.random.Generator, order: npt.NDArray[np.int32], edges: npt.NDArray[np.float64], size: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Labels, clip after clip, and where those of each clip begin."""
    drawn = order[np.searchsorted(edges[:-1], rng.random((size, _CANDIDATES)))]
    new = np.ones(drawn.shape, np.bool_)
    for place in range(1, _CANDIDATES):
        new[:, place] = (drawn[:, :place] != drawn[:, place : place + 1]).all(axis=1)
    wanted = 1 + rng.poisson(_MEAN_MORE_LABELS, size)
    kept = new & (np.cumsum(new, axis=1) <= wanted[:, np.newaxis])
    return drawn[kept], np.concatenate([[0], np.cumsum(kept.sum(axis=1))])


def _frames(
    rng: np.random.Generator,
    labels: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    directions: npt.NDArray[np.float32],
) -> npt.NDArray[np.uint8]:
    """Frames (clips, FRAMES, 128): noise, half of it the clip's own, and its classes from one frame up to another."""
    size = len(offsets) - 1
    values = rng.standard_normal((size, FRAMES, EMBEDDING_DIM), np.float32)
    values += rng.standard_normal((size, 1, EMBEDDING_DIM), np.float32)
    values *= _NOISE / np.sqrt(2)
    begin, end = np.sort(rng.integers(0, FRAMES + 1, (2, len(labels))), axis=0)
    clip = np.repeat(np.arange(size), np.diff(offsets))
    for turn in range(int(np.diff(offsets).max(initial=0))):  # the first label of each clip, then the second …
        (have,) = np.nonzero(np.diff(offsets) > turn)
        places = offsets[have] + turn
        times = np.arange(FRAMES)
        present = (begin[places, np.newaxis] <= times) & (times <= end[places, np.newaxis])
        rows, at = np.nonzero(present)
        values[clip[places][rows], at] += directions[labels[places][rows]]
    return quantize(values)


def _ids(which: int, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Ids as of videos, (clips, 11): a number for each clip, stirred, in base 64."""
    left = (numbers.astype(np.uint64) + np.uint64(which << 40)) * np.uint64(0x9E3779B97F4A7C15)
    ids = np.empty((len(numbers), _ID_LETTERS), np.uint8)
    for place in range(_ID_LETTERS):
        ids[:, place] = _LETTERS[left & np.uint64(63)]
        left >>= np.uint64(6)
    return ids


if __name__ == "__main__":
    main()

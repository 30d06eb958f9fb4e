"""What a job will take, from a sample of its recordings: hours, rows, room on the disk, and time."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, cast

import numpy as np

from audioset import audio, storage
from audioset.audio import AudioSource, Clip
from audioset.embed import EmbedOptions, Model
from audioset.errors import AudioSetError
from audioset.features import SAMPLE_RATE_HZ, ShortClipWarning, num_examples
from audioset.jobs.items import Item, Items
from audioset.jobs.tasks import Task
from audioset.jobs.work import sources_of
from audioset.models.spec import ModelSpec

SAMPLE = 64
MEMBERS = 8  # of each archive in the sample
CALIBRATION_S = 5.0
_MOST_PASSES = 100
# Of float32 values as Parquet, measured; and of 8-bit ones.
_PACKED = {"float32": 0.83, "uint8": 0.25}


@dataclass(frozen=True)
class Estimate:
    """What a job is expected to take.

    Attributes
    ----------
    items : int
        Recordings, parts of them and archives.
    num_bytes : int or None
        Of the inputs, where sizes are known.
    audio_s : float
        Seconds of sound; of that, examples come.
    rows : int
        Rows of the output.
    out_bytes : int
        Size of the output.
    rate : float or None
        Seconds of sound a second, of this process, as measured; None without a calibration.
    sampled, unreadable : int, int
        Items that were looked at, and those of them that cannot be read.
    reasons : tuple of str
        Why.
    """

    items: int
    num_bytes: int | None
    audio_s: float
    rows: int
    out_bytes: int
    rate: float | None
    sampled: int
    unreadable: int
    reasons: tuple[str, ...]

    def wall_s(self, workers: int = 1) -> float | None:
        """Return the seconds that so many processes like this one take."""
        return None if not self.rate else self.audio_s / self.rate / workers


@dataclass(frozen=True)
class _Looked:
    item: int
    audio_s: float
    rows: int


def estimate(items: Items, spec: ModelSpec, options: EmbedOptions, model: Model | None = None) -> Estimate:
    """Return what a job will take, judged by up to 64 of its items, spread evenly.

    Lengths come from headers, of archives from their first members. With known sizes, sound is taken to be
    proportional to bytes; otherwise to the number of items.

    Parameters
    ----------
    items : Items
        Of the job.
    spec : ModelSpec
        Of the model.
    options : EmbedOptions
        How recordings are cut.
    model : Model, optional
        What to measure the rate with, for some five seconds; without it there is none.
    """
    rows = np.unique(np.linspace(0, len(items) - 1, min(SAMPLE, len(items))).round().astype(np.int64))
    sample = items.take(rows)
    looked: list[_Looked] = []
    reasons: list[str] = []
    for number, item in zip(rows.tolist(), sample, strict=True):
        try:
            audio_s, count = _look(item, spec, options)
        except AudioSetError as error:
            reasons.append(str(error))
        else:
            looked.append(_Looked(number, audio_s, count))
    share = _share(items, looked)
    audio_s = sum(found.audio_s for found in looked) * share
    num_rows = round(sum(found.rows for found in looked) * share)
    sizes = items.sizes
    dtype = "uint8" if options.postprocess == "uint8" else "float32"
    row_bytes = spec.embedding_dim * np.dtype(dtype).itemsize * _PACKED[dtype]
    return Estimate(
        items=len(items),
        num_bytes=None if np.isnan(sizes).any() else int(sizes.sum()),
        audio_s=round(audio_s, 3),
        rows=num_rows,
        out_bytes=round(num_rows * row_bytes),
        rate=None if model is None else _rate(model, sample, options),
        sampled=len(rows),
        unreadable=len(reasons),
        reasons=tuple(reasons),
    )


def _look(item: Item, spec: ModelSpec, options: EmbedOptions) -> tuple[float, int]:
    """Seconds and rows of one item, as far as headers tell."""
    hop_s, pad = options.resolve(spec)

    def rows_of(seconds: float) -> int:
        count = num_examples(round(seconds * SAMPLE_RATE_HZ), hop_s=hop_s, pad=pad)
        return min(count, 1) if options.pool == "mean" else count

    if storage.is_archive(item.file):
        lengths, share = _look_into(item.file, options)
        return sum(lengths) * share, round(sum(map(rows_of, lengths)) * share)
    if item.end_s is not None:
        seconds = item.end_s - (item.start_s or 0.0)
    elif item.start_s is not None:
        seconds = max(0.0, _length(item.file) - item.start_s)
    else:
        seconds = _windowed(_length(item.file), options)
    return seconds, rows_of(seconds)


def _look_into(archive: str, options: EmbedOptions) -> tuple[list[float], float]:
    """Seconds of the first members of an archive, and how many times as much the whole holds, by its size."""
    lengths: list[float] = []
    num_bytes = 0
    members = storage.sources([archive])
    for _, member in islice(members, MEMBERS):
        if not isinstance(member, str):
            lengths.append(_windowed(_length(member), options))
            num_bytes += cast(BinaryIO, member).seek(0, 2)
    there_are_more = next(iter(members), None) is not None
    total = storage.size_of(archive)
    share = total / num_bytes if there_are_more and total and num_bytes else 1.0
    return lengths, max(1.0, share)


def _length(source: AudioSource) -> float:
    return audio.probe(source).duration_s or 0.0


def _windowed(length_s: float, options: EmbedOptions) -> float:
    rest_s = max(0.0, length_s - options.start_s)
    return rest_s if options.duration_s is None else min(rest_s, options.duration_s)


def _share(items: Items, looked: list[_Looked]) -> float:
    """How many times as much as the sample the whole job holds."""
    if not looked:
        return 0.0
    sizes = items.sizes
    in_sample = sizes[[found.item for found in looked]].sum()
    if np.isnan(sizes).any() or not in_sample:
        return len(items) / len(looked)
    return float(sizes.sum() / in_sample)


def _rate(model: Model, sample: list[Item], options: EmbedOptions) -> float | None:
    """Seconds of sound a second of the sample, over and over, without the first second."""

    def sources() -> Iterator[tuple[AudioSource | Clip, int | None]]:
        order = np.random.default_rng(0).permutation(len(sample))  # lengths and formats often go with the names
        for _ in range(_MOST_PASSES):
            yield from sources_of([Task(0, tuple(sample[index] for index in order))], deque())

    began = warm = time.perf_counter()
    done_s = warm_s = reached_s = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ShortClipWarning)
        for block in model.embed_blocks(sources(), options):
            now = time.perf_counter()
            if block.last:
                done_s += block.duration_s
            reached_s = done_s + (
                0.0 if block.last or not len(block.end_s) else float(block.end_s[-1]) - block.offset_s
            )
            if warm_s == 0.0 and now - began > CALIBRATION_S / 5:
                warm, warm_s = now, reached_s
            if now - began > CALIBRATION_S and (reached_s > warm_s > 0.0 or not reached_s):
                break  # not before something was measured, unless nothing can be read
    took_s = time.perf_counter() - warm
    return round((reached_s - warm_s) / took_s, 1) if reached_s > warm_s else None

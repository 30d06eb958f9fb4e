"""AudioSet's released features: records or Arrow batches from shards, folders and archives, and back to TFRecords."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from audioset._files import written_whole
from audioset.dataset._layout import EMBEDDING_DIM, FEATURES_SCHEMA, FeatureRecord, parse_blocks
from audioset.dataset._sources import OnDamage, Source, read_blocks
from audioset.errors import OptionError, RecordError
from audioset.records.tfrecord import BLOCK_BYTES, Damage, RecordBlock, audio_record, write_record

__all__ = [
    "EMBEDDING_DIM",
    "FEATURES_SCHEMA",
    "Damage",
    "FeatureRecord",
    "read_feature_batches",
    "read_features",
    "write_features",
]

_MAX_BATCH_BYTES = 1 << 26  # of embeddings; ten times a batch of the usual length


def read_features(path: Source, *, on_damage: OnDamage | None = None) -> Iterator[FeatureRecord]:
    """The records of released features, one by one.

    Parameters
    ----------
    path : path or sequence of paths
        A shard; a folder, for all `.tfrecord` and `.tfrecord.gz` files below it, sorted; a pattern such as
        `"bal_train/*.tfrecord"`; the published `features.tar.gz` (or a `.tar`), which is read as it streams by and
        never unpacked; or several of these.
    on_damage : callable, optional
        Called with a `Damage` for each thing that cannot be read, after which the rest goes on: with the next record
        where a record's data does not match its checksum or is of another kind, with the next shard where a shard is
        cut short or a length is wrong. By default the first damage raises, after the records before it.

    Yields
    ------
    FeatureRecord
        With arrays of its own.

    Raises
    ------
    RecordError
        At the call, when there is nothing at `path`; while iterating, at damage, unless `on_damage` is given. It names
        the file, the shard in an archive, and the byte.
    """
    batches = batches_of_blocks(read_blocks(path, on_damage), on_damage)
    return (record for batch in batches for record in records_of(batch))


def read_feature_batches(
    path: Source, *, batch_size: int = 8192, on_damage: OnDamage | None = None
) -> Iterator[pa.RecordBatch]:
    """The records of released features as Arrow batches of `FEATURES_SCHEMA`, an order of magnitude faster.

    Parameters
    ----------
    path, on_damage
        As for `read_features`.
    batch_size : int
        Rows of every batch but the last. Clips much longer than ten seconds come in smaller batches, so that none holds
        much more than 64 MiB.

    Yields
    ------
    pyarrow.RecordBatch
        `batch["embedding"][i].as_py()` is `num_frames[i]` × 128 bytes, row-major.

    Raises
    ------
    OptionError
        `batch_size` is below 1.
    RecordError
        As for `read_features`.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size: {batch_size}; expected 1 or more")
    return _regrouped(batches_of_blocks(read_blocks(path, on_damage), on_damage), batch_size)


def write_features(path: str | os.PathLike[str], records: Iterable[FeatureRecord]) -> int:
    """Write a TFRecord file in the released schema, whole or not at all, and return how many records it has.

    TensorFlow parses each as a `tf.train.SequenceExample`; `read_features` gives back equal records.

    Raises
    ------
    RecordError
        A record cannot be stored: frames of another shape or type, an id that is not Unicode, labels that are no
        32-bit integers.
    OutputError
        The file cannot be written.
    """
    count = 0
    with written_whole(Path(path)) as temporary, temporary.open("wb") as stream:
        for record in records:
            write_record(stream, _encoded(record))
            count += 1
    return count


def batches_of_blocks(blocks: Iterator[RecordBlock], on_damage: OnDamage | None = None) -> Iterator[pa.RecordBatch]:
    """The records of blocks, as `read_blocks` gives them, in batches of any size."""
    for group in _grouped(blocks):
        batch, flaws = parse_blocks(group)
        for index, damage in flaws:
            if on_damage is None:
                yield batch.slice(0, index)
                raise RecordError(str(damage))
            on_damage(damage)
        yield batch


def _grouped(blocks: Iterator[RecordBlock]) -> Iterator[list[RecordBlock]]:
    """Blocks of small shards together: parsing has a cost a call. What there is comes before an error."""
    waiting: list[RecordBlock] = []
    num_bytes = 0
    try:
        for block in blocks:
            waiting.append(block)
            num_bytes += len(block.data)
            if num_bytes >= BLOCK_BYTES:
                yield waiting
                waiting, num_bytes = [], 0
    except RecordError:
        if waiting:
            yield waiting
        raise
    if waiting:
        yield waiting


def _regrouped(batches: Iterator[pa.RecordBatch], batch_size: int) -> Iterator[pa.RecordBatch]:
    """Batches of `batch_size` rows; what there is comes before an error."""
    waiting: list[pa.RecordBatch] = []
    rows = num_bytes = 0
    try:
        for batch in batches:
            waiting.append(batch)
            rows += len(batch)
            num_bytes += batch.nbytes
            while rows >= batch_size or num_bytes > _MAX_BATCH_BYTES:
                yield _joined(waiting, min(batch_size, rows))
                rows, num_bytes = sum(map(len, waiting)), sum(batch.nbytes for batch in waiting)
    except RecordError:
        if rows:
            yield _joined(waiting, rows)
        raise
    if rows:
        yield _joined(waiting, rows)


def _joined(waiting: list[pa.RecordBatch], rows: int) -> pa.RecordBatch:
    """Take the first `rows` rows out of `waiting`, as one batch."""
    taken = []
    while rows:
        batch = waiting.pop(0)
        if len(batch) > rows:
            waiting.insert(0, batch.slice(rows))
            batch = batch.slice(0, rows)
        rows -= len(batch)
        taken.append(batch)
    return pa.Table.from_batches(taken).combine_chunks().to_batches()[0]


def records_of(batch: pa.RecordBatch) -> Iterator[FeatureRecord]:
    """The rows of a batch, with arrays of their own."""
    ids, starts, ends, labels, _, embedding = batch.columns
    offsets = labels.offsets.to_numpy()
    values = labels.values.to_numpy()
    for row, (video_id, start_s, end_s, frames) in enumerate(
        zip(ids.to_pylist(), starts.to_pylist(), ends.to_pylist(), embedding.to_pylist(), strict=True)
    ):
        yield FeatureRecord(
            video_id,
            start_s,
            end_s,
            values[offsets[row] : offsets[row + 1]].copy(),
            np.frombuffer(bytearray(frames), np.uint8).reshape(-1, EMBEDDING_DIM),
        )


def _encoded(record: FeatureRecord) -> bytes:
    frames, labels = np.asarray(record.embedding), np.asarray(record.labels)
    name = record.video_id
    if frames.dtype != np.uint8 or frames.ndim != 2 or frames.shape[1] != EMBEDDING_DIM:
        raise RecordError(
            f"{name}: embedding is {frames.dtype} of shape {frames.shape}; expected uint8 of shape "
            f"(frames, {EMBEDDING_DIM}). `audioset.postprocess` quantizes"
        )
    if labels.ndim != 1 or (
        labels.size and (labels.dtype.kind not in "iu" or np.any(labels != labels.astype(np.int32)))
    ):
        raise RecordError(
            f"{name}: labels are {labels.dtype} of shape {labels.shape}; expected 32-bit integers (labels,)"
        )
    try:
        return audio_record(name, record.start_s, record.end_s, frames, labels.tolist())
    except UnicodeEncodeError as error:
        raise RecordError(f"{name!r}: video_id is not Unicode text; expected the id of a video") from error

"""Records as AudioSet released them, made from random numbers, and as other encoders would write them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from audioset.dataset.features import FeatureRecord
from audioset.records.tfrecord import RecordBlock, map_entry, message, write_record

DIM = 128
ORDERS = (  # as in the released files
    ("video_id", "start_time_seconds", "labels", "end_time_seconds"),
    ("start_time_seconds", "labels", "end_time_seconds", "video_id"),
)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def bytes_feature(value: bytes) -> bytes:
    return message(1, message(1, value))


def float_feature(value: float) -> bytes:
    return message(2, message(1, np.float32(value).tobytes()))


def labels_feature(values: Iterable[int], *, packed: bool = True) -> bytes:
    numbers = [varint(value % 2**64) for value in values]
    return message(3, message(1, b"".join(numbers)) if packed else b"".join(b"\x08" + number for number in numbers))


def frames_list(frames: Sequence[bytes]) -> bytes:
    return b"".join(message(1, bytes_feature(frame)) for frame in frames)


def encode(context: dict[str, bytes], lists: dict[str, bytes]) -> bytes:
    """A SequenceExample with its entries in this order."""
    return message(1, b"".join(map_entry(key, value) for key, value in context.items())) + message(
        2, b"".join(map_entry(key, value) for key, value in lists.items())
    )


def released(record: FeatureRecord, order: Sequence[str] = ORDERS[0]) -> bytes:
    """A record's data as in the released files, in one of the orders that they have."""
    context = {
        "video_id": bytes_feature(record.video_id.encode()),
        "start_time_seconds": float_feature(record.start_s),
        "end_time_seconds": float_feature(record.end_s),
        "labels": labels_feature(record.labels.tolist()),
    }
    frames = [row.tobytes() for row in record.embedding]
    return encode({key: context[key] for key in order}, {"audio_embedding": frames_list(frames)})


def random_records(rng: np.random.Generator, count: int, prefix: str = "") -> list[FeatureRecord]:
    """Clips of ten seconds, one in eight of them shorter, with one to five labels."""
    letters = np.array(list("-_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"))
    records = []
    for index in range(count):
        num_frames = 10 if index % 8 else int(rng.integers(1, 11))
        start_s = float(rng.integers(0, 600))
        video_id = prefix + "".join(rng.choice(letters, 11 - len(prefix)))
        labels = np.sort(rng.choice(527, rng.integers(1, 6), replace=False)).astype(np.int32)
        frames = rng.integers(0, 256, (num_frames, DIM), dtype=np.uint8)
        records.append(FeatureRecord(video_id, start_s, start_s + num_frames, labels, frames))
    return records


def shard(records: Sequence[FeatureRecord]) -> bytes:
    """The bytes of a shard; its records are in the two orders of the released files by turns."""
    return framed([released(record, ORDERS[index % 2]) for index, record in enumerate(records)])


def framed(datas: Iterable[bytes]) -> bytes:
    stream = io.BytesIO()
    for data in datas:
        write_record(stream, data)
    return stream.getvalue()


def block_of(datas: Sequence[bytes], offset: int = 0) -> RecordBlock:
    """These records in a block, as they would be read from a file."""
    sizes = np.array([len(data) for data in datas], np.int64)
    starts = np.cumsum(sizes + 16) - sizes - 4
    return RecordBlock("x.tfrecord", None, offset, framed(datas), starts, starts + sizes)


def write_shard(path: Path, records: Sequence[FeatureRecord]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(shard(records))
    return path


def assert_same(found: Iterable[FeatureRecord], expected: Iterable[FeatureRecord]) -> None:
    found, expected = list(found), list(expected)
    assert [record.video_id for record in found] == [record.video_id for record in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.start_s, one.end_s) == (np.float32(other.start_s), np.float32(other.end_s))
        np.testing.assert_array_equal(one.labels, other.labels, strict=True)
        np.testing.assert_array_equal(one.embedding, other.embedding, strict=True)

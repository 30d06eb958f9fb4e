"""TFRecord files in the schema of the released AudioSet features, read and written without TensorFlow.

A file is a sequence of records: uint64 length, masked CRC-32C of the length, data, masked CRC-32C of the data, all
little-endian. The data of each is a ``tf.train.SequenceExample``, one for each audio file:

======================  ==============================  =======================================================
context                 ``video_id``                    bytes: the file's name without folder and last extension
                        ``start_time_seconds``          float: start of the first row
                        ``end_time_seconds``            float: end of the last row
                        ``labels``                      int64 list: class indices, empty from an embedding job
feature list            ``audio_embedding``             one feature a row: its values as one string of uint8
======================  ==============================  =======================================================

Files without rows have no record. In the released files the rows are one second apart; here they are `hop_s` apart.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from audioset._protobuf import (
    Value,
    as_bytes,
    as_text,
    field_start,
    fields,
    mask_crc32c,
    masked_crc32c,
    read_varint,
    varint,
)
from audioset.errors import RecordError

Feature = Sequence[bytes] | npt.NDArray[np.float32] | npt.NDArray[np.int64]
"""A ``tf.train.Feature``: a list of bytes, or an array of float32 or of int64; an unset one is an empty list."""

BLOCK_BYTES = 1 << 20
"""What is read of a file at a time, unless one record is longer."""

MAX_RECORD_BYTES = 1 << 28
"""The longest record that is read: a hundred times YouTube-8M's longest; a damaged length must not fill the memory."""

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3  # the kinds of a tf.train.Feature
_NOTHING = memoryview(b"")
_HEADERS_REMEMBERED = 1 << 12


@dataclass(frozen=True)
class Damage:
    """Where a file is not as it should be, and how.

    Attributes
    ----------
    file : str
        The file as it was named.
    member : str or None
        The shard inside it, where the file is an archive.
    offset : int
        Byte at which it starts: of the member if there is one, else of the file; within compressed data, the byte up
        to which it was read.
    reason : str
        What was found and what was expected.
    """

    file: str
    member: str | None
    offset: int
    reason: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.member, self.reason) if part)


@dataclass(frozen=True)
class RecordBlock:
    """Whole records that follow each other in a file, their checksums right.

    Attributes
    ----------
    file, member : str, str or None
        Where they are from, as in `Damage`.
    offset : int
        The byte of the file, or member, at which `data` starts.
    data : bytes
        Bytes of the file; between the records are their lengths and checksums.
    starts, stops : ndarray of int64, shape (records,)
        Record i is `data[starts[i] : stops[i]]`.
    """

    file: str
    member: str | None
    offset: int
    data: bytes
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]

    def record(self, index: int) -> bytes:
        """The data of one record."""
        return self.data[self.starts[index] : self.stops[index]]

    def damage(self, index: int, reason: str) -> Damage:
        """What to report of a record that holds something else than it should."""
        at = self.offset + int(self.starts[index]) - _HEADER.size
        return Damage(self.file, self.member, at, f"the record at byte {at:,}: {reason}")


@dataclass(frozen=True)
class SequenceExample:
    """A ``tf.train.SequenceExample``; a ``tf.train.Example`` reads as one that has a context only."""

    context: Mapping[str, Feature]
    feature_lists: Mapping[str, Sequence[Feature]]


def read_tfrecord(path: Path | str) -> Iterator[bytes]:
    """The records of a TFRecord file, one after another, each checked against its checksums.

    Raises
    ------
    RecordError
        When the file cannot be opened, ends within a record, or a checksum differs; it names the file and the byte
        at which the record starts.
    """
    try:
        with Path(path).open("rb") as stream:
            for found in record_blocks(stream, str(path)):
                if isinstance(found, Damage):
                    raise RecordError(str(found))
                yield from map(found.record, range(len(found.starts)))
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}); expected a TFRecord file") from error


def record_blocks(stream: IO[bytes], file: str, member: str | None = None) -> Iterator[RecordBlock | Damage]:
    """The records of a stream in blocks of about a mebibyte, and where they are damaged, in order.

    A record whose data does not match its checksum is left out and the next one follows; where a length is wrong or
    the stream ends within a record, nothing can follow.
    """
    import google_crc32c

    lengths: dict[bytes, int] = {}  # of headers that were checked: in most files there are few different ones
    data, offset, wanted = b"", 0, BLOCK_BYTES
    while True:
        chunk = stream.read(wanted)
        data = data + chunk if data else chunk
        starts, stops, crcs = [], [], []
        position, damage = 0, None
        wanted = BLOCK_BYTES
        while position + _HEADER.size <= len(data):
            start = position + _HEADER.size
            header = data[position:start]
            length = lengths.get(header, -1)
            if length < 0:
                length, crc = _HEADER.unpack(header)
                if crc != masked_crc32c(header[:8]):
                    damage = Damage(file, member, offset + position, _differs("length", offset + position))
                    break
                if length > MAX_RECORD_BYTES:
                    damage = Damage(file, member, offset + position, _too_long(length, offset + position))
                    break
                if len(lengths) < _HEADERS_REMEMBERED:
                    lengths[header] = length
            stop = start + length
            if stop + _CRC.size > len(data):
                # No more than doubled at a time, so that a wrong length costs no more than the file is long.
                wanted = min(max(BLOCK_BYTES, stop + _CRC.size - len(data)), max(BLOCK_BYTES, len(data)))
                break
            starts.append(start)
            stops.append(stop)
            crcs.append(google_crc32c.value(data[start:stop]))
            position = stop + _CRC.size
        places = np.array((starts, stops), np.int64)
        yield from _checked(RecordBlock(file, member, offset, data, *places), crcs)
        offset, data = offset + position, data[position:]
        if damage is None and data and not chunk:
            damage = Damage(file, member, offset, _cut_short(data, offset))
        if damage is not None:
            yield damage
        if damage is not None or not chunk:
            return


def _checked(block: RecordBlock, crcs: list[int]) -> Iterator[RecordBlock | Damage]:
    """The block, or what is left of it around the records whose data is damaged."""
    stored = np.ndarray((max(0, len(block.data) - 3),), "<u4", block.data, strides=(1,))[block.stops]
    wrong = np.flatnonzero(stored != mask_crc32c(np.array(crcs, np.uint32)))
    first = 0
    for index in (*wrong.tolist(), len(crcs)):
        if index > first:
            yield replace(block, starts=block.starts[first:index], stops=block.stops[first:index])
        if index < len(crcs):
            at = block.offset + int(block.starts[index]) - _HEADER.size
            yield Damage(block.file, block.member, at, _differs("data", at))
        first = index + 1


def write_record(stream: IO[bytes], data: bytes) -> None:
    """Append one record."""
    length = struct.pack("<Q", len(data))
    stream.write(b"".join((length, _CRC.pack(masked_crc32c(length)), data, _CRC.pack(masked_crc32c(data)))))


def audio_record(
    video_id: str, start_s: float, end_s: float, frames: npt.NDArray[np.uint8], labels: Iterable[int] = ()
) -> bytes:
    """The data of one record in the released schema, the same bytes for the same input; `frames` is (rows, dim)."""
    context = {
        "end_time_seconds": float_feature(end_s),
        "labels": int64_feature(labels),
        "start_time_seconds": float_feature(start_s),
        "video_id": bytes_feature(video_id.encode()),
    }
    # Every frame is a message of the same length, so one header serves all.
    rows, dim = frames.shape
    empty = message(1, bytes_feature(bytes(dim)))
    header = np.frombuffer(empty[: len(empty) - dim], np.uint8)
    feature_list = np.hstack((np.broadcast_to(header, (rows, len(header))), frames)).tobytes()
    entries = b"".join(map_entry(key, feature) for key, feature in context.items())
    return message(1, entries) + message(2, map_entry("audio_embedding", feature_list))


def decode_example(data: bytes) -> SequenceExample:
    """A record's data as a `SequenceExample`, whatever encoder wrote it; `RecordError` when it is no such message."""
    context: dict[str, Feature] = {}
    feature_lists: dict[str, list[Feature]] = {}
    try:
        for number, message in fields(memoryview(data)):
            for _, entry in fields(as_bytes(message)) if number in (1, 2) else ():
                parts = dict(fields(as_bytes(entry)))
                key, value = as_text(parts.get(1, _NOTHING)), as_bytes(parts.get(2, _NOTHING))
                if number == 1:
                    context[key] = _decode_feature(value)
                else:
                    feature_lists[key] = [_decode_feature(as_bytes(feature)) for _, feature in fields(value)]
    except ValueError as error:  # Malformed, or what NumPy says of floats that are cut short
        raise RecordError(f"not a tf.train.SequenceExample: {error}; expected one in each record") from error
    return SequenceExample(context, feature_lists)


def _cut_short(rest: bytes, start: int) -> str:
    expected = _HEADER.size
    if len(rest) >= _HEADER.size:
        expected += _HEADER.unpack_from(rest)[0] + _CRC.size
    return (
        f"ends within the record at byte {start:,}: {len(rest):,} bytes of it, expected {expected:,} or more; "
        "the file is incomplete, fetch or write it again"
    )


def _differs(part: str, start: int) -> str:
    return (
        f"the checksum of the {part} of the record at byte {start:,} differs; "
        "the file is damaged or is no TFRecord file, fetch or write it again"
    )


def _too_long(length: int, start: int) -> str:
    return (
        f"the record at byte {start:,} is {length:,} bytes long; expected at most {MAX_RECORD_BYTES:,}. "
        "Write it in smaller records"
    )


def message(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return field_start(number, len(data)) + data


def bytes_feature(value: bytes) -> bytes:
    """A ``tf.train.Feature`` of one string."""
    return message(_BYTES_LIST, message(1, value))


def float_feature(values: npt.ArrayLike) -> bytes:
    """A ``tf.train.Feature`` of float32 numbers, one or a sequence."""
    packed = np.asarray(values, "<f4").tobytes()
    return message(_FLOAT_LIST, message(1, packed) if packed else b"")


def int64_feature(values: Iterable[int]) -> bytes:
    """A ``tf.train.Feature`` of whole numbers."""
    packed = b"".join(varint(int(value) & 0xFFFF_FFFF_FFFF_FFFF) for value in values)  # negative: two's complement
    return message(_INT64_LIST, message(1, packed) if packed else b"")


def map_entry(key: str, value: bytes) -> bytes:
    """An entry of a message's first field, a map from names to messages."""
    return message(1, message(1, key.encode()) + message(2, value))


def _decode_feature(data: memoryview) -> Feature:
    feature: Feature = []
    for kind, message in fields(data):
        values = [value for number, value in fields(as_bytes(message)) if number == 1]
        if kind == _BYTES_LIST:
            feature = [bytes(as_bytes(value)) for value in values]
        elif kind == _FLOAT_LIST:  # packed or not, the same four bytes a number
            feature = np.frombuffer(b"".join(map(as_bytes, values)), "<f4").astype(np.float32)
        elif kind == _INT64_LIST:
            numbers = [number for value in values for number in _integers(value)]
            feature = np.array(numbers, np.uint64).astype(np.int64)
    return feature


def _integers(value: Value) -> Iterator[int]:
    """Packed or not; they are few, so that a loop is faster than arrays."""
    if isinstance(value, int):
        yield value
        return
    position = 0
    while position < len(value):
        number, position = read_varint(value, position)
        yield number

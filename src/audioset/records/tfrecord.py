"""TFRecord files in the schema of the released AudioSet features, read and written without TensorFlow.

A file is a sequence of records: uint64 length, masked CRC-32C of the length, data, masked CRC-32C of the data, all
little-endian. The data of each is a ``tf.train.SequenceExample``, one for each audio file:

======================  ==============================  =======================================================
context                 ``video_id``                    bytes: the file's name without folder and last extension
                        ``start_time_seconds``          float: start of the first row
                        ``end_time_seconds``            float: end of the last row
                        ``labels``                      int64 list, empty when written by an embedding job
feature list            ``audio_embedding``             one feature a row: its values as one string of uint8
======================  ==============================  =======================================================

Files without rows have no record. In the released files the rows are one second apart; here they are `hop_s` apart.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from audioset._protobuf import Value, as_bytes, as_text, fields, masked_crc32c, read_varint
from audioset.errors import RecordError

Feature = Sequence[bytes] | npt.NDArray[np.float32] | npt.NDArray[np.int64]
"""A ``tf.train.Feature``: a list of bytes, or an array of float32 or of int64; an unset one is an empty list."""

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_LENGTH_DELIMITED = 2  # protobuf's wire type
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3  # the kinds of a tf.train.Feature
_NOTHING = memoryview(b"")


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
            yield from _records(stream, path)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}); expected a TFRecord file") from error


def write_record(stream: IO[bytes], data: bytes) -> None:
    """Append one record."""
    length = struct.pack("<Q", len(data))
    stream.write(b"".join((length, _CRC.pack(masked_crc32c(length)), data, _CRC.pack(masked_crc32c(data)))))


def audio_record(video_id: str, start_s: float, end_s: float, frames: npt.NDArray[np.uint8]) -> bytes:
    """The data of one record in the released schema, the same bytes for the same input; `frames` is (rows, dim)."""
    context = {
        "end_time_seconds": _float_feature(end_s),
        "labels": _message(_INT64_LIST, b""),
        "start_time_seconds": _float_feature(start_s),
        "video_id": _bytes_feature(video_id.encode()),
    }
    # Every frame is a message of the same length, so one header serves all.
    rows, dim = frames.shape
    empty = _message(1, _bytes_feature(bytes(dim)))
    header = np.frombuffer(empty[: len(empty) - dim], np.uint8)
    feature_list = np.hstack((np.broadcast_to(header, (rows, len(header))), frames)).tobytes()
    entries = b"".join(_map_entry(key, feature) for key, feature in context.items())
    return _message(1, entries) + _message(2, _map_entry("audio_embedding", feature_list))


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


def _records(stream: IO[bytes], path: Path | str) -> Iterator[bytes]:
    start = 0
    while header := stream.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise _cut_short(path, start, _HEADER.size, len(header))
        length, crc = _HEADER.unpack(header)
        if crc != masked_crc32c(header[:8]):
            raise _damaged(path, start, "length")
        data, trailer = stream.read(length), stream.read(_CRC.size)
        if len(data) + len(trailer) < length + _CRC.size:
            raise _cut_short(path, start, length + _HEADER.size + _CRC.size, stream.tell() - start)
        if _CRC.unpack(trailer)[0] != masked_crc32c(data):
            raise _damaged(path, start, "data")
        yield data
        start = stream.tell()


def _cut_short(path: Path | str, start: int, expected: int, found: int) -> RecordError:
    return RecordError(
        f"{path}: ends within the record at byte {start:,}: {found:,} bytes of it, expected {expected:,} or more; "
        "the file is incomplete, fetch or write it again"
    )


def _damaged(path: Path | str, start: int, part: str) -> RecordError:
    return RecordError(
        f"{path}: the checksum of the {part} of the record at byte {start:,} differs; "
        "the file is damaged or is no TFRecord file, fetch or write it again"
    )


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(data)) + data


def _bytes_feature(value: bytes) -> bytes:
    return _message(_BYTES_LIST, _message(1, value))


def _float_feature(value: float) -> bytes:
    return _message(_FLOAT_LIST, _message(1, struct.pack("<f", value)))


def _map_entry(key: str, value: bytes) -> bytes:
    return _message(1, _message(1, key.encode()) + _message(2, value))


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

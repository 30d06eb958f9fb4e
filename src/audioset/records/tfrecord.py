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

from audioset.errors import RecordError

Feature = Sequence[bytes] | npt.NDArray[np.float32] | npt.NDArray[np.int64]
"""A ``tf.train.Feature``: a list of bytes, or an array of float32 or of int64; an unset one is an empty list."""

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types


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
    stream.write(b"".join((length, _CRC.pack(_masked_crc(length)), data, _CRC.pack(_masked_crc(data)))))


def audio_record(video_id: str, start_s: float, end_s: float, frames: npt.NDArray[np.uint8]) -> bytes:
    """The data of one record in the released schema, the same bytes for the same input; `frames` is (rows, dim)."""
    context: dict[str, Feature] = {
        "video_id": [video_id.encode()],
        "start_time_seconds": np.array([start_s], np.float32),
        "end_time_seconds": np.array([end_s], np.float32),
        "labels": np.empty(0, np.int64),
    }
    # Every frame is a message of the same length, so one header serves all.
    rows, dim = frames.shape
    empty = _message(1, _feature([bytes(dim)]))
    header = np.frombuffer(empty[: len(empty) - dim], np.uint8)
    feature_list = np.hstack((np.broadcast_to(header, (rows, len(header))), frames)).tobytes()
    return _message(1, _features(context)) + _message(2, _map_entry("audio_embedding", feature_list))


def encode_example(example: SequenceExample) -> bytes:
    """A `SequenceExample` as protobuf, keys sorted: the same bytes for the same example."""
    data = _message(1, _features(example.context))
    entries = (
        _map_entry(key, b"".join(_message(1, _feature(feature)) for feature in features))
        for key, features in sorted(example.feature_lists.items())
    )
    return data + (_message(2, b"".join(entries)) if example.feature_lists else b"")


def decode_example(data: bytes) -> SequenceExample:
    """The inverse of `encode_example`, for whatever encoder wrote it; `RecordError` when `data` is no such message."""
    context: dict[str, Feature] = {}
    feature_lists: dict[str, list[Feature]] = {}
    try:
        for number, message in _fields(data):
            for _, entry in _fields(message) if number in (1, 2) else ():
                parts = dict(_fields(entry))
                key, value = parts.get(1, b"").decode(), parts.get(2, b"")
                if number == 1:
                    context[key] = _decode_feature(value)
                else:
                    feature_lists[key] = [_decode_feature(feature) for _, feature in _fields(value)]
    except (IndexError, ValueError, struct.error) as error:
        raise RecordError(f"not a tf.train.SequenceExample: {error}; expected one in each record") from error
    return SequenceExample(context, feature_lists)


def _records(stream: IO[bytes], path: Path | str) -> Iterator[bytes]:
    start = 0
    while header := stream.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise _cut_short(path, start, _HEADER.size, len(header))
        length, crc = _HEADER.unpack(header)
        if crc != _masked_crc(header[:8]):
            raise _damaged(path, start, "length")
        data, trailer = stream.read(length), stream.read(_CRC.size)
        if len(data) + len(trailer) < length + _CRC.size:
            raise _cut_short(path, start, length + _HEADER.size + _CRC.size, stream.tell() - start)
        if _CRC.unpack(trailer)[0] != _masked_crc(data):
            raise _damaged(path, start, "data")
        yield data
        start = stream.tell()


def _masked_crc(data: bytes) -> int:
    import google_crc32c

    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


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
    value &= 0xFFFF_FFFF_FFFF_FFFF  # negative numbers are written as 64-bit two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _feature(feature: Feature) -> bytes:
    if not isinstance(feature, np.ndarray):
        return _message(1, b"".join(_message(1, value) for value in feature))
    if feature.dtype == np.float32:
        return _message(2, _message(1, feature.astype("<f4").tobytes()) if len(feature) else b"")
    return _message(3, _message(1, b"".join(map(_varint, feature.tolist()))) if len(feature) else b"")


def _map_entry(key: str, value: bytes) -> bytes:
    return _message(1, _message(1, key.encode()) + _message(2, value))


def _features(features: Mapping[str, Feature]) -> bytes:
    return b"".join(_map_entry(key, _feature(feature)) for key, feature in sorted(features.items()))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError(f"a number of more than 64 bits ends at byte {at}")


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field of a message; varints are passed on in their own encoding."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        wire = key & 7
        if wire == _BYTES:
            size, at = _read_varint(data, at)
        elif wire == _VARINT:
            size = _read_varint(data, at)[1] - at
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"a field of {size} bytes at byte {at} of {len(data)}")
        yield key >> 3, data[at : at + size]
        at += size


def _decode_feature(data: bytes) -> Feature:
    feature: Feature = []
    for kind, message in _fields(data):
        values = [value for number, value in _fields(message) if number == 1]
        if kind == 1:
            feature = values
        elif kind == 2:  # packed or not, the same four bytes a number
            feature = np.frombuffer(b"".join(values), "<f4").astype(np.float32)
        elif kind == 3:
            feature = np.array(list(_varints(b"".join(values))), np.uint64).astype(np.int64)
    return feature


def _varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _read_varint(data, at)
        yield value & 0xFFFF_FFFF_FFFF_FFFF

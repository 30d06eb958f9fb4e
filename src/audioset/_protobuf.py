"""Protocol-buffer messages, walked in place: fields come as integers or as views of the message, nothing is copied.

Only the wire format is known here (https://protobuf.dev/programming-guides/encoding/); meanings belong to the readers.
The checksum with which TensorFlow guards messages on disk, in checkpoints and TFRecord files alike, is here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Value: TypeAlias = int | memoryview

_MAX_VARINT_BYTES: Final = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PIECE_BYTES = 1 << 18


class Malformed(ValueError):  # noqa: N818  (never reaches users: readers turn it into an error of their own)
    """Bytes are not what the wire format allows; whoever knows the file says where."""


def read_varint(view: memoryview, position: int) -> tuple[int, int]:
    """Return the unsigned integer at `position` and the position after it."""
    if position < len(view) and view[position] < 0x80:  # as nearly all are: this halves the time of a message
        return view[position], position + 1
    value = 0
    for index, byte in enumerate(view[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + index + 1
    raise Malformed("an integer without end")


def varint(value: int) -> bytes:
    """Return an unsigned integer as `read_varint` reads it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field_start(number: int, length: int) -> bytes:
    """Return what comes before the `length` bytes of a length-delimited field."""
    return varint(number << 3 | _BYTES) + varint(length)


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield each field's number and value: an unsigned integer, or a view of its bytes (4 or 8 of them if fixed)."""
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise Malformed("a field with number 0")
        if wire_type == _VARINT:
            value, position = read_varint(message, position)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, position = read_varint(message, position)
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise Malformed(f"a field of unknown wire type {wire_type}")
        if length > len(message) - position:
            raise Malformed(f"a field of {length} bytes where {len(message) - position} are left")
        yield number, message[position : position + length]
        position += length


def as_int(value: Value) -> int:
    """Return the value of an integer field."""
    if not isinstance(value, int):
        raise Malformed("bytes where an integer belongs")
    return value


def as_signed(value: Value) -> int:
    """Return the value of a field of type int32, int64 or enum, which are stored as two's complement in 64 bits."""
    unsigned = as_int(value)
    return unsigned - (1 << 64) if unsigned >> 63 else unsigned


def as_bytes(value: Value) -> memoryview:
    """Return the bytes of a length-delimited or fixed-width field."""
    if isinstance(value, int):
        raise Malformed("an integer where bytes belong")
    return value


def as_text(value: Value) -> str:
    """Return the text of a string field."""
    try:
        return str(as_bytes(value), "utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("a name that is not UTF-8") from error


def unpack_varints(packed: memoryview) -> npt.NDArray[np.uint64]:
    """Return the integers of a packed field, shape (n,); memory beyond the result stays small."""
    raw = np.frombuffer(packed, np.uint8)
    if raw.size and raw[-1] >= 0x80:
        raise Malformed("packed integers that end in the middle of one")
    values = np.empty(np.count_nonzero(raw < 0x80), np.uint64)
    done = start = 0
    while start < raw.size:
        stop = min(start + _PIECE_BYTES, raw.size)
        while raw[stop - 1] >= 0x80:  # the last byte of all is smaller, so this ends
            stop += 1
        piece = raw[start:stop]
        ends = np.flatnonzero(piece < 0x80)
        starts = np.concatenate(([0], ends[:-1] + 1))
        lengths = ends - starts + 1
        if lengths.max() > _MAX_VARINT_BYTES:
            raise Malformed("an integer without end")
        shifts = 7 * (np.arange(piece.size) - np.repeat(starts, lengths))
        parts = (piece & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
        values[done : done + ends.size] = np.add.reduceat(parts, starts)
        done += ends.size
        start = stop
    return values


def masked_crc32c(data: bytes | memoryview) -> int:
    """Return the crc32c of the bytes, rotated and offset as tables and TFRecords store it."""
    import google_crc32c

    # Wrapped in an array because it takes no memoryviews.
    crc: int = google_crc32c.value(data if isinstance(data, bytes) else np.frombuffer(data, np.uint8))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFF_FFFF


def mask_crc32c(crcs: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return checksums, plain crc32c, rotated and offset likewise."""
    masked: npt.NDArray[np.uint32] = (crcs >> np.uint32(15) | crcs << np.uint32(17)) + np.uint32(0xA282EAD8)
    return masked

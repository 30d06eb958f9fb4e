"""Writers of TensorFlow's checkpoint formats, small and plain, so that the readers are tested without TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow as pa

MAGIC = 0xDB4775248B80FB57
PLAIN, SNAPPY = 0, 1
RESTART_INTERVAL = 4

# DataType, and the field of TensorProto that version 1 keeps it in.
DATA_TYPES = {
    "float32": (1, 5),
    "float64": (2, 6),
    "int32": (3, 7),
    "uint8": (4, 7),
    "int16": (5, 7),
    "int8": (6, 7),
    "int64": (9, 10),
    "bool": (10, 11),
    "uint16": (17, 7),
    "float16": (19, 13),
    "uint32": (22, 16),
    "uint64": (23, 17),
}
STRING = 7
BFLOAT16 = 14


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def fixed32(number: int, value: int) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<I", value)


def masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def block(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """One block: entries that share prefixes, and restart points where they do not."""
    content, restarts, previous = b"", [], b""
    for index, (key, value) in enumerate(entries):
        shared = 0
        if index % RESTART_INTERVAL == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
                shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    restarts = restarts or [0]
    return content + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(
    entries: Mapping[bytes, bytes],
    *,
    snappy: bool = False,
    per_block: int = 3,
    mangle: Callable[[bytes], bytes] = lambda stored: stored,
) -> bytes:
    """A whole table; `mangle` changes each block as stored, before its checksum is taken."""
    file, index = b"", []

    def add(content: bytes) -> bytes:
        nonlocal file
        stored = pa.Codec("snappy").compress(content).to_pybytes() if snappy else content
        stored = mangle(stored)
        handle = varint(len(file)) + varint(len(stored))
        kind = bytes([SNAPPY if snappy else PLAIN])
        file += stored + kind + struct.pack("<I", masked_crc(stored + kind))
        return handle

    ordered = sorted(entries.items())
    for start in range(0, len(ordered), per_block):
        some = ordered[start : start + per_block]
        index.append((some[-1][0] + b"\xff", add(block(some))))
    metaindex = add(block([]))
    footer = (metaindex + add(block(index))).ljust(40, b"\0")
    return file + footer + struct.pack("<Q", MAGIC)


def shape_proto(shape: Sequence[int]) -> bytes:
    return b"".join(bytes_field(2, integer(1, size) if size else b"") for size in shape)


def slice_proto(extents: Sequence[tuple[int, int | None]]) -> bytes:
    content = b""
    for start, length in extents:
        extent = (integer(1, start) if start else b"") + (b"" if length is None else integer(2, length))
        content += bytes_field(1, extent)
    return content


def tensor_proto(values: np.ndarray, *, packed: bool = True) -> bytes:
    _, field = DATA_TYPES[values.dtype.name]
    flat = values.reshape(-1)
    if values.dtype.name in ("float32", "float64"):
        wire_type = 5 if flat.itemsize == 4 else 1
        return (
            bytes_field(field, flat.tobytes())
            if packed
            else b"".join(varint(field << 3 | wire_type) + each.tobytes() for each in flat)
        )
    if values.dtype == np.float16:
        flat = flat.view(np.uint16)
    numbers = [varint(int(each)) for each in flat]
    if packed:
        return bytes_field(field, b"".join(numbers))
    return b"".join(varint(field << 3) + number for number in numbers)


def whole(values: np.ndarray) -> list[tuple[int, int | None]]:
    return [(0, None)] * values.ndim


def row_slices(values: np.ndarray, sizes: Sequence[int]) -> list[list[tuple[int, int | None]]]:
    """Extents that cut the first axis into pieces of these sizes."""
    starts = np.cumsum([0, *sizes])
    return [
        [(int(start), size), *((0, n) for n in values.shape[1:])] for start, size in zip(starts, sizes, strict=False)
    ]


def cut(values: np.ndarray, extents: Sequence[tuple[int, int | None]]) -> np.ndarray:
    return values[tuple(slice(start, None if length is None else start + length) for start, length in extents)]


def v1_entries(
    tensors: Mapping[str, np.ndarray],
    *,
    partitions: Mapping[str, Sequence[int]] | None = None,
    packed: bool = True,
    strings: Sequence[str] = (),
) -> dict[bytes, bytes]:
    """Entries of a version 1 checkpoint; variables named in `partitions` are cut into rows of these numbers."""
    meta, entries = b"", {}
    for name, values in tensors.items():
        slices = row_slices(values, partitions[name]) if partitions and name in partitions else [whole(values)]
        described = bytes_field(1, name.encode()) + bytes_field(2, shape_proto(values.shape))
        described += integer(3, DATA_TYPES[values.dtype.name][0])
        for number, extents in enumerate(slices):
            described += bytes_field(4, slice_proto(extents))
            data = tensor_proto(cut(values, extents), packed=packed)
            saved = bytes_field(1, name.encode()) + bytes_field(2, slice_proto(extents)) + bytes_field(3, data)
            entries[b"\0" + name.encode() + bytes([number])] = bytes_field(2, saved)
        meta += bytes_field(1, described)
    for name in strings:
        meta += bytes_field(1, bytes_field(1, name.encode()) + bytes_field(2, b"") + integer(3, STRING))
        saved = bytes_field(1, name.encode()) + bytes_field(3, bytes_field(8, b"text"))
        entries[b"\0" + name.encode()] = bytes_field(2, saved)
    return {b"": bytes_field(1, meta), **entries}


def write_v1(path: Path, tensors: Mapping[str, np.ndarray], *, snappy: bool = False, **options: object) -> Path:
    path.write_bytes(table(v1_entries(tensors, **options), snappy=snappy))  # type: ignore[arg-type]
    return path


def header_proto(num_shards: int, *, big_endian: bool = False) -> bytes:
    return integer(1, num_shards) + (integer(2, 1) if big_endian else b"") + bytes_field(3, integer(1, 1))


def entry_proto(
    data_type: int, shape: Sequence[int], shard: int = 0, offset: int = 0, raw: bytes = b"", slices: bytes = b""
) -> bytes:
    entry = integer(1, data_type) + bytes_field(2, shape_proto(shape))
    entry += integer(3, shard) + integer(4, offset) + integer(5, len(raw))
    return entry + fixed32(6, masked_crc(raw)) + slices


def ordered_code(name: str, extents: Sequence[tuple[int, int]]) -> bytes:
    """TensorFlow's key of a slice, for numbers below 64, which take one byte each."""
    key = b"\0" + name.encode() + b"\0\1" + bytes([1, len(extents)])
    return key + bytes(0x80 ^ number for extent in extents for number in extent)


def write_v2(
    prefix: Path,
    tensors: Mapping[str, np.ndarray],
    *,
    num_shards: int = 1,
    partitions: Mapping[str, Sequence[int]] | None = None,
    big_endian: bool = False,
    strings: Sequence[str] = (),
    snappy: bool = False,
) -> Path:
    """Write index and data files, and return the index."""
    shards = [bytearray() for _ in range(num_shards)]
    entries = {b"": header_proto(num_shards, big_endian=big_endian)}

    def store(values: np.ndarray, slices: bytes = b"") -> bytes:
        shard = len(entries) % num_shards
        raw = values.astype(values.dtype.newbyteorder(">") if big_endian else values.dtype).tobytes()
        offset = len(shards[shard])
        shards[shard] += raw
        return entry_proto(DATA_TYPES[values.dtype.name][0], values.shape, shard, offset, raw, slices)

    for name, values in tensors.items():
        if partitions and name in partitions:
            pieces = row_slices(values, partitions[name])
            slices = b"".join(bytes_field(7, slice_proto(extents)) for extents in pieces)
            entries[name.encode()] = entry_proto(DATA_TYPES[values.dtype.name][0], values.shape, slices=slices)
            for extents in pieces:
                entries[ordered_code(name, extents)] = store(cut(values, extents))
        else:
            entries[name.encode()] = store(values)
    for name in strings:
        entries[name.encode()] = entry_proto(STRING, ())
    index = prefix.with_name(prefix.name + ".index")
    index.write_bytes(table(entries, snappy=snappy))
    for shard, content in enumerate(shards):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{num_shards:05d}").write_bytes(content)
    return index

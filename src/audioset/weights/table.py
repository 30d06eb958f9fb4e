"""Sorted tables in LevelDB's format, in which TensorFlow keeps its checkpoints.

A table is blocks of key-value entries, then an index block that says where the blocks are, then a footer of 48 bytes.
Each block is followed by one byte that names its compression and the masked crc32c of both
(https://github.com/google/leveldb/blob/main/doc/table_format.md). Uncompressed blocks are views of the mapped file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audioset._protobuf import Malformed, masked_crc32c, read_varint
from audioset.errors import WeightsFormatError
from audioset.weights.files import map_file

MAGIC: Final = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER_BYTES: Final = 48
TRAILER_BYTES: Final = 5
_PLAIN, _SNAPPY = 0, 1
_MAX_SNAPPY_RATIO: Final = 22  # its densest element makes 64 bytes of 3
_MAX_KEY_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Entry:
    """A key, its value, and the byte of the file where the value (or the compressed block that holds it) starts."""

    key: bytes
    value: memoryview
    offset: int


def is_table(path: Path) -> bool:
    """Return whether the file ends as a table does."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < FOOTER_BYTES:
            return False
        file.seek(size - len(MAGIC))
        return file.read() == MAGIC


def damaged(path: Path, offset: int, found: str) -> WeightsFormatError:
    """Return the error for a checkpoint that breaks its own rules."""
    return WeightsFormatError(
        f"{path}: {found}, at byte {offset}; expected a whole TensorFlow checkpoint. "
        "The file is damaged or cut short: fetch or copy it again."
    )


@contextmanager
def located(path: Path, offset: int, prefix: str = "") -> Iterator[None]:
    """Turn what is Malformed in the block into a WeightsFormatError that names the file and the byte."""
    try:
        yield
    except Malformed as error:
        raise damaged(path, offset, f"{prefix}{error}") from error


def read_entries(path: Path) -> Iterator[Entry]:
    """Yield the entries of a table in the order of their keys.

    Raises
    ------
    WeightsFormatError
        If the file is not a table, or a block is out of bounds, fails its checksum or cannot be taken apart.
    """
    data = map_file(path)
    footer_start = len(data) - FOOTER_BYTES
    if footer_start < 0 or data[-len(MAGIC) :] != MAGIC:
        raise damaged(path, max(0, len(data) - len(MAGIC)), "no table footer")
    with located(path, footer_start, "a footer with "):
        _, position = _read_handle(data[footer_start:], 0)  # the index of metadata, which checkpoints leave empty
        handle, _ = _read_handle(data[footer_start:], position)

    free_from = 0
    for index_entry in _block_entries(path, data, *handle):
        with located(path, index_entry.offset, "an index entry with "):
            (offset, size), _ = _read_handle(index_entry.value, 0)
        if offset < free_from:
            raise damaged(path, index_entry.offset, "blocks that overlap or are out of order")
        yield from _block_entries(path, data, offset, size)
        free_from = offset + size + TRAILER_BYTES


def _read_handle(view: memoryview, position: int) -> tuple[tuple[int, int], int]:
    offset, position = read_varint(view, position)
    size, position = read_varint(view, position)
    return (offset, size), position


def _block_entries(path: Path, data: memoryview, offset: int, size: int) -> Iterator[Entry]:
    end = offset + size
    if end + TRAILER_BYTES > len(data) - FOOTER_BYTES:
        raise damaged(path, offset, f"a block of {size} bytes that runs past the end")
    compression = data[end]
    (stored,) = struct.unpack("<I", data[end + 1 : end + TRAILER_BYTES])
    found = masked_crc32c(data[offset : end + 1])
    if stored != found:
        raise damaged(path, offset, f"a block whose checksum is {found:08x} where {stored:08x} is stored")
    block = data[offset:end]
    with located(path, offset):
        if compression == _SNAPPY:
            block = _uncompressed(block)
        elif compression != _PLAIN:
            raise Malformed(f"a block of unknown compression {compression}")
        for key, value, position in _split(block):
            yield Entry(key, value, offset + (position if compression == _PLAIN else 0))


def _uncompressed(block: memoryview) -> memoryview:
    import pyarrow as pa

    size, start = read_varint(block, 0)
    if size > (len(block) - start) * _MAX_SNAPPY_RATIO:
        raise Malformed(f"a compressed block that claims to hold {size} bytes in {len(block)}")
    if size == 0:
        return memoryview(b"")
    try:
        return memoryview(pa.Codec("snappy").decompress(block, decompressed_size=size)).cast("B").toreadonly()
    except (pa.ArrowException, OSError) as error:
        raise Malformed(f"a compressed block that does not decompress ({error})") from error


def _split(block: memoryview) -> Iterator[tuple[bytes, memoryview, int]]:
    """Yield key, value and the value's position for each entry of a block; keys share prefixes with those before."""
    if len(block) < 4:
        raise Malformed("a block without restart points")
    (num_restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 * (num_restarts + 1)
    if end < 0:
        raise Malformed(f"a block with {num_restarts} restart points, more than fit")
    key = b""
    position = 0
    while position < end:
        num_shared, position = read_varint(block, position)
        num_new, position = read_varint(block, position)
        num_value, position = read_varint(block, position)
        start = position + num_new
        if num_shared > len(key) or num_shared + num_new > _MAX_KEY_BYTES or start + num_value > end:
            raise Malformed("an entry that runs past its block")
        key = key[:num_shared] + bytes(block[position:start])
        position = start + num_value
        yield key, block[start:position], start

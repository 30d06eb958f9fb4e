from __future__ import annotations

import struct
from pathlib import Path

import pytest

from audioset.errors import WeightsError, WeightsFormatError
from audioset.weights.table import is_table, read_entries

from . import _writers as write

ENTRIES = {f"layer{n // 3}/weights{n}".encode(): bytes([n]) * (40 * n) for n in range(11)}


def _written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "table"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("snappy", [False, True])
@pytest.mark.parametrize("per_block", [1, 3, 100])
def test_entries_come_back_in_order(tmp_path: Path, snappy: bool, per_block: int) -> None:
    path = _written(tmp_path, write.table(ENTRIES, snappy=snappy, per_block=per_block))
    found = [(entry.key, bytes(entry.value)) for entry in read_entries(path)]
    assert found == sorted(ENTRIES.items())


def test_offsets_are_those_of_the_values_in_the_file(tmp_path: Path) -> None:
    path = _written(tmp_path, write.table(ENTRIES))
    content = path.read_bytes()
    for entry in read_entries(path):
        assert content[entry.offset : entry.offset + len(entry.value)] == entry.value


def test_a_table_is_known_by_its_end(tmp_path: Path) -> None:
    assert is_table(_written(tmp_path, write.table(ENTRIES)))
    assert not is_table(_written(tmp_path, write.table(ENTRIES)[:-1]))
    assert not is_table(_written(tmp_path, b""))


@pytest.mark.parametrize("kept", [0, 7, 47, 100, -1])
def test_a_table_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    path = _written(tmp_path, write.table(ENTRIES)[:kept])
    with pytest.raises(WeightsFormatError, match=r"table: no table footer, at byte \d+; expected"):
        list(read_entries(path))


def test_a_flipped_bit_fails_the_checksum_of_its_block(tmp_path: Path) -> None:
    content = bytearray(write.table(ENTRIES))
    content[30] ^= 4
    with pytest.raises(WeightsFormatError, match=r"a block whose checksum is [0-9a-f]{8} where [0-9a-f]{8} is stored"):
        list(read_entries(_written(tmp_path, bytes(content))))


def test_a_block_beyond_the_end_is_refused(tmp_path: Path) -> None:
    handle = write.varint(0) + write.varint(1 << 40)
    content = b"\0" * 100 + (handle + handle).ljust(40, b"\0") + struct.pack("<Q", write.MAGIC)
    with pytest.raises(WeightsFormatError, match="1099511627776 bytes that runs past the end, at byte 0"):
        list(read_entries(_written(tmp_path, content)))


def test_a_footer_without_handles_is_refused(tmp_path: Path) -> None:
    content = b"\xff" * 40 + struct.pack("<Q", write.MAGIC)
    with pytest.raises(WeightsFormatError, match="a footer with an integer without end, at byte 0"):
        list(read_entries(_written(tmp_path, content)))


def test_a_compressed_block_cannot_claim_more_than_it_can_hold(tmp_path: Path) -> None:
    bomb = write.table(ENTRIES, snappy=True, mangle=lambda stored: write.varint(1 << 45) + stored[1:])
    with pytest.raises(WeightsFormatError, match="claims to hold 35184372088832 bytes"):
        list(read_entries(_written(tmp_path, bomb)))


def test_a_compressed_block_that_does_not_decompress_is_refused(tmp_path: Path) -> None:
    broken = write.table(ENTRIES, snappy=True, mangle=lambda stored: stored[: len(stored) // 2])
    with pytest.raises(WeightsFormatError, match="does not decompress"):
        list(read_entries(_written(tmp_path, broken)))


def test_an_unknown_compression_is_refused(tmp_path: Path) -> None:
    stored = write.block([])
    kind = b"\x09"
    content = stored + kind + struct.pack("<I", write.masked_crc(stored + kind))
    handle = write.varint(0) + write.varint(len(stored))
    content += (handle + handle).ljust(40, b"\0") + struct.pack("<Q", write.MAGIC)
    with pytest.raises(WeightsFormatError, match="unknown compression 9"):
        list(read_entries(_written(tmp_path, content)))


@pytest.mark.parametrize(
    ("block", "match"),
    [
        (b"", "without restart points"),
        (struct.pack("<I", 1 << 30), "more than fit"),
        (b"\x05\x01\x00a" + struct.pack("<II", 0, 1), "runs past its block"),
        (b"\x00\x01\x7fa" + struct.pack("<II", 0, 1), "runs past its block"),
    ],
)
def test_a_block_that_breaks_its_own_rules_is_refused(tmp_path: Path, block: bytes, match: str) -> None:
    content = write.table(ENTRIES, mangle=lambda _: block)
    with pytest.raises(WeightsFormatError, match=match):
        list(read_entries(_written(tmp_path, content)))


def test_blocks_may_not_be_visited_twice(tmp_path: Path) -> None:
    stored = write.block([(b"a", b"1")])
    body = stored + b"\0" + struct.pack("<I", write.masked_crc(stored + b"\0"))
    handle = write.varint(0) + write.varint(len(stored))
    index = write.block([(b"a", handle), (b"b", handle)])
    content = body + index + b"\0" + struct.pack("<I", write.masked_crc(index + b"\0"))
    footer = handle + write.varint(len(body)) + write.varint(len(index))
    path = _written(tmp_path, content + footer.ljust(40, b"\0") + struct.pack("<Q", write.MAGIC))
    with pytest.raises(WeightsFormatError, match="overlap or are out of order"):
        list(read_entries(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing: No such file"):
        list(read_entries(tmp_path / "nothing"))

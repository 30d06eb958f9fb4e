from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset import _protobuf
from audioset._protobuf import Malformed, as_bytes, as_int, as_signed, as_text, fields, unpack_varints
from weights import _writers as write


def _fields(message: bytes) -> list[tuple[int, object]]:
    return list(fields(memoryview(message)))


def test_fields_are_views_of_the_message() -> None:
    message = memoryview(write.integer(1, 300) + write.bytes_field(2, b"abc") + write.fixed32(3, 7))
    (one, number), (two, text), (three, fixed) = fields(message)
    assert (one, number, two, three) == (1, 300, 2, 3)
    assert bytes(as_bytes(text)) == b"abc"
    assert as_bytes(text).obj is message.obj
    assert bytes(as_bytes(fixed)) == b"\7\0\0\0"


@given(st.lists(st.integers(0, (1 << 64) - 1)))
@settings(derandomize=True, deadline=None, database=None)
def test_packed_integers_equal_one_by_one(numbers: list[int]) -> None:
    packed = b"".join(map(write.varint, numbers))
    assert unpack_varints(memoryview(packed)).tolist() == numbers


def test_packed_integers_longer_than_a_piece_are_not_cut_between_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_protobuf, "_PIECE_BYTES", 5)
    numbers = [1, 1 << 63, 127, 128, 1 << 40, 0] * 7
    packed = b"".join(map(write.varint, numbers))
    assert unpack_varints(memoryview(packed)).tolist() == numbers


def test_signed_integers_are_twos_complement() -> None:
    assert as_signed((1 << 64) - 5) == -5
    assert as_signed(5) == 5


@pytest.mark.parametrize(
    ("message", "match"),
    [
        (b"\x80", "without end"),
        (b"\xff" * 11, "without end"),
        (b"\x00\x00", "number 0"),
        (b"\x0b", "wire type 3"),
        (b"\x0a\x05ab", "5 bytes where 2 are left"),
        (b"\x0d\x01", "4 bytes where 1 are left"),
        (b"\x09\x01", "8 bytes where 1 are left"),
    ],
)
def test_broken_messages_are_malformed(message: bytes, match: str) -> None:
    with pytest.raises(Malformed, match=match):
        _fields(message)


@pytest.mark.parametrize("packed", [b"\x80", b"\x80" * 11 + b"\x01"])
def test_broken_packed_integers_are_malformed(packed: bytes) -> None:
    with pytest.raises(Malformed, match="integer"):
        unpack_varints(memoryview(packed))


def test_values_of_the_wrong_kind_are_malformed() -> None:
    with pytest.raises(Malformed, match="an integer belongs"):
        as_int(memoryview(b""))
    with pytest.raises(Malformed, match="bytes belong"):
        as_bytes(1)
    with pytest.raises(Malformed, match="not UTF-8"):
        as_text(memoryview(b"\xff"))


def test_no_packed_integers_are_an_empty_array() -> None:
    assert unpack_varints(memoryview(b"")).dtype == np.uint64

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset.errors import WeightsFormatError
from audioset.weights import tf_checkpoint
from audioset.weights.tf_checkpoint import _slice_key, is_v1, is_v2_index, read_v1, read_v2

from . import _writers as write

Tensors = dict[str, np.ndarray]
FUZZ = settings(derandomize=True, deadline=None, database=None, max_examples=300)


@pytest.fixture
def tensors(rng: np.random.Generator) -> Tensors:
    """One variable of each type, and the shapes that are easily lost."""
    named = {}
    for dtype in write.DATA_TYPES:
        kind = np.dtype(dtype)
        if kind.kind == "f":
            named[f"of/{dtype}"] = rng.standard_normal((5, 7)).astype(dtype)
        elif kind.kind == "b":
            named[f"of/{dtype}"] = rng.random(9) > 0.5
        else:
            limits = np.iinfo(kind)
            named[f"of/{dtype}"] = np.array([limits.min, 0, 1, 77, limits.max], dtype)
    return {
        **named,
        "empty": np.empty((0, 3), np.float32),
        "scalar": np.array(41, np.int64),
        "partitioned": rng.standard_normal((10, 6)).astype(np.float32),
    }


def _assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        assert found[name].shape == values.shape, name
        assert found[name].tobytes() == values.tobytes(), name
        assert not found[name].flags.writeable, name


@pytest.mark.parametrize("snappy", [False, True])
@pytest.mark.parametrize("packed", [True, False])
def test_v1_reads_back_bit_for_bit(tmp_path: Path, tensors: Tensors, snappy: bool, packed: bool) -> None:
    path = write.write_v1(
        tmp_path / "model.ckpt", tensors, snappy=snappy, packed=packed, partitions={"partitioned": (4, 3, 3)}
    )
    assert is_v1(path)
    assert not is_v2_index(path)
    _assert_same(read_v1(path), tensors)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_v2_reads_back_bit_for_bit(tmp_path: Path, tensors: Tensors, num_shards: int, big_endian: bool) -> None:
    index = write.write_v2(
        tmp_path / "model.ckpt",
        tensors,
        num_shards=num_shards,
        big_endian=big_endian,
        partitions={"partitioned": (4, 3, 3)},
    )
    assert is_v2_index(index)
    assert not is_v1(index)
    _assert_same(read_v2(index), tensors)


@pytest.mark.parametrize(("name", "read"), [("small_v1.ckpt", read_v1), ("small_v2.ckpt.index", read_v2)])
def test_checkpoints_that_tensorflow_wrote_read_back_bit_for_bit(
    data_dir: Path, name: str, read: Callable[[Path], Tensors]
) -> None:
    folder = data_dir / "tf_checkpoints"
    with np.load(folder / "small_expected.npz", allow_pickle=False) as expected:
        _assert_same(read(folder / name), {key.replace("|", "/"): expected[key] for key in expected})


@pytest.mark.parametrize("version", [1, 2])
def test_uncompressed_tensors_are_views_of_the_file(tmp_path: Path, tensors: Tensors, version: int) -> None:
    if version == 1:
        found = read_v1(write.write_v1(tmp_path / "model.ckpt", tensors))
    else:
        found = read_v2(write.write_v2(tmp_path / "model.ckpt", tensors))
    assert not found["of/float32"].flags.owndata
    assert not found["of/float64"].flags.owndata


@pytest.mark.parametrize("version", [1, 2])
def test_strings_are_left_out_with_a_note(
    tmp_path: Path, tensors: Tensors, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    if version == 1:
        found = read_v1(write.write_v1(tmp_path / "model.ckpt", tensors, strings=["vocabulary"]))
    else:
        found = read_v2(write.write_v2(tmp_path / "model.ckpt", tensors, strings=["vocabulary"]))
    assert found.keys() == tensors.keys()
    assert "vocabulary holds no numbers" in caplog.text


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    raw = np.array([1.0, -2.5, 384.0], np.float32).view(np.uint32) >> 16
    index = tmp_path / "model.ckpt.index"
    entry = write.entry_proto(write.BFLOAT16, (3,), raw=raw.astype("<u2").tobytes())
    index.write_bytes(write.table({b"": write.header_proto(1), b"w": entry}))
    (tmp_path / "model.ckpt.data-00000-of-00001").write_bytes(raw.astype("<u2").tobytes())
    assert read_v2(index)["w"].tolist() == [1.0, -2.5, 384.0]


@pytest.mark.parametrize("number", [0, 1, 63, 64, 8191, 8192, 2**20 - 1, 2**20, 2**48])
def test_keys_of_slices_keep_the_order_of_numbers(number: int) -> None:
    keys = [_slice_key(b"w", [(start, 1)]) for start in (number, number + 1, -number - 1)]
    assert keys[0] < keys[1]
    assert keys[2] < keys[0]


def test_keys_of_slices_are_tensorflows() -> None:
    assert _slice_key(b"w", [(0, 4), (7, None)]) == b"\0w\0\1\x01\x02\x80\x84\x87\x7f"
    assert _slice_key(b"w", [(64, 100), (300, 8192)]).endswith(b"\xc0\x40\xc0\x64\xc1\x2c\xe0\x20\x00")
    assert _slice_key(b"\0\xff", []) == b"\0\0\xff\xff\0\0\1\0"


def test_a_slice_beyond_63_rows_is_found(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.standard_normal((500, 2)).astype(np.float32)
    pieces = write.row_slices(values, (200, 300))
    slices = b"".join(write.bytes_field(7, write.slice_proto(extents)) for extents in pieces)
    entries = {b"": write.header_proto(1), b"w": write.entry_proto(1, values.shape, slices=slices)}
    data = b""
    for extents in pieces:
        raw = write.cut(values, extents).tobytes()
        entries[_slice_key(b"w", extents)] = write.entry_proto(1, (extents[0][1], 2), 0, len(data), raw)
        data += raw
    (tmp_path / "m.index").write_bytes(write.table(entries))
    (tmp_path / "m.data-00000-of-00001").write_bytes(data)
    np.testing.assert_array_equal(read_v2(tmp_path / "m.index")["w"], values)


# What can be wrong with a version 1 file whose checksums are right.


def _saved(name: str, extents: list[tuple[int, int | None]], values: np.ndarray) -> bytes:
    content = write.bytes_field(1, name.encode()) + write.bytes_field(2, write.slice_proto(extents))
    return write.bytes_field(2, content + write.bytes_field(3, write.tensor_proto(values)))


def _described(shape: tuple[int, ...], data_type: int = 1) -> bytes:
    content = write.bytes_field(1, b"w") + write.bytes_field(2, write.shape_proto(shape)) + write.integer(3, data_type)
    return write.bytes_field(1, write.bytes_field(1, content))


_FIVE = np.arange(5, dtype=np.float32)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({b"": _described((6,)), b"\0w": _saved("w", [(0, None)], _FIVE)}, r"slice of shape \(6,\) with 5 values"),
        ({b"": _described((6,)), b"\0w": _saved("w", [(0, 5)], _FIVE)}, "do not fill it"),
        ({b"": _described((5,)), b"\0w": _saved("w", [(1, 5)], _FIVE)}, "a slice from 1 to 6"),
        ({b"": _described((5,)), b"\0w": _saved("w", [(-1, 5)], _FIVE)}, "a slice from -1 to 4"),
        ({b"": _described((5, 1)), b"\0w": _saved("w", [(0, 5)], _FIVE)}, "2 axes and a slice of 1"),
        ({b"": _described((5,))}, "do not fill it"),
        ({b"": _described((5,)), b"\0x": _saved("x", [(0, 5)], _FIVE)}, "'x', which the list of variables does not"),
        ({b"": _described((-5,)), b"\0w": _saved("w", [(0, 5)], _FIVE)}, "impossible shape"),
        ({b"": _described((0, 1 << 40, 1 << 40))}, "impossible shape"),
        ({b"": _described((1,) * 65)}, "impossible shape"),
        (
            {b"": _described((10,)), b"\0w1": _saved("w", [(0, 5)], _FIVE), b"\0w2": _saved("w", [(4, 5)], _FIVE)},
            "overlap",
        ),
        ({b"": _described((5,), data_type=2), b"\0w": _saved("w", [(0, 5)], _FIVE)}, "with 0 values"),
        ({b"": b"\x0a\x7f"}, "127 bytes where 0 are left"),
    ],
)
def test_v1_that_contradicts_itself_is_refused(tmp_path: Path, entries: dict[bytes, bytes], match: str) -> None:
    path = tmp_path / "bad.ckpt"
    path.write_bytes(write.table(entries))
    with pytest.raises(WeightsFormatError, match=rf"bad\.ckpt: .*{match}.*at byte \d+; expected"):
        read_v1(path)


def _v2(tmp_path: Path, entries: dict[bytes, bytes], data: bytes = b"") -> Path:
    index = tmp_path / "bad.index"
    index.write_bytes(write.table(entries))
    (tmp_path / "bad.data-00000-of-00001").write_bytes(data)
    return index


_RAW = _FIVE.tobytes()


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (write.entry_proto(1, (5,), 0, 1, _RAW), "the end comes before that of a tensor .bytes 1 to 21., at byte 20"),
        (write.entry_proto(1, (5,), 0, -4, _RAW), "bytes -4 to 16"),
        (write.entry_proto(1, (5,), 3, 0, _RAW), "data file 3 of 1"),
        (write.entry_proto(1, (5,), 0, 0, _RAW[:-4] + b"1234"), "fails its checksum, at byte 0"),
        (write.entry_proto(1, (7,), 0, 0, _RAW), r"20 bytes that says it is float \(7,\)"),
        (write.entry_proto(1, (1 << 40,), 0, 0, _RAW), "20 bytes that says it is float"),
        (
            write.entry_proto(1, (5,), slices=write.bytes_field(7, write.slice_proto([(0, 5)]))),
            r"whose slice \[\(0, 5\)\] is missing",
        ),
    ],
)
def test_v2_that_contradicts_itself_is_refused(tmp_path: Path, entry: bytes, match: str) -> None:
    index = _v2(tmp_path, {b"": write.header_proto(1), b"w": entry}, _RAW)
    with pytest.raises(WeightsFormatError, match=match):
        read_v2(index)


def test_v2_without_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsFormatError, match="data file 0 of 0"):
        read_v2(_v2(tmp_path, {b"w": write.entry_proto(1, (5,), 0, 0, _RAW)}, _RAW))
    with pytest.raises(WeightsFormatError, match="100001 data files"):
        read_v2(_v2(tmp_path, {b"": write.header_proto(100_001)}))


def test_v2_without_its_data_names_the_missing_file(tmp_path: Path, tensors: Tensors) -> None:
    index = write.write_v2(tmp_path / "model.ckpt", tensors, num_shards=2)
    (tmp_path / "model.ckpt.data-00001-of-00002").unlink()
    with pytest.raises(WeightsFormatError, match=r"model\.ckpt\.data-00001-of-00002: no such file; expected the 2"):
        read_v2(index)


def test_v2_index_by_another_name_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    index = write.write_v2(tmp_path / "model.ckpt", tensors).rename(tmp_path / "renamed")
    with pytest.raises(WeightsFormatError, match=r"expected a name that ends in \.index"):
        read_v2(index)


# Damage: whatever the bytes, the readers give arrays or WeightsFormatError.

_SMALL = {"a/weights": np.ones((3, 4), np.float32), "b": np.arange(6), "half": np.ones((4, 2), np.float16)}
_PARTITIONS = {"a/weights": (2, 1)}
_numbers = itertools.count()


def _mutated(data: st.DataObject, content: bytes) -> bytes:
    """Overwrite, insert, remove and repeat a few runs of bytes."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(changed)))
        stop = data.draw(st.integers(start, min(len(changed), start + 8)))
        changed[start:stop] = data.draw(
            st.one_of(st.binary(max_size=8), st.sampled_from([b"", b"\xff" * 9 + b"\1", b"\0", bytes(changed[stop:])]))
        )
    return bytes(changed)


def _holds_or_is_refused(read: Callable[[Path], Tensors], path: Path) -> None:
    try:
        found = read(path)
    except WeightsFormatError as error:
        assert "expected" in str(error)  # noqa: PT017
        return
    assert all(isinstance(values, np.ndarray) for values in found.values())


@given(st.data())
@FUZZ
def test_a_damaged_v1_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz{next(_numbers)}.ckpt"
    path.write_bytes(_mutated(data, write.table(write.v1_entries(_SMALL, partitions=_PARTITIONS))))
    _holds_or_is_refused(read_v1, path)


@given(st.data(), st.booleans())
@FUZZ
def test_damaged_blocks_with_right_checksums_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, snappy: bool
) -> None:
    entries = write.v1_entries(_SMALL, partitions=_PARTITIONS)
    path = tmp_path_factory.getbasetemp() / f"fuzz{next(_numbers)}.ckpt"
    path.write_bytes(write.table(entries, snappy=snappy, mangle=lambda stored: _mutated(data, stored)))
    _holds_or_is_refused(read_v1, path)


@given(st.data())
@FUZZ
def test_damaged_messages_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    entries = write.v1_entries(_SMALL, partitions=_PARTITIONS)
    key = data.draw(st.sampled_from(sorted(entries)))
    entries[key] = _mutated(data, entries[key])
    path = tmp_path_factory.getbasetemp() / f"fuzz{next(_numbers)}.ckpt"
    path.write_bytes(write.table(entries))
    _holds_or_is_refused(read_v1, path)


@given(st.data())
@FUZZ
def test_a_damaged_v2_index_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / f"fuzz{next(_numbers)}"
    folder.mkdir()
    index = write.write_v2(folder / "m", _SMALL, partitions=_PARTITIONS)
    entries = {entry.key: bytes(entry.value) for entry in tf_checkpoint.read_entries(index)}
    key = data.draw(st.sampled_from(sorted(entries)))
    entries[key] = _mutated(data, entries[key])
    index.write_bytes(write.table(entries))
    _holds_or_is_refused(read_v2, index)

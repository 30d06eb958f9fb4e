from __future__ import annotations

import errno
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset.errors import OutputError, WeightsError, WeightsFormatError
from audioset.weights.safetensors_file import is_safetensors, read, write

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones(3, np.float16),
    "c": np.array(4, np.int64),
    "empty": np.empty((0, 3), np.float32),
}


def _file(path: Path, header: object, body: bytes = b"") -> Path:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + body)
    return path


def test_written_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write(path, TENSORS, {"model": "vggish"})
    found, metadata = read(path)
    assert metadata == {"model": "vggish"}
    assert found.keys() == TENSORS.keys()
    for name, values in TENSORS.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values, strict=True)


def test_the_library_reads_what_is_written_here(tmp_path: Path) -> None:
    write(tmp_path / "w.safetensors", TENSORS, {})
    found = safetensors.numpy.load_file(tmp_path / "w.safetensors")
    for name, values in TENSORS.items():
        np.testing.assert_array_equal(found[name], values, strict=True)


def test_tensors_are_read_only_views_of_the_file(tmp_path: Path) -> None:
    write(tmp_path / "w.safetensors", TENSORS, {})
    found, _ = read(tmp_path / "w.safetensors")
    assert not found["a"].flags.owndata
    assert not found["a"].flags.writeable
    assert found["a"].flags.aligned


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    raw = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    header = {"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    found, _ = read(_file(tmp_path / "w.safetensors", header, raw))
    assert found["w"].dtype == np.float32
    assert found["w"].tolist() == [1.5, -2.0]


def test_a_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    write(tmp_path / "w.safetensors", TENSORS, {})
    head = (tmp_path / "w.safetensors").read_bytes()[:64]
    assert is_safetensors(head, tmp_path)
    assert not is_safetensors(head[:8], tmp_path)
    assert not is_safetensors(b"{" * 64, tmp_path)


def _w(**changed: object) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}}


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b"{", "cannot be parsed"),
        (b"[" * 100_000, "cannot be parsed"),
        (b"[]", "not an object"),
        (b"\xff\xff", "cannot be parsed"),
        (b'{"w": {}, "w": {}}', "occurs twice"),
        ({"__metadata__": {"a": 1}}, "metadata that is not text"),
        (_w(dtype="F33"), "w described as"),
        (_w(shape=[-2]), "w described as"),
        (_w(shape=[2.0]), "w described as"),
        (_w(shape=[True, 2]), "w described as"),
        (_w(shape=[0, 1 << 60], data_offsets=[0, 0]), "w described as"),
        (_w(shape=[1] * 65 + [2]), "w described as"),
        (_w(more=1), "w described as"),
        ({"w": {"dtype": "F32", "shape": [2]}}, "w described as"),
        ({"w": 3}, "w described as"),
        (_w(data_offsets=[0, 16]), "w at bytes 0 to 16 of 8"),
        (_w(data_offsets=[8, 0]), "w at bytes 8 to 0 of 8"),
        (_w(shape=[3]), r"w, F32 \[3\] in 8 bytes"),
        (_w(shape=[1], data_offsets=[4, 8]), "leave a gap"),
        (_w(shape=[1], data_offsets=[0, 4]), "4 bytes after the last tensor"),
        ({**_w(), "v": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "overlap"),
    ],
)
def test_a_header_that_breaks_the_format_is_refused(tmp_path: Path, header: object, match: str) -> None:
    path = _file(tmp_path / "bad.safetensors", header, b"\0" * 8)
    with pytest.raises(WeightsFormatError, match=rf"bad\.safetensors: .*{match}.*at byte \d+; expected a whole"):
        read(path)


@pytest.mark.parametrize("kept", [0, 5, 8, 40, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    write(tmp_path / "w.safetensors", TENSORS, {})
    path = tmp_path / "cut.safetensors"
    path.write_bytes((tmp_path / "w.safetensors").read_bytes()[:kept])
    with pytest.raises(WeightsFormatError, match=r"cut\.safetensors: .*; expected a whole safetensors file"):
        read(path)


def test_a_header_longer_than_the_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(WeightsFormatError, match="a header of 4611686018427387904 bytes that runs past the end"):
        read(path)


@given(st.data())
@settings(derandomize=True, deadline=None, database=None, max_examples=300)
def test_a_damaged_header_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    header = bytearray(json.dumps({"__metadata__": {"a": "b"}, **_w()}).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(header)))
        header[start : start + data.draw(st.integers(0, 3))] = data.draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"9", b"-", b"0", b"1e9", b'"', b"[", b"]", b"null"]))
        )
    _file(path, bytes(header), b"\0" * 8)
    try:
        tensors, metadata = read(path)
    except WeightsFormatError:
        return
    assert sum(values.nbytes for values in tensors.values()) == 8
    assert all(isinstance(value, str) for value in metadata.values())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.safetensors: No such file"):
        read(tmp_path / "none.safetensors")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(_: object, path: Path, **__: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", fill)
    with pytest.raises(OutputError, match=r"w\.safetensors: the disk is full; expected .* set AUDIOSET_CACHE"):
        write(tmp_path / "w.safetensors", TENSORS, {})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"before")

    def fail(*_: object, **__: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OutputError, match="No space left"):
        write(path, TENSORS, {})
    assert path.read_bytes() == b"before"

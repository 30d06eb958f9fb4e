from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from audioset.errors import WeightsFormatError
from audioset.weights import readers

from . import _writers as write

TENSORS = {"a/weights": np.ones((2, 3), np.float32)}


def _safetensors(path: Path) -> Path:
    safetensors.numpy.save_file(TENSORS, path)
    return path


def _pytorch(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"")
    return path


def _keras(path: Path) -> Path:
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    return path


def _tflite(path: Path) -> Path:
    path.write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 100)
    return path


FILES: dict[str, Callable[[Path], Path]] = {
    "safetensors": _safetensors,
    "tensorflow-v1": lambda path: write.write_v1(path, TENSORS),
    "tensorflow-v2": lambda path: write.write_v2(path, TENSORS),
    "pytorch": _pytorch,
    "keras-h5": _keras,
    "tflite": _tflite,
}


def test_there_is_a_file_here_for_every_reader() -> None:
    assert [reader.name for reader in readers.READERS] == list(FILES)


@pytest.mark.parametrize("name", FILES)
def test_exactly_one_reader_claims_each_file(tmp_path: Path, name: str) -> None:
    path = FILES[name](tmp_path / "misleading.wav")
    head = path.read_bytes()[:4096]
    assert [reader.name for reader in readers.READERS if reader.sniff(head, path)] == [name]
    assert readers.find(path).reader.name == name


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 47, 100])
def test_no_reader_claims_nonsense(tmp_path: Path, length: int) -> None:
    (tmp_path / "nonsense").write_bytes(b"\x7f" * length)
    with pytest.raises(WeightsFormatError, match=r"nonsense: (is empty|begins with .*); expected weights in one of"):
        readers.find(tmp_path / "nonsense")


def test_an_npz_is_not_taken_for_pytorchs(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **TENSORS)  # type: ignore[arg-type]
    (tmp_path / "w.npz").write_bytes(buffer.getvalue())
    with pytest.raises(WeightsFormatError, match=r"w\.npz: begins with b'PK"):
        readers.find(tmp_path / "w.npz")


def test_a_prefix_is_taken_for_its_index(tmp_path: Path) -> None:
    index = write.write_v2(tmp_path / "model.ckpt-20000", TENSORS, num_shards=2)
    source = readers.find(tmp_path / "model.ckpt-20000")
    assert source.path == index
    assert [path.name for path in source.files] == [
        "model.ckpt-20000.index",
        "model.ckpt-20000.data-00000-of-00002",
        "model.ckpt-20000.data-00001-of-00002",
    ]

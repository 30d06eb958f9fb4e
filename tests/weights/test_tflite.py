"""TensorFlow Lite files, read without TensorFlow."""

from __future__ import annotations

import contextlib
from pathlib import Path

import flatbuffers
import numpy as np
import pytest

from audioset.errors import WeightsFormatError
from audioset.models.yamnet import SPEC
from audioset.weights import tflite

INT8, INT32, FLOAT32 = 9, 2, 0


def _vector(builder: flatbuffers.Builder, values: np.ndarray) -> int:
    return builder.CreateNumpyVector(np.ascontiguousarray(values))


def _offsets(builder: flatbuffers.Builder, items: list[int]) -> int:
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        builder.PrependUOffsetTRelative(item)
    return builder.EndVector()


def _table(
    builder: flatbuffers.Builder, num_fields: int, offsets: dict[int, int], scalars: dict[int, tuple] | None = None
) -> int:
    builder.StartObject(num_fields)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, (kind, value) in (scalars or {}).items():
        getattr(builder, f"Prepend{kind}Slot")(slot, value, 0)
    return builder.EndObject()


def write_tflite(path: Path, tensors: dict[str, tuple], version: int = 3) -> Path:
    """Write a model whose only content is tensors: name to (values, type code, scales, zero points, axis)."""
    builder = flatbuffers.Builder(1024)
    buffers = [_table(builder, 1, {})]
    tables = []
    for name, (values, code, scales, zeros, axis) in tensors.items():
        if values is None:
            values, buffer = np.zeros(3, np.float32), 0
        else:
            buffers.append(_table(builder, 1, {0: _vector(builder, values.reshape(-1).view(np.uint8))}))
            buffer = len(buffers) - 1
        fields = {0: _vector(builder, np.array(values.shape, np.int32)), 3: builder.CreateString(name)}
        if scales is not None:
            quantization = {
                2: _vector(builder, np.array(scales, np.float32)),
                3: _vector(builder, np.array(zeros, np.int64)),
            }
            fields[4] = _table(builder, 7, quantization, {6: ("Int32", axis)})
        tables.append(_table(builder, 6, fields, {1: ("Int8", code), 2: ("Uint32", buffer)}))
    subgraph = _table(builder, 5, {0: _offsets(builder, tables)})
    fields = {2: _offsets(builder, [subgraph]), 4: _offsets(builder, buffers)}
    builder.Finish(_table(builder, 8, fields, {0: ("Uint32", version)}), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def test_constants_come_by_name_with_their_dtype_and_shape(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = write_tflite(
        tmp_path / "m.tflite",
        {
            "floats": (values, FLOAT32, None, None, 0),
            "counts": (np.array([1, -2], np.int32), INT32, None, None, 0),
            "an activation, which has no data": (None, FLOAT32, None, None, 0),
        },
    )
    found = tflite.read(path)
    assert list(found) == ["floats", "counts"]
    np.testing.assert_array_equal(found["floats"], values)
    assert found["counts"].dtype == np.int32


def test_quantized_tensors_are_scale_times_difference_from_zero_point(tmp_path: Path) -> None:
    stored = np.array([[-128, 0, 127], [1, 2, 3]], np.int8)
    path = write_tflite(
        tmp_path / "m.tflite",
        {
            "whole": (stored, INT8, [0.5], [3], 0),
            "rows": (stored, INT8, [0.5, 0.25], [0, 1], 0),
            "columns": (stored, INT8, [1, 2, 4], [0, 0, 0], 1),
        },
    )
    found = tflite.read(path)
    np.testing.assert_array_equal(found["whole"], (stored.astype(np.float32) - 3) / 2)
    np.testing.assert_array_equal(found["rows"], [[-64, 0, 63.5], [0, 0.25, 0.5]])
    np.testing.assert_array_equal(found["columns"], stored * np.array([1, 2, 4], np.float32))
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"plain text")
    with pytest.raises(WeightsFormatError, match=r"m\.tflite: begins with .*expected a TensorFlow Lite model"):
        tflite.read(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.touch()
    with pytest.raises(WeightsFormatError, match="begins with nothing"):
        tflite.read(path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = write_tflite(tmp_path / "m.tflite", {"x": (np.zeros(2, np.float32), FLOAT32, None, None, 0)}, version=2)
    with pytest.raises(WeightsFormatError, match="schema version 2"):
        tflite.read(path)


def test_every_damage_is_an_error_of_ours_or_harmless(tmp_path: Path, rng: np.random.Generator) -> None:
    whole = write_tflite(
        tmp_path / "m.tflite", {"x": (np.ones((4, 4), np.int8), INT8, [0.1] * 4, [0] * 4, 0)}
    ).read_bytes()
    damaged = tmp_path / "damaged.tflite"
    for _ in range(300):
        piece = bytearray(whole[: rng.integers(9, len(whole) + 1)])
        piece[rng.integers(8, len(piece))] = rng.integers(256)
        damaged.write_bytes(piece)
        with contextlib.suppress(WeightsFormatError):
            tflite.read(damaged)


def test_names_of_other_models_are_not_yamnets() -> None:
    assert tflite.from_yamnet({"conv1/kernel": np.zeros(3)}) is None


def test_the_published_file_has_every_tensor_of_yamnet(data_dir: Path) -> None:
    path = data_dir / "yamnet" / "lite-model_yamnet_classification_tflite_1.tflite"
    tensors = tflite.from_yamnet(tflite.read(path))
    assert tensors is not None
    assert {name: values.shape for name, values in tensors.items()} == SPEC.tensor_shapes
    assert {values.dtype for values in tensors.values()} == {np.dtype(np.float32)}

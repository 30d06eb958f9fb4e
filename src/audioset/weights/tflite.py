"""TensorFlow Lite files: their constant tensors, 8-bit ones de-quantized, and the names that YAMNet has here.

A file is one flatbuffer (https://flatbuffers.dev/internals): tables whose fields are found through a table of offsets
(the vtable), all little-endian. Only what leads to the constants is read: model → subgraph → tensors → buffers. Field
numbers and type codes are those of TensorFlow Lite's schema, version 3.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from audioset.errors import WeightsFormatError
from audioset.weights.files import map_file

Array: TypeAlias = npt.NDArray[Any]

_MAGIC: Final = b"TFL3"  # at byte 4
_SCHEMA_VERSION: Final = 3

_MODEL_VERSION, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 0, 2, 4
_SUBGRAPH_TENSORS = 0
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_NAME, _TENSOR_QUANTIZATION = range(5)
_QUANTIZATION_SCALE, _QUANTIZATION_ZERO_POINT, _QUANTIZATION_AXIS = 2, 3, 6
_BUFFER_DATA = 0
_YAMNET_NAME: Final = re.compile(r"(?:tower0/)?network/layer(?P<number>\d+)/(?P<kind>conv|sepconv|fc)/")
_DTYPES: Final = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 6: "?", 7: "<i2", 9: "i1", 10: "<f8"}


def is_tflite(head: bytes, _: Path | None = None) -> bool:
    """Return whether a file that begins with `head` (8 bytes or more) is a TensorFlow Lite model."""
    return head[4:8] == _MAGIC


def read(path: Path) -> dict[str, Array]:
    """Return the constant tensors of a model's first subgraph by their names in the file.

    Tensors with a scale are de-quantized to float32, `scale · (stored - zero point)`, per tensor or along the axis that
    the file gives; the others keep their dtype. Shapes are the file's: convolution kernels (out, height, width, in),
    depthwise kernels (1, height, width, channels), matrices (out, in).

    Raises
    ------
    WeightsFormatError
        If the file is not a TensorFlow Lite model, of another schema, or damaged.
    """
    buffer = map_file(path)
    if not is_tflite(bytes(buffer[:8])):
        raise WeightsFormatError(
            f"{path}: begins with {bytes(buffer[:8]).hex() or 'nothing'}; expected a TensorFlow Lite model, which has "
            "TFL3 at byte 4. Check which file this is."
        )
    try:
        return _constants(_Table.root(buffer))
    except (struct.error, ValueError, IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise WeightsFormatError(
            f"{path}: damaged ({error}); expected a whole TensorFlow Lite model of schema version {_SCHEMA_VERSION}. "
            "Fetch it again."
        ) from error


def from_yamnet(tensors: Mapping[str, Array]) -> dict[str, Array] | None:
    """Return the published YAMNet's tensors under our names and in TensorFlow's layouts, or None if these are not its.

    The exporter merged the batch norms into the kernels and biases, and named each tensor after all that went into it:
    `tower0/network/layer1/conv/…`, then one number for each half of a separable layer, `layer2/sepconv/…;…`,
    `layer3/conv/…` and so on, and `layer29/fc/…` (28 would be the average).
    """
    found: dict[str, Array] = {}
    for name, values in tensors.items():
        match = _YAMNET_NAME.match(name)
        if match is None:
            continue
        number, kind = int(match["number"]), match["kind"]
        axes: tuple[int, ...] = (1, 2, 3, 0)
        if kind == "fc":
            layer, axes = "logits", (1, 0)
        else:
            half = "conv" if number == 1 else "depthwise" if kind == "sepconv" else "pointwise"
            layer = f"layer{number // 2 + 1}/{half}" if half == "depthwise" else f"layer{(number + 1) // 2}/{half}"
        if values.ndim == 1:
            found[f"{layer}/biases"] = values
        else:
            found[f"{layer}/weights"] = np.ascontiguousarray(values.transpose(axes))
    return found or None


class _Table:
    """One table of a flatbuffer; every access is checked against the buffer by `struct` and slicing."""

    def __init__(self, buffer: memoryview, position: int) -> None:
        self._buffer = buffer
        self._position = position
        self._vtable = position - int(struct.unpack_from("<i", buffer, position)[0])
        if not 0 <= self._vtable < len(buffer):
            raise ValueError(f"vtable at {self._vtable}")
        self._num_fields = (self._number("<H", self._vtable) - 4) // 2

    @classmethod
    def root(cls, buffer: memoryview) -> _Table:
        return cls(buffer, int(struct.unpack_from("<I", buffer, 0)[0]))

    def _number(self, form: str, position: int) -> int:
        return int(struct.unpack_from(form, self._buffer, position)[0])

    def _field(self, number: int) -> int | None:
        """Position of a field's value, or None if the table leaves it at its default."""
        if number >= self._num_fields:
            return None
        offset = self._number("<H", self._vtable + 4 + 2 * number)
        return self._position + offset if offset else None

    def _target(self, position: int) -> int:
        return position + self._number("<I", position)

    def scalar(self, number: int, form: str) -> int:
        position = self._field(number)
        return 0 if position is None else self._number("<" + form, position)

    def vector(self, number: int, dtype: str) -> Array:
        position = self._field(number)
        if position is None:
            return np.empty(0, dtype)
        start = self._target(position)
        return np.frombuffer(self._buffer, dtype, count=self._number("<I", start), offset=start + 4)

    def text(self, number: int) -> str:
        return self.vector(number, "u1").tobytes().decode()

    def table(self, number: int) -> _Table | None:
        position = self._field(number)
        return None if position is None else _Table(self._buffer, self._target(position))

    def tables(self, number: int) -> list[_Table]:
        position = self._field(number)
        if position is None:
            return []
        start = self._target(position)
        count = self._number("<I", start)
        if start + 4 + 4 * count > len(self._buffer):
            raise ValueError(f"{count} tables at {start}")
        return [_Table(self._buffer, self._target(start + 4 + 4 * i)) for i in range(count)]


def _constants(model: _Table) -> dict[str, Array]:
    version = model.scalar(_MODEL_VERSION, "I")
    if version != _SCHEMA_VERSION:
        raise ValueError(f"schema version {version}")
    buffers = model.tables(_MODEL_BUFFERS)
    found: dict[str, Array] = {}
    for tensor in model.tables(_MODEL_SUBGRAPHS)[0].tables(_SUBGRAPH_TENSORS):
        data = buffers[tensor.scalar(_TENSOR_BUFFER, "I")].vector(_BUFFER_DATA, "u1")
        if len(data):
            stored = data.view(_DTYPES[tensor.scalar(_TENSOR_TYPE, "b")])
            shape = tuple(int(size) for size in tensor.vector(_TENSOR_SHAPE, "<i4"))
            found[tensor.text(_TENSOR_NAME)] = _dequantized(stored.reshape(shape), tensor.table(_TENSOR_QUANTIZATION))
    return found


def _dequantized(stored: Array, quantization: _Table | None) -> Array:
    scale = np.empty(0) if quantization is None else quantization.vector(_QUANTIZATION_SCALE, "<f4")
    if quantization is None or not len(scale):
        return stored
    zero_point = quantization.vector(_QUANTIZATION_ZERO_POINT, "<i8")
    if len(scale) > 1:
        shape = [1] * stored.ndim
        shape[quantization.scalar(_QUANTIZATION_AXIS, "i")] = len(scale)
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    return ((stored.astype(np.float64) - zero_point) * scale).astype(np.float32)

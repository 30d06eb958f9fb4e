"""TensorFlow checkpoints of both formats, read without TensorFlow.

Version 1 is one table (see table.py) whose values are SavedTensorSlices messages: under the empty key what the
variables are, under the others their slices, whole variables being one slice. Version 2 is a table `PREFIX.index` of
BundleEntryProto messages and files `PREFIX.data-?????-of-?????` of raw bytes. Messages are those of TensorFlow's
saved_tensor_slice.proto, tensor_bundle.proto, tensor.proto, tensor_shape.proto and tensor_slice.proto.

Arrays are views of the mapped file wherever it stores them whole and uncompressed.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from audioset._protobuf import (
    Malformed,
    as_bytes,
    as_int,
    as_signed,
    as_text,
    fields,
    masked_crc32c,
    unpack_varints,
)
from audioset.errors import WeightsFormatError
from audioset.weights.files import map_file
from audioset.weights.table import damaged, is_table, located, read_entries

Array: TypeAlias = npt.NDArray[Any]
Extent: TypeAlias = tuple[int, int | None]  # where a slice starts along an axis, and its length or None for all of it

_log = logging.getLogger(__name__)
_MAX_ELEMENTS: Final = 1 << 48
_MAX_RANK: Final = 64  # NumPy's


@dataclass(frozen=True)
class _Kind:
    """How a DataType is stored: raw in version 2; in version 1 in a field of TensorProto, as it is or as varints."""

    name: str
    dtype: str
    proto_field: int
    varints: bool = False


_KINDS: Final = {
    1: _Kind("float", "<f4", 5),
    2: _Kind("double", "<f8", 6),
    3: _Kind("int32", "<i4", 7, varints=True),
    4: _Kind("uint8", "|u1", 7, varints=True),
    5: _Kind("int16", "<i2", 7, varints=True),
    6: _Kind("int8", "|i1", 7, varints=True),
    9: _Kind("int64", "<i8", 10, varints=True),
    10: _Kind("bool", "|b1", 11, varints=True),
    14: _Kind("bfloat16", "<u2", 13, varints=True),
    17: _Kind("uint16", "<u2", 7, varints=True),
    19: _Kind("half", "<f2", 13, varints=True),
    22: _Kind("uint32", "<u4", 16, varints=True),
    23: _Kind("uint64", "<u8", 17, varints=True),
}


@dataclass
class _Variable:
    shape: tuple[int, ...]
    kind: _Kind | None  # None: a type without numbers, such as strings
    pieces: list[tuple[list[Extent], Array]] = field(default_factory=list)


def is_v1(path: Path) -> bool:
    """Return whether the file is a version 1 checkpoint."""
    return is_table(path) and _first_tag(path) == _tag(1, wire_type=2)


def is_v2_index(path: Path) -> bool:
    """Return whether the file is the index of a version 2 checkpoint."""
    return is_table(path) and not is_v1(path)


def read_v1(path: Path) -> dict[str, Array]:
    """Return every numeric variable of a version 1 checkpoint by name, read-only; bfloat16 becomes float32.

    Variables that hold no numbers (strings) are left out, with a note in the log.

    Raises
    ------
    WeightsFormatError
        If the file is damaged or is not such a checkpoint; the message has the byte.
    """
    variables: dict[str, _Variable] = {}
    for entry in read_entries(path):
        with located(path, entry.offset):
            for number, value in fields(entry.value):
                if number == 1 and entry.key == b"":
                    variables = _v1_variables(as_bytes(value))
                elif number == 2:
                    _add_v1_slice(variables, as_bytes(value))
    return _assembled(path, variables)


def read_v2(index: Path) -> dict[str, Array]:
    """Return every numeric variable of a version 2 checkpoint by name, read-only; bfloat16 becomes float32.

    Parameters
    ----------
    index
        The `.index` file; the data files are those beside it with the same prefix.

    Raises
    ------
    WeightsFormatError
        If a file is damaged or missing, or is not such a checkpoint; the message has the byte.
    """
    bundle: dict[bytes, tuple[_BundleEntry, int]] = {}
    num_shards = 0
    big_endian = False
    for entry in read_entries(index):
        with located(index, entry.offset):
            if entry.key == b"":
                num_shards, big_endian = _v2_header(entry.value)
            else:
                bundle[entry.key] = (_v2_entry(entry.value), entry.offset)

    shards: dict[int, tuple[Path, memoryview]] = {}

    def read(stored: _BundleEntry, kind: _Kind) -> Array:
        if not 0 <= stored.shard < num_shards:
            raise Malformed(f"a tensor in data file {stored.shard} of {num_shards}")
        if stored.shard not in shards:
            path = data_files(index, num_shards)[stored.shard]
            shards[stored.shard] = (path, map_file(path))
        path, data = shards[stored.shard]
        end = stored.offset + stored.size
        if not 0 <= stored.offset <= end <= len(data):
            raise damaged(path, len(data), f"the end comes before that of a tensor (bytes {stored.offset} to {end})")
        raw = data[stored.offset : end]
        if masked_crc32c(raw) != stored.crc32c:
            raise damaged(path, stored.offset, f"a tensor of {stored.size} bytes fails its checksum")
        dtype = np.dtype(kind.dtype)
        if stored.size != math.prod(stored.shape) * dtype.itemsize:
            raise Malformed(f"a tensor of {stored.size} bytes that says it is {kind.name} {stored.shape}")
        values: Array = np.frombuffer(raw, dtype.newbyteorder(">") if big_endian else dtype)
        return values.astype(dtype, copy=False)

    variables: dict[str, _Variable] = {}
    for key, (described, offset) in bundle.items():
        if key.startswith(b"\0"):  # a slice: read with its variable
            continue
        with located(index, offset):
            variable = _Variable(described.shape, _KINDS.get(described.data_type))
            variables[as_text(memoryview(key))] = variable
            if variable.kind is None:
                continue
            for extents in described.slices:
                piece, _ = bundle.get(_slice_key(key, extents), (None, 0))
                if piece is None:
                    raise Malformed(f"a variable {key!r} whose slice {extents} is missing")
                variable.pieces.append((extents, read(piece, variable.kind)))
            if not described.slices:
                variable.pieces.append(([(0, None)] * len(described.shape), read(described, variable.kind)))
    return _assembled(index, variables)


def v2_files(index: Path) -> tuple[Path, ...]:
    """Return every file of a version 2 checkpoint, the index first."""
    for entry in read_entries(index):
        with located(index, entry.offset):
            num_shards, _ = _v2_header(entry.value)
        return (index, *data_files(index, num_shards))
    raise damaged(index, 0, "no header")


def data_files(index: Path, num_shards: int) -> tuple[Path, ...]:
    """Return the data files that belong to an index; all must be there."""
    if index.suffix != ".index":
        raise WeightsFormatError(
            f"{index}: the index of a TensorFlow checkpoint; expected a name that ends in .index, because the "
            "data files are found by the rest of it. Give it back its name."
        )
    paths = tuple(index.with_suffix(f".data-{shard:05d}-of-{num_shards:05d}") for shard in range(num_shards))
    for path in paths:
        if not path.is_file():
            raise WeightsFormatError(
                f"{path}: no such file; expected the {num_shards} data file(s) of {index.name} beside it. "
                "Copy them together."
            )
    return paths


def _first_tag(path: Path) -> int | None:
    """Return the first byte of the message under the empty key, which tells the two formats apart."""
    for entry in read_entries(path):
        return entry.value[0] if entry.key == b"" and entry.value else None
    return None


def _tag(number: int, wire_type: int) -> int:
    return number << 3 | wire_type


def _shape(message: memoryview) -> tuple[int, ...]:
    shape = []
    for number, value in fields(message):
        if number == 2:
            sizes = [as_signed(size) for key, size in fields(as_bytes(value)) if key == 1]
            shape.append(sizes[-1] if sizes else 0)  # zero is not written
        elif number == 3 and value:
            raise Malformed("a tensor of unknown rank")
    if len(shape) > _MAX_RANK or min(shape, default=0) < 0 or math.prod(max(1, n) for n in shape) > _MAX_ELEMENTS:
        raise Malformed(f"a tensor of impossible shape {shape[:_MAX_RANK]}")
    return tuple(shape)


def _extents(message: memoryview) -> list[Extent]:
    extents: list[Extent] = []
    for number, value in fields(message):
        if number == 1:
            start, length = 0, None
            for key, number_of in fields(as_bytes(value)):
                if key == 1:
                    start = as_signed(number_of)
                elif key == 2:
                    length = as_signed(number_of)
            extents.append((start, length))
    return extents


def _v1_variables(message: memoryview) -> dict[str, _Variable]:
    variables: dict[str, _Variable] = {}
    for number, value in fields(message):
        if number != 1:
            continue
        name, data_type = "", 0
        shape: tuple[int, ...] = ()
        for key, content in fields(as_bytes(value)):
            if key == 1:
                name = as_text(content)
            elif key == 2:
                shape = _shape(as_bytes(content))
            elif key == 3:
                data_type = as_int(content)
        variables[name] = _Variable(shape, _KINDS.get(data_type))
    return variables


def _add_v1_slice(variables: dict[str, _Variable], message: memoryview) -> None:
    name, extents, data = "", list[Extent](), memoryview(b"")
    for number, value in fields(message):
        if number == 1:
            name = as_text(value)
        elif number == 2:
            extents = _extents(as_bytes(value))
        elif number == 3:
            data = as_bytes(value)
    if name not in variables:
        raise Malformed(f"a slice of {name!r}, which the list of variables does not have")
    variable = variables[name]
    if variable.kind is not None:
        variable.pieces.append((extents, _proto_values(data, variable.kind)))


def _proto_values(message: memoryview, kind: _Kind) -> Array:
    """Return the numbers of a TensorProto, packed or one field each, as a view where they are one run of bytes."""
    dtype = np.dtype(kind.dtype)
    runs: list[Array] = []
    singles: list[int] = []
    for number, value in fields(message):
        if number != kind.proto_field:
            continue
        if not kind.varints:
            raw = as_bytes(value)
            if len(raw) % dtype.itemsize:
                raise Malformed(f"{len(raw)} bytes of {kind.name}s, {dtype.itemsize} bytes each")
            runs.append(np.frombuffer(raw, dtype))
        elif isinstance(value, int):
            singles.append(value)
        else:
            runs.append(_from_varints(unpack_varints(value), dtype))
    if singles:
        runs.append(_from_varints(np.array(singles, np.uint64), dtype))
    if len(runs) == 1:
        return runs[0]
    return np.concatenate(runs) if runs else np.empty(0, dtype)


def _from_varints(values: npt.NDArray[np.uint64], dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "f":  # a half travels as the 16 bits that it is
        return values.astype(np.uint16).view(dtype)
    return values.view(np.int64).astype(dtype)


@dataclass(frozen=True)
class _BundleEntry:
    data_type: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc32c: int
    slices: tuple[list[Extent], ...]


def _v2_header(message: memoryview) -> tuple[int, bool]:
    num_shards, endianness = 0, 0
    for number, value in fields(message):
        if number == 1:
            num_shards = as_signed(value)
        elif number == 2:
            endianness = as_int(value)
    if not 1 <= num_shards < 100_000 or endianness > 1:
        raise Malformed(f"a header with {num_shards} data files and byte order {endianness}")
    return num_shards, endianness == 1


def _v2_entry(message: memoryview) -> _BundleEntry:
    numbers = {1: 0, 3: 0, 4: 0, 5: 0}
    shape: tuple[int, ...] = ()
    crc32c = 0
    slices = []
    for number, value in fields(message):
        if number in numbers:
            numbers[number] = as_signed(value)
        elif number == 2:
            shape = _shape(as_bytes(value))
        elif number == 6:
            crc32c = int.from_bytes(as_bytes(value), "little")
        elif number == 7:
            slices.append(_extents(as_bytes(value)))
    return _BundleEntry(numbers[1], shape, numbers[3], numbers[4], numbers[5], crc32c, tuple(slices))


def _slice_key(name: bytes, extents: Sequence[Extent]) -> bytes:
    """Return the key under which the index has a slice: TensorFlow's order-preserving code of name and extents."""
    escaped = re.sub(rb"[\0\xff]", lambda byte: byte[0] + bytes([byte[0][0] ^ 0xFF]), name)
    key = b"\0" + escaped + b"\0\1" + _unsigned_code(len(extents))
    for start, length in extents:
        key += _signed_code(start) + _signed_code(-1 if length is None else length)
    return key


def _unsigned_code(number: int) -> bytes:
    digits = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes([len(digits)]) + digits


def _signed_code(number: int) -> bytes:
    """Return n bytes that hold n header bits (ones, then the inverted sign) and 7n - 1 bits of the number."""
    magnitude = ~number if number < 0 else number
    num_bytes = magnitude.bit_length() // 7 + 1
    header = ((1 << num_bytes) - 1) << (7 * num_bytes)
    bits = 8 * num_bytes
    return ((number & (1 << bits) - 1) ^ header).to_bytes(num_bytes, "big")


def _assembled(path: Path, variables: dict[str, _Variable]) -> dict[str, Array]:
    tensors = {}
    for name, variable in variables.items():
        if variable.kind is None:
            _log.info("%s: %s holds no numbers and is left out", path, name)
            continue
        with located(path, 0, f"{name} has "):
            values = _whole(variable)
        if variable.kind.name == "bfloat16":  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        values.flags.writeable = False
        tensors[name] = values
    return tensors


def _whole(variable: _Variable) -> Array:
    """Return the variable's array, put together from pieces that must cover each element exactly once."""
    total = math.prod(variable.shape)
    placed = []
    for extents, values in variable.pieces:
        if len(extents) != len(variable.shape):
            raise Malformed(f"{len(variable.shape)} axes and a slice of {len(extents)}")
        where: list[slice] = []
        shape: list[int] = []
        for (start, length), size in zip(extents, variable.shape, strict=True):
            stop = size if length is None else start + length
            if not 0 <= start <= stop <= size:
                raise Malformed(f"{size} elements along an axis and a slice from {start} to {stop}")
            where.append(slice(start, stop))
            shape.append(stop - start)
        if values.size != math.prod(shape):
            raise Malformed(f"a slice of shape {tuple(shape)} with {values.size} values")
        placed.append((tuple(where), values.reshape(shape)))
    if sum(values.size for _, values in placed) != total or not placed:
        raise Malformed(f"shape {variable.shape} and slices that do not fill it")
    if len(placed) == 1:
        return placed[0][1]
    whole = np.empty(variable.shape, placed[0][1].dtype)
    filled = np.zeros(variable.shape, bool)
    for region, values in placed:
        whole[region] = values
        filled[region] = True
    if not filled.all():
        raise Malformed(f"shape {variable.shape} and slices that overlap")
    return whole

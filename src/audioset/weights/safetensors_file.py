"""Safetensors files: mapped and checked when read, whole or absent when written.

The format (https://github.com/huggingface/safetensors#format) is the length of a JSON header, the header, and the
tensors' bytes. The library writes it; reading is done here because the library copies every tensor into memory.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from audioset._files import written_whole
from audioset.errors import WeightsFormatError
from audioset.weights.files import map_file

Array: TypeAlias = npt.NDArray[Any]

_LENGTH_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 100_000_000  # the format's own limit
_MAX_RANK: Final = 64  # NumPy's
_MAX_ELEMENTS: Final = 1 << 48
_DTYPES: Final = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}


def is_safetensors(head: bytes, path: Path) -> bool:
    """Return whether the file begins as a safetensors file does: a length that fits, then an opening brace."""
    if len(head) <= _LENGTH_BYTES or head[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:_LENGTH_BYTES])
    return bool(length <= _MAX_HEADER_BYTES)


def read(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the tensors by name, read-only views of the mapped file (BF16 as float32), and the file's metadata.

    Raises
    ------
    WeightsFormatError
        If the header is not as the format demands, or the tensors do not fill the rest of the file exactly.
    """
    data = map_file(path)
    header, start = _header(path, data)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, _LENGTH_BYTES, "metadata that is not text")

    body = data[start:]
    tensors: dict[str, Array] = {}
    spans = []
    for name, described in header.items():
        dtype, shape, begin, end = _described(path, name, described)
        if not 0 <= begin <= end <= len(body):
            raise _damaged(path, start, f"{name} at bytes {begin} to {end} of {len(body)}")
        stored = np.dtype(_DTYPES[dtype])
        if end - begin != math.prod(shape) * stored.itemsize:
            raise _damaged(path, start + begin, f"{name}, {dtype} {list(shape)} in {end - begin} bytes")
        values = np.frombuffer(body[begin:end], stored).reshape(shape)
        tensors[name] = _widened(values) if dtype == "BF16" else values
        spans.append((begin, end))
    free_from = 0
    for begin, end in sorted(spans):
        if begin != free_from:
            raise _damaged(path, start + free_from, "tensors that overlap or leave a gap")
        free_from = end
    if free_from != len(body):
        raise _damaged(path, start + free_from, f"{len(body) - free_from} bytes after the last tensor")
    return tensors, metadata


def spans(path: Path) -> dict[str, tuple[int, int]]:
    """Return where in the file each tensor's bytes are, as (offset, length), of a file that `read` has accepted."""
    header, start = _header(path, map_file(path))
    header.pop("__metadata__", None)
    offsets = {name: described["data_offsets"] for name, described in header.items()}
    return {name: (start + begin, end - begin) for name, (begin, end) in offsets.items()}


def write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all; what was at `path` is replaced.

    Raises
    ------
    OutputError
        If the folder cannot be written to or the disk is full.
    """
    import safetensors
    import safetensors.numpy

    with written_whole(path) as temporary:
        try:
            safetensors.numpy.save_file(dict(tensors), temporary, metadata=dict(metadata))
        except safetensors.SafetensorError as error:  # which is how the library reports a full disk
            raise OSError(str(error)) from error


def _damaged(path: Path, offset: int, found: str) -> WeightsFormatError:
    return WeightsFormatError(
        f"{path}: {found}, at byte {offset}; expected a whole safetensors file. "
        "The file is damaged or cut short: fetch, copy or convert it again."
    )


def _header(path: Path, data: memoryview) -> tuple[dict[str, Any], int]:
    """Return the header and where the tensors' bytes begin."""
    if len(data) < _LENGTH_BYTES:
        raise _damaged(path, 0, f"{len(data)} bytes, too few for a header")
    (header_bytes,) = struct.unpack("<Q", data[:_LENGTH_BYTES])
    start = _LENGTH_BYTES + header_bytes
    if header_bytes > _MAX_HEADER_BYTES or start > len(data):
        raise _damaged(path, 0, f"a header of {header_bytes} bytes that runs past the end")
    return _parsed(path, data[_LENGTH_BYTES:start]), start


def _parsed(path: Path, header: memoryview) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            raise ValueError("a name that occurs twice")
        return content

    try:
        content = json.loads(bytes(header), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, _LENGTH_BYTES, f"a header that cannot be parsed ({error})") from error
    if not isinstance(content, dict):
        raise _damaged(path, _LENGTH_BYTES, "a header that is not an object")
    return content


def _described(path: Path, name: str, described: Any) -> tuple[str, tuple[int, ...], int, int]:
    match described:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **others} if not others:
            numbers = [*shape, begin, end]
            whole = all(type(number) is int and number >= 0 for number in numbers)
            # An empty tensor may claim any size along its other axes, so those are bounded too.
            if (
                dtype in _DTYPES
                and whole
                and len(shape) <= _MAX_RANK
                and math.prod(n or 1 for n in shape) < _MAX_ELEMENTS
            ):
                return dtype, tuple(shape), begin, end
    raise _damaged(path, _LENGTH_BYTES, f"{name} described as {described!r:.200}")


def _widened(values: Array) -> Array:
    wide: Array = (values.astype(np.uint32) << 16).view(np.float32)  # BF16 is the upper half of a float32
    wide.flags.writeable = False
    return wide

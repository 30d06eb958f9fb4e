"""The file of an index: what USearch wrote, tables of rows and files, a description; checked before it is used.

==============  ================================================================================================
usearch         the graph with its vectors, as USearch saves it: float16, cosine, keys are row numbers
``start_s``     float64 (rows,)
``end_s``       float64 (rows,)
``norm``        float32 (rows,): length of each vector before it was made a unit
``first_row``   uint64 (files + 1,): rows of file i are ``first_row[i]`` to ``first_row[i + 1]``
``name_end``    uint64 (files + 1,): its name is ``names[name_end[i]:name_end[i + 1]]``, UTF-8
``names``       bytes
``mean``        float32 (dim,): what was subtracted from every vector
JSON            rows, files, dim, metric, pool, the job, the version of USearch; place and CRC-32C of each part
footer          place, size and CRC-32C of the JSON, version of the layout, 16 bytes that name the format
==============  ================================================================================================

All integers are little-endian; each part begins at a multiple of 64 bytes.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from audioset.errors import RecordError
from audioset.records.info import JobInfo, job_from

LAYOUT = 1

_MAGIC = b"audioset index\r\n"
_FOOTER = struct.Struct("<QIII16s")  # place, size and CRC of the JSON, layout, magic
_ALIGNMENT = 64
_PIECE_BYTES = 1 << 22
_GRAPH = "usearch"
_TYPES = {
    "start_s": "<f8",
    "end_s": "<f8",
    "norm": "<f4",
    "first_row": "<u8",
    "name_end": "<u8",
    "names": "|u1",
    "mean": "<f4",
}


@dataclass(frozen=True)
class About:
    """What an index says of itself.

    Attributes
    ----------
    job
        What its vectors are embeddings of, and by which model.
    metric, pool
        How they are compared, and whether a vector is an example's or a file's.
    rows, files
        Vectors, and files that they are of.
    usearch
        Version of the library that wrote the graph.
    """

    job: JobInfo
    metric: str
    pool: str
    rows: int
    files: int
    usearch: str


@dataclass(frozen=True, eq=False)
class Opened:
    """An index file that is whole, mapped into memory.

    Attributes
    ----------
    about
        What it says of itself.
    graph
        What USearch wrote.
    arrays
        The tables, by name, read-only.
    """

    about: About
    graph: memoryview
    arrays: Mapping[str, npt.NDArray[Any]]


def append_tables(path: Path, about: About, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Make an index of a file that USearch wrote: put the tables and the footer behind what is in it."""
    with path.open("r+b") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        places = {_GRAPH: [0, size, _crc_of_stream(stream, size)]}
        for name, dtype in _TYPES.items():
            stream.seek(0, 2)
            stream.write(bytes(-stream.tell() % _ALIGNMENT))
            data = np.ascontiguousarray(arrays[name], dtype).tobytes()
            places[name] = [stream.tell(), len(data), _crc(data)]
            stream.write(data)
        text = json.dumps({**asdict(about), "dim": about.job.embedding_dim, "parts": places}).encode()
        at = stream.tell()
        stream.write(text + _FOOTER.pack(at, len(text), _crc(text), LAYOUT, _MAGIC))


def open_file(path: Path) -> Opened:
    """An index file, after every byte of it has been checked.

    USearch trusts what it is given, and damage could end the process: so it is given nothing that was not verified.

    Raises
    ------
    RecordError
        The file is missing, no index, damaged, or of a later layout.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            if size < _FOOTER.size:
                raise _not_an_index(path)
            stream.seek(size - _FOOTER.size)
            at, length, crc, layout, magic = _FOOTER.unpack(stream.read(_FOOTER.size))
            if magic != _MAGIC:
                raise _not_an_index(path)
            if layout != LAYOUT:
                raise RecordError(
                    f"{path}: an index in layout {layout}, this version of audioset reads layout {LAYOUT}; use the "
                    "version that wrote it, or build it again"
                )
            if at + length + _FOOTER.size != size:
                raise _damaged(path, f"{size:,} bytes, {at + length + _FOOTER.size:,} by its footer")
            stream.seek(at)
            text = stream.read(length)
            if _crc(text) != crc:
                raise _damaged(path, "its description does not match its checksum")
            about, places = _read_about(text, path)
            for name, (begin, count, expected) in places.items():
                if min(begin, count) < 0 or begin + count > at or count % np.dtype(_TYPES.get(name, "u1")).itemsize:
                    raise _damaged(path, f"{name} would be {count:,} bytes from {begin:,} on")
                stream.seek(begin)
                if _crc_of_stream(stream, count) != expected:
                    raise _damaged(path, f"{name} does not match its checksum")
            mapped = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise RecordError(
            f"{path}: cannot be opened ({error.strerror or error}); expected an index that `audioset index build` wrote"
        ) from error
    arrays = {
        name: np.frombuffer(mapped[begin : begin + count], _TYPES[name])
        for name, (begin, count, _) in places.items()
        if name != _GRAPH
    }
    _check_lengths(arrays, about, path)
    return Opened(about, mapped[: places[_GRAPH][1]], arrays)


def _read_about(text: bytes, path: Path) -> tuple[About, dict[str, tuple[int, int, int]]]:
    try:
        found = json.loads(text)
        places = {}
        for name in (_GRAPH, *_TYPES):
            begin, count, crc = found["parts"][name]
            places[name] = int(begin), int(count), int(crc)
        about = About(
            job=job_from(found["job"], path),
            metric=str(found["metric"]),
            pool=str(found["pool"]),
            rows=int(found["rows"]),
            files=int(found["files"]),
            usearch=str(found["usearch"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _damaged(path, f"its description lacks something: {error!r}") from error
    return about, places


def _check_lengths(arrays: Mapping[str, npt.NDArray[Any]], about: About, path: Path) -> None:
    expected = dict.fromkeys(("start_s", "end_s", "norm"), about.rows)
    expected |= {"first_row": about.files + 1, "name_end": about.files + 1, "mean": about.job.embedding_dim}
    for name, length in expected.items():
        if len(arrays[name]) != length:
            raise _damaged(path, f"{name} has {len(arrays[name]):,} entries, not {length}")
    for name, total in (("first_row", about.rows), ("name_end", len(arrays["names"]))):
        ends = arrays[name]
        if ends[0] != 0 or ends[-1] != total or (ends[1:] < ends[:-1]).any():
            raise _damaged(path, f"{name} does not go from 0 to {total:,}")


def _crc(data: bytes) -> int:
    import google_crc32c

    return int(google_crc32c.value(data))


def _crc_of_stream(stream: IO[bytes], count: int) -> int:
    import google_crc32c

    crc = 0
    while count > 0:
        piece = stream.read(min(count, _PIECE_BYTES))
        if not piece:
            return -1
        crc = int(google_crc32c.extend(crc, piece))
        count -= len(piece)
    return crc


def _not_an_index(path: Path) -> RecordError:
    return RecordError(
        f"{path}: no index, or one that was cut short (it does not end as an index does); expected a file that "
        "`audioset index build` wrote, whole. Build it again"
    )


def _damaged(path: Path, found: str) -> RecordError:
    return RecordError(f"{path}: damaged ({found}); expected the file as it was written. Build it again")

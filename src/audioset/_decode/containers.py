"""What the first and last bytes of an audio file say, where the decoders themselves keep silent about it.

libsndfile reads a WAV that was cut short as if it were whole, an unfinished one as empty, only the first of several
chained Ogg streams, and prints about damaged MPEG audio on the terminal. A look at the header tells beforehand.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True)
class Facts:
    """What `inspect` found.

    Attributes
    ----------
    for_libsndfile : bool
        libsndfile knows this kind of file and reads all of it.
    shortage : str or None
        What of the promised audio is missing, as the part of a sentence; None where nothing is known to be.
    """

    for_libsndfile: bool
    shortage: str | None = None


@dataclass(frozen=True)
class _ChunkLayout:
    """How a file made of chunks lays them out: each is an identifier, a size, and that many bytes."""

    first: int
    size_format: str
    identifier: int = 4
    alignment: int = 2
    size_has_header: bool = False


_CHUNKED = {
    b"RIFF": _ChunkLayout(first=12, size_format="<I"),
    b"RF64": _ChunkLayout(first=12, size_format="<I"),
    b"RIFX": _ChunkLayout(first=12, size_format=">I"),
    b"FORM": _ChunkLayout(first=12, size_format=">I"),
    b"riff": _ChunkLayout(first=40, size_format="<Q", identifier=16, alignment=8, size_has_header=True),
    b"caff": _ChunkLayout(first=8, size_format=">q", alignment=1),
}
_MAX_CHUNKS = 10_000
_MPEG_IN_WAV = (b"\x50", b"\x55")  # one byte of the tag in either byte order; no other format has one of these
_MPEG_TOLERANCE = 0.99  # encoders count their own first frame and tags, or not
_OGG_LONGEST_PAGE = 27 + 255 + 255 * 255


def inspect(file: BinaryIO, size: int) -> Facts:
    """Which decoder should read `file` of `size` bytes, and whether it is known to be cut short."""
    file.seek(0)
    head = file.read(12)
    magic = head[:4]
    if magic in (b"RIFF", b"RF64", b"RIFX") and head[8:] != b"WAVE":
        return Facts(False)  # AVI, for one
    if magic in _CHUNKED:
        return _inspect_chunked(file, size, magic)
    if magic == b".snd" and len(head) == 12:
        offset, promised = struct.unpack(">II", head[4:])
        return Facts(True, _shortage(promised, size - offset))
    if magic == b"OggS":
        return _inspect_ogg(file, size)
    if magic == b"fLaC":
        return Facts(True)
    return Facts(False, _mpeg_shortage(file, size, head))


def _inspect_chunked(file: BinaryIO, size: int, magic: bytes) -> Facts:
    for_libsndfile, long_size = True, 0
    for identifier, promised, start in _chunks(file, size, _CHUNKED[magic]):
        if identifier == b"fmt ":
            tag = file.read(2)
            for_libsndfile = not (tag[:1] in _MPEG_IN_WAV or tag[1:] in _MPEG_IN_WAV)
        elif identifier == b"ds64":
            long_size = int.from_bytes(file.read(16)[8:], "little")
        elif identifier in (b"data", b"SSND"):
            found = size - start
            if magic == b"RF64" and promised == 0xFFFFFFFF:
                promised = long_size
            if magic == b"RIFF" and found > promised and (promised == 0 or _is_placeholder(promised)):
                # Never finished, or longer than its fields can say. A finished file without samples ends where it says.
                file.seek(4)
                return Facts(for_libsndfile=int.from_bytes(file.read(4), "little") + 8 == size)
            return Facts(for_libsndfile, _shortage(promised, found))
    return Facts(for_libsndfile, None if magic in (b"FORM", b"caff") else "its header ends before any audio")


def _chunks(file: BinaryIO, size: int, layout: _ChunkLayout) -> Iterator[tuple[bytes, int, int]]:
    """(first four bytes of the identifier, size, position) of each chunk's content; the file stands at the position."""
    header = layout.identifier + struct.calcsize(layout.size_format)
    position = layout.first
    for _ in range(_MAX_CHUNKS):
        if position + header > size:  # by more than can be sought, perhaps
            return
        file.seek(position)
        fields = file.read(header)
        if len(fields) < header:
            return
        (length,) = struct.unpack(layout.size_format, fields[layout.identifier :])
        if layout.size_has_header:
            length -= header
        yield fields[:4], length, position + header
        if length < 0:
            return
        position += header + -(-length // layout.alignment) * layout.alignment


def _is_placeholder(promised: int) -> bool:
    """Whether a size is one that programs write while they cannot know it yet (to a pipe, say)."""
    in_32_bits = 0x7F000000 <= promised <= 0x80000000 or 0xFFFF0000 <= promised <= 0xFFFFFFFF
    return in_32_bits or promised <= 0 or promised >= 2**62


def _shortage(promised: int, found: int) -> str | None:
    if _is_placeholder(promised) or found >= promised:
        return None
    return f"{max(found, 0):,} of the {promised:,} bytes of audio that its header promises are there"


def _mpeg_shortage(file: BinaryIO, size: int, head: bytes) -> str | None:
    """What is missing of an MP3 whose first frame says how long it is; files that were cut often keep that frame."""
    start = 0
    if head[:3] == b"ID3" and len(head) >= 10:
        length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        start = 10 + length
    file.seek(start)
    frame = file.read(64)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16 or frame[0] != 0xFF:
        return None
    flags, _, promised = struct.unpack(">III", frame[at + 4 : at + 16])
    found = size - start
    return _shortage(promised, found) if flags & 3 == 3 and found < _MPEG_TOLERANCE * promised else None


def _inspect_ogg(file: BinaryIO, size: int) -> Facts:
    file.seek(14)
    first_stream = file.read(4)
    tail_start = max(0, size - 2 * _OGG_LONGEST_PAGE)
    file.seek(tail_start)
    tail = file.read(size - tail_start)
    page = tail.rfind(b"OggS\0")
    if page < 0:
        return Facts(True)
    num_segments = tail[page + 26] if len(tail) > page + 26 else 256
    segments = tail[page + 27 : page + 27 + num_segments]
    if len(segments) < num_segments or page + 27 + num_segments + sum(segments) > len(tail):
        return Facts(True, "it ends in the middle of an Ogg page")
    return Facts(for_libsndfile=tail[page + 14 : page + 18] == first_stream)

"""Archives that pass by once: a stream of pieces, decompressed and checked, and tar headers that hide no damage.

Whatever ends a stream early is kept, with the byte at which it did, so that all before it can be used.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

TAR_BLOCK_BYTES = 512
_MAX_HEADER_BYTES = 1 << 20  # of a member's long name and other attributes, which `tarfile` reads whole
_HEADER_TYPES = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
)  # fmt: skip
_GZIP_WBITS = 31  # zlib's number for gzip's header and checksum
PIECE_BYTES = 1 << 15  # of compressed data; even of the emptiest content that is 32 MiB at most
_GZIP_MAGIC = b"\x1f\x8b"
_PLAIN_BYTES = 1 << 20  # of what is not compressed, at once


class StreamDamage(Exception):  # noqa: N818  (never reaches users: it becomes an error that names the file)
    """A file or archive cannot be read beyond a byte."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset


class Forward:
    """A stream of pieces that pass by once; when no more can be had because of damage, it ends and keeps the reason."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.damage: StreamDamage | None = None
        self._pieces = pieces
        self._piece = b""
        self._used = 0
        self._position = 0

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or fewer at the end."""
        parts = []
        while size and (self._used < len(self._piece) or self._next()):
            part = self._piece[self._used : self._used + size]
            self._used += len(part)
            self._position += len(part)
            size -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def peek(self, size: int) -> bytes:
        """What `read` will give."""
        head = self.read(size)
        self._piece, self._used = head + self._piece[self._used :], 0
        self._position -= len(head)
        return head

    def tell(self) -> int:
        """How many bytes have passed."""
        return self._position

    def seek(self, position: int) -> int:
        """Let bytes pass, up to `position` or the end."""
        while self._position < position and self.read(min(position - self._position, PIECE_BYTES)):
            pass
        return self._position

    def _next(self) -> bool:
        try:
            self._piece, self._used = next(self._pieces, b""), 0
        except StreamDamage as damage:
            self.damage = damage
            self._piece, self._used = b"", 0
        return bool(self._piece)


class TarEntry(tarfile.TarInfo):
    """A member of an archive; unlike `tarfile`'s own, damage is not taken for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            entry = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == TAR_BLOCK_BYTES and not any(buf):  # the mark at the end
                raise
            raise tarfile.ReadError(f"{error} where a member's or the end mark belongs") from error
        if entry.type in _HEADER_TYPES and entry.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a member's attributes of {entry.size:,} bytes")
        return entry


def uncompressed(file: IO[bytes]) -> Iterator[bytes]:
    """The content of a file, decompressed if it was compressed with gzip."""
    offset = 0
    try:
        piece = file.read(PIECE_BYTES)
        if piece.startswith(_GZIP_MAGIC):
            yield from _gunzipped(piece, file)
            return
        while piece:
            yield piece
            offset += len(piece)
            piece = file.read(_PLAIN_BYTES)
    except OSError as error:
        raise StreamDamage(
            offset, f"cannot be read beyond byte {offset:,} ({error.strerror}); check the disk"
        ) from error


def _gunzipped(piece: bytes, file: IO[bytes]) -> Iterator[bytes]:
    """The content of gzip's members, checked, one after another; `piece` is the start of the file."""
    offset = 0  # of `piece`
    unzip = None
    while piece:
        length = len(piece)
        while piece:
            if unzip is None:
                piece = piece.lstrip(b"\0")  # padding, as block devices leave it
                unzip = zlib.decompressobj(wbits=_GZIP_WBITS) if piece else None
                continue
            before = unzip.copy()
            try:
                data = unzip.decompress(piece)
            except zlib.error as error:
                data, good = _salvaged(before, piece)
                if data:
                    yield data
                at = offset + length - len(piece) + good
                raise StreamDamage(
                    at, f"the compressed data is damaged at byte {at:,} ({error}); get the file again"
                ) from error
            if data:
                yield data
            piece = unzip.unused_data
            if unzip.eof:
                unzip = None
        offset += length
        piece = file.read(PIECE_BYTES)
    if unzip is not None:
        raise StreamDamage(
            offset, f"ends at byte {offset:,}, within the compressed data; it is incomplete, get the file again"
        )


def _salvaged(unzip: zlib._Decompress, piece: bytes) -> tuple[bytes, int]:
    """What can be had of a damaged piece, of which zlib gives nothing when given it whole, and from how many bytes."""
    data = bytearray()
    for index in range(len(piece)):
        try:
            data += unzip.decompress(piece[index : index + 1])
        except zlib.error:
            return bytes(data), index
    return bytes(data), len(piece)

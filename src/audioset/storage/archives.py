"""Audio in tar and zip archives, wherever they are: one after another as the archive streams by, or one by its name.

Nothing is unpacked to where members say they belong, so none can leave a folder. A member comes as bytes in memory, a
large one in a temporary file without a name.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from audioset.dataset._sources import _Broken, _Entry, _Forward, _gunzipped
from audioset.errors import AudioError, AudioSetError
from audioset.storage.base import PIECE_BYTES
from audioset.storage.filesystems import storage_of
from audioset.storage.names import is_audio, is_url, location, member_name
from audioset.storage.reading import open_remote
from audioset.storage.troubles import of_error, unreadable

MAX_MEMBER_BYTES = 1 << 34
_MAX_RATIO = 1000  # of a zip's member to what it is compressed to; deflate cannot do more than 1,032
_GZIP_MAGIC = b"\x1f\x8b"
_KEPT_INDEXES = 4

Room = Callable[[str, int], bool]
"""Given a member's name and size, says whether its bytes may be held in memory."""


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes
    ----------
    name : str
        In the archive.
    content : BinaryIO or AudioError
        Its bytes, or why they cannot be had.
    """

    name: str
    content: BinaryIO | AudioError


def members(archive: str, wanted: Callable[[str], bool], room: Room) -> Generator[Member, None, None]:
    """Yield the audio of an archive, a path or a URL, as it streams by.

    Parameters
    ----------
    archive : str
        A tar, also compressed with gzip, of which one stream is read; or a zip, by its directory.
    wanted : callable
        Whether a member is to be given, by its name there.
    room : callable
        Whether a member may be held in memory; what may not goes to a temporary file.

    Raises
    ------
    AudioError
        The archive cannot be had, or is damaged: after the members before the damage.
    """
    if archive.lower().endswith(".zip"):
        yield from _zip_members(archive, wanted, room)
    else:
        yield from _tar_members(archive, wanted, room)


def open_member(archive: str, member: str) -> BinaryIO:
    """Return one file of an archive, seekable; AudioError where it cannot be had."""
    name = member_name(archive, member)
    if archive.lower().endswith(".zip"):
        return _zip_member(archive, member, name)
    if archive.lower().endswith((".gz", ".tgz")):
        for found in _tar_members(archive, lambda other: other == member, lambda _, size: size <= PIECE_BYTES):
            if isinstance(found.content, AudioError):
                raise found.content
            return found.content
        raise _no_member(name)
    index = _index(archive)
    if member not in index:
        raise _no_member(name)
    start, size = index[member]
    return cast(BinaryIO, io.BufferedReader(_Part(_open(archive), start, size, name), PIECE_BYTES))


class Held(io.BytesIO):
    """Bytes in memory as a file of a name."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.name = name


class _Part(io.RawIOBase):
    """Some bytes of a file, which it closes."""

    def __init__(self, file: BinaryIO, start: int, size: int, name: str) -> None:
        self.name = name
        self._file, self._start, self._size = file, start, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        self._file.seek(self._start + self._position)
        data = self._file.read(left if size < 0 else min(size, left))
        self._position += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _open(archive: str) -> BinaryIO:
    if is_url(archive):
        return open_remote(archive)
    try:
        return Path(archive).open("rb")
    except OSError as error:
        raise AudioError(
            f"{archive}: cannot be opened ({error.strerror}); expected an archive. Check the path"
        ) from error


def _pieces(archive: str) -> Generator[bytes, None, None]:
    """The content of an archive as one stream."""
    if is_url(archive):
        where = location(archive)
        yield from storage_of(where).stream(where.path)
        return
    with _open(archive) as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


class _Pieces:
    """An iterator of bytes as something to read from, a piece at a time."""

    def __init__(self, pieces: Iterator[bytes], first: bytes) -> None:
        self._pieces, self._first = pieces, first

    def read(self, size: int) -> bytes:
        if not self._first:
            self._first = next(self._pieces, b"")
        data, self._first = self._first[:size], self._first[size:]
        return data


def _uncompressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    first = next(pieces, b"")
    if first.startswith(_GZIP_MAGIC):
        source = _Pieces(pieces, first)
        yield from _gunzipped(source.read(1 << 15), cast("IO[bytes]", source))
        return
    yield first
    yield from pieces


def _tar_members(archive: str, wanted: Callable[[str], bool], room: Room) -> Iterator[Member]:
    with closing(_pieces(archive)) as pieces:
        try:
            stream = _Forward(_uncompressed(pieces))
            for entry in _entries(stream, archive):
                if not (entry.isreg() and is_audio(entry.name) and wanted(entry.name)):
                    continue
                name = member_name(archive, entry.name)
                if entry.size > MAX_MEMBER_BYTES or entry.issparse():
                    yield Member(entry.name, _too_large(name, entry.size) if not entry.issparse() else _sparse(name))
                    continue
                content = _content(name, entry.size, stream.read, room)
                if content is None:
                    if stream.damage is None:
                        stream.damage = _Broken(stream.tell(), f"ends within {entry.name}")
                    break
                yield Member(entry.name, content)
            if stream.damage is not None:
                raise AudioError(
                    f"{archive}: damaged or incomplete at its byte {stream.tell():,} ({stream.damage}); expected a "
                    "whole archive. The members before it were read; copy or make it again"
                )
        except AudioSetError:
            raise
        except Exception as error:
            raise unreadable(archive, of_error(error)) from error


def _entries(stream: _Forward, archive: str) -> Iterator[tarfile.TarInfo]:
    """The members of a tar; what ends it early is left in `stream.damage`."""
    try:
        with tarfile.TarFile(
            fileobj=cast("IO[bytes]", stream), tarinfo=_Entry, encoding="utf-8", errors="surrogateescape"
        ) as tar:
            while (entry := tar.next()) is not None:
                yield entry
                cast(Any, tar).members.clear()  # an archive may have millions
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if stream.damage is None:
            stream.damage = _Broken(stream.tell(), str(error))


def _content(name: str, size: int, read: Callable[[int], bytes], room: Room) -> BinaryIO | None:
    """A member's bytes, None where they end early."""
    if room(name, size):
        data = read(size)
        return Held(name, data) if len(data) == size else None
    with ExitStack() as stack:
        spool = stack.enter_context(tempfile.TemporaryFile())
        left = size
        while left and (piece := read(min(left, PIECE_BYTES))):
            spool.write(piece)
            left -= len(piece)
        if left:
            return None
        spool.seek(0)
        stack.pop_all()
    return cast(BinaryIO, io.BufferedReader(_Part(cast(BinaryIO, spool), 0, size, name)))


def _zip_members(archive: str, wanted: Callable[[str], bool], room: Room) -> Iterator[Member]:
    with _opened_zip(archive) as packed:
        for info in packed.infolist():
            if info.is_dir() or not is_audio(info.filename) or not wanted(info.filename):
                continue
            yield Member(info.filename, _unzipped(packed, info, member_name(archive, info.filename), room))


def _opened_zip(archive: str) -> zipfile.ZipFile:
    file = _open(archive)
    try:
        return _Zip(file)
    except AudioSetError:
        file.close()
        raise
    except Exception as error:  # damaged directories raise a lot
        file.close()
        raise AudioError(
            f"{archive}: damaged or incomplete ({error}); expected a whole zip archive. Copy or make it again"
        ) from error


class _Zip(zipfile.ZipFile):
    """A zip archive that closes the file that it was given."""

    def __init__(self, file: BinaryIO) -> None:
        self._given = file
        super().__init__(file)

    def close(self) -> None:
        super().close()
        self._given.close()


def _unzipped(packed: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, room: Room) -> BinaryIO | AudioError:
    if info.file_size > MAX_MEMBER_BYTES or info.file_size > _MAX_RATIO * max(info.compress_size, 1) + PIECE_BYTES:
        return _too_large(name, info.file_size)
    try:
        with packed.open(info) as file:
            content = _content(name, info.file_size, file.read, room)
        if content is None:
            raise EOFError("it ends early")
    except AudioError as error:
        return error
    except Exception as error:  # of damaged data, foreign compression and encryption
        return AudioError(f"{name}: cannot be unpacked ({error}); expected an undamaged member. Make the archive again")
    return content


def _zip_member(archive: str, member: str, name: str) -> BinaryIO:
    with _opened_zip(archive) as packed:
        try:
            info = packed.getinfo(member)
        except KeyError as error:
            raise _no_member(name) from error
        content = _unzipped(packed, info, name, lambda _, size: size <= PIECE_BYTES)
    if isinstance(content, AudioError):
        raise content
    return content


_indexes: OrderedDict[str, dict[str, tuple[int, int]]] = OrderedDict()
_indexes_lock = threading.Lock()


def _index(archive: str) -> dict[str, tuple[int, int]]:
    """Where in a tar its files start, and how many bytes they have; the last few tars' are kept."""
    with _indexes_lock:
        if archive in _indexes:
            _indexes.move_to_end(archive)
            return _indexes[archive]
    index = {}
    with _open(archive) as file:
        try:
            with tarfile.TarFile(fileobj=file, tarinfo=_Entry, encoding="utf-8", errors="surrogateescape") as tar:
                while (entry := tar.next()) is not None:
                    if entry.isreg() and not entry.issparse():
                        index[entry.name] = (entry.offset_data, entry.size)
                    cast(Any, tar).members.clear()
        except (tarfile.TarError, ValueError, OverflowError) as error:
            if not index:
                raise AudioError(f"{archive}: not a tar archive ({error}); expected one. Check the file") from error
    with _indexes_lock:
        _indexes[archive] = index
        while len(_indexes) > _KEPT_INDEXES:
            _indexes.popitem(last=False)
    return index


def _no_member(name: str) -> AudioError:
    return AudioError(f"{name}: no such file in the archive; expected the name of a member. List them with `tar tf`")


def _too_large(name: str, size: int) -> AudioError:
    return AudioError(
        f"{name}: its header promises {size:,} bytes, which is no plausible recording; expected at most "
        f"{MAX_MEMBER_BYTES:,} and an ordinary compression. Unpack it yourself if it is meant"
    )


def _sparse(name: str) -> AudioError:
    return AudioError(f"{name}: is stored with holes left out; expected a plain member. Pack it without `--sparse`")

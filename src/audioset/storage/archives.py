"""Audio in tar and zip archives, wherever they are: one after another as the archive streams by, or one by its name.

Nothing is unpacked to where members say they belong, so none can leave a folder. A member comes as bytes in memory, a
large one in a temporary file without a name.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import tempfile
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from audioset._files import temporary_files
from audioset._streams import PIECE_BYTES, Forward, StreamDamage, TarEntry, uncompressed
from audioset.errors import AudioError, AudioSetError, OutputError
from audioset.storage.base import Section
from audioset.storage.filesystems import storage_of
from audioset.storage.names import MEMBER_MARK, has_audio_suffix, is_url, location, member_name
from audioset.storage.reading import open_remote
from audioset.storage.troubles import of_error, unreadable

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_MEMBER_BYTES = 1 << 34
_MAX_RATIO = 1100  # of a zip's member to what it is compressed to; silence under deflate comes to 1,032
_BUFFER_BYTES = 1 << 16
_KEPT_INDEXES = 4
_TAR_ERRORS = (tarfile.TarError, ValueError, OverflowError)  # the latter two for numbers that make no sense

Room = Callable[[int], bool]
"""Says whether so many bytes may be held in memory."""


@dataclass(frozen=True)
class Member:
    """A recording in an archive.

    Attributes
    ----------
    name : str
        In the archive.
    content : BinaryIO or AudioError
        Its bytes, or why they cannot be had.
    """

    name: str
    content: BinaryIO | AudioError


class Held(io.BytesIO):
    """Bytes in memory as a file of a name."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.name = name


def members(archive: str, wanted: Callable[[str], bool], room: Room) -> Generator[Member, None, None]:
    """Yield the audio of an archive, a path or a URL, as it streams by; of members of one name, the first.

    Parameters
    ----------
    archive : str
        A tar, also compressed with gzip, which is read as one stream; or a zip, which is read by its directory.
    wanted : callable
        Whether a member is to be given, by its name there.
    room : callable
        What may not be held in memory goes to a temporary file.

    Raises
    ------
    AudioError
        The archive cannot be had, holds no audio, or is damaged: after the members before the damage.
    """
    given: set[str] = set()

    def once(member: str) -> bool:
        new = has_audio_suffix(re.split(r"[/\\]", member)[-1]) and member not in given
        if new:
            given.add(member)
        return new and wanted(member)

    try:
        yield from (_zip_members if _is_zip(archive) else _tar_members)(archive, once, room)
    except AudioSetError:
        raise
    except Exception as error:
        raise unreadable(archive, of_error(error)) from error
    if not given:
        raise AudioError(
            f"{archive}: holds no audio; expected members ending in .wav, .flac, .ogg, .mp3 or the like. "
            f"Name one with another ending itself: {archive}{MEMBER_MARK}NAME"
        )


def open_member(archive: str, member: str) -> BinaryIO:
    """Return one file of an archive, seekable; AudioError where it cannot be had."""
    name = member_name(archive, member)
    if _is_zip(archive):
        return _zip_member(archive, member, name)
    if not archive.lower().endswith(".tar"):  # within compressed data there is no way but through it
        with closing(_tar_members(archive, lambda other: other == member, _in_memory)) as found:
            for entry in found:
                if isinstance(entry.content, AudioError):
                    raise entry.content
                return entry.content
        raise _no_member(name)
    file = _open(archive)
    try:
        start, size = _index_of(archive, file).find(member, file, archive)
    except BaseException:
        file.close()
        raise
    return _section(file, start, size, name)


def _is_zip(archive: str) -> bool:
    return archive.lower().endswith(".zip")


def _in_memory(size: int) -> bool:
    return size <= _BUFFER_BYTES


def _section(file: BinaryIO, start: int, size: int, name: str) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(Section(file, start, size, name), _BUFFER_BYTES))


def _open(archive: str) -> BinaryIO:
    if is_url(archive):
        return open_remote(archive)
    try:
        return Path(archive).open("rb")
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise AudioError(f"{archive}: cannot be opened ({said}); expected an archive. Check the path") from error


class _Stream:
    """The content of an archive, to be read once; of a URL in one request, where its storage can do that."""

    def __init__(self, archive: str) -> None:
        if is_url(archive):
            where = location(archive)
            self._pieces = cast("Generator[bytes, None, None]", storage_of(where).stream(where.path))
        else:
            self._pieces = _pieces(_open(archive))
        self._piece = b""

    def read(self, size: int) -> bytes:
        if not self._piece:
            self._piece = next(self._pieces, b"")
        data, self._piece = self._piece[:size], self._piece[size:]
        return data

    def close(self) -> None:
        self._pieces.close()


def _pieces(file: BinaryIO) -> Generator[bytes, None, None]:
    with file:
        while piece := file.read(1 << 20):
            yield piece


def _tar_members(archive: str, wanted: Callable[[str], bool], room: Room) -> Generator[Member, None, None]:
    with closing(_Stream(archive)) as raw:
        stream = Forward(uncompressed(cast("IO[bytes]", raw)))
        for entry in _entries(stream, archive):
            if not entry.isreg() or not wanted(entry.name):  # links and devices are no recordings
                continue
            name = member_name(archive, entry.name)
            content: BinaryIO | AudioError | None
            if entry.issparse():
                content = AudioError(
                    f"{name}: is stored with holes left out; expected a plain member. Pack it without `--sparse`"
                )
            elif entry.size > MAX_MEMBER_BYTES:
                content = _too_large(name, entry.size)
            else:
                content = _content(name, entry.size, stream.read, room)
            if content is None:
                stream.damage = stream.damage or StreamDamage(stream.tell(), f"it ends within {entry.name}")
                break
            yield Member(entry.name, content)
        goes_on = False
        while piece := stream.read(PIECE_BYTES):  # the checksum of compressed data comes last
            goes_on = goes_on or piece.count(0) < len(piece)
        if goes_on and stream.damage is None:
            warnings.warn(
                f"{archive}: goes on after the mark at its end, as archives do that were joined; that was not read. "
                "Make one archive of them, or name each",
                stacklevel=2,
            )
        if stream.damage is not None:
            raise AudioError(
                f"{archive}: damaged or incomplete from its byte {stream.damage.offset:,} on ({stream.damage}); "
                "expected a whole archive. What is before that was read; copy or make the archive again"
            )


def _entries(stream: Forward, archive: str) -> Generator[tarfile.TarInfo, None, None]:
    """The members of a tar; what ends it early is left in `stream.damage`."""
    try:
        with _tar(cast("IO[bytes]", stream)) as tar:
            while (entry := tar.next()) is not None:
                yield entry
                cast(Any, tar).members.clear()  # there may be millions
            if stream.damage is None and stream.tell() == cast(Any, tar).offset:
                # Some programs leave the mark out, so this alone is no failure.
                warnings.warn(
                    f"{archive}: lacks the mark at the end of a tar archive; all that it holds was read, but it may "
                    "have been cut off between two members. Compare it with the original",
                    stacklevel=2,
                )
    except _TAR_ERRORS as error:
        if stream.damage is None:
            stream.damage = StreamDamage(stream.tell(), str(error))


class _Entry(TarEntry):
    """A member of an archive, which may end without a mark."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if not buf:  # what `tarfile` has for it then
            return super(TarEntry, cls).frombuf(buf, encoding, errors)
        return super().frombuf(buf, encoding, errors)


def _tar(file: IO[bytes]) -> tarfile.TarFile:
    return tarfile.TarFile(fileobj=file, tarinfo=_Entry, encoding="utf-8", errors="surrogateescape")


def _content(name: str, size: int, read: Callable[[int], bytes], room: Room) -> BinaryIO | None:
    """A member's bytes, None where they end early."""
    if room(size):
        data = read(size)
        return cast(BinaryIO, Held(name, data)) if len(data) == size else None
    with ExitStack() as stack:
        with temporary_files():
            spool = stack.enter_context(tempfile.TemporaryFile())
        left = size
        while left and (piece := read(min(left, 1 << 20))):
            with temporary_files():
                spool.write(piece)
                spool.flush()
            left -= len(piece)
        if left:
            return None
        stack.pop_all()
    return _section(cast(BinaryIO, spool), 0, size, name)


def _zip_members(archive: str, wanted: Callable[[str], bool], room: Room) -> Generator[Member, None, None]:
    with _open_zip(archive) as packed:
        for info in packed.infolist():
            if not info.is_dir() and wanted(info.filename):
                yield Member(info.filename, _unzipped(packed, info, member_name(archive, info.filename), room))


def _zip_member(archive: str, member: str, name: str) -> BinaryIO:
    with _open_zip(archive) as packed:
        try:
            info = packed.getinfo(member)
        except KeyError as error:
            raise _no_member(name) from error
        content = _unzipped(packed, info, name, _in_memory)
    if isinstance(content, AudioError):
        raise content
    return content


class _Zip(zipfile.ZipFile):
    """A zip archive that closes the file that it was given."""

    def __init__(self, file: BinaryIO) -> None:
        self._given = file
        super().__init__(file)

    def close(self) -> None:
        super().close()
        self._given.close()


def _open_zip(archive: str) -> zipfile.ZipFile:
    file = _open(archive)
    try:
        return _Zip(file)
    except Exception as error:  # damaged directories raise a lot
        file.close()
        if isinstance(error, AudioSetError):
            raise
        raise AudioError(
            f"{archive}: damaged or incomplete ({error}); expected a whole zip archive. Copy or make it again"
        ) from error


def _unzipped(packed: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, room: Room) -> BinaryIO | AudioError:
    if info.file_size > MAX_MEMBER_BYTES or info.file_size > _MAX_RATIO * max(info.compress_size, 1):
        return _too_large(name, info.file_size)
    try:
        with packed.open(info) as file:
            content = _content(name, info.file_size, file.read, room)
            if content is None or file.read(1):
                raise zipfile.BadZipFile("its size is not what the directory says")
    except AudioError as error:
        return error
    except OutputError as error:
        return AudioError(f"{name}: {error}")
    except Exception as error:  # of damaged data, foreign compression and encryption
        return AudioError(f"{name}: cannot be unpacked ({error}); expected an undamaged member. Make the archive again")
    return content


@dataclass
class _Index:
    """Where in a tar its files start and how many bytes they have, as far as it was looked through."""

    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    reached: int = 0
    ended: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, member: str, file: BinaryIO, archive: str) -> tuple[int, int]:
        with self.lock:
            if member not in self.places and not self.ended:
                self._look_for(member, file)
            if member in self.places:
                return self.places[member]
        raise _no_member(member_name(archive, member), self.ended)

    def _look_for(self, member: str, file: BinaryIO) -> None:
        file.seek(self.reached)
        try:
            tar = _tar(file)  # not closed: that is no more than closing the file
            while member not in self.places and (entry := tar.next()) is not None:
                if entry.isreg() and not entry.issparse():
                    self.places.setdefault(entry.name, (entry.offset_data, entry.size))
                self.reached = cast(Any, tar).offset
                cast(Any, tar).members.clear()
            if member not in self.places:
                self.ended = "it was looked through to its end"
        except _TAR_ERRORS as error:
            if isinstance(error, AudioError):
                raise
            self.ended = f"it is damaged from byte {self.reached:,} on: {error}"


_indexes: OrderedDict[tuple[object, ...], _Index] = OrderedDict()
_indexes_lock = threading.Lock()


def _index_of(archive: str, file: BinaryIO) -> _Index:
    """The index of an archive of this name and size, on a disk also of this time; the last few are kept."""
    key = (archive, file.seek(0, io.SEEK_END), *_version(file))
    with _indexes_lock:
        index = _indexes.setdefault(key, _Index())
        _indexes.move_to_end(key)
        while len(_indexes) > _KEPT_INDEXES:
            _indexes.popitem(last=False)
    return index


def _version(file: BinaryIO) -> tuple[int, ...]:
    """What tells a file on a disk from another one of its name; sizes of tars are often equal."""
    try:
        found = os.fstat(file.fileno())
    except OSError:  # it is elsewhere
        return ()
    return found.st_ino, found.st_mtime_ns


def _no_member(name: str, why: str = "") -> AudioError:
    said = f" ({why})" if why else ""
    return AudioError(
        f"{name}: no such file in the archive{said}; expected the name of a member. "
        "List them with `tar tf` or `unzip -l`"
    )


def _too_large(name: str, size: int) -> AudioError:
    return AudioError(
        f"{name}: its header promises {size:,} bytes, which is no plausible recording; expected at most "
        f"{MAX_MEMBER_BYTES:,} bytes, and no more than {_MAX_RATIO:,} for each compressed one. Unpack it yourself"
    )

"""Where records come from: shards, folders of them, patterns, and archives that are read as they stream by.

Nothing is unpacked: members of an archive pass through memory one after another, so that what they are called (`-x`,
`../x`, `aA` beside `Aa`) never meets a file system.
"""

from __future__ import annotations

import glob
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TypeAlias, cast

from audioset._streams import PIECE_BYTES, TAR_BLOCK_BYTES, Forward, StreamDamage, TarEntry, uncompressed
from audioset.errors import RecordError
from audioset.records.tfrecord import Damage, RecordBlock, record_blocks

PathLike: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = PathLike | Sequence[PathLike]
"""One file, folder, pattern or archive, or several of these."""

OnDamage: TypeAlias = Callable[[Damage], None]

SUFFIXES = (".tfrecord", ".tfrecord.gz")
"""How shards are called: in folders and archives only these are read. A file that is named itself is always read."""

_TABLES = {b"PAR1": "parquet", b"ARROW1": "arrow"}
_NOTHING = "holds nothing; expected records, fetch or write it again"
_NEVER_EMPTY = (".gz", ".tgz", ".tar")  # unlike a shard, which may have no records


def read_blocks(
    source: Source, on_damage: OnDamage | None = None, *, only: Sequence[str] = ()
) -> Iterator[RecordBlock]:
    """The records of every shard of a source, in blocks, in sorted order, in that of an archive within it.

    Parameters
    ----------
    source : path or sequence of paths
        A TFRecord file, also compressed with gzip; a folder, for every `.tfrecord` and `.tfrecord.gz` below it; a
        pattern (`*`, `?`, `[…]`, `**`); a `.tar` or `.tar.gz`, for every such member, without unpacking it. What a
        file is shows in its first bytes, not in its name. A name that exists is never taken for a pattern.
    on_damage : callable, optional
        Given a `Damage` for whatever cannot be read, after which the rest goes on: with the next record where one does
        not match its checksum, else with the next shard. By default the first damage is raised.
    only : sequence of str
        Patterns such as `eval/*`: of folders and archives, read only shards whose name, or its last parts, match one.

    Raises
    ------
    RecordError
        At once: a file or folder does not exist, a folder holds no shards, a pattern matches nothing. While
        iterating: at damage, unless `on_damage` is given.
    """
    return _blocks(find_files(source, only=only), on_damage or _raise, only)


def find_files(source: Source, *, only: Sequence[str] = ()) -> list[str]:
    """The files that a source stands for, each once; see `read_blocks`."""
    several = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    return list(dict.fromkeys(file for path in several for file in _find(os.fspath(path), only)))


def _find(path: str, only: Sequence[str]) -> list[str]:
    if os.path.isdir(path):
        found = _below(path, only)
        if not found:
            matching = f" that match {_listed(only)}" if only else ""
            raise RecordError(
                f"{path}: no shards in this folder{matching}; expected names ending in {' or '.join(SUFFIXES)}. "
                "Name files with other endings themselves"
            )
        return found
    if os.path.exists(path):
        return [path]
    if not glob.has_magic(path):
        raise RecordError(f"{path}: does not exist; expected a TFRecord file, a folder of them, or an archive")
    found = [
        file
        for match in sorted(glob.iglob(path, recursive=True))
        for file in (_below(match, only) if os.path.isdir(match) else [match])
    ]
    if not found:
        matching = f" and {_listed(only)}" if only else ""
        raise RecordError(f"{path}: no file matches this pattern{matching}. Check it with `ls {path}`")
    return found


def _below(folder: str, only: Sequence[str]) -> list[str]:
    found = []
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above it, or a second way into one
            folders.clear()
            continue
        seen.add(real)
        # Hidden files are what downloads and copies leave behind.
        found += [str(Path(parent, name)) for name in names if name.endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(file for file in found if _is_wanted(file, only))


def _is_wanted(name: str, only: Sequence[str]) -> bool:
    """Whether a shard's name, or its last parts, match one of the patterns, if there are any."""
    return not only or any(PurePosixPath(Path(name).as_posix()).match(pattern) for pattern in only)


def _listed(patterns: Sequence[str]) -> str:
    return " or ".join(map(repr, patterns))


def _refuse(error: OSError) -> None:
    raise RecordError(
        f"{error.filename}: this folder cannot be read ({error.strerror}); expected one that may be listed. "
        "Check its rights"
    ) from error


def _raise(damage: Damage) -> None:
    raise RecordError(str(damage))


def _blocks(files: Sequence[str], on_damage: OnDamage, only: Sequence[str]) -> Iterator[RecordBlock]:
    for file in files:
        for shard in _shards(file, on_damage, only):
            for found in record_blocks(shard.stream, file, shard.member):
                if isinstance(found, RecordBlock):
                    yield found
                elif shard.whole():  # else the end came early, which is reported once, with its cause
                    on_damage(found)


@dataclass(frozen=True)
class _Shard:
    """An open TFRecord file: its name in an archive, its bytes, and whether they have come without damage so far."""

    member: str | None
    stream: IO[bytes]
    whole: Callable[[], bool]


def _shards(file: str, on_damage: OnDamage, only: Sequence[str]) -> Iterator[_Shard]:
    """A file itself, or the shards of an archive; each is to be read before the next is asked for."""
    try:
        handle = open(file, "rb", buffering=0)  # noqa: PTH123, SIM115 - a path would lose a final slash or dot
    except OSError as error:
        on_damage(Damage(file, None, 0, f"cannot be read ({error.strerror}); expected a TFRecord file or an archive"))
        return
    with handle:
        stream = Forward(uncompressed(handle))
        head = stream.peek(TAR_BLOCK_BYTES)
        if (table := _table_of(head)) is not None:
            on_damage(Damage(file, None, 0, _not_records(table)))
        elif _is_tar(head):
            yield from _members(stream, file, on_damage, only)
        elif not head and file.endswith(_NEVER_EMPTY) and stream.damage is None:
            on_damage(Damage(file, None, 0, _NOTHING))
        else:
            yield _Shard(None, cast(IO[bytes], stream), lambda: stream.damage is None)
        if stream.damage is not None:
            on_damage(Damage(file, None, stream.damage.offset, str(stream.damage)))


def table_kind(path: PathLike) -> str | None:
    """ "parquet" or "arrow" by a file's first bytes, None for anything else."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a path would lose a final slash or dot
            return _table_of(file.read(max(map(len, _TABLES))))
    except OSError:  # whoever opens it next says why
        return None


def _table_of(head: bytes) -> str | None:
    return next((kind for magic, kind in _TABLES.items() if head.startswith(magic)), None)


def _not_records(table: str) -> str:
    return (
        f"is {'a Parquet' if table == 'parquet' else 'an Arrow'} file; expected TFRecords. Open it with "
        "`audioset.dataset.feature_dataset.FeatureDataset`, or make TFRecords of it with `audioset dataset convert`"
    )


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _members(stream: Forward, file: str, on_damage: OnDamage, only: Sequence[str]) -> Iterator[_Shard]:
    """The shards of an archive; whatever ends it early is left in `stream.damage`."""
    num_shards = 0
    try:
        with tarfile.TarFile(
            fileobj=cast(IO[bytes], stream), tarinfo=TarEntry, encoding="utf-8", errors="backslashreplace"
        ) as archive:
            while (entry := archive.next()) is not None:
                # Links, devices and pipes are no shards, whatever they are called; nor are hidden files.
                if not entry.isreg() or not entry.name.endswith(SUFFIXES) or Path(entry.name).name.startswith("."):
                    continue
                if not _is_wanted(entry.name, only):
                    continue
                num_shards += 1
                if entry.issparse():
                    reason = "is stored with holes left out; expected a plain member. Pack it without `--sparse`"
                    on_damage(Damage(file, entry.name, 0, reason))
                    continue
                member = cast(IO[bytes], _Member(stream, entry))
                if entry.name.endswith(".gz"):
                    yield from _unzipped(member, entry.name, stream, file, on_damage)
                else:
                    yield _Shard(entry.name, member, lambda: stream.damage is None)
        while stream.read(PIECE_BYTES):  # the checksum of compressed data comes last
            pass
        if not num_shards and stream.damage is None:
            matching = f" that match {_listed(only)}" if only else ""
            expected = f"expected members ending in {' or '.join(SUFFIXES)}"
            on_damage(Damage(file, None, 0, f"no shards in this archive{matching}; {expected}"))
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the latter two for numbers that make no sense
        if stream.damage is None:
            stream.damage = StreamDamage(
                stream.tell(),
                f"the archive is damaged at its byte {stream.tell():,} ({error}); expected a whole one, get it again",
            )


def _unzipped(member: IO[bytes], name: str, archive: Forward, file: str, on_damage: OnDamage) -> Iterator[_Shard]:
    """A shard that was compressed before it was packed; its damage is its own, and the next member follows."""
    stream = Forward(uncompressed(member))
    if not stream.peek(1) and stream.damage is None and archive.damage is None:
        on_damage(Damage(file, name, 0, _NOTHING))
    yield _Shard(name, cast(IO[bytes], stream), lambda: stream.damage is None and archive.damage is None)
    if stream.damage is not None and archive.damage is None:
        on_damage(Damage(file, name, stream.damage.offset, str(stream.damage)))


class _Member:
    """The bytes of the archive's member at which the stream stands."""

    def __init__(self, stream: Forward, entry: tarfile.TarInfo) -> None:
        self._stream = stream
        self._entry = entry
        self._left = entry.size

    def read(self, size: int) -> bytes:
        """As many bytes, or fewer at the end."""
        data = self._stream.read(min(size, self._left))
        self._left -= len(data)
        if self._left and not data and self._stream.damage is None:
            at = self._stream.tell()
            self._stream.damage = StreamDamage(
                at, f"the archive ends at its byte {at:,}, within {self._entry.name}; it is incomplete, get it again"
            )
        return data

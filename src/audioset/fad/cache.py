"""Embeddings of recordings that were measured before: kept by file, so that none is embedded twice.

    FOLDER/JOB/job.json                  the options that decide the values
    FOLDER/JOB/GROUP/000000.parquet, …   rows, as `audioset embed` writes them; a group is a folder of recordings
    FOLDER/JOB/GROUP/ARCHIVE.json, …     the recordings in an archive that was read to its end

A row's file is `SIZE:TIME:NAME`: the recording's size in bytes, when it was last changed in nanoseconds, and its path
or URL; for what is in an archive, size and time of that. So one that has changed is another one. Each run that finds
new recordings adds one Parquet file with all of them. One process at a time adds to a group; others wait for it and
then find what it did.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from audioset._files import unwritable, written_whole
from audioset.errors import RecordError
from audioset.fad.identity import is_current
from audioset.fad.sources import Block, EmbeddingSource
from audioset.records import parts
from audioset.records.info import LAYOUT, JobInfo
from audioset.weights.files import cache_dir, user_path

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_ABOUT = "job.json"
_HELD_ROW_GROUPS = 8


@dataclass(frozen=True)
class Shard:
    """One Parquet file of the cache.

    Attributes
    ----------
    path : Path
        Where it is.
    bounds : ndarray of int64
        First row of each row group, and the number of rows.
    """

    path: Path
    bounds: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """Where a file's rows are: `count` rows of `shard` from `first` on."""

    shard: Shard
    first: int
    count: int


@dataclass(frozen=True)
class Cleared:
    """What was removed from a cache.

    Attributes
    ----------
    files, num_bytes : int
        Parquet files, and their size.
    in_use : int
        Folders that another process is adding to, and that were left.
    """

    files: int
    num_bytes: int
    in_use: int


def cache_folder(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Return where embeddings are kept: a chosen folder, or `fad` in the package's cache."""
    return cache_dir() / "fad" if chosen is None else user_path(chosen)


def clear(chosen: str | os.PathLike[str] | None = None) -> Cleared:
    """Remove all embeddings from a cache, and nothing else that may lie in its folder.

    Raises
    ------
    OutputError
        They cannot be removed.
    """
    files = num_bytes = in_use = 0
    for about in sorted(cache_folder(chosen).glob(f"*/{_ABOUT}")):
        for group in sorted(path for path in about.parent.iterdir() if path.is_dir()):
            with _locked(group, wait=False) as ours:
                if not ours:
                    in_use += 1
                    continue
                shards = list(group.glob("*.parquet"))
                files += len(shards)
                num_bytes += sum(path.stat().st_size for path in shards)
                try:
                    shutil.rmtree(group)
                except OSError as error:
                    raise unwritable(group, error) from error
        if not any(path.is_dir() for path in about.parent.iterdir()):
            shutil.rmtree(about.parent, ignore_errors=True)
    return Cleared(files, num_bytes, in_use)


class Group:
    """What the cache holds of one folder of recordings, for one embedder.

    Parameters
    ----------
    folder : Path
        The cache.
    info : JobInfo
        The embedder.
    base : str
        The folder of the recordings: an absolute path, or a URL.
    """

    def __init__(self, folder: Path, info: JobInfo, base: str) -> None:
        # The same weights under another name are the same.
        self.info = replace(info, weights_name=info.weights_sha256)
        self._of_job = folder / _key(_deciding(self.info))
        self.path = self._of_job / _key(base)

    def index(self) -> dict[str, Span]:
        """Return where the rows of each file are, by the file's identity.

        Warns
        -----
        UserWarning
            One of the cache's files is damaged; its rows count as not there.
        """
        found: dict[str, Span] = {}
        for path in self._shards():
            try:
                found |= _index(path)
            except FileNotFoundError:  # removed by another process, which found it out of date
                continue
            except parts.damage() as error:
                if getattr(error, "errno", None):
                    raise RecordError(
                        f"{path}: cannot be read ({error}); check the cache, or choose another"
                    ) from error
                warnings.warn(f"{path}: damaged ({error}); its recordings are embedded again", stacklevel=2)
        return found

    @contextmanager
    def adding(self, waiting: Callable[[], None]) -> Iterator[Path]:
        """Give the path of a new Parquet file to add, alone in the group; `waiting` is called where others add now."""
        about = self._of_job / _ABOUT
        if not about.exists():
            with written_whole(about) as temporary:
                text = json.dumps({"layout": LAYOUT, "job": asdict(self.info)}, indent=1)
                temporary.write_text(text, encoding="utf-8")
        with _locked(self.path, wait=True, waiting=waiting):
            try:
                self.path.mkdir(exist_ok=True)
            except OSError as error:
                raise unwritable(self.path, error) from error
            numbers = [int(path.stem) for path in self._shards()]
            yield self.path / f"{max(numbers, default=-1) + 1:06d}.parquet"

    def members(self, archive: str) -> list[str] | None:
        """Return the names of all recordings in an archive of this identity; None where it was not read to its end."""
        try:
            found = _read_members(self._list_of(archive))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found[1] if found[0] == archive else None

    def keep_members(self, archive: str, members: Sequence[str]) -> None:
        """Note that an archive of this identity holds these recordings and no others."""
        with written_whole(self._list_of(archive)) as temporary:
            about = {"layout": LAYOUT, "archive": archive, "members": list(members)}
            temporary.write_text(json.dumps(about), encoding="utf-8")

    def drop_outdated(self, kept: set[Path], stamps: dict[str, str]) -> None:
        """Remove what holds no recording as it is now, except what is kept; for who is alone in the group.

        Parameters
        ----------
        kept : set of Path
            Files to leave.
        stamps : dict of str to str
            As for `is_current`.
        """
        for path in set(self._shards()) - kept:
            try:
                outdated = not any(_is_current(name, stamps) for name in _index(path))
            except parts.damage() as error:
                outdated = not getattr(error, "errno", None)
            if outdated:
                _unlink(path)
        for path in self.path.glob("*.json"):
            try:
                outdated = not _is_current(_read_members(path)[0], stamps)
            except (ValueError, KeyError, TypeError):
                outdated = True
            except OSError:
                continue
            if outdated:
                _unlink(path)

    def _list_of(self, archive: str) -> Path:
        return self.path / f"{_key(archive)}.json"

    def _shards(self) -> list[Path]:
        return sorted(path for path in self.path.glob("*.parquet") if path.stem.isdecimal())


class Scratch:
    """A folder that is removed when nobody holds this any more."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="audioset-fad-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class CachedSource(EmbeddingSource):
    """Rows of files in the cache, in the order of the files, wherever they lie; `scratch` is where some may."""

    def __init__(
        self, name: str, info: JobInfo, spans: Sequence[tuple[str, Span]], scratch: Scratch | None = None
    ) -> None:
        self.name, self.info, self.dim = name, info, info.embedding_dim
        self.num_files = len(spans)
        self.num_rows = sum(span.count for _, span in spans)
        self._spans = spans
        self._scratch = scratch

    def _read(self) -> Iterator[Block]:
        with ExitStack() as opened:
            groups = _RowGroups(self.dim, opened)
            names: list[str] = []
            counts: list[int] = []
            at: tuple[Shard, int, int] | None = None  # shard, row group, and the next row in it
            for name, span in self._spans:
                first, rest = span.first, span.count
                while rest:
                    bounds = span.shard.bounds
                    group = int(np.searchsorted(bounds, first, "right")) - 1
                    start = first - int(bounds[group])
                    if at is not None and at != (span.shard, group, start):
                        yield _block(groups, at, names, counts)
                        names, counts = [], []
                    taken = min(rest, int(bounds[group + 1]) - first)
                    names.append(name)
                    counts.append(taken)
                    at = (span.shard, group, start + taken)
                    first, rest = first + taken, rest - taken
            if at is not None:
                yield _block(groups, at, names, counts)


class _RowGroups:
    """Values of row groups; the last few are kept, since files of two shards may alternate."""

    def __init__(self, dim: int, opened: ExitStack) -> None:
        self._dim = dim
        self._opened = opened
        self._file: tuple[Path, pq.ParquetFile] | None = None
        self._held: OrderedDict[tuple[Path, int], npt.NDArray[Any]] = OrderedDict()

    def get(self, shard: Shard, group: int) -> npt.NDArray[Any]:
        key = (shard.path, group)
        if key not in self._held:
            self._held[key] = self._read(shard.path, group)
            if len(self._held) > _HELD_ROW_GROUPS:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]

    def _read(self, path: Path, group: int) -> npt.NDArray[Any]:
        try:
            if self._file is None or self._file[0] != path:
                self._opened.close()
                self._file = path, self._opened.enter_context(parts.parquet_file(path))
            table = self._file[1].read_row_group(group, columns=["embedding"], use_threads=False)
            values: npt.NDArray[Any] = table.column("embedding").combine_chunks().flatten().to_numpy()
            return values.reshape(-1, self._dim)
        except parts.damage() as error:
            raise RecordError(
                f"{path}: cannot be read ({error}); expected what was cached there. Remove this file and run again"
            ) from error


def _block(groups: _RowGroups, at: tuple[Shard, int, int], names: list[str], counts: list[int]) -> Block:
    shard, group, end = at
    return Block(groups.get(shard, group)[end - sum(counts) : end], names, counts)


def _index(path: Path) -> dict[str, Span]:
    spans: dict[str, Span] = {}
    with parts.parquet_file(path) as file:
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        shard = Shard(path, np.cumsum([0, *sizes]))
        row = 0
        for batch in file.iter_batches(parts.MAX_ROW_GROUP_ROWS, columns=["file"], use_threads=False):
            for name, count in zip(*parts.file_runs(batch), strict=True):
                known = spans.get(name)  # goes on from the batch before
                if known is not None and known.first + known.count != row:
                    raise ValueError(f"rows of {name} lie apart")
                first, so_far = (row, 0) if known is None else (known.first, known.count)
                spans[name] = Span(shard, first, so_far + int(count))
                row += int(count)
    return spans


def _unlink(path: Path) -> None:
    with suppress(OSError):  # in use, on Windows; a later run removes it
        path.unlink()


def _read_members(path: Path) -> tuple[str, list[str]]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return str(found["archive"]), [str(member) for member in found["members"]]


def _is_current(name: str, stamps: dict[str, str]) -> bool:
    # Bytes that are no UTF-8 were written out, see `storable`.
    raw = re.sub(r"\\(udc[89a-f][0-9a-f])", lambda found: chr(int(found[1][1:], 16)), name)
    return is_current(name, stamps) or (raw != name and is_current(raw, stamps))


@contextmanager
def _locked(group: Path, *, wait: bool, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Whether this process is alone in a group, as it always is where it waits."""
    import filelock

    lock = filelock.FileLock(group.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if not wait:
            yield False
            return
        if waiting is not None:
            waiting()
        lock.acquire()
    except OSError as error:
        raise unwritable(group, error) from error
    try:
        yield True
    finally:
        lock.release()


def _deciding(info: JobInfo) -> str:
    """The options that decide values, and the version of the package, whose rows are not to be mixed with another's."""
    ignored = ("engine", "device") if info.precision == "fp32" else ()
    return json.dumps({name: value for name, value in asdict(info).items() if name not in ignored}, sort_keys=True)


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

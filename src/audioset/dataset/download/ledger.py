"""What has become of each clip, in SQLite beside the files: one ledger a shard, read together."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

from audioset._files import unwritable
from audioset.dataset.download.clips import Clip
from audioset.dataset.download.failures import PERMANENT
from audioset.errors import DatasetError, OptionError, OutputError

State: TypeAlias = Literal["done", "failed", "pending"]

_VERSION: Final = "1"
_LOCKED_S: Final = 30.0  # how long to wait for another process that is writing
_PAGE_ROWS: Final = 10_000
_RANK: Final[Mapping[str, int]] = {"pending": 0, "failed": 1, "done": 2}


@dataclass(frozen=True, slots=True)
class Entry:
    """What a ledger knows of one clip.

    Attributes
    ----------
    key : str
        `YTID_START`, the start in milliseconds.
    file : str
        Name in the folder; with `video_bytes`, an MP4 of the same name is there too.
    state : {"done", "failed", "pending"}
        A pending clip with a reason has failed and will be tried again.
    reason, message : str or None
        Why it is not there: a word (`audioset.dataset.download.REASONS` explains it), and what was said.
    tries : int
        Attempts so far, over all runs.
    bytes, video_bytes : int or None
        Sizes of the files.
    duration_s : float or None
        Length of the sound as written.
    updated_s : float
        Time of the last change, in seconds since 1970.
    """

    key: str
    ytid: str
    start_s: float
    end_s: float
    url: str | None
    file: str
    state: State
    reason: str | None = None
    message: str | None = None
    tries: int = 0
    bytes: int | None = None
    video_bytes: int | None = None
    duration_s: float | None = None
    updated_s: float = 0.0

    @property
    def permanent(self) -> bool:
        """Whether trying again is of no use, as far as one can know."""
        return self.state == "failed" and self.reason in PERMANENT


_COLUMNS: Final = tuple(field.name for field in fields(Entry))
_TABLES: Final = (
    "meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "clips (key TEXT PRIMARY KEY, ytid TEXT NOT NULL, start_s REAL NOT NULL, end_s REAL NOT NULL, url TEXT, "
    "file TEXT NOT NULL, state TEXT NOT NULL, reason TEXT, message TEXT, tries INTEGER NOT NULL, bytes INTEGER, "
    "video_bytes INTEGER, duration_s REAL, updated_s REAL NOT NULL)",
)

_MERGE: Final = (
    f"INSERT INTO clips ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (key) DO UPDATE "  # noqa: S608 - ours
    f"SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS)} WHERE takes_over("
    f"{', '.join(f'excluded.{name}' for name in _COLUMNS)}, {', '.join(f'clips.{name}' for name in _COLUMNS)})"
)


class Ledger:
    """The ledger of one shard, which one process at a time writes; every change is on the disk when its call returns.

    It keeps no write-ahead log, which does not work on network disks.
    """

    def __init__(self, folder: Path, shard: tuple[int, int], settings: Mapping[str, Any]) -> None:
        import filelock

        self.path = folder / ledger_name(shard)
        # The lock is a file of its own: SQLite's would keep others from reading.
        self._lock = filelock.FileLock(folder / f".{self.path.name}.lock", timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise OutputError(
                f"{self.path}: another process is writing it; wait for it to end, or give each process a --shard"
            ) from error
        except OSError as error:
            raise unwritable(self.path, error) from error
        with ExitStack() as opened, _reporting(self.path):
            opened.callback(self._lock.release)
            self._db = sqlite3.connect(self.path, timeout=_LOCKED_S, isolation_level=None)
            opened.callback(self._db.close)
            about = [("version", _VERSION), ("settings", json.dumps(settings, sort_keys=True))]
            with self._transaction():  # others read it, and a kill may come, at any moment: all of it or nothing
                for table in _TABLES:
                    self._db.execute(f"CREATE TABLE IF NOT EXISTS {table}")
                self._db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", about)
            self._opened = opened.pop_all()

    def expect(self, clips: Iterable[tuple[Clip, str]]) -> None:
        """Note that clips are to be made, with the names of their files; what is known of their failures stays."""
        rows = ((c.key, c.ytid, c.start_s, c.end_s, c.url, file, time.time()) for c, file in clips)
        with _reporting(self.path), self._transaction():
            self._db.executemany(
                "INSERT INTO clips (key, ytid, start_s, end_s, url, file, state, tries, updated_s) "
                "VALUES (?, ?, ?, ?, ?, ?, 'pending', 0, ?) ON CONFLICT (key) DO UPDATE SET "
                "end_s = excluded.end_s, url = excluded.url, file = excluded.file, state = 'pending', bytes = NULL, "
                "video_bytes = NULL, duration_s = NULL, updated_s = excluded.updated_s",
                rows,
            )

    def done(self, key: str, num_bytes: int, video_bytes: int | None, duration_s: float) -> None:
        """Note that a clip's files are there."""
        self._set(
            "state = 'done', reason = NULL, message = NULL, tries = tries + 1, bytes = ?, video_bytes = ?, "
            "duration_s = ?",
            (num_bytes, video_bytes, duration_s, time.time(), key),
        )

    def failed(self, key: str, reason: str, message: str, *, final: bool, counts: bool = True) -> None:
        """Note why a clip is not there; one that is not `final` stays pending."""
        state = "failed" if final else "pending"
        self._set(
            "state = ?, reason = ?, message = ?, tries = tries + ?",
            (state, reason, message, int(counts), time.time(), key),
        )

    def take_back(self, key: str) -> None:
        """Note that the last attempt at a clip was none: it is pending again."""
        self._set("state = 'pending', tries = tries - 1", (time.time(), key))

    def close(self) -> None:
        """Let other processes have it."""
        self._opened.close()

    def _set(self, what: str, values: tuple[Any, ...]) -> None:
        with _reporting(self.path):
            self._db.execute(f"UPDATE clips SET {what}, updated_s = ? WHERE key = ?", values)  # noqa: S608 - ours

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def open_ledger(folder: Path, shard: tuple[int, int], settings: Mapping[str, Any]) -> Ledger:
    """Return the ledger of a shard; OptionError if the folder has files that were not made as `settings` say."""
    import filelock

    # Shards begin together: one must not look before the other has noted what it makes.
    lock = filelock.FileLock(folder / ".ledgers.lock", timeout=_LOCKED_S)
    try:
        lock.acquire()
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        check_settings(folder, settings)
        return Ledger(folder, shard, settings)
    finally:
        lock.release()


def ledger_name(shard: tuple[int, int]) -> str:
    """Return the file name of a shard's ledger."""
    return "ledger.sqlite" if shard == (1, 1) else f"ledger-{shard[0]}-of-{shard[1]}.sqlite"


def ledgers_in(folder: Path) -> list[Path]:
    """Return the ledgers of a folder."""
    return sorted(folder.glob("ledger*.sqlite"))


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise OptionError if the files of one of a folder's ledgers were not made as `settings` say."""
    for path in ledgers_in(folder):
        with _reading(path) as db:
            if db is None:
                continue
            theirs = json.loads(dict(db.execute("SELECT name, value FROM meta"))["settings"])
        if theirs != dict(settings):
            raise OptionError(
                f"{folder}: its files were made with {_said(theirs)}; expected {_said(settings)}. Choose another "
                "folder, or the options of before"
            )


def read_entries(folder: Path, spelled: Container[str] | None = None) -> dict[str, Entry]:
    """Return what the ledgers of a folder know, by key: of several entries a done one with its files, else the latest.

    With `spelled`, only of keys that are in it in lower case: there may be millions of others.

    Raises
    ------
    DatasetError
        If one of them is damaged, or no ledger.
    """
    found: dict[str, Entry] = {}
    for path in ledgers_in(folder):
        with _reading(path) as db:
            for row in () if db is None else db.execute(f"SELECT {', '.join(_COLUMNS)} FROM clips"):  # noqa: S608 - ours
                if spelled is not None and row[0].lower() not in spelled:
                    continue
                entry = Entry(*row)
                known = found.get(entry.key)
                if known is None or _precedence(folder, entry) > _precedence(folder, known):
                    found[entry.key] = entry
    return found


def each_entry(folder: Path, state: State | None = None) -> Iterator[Entry]:
    """Yield what `read_entries` returns, in order of the keys and a few at a time, if wanted of one state only."""
    wanted = f"SELECT {', '.join(_COLUMNS)} FROM clips WHERE key > ? AND state = ifnull(?, state) ORDER BY key LIMIT ?"  # noqa: S608 - ours
    last = ""
    with merged(folder) as db:
        # Page by page: who reads a ledger keeps others from writing it.
        while rows := db.execute(wanted, (last, state, _PAGE_ROWS)).fetchall():
            yield from (Entry(*row) for row in rows)
            last = rows[-1][0]


@contextmanager
def merged(folder: Path) -> Iterator[sqlite3.Connection]:
    """Give a table `clips` of what the ledgers of a folder know: each clip once, chosen as `read_entries` does."""
    paths = ledgers_in(folder)
    with ExitStack() as opened:
        db = opened.enter_context(_reading(paths[0])) if len(paths) == 1 else None
        if db is None:
            db = opened.enter_context(closing(sqlite3.connect("")))  # SQLite's own temporary file
            for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -65536"):
                db.execute(f"PRAGMA {pragma}")
            db.execute(f"CREATE TABLE {_TABLES[1]}")
            db.create_function("takes_over", -1, lambda *row: _takes_over(folder, row))
            for path in paths:
                with _reading(path) as theirs:
                    if theirs is not None:
                        db.executemany(_MERGE, theirs.execute(f"SELECT {', '.join(_COLUMNS)} FROM clips ORDER BY key"))  # noqa: S608 - ours
        yield db


def _takes_over(folder: Path, row: tuple[Any, ...]) -> bool:
    """Whether of two entries, one behind the other, the first counts."""
    new, known = Entry(*row[: len(_COLUMNS)]), Entry(*row[len(_COLUMNS) :])
    return _precedence(folder, new) > _precedence(folder, known)


def is_there(folder: Path, entry: Entry) -> bool:
    """Return whether a clip is done and its files are as they were written."""
    sizes = [(entry.file, entry.bytes)]
    if entry.video_bytes is not None:
        sizes.append((f"{Path(entry.file).stem}.mp4", entry.video_bytes))
    return entry.state == "done" and all(_size(folder / name) == size for name, size in sizes)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _precedence(folder: Path, entry: Entry) -> tuple[bool, float, int]:
    return is_there(folder, entry), entry.updated_s, _RANK[entry.state]


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Open a ledger to read, None for one that is but begun: SQLite starts with an empty file.

    To mend what a kill left half written, SQLite must be able to write, if it may.
    """
    mode = "rw" if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) else "ro"
    with _reporting(path), closing(sqlite3.connect(_address(path.absolute(), mode), uri=True, timeout=_LOCKED_S)) as db:
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            yield None
            return
        version = dict(db.execute("SELECT name, value FROM meta")).get("version")
        if version != _VERSION:
            raise ValueError(f"version {version} where {_VERSION} is known")
        yield db


def _address(path: PurePath, mode: str) -> str:
    """SQLite's URI of an absolute path; unlike `as_uri`, with the server of a Windows share in it, as SQLite wants."""
    return f"file:///{quote(path.as_posix().removeprefix('/'))}?mode={mode}"


def _said(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {'as the source' if value is None else value}" for name, value in settings.items())


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into an error of this package."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OutputError(
            f"{path}: {error}; expected a ledger in a writable folder with enough room, that no other process holds. "
            "Look at the folder, then give the same command again."
        ) from error
    except (sqlite3.DatabaseError, ValueError, KeyError) as error:
        raise DatasetError(
            f"{path}: damaged, or not a ledger of audioset ({error}); expected SQLite. Move it away and give the same "
            "command again: files without an entry are made anew."
        ) from error

"""Names to what models read, in order, fetched ahead: `Model.embed_blocks` takes what comes."""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Container, Iterable, Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, cast

from audioset.errors import AudioError, AudioSetError
from audioset.storage.archives import Held, members, open_member
from audioset.storage.filesystems import storage_of
from audioset.storage.names import is_archive, is_url, location, member_name, split_member
from audioset.storage.reading import as_file, open_remote
from audioset.storage.troubles import of_error, unreadable

if TYPE_CHECKING:
    from audioset._decode import AudioSource

MAX_BYTES = 256 << 20
CONNECTIONS = 16
SMALL_BYTES = 1 << 22  # objects of at most so many are fetched whole
_MAX_MEMBER_IN_MEMORY = 1 << 23
_MAX_ARCHIVES = 2  # read at a time
_PATIENCE_S = 1.0  # for what was given to be closed, before the disk is used
_POLL_S = 0.02
_FAREWELL_S = 2.0


class Broken:
    """A source that cannot be had: whatever touches it raises `error`."""

    def __init__(self, name: str, error: AudioSetError) -> None:
        self.name = name
        self.error = error if isinstance(error, AudioError) else AudioError(str(error))

    def _fail(self, *_: object) -> NoReturn:
        raise self.error

    read = readable = seekable = seek = tell = _fail

    def close(self) -> None:
        """There is nothing to close."""


def sources(
    names: Iterable[str],
    *,
    skip: Container[str] = frozenset(),
    max_bytes: int = MAX_BYTES,
    connections: int = CONNECTIONS,
) -> Iterator[tuple[str, AudioSource]]:
    """Yield each name with what the decoder reads, in order; archives give one for each recording in them.

    Parameters
    ----------
    names : iterable of str
        Paths, URLs, archives (also at URLs), and members of archives (`shard.tar::dir/clip.wav`). Taken lazily.
    skip : container of str
        Names to leave out, of members too.
    max_bytes : int
        How much of what was fetched is held in memory, over all that was given and not yet closed.
    connections : int
        Names fetched at a time.

    Yields
    ------
    (str, source)
        A local path as it is, or a seekable binary file. A `Broken` for what cannot be had; of a damaged archive the
        members before the damage come first.
    """
    room = _Room(max_bytes)
    slots: deque[_Slot | str] = deque()
    waiting = iter(names)
    exhausted = False
    try:
        while True:
            while not exhausted and _may_begin(slots, connections):
                name = next(waiting, None)
                if name is None:
                    exhausted = True
                elif name not in skip:
                    slots.append(_Slot(name, skip, room) if _needs_thread(name) else name)
            if not slots:
                return
            head = slots[0]
            if isinstance(head, str):
                slots.popleft()
                yield head, head
                continue
            head.is_head = True
            while (given := head.results.get()) is not None:
                name, source = given
                del given
                yield name, source
                del source
            slots.popleft()
    finally:
        for slot in slots:
            if isinstance(slot, _Slot):
                slot.stopped = True
        deadline = time.monotonic() + _FAREWELL_S
        for slot in slots:
            if isinstance(slot, _Slot):
                slot.close(deadline)


def _needs_thread(name: str) -> bool:
    return is_url(name) or is_archive(name) or split_member(name) is not None


def _may_begin(slots: deque[_Slot | str], connections: int) -> bool:
    """Whether another name is to be taken now; not while there is one to give that needs nothing."""
    if slots and isinstance(slots[0], str):
        return False
    archives = sum(isinstance(slot, _Slot) and is_archive(slot.name) for slot in slots)
    return len(slots) < connections and archives < _MAX_ARCHIVES


class _Room:
    """How much memory is left; what is given back comes from whatever thread drops a file."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used = 0
        self._returned: deque[int] = deque()
        self._lock = threading.Lock()
        self._stalled = False

    def give_back(self, size: int) -> None:
        self._returned.append(size)  # no lock: it may be called within any other line

    def take(self, size: int, slot: _Slot) -> bool:
        """Whether so many bytes may be held now; names that are not next wait for it."""
        deadline = time.monotonic() + _PATIENCE_S
        while not slot.stopped:
            with self._lock:
                while self._returned:
                    self._used -= self._returned.popleft()
                    self._stalled = False
                # Half is kept for the name that is next, so that those behind it never block it.
                limit = self._max_bytes if slot.is_head else self._max_bytes // 2
                if self._used + size <= limit:
                    self._used += size
                    return True
                if slot.is_head and (size > limit or self._stalled or time.monotonic() > deadline):
                    self._stalled = True  # nobody closes what was given: no use to wait again
                    return False
            if not slot.is_head:
                deadline = time.monotonic() + _PATIENCE_S
            time.sleep(_POLL_S)
        return False


class _Slot:
    """A name on its way, in a thread of its own."""

    def __init__(self, name: str, skip: Container[str], room: _Room) -> None:
        self.name = name
        self.is_head = False
        self.stopped = False
        self.results: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self._skip, self._room = skip, room
        self._thread = threading.Thread(target=self._work, name="audioset-fetch", daemon=True)
        self._thread.start()

    def close(self, deadline: float) -> None:
        """Stop, and close what was not taken."""
        self.stopped = True
        self._thread.join(max(0.0, deadline - time.monotonic()))
        with suppress(queue.Empty):
            while (given := self.results.get_nowait()) is not None:
                given[1].close()

    def _work(self) -> None:
        try:
            if is_archive(self.name) and split_member(self.name) is None:
                self._read_archive()
            else:
                self._put(self.name, self._fetched())
        except AudioSetError as error:
            self.results.put((self.name, Broken(self.name, error)))
        except Exception as error:
            self.results.put((self.name, Broken(self.name, unreadable(self.name, of_error(error)))))
        finally:
            self.results.put(None)

    def _put(self, name: str, file: BinaryIO) -> None:
        if self.stopped:
            file.close()
        else:
            self.results.put((name, file))

    def _fetched(self) -> BinaryIO:
        if split_member(self.name) is not None:
            return open_input(self.name)
        if not self._room.take(SMALL_BYTES, self):
            return open_remote(self.name)
        held = 0
        try:
            where = location(self.name)
            remote = storage_of(where).open(where.path, SMALL_BYTES)
            if remote.size > SMALL_BYTES:
                return as_file(remote, self.name)
            with closing(remote):
                content = remote.read_at(0, remote.size)
            held = len(content)
        finally:
            self._room.give_back(SMALL_BYTES - held)
        return self._counted(cast(BinaryIO, Held(self.name, content)))

    def _read_archive(self) -> None:
        def wanted(member: str) -> bool:
            return member_name(self.name, member) not in self._skip

        def room(size: int) -> bool:
            return size <= _MAX_MEMBER_IN_MEMORY and self._room.take(size, self)

        with closing(members(self.name, wanted, room)) as found:
            for member in found:
                name, content = member_name(self.name, member.name), member.content
                if isinstance(content, AudioError):
                    self.results.put((name, Broken(name, content)))
                else:
                    self._put(name, self._counted(content))
                if self.stopped:
                    return

    def _counted(self, file: BinaryIO) -> BinaryIO:
        """`file`, whose memory is given back when nobody holds it any more."""
        if isinstance(file, Held):
            weakref.finalize(file, self._room.give_back, len(file.getbuffer())).atexit = False
        return file


def open_input(name: str) -> BinaryIO:
    """Return a URL, or a member of an archive (`shard.tar::dir/clip.wav`), as a seekable binary file.

    Raises
    ------
    AudioError
        It cannot be had; also while reading.
    """
    if (parts := split_member(name)) is not None:
        return open_member(*parts)
    return open_remote(name) if is_url(name) else open(os.fspath(name), "rb")  # noqa: PTH123

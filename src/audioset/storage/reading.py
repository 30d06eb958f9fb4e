"""Remote objects as files: seekable, in blocks that grow, and come ahead, where they are read one after another."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, cast

from audioset.errors import AudioSetError
from audioset.storage.base import Promise, Remote, Seekable
from audioset.storage.filesystems import storage_of
from audioset.storage.names import location
from audioset.storage.troubles import of_error, unreadable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FIRST_BYTES = 1 << 16  # of a block where reading begins, at whatever position
LARGEST_BYTES = 1 << 21
_AHEAD_BYTES = 1 << 20  # from this size of blocks on, the next one is fetched before it is asked for
_MAX_BLOCKS = 4


def open_remote(url: str) -> BinaryIO:
    """Return an object as a seekable file; AudioError where it cannot be had."""
    where = location(url)
    try:
        remote = storage_of(where).open(where.path, FIRST_BYTES)
    except AudioSetError:
        raise
    except Exception as error:
        raise unreadable(url, of_error(error)) from error
    return as_file(remote, url)


def as_file(remote: Remote, name: str) -> BinaryIO:
    """Return an opened object as a seekable file, which closes it."""
    return cast(BinaryIO, io.BufferedReader(RemoteFile(remote, name), FIRST_BYTES))


class RemoteFile(Seekable):
    """The bytes of `remote`; the last few blocks of it are kept."""

    def __init__(self, remote: Remote, name: str) -> None:
        super().__init__(name, remote.size)
        self._remote = remote
        self._blocks: OrderedDict[int, bytes] = OrderedDict()  # by where they start
        self._next = 0  # where the block that was fetched last ends
        self._length = FIRST_BYTES // 2
        self._coming: Promise[bytes] | None = None  # the block from `_next` on
        self._lock = threading.Lock()

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        with self._lock:
            try:
                piece = self._from(self._position)[: len(view)]
            except Exception as error:
                raise unreadable(self.name, of_error(error)) from error
            view[: len(piece)] = piece
            self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            with self._lock:
                if self._coming is not None:
                    self._coming.wait()  # libraries take it ill if a file is closed while it is read
                self._blocks.clear()
                self._remote.close()
        super().close()

    def _from(self, position: int) -> memoryview:
        """Bytes from `position` on, at least one but at the end."""
        if position >= self._size:
            return memoryview(b"")
        for start, block in reversed(self._blocks.items()):
            if start <= position < start + len(block):
                self._blocks.move_to_end(start)
                return memoryview(block)[position - start :]
        goes_on = 0 <= position - self._next < self._length
        coming, self._coming = self._coming, None
        if coming is not None and goes_on:
            start, block = self._next, coming.result()
        else:
            self._length = min(2 * self._length, LARGEST_BYTES) if goes_on else FIRST_BYTES
            start, block = position, self._remote.read_at(position, self._length)
        self._next = start + len(block)
        self._blocks[start] = block
        while len(self._blocks) > _MAX_BLOCKS:
            self._blocks.popitem(last=False)
        if goes_on and self._length >= _AHEAD_BYTES and self._next < self._size:
            self._length = min(2 * self._length, LARGEST_BYTES)
            self._coming = Promise(partial(self._remote.read_at, self._next, self._length))
        return memoryview(block)[position - start :]

"""Remote objects as files: seekable, in blocks that grow where they are read one after another."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, BinaryIO, cast

from audioset.storage.base import Remote
from audioset.storage.filesystems import storage_of
from audioset.storage.names import location
from audioset.storage.troubles import of_error, unreadable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FIRST_BYTES = 1 << 16  # headers, of nearly all formats
_LARGEST_BYTES = 1 << 21  # of a block
_MAX_BLOCKS = 4


def open_remote(url: str, first_bytes: int = FIRST_BYTES) -> BinaryIO:
    """Return an object as a seekable file; AudioError where it cannot be had."""
    where = location(url)
    try:
        remote = storage_of(where).open(where.path, first_bytes)
    except Exception as error:
        raise unreadable(url, of_error(error)) from error
    return as_file(remote, url, first_bytes)


def as_file(remote: Remote, name: str, first_bytes: int = FIRST_BYTES) -> BinaryIO:
    """Return an opened object as a seekable file, which closes it."""
    return cast(BinaryIO, io.BufferedReader(RemoteFile(remote, name, first_bytes), FIRST_BYTES))


class RemoteFile(io.RawIOBase):
    """The bytes of `remote`; a few blocks of it are kept."""

    def __init__(self, remote: Remote, name: str, first_bytes: int) -> None:
        self.name = name
        self._remote = remote
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()  # by where they start
        self._next = 0  # where the block that was fetched last ends
        self._length = first_bytes
        self._lock = threading.Lock()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._remote.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        with self._lock:
            piece = self._piece(self._position)[: len(view)]
            view[: len(piece)] = piece
            self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._blocks.clear()
            self._remote.close()
        super().close()

    def _piece(self, position: int) -> memoryview:
        """What is known from `position` on: at least a byte, but at the end."""
        if position >= self._remote.size:
            return memoryview(b"")
        for start, block in reversed(self._blocks.items()):
            if start <= position < start + len(block):
                self._blocks.move_to_end(start)
                return memoryview(block)[position - start :]
        self._length = min(2 * self._length, _LARGEST_BYTES) if position == self._next else FIRST_BYTES
        try:
            block = self._remote.read_at(position, self._length)
        except Exception as error:
            raise unreadable(self.name, of_error(error)) from error
        self._next = position + len(block)
        self._blocks[position] = block
        while len(self._blocks) > _MAX_BLOCKS:
            self._blocks.popitem(last=False)
        return memoryview(block)

"""What every kind of storage is asked for, and files made of what it gives."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_T = TypeVar("_T")

PIECE_BYTES = 1 << 20  # of a stream, at once


@dataclass(frozen=True)
class Entry:
    """A file that was found.

    Attributes
    ----------
    name : str
        As users would type it: a URL or a path.
    size : int or None
        Bytes, where it is known.
    """

    name: str
    size: int | None


class Remote(Protocol):
    """One object, opened. All methods raise Trouble, and may be called from several threads."""

    @property
    def size(self) -> int:
        """How many bytes it has."""

    def read_at(self, start: int, length: int) -> bytes:
        """As many bytes from `start` on, fewer at the end only."""

    def close(self) -> None:
        """Free what it holds."""


class Storage(Protocol):
    """Objects by their paths. All methods raise Trouble."""

    def open(self, path: str, first_bytes: int) -> Remote:
        """An object, of which `first_bytes` will be read at once."""

    def stream(self, path: str) -> Iterator[bytes]:
        """The content of an object from its beginning, gone on with after a fault; closing it ends the request."""

    def size(self, path: str) -> int | None:
        """How many bytes an object has, None where nobody says."""

    def files(self, folder: str, *, below: bool) -> Iterator[tuple[str, int | None]]:
        """Path and size of every object in a folder, or anywhere below it, sorted by path."""


class Promise(Generic[_T]):
    """What `work` gives, done meanwhile in a thread that does not keep the program from ending."""

    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self._value: _T
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="audioset-ahead", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when it is done, well or not."""
        self._thread.join()

    def result(self) -> _T:
        """Return what came of it, or raise what was raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error


class Seekable(io.RawIOBase):
    """A file of a known size, whose position is kept here."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence] + offset
        if position < 0:
            raise ValueError(f"{self.name}: there is no position {position}")
        self._position = position
        return position


class Section(Seekable):
    """Some bytes of a file, which it closes."""

    def __init__(self, file: BinaryIO, start: int, size: int, name: str) -> None:
        super().__init__(name, size)
        self._file, self._start = file, start

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._start + self._position)
        data = self._file.read(max(0, min(len(view), self._size - self._position)))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

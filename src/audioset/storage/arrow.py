"""Object storage by its paths, through Arrow's file systems; those of fsspec are wrapped as such."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

from audioset.storage.base import Promise
from audioset.storage.troubles import Trouble, of_error, retried

_STREAM_BYTES = 1 << 23  # one request each


class ArrowStorage:
    """Objects of an Arrow file system.

    Parameters
    ----------
    filesystem : pyarrow.fs.FileSystem
        Where they are.
    host, root : str
        How paths begin in URLs, and in its place there, where these differ.
    """

    def __init__(self, filesystem: Any, host: str = "", root: str = "") -> None:
        self.filesystem = filesystem
        self._host, self._root = host, root

    def inner(self, path: str) -> str:
        """Return the file system's own path for that of a URL."""
        return self._root + path.removeprefix(self._host)

    def open(self, path: str, first_bytes: int) -> ArrowFile:
        return ArrowFile(retried(lambda: self.filesystem.open_input_file(self.inner(path))))

    def stream(self, path: str) -> Iterator[bytes]:
        file = self.open(path, 0)
        coming = None
        try:
            # Each read is a request of its own, so the next one is under way while this piece is used.
            coming = Promise(partial(file.read_at, 0, _STREAM_BYTES))
            for start in range(_STREAM_BYTES, file.size + _STREAM_BYTES, _STREAM_BYTES):
                piece = coming.result()
                coming = Promise(partial(file.read_at, start, _STREAM_BYTES))
                yield piece
        finally:
            if coming is not None:
                coming.wait()
            file.close()

    def size(self, path: str) -> int | None:
        from pyarrow.fs import FileType

        info = retried(lambda: self.filesystem.get_file_info(self.inner(path)))
        if info.type == FileType.NotFound:
            raise Trouble("missing", "no such object")
        return cast("int | None", info.size)

    def files(self, folder: str, *, below: bool) -> Iterator[tuple[str, int | None]]:
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self.inner(folder), recursive=below, allow_not_found=True)
        found = retried(lambda: self.filesystem.get_file_info(selector))
        # Some of fsspec's put a slash before everything.
        slash = "" if self.inner(folder).startswith("/") else "/"
        files = [
            (self._host + info.path.removeprefix(slash).removeprefix(self._root), info.size)
            for info in found
            if info.type == FileType.File
        ]
        del found
        yield from sorted(files)


class ArrowFile:
    """One object."""

    def __init__(self, file: Any) -> None:
        self._file = file
        try:
            self._size: int = file.size()
        except Exception as error:
            raise of_error(error) from error

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, start: int, length: int) -> bytes:
        length = min(length, self._size - start)
        if length <= 0:
            return b""
        data: bytes = retried(lambda: self._file.read_at(length, start))
        if len(data) < length:
            raise Trouble("other", f"{len(data):,} bytes came of {length:,} from byte {start:,} on")
        return data

    def close(self) -> None:
        self._file.close()

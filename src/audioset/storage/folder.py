"""Where outputs go: a folder on a disk or a prefix in object storage, with the same behaviour."""

from __future__ import annotations

import fnmatch
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from audioset._files import replacing, temporary_files
from audioset._files import unwritable as unwritable_file
from audioset.errors import AudioSetError, OutputError
from audioset.storage.filesystems import storage_of
from audioset.storage.names import FILE_SCHEME, HTTP_SCHEMES, is_url, location
from audioset.storage.troubles import of_error, retried, unwritable

if TYPE_CHECKING:
    from audioset.storage.arrow import ArrowStorage

TEMPORARIES = "_tmp"
"""The folder within, of files that are being written; readers of data sets skip names that begin with `_`."""

_ONE_WRITE_BYTES = 1 << 22  # less than a part of an upload: nothing is sent before all of it is known
_WHOLE_AT_CLOSE = frozenset(("s3", "gs", "gcs"))  # where such a write is one request, and seen whole or not at all


class Folder:
    """A place for files that are written whole or not at all.

    Attributes
    ----------
    name : str
        As it was given, without a final slash.
    is_local : bool
        On a disk.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_local = not is_url(name)

    @classmethod
    def at(cls, name: str | os.PathLike[str]) -> Folder:
        """Return the folder of a path or URL; it need not be there.

        Raises
        ------
        OutputError
            Nothing can be written there.
        """
        name = os.fspath(name)
        if is_url(name):
            where = location(name)
            if where.scheme == FILE_SCHEME:
                return cls(where.path)
            if where.scheme in HTTP_SCHEMES:
                raise OutputError(
                    f"{name}: a web server takes no outputs; expected a folder or a URL of object storage. "
                    "Name, for example, s3://bucket/prefix"
                )
            name = where.name(where.path.rstrip("/"))
        return cls(name)

    def names(self, pattern: str = "*") -> list[str]:
        """Return the names of the files in it, not below, that match, sorted; none where it is not there."""
        return list(self.times(pattern))

    def times(self, pattern: str = "*") -> dict[str, float]:
        """Return `names` with the time at which each was written, in seconds."""
        return {name: time for name, time in sorted(self._files("")) if fnmatch.fnmatchcase(name, pattern)}

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        """Return a file, seekable."""
        try:
            if self.is_local:
                return Path(self.name, name).open("rb")
            return cast(BinaryIO, retried(lambda: self._filesystem().open_input_file(self._path(name))))
        except Exception as error:
            raise self._error(name, error) from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all; one of this name is replaced."""
        with self.writing(name) as file:
            file.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Give a file to write to; it has its name when the block ends well, and is nowhere when not."""
        if self.is_local:
            with self._writing_local(name) as file:
                yield file
            return
        with temporary_files():
            file = tempfile.TemporaryFile()  # noqa: SIM115 - entered below
        with file:
            with temporary_files():
                yield file
                file.flush()
            self._upload(file, name)

    def delete(self, name: str) -> None:
        """Remove a file; none of this name is no error."""
        try:
            if self.is_local:
                Path(self.name, name).unlink()
            else:
                retried(lambda: self._filesystem().delete_file(self._path(name)))
        except Exception as error:
            if isinstance(error, FileNotFoundError) or of_error(error).kind == "missing":
                return
            if self.is_local and isinstance(error, OSError):
                raise unwritable_file(Path(self.name, name), error) from error
            raise self._error(name, error) from error

    def exists(self, name: str) -> bool:
        """Return whether a file of this name is there."""
        try:
            if self.is_local:
                return stat.S_ISREG(Path(self.name, name).stat().st_mode)
            from pyarrow.fs import FileType

            return bool(retried(lambda: self._filesystem().get_file_info(self._path(name))).type == FileType.File)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except Exception as error:
            raise self._error(name, error) from error

    def sweep(self, older_than_s: float) -> None:
        """Remove what writers that were killed have left, if nothing was written to it for so long."""
        limit = time.time() - older_than_s
        for name, modified in self._files(TEMPORARIES):
            if modified <= limit:
                with suppress(OutputError):  # another user's: all that was to be done is done
                    self.delete(f"{TEMPORARIES}/{name}")
        if self.is_local:
            with suppress(OSError):  # another writer's file is in it, or it is not there
                Path(self.name, TEMPORARIES).rmdir()

    @contextmanager
    def _writing_local(self, name: str) -> Iterator[IO[bytes]]:
        path = Path(self.name, name)
        temporary = Path(self.name, TEMPORARIES, f"{name}.{secrets.token_hex(4)}")
        try:
            with replacing(path, temporary), _created(temporary) as file:
                yield file
        except AudioSetError:
            raise
        except OSError as error:
            among = isinstance(error, PermissionError) and temporary.parent.is_dir()  # the folder may be another user's
            raise unwritable_file(temporary.parent if among else path, error) from error

    def _upload(self, file: IO[bytes], name: str) -> None:
        size = file.seek(0, os.SEEK_END)
        filesystem, path = self._filesystem(), self._path(name)
        if size <= _ONE_WRITE_BYTES and location(self.name).scheme in _WHOLE_AT_CLOSE:
            temporary = path
        else:
            # A stream that is closed because of an error leaves what it has under its name.
            temporary = self._path(f"{TEMPORARIES}/{name}.{secrets.token_hex(4)}")

        def upload() -> None:
            file.seek(0)
            with filesystem.open_output_stream(temporary) as out:
                while piece := file.read(_ONE_WRITE_BYTES):
                    out.write(piece)

        try:
            retried(upload)
            if temporary != path:
                retried(lambda: filesystem.move(temporary, path))
        except Exception as error:
            if temporary != path:
                with suppress(Exception):
                    filesystem.delete_file(temporary)
            raise self._error(name, error) from error

    def _files(self, folder: str) -> list[tuple[str, float]]:
        """Name and time of change of the files in it, or in a folder in it."""
        try:
            if self.is_local:
                with os.scandir(Path(self.name, folder)) as entries:
                    return list(_times_of(entries))
            from pyarrow.fs import FileSelector, FileType

            selector = FileSelector(self._path(folder), allow_not_found=True)
            infos = retried(lambda: self._filesystem().get_file_info(selector))
            return [(info.base_name, (info.mtime_ns or 0) / 1e9) for info in infos if info.type == FileType.File]
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._error(folder, error) from error

    def _path(self, name: str = "") -> str:
        path = self._storage().inner(location(self.name).path)
        return f"{path}/{name}" if name else path

    def _filesystem(self) -> Any:
        return self._storage().filesystem

    def _storage(self) -> ArrowStorage:
        return cast("ArrowStorage", storage_of(location(self.name)))

    def _error(self, name: str, error: Exception) -> OutputError:
        if isinstance(error, OutputError):
            return error
        if isinstance(error, NotADirectoryError):
            return unwritable_file(Path(self.name), error)
        if self.is_local:
            said = getattr(error, "strerror", None) or error
            return OutputError(
                f"{Path(self.name, name)}: cannot be read ({said}); expected the right to do so. Check the folder"
            )
        where = location(self.name)
        return unwritable(where.name(f"{where.path}/{name}") if name else self.name, of_error(error))


def _times_of(entries: Iterable[os.DirEntry[str]]) -> Iterator[tuple[str, float]]:
    """Name and time of change of files, but for those that another process removes meanwhile."""
    for entry in entries:
        with suppress(FileNotFoundError):
            if entry.is_file():
                yield entry.name, entry.stat().st_mtime


def _created(path: Path) -> IO[bytes]:
    """A new file in a folder that another process may sweep away meanwhile, or another user have left empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return path.open("xb")
    except (FileNotFoundError, PermissionError):
        with suppress(OSError):
            path.parent.rmdir()
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")

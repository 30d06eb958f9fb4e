"""Files as the weights code handles them: mapped instead of read, hashed in pieces, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from audioset.errors import AudioSetError, OutputError, WeightsError

_PIECE_BYTES = 1 << 20


def cache_dir() -> Path:
    """Return the folder that fetched and converted weights are kept in: `AUDIOSET_CACHE`, or the user's own cache."""
    chosen = os.environ.get("AUDIOSET_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("audioset"))


def map_file(path: Path) -> memoryview:
    """Return the bytes of a file, read-only and mapped: nothing is read until it is looked at.

    Raises
    ------
    WeightsError
        If the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")  # an empty file cannot be mapped
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise unreadable(path, error) from error


def sha256_of(paths: Iterable[Path]) -> str:
    """Return the sha256 of the files' bytes, one file after the other, as `cat FILES | sha256sum` does."""
    digest = hashlib.sha256()
    for path in paths:
        _update(digest, path)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, path: Path) -> None:
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> WeightsError:
    """Return the error for a file that the system does not let us read."""
    reason = error.strerror or str(error)
    return WeightsError(f"{path}: {reason}; expected a readable weights file. Check the path and its permissions.")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it becomes `path` if the block ends well and vanishes if not.

    Raises
    ------
    OutputError
        If the folder cannot be written to or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp lets nobody else read; a cache may be shared
        temporary.replace(path)
    except AudioSetError:
        raise
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> OutputError:
    """Return the error for a file that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        found = "the disk is full"
    else:
        found = f"cannot be written ({error.strerror or error})"
    return OutputError(
        f"{path}: {found}; expected a writable folder with enough room. Free some, or choose another place "
        "(for the cache: set AUDIOSET_CACHE)."
    )


def _umask() -> int:
    # The only portable way to ask is to set it; the gap is harmless because both values are the process's own.
    current = os.umask(0o022)
    os.umask(current)
    return current

"""Files written whole or not at all: under another name, pushed to the disk, then renamed."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from audioset.errors import AudioSetError, OutputError

_SHOWN_NAME = 40  # characters of a temporary file's name; a long one must not become too long


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it becomes `path` if the block ends well and vanishes if not.

    Raises
    ------
    OutputError
        If the folder cannot be written to or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:_SHOWN_NAME]}.", dir=path.parent)
        os.close(handle)
        with replacing(path, Path(name)) as temporary:
            yield temporary
            temporary.chmod(0o666 & ~_umask())  # mkstemp lets nobody else read; a cache may be shared
    except AudioSetError:
        raise
    except OSError as error:
        raise unwritable(path, error) from error


@contextmanager
def replacing(path: Path, temporary: Path) -> Iterator[Path]:
    """Give `temporary` to write to, in the folder of `path` or one on the same disk; errors stay the system's own.

    When the block ends well, all of it is on the disk before it takes its final name, so that not even a loss of power
    leaves half a file under that name. In any case nothing is left under the temporary one.
    """
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        if os.name == "posix":
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_files() -> Iterator[None]:
    """Say of what the system refuses in the block that temporary files are what it is about.

    Raises
    ------
    OutputError
        There is no folder for them, or no room in it.
    """
    try:
        yield
    except AudioSetError:
        raise
    except OSError as error:
        raise OutputError(
            f"{tempfile.tempdir or 'TMPDIR'}: temporary files: {why_unwritable(error)}; expected a writable folder "
            "with room for a long recording or two. Free some, or set TMPDIR to another folder."
        ) from error


def is_full(error: OSError) -> bool:
    """Return whether the system refuses for want of room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def why_unwritable(error: OSError) -> str:
    """Return what a message says of a file that cannot be written."""
    return "the disk is full" if is_full(error) else f"cannot be written ({error.strerror or error})"


def unwritable(path: Path, error: OSError) -> OutputError:
    """Return the error for a file that cannot be written."""
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return OutputError(
            f"{path}: cannot be written (a file is where a folder is wanted); expected a folder, or nothing. Choose "
            "another place (for the cache: set AUDIOSET_CACHE)."
        )
    return OutputError(
        f"{path}: {why_unwritable(error)}; expected a writable folder with enough room. Free some, or choose another "
        "place (for the cache: set AUDIOSET_CACHE)."
    )


def _sync_folder(folder: Path) -> None:
    """Push a folder's entries to the disk, where its file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    # The only portable way to ask is to set it; the gap is harmless because both values are the process's own.
    current = os.umask(0o022)
    os.umask(current)
    return current

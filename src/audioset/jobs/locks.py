"""Who is at work on a job in a local folder: a lock for each share, and what is left of those of killed processes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from audioset._files import unwritable
from audioset.errors import OutputError
from audioset.jobs.output import Output

_LOCK = "_lock"
# What network disks without locks say: what is done twice is there once all the same.
_NO_LOCKS = frozenset((errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF))


@contextmanager
def alone(output: Output, shard: tuple[int, int] = (1, 1)) -> Iterator[None]:
    """Hold the lock of a share of a job in a local folder; on object storage there is none.

    Raises
    ------
    OutputError
        Another process is at work on it, or the folder cannot be written to.
    """
    if not output.folder.is_local:
        yield
        return
    index, count = shard
    path = Path(output.folder.name, _LOCK if count == 1 else f"{_LOCK}-{index}-of-{count}")
    try:
        handle = _take(path)
    except BlockingIOError as error:
        raise _at_work(output.name, "it" if count == 1 else f"shard {index}/{count}") from error
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        _let_go(path, handle)


def remove_left(folder: str) -> list[str]:
    """Remove the locks of a local folder that nobody holds, as killed processes leave them; return the others."""
    return [path.name for path in sorted(Path(folder).glob(f"{_LOCK}*")) if _is_held(path)]


def check_idle(folder: str) -> None:
    """Raise OutputError where another process is at work in a local folder."""
    if held := remove_left(folder):
        raise _at_work(folder, held[0])


def _at_work(name: str, what: str) -> OutputError:
    return OutputError(f"{name}: another process is at work on {what}; wait for it to end, or choose another --out")


def _is_held(path: Path) -> bool:
    """Whether somebody holds a lock; otherwise it is removed, where that may be."""
    try:
        _let_go(path, _take(path))
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


if sys.platform == "win32":
    import msvcrt

    def _take(path: Path) -> int:
        """Return what holds a lock; BlockingIOError where another process does."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            os.close(handle)
            raise BlockingIOError from error
        return handle

    def _let_go(path: Path, handle: int) -> None:
        os.close(handle)
        with suppress(OSError):  # no file that another process has open can be removed
            path.unlink()

else:
    import fcntl

    def _take(path: Path) -> int:
        """Return what holds a lock; BlockingIOError where another process does."""
        while True:
            handle = _opened(path)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    os.close(handle)
                    if error.errno == errno.EACCES:  # some disks say so of a lock that is held
                        raise BlockingIOError from error
                    raise
            if os.fstat(handle).st_nlink:  # and was not removed between opening and locking it
                return handle
            os.close(handle)

    def _opened(path: Path) -> int:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except PermissionError:  # another user's: to lock it, reading will do
            with suppress(FileNotFoundError):
                return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            raise

    def _let_go(path: Path, handle: int) -> None:
        with suppress(OSError):
            path.unlink()  # before it is free: whoever has opened it meanwhile sees that, and makes a new one
        os.close(handle)

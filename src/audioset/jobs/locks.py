"""Who is at work on a job in a local folder: a lock for each share, and what is left of those of killed processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from audioset._files import unwritable
from audioset.errors import OutputError
from audioset.jobs.output import Output

_LOCK = "_lock"


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
    import filelock

    index, count = shard
    path = Path(output.folder.name, _LOCK if count == 1 else f"{_LOCK}-{index}-of-{count}")
    lock = filelock.FileLock(path, timeout=0, thread_local=False)
    try:
        try:
            lock.acquire()
        except PermissionError as error:  # another user's, who may be gone
            if _is_held(path):
                raise filelock.Timeout(str(path)) from error
            lock.acquire()
    except filelock.Timeout as error:
        raise _at_work(output.name, "it" if count == 1 else f"shard {index}/{count}") from error
    except NotImplementedError:  # a network disk without locks: what is done twice is there once all the same
        yield
        return
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            path.unlink()


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
        import fcntl
    except ImportError:  # Windows, where no file that is open can be removed
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return path.exists()
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()  # whoever waits for it makes a new one
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
    return False

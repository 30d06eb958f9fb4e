"""What stands for a recording as it is now, without reading it: one that has changed is another one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from stat import S_ISREG

from audioset.errors import AudioError
from audioset.storage.names import is_url, location, split_member

_REQUESTS = 16  # at a time


def holder(name: str) -> str:
    """Return the file that a recording is in: itself, or its archive."""
    member = split_member(name)
    return name if member is None else member[0]


def identities(names: Sequence[str]) -> Iterator[tuple[str, str | AudioError | None]]:
    """Yield each name with `SIZE:TIME:NAME`, None where nobody says when it was changed, or why it cannot be had.

    Size and time, the latter in nanoseconds, are those of the file or the object, of an archive for what is in it; the
    name is a URL or an absolute path. What a server does not tell comes to light when it is read.
    """
    remote = list(dict.fromkeys(file for name in names if is_url(file := holder(name))))
    stamps: dict[str, str | None] = {}
    if remote:
        with ThreadPoolExecutor(_REQUESTS) as pool:
            stamps.update(zip(remote, pool.map(_stamp_of_object, remote), strict=True))
    for name in names:
        file = holder(name)
        try:
            stamp = stamps[file] if file in stamps else _stamp_of_file(file)
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            yield name, AudioError(f"{name}: {said}; expected a recording, or an archive of them. Check the path")
            continue
        yield name, None if stamp is None else f"{stamp}:{_absolute(file)}{name.removeprefix(file)}"


def is_current(identity: str, stamps: dict[str, str]) -> bool:
    """Return whether a recording of a disk is as it was; of others, whether `stamps` do not say that it has changed.

    Parameters
    ----------
    identity : str
        As `identities` gives it.
    stamps : dict of str to str
        Size and time by URL, as far as they are known now.
    """
    parts = identity.split(":", 2)
    if len(parts) != 3:
        return False
    stamp, file = f"{parts[0]}:{parts[1]}", holder(parts[2])
    if is_url(file):
        return stamps.get(file, stamp) == stamp
    try:
        return _stamp_of_file(file) == stamp
    except (OSError, ValueError):
        return False


def stamps_of(identities: Iterable[str]) -> dict[str, str]:
    """Return size and time by the name of the file, from identities."""
    parts = [identity.split(":", 2) for identity in identities]
    return {holder(name): f"{size}:{time}" for size, time, name in parts}


def _stamp_of_file(path: str) -> str:
    found = os.stat(path)  # noqa: PTH116
    if not S_ISREG(found.st_mode):
        raise OSError(0, "no regular file")
    return f"{found.st_size}:{found.st_mtime_ns}"


def _stamp_of_object(url: str) -> str | None:
    """Size and time of an object; None where its storage does not say them, for whatever reason."""
    from pyarrow.fs import FileType

    from audioset.storage.arrow import ArrowStorage
    from audioset.storage.filesystems import storage_of
    from audioset.storage.troubles import retried

    try:
        where = location(url)
        storage = storage_of(where)
        if not isinstance(storage, ArrowStorage):  # a web server
            return None
        info = retried(lambda: storage.filesystem.get_file_info(storage.inner(where.path)))
    except Exception:  # whoever reads it next says why
        return None
    if info.type != FileType.File or info.size is None or not info.mtime_ns:
        return None
    return f"{info.size}:{info.mtime_ns}"


def _absolute(name: str) -> str:
    return name if is_url(name) else os.path.abspath(name)  # noqa: PTH100

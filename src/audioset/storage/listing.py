"""What is in folders and prefixes, and how large it is."""

from __future__ import annotations

import os
from collections.abc import Iterator

from audioset.errors import AudioError, AudioSetError
from audioset.storage.base import Entry
from audioset.storage.filesystems import storage_of
from audioset.storage.names import (
    HTTP_SCHEMES,
    fixed_folder,
    has_magic,
    is_archive,
    is_audio,
    is_url,
    location,
    matcher,
    split_member,
)
from audioset.storage.troubles import of_error, unreadable


def list_audio(name: str) -> Iterator[Entry]:
    """Yield the audio files and archives below a folder, a prefix or in a pattern, sorted.

    Parameters
    ----------
    name : str
        A path or URL of a folder, or a pattern (`*`, `?`, `[…]`, `**`): every file that matches, whatever its ending.

    Raises
    ------
    AudioError
        It cannot be listed.
    """
    if not is_url(name):
        yield from _list_local(name)
        return
    where = location(name)
    if where.scheme in HTTP_SCHEMES:
        raise AudioError(
            f"{name}: web servers cannot be listed; expected the URLs of files. Put them into a file, one a line, "
            "and name it with --files-from"
        )
    pattern = has_magic(where.path)
    folder = fixed_folder(where.path) if pattern else where.path.rstrip("/")
    matches = matcher(where.path) if pattern else None
    try:
        below = not pattern or "/" in where.path[len(folder) + 1 :] or "**" in where.path
        for path, size in storage_of(where).files(folder, below=below):
            if matches(path) if matches else (is_audio(path) or is_archive(path)):
                yield Entry(where.name(path), size)
    except AudioSetError:
        raise
    except Exception as error:
        raise unreadable(name, of_error(error)) from error


def size_of(name: str) -> int | None:
    """Return the bytes of one file, None where nobody says or it cannot be had."""
    if split_member(name) is not None:
        return None
    try:
        if not is_url(name):
            return os.path.getsize(name)  # noqa: PTH202 - a path that is too long is no error here
        where = location(name)
        return storage_of(where).size(where.path)
    except Exception:
        return None


def _list_local(name: str) -> Iterator[Entry]:
    from audioset.inputs import find

    locked: list[tuple[str, AudioError]] = []
    for path in find(name, locked, archives=True):
        yield Entry(path, size_of(path))
    if locked:
        raise locked[0][1]

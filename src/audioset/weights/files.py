"""Files as the weights code handles them: mapped instead of read, and hashed in pieces."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

from audioset.errors import WeightsError
from audioset.models.own import HUB

_PIECE_BYTES = 1 << 20


def cache_dir() -> Path:
    """Return the folder that fetched and converted weights are kept in: `AUDIOSET_CACHE`, or the user's own cache."""
    chosen = os.environ.get("AUDIOSET_CACHE")
    if chosen:
        return user_path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("audioset"))


def user_path(given: str | os.PathLike[str]) -> Path:
    """Return a path as users write it; a `~name` of nobody's stays, to be reported as a file that is not there."""
    return Path(os.path.expanduser(given))  # noqa: PTH111  (pathlib's raises RuntimeError where there is no such user)


def locate(given: str | os.PathLike[str]) -> tuple[Path, str]:
    """Return where a file is that users name, and what to call it.

    That is a path and its last part; or "hf://owner/name", fetched where need be, and the same with its commit.
    """
    name = os.fspath(given)
    if not name.startswith(HUB):
        path = user_path(name)
        return path, path.name
    from audioset.hub.download import located

    found = located(name)
    return found.path, found.name


def is_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is there, as far as the system lets us see: unlike pathlib's, for any name and folder."""
    return os.path.isfile(path)


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

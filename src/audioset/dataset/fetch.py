"""AudioSet's published files in the user's cache, fetched when they are not there, verified in any case."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from audioset import _fetch
from audioset._fetch import Progress
from audioset.dataset.catalogue import PAGE, DatasetFile, select, size_text
from audioset.errors import DatasetError, OptionError

BASE_URL_VARIABLE: Final = "AUDIOSET_DATASET_URL"


def fetch(name: str, *, region: str = "us", base_url: str | None = None, progress: Progress | None = None) -> Path:
    """Return the path of one of AudioSet's files in the cache, fetched if it is not there, verified in either case.

    A file of known hash is held to it. Others come over https only, are held to what their server states of them and
    to their own structure, and have their sha256 noted beside them, so that a later change shows. A file that was put
    there by hand is used if it passes the same. A download that was cut is continued.

    Parameters
    ----------
    name
        A name of the catalogue, such as "eval" or "features".
    region
        "us", "eu" or "asia": where from, for files that are published in each (the features).
    base_url
        A folder elsewhere that has the files under their published names, such as an institute's copy; None for what
        `AUDIOSET_DATASET_URL` says, else for where they are published. Known hashes bind it too.
    progress
        Called as `progress(bytes_done, bytes_total)` while something is downloaded.

    Raises
    ------
    FetchError
        If the file is not to be had: no network (or `AUDIOSET_OFFLINE` set), not there, not the right file, no room
        for it. The message says what to fetch by hand and where to put it.
    OptionError
        If there is no such file or region, or the base is no http(s) address.
    DatasetError
        If the cache has the file and it may not be read.
    """
    file = _one(name)
    target = path_of(file)
    url = _url(file, region, base_url)
    wanted = _fetch.Wanted(
        name=file.name,
        url=url,
        target=target,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        is_whole=lambda: _is_whole(file, target),
        by_hand=lambda: _by_hand(file, file.url_in(region), target),
        check=file.check,
    )
    _fetch.fetch(wanted, progress=progress)
    if file.sha256 is None and _fetch.noted_sha256(target) is None:  # put there by hand
        with suppress(OSError):  # a cache that is only read
            _fetch.note_sha256(target, _fetch.sha256_of(target))
    return target


def fetch_group(
    group: str, *, region: str = "us", base_url: str | None = None, progress: Progress | None = None
) -> dict[str, Path]:
    """Return the paths of all files of a group (or of the one file of a name) by their names; see `fetch`.

    Raises
    ------
    FetchError, OptionError, DatasetError
        As `fetch`, of the first file that is not to be had; those before it stay in the cache.
    """
    files = select([group])
    return {file.name: fetch(file.name, region=region, base_url=base_url, progress=progress) for file in files}


def present(name: str) -> Path | None:
    """Return the path of one of AudioSet's files if the cache has it, whole and unchanged, else None; never fetches.

    Raises
    ------
    OptionError
        If there is no such file.
    DatasetError
        If the file is there and may not be read.
    """
    file = _one(name)
    target = path_of(file)
    return target if _is_whole(file, target) else None


def path_of(file: DatasetFile) -> Path:
    """Return where a file belongs in the cache, whether it is there or not."""
    from audioset.weights.files import cache_dir

    return cache_dir() / "dataset" / file.file_name


def _one(name: str) -> DatasetFile:
    files = select([name])
    if len(files) != 1:
        raise OptionError(f"{name!r}: a group; expected one of its files, {', '.join(file.name for file in files)}")
    return files[0]


def _is_whole(file: DatasetFile, target: Path) -> bool:
    """Return whether a path has the file: by its hash, known or noted, else by its structure."""
    if not os.path.isfile(target):
        return False
    try:
        expected = file.sha256 or _fetch.noted_sha256(target)
        if expected is not None:
            return _fetch.sha256_of(target) == expected
        if file.check is not None:
            file.check(target)
    except OSError as error:
        raise DatasetError(
            f"{target}: {error.strerror or error}; expected a readable file. Check its permissions, or set "
            "AUDIOSET_CACHE to a folder elsewhere."
        ) from error
    except DatasetError:
        return False
    return True


def _url(file: DatasetFile, region: str, base_url: str | None) -> str:
    published = file.url_in(region)
    base = os.environ.get(BASE_URL_VARIABLE) if base_url is None else base_url
    if not base:
        return published
    address = urlsplit(base)
    if address.scheme not in ("http", "https") or not address.hostname:
        origin = BASE_URL_VARIABLE if base_url is None else "base_url"
        raise OptionError(
            f"{origin} {_fetch.shown(base)!r}: not an http(s) address; expected one such as "
            "https://example.org/audioset, of a folder that has the files under their published names"
        )
    return f"{base.rstrip('/')}/{file.file_name}"


def _by_hand(file: DatasetFile, url: str, target: Path) -> str:
    facts = ", ".join(filter(None, (size_text(file.size_bytes), f"sha256 {file.sha256}" if file.sha256 else "")))
    put = f"{url} ({facts})" if facts else url
    return (
        f"\nTo fetch it by hand: put {put} at {target}."
        f"\nIt is described at {PAGE}. {BASE_URL_VARIABLE} may name a copy elsewhere."
    )

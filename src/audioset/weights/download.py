"""Files of the catalogue, fetched into the cache: continued when cut, verified always, once for all processes."""

from __future__ import annotations

from pathlib import Path

from audioset import _fetch, models
from audioset._fetch import Progress
from audioset.weights.catalogue import CatalogueEntry
from audioset.weights.files import cache_dir, is_file, sha256_of

__all__ = ["Progress", "by_hand", "fetch", "is_whole"]


def fetch(entry: CatalogueEntry, *, progress: Progress | None = None) -> Path:
    """Return the path of a catalogue entry's file in the cache, fetched if it is not there, verified in either case.

    A file that was put there by hand is used if its hash is right. What was fetched before a connection broke is kept
    beside it as `NAME.part` and continued. When several processes ask for the same file at once, one fetches it and
    the others wait.

    Raises
    ------
    FetchError
        If the file is not to be had: no network (or `AUDIOSET_OFFLINE` set), not on the server, not of the right
        hash, or no room for it. The message says what to fetch by hand and where to put it.
    """
    wanted = _fetch.Wanted(
        name=entry.name,
        url=entry.url,
        target=cache_dir() / entry.file_name,
        sha256=entry.sha256,
        size_bytes=entry.size_bytes,
        is_whole=lambda: is_whole(entry),
        by_hand=lambda: by_hand(entry),
    )
    return _fetch.fetch(wanted, progress=progress)


def is_whole(entry: CatalogueEntry) -> bool:
    """Return whether the cache has the entry's file with the right hash."""
    target = cache_dir() / entry.file_name
    return is_file(target) and sha256_of([target]) == entry.sha256


def by_hand(entry: CatalogueEntry) -> str:
    """Return how to get an entry's file without this program, and which models need no download."""
    shipped = [name for name in models.REGISTRY if models.built_in(name) is not None]
    without = [f"model {name} (its weights come with the package)" for name in shipped]
    size = "size unknown" if entry.size_bytes is None else f"{entry.size_bytes:,} bytes"
    return (
        f"\nTo fetch it by hand: put {entry.url} ({size}, sha256 {entry.sha256}) at {cache_dir() / entry.file_name}."
        f"\nWithout a download there are: {'; '.join(['weights `untrained:0` (random, to try things out)', *without])}."
    )

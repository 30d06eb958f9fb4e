"""Files of the catalogue, fetched into the cache: continued when cut, verified always, once for all processes."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from audioset import models
from audioset._files import why_unwritable
from audioset.errors import FetchError
from audioset.weights.catalogue import CatalogueEntry
from audioset.weights.files import cache_dir, is_file, sha256_of

Progress: TypeAlias = Callable[[int, int | None], None]  # bytes here so far, and in all if known

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
BACKOFF_S = 1.0  # before the first retry; doubled each time
MAX_RETRIES: Final = 3  # in a row that bring nothing new
_RETRIED: Final = frozenset((408, 429, 500, 502, 503, 504))
_PIECE_BYTES: Final = 1 << 18


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
    target = cache_dir() / entry.file_name
    if is_whole(entry):
        return target
    if os.environ.get("AUDIOSET_OFFLINE", "0") not in ("", "0"):
        raise FetchError(f"{entry.name}: {_in_cache(target)} and AUDIOSET_OFFLINE is set.{by_hand(entry)}")
    import filelock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{target}.lock"):
            if not is_whole(entry):  # another process may have been first
                _retrieve(entry, target, progress)
    except FetchError:
        raise
    except OSError as error:
        raise FetchError(
            f"{target}: {why_unwritable(error)}; expected room for {entry.name} ({_size(entry)}) in a writable cache. "
            "Free some, or set AUDIOSET_CACHE to a folder elsewhere."
        ) from error
    return target


def is_whole(entry: CatalogueEntry) -> bool:
    """Return whether the cache has the entry's file with the right hash."""
    target = cache_dir() / entry.file_name
    return is_file(target) and sha256_of([target]) == entry.sha256


def by_hand(entry: CatalogueEntry) -> str:
    """Return how to get an entry's file without this program, and which models need no download."""
    shipped = [name for name in models.REGISTRY if models.built_in(name) is not None]
    without = [f"model {name} (its weights come with the package)" for name in shipped]
    return (
        f"\nTo fetch it by hand: put {entry.url} ({_size(entry)}, sha256 {entry.sha256}) at "
        f"{cache_dir() / entry.file_name}."
        f"\nWithout a download there are: {'; '.join(['weights `untrained:0` (random, to try things out)', *without])}."
    )


def _retrieve(entry: CatalogueEntry, target: Path, progress: Progress | None) -> None:
    import pooch

    part = target.with_name(f"{target.name}.part")
    resumed = _size_of(part) > 0
    while True:

        def download(url: str, output: str, _: Any) -> None:
            _download(entry, url, part, progress)
            part.replace(output)  # pooch verifies it, then moves it into place or deletes it

        try:
            with _quiet(pooch.get_logger()):
                pooch.retrieve(entry.url, f"sha256:{entry.sha256}", target.name, target.parent, downloader=download)
        except ValueError as error:  # pooch's for a hash that is not the expected one
            if resumed:  # the earlier part may have been of another version of the file
                resumed = False
                continue
            raise FetchError(
                f"{entry.name}: {error} Nothing was kept. Try again later or from another network; if it "
                f"stays so, {entry.url} has changed or is answered by something in between.{by_hand(entry)}"
            ) from error
        return


def _download(entry: CatalogueEntry, url: str, part: Path, progress: Progress | None) -> None:
    """Bring `part` to the whole length of what is at `url`, continuing where it ends and trying again when cut."""
    import requests

    furthest = _size_of(part)
    failures = 0
    while True:
        try:
            _continue(url, part, progress)
            return
        except requests.RequestException as error:
            cause = error
        answer = cause.response
        if answer is None:
            found = f"cannot be reached or breaks off ({_short(cause)})"
        else:
            found = f"answers {answer.status_code} {answer.reason}"
            if answer.status_code not in _RETRIED:
                raise FetchError(f"{entry.name}: {url} {found}; expected the file.{by_hand(entry)}") from cause
        reached = _size_of(part)
        failures = 1 if reached > furthest else failures + 1
        furthest = max(furthest, reached)
        if failures > MAX_RETRIES:
            raise FetchError(
                f"{entry.name}: {url} {found}, {failures} times in a row; expected the file. "
                f"Check the network and run again{f': it continues at byte {reached}' * bool(reached)}.{by_hand(entry)}"
            ) from cause
        time.sleep(BACKOFF_S * 2 ** (failures - 1))


def _continue(url: str, part: Path, progress: Progress | None) -> None:
    """Make one request for what `part` lacks, and write what comes; raise a requests exception if it is cut."""
    import requests

    done = _size_of(part)
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)) as response:
        if response.status_code == 416:  # nothing after `done`: the part is whole, or of another file
            if _content_range(response)[1] == done:
                return
            part.unlink()
            raise requests.ConnectionError("the file has changed; starting again")
        response.raise_for_status()
        start, total = _content_range(response) if response.status_code == 206 else (0, None)
        if start != (done if response.status_code == 206 else 0):
            part.unlink()
            raise requests.ConnectionError("the server continues elsewhere; starting again")
        if response.status_code != 206:  # it does not know ranges, and sends all of it
            done = 0
            total = int(response.headers["Content-Length"]) if response.headers.get("Content-Length") else None
        with part.open("ab" if done else "wb") as file:
            for piece in response.iter_content(_PIECE_BYTES):
                file.write(piece)
                done += len(piece)
                if progress is not None:
                    progress(done, total)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done != total:
        raise requests.ConnectionError(f"{done} bytes of {total} came")


def _content_range(response: Any) -> tuple[int | None, int | None]:
    """Return first byte and total length from a Content-Range header such as `bytes 5-9/10` or `bytes */10`."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if found is None:
        return None, None
    first, total = found.groups()
    return (None if first is None else int(first)), (None if total == "*" else int(total))


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep pooch from announcing on stderr what our caller announces as it likes."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _in_cache(target: Path) -> str:
    return f"{target} does not have the expected sha256" if is_file(target) else f"not in the cache ({target.parent})"


def _short(error: Exception) -> str:
    """Return the innermost reason of a requests exception: the outer ones repeat it in machine's words."""
    inner: BaseException = error
    while inner.args and isinstance(inner.args[0], BaseException):
        inner = inner.args[0]
    reason = getattr(inner, "reason", None) or inner
    return f"{reason!s:.200}"


def _size(entry: CatalogueEntry) -> str:
    return "size unknown" if entry.size_bytes is None else f"{entry.size_bytes:,} bytes"

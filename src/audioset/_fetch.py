"""Files from elsewhere: continued when cut, verified always, fetched once for all processes.

What a catalogue wants is a `Wanted`; `fetch` brings it. A file whose hash is known may come from anywhere. One whose
hash is not known comes over https, must agree with what its server states of it and with a check of its own, and leaves
its sha256 beside it (`NAME.sha256`), so that a later change shows.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import urlsplit

from audioset._files import why_unwritable, written_whole
from audioset.errors import FetchError

Progress: TypeAlias = Callable[[int, int | None], None]  # bytes here so far, and in all if known

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
BACKOFF_S = 1.0  # before the first retry; doubled each time
MAX_RETRIES: Final = 3  # in a row that bring nothing new
_MAX_RETRIES_UNKNOWN_HOST: Final = 1
_LARGEST_BYTES: Final = 1 << 30  # of files of which nobody says how long they are
_RETRIED: Final = frozenset((408, 429, 500, 502, 503, 504))
_PIECE_BYTES: Final = 1 << 18
_THIS_MACHINE: Final = frozenset(("localhost", "127.0.0.1", "::1"))


@dataclass(frozen=True)
class Wanted:
    """A file that is to be had, and how to tell that it is the right one.

    Attributes
    ----------
    name : str
        What messages call it.
    url : str
        Where it is.
    target : Path
        Where it belongs.
    sha256 : str or None
        The hash of its bytes, if known.
    size_bytes : int or None
        What messages say, and the room that is looked for where the server does not say it.
    is_whole : callable
        Returns whether `target` is there and right.
    by_hand : callable
        Returns how to get the file without this program: the end of messages.
    check : callable, optional
        For a file without a known hash: raises ValueError, with what is wrong, for a path that does not hold the file.
    """

    name: str
    url: str
    target: Path
    sha256: str | None
    size_bytes: int | None
    is_whole: Callable[[], bool]
    by_hand: Callable[[], str]
    check: Callable[[Path], None] | None = None


def fetch(wanted: Wanted, *, progress: Progress | None = None) -> Path:
    """Return the path of a wanted file, fetched if it is not there, verified in either case.

    What was fetched before a connection broke is kept beside it as `NAME.part` and continued. When several processes
    want the same file at once, one fetches it and the others wait.

    Raises
    ------
    FetchError
        If the file is not to be had: no network (or `AUDIOSET_OFFLINE` set), not on the server, not the right one, or
        no room for it. The message says what to fetch by hand and where to put it.
    """
    target = wanted.target
    if wanted.is_whole():
        return target
    if os.environ.get("AUDIOSET_OFFLINE", "0") not in ("", "0"):
        raise FetchError(f"{wanted.name}: {_in_cache(wanted)} and AUDIOSET_OFFLINE is set.{wanted.by_hand()}")
    _refuse_insecure(wanted, wanted.url)
    import filelock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{target}.lock"):
            if not wanted.is_whole():  # another process may have been first
                _retrieve(wanted, progress)
    except FetchError:
        raise
    except OSError as error:
        raise FetchError(
            f"{target}: {why_unwritable(error)}; expected room for {wanted.name} ({_size(wanted)}) in a writable "
            "cache. Free some, or set AUDIOSET_CACHE to a folder elsewhere."
        ) from error
    return target


def shown(url: str) -> str:
    """Return an address as messages say it: without the name and password that it may have."""
    return re.sub(r"^([A-Za-z][\w+.-]*://)[^/?#]*@", r"\1", url)


def noted_sha256(target: Path) -> str | None:
    """Return the hash that was noted beside a file when it came, or None."""
    try:
        found = re.match("[0-9a-f]{64}", _note_of(target).read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None
    return found[0] if found else None


def note_sha256(target: Path, sha256: str) -> None:
    """Write a file's hash beside it, as `sha256sum --check` reads it."""
    with written_whole(_note_of(target)) as temporary:
        temporary.write_text(f"{sha256}  {target.name}\n", encoding="utf-8")


class _Hasher(Protocol):
    def update(self, piece: bytes, /) -> Any: ...


def feed(path: Path, *hashers: _Hasher) -> None:
    """Give a file's bytes to hashers, in one reading."""
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            for hasher in hashers:
                hasher.update(piece)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    digest = hashlib.sha256()
    feed(path, digest)
    return digest.hexdigest()


def _retrieve(wanted: Wanted, progress: Progress | None) -> None:
    part = wanted.target.with_name(f"{wanted.target.name}.part")
    resumed = _size_of(part) > 0
    while True:
        try:
            (_bring if wanted.sha256 is None else _bring_known)(wanted, part, progress)
        except ValueError as error:  # of what came: it is not the file
            if resumed:  # the earlier part may have been of another version of it
                resumed = False
                continue
            raise FetchError(
                f"{wanted.name}: {error} Nothing was kept. Try again later or from another network; if it "
                f"stays so, {shown(wanted.url)} has changed or is answered by something in between.{wanted.by_hand()}"
            ) from error
        return


def _bring_known(wanted: Wanted, part: Path, progress: Progress | None) -> None:
    """Fetch a file of known hash; raise ValueError if it has another, and keep nothing."""
    import pooch

    def download(_url: str, output: str, _: Any) -> None:
        _download(wanted, part, progress)
        part.replace(output)  # pooch verifies it, then moves it into place or deletes it

    with _quiet(pooch.get_logger()):
        target = wanted.target
        pooch.retrieve(wanted.url, f"sha256:{wanted.sha256}", target.name, target.parent, downloader=download)


def _bring(wanted: Wanted, part: Path, progress: Progress | None) -> None:
    """Fetch a file of unknown hash; raise ValueError if its server or its check disowns it, and keep nothing."""
    stated = _download(wanted, part, progress)
    try:
        sha256 = _agreed_sha256(part, stated)
        if wanted.check is not None:
            wanted.check(part)
    except ValueError:
        _drop(part)
        raise
    _note_of(wanted.target).unlink(missing_ok=True)  # of an earlier file
    part.replace(wanted.target)
    _drop(part)
    note_sha256(wanted.target, sha256)


def _agreed_sha256(path: Path, stated: Mapping[str, str]) -> str:
    """Return the sha256 of a file that has the hashes its server stated; ValueError if it has others."""
    import google_crc32c

    new_crc32c: Callable[[], Any] = google_crc32c.Checksum  # has no types
    sha256, md5, crc32c = hashlib.sha256(), hashlib.md5(usedforsecurity=False), new_crc32c()
    feed(path, sha256, md5, crc32c)
    got = {"md5": md5.digest(), "crc32c": crc32c.digest()}
    for name, digest in got.items():
        found = base64.b64encode(digest).decode()
        if name in stated and stated[name] != found:
            raise ValueError(f"{name} {found} came where the server states {stated[name]}.")
    return sha256.hexdigest()


def _download(wanted: Wanted, part: Path, progress: Progress | None) -> Mapping[str, str]:
    """Bring `part` to the whole length, continuing where it ends and trying again when cut; return hashes as stated."""
    import requests

    furthest = _size_of(part)
    failures = 0
    while True:
        try:
            return _continue(wanted, part, progress)
        except requests.RequestException as error:
            cause = error
        answer = cause.response
        if answer is None:
            found = f"cannot be reached or breaks off ({_short(cause)})"
            host_unknown = _host_unknown(cause)
        else:
            found = f"answers {answer.status_code} {answer.reason}"
            host_unknown = False
            if answer.status_code not in _RETRIED:
                raise FetchError(
                    f"{wanted.name}: {shown(wanted.url)} {found}; expected the file.{wanted.by_hand()}"
                ) from cause
        reached = _size_of(part)
        failures = 1 if reached > furthest else failures + 1
        furthest = max(furthest, reached)
        if failures > (_MAX_RETRIES_UNKNOWN_HOST if host_unknown else MAX_RETRIES):
            continues = reached > 0 and (wanted.sha256 is not None or _version_of(part).exists())
            raise FetchError(
                f"{wanted.name}: {shown(wanted.url)} {found}, {failures} times in a row; expected the file. Check the "
                f"network and run again{f': it continues at byte {reached}' * continues}.{wanted.by_hand()}"
            ) from cause
        time.sleep(BACKOFF_S * 2 ** (failures - 1))


def _continue(wanted: Wanted, part: Path, progress: Progress | None) -> Mapping[str, str]:
    """Make one request for what `part` lacks, and write what comes; raise a requests exception if it is cut.

    Without a known hash, a part is continued only if the server says that it is still of the same version.
    """
    import requests
    import urllib3

    known = wanted.sha256 is not None
    version = None if known else _read_version(part)
    if not known and version is None:
        _drop(part)
    done = _size_of(part)
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if version is not None:
            headers["If-Range"] = version
    timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    with requests.get(wanted.url, headers=headers, stream=True, timeout=timeout) as response:
        for step in (*response.history, response):
            _refuse_insecure(wanted, step.url)
        if response.status_code == 416:  # nothing after `done`: the part is whole, or of another file
            if known and _content_range(response)[1] == done:
                return {}
            _drop(part)
            raise requests.ConnectionError("the file has changed; starting again")
        response.raise_for_status()
        start, total = _content_range(response) if response.status_code == 206 else (0, None)
        if start != (done if response.status_code == 206 else 0):
            _drop(part)
            raise requests.ConnectionError("the server continues elsewhere; starting again")
        if response.status_code != 206:  # it does not know ranges or has another version, and sends all of it
            done = 0
            total = int(response.headers["Content-Length"]) if response.headers.get("Content-Length") else None
            if not known:
                _write_version(part, response.headers)
        elif _version_in(response.headers) != version and not known:
            _drop(part)
            raise requests.ConnectionError("the file has changed; starting again")
        _refuse_without_room(wanted, part, wanted.size_bytes if total is None else total, done)
        # Where the server states no length, nothing else would keep it from filling the disk.
        most = total or 2 * (wanted.size_bytes or _LARGEST_BYTES)  # sizes may be approximate
        with part.open("ab" if done else "wb") as file:
            try:
                # Not decoded: servers that call a .gz an encoding mean the file all the same.
                for piece in response.raw.stream(_PIECE_BYTES, decode_content=False):
                    done += len(piece)
                    if done > most:
                        break
                    file.write(piece)
                    if progress is not None:
                        progress(done, total)
            except urllib3.exceptions.HTTPError as error:
                raise requests.ConnectionError(error) from error
            file.flush()
            os.fsync(file.fileno())
    if total is None and done > most:
        _drop(part)
        raise ValueError(f"more than {most:,} bytes came, of a length that the server does not state.")
    if total is not None and done != total:
        if done > total:  # of which no continuation is the file
            _drop(part)
        raise requests.ConnectionError(f"{done} bytes of {total} came")
    return _stated_hashes(response.headers)


def _refuse_insecure(wanted: Wanted, url: str) -> None:
    """Raise FetchError if a file of unknown hash would come over a connection that anybody on the way can change."""
    address = urlsplit(url)
    if wanted.sha256 is None and address.scheme != "https" and address.hostname not in _THIS_MACHINE:
        raise FetchError(
            f"{wanted.name}: {shown(url)} is not https, and no hash of the file is known; expected https, which tells "
            f"whom it comes from. Use an address with https.{wanted.by_hand()}"
        )


def _refuse_without_room(wanted: Wanted, part: Path, total: int | None, done: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - done > free:
        raise FetchError(
            f"{wanted.target}: {free:,} bytes are free there; expected room for the {total - done:,} bytes of "
            f"{wanted.name} that are to come. Free some, or set AUDIOSET_CACHE to a folder elsewhere."
        )


def _stated_hashes(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes, in base64, that Google's storage states of the whole file; others state none."""
    if headers.get("x-goog-stored-content-encoding", "identity") != "identity":
        return {}  # they are of what it stores, not of what it sends
    stated = (item.strip().partition("=") for item in headers.get("x-goog-hash", "").split(","))
    return {name: value for name, _, value in stated}


def _content_range(response: Any) -> tuple[int | None, int | None]:
    """Return first byte and total length from a Content-Range header such as `bytes 5-9/10` or `bytes */10`."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if found is None:
        return None, None
    first, total = found.groups()
    return (None if first is None else int(first)), (None if total == "*" else int(total))


def _version_in(headers: Mapping[str, str]) -> str | None:
    """Return what tells one version of a file on a server from another, byte for byte, or None."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


def _version_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _read_version(part: Path) -> str | None:
    try:
        return _version_of(part).read_text(encoding="latin-1") or None
    except FileNotFoundError:
        return None


def _write_version(part: Path, headers: Mapping[str, str]) -> None:
    version = _version_in(headers)
    if version is None:
        _version_of(part).unlink(missing_ok=True)
    else:
        _version_of(part).write_text(version, encoding="latin-1")


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_of(part).unlink(missing_ok=True)


def _note_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


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


def _in_cache(wanted: Wanted) -> str:
    target = wanted.target
    if not os.path.isfile(target):
        return f"not in the cache ({target.parent})"
    if wanted.sha256 is not None:
        return f"{target} does not have the expected sha256"
    if noted_sha256(target) is not None:
        return f"{target} has changed: it does not have the sha256 in {_note_of(target).name}"
    try:
        if wanted.check is not None:
            wanted.check(target)
    except ValueError as error:
        return f"{target} is not whole ({str(error).rstrip('.')})"
    return f"{target} is not whole"


def _host_unknown(error: BaseException) -> bool:
    """Return whether it all began with a name that has no address: trying for long does not help."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _short(error: Exception) -> str:
    """Return the innermost reason of a requests exception: the outer ones repeat it in machine's words."""
    inner: BaseException = error
    while inner.args and isinstance(inner.args[0], BaseException):
        inner = inner.args[0]
    reason = getattr(inner, "reason", None) or inner
    return f"{reason!s:.200}"


def _size(wanted: Wanted) -> str:
    return "size unknown" if wanted.size_bytes is None else f"{wanted.size_bytes:,} bytes"

"""Files on web servers: in blocks by HTTP ranges, or as one stream."""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import quote

import requests
import requests.adapters
import urllib3

from audioset._files import temporary_files
from audioset._version import __version__
from audioset.storage.base import PIECE_BYTES
from audioset.storage.troubles import TRIES, Trouble, of_error, of_status, pause, retried

_TIMEOUT_S = (10.0, 60.0)  # to connect, and without a byte
_CONNECTIONS = 64
_HEAD_BYTES = 1 << 16
_MAX_REDIRECTS = 5
_KEPT_SIGNS = "%/?:@!$&'()*+,;=[]~-._"  # all that URLs may hold, and what was escaped already


class HttpStorage:
    """http:// or https://; nothing is listed there."""

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme
        self._session = _Session()

    def open(self, path: str, first_bytes: int) -> HttpFile:
        return HttpFile(self._session, self._url(path), first_bytes)

    def stream(self, path: str) -> Iterator[bytes]:
        return _stream(self._session, self._url(path))

    def size(self, path: str) -> int | None:
        def head() -> int | None:
            with _request(self._session, self._url(path), "HEAD") as answer:
                return _length(answer)

        return retried(head)

    def files(self, folder: str, *, below: bool) -> Iterator[tuple[str, int | None]]:
        raise Trouble("other", "web servers have no listing that programs can rely on; name the files themselves")

    def _url(self, path: str) -> str:
        return f"{self._scheme}://{quote(path.partition('#')[0], safe=_KEPT_SIGNS)}"


class HttpFile:
    """One file, by ranges; of a server that knows none, a copy on the disk."""

    def __init__(self, session: requests.Session, url: str, first_bytes: int) -> None:
        self._session, self._url = session, url
        self._copy: IO[bytes] | None = None
        self._lock = threading.Lock()
        known = retried(lambda: self._begin(first_bytes))
        self._head, self._size, self._version = known or (b"", self._copied(), None)

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, start: int, length: int) -> bytes:
        stop = min(start + length, self._size)
        if start >= stop:
            return b""
        if stop <= len(self._head):
            return self._head[start:stop]
        if self._copy is not None:
            with self._lock:
                self._copy.seek(start)
                return self._copy.read(stop - start)
        return retried(lambda: self._range(start, stop))

    def close(self) -> None:
        self._head = b""
        if self._copy is not None:
            self._copy.close()

    def _begin(self, first_bytes: int) -> tuple[bytes, int, str | None] | None:
        """The first bytes, the size and the version; None where the server sends whole files, or not how much."""
        try:
            with _request(self._session, self._url, "GET", 0, first_bytes) as answer:
                if answer.status_code == 206:
                    start, size = _place(answer)
                    if start != 0:
                        raise Trouble("other", "the server sends another part than was asked for")
                    # Of a file that is not to come whole the header is enough, for now.
                    wanted = size if size <= first_bytes else min(first_bytes, _HEAD_BYTES)
                    return _body(answer, wanted), size, _version(answer)
                length = _length(answer)
                if length is not None and length <= first_bytes:
                    return _body(answer, length), length, _version(answer)
        except Trouble as trouble:
            if trouble.status == 416:  # there is no first byte
                return b"", 0, None
            raise
        return None

    def _copied(self) -> int:
        """Copy the file; return its size."""
        with contextlib.ExitStack() as stack:
            with temporary_files():
                copy = stack.enter_context(tempfile.TemporaryFile())
            for piece in _stream(self._session, self._url):
                with temporary_files():
                    copy.write(piece)
                    copy.flush()
            stack.pop_all()
        self._copy = copy
        return copy.tell()

    def _range(self, start: int, stop: int) -> bytes:
        with _request(self._session, self._url, "GET", start, stop) as answer:
            if answer.status_code != 206 or _place(answer) != (start, self._size) or _version(answer) != self._version:
                raise Trouble("other", "the file has changed while it was read")
            return _body(answer, stop - start)


class _Session(requests.Session):
    """Connections that are kept, for all threads; never led from https to http."""

    def __init__(self) -> None:
        super().__init__()
        self.headers.update({"User-Agent": f"audioset/{__version__}", "Accept-Encoding": "identity"})
        self.max_redirects = _MAX_REDIRECTS
        for scheme in ("http://", "https://"):
            self.mount(scheme, requests.adapters.HTTPAdapter(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target and target.lower().startswith("http://") and (resp.url or "").lower().startswith("https://"):
            raise Trouble("other", "the server redirects from https to http, which is not followed")
        return target


@contextlib.contextmanager
def _request(session: requests.Session, url: str, verb: str, start: int = 0, stop: int | None = None) -> Iterator[Any]:
    """The answer to one request for bytes from `start` up to `stop`, its body not yet read."""
    headers = {} if start == 0 and stop is None else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
    try:
        with session.request(
            verb, url, headers=headers, stream=True, timeout=_TIMEOUT_S, allow_redirects=True
        ) as answer:
            if answer.status_code >= 400:
                after = answer.headers.get("Retry-After", "")
                raise of_status(answer.status_code, answer.reason or "", float(after) if after.isdigit() else 0.0)
            yield answer
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        raise Trouble("transient", _short(error)) from error
    except requests.RequestException as error:
        raise Trouble("other", _short(error)) from error


def _stream(session: requests.Session, url: str) -> Iterator[bytes]:
    done, size, version, tried = 0, None, None, 0
    while True:
        try:
            with _request(session, url, "GET", done) as answer:
                skipped = 0
                if done and answer.status_code != 206:
                    skipped = done  # it sends all of it again
                length = _length(answer)
                total = None if length is None else length + done - skipped
                if done and (total, _version(answer)) != (size, version):
                    raise Trouble("other", "the file has changed while it was read")
                size, version = total, _version(answer)
                while piece := answer.raw.read(PIECE_BYTES, decode_content=False):
                    fresh, skipped = piece[skipped:], max(0, skipped - len(piece))
                    if fresh:
                        done += len(fresh)
                        tried = 0
                        yield fresh
                if size is not None and done < size:
                    raise Trouble("transient", f"the connection ended at byte {done:,} of {size:,}")
                return
        except Trouble as error:
            trouble = of_error(error)
            tried += 1
            if trouble.kind != "transient" or tried == TRIES:
                raise
            pause(tried, trouble)


def _body(answer: Any, length: int) -> bytes:
    """Exactly `length` bytes of an answer."""
    body = bytearray()
    while len(body) < length and (piece := answer.raw.read(length - len(body), decode_content=False)):
        body += piece
    if len(body) < length:
        raise Trouble("transient", f"the connection ended after {len(body):,} of {length:,} bytes")
    return bytes(body)


def _place(answer: Any) -> tuple[int, int]:
    """Where in the file the body of an answer begins, and how many bytes the file has."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", "").strip())
    if found is None:
        raise Trouble("other", "the server does not say which part of the file it sends")
    return int(found[1]), int(found[2])


def _length(answer: Any) -> int | None:
    said = answer.headers.get("Content-Length", "")
    return int(said) if said.isdigit() else None


def _version(answer: Any) -> str | None:
    found = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    return None if found is None else str(found)


def _short(error: BaseException) -> str:
    """The innermost reason: the outer ones repeat it in machine's words."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return _short(reason)
    return re.sub(r"^<.*?>: |^.*?Connection object at 0x[0-9a-f]+>?: ", "", str(error)) or type(error).__name__

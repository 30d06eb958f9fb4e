"""A file on a server as Python's files are, read in blocks by HTTP ranges: only what is asked for is fetched."""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from audioset.dataset.download.failures import ClipError, of_saying, of_status, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from yt_dlp import YoutubeDL

BLOCK_BYTES = 1 << 18  # ten seconds of sound, about
_MAX_BLOCKS: Final = 32
_PIECE_BYTES: Final = 1 << 16
_MAX_ANSWER_BYTES: Final = 1 << 26  # pages have a few MiB at most, and are held in memory


class WatchedBody:
    """The body of an answer, read as it comes: `check` is called at every piece, however small, and may raise.

    What reads as much as it was asked for in one go would be held for ever by a server that sends a byte now and then.
    """

    def __init__(self, body: Any, check: Callable[[], None]) -> None:
        self._body, self._check = body, check
        self._num_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def read(self, size: int | None = None, **how: Any) -> bytes:
        """Up to `size` bytes, or all; fewer at the end only."""
        read = bytearray()
        while size is None or len(read) < size:
            self._check()
            piece = self._body.read1(_PIECE_BYTES if size is None else min(_PIECE_BYTES, size - len(read)), **how)
            if not piece:
                break
            read += piece
            self._num_bytes += len(piece)
            if self._num_bytes > _MAX_ANSWER_BYTES:
                raise ClipError("no_format", f"the server sends a page of more than {_MAX_ANSWER_BYTES >> 20} MiB")
        return bytes(read)


class RemoteFile:
    """`url` through yt-dlp's own connections, with its cookies and proxies.

    Reading raises ClipError, and what `check` raises, which is called before each request and at each piece.

    Attributes
    ----------
    fetched_bytes : int
        What has come over the network so far.
    """

    def __init__(self, ydl: YoutubeDL, url: str, headers: Mapping[str, str], check: Callable[[], None]) -> None:
        self._ydl, self._url, self._headers, self._check = ydl, url, headers, check
        self._position = 0
        self._size: int | None = None
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self.fetched_bytes = 0

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END and self._size is None:
            self._block(0)
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size or 0}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, fewer at the end only: libraries take less for the end."""
        parts: list[bytes] = []
        stop = self._position + size
        while self._position < stop and (self._size is None or self._position < self._size):
            number, skipped = divmod(self._position, BLOCK_BYTES)
            piece = self._block(number)[skipped : skipped + stop - self._position]
            if not piece:
                break
            parts.append(piece)
            self._position += len(piece)
        return b"".join(parts)

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is None:
            block = self._blocks[number] = self._fetch(number * BLOCK_BYTES)
            if len(self._blocks) > _MAX_BLOCKS:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(number)
        return block

    def _fetch(self, first: int) -> bytes:
        """The block from byte `first` on."""
        from yt_dlp.networking import Request
        from yt_dlp.networking.exceptions import HTTPError, RequestError

        self._check()
        wanted = {"Range": f"bytes={first}-{first + BLOCK_BYTES - 1}", "Accept-Encoding": "identity"}
        try:
            with closing(self._ydl.urlopen(Request(self._url, headers={**self._headers, **wanted}))) as response:
                return self._body(response, first)
        except HTTPError as error:
            error.close()
            if error.status == 416:
                return b""
            said = f"the media server answers {error.status} {error.reason}"
            raise of_status(error.status, said, error.response.get_header("Retry-After")) from error
        except RequestError as error:
            found = of_saying(str(error))
            reason = found.reason if found.reason == "stalled" else "network"
            raise ClipError(reason, f"the media server: {plain(str(error))}") from error

    def _body(self, response: Any, first: int) -> bytes:
        length = int(response.get_header("Content-Length") or -1)
        if response.status == 206:
            found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", (response.get_header("Content-Range") or "").strip())
            size = 0 if found is None else int(found[3])
            last = min(first + BLOCK_BYTES, size) - 1
            if found is None or (int(found[1]), int(found[2])) != (first, last):
                raise ClipError("network", "the media server sends another part than was asked for")
            expected, self._size = last + 1 - first, size
        elif first == 0 and 0 <= length <= BLOCK_BYTES:  # it knows no ranges, and it does not matter
            expected = self._size = length
        else:
            raise ClipError(
                "no_format", "the media server sends whole files only (no HTTP ranges), and those are not fetched"
            )
        body = bytearray()
        while len(body) < expected:
            piece = response.read(min(_PIECE_BYTES, expected - len(body)))
            if not piece:
                raise ClipError("network", f"the media server breaks off: {len(body)} bytes of {expected} came")
            body += piece
            self.fetched_bytes += len(piece)
        return bytes(body)

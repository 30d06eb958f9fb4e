"""Where the sound and the picture of a video are, found by yt-dlp, and files that read them."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Final, NoReturn

from audioset.dataset.download.failures import ClipError, Stopped, of_saying, of_status, plain
from audioset.dataset.download.options import DownloadOptions
from audioset.dataset.download.remote import RemoteFile, WatchedBody
from audioset.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    from yt_dlp import YoutubeDL

_CLIP_TIMEOUTS: Final = 15  # that one clip may take in all
_COOKIES_EXPECTED: Final = (
    "expected a Netscape cookie file (seven fields a line, with tabs between), or a browser of this machine. "
    "https://github.com/yt-dlp/yt-dlp/wiki/FAQ says how to export cookies"
)
_WEB: Final = ("http://", "https://")
_DIRECT: Final = "[protocol~='^https?$']"  # not playlists of pieces, which cannot be read at any place


@dataclass(frozen=True)
class Media:
    """One stream or file on a server."""

    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Found:
    """What yt-dlp says of a video: where to read its sound, its picture if wanted, and about how long it is."""

    sound: Media
    picture: Media | None
    duration_s: float | None


def check_installed() -> None:
    """Raise MissingExtraError unless yt-dlp is there."""
    try:
        import yt_dlp  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "download-audio: yt-dlp is not installed; expected it, to find the sound of videos. "
            "Install it with `pip install yt-dlp`."
        ) from error


def read_cookies(options: DownloadOptions) -> str | None:
    """Return the user's cookies as the text of a Netscape cookie file, read once for all jobs.

    Raises
    ------
    OptionError
        If they cannot be read. What they are is in no message.
    """
    if options.cookies is None and options.cookies_from_browser is None:
        return None
    from yt_dlp import YoutubeDL
    from yt_dlp.cookies import CookieLoadError, load_cookies

    browser = None if options.cookies_from_browser is None else _browser(options.cookies_from_browser)
    file = None if options.cookies is None else io.StringIO(_cookie_file(Path(options.cookies)))
    text = io.StringIO()
    try:
        with closing(YoutubeDL(_quiet(options))) as ydl:
            load_cookies(file, browser, ydl).save(text)
    except (CookieLoadError, OSError, ValueError):
        where = f"--cookies-from-browser {options.cookies_from_browser}" if browser else f"--cookies {options.cookies}"
        raise OptionError(f"{where}: cannot be read; {_COOKIES_EXPECTED}") from None  # the cause may quote a cookie
    return text.getvalue()


def _cookie_file(path: Path) -> str:
    """The text of a cookie file of which every line is one; yt-dlp would print those that are not."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise OptionError(f"--cookies {path}: cannot be read ({reason}); {_COOKIES_EXPECTED}") from None
    for number, line in enumerate(text.splitlines(), 1):
        cookie = line.removeprefix("#HttpOnly_")
        if not cookie.strip() or cookie.startswith("#"):
            continue
        fields = cookie.split("\t")
        if len(fields) != 7 or not re.fullmatch(r"(?:[0-9]+(?:\.[0-9]+)?)?", fields[4]):
            raise OptionError(f"--cookies {path}: line {number} is no cookie; {_COOKIES_EXPECTED}")
    return text


class Extractor:
    """One yt-dlp, for one thread."""

    def __init__(self, options: DownloadOptions, cookies: str | None, stop: Event) -> None:
        self._options, self._stop = options, stop
        self._ydl: YoutubeDL = _tracking(self._check_time)({**_quiet(options), "format": _formats(options)})
        if cookies is not None:
            self._ydl.params["cookiefile"] = io.StringIO(cookies)  # so that it writes none back
        self._deadline = float("inf")

    def find(self, url: str) -> Found:
        """Return where the media of a page are; the time that one clip may take begins.

        Raises
        ------
        ClipError
            If they are not to be had.
        """
        if not url.lower().startswith(_WEB):
            raise ClipError("address", f"{plain(url)}: expected an address that begins with http:// or https://")
        self._deadline = time.monotonic() + _CLIP_TIMEOUTS * self._options.timeout_s
        try:
            info: Any = self._ydl.extract_info(url, download=False)
            while info and info.get("_type") in ("playlist", "multi_video"):
                info = next(iter(info.get("entries") or ()), None)
        except Exception as error:  # extractors raise whatever a page that has changed makes them stumble over
            _raise(error)
        finally:
            self._ydl.close_responses()
        if not info:
            raise ClipError("unknown", "yt-dlp finds no video")
        chosen = [_media(one) for one in info.get("requested_formats") or [info]]
        if not all(one.url.startswith(_WEB) for one in chosen):
            raise ClipError("no_format", "the media are at no http address")
        duration_s = None if info.get("duration") is None else float(info["duration"])
        # With two formats, the first is the picture.
        return Found(chosen[-1], chosen[0] if self._options.video else None, duration_s)

    def open(self, media: Media) -> RemoteFile:
        """Return the media as a file, from which nothing is read yet."""
        return RemoteFile(self._ydl, media.url, media.headers, self._check_time)

    def _check_time(self) -> None:
        if self._stop.is_set():
            raise Stopped
        if time.monotonic() > self._deadline:
            raise ClipError("stalled", "the server sends too slowly; the time for one clip is over")

    def close(self) -> None:
        """Close its connections."""
        self._ydl.close()


def _tracking(check: Callable[[], None]) -> Any:
    """A YoutubeDL that calls `check` while it reads, and can close what its extractors have opened and left."""
    from yt_dlp import YoutubeDL

    class Tracking(YoutubeDL):  # type: ignore[misc]
        def urlopen(self, req: Any) -> Any:
            response = super().urlopen(req)
            response.fp = WatchedBody(response.fp, check)
            self.__dict__.setdefault("_opened", []).append(response)
            return response

        def close_responses(self) -> None:
            for response in self.__dict__.pop("_opened", []):
                with suppress(Exception):
                    response.close()

    return Tracking


def _quiet(options: DownloadOptions) -> dict[str, Any]:
    """Parameters with which yt-dlp says nothing, writes nothing and asks for nothing but the page."""
    return {
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": _Silence(),
        "cachedir": False,
        "noplaylist": True,
        "playlist_items": "1",
        "extractor_retries": 0,  # we try again, and know when not to
        "socket_timeout": options.timeout_s,
        "skip_download": True,
    }


def _formats(options: DownloadOptions) -> str:
    if not options.video:
        return f"ba{_DIRECT}/b{_DIRECT}"
    lines = f"[height<=?{options.max_height}]"
    return f"bv{lines}{_DIRECT}+ba{_DIRECT}/b{lines}{_DIRECT}/b{_DIRECT}"


def _media(info: Mapping[str, Any]) -> Media:
    return Media(str(info.get("url") or ""), dict(info.get("http_headers") or {}))


def _raise(error: Exception) -> NoReturn:
    """Raise what an error of yt-dlp means for the clip."""
    from yt_dlp.networking.exceptions import HTTPError, TransportError

    for cause in _causes(error):
        if isinstance(cause, ClipError | Stopped):
            raise cause
        if isinstance(cause, HTTPError):
            cause.close()
            after = cause.response.get_header("Retry-After")
            found = of_saying(str(error))
            if found.reason in ("throttled", "private", "age_restricted", "paid", "region"):
                raise ClipError(found.reason, found.message) from error
            raise of_status(cause.status, f"the site answers {cause.status} {cause.reason}", after) from error
        if isinstance(cause, TransportError):
            found = of_saying(str(cause))
            reason = found.reason if found.reason == "stalled" else "network"
            raise ClipError(reason, f"the site: {plain(str(cause))}") from error
    raise of_saying(str(error) or type(error).__name__) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, in the three ways that yt-dlp notes it."""
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            yield one
            info = getattr(one, "exc_info", None)
            waiting += [info[1] if isinstance(info, tuple) else None, getattr(one, "cause", None), one.__cause__]


def _browser(text: str) -> tuple[str, str | None, str | None, str | None]:
    """Name, profile, keyring and container of BROWSER[+KEYRING][:PROFILE][::CONTAINER], in yt-dlp's order."""
    from yt_dlp.cookies import SUPPORTED_BROWSERS

    found = re.fullmatch(r"([^+:]+)(?:\+([^:]+))?(?::(?!:)(.+?))?(?:::(.+))?", text)
    if found is None or found[1].lower() not in SUPPORTED_BROWSERS:
        known = ", ".join(sorted(SUPPORTED_BROWSERS))
        raise OptionError(f"--cookies-from-browser {text}: expected BROWSER[+KEYRING][:PROFILE], one of {known}")
    return found[1].lower(), found[3], found[2] and found[2].upper(), found[4]


class _Silence:
    """A logger for yt-dlp that keeps nothing: what matters is in what it raises."""

    def debug(self, message: str) -> None: ...

    def info(self, message: str) -> None: ...

    def warning(self, message: str) -> None: ...

    def error(self, message: str) -> None: ...

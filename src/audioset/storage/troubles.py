"""What went wrong on a server, in words, whichever library says it; and trying again where that may help."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from audioset.errors import AudioError, AudioSetError, OutputError
from audioset.storage.names import HTTP_SCHEMES

Kind = Literal["missing", "folder", "denied", "transient", "other"]
_T = TypeVar("_T")

TRIES = 4
FIRST_WAIT_S = 0.5  # before the second try; doubled each time, and up to half as much again by chance
_LONGEST_WAIT_S = 20.0
_MAX_SAID = 400  # characters of what a library says
_TRANSIENT_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))

# Names and URLs within what a library says, which may hold any number: clips/403.wav.
_NAMES = re.compile(r"'.*?'(?=[\s:,.;)]|$)|[a-z][a-z0-9+.\-]+://\S+", re.IGNORECASE)
_DENIED = re.compile(
    r"ACCESS_DENIED|\b40[13]\b|Forbidden|Unauthorized|PERMISSION_DENIED|InvalidAccessKey|SignatureDoes"
)
_FOLDER = re.compile(r"not a (regular )?file", re.IGNORECASE)
_MISSING = re.compile(r"\b404\b|NO_SUCH_(KEY|BUCKET)|NoSuch(Key|Bucket)|not found|does not exist", re.IGNORECASE)
_TRANSIENT = re.compile(
    r"\b(429|50[0234])\b|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|NETWORK_CONNECTION|REQUEST_TIMEOUT|timed? ?out|"
    r"connection (was )?(reset|aborted|refused|closed)|could not connect|UNAVAILABLE|DEADLINE_EXCEEDED",
    re.IGNORECASE,
)
_TOLD = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket add ?anonymous=1",
    "gs": "run `gcloud auth application-default login`; for a public bucket add ?anonymous=1",
    "hf": "run `hf auth login`, or set HF_TOKEN",
    "https": "a password goes into ~/.netrc, a signed URL lives a limited time",
}
_TOLD["http"] = _TOLD["https"]
_TOLD["gcs"] = _TOLD["gs"]


class Trouble(Exception):  # noqa: N818  (never reaches users: it becomes an AudioError or an OutputError)
    """A request that failed.

    Attributes
    ----------
    kind : str
        "missing", "folder" (not one object), "denied", "transient" (another try may help) or "other".
    wait_s : float
        For how long the server asks to be left alone.
    status : int or None
        The HTTP status, where that is what failed.
    """

    def __init__(self, kind: Kind, said: str, wait_s: float = 0.0, status: int | None = None) -> None:
        super().__init__(said)
        self.kind: Kind = kind
        self.wait_s = wait_s
        self.status = status


def of_status(status: int, reason: str, wait_s: float = 0.0) -> Trouble:
    """Return the trouble that an HTTP status stands for."""
    said = f"the server answers {status} {reason}".rstrip()
    if status in (404, 410):
        return Trouble("missing", said, status=status)
    if status in (401, 403, 407):
        return Trouble("denied", said, status=status)
    return Trouble("transient" if status in _TRANSIENT_STATUS else "other", said, wait_s, status)


def of_error(error: Exception) -> Trouble:
    """Return the trouble that a library's exception stands for."""
    if isinstance(error, Trouble):
        return error
    said = " ".join(str(error).split()) or type(error).__name__
    words = _NAMES.sub("", said)
    said = said if len(said) <= _MAX_SAID else f"{said[:_MAX_SAID]}…"
    if isinstance(error, FileNotFoundError):
        return Trouble("missing", "nothing of this name is there")
    if isinstance(error, IsADirectoryError) or _FOLDER.search(words):
        return Trouble("folder", said)
    if isinstance(error, PermissionError) or _DENIED.search(words):
        return Trouble("denied", said)
    if isinstance(error, ConnectionError | TimeoutError) or _TRANSIENT.search(words):
        return Trouble("transient", said)
    return Trouble("missing" if _MISSING.search(words) else "other", said)


def retried(request: Callable[[], _T]) -> _T:
    """Return what a request gives, tried again where that may help."""
    tried = 0
    while True:
        tried += 1
        try:
            return request()
        except AudioSetError:
            raise
        except Exception as error:
            trouble = of_error(error)
            if trouble.kind != "transient" or tried == TRIES:
                raise trouble from error
            pause(tried, trouble)


def pause(tried: int, trouble: Trouble) -> None:
    """Wait before the next try."""
    wait_s = FIRST_WAIT_S * 2 ** (tried - 1) * random.uniform(1.0, 1.5)
    time.sleep(min(max(wait_s, trouble.wait_s), _LONGEST_WAIT_S))


def unreadable(name: str, trouble: Trouble) -> AudioError:
    """Return the error for an input that cannot be had."""
    return AudioError(f"{name}: {_words(name, trouble, 'an audio file or an archive', 'Check the spelling')}")


def unwritable(name: str, trouble: Trouble) -> OutputError:
    """Return the error for an output that cannot be written, or not be read back."""
    said = _words(name, trouble, "a place that can be written to", "Check the name of the bucket")
    return OutputError(f"{name}: {said}")


def _words(name: str, trouble: Trouble, wanted: str, check: str) -> str:
    said = str(trouble).rstrip(".")
    scheme = name.partition("://")[0].lower()
    if trouble.kind == "missing":
        hint = "" if scheme in HTTP_SCHEMES else "; the name of a folder ends in /"
        return f"does not exist ({said}); expected {wanted}. {check}{hint}"
    if trouble.kind == "folder":
        return f"is a folder; expected {wanted}. To list it, end it with /"
    if trouble.kind == "denied":
        told = _TOLD.get(scheme, "check the credentials that its own tools use")
        return f"access denied ({said}); expected the right to it. Credentials: {told}"
    if trouble.kind == "transient":
        return f"cannot be reached ({said}), also when tried again; expected {wanted}. Try again later"
    return f"failed ({said}); expected {wanted}. Check the URL and the connection"

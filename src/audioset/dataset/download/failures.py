"""Why a clip was not to be had: one word each, what the word means, and whether trying again may help."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

_MESSAGE_LENGTH: Final = 300

PERMANENT: Final = MappingProxyType(
    {
        "removed": "the video or its account is gone",
        "private": "the video is private",
        "age_restricted": "it is shown to adults who have signed in only",
        "region": "it is not shown in this country",
        "paid": "it is for members or buyers, or protected",
        "live": "it is live or has yet to begin",
        "address": "its address is none of http or https",
        "no_format": "the site offers it in no form that can be read in parts",
        "no_audio": "it has no sound",
        "no_video": "it has no picture, and --video was asked for",
        "too_short": "it ends before the segment does",
        "damaged": "its data cannot be decoded",
    }
)
TEMPORARY: Final = MappingProxyType(
    {
        "throttled": "the site takes us for a program, or wants fewer requests (429)",
        "refused": "the site refuses it (401, 403)",
        "network": "the server cannot be reached, or is in trouble",
        "stalled": "nothing came for too long",
        "unknown": "yt-dlp says something else",
    }
)

# What yt-dlp and the sites behind it say, as far as it tells more than a status does; the first that fits counts.
_SAYINGS: Final = (
    ("throttled", r"not a bot|rate.?limit|too many requests|captcha|HTTP Error 429"),
    ("private", r"private video|video is private"),
    ("age_restricted", r"confirm your age|age.?restricted|inappropriate for some users"),
    ("paid", r"members.only|join this channel|requires payment|rental|purchase|premium|DRM"),
    ("region", r"in your country|geo.?restrict|your location"),
    ("live", r"live event|premieres? in|is live|offline"),
    ("no_format", r"requested format|no video formats|unsupported url"),
    ("removed", r"unavailable|removed|terminated|does not exist|no(t| longer) available|HTTP Error (404|410)"),
    ("refused", r"HTTP Error (401|403)|login required|sign in"),
    ("stalled", r"timed out|timeout"),
    ("network", r"HTTP Error 5\d\d|unable to connect|connection|resolve|incomplete|bytes read|network"),
)


class ClipError(Exception):
    """One clip cannot be had; `reason` is a key of PERMANENT or TEMPORARY, `wait_s` what the server asks us to wait."""

    def __init__(self, reason: str, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.reason, self.message, self.wait_s = reason, message, wait_s


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The job ends, and with it what this thread does."""


def of_status(status: int, message: str, retry_after: str | None = None) -> ClipError:
    """Return what an HTTP status means."""
    if status in (401, 403):
        return ClipError("refused", message)
    if status == 429:
        return ClipError("throttled", message, _seconds(retry_after))
    if status in (404, 410):
        return ClipError("removed", message)
    if status == 451:  # unavailable for legal reasons
        return ClipError("region", message)
    return ClipError("network", message, _seconds(retry_after))


def of_saying(said: str) -> ClipError:
    """Return what a message of yt-dlp means."""
    message = plain(said)
    for reason, pattern in _SAYINGS:
        if re.search(pattern, said, re.IGNORECASE):
            return ClipError(reason, message)
    return ClipError("unknown", message)


def plain(said: str) -> str:
    """Return a message in one short line, without colours, advice, or what addresses may carry in secret."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", said)
    text = re.sub(r"; please report this issue.*|\(caused by .*", "", text, flags=re.DOTALL)
    text = re.sub(r"(https?://[^\s?#]+)[?#]\S*", r"\1?…", text)
    text = " ".join(text.removeprefix("ERROR: ").split())
    return text if len(text) <= _MESSAGE_LENGTH else text[: _MESSAGE_LENGTH - 1] + "…"


def _seconds(retry_after: str | None) -> float:
    """Return the seconds that a Retry-After header asks for; dates are rare, and back-off does without them."""
    return float(retry_after) if retry_after is not None and retry_after.strip().isdigit() else 0.0

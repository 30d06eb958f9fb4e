"""What to make of each clip and how to get it, as one dataclass that is checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from audioset.errors import OptionError

Format: TypeAlias = Literal["flac", "wav", "opus"]

YOUTUBE_URL: Final = "https://www.youtube.com/watch?v={ytid}"
OPUS_RATES_HZ: Final = (8_000, 12_000, 16_000, 24_000, 48_000)
FORMATS: Final = ("flac", "wav", "opus")
_RATES_HZ: Final = (1_000, 384_000)


@dataclass(frozen=True)
class DownloadOptions:
    """What to make of each clip, and how to get it.

    Parameters
    ----------
    format : {"flac", "wav", "opus"}
        FLAC and WAV hold 16-bit samples, or 24-bit where a lossless source has more; Opus is compressed again.
    rate_hz : int, optional
        Resample (soxr, VHQ). None keeps the source's rate; Opus knows 8, 12, 16, 24 and 48 kHz only, and takes 48 kHz
        for others.
    mono : bool
        Average the channels.
    video : bool
        Write `NAME.mp4` too: H.264 and AAC, cut to the segment.
    max_height : int
        Lines of the picture that is fetched, at most, where there is a choice.
    allow_short : bool
        Keep clips of videos that end before the segment does.
    jobs : int
        Clips at once.
    tries : int
        Attempts at a clip in one run, where trying again may help.
    timeout_s : float
        How long to wait for a server to say something; the media of a clip may take fifteen times as long in all.
    pause_s : float
        Seconds at least from the beginning of one clip to that of the next, over all jobs.
    cookies : Path, optional
        Netscape cookie file. It is read, never written.
    cookies_from_browser : str, optional
        `BROWSER[+KEYRING][:PROFILE][::CONTAINER]`, as yt-dlp names them.
    url_template : str
        Address of a video, with `{ytid}` in it.
    """

    format: Format = "flac"
    rate_hz: int | None = None
    mono: bool = False
    video: bool = False
    max_height: int = 480
    allow_short: bool = False
    jobs: int = 4
    tries: int = 3
    timeout_s: float = 20.0
    pause_s: float = 0.0
    cookies: Path | None = None
    cookies_from_browser: str | None = None
    url_template: str = YOUTUBE_URL

    def check(self) -> None:
        """Raise OptionError for what is out of range."""
        if self.format not in FORMATS:
            raise OptionError(f"format: {self.format!r}; expected {', '.join(FORMATS)}")
        if self.rate_hz is not None and not _RATES_HZ[0] <= self.rate_hz <= _RATES_HZ[1]:
            raise OptionError(f"rate_hz: {self.rate_hz}; expected {_RATES_HZ[0]} to {_RATES_HZ[1]}, or none")
        if self.format == "opus" and self.rate_hz not in (None, *OPUS_RATES_HZ):
            known = ", ".join(map(str, OPUS_RATES_HZ))
            raise OptionError(
                f"rate_hz: {self.rate_hz} with format opus, which knows {known} Hz only. Choose one, or flac or wav"
            )
        for name in ("jobs", "tries", "max_height"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}: {getattr(self, name)}; expected 1 or more")
        if self.max_height != type(self).max_height and not self.video:
            raise OptionError(f"max_height: {self.max_height} without video; expected both, or neither. Add --video")
        if not 0 < self.timeout_s < float("inf"):
            raise OptionError(f"timeout_s: {self.timeout_s}; expected more than 0 seconds")
        if not 0 <= self.pause_s < float("inf"):
            raise OptionError(f"pause_s: {self.pause_s}; expected 0 seconds or more")
        if "{ytid}" not in self.url_template:
            raise OptionError(f"url_template: {self.url_template!r}; expected an address with {{ytid}} in it")

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the content of the files; one folder holds files of one kind."""
        kept: dict[str, Any] = {"format": self.format, "rate_hz": self.rate_hz, "mono": self.mono, "video": self.video}
        return {**kept, "max_height": self.max_height} if self.video else kept

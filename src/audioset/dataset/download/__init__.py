"""The sound (and picture) of segments, fetched from where the videos are: the wanted seconds of each and no more.

`extract` asks yt-dlp where a video's media are, `remote` reads parts of them, `cut` and `video` make clips of those,
`ledger` notes what became of each, `gate` knows when to pause, and `job` brings them together.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from audioset.dataset.download.clips import parse_shard
from audioset.dataset.download.failures import PERMANENT, TEMPORARY
from audioset.dataset.download.job import DownloadProgress, DownloadSummary, download_audio
from audioset.dataset.download.ledger import Entry
from audioset.dataset.download.options import FORMATS, DownloadOptions
from audioset.dataset.download.status import DownloadStatus, as_row, check_report, read_status, write_report

__all__ = [
    "FORMATS",
    "REASONS",
    "DownloadOptions",
    "DownloadProgress",
    "DownloadStatus",
    "DownloadSummary",
    "Entry",
    "as_row",
    "check_report",
    "download_audio",
    "parse_shard",
    "read_status",
    "write_report",
]

# What each reason of a failure means.
REASONS: Final = MappingProxyType({**PERMANENT, **TEMPORARY})

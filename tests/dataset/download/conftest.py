from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from audioset.dataset.download import DownloadOptions, extract, gate, job

from ._media import MediaServer

pytest.importorskip("yt_dlp")


@pytest.fixture
def server() -> Iterator[MediaServer]:
    server = MediaServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "BACKOFF_S", 0.01)
    monkeypatch.setattr(gate, "FIRST_PAUSE_S", 0.01)
    quiet = extract._quiet
    # yt-dlp asks each of its 1,800 extractors whether an address is its own; the generic one is the last.
    monkeypatch.setattr(extract, "_quiet", lambda options: {**quiet(options), "allowed_extractors": ["generic"]})
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def local(server: MediaServer) -> Callable[..., DownloadOptions]:
    """Options that look for videos on the local server."""

    def options(**others: Any) -> DownloadOptions:
        return DownloadOptions(**{"url_template": server.template, "timeout_s": 5.0, "jobs": 1, **others})

    return options


def table(*rows: tuple[str, float, float]) -> pa.Table:
    return pa.table({name: [row[i] for row in rows] for i, name in enumerate(("ytid", "start_s", "end_s"))})

"""Servers and small archives for the tests of storage."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import soundfile

from audioset.storage import Folder


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    from audioset.storage import troubles

    monkeypatch.setattr(troubles, "FIRST_WAIT_S", 0.001)


def wav(seconds: float, tone_hz: float = 440.0) -> bytes:
    """A tone as WAV: 16 kHz, 16 bits, so 32,044 bytes for a second."""
    file = io.BytesIO()
    times = np.arange(round(16_000 * seconds)) / 16_000
    soundfile.write(file, 0.1 * np.sin(2 * np.pi * tone_hz * times), 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def tar(members: Mapping[str, bytes] | Sequence[tuple[str, bytes]], mode: str = "w") -> bytes:
    """An archive of these members, in order."""
    pairs = members.items() if isinstance(members, Mapping) else members
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in pairs:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A compressed zip archive of these members, in order."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def shard() -> dict[str, bytes]:
    """What a WebDataset shard holds: recordings with what belongs to them, and what else gets into archives."""
    return {
        "a.wav": wav(1.0),
        "a.json": b"{}",
        "a.cls": b"3",
        "deep/er/b é.wav": wav(1.5),
        "deep/._b.wav": b"of macOS",
        "more.tar": tar({"nested.wav": wav(1.0)}),
        "c.wav": wav(2.0),
    }


def fail_midway(folder: Folder) -> None:
    """Begin to write a file, "a", and raise RuntimeError."""
    with folder.writing("a") as file:
        file.write(b"1" * 100)
        raise RuntimeError("midway")

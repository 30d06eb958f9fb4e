"""hf://, against the stand-in for the Hub that the tests of `audioset.hub` use."""

from __future__ import annotations

import pytest
from tests.hub._server import Hub
from tests.hub.conftest import hub  # noqa: F401 - the fixture

from audioset import audio
from audioset.errors import AudioError
from audioset.storage import Entry, filesystems, list_audio

from .conftest import wav


def test_data_sets_on_the_hub_are_listed_and_read(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    huggingface_hub = pytest.importorskip("huggingface_hub")
    huggingface_hub.HfFileSystem.clear_instance_cache()
    monkeypatch.setattr(filesystems, "_opened", {})
    hub.repo("datasets/owner/name").commit({"d/a.wav": wav(1.0), "notes.md": b"none"})
    assert list(list_audio("hf://datasets/owner/name/")) == [Entry("hf://datasets/owner/name/d/a.wav", 32_044)]
    assert len(audio.read("hf://datasets/owner/name/d/a.wav")) == 16_000
    with pytest.raises(AudioError, match=r"hf://datasets/owner/name/gone\.wav: does not exist"):
        audio.read("hf://datasets/owner/name/gone.wav")

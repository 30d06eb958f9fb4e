"""From a catalogue entry to embeddings in a file, through the commands, with what a server on this machine serves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import audioset
from audioset.cli import app
from audioset.weights import from_tensors

from ._server import Server
from ._writers import write_v1


@pytest.fixture
def published(
    small_tensors: dict[str, np.ndarray], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A TensorFlow checkpoint in the place of the published one; returns its hash."""
    content = write_v1(tmp_path / "written.ckpt", small_tensors).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    # The connection breaks once, half-way.
    server.serve("vggish_model.ckpt", content, cuts=[len(content) // 2])
    entry = {"name": "vggish", "model": "vggish", "url": server.url("vggish_model.ckpt"), "sha256": sha256}
    catalogue = tmp_path / "catalogue.json"
    catalogue.write_text(json.dumps([entry]))
    monkeypatch.setenv("AUDIOSET_CATALOGUE", str(catalogue))
    return sha256


def test_embed_fetches_once_and_uses_what_arrived(
    published: str, small_tensors: dict[str, np.ndarray], server: Server, tmp_path: Path, rng: np.random.Generator
) -> None:
    clip = tmp_path / "clip.flac"
    soundfile.write(clip, 0.1 * rng.standard_normal(40_000), 16_000)
    for number in range(2):
        result = CliRunner().invoke(app, ["embed", str(clip), "-o", str(tmp_path / f"{number}.parquet")])
        assert result.exit_code == 0, result.output
    assert len(server.files["vggish_model.ckpt"].requested) == 2  # begun, and resumed after the cut

    expected = from_tensors("vggish", "written", small_tensors, {})
    first, second = (audioset.read_embeddings(tmp_path / f"{number}.parquet") for number in range(2))
    assert first.info.weights_sha256 == second.info.weights_sha256 == expected.sha256
    from audioset import models
    from audioset.embed import Model

    np.testing.assert_array_equal(first.values, Model(models.get("vggish"), expected).embed(clip).values)
    np.testing.assert_array_equal(first.values, second.values)


def test_without_weights_or_network_the_message_says_what_to_do(
    small_tensors: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    result = CliRunner().invoke(app, ["embed", "clip.wav", "-o", str(tmp_path / "out.parquet")])
    message = str(result.exception)
    for needed in ("vggish_model.ckpt", "sha256", "untrained:0", "AUDIOSET_OFFLINE"):
        assert needed in message
    assert list(tmp_path.iterdir()) == []

"""Models that tag, measured on labelled sounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import audioset
from audioset.errors import DatasetError, OptionError
from audioset.evaluate.sounds import predict_sounds
from audioset.models.spec import ModelSpec
from audioset.weights import UntrainedWeightsWarning


@pytest.fixture
def sounds(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Two clips of Dog, one of Rain, one of a class that no model has, and a file that is no sound."""
    for name in ("Dog/a.wav", "Dog/b.wav", "Rain/c.wav", "Jabberwock/d.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, rng.standard_normal(20_000) * 0.1, 16_000)
    (tmp_path / "Rain" / "e.wav").write_bytes(b"no sound")
    return tmp_path


def test_clip_scores_stand_beside_the_labels(sounds: Path, tiny_tagger: ModelSpec) -> None:
    with pytest.warns(UntrainedWeightsWarning):
        model = audioset.load("tiny-tagger", "untrained:0", threads=1)
    found, said = predict_sounds(model, sounds)
    assert found.targets is not None
    names = [name.rpartition("/")[2] for name in found.ids]
    assert names == ["a.wav", "b.wav", "c.wav"]
    for row, name in enumerate(("Dog/a.wav", "Dog/b.wav", "Rain/c.wav")):
        np.testing.assert_array_equal(found.scores[row], model.tag(sounds / name).clip_scores())
        assert [found.classes.names[place] for place in np.flatnonzero(found.targets[row])] == [name.partition("/")[0]]
    assert "clips of classes that tiny-tagger does not have, left out: Jabberwock (1)" in said
    assert any("e.wav" in sentence for sentence in said)


def test_only_clips_that_match_are_scored(sounds: Path, tiny_tagger: ModelSpec) -> None:
    with pytest.warns(UntrainedWeightsWarning):
        model = audioset.load("tiny-tagger", "untrained:0", threads=1)
    found, _ = predict_sounds(model, sounds, test="*/[ac].wav")
    assert [name.rpartition("/")[2] for name in found.ids] == ["a.wav", "c.wav"]


def test_models_and_data_that_do_not_fit_are_refused(sounds: Path, tiny: ModelSpec, tiny_tagger: ModelSpec) -> None:
    with pytest.warns(UntrainedWeightsWarning):
        embedder = audioset.load("tiny", "untrained:0", threads=1)
    with pytest.warns(UntrainedWeightsWarning):
        tagger = audioset.load("tiny-tagger", "untrained:0", threads=1)
    with pytest.raises(OptionError, match="tiny: gives embeddings and has no classes"):
        predict_sounds(embedder, sounds)
    (sounds / "Dog").rename(sounds / "Bandersnatch")
    (sounds / "Rain").rename(sounds / "Jubjub")
    with pytest.raises(DatasetError, match="no clip that can be read has a class of tiny-tagger"):
        predict_sounds(tagger, sounds)

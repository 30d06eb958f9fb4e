"""What every model of the registry must be; a new one is tested by being there."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import audioset
from audioset import Model, features, models, weights
from audioset.models.layers import Output


@pytest.fixture(params=models.REGISTRY)
def model(request: pytest.FixtureRequest) -> Model:
    if request.param == "vggish":
        return request.getfixturevalue("vggish")  # type: ignore[no-any-return]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", weights.UntrainedWeightsWarning)
        return audioset.load(request.param, "untrained:0", threads=1)


def test_the_registry_calls_it_by_its_name(model: Model) -> None:
    assert models.get(model.name).name == model.name
    assert model.spec.summary.casefold().startswith(model.name)


def test_its_weights_can_be_had(model: Model) -> None:
    published = [entry for entry in weights.catalogue().values() if entry.name == model.name == entry.model]
    built_in = models.built_in(model.name)
    assert (built_in is not None) != bool(published)
    if built_in is not None:
        assert set(weights.load(model.name).tensors) == set(model.spec.tensor_shapes)


def test_its_outputs_have_the_widths_that_it_states(model: Model) -> None:
    marked = [layer.name for layer in model.spec.layers if isinstance(layer, Output)]
    assert marked == list(model.spec.outputs)
    assert "embedding" in marked
    got = model._network.run(np.zeros((2, 96, 64), np.float32), outputs=tuple(marked))
    assert {name: values.shape for name, values in got.items()} == {
        name: (2, width) for name, width in model.spec.outputs.items()
    }


def test_classes_have_names_and_scores_are_between_0_and_1(model: Model) -> None:
    assert (model.spec.classes is None) == (model.spec.num_classes is None)
    if model.spec.classes is not None:
        scores = model.tag(np.sin(np.arange(32_000) / 9).astype(np.float32), 16_000)
        assert scores.values.shape == (len(scores.start_s), len(scores.class_names))
        assert scores.values.min() >= 0
        assert scores.values.max() <= 1


def test_its_defaults_embed_a_clip(model: Model) -> None:
    clip = np.sin(np.arange(48_000) / 5).astype(np.float32)
    e = model.embed(clip, 16_000)
    assert len(e) == features.num_examples(48_000, hop_s=model.spec.hop_s, pad=model.spec.pad)
    assert e.values.shape == (len(e), model.spec.embedding_dim)
    assert np.isfinite(e.values).all()
    np.testing.assert_array_equal(model.embed(clip, 16_000).values, e.values)


def test_its_variants_have_the_same_tensors(model: Model) -> None:
    for source_format in model.spec.variants:
        assert model.spec.of_format(source_format).tensor_shapes == model.spec.tensor_shapes

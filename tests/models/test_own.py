"""Models of one's own: written, read, run like any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import audioset
from audioset import models, weights
from audioset.classes import ClassList
from audioset.errors import OptionError, OutputError, WeightsError
from audioset.models import own
from audioset.weights import safetensors_file

PETS = ClassList(("/m/0bt9lr", "cat", "Ämsel"), ("Dog", "cat", "Ämsel"))
Tensors = dict[str, npt.NDArray[np.float32]]


@pytest.fixture
def tensors(rng: np.random.Generator) -> Tensors:
    """mini up to its embedding, and a head of three classes."""
    of_mini = weights.load("mini").tensors
    dim = models.get("mini").embedding_dim
    head = {
        "head/weights": rng.standard_normal((dim, 3)).astype(np.float32),
        "head/biases": rng.standard_normal(3).astype(np.float32),
    }
    return {name: values for name, values in of_mini.items() if not name.startswith("logits/")} | head


def written(path: Path, tensors: Tensors, activation: own.HeadActivation = "softmax") -> Path:
    own.save(own.OwnModel("mini", PETS, activation), tensors, path)
    return path


def clip(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    return rng.standard_normal(3 * 16_000).astype(np.float32) * np.float32(0.1)


def test_scores_are_the_head_on_the_embeddings_of_the_base(
    tmp_path: Path, tensors: Tensors, rng: np.random.Generator
) -> None:
    model = audioset.load(written(tmp_path / "pets.safetensors", tensors))
    waveform = clip(rng)
    embeddings = audioset.load("mini").embed(waveform, 16_000).values
    logits = embeddings @ tensors["head/weights"] + tensors["head/biases"]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    scores = model.tag(waveform, 16_000)

    np.testing.assert_allclose(scores.values, expected, atol=1e-5)  # float32 in another order of sums
    assert scores.class_names == PETS.names
    assert scores.mids == PETS.mids
    np.testing.assert_array_equal(model.embed(waveform, 16_000).values, embeddings)


def test_sigmoid_scores_classes_by_themselves(tmp_path: Path, tensors: Tensors, rng: np.random.Generator) -> None:
    path = written(tmp_path / "pets.safetensors", tensors, "sigmoid")
    model, waveform = audioset.load(path), clip(rng)
    logits = model.embed(waveform, 16_000).values @ tensors["head/weights"] + tensors["head/biases"]
    np.testing.assert_allclose(model.tag(waveform, 16_000).values, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_a_renamed_file_is_the_same_model(tmp_path: Path, tensors: Tensors) -> None:
    path = written(tmp_path / "pets.safetensors", tensors)
    moved = path.rename(tmp_path / "other.safetensors")
    model = audioset.load(str(moved))
    assert model.name == "pets"
    assert weights.verify([str(moved)])[0].ok
    assert model.weights.path == moved  # mapped, not copied


def test_the_network_depends_on_where_the_weights_of_its_base_came_from() -> None:
    from_tflite = own.OwnModel("yamnet", PETS, "sigmoid", "tflite").spec("birds")
    assert {getattr(layer, "activation", None) for layer in from_tflite.layers} == {"relu6", "sigmoid", None}
    assert from_tflite.outputs == {"embedding": 1024, "scores": 3}
    assert not from_tflite.has_pca


def test_weights_that_name_no_network_ask_for_the_model(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    safetensors_file.write(path, {"conv1/weights": np.zeros(3, np.float32)}, {})
    with pytest.raises(WeightsError, match=r"plain\.safetensors: weights that do not say of which network.*--weights"):
        audioset.load(path)


@pytest.mark.parametrize(
    "about",
    [
        "no JSON",
        "[]",
        json.dumps({"base": "gone", "variant": "", "activation": "softmax", "classes": [["a", "a"]]}),
        json.dumps({"base": "mini", "variant": "", "activation": "cube", "classes": [["a", "a"]]}),
        json.dumps({"base": "mini", "variant": "", "activation": "softmax", "classes": []}),
        json.dumps({"base": "mini", "variant": "", "activation": "softmax", "classes": [["a"]]}),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, about: str) -> None:
    path = tmp_path / "pets.safetensors"
    safetensors_file.write(path, {"conv1/weights": np.zeros(3, np.float32)}, {"own_model": about})
    with pytest.raises(WeightsError, match=r"pets\.safetensors: says .* which cannot be used"):
        audioset.load(path)


def test_tensors_must_be_the_networks_and_finite(tmp_path: Path, tensors: Tensors) -> None:
    with pytest.raises(WeightsError, match=r"lacks head/biases"):
        written(tmp_path / "a.safetensors", {k: v for k, v in tensors.items() if k != "head/biases"})
    tensors["head/biases"][1] = np.nan
    with pytest.raises(WeightsError, match=r"head/biases has values that are NaN"):
        written(tmp_path / "a.safetensors", tensors)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["pets", "pets.bin", "mini.safetensors", ".safetensors"])
def test_names_that_would_mislead_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match="expected"):
        own.check_path(name)


def test_an_existing_file_is_kept(tmp_path: Path, tensors: Tensors) -> None:
    path = written(tmp_path / "pets.safetensors", tensors)
    with pytest.raises(OutputError, match="exists already"):
        written(path, tensors)

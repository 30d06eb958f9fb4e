"""Keras weights files: layout, folding of batch norms."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from audioset.errors import WeightsFormatError
from audioset.models.yamnet import SPEC
from audioset.weights import keras_h5

EPSILON = 1e-4
KERAS = {
    "conv": ("conv", "kernel"),
    "depthwise": ("depthwise_conv", "depthwise_kernel"),
    "pointwise": ("pointwise_conv", "kernel"),
}


def published_layout(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random weights by the names that the published file has them under, less Keras's repetition."""
    found = {}
    for name, shape in SPEC.tensor_shapes.items():
        layer, side = name.rsplit("/", 1)
        if layer == "logits":
            found[f"logits/{'kernel' if side == 'weights' else 'bias'}"] = rng.normal(size=shape).astype(np.float32)
            continue
        number, half = layer.split("/")
        keras, kernel = KERAS[half]
        if side == "weights":
            found[f"{number}/{keras}/{kernel}"] = rng.normal(size=shape).astype(np.float32)
        else:
            for key in ("beta", "moving_mean", "moving_variance"):
                found[f"{number}/{keras}/bn/{key}"] = rng.uniform(0.1, 2, shape).astype(np.float32)
    return found


def write_h5(path: Path, tensors: dict[str, np.ndarray], prefix: str = "") -> Path:
    with h5py.File(path, "w") as file:
        for name, values in tensors.items():
            layer, weight = name.rsplit("/", 1)
            file.create_dataset(f"{prefix}{layer}/{layer}/{weight}:0", data=values)
    return path


def test_layers_and_weights_are_read_without_keras_repetition(tmp_path: Path, rng: np.random.Generator) -> None:
    tensors = published_layout(rng)
    found = keras_h5.read(write_h5(tmp_path / "yamnet.h5", tensors))
    assert sorted(found) == sorted(tensors)
    for name, values in tensors.items():
        np.testing.assert_array_equal(found[name], values)


def test_a_whole_model_is_read_as_its_weights(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "model.h5", {"logits/bias": np.ones(3)}, prefix="model_weights/")
    assert list(keras_h5.read(path)) == ["logits/bias"]


def test_the_published_layout_gives_every_tensor_of_yamnet(rng: np.random.Generator) -> None:
    tensors = keras_h5.from_yamnet(published_layout(rng))
    assert tensors is not None
    assert {name: values.shape for name, values in tensors.items()} == SPEC.tensor_shapes
    assert {values.dtype for values in tensors.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("layer", "ours"), [("layer2/depthwise_conv", "layer2/depthwise"), ("layer2/pointwise_conv", "layer2/pointwise")]
)
def test_folded_layer_equals_layer_then_batch_norm(rng: np.random.Generator, layer: str, ours: str) -> None:
    tensors = published_layout(rng)
    found = keras_h5.from_yamnet(tensors)
    assert found is not None
    patch = rng.normal(size=(3, 3, 32)) if "depthwise" in layer else rng.normal(size=(1, 1, 32))

    def convolved(kernel: np.ndarray) -> np.ndarray:
        if "depthwise" in layer:
            return np.einsum("hwc,hwco->c", patch, kernel)
        return np.einsum("hwc,hwco->o", patch, kernel)

    norm = {key: tensors[f"{layer}/bn/{key}"].astype(np.float64) for key in ("beta", "moving_mean", "moving_variance")}
    plain = convolved(tensors[f"{layer}/{'depthwise_kernel' if 'depthwise' in layer else 'kernel'}"].astype(np.float64))
    expected = (plain - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + EPSILON) + norm["beta"]
    np.testing.assert_allclose(
        convolved(found[f"{ours}/weights"]) + found[f"{ours}/biases"], expected, rtol=1e-4, atol=1e-5
    )


def test_names_of_other_models_are_not_yamnets() -> None:
    assert keras_h5.from_yamnet({"dense/kernel": np.zeros((2, 2))}) is None


def test_a_damaged_file_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write_h5(tmp_path / "yamnet.h5", published_layout(rng))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsFormatError, match=r"yamnet\.h5: .*expected a whole HDF5 file"):
        keras_h5.read(path)

"""Every model of the registry in Keras: the same numbers as ONNX Runtime, trainable, saved and loaded by Keras."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import audioset
from audioset import Model, models, weights
from audioset import keras as audioset_keras
from audioset.classes import ClassList
from audioset.errors import OptionError, WeightsError
from audioset.keras import layers
from audioset.models import mini, own, yamnet
from audioset.models.layers import Conv, Dense, DepthwiseConv, Flatten, MaxPool, Output
from audioset.models.spec import ModelSpec
from audioset.network import Network

TOLERANCE = 1e-4  # from examples
FROM_WAVEFORMS = 1e-3
ODD_SIZES = dataclasses.replace(
    mini.SPEC,
    layers=(
        Conv("first/conv", 4, kernel=5, stride=2, activation=None),
        MaxPool(5),
        DepthwiseConv("second/depthwise", stride=2, activation=None),
        Conv("second/pointwise", 6, kernel=1, activation="relu6"),
        MaxPool(3),
        Flatten(),
        Dense("embedding", 6, activation="relu"),
        Output("embedding"),
        Dense("logits", 5, activation="softmax"),
        Output("scores"),
    ),
)


def untrained(model: str, seed: int = 0) -> weights.Weights:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", weights.UntrainedWeightsWarning)
        return weights.load(model, f"untrained:{seed}")


def log_mels(rng: np.random.Generator, count: int = 3) -> np.ndarray:
    return rng.normal(-2, 1.5, (count, 96, 64)).astype(np.float32)


def narrowed(spec: ModelSpec) -> ModelSpec:
    """The model with a fraction of its filters and units where it is too large for a test."""
    if spec.num_weights < 1_000_000:
        return spec
    table = tuple(
        dataclasses.replace(layer, filters=layer.filters // 16)
        if isinstance(layer, Conv)
        else dataclasses.replace(layer, units=layer.units // 32)
        if isinstance(layer, Dense) and layer.name != "logits"
        else layer
        for layer in spec.layers
    )
    return dataclasses.replace(spec, layers=table)


@pytest.fixture(params=models.REGISTRY)
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Model:
    registry = {**models.REGISTRY, request.param: narrowed(models.get(request.param))}
    monkeypatch.setattr(models, "REGISTRY", registry)
    return Model(registry[request.param], untrained(request.param), threads=1)


def outputs_of(network: keras.Model, given: np.ndarray) -> dict[str, np.ndarray]:
    return {name: ops.convert_to_numpy(values) for name, values in network(given).items()}


def test_examples_give_what_onnx_runtime_gives(model: Model, rng: np.random.Generator) -> None:
    network = audioset_keras.from_spec(model.spec, model.weights, "examples")
    examples = log_mels(rng)
    got, expected = (
        outputs_of(network, examples),
        Network(model.spec, model.weights).run(examples, list(model.spec.outputs)),
    )
    assert got.keys() == expected.keys() == model.spec.outputs.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, atol=TOLERANCE, rtol=0)
    assert outputs_of(network, examples[:1])["embedding"].shape == (1, model.spec.embedding_dim)


def test_same_padding_is_tensorflows_for_every_kind_of_layer(rng: np.random.Generator) -> None:
    found = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in ODD_SIZES.tensor_shapes.items()}
    held = weights.from_tensors("mini", "odd", found, {})
    examples = log_mels(rng)
    got = outputs_of(audioset_keras.from_spec(ODD_SIZES, held, "examples"), examples)
    for name, values in Network(ODD_SIZES, held).run(examples, ["embedding", "scores"]).items():
        np.testing.assert_allclose(got[name], values, atol=TOLERANCE, rtol=0)


def test_waveforms_give_what_the_library_gives(model: Model, rng: np.random.Generator) -> None:
    network = audioset_keras.from_spec(model.spec, model.weights)
    clips = (0.3 * rng.standard_normal((2, 33_333))).astype(np.float32)
    got = outputs_of(network, clips)
    for at, clip in enumerate(clips):
        expected = model.embed(clip, sample_rate=16_000).values
        np.testing.assert_allclose(got["embedding"][at], expected, atol=FROM_WAVEFORMS, rtol=0)
    if model.spec.num_classes:
        expected = model.tag(clips[1], sample_rate=16_000).values
        np.testing.assert_allclose(got["scores"][1], expected, atol=FROM_WAVEFORMS, rtol=0)
    assert {name: values.shape[-1] for name, values in network.output.items()} == model.spec.outputs


def test_clips_without_an_example_give_no_rows() -> None:
    got = outputs_of(audioset_keras.mini(pad="none"), np.zeros((2, 15_599), np.float32))
    assert {name: values.shape for name, values in got.items()} == {"embedding": (2, 0, 128), "scores": (2, 0, 521)}


@pytest.mark.filterwarnings("ignore::audioset.features.ShortClipWarning")
@pytest.mark.parametrize("num_samples", [1, 15_599, 15_600, 15_601, 23_280, 23_281])
def test_mini_gives_as_many_rows_as_the_library(num_samples: int) -> None:
    clip = np.zeros(num_samples, np.float32)
    got = audioset_keras.mini()(clip[None])["embedding"]
    assert tuple(got.shape) == (1, len(audioset.load("mini").embed(clip, sample_rate=16_000)), 128)


@pytest.mark.slow
def test_golden_waveforms_give_the_originals_embeddings(data_dir: Path, vggish: Model) -> None:
    network = audioset_keras.from_spec(vggish.spec, vggish.weights)
    with np.load(data_dir / "vggish" / "golden.npz") as golden:
        for name in ("sine_1khz_3s", "dc_1s"):
            got = outputs_of(network, golden[f"{name}/waveform"][None])["embedding"][0]
            # 8e-5 at worst over all ten, on each of the backends that has float64
            np.testing.assert_allclose(got, golden[f"{name}/embedding"], atol=2e-4, rtol=0, err_msg=name)


def test_one_output_alone_is_a_tensor_to_go_on_from() -> None:
    network = audioset_keras.mini(output="embedding", input="examples")
    assert network.output.shape == (None, 128)
    own_network = keras.Sequential([network, keras.layers.Dense(3)])
    assert own_network(np.zeros((2, 96, 64), np.float32)).shape == (2, 3)


def test_training_moves_every_weight_and_predict_takes_batches(rng: np.random.Generator) -> None:
    keras.utils.set_random_seed(0)
    network = audioset_keras.mini(output="embedding", hop_s=0.96, pad="short")
    classifier = keras.Sequential(
        [network, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2, activation="softmax")]
    )
    assert len(classifier.trainable_weights) == 2 * 8 + 2
    before = [np.array(ops.convert_to_numpy(weight)) for weight in network.weights]
    classifier.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    tones = np.sin(np.outer([0.05, 0.5] * 4, np.arange(16_000))).astype(np.float32)
    history = classifier.fit(tones, np.array([0, 1] * 4), epochs=4, batch_size=4, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0] / 2
    assert all((ops.convert_to_numpy(now) != then).any() for now, then in zip(network.weights, before, strict=True))
    assert classifier.predict(tones, verbose=0).argmax(1).tolist() == [0, 1] * 4


def test_frozen_layers_stay_as_they_are() -> None:
    network = audioset_keras.mini(input="examples")
    for layer in network.layers[:-1]:
        layer.trainable = False
    assert [weight.path for weight in network.trainable_weights] == ["logits/kernel", "logits/bias"]


@pytest.mark.slow
def test_a_keras_file_is_loaded_by_keras_after_one_import(tmp_path: Path, rng: np.random.Generator) -> None:
    network = audioset_keras.mini()
    clips = (0.3 * rng.standard_normal((1, 20_000))).astype(np.float32)
    np.save(tmp_path / "clips.npy", clips)
    network.save(tmp_path / "mini.keras")
    code = (
        "import keras, numpy, audioset.keras; network = keras.saving.load_model('mini.keras'); "
        "numpy.savez('got.npz', **network.predict(numpy.load('clips.npy'), verbose=0))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with np.load(tmp_path / "got.npz") as got:
        for name, values in outputs_of(network, clips).items():
            np.testing.assert_allclose(got[name], values, atol=1e-6, rtol=0)


def test_weights_files_fit_whatever_the_input(tmp_path: Path) -> None:
    held = untrained("mini", 7)
    audioset_keras.from_spec(mini.SPEC, held).save_weights(tmp_path / "mine.weights.h5")
    network = audioset_keras.mini(input="examples")
    network.load_weights(tmp_path / "mine.weights.h5")
    for name, values in layers.tensors(network, mini.SPEC.layers).items():
        np.testing.assert_array_equal(values, held.tensors[name])


def test_weights_go_back_to_the_rest_of_the_package(tmp_path: Path, rng: np.random.Generator) -> None:
    network = audioset_keras.from_spec(mini.SPEC, untrained("mini", 3))
    network.get_layer("conv1").set_weights([w + 1 for w in network.get_layer("conv1").get_weights()])
    path = tmp_path / "mine.safetensors"
    weights.save(audioset_keras.to_weights(network, "mini"), path)
    clip = (0.3 * rng.standard_normal(20_000)).astype(np.float32)
    expected = audioset.load("mini", path).embed(clip, sample_rate=16_000).values
    got = outputs_of(network, clip[None])["embedding"][0]
    np.testing.assert_allclose(got, expected, atol=FROM_WAVEFORMS, rtol=0)


def test_a_variant_of_the_layers_is_found_again() -> None:
    clipped = dataclasses.replace(untrained("yamnet"), provenance={"source_format": "tflite"})
    network = audioset_keras.from_spec(yamnet.SPEC, clipped, "examples")
    assert network.get_layer("layer1_conv").activation is keras.activations.relu6
    assert audioset_keras.to_weights(network, "yamnet").provenance["source_format"] == "tflite"
    plain = audioset_keras.from_spec(yamnet.SPEC, untrained("yamnet"), "examples")
    assert "source_format" not in audioset_keras.to_weights(plain, "yamnet").provenance


def test_a_model_of_ones_own_goes_there_and_back(tmp_path: Path, rng: np.random.Generator) -> None:
    classes = ClassList(("a", "b"), ("Ah", "Be"))
    about = own.OwnModel("mini", classes, "softmax")
    found = {
        name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in about.spec("x").tensor_shapes.items()
    }
    path = tmp_path / "mine.safetensors"
    own.save(about, found, path)
    network = audioset_keras.model(path, input="examples")
    assert network.output["scores"].shape == (None, 2)
    again = audioset_keras.to_weights(network, path)
    weights.save(again, tmp_path / "again.safetensors")
    assert audioset.load(str(tmp_path / "again.safetensors")).spec.classes == classes
    np.testing.assert_array_equal(again.tensors["head/weights"], found["head/weights"])


def test_weights_of_another_network_are_refused() -> None:
    network = audioset_keras.mini(input="examples")
    with pytest.raises(WeightsError, match=r"mini: has not the layers of yamnet; expected what audioset\.keras\.model"):
        audioset_keras.to_weights(network, "yamnet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "file"}, "input: 'file' is unknown; expected one of waveform, examples"),
        ({"output": "logits"}, "output: 'logits' is none of mini; expected one of embedding, scores"),
        ({"input": "examples", "hop_s": 0.5}, "hop_s, pad: given with examples"),
        ({"pad": "zero"}, "pad: 'zero' is not a policy"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        audioset_keras.mini(**options)


def test_vggish_and_yamnet_are_the_models_of_their_names() -> None:
    with pytest.raises(OptionError, match="'scores' is none of vggish"):
        audioset_keras.vggish("untrained:0", output="scores")
    with pytest.raises(WeightsError, match=r"nowhere\.h5"):
        audioset_keras.yamnet("nowhere.h5")


@pytest.mark.parametrize(
    "broken", ["import sys; sys.modules['torch'] = None", "import os; os.environ['KERAS_BACKEND'] = 'torhc'"]
)
def test_a_missing_or_unknown_backend_is_named(broken: str) -> None:
    code = (
        f"{broken}\n"
        "from audioset.errors import MissingExtraError\n"
        "try:\n    import audioset.keras\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "audioset.keras: Keras cannot be imported" in done.stdout
    assert "KERAS_BACKEND" in done.stdout

"""The common API of HEAR 2021: shapes, times, what embeddings are of, and inputs that are not sounds."""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from audioset import Model, features, models, weights
from audioset.errors import AudioError, OptionError
from audioset.hear import HearModel
from audioset.models.layers import Conv, Dense, GlobalAverage, Output
from audioset.torch import load

TOLERANCE = 1e-4
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
]


@pytest.fixture(params=models.REGISTRY)
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of HEAR; the millions of weights of VGGish and YAMNet are too many to draw here."""
    registry = dict(models.REGISTRY)
    for name in ("vggish", "yamnet"):
        end = (GlobalAverage(), Dense("b", registry[name].embedding_dim), Output("embedding"))
        registry[name] = dataclasses.replace(registry[name], layers=(Conv("a", 8, stride=8), *end), variants={})
    monkeypatch.setattr(models, "REGISTRY", MappingProxyType(registry))
    return importlib.import_module(f"audioset.hear.{request.param}")


@pytest.fixture
def model(module: ModuleType) -> HearModel:
    loaded: HearModel = module.load_model("untrained:0")
    return loaded


@pytest.fixture
def mini() -> ModuleType:
    return importlib.import_module("audioset.hear.mini")


def noise(rng: np.random.Generator, sounds: int, samples: int) -> torch.Tensor:
    return torch.from_numpy(rng.uniform(-1, 1, (sounds, samples)).astype(np.float32))


def assert_close(found: torch.Tensor, expected: torch.Tensor, *, atol: float) -> None:
    """As PyTorch's own of this name, which imports its distributed tensors first: half a second."""
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=atol, rtol=0, strict=True)


def test_the_model_says_what_it_takes_and_gives(module: ModuleType, model: HearModel) -> None:
    assert isinstance(model, torch.nn.Module)
    sizes = {"vggish": 128, "yamnet": 1024, "mini": 128}
    size = sizes[module.__name__.rpartition(".")[2]]
    assert (model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size) == (16_000, size, size)


def test_a_scene_is_the_mean_that_embed_gives(module: ModuleType, model: HearModel, rng: np.random.Generator) -> None:
    name = module.__name__.rpartition(".")[2]
    embedder = Model(models.get(name), weights.load(name, "untrained:0"), threads=1)
    for samples in (1, 15_600, 15_601, 40_000):
        audio = noise(rng, 2, samples)
        scenes = module.get_scene_embeddings(audio, model)
        assert scenes.dtype == torch.float32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", features.ShortClipWarning)
            means = [embedder.embed(sound.numpy(), 16_000, pool="mean").values for sound in audio]
        np.testing.assert_allclose(scenes.numpy(), np.concatenate(means), atol=TOLERANCE, rtol=0, err_msg=str(samples))


def test_a_timestamp_is_the_centre_of_what_is_embedded(
    module: ModuleType, model: HearModel, rng: np.random.Generator
) -> None:
    audio = noise(rng, 2, 9_000)
    embeddings, times_ms = module.get_timestamp_embeddings(audio, model)
    assert embeddings.shape == (2, 12, model.timestamp_embedding_size)
    assert (embeddings.dtype, times_ms.dtype) == (torch.float32, torch.float32)
    assert times_ms.tolist() == [[50.0 * i for i in range(12)]] * 2
    for i in (0, 5, 11):
        begin = 800 * i - 7_680  # half of 0.96 s
        padded = np.pad(audio.numpy(), ((0, 0), (16_000, 16_000)))[:, 16_000 + begin : 16_000 + begin + 15_600]
        log_mel = np.stack([features.examples(sound, log_offset=model.network.spec.log_offset)[0] for sound in padded])
        with torch.no_grad():
            expected = model.network(torch.from_numpy(log_mel)).embedding
        assert_close(embeddings[:, i], expected, atol=TOLERANCE)


@pytest.mark.parametrize(("samples", "count"), [(1, 1), (799, 1), (800, 2), (801, 2), (16_000, 21)])
def test_timestamps_go_on_up_to_the_end(mini: ModuleType, samples: int, count: int) -> None:
    model = mini.load_model()
    embeddings, times_ms = mini.get_timestamp_embeddings(torch.zeros(1, samples), model)
    assert embeddings.shape == (1, count, 128)
    assert times_ms[0, -1] == 50 * (count - 1) <= samples / 16


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_change_nothing(mini: ModuleType, batch_size: int, rng: np.random.Generator) -> None:
    model = mini.load_model()
    audio = noise(rng, 3, 3_000)  # 4 timestamps each
    scenes, (embeddings, _) = mini.get_scene_embeddings(audio, model), mini.get_timestamp_embeddings(audio, model)
    model.batch_size = batch_size
    assert_close(mini.get_scene_embeddings(audio, model), scenes, atol=1e-5)
    assert_close(mini.get_timestamp_embeddings(audio, model)[0], embeddings, atol=1e-5)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused(mini: ModuleType, batch_size: int) -> None:
    model = mini.load_model()
    model.batch_size = batch_size
    for embed in (mini.get_scene_embeddings, mini.get_timestamp_embeddings):
        with pytest.raises(OptionError, match=f"batch_size: {batch_size} is out of range; expected 1 or more"):
            embed(torch.zeros(1, 100), model)


@pytest.mark.usefixtures("tiny")
def test_no_batch_is_larger_than_was_said(mini: ModuleType) -> None:
    model = HearModel(load("tiny", "untrained:0"))
    model.batch_size = 8
    sizes: list[int] = []
    model.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    mini.get_timestamp_embeddings(torch.zeros(3, 8_000), model)  # 11 each
    mini.get_scene_embeddings(torch.zeros(20, 100), model)
    assert sizes == [6, 5, 6, 5, 6, 5, 8, 8, 4]


def test_the_hop_may_be_changed(mini: ModuleType, rng: np.random.Generator) -> None:
    model = mini.load_model(hop_s=0.1)
    audio = noise(rng, 1, 8_000)
    coarse, times_ms = mini.get_timestamp_embeddings(audio, model)
    assert times_ms.tolist() == [[0, 100, 200, 300, 400, 500]]
    model.hop_s = 0.05
    fine, _ = mini.get_timestamp_embeddings(audio, model)
    assert_close(fine[:, ::2], coarse, atol=1e-5)
    model.hop_s = 0.033  # no whole number of frames
    uneven, times_ms = mini.get_timestamp_embeddings(audio, model)
    assert_close(times_ms[0], torch.arange(16) * 33.0, atol=1e-3)
    assert_close(uneven[:, 0], fine[:, 0], atol=1e-5)
    with pytest.raises(OptionError, match="hop_s: 0 is out of range"):
        model.hop_s = 0
    assert model.hop_s == 0.033


def test_half_precision_gives_float32(mini: ModuleType, rng: np.random.Generator) -> None:
    model = mini.load_model().bfloat16()
    audio = noise(rng, 1, 4_000)
    embeddings, times_ms = mini.get_timestamp_embeddings(audio.to(torch.float64), model)
    assert (embeddings.dtype, times_ms.dtype) == (torch.float32, torch.float32)
    assert mini.get_scene_embeddings(audio, model).dtype == torch.float32


def test_no_gradients_are_kept(mini: ModuleType) -> None:
    model = mini.load_model()
    assert not mini.get_scene_embeddings(torch.zeros(1, 100, requires_grad=True), model).requires_grad
    assert not mini.get_timestamp_embeddings(torch.zeros(1, 100), model)[0].requires_grad


def test_any_network_makes_a_model(tiny: Any) -> None:
    module = importlib.import_module("audioset.hear")
    model = HearModel(load("tiny", "untrained:0"))
    assert model.scene_embedding_size == 16
    assert module.get_scene_embeddings(torch.zeros(2, 100), model).shape == (2, 16)


def test_an_empty_path_is_the_published_weights(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_weights(model: str, name: str | None) -> weights.Weights:
        asked.append((model, name))
        return weights.open_untrained(model, "untrained:0")

    monkeypatch.setattr("audioset.weights.load", load_weights)
    module.load_model("")
    module.load_model("mine.ckpt")
    name = module.__name__.rpartition(".")[2]
    assert asked == [(name, None), (name, "mine.ckpt")]


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((1, 100), np.float32), "audio: ndarray; expected a torch.Tensor"),
        (torch.zeros(100), r"audio: shape \(100,\); expected a torch.Tensor of floats, \(n_sounds, n_samples\)"),
        (torch.zeros(1, 2, 100), r"audio: shape \(1, 2, 100\)"),
        (torch.zeros(1, 100, dtype=torch.int16), "audio: dtype torch.int16"),
        (torch.zeros(2, 0), r"audio: shape \(2, 0\), no samples"),
        (torch.zeros(0, 100), r"audio: shape \(0, 100\), no samples"),
        (torch.tensor([[0.0, 0.0], [0.0, torch.nan]]), "audio: NaN or infinite samples in sound 1"),
        (torch.tensor([[torch.inf]]), "audio: NaN or infinite samples in sound 0"),
    ],
)
def test_what_is_no_batch_of_sounds_is_refused(mini: ModuleType, audio: Any, message: str) -> None:
    model = mini.load_model()
    for embed in (mini.get_scene_embeddings, mini.get_timestamp_embeddings):
        with pytest.raises(AudioError, match=message):
            embed(audio, model)


def test_another_model_is_refused(mini: ModuleType) -> None:
    with pytest.raises(OptionError, match="model: Mini; expected a HearModel"):
        mini.get_scene_embeddings(torch.zeros(1, 100), mini.load_model().network)


@pytest.mark.gpu
def test_a_card_gives_what_the_processor_gives(module: ModuleType, model: HearModel, rng: np.random.Generator) -> None:
    audio = noise(rng, 3, 40_000)
    scenes, (embeddings, times_ms) = (
        module.get_scene_embeddings(audio, model),
        module.get_timestamp_embeddings(audio, model),
    )
    model.to("cuda")
    torch.backends.cudnn.allow_tf32 = False
    on_card = module.get_scene_embeddings(audio.to("cuda"), model)
    assert on_card.device.type == "cuda"
    assert_close(on_card.cpu(), scenes, atol=TOLERANCE)
    others, other_times_ms = module.get_timestamp_embeddings(audio, model)  # still on the processor
    assert_close(others.cpu(), embeddings, atol=TOLERANCE)
    assert_close(other_times_ms.cpu(), times_ms, atol=1e-3)

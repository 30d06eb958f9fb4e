"""Every model of the registry as a module: the same numbers as ONNX Runtime, gradients, weights in and out."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import math
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import audioset
from audioset import Model, models, weights
from audioset.classes import ClassList
from audioset.errors import MissingExtraError, OptionError, OutputError, WeightsError
from audioset.features import examples
from audioset.models import mini, own, yamnet
from audioset.models.layers import Conv, Dense, DepthwiseConv, Flatten, MaxPool, Output
from audioset.models.spec import ModelSpec
from audioset.network import Network as OnnxNetwork
from audioset.torch import EndToEnd, LogMel, Mini, Network, VGGish, YAMNet, load
from audioset.torch.layers import Outputs

TOLERANCE = 1e-4
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
        Dense("logits", 5, activation="sigmoid"),
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
    """The model with a fraction of its filters and units where it is too large to be trained in a test."""
    if spec.num_weights < 10_000_000:
        return spec
    layers = tuple(
        dataclasses.replace(layer, filters=layer.filters // 16)
        if isinstance(layer, Conv)
        else dataclasses.replace(layer, units=layer.units // 32)
        if isinstance(layer, Dense)
        else layer
        for layer in spec.layers
    )
    return dataclasses.replace(spec, layers=layers)


@pytest.fixture(params=models.REGISTRY)
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Model:
    registry = {**models.REGISTRY, request.param: narrowed(models.get(request.param))}
    monkeypatch.setattr(models, "REGISTRY", registry)
    return Model(registry[request.param], untrained(request.param), threads=1)


@pytest.fixture
def network(model: Model) -> Network:
    return Network.from_spec(model.spec, model.weights)


@torch.no_grad()
def assert_gives_what_onnx_runtime_gives(network: Network, onnx: OnnxNetwork, batch: np.ndarray) -> None:
    assert_equals_onnx_runtime(network(torch.from_numpy(batch)), onnx, batch)


def assert_equals_onnx_runtime(got: Outputs, onnx: OnnxNetwork, batch: np.ndarray) -> None:
    expected = onnx.run(batch, tuple(onnx.spec.outputs))
    assert {name for name in ("embedding", "scores") if getattr(got, name) is not None} == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(got, name).detach().numpy(), values, atol=TOLERANCE, rtol=0, err_msg=name)


def test_it_gives_what_onnx_runtime_gives(model: Model, network: Network, rng: np.random.Generator) -> None:
    batch = log_mels(rng)
    assert_gives_what_onnx_runtime_gives(network, model._network, batch)
    with torch.no_grad():
        one = network(torch.from_numpy(batch[:1, np.newaxis])).embedding  # with a channel axis
        torch.testing.assert_close(one, network(torch.from_numpy(batch)).embedding[:1], atol=TOLERANCE, rtol=0)
        assert network(torch.zeros(0, 96, 64)).embedding.shape == (0, model.spec.embedding_dim)


def test_every_variant_gives_what_onnx_runtime_gives(model: Model, rng: np.random.Generator) -> None:
    for source_format in model.spec.variants:
        tensors = {name: 1.5 * values for name, values in model.weights.tensors.items()}
        found = weights.from_tensors(model.name, "drawn", tensors, {"source_format": source_format})
        network = Network.from_spec(model.spec, found)
        assert network.spec.layers == model.spec.variants[source_format]
        onnx = OnnxNetwork(network.spec, found)
        assert_gives_what_onnx_runtime_gives(network, onnx, log_mels(rng))


def test_padding_is_the_same_where_sizes_do_not_divide(rng: np.random.Generator) -> None:
    tensors = {
        name: 0.3 * rng.standard_normal(shape, dtype=np.float32) for name, shape in ODD_SIZES.tensor_shapes.items()
    }
    tensors["first/conv/biases"] -= 10  # all that is pooled is below the zeros of a wrong padding
    found = weights.from_tensors("mini", "drawn", tensors, {})
    assert_gives_what_onnx_runtime_gives(
        Network.from_spec(ODD_SIZES, found), OnnxNetwork(ODD_SIZES, found), log_mels(rng, 8)
    )


def test_gradients_reach_every_weight(network: Network, rng: np.random.Generator) -> None:
    outputs = network(torch.from_numpy(log_mels(rng)))
    loss = outputs.embedding.square().mean()
    if outputs.logits is not None:
        loss = loss + outputs.logits.square().mean()
    loss.backward()
    assert {name for name, _ in network.named_parameters()} == set(network.state_dict())
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_state_dict_has_the_tables_names(model: Model, network: Network) -> None:
    sides = {"/weights": ".weight", "/biases": ".bias"}
    names = [name.replace(side, sides[side]) for name in model.spec.tensor_shapes for side in sides if side in name]
    assert list(network.state_dict()) == names


def test_weights_come_back_as_they_were(model: Model, network: Network) -> None:
    back = network.to_weights()
    assert list(back.tensors) == list(model.spec.tensor_shapes)
    assert back.sha256 == model.weights.sha256
    assert (back.name, back.provenance) == (model.weights.name, model.weights.provenance)


def test_training_leaves_the_weights_that_were_loaded_alone(model: Model, network: Network) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    first = next(iter(model.weights.tensors))
    assert np.abs(network.tensors()[first] - model.weights.tensors[first]).min() > 0.9
    assert model.weights.sha256 == weights.content_sha256(model.weights.tensors)


@pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning")
def test_what_is_saved_runs_in_onnx_runtime_and_comes_back_bit_for_bit(
    model: Model, network: Network, tmp_path: Path, rng: np.random.Generator
) -> None:
    path = tmp_path / "saved.safetensors"
    network.save_pretrained(path)
    batch = log_mels(rng, 1)
    onnx = audioset.load(model.name, path)
    np.testing.assert_array_equal(onnx._network.run(batch)["embedding"], model._network.run(batch)["embedding"])
    back = load(model.name, path)
    assert type(back).__name__.casefold() == model.name
    for name, values in network.state_dict().items():
        assert torch.equal(back.state_dict()[name], values), name


def test_saved_variants_are_found_again(tmp_path: Path, rng: np.random.Generator) -> None:
    network = Network(yamnet.SPEC.of_format("tflite"))
    network.save_pretrained(tmp_path / "y.safetensors")
    back = YAMNet.from_pretrained(tmp_path / "y.safetensors")
    assert back.spec.layers == yamnet.SPEC.variants["tflite"]
    assert_gives_what_onnx_runtime_gives(
        back, audioset.load("yamnet", tmp_path / "y.safetensors")._network, log_mels(rng)
    )


def test_a_model_of_the_registry_needs_no_code(
    tiny: ModelSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rng: np.random.Generator
) -> None:
    tiny = dataclasses.replace(tiny, layers=(Conv("a", 8, kernel=8, stride=8), *tiny.layers[1:]))
    monkeypatch.setattr(models, "REGISTRY", {"tiny": tiny})
    with pytest.warns(weights.UntrainedWeightsWarning):
        network = load("tiny", "untrained:3")
    found = untrained("tiny", 3)
    assert_gives_what_onnx_runtime_gives(network, OnnxNetwork(tiny, found), log_mels(rng))
    trained = Network.from_spec(tiny)  # from random weights of PyTorch's
    trained.save_pretrained(tmp_path / "tiny.safetensors")
    assert_gives_what_onnx_runtime_gives(
        trained, audioset.load("tiny", tmp_path / "tiny.safetensors")._network, log_mels(rng)
    )


def test_vggish_in_full_gives_what_onnx_runtime_gives_and_trains(vggish: Model, rng: np.random.Generator) -> None:
    network = Network.from_spec(vggish.spec, vggish.weights)
    batch = log_mels(rng, 2)
    got = network(torch.from_numpy(batch))
    assert_equals_onnx_runtime(got, vggish._network, batch)
    got.embedding.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert 0 < torch.linalg.vector_norm(parameter.grad) < math.inf, name  # which NaN is not either


def test_golden_log_mel_gives_tensorflows_embeddings(data_dir: Path, vggish: Model) -> None:
    network = Network.from_spec(vggish.spec, vggish.weights)
    with np.load(data_dir / "vggish" / "golden.npz") as golden:
        names = [key.removesuffix("/log_mel") for key in golden if key.endswith("/log_mel")]
        assert len(names) == 10
        batch = np.concatenate([golden[f"{name}/log_mel"] for name in names])
        expected = np.concatenate([golden[f"{name}/embedding"] for name in names])
    with torch.no_grad():
        got = network(torch.from_numpy(batch))
    assert_equals_onnx_runtime(got, vggish._network, batch)
    # float32 on both sides, values up to 40; the worst seen is 6e-5
    np.testing.assert_allclose(got.embedding.numpy(), expected, atol=5e-4, rtol=0)


def test_the_published_8_bit_yamnet_gives_what_onnx_runtime_gives(data_dir: Path) -> None:
    file = data_dir / "yamnet" / "lite-model_yamnet_classification_tflite_1.tflite"
    network = YAMNet.from_pretrained(file)
    assert sum(getattr(layer, "activation", None) == "relu6" for layer in network.spec.layers) == 27
    with np.load(data_dir / "yamnet" / "golden.npz") as golden:
        clips = [golden[name] for name in golden if name.endswith("/waveform")]
    batch = np.concatenate([examples(clip, log_offset=0.001) for clip in clips])
    assert len(batch) == 13
    assert_gives_what_onnx_runtime_gives(network, audioset.load("yamnet", file)._network, batch)


@pytest.mark.parametrize("given", [None, "mini"])
def test_weights_that_ship_with_the_package_need_no_path(given: str | None, rng: np.random.Generator) -> None:
    onnx = audioset.load("mini")._network
    assert_gives_what_onnx_runtime_gives(Mini.from_pretrained(given), onnx, log_mels(rng))


def test_a_catalogue_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_weights(model: str, given: str | None) -> weights.Weights:
        asked.append((model, given))
        raise WeightsError("enough")

    monkeypatch.setattr("audioset.weights.load", load_weights)
    for network, given in ((VGGish, None), (VGGish, "vggish"), (VGGish, "torchvggish"), (YAMNet, "yamnet")):
        with pytest.raises(WeightsError, match="enough"):
            network.from_pretrained(given)
    assert asked == [("vggish", None), ("vggish", "vggish"), ("vggish", "torchvggish"), ("yamnet", "yamnet")]


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    Mini.from_pretrained().save_pretrained(tmp_path / "mini.safetensors")
    with pytest.raises(WeightsError, match=r"mini\.safetensors: weights of mini; expected those of yamnet"):
        YAMNet.from_pretrained(tmp_path / "mini.safetensors")


def test_a_class_alone_starts_from_pytorchs_random_weights() -> None:
    torch.manual_seed(1)
    first = Mini()
    torch.manual_seed(1)
    second = Network(mini.SPEC)
    assert first.spec == mini.SPEC
    assert first.to_weights().sha256 == second.to_weights().sha256
    assert Mini().to_weights().sha256 != first.to_weights().sha256


def test_the_chosen_non_linearity_is_on_the_embedding_alone(rng: np.random.Generator) -> None:
    batch = torch.from_numpy(log_mels(rng))
    with torch.no_grad():
        plain = Mini.from_pretrained()(batch)
        squashed = Mini.from_pretrained(activation=torch.tanh)(batch)
    assert plain.embedding.min() < 0  # pre-activation, as the table has it
    assert torch.equal(squashed.embedding, torch.tanh(plain.embedding))
    assert torch.equal(squashed.logits, plain.logits)
    torch.testing.assert_close(plain.scores, torch.sigmoid(plain.logits))


def test_a_non_linearity_with_weights_trains_and_is_left_out_of_the_file(tmp_path: Path) -> None:
    network = Mini.from_pretrained(activation=torch.nn.PReLU())
    assert "activation.weight" in dict(network.named_parameters())
    network.save_pretrained(tmp_path / "mini.safetensors")
    assert Mini.from_pretrained(tmp_path / "mini.safetensors").to_weights().sha256 == weights.load("mini").sha256


def test_trained_weights_say_what_they_were_trained_from(tmp_path: Path) -> None:
    network = Mini.from_pretrained()
    with torch.no_grad():
        next(network.parameters())[0] += 0.5
    network.save_pretrained(tmp_path / "mine.safetensors")
    found = weights.load("mini", tmp_path / "mine.safetensors")
    base = weights.load("mini")
    assert found.sha256 != base.sha256
    assert found.provenance == {
        "source": "trained from mini",
        "trained_from_sha256": base.sha256,
        "licence": base.provenance["licence"],
        "citation": base.provenance["citation"],
    }
    assert all(check.ok for check in weights.verify([str(tmp_path / "mine.safetensors")]))


def test_trained_weights_no_longer_count_as_published_or_untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audioset.weights.content.PUBLISHED", {"abc"})
    about = {"source_sha256": "abc", "source_format": "untrained", "url": "https://example.org/mini"}
    published = dataclasses.replace(weights.load("mini"), provenance=about)
    network = Network.from_spec(mini.SPEC, published)
    assert network.to_weights().published
    with torch.no_grad():
        next(network.parameters()).zero_()
    trained = network.to_weights("ours")
    assert not trained.published
    assert set(trained.provenance) == {"source", "trained_from_sha256"}
    assert trained.name == "ours"


def test_a_model_of_ones_own_trains_on_and_stays_one(tmp_path: Path, rng: np.random.Generator) -> None:
    tensors = dict(list(weights.load("mini").tensors.items())[:-2])
    tensors |= {"head/weights": rng.standard_normal((128, 2), np.float32), "head/biases": np.zeros(2, np.float32)}
    path = tmp_path / "pets.safetensors"
    own.save(own.OwnModel("mini", ClassList(("cat", "dog"), ("cat", "dog")), "softmax"), tensors, path)
    network = load(path)
    batch = log_mels(rng)
    assert_gives_what_onnx_runtime_gives(network, audioset.load(path)._network, batch)
    with torch.no_grad():
        network.get_parameter("head.bias")[1] += 1
    network.save_pretrained(path, overwrite=True)
    trained = audioset.load(path)
    assert trained.spec.own_classes is not None
    assert trained.spec.own_classes.names == ("cat", "dog")
    assert trained.weights.tensors["head/biases"].tolist() == [0, 1]
    assert_gives_what_onnx_runtime_gives(network, trained._network, batch)


def test_a_file_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "mini.safetensors"
    network = Mini.from_pretrained()
    network.save_pretrained(path)
    with pytest.raises(OutputError, match=r"mini\.safetensors: exists already"):
        network.save_pretrained(path)
    network.save_pretrained(path, overwrite=True)


def test_weights_of_a_training_that_diverged_are_not_saved(tmp_path: Path) -> None:
    network = Mini.from_pretrained()
    with torch.no_grad():
        network.get_parameter("conv3.bias")[5] = torch.nan
    with pytest.raises(WeightsError, match=r"mini\.safetensors: conv3/biases has values that are NaN"):
        network.save_pretrained(tmp_path / "mini.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_first_layers_can_be_frozen(rng: np.random.Generator) -> None:
    network = Mini.from_pretrained()
    layers = network.parameters_by_layer()
    assert list(layers)[:3] == ["conv1", "conv2", "conv3"]
    assert list(layers)[-2:] == ["embedding", "logits"]
    assert [p for group in layers.values() for p in group] == list(network.parameters())
    for name in list(layers)[:7]:
        for parameter in layers[name]:
            parameter.requires_grad_(False)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    outputs = network(torch.from_numpy(log_mels(rng)))
    (outputs.embedding.square().mean() + outputs.logits.square().mean()).backward()
    optimizer.step()
    changed = {
        name.partition(".")[0] for name, values in network.state_dict().items() if (values != before[name]).any()
    }
    assert changed == {"embedding", "logits"}


def test_training_lowers_a_loss_on_waveforms() -> None:
    times = torch.arange(16_000) / 16_000
    waveform = torch.stack([torch.sin(2 * torch.pi * pitch * times) for pitch in (300, 500, 2000, 4000)])
    high = torch.tensor([0.0, 0.0, 1.0, 1.0])
    model = EndToEnd(Mini.from_pretrained(), hop_s=0.96, pad="short")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        logits = model(waveform).logits[:, 0, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, high)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(("seconds", "hop_s", "pad"), [(2.5, None, None), (0.4, None, None), (3, 0.1, "none")])
def test_waveforms_give_what_the_engine_gives(
    rng: np.random.Generator, seconds: float, hop_s: float | None, pad: str | None
) -> None:
    waveform = (0.3 * rng.standard_normal((2, int(seconds * 16_000)))).astype(np.float32)
    onnx = audioset.load("mini", threads=1)
    model = EndToEnd(Mini.from_pretrained(), hop_s=hop_s, pad=pad)  # type: ignore[arg-type]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = model(torch.from_numpy(waveform))
        for i, clip in enumerate(waveform):
            embeddings = onnx.embed(clip, 16_000, hop_s=hop_s, pad=pad).values  # type: ignore[arg-type]
            np.testing.assert_allclose(got.embedding[i], embeddings, atol=TOLERANCE, rtol=0)
            scores = onnx.tag(clip, 16_000, hop_s=hop_s, pad=pad).values  # type: ignore[arg-type]
            np.testing.assert_allclose(got.scores[i], scores, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("num_samples", "count"), [(15_600, 1), (100, 0)])
def test_the_example_axis_stays(tiny: ModelSpec, num_samples: int, count: int) -> None:
    network = Network.from_spec(tiny, untrained("tiny"))
    outputs = EndToEnd(network, pad="none")(torch.zeros(1, num_samples))
    assert outputs.embedding.shape == (1, count, 16)
    assert outputs.scores is outputs.logits is None


def test_gradients_reach_the_samples(rng: np.random.Generator) -> None:
    waveform = torch.from_numpy((0.3 * rng.standard_normal((2, 16_000))).astype(np.float32)).requires_grad_()
    EndToEnd(Mini.from_pretrained())(waveform).embedding.square().sum().backward()
    assert waveform.grad is not None
    assert waveform.grad.isfinite().all()
    assert waveform.grad[:, :15_000].any(dim=1).all()


def test_half_precision_runs_from_waveforms_and_is_saved_as_float32(tmp_path: Path, rng: np.random.Generator) -> None:
    waveform = torch.from_numpy((0.3 * rng.standard_normal((2, 16_000))).astype(np.float32))
    model = EndToEnd(Mini.from_pretrained())
    with torch.no_grad():
        expected = model(waveform).scores
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(model(waveform).scores.float(), expected, atol=0.05, rtol=0)
        half = model.bfloat16()(waveform).scores
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0)
    model.network.save_pretrained(tmp_path / "mini.safetensors")
    assert {values.dtype.name for values in weights.load("mini", tmp_path / "mini.safetensors").tensors.values()} == {
        "float32"
    }


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])  # noqa: S301
def test_copies_are_whole(duplicate, rng: np.random.Generator) -> None:  # type: ignore[no-untyped-def]
    network = EndToEnd(Mini.from_pretrained())
    waveform = torch.from_numpy((0.3 * rng.standard_normal((1, 16_000))).astype(np.float32))
    twin = duplicate(network)
    with torch.no_grad():
        assert torch.equal(twin(waveform).embedding, network(waveform).embedding)
    assert twin.network.to_weights().provenance == network.network.to_weights().provenance


def test_examples_of_another_shape_are_refused() -> None:
    with pytest.raises(
        OptionError, match=r"examples: shape \(2, 5, 96, 64\); expected \(n, 96, 64\) or \(n, 1, 96, 64\)"
    ):
        Mini()(torch.zeros(2, 5, 96, 64))


def test_a_table_without_an_embedding_is_refused() -> None:
    spec = dataclasses.replace(mini.SPEC, layers=mini.SPEC.layers[:3])
    with pytest.raises(OptionError, match="layers: no embedding"):
        Network(spec)(torch.zeros(1, 96, 64))


def test_modules_are_plain_ones_that_tools_know() -> None:
    kinds = {name: type(module) for name, module in YAMNet().named_children()}
    assert issubclass(kinds["layer2/depthwise"], torch.nn.Conv2d)
    assert kinds["logits"] is torch.nn.Linear
    assert isinstance(EndToEnd(Mini()).log_mel, LogMel)


def test_importing_the_package_does_not_import_pytorch() -> None:
    code = "import sys, audioset; audioset.load; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_without_pytorch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("audioset.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"PyTorch is not installed; .*`pip install torch`"):
        importlib.import_module("audioset.torch")

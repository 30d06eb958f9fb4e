"""The ONNX graph against a plain NumPy evaluation of the same layers, and against TensorFlow's golden values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from audioset import Model, models
from audioset.errors import OptionError
from audioset.models.layers import Conv, Dense, DepthwiseConv, Flatten, GlobalAverage, MaxPool, Output, walk
from audioset.models.spec import INPUT_SHAPE, ModelSpec
from audioset.network import Network
from audioset.weights import Weights, from_tensors, untrained

Array = npt.NDArray[np.float64]

SMALL = ModelSpec(
    name="small",
    summary="every kind of layer, odd sizes and strides among them",
    layers=(
        Conv("a", 5, stride=2),
        DepthwiseConv("b", stride=2),
        Conv("c", 6, kernel=1),
        MaxPool(),
        DepthwiseConv("d", kernel=5, activation=None),
        MaxPool(3),
        Flatten(),
        Dense("e", 7, activation="relu"),
        Output("embedding"),
        Dense("f", 4, activation="sigmoid"),
        Output("scores"),
    ),
    log_offset=0.001,
    hop_s=0.48,
    pad="all",
    licence="",
    citation="",
)
AVERAGED = ModelSpec(
    name="averaged",
    summary="ends in an average",
    layers=(Conv("a", 3, kernel=3, stride=3), GlobalAverage(), Output("embedding")),
    log_offset=0.01,
    hop_s=0.96,
    pad="short",
    licence="",
    citation="",
)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def windows(x: Array, kernel: int, stride: int, fill: float) -> Array:
    """(h, w, c) to (h', w', kernel, kernel, c), TensorFlow's SAME."""
    padding = [same_padding(size, kernel, stride) for size in x.shape[:2]]
    x = np.pad(x, [*padding, (0, 0)], constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (0, 1))[::stride, ::stride]
    return np.asarray(view.transpose(0, 1, 3, 4, 2))


def plain(spec: ModelSpec, tensors: dict[str, npt.NDArray[np.float32]], example: Array) -> dict[str, Array]:
    """The network in float64, one example at a time, by the definition of each layer."""
    x = example[:, :, np.newaxis].astype(np.float64)
    outputs: dict[str, Array] = {}
    for layer, _, leaving in walk(spec.layers, INPUT_SHAPE):
        match layer:
            case Conv(name=name, kernel=kernel, stride=stride):
                x = np.einsum("hwijc,ijcd->hwd", windows(x, kernel, stride, 0.0), tensors[f"{name}/weights"])
            case DepthwiseConv(name=name, kernel=kernel, stride=stride):
                x = np.einsum("hwijc,ijcd->hwc", windows(x, kernel, stride, 0.0), tensors[f"{name}/weights"])
            case MaxPool(size=size):
                x = windows(x, size, size, -np.inf).max(axis=(2, 3))
            case GlobalAverage():
                x = x.mean(axis=(0, 1))
            case Flatten():
                x = x.reshape(-1)
            case Dense(name=name):
                x = x @ tensors[f"{name}/weights"]
            case Output(name=name):
                outputs[name] = x
        if isinstance(layer, Conv | DepthwiseConv | Dense):
            x = x + tensors[f"{layer.name}/biases"]
            if layer.activation == "relu":
                x = np.maximum(x, 0)
            elif layer.activation == "sigmoid":
                x = 1 / (1 + np.exp(-x))
        assert x.shape == leaving
    return outputs


def drawn(spec: ModelSpec, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
    return {name: 0.3 * rng.standard_normal(shape, dtype=np.float32) for name, shape in spec.tensor_shapes.items()}


def weights_of(spec: ModelSpec, tensors: dict[str, npt.NDArray[np.float32]]) -> Weights:
    return from_tensors(spec.name, "drawn", tensors, {})


@pytest.mark.parametrize("spec", [SMALL, AVERAGED], ids=lambda spec: spec.name)
def test_graph_equals_a_plain_evaluation_of_the_layers(spec: ModelSpec, rng: np.random.Generator) -> None:
    tensors = drawn(spec, rng)
    network = Network(spec, weights_of(spec, tensors))
    batch = rng.standard_normal((3, 96, 64)).astype(np.float32)
    got = network.run(batch, outputs=tuple(spec.outputs))
    for name in spec.outputs:
        expected = np.stack([plain(spec, tensors, example)[name] for example in batch])
        # float32 sums of up to 300 products, values up to 100
        np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=1e-4)


def test_batch_equals_one_by_one_bit_for_bit(rng: np.random.Generator) -> None:
    network = Network(SMALL, weights_of(SMALL, drawn(SMALL, rng)))
    batch = rng.standard_normal((33, 96, 64)).astype(np.float32)
    whole = network.run(batch)["embedding"]
    for size in (1, 2, 5, 32):
        np.testing.assert_array_equal(network.run(batch[:size])["embedding"], whole[:size])


def test_no_examples_give_no_rows(rng: np.random.Generator) -> None:
    network = Network(SMALL, weights_of(SMALL, drawn(SMALL, rng)))
    assert network.run(np.empty((0, 96, 64)))["embedding"].shape == (0, 7)


def test_examples_of_another_shape_are_refused(rng: np.random.Generator) -> None:
    network = Network(AVERAGED, weights_of(AVERAGED, drawn(AVERAGED, rng)))
    with pytest.raises(OptionError, match=r"examples: shape \(96, 64\); expected \(n, 96, 64\)"):
        network.run(np.zeros((96, 64)))


def test_an_output_that_is_not_there_is_refused(rng: np.random.Generator) -> None:
    network = Network(AVERAGED, weights_of(AVERAGED, drawn(AVERAGED, rng)))
    with pytest.raises(OptionError, match="averaged has no 'scores'; expected some of embedding"):
        network.run(np.zeros((1, 96, 64)), outputs=["scores"])


def test_vggish_has_the_published_shapes() -> None:
    spec = models.get("vggish")
    assert spec.num_weights == 72_141_184
    assert spec.outputs == {"embedding": 128}
    assert spec.tensor_shapes["vggish/conv3/conv3_2/weights"] == (3, 3, 256, 256)
    assert spec.tensor_shapes["vggish/fc1/fc1_1/weights"] == (6 * 4 * 512, 4096)


def test_unknown_model_is_refused() -> None:
    with pytest.raises(OptionError, match=r"unknown model 'vgish'; expected one of .*vggish"):
        models.get("vgish")


@pytest.mark.parametrize("name", ["nosuch.safetensors", "folder/nosuch"])
def test_a_model_file_that_is_not_there_is_named_as_a_file(name: str) -> None:
    with pytest.raises(OptionError, match=rf"model {name}: no such file; expected one that `audioset finetune` wrote"):
        models.get(name)


def test_embeddings_of_golden_log_mel_equal_tensorflow(data_dir: Path, vggish: Model) -> None:
    golden = np.load(data_dir / "vggish" / "golden.npz")
    names = [key.removesuffix("/log_mel") for key in golden if key.endswith("/log_mel")]
    assert len(names) == 10
    for name in names:
        got = vggish._network.run(golden[f"{name}/log_mel"])["embedding"]
        # float32 on both sides, sums of 12,288 products of values up to 40; the worst seen is 5e-5
        np.testing.assert_allclose(got, golden[f"{name}/embedding"], atol=5e-4, rtol=0, err_msg=name)


def test_weights_in_a_file_give_the_same_bits_as_in_memory(rng: np.random.Generator, tmp_path: Path) -> None:
    from audioset.weights import save
    from audioset.weights.content import open_safetensors

    weights = weights_of(SMALL, drawn(SMALL, rng))
    folder = tmp_path / "a folder, é"
    folder.mkdir()
    save(weights, folder / "small one.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "REGISTRY", {"small": SMALL})
        mapped = open_safetensors("small", folder / "small one.safetensors", "small")
    assert mapped is not None
    assert mapped.path is not None
    batch = rng.standard_normal((3, 96, 64)).astype(np.float32)
    in_memory, in_file = Network(SMALL, weights), Network(SMALL, mapped)
    np.testing.assert_array_equal(in_file.run(batch)["embedding"], in_memory.run(batch)["embedding"])


def test_a_stride_wider_than_the_kernel_starts_where_tensorflow_does(tiny: ModelSpec) -> None:
    """SAME pads nothing there: the kernel takes samples 0 to 2 of every 8."""
    drawn = untrained.draw(tiny.tensor_shapes, 0)
    network = Network(tiny, from_tensors("tiny", "t", drawn, {}))
    examples = np.random.default_rng(0).standard_normal((1, 96, 64)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(examples[0], (3, 3))[::8, ::8]
    convolved = np.einsum("hwij,ijo->hwo", windows, drawn["a/weights"][:, :, 0]) + drawn["a/biases"]
    expected = np.maximum(convolved, 0).mean(axis=(0, 1)) @ drawn["b/weights"] + drawn["b/biases"]
    np.testing.assert_allclose(network.run(examples)["embedding"][0], expected, atol=1e-5)  # float32 sums

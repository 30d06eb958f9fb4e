"""The network in 8 bits as ONNX Runtime runs it: what it computes, that it does so in integers, and how it agrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import audioset
from audioset import graph, int8, models
from audioset._runtime import onnx_runtime, resolve
from audioset.int8.making import quantize
from audioset.models.layers import Conv, Dense, DepthwiseConv, GlobalAverage, Output
from audioset.models.spec import ModelSpec
from audioset.network import Network
from audioset.weights import Weights, from_tensors, untrained
from audioset.weights import load as load_weights

from ._networks import ENDS, SMALL, drawn, evaluated, examples, spec_of, weights_of

Float32Array = npt.NDArray[np.float32]


def correlation(reference: Float32Array, other: Float32Array) -> float:
    """Mean-centred: each dimension's mean over all rows is taken away first."""
    first, second = (values - values.mean(axis=0, dtype=np.float64) for values in (reference, other))
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


def in_int8(spec: ModelSpec, weights: Weights, batch: Float32Array) -> int8.Int8Weights:
    return quantize(spec, weights, int8.calibrate(spec, weights, [batch]), calibration="these")


def run(spec: ModelSpec, made: int8.Int8Weights, batch: Float32Array, threads: int = 1) -> dict[str, Float32Array]:
    session = onnx_runtime.open_session(graph.build(spec, scales=made.scales), made.tensors, {}, None, threads=threads)
    return dict(zip(spec.outputs, session.run(list(spec.outputs), {graph.INPUT_NAME: batch}), strict=True))


def optimized(spec: ModelSpec, made: int8.Int8Weights, path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many nodes of each kind ONNX Runtime ends up with."""
    import onnx
    import onnxruntime as ort

    class Options(ort.SessionOptions):
        def __init__(self) -> None:
            super().__init__()
            self.optimized_model_filepath = str(path)
            self.log_severity_level = 3  # that such a file fits this processor only

    with monkeypatch.context() as patch:
        patch.setattr(ort, "SessionOptions", Options)
        onnx_runtime.open_session(graph.build(spec, scales=made.scales), made.tensors, {}, None)
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


@pytest.mark.parametrize("spec", [SMALL, ENDS], ids=lambda spec: spec.name)
def test_outputs_equal_a_plain_evaluation_with_everything_rounded(spec: ModelSpec) -> None:
    tensors, batch = drawn(spec), examples()
    made = in_int8(spec, weights_of(spec, tensors), batch)
    got = run(spec, made, batch)
    for name in spec.outputs:
        plain = np.stack([evaluated(spec, tensors, example, made.scales)[0][name] for example in batch])
        exact = np.stack([evaluated(spec, tensors, example)[0][name] for example in batch])
        # Where a value lies midway between two steps, float32 and float64 may choose differently; what follows then
        # differs by a step. That is far less than what rounding itself does.
        error = np.abs(plain - exact).mean()
        assert error > 0
        assert np.abs(got[name] - plain).mean() < 0.25 * error
        assert correlation(exact.astype(np.float32), got[name]) > 0.995


@pytest.mark.parametrize(
    "make",
    [lambda: SMALL, lambda: ENDS, lambda: models.get("mini"), lambda: models.get("yamnet"),
     lambda: models.get("yamnet").of_format("tflite")],
    ids=["small", "ends", "mini", "yamnet", "yamnet with ReLU6"],
)  # fmt: skip
def test_all_layers_but_those_that_stay_float_run_in_integers(
    make: Callable[[], ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make()
    weights = from_tensors(spec.name, "drawn", untrained.draw(spec.tensor_shapes, 0), {})
    made = in_int8(spec, weights, 30 * examples(2))
    check_integers(spec, optimized(spec, made, tmp_path / "optimized.onnx", monkeypatch))


@pytest.mark.slow
def test_all_layers_of_vggish_run_in_integers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = models.get("vggish")
    weights = from_tensors(spec.name, "drawn", untrained.draw(spec.tensor_shapes, 0), {})
    made = in_int8(spec, weights, examples(2))
    check_integers(spec, optimized(spec, made, tmp_path / "optimized.onnx", monkeypatch))


def check_integers(spec: ModelSpec, found: Counter[str]) -> None:
    kinds = {True: (Conv | DepthwiseConv), False: Dense}
    for is_conv, in_integers, in_float in (
        (True, "QLinearConv", ("Conv", "FusedConv")),
        (False, "QGemm", ("Gemm", "FusedGemm")),
    ):
        layers = [layer for layer in spec.layers if isinstance(layer, kinds[is_conv])]
        num_float = sum(layer.name in spec.float_layers for layer in layers)
        assert found[in_integers] == len(layers) - num_float
        assert sum(found[kind] for kind in in_float) == num_float
    assert found["MatMul"] == 0


@pytest.mark.parametrize("name", ["small", "ends", "mini"])
def test_an_example_gives_the_same_bits_in_any_batch_and_with_any_threads(name: str) -> None:
    spec = {"small": SMALL, "ends": ENDS}.get(name) or models.get(name)
    weights = load_weights("mini") if name == "mini" else weights_of(spec)
    batch = examples(33)
    made = in_int8(spec, weights, batch)
    whole = run(spec, made, batch)
    for size in (1, 2, 5, 32):
        for threads in (1, 2):
            for output, values in run(spec, made, batch[:size], threads).items():
                np.testing.assert_array_equal(values, whole[output][:size])


def test_dead_channels_do_not_lose_their_bias() -> None:
    tensors = drawn(SMALL)
    tensors["a/weights"][..., :3] = 1e-20
    tensors["a/biases"][:3] = (0.5, 3.0, 2.0)
    batch = examples()
    got = run(SMALL, in_int8(SMALL, weights_of(SMALL, tensors), batch), batch)["embedding"]
    exact = np.stack([evaluated(SMALL, tensors, example)[0]["embedding"] for example in batch])
    assert correlation(exact.astype(np.float32), got) > 0.99


def test_a_layer_that_read_nothing_but_zero_passes_its_biases_on() -> None:
    """As one may that was calibrated on next to nothing."""
    spec = spec_of("dead", Conv("a", 4, stride=8), Conv("b", 5, stride=4), GlobalAverage(), Output("embedding"))
    tensors = drawn(spec)
    tensors["a/biases"][:] = -1000
    tensors["b/biases"][:] = (0.5, 1, 2, 0, 0.25)
    batch = examples()
    got = run(spec, in_int8(spec, weights_of(spec, tensors), batch), batch)["embedding"]
    np.testing.assert_allclose(got, np.tile(tensors["b/biases"], (len(batch), 1)), atol=0.01)  # one step of 2 / 255


def synthesized(seconds: float = 60.0) -> Float32Array:
    """Chords, clicks and noises that come and go: other sounds than those that calibration makes."""
    rng = np.random.default_rng(5)
    t = np.arange(int(seconds * 16_000)) / 16_000
    waveform = np.zeros(len(t))
    for start in np.arange(0, seconds, 1.5):
        span = slice(int(start * 16_000), int((start + 6) * 16_000))  # after which nothing is left to hear
        since = t[span] - start
        envelope = np.exp(-since / rng.uniform(0.05, 1.0))
        kind = rng.integers(3)
        if kind == 0:
            partials = rng.uniform(80, 3000, 6)
            sound = np.sin(2 * np.pi * partials[:, np.newaxis] * since).sum(axis=0)
        elif kind == 1:
            sound = np.convolve(rng.standard_normal(len(since)), np.ones(rng.integers(1, 20)), "same")
        else:
            sound = np.sign(np.sin(2 * np.pi * rng.uniform(50, 400) * since))
        waveform[span] += rng.uniform(0.01, 0.3) * envelope * sound
    waveform += 10 ** rng.uniform(-4, -2) * rng.standard_normal(len(t))
    return np.clip(waveform, -1, 1).astype(np.float32)


def test_mini_agrees_with_float32_on_sounds_that_it_was_not_calibrated_on() -> None:
    waveform = synthesized()
    reference, quantized = (audioset.load("mini", precision=precision) for precision in ("fp32", "int8"))
    pairs = [
        [model.embed(waveform, 16_000).values for model in (reference, quantized)],
        [model.tag(waveform, 16_000).values for model in (reference, quantized)],
    ]
    for first, second in pairs:
        assert not np.array_equal(first, second)
        assert correlation(first, second) >= 0.995


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("mini", None),
        ("yamnet", "yamnet/lite-model_yamnet_classification_tflite_1.tflite"),
        pytest.param("vggish", "untrained:0", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning")
def test_models_agree_with_float32_on_recordings(name: str, weights: str | None, data_dir: Path) -> None:
    files = [str(path) for path in sorted((data_dir / "esc10").rglob("*.ogg"))[::16]]
    assert len(files) == 20
    path = weights if weights is None or ":" in weights else data_dir / weights
    values = [
        np.concatenate([found.values for found in audioset.load(name, path, precision=precision).embed_files(files)])
        for precision in ("fp32", "int8")
    ]
    assert correlation(*values) >= 0.995


def test_a_network_in_8_bits_needs_no_more_of_a_place_than_its_precision(rng: np.random.Generator) -> None:
    network = Network(models.get("mini"), load_weights("mini"), place=resolve("int8"))
    found = network.run(examples(3), ("embedding", "scores"))
    assert {name: values.shape for name, values in found.items()} == {"embedding": (3, 128), "scores": (3, 521)}
    assert all(values.dtype == np.float32 for values in found.values())

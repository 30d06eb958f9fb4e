"""Small networks for the tests, and a plain evaluation of them with everything rounded as in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from audioset.graph import Scale
from audioset.models.layers import Conv, Dense, DepthwiseConv, Flatten, GlobalAverage, Layer, MaxPool, Output, walk
from audioset.models.spec import INPUT_SHAPE, ModelSpec
from audioset.weights import Weights, from_tensors

Array = npt.NDArray[np.float64]
Tensors = dict[str, npt.NDArray[np.float32]]


def spec_of(name: str, *layers: Layer, float_layers: tuple[str, ...] = ()) -> ModelSpec:
    return ModelSpec(
        name=name,
        summary="for tests",
        layers=layers,
        log_offset=0.01,
        hop_s=0.96,
        pad="short",
        licence="",
        citation="",
        float_layers=float_layers,
    )


SMALL = spec_of(
    "small",
    Conv("a", 5, stride=2),
    DepthwiseConv("b", stride=2),
    Conv("c", 6, kernel=1),
    MaxPool(),
    DepthwiseConv("d", kernel=5, activation="relu6"),
    MaxPool(3),
    Flatten(),
    Dense("e", 7, activation="relu"),
    Output("embedding"),
    Dense("f", 9, activation="sigmoid"),
    Output("scores"),
)
# The ends stay in float32, and there is an average.
ENDS = spec_of(
    "ends",
    Conv("a", 6, stride=4),
    Conv("b", 8, stride=2),
    GlobalAverage(),
    Output("embedding"),
    Dense("c", 9, activation="softmax"),
    Output("scores"),
    float_layers=("a", "c"),
)


def drawn(spec: ModelSpec, seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    return {name: 0.3 * rng.standard_normal(shape, dtype=np.float32) for name, shape in spec.tensor_shapes.items()}


def weights_of(spec: ModelSpec, tensors: Tensors | None = None) -> Weights:
    return from_tensors(spec.name, "drawn", drawn(spec) if tensors is None else tensors, {})


def examples(count: int = 8, seed: int = 1) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, *INPUT_SHAPE[:2])).astype(np.float32)


def evaluated(
    spec: ModelSpec, tensors: Tensors, example: npt.NDArray[np.float32], scales: Mapping[int, Scale] | None = None
) -> tuple[dict[str, Array], dict[int, Array]]:
    """The outputs, and what each layer reads, in float64; rounded where there are scales."""
    x = example[:, :, np.newaxis].astype(np.float64)
    outputs, read = {}, {}
    for index, (layer, _, _) in enumerate(walk(spec.layers, INPUT_SHAPE)):
        if scales is not None and index in scales:
            x = _rounded(x, scales[index])
        read[index] = x
        match layer:
            case Conv(name=name, kernel=kernel, stride=stride):
                weights = _weights(spec, tensors, name, scales)
                x = np.einsum("hwijc,ijcd->hwd", _windows(x, kernel, stride, 0.0), weights)
            case DepthwiseConv(name=name, kernel=kernel, stride=stride):
                weights = _weights(spec, tensors, name, scales)
                x = np.einsum("hwijc,ijc->hwc", _windows(x, kernel, stride, 0.0), weights[..., 0])
            case MaxPool(size=size):
                x = _windows(x, size, size, -np.inf).max(axis=(2, 3))
            case GlobalAverage():
                x = x.mean(axis=(0, 1))
            case Flatten():
                x = x.reshape(-1)
            case Dense(name=name):
                x = x @ _weights(spec, tensors, name, scales)
            case Output(name=name):
                outputs[name] = x
        if isinstance(layer, Conv | DepthwiseConv | Dense):
            x = x + tensors[f"{layer.name}/biases"]
            match layer.activation:
                case "relu":
                    x = np.maximum(x, 0)
                case "relu6":
                    x = np.clip(x, 0, 6)
                case "sigmoid":
                    x = 1 / (1 + np.exp(-x))
                case "softmax":
                    x = np.exp(x) / np.exp(x).sum()
    return outputs, read


def _rounded(values: Array, scale: Scale) -> Array:
    whole = np.clip(np.rint(values / scale.scale) + scale.zero_point, 0, 255)
    return np.asarray((whole - scale.zero_point) * scale.scale)


def _weights(spec: ModelSpec, tensors: Tensors, name: str, scales: Mapping[int, Scale] | None) -> Array:
    """Rounded to 255 steps an output channel, which is the last axis but for depthwise kernels."""
    values = tensors[f"{name}/weights"].astype(np.float64)
    if scales is None or name in spec.float_layers:
        return values
    axes = (0, 1, 3) if values.ndim == 4 and values.shape[3] == 1 and name in "bd" else tuple(range(values.ndim - 1))
    step = np.abs(values).max(axis=axes, keepdims=True) / 127
    return np.asarray(np.rint(values / step) * step)


def _windows(x: Array, kernel: int, stride: int, fill: float) -> Array:
    """(h, w, c) to (h', w', kernel, kernel, c), TensorFlow's SAME."""
    padding = []
    for size in x.shape[:2]:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        padding.append((total // 2, total - total // 2))
    x = np.pad(x, [*padding, (0, 0)], constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (0, 1))[::stride, ::stride]
    return np.asarray(view.transpose(0, 1, 3, 4, 2))

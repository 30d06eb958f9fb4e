"""The kinds of layer that the networks are made of.

A network is a tuple of these, written once in its own file. `graph.py` turns it into ONNX, `torch/layers.py` into a
module and `keras/layers.py` into a Keras model; nothing else about a network is written anywhere else: shapes, names of
tensors and sizes are all derived here. Names and layouts are TensorFlow's, as in the published files: convolution
kernels (height, width, in, out), depthwise kernels (height, width, channels, 1), matrices (in, out); padding is
TensorFlow's SAME.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

Activation: TypeAlias = Literal["relu", "relu6", "sigmoid", "softmax"] | None
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Conv:
    """2-D convolution with bias, SAME padding."""

    name: str
    filters: int
    kernel: int = 3
    stride: int = 1
    activation: Activation = "relu"


@dataclass(frozen=True)
class DepthwiseConv:
    """One filter a channel, with bias, SAME padding."""

    name: str
    kernel: int = 3
    stride: int = 1
    activation: Activation = "relu"


@dataclass(frozen=True)
class MaxPool:
    """Non-overlapping maximum, SAME padding."""

    size: int = 2


@dataclass(frozen=True)
class GlobalAverage:
    """Mean over time and frequency: (h, w, c) to (c,)."""


@dataclass(frozen=True)
class Flatten:
    """(h, w, c) to (h·w·c,), channels last as TensorFlow does it."""


@dataclass(frozen=True)
class Dense:
    """Matrix and bias."""

    name: str
    units: int
    activation: Activation = None


@dataclass(frozen=True)
class Output:
    """Marks what the layer before it gives as an output of the network."""

    name: Literal["embedding", "scores"]


Layer: TypeAlias = Conv | DepthwiseConv | MaxPool | GlobalAverage | Flatten | Dense | Output


def walk(layers: tuple[Layer, ...], input_shape: Shape) -> Iterator[tuple[Layer, Shape, Shape]]:
    """Yield each layer with the shapes that enter and leave it, channels last, without the batch axis."""
    shape = input_shape
    for layer in layers:
        entering = shape
        match layer:
            case Conv(filters=filters, stride=stride):
                shape = (-(-shape[0] // stride), -(-shape[1] // stride), filters)
            case DepthwiseConv(stride=stride) | MaxPool(size=stride):
                shape = (-(-shape[0] // stride), -(-shape[1] // stride), shape[2])
            case GlobalAverage():
                shape = shape[2:]
            case Flatten():
                shape = (shape[0] * shape[1] * shape[2],)
            case Dense(units=units):
                shape = (units,)
            case Output():
                pass
        yield layer, entering, shape


def tensor_shapes(layers: tuple[Layer, ...], input_shape: Shape) -> dict[str, Shape]:
    """Name and shape of every tensor of the network, in the order of its layers: weights, then biases."""
    shapes: dict[str, Shape] = {}
    for layer, entering, leaving in walk(layers, input_shape):
        match layer:
            case Conv(name=name, kernel=kernel):
                shapes[f"{name}/weights"] = (kernel, kernel, entering[-1], leaving[-1])
            case DepthwiseConv(name=name, kernel=kernel):
                shapes[f"{name}/weights"] = (kernel, kernel, entering[-1], 1)
            case Dense(name=name):
                shapes[f"{name}/weights"] = (entering[-1], leaving[-1])
            case _:
                continue
        shapes[f"{name}/biases"] = (leaving[-1],)
    return shapes

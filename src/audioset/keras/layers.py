"""A table of layers as Keras's own: what `graph.py` is to ONNX Runtime, this is to Keras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from audioset.models.layers import (
    Conv,
    Dense,
    DepthwiseConv,
    Flatten,
    GlobalAverage,
    Layer,
    MaxPool,
    Output,
)
from audioset.models.spec import INPUT_SHAPE

Float32Array: TypeAlias = npt.NDArray[np.float32]

# Said of each layer, so that the user's keras.json cannot turn the axes.
_CHANNELS_LAST = "channels_last"


def apply(layers: tuple[Layer, ...], examples: Any) -> dict[str, Any]:
    """Return the outputs by name of the network that a table describes, for symbolic examples (n, 96, 64)."""
    x = keras.layers.Reshape(INPUT_SHAPE)(examples)
    outputs: dict[str, Any] = {}
    for layer in layers:
        if isinstance(layer, Output):
            outputs[layer.name] = x
        else:
            x = _layer(layer)(x)
    return outputs


def take(network: keras.Model, layers: tuple[Layer, ...], tensors: Mapping[str, Float32Array]) -> None:
    """Put weights that have the names and layouts of the table, which are Keras's too, in the network."""
    for layer in weighted(layers):
        network.get_layer(keras_name(layer)).set_weights([tensors[f"{layer.name}/{side}"] for side in _SIDES])


def tensors(network: keras.Model, layers: tuple[Layer, ...]) -> dict[str, Float32Array]:
    """Return a copy of the network's weights as the table names and lays them out, in float32."""
    return {
        f"{layer.name}/{side}": np.ascontiguousarray(values, np.float32)
        for layer in weighted(layers)
        for side, values in zip(_SIDES, network.get_layer(keras_name(layer)).get_weights(), strict=True)
    }


def weighted(layers: tuple[Layer, ...]) -> list[Conv | DepthwiseConv | Dense]:
    """The layers that have weights."""
    return [layer for layer in layers if isinstance(layer, Conv | DepthwiseConv | Dense)]


def keras_name(layer: Conv | DepthwiseConv | Dense) -> str:
    """What the layer is called in a Keras model, where names have no slashes."""
    return layer.name.replace("/", "_")


_SIDES = ("weights", "biases")


def _layer(layer: Layer) -> keras.layers.Layer:
    same = {"padding": "same", "data_format": _CHANNELS_LAST}
    match layer:
        case Conv(filters=filters, kernel=kernel, stride=stride, activation=activation):
            return keras.layers.Conv2D(
                filters, kernel, strides=stride, activation=activation, name=keras_name(layer), **same
            )
        case DepthwiseConv(kernel=kernel, stride=stride, activation=activation):
            return keras.layers.DepthwiseConv2D(
                kernel, strides=stride, activation=activation, name=keras_name(layer), **same
            )
        case MaxPool(size=size):
            return keras.layers.MaxPooling2D(size, **same)
        case GlobalAverage():
            return keras.layers.GlobalAveragePooling2D(data_format=_CHANNELS_LAST)
        case Flatten():
            return keras.layers.Flatten(data_format=_CHANNELS_LAST)
        case Dense(units=units, activation=activation):
            return keras.layers.Dense(units, activation=activation, name=keras_name(layer))
    raise TypeError(f"{layer} has no layer in Keras")


@keras.saving.register_keras_serializable(package="audioset")
class MergeExamples(keras.layers.Layer):  # type: ignore[misc]
    """The examples of all clips in a row: (n, k, 96, 64) to (n · k, 96, 64).

    Where there are none, one of zeros, as not every backend convolves nothing; `SplitExamples` leaves it out.
    """

    def call(self, examples: Any) -> Any:
        """Return the examples without the axis of clips."""
        clips, count = ops.shape(examples)[:2]
        rows = clips * count
        merged = ops.reshape(examples, (rows, *examples.shape[2:]))
        missing = max(1 - rows, 0) if isinstance(rows, int) else ops.maximum(1 - rows, 0)
        return ops.pad(merged, [[0, missing], [0, 0], [0, 0]])

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape without the axis of clips."""
        return None, *input_shape[2:]


@keras.saving.register_keras_serializable(package="audioset")
class SplitExamples(keras.layers.Layer):  # type: ignore[misc]
    """What `MergeExamples` did, undone: rows (n · k, width), and their examples (n, k, …), to (n, k, width)."""

    def call(self, rows: Any, examples: Any) -> Any:
        """Return the rows by clip and example."""
        clips, count = ops.shape(examples)[:2]
        return ops.reshape(rows[: clips * count], (clips, count, rows.shape[-1]))

    def compute_output_shape(
        self, rows_shape: tuple[int | None, ...], examples_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Return the shape by clip and example."""
        return *examples_shape[:2], rows_shape[-1]

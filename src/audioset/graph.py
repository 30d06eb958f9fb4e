"""Layers to an ONNX graph: examples (n, 96, 64) in, the network's outputs by name out.

The graph holds no weights. Each is declared as an initializer that lives outside the model, so that hundreds of
megabytes are neither serialized nor parsed: in the file that the weights come from, which ONNX Runtime then maps, or
in an array that the session is handed (see `network.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from audioset.models.layers import (
    Activation,
    Conv,
    Dense,
    DepthwiseConv,
    Flatten,
    GlobalAverage,
    MaxPool,
    Output,
    Shape,
    walk,
)
from audioset.models.spec import INPUT_SHAPE, ModelSpec

if TYPE_CHECKING:
    import onnx

OPSET = 17
INPUT_NAME = "examples"

# Operator, and the names of what it reads besides its input.
_ACTIVATIONS = {
    "relu": ("Relu",),
    "relu6": ("Clip", "relu6_low", "relu6_high"),
    "sigmoid": ("Sigmoid",),
    "softmax": ("Softmax",),
}
_SIDES = ("weights", "biases")


@dataclass(frozen=True)
class Location:
    """Where the bytes of a tensor are: the name of a file, and the offset and length in it."""

    file: str
    offset: int
    length: int


def build(spec: ModelSpec, locations: Mapping[str, Location] = MappingProxyType({})) -> onnx.ModelProto:
    """Return the network as an ONNX model without weights.

    Tensors that have no location are to be handed to the session under their names, in the layouts of `onnx_tensors`.
    """
    return _Builder(spec, locations).model()


def matrices(spec: ModelSpec) -> list[str]:
    """Return the names of the tensors whose layout in ONNX is the one that they are stored in, and that are large."""
    return [f"{layer.name}/weights" for layer in spec.layers if isinstance(layer, Dense)]


def onnx_tensors(spec: ModelSpec, tensors: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the weights in ONNX's layouts: convolutions (out, in, height, width), matrices as they are."""
    axes = _onnx_axes(spec)
    return {
        name: np.ascontiguousarray(tensors[name].transpose(axes[name])) if name in axes else tensors[name]
        for name in spec.tensor_shapes
    }


def _onnx_axes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Order in which ONNX has the axes of each convolution's kernel."""
    # A depthwise kernel (h, w, c, 1) becomes (c, 1, h, w): its channels are groups of one.
    axes = {Conv: (3, 2, 0, 1), DepthwiseConv: (2, 3, 0, 1)}
    return {
        f"{layer.name}/weights": axes[type(layer)] for layer in spec.layers if isinstance(layer, Conv | DepthwiseConv)
    }


class _Builder:
    """Appends nodes one after another; `self._last` is the tensor that the next one reads."""

    def __init__(self, spec: ModelSpec, locations: Mapping[str, Location]) -> None:
        from onnx import helper

        self._spec = spec
        self._locations = locations
        self._axes = _onnx_axes(spec)
        self._helper = helper
        self._nodes: list[onnx.NodeProto] = []
        self._last = INPUT_NAME

    def model(self) -> onnx.ModelProto:
        from onnx import TensorProto

        helper, spec = self._helper, self._spec
        # (n, 96, 64) to (n, 1, 96, 64): one channel.
        axes = helper.make_tensor("channel_axis", TensorProto.INT64, [1], [1])
        self._add("Unsqueeze", INPUT_NAME, "channel_axis")
        for layer, entering, leaving in walk(spec.layers, INPUT_SHAPE):
            match layer:
                case Conv(activation=activation):
                    self._convolve(layer, entering, leaving, groups=1)
                    self._activate(activation)
                case DepthwiseConv(activation=activation):
                    self._convolve(layer, entering, leaving, groups=leaving[-1])
                    self._activate(activation)
                case MaxPool(size=size):
                    self._add("MaxPool", self._last, kernel_shape=[size] * 2, strides=[size] * 2, auto_pad="SAME_UPPER")
                case GlobalAverage():
                    self._add("GlobalAveragePool", self._last)
                    self._add("Flatten", self._last, axis=1)
                case Flatten():
                    self._add("Transpose", self._last, perm=[0, 2, 3, 1])
                    self._add("Flatten", self._last, axis=1)
                case Dense(name=name, activation=activation):
                    self._add("Gemm", self._last, *(f"{name}/{side}" for side in _SIDES))
                    self._activate(activation)
                case Output(name=name):
                    self._add("Identity", self._last, output=name)
        graph = helper.make_graph(
            self._nodes,
            spec.name,
            inputs=[helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["n", *INPUT_SHAPE[:2]])],
            outputs=[
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
                for name, width in spec.outputs.items()
            ],
            initializer=[axes, *self._limits(), *(self._outside(name) for name in spec.tensor_shapes)],
        )
        model: onnx.ModelProto = helper.make_model(
            graph, producer_name="audioset", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )
        return model

    def _add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> None:
        self._last = output or f"{len(self._nodes)}_{kind.lower()}"
        self._nodes.append(self._helper.make_node(kind, list(inputs), [self._last], **attributes))

    def _convolve(self, layer: Conv | DepthwiseConv, entering: Shape, leaving: Shape, *, groups: int) -> None:
        # TensorFlow's SAME, said in numbers: ONNX's own differs where the stride is wider than the kernel.
        missing = [
            max((out - 1) * layer.stride + layer.kernel - size, 0)
            for size, out in zip(entering[:2], leaving[:2], strict=True)
        ]
        self._add(
            "Conv",
            self._last,
            *(f"{layer.name}/{side}" for side in _SIDES),
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            group=groups,
            pads=[*(n // 2 for n in missing), *(n - n // 2 for n in missing)],
        )

    def _activate(self, activation: Activation) -> None:
        if activation is not None:
            kind, *others = _ACTIVATIONS[activation]
            self._add(kind, self._last, *others)

    def _limits(self) -> list[onnx.TensorProto]:
        """What `relu6` clips to, where the network has one."""
        from onnx import TensorProto

        if not any(getattr(layer, "activation", None) == "relu6" for layer in self._spec.layers):
            return []
        limits = (("relu6_low", 0.0), ("relu6_high", 6.0))
        return [self._helper.make_tensor(name, TensorProto.FLOAT, [], [limit]) for name, limit in limits]

    def _outside(self, name: str) -> onnx.TensorProto:
        """An initializer whose data is not in the model."""
        from onnx import TensorProto

        shape = self._spec.tensor_shapes[name]
        if name in self._axes:
            shape = tuple(shape[axis] for axis in self._axes[name])
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = self._locations.get(name, Location("handed to the session", 0, 0))
        for key, value in asdict(place).items():
            tensor.external_data.add(key="location" if key == "file" else key, value=str(value))
        return tensor

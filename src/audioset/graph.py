"""Layers to an ONNX graph: examples (n, 96, 64) in, the network's outputs by name out; in float32 or in 8 bits.

The graph holds no weights. Each is declared as an initializer that lives outside the model, so that hundreds of
megabytes are neither serialized nor parsed: in the file that the weights come from, which ONNX Runtime then maps, or
in an array that the session is handed (see `_runtime/`).

In 8 bits, every value that a convolution, a matrix or an average reads goes through a pair of QuantizeLinear and
DequantizeLinear, as do the weights (int8, a scale for each output channel) and biases (int32). Runtimes fuse such pairs
with what is between them into integer arithmetic. The network's outputs stay float.
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
    Layer,
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


# What is computed in 8 bits; pooling and reshaping only pass values on.
_READERS = (Conv, DepthwiseConv, GlobalAverage, Dense)


@dataclass(frozen=True)
class Location:
    """Where the bytes of a tensor are: the name of a file, and the offset and length in it."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class Scale:
    """How eight bits stand for real values: real = scale · (integer − zero_point), integers from 0 to 255."""

    scale: float
    zero_point: int


def build(
    spec: ModelSpec,
    locations: Mapping[str, Location] = MappingProxyType({}),
    *,
    scales: Mapping[int, Scale] | None = None,
) -> onnx.ModelProto:
    """Return the network as an ONNX model without weights.

    Tensors that have no location are to be handed to the session under their names, in the layouts of `onnx_tensors`.

    Parameters
    ----------
    spec : ModelSpec
        The network.
    locations : mapping of str to Location, optional
        Where tensors are in files.
    scales : mapping of int to Scale, optional
        For a network in 8 bits: of the values that each of the layers `int8_readers` reads. The layers of
        `int8_weighted` then have the tensors `NAME/weights` (int8), `NAME/biases` (int32) and a float32 scale for each
        output channel of either, `NAME/weights_scale` and `NAME/biases_scale`.
    """
    return _Builder(spec, locations, scales).model()


def build_tapped(
    spec: ModelSpec, locations: Mapping[str, Location] = MappingProxyType({})
) -> tuple[onnx.ModelProto, dict[int, str]]:
    """Return the float32 network with outputs that are what layers read, and their names by the layer's index."""
    builder = _Builder(spec, locations, tapped=True)
    return builder.model(), builder.taps


def int8_readers(spec: ModelSpec) -> list[int]:
    """Return the indices of the layers that read 8-bit values when the network runs in 8 bits."""
    return [
        index
        for index, layer in enumerate(spec.layers)
        if isinstance(layer, _READERS) and getattr(layer, "name", None) not in spec.float_layers
    ]


def int8_weighted(spec: ModelSpec) -> dict[int, Conv | DepthwiseConv | Dense]:
    """Return the layers whose weights are 8-bit when the network runs in 8 bits, by their index."""
    weighted = {index: spec.layers[index] for index in int8_readers(spec)}
    return {index: layer for index, layer in weighted.items() if isinstance(layer, Conv | DepthwiseConv | Dense)}


def channel_axis(layer: Conv | DepthwiseConv | Dense) -> int:
    """Return the axis of the output channels in the layer's weights as `onnx_tensors` lays them out."""
    return 1 if isinstance(layer, Dense) else 0


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


def onnx_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Return the shapes of the tensors in ONNX's layouts."""
    axes = _onnx_axes(spec)
    return {
        name: tuple(shape[axis] for axis in axes.get(name, range(len(shape))))
        for name, shape in spec.tensor_shapes.items()
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

    def __init__(
        self,
        spec: ModelSpec,
        locations: Mapping[str, Location],
        scales: Mapping[int, Scale] | None = None,
        *,
        tapped: bool = False,
    ) -> None:
        from onnx import helper

        self._spec = spec
        self._locations = locations
        self._scales = scales or {}
        self._readers = int8_readers(spec) if tapped or scales is not None else []
        self._in_int8 = {layer.name for layer in int8_weighted(spec).values()} if scales is not None else set()
        self._tapped = tapped
        self.taps: dict[int, str] = {}
        self._shapes = onnx_shapes(spec)
        self._helper = helper
        self._nodes: list[onnx.NodeProto] = []
        self._last = INPUT_NAME

    def model(self) -> onnx.ModelProto:
        from onnx import TensorProto

        helper, spec = self._helper, self._spec
        # (n, 96, 64) to (n, 1, 96, 64): one channel.
        axes = helper.make_tensor("channel_axis", TensorProto.INT64, [1], [1])
        self._add("Unsqueeze", INPUT_NAME, "channel_axis")
        for index, (layer, entering, leaving) in enumerate(walk(spec.layers, INPUT_SHAPE)):
            self._enter(index, layer)
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
                    self._round(self._next_reader(index))
                    self._add("Flatten", self._last, axis=1)
                case Dense(activation=activation):
                    self._add("Gemm", self._last, *self._weights(layer))
                    self._activate(activation)
                case Output(name=name):
                    marked = self._last
                    self._add("Identity", marked, output=name)
                    self._last = marked
        outputs: dict[str, list[str | int] | None] = {name: ["n", width] for name, width in spec.outputs.items()}
        if self._tapped:
            outputs = dict.fromkeys(self.taps.values())
        graph = helper.make_graph(
            self._nodes,
            spec.name,
            inputs=[helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["n", *INPUT_SHAPE[:2]])],
            outputs=[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            initializer=[axes, *self._limits(), *self._rounding(), *map(self._outside, spec.tensor_shapes)]
            + [self._outside_scale(layer, side) for layer in self._weighted_in_int8() for side in _SIDES],
        )
        model: onnx.ModelProto = helper.make_model(
            graph, producer_name="audioset", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )
        return model

    def _add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> None:
        self._last = output or f"{len(self._nodes)}_{kind.lower()}"
        self._nodes.append(self._helper.make_node(kind, list(inputs), [self._last], **attributes))

    def _enter(self, index: int, layer: Layer) -> None:
        """Round what a layer reads to 8 bits; what is pooled already too, so that pooling stays in 8 bits as well."""
        if isinstance(layer, Output):
            return
        self._round(self._next_reader(index))
        if self._tapped and index in self._readers:
            self.taps[index] = self._last

    def _next_reader(self, index: int) -> int | None:
        """The layer from `index` on that reads what is there now, if it does so in 8 bits."""
        rest = enumerate(self._spec.layers[index:], index)
        reader = next((place for place, layer in rest if isinstance(layer, _READERS)), None)
        return reader if reader in self._scales else None

    def _round(self, reader: int | None) -> None:
        if reader is not None:
            for kind in ("QuantizeLinear", "DequantizeLinear"):
                self._add(kind, self._last, f"{reader}_scale", f"{reader}_zero_point")

    def _weights(self, layer: Conv | DepthwiseConv | Dense) -> list[str]:
        """Names of a layer's weights and biases, made real numbers again where they are integers."""
        names = [f"{layer.name}/{side}" for side in _SIDES]
        if layer.name not in self._in_int8:
            return names
        for name, axis in zip(names, (channel_axis(layer), 0), strict=True):
            inputs = [name, f"{name}_scale", f"{name}_zero_point"]
            self._nodes.append(self._helper.make_node("DequantizeLinear", inputs, [f"{name}_real"], axis=axis))
        return [f"{name}_real" for name in names]

    def _convolve(self, layer: Conv | DepthwiseConv, entering: Shape, leaving: Shape, *, groups: int) -> None:
        # TensorFlow's SAME, said in numbers: ONNX's own differs where the stride is wider than the kernel.
        missing = [
            max((out - 1) * layer.stride + layer.kernel - size, 0)
            for size, out in zip(entering[:2], leaving[:2], strict=True)
        ]
        self._add(
            "Conv",
            self._last,
            *self._weights(layer),
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

    def _rounding(self) -> list[onnx.TensorProto]:
        """Scales and zero points of what is read, and zero points of weights and biases."""
        from onnx import TensorProto, numpy_helper

        make = self._helper.make_tensor
        return [
            tensor
            for reader, scale in self._scales.items()
            for tensor in (
                make(f"{reader}_scale", TensorProto.FLOAT, [], [scale.scale]),
                make(f"{reader}_zero_point", TensorProto.UINT8, [], [scale.zero_point]),
            )
        ] + [
            # Weights and biases are centred on zero, but ONNX Runtime fuses only what says so.
            numpy_helper.from_array(
                np.zeros(self._shapes[f"{layer.name}/biases"], kind), f"{layer.name}/{side}_zero_point"
            )
            for layer in self._weighted_in_int8()
            for side, kind in zip(_SIDES, (np.int8, np.int32), strict=True)
        ]

    def _weighted_in_int8(self) -> list[Conv | DepthwiseConv | Dense]:
        return [layer for layer in int8_weighted(self._spec).values() if layer.name in self._in_int8]

    def _outside(self, name: str) -> onnx.TensorProto:
        """An initializer whose data is not in the model."""
        from onnx import TensorProto

        layer, side = name.rsplit("/", 1)
        data_type = TensorProto.FLOAT
        if layer in self._in_int8:
            data_type = TensorProto.INT8 if side == "weights" else TensorProto.INT32
        return self._declared(name, data_type, self._shapes[name])

    def _outside_scale(self, layer: Conv | DepthwiseConv | Dense, side: str) -> onnx.TensorProto:
        from onnx import TensorProto

        shape = self._shapes[f"{layer.name}/biases"]
        return self._declared(f"{layer.name}/{side}_scale", TensorProto.FLOAT, shape)

    def _declared(self, name: str, data_type: int, shape: Shape) -> onnx.TensorProto:
        from onnx import TensorProto

        tensor = TensorProto(name=name, data_type=data_type, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = self._locations.get(name, Location("handed to the session", 0, 0))
        for key, value in asdict(place).items():
            tensor.external_data.add(key="location" if key == "file" else key, value=str(value))
        return tensor

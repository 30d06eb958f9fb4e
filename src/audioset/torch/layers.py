"""A table of layers as an `nn.Module`: what `graph.py` is to ONNX Runtime, this is to PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from audioset.errors import OptionError
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
    walk,
)
from audioset.models.spec import INPUT_SHAPE

Float32Array: TypeAlias = npt.NDArray[np.float32]

_ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: torch.softmax(x, 1),
}
# Order in which PyTorch has the axes of a tensor of the table: kernels (out, in, height, width), matrices (out, in).
_AXES: Mapping[type, tuple[int, ...]] = {Conv: (3, 2, 0, 1), DepthwiseConv: (2, 3, 0, 1), Dense: (1, 0)}


class Outputs(NamedTuple):
    """What a network gives for n examples.

    Attributes
    ----------
    embedding : Tensor, shape (n, dim)
        As the table marks it: for VGGish the last layer before any non-linearity.
    logits, scores : Tensor, shape (n, classes), or None
        What the network's own classifier says, before its last non-linearity, which is what losses want, and after it;
        None where it does not classify.
    """

    embedding: Tensor
    logits: Tensor | None = None
    scores: Tensor | None = None


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, whose odd row or column of zeros is at the end."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name for it
        """Return the convolved maps, shape (n, out, ⌈h / stride⌉, ⌈w / stride⌉), of maps (n, in, h, w)."""
        left, right, top, bottom = _same_padding(input, self.kernel_size[0], self.stride[0])
        if (left, top) == (right, bottom):
            return functional.conv2d(input, self.weight, self.bias, self.stride, (top, left), groups=self.groups)
        padded = functional.pad(input, (left, right, top, bottom))
        return functional.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


class Layers(nn.Module):
    """The layers of a table, each an `nn.Conv2d` or `nn.Linear` under its name in the table.

    The tensor `NAME/weights` of the table is `NAME.weight` in the state dict, in PyTorch's layout, and `NAME/biases` is
    `NAME.bias`.

    Parameters
    ----------
    layers : tuple of Layer
        The network, from a (96, 64, 1) example on.
    convolution : callable
        Makes the module of a convolution, from the arguments of `nn.Conv2d`.
    """

    def __init__(self, layers: tuple[Layer, ...], convolution: Callable[..., nn.Module] = SameConv2d) -> None:
        super().__init__()
        self._table = layers
        for layer, entering, leaving in walk(layers, INPUT_SHAPE):
            match layer:
                case Conv(name=name, kernel=kernel, stride=stride):
                    self.add_module(name, convolution(entering[-1], leaving[-1], kernel, stride))
                case DepthwiseConv(name=name, kernel=kernel, stride=stride):
                    channels = leaving[-1]
                    self.add_module(name, convolution(channels, channels, kernel, stride, groups=channels))
                case Dense(name=name, units=units):
                    self.add_module(name, nn.Linear(entering[-1], units))
                case _:
                    pass

    def forward(self, examples: Tensor) -> Outputs:
        """Return the network's outputs for a batch.

        Parameters
        ----------
        examples : Tensor of float, shape (n, 96, 64) or (n, 1, 96, 64)
            Log-mel examples; n may be 0.

        Returns
        -------
        Outputs
            The example axis always stays: one example gives (1, width).
        """
        x = _with_channel(examples)
        linear = x
        embedding: Tensor | None = None
        logits: Tensor | None = None
        scores: Tensor | None = None
        for layer in self._table:
            match layer:
                case Conv(name=name, activation=activation) | DepthwiseConv(name=name, activation=activation):
                    x = _ACTIVATIONS[activation](self.get_submodule(name)(x))
                case Dense(name=name, activation=activation):
                    linear = self.get_submodule(name)(x)
                    x = _ACTIVATIONS[activation](linear)
                case MaxPool(size=size):
                    x = _max_pool(x, size)
                case GlobalAverage():
                    x = x.mean((2, 3))
                case Flatten():
                    x = x.permute(0, 2, 3, 1).flatten(1)
                case Output(name="embedding"):
                    embedding = x
                case Output(name="scores"):
                    logits, scores = linear, x
        if embedding is None:
            raise OptionError("layers: no embedding; expected Output('embedding') behind the layer that gives it")
        return Outputs(embedding, logits, scores)

    def parameters_by_layer(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of each layer by its name in the table, from the input on.

        For freezing the first layers, or for a learning rate a layer.
        """
        return {layer.name: list(self.get_submodule(layer.name).parameters()) for layer in self._named()}

    @torch.no_grad()
    def tensors(self) -> dict[str, Float32Array]:
        """Return the weights as the table names and lays them out, in float32, copied to the CPU."""
        found: dict[str, Float32Array] = {}
        for layer in self._named():
            weight, bias = self._weight_and_bias(self.get_submodule(layer.name))
            axes = _AXES[type(layer)]
            weight = weight.permute([axes.index(axis) for axis in range(len(axes))])
            for side, values in (("weights", weight), ("biases", bias)):
                found[f"{layer.name}/{side}"] = np.array(values.float().cpu().numpy(), order="C")
        return found

    def _weight_and_bias(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """What the table has of a layer, in PyTorch's layout."""
        return module.get_parameter("weight"), module.get_parameter("bias")

    def _take(self, tensors: Mapping[str, Float32Array]) -> None:
        """Replace the parameters by copies of weights that have the names and layouts of the table."""
        state: dict[str, Tensor] = {}
        for layer in self._named():
            weights = tensors[f"{layer.name}/weights"].transpose(_AXES[type(layer)])
            state[f"{layer.name}.weight"] = torch.from_numpy(np.array(weights, order="C"))
            state[f"{layer.name}.bias"] = torch.from_numpy(np.array(tensors[f"{layer.name}/biases"]))
        self.load_state_dict(state, assign=True)

    def _named(self) -> list[Conv | DepthwiseConv | Dense]:
        """The layers that have weights."""
        return [layer for layer in self._table if isinstance(layer, Conv | DepthwiseConv | Dense)]


def _with_channel(examples: Tensor) -> Tensor:
    rows = INPUT_SHAPE[:2]
    if examples.shape[1:] == rows:
        return examples.unsqueeze(1)
    if examples.shape[1:] == (1, *rows):
        return examples
    height, width = rows
    raise OptionError(
        f"examples: shape {tuple(examples.shape)}; expected (n, {height}, {width}) or (n, 1, {height}, {width}), as "
        "audioset.features.examples and audioset.torch.LogMel give (merge the axes of clips and examples)"
    )


def _same_padding(x: Tensor, size: int, stride: int) -> tuple[int, int, int, int]:
    """Rows and columns to add to maps (n, c, h, w) on the left, right, top and bottom."""
    down, across = (max((-(-length // stride) - 1) * stride + size - length, 0) for length in x.shape[2:])
    return across // 2, across - across // 2, down // 2, down - down // 2


def _max_pool(x: Tensor, size: int) -> Tensor:
    padding = _same_padding(x, size, size)
    if any(padding):
        x = functional.pad(x, padding, value=-torch.inf)
    return functional.max_pool2d(x, size)

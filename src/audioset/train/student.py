"""A table of layers as a trainable network: a batch norm behind every convolution, folded into it afterwards."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from audioset.models.layers import Conv, Dense, DepthwiseConv, Flatten, GlobalAverage, MaxPool, Output, Shape, walk
from audioset.models.spec import INPUT_SHAPE, ModelSpec


class Student(nn.Module):
    """The network of a `ModelSpec` with a batch norm behind every convolution.

    `tensors` folds the norms away and gives the weights and biases that the table names. A last sigmoid is left out:
    the loss wants logits.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self._spec = spec
        self._convolutions = nn.ModuleDict()
        self._matrices = nn.ModuleDict()
        for layer, entering, leaving in walk(spec.layers, INPUT_SHAPE):
            match layer:
                case Conv(name=name, kernel=kernel, stride=stride):
                    self._convolutions[_key(name)] = _NormedConv(entering, leaving, kernel, stride, groups=1)
                case DepthwiseConv(name=name, kernel=kernel, stride=stride):
                    self._convolutions[_key(name)] = _NormedConv(entering, leaving, kernel, stride, groups=leaving[-1])
                case Dense(name=name):
                    self._matrices[_key(name)] = nn.Linear(entering[-1], leaving[-1])
                case _:
                    pass

    def forward(self, examples: Tensor) -> dict[str, Tensor]:
        """Return each output by name, shape (n, width), of examples (n, 96, 64); scores as logits."""
        x = examples.unsqueeze(1)
        outputs: dict[str, Tensor] = {}
        for layer in self._spec.layers:
            match layer:
                case Conv(name=name, activation=activation) | DepthwiseConv(name=name, activation=activation):
                    x = self._convolutions[_key(name)](x)
                    x = functional.relu(x) if activation == "relu" else x
                case Dense(name=name, activation=activation):
                    x = self._matrices[_key(name)](x)
                    x = functional.relu(x) if activation == "relu" else x
                case MaxPool(size=size):
                    x = functional.max_pool2d(x, size, ceil_mode=True)
                case GlobalAverage():
                    x = x.mean((2, 3))
                case Flatten():
                    x = x.permute(0, 2, 3, 1).flatten(1)
                case Output(name=name):
                    outputs[name] = x
        return outputs

    @torch.no_grad()
    def expect(self, scores: Tensor) -> None:
        """Set the last biases so that an untrained network gives about these scores, shape (classes,).

        Almost all of AudioSet's classes are almost always absent: learning that first would cost a thousand steps.
        """
        last = [layer.name for layer in self._spec.layers if isinstance(layer, Dense)][-1]
        self._matrices[_key(last)].get_parameter("bias").copy_(torch.logit(scores, eps=1e-5))

    @torch.no_grad()
    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return what the table names, in its names and layouts, with the batch norms folded in."""
        found: dict[str, npt.NDArray[np.float32]] = {}
        for layer in self._spec.layers:
            match layer:
                case Conv(name=name) | DepthwiseConv(name=name):
                    weights, biases = cast(_NormedConv, self._convolutions[_key(name)]).folded()
                    # Torch has (out, in, h, w), and for depthwise kernels (channels, 1, h, w).
                    weights = weights.permute((2, 3, 1, 0) if isinstance(layer, Conv) else (2, 3, 0, 1))
                case Dense(name=name):
                    matrix = self._matrices[_key(name)]
                    weights, biases = matrix.get_parameter("weight").T, matrix.get_parameter("bias")
                case _:
                    continue
            for side, values in (("weights", weights), ("biases", biases)):
                found[f"{name}/{side}"] = values.detach().contiguous().numpy().copy()
        return found


class _NormedConv(nn.Module):
    """A convolution without bias, TensorFlow's SAME padding, and a batch norm."""

    def __init__(self, entering: Shape, leaving: Shape, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        # In torch's order (left, right, top, bottom); SAME has the odd row or column at the end.
        top, left = (
            max((out - 1) * stride + kernel - size, 0) for size, out in zip(entering[:2], leaving[:2], strict=True)
        )
        self._padding = (left // 2, left - left // 2, top // 2, top - top // 2)
        self.conv = nn.Conv2d(entering[-1], leaving[-1], kernel, stride, bias=False, groups=groups)
        self.norm = nn.BatchNorm2d(leaving[-1])

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(functional.pad(x, self._padding)))
        return normed

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel and biases of the one convolution that does the same in evaluation."""
        mean, variance = self.norm.get_buffer("running_mean"), self.norm.get_buffer("running_var")
        gain = self.norm.weight / torch.sqrt(variance + self.norm.eps)
        return self.conv.weight * gain[:, None, None, None], self.norm.bias - mean * gain


def _key(name: str) -> str:
    return name.replace("/", "-")

"""A network to be trained from nothing: a batch norm behind every convolution, folded into it afterwards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audioset.models.layers import Dense
from audioset.models.spec import ModelSpec
from audioset.torch.layers import Layers, SameConv2d


class Student(Layers):
    """The network of a `ModelSpec` with a batch norm behind every convolution.

    `tensors` folds the norms away and gives the weights and biases that the table names.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec.layers, convolution=_NormedConv)
        self._last = [layer.name for layer in spec.layers if isinstance(layer, Dense)][-1]

    @torch.no_grad()
    def expect(self, scores: Tensor) -> None:
        """Set the last biases so that an untrained network gives about these scores, shape (classes,).

        Almost all of AudioSet's classes are almost always absent: learning that first would cost a thousand steps.
        """
        self.get_submodule(self._last).get_parameter("bias").copy_(torch.logit(scores, eps=1e-5))

    def _weight_and_bias(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        return module.folded() if isinstance(module, _NormedConv) else super()._weight_and_bias(module)


class _NormedConv(nn.Module):
    """A convolution without bias, and a batch norm."""

    def __init__(self, entering: int, leaving: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = SameConv2d(entering, leaving, kernel, stride, bias=False, groups=groups)
        self.norm = nn.BatchNorm2d(leaving)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(x))
        return normed

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel and biases of the one convolution that does the same in evaluation."""
        mean, variance = self.norm.get_buffer("running_mean"), self.norm.get_buffer("running_var")
        gain = self.norm.weight / torch.sqrt(variance + self.norm.eps)
        return self.conv.weight * gain[:, None, None, None], self.norm.bias - mean * gain

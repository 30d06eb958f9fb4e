"""Networks with random weights, the same for the same seed everywhere: for tests, benchmarks and trying things out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from audioset.errors import WeightsError

PREFIX = "untrained"
_BIAS_SCALE = 0.1


class UntrainedWeightsWarning(UserWarning):
    """The network has random weights: what it gives means nothing."""


def seed_of(weights: str) -> int:
    """Return the seed in "untrained:SEED", or raise WeightsError."""
    found = re.fullmatch(rf"{PREFIX}:(\d{{1,18}})", weights)
    if found is None:
        raise WeightsError(f"{weights!r}: no seed; expected untrained:SEED with a whole number. Try `untrained:0`.")
    return int(found[1])


def draw(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return float32 tensors of these shapes, drawn in this order from one generator.

    Biases (one axis) are normal with deviation 0.1; all others with deviation `sqrt(2 / n)`, n being the product of all
    axes but the last (He et al. 2015), which keeps the scale of what flows through layers with ReLU.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        scale = _BIAS_SCALE if len(shape) == 1 else math.sqrt(2 / math.prod(shape[:-1]))
        values = rng.standard_normal(shape, dtype=np.float32)
        values *= np.float32(scale)
        values.flags.writeable = False
        tensors[name] = values
    return tensors

"""A VGGish of a few thousand weights, so that whole files of them can be written, cut and served in no time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from audioset import models
from audioset.models.layers import Conv, Dense
from audioset.models.spec import ModelSpec
from audioset.weights.untrained import draw

from ._server import Server


@pytest.fixture
def small_vggish(monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """VGGish with its own names and layers and hardly any filters, in the place of the real one."""
    real = models.get("vggish")
    layers = tuple(
        dataclasses.replace(layer, filters=layer.filters // 64 + 1)
        if isinstance(layer, Conv)
        else dataclasses.replace(layer, units=layer.units // 512 + 2)
        if isinstance(layer, Dense)
        else layer
        for layer in real.layers
    )
    spec = dataclasses.replace(real, layers=layers)
    monkeypatch.setattr(models, "REGISTRY", {"vggish": spec})
    return spec


@pytest.fixture
def small_tensors(small_vggish: ModelSpec) -> dict[str, np.ndarray]:
    """Weights of the small VGGish."""
    return draw(small_vggish.tensor_shapes, seed=7)


@pytest.fixture
def server() -> Iterator[Server]:
    """A file server on this machine, stopped at the end."""
    running = Server()
    yield running
    running.close()

from __future__ import annotations

import numpy as np
import pytest

from audioset import models
from audioset.models.spec import ModelSpec
from audioset.weights import UntrainedWeightsWarning, load
from audioset.weights.untrained import draw


def test_vggish_from_seed_0_has_the_recorded_sums() -> None:
    """The sums that were recorded when the golden values were computed with these weights."""
    tensors = draw(models.get("vggish").tensor_shapes, seed=0)
    sums = {name: float(values.sum(dtype=np.float64)) for name, values in tensors.items()}
    assert sums["vggish/conv1/weights"] == pytest.approx(-7.946624855307164, abs=1e-12)
    assert sums["vggish/conv1/biases"] == pytest.approx(0.40056260325945914, abs=1e-12)
    assert sums["vggish/fc2/weights"] == pytest.approx(3.5728156850477006, abs=1e-12)
    assert sums["vggish/fc2/biases"] == pytest.approx(1.177803927255809, abs=1e-12)


def test_values_are_scaled_by_what_feeds_each_output() -> None:
    tensors = draw({"a/weights": (3, 3, 50, 200), "a/biases": (20_000,)}, seed=1)
    assert tensors["a/weights"].std() == pytest.approx(np.sqrt(2 / 450), rel=0.02)
    assert tensors["a/biases"].std() == pytest.approx(0.1, rel=0.02)
    assert {values.dtype.name for values in tensors.values()} == {"float32"}
    assert not any(values.flags.writeable for values in tensors.values())


def test_a_seed_is_repeatable_and_seeds_differ(small_vggish: ModelSpec) -> None:
    with pytest.warns(UntrainedWeightsWarning):
        first, again, other = (load("vggish", f"untrained:{seed}").sha256 for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_random_weights_are_announced(small_vggish: ModelSpec) -> None:
    with pytest.warns(
        UntrainedWeightsWarning, match=r"vggish has random weights \(untrained:3\): its output means nothing"
    ):
        found = load("vggish", "untrained:3")
    assert found.name == "untrained:3"
    assert not found.published
    assert list(found.tensors) == list(small_vggish.tensor_shapes)

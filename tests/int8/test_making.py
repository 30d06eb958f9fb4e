"""Calibration against what a plain evaluation says that layers read."""

from __future__ import annotations

import numpy as np
import pytest

from audioset import graph
from audioset.int8 import calibrate, quantize
from audioset.int8.making import sha256_of
from audioset.int8.tensors import scale_of
from audioset.models.spec import ModelSpec

from ._networks import ENDS, SMALL, drawn, evaluated, examples, weights_of


@pytest.mark.parametrize("spec", [SMALL, ENDS], ids=lambda spec: spec.name)
def test_scales_span_what_each_layer_reads(spec: ModelSpec) -> None:
    tensors, batch = drawn(spec), examples()
    scales = calibrate(spec, weights_of(spec, tensors), [batch])
    assert sorted(scales) == graph.int8_readers(spec)
    read = [evaluated(spec, tensors, example)[1] for example in batch]
    for index, scale in scales.items():
        values = np.stack([of_example[index] for of_example in read])
        expected = scale_of(float(values.min()), float(values.max()))
        assert scale.scale == pytest.approx(expected.scale, rel=1e-4)  # float32 sums
        assert abs(scale.zero_point - expected.zero_point) <= 1


def test_how_examples_come_in_blocks_does_not_matter() -> None:
    batch = examples(19)
    weights = weights_of(SMALL)
    seen: list[int] = []
    whole = calibrate(SMALL, weights, [batch])
    assert calibrate(SMALL, weights, (batch[at : at + 5] for at in range(0, 19, 5)), progress=seen.append) == whole
    assert seen == [5, 10, 15, 19]
    assert calibrate(SMALL, weights, [batch[:4], batch[:0], batch[4:]]) == whole


def test_without_examples_there_are_no_scales() -> None:
    assert calibrate(SMALL, weights_of(SMALL), []) == {}
    assert calibrate(SMALL, weights_of(SMALL), [examples(0)]) == {}


def test_the_hash_is_of_tensors_and_scales() -> None:
    weights = weights_of(SMALL)
    scales = calibrate(SMALL, weights, [examples()])
    made = quantize(SMALL, weights, scales, calibration="noise")
    assert made.sha256 == sha256_of(dict(reversed(made.tensors.items())), dict(reversed(scales.items())))
    other_scales = calibrate(SMALL, weights, [examples(seed=2)])
    assert sha256_of(dict(made.tensors), other_scales) != made.sha256
    assert quantize(SMALL, weights, scales, calibration="noise", bits=7).sha256 != made.sha256
    assert quantize(SMALL, weights, scales, calibration="other words").sha256 == made.sha256

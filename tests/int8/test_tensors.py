"""Scales and weights in 8 bits against a plain rounding, channel by channel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audioset import graph
from audioset.graph import Scale
from audioset.int8.tensors import int8_tensors, scale_of
from audioset.models.layers import Conv, Dense, Flatten, Output

from ._networks import ENDS, SMALL, drawn, spec_of

finite = st.floats(-(2.0**100), 2.0**100, width=32)


def rounded(value: float, scale: Scale) -> float:
    whole = min(max(round(value / scale.scale) + scale.zero_point, 0), 255)
    return (whole - scale.zero_point) * scale.scale


@given(finite, finite, st.floats(0, 1))
def test_whatever_lies_between_is_met_to_within_half_a_step(first: float, second: float, part: float) -> None:
    low, high = sorted((first, second))
    value = low + part * (high - low)
    scale = scale_of(low, high)
    assert 0 <= scale.zero_point <= 255
    assert abs(rounded(value, scale) - value) <= 0.5001 * scale.scale  # the scale itself is a float32
    assert rounded(0.0, scale) == 0.0


def test_values_of_one_sign_use_all_steps_from_zero_on() -> None:
    assert scale_of(2.0, 10.0) == Scale(float(np.float32(10 / 255)), 0)
    assert scale_of(-10.0, -2.0) == Scale(float(np.float32(10 / 255)), 255)


def test_nothing_but_zero_has_a_scale_all_the_same() -> None:
    scale = scale_of(0.0, 0.0)
    assert scale.scale > 0
    assert scale.zero_point == 0


def test_the_widest_float32_has_a_finite_scale() -> None:
    largest = float(np.finfo(np.float32).max)
    scale = scale_of(-largest, largest)
    assert np.isfinite(np.float32(scale.scale))
    assert scale.zero_point in (127, 128)


@pytest.mark.parametrize("bits", [8, 7])
@pytest.mark.parametrize("spec", [SMALL, ENDS], ids=lambda spec: spec.name)
def test_weights_and_biases_are_the_nearest_whole_numbers(spec, bits: int) -> None:
    tensors = drawn(spec)
    largest = 2 ** (bits - 1) - 1
    scales = {index: Scale(0.01 * (index + 1), 3) for index in graph.int8_readers(spec)}
    made = int8_tensors(spec, tensors, scales, bits=bits)
    real = graph.onnx_tensors(spec, tensors)
    for index, layer in graph.int8_weighted(spec).items():
        weights, biases = made[f"{layer.name}/weights"], made[f"{layer.name}/biases"]
        assert (weights.dtype, biases.dtype) == (np.int8, np.int32)
        for channel in range(len(biases)):
            place = (slice(None), channel) if isinstance(layer, Dense) else (channel,)
            of_channel = real[f"{layer.name}/weights"][place].astype(np.float64)
            step = np.abs(of_channel).max() / largest
            assert made[f"{layer.name}/weights_scale"][channel] == pytest.approx(step, rel=1e-6)
            assert np.abs(weights[place]).max() == largest
            assert np.abs(weights[place] * step - of_channel).max() <= 0.5001 * step
            of_sums = made[f"{layer.name}/biases_scale"][channel]
            assert of_sums == pytest.approx(step * scales[index].scale, rel=1e-6)
            assert abs(biases[channel] * of_sums - real[f"{layer.name}/biases"][channel]) <= 0.501 * of_sums


def test_float_layers_are_as_they_were() -> None:
    tensors = drawn(ENDS)
    made = int8_tensors(ENDS, tensors, dict.fromkeys(graph.int8_readers(ENDS), Scale(0.1, 0)), bits=8)
    real = graph.onnx_tensors(ENDS, tensors)
    for name in ("a/weights", "a/biases", "c/weights", "c/biases"):
        np.testing.assert_array_equal(made[name], real[name])
    assert {name for name in made if name.endswith("_scale")} == {"b/weights_scale", "b/biases_scale"}


def test_rows_of_a_large_matrix_are_rounded_as_one(rng: np.random.Generator) -> None:
    """They are taken some hundred at a time."""
    spec = spec_of("wide", Conv("a", 20, stride=16), Flatten(), Dense("b", 3), Output("embedding"))
    tensors = drawn(spec)
    assert len(tensors["b/weights"]) > 256
    made = int8_tensors(spec, tensors, {0: Scale(0.1, 0), 2: Scale(0.1, 0)}, bits=8)
    step = np.abs(tensors["b/weights"]).max(axis=0) / np.float32(127)
    np.testing.assert_allclose(made["b/weights"] * step, tensors["b/weights"], atol=float(step.max()) * 0.501)


def test_a_bias_is_kept_where_the_weights_beside_it_are_all_but_zero() -> None:
    """Channels that training left dead look so, above all once batch normalization is folded into them."""
    tensors = drawn(SMALL)
    for number, size in enumerate((0.0, 1e-20, 1e-9)):
        tensors["a/weights"][..., number] = size
        tensors["a/biases"][number] = (0.5, -3.0, 100.0)[number]
    made = int8_tensors(SMALL, tensors, dict.fromkeys(graph.int8_readers(SMALL), Scale(0.02, 0)), bits=8)
    kept = made["a/biases"].astype(np.float64) * made["a/biases_scale"]
    np.testing.assert_allclose(kept[:3], tensors["a/biases"][:3], rtol=1e-6)
    assert np.abs(made["a/biases"].astype(np.int64)).max() <= 2**30 + 64  # no sum of products overflows beside it

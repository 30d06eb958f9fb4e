"""The trainable network is the table of layers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from audioset.models import mini
from audioset.models.layers import Conv, Dense, DepthwiseConv, Flatten, GlobalAverage, MaxPool, Output
from audioset.network import Network
from audioset.train.student import Student
from audioset.weights import from_tensors

EVERY_KIND = (
    Conv("first/conv", 4, kernel=5, stride=2),
    MaxPool(),
    DepthwiseConv("second/depthwise", stride=2),
    Conv("second/pointwise", 8, kernel=1),
    Flatten(),
    Dense("embedding", 6, activation="relu"),
    Output("embedding"),
    Dense("logits", 5, activation="sigmoid"),
    Output("scores"),
)


AVERAGED = (Conv("first", 6, stride=3), GlobalAverage(), *EVERY_KIND[-4:])


@pytest.mark.parametrize(
    "layers", [mini.SPEC.layers, EVERY_KIND, AVERAGED], ids=["mini", "every kind but one", "with an average"]
)
def test_onnx_runtime_gives_what_the_student_gives(layers: tuple, rng: np.random.Generator) -> None:
    spec = dataclasses.replace(mini.SPEC, layers=layers)
    torch.manual_seed(0)
    student = Student(spec)
    examples = rng.normal(-3, 2, (16, 96, 64)).astype(np.float32)
    for _ in range(3):
        student(torch.from_numpy(examples) * 1.5)  # gives the batch norms some statistics
    student.eval()
    with torch.no_grad():
        expected = student(torch.from_numpy(examples))
    got = Network(spec, from_tensors("mini", "test", student.tensors(), {})).run(examples, ("embedding", "scores"))
    np.testing.assert_allclose(got["embedding"], expected.embedding, atol=1e-4)
    np.testing.assert_allclose(got["scores"], expected.scores, atol=1e-5)


def test_tensors_are_those_that_the_table_names() -> None:
    tensors = Student(mini.SPEC).tensors()
    assert {name: values.shape for name, values in tensors.items()} == mini.SPEC.tensor_shapes
    assert {values.dtype for values in tensors.values()} == {np.dtype(np.float32)}


def test_expected_scores_are_given_before_training(rng: np.random.Generator) -> None:
    student = Student(mini.SPEC).eval()
    scores = torch.from_numpy(rng.uniform(0.001, 0.5, 521).astype(np.float32))
    student.expect(scores)
    with torch.no_grad():
        got = student(torch.zeros(1, 96, 64)).scores[0]
    assert (got - scores).abs().max() < 0.1

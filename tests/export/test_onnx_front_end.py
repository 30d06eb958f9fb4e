"""The front end in the graph: the examples of `audioset.features`, as many and from the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset import features, graph
from audioset.errors import OptionError
from audioset.export import export_onnx
from audioset.export.front_end import _FrontEnd
from audioset.features import EXAMPLE_SAMPLES, SAMPLE_RATE_HZ, Pad
from audioset.models.spec import ModelSpec

pytestmark = pytest.mark.filterwarnings(
    "ignore::audioset.weights.UntrainedWeightsWarning", "ignore::audioset.features.ShortClipWarning"
)

PADS: tuple[Pad, ...] = ("short", "none", "all")
# Whole frames that examples share, side by side, with gaps; whole samples; fractions of one.
HOPS_S = (0.48, 0.1, 0.96, 1.0, 2.0, 0.3003125, 1 / 16_000, 0.29, 0.123456, 0.975, 1.00001, 0.0001)


def session(model: Any) -> Any:
    import onnxruntime as ort

    return ort.InferenceSession(model if isinstance(model, bytes) else str(model), providers=["CPUExecutionProvider"])


def counter(hop_s: float, pad: Pad) -> Any:
    """The part of the graph that computes, from a number of samples, how many examples there are."""
    from onnx import TensorProto, helper

    front = _FrontEnd(features._hop_samples(hop_s), pad, 0.01)
    count = front._count("samples")
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in ("samples", count)]
    parts = helper.make_graph(front.nodes, "count", values[:1], values[1:], front.initializers)
    opset = [helper.make_opsetid("", graph.OPSET)]
    return session(helper.make_model(parts, opset_imports=opset, ir_version=8).SerializeToString())


def count(counting: Any, num_samples: int) -> int:
    (found,) = counting.run(None, {"samples": np.array([num_samples])})
    return int(found[0])


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("hop_s", HOPS_S)
def test_number_of_examples_around_every_boundary(hop_s: float, pad: Pad) -> None:
    counting = counter(hop_s, pad)
    lengths = {0, 1, 2, 159, 160, 399, 400, 15_360}
    for i in (0, 1, 2, 3, 10, 100, 12_345, 1_000_003):
        start = round(i * hop_s * SAMPLE_RATE_HZ)
        lengths |= {start + edge + near for edge in (0, EXAMPLE_SAMPLES) for near in range(-2, 3)}
    for length in sorted(n for n in lengths if n >= 0):
        assert count(counting, length) == features.num_examples(length, hop_s=hop_s, pad=pad), length


@settings(max_examples=25, deadline=None)
@given(
    hop_s=st.one_of(
        st.floats(1 / SAMPLE_RATE_HZ, 100, allow_subnormal=False), st.integers(1, 10**6).map(lambda n: n / 16_000)
    ),
    pad=st.sampled_from(PADS),
    lengths=st.lists(st.integers(0, 2**34), min_size=10, max_size=30),
)
def test_number_of_examples_of_any_length_at_any_hop(hop_s: float, pad: Pad, lengths: list[int]) -> None:
    counting = counter(hop_s, pad)
    for length in lengths:
        assert count(counting, length) == features.num_examples(length, hop_s=hop_s, pad=pad)


def examples_of(spec: ModelSpec, folder: Path, hop_s: float, pad: Pad) -> Any:
    """A session that gives what the exported network reads."""
    import onnx

    path = folder / "front.onnx"
    export_onnx(spec.name, path, weights="untrained:0", hop_s=hop_s, pad=pad, overwrite=True)
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_tensor_value_info(graph.INPUT_NAME, onnx.TensorProto.FLOAT, None))
    return session(model.SerializeToString())


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("hop_s", [0.48, 0.96, 1.0, 0.123456, 0.05])
def test_examples_are_those_of_the_library(
    hop_s: float, pad: Pad, tiny: ModelSpec, tmp_path: Path, rng: np.random.Generator
) -> None:
    running = examples_of(tiny, tmp_path, hop_s, pad)
    for length in (1, 399, 400, 15_599, 15_600, 15_601, 23_280, 30_960, 31_600, 50_001):
        waveform = (0.1 * rng.standard_normal(length)).astype(np.float32)
        expected = features.examples(waveform, hop_s=hop_s, pad=pad)
        embedding, examples = running.run(["embedding", graph.INPUT_NAME], {"waveform": waveform})
        assert len(embedding) == len(expected)
        np.testing.assert_allclose(examples[: len(expected)], expected, rtol=0, atol=2e-4)


def test_faint_bands_beside_loud_ones_differ_little(
    tiny: ModelSpec, tmp_path: Path, calibration: list[tuple[str, npt.NDArray[np.float32]]]
) -> None:
    running = examples_of(tiny, tmp_path, 0.96, "short")
    for name, waveform in calibration[::5]:
        expected = features.examples(waveform)
        (examples,) = running.run([graph.INPUT_NAME], {"waveform": waveform})
        # float32 transforms round in their own ways, and the logarithm shows it where a band has next to nothing.
        np.testing.assert_allclose(examples, expected, rtol=0, atol=5e-3, err_msg=name)
        assert np.abs(examples - expected).mean() < 1e-4, name


@pytest.mark.parametrize("pad", PADS)
def test_a_waveform_without_samples_gives_no_rows(pad: Pad, tiny: ModelSpec, tmp_path: Path) -> None:
    running = examples_of(tiny, tmp_path, 0.96, pad)
    (embedding,) = running.run(["embedding"], {"waveform": np.empty(0, np.float32)})
    assert embedding.shape == (0, tiny.embedding_dim)


def test_silence_is_the_logarithm_of_the_offset(tiny_tagger: ModelSpec, tmp_path: Path) -> None:
    running = examples_of(tiny_tagger, tmp_path, 0.48, "all")
    (examples,) = running.run([graph.INPUT_NAME], {"waveform": np.zeros(16_000, np.float32)})
    np.testing.assert_allclose(examples, np.log(tiny_tagger.log_offset), rtol=1e-6)


def test_rows_start_where_the_library_says(tiny: ModelSpec, tmp_path: Path) -> None:
    # One impulse: the examples that hold it, and in which of their frames, tell where each of them starts.
    hop_s = 0.1234567
    running = examples_of(tiny, tmp_path, hop_s, "none")
    waveform = np.zeros(60_000, np.float32)
    waveform[40_000] = 1
    (examples,) = running.run([graph.INPUT_NAME], {"waveform": waveform})
    starts = features.example_times(len(examples), hop_s=hop_s)[0] * SAMPLE_RATE_HZ
    loud = examples.max(axis=2) > np.log(0.011)
    assert loud.any()
    for example, start in zip(loud, starts, strict=True):
        for frame in np.flatnonzero(example):
            assert 0 <= 40_000 - (start + frame * 160) < 400


@pytest.mark.parametrize(("hop_s", "pad", "match"), [(0.0, None, "hop_s: 0.0 is out"), (None, "some", "pad: 'some'")])
def test_cutting_out_of_range_is_refused(hop_s: Any, pad: Any, match: str, tiny: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=match):
        export_onnx("tiny", tmp_path / "a.onnx", weights="untrained:0", hop_s=hop_s, pad=pad)
    assert list(tmp_path.iterdir()) == []

"""Chunks in, rows out: the same as of the whole, and in time."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import audioset
from audioset import Embeddings, Model, Scores, Stream, audio, features
from audioset.audio import WaveformStream
from audioset.errors import AudioError, OptionError, SampleRateError
from audioset.features import ShortClipWarning
from audioset.models.spec import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning")

Array = npt.NDArray[Any]


@pytest.fixture
def tagger(tiny_tagger: ModelSpec) -> Model:
    return audioset.load("tiny-tagger", "untrained:0", threads=1, batch_size=4)


def noise(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Array:
    values = np.clip(0.2 * rng.standard_normal(shape), -0.99, 0.99)
    if dtype == "uint8":
        return (values * 127 + 128).astype(np.uint8)
    if dtype.startswith("int"):
        return (values * np.iinfo(dtype).max).astype(dtype)
    return values.astype(dtype)


def cut(samples: Array, rng: np.random.Generator, longest: int) -> Iterator[Array]:
    at = 0
    while at < len(samples):
        size = int(rng.integers(0, longest + 1))
        yield samples[at : at + size]
        at += size


def fed(stream: Stream[Any], chunks: Sequence[Array] | Iterator[Array]) -> tuple[Array, Array, Array]:
    """Values, start and end of all that a stream gives."""
    parts = [*(stream.push(chunk) for chunk in chunks), stream.finish()]
    return (
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.start_s for part in parts]),
        np.concatenate([part.end_s for part in parts]),
    )


@pytest.mark.parametrize("longest", [1_000, 7_001, 300_000])
@pytest.mark.parametrize(
    ("rate", "dtype", "channels"),
    [
        (16_000, "float32", None),
        (16_000, "int16", 1),
        (44_100, "float64", 2),
        (48_000, "int32", 3),
        (8_000, "uint8", None),
        (22_050, "float32", 12),
    ],
)
def test_rows_of_chunks_are_those_of_the_whole(
    tagger: Model, rng: np.random.Generator, rate: int, dtype: str, channels: int | None, longest: int
) -> None:
    n = round(4.3 * rate)
    samples = noise(rng, dtype, (n,) if channels is None else (n, channels))
    stream = tagger.stream(rate, output="scores")
    values, start_s, end_s = fed(stream, cut(samples, rng, longest))
    whole = tagger.tag(samples, rate)
    np.testing.assert_array_equal(values, whole.values)
    np.testing.assert_array_equal(start_s, whole.start_s)
    np.testing.assert_array_equal(end_s, whole.end_s)
    assert stream.duration_s == whole.duration_s


@pytest.mark.parametrize("hop_s", [None, 0.1, 0.123, 1.5])
@pytest.mark.parametrize("pad", ["short", "none", "all"])
def test_embeddings_of_every_hop_and_padding_are_those_of_the_whole(
    tagger: Model, rng: np.random.Generator, hop_s: float | None, pad: features.Pad
) -> None:
    for seconds in (1.3, 3.2):
        samples = noise(rng, "int16", (round(seconds * 11_025), 2))
        whole = tagger.embed(samples, 11_025, hop_s=hop_s, pad=pad)
        stream = tagger.stream(11_025, hop_s=hop_s, pad=pad)
        values, start_s, _ = fed(stream, cut(samples, rng, 2_000))
        np.testing.assert_array_equal(values, whole.values)
        np.testing.assert_array_equal(start_s, whole.start_s)


@pytest.mark.parametrize("output", ["embedding", "scores"])
def test_rows_say_of_themselves_what_those_of_the_whole_say(
    tagger: Model, rng: np.random.Generator, output: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tagger, "place", dataclasses.replace(tagger.place, precision="int8"))
    samples = noise(rng, "float32", (20_000,))
    whole = tagger.embed(samples, 16_000) if output == "embedding" else tagger.tag(samples, 16_000)
    rows = tagger.stream(16_000, output=output).push(samples)
    assert rows.file == "<stream>"
    for field in dataclasses.fields(whole):
        if field.name not in ("file", "values", "start_s", "end_s", "duration_s"):
            assert getattr(rows, field.name) == getattr(whole, field.name), field.name


def test_frames_one_by_one_are_those_of_the_whole(rng: np.random.Generator) -> None:
    for rate, channels in ((16_000, 1), (44_100, 2), (8_000, 12)):
        samples = noise(rng, "float32", (700, channels))
        stream = WaveformStream(rate)
        parts = [*(stream.push(frame[np.newaxis]) for frame in samples), stream.finish()]
        np.testing.assert_array_equal(np.concatenate(parts), audio.read(samples, rate))


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([1_000, 8_000, 16_000, 44_100, 96_000, 1_000_000]),
    sizes=st.lists(st.integers(0, 900), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_cut_gives_the_waveform_that_read_gives(rate: int, sizes: list[int], seed: int) -> None:
    samples = np.random.default_rng(seed).standard_normal((max(1, sum(sizes)), 2)).astype(np.float32)
    stream = WaveformStream(rate)
    edges = np.cumsum(sizes)
    parts = [*map(stream.push, np.split(samples, edges)), stream.finish()]
    np.testing.assert_array_equal(np.concatenate(parts), audio.read(samples, rate))
    assert stream.num_frames == len(samples)


def test_postprocessed_embeddings_are_those_of_the_whole(tiny: ModelSpec, rng: np.random.Generator) -> None:
    from audioset.postprocess import Pca

    pca = Pca(rng.standard_normal((16, 16)).astype(np.float32), np.zeros(16, np.float32))
    model = audioset.load("tiny", "untrained:0", pca=pca)
    samples = noise(rng, "float32", (40_000,))
    parts = model.stream(16_000, postprocess="uint8")
    first, last = parts.push(samples), parts.finish()
    assert isinstance(first, Embeddings)
    assert (first.regime, first.values.dtype, first.file) == ("uint8", np.uint8, "<stream>")
    whole = model.embed(samples, 16_000, postprocess="uint8")
    np.testing.assert_array_equal(np.concatenate([first.values, last.values]), whole.values)


@pytest.mark.parametrize("hop_s", [0.96, 0.48, 0.16, 1.6, 0.123])
def test_at_16_khz_a_row_comes_with_the_last_sample_of_its_example(tagger: Model, hop_s: float) -> None:
    stream = tagger.stream(16_000, hop_s=hop_s)
    for row in range(3):
        needed = round(row * hop_s * 16_000) + features.EXAMPLE_SAMPLES
        had = round(stream.duration_s * 16_000)
        assert len(stream.push(np.zeros(needed - 1 - had, np.float32))) == 0
        assert len(stream.push(np.zeros(1, np.float32))) == 1


@pytest.mark.parametrize(("hop_s", "latest_s"), [(0.1, 0.15), (0.01, 0.15), (0.5, 0.15)])
def test_hops_that_share_frames_come_later_by_a_block_of_frames_at_most(
    tagger: Model, hop_s: float, latest_s: float
) -> None:
    stream = tagger.stream(16_000, hop_s=hop_s)
    late_s = []
    for _ in range(400):
        rows = stream.push(np.zeros(160, np.float32))
        late_s += list(stream.duration_s - (rows.start_s + features.EXAMPLE_SAMPLES / 16_000))
    assert late_s
    assert max(late_s) <= latest_s + 0.01
    assert min(late_s) >= 0


@pytest.mark.parametrize(
    ("rate", "latest_s"), [(8_000, 0.112), (11_025, 0.085), (44_100, 0.085), (48_000, 0.085), (192_000, 0.085)]
)
def test_the_resampler_is_as_late_as_documented(rate: int, latest_s: float) -> None:
    stream = WaveformStream(rate)
    made = 0
    late_s = []
    for _ in range(300):
        made += len(stream.push(np.zeros(rate // 200, np.float32)))
        late_s.append(stream.num_frames / rate - made / 16_000)
    assert max(late_s) <= latest_s
    assert max(late_s) > latest_s - 0.015


def test_a_piece_of_scores_knows_its_own_times(tagger: Model, rng: np.random.Generator) -> None:
    stream = tagger.stream(16_000, output="scores")
    first = stream.push(noise(rng, "float32", (40_000,)))
    second = stream.push(noise(rng, "float32", (10_000,)))
    assert isinstance(first, Scores)
    assert (first.edges_s[0], first.edges_s[-1]) == (0.0, 2.5)
    assert second.edges_s[0] == second.start_s[0] > 1
    assert second.edges_s[-1] == stream.duration_s == 3.125
    assert stream.push(np.empty(0, np.float32)).duration_s == 0


def test_memory_does_not_grow(tagger: Model) -> None:
    stream = tagger.stream(48_000, output="scores")
    chunk = np.zeros((4_800, 2), np.int16)
    held = []
    tracemalloc.start()
    try:
        for _ in range(4):
            for _ in range(60):
                stream.push(chunk)
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[-1] - held[0] < 100_000


def test_nothing_of_the_callers_buffer_is_kept(tagger: Model, rng: np.random.Generator) -> None:
    samples = noise(rng, "float32", (48_000,))
    buffer = np.empty(1_000, np.float32)
    stream = tagger.stream(16_000)
    parts = []
    for at in range(0, len(samples), len(buffer)):
        buffer[:] = samples[at : at + len(buffer)]
        parts.append(stream.push(buffer).values)
        buffer[:] = 7
    parts.append(stream.finish().values)
    np.testing.assert_array_equal(np.concatenate(parts), tagger.embed(samples, 16_000).values)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.array([0, np.nan], np.float32), r"NaN or Inf sample at 1.2501 s \(frame 20,001\)"),
        (np.full(3, 1e300), "NaN or Inf sample|float64 samples"),
        (np.zeros((5, 2), np.float32), r"2 channels at 1.2500 s; expected 1, as before"),
        (np.zeros(5, np.int16), r"int16 samples at 1.2500 s; expected float32, as before"),
        (np.zeros(5, np.int64), r"samples of type int64; expected int16"),
        (np.zeros((2, 5, 1), np.float32), r"shape \(2, 5, 1\); expected \(n,\)"),
        (np.zeros((2, 500), np.float32), r"shape \(2, 500\) looks like \(channels, n\)"),
        (np.float32(1), r"shape \(\); expected \(n,\)"),
    ],
)
def test_a_chunk_that_is_refused_leaves_the_stream_as_it_was(
    tagger: Model, rng: np.random.Generator, chunk: Array, message: str
) -> None:
    samples = noise(rng, "float32", (40_000,))
    stream = tagger.stream(16_000)
    parts = [stream.push(samples[:20_000]).values]
    with pytest.raises(AudioError, match=message):
        stream.push(chunk)
    parts += [stream.push(samples[20_000:]).values, stream.finish().values]
    np.testing.assert_array_equal(np.concatenate(parts), tagger.embed(samples, 16_000).values)


def test_few_frames_of_many_channels_are_taken_where_their_number_is_known(tagger: Model) -> None:
    chunk = np.zeros((10, 40), np.float32)
    tagger.stream(16_000, channels=40).push(chunk)
    with pytest.raises(AudioError, match="looks like"):
        tagger.stream(16_000).push(chunk)
    with pytest.raises(AudioError, match=r"1 channels at 0.0000 s; expected 40"):
        tagger.stream(16_000, channels=40).push(np.zeros(10, np.float32))


def test_an_empty_chunk_says_nothing_of_those_after_it(tagger: Model) -> None:
    stream = tagger.stream(16_000)
    assert stream.push(np.empty(0)).values.shape == (0, 8)
    stream.push(np.zeros((100, 2), np.int16))
    assert len(stream.push(np.empty((0, 2), np.int16))) == 0


def test_an_ended_stream_takes_no_more(tagger: Model) -> None:
    stream = tagger.stream(16_000)
    stream.push(np.zeros(20_000, np.float32))
    stream.finish()
    assert stream.ended
    with pytest.raises(AudioError, match="push after its end"):
        stream.push(np.zeros(1, np.float32))
    with pytest.raises(AudioError, match="finish after its end"):
        stream.finish()


def test_an_error_within_ends_the_stream(tagger: Model) -> None:
    stream = tagger.stream(16_000)
    with pytest.raises(AudioError, match="spectrum overflows"):
        stream.push(np.full(20_000, 1e30, np.float32))
    assert stream.ended
    with pytest.raises(AudioError, match="neither been finished nor failed"):
        stream.push(np.zeros(1, np.float32))


def test_a_stream_without_sound_gives_no_row(tagger: Model) -> None:
    for rate in (16_000, 44_100):
        assert tagger.stream(rate, output="scores").finish().values.shape == (0, 521)


def test_a_stream_shorter_than_an_example_is_padded_as_the_policy_says(tagger: Model) -> None:
    chunk = np.zeros(30, np.float32)
    for pad, rows in (("short", 1), ("none", 0)):
        stream = tagger.stream(1_000_000, pad=pad)
        assert len(stream.push(chunk)) == 0
        if rows:
            with pytest.warns(ShortClipWarning):
                last = stream.finish()
            assert last.padded_short
        else:
            last = stream.finish()
        assert len(last) == rows
        assert stream.duration_s == 1 / 16_000


@pytest.mark.parametrize(
    ("rate", "options", "error", "message"),
    [
        (500, {}, SampleRateError, "sample rate 500 Hz"),
        (44_100.5, {}, SampleRateError, "expected a whole number"),
        (16_000, {"channels": 0}, OptionError, "channels: 0 is out of range"),
        (16_000, {"hop_s": 0}, OptionError, "hop_s: 0 is out of range"),
        (16_000, {"pad": "x"}, OptionError, "pad: 'x'"),
        (16_000, {"output": "logits"}, OptionError, "output: 'logits' is unknown"),
        (16_000, {"output": "scores", "postprocess": "pca"}, OptionError, "postprocess: 'pca' is"),
    ],
)
def test_options_are_checked_at_once(
    tagger: Model, rate: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tagger.stream(rate, **options)


def test_scores_need_a_model_that_tags(tiny: ModelSpec) -> None:
    with pytest.raises(OptionError, match="tiny: gives embeddings and has no classes to score; expected a model"):
        audioset.load("tiny", "untrained:0").stream(16_000, output="scores")


def test_real_sound_in_chunks_of_a_microphone_scores_as_the_file(data_dir: Any) -> None:
    model = audioset.load("mini")
    path = sorted((data_dir / "esc10").rglob("*.ogg"))[0]
    import soundfile

    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    values, _, _ = fed(
        model.stream(rate, output="scores"), [samples[at : at + 512] for at in range(0, len(samples), 512)]
    )
    np.testing.assert_array_equal(values, model.tag(path).values)

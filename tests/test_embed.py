"""Audio in, embeddings out: the public face, with a tiny network where the numbers do not matter."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

import audioset
from audioset import Model, audio, features
from audioset.embed import EmbedOptions
from audioset.errors import AudioError, OptionError
from audioset.models.spec import ModelSpec
from audioset.postprocess import Pca, quantize

pytestmark = pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning")


@pytest.fixture
def model(tiny: ModelSpec) -> Model:
    return audioset.load("tiny", "untrained:0", threads=2)


@pytest.fixture
def clip(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "clip.wav"
    soundfile.write(path, 0.1 * rng.standard_normal((3 * 44_100, 2)), 44_100)
    return path


def test_stages_called_one_by_one_give_the_same(model: Model, clip: Path) -> None:
    waveform = audio.read(clip)
    examples = features.examples(waveform, log_offset=model.spec.log_offset)
    expected = model._network.run(examples)["embedding"]
    got = model.embed(clip)
    np.testing.assert_array_equal(got.values, expected)
    assert got.values.shape == (3, 16)
    assert (got.file, got.model, got.regime) == (str(clip), "tiny", "raw")
    np.testing.assert_allclose(got.times, [0, 0.96, 1.92])
    np.testing.assert_allclose(got.centre_s, [0.48, 1.44, 2.4])
    assert got.duration_s == pytest.approx(3.0, abs=1 / 16000)


def test_paths_file_objects_and_arrays_give_the_same(model: Model, clip: Path) -> None:
    from_path = model.embed(clip).values
    samples, rate = soundfile.read(clip, dtype="float32")
    np.testing.assert_array_equal(model.embed(str(clip)).values, from_path)
    np.testing.assert_array_equal(model.embed(io.BytesIO(clip.read_bytes())).values, from_path)
    np.testing.assert_array_equal(model.embed(samples, rate).values, from_path)


def test_one_example_keeps_its_axis(model: Model) -> None:
    assert model.embed(np.zeros(16_000, np.float32), 16_000).values.shape == (1, 16)


def test_short_clip_is_padded_with_a_warning(model: Model) -> None:
    with pytest.warns(features.ShortClipWarning, match="zero-padded"):
        got = model.embed(np.zeros(100, np.float32), 16_000)
    assert got.values.shape == (1, 16)
    assert got.padded_short


def test_short_clip_without_padding_gives_no_row(model: Model) -> None:
    assert model.embed(np.zeros(100, np.float32), 16_000, pad="none").values.shape == (0, 16)


def test_window_gives_times_in_the_file(model: Model, clip: Path) -> None:
    got = model.embed(clip, start_s=1.0, duration_s=1.5, hop_s=0.1)
    np.testing.assert_allclose(got.start_s, 1.0 + 0.1 * np.arange(6))
    whole = audio.read(clip)[16_000:40_000]
    # the window is decoded with a lead-in: equal up to the rounding of the resampler
    np.testing.assert_allclose(got.values, model.embed(whole, 16_000, hop_s=0.1).values, atol=1e-4)


def test_pooling_is_the_mean_over_the_examples(model: Model, clip: Path) -> None:
    rows = model.embed(clip, hop_s=0.1).values
    pooled = model.embed(clip, hop_s=0.1, pool="mean")
    np.testing.assert_allclose(pooled.values, rows.mean(axis=0, keepdims=True), atol=1e-5)  # float64 sum of float32
    assert (pooled.start_s.tolist(), pooled.end_s.tolist()) == ([0.0], [pooled.duration_s])
    assert model.embed(np.zeros(9, np.float32), 16_000, pad="none", pool="mean").values.shape == (0, 16)


def test_many_files_equal_one_by_one_bit_for_bit(model: Model, tmp_path: Path, rng: np.random.Generator) -> None:
    paths = []
    for number, (rate, seconds, channels) in enumerate(
        [(8_000, 0.2, 1), (44_100, 4, 2), (16_000, 20, 1), (48_000, 1, 6)]
    ):
        paths.append(tmp_path / f"{number}.wav")
        soundfile.write(paths[-1], 0.1 * rng.standard_normal((round(rate * seconds), channels)), rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", features.ShortClipWarning)
        one_by_one = [model.embed(path) for path in paths]
    together = list(model.embed_files(paths))
    for one, other in zip(one_by_one, together, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        assert one.file == other.file


def test_a_bad_file_is_a_record_and_the_others_go_on(model: Model, clip: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("not audio")
    got = list(model.embed_files([clip, text, tmp_path / "gone.wav", clip]))
    assert [len(e) for e in got] == [3, 0, 0, 3]
    assert [e.file for e in got] == [str(clip), str(text), str(tmp_path / "gone.wav"), str(clip)]
    assert all(isinstance(e.error, AudioError) for e in got[1:3])
    assert got[0].error is None


def test_a_single_bad_file_raises(model: Model, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        model.embed(tmp_path / "gone.wav")


def test_a_file_bad_in_the_middle_gives_no_rows(model: Model, tmp_path: Path) -> None:
    samples = np.zeros(5 * 16_000, np.float32)
    samples[4 * 16_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16_000, subtype="FLOAT")
    for pool in ("none", "mean"):
        (got,) = model.embed_files([tmp_path / "nan.wav"], pool=pool)  # type: ignore[arg-type]
        assert got.values.shape == (0, 16)
        assert "NaN" in str(got.error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hop_s": 0.0}, "hop_s: 0.0 is out of range"),
        ({"pad": "zero"}, "pad: 'zero' is not a policy"),
        ({"pool": "max"}, "pool: 'max' is unknown; expected one of none, mean"),
        ({"postprocess": "pcm"}, "postprocess: 'pcm' is unknown; expected one of none, pca, uint8"),
        ({"start_s": -1.0}, "start_s: -1.0 is out of range"),
        ({"duration_s": 0.0}, "duration_s: 0.0 is out of range"),
    ],
)
def test_options_out_of_range_are_refused(model: Model, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message.replace(".", r"\.")):
        EmbedOptions(**options).resolve(model.spec)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["threads", "batch_size"])
def test_threads_and_batch_out_of_range_are_refused(tiny: ModelSpec, option: str) -> None:
    with pytest.raises(OptionError, match=f"{option}: 0 is out of range; expected 1 to 1024"):
        audioset.load("tiny", "untrained:0", **{option: 0})  # type: ignore[arg-type]


def test_embeddings_from_the_golden_waveforms_equal_tensorflow(data_dir: Path, vggish: Model) -> None:
    golden = np.load(data_dir / "vggish" / "golden.npz")
    with np.load(data_dir / "vggish" / "vggish_pca_params.npz") as file:
        pca = Pca(file["pca_eigen_vectors"], file["pca_means"])
    equal = total = 0
    for name in [key.removesuffix("/waveform") for key in golden if key.endswith("/waveform")]:
        got = vggish.embed(golden[f"{name}/waveform"], 16_000).values
        expected = golden[f"{name}/embedding"]
        cosine = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
        assert cosine.min() >= 0.99999, name
        # the front end is 7e-5 off at worst, the network 5e-5; together 1.2e-4 of values around 9
        np.testing.assert_allclose(got, expected, atol=5e-4, rtol=0, err_msg=name)
        difference = quantize(pca.apply(got)).astype(int) - golden[f"{name}/quantized"]
        assert np.abs(difference).max() <= 1, name
        equal += int((difference == 0).sum())
        total += difference.size
    # a value within rounding of a bin's edge falls on either side
    assert equal / total >= 0.995


def test_released_form_is_pca_then_bytes(vggish: Model, tmp_path: Path, rng: np.random.Generator) -> None:
    parameters = Pca(0.05 * rng.standard_normal((128, 128)), rng.standard_normal(128))
    path = tmp_path / "pca.npz"
    np.savez(path, pca_eigen_vectors=parameters.eigen_vectors, pca_means=parameters.means)
    model = Model(vggish.spec, vggish.weights, pca=path)
    tone = np.sin(np.arange(32_000) / 5).astype(np.float32)
    raw = model.embed(tone, 16_000)
    pca = model.embed(tone, 16_000, postprocess="pca")
    released = model.embed(tone, 16_000, postprocess="uint8")
    np.testing.assert_array_equal(pca.values, parameters.apply(raw.values))
    np.testing.assert_array_equal(released.values, quantize(pca.values))
    assert (raw.regime, pca.regime, released.regime) == ("raw", "pca", "uint8")
    assert released.values.dtype == np.uint8


def test_importing_the_package_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, audioset; print(sorted({'numpy', 'onnxruntime', 'pyarrow', 'av', 'typer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_public_names_are_these() -> None:
    assert sorted(audioset.__all__) == [
        "AudioSetError",
        "EmbedOptions",
        "Embeddings",
        "Event",
        "Model",
        "Scores",
        "Stream",
        "__version__",
        "load",
        "read_embeddings",
    ]
    assert all(hasattr(audioset, name) for name in audioset.__all__)


def test_options_of_many_files_are_checked_at_once(model: Model) -> None:
    with pytest.raises(OptionError, match=r"hop_s: 0 is out of range"):
        model.embed_files(["x.wav"], hop_s=0)


def test_one_path_in_the_place_of_many_is_refused(model: Model) -> None:
    with pytest.raises(OptionError, match=r"paths: 'abc\.wav' is one path"):
        model.embed_files("abc.wav")


def test_a_file_that_overflows_is_a_record_like_any_other(model: Model, clip: Path, tmp_path: Path) -> None:
    samples = np.zeros(32_000, np.float32)
    samples[9] = 3e38
    soundfile.write(tmp_path / "spike.wav", samples, 16_000, subtype="FLOAT")
    first, second = model.embed_files([tmp_path / "spike.wav", clip])
    assert isinstance(first.error, AudioError)
    assert len(second) == 3

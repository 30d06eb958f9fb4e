"""Samples without a header, as they come out of pipes."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest

import audioset
from audioset import audio
from audioset.audio import Pcm
from audioset.errors import AudioError, OptionError, SampleRateError
from audioset.models.spec import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning")


def sound(rng: np.random.Generator, dtype: str, frames: int = 20_000, channels: int = 1) -> np.ndarray[Any, Any]:
    values = np.clip(0.2 * rng.standard_normal((frames, channels)), -0.99, 0.99)
    scale = {"<i2": 2**15, "<i4": 2**31, "u1": 2**7}.get(dtype, 1)
    return (values * scale + (128 if dtype == "u1" else 0)).astype(dtype)


class Dribble(io.RawIOBase):
    """Gives a few bytes at a time, and none in the middle of nowhere."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data, self._sizes, self._reads = data, sizes, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        count = min(size, self._sizes[self._reads % len(self._sizes)])
        self._reads += 1
        given, self._data = self._data[:count], self._data[count:]
        return given


@pytest.mark.parametrize(
    ("form", "dtype"), [("s16", "<i2"), ("s32", "<i4"), ("u8", "u1"), ("f32", "<f4"), ("f64", "<f8")]
)
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_raw_samples_are_read_as_the_array_that_they_are(
    rng: np.random.Generator, form: Any, dtype: str, rate: int, channels: int
) -> None:
    samples = sound(rng, dtype, channels=channels)
    file = cast(BinaryIO, Dribble(samples.tobytes(), [7, 1, 3_001, 13]))
    np.testing.assert_array_equal(audio.read(Pcm(file, rate, form, channels)), audio.read(samples, rate))


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_windows_are_those_of_the_whole(rng: np.random.Generator, rate: int) -> None:
    data = sound(rng, "<i2", 3 * rate).tobytes()
    whole = audio.read(Pcm(io.BytesIO(data), rate))
    part = audio.read(Pcm(io.BytesIO(data), rate), start_s=1.1, duration_s=0.7)
    np.testing.assert_allclose(part, whole[17_600:28_800], atol=1e-6)
    with pytest.raises(AudioError, match="nothing at start_s=4: its length is unknown"):
        audio.read(Pcm(io.BytesIO(data), rate), start_s=4)


def test_frames_are_given_when_they_are_there() -> None:
    ours, theirs = os.pipe()
    with open(ours, "rb") as file, open(theirs, "wb", buffering=0) as writer:  # noqa: PTH123
        chunks = Pcm(file, 16_000).chunks()
        for frames in (3, 1, 500):
            writer.write(bytes(2 * frames))
            assert next(chunks).shape == (frames, 1)
        writer.write(b"\0")
        timer = threading.Timer(0.05, writer.write, [b"\0"])  # half a frame is waited for
        timer.start()
        assert next(chunks).shape == (1, 1)
        timer.join()


def test_embeddings_are_those_of_the_array(tiny: ModelSpec, rng: np.random.Generator) -> None:
    model = audioset.load("tiny", "untrained:0")
    samples = sound(rng, "<i2", 50_000)
    got = model.embed(Pcm(io.BytesIO(samples.tobytes()), 22_050))
    np.testing.assert_array_equal(got.values, model.embed(samples, 22_050).values)
    assert got.file == "<stream>"
    assert got.duration_s == pytest.approx(50_000 / 22_050, abs=1e-4)


def test_no_samples_are_an_error() -> None:
    with pytest.raises(AudioError, match=r"^<stream>: 0 bytes; expected raw samples \(s16\)"):
        audio.read(Pcm(io.BytesIO(), 16_000))


def test_half_a_frame_at_the_end_is_an_error_after_the_whole_ones(tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_bytes(bytes(4 * 100 + 3))
    with (tmp_path / "x.raw").open("rb") as file:
        chunks = Pcm(file, 16_000, "s16", 2, name="x.raw").chunks()
        assert next(chunks).shape == (100, 2)
        with pytest.raises(
            AudioError, match=r"x.raw: ends within a frame: 3 of its 4 bytes, after 100 frames; expected"
        ):
            next(chunks)


def test_what_a_file_raises_becomes_one_error() -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(AudioError, match=r"<stream>: reading it failed \(Input/output error\)"):
        audio.read(Pcm(cast(BinaryIO, Broken()), 16_000))
    with pytest.raises(AudioError, match="gave str; expected bytes"):
        audio.read(Pcm(cast(BinaryIO, io.StringIO("text")), 16_000))


def test_nan_is_refused_by_its_place() -> None:
    samples = np.zeros(2_000, np.float32)
    samples[1_500] = np.nan
    with pytest.raises(AudioError, match=r"NaN or Inf sample at 0.0938 s \(frame 1,500\)"):
        audio.read(Pcm(io.BytesIO(samples.tobytes()), 16_000, "f32"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((16_000, "s24"), OptionError, "format: 's24' is unknown; expected one of u8, s16"),
        ((16_000, "s16", 0), OptionError, "channels: 0 is out of range; expected 1 to 1024"),
        ((16_000.5,), SampleRateError, "expected a whole number of Hz"),
    ],
)
def test_what_cannot_be_is_refused_at_once(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Pcm(io.BytesIO(), *arguments)
    with pytest.raises(SampleRateError, match="sample rate 10 Hz"):
        audio.read(Pcm(io.BytesIO(bytes(100)), 10))
    with pytest.raises(OptionError, match="sample_rate: 16000 was given with a file"):
        audio.read(Pcm(io.BytesIO(bytes(100)), 16_000), 16_000)


def test_the_command_embeds_raw_samples(tiny: ModelSpec, tmp_path: Path, rng: np.random.Generator) -> None:
    from typer.testing import CliRunner

    from audioset.cli import app

    samples = sound(rng, "<i4", 60_000, channels=2)
    options = ["--pcm", "22050", "--pcm-format", "s32", "--channels", "2", "-m", "tiny", "-w", "untrained:0"]
    out = tmp_path / "out.npz"
    result = CliRunner().invoke(app, ["embed", "-", *options, "-o", str(out)], input=samples.tobytes())
    assert result.exit_code == 0, result.output
    whole = audioset.load("tiny", "untrained:0").embed(samples, 22_050)
    np.testing.assert_array_equal(audioset.read_embeddings(out).values, whole.values)
    refused = CliRunner().invoke(app, ["embed", "x.wav", *options, "-o", str(out)])
    assert "--pcm: is for standard input" in str(refused.exception)

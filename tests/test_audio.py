"""Reading audio: every container, width, rate and channel count; chunks, windows, and what is wrong with bad input."""

from __future__ import annotations

import functools
import io
import itertools
import math
import os
import re
import shutil
import struct
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile as sf
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset import audio
from audioset.errors import AudioError, OptionError, SampleRateError

SOXR_TOLERANCE = 2e-6  # streamed against one-shot: float32 rounding of samples within [-1, 1]
WINDOW_TOLERANCE = 1e-6
LONG_S = 13.0  # longer than what FFmpeg decodes from the start rather than seek in


@functools.cache
def noise(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Two gliding tones in noise, (n, channels): no two places are alike, so that a shift by a sample shows."""
    n = round(seconds * rate)
    t = np.arange(n)[:, np.newaxis] / rate
    hz = 200 + 40 * np.arange(channels)
    x = 0.3 * np.sin(2 * np.pi * hz * t * (1 + t / 20)) + 0.2 * np.sin(2 * np.pi * 3.1 * hz * t)
    x += 0.02 * np.random.default_rng(seed).standard_normal((n, channels))
    samples = x.astype(np.float32)
    samples.flags.writeable = False
    return samples


def num_samples(num_frames: int, rate: int) -> int:
    return max(1, math.floor(num_frames * 16_000 / rate + 0.5))


def oracle(samples: np.ndarray, rate: int) -> np.ndarray:
    """The slow plain way: all at once."""
    mono = samples.astype(np.float64).reshape(len(samples), -1).mean(axis=1).astype(np.float32)
    return mono if rate == 16_000 else soxr.resample(mono, rate, 16_000, quality="VHQ")


def write(path: Path, samples: np.ndarray, rate: int, **kwargs: Any) -> Path:
    """`samples` through libsndfile, in pieces: its Ogg encoders overflow their stack on long ones."""
    with sf.SoundFile(path, "w", rate, 1 if samples.ndim == 1 else samples.shape[1], **kwargs) as file:
        for start in range(0, len(samples), 8192):
            file.write(samples[start : start + 8192])
    return path


def encode(
    path: Path, samples: np.ndarray | None, rate: int = 44_100, codec: str = "aac", video_s: float = 0.0, **options: str
) -> Path:
    """`samples` (n, channels), or no audio, through FFmpeg; with a moving picture of `video_s` seconds."""
    with av.open(str(path), "w", options=options.pop("container", None) and {"movflags": "faststart"}) as container:
        picture = container.add_stream("mpeg4", rate=10) if video_s else None
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = None
        if samples is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1", 16: "hexadecagonal"}[samples.shape[1]]
            sound = container.add_stream(codec, rate=rate, layout=layout, options=options)
        for i in range(round(video_s * 10)):
            image = np.full((48, 64, 3), i % 256, np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        if picture is not None:
            container.mux(picture.encode())
        for start in range(0, 0 if sound is None else len(samples), 4096):
            block = np.ascontiguousarray(samples[start : start + 4096]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            container.mux(sound.encode(frame))
        if sound is not None:
            container.mux(sound.encode())
    return path


LONG_FILES = {
    "wav": ("long.wav", 1e-4),
    "flac": ("long.flac", 1e-4),
    "vorbis": ("long.ogg", None),
    "opus": ("long.opus", None),
    "mp3": ("long.mp3", None),
    "mp3 without a length": ("bare.mp3", None),
    "m4a": ("long.m4a", None),
    "mp4 with video": ("long.mp4", None),
    "aac": ("long.aac", None),
    "webm": ("long.webm", None),
    "mkv vorbis": ("long.mkv", None),
}


@pytest.fixture(scope="session")
def long_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same 13 s of stereo in every container."""
    folder = tmp_path_factory.mktemp("long")
    x, x48 = noise(LONG_S, 44_100, 2), noise(LONG_S, 48_000, 2)
    write(folder / "long.wav", x, 44_100)
    write(folder / "long.flac", x, 44_100)
    write(folder / "long.ogg", x, 44_100, format="OGG", subtype="VORBIS")
    write(folder / "long.opus", x48, 48_000, format="OGG", subtype="OPUS")
    write(folder / "long.mp3", x, 44_100, format="MP3", subtype="MPEG_LAYER_III")
    # Noise substitution is the one thing that a window cannot repeat to the sample.
    encode(folder / "long.m4a", x, aac_pns="0")
    encode(folder / "long.mp4", x, video_s=LONG_S, aac_pns="0")
    encode(folder / "long.aac", x, aac_pns="0")
    encode(folder / "long.webm", x48, 48_000, "libopus")
    encode(folder / "long.mkv", x, 44_100, "vorbis", strict="experimental")
    mp3 = (folder / "long.mp3").read_bytes()
    (folder / "bare.mp3").write_bytes(mp3[first_mpeg_frame_length(mp3) :])
    return folder


def first_mpeg_frame_length(mp3: bytes) -> int:
    """Where the second frame begins: the first one holds no sound but says how long the sound is."""
    return mp3.index(mp3[:2], 4)


# ---- every width, rate and channel count


@pytest.mark.parametrize(
    ("container", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1 / 128),
        ("WAV", "PCM_16", 2**-15),
        ("WAV", "PCM_24", 2**-23),
        ("WAV", "PCM_32", 1e-7),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("WAV", "ULAW", 0.02),
        ("WAV", "ALAW", 0.02),
        ("WAV", "IMA_ADPCM", 0.1),
        ("WAVEX", "PCM_24", 2**-23),
        ("RF64", "PCM_16", 2**-15),
        ("W64", "PCM_16", 2**-15),
        ("AIFF", "PCM_16", 2**-15),
        ("AU", "PCM_16", 2**-15),
        ("CAF", "PCM_16", 2**-15),
        ("FLAC", "PCM_24", 2**-23),
        ("FLAC", "PCM_16", 2**-15),
        ("OGG", "VORBIS", 0.1),
        ("OGG", "OPUS", 0.1),
        ("MP3", "MPEG_LAYER_III", 0.1),
    ],
)
def test_every_width_gives_the_samples_that_were_written(
    tmp_path: Path, container: str, subtype: str, tolerance: float
) -> None:
    x = noise(0.5, 16_000)[:, 0]
    path = write(tmp_path / "x", x, 16_000, format=container, subtype=subtype)
    y = audio.read(path)
    assert y.dtype == np.float32
    assert y.ndim == 1
    assert len(y) >= len(x)
    assert len(y) - len(x) <= (1024 if subtype == "IMA_ADPCM" else 0)
    np.testing.assert_allclose(y[200 : len(x) - 200], x[200:-200], rtol=0, atol=tolerance)


def test_samples_at_16_khz_pass_through_untouched(tmp_path: Path) -> None:
    x = noise(1.0, 16_000)[:, 0]
    assert np.array_equal(audio.read(write(tmp_path / "x.wav", x, 16_000, subtype="FLOAT")), x)
    assert np.array_equal(audio.read(x, 16_000), x)


@pytest.mark.parametrize("rate", [1_000, 8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000, 768_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_file_equals_the_mean_of_its_channels_resampled_at_once(tmp_path: Path, rate: int, channels: int) -> None:
    x = noise(0.3, rate, channels)
    path = write(tmp_path / "x.wav", x, rate, subtype="FLOAT")
    y = audio.read(path)
    expected = oracle(x, rate)
    assert len(y) == len(expected) == num_samples(len(x), rate) == audio.probe(path).num_samples
    np.testing.assert_allclose(y, expected, rtol=0, atol=SOXR_TOLERANCE)


def test_stereo_is_averaged_over_channels() -> None:
    x = noise(0.1, 16_000, 2)
    assert np.array_equal(audio.read(x, 16_000), (x[:, 0] + x[:, 1]) / 2)


@pytest.mark.parametrize("channels", [9, 200])
def test_many_channels_are_averaged(tmp_path: Path, channels: int) -> None:
    x = noise(0.05, 16_000, channels)
    np.testing.assert_allclose(audio.read(x, 16_000), x.mean(axis=1, dtype=np.float64), rtol=0, atol=1e-6)
    path = write(tmp_path / "x.wav", x, 16_000, subtype="FLOAT")
    assert np.array_equal(audio.read(path), audio.read(x, 16_000))


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (np.uint8, 0, -1.0),
        (np.uint8, 192, 0.5),
        (np.int16, -(2**15), -1.0),
        (np.int16, 2**14, 0.5),
        (np.int32, -(2**31), -1.0),
        (np.int32, 2**30, 0.5),
        (np.float64, 0.25, 0.25),
        (np.dtype(">i2"), 2**14, 0.5),
        (np.dtype(">f4"), -0.75, -0.75),
    ],
)
def test_integers_are_divided_by_full_scale(dtype: Any, value: float, expected: float) -> None:
    assert np.array_equal(audio.read(np.full(100, value, dtype), 16_000), np.full(100, expected, np.float32))


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "int16", "int32", "float32", "float64"]),
    channels=st.integers(0, 12),
    rate=st.one_of(st.sampled_from([8_000, 16_000, 44_100, 48_000]), st.integers(1_000, 200_000)),
    length=st.integers(1, 5_000),
    seed=st.integers(0, 100),
)
def test_arrays_equal_the_plain_way(dtype: str, channels: int, rate: int, length: int, seed: int) -> None:
    shape = (length, channels) if channels else (length,)
    x = np.random.default_rng(seed).uniform(-1, 1, shape)
    samples, scaled = x.astype(dtype), x
    if dtype == "uint8":
        samples = np.floor(x * 128 + 128).astype(dtype)
        scaled = (samples.astype(np.float64) - 128) / 128
    elif dtype.startswith("int"):
        full_scale = 2.0 ** (np.iinfo(dtype).bits - 1)
        samples = np.floor(x * full_scale).astype(dtype)
        scaled = samples / full_scale
    y = audio.read(samples, rate)
    assert len(y) == num_samples(length, rate)
    expected = oracle(scaled, rate)
    if len(expected):
        np.testing.assert_allclose(y, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_chunked_equals_at_once_around_block_boundaries(rate: int) -> None:
    block = min(2**17, 2**17 * rate // 16_000)
    x = np.random.default_rng(1).uniform(-1, 1, 2 * block + 1).astype(np.float32)
    for n in (block - 1, block, block + 1, 2 * block - 1, 2 * block, 2 * block + 1):
        y = audio.read(x[:n], rate)
        assert len(y) == num_samples(n, rate)
        np.testing.assert_allclose(y, oracle(x[:n], rate), rtol=0, atol=SOXR_TOLERANCE)


def test_number_of_samples_follows_the_documented_formula() -> None:
    for rate, n in itertools.product([1_000, 11_025, 16_000, 44_100, 47_999, 1_000_000], [1, 2, 31, 999, 1_000, 4_097]):
        assert len(audio.read(np.zeros(n, np.float32), rate)) == num_samples(n, rate)


@pytest.mark.parametrize("rate", [1_000, 16_000, 48_000, 768_000])
def test_one_sample_is_enough(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "x.wav", np.array([0.5], np.float32), rate, subtype="FLOAT")
    y = audio.read(path)
    assert len(y) == num_samples(1, rate) == audio.probe(path).num_samples
    assert np.isfinite(y).all()


# ---- other containers


def best_match(y: np.ndarray, x: np.ndarray, max_shift: int = 3_000) -> tuple[int, float]:
    """(shift of `x` in `y`, correlation there) of half a second of `x`."""
    piece = x[16_000:24_000]
    scores = [float(np.corrcoef(y[16_000 + s : 24_000 + s], piece)[0, 1]) for s in range(-max_shift, max_shift)]
    best = int(np.argmax(scores))
    return best - max_shift, scores[best]


@pytest.mark.parametrize("name", ["mp3", "m4a", "mp4 with video", "webm", "vorbis", "opus"])
def test_lossy_formats_start_where_the_original_starts(long_files: Path, name: str) -> None:
    file = long_files / LONG_FILES[name][0]
    rate = 48_000 if name in ("webm", "opus") else 44_100
    expected = oracle(noise(4.0, rate, 2), rate)
    shift, correlation = best_match(audio.read(file, duration_s=3.0), expected, max_shift=40)
    assert correlation > 0.99
    assert shift == 0


@pytest.mark.parametrize("name", LONG_FILES)
def test_length_is_the_originals_but_for_encoder_padding(long_files: Path, name: str) -> None:
    y = audio.read(long_files / LONG_FILES[name][0])
    exact = name in ("wav", "flac", "vorbis", "opus", "mp3", "webm")
    assert 0 <= len(y) - round(LONG_S * 16_000) <= (0 if exact else 2_500)


def test_mp3_without_a_length_is_read_to_its_end(long_files: Path) -> None:
    assert len(audio.read(long_files / "bare.mp3")) >= LONG_S * 16_000


def test_five_channel_surround_is_averaged(tmp_path: Path) -> None:
    x = np.zeros((44_100, 6), np.float32)
    x[:, 2] = noise(1.0, 44_100)[:, 0]
    y = audio.read(encode(tmp_path / "x.m4a", x))
    assert np.corrcoef(y[2_000:14_000], oracle(x, 44_100)[2_000:14_000])[0, 1] > 0.99
    assert np.std(y[2_000:14_000]) == pytest.approx(np.std(oracle(x, 44_100)[2_000:14_000]), rel=0.05)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels"),
    [("x.m4a", "aac", 44_100, 8), ("x.webm", "libopus", 48_000, 8), ("x.mkv", "wavpack", 44_100, 16)],
)
def test_eight_and_more_planes_are_averaged(tmp_path: Path, name: str, codec: str, rate: int, channels: int) -> None:
    """FFmpeg keeps so many planes elsewhere, and PyAV lists more of them than there are."""
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg was built without {codec}")
    x = np.zeros((rate, channels), np.float32)
    x[:, :2] = noise(1.0, rate, 2) * 1.5  # and silence in the others, of which garbage would be no part
    path = encode(tmp_path / name, x, rate, codec)
    assert audio.probe(path).channels == channels
    y, expected = audio.read(path), oracle(x, rate)
    assert np.corrcoef(y[2_000:14_000], expected[2_000:14_000])[0, 1] > 0.98
    assert np.std(y[2_000:14_000]) == pytest.approx(np.std(expected[2_000:14_000]), rel=0.1)


def test_sixteen_channels_of_vorbis_are_the_same_through_both_libraries(tmp_path: Path) -> None:
    path = write(tmp_path / "x.ogg", noise(1.0, 44_100, 16), 44_100, format="OGG", subtype="VORBIS")
    with av.open(str(path)) as ogg, av.open(str(tmp_path / "x.mkv"), "w") as mkv:
        stream = mkv.add_stream_from_template(ogg.streams.audio[0])
        for packet in ogg.demux(audio=0):
            if packet.size:
                packet.stream = stream
                mkv.mux(packet)
    y = audio.read(tmp_path / "x.mkv")
    assert audio.probe(tmp_path / "x.mkv").channels == 16
    np.testing.assert_allclose(y[:16_000], audio.read(path), rtol=0, atol=1e-5)


def test_integer_samples_through_ffmpeg_equal_those_through_libsndfile(tmp_path: Path, long_files: Path) -> None:
    x, rate = sf.read(long_files / "long.flac", frames=44_100, dtype="float32")
    y = audio.read(encode(tmp_path / "x.mkv", x, rate, "flac"))
    np.testing.assert_allclose(y, oracle(x, rate), rtol=0, atol=2**-14)


@pytest.mark.parametrize("name", ["speech.wav", "speech.mp3", "speech.raw", "speech.txt", "speech"])
def test_content_decides_not_the_name(long_files: Path, tmp_path: Path, name: str) -> None:
    for original in ("long.ogg", "long.m4a", "long.flac", "long.mp3"):
        path = Path(shutil.copy(long_files / original, tmp_path / name))
        assert np.array_equal(audio.read(path, duration_s=0.5), audio.read(long_files / original, duration_s=0.5))


def test_mp3_behind_a_large_picture_is_read(long_files: Path, tmp_path: Path) -> None:
    picture = b"APIC" + struct.pack(">I", 3_000_000) + b"\0\0" + b"\xff\xfb\x90\x00" * 750_000
    size = bytes(len(picture) >> shift & 127 for shift in (21, 14, 7, 0))
    path = tmp_path / "x.mp3"
    path.write_bytes(b"ID3\x03\0\0" + size + picture + (long_files / "long.mp3").read_bytes())
    assert np.array_equal(audio.read(path, duration_s=3.0), audio.read(long_files / "long.mp3", duration_s=3.0))


@pytest.mark.parametrize("name", ["long.mp3", "long.ogg"])
def test_joined_files_are_read_to_the_end(long_files: Path, tmp_path: Path, name: str) -> None:
    first = (long_files / name).read_bytes()
    if name == "long.mp3":
        second = b"ID3\x03\0\0\0\0\0\x0aTIT2" + bytes(6) + first
    else:
        second = write(
            tmp_path / "other", noise(LONG_S, 44_100, 2), 44_100, format="OGG", subtype="VORBIS"
        ).read_bytes()
    (tmp_path / name).write_bytes(first + second)
    whole = audio.read(tmp_path / name)
    assert 0 <= len(whole) - 2 * LONG_S * 16_000 < 2_500
    window = audio.read(tmp_path / name, start_s=20.0, duration_s=1.0)
    np.testing.assert_allclose(window, whole[320_000:336_000], rtol=0, atol=WINDOW_TOLERANCE)


def test_ogg_cut_out_of_a_longer_one_has_equal_windows(long_files: Path, tmp_path: Path) -> None:
    """Its first page says that some of its sound is to be left out, of which libsndfile makes wrong places."""
    pages = split_ogg((long_files / "long.ogg").read_bytes())
    (granule,) = struct.unpack("<q", pages[2][6:14])
    moved = [p if i < 2 else with_granule(p, granule // 3) for i, p in enumerate(pages)]
    (tmp_path / "x.ogg").write_bytes(b"".join(moved))
    whole = audio.read(tmp_path / "x.ogg")
    for start in (0.7, 3.0, 11.2):
        window = audio.read(tmp_path / "x.ogg", start_s=start, duration_s=0.5)
        first = round(start * 16_000)
        np.testing.assert_allclose(window, whole[first : first + 8_000], rtol=0, atol=WINDOW_TOLERANCE)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_joined_ogg_with_one_serial_number_is_read_as_documented(tmp_path: Path, subtype: str) -> None:
    long, short = (
        write(tmp_path / "x", noise(s, 48_000), 48_000, format="OGG", subtype=subtype).read_bytes() for s in (2.0, 1.0)
    )
    renumbered = [b"".join(with_serial(page, b"same") for page in split_ogg(part)) for part in (long, short)]
    (tmp_path / "x.ogg").write_bytes(b"".join(renumbered))
    assert len(audio.read(tmp_path / "x.ogg")) == 16_000
    (tmp_path / "x.ogg").write_bytes(b"".join(reversed(renumbered)))
    with pytest.raises(AudioError, match=r"x.ogg: decoding broke off at 1\.00\d s of 2\.000 s"):
        audio.read(tmp_path / "x.ogg")


def split_ogg(data: bytes) -> list[bytes]:
    pages, at = [], 0
    while at < len(data):
        num_segments = data[at + 26]
        size = 27 + num_segments + sum(data[at + 27 : at + 27 + num_segments])
        pages.append(data[at : at + size])
        at += size
    return pages


def with_granule(page: bytes, less: int) -> bytes:
    (granule,) = struct.unpack("<q", page[6:14])
    return with_checksum(page[:6] + struct.pack("<q", granule - less) + page[14:])


def with_serial(page: bytes, serial: bytes) -> bytes:
    return with_checksum(page[:14] + serial + page[18:])


def with_checksum(page: bytes) -> bytes:
    page = page[:22] + bytes(4) + page[26:]
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return page[:22] + struct.pack("<I", crc) + page[26:]


# ---- chunks


@pytest.mark.parametrize("name", LONG_FILES)
def test_read_is_the_concatenation_of_stream(long_files: Path, name: str) -> None:
    path = long_files / LONG_FILES[name][0]
    chunks = list(audio.stream(path))
    assert len(chunks) > 1
    assert all(chunk.size and chunk.ndim == 1 and chunk.dtype == np.float32 for chunk in chunks)
    assert np.array_equal(np.concatenate(chunks), audio.read(path))


def test_chunks_stay_small_whatever_the_rate_and_channels() -> None:
    for shape, rate in [((300_000,), 1_000), ((300_000, 2), 44_100), ((20_000, 40), 16_000)]:
        for chunk in audio.stream(np.zeros(shape, np.float32), rate):
            assert chunk.nbytes <= 2**20


def test_chunks_of_an_array_are_copies() -> None:
    x = np.zeros(1_000, np.float32)
    next(iter(audio.stream(x, 16_000)))[:] = 1
    assert not x.any()


@pytest.mark.parametrize("subtype", ["PCM_16", "VORBIS"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, subtype: str) -> None:
    container = "WAV" if subtype == "PCM_16" else "OGG"
    path = write(tmp_path / "x", np.zeros((8_000 * 300, 2), np.int16), 8_000, format=container, subtype=subtype)
    next(audio.stream(path)).sum()
    tracemalloc.start()
    total = sum(chunk.size for chunk in audio.stream(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 300 * 16_000
    assert peak < 6e6


def test_bad_options_are_refused_before_the_first_chunk() -> None:
    with pytest.raises(OptionError, match="duration_s: 0"):
        audio.stream("missing.wav", duration_s=0)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files through /proc")
def test_no_file_stays_open(long_files: Path, tmp_path: Path) -> None:
    def num_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    (tmp_path / "text.wav").write_text("not audio\n" * 50)
    audio.read(long_files / "long.m4a", duration_s=0.1)
    before = num_open()
    for name, _ in LONG_FILES.values():
        with closing(audio.stream(long_files / name)) as chunks:
            next(chunks)
        with closing(audio.stream(NoSeek((long_files / name).read_bytes()), start_s=11.5)) as chunks:
            next(chunks)
        audio.probe(long_files / name)
        with pytest.raises(AudioError, match="nothing at start_s=1000"):
            audio.read(long_files / name, start_s=1000)
    with pytest.raises(AudioError, match="cannot be decoded"):
        audio.read(tmp_path / "text.wav")
    assert num_open() == before


def test_threads_do_not_disturb_each_other(long_files: Path) -> None:
    paths = [long_files / name for name, _ in LONG_FILES.values()][2:9]
    alone = [audio.read(path, duration_s=4.0) for path in paths]
    together: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        together[i] = audio.read(paths[i % len(paths)], duration_s=4.0)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2 * len(paths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(together[i], alone[i % len(paths)]) for i in range(2 * len(paths)))


# ---- windows


WINDOWS = [(0.0, 1.0), (0.3, 0.5), (1.23456, 2.0), (4.9999, 0.001), (11.03, 1.0), (12.51, None), (12.0, 99.0)]


@pytest.mark.parametrize("name", LONG_FILES)
def test_window_equals_the_slice_of_the_whole(long_files: Path, name: str) -> None:
    path = long_files / LONG_FILES[name][0]
    whole = audio.read(path)
    for start_s, duration_s in WINDOWS:
        stop = None if duration_s is None else round((start_s + duration_s) * 16_000)
        expected = whole[round(start_s * 16_000) : stop]
        window = audio.read(path, start_s=start_s, duration_s=duration_s)
        assert window.shape == expected.shape, (start_s, duration_s)
        np.testing.assert_allclose(window, expected, rtol=0, atol=WINDOW_TOLERANCE, err_msg=f"{start_s}, {duration_s}")


@pytest.mark.parametrize("rate", [1_000, 8_000, 11_025, 15_999, 16_000, 22_050, 44_056, 48_000, 192_000])
def test_window_of_an_array_equals_the_slice_at_every_rate(rate: int) -> None:
    x = np.random.default_rng(2).uniform(-1, 1, 4 * rate + 1).astype(np.float32)
    whole = audio.read(x, rate)
    for start_s, duration_s in [(0.0, 0.01), (0.05, 1.0), (1.5, 0.7), (2.00003, 1.0), (3.99, None), (4.0, 1.0)]:
        stop = None if duration_s is None else round((start_s + duration_s) * 16_000)
        expected = whole[round(start_s * 16_000) : stop]
        if not expected.size:
            continue
        window = audio.read(x, rate, start_s=start_s, duration_s=duration_s)
        assert window.shape == expected.shape
        np.testing.assert_allclose(window, expected, rtol=0, atol=SOXR_TOLERANCE)


def test_window_where_aac_substitutes_noise_keeps_its_place(tmp_path: Path) -> None:
    x = np.random.default_rng(3).uniform(-0.5, 0.5, (44_100 * 13, 2)).astype(np.float32)
    path = encode(tmp_path / "x.m4a", x, aac_pns="1", b="48000")
    whole = audio.read(path)[179_200:195_200]
    window = audio.read(path, start_s=11.2, duration_s=1.0)
    assert window.shape == whole.shape
    spectra = [np.abs(np.fft.rfft(y.reshape(-1, 1_000))).mean(axis=0) for y in (whole, window)]
    np.testing.assert_allclose(spectra[0][20:400], spectra[1][20:400], rtol=0.9)
    low = [np.fft.irfft(np.fft.rfft(y)[:2_000], len(y)) for y in (whole, window)]
    assert np.corrcoef(*low)[0, 1] > 0.99


@pytest.mark.parametrize("name", ["long.wav", "long.flac", "long.ogg", "long.m4a", "long.webm"])
def test_window_seeks_instead_of_reading_what_comes_before(long_files: Path, tmp_path: Path, name: str) -> None:
    class Counting(io.BytesIO):
        total = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.total += len(data)
            return data

    path, start_s = long_files / name, 12.0
    if name == "long.ogg":  # libsndfile looks for places in Ogg in steps of 64 KiB
        path, start_s = tmp_path / name, 44.0
        write(path, noise(45.0, 44_100, 2), 44_100, format="OGG", subtype="VORBIS")
    file = Counting(path.read_bytes())
    audio.read(file, start_s=start_s, duration_s=0.2)
    assert file.total < 0.6 * len(file.getvalue())


@pytest.mark.parametrize("name", LONG_FILES)
def test_start_beyond_the_end_names_the_duration(long_files: Path, name: str) -> None:
    for start_s in (14.0, 1e6):
        with pytest.raises(
            AudioError, match=rf"nothing at start_s={re.escape(f'{start_s:g}')}: it is 1[23]\.\d\d\d s long; expected"
        ):
            audio.read(long_files / LONG_FILES[name][0], start_s=start_s)


def test_start_at_the_end_is_beyond_it() -> None:
    with pytest.raises(AudioError, match=r"<array>: nothing at start_s=1: it is 1\.000 s long"):
        audio.read(np.zeros(16_000, np.float32), 16_000, start_s=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_s": -0.1}, "start_s: -0.1; expected seconds"),
        ({"start_s": math.nan}, "start_s: nan; expected seconds"),
        ({"start_s": math.inf}, "start_s: inf; expected seconds"),
        ({"duration_s": 0.0}, "duration_s: 0.0; expected seconds above 0"),
        ({"duration_s": -1.0}, "duration_s: -1.0; expected seconds above 0"),
        ({"duration_s": math.nan}, "duration_s: nan; expected seconds above 0"),
        ({"duration_s": 1e-6}, "duration_s: 1e-06 is no whole sample"),
    ],
)
def test_windows_that_make_no_sense_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        audio.read(np.zeros(100, np.float32), 16_000, **arguments)


# ---- file objects


class NoSeek(io.RawIOBase):
    """A pipe."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)


@pytest.mark.parametrize("name", LONG_FILES)
def test_file_objects_and_pipes_equal_the_path(long_files: Path, name: str) -> None:
    path = long_files / LONG_FILES[name][0]
    expected = audio.read(path, start_s=11.0, duration_s=0.5)
    file = io.BytesIO(path.read_bytes())
    file.seek(1_000)
    assert np.array_equal(audio.read(file, start_s=11.0, duration_s=0.5), expected)
    assert np.array_equal(audio.read(file, start_s=11.0, duration_s=0.5), expected)
    assert not file.closed
    assert np.array_equal(audio.read(NoSeek(path.read_bytes()), start_s=11.0, duration_s=0.5), expected)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipe_is_read_like_a_stream(long_files: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = (long_files / "long.flac").read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    y = audio.read(pipe, duration_s=0.5)
    writer.join()
    assert np.array_equal(y, audio.read(long_files / "long.flac", duration_s=0.5))


def test_temporary_files_are_read(long_files: Path) -> None:
    with tempfile.TemporaryFile() as file:
        file.write((long_files / "long.m4a").read_bytes())
        assert np.array_equal(audio.read(file, duration_s=0.5), audio.read(long_files / "long.m4a", duration_s=0.5))


@pytest.mark.parametrize("name", ["long.wav", "long.ogg", "long.flac", "long.mp3", "long.webm"])
def test_errors_of_a_file_object_are_not_taken_for_its_end(
    long_files: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    class Failing(io.BytesIO):
        num_reads = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.num_reads += 1
            if self.num_reads > 6:
                raise OSError("the net is down")
            return super().read(size)

    with pytest.raises(AudioError, match=r"<stream>: .*the net is down") as caught:
        audio.read(Failing((long_files / name).read_bytes()))
    assert isinstance(caught.value.__cause__, OSError)
    assert capfd.readouterr().err == ""


def test_full_disk_while_copying_a_pipe_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(AudioError, match=r"<stream>: cannot be read \(.*No space left.*temporary files"):
        audio.read(NoSeek(b"RIFF"))


@pytest.mark.parametrize("source", [None, 3, [0.1, 0.2], b"RIFF", io.StringIO("text")])
def test_what_is_no_source_says_what_would_be(source: Any) -> None:
    with pytest.raises(AudioError, match="is not audio; expected a path, a file opened with mode 'rb' or a NumPy"):
        audio.read(source)


def test_sample_rate_goes_with_arrays_only(long_files: Path) -> None:
    with pytest.raises(OptionError, match="sample_rate: None was given with an array; expected its rate"):
        audio.read(np.zeros(10, np.float32))
    with pytest.raises(OptionError, match="sample_rate: 44100 was given with a file"):
        audio.read(long_files / "long.wav", 44_100)


# ---- what is wrong with bad input


def wav(data: bytes, promised: int | None = None, riff: int | None = None, rate: int = 16_000) -> bytes:
    size = len(data) if promised is None else promised
    header = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    whole = 36 + len(data) if riff is None else riff
    return b"RIFF" + struct.pack("<I", whole) + b"WAVEfmt " + header + b"data" + struct.pack("<I", size) + data


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.wav", b"", r"empty.wav: empty file \(0 bytes\)"),
        ("empty.mp3", b"", r"empty.mp3: empty file \(0 bytes\)"),
        ("header.wav", wav(b""), r"header.wav: 0 samples \(WAV PCM_16\); expected at least 1"),
        ("text.wav", b"this is not audio\n" * 100, r"text.wav: cannot be decoded \(FFmpeg: Invalid data"),
        ("random.wav", np.random.default_rng(0).bytes(50_000), "random.wav: cannot be decoded"),
        ("random.mp3", np.random.default_rng(1).bytes(50_000), "random.mp3: cannot be decoded"),
        ("random.ogg", b"OggS\0" + np.random.default_rng(2).bytes(50_000), "random.ogg: "),
        ("zeros.flac", bytes(10_000), "zeros.flac: (cannot be decoded|0 samples)"),
        ("head.wav", wav(b"\0\0" * 100)[:20], r"head.wav: truncated: its header ends before any audio"),
        (
            "form.wav",
            wav(b"\0\0").replace(b"\x01\0\x01\0", b"\x77\x77\x01\0"),
            r"form.wav: .*decoded \(libsndfile: .* FFmpeg: ",
        ),
        ("short.wav", wav(b"\0\0" * 100)[:-30], "short.wav: truncated: 170 of the 200 bytes of audio"),
        ("short.wav", wav(b"\0\0" * 100)[:44], "short.wav: truncated: 0 of the 200 bytes of audio"),
        ("playlist.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "playlist.m3u8: "),
    ],
)
def test_files_that_are_not_audio_say_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    for function in (audio.read, audio.probe):
        with pytest.raises(AudioError, match=message):
            function(tmp_path / name)
    with pytest.raises(AudioError, match=message.replace(name, "<stream>")):
        audio.read(io.BytesIO(content))
    assert capfd.readouterr() == ("", "")


def test_missing_file_and_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"gone\.wav: no such file; expected an audio file") as caught:
        audio.read(tmp_path / "gone.wav")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(AudioError, match=r"is a directory; expected an audio file. Name the files in it"):
        audio.read(tmp_path)
    with pytest.raises(AudioError, match="'': no such file"):
        audio.read("")
    with pytest.raises(AudioError, match="cannot be opened"):
        audio.read("nul\0byte.wav")


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="needs a device")
def test_device_says_so() -> None:
    with pytest.raises(AudioError, match="/dev/null: is a device; expected an audio file"):
        audio.read("/dev/null")


def test_unreadable_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.wav").write_bytes(wav(b"\0\0"))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match=r"x.wav: permission denied; expected a file that this user can read. Change"):
        audio.read(tmp_path / "x.wav")


def test_names_that_are_too_long_say_so(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300 + ".wav")
    for function in (audio.read, audio.probe, lambda path: next(audio.stream(path))):
        with pytest.raises(AudioError, match=r"x{300}\.wav'?: (cannot be opened \(.*too long|no such file)") as caught:
            function(path)
        assert isinstance(caught.value.__cause__, OSError)


def test_folder_that_may_not_be_searched_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(Path, "stat", refuse)
    for function in (audio.read, audio.probe, lambda path: next(audio.stream(path))):
        with pytest.raises(AudioError, match=r"x.wav: permission denied; expected .*, and `chmod u\+x` for its folder"):
            function(tmp_path / "x.wav")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="this user may search everything")
def test_folder_without_the_mode_for_searching_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "x.wav").write_bytes(wav(b"\0\0"))
    folder.chmod(0)
    try:
        with pytest.raises(AudioError, match=r"x.wav: permission denied"):
            audio.read(folder / "x.wav")
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("name", ["long.wav", "long.flac", "long.opus", "long.mp3", "long.m4a", "long.webm"])
def test_names_that_are_not_unicode_are_read(long_files: Path, tmp_path: Path, name: str) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9" + os.fsencode(Path(name).suffix))
    try:
        shutil.copy(long_files / name, path)
    except (OSError, UnicodeError):
        pytest.skip("this file system refuses names that are not Unicode")
    expected = audio.read(long_files / name, start_s=11.0, duration_s=0.5)
    assert np.array_equal(audio.read(path, start_s=11.0, duration_s=0.5), expected)
    assert np.array_equal(audio.read(Path(path), start_s=11.0, duration_s=0.5), expected)
    assert audio.probe(path) == audio.probe(long_files / name)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="this user may read everything")
def test_unreadable_mode_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(wav(b"\0\0"))
    (tmp_path / "x.wav").chmod(0)
    with pytest.raises(AudioError, match="permission denied"):
        audio.read(tmp_path / "x.wav")


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF"])
def test_truncated_pcm_is_noticed_and_whole_is_not(tmp_path: Path, container: str) -> None:
    path = write(tmp_path / "my clip", noise(1.0, 16_000), 16_000, format=container, subtype="PCM_16")
    assert len(audio.read(path)) == 16_000
    path.write_bytes(path.read_bytes()[:-5_001])
    for function in (audio.read, audio.probe):
        with pytest.raises(AudioError, match=r"truncated: 2[67],\d{3} of the 32,0\d\d bytes.*ffmpeg -i '.*my clip'"):
            function(path)


@pytest.mark.parametrize("name", ["long.ogg", "long.opus", "long.mp3", "long.flac", "long.m4a", "fast.m4a"])
def test_truncated_compressed_file_is_noticed(
    long_files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    if name == "fast.m4a":
        data = encode(tmp_path / name, noise(LONG_S, 44_100, 2), container="faststart").read_bytes()
    else:
        data = (long_files / name).read_bytes()
    for share in (0.4, 0.9):
        (tmp_path / name).write_bytes(data[: int(len(data) * share)])
        with pytest.raises(AudioError, match=rf"{name}: (truncated|decoding broke off at|cannot be decoded)"):
            audio.read(tmp_path / name)
    assert capfd.readouterr().err == ""


def test_mp4_that_ends_between_frames_is_noticed(
    long_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header is at the start and all that is there decodes."""
    from audioset._decode.ffmpeg import FFmpegDecoder

    decode = FFmpegDecoder._decoded
    monkeypatch.setattr(FFmpegDecoder, "_decoded", lambda self, *ahead: itertools.islice(decode(self, *ahead), 200))
    with pytest.raises(
        AudioError, match=r"long.m4a: truncated: 4\.6\d\d s of the 13\.0\d\d s that its header promises"
    ):
        audio.read(long_files / "long.m4a")


@pytest.mark.parametrize("promised", [0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF, 0x7FFFF000, 0x80000000])
def test_wav_written_to_a_pipe_is_whole(tmp_path: Path, promised: int) -> None:
    data = (noise(0.5, 16_000)[:, 0] * 32_767).astype("<i2")
    (tmp_path / "x.wav").write_bytes(wav(data.tobytes(), promised, riff=min(promised + 36, 0xFFFFFFFF)))
    assert np.array_equal(audio.read(tmp_path / "x.wav"), data.astype(np.float32) / 32_768)


def test_wav_without_samples_does_not_read_the_chunk_behind_as_sound(tmp_path: Path) -> None:
    tail = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Some software\0"
    (tmp_path / "x.wav").write_bytes(wav(b"", riff=36 + len(tail)) + tail)
    with pytest.raises(AudioError, match="0 samples"):
        audio.read(tmp_path / "x.wav")


def test_flac_written_to_a_pipe_is_whole(long_files: Path, tmp_path: Path) -> None:
    flac = bytearray((long_files / "long.flac").read_bytes())
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)  # total samples: unknown
    (tmp_path / "x.flac").write_bytes(flac)
    assert audio.probe(tmp_path / "x.flac").num_samples is None
    assert np.array_equal(audio.read(tmp_path / "x.flac"), audio.read(long_files / "long.flac"))


@pytest.mark.parametrize("name", ["long.flac", "long.mp3", "long.m4a"])
def test_damage_in_the_middle_says_where(
    long_files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    data = bytearray((long_files / name).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4_000] = bytes(4_000)
    (tmp_path / name).write_bytes(data)
    chunks = audio.stream(tmp_path / name)
    with pytest.raises(
        AudioError, match=rf"{name}: decoding broke off at \d\.\d\d\d s of 13\.\d\d\d s .*ffmpeg -i"
    ) as caught:
        list(chunks)
    assert caught.value.__cause__ is not None
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("error", [IndexError("list index out of range"), OverflowError("too large"), KeyError("x")])
@pytest.mark.parametrize("name", ["long.wav", "long.m4a"])
def test_whatever_a_library_raises_names_the_file(
    long_files: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    from audioset._decode.ffmpeg import FFmpegDecoder
    from audioset._decode.libsndfile import SoundFileDecoder

    planes = FFmpegDecoder._planes

    def fail(*_: Any, **__: Any) -> None:
        raise error

    path, reason = long_files / name, re.escape(f"{type(error).__name__}: {error}")
    with monkeypatch.context() as patch:
        patch.setattr(sf.SoundFile, "read", fail)
        patch.setattr(FFmpegDecoder, "_planes", lambda self, frame, at: fail() if at else planes(self, frame, at))
        with pytest.raises(AudioError, match=rf"{name}: decoding broke off at 0\.\d\d\d s .*\({reason}\)") as caught:
            audio.read(path)
        assert caught.value.__cause__ is error
    with monkeypatch.context() as patch:
        patch.setattr(SoundFileDecoder, "__init__", fail)
        patch.setattr(av, "open", fail)
        with pytest.raises(AudioError, match=rf"{name}: cannot be decoded \(.*FFmpeg: {reason}\)") as caught:
            audio.probe(path)
        assert caught.value.__cause__ is error


def test_stream_that_damage_conjures_up_leaves_what_the_first_one_holds(tmp_path: Path) -> None:
    """PyAV stumbles over it when it comes to the end; or does not, by what is in memory it did not initialise."""
    path = encode(tmp_path / "x.ts", noise(1.5, 22_050), 22_050, "mp2")
    data = bytearray(path.read_bytes())
    for at in range(len(data) * 3 // 4 // 188 * 188, len(data), 188):
        if data[at + 1] & 0x5F == 0x41:  # the start of a packet of sound
            data[at + 2] = 0x7E  # is given to another stream
    path.write_bytes(data)
    y = audio.read(path)
    assert 16_000 < len(y) < 1.5 * 16_000
    assert all(np.array_equal(audio.read(source), y) for source in (path, io.BytesIO(data)) for _ in range(5))


@pytest.mark.parametrize("length", [2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("as_path", [True, False])
def test_chunks_longer_than_any_file_say_so(tmp_path: Path, as_path: bool, length: int) -> None:
    path = write(tmp_path / "x.w64", noise(0.1, 16_000), 16_000, format="W64", subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[56:64] = struct.pack("<Q", length)  # of the first chunk
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"(x.w64|<stream>): truncated: its header ends before any audio"):
        audio.read(path if as_path else io.BytesIO(data))


def test_tags_and_junk_behind_an_mp3_are_ignored(long_files: Path, tmp_path: Path) -> None:
    data = (long_files / "long.mp3").read_bytes()
    for junk in (b"TAG" + bytes(125), np.random.default_rng(5).bytes(2_000), bytes(2_000)):
        (tmp_path / "x.mp3").write_bytes(data + junk)
        assert len(audio.read(tmp_path / "x.mp3")) == LONG_S * 16_000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused_with_their_place(tmp_path: Path, bad: float) -> None:
    x = noise(20.0, 16_000)[:, 0].copy()
    x[16_000 * 15] = bad
    path = write(tmp_path / "x.wav", x, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"x.wav: NaN or Inf sample at 15\.0000 s \(frame 240,000\); expected finite"):
        audio.read(path)
    with pytest.raises(AudioError, match=r"<array>: NaN or Inf sample at 15\.0000 s"):
        audio.read(x[:, np.newaxis].repeat(2, axis=1), 16_000)
    with pytest.raises(AudioError, match=r"NaN or Inf sample at 15\.0000 s"):
        audio.read(path, start_s=14.5, duration_s=2.0)
    assert len(audio.read(path, start_s=1.0, duration_s=2.0)) == 32_000
    chunks = audio.stream(path)
    assert next(chunks).size
    with pytest.raises(AudioError, match="NaN or Inf"):
        list(chunks)


def test_float64_beyond_float32_is_refused_without_a_warning() -> None:
    with pytest.raises(AudioError, match=r"NaN or Inf sample at 0\.0003 s"):
        audio.read(np.array([0, 0, 0, 0, 1e300]), 16_000)


def test_loud_samples_are_not_taken_for_inf() -> None:
    assert np.array_equal(audio.read(np.full(10, 3e38, np.float32), 16_000), np.full(10, 3e38, np.float32))


@pytest.mark.parametrize(("name", "codec"), [("x.mp4", "mpeg4"), ("x.mkv", "mpeg4")])
def test_video_without_sound_says_so(tmp_path: Path, name: str, codec: str) -> None:
    encode(tmp_path / name, None, video_s=1.0)
    for function in (audio.read, audio.probe):
        with pytest.raises(AudioError, match=rf"{name}: no audio stream \(it holds video\); expected.*ffprobe"):
            function(tmp_path / name)


def test_picture_has_no_sound(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "x.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 8, 8, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())
    with pytest.raises(AudioError, match="no audio stream"):
        audio.read(tmp_path / "x.png")


@pytest.mark.parametrize("rate", [1, 999, 1_000_001])
def test_rates_out_of_range_are_refused(tmp_path: Path, rate: int) -> None:
    message = rf"sample rate {rate:,} Hz; expected 1,000 to 1,000,000 Hz. Check"
    with pytest.raises(SampleRateError, match="<array>: " + message):
        audio.read(np.zeros(100, np.float32), rate)
    (tmp_path / "x.wav").write_bytes(wav(b"\0\0" * 100, rate=rate))
    for function in (audio.read, audio.probe):
        with pytest.raises(SampleRateError, match="x.wav: " + message):
            function(tmp_path / "x.wav")


@pytest.mark.parametrize("rate", [0, -16_000, 44_100.5, math.nan, "CD"])
def test_rates_that_are_no_rate_are_refused(rate: Any) -> None:
    with pytest.raises(SampleRateError, match=r"<array>: sample rate .*; expected"):
        audio.read(np.zeros(100, np.float32), rate)


@pytest.mark.parametrize("rate", [44_100.0, np.int64(44_100), np.float32(44_100)])
def test_whole_rates_of_any_type_are_accepted(rate: Any) -> None:
    assert len(audio.read(np.zeros(44_100, np.float32), rate)) == 16_000


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 16_000), np.float32), r"shape \(2, 16000\) looks like \(channels, n\).*samples\.T"),
        (np.zeros((48, 2_000), np.float32), r"shape \(48, 2000\) looks like \(channels, n\)"),
        (np.zeros((2, 3, 4), np.float32), r"shape \(2, 3, 4\); expected \(n,\) or \(n, channels\)"),
        (np.zeros((), np.float32), r"shape \(\); expected"),
        (np.zeros(0, np.float32), r"0 samples \(shape \(0,\)\); expected at least 1"),
        (np.zeros((16, 0), np.float32), r"0 samples \(shape \(16, 0\)\)"),
        (np.zeros(16, np.int64), "samples of type int64; expected int16, int32, uint8, float32 or float64"),
        (np.zeros(16, np.complex64), "samples of type complex64"),
        (np.zeros(16, bool), "samples of type bool"),
    ],
)
def test_arrays_that_are_no_sound_are_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(AudioError, match="<array>: " + message):
        audio.read(samples, 16_000)


# ---- probe


@pytest.mark.parametrize("name", LONG_FILES)
def test_probe_tells_what_read_gives(long_files: Path, name: str) -> None:
    path = long_files / LONG_FILES[name][0]
    info = audio.probe(path)
    y = audio.read(path)
    assert info.channels == 2
    assert info.sample_rate == (48_000 if name in ("opus", "webm") else 44_100)
    assert info.duration_s == pytest.approx(LONG_S, abs=1.0)
    if name in ("wav", "flac", "vorbis", "opus"):
        assert info.num_samples == len(y)
        assert info.duration_s == LONG_S
    else:
        assert info.num_samples is None
    assert audio.probe(io.BytesIO(path.read_bytes())) == info


def test_probe_names_container_and_codec(long_files: Path) -> None:
    formats = {name: audio.probe(long_files / file).format for name, (file, _) in LONG_FILES.items()}
    assert formats["wav"] == "WAV PCM_16"
    assert formats["vorbis"] == "OGG VORBIS"
    assert formats["mp3"] == "MP3 MP3"
    assert formats["m4a"] == formats["mp4 with video"] == "MOV AAC"
    assert formats["webm"].startswith("MATROSKA ")


def test_audio_info_is_frozen(long_files: Path) -> None:
    with pytest.raises(FrozenInstanceError, match="duration_s"):
        audio.probe(long_files / "long.wav").duration_s = 1.0  # type: ignore[misc]


def test_probe_of_an_array_is_refused() -> None:
    with pytest.raises(OptionError, match="source: probe was given an array; expected a path"):
        audio.probe(np.zeros(10))


# ---- real recordings


def some_recordings(folder: Path) -> Iterator[Path]:
    for pattern in ("esc10/*/1-*.ogg", "speech_digits/*_0.flac", "music_and_nature/*.ogg", "instruments/*/*.ogg"):
        yield from sorted(folder.glob(pattern))[::17][:4]


def test_real_recordings_equal_the_plain_way(data_dir: Path) -> None:
    paths = list(some_recordings(data_dir))
    assert len(paths) >= 10
    for path in paths:
        samples, rate = sf.read(path, dtype="float32", always_2d=True)
        y = audio.read(path)
        assert audio.probe(path).num_samples == len(y) == num_samples(len(samples), rate)
        np.testing.assert_allclose(y, oracle(samples, rate), rtol=0, atol=SOXR_TOLERANCE)


def test_windows_of_real_recordings_equal_the_slice(data_dir: Path) -> None:
    for path in some_recordings(data_dir):
        whole = audio.read(path)
        middle = len(whole) / 2 / 16_000
        window = audio.read(path, start_s=middle, duration_s=0.5)
        first = round(middle * 16_000)
        expected = whole[first : round((middle + 0.5) * 16_000)]
        np.testing.assert_allclose(window, expected, rtol=0, atol=WINDOW_TOLERANCE)

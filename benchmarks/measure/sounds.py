"""Inputs of benchmarks, made from the clips of a folder: the same sound in other formats, lengths and numbers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from audioset import audio
from audioset.errors import AudioSetError
from audioset.inputs import expand
from measure.protocol import NotAvailableError

RATE_HZ = 44_100
OPUS_RATE_HZ = 48_000
AAC_BIT_RATE = 128_000
# Sound that longer inputs repeat.
_LOOP_S = 60

Waveform = npt.NDArray[np.float32]


def readable(folder: str) -> tuple[list[str], float, list[str]]:
    """Return the audio files below a folder, their seconds, and those left out because they cannot be read.

    Every file is read through, which also brings it into the disk cache.
    """
    files, left_out = [], []
    samples = 0
    for file in expand([folder]).files:
        try:
            samples += sum(len(chunk) for chunk in audio.stream(file))
            files.append(file)
        except AudioSetError:
            left_out.append(file)
    if not files:
        raise SystemExit(f"{folder}: no audio file that can be read; expected a folder of recordings")
    return files, samples / audio.SAMPLE_RATE_HZ, left_out


def loop(files: Sequence[str], seconds: float = _LOOP_S) -> Waveform:
    """Return sound from the files, one after another, mono at 44.1 kHz; fewer seconds where they hold less."""
    parts: list[Waveform] = []
    wanted = round(seconds * RATE_HZ)
    for file in files:
        try:
            planes, rate = soundfile.read(file, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:  # a format of FFmpeg's
            planes, rate = audio.read(file)[:, np.newaxis], audio.SAMPLE_RATE_HZ
        parts.append(np.asarray(soxr.resample(planes.mean(axis=1), rate, RATE_HZ), np.float32))
        if sum(map(len, parts)) >= wanted:
            break
    return np.clip(np.concatenate(parts)[:wanted], -1, 1)


def repeated(sound: Waveform, start: int, length: int) -> Waveform:
    """Return `length` samples from `start` on of the sound, repeated for ever."""
    return np.take(sound, np.arange(start, start + length), mode="wrap")


def _libsndfile(format: str, subtype: str, rate: int = RATE_HZ) -> Callable[[Path, Waveform], None]:  # noqa: A002
    def write(path: Path, clip: Waveform) -> None:
        with soundfile.SoundFile(path, "w", rate, 1, subtype, format=format) as file:
            for at in range(0, len(clip), rate):  # libsndfile's Vorbis encoder fails on long pieces
                file.write(clip[at : at + rate])

    return write


def _aac(path: Path, clip: Waveform) -> None:
    with av.open(str(path), "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=RATE_HZ, layout="mono", bit_rate=AAC_BIT_RATE)
        frame = av.AudioFrame.from_ndarray(clip[np.newaxis], format="fltp", layout="mono")
        frame.sample_rate = RATE_HZ
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


FORMATS: dict[str, tuple[str, int, Callable[[Path, Waveform], None]]] = {
    "WAV": (".wav", RATE_HZ, _libsndfile("WAV", "PCM_16")),
    "FLAC": (".flac", RATE_HZ, _libsndfile("FLAC", "PCM_16")),
    "Vorbis": (".ogg", RATE_HZ, _libsndfile("OGG", "VORBIS")),
    "Opus": (".opus", OPUS_RATE_HZ, _libsndfile("OGG", "OPUS", OPUS_RATE_HZ)),
    "MP3": (".mp3", RATE_HZ, _libsndfile("MP3", "MPEG_LAYER_III")),
    "AAC": (".m4a", RATE_HZ, _aac),
}


def clips_in(format: str, sound: Waveform, folder: Path, num_clips: int, clip_s: float) -> list[str]:  # noqa: A002
    """Write so many clips in a format and return their paths; NotAvailableError where it cannot be written here."""
    suffix, rate, write = FORMATS[format]
    folder.mkdir()
    length = round(clip_s * RATE_HZ)
    paths = []
    for number in range(num_clips):
        clip = repeated(sound, number * length, length)
        path = folder / f"{number:04d}{suffix}"
        try:
            write(path, clip if rate == RATE_HZ else np.asarray(soxr.resample(clip, RATE_HZ, rate), np.float32))
        except (soundfile.LibsndfileError, ValueError, av.FFmpegError) as error:
            raise NotAvailableError(f"cannot be written here ({error})") from error
        paths.append(str(path))
    return paths


def many(files: Sequence[str], number: int, folder: Path) -> Path:
    """Return a folder of so many files, which are the given ones under as many names as it takes."""
    folder.mkdir()
    for index, file in zip(range(number), _forever(files), strict=False):
        path = folder / f"{index:05d}{Path(file).suffix}"
        try:
            os.link(Path(file).resolve(), path)
        except OSError:  # another file system
            shutil.copyfile(file, path)
    return folder


def _forever(files: Sequence[str]) -> Iterator[str]:
    for number in count():
        yield files[number % len(files)]


def write_long(path: Path, sound: Waveform, hours: float) -> None:
    """Write hours of sound as FLAC at 44.1 kHz, a minute at a time."""
    total = round(hours * 3600 * RATE_HZ)
    piece = 60 * RATE_HZ
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16", format="FLAC") as file:
        for start in range(0, total, piece):
            file.write(repeated(sound, start, min(piece, total - start)))

"""Random mixtures of recordings and synthetic sound: what a student network is shown.

Everything is a function of the sources, a seed and the number of a block, so any block can be made again at any time,
by any process, in any order.
"""

from __future__ import annotations

import fnmatch
import io
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset.errors import OptionError
from audioset.features import EXAMPLE_SAMPLES, NUM_MEL_BANDS, SAMPLE_RATE_HZ, Float32Array, examples

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aiff"})

# Figures are read out in each voice's own language, so one text serves them all.
_SPOKEN_TEXTS = ("1 2 3, 47, 1986.", "20:35, 8 + 5 = 13!", "310 740, 62? 9, 11, 55.")
_SPOKEN_LANGUAGES = """
    af ar bg bn ca cmn cs cy da de el en-gb en-us en-gb-scotland eo es es-419 et eu fa fi fr-fr ga gu he hi hr hu hy id
    is it ja ka kn ko la lt lv mk ml mr ms ne nl nb pa pl pt pt-br ro ru sk sl sq sr sv sw ta te tr uk ur vi yue
"""
_SPOKEN_VOICES = tuple(_SPOKEN_LANGUAGES.split())

Random = np.random.Generator


@dataclass(frozen=True)
class Group:
    """Recordings that belong together: those of one folder, or the synthetic voices.

    Attributes
    ----------
    name : str
        The folder's path below the folder given, or what made them.
    clips : tuple of ndarray of float32, each of shape (n,)
        Waveforms at 16 kHz.
    """

    name: str
    clips: tuple[Float32Array, ...]

    @property
    def duration_s(self) -> float:
        """Seconds of sound in all clips."""
        return sum(map(len, self.clips)) / SAMPLE_RATE_HZ


def find_recordings(folders: Sequence[Path], *, exclude: Sequence[str] = ()) -> list[tuple[Path, Path]]:
    """Return (folder, file) of every audio file below `folders`, sorted, without those that match `exclude`.

    A pattern is a shell pattern for the file's path from its folder on, the folder's own name first:
    `esc10/*/4-*` leaves out fold 4 of ESC-10.
    """
    found: list[tuple[Path, Path]] = []
    for folder in folders:
        if not folder.is_dir():
            raise OptionError(f"{folder}: not a folder; expected one that holds audio files to learn from")
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder.parent).as_posix()
            if path.suffix.lower() in AUDIO_SUFFIXES and not any(fnmatch.fnmatchcase(name, p) for p in exclude):
                found.append((folder, path))
    if not found:
        raise OptionError(f"{', '.join(map(str, folders))}: no audio file found; expected some to learn from")
    return found


def read_groups(recordings: Iterable[tuple[Path, Path]], read: Callable[[Path], Float32Array]) -> list[Group]:
    """Read recordings with `read` (file to 16 kHz mono) and group them by the folder that holds them."""
    groups = []
    for (root, parent), files in groupby(recordings, key=lambda found: (found[0], found[1].parent)):
        clips = tuple(clip for _, path in files if len(clip := read(path)))
        groups.append(Group(parent.relative_to(root.parent).as_posix(), clips))
    return groups


def spoken(voices: Sequence[str] = _SPOKEN_VOICES) -> Group:
    """Return figures read out by espeak-ng in many languages, three times a voice at different pitch and speed.

    Raises
    ------
    OptionError
        espeak-ng is not installed or lacks a voice.
    """
    import soundfile
    import soxr

    espeak = shutil.which("espeak-ng")
    if espeak is None:
        raise OptionError("espeak-ng: not found; expected it on the PATH. Install it, or leave synthetic voices out")
    clips = []
    for i, voice in enumerate(voices):
        for j, text in enumerate(_SPOKEN_TEXTS):
            pitch, speed = (25, 50, 80)[(i + j) % 3], (130, 165, 200)[j]
            command = [espeak, "-v", voice, "-p", str(pitch), "-s", str(speed), "--stdout", text]
            spoken = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 (no shell, our own text)
            if spoken.returncode != 0 or not spoken.stdout:
                raise OptionError(f"espeak-ng: voice {voice!r} failed; expected speech. {spoken.stderr.decode()[:200]}")
            # Written to a pipe, the header gives no length; read what is there as raw samples.
            at = spoken.stdout.index(b"data") + 8
            rate = int.from_bytes(spoken.stdout[24:28], "little")
            wave = soundfile.read(
                io.BytesIO(spoken.stdout[at:]),
                format="RAW", subtype="PCM_16", channels=1, samplerate=rate, endian="LITTLE", dtype="float32",
            )[0]  # fmt: skip
            clips.append(np.asarray(soxr.resample(wave, rate, SAMPLE_RATE_HZ), np.float32))
    return Group("espeak-ng", tuple(clips))


class Mixer:
    """Makes examples of random mixtures.

    A source is one of the groups, drawn in proportion to the square root of its duration (so that a long folder does
    not drown the others), or with probability `synthetic` a signal made on the spot. One to three sources, each at
    a random place, speed and gain, some of them backwards, are added, clipped and filtered.
    """

    def __init__(self, groups: Sequence[Group], *, seed: int, log_offset: float, synthetic: float = 0.08) -> None:
        if not groups and synthetic < 1:
            raise OptionError("groups: none given; expected recordings, or synthetic=1 for synthetic sound alone")
        self._groups = [group for group in groups if group.clips]
        weights = np.sqrt([group.duration_s for group in self._groups])
        self._probability = weights / weights.sum()
        self._seed = seed
        self._log_offset = log_offset
        self._synthetic = synthetic

    def block(self, index: int, size: int) -> Float32Array:
        """Return block number `index`: log-mel examples of `size` mixtures, float32, shape (size, 96, 64)."""
        rng = np.random.default_rng([self._seed, index])
        waveforms = np.concatenate([self._mixture(rng) for _ in range(size)])
        log_mel = examples(waveforms, hop_s=EXAMPLE_SAMPLES / SAMPLE_RATE_HZ, pad="none", log_offset=self._log_offset)
        return self._filtered(log_mel, rng)

    def _mixture(self, rng: Random) -> Float32Array:
        mixed = np.zeros(EXAMPLE_SAMPLES, np.float32)
        for i in range(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2])):
            source = synthesize(rng) if rng.random() < self._synthetic else self._excerpt(rng)
            # The first is about as loud as it was recorded, the others are mostly behind it.
            gain_db = rng.normal(0, 8) if i == 0 else rng.normal(-5, 9)
            mixed += source * np.float32(10 ** (min(gain_db, 20) / 20))
        return np.clip(mixed, -1, 1, out=mixed)

    def _excerpt(self, rng: Random) -> Float32Array:
        group = self._groups[rng.choice(len(self._groups), p=self._probability)]
        clip = group.clips[rng.integers(len(group.clips))]
        speed = 2 ** rng.uniform(-0.5, 0.5) if rng.random() < 0.7 else 1.0
        if rng.random() < 0.2:
            clip = clip[::-1]
        length = int(np.ceil(EXAMPLE_SAMPLES * speed)) + 1
        # At least a quarter of a second of the clip, or all of one that is shorter, is heard; the rest is silence.
        heard = min(len(clip), SAMPLE_RATE_HZ // 4)
        first, last = (
            (0, len(clip) - length)
            if len(clip) >= length and rng.random() < 0.85
            else (heard - length, len(clip) - heard)
        )
        start = int(rng.integers(min(first, last), max(first, last) + 1))
        piece = np.zeros(length, np.float32)
        piece[max(0, -start) : len(clip) - start] = clip[max(0, start) : start + length]
        if speed == 1.0:
            return piece[:EXAMPLE_SAMPLES]
        resampled = np.interp(np.arange(EXAMPLE_SAMPLES) * speed, np.arange(length), piece)
        return np.asarray(resampled, np.float32)

    def _filtered(self, log_mel: Float32Array, rng: Random) -> Float32Array:
        """Apply a smooth random equalizer to most of the examples, and a low or high pass to some."""
        offset = np.float32(self._log_offset)
        bands = np.arange(NUM_MEL_BANDS)
        for example in log_mel:
            gain_db = np.zeros(NUM_MEL_BANDS)
            if rng.random() < 0.8:
                gain_db += np.interp(bands, np.linspace(0, NUM_MEL_BANDS - 1, 8), rng.normal(0, 6, 8))
            if rng.random() < 0.15:
                edge, slope_db = rng.uniform(20, 60), rng.uniform(1, 6)
                gain_db -= slope_db * np.clip(bands - edge, 0, None)
            elif rng.random() < 0.15:
                gain_db -= rng.uniform(1, 4) * np.clip(rng.uniform(4, 24) - bands, 0, None)
            if gain_db.any():
                mel = np.maximum(np.exp(example) - offset, 0)
                example[:] = np.log(mel * (10 ** (gain_db / 20)).astype(np.float32) + offset)
        return log_mel


def synthesize(rng: Random) -> Float32Array:
    """Return 15,600 samples of one of the synthetic kinds of sound, peak at most about 0.5."""
    kind = _KINDS[rng.integers(len(_KINDS))]
    signal = kind(np.arange(EXAMPLE_SAMPLES) / SAMPLE_RATE_HZ, rng)
    peak = float(np.max(np.abs(signal)))
    level = 0.5 * 10 ** (-abs(rng.normal(0, 10)) / 20)
    return (signal * (level / peak if peak > 1e-9 else 0)).astype(np.float32)


Signal = npt.NDArray[Any]


def _hz(rng: Random, low: float = 60.0, high: float = 6000.0) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _silence(t: Signal, _: Random) -> Signal:
    return np.zeros_like(t)


def _noise(t: Signal, rng: Random) -> Signal:
    """Noise whose magnitude falls as f to a random power: white, pink, brown and between."""
    spectrum = np.fft.rfft(rng.standard_normal(len(t)))
    spectrum /= np.maximum(np.fft.rfftfreq(len(t), t[1]), 20.0) ** rng.uniform(0, 1.2)
    noise: Signal = np.fft.irfft(spectrum, len(t))
    return noise


def _gusts(t: Signal, rng: Random) -> Signal:
    """Noise that swells and fades."""
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.3, 25) * t + rng.uniform(0, 2 * np.pi))
    gusts: Signal = _noise(t, rng) * swell ** rng.uniform(0.5, 4)
    return gusts


def _tone(t: Signal, rng: Random) -> Signal:
    """A sine, or a harmonic tone with some vibrato."""
    pitch, depth, rate = _hz(rng), rng.choice([0.0, 0.01, 0.03]), rng.uniform(3, 8)
    phase = 2 * np.pi * pitch * t + depth * pitch / rate * np.sin(2 * np.pi * rate * t)
    harmonics = np.arange(1, 1 + min(rng.choice([1, 1, 6, 20]), int(7800 // pitch) or 1))
    tone: Signal = np.sin(np.outer(harmonics, phase)).T @ (1 / harmonics ** rng.uniform(0.5, 2))
    return tone


def _chirp(t: Signal, rng: Random) -> Signal:
    start, end = _hz(rng, 100), _hz(rng, 100)
    chirp: Signal = np.sin(2 * np.pi * np.cumsum(start * (end / start) ** (t / t[-1])) * t[1])
    return chirp


def _siren(t: Signal, rng: Random) -> Signal:
    low, high, rate = _hz(rng, 300, 900), _hz(rng, 900, 2500), rng.uniform(0.2, 6)
    sweep = 0.5 + 0.5 * np.sin(2 * np.pi * rate * t + rng.uniform(0, 2 * np.pi))
    phase = 2 * np.pi * np.cumsum(low + (high - low) * (sweep if rng.random() < 0.6 else np.round(sweep))) * t[1]
    siren: Signal = np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.2 * np.sin(3 * phase)
    return siren


def _bell(t: Signal, rng: Random) -> Signal:
    """Inharmonic partials, struck and dying away."""
    pitch, struck = _hz(rng, 150, 2500), rng.uniform(0, 0.5)
    since = np.maximum(t - struck, 0)
    signal = np.zeros_like(t)
    for ratio in (0.5, 1.0, 1.19, 1.56, 2.0, 2.51, 2.66, 3.01, 4.1):
        signal += (
            rng.uniform(0.2, 1) * np.sin(2 * np.pi * pitch * ratio * since) * np.exp(-since * ratio * rng.uniform(1, 6))
        )
    return signal * (t >= struck)


def _beeps(t: Signal, rng: Random) -> Signal:
    period, duty = rng.uniform(0.08, 0.6), rng.uniform(0.2, 0.8)
    tones = np.sin(2 * np.pi * _hz(rng, 350, 4000) * t)
    if rng.random() < 0.5:
        tones += np.sin(2 * np.pi * _hz(rng, 350, 4000) * t)
    beeps: Signal = tones * ((t / period + rng.random()) % 1 < duty)
    return beeps


def _strikes(t: Signal, rng: Random) -> Signal:
    """Short decaying hits: clicks, ticks, knocks and drums."""
    signal = np.zeros_like(t)
    period, decay, noisy = rng.uniform(0.05, 1.0), rng.uniform(10, 300), rng.random()
    pitch, regular = _hz(rng, 50, 5000), rng.random() < 0.6
    starts = np.arange(rng.uniform(0, period), t[-1], period) if regular else rng.uniform(0, t[-1], rng.integers(1, 12))
    for start in starts:
        since = np.maximum(t - start, 0)
        hit = noisy * rng.standard_normal(len(t)) + (1 - noisy) * np.sin(2 * np.pi * pitch * since)
        signal += (t >= start) * hit * np.exp(-decay * since) * rng.uniform(0.4, 1)
    return signal


_KINDS: tuple[Callable[[Signal, Random], Signal], ...] = (
    _silence, _noise, _gusts, _tone, _chirp, _siren, _bell, _beeps, _strikes,
)  # fmt: skip

"""Make the clips in this folder: speech by espeak-ng, everything else by the formulas below.

    python examples/make_clips.py [FOLDER]

Needs espeak-ng on the PATH, numpy and soundfile. The same versions of these give the same sound each time.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

SAMPLE_RATE_HZ = 22_050
PEAK = 0.7
SENTENCE = "The quick brown fox jumps over the lazy dog, while a small black bird watches them from the fence."
ANNOUNCEMENT = "First a siren, then a bell, then a telephone."

Waveform = npt.NDArray[np.float64]


def speech(text: str, *, voice: str = "en-gb") -> Waveform:
    """A sentence spoken by espeak-ng, whose own rate is 22,050 Hz."""
    if shutil.which("espeak-ng") is None:
        raise SystemExit("espeak-ng: not found on the PATH; expected it for the speech. Install it and run this again.")
    command = ["espeak-ng", "-v", voice, "-s", "160", "--stdout", text]
    spoken = subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603 - no shell, our own words
    waveform, sample_rate = soundfile.read(io.BytesIO(spoken))
    if sample_rate != SAMPLE_RATE_HZ:
        raise SystemExit(f"espeak-ng: speaks at {sample_rate} Hz; expected {SAMPLE_RATE_HZ} Hz.")
    return np.asarray(waveform, dtype=np.float64)


def siren(duration_s: float, *, tones_hz: tuple[float, float] = (450.0, 600.0), period_s: float = 1.2) -> Waveform:
    """A two-tone siren in a street: harmonics, echoes of the houses, the noise of traffic."""
    time_s = _times(duration_s)
    frequency_hz = np.where(time_s % period_s < period_s / 2, *reversed(tones_hz))
    phase = 2 * np.pi * np.cumsum(frequency_hz) / SAMPLE_RATE_HZ
    tone = np.sum([np.sin(k * phase) / k for k in range(1, 11)], axis=0)
    return _with_noise(_reverberated(tone, echo_s=1.2, loudness=0.5), 0.1)


def bell(duration_s: float, *, strikes_s: tuple[float, ...], nominal_hz: float = 1_200.0) -> Waveform:
    """A small church bell with the partials of a minor-third bell, each a pair that beats."""
    # Ratio to the nominal, loudness, seconds to fall by 60 dB: the higher, the sooner gone.
    partials = (
        (0.25, 0.4, 12.0),  # hum
        (0.5, 0.7, 7.0),  # prime
        (0.6, 0.9, 5.0),  # tierce
        (0.75, 0.3, 4.0),  # quint
        (1.0, 1.0, 3.5),  # nominal
        (1.5, 0.6, 2.0),  # superquint
        (2.0, 0.5, 1.4),  # octave nominal
        (2.6, 0.35, 1.0),
        (3.3, 0.25, 0.7),
        (4.2, 0.15, 0.5),
    )
    rng = np.random.default_rng(0)
    waveform = np.zeros(len(_times(duration_s)))
    for strike_s in strikes_s:
        time_s = _times(duration_s - strike_s)
        sound = 2 * rng.standard_normal(len(time_s)) * np.exp(-time_s / 0.004)  # the clapper
        for ratio, loudness, decay_s in partials:
            for detuned in (0.999, 1.001):
                phase = 2 * np.pi * ratio * detuned * nominal_hz * time_s + rng.uniform(0, 2 * np.pi)
                sound += loudness * 10 ** (-3 * time_s / decay_s) * np.sin(phase)
        waveform[len(waveform) - len(sound) :] += sound
    return _with_noise(_reverberated(waveform, echo_s=2.5, loudness=1.5), 0.05)


def telephone(digits: str, *, key_s: float = 0.15, gap_s: float = 0.15) -> Waveform:
    """A number dialled with dual tones, one row's and one column's frequency a key."""
    rows_hz, columns_hz = (697.0, 770.0, 852.0, 941.0), (1_209.0, 1_336.0, 1_477.0)
    time_s = _times(key_s)
    pause = np.zeros(len(_times(gap_s)))
    keys = []
    for digit in digits:
        row, column = divmod("123456789*0#".index(digit), len(columns_hz))
        key = np.sin(2 * np.pi * rows_hz[row] * time_s) + np.sin(2 * np.pi * columns_hz[column] * time_s)
        keys += [_faded(key, 0.003), pause]
    return _with_noise(np.concatenate(keys), 0.01)


def sequence() -> Waveform:
    """Speech, a pause, a siren, a bell and a telephone, one after the other."""
    pause = np.zeros(round(0.4 * SAMPLE_RATE_HZ))
    return np.concatenate(
        [
            _scaled(speech(ANNOUNCEMENT)),
            pause,
            _scaled(siren(3.0)),
            pause,
            _scaled(bell(3.2, strikes_s=(0.05, 0.85, 1.65, 2.45))),
            _scaled(telephone("206457")),
        ]
    )


def main(folder: Path) -> None:
    """Write the three clips."""
    for name, waveform in (("speech", speech(SENTENCE)), ("siren", siren(4.8)), ("sequence", sequence())):
        path = folder / f"{name}.ogg"
        soundfile.write(path, _scaled(waveform), SAMPLE_RATE_HZ, format="OGG", subtype="VORBIS")
        print(f"{path}: {len(waveform) / SAMPLE_RATE_HZ:.2f} s, {path.stat().st_size:,} bytes")


def _times(duration_s: float) -> Waveform:
    return np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ


def _scaled(waveform: Waveform, peak: float = PEAK) -> Waveform:
    return waveform * (peak / np.abs(waveform).max())


def _faded(waveform: Waveform, fade_s: float) -> Waveform:
    ramp = np.linspace(0.0, 1.0, round(fade_s * SAMPLE_RATE_HZ))
    faded = waveform.copy()
    faded[: len(ramp)] *= ramp
    faded[-len(ramp) :] *= ramp[::-1]
    return faded


def _reverberated(waveform: Waveform, *, echo_s: float, loudness: float) -> Waveform:
    """The sound with a decaying tail of noise as its echo, `echo_s` seconds to fall by 60 dB."""
    time_s = _times(echo_s)
    echo = np.random.default_rng(0).standard_normal(len(time_s)) * 10 ** (-3 * time_s / echo_s)
    echo /= np.sqrt(np.sum(echo**2))
    size = len(waveform) + len(echo)
    tail = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(echo, size), size)[: len(waveform)]
    return waveform + loudness * tail


def _with_noise(waveform: Waveform, loudness: float) -> Waveform:
    """The sound at full scale with pink noise of peak `loudness` under it, faded in and out."""
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(len(waveform)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(waveform))
    return _faded(_scaled(waveform, 1.0) + _scaled(noise, loudness), 0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)

"""Synthesized sounds to calibrate 8-bit networks on, so that nobody needs recordings for it.

What counts is that each layer meets about the lowest and the highest value that recordings would make it read: less
clips real sounds, more spends the 8 bits on values that never come. So the kinds span what sound is made of (voices,
notes, blows, noises, calls, machines), at levels from inaudible to clipped, clean and over background noise, and cut
off by silence; what is added here is to be held against recordings of its kind, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset.features import EXAMPLE_SAMPLES, SAMPLE_RATE_HZ, Float32Array

_SEED = 20
# Peaks of one kind's sounds, in turn. Past full scale, the sound is clipped.
_PEAKS_DB = (-6, -20, 0, -12, -34, 9, -3, -60)
# Background noise under the sounds of one kind, in turn, against the sound's own peak; None leaves digital silence.
_BACKGROUND_DB: tuple[float | None, ...] = (-50, None, -30, -65, -40)

Random = np.random.Generator
Signal = npt.NDArray[Any]

_T = np.arange(EXAMPLE_SAMPLES) / SAMPLE_RATE_HZ
_END_S = float(_T[-1])


def calibration_sounds() -> Iterator[tuple[str, Float32Array]]:
    """Yield (name, waveform) of each sound: float32, 16 kHz, 15,600 samples (one example), values in [-1, 1].

    The sounds are the same in every call and, to within rounding, on every machine.
    """
    for kind, (make, count) in _KINDS.items():
        for index in range(count):
            rng = np.random.default_rng([_SEED, *kind.encode(), index])
            signal = _at_peak(make(rng), 0)
            background_db = _BACKGROUND_DB[index % len(_BACKGROUND_DB)]
            if background_db is not None:
                signal += _at_peak(_noise(rng), background_db)
            yield f"{kind} {index}", _recorded(_at_peak(signal, _PEAKS_DB[index % len(_PEAKS_DB)]))
    for name, signal in _EDGES.items():
        yield name, _recorded(signal)


def _recorded(signal: Signal) -> Float32Array:
    return np.clip(signal, -1, 1).astype(np.float32)


def _at_peak(signal: Signal, peak_db: float) -> Signal:
    scaled: Signal = signal * (10 ** (peak_db / 20) / max(float(np.abs(signal).max()), 1e-9))
    return scaled


def _hz(rng: Random, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _wave(hz: float | Signal) -> Signal:
    """Phase in radians of an oscillation whose frequency may change with time."""
    phase: Signal = 2 * np.pi * np.cumsum(np.broadcast_to(hz, _T.shape)) / SAMPLE_RATE_HZ
    return phase


def _curve(rng: Random, low: float, high: float, points: int) -> Signal:
    """A path through random values, as a voice or the wind wanders."""
    curve: Signal = np.interp(_T, np.linspace(0, _END_S, points), rng.uniform(low, high, points))
    return curve


def _filtered(signal: Signal, gain: Callable[[Signal], Signal]) -> Signal:
    """The signal with the gain at each frequency (Hz) applied."""
    spectrum = np.fft.rfft(signal)
    filtered: Signal = np.fft.irfft(spectrum * gain(np.fft.rfftfreq(len(signal), 1 / SAMPLE_RATE_HZ)), len(signal))
    return filtered


def _band(signal: Signal, low_hz: float, high_hz: float) -> Signal:
    return _filtered(signal, lambda hz: 1 / (1 + (low_hz / np.maximum(hz, 1)) ** 4) / (1 + (hz / high_hz) ** 8))


def _struck(starts: Signal, ring: Signal, strengths: Signal) -> Signal:
    """Copies of `ring`, one from each start (s) on."""
    signal = np.zeros(EXAMPLE_SAMPLES + len(ring))
    for start, strength in zip((starts * SAMPLE_RATE_HZ).astype(int), strengths, strict=True):
        signal[start : start + len(ring)] += strength * ring
    return signal[:EXAMPLE_SAMPLES]


def _ring(rng: Random, partials_hz: Signal, decay_s: float) -> Signal:
    """Partials that die away, the high ones faster: a drum, a pot or a bell, by their ratios."""
    t = np.arange(int(min(6 * decay_s, 1) * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    decays = decay_s * (partials_hz[0] / partials_hz) ** 0.5
    waves = np.sin(2 * np.pi * np.outer(partials_hz, t)) * np.exp(-t / decays[:, np.newaxis])
    ring: Signal = rng.uniform(0.2, 1, len(partials_hz)) @ waves
    return ring


def _noise(rng: Random, low: float = 0.0, high: float = 1.2) -> Signal:
    """Noise whose magnitude falls as frequency to a random power: white, pink, brown and between."""
    power = rng.uniform(low, high)
    return _filtered(rng.standard_normal(EXAMPLE_SAMPLES), lambda hz: 1 / np.maximum(hz, 40) ** power)


def _voice(rng: Random, pitch_hz: Signal, roughness: float) -> Signal:
    """Pulses of the glottis, each of which rings in four formants that move as vowels follow each other."""
    cycles = np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    pulses = np.flatnonzero(np.diff(np.floor(cycles), prepend=0))
    t = np.arange(320, dtype=np.float32) / SAMPLE_RATE_HZ
    rings = np.zeros((len(pulses), len(t)), np.float32)
    size = rng.uniform(0.85, 1.25)  # of the mouth: from a man's to a child's
    for low_hz, high_hz, width_hz, gain in (
        (280, 850, 70, 1.0), (800, 2300, 100, 0.5), (2300, 3000, 150, 0.25), (3300, 4300, 250, 0.12),
    ):  # fmt: skip
        formant_hz = size * _curve(rng, low_hz, high_hz, 6)[pulses]
        phases = np.outer(2 * np.pi * formant_hz, t).astype(np.float32)
        rings += np.sin(phases) * (gain * np.exp(-np.pi * width_hz * t)).astype(np.float32)
    rings *= rng.normal(1, 0.1 + roughness, (len(pulses), 1)).astype(np.float32)
    samples = pulses[:, np.newaxis] + np.arange(len(t))
    voice: Signal = np.bincount(samples.ravel(), rings.ravel(), minlength=EXAMPLE_SAMPLES)[:EXAMPLE_SAMPLES]
    return voice


def _speech(rng: Random) -> Signal:
    """Syllables of voice, between hisses of consonants, of low to high voices."""
    pitch_hz = _hz(rng, 80, 330) * _curve(rng, 0.85, 1.2, 5)
    opening = np.clip(_curve(rng, -0.6, 1.2, int(rng.integers(6, 12))), 0, 1)
    voice = _at_peak(_voice(rng, pitch_hz, 0.0) * opening, 0)
    hiss = _band(rng.standard_normal(EXAMPLE_SAMPLES), _hz(rng, 1500, 4500), 7800)
    consonants = np.clip(_curve(rng, -1.5, 1, 16), 0, 1) * (1 - opening)
    return voice + _hz(rng, 0.05, 0.5) * _at_peak(hiss * consonants, 0)


def _telephone(rng: Random) -> Signal:
    """One word at 8 kHz or by telephone, then nothing: short clips, which are padded, look like this."""
    word = _speech(rng)[: int(rng.uniform(0.2, 0.8) * EXAMPLE_SAMPLES)]
    word *= np.minimum(1, np.linspace(12, 0, len(word)))
    return _band(np.pad(word, (0, EXAMPLE_SAMPLES - len(word))), *((300, 3400) if rng.random() < 0.5 else (40, 3800)))


def _cry(rng: Random) -> Signal:
    """A strained voice, high and rich in harmonics: babies, cocks, gulls, howls."""
    pitch_hz = _hz(rng, 250, 900) * _curve(rng, 0.7, 1.5, 5)
    phase, strain = _wave(pitch_hz), rng.uniform(1, 8)
    call = _band(np.tanh(strain * (np.sin(phase) + 0.4)) + 0.5 * np.sin(2 * phase), 500, _hz(rng, 2500, 7000))
    call *= np.clip(_curve(rng, -0.5, 1, 6), 0, 1)
    return call


def _bark(rng: Random) -> Signal:
    """Short hoarse calls: dogs, coughs, sneezes."""
    starts = np.arange(rng.uniform(0, 0.3), _END_S, rng.uniform(0.25, 0.6))
    opening = _struck(starts, np.exp(-_T / rng.uniform(0.03, 0.08)), np.ones(len(starts)))
    rough = _voice(rng, _hz(rng, 150, 500) * _curve(rng, 0.7, 1.1, 4), 0.5)
    breath = _band(rng.standard_normal(EXAMPLE_SAMPLES), 400, _hz(rng, 2000, 7000))
    return (_at_peak(rough, 0) + rng.uniform(0.1, 1) * _at_peak(breath, 0)) * opening


def _chirps(rng: Random) -> Signal:
    """Fast gliding whistles: birds, crickets."""
    rate, depth = _hz(rng, 2, 25), rng.uniform(0.02, 0.4)
    glide = np.sin(2 * np.pi * rate * _T + rng.uniform(0, 6))
    gate = np.clip(np.sin(2 * np.pi * rate * _T) + rng.uniform(-0.5, 0.8), 0, 1)
    phase = _wave(_hz(rng, 1500, 5000) * (1 + depth * glide))
    chirps: Signal = (np.sin(phase) + rng.uniform(0, 0.2) * np.sin(2 * phase)) * gate
    return chirps


def _notes(rng: Random) -> Signal:
    """Notes and chords, plucked or bowed, dull or bright, with or without vibrato."""
    signal = np.zeros(EXAMPLE_SAMPLES)
    root_hz, decay_s, bright = _hz(rng, 50, 900), _hz(rng, 0.1, 3), rng.uniform(0.7, 2.2)
    for semitones in rng.permutation([0, 4, 7, 12])[: rng.integers(1, 4)]:
        vibrato = 1 + rng.choice([0, 0.01]) * np.sin(2 * np.pi * rng.uniform(4, 7) * _T)
        pitch_hz = root_hz * 2 ** (semitones / 12)
        start = rng.choice([0.0, rng.uniform(0, 0.6)])
        harmonics = np.arange(min(16, int(7500 // pitch_hz)), 0, -1)
        # sum of a_k sin(k x) is the imaginary part of a polynomial in exp(i x): one sine in place of sixteen.
        tone = np.polyval([*harmonics**-bright, 0], np.exp(1j * _wave(pitch_hz * vibrato))).imag
        signal += tone * np.clip((_T - start) / 0.02, 0, 1) * np.exp(-np.clip(_T - start, 0, None) / decay_s)
    return signal


def _sweep(rng: Random) -> Signal:
    """A tone that rises or falls through a few octaves, and its echoes: sirens, whistles, whales, effects."""
    start_hz, octaves = _hz(rng, 150, 2000), rng.uniform(0.3, 1.8) * rng.choice([-1, 1])
    tone = np.tanh(rng.uniform(0.3, 2) * np.sin(_wave(start_hz * 2 ** (octaves * _curve(rng, 0, 1, 5)))))
    # Bare, it is a thinner and steeper line than any in recordings, and detectors of lines answer out of proportion.
    room = _noise(rng, 0.5, 1) * _curve(rng, 0.3, 1, 8)
    return _at_peak(tone, 0) + _at_peak(room, float(rng.uniform(-25, -10)))


def _beeps(rng: Random) -> Signal:
    """One or two steady tones, switched on and off: alarms, telephones, toys."""
    low_hz, high_hz = np.sort([_hz(rng, 400, 3500), _hz(rng, 400, 3500)])
    tones: Signal = np.sin(_wave(low_hz)) + rng.choice([0, 0.7]) * np.sin(_wave(high_hz))
    tones *= (_T / _hz(rng, 0.1, 0.8) + rng.random()) % 1 < rng.uniform(0.3, 0.9)
    return tones


def _bells(rng: Random) -> Signal:
    """Struck metal, wood and skin: bells, pots, knocks, drums."""
    ratios = np.array([1, 1.59, 2.14, 2.3, 2.65, 2.92, 3.5, 4.06, 5.4])[: rng.integers(2, 10)]
    starts = np.sort(rng.uniform(0, 0.8 * _END_S, rng.integers(1, 5)))
    ring = _ring(rng, ratios * _hz(rng, 50, 1400), _hz(rng, 0.02, 0.4))
    return _struck(starts, ring, rng.uniform(0.3, 1, len(starts)))


def _hits(rng: Random) -> Signal:
    """Bursts of noise that die away: snares, cymbals, steps, doors, thunder."""
    starts = np.arange(rng.uniform(0, 0.4), _END_S, _hz(rng, 0.1, 1))
    low_hz = _hz(rng, 40, 4000)
    burst = _band(rng.standard_normal(EXAMPLE_SAMPLES), low_hz, min(low_hz * _hz(rng, 3, 40), 7900))
    return _struck(starts, burst * np.exp(-_T / _hz(rng, 0.01, 0.3)), rng.uniform(0.3, 1, len(starts)))


def _clicks(rng: Random) -> Signal:
    """Clicks of a few samples, in time or scattered: clocks, keys, fire, rain on a roof."""
    regular, count = rng.random() < 0.4, int(_hz(rng, 2, 150))
    starts = np.linspace(0.02, 0.9 * _END_S, 1 + count // 8) if regular else rng.uniform(0, _END_S, count)
    ring = _ring(rng, _hz(rng, 300, 4500) * np.array([1, 1.7]), _hz(rng, 0.0004, 0.006))
    return _struck(starts, ring, rng.exponential(0.3, len(starts)))


def _gusts(rng: Random) -> Signal:
    """Noise that swells and fades: wind, waves, breath, applause."""
    return _noise(rng) * np.power(_curve(rng, 0, 1, int(_hz(rng, 3, 40))), rng.uniform(1, 3))


def _engine(rng: Random) -> Signal:
    """Pulses at the rate of cylinders or rotors, through a body, with noise: engines, saws, helicopters, motors."""
    phase = _wave(_hz(rng, 12, 250) * _curve(rng, 0.95, 1.05, 4))
    beat = (0.5 + 0.5 * np.sin(phase)) ** rng.uniform(2, 12)
    return _at_peak(_band(beat, 60, _hz(rng, 300, 6000)), 0) + rng.uniform(0.1, 1) * _at_peak(_noise(rng) * beat, 0)


def _mixture(rng: Random) -> Signal:
    """Two kinds at once, as in most recordings."""
    first, second = rng.permutation(len(_MIXED))[:2]
    return _at_peak(_MIXED[first](rng), 0) + _at_peak(_MIXED[second](rng), float(rng.uniform(-20, 0)))


_MIXED = (_speech, _cry, _chirps, _notes, _bells, _hits, _clicks, _gusts, _engine, _noise)
# How many sounds of each kind: more of those that differ more among themselves.
_KINDS: dict[str, tuple[Callable[[Random], Signal], int]] = {
    "speech": (_speech, 16),
    "telephone": (_telephone, 8),
    "cry": (_cry, 8),
    "bark": (_bark, 6),
    "chirps": (_chirps, 8),
    "notes": (_notes, 16),
    "sweep": (_sweep, 6),
    "beeps": (_beeps, 6),
    "bells": (_bells, 10),
    "hits": (_hits, 8),
    "clicks": (_clicks, 8),
    "noise": (_noise, 8),
    "gusts": (_gusts, 6),
    "engine": (_engine, 8),
    "mixture": (_mixture, 10),
}
# What happens in files rather than in the air.
_EDGES: dict[str, Signal] = {
    "silence": np.zeros(EXAMPLE_SAMPLES),
    "constant offset": np.full(EXAMPLE_SAMPLES, 0.3),
    "one impulse": np.eye(1, EXAMPLE_SAMPLES, EXAMPLE_SAMPLES // 2)[0],
    "full-scale square": np.sign(np.sin(_wave(220.7))),
    "last bit": np.round(np.sin(_wave(997.0))) / 32768,
}

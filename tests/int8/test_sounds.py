"""The sounds that 8-bit networks are calibrated on: the same every time, and as varied as recordings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from audioset import audio, features, models
from audioset.int8.sounds import calibration_sounds

Float32Array = npt.NDArray[np.float32]
# Printed with NumPy 2.2 and 2.4 on Linux, with and without AVX2 and AVX-512.
MEANS = [-2.9755, -2.945, -2.9104, -3.1017]
DEVIATIONS = [3.0306, 2.9321, 2.9857, 2.9713]


@pytest.fixture(scope="module")
def sounds(calibration: list[tuple[str, Float32Array]]) -> dict[str, Float32Array]:
    return dict(calibration)


@pytest.fixture(scope="module")
def log_mel(sounds: dict[str, Float32Array]) -> Float32Array:
    """Examples of all sounds with YAMNet's small offset, which shows more of what is quiet."""
    return examples_of(list(sounds.values()))


def examples_of(waveforms: list[Float32Array]) -> Float32Array:
    spec = models.get("yamnet")
    cut = [features.examples(w, hop_s=spec.hop_s, pad=spec.pad, log_offset=spec.log_offset) for w in waveforms]
    return np.concatenate(cut)


def peaks_db(sounds: dict[str, Float32Array]) -> npt.NDArray[np.float64]:
    peaks = np.array([np.abs(waveform).max() for waveform in sounds.values()], np.float64)
    return 20 * np.log10(np.maximum(peaks, 1e-9))


def test_there_are_about_a_hundred_and_thirty_with_names_of_their_own(
    calibration: list[tuple[str, Float32Array]],
) -> None:
    assert 100 <= len(calibration) == len({name for name, _ in calibration}) <= 160


@pytest.mark.parametrize("model", ["vggish", "yamnet", "mini"])
def test_each_is_one_example_of_every_model(sounds: dict[str, Float32Array], model: str) -> None:
    spec = models.get(model)
    for name, waveform in sounds.items():
        assert features.num_examples(len(waveform), hop_s=spec.hop_s, pad=spec.pad) == 1, name


def test_samples_are_float32_finite_and_within_full_scale(sounds: dict[str, Float32Array]) -> None:
    for name, waveform in sounds.items():
        assert waveform.dtype == np.float32, name
        assert waveform.ndim == 1, name
        assert np.isfinite(waveform).all(), name
        assert np.abs(waveform).max() <= 1, name


def test_they_are_the_same_every_time(sounds: dict[str, Float32Array]) -> None:
    for name, waveform in calibration_sounds():
        np.testing.assert_array_equal(waveform, sounds[name], err_msg=name)


def test_they_are_the_same_everywhere(log_mel: Float32Array) -> None:
    """To within rounding. Where the sounds are changed on purpose, 8-bit networks change with them."""
    np.testing.assert_allclose(log_mel.mean((0, 1))[[0, 20, 40, 63]], MEANS, atol=2e-4)
    np.testing.assert_allclose(log_mel.std((0, 1))[[0, 20, 40, 63]], DEVIATIONS, atol=2e-4)


def test_no_two_are_alike(sounds: dict[str, Float32Array]) -> None:
    assert len({waveform.tobytes() for waveform in sounds.values()}) == len(sounds)


def test_levels_reach_from_silence_to_clipping(sounds: dict[str, Float32Array]) -> None:
    levels = peaks_db(sounds)
    counts, _ = np.histogram(levels, [-70, -50, -30, -15, -5, -0.5])
    assert (counts >= 10).all(), counts
    at_full_scale = [np.mean(np.abs(waveform) >= 1) for waveform in sounds.values()]
    assert sum(share > 0.01 for share in at_full_scale) >= 8, "hardly any sound is clipped"
    assert not sounds["silence"].any()
    assert 0 < np.abs(sounds["last bit"]).max() <= 2**-15
    assert abs(np.mean(sounds["constant offset"], dtype=np.float64)) > 0.1


def test_every_kind_has_several(sounds: dict[str, Float32Array]) -> None:
    kinds = Counter(name.rpartition(" ")[0] for name in sounds if name[-1].isdigit())
    assert {"speech", "telephone", "notes", "hits", "clicks", "noise", "engine", "chirps", "mixture"} <= kinds.keys()
    assert min(kinds.values()) >= 5


def test_spectra_and_rhythms_differ(log_mel: Float32Array) -> None:
    """Dark and bright, flat and peaked, steady and sudden: in nepers of mel magnitude (1 is 8.7 dB)."""
    tilt = log_mel[:, :, :16].mean((1, 2)) - log_mel[:, :, 48:].mean((1, 2))
    assert np.quantile(tilt, 0.05) < -1.5
    assert np.quantile(tilt, 0.95) > 2.5
    unevenness = log_mel.mean(1).std(1)
    assert np.quantile(unevenness, 0.05) < 0.15
    assert np.quantile(unevenness, 0.95) > 1.5
    change = log_mel.mean(2).std(1)
    assert np.quantile(change, 0.05) < 0.1
    assert np.quantile(change, 0.95) > 1.8


def test_every_band_is_met_from_the_floor_to_loud(log_mel: Float32Array) -> None:
    low, high = log_mel.min((0, 1)), log_mel.max((0, 1))
    np.testing.assert_allclose(low, np.log(models.get("yamnet").log_offset), atol=2e-4)
    assert high.min() > 3.5
    # A full-scale sine in the middle of a band comes to 5.5 or so: what lies above is no sound.
    assert high.max() < 6


@pytest.mark.filterwarnings("ignore::audioset.features.ShortClipWarning")
@pytest.mark.parametrize("folder", ["esc10", "speech_digits", "instruments", "sound_effects", "music_and_nature"])
def test_they_cover_real_recordings_band_by_band(data_dir: Path, log_mel: Float32Array, folder: str) -> None:
    """At least 99.9% of what real recordings have in each band lies in the range of the synthesized ones."""
    paths = sorted(path for path in (data_dir / folder).rglob("*") if path.suffix in {".ogg", ".flac"})
    assert len(paths) > 10
    # At most 40 of them and 5 s of each, to be quick.
    real = examples_of([audio.read(path, duration_s=5) for path in paths[:: -(-len(paths) // 40)]])
    tolerance = 0.05
    outside = (real < log_mel.min((0, 1)) - tolerance) | (real > log_mel.max((0, 1)) + tolerance)
    assert outside.mean((0, 1)).max() < 0.001
    # Nor is the range much wider than need be: the loudest of real sounds come within 20 dB of its upper end.
    if folder == "esc10":
        assert (log_mel.max((0, 1)) - np.quantile(real, 0.9999, axis=(0, 1))).max() < 2.3

"""Pictures of recordings: that they are drawn, in bounds; what they look like is for eyes."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audioset import plot
from audioset.classes import class_list
from audioset.errors import AudioError, MissingExtraError, OptionError
from audioset.features import example_times, num_examples
from audioset.scores import Scores


def scores_of(num_samples: int, rng: np.random.Generator, file: str = "f.wav") -> Scores:
    count = num_examples(num_samples, hop_s=0.48, pad="all")
    start_s, _, end_s = example_times(count, hop_s=0.48)
    values = rng.random((count, 521), np.float32)
    return Scores(values, start_s, end_s, class_list("yamnet521"), file, "m", "w", num_samples / 16_000)


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


@pytest.mark.parametrize("num_samples", [100, 16_000, 50_000], ids=["short", "second", "tail"])
def test_picture_is_drawn(num_samples: int, rng: np.random.Generator, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    waveform = 0.1 * rng.standard_normal(num_samples).astype(np.float32)
    plot.save_timeline(scores_of(num_samples, rng), waveform, tmp_path / "p.png", 16_000)
    assert png_size(tmp_path / "p.png") == (1500, 900)
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_silence_and_names_in_any_script_are_drawn(rng: np.random.Generator, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("$x^$ 鳥の声.wav", f"{'long' * 60}.wav"):
        plot.save_timeline(scores_of(32_000, rng, name), np.zeros(32_000, np.float32), tmp_path / "p.svg", 16_000)
    assert (tmp_path / "p.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_both_panels_share_the_audios_time_and_show_the_top_classes(rng: np.random.Generator) -> None:
    pytest.importorskip("matplotlib")
    scores = scores_of(50_000, rng)
    figure = plot.timeline(scores, 0.1 * rng.standard_normal(50_000).astype(np.float32), 16_000, top=7)
    above, below = figure.axes[:2]
    assert above.get_xlim() == below.get_xlim() == (0, 3.125)
    assert [label.get_text() for label in below.get_yticklabels()] == [name for name, _ in scores.top(7)]
    assert (above.get_title(loc="left"), above.get_ylabel(), below.get_xlabel()) == (
        "f.wav",
        "frequency (Hz)",
        "time (s)",
    )


def test_long_recordings_are_drawn_in_few_columns(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(plot, "_MAX_COLUMNS", 10)
    waveform = np.zeros(20 * 16_000, np.float32)
    waveform[10 * 16_000 :] = 0.1 * rng.standard_normal(10 * 16_000)
    scores = scores_of(len(waveform), rng)
    figure = plot.timeline(scores, waveform, 16_000, top=3)
    image = np.asarray(figure.axes[0].images[0].get_array())
    assert image.shape == (64, 10)
    assert image[:, :5].max() < image[:, 5:].min()  # the sound begins in the middle
    mesh = np.asarray(figure.axes[1].collections[0].get_array())
    assert mesh.shape == (3, 9)  # 42 examples, 5 a column
    assert mesh.max() <= 1


def test_frequencies_are_where_their_bands_are(rng: np.random.Generator) -> None:
    pytest.importorskip("matplotlib")
    waveform = np.sin(2 * np.pi * 1000 / 16_000 * np.arange(32_000)).astype(np.float32)
    axes = plot.timeline(scores_of(32_000, rng), waveform, 16_000).axes[0]
    image = axes.images[0]
    loudest = int(np.asarray(image.get_array()).mean(axis=1).argmax())
    _, _, bottom, top = image.get_extent()
    tick = dict(zip((label.get_text() for label in axes.get_yticklabels()), axes.get_yticks(), strict=True))["1,000"]
    assert bottom + (top - bottom) * loudest / 64 <= tick <= bottom + (top - bottom) * (loudest + 1) / 64


def test_what_cannot_be_drawn_is_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"p\.bmp: the ending '\.bmp' names no picture"):
        plot.save_timeline(scores_of(100, rng), np.zeros(100, np.float32), tmp_path / "p.bmp", 16_000)
    pytest.importorskip("matplotlib")
    whole = scores_of(100, rng)
    empty = Scores(whole.values[:0], whole.start_s[:0], whole.end_s[:0], whole.classes, "f.wav", "m", "w", 0.1)
    with pytest.raises(AudioError, match=r"f\.wav: no example to draw"):
        plot.timeline(empty, np.zeros(100, np.float32), 16_000)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install matplotlib"):
        plot.check_installed()

"""A picture of what a recording holds: its spectrogram above the scores of its classes over time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from audioset import audio, features
from audioset.audio import AudioSource
from audioset.errors import AudioError, MissingExtraError, OptionError
from audioset.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEFAULT_TOP = 10

# More columns than this cannot be seen, and would make the picture of an hour as large as the hour.
_MAX_COLUMNS = 2000
# Below the loudest band, in dB; the log offset of the models often ends the range before.
_RANGE_DB = 80.0
_DB_PER_NEPER = 20 / np.log(10)
_FREQUENCY_TICKS_HZ = (250, 500, 1000, 2000, 4000, 7000)
_TIME_STEPS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
_MAX_TIME_TICKS = 12
_MAX_LONG_TIME_TICKS = 7  # with hours in them
_MAX_TITLE = 90
_FORMATS = (".png", ".pdf", ".svg")


def save_timeline(
    scores: Scores,
    source: AudioSource,
    out: str | os.PathLike[str],
    sample_rate: int | None = None,
    *,
    top: int = DEFAULT_TOP,
    log_offset: float = features.DEFAULT_LOG_OFFSET,
) -> None:
    """Write the picture of `timeline` to a file, by its ending PNG, PDF or SVG; whole or not at all.

    Parameters and errors are those of `timeline`; OutputError where the file cannot be written.
    """
    from audioset._files import written_whole

    path = Path(out)
    check_format(path)
    figure = timeline(scores, source, sample_rate, top=top, log_offset=log_offset)
    with written_whole(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a title in a script that no font here has
        figure.savefig(temporary, format=path.suffix[1:].lower())


def timeline(
    scores: Scores,
    source: AudioSource,
    sample_rate: int | None = None,
    *,
    top: int = DEFAULT_TOP,
    log_offset: float = features.DEFAULT_LOG_OFFSET,
) -> Figure:
    """Return a figure of the log-mel spectrogram above the scores of the `top` classes, on one time axis.

    The classes are those with the highest mean scores, highest first, as `scores.top` gives them. However long the
    recording, it is read in pieces and drawn in at most 2,000 columns: means of the frames, maxima of the scores.

    Parameters
    ----------
    scores : Scores
        Of this source.
    source, sample_rate
        The audio, read again; see `audioset.audio.read`. A stream that cannot be read twice will not do.
    top : int
        Classes to show.
    log_offset : float
        Of the spectrogram: that of the model shows what the model sees.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    AudioError
        There is no example to draw, or the audio cannot be read.
    """
    check_installed()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if not len(scores):
        raise AudioError(
            f"{scores.file}: no example to draw; expected scores of at least one. Tag it without pad='none'"
        )
    rows = scores.top(top)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(10, 3.6 + 0.24 * len(rows)), dpi=150, layout=layout)
    grid = figure.add_gridspec(2, 2, height_ratios=(2.5, 0.24 * len(rows) + 0.1), width_ratios=(1, 0.014))
    above = figure.add_subplot(grid[0, 0])
    below = figure.add_subplot(grid[1, 0], sharex=above)
    above.set_title(_shortened(scores.file), fontsize=11, loc="left", parse_math=False)
    levels = _draw_spectrogram(above, scores, source, sample_rate, log_offset)
    shades = _draw_classes(below, scores, [name for name, _ in rows])
    _draw_times(below, float(scores.edges_s[0]), float(scores.edges_s[-1]))
    above.tick_params(labelbottom=False)
    figure.colorbar(levels, cax=figure.add_subplot(grid[0, 1]), label="level (dB)")
    figure.colorbar(shades, cax=figure.add_subplot(grid[1, 1]), label="score")
    return figure


def check_installed() -> None:
    """Raise MissingExtraError unless matplotlib is there."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "plot: drawing needs matplotlib, which is not installed. Install it with `pip install matplotlib`"
        ) from error


def check_format(path: Path) -> None:
    """Raise OptionError unless the name's ending is that of a format that can be written."""
    if path.suffix.lower() not in _FORMATS:
        raise OptionError(f"{path}: the ending {path.suffix!r} names no picture; expected one of {', '.join(_FORMATS)}")


def _draw_spectrogram(
    axes: Axes, scores: Scores, source: AudioSource, sample_rate: int | None, log_offset: float
) -> Any:
    begin_s, end_s = float(scores.edges_s[0]), float(scores.edges_s[-1])
    num_samples = round(scores.duration_s * features.SAMPLE_RATE_HZ)
    # Whole frames only: the end of the audio inside one would show as a click.
    num_frames = 1 + max(0, num_samples - features.WINDOW_SAMPLES) // features.FRAME_HOP_SAMPLES
    a_column = -(-num_frames // _MAX_COLUMNS)
    chunks = audio.stream(source, sample_rate, start_s=begin_s, duration_s=scores.duration_s)
    level_db = _DB_PER_NEPER * np.stack(list(_columns(chunks, num_frames, a_column, log_offset)), axis=1)
    step_mel = (_MEL_MAX - _MEL_MIN) / (features.NUM_MEL_BANDS + 1)
    # Stretched from end to end, which puts no frame more than 7.5 ms from its true centre.
    last_s = begin_s + level_db.shape[1] * a_column * (end_s - begin_s) / num_frames
    image = axes.imshow(
        level_db,
        origin="lower",
        aspect="auto",
        extent=(begin_s, last_s, _MEL_MIN + step_mel / 2, _MEL_MAX - step_mel / 2),
        vmin=max(level_db.min(), level_db.max() - _RANGE_DB),
        vmax=max(level_db.max(), level_db.min() + 1),  # silence has one level only
        cmap="magma",
        interpolation="antialiased",
    )
    bottom_and_top = axes.get_ylim()
    axes.set_ylabel("frequency (Hz)")
    axes.set_yticks([_mel(hz) for hz in _FREQUENCY_TICKS_HZ], [f"{hz:,}" for hz in _FREQUENCY_TICKS_HZ])
    axes.set_ylim(bottom_and_top)
    return image


def _columns(
    chunks: Iterator[npt.NDArray[np.float32]], num_frames: int, a_column: int, log_offset: float
) -> Iterator[npt.NDArray[np.float32]]:
    """Mean of each `a_column` frames, of the whole waveform, one after the other, shape (64,)."""
    held = np.empty((0, features.NUM_MEL_BANDS), np.float32)
    left = num_frames
    # Examples that neither overlap nor leave anything out are the frames in their order.
    stream = features.ExampleStream(hop_s=features.EXAMPLE_S, pad="all", log_offset=log_offset)

    def pieces() -> Iterator[npt.NDArray[np.float32]]:
        for chunk in chunks:
            yield from stream.push(chunk)
        yield from stream.finish()

    for examples in pieces():
        frames = examples.reshape(-1, features.NUM_MEL_BANDS)[:left]
        left -= len(frames)
        held = np.concatenate([held, frames])
        whole = len(held) // a_column * a_column
        yield from held[:whole].reshape(-1, a_column, features.NUM_MEL_BANDS).mean(axis=1)
        held = held[whole:]
    if len(held):
        yield held.mean(axis=0)


def _draw_classes(axes: Axes, scores: Scores, names: list[str]) -> Any:
    values = scores.values[:, [scores.classes.index(name) for name in names]]
    firsts = np.arange(0, len(values), -(-len(values) // _MAX_COLUMNS))
    edges_s = np.append(scores.edges_s[firsts], scores.edges_s[-1])
    shades = axes.pcolormesh(
        edges_s,
        np.arange(len(names) + 1) - 0.5,
        np.maximum.reduceat(values, firsts, axis=0).T,
        vmin=0,
        vmax=1,
        cmap="GnBu",
        rasterized=True,
    )
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.hlines(np.arange(1, len(names)) - 0.5, edges_s[0], edges_s[-1], colors="0.85", linewidth=0.6)
    return shades


def _draw_times(axes: Axes, begin_s: float, end_s: float) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    axes.set_xlim(begin_s, end_s)
    length_s = end_s - begin_s
    most = _MAX_TIME_TICKS if end_s < 3600 else _MAX_LONG_TIME_TICKS
    step_s = next((step for step in _TIME_STEPS_S if length_s / step <= most), length_s / most)
    axes.xaxis.set_major_locator(MultipleLocator(step_s))
    if end_s < 120:
        axes.set_xlabel("time (s)")
        return

    def as_clock(seconds: float, _: object) -> str:
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{rest:02d}" if end_s >= 3600 else f"{minutes}:{rest:02d}"

    axes.xaxis.set_major_formatter(FuncFormatter(as_clock))
    axes.set_xlabel("time (h:min:s)" if end_s >= 3600 else "time (min:s)")


def _mel(hz: float) -> float:
    return float(features._hz_to_mel(hz))


_MEL_MIN, _MEL_MAX = _mel(features.MEL_FMIN_HZ), _mel(features.MEL_FMAX_HZ)


def _shortened(file: str) -> str:
    name = Path(file).name
    return name if len(name) <= _MAX_TITLE else f"{name[: _MAX_TITLE // 2]}…{name[-_MAX_TITLE // 2 :]}"

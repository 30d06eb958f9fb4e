"""What a table of segments holds, in numbers and as a picture: classes, labels, lengths, what occurs together."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from audioset.classes import class_list
from audioset.dataset.segments import check_columns, durations_s
from audioset.dataset.subset import label_rows, ranges, sorted_unique
from audioset.errors import DatasetError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FULL_LENGTH_S = 10.0
"""Length of a segment that is not cut by the end of its video."""

DEFAULT_TOP = 20

_LABELS_AT_ONCE = 1 << 20
_MAX_BARS = 12  # the last is for all that have more
_MAX_NAME = 24
_SHOWN_TOGETHER = 15
_COLOUR, _SECOND_COLOUR = "#4878a8", "#d98b4a"


@dataclass(frozen=True, eq=False)
class SegmentStats:
    """Counts over the clips of a table of segments; a label that is given twice to a clip counts once.

    Attributes
    ----------
    num_videos : int
        Different ids.
    durations_s : float64 (clips,)
        Length of each clip, to the millisecond.
    labels_a_clip : int64 (clips,)
        How many labels each clip has.
    propagated_a_clip : int64 (clips,)
        The same after each label has brought along those of its ancestors that are among the 527 classes, abstract
        and blacklisted ones aside, as `Ontology.propagate` does.
    mids, names : tuple of str
        The classes that `cooccurrence` is of: the 527 in their order, then other mids that occur.
    cooccurrence : int64 (classes, classes)
        `cooccurrence[i, j]` clips have both class i and class j; the diagonal has the clips of each class.
    """

    num_videos: int
    durations_s: npt.NDArray[np.float64]
    labels_a_clip: npt.NDArray[np.int64]
    propagated_a_clip: npt.NDArray[np.int64]
    mids: tuple[str, ...]
    names: tuple[str, ...]
    cooccurrence: npt.NDArray[np.int64]

    @property
    def num_clips(self) -> int:
        """How many segments there are."""
        return len(self.durations_s)

    @property
    def num_labels(self) -> int:
        """How many labels all clips have together."""
        return int(self.labels_a_clip.sum())

    @property
    def num_short(self) -> int:
        """How many clips are shorter than 10 s."""
        return int((self.durations_s < FULL_LENGTH_S).sum())

    @property
    def class_counts(self) -> npt.NDArray[np.int64]:
        """Clips of each class, shape (classes,)."""
        return np.diagonal(self.cooccurrence)

    @property
    def num_classes(self) -> int:
        """How many classes have a clip."""
        return int((self.class_counts > 0).sum())

    def top_classes(self, num: int) -> list[tuple[str, int]]:
        """Return the names of the most frequent classes and their clips, the most frequent first."""
        return [(self.names[place], int(self.class_counts[place])) for place in self._by_count[:num]]

    def top_pairs(self, num: int) -> list[tuple[str, str, int]]:
        """Return the pairs of classes that most clips have both of: the more frequent name, the other, the clips."""
        places = self._by_count
        counts = np.triu(self.cooccurrence[np.ix_(places, places)], k=1)
        best = np.argsort(-counts, axis=None, kind="stable")[:num]
        pairs = zip(*np.unravel_index(best, counts.shape), strict=True)
        return [
            (self.names[places[one]], self.names[places[other]], int(counts[one, other]))
            for one, other in pairs
            if counts[one, other]
        ]

    def to_json(self, top: int = DEFAULT_TOP) -> dict[str, Any]:
        """Return the numbers for JSON: all classes that occur, the `top` pairs, no matrix."""
        return {
            "num_clips": self.num_clips,
            "num_videos": self.num_videos,
            "num_labels": self.num_labels,
            "num_classes": self.num_classes,
            "labels_a_clip": _mean(self.labels_a_clip),
            "labels_a_clip_propagated": _mean(self.propagated_a_clip),
            "clips_by_num_labels": {
                str(num): int(count) for num, count in enumerate(np.bincount(self.labels_a_clip)) if count
            },
            "duration_s": {
                "total": float(self.durations_s.sum()),
                "min": float(self.durations_s.min()) if self.num_clips else None,
                "mean": _mean(self.durations_s),
                "max": float(self.durations_s.max()) if self.num_clips else None,
            },
            "num_short": self.num_short,
            "classes": [
                {"mid": self.mids[place], "name": self.names[place], "num_clips": int(self.class_counts[place])}
                for place in self._by_count
            ],
            "pairs": [{"names": [one, other], "num_clips": num} for one, other, num in self.top_pairs(top)],
        }

    @cached_property
    def _by_count(self) -> npt.NDArray[np.int64]:
        """Places of the classes that occur, the most frequent first."""
        order = np.argsort(-self.class_counts, kind="stable")
        return order[: self.num_classes]


def segment_stats(segments: pa.Table) -> SegmentStats:
    """Return the statistics of a table of segments, as `read_segments` gives it.

    Raises
    ------
    DatasetError
        The table lacks a column.
    """
    from audioset.dataset.ontology import Ontology

    check_columns(segments, "ytid", "start_s", "end_s", "mids")
    mids, names = _vocabulary(pc.unique(pc.list_flatten(segments["mids"])).to_pylist())
    codes = pc.index_in(pc.list_flatten(segments["mids"]), pa.array(mids)).to_numpy().astype(np.int64)
    rows = label_rows(segments)
    implied = Ontology.load().ancestor_matrix(mids)
    first_implied = np.append(0, np.cumsum(implied.sum(axis=1)))
    labels_a_clip, propagated_a_clip = np.zeros((2, segments.num_rows), np.int64)
    pairs = np.zeros(len(mids) ** 2, np.int64)
    # In blocks of whole clips, as pairs are several times as many as labels.
    edges = rows.searchsorted(np.append(rows[::_LABELS_AT_ONCE], segments.num_rows))
    for begin, end in itertools.pairwise(edges):
        row, code = np.divmod(sorted_unique(rows[begin:end] * len(mids) + codes[begin:end]), len(mids))
        labels_a_clip += np.bincount(row, minlength=segments.num_rows)
        pairs += _pair_counts(row, code, len(mids))
        brought = np.nonzero(implied)[1][ranges(first_implied[code], first_implied[code + 1])]
        with_brought = np.repeat(row, np.diff(first_implied)[code]) * len(mids) + brought
        propagated_a_clip += np.bincount(sorted_unique(with_brought) // len(mids), minlength=segments.num_rows)
    return SegmentStats(
        num_videos=pc.count_distinct(segments["ytid"]).as_py(),
        durations_s=durations_s(segments),
        labels_a_clip=labels_a_clip,
        propagated_a_clip=propagated_a_clip,
        mids=tuple(mids),
        names=tuple(names),
        cooccurrence=pairs.reshape(len(mids), len(mids)),
    )


def _vocabulary(found: Sequence[str]) -> tuple[list[str], list[str]]:
    classes = class_list("audioset527")
    others = sorted(set(found).difference(classes.mids))
    return [*classes.mids, *others], [*classes.names, *others]


def _pair_counts(rows: npt.NDArray[np.int64], codes: npt.NDArray[np.int64], num: int) -> npt.NDArray[np.int64]:
    """How many rows have class i and class j, at `i * num + j`; rows are sorted."""
    first, last = np.searchsorted(rows, rows, side="left"), np.searchsorted(rows, rows, side="right")
    keys = np.repeat(codes, last - first) * num + codes[ranges(first, last)]
    return np.bincount(keys, minlength=num * num).astype(np.int64)


def _mean(values: npt.NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


def plot_stats(stats: SegmentStats, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Write a picture of statistics, by its ending PNG, PDF or SVG: whole or not at all.

    Four panels: clips of each class, lengths, labels a clip, and which of the most frequent classes occur together.

    Raises
    ------
    DatasetError
        There is no label to draw.
    MissingExtraError
        matplotlib is not installed.
    OptionError
        The ending is that of no picture.
    OutputError
        The file cannot be written.
    """
    from audioset._files import written_whole
    from audioset.plot import check_format, check_installed

    out = Path(path)
    check_format(out)
    check_installed()
    figure = _figure(stats, title)
    with written_whole(out) as temporary:
        figure.savefig(temporary, format=out.suffix[1:].lower())


def _figure(stats: SegmentStats, title: str) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if not stats.num_labels:
        raise DatasetError(f"{title or 'segments'}: no label to draw; expected segments with at least one")
    figure = Figure(figsize=(13, 10.5), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    about = f"{stats.num_clips:,} clips, {stats.num_labels:,} labels, {stats.num_classes} classes"
    figure.suptitle(f"{title}: {about}" if title else about, fontsize=13, parse_math=False)
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.5))
    _draw_lengths(figure.add_subplot(grid[0, 0]), stats)
    _draw_num_labels(figure.add_subplot(grid[0, 1]), stats)
    _draw_classes(figure.add_subplot(grid[1, 0]), stats)
    _draw_together(figure, figure.add_subplot(grid[1, 1]), stats)
    return figure


def _draw_classes(axes: Axes, stats: SegmentStats) -> None:
    counts = np.sort(stats.class_counts[stats.class_counts > 0])[::-1]
    axes.fill_between(np.arange(len(counts) + 1), np.append(counts, counts[-1]), step="post", color=_COLOUR)
    axes.set_yscale("log")
    axes.set_xlim(0, len(counts))
    axes.set_ylim(bottom=max(0.5, counts[-1] / 2))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("class, from the most frequent on")
    axes.set_ylabel("clips")
    axes.set_title(f"Clips of a class: {counts[0]:,} to {counts[-1]:,}, median {np.median(counts):,.0f}", fontsize=11)
    name, count = stats.top_classes(1)[0]
    axes.text(
        0.98, 0.95, f"most: {_short(name)}, {count:,}", transform=axes.transAxes, ha="right", va="top", parse_math=False
    )


def _draw_lengths(axes: Axes, stats: SegmentStats) -> None:
    longest = max(FULL_LENGTH_S, float(stats.durations_s.max()))
    # A clip of exactly the full length is in the last bar, not in the one after it.
    edges = np.linspace(0, longest, 21)
    axes.hist(stats.durations_s, bins=list(edges), color=_COLOUR, edgecolor="white", log=True)
    axes.set_ylim(bottom=0.5)
    axes.set_xlim(0, longest)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("length of the clip (s)")
    axes.set_ylabel("clips")
    axes.set_title(f"{stats.num_short:,} clips shorter than {FULL_LENGTH_S:.0f} s", fontsize=11)


def _draw_num_labels(axes: Axes, stats: SegmentStats) -> None:
    from matplotlib.ticker import MaxNLocator

    kinds = (
        ("as given", stats.labels_a_clip, _COLOUR),
        ("with ancestors", stats.propagated_a_clip, _SECOND_COLOUR),
    )
    for number, (what, values, colour) in enumerate(kinds):
        heights = np.bincount(np.minimum(values, _MAX_BARS), minlength=_MAX_BARS + 1)
        places = np.arange(_MAX_BARS + 1) + (number - 0.5) * 0.4
        axes.bar(places, heights, 0.4, color=colour, label=f"{what}: {values.mean():.2f} on average")
    ticks = [str(num) for num in range(_MAX_BARS)] + [f"{_MAX_BARS}+"]
    axes.set_xticks(range(_MAX_BARS + 1), ticks)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("labels of a clip")
    axes.set_ylabel("clips")
    axes.set_title("Labels a clip", fontsize=11)
    axes.legend(frameon=False)


def _draw_together(figure: Figure, axes: Axes, stats: SegmentStats) -> None:
    places = stats._by_count[:_SHOWN_TOGETHER]
    names = [_short(stats.names[place]) for place in places]
    shares = stats.cooccurrence[np.ix_(places, places)] / stats.class_counts[places][:, np.newaxis]
    np.fill_diagonal(shares, np.nan)  # always all, and would hide the rest
    image = axes.imshow(shares, cmap="GnBu", vmin=0, vmax=max(0.01, float(np.nanmax(shares, initial=0))))
    axes.set_facecolor("0.9")
    axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.tick_params(length=0)
    axes.set_title("Of the clips of the row, the share that has the column too", fontsize=11)
    figure.colorbar(image, ax=axes, shrink=0.8)


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1].rstrip(' ,')}…"

"""What a classifier says of one file: a score a class and example, and the sound events in them.

How examples map onto time. Example `i` lasts from `start_s[i]` to `end_s[i]`, and neighbours overlap where the hop is
shorter than 0.96 s. So that every moment has one score, example `i` *owns* the time from `edges_s[i]` to
`edges_s[i + 1]`: up to half-way between its centre and its neighbours' (one hop around its centre); the first owns
from where the reading began and the last up to where it ended, so no time lies beyond the audio even where the last
example was padded with zeros.

How events are found. For each class by itself: an event is a longest run of examples that score `off_threshold` or more
of which at least one scores `threshold` or more, and lasts over the time that they own. Events with no more than
`max_gap_s` between them become one; then those shorter than `min_duration_s` are dropped. Scores are not smoothed:
examples of 0.96 s that overlap by half already are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from audioset._runtime.base import Precision
from audioset.classes import ClassList
from audioset.errors import OptionError

DEFAULT_THRESHOLD = 0.3
DEFAULT_MAX_GAP_S = 0.5

ClipMethod: TypeAlias = Literal["mean", "max"]

# Half a sample: what sums of times may be off without meaning it.
_TOLERANCE_S = 0.5 / 16_000


@dataclass(frozen=True)
class Event:
    """One sound that was heard for a while.

    Attributes
    ----------
    mid, name : str
        Its class.
    start_s, end_s : float
        Seconds in the file.
    score : float
        The highest score of its examples.
    """

    mid: str
    name: str
    start_s: float
    end_s: float
    score: float


@dataclass(frozen=True)
class Scores:
    """Scores of one file, with what a bare array forgets.

    Attributes
    ----------
    values : ndarray of float32, shape (k, num_classes)
        `values[i, c]`, from 0 to 1, is the score of class `c` in the example that starts at `start_s[i]`. Several
        classes may score high at once. k is 0 where the clip is too short under `pad="none"`.
    start_s, end_s : ndarray of float64, shape (k,)
        Seconds in the file; the end of a padded example lies beyond the audio's.
    classes : ClassList
        Names and mids of the columns.
    file : str
        The path as it was given; "<array>" or "<stream>" for what has none.
    model : str
        Name of the model.
    weights : str
        SHA-256 of the weights.
    duration_s : float
        Seconds of audio that were read.
    padded_short : bool
        The clip was shorter than one example and was zero-padded to one.
    precision : {"fp32", "bf16", "int8"}
        Of the network's arithmetic.
    error : Exception or None
        In `tag_files` only: why this file has no scores.
    """

    values: npt.NDArray[np.float32]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    classes: ClassList
    file: str
    model: str
    weights: str
    duration_s: float
    padded_short: bool = False
    precision: Precision = "fp32"
    error: Exception | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Display name of each column."""
        return self.classes.names

    @property
    def mids(self) -> tuple[str, ...]:
        """Machine id of each column."""
        return self.classes.mids

    @property
    def edges_s(self) -> npt.NDArray[np.float64]:
        """Where the times that examples own begin and end, shape (k + 1,), ascending; empty for no example."""
        if not len(self):
            return np.empty(0)
        begin_s, end_s = self.start_s[0], self.start_s[0] + self.duration_s
        centre_s = (self.start_s + self.end_s) / 2
        between_s = (centre_s[:-1] + centre_s[1:]) / 2
        edges_s = np.concatenate([[begin_s], np.minimum(between_s, end_s), [end_s]])
        return np.asarray(edges_s.round(8))  # half a sample is 0.00003125 s: exact, without the noise of the sums

    def __len__(self) -> int:
        return len(self.values)

    def clip_scores(self, method: ClipMethod = "mean") -> npt.NDArray[np.float32]:
        """Return one score a class for the whole clip, float32, shape (num_classes,); NaN where there is no example.

        Parameters
        ----------
        method : {"mean", "max"}
            Over the examples. The mean says what the clip is about, the maximum what is heard in it at all.
        """
        if method not in get_args(ClipMethod):
            raise OptionError(f"method: {method!r} is unknown; expected one of {', '.join(get_args(ClipMethod))}")
        if not len(self):
            return np.full(len(self.classes), np.nan, np.float32)
        if method == "max":
            return np.asarray(self.values.max(axis=0))
        return np.asarray(self.values.mean(axis=0, dtype=np.float64), np.float32)

    def top(self, n: int = 5, method: ClipMethod = "mean") -> list[tuple[str, float]]:
        """Return names and scores of the `n` classes with the highest clip scores, highest first.

        Empty where there is no example. Of equal scores the class that comes first in the list comes first.
        """
        if n < 1:
            raise OptionError(f"top: {n} is out of range; expected 1 or more classes")
        scores = self.clip_scores(method)
        if not len(self):
            return []
        order = np.argsort(-scores, kind="stable")[:n]
        return [(self.class_names[place], float(scores[place])) for place in order]

    def events(
        self,
        threshold: float = DEFAULT_THRESHOLD,
        *,
        off_threshold: float | None = None,
        max_gap_s: float = DEFAULT_MAX_GAP_S,
        min_duration_s: float = 0.0,
    ) -> list[Event]:
        """Return when each sound happens, sorted by start, then by class; see the module's text.

        Parameters
        ----------
        threshold : float
            Score, above 0 and up to 1, that makes an event.
        off_threshold : float, optional
            Score that keeps it going, up to `threshold`; half of that by default.
        max_gap_s : float
            Events of a class this far apart, or less, become one.
        min_duration_s : float
            Shorter events are dropped.

        Raises
        ------
        OptionError
            A parameter is out of range.
        """
        off = _check_rules(threshold, off_threshold, max_gap_s, min_duration_s)
        if not len(self):
            return []
        edges_s = self.edges_s
        found = []
        for column in np.flatnonzero(self.values.max(axis=0) >= threshold):
            scores = self.values[:, column]
            for first, stop in _joined(_runs(scores, threshold, off), edges_s, max_gap_s):
                start_s, end_s = float(edges_s[first]), float(edges_s[stop])
                if end_s - start_s >= min_duration_s - _TOLERANCE_S:
                    peak = float(scores[first:stop].max())
                    event = Event(self.mids[column], self.class_names[column], start_s, end_s, peak)
                    found.append((start_s, int(column), event))
        return [event for _, _, event in sorted(found, key=lambda item: item[:2])]


class EventStream:
    """Finds events while scores arrive: those that `Scores.events` finds in the whole, each as soon as it is known.

    An event is known when its class has been silent for `max_gap_s`: with the next example that begins to own time
    later than that after it. What is held does not grow. For one thread at a time.

    Parameters
    ----------
    classes : ClassList
        Of the scores.
    threshold, off_threshold, max_gap_s, min_duration_s
        As in `Scores.events`.
    """

    def __init__(
        self,
        classes: ClassList,
        threshold: float = DEFAULT_THRESHOLD,
        *,
        off_threshold: float | None = None,
        max_gap_s: float = DEFAULT_MAX_GAP_S,
        min_duration_s: float = 0.0,
    ) -> None:
        self._off = _check_rules(threshold, off_threshold, max_gap_s, min_duration_s)
        self._on = threshold
        self._max_gap_s = max_gap_s
        self._min_duration_s = min_duration_s
        self._classes = classes
        self._last_centre_s: float | None = None
        # By class: the run that is going on, and the event before it that it may still become part of. No such: NaN.
        self._run_start_s, self._start_s, self._end_s = (np.full(len(classes), np.nan) for _ in range(3))
        self._run_peak, self._peak = (np.zeros(len(classes), np.float32) for _ in range(2))

    def push(self, scores: Scores) -> list[Event]:
        """Take the next rows, as `Stream.push` or `finish` gives them, and return the events that they end."""
        if not len(scores):
            return []
        heard_s = scores.start_s[0] + scores.duration_s
        found: list[Event] = []
        for row, centre_s in zip(scores.values, (scores.start_s + scores.end_s) / 2, strict=True):
            if self._last_centre_s is None:
                edge_s = float(scores.start_s[0])
            else:
                edge_s = float(min((self._last_centre_s + centre_s) / 2, heard_s).round(8))
            self._last_centre_s = centre_s
            on = row >= self._off
            self._end_runs(~on, edge_s)
            # Whatever begins from here on is too far from these.
            late = np.isnan(self._run_start_s) & (edge_s - self._end_s > self._max_gap_s + _TOLERANCE_S)
            found += self._take(late)
            self._run_start_s[on & np.isnan(self._run_start_s)] = edge_s
            np.maximum(self._run_peak, row, out=self._run_peak, where=on)
        return found

    def finish(self, end_s: float) -> list[Event]:
        """Return the events left when the sound ends, at `end_s` seconds: `Stream.duration_s`."""
        self._end_runs(np.full(len(self._classes), True), round(float(end_s), 8))
        return self._take(~np.isnan(self._start_s))

    def _end_runs(self, which: npt.NDArray[np.bool_], end_s: float) -> None:
        ended = which & ~np.isnan(self._run_start_s)
        heard = ended & (self._run_peak >= self._on)
        fresh = heard & np.isnan(self._start_s)
        self._start_s[fresh] = self._run_start_s[fresh]
        self._end_s[heard] = end_s
        np.maximum(self._peak, self._run_peak, out=self._peak, where=heard)
        self._run_start_s[ended] = np.nan
        self._run_peak[ended] = 0

    def _take(self, which: npt.NDArray[np.bool_]) -> list[Event]:
        found = []
        for column in np.flatnonzero(which):
            start_s, end_s = float(self._start_s[column]), float(self._end_s[column])
            if end_s - start_s >= self._min_duration_s - _TOLERANCE_S:
                mid, name = self._classes.mids[column], self._classes.names[column]
                found.append(Event(mid, name, start_s, end_s, float(self._peak[column])))
        self._start_s[which] = self._end_s[which] = np.nan
        self._peak[which] = 0
        return sorted(found, key=lambda event: event.start_s)


def _check_rules(threshold: float, off_threshold: float | None, max_gap_s: float, min_duration_s: float) -> float:
    """Raise OptionError for a rule of events out of range, and return the score that keeps one going."""
    off = threshold / 2 if off_threshold is None else off_threshold
    if not 0 < threshold <= 1:
        raise OptionError(f"threshold: {threshold} is out of range; expected a score above 0, up to 1")
    if not 0 < off <= threshold:
        raise OptionError(f"off_threshold: {off} is out of range; expected above 0, up to threshold, {threshold}")
    for name, value in (("max_gap_s", max_gap_s), ("min_duration_s", min_duration_s)):
        if not (math.isfinite(value) and value >= 0):
            raise OptionError(f"{name}: {value} is out of range; expected seconds, 0 or more")
    return off


def _runs(scores: npt.NDArray[np.float32], on: float, off: float) -> list[tuple[int, int]]:
    """First example and one past the last of each longest run at or above `off` that reaches `on`."""
    kept = np.concatenate([[False], scores >= off, [False]])
    first, stop = np.flatnonzero(np.diff(kept)).reshape(-1, 2).T
    return [(int(a), int(b)) for a, b in zip(first, stop, strict=True) if scores[a:b].max() >= on]


def _joined(runs: list[tuple[int, int]], edges_s: npt.NDArray[np.float64], max_gap_s: float) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, stop in runs:
        if joined and edges_s[first] - edges_s[joined[-1][1]] <= max_gap_s + _TOLERANCE_S:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((first, stop))
    return joined

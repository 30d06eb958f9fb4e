"""What `audioset tag` writes: the rows of a recording, and the formats that hold those of many in one stream."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TextIO

from audioset.errors import OptionError
from audioset.records.info import storable

if TYPE_CHECKING:
    from rich.console import Console

    from audioset.scores import Event, Scores

DEFAULT_TOP = 5

Row = dict[str, Any]


@dataclass(frozen=True)
class Selection:
    """Which classes or events of a recording to show.

    Attributes
    ----------
    timeline : bool
        Events in time; else classes of the whole recording.
    top : int or None
        At most so many classes: with the highest mean or, in a timeline, the highest peak. None: 5, in a timeline all.
    threshold : float or None
        Lowest clip score; in a timeline the score that makes an event. None: 0, in a timeline that of `Scores.events`.
    """

    timeline: bool
    top: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise OptionError(f"top: {self.top} is out of range; expected 1 or more classes")
        if self.threshold is not None and not (0 <= self.threshold <= 1 and (self.threshold or not self.timeline)):
            expected = "above 0, up to 1" if self.timeline else "from 0 to 1"
            raise OptionError(f"threshold: {self.threshold} is out of range; expected a score {expected}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Keys of a row."""
        return ("start_s", "end_s", "name", "mid", "score") if self.timeline else ("name", "mid", "score")

    def rows(self, scores: Scores) -> list[Row]:
        """Return what to show of a recording: classes from the highest score on, or events from the first on."""
        if self.timeline:
            return [event_row(event) for event in self.events(scores)]
        ranked = scores.top(DEFAULT_TOP if self.top is None else self.top)
        return [
            {"name": name, "mid": scores.mids[scores.classes.index(name)], "score": _rounded(score)}
            for name, score in ranked
            if score >= (self.threshold or 0.0)
        ]

    def events(self, scores: Scores) -> list[Event]:
        """Return the events to show."""
        events = scores.events() if self.threshold is None else scores.events(self.threshold)
        if self.top is None:
            return events
        peaks: dict[str, float] = {}
        for event in events:
            peaks[event.mid] = max(event.score, peaks.get(event.mid, 0.0))
        shown = sorted(peaks, key=lambda mid: -peaks[mid])[: self.top]
        return [event for event in events if event.mid in shown]


def event_row(event: Event) -> Row:
    """Return what to show of an event."""
    return {**asdict(event), "score": _rounded(event.score)}


class Report:
    """Takes recordings one by one and writes them to a text stream; this one writes nothing."""

    def add(self, scores: Scores) -> None:
        """Write what is to be shown of one recording."""

    def fail(self, file: str, reason: str) -> None:
        """Note a file that could not be read, where the format has a place for it."""

    def end(self) -> None:
        """Write what comes after the last recording."""


class CsvReport(Report):
    """A header, then a line a row; the first column names the file."""

    def __init__(self, stream: TextIO, selection: Selection) -> None:
        self._selection = selection
        self._writer = csv.DictWriter(stream, ("file", *selection.columns), lineterminator="\n")
        self._writer.writeheader()

    def add(self, scores: Scores) -> None:
        self._writer.writerows({"file": storable(scores.file), **row} for row in self._selection.rows(scores))


class JsonReport(Report):
    """One list with an object a file: its `tags` or `events`, or why it has none as `error`."""

    def __init__(self, stream: TextIO, selection: Selection) -> None:
        self._stream = stream
        self._selection = selection
        self._num_written = 0

    def add(self, scores: Scores) -> None:
        rows = [{column: row[column] for column in self._selection.columns} for row in self._selection.rows(scores)]
        about = {"model": scores.model, "weights": scores.weights, "duration_s": scores.duration_s}
        self._write({"file": storable(scores.file), **about, "events" if self._selection.timeline else "tags": rows})

    def fail(self, file: str, reason: str) -> None:
        self._write({"file": storable(file), "error": storable(reason)})

    def end(self) -> None:
        self._stream.write("\n]\n" if self._num_written else "[]\n")

    def _write(self, item: dict[str, Any]) -> None:
        self._stream.write(",\n" if self._num_written else "[\n")
        self._stream.write(json.dumps(item, ensure_ascii=False, indent=1))
        self._num_written += 1


class PlainReport(Report):
    """Aligned columns, a line a row, for pipes and files; a file of which nothing is to be shown has a dash."""

    def __init__(self, stream: TextIO, selection: Selection, files: Sequence[str]) -> None:
        from rich.cells import cell_len

        self._stream = stream
        self._selection = selection
        self._length = cell_len
        self._width = max((cell_len(storable(file)) for file in ("FILE", *files)), default=0)
        self._line("FILE", ("START", "END") if selection.timeline else (), "SCORE", "CLASS")

    def add(self, scores: Scores) -> None:
        file = storable(scores.file)
        self._width = max(self._width, self._length(file))  # of an archive, names are known as they come
        rows = self._selection.rows(scores)
        for row in rows:
            self._line(file, _times(row), f"{row['score']:.3f}", row["name"])
        if not rows:
            self._line(file, ("-", "-") if self._selection.timeline else (), "-", "-")

    def _line(self, file: str, times: Sequence[str], score: str, name: str) -> None:
        padding = " " * (self._width - self._length(file))
        cells = [file + padding, *(time.rjust(9) for time in times), score.rjust(5), name]
        self._stream.write("  ".join(cells) + "\n")


class RichReport(Report):
    """A table a file, for terminals."""

    def __init__(self, console: Console, selection: Selection) -> None:
        self._console = console
        self._selection = selection

    def add(self, scores: Scores) -> None:
        from rich.table import Table
        from rich.text import Text

        rows = self._selection.rows(scores)
        title = Text(f"{storable(scores.file)}  {scores.duration_s:.1f} s", style="bold")
        self._console.print(title)
        if not rows:
            self._console.print(Text("nothing scores enough; try a lower --threshold", style="dim"), "")
            return
        table = Table(box=None, pad_edge=False)
        for heading in ("start", "end") if self._selection.timeline else ():
            table.add_column(heading, justify="right")
        table.add_column("score", justify="right")
        table.add_column("class")
        for row in rows:
            table.add_row(*_times(row), f"{row['score']:.2f}", Text(row["name"]))
        self._console.print(table, "")


def _times(row: Row) -> tuple[str, ...]:
    return tuple(f"{row[key]:.2f}" for key in ("start_s", "end_s") if key in row)


def _rounded(score: float) -> float:
    """Six digits: what the network computes differs from machine to machine beyond them."""
    return float(f"{score:.6g}")

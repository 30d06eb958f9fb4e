"""Whether a file is what was published under its name, as far as its own structure says.

These checks are for files whose hash is not known, before they are kept. They are quick and catch what downloads do:
a web page in place of the file, a file cut short, another file. Reading the content is for the readers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from audioset.errors import DatasetError

_SEGMENTS_HEADER: Final = 3  # lines
_COUNTS: Final = re.compile(rb"# num_ytids=\d+, num_segs=(\d+), num_unique_labels=\d+, num_positive_labels=(\d+)\s*")
_SEGMENT: Final = re.compile(rb'[\w-]{11}, [\d.]+, [\d.]+, "[^"]*"\s*')
_STRONG_COLUMNS: Final = (b"segment_id", b"start_time_seconds", b"end_time_seconds", b"label")
_SEGMENT_ID: Final = re.compile(rb"[\w-]{11}_\d+")
_MID: Final = re.compile(rb"/[a-z]/\w+")
_YTID: Final = re.compile(rb"[\w-]{11}(?![\w-])")
_SHOWN: Final = 60  # characters of a line that is not as it should be


def check_segments(path: Path) -> None:
    """Raise DatasetError unless a csv of segments has as many rows and labels as its own header says."""
    lines = _lines(path)
    header = [line for _, line in zip(range(_SEGMENTS_HEADER), lines, strict=False)]
    counts = _COUNTS.fullmatch(header[1]) if len(header) == _SEGMENTS_HEADER else None
    if counts is None:
        raise _refused(path, 2, header[1] if len(header) > 1 else b"", "counts such as `# num_ytids=1, num_segs=1, …`")
    num_segments = num_labels = 0
    for number, line in enumerate(lines, start=_SEGMENTS_HEADER + 1):
        if not _SEGMENT.fullmatch(line):
            raise _refused(path, number, line, 'a row such as `YTID, 30.000, 40.000, "mid,mid"`')
        num_segments += 1
        num_labels += line.count(b",") - 2
    expected = int(counts[1]), int(counts[2])
    if (num_segments, num_labels) != expected:
        raise DatasetError(
            f"{_name(path)}: {num_segments:,} segments with {num_labels:,} labels; expected {expected[0]:,} with "
            f"{expected[1]:,}, as its header says."
        )


def check_strong(path: Path, *, num_clips: int | None = None, framed: bool = False) -> None:
    """Raise DatasetError unless a tsv has strong labels, and of as many clips as were published where that is known."""
    columns = (*_STRONG_COLUMNS, b"present") if framed else _STRONG_COLUMNS
    lines = _lines(path)
    header = next(lines, b"").rstrip().split(b"\t")
    if header[: len(_STRONG_COLUMNS)] != list(_STRONG_COLUMNS) or len(header) != len(columns):
        raise _refused(path, 1, b" ".join(header), f"{len(columns)} columns, {b', '.join(_STRONG_COLUMNS).decode()}, …")
    clips: set[bytes] = set()
    for number, line in enumerate(lines, start=2):
        fields = line.rstrip().split(b"\t")
        if len(fields) != len(columns) or not (_SEGMENT_ID.fullmatch(fields[0]) and _MID.fullmatch(fields[3])):
            raise _refused(path, number, line, f"{len(columns)} fields, from YTID_STARTMS to a mid, with tabs between")
        clips.add(fields[0])
    if not clips or (num_clips is not None and len(clips) != num_clips):
        wanted = "some" if num_clips is None else f"{num_clips:,}"
        raise DatasetError(f"{_name(path)}: events of {len(clips):,} clips; expected {wanted}.")


def check_display_names(path: Path) -> None:
    """Raise DatasetError unless a tsv has a mid and a name in each row."""
    number = 0
    for number, line in enumerate(_lines(path), start=1):
        mid, _, name = line.rstrip().partition(b"\t")
        if not (_MID.fullmatch(mid) and name):
            raise _refused(path, number, line, "a mid, a tab and a name")
    _refuse_empty(path, number)


def check_true_counts(path: Path) -> None:
    """Raise DatasetError unless each row of a csv after the first has a class and two whole numbers, rated and true."""
    number = 0
    for number, line in enumerate(_lines(path)):
        fields = line.rstrip().rsplit(b",", 2)
        counts = [field.strip() for field in fields[1:]]
        if number == 0:
            if counts != [b"num_rated", b"num_true"]:
                raise _refused(path, 1, line, "columns that end in num_rated,num_true")
        elif not (len(counts) == 2 and all(count.isdigit() for count in counts) and int(counts[1]) <= int(counts[0])):
            raise _refused(path, number + 1, line, "a class, how many were rated and how many of these were true")
    _refuse_empty(path, number)


def check_video_ids(path: Path) -> None:
    """Raise DatasetError unless every line begins with the id of a video; the first one may be a header."""
    number = 0
    for number, line in enumerate(_lines(path), start=1):
        if not _YTID.match(line) and (number > 1 or b"<" in line):
            raise _refused(path, number, line, "the id of a video")
    _refuse_empty(path, number)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from (line for line in file if line.strip())


def _refuse_empty(path: Path, number: int) -> None:
    if number < 1:
        raise DatasetError(f"{_name(path)}: no rows; expected some.")


def _refused(path: Path, number: int, line: bytes, expected: str) -> DatasetError:
    found = line.strip().decode(errors="replace")[:_SHOWN]
    return DatasetError(f"{_name(path)}: line {number} is {found!r}; expected {expected}.")


def _name(path: Path) -> str:
    return path.name.removesuffix(".part")  # as users know it, while it is on its way

"""How reliable AudioSet's labels are: what raters said of samples of each class, and which videos were rated again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from audioset.classes import class_list
from audioset.dataset import _text
from audioset.dataset.segments import check_columns
from audioset.errors import DatasetError, OptionError

QUALITY_SCHEMA = pa.schema(
    [
        pa.field("mid", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("num_rated", pa.int64(), nullable=False),
        pa.field("num_true", pa.int64(), nullable=False),
        pa.field("quality", pa.float64()),
    ]
)
"""Columns of a table of quality estimates, one row a class; `quality` is null where nothing was rated."""

QUALITY_FILE = "qa_true_counts"
RERATED_FILE = "rerated_video_ids"

_YTID = re.compile(r"[A-Za-z0-9_-]{11}")


def read_quality(path: str | os.PathLike[str] = QUALITY_FILE) -> pa.Table:
    """Return how many labels of each class were rated, and found true, with the columns of `QUALITY_SCHEMA`.

    `quality` is `num_true / num_rated`, from 0 to 1, and null where nothing was rated.

    Parameters
    ----------
    path
        The published `qa_true_counts.csv` (a class by mid or display name, rated, true), plain or gzip; or
        "qa_true_counts", which is fetched unless it is here already.

    Raises
    ------
    DatasetError
        A line is something else, or has a class twice or one that AudioSet does not have; the message names it.
    FetchError
        The file is not here and cannot be fetched.
    """
    path = _find(path, QUALITY_FILE)
    classes = class_list("audioset527")
    rows: dict[str, tuple[str, int, int]] = {}
    for line, text in _text.lines(path):
        # Names have commas, quoted or not; counts do not.
        label, *counts = (cell.strip() for cell in text.rsplit(",", 2))
        if line == 1 and counts == ["num_rated", "num_true"]:
            continue
        if len(counts) != 2 or not all(count.isascii() and count.isdigit() for count in counts):
            raise _refused(path, line, text, "a class and two whole numbers, rated and true")
        num_rated, num_true = map(int, counts)
        if num_true > num_rated:
            raise _refused(path, line, text, "no more true than rated")
        try:
            index = classes.index(label.strip('"'))
        except OptionError as error:
            raise _refused(path, line, text, "one of AudioSet's 527 classes, by mid or display name") from error
        if classes.mids[index] in rows:
            raise _refused(path, line, text, "a class once")
        rows[classes.mids[index]] = classes.names[index], num_rated, num_true
    if not rows:
        raise DatasetError(f"{path}: no classes in it; expected a line each. {_text.again(path)}")
    names, num_rated_of, num_true_of = zip(*rows.values(), strict=True)
    quality = [true / rated if rated else None for rated, true in zip(num_rated_of, num_true_of, strict=True)]
    return pa.table([list(rows), names, num_rated_of, num_true_of, quality], schema=QUALITY_SCHEMA)


def read_rerated(path: str | os.PathLike[str] = RERATED_FILE) -> tuple[str, ...]:
    """Return the ids of the videos whose labels were rated a second time, each once, in the order of the file.

    Parameters
    ----------
    path
        The published `rerated_video_ids.txt`, an id a line, plain or gzip; or "rerated_video_ids", which is fetched
        unless it is here already.

    Raises
    ------
    DatasetError
        A line does not begin with an id; the message names it.
    FetchError
        The file is not here and cannot be fetched.
    """
    path = _find(path, RERATED_FILE)
    ids: dict[str, None] = {}
    for line, text in _text.lines(path):
        ytid = text.split(",")[0].strip()
        if _YTID.fullmatch(ytid):
            ids[ytid] = None
        elif line > 1 or "<" in text:  # a first line may name the column, and no web page is a list
            raise _refused(path, line, text, "the id of a video")
    return tuple(ids)


def with_rerated(segments: pa.Table, ids: Iterable[str]) -> pa.Table:
    """Return segments with one more column, `rerated`: whether the video is among these ids.

    Raises
    ------
    DatasetError
        The table has no column `ytid`.
    """
    check_columns(segments, "ytid")
    found = pc.is_in(segments["ytid"], pa.array(list(ids), pa.string()))
    return _with_column(segments, pa.field("rerated", pa.bool_(), nullable=False), found)


def with_quality(table: pa.Table, quality: pa.Table) -> pa.Table:
    """Return a table that has a column `mid` with one more, `quality`, in the same order; null where none is known.

    Parameters
    ----------
    table
        A row a class, or a row an event, as `read_strong` gives them.
    quality
        What `read_quality` gives.

    Raises
    ------
    DatasetError
        One of the tables lacks a column.
    """
    check_columns(table, "mid")
    check_columns(quality, "mid", "quality")
    found = quality["quality"].take(pc.index_in(table["mid"], pc.cast(quality["mid"], pa.string()).combine_chunks()))
    return _with_column(table, pa.field("quality", pa.float64()), found)


def _with_column(table: pa.Table, field: pa.Field, values: pa.ChunkedArray) -> pa.Table:
    if field.name in table.column_names:
        return table.set_column(table.column_names.index(field.name), field, values)
    return table.append_column(field, values)


def _find(path_or_name: str | os.PathLike[str], name: str) -> Path:
    if isinstance(path_or_name, str) and path_or_name == name:
        from audioset.dataset.fetch import fetch

        return fetch(name)
    path = Path(path_or_name)
    if not os.path.exists(path):
        raise DatasetError(f"{path}: no such file; expected the published file, or {name!r} for the one in the cache")
    return path


def _refused(path: Path, line: int, text: str, expected: str) -> DatasetError:
    return DatasetError(f"{path}, line {line}: {text[:100]!r}; expected {expected}. {_text.again(path)}")

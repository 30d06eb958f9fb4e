"""AudioSet's segments: which ten seconds of which video hold which classes; reading and writing their csv."""

from __future__ import annotations

import csv
import gzip
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from audioset._version import __version__
from audioset.classes import class_list
from audioset.dataset import _text
from audioset.errors import DatasetError, OptionError

SPLITS = ("balanced_train", "eval", "unbalanced_train")
"""Names of the published files of segments."""

SCHEMA = pa.schema(
    [
        pa.field("ytid", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("mids", pa.list_(pa.string()), nullable=False),
        pa.field("indices", pa.list_(pa.int32()), nullable=False),
        pa.field("names", pa.list_(pa.string()), nullable=False),
    ]
)
"""Columns of a table of segments: one row a segment, its labels as three lists in one order."""

UnknownMids = Literal["error", "keep"]

_COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")
_HEADERS = (_COLUMNS, ("ytid", "start_s", "end_s", "mids"))
# Published files have a space before the quote, with which a quote is none to a csv reader.
_SPACED_QUOTE = re.compile(rb',[ \t]+(?=")')
_COMMENTS = re.compile(rb"(?:#[^\n]*\n?|\r?\n)*")
_COUNT = re.compile(rb"\b(num_\w+)=(\d+)")
_NOT_WRITABLE = r'[",\r\n]|^#|^\s|^$'
_ROWS_AT_ONCE = 1 << 16
_UNKNOWN = "the mid"
_SUFFIXES = (".csv", ".csv.gz")


def read_segments(path_or_split: str | os.PathLike[str], *, unknown_mids: UnknownMids = "error") -> pa.Table:
    """Return segments as a table with the columns of `SCHEMA`, one row a line of the csv, in its order.

    `ytid` is the video, `start_s` and `end_s` the seconds in it; `mids` are the labels in the order of the file,
    `indices` their places in the 527 classes, from 0, and `names` their display names. No value is null. With pandas
    installed, `.to_pandas()` gives a data frame.

    Parameters
    ----------
    path_or_split
        A csv, plain or gzip, with the published header, with a line of column names, or without either; or one of
        "balanced_train", "eval" and "unbalanced_train", which is fetched and verified unless it is here already. A
        file with such a name is "./eval".
    unknown_mids : "error" or "keep"
        What becomes of a mid that is not among the 527: an error, or a label with index -1 and its mid for a name.

    Raises
    ------
    DatasetError
        A line is not a segment (the message names it), or there are not as many as the header says.
    FetchError
        The split is not here and cannot be fetched.
    """
    if unknown_mids not in ("error", "keep"):
        raise OptionError(f"unknown_mids: {unknown_mids!r} is unknown; expected 'error' or 'keep'")
    path = _find(path_or_split)
    expected: dict[str, int] = {}
    tables = []
    for first, block in _text.blocks(path):
        line, body = first, block
        if first == 1:
            comments, line, body = _split_header(block)
            expected = {name.decode(): int(count) for name, count in _COUNT.findall(comments)}
        if body.strip():
            tables.append(_parse(body, path, line, unknown_mids))
    if not (tables or expected):
        raise DatasetError(f"{path}: no segments in it; expected a line each. {_text.again(path)}")
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    if expected:
        _check_counts(table, expected, path)
    return table


def write_segments(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Write segments in the layout of the published files, with the counts in the header; whole or not at all.

    Times have three decimals, and more where that would not be the same number. Only the columns `ytid`, `start_s`,
    `end_s` and `mids` are written; reading the file gives the others again. A name that ends in `.csv.gz` is written as
    gzip, always with the same bytes for the same rows.

    Raises
    ------
    OptionError
        The name ends neither in `.csv` nor in `.csv.gz`, or `table` is no table of Arrow's.
    DatasetError
        The table lacks a column or a value, or has an id, a time or a mid that would not come back from the file.
    OutputError
        The file cannot be written.
    """
    from audioset._files import written_whole

    path = Path(path)
    check_suffix(path)
    lines = segment_lines(table, path)
    with written_whole(path) as temporary, temporary.open("wb") as raw:
        if path.suffix.lower() == ".gz":
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream:
                stream.writelines(line.encode() for line in lines)
        else:
            raw.writelines(line.encode() for line in lines)


def check_suffix(path: Path) -> None:
    """Raise OptionError unless a name is one of a csv, plain or gzip."""
    if not path.name.lower().endswith(_SUFFIXES):
        raise OptionError(f"{path}: segments are written as csv; expected a name ending in {' or '.join(_SUFFIXES)}")


def segment_lines(table: pa.Table, subject: object) -> Iterator[str]:
    """Return the lines of a csv of segments, header and all; the arguments' errors are those of `write_segments`."""
    _check_writable(table, subject)
    return _lines(table)


def _lines(table: pa.Table) -> Iterator[str]:
    counts = ", ".join(f"{name}={count}" for name, count in _counts(table).items())
    yield from (f"# Segments csv created by audioset {__version__}\n", f"# {counts}\n", f"# {', '.join(_COLUMNS)}\n")
    for start in range(0, table.num_rows, _ROWS_AT_ONCE):
        rows = table.slice(start, _ROWS_AT_ONCE)
        for ytid, start_s, end_s, mids in zip(
            rows["ytid"].to_pylist(),
            rows["start_s"].to_pylist(),
            rows["end_s"].to_pylist(),
            pc.binary_join(rows["mids"], ",").to_pylist(),
            strict=True,
        ):
            yield f'{ytid}, {_seconds(start_s)}, {_seconds(end_s)}, "{mids}"\n'


def _check_writable(table: pa.Table, path: object) -> None:
    check_columns(table, "ytid", "start_s", "end_s", "mids")
    texts = table["ytid"], pc.list_flatten(table["mids"])
    if any(column.null_count for column in (*texts, table["start_s"], table["end_s"], table["mids"])):
        raise DatasetError(f"{path}: a null cannot be written to a csv of segments; expected every id, time and mid")
    for column in texts:
        bad = column.filter(pc.match_substring_regex(column, _NOT_WRITABLE))
        if len(bad):
            raise DatasetError(
                f"{path}: {bad[0].as_py()!r} cannot be written to a csv of segments; expected ids and mids that are "
                "not empty and have no quotes, commas, line ends, or # or space in front"
            )
    wrong = np.flatnonzero(~_in_order(table["start_s"].to_numpy(), table["end_s"].to_numpy()))
    if len(wrong):
        ytid, start_s, end_s = (table[name][int(wrong[0])].as_py() for name in ("ytid", "start_s", "end_s"))
        raise DatasetError(
            f"{path}: {ytid} from {start_s} to {end_s} s cannot be written to a csv of segments; expected "
            "0 ≤ start_s < end_s"
        )


def durations_s(table: pa.Table) -> npt.NDArray[np.float64]:
    """Return the length of each segment in seconds, to the millisecond, shape (rows,)."""
    check_columns(table, "start_s", "end_s")
    # Times have three decimals, differences of floats a few more: 249.8 − 239.8 is above 10.
    lengths: npt.NDArray[np.float64] = np.round(table["end_s"].to_numpy() - table["start_s"].to_numpy(), 3)
    return lengths


def check_columns(table: pa.Table, *names: str) -> None:
    """Raise DatasetError unless a table has these columns, OptionError unless it is a table of Arrow's."""
    if not isinstance(table, pa.Table):
        raise OptionError(
            f"table: a {type(table).__name__}; expected a pyarrow.Table. Of a data frame, "
            "pyarrow.Table.from_pandas makes one"
        )
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise DatasetError(
            f"table: no column {', '.join(map(repr, missing))} among {', '.join(table.column_names) or 'none'}; "
            f"expected {', '.join(names)}. Read it with the function for its kind of file"
        )


def _find(path_or_split: str | os.PathLike[str]) -> Path:
    if isinstance(path_or_split, str) and path_or_split in SPLITS:
        from audioset.dataset.fetch import fetch

        return fetch(path_or_split)
    path = Path(path_or_split)
    if not os.path.exists(path):
        raise DatasetError(f"{path}: no such file; expected a csv of segments, or one of {', '.join(SPLITS)}")
    return path


def _split_header(block: bytes) -> tuple[bytes, int, bytes]:
    """The comments at the top, the number of the first line of data, and the data."""
    top = _COMMENTS.match(block)
    at = top.end() if top else 0
    line = block.count(b"\n", 0, at) + 1
    end = block.find(b"\n", at) + 1 or len(block)
    try:
        names = tuple(cell.strip().strip('"') for cell in block[at:end].decode("utf-8").split(","))
    except UnicodeDecodeError:  # the line is named when it is parsed
        names = ()
    if names in _HEADERS:
        line, at = line + 1, end
    return block[: top.end() if top else 0], line, block[at:]


def _parse(body: bytes, path: Path, line: int, unknown_mids: UnknownMids) -> pa.Table:
    data = _SPACED_QUOTE.sub(b",", body)
    try:
        if data.count(b'"') % 2:  # Arrow takes the end of the file for a missing quote
            raise _NotASegmentError("a quote without its other")
        raw = pa_csv.read_csv(
            pa.BufferReader(data),
            pa_csv.ReadOptions(column_names=_COLUMNS, block_size=len(data) + 1),
            pa_csv.ParseOptions(),
            pa_csv.ConvertOptions(
                column_types=dict(zip(_COLUMNS, (pa.string(), pa.float64(), pa.float64(), pa.string()), strict=True)),
                null_values=[],
            ),
        ).combine_chunks()
        columns = [raw[name].combine_chunks() for name in _COLUMNS]
        columns = [column.chunk(0) if isinstance(column, pa.ChunkedArray) else column for column in columns]
        ytid, start_s, end_s, labels = columns
        _check_times(ytid, start_s.to_numpy(), end_s.to_numpy())
        return _with_labels(ytid, start_s, end_s, labels, unknown_mids)
    except (pa.ArrowException, _NotASegmentError) as error:
        _raise_for_line(body, path, line, unknown_mids, error)


class _NotASegmentError(ValueError):
    """Some row is wrong; which one is looked up afterwards."""


def _check_times(ytid: pa.StringArray, start_s: npt.NDArray[np.float64], end_s: npt.NDArray[np.float64]) -> None:
    if not _in_order(start_s, end_s).all() or pc.any(pc.equal(ytid, "")).as_py():
        raise _NotASegmentError


def _in_order(start_s: npt.NDArray[np.float64], end_s: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether each segment begins and then ends; with NaN it does not."""
    in_order: npt.NDArray[np.bool_] = (start_s >= 0) & (end_s > start_s) & np.isfinite(end_s)
    return in_order


def _with_labels(
    ytid: pa.StringArray,
    start_s: pa.DoubleArray,
    end_s: pa.DoubleArray,
    labels: pa.StringArray,
    unknown_mids: UnknownMids,
) -> pa.Table:
    lists = pc.split_pattern(labels, ",")
    without = pc.equal(pc.utf8_trim_whitespace(labels), "")
    if pc.any(without).as_py():
        lists = pc.if_else(without, pa.scalar([], lists.type), lists)
    # Each of the few mids is looked up once, then taken as often as it occurs.
    encoded = lists.flatten().dictionary_encode()
    mids = [mid.strip() for mid in encoded.dictionary.to_pylist()]
    place = {mid: index for index, mid in enumerate(class_list("audioset527").mids)}
    indices = np.array([place.get(mid, -1) for mid in mids], np.int32)
    if "" in mids or (unknown_mids == "error" and (indices < 0).any()):
        raise _NotASegmentError
    names_of_all = class_list("audioset527").names
    names = [names_of_all[index] if index >= 0 else mid for mid, index in zip(mids, indices, strict=True)]
    offsets = pa.array(np.append(0, np.cumsum(pc.list_value_length(lists).to_numpy(zero_copy_only=False))), pa.int32())
    columns = [
        pa.ListArray.from_arrays(offsets, pa.array(values, kind).take(encoded.indices))
        for values, kind in ((mids, pa.string()), (indices, pa.int32()), (names, pa.string()))
    ]
    return pa.Table.from_arrays([ytid, start_s, end_s, *columns], schema=SCHEMA)


def _raise_for_line(body: bytes, path: Path, first: int, unknown_mids: UnknownMids, error: Exception) -> NoReturn:
    """Find the line that the fast way refused, one after the other, and raise an error that names it."""
    known = frozenset(class_list("audioset527").mids)
    for line, raw in enumerate(body.splitlines(), first):
        found = _text.decoded(raw, path, line)
        fault = _fault(found, None if unknown_mids == "keep" else known)
        if fault:
            shown = found if len(found) <= 100 else f"{found[:100]}…"
            instead = ', or keep such mids with unknown_mids="keep"' if fault.startswith(_UNKNOWN) else ""
            raise DatasetError(
                f"{path}, line {line}: {fault} in {shown!r}; expected YTID, start_seconds, end_seconds, "
                f'"mid,mid". Mend the line{instead}'
            ) from error
    raise DatasetError(f"{path}: cannot be read as a csv of segments ({error}). {_text.again(path)}") from error


def _fault(line: str, known: frozenset[str] | None) -> str | None:
    """What is wrong with a line, None if nothing; any mid will do without `known`."""
    if line.count('"') % 2:
        return "a quote without its other"
    try:
        cells = next(csv.reader([line], skipinitialspace=True, strict=True))
    except csv.Error as error:
        return str(error)
    if not cells:  # a blank line
        return None
    if len(cells) != len(_COLUMNS):
        return f"{len(cells)} values where 4 belong"
    if not cells[0]:
        return "no id"
    try:
        start_s, end_s = float(cells[1]), float(cells[2])
    except ValueError:
        return "times that are not numbers"
    if "_" in cells[1] + cells[2]:  # a digit separator to Python alone
        return "times that are not numbers"
    if not (0 <= start_s < end_s < math.inf):
        return "times that are not one after the other"
    mids = [mid.strip() for mid in cells[3].split(",")] if cells[3].strip() else []
    if "" in mids:
        return "an empty label"
    unknown = [mid for mid in mids if known is not None and mid not in known]
    return f"{_UNKNOWN} {unknown[0]!r}, not among the 527 classes," if unknown else None


def _counts(table: pa.Table) -> dict[str, int]:
    mids = pc.list_flatten(table["mids"])
    return {
        "num_ytids": pc.count_distinct(table["ytid"]).as_py(),
        "num_segs": table.num_rows,
        "num_unique_labels": pc.count_distinct(mids).as_py(),
        "num_positive_labels": len(mids),
    }


def _check_counts(table: pa.Table, expected: dict[str, int], path: Path) -> None:
    for name, found in _counts(table).items():
        if expected.get(name, found) != found:
            raise DatasetError(
                f"{path}: {name} is {found:,} in its lines; expected {expected[name]:,}, as its header says. It may "
                f"have been cut short or changed. {_text.again(path)}, or remove the lines that start with #"
            )


def _seconds(value: float) -> str:
    text = f"{value:.3f}"
    return text if float(text) == value else repr(value)

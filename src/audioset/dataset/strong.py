"""AudioSet's strong labels (2021): which events begin and end where in a segment, as a table."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from audioset.classes import class_list
from audioset.dataset import _text
from audioset.errors import DatasetError

STRONG_FILES = ("train_strong", "eval_strong", "eval_strong_framed")
"""Names of the published files of strong labels."""

EVENTS_SCHEMA = pa.schema(
    [
        pa.field("ytid", pa.string(), nullable=False),
        pa.field("segment_start_s", pa.float64(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("mid", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
    ]
)
"""Columns of a table of events, one a row."""

FRAMES_SCHEMA = EVENTS_SCHEMA.append(pa.field("present", pa.bool_(), nullable=False))
"""Columns of the labels in frames of 0.96 s: those of events, and whether the class is there or is known not to be."""

_COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label", "present")
_PRESENT, _NOT_PRESENT = "PRESENT", "NOT_PRESENT"
# Ids may have underscores of their own: the milliseconds follow the last one.
_SEGMENT_ID = r"^(?P<ytid>.+)_(?P<start_ms>[0-9]{1,15})$"


def read_strong(path_or_name: str | os.PathLike[str], *, names: str | os.PathLike[str] | None = None) -> pa.Table:
    """Return strong labels as a table with the columns of `EVENTS_SCHEMA`, one row a line of the file, in its order.

    The segment is the video `ytid` from `segment_start_s` on; `start_s` and `end_s` are seconds within the segment, so
    that the event begins at `segment_start_s + start_s` of the video. `index` is the place of the class in the 527, or
    -1 for one that is not among them. The file of frames has one more column, `present`, as `FRAMES_SCHEMA` says.

    Parameters
    ----------
    path_or_name
        A tsv as published, plain or gzip; or "train_strong", "eval_strong" or "eval_strong_framed", which is fetched
        unless it is here already. A file with such a name is "./eval_strong".
    names
        The published `mid_to_display_name.tsv`, for names of mids that are not in the ontology; by default the one in
        the folder of the file if there is one, and with a published name the one that is fetched. A mid that has a
        name nowhere is its own.

    Raises
    ------
    DatasetError
        A line is not an event (the message names it), or the file is none of strong labels.
    FetchError
        The file is not here and cannot be fetched.
    """
    path, names_path = _find(path_or_name, names)
    tables, num_columns = [], 0
    for first, block in _text.blocks(path):
        line, body = first, block
        if first == 1:
            num_columns, body = _split_header(block, path)
            line = 2
        if body.strip():
            tables.append(_parse(body, path, line, num_columns))
    schema = FRAMES_SCHEMA if num_columns == len(_COLUMNS) else EVENTS_SCHEMA
    events = pa.concat_tables(tables) if tables else schema.empty_table().drop_columns(["name", "index"])
    encoded = events["mid"].combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    found, indices = _names(encoded.dictionary.to_pylist(), names_path)
    columns = {name: events[name] for name in events.column_names}
    columns["name"] = pa.array(found, pa.string()).take(encoded.indices)
    columns["index"] = pa.array(indices, pa.int32()).take(encoded.indices)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def read_display_names(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the names of mids from the published `mid_to_display_name.tsv`: a mid, a tab and a name a line.

    Raises
    ------
    DatasetError
        A line is something else; the message names it.
    """
    path = Path(path)
    names = {}
    for line, text in _text.lines(path):
        mid, tab, name = text.partition("\t")
        if not (tab and mid.strip() and name.strip()):
            raise DatasetError(f"{path}, line {line}: {text[:100]!r}; expected a mid, a tab and a name. Mend the line")
        names[mid.strip()] = name.strip()
    return names


def _find(path_or_name: str | os.PathLike[str], names: str | os.PathLike[str] | None) -> tuple[Path, Path | None]:
    if isinstance(path_or_name, str) and path_or_name in STRONG_FILES:
        from audioset.dataset.fetch import fetch

        return fetch(path_or_name), Path(names) if names is not None else fetch("mid_to_display_name")
    path = Path(path_or_name)
    if not os.path.exists(path):
        raise DatasetError(f"{path}: no such file; expected strong labels, or one of {', '.join(STRONG_FILES)}")
    beside = path.with_name("mid_to_display_name.tsv")
    return path, Path(names) if names is not None else beside if os.path.exists(beside) else None


def _split_header(block: bytes, path: Path) -> tuple[int, bytes]:
    """How many columns there are, and the lines below their names."""
    end = block.find(b"\n") + 1 or len(block)
    names = tuple(name.strip() for name in _text.decoded(block[:end], path, 1).split("\t"))
    if names not in (_COLUMNS, _COLUMNS[:-1]):
        raise DatasetError(
            f"{path}, line 1: columns {', '.join(names)[:100]!r}; expected {', '.join(_COLUMNS[:-1])} with tabs "
            "between, and perhaps present. Strong labels are read with their header"
        )
    return len(names), block[end:]


def _parse(body: bytes, path: Path, line: int, num_columns: int) -> pa.Table:
    """The columns of the schema that need no names, of some lines."""
    names = _COLUMNS[:num_columns]
    kinds = (pa.string(), pa.float64(), pa.float64(), pa.string(), pa.string())
    try:
        raw = pa_csv.read_csv(
            pa.BufferReader(body),
            pa_csv.ReadOptions(column_names=names, block_size=len(body) + 1),
            pa_csv.ParseOptions(delimiter="\t", quote_char=False),
            pa_csv.ConvertOptions(column_types=dict(zip(names, kinds[:num_columns], strict=True)), null_values=[]),
        )
        ids = pc.extract_regex(raw["segment_id"], _SEGMENT_ID)
        start_s, end_s = raw["start_time_seconds"].to_numpy(), raw["end_time_seconds"].to_numpy()
        _check(ids, start_s, end_s, raw["label"])
        columns = {
            "ytid": pc.struct_field(ids, 0),
            "segment_start_s": pc.divide(pc.cast(pc.struct_field(ids, 1), pa.float64()), 1000.0),
            "start_s": raw["start_time_seconds"],
            "end_s": raw["end_time_seconds"],
            "mid": raw["label"],
        }
        if num_columns == len(_COLUMNS):
            columns["present"] = _is_present(raw["present"])
        return pa.table(columns)
    except (pa.ArrowException, _NotAnEventError) as error:
        _raise_for_line(body, path, line, num_columns, error)


class _NotAnEventError(ValueError):
    """Some row is wrong; which one is looked up afterwards."""


def _check(
    ids: pa.ChunkedArray, start_s: npt.NDArray[np.float64], end_s: npt.NDArray[np.float64], mids: pa.ChunkedArray
) -> None:
    # Comparisons with NaN are false, so this refuses it too.
    times = ((start_s >= 0) & (end_s >= start_s) & np.isfinite(end_s)).all()
    if ids.null_count or not times or pc.any(pc.equal(mids, "")).as_py():
        raise _NotAnEventError


def _is_present(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pc.all(pc.is_in(values, pa.array([_PRESENT, _NOT_PRESENT]))).as_py():
        raise _NotAnEventError
    return pc.equal(values, _PRESENT)


def _raise_for_line(body: bytes, path: Path, first: int, num_columns: int, error: Exception) -> NoReturn:
    """Find the line that the fast way refused, one after the other, and raise an error that names it."""
    for line, raw in enumerate(body.splitlines(), first):
        text = _text.decoded(raw, path, line)
        fault = _fault(text.split("\t"), num_columns) if text else None
        if fault:
            raise DatasetError(
                f"{path}, line {line}: {fault} in {text[:100]!r}; expected {', '.join(_COLUMNS[:num_columns])} with "
                "tabs between. Mend the line"
            ) from error
    raise DatasetError(f"{path}: cannot be read as strong labels ({error}). {_text.again(path)}") from error


def _fault(cells: list[str], num_columns: int) -> str | None:
    if len(cells) != num_columns:
        return f"{len(cells)} values where {num_columns} belong"
    if not re.match(_SEGMENT_ID, cells[0]):
        return "an id that is not YTID_MILLISECONDS"
    try:
        start_s, end_s = float(cells[1]), float(cells[2])
    except ValueError:
        return "times that are not numbers"
    if "_" in cells[1] + cells[2]:  # a digit separator to Python alone
        return "times that are not numbers"
    if not (0 <= start_s <= end_s < math.inf):
        return "times that are not one after the other"
    if not cells[3]:
        return "no label"
    if num_columns == len(_COLUMNS) and cells[4] not in (_PRESENT, _NOT_PRESENT):
        return f"neither {_PRESENT} nor {_NOT_PRESENT}"
    return None


def _names(mids: list[str], names_path: Path | None) -> tuple[list[str], list[int]]:
    """Names of mids, from the 527 classes, else the ontology, else the file; and their places in the 527, or -1."""
    from audioset.dataset.ontology import Ontology

    classes = class_list("audioset527")
    place = {mid: index for index, mid in enumerate(classes.mids)}
    indices = [place.get(mid, -1) for mid in mids]
    others = read_display_names(names_path) if names_path is not None else {}
    known = others | {node.mid: node.name for node in Ontology.load().nodes}
    known |= dict(zip(classes.mids, classes.names, strict=True))
    return [known.get(mid, mid) for mid in mids], indices

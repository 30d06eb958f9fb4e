"""Which clips are wanted, which share of them is ours, and what their files are called."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from audioset.dataset import _text
from audioset.errors import DatasetError, OptionError

if TYPE_CHECKING:
    import pyarrow as pa

    Segments: TypeAlias = "str | os.PathLike[str] | pa.Table"

_ID: Final = "[A-Za-z0-9_-]{1,64}"
_LONGEST_S: Final = 1e7  # four months; times beyond are mistakes
_YOUTUBE_ID: Final = re.compile(r"(?:youtu\.be/|[?&]v=|/shorts/|/embed/)([A-Za-z0-9_-]{11})(?![A-Za-z0-9_-])")


@dataclass(frozen=True, slots=True)
class Clip:
    """From `start_s` up to `end_s` of one video; `url` is None where its address follows from `ytid`."""

    ytid: str
    start_s: float
    end_s: float
    url: str | None = None

    @property
    def key(self) -> str:
        """`YTID_START`, with the start in milliseconds, as AudioSet's strong labels name segments."""
        return f"{self.ytid}_{round(self.start_s * 1000)}"


@dataclass(frozen=True)
class Selection:
    """The clips of one shard, in order and each once, and `clashing`: keys of all shards, in lower case, that differ in
    nothing but case from others.
    """

    clips: tuple[Clip, ...]
    clashing: frozenset[str]


def select_clips(
    segments: Segments, classes: Sequence[str] = (), limit: int | None = None, shard: tuple[int, int] = (1, 1)
) -> Selection:
    """Return the clips that a table, a csv or a split names: of the first `limit` with `classes`, those of a shard.

    Raises
    ------
    DatasetError
        If ids, times or columns are not as they should be, or one segment is there twice with different ends.
    OptionError
        If `classes` are unknown, or asked for where rows have no labels.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table, name = _read(segments)
    columns = table.column_names
    if not {"start_s", "end_s"} <= set(columns) or not {"ytid", "url"} & set(columns):
        raise DatasetError(
            f"{name}: columns {', '.join(columns)}; expected start_s, end_s and ytid or url. Rename the columns"
        )
    if classes and not ("mids" in columns and pa.types.is_list(table.schema.field("mids").type)):
        raise OptionError(f"--classes: {name} has no labels; expected AudioSet's segments. Leave --classes out")
    if "ytid" not in columns:
        table = table.append_column("ytid", pa.array([_id_of(url) for url in table["url"].to_pylist()], pa.string()))
    _check(table, name, _place_in(segments, table))
    if classes:
        from audioset.dataset.subset import select_classes

        table = select_classes(table, classes)
    milliseconds = pc.cast(pc.round(pc.multiply(table["start_s"], 1000.0)), pa.int64())
    table = table.append_column(
        "key", pc.binary_join_element_wise(table["ytid"], pc.cast(milliseconds, pa.string()), "_")
    )
    table = _each_once(table, name)[:limit]
    counted = pc.value_counts(pc.utf8_lower(table["key"]))
    clashing = counted.field("values").filter(pc.greater(counted.field("counts"), 1)).to_pylist()
    mine = table.take(pa.array(range(shard[0] - 1, len(table), shard[1]), pa.int64()))
    urls = mine["url"].to_pylist() if "url" in columns else [None] * len(mine)
    rows = zip(*(mine[column].to_pylist() for column in ("ytid", "start_s", "end_s")), urls, strict=True)
    return Selection(tuple(Clip(*row) for row in rows), frozenset(clashing))


def parse_shard(text: str) -> tuple[int, int]:
    """Return (I, N) of `I/N`: the I-th of N shares, counted from 1."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise OptionError(f"--shard {text}: expected I/N with I from 1 to N, such as 1/4 to 4/4")
    return int(found[1]), int(found[2])


def stem(key: str, *, clashes: bool) -> str:
    """Return the name of a clip's files without ending: the key.

    One that differs from another key in nothing but case ends in `~` and its case in hexadecimal, so that names are
    different on every disk, and the same whoever computes them.
    """
    return f"{key}~{_case(key):x}" if clashes else key


def _case(key: str) -> int:
    return sum(letter.isupper() << place for place, letter in enumerate(key))


def _read(segments: Segments) -> tuple[Any, str]:
    """The table, and what to call it in messages."""
    if not isinstance(segments, str | os.PathLike):
        return segments, "segments"
    name, path = os.fspath(segments), Path(segments)
    if path.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_table(path), name
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{name}: not readable as Parquet ({error}); expected a table of segments") from error
    from audioset.dataset.segments import SPLITS, read_segments

    if segments not in SPLITS and path.is_file() and _has_columns(path):
        return _own_csv(path, name), name
    return read_segments(segments), name


def _has_columns(path: Path) -> bool:
    """Whether a text file, plain or gzip, is a table with names of columns in its first line, not AudioSet's csv."""
    with _text.opened(path) as file:
        line = file.readline(1000).decode("utf-8-sig", errors="replace")
    names = [word.strip().strip('"') for word in line.split(",")]
    return bool({"url", "ytid"} & set(names)) and names != ["ytid", "start_s", "end_s", "mids"]


def _own_csv(path: Path, name: str) -> Any:
    import pyarrow as pa
    import pyarrow.csv

    # Said, not guessed from the rows: ids may be digits only, and there may be no rows.
    types = {"url": pa.string(), "ytid": pa.string(), "start_s": pa.float64(), "end_s": pa.float64()}
    try:
        with _text.opened(path) as file:
            return pyarrow.csv.read_csv(
                file,
                pyarrow.csv.ReadOptions(use_threads=False),  # with which errors know the row
                convert_options=pyarrow.csv.ConvertOptions(column_types=types),
            )
    except pa.ArrowException as error:
        row = re.search(r"Row #(\d+): ", str(error))
        where = f"{name}, line {_lines_of(path)[int(row[1]) - 1]}" if row else name
        said = re.sub(r"Row #\d+: ", "", str(error))
        raise DatasetError(f"{where}: {said}; expected columns start_s, end_s and ytid or url") from error


def _lines_of(path: Path) -> list[int]:
    """The numbers of the lines that are not blank."""
    return [number for number, _ in _text.lines(path)]


def _place_in(segments: Segments, table: Any) -> Callable[[int], str]:
    """What tells where a row of the table is, from 0: its line, or where there are none its number."""

    def place(row: int) -> str:
        if not isinstance(segments, str | os.PathLike) or not Path(segments).is_file():
            return f"row {row + 1}"
        if Path(segments).suffix.lower() == ".parquet":
            return f"row {row + 1}"
        return f"line {_lines_of(Path(segments))[row - len(table)]}"  # the rows are the last lines

    return place


def _check(table: Any, name: str, place: Callable[[int], str]) -> None:
    """Raise DatasetError for the first row whose id cannot name a file, or whose times are none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        good_id = pc.match_substring_regex(table["ytid"], f"^{_ID}$")
        good_times = pc.and_(pc.greater_equal(table["start_s"], 0.0), pc.less(table["start_s"], table["end_s"]))
        good_times = pc.and_(good_times, pc.less(table["end_s"], _LONGEST_S))
    except pa.ArrowException as error:
        raise DatasetError(f"{name}: {error}; expected ytid as text, start_s and end_s as seconds") from error
    for good, expected in (
        (good_id, "letters, digits, - and _ only in an id, as YouTube's have"),
        (good_times, "0 ≤ start_s < end_s"),
    ):
        row = pc.index(pc.fill_null(good, False), False).as_py()
        if row >= 0:
            ytid, start_s, end_s = (table[column][row].as_py() for column in ("ytid", "start_s", "end_s"))
            raise DatasetError(
                f"{name}, {place(row)}: {ytid!r} from {start_s} to {end_s} s; expected {expected}. Mend or delete it"
            )


def _each_once(table: Any, name: str) -> Any:
    """The first row of each key; DatasetError where another has other ends, as files are named by the key."""
    import pyarrow.compute as pc

    if pc.count_distinct(table["key"]).as_py() == len(table):
        return table
    first: dict[str, tuple[int, float]] = {}
    for row, (key, end_s) in enumerate(zip(table["key"].to_pylist(), table["end_s"].to_pylist(), strict=True)):
        known = first.setdefault(key, (row, end_s))
        if known[1] != end_s:
            raise DatasetError(
                f"{name}: {key} ends at {known[1]} and at {end_s} s; expected one clip for each id and start, by which "
                "files are named. Leave one of them out"
            )
    return table.take([row for row, _ in first.values()])


def _id_of(url: object) -> str | None:
    """What to call a video: its id if its address is YouTube's, else the beginning of a hash; None without address."""
    if not url:
        return None
    found = _YOUTUBE_ID.search(str(url))
    return found[1] if found else hashlib.sha256(str(url).encode()).hexdigest()[:11]

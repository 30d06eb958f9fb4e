"""Which clips are wanted, which share of them is ours, and what their files are called."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from audioset.errors import DatasetError, OptionError

if TYPE_CHECKING:
    import pyarrow as pa

    Segments: TypeAlias = "str | os.PathLike[str] | pa.Table"

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
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


def read_clips(segments: Segments, classes: Sequence[str] = ()) -> list[Clip]:
    """Return the clips that a table, a csv file or a split names, in order and each once.

    Raises
    ------
    DatasetError
        If ids, times or columns are not as they should be, or one segment is there twice with different ends.
    OptionError
        If `classes` are unknown, or asked for where rows have no labels.
    """
    table, name = _read(segments)
    if classes:
        table = _of_classes(table, classes, name)
    columns = table.column_names
    if not {"start_s", "end_s"} <= set(columns) or not {"ytid", "url"} & set(columns):
        raise DatasetError(
            f"{name}: columns {', '.join(columns)}; expected start_s, end_s and ytid or url. Rename the columns"
        )
    urls = table["url"].to_pylist() if "url" in columns else [None] * len(table)
    ytids = table["ytid"].to_pylist() if "ytid" in columns else [_id_of(url) for url in urls]
    found: dict[str, Clip] = {}
    for row in zip(ytids, table["start_s"].to_pylist(), table["end_s"].to_pylist(), urls, strict=True):
        clip = _checked(Clip(*row), name)
        if found.setdefault(clip.key, clip) != clip:
            raise DatasetError(
                f"{name}: {clip.key} ends at {found[clip.key].end_s} and at {clip.end_s} s; expected one clip for each "
                "id and start, by which files are named. Leave one of them out"
            )
    return list(found.values())


def parse_shard(text: str) -> tuple[int, int]:
    """Return (I, N) of `I/N`: the I-th of N shares, counted from 1."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise OptionError(f"--shard {text}: expected I/N with I from 1 to N, such as 1/4 to 4/4")
    return int(found[1]), int(found[2])


def stems(clips: Iterable[Clip], taken: Mapping[str, str]) -> dict[str, str]:
    """Return the name of each clip's files without ending, by key.

    It is the key, unless another key differs from it in nothing but case: among `clips`, or in `taken`, which has names
    in lower case and whose they are. Such names end in `~` and their case in hexadecimal, so that they are different on
    every disk, and the same whoever computes them.
    """
    keys = [clip.key for clip in clips]
    counted = Counter(key.lower() for key in keys)
    return {
        key: f"{key}~{_case(key):x}" if counted[key.lower()] > 1 or taken.get(key.lower(), key) != key else key
        for key in keys
    }


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
    if path.suffix.lower() == ".csv" and _begins_with_url(path):
        import pyarrow as pa
        import pyarrow.csv

        try:
            return pyarrow.csv.read_csv(path), name
        except pa.ArrowException as error:
            raise DatasetError(f"{name}: {error}; expected columns url, start_s and end_s") from error
    from audioset.dataset.segments import read_segments

    return read_segments(segments), name


def _begins_with_url(path: Path) -> bool:
    """Whether a csv file is one of our own kind, with a header line that has a column `url`."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return "url" in [word.strip().strip('"') for word in file.readline(1000).split(",")]
    except OSError:
        return False  # read_segments says what is the matter


def _of_classes(table: Any, classes: Sequence[str], name: str) -> Any:
    """The rows that have one of the classes, each given by display name or mid."""
    if "mids" not in table.column_names:
        raise OptionError(f"--classes: {name} has no labels; expected AudioSet's segments. Leave --classes out")
    from audioset.classes import class_list

    known = class_list("audioset527")
    wanted = {known.mids[known.index(one)] for one in classes}
    return table.filter([not wanted.isdisjoint(mids) for mids in table["mids"].to_pylist()])


def _checked(clip: Clip, name: str) -> Clip:
    if not isinstance(clip.ytid, str) or not _ID.fullmatch(clip.ytid):
        raise DatasetError(f"{name}: id {clip.ytid!r}; expected letters, digits, - and _ only, as YouTube's ids have")
    times = (clip.start_s, clip.end_s)
    if not all(isinstance(time, int | float) and math.isfinite(time) for time in times) or not 0 <= times[0] < times[1]:
        raise DatasetError(f"{name}: {clip.ytid} from {times[0]} to {times[1]} s; expected 0 ≤ start_s < end_s")
    return clip


def _id_of(url: object) -> str:
    """What to call a video by its address: its id if it is YouTube's, else the beginning of a hash."""
    found = _YOUTUBE_ID.search(str(url))
    return found[1] if found else hashlib.sha256(str(url).encode()).hexdigest()[:11]

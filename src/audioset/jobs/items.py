"""What a job embeds: recordings, parts of recordings and archives of them, as one table with a key a row."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from audioset import storage
from audioset.errors import AudioError, OptionError
from audioset.inputs import STDIN
from audioset.records.info import storable
from audioset.storage.names import MEMBER_MARK, split_member

if TYPE_CHECKING:
    import pyarrow as pa

# What users call the columns, by what they mean.
_COLUMNS = {
    "file": ("path", "file", "url"),
    "start_s": ("start_s", "start"),
    "end_s": ("end_s", "end"),
    "id": ("id",),
    "size": ("size", "bytes"),
}


@dataclass(frozen=True)
class Item:
    """One thing to embed.

    Attributes
    ----------
    file : str
        A recording, or an archive of recordings; a path or a URL.
    start_s, end_s : float or None
        The part of it, in seconds; None is its beginning, and its end.
    id : str or None
        What its rows are called besides.
    """

    file: str
    start_s: float | None = None
    end_s: float | None = None
    id: str | None = None

    @property
    def key(self) -> str:
        """What tells it from the other items of its job: the id, or the file with its part, ``a.wav#t=5.0,9.5``."""
        if self.id is not None:
            return self.id
        if self.start_s is None and self.end_s is None:
            return storable(self.file)
        end = "" if self.end_s is None else f",{self.end_s!r}"
        return f"{storable(self.file)}#t={0.0 if self.start_s is None else self.start_s!r}{end}"


class Items:
    """The items of a job, in order, held in Arrow columns: some 100 bytes each, so that millions fit.

    Parameters
    ----------
    table : pyarrow.Table
        Columns ``file``, ``start_s``, ``end_s``, ``id``, ``size`` as `from_names` and `read_manifest` make them.

    Raises
    ------
    OptionError
        Two items have one key: what is done could not be told from what is not. Or one is in an archive
        that is another.
    """

    def __init__(self, table: pa.Table) -> None:
        import pyarrow as pa

        self._table = table
        self._check_members()
        named = self.has_ids or self.has_windows
        self.keys: pa.ChunkedArray = table.column("file")
        if named:  # in pieces: one array holds no more than 2 GiB of text
            self.keys = pa.chunked_array(([item.key for item in batch] for batch in self._batches()), pa.string())
        self._check_keys()

    @property
    def has_ids(self) -> bool:
        """Whether the items have ids."""
        return bool(self._table.column("id").null_count < len(self))

    @property
    def has_windows(self) -> bool:
        """Whether some items are parts of files."""
        return any(self._table.column(name).null_count < len(self) for name in ("start_s", "end_s"))

    @property
    def sizes(self) -> npt.NDArray[np.float64]:
        """Bytes of each file, NaN where not known."""
        return np.asarray(self._table.column("size").cast("float64").to_numpy(zero_copy_only=False), np.float64)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[Item]:
        for batch in self._batches():
            yield from batch

    def _batches(self) -> Iterator[Iterator[Item]]:
        for batch in self._table.select(["file", "start_s", "end_s", "id"]).to_batches(8192):
            yield map(Item, *(column.to_pylist() for column in batch.columns))

    def take(self, rows: npt.NDArray[np.int64]) -> list[Item]:
        """Return the items of these rows."""
        import pyarrow as pa

        part = self._table.select(["file", "start_s", "end_s", "id"]).take(pa.array(rows))
        return list(map(Item, *(part.column(name).to_pylist() for name in part.column_names)))

    def _check_members(self) -> None:
        import pyarrow.compute as pc

        files = self._table.column("file")
        within = files.filter(pc.match_substring(files, MEMBER_MARK)).to_pylist()
        members = {name: parts[0] for name in within if (parts := split_member(name)) is not None}
        if not members:
            return
        whole = set(members.values()).intersection(files.to_pylist())
        for name, archive in members.items():
            if archive in whole:
                raise OptionError(
                    f"{storable(name)}: is in {archive}, which is an item too; its rows would be there twice. Leave "
                    "out one of them"
                )

    def _check_keys(self) -> None:
        import pyarrow.compute as pc

        counts = pc.value_counts(self.keys)
        twice = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(twice):
            first = twice[0].as_py()
            raise OptionError(
                f"{first['values']}: {first['counts']} items are called that, and {len(twice) - 1:,} more names come "
                "several times; expected each once. Leave out what is double, or give each row an id of its own"
            )


def from_names(names: Iterable[str], sizes: Mapping[str, int] | None = None) -> Items:
    """Return the items that these files are; sizes of local ones are looked up, those of others may be given.

    Raises
    ------
    OptionError
        Standard input is among them, which cannot be read again.
    """
    files = list(names)
    known = {} if sizes is None else sizes
    return _items(files, sizes=[known.get(name) or _local_size(name) for name in files])


def read_manifest(path: str | os.PathLike[str]) -> Items:
    """Return the items of a table: Parquet or CSV with a header.

    Parameters
    ----------
    path
        A file or URL. Columns: ``path`` (or ``file``, ``url``); and, where wanted, ``start_s`` and ``end_s`` (seconds
        in the file; empty for its beginning and end), ``id`` (text, each once), ``size`` (bytes, by which work is
        divided evenly). Others are left alone. Relative paths count from the working folder.

    Raises
    ------
    OptionError
        The table cannot be read, lacks a column, or has a row that makes no sense, which is named.
    """
    import pyarrow as pa

    name = os.fspath(path)
    table = _read_table(name)
    names = table.column_names
    found = {ours: next((known for known in theirs if known in names), None) for ours, theirs in _COLUMNS.items()}
    if twice := [column for column in found.values() if names.count(column) > 1]:
        raise OptionError(f"{name}: {names.count(twice[0])} columns are called {twice[0]}; expected one of each name")
    if found["file"] is None:
        raise OptionError(
            f"{name}: no column called path; found {', '.join(names) or 'none'}. Expected a table, as CSV "
            "with commas, with the column path, and where wanted start_s, end_s, id and size"
        )
    columns: dict[str, list[Any]] = {}
    kinds = {"file": pa.string(), "start_s": pa.float64(), "end_s": pa.float64(), "id": pa.string()}
    for ours, kind in (kinds | {"size": pa.float64()}).items():
        theirs = found[ours]
        try:
            columns[ours] = [None] * len(table) if theirs is None else table.column(theirs).cast(kind).to_pylist()
        except (pa.ArrowException, UnicodeError) as error:
            raise OptionError(f"{name}: column {theirs}: {error}; expected {kind} in every row") from error
    sizes = [None if size is None or not 0 <= size < 2**63 else int(size) for size in columns.pop("size")]
    plain = found["start_s"] is None and found["end_s"] is None and found["id"] is None and all(columns["file"])
    if not plain:  # of which there may be millions
        _check_rows(name, columns, with_ids=found["id"] is not None)
    if found["size"] is None:
        sizes = list(map(_local_size, columns["file"]))
    return _items(columns["file"], columns["start_s"], columns["end_s"], columns["id"], sizes)


def _check_rows(name: str, columns: dict[str, list[Any]], *, with_ids: bool) -> None:
    archives: set[str] = set()
    for number, (file, start_s, end_s, key) in enumerate(zip(*columns.values(), strict=True), 1):
        window = [bound for bound in (start_s, end_s) if bound is not None]
        is_archive = file is not None and storage.is_archive(file)
        if not file:
            problem = "no path"
        elif with_ids and not key:
            problem = "no id; expected one in every row, or no such column"
        elif not all(math.isfinite(bound) and bound >= 0 for bound in window):
            problem = f"start_s {start_s}, end_s {end_s}; expected seconds, 0 or more"
        elif end_s is not None and end_s <= (start_s or 0.0):
            problem = f"end_s {end_s} is not after start_s {start_s or 0.0}"
        elif window and is_archive:
            problem = f"a part of {file}, which is an archive; expected a recording, or no start_s and end_s"
        elif is_archive and file in archives:
            problem = "this archive comes twice; its rows are called what its members are. Expected it once"
        else:
            if is_archive:
                archives.add(file)
            continue
        raise OptionError(f"{name}: row {number:,} ({file}): {problem}")


def _read_table(name: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        with storage.open_input(name) if storage.is_url(name) else Path(name).open("rb") as stream:
            head = stream.read(4)
            stream.seek(0)
            if head == b"PAR1":
                known = [column for columns in _COLUMNS.values() for column in columns]
                file = pa.parquet.ParquetFile(stream)
                return file.read([column for column in file.schema_arrow.names if column in known])
            # As text also where it looks like numbers; and a song may well be called NA, or null.
            text = {column: pa.string() for column in ("path", "file", "url", "id")}
            convert = pa.csv.ConvertOptions(column_types=text, strings_can_be_null=False)
            # Names may have line breaks in them, and blocks end anywhere.
            parse = pa.csv.ParseOptions(newlines_in_values=True)
            table = pa.csv.read_csv(stream, parse_options=parse, convert_options=convert)
            "".join(table.column_names)  # raises where they are no UTF-8
            return table
    except (OSError, UnicodeError, AudioError, pa.ArrowException) as error:
        said = "".join(takewhile(_is_plain, str(error)))  # Arrow quotes the row, which may be anything
        raise OptionError(
            f"{name}: this manifest cannot be read ({said.rstrip(': ')}); expected Parquet, or CSV in UTF-8 "
            "with a header that names path"
        ) from error


def _items(
    files: Sequence[str],
    start_s: Sequence[float | None] | None = None,
    end_s: Sequence[float | None] | None = None,
    ids: Sequence[str | None] | None = None,
    sizes: Sequence[int | None] = (),
) -> Items:
    import pyarrow as pa

    if STDIN in files:
        raise OptionError("-: standard input cannot be part of a job that is resumed; write it to a file first")
    try:
        names = pa.array(files, pa.string())
    except UnicodeEncodeError as error:
        bad = next(file for file in files if storable(file) != file)
        raise OptionError(
            f"{storable(bad)}: this name is not valid Unicode; a job's table cannot hold it. Rename the file"
        ) from error
    nothing = [None] * len(files)
    columns = {
        "file": names,
        "start_s": pa.array(start_s or nothing, pa.float64()),
        "end_s": pa.array(end_s or nothing, pa.float64()),
        "id": pa.array(ids or nothing, pa.string()),
        "size": pa.array(sizes or nothing, pa.int64()),
    }
    return Items(pa.table(columns))


def _local_size(name: str) -> int | None:
    """Bytes of a local file; None for URLs, members of archives and what is not there."""
    try:
        return None if storage.is_url(name) else os.stat(name).st_size  # noqa: PTH116 - many files, and it is faster
    except (OSError, ValueError):  # the latter for names that no file can have
        return None


def _is_plain(character: str) -> bool:
    return character.isprintable() and character != "\ufffd"

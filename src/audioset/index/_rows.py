"""Rows of embeddings files as a stream: float32 values, file by file, one file a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset.errors import RecordError
from audioset.jobs.output import MANIFEST_NAME
from audioset.postprocess import dequantize
from audioset.records import parts
from audioset.records.info import JobInfo, job_from, load_json
from audioset.records.table import EmbeddingTable, read_embeddings, read_metadata

_PARQUET_MAGIC = b"PAR1"
_MAGICS = (_PARQUET_MAGIC, b"PK\3\4")
_TOO_LARGE = 1e15  # damage alone makes such embeddings; the squares of more of them would be infinite


@dataclass(frozen=True)
class Rows:
    """Some consecutive rows: `counts[i]` of them are of `names[i]`; a file may go on in the next."""

    names: list[str]
    counts: npt.NDArray[np.int64]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    values: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)

    def only(self, wanted: Iterable[bool]) -> Rows:
        """The rows of some of the files."""
        of_file = np.fromiter(wanted, np.bool_, len(self.names))
        if of_file.all():
            return self
        rows = np.repeat(of_file, self.counts)
        names = [name for name, keep in zip(self.names, of_file, strict=True) if keep]
        return Rows(names, self.counts[of_file], self.start_s[rows], self.end_s[rows], self.values[rows])


def is_embeddings(path: Path) -> bool:
    """Return whether a file begins as Parquet or NPZ does; a folder can be nothing else."""
    try:
        if path.is_dir():
            return True
        with path.open("rb") as stream:
            return stream.read(4) in _MAGICS
    except OSError:
        return False


def is_called(name: str, given: str) -> bool:
    """Return whether a recording's name is what is given, or ends so."""
    return name == given or name.replace("\\", "/").endswith(f"/{given}")


def about(path: Path) -> tuple[JobInfo, int]:
    """The job that made an embeddings file or a folder of parts, and its number of rows; `RecordError` for others."""
    if path.is_dir():
        job, counts = _manifest(path)
        return job, sum(counts.values())
    if not _is_parquet(path):
        table = _npz(path)
        return table.info, len(table.values)
    metadata = read_metadata(path, "parquet")
    return metadata.job, metadata.rows


def read_rows(path: Path) -> Iterator[Rows]:
    """The rows of an embeddings file or a folder of parts, some thousands at a time; an NPZ is held whole.

    Raises
    ------
    RecordError
        The file cannot be read, or is damaged; of a folder, the job is not complete or a part is not its own.
    """
    if path.is_dir():
        yield from _of_parts(path)
        return
    if not _is_parquet(path):
        yield from _of_table(_npz(path))
        return
    try:
        with parts.parquet_file(path) as file:
            for batch in file.iter_batches(parts.BATCH_ROWS, use_threads=False):
                names, counts = parts.file_runs(batch)
                if names:
                    yield Rows(
                        names,
                        counts,
                        batch.column("start_s").to_numpy(),
                        batch.column("end_s").to_numpy(),
                        plain(parts.embedding_values(batch)),
                    )
    except RecordError:
        raise
    except parts.damage() as error:
        raise RecordError(
            f"{path}: damaged ({error}); expected a file written by audioset, whole. Embed its files again"
        ) from error


def plain(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Embeddings as numbers that can be compared: bytes as the components that they stand for."""
    return dequantize(values) if values.dtype == np.uint8 else np.asarray(values, np.float32)


def comparable(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which rows are finite, and of a length that float32 can hold with some room."""
    return np.asarray((np.abs(values) < _TOO_LARGE).all(axis=1))


def runs(names: npt.NDArray[np.object_]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Names in a column, in order, and how many consecutive rows each has."""
    starts = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]])) if len(names) else np.empty(0, np.int64)
    return names[starts].tolist(), np.diff(starts, append=len(names)).astype(np.int64)


def _npz(path: Path) -> EmbeddingTable:
    """The rows of an NPZ, after their arrays have been found to fit one another: unlike Parquet they need not."""
    table = read_embeddings(path)
    count = len(table.start_s)
    found = [table.values.shape, table.values.dtype.name, table.end_s.shape, table.file.shape]
    if found != [(count, table.info.embedding_dim), table.info.dtype, (count,), (count,)]:
        raise RecordError(
            f"{path}: {table.values.dtype} of shape {table.values.shape}, {count:,} starts, {len(table.end_s):,} ends "
            f"and {len(table.file):,} names; expected {table.info.dtype} of shape (k, {table.info.embedding_dim}) and "
            "k of each. Embed its files again"
        )
    return table


def _of_table(table: EmbeddingTable) -> Iterator[Rows]:
    for first in range(0, len(table.values), parts.BATCH_ROWS):
        rows = slice(first, first + parts.BATCH_ROWS)
        names, counts = runs(table.file[rows])
        yield Rows(names, counts, table.start_s[rows], table.end_s[rows], plain(table.values[rows]))


def _of_parts(folder: Path) -> Iterator[Rows]:
    """The rows of all parts of a job, in the order of its items."""
    job, counts = _manifest(folder)
    for name, count in sorted(counts.items()):
        part = folder / name
        own, rows = about(part)
        if rows != count or own.differences(job):
            raise RecordError(
                f"{part}: none of the parts that {folder / MANIFEST_NAME} lists (it has {rows:,} rows); expected "
                f"{count:,} of the same job. Run the job again"
            )
        yield from read_rows(part)


def _manifest(folder: Path) -> tuple[JobInfo, dict[str, int]]:
    """What a complete job says of itself: how it embeds, and the rows of each part."""
    path = folder / MANIFEST_NAME
    try:
        found = load_json(path.read_bytes(), path)
        counts = {str(part["name"]): int(part["rows"]) for part in found["parts"]}
        job = job_from(found["job"], path)
    except FileNotFoundError as error:
        raise RecordError(
            f"{folder}: a folder without {MANIFEST_NAME}; expected an embeddings file, or the folder of a job that "
            "`audioset embed -o FOLDER/` has completed. Run it to its end, or name the parts that are there"
        ) from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be opened ({error.strerror}); expected to be allowed to read it") from error
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path}: damaged ({error!r}); expected it as it was written. Run the job again") from error
    if strange := [name for name in counts if not fnmatch(name, "part-*.parquet") or Path(name).name != name]:
        raise RecordError(f"{path}: lists {strange[0]!r}; expected names of parts. Run the job again")
    return job, counts


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) == _PARQUET_MAGIC
    except OSError as error:
        raise RecordError(f"{path}: cannot be opened ({error.strerror}); expected an embeddings file") from error

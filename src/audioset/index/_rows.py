"""Rows of embeddings files as a stream: float32 values, file by file, one file a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset.errors import RecordError
from audioset.postprocess import dequantize
from audioset.records import parts
from audioset.records.info import JobInfo
from audioset.records.table import EmbeddingTable, read_embeddings, read_metadata

_PARQUET_MAGIC = b"PAR1"
_MAGICS = (_PARQUET_MAGIC, b"PK\3\4")


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
    """Return whether a file begins as Parquet or NPZ does."""
    try:
        with path.open("rb") as stream:
            return stream.read(4) in _MAGICS
    except OSError:
        return False


def about(path: Path) -> tuple[JobInfo, int]:
    """The job that made an embeddings file, and its number of rows; `RecordError` for any other file."""
    if not _is_parquet(path):
        table = read_embeddings(path)
        return table.info, len(table.values)
    metadata = read_metadata(path, "parquet")
    return metadata.job, metadata.rows


def read_rows(path: Path) -> Iterator[Rows]:
    """The rows of an embeddings file, some thousands at a time; an NPZ is held whole.

    Raises
    ------
    RecordError
        The file cannot be read, or is damaged.
    """
    if not _is_parquet(path):
        yield from _of_table(read_embeddings(path))
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


def runs(names: npt.NDArray[np.object_]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Names in a column, in order, and how many consecutive rows each has."""
    starts = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]])) if len(names) else np.empty(0, np.int64)
    return names[starts].tolist(), np.diff(starts, append=len(names)).astype(np.int64)


def _of_table(table: EmbeddingTable) -> Iterator[Rows]:
    for first in range(0, len(table.values), parts.BATCH_ROWS):
        rows = slice(first, first + parts.BATCH_ROWS)
        names, counts = runs(table.file[rows])
        yield Rows(names, counts, table.start_s[rows], table.end_s[rows], plain(table.values[rows]))


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) == _PARQUET_MAGIC
    except OSError as error:
        raise RecordError(f"{path}: cannot be opened ({error.strerror}); expected an embeddings file") from error

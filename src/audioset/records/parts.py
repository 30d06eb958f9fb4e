"""The numbered Parquet parts in which a running job keeps its rows, and how they become one sequence again.

A part holds the rows of the files that were completed in it, and, last, those of the file that was in progress when it
was written. Its metadata (JSON under the key ``audioset.part``) says which files these are, so nothing else need be
read to go on with the job. The files of one run come one after another; a run ends with the process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from audioset._files import replacing
from audioset.errors import OutputError
from audioset.records.info import Failure, JobInfo, Metadata, storable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Writing and reading take several times as much memory: measured, 60 MB more at the peak of a job with 16 MiB.
ROW_GROUP_BYTES = 2 << 20
MAX_ROW_GROUP_ROWS = 32_768
BATCH_ROWS = 8_192
PART_KEY = b"audioset.part"
JOB_KEY = b"audioset"

Outcome = Literal["done", "failed", "open"]


@dataclass(frozen=True)
class Part:
    """One part on disk.

    Attributes
    ----------
    run
        Number of the process, from 0, that wrote it.
    rows, open_rows
        Rows in all; and how many of them, the last, are of a file that was still in progress.
    carried
        What became, in this part, of the file that the part before left in progress; None when it left none.
    done, failed
        Number of files completed here, those without rows included, and of files that failed.
    """

    path: Path
    run: int
    rows: int
    open_rows: int
    carried: Outcome | None
    done: int
    failed: int


@dataclass(frozen=True)
class PartContents:
    """What is about to become a part: rows in runs of one file each, and how files ended since the part before."""

    names: Sequence[str]
    counts: Sequence[int]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    values: npt.NDArray[np.generic]
    done: Sequence[str]
    failed: Sequence[Failure]
    open_rows: int
    carried: Outcome | None


@dataclass(frozen=True)
class JobRows:
    """The rows of all completed files of a job, in order, to be read as often as needed.

    Attributes
    ----------
    info, metadata
        The job.
    parts
        Each part's file and how many of its rows, from the first, count.
    num_rows
        The sum of those.
    """

    if_damaged: ClassVar[str] = "Run again with --resume: the files in it are then embedded again"

    info: JobInfo
    metadata: Metadata
    parts: Sequence[tuple[Path, int]]
    num_rows: int

    def batches(self, *columns: str) -> Iterator[pa.RecordBatch]:
        """The rows, or only these columns of them, in batches of at most `BATCH_ROWS`."""
        for path, rows in self.parts:
            try:
                with parquet_file(path) as file:
                    for batch in file.iter_batches(BATCH_ROWS, columns=list(columns) or None, use_threads=False):
                        if rows <= 0:
                            break
                        yield batch.slice(0, rows)
                        rows -= batch.num_rows
            except damage() as error:
                if getattr(error, "errno", None):
                    raise
                raise OutputError(
                    f"{path}: damaged ({error}); expected a part as it was written. {self.if_damaged}"
                ) from error

    def runs(self, *columns: str) -> Iterator[tuple[list[str], npt.NDArray[np.int64], pa.RecordBatch]]:
        """Batches with the names in them, and how many consecutive rows each has; a file may go on in the next."""
        for batch in self.batches("file", *columns):
            yield *file_runs(batch), batch


def file_runs(batch: pa.RecordBatch) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Names of the files in a batch, in order, and how many consecutive rows each has."""
    import pyarrow.compute as pc

    if not batch.num_rows:
        return [], np.empty(0, np.int64)
    encoded = pc.run_end_encode(batch.column("file"))
    ends = np.asarray(encoded.run_ends, np.int64)
    return encoded.values.to_pylist(), np.diff(ends, prepend=0)


def embedding_values(batch: pa.RecordBatch) -> npt.NDArray[np.generic]:
    """The values of a batch, (rows, dim), without a copy."""
    column = batch.column("embedding")
    values: npt.NDArray[np.generic] = column.flatten().to_numpy()
    return values.reshape(len(column), column.type.list_size)


def schema_of(info: JobInfo) -> pa.Schema:
    """The Parquet schema of a job's rows, without metadata."""
    import pyarrow as pa

    value = pa.field("element", pa.float32() if info.dtype == "float32" else pa.uint8(), nullable=False)
    return pa.schema(
        [
            pa.field("file", pa.string(), nullable=False),
            pa.field("start_s", pa.float64(), nullable=False),
            pa.field("end_s", pa.float64(), nullable=False),
            pa.field("embedding", pa.list_(value, info.embedding_dim), nullable=False),
        ]
    )


def make_batch(
    info: JobInfo,
    names: Sequence[str],
    counts: Sequence[int],
    start_s: npt.NDArray[np.float64],
    end_s: npt.NDArray[np.float64],
    values: npt.NDArray[np.generic],
) -> pa.RecordBatch:
    """Rows in Arrow: `counts[i]` of them from file `names[i]`; the values are not copied."""
    import pyarrow as pa

    schema = schema_of(info)
    index = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    files = pa.DictionaryArray.from_arrays(index, pa.array([storable(name) for name in names], pa.string()))
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=schema.field("embedding").type)
    return pa.RecordBatch.from_arrays(
        [files.dictionary_decode(), pa.array(start_s), pa.array(end_s), embedding], schema=schema
    )


def parquet_writer(stream: IO[bytes], schema: pa.Schema, info: JobInfo) -> pq.ParquetWriter:
    """A writer with the encodings that suit embeddings.

    Measured on 65,536 rows of 128 float32 (33.6 MB): zstd level 1 after byte_stream_split 27.9 MB in 71 ms; without
    the split 31.1 MB in 66 ms; snappy without it 33.7 MB in 44 ms. Parquet holds uint8 in 32-bit integers: the
    dictionary brings them back to 8 bits (3.4 to 8.4 MB; 35 MB without).
    """
    import pyarrow.parquet as pq

    split = info.dtype == "float32"
    return pq.ParquetWriter(
        stream,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=["file"] if split else ["file", "embedding.list.element"],
        column_encoding={"embedding.list.element": "BYTE_STREAM_SPLIT"} if split else None,
        write_statistics=["file", "start_s", "end_s"],
        write_page_checksum=True,
    )


def parquet_file(path: Path) -> pq.ParquetFile:
    """A Parquet file opened for reading, its page checksums verified.

    Nothing is read ahead: Arrow would hold all of a file whose batches are asked for one after another.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)


def row_group_rows(info: JobInfo) -> int:
    """Rows in a full row group."""
    return max(1, min(MAX_ROW_GROUP_ROWS, ROW_GROUP_BYTES // (info.embedding_dim * np.dtype(info.dtype).itemsize)))


def part_name(number: int) -> str:
    """The name of a part's file."""
    return f"part-{number:06d}.parquet"


def write_part(folder: Path, number: int, run: int, info: JobInfo, contents: PartContents) -> Part:
    """Write one part to a temporary name, push it to the disk, then give it its own name."""
    part = Part(
        folder / part_name(number),
        run,
        len(contents.values),
        contents.open_rows,
        contents.carried,
        len(contents.done),
        len(contents.failed),
    )
    about = {
        "run": run,
        "done": list(contents.done),
        "failed": [[failure.file, failure.reason] for failure in contents.failed],
        "open_rows": contents.open_rows,
        "carried": contents.carried,
    }
    batch = make_batch(info, contents.names, contents.counts, contents.start_s, contents.end_s, contents.values)
    schema = batch.schema.with_metadata({PART_KEY: json.dumps(about)})
    with (
        replacing(part.path, folder / "part.tmp") as temporary,
        temporary.open("wb") as stream,
        parquet_writer(stream, schema, info) as writer,
    ):
        writer.write_batch(batch, row_group_rows(info))
    return part


def read_part(path: Path) -> tuple[Part, list[str], list[Failure]]:
    """A part, the files completed in it and those that failed, after every page has been checked.

    Raises one of `damage()` when it is not as it was written.
    """
    with parquet_file(path) as file:
        about: dict[str, Any] = json.loads((file.schema_arrow.metadata or {})[PART_KEY])
        rows = sum(batch.num_rows for batch in file.iter_batches(BATCH_ROWS))
    failed = [Failure(name, reason) for name, reason in about["failed"]]
    done = list(about["done"])
    part = Part(path, about["run"], rows, about["open_rows"], about["carried"], len(done), len(failed))
    return part, done, failed


def counting_rows(parts: Sequence[Part]) -> list[int]:
    """How many rows of each part, from its first, are of files that were completed."""
    counts: list[int] = []
    goes_on = False  # whether the file that a part leaves in progress is completed later in the same run
    after: Part | None = None
    for part in reversed(parts):
        if after is None or after.run != part.run:
            goes_on = False
        elif after.carried != "open":
            goes_on = after.carried == "done"
        counts.append(part.rows if goes_on else part.rows - part.open_rows)
        after = part
    return counts[::-1]


def damage() -> tuple[type[BaseException], ...]:
    """What reading a damaged part or Parquet file raises; an OSError with an `errno` is the disk's word, not damage."""
    import pyarrow as pa

    return pa.ArrowException, OSError, ValueError, KeyError, TypeError

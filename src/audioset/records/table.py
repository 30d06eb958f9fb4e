"""Embeddings files back into arrays."""

from __future__ import annotations

import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset.errors import RecordError
from audioset.records import parts
from audioset.records.info import JobInfo, Metadata

# What NumPy and zipfile raise of files that are damaged, encrypted or packed in ways that Python does not know.
NPZ_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)


@dataclass(frozen=True)
class EmbeddingTable:
    """The rows of an embeddings file.

    Attributes
    ----------
    values
        float32 or uint8 (rows, dim).
    start_s, end_s
        Seconds into the file, float64 (rows,).
    file
        Names, an object array of str (rows,).
    info
        The job that made them.
    """

    values: npt.NDArray[Any]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    file: npt.NDArray[np.object_]
    info: JobInfo


def read_embeddings(path: Path | str) -> EmbeddingTable:
    """All rows of a Parquet or NPZ file, or of a folder of parts, that this package wrote, whatever its name.

    Raises
    ------
    RecordError
        When the file is missing, damaged, of another format, or was not written by this package.

    Warns
    -----
    UserWarning
        The folder is that of a job that is not complete.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise RecordError(f"{path}: cannot be opened ({error.strerror}); expected an embeddings file") from error
    if magic == b"PAR1":
        return _read_parquet(path)
    if magic == b"PK\3\4":
        return _read_npz(path)
    raise RecordError(
        f"{path}: neither Parquet nor NPZ (it begins with {magic!r}); "
        "expected a file written by audioset in one of these formats. Embed recordings first with "
        "`audioset embed`. Read csv, jsonl and npy with pandas or numpy, tfrecord with read_tfrecord"
    )


def read_metadata(path: Path, format: str) -> Metadata:  # noqa: A002 - the word that users type
    """What a finished output says of its job; `RecordError` when it does not, as only Parquet and NPZ can."""
    if format == "parquet":
        try:
            with parts.parquet_file(path) as file:
                return Metadata.from_json(_job_json(file.schema_arrow), path)
        except RecordError:
            raise
        except parts.damage() as error:
            raise _unreadable(path, "Parquet", error) from error
    if format == "npz":
        with _open_npz(path) as archive:
            return Metadata.from_json(str(archive["metadata"]), path)
    raise RecordError(f"{path}: a {format} file does not say which job wrote it")


def _read_folder(folder: Path) -> EmbeddingTable:
    tables = [_read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))]
    if not tables:
        raise RecordError(
            f"{folder}: a folder without part-*.parquet; expected an embeddings file, or the folder that "
            "`audioset embed -o FOLDER/` wrote"
        )
    if not (folder / "_manifest.json").exists():
        warnings.warn(
            f"{folder}: the job that writes it is not complete; these are the rows so far (`audioset jobs status`)",
            stacklevel=3,
        )
    return EmbeddingTable(
        values=np.concatenate([table.values for table in tables]),
        start_s=np.concatenate([table.start_s for table in tables]),
        end_s=np.concatenate([table.end_s for table in tables]),
        file=np.concatenate([table.file for table in tables]),
        info=tables[0].info,
    )


def _read_parquet(path: Path) -> EmbeddingTable:
    try:
        with parts.parquet_file(path) as file:
            metadata = Metadata.from_json(_job_json(file.schema_arrow), path)
            table = file.read()
        embedding = table.column("embedding").combine_chunks()
        names = table.column("file").combine_chunks().dictionary_encode()
        return EmbeddingTable(
            values=embedding.flatten().to_numpy().reshape(len(embedding), metadata.job.embedding_dim),
            start_s=table.column("start_s").to_numpy(),
            end_s=table.column("end_s").to_numpy(),
            file=np.array(names.dictionary.to_pylist(), object)[names.indices.to_numpy()],
            info=metadata.job,
        )
    except RecordError:
        raise
    except parts.damage() as error:
        raise _unreadable(path, "Parquet", error) from error


def _read_npz(path: Path) -> EmbeddingTable:
    with _open_npz(path) as archive:
        return EmbeddingTable(
            values=archive["embedding"],
            start_s=archive["start_s"],
            end_s=archive["end_s"],
            file=archive["files"].astype(object)[archive["file_index"]],
            info=Metadata.from_json(str(archive["metadata"]), path).job,
        )


@contextmanager
def _open_npz(path: Path) -> Iterator[Any]:
    """The arrays of an NPZ; whatever is wrong with it becomes a `RecordError`."""
    try:
        # Opened here because numpy leaves the file open when it is no archive.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            yield archive
    except RecordError:
        raise
    except NPZ_DAMAGE as error:
        raise _unreadable(path, "NPZ", error) from error


def _job_json(schema: Any) -> bytes:
    metadata: dict[bytes, bytes] = schema.metadata or {}
    return metadata.get(parts.JOB_KEY, b"")


def _unreadable(path: Path, kind: str, error: BaseException) -> RecordError:
    return RecordError(
        f"{path}: cannot be read as {kind} ({error}); expected a file written by audioset, whole. Embed its files again"
    )

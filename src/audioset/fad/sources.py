"""Embeddings to measure, wherever they are: read in blocks, as often as needed, never all at once."""

from __future__ import annotations

import glob
import os
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from audioset.errors import RecordError
from audioset.fad.distance import check_embedders
from audioset.fad.statistics import Accumulator, Statistics, has_statistics
from audioset.records import parts
from audioset.records.info import JobInfo, Metadata
from audioset.records.table import NPZ_DAMAGE, read_metadata

BLOCK_ROWS = 4096
ENDINGS = (".npy", ".npz", ".parquet")

Kind: TypeAlias = Literal["parquet", "npz", "npy", "statistics"]


@dataclass(frozen=True)
class Block:
    """Consecutive rows.

    Attributes
    ----------
    values : ndarray, shape (n, dim)
        Real numbers of any type.
    names, counts : sequence of str, sequence of int
        The files that they are of, in order, and how many rows of each; a file may go on in the next block.
    """

    values: npt.NDArray[Any]
    names: Sequence[str]
    counts: Sequence[int]


class EmbeddingSource(ABC):
    """Embeddings that can be read again and again, in the same order.

    Attributes
    ----------
    name : str
        What they are, as messages name it.
    info : JobInfo or None
        What made them; None where that is not known.
    dim, num_rows, num_files : int
        Values a row; rows; files.
    """

    name: str
    info: JobInfo | None
    dim: int
    num_rows: int
    num_files: int

    def blocks(self) -> Iterator[Block]:
        """Yield all rows in order.

        Raises
        ------
        RecordError
            They cannot be read, or are not finite.
        """
        for block in self._read():
            finite = np.isfinite(block.values)
            if not finite.all():
                row = int(np.flatnonzero(~finite.all(axis=1))[0])
                file = block.names[int(np.searchsorted(np.cumsum(block.counts), row, "right"))]
                raise RecordError(f"{self.name}: values of {file} are not finite; expected numbers. Embed it again")
            yield block

    @abstractmethod
    def _read(self) -> Iterator[Block]: ...


class ArraySource(EmbeddingSource):
    """Rows of an array, in memory or mapped."""

    def __init__(self, values: npt.NDArray[Any], name: str = "<array>") -> None:
        if values.ndim != 2 or values.dtype.kind not in "fiu":
            raise RecordError(f"{name}: {values.dtype} {values.shape}; expected real numbers (rows, dim)")
        self.name, self.info, self.num_files = name, None, 1
        self.num_rows, self.dim = values.shape
        self._values = values

    def _read(self) -> Iterator[Block]:
        for first in range(0, self.num_rows, BLOCK_ROWS):
            values = self._values[first : first + BLOCK_ROWS]
            if values.dtype.itemsize > 8:  # of which no sum of squares has a root
                values = values.astype(np.float64)
            yield Block(values, [self.name], [len(values)])


class NpySource(EmbeddingSource):
    """An .npy file, which is open only while it is read: there may be one for each of many recordings."""

    def __init__(self, path: Path) -> None:
        whole = self._opened(path)
        self.name, self.info, self.num_files = whole.name, None, 1
        self.num_rows, self.dim = whole.num_rows, whole.dim
        self._path = path

    def _read(self) -> Iterator[Block]:
        whole = self._opened(self._path)
        if (whole.num_rows, whole.dim) != (self.num_rows, self.dim):
            raise RecordError(f"{self._path}: changed while it was read; expected the same rows. Run again")
        yield from whole._read()

    def _opened(self, path: Path) -> ArraySource:
        with _reading(path):
            return ArraySource(np.load(path, mmap_mode="r", allow_pickle=False), str(path))


class ParquetSource(EmbeddingSource):
    """A Parquet file that `audioset embed` wrote, or some of its rows with the metadata of all."""

    def __init__(self, path: Path) -> None:
        _describe(self, path, read_metadata(path, "parquet"))
        with _reading(path), parts.parquet_file(path) as file:
            rows = file.metadata.num_rows
        if rows != self.num_rows:
            self.num_rows, self.num_files = rows, self._count_files(path)
        self._path = path

    def _read(self) -> Iterator[Block]:
        with _reading(self._path), parts.parquet_file(self._path) as file:
            for group in range(file.num_row_groups):  # asked for all of them at once, Arrow holds the whole file
                for batch in file.iter_batches(BLOCK_ROWS, [group], ["file", "embedding"], use_threads=False):
                    names, counts = parts.file_runs(batch)
                    yield Block(parts.embedding_values(batch), names, counts.tolist())

    def _count_files(self, path: Path) -> int:
        with _reading(path), parts.parquet_file(path) as file:
            return len({name for batch in file.iter_batches(columns=["file"]) for name in parts.file_runs(batch)[0]})


class NpzSource(EmbeddingSource):
    """An NPZ file that `audioset embed` wrote."""

    def __init__(self, path: Path) -> None:
        with _reading(path):
            _describe(self, path, read_metadata(path, "npz"))
        self._path = path

    def _read(self) -> Iterator[Block]:
        with _reading(self._path), np.load(self._path, allow_pickle=False) as archive:
            files, of_row = archive["files"], archive["file_index"]
            with zipfile.ZipFile(self._path) as members, members.open("embedding.npy") as stream:
                shape, dtype = _array_header(stream)
                if shape != (len(of_row), self.dim) or len(of_row) != self.num_rows or dtype.kind not in "fiu":
                    raise ValueError(f"embedding is {dtype} {shape}, and {len(of_row)} rows have a file")
                for first in range(0, self.num_rows, BLOCK_ROWS):
                    index = of_row[first : first + BLOCK_ROWS]
                    data = stream.read(len(index) * self.dim * dtype.itemsize)
                    starts = np.flatnonzero(np.diff(index, prepend=-1))
                    counts = np.diff(starts, append=len(index))
                    values = np.frombuffer(data, dtype).reshape(len(index), self.dim)
                    yield Block(values, files[index[starts]].tolist(), counts.tolist())


class JoinedSource(EmbeddingSource):
    """Several sources, one after another."""

    def __init__(self, name: str, sources: Sequence[EmbeddingSource]) -> None:
        dims = sorted({source.dim for source in sources})
        if len(dims) != 1:
            raise RecordError(f"{name}: rows of {' and '.join(map(str, dims))} values; expected those of one model")
        for source in sources[1:]:
            check_embedders(sources[0].info, source.info, sources[0].name, source.name)
        self.name, self.info, self.dim = name, sources[0].info, dims[0]
        self.num_rows = sum(source.num_rows for source in sources)
        self.num_files = sum(source.num_files for source in sources)
        self._sources = sources

    def _read(self) -> Iterator[Block]:
        for source in self._sources:
            yield from source.blocks()


def kind_of(path: str | os.PathLike[str]) -> Kind | None:
    """Return what a file holds, by its content: embeddings or statistics; None for anything else, such as sound."""
    if not os.path.isfile(path):
        return None
    try:
        with Path(path).open("rb") as stream:
            magic = stream.read(6)
    except OSError:  # whoever reads it says why
        return None
    if magic.startswith(b"PAR1"):
        return "parquet"
    if magic == b"\x93NUMPY":
        return "npy"
    if magic.startswith(b"PK\3\4"):
        with _reading(Path(path)), zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy"): None for name in archive.namelist() if name.endswith(".npy")}
        if names:
            return "statistics" if has_statistics(names) else "npz"
    return None


def several_files(argument: str | os.PathLike[str]) -> list[str]:
    """Return the files of embeddings that a folder of `audioset embed -o FOLDER/` or a pattern stands for, or none."""
    name = os.fspath(argument)
    if os.path.isdir(name):
        of_job = os.path.exists(os.path.join(name, "_job.json"))  # noqa: PTH118
        return sorted(glob.glob(os.path.join(glob.escape(name), "part-*.parquet"))) if of_job else []  # noqa: PTH118
    found = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) and not os.path.lexists(name) else []
    return found if all(path.endswith(ENDINGS) for path in found) else []


def open_embeddings(path: str | os.PathLike[str]) -> EmbeddingSource:
    """Return the embeddings in a file or several.

    Parameters
    ----------
    path : path
        Parquet or NPZ of `audioset embed`, a folder of parts of it, an .npy file of any embedder, (rows, dim), or a
        pattern of these files.

    Raises
    ------
    RecordError
        A file cannot be read, or is none of these.
    OptionError
        Of several, not all are of one embedder.

    Warns
    -----
    UserWarning
        The folder is that of a job that is not complete.
    """
    several = several_files(path)
    if several:
        if os.path.isdir(path) and not os.path.exists(os.path.join(path, "_manifest.json")):  # noqa: PTH118
            warnings.warn(
                f"{path}: the job that writes it is not complete; measured are the rows so far "
                "(`audioset jobs status`)",
                stacklevel=2,
            )
        return JoinedSource(os.fspath(path), [_open(Path(one)) for one in several])
    return _open(Path(path))


def _open(path: Path) -> EmbeddingSource:
    kind = kind_of(path)
    if kind == "parquet":
        return ParquetSource(path)
    if kind == "npz":
        return NpzSource(path)
    if kind == "npy":
        return NpySource(path)
    found = "statistics, not embeddings" if kind == "statistics" else "no file of embeddings"
    raise RecordError(f"{path}: {found}; expected Parquet or NPZ of `audioset embed`, or an .npy file (rows, dim)")


def statistics_of(embeddings: EmbeddingSource | npt.NDArray[Any] | str | os.PathLike[str]) -> Statistics:
    """Return the mean and the covariance of embeddings, read once, in bounded memory.

    Parameters
    ----------
    embeddings : EmbeddingSource, ndarray of shape (rows, dim), or path
        A path is that of a file that `open_embeddings` takes.

    Raises
    ------
    RecordError
        They cannot be read, are not finite, or are fewer than two.
    """
    source = as_source(embeddings)
    total = Accumulator(source.dim)
    for block in source.blocks():
        total.add(block.values)
    return total.statistics(files=source.num_files, info=source.info, source=source.name)


def as_source(embeddings: EmbeddingSource | npt.NDArray[Any] | str | os.PathLike[str]) -> EmbeddingSource:
    """Return embeddings in any form as a source."""
    if isinstance(embeddings, EmbeddingSource):
        return embeddings
    return ArraySource(embeddings) if isinstance(embeddings, np.ndarray) else open_embeddings(embeddings)


def in_blocks_of(rows: int, blocks: Iterable[Block]) -> Iterator[npt.NDArray[Any]]:
    """Yield the same values in blocks of exactly so many rows, the last one excepted."""
    held: list[npt.NDArray[Any]] = []
    count = 0
    for block in blocks:
        values = block.values
        while count + len(values) >= rows:
            yield np.concatenate([*held, values[: rows - count]])
            values = values[rows - count :]
            held, count = [], 0
        held.append(values)
        count += len(values)
    if count:
        yield np.concatenate(held)


def _describe(source: EmbeddingSource, path: Path, metadata: Metadata) -> None:
    source.name, source.info, source.dim = str(path), metadata.job, metadata.job.embedding_dim
    source.num_rows, source.num_files = metadata.rows, metadata.files


def _array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if fortran or dtype.hasobject:
        raise ValueError("its rows do not lie one after another")
    return shape, dtype


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file becomes a `RecordError`."""
    damage: tuple[type[BaseException], ...] = (*parts.damage(), *NPZ_DAMAGE)
    try:
        yield
    except RecordError:
        raise
    except damage as error:
        raise RecordError(f"{path}: cannot be read ({error}); expected a whole file. Make it again") from error

"""Embeddings files to an index: what is like what, ready to be asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from audioset._files import unwritable, written_whole
from audioset.embed import available_cores, check_cores
from audioset.errors import AudioSetError, OptionError, OutputError, RecordError
from audioset.index._file import About, append_tables, open_file
from audioset.index._graph import Graph, version
from audioset.index._rows import Rows, about, comparable, read_rows
from audioset.records.info import JobInfo

Metric: TypeAlias = Literal["centred", "cosine"]
IndexPool: TypeAlias = Literal["none", "mean"]
BuildProgress: TypeAlias = Callable[[int, int], None]

DEFAULT_METRIC: Metric = "centred"
DEFAULT_POOL: IndexPool = "none"

# Shorter than this a difference from the mean is rounding, and has no direction.
_SMALLEST_NORM = 1e-6


@dataclass(frozen=True)
class BuildSummary:
    """What became of a build.

    Attributes
    ----------
    path
        The index.
    files, rows
        That are in it now.
    added_files, added_rows
        That this build put in.
    files_already_there
        Left out because a file of that name was in the index, or in an embeddings file before.
    rows_not_finite
        Left out because they hold NaN, infinity or numbers too large to compare.
    num_bytes
        Size of the index.
    """

    path: Path
    files: int
    rows: int
    added_files: int
    added_rows: int
    files_already_there: int
    rows_not_finite: int
    num_bytes: int


def build(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    pool: IndexPool | None = None,
    metric: Metric | None = None,
    threads: int | None = None,
    add: bool = False,
    overwrite: bool = False,
    progress: BuildProgress | None = None,
) -> BuildSummary:
    """Write an index of all embeddings in some files, whole or not at all.

    Parquet is read as a stream, twice for the metric "centred"; an NPZ is held whole. The graph is held in memory until
    it is written, with 20 bytes a row and the names of files: measured, 1.1 GB at the peak for a million rows of 128
    values, which take 0.43 GB on disk. On one thread the same rows give the same file; on several the graph differs
    from run to run, and what is found with it hardly does.

    Parameters
    ----------
    paths : path or sequence of paths
        Parquet or NPZ files that `audioset embed` wrote, or folders of parts, all by the same model with the same
        options. A file that was in one before is left out of those behind it. Parts of one recording must follow one
        another: what comes of it behind other recordings is left out, too.
    out : path
        The index to write.
    pool : {"none", "mean"}, optional
        "mean" puts one vector a file in, the mean of its rows, for indexes of whole files: "none" when not given.
    metric : {"centred", "cosine"}, optional
        "cosine" compares embeddings as they are, "centred" (when not given) after the mean of all that are in the index
        has been subtracted.
    threads : int, optional
        Cores to use; all by default.
    add : bool
        Add to the index at `out` instead, by its own pool, metric and mean. Files that are in it are left out.
    overwrite : bool
        Replace an existing index.
    progress : callable, optional
        Told how many rows have been read, and of how many.

    Raises
    ------
    RecordError
        A file cannot be read, was made by another model or with other options, or there is no row in any.
    OptionError
        An option is out of range or is not that of the index to add to, or the output is one of the paths.
    OutputError
        The output exists already, cannot be written, or another process wrote it meanwhile.
    MissingExtraError
        USearch is not installed.
    """
    sources = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
    target = Path(out)
    check_cores(threads, None)
    _check_choice("pool", pool, IndexPool)
    _check_choice("metric", metric, Metric)
    if not sources:
        raise OptionError("paths: none; expected embeddings files that `audioset embed` wrote")
    state = _check_target(target, sources, may_exist=add or overwrite)
    job, total = _one_job(sources)
    if add:
        tables, graph = _held(target, job, sources[0], pool, metric)
    else:
        tables, graph = _Tables(job, metric or DEFAULT_METRIC, pool or DEFAULT_POOL), Graph(job.embedding_dim)
    before = (len(tables.names), tables.num_rows)
    reader = _Reader(sources, tables.pool, frozenset(tables.names), total * 2 if tables.needs_mean else total, progress)
    if tables.needs_mean:
        tables.mean = _mean_of(reader, job.embedding_dim)
    for rows in reader.rows():
        graph.add(tables.append(rows), threads or available_cores())
    if not len(graph):
        raise RecordError(f"{', '.join(map(str, sources))}: no row to find; expected embeddings, of one file at least")
    with written_whole(target) as temporary:
        graph.save(temporary)
        append_tables(temporary, tables.about(), tables.arrays())
        if (add or not overwrite) and _state_of(target) != state:
            raise OutputError(
                f"{target}: was written by another process meanwhile; expected one at a time. Run it again"
            )
    return BuildSummary(
        path=target,
        files=len(tables.names),
        rows=tables.num_rows,
        added_files=len(tables.names) - before[0],
        added_rows=tables.num_rows - before[1],
        files_already_there=len(reader.already_there),
        rows_not_finite=reader.not_finite,
        num_bytes=target.stat().st_size,
    )


def units_of(
    values: npt.NDArray[np.float32], mean: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Directions (k, dim) and lengths (k,) of what embeddings differ by from a mean; zero for none."""
    offsets = values - mean
    norms = np.linalg.norm(offsets, axis=1)
    norms[norms < _SMALLEST_NORM] = 0
    return offsets / np.where(norms, norms, 1)[:, np.newaxis] * (norms > 0)[:, np.newaxis], norms


@dataclass
class _Tables:
    """What an index holds besides its graph, as it grows: 20 bytes a row, and names."""

    job: JobInfo
    metric: str
    pool: str
    mean: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    names: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    start_s: list[npt.NDArray[np.float64]] = field(default_factory=list)
    end_s: list[npt.NDArray[np.float64]] = field(default_factory=list)
    norms: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.needs_mean and not len(self.mean):
            self.mean = np.zeros(self.job.embedding_dim, np.float32)

    @property
    def needs_mean(self) -> bool:
        return self.metric == "centred" and not len(self.mean)

    @property
    def num_rows(self) -> int:
        return sum(map(len, self.norms))

    def append(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Note rows, and return their unit vectors."""
        units, norms = units_of(rows.values, self.mean)
        self.start_s.append(rows.start_s)
        self.end_s.append(rows.end_s)
        self.norms.append(norms)
        for name, count in zip(rows.names, rows.counts.tolist(), strict=True):
            if self.names and self.names[-1] == name:
                self.counts[-1] += count
            else:
                self.names.append(name)
                self.counts.append(count)
        return units

    def about(self) -> About:
        return About(self.job, self.metric, self.pool, self.num_rows, len(self.names), version())

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        encoded = [name.encode() for name in self.names]
        return {
            "start_s": np.concatenate(self.start_s),
            "end_s": np.concatenate(self.end_s),
            "norm": np.concatenate(self.norms),
            "first_row": np.cumsum([0, *self.counts]),
            "name_end": np.cumsum([0, *map(len, encoded)]),
            "names": np.frombuffer(b"".join(encoded), np.uint8),
            "mean": self.mean,
        }


class _Reader:
    """The rows of embeddings files that are to be indexed, as often as they are asked for."""

    def __init__(
        self,
        sources: Sequence[Path],
        pool: str,
        held: frozenset[str],
        total: int,
        progress: BuildProgress | None,
    ) -> None:
        self._sources, self._pool, self._held = sources, pool, held
        self._total, self._progress, self._done = total, progress, 0
        self.already_there: set[str] = set()
        self.not_finite = 0

    def rows(self) -> Iterator[Rows]:
        found = self._finite(self._unseen())
        return _pooled(found) if self._pool == "mean" else found

    def _unseen(self) -> Iterator[Rows]:
        seen = set(self._held)
        self.already_there = set()
        for source in self._sources:
            of_source: set[str] = set()
            last, goes_on = None, False
            for rows in read_rows(source):
                # A name that comes again later in the same file is one that was there, too.
                wanted = []
                for name in rows.names:
                    if name != last:
                        last, goes_on = name, name not in seen and name not in of_source
                        of_source.add(name)
                    wanted.append(goes_on)
                self.already_there.update(name for name, keep in zip(rows.names, wanted, strict=True) if not keep)
                yield rows.only(wanted)
                self._done += len(rows)
                if self._progress is not None:
                    self._progress(self._done, self._total)
            seen |= of_source

    def _finite(self, found: Iterator[Rows]) -> Iterator[Rows]:
        self.not_finite = 0
        for rows in found:
            finite = comparable(rows.values)
            if not finite.all():
                self.not_finite += int((~finite).sum())
                ends = np.cumsum(rows.counts)
                counts = np.add.reduceat(finite.astype(np.int64), ends - rows.counts) if len(ends) else ends
                rows = replace(
                    rows,
                    counts=counts,
                    start_s=rows.start_s[finite],
                    end_s=rows.end_s[finite],
                    values=rows.values[finite],
                ).only(counts > 0)
            if len(rows):
                yield rows


@dataclass
class _Sum:
    """One file, as far as its rows have been seen."""

    name: str
    start_s: float
    end_s: float
    total: npt.NDArray[np.float64]
    count: int = 0


def _pooled(found: Iterator[Rows]) -> Iterator[Rows]:
    """One row a file: the mean of its rows, from the first's start to the last's end."""
    held: _Sum | None = None
    for rows in found:
        done: list[_Sum] = []
        stops = np.cumsum(rows.counts).tolist()
        for name, start, stop in zip(rows.names, [0, *stops], stops, strict=False):
            if held is None or held.name != name:
                if held is not None:
                    done.append(held)
                held = _Sum(name, float(rows.start_s[start]), 0.0, np.zeros(rows.values.shape[1]))
            held.total += rows.values[start:stop].sum(axis=0, dtype=np.float64)
            held.count += stop - start
            held.end_s = max(held.end_s, float(rows.end_s[start:stop].max()))
        if done:
            yield _means(done)
    if held is not None:
        yield _means([held])


def _means(sums: Sequence[_Sum]) -> Rows:
    return Rows(
        [one.name for one in sums],
        np.ones(len(sums), np.int64),
        np.array([one.start_s for one in sums]),
        np.array([one.end_s for one in sums]),
        np.stack([one.total / one.count for one in sums]).astype(np.float32),
    )


def _mean_of(reader: _Reader, dim: int) -> npt.NDArray[np.float32]:
    total, count = np.zeros(dim, np.float64), 0
    for rows in reader.rows():
        total += rows.values.sum(axis=0, dtype=np.float64)
        count += len(rows)
    return (total / max(count, 1)).astype(np.float32)


def _one_job(sources: Sequence[Path]) -> tuple[JobInfo, int]:
    """The job of all files, and their rows in all; `RecordError` where they are of several."""
    first, total = about(sources[0])
    for source in sources[1:]:
        job, rows = about(source)
        _check_same(first, job, sources[0], source)
        total += rows
    return first, total


def _check_same(first: JobInfo, job: JobInfo, named: Path, source: Path) -> None:
    if job.weights_sha256 == first.weights_sha256:
        job = replace(job, weights_name=first.weights_name)  # the same bytes, whatever their file is called
    found = first.differences(job)
    if found:
        raise RecordError(
            f"{source}: other embeddings than those of {named} ({'; '.join(found)}); expected all by the same model "
            "with the same options. Build an index of each, or embed the files again"
        )


def _held(target: Path, job: JobInfo, source: Path, pool: str | None, metric: str | None) -> tuple[_Tables, Graph]:
    """What is in the index to add to."""
    opened = open_file(target)
    own = opened.about
    _check_same(own.job, job, target, source)
    for option, given, used in (("pool", pool, own.pool), ("metric", metric, own.metric)):
        if given not in (None, used):
            raise OptionError(f"{option}: {given!r}, and {target} has {used!r}; expected the same, or none")
    arrays = opened.arrays
    ends = arrays["name_end"].astype(np.int64).tolist()
    text = arrays["names"].tobytes()
    tables = _Tables(
        own.job,
        own.metric,
        own.pool,
        mean=arrays["mean"].copy(),
        names=[text[a:b].decode() for a, b in pairwise(ends)],
        counts=np.diff(arrays["first_row"].astype(np.int64)).tolist(),
        start_s=[arrays["start_s"].copy()],
        end_s=[arrays["end_s"].copy()],
        norms=[arrays["norm"].copy()],
    )
    return tables, Graph.of_file(opened, target, in_memory=True)


def _check_target(target: Path, sources: Sequence[Path], *, may_exist: bool) -> tuple[int, ...] | None:
    """Find before a long build what would be wrong with its output at the end; return what `_state_of` does."""
    try:
        state = _state_of(target)
        if state is not None and target.is_dir():
            raise OutputError(f"{target}: is a folder; expected the name of a file to write. Name a file in it")
        if state is not None and not may_exist:
            raise OutputError(
                f"{target}: exists already; expected a new name. Add to it (--add), or ask to overwrite it"
            )
        if state is not None and any(source.exists() and source.samefile(target) for source in sources):
            raise OptionError(f"{target}: is one of the embeddings files, too; expected another name for the index")
        place = next((folder for folder in target.absolute().parents if folder.exists()), Path())
    except AudioSetError:
        raise
    except OSError as error:  # such as a name that is too long
        raise unwritable(target, error) from error
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise OutputError(f"{target}: nothing can be written to {place}; expected a writable folder. Choose another")
    return state


def _state_of(path: Path) -> tuple[int, ...] | None:
    """What tells a file from one that took its place, None where there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _check_choice(name: str, value: object, known: object) -> None:
    if value is not None and value not in get_args(known):
        raise OptionError(f"{name}: {value!r} is unknown; expected one of {', '.join(get_args(known))}")

"""An index that is asked: which recordings, and where in them, sound like this."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from audioset.embed import Embeddings
from audioset.errors import OptionError
from audioset.features import EXAMPLE_S
from audioset.index import _rows
from audioset.index._file import open_file
from audioset.index._graph import Graph
from audioset.index.build import units_of
from audioset.records.info import JobInfo

By: TypeAlias = Literal["range", "row", "file"]

DEFAULT_COUNT = 10
DEFAULT_BY: By = "range"

# The graph is asked for some, then for more where these make too few lines; at last all rows are sorted, as are those
# of indexes so small that this is as fast.
_FIRST_COUNT = 128
_ROWS_A_LINE = 4
_MORE_COUNT = 4096
_BLOCK_ROWS = 16_384
_SAME_TIME_S = 1e-6
_WALK_ROWS = 64
SHARE_OF_PEAK = 0.8


@dataclass(frozen=True)
class Hit:
    """A recording, and where in it something sounds like what was asked for.

    Attributes
    ----------
    file
        Its name as it was embedded.
    start_s, end_s
        Seconds in the file.
    similarity
        Cosine, −1 to 1, of the most similar row in this time.
    peak_s
        The middle of that row.
    """

    file: str
    start_s: float
    end_s: float
    similarity: float
    peak_s: float


@dataclass(frozen=True, eq=False)
class Query:
    """What to search for, in the space of one index.

    Attributes
    ----------
    offsets : ndarray of float32, shape (k, dim)
        Embeddings less the index's mean.
    start_s, end_s : ndarray of float64, shape (k,)
        Seconds in the file that they are of.
    file : str
        Its name.
    """

    offsets: npt.NDArray[np.float32]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    file: str

    def __len__(self) -> int:
        return len(self.offsets)


class SoundIndex:
    """Embeddings of recordings, to be searched. Made by `audioset.index.load`.

    Attributes
    ----------
    path : Path
        The file, which stays mapped into memory.
    job : JobInfo
        What made the embeddings: model, weights, options.
    metric, pool : str
        As `audioset.index.build` was told.
    num_files : int
        Recordings in it; `len(index)` is the number of rows.
    num_bytes : int
        Size of the file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._opened = open_file(self.path)
        self._graph = Graph.of_file(self._opened, self.path)
        about, arrays = self._opened.about, self._opened.arrays
        self.job: JobInfo = about.job
        self.metric, self.pool = about.metric, about.pool
        self.num_files = about.files
        self.num_bytes = self.path.stat().st_size
        self._start_s, self._end_s = arrays["start_s"], arrays["end_s"]
        self._first_row = arrays["first_row"].astype(np.int64)
        self._mean = arrays["mean"]

    def __len__(self) -> int:
        return len(self._start_s)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Names of all recordings, in the order in which they were added."""
        return tuple(map(self._name, range(self.num_files)))

    def query(self, embeddings: Embeddings | npt.ArrayLike, file: str = "<array>") -> Query:
        """Return embeddings of the index's model as something to search for.

        Parameters
        ----------
        embeddings : Embeddings, or array of shape (k, dim) or (dim,)
            What the model gave, of one recording; of an array nothing but type and width can be checked.
        file : str
            Name of an array's recording.

        Raises
        ------
        OptionError
            They are of another width, model, weights or form than the index's, are none, or are not finite.
        """
        values: npt.NDArray[Any]
        if isinstance(embeddings, Embeddings):
            if embeddings.error is not None:
                raise embeddings.error
            file = embeddings.file
            found = {"model": embeddings.model, "weights_sha256": embeddings.weights, "regime": embeddings.regime}
            self.check_embedder(found, file)
            values, start_s, end_s = embeddings.values, embeddings.start_s, embeddings.end_s
        else:
            values = np.atleast_2d(np.asarray(embeddings))
            start_s = end_s = np.full(len(values), np.nan)
        dim = self.job.embedding_dim
        if values.ndim != 2 or values.shape[1] != dim or (values.dtype == np.uint8) != (self.job.dtype == "uint8"):
            raise OptionError(
                f"{file}: {values.dtype} of shape {values.shape}; expected {self.job.dtype} of shape (k, {dim}), as "
                f"{self.path} holds"
            )
        return self.query_from(_rows.plain(values), start_s, end_s, file)

    def query_from(
        self,
        values: npt.NDArray[np.float32],
        start_s: npt.NDArray[np.float64],
        end_s: npt.NDArray[np.float64],
        file: str,
    ) -> Query:
        """Return rows that were checked to be the index's model's, bytes as components, as something to search for."""
        if not len(values):
            raise OptionError(
                f"{file}: no embedding; expected one at least. Take a longer part of it, or embed with --pad short"
            )
        if not _rows.comparable(values).all():
            raise OptionError(f"{file}: NaN, infinity or more than 1e15 in its embeddings; expected finite values")
        return Query(values - self._mean, start_s, end_s, file)

    def check_embedder(self, found: Mapping[str, object], file: str) -> None:
        """Raise OptionError unless what made a file, by fields of `JobInfo`, is what made the index."""
        other = [
            f"{key} {value}, the index's is {getattr(self.job, key)}"
            for key, value in found.items()
            if value != getattr(self.job, key)
        ]
        if other:
            raise OptionError(
                f"{file}: other embeddings than {self.path} holds ({'; '.join(other)}); expected the same. "
                "Embed it with that model and those weights"
            )

    def query_of(self, file: str, start_s: float = 0.0, duration_s: float | None = None) -> Query:
        """Return a part of a recording that is in the index as something to search for; nothing is embedded.

        Parameters
        ----------
        file : str
            One of `files`; or the last part of a name, where that is clear.
        start_s, duration_s : float, float or None
            Rows whose middle is in this time are taken; where there is none, the one that holds the middle of the time.

        Raises
        ------
        OptionError
            There is no such recording, or nothing of it at that time.
        """
        place = self._find(file)
        rows = np.arange(self._first_row[place], self._first_row[place + 1])
        rows = rows[in_time(self._start_s[rows], self._end_s[rows], start_s, duration_s)]
        name = self._name(place)
        if not len(rows):
            last_s = float(self._end_s[self._first_row[place] : self._first_row[place + 1]].max())
            raise OptionError(
                f"{name}: no row at {start_s:g} s{'' if duration_s is None else f' for {duration_s:g} s'}; it has some "
                f"up to {last_s:g} s. Expected a time within"
            )
        offsets = self._graph.vectors(rows) * self._opened.arrays["norm"][rows][:, np.newaxis]
        return Query(offsets, self._start_s[rows], self._end_s[rows], name)

    def search(
        self,
        query: Query | Embeddings | npt.ArrayLike,
        k: int = DEFAULT_COUNT,
        *,
        by: By = DEFAULT_BY,
        exclude: Collection[str] = (),
        exact: bool = False,
    ) -> list[Hit]:
        """Return what is most like a recording as a whole (the mean of its rows), best first.

        Parameters
        ----------
        query : Query, Embeddings, or array of shape (k, dim) or (dim,)
            What `query` takes, or what it or `query_of` gave.
        k : int
            Lines of the answer; fewer where the index has no more.
        by : {"range", "row", "file"}
            "range" gives times: a row and those before and after it, as far as they follow one another and are at least
            0.8 times as similar. "row" gives each row, "file" the best row of each file.
        exclude : collection of str
            Files, by name, that are left out; those that are not in the index are ignored.
        exact : bool
            Compare with every row, instead of asking the graph: measured, 0.13 s for a million rows of 128 values. Up
            to 4,096 rows this is always done.

        Returns
        -------
        list of Hit

        Raises
        ------
        OptionError
            The query is not of the index's model, or an option is out of range.
        """
        asked = query if isinstance(query, Query) else self.query(query)
        return self._search(asked.offsets.mean(axis=0, dtype=np.float64), k, by, exclude, exact)

    def search_each(
        self,
        query: Query | Embeddings | npt.ArrayLike,
        k: int = DEFAULT_COUNT,
        *,
        by: By = DEFAULT_BY,
        exclude: Collection[str] = (),
        exact: bool = False,
    ) -> list[list[Hit]]:
        """Return what is most like each row of a recording; as `search` for each of them."""
        asked = query if isinstance(query, Query) else self.query(query)
        return [self._search(offset, k, by, exclude, exact) for offset in asked.offsets]

    def _search(self, offset: npt.NDArray[Any], k: int, by: str, exclude: Collection[str], exact: bool) -> list[Hit]:
        if not isinstance(k, int | np.integer) or k < 1:
            raise OptionError(f"k: {k!r} is out of range; expected a whole number, 1 or more")
        if by not in get_args(By):
            raise OptionError(f"by: {by!r} is unknown; expected one of {', '.join(get_args(By))}")
        (unit,), _ = units_of(np.asarray(offset, np.float32)[np.newaxis], np.zeros(1, np.float32))
        left_out = frozenset(self._places[name] for name in exclude if name in self._places) if exclude else frozenset()
        hits: list[Hit] = []
        for rows, similarities in self._ranked(unit, k, exact):
            hits, complete = self._lines(unit, rows, similarities, k, by, left_out)
            if complete:
                break
        return hits

    def _lines(
        self,
        unit: npt.NDArray[np.float32],
        rows: npt.NDArray[np.int64],
        similarities: npt.NDArray[np.float32],
        k: int,
        by: str,
        left_out: frozenset[int],
    ) -> tuple[list[Hit], bool]:
        """Hits of rows, best first, and whether they are k, so that no later row can matter."""
        hits: list[Hit] = []
        taken: set[int] = set()  # files or rows that are no hit of their own any more
        for first in range(0, len(rows), _BLOCK_ROWS):
            block = slice(first, first + _BLOCK_ROWS)
            files = self._file_of(rows[block])
            for row, similarity, file in zip(
                rows[block].tolist(), similarities[block].tolist(), files.tolist(), strict=True
            ):
                if file in left_out or (file if by == "file" else row) in taken:
                    continue
                begin, end = self._around(unit, row, file, similarity, taken) if by == "range" else (row, row)
                hits.append(self._hit(row, similarity, file, begin, end))
                if len(hits) == k:
                    return hits, True
                # The rows beside a time are less similar than it, and often more than any other place: no news.
                taken.update([file] if by == "file" else self._beside(file, begin, end) if by == "range" else [])
        return hits, False

    def _around(
        self, unit: npt.NDArray[np.float32], peak: int, file: int, similarity: float, taken: set[int]
    ) -> tuple[int, int]:
        """First and last of the rows around one that follow one another and are nearly as similar."""
        lowest, highest = int(self._first_row[file]), int(self._first_row[file + 1]) - 1
        begin = self._walk(unit, peak, lowest, -1, similarity, taken)
        return begin, self._walk(unit, peak, highest, 1, similarity, taken)

    def _walk(
        self, unit: npt.NDArray[np.float32], peak: int, last: int, step: int, similarity: float, taken: set[int]
    ) -> int:
        at = peak
        while at != last and similarity > 0:
            ahead = at + step * np.arange(1, min(abs(last - at), _WALK_ROWS) + 1)
            alike = self._graph.vectors(ahead) @ unit >= SHARE_OF_PEAK * similarity
            for row, is_alike in zip(ahead.tolist(), alike.tolist(), strict=True):
                earlier, later = sorted((at, row))
                if not (is_alike and self._follows(earlier, later)) or row in taken:
                    return at
                at = row
        return at

    def _beside(self, file: int, begin: int, end: int) -> range:
        """The rows from one to another of a file, with the one before and the one after where they follow."""
        before = begin > self._first_row[file] and self._follows(begin - 1, begin)
        after = end + 1 < self._first_row[file + 1] and self._follows(end, end + 1)
        return range(begin - before, end + after + 1)

    def _follows(self, earlier: int, later: int) -> bool:
        return bool(self._start_s[earlier] <= self._start_s[later] <= self._end_s[earlier] + self._gap_s)

    def _hit(self, row: int, similarity: float, file: int, begin: int, end: int) -> Hit:
        return Hit(
            file=self._name(file),
            start_s=float(self._start_s[begin]),
            end_s=float(self._end_s[begin : end + 1].max()),
            similarity=min(1.0, max(-1.0, similarity)),
            peak_s=float(self._start_s[row] + self._end_s[row]) / 2,
        )

    def _ranked(
        self, unit: npt.NDArray[np.float32], k: int, exact: bool
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Rows, best first, and their similarities: ever more, at last all."""
        if len(self) > _MORE_COUNT and unit.any():
            for count in (max(_FIRST_COUNT, _ROWS_A_LINE * k), max(_MORE_COUNT, _ROWS_A_LINE * k)):
                if count < len(self):
                    yield self._graph.search(unit, count, exact=exact)
        similarities = np.concatenate(
            [
                self._graph.vectors(np.arange(first, min(first + _BLOCK_ROWS, len(self)))) @ unit
                for first in range(0, len(self), _BLOCK_ROWS)
            ]
        )
        rows = np.argsort(-similarities, kind="stable")
        yield rows, similarities[rows]

    @property
    def _gap_s(self) -> float:
        """Seconds between two rows that follow one another without overlap."""
        return max(0.0, self.job.hop_s - EXAMPLE_S) + _SAME_TIME_S

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.files)}

    def _file_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.searchsorted(self._first_row, rows, side="right") - 1

    def _name(self, place: int) -> str:
        begin, end = self._opened.arrays["name_end"][place : place + 2].tolist()
        return str(self._opened.arrays["names"][begin:end].tobytes(), "utf-8")

    def _find(self, file: str) -> int:
        if file in self._places:
            return self._places[file]
        ending = [place for place, name in enumerate(self.files) if _rows.is_called(name, file)]
        if len(ending) == 1:
            return ending[0]
        if ending:
            names = ", ".join(self.files[place] for place in ending[:3])
            raise OptionError(
                f"{file}: {len(ending)} recordings in {self.path} end so ({names}); expected one. Say more"
            )
        few = ", ".join(map(self._name, range(min(3, self.num_files))))
        raise OptionError(
            f"{file}: not in {self.path}, which has {self.num_files:,} recordings, such as {few}; expected one of them"
        )


def load(path: str | os.PathLike[str]) -> SoundIndex:
    """Return an index that `audioset.index.build` wrote, mapped into memory after every byte has been checked.

    Raises
    ------
    RecordError
        The file is missing, no index, damaged, or of a layout or USearch that cannot be read here.
    MissingExtraError
        USearch is not installed.
    """
    return SoundIndex(Path(path))


def in_time(
    start_s: npt.NDArray[np.float64], end_s: npt.NDArray[np.float64], begin_s: float, duration_s: float | None
) -> npt.NDArray[np.bool_]:
    """Which rows' middles are in a time; where there is none, those that hold the middle of the time.

    Raises
    ------
    OptionError
        The time is none.
    """
    if not (np.isfinite(begin_s) and begin_s >= 0):
        raise OptionError(f"start_s: {begin_s} is out of range; expected seconds, 0 or more")
    if duration_s is not None and not (np.isfinite(duration_s) and duration_s > 0):
        raise OptionError(f"duration_s: {duration_s} is out of range; expected seconds above 0, or None")
    stop_s = np.inf if duration_s is None else begin_s + duration_s
    middles = (start_s + end_s) / 2
    found: npt.NDArray[np.bool_] = (middles >= begin_s) & (middles < stop_s)
    if not found.any():
        middle_s = begin_s if duration_s is None else begin_s + duration_s / 2
        found = (start_s <= middle_s) & (middle_s < end_s)
    return found

"""USearch, behind the few things that are wanted of it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset._extras import check_installed
from audioset.errors import RecordError
from audioset.index._file import Opened

# Measured on 100,000 clustered vectors of 128: two thirds of float32's size and a third of its time to build, and what
# is found is the same. A cosine of two units that were rounded so is off by less than 0.001.
_DTYPE = "f16"

_HASH_BITS = 23  # 8 MB; of a million vectors a tenth are taken for ones that are there, which does no harm
_BLOCK_ROWS = 16_384
_MOVED_ROWS = 1_024


class Graph:
    """Unit vectors by row number, and those nearest to another, approximately."""

    def __init__(self, dim: int) -> None:
        check_installed("an index of sounds", "usearch")
        # USearch's library first and ONNX Runtime's after it ends the process (seen with USearch 2.26 and ONNX Runtime
        # 1.31 on Linux); the other way around both work.
        import onnxruntime  # noqa: F401
        from usearch.index import Index

        self._index: Any = Index(ndim=dim, metric="cos", dtype=_DTYPE)
        self._met: npt.NDArray[np.bool_] | None = None  # by a vector's hash, whether one like it is there

    def __len__(self) -> int:
        return len(self._index)

    def add(self, units: npt.NDArray[np.float32], threads: int) -> None:
        """Add vectors; the first is numbered as many as there are already."""
        first = len(self._index)
        again = np.flatnonzero(self._are_there(units))
        if len(again):
            units = units.copy()
            for few in np.array_split(again, len(again) // _MOVED_ROWS + 1):
                units[few] = _moved(units[few], first + few)
        with _interruptible():
            self._index.add(np.arange(first, first + len(units), dtype=np.uint64), units, threads=threads)

    def search(
        self, unit: npt.NDArray[np.float32], count: int, *, exact: bool
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Row numbers and cosines of the vectors nearest to one, best first."""
        with _interruptible():
            found = self._index.search(unit, count, exact=exact, threads=1)
        return found.keys.astype(np.int64), 1 - np.asarray(found.distances, np.float32)

    def vectors(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The vectors of these rows, as they are stored."""
        if not len(rows):
            return np.empty((0, self._index.ndim), np.float32)
        return np.stack(self._index.get(rows.astype(np.uint64))).astype(np.float32)

    def _are_there(self, units: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Which vectors are, as they are stored, the same as an earlier one, or rarely as if; all are noted."""
        if self._met is None:
            self._met = np.zeros(1 << _HASH_BITS, np.bool_)
            for first in range(0, len(self), _BLOCK_ROWS):
                self._are_there(self.vectors(np.arange(first, min(first + _BLOCK_ROWS, len(self)))))
        hashes = np.fromiter(map(zlib.crc32, units.astype(np.float16)), np.uint32, len(units)) >> (32 - _HASH_BITS)
        again = np.ones(len(units), np.bool_)
        again[np.unique(hashes, return_index=True)[1]] = False
        again |= self._met[hashes]
        self._met[hashes] = True
        return again

    def save(self, path: Path) -> None:
        """Write the graph with its vectors to a file; OSError where the disk is full."""
        try:
            self._index.save(str(path))
        except RuntimeError as error:
            raise OSError(f"USearch: {error}") from error

    @classmethod
    def of_file(cls, opened: Opened, path: Path, *, in_memory: bool = False) -> Graph:
        """The graph of an index file that was verified: mapped, or `in_memory` so that more can be added."""
        graph = cls(opened.about.job.embedding_dim)
        try:
            graph._index.load(opened.graph) if in_memory else graph._index.view(opened.graph)
        except (RuntimeError, ValueError) as error:
            raise _unreadable(path, opened, str(error)) from error
        if len(graph) != opened.about.rows or graph._index.ndim != opened.about.job.embedding_dim:
            raise _unreadable(path, opened, f"{len(graph):,} vectors of {graph._index.ndim}")
        return graph


def _moved(units: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Vectors moved by up to float16's last digit, each number by its place: the same ones differ then.

    Of many that are the same, digital silence, each is linked to its likes alone, and a search that meets them sees
    nothing else. Measured with 6,000 of them among as many others (random, 16 numbers): of the nearest ten 0 to 88%
    were found, by the order in which they came, and more than 99% with this.
    """
    dim = units.shape[1]
    mixed = rows.astype(np.uint64)[:, np.newaxis] * np.uint64(dim) + np.arange(1, dim + 1, dtype=np.uint64)
    for _ in range(2):  # until all of its bits depend on all of the place's
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    share = (mixed >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    digit = np.spacing(np.abs(units).astype(np.float16)).astype(np.float32)
    return units + np.where(units, digit * share, 0).astype(np.float32)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be what it is everywhere: USearch stops for it, and says so by an error of its own."""
    try:
        yield
    except RuntimeError as error:
        if "terminated" not in str(error):
            raise
        raise KeyboardInterrupt from error


def version() -> str:
    """The version of USearch."""
    import usearch

    return str(usearch.__version__)


def _unreadable(path: Path, opened: Opened, found: str) -> RecordError:
    about = opened.about
    return RecordError(
        f"{path}: USearch {version()} cannot read it ({found}); expected {about.rows:,} vectors of "
        f"{about.job.embedding_dim}, as written by USearch {about.usearch}. Install that version, or build it again"
    )

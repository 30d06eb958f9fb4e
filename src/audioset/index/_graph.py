"""USearch, behind the few things that are wanted of it."""

from __future__ import annotations

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


class Graph:
    """Unit vectors by row number, and those nearest to another, approximately."""

    def __init__(self, dim: int) -> None:
        check_installed("an index of sounds", "usearch")
        # USearch's library first and ONNX Runtime's after it ends the process (seen with USearch 2.26 and ONNX Runtime
        # 1.31 on Linux); the other way around both work.
        import onnxruntime  # noqa: F401
        from usearch.index import Index

        self._index: Any = Index(ndim=dim, metric="cos", dtype=_DTYPE)

    def __len__(self) -> int:
        return len(self._index)

    def add(self, units: npt.NDArray[np.float32], threads: int) -> None:
        """Add vectors; the first is numbered as many as there are already."""
        first = len(self._index)
        with _interruptible():
            self._index.add(
                np.arange(first, first + len(units), dtype=np.uint64), _apart(units, first), threads=threads
            )

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


def _apart(units: npt.NDArray[np.float32], first: int) -> npt.NDArray[np.float32]:
    """Vectors moved by up to half of float16's last digit, each number by its place: the same ones differ then.

    Of many that are the same, digital silence, each is linked to its likes alone, and a search that meets them sees
    nothing else: measured with as many of them as of others, 0 to 99% of the nearest ten were found, and all with this.
    """
    dim = units.shape[1]
    places = np.arange(first * dim, (first + len(units)) * dim, dtype=np.uint64).reshape(units.shape)
    places += np.uint64(1)
    for shift, factor in ((32, 0xD6E8FEB86659FD93), (32, 0xD6E8FEB86659FD93)):  # as hashes mix bits
        places ^= places >> np.uint64(shift)
        places *= np.uint64(factor)
    share = (places >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)
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

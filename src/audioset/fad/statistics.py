"""Mean and covariance of embeddings: gathered in a stream, merged, kept in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset._files import written_whole
from audioset.errors import OutputError, RecordError
from audioset.records.info import LAYOUT, JobInfo, job_from, load_json
from audioset.records.table import NPZ_DAMAGE

CHUNK_BYTES = 4 << 20
_MEANS = ("mu", "mean")
_COVARIANCES = ("sigma", "cov", "covariance")
_ASYMMETRY = 1e-5  # of the largest entry; what arithmetic in float32 leaves

# What is not finite then is named by `Statistics`.
_beyond_float64 = np.errstate(over="ignore", invalid="ignore")

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Statistics:
    """A Gaussian fitted to embeddings, and what it was fitted to.

    Attributes
    ----------
    mean : ndarray of float64, shape (dim,)
        Of the rows.
    covariance : ndarray of float64, shape (dim, dim)
        Of the rows, divided by their number less one, as `numpy.cov` does and as public implementations of the
        distance do.
    count, files : int or None
        Rows, and the files that they are of; None where a file of others does not say.
    info : JobInfo or None
        What embedded them; None where that is not known.
    source : str
        What they are of, as messages name it.

    Raises
    ------
    RecordError
        The arrays are no mean and covariance: other shapes, not finite, not symmetric, of fewer than two rows.
    """

    mean: Float64Array
    covariance: Float64Array
    count: int | None = None
    files: int | None = None
    info: JobInfo | None = None
    source: str = "<array>"

    def __post_init__(self) -> None:
        shapes = f"mean {self.mean.shape} and covariance {self.covariance.shape}"
        if self.mean.ndim != 1 or self.covariance.shape != self.mean.shape * 2 or not len(self.mean):
            raise RecordError(f"{self.source}: {shapes}; expected (dim,) and (dim, dim)")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise RecordError(
                f"{self.source}: its statistics are not finite, as of numbers whose squares are beyond float64; "
                "expected numbers. Measure the embeddings again"
            )
        scale = float(np.abs(self.covariance).max())
        asymmetry = float(np.abs(self.covariance - self.covariance.T).max())
        if asymmetry > _ASYMMETRY * scale:
            raise RecordError(
                f"{self.source}: its covariance is not symmetric (entries differ by {asymmetry:.3g}, the largest is "
                f"{scale:.3g}); expected a covariance. Measure the embeddings again"
            )
        if self.count is not None and self.count < 2:
            raise RecordError(
                f"{self.source}: {self.count} {'example' if self.count == 1 else 'examples'}; expected at least 2, "
                "which have a covariance. Use more audio"
            )

    @property
    def dim(self) -> int:
        """Values a row."""
        return len(self.mean)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write an NPZ with `mu`, `sigma` and, as JSON, `metadata`: the first two are what other tools read.

        Raises
        ------
        OutputError
            The file is there already, or cannot be written.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: exists; choose another name, or overwrite it (--overwrite)")
        about = {
            "layout": LAYOUT,
            "count": self.count,
            "files": self.files,
            "source": self.source,
            "job": None if self.info is None else asdict(self.info),
        }
        with written_whole(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, mu=self.mean, sigma=self.covariance, metadata=np.array(json.dumps(about)))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, model: str | None = None) -> Statistics:
        """Return the statistics in an NPZ, of this package or of others.

        Others' have `mu` or `mean` with `sigma`, `cov` or `covariance`, or, as fadtk's, these behind a model's name
        and a dot; `model` says which where there are several.

        Raises
        ------
        RecordError
            The file is none, is damaged, or holds no mean and covariance.
        """
        path = Path(path)
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                mean, covariance = (_float64(archive[name], name, path) for name in _names(archive, model, path))
                text = str(archive["metadata"]) if "metadata" in archive else None
        except RecordError:
            raise
        except NPZ_DAMAGE as error:
            raise RecordError(f"{path}: cannot be read ({error}); expected an NPZ of statistics, whole") from error
        if text is None:
            return cls(mean, covariance, source=str(path))
        about = load_json(text, path)
        try:
            info = None if about["job"] is None else job_from(about["job"], path)
            return cls(mean, covariance, _whole(about["count"]), _whole(about["files"]), info, str(path))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, RecordError):
                raise
            raise RecordError(f"{path}: what it says of itself is damaged ({error!r}); measure again") from error


def has_statistics(names: Mapping[str, Any]) -> bool:
    """Return whether an NPZ with arrays of these names is one of statistics."""
    return bool(_pairs(names))


class Moments:
    """Number, mean and sum of squared deviations of rows, block by block; after Chan, Golub and LeVeque (1979)."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean: Float64Array = np.zeros(dim)
        self.squares: Float64Array = np.zeros((dim, dim))

    @_beyond_float64
    def fold(self, rows: npt.NDArray[Any]) -> None:
        """Take the rows of a block, (n, dim)."""
        if len(rows):
            block = Moments(0)
            block.count = len(rows)
            block.mean = rows.mean(axis=0, dtype=np.float64)
            centred = rows - block.mean
            block.squares = centred.T @ centred
            self.merge(block)

    @_beyond_float64
    def merge(self, other: Moments) -> None:
        """Take the rows of others, too."""
        if not other.count:
            return
        count = self.count + other.count
        gap = other.mean - self.mean
        self.squares = self.squares + other.squares + np.outer(gap, gap) * (self.count * other.count / count)
        self.mean = self.mean + gap * (other.count / count)
        self.count = count

    def covariance(self) -> Float64Array:
        """Divided by the number of rows less one."""
        return self.squares / max(self.count - 1, 1)


class Accumulator:
    """Mean and covariance of rows that come in blocks; memory does not grow with their number.

    Rows are taken in chunks of a fixed size, whatever blocks they come in: the same rows in the same order give the
    same statistics, bit for bit. In another order, or merged from parts, they agree within 1e-12 of the largest
    variance.

    Parameters
    ----------
    dim : int
        Values a row.
    """

    def __init__(self, dim: int) -> None:
        self._moments = Moments(dim)
        self._chunk = np.empty((max(1, CHUNK_BYTES // (8 * max(1, dim))), dim))
        self._filled = 0

    @property
    def count(self) -> int:
        """Rows so far."""
        return self._moments.count + self._filled

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Take rows, (n, dim), of any real type.

        Raises
        ------
        RecordError
            They have another shape, or values that are not finite.
        """
        if rows.ndim != 2 or rows.shape[1] != self._chunk.shape[1]:
            raise RecordError(f"rows: shape {rows.shape}; expected (n, {self._chunk.shape[1]})")
        if not np.isfinite(rows).all():
            raise RecordError("rows: some are not finite; expected numbers. Embed their files again")
        taken = 0
        while taken < len(rows):
            part = rows[taken : taken + len(self._chunk) - self._filled]
            self._chunk[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            taken += len(part)
            if self._filled == len(self._chunk):
                self._moments.fold(self._chunk)
                self._filled = 0

    def merge(self, other: Accumulator) -> None:
        """Take the rows of another accumulator, too, such as one that another process filled."""
        if other._moments.mean.shape != self._moments.mean.shape:
            raise RecordError(f"merged: rows of {len(other._moments.mean)} values; expected {len(self._moments.mean)}")
        self._moments = self._total()
        self._filled = 0
        self._moments.merge(other._total())

    def statistics(
        self, *, files: int | None = None, info: JobInfo | None = None, source: str = "<array>"
    ) -> Statistics:
        """Return the statistics of the rows so far; more may follow.

        Raises
        ------
        RecordError
            There are fewer than two rows.
        """
        total = self._total()
        return Statistics(total.mean, total.covariance(), total.count, files, info, source)

    def _total(self) -> Moments:
        total = Moments(len(self._moments.mean))
        total.merge(self._moments)
        total.fold(self._chunk[: self._filled])
        return total


def _pairs(names: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Names of a mean and a covariance, by the name of the model before their dot, or nothing."""
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        prefix, dot, last = name.rpartition(".")
        if last in _MEANS:
            others = [f"{prefix}{dot}{other}" for other in _COVARIANCES if f"{prefix}{dot}{other}" in names]
            if others:
                found.setdefault(prefix, (name, others[0]))
    return found


def _names(archive: Mapping[str, Any], model: str | None, path: Path) -> tuple[str, str]:
    pairs = _pairs(archive)
    if not pairs:
        held = ", ".join(list(archive)[:10]) or "nothing"
        raise RecordError(f"{path}: holds {held}; expected mu and sigma, or mean and cov")
    if len(pairs) == 1:
        return next(iter(pairs.values()))
    if model not in pairs:
        raise RecordError(f"{path}: statistics of {', '.join(sorted(pairs))}; expected one of {model}")
    return pairs[model]


def _float64(values: npt.NDArray[Any], name: str, path: Path) -> Float64Array:
    if values.dtype.kind not in "fiu":
        raise RecordError(f"{path}: {name} is {values.dtype}; expected real numbers")
    return values.astype(np.float64)


def _whole(value: object) -> int | None:
    if value is None or type(value) is int:
        return value
    raise ValueError(f"{value!r} is no number of examples or files")

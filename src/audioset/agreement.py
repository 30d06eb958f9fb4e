"""How well two ways of running a network agree: numbers from the rows that both gave for the same examples.

Cosines of embeddings are close to 1 for any two sounds where all values lie on one side of zero, so they say little
on their own. The *mean-centred correlation* takes away what all rows have in common first: from every dimension its
mean over all rows, of each network its own; then it is the correlation of all values together. What a change does to
those who search or classify is told by nearest neighbours and top classes.

`audioset.verify.compare` runs networks on recordings and gives these.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from audioset.errors import OptionError
from audioset.postprocess import Pca, quantize

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]

NEAREST: Final = 10
TOP_CLASSES: Final = 5
MAX_NEIGHBOUR_ROWS: Final = 20_000
_ROWS_AT_ONCE: Final = 512
_AS_NEAR: Final = 1e-6  # of cosines: rounding
_TINY: Final = np.finfo(np.float32).tiny
_ALIKE: Final = 1e-12  # of the rows' squares: what rounding leaves of differences between equal rows


@dataclass(frozen=True)
class OutputAgreement:
    """How two networks' rows of one output agree.

    Attributes
    ----------
    rows : int
        Rows that were compared.
    correlation : float
        Mean-centred, of all values together.
    lowest_file_correlation : float
        The same of one file's rows alone, centred on the means of all; the lowest of any file.
    lowest_file : int
        Which file that is.
    cosine_mean, cosine_percentile_1, cosine_lowest : float
        Of the rows' cosines.
    mean_difference, max_difference : float
        Of all values, without sign.
    """

    rows: int
    correlation: float
    lowest_file_correlation: float
    lowest_file: int
    cosine_mean: float
    cosine_percentile_1: float
    cosine_lowest: float
    mean_difference: float
    max_difference: float


@dataclass(frozen=True)
class NeighbourAgreement:
    """How the nearest neighbours of rows agree, by cosine of mean-centred values.

    Attributes
    ----------
    rows : int
        Rows whose neighbours were compared, among as many.
    same_nearest : float
        Share of rows whose nearest neighbour is the same.
    overlap : float
        Mean share of the ten nearest that are the same, in any order.
    """

    rows: int
    same_nearest: float
    overlap: float


@dataclass(frozen=True)
class ClassAgreement:
    """How scores agree: share of rows with the same highest class, mean share of the five highest in common."""

    same_top: float
    overlap: float


@dataclass(frozen=True)
class ByteAgreement:
    """How the released 8-bit form agrees: shares of bytes that are equal, and that differ by 1 at most."""

    equal: float
    within_one: float


def compare_rows(reference: Float32Array, other: Float32Array, files: Groups) -> OutputAgreement:
    """Return how two networks' rows agree.

    Parameters
    ----------
    reference, other : ndarray of float, shape (k, width)
        Rows of the same k examples.
    files : ndarray of int64, shape (k,)
        Which file each row is of, rising.

    Raises
    ------
    OptionError
        All rows of the reference are alike, or there are fewer than two.
    """
    centre, other_centre = (rows.mean(axis=0, dtype=np.float64) for rows in (reference, other))
    cosines = np.empty(len(reference))
    total, largest = 0.0, 0.0
    sums = np.zeros(3)
    of_files: dict[int, float] = {}
    for rows in _files(files):
        of_file = np.zeros(3)
        for at in range(rows.start, rows.stop, _ROWS_AT_ONCE):
            piece = slice(at, min(at + _ROWS_AT_ONCE, rows.stop))
            first, second = reference[piece].astype(np.float64), other[piece].astype(np.float64)
            cosines[piece] = _cosine(_products(first, second))
            difference = np.abs(first - second)
            total, largest = total + float(difference.sum()), max(largest, float(difference.max()))
            of_file += _products(first - centre, second - other_centre).sum(axis=1)
        of_files[int(files[rows.start])] = float(_cosine(of_file))
        sums += of_file
    if len(reference) < 2 or sums[1] <= _ALIKE * float(np.square(centre).sum() * len(reference)):
        raise OptionError(
            f"{len(reference)} examples, all alike: nothing to compare; expected several, of varied sound"
        )
    lowest_file = min(of_files, key=of_files.__getitem__)
    return OutputAgreement(
        rows=len(reference),
        correlation=float(_cosine(sums)),
        lowest_file_correlation=of_files[lowest_file],
        lowest_file=lowest_file,
        cosine_mean=float(cosines.mean()),
        cosine_percentile_1=float(np.percentile(cosines, 1)),
        cosine_lowest=float(cosines.min()),
        mean_difference=total / reference.size,
        max_difference=largest,
    )


def compare_neighbours(reference: Float32Array, other: Float32Array, files: Groups) -> NeighbourAgreement | None:
    """Return how the nearest neighbours of rows agree; parameters as in `compare_rows`.

    Neighbours are sought in other files than the row's own or, where there is one file, among the rows that do not
    touch it. Of more than 20,000 rows, evenly spaced ones are compared. None where no row has a neighbour.
    """
    if len(files) > MAX_NEIGHBOUR_ROWS:
        chosen = np.arange(MAX_NEIGHBOUR_ROWS) * len(files) // MAX_NEIGHBOUR_ROWS
        reference, other, files = reference[chosen], other[chosen], files[chosen]
    directions = [_directions(values) for values in (reference, other)]
    place = np.arange(len(files))
    several = files[0] != files[-1]
    rows, same, overlap = 0, 0, 0.0
    for at in range(0, len(files), _ROWS_AT_ONCE):
        piece = slice(at, at + _ROWS_AT_ONCE)
        barred = files[piece, np.newaxis] == files if several else np.abs(place[piece, np.newaxis] - place) <= 1
        cosines, others = (np.where(barred, -np.inf, values[piece] @ values.T) for values in directions)
        count = np.minimum((~barred).sum(axis=1), NEAREST)
        has = count > 0
        nearest = np.take_along_axis(cosines, _nearest(cosines), axis=1)
        # What the other network finds, by the measure of the first: of equals, such as silences, any will do.
        found = np.take_along_axis(cosines, _nearest(others), axis=1)
        last = np.take_along_axis(nearest, np.maximum(count - 1, 0)[:, np.newaxis], axis=1)
        in_common = ((found >= last - _AS_NEAR) & (found > -np.inf)).sum(axis=1)
        rows += int(has.sum())
        same += int((found[has, 0] >= nearest[has, 0] - _AS_NEAR).sum())
        overlap += float((in_common[has] / count[has]).sum())
    return NeighbourAgreement(rows, same / rows, overlap / rows) if rows else None


def compare_classes(reference: Float32Array, other: Float32Array) -> ClassAgreement:
    """Return how the highest scores of each row agree."""
    width = min(TOP_CLASSES, reference.shape[1])
    same, in_common = 0, 0
    for at in range(0, len(reference), _ROWS_AT_ONCE):
        first, second = (
            np.argsort(-values[at : at + _ROWS_AT_ONCE], axis=1, kind="stable")[:, :width]
            for values in (reference, other)
        )
        same += int((first[:, 0] == second[:, 0]).sum())
        in_common += int((first[:, :, np.newaxis] == second[:, np.newaxis]).sum())
    return ClassAgreement(same / len(reference), in_common / (len(reference) * width))


def compare_bytes(reference: Float32Array, other: Float32Array, pca: Pca) -> ByteAgreement:
    """Return how the released 8-bit form of raw embeddings agrees."""
    equal = within = 0
    for at in range(0, len(reference), _ROWS_AT_ONCE):
        first, second = (quantize(pca.apply(values[at : at + _ROWS_AT_ONCE])) for values in (reference, other))
        difference = np.abs(first.astype(np.int16) - second)
        equal += int((difference == 0).sum())
        within += int((difference <= 1).sum())
    return ByteAgreement(equal / reference.size, within / reference.size)


def means_of_files(values: Float32Array, files: Groups) -> Float32Array:
    """Return one row a file: the mean of its rows."""
    return np.stack([values[rows].mean(axis=0, dtype=np.float64) for rows in _files(files)]).astype(np.float32)


def _files(files: Groups) -> Iterator[slice]:
    """The rows of each file."""
    edges = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(files)]
    return (slice(first, end) for first, end in itertools.pairwise(edges) if end > first)


def _products(first: Float64Array, second: Float64Array) -> Float64Array:
    """Of each row: the product of both, the squares of the first and of the second; shape (3, k)."""
    pairs = ((first, second), (first, first), (second, second))
    return np.stack([np.einsum("ij,ij->i", one, two) for one, two in pairs])


def _cosine(products: Float64Array) -> Float64Array:
    """Cosines from products and squares; those of two zeros are 1, of one zero 0."""
    both, first, second = products
    norms = np.sqrt(first * second)
    zero = np.asarray((first == 0) & (second == 0), np.float64)
    return np.asarray(np.clip(np.divide(both, norms, out=zero, where=norms > 0), -1, 1))


def _directions(values: Float32Array) -> Float32Array:
    centred = values - values.mean(axis=0, dtype=np.float64).astype(np.float32)
    directions: Float32Array = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), _TINY)
    return directions


def _nearest(cosines: Float32Array) -> npt.NDArray[np.intp]:
    """The places of each row's highest values, the highest first."""
    count = min(NEAREST, cosines.shape[1])
    found = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(cosines, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)

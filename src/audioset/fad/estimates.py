"""More than one distance from a set: extrapolated to endless audio, and of each file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset.errors import OptionError
from audioset.fad.distance import EXTRAPOLATED_PER_DIM, Gaussian, check_comparable
from audioset.fad.sources import BLOCK_ROWS, EmbeddingSource, as_source, in_blocks_of
from audioset.fad.statistics import Moments, Statistics

STEPS = 25
MIN_EXAMPLES = 10
FADTK_MIN_COUNT = 500
_ROUNDING = 1e-12
_FEWEST_PER_DIM = 2  # in the smallest sample: distances of fewer do not lie on the line

Embeddings = EmbeddingSource | npt.NDArray[Any] | str | os.PathLike[str]


@dataclass(frozen=True)
class FadInfinity:
    """The distance extrapolated to endless audio.

    Attributes
    ----------
    value : float
        Where the line meets 1/n = 0. Not clipped: of equal distributions it may come out a little below zero.
    slope : float
        Of the line, in distance for each 1/n.
    r2 : float
        Share of the distances' variance that the line explains.
    counts : tuple of int
        Examples in each sample.
    distances : tuple of float
        Of each sample.
    seed : int
        Of the samples.
    replacement : bool
        Whether a sample could hold a row more than once.
    """

    value: float
    slope: float
    r2: float
    counts: tuple[int, ...]
    distances: tuple[float, ...]
    seed: int
    replacement: bool


@dataclass(frozen=True)
class FileDistance:
    """How far one file is from the reference.

    Attributes
    ----------
    file : str
        Its name.
    count : int
        Its examples.
    distance : float or None
        None where these are too few for a number that means something.
    """

    file: str
    count: int
    distance: float | None


def fad_infinity(
    reference: Statistics,
    evaluated: Embeddings,
    *,
    steps: int = STEPS,
    min_count: int | None = None,
    seed: int = 0,
    replacement: bool = False,
) -> FadInfinity:
    """Return the distance of endless audio: samples of many sizes, and a line through their distances against 1/n.

    It removes the bias of few examples in what is evaluated, and none of the reference's: give that one plenty. The
    rows are read once, in bounded memory; the same rows, seed and steps give the same numbers.
    Source: Gui et al. (2023), "Adapting Frechet Audio Distance for Generative Music Evaluation", after Chong and
    Forsyth (2020).

    Parameters
    ----------
    reference : Statistics
        Of the reference.
    evaluated : EmbeddingSource, ndarray or path
        Embeddings, as for `statistics_of`.
    steps : int
        Samples, of sizes spread evenly from `min_count` to all examples.
    min_count : int, optional
        Examples in the smallest; by default four a dimension, or half of all where that is less, and fadtk's 500 with
        replacement.
    seed : int
        Of the random generator.
    replacement : bool
        Draw rows with replacement, as fadtk (the code of Gui et al.) does; Chong and Forsyth draw without. Samples that
        repeat rows have a line that leads back to the plain distance, bias included.

    Raises
    ------
    OptionError
        There are fewer than four examples a dimension, or with replacement too few for samples of three
        sizes; an option is out of range, or the embedders differ.
    """
    source = as_source(evaluated)
    most = source.num_rows
    if replacement:
        least, fewest = 2, FADTK_MIN_COUNT if min_count is None else min_count
        needed = fewest + 2
    else:
        least, needed = _FEWEST_PER_DIM * source.dim, EXTRAPOLATED_PER_DIM * source.dim
        fewest = min(needed, most // 2) if min_count is None else min_count
    if steps < 3:
        raise OptionError(f"steps: {steps} is out of range; expected 3 or more")
    if seed < 0:
        raise OptionError(f"seed: {seed} is out of range; expected 0 or more")
    if most < needed:
        raise OptionError(
            f"{source.name}: {most:,} examples of {source.dim} values; expected {needed:,} or more to extrapolate "
            "from. Use more audio, or the plain distance"
        )
    if not least <= fewest <= most - 2:  # samples of three sizes: any two points lie on a line
        raise OptionError(f"min_count: {fewest} is out of range; expected from {least} to {most - 2}")
    counts = np.unique(np.linspace(fewest, most, steps).astype(np.int64))
    gaussian = Gaussian.of(reference)
    distances = []
    for number, moments in enumerate(_samples(source, counts, seed, replacement)):
        sample = Statistics(moments.mean, moments.covariance(), int(counts[number]), None, source.info, source.name)
        check_comparable(reference, sample)
        distances.append(gaussian.distance(Gaussian.of(sample)))
    x, y = 1 / counts, np.array(distances)
    slope, value = np.polyfit(x, y, 1)
    spread = float(np.square(y - y.mean()).sum())
    is_flat = spread <= len(y) * (_ROUNDING * np.abs(y).max()) ** 2  # of sounds that are all the same
    r2 = 1.0 if is_flat else 1 - float(np.square(y - slope * x - value).sum()) / spread
    return FadInfinity(float(value), float(slope), r2, tuple(counts.tolist()), tuple(distances), seed, replacement)


def per_file(reference: Statistics, evaluated: Embeddings, *, min_examples: int = MIN_EXAMPLES) -> list[FileDistance]:
    """Return the distance of every file from the reference, the farthest first.

    Files of like length compare with each other: a distance of few examples comes out too large, the more so the fewer
    they are. Those with fewer than `min_examples` have none, and come last. The rows are read once, in bounded memory.

    Parameters
    ----------
    reference : Statistics
        Of the reference.
    evaluated : EmbeddingSource, ndarray or path
        Embeddings, as for `statistics_of`.
    min_examples : int
        Examples, 2 or more, from which on a file has a distance.

    Raises
    ------
    OptionError
        `min_examples` is below 2, or the embedders differ.
    """
    source = as_source(evaluated)
    if min_examples < 2:
        raise OptionError(f"min_examples: {min_examples} is out of range; expected 2 or more")
    dim = source.dim
    alike = Statistics(np.zeros(dim), np.zeros((dim, dim)), info=source.info, source=source.name)
    check_comparable(reference, alike)
    gaussian = Gaussian.of(reference)
    found = [
        FileDistance(name, count, None if count < min_examples else gaussian.distance(of_file()))
        for name, count, of_file in _files(source)
    ]
    return sorted(found, key=lambda one: (one.distance is None, -(one.distance or 0.0), one.file))


def _samples(source: EmbeddingSource, counts: npt.NDArray[np.int64], seed: int, replacement: bool) -> list[Moments]:
    """Moments of a sample of each size, all drawn in one pass.

    How many of a sample's rows lie in each block is drawn first, then which: together that is a draw from all rows.
    """
    sizes = np.full(-(-source.num_rows // BLOCK_ROWS), BLOCK_ROWS)
    sizes[-1] = source.num_rows - BLOCK_ROWS * (len(sizes) - 1)
    generators = [np.random.default_rng([seed, step]) for step in range(len(counts))]
    if replacement:
        shares = [
            draw.multinomial(count, sizes / source.num_rows) for draw, count in zip(generators, counts, strict=True)
        ]
    else:
        shares = [
            draw.multivariate_hypergeometric(sizes, count, method="marginals")
            for draw, count in zip(generators, counts, strict=True)
        ]
    samples = [Moments(source.dim) for _ in counts]
    for place, rows in enumerate(in_blocks_of(BLOCK_ROWS, source.blocks())):
        for draw, share, sample in zip(generators, shares, samples, strict=True):
            sample.fold(rows[draw.choice(len(rows), int(share[place]), replace=replacement, shuffle=False)])
    return samples


class _File:
    """Rows of one file as they come: kept while they are few, folded into moments from then on."""

    def __init__(self, name: str, dim: int) -> None:
        self.name = name
        self.count = 0
        self._dim = dim
        self._held: list[npt.NDArray[Any]] = []
        self._moments = Moments(dim)

    def add(self, rows: npt.NDArray[Any]) -> None:
        self._held.append(rows)
        self.count += len(rows)
        if self.count - self._moments.count > max(self._dim, BLOCK_ROWS):
            self._fold()

    def gaussian(self) -> Gaussian:
        if not self._moments.count and self.count <= self._dim:
            return Gaussian.of_rows(np.concatenate(self._held))
        self._fold()
        return Gaussian.of(Statistics(self._moments.mean, self._moments.covariance(), self.count, source=self.name))

    def _fold(self) -> None:
        if self._held:
            self._moments.fold(np.concatenate(self._held))
            self._held.clear()


def _files(source: EmbeddingSource) -> Iterator[Any]:
    """Name, number of rows, and a function to the Gaussian of each file."""
    file: _File | None = None
    for block in source.blocks():
        at = 0
        for name, count in zip(block.names, block.counts, strict=True):
            if file is None or file.name != name:
                if file is not None:
                    yield file.name, file.count, file.gaussian
                file = _File(name, source.dim)
            file.add(block.values[at : at + count])
            at += count
    if file is not None:
        yield file.name, file.count, file.gaussian

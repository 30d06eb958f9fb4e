from __future__ import annotations

import numpy as np
import pytest

from audioset.errors import OptionError
from audioset.fad import Statistics, fad_infinity, frechet_distance, per_file, statistics_of
from audioset.fad.sources import ArraySource, Block, EmbeddingSource

DIM = 16


@pytest.fixture
def reference() -> Statistics:
    return Statistics(np.zeros(DIM), np.eye(DIM), 10**6)


class Files(EmbeddingSource):
    """Rows of several files, in blocks that cut through them."""

    def __init__(self, block: int, **rows: np.ndarray) -> None:
        self.name, self.info, self.dim, self.num_files = "files", None, DIM, len(rows)
        self.values = np.concatenate(list(rows.values()))
        self.names = [name for name, of_file in rows.items() for _ in of_file]
        self.num_rows = len(self.values)
        self.block = block

    def _read(self):  # type: ignore[no-untyped-def]
        for first in range(0, self.num_rows, self.block):
            names = self.names[first : first + self.block]
            found = list(dict.fromkeys(names))
            yield Block(self.values[first : first + self.block], found, [names.count(name) for name in found])


def test_extrapolation_takes_the_bias_of_few_examples_away(reference: Statistics, rng: np.random.Generator) -> None:
    """Of the reference's own distribution: the truth is 0, and the plain distance is far above it."""
    drawn = [rng.standard_normal((400, DIM)) for _ in range(8)]
    plain = np.mean([frechet_distance(reference, statistics_of(rows)) for rows in drawn])
    extrapolated = np.mean([fad_infinity(reference, rows).value for rows in drawn])
    repeating = np.mean([fad_infinity(reference, rows, replacement=True, min_count=64).value for rows in drawn])
    assert plain > 0.15
    assert abs(extrapolated) < 0.1 * plain
    assert repeating > 0.7 * plain  # rows that repeat bring the line back to the plain distance


def test_extrapolation_is_the_line_through_its_points(reference: Statistics, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((1000, DIM)) + 0.1
    found = fad_infinity(reference, rows, steps=9)
    assert (found.counts[0], found.counts[-1], len(found.counts)) == (64, 1000, 9)
    assert found.distances[-1] == pytest.approx(frechet_distance(reference, statistics_of(rows)), rel=1e-9)
    design = np.stack([1 / np.array(found.counts), np.ones(9)], axis=1)
    (slope, value), residuals, *_ = np.linalg.lstsq(design, np.array(found.distances), rcond=None)
    assert (found.slope, found.value) == pytest.approx((slope, value), rel=1e-9)
    assert found.r2 == pytest.approx(1 - residuals[0] / np.sum((found.distances - np.mean(found.distances)) ** 2))


def test_extrapolation_is_the_same_for_the_same_seed(reference: Statistics, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((9000, DIM))  # several blocks to draw from
    first = fad_infinity(reference, rows, steps=5)
    assert fad_infinity(reference, rows, steps=5) == first
    assert fad_infinity(reference, Files(1234, a=rows), steps=5) == first
    assert fad_infinity(reference, rows, steps=5, seed=1).distances[:-1] != first.distances[:-1]


def test_samples_hold_every_row_alike(rng: np.random.Generator) -> None:
    """Numbered rows: samples drawn block by block have the mean and the variance of samples of the whole."""
    from audioset.fad.estimates import _samples

    numbers = np.arange(10_000.0)[:, None]
    sizes = np.full(300, 500)
    for replacement, factor in ((False, 1 - 500 / 10_000), (True, 1.0)):
        means = np.array([sample.mean[0] for sample in _samples(ArraySource(numbers), sizes, 0, replacement)])
        deviation = np.sqrt(10_000**2 / 12 / 500 * factor)
        assert means.mean() == pytest.approx(4999.5, abs=4 * deviation / np.sqrt(300))
        assert means.std() == pytest.approx(deviation, rel=0.15)


def test_with_replacement_samples_are_of_fadtks_sizes(reference: Statistics, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((600, DIM))
    found = fad_infinity(reference, rows, replacement=True, steps=5)
    assert found.counts == (500, 525, 550, 575, 600)
    assert fad_infinity(reference, rows, replacement=True, steps=5) == found
    assert fad_infinity(reference, rows, replacement=True, steps=5, seed=1).distances != found.distances
    with pytest.raises(OptionError, match="500 examples of 16 values; expected 502 or more"):
        fad_infinity(reference, rows[:500], replacement=True)
    # However few there are for each dimension, as with embeddings that are longer than those of VGGish.
    found = fad_infinity(reference, rows[:30], replacement=True, steps=3, min_count=20)
    assert found.counts == (20, 25, 30)


def test_extrapolation_needs_some_examples(reference: Statistics) -> None:
    with pytest.raises(OptionError, match="63 examples of 16 values; expected 64 or more"):
        fad_infinity(reference, np.ones((63, DIM)))
    with pytest.raises(OptionError, match="min_count: 10 is out of range; expected from 32 to 98"):
        fad_infinity(reference, np.ones((100, DIM)), min_count=10)
    with pytest.raises(OptionError, match="min_count: 99 is out of range"):  # any two points lie on a line
        fad_infinity(reference, np.ones((100, DIM)), min_count=99)
    with pytest.raises(OptionError, match="steps: 2"):
        fad_infinity(reference, np.ones((100, DIM)), steps=2)
    with pytest.raises(OptionError, match="seed: -1"):
        fad_infinity(reference, np.ones((100, DIM)), seed=-1)
    with pytest.raises(OptionError, match="dimensions"):
        fad_infinity(reference, np.ones((100, DIM - 1)))


def test_sounds_that_are_all_the_same_lie_on_their_line(reference: Statistics) -> None:
    """What rounding leaves of no variance is none."""
    found = fad_infinity(reference, np.full((300, DIM), 1 / 3))
    assert found.value == pytest.approx(found.distances[0])
    assert found.r2 == 1


@pytest.mark.skipif(np.longdouble is np.float64, reason="there is no longer type here")
def test_longer_numbers_than_float64_are_taken(reference: Statistics, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((300, DIM))
    longer = rows.astype(np.longdouble)
    assert fad_infinity(reference, longer, steps=3) == fad_infinity(reference, rows, steps=3)
    assert per_file(reference, longer[:12]) == per_file(reference, rows[:12])


@pytest.mark.filterwarnings("ignore::audioset.fad.SmallSampleWarning")
@pytest.mark.parametrize("block", [1, 7, 5000])
def test_each_file_has_the_distance_of_its_rows(reference: Statistics, rng: np.random.Generator, block: int) -> None:
    rows = {
        "short": rng.standard_normal((3, DIM)),
        "near": rng.standard_normal((12, DIM)),  # fewer than dimensions
        "long": rng.standard_normal((40 if block == 1 else 9000, DIM)) + 0.2,
        "far": rng.standard_normal((30, DIM)) + 5,
    }
    found = per_file(reference, Files(block, **rows))
    assert [one.file for one in found[:1]] == ["far"]
    assert (found[-1].file, found[-1].count, found[-1].distance) == ("short", 3, None)
    distances = [one.distance for one in found[:-1]]
    assert distances == sorted(distances, reverse=True)  # type: ignore[type-var]
    for one in found[:-1]:
        expected = frechet_distance(reference, statistics_of(rows[one.file]))
        assert one.distance == pytest.approx(expected, rel=1e-9)
        assert one.count == len(rows[one.file])


def test_fewer_examples_can_be_asked_for(reference: Statistics, rng: np.random.Generator) -> None:
    (found,) = per_file(reference, Files(9, short=rng.standard_normal((3, DIM))), min_examples=2)
    assert found.distance is not None
    with pytest.raises(OptionError, match="min_examples: 1"):
        per_file(reference, Files(9, short=np.ones((3, DIM))), min_examples=1)

"""What agreement is made of, against definitions written out row by row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from audioset import agreement
from audioset.agreement import compare_bytes, compare_classes, compare_neighbours, compare_rows, means_of_files
from audioset.errors import OptionError
from audioset.postprocess import Pca, quantize

Float32Array = npt.NDArray[np.float32]
FILES = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3])


@pytest.fixture
def pair(rng: np.random.Generator) -> tuple[Float32Array, Float32Array]:
    """Rows with means far from zero, and the same with some noise."""
    reference = rng.standard_normal((len(FILES), 6)) + 5
    return reference.astype(np.float32), (reference + 0.3 * rng.standard_normal(reference.shape)).astype(np.float32)


@pytest.fixture
def in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_ROWS_AT_ONCE", 3)


def cosine(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


@pytest.mark.usefixtures("in_small_pieces")
def test_rows_agree_as_defined(pair: tuple[Float32Array, Float32Array]) -> None:
    first, second = (values.astype(np.float64) for values in pair)
    found = compare_rows(*pair, FILES)
    centred = [values - values.mean(axis=0) for values in (first, second)]
    of_files = [cosine(*(values[file == FILES].ravel() for values in centred)) for file in range(4)]
    cosines = [cosine(a, b) for a, b in zip(first, second, strict=True)]
    assert found.rows == 13
    assert found.correlation == pytest.approx(cosine(*(values.ravel() for values in centred)), abs=1e-12)
    assert found.correlation == pytest.approx(np.corrcoef(*(values.ravel() for values in centred))[0, 1], abs=1e-12)
    assert found.lowest_file == int(np.argmin(of_files))
    assert found.lowest_file_correlation == pytest.approx(min(of_files), abs=1e-12)
    assert found.cosine_mean == pytest.approx(np.mean(cosines), abs=1e-12)
    assert found.cosine_percentile_1 == pytest.approx(np.percentile(cosines, 1), abs=1e-12)
    assert found.cosine_lowest == pytest.approx(min(cosines), abs=1e-12)
    assert found.mean_difference == pytest.approx(np.abs(first - second).mean(), abs=1e-12)
    assert found.max_difference == pytest.approx(np.abs(first - second).max(), abs=1e-12)


def test_what_all_rows_share_counts_for_the_cosine_and_not_for_the_correlation(rng: np.random.Generator) -> None:
    first, second = (rng.standard_normal((500, 8)).astype(np.float32) + 100 for _ in range(2))
    found = compare_rows(first, second, np.zeros(500, np.int64))
    assert found.cosine_lowest > 0.999
    assert abs(found.correlation) < 0.1


def test_the_same_rows_agree_in_all(pair: tuple[Float32Array, Float32Array]) -> None:
    found = compare_rows(pair[0], pair[0], FILES)
    assert found.correlation == found.lowest_file_correlation == found.cosine_lowest == pytest.approx(1, abs=1e-12)
    assert found.mean_difference == found.max_difference == 0
    neighbours = compare_neighbours(pair[0], pair[0], FILES)
    assert neighbours is not None
    assert (neighbours.rows, neighbours.same_nearest, neighbours.overlap) == (13, 1, 1)
    assert compare_classes(pair[0], pair[0]) == agreement.ClassAgreement(1, 1)


def test_rows_of_zeros_are_alike_and_unlike_others() -> None:
    first = np.array([[0, 0], [1, 0], [0, 0], [0, 2]], np.float32)
    second = np.array([[0, 0], [1, 0], [1, 0], [0, 2]], np.float32)
    found = compare_rows(first, second, np.arange(4))
    assert found.cosine_lowest == 0
    assert found.cosine_mean == 0.75


@pytest.mark.parametrize(
    "values", [np.full((5, 3), 0.1, np.float32), np.zeros((4, 2), np.float32), np.ones((1, 4), np.float32)]
)
def test_examples_that_are_all_alike_are_nothing_to_compare(values: Float32Array) -> None:
    with pytest.raises(OptionError, match=r"\d examples?, all alike: nothing to compare; expected several"):
        compare_rows(values, values, np.zeros(len(values), np.int64))


@pytest.mark.usefixtures("in_small_pieces")
@pytest.mark.parametrize("files", [FILES, np.zeros(13, np.int64), np.arange(13)], ids=["few", "one", "each"])
def test_neighbours_agree_as_defined(files: npt.NDArray[np.int64], pair: tuple[Float32Array, Float32Array]) -> None:
    centred = [values.astype(np.float64) - values.mean(axis=0, dtype=np.float64) for values in pair]
    same, overlap = [], []
    for row, file in enumerate(files):
        if len(set(files)) > 1:
            allowed = [other for other in range(13) if files[other] != file]
        else:
            allowed = [other for other in range(13) if abs(other - row) > 1]
        orders = [
            sorted(allowed, key=lambda other, v=values, r=row: -cosine(v[r], v[other]))[:10]  # type: ignore[misc]
            for values in centred
        ]
        same.append(orders[0][0] == orders[1][0])
        overlap.append(len(set(orders[0]) & set(orders[1])) / len(orders[0]))
    found = compare_neighbours(*pair, files)
    assert found is not None
    assert found.rows == 13
    assert found.same_nearest == pytest.approx(np.mean(same))
    assert found.overlap == pytest.approx(np.mean(overlap))


def test_of_rows_that_are_equally_near_any_will_do(rng: np.random.Generator) -> None:
    """Silence at the ends of clips gives many rows that are one and the same."""
    reference = rng.standard_normal((40, 8)).astype(np.float32)
    reference[::2] = reference[0]
    shuffled = reference + 1e-7 * rng.standard_normal(reference.shape).astype(np.float32)
    found = compare_neighbours(reference[::2], shuffled[::2], np.arange(20))
    assert found is not None
    assert (found.same_nearest, found.overlap) == (1, 1)


def test_of_very_many_rows_evenly_spaced_ones_are_compared(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "MAX_NEIGHBOUR_ROWS", 10)
    reference = rng.standard_normal((40, 8)).astype(np.float32)
    other = -reference
    other[::4] = reference[::4]
    found = compare_neighbours(reference, other, np.arange(40))
    assert found == agreement.NeighbourAgreement(10, 1, 1)


@pytest.mark.parametrize("count", [1, 2])
def test_without_others_there_are_no_neighbours(count: int) -> None:
    rows = np.ones((count, 3), np.float32)
    assert compare_neighbours(rows, rows, np.zeros(count, np.int64)) is None


@pytest.mark.usefixtures("in_small_pieces")
@pytest.mark.parametrize("width", [9, 3])
def test_classes_agree_as_defined(width: int, rng: np.random.Generator) -> None:
    first = rng.random((20, width)).astype(np.float32)
    second = (first + 0.3 * rng.random((20, width))).astype(np.float32)
    tops = [[list(np.argsort(-row)[:5]) for row in values] for values in (first, second)]
    found = compare_classes(first, second)
    assert found.same_top == np.mean([a[0] == b[0] for a, b in zip(*tops, strict=True)])
    assert found.overlap == pytest.approx(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(*tops, strict=True)]))
    assert 0 < found.same_top < 1


@pytest.mark.usefixtures("in_small_pieces")
def test_bytes_agree_as_defined(pair: tuple[Float32Array, Float32Array], rng: np.random.Generator) -> None:
    pca = Pca(rng.standard_normal((6, 6)).astype(np.float32), np.full(6, 5, np.float32))
    first, second = (quantize(pca.apply(values)).astype(int) for values in (pair[0], pair[0] + np.float32(0.01)))
    found = compare_bytes(pair[0], pair[0] + np.float32(0.01), pca)
    assert found.equal == np.mean(first == second)
    assert found.within_one == np.mean(np.abs(first - second) <= 1)
    assert 0 < found.equal < found.within_one <= 1


def test_means_are_of_each_file(pair: tuple[Float32Array, Float32Array]) -> None:
    expected = [pair[0][file == FILES].mean(axis=0) for file in range(4)]
    np.testing.assert_allclose(means_of_files(pair[0], FILES), expected, rtol=1e-6)

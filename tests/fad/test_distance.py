"""The distance against SciPy's square root of matrices, taken as the public implementations take it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg

from audioset.errors import OptionError, RecordError
from audioset.fad import SmallSampleWarning, Statistics, frechet_distance, statistics_of
from audioset.fad.distance import Gaussian
from audioset.records import JobInfo

INFO = JobInfo("vggish", "vggish", "ab" * 32, 16, "float32", "raw", 0.96, "short", "none")


def naive(a: Statistics, b: Statistics) -> float:
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    return float(np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root).real)


def by_offset(a: Statistics, b: Statistics, eps: float) -> float:
    """As google-research (1e-7) and frechet_audio_distance (1e-6): a little on the diagonal where the root fails."""
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).astype(complex))
    if not np.isfinite(root).all():
        more = eps * np.eye(a.dim)
        root = scipy.linalg.sqrtm((a.covariance + more) @ (b.covariance + more))
    assert np.abs(np.diag(root).imag).max() < 1e-3
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(root.real))


def by_eigenvalues(a: Statistics, b: Statistics) -> float:
    """As fadtk: eigenvectors of the product, which is not symmetric."""
    values, vectors = np.linalg.eig(a.covariance @ b.covariance)
    root = (vectors * np.sqrt(values.astype(complex))) @ np.linalg.inv(vectors)
    gap = a.mean - b.mean
    return float((gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(root)).real)


def drawn(rng: np.random.Generator, count: int, dim: int, spread: float = 1.0) -> np.ndarray:
    """Rows of a Gaussian whose variances fall as those of embeddings do."""
    mixing = np.linalg.qr(rng.standard_normal((dim, dim)))[0] / np.arange(1, dim + 1) ** 0.5
    return (spread * rng.standard_normal((count, dim)) @ mixing.T + rng.standard_normal(dim)).astype(np.float32)


@pytest.mark.parametrize("dim", [1, 2, 16, pytest.param(128, marks=pytest.mark.slow)])
def test_distance_is_that_of_the_public_implementations(rng: np.random.Generator, dim: int) -> None:
    a, b = (statistics_of(drawn(rng, 12 * dim + 5, dim, spread)) for spread in (1.0, 1.3))
    found = frechet_distance(a, b)
    for expected in (naive(a, b), by_offset(a, b, 1e-7), by_offset(a, b, 1e-6), by_eigenvalues(a, b)):
        assert found == pytest.approx(expected, abs=1e-8 * (np.trace(a.covariance) + np.trace(b.covariance)))


def test_distance_of_known_gaussians(rng: np.random.Generator) -> None:
    """Of commuting covariances the trace is a sum over standard deviations."""
    basis = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    first, second = rng.uniform(0.1, 3, (2, 5))
    a = Statistics(np.zeros(5), (basis * first**2) @ basis.T)
    b = Statistics(np.full(5, 2.0), (basis * second**2) @ basis.T)
    assert frechet_distance(a, b) == pytest.approx(20 + np.sum((first - second) ** 2), rel=1e-12)


def test_distance_is_symmetric_and_zero_of_itself(rng: np.random.Generator) -> None:
    a, b = (statistics_of(drawn(rng, 200, 16)) for _ in range(2))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    assert 0 <= frechet_distance(a, a) < 1e-12 * np.trace(a.covariance)


@pytest.mark.parametrize("seed", range(4))
def test_distance_is_never_negative(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = drawn(rng, 20, 64)  # rank 19: where others' square roots fail
    a, b = statistics_of(rows), statistics_of(np.concatenate([rows, rows]))
    with pytest.warns(SmallSampleWarning):
        found = frechet_distance(a, b)
    # The same rows twice: only the divisor of the covariance differs.
    trace = np.trace(a.covariance)
    assert found == pytest.approx(trace * (1 - np.sqrt(38 / 39)) ** 2, abs=1e-10 * trace)
    assert found >= 0


def test_singular_covariances_are_exact(rng: np.random.Generator) -> None:
    """Rows in a few dimensions among many: as far as in those alone."""
    few = [drawn(rng, 500, 4, spread) for spread in (1.0, 2.0)]
    many = [np.concatenate([rows, np.zeros((500, 28), np.float32)], axis=1) for rows in few]
    expected = frechet_distance(*map(statistics_of, few))
    assert frechet_distance(*map(statistics_of, many)) == pytest.approx(expected, rel=1e-10)


def test_sounds_that_are_all_the_same_have_a_distance() -> None:
    a = statistics_of(np.ones((50, 4)))
    b = statistics_of(np.zeros((50, 4)))
    assert frechet_distance(a, b) == pytest.approx(4)
    assert frechet_distance(a, a) == 0


def test_few_rows_give_the_same_without_their_covariance(rng: np.random.Generator) -> None:
    rows = drawn(rng, 10, 64)
    reference = Gaussian.of(statistics_of(drawn(rng, 1000, 64)))
    found = reference.distance(Gaussian.of_rows(rows))
    assert found == pytest.approx(reference.distance(Gaussian.of(statistics_of(rows))), rel=1e-9)


def test_what_is_no_covariance_is_named() -> None:
    broken = Statistics(np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]), source="broken.npz")
    with pytest.raises(RecordError, match=r"broken.npz: its covariance has an eigenvalue of -1, the largest is 3"):
        frechet_distance(Statistics(np.zeros(2), np.eye(2)), broken)


def test_what_float32_leaves_is_taken_as_zero_and_said() -> None:
    rounded = Statistics(np.zeros(2), np.diag([1.0, -1e-8]), source="float32.npz")
    with pytest.warns(UserWarning, match="float32.npz: .* -1e-08, the largest is 1: .*taken as zero"):
        found = frechet_distance(Statistics(np.zeros(2), np.eye(2)), rounded)
    assert found == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_statistics_of_any_type_are_measured_in_float64(rng: np.random.Generator, dtype: type) -> None:
    sides = [statistics_of(drawn(rng, 400, 16)) for _ in range(2)]
    given = [Statistics(side.mean.astype(dtype), side.covariance.astype(dtype)) for side in sides]
    as_float64 = [Statistics(side.mean.astype(np.float64), side.covariance.astype(np.float64)) for side in given]
    assert frechet_distance(*given) == frechet_distance(*as_float64)


@pytest.mark.parametrize(
    ("count", "words"), [(159, "159 examples; .*, or --infinity"), (16, "16 examples, fewer .*audio$")]
)
def test_few_examples_are_said(rng: np.random.Generator, count: int, words: str) -> None:
    enough = statistics_of(drawn(rng, 160, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(enough, enough)
    few = statistics_of(drawn(rng, count, 16))
    with pytest.warns(SmallSampleWarning, match=words):
        frechet_distance(enough, few)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"weights_sha256": "cd" * 32}, "weights_sha256 abababababab and cdcdcdcdcdcd"),
        ({"model": "mini"}, "model vggish and mini"),
        ({"hop_s": 0.5}, "hop_s 0.96 and 0.5"),
        ({"regime": "pca"}, "regime raw and pca"),
        ({"pool": "mean"}, "pool none and mean"),
        ({"precision": "int8"}, "precision fp32 and int8"),
    ],
)
def test_different_embedders_are_refused_by_name(changed: dict[str, object], words: str) -> None:
    a = Statistics(np.zeros(16), np.eye(16), 1000, info=INFO, source="a")
    b = replace(a, info=replace(INFO, **changed), source="b")
    with pytest.raises(OptionError, match=f"a and b: of different embedders .*{words}"):
        frechet_distance(a, b)


def test_what_moves_no_value_is_no_difference() -> None:
    a = Statistics(np.zeros(16), np.eye(16), 1000, info=INFO)
    same = replace(INFO, weights_name="mine.ckpt", start_s=3.0, engine="openvino", device="cuda:1", version="9")
    assert frechet_distance(a, replace(a, info=same)) == 0
    assert frechet_distance(a, replace(a, info=None)) == 0


def test_dimensions_must_be_equal() -> None:
    a, b = (Statistics(np.zeros(dim), np.eye(dim), 1000, source=f"{dim}.npy") for dim in (3, 4))
    with pytest.raises(OptionError, match=r"4.npy: 4 dimensions, 3.npy has 3"):
        frechet_distance(a, b)

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from audioset.errors import OutputError, RecordError
from audioset.fad import Accumulator, Statistics, statistics_of
from audioset.records import JobInfo


@pytest.fixture
def rows(rng: np.random.Generator) -> np.ndarray:
    """Far from zero, so that a sum of squares less a square of sums would lose its digits."""
    return (rng.standard_normal((20_001, 8)) @ rng.standard_normal((8, 8)) + 1e4).astype(np.float32)


INFO = JobInfo("tiny", "untrained:0", "ab" * 32, 8, "float32", "raw", 0.96, "short", "none")


def gathered(*blocks: np.ndarray) -> Statistics:
    total = Accumulator(8)
    for block in blocks:
        total.add(block)
    return total.statistics()


def test_statistics_are_those_of_numpy(rows: np.ndarray) -> None:
    found = gathered(rows)
    expected = np.cov(rows.astype(np.float64), rowvar=False)  # divides by n - 1
    np.testing.assert_allclose(found.mean, rows.mean(axis=0, dtype=np.float64), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, expected, atol=1e-12 * expected.max())
    assert (found.count, found.covariance.dtype) == (20_001, np.float64)


@pytest.mark.parametrize("size", [1, 7, 4095, 65_536, 20_000])
def test_blocks_of_any_size_give_the_same_bits(rows: np.ndarray, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audioset.fad.statistics.CHUNK_BYTES", 8 * 8 * 4096)  # several chunks
    rows = rows[:: 1 if size > 1 else 4]
    whole = gathered(rows)
    split = gathered(*np.array_split(rows, range(size, len(rows), size)))
    np.testing.assert_array_equal(split.mean, whole.mean)
    np.testing.assert_array_equal(split.covariance, whole.covariance)


def test_merged_parts_agree_with_the_whole(rows: np.ndarray) -> None:
    whole = gathered(rows)
    first, second, empty = Accumulator(8), Accumulator(8), Accumulator(8)
    first.add(rows[:777])
    second.add(rows[777:])
    first.merge(empty)
    first.merge(second)
    assert first.count == len(rows)
    tolerance = 1e-12 * whole.covariance.max()
    np.testing.assert_allclose(first.statistics().covariance, whole.covariance, atol=tolerance, rtol=0)
    np.testing.assert_allclose(first.statistics().mean, whole.mean, rtol=1e-12)


def test_statistics_so_far_leave_the_rest_as_it_would_be(rows: np.ndarray) -> None:
    total = Accumulator(8)
    total.add(rows[:100])
    assert total.statistics().count == 100
    total.add(rows[100:])
    np.testing.assert_array_equal(total.statistics().covariance, gathered(rows).covariance)


def test_bytes_are_taken_as_numbers(rng: np.random.Generator) -> None:
    values = rng.integers(0, 256, (300, 8), np.uint8)
    np.testing.assert_allclose(statistics_of(values).covariance, np.cov(values.T), rtol=1e-12)


def test_one_row_is_too_few() -> None:
    with pytest.raises(RecordError, match="1 example; expected at least 2"):
        gathered(np.zeros((1, 8)))


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(RecordError, match=r"\(3, 7\); expected \(n, 8\)"):
        gathered(np.zeros((3, 7)))


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(RecordError, match="not finite"):
        gathered(np.full((3, 8), np.nan))


def test_values_whose_squares_are_beyond_float64_are_named(rng: np.random.Generator) -> None:
    with pytest.raises(RecordError, match="squares are beyond float64"):
        statistics_of(rng.standard_normal((300, 8)) * 1e200)


def test_saved_statistics_come_back(rows: np.ndarray, tmp_path: Path) -> None:
    total = Accumulator(8)
    total.add(rows)
    saved = total.statistics(files=3, info=INFO, source="sounds/")
    path = tmp_path / "stats.npz"
    saved.save(path)
    found = Statistics.load(path)
    np.testing.assert_array_equal(found.mean, saved.mean)
    np.testing.assert_array_equal(found.covariance, saved.covariance)
    assert (found.count, found.files, found.info, found.source) == (20_001, 3, INFO, str(path))
    with pytest.raises(OutputError, match="exists"):
        saved.save(path)
    saved.save(path, overwrite=True)


def test_other_tools_read_what_is_saved(rows: np.ndarray, tmp_path: Path) -> None:
    gathered(rows).save(tmp_path / "stats.npz")
    with np.load(tmp_path / "stats.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["mu"], gathered(rows).mean)
        assert archive["sigma"].shape == (8, 8)


@pytest.mark.parametrize("names", [("mu", "sigma"), ("mean", "cov"), ("vggish.mu", "vggish.cov")])
def test_statistics_of_other_tools_are_read(names: tuple[str, str], tmp_path: Path) -> None:
    np.savez(tmp_path / "theirs.npz", **{names[0]: np.ones(3, np.float32), names[1]: np.eye(3, dtype=np.float32)})
    found = Statistics.load(tmp_path / "theirs.npz")
    np.testing.assert_array_equal(found.covariance, np.eye(3))
    assert (found.count, found.info) == (None, None)


def test_of_several_models_the_wanted_one_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "theirs.npz"
    np.savez(path, **{"a.mu": np.ones(3), "a.cov": np.eye(3), "vggish.mu": np.zeros(3), "vggish.cov": np.eye(3)})
    assert Statistics.load(path, model="vggish").mean[0] == 0
    with pytest.raises(RecordError, match="statistics of a, vggish; expected one of yamnet"):
        Statistics.load(path, model="yamnet")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.ones(3), "sigma": np.eye(4)}, r"mean \(3,\) and covariance \(4, 4\)"),
        ({"mu": np.ones(3), "sigma": np.full((3, 3), np.inf)}, "not finite"),
        ({"mu": np.ones(2), "sigma": np.array([[1, 0.5], [0, 1]])}, "not symmetric .*0.5"),
        ({"mu": np.ones(2, complex), "sigma": np.eye(2)}, "mu is complex128"),
        ({"mu": np.ones(2)}, "holds mu; expected mu and sigma"),
        ({"mu": np.array([None, None]), "sigma": np.eye(2)}, "cannot be read .*allow_pickle"),
        ({"mu": np.ones(2), "sigma": np.eye(2), "metadata": np.array("{}")}, "description of the job"),
        (
            {
                "mu": np.ones(2),
                "sigma": np.eye(2),
                "metadata": np.array(json.dumps({"layout": 1, "job": None, "count": "many", "files": 1})),
            },
            "damaged .*'many'",
        ),
    ],
)
def test_what_is_no_statistics_is_refused(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(RecordError, match=f"bad.npz: .*{message}"):
        Statistics.load(tmp_path / "bad.npz")


def test_damage_within_what_is_compressed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "packed.npz"
    np.savez_compressed(path, mu=np.arange(100.0), sigma=np.eye(100))
    content = bytearray(path.read_bytes())
    content[80:120] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"packed.npz: cannot be read .*decompressing"):
        Statistics.load(path)


def test_a_damaged_file_is_named(rows: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "cut.npz"
    gathered(rows).save(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(RecordError, match=r"cut.npz: cannot be read"):
        Statistics.load(path)

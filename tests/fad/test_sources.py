from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from audioset.errors import OptionError, RecordError
from audioset.fad import fad_infinity, open_embeddings, statistics_of
from audioset.fad.sources import ArraySource, JoinedSource, in_blocks_of, kind_of
from audioset.records import JobInfo, JobWriter

INFO = JobInfo("tiny", "untrained:0", "ab" * 32, 8, "float32", "raw", 0.96, "short", "none")


def written(path: Path, files: dict[str, np.ndarray], info: JobInfo = INFO) -> Path:
    with JobWriter(path, info, format=path.suffix[1:]) as writer:
        for name, values in files.items():
            times = np.arange(len(values), dtype=np.float64)
            writer.append(name, times, times + 1, values, last=True)
        writer.finish()
    return path


@pytest.fixture
def files(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {f"{n}.wav": rng.standard_normal((n, 8), np.float32) for n in (3, 5000, 1, 4500)}


@pytest.mark.parametrize("ending", ["parquet", "npz"])
def test_files_of_embed_are_read_in_blocks(ending: str, files: dict[str, np.ndarray], tmp_path: Path) -> None:
    source = open_embeddings(written(tmp_path / f"e.{ending}", files))
    assert (source.info, source.dim, source.num_rows, source.num_files) == (INFO, 8, 9504, 4)
    for _ in range(2):  # as often as needed
        blocks = list(source.blocks())
        assert len(blocks) > 2
        np.testing.assert_array_equal(
            np.concatenate([block.values for block in blocks]), np.concatenate([*files.values()])
        )
        names = [name for block in blocks for name, n in zip(block.names, block.counts, strict=True) for _ in range(n)]
        assert names == [name for name, values in files.items() for _ in values]


def test_bytes_are_compared_as_they_are(rng: np.random.Generator, tmp_path: Path) -> None:
    values = rng.integers(0, 256, (50, 8), np.uint8)
    info = JobInfo("tiny", "untrained:0", "ab" * 32, 8, "uint8", "uint8", 0.96, "short", "none")
    for ending in ("parquet", "npz"):
        found = statistics_of(written(tmp_path / f"e.{ending}", {"a.wav": values}, info))
        np.testing.assert_allclose(found.mean, values.mean(axis=0))
        assert found.info == info


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_of_any_embedder_are_read(order: str, dtype: type, rng: np.random.Generator, tmp_path: Path) -> None:
    values = rng.standard_normal((5000, 3)).astype(dtype)
    np.save(tmp_path / "e.npy", np.asarray(values, order=order))  # type: ignore[call-overload]
    found = statistics_of(tmp_path / "e.npy")
    np.testing.assert_allclose(found.mean, values.mean(axis=0, dtype=np.float64), atol=1e-12)
    assert (found.count, found.info) == (5000, None)


def test_arrays_can_be_joined(rng: np.random.Generator, tmp_path: Path) -> None:
    parts = [ArraySource(rng.standard_normal((n, 3)), f"{n}.npy") for n in (4, 6)]
    joined = JoinedSource("*.npy", parts)
    assert [block.names for block in joined.blocks()] == [["4.npy"], ["6.npy"]]
    assert (joined.num_rows, joined.num_files) == (10, 2)
    with pytest.raises(RecordError, match=r"\*.npy: rows of 3 and 4 values"):
        JoinedSource("*.npy", [*parts, ArraySource(np.zeros((2, 4)))])


def test_parts_of_a_job_are_one(files: dict[str, np.ndarray], tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    for number, (name, values) in enumerate(files.items()):
        written(folder / f"part-{number}.parquet", {name: values})
    with pytest.raises(RecordError, match="no file of embeddings"):  # a folder of recordings may hold Parquet, too
        open_embeddings(folder)
    (folder / "_job.json").touch()
    (folder / "_errors.parquet").touch()
    with pytest.warns(UserWarning, match="job: the job that writes it is not complete"):
        open_embeddings(folder)
    (folder / "_manifest.json").touch()
    for what in (folder, folder / "part-*.parquet"):
        source = open_embeddings(what)
        assert (source.info, source.num_rows, source.num_files) == (INFO, 9504, 4)
        np.testing.assert_allclose(
            statistics_of(source).mean, np.concatenate([*files.values()]).mean(axis=0), atol=1e-6
        )
    other = replace(INFO, hop_s=0.48)
    written(folder / "part-9.parquet", files, other)
    with pytest.raises(OptionError, match=r"part-9.parquet: of different embedders \(hop_s 0.96 and 0.48"):
        open_embeddings(folder)


def test_some_rows_of_a_file_are_counted_as_they_are(files: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Filtering with Arrow keeps the metadata, which then speaks of rows that are no longer there."""
    table = pq.read_table(written(tmp_path / "e.parquet", files))
    pq.write_table(table.filter(pc.less(table["start_s"], 3.0)), tmp_path / "some.parquet")
    source = open_embeddings(tmp_path / "some.parquet")
    assert (source.num_rows, source.num_files) == (3 + 3 + 1 + 3, 4)
    pq.write_table(table.slice(3, 5000), tmp_path / "one.parquet")
    source = open_embeddings(tmp_path / "one.parquet")
    assert source.num_files == 1
    found = fad_infinity(statistics_of(files["4500.wav"]), source, steps=3)
    assert found.counts[-1] == 5000


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files where Linux lists them")
def test_many_arrays_are_not_open_all_at_once(rng: np.random.Generator, tmp_path: Path) -> None:
    """One for each recording, as fadtk keeps them: there may be more than a process may open."""
    rows = rng.standard_normal((40, 2, 3))
    for number, some in enumerate(rows):
        np.save(tmp_path / f"{number:02d}.npy", some)

    def num_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = num_open()
    source = open_embeddings(tmp_path / "*.npy")
    assert num_open() < before + 10
    most = max(num_open() for _ in source.blocks())
    assert most < before + 10
    np.testing.assert_allclose(statistics_of(source).mean, rows.reshape(-1, 3).mean(axis=0))
    np.save(tmp_path / "39.npy", rows[0][:1])
    with pytest.raises(RecordError, match=r"39.npy: changed while it was read"):
        statistics_of(source)


def test_values_that_are_not_finite_name_their_file(files: dict[str, np.ndarray], tmp_path: Path) -> None:
    files["4500.wav"][4400, 2] = np.nan
    source = open_embeddings(written(tmp_path / "e.parquet", files))
    with pytest.raises(RecordError, match=r"e.parquet: values of 4500.wav are not finite"):
        statistics_of(source)


def test_kinds_are_told_apart_by_content(files: dict[str, np.ndarray], tmp_path: Path) -> None:
    written(tmp_path / "a.parquet", files).rename(tmp_path / "a")
    written(tmp_path / "b.npz", files).rename(tmp_path / "b")
    statistics_of(np.eye(3)).save(tmp_path / "c.npz")
    np.save(tmp_path / "d.npy", np.eye(3))
    (tmp_path / "e.wav").write_bytes(b"RIFF")
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        archive.writestr("a.wav", b"RIFF")
    found = [kind_of(tmp_path / name) for name in ("a", "b", "c.npz", "d.npy", "e.wav", "f.zip", "gone")]
    assert found == ["parquet", "npz", "statistics", "npy", None, None, None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", np.zeros(3), r"float64 \(3,\); expected real numbers \(rows, dim\)"),
        ("a.npy", np.zeros((3, 2), complex), "complex128"),
        ("a.npy", np.array([["text"]]), "<U4"),
        ("a.npy", np.array([[None]]), "cannot be read .*objects"),
        ("a.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
        ("a.npz", b"PK\3\4 and no more", "cannot be read"),
        ("a.wav", b"RIFF", "no file of embeddings; expected Parquet or NPZ"),
    ],
)
def test_other_files_are_refused(name: str, content: np.ndarray | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(RecordError, match=f"{name}: .*{message}"):
        open_embeddings(path)


def test_damaged_headers_are_named(files: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(3))
    header = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(header.replace(b"(3, 3)", b"(3, 3L"))
    with pytest.raises(RecordError, match=r"a.npy: cannot be read .*multi-line"):
        open_embeddings(tmp_path / "a.npy")
    path = written(tmp_path / "e.npz", files)
    content = bytearray(path.read_bytes())
    first = content.rfind(b"PK\1\2")
    content[first + 10] = 77  # a way of compression that nobody knows, of the last member
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"e.npz: cannot be read .*compression"):
        statistics_of(path)


def test_blocks_of_any_size_become_equal_ones(rng: np.random.Generator) -> None:
    source = ArraySource(rng.standard_normal((9000, 2)))
    for size in (1000, 4096, 5000, 9000, 20_000):
        blocks = list(in_blocks_of(size, source.blocks()))
        assert [len(block) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
        np.testing.assert_array_equal(np.concatenate(blocks), source._values)

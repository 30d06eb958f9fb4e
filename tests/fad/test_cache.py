"""Recordings are embedded once: whatever is added, changed, stopped or run beside it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

import audioset
from audioset.errors import AudioError, OutputError, RecordError
from audioset.fad import clear, embed_files, statistics_of
from audioset.fad.embedding import Embedded
from audioset.models.spec import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning")


@pytest.fixture
def model(tiny: ModelSpec) -> audioset.Model:
    return audioset.load("tiny", "untrained:0", threads=1)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    folder.mkdir()
    for name in ("b", "d", "f"):
        record(folder / f"{name}.wav", ord(name))
    return folder


@pytest.fixture
def embedded(model: audioset.Model, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the recordings that go through the network."""
    names: list[str] = []
    whole = model.embed_blocks

    def noting(sources: Iterator[tuple[Any, Any]], options: Any) -> Any:
        def noted() -> Iterator[tuple[Any, Any]]:
            for source, rate in sources:
                names.append(Path(source).name)
                yield source, rate

        return whole(noted(), options)

    monkeypatch.setattr(model, "embed_blocks", noting)
    return names


def record(path: Path, seed: int, seconds: float = 3.0) -> None:
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(int(16_000 * seconds)), 16_000)


def rows(found: Embedded) -> tuple[np.ndarray, list[str]]:
    blocks = list(found.source.blocks())
    names = [Path(name).name for block in blocks for name in block.names]
    return np.concatenate([block.values for block in blocks]), names


def shards(cache: Path) -> list[Path]:
    return sorted(cache.glob("fad/*/*/*.parquet"))


def test_rows_are_those_of_the_model(model: audioset.Model, sounds: Path) -> None:
    values, names = rows(embed_files(model, str(sounds)))
    expected = [model.embed(path).values for path in sorted(sounds.iterdir())]
    np.testing.assert_array_equal(values, np.concatenate(expected))
    assert names == ["b.wav", "d.wav", "f.wav"]


def test_nothing_is_embedded_twice(model: audioset.Model, sounds: Path, embedded: list[str]) -> None:
    first = rows(embed_files(model, str(sounds)))[0]
    again = embed_files(model, str(sounds / "*.wav"))
    np.testing.assert_array_equal(rows(again)[0], first)
    assert (embedded, again.reused) == (["b.wav", "d.wav", "f.wav"], 3)
    assert rows(embed_files(model, [sounds / "f.wav", sounds / "b.wav"]))[1] == ["f.wav", "b.wav"]
    assert len(embedded) == 3


def test_only_what_was_added_or_changed_is_embedded(
    model: audioset.Model, sounds: Path, embedded: list[str], isolated_cache: Path, tmp_path: Path
) -> None:
    embed_files(model, str(sounds))
    for name in ("a", "c", "d", "g"):
        record(sounds / f"{name}.wav", 1000 + ord(name))
    (sounds / "f.wav").unlink()
    found = embed_files(model, str(sounds))
    assert embedded[3:] == ["a.wav", "c.wav", "d.wav", "g.wav"]
    assert found.reused == 1
    fresh = embed_files(model, str(sounds), cache=tmp_path / "fresh")
    np.testing.assert_array_equal(rows(found)[0], rows(fresh)[0])  # in order, from two files of the cache
    assert rows(found)[1] == rows(fresh)[1] == ["a.wav", "b.wav", "c.wav", "d.wav", "g.wav"]
    both = [statistics_of(one.source) for one in (found, fresh)]
    np.testing.assert_array_equal(both[0].covariance, both[1].covariance)
    assert len(shards(isolated_cache)) == 2


def test_what_is_out_of_date_is_removed(model: audioset.Model, sounds: Path, isolated_cache: Path) -> None:
    for seed in range(3):  # as a model's output that is made again
        for path in sounds.iterdir():
            record(path, seed)
            os.utime(path, ns=(seed, seed))
        embed_files(model, str(sounds))
        assert len(shards(isolated_cache)) == 1


def test_other_options_have_rows_of_their_own(model: audioset.Model, sounds: Path, embedded: list[str]) -> None:
    assert embed_files(model, str(sounds)).source.num_rows == 9
    assert embed_files(model, str(sounds), hop_s=0.48).source.num_rows == 15
    assert len(embedded) == 6


def test_a_stopped_run_goes_on(
    model: audioset.Model, sounds: Path, embedded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    noting = model.embed_blocks

    def stopped(sources: Any, options: Any) -> Iterator[Any]:
        for count, block in enumerate(noting(sources, options)):
            if count == 2:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(model, "embed_blocks", stopped)
    with pytest.raises(KeyboardInterrupt):
        embed_files(model, str(sounds))
    monkeypatch.setattr(model, "embed_blocks", noting)
    embedded.clear()
    record(sounds / "a.wav", 0)  # also when the folder has changed meanwhile
    assert rows(embed_files(model, str(sounds)))[1] == ["a.wav", "b.wav", "d.wav", "f.wav"]
    assert embedded == ["a.wav", "f.wav"]


def test_bad_recordings_are_named_and_tried_again(model: audioset.Model, sounds: Path, embedded: list[str]) -> None:
    (sounds / "c.wav").write_text("hello")
    for _ in range(2):
        found = embed_files(model, [*sorted(sounds.iterdir()), sounds / "gone.wav"])
        assert {Path(failure.file).name for failure in found.failures} == {"c.wav", "gone.wav"}
        assert all(failure.file in failure.reason for failure in found.failures)
        assert found.source.num_files == 3
    assert embedded == ["b.wav", "c.wav", "d.wav", "f.wav", "c.wav"]


def test_names_without_recordings_stop_no_others(model: audioset.Model, sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = embed_files(model, [tmp_path / "empty", sounds / "*.flac", sounds])
    assert found.source.num_files == 3
    assert [Path(failure.file).name for failure in found.failures] == ["empty", "*.flac"]
    with pytest.raises(AudioError, match="no audio file in this folder"):
        embed_files(model, tmp_path / "empty")
    with pytest.raises(AudioError, match="recordings: none"):
        embed_files(model, [])


def test_nothing_readable_is_an_error(model: audioset.Model, tmp_path: Path, isolated_cache: Path) -> None:
    (tmp_path / "a.wav").write_text("hello")
    with pytest.raises(AudioError, match=r"no recording could be read .*a.wav"):
        embed_files(model, str(tmp_path / "a.wav"))
    assert shards(isolated_cache) == []


@pytest.mark.skipif(os.name != "posix", reason="names there are no bytes")
def test_names_of_any_bytes_are_kept(
    model: audioset.Model, sounds: Path, embedded: list[str], isolated_cache: Path
) -> None:
    try:
        (sounds / "d.wav").rename(os.fsdecode(os.fsencode(sounds) + b"/caf\xe9.wav"))
    except OSError:
        pytest.skip("names here are UTF-8")
    (named,) = sounds.glob("caf*")
    for _ in range(2):
        assert embed_files(model, [named]).source.num_files == 1
    embed_files(model, [sounds / "b.wav"])  # whose shard is another
    assert embed_files(model, [named]).reused == 1
    assert len(embedded) == 2
    assert len(shards(isolated_cache)) == 2


def test_what_changes_while_it_is_embedded_is_measured(
    model: audioset.Model, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.embed_blocks

    def changing(sources: Any, options: Any) -> Iterator[Any]:
        for block in whole(sources, options):
            os.utime(sounds / "b.wav", ns=(1, 1))
            yield block

    monkeypatch.setattr(model, "embed_blocks", changing)
    assert embed_files(model, [sounds / "b.wav"]).source.num_files == 1
    assert embed_files(model, [sounds / "b.wav"]).reused == 0


def test_a_damaged_cache_is_made_again(model: audioset.Model, sounds: Path, isolated_cache: Path) -> None:
    first = rows(embed_files(model, str(sounds)))[0]
    (shard,) = shards(isolated_cache)
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="000000.parquet: damaged .*embedded again") as said:
        found = embed_files(model, str(sounds))
    assert len(said) == 1
    np.testing.assert_array_equal(rows(found)[0], first)
    assert len(shards(isolated_cache)) == 1


def test_rows_that_lie_apart_are_made_again(model: audioset.Model, sounds: Path, isolated_cache: Path) -> None:
    """They would be taken with what lies between."""
    first = rows(embed_files(model, str(sounds)))[0]
    (shard,) = shards(isolated_cache)
    table = pq.read_table(shard)
    pq.write_table(table.take([0, 1, 3, 4, 2, 5, 6, 7, 8]), shard)
    with pytest.warns(UserWarning, match="lie apart.*embedded again"):
        found = embed_files(model, str(sounds))
    np.testing.assert_array_equal(rows(found)[0], first)


def test_damaged_rows_are_never_used(model: audioset.Model, sounds: Path, isolated_cache: Path) -> None:
    embed_files(model, str(sounds))
    (shard,) = shards(isolated_cache)
    content = bytearray(shard.read_bytes())
    column = pq.ParquetFile(shard).metadata.row_group(0).column(3)
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(RecordError, match=r"000000.parquet: cannot be read .*Remove this file"):
        statistics_of(embed_files(model, str(sounds)).source)


def test_the_same_rows_whatever_lies_between(model: audioset.Model, tmp_path: Path, rng: np.random.Generator) -> None:
    """Many recordings, embedded in some order over several runs, come in the order that is asked for."""
    folder = tmp_path / "many"
    folder.mkdir()
    paths = [folder / f"{n:02d}.wav" for n in range(15)]
    for n, path in enumerate(paths):
        record(path, n, 1.0 + (n % 3))
    for some in np.array_split(rng.permutation(15), 3):
        embed_files(model, [paths[n] for n in some] + [folder / "00.wav"])
    order = rng.permutation(15)
    values, names = rows(embed_files(model, [paths[n] for n in order]))
    assert names == [paths[n].name for n in order]
    np.testing.assert_array_equal(values, np.concatenate([model.embed(paths[n]).values for n in order]))


def test_who_comes_second_waits_and_finds_it_done(
    model: audioset.Model, sounds: Path, embedded: list[str], isolated_cache: Path, tmp_path: Path
) -> None:
    from audioset.fad.cache import cache_folder
    from audioset.fad.embedding import Embedder, base_of

    other = tmp_path / "other"
    info = embed_files(model, str(sounds), cache=other).source.info
    embedded.clear()
    (of_job,) = other.iterdir()
    (group,) = (path for path in of_job.iterdir() if path.is_dir())
    mine = cache_folder() / of_job.name
    mine.mkdir(parents=True)
    held = filelock.FileLock(mine / f"{group.name}.lock", thread_local=False)
    held.acquire()
    said: list[str] = []

    def waiting(message: str) -> None:
        """The other process has just finished."""
        said.append(message)
        shutil.copytree(group, mine / group.name)
        threading.Timer(0.1, held.release).start()

    assert info is not None
    embedder = Embedder(info, lambda: model, cache_folder())
    files = [str(path) for path in sorted(sounds.iterdir())]
    with ThreadPoolExecutor(1) as second:
        found = second.submit(embedder.embed, "sounds", files, base_of([str(sounds)]), say=waiting).result(timeout=30)
    assert found.source.num_files == 3
    assert (embedded, said) == ([], ["sounds: waiting for another process, which is embedding these recordings"])


def test_clearing_removes_what_is_kept_and_nothing_else(
    model: audioset.Model, sounds: Path, tmp_path: Path, embedded: list[str]
) -> None:
    cache = tmp_path / "cache"
    (cache / "mine").mkdir(parents=True)
    (cache / "mine" / "notes.txt").write_text("keep")
    embed_files(model, str(sounds), cache=cache)
    cleared = clear(cache)
    assert (cleared.files, cleared.in_use) == (1, 0)
    assert cleared.num_bytes > 1000
    assert [path.name for path in cache.rglob("*")] == ["mine", "notes.txt"]
    assert clear(cache).files == 0
    embed_files(model, str(sounds), cache=cache)
    assert len(embedded) == 6


def test_clearing_leaves_what_is_in_use(model: audioset.Model, sounds: Path, isolated_cache: Path) -> None:
    embed_files(model, str(sounds))
    (shard,) = shards(isolated_cache)
    with filelock.FileLock(shard.parent.with_suffix(".lock")):
        cleared = clear()
    assert (cleared.files, cleared.in_use) == (0, 1)
    assert shard.exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs folders that cannot be written to")
def test_a_cache_that_cannot_be_written_is_named(model: audioset.Model, sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(OutputError, match=r"locked.*cannot be written"):
        embed_files(model, str(sounds), cache=tmp_path / "locked")


def test_a_cache_where_a_file_is_is_named(model: audioset.Model, sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file is where a folder is wanted"):
        embed_files(model, str(sounds), cache=tmp_path / "file")


def test_a_full_disk_says_what_to_do(
    model: audioset.Model, sounds: Path, monkeypatch: pytest.MonkeyPatch, embedded: list[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    from audioset.records import job

    kept: Callable[..., Any] = job.JobWriter._write_output
    monkeypatch.setattr(job.JobWriter, "_write_output", full)
    with pytest.raises(OutputError, match=r"000000.parquet: the cache cannot be written .*No space.*--cache"):
        embed_files(model, str(sounds))
    monkeypatch.setattr(job.JobWriter, "_write_output", kept)
    assert embed_files(model, str(sounds)).source.num_files == 3
    assert len(embedded) == 3

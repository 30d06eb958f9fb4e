"""Conversion: the same records in every format and back, damage named and passed over, nothing half done."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audioset.dataset import convert
from audioset.dataset.convert import FeaturesInfo, convert_features, open_rows
from audioset.dataset.feature_dataset import FeatureDataset
from audioset.dataset.features import FEATURES_SCHEMA, Damage, FeatureRecord, read_features, records_of
from audioset.dataset.youtube8m import read_youtube8m, write_youtube8m
from audioset.errors import OptionError, OutputError, RecordError
from audioset.records import JobInfo, JobWriter

from ._released import assert_same, framed, random_records, write_shard
from .test_youtube8m import RECORDS, some
from .test_youtube8m import assert_equal as assert_equal_youtube8m


def records_in(path: Path) -> Iterator[FeatureRecord]:
    return (record for batch in open_rows(path).batches for record in records_of(batch))


@pytest.fixture
def records(rng: np.random.Generator) -> list[FeatureRecord]:
    return random_records(rng, 60)


@pytest.fixture
def folder(tmp_path: Path, records: list[FeatureRecord]) -> Path:
    write_shard(tmp_path / "shards" / "aA.tfrecord", records[:25])
    write_shard(tmp_path / "shards" / "b.tfrecord", records[25:])
    return tmp_path / "shards"


@pytest.fixture
def job() -> JobInfo:
    return JobInfo("vggish", "x", "ab" * 32, 128, "uint8", "uint8", 0.96, "short", "none")


def write_own(path: Path, job: JobInfo, lengths: list[int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A Parquet file as `audioset embed` writes it; returns each file's rows."""
    files = {}
    with JobWriter(path, job, format="parquet") as writer:
        for index, length in enumerate(lengths):
            start = np.arange(length) * job.hop_s
            values = rng.integers(0, 256, (length, job.embedding_dim)).astype(job.dtype)
            files[f"folder/{index}.wav"] = values
            writer.append(f"folder/{index}.wav", start, start + 0.96, values, last=True)
        writer.finish()
    return files


@pytest.mark.parametrize("suffix", ["arrow", "parquet", "pq", "tfrecord"])
def test_records_are_the_same_in_every_format(
    folder: Path, tmp_path: Path, records: list[FeatureRecord], suffix: str
) -> None:
    out = tmp_path / f"out.{suffix}"
    done = convert_features(folder, out)
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    assert (done.path, done.num_records, done.num_bytes, done.damages) == (out, 60, num_bytes, ())
    assert_same(records_in(out), records)


@pytest.mark.parametrize("middle", ["arrow", "parquet"])
def test_there_is_a_way_back(folder: Path, tmp_path: Path, records: list[FeatureRecord], middle: str) -> None:
    convert_features(folder, tmp_path / f"x.{middle}")
    convert_features(tmp_path / f"x.{middle}", tmp_path / "back.tfrecord")
    assert_same(read_features(tmp_path / "back.tfrecord"), records)


def test_a_name_without_suffix_is_a_folder_of_shards(
    folder: Path, tmp_path: Path, records: list[FeatureRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "SHARD_BYTES", 20_000)
    done = convert_features(folder, tmp_path / "back")
    names = sorted(path.name for path in (tmp_path / "back").iterdir())
    assert names[:2] == ["00000.tfrecord", "00001.tfrecord"]
    assert len(names) == 4
    assert done.num_records == 60
    assert_same(read_features(tmp_path / "back"), records)


def test_batches_of_the_output_are_few(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: list[FeatureRecord]
) -> None:
    monkeypatch.setattr(convert, "BATCH_ROWS", 50)
    convert_features([folder, str(folder / "b.tfrecord")], tmp_path / "x.arrow")  # named twice, read once
    with pa.ipc.open_file(tmp_path / "x.arrow") as reader:
        assert reader.num_record_batches <= 2
        assert reader.schema.equals(FEATURES_SCHEMA, check_metadata=True)


def test_an_archive_is_read_as_it_is(folder: Path, tmp_path: Path, records: list[FeatureRecord]) -> None:
    with tarfile.open(tmp_path / "features.tar.gz", "w:gz") as archive:
        archive.add(folder, "audioset_v1_embeddings/eval")
    told: list[tuple[int, int | None]] = []
    done = convert_features(tmp_path / "features.tar.gz", tmp_path / "x.arrow", progress=lambda *now: told.append(now))
    assert_same(
        sorted(records_in(tmp_path / "x.arrow"), key=lambda r: r.video_id), sorted(records, key=lambda r: r.video_id)
    )
    with gzip.open(tmp_path / "features.tar.gz") as stream:
        size = len(stream.read())
    assert told[-1] == (done.num_bytes, size)
    assert size > done.num_bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_progress_goes_up_to_the_size_of_the_shards(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    done = convert_features(folder, tmp_path / "x.parquet", progress=lambda *now: told.append(now))
    assert told[-1] == (done.num_bytes, done.num_bytes)
    assert [now for now, _ in told] == sorted(now for now, _ in told)


def test_damage_is_named_and_the_rest_goes_on(folder: Path, tmp_path: Path, records: list[FeatureRecord]) -> None:
    data = bytearray((folder / "aA.tfrecord").read_bytes())
    first = len(framed([b""])) + int.from_bytes(data[:8], "little")
    data[first + 100] ^= 1
    (folder / "aA.tfrecord").write_bytes(data)
    cut = (folder / "b.tfrecord").read_bytes()
    (folder / "b.tfrecord").write_bytes(cut[:-1])
    told: list[Damage] = []
    done = convert_features(folder, tmp_path / "x.arrow", on_damage=told.append)
    assert tuple(told) == done.damages
    flipped, short = told
    assert (Path(flipped.file).name, flipped.offset) == ("aA.tfrecord", first)
    assert "ends within the record" in short.reason
    assert_same(FeatureDataset(tmp_path / "x.arrow"), [records[0], *records[2:-1]])


def test_records_of_another_kind_are_named_and_the_rest_goes_on(tmp_path: Path, records: list[FeatureRecord]) -> None:
    write_shard(tmp_path / "b.tfrecord", records)
    (tmp_path / "a.tfrecord").write_bytes(framed([b"\x0a\x00"]))
    done = convert_features(tmp_path, tmp_path / "x.arrow")
    assert done.num_records == 60
    (damage,) = done.damages
    assert (damage.file, damage.offset) == (str(tmp_path / "a.tfrecord"), 0)
    assert "no video_id" in damage.reason


def test_without_any_record_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.tfrecord").write_bytes(b"nothing of the kind")
    told: list[Damage] = []
    with pytest.raises(RecordError, match=r"a\.tfrecord: no record can be read; expected TFRecords of AudioSet's"):
        convert_features(tmp_path / "a.tfrecord", tmp_path / "x.arrow", on_damage=told.append)
    assert [damage.offset for damage in told] == [0]
    assert not (tmp_path / "x.arrow").exists()


@pytest.mark.parametrize("level", ["frame", "segment", "video"])
@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_youtube8m_goes_there_and_back(level: str, suffix: str, rng: np.random.Generator, tmp_path: Path) -> None:
    records = some(rng, level, 6)
    write_youtube8m(tmp_path / "x.tfrecord", records)
    convert_features(tmp_path / "x.tfrecord", tmp_path / f"x.{suffix}")
    convert_features(tmp_path / f"x.{suffix}", tmp_path / "back.tfrecord")
    assert (tmp_path / "back.tfrecord").read_bytes() == (tmp_path / "x.tfrecord").read_bytes()
    for one, other in zip(read_youtube8m(tmp_path / "back.tfrecord"), records, strict=True):
        assert_equal_youtube8m(one, other)
    dataset = FeatureDataset(tmp_path / f"x.{suffix}")
    assert dataset.info == FeaturesInfo(
        "youtube8m", 1152, *(("float32", "pca") if level == "video" else ("uint8", "uint8"))
    )
    for one, other in zip(dataset, records, strict=True):
        np.testing.assert_array_equal(one.embedding, other.embedding, strict=True)
    assert dataset.batch([5, 0]).targets(3862).sum() == sum(len(set(records[i].labels.tolist())) for i in (5, 0))


def test_youtube8ms_records_of_another_width_are_named(tmp_path: Path, rng: np.random.Generator) -> None:
    write_youtube8m(tmp_path / "x.tfrecord", [*some(rng, "frame", 2), RECORDS["frame"][1]])
    done = convert_features(tmp_path / "x.tfrecord", tmp_path / "x.arrow")
    assert done.num_records == 2
    assert "eXbF: {'rgb': 2, 'audio': 1} values a frame; expected {'rgb': 1024, 'audio': 128}" in done.damages[0].reason


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_own_embeddings_become_one_row_a_file(
    dtype: Any, job: JobInfo, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "BATCH_ROWS", 8)  # so that files go on from one batch to the next, and the next
    job = replace(job, dtype=dtype, regime="uint8" if dtype == "uint8" else "raw")
    files = write_own(tmp_path / "own.parquet", job, [3, 8, 1, 30, 4, 4, 1], rng)
    convert_features(tmp_path / "own.parquet", tmp_path / "x.arrow")
    dataset = FeatureDataset(tmp_path / "x.arrow")
    assert dataset.info == FeaturesInfo("vggish", 128, dtype, job.regime, "ab" * 32)
    assert dataset.video_ids.tolist() == list(files)
    for record, values in zip(dataset, files.values(), strict=True):
        np.testing.assert_array_equal(record.embedding, values, strict=True)
        assert (record.start_s, record.end_s) == (0, np.float32((len(values) - 1) * 0.96 + 0.96))
        assert record.labels.shape == (0,)


def test_own_bytes_become_tfrecords(job: JobInfo, tmp_path: Path, rng: np.random.Generator) -> None:
    files = write_own(tmp_path / "own.parquet", job, [3, 8], rng)
    convert_features(tmp_path / "own.parquet", tmp_path / "x.tfrecord")
    for record, (name, values) in zip(read_features(tmp_path / "x.tfrecord"), files.items(), strict=True):
        assert record.video_id == name
        np.testing.assert_array_equal(record.embedding, values)


def test_floats_become_no_tfrecords(job: JobInfo, tmp_path: Path, rng: np.random.Generator) -> None:
    write_own(tmp_path / "own.parquet", replace(job, dtype="float32", regime="raw"), [3], rng)
    for out in ("x.tfrecord", "x"):
        with pytest.raises(RecordError, match="embeddings are float32; TFRecords of features hold uint8"):
            convert_features(tmp_path / "own.parquet", tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["own.parquet"]


def test_what_exists_is_kept_unless_told(folder: Path, tmp_path: Path, records: list[FeatureRecord]) -> None:
    out = tmp_path / "x.arrow"
    out.write_text("mine")
    with pytest.raises(OutputError, match=r"x\.arrow: exists already; expected a new file"):
        convert_features(folder, out)
    assert out.read_text() == "mine"
    convert_features(folder, out, overwrite=True)
    assert_same(FeatureDataset(out), records)


@pytest.mark.parametrize("name", ["x.arrow", "x.tfrecord", "shards_again"])
def test_the_folder_of_the_output_must_exist(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="does not exist; expected an existing"):
        convert_features(folder, tmp_path / "none" / name)
    assert not (tmp_path / "none").exists()


def test_a_table_is_the_only_input(folder: Path, tmp_path: Path) -> None:
    for name in ("x.parquet", "y.parquet"):
        convert_features(folder / "b.tfrecord", tmp_path / name)
    table = tmp_path / "x.parquet"
    for several in ([table, tmp_path / "y.parquet"], [folder, table], tmp_path / "*.parquet"):
        with pytest.raises(OptionError, match=r"x\.parquet: a Parquet or Arrow file among \d inputs; expected one"):
            convert_features(several, tmp_path / "out.arrow")
    assert not (tmp_path / "out.arrow").exists()
    convert_features([table], tmp_path / "out.arrow")
    convert_features(tmp_path / "x.*", tmp_path / "again.arrow")
    assert (tmp_path / "again.arrow").read_bytes() == (tmp_path / "out.arrow").read_bytes()


def test_folders_are_never_replaced(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"shards: exists already; expected the name of a new folder"):
        convert_features(folder / "b.tfrecord", folder, overwrite=True)
    (tmp_path / "empty").mkdir()
    convert_features(folder, tmp_path / "empty")
    assert len(list(read_features(tmp_path / "empty"))) == 60


@pytest.mark.parametrize("source", ["b.tfrecord", "x.arrow"])
def test_an_input_is_never_the_output(folder: Path, source: str) -> None:
    convert_features(folder / "b.tfrecord", folder / "x.arrow")
    with pytest.raises(OutputError, match="one of the inputs; expected another name"):
        convert_features(folder / source, folder / source, overwrite=True)


@pytest.mark.parametrize("out", ["x.arrow", "x.parquet", "x.tfrecord", "x"])
def test_an_interruption_leaves_nothing(folder: Path, tmp_path: Path, out: str) -> None:
    before = sorted(tmp_path.rglob("*"))

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_features(folder, tmp_path / out, progress=interrupt)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_format_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"x\.csv: the extension '\.csv' names no format; expected \.parquet"):
        convert_features(folder, tmp_path / "x.csv")


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="gone: does not exist"):
        convert_features(tmp_path / "gone", tmp_path / "x.arrow")


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_a_damaged_table_is_named(folder: Path, tmp_path: Path, suffix: str) -> None:
    convert_features(folder, tmp_path / f"x.{suffix}")
    whole = (tmp_path / f"x.{suffix}").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:20] + bytes(len(whole) - 40) + whole[-20:]):
        (tmp_path / f"x.{suffix}").write_bytes(damaged)
        with pytest.raises(RecordError, match=rf"x\.{suffix}: cannot be read"):
            convert_features(tmp_path / f"x.{suffix}", tmp_path / "y.arrow")
        assert not (tmp_path / "y.arrow").exists()


def test_a_bit_that_flipped_in_parquet_is_found(folder: Path, tmp_path: Path) -> None:
    convert_features(folder, tmp_path / "x.parquet")
    data = bytearray((tmp_path / "x.parquet").read_bytes())
    data[len(data) // 2] ^= 1  # in the embeddings, which are most of it
    (tmp_path / "x.parquet").write_bytes(data)
    with pytest.raises(RecordError, match=r"x\.parquet: cannot be read \(.*[Cc][Rr][Cc]"):
        convert_features(tmp_path / "x.parquet", tmp_path / "y.arrow")


def test_parquet_of_others_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(RecordError, match=r"x\.parquet: does not say what its embeddings are"):
        convert_features(tmp_path / "x.parquet", tmp_path / "y.arrow")


def test_a_real_shard_survives_every_way(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "audioset/features/rm.tfrecord"
    records = list(read_features(source))
    convert_features(source, tmp_path / "x.parquet")
    convert_features(tmp_path / "x.parquet", tmp_path / "x.arrow")
    convert_features(tmp_path / "x.arrow", tmp_path / "x")
    assert_same(read_features(tmp_path / "x"), records)
    assert_same(FeatureDataset(tmp_path / "x.parquet"), records)
    damaged = bytearray(source.read_bytes())
    damaged[100_000] ^= 1
    (tmp_path / "rm.tfrecord").write_bytes(damaged)
    done = convert_features(tmp_path / "rm.tfrecord", tmp_path / "y.arrow")
    assert (done.num_records, [damage.offset for damage in done.damages]) == (327, [99_080])

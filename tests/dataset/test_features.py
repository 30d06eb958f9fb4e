"""Released features: what is read is what was written, in records and in batches; and what the published bytes say."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pytest

from audioset.dataset.features import (
    FEATURES_SCHEMA,
    Damage,
    FeatureRecord,
    read_feature_batches,
    read_features,
    write_features,
)
from audioset.errors import OptionError, OutputError, RecordError
from audioset.postprocess import Pca, dequantize
from audioset.records.tfrecord import read_tfrecord
from audioset.weights import load_pca

from ._released import assert_same, random_records, released, shard, write_shard

T = TypeVar("T")


@pytest.fixture
def records(rng: np.random.Generator) -> list[FeatureRecord]:
    return random_records(rng, 300)


@pytest.fixture
def folder(tmp_path: Path, records: list[FeatureRecord]) -> Path:
    """Three shards, one of them empty."""
    write_shard(tmp_path / "bal_train" / "-a.tfrecord", records[:100])
    write_shard(tmp_path / "bal_train" / "Ab.tfrecord", [])
    write_shard(tmp_path / "eval" / "aB.tfrecord", records[100:])
    return tmp_path


@pytest.fixture
def real(data_dir: Path) -> Path:
    return data_dir / "audioset/features/rm.tfrecord"


def test_records_are_as_stored(folder: Path, records: list[FeatureRecord]) -> None:
    assert_same(read_features(folder), records)


def test_an_archive_gives_the_same_as_its_folder(folder: Path, records: list[FeatureRecord]) -> None:
    with tarfile.open(folder / "features.tar.gz", "w:gz") as archive:
        archive.add(folder / "bal_train", "audioset_v1_embeddings/bal_train")
        archive.add(folder / "eval", "audioset_v1_embeddings/eval")
    found = {record.video_id: record for record in read_features(folder / "features.tar.gz")}
    assert_same((found[record.video_id] for record in records), records)
    assert len(found) == len(records)


def test_a_records_arrays_are_its_own(folder: Path) -> None:
    first, second, *_ = read_features(folder)
    before = second.embedding.copy()
    first.embedding[:] = 0
    first.labels[:] = -1
    np.testing.assert_array_equal(second.embedding, before)
    assert first.embedding.base is None or first.embedding.base.nbytes <= first.embedding.nbytes


@pytest.mark.parametrize("batch_size", [1, 7, 99, 100, 101, 300, 8192])
def test_batches_have_the_rows_asked_for_and_together_every_record(
    folder: Path, records: list[FeatureRecord], batch_size: int
) -> None:
    batches = list(read_feature_batches(folder, batch_size=batch_size))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    assert sum(map(len, batches)) == 300
    assert all(batch.schema.equals(FEATURES_SCHEMA, check_metadata=True) for batch in batches)
    table = pa.Table.from_batches(batches)
    table.validate(full=True)
    assert table["video_id"].to_pylist() == [record.video_id for record in records]
    assert table["labels"].to_pylist() == [record.labels.tolist() for record in records]
    assert table["num_frames"].to_pylist() == [len(record.embedding) for record in records]
    assert table["embedding"].to_pylist() == [record.embedding.tobytes() for record in records]


def test_long_clips_come_in_smaller_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audioset.dataset.features._MAX_BATCH_BYTES", 1 << 16)
    monkeypatch.setattr("audioset.dataset.features.BLOCK_BYTES", 1)
    sizes = [len(batch) for batch in read_feature_batches(folder, batch_size=150)]
    assert sum(sizes) == 300
    assert sizes == [100, 150, 50]


def test_nothing_read_is_no_batch(tmp_path: Path) -> None:
    (tmp_path / "x.tfrecord").touch()
    assert list(read_feature_batches(tmp_path / "x.tfrecord")) == []
    assert list(read_features(tmp_path)) == []


def test_a_batch_of_no_rows_is_refused_at_the_call(folder: Path) -> None:
    with pytest.raises(OptionError, match="batch_size: 0; expected 1 or more"):
        read_feature_batches(folder, batch_size=0)


def test_what_is_not_there_is_said_at_the_call(tmp_path: Path) -> None:
    for read in (read_features, read_feature_batches):
        with pytest.raises(RecordError, match=r"gone\.tar\.gz: does not exist"):
            read(tmp_path / "gone.tar.gz")


def damaged(folder: Path, records: list[FeatureRecord]) -> None:
    """The tenth record of the first shard has a wrong byte, the last shard ends within its last record."""
    first = bytearray((folder / "bal_train" / "-a.tfrecord").read_bytes())
    first[len(shard(records[:9])) + 200] ^= 16
    (folder / "bal_train" / "-a.tfrecord").write_bytes(first)
    last = folder / "eval" / "aB.tfrecord"
    last.write_bytes(last.read_bytes()[:-1])


def until_error(items: Iterable[T], message: str) -> list[T]:
    """What comes before the error."""
    found: list[T] = []
    with pytest.raises(RecordError, match=message):  # noqa: PT012 - what comes first is wanted
        for item in items:
            found.append(item)  # noqa: PERF402 - likewise
    return found


def test_damage_is_raised_after_the_records_before_it(folder: Path, records: list[FeatureRecord]) -> None:
    damaged(folder, records)
    at = len(shard(records[:9]))
    message = rf"-a\.tfrecord: the checksum of the data of the record at byte {at:,} differs"
    assert_same(until_error(read_features(folder), message), records[:9])
    assert [len(batch) for batch in until_error(read_feature_batches(folder), message)] == [9]


def test_damage_is_reported_and_the_rest_goes_on(folder: Path, records: list[FeatureRecord]) -> None:
    damaged(folder, records)
    damages: list[Damage] = []
    assert_same(read_features(folder, on_damage=damages.append), records[:9] + records[10:-1])
    assert [(Path(damage.file).name, damage.offset) for damage in damages] == [
        ("-a.tfrecord", len(shard(records[:9]))),
        ("aB.tfrecord", len(shard(records[100:-1]))),
    ]
    batches = read_feature_batches(folder, batch_size=50, on_damage=lambda damage: None)
    assert [len(batch) for batch in batches] == [50] * 5 + [48]


def test_a_record_of_another_kind_is_named_and_the_rest_goes_on(
    folder: Path, records: list[FeatureRecord], tmp_path: Path
) -> None:
    from audioset.records.tfrecord import audio_record, write_record

    wide = audio_record("wide", 0, 1, np.zeros((1, 64), np.uint8))
    with (tmp_path / "mixed.tfrecord").open("wb") as stream:
        for data in (released(records[0]), wide, released(records[1])):
            write_record(stream, data)
    at = len(shard(records[:1]))
    message = rf"mixed\.tfrecord: the record at byte {at:,}: wide: frame 0 is 64 bytes; expected one string of 128"
    assert_same(until_error(read_features(tmp_path / "mixed.tfrecord"), message), records[:1])
    damages: list[Damage] = []
    assert_same(read_features(tmp_path / "mixed.tfrecord", on_damage=damages.append), records[:2])
    assert [damage.offset for damage in damages] == [at]


def test_written_records_read_back_equal(tmp_path: Path, records: list[FeatureRecord]) -> None:
    extremes = [
        FeatureRecord("", 0.0, 0.0, np.empty(0, np.int32), np.empty((0, 128), np.uint8)),
        FeatureRecord(
            "–é–" * 60, 0.5, 2.0**24, np.array([2**31 - 1, -1, 0], np.int32), np.full((300, 128), 255, np.uint8)
        ),
    ]
    assert write_features(tmp_path / "x.tfrecord", records + extremes) == 302
    assert_same(read_features(tmp_path / "x.tfrecord"), records + extremes)


def test_labels_of_any_integer_type_may_be_written(tmp_path: Path, records: list[FeatureRecord]) -> None:
    wider = [replace(record, labels=record.labels.astype(np.int64)) for record in records]
    write_features(tmp_path / "x.tfrecord", wider)
    assert_same(read_features(tmp_path / "x.tfrecord"), records)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": np.zeros((10, 128), np.float32)}, r"embedding is float32 of shape \(10, 128\); expected uint8"),
        (
            {"embedding": np.zeros(128, np.uint8)},
            r"embedding is uint8 of shape \(128,\); expected uint8 of shape \(fra",
        ),
        ({"embedding": np.zeros((10, 64), np.uint8)}, r"of shape \(10, 64\)"),
        ({"labels": np.array([2**31])}, r"labels are int64 of shape \(1,\); expected 32-bit integers"),
        ({"labels": np.array([0.5])}, "labels are float64"),
        ({"video_id": "\udce9"}, "video_id is not Unicode text"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_nothing(
    tmp_path: Path, records: list[FeatureRecord], change: dict[str, object], message: str
) -> None:
    with pytest.raises(RecordError, match=message):
        write_features(tmp_path / "x.tfrecord", [records[0], replace(records[1], **change)])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, records: list[FeatureRecord]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_features(tmp_path / "file" / "x.tfrecord", records)


def test_components_and_raw_values_are_those_of_postprocess(records: list[FeatureRecord]) -> None:
    pca = Pca(np.diag(np.arange(1.0, 129.0)), np.linspace(-1, 1, 128))
    record = records[0]
    for half_bin in (False, True):
        components = record.components(half_bin=half_bin)
        np.testing.assert_array_equal(components, dequantize(record.embedding, half_bin=half_bin), strict=True)
        raw = record.raw(pca, half_bin=half_bin)
        assert (raw.dtype, raw.shape) == (np.float32, record.embedding.shape)
        np.testing.assert_array_equal(raw, pca.invert(components))


def test_a_real_shard_has_328_clips_with_a_frame_a_second(real: Path) -> None:
    records = list(read_features(real))
    assert len(records) == 328
    assert {record.video_id[:2] for record in records} == {"rm"}
    lengths = [len(record.embedding) for record in records]
    assert lengths == [record.end_s - record.start_s for record in records]
    assert {length: lengths.count(length) for length in set(lengths)} == {10: 325, 7: 1, 5: 2}


def test_a_real_shard_has_two_labels_a_clip(real: Path) -> None:
    labels = [record.labels for record in read_features(real)]
    assert np.mean([len(each) for each in labels]) == pytest.approx(2.088, abs=5e-4)
    assert all(np.array_equal(each, np.unique(each)) for each in labels)
    assert np.concatenate(labels).max() < 527


def test_real_features_are_of_the_layer_before_activation(real: Path, data_dir: Path) -> None:
    pca = Pca(*load_pca(data_dir / "vggish" / "vggish_pca_params.npz"))
    records = list(read_features(real))
    frames = np.concatenate([record.embedding for record in records])
    raw = replace(records[0], embedding=frames).raw(pca)  # all at once: each call solves for the whole matrix
    assert raw.shape == (3267, 128)
    assert (raw < 0).mean() == pytest.approx(0.630, abs=5e-4)
    assert raw[:, 65].mean() == pytest.approx(-0.248, abs=5e-4)
    assert pca.means[65] == pytest.approx(-0.251, abs=5e-4)


def test_real_bytes_are_clipped_at_both_ends_and_byte_127_is_seldom_255(real: Path) -> None:
    frames = np.concatenate([record.embedding for record in read_features(real)])
    assert (frames == 0).mean() == pytest.approx(0.078, abs=5e-4)
    assert (frames == 255).mean() == pytest.approx(0.074, abs=5e-4)
    assert (frames[:, 127] == 255).mean() == pytest.approx(0.143, abs=5e-4)


def test_a_real_shard_reads_back_from_what_is_written(real: Path, tmp_path: Path) -> None:
    records = list(read_features(real))
    write_features(tmp_path / "again.tfrecord", records)
    assert_same(read_features(tmp_path / "again.tfrecord"), records)
    # Only the order of the entries differs.
    assert (tmp_path / "again.tfrecord").stat().st_size == real.stat().st_size
    for one, other in zip(read_tfrecord(real), read_tfrecord(tmp_path / "again.tfrecord"), strict=True):
        assert sorted(one) == sorted(other)


def test_a_real_shard_is_the_same_compressed(real: Path, tmp_path: Path) -> None:
    (tmp_path / "rm.tfrecord.gz").write_bytes(gzip.compress(real.read_bytes(), 1))
    [one], [other] = read_feature_batches(real), read_feature_batches(tmp_path)
    assert one.equals(other)


READ_WITH_TENSORFLOW = """
import sys, numpy as np, tensorflow as tf
context = {"video_id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64),
           "start_time_seconds": tf.io.FixedLenFeature([], tf.float32),
           "end_time_seconds": tf.io.FixedLenFeature([], tf.float32)}
lists = {"audio_embedding": tf.io.FixedLenSequenceFeature([], tf.string)}
found = {}
for index, record in enumerate(tf.data.TFRecordDataset(sys.argv[1])):
    clip, sequences = tf.io.parse_single_sequence_example(record, context, lists)
    found[f"{index}/id"] = clip["video_id"].numpy().decode()
    found[f"{index}/span"] = [clip["start_time_seconds"].numpy(), clip["end_time_seconds"].numpy()]
    found[f"{index}/labels"] = clip["labels"].values.numpy()
    found[f"{index}/frames"] = tf.reshape(tf.io.decode_raw(sequences["audio_embedding"], tf.uint8), (-1, 128)).numpy()
    example = tf.train.SequenceExample.FromString(record.numpy())
    assert example.context.feature["video_id"].bytes_list.value[0].decode() == found[f"{index}/id"]
np.savez(sys.argv[2], **found)
"""


@pytest.mark.slow
def test_tensorflow_parses_what_is_written(records: list[FeatureRecord], tmp_path: Path) -> None:
    interpreter = os.environ.get("AUDIOSET_TEST_TENSORFLOW", sys.executable)
    if subprocess.run([interpreter, "-c", "import tensorflow"], capture_output=True).returncode:
        pytest.skip("no TensorFlow; set AUDIOSET_TEST_TENSORFLOW to a Python interpreter that has it")
    records.append(FeatureRecord("é", 0.5, 1.5, np.empty(0, np.int32), np.empty((0, 128), np.uint8)))
    write_features(tmp_path / "x.tfrecord", records)
    command = [interpreter, "-c", READ_WITH_TENSORFLOW, tmp_path / "x.tfrecord", tmp_path / "found.npz"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    with np.load(tmp_path / "found.npz", allow_pickle=False) as found:
        parsed = [
            FeatureRecord(
                str(found[f"{index}/id"]),
                *found[f"{index}/span"].tolist(),
                found[f"{index}/labels"].astype(np.int32),
                found[f"{index}/frames"],
            )
            for index in range(len(records))
        ]
    assert_same(parsed, records)

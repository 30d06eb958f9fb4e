"""Mapped features: whatever is asked for, in whatever order, is what a plain loop over the records gives."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset.dataset import convert, feature_dataset
from audioset.dataset._layout import batch_of
from audioset.dataset.convert import convert_features
from audioset.dataset.feature_dataset import FeatureBatch, FeatureDataset, Labels
from audioset.dataset.features import FEATURES_SCHEMA, FeatureRecord, read_features
from audioset.errors import OptionError, OutputError, RecordError
from audioset.records import JobInfo, JobWriter

from ._released import assert_same, random_records, write_shard

NUM_CLASSES = 527


def write_arrow(path: Path, records: list[FeatureRecord], batch_rows: int = 7, **options: Any) -> Path:
    with pa.ipc.new_file(path, FEATURES_SCHEMA, **options) as writer:
        for at in range(0, len(records), batch_rows):
            writer.write_batch(batch_of(records[at : at + batch_rows]))
    return path


def plain(records: list[FeatureRecord], indices: list[int], num_frames: int | None = None) -> FeatureBatch:
    """The batch, slowly."""
    chosen = [records[index] for index in indices]
    longest = max((len(r.embedding) for r in chosen), default=0) if num_frames is None else num_frames
    embeddings = np.zeros((len(chosen), longest, 128), np.uint8)
    for row, record in enumerate(chosen):
        embeddings[row, : len(record.embedding)] = record.embedding[:longest]
    offsets = np.cumsum([0, *(len(r.labels) for r in chosen)])
    return FeatureBatch(
        embeddings,
        np.array([min(len(r.embedding), longest) for r in chosen], np.int32),
        Labels(offsets, np.concatenate([np.empty(0, np.int32), *(r.labels for r in chosen)])),
        np.array([r.video_id for r in chosen], object),
        np.array([r.start_s for r in chosen], np.float32),
    )


def assert_equal(found: FeatureBatch, expected: FeatureBatch) -> None:
    for key in ("embeddings", "num_frames", "video_ids", "start_s"):
        np.testing.assert_array_equal(getattr(found, key), getattr(expected, key), strict=True)
    np.testing.assert_array_equal(found.labels.offsets, expected.labels.offsets, strict=True)
    np.testing.assert_array_equal(found.labels.indices, expected.labels.indices, strict=True)


def odd_records(rng: np.random.Generator) -> list[FeatureRecord]:
    """Clips of mixed lengths, of no frames, of no labels and with ids of other lengths."""
    records = random_records(rng, 40)
    nothing = np.empty((0, 128), np.uint8)
    records[3] = replace(records[3], embedding=nothing)
    records[6] = replace(records[6], embedding=nothing, labels=np.empty(0, np.int32), video_id="")
    records[7] = replace(records[7], embedding=rng.integers(0, 256, (300, 128), np.uint8), video_id="Ωмега/🎵.wav")
    records[-1] = replace(records[-1], embedding=records[-1].embedding[:1])
    return records


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    records = odd_records(np.random.default_rng(0))
    path = write_arrow(tmp_path_factory.mktemp("odd") / "x.arrow", records)
    return SimpleNamespace(records=records, path=path, dataset=FeatureDataset(path))


@pytest.mark.parametrize(
    "indices",
    [[], [0], [39], [-1], [3], [3, 6], [7, 39], [6, 6, 6], [0, 0, 1, 0], list(range(40)), [-40, 39, 0, -1], [38, 39]],
    ids=str,
)
@pytest.mark.parametrize("num_frames", [None, 0, 1, 10, 301])
def test_a_batch_is_what_a_loop_gives(odd: SimpleNamespace, indices: list[int], num_frames: int | None) -> None:
    found = odd.dataset.batch(indices, num_frames=num_frames)
    assert_equal(found, plain(odd.records, indices, num_frames))
    assert len(found) == len(indices)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    indices=st.lists(st.integers(-40, 39), max_size=50),
    num_frames=st.none() | st.integers(0, 320),
    slices=st.lists(st.slices(40), max_size=2),
)
def test_any_batch_of_any_view_is_what_a_loop_gives(
    odd: SimpleNamespace, indices: list[int], num_frames: int | None, slices: list[slice]
) -> None:
    dataset, records = odd.dataset, odd.records
    for each in slices:
        dataset, records = dataset[each], records[each]
    indices = [index for index in indices if -len(records) <= index < len(records)]
    assert len(dataset) == len(records)
    assert_equal(dataset.batch(np.array(indices, np.int32), num_frames=num_frames), plain(records, indices, num_frames))
    np.testing.assert_array_equal(dataset.video_ids, np.array([r.video_id for r in records], object))
    np.testing.assert_array_equal(dataset.num_frames, [len(r.embedding) for r in records])


def test_records_are_views_of_the_file(odd: SimpleNamespace) -> None:
    assert_same([odd.dataset[index] for index in range(-40, 0)], odd.records)
    assert_same(odd.dataset, odd.records)
    record = odd.dataset[0]
    assert not record.embedding.flags.owndata
    assert not record.embedding.flags.writeable
    assert not record.labels.flags.writeable
    assert record.embedding is not odd.dataset[0].embedding
    assert np.shares_memory(record.embedding, odd.dataset[0].embedding)


def test_a_record_outlives_its_data_set(odd: SimpleNamespace) -> None:
    record = FeatureDataset(odd.path)[7]
    gc.collect()
    np.testing.assert_array_equal(record.embedding, odd.records[7].embedding)


def test_a_batch_is_memory_of_its_own(odd: SimpleNamespace) -> None:
    batch = odd.dataset.batch([0, 1])
    batch.embeddings[:] = 1
    assert_equal(odd.dataset.batch([0, 1]), plain(odd.records, [0, 1]))


@pytest.mark.parametrize("index", [40, -41, 2**40])
def test_an_index_out_of_range_is_refused(odd: SimpleNamespace, index: int) -> None:
    with pytest.raises(OptionError, match=rf"index {index}: out of range; expected -40 to 39"):
        odd.dataset[index]
    with pytest.raises(OptionError, match=rf"index {index}: out of range"):
        odd.dataset.batch([0, index])


@pytest.mark.parametrize("indices", [[0.5], [True], [[0, 1]], ["a"], 3])
def test_what_is_no_list_of_indices_is_refused(odd: SimpleNamespace, indices: Any) -> None:
    with pytest.raises(OptionError, match="expected integers of shape"):
        odd.dataset.batch(indices)


def test_a_number_of_frames_below_zero_is_refused(odd: SimpleNamespace) -> None:
    with pytest.raises(OptionError, match="num_frames: -1; expected 0 or more"):
        odd.dataset.batch([0], num_frames=-1)


def test_a_selection_has_its_own_order(odd: SimpleNamespace) -> None:
    chosen = odd.dataset.select([5, 5, -1])
    assert_same(chosen, [odd.records[5], odd.records[5], odd.records[-1]])
    assert_same(chosen[::-1], [odd.records[-1], odd.records[5], odd.records[5]])
    assert_equal(chosen.batch([2, 0]), plain(odd.records, [39, 5]))
    assert len(chosen.labels) == 3


def test_targets_have_one_where_a_label_is(odd: SimpleNamespace) -> None:
    expected = np.zeros((40, NUM_CLASSES), np.float32)
    for row, record in enumerate(odd.records):
        expected[row, record.labels] = 1
    found = odd.dataset.batch(range(40)).targets(NUM_CLASSES)
    np.testing.assert_array_equal(found, expected, strict=True)
    np.testing.assert_array_equal(odd.dataset.labels.targets(NUM_CLASSES, bool), expected > 0, strict=True)
    np.testing.assert_array_equal(odd.dataset.labels.counts(NUM_CLASSES), expected.sum(0))


def test_too_few_classes_are_refused(odd: SimpleNamespace) -> None:
    with pytest.raises(OptionError, match=r"num_classes: 5, but there are labels of class \d+; expected more"):
        odd.dataset.labels.targets(5)
    with pytest.raises(OptionError, match="num_classes: 0"):
        odd.dataset.labels.counts(0)


def test_labels_of_nothing_are_none(odd: SimpleNamespace) -> None:
    nothing = odd.dataset[:0]
    assert nothing.labels.targets(NUM_CLASSES).shape == (0, NUM_CLASSES)
    assert nothing.labels.counts(3).tolist() == [0, 0, 0]
    assert nothing.batch([]).embeddings.shape == (0, 0, 128)


def test_a_file_without_rows_is_a_data_set_of_none(tmp_path: Path) -> None:
    dataset = FeatureDataset(write_arrow(tmp_path / "x.arrow", []))
    assert len(dataset) == 0
    assert not list(dataset)
    assert dataset.batch([]).embeddings.shape == (0, 0, 128)
    with pytest.raises(OptionError, match="index 0: out of range"):
        dataset[0]


def test_clips_of_one_frame_may_be_wider_than_the_file_is_long(tmp_path: Path, rng: np.random.Generator) -> None:
    records = random_records(rng, 2)
    found = FeatureDataset(write_arrow(tmp_path / "x.arrow", records)).batch([1, 0, 1], num_frames=1000)
    assert_equal(found, plain(records, [1, 0, 1], 1000))


def test_float32_is_given_as_such(tmp_path: Path, quantized_job: JobInfo, rng: np.random.Generator) -> None:
    info = replace(quantized_job, dtype="float32", regime="raw")
    values = [rng.standard_normal((n, 4), np.float32) for n in (3, 1, 5)]
    with JobWriter(tmp_path / "x.parquet", info, format="parquet") as writer:
        for index, rows in enumerate(values):
            start = np.arange(len(rows)) * 0.96
            writer.append(f"{index}.wav", start, start + 0.96, rows, last=True)
        writer.finish()
    dataset = FeatureDataset(tmp_path / "x.parquet")
    assert (dataset.info.dtype, dataset.info.embedding_dim, dataset.info.regime) == ("float32", 4, "raw")
    assert dataset.video_ids.tolist() == ["0.wav", "1.wav", "2.wav"]
    assert not dataset.labels.indices.size
    for index, rows in enumerate(values):
        np.testing.assert_array_equal(dataset[index].embedding, rows, strict=True)
    batch = dataset.batch([2, 0])
    expected = np.zeros((2, 5, 4), np.float32)
    expected[0], expected[1, :3] = values[2], values[0]
    np.testing.assert_array_equal(batch.embeddings, expected, strict=True)


@pytest.fixture
def quantized_job() -> JobInfo:
    return JobInfo("vggish", "x", "ab" * 32, 4, "uint8", "uint8", 0.96, "short", "none")


def test_a_mask_is_refused_with_what_to_do(odd: SimpleNamespace) -> None:
    mask = odd.dataset.num_frames > 3
    with pytest.raises(OptionError, match=r"a mask of shape \(40,\); .* Use numpy\.flatnonzero\(mask\)"):
        odd.dataset.select(mask)
    assert len(odd.dataset.select(np.flatnonzero(mask))) == mask.sum() > 0


def test_a_pickle_is_the_name_and_the_choice(odd: SimpleNamespace) -> None:
    view = odd.dataset[30:2:-3]
    packed = pickle.dumps(view)
    assert len(packed) < 1000
    again = pickle.loads(packed)  # noqa: S301 - made above
    assert_same(again, odd.records[30:2:-3])


def test_a_pickle_of_a_file_that_has_changed_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    records = random_records(rng, 3)
    path = write_arrow(tmp_path / "x.arrow", records)
    packed = pickle.dumps(FeatureDataset(path))
    write_arrow(path, records[:2])
    with pytest.raises(RecordError, match=r"x\.arrow: has changed since it was opened elsewhere"):
        pickle.loads(packed)  # noqa: S301


def test_pytorch_loads_batches_in_this_process(odd: SimpleNamespace) -> None:
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(odd.dataset, batch_size=16, collate_fn=data.default_convert)
    for number, batch in enumerate(loader):
        assert_equal(batch, plain(odd.records, list(range(40))[number * 16 : number * 16 + 16]))


@pytest.mark.slow
def test_pytorch_loads_batches_in_spawned_workers(odd: SimpleNamespace) -> None:
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(
        odd.dataset, 16, collate_fn=data.default_convert, num_workers=2, multiprocessing_context="spawn"
    )
    batches = list(loader)
    assert [len(batch) for batch in batches] == [16, 16, 8]
    for number, batch in enumerate(batches):
        assert_equal(batch, plain(odd.records, list(range(40))[number * 16 : number * 16 + 16]))


MEASURE = """
import re, sys
import numpy as np
from audioset.dataset.feature_dataset import FeatureDataset
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
FeatureDataset(sys.argv[2]).batch([0])
before = anonymous()
dataset = FeatureDataset(sys.argv[1])
total = 0
for at in np.random.default_rng(0).permutation(len(dataset)).reshape(-1, 50):
    total += int(dataset.batch(at).embeddings[:, 0, 0].sum())
print(anonymous() - before, dataset._table.bytes.size / 2**20)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux says which memory is a process's own")
def test_memory_does_not_grow_with_the_file(tmp_path: Path, rng: np.random.Generator) -> None:
    records = random_records(rng, 500)
    small = write_arrow(tmp_path / "small.arrow", records, batch_rows=500)
    batch = batch_of(records)
    with pa.ipc.new_file(tmp_path / "large.arrow", FEATURES_SCHEMA) as writer:
        for _ in range(100):
            writer.write_batch(batch)
    command = [sys.executable, "-c", MEASURE, tmp_path / "large.arrow", small]
    grown_mib, file_mib = map(float, subprocess.check_output(command, text=True, timeout=60).split())
    assert file_mib > 50
    assert grown_mib < 4


def test_a_parquet_file_is_converted_once(
    tmp_path: Path, isolated_cache: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = random_records(rng, 30)
    source = tmp_path / "x.parquet"
    convert_features(write_shard(tmp_path / "x.tfrecord", records), source)
    told: list[tuple[int, int | None]] = []
    assert_same(FeatureDataset(source, progress=lambda *now: told.append(now)), records)
    assert told[-1] == (source.stat().st_size,) * 2
    made = [path for path in (isolated_cache / "features").iterdir() if path.suffix == ".arrow"]
    assert len(made) == 1
    with monkeypatch.context() as patch:
        patch.setattr(feature_dataset, "convert_features", lambda *_, **__: pytest.fail("converted again"))
        assert_same(FeatureDataset(source), records)

    convert_features(write_shard(tmp_path / "x.tfrecord", records[:10]), source, overwrite=True)
    assert_same(FeatureDataset(source), records[:10])
    assert [path for path in (isolated_cache / "features").iterdir() if path.suffix == ".arrow"] != made
    assert len(list((isolated_cache / "features").glob("*.arrow"))) == 1


def test_a_full_cache_is_said_before(
    tmp_path: Path, isolated_cache: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_features(write_shard(tmp_path / "x.tfrecord", random_records(rng, 3)), tmp_path / "x.parquet")
    monkeypatch.setattr(feature_dataset.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(OutputError, match=r"features: 1 MB free; expected 67 MB for what is in .*x\.parquet"):
        FeatureDataset(tmp_path / "x.parquet")
    assert not list((isolated_cache / "features").glob("*.arrow"))


def test_clips_of_one_id_are_of_one_group(tmp_path: Path, rng: np.random.Generator) -> None:
    one, two, three = random_records(rng, 3)
    path = write_shard(tmp_path / "x.tfrecord", [one, two, one, three, two])
    convert_features(path, tmp_path / "x.arrow")
    dataset = FeatureDataset(tmp_path / "x.arrow")
    assert dataset.id_groups().tolist() == [0, 1, 0, 2, 1]
    assert dataset.select([3, 1, 4]).id_groups().tolist() == [0, 1, 1]
    assert dataset[:0].id_groups().tolist() == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"gone\.arrow: cannot be read \(No such file"):
        FeatureDataset(tmp_path / "gone.arrow")


def test_tfrecords_are_to_be_converted(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write_shard(tmp_path / "x.tfrecord", random_records(rng, 1))
    with pytest.raises(
        RecordError, match=rf"neither Arrow nor Parquet .* Run `audioset dataset convert {path} -o feat"
    ):
        FeatureDataset(path)


def test_a_file_cut_short_is_refused(odd: SimpleNamespace, tmp_path: Path) -> None:
    whole = odd.path.read_bytes()
    for size in (8, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x.arrow").write_bytes(whole[:size])
        with pytest.raises(RecordError, match=r"x\.arrow: not as it was written"):
            FeatureDataset(tmp_path / "x.arrow")


def test_a_damaged_file_gives_an_error_and_no_crash(odd: SimpleNamespace, tmp_path: Path) -> None:
    whole = odd.path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 100):
            damaged[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "x.arrow").write_bytes(damaged)
        try:
            FeatureDataset(tmp_path / "x.arrow").batch(range(40))
        except RecordError:
            refused += 1
    assert refused > 25


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.drop_columns("labels"), "column labels is missing; expected list<item: int32>"),
        (
            lambda t: t.set_column(4, "num_frames", t["num_frames"].cast("int64")),
            "num_frames is int64; expected int32",
        ),
        (lambda t: t.replace_schema_metadata(None), r"does not say what its embeddings are .* Convert the records"),
        (
            lambda t: t.set_column(4, FEATURES_SCHEMA.field(4), pa.array([9] * len(t), pa.int32())),
            "not as long as",
        ),
        (lambda t: t.set_column(1, "start_s", pa.array([None] * len(t), pa.float32())), "column start_s has nulls"),
    ],
)
def test_another_table_is_refused(odd: SimpleNamespace, tmp_path: Path, change: Any, reason: str) -> None:
    table = change(pa.ipc.open_file(odd.path).read_all())
    with pa.ipc.new_file(tmp_path / "x.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(RecordError, match=rf"x\.arrow: .*{reason}"):
        FeatureDataset(tmp_path / "x.arrow")


def test_compressed_arrow_is_refused(odd: SimpleNamespace, tmp_path: Path) -> None:
    path = write_arrow(tmp_path / "x.arrow", odd.records, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    with pytest.raises(RecordError, match="is compressed or not aligned"):
        FeatureDataset(path)


def test_a_real_shard_is_given_as_read(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "audioset/features/rm.tfrecord"
    convert_features(source, tmp_path / "x.arrow")
    dataset = FeatureDataset(tmp_path / "x.arrow")
    records = list(read_features(source))
    assert len(dataset) == 328
    assert_same(dataset, records)
    order: npt.NDArray[np.int64] = np.random.default_rng(0).permutation(328)
    assert_equal(dataset.batch(order), plain(records, order.tolist()))
    assert dataset.labels.counts(NUM_CLASSES).sum() == sum(len(record.labels) for record in records)


def test_progress_and_defaults_are_those_of_conversion() -> None:
    assert feature_dataset.Progress is convert.Progress
